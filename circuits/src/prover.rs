//! Showing that a credential fulfils a policy.

use crate::{
    attestation::{
        circuit::Witness,
        credential::Credential,
        statement::{Nullifier, PUBLIC_INPUTS, Statement},
    },
    parameters::{KeyRefused, Parameters, Policy},
    points::write,
    presentation::{PROOF_BYTES, Presentation, Request},
    relation::{Relation, assign},
    setup::ProvingKey,
};
use ark_bn254::{Bn254, Fr};
use ark_ff::UniformRand;
use ark_groth16::Groth16;
use ark_relations::gr1cs::SynthesisError;
use ark_std::rand::{CryptoRng, RngCore};
use std::{fmt, sync::Arc};

/// How far the client's clock may be off the prover's, in seconds.
pub const CLOCK_TOLERANCE_S: u64 = 120;

/// Proves what the network's parameters allow to be asked, and nothing else.
pub struct Prover {
    parameters: Arc<Parameters>,
    key: ProvingKey,
}

/// What the prover knows at the moment of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The prover's clock, in seconds since 1970.
    pub now_s: u64,
    /// The time of the newest revocation of this peer that the prover has verified: credentials issued before it do not
    /// count.
    pub revoked_before_s: Option<u64>,
}

/// Why nothing is proved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProveError {
    /// The client asks for a policy that the network does not have.
    #[error("there is no policy {0:?} in the network's parameters")]
    Policy(String),
    /// The client's clock is too far off.
    #[error(
        "the client's clock is {off_s} s off, and up to {CLOCK_TOLERANCE_S} s are allowed: one of the clocks is wrong"
    )]
    Clock {
        /// By how much, in seconds.
        off_s: u64,
    },
    /// Another epoch than the current one.
    #[error("epoch {asked} was asked for and {current} is current")]
    Epoch {
        /// What the client asked for.
        asked: u64,
        /// The current one.
        current: u64,
    },
    /// A time of revocation that the prover knows no revocation of: answering would help to find out when the credential
    /// was issued.
    #[error("no revocation of this node at {0} is known here")]
    Revocation(u64),
    /// The credential does not do.
    #[error("the credential does not fulfil the policy: {0}")]
    Shortfall(#[from] Shortfall),
    /// The witness does not fulfil the circuit although every condition holds: a fault of this code.
    #[error("the witness does not fulfil the circuit: this is a fault of the program, please report it")]
    Unsatisfied,
    /// Arkworks failed.
    #[error("the proof could not be made: {0}")]
    Circuit(#[from] SynthesisError),
}

/// Which condition of a policy a credential does not fulfil.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Shortfall {
    /// The signature is not that of the verifier that the credential names.
    #[error("its signature does not hold: ask the verifier for a new one")]
    Signature,
    /// The verifier is not in the network's set.
    #[error("its verifier is not in the network's set: be attested by one that is")]
    Issuer,
    /// The measurement is not in the allow-list.
    #[error("its measurement is not in the allow-list")]
    Measurement,
    /// The score is too low.
    #[error("its score is {score} where {least} is asked for")]
    Score {
        /// What it has, in thousandths.
        score: u16,
        /// What the policy asks for.
        least: u16,
    },
    /// Evidence is missing.
    #[error("kinds of evidence are missing: mask {missing:#06x}")]
    Kinds {
        /// Which, as a mask.
        missing: u16,
    },
    /// Expired.
    #[error("it expired at {expires_s}: be attested again")]
    Expired {
        /// When, in seconds since 1970.
        expires_s: u64,
    },
    /// Revoked.
    #[error("it was issued at {issued_s}, before it was revoked at {revoked_s}: be attested again")]
    Revoked {
        /// When it was issued, in seconds since 1970.
        issued_s: u64,
        /// The time before which none counts.
        revoked_s: u64,
    },
}

impl Prover {
    /// A prover for a network. The key has to be the one that the parameters pin.
    pub fn new(parameters: Arc<Parameters>, key: ProvingKey) -> Result<Self, KeyRefused> {
        parameters.accept_proving_key(&key)?;
        Ok(Self { parameters, key })
    }

