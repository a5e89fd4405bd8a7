//! What runs a model.
//!
//! llama.cpp runs in child processes of this same binary, one a model; an OpenAI-compatible server elsewhere on the
//! machine ([`upstream`]) is another kind, and models that compute on encrypted values ([`fhe`]) the third. All are
//! reached through [`EngineHandle`].
//!
//! ```text
//!   EngineHandle --requests--> supervisor --frames--> child: reader, tokenizer, batcher, llama.cpp
//!        |                          \--status--> board (watch)
//!        +--------------------> upstream: HTTP
//!        +--------------------> fhe: a thread a job
//! ```

mod batch;
mod child;
pub mod fhe;
mod frames;
mod llama;
mod mailbox;
mod metrics;
mod prompt;
mod sampling;
mod sandbox;
mod stops;
mod supervisor;
pub(crate) mod upstream;
mod worker;

use self::{
    child::Spawner,
    fhe::{Fhe, PrivateConfig, Workshop, keys::KeyStore},
    frames::Load,
    metrics::EngineMetrics,
    supervisor::{Hardware, INBOX, Request, Settings, Supervisor},
    upstream::Upstream,
};
use crate::{
    models::{Installed, Kind},
    telemetry::Metrics,
};
use aitbc_protocol::{
    bytes::{BoundedBytes, Digest},
    job::{Finish, JobSpec, Logprobs, MAX_TOKENS, ModelName},
    offer::{Device, Engine},
    private::PrivateOffer,
    sealed::MAX_SEALED_OUTPUT,
    text::Line,
};
use serde::Serialize;
use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

/// Most tokens that a job can be allowed ahead.
pub const MAX_CREDIT: u32 = MAX_TOKENS;

/// The hidden command that makes this binary an engine's child.
pub const WORKER_COMMAND: &str = "engine-worker";

/// How engines are started.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Models to load: in llama.cpp's children, or for private jobs.
    pub models: Vec<Installed>,
    /// Context tokens of each sequence.
    pub context: u32,
    /// Sequences decoded together.
    pub slots: u32,
    /// Threads for the parts that run on the CPU; `None` for the physical cores.
    pub threads: Option<u32>,
    /// Layers to put on the GPU; `None` for all that fit, 0 for none.
    pub gpu_layers: Option<u32>,
    /// Most memory of a child in bytes, beyond the model files, and of evaluation keys.
    pub memory_limit: Option<u64>,
    /// Where evaluation keys of clients are kept.
    pub private: PrivateConfig,
    /// OpenAI-compatible servers that the owner offers.
    pub upstreams: Vec<UpstreamConfig>,
    /// The binary whose command `engine-worker` is the child; `None` for the running one.
    pub worker: Option<PathBuf>,
}

fn one() -> u32 {
    1
}

/// An OpenAI-compatible server that the owner offers to the network.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamConfig {
    /// Base URL up to and including `/v1`, such as `http://127.0.0.1:11434/v1`.
    pub url: String,
    /// Models of it to offer, by its own names.
    pub models: Vec<String>,
    /// Jobs it may run at a time; one if not set.
    #[serde(default = "one")]
    pub slots: u32,
    /// File with its bearer token, if it wants one.
    pub token_file: Option<std::path::PathBuf>,
}

/// A model that is loaded and answers.
#[derive(Clone, Debug, Serialize)]
pub struct EngineModel {
    /// Name under which it is offered.
    pub model: ModelName,
    /// SHA-256 of its weights; of its name where `declared`.
    pub weights: Digest,
    /// What runs it.
    pub engine: Engine,
    /// Quantisation.
    pub quantisation: Line<24>,
    /// Where it truly runs.
    pub device: Device,
    /// Context tokens of a sequence.
    pub context: u32,
    /// Decoding speed of one stream, measured when it was loaded, in milli-tokens a second, or milli-bootstraps; 0 where
    /// unknown.
    pub speed: u32,
    /// True for upstream servers.
    pub declared: bool,
    /// Jobs at a time.
    pub slots: u32,
    /// Set where it computes on encrypted values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private: Option<PrivateOffer>,
}

