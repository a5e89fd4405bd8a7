//! Prices, quotes and channels: what money depends on.

use aitbc_protocol::{
    Digest, JobId, MicroCredits, NodeId, Nonce,
    holdback::{Audit, HOLD_MS, Held, RELEASE_GRACE_MS},
    job::{Input, JobSpec, Sampling},
    offer::{Device, DeviceKind, Engine, ModelOffer},
    price::{Adjustment, AdjustmentFault, Inputs, LatencyClass, TokenPrice, price},
    quote::{Asked, QUOTE_LIFETIME_MS, Quote, QuoteFault},
    receipt::{Channel, Cheque, ChequeFault},
    terms::Terms,
    text::Line,
};
use proptest::prelude::*;

const ME: NodeId = NodeId([1; 32]);
const OTHER: NodeId = NodeId([2; 32]);
const JOB: JobId = JobId([3; 16]);
const NONCE: Nonce = Nonce([4; 16]);

fn per_thousand(prompt: u64, completion: u64) -> TokenPrice {
    TokenPrice { prompt: MicroCredits(prompt), completion: MicroCredits(completion) }
}

/// The most that is held in these tests.
const HELD: MicroCredits = MicroCredits(1_500);

/// A quote of which cheques need to know its job and what may be held.
fn quote(job: usize) -> Quote {
    Quote {
        nonce: NONCE,
        client: ME,
        job: JobId([job as u8; 16]),
        request: Digest([4; 32]),
        model: Line::lossy("smollm2:135m"),
        weights: Digest([5; 32]),
        prompt_tokens: 0,
        max_completion_tokens: 1,
        price: per_thousand(0, 0),
        adjustment: Adjustment::default(),
        terms: Terms::default(),
        audit: Audit { rate: 50_000, held: HELD, due_ms: HOLD_MS },
        max_total: MicroCredits(0),
        window: 64,
        declared: false,
        issued_ms: 0,
        expires_ms: 1,
    }
}

#[test]
fn prices_are_rounded_up_once() {
    let cases = [
        ((0, 0), (10, 10), 0),
        ((1, 0), (1, 0), 1),
        ((1000, 0), (1, 0), 1),
        ((1001, 0), (1, 0), 2),
        // 0.5 + 0.5 make one micro-credit, not two.
        ((500, 500), (1, 1), 1),
        ((30, 120), (200, 1000), 126),
    ];
    for ((prompt, completion), (per_prompt, per_completion), expected) in cases {
        assert_eq!(
            price(&per_thousand(per_prompt, per_completion), &Adjustment::default(), prompt, completion),
            Ok(MicroCredits(expected))
        );
    }
}

proptest! {
    #[test]
    fn prices_grow_with_tokens_and_never_panic(
        prompt: u64, completion: u64, tokens: (u32, u32), more: (u32, u32),
    ) {
        let base = per_thousand(prompt, completion);
        let low = price(&base, &Adjustment::default(), tokens.0, tokens.1);
        let high = price(&base, &Adjustment::default(), tokens.0.saturating_add(more.0), tokens.1.saturating_add(more.1));
        match (low, high) {
            (Ok(low), Ok(high)) => prop_assert!(low <= high),
            (Err(_), Ok(_)) => prop_assert!(false, "fewer tokens overflow and more do not"),
            _ => {}
        }
    }

    /// Cheques for several jobs of one pair, delivered in any order, some twice, some never.
    #[test]
    fn any_delivery_order_is_taken_and_nothing_is_counted_twice(
        steps in proptest::collection::vec((0..3usize, 1u64..1000, prop_oneof![4 => 0..1_000u64, 1 => 0..3 * HOLD_MS]), 1..30),
        order in proptest::collection::vec(any::<prop::sample::Index>(), 0..60),
    ) {
        let mut client = Channel::default();
        let mut totals = [0u64; 3];
        let mut cheques: Vec<Cheque> = Vec::new();
        let mut now_ms = 0;
        for (job, more, later) in steps {
            let (paid, total) = (MicroCredits(totals[job]), MicroCredits(totals[job] + more));
            let promised = client.promise(ME, &quote(job), paid, total, 1, now_ms);
            let (next, cheque) = promised.expect("small sums");
            prop_assert!(next.held.amount <= HELD && cheque.held == next.held.amount);
            now_ms += later;
            totals[job] += more;
            client = next;
            cheques.push(cheque);
        }
        let mut provider = Channel::default();
        let mut paid = [0u64; 3];
        for index in order {
            let cheque = index.get(&cheques);
            let job = usize::from(cheque.job.0[0]);
            match provider.accept(ME, &quote(job), MicroCredits(paid[job]), cheque) {
                Ok(next) => {
                    prop_assert!(cheque.job_total.0 >= paid[job]);
                    paid[job] = cheque.job_total.0;
                    provider = next;
                }
                // An older cheque of the same job behind a newer one.
                Err(fault) => prop_assert_eq!(fault, ChequeFault::JobLower),
            }
            prop_assert_eq!(provider.allocated.0, paid.iter().sum::<u64>());
            prop_assert!(provider.allocated <= provider.cumulative);
            prop_assert!(provider.cumulative <= client.cumulative);
        }
        // The newest cheque of every job settles everything.
        for (job, paid) in paid.iter_mut().enumerate() {
            if let Some(cheque) = cheques.iter().rev().find(|cheque| usize::from(cheque.job.0[0]) == job) {
                let taken = provider.accept(ME, &quote(job), MicroCredits(*paid), cheque);
                provider = taken.expect("the newest of its job");
                *paid = cheque.job_total.0;
            }
        }
        prop_assert_eq!(paid, totals);
        prop_assert_eq!(provider.cumulative, client.cumulative);
    }
}

