//! Why a provider gets no jobs, and what would change it.

use aitbc_protocol::{
    Digest, MicroCredits, NodeId,
    attestation::Tier,
    competition::{Change, Contender, Gain, Lack, Lost, Reach, compare},
    offer::{Device, DeviceKind, Engine, Load, ModelOffer},
    price::TokenPrice,
    qos::Quality,
    text::Line,
};
use proptest::prelude::*;

fn offer(model: &str, price: u64, speed: u32) -> ModelOffer {
    ModelOffer {
        model: Line::lossy(model),
        weights: Digest([7; 32]),
        engine: Engine { name: Line::lossy("llama.cpp"), version: Line::lossy("1") },
        quantisation: Line::lossy("Q4_1"),
        device: Device { kind: DeviceKind::Gpu, name: Line::lossy("gpu"), memory_bytes: 1, measured: None },
        context: 4_096,
        price: TokenPrice { prompt: MicroCredits(price / 4), completion: MicroCredits(price) },
        speed,
        declared: false,
        private: None,
    }
}

fn contender(number: u8, models: &[ModelOffer], running: u32) -> Contender<'_> {
    let load = Load { running, queued: 0 };
    Contender {
        provider: NodeId([number; 32]),
        models,
        slots: 4,
        load,
        tier: Tier::None,
        quality: Quality::default(),
        reach: Some(Reach::Direct),
        round_trip_ms: None,
        estimated_ms: None,
    }
}

#[test]
fn a_model_that_nobody_here_wants_earns_nothing() {
    let (mine, theirs) = ([offer("a", 4_000, 50_000)], [offer("b", 4_000, 50_000)]);
    let told = compare(&contender(1, &mine, 0), &[contender(2, &theirs, 3)]);
    assert_eq!((told.neighbours, told.jobs), (1, 3));
    assert_eq!(told.lost, [Lost { lack: Lack::Model, millijobs: 3_000 }]);
    assert_eq!(told.gains, [Gain { change: Change::Serve { model: Line::lossy("b") }, millijobs: 3_000 }]);
}

#[test]
fn the_smallest_cut_that_wins_is_named() {
    let (mine, theirs) = ([offer("a", 100_000, 50_000)], [offer("a", 60_000, 50_000)]);
    let told = compare(&contender(1, &mine, 0), &[contender(2, &theirs, 2)]);
    assert_eq!(told.lost[0].lack, Lack::Price);
    assert_eq!(told.gains[0], Gain { change: Change::Price { percent: 50 }, millijobs: 2_000 });
}

#[test]
fn a_full_provider_needs_slots_and_a_slow_one_speed() {
    let (mine, theirs) = ([offer("a", 4_000, 50_000)], [offer("a", 4_000, 50_000)]);
    let full = Contender { slots: 1, ..contender(1, &mine, 1) };
    let told = compare(&full, &[contender(2, &theirs, 2)]);
    assert_eq!(told.lost[0].lack, Lack::Slots);
    assert_eq!(told.gains[0].change, Change::Slots { slots: 2 });

    let slow = [offer("a", 4_000, 5_000)];
    let told = compare(&contender(1, &slow, 0), &[contender(2, &theirs, 2)]);
    assert_eq!(told.lost[0].lack, Lack::Speed);
    let usual = Change::Speed { model: Line::lossy("a"), speed: 50_000 };
    assert_eq!(told.gains, [Gain { change: usual, millijobs: 2_000 }], "no setting makes a card faster");
}

#[test]
fn equals_are_told_that_nothing_is_missing_and_who_is_trusted_more() {
    let models = [offer("a", 4_000, 50_000)];
    let other = Contender { tier: Tier::Affirming, ..contender(2, &models, 4) };
    let told = compare(&contender(1, &models, 0), &[other, contender(3, &models, 0)]);
    assert_eq!(told.lost, [Lost { lack: Lack::Nothing, millijobs: 4_000 }]);
    assert_eq!((told.gains.len(), told.better_attested), (0, 1));
}

#[test]
fn where_nobody_has_work_nothing_is_lost() {
    let models = [offer("a", 4_000, 50_000)];
    let told = compare(&contender(1, &models, 0), &[contender(2, &models, 0), contender(3, &[], 7)]);
    assert_eq!((told.lost.len(), told.gains.len()), (0, 0));
}

proptest! {
    /// Whatever neighbours claim: no panic, and no change wins more than there is.
    #[test]
    fn nothing_is_won_beyond_what_there_is(
        others in proptest::collection::vec((any::<u64>(), any::<u32>(), any::<u32>(), any::<u32>()), 0..6),
        price: u64, speed: u32, running: u32,
    ) {
        let mine = [offer("a", price, speed)];
        let theirs: Vec<_> = others.iter().map(|(price, speed, ..)| [offer("a", *price, *speed), offer("b", *price, *speed)]).collect();
        let contenders: Vec<_> = theirs.iter().zip(&others).map(|(models, (.., running, queued))| Contender {
            load: Load { running: *running, queued: *queued },
            ..contender(2, models, 0)
        }).collect();
        let told = compare(&contender(1, &mine, running), &contenders);
        let all: u64 = others.iter().map(|(.., running, queued)| (u64::from(*running) + u64::from(*queued)) * 1_000).sum();
        prop_assert!(told.lost.iter().map(|lost| lost.millijobs).sum::<u64>() <= all);
        prop_assert!(told.gains.iter().chain(&told.gains_of_trust).all(|gain| gain.millijobs <= all));
        prop_assert!(told.rows.iter().all(|row| row.better + row.worse <= all));
        prop_assert!(told.gains.is_sorted_by_key(|gain| std::cmp::Reverse(gain.millijobs)));
    }
}
