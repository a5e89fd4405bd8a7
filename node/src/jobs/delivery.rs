//! What of an answer was generated, sent and paid, and how much more may go out.

use aitbc_protocol::{
    Digest,
    job::{Chunk, Input, Logprobs, MAX_EMBEDDING_INPUTS, WINDOW_TOKENS},
    quote::Quote,
    receipt::OutputDigest,
};
use sha2::{Digest as _, Sha256};
use std::collections::VecDeque;

/// Text after which a chunk takes no more: pieces of an upstream server can be long, and a frame has its limit.
const CHUNK_TEXT_BYTES: usize = 64 * 1024;
/// Numbers after which a chunk takes no more vectors: half a frame, at five bytes a number.
const CHUNK_NUMBERS: usize = 100_000;

/// What a receipt binds the answer by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binding {
    /// Token ids.
    Tokens,
    /// Text, where the engine does not tell ids.
    Text,
    /// Vectors.
    Vectors,
}

impl Binding {
    /// How the answer to `input` is bound on an engine that is `declared` or not.
    pub(super) fn of(input: &Input, declared: bool) -> Self {
        match input {
            Input::Embed(_) => Self::Vectors,
            Input::Chat(_) | Input::Text(_) if declared => Self::Text,
            Input::Chat(_) | Input::Text(_) => Self::Tokens,
        }
    }
}

/// One generated token.
#[derive(Debug)]
pub(super) struct Token {
    pub(super) id: Option<u32>,
    pub(super) text: String,
    pub(super) logprobs: Option<Logprobs>,
}

/// The state of one answer on its way. Whatever the engine does, no more than a window of unpaid tokens and no more
/// than the quote allows leave it.
#[derive(Debug)]
pub(super) struct Delivery {
    window: u32,
    /// Tokens that can be billed.
    limit: u32,
    /// Tokens that cheques have paid.
    paid: u32,
    /// Tokens that the engine was allowed.
    granted: u32,
    /// Tokens taken from the engine, those waiting included.
    taken: u32,
    /// Tokens handed to the stream.
    delivered: u32,
    waiting: VecDeque<Chunk>,
    /// A token the engine made beyond its allowance.
    held: Option<Token>,
    binding: Binding,
    digest: Sha256,
}

impl Delivery {
    /// Nothing generated yet; the engine is allowed one window.
    pub(super) fn new(quote: &Quote, binding: Binding) -> Self {
        let window = quote.window.clamp(1, WINDOW_TOKENS);
        Self {
            window,
            limit: quote.max_completion_tokens,
            paid: 0,
            granted: window,
            taken: 0,
            delivered: 0,
            waiting: VecDeque::new(),
            held: None,
            binding,
            digest: Sha256::new(),
        }
    }

    /// Tokens handed to the stream.
    pub(super) fn delivered(&self) -> u32 {
        self.delivered
    }

    /// Tokens paid.
    pub(super) fn paid(&self) -> u32 {
        self.paid
    }

    /// True while another event of the engine can be taken.
    pub(super) fn has_room(&self) -> bool {
        self.held.is_none()
    }

    /// True once all that was generated has been handed over.
    pub(super) fn is_drained(&self) -> bool {
        self.waiting.is_empty()
    }

    /// True while nothing more may go out before a cheque comes.
    pub(super) fn is_paused(&self) -> bool {
        self.taken < self.limit && self.taken >= self.paid.saturating_add(self.window)
    }

    /// Takes a token of the engine. False where the quote has no more tokens: the answer ends before it.
    pub(super) fn token(&mut self, token: Token) -> bool {
        if self.taken >= self.limit {
            return false;
        }
        if self.is_paused() {
            self.held = Some(token);
        } else {
            self.enqueue(token);
        }
        true
    }

    fn enqueue(&mut self, token: Token) {
        let first = self.taken;
        self.taken += 1;
        let chunk = self.open_chunk(first);
        chunk.count += 1;
        chunk.tokens.extend(token.id);
        chunk.text.push_str(&token.text);
        chunk.logprobs.extend(token.logprobs);
    }

