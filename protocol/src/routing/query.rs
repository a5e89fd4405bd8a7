//! Conditions on providers: `vram>=16 price<0.4 trust>=affirming`.
//!
//! Conditions are separated by spaces and all must hold. Each is a field, an operator and a value. A figure that is not known
//! meets no condition but `!=`.

use super::{Candidate, Reasons};
use crate::{
    attestation::Tier,
    conditions::{MAX_CONDITIONS, Operator, split},
    offer::DeviceKind,
    qos,
};
use std::{cmp::Ordering, fmt, str::FromStr};

/// Every field, for errors and help.
pub const FIELDS: &str = "vram (GiB of the device, by its word), shown (GiB of it that were shown), price (credits for a \
million tokens of the answer), trust (none, warning, affirming), tier (unrated, bronze, silver, gold, platinum), rtt (ms), distance (km), speed (tokens a second), context \
(tokens), free (slots), failures (percent of own jobs), device (part of its name), kind (gpu, cpu, other), model (part of \
its name), declared (yes, no), private (yes, no)";

/// Longest condition in bytes.
const MAX_BYTES: usize = 64;
const GIB: f64 = 1_073_741_824.0;

/// Why conditions cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// No operator.
    #[error("{0:?} is no condition: write a field, one of = != >= <= > <, and a value, such as vram>=16")]
    NoOperator(String),
    /// No such field.
    #[error("condition {condition:?}: there is no field {field:?}, use {FIELDS}")]
    Field {
        /// All of it.
        condition: String,
        /// The field.
        field: String,
    },
    /// Another kind of value is needed.
    #[error("condition {condition:?}: {expected} is needed after the operator")]
    Value {
        /// All of it.
        condition: String,
        /// What would do.
        expected: &'static str,
    },
    /// Words are equal or not.
    #[error("condition {0:?}: compare it with = or !=")]
    Order(String),
    /// Too long.
    #[error("a condition has more than {MAX_BYTES} bytes")]
    TooLong,
    /// Too many.
    #[error("more than {MAX_CONDITIONS} conditions")]
    TooMany,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Figure {
    Vram,
    Shown,
    Price,
    RoundTrip,
    Distance,
    Speed,
    Context,
    Free,
    Failures,
}

const FIGURES: [(&str, Figure); 9] = [
    ("vram", Figure::Vram),
    ("shown", Figure::Shown),
    ("price", Figure::Price),
    ("rtt", Figure::RoundTrip),
    ("distance", Figure::Distance),
    ("speed", Figure::Speed),
    ("context", Figure::Context),
    ("free", Figure::Free),
    ("failures", Figure::Failures),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Device,
    Kind,
    Model,
    Declared,
    Private,
}

const WORDS: [(&str, Word); 5] = [
    ("device", Word::Device),
    ("kind", Word::Kind),
    ("model", Word::Model),
    ("declared", Word::Declared),
    ("private", Word::Private),
];

#[derive(Clone, Debug, PartialEq)]
enum Test {
    Figure(Figure, Operator, f64),
    Trust(Operator, Tier),
    Quality(Operator, qos::Tier),
    Word(Word, bool, String),
}

/// A condition that is not met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmet {
    /// The condition, as it was written.
    pub condition: String,
    /// What there is instead.
    pub found: String,
}

/// What is asked of providers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conditions(Vec<(String, Test)>);

impl FromStr for Conditions {
    type Err = QueryError;

    fn from_str(text: &str) -> Result<Self, QueryError> {
        let words = text.split_whitespace().take(MAX_CONDITIONS + 1);
        let tests =
            words.map(|word| Ok((word.to_owned(), test(word)?))).collect::<Result<Vec<_>, QueryError>>()?;
        if tests.len() > MAX_CONDITIONS { Err(QueryError::TooMany) } else { Ok(Self(tests)) }
    }
}

