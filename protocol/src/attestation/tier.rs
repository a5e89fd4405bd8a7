//! Tiers of trust, and the aspects that they follow from.

use serde::{Deserialize, Serialize};

/// How far evidence carries, as AR4SI divides its claims.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Nothing was shown.
    #[default]
    None,
    /// Something was shown, with a weakness that is named.
    Warning,
    /// What was looked at is as it should be.
    Affirming,
    /// What was looked at is not as it should be.
    Contraindicated,
}

impl Tier {
    /// The tier of one AR4SI claim: -1..=1 says nothing, up to 31 affirms, up to 95 warns, beyond speaks against; negative
    /// claims count like positive ones (draft-ietf-rats-ar4si, section 2.3.2).
    pub fn of(claim: i8) -> Self {
        match claim {
            -1..=1 => Self::None,
            -32..=31 => Self::Affirming,
            -96..=95 => Self::Warning,
            _ => Self::Contraindicated,
        }
    }

    /// How much it is worth: a condition of at least so much is met by as much or more. What speaks against a node is worth
    /// less than nothing.
    pub fn rank(self) -> i8 {
        match self {
            Self::Contraindicated => -1,
            Self::None => 0,
            Self::Warning => 1,
            Self::Affirming => 2,
        }
    }

    /// The worse of two, where none says nothing.
    #[must_use]
    pub fn worse(self, other: Self) -> Self {
        match (self, other) {
            (Self::None, told) | (told, Self::None) => told,
            (one, other) if other.rank() < one.rank() => other,
            (one, _) => one,
        }
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Warning => "warning",
            Self::Affirming => "affirming",
            Self::Contraindicated => "contraindicated",
        }
    }
}

/// A text is not the name of a tier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no tier: use none, warning, affirming or contraindicated")]
pub struct ParseTierError(String);

impl std::str::FromStr for Tier {
    type Err = ParseTierError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::None, Self::Warning, Self::Affirming, Self::Contraindicated]
            .into_iter()
            .find(|tier| tier.as_str() == text)
            .ok_or_else(|| ParseTierError(text.chars().take(40).collect()))
    }
}

impl std::fmt::Display for Tier {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.pad(self.as_str())
    }
}

/// AR4SI's trustworthiness vector. 0 where nothing was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustVector {
    /// 2: the device is who its vendor says it is; 96: its identity is not its own; 97: not recognised.
    #[serde(rename = "i")]
    pub instance_identity: i8,
    /// 2: configured as approved; 32: with known weaknesses; 96: in an unsupportable way, such as debugging allowed.
    #[serde(rename = "c")]
    pub configuration: i8,
    /// 2: what runs is approved at boot and later; 3: at boot only; 33: not recognised; 99: it is wrong.
    #[serde(rename = "e")]
    pub executables: i8,
    /// What lies on its disks.
    #[serde(rename = "f")]
    pub file_system: i8,
    /// 2: genuine hardware and firmware; 32: with known weaknesses, out of date; 96: revoked.
    #[serde(rename = "h")]
    pub hardware: i8,
    /// 2: memory is encrypted and separate; 32: separate only.
    #[serde(rename = "r")]
    pub runtime_opaque: i8,
    /// Whether stored secrets are encrypted.
    #[serde(rename = "s")]
    pub storage_opaque: i8,
    /// Whether data from outside was checked.
    #[serde(rename = "d")]
    pub sourced_data: i8,
}

impl TrustVector {
    /// All claims, in AR4SI's order.
    pub fn claims(&self) -> [i8; 8] {
        [
            self.instance_identity,
            self.configuration,
            self.executables,
            self.file_system,
            self.hardware,
            self.runtime_opaque,
            self.storage_opaque,
            self.sourced_data,
        ]
    }

    /// The worst tier of all claims that say something; none where no claim does.
    pub fn tier(&self) -> Tier {
        self.claims().map(Tier::of).into_iter().fold(Tier::None, Tier::worse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edges_of_the_tiers_are_those_of_ar4si() {
        for (claim, tier) in [
            (-128, Tier::Contraindicated),
            (-97, Tier::Contraindicated),
            (-96, Tier::Warning),
            (-33, Tier::Warning),
            (-32, Tier::Affirming),
            (-2, Tier::Affirming),
            (-1, Tier::None),
            (0, Tier::None),
            (1, Tier::None),
            (2, Tier::Affirming),
            (31, Tier::Affirming),
            (32, Tier::Warning),
            (95, Tier::Warning),
            (96, Tier::Contraindicated),
            (127, Tier::Contraindicated),
        ] {
            assert_eq!(Tier::of(claim), tier, "{claim}");
        }
    }

    #[test]
    fn the_worst_claim_decides_and_silence_does_not() {
        let affirmed = TrustVector { hardware: 2, instance_identity: 2, ..TrustVector::default() };
        assert_eq!(TrustVector::default().tier(), Tier::None);
        assert_eq!(affirmed.tier(), Tier::Affirming);
        assert_eq!(TrustVector { configuration: 32, ..affirmed }.tier(), Tier::Warning);
        assert_eq!(TrustVector { configuration: 32, executables: 99, ..affirmed }.tier(), Tier::Contraindicated);
    }

    #[test]
    fn the_worst_of_what_says_something_counts() {
        use Tier::{Affirming, Contraindicated, None, Warning};
        for (one, other, expected) in [
            (None, None, None),
            (None, Affirming, Affirming),
            (Affirming, None, Affirming),
            (Affirming, Warning, Warning),
            (Warning, Affirming, Warning),
            (Contraindicated, Affirming, Contraindicated),
            (Warning, Contraindicated, Contraindicated),
        ] {
            assert_eq!(one.worse(other), expected);
        }
    }
}
