//! One supervisor a model: it starts the child, hands jobs to it, ends it, and starts it again when it crashes.
//!
//! Each model has a child of its own, so that a model file that brings its engine down fails no other model's jobs.

mod offered;

use super::{
    Board, EngineError, EngineEvent, EngineModel, EngineState, Generation, MAX_CREDIT,
    child::{Process, Spawner},
    frames::{self, FromWorker, JobFailure, Load, Loaded, ToWorker},
    metrics::ModelMetrics,
};
use crate::gpu::FoundGpu;
use aitbc_protocol::{job::JobSpec, offer::Device};
use futures::StreamExt as _;
use offered::describe;
pub(super) use offered::unloaded;
use std::{
    collections::{HashMap, VecDeque},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

/// Requests that wait for the supervisor.
pub(super) const INBOX: usize = 128;
/// Questions for token counts that may be open.
const MAX_COUNTS: usize = 64;
/// Loads that fail one after the other before a model is given up.
const MAX_FAILED_LOADS: u32 = 3;
/// First and longest wait before the next start.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// A child that ran this long was healthy: its crash is the first again.
const HEALTHY: Duration = Duration::from_secs(120);
/// A child that owes something and is silent this long is stuck.
const STUCK: Duration = Duration::from_secs(300);
const TICK: Duration = Duration::from_secs(5);

/// What the handle and running jobs ask for.
#[derive(Debug)]
pub(super) enum Request {
    Count { spec: JobSpec, reply: oneshot::Sender<Result<u32, EngineError>> },
    Generate { spec: JobSpec, credit: u32, reply: oneshot::Sender<Result<Generation, EngineError>> },
    Grant { id: u64, tokens: u32 },
    Cancel { id: u64 },
}

/// The processors that the operating system tells of.
#[derive(Debug)]
pub(super) struct Hardware {
    pub(super) cpu: Device,
    pub(super) gpus: Vec<FoundGpu>,
}

/// What a supervisor needs to know.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) model: EngineModel,
    pub(super) load: Load,
    pub(super) worker: PathBuf,
    pub(super) hardware: Arc<Hardware>,
}

/// Owns one child and its jobs.
pub(super) struct Supervisor {
    pub(super) settings: Settings,
    pub(super) spawner: Spawner,
    pub(super) board: Board,
    pub(super) metrics: ModelMetrics,
    pub(super) cancel: CancellationToken,
    pub(super) inbox: mpsc::Receiver<Request>,
    /// For running jobs, to say that they grant and cancel.
    pub(super) own: mpsc::WeakSender<Request>,
    /// Speed in percent of the full one.
    pub(super) pace: watch::Receiver<u8>,
    pub(super) next_id: u64,
}

/// How a child's life ended.
enum End {
    Shutdown,
    Died { reason: String, loaded: bool, lived: Duration },
}

/// Why a child is over.
enum Death {
    /// It ended; its exit status says how.
    Exited,
    /// It said why and ends.
    LoadFailed(String),
    /// It must be ended.
    Faulty(String),
}

/// A job as the node sees it.
struct Job {
    events: mpsc::Sender<EngineEvent>,
    /// Tokens allowed and not yet delivered.
    owed: u32,
    /// Allowance that the child was not told yet.
    grant: u32,
    cancelled: bool,
}

/// What belongs to one child's life.
struct Life {
    loaded: Option<Loaded>,
    jobs: HashMap<u64, Job>,
    counts: HashMap<u64, oneshot::Sender<Result<u32, EngineError>>>,
    /// Jobs with grants or cancellations that the child was not told yet.
    untold: VecDeque<u64>,
    heard: Instant,
}

