//! Any OpenAI-compatible server as an engine: Ollama, vLLM, llama-server, or one behind a key.
//!
//! What such a server runs cannot be seen from outside, so its models are offered as `declared`: weights are the digest
//! of the server's own name for the model, receipts bind texts, and no answer of another engine is continued. It has
//! no tokenizer that could be asked, so two rules stand in for it:
//!
//! - a prompt counts as many tokens as [`Upstream::count_tokens`] says, whatever the server counts;
//! - a token of the answer is one streamed piece of text. Where the server's own count, sent at the end, is higher
//!   (several tokens in one piece), the rest follows as tokens without text, but never more than the answer has bytes
//!   of text, which every token of an honest count has at least one of.

use super::{EngineError, EngineEvent, EngineModel, EngineState, EngineStatus, Generation, UpstreamConfig};
use aitbc_protocol::{
    bytes::Digest,
    job::{Input, JobSpec, ModelName},
    offer::{Device, DeviceKind, Engine},
    text::Line,
};
use connection::{Connection, Listed};
use speed::Speed;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::Instrument;

mod answer;
mod connection;
mod direct;
mod events;
mod request;
mod speed;

pub(crate) use connection::{SettingError, find_ollama};
pub(crate) use direct::Direct;
pub(crate) use events::Usage;

/// Context assumed where the server does not tell: what Ollama gives a model that asks for nothing.
const ASSUMED_CONTEXT: u32 = 4096;
/// How often a server that answers is asked whether it still does.
const CHECK_EVERY: Duration = Duration::from_secs(30);
/// First wait after a failed check; doubled up to [`LONGEST_BACK_OFF`].
const SHORTEST_BACK_OFF: Duration = Duration::from_secs(1);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(60);
/// Events that a slow reader may leave lying before the server is not read any further.
const EVENT_QUEUE: usize = 64;
/// Allowances on their way to a job.
const GRANT_QUEUE: usize = 8;
/// Bytes of text that count as one token of a prompt, and tokens that a message counts beyond its text.
const PROMPT_BYTES_PER_TOKEN: usize = 3;
const TOKENS_PER_MESSAGE: usize = 8;

/// One server that the owner offers. Dropping it ends its checks and fails its running jobs.
#[derive(Debug)]
pub(crate) struct Upstream {
    /// `None` where the settings are unusable.
    shared: Option<Arc<Shared>>,
    status: watch::Receiver<EngineStatus>,
    _stop: DropGuard,
}

/// What checks and jobs share.
#[derive(Debug)]
struct Shared {
    connection: Connection,
    wanted: Vec<String>,
    slots: Arc<Semaphore>,
    slot_count: u32,
    speeds: Mutex<BTreeMap<ModelName, Speed>>,
    status: watch::Sender<EngineStatus>,
    stop: CancellationToken,
}

impl Upstream {
    /// Takes up the server; its models show in [`Self::status`] once it answers. The token file is
    /// read here, once.
    pub(crate) async fn start(config: UpstreamConfig) -> Self {
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        let (status, receiver) = watch::channel(EngineStatus {
            name: config.url.clone(),
            state: EngineState::Loading { percent: 0 },
            pid: None,
            models: Vec::new(),
            warnings: Vec::new(),
        });
        let settings = config.clone();
        // A token file, and for HTTPS the certificates of the system, are read here.
        let opened = tokio::task::spawn_blocking(move || Connection::new(&settings)).await;
        let reason = match opened {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(format!("its settings could not be read: {error}")),
        };
        let connection = match reason {
            Ok(connection) => connection,
            Err(reason) => {
                status.send_modify(|status| {
                    status.name = connection::shown(&config.url);
                    status.state = EngineState::Unusable { reason };
                });
                return Self { shared: None, status: receiver, _stop: guard };
            }
        };
        let slot_count = config.slots.max(1);
        let shared = Arc::new(Shared {
            connection,
            wanted: config.models,
            slots: Arc::new(Semaphore::new(slot_count as usize)),
            slot_count,
            speeds: Mutex::default(),
            status,
            stop: stop.clone(),
        });
        let span = tracing::info_span!("upstream", url = %config.url);
        tokio::spawn(stop.run_until_cancelled_owned(watch_over(Arc::clone(&shared))).instrument(span));
        Self { shared: Some(shared), status: receiver, _stop: guard }
    }

