//! Quantisation for exact bootstraps: whole numbers throughout, and sums that fit whatever comes in.

use super::{Need, QuantiseError, extremes, largest, rescaled, whole};
use crate::fhe::{
    graph::{Affine, Graph},
    network::{Activation, Feature, Inputs, Layer, Mode, Network, Outputs, Row},
    profile::Profile,
};

/// The largest inputs that are tried, and the largest values between layers.
const INPUTS: [u32; 13] = [1, 2, 3, 4, 5, 6, 7, 9, 11, 13, 15, 20, 31];
const VALUES: [u32; 6] = [1, 2, 3, 5, 7, 11];
/// Which weights are tried of those that fit, from the smallest, 0, to the largest, 1: rounding favours some by luck.
const SHARES: [f64; 3] = [1.0, 0.8, 0.6];
/// The largest weight that is tried first, in steps of weights: below 1/2 all would be zero.
const SMALLEST: f64 = 0.55;
const GROWTH: f64 = 1.08;
const LARGEST: f64 = 64.0;

/// A network in the exact mode.
#[derive(Clone, Debug, PartialEq)]
pub struct Exact {
    /// The network.
    pub network: Network,
    /// The cheapest profile that computes it.
    pub profile: Profile,
    /// Which share of answers it keeps over the rows of calibration, as the judge that was given says.
    pub kept: f64,
    /// True if all outputs were moved by the same number so that they fit, which changes no class.
    pub shifted: bool,
}

/// Quantises a model for the cheapest of `profiles` with which `judge` finds at least `wanted`, a part of 1, of the
/// model's answers kept.
pub fn exact(
    graph: &Graph,
    rows: &[&[f64]],
    profiles: &[Profile],
    wanted: f64,
    mut judge: impl FnMut(&Network) -> f64,
) -> Result<Exact, QuantiseError> {
    let mut best: Option<Exact> = None;
    let values: &[u32] = if graph.layers.len() == 1 { &VALUES[..1] } else { &VALUES };
    for profile in profiles {
        for (input, value, share) in choices(values) {
            let Some((network, shifted)) = attempt(graph, rows, *profile, input, value, share) else { continue };
            let kept = judge(&network);
            if best.as_ref().is_none_or(|best| kept > best.kept) {
                best = Some(Exact { network, profile: *profile, kept, shifted });
            }
        }
        if let Some(best) = best.take_if(|best| best.kept >= wanted) {
            best.network.check()?;
            return Ok(best);
        }
    }
    // Told of the widest: of no use to know what the cheapest lacks.
    let need = need(graph, rows, profiles.iter().copied().max().unwrap_or(Profile::Widest));
    Err(match best {
        Some(best) => QuantiseError::ExactLoss { kept: 100.0 * best.kept, wanted: 100.0 * wanted, need },
        None => QuantiseError::ExactBits(need),
    })
}

fn choices(values: &[u32]) -> impl Iterator<Item = (u32, u32, f64)> {
    let pairs = INPUTS.iter().flat_map(move |input| values.iter().map(move |value| (*input, *value)));
    pairs.flat_map(|(input, value)| SHARES.iter().map(move |share| (input, value, *share)))
}

/// See [`Need`].
fn need(graph: &Graph, rows: &[&[f64]], profile: Profile) -> Need {
    let mut units: Vec<f64> = extremes(graph, rows).iter().map(|(low, high)| high - low).collect();
    let most = profile.plaintexts().ilog2();
    let mut worst = Need { layer: 0, name: String::new(), bits: 0, profile: profile.name(), most, weights: 0 };
    for (index, layer) in graph.layers.iter().enumerate() {
        let affine = rescaled(&layer.affine, &units, None);
        let step = largest(&affine).map_or(1.0, |largest| largest / 3.0);
        let widths = affine.rows.iter().map(|row| {
            let weights = whole(&row.weights, step);
            1.0 + 3.0 * weights.iter().map(|(_, weight)| f64::from(weight.unsigned_abs())).sum::<f64>()
        });
        // What came here did not fit, if only for its squares or its offsets.
        let bits = (widths.fold(1.0, f64::max).log2().ceil() as u32).max(most + 1);
        if bits > worst.bits {
            let weights = layer.affine.rows.iter().map(|row| row.weights.len()).max().unwrap_or(0);
            worst = Need { layer: index + 1, name: layer.name.clone(), bits, weights, ..worst };
        }
        units = vec![1.0; affine.rows.len()];
    }
    worst
}

