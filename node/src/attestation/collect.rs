//! What this machine can show: collectors of evidence, one a kind.

pub(super) mod nvidia;
mod sgx;
mod software;
#[cfg(feature = "tpm")]
pub mod tpm;
mod tsm;

use super::AttestationConfig;
use aitbc_crypto::tee::{
    intel::{Collateral, QuoteEvidence},
    sev_snp::SnpEvidence,
};
use aitbc_protocol::{
    Digest, UnixMillis,
    attestation::{
        EvidenceKind,
        exchange::{Claims, MAX_IDENTITY_BYTES, MAX_PIECE_BYTES, Missing, Piece},
    },
    bytes::BoundedBytes,
    text::Line,
    wire,
};
use serde::Serialize;
use std::{fmt, path::Path};

/// What a machine can show of one kind, for its owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// Which kind.
    pub kind: EvidenceKind,
    /// Whether it is there.
    pub available: bool,
    /// What is there, or why it is not and what to change.
    pub state: String,
}

/// One exchange with a verifier.
#[derive(Debug)]
pub(super) struct Session {
    config: AttestationConfig,
    /// What the TPM says of itself, encoded.
    tpm: Option<Vec<u8>>,
    missing: Vec<Missing>,
}

impl Session {
    /// Looks at what is there. Blocks: a TPM takes seconds.
    pub(super) fn begin(config: AttestationConfig) -> Self {
        let mut missing = Vec::new();
        let tpm = tpm_identity(&config).map_err(|reason| missing.push(lacks(EvidenceKind::Tpm, reason))).ok();
        Self { config, tpm, missing }
    }

    /// What the TPM says of itself, for the verifier.
    pub(super) fn identity(&self) -> Option<Vec<u8>> {
        self.tpm.clone()
    }

    /// What the node says of itself. Blocks.
    pub(super) fn claims(&self, nonce: Digest, now_ms: UnixMillis) -> Claims {
        software::claims(nonce, self.missing.clone(), now_ms)
    }

    /// Everything that this machine has signed over `binding`; what fails is told in the log. Blocks.
    pub(super) fn evidence(
        &self,
        binding: &[u8; 32],
        credential: Option<&[u8]>,
        collateral: Option<&Collateral>,
    ) -> Vec<Piece> {
        let mut pieces = Vec::new();
        if let (Some(_), Some(credential)) = (&self.tpm, credential) {
            take(&mut pieces, EvidenceKind::Tpm, tpm_evidence(&self.config, credential, binding));
        }
        let wide: [u8; 64] = std::array::from_fn(|index| binding.get(index).copied().unwrap_or_default());
        match tsm::report(Path::new(tsm::REPORTS), &wide) {
            Ok(report) if report.provider.starts_with("tdx") => {
                take(&mut pieces, EvidenceKind::Tdx, quote(report.quote, collateral));
            }
            Ok(report) if report.provider.starts_with("sev") => {
                take(&mut pieces, EvidenceKind::SevSnp, snp_evidence(report));
            }
            Ok(report) => {
                tracing::info!(provider = %report.provider, "reports of this provider are not known here");
            }
            Err(tsm::TsmError::Absent) => {}
            Err(error) => tracing::warn!(%error, "no quote of this confidential machine"),
        }
        match sgx::quote(Path::new(sgx::ATTESTATION), &wide) {
            Ok(bytes) => take(&mut pieces, EvidenceKind::Sgx, quote(bytes, collateral)),
            Err(sgx::SgxError::Absent) => {}
            Err(error) => tracing::warn!(%error, "no quote of this enclave"),
        }
        match nvidia::report(binding, None, self.config.nvidia_references.as_deref()) {
            Ok(collected) => {
                for gpu in collected {
                    take(&mut pieces, EvidenceKind::Nvidia, encode(&gpu.evidence));
                }
            }
            Err(reason) => tracing::debug!(%reason, "no report of a GPU"),
        }
        pieces.truncate(aitbc_protocol::attestation::exchange::MAX_PIECES);
        pieces
    }
}

fn lacks(kind: EvidenceKind, reason: impl fmt::Display) -> Missing {
    Missing { kind, reason: Line::lossy(&reason.to_string()) }
}

