//! Verdicts on the times of jobs, and what comes back.

use aitbc_protocol::{
    Digest, JobId, MicroCredits, NodeId, Nonce,
    holdback::Audit,
    job::{Finish, Input, JobSpec, Sampling},
    offer::{Device, DeviceKind, Engine},
    price::{Adjustment, Inputs, LatencyClass, TokenPrice, price},
    quote::Quote,
    receipt::{OutputDigest, Receipt, Timings},
    sla::{Breach, Verdict, contradiction, verdict},
    terms::Terms,
    text::Line,
};
use proptest::prelude::*;

fn spec() -> JobSpec {
    JobSpec {
        model: Line::lossy("smollm2:135m"),
        weights: None,
        input: Input::Text("once".to_owned()),
        sampling: Sampling { temperature: 0.0, top_p: 1.0, seed: 1 },
        max_tokens: 100,
        stop: vec![],
        top_logprobs: None,
        prefix: vec![],
    }
}

fn quote(latency: LatencyClass, round_trip_ms: Option<u32>) -> Quote {
    let base = TokenPrice { prompt: MicroCredits(0), completion: MicroCredits(1_000_000_000) };
    let inputs = Inputs {
        latency,
        capability: None,
        round_trip_ms,
        queue: 0,
        utilisation: 500_000,
        cell_utilisation: None,
        hour: 12,
        utc_offset_minutes: 0,
        context_used: 0,
        context: 2_048,
    };
    let adjustment = Adjustment::of(inputs, MicroCredits::ZERO);
    Quote {
        nonce: Nonce([7; 16]),
        client: NodeId([2; 32]),
        job: JobId([3; 16]),
        request: Digest([4; 32]),
        model: Line::lossy("smollm2:135m"),
        weights: Digest([5; 32]),
        prompt_tokens: 10,
        max_completion_tokens: 100,
        max_total: price(&base, &adjustment, 10, 100).expect("small numbers"),
        price: base,
        adjustment,
        terms: Terms::of(latency, &spec(), 10, 10_000),
        audit: Audit::default(),
        window: 64,
        declared: false,
        issued_ms: 1,
        expires_ms: 2,
    }
}

fn receipt(quote: &Quote, tokens: u32, timings: Timings) -> Receipt {
    Receipt {
        job: quote.job,
        client: quote.client,
        quote: quote.nonce,
        request: quote.request,
        model: quote.model.clone(),
        weights: quote.weights,
        engine: Engine { name: Line::lossy("llama.cpp"), version: Line::lossy("1") },
        quantisation: Line::lossy("Q4_1"),
        device: Device { kind: DeviceKind::Cpu, name: Line::lossy("cpu"), memory_bytes: 0, measured: None },
        sampling: Sampling { temperature: 0.0, top_p: 1.0, seed: 0 },
        prompt_tokens: quote.prompt_tokens,
        completion_tokens: tokens,
        output: OutputDigest::Tokens(Digest([6; 32])),
        declared: false,
        finish: Finish::Stop,
        price: quote.price,
        total: quote.total(tokens).expect("small numbers"),
        penalty: MicroCredits::ZERO,
        admitted_ms: 1,
        timings,
        sealed: None,
    }
}

fn first(first_token_ms: u64) -> Timings {
    Timings { first_token_ms, total_ms: first_token_ms, ..Timings::default() }
}

/// What comes back of a receipt for ten tokens whose first came so late, in millionths.
fn share(quote: &Quote, first_token_ms: u64) -> u64 {
    let receipt = receipt(quote, 10, first(first_token_ms));
    verdict(quote, &receipt).penalty.0 * 1_000_000 / receipt.total.0
}

