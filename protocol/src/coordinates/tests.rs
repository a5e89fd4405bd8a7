use super::*;
use crate::wire;
use proptest::prelude::*;
use rand_xoshiro::{SplitMix64, rand_core::SeedableRng as _};

/// Random numbers that a seed repeats.
struct Draw(SplitMix64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0.next_u64()
    }

    fn between(&mut self, from: f64, to: f64) -> f64 {
        from + (self.next() >> 11) as f64 / (1u64 << 53) as f64 * (to - from)
    }

    fn below(&mut self, most: usize) -> usize {
        (self.next() % most as u64) as usize
    }
}

const NODES: usize = 60;
const NEIGHBOURS: usize = 16;
const ROUNDS: usize = 200;

/// What a liar tells, always with certainty.
#[derive(Clone, Copy, Debug)]
enum Lie {
    /// Any place, another one each time, and up to half a second of delay.
    Anywhere,
    /// All liars together: far in the east to one half, far in the west to the other.
    Split,
    /// That it is where its victim is, half a second away.
    Mirror,
    /// What is true, half a second late.
    Late,
}

/// The median relative error among honest nodes of a plane of 100 ms with lines of 1 to 10 ms, round trips to 16 others measured
/// with a tenth of noise, where the first `liars` lie.
fn median_error(seed: u64, liars: usize, lie: Lie) -> f64 {
    let mut draw = Draw(SplitMix64::seed_from_u64(seed));
    let homes: Vec<(f64, f64, f64)> = (0..NODES)
        .map(|_| (draw.between(0.0, 100.0), draw.between(0.0, 100.0), draw.between(1.0, 10.0)))
        .collect();
    let truth = |one: usize, other: usize| {
        let ((x, y, height), (to_x, to_y, to_height)) = (homes[one], homes[other]);
        (x - to_x).hypot(y - to_y) + height + to_height
    };
    let neighbours: Vec<Vec<usize>> = (0..NODES)
        .map(|one| (0..NEIGHBOURS).map(|_| (one + 1 + draw.below(NODES - 1)) % NODES).collect())
        .collect();
    let mut places = [Place::default(); NODES];
    for _ in 0..ROUNDS {
        for one in liars..NODES {
            let mine = places[one].tell();
            let sample = |other: &usize| {
                let round_trip_ms = truth(one, *other) * draw.between(0.9, 1.1);
                let theirs = places[*other].tell();
                let honest = Sample { theirs, round_trip_ms, least_ms: 0.0 };
                let claim = |x, y| Coordinate { x, y, height: 0, error: 0 };
                let far = |draw: &mut Draw| draw.between(-1e6, 1e6) as i32;
                match lie {
                    _ if *other >= liars => honest,
                    Lie::Anywhere => {
                        let (x, y) = (far(&mut draw), far(&mut draw));
                        let late_ms = draw.between(0.0, 500.0);
                        Sample { theirs: claim(x, y), round_trip_ms: round_trip_ms + late_ms, ..honest }
                    }
                    Lie::Split => {
                        let x = if one.is_multiple_of(2) { 1_000_000 } else { -1_000_000 };
                        Sample { theirs: claim(x, 0), ..honest }
                    }
                    Lie::Mirror => Sample { theirs: claim(mine.x, mine.y), round_trip_ms: 500.0, ..honest },
                    Lie::Late => {
                        let (x, y, _) = homes[*other];
                        let theirs = claim((x * 1e3) as i32, (y * 1e3) as i32);
                        Sample { theirs, round_trip_ms: round_trip_ms + 500.0, ..honest }
                    }
                }
            };
            let samples: Vec<Sample> = neighbours[one].iter().map(sample).collect();
            places[one].learn(&samples, || draw.next());
        }
    }
    let mut errors = Vec::new();
    for one in liars..NODES {
        for other in liars..one {
            let (mine, theirs) = (places[one].tell(), places[other].tell());
            let estimate = Coordinate { error: 0, ..mine }.estimate_ms(&Coordinate { error: 0, ..theirs });
            let truth = truth(one, other);
            errors.push((estimate.expect("certain") - truth).abs() / truth);
        }
    }
    errors.sort_unstable_by(f64::total_cmp);
    errors[errors.len() / 2]
}

/// The worst of eight seeds.
fn worst_error(liars: usize, lie: Lie) -> f64 {
    let worst = (0..8).map(|seed| median_error(seed, liars, lie)).fold(0.0, f64::max);
    println!("{liars} of {NODES} tell {lie:?}: {worst:.3}");
    worst
}

#[test]
fn honest_nodes_find_their_places() {
    assert!(worst_error(0, Lie::Anywhere) < 0.05);
}

#[test]
fn liars_do_bounded_harm() {
    for lie in [Lie::Anywhere, Lie::Split, Lie::Mirror, Lie::Late] {
        for (liars, most) in [(1, 0.05), (NODES / 10, 0.2), (NODES / 5, 0.3)] {
            let error = worst_error(liars, lie);
            assert!(error < most, "{liars} liars that tell {lie:?}: {error}");
        }
    }
}

