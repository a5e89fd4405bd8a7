//! Attestation in the words of RFC 9334: evidence, what a verifier finds in it, and what follows for trust.
//!
//! A verifier's findings are AR4SI claims (draft-ietf-rats-ar4si): a small number an aspect, in four ranges that are the
//! tiers. What a provider says of itself can only lower its score; what was attested is named as such.

pub mod exchange;
mod findings;
mod score;
mod tier;

pub use findings::{Appraisal, EvidenceKind, Kinds, Measurement, ParseKindError, TooLong};
pub use score::{AttestedInputs, Input, IntegrityInputs, integrity_score};
pub use tier::{ParseTierError, Tier, TrustVector};

use crate::{NetworkId, NodeId};
use sha2::{Digest as _, Sha256};

/// What every quote must carry: a SHA-256 over network, nonce, peer and claims.
///
/// It is the quote's 32 bytes of user data, or the first 32 of 64 whose rest is zero. Evidence that another peer made, or
/// that was made for another nonce, another network or other claims, carries something else.
pub fn binding(network: &NetworkId, nonce: &[u8; 32], peer: NodeId, claims: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"aitbc/attest/1/binding");
    // Names of networks are under 256 bytes.
    hash.update([u8::try_from(network.as_str().len()).unwrap_or(u8::MAX)]);
    hash.update(network.as_str());
    hash.update(nonce);
    hash.update(peer.0);
    hash.update((claims.len() as u64).to_be_bytes());
    hash.update(claims);
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binding_changes_with_each_of_its_parts() {
        let local = NetworkId::new("local").unwrap();
        let first = binding(&local, &[1; 32], NodeId([2; 32]), b"claims");
        assert_ne!(first, binding(&NetworkId::new("loca").unwrap(), &[1; 32], NodeId([2; 32]), b"claims"));
        assert_ne!(first, binding(&local, &[3; 32], NodeId([2; 32]), b"claims"));
        assert_ne!(first, binding(&local, &[1; 32], NodeId([3; 32]), b"claims"));
        assert_ne!(first, binding(&local, &[1; 32], NodeId([2; 32]), b"claim"));
        assert_eq!(first, binding(&local, &[1; 32], NodeId([2; 32]), b"claims"));
    }
}
