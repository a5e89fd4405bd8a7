//! `aitbc doctor --provider`: why this node gets no more jobs, and what one change would win the most.

use super::super::{Exit, Global, Outcome, client::Client, output};
use aitbc_protocol::competition::{Change, Comparison, Dimension, Figure, Gain, Lack, Lost, Row, Verdict};
use serde_json::Value;
use std::mem::discriminant;

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
    let relayed = |row: &Row| row.dimension == Dimension::Reachability && row.verdict == Verdict::Behind;
    if comparison.rows.iter().any(relayed) && !comparison.gains.iter().any(|gain| gain.change == Change::Reach) {
        reasons.push(
            "this node offers itself through relays only; as far as round trips are known, no job went elsewhere for that alone"
                .to_owned(),
        );
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
        Lack::Service => "went where the last day was better (`aitbc reputation`)",
        Lack::Reach => "went where no relay makes the way longer",
        Lack::RoundTrip => "went where the round trip is shorter",
        Lack::Trust => "cannot come here: something speaks against this node's hardware (`aitbc attest show`)",
        Lack::Fault => "cannot come here: evidence of a fault stands against this node (`aitbc reputation`)",
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
    let Some(comparison) = comparison else { return };
    for line in table(&comparison.rows) {
        println!("{line}");
    }
    for line in changes(comparison) {
        println!("{line}");
    }
}

fn figure(figure: Option<Figure>) -> String {
    match figure {
        None => "-".to_owned(),
        Some(Figure::Price(price)) => price.to_string(),
        Some(Figure::Milliseconds(ms)) => format!("{ms} ms"),
        Some(Figure::Service(tier)) => tier.to_string(),
        Some(Figure::Reach(reach)) => reach.to_string(),
        Some(Figure::Millijobs(1_000)) => "1 job".to_owned(),
        Some(Figure::Millijobs(millijobs)) => format!("{} jobs", jobs(millijobs)),
        Some(Figure::Trust(tier)) => tier.to_string(),
    }
}

/// This node beside those who have the jobs, a line a dimension under a head; nothing of no rows.
fn table(rows: &[Row]) -> Vec<String> {
    let line = |row: &Row| {
        let verdict = match row.verdict {
            Verdict::Ahead => format!("ahead for {} of the jobs", jobs(row.worse)),
            Verdict::Even => "even".to_owned(),
            Verdict::Behind => format!("behind for {} of the jobs", jobs(row.better)),
            Verdict::Unknown => "nothing to compare".to_owned(),
        };
        format!("{:12} {:18} {:18} {verdict}", row.dimension, figure(row.mine), figure(row.theirs))
    };
    let head =
        (!rows.is_empty()).then(|| format!("{:12} {:18} {:18} verdict", "", "this node", "who has the jobs"));
    head.into_iter().chain(rows.iter().map(line)).collect()
}

/// The change that would win the most, then the best of every other kind, and what a better attestation may win.
fn changes(comparison: &Comparison) -> Vec<String> {
    let mut lines = Vec::new();
    let gains = &comparison.gains;
    for (index, Gain { change, millijobs }) in gains.iter().enumerate() {
        // Every model is a change of its own; of cuts and tiers the best is enough.
        let alike = |gain: &Gain| discriminant(&gain.change) == discriminant(change);
        let one_of_many = matches!(change, Change::Serve { .. } | Change::Speed { .. });
        if index == 0 {
            lines.push(format!("change     {change}: would win {} of those jobs", jobs(*millijobs)));
        } else if one_of_many || !gains[..index].iter().any(alike) {
            lines.push(format!("or         {change}: {}", jobs(*millijobs)));
        }
    }
    if gains.is_empty() {
        lines.push("change     no single change would win work that others in this cell have now".to_owned());
    }
    for Gain { change, millijobs } in &comparison.gains_of_trust {
        lines.push(format!(
            "for trust  {change}: {} at most, if all clients of those who have shown as much asked for it",
            jobs(*millijobs)
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use aitbc_protocol::{attestation, competition::Reach};
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
            rows: vec![Row {
                dimension: Dimension::Reachability,
                mine: Some(Figure::Reach(Reach::Relayed)),
                theirs: Some(Figure::Reach(Reach::Direct)),
                verdict: Verdict::Behind,
                better: 1_500,
                worse: 0,
            }],
            lost: vec![Lost { lack: Lack::Price, millijobs: 1_500 }],
            gains: vec![],
            gains_of_trust: vec![],
            better_attested: 1,
        };
        let status = json!({"peers": 4, "reachability": {"verdict": "private", "reason": "behind a NAT"}});
        let told = reasons(&competition, &status, Some(&comparison));
        for expected in [
            "netcheck",
            "3 requests were refused",
            "3 of 5 quotes",
            "1.5 of the jobs",
            "cheaper",
            "attest run",
            "through relays only",
        ] {
            assert!(told.iter().any(|line| line.contains(expected)), "{expected}: {told:?}");
        }
        assert!(!told.iter().any(|line| line.contains("debt")), "not the owner's to change: {told:?}");
        let idle = json!({"waiting_for": "an engine", "requests": {}});
        assert_eq!(reasons(&idle, &json!({"peers": 1}), None), ["nothing is offered: an engine"]);
    }

    #[test]
    fn both_stand_side_by_side_and_the_best_change_of_each_kind_is_told() {
        let row =
            |dimension, mine, theirs, verdict| Row { dimension, mine, theirs, verdict, better: 2_500, worse: 500 };
        let reach = |reach| Some(Figure::Reach(reach));
        let rows = [
            row(Dimension::Reachability, reach(Reach::Relayed), reach(Reach::Direct), Verdict::Behind),
            row(Dimension::Latency, None, None, Verdict::Unknown),
        ];
        let lines = table(&rows);
        assert_eq!(lines[1], "reachability relayed            direct             behind for 2.5 of the jobs");
        assert_eq!(lines[2], "latency      -                  -                  nothing to compare");
        assert!(table(&[]).is_empty());

        let gain = |change, millijobs| Gain { change, millijobs };
        let tier = attestation::Tier::Affirming;
        let comparison = Comparison {
            neighbours: 1,
            jobs: 3,
            rows: vec![],
            lost: vec![],
            gains: vec![
                gain(Change::Price { percent: 50 }, 2_500),
                gain(Change::Price { percent: 25 }, 1_500),
                gain(Change::Reach, 1_000),
            ],
            gains_of_trust: vec![gain(Change::Attest { tier }, 2_000)],
            better_attested: 1,
        };
        let lines = changes(&comparison);
        let [best, reach, trust] = &lines[..] else { panic!("{lines:?}") };
        assert!(
            best.starts_with("change     lower your prices by 50 %") && best.ends_with("2.5 of those jobs"),
            "{best}"
        );
        assert!(reach.starts_with("or         be reachable without a relay") && reach.ends_with(": 1"), "{reach}");
        assert!(
            trust.starts_with("for trust  ") && trust.contains("affirming") && trust.contains("2 at most"),
            "{trust}"
        );
    }
}
