//! The chunks that a provider keeps: whatever is lost, in whatever order, each token arrives once and in order.

use aitbc_protocol::{
    job::{Chunk, Rejection, WINDOW_TOKENS},
    resume::{Kept, MAX_KEPT_BYTES, ResumeFault, Token},
};
use proptest::prelude::*;
use std::collections::VecDeque;

fn token(id: u32, bytes: usize) -> Token {
    Token { id: Some(id), text: "x".repeat(bytes), logprobs: None }
}

/// A provider and its client with a stream between them that can be cut at any time, in both directions.
#[derive(Default)]
struct Pair {
    kept: Kept,
    made: u32,
    ended: bool,
    /// Chunks on their way; `None` where the path is lost.
    stream: Option<VecDeque<Chunk>>,
    /// Acknowledgements on their way.
    acknowledgements: VecDeque<u32>,
    received: Vec<u32>,
    chunks: u32,
    tail: String,
    attempt: u32,
}

impl Pair {
    fn new() -> Self {
        Self { stream: Some(VecDeque::new()), ..Self::default() }
    }

    /// What an engine would do: tokens while there is room, then text without a token, at most once.
    fn make(&mut self, tokens: u32, bytes: usize) {
        for _ in 0..tokens {
            let token = token(self.made, bytes);
            if self.ended || !self.kept.has_room_for(&token) {
                return;
            }
            self.kept.token(token);
            self.made += 1;
        }
    }

    fn end(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            self.kept.text("tail");
        }
    }

    fn send(&mut self) {
        if let Some(stream) = &mut self.stream
            && let Some((chunk, _)) = self.kept.next_chunk()
        {
            stream.push_back(chunk.clone());
        }
    }

    fn deliver(&mut self) {
        let Some(chunk) = self.stream.as_mut().and_then(VecDeque::pop_front) else { return };
        assert_eq!(chunk.first as usize, self.received.len(), "numbered without a gap");
        assert_eq!(chunk.count as usize, chunk.tokens.len());
        self.received.extend(&chunk.tokens);
        if chunk.count == 0 {
            self.tail.push_str(&chunk.text);
        }
        self.chunks += 1;
    }

    fn acknowledge(&mut self) {
        if self.stream.is_some() {
            self.acknowledgements.push_back(self.received.len() as u32);
        }
    }

    fn take_acknowledgement(&mut self) {
        if let Some(tokens) = self.acknowledgements.pop_front() {
            self.kept.acknowledge(tokens);
        }
    }

    /// Loses the path; an acknowledgement may still be in the provider's hands.
    fn cut(&mut self, taken: bool) {
        self.stream = None;
        if !taken {
            self.acknowledgements.clear();
        }
    }

    fn resume(&mut self) {
        self.attempt += 1;
        self.kept.resume(self.attempt, self.chunks).expect("an honest client asks for what is kept");
        self.stream = Some(VecDeque::new());
    }
}

proptest! {
    #[test]
    fn each_token_arrives_once_and_in_order(
        steps in prop::collection::vec((0..9_u8, 1..40_u32), 0..400),
        bytes in prop_oneof![Just(4_usize), Just(5_000), Just(300_000)],
    ) {
        let mut pair = Pair::new();
        for (step, amount) in steps {
            match step {
                0 | 1 => pair.make(amount, bytes),
                2 => (0..amount).for_each(|_| pair.send()),
                3 => (0..amount).for_each(|_| pair.deliver()),
                4 => pair.acknowledge(),
                5 => pair.take_acknowledgement(),
                6 => pair.cut(amount % 2 == 0),
                7 => pair.resume(),
                _ if amount == 1 => pair.end(),
                _ => {
                    // An attempt that is late, from a stream that was lost long ago.
                    let (newest, before) = (pair.kept.attempt(), pair.kept.bytes());
                    for attempt in 0..=newest {
                        prop_assert_eq!(pair.kept.resume(attempt, 0), Err(ResumeFault::Stale { newest }));
                    }
                    prop_assert_eq!((pair.kept.attempt(), pair.kept.bytes()), (newest, before));
                }
            }
            // The tail comes on top: what is held back is short.
            prop_assert!(pair.kept.bytes() <= MAX_KEPT_BYTES.max(bytes) + 1024);
            prop_assert!(pair.received.len() as u32 <= pair.kept.delivered());
            prop_assert!(pair.kept.delivered() <= pair.kept.tokens());
            prop_assert_eq!(pair.kept.attempt(), pair.attempt, "attempts grow with the client's");
        }
        pair.end();
        pair.resume();
        while !pair.kept.is_delivered() || !pair.stream.as_ref().is_none_or(VecDeque::is_empty) {
            pair.send();
            pair.deliver();
        }
        // Chunks that had gone out before and were sent again by the last attempt.
        while let Some((chunk, fresh)) = pair.kept.next_chunk() {
            prop_assert!(!fresh);
            let chunk = chunk.clone();
            pair.stream.as_mut().expect("resumed").push_back(chunk);
            pair.deliver();
        }
        prop_assert_eq!(&pair.received, &(0..pair.made).collect::<Vec<_>>());
        prop_assert_eq!(pair.tail, "tail");
        prop_assert_eq!(pair.kept.delivered(), pair.made);
    }
}

