//! Watches heat, watts, battery, hours and the owner's own use once a second, and says how many jobs may run.
//!
//! ```text
//! Sources --Sample--> Thermometer, OwnerWatch (one a GPU) --.
//! battery, clock, settings ---------------------------------+--> decide --PowerState--> desk, announcer, jobs, status
//! ```

mod metrics;
mod sensors;
mod watch;

pub use sensors::Sensors;
pub use watch::{PowerParts, Uses, start};

use super::telemetry::Sample;
use aitbc_protocol::{
    MicroCredits,
    gpu::{
        heat::{Heat, Ladder, LadderError, OwnerLadder, SensorFault},
        owner::OwnerUse,
        power::{Allowed, Decision, Supply, electricity},
    },
};
use serde::Serialize;
use std::{path::PathBuf, time::Duration};

/// How long finding the sensors may take.
const FINDING: Duration = Duration::from_secs(10);
/// Charge of a battery in percent below which nothing is taken, where the owner says nothing else.
pub const LEAST_CHARGE: u8 = 30;

/// What is watched and what is allowed.
#[derive(Clone, Debug, PartialEq)]
pub struct PowerConfig {
    /// The owner's limits.
    pub allowed: Allowed,
    /// The owner's temperatures.
    pub heat: OwnerLadder,
    /// Where sensors are read instead of the machine's: a tree of files with its own `sys` and `proc`.
    pub simulated: Option<PathBuf>,
    /// What a kilowatt-hour costs.
    pub price: MicroCredits,
}

impl Default for PowerConfig {
    /// No limit but those of heat, of the owner's own use, and of a battery.
    fn default() -> Self {
        let allowed = Allowed { hours: Vec::new(), watts: None, on_battery: false, least_charge: LEAST_CHARGE };
        Self { allowed, heat: OwnerLadder::default(), simulated: None, price: MicroCredits::ZERO }
    }
}

/// Why the GPUs cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum PowerError {
    /// The owner's ladder does not go with a GPU.
    #[error("[heat] does not go with {gpu}: {source}")]
    Ladder {
        /// Which GPU.
        gpu: String,
        /// Why.
        source: LadderError,
    },
    /// A driver hangs.
    #[error(
        "a GPU's driver did not tell of its sensors within {FINDING:?}: restart the machine, or update the driver"
    )]
    Hangs,
}

/// One GPU as it is now.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GpuState {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub address: String,
    /// Bytes of its memory; 0 where unknown.
    pub memory_bytes: u64,
    /// Whether models can run on it.
    pub usable: bool,
    /// Whether it has sensors that can be read. One without any limits nothing.
    pub watched: bool,
    /// What its sensors show.
    #[serde(flatten)]
    pub sample: Sample,
    /// How hot it is taken to be.
    pub heat: Heat,
    /// Its ladder.
    pub ladder: Ladder,
    /// Why its temperature is not believed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<SensorFault>,
    /// What its owner does with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<OwnerUse>,
}

/// What the limits say now.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PowerState {
    /// Whether the sensors are a tree of files and no machine's.
    pub simulated: bool,
    /// Every GPU.
    pub gpus: Vec<GpuState>,
    /// What feeds the machine.
    #[serde(flatten)]
    pub supply: Supply,
    /// What all GPUs draw, in watts, as far as that is measured.
    pub watts: Option<u32>,
    /// What the drivers let those draw on which models run, in watts, as far as they have told.
    pub caps: Option<u32>,
    /// What the owner lets them draw, in watts.
    pub budget: Option<u32>,
    /// What a kilowatt-hour costs.
    pub price: MicroCredits,
    /// What follows.
    pub decision: Decision,
    /// The limits of the decision in words.
    pub reasons: String,
}

impl PowerState {
    /// No GPU, no limit.
    #[cfg(test)]
    pub(crate) fn unlimited(slots: u32) -> Self {
        Self {
            simulated: false,
            gpus: Vec::new(),
            supply: Supply::Mains,
            watts: None,
            caps: None,
            budget: None,
            price: MicroCredits::ZERO,
            decision: Decision {
                slots,
                offered: slots,
                running: aitbc_protocol::gpu::power::Running::GoOn,
                limits: Vec::new(),
            },
            reasons: String::new(),
        }
    }

    /// Why no job is taken at all; `None` where some may come, at the latest when one of those that run ends.
    pub fn closed(&self) -> Option<String> {
        (self.decision.offered == 0).then(|| self.reasons.clone())
    }

    /// What the electricity for a thousand tokens costs at this speed (milli-tokens a second), at the draw to which the
    /// GPUs are limited: their own caps, or the owner's budget where that is less. Nothing where neither is known.
    pub fn electricity(&self, speed: u32) -> MicroCredits {
        let most = match (self.caps, self.budget) {
            (Some(caps), Some(budget)) => caps.min(budget),
            (caps, budget) => caps.or(budget).unwrap_or(0),
        };
        electricity(u64::from(most) * 1_000, self.price, 1_000, speed).unwrap_or(MicroCredits::ZERO)
    }
}