impl Supervisor {
    /// Runs until cancelled.
    pub(super) async fn run(mut self) {
        let mut failed_loads = 0;
        let mut failures = 0_u32;
        loop {
            let End::Died { reason, loaded, lived } = self.live().await else { break };
            self.metrics.crashes.inc();
            failed_loads = if loaded { 0 } else { failed_loads + 1 };
            failures = if loaded && lived >= HEALTHY { 1 } else { failures.saturating_add(1) };
            let model = &self.settings.model.model;
            if failed_loads >= MAX_FAILED_LOADS {
                tracing::error!(%model, reason, "the model is given up");
                let reason = format!(
                    "{model} could not be loaded {MAX_FAILED_LOADS} times: {reason}; check its file with \
                     `aitbc models rm` and `aitbc models pull`, or the engine's context, slots and memory limit, and \
                     start again"
                );
                self.board.set(EngineState::Unusable { reason });
                self.refuse(None, "the model is unusable here").await;
                break;
            }
            let wait = retry_after(failures);
            tracing::warn!(%model, reason, wait_ms = wait.as_millis(), "the engine ended, it will be started again");
            let retry_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            self.board.set(EngineState::BackingOff { reason, retry_ms });
            if !self.refuse(Some(wait), "it ended unexpectedly and is being started again").await {
                break;
            }
        }
        self.board.set(EngineState::Unusable { reason: "the engine is shut down".to_owned() });
    }

