//! `aitbc ping`: the round trip to a peer, and the kind of path it takes.

use super::{Exit, Global, Outcome, client::Client, output};
use aitbc_protocol::NodeId;
use serde_json::Value;
use std::time::Duration;

/// Time between two pings.
const INTERVAL: Duration = Duration::from_secs(1);
/// Pings where the arguments do not say: enough to see a trend.
const USUAL_COUNT: u32 = 4;
/// Pings before a direct path is given up, if no number was given: a hole is punched within seconds or not at all.
const COUNT_UNTIL_DIRECT: u32 = 30;

/// Arguments of `ping`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Node, as `aitbc peers` and `aitbc find` name it
    peer: NodeId,
    /// Stop as soon as an answer comes on a direct path; fail if none does
    #[arg(long)]
    until_direct: bool,
    /// Number of pings [default: 4, or 30 with --until-direct]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,
}

/// Runs the command.
pub(super) async fn run(global: &Global, args: Args) -> Outcome {
    let client = Client::new(global)?;
    let usual = if args.until_direct { COUNT_UNTIL_DIRECT } else { USUAL_COUNT };
    let count = args.count.unwrap_or(usual);
    let body = serde_json::json!({"peer": args.peer});
    let mut answers = Vec::new();
    let mut last_error = None;
    let mut direct = false;
    for number in 1..=count {
        match client.ask::<Value>("ping", &body).await {
            Ok(answer) => {
                let path = answer["path"].as_str().unwrap_or("closed");
                direct = !matches!(path, "relayed" | "closed");
                if !global.json {
                    println!(
                        "{number}: {:.1} ms, {path}, {}",
                        answer["round_trip_ms"].as_f64().unwrap_or_default(),
                        answer["address"].as_str().unwrap_or("-"),
                    );
                }
                answers.push(answer);
            }
            Err(error) => {
                if !global.json {
                    eprintln!("{number}: {error}");
                }
                last_error = Some(error);
            }
        }
        if number == count || (args.until_direct && direct) {
            break;
        }
        tokio::time::sleep(INTERVAL).await;
    }
    if global.json {
        let document = serde_json::json!({
            "schema": "aitbc.ping/1", "peer": args.peer, "direct": direct, "answers": answers,
        });
        output::print(true, &document, || {})?;
    }
    match last_error {
        Some(error) if answers.is_empty() => Err(error),
        _ if args.until_direct && !direct => Err(Exit::timeout(format_args!(
            "no direct path to {} after {count} pings: `aitbc netcheck` tells what this node's NAT allows; over a relay \
             the node works all the same",
            args.peer.short()
        ))),
        _ => Ok(()),
    }
}
