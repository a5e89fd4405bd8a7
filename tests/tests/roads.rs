//! What happens to an answer when the way to its provider breaks in the middle of it: it goes on where it stopped.

#![cfg(target_os = "linux")]

use aitbc_tests::{
    Process,
    lab::{
        Access, Lab, Transport,
        town::{BOTH, Resident, Town, path, paths_opened, reachable},
    },
    process::{PATIENCE, collect, events, question},
};
use serde_json::Value;
use std::time::{Duration, Instant};

/// Tokens of the answers; the break comes after [`BREAK_AFTER`].
const LENGTH: u32 = 300;
/// Later than the first window, and long before the end: a provider is at most 64 unpaid tokens ahead.
const BREAK_AFTER: usize = 70;
/// How long an answer may stand still after a break.
const RESUMED_WITHIN: Duration = Duration::from_secs(10);

/// Token ids of an answer, in their order.
fn tokens(updates: &[Value]) -> Vec<u64> {
    let deltas = events(updates, "delta");
    deltas.iter().filter_map(|delta| delta["tokens"].as_array()).flatten().filter_map(Value::as_u64).collect()
}

fn long_question(provider: &Process) -> Value {
    let mut request = question("Write the numbers from one to one hundred in words.", LENGTH);
    request["wishes"]["provider"] = provider.id.to_string().into();
    request["wishes"]["latency_budget_ms"] = 5000.into();
    request
}

/// A client and a provider that each are behind a router, and the public nodes.
struct Scene {
    client: Resident,
    provider: Resident,
    town: Town,
    whole: Vec<u64>,
}

impl Scene {
    /// Everything up, one unbroken answer heard.
    async fn set(lab: &Lab, provider: Access, client: Access, relays: usize) -> Self {
        let town = Town::start(lab, relays, BOTH).await;
        let (provider, client) = tokio::join!(
            town.provider("provider", lab.home("provider", provider)),
            town.client("client", lab.home("client", client)),
        );
        tokio::join!(reachable(&provider.node, "private"), reachable(&client.node, "private"));
        let updates = collect(client.node.job(&long_question(&provider.node)).await).await;
        let last = updates.last().expect("updates");
        assert_eq!(last["event"], "finished", "an unbroken answer: {last}");
        Self { whole: tokens(&updates), client, provider, town }
    }

    /// Asks again, breaks something in the middle, and compares what comes with the unbroken answer. `break_it` tells
    /// when the way was whole again, as far as it will be: from then on the answer has ten seconds. How long it stood
    /// still.
    async fn broken_by(&mut self, break_it: impl AsyncFnOnce(&mut Self) -> Instant) -> Duration {
        let mut updates = self.client.node.job(&long_question(&self.provider.node)).await;
        let (reached, in_the_middle) = tokio::sync::oneshot::channel();
        let read = async {
            let (mut all, mut heard, mut times, mut reached) = (Vec::new(), 0, Vec::new(), Some(reached));
            while let Ok(Some(update)) = tokio::time::timeout(PATIENCE, updates.recv()).await {
                if let Some(tokens) = update["tokens"].as_array() {
                    times.push(Instant::now());
                    heard += tokens.len();
                }
                all.push(update);
                if heard >= BREAK_AFTER
                    && let Some(reached) = reached.take()
                {
                    let _ = reached.send(Instant::now());
                }
            }
            (all, times)
        };
        let breaking = async {
            let broken = in_the_middle.await.expect("it gets as far as that");
            (broken, break_it(self).await)
        };
        let ((all, times), (broken, mended)) = tokio::join!(read, breaking);

        let last = all.last().expect("updates");
        assert_eq!(last["event"], "finished", "{last}");
        assert!(events(&all, "failed_over").is_empty(), "the provider that began it ends it");
        assert_eq!(tokens(&all), self.whole, "nothing is lost and nothing comes twice");
        let receipts = events(&all, "receipt");
        assert_eq!(receipts.len(), 1, "{receipts:?}");
        assert_eq!(receipts[0]["receipt"]["total"], last["paid"], "billed once");

        let pauses = times.windows(2).filter(|pair| pair[1] > broken);
        let (from, to) =
            pauses.map(|pair| (pair[0], pair[1])).max_by_key(|(from, to)| *to - *from).expect("pauses");
        assert!(to <= mended + RESUMED_WITHIN, "it went on only {:?} after the way was whole", to - mended);
        to - from
    }
}