/// A network with inputs up to `input` and values between layers about up to `value`, and whether its outputs were
/// shifted; none where its sums do not fit.
fn attempt(
    graph: &Graph,
    rows: &[&[f64]],
    profile: Profile,
    input: u32,
    value: u32,
    share: f64,
) -> Option<(Network, bool)> {
    let bounds = extremes(graph, rows);
    let levels = f64::from(input);
    let gain = |low: f64, high: f64| if high - low > 1e-9 { levels / (high - low) } else { 0.0 };
    let features = bounds.iter().map(|(low, high)| Feature { offset: *low, gain: gain(*low, *high) }).collect();
    let inputs = Inputs { features, low: 0.0, high: levels };
    let offsets: Vec<f64> = bounds.iter().map(|(low, _)| *low).collect();
    let mut units: Vec<f64> =
        inputs.features.iter().map(|of| if of.gain > 0.0 { 1.0 / of.gain } else { 0.0 }).collect();
    let mut offsets = Some(offsets);
    let mut values: Vec<Vec<f64>> = rows.iter().map(|row| inputs.prepare(row, Mode::Exact)).collect();
    let mut intervals = vec![(0.0, levels); inputs.features.len()];
    let mut layers = Vec::with_capacity(graph.layers.len());
    let (mut scale, mut shifted) = (1.0, false);
    for (index, of) in graph.layers.iter().enumerate() {
        let affine = rescaled(&of.affine, &units, offsets.take().as_deref());
        let last = index + 1 == graph.layers.len();
        let free = last && !graph.labels.is_empty();
        let found = Fitted::of(&affine, &intervals, profile, free, share)?;
        scale = found.step;
        shifted |= found.shifted;
        let sums: Vec<Vec<f64>> =
            values.iter().map(|values| found.rows.iter().map(|row| row.sum(values)).collect()).collect();
        let activation = of.function.filter(|_| !last).map(|function| {
            let largest = sums.iter().flatten().map(|sum| function.at(sum * scale).abs()).fold(0.0, f64::max);
            let step = if largest > 1e-9 { largest / f64::from(value) } else { 1.0 };
            Activation { function, scale, step }
        });
        if let Some(activation) = &activation {
            units = vec![activation.step; found.rows.len()];
            let apply = |sums: &Vec<f64>| sums.iter().map(|sum| activation.at(*sum, Mode::Exact)).collect();
            values = sums.iter().map(apply).collect();
            // Functions never fall, so that the bounds of a sum give those of the value.
            let bounds =
                |(low, high): &(f64, f64)| (activation.at(*low, Mode::Exact), activation.at(*high, Mode::Exact));
            intervals = found.intervals.iter().map(bounds).collect();
        }
        let range = found.intervals.iter().fold(1.0_f64, |range, of| range.max(of.0.abs()).max(of.1.abs()));
        layers.push(Layer { rows: found.rows, range, activation });
    }
    let outputs = Outputs { scale, labels: graph.labels.clone() };
    Some((Network { mode: Mode::Exact, inputs, layers, outputs }, shifted))
}

/// The least and largest sum of a row for values within intervals.
pub(super) fn interval(row: &Row, intervals: &[(f64, f64)]) -> (f64, f64) {
    row.weights.iter().fold((row.bias, row.bias), |(least, most), (place, weight)| {
        let (low, high) = intervals[*place as usize];
        let (one, other) = (f64::from(*weight) * low, f64::from(*weight) * high);
        (least + one.min(other), most + one.max(other))
    })
}

/// A layer whose sums fit.
struct Fitted {
    rows: Vec<Row>,
    /// The value of a unit of a sum, in the units of the model.
    step: f64,
    /// The bounds of each sum.
    intervals: Vec<(f64, f64)>,
    shifted: bool,
}

impl Fitted {
    /// The layer with those weights of all that fit that `share` says; `free` where a number may be added to all sums.
    fn of(affine: &Affine, values: &[(f64, f64)], profile: Profile, free: bool, share: f64) -> Option<Self> {
        let largest = largest(affine)?;
        let (mut fits, mut misses, mut weight) = (Vec::new(), 0, SMALLEST);
        // Rounding makes weights grow unevenly: a few misses are not the end.
        while misses < 4 && weight <= LARGEST {
            match Self::with(affine, values, largest / weight, profile, free) {
                Some(_) => {
                    fits.push(weight);
                    misses = 0;
                }
                None => misses += 1,
            }
            weight *= GROWTH;
        }
        let chosen = (fits.len().checked_sub(1)? as f64 * share).round() as usize;
        Self::with(affine, values, largest / fits[chosen], profile, free)
    }

    fn with(affine: &Affine, values: &[(f64, f64)], step: f64, profile: Profile, free: bool) -> Option<Self> {
        let half = profile.plaintexts() as f64 / 2.0;
        let mut rows = Vec::with_capacity(affine.rows.len());
        let mut intervals = Vec::with_capacity(affine.rows.len());
        for row in &affine.rows {
            let row = Row { bias: (row.bias / step).round(), weights: whole(&row.weights, step) };
            let bounds = interval(&row, values);
            if row.squares() > profile.exact_squares() || bounds.1 - bounds.0 > 2.0 * half - 1.0 {
                return None;
            }
            rows.push(row);
            intervals.push(bounds);
        }
        let least = intervals.iter().fold(f64::INFINITY, |least, of| least.min(of.0));
        let most = intervals.iter().fold(f64::NEG_INFINITY, |most, of| most.max(of.1));
        let fits = least >= -half && most < half;
        let shift = if fits || !free { 0.0 } else { -f64::midpoint(least, most + 1.0).round() };
        if least + shift < -half || most + shift >= half || rows.iter().all(|row| row.weights.is_empty()) {
            return None;
        }
        for (row, bounds) in rows.iter_mut().zip(&mut intervals) {
            row.bias += shift;
            *bounds = (bounds.0 + shift, bounds.1 + shift);
        }
        Some(Self { rows, step, intervals, shifted: shift != 0.0 })
    }
}
