//! A simulated engine: it computes nothing, and says as many tokens as it is asked for, at a speed, in virtual time. What it
//! says of itself need not be what it does.

use super::{
    Backend, EngineError, EngineEvent, EngineHandle, EngineModel, EngineState, EngineStatus, Generation,
    PrivateConfig, Shared, loading,
    supervisor::{INBOX, Request},
};
use aitbc_protocol::job::{Finish, Input, JobSpec};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Milli-tokens a second at which all read prompts.
const PREFILL: u64 = 400_000;
/// Tokens that are ready within this time come together.
const BEAT_MS: u64 = 1_000;
/// Bytes of a prompt that are one token.
const TOKEN_BYTES: usize = 4;

/// What goes wrong with jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    None,
    /// So many of a thousand are lost without a word.
    Silent(u32),
    /// So many of a thousand are stopped.
    Stops(u32),
}

/// A machine that runs one model.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// What it says of itself.
    pub(crate) model: EngineModel,
    /// What it really decodes, in milli-tokens a second and stream.
    pub(crate) speed: u64,
    /// Jobs at a time; others wait.
    pub(crate) streams: usize,
    pub(crate) flaw: Flaw,
    pub(crate) seed: u64,
}

/// Starts it; or engines without any model.
pub(crate) fn start(machine: Option<Machine>) -> EngineHandle {
    let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
    let (mut backends, mut statuses) = (Vec::new(), Vec::new());
    if let Some(machine) = &machine {
        let status = loading(&machine.model.model);
        let models = vec![machine.model.clone()];
        statuses.push(EngineStatus { state: EngineState::Ready, models, ..status });
    }
    let (board, status) = watch::channel(Arc::new(statuses));
    if let Some(machine) = machine {
        let (requests, inbox) = mpsc::channel(INBOX);
        let (model, weights) = (machine.model.model.clone(), machine.model.weights);
        backends.push(Backend::Child { model, weights, requests });
        tasks.spawn(serve(machine, inbox, tasks.clone(), board, cancel.clone()));
    } else {
        let ended = cancel.clone();
        tasks.spawn(async move {
            ended.cancelled().await;
            drop(board);
        });
    }
    let shared = Shared {
        status,
        backends,
        pace: watch::Sender::new(100),
        evaluation_keys: super::fhe::key_store(&PrivateConfig::default()),
        tasks,
        cancel: cancel.clone(),
        _cancel_on_drop: cancel.drop_guard(),
    };
    EngineHandle { shared: Arc::new(shared) }
}

/// Takes requests until it is ended; the board lives as long.
async fn serve(
    machine: Machine,
    mut inbox: mpsc::Receiver<Request>,
    tasks: TaskTracker,
    _board: watch::Sender<Arc<Vec<EngineStatus>>>,
    cancel: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(machine.streams));
    let mut random = StdRng::seed_from_u64(machine.seed);
    while let Some(Some(request)) = cancel.run_until_cancelled(inbox.recv()).await {
        match request {
            // Whoever asked may have left.
            Request::Count { spec, reply } => drop(reply.send(Ok(prompt_tokens(&spec)))),
            Request::Generate { spec, credit, reply } => {
                let tokens = spec.completion_tokens();
                let (breaks, silent) = match machine.flaw {
                    Flaw::None => (false, false),
                    Flaw::Silent(share) => (random.random_range(0..1_000) < share, true),
                    Flaw::Stops(share) => (random.random_range(0..1_000) < share, false),
                };
                let ends_at = if breaks { random.random_range(0..tokens.max(1)) } else { tokens };
                let (events, told) = mpsc::channel(INBOX);
                let (granter, grants) = mpsc::channel(INBOX);
                let job = Job { spec, speed: machine.speed, ends_at, silent, credit, events, grants };
                tasks.spawn(job.run(places.clone(), cancel.clone()));
                let _ = reply.send(Ok(Generation::new(told, granter)));
            }
            Request::Grant { .. } | Request::Cancel { .. } => {}
        }
    }
}

fn prompt_tokens(spec: &JobSpec) -> u32 {
    let bytes = match &spec.input {
        Input::Text(text) => text.len(),
        other => other.text_bytes(),
    };
    (bytes / TOKEN_BYTES) as u32
}

struct Job {
    spec: JobSpec,
    speed: u64,
    /// How many tokens it says.
    ends_at: u32,
    /// Whether it says nothing more where it ends too soon.
    silent: bool,
    credit: u32,
    events: mpsc::Sender<EngineEvent>,
    grants: mpsc::Receiver<u32>,
}

impl Job {
    /// Runs until it is over, nobody listens any more or the machine is ended.
    async fn run(mut self, places: Arc<Semaphore>, cancel: CancellationToken) {
        let events = self.events.clone();
        tokio::select! {
            biased;
            () = cancel.cancelled() => {}
            () = events.closed() => {}
            () = self.say(places) => {}
        }
    }

    async fn say(&mut self, places: Arc<Semaphore>) {
        let _place = places.acquire().await.expect("the semaphore is never closed");
        self.tell(EngineEvent::Started).await;
        let prompt = u64::from(prompt_tokens(&self.spec));
        sleep(Duration::from_millis(prompt * 1_000_000 / PREFILL)).await;
        let token_ms = 1_000_000 / self.speed;
        let together = (BEAT_MS / token_ms).max(1) as u32;
        let first = self.spec.prefix_tokens();
        let mut said = 0;
        while said < self.ends_at {
            // The first one comes alone, as soon as it is there.
            let next = if said == 0 { 1 } else { together.min(self.ends_at - said) };
            sleep(Duration::from_millis(token_ms * u64::from(next))).await;
            for _ in 0..next {
                while self.credit == 0 {
                    let Some(more) = self.grants.recv().await else { return };
                    self.credit += more;
                }
                self.credit -= 1;
                let id = first + said;
                self.tell(EngineEvent::Token { id: Some(id), text: format!(" {id}"), logprobs: None }).await;
                said += 1;
            }
        }
        if said == self.spec.completion_tokens() {
            let finish = EngineEvent::Finished { finish: Finish::Length, text: String::new() };
            self.tell(finish).await;
        } else if self.silent {
            self.events.closed().await;
        } else {
            self.tell(EngineEvent::Failed(EngineError::Crashed("it was stopped".to_owned()))).await;
        }
    }

    async fn tell(&self, event: EngineEvent) {
        // Where nobody listens, the job is over at its next wait.
        let _ = self.events.send(event).await;
    }
}
