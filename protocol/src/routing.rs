//! Ranking of candidates: pure, and it explains itself.

use crate::{
    attestation::Tier,
    bytes::Digest,
    geo::least_round_trip_ms,
    identity::NodeId,
    job::ModelName,
    money::MicroCredits,
    offer::{Load, ModelOffer},
    price::{Adjustment, LatencyClass, ONE, price},
    qos::Quality,
};
pub use exclusion::Exclusion;
use exclusion::exclusion;
use preference::Preference;
use query::Conditions;
use serde::{Deserialize, Serialize};
use std::fmt;

pub mod breaker;
pub mod calibration;
mod exclusion;
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
    /// Round trip in milliseconds by the coordinates of both ([`crate::coordinates`]), where both know theirs.
    pub estimated_ms: Option<f64>,
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

/// How a round trip is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoundTripBy {
    /// It was measured.
    Measured,
    /// By the coordinates of both, which may be off.
    Coordinates,
    /// It is the least that the distance allows.
    Distance,
}

impl fmt::Display for RoundTripBy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Measured => "measured",
            Self::Coordinates => "by coordinates",
            Self::Distance => "least for the distance",
        })
    }
}

/// The parts of a candidate's score: estimated milliseconds until the answer is whole, and what weighs on them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reasons {
    /// Round trip that counts, in milliseconds.
    pub round_trip_ms: f64,
    /// How it is known.
    pub round_trip_by: RoundTripBy,
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
            self.round_trip_by,
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

/// The round trip that counts. Where distances are only pretended, the pretended distance still counts.
fn round_trip(candidate: &Candidate<'_>, least_ms: f64) -> (f64, RoundTripBy) {
    let (known, by) = match candidate.round_trip_ms {
        Some(measured) => (Some(measured), RoundTripBy::Measured),
        None => (candidate.estimated_ms.filter(|ms| ms.is_finite()), RoundTripBy::Coordinates),
    };
    known.filter(|ms| *ms >= least_ms).map_or((least_ms, RoundTripBy::Distance), |ms| (ms, by))
}

fn judge(index: usize, candidate: &Candidate<'_>, policy: &Policy, wished: &Adjustment) -> Ranked {
    let least_ms = least_round_trip_ms(candidate.distance_km);
    let (round_trip_ms, round_trip_by) = round_trip(candidate, least_ms);
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
        round_trip_by,
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

#[cfg(test)]
mod tests;
