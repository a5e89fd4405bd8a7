//! Finding providers: nearest first, by the DHT when gossip is cut, by gossip when the DHT is cut.

use aitbc_crypto::SecretKey;
use aitbc_node::{
    engine::EngineConfig,
    jobs::JobsConfig,
    models::ModelStore,
    network::NetworkConfig,
    node::{Node, NodeConfig},
    routing::{JobUpdate, RankedCandidate, RoutingConfig},
};
use aitbc_protocol::{
    MicroCredits,
    geo::{Cell, Location},
    job::ModelName,
    quote::TokenPrice,
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
            upstreams: Vec::new(),
            worker: Some(process::binary()),
        },
        jobs: JobsConfig {
            network: network.network.clone(),
            cell: Cell::at(&location, 4),
            slots: 1,
            price: TokenPrice { prompt: MicroCredits(200), completion: MicroCredits(1000) },
            prices: std::collections::BTreeMap::new(),
            payment_patience: Duration::from_secs(30),
        },
        routing: RoutingConfig { network: network.network.clone(), location, quotes: 1, enough: 16 },
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

/// Searches until everybody is found; the last ranking and how each was found.
async fn search(client: &Node, expected: usize) -> (Vec<RankedCandidate>, Vec<String>) {
    eventually("all providers are found", PATIENCE, || async {
        let (sender, mut receiver) = mpsc::channel(256);
        let collected = tokio::spawn(async move {
            let mut through = Vec::new();
            while let Some(update) = receiver.recv().await {
                if let JobUpdate::Found { through: way, .. } = update {
                    through.push(way);
                }
            }
            through
        });
        let ranking = client.routing.find(Some(model()), None, None, sender).await;
        let through = collected.await.expect("no panic");
        (ranking.len() >= expected).then_some((ranking, through))
    })
    .await
}

async fn nearest_first(change: impl Fn(&mut NetworkConfig), way: Option<&str>) {
    let mut bootstrap_config = peer::config(&[]);
    bootstrap_config.relay = true;
    change(&mut bootstrap_config);
    let bootstrap = node("50.1,8.7", false, bootstrap_config).await;
    let settings = || {
        let mut config = peer::config(&contact(&bootstrap.node));
        change(&mut config);
        config
    };
    let (paris, rome, sydney, client) = tokio::join!(
        node("48.85,2.35", true, settings()),
        node("41.9,12.5", true, settings()),
        node("-33.87,151.21", true, settings()),
        node(LONDON, false, settings()),
    );
    let (ranking, through) = search(&client.node, 3).await;
    let order: Vec<_> = ranking.iter().map(|candidate| candidate.provider).collect();
    assert_eq!(order[..2], [paris.node.id(), rome.node.id()], "{ranking:#?}");
    assert_eq!(order[2], sydney.node.id());
    assert!(ranking[0].excluded.is_none() && ranking[0].reasons.distance_km < 400.0);
    // A round trip to Sydney takes light 170 ms at the least: it is ranked, and last.
    assert!(ranking[2].reasons.round_trip_ms > 160.0);
    if let Some(way) = way {
        assert!(through.iter().all(|through| through == way), "{through:?}");
    }
    for home in [paris, rome, sydney, client, bootstrap] {
        home.node.shutdown().await;
    }
}

#[tokio::test]
async fn providers_are_found_nearest_first() {
    Box::pin(nearest_first(|_| (), None)).await;
}

#[tokio::test]
async fn the_dht_does_when_gossip_is_cut() {
    Box::pin(nearest_first(|config| config.gossip = false, Some("dht"))).await;
}

#[tokio::test]
async fn gossip_does_when_the_dht_is_cut() {
    Box::pin(nearest_first(|config| config.dht = false, Some("gossip"))).await;
}

#[tokio::test]
async fn a_search_that_light_cannot_serve_says_so() {
    let bootstrap = node("50.1,8.7", false, peer::config(&[])).await;
    let sydney = node("-33.87,151.21", true, peer::config(&contact(&bootstrap.node))).await;
    let client = node(LONDON, false, peer::config(&contact(&bootstrap.node))).await;
    let ranking = {
        let (sender, mut receiver) = mpsc::channel(256);
        tokio::spawn(async move { while receiver.recv().await.is_some() {} });
        client.node.routing.find(Some(model()), None, Some(30), sender).await
    };
    assert!(ranking.iter().all(|candidate| candidate.excluded.is_some()), "{ranking:?}");
    for home in [client, sydney, bootstrap] {
        home.node.shutdown().await;
    }
}
