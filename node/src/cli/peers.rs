//! `aitbc peers`: connected peers.

use super::{Global, Outcome, client::Client, output};

/// Runs the command.
pub(super) async fn run(global: &Global) -> Outcome {
    let document: serde_json::Value = Client::new(global)?.get("peers").await?;
    output::print(global.json, &document, || {
        let peers = document["peers"].as_array().map(Vec::as_slice).unwrap_or_default();
        if peers.is_empty() {
            println!("no peers: set `bootstrap` in the settings, or give --bootstrap to `aitbc up`");
        }
        for peer in peers {
            println!(
                "{}  {:8} {:5} {:>8}  {}  {}",
                peer["peer"].as_str().unwrap_or_default(),
                peer["path"].as_str().unwrap_or_default(),
                peer["transport"].as_str().unwrap_or_default(),
                peer["round_trip_ms"].as_f64().map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms")),
                peer["agent"].as_str().unwrap_or_default(),
                peer["address"].as_str().unwrap_or_default(),
            );
        }
    })
}