/// The relay that the two talk through: the one that the address of their connection names.
async fn relay_between(scene: &Scene) -> usize {
    let peers = scene.client.node.get("peers").await;
    let provider = scene.provider.node.id.to_string();
    let peers = peers["peers"].as_array().expect("peers");
    let address = peers.iter().find(|peer| peer["peer"] == provider).and_then(|peer| peer["address"].as_str());
    let address = address.expect("they are connected");
    let relays = scene.town.relays.iter();
    relays.enumerate().find(|(_, relay)| address.contains(&relay.node.id.to_string())).expect("through a relay").0
}

#[tokio::test]
async fn an_answer_survives_its_relay() {
    let Some(lab) = Lab::or_skip() else { return };
    let mut scene = Scene::set(&lab, Access::Symmetric, Access::Symmetric, 2).await;
    scene
        .broken_by(async |scene| {
            let relay = relay_between(scene).await;
            scene.town.relays[relay].node.kill().await;
            Instant::now()
        })
        .await;
    relay_between(&scene).await;
}

#[tokio::test]
async fn an_answer_survives_a_new_address_of_its_reader() {
    let Some(lab) = Lab::or_skip() else { return };
    let mut scene = Scene::set(&lab, Access::PortRestricted, Access::PortRestricted, 1).await;
    scene
        .broken_by(async |scene| {
            scene.client.home.renumber();
            Instant::now()
        })
        .await;
}

#[tokio::test]
async fn an_answer_survives_a_new_address_of_its_provider() {
    let Some(lab) = Lab::or_skip() else { return };
    let mut scene = Scene::set(&lab, Access::PortRestricted, Access::PortRestricted, 1).await;
    scene
        .broken_by(async |scene| {
            scene.provider.home.renumber();
            Instant::now()
        })
        .await;
}

#[tokio::test]
async fn an_answer_survives_an_outage_of_five_seconds() {
    const OUTAGE: Duration = Duration::from_secs(5);
    let Some(lab) = Lab::or_skip() else { return };
    let mut scene = Scene::set(&lab, Access::PortRestricted, Access::PortRestricted, 1).await;
    let stood = scene
        .broken_by(async |scene| {
            scene.client.home.cut();
            tokio::time::sleep(OUTAGE).await;
            scene.client.home.mend();
            Instant::now()
        })
        .await;
    assert!(stood + Duration::from_millis(500) >= OUTAGE, "the outage was felt: it stood still for {stood:?}");
}

#[tokio::test]
async fn an_answer_survives_a_restart_of_its_provider_s_router() {
    const RESTART: Duration = Duration::from_secs(8);
    let Some(lab) = Lab::or_skip() else { return };
    let mut scene = Scene::set(&lab, Access::PortRestricted, Access::PortRestricted, 1).await;
    let stood = scene
        .broken_by(async |scene| {
            scene.provider.home.power_off();
            tokio::time::sleep(RESTART).await;
            scene.provider.home.power_on();
            Instant::now()
        })
        .await;
    assert!(stood + Duration::from_millis(500) >= RESTART, "the restart was felt: it stood still for {stood:?}");
}

#[tokio::test]
async fn a_hotel_guest_is_served_over_tcp_through_a_relay() {
    let Some(lab) = Lab::or_skip() else { return };
    let scene = Scene::set(&lab, Access::PortRestricted, Access::Hotel, 1).await;
    let (client, provider) = (&scene.client.node, &scene.provider.node);
    // A direct path would have been found by now, if there were one.
    tokio::time::sleep(Duration::from_secs(15)).await;
    let over_tcp = Some(("relayed".to_owned(), "tcp".to_owned()));
    assert_eq!(path(client, provider).await, over_tcp);
    assert_eq!(path(provider, client).await.map(|(kind, _)| kind), Some("relayed".to_owned()));
    let relay = &scene.town.relays[0].node;
    assert_eq!(path(client, relay).await, Some(("direct".to_owned(), "tcp".to_owned())));
    assert_eq!(paths_opened(client, &["direct", "hole-punched"], Transport::Quic).await, 0, "no UDP gets through");

    let output = client.cli(&["netcheck"]).await;
    let verdict = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(verdict.contains("UDP"), "says why: {verdict}");
}
