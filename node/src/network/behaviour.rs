//! Everything this node speaks, composed.

use super::{
    NetworkConfig,
    addresses::AddressPolicy,
    dht::Dht,
    gossip, probe, record_store, relay_limits, streams,
    uplink::{Uplink, Watched},
};
use aitbc_protocol::wire::{IDENTIFY_PROTOCOL, KAD_PROTOCOL};
use libp2p::{
    PeerId, StreamProtocol, Swarm, SwarmBuilder, autonat,
    connection_limits::{self, ConnectionLimits},
    core::{ConnectedPoint, Transport as _, upgrade},
    dcutr, identify,
    identity::Keypair,
    kad, mdns, memory_connection_limits, noise, quic, relay,
    swarm::{NetworkBehaviour, behaviour::toggle::Toggle},
    tcp, upnp, yamux,
};
use std::{num::NonZeroUsize, time::Duration};

/// Connections to one peer: one in use, one for when it dies or while DCUtR replaces a relayed one, one for a dial-back.
const MAX_CONNECTIONS_PER_PEER: u32 = 3;
/// Connections from others to an ordinary node; a relay takes [`RELAY_FACTOR`] times as many.
const MAX_INCOMING: u32 = 256;
/// Connections to others.
const MAX_OUTGOING: u32 = 256;
const RELAY_FACTOR: u32 = 4;
/// Connections that are being made, each way.
const MAX_PENDING: u32 = 128;
/// Part of the machine's memory that this process may use before it takes no more connections.
const MAX_MEMORY: f64 = 0.9;
/// How long a connection nobody uses stays: longer than Kademlia takes between two refreshes of its table (5 min), so
/// that the neighbours it keeps asking need not be dialled each time.
const IDLE_TIMEOUT: Duration = Duration::from_secs(6 * 60);
/// How long QUIC may take to shake hands: as long as TCP's connecting has. Where many packets get lost, repetitions that
/// wait twice as long each time do not fit into the library's five seconds.
const QUIC_HANDSHAKE: Duration = Duration::from_secs(10);
/// How long QUIC waits for any packet: longer than a handshake may take. Where a job runs probes tell of a dead path long
/// before.
const QUIC_SILENCE_MS: u32 = 15_000;
/// How long a DHT lookup may take.
pub(super) const LOOKUP_TIMEOUT: Duration = Duration::from_secs(20);
/// How often provider records are renewed.
const REPUBLISH: Duration = Duration::from_secs(10 * 60);
/// How long provider records live.
const RECORD_LIFETIME: Duration = Duration::from_secs(30 * 60);
/// Nodes that keep a record, and records one node answers with: as many as a search is content with.
const REPLICATION: NonZeroUsize = NonZeroUsize::new(16).expect("16 is not zero");
/// Disjoint paths of a lookup, walked at the same time.
const PATHS: NonZeroUsize = NonZeroUsize::new(4).expect("4 is not zero");

/// The protocols of a node. The limits come first: they refuse a connection before any other part sees it.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    /// How many connections.
    connections: connection_limits::Behaviour,
    /// No more connections when memory is short.
    memory: memory_connection_limits::Behaviour,
    /// Who is there, what it speaks, of which network it is.
    pub(super) identify: identify::Behaviour,
    /// Round trips, and which connections are dead.
    pub(super) probe: probe::Behaviour,
    /// Providers by cell.
    pub(super) kad: Toggle<Dht>,
    /// Offers by cell.
    pub(super) gossip: Toggle<gossip::Behaviour>,
    /// Peers on the local network.
    mdns: Toggle<mdns::tokio::Behaviour>,
    /// Port mappings of the router.
    upnp: Toggle<upnp::tokio::Behaviour>,
    /// Asks others whether they can reach this node.
    autonat_client: autonat::v2::client::Behaviour,
    /// Tries for others whether they can be reached.
    autonat_server: autonat::v2::server::Behaviour,
    /// Uses relays.
    relay_client: relay::client::Behaviour,
    /// Is a relay.
    relay_server: Toggle<relay::Behaviour>,
    /// Turns relayed connections into direct ones.
    dcutr: dcutr::Behaviour,
    /// Offers, quotes and jobs.
    pub(super) streams: streams::Behaviour,
}

/// What identify calls the protocol on this network; peers that say otherwise belong to another one.
pub(super) fn protocol_version(config: &NetworkConfig) -> String {
    format!("{IDENTIFY_PROTOCOL}/{}", config.network)
}

