//! How hot is too hot: the ladder of temperatures, with hysteresis, and sensors that cannot be believed.
//!
//! ```text
//! cool --warning--> warm --critical--> critical --shutdown--> shutdown
//!      <-- 5 degrees below each step, for the way back --
//! ```

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How far below a step the temperature must fall before the step is left again.
const HYSTERESIS: f32 = 5.0;
/// Where a maker publishes the temperature at which a GPU slows itself down, jobs become fewer this much below it, and are
/// drained this much below it: many healthy cards at home run at 80 degrees for years.
const BELOW_SLOWDOWN: (f32, f32) = (15.0, 5.0);
/// What a core can have, in degrees Celsius; anything else is an error code or a sensor that broke.
const PLAUSIBLE: std::ops::RangeInclusive<f32> = -40.0..=125.0;
/// How long a sensor may be faulty before everything stops.
const FAULT_PATIENCE: Duration = Duration::from_secs(5);
/// A sensor that shows the very same while its GPU was idle and busy for so long each does not measure.
const STUCK_AFTER: Duration = Duration::from_secs(60);
/// Part of the time computing from which a GPU counts as busy, and up to which as idle.
const BUSY: f32 = 0.8;
const IDLE: f32 = 0.1;

/// Temperatures of the core, in degrees Celsius, at which something is done.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ladder {
    /// Fewer jobs are taken.
    pub warning: f32,
    /// No job is taken, and those that run are slowed down.
    pub critical: f32,
    /// Everything stops at once.
    pub shutdown: f32,
}

/// What a GPU's maker publishes, in degrees Celsius.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct MakerLimits {
    /// It slows itself down.
    pub slowdown: Option<f32>,
    /// It switches itself off.
    pub shutdown: Option<f32>,
}

/// What the owner sets instead, in degrees Celsius.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OwnerLadder {
    /// Fewer jobs are taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warning: Option<f32>,
    /// No job is taken, and those that run are slowed down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub critical: Option<f32>,
    /// Everything stops at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shutdown: Option<f32>,
}

/// A ladder on which one cannot stand.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum LadderError {
    /// Not a temperature at which a processor works.
    #[error("{step} is {degrees} degrees: set it between 30 and 110")]
    Range {
        /// Which step.
        step: &'static str,
        /// What it is.
        degrees: f32,
    },
    /// The steps do not rise.
    #[error(
        "warning ({}), critical ({}) and shutdown ({}) must rise in this order; what is not set follows the maker",
        .0.warning, .0.critical, .0.shutdown
    )]
    Order(Ladder),
}

impl Ladder {
    /// Where nothing better is known.
    pub const NETWORK: Self = Self { warning: 75.0, critical: 85.0, shutdown: 95.0 };

    /// The ladder of one GPU: the owner's steps, then those that follow from the maker's, then the network's.
    pub fn new(owner: &OwnerLadder, maker: &MakerLimits) -> Result<Self, LadderError> {
        let believed = |degrees: f32| PLAUSIBLE.contains(&degrees) && degrees >= 50.0;
        let slowdown = maker.slowdown.filter(|degrees| believed(*degrees));
        let mut ladder = slowdown.map_or(Self::NETWORK, |slowdown| Self {
            warning: slowdown - BELOW_SLOWDOWN.0,
            critical: slowdown - BELOW_SLOWDOWN.1,
            // Some makers tell no shutdown, and some one that equals the slowdown.
            shutdown: maker.shutdown.filter(|degrees| believed(*degrees)).unwrap_or(slowdown + 5.0).max(slowdown),
        });
        let steps = [
            ("warning", owner.warning, &mut ladder.warning),
            ("critical", owner.critical, &mut ladder.critical),
            ("shutdown", owner.shutdown, &mut ladder.shutdown),
        ];
        for (step, set, kept) in steps {
            if let Some(degrees) = set {
                if !(30.0..=110.0).contains(&degrees) {
                    return Err(LadderError::Range { step, degrees });
                }
                *kept = degrees;
            }
        }
        if ladder.warning < ladder.critical && ladder.critical < ladder.shutdown {
            Ok(ladder)
        } else {
            Err(LadderError::Order(ladder))
        }
    }

    fn reached(&self, degrees: f32) -> Heat {
        match degrees {
            _ if degrees >= self.shutdown => Heat::Shutdown,
            _ if degrees >= self.critical => Heat::Critical,
            _ if degrees >= self.warning => Heat::Warning,
            _ => Heat::Cool,
        }
    }
}

/// How hot a GPU is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Heat {
    /// As cool as it should be.
    #[default]
    Cool,
    /// Fewer jobs are taken.
    Warning,
    /// No job is taken, and those that run are slowed down.
    Critical,
    /// Everything stops at once.
    Shutdown,
}

