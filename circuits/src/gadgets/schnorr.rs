//! Schnorr signatures on Baby Jubjub whose challenge is a Poseidon hash.
//!
//! `s G = R + e A` with `e` the low 128 bits of `H(domain, R, A, m)` as a canonical number. Half of the curve's order
//! is enough for a challenge: a forger who does not solve the discrete logarithm has to meet one of 2^128 challenges
//! (Schnorr, "Efficient Signature Generation by Smart Cards", 1991; Neven, Smart and Warinschi, "Hash Function
//! Requirements for Schnorr Signatures", 2009), and it halves the dearest part of the circuit.

use crate::{
    encoding::{Fixed, Malformed},
    gadgets::{
        curve::{PointVar, SCALAR_BITS},
        poseidon::{Domain, hash, hash_in_circuit},
    },
};
use ark_bn254::Fr;
use ark_ec::{AffineRepr, CurveGroup};
use ark_ed_on_bn254::{EdwardsAffine, Fr as Scalar};
use ark_ff::{BigInteger, PrimeField, Zero};
use ark_r1cs_std::{alloc::AllocVar, boolean::Boolean, convert::ToBitsGadget, fields::fp::FpVar};
use ark_relations::gr1cs::{ConstraintSystemRef, SynthesisError};
use ark_serialize::{CanonicalDeserialize, CanonicalSerialize, Compress, Validate};
use ark_std::rand::{CryptoRng, RngCore};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha512;
use std::fmt;
use zeroize::{Zeroize, Zeroizing};

/// Bits of a challenge.
pub const CHALLENGE_BITS: usize = 128;

/// A public key: a point of the prime-order subgroup that is not the identity. Its bytes are y, little-endian, with the
/// sign of x in the highest bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(EdwardsAffine);

/// A signature: R as a [`PublicKey`]'s bytes, then s, little-endian and below the group's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature {
    commitment: EdwardsAffine,
    response: Scalar,
}

/// A secret key; wiped when dropped, never shown.
#[derive(Clone)]
pub struct SecretKey {
    secret: Scalar,
    public: PublicKey,
}

impl SecretKey {
    /// A new key.
    pub fn generate(rng: &mut (impl RngCore + CryptoRng)) -> Self {
        loop {
            let mut wide = Zeroizing::new([0; 64]);
            rng.fill_bytes(wide.as_mut());
            if let Some(key) = Self::from_scalar(Scalar::from_le_bytes_mod_order(wide.as_ref())) {
                return key;
            }
        }
    }

    fn from_scalar(secret: Scalar) -> Option<Self> {
        let public = PublicKey((EdwardsAffine::generator() * secret).into_affine());
        (!secret.is_zero()).then_some(Self { secret, public })
    }

    /// The key of 32 bytes: a number, little-endian, above zero and below the group's order.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, Malformed> {
        let secret = Scalar::deserialize_compressed(&bytes[..]).map_err(|_| Malformed::Number("secret key"))?;
        Self::from_scalar(secret).ok_or(Malformed::Number("secret key"))
    }

    /// The secret's bytes, for the file that keeps it.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        let mut bytes = Zeroizing::new([0; 32]);
        write(&self.secret, bytes.as_mut());
        bytes
    }

    /// The public key.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs an element. The nonce is hedged: HMAC-SHA-512 under the secret of fresh randomness and of what is signed,
    /// so neither a bad generator nor a fault in a deterministic nonce gives the key away.
    pub(crate) fn sign(&self, domain: Domain, message: &Fr, rng: &mut (impl RngCore + CryptoRng)) -> Signature {
        let mut fresh = Zeroizing::new([0; 32]);
        rng.fill_bytes(fresh.as_mut());
        let mut mac =
            Hmac::<Sha512>::new_from_slice(self.to_bytes().as_ref()).expect("HMAC takes keys of any length");
        mac.update(b"aitbc/schnorr-nonce/1");
        mac.update(fresh.as_ref());
        mac.update(&(domain as u64).to_be_bytes());
        mac.update(&message.into_bigint().to_bytes_le());
        let mut wide = Zeroizing::new([0; 64]);
        wide.copy_from_slice(&mac.finalize().into_bytes());
        let mut nonce = Scalar::from_le_bytes_mod_order(wide.as_ref());
        let commitment = (EdwardsAffine::generator() * nonce).into_affine();
        let challenge = challenge(domain, &commitment, &self.public, message);
        let response = nonce + self.secret * Scalar::from(challenge);
        nonce.zeroize();
        Signature { commitment, response }
    }
}

impl Drop for SecretKey {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SecretKey({:?})", self.public)
    }
}

impl PublicKey {
    /// The point.
    pub(crate) fn point(&self) -> &EdwardsAffine {
        &self.0
    }

    /// Its leaf in a set of verifiers.
    pub(crate) fn leaf(&self) -> Fr {
        hash(Domain::VerifierLeaf, &[self.0.x, self.0.y])
    }