/// How one engine is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum EngineState {
    /// The process or the model is being loaded.
    Loading {
        /// Share loaded in percent, as far as the engine tells.
        percent: u8,
    },
    /// Jobs run.
    Ready,
    /// It crashed or did not start and will be started again.
    BackingOff {
        /// What happened.
        reason: String,
        /// Milliseconds from the crash to the next start.
        retry_ms: u64,
    },
    /// It will not be started again until its settings change.
    Unusable {
        /// Why, and what to change.
        reason: String,
    },
}

/// One engine with its models and warnings.
#[derive(Clone, Debug, Serialize)]
pub struct EngineStatus {
    /// `llama.cpp` or `tfhe` with its model, such as `llama.cpp smollm2:135m`, or the URL of an upstream.
    pub name: String,
    /// How it is doing.
    #[serde(flatten)]
    pub state: EngineState,
    /// Its process, where it has one of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// What answers now.
    pub models: Vec<EngineModel>,
    /// What the owner should know: a GPU present and unused, with the reason.
    pub warnings: Vec<String>,
}

/// Why an engine does not do a job.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EngineError {
    /// No engine serves the model.
    #[error("no engine here serves {0}")]
    UnknownModel(ModelName),
    /// Loading, crashed and waiting, or stopped.
    #[error("the engine is not ready: {0}")]
    NotReady(String),
    /// The process died under the job.
    #[error("the engine crashed: {0}")]
    Crashed(String),
    /// The request does not fit the model.
    #[error("{needed} tokens do not fit the context of {context}")]
    ContextTooSmall {
        /// Prompt and answer.
        needed: u32,
        /// What there is.
        context: u32,
    },
    /// A feature that this engine has not.
    #[error("not supported by this engine: {0}")]
    Unsupported(String),
    /// All sequences and the queue are taken.
    #[error("the engine is full")]
    Full,
    /// The request breaks a rule of this model.
    #[error("{0}")]
    Request(String),
    /// There is no memory for another client's key.
    #[error("an evaluation key takes {needed} bytes of memory, {free} are free")]
    Memory {
        /// What it takes.
        needed: u64,
        /// What there is.
        free: u64,
    },
    /// Anything else that ends this job only.
    #[error("{0}")]
    Failed(String),
}

/// What a running job tells.
#[derive(Clone, Debug)]
pub enum EngineEvent {
    /// The prompt is being read.
    Started,
    /// One token of the answer, or one bootstrap of a private job.
    Token {
        /// Its id; `None` from upstream servers.
        id: Option<u32>,
        /// Text that became certain with it: complete UTF-8, nothing that a stop sequence may still take back.
        text: String,
        /// If asked for.
        logprobs: Option<Logprobs>,
    },
    /// Vectors, for embedding jobs.
    Embeddings(Vec<Vec<f32>>),
    /// The encrypted answer of a private job.
    Sealed(BoundedBytes<MAX_SEALED_OUTPUT>),
    /// The end; the last event. `text` was held back for a stop sequence that did not come.
    Finished {
        /// Why.
        finish: Finish,
        /// Text held back.
        text: String,
    },
    /// The job failed; the last event.
    Failed(EngineError),
}

/// A running job. Dropping it cancels it on the device at the next decode step.
#[derive(Debug)]
pub struct Generation {
    /// What it tells, in order; bounded.
    pub events: mpsc::Receiver<EngineEvent>,
    grants: mpsc::Sender<u32>,
}

impl Generation {
    /// A job that reports on `events` and reads allowances from `grants`; the job is cancelled when its ends of the
    /// channels are found closed.
    pub(crate) fn new(events: mpsc::Receiver<EngineEvent>, grants: mpsc::Sender<u32>) -> Self {
        Self { events, grants }
    }

