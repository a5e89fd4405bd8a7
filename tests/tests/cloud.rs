//! The cloud behind the network: a real node, a real HTTP server that speaks OpenAI's protocol, and the command line.

#![cfg(unix)]

use aitbc_tests::{
    openai::{ANSWER_TOKENS, KEY, PROMPT_TOKENS, Server, write_private},
    process::{MODEL, Process, ProcessBuilder, run},
};
use serde_json::{Value, json};
use std::process::Output;
use tempfile::TempDir;

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

async fn client(home: TempDir) -> Process {
    ProcessBuilder::new("client", "51.5,-0.1").start_in(home).await
}

#[tokio::test]
async fn a_job_that_nobody_does_goes_to_the_cloud_and_says_so_everywhere() {
    let cloud = Server::start().await;
    let client = client(cloud.as_cloud("if_no_edge", 2_000)).await;
    let host = cloud.address.to_string();
    let cost = (PROMPT_TOKENS + ANSWER_TOKENS) * 2;

    let output = client.cli(&["run", MODEL, "Where are you?", "--max-tokens", "20"]).await;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "from the server\n");
    let people = told(&output);
    assert!(
        people.contains(&format!("going to {host} for cloud-small (no provider is left)"))
            && people.contains("its operator can read the prompt")
            && people
                .contains(&format!("{host} answered with cloud-small: 40 prompt + 3 answer tokens, 0.000086")),
        "{people}"
    );
    let (authorization, body) = cloud.seen().remove(0);
    assert_eq!(authorization, Some(format!("Bearer {KEY}")));
    assert_eq!((&body["model"], &body["max_tokens"]), (&"cloud-small".into(), &20.into()));

    let updates = json_of(&client.cli(&["--json", "run", MODEL, "Hi"]).await)["updates"].clone();
    let of = |event: &str| {
        updates
            .as_array()
            .and_then(|all| all.iter().find(|update| update["event"] == event))
            .cloned()
            .expect(event)
    };
    assert_eq!(of("cloud")["reason"]["why"], "no_edge");
    let bill = of("cloud_bill");
    assert_eq!((&bill["cost"], &bill["counted"]), (&cost.into(), &true.into()), "{bill}");
    assert_eq!(of("finished")["paid"], 0, "the network is paid nothing");

    // OpenAI's own way, whole and streamed.
    let mut chat = json!({"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]});
    let response =
        client.http().post(client.url("v1/chat/completions")).json(&chat).send().await.expect("an answer");
    assert_eq!(response.headers()["x-aitbc-cloud"], host.as_str());
    let document: Value = response.json().await.expect("JSON");
    assert_eq!(document["choices"][0]["message"]["content"], "from the server");
    let account = json!({"host": host, "model": "cloud-small", "cost_micro_credits": cost});
    assert_eq!(document["aitbc"]["cloud"], account, "{document}");
    chat["stream"] = true.into();
    let response =
        client.http().post(client.url("v1/chat/completions")).json(&chat).send().await.expect("an answer");
    let text = response.text().await.expect("a stream");
    assert!(text.contains(" server") && text.contains("cost_micro_credits") && text.contains("[DONE]"), "{text}");
    chat["stream"] = false.into();
    chat["aitbc"] = json!({"fallback": "never"});
    let response =
        client.http().post(client.url("v1/chat/completions")).json(&chat).send().await.expect("an answer");
    assert_eq!(response.status(), 503);

    let status = client.get("status").await;
    assert_eq!((&status["cloud"]["jobs"], &status["cloud"]["cost"]), (&4.into(), &(4 * cost).into()), "{status}");
    let jobs = client.get("jobs").await;
    assert_eq!(jobs["cloud"][0]["end"]["state"], "completed", "{jobs}");
    let people = client.cli(&["jobs"]).await;
    assert!(String::from_utf8_lossy(&people.stdout).contains("cloud "), "{people:?}");

    let log = std::fs::read_to_string(client.home.path().join("log")).expect("a log");
    assert!(!log.contains(KEY), "the key is never logged");
    assert!(log.contains("going to the cloud"), "{log}");
}

#[tokio::test]
async fn what_must_not_go_to_the_cloud_does_not_and_a_table_says_why() {
    let cloud = Server::start().await;
    let client = client(cloud.as_cloud("if_no_edge", 2_000)).await;
    let refused: [(&[&str], i32, &str); 4] = [
        (&["--fallback", "never"], 4, ""),
        (&["--min-trust", "affirming"], 4, "trust"),
        (&["--min-shown", "1024"], 4, "memory"),
        (&["--max-price", "1"], 7, "price"),
    ];
    for (flags, code, by) in refused {
        let output = client.cli(&[&["run", MODEL, "Hi"][..], flags].concat()).await;
        assert_eq!(output.status.code(), Some(code), "{flags:?}: {output:?}");
        let people = told(&output);
        let row = people.lines().find(|line| line.starts_with("the cloud"));
        assert_eq!(row.is_some_and(|row| row.contains(by)), !by.is_empty(), "{flags:?}: {people}");
    }
    let output = client.cli(&["--json", "run", MODEL, "Hi", "--min-trust", "affirming"]).await;
    let error: Value = serde_json::from_str(told(&output).lines().last().expect("an error")).expect("JSON");
    assert_eq!((&error["code"], &error["ruled_out"][0]["by"]), (&4.into(), &"trust".into()), "{error}");
    assert_eq!(cloud.seen().len(), 0, "nothing was sent");
}

#[tokio::test]
async fn a_cloud_that_fails_or_cannot_be_used_says_what_to_change() {
    let cloud = Server::start().await;
    cloud.refuse(Some(401));
    let client = client(cloud.as_cloud("if_no_edge", 2_000)).await;
    let output = client.cli(&["run", MODEL, "Hi"]).await;
    let people = told(&output);
    assert_eq!(output.status.code(), Some(4), "{people}");
    assert!(people.contains("401 Unauthorized: it refuses the key") && !people.contains(KEY), "{people}");
    assert_eq!(client.get("status").await["cloud"]["failed"], 1);

    // A key that others can read, and a fallback without a cloud.
    let home = cloud.as_cloud("if_no_edge", 2_000);
    write_private(&home.path().join("cloud-key"), KEY, 0o644);
    let up = ["up", "--location", "51.5,-0.1", "--mdns=false", "--upnp=false", "--api-listen", "127.0.0.1:0"];
    let output = run(home.path(), &up).await;
    assert!(!output.status.success());
    assert!(told(&output).contains("client.cloud.key_file") && told(&output).contains("chmod 600"), "{output:?}");
    let alone = ProcessBuilder::new("alone", "51.5,-0.1").start().await;
    let output = alone.cli(&["run", MODEL, "Hi", "--fallback", "if_no_edge"]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(told(&output).contains("[client.cloud]"), "{output:?}");
}

#[tokio::test]
async fn a_cheaper_cloud_goes_before_a_provider_and_a_provider_behind_a_broken_cloud() {
    let (cloud, broken) = (Server::start().await, Server::start().await);
    broken.refuse(Some(502));
    let behind = Server::start().await;
    let miner = ProcessBuilder::new("miner", "48.85,2.35").relay().start_in(behind.as_provider(1_000)).await;
    miner.offering().await;
    let start = |home| ProcessBuilder::new("client", "51.5,-0.1").bootstrap(&miner).start_in(home);
    let (cheap, dear, unusable) = tokio::join!(
        start(cloud.as_cloud("if_cheaper", 10)),
        start(cloud.as_cloud("if_cheaper", 100_000)),
        start(broken.as_cloud("if_cheaper", 10)),
    );
    let ask = ["--json", "run", MODEL, "Name three planets", "--max-tokens", "16", "--allow-declared"];
    for client in [&cheap, &dear, &unusable] {
        client.finds(1).await;
    }
    let answered = async |client: &Process| {
        let output = client.cli(&ask).await;
        assert!(output.status.success(), "{output:?}");
        let updates = json_of(&output)["updates"].clone();
        let of = |event: &str| updates.as_array().expect("updates").iter().any(|update| update["event"] == event);
        (of("cloud"), of("cloud_failed"), of("receipt"))
    };
    assert_eq!(answered(&cheap).await, (true, false, false), "the cloud costs less");
    assert_eq!(answered(&dear).await, (false, false, true), "the provider costs less");
    assert_eq!(answered(&unusable).await, (true, true, true), "the provider does what the cloud did not");
    assert_eq!(broken.seen().len(), 1);
}
