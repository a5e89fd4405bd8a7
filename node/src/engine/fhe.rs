//! Models that compute on values which this node cannot read.
//!
//! ```text
//!   EngineHandle --Work--> a thread a job --bootstraps--> events
//!                               |  ^ allowance
//!        keys: seeded keys of clients, on the disk
//!        memory: what they unfold to, as much of it as the owner allows
//! ```
//!
//! They run in this process and not in a child: what computes is a Rust library without drivers, and the files that it
//! reads are checked before. A panic in it ends one job.

pub mod keys;

mod computing;
mod handle;
mod loading;
mod memory;

use self::{
    computing::{Computation, Turn},
    keys::{KeyStore, StoredKey},
    loading::Loaded,
    memory::ServerKeys,
};
use super::{Board, EngineError, EngineEvent, EngineState, EngineStatus, Generation};
use crate::{gpu, models::Installed};
use aitbc_crypto::fhe::Profile;
use aitbc_protocol::{
    bytes::{BoundedBytes, Digest},
    job::{JobSpec, ModelName},
    private::MAX_INTERFACE,
    sealed::Sealed,
};
use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Jobs of one model at a time: one computes while another waits for its cheque.
const SLOTS: u32 = 2;
/// Events that a slow reader may leave lying before the computation waits.
const EVENT_QUEUE: usize = 256;
/// Allowances on their way to a job.
const GRANT_QUEUE: usize = 8;

/// Where evaluation keys of clients are kept, and how many.
#[derive(Clone, Debug, Default)]
pub struct PrivateConfig {
    /// Their directory.
    pub keys: PathBuf,
    /// Bytes that they may take on the disk.
    pub quota: u64,
}

/// The public part of a model, as it is told to clients.
#[derive(Clone, Debug)]
pub(crate) struct Described {
    /// SHA-256 of the whole model.
    pub(crate) weights: Digest,
    /// What a client encrypts and decrypts by, in CBOR.
    pub(crate) interface: BoundedBytes<MAX_INTERFACE>,
}

/// What all models that compute on encrypted values share.
#[derive(Clone, Debug)]
pub(super) struct Workshop {
    keys: Arc<ServerKeys>,
    threads: usize,
    slots: u32,
    pace: watch::Receiver<u8>,
    cancel: CancellationToken,
}

impl Workshop {
    /// One with as much memory for keys as the owner says, or half of what is free.
    pub(super) fn new(
        memory_limit: Option<u64>,
        threads: u32,
        slots: u32,
        pace: watch::Receiver<u8>,
        cancel: CancellationToken,
    ) -> Self {
        let budget = memory_limit.unwrap_or_else(|| gpu::free_memory() / 2);
        Self {
            keys: Arc::new(ServerKeys::new(budget)),
            threads: threads.max(1) as usize,
            slots: slots.clamp(1, SLOTS),
            pace,
            cancel,
        }
    }
}

/// One model that computes on encrypted values.
#[derive(Debug)]
pub(super) struct Fhe {
    pub(super) model: ModelName,
    pub(super) weights: Digest,
    loaded: Arc<OnceLock<Loaded>>,
    workshop: Workshop,
    places: Arc<Semaphore>,
}

/// The status of a model before it is loaded.
pub(super) fn loading(model: &ModelName) -> EngineStatus {
    EngineStatus {
        name: format!("tfhe {model}"),
        state: EngineState::Loading { percent: 0 },
        pid: None,
        models: Vec::new(),
        warnings: Vec::new(),
    }
}

impl Fhe {
    /// The model, which loads in the background: the future shows on `board` what became of it.
    pub(super) fn start(
        installed: Installed,
        workshop: Workshop,
        board: Board,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let loaded = Arc::new(OnceLock::new());
        let this = Self {
            model: installed.manifest.model.clone(),
            weights: installed.manifest.weights,
            loaded: Arc::clone(&loaded),
            places: Arc::new(Semaphore::new(workshop.slots as usize)),
            workshop: workshop.clone(),
        };
        let load = async move {
            let (slots, stop) = (workshop.slots, workshop.cancel.clone());
            let work = tokio::task::spawn_blocking(move || loading::load(&installed, &workshop, slots));
            let result = tokio::select! {
                () = stop.cancelled() => return,
                result = work => result,
            };
            match result {
                Ok(Ok((model, package, warnings))) => {
                    // Before anybody is told that it is ready.
                    let _ = loaded.set(package);
                    board.ready(model, warnings);
                }
                Ok(Err(error)) => board.set(EngineState::Unusable { reason: error.to_string() }),
                Err(error) => board.set(EngineState::Unusable { reason: format!("loading it failed: {error}") }),
            }
            // Whoever reads the board takes its end for that of the engines.
            stop.cancelled().await;
        };
        (this, load)
    }

