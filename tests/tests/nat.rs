//! Homes of every kind reach each other: directly where their routers let them, relayed where not.

#![cfg(target_os = "linux")]

use aitbc_tests::{
    Process,
    lab::{
        Access, Home, Lab, Transport,
        town::{Resident, Town, path, paths_opened, reachable},
    },
    process::{collect, question},
    wait::eventually,
};
use futures::future::join_all;
use std::time::{Duration, Instant};

const KINDS: [Access; 4] = [Access::Public, Access::FullCone, Access::PortRestricted, Access::Symmetric];
/// How long two peers may talk through a relay before they must have found a direct path, if there is one.
const DIRECT_WITHIN: Duration = Duration::from_secs(15);

/// What must become of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Direct,
    Relayed,
    /// Direct where both sides' openings cross in time.
    Either,
}

fn expected(a: Access, b: Access, transport: Transport) -> Expected {
    let open = |access| matches!(access, Access::Public | Access::FullCone);
    match (a, b, transport) {
        (a, b, _) if open(a) || open(b) => Expected::Direct,
        (Access::PortRestricted, Access::PortRestricted, Transport::Quic) => Expected::Direct,
        (Access::PortRestricted, Access::PortRestricted, Transport::Tcp) => Expected::Either,
        _ => Expected::Relayed,
    }
}

#[test]
fn the_pairs_that_must_be_direct_are_as_many_as_routers_allow() {
    for (transport, direct) in [(Transport::Quic, 13), (Transport::Tcp, 12)] {
        let pairs = KINDS.iter().flat_map(|a| KINDS.iter().map(move |b| (*a, *b)));
        let counted = pairs.filter(|(a, b)| expected(*a, *b, transport) == Expected::Direct).count();
        assert_eq!(counted, direct, "{transport:?}");
    }
}

/// Asks for a few tokens from that very provider: the job makes the connection.
async fn asks(client: &Process, provider: &Process) {
    let mut request = question("Say yes.", 4);
    request["wishes"]["provider"] = provider.id.to_string().into();
    request["wishes"]["latency_budget_ms"] = 5000.into();
    let updates = collect(client.job(&request).await).await;
    let last = updates.last().expect("updates");
    assert_eq!(last["event"], "finished", "{} asks {}: {last}", client.name, provider.name);
}

/// Connects two homes, and waits for the path that must come; true if it is direct.
async fn connects(provider: &Resident, client: &Resident, transport: Transport) -> bool {
    let names = format!("{} and {}", provider.node.name, client.node.name);
    asks(&client.node, &provider.node).await;
    let connected = Instant::now();
    let paths = || async {
        let (there, back) = tokio::join!(path(&client.node, &provider.node), path(&provider.node, &client.node));
        let (there, back) = (there?, back?);
        assert_eq!((&*there.1, &*back.1), (transport.name(), transport.name()), "{names}");
        Some((there.0, back.0))
    };
    let is_direct = |(there, back): &(String, String)| there != "relayed" && back != "relayed";
    let expected = expected(provider.home.access, client.home.access, transport);
    if expected == Expected::Direct {
        let what = format!("{names}: a direct path over {}", transport.name());
        eventually(&what, DIRECT_WITHIN, || async { paths().await.filter(is_direct) }).await;
        return true;
    }
    // That something does not come shows only once its time is over.
    tokio::time::sleep_until((connected + DIRECT_WITHIN).into()).await;
    let paths = paths().await.unwrap_or_else(|| panic!("{names}: not connected any more"));
    if expected == Expected::Relayed {
        assert_eq!(paths, ("relayed".to_owned(), "relayed".to_owned()), "{names}");
    }
    is_direct(&paths)
}

/// What the path manager of each side counted agrees with what its peers are.
async fn counted(resident: &Resident, others: &[Resident], transport: Transport) {
    let access = resident.home.access;
    let expecting =
        |wanted| others.iter().filter(|other| expected(access, other.home.access, transport) == wanted).count();
    let direct = paths_opened(&resident.node, &["direct", "port-mapped", "hole-punched"], transport).await;
    let relayed = paths_opened(&resident.node, &["relayed"], transport).await;
    // Two more: the relay and the third node.
    let least = expecting(Expected::Direct) as u64 + 2;
    assert!(direct >= least, "{}: {direct} direct paths opened, not {least}", resident.node.name);
    let least = expecting(Expected::Relayed) as u64;
    assert!(relayed >= least, "{}: {relayed} relayed paths opened, not {least}", resident.node.name);
}

/// A home without a router shows whether dials leave from the port that it listens on: routers map that port and no
/// other, so hole punching lives by it.
async fn reuses_its_port(resident: &Resident) {
    let seen = |port| resident.node.metric("aitbc_network_observed_total", port);
    let (listening, other) = tokio::join!(seen(&["port=\"listening\""]), seen(&["port=\"other\""]));
    assert!(listening > other, "{}: seen {listening} times at its port, {other} at others", resident.node.name);
}

/// All pairs of four providers and four clients, one of each kind, at the same time.
async fn matrix(transport: Transport, transports: &'static [Transport]) {
    let Some(lab) = Lab::or_skip() else { return };
    let town = Town::start(&lab, 1, transports).await;
    let homes = |side: &'static str| KINDS.map(|access| (format!("{access} {side}"), lab.home(side, access)));
    let sell = homes("provider").map(|(name, home): (String, Home)| {
        let town = &town;
        async move { town.provider(&name, home).await }
    });
    let buy = homes("client").map(|(name, home)| {
        let town = &town;
        async move { town.client(&name, home).await }
    });
    let (providers, clients) = tokio::join!(join_all(sell), join_all(buy));
    let all = || providers.iter().chain(&clients);
    // A full cone may count as public once a third node got in, which takes its mapping for what it is.
    let settled = all().filter(|resident| resident.home.access != Access::FullCone);
    join_all(settled.map(|resident| {
        let verdict = if resident.home.access == Access::Public { "public" } else { "private" };
        reachable(&resident.node, verdict)
    }))
    .await;

    let pairs = providers.iter().flat_map(|provider| clients.iter().map(move |client| (provider, client)));
    let direct = join_all(pairs.map(|(provider, client)| connects(provider, client, transport))).await;
    let direct = direct.into_iter().filter(|direct| *direct).count();
    println!("{direct} of 16 pairs are direct over {}", transport.name());
    join_all(providers.iter().map(|resident| counted(resident, &clients, transport))).await;
    join_all(clients.iter().map(|resident| counted(resident, &providers, transport))).await;
    join_all(all().filter(|resident| resident.home.access == Access::Public).map(reuses_its_port)).await;
    let carried = town.relays[0].node.metric("aitbc_network_relay_carried_bytes_total", &[]).await;
    assert!(carried > 0.0, "the relay counts what it carries");
}

#[tokio::test]
async fn all_pairs_connect_over_quic() {
    matrix(Transport::Quic, &[Transport::Quic]).await;
}

#[tokio::test]
async fn all_pairs_connect_over_tcp() {
    matrix(Transport::Tcp, &[Transport::Tcp]).await;
}
