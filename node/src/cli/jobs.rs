//! `aitbc jobs`: jobs of this node, newest first.

use super::{Global, Outcome, client::Client, output};

/// Arguments of `jobs`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Most jobs to list
    #[arg(long, short = 'n', default_value_t = 20)]
    limit: usize,
}

/// Runs the command.
pub(super) async fn run(global: &Global, args: Args) -> Outcome {
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
