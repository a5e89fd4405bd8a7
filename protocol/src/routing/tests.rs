use super::*;
use crate::{
    evidence::{Fault, Slashed},
    offer::{Device, DeviceKind, Engine},
    price::TokenPrice,
    text::Line,
};
use proptest::prelude::*;

pub(super) fn offer() -> ModelOffer {
    ModelOffer {
        model: Line::lossy("smollm2:135m"),
        weights: Digest([1; 32]),
        engine: Engine { name: Line::lossy("llama.cpp"), version: Line::lossy("1") },
        quantisation: Line::lossy("Q4_1"),
        device: Device {
            kind: DeviceKind::Gpu,
            name: Line::lossy("a GPU"),
            memory_bytes: 8 << 30,
            measured: None,
        },
        context: 8192,
        price: TokenPrice { prompt: MicroCredits(100), completion: MicroCredits(400) },
        speed: 100_000,
        declared: false,
        private: None,
    }
}

fn candidate(offer: &ModelOffer, id: u8) -> Candidate<'_> {
    Candidate {
        provider: NodeId([id; 32]),
        offer,
        slots: 4,
        load: Load::default(),
        tier: Tier::None,
        distance_km: 300.0,
        round_trip_ms: Some(10.0),
        estimated_ms: None,
        offline_ms: None,
        failures: 0.0,
        speed_seen: None,
        prefill_seen: None,
        rests_ms: None,
        lateness: 0.0,
        shown_bytes: 0,
        quality: Quality::default(),
    }
}

#[test]
fn a_better_day_weighs_and_a_stranger_is_neither_good_nor_bad() {
    let offer = offer();
    let rated = |id, score: Option<u32>| {
        let tier = score.map_or(crate::qos::Tier::Unrated, crate::qos::Tier::of);
        Candidate { quality: Quality { score, tier, slashed: None }, ..candidate(&offer, id) }
    };
    let candidates = [rated(1, Some(100_000)), rated(2, None), rated(3, Some(950_000)), rated(4, Some(500_000))];
    let ranked = rank(&candidates, &policy());
    let order: Vec<usize> = ranked.iter().map(|ranked| ranked.index).collect();
    assert_eq!(order, [2, 1, 3, 0]);
    assert!((ranked[1].cost - ranked[2].cost).abs() < 1e-9, "unrated counts as half");
    assert!(ranked[0].reasons.to_string().ends_with("platinum with 95.0 %"), "{}", ranked[0].reasons);
    let plain = |score| rank(&[rated(1, score)], &policy())[0].cost;
    let time = plain(None) - plain(Some(ONE));
    assert!((plain(Some(0)) - plain(None) - time).abs() < 1e-9 && time > 0.0, "a quarter each way");
}

fn policy() -> Policy {
    Policy {
        model: Line::lossy("smollm2:135m"),
        preference: Preference::Balanced,
        weights: None,
        work: Work::Ordinary,
        prompt_tokens: 100,
        completion_tokens: 200,
        latency_budget_ms: 400.0,
        latency: LatencyClass::Standard,
        ceiling: None,
        allow_declared: false,
        min_trust: Tier::None,
        least_shown: 0,
        physical: true,
        conditions: Conditions::default(),
        named: false,
        exclude: Vec::new(),
    }
}

