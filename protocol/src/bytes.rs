//! Fixed-size byte strings with a hexadecimal text form: digests, nonces, job ids.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};
use std::{fmt, ops::Deref, str::FromStr};

/// Why a hexadecimal text is not a value of the expected size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} hexadecimal digits, got {got:?}")]
pub struct ParseHexError {
    expected: usize,
    got: String,
}

/// Visits exactly `N` bytes given as a byte string (never as text or as a list of numbers), so that an encoding
/// has one form only.
pub(crate) struct ExactBytes<const N: usize>;

impl<const N: usize> de::Visitor<'_> for ExactBytes<N> {
    type Value = [u8; N];

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "a byte string of {N} bytes")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
        bytes.try_into().map_err(|_| E::invalid_length(bytes.len(), &self))
    }
}

macro_rules! fixed_bytes {
    ($(#[$doc:meta])* $name:ident, $size:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $size]);

        impl $name {
            /// Size in bytes.
            pub const SIZE: usize = $size;

            /// The raw bytes.
            pub fn as_bytes(&self) -> &[u8; $size] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = ParseHexError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let mut bytes = [0; $size];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| ParseHexError {
                    expected: $size * 2,
                    got: text.chars().take(80).collect(),
                })?;
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    serializer.serialize_bytes(&self.0)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                    text.parse().map_err(de::Error::custom)
                } else {
                    deserializer.deserialize_bytes(ExactBytes::<$size>).map(Self)
                }
            }
        }
    };
}

fixed_bytes!(
    /// A SHA-256 digest.
    Digest, 32
);
fixed_bytes!(
    /// A random number used once.
    Nonce, 16
);
fixed_bytes!(
    /// The client's name for one job, random, the same over all attempts and providers.
    JobId, 16
);

impl Digest {
    /// SHA-256 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// SHA-256 of token ids, each as four little-endian bytes in order of generation.
    pub fn of_tokens(tokens: &[u32]) -> Self {
        let mut hasher = Sha256::new();
        for token in tokens {
            hasher.update(token.to_le_bytes());
        }
        Self(hasher.finalize().into())
    }
}

/// At most `MAX` bytes: a longer byte string is refused while it is read, before it is held. Hexadecimal digits in text.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct BoundedBytes<const MAX: usize>(Vec<u8>);

/// More bytes than a [`BoundedBytes`] holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{got} bytes where at most {max} are allowed")]
pub struct TooManyBytes {
    /// The limit in bytes.
    pub max: usize,
    /// The length in bytes.
    pub got: usize,
}

impl<const MAX: usize> BoundedBytes<MAX> {
    /// Takes the bytes if they are few enough.
    pub fn new(bytes: Vec<u8>) -> Result<Self, TooManyBytes> {
        if bytes.len() > MAX { Err(TooManyBytes { max: MAX, got: bytes.len() }) } else { Ok(Self(bytes)) }
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }

    /// The bytes, given away.
    pub fn into_vec(self) -> Vec<u8> {
        self.0
    }

    /// True where there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<const MAX: usize> Deref for BoundedBytes<MAX> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl<const MAX: usize> TryFrom<Vec<u8>> for BoundedBytes<MAX> {
    type Error = TooManyBytes;

    fn try_from(bytes: Vec<u8>) -> Result<Self, Self::Error> {
        Self::new(bytes)
    }
}

impl<const MAX: usize> fmt::Debug for BoundedBytes<MAX> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "BoundedBytes({} bytes)", self.0.len())
    }
}

impl<const MAX: usize> Serialize for BoundedBytes<MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&hex::encode(&self.0))
        } else {
            serializer.serialize_bytes(&self.0)
        }
    }
}

impl<'de, const MAX: usize> Deserialize<'de> for BoundedBytes<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<const MAX: usize>;
        impl<const MAX: usize> de::Visitor<'_> for Visitor<MAX> {
            type Value = Vec<u8>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "a byte string of at most {MAX} bytes")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
                if bytes.len() > MAX { Err(E::invalid_length(bytes.len(), &self)) } else { Ok(bytes.to_vec()) }
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                if text.len() / 2 > MAX {
                    return Err(E::invalid_length(text.len() / 2, &self));
                }
                hex::decode(text).map_err(E::custom)
            }
        }
        if deserializer.is_human_readable() {
            deserializer.deserialize_str(Visitor::<MAX>).map(Self)
        } else {
            deserializer.deserialize_bytes(Visitor::<MAX>).map(Self)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_bytes_hold_their_limit_and_no_more() {
        type Four = BoundedBytes<4>;
        let full = Four::new(vec![1, 2, 3, 4]).unwrap();
        assert_eq!(Four::new(vec![0; 5]), Err(TooManyBytes { max: 4, got: 5 }));
        let coded = cbor4ii::serde::to_vec(Vec::new(), &full).unwrap();
        assert_eq!(coded, [0x44, 1, 2, 3, 4]);
        assert_eq!(cbor4ii::serde::from_slice::<Four>(&coded).unwrap(), full);
        assert!(cbor4ii::serde::from_slice::<Four>(&[0x45, 1, 2, 3, 4, 5]).is_err());
        assert_eq!(serde_json::to_string(&full).unwrap(), "\"01020304\"");
        assert_eq!(serde_json::from_str::<Four>("\"01020304\"").unwrap(), full);
        for wrong in ["\"0102030405\"", "\"0g\"", "\"0\"", "[1]"] {
            assert!(serde_json::from_str::<Four>(wrong).is_err(), "{wrong}");
        }
    }
}
