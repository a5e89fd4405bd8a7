#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;

fn at(latitude: f64, longitude: f64) -> Location {
    Location::new(latitude, longitude).expect("a place in range")
}

fn location() -> impl Strategy<Value = Location> {
    (-90.0..=90.0f64, -180.0..=180.0f64).prop_map(|(latitude, longitude)| at(latitude, longitude))
}

/// All cells of the coarsest precision.
fn whole_earth() -> BTreeSet<Cell> {
    let alphabet = "0123456789bcdefghjkmnpqrstuvwxyz";
    alphabet
        .chars()
        .flat_map(|a| alphabet.chars().map(move |b| format!("{a}{b}").parse().expect("a cell")))
        .collect()
}

#[test]
fn distances_between_cities() {
    // Great-circle distances on the mean sphere, as published by several calculators.
    for (a, b, km) in [
        (at(51.5, -0.1), at(48.85, 2.35), 343.0),
        (at(51.5, -0.1), at(-33.87, 151.21), 16_990.0),
        (at(0.0, 179.5), at(0.0, -179.5), 111.2),
        (at(89.0, 0.0), at(89.0, 180.0), 222.4),
    ] {
        let got = a.distance_km(&b);
        assert!((got - km).abs() < km * 0.01, "{a} to {b}: {got} km, expected about {km} km");
        assert!((got - b.distance_km(&a)).abs() < 1e-9);
    }
}

#[test]
fn light_in_fibre_goes_a_hundred_kilometres_and_back_in_a_millisecond() {
    assert!((least_round_trip_ms(100.0) - 1.0).abs() < 0.01);
}

#[test]
fn the_nearest_point_may_lie_inside_an_edge() {
    // From 60 N the great circle to a cell 90 degrees of longitude away arches over the north: its nearest point is
    // the one nearest to the pole, not the one of the same latitude.
    let from = at(60.0, 0.0);
    let cell = Cell::at(&at(80.0, 95.0), 2);
    let (low, high) = cell.bounds();
    let brute = (0..=1000)
        .map(|step| low.latitude + (high.latitude - low.latitude) * f64::from(step) / 1000.0)
        .map(|latitude| from.distance_km(&Location { latitude, longitude: low.longitude }))
        .fold(f64::INFINITY, f64::min);
    assert!((cell.distance_km(&from) - brute).abs() < 0.5, "{} against {brute}", cell.distance_km(&from));
}

#[test]
fn texts_that_are_no_cell_or_place() {
    for text in ["", "u", "u09tvw12", "u0a", "U09", "u 9", "../x", "u0\u{e9}"] {
        assert!(text.parse::<Cell>().is_err(), "{text:?}");
    }
    for text in ["", "48.85", "91,0", "0,181", "nan,0", "inf,inf", "a,b", "1,2,3"] {
        assert!(text.parse::<Location>().is_err(), "{text:?}");
    }
}

#[test]
fn names_belong_to_one_network() {
    let (here, there) = (NetworkId::new("local").unwrap(), NetworkId::new("main").unwrap());
    let cell: Cell = "u09t".parse().unwrap();
    assert_eq!(Cell::from_dht_key(&here, &cell.dht_key(&here)), Some(cell));
    assert_eq!(Cell::from_dht_key(&there, &cell.dht_key(&here)), None);
    assert_eq!(Cell::from_dht_key(&here, &[0xff; 64]), None);
    assert_eq!(Cell::from_topic(&here, &cell.topic(&here)), Some(cell));
    assert_eq!(Cell::from_topic(&there, &cell.topic(&here)), None);
    let fine: Cell = "u09tv".parse().unwrap();
    assert_eq!(Cell::from_topic(&here, &fine.topic(&here)), None, "no topics finer than {FINEST_TOPIC}");
}