    /// Allows `tokens` more tokens. Without allowance the job pauses on the device and the others go on.
    pub async fn grant(&self, tokens: u32) {
        // A job that has ended reads no allowances any more, and needs none.
        let _ = self.grants.send(tokens).await;
    }
}

/// The place of one engine in the status of all.
#[derive(Clone, Debug)]
struct Board {
    all: watch::Sender<Arc<Vec<EngineStatus>>>,
    index: usize,
}

impl Board {
    fn update(&self, change: impl FnOnce(&mut EngineStatus)) {
        self.all.send_modify(|all| {
            if let Some(status) = Arc::make_mut(all).get_mut(self.index) {
                change(status);
            }
        });
    }

    /// A state in which no model answers.
    fn set(&self, state: EngineState) {
        self.update(|status| {
            status.state = state;
            status.models.clear();
            status.warnings.clear();
        });
    }

    /// Says in which process it runs.
    fn process(&self, pid: Option<u32>) {
        self.update(|status| status.pid = pid);
    }

    fn ready(&self, model: EngineModel, warnings: Vec<String>) {
        self.update(|status| {
            status.state = EngineState::Ready;
            status.models = vec![model];
            status.warnings = warnings;
        });
    }
}

/// How one engine is reached.
#[derive(Debug)]
enum Backend {
    Child { model: ModelName, weights: Digest, requests: mpsc::Sender<Request> },
    Upstream(Upstream),
    Private(Fhe),
}

#[derive(Debug)]
struct Shared {
    status: watch::Receiver<Arc<Vec<EngineStatus>>>,
    /// In the order of the status.
    backends: Vec<Backend>,
    pace: watch::Sender<u8>,
    evaluation_keys: KeyStore,
    tasks: TaskTracker,
    cancel: CancellationToken,
    _cancel_on_drop: DropGuard,
}

/// Sends jobs to the engines. Cheap to clone; the last clone that is dropped ends them.
#[derive(Clone, Debug)]
pub struct EngineHandle {
    shared: Arc<Shared>,
}

impl EngineHandle {
    /// All engines, their models and warnings.
    pub fn status(&self) -> watch::Receiver<Arc<Vec<EngineStatus>>> {
        self.shared.status.clone()
    }

    /// The ready model of that name, and of those weights if given.
    pub fn model(&self, name: &ModelName, weights: Option<&Digest>) -> Option<EngineModel> {
        self.find(name, weights).map(|(_, model)| model)
    }

    /// Prompt tokens of a request as the model's own tokenizer and chat template count them, without the prefix; the values
    /// of a private job.
    pub async fn count_tokens(&self, spec: &JobSpec) -> Result<u32, EngineError> {
        check(spec)?;
        match self.backend(spec)? {
            Backend::Private(model) => model.count(spec),
            _ if spec.input.sealed().is_some() => Err(encrypted()),
            Backend::Upstream(upstream) => Ok(upstream.count_tokens(spec)),
            Backend::Child { requests, .. } => {
                let (reply, answer) = oneshot::channel();
                ask(requests, Request::Count { spec: spec.clone(), reply })?;
                answer.await.map_err(|_| ended())?
            }
        }
    }

    /// Starts a job with an allowance of `credit` tokens, at most [`MAX_CREDIT`].
    pub async fn generate(&self, spec: JobSpec, credit: u32) -> Result<Generation, EngineError> {
        check(&spec)?;
        match self.backend(&spec)? {
            _ if spec.input.sealed().is_some() => Err(encrypted()),
            Backend::Private(model) => model.compute(spec, credit, None),
            Backend::Upstream(upstream) => upstream.generate(&spec, credit),
            Backend::Child { requests, .. } => {
                let (reply, answer) = oneshot::channel();
                ask(requests, Request::Generate { spec, credit, reply })?;
                answer.await.map_err(|_| ended())?
            }
        }
    }

