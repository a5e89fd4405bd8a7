use super::*;
use crate::routing::fixtures::{config, key, offer, spec};
use aitbc_protocol::offer::{KnownOffer, Load, Offer};
use std::sync::Arc;

/// A provider so far away by the map that tells to be so many microseconds east.
fn found(number: u8, distance_km: f64, told: Option<i32>) -> Found {
    let coordinate = told.map(|east| Coordinate::new((east, 0), 1_000, 100).expect("within bounds"));
    let known = KnownOffer {
        provider: NodeId([number; 32]),
        offer: Arc::new(Offer { coordinate, ..offer(1, 1_000) }),
        load: Load::default(),
        heard_ms: 1_000,
    };
    Found { known, distance_km }
}

#[test]
fn whoever_is_expected_to_be_nearest_is_measured_first() {
    let found = [
        // 100 ms by what it tells, 10 by the map.
        found(1, 1_000.0, Some(98_000)),
        // 22 ms by what it tells, further by the map than the next.
        found(2, 2_000.0, Some(20_000)),
        // Nothing is told: about 32 ms, and 25 to whoever is next door.
        found(3, 600.0, None),
        found(4, 250.0, None),
        // Light alone needs 88 ms, whatever it tells.
        found(5, 9_000.0, Some(0)),
        found(6, 10.0, Some(0)),
    ];
    let order = |round_trips: &RoundTrips| -> Vec<u8> {
        round_trips.strangers(&found).iter().map(|found| found.known.provider.0[0]).collect()
    };
    let own = Coordinate::new((0, 0), 1_000, 100).ok();
    let measured = HashMap::from([(NodeId([6; 32]), 3.0)]);
    assert_eq!(order(&RoundTrips { measured: measured.clone(), own }), [2, 4, 3, 5, 1]);
    // Whoever does not know its own place goes by the map.
    assert_eq!(order(&RoundTrips { measured, own: None }), [4, 3, 1, 2, 5]);
}

#[test]
fn quotes_above_the_ceiling_are_told_as_such_and_only_where_nothing_else_is_in_the_way() {
    let wishes = Wishes { max_price: Some(MicroCredits(100)), ..Wishes::default() };
    let policy = policy(&config(), &spec(), &wishes, None, Vec::new());
    let searched = Searched {
        found: Vec::new(),
        other_models: std::collections::HashSet::new(),
        end: SearchEnd::Everything,
        lookups: 1,
    };
    let (one, two) = (key(2).node_id(), key(3).node_id());
    let declined = [(one, "too dear".to_owned()), (two, "full".to_owned())];
    let dear = [(one, MicroCredits(120))];
    let failure = nobody(&policy.model, &policy, &searched, &[], &declined[..1], &dear);
    let JobFailure::TooExpensive { message, ruled_out } = failure else { panic!("{failure:?}") };
    assert_eq!(ruled_out.iter().map(|row| row.by.as_str()).collect::<Vec<_>>(), ["price"]);
    assert!(message.contains("0.000120") && message.contains("0.000100"), "{message}");
    let failure = nobody(&policy.model, &policy, &searched, &[], &declined, &dear);
    let text = failure.to_string();
    assert!(text.contains("too dear") && text.contains("full"), "{text}");
    let mut short = failure.clone();
    assert_eq!(short.take_ruled_out().len(), 2);
    assert!(text.starts_with(&short.to_string()) && !short.to_string().contains("full"), "{short}");
    let JobFailure::NoProvider { ruled_out, .. } = failure else { panic!("{failure:?}") };
    assert_eq!(ruled_out.iter().map(|row| row.by.as_str()).collect::<Vec<_>>(), ["price", "declined"]);
}