    /// Proves that `credential` fulfils the policy of `request`, to whoever sent it. Takes about half a second of two
    /// cores.
    pub fn prove(
        &self,
        credential: &Credential,
        request: &Request,
        moment: &Moment,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<Presentation, ProveError> {
        let policy = self.admit(request, moment)?;
        let (statement, witness) = self.statement(policy, credential, request)?;
        let assignment = assign(&statement.inputs(), &witness)?;
        if !Relation::attestation().is_satisfied(&assignment) {
            return Err(ProveError::Unsatisfied);
        }
        let proof = self.prove_assignment(&assignment, rng)?;
        Ok(Presentation { proof, nullifier: statement.nullifier })
    }

    /// The policy of a request that may be asked now.
    fn admit(&self, request: &Request, moment: &Moment) -> Result<&Policy, ProveError> {
        let policy = self
            .parameters
            .policy(request.policy.as_str())
            .ok_or_else(|| ProveError::Policy(request.policy.as_str().to_owned()))?;
        let off_s = request.now_s.abs_diff(moment.now_s);
        if off_s > CLOCK_TOLERANCE_S {
            return Err(ProveError::Clock { off_s });
        }
        let current = self.parameters.epoch_at(moment.now_s);
        if request.epoch != current {
            return Err(ProveError::Epoch { asked: request.epoch, current });
        }
        if request.issued_after_s != 0 && Some(request.issued_after_s) != moment.revoked_before_s {
            return Err(ProveError::Revocation(request.issued_after_s));
        }
        Ok(policy)
    }

    /// What is to be proved, and with what; which condition does not hold where one does not.
    pub(crate) fn statement(
        &self,
        policy: &Policy,
        credential: &Credential,
        request: &Request,
    ) -> Result<(Statement, Witness), Shortfall> {
        let attributes = &credential.attributes;
        if !credential.is_signed() {
            return Err(Shortfall::Signature);
        }
        let verifier_path = self.parameters.verifiers().path(credential.issuer()).ok_or(Shortfall::Issuer)?;
        let measurement_path =
            policy.measurements().path(&attributes.measurement).ok_or(Shortfall::Measurement)?;
        if attributes.score < policy.least_score() {
            return Err(Shortfall::Score { score: attributes.score, least: policy.least_score() });
        }
        let missing = policy.required_kinds() & !attributes.kinds;
        if missing != 0 {
            return Err(Shortfall::Kinds { missing });
        }
        if attributes.expires_s <= request.now_s {
            return Err(Shortfall::Expired { expires_s: attributes.expires_s });
        }
        if attributes.issued_s < request.issued_after_s {
            return Err(Shortfall::Revoked { issued_s: attributes.issued_s, revoked_s: request.issued_after_s });
        }
        let network = self.parameters.network_element();
        let nullifier = Nullifier::of(attributes.hardware(), network, request.epoch);
        let statement = policy.statement(&self.parameters, request, &attributes.holder, nullifier);
        let witness =
            Witness::new(attributes, *credential.issuer(), credential.signature, verifier_path, measurement_path);
        Ok((statement, witness))
    }

    /// Makes a proof of an assignment, whether or not it fulfils the circuit.
    pub(crate) fn prove_assignment(
        &self,
        assignment: &[Fr],
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<[u8; PROOF_BYTES], ProveError> {
        let relation = Relation::attestation();
        debug_assert_eq!(relation.instance_variables, PUBLIC_INPUTS + 1);
        let proof = Groth16::<Bn254>::create_proof_with_reduction_and_matrices(
            &self.key.key,
            Fr::rand(rng),
            Fr::rand(rng),
            &relation.matrices,
            relation.instance_variables,
            relation.constraints,
            assignment,
        )?;
        let mut bytes = Vec::with_capacity(PROOF_BYTES);
        write(&proof.a, &mut bytes);
        write(&proof.b, &mut bytes);
        write(&proof.c, &mut bytes);
        Ok(bytes.try_into().expect("32 + 64 + 32 bytes"))
    }
}

impl fmt::Debug for Prover {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Prover({})", self.parameters.network())
    }
}

#[cfg(test)]
mod tests;
