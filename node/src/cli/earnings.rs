//! `aitbc earnings`: what was earned and spent, by day and model.

use super::{Global, Outcome, client::Client, output, since};
use aitbc_protocol::UnixMillis;
use serde_json::Value;

/// Arguments of `earnings`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// From when on: so long before now, or a day (UTC)
    #[arg(long, value_name = "7d | 2026-11-01", default_value = "7d", value_parser = since::parse)]
    since: UnixMillis,
}

/// Runs the command.
pub(super) async fn run(global: &Global, args: &Args) -> Outcome {
    let document: Value = Client::new(global)?.get(&format!("earnings?since_ms={}", args.since)).await?;
    output::print(global.json, &document, || people(&document))
}

fn people(document: &Value) {
    let rows = document["rows"].as_array().map(Vec::as_slice).unwrap_or_default();
    let since = output::utc(document["since_ms"].as_u64().unwrap_or_default());
    if rows.is_empty() {
        println!("nothing was earned or spent since {since}");
        return;
    }
    println!(
        "{:10}  {:24} {:>6} {:>9} {:>14} {:>12} {:>12} {:>12} | {:>6} {:>9} {:>14} {:>12}",
        "day (UTC)",
        "model",
        "sold",
        "tokens",
        "earned",
        "given back",
        "unpaid",
        "electricity",
        "bought",
        "tokens",
        "spent",
        "got back"
    );
    for row in rows {
        let day = output::utc(row["day_ms"].as_u64().unwrap_or_default());
        line(&day[..day.len().min(10)], row["model"].as_str().unwrap_or_default(), row);
    }
    line("all", &format!("since {since}"), document);
    println!("amounts in credits; electricity as the quotes of the jobs state it, - where none does");
}

fn line(day: &str, model: &str, of: &Value) {
    let (sold, bought) = (&of["sold"], &of["bought"]);
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let electricity = sold["electricity"].as_u64().map_or_else(|| "-".to_owned(), output::credits);
    println!(
        "{day:10}  {model:24} {:>6} {:>9} {:>14} {:>12} {:>12} {electricity:>12} | {:>6} {:>9} {:>14} {:>12}",
        number(&sold["jobs"]),
        number(&sold["tokens"]),
        output::credits(number(&sold["paid"])),
        output::credits(number(&sold["refunded"])),
        output::credits(number(&sold["unpaid"])),
        number(&bought["jobs"]),
        number(&bought["tokens"]),
        output::credits(number(&bought["paid"])),
        output::credits(number(&bought["refunded"])),
    );
}
