//! Answers `/aitbc/challenge/1`: one verifier a slot, and only while no job runs and the owner's limits allow work.

use super::{ChallengeConfig, beacon_cell, memory};
use crate::{
    engine::{EngineState, EngineStatus},
    gpu::{
        power::PowerState,
        proving::{Memory, Prover, ProvingError},
    },
    network::{
        FramedStream, IncomingStream, StreamError,
        intake::{Busy, Limits},
    },
    storage::{StorageError, Store},
};
use aitbc_crypto::{SecretKey, signing};
use aitbc_protocol::{
    CLOCK_TOLERANCE_MS, NodeId, Nonce, Signed, UnixMillis,
    gpu::{
        challenge::{
            CACHE_ROWS, Cache, Key, Task,
            exchange::{
                Claim, LATE, MOST_WORK_MS, Opened, Refusal, Root, Shown, Slots, ToProver, ToVerifier, beacon,
                epoch_seed,
            },
            opened_lanes,
        },
        power::Running,
    },
    offer::{Load, MAX_SHOWN},
    wire::{MAX_CHALLENGE_FRAME, WireError},
};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};

#[cfg(test)]
mod tests;

/// A verifier asks once and then waits for what comes; a few ask at the same time, and one is answered.
pub(super) const LIMITS: Limits = Limits { streams: 8, per_peer: 1, burst: 3, interval: Duration::from_secs(20) };
/// How long a peer may take for a message that needs no work.
const MESSAGE: Duration = Duration::from_secs(10);
/// How long a verifier may take to recompute what it was shown.
const VERDICT: Duration = Duration::from_secs(120);
/// A walk may take so many times as long as it should before it is given up.
const SLACK: u32 = 4;

/// How long the others are waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For a message that needs no work.
    message: Duration,
    /// For the child's walk.
    walk: Duration,
    /// For what the verifier has found.
    verdict: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let walk = Duration::from_millis(MOST_WORK_MS) * SLACK;
        Self { message: MESSAGE, walk, verdict: VERDICT }
    }
}

/// Why a challenge was not answered to its end.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Proving(#[from] ProvingError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("{0}")]
    Refused(Refusal),
    #[error("the verifier found: {0}")]
    Failed(String),
    #[error("the verifier said something else")]
    OutOfTurn,
}

/// What was walked, and how fast this node says its memory is.
struct Proved {
    task: Task,
    told: u64,
}

/// Names the process that uses the GPU as the node's own, for as long as it lives.
struct Named<'a>(&'a watch::Sender<Option<u32>>);

impl<'a> Named<'a> {
    fn new(process: &'a watch::Sender<Option<u32>>, id: Option<u32>) -> Self {
        process.send_replace(id);
        Self(process)
    }
}

impl Drop for Named<'_> {
    fn drop(&mut self) {
        self.0.send_replace(None);
    }
}

/// Reads the wall clock.
type Clock = Box<dyn Fn() -> UnixMillis + Send + Sync>;
/// Starts the child that proves.
type Starter = Box<dyn Fn(&Path, Memory) -> Result<Prover, ProvingError> + Send + Sync>;

/// What challenges are answered with.
pub(super) struct ServerParts {
    pub(super) key: SecretKey,
    pub(super) store: Store,
    pub(super) power: watch::Receiver<Arc<PowerState>>,
    pub(super) load: watch::Receiver<Load>,
    pub(super) engines: watch::Receiver<Arc<Vec<EngineStatus>>>,
    pub(super) shown: watch::Sender<Vec<Signed<Shown>>>,
    pub(super) process: watch::Sender<Option<u32>>,
    pub(super) clock: Clock,
    pub(super) start: Starter,
    pub(super) patience: Patience,
}

