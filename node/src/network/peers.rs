//! Connected peers with their connections, and the peers this node will not talk to for a while.

use super::{
    PathInfo, PathKind, PeerInfo,
    addresses::{relay_of, source_ip, transport, without_peer},
    node_id,
    probe::Pace,
};
use aitbc_protocol::NodeId;
use libp2p::{Multiaddr, PeerId, swarm::ConnectionId};
use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

/// Most bans kept; of more, those that end first are forgotten.
const MAX_BANS: usize = 1024;

/// How long a peer may take to say who it is: a few round trips, and many more where packets are lost.
const UNIDENTIFIED: Duration = Duration::from_secs(60);
/// Round trips remembered of a connection.
const ROUND_TRIPS: usize = 8;

/// One connection to a peer.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: ConnectionId,
    pub(super) address: Multiaddr,
    pub(super) outbound: bool,
    pub(super) path: PathKind,
    /// What it runs over here: of a relayed connection, the way to the relay, whatever its address says.
    pub(super) transport: &'static str,
    pub(super) since: Instant,
    /// The least of the latest: where packets get lost, one measurement tells how long a repetition took.
    pub(super) round_trip: Option<Duration>,
    /// The latest round trips, oldest first.
    round_trips: VecDeque<Duration>,
    /// Probes whose answer was late.
    pub(super) late: u32,
    /// The latest probe has not been answered in time.
    overdue: bool,
    pub(super) pace: Pace,
    /// No probe came back: it is being closed.
    pub(super) dead: bool,
}

impl Connection {
    pub(super) fn is_relayed(&self) -> bool {
        self.path == PathKind::Relayed
    }

    /// Less is better.
    fn rank(&self) -> (bool, bool, Duration, ConnectionId) {
        (self.dead, self.is_relayed(), self.round_trip.unwrap_or(Duration::MAX), self.id)
    }

    /// Of the latest.
    fn mean_round_trip(&self) -> Option<Duration> {
        let count = u32::try_from(self.round_trips.len()).ok().filter(|count| *count > 0)?;
        Some(self.round_trips.iter().sum::<Duration>() / count)
    }

    fn info(&self) -> PathInfo {
        PathInfo {
            path: self.path,
            transport: self.transport.to_owned(),
            address: self.address.to_string(),
            outbound: self.outbound,
            round_trip_ms: self.round_trip.map(milliseconds),
            late: self.late,
            age_s: self.since.elapsed().as_secs(),
        }
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// A connected peer.
#[derive(Debug)]
pub(super) struct Peer {
    node: NodeId,
    connections: Vec<Connection>,
    /// Whether it is connected because it was missing.
    pub(super) sought: bool,
    /// Whether it said who it is, and that it belongs to this network.
    pub(super) identified: bool,
    /// What identify says it runs; empty before that.
    pub(super) agent: String,
    /// Whether it relays for others.
    pub(super) relay: bool,
    /// The addresses that its last identify named and this node believed, and the one it was reached under.
    pub(super) advertised: Vec<Multiaddr>,
    /// When it was last dialled directly because it was reached over a relay.
    pub(super) reversed: Option<Instant>,
    /// When its relayed connection was last opened again.
    pub(super) opened_again: Option<Instant>,
    /// When it was last dialled beside a connection that answered late, and how often in vain.
    pub(super) spared: Option<Instant>,
    pub(super) spared_in_vain: u32,
    /// Until when its connections are probed often: it came by another one, or lost one.
    pub(super) doubted_until: Option<Instant>,
    /// Under which address it sees this node over each transport, its own beside it.
    pub(super) sees: Vec<Sight>,
}

/// What a peer sees of this node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sight {
    pub(super) quic: bool,
    pub(super) peer: SocketAddr,
    pub(super) me: SocketAddr,
}

impl Peer {
    /// The connection to open streams on: the best of those that answer in time, if any does.
    pub(super) fn to_open_on(&self) -> &Connection {
        let in_time = self.connections.iter().filter(|connection| !connection.overdue && !connection.dead);
        in_time.min_by_key(|connection| connection.rank()).unwrap_or_else(|| self.best())
    }

