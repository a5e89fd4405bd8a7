//! `aitbc bench network`: what goes over the line of the running node.

use crate::cli::{Global, Outcome, client::Client, output};
use aitbc_protocol::NodeId;
use serde_json::Value;

/// Runs the command.
pub(super) async fn run(global: &Global, peer: Option<NodeId>) -> Outcome {
    if !global.json {
        eprintln!("measuring: a few seconds, half a minute at most");
    }
    let found: Value = Client::new(global)?.ask("bandwidth", &serde_json::json!({ "peer": peer })).await?;
    output::print(global.json, &found, || {
        println!("up       {:.1} MiB/s", mib(&found["up"]));
        println!("down     {:.1} MiB/s", mib(&found["down"]));
        println!("with     {}", found["with"].as_str().unwrap_or("-"));
        println!("{}", verdict(&found));
        if found["counts"] == false {
            println!("not kept that peer is in the same home, so this is the home's network and not its line");
        }
    })
}

/// Bytes in mebibytes.
pub(in crate::cli) fn mib(bytes: &Value) -> f64 {
    bytes.as_f64().unwrap_or_default() / f64::from(1 << 20)
}

/// Whether that is what is asked of a provider, and what to change.
pub(in crate::cli) fn verdict(line: &Value) -> String {
    let required = mib(&line["required"]);
    if line["enough"] == true {
        format!("enough   a provider should have {required:.1} MiB/s each way (`provide.min_bandwidth_mib`)")
    } else {
        format!(
            "slow     a provider should have {required:.1} MiB/s each way: pause what else uses the line, use a cable instead of \
             Wi-Fi, measure with another peer, or lower `provide.min_bandwidth_mib`"
        )
    }
}
