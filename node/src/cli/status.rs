//! `aitbc status`: the running node, and what keeps work away.

use super::{Global, Outcome, client::Client, output};
use serde_json::Value;

/// Runs the command.
pub(super) async fn run(global: &Global) -> Outcome {
    let document: Value = Client::new(global)?.get("status").await?;
    output::print(global.json, &document, || people(&document))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

fn people(status: &Value) {
    println!("node          {}", text(&status["node"]));
    println!("network       {} (aitbc {})", text(&status["network"]), text(&status["version"]));
    println!("up            {}", output::duration(status["uptime_ms"].as_u64().unwrap_or_default()));
    let reachability = &status["reachability"];
    println!("reachable     {}: {}", text(&reachability["verdict"]), text(&reachability["reason"]));
    for address in status["listening"].as_array().into_iter().flatten() {
        println!("listening     {}", text(address));
    }
    println!("peers         {}", status["peers"]);
    println!("offers known  {}", status["offers"]);
    for engine in status["provider"]["engines"].as_array().into_iter().flatten() {
        println!("engine        {}: {}{}", text(&engine["name"]), text(&engine["state"]), reason(engine));
        for model in engine["models"].as_array().into_iter().flatten() {
            println!(
                "              {} on {} ({}), {:.1} tokens/s, context {}",
                text(&model["model"]),
                text(&model["device"]["name"]),
                text(&model["device"]["kind"]),
                model["speed"].as_f64().unwrap_or_default() / 1000.0,
                model["context"],
            );
        }
        for warning in engine["warnings"].as_array().into_iter().flatten() {
            println!("warning       {}", text(warning));
        }
    }
    if let Some(waiting) = status["provider"]["waiting_for"].as_str() {
        println!("no work yet   {waiting}");
    }
    let running = status["provider"]["running"].as_array().map_or(0, Vec::len);
    println!("jobs          {running} running, {} queued", status["provider"]["queued"]);
    let totals = &status["totals"];
    println!("earned        {} uc over {} jobs", totals["earned"], totals["jobs_provided"]);
    println!("spent         {} uc over {} jobs", totals["spent"], totals["jobs_bought"]);
    if totals["owed_to_us"].as_u64().unwrap_or_default() > 0 {
        println!("owed to us    {} uc", totals["owed_to_us"]);
    }
}

fn reason(engine: &Value) -> String {
    match (engine["percent"].as_u64(), engine["reason"].as_str()) {
        (Some(percent), _) => format!(" {percent} %"),
        (None, Some(reason)) => format!(", {reason}"),
        _ => String::new(),
    }
}
