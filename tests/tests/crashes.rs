//! `kill -9` of client and provider at every state of a job: both come back, and every job ends in one typed state with
//! one settled sum on both sides.

use aitbc_tests::{
    Process, ProcessBuilder, eventually,
    process::{PATIENCE, question},
};
use serde_json::Value;
use std::collections::BTreeMap;

/// Who is killed.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Client,
    Provider,
    Both,
}

/// After what the victim dies, as the client sees it.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// The quote is taken and recorded; the provider hangs before it can answer.
    Opening,
    /// Tokens flow, nothing is paid yet.
    Running,
    /// The first window is paid.
    Paid,
    /// The receipt is here.
    Delivered,
    /// All is paid.
    Finished,
}

async fn network() -> (Process, Process, Process) {
    let bootstrap = ProcessBuilder::new("bootstrap", "50.1,8.7").relay().start().await;
    let provider = ProcessBuilder::new("provider", "48.85,2.35").provide().bootstrap(&bootstrap).start().await;
    let client = ProcessBuilder::new("client", "51.5,-0.1").bootstrap(&bootstrap).start().await;
    provider.offering().await;
    client.finds(1).await;
    (bootstrap, provider, client)
}

/// All jobs of a node by quote, if all of them are final: state and sum.
async fn settled(node: &Process) -> Option<BTreeMap<String, (String, u64)>> {
    let document = node.get("jobs?limit=100").await;
    let mut jobs = BTreeMap::new();
    for job in document["jobs"].as_array().expect("a list of jobs") {
        let state = job["state"].as_str().expect("a state");
        if matches!(state, "opening" | "running" | "delivered") {
            return None;
        }
        let quote = job["quote"].as_str().expect("a quote").to_owned();
        jobs.insert(quote, (state.to_owned(), job["paid"].as_u64().expect("a sum")));
    }
    Some(jobs)
}

fn reached(moment: Moment, update: &Value, deltas: usize) -> bool {
    match moment {
        Moment::Opening => update["event"] == "quoted",
        Moment::Running => deltas >= 3,
        Moment::Paid => update["event"] == "paid",
        Moment::Delivered => update["event"] == "receipt",
        Moment::Finished => update["event"] == "finished",
    }
}

async fn crash(victim: Victim, moment: Moment) {
    let (_bootstrap, mut provider, mut client) = network().await;
    let mut updates = client.job(&question("Write a long story about a lighthouse.", 200)).await;
    let mut deltas = 0;
    while let Ok(Some(update)) = tokio::time::timeout(PATIENCE, updates.recv()).await {
        deltas += usize::from(update["event"] == "delta");
        if reached(moment, &update, deltas) {
            break;
        }
        assert_ne!(update["event"], "failed", "{victim:?} at {moment:?}: {update}");
    }
    if matches!(moment, Moment::Opening) {
        provider.freeze();
    }
    if matches!(victim, Victim::Client | Victim::Both) {
        client.kill().await;
    }
    if matches!(victim, Victim::Provider | Victim::Both) {
        provider.kill().await;
        provider.restart().await;
    } else {
        provider.thaw();
    }
    if matches!(victim, Victim::Client | Victim::Both) {
        client.restart().await;
    }
    let what = format!("{victim:?} killed at {moment:?}: every job is final with one sum");
    eventually(&what, PATIENCE, || async {
        let (ours, theirs) = (settled(&client).await?, settled(&provider).await?);
        // A client that is killed as soon as it has a quote may not have written down that it takes it; then it has not
        // told the provider either.
        let before_it_began =
            ours.is_empty() && matches!((victim, moment), (Victim::Client | Victim::Both, Moment::Opening));
        assert!(ours.len() == 1 || before_it_began, "one attempt: {ours:?}");
        let paid = |jobs: &BTreeMap<String, (String, u64)>, quote| jobs.get(quote).map_or(0, |(_, paid)| *paid);
        // A job that only one side knows never began at the other, and costs nothing.
        let agree = ours.keys().chain(theirs.keys()).all(|quote| paid(&ours, quote) == paid(&theirs, quote));
        agree.then_some(())
    })
    .await;
    let (spent, earned) = (client.get("status").await, provider.get("status").await);
    assert_eq!(spent["totals"]["spent"], earned["totals"]["earned"], "{victim:?} at {moment:?}");
    // Both still work.
    provider.offering().await;
    eventually("a job after the crash", PATIENCE, || async {
        let updates = aitbc_tests::process::collect(client.job(&question("Say hello.", 8)).await).await;
        updates.iter().any(|update| update["event"] == "finished").then_some(())
    })
    .await;
}

macro_rules! crashes {
    ($($name:ident: $victim:ident at $moment:ident;)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                crash(Victim::$victim, Moment::$moment).await;
            }
        )*
    };
}

crashes! {
    the_client_dies_opening: Client at Opening;
    the_client_dies_running: Client at Running;
    the_client_dies_paid: Client at Paid;
    the_client_dies_delivered: Client at Delivered;
    the_client_dies_finished: Client at Finished;
    the_provider_dies_opening: Provider at Opening;
    the_provider_dies_running: Provider at Running;
    the_provider_dies_paid: Provider at Paid;
    the_provider_dies_delivered: Provider at Delivered;
    the_provider_dies_finished: Provider at Finished;
    both_die_opening: Both at Opening;
    both_die_running: Both at Running;
    both_die_paid: Both at Paid;
    both_die_delivered: Both at Delivered;
    both_die_finished: Both at Finished;
}
