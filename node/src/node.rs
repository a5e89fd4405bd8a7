//! The only wiring: starts every subsystem in order, and ends them in reverse.
//!
//! ```text
//! store -> ledger -> network -> engine -> routing -> jobs -> challenge -> attestation -> bandwidth -> private
//!   -> settlement -> netcheck -> api
//! ```
//!
//! A node that sells nothing runs the provider side all the same, with no model: clients of earlier jobs must be able
//! to settle.

use crate::{
    api::{self, ApiConfig, ApiParts},
    attestation::{self, AttestationConfig, AttestationParts},
    bandwidth::{self, BandwidthConfig, BandwidthParts},
    challenge::{self, ChallengeConfig, ChallengeParts},
    engine::{self, EngineConfig, EngineHandle},
    jobs::{self, CellLoad, JobsConfig, JobsHandle, JobsParts},
    market::{Ledger, LedgerError},
    netcheck,
    network::{self, NetworkConfig, NetworkError, NetworkHandle},
    private::{self, Private, PrivateParts},
    routing::{self, Cloud, CloudConfig, CloudError, Routing, RoutingConfig, RoutingParts},
    settlement,
    storage::{StorageError, Store},
    telemetry::Metrics,
    trust::{Trust, Vouched},
};
use aitbc_crypto::SecretKey;
use aitbc_protocol::NodeId;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// How long running jobs may go on after a stop was asked for.
const DRAIN: Duration = Duration::from_secs(10);
/// How long the engine's child may take to leave.
const ENGINE_PATIENCE: Duration = Duration::from_secs(3);
/// How long a node that is leaving may hold the database when the next one starts.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// Evidence of the provider side that waits; what is beyond is lost, and so is nothing but the telling.
const ACCUSATIONS: usize = 16;

