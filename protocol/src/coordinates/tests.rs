use super::*;
use crate::wire;
use proptest::prelude::*;

/// Numbers that look random and are the same every time.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn between(&mut self, from: f64, to: f64) -> f64 {
        from + (self.next() >> 11) as f64 / (1u64 << 53) as f64 * (to - from)
    }

    fn below(&mut self, most: usize) -> usize {
        (self.next() % most as u64) as usize
    }
}

const NODES: usize = 60;
const ROUNDS: usize = 400;

/// The median relative error among honest nodes of a plane of 100 ms with lines of 1 to 10 ms, round trips measured with a
/// tenth of noise, where the first `liars` claim any place with certainty and delay what they answer.
fn median_error(seed: u64, liars: usize) -> f64 {
    let mut draw = Draw(seed);
    let homes: Vec<(f64, f64, f64)> = (0..NODES)
        .map(|_| (draw.between(0.0, 100.0), draw.between(0.0, 100.0), draw.between(1.0, 10.0)))
        .collect();
    let truth = |one: usize, other: usize| {
        let ((x, y, height), (to_x, to_y, to_height)) = (homes[one], homes[other]);
        (x - to_x).hypot(y - to_y) + height + to_height
    };
    let mut places = [Place::default(); NODES];
    for _ in 0..ROUNDS {
        for one in liars..NODES {
            let other = (one + 1 + draw.below(NODES - 1)) % NODES;
            let (mut theirs, mut round_trip_ms) = (places[other].tell(), truth(one, other));
            round_trip_ms *= draw.between(0.9, 1.1);
            if other < liars {
                let far = |draw: &mut Draw| draw.between(-1e6, 1e6) as i32;
                theirs = Coordinate { x: far(&mut draw), y: far(&mut draw), height: 0, error: 0 };
                round_trip_ms += draw.between(0.0, 500.0);
            }
            let draw = draw.next();
            places[one].learn(&Sample { theirs, round_trip_ms, least_ms: 0.0 }, draw);
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

#[test]
fn honest_nodes_find_their_places() {
    for seed in 0..8 {
        let error = median_error(seed, 0);
        assert!(error < 0.05, "{error} with seed {seed}");
    }
}

#[test]
fn one_liar_changes_next_to_nothing() {
    for seed in 0..8 {
        let error = median_error(seed, 1);
        assert!(error < 0.05, "{error} with seed {seed}");
    }
}

#[test]
fn a_tenth_of_liars_does_bounded_harm() {
    for seed in 0..8 {
        let error = median_error(seed, NODES / 10);
        assert!(error < 0.15, "{error} with seed {seed}");
    }
}

#[test]
fn what_cannot_be_true_changes_nothing() {
    let mut place = Place::default();
    let theirs = Coordinate { x: 10_000, y: 0, height: 100, error: 100 };
    for (round_trip_ms, least_ms) in
        [(f64::NAN, 0.0), (f64::INFINITY, 0.0), (0.0, 0.0), (-1.0, 0.0), (1_000.1, 0.0), (8.0, 10.0)]
    {
        assert!(!place.learn(&Sample { theirs, round_trip_ms, least_ms }, 0));
        assert_eq!(place, Place::default());
    }
    assert!(place.learn(&Sample { theirs, round_trip_ms: 9.5, least_ms: 10.0 }, 0));
}

#[test]
fn nodes_at_one_place_part() {
    let mut place = Place::default();
    let theirs = Place::default().tell();
    assert!(place.learn(&Sample { theirs, round_trip_ms: 20.0, least_ms: 0.0 }, 1 << 62));
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
fn a_place_is_told_again_once_it_has_moved_or_is_known_better() {
    let at = |x, error| Place { x, y: 0.0, height: 1.0, error };
    let told = Place::default().tell_again(None);
    assert_eq!(told, Place::default().tell(), "from the start");
    assert!(!told.is_known());
    let told = at(5.0, 0.2).tell_again(Some(told));
    assert_eq!(told, at(5.0, 0.2).tell());
    assert_eq!(at(5.0 + TELL_AGAIN_MS - 0.1, 0.11).tell_again(Some(told)), told);
    for other in [at(5.0 + TELL_AGAIN_MS, 0.2), at(5.0, 0.1), at(5.0, 0.4)] {
        assert_eq!(other.tell_again(Some(told)), other.tell());
    }
    let certain = at(5.0, 0.0).tell();
    assert_eq!(at(5.0, 0.04).tell_again(Some(certain)), certain, "nobody is believed to be so certain");
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
                place.learn(&Sample { theirs, round_trip_ms, least_ms: 0.0 }, draw);
                let moved = (place.x - before.x).hypot(place.y - before.y);
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