#[test]
fn nodes_of_one_building_do_not_spoil_each_others_places() {
    let sibling =
        Sample { theirs: Coordinate { x: 0, y: 0, height: 4_000, error: 100 }, round_trip_ms: 0.3, least_ms: 0.0 };
    let far = Sample { round_trip_ms: 40.0, ..sibling };
    let mut place = Place::default();
    for _ in 0..100 {
        place.learn(&[sibling, sibling, sibling, sibling, far], || 7);
    }
    assert!(place.error < 0.1, "{place:?}");
    assert!(!Place::default().learn(&[sibling], || 7));
}

#[test]
fn what_cannot_be_true_changes_nothing() {
    let mut place = Place::default();
    let theirs = Coordinate { x: 10_000, y: 0, height: 100, error: 100 };
    for (round_trip_ms, least_ms) in
        [(f64::NAN, 0.0), (f64::INFINITY, 0.0), (0.0, 0.0), (-1.0, 0.0), (1_000.1, 0.0), (8.0, 10.0)]
    {
        assert!(!place.learn(&[Sample { theirs, round_trip_ms, least_ms }], || 0));
        assert_eq!(place, Place::default());
    }
    assert!(place.learn(&[Sample { theirs, round_trip_ms: 9.5, least_ms: 10.0 }], || 0));
}

#[test]
fn nodes_at_one_place_part() {
    let mut place = Place::default();
    let theirs = Place::default().tell();
    assert!(place.learn(&[Sample { theirs, round_trip_ms: 20.0, least_ms: 0.0 }], || 1 << 62));
    let (x, y) = place.tell().place_ms();
    assert!(x.hypot(y) > 1.0, "{place:?}");
}

#[test]
fn the_uncertain_tell_nothing() {
    let known = Coordinate { x: 3_000, y: 4_000, height: 1_000, error: 100 };
    let other = Coordinate { x: 0, y: 0, height: 500, error: 499 };
    assert_eq!(known.estimate_ms(&other), Some(6.5));
    assert_eq!(known.estimate_ms(&Coordinate { error: 500, ..other }), None);
    assert_eq!(Place::default().tell().estimate_ms(&known), None);
}

#[test]
fn what_begins_to_be_of_use_is_news() {
    let told = |error| Place { x: 5.0, y: 0.0, height: 1.0, error }.tell();
    assert!(!Place::default().tell().is_known(), "it is told from the start");
    for (now, before, is_news) in [
        (0.6, 1.0, false),
        (0.5, 1.0, true),
        (0.499, 0.5, true),
        (0.499, 0.6, true),
        (0.1, 0.499, false),
        (0.7, 0.2, false),
    ] {
        assert_eq!(told(now).is_news(&told(before)), is_news, "{now} after {before}");
    }
}

#[test]
fn only_what_is_within_bounds_is_read() {
    #[derive(Serialize)]
    struct Raw<T> {
        x: T,
        y: T,
        height: T,
        error: T,
    }
    fn read<T: Serialize>(x: T, y: T, height: T, error: T) -> bool {
        let bytes = wire::encode(&Raw { x, y, height, error }, 256).expect("encodes");
        wire::decode::<Coordinate>(&bytes, 256).is_ok()
    }
    let (most, beyond) = (1_000_000i64, 1_000_001i64);
    assert!(read(most, -most, most, 1_000) && read(0, 0, 0, 0));
    for (x, y, height, error) in [
        (beyond, 0, 0, 0),
        (0, -beyond, 0, 0),
        (0, 0, beyond, 0),
        (0, 0, -1, 0),
        (0, 0, 0, 1_001),
        (0, 0, 0, -1),
        (i64::MAX, 0, 0, 0),
        (i64::from(i32::MIN), 0, 0, 0),
    ] {
        assert!(!read(x, y, height, error), "{x} {y} {height} {error}");
    }
    for float in [f64::NAN, f64::INFINITY, 1e300, 0.5] {
        assert!(!read(float, 0.0, 0.0, 0.0), "{float}");
    }
}

proptest! {
    /// Whatever is told and measured, a place stays within bounds, moves by no more than a step, and reads back.
    #[test]
    fn nothing_moves_a_place_out_of_bounds(
        samples in proptest::collection::vec(
            (-1_000_000..=1_000_000i32, -1_000_000..=1_000_000i32, 0..=1_000_000u32, 0..=1_000u16, any::<f64>(), 0.0..1_100.0_f64, any::<u64>()),
            0..60,
        ),
    ) {
        let mut place = Place::default();
        for (x, y, height, error, wild, time, draw) in samples {
            let theirs = Coordinate { x, y, height, error };
            for round_trip_ms in [wild, time] {
                let before = place;
                place.learn(&[Sample { theirs, round_trip_ms, least_ms: 0.0 }], || draw);
                let moved = (place.x - before.x).hypot(place.y - before.y).hypot(place.height - before.height);
                prop_assert!(moved <= MOST_STEP_MS * before.error.max(LEAST_ERROR) + 1e-9);
                prop_assert!(place.x.abs() <= MOST_MS && place.y.abs() <= MOST_MS);
                prop_assert!((LEAST_HEIGHT_MS..=MOST_MS).contains(&place.height));
                prop_assert!((0.0..=1.0).contains(&place.error));
            }
        }
        let told = place.tell();
        let bytes = wire::encode(&told, 64).expect("small");
        prop_assert_eq!(wire::decode::<Coordinate>(&bytes, 64), Ok(told));
    }
}
