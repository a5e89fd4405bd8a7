//! How fast a cell's providers are found: DHT announcements and lookups between 20 and 60 nodes on loopback.
//!
//! All nodes run in this one process, so they share its cores and its runtime.

use aitbc_protocol::{
    NodeId,
    geo::{Cell, Location},
};
use aitbc_tests::{Peer, eventually};
use std::time::{Duration, Instant};

/// Half of the nodes announce, each under a cell of its own and all its ancestors.
fn cell(index: usize) -> Cell {
    let latitude = -60.0 + 1.9 * index as f64;
    let longitude = -170.0 + 5.3 * index as f64;
    Cell::at(&Location { latitude, longitude }, 4)
}

fn percentile(sorted: &[Duration], share: f64) -> f64 {
    let index = ((sorted.len() - 1) as f64 * share).round() as usize;
    sorted[index].as_secs_f64() * 1000.0
}

/// Whether a lookup of `cell` names `provider`; returns as soon as it does.
async fn finds(seeker: &Peer, cell: Cell, provider: NodeId) -> bool {
    let mut found = seeker.network.providers_of(cell).await.expect("asks");
    while let Some(candidate) = found.recv().await {
        if candidate.node == provider {
            return true;
        }
    }
    false
}

async fn measure(nodes: usize, goal_ms: f64) {
    let started = Instant::now();
    let first = Peer::with(aitbc_tests::peer::config(&[])).await;
    let contact = first.addresses();
    let mut peers = vec![first];
    for _ in 1..nodes {
        peers.push(Peer::start(&contact).await);
    }
    for peer in &peers[1..] {
        let peers = peer.network.peers();
        eventually("a node connects", Duration::from_secs(30), || async {
            (!peers.borrow().is_empty()).then_some(())
        })
        .await;
    }
    let start_ms = started.elapsed().as_secs_f64() * 1000.0 / nodes as f64;
    let half = nodes / 2;
    for (index, peer) in peers.iter().take(half).enumerate() {
        peer.network.announce(cell(index).ancestry()).await.expect("announces");
    }
    // All records are where they belong once a stranger finds them; what is lost is told, and measured as it is.
    let mut missing = 0;
    for index in 0..half {
        let seeker = &peers[half + index % (nodes - half)];
        let found = async {
            while !finds(seeker, cell(index), peers[index].id()).await {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        missing += usize::from(tokio::time::timeout(Duration::from_secs(30), found).await.is_err());
    }
    if missing > 0 {
        println!("dht, {nodes} nodes: {missing} of {half} providers were not found within 30 s of searching");
    }
    let mut first_result = Vec::new();
    for round in 0..10 {
        for index in 0..half {
            let seeker = &peers[half + (index * 7 + round) % (nodes - half)];
            let started = Instant::now();
            if finds(seeker, cell(index), peers[index].id()).await {
                first_result.push(started.elapsed());
            }
        }
    }
    first_result.sort();
    println!(
        "dht, {nodes} nodes: {} of {} lookups answered, p50 {:.1} ms, p95 {:.1} ms (goal p50 {goal_ms:.1} ms), {start_ms:.0} ms to start a node",
        first_result.len(),
        half * 10,
        percentile(&first_result, 0.5),
        percentile(&first_result, 0.95),
    );
    futures::future::join_all(peers.iter().map(|peer| peer.network.shutdown())).await;
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    // A third of what hivemind 1.1.12 needs for a get on a machine of this size: 29.7 and 44.9 ms.
    runtime.block_on(measure(20, 29.7 / 3.0));
    runtime.block_on(measure(60, 44.9 / 3.0));
}
