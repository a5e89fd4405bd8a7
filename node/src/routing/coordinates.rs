//! Where this node is among round trips: learned from those to providers that tell where they are, so that the round trips to
//! others need no ping.

use super::{OffersSnapshot, Shared};
use crate::{
    draw::draw,
    network::{PathKind, PeerInfo},
};
use aitbc_protocol::{
    NodeId,
    coordinates::{Coordinate, Place, Sample},
    geo::{Cell, least_round_trip_ms},
    offer::KnownOffer,
};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::{sync::watch, time::sleep};

/// How often every provider that this node is connected to counts once, and how often until this node knows its place.
const EVERY: Duration = Duration::from_secs(20);
const AT_FIRST: Duration = Duration::from_secs(5);

/// The owner of this node's place.
#[derive(Debug, Default)]
pub(super) struct Coordinates(watch::Sender<Place>);

impl Coordinates {
    /// The place, as it changes.
    pub(super) fn place(&self) -> watch::Receiver<Place> {
        self.0.subscribe()
    }

    /// This node's own coordinate now.
    pub(super) fn own(&self) -> Coordinate {
        self.0.borrow().tell()
    }

    fn learn(&self, samples: &[Sample]) {
        self.0.send_if_modified(|place| place.learn(samples, draw));
    }
}

/// Learns until it is dropped.
pub(super) async fn learn(shared: Arc<Shared>) {
    let (here, pretended) = (shared.config.location, shared.config.network.is_local());
    let least_ms = |cell: &Cell| if pretended { 0.0 } else { least_round_trip_ms(cell.distance_km(&here)) };
    loop {
        sleep(if shared.coordinates.own().is_known() { EVERY } else { AT_FIRST }).await;
        let peers = shared.network.peers().borrow().clone();
        let samples = samples(&peers, &shared.book.snapshot(), least_ms);
        shared.coordinates.learn(&samples);
    }
}

/// What can be learned from now: providers that tell their coordinate, and whose own path was measured, not that to their relay
/// and on.
fn samples(peers: &[PeerInfo], known: &OffersSnapshot, least_ms: impl Fn(&Cell) -> f64) -> Vec<Sample> {
    let direct = peers.iter().filter(|peer| peer.path != PathKind::Relayed);
    let round_trips: HashMap<NodeId, f64> =
        direct.filter_map(|peer| Some((peer.peer, peer.round_trip_ms?))).collect();
    let sample = |known: &KnownOffer| {
        let round_trip_ms = *round_trips.get(&known.provider)?;
        let least_ms = least_ms(&known.offer.cell);
        Some(Sample { theirs: known.offer.coordinate?, round_trip_ms, least_ms })
    };
    // Heartbeats of the far are not heard; whoever is connected lives all the same.
    known.offers.iter().chain(&known.silent).filter_map(sample).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::now_ms,
        routing::{Sought, book::VerifiedOffer, fetch::FetchedOffer, find, fixtures},
    };
    use aitbc_protocol::{
        offer::{Load, Offer},
        routing::RoundTripBy,
    };
    use tokio::sync::mpsc;

    fn peer(number: u8, path: PathKind, round_trip_ms: Option<f64>) -> PeerInfo {
        PeerInfo {
            peer: NodeId([number; 32]),
            address: String::new(),
            path,
            transport: String::new(),
            round_trip_ms,
            mean_round_trip_ms: None,
            longest_round_trip_ms: None,
            agent: String::new(),
            score: 0.0,
            paths: Vec::new(),
        }
    }

    fn known(number: u8, coordinate: Option<Coordinate>) -> KnownOffer {
        KnownOffer {
            provider: NodeId([number; 32]),
            offer: Arc::new(Offer { coordinate, ..fixtures::offer(1, 1_000) }),
            load: Load { running: 0, queued: 0 },
            heard_ms: 1_000,
        }
    }

    #[test]
    fn round_trips_count_that_were_measured_without_a_relay_to_whoever_tells_where_it_is() {
        let there = Coordinate::new((30_000, 40_000), 1_000, 100).ok();
        let known = OffersSnapshot {
            offers: vec![known(1, there), known(2, there), known(3, None), known(4, there), known(5, there)],
            silent: vec![known(7, there)],
            ..OffersSnapshot::default()
        };
        let peers = [
            peer(1, PathKind::HolePunched, Some(50.0)),
            peer(2, PathKind::Relayed, Some(90.0)),
            peer(3, PathKind::Direct, Some(20.0)),
            peer(4, PathKind::Direct, None),
            peer(6, PathKind::Direct, Some(10.0)),
            peer(7, PathKind::PortMapped, Some(60.0)),
        ];
        let samples = samples(&peers, &known, |_| 7.0);
        let round_trips: Vec<f64> = samples.iter().map(|sample| sample.round_trip_ms).collect();
        assert_eq!(round_trips, [50.0, 60.0]);
        assert_eq!((Some(samples[0].theirs), samples[0].least_ms), (there, 7.0));
    }

    #[tokio::test]
    async fn strangers_are_estimated_from_here_and_not_from_elsewhere() {
        let node = fixtures::Node::start().await;
        let there = Coordinate::new((0, 0), 1_000, 100).expect("within bounds");
        for _ in 0..200 {
            let sample = Sample { theirs: there, round_trip_ms: 70.0, least_ms: 0.0 };
            node.shared.coordinates.learn(&[sample]);
        }
        let offer = Offer { coordinate: Some(there), ..fixtures::offer(1, now_ms()) };
        let signed = aitbc_crypto::seal(&fixtures::key(2), &fixtures::network(), &offer).expect("a small offer");
        let offer = VerifiedOffer::open(signed, &fixtures::network()).expect("signed");
        node.shared.book.learn(FetchedOffer { offer, beat: None }).await.expect("a good offer");
        let mut known = node.shared.book.watch();
        known.wait_for(|known| !known.offers.is_empty()).await.expect("the book is open");
        for (location, by) in [(None, RoundTripBy::Coordinates), (Some(fixtures::paris()), RoundTripBy::Distance)]
        {
            let (sender, _receiver) = mpsc::channel(16);
            let ranking = find::find(&node.shared, Sought { location, ..Sought::default() }, &sender).await;
            let [line] = &ranking[..] else { panic!("{ranking:?}") };
            assert_eq!(line.reasons.round_trip_by, by, "from {location:?}: {line:?}");
            assert_eq!(line.reasons.round_trip_ms > 60.0, by == RoundTripBy::Coordinates, "{line:?}");
        }
    }

    #[test]
    fn a_place_is_told_on_once_something_was_learned() {
        let coordinates = Coordinates::default();
        let mut place = coordinates.place();
        let there = Coordinate::new((0, 0), 1_000, 100).expect("within bounds");
        assert!(!coordinates.own().is_known(), "nothing is known yet");
        coordinates.learn(&[]);
        let impossible = Sample { theirs: there, round_trip_ms: 1.0, least_ms: 10.0 };
        coordinates.learn(&[impossible]);
        assert!(!place.has_changed().expect("the owner lives"));
        for _ in 0..200 {
            coordinates.learn(&[impossible, Sample { theirs: there, round_trip_ms: 40.0, least_ms: 10.0 }]);
        }
        assert!(place.has_changed().expect("the owner lives"));
        place.mark_unchanged();
        let estimate = coordinates.own().estimate_ms(&there).expect("it knows its place");
        assert!((estimate - 40.0).abs() < 4.0, "{estimate}");
    }
}