    /// How the server is doing and what it offers.
    pub(crate) fn status(&self) -> watch::Receiver<EngineStatus> {
        self.status.clone()
    }

    /// Ends the checks and fails running jobs.
    pub(crate) fn stop(&self) {
        if let Some(shared) = &self.shared {
            shared.stop.cancel();
        }
    }

    /// Prompt tokens that are quoted and paid: a token for every three bytes of text, rounded up, and eight for every
    /// message or text. English has four bytes a token and code three, so that this is an upper estimate for both; it
    /// is a rule that both sides compute alike, not what the server's tokenizer says.
    #[allow(clippy::unused_self)] // An engine's method like all others: where the count comes from is its own affair.
    pub(crate) fn count_tokens(&self, spec: &JobSpec) -> u32 {
        prompt_tokens(&spec.input)
    }

    /// Starts a job with an allowance of `credit` tokens. Without allowance the server is not read any further, so that
    /// it stops too once the buffers between are full.
    pub(crate) fn generate(&self, spec: &JobSpec, credit: u32) -> Result<Generation, EngineError> {
        let status = self.status.borrow();
        let not_ready = |state: &EngineState| match state {
            EngineState::Ready => None,
            EngineState::Loading { .. } => Some("it has not answered yet".to_owned()),
            EngineState::BackingOff { reason, .. } | EngineState::Unusable { reason } => Some(reason.clone()),
        };
        if let Some(reason) = not_ready(&status.state) {
            return Err(EngineError::NotReady(reason));
        }
        let shared = self.shared.as_ref().ok_or_else(|| EngineError::NotReady(status.name.clone()))?;
        let Some(model) = status.models.iter().find(|model| model.model == spec.model) else {
            return Err(EngineError::UnknownModel(spec.model.clone()));
        };
        let needed = self.count_tokens(spec).saturating_add(spec.max_tokens);
        if needed > model.context {
            return Err(EngineError::ContextTooSmall { needed, context: model.context });
        }
        let request = request::Request::new(spec)?;
        let slot = Arc::clone(&shared.slots).try_acquire_owned().map_err(|_| EngineError::Full)?;
        let (events, receiver) = mpsc::channel(EVENT_QUEUE);
        let (granting, grants) = mpsc::channel(GRANT_QUEUE);
        let job = answer::Job {
            events: events.clone(),
            grants,
            credit,
            max_tokens: spec.max_tokens,
            tokens: 0,
            text_bytes: 0,
            paused: false,
        };
        let (shared, name) = (Arc::clone(shared), spec.model.clone());
        let work = async move {
            let _slot = slot;
            let result = tokio::select! {
                // The client is gone: dropping the request closes the connection, which servers take as a cancellation.
                () = events.closed() => return,
                () = shared.stop.cancelled() => Err(EngineError::NotReady("the engine is stopping".to_owned())),
                result = job.run(&shared.connection, &request) => result,
            };
            match result {
                Ok(ran) => shared.learn_speed(&name, ran.sample),
                Err(error) => {
                    let _ = events.send(EngineEvent::Failed(error)).await;
                }
            }
        };
        tokio::spawn(work.in_current_span());
        Ok(Generation::new(receiver, granting))
    }
}

impl Shared {
    /// Takes a finished job's speed, and publishes it where it says something new.
    fn learn_speed(&self, model: &ModelName, sample: Option<speed::Sample>) {
        let Some(sample) = sample else { return };
        let mut speeds = self.speeds.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let speed = speeds.entry(model.clone()).or_default();
        if !speed.learn(sample) {
            return;
        }
        let told = speed.milli_tokens();
        self.status.send_modify(|status| {
            for offered in status.models.iter_mut().filter(|offered| offered.model == *model) {
                offered.speed = told;
            }
        });
    }

