use super::*;
use crate::{Digest, MicroCredits, NodeId, Signed, job::Finish};
use proptest::{collection::vec, prelude::*};
use std::collections::BTreeMap;

const NOW: u64 = 1_800_000_000_000;

fn node(n: u8) -> NodeId {
    NodeId([n; 32])
}

fn testimony(jobs: u32, paid: u64, latency: u32) -> Testimony {
    Testimony { jobs, paid, latency: Some(latency), accuracy: None, uptime: Some(ONE) }
}

#[test]
fn the_weights_of_the_parts_are_those_of_the_plan_and_make_one() {
    assert_eq!(Component::ALL.map(Component::ppm), [300_000, 250_000, 200_000, 150_000, 100_000]);
    assert_eq!(Component::ALL.map(Component::ppm).iter().sum::<u32>(), ONE);
}

#[test]
fn a_first_token_is_worth_less_the_later_it_comes() {
    assert_eq!(
        [0, 100, 300, 500, 1_250, 2_000, 6_000, 10_000, u32::MAX].map(latency),
        [ONE, ONE, 900_000, 800_000, 650_000, 500_000, 250_000, 0, 0]
    );
}

#[test]
fn prices_and_rates_are_judged_beside_others() {
    assert_eq!(cost_efficiency(100, &[100, 100]), None, "two others are too few");
    let others = [100, 200, 300];
    assert_eq!(
        [200, 100, 50, 400, 0, u64::MAX].map(|own| cost_efficiency(own, &others)),
        [Some(500_000), Some(ONE), Some(ONE), Some(250_000), Some(ONE), Some(0)]
    );
    assert_eq!(
        [200, 400, 800, 100, 0].map(|own| power_efficiency(own, &others, true)),
        [Some(500_000), Some(ONE), Some(ONE), Some(250_000), Some(0)]
    );
    assert_eq!(power_efficiency(400, &others, false), Some(500_000), "a claim is worth half");
    assert_eq!(power_efficiency(u64::MAX, &[u64::MAX; 3], true), Some(500_000));
}

#[test]
fn tiers_begin_where_they_say() {
    use Tier::{Bronze, Gold, Platinum, Silver};
    let tiers = [0, 499_999, 500_000, 749_999, 750_000, 899_999, 900_000, ONE].map(Tier::of);
    assert_eq!(tiers, [Bronze, Bronze, Silver, Silver, Gold, Gold, Platinum, Platinum]);
    assert!(Tier::Unrated < Tier::Bronze && Tier::default() == Tier::Unrated);
}

#[test]
fn too_little_is_unrated_and_says_why() {
    let rated = rate(None, &[], 100, Some(ONE), Some(ONE));
    assert_eq!((rated.score, rated.tier), (None, Tier::Unrated));
    assert_eq!(rated.unrated, Some(Unrated::Jobs { have: 0, least: 3 }));
    let rated = rate(Some(testimony(2, 200, ONE)), &[], 100, None, None);
    assert_eq!(rated.unrated, Some(Unrated::Jobs { have: 2, least: 3 }));
    // Enough jobs, of which nothing but the latency is known.
    let only = Testimony { uptime: None, ..testimony(3, 300, ONE) };
    let rated = rate(Some(only), &[], 100, None, None);
    assert_eq!(rated.unrated, Some(Unrated::Parts { have: 30, least: 50 }));
    let rated = rate(Some(testimony(3, 300, ONE)), &[], 100, None, None);
    assert_eq!((rated.score, rated.tier, rated.unrated), (Some(ONE), Tier::Platinum, None));
}

#[test]
fn what_is_not_known_gives_its_weight_to_the_rest() {
    let rated = rate(Some(testimony(3, 300, 500_000)), &[], 100, None, Some(250_000));
    // (0.30 x 0.5 + 0.20 x 1 + 0.10 x 0.25) / 0.60
    assert_eq!(rated.score, Some(625_000));
    let weights: Vec<u32> = rated.parts.iter().map(|part| part.ppm).collect();
    assert_eq!(weights, [500_000, 0, 333_333, 0, 166_666]);
}

#[test]
fn a_fault_takes_of_the_score_and_lowers_the_tier() {
    let rated = rate(Some(testimony(3, 300, ONE)), &[], 100, None, None);
    let half = rated.clone().reduced(500_000);
    assert_eq!((half.score, half.tier), (Some(500_000), Tier::Silver));
    assert_eq!(rated.clone().reduced(u32::MAX), rated);
    assert_eq!(rated.reduced(0).tier, Tier::Bronze);
    assert_eq!(rate(None, &[], 100, None, None).reduced(0).tier, Tier::Unrated);
}

