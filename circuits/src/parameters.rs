//! The network's parameters file: whose credentials count, what may be asked, and which keys prove it.
//!
//! JSON that people read and review. A client that could choose roots, thresholds or masks would read a credential's
//! attributes by halving intervals; so they are named policies here, the same for everybody.

use crate::{
    attestation::{
        attributes::{MAX_SCORE, Measurement},
        issuer::{IssuerPublic, SetError, VerifierSet},
        measurements::{AllowList, MAX_MEASUREMENTS},
        statement::{Nullifier, Statement, binding_element, network_element},
    },
    contribution::{ContributionFile, MAX_CONTRIBUTIONS, MIN_CONTRIBUTIONS, Phase},
    presentation::{PolicyName, Request},
    setup::{Origin, ProvingKey, VerifyingKey},
};
use aitbc_protocol::{Digest, NetworkId, NodeId};
use ark_bn254::Fr;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// The most bytes that a parameters file has.
pub const MAX_FILE: usize = 4 << 20;
/// The most policies that a network has.
pub const MAX_POLICIES: usize = 16;
/// The fewest verifiers of a network whose policies claim privacy: a proof says that one of so many has signed.
pub const PRIVATE_VERIFIERS: usize = 8;
/// The shortest and the longest epoch in milliseconds: a minute, a year.
pub const EPOCH_MS: std::ops::RangeInclusive<u64> = 60_000..=31_536_000_000;

/// The file as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// The network.
    pub network: NetworkId,
    /// Length of an epoch, within which one TPM shows one nullifier, in milliseconds.
    pub epoch_ms: u64,
    /// The keys.
    pub keys: Keys,
    /// Whose credentials count: public keys with proofs of possession.
    pub verifiers: Vec<IssuerPublic>,
    /// The same verifiers as nodes of the network, in any order: what one of them takes back ends proofs.
    pub nodes: Vec<NodeId>,
    /// What may be asked.
    pub policies: Vec<PolicyFile>,
}

/// The keys that a network proves and verifies with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// SHA-256 of the proving key.
    pub proving: Digest,
    /// SHA-256 of the verifying key.
    pub verifying: Digest,
    /// True where one machine made them.
    pub development: bool,
    /// Who contributed to the ceremony that they come from, in order; none for development keys.
    #[serde(default)]
    pub contributions: Vec<ContributionFile>,
}

/// One policy as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyFile {
    /// Its name, which offers carry.
    pub name: PolicyName,
    /// True where it claims to tell nobody which verifier signed.
    pub private: bool,
    /// The kinds of evidence that must have held, as a mask.
    pub required_kinds: u16,
    /// The least score, in thousandths.
    pub least_score: u16,
    /// Allowed measurements, hexadecimal.
    pub measurements: Vec<String>,
}

/// What may be asked of a credential.
#[derive(Debug, Clone)]
pub struct Policy {
    name: PolicyName,
    private: bool,
    required_kinds: u16,
    least_score: u16,
    measurements: AllowList,
}

/// Parameters that were found in order.
#[derive(Debug, Clone)]
pub struct Parameters {
    network: NetworkId,
    /// The network's name as an element, which every statement needs.
    network_element: Fr,
    epoch_ms: u64,
    keys: Keys,
    verifiers: VerifierSet,
    nodes: Vec<NodeId>,
    policies: Vec<Policy>,
}

/// Why a file is no parameters file.
#[derive(Debug, thiserror::Error)]
pub enum ParametersError {
    /// Too long.
    #[error("{0} bytes: a parameters file has up to {MAX_FILE}")]
    Length(usize),
    /// Not JSON, or a field missing, unknown or of the wrong kind.
    #[error("not a parameters file: {0}")]
    Format(#[from] serde_json::Error),
    /// A field's value is out of range.
    #[error("{field}: {problem}")]
    Field {
        /// The field, such as `policies[1].least_score`.
        field: String,
        /// What is wrong and what to write instead.
        problem: String,
    },
    /// The verifiers are no set.
    #[error("verifiers: {0}")]
    Verifiers(#[from] SetError),
    /// A policy claims privacy among too few verifiers.
    #[error(
        "policies[{index}].private: {verifiers} verifiers are too few to hide among, {PRIVATE_VERIFIERS} are enough: \
         write \"private\": false or add verifiers"
    )]
    Privacy {
        /// The policy's place.
        index: usize,
        /// How many verifiers there are.
        verifiers: usize,
    },
    /// Development keys on a network that is not for tests.
    #[error(
        "keys.development: whoever made these keys can forge credentials, so only the network \"local\" takes them"
    )]
    Development,
    /// Too few contributions.
    #[error("keys.contributions: {found} to the phase {phase}, where at least {MIN_CONTRIBUTIONS} are needed")]
    Contributions {
        /// To which phase.
        phase: Phase,
        /// How many there are.
        found: usize,
    },
}

