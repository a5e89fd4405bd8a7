//! Provider side: offers, quotes, admission, running jobs, settling.
//!
//! ```text
//!   network (streams of one protocol each)      engine, addresses, peers
//!      |            |                                    |
//!   intake       intake      a task a stream         announce    offers, heartbeats, DHT
//!      |            |
//!   quotes    admission -- settle, resuming
//!      |            |         |
//!      |           run -------+     one loop a job: engine events out, cheques in, over one stream after the other
//!      |            |         |
//!     desk --------desk     ledger      slots promised and taken; money
//! ```
//!
//! Everything a peer can make this side hold is bounded: streams by [`crate::network::intake`], slots by [`desk`],
//! unpaid tokens by [`delivery`]. Prompts and answers live in the memory of one job's task and nowhere else.

use self::{
    announce::{Announced, Announcer},
    desk::Desk,
    metrics::JobMetrics,
    place::Place,
    provider::Provider,
};
pub use self::{metrics::Requests, place::CellLoad};
use crate::{
    engine::{EngineHandle, EngineModel},
    gpu::power::{self, PowerConfig, PowerError, PowerParts, PowerState},
    market::Ledger,
    network::{
        IncomingStream, NetworkHandle,
        intake::{self, Limits},
    },
    storage::Store,
    telemetry::Metrics,
    trust::Vouched,
};
use aitbc_crypto::SecretKey;
use aitbc_protocol::{
    MicroCredits, NetworkId, NodeId, Signed,
    bandwidth::Bandwidth,
    coordinates,
    evidence::Evidence,
    geo::Cell,
    gpu::challenge::exchange::Shown,
    job::ModelName,
    offer::{Device, DeviceKind, Load, Offer, Statements},
    price::TokenPrice,
};
use serde::Serialize;
use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

mod admission;
mod announce;
mod delivery;
mod desk;
mod estimate;
mod limits;
mod metrics;
mod place;
mod provider;
mod quotes;
mod resuming;
mod resumption;
mod run;
mod settle;
#[cfg(test)]
pub(crate) mod tests;

/// How long a peer may take to send the first message of a stream.
const FIRST_MESSAGE: Duration = Duration::from_secs(10);
/// How long a peer may take to read a short answer.
const SHORT_ANSWER: Duration = Duration::from_secs(5);
/// How long an engine may take to count tokens or to take a job into its queue.
const ENGINE_ANSWER: Duration = Duration::from_secs(10);
/// Prompts counted at a time: tokenizing is quick, and the engine has other things to do.
const COUNTING: usize = 4;

/// Quotes: up to a megabyte of prompt each, so 32 MB at most are held. Twenty a second serve a busy client.
const QUOTE_LIMITS: Limits = Limits { streams: 32, per_peer: 8, burst: 40, interval: Duration::from_millis(50) };
/// Job streams beyond those that hold a slot: being opened, waiting for the last cheque, settling. The limits of all
/// three protocols together stay below those of the network ([`StreamLimits`]), which refuses without a word.
///
/// [`StreamLimits`]: crate::network::streams::StreamLimits
const SPARE_JOB_STREAMS: usize = 32;
/// The same for one peer.
const SPARE_JOB_STREAMS_OF_PEER: usize = 8;

fn job_limits(slots: u32) -> Limits {
    let slots = slots as usize;
    Limits {
        streams: slots + SPARE_JOB_STREAMS,
        per_peer: slots + SPARE_JOB_STREAMS_OF_PEER,
        burst: 40,
        interval: Duration::from_millis(50),
    }
}

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
    /// Price of every private model without one of its own: for a thousand values and a thousand bootstraps.
    pub private_price: TokenPrice,
    /// Prices of single models.
    pub prices: BTreeMap<ModelName, TokenPrice>,
    /// Whether the hours that prices go by are those of this machine's own clock, and not of UTC.
    pub local_hours: bool,
    /// What clients that have settled nothing may owe in a day, all together; a share of what this node can earn if not
    /// set.
    pub strangers: Option<MicroCredits>,
    /// Limits of heat, power and time, and the owner's own use.
    pub power: PowerConfig,
    /// What was measured on the GPUs ([`crate::gpu::kept`]); a file that is not there stands for nothing.
    pub gpu_rates: PathBuf,
    /// How long a job waits for a cheque at an unpaid window before it is ended.
    pub payment_patience: Duration,
}

