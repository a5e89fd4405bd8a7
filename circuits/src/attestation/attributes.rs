//! What a credential says.

use crate::{
    encoding::{Fixed, Malformed, Reader, serde_as_fixed},
    gadgets::{
        poseidon::{Domain, hash, hash_bytes},
        range::TIME_BITS,
    },
};
use aitbc_protocol::NodeId;
use ark_bn254::Fr;
use ark_ff::Field;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt;

/// Longest measurement in bytes: a SHA-384 digest.
pub const MAX_MEASUREMENT: usize = 48;
/// Highest score, in thousandths.
pub const MAX_SCORE: u16 = 1000;
/// The first time that is too late for a credential, in seconds since 1970.
pub const TIME_END: u64 = 1 << TIME_BITS;

/// Where each small attribute begins in the element that holds them all; see [`Attributes::packed`].
pub(crate) mod place {
    pub(crate) const KINDS: usize = 0;
    pub(crate) const SCORE: usize = 16;
    pub(crate) const ISSUED: usize = 32;
    pub(crate) const EXPIRES: usize = 72;
    pub(crate) const OTHERS: usize = 112;
    /// Bits of `attested_inputs`, `firmware_age_days` and `gpu_class` together.
    pub(crate) const OTHERS_BITS: usize = 56;
}

/// What was measured of a machine: up to [`MAX_MEASUREMENT`] bytes, at least one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Measurement {
    bytes: [u8; MAX_MEASUREMENT],
    length: u8,
}

impl Measurement {
    /// The measurement of these bytes.
    pub fn new(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.is_empty() || bytes.len() > MAX_MEASUREMENT {
            return Err(Malformed::Length("measurement"));
        }
        let mut padded = [0; MAX_MEASUREMENT];
        padded[..bytes.len()].copy_from_slice(bytes);
        Ok(Self { bytes: padded, length: bytes.len() as u8 })
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// The element that stands for it in the circuit: its leaf in an allow-list.
    pub(crate) fn element(&self) -> Fr {
        hash_bytes(Domain::Measurement, self.as_bytes())
    }
}

impl fmt::Debug for Measurement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Measurement({})", hex::encode(self.as_bytes()))
    }
}

impl Fixed for Measurement {
    const SIZE: usize = 1 + MAX_MEASUREMENT;

    fn write(&self, out: &mut Vec<u8>) {
        out.push(self.length);
        out.extend(self.bytes);
    }

    fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let (length, bytes) = bytes.split_first().ok_or(Malformed::Length("measurement"))?;
        let (bytes, padding) =
            bytes.split_at_checked(usize::from(*length)).ok_or(Malformed::Length("measurement"))?;
        if padding.iter().any(|byte| *byte != 0) {
            return Err(Malformed::Canonical("measurement"));
        }
        Self::new(bytes)
    }
}

/// What a verifier found out about a peer and its hardware.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    /// The kinds of evidence that held, as a mask.
    pub kinds: u16,
    /// What was measured.
    pub measurement: Measurement,
    /// The integrity score in thousandths, up to [`MAX_SCORE`].
    pub score: u16,
    /// Which of the score's inputs were attested and not only told, as a mask.
    pub attested_inputs: u8,
    /// Age of the firmware in days.
    pub firmware_age_days: u32,
    /// The class of the GPU.
    pub gpu_class: u16,
    /// Which hardware it is, to those who hold the set's secret: see [`hw_tag`].
    pub hw_tag: [u8; 32],
    /// Whose credential it is.
    pub holder: NodeId,
    /// When it was issued, in seconds since 1970.
    pub issued_s: u64,
    /// The first second in which it is expired.
    pub expires_s: u64,
}

/// The name that the verifiers of one set give hardware: HMAC-SHA-256 under the secret that they share, of the SHA-256
/// digest of the TPM's endorsement key. Without the secret nobody who knows endorsement keys can tell whose tag it is.
pub fn hw_tag(set_secret: &[u8; 32], endorsement_key_digest: &[u8; 32]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(set_secret).expect("HMAC takes keys of any length");
    mac.update(endorsement_key_digest);
    mac.finalize().into_bytes().into()
}

/// A peer as an element.
pub(crate) fn peer_element(peer: &NodeId) -> Fr {
    hash_bytes(Domain::Peer, &peer.0)
}

impl Attributes {
    /// That no attribute is out of its range.
    pub fn check(&self) -> Result<(), Malformed> {
        if self.score > MAX_SCORE {
            return Err(Malformed::Attribute("score"));
        }
        if self.issued_s >= TIME_END {
            return Err(Malformed::Attribute("issued"));
        }
        if self.expires_s >= TIME_END || self.expires_s <= self.issued_s {
            return Err(Malformed::Attribute("expires"));
        }
        Ok(())
    }

    /// `attested_inputs`, `firmware_age_days` and `gpu_class`, of which the statement says nothing.
    pub(crate) fn others(&self) -> u64 {
        u64::from(self.attested_inputs)
            | (u64::from(self.firmware_age_days) << 8)
            | (u64::from(self.gpu_class) << 40)
    }

    /// The small attributes in one element.
    pub(crate) fn packed(&self) -> Fr {
        let at = |value: u64, place: usize| Fr::from(value) * Fr::from(2u8).pow([place as u64]);
        at(self.kinds.into(), place::KINDS)
            + at(self.score.into(), place::SCORE)
            + at(self.issued_s, place::ISSUED)
            + at(self.expires_s, place::EXPIRES)
            + at(self.others(), place::OTHERS)
    }

    /// The hardware tag as an element.
    pub(crate) fn hardware(&self) -> Fr {
        hash_bytes(Domain::Hardware, &self.hw_tag)
    }

    /// The commitment that is signed.
    pub(crate) fn commitment(&self) -> Fr {
        hash(
            Domain::Attributes,
            &[self.packed(), self.measurement.element(), self.hardware(), peer_element(&self.holder)],
        )
    }
}

impl Fixed for Attributes {
    const SIZE: usize = 2 + Measurement::SIZE + 2 + 1 + 4 + 2 + 32 + 32 + 8 + 8;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.kinds.to_le_bytes());
        self.measurement.write(out);
        out.extend(self.score.to_le_bytes());
        out.push(self.attested_inputs);
        out.extend(self.firmware_age_days.to_le_bytes());
        out.extend(self.gpu_class.to_le_bytes());
        out.extend(self.hw_tag);
        out.extend(self.holder.0);
        out.extend(self.issued_s.to_le_bytes());
        out.extend(self.expires_s.to_le_bytes());
    }

    fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes, "attributes");
        let attributes = Self {
            kinds: u16::from_le_bytes(reader.array()?),
            measurement: reader.fixed()?,
            score: u16::from_le_bytes(reader.array()?),
            attested_inputs: u8::from_le_bytes(reader.array()?),
            firmware_age_days: u32::from_le_bytes(reader.array()?),
            gpu_class: u16::from_le_bytes(reader.array()?),
            hw_tag: reader.array()?,
            holder: NodeId(reader.array()?),
            issued_s: u64::from_le_bytes(reader.array()?),
            expires_s: u64::from_le_bytes(reader.array()?),
        };
        reader.finish()?;
        attributes.check()?;
        Ok(attributes)
    }
}

serde_as_fixed!(Attributes);
