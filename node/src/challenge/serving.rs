//! Answers `/aitbc/challenge/1`: one verifier a slot, and only while no job runs and the owner's limits allow work.

use super::{ChallengeConfig, beacon_cell, memory};
use crate::{
    clock::now_ms,
    gpu::{
        power::PowerState,
        proving::{Prover, ProvingError},
    },
    network::{
        FramedStream, IncomingStream, StreamError,
        intake::{Busy, Limits},
    },
    storage::{StorageError, Store},
};
use aitbc_crypto::{SecretKey, signing};
use aitbc_protocol::{
    CLOCK_TOLERANCE_MS, NodeId, Nonce, Signed,
    gpu::{
        challenge::{
            Key, Task,
            exchange::{
                Claim, MOST_WORK_MS, Opened, Refusal, Root, Shown, Slots, ToProver, ToVerifier, beacon, epoch_seed,
            },
            opened_lanes,
        },
        power::Running,
    },
    offer::{Load, MAX_SHOWN},
    wire::{MAX_CHALLENGE_FRAME, WireError},
};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};

/// A verifier asks once and then waits for what comes; a few ask at the same time, and one is answered.
pub(super) const LIMITS: Limits = Limits { streams: 8, per_peer: 1, burst: 3, interval: Duration::from_secs(20) };
/// How long a peer may take for a message that needs no work.
const MESSAGE: Duration = Duration::from_secs(10);
/// How long a verifier may take to recompute what it was shown.
const VERDICT: Duration = Duration::from_secs(120);
/// A walk may take so many times as long as it should before it is given up.
const SLACK: u32 = 4;

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

/// Answers challenges.
#[derive(Debug)]
pub(super) struct Server {
    config: ChallengeConfig,
    key: SecretKey,
    store: Store,
    power: watch::Receiver<Arc<PowerState>>,
    load: watch::Receiver<Load>,
    shown: watch::Sender<Vec<Signed<Shown>>>,
    process: watch::Sender<Option<u32>>,
    /// One data set at a time.
    place: Semaphore,
}

impl Server {
    pub(super) fn new(
        config: ChallengeConfig,
        key: SecretKey,
        store: Store,
        power: watch::Receiver<Arc<PowerState>>,
        load: watch::Receiver<Load>,
        shown: watch::Sender<Vec<Signed<Shown>>>,
        process: watch::Sender<Option<u32>>,
    ) -> Arc<Self> {
        Arc::new(Self { config, key, store, power, load, shown, process, place: Semaphore::new(1) })
    }