impl JobsConfig {
    /// What the owner asks for `model`, and never less for an answer than its electricity costs.
    fn price_of(&self, model: &EngineModel, power: &PowerState) -> TokenPrice {
        let usual = if model.private.is_some() { self.private_price } else { self.price };
        let price = self.prices.get(&model.model).copied().unwrap_or(usual);
        TokenPrice { completion: price.completion.max(electricity_of(model, power)), ..price }
    }
}

/// What the electricity for a thousand tokens of `model` costs; nothing where it is not known, as of a server elsewhere and of
/// the processor.
fn electricity_of(model: &EngineModel, power: &PowerState) -> MicroCredits {
    let on_gpu = !model.declared && model.device.kind == DeviceKind::Gpu;
    if on_gpu { power.electricity(model.speed) } else { MicroCredits::ZERO }
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
    /// Waiting for its client, whose path was lost.
    pub parked: bool,
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
    /// Heat, power and the owner's use, and what they allow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power: Option<Arc<PowerState>>,
}

/// Reads the provider side. Cheap to clone.
#[derive(Clone, Debug)]
pub struct JobsHandle {
    desk: Desk,
    announced: watch::Receiver<Announced>,
    power: watch::Receiver<Arc<PowerState>>,
    metrics: JobMetrics,
}

impl JobsHandle {
    /// What came of the requests of others since the start.
    pub(crate) fn requests(&self) -> Requests {
        self.metrics.requests()
    }

    /// Heat, power and the owner's use, as they change.
    pub(crate) fn power(&self) -> watch::Receiver<Arc<PowerState>> {
        self.power.clone()
    }

    /// How many jobs run and wait, as it changes.
    pub(crate) fn load(&self) -> watch::Receiver<Load> {
        self.desk.load()
    }