    /// True where `signature` is this key's over `message`.
    pub(crate) fn verifies(&self, domain: Domain, message: &Fr, signature: &Signature) -> bool {
        let challenge = challenge(domain, &signature.commitment, self, message);
        EdwardsAffine::generator() * signature.response == self.0 * Scalar::from(challenge) + signature.commitment
    }
}

impl Fixed for PublicKey {
    const SIZE: usize = 32;

    fn write(&self, out: &mut Vec<u8>) {
        let mut bytes = [0; 32];
        write(&self.0, &mut bytes);
        out.extend(bytes);
    }

    fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let point = read_point(bytes, "public key")?;
        if point.is_zero() { Err(Malformed::Identity("public key")) } else { Ok(Self(point)) }
    }
}

impl Signature {
    /// The commitment R.
    pub(crate) fn commitment(&self) -> &EdwardsAffine {
        &self.commitment
    }

    /// A bit of the response s.
    pub(crate) fn response_bits(&self) -> Vec<bool> {
        let bigint = self.response.into_bigint();
        (0..SCALAR_BITS).map(|bit| bigint.get_bit(bit)).collect()
    }
}

impl Fixed for Signature {
    const SIZE: usize = 64;

    fn write(&self, out: &mut Vec<u8>) {
        let mut bytes = [0; 64];
        write(&self.commitment, &mut bytes[..32]);
        write(&self.response, &mut bytes[32..]);
        out.extend(bytes);
    }

    fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let (commitment, response) = bytes.split_at_checked(32).ok_or(Malformed::Length("signature"))?;
        Ok(Self {
            commitment: read_point(commitment, "signature")?,
            response: Scalar::deserialize_compressed(response).map_err(|_| Malformed::Number("signature"))?,
        })
    }
}

/// The challenge of a signature.
fn challenge(domain: Domain, commitment: &EdwardsAffine, public: &PublicKey, message: &Fr) -> u128 {
    let digest = hash(domain, &[commitment.x, commitment.y, public.0.x, public.0.y, *message]).into_bigint();
    u128::from(digest.0[0]) | (u128::from(digest.0[1]) << 64)
}

fn write(value: &impl CanonicalSerialize, bytes: &mut [u8]) {
    value.serialize_compressed(bytes).expect("the buffer has the size of the encoding");
}

/// A point of the subgroup, from its one encoding.
fn read_point(bytes: &[u8], what: &'static str) -> Result<EdwardsAffine, Malformed> {
    let point = EdwardsAffine::deserialize_with_mode(bytes, Compress::Yes, Validate::No)
        .map_err(|_| Malformed::Point(what))?;
    let mut again = [0; 32];
    write(&point, &mut again);
    if again[..] != *bytes {
        return Err(Malformed::Canonical(what));
    }
    if !point.is_on_curve() {
        return Err(Malformed::Point(what));
    }
    if !point.is_in_correct_subgroup_assuming_on_curve() {
        return Err(Malformed::Subgroup(what));
    }
    Ok(point)
}

/// A signature in a circuit.
#[derive(Debug, Clone)]
pub struct SignatureVar {
    /// R.
    commitment: PointVar,
    /// The bits of s, least first.
    response: Vec<Boolean<Fr>>,
}

impl SignatureVar {
    /// A private signature; [`SCALAR_BITS`] constraints.
    pub fn witness(cs: &ConstraintSystemRef<Fr>, signature: &Signature) -> Result<Self, SynthesisError> {
        let response = signature
            .response_bits()
            .into_iter()
            .map(|bit| Boolean::new_witness(cs.clone(), || Ok(bit)))
            .collect::<Result<_, _>>()?;
        Ok(Self { commitment: PointVar::witness(cs, signature.commitment())?, response })
    }

    /// The hash that the challenge is taken from; 726 constraints.
    pub fn challenge_hash(
        &self,
        domain: Domain,
        public: &PointVar,
        message: &FpVar<Fr>,
    ) -> Result<FpVar<Fr>, SynthesisError> {
        let input = [&self.commitment.x, &self.commitment.y, &public.x, &public.y, message].map(Clone::clone);
        hash_in_circuit(domain, &input)
    }

    /// The challenge's bits, canonical: those of the one number below the modulus.
    pub fn challenge_bits(digest: &FpVar<Fr>) -> Result<Vec<Boolean<Fr>>, SynthesisError> {
        let mut bits = digest.to_bits_le()?;
        bits.truncate(CHALLENGE_BITS);
        Ok(bits)
    }

    /// `s G`.
    pub fn response_point(&self) -> Result<PointVar, SynthesisError> {
        PointVar::times_generator(&self.response)
    }

    /// That `response - challenge` is R. Both are on the curve, so R is too.
    pub fn enforce(&self, response: &PointVar, challenge: &PointVar) -> Result<(), SynthesisError> {
        response.add(&challenge.negate()?)?.enforce_equal(&self.commitment)
    }
}

/// A key and a signature of the right shape that fit nothing.
pub(crate) fn blank() -> (PublicKey, Signature) {
    let point = EdwardsAffine::generator();
    (PublicKey(point), Signature { commitment: point, response: Scalar::zero() })
}

#[cfg(test)]
mod tests;
