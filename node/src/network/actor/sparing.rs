//! A second connection beside one in use whose answers are late: if that one dies, its jobs go on at once.

use super::{Actor, missing::sought_at};
use crate::network::probe::Pace;
use libp2p::{
    PeerId,
    swarm::{
        ConnectionId,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use std::time::{Duration, Instant};

/// How often at most a peer is dialled for it: as long as a dial may take.
const AGAIN: Duration = Duration::from_secs(10);

impl Actor {
    /// Dials `peer` where `late` is its only connection and a job runs over it. Only the end that made the connection
    /// does: the other one may have no way to dial.
    pub(super) fn spare(&mut self, peer: PeerId, late: ConnectionId, now: Instant) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        let [only] = known.connections() else { return };
        let recently = known.spared.is_some_and(|at| now.saturating_duration_since(at) < AGAIN);
        if only.id != late || !only.outbound || only.pace != Pace::InUse || recently {
            return;
        }
        let addresses = sought_at(&only.address, &known.advertised);
        known.spared = Some(now);
        tracing::debug!(%peer, ?addresses, "answers are late, dialling beside");
        let options = DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(addresses).build();
        if let Err(error) = self.swarm.dial(options) {
            tracing::debug!(%peer, %error, "not dialled beside");
        }
    }
}
