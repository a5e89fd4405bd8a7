//! What a client asks for and what it is shown.

use crate::{
    attestation::statement::Nullifier,
    encoding::{self, Fixed, Malformed, Reader, serde_as_fixed},
};
pub use aitbc_protocol::attestation::exchange::PolicyName;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Bytes of a proof: A, B and C, compressed.
pub const PROOF_BYTES: usize = 128;

/// What a client wants to see. Everything else that a proof is about follows from the network's parameters and from the
/// connection: a client that chose the thresholds could read the attributes by halving intervals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The policy that is to be fulfilled.
    pub policy: PolicyName,
    /// The client's time in seconds since 1970.
    pub now_s: u64,
    /// The epoch of that time: see [`crate::Parameters::epoch_at`].
    pub epoch: u64,
    /// No credential issued before this counts: the time of the newest revocation of the peer that the client knows, 0
    /// where it knows none.
    pub issued_after_s: u64,
    /// Random, used once.
    #[serde(with = "encoding::bytes")]
    pub nonce: [u8; 32],
    /// The session that the proof is for.
    #[serde(with = "encoding::bytes")]
    pub session: [u8; 32],
}

/// A proof and the nullifier that it shows.
///
/// Anybody can turn a proof into another one of the same statement, so a replay shows by its nonce, never by its bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Presentation {
    /// A, B and C of the proof, compressed.
    pub proof: [u8; PROOF_BYTES],
    /// One identity per TPM, network and epoch.
    pub nullifier: Nullifier,
}

impl fmt::Debug for Presentation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Presentation({})", self.nullifier)
    }
}

impl Fixed for Presentation {
    const SIZE: usize = PROOF_BYTES + Nullifier::SIZE;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.proof);
        self.nullifier.write(out);
    }

    fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes, "presentation");
        let presentation = Self { proof: reader.array()?, nullifier: reader.fixed()? };
        reader.finish()?;
        Ok(presentation)
    }
}

serde_as_fixed!(Presentation);