/// Answers challenges.
pub(super) struct Server {
    config: ChallengeConfig,
    key: SecretKey,
    store: Store,
    power: watch::Receiver<Arc<PowerState>>,
    load: watch::Receiver<Load>,
    engines: watch::Receiver<Arc<Vec<EngineStatus>>>,
    shown: watch::Sender<Vec<Signed<Shown>>>,
    process: watch::Sender<Option<u32>>,
    clock: Clock,
    start: Starter,
    patience: Patience,
    /// One data set at a time.
    place: Semaphore,
    /// The last slot that somebody has booked: one verifier each, whatever becomes of it.
    booked: AtomicU64,
}

impl Server {
    pub(super) fn new(config: ChallengeConfig, parts: ServerParts) -> Arc<Self> {
        let ServerParts { key, store, power, load, engines, shown, process, clock, start, patience } = parts;
        let (place, booked) = (Semaphore::new(1), AtomicU64::new(0));
        Arc::new(Self {
            config,
            key,
            store,
            power,
            load,
            engines,
            shown,
            process,
            clock,
            start,
            patience,
            place,
            booked,
        })
    }

    /// Puts what was shown before a restart, and still stands, into the offer again.
    pub(super) async fn recall(&self) {
        let store = self.store.clone();
        match tokio::task::spawn_blocking(move || store.shown()).await {
            Ok(Ok(kept)) => drop(self.shown.send_replace(standing(kept, self.now_ms()))),
            Ok(Err(error)) => tracing::warn!(%error, "what was shown in challenges before cannot be read"),
            Err(error) => tracing::error!(%error, "reading what was shown before"),
        }
    }

    /// Answers one verifier.
    pub(super) async fn serve(self: Arc<Self>, incoming: IncomingStream, turn: Result<(), Busy>) {
        let IncomingStream { peer, mut stream } = incoming;
        let result = match turn {
            Ok(()) => self.answer(peer, &mut stream).await,
            Err(_) => Err(ServeError::Refused(Refusal::TooOften)),
        };
        let refusal = match &result {
            Ok(()) => return,
            Err(ServeError::Refused(refusal)) => *refusal,
            Err(ServeError::Proving(error)) => {
                tracing::warn!(%error, "a challenge was not answered");
                Refusal::Failed
            }
            Err(error) => {
                tracing::info!(peer = %peer.short(), %error, "a challenge came to nothing");
                return;
            }
        };
        tracing::debug!(peer = %peer.short(), %refusal, "challenge refused");
        // Who does not read it has its answer all the same.
        let _ =
            timeout(self.patience.message, stream.send(&ToVerifier::Refused(refusal), MAX_CHALLENGE_FRAME)).await;
    }

    async fn answer(&self, peer: NodeId, stream: &mut FramedStream) -> Result<(), ServeError> {
        let ToProver::Book { slot, cell } = receive(stream, self.patience.message).await? else {
            return Err(ServeError::OutOfTurn);
        };
        if cell != beacon_cell(self.config.cell) {
            return Err(ServeError::Refused(Refusal::Cell));
        }
        if !Slots::of(&self.config.network).is_open(slot, self.now_ms()) {
            return Err(ServeError::Refused(Refusal::Slot));
        }
        if !self.config.provides {
            return Err(ServeError::Refused(Refusal::NoMemory));
        }
        if !self.is_idle() {
            return Err(ServeError::Refused(Refusal::Busy));
        }
        if self.booked.fetch_max(slot, Ordering::Relaxed) >= slot {
            return Err(ServeError::Refused(Refusal::Taken));
        }
        let Ok(place) = self.place.try_acquire() else { return Err(ServeError::Refused(Refusal::Taken)) };
        let binary = match &self.config.worker {
            Some(worker) => worker.clone(),
            None => std::env::current_exe().map_err(ProvingError::Process)?,
        };
        let power = self.power.borrow().clone();
        let (claim, memory) = match memory::claim(&self.config, &binary, &power, slot).await {
            Ok(found) => found,
            Err(error) => {
                tracing::info!(%error, "no memory can be shown in a challenge");
                return Err(ServeError::Refused(Refusal::NoMemory));
            }
        };
        self.say(stream, &ToVerifier::Booked(claim.clone())).await?;
        let mut prover = (self.start)(&binary, memory)?;
        // One that only pretends uses no GPU.
        let named = Named::new(&self.process, prover.id().filter(|_| memory != Memory::Machine));
        // A job that comes in the middle wins: whoever pays for it waits for nobody.
        let proved = tokio::select! {
            biased;
            proved = self.prove(&mut prover, stream, &claim, slot) => proved,
            () = self.busy() => Err(ServeError::Refused(Refusal::Busy)),
        };
        prover.end().await;
        drop((named, place));
        let proved = proved?;
        match receive(stream, self.patience.verdict).await? {
            ToProver::Shown(shown) => self.keep(peer, &claim, &proved, shown).await,
            ToProver::Failed(reason) => Err(ServeError::Failed(reason.to_string())),
            _ => Err(ServeError::OutOfTurn),
        }
    }