/// Why a sensor is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, thiserror::Error)]
#[serde(tag = "fault", content = "degrees", rename_all = "snake_case")]
pub enum SensorFault {
    /// It cannot be read.
    #[error("the temperature cannot be read")]
    Missing,
    /// What it tells is not a number.
    #[error("the temperature that the sensor tells is not a number")]
    NotANumber,
    /// No core has this temperature.
    #[error("the sensor tells {0} degrees, which no core has")]
    Implausible(f32),
    /// It shows the same whether the GPU works or not.
    #[error("the sensor shows {0} degrees whether the GPU works or not")]
    Stuck(f32),
}

/// What a reading means.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Judged {
    /// How hot it is taken to be.
    pub heat: Heat,
    /// Why the sensor is not believed, where it is not: too hot to take jobs, and after five seconds to work at all.
    pub fault: Option<SensorFault>,
}

/// For how long a sensor has shown the same, and what its GPU did meanwhile.
#[derive(Clone, Copy, Debug)]
struct Unchanged {
    degrees: f32,
    idle: Duration,
    busy: Duration,
}

/// Judges one sensor, reading by reading.
#[derive(Clone, Debug)]
pub struct Thermometer {
    ladder: Ladder,
    heat: Heat,
    /// When the reading before was taken.
    last: Option<Duration>,
    unchanged: Option<Unchanged>,
    faulty_since: Option<Duration>,
}

impl Thermometer {
    /// A sensor that has shown nothing yet.
    pub fn new(ladder: Ladder) -> Self {
        Self { ladder, heat: Heat::Cool, last: None, unchanged: None, faulty_since: None }
    }

    /// Its steps.
    pub fn ladder(&self) -> &Ladder {
        &self.ladder
    }

    /// Takes a reading in degrees Celsius (`None` where it cannot be read) at `now`, since any fixed moment; `utilisation`
    /// is the part of the time that the GPU computed, 0 to 1, where that is known.
    pub fn read(&mut self, now: Duration, degrees: Option<f32>, utilisation: Option<f32>) -> Judged {
        let elapsed = self.last.map_or(Duration::ZERO, |last| now.saturating_sub(last));
        self.last = Some(now);
        match self.believe(degrees, utilisation, elapsed) {
            Ok(degrees) => {
                self.faulty_since = None;
                let reached = self.ladder.reached(degrees);
                // On the way down a step is left only well below it.
                self.heat = reached.max(self.ladder.reached(degrees + HYSTERESIS).min(self.heat));
                Judged { heat: self.heat, fault: None }
            }
            Err(fault) => {
                let since = *self.faulty_since.get_or_insert(now);
                let heat =
                    if now.saturating_sub(since) >= FAULT_PATIENCE { Heat::Shutdown } else { Heat::Critical };
                self.heat = self.heat.max(heat);
                Judged { heat: self.heat, fault: Some(fault) }
            }
        }
    }

