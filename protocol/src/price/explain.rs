//! A price in words.

use super::{Adjustment, FactorKind, Inputs, ONE};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A factor that changes the price, with its reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// What it stands for.
    pub kind: FactorKind,
    /// In millionths.
    pub ppm: u32,
    /// Why, such as `evening, 19 h UTC`.
    pub reason: String,
}

/// Writes `x1.2`: millionths with as many digits as it takes.
impl fmt::Display for Explained {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{:06}", self.ppm % ONE);
        let digits = digits.trim_end_matches('0');
        let point = if digits.is_empty() { "" } else { "." };
        write!(formatter, "x{}{point}{digits} {}", self.ppm / ONE, self.reason)
    }
}

impl Adjustment {
    /// The factors that change something, in the order in which they apply.
    pub fn explained(&self) -> Vec<Explained> {
        let Some(inputs) = &self.inputs else { return Vec::new() };
        let changing = self.factors.iter().filter(|factor| factor.ppm != ONE);
        changing
            .map(|factor| Explained { kind: factor.kind, ppm: factor.ppm, reason: inputs.reason(factor.kind) })
            .collect()
    }
}

/// Millionths as percent, with one digit where it matters.
fn percent(ppm: u32) -> String {
    let tenths = (u64::from(ppm) + 500) / 1_000;
    if tenths % 10 == 0 { format!("{} %", tenths / 10) } else { format!("{}.{} %", tenths / 10, tenths % 10) }
}

impl Inputs {
    /// What a factor follows from, in a few words.
    pub fn reason(&self, kind: FactorKind) -> String {
        match kind {
            FactorKind::Latency => {
                format!("{}, an answer within {} ms wished", self.latency.name(), self.latency.bound_ms())
            }
            FactorKind::Capability => self.capability.map_or_else(
                || "a device without a score".to_owned(),
                |score| format!("a GPU that scores {}", percent(score)),
            ),
            FactorKind::Distance => self.round_trip_ms.map_or_else(
                || "no round trip measured".to_owned(),
                |round_trip_ms| format!("a round trip of {round_trip_ms} ms"),
            ),
            FactorKind::Queue => {
                format!("{} {} waiting", self.queue, if self.queue == 1 { "job" } else { "jobs" })
            }
            FactorKind::Utilisation => match self.cell_utilisation {
                Some(cell) => {
                    format!("{} of its slots taken, {} in its cell", percent(self.utilisation), percent(cell))
                }
                None => format!("{} of its slots taken", percent(self.utilisation)),
            },
            FactorKind::Hour => {
                let time = match self.hour {
                    18..=23 => "evening",
                    2..=6 => "night",
                    _ => "day",
                };
                let minutes = self.utc_offset_minutes;
                let sign = if minutes < 0 { '-' } else { '+' };
                let zone = match (minutes.unsigned_abs() / 60, minutes.unsigned_abs() % 60) {
                    (0, 0) => "UTC".to_owned(),
                    (hours, minutes) => format!("UTC{sign}{hours:02}:{minutes:02}"),
                };
                format!("{time}, {} h {zone}", self.hour)
            }
            FactorKind::Complexity => format!("up to {} of the context used", percent(self.context_share())),
        }
    }
}
