//! Has others show the memory that they claim.

use super::beacon_cell;
use crate::{
    clock::now_ms,
    netcheck,
    network::{FramedStream, NetworkError, NetworkHandle, Protocol, StreamError},
};
use aitbc_crypto::{SecretKey, SignatureError, signing};
use aitbc_protocol::{
    NetworkId, NodeId, Nonce, Signed, UnixMillis,
    evidence::Evidence,
    geo::Cell,
    gpu::challenge::{
        CACHE_ROWS, Cache, Task, TaskError, WrongAnswer,
        exchange::{
            Claim, LATE, Late, Opened, Refusal, Root, SHOWN_LIFETIME_MS, Shown, Slots, ToProver, ToVerifier,
            epoch_seed, shown_rate,
        },
    },
    text::Line,
    wire::{MAX_CHALLENGE_FRAME, WireError},
};
use serde::Serialize;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{Semaphore, mpsc},
    time::{Instant, sleep, timeout},
};

/// How long a message that needs no work may take.
const MESSAGE: Duration = Duration::from_secs(10);
/// An answer that is just in time may wait so long for this process.
const GRACE: Duration = Duration::from_millis(200);
/// How long a prover may take to open lanes: it looks them over before it signs.
const OPENING: Duration = Duration::from_secs(120);
/// Round trips measured before the walk.
const PINGS: usize = 5;
/// Challenges at a time: each holds a cache of 16 MiB, and recomputing takes a processor for a while.
const AT_ONCE: usize = 2;

/// Why nothing was found out.
#[derive(Debug, thiserror::Error)]
pub enum ChallengeError {
    /// Too many at a time.
    #[error("{AT_ONCE} challenges run already: wait for one to end")]
    Busy,
    /// It offers nothing.
    #[error("{0} offers nothing that is known here: `aitbc find` lists who does")]
    NoOffer(String),
    /// It cannot be reached.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The stream broke.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// No round trip could be measured.
    #[error("its round trip cannot be measured: {0}")]
    Ping(#[from] netcheck::PingError),
    /// It refuses.
    #[error("it refuses: {0}")]
    Refused(#[from] Refusal),
    /// No walk suits what it claims.
    #[error("no challenge suits what it claims: {0}")]
    Task(#[from] TaskError),
    /// It only pretends, where that earns nothing.
    #[error("it says itself that its memory is simulated, which shows nothing")]
    Simulated,
    /// It says that it is so slow that a walk would show nothing.
    #[error(
        "it says that it reads {told} bytes a second at random: below {least} a card could derive what it does not keep, and \
         nothing is shown"
    )]
    TooSlow {
        /// What it says.
        told: u64,
        /// What would show something.
        least: u64,
    },
    /// Its data set is not there when the slot begins.
    #[error("its data set was not ready when the slot began: it is slow, or busy")]
    NotReady,
    /// It said something else.
    #[error("it said something else than what was asked")]
    OutOfTurn,
    /// It signed for another walk, or not rightly.
    #[error("what it signed is not an answer to this challenge: {0}")]
    Signature(#[from] SignatureError),
    /// Nothing could be written.
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// Where a challenge stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Progress {
    /// Nothing is asked yet.
    Waiting {
        /// How long until the next slot can be booked.
        in_ms: u64,
    },
    /// The slot is taken.
    Booked {
        /// What the peer claims.
        claim: Claim,
        /// How long until the slot begins.
        in_ms: u64,
    },
    /// The data set is there.
    Ready {
        /// Bytes a second of random reads that the peer says it reaches.
        rate: u64,
    },
    /// It walks.
    Walking {
        /// How long it should take.
        lasts_ms: u64,
    },
    /// The root is there; lanes are recomputed.
    Checking {
        /// After how long it came.
        after_ms: u64,
    },
}

/// What a challenge has found out.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "finding", rename_all = "snake_case")]
pub enum Finding {
    /// The memory is there, and as fast as it says.
    Shown {
        /// What was shown.
        shown: Shown,
        /// Milliseconds of one processor that recomputing took.
        checking_ms: u64,
    },
    /// The answer came too late for it. Only this node saw that.
    Late {
        /// What it showed and what it told; nothing was shown where no answer came in time.
        shown: u64,
        /// Bytes a second that it told.
        told: u64,
    },
    /// The answer is wrong, and signed: anybody can see that.
    Wrong {
        /// What is wrong.
        reason: String,
        /// The peer's own words.
        evidence: Signed<Opened>,
    },
}

impl Finding {
    /// What speaks against the peer by its own words.
    pub fn evidence(&self) -> Option<Evidence> {
        match self {
            Self::Wrong { evidence, .. } => Some(Evidence::Walk(evidence.clone())),
            Self::Shown { .. } | Self::Late { .. } => None,
        }
    }

    /// Whether the peer has what it says; `None` where it only pretended, which tells nothing.
    pub fn verdict(&self) -> Option<bool> {
        match self {
            Self::Shown { shown, .. } => (!shown.simulated).then_some(true),
            Self::Late { .. } | Self::Wrong { .. } => Some(false),
        }
    }
}

/// Who is asked, and what for.
pub(super) struct Examination<'a> {
    pub(super) key: &'a SecretKey,
    pub(super) network: &'a NetworkId,
    pub(super) peer: NodeId,
    pub(super) cell: Cell,
    pub(super) slot: u64,
    /// When the walk begins.
    pub(super) starts_ms: UnixMillis,
    /// The round trip to it, or what round trips differ by, whichever is more, in milliseconds.
    pub(super) path_ms: u64,
    pub(super) cache: Arc<Cache>,
    /// What walk is asked for, of so many items and such a rate.
    pub(super) task: fn(u32, u64, u64) -> Result<Task, TaskError>,
}

/// Challenges others. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Challenger {
    key: SecretKey,
    id: NetworkId,
    network: NetworkHandle,
    places: Arc<Semaphore>,
}

