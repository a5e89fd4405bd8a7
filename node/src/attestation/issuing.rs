//! What a verifier signs: results for everybody, and credentials where it belongs to the network's set of issuers.

use super::Shared;
use crate::{clock::now_ms, trust::zero_knowledge::ZeroKnowledge};
use aitbc_circuits::{
    Attributes, Fixed, IssuerKey, IssuerPublic, Measurement, encoding::Malformed, hw_tag, rand::rngs::OsRng,
};
use aitbc_crypto::{
    ear::{self, EarError},
    signing,
    tee::appraise::Findings,
};
use aitbc_protocol::{
    Digest, NodeId, UnixMillis,
    attestation::{
        Appraisal, EvidenceKind, Tier,
        exchange::{AttestationResult, Issued, MAX_CREDENTIAL_BYTES, MAX_EAR_BYTES},
    },
    bytes::BoundedBytes,
    text::Line,
    wire::WireError,
};
use std::{
    fmt,
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// Why a result cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// It is too long for an EAR.
    #[error(transparent)]
    Ear(#[from] EarError),
    /// It is too long for a statement.
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// Why the keys of a verifier of the set are not used.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// A file cannot be read.
    #[error("{setting} {path}: {source}")]
    File {
        /// Which setting names it.
        setting: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Others can read it.
    #[error("{setting} {path}: others can read it: chmod 600 {path}")]
    Readable {
        /// Which setting names it.
        setting: &'static str,
        /// Which file.
        path: PathBuf,
    },
    /// Not 64 hexadecimal digits, or no key.
    #[error("{setting} {path}: not a key of 64 hexadecimal digits: make one with `aitbc circuits keys`")]
    Malformed {
        /// Which setting names it.
        setting: &'static str,
        /// Which file.
        path: PathBuf,
    },
    /// The network's parameters do not name it.
    #[error("attestation.issuer_key: the network's parameters do not name this {0}: ask whoever publishes them")]
    NotInSet(&'static str),
}

/// The keys of a verifier that belongs to the network's set.
pub struct Issuer {
    key: IssuerKey,
    /// What the set shares: makes tags of hardware.
    set: Zeroizing<[u8; 32]>,
}

impl fmt::Debug for Issuer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Issuer")
    }
}

/// Reads a secret of 64 hexadecimal digits that nobody else can read. Blocks.
fn secret(setting: &'static str, path: &Path) -> Result<Zeroizing<[u8; 32]>, IssuerError> {
    let fail = |source| IssuerError::File { setting, path: path.to_owned(), source };
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        if std::fs::metadata(path).map_err(fail)?.permissions().mode() & 0o077 != 0 {
            return Err(IssuerError::Readable { setting, path: path.to_owned() });
        }
    }
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(fail)?);
    let mut bytes = Zeroizing::new([0; 32]);
    hex::decode_to_slice(text.trim(), bytes.as_mut_slice())
        .map_err(|_| IssuerError::Malformed { setting, path: path.to_owned() })?;
    Ok(bytes)
}

impl Issuer {
    /// Reads both keys; the first must be one of the network's, and so must this node. Blocks.
    pub fn load(me: NodeId, key: &Path, set: &Path, zk: &ZeroKnowledge) -> Result<Self, IssuerError> {
        let setting = "attestation.issuer_key";
        let bytes = secret(setting, key)?;
        let malformed = |_: Malformed| IssuerError::Malformed { setting, path: key.to_owned() };
        let key = IssuerKey::from_bytes(&bytes).map_err(malformed)?;
        let public: IssuerPublic = key.public(&mut OsRng);
        if !zk.parameters().verifiers().contains(public.key()) {
            return Err(IssuerError::NotInSet("key among their verifiers"));
        }
        if !zk.parameters().nodes().contains(&me) {
            return Err(IssuerError::NotInSet("node"));
        }
        Ok(Self { key, set: secret("attestation.set_key", set)? })
    }

    /// A credential for what was found, where it affirms hardware that can be told again.
    fn credential(&self, result: &AttestationResult, findings: &Findings) -> Option<Vec<u8>> {
        if result.tier != Tier::Affirming {
            return None;
        }
        let of = |kind| findings.appraisals.iter().map(|(of, _)| of).find(|of: &&Appraisal| of.kind == kind);
        // The tag is a TPM's, or a machine with two kinds of hardware would have two.
        let base = of(EvidenceKind::Tpm)?;
        let age = &findings.inputs.firmware_age_days;
        let attributes = Attributes {
            kinds: result.kinds.mask(),
            measurement: Measurement::new(base.measurement.as_bytes()).ok()?,
            score: result.score,
            attested_inputs: result.attested.mask(),
            firmware_age_days: age.attested.or(age.reported).unwrap_or_default(),
            // Whether a GPU signed for itself.
            gpu_class: u16::from(of(EvidenceKind::Nvidia).is_some()),
            hw_tag: hw_tag(&self.set, &base.hardware?.0),
            holder: result.peer,
            issued_s: result.issued_ms / 1000,
            expires_s: result.expires_ms / 1000,
        };
        let issued = self.key.issue(&attributes, &mut OsRng);
        issued
            .inspect_err(|error| tracing::warn!(%error, "no credential"))
            .ok()
            .map(|credential| credential.to_bytes())
    }
}

/// A result about `peer` that follows from `findings`, without the digest of its EAR.
fn result(peer: NodeId, findings: &Findings, issued_ms: UnixMillis) -> AttestationResult {
    AttestationResult {
        peer,
        tier: findings.tier,
        score: findings.score,
        attested: findings.inputs.attested(),
        kinds: findings.appraisals.iter().map(|(appraisal, _)| appraisal.kind).collect(),
        ear: Digest([0; 32]),
        issued_ms,
        expires_ms: findings.expires_ms,
    }
}

/// Signs what follows from `findings` about `peer`.
pub(super) fn issue(
    shared: &Shared,
    peer: NodeId,
    nonce: Digest,
    findings: &Findings,
) -> Result<Issued, SignError> {
    let result = result(peer, findings, now_ms());
    let said = ear::Findings {
        result: &result,
        nonce: &nonce,
        appraisals: &findings.appraisals,
        inputs: &findings.inputs,
        build: concat!("aitbc/", env!("CARGO_PKG_VERSION")),
    };
    let token = ear::sign(&shared.key, &ear::claims(&said))?;
    let result = AttestationResult { ear: Digest::of(token.as_bytes()), ..result };
    let signed = signing::seal(&shared.key, &shared.config.network, &result)?;
    let ear = Line::<MAX_EAR_BYTES>::new(token).map_err(|_| EarError::TooLarge(MAX_EAR_BYTES))?;
    let credential = shared.issuer.as_ref().and_then(|issuer| issuer.credential(&result, findings));
    let credential = credential.and_then(|bytes| BoundedBytes::<MAX_CREDENTIAL_BYTES>::new(bytes).ok());
    Ok(Issued { result: signed, ear, credential })
}
