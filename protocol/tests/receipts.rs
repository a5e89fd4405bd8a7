//! Cheques held against their quote, and receipts against their quote and what was seen.

use aitbc_protocol::{
    Digest, JobId, MicroCredits, NodeId, Nonce, Statement,
    checks::{Check, Seen},
    holdback::Audit,
    job::{Finish, Sampling},
    offer::{Device, DeviceKind, Engine},
    price::{Adjustment, Inputs, LatencyClass, TokenPrice, price},
    quote::Quote,
    receipt::{Cheque, ChequeFault, OutputDigest, Receipt, Timings},
    sealed::SealedWork,
    terms::Terms,
    text::Line,
    wire,
};

const ME: NodeId = NodeId([1; 32]);

fn quote() -> Quote {
    let base = TokenPrice { prompt: MicroCredits(300), completion: MicroCredits(1700) };
    let inputs = Inputs {
        latency: LatencyClass::Fast,
        capability: Some(620_000),
        round_trip_ms: Some(30),
        queue: 3,
        utilisation: 750_000,
        cell_utilisation: None,
        hour: 20,
        utc_offset_minutes: 0,
        context_used: 110,
        context: 2_048,
    };
    let adjustment = Adjustment::of(inputs, MicroCredits(100));
    let max_total = price(&base, &adjustment, 10, 100).expect("small numbers");
    Quote {
        nonce: Nonce([7; 16]),
        client: NodeId([2; 32]),
        job: JobId([3; 16]),
        request: Digest([4; 32]),
        model: Line::lossy("smollm2:135m"),
        weights: Digest([5; 32]),
        prompt_tokens: 10,
        max_completion_tokens: 100,
        price: base,
        adjustment,
        terms: Terms::default(),
        audit: Audit::of(max_total, 1),
        max_total,
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
        timings: Timings::default(),
        sealed: None,
    }
}

fn failed(checks: &[Check]) -> Vec<&str> {
    checks.iter().filter(|check| check.passed == Some(false)).map(|check| check.name.as_str()).collect()
}

fn cheque(tokens: u32) -> Cheque {
    let quote = quote();
    let total = quote.total(tokens).expect("small numbers");
    Cheque {
        provider: ME,
        sequence: 1,
        cumulative: total,
        job: quote.job,
        quote: quote.nonce,
        job_total: total,
        tokens,
        held: MicroCredits::ZERO,
    }
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
fn a_receipt_that_bills_what_was_not_quoted_or_seen_fails() {
    let seen = Seen { tokens: 20, output: OutputDigest::Tokens(Digest([6; 32])), sealed: None };
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

#[test]
fn a_receipt_of_a_private_job_names_key_input_and_answer() {
    let work =
        SealedWork { profile: Line::lossy("high"), evaluation_key: Some(Digest([8; 32])), input: Digest([9; 32]) };
    let output = OutputDigest::Sealed(Digest([6; 32]));
    let good = Receipt { output, sealed: Some(work.clone()), ..receipt(20) };
    let seen = Seen { tokens: 20, output, sealed: Some(work.clone()) };
    assert!(good.check(&quote(), Some(&seen)).iter().all(|check| check.passed == Some(true)));
    assert!(failed(&good.check(&quote(), None)).is_empty(), "offline nothing speaks against it");
    for other in [
        SealedWork { evaluation_key: None, ..work.clone() },
        SealedWork { input: Digest([0; 32]), ..work.clone() },
        SealedWork { profile: Line::lossy("fast"), ..work.clone() },
    ] {
        let other = Receipt { sealed: Some(other), ..good.clone() };
        assert_eq!(failed(&other.check(&quote(), Some(&seen))), ["encrypted input"]);
    }
    let silent = Receipt { sealed: None, ..good.clone() };
    assert_eq!(failed(&silent.check(&quote(), None)), ["encrypted input"]);
    let talkative = Receipt { sealed: Some(work.clone()), ..receipt(20) };
    assert_eq!(failed(&talkative.check(&quote(), None)), ["encrypted input"]);
    let other = Receipt { output: OutputDigest::Sealed(Digest([0; 32])), ..good.clone() };
    assert_eq!(failed(&other.check(&quote(), Some(&seen))), ["output"]);
    let lost = Receipt { output: OutputDigest::Lost, finish: Finish::Failed, ..good };
    assert!(failed(&lost.check(&quote(), Some(&seen))).is_empty(), "after a restart the answer is not known");
}

#[test]
fn a_quote_from_before_there_were_factors_costs_its_base() {
    #[derive(serde::Serialize)]
    struct Older {
        nonce: Nonce,
        client: NodeId,
        job: JobId,
        request: Digest,
        model: Line<64>,
        weights: Digest,
        prompt_tokens: u32,
        max_completion_tokens: u32,
        price: TokenPrice,
        max_total: MicroCredits,
        window: u32,
        declared: bool,
        issued_ms: u64,
        expires_ms: u64,
    }
    let Quote { nonce, client, job, request, model, weights, prompt_tokens, max_completion_tokens, price, .. } =
        quote();
    let older = Older {
        nonce,
        client,
        job,
        request,
        model,
        weights,
        prompt_tokens,
        max_completion_tokens,
        price,
        max_total: MicroCredits(173),
        window: 64,
        declared: false,
        issued_ms: 1,
        expires_ms: 2,
    };
    let bytes = wire::encode_payload(&older, Quote::MAX_BYTES).expect("encodes");
    let read: Quote = wire::decode_payload(&bytes, Quote::MAX_BYTES).expect("reads");
    assert_eq!(read.adjustment, Adjustment::default());
    assert_eq!(read.total(100), Ok(MicroCredits(173)), "3,000 and 170,000 thousandths");
}
