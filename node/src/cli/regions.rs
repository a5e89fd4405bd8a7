//! `aitbc regions`: what is on offer, cell by cell.

use super::{Global, Outcome, client::Client, output};
use serde_json::Value;

/// Arguments of `regions`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Characters of the cells' geohashes: 2 (600 km) to 7 (150 m)
    #[arg(long, default_value_t = aitbc_protocol::geo::DEFAULT_PRECISION, value_parser = clap::value_parser!(u8).range(2..=7))]
    precision: u8,
    /// Search everything within reach first, and do not go by what was heard alone
    #[arg(long)]
    search: bool,
}

/// Runs the command.
pub(super) async fn run(global: &Global, args: Args) -> Outcome {
    let client = Client::new(global)?;
    if args.search {
        client.stream("find", &serde_json::json!({}), |_| Ok(())).await?;
    }
    let document: Value = client.get(&format!("regions?precision={}", args.precision)).await?;
    output::print(global.json, &document, || people(&document))
}

fn people(document: &Value) {
    let regions = document["regions"].as_array().map(Vec::as_slice).unwrap_or_default();
    if regions.is_empty() {
        println!("this node has heard of no provider: `aitbc regions --search` looks for some");
        return;
    }
    println!(
        "{:8} {:>8} {:>9} {:>5} {:>11}  models (from credits for a million tokens)",
        "cell", "km", "providers", "GPUs", "free slots"
    );
    for region in regions {
        let model = |model: &Value| {
            let name = model["model"].as_str().unwrap_or("-");
            format!("{name} x{} ({:.2})", model["providers"], model["cheapest"].as_f64().unwrap_or_default() / 1e3)
        };
        let models: Vec<String> = region["models"].as_array().into_iter().flatten().map(model).collect();
        println!(
            "{:8} {:>8.0} {:>9} {:>5} {:>11}  {}",
            region["cell"].as_str().unwrap_or("-"),
            region["distance_km"].as_f64().unwrap_or_default(),
            region["providers"],
            region["gpus"],
            format!("{} of {}", region["free"], region["slots"]),
            models.join(", "),
        );
    }
}
