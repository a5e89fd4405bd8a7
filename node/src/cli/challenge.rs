//! `aitbc challenge`: has a provider show the memory that it says it has.

use super::{Exit, Global, Outcome, client::Client, output};
use aitbc_protocol::{
    NodeId,
    gpu::classify::{Classified, Reported, classify},
};
use serde_json::Value;

/// Arguments of `challenge`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Provider, as `aitbc find` names it
    peer: NodeId,
}

/// Runs the command.
pub(super) async fn run(global: &Global, args: &Args) -> Outcome {
    let json = global.json;
    let told = |step: &Value| {
        if !json {
            progress(step);
        }
    };
    let body = serde_json::json!({"peer": args.peer});
    let found = Client::new(global)?.finding("challenge", &args.peer, &body, told).await?;
    output::print(json, &found, || people(&found))?;
    match found["finding"].as_str() {
        Some("shown") => Ok(()),
        Some("late") => Err(Exit::verification("its answer came too late for the memory that it says it has")),
        _ => Err(Exit::verification("its answer is wrong, and signed: --json prints the evidence")),
    }
}

fn giga(value: &Value) -> f64 {
    value.as_f64().unwrap_or_default() / 1e9
}

fn gib(value: &Value) -> f64 {
    value.as_f64().unwrap_or_default() / 1_073_741_824.0
}

fn seconds(value: &Value) -> f64 {
    value.as_f64().unwrap_or_default() / 1000.0
}

fn progress(step: &Value) {
    match step["event"].as_str() {
        Some("waiting") => eprintln!("waiting   the next slot can be booked in {:.0} s", seconds(&step["in_ms"])),
        Some("booked") => eprintln!(
            "booked    {} with {:.2} GiB free; the challenge begins in {:.0} s",
            step["claim"]["device"].as_str().unwrap_or("?"),
            gib(&step["claim"]["bytes"]),
            seconds(&step["in_ms"])
        ),
        Some("ready") => eprintln!("ready     it says that it reads {:.2} GB/s at random", giga(&step["rate"])),
        Some("walking") => eprintln!("walking   for about {:.1} s", seconds(&step["lasts_ms"])),
        Some("checking") => {
            eprintln!("checking  its answer came after {:.2} s: recomputing 64 lanes", seconds(&step["after_ms"]));
        }
        _ => {}
    }
}

fn people(found: &Value) {
    match found["finding"].as_str() {
        Some("shown") => {
            let shown = &found["shown"];
            let device = shown["device"].as_str().unwrap_or("?");
            let simulated = if shown["simulated"] == true { ", SIMULATED by its own word" } else { "" };
            println!(
                "{device}: {:.2} GiB at {:.2} GB/s of random reads{simulated}",
                gib(&shown["bytes"]),
                giga(&shown["rate"])
            );
            if let Some(part) = of_sheet(device, shown["rate"].as_f64().unwrap_or_default()) {
                println!("{:.0} % of what the data sheet of that card says it reads in order", part * 100.0);
            }
        }
        Some("late") => println!(
            "late: {:.2} GB/s of random reads, where it says {:.2}",
            giga(&found["shown"]),
            giga(&found["told"])
        ),
        _ => println!("wrong: {}", found["reason"].as_str().unwrap_or("?")),
    }
}

/// The part of the catalogue's bandwidth that `rate` is.
fn of_sheet(device: &str, rate: f64) -> Option<f64> {
    let Classified::Gpu { best, .. } = classify(&Reported { name: device, pci: None, memory_bytes: None }) else {
        return None;
    };
    Some(rate / best.profile.bandwidth? as f64)
}
