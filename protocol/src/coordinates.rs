//! Network coordinates: round trips between nodes that never met, estimated from those that were measured. Pure.
//!
//! Vivaldi, after Dabek, Cox, Kaashoek and Morris, "Vivaldi: A Decentralized Network Coordinate System", SIGCOMM 2004: every
//! node has a place in a plane, in milliseconds, and a height above it for the line that leads to its home. A round trip is
//! estimated as the way through the plane and both heights, and every measured one pulls or pushes like a spring, the less
//! the more certain a node is of its own place and the less certain the other one is.
//!
//! **What liars can do.** A coordinate is bounded, and what one peer tells moves nobody farther in a round than a step that
//! grows with the own uncertainty alone: whoever claims certainty is taken for no more certain than [`LEAST_ERROR`]. A round trip
//! below what light needs for the claimed distance tells nothing ([`Sample`]), and nor does one that is far out of line with
//! the others of its round ([`OUTLIER`], after Zage and Nita-Rotaru, "On the Accuracy of Decentralized Virtual Coordinate
//! Systems in Adversarial Networks", CCS 2007). Callers pass the least of the last few round trips, one a peer and round, for a
//! queue on the way says nothing about where somebody is (Ledlie, Gardner and Seltzer, "Network Coordinates in the Wild",
//! NSDI 2007); and they never take an estimate below what light needs.

use crate::geo::LIGHT_SLACK;
use serde::{Deserialize, Serialize};

/// How far a sample moves the estimate of the own error, and how far the own place: c_e and c_c of the paper, section 3.6.
pub const ADAPTION: f64 = 0.25;
/// The farthest from the origin that a coordinate lies in each direction, the greatest height, and the longest round trip that
/// counts, in milliseconds.
pub const MOST_MS: f64 = 1_000.0;
/// The least height, in milliseconds: at none, two nodes of one place could not be pushed apart.
pub const LEAST_HEIGHT_MS: f64 = 0.1;
/// The least error that is believed of anybody.
pub const LEAST_ERROR: f64 = 0.05;
/// The most that one sample moves a node that knows nothing of its place, in milliseconds; others by the share of their error.
pub const MOST_STEP_MS: f64 = 20.0;
/// The error from which on a coordinate tells nothing of round trips.
pub const USELESS_ERROR: f64 = 0.5;
/// Round trips below tell nothing, in milliseconds: they stay in one building, whose line the heights count twice.
pub const LEAST_MS: f64 = 2.0;
/// Peers from which on a round can tell who is out of line.
pub const CROWD: usize = 4;
/// Samples that are so many times as far off as the median one of their round do not count.
pub const OUTLIER: f64 = 5.0;

/// A coordinate as it is told: whole microseconds and thousandths, so that it has one encoding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Told")]
pub struct Coordinate {
    /// East of the origin, in microseconds.
    x: i32,
    /// North of it.
    y: i32,
    /// Above the plane.
    height: u32,
    /// How far estimates from it are typically off, in thousandths of the round trip.
    error: u16,
}

/// The same before it is judged.
#[derive(Deserialize)]
struct Told {
    x: i32,
    y: i32,
    height: u32,
    error: u16,
}

/// A coordinate beyond [`MOST_MS`], or with an error above 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a network coordinate out of bounds")]
pub struct OutOfBounds;

impl TryFrom<Told> for Coordinate {
    type Error = OutOfBounds;

    fn try_from(told: Told) -> Result<Self, OutOfBounds> {
        Self::new((told.x, told.y), told.height, told.error)
    }
}

impl Coordinate {
    /// One so far east and north of the origin and so high, in microseconds, off by so many thousandths.
    pub fn new((x, y): (i32, i32), height: u32, error: u16) -> Result<Self, OutOfBounds> {
        let within = |value: u32| f64::from(value) <= MOST_MS * 1_000.0;
        if !(within(x.unsigned_abs()) && within(y.unsigned_abs()) && within(height) && error <= 1_000) {
            return Err(OutOfBounds);
        }
        Ok(Self { x, y, height, error })
    }

    /// East and north of the origin, in milliseconds.
    pub fn place_ms(&self) -> (f64, f64) {
        (f64::from(self.x) / 1_000.0, f64::from(self.y) / 1_000.0)
    }

    /// The height, in milliseconds.
    pub fn height_ms(&self) -> f64 {
        f64::from(self.height) / 1_000.0
    }

    /// How far estimates from it are typically off, as a share of the round trip.
    pub fn error(&self) -> f64 {
        f64::from(self.error) / 1_000.0
    }

    /// Whether it tells anything of round trips.
    pub fn is_known(&self) -> bool {
        self.error() < USELESS_ERROR
    }

    /// Whether others should hear of it at once who were told `before`: it begins to be of use, or is half as far off. All else
    /// may wait for the next offer, for every one costs the whole neighbourhood a verification.
    pub fn is_news(&self, before: &Self) -> bool {
        !before.is_known() && (self.is_known() || 2.0 * self.error() <= before.error())
    }

