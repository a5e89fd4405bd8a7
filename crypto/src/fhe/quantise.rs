//! From a model in floating point to a network of small whole weights, by rows that it is calibrated with.

mod approximate;
mod exact;

pub use approximate::{WEIGHT_BITS, approximate};
pub use exact::{Exact, exact};

use super::{
    graph::{Affine, Graph},
    network::{MAX_WEIGHT, NetworkFault},
};

/// Why no network is made of a model.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum QuantiseError {
    /// Bits of weights that are not possible.
    #[error("weights of {0} bits: choose 2 to 11")]
    WeightBits(u32),
    /// What came of it is no network.
    #[error("the quantised model: {0}")]
    Network(#[from] NetworkFault),
    /// Sums that no exact bootstrap takes.
    #[error("in the exact mode {0}")]
    ExactBits(Need),
    /// It fits, and is no longer what it was.
    #[error(
        "in the exact mode the model keeps {kept:.1} % of its answers at best, where {wanted:.1} % were asked (a \
         larger loss can be allowed): {need}"
    )]
    ExactLoss {
        /// Which share of answers it keeps, in percent.
        kept: f64,
        /// Which share was asked.
        wanted: f64,
        /// What it would need.
        need: Need,
    },
}

/// What the layer that is hardest to compute exactly would need, with values of two bits and weights of three.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "layer {layer}, {name}, needs sums of {bits} bits, where the profile {profile} takes {most}: use the approximate \
     mode, or train a model with fewer weights to each sum ({weights} here)"
)]
pub struct Need {
    /// Which layer, from 1.
    pub layer: usize,
    /// Its node.
    pub name: String,
    /// Bits of its widest sum.
    pub bits: u32,
    /// The widest profile that was tried.
    pub profile: &'static str,
    /// Bits of sums that it takes.
    pub most: u32,
    /// The most weights of one of its sums.
    pub weights: usize,
}

/// The largest magnitude of a weight of that many bits, its sign among them.
fn largest_weight(bits: u32) -> Result<f64, QuantiseError> {
    if (2..=11).contains(&bits) {
        Ok(f64::from(((1_i16 << (bits - 1)) - 1).min(MAX_WEIGHT)))
    } else {
        Err(QuantiseError::WeightBits(bits))
    }
}

/// The largest magnitude of the weights of a map; none where it has none.
fn largest(affine: &Affine) -> Option<f64> {
    let weights = affine.rows.iter().flat_map(|row| &row.weights).map(|(_, weight)| weight.abs());
    weights.reduce(f64::max).filter(|largest| *largest > 0.0)
}

/// A map for values in other units: the weights of a column times the value of its unit, what is subtracted before in
/// the bias.
fn rescaled(affine: &Affine, units: &[f64], offsets: Option<&[f64]>) -> Affine {
    let mut affine = affine.clone();
    for row in &mut affine.rows {
        if let Some(offsets) = offsets {
            row.bias += row.weights.iter().map(|(place, weight)| weight * offsets[*place as usize]).sum::<f64>();
        }
        row.weights.iter_mut().for_each(|(place, weight)| *weight *= units[*place as usize]);
        row.weights.retain(|(_, weight)| *weight != 0.0);
    }
    affine
}

/// Weights as whole numbers of `step`; what rounds to zero is left out.
fn whole(weights: &[(u32, f64)], step: f64) -> Vec<(u32, i16)> {
    let bounded =
        |weight: f64| (weight / step).round().clamp(-f64::from(MAX_WEIGHT), f64::from(MAX_WEIGHT)) as i16;
    weights.iter().map(|(place, weight)| (*place, bounded(*weight))).filter(|(_, weight)| *weight != 0).collect()
}

/// The least and largest of each value over rows.
fn extremes(graph: &Graph, rows: &[&[f64]]) -> Vec<(f64, f64)> {
    let mut bounds = vec![(f64::INFINITY, f64::NEG_INFINITY); graph.columns()];
    for row in rows {
        for (bound, value) in bounds.iter_mut().zip(*row) {
            *bound = (bound.0.min(*value), bound.1.max(*value));
        }
    }
    // Without rows nothing is known; compile refuses that before.
    bounds.iter().map(|(low, high)| if low <= high { (*low, *high) } else { (0.0, 1.0) }).collect()
}

#[cfg(test)]
pub(in crate::fhe) mod tests;
