//! The network's parameters for proofs in zero knowledge: what this node proves with its credential, and what it makes of
//! the proofs of others.
//!
//! A directory holds `parameters.json`, `verifying.key`, and, on nodes that prove, `proving.key`; the parameters pin both
//! keys. `docs/zero-knowledge.md` says what is proved.

use super::Trust;
use aitbc_circuits::{
    Credential, Fixed, Parameters, Presentation as Shown, Prover, ProvingKey, Request, Verifier, VerifyingKey,
    parameters::{KeyRefused, MAX_FILE, ParametersError, Policy},
    prover::{Moment, ProveError},
    rand::rngs::OsRng,
    setup::{KeyError, MAX_PROVING_KEY},
    verifier::VerifyError,
};
use aitbc_crypto::signing;
use aitbc_protocol::{
    Digest, NetworkId, NodeId, Signed, UnixMillis,
    attestation::exchange::{Issued, PolicyName, Presentation, ProofRequest, Revoke},
    bytes::BoundedBytes,
};
use sha2::{Digest as _, Sha256};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Name of the parameters in their directory.
pub const PARAMETERS: &str = "parameters.json";
/// Name of the proving key.
pub const PROVING_KEY: &str = "proving.key";
/// Name of the verifying key.
pub const VERIFYING_KEY: &str = "verifying.key";

/// Why the parameters are not used.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A file cannot be read.
    #[error("attestation.parameters {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The parameters do not hold.
    #[error("attestation.parameters {path}: {source}")]
    Parameters {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: ParametersError,
    },
    /// They are another network's.
    #[error("attestation.parameters: they are those of network {theirs}, and this node is on {ours}")]
    Network {
        /// Theirs.
        theirs: NetworkId,
        /// This node's.
        ours: NetworkId,
    },
    /// A key cannot be read.
    #[error("attestation.parameters {path}: {source}")]
    Key {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: KeyError,
    },
    /// A key is not the one that the parameters pin.
    #[error("attestation.parameters: {0}")]
    Refused(#[from] KeyRefused),
}

/// Why nothing is proved.
#[derive(Debug, thiserror::Error)]
pub enum ProvingError {
    /// There is nothing to prove with.
    #[error("this node proves nothing: it is no provider with attestation.private")]
    NoKey,
    /// There is no credential.
    #[error("this node has no credential that stands: a verifier of the network's set has to attest it first")]
    NoCredential,
    /// What the client says was taken back is not a verifier's word.
    #[error("what was taken back is not signed by a verifier of this network, or is not about this node")]
    Revocation,
    /// The policy is not met, or may not be asked.
    #[error(transparent)]
    Prove(#[from] ProveError),
}

/// Why a proof does not count.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// It has another size.
    #[error("the proof is not one: {0}")]
    Malformed(#[from] aitbc_circuits::encoding::Malformed),
    /// It does not show what was asked.
    #[error("the proof does not hold: {0}")]
    Verify(#[from] VerifyError),
}

/// What a network proves with.
#[derive(Debug)]
pub struct ZeroKnowledge {
    parameters: Arc<Parameters>,
    verifier: Verifier,
    prover: Option<Prover>,
}

fn read(path: &Path, most: usize) -> Result<Vec<u8>, SetupError> {
    let fail = |source| SetupError::File { path: path.to_owned(), source };
    let size = std::fs::metadata(path).map_err(fail)?.len();
    if size > most as u64 {
        return Err(fail(std::io::Error::other(format!("{size} bytes, where at most {most} are read"))));
    }
    std::fs::read(path).map_err(fail)
}

/// What the proof of `provider` to `client` is for.
fn session(client: NodeId, provider: NodeId) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"aitbc/attest/1/session");
    hash.update(client.0);
    hash.update(provider.0);
    hash.finalize().into()
}

/// From when on credentials count, in whole seconds, after something was taken back.
fn issued_after_s(revoke: Option<&Revoke>) -> u64 {
    revoke.map_or(0, |revoke| revoke.issued_before_ms.div_ceil(1000))
}

/// What `client` asks of `provider`, as a proof is about it.
fn request(asked: &ProofRequest, revoke: Option<&Revoke>, client: NodeId, provider: NodeId) -> Request {
    Request {
        policy: asked.policy.clone(),
        now_s: asked.now_ms / 1000,
        epoch: asked.epoch,
        issued_after_s: issued_after_s(revoke),
        nonce: asked.nonce.0,
        session: session(client, provider),
    }
}

impl ZeroKnowledge {
    /// Reads parameters and keys; the proving key, every point of which is checked for some seconds, only where this node
    /// `proves`. Blocks.
    pub fn load(directory: &Path, network: &NetworkId, proves: bool) -> Result<Self, SetupError> {
        let path = directory.join(PARAMETERS);
        let parameters = Parameters::parse(&read(&path, MAX_FILE)?)
            .map_err(|source| SetupError::Parameters { path, source })?;
        if parameters.network() != network {
            let (theirs, ours) = (parameters.network().clone(), network.clone());
            return Err(SetupError::Network { theirs, ours });
        }
        let parameters = Arc::new(parameters);
        let path = directory.join(VERIFYING_KEY);
        let key = VerifyingKey::from_bytes(&read(&path, MAX_PROVING_KEY)?)
            .map_err(|source| SetupError::Key { path, source })?;
        let verifier = Verifier::new(Arc::clone(&parameters), &key)?;
        let prover = if proves {
            let path = directory.join(PROVING_KEY);
            let key = ProvingKey::from_bytes(&read(&path, MAX_PROVING_KEY)?)
                .map_err(|source| SetupError::Key { path, source })?;
            Some(Prover::new(Arc::clone(&parameters), key)?)
        } else {
            None
        };
        Ok(Self { parameters, verifier, prover })
    }

