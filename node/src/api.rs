//! The local HTTP server: OpenAI-compatible API, control API, metrics.

use crate::{
    engine::EngineHandle, jobs::JobsHandle, market::Ledger, network::NetworkHandle, routing::Routing,
    telemetry::Metrics,
};
use aitbc_protocol::NetworkId;
use std::{net::SocketAddr, path::PathBuf};
use tokio_util::sync::CancellationToken;

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
    /// Jobs as provider, where this node provides.
    pub jobs: Option<JobsHandle>,
    /// Engines, where this node provides.
    pub engine: Option<EngineHandle>,
    /// Money.
    pub ledger: Ledger,
    /// Metrics.
    pub metrics: Metrics,
    /// Cancelled by `POST /aitbc/v1/shutdown`.
    pub stop: CancellationToken,
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

/// Starts the server; returns the address it listens on (with the port the system chose, where 0 was asked for).
pub async fn start(
    config: ApiConfig,
    parts: ApiParts,
) -> Result<(SocketAddr, tokio::task::JoinHandle<()>), ApiError> {
    let _ = (config, parts);
    todo!()
}
