//! Before a job: what a model takes, and the evaluation key at its provider. Nothing here knows a value.

use super::{PrivateStep, PrivateUpdate, Shared};
use crate::network::{FramedStream, NetworkError, Protocol, StreamError};
use aitbc_crypto::fhe::{ClientKey, Interface, Profile, network::NetworkFault};
use aitbc_protocol::{
    Digest, NodeId,
    bytes::BoundedBytes,
    job::ModelName,
    private::{KeyRefusal, MAX_INTERFACE, ToKeeper, ToKeyOwner},
    sealed::MAX_PART,
    text::Line,
    wire::{self, MAX_FHE_FRAME},
};
use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

/// How long a provider may take for an answer, with the way to it.
const ANSWER: Duration = Duration::from_secs(20);
/// How long one part of a key may take.
const PART: Duration = Duration::from_secs(60);
/// Streams in a row that bring nothing forward before a provider is given up.
const TRIES: u32 = 6;
/// First wait before another stream, doubled up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(8);
/// Interfaces remembered.
const MAX_INTERFACES: usize = 64;

/// Why a provider cannot be prepared for a job.
#[derive(Debug, thiserror::Error)]
pub(super) enum SetupError {
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("it refused: {0}")]
    Refused(#[from] KeyRefusal),
    #[error("it closed the stream instead of answering")]
    Silent,
    #[error("it answered with something else than what was asked")]
    OutOfTurn,
    #[error("it described other weights than it offers")]
    Weights,
    #[error("its description of the model cannot be read: {0}")]
    Unreadable(#[from] wire::WireError),
    #[error("its description of the model makes no sense: {0}")]
    Nonsense(#[from] NetworkFault),
    #[error("making the key failed")]
    Key,
}

impl SetupError {
    /// Whether another stream, perhaps by another path, may do what this one did not.
    fn is_passing(&self) -> bool {
        match self {
            Self::Network(NetworkError::Unreachable { .. }) | Self::Timeout(_) | Self::Silent => true,
            Self::Stream(error) | Self::Network(NetworkError::Stream(error)) => error.is_passing(),
            Self::Refused(refusal) => matches!(refusal, KeyRefusal::Busy { .. } | KeyRefusal::Digest),
            _ => false,
        }
    }

    /// How long to wait before it, where the provider says so.
    fn wait(&self) -> Option<Duration> {
        match self {
            Self::Refused(KeyRefusal::Busy { retry_ms }) => Some(Duration::from_millis((*retry_ms).into())),
            _ => None,
        }
    }
}

async fn open(shared: &Shared, provider: NodeId) -> Result<FramedStream, SetupError> {
    let opening = shared.network.open(provider, Vec::new(), Protocol::Fhe);
    Ok(timeout(ANSWER, opening).await.map_err(|_| SetupError::Timeout(ANSWER))??)
}

async fn say(stream: &mut FramedStream, message: &ToKeeper, within: Duration) -> Result<(), SetupError> {
    let sending = stream.send(message, MAX_FHE_FRAME);
    Ok(timeout(within, sending).await.map_err(|_| SetupError::Timeout(within))??)
}

async fn hear(stream: &mut FramedStream, within: Duration) -> Result<ToKeyOwner, SetupError> {
    let heard =
        timeout(within, stream.receive(MAX_FHE_FRAME)).await.map_err(|_| SetupError::Timeout(within))??;
    match heard.ok_or(SetupError::Silent)? {
        ToKeyOwner::Rejected(refusal) => Err(refusal.into()),
        answer => Ok(answer),
    }
}

/// How often a provider was asked in vain.
struct Tries {
    failed: u32,
    pause: Duration,
    /// How far the best of them came.
    best: u64,
}

impl Tries {
    fn new() -> Self {
        Self { failed: 0, pause: FIRST_PAUSE, best: 0 }
    }

    /// Waits before another stream after one that came as far as `reached`; the error where none would help. What comes
    /// forward may break off as often as it likes.
    async fn again(&mut self, error: SetupError, reached: u64) -> Result<(), SetupError> {
        if reached > self.best {
            *self = Self { best: reached, ..Self::new() };
        }
        self.failed += 1;
        if !error.is_passing() || self.failed >= TRIES {
            return Err(error);
        }
        tracing::debug!(%error, failed = self.failed, "tried again");
        sleep(error.wait().unwrap_or(self.pause).min(LAST_PAUSE)).await;
        self.pause = (self.pause * 2).min(LAST_PAUSE);
        Ok(())
    }
}

/// What `provider` says of the model with `weights`, asked once.
pub(super) async fn describe(
    shared: &Shared,
    provider: NodeId,
    model: &ModelName,
    weights: Digest,
) -> Result<Arc<Interface>, SetupError> {
    let known =
        shared.interfaces.lock().unwrap_or_else(PoisonError::into_inner).get(&(provider, weights)).cloned();
    if let Some(known) = known {
        return Ok(known);
    }
    let question = ToKeeper::Describe { model: model.clone(), weights: Some(weights) };
    let mut tries = Tries::new();
    let bytes = loop {
        match ask(shared, provider, &question, weights).await {
            Ok(bytes) => break bytes,
            Err(error) => tries.again(error, 0).await?,
        }
    };
    let interface = Arc::new(read(&bytes)?);
    let mut interfaces = shared.interfaces.lock().unwrap_or_else(PoisonError::into_inner);
    if interfaces.len() >= MAX_INTERFACES {
        interfaces.clear();
    }
    interfaces.insert((provider, weights), Arc::clone(&interface));
    Ok(interface)
}

async fn ask(
    shared: &Shared,
    provider: NodeId,
    question: &ToKeeper,
    weights: Digest,
) -> Result<BoundedBytes<MAX_INTERFACE>, SetupError> {
    let mut stream = open(shared, provider).await?;
    say(&mut stream, question, ANSWER).await?;
    match hear(&mut stream, ANSWER).await? {
        ToKeyOwner::Interface { weights: said, .. } if said != weights => Err(SetupError::Weights),
        ToKeyOwner::Interface { interface, .. } => Ok(interface),
        _ => Err(SetupError::OutOfTurn),
    }
}

fn read(bytes: &BoundedBytes<MAX_INTERFACE>) -> Result<Interface, SetupError> {
    let interface: Interface = wire::decode_payload(bytes, MAX_INTERFACE)?;
    interface.check()?;
    Ok(interface)
}

/// An evaluation key on its way to the one provider that it is for.
pub(super) struct KeyOnItsWay<'a> {
    pub(super) shared: &'a Shared,
    pub(super) provider: NodeId,
    pub(super) profile: Profile,
    pub(super) key: &'a Arc<ClientKey>,
    pub(super) digest: Digest,
    pub(super) updates: &'a mpsc::Sender<PrivateUpdate>,
}

impl KeyOnItsWay<'_> {
    /// Sees to it that the provider holds the key, and sends what is missing of it.
    pub(super) async fn send(&self) -> Result<(), SetupError> {
        // Made once, and only where it is wanted.
        let mut whole = None;
        let mut tries = Tries::new();
        loop {
            let mut reached = 0;
            match self.send_over_one_stream(&mut whole, &mut reached).await {
                Ok(()) => return Ok(()),
                Err(error) => tries.again(error, reached).await?,
            }
        }
    }

    async fn tell(&self, step: PrivateStep) {
        // A reader that left ends the job from outside.
        let _ = self.updates.send(PrivateUpdate::Step(step)).await;
    }

    async fn send_over_one_stream(
        &self,
        whole: &mut Option<Vec<u8>>,
        reached: &mut u64,
    ) -> Result<(), SetupError> {
        let provider = self.provider;
        let mut stream = open(self.shared, provider).await?;
        let question = ToKeeper::Key { profile: Line::lossy(self.profile.name()), digest: self.digest };
        say(&mut stream, &question, ANSWER).await?;
        let offset = match hear(&mut stream, ANSWER).await? {
            ToKeyOwner::Held { .. } => {
                self.tell(PrivateStep::KeyHeld { provider }).await;
                return Ok(());
            }
            ToKeyOwner::SendFrom { offset } => offset,
            _ => return Err(SetupError::OutOfTurn),
        };
        let bytes = match whole {
            Some(bytes) => bytes,
            empty => empty.insert(evaluation_key(self.key).await?),
        };
        let total = bytes.len() as u64;
        let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..));
        let rest = rest.ok_or(SetupError::OutOfTurn)?;
        let mut sent = offset;
        *reached = sent;
        self.tell(PrivateStep::KeySent { provider, sent, total }).await;
        for part in rest.chunks(MAX_PART) {
            let length = part.len() as u64;
            let part = BoundedBytes::new(part.to_vec()).map_err(|_| SetupError::Key)?;
            if let Err(error) = say(&mut stream, &ToKeeper::Part(part), PART).await {
                // What it said last says more than that it left.
                return Err(match hear(&mut stream, FIRST_PAUSE).await {
                    Err(refused @ SetupError::Refused(_)) => refused,
                    _ => error,
                });
            }
            sent += length;
            *reached = sent;
            self.tell(PrivateStep::KeySent { provider, sent, total }).await;
        }
        match hear(&mut stream, PART).await? {
            ToKeyOwner::Stored => Ok(()),
            _ => Err(SetupError::OutOfTurn),
        }
    }
}

/// Takes a second or two of all cores.
async fn evaluation_key(key: &Arc<ClientKey>) -> Result<Vec<u8>, SetupError> {
    let key = Arc::clone(key);
    tokio::task::spawn_blocking(move || key.evaluation_key()).await.map_err(|_| SetupError::Key)
}
