//! A second connection beside one in use whose answers are late: if that one dies, its jobs go on at once.

use super::{Actor, missing::sought_at};
use crate::network::addresses::{is_relayed, relay_of};
use libp2p::{
    Multiaddr, PeerId,
    swarm::{
        ConnectionId,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use std::time::{Duration, Instant};

/// How often at most a peer is dialled for it: as long as a dial may take, and twice as long after each that was in vain.
const AGAIN: Duration = Duration::from_secs(10);
const MAX_DOUBLINGS: u32 = 5;

impl Actor {
    /// Dials `peer` where `late` is its only connection and a job runs over it. Only the end that made the connection
    /// does: the other one may have no way to dial.
    pub(super) fn spare(&mut self, peer: PeerId, late: ConnectionId, now: Instant) {
        let Some(known) = self.peers.get(&peer) else { return };
        let [only] = known.connections() else { return };
        let pause = AGAIN * (1 << known.spared_in_vain.min(MAX_DOUBLINGS));
        let recently = known.spared.is_some_and(|at| now.saturating_duration_since(at) < pause);
        if only.id != late || !only.outbound || recently || !self.swarm.behaviour().streams.is_used(late) {
            return;
        }
        // A relay that the peer names is dialled for it only if this node knows it already.
        let known_relay = |address: &Multiaddr| relay_of(address).is_some_and(|it| self.peers.get(&it).is_some());
        let mut addresses = sought_at(&only.address, &known.advertised);
        addresses.retain(|address| !is_relayed(address) || known_relay(address));
        if addresses.is_empty() {
            return;
        }
        let Some(known) = self.peers.get_mut(&peer) else { return };
        known.spared = Some(now);
        known.spared_in_vain = known.spared_in_vain.saturating_add(1);
        tracing::debug!(%peer, ?addresses, "answers are late, dialling beside");
        let options = DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(addresses).build();
        if let Err(error) = self.swarm.dial(options) {
            tracing::debug!(%peer, %error, "not dialled beside");
        }
    }
}