/// Why something collected does not become evidence.
#[derive(Debug, thiserror::Error)]
enum CollectError {
    #[error("it is larger than evidence may be: {0}")]
    TooLarge(#[from] aitbc_protocol::bytes::TooManyBytes),
    #[error("it cannot be encoded: {0}")]
    Wire(#[from] wire::WireError),
    #[error("{0}")]
    Snp(#[from] aitbc_crypto::tee::sev_snp::SnpError),
    #[cfg(feature = "tpm")]
    #[error(transparent)]
    Tpm(#[from] tpm::CollectError),
    #[error("switched off (attestation.tpm)")]
    TpmOff,
    #[cfg(not(feature = "tpm"))]
    #[error("this aitbc was built without TPM support: build with --features tpm (libtss2-dev)")]
    NoTpmSupport,
}

fn encode(evidence: &impl Serialize) -> Result<Vec<u8>, CollectError> {
    Ok(wire::encode_payload(evidence, MAX_PIECE_BYTES)?)
}

fn take(pieces: &mut Vec<Piece>, kind: EvidenceKind, collected: Result<Vec<u8>, CollectError>) {
    let piece = collected.and_then(|bytes| Ok(Piece { kind, bytes: BoundedBytes::new(bytes)? }));
    match piece {
        Ok(piece) => pieces.push(piece),
        Err(error) => tracing::warn!(%kind, %error, "evidence could not be collected"),
    }
}

fn quote(bytes: Vec<u8>, collateral: Option<&Collateral>) -> Result<Vec<u8>, CollectError> {
    encode(&QuoteEvidence { quote: BoundedBytes::new(bytes)?, collateral: collateral.cloned() })
}

fn snp_evidence(report: tsm::Report) -> Result<Vec<u8>, CollectError> {
    encode(&SnpEvidence::from_table(report.quote, &report.certificates)?)
}

#[cfg(feature = "tpm")]
fn settings(config: &AttestationConfig) -> Option<tpm::Settings> {
    let mut settings = tpm::Settings { tcti: config.tpm.clone()?, ..tpm::Settings::default() };
    if let Some(path) = &config.event_log {
        settings.event_log.clone_from(path);
    }
    Some(settings)
}

/// What the TPM says of itself, or why it says nothing.
#[cfg(feature = "tpm")]
fn tpm_identity(config: &AttestationConfig) -> Result<Vec<u8>, CollectError> {
    let identity = tpm::identity(&settings(config).ok_or(CollectError::TpmOff)?)?;
    Ok(wire::encode_payload(&identity, MAX_IDENTITY_BYTES)?)
}

#[cfg(not(feature = "tpm"))]
fn tpm_identity(config: &AttestationConfig) -> Result<Vec<u8>, CollectError> {
    Err(if config.tpm.is_some() { CollectError::NoTpmSupport } else { CollectError::TpmOff })
}

#[cfg(feature = "tpm")]
fn tpm_evidence(
    config: &AttestationConfig,
    credential: &[u8],
    binding: &[u8; 32],
) -> Result<Vec<u8>, CollectError> {
    let challenge = wire::decode_payload(credential, MAX_IDENTITY_BYTES)?;
    let settings = settings(config).ok_or(CollectError::TpmOff)?;
    let tpm::Collected { evidence, missing } = tpm::answer(&settings, &challenge, binding)?;
    for problem in missing {
        tracing::debug!(%problem, "a log that would explain the PCRs is missing");
    }
    encode(&evidence)
}

#[cfg(not(feature = "tpm"))]
fn tpm_evidence(_: &AttestationConfig, _: &[u8], _: &[u8; 32]) -> Result<Vec<u8>, CollectError> {
    Err(CollectError::NoTpmSupport)
}

/// What this machine can show, kind by kind, for its owner. Nothing of it is verified. Blocks.
pub fn look(config: &AttestationConfig) -> Vec<Seen> {
    let nothing = [0; 64];
    let tsm = tsm::report(Path::new(tsm::REPORTS), &nothing);
    let confidential = |provider: &str| match &tsm {
        Ok(report) if report.provider.starts_with(provider) => Ok(format!("a quote by {}", report.provider)),
        Ok(report) => Err(format!("this machine's reports are by {}", report.provider)),
        Err(error) => Err(error.to_string()),
    };
    let sgx = sgx::quote(Path::new(sgx::ATTESTATION), &nothing);
    let gpus = nvidia::report(&[0; 32], None, config.nvidia_references.as_deref());
    let claims = software::claims(Digest([0; 32]), Vec::new(), crate::clock::now_ms());
    let itself = format!("{}; binary {}; worth no tier", claims.system, claims.binary);
    vec![
        seen(EvidenceKind::Tpm, tpm_identity(config).map(|_| "a TPM that answers".to_owned())),
        seen(EvidenceKind::Sgx, sgx.map(|_| "a quote of this enclave".to_owned())),
        seen(EvidenceKind::Tdx, confidential("tdx")),
        seen(EvidenceKind::SevSnp, confidential("sev")),
        seen(EvidenceKind::Nvidia, gpus.map(|gpus| format!("reports of {} GPUs", gpus.len()))),
        Seen { kind: EvidenceKind::Software, available: true, state: itself },
    ]
}

fn seen<E: fmt::Display>(kind: EvidenceKind, found: Result<String, E>) -> Seen {
    let available = found.is_ok();
    Seen { kind, available, state: found.unwrap_or_else(|error| error.to_string()) }
}
