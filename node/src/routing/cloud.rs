//! The cloud behind the network: one OpenAI-compatible server of the user's choice. Jobs go there only where the
//! user's `fallback` says so and nothing that they ask for bars it ([`aitbc_protocol::routing::fallback`]).
//!
//! Its operator reads what it is sent and is paid by whoever holds the key, outside this network: there is no quote, no
//! cheque and no receipt. What a job costs there is reckoned by the price that the settings name.

use super::experience::{Answer, Answers};
use crate::{
    clock::now_ms,
    engine::{
        EngineError, EngineEvent,
        upstream::{Direct, SettingError, Usage},
    },
};
use aitbc_protocol::{
    Digest, JobId, MicroCredits, UnixMillis,
    job::{JobSpec, ModelName},
    price::{Adjustment, TokenPrice, price},
    routing::{
        USUAL_ANSWER,
        fallback::{CloudEstimate, CloudReason},
    },
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::mpsc;

/// Wait for the first piece that is assumed of a cloud that has not answered yet, in milliseconds.
const ASSUMED_FIRST_MS: f64 = 700.0;
/// Speed that is assumed of one that has not shown its own, in milli-tokens a second.
const ASSUMED_SPEED: u32 = 50_000;
/// Jobs remembered.
const MAX_JOBS: usize = 256;

/// The table `[client.cloud]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloudConfig {
    /// Base URL up to and including `/v1`.
    pub url: String,
    /// File with its key, which only its owner can read (mode 0600), if it wants one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// What the cloud calls the model that stands in for all that `models` does not name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// What it costs there.
    pub price: CloudPrice,
    /// Models of this network, and what the cloud calls those that stand in for them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub models: BTreeMap<ModelName, String>,
}

/// A price in micro-credits (1 credit = 1,000,000).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloudPrice {
    /// For a thousand prompt tokens.
    pub prompt: u64,
    /// For a thousand tokens of the answer.
    pub completion: u64,
}

/// What the settings of the cloud make unusable.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CloudError(String);

impl From<SettingError> for CloudError {
    fn from(error: SettingError) -> Self {
        Self(error.to_string())
    }
}

/// A job that went to the cloud.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CloudJob {
    /// Its id.
    pub job: JobId,
    /// The model that was asked for.
    pub model: ModelName,
    /// What the cloud calls the one that stood in for it.
    pub cloud_model: String,
    /// Why it went there.
    pub reason: CloudReason,
    /// How it ended.
    pub end: CloudEnd,
    /// What it cost, by the price that the settings name.
    pub cost: MicroCredits,
    /// Tokens of the answer.
    pub tokens: u32,
    /// When.
    pub created_ms: UnixMillis,
}

/// How a job in the cloud ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum CloudEnd {
    /// With a whole answer.
    Completed,
    /// Whoever asked left.
    Cancelled,
    /// With a failure.
    Failed {
        /// Which.
        failure: String,
    },
}

/// How the cloud has done since this node started.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CloudStatus {
    /// Host and port.
    pub host: String,
    /// Jobs that went there.
    pub jobs: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// What they cost, by the price that the settings name.
    pub cost: MicroCredits,
}

/// What a job in the cloud took, and what it costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bill {
    pub(super) prompt_tokens: u32,
    pub(super) completion_tokens: u32,
    /// Whether the cloud told both counts, or this node made them.
    pub(super) counted: bool,
    pub(super) cost: MicroCredits,
}

#[derive(Debug, Default)]
struct Log {
    jobs: VecDeque<CloudJob>,
    count: u64,
    failed: u64,
    cost: MicroCredits,
    answers: Answers,
}

/// The cloud of the settings.
#[derive(Debug)]
pub struct Cloud {
    server: Direct,
    host: String,
    model: Option<String>,
    models: BTreeMap<ModelName, String>,
    price: TokenPrice,
    log: Mutex<Log>,
}

