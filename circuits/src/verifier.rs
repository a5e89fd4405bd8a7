//! Judging what a prover shows.

use crate::{
    attestation::{
        attributes::TIME_END,
        statement::{Nullifier, PUBLIC_INPUTS, Statement},
    },
    parameters::{KeyRefused, Parameters},
    points::{G1_BYTES, G2_BYTES, PointError, read_g1, read_g2},
    presentation::{PROOF_BYTES, Presentation, Request},
    setup::VerifyingKey,
};
use aitbc_protocol::NodeId;
use ark_bn254::{Bn254, Fr, G1Affine, G1Projective, G2Affine};
use ark_ec::{AffineRepr, CurveGroup, VariableBaseMSM, pairing::Pairing};
use ark_ff::{AdditiveGroup, Field, One};
use ark_groth16::PreparedVerifyingKey;
use ark_std::rand::{CryptoRng, RngCore};
use rayon::prelude::*;
use std::{fmt, sync::Arc};

/// Judges presentations by the parameters of one network.
pub struct Verifier {
    parameters: Arc<Parameters>,
    key: PreparedVerifyingKey<Bn254>,
}

/// One presentation of a batch.
#[derive(Debug, Clone)]
pub struct Claim {
    /// What was asked.
    pub request: Request,
    /// Who showed it: the peer that the connection authenticated.
    pub peer: NodeId,
    /// What was shown.
    pub presentation: Presentation,
}

/// Why a presentation does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The request names a policy that the network does not have.
    #[error("there is no policy {0:?} in the network's parameters")]
    Policy(String),
    /// The request's epoch is not that of its time.
    #[error("the request names epoch {asked} and its time lies in {expected}")]
    Epoch {
        /// What the request says.
        asked: u64,
        /// What its time says.
        expected: u64,
    },
    /// The request names a time that no credential has.
    #[error("the request names a time beyond {TIME_END} s")]
    Time,
    /// A point of the proof is none.
    #[error("the proof's point {point}: {fault}")]
    Point {
        /// A, B or C.
        point: char,
        /// What is wrong with it.
        fault: PointError,
    },
    /// A point of the proof is the identity, which no honest proof has.
    #[error("the proof's point {0} is the identity")]
    Identity(char),
    /// The proof is not one of what was asked: of another peer, policy, time, nonce, session or nullifier, or of nothing.
    #[error("the proof does not show what was asked")]
    Proof,
}

/// Which presentation of a batch does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("presentation {index}: {error}")]
pub struct BatchError {
    /// Its place in the batch.
    pub index: usize,
    /// What is wrong with it.
    pub error: VerifyError,
}

struct Proof {
    a: G1Affine,
    b: G2Affine,
    c: G1Affine,
}

impl Proof {
    fn read(bytes: &[u8; PROOF_BYTES]) -> Result<Self, VerifyError> {
        let (a, rest) = bytes.split_at(G1_BYTES);
        let (b, c) = rest.split_at(G2_BYTES);
        let fault = |point| move |fault| VerifyError::Point { point, fault };
        let proof = Self {
            a: read_g1(a).map_err(fault('A'))?,
            b: read_g2(b).map_err(fault('B'))?,
            c: read_g1(c).map_err(fault('C'))?,
        };
        let identities = [('A', proof.a.is_zero()), ('B', proof.b.is_zero()), ('C', proof.c.is_zero())];
        match identities.into_iter().find(|(_, is_identity)| *is_identity) {
            Some((point, _)) => Err(VerifyError::Identity(point)),
            None => Ok(proof),
        }
    }
}

impl Verifier {
    /// A verifier for a network. The key has to be the one that the parameters pin.
    pub fn new(parameters: Arc<Parameters>, key: &VerifyingKey) -> Result<Self, KeyRefused> {
        parameters.accept_verifying_key(key)?;
        Ok(Self { parameters, key: key.prepare() })
    }

    /// The nullifier of a presentation that shows what was asked, of the peer that the connection authenticated.
    ///
    /// The caller has seen to it that the request is its own, that its nonce was not used before, and what it thinks of
    /// two peers with one nullifier.
    pub fn verify(
        &self,
        request: &Request,
        peer: &NodeId,
        presentation: &Presentation,
    ) -> Result<Nullifier, VerifyError> {
        let statement = self.statement(request, peer, presentation)?;
        self.check(&statement, &presentation.proof)?;
        Ok(presentation.nullifier)
    }

    /// That a proof is one of a statement.
    pub(crate) fn check(&self, statement: &Statement, proof: &[u8; PROOF_BYTES]) -> Result<(), VerifyError> {
        let proof = Proof::read(proof)?;
        if self.holds(&statement.inputs(), &proof) { Ok(()) } else { Err(VerifyError::Proof) }
    }

