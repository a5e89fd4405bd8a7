//! Finding providers: nearest first, by the DHT when gossip is cut, by gossip when the DHT is cut.

use aitbc_crypto::SecretKey;
use aitbc_node::{
    attestation::AttestationConfig,
    engine::{EngineConfig, fhe::PrivateConfig},
    jobs::JobsConfig,
    models::ModelStore,
    network::NetworkConfig,
    node::{Node, NodeConfig},
    routing::{JobUpdate, RankedCandidate, RoutingConfig, Sought},
};
use aitbc_protocol::{
    MicroCredits, NodeId,
    geo::{Cell, Location},
    job::ModelName,
    price::TokenPrice,
    routing::{fallback::Fallback, preference::Preference},
};
use aitbc_tests::{
    eventually, peer,
    process::{self, MODEL, PATIENCE},
};
use libp2p::Multiaddr;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::mpsc;

const LONDON: &str = "51.5,-0.12";

struct Home {
    node: Node,
    _directory: TempDir,
}

fn model() -> ModelName {
    MODEL.parse().expect("a name")
}

/// A node inside this process; a provider of the small model if it sells.
async fn node(location: &str, sells: bool, network: NetworkConfig) -> Home {
    let directory = tempfile::tempdir().expect("a directory");
    let location: Location = location.parse().expect("degrees");
    let models = if sells {
        let store = ModelStore::new(process::models_dir());
        vec![store.find(&model()).expect("readable").expect("make setup fetches it")]
    } else {
        Vec::new()
    };
    let config = NodeConfig {
        key: SecretKey::generate().expect("random numbers"),
        database: directory.path().join("db"),
        engine: EngineConfig {
            models,
            context: 512,
            slots: 1,
            threads: Some(1),
            gpu_layers: Some(0),
            memory_limit: None,
            private: PrivateConfig::default(),
            upstreams: Vec::new(),
            worker: Some(process::binary()),
        },
        jobs: JobsConfig {
            strangers: None,
            local_hours: false,
            power: aitbc_node::gpu::power::PowerConfig::default(),
            gpu_rates: directory.path().join("gpu-rates.json"),
            network: network.network.clone(),
            cell: Cell::at(&location, 4),
            slots: 1,
            private_price: TokenPrice { prompt: MicroCredits(200), completion: MicroCredits(1000) },
            price: TokenPrice { prompt: MicroCredits(200), completion: MicroCredits(1000) },
            prices: std::collections::BTreeMap::new(),
            payment_patience: Duration::from_secs(30),
        },
        simulated_memory_mib: None,
        attestation: AttestationConfig::nothing(network.network.clone()),
        verifiers: Vec::new(),
        required_bandwidth: 0,
        routing: RoutingConfig {
            network: network.network.clone(),
            location,
            quotes: 1,
            enough: 16,
            fallback: Fallback::Never,
            preference: Preference::Balanced,
            hedge: true,
            share_observations: true,
        },
        cloud: None,
        private: directory.path().join("private"),
        network,
        api: None,
    };
    let node = Node::start(config).await.expect("starts");
    if sells {
        eventually("an offer", PATIENCE, || async { node.jobs.snapshot().offer.clone().map(drop) }).await;
    }
    Home { node, _directory: directory }
}

fn contact(node: &Node) -> Vec<Multiaddr> {
    let suffix: Multiaddr = format!("/p2p/{}", node.id()).parse().expect("a PeerId");
    let listening = node.network.listening().borrow().clone();
    listening.iter().map(|address| address.clone().with(suffix.iter().next().expect("one part"))).collect()
}

/// What a search told: the precision and ring of cells that it turned to, and who was found how at what distance.
#[derive(Default)]
struct Told {
    steps: Vec<(u8, u32)>,
    found: Vec<(NodeId, String, f64)>,
}

/// Searches until everybody is found.
async fn search(client: &Node, expected: usize) -> (Vec<RankedCandidate>, Told) {
    eventually("all providers are found", PATIENCE, || async {
        let (sender, mut receiver) = mpsc::channel(256);
        let collected = tokio::spawn(async move {
            let mut told = Told::default();
            while let Some(update) = receiver.recv().await {
                match update {
                    JobUpdate::Searching { precision, ring, .. } => told.steps.push((precision, ring)),
                    JobUpdate::Found { provider, through, distance_km, .. } => {
                        told.found.push((provider, through, distance_km));
                    }
                    _ => {}
                }
            }
            told
        });
        let ranking = client.routing.find(Sought { model: Some(model()), ..Sought::default() }, sender).await;
        let told = collected.await.expect("no panic");
        (ranking.len() >= expected).then_some((ranking, told))
    })
    .await
}

