//! Challenges of memory: this node shows its own, and has others show theirs.
//!
//! ```text
//! serving: stream -> one booking a slot -> child (gpu::proving) -> Shown -> announcer: goes into the offer
//! rounds:  now and then a provider that offers a GPU and has shown nothing -> Challenger
//! asking:  CLI -> API -> Challenger: book, walk at the slot, time, recompute -> Finding
//! ```
//!
//! What is said, when, and what follows is in [`aitbc_protocol::gpu::challenge::exchange`].

mod asking;
mod memory;
mod rounds;
mod serving;
#[cfg(test)]
mod tests;

pub use asking::{ChallengeError, Challenger, Finding, Progress};
pub use memory::NoMemory;

use crate::{
    clock::now_ms,
    engine::EngineStatus,
    gpu::{power::PowerState, proving::Prover},
    network::{IncomingStream, NetworkHandle, intake},
    routing::Routing,
    storage::Store,
};
use aitbc_crypto::SecretKey;
use aitbc_protocol::{
    NetworkId, Signed,
    geo::Cell,
    gpu::challenge::exchange::{CELL_PRECISION, Shown, Slots},
    offer::Load,
};
use std::{path::PathBuf, sync::Arc};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

/// How challenges are answered.
#[derive(Clone, Debug)]
pub struct ChallengeConfig {
    /// Whose statements count.
    pub network: NetworkId,
    /// The cell announced.
    pub cell: Cell,
    /// Whether this node offers anything, and so has something to show.
    pub provides: bool,
    /// MiB of the machine's own memory that pretend to be a GPU's, on networks of demos and tests.
    pub simulated_mib: Option<u32>,
    /// The program that the child is; this one where nothing is set.
    pub worker: Option<PathBuf>,
}

/// What challenges are answered with.
#[derive(Debug)]
pub struct ChallengeParts {
    /// The node's key.
    pub key: SecretKey,
    /// The network.
    pub network: NetworkHandle,
    /// Who offers what.
    pub routing: Routing,
    /// Keeps what was shown.
    pub store: Store,
    /// Heat, power, and what is free of each GPU.
    pub power: watch::Receiver<Arc<PowerState>>,
    /// Jobs come first.
    pub load: watch::Receiver<Load>,
    /// A model that loads needs the memory.
    pub engines: watch::Receiver<Arc<Vec<EngineStatus>>>,
    /// `/aitbc/challenge/1`.
    pub streams: mpsc::Receiver<IncomingStream>,
    /// Where what was shown goes, for the offer.
    pub shown: watch::Sender<Vec<Signed<Shown>>>,
    /// Where the process that uses the GPU is named: its use is the node's own.
    pub process: watch::Sender<Option<u32>>,
}

/// Starts answering challenges and asking those who have shown nothing, until `stop`; the handle asks others.
pub fn start(
    config: ChallengeConfig,
    parts: ChallengeParts,
    stop: CancellationToken,
) -> (Challenger, JoinHandle<()>) {
    let ChallengeParts { key, network, routing, store, power, load, engines, streams, shown, process } = parts;
    let challenger = Challenger::new(key.clone(), config.network.clone(), network);
    let slots = Slots::of(&config.network);
    let asking = rounds::run(challenger.clone(), routing, slots);
    let asking = stop.clone().run_until_cancelled_owned(asking);
    let (clock, start) = (Box::new(now_ms), Box::new(Prover::start));
    let patience = serving::Patience::default();
    let parts = serving::ServerParts { key, store, power, load, engines, shown, process, clock, start, patience };
    let server = serving::Server::new(config, parts);
    let answering = async move {
        server.recall().await;
        intake::serve(streams, serving::LIMITS, stop.clone(), |incoming, turn| {
            let served = stop.clone().run_until_cancelled_owned(Arc::clone(&server).serve(incoming, turn));
            futures::FutureExt::map(served, |_| ())
        })
        .await;
    };
    let both = async {
        tokio::join!(asking, answering);
    };
    (challenger, tokio::spawn(both.instrument(tracing::info_span!("challenge"))))
}

/// The cell whose beacon counts for a provider that announces `cell`.
fn beacon_cell(cell: Cell) -> Cell {
    cell.coarsened(cell.precision().min(CELL_PRECISION))
}
