//! Service levels: what a quote promises of an answer's times, and what a provider gives back where it was not kept.
//!
//! Terms follow from the quote; the verdict from the terms and from the provider's own signed times. The client cannot make a
//! provider late by its word alone: it can only hold those times against when pieces came, and refuse a receipt that
//! contradicts them. So nobody judges times that he did not see.

use crate::{
    job::Finish,
    money::MicroCredits,
    price::{LatencyClass, ONE},
    quote::Quote,
    receipt::{OutputDigest, Receipt, Timings},
    terms::Terms,
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Tokens from which on an answer tells how fast its provider is.
pub const TELLING_TOKENS: u32 = 16;
/// The part of an offered speed that a quote promises: as many streams may share the device.
pub const PROMISED_PART: u32 = 4;
/// What a breach gives back at the least, in millionths of the price.
const LEAST_BACK: u64 = 500_000;
/// At how many times what is allowed all is given back.
const ALL_BACK_AT: u64 = 4;
/// What a provider gives back that stops a job and says so, and one that falls silent and comes back without the answer.
const STOPPED_BACK: u32 = 250_000;
const SILENT_BACK: u32 = 500_000;
/// How much later than the round trip a piece may come before the times contradict each other: a synced write on
/// either side, and what a loaded machine adds. In milliseconds.
const SLACK_MS: u64 = 1_000;

/// What was not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Breach {
    /// The first piece came late.
    FirstToken {
        /// After how many milliseconds, the round trip included where the price counts it.
        took_ms: u64,
        /// What the terms allow.
        allowed_ms: u64,
    },
    /// The client left before any piece had come, which was late by then.
    NoToken {
        /// How many milliseconds it had waited, as for [`Self::FirstToken`].
        waited_ms: u64,
        /// What the terms allow.
        allowed_ms: u64,
    },
    /// The rest of the answer took too long.
    Speed {
        /// How many milliseconds, without the client's own pauses.
        took_ms: u64,
        /// What the terms allow for as many tokens.
        allowed_ms: u64,
    },
    /// The provider stopped the job, and said so.
    Stopped,
    /// The provider lost the job without a word.
    Silent,
}

/// Whether the terms were kept, and what follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The worst of what was not kept; `None` where all was, or nothing is promised.
    pub breach: Option<Breach>,
    /// What the provider gives back.
    pub penalty: MicroCredits,
}

/// Times that cannot both be true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it says that the first piece left after {sent_ms} ms, which came after {came_ms} ms over a path of at most {round_trip_ms} ms"
)]
pub struct Contradiction {
    /// By the provider's word, since admission.
    pub sent_ms: u64,
    /// By the client's clock, since it opened the job.
    pub came_ms: u64,
    /// The longest round trip that the client measured of late.
    pub round_trip_ms: u64,
}

/// The share that comes back, in millionths: half as soon as more was taken than allowed, all of it at four times as much.
fn back(took_ms: u64, allowed_ms: u64) -> Option<u32> {
    let over = took_ms.checked_sub(allowed_ms).filter(|over| *over > 0)?;
    let range = u128::from(allowed_ms.max(1)) * u128::from(ALL_BACK_AT - 1);
    let rising = u128::from(u64::from(ONE) - LEAST_BACK) * u128::from(over) / range;
    u32::try_from(u128::from(LEAST_BACK) + rising).map_or(Some(ONE), |share| Some(share.min(ONE)))
}

/// Whether the first piece was late, where it went out `sent_ms` after admission: what comes back, after how many milliseconds it
/// came, and how many are allowed. A round trip that was priced counts as well, so that nobody is paid for being far; who prices
/// none where it counts keeps no bound, so that nobody is paid for leaving it out.
fn first_token(quote: &Quote, sent_ms: u64) -> Option<(u32, u64, u64)> {
    let allowed_ms = u64::from(quote.terms.penalty_from_ms);
    if allowed_ms == 0 {
        return None;
    }
    let inputs = quote.adjustment.inputs.as_ref().filter(|inputs| inputs.latency == LatencyClass::Realtime);
    let far_ms = inputs.map_or(0, |inputs| inputs.round_trip_ms.map_or(allowed_ms.saturating_add(1), u64::from));
    let took_ms = sent_ms.saturating_add(far_ms);
    Some((back(took_ms, allowed_ms)?, took_ms, allowed_ms))
}

