//! What an hour of a city shows.

use super::{
    hour::live,
    outcome::Outcome,
    plan::{Kind, Plan},
};
use std::time::Duration;

/// The seed to try, or the one of `AITBC_CITY_SEED`.
fn seed() -> u64 {
    std::env::var("AITBC_CITY_SEED").map_or(1, |seed| seed.parse().expect("AITBC_CITY_SEED is a number"))
}

/// Lives an hour and shows what came of it, for whoever looks for the reason of a failure.
fn lived(plan: Plan) -> Outcome {
    let outcome = live(plan);
    println!("seed {}: {outcome}", plan.seed);
    outcome
}

/// Nearly all jobs are finished, and nobody is held to be at fault who keeps its word.
fn check_honest(outcome: &Outcome) {
    let Outcome { asked, finished, .. } = *outcome;
    assert!(asked > 1_000 && finished * 100 >= asked * 99, "{finished} of {asked} jobs finished");
    let guilty = outcome.faults.keys().filter(|(kind, _)| *kind != Some(Kind::Lying));
    assert_eq!(guilty.count(), 0, "{:?}", outcome.faults);
    let rejected = outcome.rejected.keys().filter(|kind| **kind != Some(Kind::Lying));
    assert_eq!(rejected.count(), 0, "gossip of the honest is never rejected: {:?}", outcome.rejected);
}

#[test]
fn an_hour_among_strangers_goes_well_for_the_honest() {
    let outcome = lived(Plan::two_hundred(seed()));
    check_honest(&outcome);

    let honest = outcome.mean_income(Kind::Honest);
    // A machine that stands ready costs about half of what it can earn here.
    let costs = honest / 2;
    for kind in [Kind::Colluding, Kind::Slow] {
        let income = outcome.mean_income(kind);
        assert!(income < costs, "{kind:?} earns {income} and costs {costs}");
    }
    // Those that lie earn until they sign what anybody can hold against them.
    for kind in [Kind::Lying, Kind::Failing] {
        let income = outcome.mean_income(kind);
        assert!(income < honest, "{kind:?} earns {income}, keeping one's word {honest}");
    }
    assert!(!outcome.faults.is_empty(), "liars are found out");

    for (most, fair, of) in outcome.shares() {
        assert!(most <= 3 * fair, "{most} jobs at one of {of} equals, {fair} are fair");
    }
    let [by_coordinates, by_distance] = outcome.estimates_off;
    assert!(
        2 * by_coordinates < by_distance && by_coordinates < 350,
        "{by_coordinates} and {by_distance} of 1000"
    );
    let [calm, busy, again] = outcome.mean_factors();
    assert!(busy > calm && busy > again, "x{calm} while it is calm, x{busy} while it is busy, then x{again}");
}

#[test]
fn who_has_left_is_seldom_tried() {
    let plan = Plan { leaving: 500, lasts: Duration::from_secs(1_800), ..Plan::two_hundred(seed()) };
    let outcome = lived(plan);
    check_honest(&outcome);
    let counts = &outcome.counts;
    assert!(outcome.left > 8 && counts.asked_in_vain + counts.dialled_in_vain > 0, "some leave without a word");
    assert!(
        counts.asked_in_vain * 20 < counts.asked,
        "{} of {} asked had left",
        counts.asked_in_vain,
        counts.asked
    );
    let (tried, stale) = (counts.asked + counts.dialled, counts.asked_in_vain + counts.dialled_in_vain);
    assert!(stale * 20 < tried, "{stale} of {tried} tried had left");
}

#[test]
fn a_seed_repeats_its_hour() {
    let plan = Plan { lasts: Duration::from_secs(300), leaving: 2_000, ..Plan::two_hundred(seed() + 6) };
    assert_eq!(lived(plan), lived(plan));
}
