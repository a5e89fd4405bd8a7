//! `aitbc doctor --provider`: why this node gets no more jobs, and what one change would win the most.

use super::super::{Exit, Global, Outcome, client::Client, output};
use aitbc_protocol::competition::{Change, Comparison, Gain, Lack, Lost};
use serde_json::Value;

/// Runs the command.
pub(super) async fn run(global: &Global) -> Outcome {
    let client = Client::new(global)?;
    let competition: Value = client.get("competition").await?;
    let status: Value = client.get("status").await?;
    let comparison: Option<Comparison> = serde_json::from_value(competition["comparison"].clone())
        .map_err(|error| Exit::message(format_args!("the node answers in another form: {error}")))?;
    let reasons = reasons(&competition, &status, comparison.as_ref());
    let document = serde_json::json!({
        "schema": "aitbc.doctor.provider/1",
        "competition": competition,
        "reachability": status["reachability"],
        "reasons": reasons,
    });
    output::print(global.json, &document, || people(&competition, comparison.as_ref(), &reasons))
}

/// What keeps work away, what weighs most first.
fn reasons(competition: &Value, status: &Value, comparison: Option<&Comparison>) -> Vec<String> {
    let mut reasons = Vec::new();
    if let Some(waiting) = competition["waiting_for"].as_str() {
        reasons.push(format!("nothing is offered: {waiting}"));
    }
    if status["reachability"]["verdict"] == "private" {
        let reason = status["reachability"]["reason"].as_str().unwrap_or("no node could connect to it");
        reasons.push(format!(
            "others reach this node through relays or not at all ({reason}): forward the port at the router, see `aitbc netcheck`"
        ));
    }
    if status["peers"].as_u64() == Some(0) {
        reasons.push("no other node is connected: set `bootstrap` to the address of one that is up".to_owned());
    }
    for (reason, count) in competition["requests"]["refused"].as_object().into_iter().flatten() {
        if let Some(remedy) = remedy(reason) {
            reasons.push(format!("{count} requests were refused since the start ({reason}): {remedy}"));
        }
    }
    let requests = |key: &str| competition["requests"][key].as_u64().unwrap_or_default();
    let (quoted, ended) = (requests("quoted"), requests("ended"));
    if quoted > ended {
        reasons.push(format!(
            "{} of {quoted} quotes were not taken: others were cheaper or quicker for the same job, or it was given up",
            quoted - ended
        ));
    }
    let Some(comparison) = comparison else { return reasons };
    if comparison.neighbours == 0 {
        reasons.push(
            "no other provider is heard in this cell: whoever asks near here should find this one first"
                .to_owned(),
        );
    } else if comparison.jobs == 0 {
        reasons.push("no provider in this cell has work now: there is no demand to win".to_owned());
    }
    for Lost { lack, millijobs } in &comparison.lost {
        reasons.push(format!("{} of the jobs that others in this cell have {}", jobs(*millijobs), went(*lack)));
    }
    if comparison.better_attested > 0 {
        reasons.push(format!(
            "{} of those with work have shown more of their hardware: clients who ask for trust go there (`aitbc attest run`)",
            comparison.better_attested
        ));
    }
    reasons
}

/// Thousandths of a job in words.
fn jobs(millijobs: u64) -> String {
    let (whole, rest) = (millijobs / 1_000, millijobs % 1_000 / 100);
    if rest == 0 { whole.to_string() } else { format!("{whole}.{rest}") }
}

const fn went(lack: Lack) -> &'static str {
    match lack {
        Lack::Nothing => "could as well have come here: this node ranks as high",
        Lack::Model => "are for models that this node does not serve",
        Lack::Slots => "went where a slot was free: all of this node's are taken",
        Lack::Price => "went where it is cheaper",
        Lack::Speed => "went where the answer comes sooner: a faster card, or a smaller quantisation of the model",
    }
}

/// What an owner can do about refusals of this kind; nothing where they are the client's doing.
fn remedy(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "unknown_model" => "serve the models that are asked for (`aitbc models pull`, `provide.models`)",
        "full" => "raise `provide.slots` if the card has room",
        "context_too_small" => "raise `provide.context`",
        "engine_unavailable" => "the engine was loading, paused or down: `aitbc status` says why",
        "unsupported" => "the engine lacks a feature that was asked for",
        _ => return None,
    })
}

fn people(competition: &Value, comparison: Option<&Comparison>, reasons: &[String]) {
    let count = |value: &Value| value.as_u64().unwrap_or_default();
    println!(
        "cell       {}: {} other providers with {} jobs; here {} running, {} waiting",
        competition["cell"].as_str().unwrap_or("none, nothing is offered"),
        comparison.map_or(0, |comparison| comparison.neighbours),
        comparison.map_or(0, |comparison| comparison.jobs),
        count(&competition["load"]["running"]),
        count(&competition["load"]["queued"]),
    );
    println!(
        "requests   {} quotes given and {} jobs run since the start",
        count(&competition["requests"]["quoted"]),
        count(&competition["requests"]["ended"])
    );
    for reason in reasons {
        println!("why        {reason}");
    }
    match comparison.map(|comparison| comparison.gains.as_slice()) {
        Some([Gain { change, millijobs }, others @ ..]) => {
            println!("change     {change}: would win {} of those jobs", jobs(*millijobs));
            for Gain { change, millijobs } in
                others.iter().filter(|gain| !matches!(gain.change, Change::Price { .. }))
            {
                println!("or         {change}: {}", jobs(*millijobs));
            }
        }
        Some([]) => println!("change     no single setting would win work that others in this cell have now"),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_keeps_work_away_is_said_with_its_remedy() {
        let competition = json!({
            "waiting_for": null,
            "requests": {"quoted": 5, "ended": 2, "refused": {"unknown_model": 3, "debt": 9}},
        });
        let comparison = Comparison {
            neighbours: 2,
            jobs: 3,
            lost: vec![Lost { lack: Lack::Price, millijobs: 1_500 }],
            gains: vec![],
            better_attested: 1,
        };
        let status = json!({"peers": 4, "reachability": {"verdict": "private", "reason": "behind a NAT"}});
        let told = reasons(&competition, &status, Some(&comparison));
        for expected in
            ["netcheck", "3 requests were refused", "3 of 5 quotes", "1.5 of the jobs", "cheaper", "attest run"]
        {
            assert!(told.iter().any(|line| line.contains(expected)), "{expected}: {told:?}");
        }
        assert!(!told.iter().any(|line| line.contains("debt")), "not the owner's to change: {told:?}");
        let idle = json!({"waiting_for": "an engine", "requests": {}});
        assert_eq!(reasons(&idle, &json!({"peers": 1}), None), ["nothing is offered: an engine"]);
    }
}