/// Whether the first piece was late, by a receipt.
fn late(quote: &Quote, receipt: &Receipt) -> Option<(u32, Breach)> {
    let Timings { first_token_ms, total_ms, paused_ms, .. } = receipt.timings;
    if receipt.completion_tokens > 0 || first_token_ms > 0 {
        let (share, took_ms, allowed_ms) = first_token(quote, first_token_ms)?;
        return Some((share, Breach::FirstToken { took_ms, allowed_ms }));
    }
    // Who leaves before the first piece has waited all the time, unless that was lost with the provider's memory.
    if receipt.finish != Finish::Cancelled || receipt.output == OutputDigest::Lost {
        return None;
    }
    let (share, waited_ms, allowed_ms) = first_token(quote, total_ms.saturating_sub(paused_ms))?;
    Some((share, Breach::NoToken { waited_ms, allowed_ms }))
}

fn speed(quote: &Quote, timings: &Timings, tokens: u32) -> Option<(u32, Breach)> {
    let allowed_ms = quote.terms.completion_ms(tokens).filter(|_| tokens >= TELLING_TOKENS)?;
    let idle_ms = timings.first_token_ms.saturating_add(timings.paused_ms);
    let took_ms = timings.total_ms.saturating_sub(idle_ms);
    Some((back(took_ms, allowed_ms)?, Breach::Speed { took_ms, allowed_ms }))
}

/// Whether the times that the provider signed keep its terms, and what it gives back of `receipt.total` where they do not: the
/// share of the worst breach, rounded down. Pure, so that both sides come to one sum.
pub fn verdict(quote: &Quote, receipt: &Receipt) -> Verdict {
    if quote.terms == Terms::default() {
        return Verdict::default();
    }
    let ended = match (receipt.finish, receipt.output) {
        (Finish::Failed, OutputDigest::Lost) => Some((SILENT_BACK, Breach::Silent)),
        (Finish::Failed, _) => Some((STOPPED_BACK, Breach::Stopped)),
        _ => None,
    };
    // Without an end that was seen, nothing tells how long the answer took.
    let slow = match receipt.output {
        OutputDigest::Lost => None,
        _ => speed(quote, &receipt.timings, receipt.completion_tokens),
    };
    let worst = [ended, late(quote, receipt), slow].into_iter().flatten().max_by_key(|(share, _)| *share);
    worst.map_or_else(Verdict::default, |(share, breach)| {
        let back = u128::from(receipt.total.0) * u128::from(share) / u128::from(ONE);
        // Not above the total, because no share is above one.
        Verdict { breach: Some(breach), penalty: MicroCredits(u64::try_from(back).unwrap_or(receipt.total.0)) }
    })
}

/// Holds the provider's word on when the first piece left against when it came. Times contradict each other where they differ
/// by more than the round trip and a second, and where the difference decides whether money is given back: a path that
/// is slow for a moment ends no job that it costs nobody anything.
pub fn contradiction(quote: &Quote, sent_ms: u64, came_ms: u64, round_trip_ms: u64) -> Option<Contradiction> {
    let latest_ms = sent_ms.saturating_add(round_trip_ms).saturating_add(SLACK_MS);
    let matters = first_token(quote, sent_ms).is_none()
        && first_token(quote, came_ms.saturating_sub(round_trip_ms.saturating_add(SLACK_MS))).is_some();
    (came_ms > latest_ms && matters).then_some(Contradiction { sent_ms, came_ms, round_trip_ms })
}

impl fmt::Display for Breach {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FirstToken { took_ms, allowed_ms } => {
                write!(formatter, "first token after {took_ms} ms, {allowed_ms} ms allowed")
            }
            Self::NoToken { waited_ms, allowed_ms } => {
                write!(formatter, "no token in {waited_ms} ms, {allowed_ms} ms allowed for the first")
            }
            Self::Speed { took_ms, allowed_ms } => {
                write!(formatter, "{took_ms} ms for the answer, {allowed_ms} ms allowed")
            }
            Self::Stopped => formatter.write_str("the provider stopped the job"),
            Self::Silent => formatter.write_str("the provider lost the job without a word"),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.breach {
            None => formatter.write_str("kept"),
            Some(breach) => write!(formatter, "{breach}: {} back", self.penalty),
        }
    }
}
