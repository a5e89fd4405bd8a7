//! How engines are doing: models, states, and the board on which engines write theirs.

use aitbc_protocol::{
    bytes::Digest,
    job::ModelName,
    offer::{Device, Engine},
    private::PrivateOffer,
    text::Line,
};
use serde::Serialize;
use std::sync::Arc;
use tokio::sync::watch;

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
/// The place of one engine in the status of all.
#[derive(Clone, Debug)]
pub(super) struct Board {
    pub(super) all: watch::Sender<Arc<Vec<EngineStatus>>>,
    pub(super) index: usize,
}

impl Board {
    pub(super) fn update(&self, change: impl FnOnce(&mut EngineStatus)) {
        self.all.send_modify(|all| {
            if let Some(status) = Arc::make_mut(all).get_mut(self.index) {
                change(status);
            }
        });
    }

    /// A state in which no model answers.
    pub(super) fn set(&self, state: EngineState) {
        self.update(|status| {
            status.state = state;
            status.models.clear();
            status.warnings.clear();
        });
    }

    /// Says in which process it runs.
    pub(super) fn process(&self, pid: Option<u32>) {
        self.update(|status| status.pid = pid);
    }

    pub(super) fn ready(&self, model: EngineModel, warnings: Vec<String>) {
        self.update(|status| {
            status.state = EngineState::Ready;
            status.models = vec![model];
            status.warnings = warnings;
        });
    }
}