    /// Its path: a direct connection before a relayed one, then the quickest.
    pub(super) fn best(&self) -> &Connection {
        self.connections
            .iter()
            .min_by_key(|connection| connection.rank())
            .expect("a peer is forgotten with its last connection")
    }

    /// Direct connections that live.
    pub(super) fn direct(&self) -> usize {
        self.connections.iter().filter(|connection| !connection.dead && !connection.is_relayed()).count()
    }

    /// Who it is.
    pub(super) fn node(&self) -> NodeId {
        self.node
    }

    /// All connections.
    pub(super) fn connections(&self) -> &[Connection] {
        &self.connections
    }
}

#[derive(Debug)]
struct Ban {
    until: Instant,
    reason: String,
}

/// Owns who is connected and who is banned.
#[derive(Debug, Default)]
pub(super) struct Peers {
    connected: HashMap<PeerId, Peer>,
    bans: HashMap<PeerId, Ban>,
}

impl Peers {
    /// Notes a new connection. False if the peer's key is not an ed25519 key: such a peer has no place here.
    pub(super) fn established(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        address: &Multiaddr,
        outbound: bool,
        path: PathKind,
    ) -> bool {
        let Some(node) = node_id(&peer) else { return false };
        let over_relay = relay_of(address).and_then(|relay| self.get(&relay)).map(|relay| relay.best().transport);
        let transport = over_relay.unwrap_or_else(|| transport(address));
        let entry = self.connected.entry(peer).or_insert_with(|| Peer {
            node,
            connections: Vec::new(),
            sought: false,
            identified: false,
            agent: String::new(),
            relay: false,
            advertised: Vec::new(),
            reversed: None,
            opened_again: None,
            spared: None,
            spared_in_vain: 0,
            doubted_until: None,
            sees: Vec::new(),
        });
        entry.connections.push(Connection {
            id,
            address: without_peer(address),
            transport,
            outbound,
            path,
            since: Instant::now(),
            round_trip: None,
            round_trips: VecDeque::with_capacity(ROUND_TRIPS),
            late: 0,
            overdue: false,
            pace: Pace::default(),
            dead: false,
        });
        true
    }

    /// Forgets a connection, and the peer with its last one. Returns what it was, and the peer if it is gone.
    pub(super) fn closed(&mut self, peer: &PeerId, id: ConnectionId) -> Option<(Connection, Option<Peer>)> {
        let entry = self.connected.get_mut(peer)?;
        let position = entry.connections.iter().position(|connection| connection.id == id)?;
        let connection = entry.connections.swap_remove(position);
        let gone = if entry.connections.is_empty() { self.connected.remove(peer) } else { None };
        Some((connection, gone))
    }

    /// What is known of a connected peer.
    pub(super) fn get(&self, peer: &PeerId) -> Option<&Peer> {
        self.connected.get(peer)
    }

    /// The same, to note what it tells.
    pub(super) fn get_mut(&mut self, peer: &PeerId) -> Option<&mut Peer> {
        self.connected.get_mut(peer)
    }

    /// A connection.
    pub(super) fn connection(&self, peer: &PeerId, id: ConnectionId) -> Option<&Connection> {
        self.get(peer)?.connections.iter().find(|connection| connection.id == id)
    }

    fn connection_mut(&mut self, peer: &PeerId, id: ConnectionId) -> Option<&mut Connection> {
        self.connected.get_mut(peer)?.connections.iter_mut().find(|connection| connection.id == id)
    }

    /// Notes a measured round trip.
    pub(super) fn measured(&mut self, peer: &PeerId, id: ConnectionId, round_trip: Duration) {
        if let Some(connection) = self.connection_mut(peer, id) {
            if connection.round_trips.len() >= ROUND_TRIPS {
                connection.round_trips.pop_front();
            }
            connection.overdue = false;
            connection.round_trips.push_back(round_trip);
            connection.round_trip = connection.round_trips.iter().min().copied();
        }
    }

    /// Notes that the answer to a probe is late.
    pub(super) fn late(&mut self, peer: &PeerId, id: ConnectionId) {
        if let Some(connection) = self.connection_mut(peer, id) {
            connection.late = connection.late.saturating_add(1);
            connection.overdue = true;
        }
    }

