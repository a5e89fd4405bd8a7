use super::*;
use crate::offer::DeviceKind;
use proptest::prelude::*;

const ME: NodeId = NodeId([1; 32]);

fn quote() -> Quote {
    let price = TokenPrice { prompt: MicroCredits(300), completion: MicroCredits(1700) };
    Quote {
        nonce: Nonce([7; 16]),
        client: NodeId([2; 32]),
        job: JobId([3; 16]),
        request: Digest([4; 32]),
        model: Line::lossy("smollm2:135m"),
        weights: Digest([5; 32]),
        prompt_tokens: 10,
        max_completion_tokens: 100,
        price,
        max_total: super::price(&price, 10, 100).expect("small numbers"),
        window: 64,
        declared: false,
        issued_ms: 1,
        expires_ms: 2,
    }
}

fn receipt(tokens: u32) -> Receipt {
    let quote = quote();
    Receipt {
        job: quote.job,
        client: quote.client,
        quote: quote.nonce,
        request: quote.request,
        model: quote.model.clone(),
        weights: quote.weights,
        engine: Engine { name: Line::lossy("llama.cpp"), version: Line::lossy("1") },
        quantisation: Line::lossy("Q4_1"),
        device: Device { kind: DeviceKind::Cpu, name: Line::lossy("cpu"), memory_bytes: 0 },
        sampling: Sampling { temperature: 0.0, top_p: 1.0, seed: 0 },
        prompt_tokens: quote.prompt_tokens,
        completion_tokens: tokens,
        output: OutputDigest::Tokens(Digest([6; 32])),
        declared: false,
        finish: Finish::Stop,
        price: quote.price,
        total: owed(&quote, tokens).expect("small numbers"),
        admitted_ms: 1,
        timings: Timings::default(),
    }
}

fn failed(checks: &[Check]) -> Vec<&str> {
    checks.iter().filter(|check| check.passed == Some(false)).map(|check| check.name.as_str()).collect()
}

fn cheque(tokens: u32) -> Cheque {
    let quote = quote();
    let total = owed(&quote, tokens).expect("small numbers");
    Cheque { provider: ME, sequence: 1, cumulative: total, job: quote.job, quote: quote.nonce, job_total: total, tokens }
}

#[test]
fn a_cheque_pays_exactly_what_was_delivered() {
    assert_eq!(cheque(64).check(&quote(), 64), Ok(()));
    assert_eq!(
        cheque(65).check(&quote(), 64),
        Err(ChequeFault::Undelivered { delivered: 64, got: 65 }),
        "tokens that were not delivered"
    );
    assert!(
        matches!(cheque(101).check(&quote(), u32::MAX), Err(ChequeFault::Undelivered { delivered: 100, .. })),
        "more than the quote can bill"
    );
    let generous = Cheque { job_total: MicroCredits(10_000), ..cheque(64) };
    assert!(matches!(generous.check(&quote(), 64), Err(ChequeFault::Amount { .. })));
    let mean = Cheque { job_total: MicroCredits(1), ..cheque(64) };
    assert!(matches!(mean.check(&quote(), 64), Err(ChequeFault::Amount { .. })));
    let other = Cheque { quote: Nonce([8; 16]), ..cheque(64) };
    assert_eq!(other.check(&quote(), 64), Err(ChequeFault::OtherJob));
    let other = Cheque { job: JobId([8; 16]), ..cheque(64) };
    assert_eq!(other.check(&quote(), 64), Err(ChequeFault::OtherJob));
}

#[test]
fn a_channel_refuses_what_takes_back_or_exceeds_a_promise() {
    let channel = Channel { sequence: 5, cumulative: MicroCredits(100), allocated: MicroCredits(80) };
    let cheque = |sequence, cumulative, job_total| Cheque {
        sequence,
        cumulative: MicroCredits(cumulative),
        job_total: MicroCredits(job_total),
        ..cheque(0)
    };
    let paid = MicroCredits(10);
    assert_eq!(channel.accept(NodeId([9; 32]), paid, &cheque(6, 110, 20)), Err(ChequeFault::OtherProvider));
    assert_eq!(channel.accept(ME, paid, &cheque(6, 110, 9)), Err(ChequeFault::JobLower));
    assert!(matches!(channel.accept(ME, paid, &cheque(6, 99, 20)), Err(ChequeFault::Lower { .. })));
    assert!(
        matches!(channel.accept(ME, paid, &cheque(4, 101, 20)), Err(ChequeFault::Lower { .. })),
        "an older cheque cannot have promised more"
    );
    assert_eq!(channel.accept(ME, paid, &cheque(6, 100, 31)), Err(ChequeFault::Overallocated));
    assert_eq!(channel.accept(ME, paid, &cheque(6, 100, 30)).map(|channel| channel.allocated), Ok(MicroCredits(100)));
    let full = Channel { sequence: u64::MAX, ..channel };
    assert_eq!(
        full.promise(ME, JobId([0; 16]), Nonce([0; 16]), paid, paid, 1),
        Err(ChequeFault::Overflow),
        "sequence numbers never wrap"
    );
}

