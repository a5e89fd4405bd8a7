//! Settings of heat and power.

use super::{ConfigError, Settings};
use crate::gpu::power::{LEAST_CHARGE, PowerConfig};
use aitbc_protocol::{
    MicroCredits,
    gpu::{
        heat::{Ladder, LadderError, MakerLimits},
        power::{Allowed, Hours},
    },
};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What the GPUs may take, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PowerSettings {
    /// Most watts of all GPUs together; no limit if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watts: Option<u32>,
    /// Times of the day at which jobs are taken, such as `["22:00-06:30"]`, in local time; always if empty.
    pub hours: Vec<Hours>,
    /// What a kilowatt-hour costs, in micro-credits: no answer is sold for less than its electricity.
    pub price_per_kwh: u64,
    /// Whether jobs are taken while the machine runs from its battery.
    pub on_battery: bool,
    /// Charge of the battery in percent below which nothing is taken.
    pub least_charge: u8,
    /// A tree of files in the shape of `/sys` and `/proc` that is read in place of the machine's sensors, to try limits
    /// out. What follows from it is shown as simulated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub simulated_sensors: Option<PathBuf>,
}

impl Default for PowerSettings {
    fn default() -> Self {
        Self {
            watts: None,
            hours: Vec::new(),
            price_per_kwh: 0,
            on_battery: false,
            least_charge: LEAST_CHARGE,
            simulated_sensors: None,
        }
    }
}

impl Settings {
    /// The limits of the provider side.
    pub fn power(&self) -> PowerConfig {
        let PowerSettings { watts, hours, price_per_kwh, on_battery, least_charge, simulated_sensors } =
            self.power.clone();
        PowerConfig {
            allowed: Allowed { hours, watts, on_battery, least_charge },
            heat: self.heat,
            simulated: simulated_sensors,
            price: MicroCredits(price_per_kwh),
        }
    }

    /// Refuses limits out of range.
    pub(super) fn validate_power(&self) -> Result<(), ConfigError> {
        let range = |setting, value: String, allowed| Err(ConfigError::Range { setting, value, allowed });
        // Those of a GPU follow from its maker too, and are checked where they are used.
        if let Err(error @ LadderError::Range { .. }) = Ladder::new(&self.heat, &MakerLimits::default()) {
            return Err(ConfigError::Heat(error));
        }
        if let Some(watts) = self.power.watts.filter(|watts| !(5..=100_000).contains(watts)) {
            return range("power.watts", watts.to_string(), "allowed is 5 to 100000");
        }
        if self.power.least_charge > 100 {
            return range("power.least_charge", self.power.least_charge.to_string(), "allowed is 0 to 100");
        }
        if let Some(tree) = self.power.simulated_sensors.as_ref().filter(|tree| !tree.join("sys").is_dir()) {
            return range("power.simulated_sensors", tree.display().to_string(), "it has no directory `sys`");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_out_of_range_name_their_setting() {
        assert!(Settings::default().validate_power().is_ok());
        for (text, named) in [
            ("[heat]\nwarning = 20.0", "warning is 20 degrees"),
            ("[heat]\nshutdown = 200.0", "shutdown is 200 degrees"),
            ("[power]\nwatts = 4", "power.watts is 4"),
            ("[power]\nleast_charge = 101", "power.least_charge is 101"),
            ("[power]\nsimulated_sensors = \"/nowhere\"", "no directory `sys`"),
        ] {
            let settings: Settings = toml::from_str(text).expect("settings");
            let error = settings.validate_power().expect_err(text).to_string();
            assert!(error.contains(named), "{error}");
        }
        let error = toml::from_str::<Settings>("[power]\nhours = [\"25-26\"]").expect_err("no such hours");
        assert!(error.to_string().contains("22:00-06:30"), "{error}");
    }
}
