//! Real swarms on loopback, each with a port of its own.

use super::*;
use aitbc_protocol::{
    Signed,
    geo::Location,
    gossip::Gossip,
    offer::Heartbeat,
    wire::{MAX_GOSSIP_BYTES, MAX_OFFER_FRAME, decode},
};
use std::{fs, path::Path, time::Duration};
use tokio::time::timeout;

/// Far more than any of these takes; a test that hangs fails.
const LIMIT: Duration = Duration::from_secs(30);

pub(crate) const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";
const TCP: &str = "/ip4/127.0.0.1/tcp/0";

struct Node {
    handle: NetworkHandle,
    incoming: Incoming,
    metrics: Metrics,
}

pub(crate) fn config(listen: &[&str], bootstrap: &[Multiaddr]) -> NetworkConfig {
    NetworkConfig {
        network: NetworkId::new(NetworkId::LOCAL).unwrap(),
        listen: listen.iter().map(|address| address.parse().unwrap()).collect(),
        bootstrap: bootstrap.to_vec(),
        external: Vec::new(),
        relay: true,
        relay_mbit: None,
        mdns: false,
        upnp: false,
        gossip: true,
        dht: true,
        peer_table: None,
    }
}

async fn start_with(config: NetworkConfig) -> Node {
    start_as(config, &SecretKey::generate().unwrap()).await
}

async fn start_as(config: NetworkConfig, key: &SecretKey) -> Node {
    let metrics = Metrics::default();
    let (handle, incoming) = start(config, key, &metrics).await.unwrap();
    Node { handle, incoming, metrics }
}

impl Node {
    fn id(&self) -> NodeId {
        self.handle.local_id()
    }

    /// The addresses announced, as soon as there are some.
    async fn addresses(&self) -> Vec<Multiaddr> {
        let mut addresses = self.handle.addresses();
        let known = timeout(LIMIT, addresses.wait_for(|known| !known.is_empty())).await.unwrap().unwrap();
        known.to_vec()
    }

    /// The same with the peer's name, as a bootstrap list has them.
    async fn contacts(&self) -> Vec<Multiaddr> {
        self.addresses().await.into_iter().map(|address| address.with_p2p(peer_id(&self.id())).unwrap()).collect()
    }

    /// Waits until the connected peers are as `wanted`.
    async fn peers(&self, wanted: impl FnMut(&Arc<Vec<PeerInfo>>) -> bool) -> Vec<PeerInfo> {
        let mut peers = self.handle.peers();
        let known = timeout(LIMIT, peers.wait_for(wanted)).await.unwrap().unwrap();
        known.to_vec()
    }

    async fn connected_to(&self, other: &Node) {
        let id = other.id();
        self.peers(|peers| peers.iter().any(|peer| peer.peer == id)).await;
    }
}

fn cell(latitude: f64, longitude: f64, precision: u8) -> Cell {
    Cell::at(&Location { latitude, longitude }, precision)
}

/// A message that gossip takes for one; who judges it in these tests never opens it.
fn heartbeat(text: &str) -> Gossip {
    Gossip::Heartbeat(Signed::<Heartbeat>::from_parts(NodeId([7; 32]), [0; 64], text.as_bytes().to_vec()))
}

async fn connects_over(listen: &str, transport: &str) {
    let (one, other) = (start_with(config(&[listen], &[])).await, start_with(config(&[listen], &[])).await);
    let round_trip =
        timeout(LIMIT, one.handle.connect(other.id(), other.addresses().await)).await.unwrap().unwrap();
    assert!(round_trip > Duration::ZERO && round_trip < Duration::from_secs(5), "{round_trip:?}");
    let peers = one.peers(|peers| peers.iter().any(|peer| !peer.agent.is_empty())).await;
    assert_eq!(peers.len(), 1);
    let peer = &peers[0];
    assert_eq!((peer.peer, peer.transport.as_str(), peer.path.name()), (other.id(), transport, "direct"));
    let least = peer.round_trip_ms.expect("measured");
    assert!(peer.mean_round_trip_ms >= Some(least) && peer.longest_round_trip_ms >= peer.mean_round_trip_ms);
    assert_eq!(peer.agent, concat!("aitbc/", env!("CARGO_PKG_VERSION")));
    let text = one.metrics.encode();
    assert!(
        text.contains(&format!("aitbc_network_connections{{transport=\"{transport}\",path=\"direct\"}}")),
        "{text}"
    );
    // The second time the round trip is known.
    assert!(one.handle.connect(other.id(), Vec::new()).await.is_ok());
}

