//! What a running node tells of its line, and of the providers that it has dealt with.

#![cfg(unix)]

use aitbc_tests::process::{ProcessBuilder, collect, events, question};
use serde_json::Value;

#[tokio::test]
async fn a_line_is_measured_with_another_node_and_shown() {
    let first = ProcessBuilder::new("first", "48.85,2.35").start().await;
    let alone = first.cli(&["bench", "network"]).await;
    assert!(!alone.status.success());
    let told = String::from_utf8_lossy(&alone.stderr);
    assert!(told.contains("no peer is connected directly"), "{told}");

    let second = ProcessBuilder::new("second", "51.5,-0.1").bootstrap(&first).start().await;
    second.connected().await;
    let measured = second.cli(&["bench", "network", "--json"]).await;
    assert!(measured.status.success(), "{measured:?}");
    let measured: Value = serde_json::from_slice(&measured.stdout).expect("JSON");
    assert_eq!(
        (&measured["schema"], &measured["with"]),
        (&"aitbc.bandwidth/1".into(), &first.id.to_string().into())
    );
    assert!(measured["up"].as_u64() > Some(0) && measured["down"].as_u64() > Some(0), "{measured}");
    assert_eq!(measured["required"], 10 << 20);

    let status = second.until("tells of what went over it", |status| !status["line"].is_null()).await;
    assert_eq!(status["line"]["up"], measured["up"]);
    let people = second.cli(&["status"]).await;
    let people = String::from_utf8_lossy(&people.stdout).into_owned();
    assert!(people.contains("line          at least") && people.contains("traffic"), "{people}");
    // Rates are those of the last second: the measurement itself shows up in somebody's.
    let again = second.cli(&["bench", "network", &first.id.to_string()]).await;
    let said = String::from_utf8_lossy(&again.stdout).into_owned();
    assert!(again.status.success() && said.contains("provide.min_bandwidth_mib"), "{said}");
    let moved = |status: &Value| status["traffic"]["sent"].as_u64() > Some(10_000);
    second.until("counts what goes over its connections", moved).await;
}

#[tokio::test]
async fn a_client_tells_what_the_providers_are_like_that_it_has_dealt_with() {
    let provider = ProcessBuilder::new("provider", "48.85,2.35").provide().start().await;
    provider.offering().await;
    let client = ProcessBuilder::new("client", "51.5,-0.1").bootstrap(&provider).start().await;
    client.finds(1).await;
    // One may have been read slowly: two tell.
    for _ in 0..2 {
        let updates = collect(client.job(&question("Tell me a story of a lighthouse.", 128)).await).await;
        assert_eq!(events(&updates, "finished").len(), 1, "{updates:?}");
    }
    let seen = client.cli(&["gpus", "seen", "--json"]).await;
    let seen: Value = serde_json::from_slice(&seen.stdout).expect("JSON");
    let one = &seen["seen"][0];
    assert_eq!((&one["region"], &one["providers"], &one["jobs"]), (&"u0".into(), &1.into(), &2.into()), "{seen}");
    assert!(one["tokens_per_second"].as_f64() > Some(0.0) && one["first_ms"].as_f64() > Some(0.0), "{seen}");
    assert!(one["round_trip_ms"].as_f64().is_some(), "{seen}");
    let people = client.cli(&["gpus", "seen"]).await;
    assert!(String::from_utf8_lossy(&people.stdout).contains("tokens/s"), "{people:?}");
    let found = client.cli(&["find"]).await;
    assert!(String::from_utf8_lossy(&found.stdout).contains("(seen)"), "ranked by it: {found:?}");

    // It has shown no memory to anybody.
    let strict = client.cli(&["run", "smollm2:135m", "hello", "--remote", "--min-shown", "1024"]).await;
    let why = String::from_utf8_lossy(&strict.stderr).into_owned();
    assert_eq!(strict.status.code(), Some(4), "{why}");
    assert!(why.contains("has shown 0 MiB of GPU memory") && why.contains("client.verifiers"), "{why}");
}
