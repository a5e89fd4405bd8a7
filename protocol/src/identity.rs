//! Who a node is: its ed25519 public key, written as a libp2p PeerId.

use crate::bytes::ExactBytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, str::FromStr};

/// Multihash code `identity`, length 36, then the protobuf header of an ed25519 key
/// (libp2p specs, peer-ids.md).
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// A node's ed25519 public key. Its text form is the libp2p PeerId of the same key (`12D3KooW…`).
///
/// Holding a `NodeId` proves nothing: whether the 32 bytes are a point on the curve shows when a signature is
/// verified against them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub [u8; 32]);

/// Why a text is not a [`NodeId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the PeerId of an ed25519 key (it looks like 12D3KooW…)")]
pub struct ParseNodeIdError(String);

impl NodeId {
    /// The bytes of the PeerId multihash.
    pub fn to_peer_id_bytes(&self) -> Vec<u8> {
        [&PEER_ID_PREFIX[..], &self.0].concat()
    }

    /// The node behind the bytes of a PeerId, if that is the identity multihash of an ed25519 key.
    pub fn from_peer_id_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.strip_prefix(&PEER_ID_PREFIX).and_then(|key| key.try_into().ok()).map(Self)
    }

    /// The last eight characters of the text form, for people to tell peers apart on one line.
    pub fn short(&self) -> String {
        let text = self.to_string();
        text[text.len().saturating_sub(8)..].to_owned()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&bs58::encode(self.to_peer_id_bytes()).into_string())
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "NodeId({self})")
    }
}

impl FromStr for NodeId {
    type Err = ParseNodeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = || ParseNodeIdError(text.chars().take(80).collect());
        if text.len() > 80 {
            return Err(fail());
        }
        let bytes = bs58::decode(text).into_vec().map_err(|_| fail())?;
        Self::from_peer_id_bytes(&bytes).ok_or_else(fail)
    }
}

impl Serialize for NodeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_bytes(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
            text.parse().map_err(de::Error::custom)
        } else {
            deserializer.deserialize_bytes(ExactBytes::<32>).map(Self)
        }
    }
}
