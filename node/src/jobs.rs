//! Provider side: offers, quotes, admission, running jobs, settling.

use crate::{
    engine::EngineHandle,
    market::Ledger,
    network::{IncomingStream, NetworkHandle},
    storage::Store,
    telemetry::Metrics,
};
use aitbc_crypto::SecretKey;
use aitbc_protocol::{NetworkId, NodeId, geo::Cell, job::ModelName, offer::Offer, quote::TokenPrice};
use serde::Serialize;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// How the provider side is started.
#[derive(Clone, Debug)]
pub struct JobsConfig {
    /// Whose statements count.
    pub network: NetworkId,
    /// The cell announced, as fine as the owner allows.
    pub cell: Cell,
    /// Jobs at a time, over all models.
    pub slots: u32,
    /// Price of every model without one of its own.
    pub price: TokenPrice,
    /// Prices of single models.
    pub prices: BTreeMap<ModelName, TokenPrice>,
    /// How long a job waits for a cheque at an unpaid window before it is ended.
    pub payment_patience: Duration,
}

/// A running job, for `aitbc jobs` and `status`.
#[derive(Clone, Debug, Serialize)]
pub struct RunningJob {
    /// The job.
    pub job: aitbc_protocol::JobId,
    /// Who asked.
    pub client: NodeId,
    /// The model.
    pub model: ModelName,
    /// Tokens delivered.
    pub tokens: u32,
    /// Waiting for a cheque.
    pub paused: bool,
}

/// What others in this process may know of the provider side.
#[derive(Clone, Debug, Default, Serialize)]
pub struct JobsSnapshot {
    /// Running jobs.
    pub running: Vec<RunningJob>,
    /// Jobs admitted and waiting in the engine.
    pub queued: u32,
    /// The newest offer, once there is one.
    pub offer: Option<Arc<Offer>>,
    /// Why there is no offer, or what keeps work away.
    pub waiting_for: Option<String>,
}

/// Reads the provider side. Cheap to clone.
#[derive(Clone, Debug)]
pub struct JobsHandle {
    snapshot: watch::Receiver<Arc<JobsSnapshot>>,
}

impl JobsHandle {
    /// The newest snapshot.
    pub fn snapshot(&self) -> Arc<JobsSnapshot> {
        self.snapshot.borrow().clone()
    }
}

/// What the provider side works with.
#[derive(Debug)]
pub struct JobsParts {
    /// The node's key.
    pub key: SecretKey,
    /// The network.
    pub network: NetworkHandle,
    /// Runs models.
    pub engine: EngineHandle,
    /// Keeps money.
    pub ledger: Ledger,
    /// Keeps sequence numbers.
    pub store: Store,
    /// `/aitbc/offer/1`.
    pub offer_streams: mpsc::Receiver<IncomingStream>,
    /// `/aitbc/quote/1`.
    pub quote_streams: mpsc::Receiver<IncomingStream>,
    /// `/aitbc/job/1`.
    pub job_streams: mpsc::Receiver<IncomingStream>,
}

/// Starts the provider side: announces offers and serves streams until `stop` is cancelled, then refuses new jobs,
/// lets running ones end for `drain`, and fails the rest with receipts for what they delivered. The returned task ends
/// when all that is done.
pub fn start(
    config: JobsConfig,
    parts: JobsParts,
    metrics: &Metrics,
    stop: CancellationToken,
    drain: Duration,
) -> (JobsHandle, tokio::task::JoinHandle<()>) {
    let _ = (config, parts, metrics, stop, drain);
    todo!()
}
