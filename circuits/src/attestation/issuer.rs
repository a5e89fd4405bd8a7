//! Verifiers as issuers of credentials, and the set that they form.

use crate::{
    attestation::{attributes::Attributes, credential::Credential},
    encoding::{Fixed, Malformed, Reader, serde_as_fixed},
    gadgets::{
        merkle::{Path, Tree},
        poseidon::{Domain, hash},
        schnorr::{PublicKey, SecretKey, Signature},
    },
};
use ark_bn254::Fr;
use ark_std::rand::{CryptoRng, RngCore};
use zeroize::Zeroizing;

/// Levels of the tree over a set of verifiers.
pub const SET_DEPTH: usize = 8;
/// The most verifiers that a set has.
pub const MAX_VERIFIERS: usize = 1 << SET_DEPTH;

/// The key that a verifier signs credentials with; wiped when dropped, never shown.
#[derive(Debug, Clone)]
pub struct IssuerKey(SecretKey);

/// A verifier's public key with the proof that it holds the secret: without one, a key could be made up out of the keys
/// of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IssuerPublic {
    key: PublicKey,
    possession: Signature,
}

/// Why verifiers are no set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// The proof of possession is not the key's.
    #[error("verifier {0}: the proof of possession does not hold: take the line that the verifier itself prints")]
    Possession(usize),
    /// Named twice.
    #[error("verifier {0} is in the set already: name it once")]
    Twice(usize),
    /// More than fit.
    #[error("{0} verifiers: a set has 1 to {MAX_VERIFIERS}")]
    Count(usize),
}

impl IssuerKey {
    /// A new key.
    pub fn generate(rng: &mut (impl RngCore + CryptoRng)) -> Self {
        Self(SecretKey::generate(rng))
    }

    /// The key of 32 bytes: a number, little-endian, above zero and below the group's order.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, Malformed> {
        SecretKey::from_bytes(bytes).map(Self)
    }

    /// The secret's bytes, for the file that keeps it.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        self.0.to_bytes()
    }

    /// The public key, with a proof of possession.
    pub fn public(&self, rng: &mut (impl RngCore + CryptoRng)) -> IssuerPublic {
        let key = *self.0.public();
        IssuerPublic { key, possession: self.0.sign(Domain::Possession, &possession_message(&key), rng) }
    }

    /// Signs what was found out.
    pub fn issue(
        &self,
        attributes: &Attributes,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<Credential, Malformed> {
        attributes.check()?;
        let signature = self.0.sign(Domain::Credential, &attributes.commitment(), rng);
        Ok(Credential { attributes: attributes.clone(), issuer: *self.0.public(), signature })
    }
}

fn possession_message(key: &PublicKey) -> Fr {
    hash(Domain::Possession, &[key.leaf()])
}

impl IssuerPublic {
    /// The key.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// True where whoever made this held the secret.
    pub fn is_possessed(&self) -> bool {
        self.key.verifies(Domain::Possession, &possession_message(&self.key), &self.possession)
    }
}

impl Fixed for IssuerPublic {
    const SIZE: usize = PublicKey::SIZE + Signature::SIZE;

    fn write(&self, out: &mut Vec<u8>) {
        self.key.write(out);
        self.possession.write(out);
    }

    fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes, "verifier");
        let public = Self { key: reader.fixed()?, possession: reader.fixed()? };
        reader.finish()?;
        Ok(public)
    }
}

serde_as_fixed!(IssuerPublic, PublicKey);

/// The verifiers whose credentials count, as a Merkle tree of their keys. Each key was found to be in the subgroup and
/// not the identity when it was decoded; here its possession is verified.
#[derive(Debug, Clone)]
pub struct VerifierSet {
    verifiers: Vec<IssuerPublic>,
    tree: Tree,
}

impl VerifierSet {
    /// The set of these verifiers, in any order.
    pub fn new(mut verifiers: Vec<IssuerPublic>) -> Result<Self, SetError> {
        let count = verifiers.len();
        if count == 0 || count > MAX_VERIFIERS {
            return Err(SetError::Count(count));
        }
        for (index, verifier) in verifiers.iter().enumerate() {
            if !verifier.is_possessed() {
                return Err(SetError::Possession(index));
            }
            if verifiers[..index].iter().any(|other| other.key == verifier.key) {
                return Err(SetError::Twice(index));
            }
        }
        verifiers.sort_by_cached_key(|verifier| verifier.key.to_bytes());
        let leaves = verifiers.iter().map(|verifier| verifier.key.leaf()).collect();
        let tree = Tree::new(leaves, SET_DEPTH).ok_or(SetError::Count(count))?;
        Ok(Self { verifiers, tree })
    }

    /// How many they are.
    pub fn len(&self) -> usize {
        self.verifiers.len()
    }

    /// False: a set has at least one verifier.
    pub fn is_empty(&self) -> bool {
        self.verifiers.is_empty()
    }

    /// True where `key` is one of theirs.
    pub fn contains(&self, key: &PublicKey) -> bool {
        self.verifiers.iter().any(|verifier| verifier.key == *key)
    }

    /// The root, which a proof is about.
    pub fn root(&self) -> Fr {
        self.tree.root()
    }

    pub(crate) fn path(&self, key: &PublicKey) -> Option<Path> {
        self.tree.path(self.tree.position(&key.leaf())?)
    }
}
