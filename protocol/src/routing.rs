//! Ranking of candidates: pure, and it explains itself.

use crate::{
    attestation::Tier,
    bytes::Digest,
    evidence::Slashed,
    geo::least_round_trip_ms,
    identity::NodeId,
    job::ModelName,
    money::MicroCredits,
    offer::{DeviceKind, Load, ModelOffer},
    price::{Adjustment, LatencyClass, ONE, price},
    qos::Quality,
};
use preference::Preference;
use query::{Conditions, Unmet};
use serde::{Deserialize, Serialize};
use std::fmt;

pub mod breaker;
pub mod calibration;
pub mod fallback;
pub mod hedging;
pub mod preference;
pub mod query;
pub mod regions;

/// A provider that might run the job, as the client knows it at this moment.
#[derive(Clone, Debug)]
pub struct Candidate<'a> {
    /// Who.
    pub provider: NodeId,
    /// Its offer of the model asked for.
    pub offer: &'a ModelOffer,
    /// Jobs it runs at a time.
    pub slots: u32,
    /// How busy it says it is.
    pub load: Load,
    /// What it has shown of its hardware to this client, or to a verifier whom the user names.
    pub tier: Tier,
    /// Least distance in km between the client and the cell it announces.
    pub distance_km: f64,
    /// Measured round trip in milliseconds, if there is a connection.
    pub round_trip_ms: Option<f64>,
    /// For how many milliseconds it has not been found since its last connection broke; nothing while it is not missed.
    pub offline_ms: Option<u64>,
    /// Share of this client's own recent jobs with it that failed, 0 to 1; 0 for a stranger.
    pub failures: f64,
    /// How fast it decoded the model in this client's own recent jobs, in milli-tokens a second, where there were enough.
    pub speed_seen: Option<u32>,
    /// How fast it read prompts for the model in this client's own recent jobs, in milli-tokens a second, where one was long
    /// enough to tell.
    pub prefill_seen: Option<u32>,
    /// For how many milliseconds it rests after failures in a row ([`breaker`]); nothing while it does not.
    pub rests_ms: Option<u64>,
    /// By what share its answers came later than predicted ([`calibration`]); 0 for a stranger.
    pub lateness: f64,
    /// Memory of its GPUs, in bytes, that it has shown to this client or to a verifier whom the user names.
    pub shown_bytes: u64,
    /// What its last day is worth to this client.
    pub quality: Quality,
}

/// What kind of work is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Work {
    /// Whatever there is: nobody asks for an answer yet.
    Any,
    /// An answer to what the provider can read.
    #[default]
    Ordinary,
    /// One to what it cannot. How many bootstraps that takes is the model's, not the client's.
    Private,
}

/// What the job and the user ask of a provider.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The model.
    pub model: ModelName,
    /// What decides among those that can do it.
    pub preference: Preference,
    /// The weights, where the client insists.
    pub weights: Option<Digest>,
    /// What kind of work it is.
    pub work: Work,
    /// Tokens of the prompt, estimated; the values of a private job.
    pub prompt_tokens: u32,
    /// Tokens of the answer, at most.
    pub completion_tokens: u32,
    /// The largest acceptable round trip in milliseconds.
    pub latency_budget_ms: f64,
    /// How soon the answer is wished, which sets the price.
    pub latency: LatencyClass,
    /// The most the user pays.
    pub ceiling: Option<MicroCredits>,
    /// Whether answers that only a forwarding server vouches for will do.
    pub allow_declared: bool,
    /// The least that it must have shown of its hardware.
    pub min_trust: Tier,
    /// Memory of GPUs, in bytes, that must have been shown.
    pub least_shown: u64,
    /// False on a network of demos and tests, where a round trip below the speed of light is no contradiction.
    pub physical: bool,
    /// What else is asked of providers.
    pub conditions: Conditions,
    /// Whether the user names the provider: it is asked although it rests.
    pub named: bool,
    /// Providers that already failed this job.
    pub exclude: Vec<NodeId>,
}

impl Policy {
    /// The least that a provider must have shown of its hardware: what the user says, and for a private preference at
    /// least that it was affirmed, unless the provider cannot read what it computes on.
    pub fn least_trust(&self, encrypted: bool) -> Tier {
        let affirmed = self.preference == Preference::Private && !encrypted;
        if affirmed && self.min_trust.rank() < Tier::Affirming.rank() { Tier::Affirming } else { self.min_trust }
    }

    /// Tokens of context that the job needs, as [`crate::job::JobSpec::context_needed`] counts them: without an answer
    /// in tokens, these are vectors, and their inputs each have the context for themselves.
    fn context_needed(&self) -> u32 {
        if self.completion_tokens == 0 { 0 } else { self.prompt_tokens.saturating_add(self.completion_tokens) }
    }
}

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