#[test]
fn an_unlimited_plan_looks_at_the_whole_earth_once() {
    for place in [at(51.5, -0.1), at(90.0, 0.0), at(-90.0, 17.0), at(0.0, 180.0), at(12.0, -179.99)] {
        let mut left = whole_earth();
        for step in search_plan(place, 4, 1, f64::INFINITY).filter(|step| step.precision == COARSEST) {
            for cell in step.cells {
                assert!(left.remove(&cell), "{cell} twice from {place}");
            }
        }
        assert!(left.is_empty(), "from {place} nobody looked at {left:?}");
    }
}

#[test]
fn no_budget_no_plan() {
    for budget in [-1.0, f64::NAN, f64::NEG_INFINITY] {
        assert_eq!(search_plan(at(51.5, -0.1), 4, 1, budget).count(), 0);
    }
    let own: Vec<SearchStep> = search_plan(at(51.5, -0.1), 4, 1, 0.0).collect();
    assert!(
        own.iter().all(|step| step.ring == 0 && step.cells.len() == 1),
        "only where the client stands: {own:?}"
    );
    assert_eq!(own.len(), 3);
}

proptest! {
    #[test]
    fn a_cell_holds_its_place_and_reads_back(place in location(), precision in COARSEST..=FINEST) {
        let cell = Cell::at(&place, precision);
        prop_assert!(cell.distance_km(&place) < 1e-6);
        prop_assert_eq!(cell.as_str().parse::<Cell>().ok(), Some(cell));
        for coarser in cell.ancestry() {
            prop_assert!(coarser.contains(&cell));
            prop_assert_eq!(coarser, Cell::at(&place, coarser.precision()));
        }
    }

    #[test]
    fn no_point_of_a_cell_is_nearer_than_its_distance(
        from in location(),
        place in location(),
        precision in COARSEST..=5u8,
        (north, east) in (0.0..=1.0f64, 0.0..=1.0f64),
    ) {
        let cell = Cell::at(&place, precision);
        let (low, high) = cell.bounds();
        let inside = Location {
            latitude: low.latitude + (high.latitude - low.latitude) * north,
            longitude: low.longitude + (high.longitude - low.longitude) * east,
        };
        prop_assert!(cell.distance_km(&from) <= from.distance_km(&inside) + 1e-6);
    }

    #[test]
    fn neighbours_touch(place in location(), precision in COARSEST..=5u8) {
        let cell = Cell::at(&place, precision);
        let neighbours = cell.neighbours();
        prop_assert!((3..=8).contains(&neighbours.len()));
        for neighbour in neighbours {
            prop_assert!(neighbour != cell);
            prop_assert!(neighbour.neighbours().contains(&cell), "{neighbour} does not know {cell}");
        }
    }

    #[test]
    fn a_plan_covers_the_budget_exactly_once_nearest_first(
        place in location(),
        start in COARSEST..=4u8,
        rings in 0..3u32,
        budget_ms in 0.0..250.0f64,
    ) {
        let steps: Vec<SearchStep> = search_plan(place, start, rings, budget_ms).collect();
        prop_assert_eq!(steps[0].precision, start);
        let mut seen = BTreeSet::new();
        for (index, step) in steps.iter().enumerate() {
            prop_assert!(!step.cells.is_empty());
            prop_assert!(step.precision == COARSEST || step.ring <= rings);
            let distances: Vec<f64> = step.cells.iter().map(|cell| cell.distance_km(&place)).collect();
            prop_assert!(distances.is_sorted());
            for cell in &step.cells {
                prop_assert_eq!(cell.precision(), step.precision);
                prop_assert!(least_round_trip_ms(cell.distance_km(&place)) <= budget_ms);
                prop_assert!(seen.insert(*cell), "{} twice", cell);
            }
            if let Some(next) = steps.get(index + 1) {
                prop_assert!(
                    (next.precision == step.precision && next.ring == step.ring + 1)
                        || (next.precision == step.precision - 1 && next.ring == 0)
                );
            }
        }
        for cell in whole_earth() {
            let within = least_round_trip_ms(cell.distance_km(&place)) <= budget_ms;
            prop_assert_eq!(seen.contains(&cell), within, "{} from {}", cell, place);
        }
    }
}