    fn believe(
        &mut self,
        degrees: Option<f32>,
        utilisation: Option<f32>,
        elapsed: Duration,
    ) -> Result<f32, SensorFault> {
        let degrees = degrees.ok_or(SensorFault::Missing)?;
        if degrees.is_nan() {
            return Err(SensorFault::NotANumber);
        }
        if !PLAUSIBLE.contains(&degrees) {
            return Err(SensorFault::Implausible(degrees));
        }
        let fresh = Unchanged { degrees, idle: Duration::ZERO, busy: Duration::ZERO };
        let unchanged = self.unchanged.get_or_insert(fresh);
        if unchanged.degrees.to_bits() != degrees.to_bits() {
            *unchanged = fresh;
        }
        match utilisation {
            Some(part) if part >= BUSY => unchanged.busy += elapsed,
            Some(part) if part <= IDLE => unchanged.idle += elapsed,
            _ => {}
        }
        if unchanged.busy >= STUCK_AFTER && unchanged.idle >= STUCK_AFTER {
            return Err(SensorFault::Stuck(degrees));
        }
        Ok(degrees)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn judge(readings: &[f32]) -> Vec<Heat> {
        let mut thermometer = Thermometer::new(Ladder::NETWORK);
        (0_u32..).zip(readings).map(|(at, it)| thermometer.read(SECOND * at, Some(*it), Some(0.5)).heat).collect()
    }

    #[test]
    fn every_step_is_entered_at_once_and_left_five_degrees_below() {
        use Heat::{Cool, Critical, Shutdown, Warning};
        let up = judge(&[74.9, 75.0, 84.9, 85.0, 94.9, 95.0]);
        assert_eq!(up, [Cool, Warning, Warning, Critical, Critical, Shutdown]);
        let down = judge(&[95.0, 90.0, 89.9, 80.0, 79.9, 70.0, 69.9]);
        assert_eq!(down, [Shutdown, Shutdown, Critical, Critical, Warning, Warning, Cool]);
        assert_eq!(judge(&[95.0, 40.0]), [Shutdown, Cool], "a step may be skipped");
        assert_eq!(judge(&[20.0, 99.0]), [Cool, Shutdown]);
    }

    #[test]
    fn makers_and_owners_move_the_ladder() {
        let maker = MakerLimits { slowdown: Some(93.0), shutdown: Some(98.0) };
        let ladder = Ladder::new(&OwnerLadder::default(), &maker).expect("a ladder");
        assert_eq!(ladder, Ladder { warning: 78.0, critical: 88.0, shutdown: 98.0 });
        let none = MakerLimits::default();
        assert_eq!(Ladder::new(&OwnerLadder::default(), &none), Ok(Ladder::NETWORK));
        let lying = MakerLimits { slowdown: Some(255.0), shutdown: Some(0.0) };
        assert_eq!(Ladder::new(&OwnerLadder::default(), &lying), Ok(Ladder::NETWORK));
        let owner = OwnerLadder { warning: Some(60.0), critical: Some(70.0), shutdown: Some(80.0) };
        let ladder = Ladder::new(&owner, &maker).expect("a ladder");
        assert_eq!(ladder, Ladder { warning: 60.0, critical: 70.0, shutdown: 80.0 });
        let low = OwnerLadder { critical: Some(70.0), ..OwnerLadder::default() };
        let error = Ladder::new(&low, &none).expect_err("critical under warning");
        assert!(error.to_string().contains("warning (75)"), "{error}");
        for wrong in [f32::NAN, 0.0, 200.0] {
            let owner = OwnerLadder { shutdown: Some(wrong), ..OwnerLadder::default() };
            assert!(Ladder::new(&owner, &none).expect_err("no such step").to_string().contains("shutdown"));
        }
    }

    #[test]
    fn a_sensor_that_fails_is_too_hot_and_says_why() {
        let faults = [
            (None, SensorFault::Missing),
            (Some(255.0), SensorFault::Implausible(255.0)),
            (Some(f32::INFINITY), SensorFault::Implausible(f32::INFINITY)),
            (Some(-273.0), SensorFault::Implausible(-273.0)),
        ];
        for (reading, fault) in faults {
            let mut thermometer = Thermometer::new(Ladder::NETWORK);
            assert_eq!(thermometer.read(SECOND, Some(50.0), None).heat, Heat::Cool);
            let judged = thermometer.read(SECOND * 2, reading, None);
            assert_eq!(judged, Judged { heat: Heat::Critical, fault: Some(fault) });
            assert_eq!(thermometer.read(SECOND * 7, reading, None).heat, Heat::Shutdown);
            let judged = thermometer.read(SECOND * 8, Some(50.0), None);
            assert_eq!(judged, Judged { heat: Heat::Cool, fault: None }, "it works again");
        }
        let judged = Thermometer::new(Ladder::NETWORK).read(SECOND, Some(f32::NAN), None);
        assert_eq!((judged.heat, judged.fault), (Heat::Critical, Some(SensorFault::NotANumber)));
    }

    #[test]
    fn a_sensor_that_shows_the_same_idle_and_busy_is_stuck() {
        let mut thermometer = Thermometer::new(Ladder::NETWORK);
        let mut at = |second: u32, degrees: f32, part: f32| {
            thermometer.read(SECOND * second, Some(degrees), Some(part)).fault
        };
        for second in 0..=60 {
            assert_eq!(at(second, 45.0, 0.0), None);
        }
        for second in 61..120 {
            assert_eq!(at(second, 45.0, 1.0), None, "{second}");
        }
        assert_eq!(at(120, 45.0, 1.0), Some(SensorFault::Stuck(45.0)));
        assert_eq!(at(121, 46.0, 1.0), None, "it moves");
        for second in 122..1000 {
            assert_eq!(at(second, 83.0, 1.0), None, "a fan that holds a temperature is no fault");
        }
    }

    proptest! {
        #[test]
        fn no_reading_is_taken_for_cooler_than_it_is(readings in prop::collection::vec(prop::num::f32::ANY, 1..200)) {
            let mut thermometer = Thermometer::new(Ladder::NETWORK);
            for (at, reading) in (0_u32..).zip(readings) {
                let judged = thermometer.read(SECOND * at, Some(reading), None);
                if PLAUSIBLE.contains(&reading) {
                    prop_assert!(judged.heat >= Ladder::NETWORK.reached(reading));
                    prop_assert!(judged.heat <= Ladder::NETWORK.reached(reading + HYSTERESIS));
                } else {
                    prop_assert!(judged.heat >= Heat::Critical && judged.fault.is_some());
                }
            }
        }
    }
}