impl Cloud {
    /// Checks the settings and reads the key. Nothing is sent. Blocks.
    pub fn open(config: CloudConfig) -> Result<Self, CloudError> {
        let CloudConfig { url, key_file, model, price, models } = config;
        let server = Direct::open(&url, key_file.as_deref())?;
        let price = TokenPrice { prompt: MicroCredits(price.prompt), completion: MicroCredits(price.completion) };
        Ok(Self { host: server.host(), server, model, models, price, log: Mutex::default() })
    }

    /// Host and port.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// What the cloud calls the model that stands in for `model`; `None` where the settings name none.
    pub(super) fn model(&self, model: &ModelName) -> Option<&str> {
        self.models.get(model).or(self.model.as_ref()).map(String::as_str)
    }

    /// What `spec` is expected to be like with the cloud's `model`.
    pub(super) fn estimate(&self, spec: &JobSpec, model: &str) -> CloudEstimate {
        let of = Digest::of(model.as_bytes());
        let (log, now_ms) = (self.log(), now_ms());
        let speed = log.answers.speed(of, now_ms).unwrap_or(ASSUMED_SPEED).max(1);
        let first_ms = log.answers.first_ms(of, now_ms).unwrap_or(ASSUMED_FIRST_MS);
        let generate_ms = f64::from(spec.max_tokens.min(USUAL_ANSWER)) * 1_000_000.0 / f64::from(speed);
        let price = self.cost(Direct::prompt_tokens(spec), spec.max_tokens);
        CloudEstimate { price, first_ms, time_ms: first_ms + generate_ms }
    }

    /// Has `model` answer `spec` on `events`; see [`Direct::ask`].
    pub(super) async fn ask(
        &self,
        spec: &JobSpec,
        model: &str,
        events: mpsc::Sender<EngineEvent>,
    ) -> Result<Usage, EngineError> {
        self.server.ask(spec, model, events).await
    }

    /// What a job took: by the cloud's own counts, which it is paid by, or by this node's where it tells none.
    pub(super) fn bill(&self, spec: &JobSpec, pieces: u32, usage: Usage) -> Bill {
        let prompt_tokens = usage.prompt_tokens.unwrap_or_else(|| Direct::prompt_tokens(spec));
        let completion_tokens = usage.completion_tokens.unwrap_or(pieces);
        let counted = usage.prompt_tokens.is_some() && usage.completion_tokens.is_some();
        Bill { prompt_tokens, completion_tokens, counted, cost: self.cost(prompt_tokens, completion_tokens) }
    }

    fn cost(&self, prompt_tokens: u32, completion_tokens: u32) -> MicroCredits {
        price(&self.price, &Adjustment::default(), prompt_tokens, completion_tokens)
            .unwrap_or(MicroCredits(u64::MAX))
    }

    /// Takes down a job that ended, and how fast its answer came.
    pub(super) fn note(&self, job: CloudJob, answer: Option<Answer>) {
        let mut log = self.log();
        log.count = log.count.saturating_add(1);
        log.failed = log.failed.saturating_add(u64::from(matches!(job.end, CloudEnd::Failed { .. })));
        log.cost = log.cost.checked_add(job.cost).unwrap_or(MicroCredits(u64::MAX));
        if let Some(answer) = answer {
            log.answers.push(Digest::of(job.cloud_model.as_bytes()), answer, now_ms());
        }
        log.jobs.truncate(MAX_JOBS - 1);
        log.jobs.push_front(job);
    }

    /// How it has done.
    pub(super) fn status(&self) -> CloudStatus {
        let log = self.log();
        CloudStatus { host: self.host.clone(), jobs: log.count, failed: log.failed, cost: log.cost }
    }

    /// Its last jobs, newest first, `limit` at most.
    pub(super) fn jobs(&self, limit: usize) -> Vec<CloudJob> {
        self.log().jobs.iter().take(limit).cloned().collect()
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        // The log is whole after any panic: what is added is added last.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