fn cheque(sequence: u64, cumulative: u64, job_total: u64) -> Cheque {
    Cheque {
        provider: ME,
        sequence,
        cumulative: MicroCredits(cumulative),
        job: JOB,
        quote: NONCE,
        job_total: MicroCredits(job_total),
        tokens: 1,
        held: MicroCredits::ZERO,
    }
}

#[test]
fn bad_cheques_are_refused_for_their_reason() {
    let channel =
        Channel { sequence: 5, cumulative: MicroCredits(100), allocated: MicroCredits(100), ..Channel::default() };
    let paid = MicroCredits(40);
    let accept = |cheque: &Cheque| channel.accept(ME, &quote(3), paid, cheque);
    assert_eq!(
        accept(&cheque(6, 90, 40)),
        Err(ChequeFault::Lower { had: MicroCredits(100), got: MicroCredits(90) })
    );
    // An old number with a new sum is as wrong as a new number with an old sum.
    assert!(matches!(accept(&cheque(5, 120, 60)), Err(ChequeFault::Lower { .. })));
    assert_eq!(accept(&cheque(6, 110, 39)), Err(ChequeFault::JobLower));
    assert_eq!(accept(&cheque(6, 110, 60)), Err(ChequeFault::Overallocated));
    assert_eq!(accept(&Cheque { provider: OTHER, ..cheque(6, 110, 50) }), Err(ChequeFault::OtherProvider));
    let next = accept(&cheque(6, 110, 50)).expect("a good cheque");
    assert_eq!(
        next,
        Channel { sequence: 6, cumulative: MicroCredits(110), allocated: MicroCredits(110), ..Channel::default() }
    );
    // The same again changes nothing.
    assert_eq!(next.accept(ME, &quote(3), MicroCredits(50), &cheque(6, 110, 50)), Ok(next));
}

#[test]
fn a_held_part_grows_to_what_the_quote_allows_and_goes_when_it_is_due() {
    let quote = quote(3);
    let promise = |channel: &Channel, paid: u64, total: u64, now_ms| {
        channel.promise(ME, &quote, MicroCredits(paid), MicroCredits(total), 1, now_ms).expect("small sums")
    };
    let (channel, first) = promise(&Channel::default(), 0, 1_000, 0);
    assert_eq!(first.held, MicroCredits(1_000), "all of the first job");
    let (channel, second) = promise(&channel, 1_000, 1_800, 1);
    assert_eq!((second.held, channel.held.due_ms), (HELD, HOLD_MS), "the oldest part is let go of");
    assert_eq!(channel.held.due(HOLD_MS - 1), MicroCredits::ZERO);
    assert_eq!(channel.held.due(HOLD_MS), HELD);
    assert_eq!(channel.held.overdue(HOLD_MS + RELEASE_GRACE_MS - 1), MicroCredits::ZERO);
    assert_eq!(channel.held.overdue(HOLD_MS + RELEASE_GRACE_MS), HELD);
    let (channel, release) = promise(&channel, 1_800, 1_800, HOLD_MS);
    assert_eq!((release.held, release.cumulative), (MicroCredits::ZERO, MicroCredits(1_800)));

    let mut provider = Channel::default();
    for (paid, cheque) in [(0, &first), (1_000, &second), (1_800, &release)] {
        provider = provider.accept(ME, &quote, MicroCredits(paid), cheque).expect("honest");
        assert_eq!(provider.held.amount, cheque.held);
    }
    assert_eq!(provider.held, channel.held);
    // More than the quote allows, more than was promised, and again what was let go of.
    let greedy = |cheque: Cheque, had: &Channel, most| {
        let fault = ChequeFault::Held { most: MicroCredits(most), got: cheque.held };
        assert_eq!(had.accept(ME, &quote, MicroCredits(0), &cheque), Err(fault));
    };
    greedy(Cheque { held: MicroCredits(1_501), ..cheque(1, 2_000, 2_000) }, &Channel::default(), 1_500);
    greedy(Cheque { held: MicroCredits(11), ..cheque(1, 10, 10) }, &Channel::default(), 10);
    let forgot = Channel { allocated: MicroCredits(0), ..provider };
    greedy(Cheque { held: MicroCredits(1), ..cheque(4, 1_800, 1_800) }, &forgot, 0);
}

