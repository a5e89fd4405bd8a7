//! What a price follows from, factor by factor; and that nothing else is taken for it.

use aitbc_protocol::{
    MicroCredits,
    price::{
        Adjustment, AdjustmentFault, Factor, FactorKind, Inputs, LatencyClass, ONE, TokenPrice, hour_of_day,
        median_utilisation, price, share,
    },
};
use proptest::prelude::*;

const BASE: TokenPrice = TokenPrice { prompt: MicroCredits(1_000), completion: MicroCredits(4_000) };

/// Inputs of which no factor changes anything.
fn plain() -> Inputs {
    Inputs {
        latency: LatencyClass::Standard,
        capability: None,
        round_trip_ms: None,
        queue: 0,
        utilisation: 500_000,
        cell_utilisation: None,
        hour: 12,
        utc_offset_minutes: 0,
        context_used: 0,
        context: 4_096,
    }
}

fn total(inputs: Inputs, prompt: u32, completion: u32) -> u64 {
    let adjustment = Adjustment::of(inputs, MicroCredits::ZERO);
    price(&BASE, &adjustment, prompt, completion).expect("a small price").0
}

#[test]
fn plain_inputs_change_nothing() {
    let adjustment = Adjustment::of(plain(), MicroCredits::ZERO);
    assert!(adjustment.factors.iter().all(|factor| factor.ppm == ONE), "{adjustment:?}");
    assert_eq!(adjustment.explained(), []);
    assert_eq!(price(&BASE, &adjustment, 37, 91), price(&BASE, &Adjustment::default(), 37, 91));
    // 37 x 1,000 + 91 x 4,000
    assert_eq!(price(&BASE, &Adjustment::default(), 37, 91), Ok(MicroCredits(401)), "of an older quote");
}

#[test]
fn every_factor_at_its_edges() {
    use FactorKind::{Capability, Complexity, Distance, Hour, Latency, Queue, Utilisation};
    use LatencyClass::{Economy, Fast, Realtime, Standard};
    let latency = |latency| Inputs { latency, ..plain() };
    let capability = |score| Inputs { capability: score, ..plain() };
    let distance = |latency, ms| Inputs { latency, round_trip_ms: ms, ..plain() };
    let queue = |queue| Inputs { queue, ..plain() };
    let used = |utilisation, cell_utilisation| Inputs { utilisation, cell_utilisation, ..plain() };
    let hour = |hour| Inputs { hour, ..plain() };
    let context = |context_used, context| Inputs { context_used, context, ..plain() };
    let table = [
        (Latency, latency(Realtime), 3_000_000),
        (Latency, latency(Fast), 2_000_000),
        (Latency, latency(Standard), 1_000_000),
        (Latency, latency(Economy), 700_000),
        (Capability, capability(None), 1_000_000),
        (Capability, capability(Some(0)), 750_000),
        (Capability, capability(Some(500_000)), 1_000_000),
        (Capability, capability(Some(ONE)), 1_250_000),
        (Capability, capability(Some(u32::MAX)), 1_250_000),
        (Distance, distance(Realtime, None), 1_000_000),
        (Distance, distance(Realtime, Some(0)), 800_000),
        (Distance, distance(Realtime, Some(99)), 800_000),
        (Distance, distance(Realtime, Some(100)), 1_000_000),
        (Distance, distance(Realtime, Some(200)), 1_000_000),
        (Distance, distance(Realtime, Some(201)), 1_500_000),
        (Distance, distance(Realtime, Some(u32::MAX)), 1_500_000),
        (Distance, distance(Fast, Some(0)), 1_000_000),
        (Distance, distance(Economy, Some(900)), 1_000_000),
        (Queue, queue(0), 1_000_000),
        (Queue, queue(1), 1_005_000),
        (Queue, queue(99), 1_495_000),
        (Queue, queue(100), 1_500_000),
        (Queue, queue(u32::MAX), 1_500_000),
        (Utilisation, used(0, None), 800_000),
        (Utilisation, used(500_000, None), 1_000_000),
        (Utilisation, used(ONE, None), 1_200_000),
        (Utilisation, used(u32::MAX, None), 1_200_000),
        // The mean of both.
        (Utilisation, used(500_000, Some(700_000)), 1_040_000),
        // Strangers move it by a fifth and no further.
        (Utilisation, used(0, Some(ONE)), 880_000),
        (Utilisation, used(ONE, Some(0)), 1_120_000),
        (Hour, hour(0), 1_000_000),
        (Hour, hour(1), 1_000_000),
        (Hour, hour(2), 800_000),
        (Hour, hour(6), 800_000),
        (Hour, hour(7), 1_000_000),
        (Hour, hour(17), 1_000_000),
        (Hour, hour(18), 1_200_000),
        (Hour, hour(23), 1_200_000),
        (Complexity, context(0, 0), 1_000_000),
        (Complexity, context(0, 4_096), 1_000_000),
        (Complexity, context(2_048, 4_096), 1_125_000),
        (Complexity, context(4_096, 4_096), 1_250_000),
        (Complexity, context(5_000, 4_096), 1_250_000),
        (Complexity, context(1, 0), 1_250_000),
    ];
    for (kind, inputs, expected) in table {
        assert_eq!(inputs.factor(kind), expected, "{kind:?} of {inputs:?}");
        let changing = FactorKind::ALL.into_iter().filter(|other| inputs.factor(*other) != ONE);
        assert!(changing.into_iter().all(|other| other == kind || other == Latency), "{inputs:?}");
    }
}

