//! `aitbc netcheck`: how the running node is connected, and what that means for it.

use super::{Global, Outcome, client::Client, output};
use serde_json::Value;
use std::time::Duration;

/// Arguments of `netcheck`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Say it again at this interval, until Ctrl-C
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    every: Option<Duration>,
}

/// Runs the command.
pub(super) async fn run(global: &Global, args: &Args) -> Outcome {
    let client = Client::new(global)?;
    loop {
        let document: Value = client.get("netcheck").await?;
        output::print(global.json, &document, || people(&document))?;
        let Some(every) = args.every else { return Ok(()) };
        tokio::time::sleep(every).await;
        if !global.json {
            println!();
        }
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn people(document: &Value) {
    let text = |value: &Value| value.as_str().unwrap_or("not known yet").to_owned();
    println!("verdict       {}", text(&document["sentence"]));
    let udp = match document["udp"].as_bool() {
        Some(true) => "gets through",
        Some(false) => "blocked: connections run over TCP",
        None => "not known yet",
    };
    println!("UDP           {udp}");
    for version in ["IPv4", "IPv6"] {
        let mut seen: Vec<String> = list(&document["observed"])
            .filter(|one| {
                one["address"].as_str().is_some_and(|address| address.contains('[') == (version == "IPv6"))
            })
            .map(|one| format!("{} ({})", text(&one["address"]), text(&one["transport"])))
            .collect();
        seen.dedup();
        println!("{version}          {}", if seen.is_empty() { "not seen".to_owned() } else { seen.join(", ") });
    }
    println!("mapping       {}", text(&document["mapping"]));
    println!("filtering     {}", text(&document["filtering"]));
    println!("router        {}", document["router"].as_str().unwrap_or("no answer to UPnP, or not asked"));
    for relay in list(&document["relays"]) {
        let time = relay["round_trip_ms"].as_f64().map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms"));
        let reserved = if relay["reserved"] == true { ", this node is reachable through it" } else { "" };
        println!("relay         {} {time}{reserved}", text(&relay["peer"]));
    }
    let punches = &document["hole_punches"];
    let (through, failed) = (punches["through"].as_u64(), punches["failed"].as_u64());
    let (through, failed) = (through.unwrap_or_default(), failed.unwrap_or_default());
    println!("hole punching {through} of {} in the last day", through + failed);
    for address in list(&document["announced"]) {
        println!("announced     {}", text(address));
    }
}
