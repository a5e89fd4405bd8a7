use super::*;
use crate::{
    Digest, JobId, MicroCredits, Nonce,
    envelope::Statement,
    holdback::Audit,
    job::{Finish, ModelName, Sampling},
    offer::{Device, DeviceKind, Engine},
    price::{Adjustment, Inputs, LatencyClass, TokenPrice},
    receipt::{Channel, OutputDigest, Timings},
    terms::Terms,
    text::Line,
    wire,
};
use proptest::prelude::*;

const NOW: u64 = 1_800_000_000_000;

fn signed<T: Statement>(signer: u8, statement: &T) -> Signed<T> {
    let payload = wire::encode_payload(statement, T::MAX_BYTES).expect("fits");
    Signed::from_parts(NodeId([signer; 32]), [0; 64], payload)
}

fn inputs() -> Inputs {
    Inputs {
        latency: LatencyClass::Standard,
        capability: None,
        round_trip_ms: None,
        queue: 3,
        utilisation: 500_000,
        cell_utilisation: None,
        hour: hour_of_day(NOW, 60),
        utc_offset_minutes: 60,
        context_used: 100,
        context: 4_096,
    }
}

fn quote(adjustment: Adjustment) -> Quote {
    let price = TokenPrice { prompt: MicroCredits(200), completion: MicroCredits(1_000) };
    let mut quote = Quote {
        nonce: Nonce([1; 16]),
        client: NodeId([2; 32]),
        job: JobId([3; 16]),
        request: Digest([4; 32]),
        model: ModelName::new("m").expect("a name"),
        weights: Digest([5; 32]),
        prompt_tokens: 50,
        max_completion_tokens: 50,
        price,
        adjustment,
        terms: Terms::default(),
        audit: Audit::default(),
        max_total: MicroCredits(0),
        window: 64,
        declared: false,
        issued_ms: NOW,
        expires_ms: NOW + 300_000,
    };
    quote.max_total = quote.total(50).expect("fits");
    quote
}

fn receipt(quote: u8, tokens: u32) -> Receipt {
    Receipt {
        job: JobId([3; 16]),
        client: NodeId([2; 32]),
        quote: Nonce([quote; 16]),
        request: Digest([4; 32]),
        model: ModelName::new("m").expect("a name"),
        weights: Digest([5; 32]),
        engine: Engine { name: Line::lossy("llama.cpp"), version: Line::lossy("1") },
        quantisation: Line::lossy("Q4"),
        device: Device { kind: DeviceKind::Cpu, name: Line::lossy("cpu"), memory_bytes: 0, measured: None },
        sampling: Sampling::NONE,
        prompt_tokens: 1,
        completion_tokens: tokens,
        output: OutputDigest::Tokens(Digest([6; 32])),
        declared: false,
        finish: Finish::Failed,
        price: TokenPrice { prompt: MicroCredits(1), completion: MicroCredits(1) },
        total: MicroCredits(0),
        penalty: MicroCredits::ZERO,
        admitted_ms: NOW,
        timings: Timings::default(),
        sealed: None,
    }
}

fn cheque(provider: u8, sequence: u64, cumulative: u64) -> Cheque {
    Cheque {
        provider: NodeId([provider; 32]),
        sequence,
        cumulative: MicroCredits(cumulative),
        job: JobId([3; 16]),
        quote: Nonce([1; 16]),
        job_total: MicroCredits(cumulative),
        tokens: 1,
        held: MicroCredits(0),
    }
}

#[test]
fn two_receipts_for_one_quote_are_a_fault_and_of_one_signer() {
    let judge = |one, other| Evidence::Receipts(one, other).judge();
    let first = signed(1, &receipt(1, 5));
    assert_eq!(judge(first.clone(), signed(1, &receipt(1, 6))), Ok(Fault::Receipts));
    assert_eq!(judge(first.clone(), first.clone()), Err(NotEvidence::NoContradiction), "the same twice");
    assert_eq!(judge(first.clone(), signed(1, &receipt(2, 6))), Err(NotEvidence::NoContradiction), "two attempts");
    let restarted = |tokens| signed(1, &Receipt { output: OutputDigest::Lost, ..receipt(1, tokens) });
    assert_eq!(judge(restarted(5), restarted(6)), Err(NotEvidence::NoContradiction), "a cheque came late");
    assert_eq!(judge(restarted(5), first.clone()), Err(NotEvidence::NoContradiction));
    assert_eq!(judge(first.clone(), signed(2, &receipt(1, 6))), Err(NotEvidence::TwoSigners));
    let broken = Signed::from_parts(NodeId([1; 32]), [0; 64], vec![0xff]);
    assert!(matches!(judge(first, broken), Err(NotEvidence::Wire(_))));
}

