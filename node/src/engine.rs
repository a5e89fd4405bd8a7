//! What runs a model.
//!
//! llama.cpp runs in a child process of this same binary, one a device; an OpenAI-compatible server elsewhere on the
//! machine (`engine::upstream`) is the other kind. Both are reached through [`EngineHandle`].

use crate::{models::Installed, telemetry::Metrics};
use aitbc_protocol::{
    bytes::Digest,
    job::{Finish, JobSpec, Logprobs, ModelName},
    offer::{Device, Engine},
    text::Line,
};
use serde::Serialize;
use std::{sync::Arc, time::Duration};
use tokio::sync::{mpsc, watch};

pub use upstream::find_ollama;

mod upstream;

/// How engines are started.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Models to load in the llama.cpp child.
    pub models: Vec<Installed>,
    /// Context tokens of each sequence.
    pub context: u32,
    /// Sequences decoded together.
    pub slots: u32,
    /// Threads for the parts that run on the CPU; `None` for the physical cores.
    pub threads: Option<u32>,
    /// Layers to put on the GPU; `None` for all that fit, 0 for none.
    pub gpu_layers: Option<u32>,
    /// Most memory of the child in bytes, beyond the model files.
    pub memory_limit: Option<u64>,
    /// OpenAI-compatible servers that the owner offers.
    pub upstreams: Vec<UpstreamConfig>,
}

/// An OpenAI-compatible server that the owner offers to the network.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamConfig {
    /// Base URL up to and including `/v1`, such as `http://127.0.0.1:11434/v1`.
    pub url: String,
    /// Models of it to offer, by its own names.
    pub models: Vec<String>,
    /// Jobs it may run at a time.
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
    /// Decoding speed of one stream, measured when it was loaded, in milli-tokens a second; 0 where unknown.
    pub speed: u32,
    /// True for upstream servers.
    pub declared: bool,
    /// Jobs at a time.
    pub slots: u32,
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
    /// `llama.cpp`, or the URL of an upstream.
    pub name: String,
    /// How it is doing.
    #[serde(flatten)]
    pub state: EngineState,
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
    /// Anything else that ends this job only.
    #[error("{0}")]
    Failed(String),
}

/// What a running job tells.
#[derive(Clone, Debug)]
pub enum EngineEvent {
    /// The prompt is being read.
    Started,
    /// One token of the answer.
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

/// Sends jobs to the engines. Cheap to clone.
#[derive(Clone, Debug)]
pub struct EngineHandle {}

impl EngineHandle {
    /// All engines, their models and warnings.
    pub fn status(&self) -> watch::Receiver<Arc<Vec<EngineStatus>>> {
        todo!()
    }

    /// The ready model of that name, and of those weights if given.
    pub fn model(&self, name: &ModelName, weights: Option<&Digest>) -> Option<EngineModel> {
        let _ = (name, weights);
        todo!()
    }

    /// Prompt tokens of a request as the model's own tokenizer and chat template count them, without the prefix.
    pub async fn count_tokens(&self, spec: &JobSpec) -> Result<u32, EngineError> {
        let _ = spec;
        todo!()
    }

    /// Starts a job with an allowance of `credit` tokens.
    pub async fn generate(&self, spec: JobSpec, credit: u32) -> Result<Generation, EngineError> {
        let _ = (spec, credit);
        todo!()
    }

    /// Ends all engines; running jobs fail. Returns when no child is left, after `patience` at most.
    pub async fn shutdown(&self, patience: Duration) {
        let _ = patience;
        todo!()
    }
}

/// Starts the engines; models load in the background and show in [`EngineHandle::status`].
pub async fn start(config: EngineConfig, metrics: &Metrics) -> Result<EngineHandle, EngineError> {
    let _ = (config, metrics);
    todo!()
}

/// The body of the hidden command `aitbc engine-worker`: serves one device over stdin and stdout until stdin closes.
pub fn worker_main() -> std::process::ExitCode {
    todo!()
}
