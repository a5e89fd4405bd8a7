//! Money as its owner sees it: accounts, earnings, exports, settlements, and credit that is used up.

use aitbc_tests::{
    Process, ProcessBuilder,
    process::{collect, events},
    stories::{STORIES, Stories},
};
use serde_json::{Value, json};
use std::process::Output;

fn story(tokens: u32) -> Value {
    json!({
        "spec": {
            "model": STORIES, "weights": null, "input": {"chat": [{"role": "user", "content": "Tell me one."}]},
            "sampling": {"temperature": 0.0, "top_p": 1.0, "seed": 7}, "max_tokens": tokens,
            "stop": [], "top_logprobs": null, "prefix": [],
        },
        "wishes": {"remote_only": true, "allow_declared": true},
    })
}

fn json_of(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

struct Town {
    _stories: Stories,
    _settings: tempfile::TempDir,
    provider: Process,
    client: Process,
}

/// A provider whose strangers may owe `strangers` micro-credits a day, and a client.
async fn town(strangers: u64) -> Town {
    let stories = Stories::start().await;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let settings = directory.path().join("stories.toml");
    stories.settings(&settings);
    let text = std::fs::read_to_string(&settings).expect("just written");
    std::fs::write(&settings, format!("[provide]\nstrangers = {strangers}\n\n{text}")).expect("written");
    let provider = ProcessBuilder::new("provider", "48.85,2.35")
        .arguments(&["--provide", "--relay", "--config", settings.to_str().expect("UTF-8")])
        .start()
        .await;
    let client = ProcessBuilder::new("client", "51.5,-0.1").bootstrap(&provider).start().await;
    provider.offering().await;
    client.finds_of(STORIES, 1).await;
    Town { _stories: stories, _settings: directory, provider, client }
}

async fn account(node: &Process, peer: &Process) -> Value {
    let document = json_of(&node.cli(&["--json", "ledger", "show", &peer.id.to_string()]).await);
    document["accounts"][0].clone()
}

#[tokio::test]
async fn what_was_earned_is_shown_exported_and_settled() {
    let Town { provider, client, .. } = &town(1_000_000).await;
    let updates = collect(client.job(&story(40)).await).await;
    let finished = events(&updates, "finished");
    let paid = finished.first().unwrap_or_else(|| panic!("{updates:?}"))["paid"].as_u64().expect("a sum");
    assert!(paid > 0);

    let spent = account(client, provider).await;
    let earned = account(provider, client).await;
    assert_eq!((&spent["direction"], &earned["direction"]), (&"spent".into(), &"earned".into()));
    for account in [&spent, &earned] {
        let numbers = ["jobs", "paid_jobs", "promised", "owed", "settled", "open"];
        let numbers = numbers.map(|name| account[name].as_u64().expect("a number"));
        assert_eq!(numbers, [1, 1, paid, 0, 0, paid], "{account}");
        assert_eq!(account["newest_jobs"][0]["paid"], paid);
    }
    let told = provider.cli(&["ledger"]).await;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains(&client.id.to_string()) && told.contains("open to us 0.0"), "{told}");
    let unknown = provider.cli(&["ledger", "show", &provider.id.to_string()]).await;
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("never dealt with"));

    let earnings = json_of(&provider.cli(&["--json", "earnings", "--since", "1d"]).await);
    assert_eq!((&earnings["sold"]["paid"], &earnings["sold"]["jobs"]), (&paid.into(), &1.into()), "{earnings}");
    assert_eq!(earnings["rows"][0]["model"], STORIES);
    let bought = json_of(&client.cli(&["--json", "earnings"]).await);
    assert_eq!((&bought["bought"]["paid"], &bought["sold"]["jobs"]), (&paid.into(), &0.into()));
    let told = provider.cli(&["earnings"]).await;
    assert!(String::from_utf8_lossy(&told.stdout).contains(STORIES));
    assert_eq!(provider.cli(&["earnings", "--since", "yesterday"]).await.status.code(), Some(2));

    // The provider has received something; both ledgers know.
    let peer = client.id.to_string();
    let credits = format!("0.{:06}", paid - 1);
    let settled = json_of(&provider.cli(&["--json", "ledger", "settle", &peer, &credits]).await);
    assert_eq!((&settled["settled"], &settled["delivered"]), (&(paid - 1).into(), &true.into()), "{settled}");
    for account in [account(client, provider).await, account(provider, client).await] {
        assert_eq!((&account["settled"], &account["open"]), (&(paid - 1).into(), &1.into()), "{account}");
    }
    let above = provider.cli(&["ledger", "settle", &peer, "0.000002"]).await;
    assert!(String::from_utf8_lossy(&above.stderr).contains("where cheques promise"));
    let not_owed = client.cli(&["ledger", "settle", &provider.id.to_string(), "0.000001"]).await;
    assert!(!not_owed.status.success(), "only the payee settles");

    // The file proves itself to somebody who was not there, until it is changed.
    let file = provider.home.path().join("ledger.jsonl");
    let path = file.to_str().expect("UTF-8");
    let written = provider.cli(&["ledger", "export", "--out", path]).await;
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    let elsewhere = tempfile::tempdir().expect("a temporary directory");
    let verify = ["--json", "ledger", "verify", path];
    let verified = json_of(&aitbc_tests::process::run(elsewhere.path(), &verify).await);
    assert_eq!((&verified["valid"], &verified["unproven"]), (&true.into(), &0.into()), "{verified}");
    assert_eq!(verified["ledger"]["node"], provider.id.to_string());
    assert_eq!(verified["export"]["sums"]["earned"], paid);
    let text = std::fs::read_to_string(&file).expect("written above");
    assert!(text.contains("\"refunded\":0") && text.contains("\"open\":1,"), "all but 1 uc is settled: {text}");
    std::fs::write(&file, text.replace(&format!("\"paid\":{paid}"), &format!("\"paid\":{}", paid + 1)))
        .expect("room");
    let tampered = aitbc_tests::process::run(elsewhere.path(), &verify).await;
    assert_eq!(tampered.status.code(), Some(6), "{}", String::from_utf8_lossy(&tampered.stdout));

    let table = client.cli(&["ledger", "export", "--format", "csv", "--since", "1h"]).await;
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    let rows: Vec<&str> = table.lines().collect();
    assert_eq!(rows.len(), 2, "{table}");
    assert!(rows[0].starts_with("began_utc,direction,peer") && rows[1].contains(",spent,"), "{table}");
    assert!(rows[1].contains(&format!(",{paid},0.{paid:06},0,0.000000,")), "nothing came back: {table}");
}

#[tokio::test]
async fn a_stranger_whose_credit_is_used_up_is_told_and_goes_on_once_it_has_settled() {
    // A story of 300 tokens costs 192 to 300 micro-credits, by the hour of the day: one of them, and not two.
    let Town { provider, client, .. } = &town(350).await;
    let first = collect(client.job(&story(300)).await).await;
    let paid = events(&first, "finished").first().unwrap_or_else(|| panic!("{first:?}"))["paid"].as_u64();
    let paid = paid.expect("a sum");
    let second = collect(client.job(&story(300)).await).await;
    let refused = format!("{second:?}");
    assert!(events(&second, "finished").is_empty(), "{refused}");
    assert!(refused.contains("credit does not reach") && refused.contains("aitbc ledger"), "{refused}");
    let amount = format!("0.{paid:06}");
    json_of(&provider.cli(&["--json", "ledger", "settle", &client.id.to_string(), &amount]).await);
    let third = collect(client.job(&story(200)).await).await;
    assert_eq!(events(&third, "finished").len(), 1, "its own credit reaches for less than it settled: {third:?}");
}