#[test]
fn faults_take_their_part_of_what_is_held() {
    let held = |amount| Held { amount: MicroCredits(amount), due_ms: 1 };
    assert_eq!(held(101).forfeit(500_000), MicroCredits(50));
    assert_eq!(held(u64::MAX).forfeit(1_000_000), MicroCredits(u64::MAX));
    assert_eq!(held(7).forfeit(u32::MAX), MicroCredits(7));
    // One job in twenty is checked: the price of twenty jobs is at stake.
    assert_eq!(Audit::of(MicroCredits(100), 5).held, MicroCredits(2_000));
    assert_eq!(Audit::of(MicroCredits(u64::MAX), 5).held, MicroCredits(u64::MAX));
}

#[test]
fn sums_do_not_wrap() {
    let full = Channel {
        sequence: 1,
        cumulative: MicroCredits(u64::MAX),
        allocated: MicroCredits(u64::MAX),
        ..Channel::default()
    };
    let promise = full.promise(ME, &quote(3), MicroCredits::ZERO, MicroCredits(1), 1, 0);
    assert_eq!(promise.map(|_| ()), Err(ChequeFault::Overflow));
    let last = Channel { sequence: u64::MAX, ..Channel::default() };
    let promise = last.promise(ME, &quote(3), MicroCredits::ZERO, MicroCredits(1), 1, 0);
    assert_eq!(promise.map(|_| ()), Err(ChequeFault::Overflow));
}

fn spec() -> JobSpec {
    JobSpec {
        model: Line::lossy("smollm2:135m"),
        weights: None,
        input: Input::Text("Name three planets".to_owned()),
        sampling: Sampling { temperature: 0.0, top_p: 1.0, seed: 1 },
        max_tokens: 100,
        stop: Vec::new(),
        top_logprobs: None,
        prefix: Vec::new(),
    }
}