#[test]
fn every_exclusion_says_what_rules_out() {
    type Change = fn(&mut ModelOffer, &mut Policy);
    let cases: [(&str, Change, Exclusion); 9] = [
        ("failed before", |_, policy| policy.exclude.push(NodeId([1; 32])), Exclusion::FailedBefore),
        ("weights", |_, policy| policy.weights = Some(Digest([9; 32])), Exclusion::OtherWeights),
        ("declared", |offer, _| offer.declared = true, Exclusion::OnlyDeclared),
        ("upstream", |offer, _| offer.device.kind = DeviceKind::Upstream, Exclusion::OnlyDeclared),
        ("context", |offer, _| offer.context = 299, Exclusion::ContextTooSmall { needed: 300, context: 299 }),
        (
            "ceiling",
            |_, policy| policy.ceiling = Some(MicroCredits(89)),
            Exclusion::TooExpensive { price: MicroCredits(90), ceiling: MicroCredits(89) },
        ),
        (
            "too slow",
            |_, policy| policy.latency_budget_ms = 9.0,
            Exclusion::TooSlow { round_trip_ms: 10.0, budget_ms: 9.0 },
        ),
        ("not shown", |_, policy| policy.least_shown = 1, Exclusion::NotShown { shown: 0, least: 1 }),
        ("none", |_, _| {}, Exclusion::FailedBefore),
    ];
    for (name, change, expected) in cases {
        let (mut offer, mut policy) = (offer(), policy());
        change(&mut offer, &mut policy);
        let ranked = rank(&[candidate(&offer, 1)], &policy);
        let expected = (name != "none").then_some(expected);
        assert_eq!(ranked[0].excluded, expected, "{name}");
        assert_eq!(ranked[0].cost.is_infinite(), expected.is_some(), "{name}");
    }
    let offer = offer();
    let slashed = Slashed { fault: Fault::Receipts, until_ms: 7 };
    let quality = Quality { slashed: Some(slashed), ..Quality::default() };
    let ranked = rank(&[Candidate { quality, ..candidate(&offer, 1) }], &policy());
    assert_eq!(ranked[0].excluded, Some(Exclusion::Slashed(slashed)));
    let ranked = rank(&[Candidate { offline_ms: Some(12_345), ..candidate(&offer, 1) }], &policy());
    let excluded = ranked[0].excluded.clone();
    assert_eq!(excluded, Some(Exclusion::Offline { for_ms: 12_345 }));
    assert_eq!(excluded.map(|reason| reason.to_string()).as_deref(), Some("offline for 12 s"));
    let ranked = rank(&[Candidate { rests_ms: Some(4_200), ..candidate(&offer, 1) }], &policy());
    let excluded = ranked[0].excluded.clone().expect("it rests");
    assert!(excluded.to_string().contains("in 5 s") && excluded.what() == "failures", "{excluded}");
    let named = Policy { named: true, ..policy() };
    assert_eq!(rank(&[Candidate { rests_ms: Some(4_200), ..candidate(&offer, 1) }], &named)[0].excluded, None);
}

#[test]
fn vectors_do_not_need_the_whole_prompt_in_one_context() {
    let offer = ModelOffer { context: 50, ..offer() };
    let policy = Policy { completion_tokens: 0, ..policy() };
    assert_eq!(rank(&[candidate(&offer, 1)], &policy)[0].excluded, None);
}

#[test]
fn faster_than_light_is_out_only_where_places_are_real() {
    let offer = offer();
    let far = Candidate { distance_km: 10_000.0, round_trip_ms: Some(1.0), ..candidate(&offer, 1) };
    let real = rank(std::slice::from_ref(&far), &policy());
    assert!(matches!(real[0].excluded, Some(Exclusion::ImpossibleDistance { .. })));
    let demo = rank(&[far], &Policy { physical: false, ..policy() });
    assert_eq!(demo[0].excluded, None);
    assert!((demo[0].reasons.round_trip_ms - least_round_trip_ms(10_000.0)).abs() < 1e-9);
    assert_eq!(demo[0].reasons.round_trip_by, RoundTripBy::Distance, "a pretended distance is not a measurement");
}

#[test]
fn an_estimate_ranks_and_rules_nobody_out() {
    let offer = offer();
    let stranger = |id, estimated_ms| Candidate {
        round_trip_ms: None,
        estimated_ms,
        distance_km: 500.0,
        ..candidate(&offer, id)
    };
    let known = |candidate| {
        let ranked = rank(&[candidate], &Policy { latency_budget_ms: 50.0, ..policy() }).remove(0);
        (ranked.reasons.round_trip_ms.round() as u32, ranked.reasons.round_trip_by, ranked.excluded)
    };
    assert_eq!(known(stranger(1, Some(30.0))), (30, RoundTripBy::Coordinates, None));
    assert_eq!(known(stranger(1, Some(70.0))), (70, RoundTripBy::Coordinates, None), "it may be far off");
    for nothing in [None, Some(2.0), Some(f64::NAN)] {
        assert_eq!(known(stranger(1, nothing)), (5, RoundTripBy::Distance, None), "light needs as long");
    }
    let measured = Candidate { round_trip_ms: Some(20.0), ..stranger(1, Some(30.0)) };
    assert_eq!(known(measured), (20, RoundTripBy::Measured, None));
    let ranked = rank(&[stranger(1, Some(40.0)), stranger(2, Some(20.0))], &policy());
    assert_eq!(ranked[0].index, 1);
}