    /// Answers requests while there is no child; false when cancelled.
    async fn refuse(&mut self, time: Option<Duration>, reason: &str) -> bool {
        let until = time.map(|time| Instant::now() + time);
        loop {
            let over = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.cancel.cancelled() => return false,
                () = over => return true,
                Some(request) = self.inbox.recv() => refuse(request, reason),
            }
        }
    }

    /// One child, from its start to its end.
    async fn live(&mut self) -> End {
        self.board.set(EngineState::Loading { percent: 0 });
        let worker = &self.settings.worker;
        let mut process = match Process::start(&self.spawner, worker).await {
            Ok(process) => process,
            Err(error) => {
                let reason = format!("{} cannot be started: {error}", worker.display());
                return End::Died { reason, loaded: false, lived: Duration::ZERO };
            }
        };
        self.board.process(process.id());
        let begin = Instant::now();
        let mut life = Life {
            loaded: None,
            jobs: HashMap::new(),
            counts: HashMap::new(),
            untold: VecDeque::new(),
            heard: begin,
        };
        let death = self.serve(&mut process, &mut life).await;
        self.board.process(None);
        self.metrics.running.set(0);
        if let Some(Death::Exited | Death::LoadFailed(_)) = &death {
            process.settle().await;
        }
        let how = process.end().await;
        let loaded = life.loaded.is_some();
        let reason = match death {
            None => {
                life.fail_all(&EngineError::NotReady("it is shut down".to_owned()));
                return End::Shutdown;
            }
            Some(Death::Exited) => how,
            Some(Death::LoadFailed(reason) | Death::Faulty(reason)) => format!("{reason} ({how})"),
        };
        life.fail_all(&EngineError::Crashed(reason.clone()));
        End::Died { reason, loaded, lived: begin.elapsed() }
    }

    /// Serves until the child ends or must be ended; `None` when cancelled.
    async fn serve(&mut self, process: &mut Process, life: &mut Life) -> Option<Death> {
        match frames::to_worker(&ToWorker::Load(self.settings.load.clone())) {
            // The queue is empty, and a child that is gone is seen below.
            Ok(frame) => drop(process.outbox.try_send(frame)),
            Err(error) => return Some(Death::Faulty(error.to_string())),
        }
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // A child begins at full speed.
        self.pace.mark_changed();
        loop {
            tokio::select! {
                () = self.cancel.cancelled() => return None,
                Ok(permit) = paced(&mut self.pace, &process.outbox) => {
                    let percent = *self.pace.borrow_and_update();
                    match frames::to_worker(&ToWorker::Pace { percent }) {
                        Ok(frame) => permit.send(frame),
                        Err(error) => return Some(Death::Faulty(error.to_string())),
                    }
                }
                frame = process.frames.next() => match frame {
                    Some(Ok(message)) => {
                        life.heard = Instant::now();
                        if let Err(death) = self.hear(message, life) {
                            return Some(death);
                        }
                    }
                    Some(Err(error)) => return Some(Death::Faulty(format!("it broke the protocol: {error}"))),
                    None => return Some(Death::Exited),
                },
                Some(request) = self.inbox.recv() => self.handle(request, process, life),
                permit = process.outbox.reserve(), if !life.untold.is_empty() => match permit {
                    Ok(permit) => if let Some(frame) = life.tell() { permit.send(frame) },
                    Err(_) => return Some(Death::Exited),
                },
                _ = tick.tick() => if life.is_owed() && life.heard.elapsed() > STUCK {
                    return Some(Death::Faulty(format!("it was silent for {} s", STUCK.as_secs())));
                },
            }
        }
    }

    fn handle(&mut self, request: Request, process: &Process, life: &mut Life) {
        let Some(loaded) = &life.loaded else {
            return refuse(request, "the model is being loaded");
        };
        let full = life.jobs.len() >= 2 * loaded.slots as usize;
        match request {
            Request::Count { spec, reply } => {
                if life.counts.len() >= MAX_COUNTS {
                    let _ = reply.send(Err(EngineError::Full));
                    return;
                }
                let id = self.new_id();
                match enqueue(process, &ToWorker::Count { id, spec }) {
                    Ok(()) => drop(life.counts.insert(id, reply)),
                    Err(error) => drop(reply.send(Err(error))),
                }
            }
            Request::Generate { reply, .. } if full => drop(reply.send(Err(EngineError::Full))),
            Request::Generate { spec, credit, reply } => {
                let id = self.new_id();
                let credit = credit.min(MAX_CREDIT);
                // Room for every token there can be, and for what comes around them: no consumer makes others wait.
                let room = (spec.max_tokens as usize).saturating_sub(spec.prefix.len()) + 4;
                if let Err(error) = enqueue(process, &ToWorker::Generate { id, spec, credit }) {
                    let _ = reply.send(Err(error));
                    return;
                }
                let (events, receiver) = mpsc::channel(room);
                let (grants, allowances) = mpsc::channel(4);
                tokio::spawn(forward(id, allowances, self.own.clone()));
                life.jobs.insert(id, Job { events, owed: credit, grant: 0, cancelled: false });
                self.metrics.running.set(life.jobs.len().cast_signed() as i64);
                // A caller that is gone drops the generation, which cancels the job.
                let _ = reply.send(Ok(Generation::new(receiver, grants)));
            }
            Request::Grant { id, tokens } => life.grant(id, tokens),
            Request::Cancel { id } => life.cancel(id),
        }
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Takes what the child says. An error is a rule that it broke, or its failure to load.
    fn hear(&mut self, message: FromWorker, life: &mut Life) -> Result<(), Death> {
        match message {
            FromWorker::Loading { percent } if life.loaded.is_none() => {
                self.board.set(EngineState::Loading { percent: percent.min(100) });
            }
            FromWorker::Loaded(loaded) if life.loaded.is_none() => {
                let (model, warnings) = describe(&self.settings, &loaded);
                tracing::info!(
                    model = %model.model, device = %model.device.name, context = model.context, slots = model.slots,
                    milli_tokens_per_second = model.speed, layers = loaded.layers, vocabulary = loaded.vocabulary,
                    architecture = loaded.architecture, "the model is loaded"
                );
                self.board.ready(model, warnings);
                life.loaded = Some(loaded);
            }
            FromWorker::LoadFailed { reason } if life.loaded.is_none() => return Err(Death::LoadFailed(reason)),
            FromWorker::Loading { .. } | FromWorker::Loaded(_) | FromWorker::LoadFailed { .. } => {
                return Err(Death::Faulty("it broke the protocol: loaded twice".to_owned()));
            }
            FromWorker::Counted { id, result } => {
                if let Some(reply) = life.counts.remove(&id) {
                    let _ = reply.send(result.map_err(EngineError::from));
                }
            }
            FromWorker::Started { id } => life.event(id, EngineEvent::Started),
            FromWorker::Token { id, token, text, logprobs } => {
                if let Some(job) = life.jobs.get_mut(&id) {
                    job.owed = job.owed.checked_sub(1).ok_or_else(|| {
                        Death::Faulty("it broke the protocol: a token beyond the allowance".to_owned())
                    })?;
                    self.metrics.tokens.inc();
                    life.event(id, EngineEvent::Token { id: Some(token), text, logprobs });
                }
            }
            FromWorker::Embeddings { id, vectors } => life.event(id, EngineEvent::Embeddings(vectors)),
            FromWorker::Finished { id, finish, text } => {
                life.event(id, EngineEvent::Finished { finish, text });
                life.jobs.remove(&id);
                self.metrics.running.set(life.jobs.len().cast_signed() as i64);
            }
            FromWorker::Failed { id, failure } => {
                life.event(id, EngineEvent::Failed(failure.into()));
                life.jobs.remove(&id);
                self.metrics.running.set(life.jobs.len().cast_signed() as i64);
            }
        }
        Ok(())
    }
}

