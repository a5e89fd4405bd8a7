//! The swarm and everything that owns a socket towards other nodes.
//!
//! One task (`network::actor`) owns the libp2p `Swarm`. The rest of the node holds a [`NetworkHandle`], which only
//! sends commands, and reads `watch` snapshots.

use crate::telemetry::Metrics;
use aitbc_crypto::SecretKey;
use aitbc_protocol::{NetworkId, NodeId, geo::Cell, offer::Gossip, wire::WireError};
use libp2p::Multiaddr;
use serde::Serialize;
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::sync::{mpsc, watch};

pub use streams::{FramedStream, IncomingStream, StreamError};
pub mod gossip;
pub mod record_store;
pub mod streams;
mod token_bucket;

/// How the network is started.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Whose statements count.
    pub network: NetworkId,
    /// Where to listen, QUIC and TCP; port 0 lets the system choose.
    pub listen: Vec<Multiaddr>,
    /// First contacts, each ending in `/p2p/<PeerId>`.
    pub bootstrap: Vec<Multiaddr>,
    /// Addresses known to lead here from outside.
    pub external: Vec<Multiaddr>,
    /// Whether to relay for others (and to serve the DHT before reachability is known).
    pub relay: bool,
    /// Whether to look for peers on the local network.
    pub mdns: bool,
    /// Whether to ask the router for a port mapping.
    pub upnp: bool,
    /// Turns gossip off (tests: the DHT must do alone).
    pub gossip: bool,
    /// Turns the DHT off (tests: gossip must do alone).
    pub dht: bool,
    /// Where known peers are kept between runs; `None` keeps none.
    pub peer_table: Option<PathBuf>,
}

/// What the node knows of one connected peer.
#[derive(Clone, Debug, Serialize)]
pub struct PeerInfo {
    /// Who.
    pub peer: NodeId,
    /// Address of the best connection.
    pub address: String,
    /// `direct` or `relayed`.
    pub path: String,
    /// `quic`, `tcp`.
    pub transport: String,
    /// Latest measured round trip in milliseconds.
    pub round_trip_ms: Option<f64>,
    /// What identify says it runs.
    pub agent: String,
    /// Gossip score.
    pub score: f64,
}

/// What the node knows about how others reach it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Reachability {
    /// `unknown`, `public`, `private`, with the reason.
    pub verdict: String,
    /// Why.
    pub reason: String,
}

/// Address and identity of a provider that the DHT named.
#[derive(Clone, Debug)]
pub struct FoundProvider {
    /// Who.
    pub node: NodeId,
    /// Where, as far as the record told; may be empty.
    pub addresses: Vec<Multiaddr>,
}

/// A gossip message that waits for its verdict.
#[derive(Debug)]
pub struct GossipMessage {
    /// To pass back with the verdict.
    pub id: libp2p::gossipsub::MessageId,
    /// The peer that forwarded it.
    pub forwarder: NodeId,
    /// The cell of its topic.
    pub cell: Cell,
    /// The message, at most `MAX_GOSSIP_BYTES`.
    pub bytes: Vec<u8>,
}

/// What becomes of a gossip message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Forward it.
    Accept,
    /// Drop it, nobody's fault (duplicates, heartbeats of offers not known yet).
    Ignore,
    /// Drop it and lower the forwarder's score.
    Reject,
}

/// Which protocol a stream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// `/aitbc/offer/1`
    Offer,
    /// `/aitbc/quote/1`
    Quote,
    /// `/aitbc/job/1`
    Job,
}

