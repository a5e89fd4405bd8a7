//! What one person multiplies in, with the proof that they know it, and the transcript that ties contributions together.

use crate::{
    ceremony::powers::{Powers, same_ratio},
    points::write,
    relation::Relation,
};
use aitbc_protocol::{Digest, text::Line};
use ark_bn254::{Fr, G1Affine, G2Affine};
use ark_ec::{AffineRepr, CurveGroup};
use ark_ff::{BigInteger, PrimeField, UniformRand};
use ark_std::rand::{CryptoRng, RngCore};
use sha2::{Digest as _, Sha256, Sha512};
use zeroize::Zeroizing;

/// A secret `x` in public: `x G1`, `x G2`, what it made of the representative before it, and Schnorr's proof of
/// knowledge of `x`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) in_g1: G1Affine,
    pub(super) in_g2: G2Affine,
    pub(super) after: G1Affine,
    pub(super) commitment: G1Affine,
    pub(super) response: Fr,
}

impl Share {
    /// Takes part in the transcript, as [`Share::is_known`] does.
    pub(super) fn new(
        secret: &Fr,
        before: &G1Affine,
        transcript: &mut Transcript,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Self {
        let nonce = Zeroizing::new([Fr::rand(rng)]);
        let mut share = Self {
            in_g1: (G1Affine::generator() * secret).into_affine(),
            in_g2: (G2Affine::generator() * secret).into_affine(),
            after: (*before * secret).into_affine(),
            commitment: (G1Affine::generator() * nonce[0]).into_affine(),
            response: Fr::from(0),
        };
        share.response = nonce[0] + transcript.challenge(&share) * secret;
        transcript.end(&share);
        share
    }

    /// True where whoever made this knows the secret, which is not zero, and made it for this place in the chain.
    pub(super) fn is_known(&self, transcript: &mut Transcript) -> bool {
        let challenge = transcript.challenge(self);
        transcript.end(self);
        !self.in_g1.is_zero()
            && G1Affine::generator() * self.response == self.in_g1 * challenge + self.commitment
            && same_ratio(&G1Affine::generator(), &self.in_g1, &G2Affine::generator(), &self.in_g2)
    }

    /// True where the secret made `after` of `before`.
    pub(super) fn continues(&self, before: &G1Affine) -> bool {
        same_ratio(before, &self.after, &G2Affine::generator(), &self.in_g2)
    }
}

/// SHA-256 over everything so far.
#[derive(Debug, Clone)]
pub(super) struct Transcript([u8; 32]);

impl Transcript {
    /// Of a circuit that nobody has contributed to: its sizes and all entries of its matrices.
    pub(super) fn new(relation: &Relation) -> Self {
        let mut hasher = Sha256::new_with_prefix(b"aitbc/ceremony/1");
        for count in [relation.instance_variables, relation.witness_variables, relation.constraints] {
            hasher.update((count as u64).to_le_bytes());
        }
        for matrix in &relation.matrices {
            for row in matrix {
                hasher.update((row.len() as u64).to_le_bytes());
                for (factor, variable) in row {
                    hasher.update(factor.into_bigint().to_bytes_le());
                    hasher.update((*variable as u64).to_le_bytes());
                }
            }
        }
        Self(hasher.finalize().into())
    }

    /// Begins a contribution.
    pub(super) fn begin(&mut self, name: &Line<64>) {
        self.absorb(b"contribution", name.as_str().as_bytes());
    }

    /// Begins the second phase, over these powers.
    pub(super) fn begin_circuit(&mut self, powers: &Powers) {
        let mut bytes = Vec::new();
        powers.write(&mut bytes);
        self.absorb(b"circuit", &bytes);
    }

    /// The hash of all contributions so far.
    pub(super) fn digest(&self) -> Digest {
        Digest(self.0)
    }

    fn challenge(&self, share: &Share) -> Fr {
        let mut bytes = Vec::new();
        write(&share.in_g1, &mut bytes);
        write(&share.in_g2, &mut bytes);
        write(&share.after, &mut bytes);
        write(&share.commitment, &mut bytes);
        let digest =
            Sha512::new_with_prefix(b"aitbc/ceremony/knowledge/1").chain_update(self.0).chain_update(&bytes);
        Fr::from_le_bytes_mod_order(&digest.finalize())
    }

    fn end(&mut self, share: &Share) {
        let mut bytes = Vec::new();
        share.write(&mut bytes);
        self.absorb(b"share", &bytes);
    }

    fn absorb(&mut self, what: &[u8], bytes: &[u8]) {
        let mut hasher = Sha256::new_with_prefix(self.0);
        for part in [what, bytes] {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        self.0 = hasher.finalize().into();
    }
}
