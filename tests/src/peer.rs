//! A bare peer: a network identity without ledger, engine or manners, for attacks.

use aitbc_crypto::SecretKey;
use aitbc_node::{
    network::{self, Incoming, NetworkConfig, NetworkHandle},
    telemetry::Metrics,
};
use aitbc_protocol::{NetworkId, NodeId};
use libp2p::Multiaddr;

/// A peer that does what a test tells it.
#[derive(Debug)]
pub struct Peer {
    /// Its key.
    pub key: SecretKey,
    /// Its network.
    pub network: NetworkHandle,
    /// What reaches it.
    pub incoming: Incoming,
}

/// The network of the tests.
pub fn local() -> NetworkId {
    NetworkId::new(NetworkId::LOCAL).expect("a literal name")
}

/// Settings of a peer on loopback.
pub fn config(bootstrap: &[Multiaddr]) -> NetworkConfig {
    NetworkConfig {
        network: local(),
        listen: vec![
            "/ip4/127.0.0.1/udp/0/quic-v1".parse().expect("a literal address"),
            "/ip4/127.0.0.1/tcp/0".parse().expect("a literal address"),
        ],
        bootstrap: bootstrap.to_vec(),
        external: Vec::new(),
        relay: false,
        relay_mbit: None,
        mdns: false,
        upnp: false,
        gossip: true,
        dht: true,
        peer_table: None,
    }
}

impl Peer {
    /// A new peer that knows `bootstrap`.
    pub async fn start(bootstrap: &[Multiaddr]) -> Self {
        Self::with(config(bootstrap)).await
    }

    /// A new peer with settings of its own.
    pub async fn with(config: NetworkConfig) -> Self {
        let key = SecretKey::generate().expect("random numbers");
        let (network, incoming) = network::start(config, &key, &Metrics::default()).await.expect("starts");
        Self { key, network, incoming }
    }

    /// Who it is.
    pub fn id(&self) -> NodeId {
        self.key.node_id()
    }

    /// Its addresses with `/p2p/`.
    pub fn addresses(&self) -> Vec<Multiaddr> {
        let suffix: Multiaddr = format!("/p2p/{}", self.id()).parse().expect("an id is a PeerId");
        self.network
            .listening()
            .borrow()
            .iter()
            .map(|address| address.clone().with(suffix.iter().next().expect("one part")))
            .collect()
    }
}
