//! The price of a job: a provider's base, the factors that the place and the hour put on it, and the floor under both.
//!
//! All in integers. A factor is a whole number of millionths (ppm); the inputs that it follows from stand beside it in the
//! quote, so that whoever holds a quote can make the sum again.

use crate::{UnixMillis, money::MicroCredits, text::bounded_vec};
use serde::{Deserialize, Serialize};
use std::{fmt, ops::RangeInclusive};

mod explain;

pub use explain::Explained;

/// A factor that changes nothing, and a whole share.
pub const ONE: u32 = 1_000_000;
/// What a cell's median can at most add to a provider's own utilisation, or take from it: a fifth, which moves a price by
/// eight points of a hundred.
pub const MOST_OF_CELL: u32 = 200_000;
/// Other providers of a cell that must be heard before their median counts.
pub const LEAST_HEARD: usize = 3;
/// The quickest offset of a clock from UTC that exists, and the slowest, in minutes.
const OFFSETS: RangeInclusive<i16> = -12 * 60..=14 * 60;
const DAY_MINUTES: i64 = 24 * 60;

/// A provider's base price.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenPrice {
    /// For a thousand prompt tokens, or values of a private job.
    pub prompt: MicroCredits,
    /// For a thousand tokens of the answer, or bootstraps.
    pub completion: MicroCredits,
}

/// A price that does not fit 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the price does not fit 64 bits")]
pub struct PriceOverflow;

/// How soon an answer is wished to begin. It sets the price, and what is promised for it ([`crate::terms::Terms`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LatencyClass {
    /// Under 100 ms.
    Realtime,
    /// Under 500 ms.
    Fast,
    /// Under 2,000 ms.
    #[default]
    Standard,
    /// Under 10,000 ms.
    Economy,
}

/// What has no such name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a latency class is realtime, fast, standard or economy")]
pub struct UnknownLatencyClass;

/// What a factor stands for. The order is the one in which factors apply and are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FactorKind {
    /// How soon the answer is wished.
    Latency,
    /// What the device can do.
    Capability,
    /// How near the two nodes are, where the answer is wished in real time.
    Distance,
    /// Jobs that wait at the provider.
    Queue,
    /// How busy it and its cell are.
    Utilisation,
    /// The hour of the day.
    Hour,
    /// How much of the model's context the job may fill.
    Complexity,
}

impl FactorKind {
    /// All, in the order in which they apply.
    pub const ALL: [Self; 7] = [
        Self::Latency,
        Self::Capability,
        Self::Distance,
        Self::Queue,
        Self::Utilisation,
        Self::Hour,
        Self::Complexity,
    ];
}

/// One factor of a price.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Factor {
    /// What it stands for.
    pub kind: FactorKind,
    /// In millionths.
    pub ppm: u32,
}

/// What the factors of a price follow from. Shares are in millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inputs {
    /// How soon the client wishes the answer.
    pub latency: LatencyClass,
    /// The score of the GPU that answers; `None` where it is not known, or another device answers.
    #[serde(default)]
    pub capability: Option<u32>,
    /// The round trip between the two nodes as the provider measured it; `None` where it has not.
    #[serde(default)]
    pub round_trip_ms: Option<u32>,
    /// Jobs that wait at the provider.
    pub queue: u32,
    /// Slots of the provider that jobs have taken.
    pub utilisation: u32,
    /// The median of the others in its cell, as the provider heard them; `None` where too few were.
    #[serde(default)]
    pub cell_utilisation: Option<u32>,
    /// Hour of the day, 0 to 23, by the clock below.
    pub hour: u8,
    /// How far that clock is ahead of UTC.
    pub utc_offset_minutes: i16,
    /// Tokens of context that the job needs at most; 0 for vectors and private jobs.
    pub context_used: u32,
    /// Tokens of context that the model has.
    pub context: u32,
}

/// How a quote's price differs from its base: what it follows from, what follows, and the floor.
///
/// The one without factors is that of quotes from before there were any: their price is their base.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adjustment {
    /// What the factors follow from.
    #[serde(default)]
    pub inputs: Option<Inputs>,
    /// The factors, each kind once, in the order of [`FactorKind::ALL`].
    #[serde(default, deserialize_with = "bounded_vec::<_, _, { FactorKind::ALL.len() }>")]
    pub factors: Vec<Factor>,
    /// What the electricity for a thousand tokens of the answer costs; 0 where it is not known.
    #[serde(default)]
    pub electricity: MicroCredits,
}