#[test]
fn what_makes_a_candidate_better() {
    let base = offer();
    let fast = ModelOffer { speed: 400_000, ..offer() };
    let cheap =
        ModelOffer { price: TokenPrice { prompt: MicroCredits(0), completion: MicroCredits(0) }, ..offer() };
    let plain = candidate(&base, 9);
    let better: [(&str, Candidate<'_>); 6] = [
        ("round trip", Candidate { round_trip_ms: Some(5.0), ..candidate(&base, 10) }),
        ("speed", candidate(&fast, 10)),
        ("speed that was seen", Candidate { speed_seen: Some(400_000), ..candidate(&base, 10) }),
        ("price", candidate(&cheap, 10)),
        ("distance breaks a tie", Candidate { distance_km: 299.0, ..candidate(&base, 10) }),
        ("id breaks a tie", candidate(&base, 8)),
    ];
    for (name, candidate) in better {
        let ranked = rank(&[plain.clone(), candidate], &policy());
        assert_eq!(ranked[0].index, 1, "{name}");
    }
    let worse: [(&str, Candidate<'_>); 4] = [
        ("busy", Candidate { load: Load { running: 4, queued: 2 }, ..candidate(&base, 1) }),
        ("boasts of its speed", Candidate { speed_seen: Some(50_000), ..candidate(&fast, 1) }),
        ("lateness", Candidate { lateness: 0.1, ..candidate(&base, 1) }),
        ("failures", Candidate { failures: 0.5, ..candidate(&base, 1) }),
    ];
    for (name, candidate) in worse {
        let ranked = rank(&[candidate, plain.clone()], &policy());
        assert_eq!(ranked[0].index, 1, "{name}");
    }
}

#[test]
fn each_preference_has_its_own_best() {
    // 0.5 s and 10 milli-credits, 2 s and 1, 10 s and none; the last is at the door.
    let made = |speed: u32, price: u64| ModelOffer {
        speed,
        price: TokenPrice { prompt: MicroCredits(0), completion: MicroCredits(price) },
        ..offer()
    };
    let (fast, fair, cheap) = (made(400_000, 50_000), made(100_000, 5_000), made(20_000, 0));
    let near = made(20_000, 10_000);
    let candidates = [
        candidate(&fast, 1),
        candidate(&fair, 2),
        candidate(&cheap, 3),
        Candidate { distance_km: 0.0, tier: Tier::Affirming, ..candidate(&near, 4) },
    ];
    let best = |preference| rank(&candidates, &Policy { preference, ..policy() })[0].index;
    let expected =
        [(Preference::Latency, 0), (Preference::Balanced, 1), (Preference::Cost, 2), (Preference::Private, 3)];
    for (preference, index) in expected {
        assert_eq!(best(preference), index, "{preference}");
    }
    let far = [
        Candidate { distance_km: 2_000.0, round_trip_ms: Some(25.0), ..candidate(&fair, 2) },
        candidates[3].clone(),
    ];
    let best = |preference| rank(&far, &Policy { preference, ..policy() })[0].index;
    assert_eq!((best(Preference::Balanced), best(Preference::LocalFirst)), (0, 1));
    let private = rank(&candidates, &Policy { preference: Preference::Private, ..policy() });
    let reason = private[1].excluded.clone();
    assert_eq!(reason, Some(Exclusion::TooLittleTrust { tier: Tier::None, least: Tier::Affirming }));
}

#[test]
fn conditions_rule_out_and_name_themselves() {
    let base = offer();
    let one = Candidate { tier: Tier::Warning, shown_bytes: 4 << 30, ..candidate(&base, 1) };
    let excluded = |conditions: &str| {
        let conditions = conditions.parse().expect("conditions");
        rank(std::slice::from_ref(&one), &Policy { conditions, ..policy() }).remove(0).excluded
    };
    for met in [
        "",
        "vram>=8 price<0.5 price=0.4 trust>=warning trust<affirming tier<gold tier=unrated rtt<=10 distance=300 speed>99 context>=8192",
        "free=4 failures=0 shown=4 device=gpu kind=gpu kind!=cpu model=smollm2 declared=no private!=yes DEVICE!=rtx",
    ] {
        assert_eq!(excluded(met), None, "{met}");
    }
    for (unmet, found) in [
        ("vram>=16", "8"),
        ("price<0.4", "0.40"),
        ("trust>=affirming", "warning"),
        ("rtt<10", "10"),
        ("device=rtx", "agpu"),
        ("kind=cpu", "gpu"),
        ("declared=yes", "no"),
        ("shown>4", "4"),
        ("tier>=gold", "unrated"),
    ] {
        let expected = Exclusion::Unmet { condition: unmet.to_owned(), found: found.to_owned() };
        assert_eq!(excluded(&format!("vram>0 {unmet} vram>99")), Some(expected), "{unmet}");
    }
    let unknown = ModelOffer { speed: 0, ..offer() };
    let slow = |conditions: &str| {
        let conditions = conditions.parse().expect("conditions");
        rank(&[candidate(&unknown, 1)], &Policy { conditions, ..policy() }).remove(0).excluded
    };
    assert!(
        slow("speed>0").is_some_and(|why| why.to_string().contains("not known")) && slow("speed!=5").is_none()
    );
}

#[test]
fn conditions_that_cannot_be_read_say_which_and_why() {
    let error = |text: &str| text.parse::<Conditions>().expect_err(text).to_string();
    for (text, told) in [
        ("vram>=8 wram>=16", "\"wram>=16\": there is no field \"wram\", use vram"),
        ("vram>=much", "\"vram>=much\": a number"),
        ("vram>=", "\"vram>=\": a number"),
        ("vram>=inf", "a number"),
        ("trust>=high", "\"trust>=high\": none, warning, affirming"),
        ("tier>=good", "\"tier>=good\": unrated, bronze"),
        ("device>a", "\"device>a\": compare it with = or !="),
        ("kind=tpu", "gpu, cpu or other"),
        ("private=maybe", "yes or no"),
        ("device=", "a word"),
        ("cheap", "\"cheap\" is no condition"),
        ("!", "is no condition"),
    ] {
        assert!(error(text).contains(told), "{text}: {}", error(text));
    }
    assert!(error(&"vram>1 ".repeat(17)).contains("more than 16"));
    assert!(error(&format!("device={}", "x".repeat(100))).contains("more than 64 bytes"));
}

#[test]
fn a_long_prompt_is_read_at_the_speed_that_was_seen() {
    let offer = ModelOffer { context: 100_000, ..offer() };
    let policy = Policy { prompt_tokens: 10_000, ..policy() };
    let reasons = |candidate| rank(&[candidate], &policy).remove(0).reasons;
    let word = reasons(candidate(&offer, 1));
    assert!((word.prefill_ms - 10_000.0).abs() < 1e-6, "ten times as fast as it decodes: {word}");
    let seen = reasons(Candidate { prefill_seen: Some(5_000_000), ..candidate(&offer, 1) });
    assert!((seen.prefill_ms - 2_000.0).abs() < 1e-6, "{seen}");
    assert!((seen.first_token_ms() - 2_020.0).abs() < 1e-6, "two round trips before it");
    let waits = reasons(Candidate { load: Load { running: 4, queued: 0 }, ..candidate(&offer, 1) });
    assert!((waits.queue_ms - (10_000.0 + 2_000.0) / 4.0).abs() < 1e-6, "others read prompts too: {waits}");
}

#[test]
fn the_latency_class_sets_the_price_that_is_held_against_the_ceiling() {
    let offer = offer();
    let ranked = |latency, ceiling| {
        let policy = Policy { latency, ceiling: Some(MicroCredits(ceiling)), ..policy() };
        let ranked = rank(&[candidate(&offer, 1)], &policy).remove(0);
        (ranked.reasons.price.0, ranked.excluded.is_some())
    };
    // 100 tokens at 100 a thousand and 200 at 400.
    assert_eq!(ranked(LatencyClass::Standard, 90), (90, false));
    assert_eq!(ranked(LatencyClass::Realtime, 90), (270, true));
    assert_eq!(ranked(LatencyClass::Economy, 63), (63, false));
}

#[test]
fn a_quote_replaces_the_offered_price() {
    let offer = offer();
    let ranked = rank(&[candidate(&offer, 1)], &policy()).remove(0);
    let at = |price| ranked.cost_at(price, Preference::Balanced);
    assert!((at(ranked.reasons.price) - ranked.cost).abs() < 1e-9);
    assert!(at(MicroCredits(0)) < ranked.cost);
    assert!(at(MicroCredits(1_000_000)) > ranked.cost);
}

fn any_candidate(offers: &[ModelOffer]) -> impl Strategy<Value = Candidate<'_>> {
    let round_trip =
        prop_oneof![Just(None), (0.0..600.0f64).prop_map(Some), Just(Some(f64::NAN)), Just(Some(f64::INFINITY)),];
    let parts = (
        any::<u8>(),
        0..offers.len(),
        0..5u32,
        (any::<u32>(), any::<u32>()),
        0.0..20_000.0f64,
        (round_trip.clone(), round_trip),
        prop_oneof![0.0..=1.0f64, Just(f64::NAN), Just(-3.0)],
        prop_oneof![Just(None), any::<u32>().prop_map(Some)],
    );
    parts.prop_map(
        |(
            id,
            index,
            slots,
            (running, queued),
            distance_km,
            (round_trip_ms, estimated_ms),
            failures,
            speed_seen,
        )| {
            Candidate {
                provider: NodeId([id; 32]),
                offer: &offers[index],
                slots,
                load: Load { running, queued },
                tier: Tier::None,
                distance_km,
                round_trip_ms,
                estimated_ms,
                offline_ms: None,
                failures,
                speed_seen,
                prefill_seen: speed_seen,
                rests_ms: None,
                lateness: failures * 2.0,
                shown_bytes: 0,
                quality: Quality::default(),
            }
        },
    )
}

fn some_offers() -> &'static [ModelOffer] {
    static OFFERS: std::sync::OnceLock<Vec<ModelOffer>> = std::sync::OnceLock::new();
    OFFERS.get_or_init(|| {
        vec![
            offer(),
            ModelOffer { speed: 0, ..offer() },
            ModelOffer { speed: u32::MAX, context: 0, ..offer() },
            ModelOffer { declared: true, ..offer() },
            ModelOffer {
                price: TokenPrice { prompt: MicroCredits(u64::MAX), completion: MicroCredits(u64::MAX) },
                ..offer()
            },
        ]
    })
}

