//! `aitbc reputation`: what the last day of providers was like, and by whose word.

use super::{Global, Outcome, client::Client, output};
use aitbc_protocol::{NodeId, evidence::Fault};
use serde_json::Value;

/// Witnesses that are shown for people; JSON has all.
const SHOWN: usize = 10;

/// Arguments of `reputation`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Provider, as `aitbc find` names it; a line for each that is known if not given
    peer: Option<NodeId>,
}

/// Runs the command.
pub(super) async fn run(global: &Global, args: &Args) -> Outcome {
    let path = args.peer.map_or_else(|| "reputation".to_owned(), |peer| format!("reputation?peer={peer}"));
    let document: Value = Client::new(global)?.get(&path).await?;
    output::print(global.json, &document, || {
        let providers = document["providers"].as_array().map(Vec::as_slice).unwrap_or_default();
        if args.peer.is_some() {
            for line in providers.iter().flat_map(lines) {
                println!("{line}");
            }
            return;
        }
        if providers.is_empty() {
            println!("no provider is known: `aitbc status` tells whether this node has peers");
        }
        for provider in providers {
            println!("{}", summary(provider));
        }
    })
}

fn percent(share: &Value) -> String {
    share.as_f64().map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", share / 10_000.0))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

/// The last characters of a peer's name.
fn short(peer: &Value) -> &str {
    let peer = text(peer);
    &peer[peer.len().saturating_sub(8)..]
}

fn summary(provider: &Value) -> String {
    let others = provider["witnesses"].as_array().map_or(0, Vec::len);
    let slashed =
        provider["faults"].as_array().is_some_and(|faults| faults.iter().any(|fault| fault["stands"] == true));
    format!(
        "{}  {:<8} {:>7}  {} own jobs, {others} others{}",
        text(&provider["provider"]),
        text(&provider["tier"]),
        percent(&provider["score"]),
        count(&provider["own"]["jobs"]),
        if slashed { ", FAULT" } else { "" },
    )
}

/// Why there is no score, in words.
fn unrated(why: &Value) -> Option<String> {
    let why: aitbc_protocol::qos::Unrated = serde_json::from_value(why.clone()).ok()?;
    Some(why.to_string())
}

fn lines(provider: &Value) -> Vec<String> {
    let mut lines = vec![format!(
        "{}  {}{}",
        text(&provider["provider"]),
        text(&provider["tier"]),
        provider["score"].as_f64().map_or_else(String::new, |_| format!(", {}", percent(&provider["score"])))
    )];
    for fault in provider["faults"].as_array().into_iter().flatten() {
        let what: Option<Fault> = serde_json::from_value(fault["fault"].clone()).ok();
        let what = what.map_or_else(|| text(&fault["fault"]).to_owned(), |fault| fault.to_string());
        let until = output::utc(count(&fault["until_ms"]));
        let stands = if fault["stands"] == true { "gets no jobs of this node until" } else { "was over" };
        lines.push(format!("fault         {what}: {stands} {until}"));
    }
    lines.extend(unrated(&provider["unrated"]).map(|why| format!("unrated       {why}")));
    for part in provider["parts"].as_array().into_iter().flatten() {
        let name = text(&part["component"]).replace('_', " ");
        let voices = count(&part["voices"]);
        let by = match (name.as_str(), part["value"].is_null()) {
            (_, true) => "not known".to_owned(),
            ("power efficiency" | "cost efficiency", _) => "by its offer, beside others".to_owned(),
            _ => format!("by the word of {voices}"),
        };
        let weight = if part["value"].is_null() { "-".to_owned() } else { percent(&part["ppm"]) };
        lines.push(format!("{name:<17} {:>8}  weighs {weight:>7}, {by}", percent(&part["value"])));
    }
    let own = &provider["own"];
    lines.push(if own.is_null() {
        "own jobs      none in the last day".to_owned()
    } else {
        format!("own jobs      {} for {} micro-credits: {}", count(&own["jobs"]), count(&own["paid"]), told(own))
    });
    if let (Some(heard), Some(of)) = (provider["heard"]["heard"].as_u64(), provider["heard"]["of"].as_u64()) {
        lines.push(format!("heard         in {heard} of {of} slots of two minutes"));
    }
    let witnesses = provider["witnesses"].as_array().map(Vec::as_slice).unwrap_or_default();
    lines.push(format!(
        "others        {}; strangers together weigh as one job of this node, {} micro-credits",
        witnesses.len(),
        count(&provider["job"])
    ));
    for witness in witnesses.iter().take(SHOWN) {
        let through = match &witness["through"] {
            Value::String(through) if through == "direct" => "settled with it".to_owned(),
            Value::Object(over) if over.contains_key("over") => format!("over …{}", short(&over["over"])),
            _ => "stranger".to_owned(),
        };
        lines.push(format!(
            "  …{}    weighs {}.{:03} ({through}): {} jobs, {}",
            short(&witness["author"]),
            count(&witness["weight"]) / 1_000,
            count(&witness["weight"]) % 1_000,
            count(&witness["jobs"]),
            told(witness)
        ));
    }
    if witnesses.len() > SHOWN {
        lines.push(format!("  {} more: --json shows them", witnesses.len() - SHOWN));
    }
    lines
}

/// What somebody tells, in words.
fn told(testimony: &Value) -> String {
    format!(
        "latency {}, accuracy {}, uptime {}",
        percent(&testimony["latency"]),
        percent(&testimony["accuracy"]),
        percent(&testimony["uptime"])
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reputation::{Beside, OwnJob, Reputation};
    use aitbc_protocol::Digest;

    #[test]
    fn a_reputation_in_words() {
        let (reputation, provider) = (Reputation::new(NodeId([9; 32])), NodeId([1; 32]));
        let shown = |reputation: &Reputation| {
            let beside = Beside { power: None, cost: Some(500_000) };
            let report = reputation.report(provider, beside, 1_000_000);
            let value = serde_json::to_value(report).unwrap();
            (summary(&value), lines(&value).join("\n"))
        };
        for n in 0..2 {
            let job = OwnJob { job: Digest([n; 32]), total: 400, latency: Some(800_000), verified: Some(true) };
            reputation.job(provider, job, 1_000_000);
        }
        let (line, all) = shown(&reputation);
        assert!(line.ends_with("  unrated        -  2 own jobs, 0 others"), "{line}");
        let words = all.split_whitespace().collect::<Vec<_>>().join(" ");
        for told in [
            "unrated 2 of 3 jobs are known",
            "latency 80.0 % weighs 46.2 %, by the word of 1",
            "uptime - weighs -, not known",
            "cost efficiency 50.0 % weighs 15.4 %, by its offer, beside others",
            "own jobs 2 for 800 micro-credits: latency 80.0 %, accuracy 100.0 %, uptime -",
        ] {
            assert!(words.contains(told), "{told} in\n{all}");
        }
        let job = OwnJob { job: Digest([9; 32]), total: 400, latency: Some(1_000_000), verified: None };
        reputation.job(provider, job, 1_000_000);
        let (line, all) = shown(&reputation);
        assert!(line.contains("gold") && all.contains("gold, "), "{line}\n{all}");
        assert!(!all.contains("unrated"), "{all}");
        reputation.convict(provider, Fault::Receipts, None, 1_000_000);
        let (_, all) = shown(&reputation);
        let fault = all.lines().find(|line| line.starts_with("fault")).expect("it is told");
        assert!(
            fault.ends_with(
                "it signed two different receipts for one quote: gets no jobs of this node until 1970-01-31 00:16 UTC"
            ),
            "{fault}"
        );
    }
}
