//! `kill -9` of a client and a provider in the middle of jobs, at random, again and again: after each of them both go on,
//! and in the end both ledgers hold the same sums. `AITBC_KILLS` says how often, `AITBC_KILLS_SEED` repeats a run's choices.

use aitbc_tests::{
    Process, ProcessBuilder, eventually,
    process::PATIENCE,
    stories::{STORIES, Stories},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};

/// Kills of an ordinary run.
const KILLS: u32 = 100;
/// After so many of them everything is settled and compared.
const COMPARE_EVERY: u32 = 20;
/// How long an update of a job is waited for: a job that waits for a provider that has not come back is as good a moment
/// as any other.
const UPDATE: Duration = Duration::from_millis(700);
/// How long settling may take; a client tries again after ever longer pauses.
const SETTLING: Duration = Duration::from_secs(90);

fn from_environment<T: std::str::FromStr>(name: &str) -> Option<T> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is {value:?}: expected a number")))
}

fn story(provider: &Process, tokens: u32) -> Value {
    json!({
        "spec": {
            "model": STORIES, "weights": null, "input": {"chat": [{"role": "user", "content": "Tell me one."}]},
            "sampling": {"temperature": 0.0, "top_p": 1.0, "seed": 7}, "max_tokens": tokens,
            "stop": [], "top_logprobs": null, "prefix": [],
        },
        "wishes": {"remote_only": true, "allow_declared": true, "provider": provider.id.to_string()},
    })
}

/// What each job came to by quote, if all of them are over.
async fn sums(node: &Process) -> Option<BTreeMap<String, u64>> {
    let document = node.get("jobs?limit=1000").await;
    let jobs = document["jobs"].as_array().expect("a list of jobs");
    if jobs.iter().any(|job| matches!(job["state"].as_str(), Some("opening" | "running" | "delivered"))) {
        return None;
    }
    let sum =
        |job: &Value| (job["quote"].as_str().expect("a quote").to_owned(), job["paid"].as_u64().expect("a sum"));
    Some(jobs.iter().map(sum).filter(|(_, paid)| *paid > 0).collect())
}

/// The account with the other node: promised, owed, settled.
async fn account(node: &Process, direction: &str) -> (u64, u64, u64) {
    let document = node.get("ledger?limit=10").await;
    let accounts = document["accounts"].as_array().expect("a list of accounts");
    let Some(account) = accounts.iter().find(|account| account["direction"] == direction) else {
        return (0, 0, 0);
    };
    let amount = |name: &str| account[name].as_u64().expect("an amount");
    (amount("promised"), amount("owed"), amount("settled"))
}

async fn compare(client: &Process, provider: &Process, after: u32) -> u64 {
    let what = format!("after {after} kills: every job is over, with one sum on both sides");
    eventually(&what, SETTLING, || async {
        let (ours, theirs) = (sums(client).await?, sums(provider).await?);
        (ours == theirs).then_some(())
    })
    .await;
    let (spent, earned) = (account(client, "spent").await, account(provider, "earned").await);
    assert_eq!(spent, earned, "after {after} kills: one account, seen from both ends");
    assert_eq!(spent.1, 0, "nothing is owed");
    let totals = (client.get("status").await, provider.get("status").await);
    assert_eq!(totals.0["totals"]["spent"], totals.1["totals"]["earned"], "after {after} kills");
    assert_eq!(totals.0["totals"]["spent"].as_u64(), Some(spent.0), "the account is the sum of its jobs");
    spent.0
}

#[tokio::test]
async fn balances_agree_whatever_is_killed_when() {
    let kills = from_environment("AITBC_KILLS").unwrap_or(KILLS);
    let seed = from_environment("AITBC_KILLS_SEED").unwrap_or_else(rand::random::<u64>);
    println!("{kills} kills, seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let stories = Stories::start().await;
    let home = tempfile::tempdir().expect("a temporary directory");
    let settings = home.path().join("stories.toml");
    stories.settings(&settings);
    let mut provider = ProcessBuilder::new("provider", "48.85,2.35")
        .arguments(&["--provide", "--relay", "--config", settings.to_str().expect("UTF-8")])
        .start()
        .await;
    let mut client = ProcessBuilder::new("client", "51.5,-0.1").bootstrap(&provider).start().await;
    provider.offering().await;
    client.finds_of(STORIES, 1).await;
    // Jobs that had begun, and jobs that had been paid for in part, when something was killed.
    let (mut begun, mut paid, mut spent) = (0, 0, 0);
    for kill in 1..=kills {
        let mut updates = client.job(&story(&provider, random.random_range(20..400))).await;
        let (mut left, mut has_begun, mut has_paid) = (random.random_range(0..60), false, false);
        while left > 0
            && let Ok(Some(update)) = tokio::time::timeout(UPDATE, updates.recv()).await
        {
            has_begun |= update["event"] == "started";
            has_paid |= update["event"] == "paid";
            // Searching takes many updates that are all alike.
            left -= i32::from(has_begun || update["event"] == "quoted");
        }
        begun += u32::from(has_begun);
        paid += u32::from(has_paid);
        match random.random_range(0..5) {
            0..2 => client.kill_and_restart().await,
            2..4 => provider.kill_and_restart().await,
            _ => {
                client.kill().await;
                provider.kill_and_restart().await;
                client.restart().await;
            }
        }
        if kill % COMPARE_EVERY == 0 || kill == kills {
            spent = compare(&client, &provider, kill).await;
        }
    }
    println!(
        "{begun} of {kills} jobs had begun when something was killed, {paid} had been paid in part; {spent} uc in all"
    );
    assert!(begun > kills / 3 && paid > kills / 10, "most of it happens in the middle of a job: {begun}, {paid}");
    assert!(spent > 0);
    // And they still work.
    let done = eventually("a job after all of it", PATIENCE, || async {
        let updates = aitbc_tests::process::collect(client.job(&story(&provider, 8)).await).await;
        updates.iter().any(|update| update["event"] == "finished").then_some(updates)
    })
    .await;
    assert!(!done.is_empty());
}
