//! What a user would rather have: how time weighs against price, and how work spreads among near-equals. Pure.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// What decides among providers that can do a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preference {
    /// The soonest answer: a milli-credit is worth 100 ms.
    Latency,
    /// The cheapest answer: a milli-credit is worth 10 s.
    Cost,
    /// Between both: a milli-credit is worth 1 s.
    #[default]
    Balanced,
    /// Only hardware that was affirmed, or models on encrypted values; weighed like the balanced one.
    Private,
    /// The nearest: every kilometre counts as 10 ms, so that a provider 100 km farther away must be a second quicker.
    LocalFirst,
}

/// What has no such name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a policy is latency, cost, balanced, private or local_first")]
pub struct UnknownPreference;

/// Within which part of the best cost another is a near-equal, and within how many milliseconds at most: below what a
/// prediction can tell, and less than anybody notices in an answer of seconds.
const NEAR_SHARE: f64 = 0.05;
const NEAR_MS: f64 = 250.0;
/// The same for those who want the soonest answer.
const NEAR_SHARE_SOONEST: f64 = 0.02;
const NEAR_MS_SOONEST: f64 = 25.0;

impl Preference {
    /// All.
    pub const ALL: [Self; 5] = [Self::Latency, Self::Cost, Self::Balanced, Self::Private, Self::LocalFirst];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Cost => "cost",
            Self::Balanced => "balanced",
            Self::Private => "private",
            Self::LocalFirst => "local_first",
        }
    }

    /// Milliseconds of waiting that a credit is worth: what makes price and time comparable.
    pub const fn ms_per_credit(self) -> f64 {
        match self {
            Self::Latency => 100_000.0,
            Self::Balanced | Self::Private | Self::LocalFirst => 1_000_000.0,
            Self::Cost => 10_000_000.0,
        }
    }

    /// Milliseconds that a kilometre counts as, beyond the round trip that it takes.
    pub const fn ms_per_km(self) -> f64 {
        match self {
            Self::LocalFirst => 10.0,
            Self::Latency | Self::Cost | Self::Balanced | Self::Private => 0.0,
        }
    }

    /// The place, among candidates with these rising costs, of the one that a job goes to: any of the near-equals of the
    /// best, as `draw` falls. So a crowd of clients that see the same does not run to one provider. Excluded candidates
    /// have an infinite cost and are never picked before one that is not.
    pub fn pick(self, costs: impl IntoIterator<Item = f64>, draw: u64) -> usize {
        let mut costs = costs.into_iter();
        let Some(best) = costs.next().filter(|best| best.is_finite()) else { return 0 };
        let (share, most) = match self {
            Self::Latency => (NEAR_SHARE_SOONEST, NEAR_MS_SOONEST),
            _ => (NEAR_SHARE, NEAR_MS),
        };
        let bound = best + (best.abs() * share).min(most);
        let near = 1 + costs.take_while(|cost| *cost <= bound).count() as u64;
        // Below `near`, which counts what was iterated over.
        (draw % near) as usize
    }
}

impl fmt::Display for Preference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

impl FromStr for Preference {
    type Err = UnknownPreference;

    fn from_str(text: &str) -> Result<Self, UnknownPreference> {
        Self::ALL.into_iter().find(|preference| preference.name() == text).ok_or(UnknownPreference)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_read_back() {
        for preference in Preference::ALL {
            assert_eq!(preference.to_string().parse(), Ok(preference));
            assert_eq!(serde_json::to_string(&preference).expect("a name"), format!("\"{preference}\""));
        }
        assert_eq!("fastest".parse::<Preference>(), Err(UnknownPreference));
    }

    #[test]
    fn equals_share_the_work_evenly() {
        let costs = [1_000.0, 1_010.0, 1_049.0, 1_051.0, 5_000.0];
        let mut counts = [0; 5];
        for draw in 0..3_000 {
            counts[Preference::Balanced.pick(costs, draw)] += 1;
        }
        assert_eq!(counts, [1_000, 1_000, 1_000, 0, 0]);
        assert!((0..100).all(|draw| Preference::Latency.pick(costs, draw) < 2), "20 ms are near, 49 are not");
        // A twentieth of a long job is more than anybody waits for nothing.
        assert!((0..100).all(|draw| Preference::Balanced.pick([100_000.0, 100_251.0], draw) == 0));
        assert_eq!(Preference::Balanced.pick([], 7), 0);
        assert_eq!(Preference::Balanced.pick([f64::INFINITY, f64::INFINITY], 7), 0);
    }

    proptest! {
        #[test]
        fn whoever_is_picked_is_near_the_best(
            mut costs in proptest::collection::vec(0.0..1e6_f64, 1..50), draw: u64, outs in 0usize..3,
        ) {
            costs.sort_unstable_by(f64::total_cmp);
            costs.extend(std::iter::repeat_n(f64::INFINITY, outs));
            for preference in Preference::ALL {
                let picked = costs[preference.pick(costs.iter().copied(), draw)];
                prop_assert!(picked <= costs[0] * (1.0 + NEAR_SHARE) && picked <= costs[0] + NEAR_MS);
            }
        }
    }
}
