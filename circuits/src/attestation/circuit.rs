//! The statement as constraints.

use crate::{
    attestation::{
        attributes::{Attributes, place},
        issuer::SET_DEPTH,
        measurements::LIST_DEPTH,
        statement::PUBLIC_INPUTS,
    },
    gadgets::{
        curve::PointVar,
        merkle::{Path, root_in_circuit},
        poseidon::{Domain, hash_in_circuit},
        range::{KINDS_BITS, SCORE_BITS, TIME_BITS, decompose, enforce_at_least},
        schnorr::{PublicKey, Signature, SignatureVar},
    },
};
use ark_bn254::Fr;
use ark_ff::{AdditiveGroup, Field};
use ark_r1cs_std::{
    alloc::AllocVar,
    eq::EqGadget,
    fields::{FieldVar, fp::FpVar},
};
use ark_relations::gr1cs::{ConstraintSystemRef, SynthesisError};

/// The most constraints that the circuit may have.
pub const MAX_CONSTRAINTS: usize = 12_500;

/// What only the prover knows, as elements.
#[derive(Debug, Clone)]
pub(crate) struct Witness {
    pub(crate) kinds: Fr,
    pub(crate) score: Fr,
    pub(crate) issued: Fr,
    pub(crate) expires: Fr,
    pub(crate) others: Fr,
    pub(crate) measurement: Fr,
    pub(crate) hardware: Fr,
    pub(crate) issuer: PublicKey,
    pub(crate) signature: Signature,
    pub(crate) verifier_path: Path,
    pub(crate) measurement_path: Path,
}

impl Witness {
    pub(crate) fn new(
        attributes: &Attributes,
        issuer: PublicKey,
        signature: Signature,
        verifier_path: Path,
        measurement_path: Path,
    ) -> Self {
        Self {
            kinds: Fr::from(attributes.kinds),
            score: Fr::from(attributes.score),
            issued: Fr::from(attributes.issued_s),
            expires: Fr::from(attributes.expires_s),
            others: Fr::from(attributes.others()),
            measurement: attributes.measurement.element(),
            hardware: attributes.hardware(),
            issuer,
            signature,
            verifier_path,
            measurement_path,
        }
    }
}

/// How many constraints a part of the circuit takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The part.
    pub name: &'static str,
    /// Its constraints.
    pub constraints: usize,
}

/// Counts constraints from one part to the next.
struct Parts {
    cs: ConstraintSystemRef<Fr>,
    counted: usize,
    ended: Vec<Part>,
}

impl Parts {
    fn end(&mut self, name: &'static str) {
        let now = self.cs.num_constraints();
        self.ended.push(Part { name, constraints: now - self.counted });
        self.counted = now;
    }
}

/// Lays the statement down as constraints and says what each part takes.
pub(crate) fn synthesize(
    cs: &ConstraintSystemRef<Fr>,
    inputs: &[Fr; PUBLIC_INPUTS],
    witness: &Witness,
) -> Result<Vec<Part>, SynthesisError> {
    let input = |value: Fr| FpVar::new_input(cs.clone(), || Ok(value));
    let private = |value: Fr| FpVar::new_witness(cs.clone(), || Ok(value));
    let mut parts = Parts { cs: cs.clone(), counted: 0, ended: Vec::new() };

    let [
        verifiers,
        measurements,
        required,
        least_score,
        now,
        issued_after,
        peer,
        nullifier,
        network,
        epoch,
        binding,
    ] = inputs.map(input);
    let (measurement, hardware) = (private(witness.measurement)?, private(witness.hardware)?);
    let (score, issued, expires) = (private(witness.score)?, private(witness.issued)?, private(witness.expires)?);
    let (kinds, others, peer) = (private(witness.kinds)?, private(witness.others)?, peer?);

    let kinds_bits = decompose(&kinds, KINDS_BITS)?;
    decompose(&score, SCORE_BITS)?;
    decompose(&issued, TIME_BITS)?;
    decompose(&expires, TIME_BITS)?;
    decompose(&others, place::OTHERS_BITS)?;
    parts.end("ranges of the attributes");

    let two = Fr::ONE.double();
    let at = |value: &FpVar<Fr>, place: usize| value * two.pow([place as u64]);
    let packed = at(&kinds, place::KINDS)
        + at(&score, place::SCORE)
        + at(&issued, place::ISSUED)
        + at(&expires, place::EXPIRES)
        + at(&others, place::OTHERS);
    let commitment = hash_in_circuit(Domain::Attributes, &[packed, measurement.clone(), hardware.clone(), peer])?;
    parts.end("commitment to the attributes");

    let issuer = PointVar::witness(cs, witness.issuer.point())?;
    let leaf = hash_in_circuit(Domain::VerifierLeaf, &[issuer.x.clone(), issuer.y.clone()])?;
    root_in_circuit(cs, leaf, &witness.verifier_path)?.enforce_equal(&verifiers?)?;
    parts.end("verifier in the set");

    let signature = SignatureVar::witness(cs, &witness.signature)?;
    let response = signature.response_point()?;
    parts.end("signature: s G");
    let digest = signature.challenge_hash(Domain::Credential, &issuer, &commitment)?;
    parts.end("signature: challenge");
    let challenge = SignatureVar::challenge_bits(&digest)?;
    parts.end("signature: canonical bits");
    let challenge = issuer.times(&challenge)?;
    parts.end("signature: e A");
    signature.enforce(&response, &challenge)?;
    parts.end("signature: equation");

    root_in_circuit(cs, measurement, &witness.measurement_path)?.enforce_equal(&measurements?)?;
    parts.end("measurement in the allow-list");

    enforce_at_least(&score, &least_score?, SCORE_BITS)?;
    parts.end("score");
    let required = decompose(&required?, KINDS_BITS)?;
    for (required, held) in required.into_iter().zip(kinds_bits) {
        let missing = FpVar::one() - FpVar::from(held);
        FpVar::from(required).mul_equals(&missing, &FpVar::zero())?;
    }
    parts.end("kinds of evidence");
    enforce_at_least(&expires, &(now? + Fr::ONE), TIME_BITS)?;
    enforce_at_least(&issued, &issued_after?, TIME_BITS)?;
    parts.end("times");

    hash_in_circuit(Domain::Nullifier, &[hardware, network?, epoch?])?.enforce_equal(&nullifier?)?;
    parts.end("nullifier");
    // Nonce and session stand in no other constraint.
    let _ = binding?.square()?;
    parts.end("binding");
    Ok(parts.ended)
}

/// A statement and a witness of the right shape that fit nothing: what keys are made from.
pub(crate) fn blank() -> ([Fr; PUBLIC_INPUTS], Witness) {
    let path = |depth| Path { index: 0, siblings: vec![Fr::ZERO; depth] };
    let (issuer, signature) = crate::gadgets::schnorr::blank();
    let witness = Witness {
        kinds: Fr::ZERO,
        score: Fr::ZERO,
        issued: Fr::ZERO,
        expires: Fr::ZERO,
        others: Fr::ZERO,
        measurement: Fr::ZERO,
        hardware: Fr::ZERO,
        issuer,
        signature,
        verifier_path: path(SET_DEPTH),
        measurement_path: path(LIST_DEPTH),
    };
    ([Fr::ZERO; PUBLIC_INPUTS], witness)
}
