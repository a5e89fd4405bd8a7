//! `aitbc jobs`: jobs of this node, newest first.

use super::{Global, Outcome, client::Client, output};

/// Arguments of `jobs`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Most jobs to list
    #[arg(long, short = 'n', default_value_t = 20)]
    limit: usize,
    /// Show where jobs went, what was expected of that and what came, since the node's start
    #[arg(long)]
    decisions: bool,
}

/// Where jobs went, newest first.
async fn decisions(global: &Global, limit: usize) -> Outcome {
    let document: serde_json::Value = Client::new(global)?.get(&format!("decisions?limit={limit}")).await?;
    output::print(global.json, &document, || {
        match document["error"].as_f64() {
            Some(error) => println!(
                "predictions are typically {:.0} % off, over {} answers",
                error * 100.0,
                document["answers"]
            ),
            None => println!("no answer was held against its prediction yet"),
        }
        for decision in document["decisions"].as_array().into_iter().flatten() {
            let text = |value: &serde_json::Value| value.as_str().unwrap_or("-").to_owned();
            let chosen = &decision["chosen"];
            let place = match (chosen["provider"].as_str(), chosen["host"].as_str()) {
                (Some(provider), _) => provider.to_owned(),
                (None, Some(host)) => format!("the cloud {host}"),
                (None, None) => "own device".to_owned(),
            };
            let beside = decision["beside"].as_str().map(|late| format!(" beside {late}")).unwrap_or_default();
            let ms = |value: &serde_json::Value| {
                value.as_f64().map_or_else(|| "-".to_owned(), |ms| format!("{ms:.0} ms"))
            };
            let (outcome, came) = (&decision["outcome"], &decision["outcome"]["came"]);
            println!(
                "{}  {place}{beside}  {} among {} ({} ruled out), first {} of {} expected, whole {} of {} expected, {}{}  {}",
                text(&decision["job"]),
                text(&decision["policy"]),
                decision["among"],
                decision["ruled_out"],
                ms(&came["first_ms"]),
                ms(&decision["predicted"]["first_ms"]),
                ms(&came["whole_ms"]),
                ms(&came["predicted_ms"]),
                text(&outcome["end"]),
                outcome["reason"].as_str().map(|why| format!(" ({why})")).unwrap_or_default(),
                output::ago(decision["at_ms"].as_u64().unwrap_or_default()),
            );
        }
    })
}

/// Runs the command.
pub(super) async fn run(global: &Global, args: Args) -> Outcome {
    if args.decisions {
        return decisions(global, args.limit).await;
    }
    let document: serde_json::Value = Client::new(global)?.get(&format!("jobs?limit={}", args.limit)).await?;
    output::print(global.json, &document, || {
        let jobs = document["jobs"].as_array().map(Vec::as_slice).unwrap_or_default();
        let cloud = document["cloud"].as_array().map(Vec::as_slice).unwrap_or_default();
        if jobs.is_empty() && cloud.is_empty() {
            println!("no jobs yet");
        }
        for job in cloud {
            let text = |value: &serde_json::Value| value.as_str().unwrap_or("-").to_owned();
            println!(
                "{}  {:8}  {:16} {:24} {:>6} tokens  {:>10} uc  {}{}",
                text(&job["job"]),
                "cloud",
                text(&job["end"]["state"]),
                text(&job["model"]),
                job["tokens"],
                job["cost"],
                output::ago(job["created_ms"].as_u64().unwrap_or_default()),
                job["end"]["failure"].as_str().map(|why| format!("  ({why})")).unwrap_or_default(),
            );
        }
        for job in jobs {
            let text = |field: &str| job[field].as_str().unwrap_or("-").to_owned();
            println!(
                "{}  {:8}  {:16} {:24} {:>6} tokens  {:>10} uc  {}{}",
                text("job"),
                text("side"),
                text("state"),
                text("model"),
                job["tokens"].as_u64().unwrap_or_default(),
                job["paid"].as_u64().unwrap_or_default(),
                output::ago(job["created_ms"].as_u64().unwrap_or_default()),
                job["failure"].as_str().map(|why| format!("  ({why})")).unwrap_or_default(),
            );
        }
    })
}
