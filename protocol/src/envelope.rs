//! Signed statements: who says it, exactly what bytes, under which domain and network.

use crate::{bytes::Digest, identity::NodeId, text::Line, wire};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, de::DeserializeOwned};
use std::{fmt, marker::PhantomData};

/// The name of a network: statements of one network are void in every other.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NetworkId(Line<32>);

/// Why a text is not the name of a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a network name: use 1 to 32 of a-z, 0-9 and '-'")]
pub struct NetworkIdError(String);

impl NetworkId {
    /// The network that allows private addresses and impossible distances: demo, testnet, tests.
    pub const LOCAL: &'static str = "local";

    /// Takes a name of 1 to 32 characters out of `a-z`, `0-9` and `-`.
    pub fn new(name: &str) -> Result<Self, NetworkIdError> {
        let valid =
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        match Line::new(name) {
            Ok(line) if valid => Ok(Self(line)),
            _ => Err(NetworkIdError(name.chars().take(64).collect())),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// True for the network of demos and tests.
    pub fn is_local(&self) -> bool {
        self.as_str() == Self::LOCAL
    }
}

impl fmt::Display for NetworkId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, formatter)
    }
}

/// What can be signed. The domain keeps a signature over one kind of statement from passing for another.
pub trait Statement: Serialize + DeserializeOwned {
    /// Name and version, such as `aitbc/offer/1`; at most 255 bytes.
    const DOMAIN: &'static str;

    /// Largest encoded payload in bytes.
    const MAX_BYTES: usize;
}

/// A statement as its signer encoded it.
///
/// The payload is kept byte for byte: it is verified and passed on as it came, so a reader that ignores unknown
/// fields never breaks a signature. On the wire it is one byte string `signer (32) || signature (64) || payload`.
/// Only `aitbc_crypto::signing` makes and opens one.
pub struct Signed<T> {
    signer: NodeId,
    signature: [u8; 64],
    payload: Vec<u8>,
    statement: PhantomData<fn() -> T>,
}

impl<T> Signed<T> {
    /// Puts the parts together; nothing is verified.
    pub fn from_parts(signer: NodeId, signature: [u8; 64], payload: Vec<u8>) -> Self {
        Self { signer, signature, payload, statement: PhantomData }
    }

    /// Who claims to have signed.
    pub fn signer(&self) -> NodeId {
        self.signer
    }

    /// The signature, ed25519.
    pub fn signature(&self) -> &[u8; 64] {
        &self.signature
    }

    /// The exact bytes that were signed.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Digest of the payload bytes, by which other statements refer to this one.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.payload)
    }
}

impl<T: Statement> Signed<T> {
    /// The message under the signature: a fixed tag, then domain and network with their lengths, then the payload.
    pub fn message(network: &NetworkId, payload: &[u8]) -> Vec<u8> {
        let mut message = Vec::with_capacity(96 + payload.len());
        message.extend_from_slice(b"aitbc signed statement v1\0");
        for part in [T::DOMAIN, network.as_str()] {
            message.push(u8::try_from(part.len()).expect("domains and network names are under 256 bytes"));
            message.extend_from_slice(part.as_bytes());
        }
        message.extend_from_slice(payload);
        message
    }

    /// Reads the payload without looking at the signature: for display, for rate limits and for statements that
    /// were verified before they were stored.
    pub fn read_unverified(&self) -> Result<T, wire::WireError> {
        wire::decode_payload(&self.payload, T::MAX_BYTES)
    }
}

impl<T> Clone for Signed<T> {
    fn clone(&self) -> Self {
        Self::from_parts(self.signer, self.signature, self.payload.clone())
    }
}

impl<T> PartialEq for Signed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.signer == other.signer && self.signature == other.signature && self.payload == other.payload
    }
}

impl<T> Eq for Signed<T> {}

impl<T> fmt::Debug for Signed<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Signed")
            .field("signer", &self.signer)
            .field("payload_bytes", &self.payload.len())
            .finish_non_exhaustive()
    }
}

/// The form for files that people keep and read, hexadecimal.
#[derive(Serialize, Deserialize)]
struct Readable {
    signer: NodeId,
    signature: String,
    payload: String,
}

impl<T> Serialize for Signed<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            let readable = Readable {
                signer: self.signer,
                signature: hex::encode(self.signature),
                payload: hex::encode(&self.payload),
            };
            return readable.serialize(serializer);
        }
        serializer.serialize_bytes(&[&self.signer.0[..], &self.signature, &self.payload].concat())
    }
}

impl<'de, T> Deserialize<'de> for Signed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let readable = Readable::deserialize(deserializer)?;
            let mut signature = [0; 64];
            hex::decode_to_slice(&readable.signature, &mut signature)
                .map_err(|error| de::Error::custom(format_args!("signature: {error}")))?;
            let payload = hex::decode(&readable.payload)
                .map_err(|error| de::Error::custom(format_args!("payload: {error}")))?;
            return Ok(Self::from_parts(readable.signer, signature, payload));
        }
        deserializer.deserialize_bytes(SignedVisitor(PhantomData))
    }
}

struct SignedVisitor<T>(PhantomData<fn() -> T>);

impl<T> de::Visitor<'_> for SignedVisitor<T> {
    type Value = Signed<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a byte string of signer, signature and payload")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
        let short = || E::invalid_length(bytes.len(), &self);
        let (signer, rest) = bytes.split_first_chunk::<32>().ok_or_else(short)?;
        let (signature, payload) = rest.split_first_chunk::<64>().ok_or_else(short)?;
        Ok(Signed::from_parts(NodeId(*signer), *signature, payload.to_vec()))
    }
}