    /// Has the devices of this machine work at `percent` of their full speed, 1 to 100, from the next step on; upstream
    /// servers have their own mind.
    pub fn set_pace(&self, percent: u8) {
        let percent = percent.clamp(1, 100);
        self.shared.pace.send_if_modified(|pace| std::mem::replace(pace, percent) != percent);
    }

    /// Ends all engines; running jobs fail. Returns when no child is left, after `patience` at most.
    pub async fn shutdown(&self, patience: Duration) {
        self.shared.cancel.cancel();
        for backend in &self.shared.backends {
            if let Backend::Upstream(upstream) = backend {
                upstream.stop();
            }
        }
        if tokio::time::timeout(patience, self.shared.tasks.wait()).await.is_err() {
            tracing::warn!("an engine process is still being ended");
        }
    }

    /// The first engine whose model answers.
    fn find(&self, name: &ModelName, weights: Option<&Digest>) -> Option<(usize, EngineModel)> {
        let all = self.shared.status.borrow();
        all.iter().enumerate().filter(|(_, status)| status.state == EngineState::Ready).find_map(
            |(index, status)| {
                let fits =
                    |model: &&EngineModel| model.model == *name && weights.is_none_or(|w| model.weights == *w);
                status.models.iter().find(fits).map(|model| (index, model.clone()))
            },
        )
    }

    fn backend(&self, spec: &JobSpec) -> Result<&Backend, EngineError> {
        if let Some((index, _)) = self.find(&spec.model, spec.weights.as_ref()) {
            return Ok(&self.shared.backends[index]);
        }
        // A child that is loading or waiting knows best why it does not answer.
        let waiting = self.shared.backends.iter().find(|backend| match backend {
            Backend::Child { model, weights, .. } => {
                *model == spec.model && spec.weights.is_none_or(|wanted| wanted == *weights)
            }
            Backend::Private(Fhe { model, weights, .. }) => {
                *model == spec.model && spec.weights.is_none_or(|wanted| wanted == *weights)
            }
            Backend::Upstream(_) => false,
        });
        waiting.ok_or_else(|| EngineError::UnknownModel(spec.model.clone()))
    }
}

fn check(spec: &JobSpec) -> Result<(), EngineError> {
    spec.validate().map_err(|error| EngineError::Failed(error.to_string()))
}

fn encrypted() -> EngineError {
    EngineError::Unsupported("this model has to read what it is given".to_owned())
}

fn ask(requests: &mpsc::Sender<Request>, request: Request) -> Result<(), EngineError> {
    requests.try_send(request).map_err(|error| match error {
        mpsc::error::TrySendError::Full(_) => EngineError::Full,
        mpsc::error::TrySendError::Closed(_) => ended(),
    })
}

fn ended() -> EngineError {
    EngineError::NotReady("it is shut down".to_owned())
}

