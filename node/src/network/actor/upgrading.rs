//! From relayed connections to direct ones.
//!
//! DCUtR punches holes once, when a relayed connection opens. What it cannot do: a peer that is reachable is simply
//! dialled (connection reversal), and what failed once is tried again when an address has changed and every ten
//! minutes, over a new relayed connection.

use super::Actor;
use crate::network::{addresses::is_relayed, peers::Connection};
use libp2p::{
    Multiaddr, PeerId,
    swarm::dial_opts::{DialOpts, PeerCondition},
};
use std::time::{Duration, Instant};

/// How often a relayed connection is opened again.
const AGAIN: Duration = Duration::from_secs(10 * 60);
/// How often at most the same peer is dialled plainly.
const REVERSAL: Duration = Duration::from_secs(30);

impl Actor {
    /// Dials a peer that is reached over a relay at the direct addresses that it has told.
    pub(super) fn reverse(&mut self, peer: PeerId, now: Instant) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        let recently = known.reversed.is_some_and(|at| now.saturating_duration_since(at) < REVERSAL);
        if recently || !known.best().is_relayed() {
            return;
        }
        let direct: Vec<Multiaddr> =
            known.advertised.iter().filter(|address| !is_relayed(address)).cloned().collect();
        if direct.is_empty() {
            return;
        }
        known.reversed = Some(now);
        tracing::debug!(%peer, ?direct, "dialling directly");
        let options = DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(direct).build();
        if let Err(error) = self.swarm.dial(options) {
            tracing::debug!(%peer, %error, "not dialled directly");
        }
    }

    /// Opens relayed connections again where nothing better was found: all of them after an address of this node has
    /// changed, and those that are ten minutes old.
    pub(super) fn open_relayed_again(&mut self, all: bool, now: Instant) {
        let due = |connection: &Connection| {
            connection.outbound && (all || now.saturating_duration_since(connection.since) >= AGAIN)
        };
        let peers = self.peers.iter().filter(|(_, known)| known.best().is_relayed());
        let again: Vec<(PeerId, Multiaddr)> = peers
            .filter_map(|(peer, known)| {
                let newest = known.connections().iter().max_by_key(|connection| connection.since)?;
                let tried = known.opened_again.is_some_and(|at| now.saturating_duration_since(at) < AGAIN);
                (due(newest) && (all || !tried)).then(|| (*peer, newest.address.clone()))
            })
            .collect();
        for (peer, address) in again {
            if let Some(known) = self.peers.get_mut(&peer) {
                known.opened_again = Some(now);
            }
            let options =
                DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(vec![address]).build();
            if let Err(error) = self.swarm.dial(options) {
                tracing::debug!(%peer, %error, "relayed connection not opened again");
            }
        }
    }

    /// Closes relayed connections to `peer` that a newer one replaces, unless a stream lives on them. Only those that this
    /// node made, for one that it made: the two ends may see connections that cross in another order, and each close the
    /// one that the other keeps.
    pub(super) fn close_older_relayed(&mut self, peer: PeerId) {
        let Some(known) = self.peers.get(&peer) else { return };
        let mut relayed: Vec<_> = known.connections().iter().filter(|it| it.is_relayed() && it.outbound).collect();
        relayed.sort_by_key(|connection| connection.since);
        relayed.pop();
        for id in relayed.into_iter().map(|connection| connection.id).collect::<Vec<_>>() {
            if !self.swarm.behaviour().streams.is_used(id) {
                self.swarm.close_connection(id);
            }
        }
    }
}