#[test]
fn a_generation_waits_at_a_mebibyte() {
    let mut kept = Kept::default();
    let size = 100_000;
    let mut made = 0;
    while kept.has_room_for(&token(made, size)) {
        kept.token(token(made, size));
        made += 1;
    }
    assert_eq!(made, 10);
    assert!(kept.bytes() <= MAX_KEPT_BYTES);
    while kept.next_chunk().is_some() {}
    kept.acknowledge(made);
    assert_eq!(kept.bytes(), 0);
    assert!(kept.has_room_for(&token(made, 2 * MAX_KEPT_BYTES)), "one that is larger than all goes alone");
}

#[test]
fn a_chunk_is_forgotten_once_all_of_it_is_acknowledged() {
    let mut kept = Kept::default();
    for id in 0..4 {
        kept.token(token(id, 1));
        if id % 2 == 1 {
            assert_eq!(kept.next_chunk().map(|(chunk, fresh)| (chunk.count, fresh)), Some((2, true)));
        }
    }
    kept.acknowledge(3);
    assert_eq!(kept.resume(1, 0), Err(ResumeFault::Acknowledged { first: 1 }));
    assert_eq!(kept.resume(1, 3), Err(ResumeFault::Unsent { sent: 2 }));
    assert_eq!(kept.resume(1, 1), Ok(()), "what was refused is not an attempt");
    assert_eq!(kept.next_chunk().map(|(chunk, fresh)| (chunk.first, fresh)), Some((2, false)));
    assert!(kept.next_chunk().is_none());
    assert_eq!(kept.delivered(), 4, "what goes out twice counts once");
    assert_eq!(kept.resume(1, 1), Err(ResumeFault::Stale { newest: 1 }));
    assert_eq!(Rejection::from(ResumeFault::Stale { newest: 1 }), Rejection::StaleAttempt { newest: 1 });
}

#[test]
fn what_went_out_never_changes() {
    let mut kept = Kept::default();
    kept.token(token(0, 1));
    let before = kept.next_chunk().map(|(chunk, _)| chunk.clone());
    kept.token(token(1, 1));
    kept.resume(1, 0).expect("a first attempt");
    assert_eq!(kept.next_chunk().map(|(chunk, _)| chunk.clone()), before);
    assert_eq!(kept.next_chunk().map(|(chunk, _)| chunk.tokens.clone()), Some(vec![1]));
}

#[test]
fn text_and_vectors_are_kept_to_the_end() {
    let mut kept = Kept::default();
    kept.token(token(0, 1));
    kept.text("held back");
    while kept.next_chunk().is_some() {}
    kept.acknowledge(1);
    kept.resume(1, 1).expect("the tail is kept");
    assert_eq!(kept.next_chunk().map(|(chunk, _)| chunk.text.clone()), Some("held back".to_owned()));

    let mut kept = Kept::default();
    kept.vectors(vec![vec![0.5; 60_000]; 3]);
    assert_eq!(kept.next_chunk().map(|(chunk, _)| chunk.embeddings.len()), Some(1));
    assert_eq!(kept.next_chunk().map(|(chunk, _)| chunk.embeddings.len()), Some(1));
    kept.acknowledge(0);
    kept.resume(1, 0).expect("vectors are kept");
    assert_eq!(std::iter::from_fn(|| kept.next_chunk().map(|_| ())).count(), 3);
}

#[test]
fn an_answer_that_is_cut_short_ends_after_what_went_out() {
    let mut kept = Kept::default();
    (0..=WINDOW_TOKENS).for_each(|id| kept.token(token(id, 1)));
    assert_eq!(kept.next_chunk().map(|(chunk, _)| chunk.count), Some(WINDOW_TOKENS));
    assert!(kept.discard());
    assert!(!kept.discard());
    assert_eq!((kept.delivered(), kept.tokens()), (WINDOW_TOKENS, WINDOW_TOKENS));
    kept.resume(1, 0).expect("what went out is kept");
    assert_eq!(kept.next_chunk().map(|(chunk, _)| chunk.count), Some(WINDOW_TOKENS));
    assert!(kept.next_chunk().is_none());
}
