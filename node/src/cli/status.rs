//! `aitbc status`: the running node, and what keeps work away.

use super::{
    Global, Outcome,
    bench::{mib, verdict},
    client::Client,
    output,
};
use crate::clock::now_ms;
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
    let traffic = &status["traffic"];
    let kib = |bytes: &Value| bytes.as_f64().unwrap_or_default() / 1024.0;
    println!("traffic       {:.1} KiB/s in, {:.1} KiB/s out", kib(&traffic["received"]), kib(&traffic["sent"]));
    let line = &status["line"];
    if !line.is_null() {
        println!(
            "line          at least {:.1} MiB/s up, {:.1} MiB/s down, measured {} ago",
            mib(&line["up"]),
            mib(&line["down"]),
            output::duration(now_ms().saturating_sub(line["measured_ms"].as_u64().unwrap_or_default())),
        );
        if line["enough"] == false {
            println!("{}", verdict(line).replacen("slow    ", "warning      ", 1));
        }
    }
    let place = &status["coordinate"];
    if !place.is_null() {
        let ms = |part: &str| place[part].as_f64().unwrap_or_default() / 1_000.0;
        let percent = place["error"].as_f64().unwrap_or_default() / 10.0;
        println!(
            "round trips   estimated from {:.1}, {:.1} and {:.1} ms up, off by {percent:.0} %",
            ms("x"),
            ms("y"),
            ms("height")
        );
    }
    println!("offers known  {}", status["offers"]);
    for engine in status["provider"]["engines"].as_array().into_iter().flatten() {
        println!("engine        {}: {}{}", text(&engine["name"]), text(&engine["state"]), reason(engine));
        for model in engine["models"].as_array().into_iter().flatten() {
            let speed = model["speed"].as_f64().unwrap_or_default() / 1000.0;
            let private = &model["private"];
            let told = if private.is_null() {
                format!("{speed:.1} tokens/s, context {}", model["context"])
            } else {
                let (profile, bootstraps) = (text(&private["profile"]), &private["bootstraps"]);
                format!("private, {bootstraps} bootstraps at {speed:.1}/s, profile {profile}")
            };
            println!(
                "              {} on {} ({}), {told}",
                text(&model["model"]),
                text(&model["device"]["name"]),
                text(&model["device"]["kind"]),
            );
        }
        for warning in engine["warnings"].as_array().into_iter().flatten() {
            println!("warning       {}", text(warning));
        }
    }
    if let Some(waiting) = status["provider"]["waiting_for"].as_str() {
        println!("no work yet   {waiting}");
    }
    if let Some(shown) = status["provider"]["offer"]["shown"].as_array().filter(|shown| !shown.is_empty()) {
        println!("challenges    the offer carries {} results: `aitbc find` prints them", shown.len());
    }
    attestation(&status["attestation"]);
    power(&status["provider"]["power"]);
    let running = status["provider"]["running"].as_array().map_or(0, Vec::len);
    println!("jobs          {running} running, {} queued", status["provider"]["queued"]);
    let cloud = &status["cloud"];
    if !cloud.is_null() {
        println!(
            "cloud         {}: {} jobs since the start, {} failed, {} uc by its price",
            text(&cloud["host"]),
            cloud["jobs"],
            cloud["failed"],
            cloud["cost"]
        );
    }
    let totals = &status["totals"];
    println!("earned        {} uc over {} jobs", totals["earned"], totals["jobs_provided"]);
    println!("spent         {} uc over {} jobs", totals["spent"], totals["jobs_bought"]);
    for (name, key) in [("given back", "given_back"), ("got back", "got_back")] {
        if totals[key].as_u64().unwrap_or_default() > 0 {
            println!("{name:13} {} uc for service levels that were not kept", totals[key]);
        }
    }
    if totals["owed_to_us"].as_u64().unwrap_or_default() > 0 {
        println!("owed to us    {} uc", totals["owed_to_us"]);
    }
}

/// What others have signed about this node's hardware.
fn attestation(of: &Value) {
    let policies: Vec<&str> = of["policies"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let proves =
        if policies.is_empty() { String::new() } else { format!(", proves {} on request", policies.join(", ")) };
    match (of["score"].as_f64(), of["verifier"].as_str()) {
        (Some(score), Some(verifier)) => println!(
            "attestation   {}, score {:.2}, by {verifier}, until {}{proves}",
            text(&of["tier"]),
            score / 1000.0,
            super::output::utc(of["expires_ms"].as_u64().unwrap_or_default())
        ),
        _ => println!(
            "attestation   none: nobody has verified this node (`aitbc attest run` shows what it could show){proves}"
        ),
    }
}

/// Sensors and limits of the provider side.
fn power(power: &Value) {
    let simulated = if power["simulated"] == true { " (SIMULATED)" } else { "" };
    for gpu in power["gpus"].as_array().into_iter().flatten() {
        let figure = |name: &str, unit: &str| gpu[name].as_f64().map(|value| format!("{value:.0} {unit}"));
        let busy = gpu["utilisation"].as_f64().map(|part| format!("{:.0} % busy", part * 100.0));
        let parts = [figure("core_celsius", "°C"), figure("watts", "W"), busy];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        let told = match (gpu["watched"] == false, gpu["asleep"] == true) {
            (true, _) => "no sensors, its heat is left to its driver".to_owned(),
            (_, true) => "asleep".to_owned(),
            _ => parts.join(", "),
        };
        println!(
            "gpu{simulated:<11} {}: {}",
            text(&gpu["name"]),
            if told.is_empty() { "no readings" } else { &told }
        );
    }
    if power["decision"]["limits"].as_array().is_some_and(|limits| !limits.is_empty()) {
        println!("limited       {} jobs at a time: {}", power["decision"]["slots"], text(&power["reasons"]));
    }
}

fn reason(engine: &Value) -> String {
    match (engine["percent"].as_u64(), engine["reason"].as_str()) {
        (Some(percent), _) => format!(" {percent} %"),
        (None, Some(reason)) => format!(", {reason}"),
        _ => String::new(),
    }
}