    /// Notes that a connection is dead.
    pub(super) fn died(&mut self, peer: &PeerId, id: ConnectionId) {
        if let Some(connection) = self.connection_mut(peer, id) {
            connection.dead = true;
        }
    }

    /// Notes that a hole was punched for a connection.
    pub(super) fn punched(&mut self, peer: &PeerId, id: ConnectionId) {
        if let Some(connection) = self.connection_mut(peer, id) {
            connection.path = PathKind::HolePunched;
        }
    }

    /// Every connection with its peer.
    pub(super) fn connections_mut(&mut self) -> impl Iterator<Item = (&PeerId, &mut Connection)> {
        self.connected.iter_mut().flat_map(|(id, peer)| peer.connections.iter_mut().map(move |it| (id, it)))
    }

    /// Who has been connected for [`UNIDENTIFIED`] without saying who it is.
    pub(super) fn unidentified(&self, now: Instant) -> Vec<PeerId> {
        let silent = |peer: &Peer| {
            !peer.identified && peer.connections.iter().any(|it| now.duration_since(it.since) >= UNIDENTIFIED)
        };
        self.connected.iter().filter(|(_, peer)| silent(peer)).map(|(id, _)| *id).collect()
    }

    /// Where a peer's direct connection comes from.
    pub(super) fn source_ip(&self, peer: &PeerId) -> Option<IpAddr> {
        source_ip(&self.get(peer)?.best().address)
    }

    /// Whether a peer is connected directly from `ip`.
    pub(super) fn is_connected_from(&self, ip: IpAddr) -> bool {
        let mut connections = self.connected.values().flat_map(|peer| &peer.connections);
        connections.any(|connection| source_ip(&connection.address) == Some(ip))
    }

    /// All connected peers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&PeerId, &Peer)> {
        self.connected.iter()
    }

    /// How many peers are connected.
    pub(super) fn len(&self) -> usize {
        self.connected.len()
    }

    /// No word with `peer` until `until`.
    pub(super) fn ban(&mut self, peer: PeerId, until: Instant, reason: String) {
        if self.bans.len() >= MAX_BANS
            && let Some(first) = self.bans.iter().min_by_key(|(_, ban)| ban.until).map(|(peer, _)| *peer)
        {
            self.bans.remove(&first);
        }
        self.bans.insert(peer, Ban { until, reason });
    }

    /// Why `peer` is banned, if it is.
    pub(super) fn banned(&self, peer: &PeerId, now: Instant) -> Option<&str> {
        self.bans.get(peer).filter(|ban| ban.until > now).map(|ban| ban.reason.as_str())
    }

    /// Forgets bans that ended.
    pub(super) fn expire_bans(&mut self, now: Instant) {
        self.bans.retain(|_, ban| ban.until > now);
    }