#[test]
fn strangers_together_never_rate_anybody() {
    let authors: BTreeMap<NodeId, u64> = (10..74).map(|n| (node(n), 1_000_000)).collect();
    let weights = weights(&Heard::default(), node(1), &authors, 100);
    assert!(weights.values().all(|weight| weight.through == Through::Stranger));
    assert!(weights.values().map(|weight| weight.amount).sum::<u64>() <= 100 * UNIT);
    let voices: Vec<Voice> = weights
        .values()
        .map(|weight| Voice { weight: weight.amount, testimony: testimony(50, 1_000_000, ONE) })
        .collect();
    let rated = rate(None, &voices, 100, Some(ONE), Some(ONE));
    assert!(rated.jobs <= 1 && rated.tier == Tier::Unrated, "{rated:?}");
}

#[test]
fn whoever_i_have_settled_with_vouches_for_others_within_that() {
    let (provider, friend, behind, other) = (node(1), node(2), node(3), node(4));
    let heard = Heard {
        settled: BTreeMap::from([(friend, 1_000), (provider, 9_000)]),
        paid: BTreeMap::from([
            ((behind, friend), 400),
            ((friend, other), 50_000),
            // The provider vouches for nobody about itself.
            ((node(5), provider), 8_000),
        ]),
    };
    let authors = BTreeMap::from([(friend, 300), (behind, 500), (other, 2_000), (node(5), 8_000), (provider, 7)]);
    let weights = weights(&heard, provider, &authors, 10);
    let of = |node: NodeId| weights.get(&node).map(|weight| (weight.amount / UNIT, weight.through));
    assert_eq!(of(friend), Some((300, Through::Direct)));
    // 700 are left for 400 and 2,000.
    assert_eq!(of(behind), Some((116, Through::Over(friend))));
    assert_eq!(of(other), Some((583, Through::Over(friend))));
    assert_eq!(of(node(5)), Some((10, Through::Stranger)));
    assert_eq!(of(provider), None, "nobody is a witness to itself");
}

#[test]
fn an_observation_is_about_a_job_of_its_author_of_today() {
    let (author, provider) = (node(1), node(2));
    let served = Served { client: author, receipt: Digest([3; 32]), total: MicroCredits(5), ended_ms: NOW };
    let observation = Observation {
        served: Signed::from_parts(provider, [0; 64], Vec::new()),
        first_token_ms: Some(100),
        speed: Some(20_000),
        total_ms: 900,
        finish: Finish::Stop,
        verified: None,
        uptime: Some(Uptime { heard: 5, of: 6 }),
        issued_ms: NOW,
    };
    let check = |said: &Observation, served: &Served, now_ms| said.check(author, provider, served, now_ms);
    assert_eq!(check(&observation, &served, NOW), Ok(()));
    let ended = |finish, first_token_ms| Observation { first_token_ms, finish, ..observation.clone() }.latency();
    assert_eq!(ended(Finish::Stop, Some(500)), Some(800_000));
    assert_eq!(ended(Finish::Failed, Some(500)), Some(0), "no answer is the latest of all");
    assert_eq!((ended(Finish::Length, None), ended(Finish::Cancelled, Some(1))), (None, None));
    assert_eq!(check(&observation, &served, NOW + WINDOW_MS), Ok(()));
    assert_eq!(check(&observation, &served, NOW + WINDOW_MS + 1), Err(ObservationFault::Expired));
    assert_eq!(check(&observation, &served, NOW - 30_001), Err(ObservationFault::Dates));
    let late = Observation { issued_ms: NOW + DELAY_MS + 1, ..observation.clone() };
    assert_eq!(check(&late, &served, NOW + DELAY_MS + 1), Err(ObservationFault::Dates), "an old job told anew");
    let others = Served { client: node(9), ..served };
    assert_eq!(check(&observation, &others, NOW), Err(ObservationFault::OtherClient));
    assert_eq!(observation.check(provider, provider, &served, NOW), Err(ObservationFault::OwnJob));
    for wrong in [
        Observation { first_token_ms: Some(901), ..observation.clone() },
        Observation { uptime: Some(Uptime { heard: 7, of: 6 }), ..observation.clone() },
        Observation { uptime: Some(Uptime { heard: 0, of: MAX_SLOTS + 1 }), ..observation.clone() },
    ] {
        assert_eq!(check(&wrong, &served, NOW), Err(ObservationFault::Inconsistent));
    }
}

fn share() -> impl Strategy<Value = u32> {
    0..=ONE
}

prop_compose! {
    fn honest()(weight in 1..=u64::MAX / 64, latency in share(), accuracy in share(), uptime in share()) -> Voice {
        let told = (Some(latency), Some(accuracy), Some(uptime));
        Voice { weight, testimony: Testimony { jobs: 9, paid: 0, latency: told.0, accuracy: told.1, uptime: told.2 } }
    }
}

prop_compose! {
    fn lie()(
        weight in 1..=1_000_000u64, latency in prop::option::of(any::<u32>()), accuracy in prop::option::of(any::<u32>()),
        uptime in prop::option::of(any::<u32>()), jobs: u32, paid: u64,
    ) -> Voice {
        Voice { weight, testimony: Testimony { jobs, paid, latency, accuracy, uptime } }
    }
}

