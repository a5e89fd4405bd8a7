//! When a job goes to a cloud in place of a provider, and when it must not: pure.

use super::Reasons;
use crate::{attestation::Tier, money::MicroCredits};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// When jobs may go to the cloud that the settings name. Each but the first also takes it where no provider is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fallback {
    /// Not at all.
    #[default]
    Never,
    /// Where no provider can do the job.
    IfNoEdge,
    /// Where the job can cost less there than with the best provider.
    IfCheaper,
    /// Where the answer is expected to be whole sooner than with the best provider.
    IfFaster,
}

/// What has no such name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("fallback is never, if_no_edge, if_cheaper or if_faster")]
pub struct UnknownFallback;

impl Fallback {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::IfNoEdge => "if_no_edge",
            Self::IfCheaper => "if_cheaper",
            Self::IfFaster => "if_faster",
        }
    }
}

impl fmt::Display for Fallback {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

impl FromStr for Fallback {
    type Err = UnknownFallback;

    fn from_str(text: &str) -> Result<Self, UnknownFallback> {
        [Self::Never, Self::IfNoEdge, Self::IfCheaper, Self::IfFaster]
            .into_iter()
            .find(|fallback| fallback.name() == text)
            .ok_or(UnknownFallback)
    }
}

/// What a job asks that bears on whether it may leave for a cloud: a server that shows nothing of its hardware or its
/// weights, and reads all that it is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demands {
    /// Its input is encrypted for providers that compute on encrypted values.
    pub sealed: bool,
    /// The least that a provider must have shown of its hardware.
    pub min_trust: Tier,
    /// Memory of GPUs that must have been shown, in bytes.
    pub least_shown: u64,
    /// It is for one provider only.
    pub one_provider: bool,
    /// It is for certain weights only.
    pub weights: bool,
    /// Vectors are asked for, and no text.
    pub vectors: bool,
    /// Log probabilities are asked for.
    pub logprobs: bool,
    /// A part of the answer was shown already.
    pub begun: bool,
    /// What the user still pays at most.
    pub ceiling: Option<MicroCredits>,
}

/// What one job is expected to be like in the cloud.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CloudEstimate {
    /// The most it can cost there, by the price that the settings name.
    pub price: MicroCredits,
    /// Estimated milliseconds until the first piece.
    pub first_ms: f64,
    /// Estimated milliseconds until the answer is whole.
    pub time_ms: f64,
}

/// Why a job does not go to the cloud, whatever becomes of it elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloudBar {
    /// Its input is encrypted.
    Sealed,
    /// Trust is asked for.
    Trust(Tier),
    /// Memory is to be shown.
    Shown,
    /// One provider only.
    OneProvider,
    /// Certain weights only.
    Weights,
    /// Vectors.
    Vectors,
    /// Log probabilities.
    Logprobs,
    /// The answer has begun elsewhere.
    Begun,
    /// Above the ceiling.
    TooExpensive {
        /// The most the job can cost there.
        price: MicroCredits,
        /// What the user pays at most.
        ceiling: MicroCredits,
    },
}

impl fmt::Display for CloudBar {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sealed => formatter.write_str("a private job never goes to a cloud"),
            Self::Trust(least) => {
                write!(formatter, "a cloud shows nothing of its hardware, and attestation {least} is asked for")
            }
            Self::Shown => formatter.write_str("a cloud shows no GPU memory, and some is asked for"),
            Self::OneProvider => formatter.write_str("the job is for one provider only"),
            Self::Weights => {
                formatter.write_str("a cloud does not show its weights, and certain ones are asked for")
            }
            Self::Vectors => formatter.write_str("vectors are not asked of the cloud"),
            Self::Logprobs => formatter.write_str("log probabilities are not asked of the cloud"),
            Self::Begun => {
                formatter.write_str("a part of the answer was shown already, and the cloud cannot go on with it")
            }
            Self::TooExpensive { price, ceiling } => write!(formatter, "up to {price}, the ceiling is {ceiling}"),
        }
    }
}