    /// What the rest of the node sees, in the order of the identities; `score` asks gossip.
    pub(super) fn snapshot(&self, score: impl Fn(&PeerId) -> f64) -> Vec<PeerInfo> {
        let mut peers: Vec<PeerInfo> = self
            .connected
            .iter()
            .map(|(id, peer)| {
                let best = peer.best();
                PeerInfo {
                    peer: peer.node,
                    address: best.address.to_string(),
                    path: best.path,
                    transport: best.transport.to_owned(),
                    round_trip_ms: best.round_trip.map(milliseconds),
                    mean_round_trip_ms: best.mean_round_trip().map(milliseconds),
                    longest_round_trip_ms: best.round_trips.iter().max().copied().map(milliseconds),
                    agent: peer.agent.clone(),
                    score: score(id),
                    paths: peer.connections.iter().map(Connection::info).collect(),
                }
            })
            .collect();
        peers.sort_unstable_by_key(|peer| peer.peer);
        peers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> PeerId {
        libp2p::identity::Keypair::generate_ed25519().public().to_peer_id()
    }

    #[test]
    fn who_does_not_say_who_it_is_stands_out_after_a_while() {
        let [named, unnamed] = [peer(), peer()];
        let mut peers = Peers::default();
        for (number, peer) in [named, unnamed].into_iter().enumerate() {
            let address = "/ip4/9.9.9.9/tcp/1".parse().unwrap();
            let id = ConnectionId::new_unchecked(number);
            assert!(peers.established(peer, id, &address, false, PathKind::Direct));
        }
        peers.get_mut(&named).unwrap().identified = true;
        assert_eq!(peers.unidentified(Instant::now()), []);
        assert_eq!(peers.unidentified(Instant::now() + UNIDENTIFIED), [unnamed]);
    }

    #[test]
    fn a_direct_connection_is_preferred_to_a_quicker_relayed_one() {
        let (peer, relay) = (peer(), peer());
        let mut peers = Peers::default();
        let relayed: Multiaddr = format!("/ip4/8.8.8.8/tcp/1/p2p/{relay}/p2p-circuit").parse().unwrap();
        let ids = [1, 2, 3].map(ConnectionId::new_unchecked);
        assert!(peers.established(peer, ids[0], &relayed, true, PathKind::Relayed));
        peers.measured(&peer, ids[0], Duration::from_millis(1));
        assert_eq!(peers.source_ip(&peer), None);
        let direct = PathKind::Direct;
        assert!(peers.established(peer, ids[1], &"/ip4/9.9.9.9/tcp/1".parse().unwrap(), true, direct));
        assert_eq!(peers.get(&peer).unwrap().best().id, ids[1]);
        assert!(peers.established(peer, ids[2], &"/ip4/9.9.9.9/udp/1/quic-v1".parse().unwrap(), true, direct));
        peers.measured(&peer, ids[2], Duration::from_millis(5));
        assert_eq!(peers.get(&peer).unwrap().best().id, ids[2]);
        let snapshot = peers.snapshot(|_| 1.5);
        assert_eq!((snapshot[0].path, snapshot[0].transport.as_str()), (PathKind::Direct, "quic"));
        peers.late(&peer, ids[2]);
        assert_eq!(peers.get(&peer).unwrap().best().id, ids[2], "a late answer changes no path");
        assert_eq!(peers.get(&peer).unwrap().to_open_on().id, ids[1], "but new streams do not wait for it");
        peers.measured(&peer, ids[2], Duration::from_millis(9));
        assert_eq!(peers.get(&peer).unwrap().to_open_on().id, ids[2]);
        for id in ids {
            peers.late(&peer, id);
        }
        assert_eq!(peers.get(&peer).unwrap().to_open_on().id, ids[2], "all are late");
        peers.died(&peer, ids[2]);
        assert_eq!(peers.get(&peer).unwrap().best().id, ids[1], "a dead one is the last to be used");
        peers.punched(&peer, ids[1]);
        assert_eq!(peers.snapshot(|_| 0.0)[0].path, PathKind::HolePunched);
        for id in ids {
            let (_, gone) = peers.closed(&peer, id).unwrap();
            assert_eq!(gone.is_some(), id == ids[2], "the last takes the peer with it");
        }
        assert_eq!(peers.len(), 0);
    }

    #[test]
    fn peers_with_other_keys_are_turned_away() {
        let mut peers = Peers::default();
        let address = "/ip4/9.9.9.9/tcp/1".parse().unwrap();
        let id = ConnectionId::new_unchecked(1);
        assert!(!peers.established(PeerId::random(), id, &address, true, PathKind::Direct));
        assert_eq!(peers.len(), 0);
    }

    #[test]
    fn bans_end_and_are_bounded() {
        let now = Instant::now();
        let mut peers = Peers::default();
        let first = peer();
        peers.ban(first, now + Duration::from_secs(1), "noise".to_owned());
        assert_eq!(peers.banned(&first, now), Some("noise"));
        assert_eq!(peers.banned(&first, now + Duration::from_secs(1)), None);
        for _ in 0..MAX_BANS {
            peers.ban(PeerId::random(), now + Duration::from_secs(9), String::new());
        }
        assert_eq!(peers.bans.len(), MAX_BANS);
        assert_eq!(peers.banned(&first, now), None);
        peers.expire_bans(now + Duration::from_secs(9));
        assert!(peers.bans.is_empty());
    }
}