    /// The parameters.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Whose revocations end proofs.
    pub fn issuers(&self) -> Vec<NodeId> {
        self.parameters.nodes().to_vec()
    }

    /// The first policy of the parameters that a provider names among `policies`: the file's order is the network's, and not
    /// the provider's to choose.
    pub fn choose(&self, policies: &[PolicyName]) -> Option<PolicyName> {
        self.parameters.policies().iter().map(Policy::name).find(|name| policies.contains(name)).cloned()
    }

    /// What is asked of a provider, of whom `revoked` was taken back last.
    pub fn ask(&self, policy: PolicyName, revoked: Option<Signed<Revoke>>, now_ms: UnixMillis) -> ProofRequest {
        let epoch = self.parameters.epoch_at(now_ms / 1000);
        ProofRequest { policy, now_ms, epoch, nonce: Digest(rand::random()), revoked }
    }

    /// Judges a proof; the nullifier that it shows, with its epoch.
    pub fn verify(
        &self,
        asked: &ProofRequest,
        client: NodeId,
        provider: NodeId,
        shown: &Presentation,
    ) -> Result<(u64, [u8; 32]), ProofError> {
        let bytes = [shown.proof.as_slice(), &shown.nullifier.0].concat();
        let shown = Shown::read(&bytes)?;
        let revoke = asked.revoked.as_ref().and_then(|signed| signed.read_unverified().ok());
        let request = request(asked, revoke.as_ref(), client, provider);
        let nullifier = self.verifier.verify(&request, &provider, &shown)?;
        Ok((asked.epoch, nullifier.to_bytes().try_into().unwrap_or_default()))
    }

    /// Proves to `client` what it asks, with the best of what was issued. Takes about half a second; blocks.
    pub fn prove(
        &self,
        issued: &[Issued],
        me: NodeId,
        client: NodeId,
        asked: &ProofRequest,
        now_ms: UnixMillis,
    ) -> Result<Presentation, ProvingError> {
        let prover = self.prover.as_ref().ok_or(ProvingError::NoKey)?;
        let revoke = match &asked.revoked {
            Some(signed) => Some(self.taken_back(signed, me, now_ms).ok_or(ProvingError::Revocation)?),
            None => None,
        };
        let request = request(asked, revoke.as_ref(), client, me);
        let revoked_before_s = revoke.as_ref().map(|revoke| issued_after_s(Some(revoke)));
        let moment = Moment { now_s: now_ms / 1000, revoked_before_s };
        let mut last = ProvingError::NoCredential;
        for credential in credentials(issued) {
            match prover.prove(&credential, &request, &moment, &mut OsRng) {
                Ok(shown) => {
                    let proof = BoundedBytes::new(shown.proof.to_vec()).expect("128 bytes are few");
                    let nullifier = Digest(shown.nullifier.to_bytes().try_into().unwrap_or_default());
                    return Ok(Presentation { proof, nullifier });
                }
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    }

    /// What a verifier of this network took back about this node.
    fn taken_back(&self, signed: &Signed<Revoke>, me: NodeId, now_ms: UnixMillis) -> Option<Revoke> {
        if !self.parameters.nodes().contains(&signed.signer()) {
            return None;
        }
        let revoke = signing::open(signed, self.parameters.network()).ok()?;
        (revoke.peer == me && revoke.is_current(now_ms)).then_some(revoke)
    }

    /// The policies that can be proved with what was issued.
    pub fn provable(&self, issued: &[Issued]) -> Vec<PolicyName> {
        if self.prover.is_none() {
            return Vec::new();
        }
        let credentials: Vec<Credential> = credentials(issued).collect();
        let meets = |policy: &Policy| {
            credentials.iter().any(|credential| {
                let of = &credential.attributes;
                of.score >= policy.least_score()
                    && of.kinds & policy.required_kinds() == policy.required_kinds()
                    && policy.measurements().contains(&of.measurement)
            })
        };
        self.parameters
            .policies()
            .iter()
            .filter(|policy| meets(policy))
            .map(|policy| policy.name().clone())
            .collect()
    }
}

/// The credentials that came with what was issued, newest first.
fn credentials(issued: &[Issued]) -> impl Iterator<Item = Credential> {
    issued.iter().filter_map(|issued| Credential::read(issued.credential.as_ref()?.as_slice()).ok())
}

impl Trust {
    /// The newest word of an issuer of credentials that took something back about `peer`, for as long as something issued
    /// before could stand.
    pub fn taken_back(&self, peer: NodeId, now_ms: UnixMillis) -> Option<Signed<Revoke>> {
        let known = self.known();
        let about = known.revoked.iter().filter(|((of, signer), revoked)| {
            *of == peer && self.0.issuers.contains(signer) && revoked.forget_ms > now_ms
        });
        about.max_by_key(|(_, revoked)| revoked.before_ms).map(|(_, revoked)| revoked.signed.clone())
    }
}

#[cfg(test)]
mod tests;