#[test]
fn a_receipt_that_bills_what_was_not_quoted_or_seen_fails() {
    let seen = Seen { tokens: 20, output: OutputDigest::Tokens(Digest([6; 32])) };
    assert!(receipt(20).check(&quote(), Some(&seen)).iter().all(|check| check.passed == Some(true)));
    assert_eq!(failed(&receipt(21).check(&quote(), Some(&seen))), ["completion tokens"]);
    assert_eq!(failed(&receipt(101).check(&quote(), None)), ["price", "completion tokens"]);
    let dear = Receipt { total: MicroCredits(50), ..receipt(20) };
    assert_eq!(failed(&dear.check(&quote(), None)), ["price"]);
    let padded = Receipt { prompt_tokens: 11, ..receipt(20) };
    assert_eq!(failed(&padded.check(&quote(), None)), ["price", "prompt tokens"]);
    let other = Receipt { weights: Digest([0; 32]), request: Digest([0; 32]), ..receipt(20) };
    assert_eq!(failed(&other.check(&quote(), None)), ["request", "model"]);
    let swapped = Receipt { client: ME, quote: Nonce([0; 16]), ..receipt(20) };
    assert_eq!(failed(&swapped.check(&quote(), None)), ["client", "quote"]);
    let altered = Receipt { output: OutputDigest::Tokens(Digest([0; 32])), ..receipt(20) };
    assert_eq!(failed(&altered.check(&quote(), Some(&seen))), ["output"]);
}

#[test]
fn only_a_failed_job_may_forget_its_output_or_waive_the_prompt() {
    let lost = Receipt { output: OutputDigest::Lost, ..receipt(20) };
    assert_eq!(failed(&lost.check(&quote(), None)), ["output"]);
    let lost = Receipt { finish: Finish::Failed, ..lost };
    assert!(failed(&lost.check(&quote(), None)).is_empty());
    let free = Receipt { total: MicroCredits::ZERO, ..receipt(0) };
    assert_eq!(failed(&free.check(&quote(), None)), ["price"]);
    let free = Receipt { finish: Finish::Failed, ..free };
    assert!(failed(&free.check(&quote(), None)).is_empty());
}

proptest! {
    /// Cheques of three jobs, delivered in any order: every one that is taken keeps the parts within the promise, and
    /// in the end both sides hold the same.
    #[test]
    fn cheques_may_overtake_each_other_across_jobs(
        payments in prop::collection::vec((0usize..3, 1u64..1000), 1..20),
        order in any::<prop::sample::Index>(),
        seed in any::<u64>(),
    ) {
        let mut client = Channel::default();
        let mut totals = [MicroCredits::ZERO; 3];
        let mut queues: [Vec<Cheque>; 3] = Default::default();
        for (job, more) in payments {
            let total = MicroCredits(totals[job].0 + more);
            let nonce = Nonce([job as u8; 16]);
            let (channel, cheque) =
                client.promise(ME, JobId([0; 16]), nonce, totals[job], total, 0).expect("sums are small");
            client = channel;
            totals[job] = total;
            queues[job].push(cheque);
        }
        let mut provider = Channel::default();
        let mut paid = [MicroCredits::ZERO; 3];
        let mut state = seed ^ order.index(usize::MAX) as u64;
        while queues.iter().any(|queue| !queue.is_empty()) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let job = (state >> 33) as usize % 3;
            if queues[job].is_empty() {
                continue;
            }
            let cheque = queues[job].remove(0);
            provider = provider.accept(ME, paid[job], &cheque).expect("an honest cheque is taken in any order");
            prop_assert_eq!(provider.accept(ME, cheque.job_total, &cheque), Ok(provider), "twice changes nothing");
            paid[job] = cheque.job_total;
            prop_assert!(provider.allocated <= provider.cumulative);
        }
        prop_assert_eq!(provider, client);
    }
}
