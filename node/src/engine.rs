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
mod generation;
mod llama;
mod mailbox;
mod metrics;
mod prompt;
mod sampling;
mod sandbox;
mod status;
mod stops;
mod supervisor;
pub(crate) mod upstream;
mod worker;

use self::{
    child::Spawner,
    fhe::{Fhe, PrivateConfig, Workshop, keys::KeyStore},
    frames::Load,
    metrics::EngineMetrics,
    status::Board,
    supervisor::{Hardware, INBOX, Request, Settings, Supervisor},
    upstream::Upstream,
};
pub use self::{
    generation::{EngineError, EngineEvent, Generation},
    status::{EngineModel, EngineState, EngineStatus},
};
use crate::{
    models::{Installed, Kind},
    telemetry::Metrics,
};
use aitbc_protocol::{
    bytes::Digest,
    job::{JobSpec, MAX_TOKENS, ModelName},
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
#[cfg(test)]
pub(crate) mod simulated;

/// The body of the hidden command `aitbc engine-worker`: serves one model over stdin and stdout until stdin closes.
pub fn worker_main() -> std::process::ExitCode {
    worker::run()
}
