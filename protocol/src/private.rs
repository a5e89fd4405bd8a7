//! Private jobs: inputs and answers that their provider computes with and cannot read.
//!
//! A private job is a job like any other: it is quoted, paid by cheques while it runs, and bound by a receipt. What is
//! new stands in [`crate::sealed`], its input and what a receipt says of it, and here: what travels before a job on
//! `/aitbc/fhe/1`, the public part of a model and the evaluation key with which a provider computes for one client.
//!
//! Prompt tokens of a private job are the values that go in, tokens of the answer are bootstraps.

use crate::{
    UnixMillis,
    bytes::{BoundedBytes, Digest},
    job::{Input, JobSpec, ModelName, Sampling},
    sealed::{MAX_PART, ProfileName, Sealed},
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Most bytes of the public part of a model.
pub const MAX_INTERFACE: usize = 256 * 1024;
/// How long a provider keeps an evaluation key that no job uses, in milliseconds.
pub const KEY_LIFETIME_MS: u64 = 30 * 24 * 3_600_000;
/// How long a provider keeps a part of an evaluation key whose rest does not come, in milliseconds.
pub const PART_LIFETIME_MS: u64 = 24 * 3_600_000;
/// Keys of one client that a provider keeps: the one in use, and the one before it.
pub const KEYS_OF_CLIENT: usize = 2;

/// What an offer says of a model that computes on encrypted values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrivateOffer {
    /// Parameters of the keys it is for.
    pub profile: ProfileName,
    /// Bootstraps of one job.
    pub bootstraps: u32,
    /// Bytes of the evaluation key that a client sends once; 0 where none is needed.
    pub key_bytes: u64,
}

/// A private job.
pub fn spec(model: ModelName, weights: Digest, sealed: Sealed, bootstraps: u32) -> JobSpec {
    JobSpec {
        model,
        weights: Some(weights),
        input: Input::Sealed(sealed),
        sampling: Sampling::NONE,
        max_tokens: bootstraps,
        stop: Vec::new(),
        top_logprobs: None,
        prefix: Vec::new(),
    }
}

/// What a client says on `/aitbc/fhe/1`. `Debug` shows sizes of parts.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToKeeper {
    /// Asks for the public part of a model.
    Describe {
        /// The model.
        model: ModelName,
        /// Its weights, where the client insists on some.
        weights: Option<Digest>,
    },
    /// Asks whether an evaluation key is held, and if not, where sending it goes on.
    Key {
        /// Parameters of it.
        profile: ProfileName,
        /// SHA-256 of it.
        digest: Digest,
    },
    /// The next bytes of the key.
    Part(BoundedBytes<MAX_PART>),
}

impl fmt::Debug for ToKeeper {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Describe { model, weights } => write!(formatter, "Describe({model}, {weights:?})"),
            Self::Key { profile, digest } => write!(formatter, "Key({profile}, {digest})"),
            Self::Part(bytes) => write!(formatter, "Part({} bytes)", bytes.len()),
        }
    }
}

/// What a provider says on `/aitbc/fhe/1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToKeyOwner {
    /// The public part of the model.
    Interface {
        /// SHA-256 of the whole model.
        weights: Digest,
        /// What a client encrypts and decrypts by, in CBOR.
        interface: BoundedBytes<MAX_INTERFACE>,
    },
    /// The key is held until `expires_ms`, or for as long after the last job that uses it.
    Held {
        /// By the provider's clock.
        expires_ms: UnixMillis,
    },
    /// The key is not held; its bytes are taken from `offset` on.
    SendFrom {
        /// Bytes that are here from an earlier time.
        offset: u64,
    },
    /// The key is whole and held.
    Stored,
    /// It is not done, and why.
    Rejected(KeyRefusal),
}

/// Why a provider describes no model, or takes no key. Each names what would have to change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum KeyRefusal {
    /// No private model of that name, or other weights of it.
    #[error("the provider computes no such model on encrypted values")]
    UnknownModel,
    /// No model here is for keys of this profile.
    #[error("the provider has no model for keys of this profile")]
    UnknownProfile,
    /// More or other bytes came than the profile has.
    #[error("a key of this profile has {expected} bytes, {got} came")]
    Length {
        /// What the profile has.
        expected: u64,
        /// What came.
        got: u64,
    },
    /// The bytes that came are not those that were announced.
    #[error("the bytes are not those of the digest: send the key again from its beginning")]
    Digest,
    /// Keys of others fill the disk that the owner gives.
    #[error("the provider's space for evaluation keys is full: try another one, or later")]
    Full,
    /// Too many at a time.
    #[error("the provider takes other keys now: wait {retry_ms} ms")]
    Busy {
        /// When to try again.
        retry_ms: u32,
    },
    /// A message that has no place here.
    #[error("the message has no place here")]
    OutOfTurn,
    /// The provider's own fault.
    #[error("the provider cannot keep keys now")]
    Failed,
}

/// Whether `so_far` and `more` bytes together are no more than a key of `expected` bytes has. To be called before they
/// are written.
pub fn fits(so_far: u64, more: usize, expected: u64) -> Result<u64, KeyRefusal> {
    let got = so_far.saturating_add(more as u64);
    if more == 0 || got > expected { Err(KeyRefusal::Length { expected, got }) } else { Ok(got) }
}

#[cfg(test)]
mod tests;