/// Why something on the network did not work; each names what to look at.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The network task has ended.
    #[error("the network has stopped")]
    Stopped,
    /// A queue is full.
    #[error("the network is too busy: its queue of {0} commands is full")]
    Busy(usize),
    /// Could not listen.
    #[error("cannot listen on {address}: {reason} (setting `listen`)")]
    Listen {
        /// The address.
        address: Multiaddr,
        /// What the system said.
        reason: String,
    },
    /// Start-up failed.
    #[error("cannot start the network: {0}")]
    Start(String),
    /// No connection could be made.
    #[error("cannot reach {peer}: {reason}")]
    Unreachable {
        /// Who.
        peer: NodeId,
        /// Every address tried with its error, on one line.
        reason: String,
    },
    /// Stream failure.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// A message that cannot be encoded.
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// Streams and messages that come in, one bounded queue each; whoever serves a protocol takes its receiver.
#[derive(Debug)]
pub struct Incoming {
    /// Gossip that waits for a verdict.
    pub gossip: mpsc::Receiver<GossipMessage>,
    /// Streams of `/aitbc/offer/1`.
    pub offer: mpsc::Receiver<IncomingStream>,
    /// Streams of `/aitbc/quote/1`.
    pub quote: mpsc::Receiver<IncomingStream>,
    /// Streams of `/aitbc/job/1`.
    pub job: mpsc::Receiver<IncomingStream>,
}

/// Sends commands to the network task. Cheap to clone; the task ends with [`NetworkHandle::shutdown`].
#[derive(Clone, Debug)]
pub struct NetworkHandle {}

impl NetworkHandle {
    /// This node.
    pub fn local_id(&self) -> NodeId {
        todo!()
    }

    /// Addresses under which others can reach this node, best first, without the `/p2p` suffix: confirmed external
    /// ones, relayed ones, then (on network `local`) the ones listened on.
    pub fn addresses(&self) -> watch::Receiver<Arc<Vec<Multiaddr>>> {
        todo!()
    }

    /// Addresses listened on.
    pub fn listening(&self) -> watch::Receiver<Arc<Vec<Multiaddr>>> {
        todo!()
    }

    /// Connected peers.
    pub fn peers(&self) -> watch::Receiver<Arc<Vec<PeerInfo>>> {
        todo!()
    }

    /// How others reach this node.
    pub fn reachability(&self) -> watch::Receiver<Reachability> {
        todo!()
    }

    /// Replaces the set of cells under which this node announces itself in the DHT; the network republishes them
    /// every 10 minutes and whenever its addresses change. Empty stops announcing.
    pub async fn announce(&self, cells: Vec<Cell>) -> Result<(), NetworkError> {
        let _ = cells;
        todo!()
    }

    /// Asks the DHT who announces itself under `cell`. Providers arrive while the query runs; the channel closes at
    /// its end (at most 20 s).
    pub async fn providers_of(&self, cell: Cell) -> Result<mpsc::Receiver<FoundProvider>, NetworkError> {
        let _ = cell;
        todo!()
    }

    /// Replaces the set of cells whose topics this node hears, at most 32.
    pub async fn subscribe(&self, cells: Vec<Cell>) -> Result<(), NetworkError> {
        let _ = cells;
        todo!()
    }

    /// Publishes on the topic of `cell`. Nobody listening is not an error.
    pub async fn publish(&self, cell: Cell, message: &Gossip) -> Result<(), NetworkError> {
        let _ = (cell, message);
        todo!()
    }

    /// Says what becomes of a gossip message. Every message needs one verdict.
    pub async fn judge(&self, id: libp2p::gossipsub::MessageId, forwarder: NodeId, verdict: Verdict) {
        let _ = (id, forwarder, verdict);
        todo!()
    }

    /// Connects, if there is no connection yet, and returns the round trip as soon as one was measured.
    pub async fn connect(&self, peer: NodeId, addresses: Vec<Multiaddr>) -> Result<Duration, NetworkError> {
        let _ = (peer, addresses);
        todo!()
    }

    /// Opens a stream on the best connection to `peer`, dialling `addresses` if there is none.
    pub async fn open(
        &self,
        peer: NodeId,
        addresses: Vec<Multiaddr>,
        protocol: Protocol,
    ) -> Result<FramedStream, NetworkError> {
        let _ = (peer, addresses, protocol);
        todo!()
    }

    /// Says goodbye and ends the network task.
    pub async fn shutdown(&self) {
        todo!()
    }
}

/// Starts the network task.
pub async fn start(
    config: NetworkConfig,
    key: &SecretKey,
    metrics: &Metrics,
) -> Result<(NetworkHandle, Incoming), NetworkError> {
    let _ = (config, key, metrics);
    todo!()
}
