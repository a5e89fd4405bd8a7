//! What of an answer was generated, sent and paid, and how much more may go out.

use aitbc_protocol::{
    Digest,
    bytes::BoundedBytes,
    job::{Chunk, Input, WINDOW_TOKENS},
    quote::Quote,
    receipt::OutputDigest,
    resume::{Kept, ResumeFault, Token},
    sealed::MAX_SEALED_OUTPUT,
};
use sha2::{Digest as _, Sha256};

/// What a receipt binds the answer by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binding {
    /// Token ids.
    Tokens,
    /// Text, where the engine does not tell ids.
    Text,
    /// Vectors.
    Vectors,
    /// The encrypted answer of a private job.
    Sealed,
}

impl Binding {
    /// How the answer to `input` is bound on an engine that is `declared` or not.
    pub(super) fn of(input: &Input, declared: bool) -> Self {
        match input {
            Input::Embed(_) => Self::Vectors,
            Input::Sealed(_) => Self::Sealed,
            Input::Chat(_) | Input::Text(_) if declared => Self::Text,
            Input::Chat(_) | Input::Text(_) => Self::Tokens,
        }
    }
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
    kept: Kept,
    /// A token for which there is no room: the engine made it beyond its allowance, or too much is kept.
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
            kept: Kept::default(),
            held: None,
            binding,
            digest: Sha256::new(),
        }
    }

    /// Tokens handed to a stream.
    pub(super) fn delivered(&self) -> u32 {
        self.kept.delivered()
    }

    /// Tokens paid.
    pub(super) fn paid(&self) -> u32 {
        self.paid
    }

    /// True while another event of the engine can be taken.
    pub(super) fn has_room(&self) -> bool {
        self.held.is_none()
    }

    /// True once all that was generated has been handed to a stream.
    pub(super) fn is_delivered(&self) -> bool {
        self.kept.is_delivered()
    }

    /// True while nothing more may go out before a cheque comes.
    pub(super) fn is_paused(&self) -> bool {
        self.held.is_some() || self.is_unpaid()
    }

    fn is_unpaid(&self) -> bool {
        let taken = self.kept.tokens();
        taken < self.limit && taken >= self.paid.saturating_add(self.window)
    }

    /// Takes a token of the engine. False where the quote has no more tokens: the answer ends before it.
    pub(super) fn token(&mut self, token: Token) -> bool {
        if self.kept.tokens() >= self.limit {
            return false;
        }
        self.take(token);
        true
    }

    fn take(&mut self, token: Token) {
        if self.is_unpaid() || !self.kept.has_room_for(&token) {
            self.held = Some(token);
        } else {
            self.kept.token(token);
        }
    }

    /// Takes text that belongs to no token of its own.
    pub(super) fn text(&mut self, text: &str) {
        self.kept.text(text);
    }

    /// Takes the vectors of an embedding job.
    pub(super) fn vectors(&mut self, vectors: Vec<Vec<f32>>) {
        self.kept.vectors(vectors);
    }

    /// Takes the encrypted answer of a private job.
    pub(super) fn sealed(&mut self, answer: BoundedBytes<MAX_SEALED_OUTPUT>) {
        self.kept.sealed(answer);
    }

    /// Hands over the next chunk: everything that has come since the last one, at most 64 tokens. Tells whether it
    /// goes out for the first time.
    pub(super) fn next_chunk(&mut self) -> Option<(Chunk, bool)> {
        let (chunk, fresh) = self.kept.next_chunk()?;
        if fresh {
            match self.binding {
                Binding::Tokens => chunk.tokens.iter().for_each(|token| self.digest.update(token.to_le_bytes())),
                Binding::Text => self.digest.update(&chunk.text),
                Binding::Sealed => self.digest.update(chunk.sealed.as_slice()),
                Binding::Vectors => {
                    chunk.embeddings.iter().flatten().for_each(|number| self.digest.update(number.to_le_bytes()));
                }
            }
        }
        Some((chunk.clone(), fresh))
    }

    /// The client goes on over a new stream, from chunk `next` on.
    pub(super) fn resume(&mut self, attempt: u32, next: u32) -> Result<(), ResumeFault> {
        self.kept.resume(attempt, next)
    }

    /// Drops what was not handed over: the client has left. Returns whether there was anything.
    pub(super) fn discard(&mut self) -> bool {
        let held = self.held.take().is_some();
        self.kept.discard() || held
    }

    /// The first `tokens` tokens are paid, and need not be kept any more. Returns how many more the engine may make.
    pub(super) fn pay(&mut self, tokens: u32) -> u32 {
        self.paid = self.paid.max(tokens);
        self.kept.acknowledge(self.paid);
        if let Some(token) = self.held.take() {
            self.take(token);
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
            Binding::Sealed => OutputDigest::Sealed(digest),
        }
    }
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

    fn next(delivery: &mut Delivery) -> Chunk {
        delivery.next_chunk().unwrap().0
    }

    #[test]
    fn tokens_that_wait_together_go_out_together() {
        let mut delivery = delivery(Binding::Tokens);
        assert!((0..3).all(|id| delivery.token(token(id))));
        let chunk = next(&mut delivery);
        assert_eq!((chunk.first, chunk.count, chunk.tokens), (0, 3, vec![0, 1, 2]));
        assert!(delivery.token(token(3)));
        delivery.text("tail");
        let chunk = next(&mut delivery);
        assert_eq!((chunk.first, chunk.count, chunk.text.as_str()), (3, 1, "<3>"));
        // By itself: an engine that continues after these tokens says it again.
        let chunk = next(&mut delivery);
        assert_eq!((chunk.first, chunk.count, chunk.text.as_str()), (4, 0, "tail"));
        assert!(delivery.is_delivered());
        assert_eq!(delivery.output(), OutputDigest::Tokens(Digest::of_tokens(&[0, 1, 2, 3])));
    }

    #[test]
    fn a_token_beyond_the_window_is_held_until_it_is_paid_for() {
        let mut delivery = delivery(Binding::Tokens);
        assert!((0..WINDOW_TOKENS).all(|id| delivery.token(token(id))));
        assert!(delivery.is_paused());
        assert!(delivery.token(token(99)));
        assert!(!delivery.has_room());
        assert_eq!(next(&mut delivery).count, WINDOW_TOKENS);
        assert!(delivery.next_chunk().is_none());
        assert_eq!(delivery.pay(1), 1);
        assert_eq!(next(&mut delivery).tokens, [99]);
        assert!(delivery.is_paused());
    }

    #[test]
    fn the_answer_ends_where_the_quote_does() {
        let mut delivery = Delivery::new(&Quote { max_completion_tokens: 2, ..quote() }, Binding::Tokens);
        assert!(delivery.token(token(0)) && delivery.token(token(1)));
        assert!(!delivery.is_paused(), "a whole answer waits for nothing");
        assert!(!delivery.token(token(2)));
        assert_eq!(next(&mut delivery).count, 2);
        assert_eq!(delivery.pay(2), 0, "nothing more is allowed");
    }

    #[test]
    fn what_is_discarded_is_neither_delivered_nor_bound() {
        let mut delivery = delivery(Binding::Text);
        assert!(delivery.token(token(0)));
        next(&mut delivery);
        assert!(delivery.token(token(1)));
        assert!(delivery.discard());
        assert_eq!(delivery.delivered(), 1);
        assert_eq!(delivery.output(), OutputDigest::Text(Digest::of(b"<0>")));
    }

    #[test]
    fn vectors_are_spread_over_frames_and_bound_in_order() {
        let mut delivery = delivery(Binding::Vectors);
        let vectors: Vec<_> = (0..3_u8).map(|number| vec![f32::from(number); 60_000]).collect();
        delivery.vectors(vectors.clone());
        let mut sent = Vec::new();
        while let Some((chunk, _)) = delivery.next_chunk() {
            let message = aitbc_protocol::messages::ToClient::Chunk(chunk.clone());
            assert!(aitbc_protocol::wire::encode(&message, aitbc_protocol::wire::MAX_JOB_FRAME).is_ok());
            sent.extend(chunk.embeddings);
        }
        assert_eq!(sent, vectors);
        let bytes: Vec<u8> = vectors.iter().flatten().flat_map(|number| number.to_le_bytes()).collect();
        assert_eq!(delivery.output(), OutputDigest::Vectors(Digest::of(&bytes)));
        assert_eq!(delivery.delivered(), 0, "vectors are billed by the prompt");
    }

    #[test]
    fn an_encrypted_answer_follows_its_bootstraps_and_is_bound_alone() {
        let mut delivery = delivery(Binding::Sealed);
        let bootstrap = || Token { id: None, text: String::new(), logprobs: None };
        assert!((0..WINDOW_TOKENS).all(|_| delivery.token(bootstrap())));
        assert!(delivery.is_paused(), "bootstraps are paid like tokens");
        delivery.pay(WINDOW_TOKENS);
        delivery.sealed(BoundedBytes::new(b"answer".to_vec()).unwrap());
        let chunk = next(&mut delivery);
        assert_eq!((chunk.count, chunk.tokens.len(), chunk.sealed.len()), (WINDOW_TOKENS, 0, 0));
        let chunk = next(&mut delivery);
        assert_eq!((chunk.first, chunk.count, chunk.sealed.as_slice()), (WINDOW_TOKENS, 0, &b"answer"[..]));
        assert_eq!(delivery.output(), OutputDigest::Sealed(Digest::of(b"answer")));
    }

    #[test]
    fn a_chunk_that_goes_out_again_is_bound_and_counted_once() {
        let mut delivery = delivery(Binding::Tokens);
        assert!(delivery.token(token(0)));
        next(&mut delivery);
        delivery.resume(1, 0).unwrap();
        assert_eq!(delivery.next_chunk().map(|(chunk, fresh)| (chunk.tokens, fresh)), Some((vec![0], false)));
        assert_eq!(delivery.delivered(), 1);
        assert_eq!(delivery.output(), OutputDigest::Tokens(Digest::of_tokens(&[0])));
    }

    #[test]
    fn a_token_that_cannot_be_kept_waits_for_an_acknowledgement() {
        let mut delivery = delivery(Binding::Text);
        let long = |id| Token { text: "x".repeat(400 * 1024), ..token(id) };
        assert!((0..3).all(|id| delivery.token(long(id))));
        assert!(delivery.is_paused() && !delivery.has_room(), "two fill the mebibyte");
        while delivery.next_chunk().is_some() {}
        assert_eq!(delivery.delivered(), 2);
        delivery.pay(2);
        assert!(!delivery.is_paused());
        assert_eq!(next(&mut delivery).first, 2);
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
                    1 => if let Some((chunk, _)) = delivery.next_chunk() {
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
