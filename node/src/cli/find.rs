//! `aitbc find`: providers of a model, nearest first, with their ranking.

use super::{
    Exit, Global, Outcome,
    client::{Client, Line},
    narrate, output,
};
use crate::routing::RankedCandidate;
use aitbc_protocol::{geo::Location, job::ModelName};

/// Arguments of `find`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Model; any if not given
    model: Option<ModelName>,
    /// Near this place instead of the node's own
    #[arg(long, value_name = "LATITUDE,LONGITUDE", allow_hyphen_values = true)]
    near: Option<Location>,
    /// Largest round trip in milliseconds
    #[arg(long, value_name = "MS")]
    latency: Option<u32>,
}

/// Runs the command.
pub(super) async fn run(global: &Global, args: Args) -> Outcome {
    let client = Client::new(global)?;
    let body = serde_json::json!({"model": args.model, "location": args.near, "latency_budget_ms": args.latency});
    let mut ranking: Option<Vec<RankedCandidate>> = None;
    let json = global.json;
    let narrator = narrate::Narrator::default();
    client
        .stream("find", &body, |line| {
            match line {
                Line::Update(update) if !json => narrator.progress(&update),
                Line::Other(mut value) if value["event"] == "ranking" => {
                    ranking = Some(serde_json::from_value(value["candidates"].take())?);
                }
                _ => {}
            }
            Ok(())
        })
        .await?;
    let ranking = ranking.ok_or_else(|| Exit::message("the node ended the search without a ranking"))?;
    let document = serde_json::json!({"schema": "aitbc.find/1", "candidates": ranking});
    output::print(global.json, &document, || narrate::ranking(&ranking))?;
    if ranking.iter().all(|candidate| candidate.excluded.is_some()) {
        let message = match (ranking.is_empty(), &args.model) {
            (true, Some(model)) => {
                format!("nobody near offers {model}; `aitbc status` tells whether this node has peers")
            }
            (true, None) => {
                "nobody near offers anything; `aitbc status` tells whether this node has peers".to_owned()
            }
            (false, _) => "every provider found is ruled out, for the reasons above".to_owned(),
        };
        let model = args.model.unwrap_or_default();
        return Err(crate::routing::JobFailure::NoProvider { model, message, ruled_out: Vec::new() }.into());
    }
    Ok(())
}