#[test]
fn a_cheque_that_goes_back_is_a_fault_and_later_ones_are_not() {
    let judge = |one: Cheque, other: Cheque| Evidence::Cheques(signed(1, &one), signed(1, &other)).judge();
    assert_eq!(judge(cheque(2, 5, 100), cheque(2, 6, 99)), Ok(Fault::Cheques));
    assert_eq!(judge(cheque(2, 6, 99), cheque(2, 5, 100)), Ok(Fault::Cheques), "in any order");
    assert_eq!(judge(cheque(2, 5, 100), cheque(2, 5, 200)), Ok(Fault::Cheques), "one number, two cheques");
    for fine in [cheque(2, 6, 100), cheque(2, 6, 101), cheque(3, 5, 7), cheque(3, 6, 7)] {
        assert_eq!(judge(cheque(2, 5, 100), fine), Err(NotEvidence::NoContradiction));
    }
}

#[test]
fn a_quote_is_refuted_by_the_rule_alone() {
    let judge = |quote: &Quote| Evidence::Quote(signed(1, quote)).judge();
    let good = quote(Adjustment::of(inputs(), MicroCredits(0)));
    assert_eq!(judge(&good), Err(NotEvidence::NoFault));
    let mut dearer = good.clone();
    dearer.adjustment.factors[3].ppm += 1;
    assert_eq!(judge(&dearer), Ok(Fault::Quote), "a factor that does not follow");
    let mut total = good.clone();
    total.max_total.0 += 1;
    assert_eq!(judge(&total), Ok(Fault::Quote));
    let hour = Inputs { hour: (inputs().hour + 1) % 24, ..inputs() };
    assert_eq!(judge(&quote(Adjustment::of(hour, MicroCredits(0)))), Ok(Fault::Quote), "an hour of another clock");
    assert_eq!(judge(&quote(Adjustment::of(inputs(), MicroCredits(1_001)))), Ok(Fault::Quote), "electricity");
    let impossible = Inputs { utilisation: 1_000_001, ..inputs() };
    assert_eq!(judge(&quote(Adjustment::of(impossible, MicroCredits(0)))), Ok(Fault::Quote));
    assert_eq!(judge(&quote(Adjustment::default())), Err(NotEvidence::NoFault), "of before there were factors");
}

#[test]
fn evidence_is_as_old_as_its_newest_statement() {
    let older = quote(Adjustment::of(inputs(), MicroCredits(0)));
    assert_eq!(Evidence::Quote(signed(1, &older)).signed_ms(), Ok(Some(NOW)));
    let unreadable = Signed::from_parts(NodeId([1; 32]), [0; 64], Vec::new());
    assert!(Evidence::Quote(unreadable).signed_ms().is_err());
}

#[test]
fn every_fault_costs_money_trust_and_score() {
    for fault in [Fault::Offers, Fault::Receipts, Fault::Cheques, Fault::Quote, Fault::Walk] {
        let penalty = fault.penalty();
        assert!(penalty.excluded_ms > 0 && penalty.score < ONE && penalty.held > 0 && penalty.held <= ONE);
        assert!(penalty.tier.rank() < Tier::Affirming.rank());
        assert!(!fault.to_string().is_empty());
    }
    let opened = Signed::from_parts(NodeId([1; 32]), [0; 64], Vec::new());
    assert_eq!(Evidence::Walk(opened).judge(), Err(NotEvidence::NotForOthers));
}

proptest! {
    /// An honest client's cheques never speak against it, however they are paired.
    #[test]
    fn honest_cheques_are_no_evidence(sums in proptest::collection::vec(0..1_000u64, 2..20)) {
        let (mut channel, mut cheques, mut total) = (Channel::default(), Vec::new(), 0);
        let quote = quote(Adjustment::of(inputs(), MicroCredits(0)));
        for sum in sums {
            let paid = MicroCredits(total);
            total += sum;
            let promised = channel.promise(NodeId([2; 32]), &quote, paid, MicroCredits(total), 1, NOW);
            let (next, cheque) = promised.expect("it grows");
            channel = next;
            cheques.push(signed(1, &cheque));
        }
        for one in &cheques {
            for other in &cheques {
                prop_assert!(Evidence::Cheques(one.clone(), other.clone()).judge().is_err());
            }
        }
    }

    /// Nor does any quote that the rule makes.
    #[test]
    fn honest_quotes_are_no_evidence(
        queue: u32, utilisation in 0..=ONE, capability in prop::option::of(0..=ONE), offset in -720i16..=840,
        context_used in 0..10_000u32, context in 1..10_000u32, electricity in 0..=1_000u64,
    ) {
        let hour = hour_of_day(NOW, offset);
        let inputs = Inputs {
            queue, utilisation, capability, utc_offset_minutes: offset, hour, context_used, context, ..inputs()
        };
        let quote = quote(Adjustment::of(inputs, MicroCredits(electricity)));
        prop_assert_eq!(outside_the_rule(&quote), None);
    }
}
