//! From voices to five parts, a score and a tier.

use super::{ONE, weight::UNIT};
use crate::evidence::Slashed;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Jobs that a rating needs, counted in jobs of mine: below, a provider is unrated.
pub const LEAST_JOBS: u64 = 3;
/// Share of the weights of [`Component::ppm`] whose parts must be known: below, a provider is unrated.
pub const LEAST_PARTS: u32 = 500_000;

/// From how late a first token what share of the latency is left, in milliseconds and millionths. The bounds are those of
/// the latency classes ([`crate::price::LatencyClass::bound_ms`]); between two the share falls in a straight line.
const LATENCY: [(u32, u32); 4] = [(100, ONE), (500, 800_000), (2_000, 500_000), (10_000, 0)];

/// One part of a score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Component {
    /// How soon answers began: [`latency`].
    Latency,
    /// The share of verifications that held.
    Accuracy,
    /// The share of the time in which its heartbeats were heard.
    Uptime,
    /// Tokens a joule beside other providers of the model: [`power_efficiency`].
    PowerEfficiency,
    /// Its price beside that of other providers of the model: [`cost_efficiency`].
    CostEfficiency,
}

impl Component {
    /// All, as they are listed.
    pub const ALL: [Self; 5] =
        [Self::Latency, Self::Accuracy, Self::Uptime, Self::PowerEfficiency, Self::CostEfficiency];

    /// What it weighs in the score, in millionths of all.
    pub const fn ppm(self) -> u32 {
        match self {
            Self::Latency => 300_000,
            Self::Accuracy => 250_000,
            Self::Uptime => 200_000,
            Self::PowerEfficiency => 150_000,
            Self::CostEfficiency => 100_000,
        }
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Accuracy => "accuracy",
            Self::Uptime => "uptime",
            Self::PowerEfficiency => "power efficiency",
            Self::CostEfficiency => "cost efficiency",
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// What a score is called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Too little is known. It is below all others: nobody is good for want of data.
    #[default]
    Unrated,
    /// Below half.
    Bronze,
    /// From half on.
    Silver,
    /// From three quarters on.
    Gold,
    /// From nine tenths on.
    Platinum,
}

impl Tier {
    /// All, the worst first.
    pub const ALL: [Self; 5] = [Self::Unrated, Self::Bronze, Self::Silver, Self::Gold, Self::Platinum];

    /// The tier of a score in millionths.
    pub const fn of(score: u32) -> Self {
        match score {
            900_000.. => Self::Platinum,
            750_000.. => Self::Gold,
            500_000.. => Self::Silver,
            _ => Self::Bronze,
        }
    }

    /// The least score that is called so, in millionths; `None` where there is no score.
    pub const fn least(self) -> Option<u32> {
        match self {
            Self::Unrated => None,
            Self::Bronze => Some(0),
            Self::Silver => Some(500_000),
            Self::Gold => Some(750_000),
            Self::Platinum => Some(900_000),
        }
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unrated => "unrated",
            Self::Bronze => "bronze",
            Self::Silver => "silver",
            Self::Gold => "gold",
            Self::Platinum => "platinum",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// What one author tells of one provider. Shares in millionths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Testimony {
    /// Jobs told of.
    pub jobs: u32,
    /// What they cost, in micro-credits.
    pub paid: u64,
    /// The median of their [`latency`].
    pub latency: Option<u32>,
    /// The share of its verifications that held.
    pub accuracy: Option<u32>,
    /// The share of slots in which it heard the provider.
    pub uptime: Option<u32>,
}

/// A testimony with what it weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Voice {
    /// In thousandths of a micro-credit ([`UNIT`]).
    pub weight: u64,
    /// What is told.
    pub testimony: Testimony,
}

/// One part, as it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Which.
    pub component: Component,
    /// What it weighs among the parts that are known, in millionths; 0 where it is not known.
    pub ppm: u32,
    /// Its value in millionths; `None` where nothing is known.
    pub value: Option<u32>,
    /// Authors who speak of it; 0 of parts that follow from offers.
    pub voices: u32,
}

