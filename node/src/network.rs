//! The swarm and everything that owns a socket towards other nodes.
//!
//! One task (`network::actor`) owns the libp2p `Swarm`. The rest of the node holds a [`NetworkHandle`], which only
//! sends commands, and reads `watch` snapshots.
//!
//! ```text
//!   NetworkHandle --Command--> actor ------------> Swarm<Behaviour> <---> other nodes
//!        ^                       |  reach: dials and who waits for them
//!        | watch: addresses,     |  discovery: announcing and finding in the DHT, over record_store
//!        | peers, reachability   |  gossiping: topics and verdicts, over gossip
//!        +-----------------------+  bootstrap, peer_table: finding the network
//!                                   reachability, relaying: how others reach this node
//!   Incoming <--bounded queues-- streams, gossip
//! ```
//!
//! Whoever serves a protocol takes its queue through [`intake`], which bounds what each peer may open.

use crate::telemetry::Metrics;
use aitbc_crypto::SecretKey;
use aitbc_protocol::{NetworkId, NodeId, geo::Cell, wire::WireError};
use libp2p::{Multiaddr, PeerId, identity::Keypair};
use serde::Serialize;
use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, watch};
use tracing::Instrument;

pub use handle::{NetworkHandle, NotDialled};
pub use report::{HolePunches, NetworkReport, Observed, RelayInfo};
pub use streams::{FramedStream, IncomingStream, StreamError};
pub use traffic::TrafficRates;

pub(crate) use addresses::{is_global, subnet};

mod actor;
mod addresses;
mod behaviour;
mod bootstrap;
mod dht;
mod discovery;
pub mod gossip;
mod handle;
pub(crate) mod intake;
mod metrics;
mod peer_table;
mod peers;
pub mod probe;
mod reach;
mod reachability;
pub mod record_store;
mod relay_limits;
mod report;
#[cfg(test)]
pub(crate) mod simulated;
pub mod streams;
pub(crate) mod token_bucket;
mod traffic;
mod uplink;
mod visits;

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
    /// Megabits a second that relaying may take of the uplink; no limit if not set.
    pub relay_mbit: Option<u32>,
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
    /// What kind of connection that is.
    pub path: PathKind,
    /// `quic`, `tcp`.
    pub transport: String,
    /// The least of the latest measured round trips in milliseconds.
    pub round_trip_ms: Option<f64>,
    /// Their mean, which prices go by.
    pub mean_round_trip_ms: Option<f64>,
    /// The longest of them, which late pieces are held against.
    pub longest_round_trip_ms: Option<f64>,
    /// What identify says it runs.
    pub agent: String,
    /// Gossip score.
    pub score: f64,
    /// All connections to it.
    pub paths: Vec<PathInfo>,
}

impl PeerInfo {
    /// Where a direct connection to it comes from or leads; `None` where there is none.
    pub fn ip(&self) -> Option<IpAddr> {
        addresses::source_ip(&self.address.parse().ok()?)
    }
}

/// How a connection came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathKind {
    /// One end dialled the other.
    Direct,
    /// The peer came in through a port that this node's router forwards. The peer's end calls it direct.
    PortMapped,
    /// Both ends dialled at the same time (DCUtR).
    HolePunched,
    /// Through a relay.
    Relayed,
}

impl PathKind {
    /// Its name, as documents show it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::PortMapped => "port-mapped",
            Self::HolePunched => "hole-punched",
            Self::Relayed => "relayed",
        }
    }
}

/// One connection to a peer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PathInfo {
    /// What kind.
    pub path: PathKind,
    /// `quic`, `tcp`.
    pub transport: String,
    /// The far end.
    pub address: String,
    /// Whether this node dialled it.
    pub outbound: bool,
    /// The least of the latest measured round trips in milliseconds.
    pub round_trip_ms: Option<f64>,
    /// Probes whose answer took over a second and three round trips.
    pub late: u32,
    /// Its age in seconds.
    pub age_s: u64,
}