/// Starts the engines; models load in the background and show in [`EngineHandle::status`].
pub async fn start(config: EngineConfig, metrics: &Metrics) -> Result<EngineHandle, EngineError> {
    let failed = |what: &str, error: &dyn std::fmt::Display| EngineError::Failed(format!("{what}: {error}"));
    let worker = match config.worker {
        Some(worker) => worker,
        None => {
            std::env::current_exe().map_err(|error| failed("the path of this program is not known", &error))?
        }
    };
    let hardware = tokio::task::spawn_blocking(|| Hardware { cpu: crate::gpu::cpu(), gpus: crate::gpu::gpus() })
        .await
        .map_err(|error| failed("the processors could not be listed", &error))?;
    let hardware = Arc::new(hardware);
    let threads = config.threads.unwrap_or_else(physical_cores);
    let spawner = Spawner::start().map_err(|error| failed("no thread for starting engines", &error))?;
    let metrics = EngineMetrics::register(metrics);
    let mut upstreams = Vec::new();
    for upstream in config.upstreams {
        upstreams.push(Upstream::start(upstream).await);
    }

    let (private, models): (Vec<_>, Vec<_>) =
        config.models.into_iter().partition(|installed| installed.manifest.kind == Kind::Private);
    let mut statuses: Vec<_> = models.iter().map(|installed| loading(&installed.manifest.model)).collect();
    statuses.extend(private.iter().map(|installed| fhe::loading(&installed.manifest.model)));
    statuses.extend(upstreams.iter().map(|upstream| upstream.status().borrow().clone()));
    let (all, status) = watch::channel(Arc::new(statuses));
    let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
    let pace = watch::Sender::new(100);
    let mut backends = Vec::new();
    for (index, installed) in models.into_iter().enumerate() {
        let model = supervisor::unloaded(&installed, &hardware);
        let load = Load {
            path: installed.path,
            context: config.context,
            slots: config.slots,
            threads,
            gpu_layers: config.gpu_layers,
            memory_limit: config.memory_limit,
        };
        let (requests, inbox) = mpsc::channel(INBOX);
        let supervisor = Supervisor {
            metrics: metrics.model(model.model.as_str()),
            spawner: spawner.clone(),
            board: Board { all: all.clone(), index },
            cancel: cancel.clone(),
            inbox,
            own: requests.downgrade(),
            pace: pace.subscribe(),
            next_id: 0,
            settings: Settings { model: model.clone(), load, worker: worker.clone(), hardware: hardware.clone() },
        };
        backends.push(Backend::Child { model: model.model.clone(), weights: model.weights, requests });
        let span = tracing::info_span!("engine", model = %model.model);
        tasks.spawn(tracing::Instrument::instrument(supervisor.run(), span));
    }
    let workshop = Workshop::new(config.memory_limit, threads, config.slots, pace.subscribe(), cancel.clone());
    for installed in private {
        let board = Board { all: all.clone(), index: backends.len() };
        let span = tracing::info_span!("engine", model = %installed.manifest.model);
        let (model, load) = Fhe::start(installed, workshop.clone(), board);
        backends.push(Backend::Private(model));
        tasks.spawn(tracing::Instrument::instrument(load, span));
    }
    for upstream in upstreams {
        let board = Board { all: all.clone(), index: backends.len() };
        tasks.spawn(follow(upstream.status(), board, cancel.clone()));
        backends.push(Backend::Upstream(upstream));
    }
    tasks.close();
    let shared = Shared {
        status,
        backends,
        pace,
        evaluation_keys: fhe::key_store(&config.private),
        tasks,
        cancel: cancel.clone(),
        _cancel_on_drop: cancel.drop_guard(),
    };
    Ok(EngineHandle { shared: Arc::new(shared) })
}

/// Each model has an engine of its own, so it is the model that tells them apart.
fn loading(model: &ModelName) -> EngineStatus {
    EngineStatus {
        name: format!("llama.cpp {model}"),
        state: EngineState::Loading { percent: 0 },
        pid: None,
        models: Vec::new(),
        warnings: Vec::new(),
    }
}

/// Copies an upstream's status to the board.
async fn follow(mut status: watch::Receiver<EngineStatus>, board: Board, cancel: CancellationToken) {
    loop {
        let current = status.borrow_and_update().clone();
        board.update(|shown| *shown = current);
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = status.changed() => if changed.is_err() { return },
        }
    }
}

/// Cores, not counting the second threads of a core: those only get in each other's way when a model decodes.
fn physical_cores() -> u32 {
    let allowed = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let read = |cpu: usize, what: &str| {
        std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu{cpu}/topology/{what}")).ok()
    };
    let cores: BTreeSet<_> =
        (0..1024).map_while(|cpu| Some((read(cpu, "physical_package_id")?, read(cpu, "core_id")?))).collect();
    let cores = if cores.is_empty() { allowed } else { cores.len().min(allowed) };
    u32::try_from(cores).unwrap_or(1)
}

#[cfg(test)]
pub(crate) mod fixtures;

/// The body of the hidden command `aitbc engine-worker`: serves one model over stdin and stdout until stdin closes.
pub fn worker_main() -> std::process::ExitCode {
    worker::run()
}