/// The parts of a candidate's score: estimated milliseconds until the answer is whole, and what weighs on them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reasons {
    /// Round trip that counts, in milliseconds.
    pub round_trip_ms: f64,
    /// Whether it was measured, or is the least that the distance allows.
    pub measured: bool,
    /// Distance in km.
    pub distance_km: f64,
    /// Estimated wait for a slot, in milliseconds.
    pub queue_ms: f64,
    /// Estimated time to read the prompt, in milliseconds.
    #[serde(default)]
    pub prefill_ms: f64,
    /// Estimated time to generate, in milliseconds.
    pub generate_ms: f64,
    /// The most the job can cost there.
    pub price: MicroCredits,
    /// Share of own jobs with it that failed.
    pub failures: f64,
    /// By what share answers of late came later than predicted.
    #[serde(default)]
    pub lateness: f64,
    /// Whether the speed is that of own jobs with it, or its word.
    #[serde(default)]
    pub speed_seen: bool,
    /// What its last day is worth to this client.
    #[serde(default)]
    pub quality: Quality,
}

impl Reasons {
    /// Estimated milliseconds until the first token, quote included.
    pub fn first_token_ms(&self) -> f64 {
        ROUND_TRIPS * self.round_trip_ms + self.queue_ms + self.prefill_ms
    }

    /// Estimated milliseconds until the answer is whole, longer by what failures of late and answers later than predicted
    /// make of it.
    pub fn time_ms(&self) -> f64 {
        (self.first_token_ms() + self.generate_ms) * (1.0 + 4.0 * self.failures) * (1.0 + self.lateness)
    }
}

impl fmt::Display for Reasons {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "round trip {:.1} ms ({}), {:.0} km, queue {:.0} ms, reads the prompt in {:.0} ms, generates in {:.0} ms ({}), at most {}",
            self.round_trip_ms,
            if self.measured { "measured" } else { "least for the distance" },
            self.distance_km,
            self.queue_ms,
            self.prefill_ms,
            self.generate_ms,
            if self.speed_seen { "seen" } else { "by its word" },
            self.price
        )?;
        if self.failures > 0.0 {
            write!(formatter, ", {:.0} % of own jobs failed there", self.failures * 100.0)?;
        }
        if self.lateness >= 0.005 {
            write!(formatter, ", {:.0} % later than predicted", self.lateness * 100.0)?;
        }
        if let Some(score) = self.quality.score {
            write!(formatter, ", {} with {:.1} %", self.quality.tier, f64::from(score) / 10_000.0)?;
        }
        Ok(())
    }
}

/// Where a candidate stands and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ranked {
    /// Index into the candidates given.
    pub index: usize,
    /// Cost in milliseconds-equivalents: lower is better; infinite where excluded.
    pub cost: f64,
    /// The parts.
    pub reasons: Reasons,
    /// Why it is out, if it is.
    pub excluded: Option<Exclusion>,
}

/// Decoding speed assumed of a provider that has not measured its own, in milli-tokens a second.
const ASSUMED_SPEED: u32 = 10_000;
/// How many times as fast as it decodes a provider is taken to read a prompt, where this client saw no long one there:
/// a prompt's tokens are computed together, and decoding waits for memory at every token.
const ASSUMED_PREFILL: f64 = 10.0;
/// Estimated tokens of an answer where the limit is higher: most answers end before the limit.
pub const USUAL_ANSWER: u32 = 256;
/// Round trips that a job costs before its first token: connection aside, quote and opening.
const ROUND_TRIPS: f64 = 2.0;