impl Challenger {
    pub(super) fn new(key: SecretKey, id: NetworkId, network: NetworkHandle) -> Self {
        Self { key, id, network, places: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// This node.
    pub(super) fn id(&self) -> NodeId {
        self.key.node_id()
    }

    /// Challenges `peer`, which announces `cell`, in the next slot. Takes as long as it is until then, and some seconds.
    pub async fn challenge(
        &self,
        peer: NodeId,
        cell: Cell,
        progress: &mpsc::Sender<Progress>,
    ) -> Result<Finding, ChallengeError> {
        let _place = self.places.try_acquire().map_err(|_| ChallengeError::Busy)?;
        let slots = Slots::of(&self.id);
        let slot = slots.next(now_ms());
        let waits = Duration::from_millis(slots.books_ms(slot).saturating_sub(now_ms()));
        tell(progress, Progress::Waiting { in_ms: millis(waits) });
        sleep(waits).await;
        let path_ms = self.path_ms(peer).await?;
        let seed = epoch_seed(&self.id, slots.starts_ms(slot));
        let mut stream = self.network.open(peer, Vec::new(), Protocol::Challenge).await?;
        let cache = tokio::task::spawn_blocking(move || Arc::new(Cache::new(&seed, CACHE_ROWS)));
        let cache = cache.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        let examination = Examination {
            key: &self.key,
            network: &self.id,
            peer,
            cell: beacon_cell(cell),
            slot,
            starts_ms: slots.starts_ms(slot),
            path_ms,
            cache,
            task: Task::sized,
        };
        examination.run(&mut stream, progress).await
    }

    async fn path_ms(&self, peer: NodeId) -> Result<u64, ChallengeError> {
        let mut trips = Vec::with_capacity(PINGS);
        for _ in 0..PINGS {
            trips.push(netcheck::ping(&self.network, peer).await?.round_trip_ms);
        }
        let least_ms = trips.iter().copied().fold(f64::MAX, f64::min);
        let most = trips.iter().copied().fold(0.0, f64::max);
        Ok(least_ms.max(most - least_ms).ceil() as u64)
    }
}

impl Examination<'_> {
    /// Examines the peer at the other end of `stream`.
    pub(super) async fn run(
        &self,
        stream: &mut FramedStream,
        progress: &mpsc::Sender<Progress>,
    ) -> Result<Finding, ChallengeError> {
        let until = |at_ms: u64| Duration::from_millis(at_ms.saturating_sub(now_ms()));
        say(stream, &ToProver::Book { slot: self.slot, cell: self.cell }).await?;
        let ToVerifier::Booked(claim) = hear(stream, MESSAGE).await? else {
            return Err(ChallengeError::OutOfTurn);
        };
        if claim.simulated && !self.network.is_local() {
            return Err(ChallengeError::Simulated);
        }
        let starts = until(self.starts_ms);
        tell(progress, Progress::Booked { claim: claim.clone(), in_ms: millis(starts) });
        let ready = hear(stream, starts).await.map_err(|error| match error {
            ChallengeError::Stream(StreamError::Timeout(_)) => ChallengeError::NotReady,
            error => error,
        })?;
        let ToVerifier::Ready { rate: told } = ready else { return Err(ChallengeError::OutOfTurn) };
        tell(progress, Progress::Ready { rate: told });
        if told < claim.least_rate() {
            let error = ChallengeError::TooSlow { told, least: claim.least_rate() };
            say(stream, &ToProver::Failed(Line::lossy(&error.to_string()))).await?;
            return Err(error);
        }
        let task = (self.task)(claim.items(), told, self.path_ms)?;
        // All that share a beacon walk at the same time.
        sleep(until(self.starts_ms)).await;
        let lasts_ms = task.lasts_ms(told);
        tell(progress, Progress::Walking { lasts_ms });
        let nonce = Nonce(rand::random());
        let began = Instant::now();
        say(stream, &ToProver::Walk { nonce, task }).await?;
        // Whoever is later than this is late, whatever comes.
        let patience = Duration::from_millis(lasts_ms * LATE) + GRACE;
        let root = match hear(stream, patience).await {
            Ok(ToVerifier::Root(root)) => root,
            Ok(_) => return Err(ChallengeError::OutOfTurn),
            Err(ChallengeError::Stream(StreamError::Timeout(_))) => {
                return self.fail(stream, "no answer in time", Finding::Late { shown: 0, told }).await;
            }
            Err(error) => return Err(error),
        };
        let elapsed = began.elapsed();
        let rate = match shown_rate(&task, elapsed.as_secs_f64() * 1000.0, told) {
            Ok(rate) => rate,
            Err(late @ Late { shown, told }) => {
                return self.fail(stream, &late.to_string(), Finding::Late { shown, told }).await;
            }
        };
        tell(progress, Progress::Checking { after_ms: millis(elapsed) });
        let root = self.root(&root, nonce, task)?;
        let fresh = Nonce(rand::random());
        say(stream, &ToProver::Open { nonce: fresh }).await?;
        let ToVerifier::Opened(evidence) = hear(stream, OPENING).await? else {
            return Err(ChallengeError::OutOfTurn);
        };
        let opened = signing::open(&evidence, self.network)?;
        if evidence.signer() != self.peer || opened.root != root || opened.nonce != fresh {
            return Err(ChallengeError::OutOfTurn);
        }
        let checked = self.recompute(opened).await;
        match checked {
            Ok(checking) => {
                let shown = self.shown(&claim, &task, rate);
                let signed = signing::seal(self.key, self.network, &shown)?;
                say(stream, &ToProver::Shown(signed)).await?;
                Ok(Finding::Shown { shown, checking_ms: millis(checking) })
            }
            Err(wrong) => {
                let reason = wrong.to_string();
                self.fail(stream, &reason.clone(), Finding::Wrong { reason, evidence }).await
            }
        }
    }

    fn root(&self, signed: &Signed<Root>, nonce: Nonce, task: Task) -> Result<Root, ChallengeError> {
        let root = signing::open(signed, self.network)?;
        let asked =
            Root { verifier: self.key.node_id(), cell: self.cell, slot: self.slot, nonce, task, root: root.root };
        if signed.signer() != self.peer || root != asked {
            return Err(ChallengeError::OutOfTurn);
        }
        Ok(root)
    }

    async fn recompute(&self, opened: Opened) -> Result<Duration, WrongAnswer> {
        let (cache, network, peer) = (Arc::clone(&self.cache), self.network.clone(), self.peer);
        let check = tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            opened.check(&cache, &network, &peer).map(|()| began.elapsed())
        });
        check.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    fn shown(&self, claim: &Claim, task: &Task, rate: u64) -> Shown {
        let now = now_ms();
        Shown {
            prover: self.peer,
            device: claim.device.clone(),
            bytes: task.bytes(),
            rate,
            simulated: claim.simulated,
            issued_ms: now,
            expires_ms: now.saturating_add(SHOWN_LIFETIME_MS),
        }
    }