/// The least and the greatest score that follow where each part is the least or the greatest of what is told.
fn range(voices: &[Voice], power: Option<u32>, cost: Option<u32>) -> (u32, u32) {
    type Pick = fn((Option<u32>, Option<u32>)) -> Option<u32>;
    let extremes = |told: fn(&Testimony) -> Option<u32>| {
        let values: Vec<u32> = voices.iter().filter_map(|voice| told(&voice.testimony)).collect();
        (values.iter().min().copied(), values.iter().max().copied())
    };
    let parts = [extremes(|told| told.latency), extremes(|told| told.accuracy), extremes(|told| told.uptime)];
    let score = |pick: Pick| {
        let [latency, accuracy, uptime] = parts.map(pick);
        let testimony = Testimony { jobs: 9, paid: 1, latency, accuracy, uptime };
        rate(Some(testimony), &[], 1, power, cost).score.expect("all parts are known")
    };
    (score(|pair| pair.0), score(|pair| pair.1))
}

proptest! {
    /// The stated bound: liars who weigh less than the honest move a score within the range of what the honest say.
    #[test]
    fn a_minority_of_liars_stays_within_the_honest_range(
        voices in vec(honest(), 1..8), lies in vec(lie(), 1..24),
        power in prop::option::of(share()), cost in prop::option::of(share()),
    ) {
        let honest: u128 = voices.iter().map(|voice| u128::from(voice.weight)).sum();
        let lying: u128 = lies.iter().map(|voice| u128::from(voice.weight)).sum();
        // As heavy as a minority can be.
        let scaled = |weight: u64| u128::from(weight) * (honest - 1) / lying;
        let lies: Vec<Voice> = lies
            .into_iter()
            .map(|lie| Voice { weight: u64::try_from(scaled(lie.weight)).expect("below the honest"), ..lie })
            .collect();
        let all: Vec<Voice> = voices.iter().chain(&lies).copied().collect();
        let score = rate(None, &all, 1, power, cost);
        let (least, most) = range(&voices, power, cost);
        if let Some(score) = score.score {
            prop_assert!((least..=most).contains(&score), "{least} <= {score} <= {most}");
        }
        let alone = rate(None, &voices, 1, power, cost);
        if let (Some(with), Some(without)) = (score.score, alone.score) {
            prop_assert!(with.abs_diff(without) <= most - least);
        }
    }

    /// However many names somebody has, and whatever they say of each other, together they weigh what I settled with the one
    /// that I know, and one job of mine.
    #[test]
    fn names_are_worth_nothing(
        settled in 0..1_000_000u64, names in 1..40u8, edges in vec((0..40u8, 0..40u8, any::<u64>()), 0..80),
        paid in vec(any::<u64>(), 40), job in 0..10_000u64,
    ) {
        let provider = node(255);
        let heard = Heard {
            settled: BTreeMap::from([(node(0), settled)]),
            paid: edges.into_iter().map(|(from, to, sum)| ((node(from), node(to)), sum)).collect(),
        };
        let authors = (0..names).map(|n| (node(n), paid[usize::from(n)])).collect();
        let weights = weights(&heard, provider, &authors, job);
        let all: u128 = weights.values().map(|weight| u128::from(weight.amount)).sum();
        prop_assert!(all <= u128::from(UNIT) * (u128::from(settled) + u128::from(job.max(1))), "{all}");
        for (author, weight) in &weights {
            let most = u128::from(authors[author].max(1)) * u128::from(UNIT);
            prop_assert!(weight.through == Through::Stranger || u128::from(weight.amount) <= most);
        }
    }

    #[test]
    fn any_input_rates_or_says_why(
        own in prop::option::of(lie()), lies in vec(lie(), 0..8), job: u64,
        power in prop::option::of(any::<u32>()), cost in prop::option::of(any::<u32>()),
    ) {
        let rated = rate(own.map(|own| own.testimony), &lies, job, power, cost);
        prop_assert_eq!(rated.score.is_some(), rated.unrated.is_none());
        prop_assert!(rated.score.is_none_or(|score| score <= ONE));
        prop_assert!(rated.parts.iter().map(|part| part.ppm).sum::<u32>() <= ONE);
    }

    #[test]
    fn a_later_first_token_is_never_worth_more(ms: u32, more: u32) {
        prop_assert!(latency(ms.saturating_add(more)) <= latency(ms));
    }

    #[test]
    fn efficiency_is_monotone(own: u64, more: u64, others in vec(any::<u64>(), 3..9)) {
        let dearer = own.saturating_add(more);
        prop_assert!(cost_efficiency(dearer, &others) <= cost_efficiency(own, &others));
        prop_assert!(power_efficiency(dearer, &others, true) >= power_efficiency(own, &others, true));
    }
}

#[test]
fn every_tier_begins_at_its_least_score() {
    for tier in Tier::ALL {
        assert!(tier.least().is_none_or(|least| Tier::of(least) == tier), "{tier}");
        let below = tier.least().and_then(|least| least.checked_sub(1));
        assert!(below.is_none_or(|below| Tier::of(below) < tier), "{tier}");
    }
}