/// Providers at `places`, nearest first, and what a client in London finds of them.
async fn nearest_first(places: &[&str], change: impl Fn(&mut NetworkConfig), way: Option<&str>) {
    let mut bootstrap_config = peer::config(&[]);
    bootstrap_config.relay = true;
    change(&mut bootstrap_config);
    let bootstrap = node("50.1,8.7", false, bootstrap_config).await;
    let settings = || {
        let mut config = peer::config(&contact(&bootstrap.node));
        change(&mut config);
        config
    };
    let client = node(LONDON, false, settings()).await;
    let providers = futures::future::join_all(places.iter().map(|place| node(place, true, settings()))).await;
    if way == Some("gossip") {
        // Heard without asking anybody.
        let heard = || async {
            let known = client.node.routing.offers();
            (known.offers.len() + known.silent.len() >= places.len()).then_some(())
        };
        eventually(&format!("offers are heard\n{}", client.node.metrics.encode()), PATIENCE, heard).await;
    }
    let (ranking, Told { steps, mut found }) = search(&client.node, places.len()).await;
    // Near cells are asked first; a few are at the same time, so who answers first is chance.
    assert!(steps.is_sorted_by_key(|(precision, ring)| (std::cmp::Reverse(*precision), *ring)), "{steps:?}");
    assert!(way != Some("dht") || steps.len() > 1, "{steps:?}");
    found.sort_by(|(.., one), (.., other)| one.total_cmp(other));
    let expected: Vec<NodeId> = providers.iter().map(|home| home.node.id()).collect();
    let order: Vec<NodeId> = found.iter().map(|(provider, ..)| *provider).collect();
    assert_eq!(order, expected, "{found:?}");
    let london: Location = LONDON.parse().expect("degrees");
    for ((place, (_, through, distance)), provider) in places.iter().zip(&found).zip(&expected) {
        let exact = london.distance_km(&place.parse().expect("degrees"));
        assert!((exact - distance).abs() < 45.0, "{place}: {distance} km, {exact} km to the place itself");
        if let Some(way) = way {
            assert_eq!(through, way);
        }
        let ranked = ranking.iter().find(|ranked| ranked.provider == *provider).expect("ranked");
        assert!(ranked.excluded.is_none(), "{ranked:?}");
        // What is only pretended on one machine still counts: light needs its time.
        assert!(ranked.reasons.round_trip_ms >= distance / 100.0, "{ranked:?}");
    }
    for home in providers.into_iter().chain([client, bootstrap]) {
        home.node.shutdown().await;
    }
}

const PARIS: &str = "48.85,2.35";
const ANTWERP: &str = "51.22,4.4";
const ROME: &str = "41.9,12.5";
const SYDNEY: &str = "-33.87,151.21";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn providers_are_found_nearest_first() {
    Box::pin(nearest_first(&[PARIS, ROME, SYDNEY], |_| (), None)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dht_does_when_gossip_is_cut() {
    Box::pin(nearest_first(&[PARIS, ROME, SYDNEY], |config| config.gossip = false, Some("dht"))).await;
}

/// Gossip is of the cells around a node: it shows the neighbourhood and not the world.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gossip_does_when_the_dht_is_cut() {
    Box::pin(nearest_first(&[ANTWERP, PARIS], |config| config.dht = false, Some("gossip"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_that_light_cannot_serve_says_so() {
    let bootstrap = node("50.1,8.7", false, peer::config(&[])).await;
    let sydney = node("-33.87,151.21", true, peer::config(&contact(&bootstrap.node))).await;
    let client = node(LONDON, false, peer::config(&contact(&bootstrap.node))).await;
    let ranking = {
        let (sender, mut receiver) = mpsc::channel(256);
        tokio::spawn(async move { while receiver.recv().await.is_some() {} });
        let near = Sought { model: Some(model()), latency_budget_ms: Some(30), ..Sought::default() };
        client.node.routing.find(near, sender).await
    };
    assert!(ranking.iter().all(|candidate| candidate.excluded.is_some()), "{ranking:?}");
    for home in [client, sydney, bootstrap] {
        home.node.shutdown().await;
    }
}