/// Builds the swarm; it neither listens nor dials yet.
pub(super) fn swarm(
    config: &NetworkConfig,
    key: Keypair,
    incoming: streams::IncomingQueues,
    uplink: &Uplink,
) -> Result<Swarm<Behaviour>, Box<dyn std::error::Error + Send + Sync>> {
    let swarm = SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_other_transport(|key| {
            let tcp = tcp::tokio::Transport::new(tcp::Config::default())
                .upgrade(upgrade::Version::V1Lazy)
                .authenticate(noise::Config::new(key)?)
                .multiplex(yamux::Config::default());
            Ok(tcp.map(watched(uplink)))
        })?
        .with_other_transport(|key| quic::tokio::Transport::new(over_quic(key)).map(watched(uplink)))?
        .with_dns()?
        .with_relay_client(noise::Config::new, yamux::Config::default)?
        .with_behaviour(|key, relay_client| behaviour(config, key, relay_client, incoming))?
        .with_swarm_config(|swarm| swarm.with_idle_connection_timeout(IDLE_TIMEOUT).with_smart_dial())
        .build();
    Ok(swarm)
}

fn over_quic(key: &Keypair) -> quic::Config {
    let mut config = quic::Config::new(key);
    config.handshake_timeout = QUIC_HANDSHAKE;
    config.max_idle_timeout = QUIC_SILENCE_MS;
    config
}

/// Counts what a connection carries, and puts what it relays under the limits of `uplink`.
fn watched<M>(
    uplink: &Uplink,
) -> impl FnOnce((PeerId, M), ConnectedPoint) -> (PeerId, Watched<M>) + Clone + use<M> {
    let uplink = uplink.clone();
    move |(peer, muxer), _| (peer, uplink.of(muxer))
}

fn behaviour(
    config: &NetworkConfig,
    key: &Keypair,
    relay_client: relay::client::Behaviour,
    incoming: streams::IncomingQueues,
) -> Behaviour {
    let local = key.public().to_peer_id();
    let incoming_connections = if config.relay { MAX_INCOMING * RELAY_FACTOR } else { MAX_INCOMING };
    let limits = ConnectionLimits::default()
        .with_max_pending_incoming(Some(MAX_PENDING))
        .with_max_pending_outgoing(Some(MAX_PENDING))
        .with_max_established_incoming(Some(incoming_connections))
        .with_max_established_outgoing(Some(MAX_OUTGOING))
        .with_max_established_per_peer(Some(MAX_CONNECTIONS_PER_PEER));
    // Listen addresses are hidden: what others should know is announced as an external address, so that no private
    // address leaves a node of a public network. No cache either: it would dial whatever a peer says of itself.
    let identify = identify::Config::new(protocol_version(config), key.public())
        .with_agent_version(concat!("aitbc/", env!("CARGO_PKG_VERSION")).to_owned())
        .with_hide_listen_addrs(true)
        .with_cache_size(0);
    let mdns = config.mdns.then(|| mdns::tokio::Behaviour::new(mdns::Config::default(), local)).and_then(|mdns| {
        mdns.inspect_err(
            |error| tracing::warn!(%error, "mDNS does not work here, the local network is not searched"),
        )
        .ok()
    });
    Behaviour {
        connections: connection_limits::Behaviour::new(limits),
        memory: memory_connection_limits::Behaviour::with_max_percentage(MAX_MEMORY),
        identify: identify::Behaviour::new(identify),
        probe: probe::Behaviour::default(),
        kad: config.dht.then(|| kademlia(config, local)).into(),
        gossip: config.gossip.then(|| gossip::behaviour(&config.network)).into(),
        mdns: mdns.into(),
        upnp: config.upnp.then(upnp::tokio::Behaviour::default).into(),
        autonat_client: autonat::v2::client::Behaviour::default(),
        autonat_server: autonat::v2::server::Behaviour::default(),
        relay_client,
        relay_server: config.relay.then(|| relay::Behaviour::new(local, relay_limits::config())).into(),
        dcutr: dcutr::Behaviour::new(local),
        streams: streams::Behaviour::new(streams::StreamLimits::default(), incoming),
    }
}

fn kademlia(config: &NetworkConfig, local: PeerId) -> Dht {
    let mut kademlia = kad::Config::new(StreamProtocol::new(KAD_PROTOCOL));
    kademlia
        .set_max_packet_size(record_store::KAD_PACKET_BYTES)
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        // Peers enter the table only once identify has shown their network, and by addresses that mean something.
        .set_kbucket_inserts(kad::BucketInserts::Manual)
        .disjoint_query_paths(true)
        .set_parallelism(PATHS)
        .set_replication_factor(REPLICATION)
        .set_query_timeout(LOOKUP_TIMEOUT)
        .set_provider_publication_interval(Some(REPUBLISH))
        .set_provider_record_ttl(Some(RECORD_LIFETIME))
        // Only provider records are kept; nothing else needs replication.
        .set_replication_interval(None)
        .set_publication_interval(None);
    let store = record_store::CellStore::new(local, config.network.clone());
    let kademlia = kad::Behaviour::with_config(local, store, kademlia);
    Dht::new(kademlia, AddressPolicy::of(&config.network))
}