impl CloudBar {
    /// What it is about, in one word.
    pub const fn what(&self) -> &'static str {
        match self {
            Self::Sealed => "private",
            Self::Trust(_) => "trust",
            Self::Shown => "memory",
            Self::OneProvider => "provider",
            Self::Weights => "weights",
            Self::Vectors | Self::Logprobs | Self::Begun => "kind",
            Self::TooExpensive { .. } => "price",
        }
    }
}

/// Why a job went to the cloud.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum CloudReason {
    /// No provider could do it.
    NoEdge,
    /// It costs less there.
    Cheaper {
        /// The most it can cost in the cloud.
        cloud: MicroCredits,
        /// The most it can cost with the best provider.
        edge: MicroCredits,
    },
    /// It is expected to be done sooner there.
    Faster {
        /// Estimated milliseconds in the cloud.
        cloud_ms: f64,
        /// Estimated milliseconds with the best provider.
        edge_ms: f64,
    },
}

impl fmt::Display for CloudReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoEdge => formatter.write_str("no provider is left"),
            Self::Cheaper { cloud, edge } => {
                write!(formatter, "at most {cloud} there, up to {edge} with the best provider")
            }
            Self::Faster { cloud_ms, edge_ms } => {
                write!(formatter, "about {cloud_ms:.0} ms there, {edge_ms:.0} ms with the best provider")
            }
        }
    }
}

/// What keeps a job out of every cloud. Money is looked at last, so that nobody raises a ceiling in vain.
pub fn barred(demands: &Demands, cloud: &CloudEstimate) -> Option<CloudBar> {
    let Demands { sealed, min_trust, least_shown, one_provider, weights, vectors, logprobs, begun, ceiling } =
        *demands;
    let of_kind = [
        (sealed, CloudBar::Sealed),
        (min_trust.rank() > Tier::None.rank(), CloudBar::Trust(min_trust)),
        (least_shown > 0, CloudBar::Shown),
        (one_provider, CloudBar::OneProvider),
        (weights, CloudBar::Weights),
        (vectors, CloudBar::Vectors),
        (logprobs, CloudBar::Logprobs),
        (begun, CloudBar::Begun),
    ];
    if let Some((_, bar)) = of_kind.into_iter().find(|(applies, _)| *applies) {
        return Some(bar);
    }
    let ceiling = ceiling.filter(|ceiling| cloud.price > *ceiling)?;
    Some(CloudBar::TooExpensive { price: cloud.price, ceiling })
}