/// Why there is no score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case", tag = "why")]
pub enum Unrated {
    /// Too few jobs.
    #[error(
        "{have} of {least} jobs are known: those of this node count each, those of others by what it has settled with them, and those of all strangers together as one"
    )]
    Jobs {
        /// So many count.
        have: u64,
        /// So many are needed.
        least: u64,
    },
    /// Too few parts.
    #[error("parts that weigh {have} % of a score are known, {least} % are needed")]
    Parts {
        /// In per cent.
        have: u32,
        /// In per cent.
        least: u32,
    },
}

/// What a provider is worth by its last day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rating {
    /// All parts, in the order of [`Component::ALL`].
    pub parts: Vec<Part>,
    /// In millionths; `None` where it is not rated.
    pub score: Option<u32>,
    /// What that is called.
    pub tier: Tier,
    /// Why there is no score.
    pub unrated: Option<Unrated>,
    /// Jobs that count, in jobs of mine.
    pub jobs: u64,
}

impl Rating {
    /// The same where only so much of the score is left, in millionths.
    #[must_use]
    pub fn reduced(self, left: u32) -> Self {
        // At most the score itself.
        let score = self.score.map(|score| (u64::from(score) * u64::from(left.min(ONE)) / u64::from(ONE)) as u32);
        Self { score, tier: score.map_or(Tier::Unrated, Tier::of), ..self }
    }
}

/// What a rating says to a ranking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quality {
    /// In millionths; `None` where it is not rated.
    pub score: Option<u32>,
    /// Its tier.
    pub tier: Tier,
    /// Set while a fault of it costs it jobs here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slashed: Option<Slashed>,
}

/// The share of the latency that a first token after so many milliseconds leaves, in millionths. 100 ms and less are all of
/// it, 500 ms 80 %, 2,000 ms 50 %, 10,000 ms and more nothing; between two the share falls in a straight line.
pub fn latency(ms: u32) -> u32 {
    if ms <= LATENCY[0].0 {
        return ONE;
    }
    let between = LATENCY.windows(2).find(|pair| ms <= pair[1].0);
    between.map_or(0, |pair| {
        let ((from_ms, from), (to_ms, to)) = (pair[0], pair[1]);
        let fallen = u64::from(from - to) * u64::from(ms - from_ms) / u64::from(to_ms - from_ms);
        // At most `from - to`.
        from - fallen as u32
    })
}

/// A price beside those of other providers of the same weights, in millionths: the lower median of theirs over twice its own, at
/// most all. So the median price is worth half, and half of it all. `None` where fewer than three others offer them.
pub fn cost_efficiency(own: u64, others: &[u64]) -> Option<u32> {
    let median = lower_median(others)?;
    Some(half_of_ratio(median, own))
}

/// Tokens a joule beside those of other providers of the same weights, in millionths: its own over twice the lower median
/// of theirs, at most all; half of that where nobody has verified that it has the hardware that it names. In any one unit, such
/// as milli-tokens a joule. `None` where fewer than three others tell.
pub fn power_efficiency(own: u64, others: &[u64], verified: bool) -> Option<u32> {
    let median = lower_median(others)?;
    let value = half_of_ratio(own, median);
    Some(if verified { value } else { value / 2 })
}

/// Others of whom there must be a price or a rate before one is compared with them.
const LEAST_OTHERS: usize = crate::price::LEAST_HEARD;

fn lower_median(values: &[u64]) -> Option<u64> {
    let mut values = values.to_vec();
    values.sort_unstable();
    values.get(values.len().checked_sub(1)? / 2).copied().filter(|_| values.len() >= LEAST_OTHERS)
}

/// `over / (2 under)` in millionths, at most all; all where `under` is nothing.
fn half_of_ratio(over: u64, under: u64) -> u32 {
    let share = (u128::from(over) * u128::from(ONE)).checked_div(2 * u128::from(under));
    // At most a million, which fits.
    share.map_or(ONE, |share| share.min(u128::from(ONE)) as u32)
}

/// The lower weighted median: the least value that, with all values below it, holds at least half of all weight. Values of no
/// weight count for nothing.
fn weighted_median(mut values: Vec<(u32, u64)>) -> Option<u32> {
    values.retain(|(_, weight)| *weight > 0);
    values.sort_unstable();
    let all: u128 = values.iter().map(|(_, weight)| u128::from(*weight)).sum();
    let mut below = 0;
    values.into_iter().find_map(|(value, weight)| {
        below += u128::from(weight);
        (2 * below >= all).then_some(value)
    })
}