#[tokio::test]
async fn two_nodes_connect_over_quic() {
    connects_over(QUIC, "quic").await;
}

#[tokio::test]
async fn two_nodes_connect_over_tcp() {
    connects_over(TCP, "tcp").await;
}

#[tokio::test]
async fn streams_open_both_ways() {
    let mut one = start_with(config(&[QUIC], &[])).await;
    let mut other = start_with(config(&[QUIC], &[])).await;
    let addresses = other.addresses().await;
    let mut there =
        timeout(LIMIT, one.handle.open(other.id(), addresses, Protocol::Offer)).await.unwrap().unwrap();
    there.send(&"hello", MAX_OFFER_FRAME).await.unwrap();
    let mut here = timeout(LIMIT, other.incoming.offer.recv()).await.unwrap().unwrap();
    assert_eq!(here.peer, one.id());
    let text: Option<String> = timeout(LIMIT, here.stream.receive(MAX_OFFER_FRAME)).await.unwrap().unwrap();
    assert_eq!(text.as_deref(), Some("hello"));

    // Back over the connection there is, without any address.
    let mut back = timeout(LIMIT, other.handle.open(one.id(), Vec::new(), Protocol::Job)).await.unwrap().unwrap();
    back.send(&7u32, MAX_OFFER_FRAME).await.unwrap();
    let mut here = timeout(LIMIT, one.incoming.job.recv()).await.unwrap().unwrap();
    assert_eq!(timeout(LIMIT, here.stream.receive::<u32>(MAX_OFFER_FRAME)).await.unwrap().unwrap(), Some(7));
}

#[tokio::test]
async fn an_unreachable_peer_is_reported_with_every_address() {
    let node = start_with(config(&[QUIC, TCP], &[])).await;
    // A port that was free a moment ago, and an address of another node.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let other = start_with(config(&[TCP], &[])).await;
    let closed: Multiaddr = format!("/ip4/127.0.0.1/tcp/{free}").parse().unwrap();
    let taken = other.addresses().await.remove(0);
    let nobody = SecretKey::generate().unwrap().node_id();
    let addresses = vec![closed.clone(), taken.clone(), "/memory/1".parse().unwrap()];
    let error = timeout(LIMIT, node.handle.connect(nobody, addresses)).await.unwrap().unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot reach {nobody}: ")), "{error}");
    for part in [closed.to_string(), taken.to_string(), "refused".to_owned(), "/memory/1".to_owned()] {
        assert!(error.contains(&part), "{part} is missing: {error}");
    }
    assert!(!error.contains('\n'), "{error}");
    let error = timeout(LIMIT, node.handle.connect(nobody, Vec::new())).await.unwrap().unwrap_err();
    assert!(matches!(error, NetworkError::Unreachable { .. }), "{error}");
    let error = node.handle.connect(node.id(), Vec::new()).await.unwrap_err();
    assert!(error.to_string().contains("this node itself"), "{error}");
}

#[tokio::test]
async fn a_stale_address_does_not_hide_the_good_one() {
    let [node, wanted, other] = [
        start_with(config(&[TCP], &[])).await,
        start_with(config(&[TCP], &[])).await,
        start_with(config(&[TCP], &[])).await,
    ];
    let mut addresses = other.addresses().await;
    addresses.extend(wanted.addresses().await);
    addresses.push("/ip4/127.0.0.1/tcp/1".parse().unwrap());
    timeout(LIMIT, node.handle.connect(wanted.id(), addresses)).await.unwrap().unwrap();
}