/// Why a job that nothing bars goes to the cloud, given the best provider that could do it; `None` where it does not.
/// Equal prices and times stay with the provider.
pub fn cloud_reason(fallback: Fallback, cloud: &CloudEstimate, best: Option<&Reasons>) -> Option<CloudReason> {
    let Some(best) = best else { return (fallback != Fallback::Never).then_some(CloudReason::NoEdge) };
    match fallback {
        Fallback::Never | Fallback::IfNoEdge => None,
        Fallback::IfCheaper => {
            let (cloud, edge) = (cloud.price, best.price);
            (cloud < edge).then_some(CloudReason::Cheaper { cloud, edge })
        }
        Fallback::IfFaster => {
            let (cloud_ms, edge_ms) = (cloud.time_ms, best.time_ms());
            (cloud_ms < edge_ms).then_some(CloudReason::Faster { cloud_ms, edge_ms })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::RoundTripBy;
    use proptest::prelude::*;

    fn edge(price: u64, generate_ms: f64) -> Reasons {
        Reasons {
            round_trip_ms: 10.0,
            round_trip_by: RoundTripBy::Measured,
            distance_km: 1.0,
            queue_ms: 0.0,
            prefill_ms: 0.0,
            generate_ms,
            price: MicroCredits(price),
            failures: 0.0,
            lateness: 0.0,
            speed_seen: false,
            quality: crate::qos::Quality::default(),
        }
    }

    fn cloud(price: u64, time_ms: f64) -> CloudEstimate {
        CloudEstimate { price: MicroCredits(price), first_ms: 0.0, time_ms }
    }

    #[test]
    fn what_is_asked_of_hardware_or_kept_from_others_never_leaves() {
        let cases = [
            (Demands { sealed: true, ..Demands::default() }, CloudBar::Sealed),
            (Demands { min_trust: Tier::Warning, ..Demands::default() }, CloudBar::Trust(Tier::Warning)),
            (Demands { least_shown: 1, ..Demands::default() }, CloudBar::Shown),
            (Demands { one_provider: true, ..Demands::default() }, CloudBar::OneProvider),
            (Demands { weights: true, ..Demands::default() }, CloudBar::Weights),
            (Demands { vectors: true, ..Demands::default() }, CloudBar::Vectors),
            (Demands { logprobs: true, ..Demands::default() }, CloudBar::Logprobs),
            (Demands { begun: true, ..Demands::default() }, CloudBar::Begun),
        ];
        for (demands, bar) in cases {
            assert_eq!(barred(&demands, &cloud(0, 0.0)), Some(bar));
            assert!(!bar.to_string().is_empty() && !bar.what().is_empty());
        }
        let ceiling = Demands { ceiling: Some(MicroCredits(10)), ..Demands::default() };
        assert_eq!(barred(&ceiling, &cloud(10, 0.0)), None);
        let bar = barred(&ceiling, &cloud(11, 0.0)).expect("above the ceiling");
        assert_eq!(bar, CloudBar::TooExpensive { price: MicroCredits(11), ceiling: MicroCredits(10) });
        assert_eq!(barred(&Demands::default(), &cloud(u64::MAX, f64::INFINITY)), None);
    }

    #[test]
    fn each_fallback_has_its_own_reason() {
        let best = edge(100, 1_000.0);
        let reason = |fallback, cloud, best: Option<&Reasons>| cloud_reason(fallback, &cloud, best);
        assert_eq!(reason(Fallback::Never, cloud(0, 0.0), None), None);
        for fallback in [Fallback::IfNoEdge, Fallback::IfCheaper, Fallback::IfFaster] {
            assert_eq!(reason(fallback, cloud(1_000, 1e9), None), Some(CloudReason::NoEdge), "{fallback}");
        }
        assert_eq!(reason(Fallback::IfNoEdge, cloud(0, 0.0), Some(&best)), None);
        assert_eq!(reason(Fallback::IfCheaper, cloud(100, 0.0), Some(&best)), None, "equal stays");
        assert!(matches!(
            reason(Fallback::IfCheaper, cloud(99, 1e9), Some(&best)),
            Some(CloudReason::Cheaper { .. })
        ));
        assert_eq!(reason(Fallback::IfFaster, cloud(0, best.time_ms()), Some(&best)), None, "equal stays");
        assert!(matches!(
            reason(Fallback::IfFaster, cloud(1_000, 999.0), Some(&best)),
            Some(CloudReason::Faster { .. })
        ));
    }

    #[test]
    fn names_read_back() {
        for fallback in [Fallback::Never, Fallback::IfNoEdge, Fallback::IfCheaper, Fallback::IfFaster] {
            assert_eq!(fallback.to_string().parse(), Ok(fallback));
            let json = serde_json::to_string(&fallback).expect("a name");
            assert_eq!(json, format!("\"{fallback}\""));
        }
        assert_eq!("if-cheaper".parse::<Fallback>(), Err(UnknownFallback));
    }

    proptest! {
        /// A dearer cloud is never taken for its price where a cheaper one was not, nor a slower one for its speed.
        #[test]
        fn a_better_cloud_is_never_left_out_for_a_worse_one(
            price in 0u64..2_000, more in 0u64..2_000, time in 0.0..5_000.0, longer in 0.0..5_000.0,
            edge_price in 0u64..2_000, edge_ms in 0.0..5_000.0,
        ) {
            let best = edge(edge_price, edge_ms);
            for fallback in [Fallback::IfCheaper, Fallback::IfFaster] {
                let good = cloud_reason(fallback, &cloud(price, time), Some(&best)).is_some();
                let worse = cloud_reason(fallback, &cloud(price + more, time + longer), Some(&best)).is_some();
                prop_assert!(good || !worse);
            }
        }
    }
}
