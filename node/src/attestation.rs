//! Attestation: this node shows what it is, and verifies what others show.
//!
//! ```text
//! serving: stream -> collect: TPM, confidential machine, GPU, software -> evidence -> Issued -> announcer: the offer
//!                 -> circuits: a proof for a client that asks
//! asking:  CLI -> API -> Attestation: nonce, evidence -> crypto::tee -> result, EAR -> Trust -> routing
//! renewal: results of this node at 80 % of their time -> asking; what failed -> Revoke, by gossip
//! ```
//!
//! What is said, when, and what follows is in [`aitbc_protocol::attestation::exchange`].

pub mod asking;
pub mod collect;
mod issuing;
mod renewal;
mod serving;

pub use asking::{AttestError, Finding, Progress};
pub use issuing::{Issuer, IssuerError};

use crate::{
    clock::now_ms,
    network::{IncomingStream, NetworkHandle, intake},
    routing::Routing,
    storage::{AttestationRecord, StorageError, Store},
    trust::{
        Trust, Vouched,
        zero_knowledge::{self, ZeroKnowledge},
    },
};
use aitbc_crypto::{
    SecretKey,
    tee::{
        appraise::Anchors,
        intel::{Collateral, IntelError},
        nvidia::ReferenceFile,
        x509,
    },
};
use aitbc_protocol::{
    NetworkId, NodeId,
    attestation::{Measurement, exchange::Issued},
};
use std::{path::PathBuf, sync::Arc};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

/// Largest file of certificates or collateral that is read, in bytes.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// What this node shows, and what it makes of what others show.
#[derive(Clone, Debug)]
pub struct AttestationConfig {
    /// Whose statements count.
    pub network: NetworkId,
    /// Where the TPM is; `None` to show none.
    pub tpm: Option<String>,
    /// The firmware's event log, where it is not where Linux has it.
    pub event_log: Option<PathBuf>,
    /// Intel's collateral for quotes of this machine.
    pub collateral: Option<PathBuf>,
    /// NVIDIA's reference files.
    pub nvidia_references: Option<PathBuf>,
    /// Certificates of makers of TPMs that count beside those that come with aitbc.
    pub roots: Vec<PathBuf>,
    /// AMD's revocation lists.
    pub amd_revocations: Vec<PathBuf>,
    /// Measurements that count; what was measured first of each peer if empty.
    pub measurements: Vec<Measurement>,
    /// Directory of parameters and keys for proofs.
    pub parameters: Option<PathBuf>,
    /// Whether offers name policies in place of results, and evidence is shown to verifiers of the set alone.
    pub private: bool,
    /// The key that signs credentials, and the secret that makes tags of hardware.
    pub issuer: Option<(PathBuf, PathBuf)>,
}

impl AttestationConfig {
    /// Shows nothing of hardware, and trusts what comes with aitbc.
    pub fn nothing(network: NetworkId) -> Self {
        Self {
            network,
            tpm: None,
            event_log: None,
            collateral: None,
            nvidia_references: None,
            roots: Vec::new(),
            amd_revocations: Vec::new(),
            measurements: Vec::new(),
            parameters: None,
            private: false,
            issuer: None,
        }
    }
}

