use super::*;
use crate::routing::fixtures::Deal;
use aitbc_protocol::private;
use proptest::prelude::*;

fn chunk(first: u32, tokens: &[u32]) -> Chunk {
    Chunk {
        first,
        count: tokens.len() as u32,
        tokens: tokens.to_vec(),
        text: String::new(),
        logprobs: Vec::new(),
        embeddings: Vec::new(),
        sealed: BoundedBytes::default(),
        sent_ms: None,
    }
}

fn parts() -> &'static (Quote, JobSpec) {
    static PARTS: std::sync::OnceLock<(Quote, JobSpec)> = std::sync::OnceLock::new();
    PARTS.get_or_init(|| {
        let deal = Deal::new(|_, _| {});
        (deal.quote.clone(), deal.spec.clone())
    })
}

proptest! {
    #[test]
    fn what_is_seen_does_not_depend_on_how_it_was_cut(sizes in prop::collection::vec(1..20usize, 1..12)) {
        let (quote, spec) = parts();
        let mut received = Received::new(quote, spec);
        let mut all: Vec<u32> = Vec::new();
        for size in sizes {
            let next: Vec<u32> = (0..size as u32).map(|n| all.len() as u32 * 31 + n).collect();
            let acknowledged = all.len() as u32;
            prop_assert_eq!(received.take(&chunk(all.len() as u32, &next), acknowledged), Ok(()));
            all.extend(next);
        }
        let seen = received.seen(true);
        prop_assert_eq!(seen.tokens as usize, all.len());
        prop_assert_eq!(seen.output, OutputDigest::Tokens(Digest::of_tokens(&all)));
        prop_assert_eq!(received.into_tokens(), all);
    }

    #[test]
    fn never_more_than_a_window_beyond_the_cheques(
        steps in prop::collection::vec((0..80u32, 0..80u32), 0..30),
    ) {
        let (quote, spec) = parts();
        let mut received = Received::new(quote, spec);
        let mut acknowledged = 0;
        for (size, pay) in steps {
            let tokens: Vec<u32> = (0..size).collect();
            let before = received.seen(true);
            let taken = received.take(&chunk(received.count(), &tokens), acknowledged);
            prop_assert!(received.count() <= acknowledged + quote.window);
            prop_assert!(received.count() <= quote.max_completion_tokens);
            if taken.is_err() {
                prop_assert_eq!(received.seen(true), before, "what is refused leaves no trace");
            }
            acknowledged = (acknowledged + pay).min(received.count());
        }
    }
}

/// A private job of 100 bootstraps.
fn private_job() -> (Quote, JobSpec) {
    let deal = Deal::new(|spec, quote| {
        let sealed = Sealed {
            profile: "fast".parse().expect("a short name"),
            evaluation_key: Some(Digest([8; 32])),
            values: 2,
            ciphertext: BoundedBytes::new(vec![1; 32]).expect("few bytes"),
        };
        *spec = private::spec(spec.model.clone(), quote.weights, sealed, 100);
        quote.max_completion_tokens = 100;
    });
    (deal.quote.clone(), deal.spec.clone())
}

fn bootstraps(first: u32, count: u32) -> Chunk {
    Chunk { count, ..chunk(first, &[]) }
}

fn sealed(first: u32, bytes: &[u8]) -> Chunk {
    Chunk { sealed: BoundedBytes::new(bytes.to_vec()).expect("few bytes"), ..chunk(first, &[]) }
}

#[test]
fn an_encrypted_answer_comes_once_after_all_bootstraps() {
    let (quote, spec) = private_job();
    let mut received = Received::new(&quote, &spec);
    assert_eq!(received.take(&bootstraps(0, 60), 0), Ok(()));
    assert_eq!(
        received.take(&bootstraps(60, 40), 0),
        Err(ChunkFault::Window(64)),
        "bootstraps are paid like tokens"
    );
    assert_eq!(received.take(&sealed(60, b"early"), 60), Err(ChunkFault::Early { expected: 100, got: 60 }));
    assert_eq!(received.seen(true).output, OutputDigest::Lost, "nothing passes for a whole answer before it came");
    assert_eq!(received.take(&bootstraps(60, 40), 60), Ok(()));
    assert_eq!(received.take(&chunk(100, &[]), 60), Err(ChunkFault::Empty));
    let text = Chunk { text: "readable".to_owned(), ..sealed(100, b"answer") };
    assert!(matches!(received.take(&text, 60), Err(ChunkFault::Unasked(_))));
    assert_eq!(received.take(&bootstraps(100, 1), 60), Err(ChunkFault::Overcount(100)));
    assert_eq!(received.take(&sealed(100, b"answer"), 60), Ok(()));
    assert_eq!(received.take(&sealed(100, b"other"), 60), Err(ChunkFault::AfterEnd));
    let seen = received.seen(true);
    assert_eq!(seen.output, OutputDigest::Sealed(Digest::of(b"answer")));
    assert_eq!(seen.sealed, spec.input.sealed().map(Sealed::work));
    assert!(received.missing().is_none() && !received.has_ids());
    assert_eq!(received.take_sealed().map(BoundedBytes::into_vec).as_deref(), Some(&b"answer"[..]));
}

#[test]
fn an_ordinary_job_takes_no_encrypted_answer() {
    let (quote, spec) = parts();
    let mut received = Received::new(quote, spec);
    assert!(matches!(received.take(&sealed(0, b"x"), 0), Err(ChunkFault::Unasked(_))));
}