    /// Derives, walks when the verifier says so, and opens.
    async fn prove(
        &self,
        prover: &mut Prover,
        stream: &mut FramedStream,
        claim: &Claim,
        slot: u64,
    ) -> Result<Proved, ServeError> {
        let (network, me) = (&self.config.network, self.key.node_id());
        let cell = beacon_cell(self.config.cell);
        let beacon = beacon(network, &cell, slot);
        let starts_ms = Slots::of(network).starts_ms(slot);
        let until_start =
            |later_ms: u64| Duration::from_millis((starts_ms + later_ms).saturating_sub(self.now_ms()));
        let seed = epoch_seed(network, starts_ms);
        let data = Key::new(&me, &beacon, &Nonce([0; 16])).data;
        let failed = |_| ServeError::Refused(Refusal::Failed);
        let told = timeout(until_start(CLOCK_TOLERANCE_MS), prover.derive(seed, data, claim.items())).await;
        let told = told.map_err(failed)??;
        self.say(stream, &ToVerifier::Ready { rate: told }).await?;
        let (nonce, task) = match receive(stream, until_start(CLOCK_TOLERANCE_MS)).await? {
            ToProver::Walk { nonce, task } => (nonce, task),
            ToProver::Failed(reason) => return Err(ServeError::Failed(reason.to_string())),
            _ => return Err(ServeError::OutOfTurn),
        };
        if !task.is_bearable(claim.items(), told) {
            return Err(ServeError::Refused(Refusal::Task));
        }
        let root = timeout(self.patience.walk, prover.walk(Key::new(&me, &beacon, &nonce).walk, task)).await;
        let root = root.map_err(failed)??;
        let root = Root { verifier: stream.peer(), cell, slot, nonce, task, root };
        self.say(stream, &ToVerifier::Root(signing::seal(&self.key, network, &root)?)).await?;
        let nonce = match receive(stream, self.patience.message).await? {
            ToProver::Open { nonce } => nonce,
            ToProver::Failed(reason) => return Err(ServeError::Failed(reason.to_string())),
            _ => return Err(ServeError::OutOfTurn),
        };
        let openings =
            timeout(self.patience.message, prover.open(opened_lanes(&nonce, &root.root, task.lanes))).await;
        let opened = Opened { root, nonce, openings: openings.map_err(failed)?? };
        let opened = self.look_over(seed, opened).await?;
        self.say(stream, &ToVerifier::Opened(signing::seal(&self.key, network, &opened)?)).await?;
        Ok(Proved { task, told })
    }