/// What the node knows about how others reach it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
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
    /// `/aitbc/reach/1`
    Reach,
    /// `/aitbc/challenge/1`
    Challenge,
    /// `/aitbc/attest/1`
    Attest,
    /// `/aitbc/bandwidth/1`
    Bandwidth,
    /// `/aitbc/fhe/1`
    Fhe,
    /// `/aitbc/settlement/1`
    Settlement,
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
    /// Too many lookups run already.
    #[error("{0} DHT lookups are running already: wait for one to end")]
    TooManyLookups(usize),
    /// Too many peers, or too many callers for one peer, are waited for.
    #[error("{0} connections are being waited for already: try again later")]
    TooManyDials(usize),
    /// More topics than a node may hear.
    #[error("{0} topics are more than the {limit} a node may hear: choose coarser cells", limit = gossip::MAX_TOPICS)]
    TooManyTopics(usize),
    /// Gossip did not take a message.
    #[error("cannot publish: {0}")]
    Publish(String),
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
    /// Streams of `/aitbc/reach/1`.
    pub reach: mpsc::Receiver<IncomingStream>,
    /// Streams of `/aitbc/challenge/1`.
    pub challenge: mpsc::Receiver<IncomingStream>,
    /// Streams of `/aitbc/attest/1`.
    pub attest: mpsc::Receiver<IncomingStream>,
    /// Streams of `/aitbc/bandwidth/1`.
    pub bandwidth: mpsc::Receiver<IncomingStream>,
    /// Streams of `/aitbc/fhe/1`.
    pub fhe: mpsc::Receiver<IncomingStream>,
    /// Streams of `/aitbc/settlement/1`.
    pub settlement: mpsc::Receiver<IncomingStream>,
}

/// Messages of gossip that may wait for a verdict.
const GOSSIP_QUEUE: usize = 512;
/// Streams of one protocol that may wait to be served: several times what one peer may have open.
const STREAM_QUEUE: usize = 512;

/// How long the operating system may take to tell where it listens.
const LISTEN_PATIENCE: Duration = Duration::from_secs(5);

/// Starts the network task: listens, and looks for peers until there are some.
pub async fn start(
    config: NetworkConfig,
    key: &SecretKey,
    metrics: &Metrics,
) -> Result<(NetworkHandle, Incoming), NetworkError> {
    let fail = |error: &dyn std::error::Error| NetworkError::Start(error.to_string());
    let keypair = Keypair::ed25519_from_bytes(key.to_bytes().as_mut_slice()).map_err(|error| fail(&error))?;
    let local = keypair.public().to_peer_id();
    let now = Instant::now();
    let bootstrap = bootstrap::Bootstrap::new(&config.bootstrap, local, config.relay, now)?;
    let table_path = config.peer_table.clone();
    let table = tokio::task::spawn_blocking(move || peer_table::PeerTable::load(table_path, now))
        .await
        .map_err(|error| fail(&error))?;

    let (gossip_queue, gossip) = mpsc::channel(GOSSIP_QUEUE);
    let (queues, incoming) = queues(gossip);
    let counters = metrics::NetworkMetrics::register(metrics);
    let uplink = uplink::Uplink::new(config.relay_mbit, counters.relay_carried.clone(), counters.traffic.clone());
    let mut swarm = behaviour::swarm(&config, keypair, queues, &uplink).map_err(|error| fail(error.as_ref()))?;
    let listeners = listen(&mut swarm, &config.listen)?;

    let (commands, inbox) = mpsc::channel(handle::COMMANDS);
    let (publisher, snapshots) = snapshots();
    let node = key.node_id();
    let actor = actor::Actor {
        local,
        policy: addresses::AddressPolicy::of(&config.network),
        swarm,
        commands: inbox,
        gossip_queue,
        publisher,
        sampler: traffic::Sampler::new(counters.traffic.clone(), now),
        metrics: counters,
        peers: peers::Peers::default(),
        reaching: reach::Reaching::default(),
        own: reachability::OwnAddresses::new(&config.network, &config.external),
        visits: visits::Visits::default(),
        checks: actor::checking::Checks::default(),
        discovery: discovery::Discovery::new(now),
        bootstrap,
        table,
        topics: BTreeSet::new(),
        forwarders: gossip::ForwarderLimits::default(),
        reservations: actor::relaying::Reservations::new(now),
        missing: actor::missing::MissingPeers::default(),
        doubted_until: None,
        server_mode: None,
        scores_at: now,
        peers_changed: false,
        config,
    };
    let mut listening = snapshots.listening.clone();
    tokio::spawn(actor.run().instrument(tracing::info_span!("network", node = %node.short())));
    // Whoever asks a node that has started where it listens gets an answer.
    let all = listening.wait_for(|addresses| addresses.len() >= listeners);
    let _ = tokio::time::timeout(LISTEN_PATIENCE, all).await;
    let handle = NetworkHandle { local: node, commands, snapshots };
    Ok((handle, incoming))
}