/// Why a key is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyRefused {
    /// Not the key that the parameters pin.
    #[error("the {key} key has the digest {found} and the parameters pin {pinned}: fetch the network's key")]
    Digest {
        /// Proving or verifying.
        key: &'static str,
        /// What it has.
        found: Digest,
        /// What the parameters say.
        pinned: Digest,
    },
    /// The key says that it comes from elsewhere than the parameters say.
    #[error("the {0} key and the parameters disagree about whether it is a development key")]
    Origin(&'static str),
}

fn field(field: impl Into<String>, problem: impl Into<String>) -> ParametersError {
    ParametersError::Field { field: field.into(), problem: problem.into() }
}

impl Policy {
    /// Its name.
    pub fn name(&self) -> &PolicyName {
        &self.name
    }

    /// True where it claims to tell nobody which verifier signed.
    pub fn is_private(&self) -> bool {
        self.private
    }

    /// The kinds of evidence that must have held, as a mask.
    pub fn required_kinds(&self) -> u16 {
        self.required_kinds
    }

    /// The least score, in thousandths.
    pub fn least_score(&self) -> u16 {
        self.least_score
    }

    /// The allowed measurements.
    pub fn measurements(&self) -> &AllowList {
        &self.measurements
    }

    fn read(file: PolicyFile, index: usize) -> Result<Self, ParametersError> {
        let at = |name: &str| format!("policies[{index}].{name}");
        if file.name.as_str().is_empty() {
            return Err(field(at("name"), "empty: give it a name"));
        }
        if file.least_score > MAX_SCORE {
            return Err(field(
                at("least_score"),
                format!("{} is above {MAX_SCORE} thousandths", file.least_score),
            ));
        }
        let measurements = file
            .measurements
            .iter()
            .enumerate()
            .map(|(place, text)| {
                hex::decode(text).ok().and_then(|bytes| Measurement::new(&bytes).ok()).ok_or_else(|| {
                    field(at(&format!("measurements[{place}]")), "not 1 to 48 bytes in hexadecimal")
                })
            })
            .collect::<Result<_, _>>()?;
        let measurements = AllowList::new(measurements).ok_or_else(|| {
            field(at("measurements"), format!("a list has 1 to {MAX_MEASUREMENTS} measurements"))
        })?;
        Ok(Self {
            name: file.name,
            private: file.private,
            required_kinds: file.required_kinds,
            least_score: file.least_score,
            measurements,
        })
    }

    /// What a proof has to be about.
    pub(crate) fn statement(
        &self,
        parameters: &Parameters,
        request: &Request,
        peer: &NodeId,
        nullifier: Nullifier,
    ) -> Statement {
        Statement {
            verifiers: parameters.verifiers.root(),
            measurements: self.measurements.root(),
            required_kinds: self.required_kinds,
            least_score: self.least_score,
            now_s: request.now_s,
            issued_after_s: request.issued_after_s,
            peer: Statement::peer_of(peer),
            nullifier,
            network: parameters.network_element,
            epoch: request.epoch,
            binding: binding_element(&request.nonce, &request.session),
        }
    }
}

impl Parameters {
    /// Reads the file's bytes.
    pub fn parse(json: &[u8]) -> Result<Self, ParametersError> {
        if json.len() > MAX_FILE {
            return Err(ParametersError::Length(json.len()));
        }
        Self::new(serde_json::from_slice(json)?)
    }