    /// What clients have to know; `None` while it is not loaded.
    pub(super) fn describe(&self) -> Option<Described> {
        let loaded = self.loaded.get()?;
        Some(Described { weights: self.weights, interface: loaded.described.clone() })
    }

    /// The parameters of the keys that it computes under; `None` where it needs none, or is not loaded.
    pub(super) fn profile(&self) -> Option<Profile> {
        let loaded = self.loaded.get()?;
        (loaded.bootstraps > 0).then_some(loaded.package.profile)
    }

    /// The values of a request that this model can compute.
    pub(super) fn count(&self, spec: &JobSpec) -> Result<u32, EngineError> {
        let loaded = self.loaded()?;
        let sealed = spec.input.sealed().ok_or_else(readable)?;
        fits(loaded, sealed, spec.max_tokens)?;
        Ok(sealed.values)
    }

    fn loaded(&self) -> Result<&Loaded, EngineError> {
        self.loaded.get().ok_or_else(|| EngineError::NotReady("the model is being loaded".to_owned()))
    }

    /// Starts a job under `key`, which is the client's own, with an allowance of `credit` bootstraps.
    pub(super) fn compute(
        &self,
        spec: JobSpec,
        credit: u32,
        key: Option<StoredKey>,
    ) -> Result<Generation, EngineError> {
        self.count(&spec)?;
        let loaded = self.loaded()?.clone();
        let aitbc_protocol::job::Input::Sealed(sealed) = spec.input else { return Err(readable()) };
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| EngineError::Full)?;
        // Room is made, or the job refused, before anything is read.
        let key = match (loaded.bootstraps, key) {
            (0, _) => None,
            (_, Some(stored)) if Some(stored.digest()) == sealed.evaluation_key => {
                Some(self.workshop.keys.place(stored, loaded.package.profile, loaded.processor)?)
            }
            _ => return Err(EngineError::Request("the evaluation key is not at hand".to_owned())),
        };
        let (events, receiver) = mpsc::channel::<EngineEvent>(EVENT_QUEUE);
        let (granting, grants) = mpsc::channel(GRANT_QUEUE);
        let turn = Turn::new(events, grants, credit, loaded.batch, &self.workshop);
        let work = Computation { package: loaded.package, sealed, key, turn, threads: self.workshop.threads };
        let span = tracing::Span::current();
        let thread = std::thread::Builder::new().name("fhe-job".to_owned()).spawn(move || {
            let _entered = span.entered();
            work.run();
            drop(place);
        });
        thread.map_err(|error| EngineError::Failed(format!("no thread for the job: {error}")))?;
        Ok(Generation::new(receiver, granting))
    }
}

fn readable() -> EngineError {
    EngineError::Unsupported("this model computes on encrypted values only (`aitbc private run`)".to_owned())
}

/// Refuses a job for another model than this one, whatever it is called.
fn fits(loaded: &Loaded, sealed: &Sealed, bootstraps: u32) -> Result<(), EngineError> {
    let profile = loaded.package.profile;
    let refuse = |what: String| Err(EngineError::Request(what));
    if sealed.profile.as_str() != profile.name() {
        return refuse(format!("profile is {}, the model's is {profile}", sealed.profile));
    }
    if sealed.values != loaded.values {
        return refuse(format!("{} values, the model takes {}", sealed.values, loaded.values));
    }
    if bootstraps != loaded.bootstraps {
        return refuse(format!("max_tokens is {bootstraps}, the model has {} bootstraps", loaded.bootstraps));
    }
    let expected = profile.input_bytes(loaded.values as usize);
    if sealed.ciphertext.len() != expected {
        return refuse(format!("an input of {} bytes, the model's have {expected}", sealed.ciphertext.len()));
    }
    Ok(())
}

/// The store of evaluation keys that the settings name.
pub(super) fn key_store(config: &PrivateConfig) -> KeyStore {
    KeyStore::new(config.keys.clone(), config.quota)
}

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod tests;