#[test]
fn terms_follow_from_the_class_and_the_prompt() {
    let from = |class, tokens| Terms::of(class, &spec(), tokens, 0).penalty_from_ms;
    assert_eq!(from(LatencyClass::Standard, 0), 2_000);
    assert_eq!(Terms::of(LatencyClass::Standard, &spec(), 0, 0).first_token_ms, 500, "wished in a quarter");
    assert_eq!(from(LatencyClass::Standard, 1_000), 7_000, "a long prompt has to be read");
    assert_eq!((from(LatencyClass::Realtime, 1_000), from(LatencyClass::Fast, 1_000)), (100, 1_500));
    assert_eq!(from(LatencyClass::Economy, u32::MAX), u32::MAX, "whatever a peer claims");
    let terms = Terms::of(LatencyClass::Fast, &spec(), 10, 5_000);
    assert!(terms.keep(LatencyClass::Fast, &spec(), 10));
    assert!(!terms.keep(LatencyClass::Fast, &spec(), 11) && !terms.keep(LatencyClass::Realtime, &spec(), 10));
    assert_eq!(terms.completion_ms(100), Some(20_000));
}

#[test]
fn half_comes_back_at_once_and_all_of_it_at_four_times_what_is_allowed() {
    let quote = quote(LatencyClass::Standard, None);
    for (first_token_ms, expected) in [(2_050, 0), (2_051, 500_081), (5_125, 750_000), (8_200, 1_000_000)] {
        assert_eq!(share(&quote, first_token_ms), expected, "{first_token_ms} ms");
    }
    assert_eq!(share(&quote, u64::MAX), 1_000_000);
}

#[test]
fn being_far_never_pays_with_realtime() {
    let kept = |round_trip_ms| {
        let quote = quote(LatencyClass::Realtime, round_trip_ms);
        let receipt = receipt(&quote, 10, first(50));
        receipt.total.0 - verdict(&quote, &receipt).penalty.0
    };
    let near = kept(Some(20));
    // Nor does it to say nothing of it.
    for far in [Some(100), Some(150), Some(200), Some(201), Some(300), Some(1_000), None] {
        assert!(kept(far) < near, "{far:?} ms: {} of {near}", kept(far));
    }
}

#[test]
fn a_client_that_waits_in_vain_gets_back_as_much_as_one_that_is_answered_then() {
    let quote = quote(LatencyClass::Standard, None);
    let left = |total_ms, paused_ms| Receipt {
        finish: Finish::Cancelled,
        ..receipt(&quote, 0, Timings { total_ms, paused_ms, ..Timings::default() })
    };
    let judge = |receipt: &Receipt| verdict(&quote, receipt).breach;
    assert_eq!(judge(&left(2_050, 0)), None, "it left in time");
    assert_eq!(judge(&left(2_051, 0)), Some(Breach::NoToken { waited_ms: 2_051, allowed_ms: 2_050 }));
    assert_eq!(judge(&left(9_000, 8_000)), None, "it was away");
    let late = verdict(&quote, &left(5_125, 0)).penalty;
    assert_eq!(late.0, left(5_125, 0).total.0 * 3 / 4);
    let restarted = Receipt { output: OutputDigest::Lost, ..left(60_000, 0) };
    assert_eq!(judge(&restarted), None, "how long it waited is not known any more");
}

#[test]
fn a_slow_answer_is_told_from_a_client_that_is_slow() {
    let quote = quote(LatencyClass::Standard, None);
    let timings = |total_ms, paused_ms| Timings { first_token_ms: 100, total_ms, paused_ms, queued_ms: 0 };
    // 50 tokens at 10 a second.
    let judge = |timings| verdict(&quote, &receipt(&quote, 50, timings)).breach;
    assert_eq!(judge(timings(5_100, 0)), None);
    assert_eq!(judge(timings(6_000, 0)), Some(Breach::Speed { took_ms: 5_900, allowed_ms: 5_000 }));
    assert_eq!(judge(timings(60_000, 55_000)), None, "the client paused");
    assert_eq!(verdict(&quote, &receipt(&quote, 15, timings(60_000, 0))).breach, None, "too short to tell");
}