    /// Takes a file whose values are in order.
    pub fn new(file: File) -> Result<Self, ParametersError> {
        if !EPOCH_MS.contains(&file.epoch_ms) {
            return Err(field(
                "epoch_ms",
                format!("{} is not within {} to {}", file.epoch_ms, EPOCH_MS.start(), EPOCH_MS.end()),
            ));
        }
        check_keys(&file.keys, &file.network)?;
        let verifiers = VerifierSet::new(file.verifiers)?;
        let nodes: HashSet<NodeId> = file.nodes.iter().copied().collect();
        if nodes.len() != verifiers.len() || nodes.len() != file.nodes.len() {
            let problem =
                format!("{} nodes for {} verifiers: name the node of each once", nodes.len(), verifiers.len());
            return Err(field("nodes", problem));
        }
        if file.policies.is_empty() || file.policies.len() > MAX_POLICIES {
            return Err(field(
                "policies",
                format!("{} of them: a network has 1 to {MAX_POLICIES}", file.policies.len()),
            ));
        }
        let mut policies: Vec<Policy> = Vec::with_capacity(file.policies.len());
        for (index, policy) in file.policies.into_iter().enumerate() {
            if policy.private && verifiers.len() < PRIVATE_VERIFIERS {
                return Err(ParametersError::Privacy { index, verifiers: verifiers.len() });
            }
            if policies.iter().any(|other| other.name == policy.name) {
                return Err(field(format!("policies[{index}].name"), "another policy has this name"));
            }
            policies.push(Policy::read(policy, index)?);
        }
        let network_element = network_element(&file.network);
        Ok(Self {
            network: file.network,
            network_element,
            epoch_ms: file.epoch_ms,
            keys: file.keys,
            verifiers,
            nodes: file.nodes,
            policies,
        })
    }

    /// The network.
    pub fn network(&self) -> &NetworkId {
        &self.network
    }

    pub(crate) fn network_element(&self) -> Fr {
        self.network_element
    }

    /// Whose credentials count.
    pub fn verifiers(&self) -> &VerifierSet {
        &self.verifiers
    }

    /// The verifiers as nodes: what one of them takes back ends proofs.
    pub fn nodes(&self) -> &[NodeId] {
        &self.nodes
    }

    /// The keys.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// What may be asked.
    pub fn policies(&self) -> &[Policy] {
        &self.policies
    }

    /// The policy of a name.
    pub fn policy(&self, name: &str) -> Option<&Policy> {
        self.policies.iter().find(|policy| policy.name.as_str() == name)
    }

    /// The epoch of a time in seconds since 1970.
    pub fn epoch_at(&self, now_s: u64) -> u64 {
        now_s.saturating_mul(1000) / self.epoch_ms
    }

    /// That this is the proving key of the network.
    pub fn accept_proving_key(&self, key: &ProvingKey) -> Result<(), KeyRefused> {
        self.accept("proving", key.origin(), key.digest(), self.keys.proving)
    }

    /// That this is the verifying key of the network.
    pub fn accept_verifying_key(&self, key: &VerifyingKey) -> Result<(), KeyRefused> {
        self.accept("verifying", key.origin(), key.digest(), self.keys.verifying)
    }

    fn accept(&self, key: &'static str, origin: Origin, found: Digest, pinned: Digest) -> Result<(), KeyRefused> {
        if found != pinned {
            return Err(KeyRefused::Digest { key, found, pinned });
        }
        if self.keys.development == (origin == Origin::Development) {
            Ok(())
        } else {
            Err(KeyRefused::Origin(key))
        }
    }
}

fn check_keys(keys: &Keys, network: &NetworkId) -> Result<(), ParametersError> {
    if keys.contributions.len() > MAX_CONTRIBUTIONS {
        return Err(field("keys.contributions", format!("a file names up to {MAX_CONTRIBUTIONS}")));
    }
    let mut digests = HashSet::new();
    if let Some(twice) = keys.contributions.iter().position(|contribution| !digests.insert(contribution.digest)) {
        return Err(field(format!("keys.contributions[{twice}]"), "the same contribution as one before"));
    }
    if keys.development {
        return if network.is_local() { Ok(()) } else { Err(ParametersError::Development) };
    }
    for phase in [Phase::Powers, Phase::Circuit] {
        let found = keys.contributions.iter().filter(|contribution| contribution.phase == phase).count();
        if found < MIN_CONTRIBUTIONS {
            return Err(ParametersError::Contributions { phase, found });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