#[test]
fn hours_are_those_of_the_clock_named() {
    const HOUR_MS: u64 = 3_600_000;
    let day = 20_000 * 24 * HOUR_MS;
    for (ms, offset, hour) in [
        (day, 0, 0),
        (day + HOUR_MS - 1, 0, 0),
        (day + HOUR_MS, 0, 1),
        (day + 24 * HOUR_MS - 1, 0, 23),
        (day, -1, 23),
        (day, 120, 2),
        (day + 23 * HOUR_MS, 330, 4),
        (day + 11 * HOUR_MS, -12 * 60, 23),
        (0, i16::MIN, 5),
        (u64::MAX, i16::MAX, 8),
    ] {
        assert_eq!(hour_of_day(ms, offset), hour, "{ms} at {offset}");
    }
}

#[test]
fn a_cell_is_heard_from_three_others_on_and_one_liar_is_not_its_median() {
    assert_eq!(median_utilisation(vec![]), None);
    assert_eq!(median_utilisation(vec![ONE, ONE]), None);
    assert_eq!(median_utilisation(vec![ONE, 250_000, 0]), Some(250_000));
    assert_eq!(median_utilisation(vec![ONE, 250_000, 500_000, 0]), Some(250_000), "the lower one of two");
    assert_eq!((share(0, 4), share(1, 3), share(4, 4), share(9, 4), share(0, 0)), (0, 333_333, ONE, ONE, ONE));
}

#[test]
fn no_price_is_below_half_its_base_or_its_electricity() {
    let cheap = Inputs { latency: LatencyClass::Economy, capability: Some(0), utilisation: 0, hour: 3, ..plain() };
    // 0.7 x 0.75 x 0.8 x 0.8 = 0.336 of the base.
    assert_eq!(price(&BASE, &Adjustment::default(), 1_000, 1_000), Ok(MicroCredits(5_000)));
    assert_eq!(total(cheap, 1_000, 1_000), 2_500);
    assert_eq!(total(Inputs { capability: None, ..cheap }, 999, 1), 502, "half of 1,003, rounded up once");
    let dear = Adjustment::of(cheap, MicroCredits(3_900));
    assert_eq!(price(&BASE, &dear, 1_000, 1_000), Ok(MicroCredits(3_900)));
    assert_eq!(price(&BASE, &dear, 1_000, 0), Ok(MicroCredits(500)), "no answer, no electricity for it");
}

#[test]
fn a_price_is_rounded_down_after_each_factor_and_up_once() {
    let inputs = Inputs { latency: LatencyClass::Economy, queue: 1, utilisation: 500_001, ..plain() };
    // 7 thousandths x 0.7 = 4.9, 4 x 1.005 = 4.02, 4 x 1.0000004 = 4: under one micro-credit, so one.
    let base = TokenPrice { prompt: MicroCredits(7), completion: MicroCredits(0) };
    let adjustment = Adjustment::of(inputs, MicroCredits::ZERO);
    assert_eq!(price(&base, &adjustment, 1, 0), Ok(MicroCredits(1)));
    // 2,001 x 0.7 = 1,400.7, 1,400 x 1.005 = 1,407, 1,407 x 1.0000004 = 1,407.
    let base = TokenPrice { prompt: MicroCredits(2_001), ..base };
    assert_eq!(price(&base, &adjustment, 1, 0), Ok(MicroCredits(2)));
}

#[test]
fn prices_at_the_extremes_overflow_by_name() {
    let base = TokenPrice { prompt: MicroCredits(u64::MAX), completion: MicroCredits(u64::MAX) };
    let most = Inputs { latency: LatencyClass::Realtime, queue: u32::MAX, utilisation: ONE, hour: 20, ..plain() };
    let adjustment = Adjustment::of(most, MicroCredits(u64::MAX));
    assert!(price(&base, &adjustment, u32::MAX, u32::MAX).is_err());
    let factor = Factor { kind: FactorKind::Queue, ppm: u32::MAX };
    let absurd = Adjustment { factors: vec![factor; 7], ..Adjustment::default() };
    assert!(price(&base, &absurd, u32::MAX, u32::MAX).is_err());
    assert_eq!(price(&base, &adjustment, 0, 0), Ok(MicroCredits::ZERO));
}