#[tokio::test]
async fn providers_are_found_by_cell_through_a_bootstrap_node() {
    let hub = start_with(config(&[QUIC], &[])).await;
    let contacts = hub.contacts().await;
    let paris = start_with(config(&[QUIC], &contacts)).await;
    let lyon = start_with(config(&[QUIC], &contacts)).await;
    let sydney = start_with(config(&[QUIC], &contacts)).await;
    let home = cell(48.85, 2.35, 4);
    paris.handle.announce(home.ancestry()).await.unwrap();
    lyon.handle.announce(vec![home]).await.unwrap();
    sydney.handle.announce(cell(-33.87, 151.21, 4).ancestry()).await.unwrap();
    let client = start_with(config(&[QUIC], &contacts)).await;
    client.connected_to(&hub).await;

    let wanted = BTreeSet::from([paris.id(), lyon.id()]);
    let search = async {
        loop {
            let mut lookup = client.handle.providers_of(home).await.unwrap();
            let mut found = BTreeSet::new();
            while let Some(provider) = lookup.recv().await {
                assert!(wanted.contains(&provider.node), "not announced there");
                if !provider.addresses.is_empty() {
                    found.insert(provider.node);
                }
            }
            // The announcements may still be on their way.
            if found == wanted {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, search).await.unwrap();
    // What was found is dialled ahead.
    client.connected_to(&paris).await;
    client.connected_to(&lyon).await;
    let mut lookup = client.handle.providers_of(home.coarsened(2)).await.unwrap();
    assert_eq!(timeout(LIMIT, lookup.recv()).await.unwrap().map(|found| found.node), Some(paris.id()));
    assert!(client.metrics.encode().contains("aitbc_network_dht_lookups_total{outcome=\"Found\"}"));
}

#[tokio::test]
async fn without_a_dht_a_lookup_is_empty() {
    let node = start_with(NetworkConfig { dht: false, ..config(&[QUIC], &[]) }).await;
    assert!(node.handle.providers_of(cell(0.0, 0.0, 4)).await.unwrap().recv().await.is_none());
}

/// Publishes until `subscriber` hears it: subscriptions travel by themselves, and nobody says when they arrived.
async fn publish_until_heard(publisher: &Node, subscriber: &mut Node, cell: Cell, name: &str) -> GossipMessage {
    let attempts = async {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let message = heartbeat(&format!("{name} {attempt}"));
            publisher.handle.publish(cell, &message).await.unwrap();
            if let Ok(heard) = timeout(Duration::from_millis(100), subscriber.incoming.gossip.recv()).await {
                return heard.unwrap();
            }
        }
    };
    timeout(LIMIT, attempts).await.unwrap()
}

#[tokio::test]
async fn gossip_is_forwarded_only_once_it_is_accepted() {
    // One in the middle; the ends know nobody else, since there is no DHT to introduce them.
    let quiet = |contacts: &[Multiaddr]| NetworkConfig { dht: false, ..config(&[QUIC], contacts) };
    let mut middle = start_with(quiet(&[])).await;
    let contacts = middle.contacts().await;
    let left = start_with(quiet(&contacts)).await;
    let mut right = start_with(quiet(&contacts)).await;
    let topic = cell(48.85, 2.35, 4);
    for node in [&middle, &left, &right] {
        node.handle.subscribe(vec![topic]).await.unwrap();
    }
    left.connected_to(&middle).await;
    right.connected_to(&middle).await;

    let first = publish_until_heard(&left, &mut middle, topic, "rejected").await;
    assert_eq!((first.forwarder, first.cell), (left.id(), topic));
    assert!(matches!(decode::<Gossip>(&first.bytes, MAX_GOSSIP_BYTES).unwrap(), Gossip::Heartbeat(_)));
    middle.handle.judge(first.id, first.forwarder, Verdict::Reject).await;

    // The next ones are accepted until one comes through; whatever right hears must be one of those.
    let passed = async {
        let mut attempt = 0;
        loop {
            attempt += 1;
            left.handle.publish(topic, &heartbeat(&format!("accepted {attempt}"))).await.unwrap();
            while let Ok(Some(heard)) = timeout(Duration::from_millis(100), middle.incoming.gossip.recv()).await {
                let Gossip::Heartbeat(heartbeat) = decode(&heard.bytes, MAX_GOSSIP_BYTES).unwrap() else {
                    panic!()
                };
                let verdict =
                    if heartbeat.payload().starts_with(b"accepted") { Verdict::Accept } else { Verdict::Reject };
                middle.handle.judge(heard.id, heard.forwarder, verdict).await;
            }
            if let Ok(heard) = right.incoming.gossip.try_recv() {
                return heard;
            }
        }
    };
    let heard = timeout(LIMIT, passed).await.unwrap();
    assert_eq!(heard.forwarder, middle.id());
    let Gossip::Heartbeat(heartbeat) = decode(&heard.bytes, MAX_GOSSIP_BYTES).unwrap() else { panic!() };
    assert!(heartbeat.payload().starts_with(b"accepted"), "what was rejected was forwarded");
}

#[tokio::test]
async fn no_more_topics_than_allowed() {
    let node = start_with(config(&[QUIC], &[])).await;
    let many: Vec<Cell> = cell(48.85, 2.35, 4).ring(5).into_iter().take(gossip::MAX_TOPICS + 1).collect();
    assert_eq!(many.len(), gossip::MAX_TOPICS + 1);
    assert!(matches!(node.handle.subscribe(many).await, Err(NetworkError::TooManyTopics(_))));
}

#[tokio::test]
async fn nodes_of_different_networks_part() {
    let here = start_with(config(&[QUIC], &[])).await;
    let elsewhere = NetworkId::new("elsewhere").unwrap();
    let contacts = here.contacts().await;
    let there = start_with(NetworkConfig { network: elsewhere, ..config(&[QUIC], &contacts) }).await;
    // Whichever is quicker, neither keeps the other, and a second try says why.
    let refused = async {
        loop {
            let error = here.handle.connect(there.id(), Vec::new()).await;
            if let Err(error) = error
                && error.to_string().contains("another network")
            {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, refused).await.unwrap();
    here.peers(|peers| peers.is_empty()).await;
    there.peers(|peers| peers.is_empty()).await;
}

async fn with_table(path: &Path, bootstrap: &[Multiaddr]) -> Node {
    start_with(NetworkConfig { peer_table: Some(path.to_owned()), ..config(&[QUIC], bootstrap) }).await
}

#[tokio::test]
async fn known_peers_are_found_again_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("peers.json");
    fs::write(&path, b"not a table").unwrap();
    let hub = start_with(config(&[QUIC], &[])).await;
    let node = with_table(&path, &hub.contacts().await).await;
    node.peers(|peers| peers.iter().any(|peer| !peer.agent.is_empty())).await;
    timeout(LIMIT, node.handle.shutdown()).await.unwrap();
    assert!(fs::read_to_string(&path).unwrap().contains(&hub.id().to_string()));

    let again = with_table(&path, &[]).await;
    again.connected_to(&hub).await;
}

#[tokio::test]
async fn shutdown_is_prompt_and_final() {
    let key = SecretKey::generate().unwrap();
    let node = start_as(config(&[QUIC, TCP], &[]), &key).await;
    let other = start_with(config(&[QUIC], &node.contacts().await)).await;
    other.connected_to(&node).await;
    let mut listening = node.handle.listening();
    listening.wait_for(|addresses| addresses.len() == 2).await.unwrap();
    let addresses = listening.borrow().to_vec();
    timeout(Duration::from_secs(3), node.handle.shutdown()).await.expect("shutdown takes too long");
    other.peers(|peers| peers.is_empty()).await;
    assert!(matches!(node.handle.announce(Vec::new()).await, Err(NetworkError::Stopped)));
    timeout(LIMIT, node.handle.shutdown()).await.expect("a second shutdown hangs");
    // The port is free again. QUIC's is a moment later, when its closed connections have drained.
    let tcp = addresses.iter().map(ToString::to_string).find(|address| address.contains("/tcp/")).unwrap();
    start_as(config(&[&tcp], &[]), &key).await.addresses().await;
}

#[tokio::test]
async fn the_task_ends_with_the_last_handle() {
    let node = start_with(config(&[QUIC], &[])).await;
    let mut peers = node.handle.peers();
    drop(node.handle);
    timeout(LIMIT, async { while peers.changed().await.is_ok() {} }).await.unwrap();
}

#[tokio::test]
async fn a_taken_port_is_reported_with_the_setting() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("/ip4/127.0.0.1/tcp/{}", taken.local_addr().unwrap().port());
    let key = SecretKey::generate().unwrap();
    let error = start(config(&[&address], &[]), &key, &Metrics::default()).await.unwrap_err().to_string();
    assert!(error.contains(&address) && error.contains("`listen`") && error.contains("in use"), "{error}");
}
