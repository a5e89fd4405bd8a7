//! Graphics drivers crash now and then, and some take the process with them: whatever goes through one runs in a child of
//! this same binary, and its end is a reason and not the end of the node.

use super::{adapters::Adapter, compute::rates::What};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{io, path::Path, process::Stdio, time::Duration};
use tokio::{io::AsyncReadExt as _, process::Command, time::timeout};

/// The hidden command that makes this binary the child.
pub const WORKER_COMMAND: &str = "gpu-worker";

/// How long asking all drivers may take: the first start of one compiles its own shaders.
const LIST_PATIENCE: Duration = Duration::from_secs(30);
/// How long measuring one rate of a GPU may take, however slow it is.
const MEASURE_PATIENCE: Duration = Duration::from_secs(300);
/// Longest answer of the child.
const MAX_ANSWER: u64 = 1 << 20;

/// Why the child brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// It did not start.
    #[error("the process that asks the graphics drivers cannot be started: {0}")]
    Start(#[from] io::Error),
    /// A driver hangs.
    #[error("a graphics driver did not answer within {0:?}: update it, or restart the machine")]
    Hangs(Duration),
    /// A driver crashed.
    #[error("a graphics driver crashed ({0}): update or reinstall it")]
    Crashed(String),
    /// The GPU does not do what was asked.
    #[error("{0}")]
    Failed(String),
}

/// What the child says on its output, as its only line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer<T> {
    Ok(T),
    Failed(String),
}

/// What every graphics interface tells.
pub async fn adapters(binary: &Path) -> Result<Vec<Adapter>, WorkerError> {
    ask(binary, &["adapters"], LIST_PATIENCE).await
}

/// Measures one rate of the adapter of this place in the list of [`adapters`], as [`super::compute::rates::rate`] does:
/// each in a child of its own, so that a driver that fails at one hides no other.
pub async fn rate(binary: &Path, index: usize, what: What) -> Result<Option<f64>, WorkerError> {
    ask(binary, &["rate", &index.to_string(), what.word()], MEASURE_PATIENCE).await
}

async fn ask<T: DeserializeOwned>(
    binary: &Path,
    arguments: &[&str],
    patience: Duration,
) -> Result<T, WorkerError> {
    let mut child = Command::new(binary)
        .arg(WORKER_COMMAND)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // Drivers print what they like.
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let stdout = child.stdout.take().expect("stdout is piped");
    let talk = async {
        let mut answer = Vec::new();
        stdout.take(MAX_ANSWER).read_to_end(&mut answer).await?;
        Ok::<_, io::Error>((answer, child.wait().await?))
    };
    let (answer, status) = timeout(patience, talk).await.map_err(|_| WorkerError::Hangs(patience))??;
    match serde_json::from_slice(&answer) {
        Ok(Answer::Ok(answer)) => Ok(answer),
        Ok(Answer::Failed(reason)) => Err(WorkerError::Failed(reason)),
        Err(_) => Err(WorkerError::Crashed(status.to_string())),
    }
}