/// A queue for each protocol: where streams go in, and where they are served.
fn queues(gossip: mpsc::Receiver<GossipMessage>) -> (streams::IncomingQueues, Incoming) {
    let channel = || mpsc::channel(STREAM_QUEUE);
    let ((offer_queue, offer), (quote_queue, quote), (job_queue, job)) = (channel(), channel(), channel());
    let ((reach_queue, reach), (challenge_queue, challenge)) = (channel(), channel());
    let ((attest_queue, attest), (bandwidth_queue, bandwidth)) = (channel(), channel());
    let ((fhe_queue, fhe), (settlement_queue, settlement)) = (channel(), channel());
    let queues = streams::IncomingQueues {
        offer: offer_queue,
        quote: quote_queue,
        job: job_queue,
        reach: reach_queue,
        challenge: challenge_queue,
        attest: attest_queue,
        bandwidth: bandwidth_queue,
        fhe: fhe_queue,
        settlement: settlement_queue,
    };
    (queues, Incoming { gossip, offer, quote, job, reach, challenge, attest, bandwidth, fhe, settlement })
}

/// Listens on all addresses and returns how many there are. A machine without IPv6 does without it; anything else that
/// cannot be listened on is an error.
fn listen(
    swarm: &mut libp2p::Swarm<behaviour::Behaviour>,
    addresses: &[Multiaddr],
) -> Result<usize, NetworkError> {
    let mut listeners = 0;
    for address in addresses {
        match swarm.listen_on(address.clone()) {
            Ok(_) => listeners += 1,
            Err(error) => {
                let reason = reach::innermost(&error);
                let is_ip6 = matches!(address.iter().next(), Some(libp2p::multiaddr::Protocol::Ip6(_)));
                let is_taken = reason.contains("in use");
                if !is_ip6 || is_taken {
                    return Err(NetworkError::Listen { address: address.clone(), reason });
                }
                tracing::warn!(%address, reason, "not listening on IPv6; leave it out of `listen` to silence this");
            }
        }
    }
    Ok(listeners)
}

fn snapshots() -> (actor::Publisher, handle::Snapshots) {
    let (addresses, addresses_seen) = watch::channel(Arc::default());
    let (listening, listening_seen) = watch::channel(Arc::default());
    let (peers, peers_seen) = watch::channel(Arc::default());
    let (reachability, reachability_seen) = watch::channel(Reachability::default());
    let (candidates, candidates_seen) = watch::channel(Arc::default());
    let (offline, offline_seen) = watch::channel(Arc::default());
    let (traffic, traffic_seen) = watch::channel(TrafficRates::default());
    let snapshots = handle::Snapshots {
        addresses: addresses_seen,
        listening: listening_seen,
        peers: peers_seen,
        reachability: reachability_seen,
        candidates: candidates_seen,
        offline: offline_seen,
        traffic: traffic_seen,
    };
    (actor::Publisher { addresses, listening, peers, reachability, candidates, offline, traffic }, snapshots)
}

/// The libp2p name of a node.
fn peer_id(node: &NodeId) -> PeerId {
    PeerId::from_bytes(&node.to_peer_id_bytes()).expect("an identity multihash of 36 bytes is a PeerId")
}

/// The node behind a libp2p name; `None` for keys other than ed25519.
fn node_id(peer: &PeerId) -> Option<NodeId> {
    NodeId::from_peer_id_bytes(&peer.to_bytes())
}

#[cfg(test)]
pub(crate) mod tests;