    /// The provider side as it is now.
    pub fn snapshot(&self) -> Arc<JobsSnapshot> {
        let announced = self.announced.borrow().clone();
        Arc::new(JobsSnapshot {
            running: self.desk.running(),
            queued: self.desk.load().borrow().queued,
            offer: announced.offer,
            waiting_for: announced.waiting_for,
            power: Some(self.power.borrow().clone()),
        })
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
    /// Takes what clients sign that speaks against them.
    pub accuse: mpsc::Sender<Evidence>,
    /// Keeps sequence numbers.
    pub store: Store,
    /// Where the newest signed offer goes, for whoever tells others.
    pub own_offer: watch::Sender<Option<Statements>>,
    /// What verifiers have signed about this node's memory, for the offer.
    pub shown: watch::Receiver<Vec<Signed<Shown>>>,
    /// What verifiers have signed about its hardware, and what it proves, for the offer.
    pub vouched: watch::Receiver<Vouched>,
    /// What was measured of this node's line, for the offer.
    pub line: watch::Receiver<Option<Bandwidth>>,
    /// Where this node is among round trips, for the offer.
    pub round_trips: watch::Receiver<coordinates::Place>,
    /// How busy the other providers of its cell are, for prices.
    pub cell_load: CellLoad,
    /// The process that answers a challenge on a GPU now.
    pub proving: watch::Receiver<Option<u32>>,
    /// `/aitbc/quote/1`.
    pub quote_streams: mpsc::Receiver<IncomingStream>,
    /// `/aitbc/job/1`.
    pub job_streams: mpsc::Receiver<IncomingStream>,
}

/// Starts the provider side: announces offers and serves streams until `stop` is cancelled, then refuses new jobs,
/// lets running ones end for `drain`, and fails the rest with receipts for what they delivered. The returned task ends
/// when all that is done.
pub async fn start(
    config: JobsConfig,
    parts: JobsParts,
    metrics: &Metrics,
    stop: CancellationToken,
    drain: Duration,
) -> Result<(JobsHandle, tokio::task::JoinHandle<()>), PowerError> {
    let desk = Desk::new(config.slots);
    let engines = parts.engine.status();
    let proving = parts.proving.clone();
    let uses = Box::new(move || limits::uses(&engines.borrow(), *proving.borrow()));
    let power_parts = PowerParts { uses, load: desk.load(), slots: config.slots };
    // It goes on until the last job has ended, which may be after `stop`.
    let watching = CancellationToken::new();
    let guard = watching.clone().drop_guard();
    let (power, watch) = power::start(config.power.clone(), power_parts, metrics, watching).await?;
    let (announced, reader) = watch::channel(Announced::default());
    let metrics = JobMetrics::new(metrics);
    let handle =
        JobsHandle { desk: desk.clone(), announced: reader, power: power.clone(), metrics: metrics.clone() };
    let around = Around { metrics, desk, power, announced };
    let task = async move {
        // Drivers are asked once: it may take a while, and cards do not come and go.
        let devices = crate::gpu::inventory::devices(&config.gpu_rates).await;
        provide(config, parts, devices, around, stop, drain).await;
        drop(guard);
        // It ends at its next reading.
        let _ = watch.await;
    };
    Ok((handle, tokio::spawn(task.instrument(tracing::info_span!("jobs")))))
}

/// What the provider side makes for itself.
struct Around {
    metrics: JobMetrics,
    desk: Desk,
    power: watch::Receiver<Arc<PowerState>>,
    announced: watch::Sender<Announced>,
}

/// The same on a machine whose processors are `devices` and that nothing limits: neither sensors nor drivers are asked.
#[cfg(test)]
pub(crate) fn start_unlimited(
    config: JobsConfig,
    parts: JobsParts,
    devices: Vec<Device>,
    metrics: &Metrics,
    stop: CancellationToken,
) -> (JobsHandle, tokio::task::JoinHandle<()>) {
    let desk = Desk::new(config.slots);
    let (limits, power) = watch::channel(Arc::new(PowerState::unlimited(config.slots)));
    let (announced, reader) = watch::channel(Announced::default());
    let metrics = JobMetrics::new(metrics);
    let handle =
        JobsHandle { desk: desk.clone(), announced: reader, power: power.clone(), metrics: metrics.clone() };
    let around = Around { metrics, desk, power, announced };
    let task = async move {
        provide(config, parts, devices, around, stop, Duration::ZERO).await;
        drop(limits);
    };
    (handle, tokio::spawn(task))
}

async fn provide(
    config: JobsConfig,
    parts: JobsParts,
    devices: Vec<Device>,
    around: Around,
    stop: CancellationToken,
    drain: Duration,
) {
    let Around { metrics, desk, power, announced } = around;
    let JobsParts {
        key,
        network,
        engine,
        ledger,
        accuse,
        store,
        own_offer,
        shown,
        vouched,
        line,
        round_trips,
        cell_load,
        proving: _,
        quote_streams,
        job_streams,
    } = parts;
    let place = Place {
        devices: devices.clone(),
        peers: network.peers(),
        cell: cell_load,
        local_hours: config.local_hours,
    };
    let announcer = Announcer {
        config: config.clone(),
        key: key.clone(),
        network,
        store,
        devices,
        engines: engine.status(),
        load: desk.load(),
        power: power.clone(),
        shown,
        vouched,
        line,
        round_trips,
        announced,
        statements: own_offer,
    };
    let job_limits = job_limits(config.slots);
    let closing = CancellationToken::new();
    let obeying = tokio::spawn(limits::obey(power.clone(), desk.clone(), engine.clone()));
    let provider = Arc::new(Provider {
        me: key.node_id(),
        config,
        key,
        accuse,
        engine,
        ledger,
        desk,
        metrics,
        counting: Semaphore::new(COUNTING),
        power,
        place,
        stop: stop.clone(),
        closing: closing.clone(),
    });
    let quotes = intake::serve(quote_streams, QUOTE_LIMITS, closing.clone(), |incoming, turn| {
        quotes::serve(Arc::clone(&provider), incoming, turn)
    });
    let jobs = intake::serve(job_streams, job_limits, closing.clone(), |incoming, turn| {
        admission::serve(Arc::clone(&provider), incoming, turn)
    });
    let stopping = async {
        stop.cancelled().await;
        let mut load = provider.desk.load();
        let idle = load.wait_for(|load| load.running == 0 && load.queued == 0);
        if tokio::time::timeout(drain, idle).await.is_err() {
            tracing::warn!("jobs that still run are ended: they had {drain:?}");
        }
        closing.cancel();
    };
    tokio::join!(announcer.run(stop.clone()), quotes, jobs, stopping);
    obeying.abort();
}
