//! The local HTTP server: OpenAI-compatible API, control API, metrics.
//!
//! ```text
//! server   accepts connections, bounded and timed      gate      token, Host, Origin
//! private  /v1/private/… values that nobody else reads
//! openai   /v1/…   requests to jobs, updates to        control   /aitbc/v1/…   status, lists, jobs and
//!          documents or server-sent events                       searches as NDJSON, shutdown
//! body     bodies read within bounds, streams that     error     refusals and failures in OpenAI's shape
//!          end with their reader
//! ```
//!
//! The future or the body that answers a request owns its job, and the connection owns them: a client that leaves
//! cancels its job on the device. There are no CORS headers: other sites' pages have no business here.

use crate::{
    attestation::Attestation, bandwidth::Meter, challenge::Challenger, engine::EngineHandle, jobs::JobsHandle,
    market::Ledger, network::NetworkHandle, private::Private, routing::Routing, settlement::Settlements,
    telemetry::Metrics,
};
use aitbc_protocol::NetworkId;
use axum::{Router, extract::DefaultBodyLimit, middleware, routing::get};
use error::Failure;
use gate::Gate;
use metrics::RequestMetrics;
use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::sync::CancellationToken;

mod body;
mod control;
mod error;
mod gate;
mod metrics;
mod openai;
mod private;
mod server;
#[cfg(test)]
mod tests;

/// Jobs and searches that run through this API at a time; more are refused with 429.
const MAX_RUNNING: usize = 64;

/// How the server is started.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// File with the bearer token; needed beyond loopback.
    pub token_file: Option<PathBuf>,
}

/// What the server shows and calls.
#[derive(Clone, Debug)]
pub struct ApiParts {
    /// Version and network, for `status`.
    pub network_id: NetworkId,
    /// The network.
    pub network: NetworkHandle,
    /// Jobs as client.
    pub routing: Routing,
    /// Private jobs.
    pub private: Private,
    /// Has others show their memory.
    pub challenger: Challenger,
    /// Has others show what they are.
    pub attestation: Attestation,
    /// Measures this node's line.
    pub meter: Meter,
    /// Jobs as provider, where this node provides.
    pub jobs: Option<JobsHandle>,
    /// Engines, where this node provides.
    pub engine: Option<EngineHandle>,
    /// Money.
    pub ledger: Ledger,
    /// Settlements outside the network.
    pub settlements: Settlements,
    /// Metrics.
    pub metrics: Metrics,
    /// Cancelled by `POST /aitbc/v1/shutdown`.
    pub stop: CancellationToken,
    /// Ends the server: cancelled last, so that a port that does not answer means a node that is gone.
    pub closing: CancellationToken,
}

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Bound beyond loopback without a token.
    #[error("api.listen is {0}, which others can reach: set api.token_file, or listen on 127.0.0.1")]
    NoToken(SocketAddr),
    /// The token file cannot be read, is empty, or can be read by others.
    #[error("api.token_file {path}: {reason}")]
    Token {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The address is taken or not ours.
    #[error("cannot listen on {address} (setting api.listen): {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
}

/// What handlers share. Cheap to clone.
#[derive(Clone, Debug)]
struct ApiState(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    parts: ApiParts,
    address: SocketAddr,
    started: Instant,
    places: Places,
}

/// The places for jobs and searches that run at a time.
#[derive(Debug)]
struct Places {
    free: Arc<Semaphore>,
    limit: usize,
}

impl Places {
    fn new(limit: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(limit)), limit }
    }

    /// A place, or the refusal that says so.
    fn take(&self) -> Result<OwnedSemaphorePermit, Failure> {
        self.free.clone().try_acquire_owned().map_err(|_| Failure::too_many(self.limit))
    }
}

impl ApiState {
    fn parts(&self) -> &ApiParts {
        &self.0.parts
    }

    /// Where the server listens.
    fn address(&self) -> SocketAddr {
        self.0.address
    }

    fn uptime(&self) -> Duration {
        self.0.started.elapsed()
    }

    /// A place for a job or a search, held until its answer is over.
    fn place(&self) -> Result<OwnedSemaphorePermit, Failure> {
        self.0.places.take()
    }
}

/// Puts around `routes` what all requests pass: counting, the gate, the limit of bodies, and answers for paths and
/// methods that are none.
fn guarded(routes: Router, gate: Gate, metrics: RequestMetrics) -> Router {
    routes
        .route("/healthz", get(async || "ok"))
        .fallback(async || Failure::not_found("unknown_path", "this API has no such path"))
        .method_not_allowed_fallback(async || Failure::method())
        .layer(DefaultBodyLimit::max(body::MAX_BODY))
        .layer(middleware::from_fn_with_state(gate, gate::guard))
        .layer(middleware::from_fn_with_state(metrics, metrics::count))
}

/// Starts the server; returns the address it listens on (with the port the system chose, where 0 was asked for). The
/// task ends after `closing` is cancelled, when answers in flight have ended or five seconds have passed.
pub async fn start(
    config: ApiConfig,
    parts: ApiParts,
) -> Result<(SocketAddr, tokio::task::JoinHandle<()>), ApiError> {
    let gate = Gate::new(&config)?;
    let refused = |source| ApiError::Listen { address: config.listen, source };
    let listener = TcpListener::bind(config.listen).await.map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    let (closing, metrics) = (parts.closing.clone(), RequestMetrics::new(&parts.metrics));
    let places = Places::new(MAX_RUNNING);
    let state = ApiState(Arc::new(Shared { parts, address, started: Instant::now(), places }));
    let routes = Router::new()
        .merge(openai::routes())
        .merge(control::routes())
        .merge(private::routes())
        .route("/metrics", get(metrics::page))
        .with_state(state);
    let serving = tokio::spawn(server::serve(listener, guarded(routes, gate, metrics), closing, server::DRAIN));
    Ok((address, serving))
}
