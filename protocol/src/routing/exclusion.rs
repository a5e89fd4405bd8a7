//! Why a provider is not asked, and what to change about it.

use super::{Candidate, Policy, Reasons, RoundTripBy, Work, query::Unmet};
use crate::{attestation::Tier, evidence::Slashed, geo::LIGHT_SLACK, money::MicroCredits, offer::DeviceKind};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Why a candidate is out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exclusion {
    /// It failed this job already.
    FailedBefore,
    /// What it signed speaks against it.
    Slashed(Slashed),
    /// Its last connection broke and it was not found again.
    Offline {
        /// For how many milliseconds.
        for_ms: u64,
    },
    /// Its last jobs failed one after the other, and it is left alone for a while.
    Resting {
        /// For how many milliseconds.
        for_ms: u64,
    },
    /// Other weights than the client insists on.
    OtherWeights,
    /// The model computes on encrypted values only, and the job is an ordinary one.
    OnlyPrivate,
    /// The job is private, and the model takes what it can read only.
    NotPrivate,
    /// The model is only declared and the client wants more.
    OnlyDeclared,
    /// It has shown too little of its hardware, or something that speaks against it.
    TooLittleTrust {
        /// What it has shown.
        tier: Tier,
        /// What the user wants.
        least: Tier,
    },
    /// Too little of its GPUs' memory was shown.
    NotShown {
        /// What was, in bytes.
        shown: u64,
        /// What the user wants, in bytes.
        least: u64,
    },
    /// Prompt and answer do not fit its context.
    ContextTooSmall {
        /// Tokens needed.
        needed: u32,
        /// Tokens it has.
        context: u32,
    },
    /// Too far or too slow.
    TooSlow {
        /// Its round trip, measured or at the least.
        round_trip_ms: f64,
        /// What the job allows.
        budget_ms: f64,
    },
    /// Above the ceiling.
    TooExpensive {
        /// The most the job can cost there.
        price: MicroCredits,
        /// What the user pays at most.
        ceiling: MicroCredits,
    },
    /// It does not meet a condition.
    Unmet {
        /// As it was written.
        condition: String,
        /// What there is instead.
        found: String,
    },
    /// It answers faster than light could from where it says it is.
    ImpossibleDistance {
        /// Measured round trip.
        round_trip_ms: f64,
        /// What physics allows.
        least_ms: f64,
    },
}

impl Exclusion {
    /// What rules out, in one word.
    pub const fn what(&self) -> &'static str {
        match self {
            Self::FailedBefore => "failed",
            Self::Slashed(_) => "evidence",
            Self::Offline { .. } => "offline",
            Self::Resting { .. } => "failures",
            Self::OtherWeights => "weights",
            Self::OnlyPrivate | Self::NotPrivate => "kind",
            Self::OnlyDeclared => "declared",
            Self::TooLittleTrust { .. } => "trust",
            Self::NotShown { .. } => "memory",
            Self::ContextTooSmall { .. } => "context",
            Self::TooSlow { .. } => "distance",
            Self::TooExpensive { .. } => "price",
            Self::Unmet { .. } => "condition",
            Self::ImpossibleDistance { .. } => "location",
        }
    }
}

