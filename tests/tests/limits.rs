//! Heat, the owner's own use and broken sensors on a running node. The sensors are simulated: a tree of files in the shape
//! of a desktop's.

#![cfg(unix)]

use aitbc_tests::{
    desktop::Desktop,
    process::{Process, ProcessBuilder, collect, question},
};
use serde_json::Value;
use std::fs;

/// A provider of four slots on this machine.
async fn provider(desktop: &Desktop) -> Process {
    let config = desktop.root().join("config.toml");
    let tree = desktop.root().display();
    fs::write(&config, format!("[power]\nsimulated_sensors = \"{tree}\"\n")).expect("settings");
    let config = config.display().to_string();
    let node = ProcessBuilder::new("provider", "50.1,8.7").provide().arguments(&["--config", &config]);
    let node = node.start().await;
    node.offering().await;
    node
}

fn waits_for(what: &str) -> impl Fn(&Value) -> bool {
    move |status| {
        let why = status["provider"]["waiting_for"].as_str().unwrap_or_default();
        status["provider"]["offer"].is_null() && why.contains(what)
    }
}

fn offers(slots: u64) -> impl Fn(&Value) -> bool {
    move |status| status["provider"]["offer"]["slots"] == slots
}

#[tokio::test]
async fn offers_follow_heat_owner_and_sensors() {
    let desktop = Desktop::default();
    let provider = provider(&desktop).await;
    let status = provider.until("offers all slots", offers(4)).await;
    assert_eq!(status["provider"]["power"]["simulated"], true, "it is said where it shows");
    let shown = String::from_utf8(provider.cli(&["status"]).await.stdout).expect("text");
    assert!(shown.contains("SIMULATED") && shown.contains("55 °C"), "{shown}");

    desktop.degrees(86);
    provider.until("takes fewer jobs where it is warm", offers(2)).await;
    desktop.degrees(96);
    provider.until("takes none where it is hot", waits_for("too hot, so no job is taken")).await;
    desktop.degrees(91);
    provider.until("does not come back at once", waits_for("too hot")).await;
    desktop.degrees(60);
    provider.until("offers again", offers(4)).await;

    desktop.set("gpu_busy_percent", "93");
    provider.until("leaves the GPU to its owner", waits_for("its owner comes first")).await;
    desktop.set("gpu_busy_percent", "1");
    provider.until("comes back after its owner", offers(4)).await;

    fs::remove_file(desktop.file("hwmon/hwmon3/temp1_input")).expect("removed");
    provider.until("does not work blindly", waits_for("cannot be read, so the GPU counts as too hot")).await;
    desktop.degrees(255);
    provider.until("does not believe everything", waits_for("255 degrees, which no core has")).await;
    desktop.degrees(60);
    provider.until("offers again", offers(4)).await;
}

#[tokio::test]
async fn a_dangerous_temperature_ends_jobs_with_a_receipt() {
    let desktop = Desktop::default();
    let provider = provider(&desktop).await;
    let client = ProcessBuilder::new("client", "50.1,8.7").bootstrap(&provider).start().await;
    client.finds(1).await;
    let mut request = question("Write the numbers from one to one hundred in words.", 1500);
    request["wishes"]["provider"] = provider.id.to_string().into();
    let mut updates = client.job(&request).await;
    let mut heard = 0;
    while heard < 5 {
        let update = updates.recv().await.expect("an answer");
        heard += update["tokens"].as_array().map_or(0, Vec::len);
    }
    desktop.degrees(106);
    let rest = collect(updates).await;
    let last = rest.last().expect("an end");
    assert_eq!(last["event"], "failed", "{last}");
    provider.until("says why", waits_for("dangerously hot, so everything stopped")).await;
    let receipts = client.get("receipts").await;
    let receipt = &receipts["receipts"][0]["receipt"];
    assert_eq!(receipt["finish"], "failed", "{receipts}");
    let total = receipt["total"].as_u64().expect("a sum");
    assert!(total > 0, "what was delivered is paid: {receipts}");
    // It said that it had to stop: a quarter comes back, unless it had been late before.
    let penalty = receipt["penalty"].as_u64().expect("a sum");
    assert!(penalty >= total / 4 && penalty <= total, "{receipts}");
    let given =
        provider.until("sets it off", |status| status["totals"]["given_back"].as_u64() == Some(penalty)).await;
    let got = client.until("sets it off", |status| status["totals"]["got_back"].as_u64() == Some(penalty)).await;
    assert_eq!(given["totals"]["given_back"], got["totals"]["got_back"]);
}
