//! Quantisation for bootstraps that see the leading bits of a sum.

use super::{QuantiseError, extremes, largest, largest_weight, rescaled, whole};
use crate::fhe::{
    graph::{Affine, Graph},
    network::{Activation, Feature, Inputs, Layer, Mode, Network, Outputs, Row},
    profile::{Profile, unit},
};

/// Bits of weights that are tried, the sign among them.
pub const WEIGHT_BITS: std::ops::RangeInclusive<u32> = 3..=11;
/// Products that are computed to try the weights of a layer once: fewer rows are looked at where it is large.
const MAX_TRIED: usize = 50_000_000;
/// How much more error is taken for smaller weights.
const INDIFFERENT: f64 = 1.1;

/// Quantises a model for a profile. Without `bits` each layer gets those with which the errors of rounding and the
/// noise are least together: larger weights are rounded less and carry more noise of the values that they weigh. A
/// layer's range is the largest sum over `rows` and a part of it, `margin`, more.
pub fn approximate(
    graph: &Graph,
    rows: &[&[f64]],
    profile: Profile,
    bits: Option<u32>,
    margin: f64,
) -> Result<Network, QuantiseError> {
    let bits = bits.map_or(WEIGHT_BITS, |bits| bits..=bits);
    let (inputs, offsets, mut units) = inputs(graph, rows, margin);
    let mut offsets = Some(offsets);
    let mut values: Vec<Vec<f64>> = rows.iter().map(|row| inputs.prepare(row, Mode::Approximate)).collect();
    let mut layers = Vec::with_capacity(graph.layers.len());
    let mut scale = 1.0;
    for (index, of) in graph.layers.iter().enumerate() {
        let last = index + 1 == graph.layers.len();
        let affine = rescaled(&of.affine, &units, offsets.take().as_deref());
        let noise = profile.noise();
        let coming = if index == 0 { noise.fresh } else { noise.bootstrapped };
        let added = if last { noise.leaving } else { noise.entering };
        let tried = (MAX_TRIED / affine.weights().max(1)).max(50);
        let sample: Vec<&Vec<f64>> = values.iter().step_by(values.len().div_ceil(tried).max(1)).collect();
        let attempt = |bits: u32| -> Result<(f64, Quantised), QuantiseError> {
            let found = Quantised::of(&affine, &sample, largest_weight(bits)?, margin);
            let unit = unit(found.range, last, Mode::Approximate, profile);
            let squares = found.rows.iter().map(Row::squares).sum::<f64>() / found.rows.len() as f64;
            let noise = (coming * squares + added) * (found.step / unit).powi(2);
            Ok((found.error + noise, found))
        };
        let mut best = attempt(*bits.start())?;
        for bits in bits.clone().skip(1) {
            let next = attempt(bits)?;
            if next.0 * INDIFFERENT < best.0 {
                best = next;
            }
        }
        let (_, mut found) = best;
        scale = found.step;
        // The range is that of all rows.
        let sums: Vec<Vec<f64>> = values.iter().map(|values| found.sums(values)).collect();
        found.range = range(&sums, margin);
        let function = of.function.filter(|_| !last);
        let activation = function.map(|function| {
            let largest = sums.iter().flatten().map(|sum| function.at(sum * scale).abs()).fold(0.0, f64::max);
            // So that values are about 1.
            Activation { function, scale, step: if largest > 1e-9 { largest } else { 1.0 } }
        });
        if let Some(activation) = &activation {
            units = vec![activation.step; found.rows.len()];
            let apply = |sums: &Vec<f64>| sums.iter().map(|sum| activation.at(*sum, Mode::Approximate)).collect();
            values = sums.iter().map(apply).collect();
        }
        layers.push(Layer { rows: found.rows, range: found.range, activation });
    }
    let outputs = Outputs { scale, labels: graph.labels.clone() };
    let network = Network { mode: Mode::Approximate, inputs, layers, outputs };
    network.check()?;
    Ok(network)
}

/// Each value as seen in `rows` taken to [-1, 1]; what it was at 0, and the value of its unit.
fn inputs(graph: &Graph, rows: &[&[f64]], margin: f64) -> (Inputs, Vec<f64>, Vec<f64>) {
    let bounds = extremes(graph, rows);
    let offsets: Vec<f64> = bounds.iter().map(|(low, high)| f64::midpoint(*low, *high)).collect();
    let units: Vec<f64> = bounds.iter().map(|(low, high)| (high - low) / 2.0).collect();
    // What never changed is held at what it was: nothing tells how far it could go.
    let gain = |unit: f64| if unit > 1e-9 { 1.0 / unit } else { 0.0 };
    let features = offsets.iter().zip(&units).map(|(offset, unit)| Feature { offset: *offset, gain: gain(*unit) });
    let inputs = Inputs { features: features.collect(), low: -1.0 - margin, high: 1.0 + margin };
    let units = units.into_iter().map(|unit| if unit > 1e-9 { unit } else { 0.0 }).collect();
    (inputs, offsets, units)
}

/// A layer with whole weights.
struct Quantised {
    rows: Vec<Row>,
    /// The value of a unit of a sum, in the units of the model.
    step: f64,
    range: f64,
    /// The mean square of what rounding the weights changes, in the units of the model.
    error: f64,
}

impl Quantised {
    fn of(affine: &Affine, values: &[&Vec<f64>], most: f64, margin: f64) -> Self {
        let step = largest(affine).map_or(1.0, |largest| largest / most);
        let rows: Vec<Row> = affine
            .rows
            .iter()
            .map(|row| Row { bias: row.bias / step, weights: whole(&row.weights, step) })
            .collect();
        let mut found = Self { rows, step, range: 0.0, error: 0.0 };
        let sums: Vec<Vec<f64>> = values.iter().map(|values| found.sums(values)).collect();
        found.range = range(&sums, margin);
        let count = values.len().max(1) * found.rows.len().max(1);
        for (values, sums) in values.iter().zip(&sums) {
            let wrong = affine.rows.iter().zip(sums).map(|(row, sum)| (row.at(values) - sum * step).powi(2));
            found.error += wrong.sum::<f64>() / count as f64;
        }
        found
    }

    fn sums(&self, values: &[f64]) -> Vec<f64> {
        self.rows.iter().map(|row| row.sum(values)).collect()
    }
}

/// The largest magnitude of the sums, and a margin. Where all cancel out it is still more than twice that of a value,
/// which lies on the torus in the same units.
fn range(sums: &[Vec<f64>], margin: f64) -> f64 {
    let largest = sums.iter().flatten().fold(0.0_f64, |largest, sum| largest.max(sum.abs()));
    (1.0 + margin) * largest.max(2.0)
}