    /// Takes text that belongs to no token of its own: what was held back for a stop sequence that did not come. It
    /// goes out by itself: a client that has to continue elsewhere keeps the text of chunks with tokens only, for the
    /// next engine says this part again.
    pub(super) fn text(&mut self, text: &str) {
        if !text.is_empty() {
            self.waiting.push_back(Chunk { text: text.to_owned(), ..empty_chunk(self.taken) });
        }
    }

    /// Takes the vectors of an embedding job.
    pub(super) fn vectors(&mut self, vectors: Vec<Vec<f32>>) {
        let mut numbers = CHUNK_NUMBERS;
        for vector in vectors.into_iter().take(MAX_EMBEDDING_INPUTS) {
            if numbers.saturating_add(vector.len()) > CHUNK_NUMBERS || self.waiting.is_empty() {
                numbers = 0;
                self.waiting.push_back(empty_chunk(self.taken));
            }
            numbers += vector.len();
            if let Some(chunk) = self.waiting.back_mut() {
                chunk.embeddings.push(vector);
            }
        }
    }

    /// The newest waiting chunk if it takes another token, or a new one.
    fn open_chunk(&mut self, first: u32) -> &mut Chunk {
        let open = |chunk: &Chunk| {
            chunk.count < WINDOW_TOKENS && chunk.text.len() < CHUNK_TEXT_BYTES && chunk.embeddings.is_empty()
        };
        if !self.waiting.back().is_some_and(open) {
            self.waiting.push_back(empty_chunk(first));
        }
        self.waiting.back_mut().expect("a chunk was pushed if there was none")
    }

    /// Hands over the next chunk: everything that has come since the last one, at most 64 tokens.
    pub(super) fn next_chunk(&mut self) -> Option<Chunk> {
        let chunk = self.waiting.pop_front()?;
        self.delivered += chunk.count;
        match self.binding {
            Binding::Tokens => chunk.tokens.iter().for_each(|token| self.digest.update(token.to_le_bytes())),
            Binding::Text => self.digest.update(&chunk.text),
            Binding::Vectors => {
                chunk.embeddings.iter().flatten().for_each(|number| self.digest.update(number.to_le_bytes()));
            }
        }
        Some(chunk)
    }

    /// Drops what was not handed over: the client has left.
    pub(super) fn discard(&mut self) {
        self.waiting.clear();
        self.held = None;
    }

    /// The first `tokens` tokens are paid. Returns how many more the engine may make.
    pub(super) fn pay(&mut self, tokens: u32) -> u32 {
        self.paid = self.paid.max(tokens);
        if !self.is_paused()
            && let Some(token) = self.held.take()
        {
            self.enqueue(token);
        }
        let allowed = self.paid.saturating_add(self.window).min(self.limit.max(self.granted));
        let more = allowed.saturating_sub(self.granted);
        self.granted += more;
        more
    }

    /// Digest of everything handed over.
    pub(super) fn output(&self) -> OutputDigest {
        let digest = Digest(self.digest.clone().finalize().into());
        match self.binding {
            Binding::Tokens => OutputDigest::Tokens(digest),
            Binding::Text => OutputDigest::Text(digest),
            Binding::Vectors => OutputDigest::Vectors(digest),
        }
    }
}

