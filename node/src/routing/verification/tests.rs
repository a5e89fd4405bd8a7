use super::*;
use crate::routing::fixtures::Deal;
use proptest::prelude::*;

fn chunk(first: u32, tokens: &[u32]) -> Chunk {
    Chunk {
        first,
        count: tokens.len() as u32,
        tokens: tokens.to_vec(),
        text: String::new(),
        logprobs: Vec::new(),
        embeddings: Vec::new(),
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