/// Everything a node needs to start.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Its key.
    pub key: SecretKey,
    /// Its database.
    pub database: PathBuf,
    /// Its network.
    pub network: NetworkConfig,
    /// Its engines; without models for a node that only buys.
    pub engine: EngineConfig,
    /// Its provider side.
    pub jobs: JobsConfig,
    /// MiB of the machine's own memory that answer challenges in place of a GPU's, to try them out.
    pub simulated_memory_mib: Option<u32>,
    /// What it shows of its hardware, and whom it believes about others.
    pub attestation: AttestationConfig,
    /// Nodes whose word about others counts, beside its own.
    pub verifiers: Vec<NodeId>,
    /// Bytes a second each way below which the owner is warned.
    pub required_bandwidth: u64,
    /// Its client side.
    pub routing: RoutingConfig,
    /// The cloud behind it, where there is one.
    pub cloud: Option<CloudConfig>,
    /// Secret keys of private jobs, and what comparing answers has shown.
    pub private: PathBuf,
    /// Its HTTP server; `None` for nodes inside tests.
    pub api: Option<ApiConfig>,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Database.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// Engine.
    #[error(transparent)]
    Engine(#[from] engine::EngineError),
    /// Limits.
    #[error(transparent)]
    Power(#[from] crate::gpu::power::PowerError),
    /// What attestation is set to.
    #[error(transparent)]
    Attestation(#[from] attestation::SetupError),
    /// The cloud of the settings.
    #[error(transparent)]
    Cloud(#[from] CloudError),
    /// HTTP server.
    #[error(transparent)]
    Api(#[from] api::ApiError),
}

/// A running node. [`Node::shutdown`] ends it in order; dropping it only asks it to stop.
#[derive(Debug)]
pub struct Node {
    /// The network.
    pub network: NetworkHandle,
    /// The engines.
    pub engine: EngineHandle,
    /// The provider side.
    pub jobs: JobsHandle,
    /// The client side.
    pub routing: Routing,
    /// Private jobs.
    pub private: Private,
    /// Money.
    pub ledger: Ledger,
    /// Metrics.
    pub metrics: Metrics,
    /// Where the HTTP server listens.
    pub api: Option<SocketAddr>,
    stop: CancellationToken,
    /// In the order in which they are joined.
    tasks: Vec<(&'static str, JoinHandle<()>)>,
    closing: CancellationToken,
    api_task: Option<JoinHandle<()>>,
}

/// Waits for a task and says so if it ended by a panic.
async fn join(name: &'static str, task: JoinHandle<()>) {
    if let Err(error) = task.await
        && error.is_panic()
    {
        tracing::error!(task = name, %error, "a task ended by a panic");
    }
}

/// Opens the database; a node that is just leaving gets a moment to let go of it.
async fn open_store(directory: &Path) -> Result<Store, StorageError> {
    let deadline = tokio::time::Instant::now() + LOCK_PATIENCE;
    loop {
        let directory = directory.to_owned();
        let opened = tokio::task::spawn_blocking(move || Store::open(&directory))
            .await
            .map_err(|error| StorageError::Database(error.to_string()))?;
        match opened {
            Err(StorageError::Locked(_)) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            opened => return opened,
        }
    }
}

/// Reads the cloud's key and the certificates of the system, where a cloud is set.
async fn open_cloud(config: Option<CloudConfig>) -> Result<Option<Cloud>, CloudError> {
    let Some(config) = config else { return Ok(None) };
    let opened = tokio::task::spawn_blocking(move || Cloud::open(config)).await;
    opened.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())).map(Some)
}

impl Node {
    /// Starts all subsystems. What was started is stopped again if a later one fails.
    pub async fn start(config: NodeConfig) -> Result<Self, NodeError> {
        let metrics = Metrics::default();
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        let cloud = open_cloud(config.cloud).await?;
        let store = open_store(&config.database).await?;
        let ledger = Ledger::start(store.clone(), config.key.clone(), config.network.network.clone(), &metrics)?;
        let (attesting, me) = (config.attestation, config.key.node_id());
        let prepared = tokio::task::spawn_blocking(move || attestation::prepare(attesting, me)).await;
        let prepared = prepared.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
        let zero_knowledge = prepared.zero_knowledge.clone();
        let issuers = zero_knowledge.as_ref().map(|zk| zk.issuers()).unwrap_or_default();
        let trust = Trust::load(&store, config.key.node_id(), config.verifiers, issuers)?;
        let network_id = config.network.network.clone();
        let provides = !config.engine.models.is_empty() || !config.engine.upstreams.is_empty();
        let bandwidths =
            BandwidthConfig { provides, required: config.required_bandwidth, local: network_id.is_local() };
        let challenges = ChallengeConfig {
            network: network_id.clone(),
            cell: config.jobs.cell,
            provides,
            simulated_mib: config.simulated_memory_mib,
            worker: config.engine.worker.clone(),
        };
        let (network, incoming) = network::start(config.network, &config.key, &metrics).await?;
        let engine = engine::start(config.engine, &metrics).await?;
        let (own_offer, own_statements) = watch::channel(None);
        let (shown, was_shown) = watch::channel(Vec::new());
        let (proving, proves) = watch::channel(None);
        let (line, line_seen) = watch::channel(None);
        let (accuse, accusations) = mpsc::channel(ACCUSATIONS);
        let (vouched, vouched_for) = watch::channel(Vouched::default());
        let parts = RoutingParts {
            key: config.key.clone(),
            network: network.clone(),
            engine: Some(engine.clone()),
            ledger: ledger.clone(),
            store: store.clone(),
            trust: trust.clone(),
            zero_knowledge,
            cloud,
            gossip: incoming.gossip,
            accusations,
            offer_streams: incoming.offer,
            own_offer: own_statements,
        };
        let (routing, routing_task) = routing::start(config.routing, parts, &metrics, stop.clone());
        let (others, cell) = (routing.clone(), config.jobs.cell);
        let cell_load = CellLoad::new(move || others.cell_utilisation(&cell));
        let (challenge_key, attestation_key) = (config.key.clone(), config.key.clone());
        let parts = JobsParts {
            key: config.key,
            network: network.clone(),
            engine: engine.clone(),
            ledger: ledger.clone(),
            store: store.clone(),
            own_offer,
            shown: was_shown,
            vouched: vouched_for,
            line: line_seen,
            round_trips: routing.place(),
            accuse,
            cell_load,
            proving: proves,
            quote_streams: incoming.quote,
            job_streams: incoming.job,
        };
        let (jobs, jobs_task) = jobs::start(config.jobs, parts, &metrics, stop.clone(), DRAIN).await?;
        let parts = ChallengeParts {
            key: challenge_key,
            network: network.clone(),
            routing: routing.clone(),
            store: store.clone(),
            power: jobs.power(),
            load: jobs.load(),
            engines: engine.status(),
            streams: incoming.challenge,
            shown,
            process: proving,
        };
        let (challenger, challenge_task) = challenge::start(challenges, parts, stop.clone());
        let parts = AttestationParts {
            key: attestation_key,
            network: network.clone(),
            routing: routing.clone(),
            store,
            trust,
            streams: incoming.attest,
            vouched,
        };
        let (attestation, attestation_task) = attestation::start(prepared, parts, stop.clone());
        let parts =
            BandwidthParts { network: network.clone(), load: jobs.load(), streams: incoming.bandwidth, line };
        let (meter, bandwidth_task) = bandwidth::start(bandwidths, parts, stop.clone());
        let parts = PrivateParts {
            network: network.clone(),
            routing: routing.clone(),
            engine: engine.clone(),
            streams: incoming.fhe,
            directory: config.private,
        };
        let (private, private_task) = private::start(parts, stop.clone());
        let (settlements, settlement_task) =
            settlement::start(network.clone(), ledger.clone(), incoming.settlement, stop.clone());
        let netcheck_task = netcheck::start(network.clone(), incoming.reach, stop.clone());
        let tasks = vec![
            ("challenge", challenge_task),
            ("attestation", attestation_task),
            ("bandwidth", bandwidth_task),
            ("jobs", jobs_task),
            ("private", private_task),
            ("routing", routing_task),
            ("settlement", settlement_task),
            ("netcheck", netcheck_task),
        ];
        let closing = CancellationToken::new();
        let (mut address, mut api_task) = (None, None);
        if let Some(api_config) = config.api {
            let parts = ApiParts {
                network_id,
                network: network.clone(),
                routing: routing.clone(),
                private: private.clone(),
                challenger,
                attestation,
                meter,
                jobs: Some(jobs.clone()),
                engine: Some(engine.clone()),
                ledger: ledger.clone(),
                settlements,
                metrics: metrics.clone(),
                stop: stop.clone(),
                closing: closing.clone(),
            };
            let (bound, task) = api::start(api_config, parts).await?;
            address = Some(bound);
            api_task = Some(task);
        }
        guard.disarm();
        Ok(Self {
            network,
            engine,
            jobs,
            routing,
            private,
            ledger,
            metrics,
            api: address,
            stop,
            tasks,
            closing,
            api_task,
        })
    }

    /// This node.
    pub fn id(&self) -> NodeId {
        self.network.local_id()
    }

    /// Asks the node to stop; [`Node::shutdown`] waits for it.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Returns once a stop was asked for, by [`Node::stop`] or over the API.
    pub async fn stop_requested(&self) {
        self.stop.cancelled().await;
    }

    /// Stops in order: no new jobs, running ones end or are failed with receipts, then engines, then the network.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        for (name, task) in std::mem::take(&mut self.tasks) {
            join(name, task).await;
        }
        self.engine.shutdown(ENGINE_PATIENCE).await;
        self.network.shutdown().await;
        self.closing.cancel();
        if let Some(task) = self.api_task.take() {
            join("api", task).await;
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
        self.closing.cancel();
    }
}
