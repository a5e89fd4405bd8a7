//! What a verifier finds in one piece of evidence.

use super::{Tier, TrustVector};
use crate::{Digest, UnixMillis};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, str::FromStr};

/// What kind of evidence it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EvidenceKind {
    /// A quote by a TPM 2.0.
    Tpm,
    /// A quote by an Intel SGX enclave.
    Sgx,
    /// A quote of an Intel TDX domain.
    Tdx,
    /// An attestation report of an AMD SEV-SNP guest.
    SevSnp,
    /// An SPDM measurement report by an NVIDIA GPU.
    Nvidia,
    /// What the node says of itself.
    Software,
}

/// A text is not the name of a kind of evidence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no kind of evidence: use tpm, sgx, tdx, sev_snp, nvidia or software")]
pub struct ParseKindError(String);

impl EvidenceKind {
    /// All kinds.
    pub const ALL: [Self; 6] = [Self::Tpm, Self::Sgx, Self::Tdx, Self::SevSnp, Self::Nvidia, Self::Software];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tpm => "tpm",
            Self::Sgx => "sgx",
            Self::Tdx => "tdx",
            Self::SevSnp => "sev_snp",
            Self::Nvidia => "nvidia",
            Self::Software => "software",
        }
    }

    /// Its bit in a mask of kinds.
    fn bit(self) -> u16 {
        match self {
            Self::Tpm => 1,
            Self::Sgx => 1 << 1,
            Self::Tdx => 1 << 2,
            Self::SevSnp => 1 << 3,
            Self::Nvidia => 1 << 4,
            Self::Software => 1 << 5,
        }
    }
}

impl fmt::Display for EvidenceKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

impl FromStr for EvidenceKind {
    type Err = ParseKindError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| ParseKindError(text.chars().take(40).collect()))
    }
}

/// A set of kinds of evidence, as a mask of 16 bits whose unknown bits are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Kinds(u16);

impl Kinds {
    /// The set behind a mask.
    pub fn from_mask(mask: u16) -> Self {
        Self(mask)
    }

    /// Its mask.
    pub fn mask(self) -> u16 {
        self.0
    }

    /// With one kind more.
    #[must_use]
    pub fn with(self, kind: EvidenceKind) -> Self {
        Self(self.0 | kind.bit())
    }

    /// Whether a kind is in it.
    pub fn contains(self, kind: EvidenceKind) -> bool {
        self.0 & kind.bit() != 0
    }

    /// The kinds in it that are known here.
    pub fn known(self) -> impl Iterator<Item = EvidenceKind> {
        EvidenceKind::ALL.into_iter().filter(move |kind| self.contains(*kind))
    }
}

impl FromIterator<EvidenceKind> for Kinds {
    fn from_iter<I: IntoIterator<Item = EvidenceKind>>(kinds: I) -> Self {
        kinds.into_iter().fold(Self::default(), Self::with)
    }
}

/// What was measured: a digest of 1 to 48 bytes, or none where nothing was. Written as hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Measurement {
    bytes: Padded,
    length: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Padded([u8; 48]);

impl Default for Padded {
    fn default() -> Self {
        Self([0; 48])
    }
}

/// More bytes than a measurement has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a measurement is at most 48 bytes, as hexadecimal digits")]
pub struct TooLong;

impl Measurement {
    /// Most bytes of one: SHA-384.
    pub const MAX_BYTES: usize = 48;

    /// Takes a digest.
    pub fn new(digest: &[u8]) -> Result<Self, TooLong> {
        let mut bytes = [0; 48];
        bytes.get_mut(..digest.len()).ok_or(TooLong)?.copy_from_slice(digest);
        Ok(Self { bytes: Padded(bytes), length: digest.len() as u8 })
    }

    /// The digest.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes.0[..usize::from(self.length)]
    }
}

impl From<[u8; 32]> for Measurement {
    fn from(digest: [u8; 32]) -> Self {
        let mut bytes = [0; 48];
        bytes[..32].copy_from_slice(&digest);
        Self { bytes: Padded(bytes), length: 32 }
    }
}

impl From<[u8; 48]> for Measurement {
    fn from(digest: [u8; 48]) -> Self {
        Self { bytes: Padded(digest), length: 48 }
    }
}

impl fmt::Display for Measurement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex::encode(self.as_bytes()))
    }
}

impl fmt::Debug for Measurement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Measurement({self})")
    }
}

impl FromStr for Measurement {
    type Err = TooLong;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > 2 * Self::MAX_BYTES {
            return Err(TooLong);
        }
        Self::new(&hex::decode(text).map_err(|_| TooLong)?)
    }
}

impl Serialize for Measurement {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Measurement {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What a verifier of one kind of evidence finds, once the evidence is proved to be genuine and made for this nonce.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Appraisal {
    /// Which kind it was.
    pub kind: EvidenceKind,
    /// What the aspects are worth.
    pub vector: TrustVector,
    /// What lasts of the hardware: a SHA-256 over its key or identity, by which it is the same device tomorrow. For
    /// verifiers alone; `None` where the evidence has none.
    pub hardware: Option<Digest>,
    /// What was measured.
    pub measurement: Measurement,
    /// When the firmware was made, where evidence says so.
    pub firmware_ms: Option<UnixMillis>,
    /// Whether its vendor knows of a vulnerability in what runs; `None` where the evidence does not say.
    pub vulnerable: Option<bool>,
    /// Until when the vendor's own statements stand, where they end.
    pub expires_ms: Option<UnixMillis>,
    /// What was seen, and why an aspect is worth what it is worth, in sentences.
    pub notes: Vec<String>,
}

impl Appraisal {
    /// The tier that follows.
    pub fn tier(&self) -> Tier {
        self.vector.tier()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_apart_by_name_and_by_bit() {
        for kind in EvidenceKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("{:?}", kind.as_str()));
            assert_eq!(Kinds::default().with(kind).known().collect::<Vec<_>>(), [kind]);
        }
        assert!("tmp".parse::<EvidenceKind>().is_err());
    }

    #[test]
    fn a_measurement_keeps_its_length() {
        for length in [0, 1, 32, 48] {
            let bytes = vec![7; length];
            let measurement = Measurement::new(&bytes).unwrap();
            assert_eq!(measurement.as_bytes(), bytes);
            assert_eq!(measurement.to_string().parse(), Ok(measurement));
        }
        assert_eq!(Measurement::new(&[0; 49]), Err(TooLong));
        assert_eq!("0".parse::<Measurement>(), Err(TooLong));
        assert_ne!(Measurement::new(&[0; 32]), Measurement::new(&[0; 48]));
    }
}
