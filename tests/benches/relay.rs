//! What a relay costs its owner that a thousand homes are reached through: processor time, memory, bytes.
//!
//! The homes keep a reservation and probe their connection as nodes do; no job runs through the relay.

use aitbc_tests::{ProcessBuilder, Proxy, relayed::Relayed, usage::machine};
use futures::{StreamExt, stream};
use libp2p::PeerId;
use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

/// Subnets, and homes in each: a relay gives 64 reservations to one subnet.
const SUBNETS: u8 = 20;
const HOMES: usize = 50;
/// Homes that come at the same time.
const AT_ONCE: usize = 16;
/// How long the relay is watched once they are there.
const WATCHED: Duration = Duration::from_secs(120);

/// Bytes between the relay and its homes, either way, with all headers: half of what the loopback interface carried, for
/// each way passes through a proxy. Linux only.
fn bytes() -> f64 {
    let devices = std::fs::read_to_string("/proc/net/dev").expect("Linux");
    let loopback = devices.lines().find_map(|line| line.trim().strip_prefix("lo:")).expect("a loopback interface");
    loopback.split_whitespace().next().and_then(|bytes| bytes.parse::<f64>().ok()).expect("bytes") / 2.0
}

async fn bench() {
    let relay = ProcessBuilder::new("relay", "50.1,8.7").relay().start().await;
    let peer = PeerId::from_bytes(&relay.id.to_peer_id_bytes()).expect("a name");
    let (idle_mib, idle_cpu) = (relay.resident_mib(), relay.cpu());
    println!("relay without anybody: {idle_mib:.0} MiB resident");

    let started = Instant::now();
    let mut ways = Vec::new();
    for subnet in 1..=SUBNETS {
        ways.push(Proxy::from(Ipv4Addr::new(127, 0, subnet, 1), relay.tcp()).await);
    }
    let homes = ways.iter().flat_map(|way| (0..HOMES).map(|_| Relayed::ask(peer, way.address)));
    let homes: Vec<(Relayed, bool)> = stream::iter(homes).buffer_unordered(AT_ONCE).collect().await;
    let given = homes.iter().filter(|(_, given)| *given).count();
    let coming = relay.cpu().saturating_sub(idle_cpu).as_secs_f64() * 1000.0 / homes.len() as f64;
    println!(
        "{given} of {} homes have a reservation after {:.1} s; {coming:.1} ms of CPU for each to come",
        homes.len(),
        started.elapsed().as_secs_f64(),
    );

    let (before, cpu, start) = (bytes(), relay.cpu(), Instant::now());
    tokio::time::sleep(WATCHED).await;
    let hours = start.elapsed().as_secs_f64() / 3600.0;
    let busy = relay.cpu().saturating_sub(cpu).as_secs_f64() / start.elapsed().as_secs_f64();
    let an_hour = (bytes() - before) / hours;
    println!(
        "relay with {given} reservations: {:.0} MiB resident, {:.0} KiB each; {:.1} % of a core; {:.1} MB an hour, {:.1} KB each",
        relay.resident_mib(),
        (relay.resident_mib() - idle_mib) * 1024.0 / given as f64,
        busy * 100.0,
        an_hour / 1e6,
        an_hour / 1e3 / given as f64,
    );
    let reservations = relay.metric("aitbc_network_relay_reservations", &[]).await;
    println!("reservations at the end: {reservations}");
}

fn main() {
    println!("machine: {}", machine());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(bench());
}