/// Ranks candidates, best first, the excluded ones last with their reason.
///
/// The cost of a candidate is the time until the answer is whole plus its price in time:
/// `(2 rtt + queue + prefill + generate) * (1 + 4 failures) * (1 + lateness) * (1.25 - score / 2) + price * w + distance * d`, where
/// the weights `w` and `d` are those of the [`Preference`], and whoever is unrated counts as one with a score of one half; reading the prompt and generating go by the speeds that this client saw there, and by the
/// provider's word only where it saw none; declared answers and CPUs get no
/// bonus or malus of their own, for speed shows in `generate`. The price is that of the offer for the latency class; what
/// else a quote puts on it is known once there is one. Ties are broken by distance and then by the
/// provider's id, so that the order of the candidates given decides nothing.
pub fn rank(candidates: &[Candidate<'_>], policy: &Policy) -> Vec<Ranked> {
    rank_best(candidates, policy, usize::MAX)
}

/// The first `most` of that ranking: of a hundred thousand candidates, nobody reads more than the best.
pub fn rank_best(candidates: &[Candidate<'_>], policy: &Policy, most: usize) -> Vec<Ranked> {
    let wished = Adjustment::wished(policy.latency);
    let judged = |index: usize| judge(index, &candidates[index], policy, &wished);
    // What is sorted is small, and judged again once it is known who is wanted: writing all of it down takes longer.
    let key = |index| {
        let Ranked { cost, reasons, .. } = judged(index);
        (cost, reasons.distance_km, index)
    };
    let mut order: Vec<(f64, f64, usize)> = (0..candidates.len()).map(key).collect();
    // The excluded have an infinite cost, so they come last by their cost alone.
    let by_cost = |one: &(f64, f64, usize), other: &(f64, f64, usize)| {
        one.0
            .total_cmp(&other.0)
            .then_with(|| one.1.total_cmp(&other.1))
            .then_with(|| candidates[one.2].provider.cmp(&candidates[other.2].provider))
            .then_with(|| one.2.cmp(&other.2))
    };
    if most < order.len() {
        order.select_nth_unstable_by(most, by_cost);
        order.truncate(most);
    }
    order.sort_unstable_by(by_cost);
    order.into_iter().map(|(.., index)| judged(index)).collect()
}

impl Ranked {
    /// The cost once the price is known: by a quote instead of by the offer.
    pub fn cost_at(&self, quoted: MicroCredits, preference: Preference) -> f64 {
        self.cost - price_in_ms(self.reasons.price, preference) + price_in_ms(quoted, preference)
    }
}

fn price_in_ms(price: MicroCredits, preference: Preference) -> f64 {
    price.0 as f64 / 1_000_000.0 * preference.ms_per_credit()
}

/// A share as a number between 0 and 1, whatever the caller passed.
fn share(value: f64) -> f64 {
    if value.is_nan() { 0.0 } else { value.clamp(0.0, 1.0) }
}

/// By how much longer or shorter than it seems the time is reckoned, for what a provider's last day was like: three quarters of it
/// for the best, five quarters for the worst. A stranger is neither good nor bad.
fn promise(quality: Quality) -> f64 {
    let score = quality.score.map_or(0.5, |score| f64::from(score) / f64::from(ONE));
    1.25 - share(score) / 2.0
}

fn judge(index: usize, candidate: &Candidate<'_>, policy: &Policy, wished: &Adjustment) -> Ranked {
    let least_ms = least_round_trip_ms(candidate.distance_km);
    // Where distances are only pretended, the pretended distance still counts.
    let round_trip_ms = candidate.round_trip_ms.map_or(least_ms, |measured| measured.max(least_ms));
    let private = candidate.offer.private.as_ref().filter(|_| policy.work != Work::Ordinary);
    let completion_tokens = private.map_or(policy.completion_tokens, |private| private.bootstraps);
    // Every bootstrap of a model is computed, while most answers end before their limit.
    let answer = if private.is_some() { completion_tokens } else { completion_tokens.min(USUAL_ANSWER) };
    let known = |speed: &u32| *speed > 0;
    let seen = candidate.speed_seen.filter(known);
    let speed = seen.or(Some(candidate.offer.speed).filter(known)).unwrap_or(ASSUMED_SPEED);
    let generate_ms = f64::from(answer) * 1_000_000.0 / f64::from(speed);
    let read = candidate.prefill_seen.filter(known).map_or(f64::from(speed) * ASSUMED_PREFILL, f64::from);
    // The values of a private job are no prompt.
    let prefill_ms = if private.is_some() { 0.0 } else { f64::from(policy.prompt_tokens) * 1_000_000.0 / read };
    let busy = candidate.load.running.saturating_add(candidate.load.queued);
    let waiting = busy.saturating_add(1).saturating_sub(candidate.slots.max(1));
    let queue_ms = (prefill_ms + generate_ms) * f64::from(waiting) / f64::from(candidate.slots.max(1));
    let most = price(&candidate.offer.price, wished, policy.prompt_tokens, completion_tokens)
        .unwrap_or(MicroCredits(u64::MAX));
    let reasons = Reasons {
        round_trip_ms,
        measured: candidate.round_trip_ms.is_some_and(|measured| measured >= least_ms),
        distance_km: candidate.distance_km,
        queue_ms,
        prefill_ms,
        generate_ms,
        price: most,
        failures: share(candidate.failures),
        lateness: if candidate.lateness.is_nan() { 0.0 } else { candidate.lateness.clamp(0.0, 15.0) },
        speed_seen: seen.is_some(),
        quality: candidate.quality,
    };
    let excluded = exclusion(candidate, policy, &reasons, least_ms);
    let cost = if excluded.is_some() {
        f64::INFINITY
    } else {
        let distance_ms = candidate.distance_km * policy.preference.ms_per_km();
        reasons.time_ms() * promise(candidate.quality) + price_in_ms(most, policy.preference) + distance_ms
    };
    Ranked { index, cost, reasons, excluded }
}

fn exclusion(candidate: &Candidate<'_>, policy: &Policy, reasons: &Reasons, least_ms: f64) -> Option<Exclusion> {
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
    // A tenth of slack for clocks and for what the cell's own size leaves open.
    if let Some(measured) = candidate.round_trip_ms
        && policy.physical
        && measured < least_ms * 0.9
    {
        return Some(Exclusion::ImpossibleDistance { round_trip_ms: measured, least_ms });
    }
    if reasons.round_trip_ms > policy.latency_budget_ms {
        return Some(Exclusion::TooSlow {
            round_trip_ms: reasons.round_trip_ms,
            budget_ms: policy.latency_budget_ms,
        });
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

#[cfg(test)]
mod tests;