impl Life {
    /// Tells a job's consumer; one that is gone or does not keep up ends its job.
    fn event(&mut self, id: u64, event: EngineEvent) {
        let Some(job) = self.jobs.get(&id) else { return };
        if !job.cancelled && job.events.try_send(event).is_err() {
            self.cancel(id);
        }
    }

    fn grant(&mut self, id: u64, tokens: u32) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let tokens = tokens.min(MAX_CREDIT - job.owed.min(MAX_CREDIT));
        if tokens > 0 && !job.cancelled {
            job.owed += tokens;
            if job.grant == 0 {
                self.untold.push_back(id);
            }
            job.grant += tokens;
        }
    }

    fn cancel(&mut self, id: u64) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if !job.cancelled {
            job.cancelled = true;
            self.untold.push_back(id);
        }
    }

    /// The next frame that the child was not told yet.
    fn tell(&mut self) -> Option<Vec<u8>> {
        let id = self.untold.pop_front()?;
        let job = self.jobs.get_mut(&id)?;
        let message = if job.cancelled {
            ToWorker::Cancel { id }
        } else {
            ToWorker::Grant { id, tokens: std::mem::take(&mut job.grant) }
        };
        frames::to_worker(&message).ok()
    }

    /// Whether the child has something to say.
    fn is_owed(&self) -> bool {
        self.loaded.is_none()
            || !self.counts.is_empty()
            || self.jobs.values().any(|job| job.cancelled || job.owed > 0)
    }

    fn fail_all(self, error: &EngineError) {
        for job in self.jobs.into_values() {
            let _ = job.events.try_send(EngineEvent::Failed(error.clone()));
        }
        for reply in self.counts.into_values() {
            let _ = reply.send(Err(error.clone()));
        }
    }
}

/// Room in the child's queue, once there is another pace to tell.
async fn paced<'a>(
    pace: &mut watch::Receiver<u8>,
    outbox: &'a mpsc::Sender<Vec<u8>>,
) -> Result<mpsc::Permit<'a, Vec<u8>>, EngineError> {
    pace.changed().await.map_err(|_| EngineError::Full)?;
    pace.mark_changed();
    outbox.reserve().await.map_err(|_| EngineError::Full)
}

fn enqueue(process: &Process, message: &ToWorker) -> Result<(), EngineError> {
    let frame = frames::to_worker(message).map_err(|error| EngineError::Failed(error.to_string()))?;
    process.outbox.try_send(frame).map_err(|_| EngineError::Full)
}

/// Carries a job's allowances to its supervisor, and its end: the consumer drops the other end.
async fn forward(id: u64, mut allowances: mpsc::Receiver<u32>, supervisor: mpsc::WeakSender<Request>) {
    loop {
        let next = allowances.recv().await;
        let Some(supervisor) = supervisor.upgrade() else { return };
        let request = match next {
            Some(tokens) => Request::Grant { id, tokens },
            None => Request::Cancel { id },
        };
        if supervisor.send(request).await.is_err() || next.is_none() {
            return;
        }
    }
}

fn refuse(request: Request, reason: &str) {
    let error = EngineError::NotReady(reason.to_owned());
    match request {
        Request::Count { reply, .. } => drop(reply.send(Err(error))),
        Request::Generate { reply, .. } => drop(reply.send(Err(error))),
        // About a job that ended with its child.
        Request::Grant { .. } | Request::Cancel { .. } => {}
    }
}

/// How long to wait after that many failures in a row: 1, 2, 4 ... 60 s.
fn retry_after(failures: u32) -> Duration {
    let doubled = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    FIRST_RETRY.saturating_mul(doubled).min(LONGEST_RETRY)
}

impl From<JobFailure> for EngineError {
    fn from(failure: JobFailure) -> Self {
        match failure {
            JobFailure::ContextTooSmall { needed, context } => Self::ContextTooSmall { needed, context },
            JobFailure::Unsupported(what) => Self::Unsupported(what),
            JobFailure::Failed(reason) => Self::Failed(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_minute() {
        let seconds: Vec<u64> = [1, 2, 3, 6, 7, 40, u32::MAX].map(|n| retry_after(n).as_secs()).into();
        assert_eq!(seconds, [1, 2, 4, 32, 60, 60, 60]);
    }
}