    /// The configured models as far as the server has them, and a warning for each that it has not.
    fn offered(&self, listed: &[Listed]) -> (Vec<EngineModel>, Vec<String>) {
        let (mut models, mut warnings) = (Vec::new(), Vec::new());
        let speeds = self.speeds.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for wanted in &self.wanted {
            // Ollama lists `name:latest` for what people call `name`.
            let latest = format!("{wanted}:latest");
            let Some(found) = listed.iter().find(|listed| listed.id == *wanted || listed.id == latest) else {
                let has: Vec<&str> = listed.iter().map(|listed| listed.id.as_str()).take(8).collect();
                warnings.push(format!(
                    "{} has no model {wanted}: it lists {}",
                    self.connection.url(),
                    if has.is_empty() { "none".to_owned() } else { has.join(", ") }
                ));
                continue;
            };
            let Ok(model) = ModelName::new(wanted.as_str()) else {
                warnings.push(format!("the model name {wanted:?} is longer than 64 bytes and is not offered"));
                continue;
            };
            models.push(EngineModel {
                weights: Digest::of(wanted.as_bytes()),
                engine: Engine { name: Line::lossy("upstream"), version: Line::lossy("unknown") },
                quantisation: Line::lossy("unknown"),
                device: Device {
                    kind: DeviceKind::Upstream,
                    name: Line::lossy("an OpenAI-compatible server"),
                    memory_bytes: 0,
                    measured: None,
                },
                context: found.context.unwrap_or(ASSUMED_CONTEXT),
                speed: speeds.get(&model).map_or(0, |speed| speed.milli_tokens()),
                declared: true,
                slots: self.slot_count,
                private: None,
                model,
            });
        }
        (models, warnings)
    }
}

/// Prompt tokens by [`Upstream::count_tokens`]' rule.
fn prompt_tokens(input: &Input) -> u32 {
    let count = |text: &str| text.len().div_ceil(PROMPT_BYTES_PER_TOKEN).saturating_add(TOKENS_PER_MESSAGE);
    let tokens = match input {
        Input::Chat(messages) => messages.iter().map(|message| count(&message.content)).sum(),
        Input::Text(text) => count(text),
        Input::Embed(texts) => texts.iter().map(|text| count(text)).sum(),
        // Refused before it is counted.
        Input::Sealed(_) => 0,
    };
    u32::try_from(tokens).unwrap_or(u32::MAX)
}

/// Asks the server again and again what it has, and publishes changes.
async fn watch_over(shared: Arc<Shared>) {
    let mut back_off = SHORTEST_BACK_OFF;
    loop {
        let (state, models, warnings) = match shared.connection.models().await {
            Ok(listed) => {
                let (models, warnings) = shared.offered(&listed);
                if models.is_empty() {
                    let reason = warnings.join("; ");
                    (Err(reason), models, warnings)
                } else {
                    (Ok(()), models, warnings)
                }
            }
            Err(error) => (Err(error.to_string()), Vec::new(), Vec::new()),
        };
        let wait = if state.is_ok() { CHECK_EVERY } else { back_off };
        back_off = if state.is_ok() { SHORTEST_BACK_OFF } else { (back_off * 2).min(LONGEST_BACK_OFF) };
        let state = match state {
            Ok(()) => EngineState::Ready,
            Err(reason) => EngineState::BackingOff { reason, retry_ms: wait.as_millis() as u64 },
        };
        shared.status.send_if_modified(|status| {
            let changed = status.state != state || status.warnings != warnings || !same(&status.models, &models);
            if status.state != state {
                tracing::info!(state = ?state, models = models.len(), "the server's state changed");
            }
            status.state = state;
            status.models = models;
            status.warnings = warnings;
            changed
        });
        tokio::time::sleep(wait).await;
    }
}

/// Whether two lists offer the same; speeds are published when they are learnt.
fn same(old: &[EngineModel], new: &[EngineModel]) -> bool {
    let key = |model: &EngineModel| (model.model.clone(), model.context);
    old.len() == new.len() && old.iter().zip(new).all(|(old, new)| key(old) == key(new))
}

#[cfg(test)]
mod tests;
