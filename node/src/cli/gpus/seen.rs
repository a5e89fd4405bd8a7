//! `aitbc gpus seen`: what the GPUs of providers are like in each region.

use crate::cli::{Global, Outcome, client::Client, output};
use serde_json::Value;

/// Runs the command.
pub(super) async fn run(global: &Global) -> Outcome {
    let document: Value = Client::new(global)?.get("seen").await?;
    output::print(global.json, &document, || {
        let seen = document["seen"].as_array().map(Vec::as_slice).unwrap_or_default();
        if seen.is_empty() {
            eprintln!("no offers are known: `aitbc status` tells whether this node has peers");
            return;
        }
        let titles = ["providers", "round trip", "first token", "tokens/s", "up", "down"];
        println!("{:<40} {:<6} {}", "device", "region", titles.map(|title| format!("{title:>11}")).join(" "));
        seen.iter().for_each(line);
        eprintln!(
            "medians; a dash is what nobody measured: round trips need a connection, times and speeds jobs of this node's own; up \
             and down are what providers say of their line"
        );
    })
}

fn line(seen: &Value) {
    let figure = |value: &Value, scale: f64, unit: &str| {
        value.as_f64().map_or_else(|| "-".to_owned(), |value| format!("{:.1}{unit}", value / scale))
    };
    let mib = f64::from(1 << 20);
    let figures = [
        seen["providers"].to_string(),
        figure(&seen["round_trip_ms"], 1.0, " ms"),
        figure(&seen["first_ms"], 1.0, " ms"),
        figure(&seen["tokens_per_second"], 1.0, ""),
        figure(&seen["up"], mib, " MiB/s"),
        figure(&seen["down"], mib, " MiB/s"),
    ];
    println!(
        "{:<40} {:<6} {}",
        seen["device"].as_str().unwrap_or("-"),
        seen["region"].as_str().unwrap_or("-"),
        figures.map(|figure| format!("{figure:>11}")).join(" ")
    );
}