#[test]
fn a_quote_is_held_against_what_was_asked() {
    let spec = spec();
    let request = spec.digest().expect("a small request");
    let ceiling = Some(MicroCredits(200));
    let asked = Asked { client: ME, job: JOB, request, spec: &spec, latency: LatencyClass::Standard, ceiling };
    // Twelve o'clock.
    let now = 43_200_000;
    let inputs = Inputs {
        latency: LatencyClass::Standard,
        capability: None,
        round_trip_ms: None,
        queue: 20,
        utilisation: 500_000,
        cell_utilisation: None,
        hour: 12,
        utc_offset_minutes: 0,
        context_used: 110,
        context: 1_100,
    };
    let with = |inputs| Adjustment::of(inputs, MicroCredits(900));
    let good = Quote {
        nonce: NONCE,
        client: ME,
        job: JOB,
        request,
        model: spec.model.clone(),
        weights: Digest([5; 32]),
        prompt_tokens: 10,
        max_completion_tokens: 100,
        price: per_thousand(200, 1000),
        adjustment: with(inputs),
        terms: Terms::of(LatencyClass::Standard, &spec, 10, 0),
        audit: Audit::of(MicroCredits(116), now),
        // 102,000 x 1.1 x 1.025
        max_total: MicroCredits(116),
        window: 64,
        declared: false,
        issued_ms: now,
        expires_ms: now + QUOTE_LIFETIME_MS,
    };
    assert_eq!(good.check(&asked, now), Ok(()));
    let cases = [
        (Quote { client: OTHER, ..good.clone() }, QuoteFault::OtherClient),
        (Quote { job: JobId([9; 16]), ..good.clone() }, QuoteFault::OtherRequest),
        (Quote { request: Digest([9; 32]), ..good.clone() }, QuoteFault::OtherRequest),
        (Quote { model: Line::lossy("other"), ..good.clone() }, QuoteFault::OtherRequest),
        (Quote { expires_ms: now, issued_ms: now - 1, ..good.clone() }, QuoteFault::Dates),
        (Quote { issued_ms: now + 40_000, ..good.clone() }, QuoteFault::Dates),
        (Quote { expires_ms: now + QUOTE_LIFETIME_MS + 1, ..good.clone() }, QuoteFault::Dates),
        (Quote { expires_ms: now - 1, ..good.clone() }, QuoteFault::Dates),
        (Quote { max_total: MicroCredits(115), ..good.clone() }, QuoteFault::Total),
        (Quote { adjustment: with(Inputs { queue: 40, ..inputs }), ..good.clone() }, QuoteFault::Total),
        (
            Quote { adjustment: Adjustment::default(), ..good.clone() },
            QuoteFault::Adjustment(AdjustmentFault::Inputs),
        ),
        (
            Quote { adjustment: with(Inputs { latency: LatencyClass::Fast, ..inputs }), ..good.clone() },
            QuoteFault::Latency { asked: LatencyClass::Standard, quoted: LatencyClass::Fast },
        ),
        (
            Quote { adjustment: with(Inputs { hour: 19, ..inputs }), ..good.clone() },
            QuoteFault::Hour { stated: 19, signed: 12 },
        ),
        (
            Quote { adjustment: with(Inputs { context_used: 111, ..inputs }), ..good.clone() },
            QuoteFault::ContextUsed { stated: 111, needed: 110 },
        ),
        (
            Quote { price: per_thousand(200, 899), ..good.clone() },
            QuoteFault::Adjustment(AdjustmentFault::Electricity),
        ),
        (Quote { prompt_tokens: 1000, ..good.clone() }, QuoteFault::Overcount),
        (Quote { max_completion_tokens: 101, ..good.clone() }, QuoteFault::Overcount),
        (Quote { audit: Audit::default(), ..good.clone() }, QuoteFault::Audit),
        (Quote { audit: Audit::of(MicroCredits(115), now), ..good.clone() }, QuoteFault::Audit),
        (Quote { window: 0, ..good.clone() }, QuoteFault::Window),
        (Quote { window: 65, ..good.clone() }, QuoteFault::Window),
    ];
    for (quote, fault) in cases {
        assert_eq!(quote.check(&asked, now), Err(fault), "{quote:?}");
    }
    let vectors = JobSpec { input: Input::Embed(vec!["a".to_owned()]), ..spec.clone() };
    let embedding = Asked { spec: &vectors, ..asked.clone() };
    assert_eq!(good.check(&embedding, now), Err(QuoteFault::Overcount), "vectors are billed by the prompt alone");
    let device = Device { kind: DeviceKind::Cpu, name: Line::lossy("cpu"), memory_bytes: 0, measured: None };
    let offer = ModelOffer {
        model: spec.model.clone(),
        weights: good.weights,
        engine: Engine { name: Line::lossy("llama.cpp"), version: Line::lossy("1") },
        quantisation: Line::lossy("Q4_1"),
        device,
        context: 1_100,
        price: good.price,
        speed: 0,
        declared: false,
        private: None,
    };
    assert_eq!(good.check_offer(&offer), Ok(()));
    for price in [per_thousand(199, 1_000), per_thousand(9_999, 999)] {
        let cheaper = ModelOffer { price, ..offer.clone() };
        assert_eq!(good.check_offer(&cheaper), Err(QuoteFault::AboveOffer));
    }
    let larger = ModelOffer { context: 2_048, ..offer };
    assert_eq!(good.check_offer(&larger), Err(QuoteFault::Context { stated: 1_100, offered: 2_048 }));
    let poor = Asked { ceiling: Some(MicroCredits(115)), ..asked };
    assert_eq!(
        good.check(&poor, now),
        Err(QuoteFault::TooExpensive { total: MicroCredits(116), ceiling: MicroCredits(115) })
    );
}

#[test]
fn what_a_request_needs() {
    let plain = JobSpec { max_tokens: 100, ..spec() };
    assert_eq!((plain.completion_tokens(), plain.context_needed(10)), (100, 110));
    let continued = JobSpec { prefix: vec![1, 2, 3], ..plain.clone() };
    assert_eq!((continued.completion_tokens(), continued.context_needed(13)), (97, 110));
    assert_eq!(continued.context_needed(u32::MAX), u32::MAX);
    let vectors = JobSpec { input: Input::Embed(vec!["a".to_owned(); 3]), ..plain };
    assert_eq!((vectors.completion_tokens(), vectors.context_needed(1_000_000)), (0, 0));
}

proptest! {
    #[test]
    fn the_digest_of_a_request_covers_every_field(which in 0..8usize, change: u64) {
        let plain = spec();
        let mut other = spec();
        match which {
            0 => other.model = Line::lossy("smollm2:360m"),
            1 => other.weights = Some(Digest([1; 32])),
            2 => other.input = Input::Text(format!("Name three planets{change}")),
            3 => other.sampling.seed ^= change | 1,
            4 => other.sampling.temperature = 0.5,
            5 => other.max_tokens += 1,
            6 => other.stop = vec!["\n".to_owned()],
            _ => other.prefix = vec![change as u32],
        }
        prop_assert_ne!(plain.digest(), other.digest());
    }
}
