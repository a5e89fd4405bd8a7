//! What a relay gives to whom: a crowd from one network takes its share and leaves the rest to others.

#![cfg(target_os = "linux")]

use aitbc_tests::{Process, ProcessBuilder, Proxy, process::PATIENCE, relayed::Relayed, wait::eventually};
use futures::{StreamExt, stream};
use libp2p::PeerId;
use std::time::Duration;

/// How many ask from one network.
const CROWD: usize = 1000;
/// Of them, how many ask at the same time.
const AT_ONCE: usize = 32;
/// The share of one network.
const SHARE: usize = 64;
/// How long somebody from elsewhere may wait meanwhile.
const HONEST: Duration = Duration::from_secs(5);

async fn reservations(relay: &Process) -> f64 {
    relay.metric("aitbc_network_relay_reservations", &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_from_one_network_leaves_room_for_others() {
    let relay = ProcessBuilder::new("relay", "50.1,8.7").relay().start().await;
    let peer = PeerId::from_bytes(&relay.id.to_peer_id_bytes()).expect("a name");
    let address = relay.tcp();
    // A path that comes from another network of loopback addresses.
    let elsewhere = Proxy::from("127.0.9.1".parse().expect("an address"), address).await;

    let crowd = stream::iter(0..CROWD).map(|_| Relayed::ask(peer, address)).buffer_unordered(AT_ONCE);
    let (clients, honest) = tokio::join!(crowd.collect::<Vec<_>>(), async {
        // In the middle of it.
        eventually("the crowd has its share", PATIENCE, || async {
            (reservations(&relay).await >= SHARE as f64).then_some(())
        })
        .await;
        tokio::time::timeout(HONEST, Relayed::ask(peer, elsewhere.address)).await
    });
    let given = clients.iter().filter(|(_, given)| *given).count();
    assert_eq!(given, SHARE, "of {CROWD}");
    let (honest, served) = honest.expect("somebody from elsewhere does not wait");
    assert!(served, "and is served");
    assert!((reservations(&relay).await - (SHARE as f64 + 1.0)).abs() < 0.5);
    // Whoever is refused hears of it before the relay has counted.
    eventually("all that were refused are counted", PATIENCE, || async {
        let refused = relay.metric("aitbc_network_relay_refused_total", &[]).await;
        (refused >= (CROWD - SHARE) as f64).then_some(())
    })
    .await;

    drop(honest);
    eventually("who leaves is not counted any more", PATIENCE, || async {
        (reservations(&relay).await <= SHARE as f64).then_some(())
    })
    .await;
}
