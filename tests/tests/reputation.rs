//! What clients see of a provider reaches its neighbours, and what a node signed against itself costs it everywhere.

#![cfg(unix)]

use aitbc_crypto::seal;
use aitbc_protocol::{
    JobId, MicroCredits, NodeId, Nonce, Signed,
    evidence::Evidence,
    geo::{Cell, Location},
    gossip::Gossip,
    receipt::Cheque,
};
use aitbc_tests::{
    Peer, Process, ProcessBuilder, eventually,
    peer::local,
    process::{PATIENCE, answer, collect, question},
};
use serde_json::Value;

const PLACE: &str = "48.85,2.35";

async fn provider() -> Process {
    let provider = ProcessBuilder::new("provider", PLACE).relay().provide().start().await;
    provider.offering().await;
    provider
}

async fn client(name: &str, of: &Process) -> Process {
    let client = ProcessBuilder::new(name, PLACE).bootstrap(of).start().await;
    client.finds(1).await;
    client
}

async fn ask(client: &Process, provider: &Process) {
    let mut request = question("Say hello.", 8);
    request["wishes"]["provider"] = provider.id.to_string().into();
    let updates = collect(client.job(&request).await).await;
    assert!(!answer(&updates).is_empty(), "{updates:?}");
}

async fn reputation(node: &Process, of: NodeId) -> Value {
    node.get(&format!("reputation?peer={of}")).await["providers"][0].clone()
}

#[tokio::test]
async fn what_a_client_saw_is_heard_by_neighbours_and_weighs_as_one_job() {
    let provider = provider().await;
    let (teller, hearer) = tokio::join!(client("teller", &provider), client("hearer", &provider));
    teller.connected().await;
    let before = hearer.cli(&["reputation", &provider.id.to_string()]).await;
    let before = String::from_utf8_lossy(&before.stdout).into_owned();
    assert!(before.contains("unrated") && before.contains("0 of 3 jobs"), "{before}");

    for _ in 0..3 {
        ask(&teller, &provider).await;
    }
    let own = reputation(&teller, provider.id).await;
    assert_eq!(own["own"]["jobs"], 3, "{own}");
    assert!(own["own"]["latency"].as_u64().is_some_and(|latency| latency > 0), "{own}");
    assert_eq!(own["jobs"], 3, "{own}");

    let heard = eventually("the neighbour hears of all three jobs", PATIENCE, || async {
        let heard = reputation(&hearer, provider.id).await;
        (heard["witnesses"][0]["jobs"] == 3).then_some(heard)
    })
    .await;
    let witness = &heard["witnesses"][0];
    assert_eq!((&witness["author"], &witness["through"]), (&teller.id.to_string().into(), &"stranger".into()));
    assert_eq!(witness["paid"], own["own"]["paid"]);
    assert_eq!(witness["weight"].as_u64(), heard["job"].as_u64().map(|job| job * 1_000), "as one job");
    assert_eq!(
        (&heard["jobs"], &heard["tier"]),
        (&1.into(), &"unrated".into()),
        "a stranger rates nobody: {heard}"
    );
    let list = hearer.cli(&["reputation"]).await;
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    assert!(list.contains(&provider.id.to_string()) && list.contains("0 own jobs, 1 others"), "{list}");
}

#[tokio::test]
async fn who_tells_nobody_is_heard_of_by_nobody() {
    let provider = provider().await;
    let settings = tempfile::tempdir().expect("a directory");
    let config = settings.path().join("config.toml");
    std::fs::write(&config, "network = \"local\"\n[client]\nshare_observations = false\n").expect("settings");
    let config = config.display().to_string();
    let silent = ProcessBuilder::new("silent", PLACE).bootstrap(&provider).arguments(&["--config", &config]);
    let (silent, teller, hearer) =
        tokio::join!(silent.start(), client("teller", &provider), client("hearer", &provider));
    silent.finds(1).await;
    ask(&silent, &provider).await;
    // What is told later by another has overtaken what would have been told before.
    ask(&teller, &provider).await;
    let heard = eventually("the neighbour hears of the other job", PATIENCE, || async {
        let heard = reputation(&hearer, provider.id).await;
        heard["witnesses"][0].is_object().then_some(heard)
    })
    .await;
    let authors: Vec<&Value> =
        heard["witnesses"].as_array().expect("a list").iter().map(|by| &by["author"]).collect();
    assert_eq!(authors, [&Value::from(teller.id.to_string())]);
    assert_eq!(reputation(&silent, provider.id).await["own"]["jobs"], 1);
}

#[tokio::test]
async fn evidence_excludes_the_accused_at_whoever_verifies_it_and_stays_over_a_restart() {
    let provider = provider().await;
    let mut victim = client("client", &provider).await;
    // Somebody who knows the cell, with evidence: once forged, once true.
    let doors: Vec<_> = victim.addresses.iter().map(|address| address.parse().expect("an address")).collect();
    let teller = Peer::start(&doors).await;
    let cell = Cell::at(&Location { latitude: 48.85, longitude: 2.35 }, 4);
    let cheque = |cumulative| Cheque {
        provider: teller.id(),
        sequence: 1,
        cumulative: MicroCredits(cumulative),
        job: JobId([1; 16]),
        quote: Nonce([2; 16]),
        job_total: MicroCredits(cumulative),
        tokens: 1,
        held: MicroCredits(0),
    };
    let key = aitbc_crypto::SecretKey::load(&provider.home.path().join(".local/share/aitbc/key"))
        .expect("the provider's own key");
    let forged = {
        let other = seal(&teller.key, &local(), &cheque(2)).expect("fits");
        Signed::from_parts(provider.id, *other.signature(), other.payload().to_vec())
    };
    let genuine = |cumulative| seal(&key, &local(), &cheque(cumulative)).expect("fits");
    let publish = async |evidence: Evidence| {
        let message = Gossip::Evidence(Box::new(evidence));
        eventually("somebody hears it", PATIENCE, || async {
            teller.network.publish(cell, &message).await.expect("published").then_some(())
        })
        .await;
    };
    publish(Evidence::Cheques(genuine(1), forged)).await;
    publish(Evidence::Cheques(genuine(1), genuine(2))).await;
    let convicted = async |client: &Process| {
        eventually("the client has verified it", PATIENCE, || async {
            let known = reputation(client, provider.id).await;
            (known["faults"][0]["fault"] == "cheques").then_some(known)
        })
        .await
    };
    let known = convicted(&victim).await;
    assert_eq!(known["faults"][0]["stands"], true, "{known}");
    let ranking = async |client: &Process| {
        let found = client.cli(&["find", "--json"]).await;
        let found: Value = serde_json::from_slice(&found.stdout).expect("JSON");
        found["candidates"][0]["excluded"]["slashed"]["fault"].clone()
    };
    assert_eq!(ranking(&victim).await, "cheques");
    let refused = victim.cli(&["find"]).await;
    assert!(
        String::from_utf8_lossy(&refused.stdout).contains("took back what a cheque had promised"),
        "{refused:?}"
    );
    victim.kill().await;
    victim.restart().await;
    victim.finds(1).await;
    convicted(&victim).await;
    assert_eq!(ranking(&victim).await, "cheques");
}