    /// What is wrong and signed is evidence for ever. Memory without error correction that is clocked too high, or a driver
    /// that computes wrongly, must not make it.
    async fn look_over(&self, seed: [u8; 32], opened: Opened) -> Result<Opened, ServeError> {
        let (network, me) = (self.config.network.clone(), self.key.node_id());
        let looked = tokio::task::spawn_blocking(move || {
            opened.check(&Cache::new(&seed, CACHE_ROWS), &network, &me).map(|()| opened)
        });
        match looked.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())) {
            Ok(opened) => Ok(opened),
            Err(wrong) => {
                tracing::error!(%wrong, "this GPU computed wrongly: lower its clocks, or update its driver");
                Err(ServeError::Refused(Refusal::Failed))
            }
        }
    }

    async fn say(&self, stream: &mut FramedStream, message: &ToVerifier) -> Result<(), ServeError> {
        let patience = self.patience.message;
        match timeout(patience, stream.send(message, MAX_CHALLENGE_FRAME)).await {
            Ok(sent) => Ok(sent?),
            Err(_) => Err(StreamError::Timeout(patience).into()),
        }
    }

    fn now_ms(&self) -> UnixMillis {
        (self.clock)()
    }

    fn is_idle(&self) -> bool {
        let Load { running, queued } = *self.load.borrow();
        let decision = &self.power.borrow().decision;
        // A model that loads needs the memory that seems free.
        let settled = |engine: &EngineStatus| {
            !matches!(engine.state, EngineState::Loading { .. } | EngineState::BackingOff { .. })
        };
        self.engines.borrow().iter().all(settled)
            && running == 0
            && queued == 0
            && decision.slots > 0
            && decision.running == Running::GoOn
    }

    /// Returns once a job comes or the limits change their mind.
    async fn busy(&self) {
        let (mut load, mut power, mut engines) = (self.load.clone(), self.power.clone(), self.engines.clone());
        while self.is_idle() {
            tokio::select! {
                Ok(()) = load.changed() => {}
                Ok(()) = power.changed() => {}
                Ok(()) = engines.changed() => {}
                else => sleep(MESSAGE).await,
            }
        }
    }

    /// Takes a verifier's word into the offer and onto the disk: the newest of each verifier, the newest of all first.
    async fn keep(
        &self,
        peer: NodeId,
        claim: &Claim,
        proved: &Proved,
        signed: Signed<Shown>,
    ) -> Result<(), ServeError> {
        let Ok(shown) = signing::open(&signed, &self.config.network) else { return Err(ServeError::OutOfTurn) };
        let own = signed.signer() == peer && shown.prover == self.key.node_id();
        // Nobody else saw the clock, but everybody knows what was walked.
        let told = proved.told / LATE..=proved.told;
        if shown.bytes != proved.task.bytes() || !told.contains(&shown.rate) {
            return Err(ServeError::OutOfTurn);
        }
        if !own
            || shown.device != claim.device
            || shown.simulated != claim.simulated
            || !shown.stands(self.now_ms())
        {
            return Err(ServeError::OutOfTurn);
        }
        tracing::info!(peer = %peer.short(), bytes = shown.bytes, rate = shown.rate, "memory shown in a challenge");
        let mut kept = self.shown.borrow().clone();
        kept.retain(|known| known.signer() != peer);
        kept.insert(0, signed);
        let kept = standing(kept, self.now_ms());
        let (store, records) = (self.store.clone(), kept.clone());
        let written = tokio::task::spawn_blocking(move || store.put_shown(&records)).await;
        self.shown.send_replace(kept);
        written.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
        Ok(())
    }
}

/// Those that still stand, as many as an offer holds.
fn standing(mut kept: Vec<Signed<Shown>>, now: UnixMillis) -> Vec<Signed<Shown>> {
    kept.retain(|signed| signed.read_unverified().is_ok_and(|shown| shown.stands(now)));
    kept.truncate(MAX_SHOWN);
    kept
}

async fn receive(stream: &mut FramedStream, patience: Duration) -> Result<ToProver, ServeError> {
    match timeout(patience, stream.receive(MAX_CHALLENGE_FRAME)).await {
        Ok(Ok(Some(message))) => Ok(message),
        Ok(Ok(None)) => Err(StreamError::Closed("the verifier left".to_owned()).into()),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(StreamError::Timeout(patience).into()),
    }
}