    /// Puts what was shown before a restart, and still stands, into the offer again.
    pub(super) async fn recall(&self) {
        let store = self.store.clone();
        match tokio::task::spawn_blocking(move || store.shown()).await {
            Ok(Ok(kept)) => drop(self.shown.send_replace(standing(kept))),
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
        let _ = timeout(MESSAGE, stream.send(&ToVerifier::Refused(refusal), MAX_CHALLENGE_FRAME)).await;
    }

    async fn answer(&self, peer: NodeId, stream: &mut FramedStream) -> Result<(), ServeError> {
        let ToProver::Book { slot, cell } = receive(stream, MESSAGE).await? else {
            return Err(ServeError::OutOfTurn);
        };
        let slots = Slots::of(&self.config.network);
        if cell != beacon_cell(self.config.cell) {
            return Err(ServeError::Refused(Refusal::Cell));
        }
        if !slots.is_open(slot, now_ms()) {
            return Err(ServeError::Refused(Refusal::Slot));
        }
        if !self.config.provides {
            return Err(ServeError::Refused(Refusal::NoMemory));
        }
        if !self.is_idle() {
            return Err(ServeError::Refused(Refusal::Busy));
        }
        let Ok(_place) = self.place.try_acquire() else { return Err(ServeError::Refused(Refusal::Taken)) };
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
        stream.send(&ToVerifier::Booked(claim.clone()), MAX_CHALLENGE_FRAME).await?;
        let mut prover = Prover::start(&binary, memory)?;
        let named = Named::new(&self.process, prover.id());
        let key = Key::new(&self.key.node_id(), &beacon(&self.config.network, &cell, slot), &Nonce([0; 16]));
        let seed = epoch_seed(&self.config.network, slots.starts_ms(slot));
        let until_walk = slots.starts_ms(slot).saturating_add(CLOCK_TOLERANCE_MS).saturating_sub(now_ms());
        let until_walk = Duration::from_millis(until_walk);
        let work = async {
            let rate = prover.derive(seed, key.data, claim.items()).await?;
            stream.send(&ToVerifier::Ready { rate }, MAX_CHALLENGE_FRAME).await?;
            let (nonce, task) = match receive(stream, until_walk).await? {
                ToProver::Walk { nonce, task } => (nonce, task),
                ToProver::Failed(reason) => return Err(ServeError::Failed(reason.to_string())),
                _ => return Err(ServeError::OutOfTurn),
            };
            check(&task, &claim, rate)?;
            let walk = Key::new(&self.key.node_id(), &beacon(&self.config.network, &cell, slot), &nonce).walk;
            let patience = Duration::from_millis(MOST_WORK_MS) * SLACK;
            let root = timeout(patience, prover.walk(walk, task)).await;
            let root = root.map_err(|_| ServeError::Refused(Refusal::Failed))??;
            let root = Root { verifier: peer, cell, slot, nonce, task, root };
            let signed = signing::seal(&self.key, &self.config.network, &root)?;
            stream.send(&ToVerifier::Root(signed), MAX_CHALLENGE_FRAME).await?;
            let nonce = match receive(stream, MESSAGE).await? {
                ToProver::Open { nonce } => nonce,
                ToProver::Failed(reason) => return Err(ServeError::Failed(reason.to_string())),
                _ => return Err(ServeError::OutOfTurn),
            };
            let openings = prover.open(opened_lanes(&nonce, &root.root, task.lanes)).await?;
            let opened = signing::seal(&self.key, &self.config.network, &Opened { root, nonce, openings })?;
            stream.send(&ToVerifier::Opened(opened), MAX_CHALLENGE_FRAME).await?;
            Ok(())
        };
        // A job that comes in the middle wins: whoever pays for it waits for nobody.
        tokio::select! {
            biased;
            result = work => result?,
            () = self.busy() => return Err(ServeError::Refused(Refusal::Busy)),
        }
        drop((prover, named));
        match receive(stream, VERDICT).await? {
            ToProver::Shown(shown) => self.keep(peer, &claim, shown).await,
            ToProver::Failed(reason) => Err(ServeError::Failed(reason.to_string())),
            _ => Err(ServeError::OutOfTurn),
        }
    }

    fn is_idle(&self) -> bool {
        let Load { running, queued } = *self.load.borrow();
        let decision = &self.power.borrow().decision;
        running == 0 && queued == 0 && decision.slots > 0 && decision.running == Running::GoOn
    }

    /// Returns once a job comes or the limits change their mind.
    async fn busy(&self) {
        let (mut load, mut power) = (self.load.clone(), self.power.clone());
        while self.is_idle() {
            tokio::select! {
                Ok(()) = load.changed() => {}
                Ok(()) = power.changed() => {}
                else => sleep(MESSAGE).await,
            }
        }
    }

    /// Takes a verifier's word into the offer and onto the disk: the newest of each verifier, the newest of all first.
    async fn keep(&self, peer: NodeId, claim: &Claim, signed: Signed<Shown>) -> Result<(), ServeError> {
        let Ok(shown) = signing::open(&signed, &self.config.network) else { return Err(ServeError::OutOfTurn) };
        let own = signed.signer() == peer && shown.prover == self.key.node_id();
        if !own || shown.device != claim.device || shown.simulated != claim.simulated || !shown.stands(now_ms()) {
            return Err(ServeError::OutOfTurn);
        }
        tracing::info!(peer = %peer.short(), bytes = shown.bytes, rate = shown.rate, "memory shown in a challenge");
        let mut kept = self.shown.borrow().clone();
        kept.retain(|known| known.signer() != peer);
        kept.insert(0, signed);
        let kept = standing(kept);
        let (store, records) = (self.store.clone(), kept.clone());
        let written = tokio::task::spawn_blocking(move || store.put_shown(&records)).await;
        self.shown.send_replace(kept);
        written.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
        Ok(())
    }
}

/// Those that still stand, as many as an offer holds.
fn standing(mut kept: Vec<Signed<Shown>>) -> Vec<Signed<Shown>> {
    let now = now_ms();
    kept.retain(|signed| signed.read_unverified().is_ok_and(|shown| shown.stands(now)));
    kept.truncate(MAX_SHOWN);
    kept
}

/// Whether the walk asked for is over what was claimed, and not longer than anybody may ask for.
fn check(task: &Task, claim: &Claim, rate: u64) -> Result<(), ServeError> {
    let fits = task.check().is_ok() && task.items == claim.items() && task.lasts_ms(rate) <= MOST_WORK_MS * 2;
    if fits { Ok(()) } else { Err(ServeError::Refused(Refusal::Task)) }
}

async fn receive(stream: &mut FramedStream, patience: Duration) -> Result<ToProver, ServeError> {
    match timeout(patience, stream.receive(MAX_CHALLENGE_FRAME)).await {
        Ok(Ok(Some(message))) => Ok(message),
        Ok(Ok(None)) => Err(StreamError::Closed("the verifier left".to_owned()).into()),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(StreamError::Timeout(patience).into()),
    }
}