#[test]
fn reasons_are_in_words() {
    let inputs = Inputs { hour: 19, queue: 1, utilisation: 437_500, ..plain() };
    let told: Vec<_> =
        Adjustment::of(inputs, MicroCredits::ZERO).explained().iter().map(ToString::to_string).collect();
    assert_eq!(told, ["x1.005 1 job waiting", "x0.975 43.8 % of its slots taken", "x1.2 evening, 19 h UTC"]);
    let told = |inputs: Inputs, kind| inputs.reason(kind);
    let night = Inputs { hour: 3, utc_offset_minutes: -210, ..plain() };
    assert_eq!(told(night, FactorKind::Hour), "night, 3 h UTC-03:30");
    let realtime = Inputs { latency: LatencyClass::Realtime, round_trip_ms: Some(20), ..plain() };
    assert_eq!(told(realtime, FactorKind::Latency), "realtime, an answer within 100 ms wished");
    assert_eq!(told(realtime, FactorKind::Distance), "a round trip of 20 ms");
    assert_eq!(told(plain(), FactorKind::Distance), "no round trip measured");
}

#[test]
fn the_page_on_prices_reckons_right() {
    let page = include_str!("../../docs/prices.md");
    let inputs = Inputs {
        latency: LatencyClass::Fast,
        capability: Some(700_000),
        round_trip_ms: Some(40),
        queue: 2,
        utilisation: 750_000,
        cell_utilisation: Some(500_000),
        hour: 19,
        utc_offset_minutes: 0,
        context_used: 1_000,
        context: 4_096,
    };
    let adjustment = Adjustment::of(inputs, MicroCredits(420));
    let grouped = |number: u128| {
        let digits = number.to_string();
        let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
        groups.join(",")
    };
    let mut amount = 400 * 1_000 + 600 * 4_000;
    let mut lines = vec![format!("| base | | {} |", grouped(amount))];
    for (factor, named) in adjustment.factors.iter().zip([
        "latency: `fast`",
        "capability: the GPU scores 70 %",
        "distance: only where `realtime` is wished",
        "queue: 2 jobs wait",
        "utilisation: 75 % own, 50 % in the cell, so 62.5 %",
        "hour: 19 h UTC",
        "complexity: 1,000 of 4,096 tokens",
    ]) {
        amount = amount * u128::from(factor.ppm) / 1_000_000;
        lines.push(format!("| {named} | {} | {} |", grouped(factor.ppm.into()), grouped(amount)));
    }
    for line in lines {
        assert!(page.contains(&line), "docs/prices.md lacks: {line}");
    }
    let total = |completion| price(&BASE, &adjustment, 400, completion).expect("a small price");
    assert_eq!(u128::from(total(600).0), amount.div_ceil(1_000));
    for (what, sum) in [("costs at most", total(600)), ("costs", total(100))] {
        let sentence = format!("{what} **{} micro-credits**", grouped(sum.0.into()));
        assert!(page.contains(&sentence), "docs/prices.md lacks: {sentence}");
    }
}

fn inputs() -> impl Strategy<Value = Inputs> {
    use LatencyClass::{Economy, Fast, Realtime, Standard};
    let shares = (proptest::option::of(0..=ONE), 0..=ONE, proptest::option::of(0..=ONE));
    let times = (0..24u8, -12 * 60..=14 * 60i16, any::<Option<u32>>());
    (prop::sample::select(vec![Realtime, Fast, Standard, Economy]), shares, times, any::<(u32, u32, u32)>())
        .prop_map(
            |(latency, (capability, utilisation, cell_utilisation), times, (queue, context_used, context))| {
                let (hour, utc_offset_minutes, round_trip_ms) = times;
                Inputs {
                    latency,
                    capability,
                    round_trip_ms,
                    queue,
                    utilisation,
                    cell_utilisation,
                    hour,
                    utc_offset_minutes,
                    context_used,
                    context,
                }
            },
        )
}

fn base() -> impl Strategy<Value = TokenPrice> {
    (any::<u64>(), any::<u64>()).prop_map(|(prompt, completion)| TokenPrice {
        prompt: MicroCredits(prompt),
        completion: MicroCredits(completion),
    })
}

/// A sum that does not fit counts as more than any other.
fn or_most(price: Result<MicroCredits, aitbc_protocol::price::PriceOverflow>) -> u64 {
    price.map_or(u64::MAX, |price| price.0)
}

