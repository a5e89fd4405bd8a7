//! `aitbc down`: stops the running node.

use super::{Exit, Global, Outcome, client::Client, output};
use std::time::{Duration, Instant};

/// How long a node may take to end its jobs and leave.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the command.
pub(super) async fn run(global: &Global) -> Outcome {
    let client = Client::new(global)?;
    client.post("shutdown").await?;
    let started = Instant::now();
    // The API leaves among the first; the key's lock on the database is the last, but only the port can be watched.
    while tokio::net::TcpStream::connect(client.address()).await.is_ok() {
        if started.elapsed() > PATIENCE {
            return Err(Exit::message(format_args!(
                "the node was asked to stop and still runs after {PATIENCE:?}"
            )));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    output::print(global.json, &serde_json::json!({"schema": "aitbc.down/1", "stopped": true}), || {
        println!("stopped");
    })
}