fn test(text: &str) -> Result<Test, QueryError> {
    if text.len() > MAX_BYTES {
        return Err(QueryError::TooLong);
    }
    let condition = || text.to_owned();
    let lower = text.to_lowercase();
    let (field, operator, value) = split(&lower).ok_or_else(|| QueryError::NoOperator(condition()))?;
    let needed = |expected| Err(QueryError::Value { condition: condition(), expected });
    if field == "trust" {
        return match value.parse::<Tier>() {
            Ok(tier) => Ok(Test::Trust(operator, tier)),
            Err(_) => needed("none, warning, affirming or contraindicated"),
        };
    }
    if field == "tier" {
        return match qos::Tier::ALL.into_iter().find(|tier| tier.name() == value) {
            Some(tier) => Ok(Test::Quality(operator, tier)),
            None => needed("unrated, bronze, silver, gold or platinum"),
        };
    }
    if let Some((_, figure)) = FIGURES.iter().find(|(name, _)| *name == field) {
        return match value.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Test::Figure(*figure, operator, number)),
            _ => needed("a number"),
        };
    }
    let Some((_, word)) = WORDS.iter().find(|(name, _)| *name == field) else {
        return Err(QueryError::Field { condition: condition(), field: field.to_owned() });
    };
    let equal = match operator {
        Operator::Equal => true,
        Operator::Unequal => false,
        _ => return Err(QueryError::Order(condition())),
    };
    match word {
        Word::Kind if !["gpu", "cpu", "other"].contains(&value) => needed("gpu, cpu or other"),
        Word::Declared | Word::Private if !["yes", "no"].contains(&value) => needed("yes or no"),
        _ if value.is_empty() => needed("a word"),
        word => Ok(Test::Word(*word, equal, value.to_owned())),
    }
}

impl Conditions {
    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first condition that a candidate does not meet; `None` where it meets all.
    pub fn unmet(&self, candidate: &Candidate<'_>, reasons: &Reasons) -> Option<Unmet> {
        self.0.iter().find_map(|(condition, test)| {
            let found = test.unmet(candidate, reasons)?;
            Some(Unmet { condition: condition.clone(), found })
        })
    }
}

impl Test {
    /// What there is in place of what is asked; `None` where it is met.
    fn unmet(&self, candidate: &Candidate<'_>, reasons: &Reasons) -> Option<String> {
        match self {
            Self::Figure(figure, operator, value) => match figure.of(candidate, reasons) {
                Some(known) => (!operator.holds(known.total_cmp(value))).then(|| Short(known).to_string()),
                None => (*operator != Operator::Unequal).then(|| "not known".to_owned()),
            },
            Self::Trust(operator, tier) => {
                let order = candidate.tier.rank().cmp(&tier.rank());
                (!operator.holds(order)).then(|| candidate.tier.to_string())
            }
            Self::Quality(operator, tier) => {
                let known = candidate.quality.tier;
                (!operator.holds(known.cmp(tier))).then(|| known.to_string())
            }
            Self::Word(word, equal, value) => {
                let (text, part) = word.of(candidate);
                let order = if text == *value || part && text.contains(value.as_str()) {
                    Ordering::Equal
                } else {
                    Ordering::Less
                };
                ((order == Ordering::Equal) != *equal).then_some(text)
            }
        }
    }
}

/// A figure with as many digits as people read.
struct Short(f64);

impl fmt::Display for Short {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.fract() == 0.0 { write!(formatter, "{:.0}", self.0) } else { write!(formatter, "{:.2}", self.0) }
    }
}

impl Figure {
    fn of(self, candidate: &Candidate<'_>, reasons: &Reasons) -> Option<f64> {
        let offer = candidate.offer;
        let known = |figure: f64| (figure > 0.0).then_some(figure);
        match self {
            Self::Vram if offer.device.kind == DeviceKind::Gpu => known(offer.device.memory_bytes as f64 / GIB),
            Self::Vram => None,
            Self::Shown => Some(candidate.shown_bytes as f64 / GIB),
            // A thousand micro-credits for a thousand tokens are a credit for a million.
            Self::Price => Some(offer.price.completion.0 as f64 / 1_000.0),
            Self::RoundTrip => Some(reasons.round_trip_ms),
            Self::Distance => Some(candidate.distance_km),
            Self::Speed => known(f64::from(candidate.speed_seen.unwrap_or(offer.speed)) / 1_000.0),
            Self::Context => known(f64::from(offer.context)),
            Self::Free => {
                let busy = candidate.load.running.saturating_add(candidate.load.queued);
                Some(f64::from(candidate.slots.saturating_sub(busy)))
            }
            Self::Failures => Some(reasons.failures * 100.0),
        }
    }
}

impl Word {
    /// What the field says, in lower case and without spaces, and whether a part of it will do.
    fn of(self, candidate: &Candidate<'_>) -> (String, bool) {
        let offer = candidate.offer;
        let yes = |is: bool| (if is { "yes" } else { "no" }.to_owned(), false);
        match self {
            Self::Device => (offer.device.name.as_str().to_lowercase().replace(' ', ""), true),
            Self::Model => (offer.model.as_str().to_lowercase(), true),
            Self::Kind => {
                let kind = match offer.device.kind {
                    DeviceKind::Gpu => "gpu",
                    DeviceKind::Cpu => "cpu",
                    DeviceKind::Upstream => "other",
                };
                (kind.to_owned(), false)
            }
            Self::Declared => yes(offer.declared),
            Self::Private => yes(offer.private.is_some()),
        }
    }
}