proptest! {
    #[test]
    fn prices_never_fall_as_what_they_follow_from_grows(
        base in base(), low in inputs(), electricity: u64, tokens: (u32, u32),
        (queue, utilisation, cell, used) in (any::<u32>(), 0..=ONE, 0..=ONE, any::<u32>()),
    ) {
        let of = |inputs: Inputs, tokens: (u32, u32)| {
            or_most(price(&base, &Adjustment::of(inputs, MicroCredits(electricity)), tokens.0, tokens.1))
        };
        let least = of(low, tokens);
        let busier = Inputs { queue: low.queue.saturating_add(queue), ..low };
        let fuller = Inputs { utilisation: low.utilisation.max(utilisation), ..low };
        let amid = Inputs { cell_utilisation: low.cell_utilisation.map(|had| had.max(cell)), ..low };
        let harder = Inputs { context_used: low.context_used.saturating_add(used), ..low };
        for more in [busier, fuller, amid, harder] {
            prop_assert!(of(more, tokens) >= least, "{:?}", more);
        }
        prop_assert!(of(low, (tokens.0.saturating_add(queue), tokens.1)) >= least);
        prop_assert!(of(low, (tokens.0, tokens.1.saturating_add(used))) >= least);
    }

    #[test]
    fn the_floor_holds(base in base(), inputs in inputs(), electricity: u64, tokens: (u32, u32)) {
        let adjustment = Adjustment::of(inputs, MicroCredits(electricity));
        if let Ok(total) = price(&base, &adjustment, tokens.0, tokens.1) {
            let thousandths = u128::from(tokens.0) * u128::from(base.prompt.0)
                + u128::from(tokens.1) * u128::from(base.completion.0);
            prop_assert!(u128::from(total.0) * 2_000 >= thousandths);
            prop_assert!(u128::from(total.0) * 1_000 >= u128::from(tokens.1) * u128::from(electricity));
        }
    }

    #[test]
    fn strangers_move_a_price_by_eight_points_at_most(inputs in inputs()) {
        let alone = Inputs { cell_utilisation: None, ..inputs };
        let factor = |inputs: Inputs| inputs.factor(FactorKind::Utilisation);
        prop_assert!(factor(inputs).abs_diff(factor(alone)) <= 80_000);
    }

    #[test]
    fn an_honest_adjustment_passes_and_no_other(
        base in base(), inputs in inputs(), part in 0..=ONE, at in 0..7usize, other in 0..7usize, change in 1..=u32::MAX,
    ) {
        let electricity = MicroCredits((u128::from(base.completion.0) * u128::from(part) / u128::from(ONE)) as u64);
        let honest = Adjustment::of(inputs, electricity);
        prop_assert_eq!(honest.check(&base), Ok(&inputs));

        let mut changed = honest.clone();
        changed.factors[at].ppm = changed.factors[at].ppm.wrapping_add(change);
        let fault = AdjustmentFault::Factor { expected: honest.factors[at].ppm, got: changed.factors[at] };
        prop_assert_eq!(changed.check(&base), Err(fault));

        let mut short = honest.clone();
        let gone = short.factors.remove(at);
        prop_assert_eq!(short.check(&base), Err(AdjustmentFault::Missing(gone.kind)));

        let mut long = honest.clone();
        long.factors.insert(other, gone);
        prop_assert_eq!(long.check(&base), Err(AdjustmentFault::Doubled(gone.kind)));

        if at != other {
            let mut mixed = honest.clone();
            mixed.factors.swap(at, other);
            prop_assert_eq!(mixed.check(&base), Err(AdjustmentFault::Order));
            let mut replaced = honest.clone();
            replaced.factors[at].kind = replaced.factors[other].kind;
            prop_assert!(replaced.check(&base).is_err());
        }
        if let Some(more) = base.completion.0.checked_add(1) {
            let dear = Adjustment { electricity: MicroCredits(more), ..honest.clone() };
            prop_assert_eq!(dear.check(&base), Err(AdjustmentFault::Electricity));
        }
        let silent = Adjustment { inputs: None, ..honest };
        prop_assert_eq!(silent.check(&base), Err(AdjustmentFault::Inputs));
    }

    #[test]
    fn inputs_that_cannot_be_are_refused(inputs in inputs(), which in 0..5usize, more in 1..=1_000u16) {
        let beyond = ONE + u32::from(more);
        let wrong = match which {
            0 => Inputs { utilisation: beyond, ..inputs },
            1 => Inputs { cell_utilisation: Some(beyond), ..inputs },
            2 => Inputs { capability: Some(beyond), ..inputs },
            3 => Inputs { hour: 24, ..inputs },
            _ => Inputs { utc_offset_minutes: 14 * 60 + more as i16, ..inputs },
        };
        let stated = Adjustment::of(wrong, MicroCredits::ZERO);
        prop_assert_eq!(stated.check(&BASE), Err(AdjustmentFault::Inputs));
    }
}