/// Why an adjustment is not one that the rule makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdjustmentFault {
    /// No inputs, or some that cannot be.
    #[error("the quote states inputs of its price that cannot be, or none")]
    Inputs,
    /// A factor that is not there.
    #[error("the quote lacks the factor {0:?}")]
    Missing(FactorKind),
    /// A factor that is there more than once.
    #[error("the quote has the factor {0:?} more than once")]
    Doubled(FactorKind),
    /// All factors, in another order.
    #[error("the quote's factors are in another order than they apply in")]
    Order,
    /// A factor that does not follow from what the quote states.
    #[error("the factor {:?} is {} ppm where {expected} ppm follow from the inputs stated", got.kind, got.ppm)]
    Factor {
        /// What follows.
        expected: u32,
        /// What the quote says.
        got: Factor,
    },
    /// A floor above the base of an answer: whoever pays as much for electricity asks for as much to begin with.
    #[error("the quote says that electricity costs more than the answer's base price")]
    Electricity,
}

/// Price of a job in micro-credits, or of as much of it as was delivered. The base in thousandths is multiplied by each
/// factor in turn, rounded down to whole thousandths after each; the result is at least half the base and at least what
/// the electricity for the answer costs; and is rounded up to a micro-credit once. It never falls as tokens grow.
pub fn price(
    base: &TokenPrice,
    adjustment: &Adjustment,
    prompt_tokens: u32,
    completion_tokens: u32,
) -> Result<MicroCredits, PriceOverflow> {
    let part = |tokens: u32, price: MicroCredits| u128::from(tokens) * u128::from(price.0);
    // Below 2^97.
    let amount = part(prompt_tokens, base.prompt) + part(completion_tokens, base.completion);
    let electricity = part(completion_tokens, adjustment.electricity);
    let with_factors = adjustment
        .factors
        .iter()
        .try_fold(amount, |amount, factor| Some(amount.checked_mul(u128::from(factor.ppm))? / u128::from(ONE)))
        .ok_or(PriceOverflow)?;
    let total = with_factors.max(amount.div_ceil(2)).max(electricity).div_ceil(1_000);
    u64::try_from(total).map(MicroCredits).map_err(|_| PriceOverflow)
}

impl LatencyClass {
    /// Its factor in millionths.
    pub const fn ppm(self) -> u32 {
        match self {
            Self::Realtime => 3_000_000,
            Self::Fast => 2_000_000,
            Self::Standard => ONE,
            Self::Economy => 700_000,
        }
    }

    /// Within how many milliseconds the answer is wished to begin.
    pub const fn bound_ms(self) -> u32 {
        match self {
            Self::Realtime => 100,
            Self::Fast => 500,
            Self::Standard => 2_000,
            Self::Economy => 10_000,
        }
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Realtime => "realtime",
            Self::Fast => "fast",
            Self::Standard => "standard",
            Self::Economy => "economy",
        }
    }
}

impl fmt::Display for LatencyClass {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

impl std::str::FromStr for LatencyClass {
    type Err = UnknownLatencyClass;

    fn from_str(name: &str) -> Result<Self, UnknownLatencyClass> {
        let all = [Self::Realtime, Self::Fast, Self::Standard, Self::Economy];
        all.into_iter().find(|class| class.name() == name).ok_or(UnknownLatencyClass)
    }
}

/// `part` of `whole` in millionths, at most all of it; of nothing all is taken.
pub fn share(part: u32, whole: u32) -> u32 {
    if part >= whole {
        return ONE;
    }
    // Below a million, because `part` is below `whole`.
    (u64::from(part) * u64::from(ONE) / u64::from(whole)) as u32
}

/// The hour of the day at `now_ms`, 0 to 23, by a clock that is so far ahead of UTC.
pub fn hour_of_day(now_ms: UnixMillis, utc_offset_minutes: i16) -> u8 {
    let minute = (now_ms / 60_000 % DAY_MINUTES.unsigned_abs()) as i64;
    let minute = (minute + i64::from(utc_offset_minutes)).rem_euclid(DAY_MINUTES);
    (minute / 60) as u8
}

/// The median of what others in a cell use of themselves, in millionths; the lower one of two in the middle. `None` where
/// fewer than [`LEAST_HEARD`] were heard.
pub fn median_utilisation(mut others: Vec<u32>) -> Option<u32> {
    if others.len() < LEAST_HEARD {
        return None;
    }
    others.sort_unstable();
    others.get((others.len() - 1) / 2).copied()
}

impl Inputs {
    /// How busy the place is, in millionths: the mean of the provider's own utilisation and its cell's median, but never
    /// further from its own than [`MOST_OF_CELL`], so that no gossip of strangers moves a price by more than that.
    pub fn place_utilisation(&self) -> u32 {
        let own = self.utilisation.min(ONE);
        let Some(cell) = self.cell_utilisation else { return own };
        let mean = own.midpoint(cell.min(ONE));
        mean.clamp(own.saturating_sub(MOST_OF_CELL), own + MOST_OF_CELL)
    }

