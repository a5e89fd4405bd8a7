use super::*;
use crate::{
    Digest, MicroCredits,
    evidence::{Fault, Slashed},
    offer::{Device, DeviceKind, Engine},
    price::TokenPrice,
    qos,
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
    Contender {
        provider: NodeId([number; 32]),
        models,
        slots: 4,
        load: Load { running, queued: 0 },
        tier: Tier::None,
        quality: Quality::default(),
        reach: Some(Reach::Direct),
        round_trip_ms: None,
        estimated_ms: None,
    }
}

fn rated(score: u32) -> Quality {
    Quality { score: Some(score), tier: qos::Tier::of(score), slashed: None }
}

fn row(told: &Comparison, dimension: Dimension) -> &Row {
    told.rows.iter().find(|row| row.dimension == dimension).expect("a row a dimension")
}

/// What wins, without the cuts of prices, which can make up for much.
fn wins(told: &Comparison) -> Vec<(&Change, u64)> {
    let others = told.gains.iter().filter(|gain| !matches!(gain.change, Change::Price { .. }));
    others.map(|gain| (&gain.change, gain.millijobs)).collect()
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

#[test]
fn who_is_rated_better_has_the_job_until_this_provider_is_as_well() {
    let models = [offer("a", 4_000, 50_000)];
    let good = Contender { quality: rated(800_000), ..contender(2, &models, 2) };
    let told = compare(&contender(1, &models, 0), std::slice::from_ref(&good));
    assert_eq!(told.lost, [Lost { lack: Lack::Service, millijobs: 2_000 }]);
    // Gold begins at three quarters, which is not enough.
    assert_eq!(wins(&told), [(&Change::Service { tier: qos::Tier::Platinum }, 2_000)]);
    let service = row(&told, Dimension::Service);
    assert_eq!(
        (service.mine, service.theirs, service.verdict, service.better),
        (
            Some(Figure::Service(qos::Tier::Unrated)),
            Some(Figure::Service(qos::Tier::Gold)),
            Verdict::Behind,
            2_000
        )
    );
    // The unrated rank above the bad ones, and the table says the same.
    let bad = Contender { quality: rated(300_000), ..contender(2, &models, 2) };
    let told = compare(&contender(1, &models, 0), &[bad]);
    assert_eq!((told.lost[0].lack, row(&told, Dimension::Service).verdict), (Lack::Nothing, Verdict::Ahead));
    let as_good = Contender { quality: rated(800_000), ..contender(1, &models, 0) };
    assert_eq!(compare(&as_good, &[good]).lost[0].lack, Lack::Nothing);
}

#[test]
fn a_relay_costs_jobs_as_far_as_its_detour_ranks_lower() {
    let models = [offer("a", 4_000, 50_000)];
    let direct = Contender { round_trip_ms: Some(30.0), ..contender(2, &models, 1) };
    let relayed = Contender {
        reach: Some(Reach::Relayed),
        round_trip_ms: Some(90.0),
        estimated_ms: Some(20.0),
        ..contender(1, &models, 0)
    };
    let told = compare(&relayed, std::slice::from_ref(&direct));
    assert_eq!(told.lost, [Lost { lack: Lack::Reach, millijobs: 1_000 }]);
    assert_eq!(wins(&told)[0], (&Change::Reach, 1_000));
    let (reach, latency) = (row(&told, Dimension::Reachability), row(&told, Dimension::Latency));
    assert_eq!(
        (reach.mine, reach.theirs),
        (Some(Figure::Reach(Reach::Relayed)), Some(Figure::Reach(Reach::Direct)))
    );
    assert_eq!((reach.verdict, latency.verdict), (Verdict::Behind, Verdict::Behind));
    // Two round trips more than the prompt of 256 tokens takes.
    assert_eq!((latency.mine, latency.theirs), (Some(Figure::Milliseconds(692)), Some(Figure::Milliseconds(572))));

    // Its straight way is longer than theirs, or not known: nothing would be won.
    for estimated_ms in [Some(40.0), None] {
        let told = compare(&Contender { estimated_ms, ..relayed.clone() }, std::slice::from_ref(&direct));
        assert!(told.gains.iter().all(|gain| gain.change != Change::Reach), "{estimated_ms:?}: {told:?}");
    }
    // Whoever is direct already has nothing to change about it, but is farther.
    let far = Contender { reach: Some(Reach::Direct), ..relayed.clone() };
    let told = compare(&far, &[direct]);
    assert_eq!(told.lost[0].lack, Lack::RoundTrip);
    assert!(told.gains.iter().all(|gain| gain.change != Change::Reach), "{told:?}");
    // Behind a relay as well, it is the distance.
    let both = Contender { reach: Some(Reach::Relayed), round_trip_ms: Some(30.0), ..contender(2, &models, 1) };
    assert_eq!(compare(&relayed, &[both]).lost[0].lack, Lack::RoundTrip);
}

#[test]
fn round_trips_count_only_between_two_that_are_known() {
    let models = [offer("a", 4_000, 50_000)];
    let far = Contender { round_trip_ms: Some(300.0), ..contender(1, &models, 0) };
    assert_eq!(compare(&far, &[contender(2, &models, 1)]).lost[0].lack, Lack::Nothing);
    let near = Contender { estimated_ms: Some(10.0), ..contender(2, &models, 1) };
    assert_eq!(compare(&far, std::slice::from_ref(&near)).lost[0].lack, Lack::RoundTrip);
    assert_eq!(compare(&contender(1, &models, 0), &[near]).lost[0].lack, Lack::Nothing);
}

#[test]
fn an_attestation_wins_jobs_only_of_clients_who_ask_for_one() {
    let (models, dear) = ([offer("a", 4_000, 50_000)], [offer("a", 400_000, 50_000)]);
    let affirmed = Contender { tier: Tier::Affirming, ..contender(2, &models, 4) };
    let warned = Contender { tier: Tier::Warning, ..contender(3, &models, 2) };
    let others = [affirmed, warned, contender(4, &models, 1)];
    let told = compare(&contender(1, &models, 0), &others);
    assert_eq!((told.gains.as_slice(), told.better_attested), (&[][..], 2));
    let attest = |tier, millijobs| Gain { change: Change::Attest { tier }, millijobs };
    assert_eq!(told.gains_of_trust, [attest(Tier::Warning, 6_000), attest(Tier::Affirming, 4_000)]);
    let trust = row(&told, Dimension::Trust);
    assert_eq!(
        (trust.mine, trust.theirs, trust.verdict, trust.better, trust.worse),
        (Some(Figure::Trust(Tier::None)), Some(Figure::Trust(Tier::Affirming)), Verdict::Behind, 6_000, 0)
    );
    // Trust rules out and does not rank: who is too dear stays so.
    assert_eq!(compare(&contender(1, &dear, 0), &others).gains_of_trust, []);
    let told = compare(&Contender { tier: Tier::Warning, ..contender(1, &models, 0) }, &others);
    assert_eq!(told.gains_of_trust, [attest(Tier::Affirming, 4_000)]);
}

#[test]
fn hardware_that_something_speaks_against_and_faults_lose_every_job() {
    let models = [offer("a", 4_000, 50_000)];
    let others = [contender(2, &models, 3)];
    let doubted = Contender { tier: Tier::Contraindicated, ..contender(1, &models, 0) };
    let told = compare(&doubted, &others);
    assert_eq!(told.lost, [Lost { lack: Lack::Trust, millijobs: 3_000 }]);
    assert_eq!(told.gains, [Gain { change: Change::Attest { tier: Tier::Warning }, millijobs: 3_000 }]);

    let slashed = Some(Slashed { fault: Fault::Offers, until_ms: 1 });
    let quality = Quality { slashed, ..Quality::default() };
    let told = compare(&Contender { quality, ..contender(1, &models, 0) }, &others);
    assert_eq!((told.lost[0].lack, told.gains.len()), (Lack::Fault, 0));
}

#[test]
fn a_speed_that_is_usual_here_wins_where_it_is_what_is_missing() {
    let (slow, usual) = ([offer("a", 4_000, 20_000)], [offer("a", 4_000, 50_000)]);
    let told = compare(&contender(1, &slow, 0), &[contender(2, &usual, 2)]);
    assert_eq!(told.lost[0].lack, Lack::Speed);
    assert_eq!(wins(&told), [(&Change::Speed { model: Line::lossy("a"), speed: 50_000 }, 2_000)]);
    let speed = row(&told, Dimension::Speed);
    assert_eq!(
        (speed.mine, speed.theirs),
        (Some(Figure::Milliseconds(12_800)), Some(Figure::Milliseconds(5_120)))
    );
    // As fast, but dearer: no card helps.
    let dear = [offer("a", 400_000, 50_000)];
    let told = compare(&contender(1, &dear, 0), &[contender(2, &usual, 2)]);
    assert!(told.gains.iter().all(|gain| !matches!(gain.change, Change::Speed { .. })), "{told:?}");
}

#[test]
fn rows_tell_the_median_job_of_the_same_models() {
    let mine = [offer("a", 4_000, 50_000), offer("c", 1, 50_000)];
    let (cheap, dear, other) = ([offer("a", 2_000, 50_000)], [offer("a", 8_000, 50_000)], [offer("b", 1, 50_000)]);
    let others =
        [contender(2, &cheap, 3), contender(3, &dear, 1), contender(4, &other, 2), contender(5, &dear, 0)];
    let told = compare(&contender(1, &mine, 0), &others);
    assert_eq!(told.rows.iter().map(|row| row.dimension).collect::<Vec<_>>(), Dimension::ALL);
    let price = row(&told, Dimension::Price);
    // 256 tokens each way, and what the model is offered for that nobody else has does not count.
    assert_eq!(
        (price.mine, price.theirs),
        (Some(Figure::Price(MicroCredits(1_280))), Some(Figure::Price(MicroCredits(640))))
    );
    assert_eq!((price.verdict, price.better, price.worse), (Verdict::Behind, 3_000, 1_000));
    let models = row(&told, Dimension::Models);
    assert_eq!(
        (models.mine, models.theirs, models.verdict, models.better),
        (Some(Figure::Millijobs(4_000)), Some(Figure::Millijobs(6_000)), Verdict::Behind, 2_000)
    );
    // Without work, nothing is said.
    let idle = compare(&contender(1, &mine, 0), &others[3..]);
    assert!(idle.rows.iter().all(|row| row.verdict == Verdict::Unknown && row.mine.is_none()), "{idle:?}");
}

#[test]
fn addresses_tell_who_needs_a_relay() {
    let circuit = "/ip4/7.7.7.7/tcp/4101/p2p/12D3KooW/p2p-circuit";
    assert_eq!(Reach::of([circuit, "/ip4/8.8.8.8/udp/4101/quic-v1"]), Some(Reach::Direct));
    assert_eq!(Reach::of([circuit, circuit]), Some(Reach::Relayed));
    assert_eq!(Reach::of([]), None);
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
