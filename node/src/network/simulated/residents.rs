//! One node as the simulated network sees it, and the ways between two.

use super::pipe::{Cutter, Forge};
use crate::network::{GossipMessage, PathKind, PeerInfo, Protocol, actor::Publisher, streams::IncomingQueues};
use aitbc_protocol::{
    NodeId, UnixMillis,
    geo::{Cell, Location, least_round_trip_ms},
};
use libp2p::Multiaddr;
use std::{collections::BTreeSet, fmt, net::Ipv4Addr, sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// What cables and routers make of light's own time, and what the two lines add at the least, in milliseconds.
const DETOUR: f64 = 1.5;
const LINES_MS: u64 = 6;
/// What a pair of lines adds at the most beyond that.
const UNEVEN_MS: u64 = 12;
/// Streams of a node after which those that are over are forgotten.
const SWEEP: usize = 64;

/// What becomes of a frame on a stream of a protocol.
pub(crate) type RewriteFrame = Box<dyn Fn(Protocol, &[u8]) -> Option<Vec<u8>> + Send + Sync>;
/// What becomes of a gossip message.
pub(crate) type RewriteGossip = Box<dyn Fn(&[u8]) -> Option<Vec<u8>> + Send + Sync>;

/// What a node makes of its own words before they leave; `None` lets one be.
pub(crate) struct Tongue {
    /// A frame that it sends on a stream that somebody else opened.
    pub(crate) frame: RewriteFrame,
    /// A gossip message.
    pub(crate) gossip: RewriteGossip,
}

impl fmt::Debug for Tongue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Tongue")
    }
}

/// Where a node lives.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    pub(crate) location: Location,
    pub(crate) ip: Ipv4Addr,
    /// Set where it does not send what its code says.
    pub(crate) tongue: Option<Arc<Tongue>>,
}

impl Home {
    pub(super) fn address(&self) -> Multiaddr {
        format!("/ip4/{}/udp/4101/quic-v1", self.ip).parse().expect("a whole address")
    }
}

/// A node.
pub(super) struct Resident {
    pub(super) id: NodeId,
    pub(super) home: Home,
    pub(super) publisher: Publisher,
    pub(super) queues: IncomingQueues,
    pub(super) gossip: mpsc::Sender<GossipMessage>,
    /// False once its line is dead.
    pub(super) here: bool,
    pub(super) hears: BTreeSet<Cell>,
    pub(super) announced: Vec<Cell>,
    /// When its records are gone from the DHT, once it has left.
    pub(super) forgotten_ms: Option<UnixMillis>,
    pub(super) connected: BTreeSet<usize>,
    streams: Vec<Cutter>,
}

impl Resident {
    pub(super) fn new(
        id: NodeId,
        home: Home,
        publisher: Publisher,
        queues: IncomingQueues,
        gossip: mpsc::Sender<GossipMessage>,
    ) -> Self {
        Self {
            id,
            home,
            publisher,
            queues,
            gossip,
            here: true,
            hears: BTreeSet::new(),
            announced: Vec::new(),
            forgotten_ms: None,
            connected: BTreeSet::new(),
            streams: Vec::new(),
        }
    }

    /// What it does to frames of a protocol.
    pub(super) fn forge(&self, protocol: Protocol) -> Option<Forge> {
        let tongue = self.home.tongue.clone()?;
        Some(Arc::new(move |bytes: &[u8]| (tongue.frame)(protocol, bytes)))
    }

    pub(super) fn keep(&mut self, stream: Cutter) {
        if self.streams.len() >= SWEEP {
            self.streams.retain(|stream| !stream.is_over());
        }
        self.streams.push(stream);
    }

    pub(super) fn take_streams(&mut self) -> Vec<Cutter> {
        std::mem::take(&mut self.streams)
    }

    /// A connection to another node is there.
    pub(super) fn met(&mut self, number: usize, id: NodeId, home: &Home, round_trip: Duration) {
        if !self.connected.insert(number) {
            return;
        }
        let info = info(id, home, round_trip);
        self.publisher.peers.send_modify(|peers| Arc::make_mut(peers).push(info));
        if self.publisher.offline.borrow().contains_key(&id) {
            self.publisher.offline.send_modify(|offline| {
                Arc::make_mut(offline).remove(&id);
            });
        }
    }

    /// It is gone.
    pub(super) fn missed(&mut self, number: usize, id: NodeId) {
        if self.connected.remove(&number) {
            self.publisher.peers.send_modify(|peers| Arc::make_mut(peers).retain(|peer| peer.peer != id));
        }
    }

    /// Somebody was sought in vain since then.
    pub(super) fn offline(&self, id: NodeId, since_ms: UnixMillis) {
        self.publisher.offline.send_modify(|offline| {
            Arc::make_mut(offline).insert(id, since_ms);
        });
    }
}

fn info(id: NodeId, home: &Home, round_trip: Duration) -> PeerInfo {
    let round_trip_ms = round_trip.as_secs_f64() * 1_000.0;
    PeerInfo {
        peer: id,
        address: home.address().to_string(),
        path: PathKind::Direct,
        transport: "quic".to_owned(),
        round_trip_ms: Some(round_trip_ms),
        mean_round_trip_ms: Some(round_trip_ms),
        longest_round_trip_ms: Some(round_trip_ms),
        agent: "aitbc".to_owned(),
        score: 0.0,
        paths: Vec::new(),
    }
}

/// The round trip between two homes, in whole milliseconds: the same both ways, always.
pub(super) fn round_trip(seed: u64, (one, here): (usize, &Home), (other, there): (usize, &Home)) -> Duration {
    let (low, high) = (one.min(other) as u64, one.max(other) as u64);
    // The finaliser of SplitMix64: an even number for each pair.
    let mut mixed = seed ^ (low << 32 | high);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let uneven = (mixed ^ (mixed >> 31)) % UNEVEN_MS;
    let light_ms = least_round_trip_ms(here.location.distance_km(&there.location)) * DETOUR;
    Duration::from_millis(LINES_MS + uneven + light_ms.ceil() as u64)
}
