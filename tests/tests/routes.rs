//! Where jobs go: policies, providers that fail again and again, what was expected and what came.

#![cfg(unix)]

use aitbc_tests::{
    openai::Server,
    process::{MODEL, Process, ProcessBuilder},
};
use serde_json::{Value, json};
use std::process::Output;

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

async fn ask(client: &Process, flags: &[&str]) -> Output {
    let asked = ["--json", "run", MODEL, "Name three planets", "--max-tokens", "64", "--allow-declared"];
    client.cli(&[&asked[..], flags].concat()).await
}

/// Who answered.
fn answered(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    let updates = json_of(output)["updates"].clone();
    let started = updates.as_array().and_then(|all| all.iter().rev().find(|update| update["event"] == "started"));
    started.expect("it started")["provider"].as_str().expect("a provider").to_owned()
}

#[tokio::test]
async fn policies_decide_who_answers() {
    let server = Server::start().await;
    // Beside the client and dear, and 5,800 km away and cheap.
    let near = ProcessBuilder::new("near", "48.85,2.35").relay().start_in(server.as_provider(2_000)).await;
    let far = ProcessBuilder::new("far", "40.7,-74.0").bootstrap(&near).start_in(server.as_provider(20)).await;
    near.offering().await;
    far.offering().await;
    let client = ProcessBuilder::new("client", "48.85,2.35").bootstrap(&near).start().await;
    client.finds(2).await;

    for (policy, expected) in [("latency", &near), ("cost", &far), ("local_first", &near)] {
        let output = ask(&client, &["--policy", policy]).await;
        assert_eq!(answered(&output), expected.id.to_string(), "{policy}");
    }
    let private = ask(&client, &["--policy", "private"]).await;
    assert_eq!(private.status.code(), Some(4), "{private:?}");
    let error: Value = serde_json::from_str(told(&private).lines().last().expect("an error")).expect("JSON");
    let by: Vec<&Value> = error["ruled_out"].as_array().expect("a table").iter().map(|row| &row["by"]).collect();
    assert_eq!(by, ["trust", "trust"], "{error}");
    let unknown = ask(&client, &["--policy", "fastest"]).await;
    assert!(unknown.status.code() == Some(2) && told(&unknown).contains("local_first"), "{unknown:?}");

    // Conditions and regions.
    let find = async |conditions: &[&str]| client.cli(&[&["--json", "find"][..], conditions].concat()).await;
    let found = find(&["price<0.5", MODEL]).await;
    assert!(found.status.success(), "{found:?}");
    let candidates = json_of(&found)["candidates"].clone();
    let place = |id: &Process| {
        let all = candidates.as_array().expect("candidates");
        all.iter().position(|one| one["provider"] == id.id.to_string()).expect("it was found")
    };
    assert_eq!((place(&far), place(&near)), (0, 1), "whoever does not meet it comes last");
    let excluded = json!({"unmet": {"condition": "price<0.5", "found": "2"}});
    assert_eq!(candidates[1]["excluded"], excluded, "{candidates}");
    assert_eq!(find(&["vram>=16"]).await.status.code(), Some(4));
    let wrong = find(&["wram>=16"]).await;
    assert!(wrong.status.code() == Some(2) && told(&wrong).contains("wram>=16"), "{wrong:?}");
    let around = find(&[MODEL, "--near", "40.7,-74.0", "--within", "20ms"]).await;
    assert_eq!(json_of(&around)["candidates"][0]["provider"], far.id.to_string(), "{around:?}");
    let asked = json!({"query": "wram>=16"});
    let refused = client.http().post(client.url("aitbc/v1/find")).json(&asked).send().await.expect("an answer");
    assert_eq!(refused.status(), 400);
    let regions = json_of(&client.cli(&["--json", "regions", "--precision", "2"]).await);
    let sums: Vec<_> = regions["regions"].as_array().expect("regions").iter().collect();
    assert_eq!(sums.len(), 2, "{regions}");
    assert!(sums.iter().all(|region| region["slots"] == 4 && region["models"][0]["model"] == MODEL), "{regions}");
    let people = client.cli(&["regions"]).await;
    assert!(String::from_utf8_lossy(&people.stdout).contains("of 4"), "{people:?}");

    // The same over OpenAI's API.
    let mut chat = json!({
        "model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 64,
        "aitbc": {"policy": "cost", "allow_declared": true},
    });
    let response =
        client.http().post(client.url("v1/chat/completions")).json(&chat).send().await.expect("an answer");
    assert_eq!(response.headers()["x-aitbc-provider"], far.id.to_string().as_str());
    chat["aitbc"]["policy"] = "fastest".into();
    let response =
        client.http().post(client.url("v1/chat/completions")).json(&chat).send().await.expect("an answer");
    assert_eq!(response.status(), 400);

    // What was expected of each choice is kept beside what came.
    let kept = client.get("decisions").await;
    let newest = &kept["decisions"][0];
    assert_eq!((&newest["policy"], &newest["chosen"]["provider"]), (&"cost".into(), &far.id.to_string().into()));
    assert_eq!((&newest["among"], &newest["outcome"]["end"]), (&2.into(), &"answered".into()), "{newest}");
    let came = &newest["outcome"]["came"];
    assert!(came["whole_ms"].as_f64() > Some(0.0) && came["predicted_ms"].as_f64() > Some(0.0), "{newest}");
    assert!(kept["answers"].as_u64() >= Some(4) && kept["error"].as_f64().is_some(), "{kept}");
    let people = client.cli(&["jobs", "--decisions"]).await;
    let people = String::from_utf8_lossy(&people.stdout).into_owned();
    assert!(people.contains("predictions are typically") && people.contains(&far.id.to_string()), "{people}");
    let doctor = client.cli(&["--json", "doctor"]).await;
    let checks = json_of(&doctor)["checks"].clone();
    let check = checks.as_array().and_then(|all| all.iter().find(|check| check["id"] == "predict")).cloned();
    assert!(check.expect("a check")["actual"].as_str().is_some_and(|actual| actual.contains("answers")));
}

#[tokio::test]
async fn a_provider_that_fails_again_and_again_rests_until_it_works() {
    let server = Server::start().await;
    server.refuse(Some(500));
    let miner = ProcessBuilder::new("miner", "48.85,2.35").relay().start_in(server.as_provider(20)).await;
    miner.offering().await;
    let client = ProcessBuilder::new("client", "51.5,-0.1").bootstrap(&miner).start().await;
    client.finds(1).await;
    for _ in 0..3 {
        assert!(!ask(&client, &[]).await.status.success());
    }
    assert_eq!(server.seen().len(), 3);
    server.refuse(None);
    let output = ask(&client, &[]).await;
    assert_eq!(answered(&output), miner.id.to_string(), "after its rest, a job shows that it works");
    let updates = json_of(&output)["updates"].clone();
    let ranked = |update: &&Value| update["event"] == "ranked";
    let first = updates.as_array().and_then(|all| all.iter().find(ranked)).expect("a ranking");
    let excluded = &first["candidates"][0]["excluded"];
    assert!(excluded["resting"]["for_ms"].as_u64().is_some_and(|left| left <= 10_000), "{first}");
    assert_eq!(server.seen().len(), 4, "nobody asked it before");
    let output = ask(&client, &[]).await;
    let updates = json_of(&output)["updates"].clone();
    let first = updates.as_array().and_then(|all| all.iter().find(ranked)).expect("a ranking");
    assert!(output.status.success() && first["candidates"][0]["excluded"].is_null(), "{first}");
}