    /// The round trip between two nodes, in milliseconds; `None` where one of them does not know its place well enough.
    pub fn estimate_ms(&self, other: &Self) -> Option<f64> {
        let ((x, y), (to_x, to_y)) = (self.place_ms(), other.place_ms());
        let way = (x - to_x).hypot(y - to_y);
        (self.is_known() && other.is_known()).then_some(way + self.height_ms() + other.height_ms())
    }
}

/// One measured round trip to a node that tells its coordinate.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// What it tells.
    pub theirs: Coordinate,
    /// The round trip, in milliseconds.
    pub round_trip_ms: f64,
    /// What light needs for the distance to where it says it is, in milliseconds.
    pub least_ms: f64,
}

impl Sample {
    /// Whether it can be true.
    fn holds(&self) -> bool {
        let time = self.round_trip_ms;
        (LEAST_MS..=MOST_MS).contains(&time) && time >= self.least_ms * LIGHT_SLACK
    }
}

/// What a node knows of its own place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Place {
    x: f64,
    y: f64,
    height: f64,
    error: f64,
}

impl Default for Place {
    fn default() -> Self {
        Self { x: 0.0, y: 0.0, height: LEAST_HEIGHT_MS, error: 1.0 }
    }
}

impl Place {
    /// Takes a round of samples into account, one a peer; false where none of them counts. Those that can be no true ones count
    /// for nothing, and of [`CROWD`] and more also those that are off by more than [`OUTLIER`] times as much as the median one.
    /// `draw` gives random numbers: the directions in which nodes at one place part.
    pub fn learn(&mut self, samples: &[Sample], mut draw: impl FnMut() -> u64) -> bool {
        let possible: Vec<(f64, &Sample)> = samples
            .iter()
            .filter(|sample| sample.holds())
            .map(|sample| {
                // Of the smaller of both: who answers late is as far out of line as who claims to be far away.
                let (apart, measured) = (self.apart_ms(&sample.theirs), sample.round_trip_ms);
                ((apart - measured).abs() / apart.min(measured).max(LEAST_MS), sample)
            })
            .collect();
        let mut sorted: Vec<f64> = possible.iter().map(|(off, _)| *off).collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let most = match sorted.get(sorted.len() / 2) {
            Some(median) if sorted.len() >= CROWD => OUTLIER * median.max(LEAST_ERROR),
            _ => f64::INFINITY,
        };
        let mut counts = false;
        for (_, sample) in possible.iter().filter(|(off, _)| *off <= most) {
            self.pull(sample, draw());
            counts = true;
        }
        counts
    }

    fn way_ms(&self, to: &Coordinate) -> f64 {
        let (x, y) = to.place_ms();
        (self.x - x).hypot(self.y - y)
    }

    fn apart_ms(&self, to: &Coordinate) -> f64 {
        self.way_ms(to) + self.height + to.height_ms()
    }

    /// One step along the spring to somebody.
    fn pull(&mut self, sample: &Sample, draw: u64) {
        let Sample { theirs, round_trip_ms, .. } = *sample;
        let (way, apart) = (self.way_ms(&theirs), self.apart_ms(&theirs));
        let weight = self.error / (self.error + theirs.error().max(LEAST_ERROR));
        let off = ((apart - round_trip_ms).abs() / round_trip_ms).min(1.0);
        let most = MOST_STEP_MS * self.error.max(LEAST_ERROR);
        let step = (ADAPTION * weight * (round_trip_ms - apart)).clamp(-most, most);
        self.error = (off * ADAPTION * weight + self.error * (1.0 - ADAPTION * weight)).clamp(0.0, 1.0);
        // Of the vector between both, the share that lies in the plane and the one above it.
        let (x, y) = theirs.place_ms();
        let (east, north, up) = if way > f64::EPSILON {
            ((self.x - x) / apart, (self.y - y) / apart, (apart - way) / apart)
        } else {
            let angle = (draw >> 11) as f64 / (1u64 << 53) as f64 * std::f64::consts::TAU;
            (angle.cos(), angle.sin(), 0.0)
        };
        self.x = (self.x + step * east).clamp(-MOST_MS, MOST_MS);
        self.y = (self.y + step * north).clamp(-MOST_MS, MOST_MS);
        self.height = (self.height + step * up).clamp(LEAST_HEIGHT_MS, MOST_MS);
    }

    /// The coordinate of this place.
    pub fn tell(&self) -> Coordinate {
        // All are bounded, and casts of floating point saturate.
        Coordinate {
            x: (self.x * 1_000.0).round() as i32,
            y: (self.y * 1_000.0).round() as i32,
            height: (self.height * 1_000.0).round() as u32,
            error: (self.error * 1_000.0).round() as u16,
        }
    }
}

#[cfg(test)]
mod tests;