    /// The nullifiers of a whole batch, or the first presentation that does not count. A random linear combination of
    /// all equations is verified with one product of pairings: a wrong proof passes with a probability of 2^-128. Where
    /// the combination fails, each is verified alone.
    pub fn verify_batch(
        &self,
        claims: &[Claim],
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<Vec<Nullifier>, BatchError> {
        let read = |claim: &Claim| {
            let statement = self.statement(&claim.request, &claim.peer, &claim.presentation)?;
            Ok((statement.inputs(), Proof::read(&claim.presentation.proof)?))
        };
        let mut proofs = Vec::with_capacity(claims.len());
        for (index, result) in claims.par_iter().map(read).collect::<Vec<_>>().into_iter().enumerate() {
            proofs.push(result.map_err(|error| BatchError { index, error })?);
        }
        if !self.all_hold(&proofs, rng) {
            let wrong = proofs.par_iter().position_first(|(inputs, proof)| !self.holds(inputs, proof));
            if let Some(index) = wrong {
                return Err(BatchError { index, error: VerifyError::Proof });
            }
        }
        Ok(claims.iter().map(|claim| claim.presentation.nullifier).collect())
    }

    /// What the proof has to be about.
    fn statement(
        &self,
        request: &Request,
        peer: &NodeId,
        presentation: &Presentation,
    ) -> Result<Statement, VerifyError> {
        let policy = self
            .parameters
            .policy(request.policy.as_str())
            .ok_or_else(|| VerifyError::Policy(request.policy.as_str().to_owned()))?;
        if request.now_s >= TIME_END - 1 || request.issued_after_s >= TIME_END {
            return Err(VerifyError::Time);
        }
        let expected = self.parameters.epoch_at(request.now_s);
        if request.epoch != expected {
            return Err(VerifyError::Epoch { asked: request.epoch, expected });
        }
        Ok(policy.statement(&self.parameters, request, peer, presentation.nullifier))
    }

    /// Groth16's equation: e(A, B) = e(alpha, beta) e(inputs, gamma) e(C, delta).
    fn holds(&self, inputs: &[Fr; PUBLIC_INPUTS], proof: &Proof) -> bool {
        let mut scalars = vec![Fr::ONE];
        scalars.extend(inputs);
        let inputs = G1Projective::msm_unchecked(&self.key.vk.gamma_abc_g1, &scalars).into_affine();
        let product = Bn254::multi_miller_loop(
            [proof.a, inputs, proof.c],
            [proof.b.into(), self.key.gamma_g2_neg_pc.clone(), self.key.delta_g2_neg_pc.clone()],
        );
        Bn254::final_exponentiation(product).is_some_and(|product| product.0 == self.key.alpha_g1_beta_g2)
    }

    /// The sum of all equations, each times a random number of 128 bits.
    fn all_hold(&self, proofs: &[([Fr; PUBLIC_INPUTS], Proof)], rng: &mut (impl RngCore + CryptoRng)) -> bool {
        let factors: Vec<Fr> = proofs
            .iter()
            .map(|_| {
                let mut bytes = [0; 16];
                rng.fill_bytes(&mut bytes);
                Fr::from(u128::from_le_bytes(bytes))
            })
            .collect();
        let key = &self.key.vk;
        let mut scalars = vec![Fr::ZERO; PUBLIC_INPUTS + 1];
        for (factor, (inputs, _)) in factors.iter().zip(proofs) {
            scalars[0] += factor;
            for (scalar, input) in scalars[1..].iter_mut().zip(inputs) {
                *scalar += *factor * input;
            }
        }
        let inputs = G1Projective::msm_unchecked(&key.gamma_abc_g1, &scalars);
        let responses: Vec<G1Affine> = proofs.iter().map(|(_, proof)| proof.c).collect();
        let response = G1Projective::msm_unchecked(&responses, &factors);
        let alpha = -(key.alpha_g1 * scalars[0]);

        let scaled: Vec<G1Projective> =
            factors.par_iter().zip(proofs).map(|(factor, (_, proof))| proof.a * factor).collect();
        let mut left = G1Projective::normalize_batch(&scaled);
        let mut right: Vec<<Bn254 as Pairing>::G2Prepared> =
            proofs.par_iter().map(|(_, proof)| proof.b.into()).collect();
        left.extend(G1Projective::normalize_batch(&[inputs, response, alpha]));
        right.extend([self.key.gamma_g2_neg_pc.clone(), self.key.delta_g2_neg_pc.clone(), key.beta_g2.into()]);
        let product = Bn254::multi_miller_loop(left, right);
        Bn254::final_exponentiation(product).is_some_and(|product| product.0.is_one())
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Verifier({})", self.parameters.network())
    }
}

#[cfg(test)]
mod tests;
