//! Connections as they come, are probed and close.

use super::{Actor, missing};
use crate::network::{
    PathKind,
    addresses::{is_relayed, source_ip},
    metrics::ConnectionLabels,
    peers::{Connection, Peer},
    probe::{self, Pace, Report},
};
use libp2p::{
    PeerId,
    core::ConnectedPoint,
    swarm::{ConnectionError, ConnectionId},
};
use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

/// Direct connections to a peer beside which this node wants no further one: one in use, and one for when it dies.
const ENOUGH_DIRECT: usize = 2;
/// For how long relays are probed often after something that this node depends on did not answer, and the connections of
/// a peer after one of them came or broke.
const DOUBT: Duration = Duration::from_secs(5);

impl Actor {
    pub(super) fn on_connected(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        self.bootstrap_dial_ended(id);
        let address = match endpoint {
            ConnectedPoint::Dialer { address, .. } => address,
            // Of a relayed connection only the local side tells that it is one.
            ConnectedPoint::Listener { local_addr, .. } if is_relayed(local_addr) => local_addr,
            ConnectedPoint::Listener { send_back_addr, .. } => send_back_addr,
        };
        let now = Instant::now();
        self.note_visit(peer, endpoint, now);
        if self.dialled_back(id) {
            return;
        }
        self.reaching.dials.remove(&id);
        let banned = self.peers.banned(&peer, now).is_some();
        // Dials that were made beside each other may all succeed.
        let needless = endpoint.is_dialer()
            && !endpoint.is_relayed()
            && self.peers.get(&peer).is_some_and(|known| known.direct() >= ENOUGH_DIRECT);
        let path = match endpoint {
            _ if endpoint.is_relayed() => PathKind::Relayed,
            ConnectedPoint::Listener { .. } if self.own.is_forwarded() => PathKind::PortMapped,
            _ => PathKind::Direct,
        };
        if banned || needless || !self.peers.established(peer, id, address, endpoint.is_dialer(), path) {
            tracing::debug!(%peer, banned, needless, "connection not wanted");
            self.swarm.close_connection(id);
            return;
        }
        tracing::debug!(%peer, %address, path = path.name(), "connected");
        let transport = self.peers.connection(&peer, id).map_or("tcp", |known| known.transport);
        self.count_connection(transport, path, 1);
        self.checks.connected(address);
        self.bootstrap.met(&peer);
        if self.missing.found(&peer)
            && let Some(known) = self.peers.get_mut(&peer)
        {
            known.sought = true;
        }
        self.reached(peer);
        self.close_older_relayed(peer);
        if let Some(known) = self.peers.get_mut(&peer).filter(|known| known.connections().len() > 1) {
            known.spared_in_vain = 0;
            // It may have moved, and the older ones lead to where it was: what a relay sends there goes nowhere.
            known.doubted_until = Some(now + DOUBT);
        }
        self.peers_changed = true;
    }

    pub(super) fn on_probe(&mut self, event: &probe::Event) {
        let probe::Event { peer, connection, report } = event;
        let pace = self.peers.connection(peer, *connection).map(|known| known.pace);
        let depended_on = matches!(pace, Some(Pace::Reserved | Pace::InUse));
        if depended_on && !matches!(report, Report::RoundTrip(_)) {
            self.doubted_until = Some(Instant::now() + DOUBT);
        }
        match report {
            Report::RoundTrip(round_trip) => {
                self.peers.measured(peer, *connection, *round_trip);
                self.measured(peer);
            }
            Report::Late => {
                self.peers.late(peer, *connection);
                self.spare(*peer, *connection, Instant::now());
            }
            Report::Dead(silent) => {
                self.metrics.paths_dead.inc();
                self.peers.died(peer, *connection);
                tracing::debug!(%peer, ?silent, "a path is dead");
            }
        }
        self.peers_changed = true;
    }

    /// Probes what is in use often and the rest rarely, and for a while the connections of a peer of which one came or broke.
    /// Other connections to a peer that is in use are where its jobs go
    /// when the first one dies: they are probed as often. Where something does not answer, this node itself may be cut
    /// off or have moved: whether its relays still know it shows at once, and not when their turn comes.
    pub(super) fn set_paces(&mut self, now: Instant) {
        let doubted = self.doubted_until.is_some_and(|until| now < until);
        let behaviour = self.swarm.behaviour_mut();
        let relays: HashSet<&PeerId> = self.reservations.relays().collect();
        let in_use = |known: &Peer| known.connections().iter().any(|it| behaviour.streams.is_used(it.id));
        let used: HashSet<PeerId> =
            self.peers.iter().filter(|(_, known)| in_use(known)).map(|(peer, _)| *peer).collect();
        let changed = |known: &Peer| known.doubted_until.is_some_and(|until| now < until);
        let changed: HashSet<PeerId> =
            self.peers.iter().filter(|(_, known)| changed(known)).map(|(peer, _)| *peer).collect();
        for (peer, connection) in self.peers.connections_mut() {
            let pace = match (used.contains(peer), relays.contains(peer)) {
                (true, _) => Pace::InUse,
                (false, true) if doubted => Pace::InUse,
                (false, _) if changed.contains(peer) => Pace::Doubted,
                (false, true) => Pace::Reserved,
                (false, false) => Pace::Idle,
            };
            if std::mem::replace(&mut connection.pace, pace) != pace {
                behaviour.probe.pace(*peer, connection.id, pace);
            }
        }
    }

    pub(super) fn on_closed(&mut self, peer: PeerId, id: ConnectionId, cause: Option<&ConnectionError>) {
        let Some((connection, gone)) = self.peers.closed(&peer, id) else { return self.hung_up_on(id) };
        let Connection { address, path, transport, dead, since, outbound, .. } = connection;
        let now = Instant::now();
        self.count_connection(transport, path, -1);
        if let Some(ip) = source_ip(&address) {
            self.visits.spoke(ip, now);
        }
        self.peers_changed = true;
        let Some(known) = gone else {
            let broke = dead || matches!(cause, Some(ConnectionError::IO(_)));
            if let Some(known) = self.peers.get_mut(&peer).filter(|_| broke) {
                known.doubted_until = Some(now + DOUBT);
            }
            return;
        };
        // A peer that just hangs up breaks off as well: not to be sought are who was found when it was, and who only
        // came for a moment, such as a node that dials for somebody else.
        let lived = now.saturating_duration_since(since);
        let hangs_up = (known.sought && lived < missing::SETTLED) || (!outbound && lived < missing::VISIT);
        let broke = dead || (matches!(cause, Some(ConnectionError::IO(_))) && !hangs_up);
        let cause = cause.map(ToString::to_string);
        let cause =
            cause.as_deref().unwrap_or(if dead { "no probe came back" } else { "the connection was closed" });
        tracing::debug!(%peer, cause, "disconnected");
        let banned = self.peers.banned(&peer, now).map(str::to_owned);
        if banned.is_none() && broke {
            self.miss(peer, &address, &known, now);
        }
        self.lost(&peer, banned.as_deref().unwrap_or(cause));
    }

    pub(super) fn count_connection(&self, transport: &'static str, path: PathKind, by: i64) {
        let labels = ConnectionLabels { transport, path: path.name() };
        if by > 0 {
            self.metrics.paths_opened.get_or_create(&labels).inc();
        }
        self.metrics.connections.get_or_create(&labels).inc_by(by);
    }
}