fn empty_chunk(first: u32) -> Chunk {
    Chunk { first, count: 0, tokens: vec![], text: String::new(), logprobs: vec![], embeddings: vec![] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::tests::quote;
    use proptest::prelude::*;

    fn delivery(binding: Binding) -> Delivery {
        Delivery::new(&quote(), binding)
    }

    fn token(id: u32) -> Token {
        Token { id: Some(id), text: format!("<{id}>"), logprobs: None }
    }

    #[test]
    fn tokens_that_wait_together_go_out_together() {
        let mut delivery = delivery(Binding::Tokens);
        assert!((0..3).all(|id| delivery.token(token(id))));
        let chunk = delivery.next_chunk().unwrap();
        assert_eq!((chunk.first, chunk.count, chunk.tokens), (0, 3, vec![0, 1, 2]));
        assert!(delivery.token(token(3)));
        delivery.text("tail");
        let chunk = delivery.next_chunk().unwrap();
        assert_eq!((chunk.first, chunk.count, chunk.text.as_str()), (3, 1, "<3>"));
        // By itself: an engine that continues after these tokens says it again.
        let chunk = delivery.next_chunk().unwrap();
        assert_eq!((chunk.first, chunk.count, chunk.text.as_str()), (4, 0, "tail"));
        assert!(delivery.is_drained());
        assert_eq!(delivery.output(), OutputDigest::Tokens(Digest::of_tokens(&[0, 1, 2, 3])));
    }

    #[test]
    fn a_token_beyond_the_window_is_held_until_it_is_paid_for() {
        let mut delivery = delivery(Binding::Tokens);
        assert!((0..WINDOW_TOKENS).all(|id| delivery.token(token(id))));
        assert!(delivery.is_paused());
        assert!(delivery.token(token(99)));
        assert!(!delivery.has_room());
        assert_eq!(delivery.next_chunk().unwrap().count, WINDOW_TOKENS);
        assert!(delivery.next_chunk().is_none());
        assert_eq!(delivery.pay(1), 1);
        assert_eq!(delivery.next_chunk().unwrap().tokens, [99]);
        assert!(delivery.is_paused());
    }

    #[test]
    fn the_answer_ends_where_the_quote_does() {
        let mut delivery = Delivery::new(&Quote { max_completion_tokens: 2, ..quote() }, Binding::Tokens);
        assert!(delivery.token(token(0)) && delivery.token(token(1)));
        assert!(!delivery.is_paused(), "a whole answer waits for nothing");
        assert!(!delivery.token(token(2)));
        assert_eq!(delivery.next_chunk().unwrap().count, 2);
        assert_eq!(delivery.pay(2), 0, "nothing more is allowed");
    }

    #[test]
    fn what_is_discarded_is_neither_delivered_nor_bound() {
        let mut delivery = delivery(Binding::Text);
        assert!(delivery.token(token(0)));
        delivery.next_chunk().unwrap();
        assert!(delivery.token(token(1)));
        delivery.discard();
        assert_eq!(delivery.delivered(), 1);
        assert_eq!(delivery.output(), OutputDigest::Text(Digest::of(b"<0>")));
    }

    #[test]
    fn vectors_are_spread_over_frames_and_bound_in_order() {
        let mut delivery = delivery(Binding::Vectors);
        let vectors: Vec<_> = (0..3_u8).map(|number| vec![f32::from(number); 60_000]).collect();
        delivery.vectors(vectors.clone());
        let mut sent = Vec::new();
        while let Some(chunk) = delivery.next_chunk() {
            let message = aitbc_protocol::messages::ToClient::Chunk(chunk.clone());
            assert!(aitbc_protocol::wire::encode(&message, aitbc_protocol::wire::MAX_JOB_FRAME).is_ok());
            sent.extend(chunk.embeddings);
        }
        assert_eq!(sent, vectors);
        let bytes: Vec<u8> = vectors.iter().flatten().flat_map(|number| number.to_le_bytes()).collect();
        assert_eq!(delivery.output(), OutputDigest::Vectors(Digest::of(&bytes)));
        assert_eq!(delivery.delivered(), 0, "vectors are billed by the prompt");
    }

    proptest! {
        /// Whatever the order of tokens, chunks and payments: never more than a window unpaid, numbering without a gap.
        #[test]
        fn never_more_than_a_window_is_unpaid(steps in prop::collection::vec((0..3_u8, 0..100_u32), 0..400)) {
            let mut delivery = delivery(Binding::Tokens);
            let (mut id, mut next, mut granted) = (0, 0, WINDOW_TOKENS);
            for (step, amount) in steps {
                match step {
                    0 => for _ in 0..amount {
                        if !delivery.has_room() {
                            break;
                        }
                        if delivery.token(token(id)) {
                            id += 1;
                        }
                    },
                    1 => if let Some(chunk) = delivery.next_chunk() {
                        prop_assert_eq!(chunk.first, next);
                        prop_assert_eq!(chunk.tokens, (next..next + chunk.count).collect::<Vec<_>>());
                        next += chunk.count;
                    },
                    _ => granted += delivery.pay(amount.min(delivery.delivered())),
                }
                prop_assert!(delivery.delivered() <= delivery.paid() + WINDOW_TOKENS);
                prop_assert!(delivery.delivered() <= quote().max_completion_tokens);
                prop_assert!(granted <= delivery.paid() + WINDOW_TOKENS);
            }
        }
    }
}
