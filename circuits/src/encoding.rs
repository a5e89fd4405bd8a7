//! Encodings of fixed size: one form each, hexadecimal where people read it.

use serde::{Deserialize, Deserializer, Serializer, de};
use std::{borrow::Cow, fmt, marker::PhantomData};

/// Why bytes are not a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Too short or too long.
    #[error("{0}: wrong number of bytes")]
    Length(&'static str),
    /// A number that is zero, or not below the modulus.
    #[error("{0}: a number out of its range")]
    Number(&'static str),
    /// No point of the curve.
    #[error("{0}: not a point of the curve")]
    Point(&'static str),
    /// A second encoding of a value that has one.
    #[error("{0}: not the canonical encoding")]
    Canonical(&'static str),
    /// A point outside of the group of prime order.
    #[error("{0}: a point outside of the prime-order subgroup")]
    Subgroup(&'static str),
    /// The identity.
    #[error("{0}: the identity point")]
    Identity(&'static str),
    /// An attribute that no credential has.
    #[error("{0}: a value that no credential has")]
    Attribute(&'static str),
}

/// A value with one encoding of fixed size.
pub trait Fixed: Sized {
    /// Bytes of the encoding.
    const SIZE: usize;

    /// Appends the encoding.
    fn write(&self, out: &mut Vec<u8>);

    /// Reads exactly what [`Fixed::write`] wrote, and nothing else.
    fn read(bytes: &[u8]) -> Result<Self, Malformed>;

    /// The encoding.
    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::SIZE);
        self.write(&mut out);
        out
    }

    /// The value behind `bytes`, all of them.
    fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() == Self::SIZE { Self::read(bytes) } else { Err(Malformed::Length("encoding")) }
    }
}

/// Takes fixed numbers of bytes off the front of an encoding.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { bytes, what }
    }

    pub(crate) fn slice(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or(Malformed::Length(self.what))?;
        self.bytes = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        Ok(self.slice(N)?.try_into().expect("as many bytes as were asked for"))
    }

    pub(crate) fn fixed<T: Fixed>(&mut self) -> Result<T, Malformed> {
        T::read(self.slice(T::SIZE)?)
    }

    pub(crate) fn finish(self) -> Result<(), Malformed> {
        if self.bytes.is_empty() { Ok(()) } else { Err(Malformed::Length(self.what)) }
    }
}

/// Serialises a [`Fixed`]: a byte string, or hexadecimal where people read it.
pub(crate) fn serialize<T: Fixed, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    let bytes = value.to_bytes();
    if serializer.is_human_readable() {
        serializer.serialize_str(&hex::encode(bytes))
    } else {
        serializer.serialize_bytes(&bytes)
    }
}

/// The counterpart of [`serialize`].
pub(crate) fn deserialize<'de, T: Fixed, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    if deserializer.is_human_readable() {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        if text.len() != 2 * T::SIZE {
            return Err(de::Error::invalid_length(text.len(), &Expected::<T>(PhantomData)));
        }
        let bytes = hex::decode(text.as_ref()).map_err(de::Error::custom)?;
        T::from_bytes(&bytes).map_err(de::Error::custom)
    } else {
        deserializer.deserialize_bytes(Expected::<T>(PhantomData))
    }
}

struct Expected<T>(PhantomData<T>);

impl<T: Fixed> de::Visitor<'_> for Expected<T> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} bytes", T::SIZE)
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<T, E> {
        T::from_bytes(bytes).map_err(E::custom)
    }
}

/// Gives types that are [`Fixed`] their serde form.
macro_rules! serde_as_fixed {
    ($($name:ty),+) => {$(
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $crate::encoding::serialize(self, serializer)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::encoding::deserialize(deserializer)
            }
        }
    )+};
}
pub(crate) use serde_as_fixed;

/// Fixed arrays of bytes in structures that derive their serde form, for `#[serde(with = "bytes")]`.
pub(crate) mod bytes {
    use super::{Fixed, Malformed};
    use serde::{Deserializer, Serializer};

    struct Bytes<const N: usize>([u8; N]);

    impl<const N: usize> Fixed for Bytes<N> {
        const SIZE: usize = N;

        fn write(&self, out: &mut Vec<u8>) {
            out.extend(self.0);
        }

        fn read(bytes: &[u8]) -> Result<Self, Malformed> {
            bytes.try_into().map(Self).map_err(|_| Malformed::Length("bytes"))
        }
    }

    pub(crate) fn serialize<const N: usize, S: Serializer>(
        value: &[u8; N],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        super::serialize(&Bytes(*value), serializer)
    }

    pub(crate) fn deserialize<'de, const N: usize, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<[u8; N], D::Error> {
        super::deserialize::<Bytes<N>, D>(deserializer).map(|bytes| bytes.0)
    }
}
