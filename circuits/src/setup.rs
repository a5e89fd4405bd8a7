//! Proving and verifying keys, their bytes, and a set-up for test networks.
//!
//! The sizes of a key follow from the circuit, so its encoding holds no lengths: a header, then points of fixed number.

use crate::{
    attestation::circuit,
    points::{G1_BYTES, G2_BYTES, PointError, read_g1, read_g2, write},
    relation::Relation,
};
use aitbc_protocol::Digest;
use ark_bn254::{Bn254, Fr, G1Affine, G2Affine};
use ark_groth16::{Groth16, PreparedVerifyingKey};
use ark_poly::EvaluationDomain;
use ark_relations::gr1cs::{ConstraintSynthesizer, ConstraintSystemRef, SynthesisError};
use ark_std::rand::{CryptoRng, RngCore};
use rayon::prelude::*;

/// The most bytes that a proving key takes.
pub const MAX_PROVING_KEY: usize = 4 << 20;

const PROVING_HEADER: &[u8; 15] = b"aitbc-zk-prove1";
const VERIFYING_HEADER: &[u8; 15] = b"aitbc-zk-check1";

/// Where keys come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// One machine made them: whoever ran it could have kept what forges every credential. For test networks.
    Development,
    /// A ceremony: nobody can forge unless everybody in one of its phases worked together.
    Ceremony,
}

/// What proofs are made with.
#[derive(Debug, Clone, PartialEq)]
pub struct ProvingKey {
    pub(crate) key: ark_groth16::ProvingKey<Bn254>,
    pub(crate) origin: Origin,
}

/// What proofs are verified with.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifyingKey {
    pub(crate) key: ark_groth16::VerifyingKey<Bn254>,
    pub(crate) origin: Origin,
}

/// Why bytes are no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Another file, or of another version.
    #[error("not a key of this version: fetch the file that the network's parameters name")]
    Header,
    /// A key of another circuit, or cut off.
    #[error("{found} bytes where this circuit's key has {expected}: it is of another version, or cut off")]
    Length {
        /// Bytes that the key has.
        expected: usize,
        /// Bytes that there are.
        found: usize,
    },
    /// A point of it is none.
    #[error("damaged: {0}")]
    Point(#[from] PointError),
    /// The circuit could not be laid down or the set-up failed.
    #[error("the set-up failed: {0}")]
    Setup(#[from] SynthesisError),
}

/// Keys out of one machine's randomness, marked [`Origin::Development`].
///
/// Every secret of the set-up is drawn and dropped here, but nobody else can know that.
pub fn development(rng: &mut (impl RngCore + CryptoRng)) -> Result<(ProvingKey, VerifyingKey), KeyError> {
    let key = Groth16::<Bn254>::generate_random_parameters_with_reduction(Blank, rng)?;
    let proving = ProvingKey { key, origin: Origin::Development };
    let verifying = proving.verifying_key();
    Ok((proving, verifying))
}

struct Blank;

impl ConstraintSynthesizer<Fr> for Blank {
    fn generate_constraints(self, cs: ConstraintSystemRef<Fr>) -> Result<(), SynthesisError> {
        let (inputs, witness) = circuit::blank();
        circuit::synthesize(&cs, &inputs, &witness).map(|_| ())
    }
}

impl Origin {
    fn byte(self) -> u8 {
        match self {
            Self::Development => b'd',
            Self::Ceremony => b'c',
        }
    }

    fn from_byte(byte: u8) -> Result<Self, KeyError> {
        match byte {
            b'd' => Ok(Self::Development),
            b'c' => Ok(Self::Ceremony),
            _ => Err(KeyError::Header),
        }
    }
}

/// Splits a key's header off, after its length was found right.
fn open<'a>(bytes: &'a [u8], header: &[u8; 15], expected: usize) -> Result<(Origin, Points<'a>), KeyError> {
    let rest = bytes.strip_prefix(header).ok_or(KeyError::Header)?;
    let (origin, points) = rest.split_first().ok_or(KeyError::Header)?;
    let origin = Origin::from_byte(*origin)?;
    if bytes.len() != expected {
        return Err(KeyError::Length { expected, found: bytes.len() });
    }
    Ok((origin, Points(points)))
}

/// Points one after the other.
pub(crate) struct Points<'a>(pub(crate) &'a [u8]);