impl fmt::Display for Exclusion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FailedBefore => formatter.write_str("it failed this job already"),
            Self::Slashed(Slashed { fault, .. }) => {
                write!(formatter, "{fault}, and gets no jobs for a while (`aitbc reputation` says until when)")
            }
            Self::Offline { for_ms } => write!(formatter, "offline for {} s", for_ms / 1_000),
            Self::Resting { for_ms } => write!(
                formatter,
                "its last jobs failed: it is tried again in {} s (--provider asks it all the same)",
                for_ms.div_ceil(1_000)
            ),
            Self::OtherWeights => formatter.write_str("it serves other weights than asked for"),
            Self::OnlyPrivate => {
                formatter.write_str("it computes this model on encrypted values only (`aitbc private run`)")
            }
            Self::NotPrivate => formatter.write_str("it would have to read the input of this model"),
            Self::OnlyDeclared => formatter.write_str("it only forwards to another server (allow with declared)"),
            Self::TooLittleTrust { tier: Tier::Contraindicated, .. } => formatter.write_str(
                "its hardware or firmware is not what it should be (`aitbc attest show` says by whose word)",
            ),
            Self::TooLittleTrust { tier, least } => write!(
                formatter,
                "its attestation is {tier} to verifiers that count here, {least} is asked for: `aitbc attest run` verifies it, \
                 or name verifiers in `client.verifiers`"
            ),
            Self::NotShown { shown, least } => {
                write!(
                    formatter,
                    "it has shown {} MiB of GPU memory to verifiers that count here, {} are asked for: have it show more with \
                     `aitbc challenge`, or name verifiers in `client.verifiers`",
                    shown >> 20,
                    least >> 20
                )
            }
            Self::ContextTooSmall { needed, context } => {
                write!(formatter, "{needed} tokens do not fit its context of {context}")
            }
            Self::TooSlow { round_trip_ms, budget_ms } => {
                write!(formatter, "round trip of {round_trip_ms:.0} ms, the job allows {budget_ms:.0} ms")
            }
            Self::TooExpensive { price, ceiling } => {
                write!(formatter, "up to {price}, the ceiling is {ceiling}")
            }
            Self::Unmet { condition, found } => write!(formatter, "{condition} is asked for, and it has {found}"),
            Self::ImpossibleDistance { round_trip_ms, least_ms } => {
                write!(
                    formatter,
                    "answers in {round_trip_ms:.1} ms, light alone needs {least_ms:.1} ms from where it says it is"
                )
            }
        }
    }
}

/// Why a candidate is out, if it is; `least_ms` is what light needs to where it says it is and back.
pub(super) fn exclusion(
    candidate: &Candidate<'_>,
    policy: &Policy,
    reasons: &Reasons,
    least_ms: f64,
) -> Option<Exclusion> {
    let needed = policy.context_needed();
    if policy.exclude.contains(&candidate.provider) {
        return Some(Exclusion::FailedBefore);
    }
    if let Some(slashed) = candidate.quality.slashed {
        return Some(Exclusion::Slashed(slashed));
    }
    if let Some(for_ms) = candidate.offline_ms {
        return Some(Exclusion::Offline { for_ms });
    }
    if policy.weights.is_some_and(|weights| weights != candidate.offer.weights) {
        return Some(Exclusion::OtherWeights);
    }
    match (policy.work, &candidate.offer.private) {
        (Work::Ordinary, Some(_)) => return Some(Exclusion::OnlyPrivate),
        (Work::Private, None) => return Some(Exclusion::NotPrivate),
        _ => {}
    }
    if !policy.allow_declared && (candidate.offer.declared || candidate.offer.device.kind == DeviceKind::Upstream)
    {
        return Some(Exclusion::OnlyDeclared);
    }
    let least = policy.least_trust(candidate.offer.private.is_some());
    if candidate.tier.rank() < least.rank() {
        return Some(Exclusion::TooLittleTrust { tier: candidate.tier, least });
    }
    if candidate.shown_bytes < policy.least_shown {
        return Some(Exclusion::NotShown { shown: candidate.shown_bytes, least: policy.least_shown });
    }
    if candidate.offer.private.is_none() && needed > candidate.offer.context {
        return Some(Exclusion::ContextTooSmall { needed, context: candidate.offer.context });
    }
    if let Some(measured) = candidate.round_trip_ms
        && policy.physical
        && measured < least_ms * LIGHT_SLACK
    {
        return Some(Exclusion::ImpossibleDistance { round_trip_ms: measured, least_ms });
    }
    // What is only estimated rules nobody out: it may be far off.
    let certain_ms =
        if reasons.round_trip_by == RoundTripBy::Coordinates { least_ms } else { reasons.round_trip_ms };
    if certain_ms > policy.latency_budget_ms {
        return Some(Exclusion::TooSlow { round_trip_ms: certain_ms, budget_ms: policy.latency_budget_ms });
    }
    if let Some(ceiling) = policy.ceiling.filter(|ceiling| reasons.price > *ceiling) {
        return Some(Exclusion::TooExpensive { price: reasons.price, ceiling });
    }
    if let Some(Unmet { condition, found }) = policy.conditions.unmet(candidate, reasons) {
        return Some(Exclusion::Unmet { condition, found });
    }
    // Last, for it is the one that passes by itself.
    let for_ms = candidate.rests_ms.filter(|_| !policy.named)?;
    Some(Exclusion::Resting { for_ms })
}
