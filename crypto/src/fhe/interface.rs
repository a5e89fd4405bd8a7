//! What a client has to know of a model: how its values are encoded, and how answers are read. Weights are no part of it.

use super::{
    network::{Inputs, Mode, Network, NetworkFault, Outputs},
    profile::{Profile, unit},
    simulate::predicted_sigmas,
};
use serde::{Deserialize, Serialize};

/// The public part of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interface {
    pub(super) profile: Profile,
    pub(super) mode: Mode,
    pub(super) inputs: Inputs,
    /// What part of the torus a unit of what goes in takes.
    pub(super) unit: f64,
    pub(super) outputs: Outputs,
    /// Values that come out.
    count: u32,
    /// What part of the torus a unit of the last sums takes.
    pub(super) output_unit: f64,
    bootstraps: u32,
    /// Predicted standard deviation of the noise in the noisiest output, in the units of the model.
    pub(super) noise: f64,
}

impl Interface {
    /// The interface of a network that was checked.
    pub fn of(network: &Network, profile: Profile) -> Self {
        let unit_of = |place: usize| {
            let last = place + 1 == network.layers.len();
            network.layers.get(place).map_or(0.0, |layer| unit(layer.range, last, network.mode, profile))
        };
        let last = network.layers.len().saturating_sub(1);
        Self {
            profile,
            mode: network.mode,
            inputs: network.inputs.clone(),
            unit: unit_of(0),
            outputs: network.outputs.clone(),
            count: network.layers.last().map_or(0, |layer| layer.rows.len() as u32),
            output_unit: unit_of(last),
            bootstraps: network.bootstraps(),
            noise: match network.mode {
                // What is read is rounded to whole sums, and those are right.
                Mode::Exact => 0.0,
                Mode::Approximate => {
                    let last = predicted_sigmas(network, profile).pop();
                    let largest = last.into_iter().flat_map(|sigmas| sigmas.total).fold(0.0, f64::max);
                    largest * network.outputs.scale.abs()
                }
            },
        }
    }

    /// Refuses an interface, as a stranger may send it, with which nothing can be encrypted or read.
    pub fn check(&self) -> Result<(), NetworkFault> {
        self.inputs.check()?;
        self.outputs.check(self.count as usize)?;
        let is_unit = |unit: f64| unit > 1e-15 && unit <= 0.5;
        let largest = self.inputs.low.abs().max(self.inputs.high.abs());
        if !is_unit(self.unit) || largest * self.unit >= 0.5 {
            return Err(NetworkFault::at("unit", "values that go in do not fit the torus"));
        }
        if !is_unit(self.output_unit) {
            return Err(NetworkFault::at("output_unit", "is no part of the torus"));
        }
        // More would be a model whose answers say nothing.
        if !(0.0..=0.5 * self.outputs.scale.abs() / self.output_unit).contains(&self.noise) {
            return Err(NetworkFault::at("noise", "is larger than what an output can be"));
        }
        Ok(())
    }

    /// Under which parameters it is computed.
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// How it is computed.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Bootstraps of one answer. Without any, no evaluation key is needed.
    pub fn bootstraps(&self) -> u32 {
        self.bootstraps
    }

    /// Values that go in.
    pub fn values(&self) -> usize {
        self.inputs.features.len()
    }

    /// Values that come out.
    pub fn outputs(&self) -> usize {
        self.count as usize
    }

    /// What the outputs stand for, where they are classes.
    pub fn labels(&self) -> &[String] {
        &self.outputs.labels
    }

    /// Predicted standard deviation of the noise in the noisiest output, in the units of the model; 0 for exact models.
    pub fn noise(&self) -> f64 {
        self.noise
    }

    /// Bytes of an answer.
    pub fn output_bytes(&self) -> usize {
        self.profile.output_bytes(self.outputs())
    }

    /// An output in the units of the model, from a sum with its noise.
    pub(super) fn read(&self, sum: f64) -> f64 {
        let sum = match self.mode {
            Mode::Exact => sum.round(),
            Mode::Approximate => sum,
        };
        sum * self.outputs.scale
    }
}