proptest! {
    #[test]
    fn no_text_breaks_conditions(text in "(vram|price|trust|rtt|é|x)?[=!<>]{0,2}.{0,12}") {
        let _ = text.parse::<Conditions>();
    }

    #[test]
    fn a_ranking_is_total_and_does_not_depend_on_the_order_given(
        mut candidates in prop::collection::vec(any_candidate(some_offers()), 0..40),
        rotate in 0..40usize,
        ceiling in prop::option::of(any::<u64>()),
    ) {
        // One candidate a provider, as a client has them.
        let mut known = std::collections::HashSet::new();
        candidates.retain(|candidate| known.insert(candidate.provider));
        let policy = Policy { ceiling: ceiling.map(MicroCredits), ..policy() };
        let ranked = rank(&candidates, &policy);
        let mut indices: Vec<usize> = ranked.iter().map(|ranked| ranked.index).collect();
        let providers: Vec<NodeId> = indices.iter().map(|&index| candidates[index].provider).collect();
        indices.sort_unstable();
        prop_assert_eq!(indices, (0..candidates.len()).collect::<Vec<_>>());
        prop_assert!(ranked.is_sorted_by(|a, b| a.excluded.is_some() <= b.excluded.is_some()));
        prop_assert!(ranked.is_sorted_by(|a, b| a.cost <= b.cost), "costs are numbers and in order");
        for ranked in &ranked {
            prop_assert_eq!(ranked.excluded.is_some(), ranked.cost.is_infinite());
            if let Some(exclusion) = &ranked.excluded {
                prop_assert!(!exclusion.to_string().is_empty());
            }
        }
        for most in [0, candidates.len() / 2, candidates.len()] {
            let best = rank_best(&candidates, &policy, most);
            let of = |ranked: &[Ranked]| ranked.iter().map(|one| one.index).collect::<Vec<_>>();
            prop_assert_eq!(of(&best), of(&ranked[..most]));
        }
        if !candidates.is_empty() {
            let rotate = rotate % candidates.len();
            candidates.rotate_left(rotate);
        }
        let again: Vec<NodeId> =
            rank(&candidates, &policy).iter().map(|ranked| candidates[ranked.index].provider).collect();
        prop_assert_eq!(again, providers);
    }
}