/// One part out of what voices say of it; silent ones are those without a value. Voices that speak must weigh at least half of all.
fn part(component: Component, voices: &[Voice], told: impl Fn(&Testimony) -> Option<u32>) -> Part {
    let speaking: Vec<(u32, u64)> = voices
        .iter()
        .filter_map(|voice| Some((told(&voice.testimony)?.min(ONE), voice.weight)))
        .filter(|(_, weight)| *weight > 0)
        .collect();
    let sum = |weights: &mut dyn Iterator<Item = u64>| weights.map(u128::from).sum::<u128>();
    let all = sum(&mut voices.iter().map(|voice| voice.weight));
    let spoken = sum(&mut speaking.iter().map(|(_, weight)| *weight));
    let count = u32::try_from(speaking.len()).unwrap_or(u32::MAX);
    let value = if 2 * spoken >= all { weighted_median(speaking) } else { None };
    Part { component, ppm: 0, value, voices: count }
}

/// Rates a provider.
///
/// `own` is what this node saw itself and weighs what it paid for that; `others` are weighed by [`super::weights`]. `job` is
/// what a job of this node costs in micro-credits. `power` and `cost` follow from offers.
///
/// Latency, accuracy and uptime are each the lower weighted median of what the authors say, where those who say something
/// carry at least half of all weight. The score is the mean of the known parts by the weights of [`Component::ppm`]: what is not
/// known is left out, and its weight goes to the others in proportion. There is no score where fewer than [`LEAST_JOBS`] jobs
/// count, or where the known parts weigh less than [`LEAST_PARTS`].
///
/// **The bound.** Where honest authors speak of a part and liars weigh less than they do, the part lies between the least and the
/// greatest of what the honest ones say; so liars move a score by at most the mean, by the weights of the parts, of the widths of
/// those ranges, whatever they say. Power and cost are no author's word.
pub fn rate(own: Option<Testimony>, others: &[Voice], job: u64, power: Option<u32>, cost: Option<u32>) -> Rating {
    let mut voices = others.to_vec();
    let mut jobs = u64::from(own.map_or(0, |own| own.jobs));
    if let Some(own) = own {
        voices.push(Voice { weight: own.paid.max(1).saturating_mul(UNIT), testimony: own });
    }
    let foreign: u128 = others.iter().map(|voice| u128::from(voice.weight)).sum();
    let counted = (foreign / u128::from(UNIT)).checked_div(u128::from(job.max(1))).unwrap_or_default();
    // Nobody counts for more jobs than it tells of.
    let told: u128 = others.iter().map(|voice| u128::from(voice.testimony.jobs)).sum();
    jobs = jobs.saturating_add(u64::try_from(counted.min(told)).unwrap_or(u64::MAX));
    let mut parts = vec![
        part(Component::Latency, &voices, |told| told.latency),
        part(Component::Accuracy, &voices, |told| told.accuracy),
        part(Component::Uptime, &voices, |told| told.uptime),
        Part { component: Component::PowerEfficiency, ppm: 0, value: power, voices: 0 },
        Part { component: Component::CostEfficiency, ppm: 0, value: cost, voices: 0 },
    ];
    let known: u32 = parts.iter().filter(|part| part.value.is_some()).map(|part| part.component.ppm()).sum();
    for part in parts.iter_mut().filter(|part| part.value.is_some()) {
        // At most a million, for `known` is no less than the part's own weight.
        part.ppm = (u64::from(part.component.ppm()) * u64::from(ONE) / u64::from(known)) as u32;
    }
    let unrated = if jobs < LEAST_JOBS {
        Some(Unrated::Jobs { have: jobs, least: LEAST_JOBS })
    } else if known < LEAST_PARTS {
        Some(Unrated::Parts { have: known / 10_000, least: LEAST_PARTS / 10_000 })
    } else {
        None
    };
    let sum: u64 = parts
        .iter()
        .filter_map(|part| Some(u64::from(part.value?.min(ONE)) * u64::from(part.component.ppm())))
        .sum();
    // At most a million: a mean of values that are no more.
    let score = sum.checked_div(u64::from(known)).map(|score| score as u32).filter(|_| unrated.is_none());
    Rating { parts, score, tier: score.map_or(Tier::Unrated, Tier::of), unrated, jobs }
}
