//! Networks under the noise of encryption, computed in the clear: what accuracy is left before a key is made.
//!
//! Every value carries gaussian noise of the variance that [`Profile::noise`] predicts, a bootstrap sees one of the
//! [`Profile::positions`] of the torus, and sums over a layer's range wrap as they do under encryption.

use super::{
    network::{Activation, Layer, Mode, Network},
    profile::{Noise, Profile, unit},
};
use rand::{RngExt as _, SeedableRng as _, rngs::ChaCha8Rng};
use std::f64::consts::TAU;

/// Predicted standard deviations of the noise in the sums of a layer, in units of the sums, one a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Sigmas {
    /// Of the noise that values bring from the last bootstrap or the encryption, and that is added on the way into the
    /// next bootstrap or to the client: what a bootstrap on exact sums would see.
    pub own: Vec<f64>,
    /// The same with the noise that came through all functions before, at their steepest and taken as independent.
    pub total: Vec<f64>,
}

/// Predicts the noise of each layer; the last is that of the outputs, to be multiplied with the network's
/// `outputs.scale` for the units of the model.
pub fn predicted_sigmas(network: &Network, profile: Profile) -> Vec<Sigmas> {
    let noise = profile.noise();
    // Of each value that comes in, in its units: what functions before let through.
    let mut through = vec![0.0; network.inputs.features.len()];
    let mut sigmas = Vec::with_capacity(network.layers.len());
    for (index, layer) in network.layers.iter().enumerate() {
        let unit = layer_unit(network, index, profile);
        let (coming, added) = (coming(&noise, index), added(&noise, layer));
        let own: Vec<f64> = layer.rows.iter().map(|row| (coming * row.squares() + added) / unit.powi(2)).collect();
        let total = layer.rows.iter().zip(&own).map(|(row, own)| {
            let weighed =
                row.weights.iter().map(|(place, weight)| f64::from(*weight).powi(2) * through[*place as usize]);
            own + weighed.sum::<f64>()
        });
        let total: Vec<f64> = total.collect();
        if let Some(activation) = &layer.activation {
            // An exact bootstrap lets none through.
            let slope = match network.mode {
                Mode::Exact => 0.0,
                Mode::Approximate => activation.function.steepest() * activation.scale / activation.step,
            };
            through = total.iter().map(|variance| variance * slope.powi(2)).collect();
        }
        let root = |variances: Vec<f64>| variances.into_iter().map(f64::sqrt).collect();
        sigmas.push(Sigmas { own: root(own), total: root(total) });
    }
    sigmas
}

/// The part of the torus that a unit of a layer's sums takes.
pub fn layer_unit(network: &Network, index: usize, profile: Profile) -> f64 {
    let layer = &network.layers[index];
    unit(layer.range, index + 1 == network.layers.len(), network.mode, profile)
}

/// The variance of a value that comes into a layer.
fn coming(noise: &Noise, index: usize) -> f64 {
    if index == 0 { noise.fresh } else { noise.bootstrapped }
}

/// The variance that is added to a sum.
fn added(noise: &Noise, layer: &Layer) -> f64 {
    if layer.activation.is_some() { noise.entering } else { noise.leaving }
}

/// Computes networks under noise. The same seed gives the same noise.
#[derive(Debug)]
pub struct Simulator {
    random: ChaCha8Rng,
    spare: Option<f64>,
}

impl Simulator {
    /// Starts from a seed.
    pub fn new(seed: u64) -> Self {
        Self { random: ChaCha8Rng::seed_from_u64(seed), spare: None }
    }

    /// A number of the standard normal distribution (Box and Muller, 1958).
    fn gaussian(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        // From (0, 1], so that the logarithm is finite.
        let radius = (-2.0 * (1.0 - self.random.random::<f64>()).ln()).sqrt();
        let angle = TAU * self.random.random::<f64>();
        self.spare = Some(radius * angle.sin());
        radius * angle.cos()
    }

    /// What comes out for prepared values, in the units of the model.
    pub fn compute(&mut self, network: &Network, profile: Profile, prepared: &[f64]) -> Vec<f64> {
        let noise = profile.noise();
        let mut values = prepared.to_vec();
        for (index, layer) in network.layers.iter().enumerate() {
            let unit = layer_unit(network, index, profile);
            let coming = coming(&noise, index).sqrt() / unit;
            let added = added(&noise, layer).sqrt() / unit;
            for value in &mut values {
                *value += coming * self.gaussian();
            }
            let sums = layer.rows.iter().map(|row| row.sum(&values) + added * self.gaussian());
            values = match &layer.activation {
                Some(activation) => {
                    sums.map(|sum| bootstrap(activation, sum, unit, network.mode, profile)).collect()
                }
                None => sums.map(|sum| leave(sum, unit, network.mode) * network.outputs.scale).collect(),
            };
        }
        values
    }
}

/// What a bootstrap makes of a sum.
fn bootstrap(activation: &Activation, sum: f64, unit: f64, mode: Mode, profile: Profile) -> f64 {
    match mode {
        Mode::Approximate => {
            let positions = profile.positions() as f64;
            let half = positions / 2.0;
            // Cut downwards; tables hold what is right for the middle.
            let position = ((sum * unit + 0.25) * positions).floor().rem_euclid(positions);
            // The other half of the torus holds the negative of what this half does.
            let (position, sign) = if position < half { (position, 1.0) } else { (position - half, -1.0) };
            sign * activation.at(((position + 0.5) / positions - 0.25) / unit, mode)
        }
        Mode::Exact => {
            let boxes = profile.plaintexts() as f64;
            let place = (sum + boxes / 2.0).round().rem_euclid(2.0 * boxes);
            let (place, sign) = if place < boxes { (place, 1.0) } else { (place - boxes, -1.0) };
            sign * activation.at(place - boxes / 2.0, mode)
        }
    }
}

/// What a client reads of a sum: it lies on the torus, from -1/2 to 1/2.
fn leave(sum: f64, unit: f64, mode: Mode) -> f64 {
    let torus = sum * unit;
    let wrapped = (torus - torus.round()) / unit;
    match mode {
        Mode::Exact => wrapped.round(),
        Mode::Approximate => wrapped,
    }
}

#[cfg(test)]
mod tests;