#[test]
fn private_models_and_ordinary_jobs_do_not_meet() {
    use crate::private::PrivateOffer;
    let plain = offer();
    let private = PrivateOffer { profile: Line::lossy("high"), bootstraps: 1_000, key_bytes: 1 };
    let private = ModelOffer { private: Some(private), context: 1, speed: 100_000, ..offer() };
    let ranked = |offer: &ModelOffer, work| rank(&[candidate(offer, 1)], &Policy { work, ..policy() }).remove(0);
    let excluded = |offer: &ModelOffer, work| ranked(offer, work).excluded;
    assert_eq!(excluded(&private, Work::Ordinary), Some(Exclusion::OnlyPrivate));
    assert_eq!(excluded(&plain, Work::Private), Some(Exclusion::NotPrivate));
    assert_eq!((excluded(&plain, Work::Ordinary), excluded(&private, Work::Private)), (None, None));
    assert_eq!((excluded(&plain, Work::Any), excluded(&private, Work::Any)), (None, None), "it has no context");
    assert!(Exclusion::OnlyPrivate.to_string().contains("private run"));
    // The model says how much there is to compute, and all of it is.
    let reasons = ranked(&private, Work::Private).reasons;
    assert_eq!((reasons.generate_ms, reasons.price), (10_000.0, MicroCredits(410)));
}