impl Points<'_> {
    fn take(&mut self, count: usize) -> Result<&[u8], PointError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(PointError::Length)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn g1(&mut self) -> Result<G1Affine, PointError> {
        read_g1(self.take(G1_BYTES)?)
    }

    pub(crate) fn g2(&mut self) -> Result<G2Affine, PointError> {
        read_g2(self.take(G2_BYTES)?)
    }

    pub(crate) fn g1_many(&mut self, count: usize) -> Result<Vec<G1Affine>, PointError> {
        let bytes = count.checked_mul(G1_BYTES).ok_or(PointError::Length)?;
        self.take(bytes)?.par_chunks(G1_BYTES).map(read_g1).collect()
    }

    pub(crate) fn g2_many(&mut self, count: usize) -> Result<Vec<G2Affine>, PointError> {
        let bytes = count.checked_mul(G2_BYTES).ok_or(PointError::Length)?;
        self.take(bytes)?.par_chunks(G2_BYTES).map(read_g2).collect()
    }
}

/// Appends points.
pub(crate) fn write_many<A: ark_ec::AffineRepr>(points: &[A], out: &mut Vec<u8>) {
    for point in points {
        write(point, out);
    }
}

fn domain_size(relation: &Relation) -> usize {
    relation.domain().map_or(0, |domain| domain.size())
}

impl ProvingKey {
    /// The verifying key that belongs to it.
    pub fn verifying_key(&self) -> VerifyingKey {
        VerifyingKey { key: self.key.vk.clone(), origin: self.origin }
    }

    /// Where it comes from.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// SHA-256 of its bytes, which a network's parameters pin.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.to_bytes())
    }

    /// Bytes of the key.
    pub fn size() -> usize {
        let relation = Relation::attestation();
        let variables = relation.variables();
        VerifyingKey::size()
            + 2 * G1_BYTES
            + variables * (2 * G1_BYTES + G2_BYTES)
            + (domain_size(relation) - 1 + relation.witness_variables) * G1_BYTES
    }

    /// The key's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::size());
        out.extend(PROVING_HEADER);
        out.push(self.origin.byte());
        write_verifying(&self.key.vk, &mut out);
        write_many(&[self.key.beta_g1, self.key.delta_g1], &mut out);
        write_many(&self.key.a_query, &mut out);
        write_many(&self.key.b_g1_query, &mut out);
        write_many(&self.key.b_g2_query, &mut out);
        write_many(&self.key.h_query, &mut out);
        write_many(&self.key.l_query, &mut out);
        out
    }

    /// The key behind its bytes, every point checked, which takes two cores some seconds.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        let relation = Relation::attestation();
        let (origin, mut points) = open(bytes, PROVING_HEADER, Self::size())?;
        let variables = relation.variables();
        let key = ark_groth16::ProvingKey {
            vk: read_verifying(&mut points, relation)?,
            beta_g1: points.g1()?,
            delta_g1: points.g1()?,
            a_query: points.g1_many(variables)?,
            b_g1_query: points.g1_many(variables)?,
            b_g2_query: points.g2_many(variables)?,
            h_query: points.g1_many(domain_size(relation) - 1)?,
            l_query: points.g1_many(relation.witness_variables)?,
        };
        Ok(Self { key, origin })
    }
}

impl VerifyingKey {
    /// Where it comes from.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// SHA-256 of its bytes, which a network's parameters pin.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.to_bytes())
    }

    /// Bytes of the key.
    pub fn size() -> usize {
        VERIFYING_HEADER.len()
            + 1
            + G1_BYTES
            + 3 * G2_BYTES
            + Relation::attestation().instance_variables * G1_BYTES
    }

    /// The key's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::size());
        out.extend(VERIFYING_HEADER);
        out.push(self.origin.byte());
        write_verifying(&self.key, &mut out);
        out
    }

    /// The key behind its bytes, every point checked.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        let (origin, mut points) = open(bytes, VERIFYING_HEADER, Self::size())?;
        Ok(Self { key: read_verifying(&mut points, Relation::attestation())?, origin })
    }

    /// The key with the pairings computed that every proof needs.
    pub(crate) fn prepare(&self) -> PreparedVerifyingKey<Bn254> {
        ark_groth16::prepare_verifying_key(&self.key)
    }
}

fn write_verifying(key: &ark_groth16::VerifyingKey<Bn254>, out: &mut Vec<u8>) {
    write(&key.alpha_g1, out);
    write_many(&[key.beta_g2, key.gamma_g2, key.delta_g2], out);
    write_many(&key.gamma_abc_g1, out);
}

fn read_verifying(
    points: &mut Points<'_>,
    relation: &Relation,
) -> Result<ark_groth16::VerifyingKey<Bn254>, PointError> {
    Ok(ark_groth16::VerifyingKey {
        alpha_g1: points.g1()?,
        beta_g2: points.g2()?,
        gamma_g2: points.g2()?,
        delta_g2: points.g2()?,
        gamma_abc_g1: points.g1_many(relation.instance_variables)?,
    })
}

#[cfg(test)]
mod tests;