#[test]
fn stopping_in_time_costs_less_than_silence_and_nothing_is_owed_twice() {
    let quote = quote(LatencyClass::Standard, None);
    let stopped = Receipt { finish: Finish::Failed, ..receipt(&quote, 20, first(10)) };
    let silent = Receipt { output: OutputDigest::Lost, ..stopped.clone() };
    let (stopped, silent) = (verdict(&quote, &stopped), verdict(&quote, &silent));
    assert_eq!((stopped.breach, silent.breach), (Some(Breach::Stopped), Some(Breach::Silent)));
    assert!(stopped.penalty.0 > 0 && silent.penalty.0 == 2 * stopped.penalty.0, "{stopped:?} {silent:?}");
    let late = Receipt { finish: Finish::Failed, ..receipt(&quote, 20, first(100_000)) };
    assert_eq!(verdict(&quote, &late).penalty, late.total, "the worst counts, not the sum");
    let cancelled = Receipt { finish: Finish::Cancelled, ..receipt(&quote, 20, first(10)) };
    assert_eq!(verdict(&quote, &cancelled), Verdict::default());
}

#[test]
fn a_receipt_says_what_the_verdict_does() {
    let quote = quote(LatencyClass::Standard, None);
    let service = |receipt: &Receipt| {
        let checks = receipt.check(&quote, None);
        checks.iter().find(|check| check.name.as_str() == "service").and_then(|check| check.passed)
    };
    let late = receipt(&quote, 10, first(4_000));
    assert_eq!(service(&late), Some(false), "it hides that it was late");
    let honest = Receipt { penalty: verdict(&quote, &late).penalty, ..late };
    assert_eq!(service(&honest), Some(true));
    assert_eq!(service(&receipt(&quote, 10, first(1))), Some(true));
    let generous = Receipt { penalty: MicroCredits(1), ..receipt(&quote, 10, first(1)) };
    assert_eq!(service(&generous), Some(false), "both sides come to one sum");
}

#[test]
fn what_promises_nothing_gives_nothing_back() {
    let old = Quote { terms: Terms::default(), ..quote(LatencyClass::Standard, None) };
    let failed = Receipt { finish: Finish::Failed, ..receipt(&old, 20, first(100_000)) };
    assert_eq!(verdict(&old, &failed), Verdict::default());
}

#[test]
fn times_contradict_each_other_only_where_it_costs_somebody_money() {
    let quote = quote(LatencyClass::Standard, None);
    assert_eq!(contradiction(&quote, 100, 1_500, 40), None, "in time either way");
    assert_eq!(contradiction(&quote, 100, 3_000, 40), None, "a second may have passed elsewhere");
    let told = contradiction(&quote, 100, 3_100, 40).expect("late by what came, in time by its word");
    assert_eq!((told.sent_ms, told.came_ms), (100, 3_100));
    assert_eq!(contradiction(&quote, 100, 3_100, 900), None, "the path explains it");
    assert_eq!(contradiction(&quote, 3_000, 9_000, 40), None, "it owns up");
    assert_eq!(contradiction(&quote, u64::MAX, u64::MAX, u64::MAX), None);
}

proptest! {
    /// Whatever the numbers: no panic, never more back than the total, and later never costs less.
    #[test]
    fn later_never_costs_less(a: u64, b: u64, total: u64, speed: u32, from: u32, tokens: u32, paused_ms: u64) {
        let (a, b) = (a.min(b), a.max(b));
        let mut quote = quote(LatencyClass::Realtime, Some(u32::MAX));
        quote.terms = Terms { first_token_ms: 0, penalty_from_ms: from, speed };
        let judged = |first_token_ms, total_ms| {
            let mut receipt = receipt(&quote, 1, Timings { first_token_ms, total_ms, paused_ms, queued_ms: 0 });
            (receipt.total, receipt.completion_tokens) = (MicroCredits(total), tokens);
            verdict(&quote, &receipt).penalty
        };
        prop_assert!(judged(a, u64::MAX) <= MicroCredits(total));
        prop_assert!(judged(a, a) <= judged(b, b));
        prop_assert!(judged(0, a) <= judged(0, b));
    }
}
