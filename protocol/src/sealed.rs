//! The input of a private job, and what its receipt says of it: values that their provider cannot read.

use crate::{
    bytes::{BoundedBytes, Digest},
    text::Line,
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The name of a set of parameters.
pub type ProfileName = Line<16>;

/// Most bytes of an input.
pub const MAX_SEALED_INPUT: usize = 64 * 1024;
/// Most bytes of an answer.
pub const MAX_SEALED_OUTPUT: usize = 256 * 1024;
/// Most bytes of an evaluation key in one message.
pub const MAX_PART: usize = 512 * 1024;

/// An input under a key of the client's.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// Parameters of the key.
    pub profile: ProfileName,
    /// SHA-256 of the evaluation key; none for a model that needs none.
    pub evaluation_key: Option<Digest>,
    /// How many values are in it.
    pub values: u32,
    /// The values, encrypted.
    pub ciphertext: BoundedBytes<MAX_SEALED_INPUT>,
}

impl fmt::Debug for Sealed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} values in {} bytes, {}", self.values, self.ciphertext.len(), self.profile)
    }
}

impl Sealed {
    /// What a receipt says of it.
    pub fn work(&self) -> SealedWork {
        SealedWork {
            profile: self.profile.clone(),
            evaluation_key: self.evaluation_key,
            input: Digest::of(&self.ciphertext),
        }
    }
}

/// What a receipt of a private job says beside that of others: under which key what was computed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedWork {
    /// Parameters of the key.
    pub profile: ProfileName,
    /// SHA-256 of the evaluation key; none for a model that needs none.
    pub evaluation_key: Option<Digest>,
    /// SHA-256 of the encrypted input.
    pub input: Digest,
}
