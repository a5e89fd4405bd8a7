//! Protocol names, size limits and the codec of everything that crosses the network.
//!
//! A frame is a big-endian `u32` length, then that many bytes: one version byte and a CBOR value. The length is
//! compared with the limit of the stream before anything is allocated.

use serde::{Serialize, de::DeserializeOwned};

/// Offers of one peer, on request.
pub const OFFER_PROTOCOL: &str = "/aitbc/offer/1";
/// Binding quotes.
pub const QUOTE_PROTOCOL: &str = "/aitbc/quote/1";
/// Jobs: chunks one way, acknowledgements and cheques the other; settlement of unfinished ones.
pub const JOB_PROTOCOL: &str = "/aitbc/job/1";
/// Probes of one connection: a number out, the same number back.
pub const PROBE_PROTOCOL: &str = "/aitbc/probe/1";
/// Whether a node can be reached, tried by others.
pub const REACH_PROTOCOL: &str = "/aitbc/reach/1";
/// Challenges of memory.
pub const CHALLENGE_PROTOCOL: &str = "/aitbc/challenge/1";
/// Attestation: evidence, results, proofs.
pub const ATTEST_PROTOCOL: &str = "/aitbc/attest/1";
/// How much goes over a path, measured both ways.
pub const BANDWIDTH_PROTOCOL: &str = "/aitbc/bandwidth/1";
/// Private jobs, before they begin: public parts of models, and evaluation keys.
pub const FHE_PROTOCOL: &str = "/aitbc/fhe/1";
/// Settlements, from payees to payers.
pub const SETTLEMENT_PROTOCOL: &str = "/aitbc/settlement/1";
/// Kademlia.
pub const KAD_PROTOCOL: &str = "/aitbc/kad/1";
/// What identify names; peers of other networks are told apart by the suffix `/<network>`.
pub const IDENTIFY_PROTOCOL: &str = "/aitbc/id/1";

/// The version byte of every frame and gossip message.
pub const VERSION: u8 = 1;
/// Length of a frame's header in bytes.
pub const HEADER_BYTES: usize = 4;
/// Largest frame on offer streams, in bytes.
pub const MAX_OFFER_FRAME: usize = 64 * 1024;
/// Largest frame on quote streams, in bytes: a prompt with its history.
pub const MAX_QUOTE_FRAME: usize = 1024 * 1024;
/// Largest frame on job streams, in bytes.
pub const MAX_JOB_FRAME: usize = 1024 * 1024;
/// Largest frame on reach streams, in bytes.
pub const MAX_REACH_FRAME: usize = 8 * 1024;
/// Largest frame on challenge streams, in bytes: 64 lanes with their paths.
pub const MAX_CHALLENGE_FRAME: usize = 100 * 1024;
/// Largest frame on attest streams, in bytes: evidence with the logs of a boot.
pub const MAX_ATTEST_FRAME: usize = 4 * 1024 * 1024;
/// Largest frame on bandwidth streams, in bytes: one block.
pub const MAX_BANDWIDTH_FRAME: usize = crate::bandwidth::BLOCK_BYTES + 64;
/// Largest frame on fhe streams, in bytes: one part of a key.
pub const MAX_FHE_FRAME: usize = crate::sealed::MAX_PART + 64 * 1024;
/// Largest frame on settlement streams, in bytes.
pub const MAX_SETTLEMENT_FRAME: usize = 512;
/// Largest gossip message, in bytes.
pub const MAX_GOSSIP_BYTES: usize = 32 * 1024;

/// Why bytes are not a valid message, or a value not a sendable one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Larger than the stream allows.
    #[error("message of {got} bytes where at most {limit} are allowed")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
        /// The size announced or reached.
        got: usize,
    },
    /// Written by another version of the protocol.
    #[error("message version {0}, this node speaks version {VERSION}: update the older of the two")]
    Version(u8),
    /// Nothing where a message should be.
    #[error("empty message")]
    Empty,
    /// Bytes left over after the value.
    #[error("{0} bytes after the end of the message")]
    Trailing(usize),
    /// Not CBOR of the expected shape.
    #[error("malformed message: {0}")]
    Malformed(String),
    /// A value that cannot be encoded.
    #[error("cannot encode: {0}")]
    Encode(String),
}

/// CBOR of a statement, without version byte: the statement's domain carries its version.
pub fn encode_payload<T: Serialize>(value: &T, limit: usize) -> Result<Vec<u8>, WireError> {
    let bytes = cbor4ii::serde::to_vec(Vec::new(), value).map_err(|error| WireError::Encode(error.to_string()))?;
    if bytes.len() > limit {
        return Err(WireError::TooLarge { limit, got: bytes.len() });
    }
    Ok(bytes)
}

/// Reads what [`encode_payload`] wrote. Unknown fields are ignored; bytes after the value are an error.
pub fn decode_payload<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, WireError> {
    if bytes.len() > limit {
        return Err(WireError::TooLarge { limit, got: bytes.len() });
    }
    if bytes.is_empty() {
        return Err(WireError::Empty);
    }
    let mut reader = cbor4ii::core::utils::SliceReader::new(bytes);
    let value = {
        let mut deserializer = cbor4ii::serde::Deserializer::new(&mut reader);
        T::deserialize(&mut deserializer).map_err(|error| {
            WireError::Malformed(error.to_string().chars().filter(|c| !c.is_control()).take(200).collect())
        })?
    };
    let rest =
        <_ as cbor4ii::core::dec::Read>::fill(&mut reader, 1).map(|rest| rest.as_ref().len()).unwrap_or_default();
    if rest > 0 {
        return Err(WireError::Trailing(rest));
    }
    Ok(value)
}

/// A message with its version byte: a gossip message, or a frame without its length.
pub fn encode<T: Serialize>(value: &T, limit: usize) -> Result<Vec<u8>, WireError> {
    let bytes =
        cbor4ii::serde::to_vec(vec![VERSION], value).map_err(|error| WireError::Encode(error.to_string()))?;
    if bytes.len() > limit {
        return Err(WireError::TooLarge { limit, got: bytes.len() });
    }
    Ok(bytes)
}

/// Reads what [`encode`] wrote.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, WireError> {
    if bytes.len() > limit {
        return Err(WireError::TooLarge { limit, got: bytes.len() });
    }
    match bytes {
        [] => Err(WireError::Empty),
        [VERSION, payload @ ..] => decode_payload(payload, limit),
        [version, ..] => Err(WireError::Version(*version)),
    }
}

/// A whole frame: length, version, value.
pub fn encode_frame<T: Serialize>(value: &T, limit: usize) -> Result<Vec<u8>, WireError> {
    let mut bytes = vec![0; HEADER_BYTES];
    bytes.push(VERSION);
    let mut bytes = cbor4ii::serde::to_vec(bytes, value).map_err(|error| WireError::Encode(error.to_string()))?;
    let body = bytes.len() - HEADER_BYTES;
    if body > limit {
        return Err(WireError::TooLarge { limit, got: body });
    }
    let header = u32::try_from(body).map_err(|_| WireError::TooLarge { limit, got: body })?;
    bytes[..HEADER_BYTES].copy_from_slice(&header.to_be_bytes());
    Ok(bytes)
}

/// The length of the body that follows `header`, if the stream allows it. To be called before allocating.
pub fn frame_length(header: [u8; HEADER_BYTES], limit: usize) -> Result<usize, WireError> {
    let length = u32::from_be_bytes(header) as usize;
    match length {
        0 => Err(WireError::Empty),
        length if length > limit => Err(WireError::TooLarge { limit, got: length }),
        length => Ok(length),
    }
}
