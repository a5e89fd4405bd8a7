//! What is public of a proof.

use crate::{
    attestation::attributes::peer_element,
    encoding::{Fixed, Malformed, serde_as_fixed},
    gadgets::poseidon::{Domain, hash, hash_bytes},
};
use aitbc_protocol::{NetworkId, NodeId};
use ark_bn254::Fr;
use ark_serialize::{CanonicalDeserialize, CanonicalSerialize};
use std::fmt;

/// How many elements a proof is about.
pub const PUBLIC_INPUTS: usize = 11;

/// One identity per TPM, network and epoch: two peers that show one nullifier sit on one TPM. Says nothing else about it
/// to those who do not hold the set's secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nullifier(Fr);

impl Nullifier {
    pub(crate) fn of(hardware: Fr, network: Fr, epoch: u64) -> Self {
        Self(hash(Domain::Nullifier, &[hardware, network, Fr::from(epoch)]))
    }

    pub(crate) fn element(&self) -> Fr {
        self.0
    }
}

impl fmt::Display for Nullifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex::encode(self.to_bytes()))
    }
}

impl fmt::Debug for Nullifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Nullifier({self})")
    }
}

impl Fixed for Nullifier {
    const SIZE: usize = 32;

    fn write(&self, out: &mut Vec<u8>) {
        self.0.serialize_compressed(out).expect("a vector takes any number of bytes");
    }

    fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        Fr::deserialize_compressed(bytes).map(Self).map_err(|_| Malformed::Canonical("nullifier"))
    }
}

serde_as_fixed!(Nullifier);

/// A network's name as an element.
pub(crate) fn network_element(network: &NetworkId) -> Fr {
    hash_bytes(Domain::Network, network.as_str().as_bytes())
}

/// The client's nonce and the session as an element: what keeps a proof from being shown twice.
pub(crate) fn binding_element(nonce: &[u8; 32], session: &[u8; 32]) -> Fr {
    hash_bytes(Domain::Binding, &[*nonce, *session].concat())
}

/// What a proof is about, in the order of the circuit's inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Statement {
    /// Root of the set of verifiers.
    pub(crate) verifiers: Fr,
    /// Root of the allow-list.
    pub(crate) measurements: Fr,
    /// The kinds of evidence that must have held.
    pub(crate) required_kinds: u16,
    /// The least score, in thousandths.
    pub(crate) least_score: u16,
    /// The second in which the credential has not expired.
    pub(crate) now_s: u64,
    /// The second before which no credential counts, because the peer was revoked; 0 where it was not.
    pub(crate) issued_after_s: u64,
    /// The peer as an element.
    pub(crate) peer: Fr,
    /// The nullifier.
    pub(crate) nullifier: Nullifier,
    /// The network as an element.
    pub(crate) network: Fr,
    /// The epoch.
    pub(crate) epoch: u64,
    /// Nonce and session as an element.
    pub(crate) binding: Fr,
}

impl Statement {
    /// The elements.
    pub(crate) fn inputs(&self) -> [Fr; PUBLIC_INPUTS] {
        [
            self.verifiers,
            self.measurements,
            Fr::from(self.required_kinds),
            Fr::from(self.least_score),
            Fr::from(self.now_s),
            Fr::from(self.issued_after_s),
            self.peer,
            self.nullifier.element(),
            self.network,
            Fr::from(self.epoch),
            self.binding,
        ]
    }

    /// The element of a peer.
    pub(crate) fn peer_of(peer: &NodeId) -> Fr {
        peer_element(peer)
    }
}
