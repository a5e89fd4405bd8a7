//! Private jobs: the client's side above routing, and what a provider says and takes before them.
//!
//! ```text
//!   submit -> run -> routing::find_private   who, nearest first
//!              |---> setup                   what a model takes; the evaluation key, sent once
//!              |---> routing::submit         a job like any other, for one provider
//!              '---> answer                  decrypted once all of that is over
//!   keys: one secret key a provider and profile      verdicts: what was compared, for another day
//!   serving: describes models, takes keys
//! ```
//!
//! **No decrypted value may influence the network.** A provider can change a ciphertext so that the answer is wrong or
//! right depending on bits of the secret key. Whoever lets it see which of the two it was, by a retry, a settlement, a
//! ranking or only a delay, decrypts for it: some thousand jobs later it has the key. So this module is in two halves.
//! What speaks to others (`setup`, `run` up to the end of the job) sees ciphertexts only, and the job is paid, settled
//! and taken down in routing's experience before [`answer`] opens anything; what opens has no handle to the network.

mod answer;
mod keys;
mod request;
mod run;
mod serving;
mod setup;
mod verdicts;

pub use request::{PrivateRequest, PrivateStep, PrivateUpdate, RunningPrivate, Verify};

use crate::{
    engine::EngineHandle,
    network::{IncomingStream, NetworkHandle, intake},
    routing::Routing,
};
use aitbc_crypto::fhe::Interface;
use aitbc_protocol::{Digest, NodeId};
use keys::KeyRing;
use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;
use verdicts::Verdicts;

/// Updates of a job that wait for their reader; a full queue slows the job.
const UPDATES: usize = 64;
/// Private jobs that run at a time.
const MAX_JOBS: usize = 16;
/// How often evaluation keys are looked through that nobody uses.
const SWEEP: Duration = Duration::from_secs(3_600);

/// What private jobs work with.
#[derive(Debug)]
pub struct PrivateParts {
    /// The network.
    pub network: NetworkHandle,
    /// Finds providers and runs jobs.
    pub routing: Routing,
    /// This node's own models, for serving.
    pub engine: EngineHandle,
    /// `/aitbc/fhe/1`.
    pub streams: mpsc::Receiver<IncomingStream>,
    /// Where secret keys and verdicts are kept.
    pub directory: PathBuf,
}

/// What all jobs share.
#[derive(Debug)]
struct Shared {
    network: NetworkHandle,
    routing: Routing,
    ring: Arc<KeyRing>,
    /// What providers said of their models. Each answers for itself: nothing shows that two say the same of one.
    interfaces: Mutex<HashMap<(NodeId, Digest), Arc<Interface>>>,
    verdicts: Verdicts,
    places: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Runs private jobs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Private(Arc<Shared>);

impl Private {
    /// Starts a job. Returns at once; everything else comes as updates. Must be called within a tokio runtime.
    pub fn submit(&self, request: PrivateRequest) -> RunningPrivate {
        let (updates, receiver) = mpsc::channel(UPDATES);
        let shared = Arc::clone(&self.0);
        if let Ok(place) = shared.places.clone().try_acquire_owned() {
            let work = async move {
                run::run(&shared, request, updates).await;
                drop(place);
            };
            self.0.tasks.spawn(work.instrument(tracing::info_span!("private")));
        } else {
            let message = format!("{MAX_JOBS} private jobs run already: wait for one to end");
            updates.try_send(run::failed(message)).expect("a new queue has room for one update");
        }
        RunningPrivate { updates: receiver }
    }
}

/// Starts both sides; the task ends after `stop`, once running jobs have ended.
pub fn start(parts: PrivateParts, stop: CancellationToken) -> (Private, tokio::task::JoinHandle<()>) {
    let PrivateParts { network, routing, engine, streams, directory } = parts;
    let shared = Arc::new(Shared {
        network,
        routing,
        verdicts: Verdicts::new(directory.join("verdicts.json")),
        ring: Arc::new(KeyRing::new(directory)),
        interfaces: Mutex::default(),
        places: Arc::new(Semaphore::new(MAX_JOBS)),
        tasks: TaskTracker::new(),
        stop: stop.clone(),
    });
    let tasks = shared.tasks.clone();
    tasks.spawn(stop.clone().run_until_cancelled_owned(sweep(engine.clone())));
    let serving = intake::serve(streams, serving::LIMITS, stop.clone(), move |incoming, turn| {
        serving::serve(engine.clone(), incoming, turn)
    });
    // A key on its way ends with the node: what came of it is kept.
    tasks.spawn(stop.clone().run_until_cancelled_owned(serving).instrument(tracing::info_span!("fhe-streams")));
    let ended = tokio::spawn(async move {
        stop.cancelled().await;
        tasks.close();
        tasks.wait().await;
    });
    (Private(shared), ended)
}

/// Removes evaluation keys of clients that do not come back.
async fn sweep(engine: EngineHandle) {
    let mut due = tokio::time::interval(SWEEP);
    loop {
        due.tick().await;
        let keys = engine.evaluation_keys().clone();
        if let Err(error) = tokio::task::spawn_blocking(move || keys.sweep(crate::clock::now_ms())).await {
            tracing::error!(%error, "looking through evaluation keys failed");
        }
    }
}