    /// Tells the peer why it failed. It may be gone, and the finding stands all the same.
    async fn fail(
        &self,
        stream: &mut FramedStream,
        reason: &str,
        finding: Finding,
    ) -> Result<Finding, ChallengeError> {
        let _ = say(stream, &ToProver::Failed(Line::lossy(reason))).await;
        Ok(finding)
    }
}

async fn say(stream: &mut FramedStream, message: &ToProver) -> Result<(), ChallengeError> {
    match timeout(MESSAGE, stream.send(message, MAX_CHALLENGE_FRAME)).await {
        Ok(sent) => Ok(sent?),
        Err(_) => Err(StreamError::Timeout(MESSAGE).into()),
    }
}

async fn hear(stream: &mut FramedStream, patience: Duration) -> Result<ToVerifier, ChallengeError> {
    match timeout(patience, stream.receive(MAX_CHALLENGE_FRAME)).await {
        Ok(Ok(Some(ToVerifier::Refused(refusal)))) => Err(refusal.into()),
        Ok(Ok(Some(message))) => Ok(message),
        Ok(Ok(None)) => Err(StreamError::Closed("the peer left".to_owned()).into()),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(StreamError::Timeout(patience).into()),
    }
}

/// Whoever watches may be slow, or gone: nothing waits for it.
fn tell(progress: &mpsc::Sender<Progress>, step: Progress) {
    let _ = progress.try_send(step);
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