/// Why attestation does not start.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A file cannot be read.
    #[error("{setting} {path}: {source}")]
    File {
        /// Which setting names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file of certificates is none.
    #[error("attestation.roots {path}: {source}")]
    Roots {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: x509::CertificateError,
    },
    /// The file with Intel's statements.
    #[error("attestation.collateral {path}: {source}")]
    Collateral {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: IntelError,
    },
    /// The parameters for proofs.
    #[error(transparent)]
    ZeroKnowledge(#[from] zero_knowledge::SetupError),
    /// The keys of a verifier of the set.
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    /// The database.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// What attestation works with.
#[derive(Debug)]
pub struct AttestationParts {
    /// The node's key.
    pub key: SecretKey,
    /// The network.
    pub network: NetworkHandle,
    /// Where providers are, for what is taken back.
    pub routing: Routing,
    /// Keeps results.
    pub store: Store,
    /// What is known of others.
    pub trust: Trust,
    /// `/aitbc/attest/1`.
    pub streams: mpsc::Receiver<IncomingStream>,
    /// Where what was issued goes, for the offer.
    pub vouched: watch::Sender<Vouched>,
}

/// What all parts share.
#[derive(Debug)]
struct Shared {
    config: AttestationConfig,
    key: SecretKey,
    network: NetworkHandle,
    routing: Routing,
    store: Store,
    trust: Trust,
    anchors: Anchors,
    /// Intel's statements about this machine.
    collateral: Option<Collateral>,
    zero_knowledge: Option<Arc<ZeroKnowledge>>,
    issuer: Option<Issuer>,
    asking: tokio::sync::Semaphore,
    issued: watch::Sender<Vec<Issued>>,
    vouched: watch::Sender<Vouched>,
}

/// Has others show what they are, and tells what is known. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Attestation(Arc<Shared>);

impl Attestation {
    /// What this node found about others.
    pub async fn records(&self) -> Result<Vec<AttestationRecord>, StorageError> {
        let store = self.0.store.clone();
        blocking(move || store.attestations()).await
    }

    /// What verifiers have issued to this node, and still stands.
    pub fn issued(&self) -> Vec<Issued> {
        standing(self.0.issued.borrow().clone(), now_ms())
    }

    /// What this node's attestation comes to by all that was issued to it: the best of what stands.
    pub fn vouched(&self) -> Vouched {
        self.0.vouched.borrow().clone()
    }
}

/// Runs what blocks off the runtime; a panic there goes on here.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

/// Those that still stand.
fn standing(mut issued: Vec<Issued>, now_ms: u64) -> Vec<Issued> {
    issued.retain(|issued| issued.result.read_unverified().is_ok_and(|result| result.stands(now_ms)));
    issued
}

fn read(setting: &'static str, path: &PathBuf) -> Result<Vec<u8>, SetupError> {
    let fail = |source| SetupError::File { setting, path: path.clone(), source };
    let size = std::fs::metadata(path).map_err(fail)?.len();
    if size > MAX_FILE_BYTES {
        return Err(fail(std::io::Error::other(format!("{size} bytes, where at most {MAX_FILE_BYTES} are read"))));
    }
    std::fs::read(path).map_err(fail)
}

/// NVIDIA's reference files in a directory: those whose names end in `.xml`.
fn references(directory: &PathBuf) -> Result<Vec<ReferenceFile>, SetupError> {
    let setting = "attestation.nvidia_references";
    let fail = |source| SetupError::File { setting, path: directory.clone(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let name =
            path.file_stem().and_then(|name| name.to_str()).filter(|_| path.extension() == Some("xml".as_ref()));
        if let Some(name) = name {
            match collect::nvidia::read_reference(directory, name) {
                Some(file) => files.push(file),
                None => {
                    tracing::warn!(path = %path.display(), "this reference file is too large, or cannot be read");
                }
            }
        }
    }
    Ok(files)
}

/// Reads what the settings name, before anything is started with it. Blocks.
pub fn prepare(config: AttestationConfig, me: NodeId) -> Result<Prepared, SetupError> {
    let mut anchors = Anchors::default();
    for path in &config.roots {
        let text = read("attestation.roots", path)?;
        let invalid = |source| SetupError::Roots { path: path.clone(), source };
        for root in x509::pem_chain(&text).map_err(invalid)? {
            anchors.tpm = anchors.tpm.with(root).map_err(invalid)?;
        }
    }
    let collateral = match &config.collateral {
        Some(path) => {
            let text = read("attestation.collateral", path)?;
            let invalid = |source| SetupError::Collateral { path: path.clone(), source };
            Some(Collateral::from_json(&text).map_err(invalid)?)
        }
        None => None,
    };
    for path in &config.amd_revocations {
        anchors.snp.revocations.push(read("attestation.amd_revocations", path)?);
    }
    anchors.intel.collateral.extend(collateral.clone());
    if let Some(directory) = &config.nvidia_references {
        anchors.nvidia.references = references(directory)?;
    }
    let zero_knowledge =
        config.parameters.as_ref().map(|path| ZeroKnowledge::load(path, &config.network, config.private));
    let zero_knowledge = zero_knowledge.transpose()?.map(Arc::new);
    let issuer = match (&config.issuer, &zero_knowledge) {
        (Some((key, set)), Some(zk)) => Some(Issuer::load(me, key, set, zk)?),
        _ => None,
    };
    Ok(Prepared { config, anchors, collateral, zero_knowledge, issuer })
}

/// What the settings name, read.
#[derive(Debug)]
pub struct Prepared {
    config: AttestationConfig,
    anchors: Anchors,
    collateral: Option<Collateral>,
    /// For the client side, which verifies proofs.
    pub zero_knowledge: Option<Arc<ZeroKnowledge>>,
    issuer: Option<Issuer>,
}

/// Starts serving, and renewing what this node has signed, until `stop`.
pub fn start(
    prepared: Prepared,
    parts: AttestationParts,
    stop: CancellationToken,
) -> (Attestation, JoinHandle<()>) {
    let Prepared { config, anchors, collateral, zero_knowledge, issuer } = prepared;
    let AttestationParts { key, network, routing, store, trust, streams, vouched } = parts;
    let shared = Arc::new(Shared {
        config,
        key,
        network,
        routing,
        store,
        trust,
        anchors,
        collateral,
        zero_knowledge,
        issuer,
        asking: tokio::sync::Semaphore::new(asking::AT_ONCE),
        issued: watch::Sender::default(),
        vouched,
    });
    let attestation = Attestation(Arc::clone(&shared));
    let renewing = stop.clone().run_until_cancelled_owned(renewal::run(attestation.clone()));
    let answering = async move {
        let server = serving::Server::new(shared);
        server.recall().await;
        intake::serve(streams, serving::LIMITS, stop.clone(), |incoming, turn| {
            let served = stop.clone().run_until_cancelled_owned(Arc::clone(&server).serve(incoming, turn));
            futures::FutureExt::map(served, |_| ())
        })
        .await;
    };
    let both = async {
        tokio::join!(renewing, answering);
    };
    (attestation, tokio::spawn(both.instrument(tracing::info_span!("attestation"))))
}
