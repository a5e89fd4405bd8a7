//! This node's own offer beside those of the others in its cell, as their clients see them: as far as this node can tell, which
//! is no client of itself.
//!
//! The client that is asked about stands where this node stands, with a line like its own. So round trips to others are those
//! that this node measured, or estimates by coordinates; the one to this node itself is its own line twice, and where it is
//! behind a relay, the way to the nearest of its relays and back to here.

use super::{
    Shared,
    observing::{self, Neighbours},
};
use crate::{clock::now_ms, network::RelayInfo};
use aitbc_protocol::{
    NodeId, UnixMillis,
    attestation::Tier,
    competition::{Comparison, Contender, Reach, compare},
    coordinates::Coordinate,
    offer::{KnownOffer, Load, Offer},
    text::Line,
};
use std::{collections::HashMap, sync::Arc};

/// What a client here knows of providers.
struct View<'s> {
    shared: &'s Shared,
    neighbours: Neighbours,
    here: Coordinate,
    now_ms: UnixMillis,
}

impl View<'_> {
    /// The tier of trust that counts here, lowered by what it did.
    fn tier(&self, known: &KnownOffer) -> Tier {
        let Shared { trust, reputation, .. } = self.shared;
        let tier = trust.standing(known.provider, &known.offer.attested, self.now_ms).tier;
        let most = reputation.most_trust(&known.provider, self.now_ms);
        most.filter(|most| most.rank() < tier.rank()).unwrap_or(tier)
    }

    fn contender<'a>(&self, known: &'a KnownOffer, round_trip_ms: Option<f64>) -> Contender<'a> {
        Contender {
            provider: known.provider,
            models: &known.offer.models,
            slots: known.offer.slots,
            load: known.load,
            tier: self.tier(known),
            quality: observing::quality(self.shared, &self.neighbours, known, self.now_ms),
            reach: reach(&known.offer),
            round_trip_ms,
            estimated_ms: known.offer.coordinate.and_then(|there| self.here.estimate_ms(&there)),
        }
    }
}

fn reach(offer: &Offer) -> Option<Reach> {
    Reach::of(offer.addresses.iter().map(Line::as_str))
}

/// The round trip of a client who stands here to this node through a relay of its own: there and back to here. `None` where
/// the way to none of its relays was measured.
fn through_relay_ms(relays: &[RelayInfo]) -> Option<f64> {
    let reserved = relays.iter().filter(|relay| relay.reserved);
    reserved.filter_map(|relay| relay.round_trip_ms).reduce(f64::min).map(|ms| 2.0 * ms)
}

/// Compares the offer and load of this node with those heard in its cell.
pub(super) async fn competition(shared: &Shared, offer: &Offer, load: Load) -> Comparison {
    // Without the report, what is known of relays is missing, and the rest is told all the same.
    let relays = shared.network.report().await.map(|report| report.relays).unwrap_or_default();
    let (snapshot, me, now_ms) = (shared.book.snapshot(), shared.key.node_id(), now_ms());
    let peers = shared.network.peers().borrow().clone();
    let measured: HashMap<NodeId, f64> =
        peers.iter().filter_map(|peer| Some((peer.peer, peer.round_trip_ms?))).collect();
    let here = shared.coordinates.own();
    let view = View { shared, neighbours: Neighbours::new(&snapshot), here, now_ms };
    let others = snapshot.offers.iter().filter(|known| known.provider != me && known.offer.cell == offer.cell);
    let others: Vec<Contender<'_>> =
        others.map(|known| view.contender(known, measured.get(&known.provider).copied())).collect();
    let known = KnownOffer { provider: me, offer: Arc::new(offer.clone()), load, heard_ms: now_ms };
    let relayed = reach(offer) == Some(Reach::Relayed);
    let own = Contender {
        // The offer may be half an hour old, and its coordinate with it.
        estimated_ms: here.estimate_ms(&here),
        ..view.contender(&known, through_relay_ms(&relays).filter(|_| relayed))
    };
    compare(&own, &others)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        reputation::OwnJob,
        routing::{
            book::{VerifiedBeat, VerifiedOffer},
            fetch::FetchedOffer,
            fixtures,
        },
    };
    use aitbc_protocol::{
        Digest,
        competition::{Dimension, Figure, Lack, Lost, Verdict},
        offer::Heartbeat,
        qos::{self, ONE},
    };

    fn relay(round_trip_ms: Option<f64>, reserved: bool) -> RelayInfo {
        RelayInfo { peer: NodeId([1; 32]), round_trip_ms, reserved }
    }

    #[test]
    fn the_way_through_a_relay_is_there_and_back() {
        let relays =
            [relay(Some(3.0), false), relay(None, true), relay(Some(20.0), true), relay(Some(15.0), true)];
        assert_eq!(through_relay_ms(&relays), Some(30.0));
        assert_eq!(through_relay_ms(&relays[..2]), None);
    }

    #[tokio::test]
    async fn others_are_compared_by_what_this_node_knows_of_them() {
        let node = fixtures::Node::start().await;
        let (key, network, now_ms) = (fixtures::key(2), fixtures::network(), now_ms());
        let circuit = Line::lossy("/ip4/127.0.0.1/tcp/4101/p2p-circuit");
        let offer = Offer { addresses: vec![circuit], ..fixtures::offer(1, now_ms) };
        let beat = Heartbeat { offer: 1, issued_ms: now_ms, running: 2, queued: 0 };
        let offer = aitbc_crypto::seal(&key, &network, &offer).expect("a small offer");
        let beat = aitbc_crypto::seal(&key, &network, &beat).expect("a small heartbeat");
        let offer = VerifiedOffer::open(offer, &network).expect("signed");
        let beat = Some(VerifiedBeat::open(beat, &network).expect("signed"));
        node.shared.book.learn(FetchedOffer { offer, beat }).await.expect("a good offer");
        let mut known = node.shared.book.watch();
        known.wait_for(|known| !known.offers.is_empty()).await.expect("the book is open");
        for job in 1..=3 {
            let job = OwnJob { job: Digest([job; 32]), total: 1_000, latency: Some(ONE), verified: Some(true) };
            node.shared.reputation.job(key.node_id(), job, now_ms);
        }

        let told = competition(&node.shared, &fixtures::offer(1, now_ms), Load::default()).await;
        assert_eq!((told.neighbours, told.jobs), (1, 2), "{told:?}");
        assert_eq!(told.lost, [Lost { lack: Lack::Service, millijobs: 2_000 }]);
        let row = |dimension| told.rows.iter().find(|row| row.dimension == dimension).expect("a row a dimension");
        let service = row(Dimension::Service);
        assert_eq!(service.mine, Some(Figure::Service(qos::Tier::Unrated)));
        assert_eq!(service.theirs, Some(Figure::Service(qos::Tier::Platinum)));
        let reach = row(Dimension::Reachability);
        assert_eq!(reach.theirs, Some(Figure::Reach(Reach::Relayed)));
        assert_eq!(reach.verdict, Verdict::Ahead);
    }
}