    /// How much of the model's context the job may fill, in millionths; nothing where it needs none.
    pub fn context_share(&self) -> u32 {
        if self.context_used == 0 { 0 } else { share(self.context_used, self.context) }
    }

    /// The factor of one kind, in millionths.
    pub fn factor(&self, kind: FactorKind) -> u32 {
        match kind {
            FactorKind::Latency => self.latency.ppm(),
            // 1 + (score - 0.5) / 2
            FactorKind::Capability => self.capability.map_or(ONE, |score| 750_000 + score.min(ONE) / 2),
            FactorKind::Distance => match (self.latency, self.round_trip_ms) {
                (LatencyClass::Realtime, Some(..100)) => 800_000,
                (LatencyClass::Realtime, Some(201..)) => 1_500_000,
                _ => ONE,
            },
            // 1 + queue / 100 x 0.5
            FactorKind::Queue => ONE + self.queue.min(100) * 5_000,
            // 1 + (utilisation - 0.5) x 0.4
            FactorKind::Utilisation => 800_000 + self.place_utilisation() * 2 / 5,
            FactorKind::Hour => match self.hour {
                18..=23 => 1_200_000,
                2..=6 => 800_000,
                _ => ONE,
            },
            // 1 + context used / context x 0.25
            FactorKind::Complexity => ONE + self.context_share() / 4,
        }
    }

    /// Whether all of them can be at all.
    fn are_possible(&self) -> bool {
        let shares = [Some(self.utilisation), self.capability, self.cell_utilisation];
        shares.into_iter().flatten().all(|share| share <= ONE)
            && self.hour < 24
            && OFFSETS.contains(&self.utc_offset_minutes)
    }
}

impl Adjustment {
    /// The adjustment that follows from `inputs`, over a floor of so much electricity for a thousand tokens.
    pub fn of(inputs: Inputs, electricity: MicroCredits) -> Self {
        let factor = |kind| Factor { kind, ppm: inputs.factor(kind) };
        Self { inputs: Some(inputs), factors: FactorKind::ALL.map(factor).to_vec(), electricity }
    }

    /// What is known of an adjustment before there is a quote: the latency class.
    pub fn wished(latency: LatencyClass) -> Self {
        let factor = Factor { kind: FactorKind::Latency, ppm: latency.ppm() };
        Self { factors: vec![factor], ..Self::default() }
    }

    /// Judges whether it is one that [`Self::of`] makes, on a base that covers its electricity. Returns the inputs, which
    /// are judged against the request elsewhere.
    pub fn check(&self, base: &TokenPrice) -> Result<&Inputs, AdjustmentFault> {
        let inputs = self.inputs.as_ref().filter(|inputs| inputs.are_possible());
        let inputs = inputs.ok_or(AdjustmentFault::Inputs)?;
        for kind in FactorKind::ALL {
            match self.factors.iter().filter(|factor| factor.kind == kind).count() {
                0 => return Err(AdjustmentFault::Missing(kind)),
                1 => {}
                _ => return Err(AdjustmentFault::Doubled(kind)),
            }
        }
        for (kind, got) in FactorKind::ALL.into_iter().zip(&self.factors) {
            if got.kind != kind {
                return Err(AdjustmentFault::Order);
            }
            let expected = inputs.factor(kind);
            if got.ppm != expected {
                return Err(AdjustmentFault::Factor { expected, got: *got });
            }
        }
        if self.electricity > base.completion {
            return Err(AdjustmentFault::Electricity);
        }
        Ok(inputs)
    }
}
