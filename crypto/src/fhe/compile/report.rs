//! What a compiled network costs, and how much of the model is left in it.

use super::{Calibration, CompileError, Options, calibration::tidy};
use crate::fhe::{
    graph::Graph,
    network::{Mode, Network},
    profile::Profile,
    simulate::{Simulator, layer_unit, predicted_sigmas},
};
use serde::Serialize;

/// How often each row is computed under noise for the report.
const REPEATS: usize = 10;
/// The quantile of the normal distribution for an interval of 99 %.
const QUANTILE_99: f64 = 2.575_829_303_548_901;

/// A share of rows, and the interval that holds the true one with 99 % (Wilson, 1927), for as many rows as were looked
/// at.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Share {
    /// The share that was found, as a part of 1.
    pub share: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// A layer in the report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerReport {
    /// Its node in the model.
    pub name: String,
    /// Its sums.
    pub rows: usize,
    /// Its weights that are not zero.
    pub weights: usize,
    /// Bits of its largest weight, the sign among them.
    pub weight_bits: u32,
    /// The largest magnitude that a sum may have.
    pub range: f64,
    /// The largest predicted standard deviation of the noise of its sums, in their units.
    pub sigma: f64,
    /// How many values within the range are told apart through the noise, each two standard deviations to either side;
    /// in the exact mode those of the plaintext space.
    pub levels: f64,
}

/// What compiling a model found out. Shares are parts of 1, over the rows of the calibration.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// How sums become the input of a bootstrap.
    pub mode: Mode,
    /// The set of parameters.
    pub profile: Profile,
    /// Rows that were looked at.
    pub rows: usize,
    /// How often the model is right; none without labels.
    pub accuracy_float: Option<f64>,
    /// How often the network is right without noise.
    pub accuracy_quantised: Option<f64>,
    /// How often it is right under noise.
    pub accuracy_simulated: Option<Share>,
    /// How often it says the same class as the model without noise; none for a model that is not one of classes.
    pub agreement_quantised: Option<f64>,
    /// The same under noise.
    pub agreement_simulated: Option<Share>,
    /// The root mean square of what noise and rounding change in the outputs, as a part of that of the outputs around
    /// their means.
    pub deviation: f64,
    /// The share of sums under noise that leave their layer's range.
    pub overflow: f64,
    /// Bootstraps that computing it once takes.
    pub bootstraps: u32,
    /// Products of a value with a whole number that it takes.
    pub multiplications: u64,
    /// The seconds that this takes at the rate that was given.
    pub seconds: Option<f64>,
    /// Its layers.
    pub layers: Vec<LayerReport>,
    /// What is left to the client, and what to know.
    pub notes: Vec<String>,
}

impl Share {
    /// The share `part` of `rows`.
    pub fn of(part: f64, rows: usize) -> Self {
        let rows = rows.max(1) as f64;
        let square = QUANTILE_99 * QUANTILE_99;
        let middle = (part + square / (2.0 * rows)) / (1.0 + square / rows);
        let spread = (part * (1.0 - part) / rows + square / (4.0 * rows * rows)).sqrt();
        let half = QUANTILE_99 * spread / (1.0 + square / rows);
        Self { share: part, low: (middle - half).max(0.0), high: (middle + half).min(1.0) }
    }
}

/// The place of the largest value, the first of equals.
pub(super) fn class(values: &[f64]) -> usize {
    let larger = |best: usize, (place, value): (usize, &f64)| if *value > values[best] { place } else { best };
    values.iter().enumerate().fold(0, larger)
}

/// Gives classes the names 0, 1, 2, … where the model says nothing and the labels are such numbers.
pub(super) fn name_classes(graph: &mut Graph, calibration: &Calibration) {
    let outputs = graph.outputs();
    let Some(labels) = &calibration.labels else { return };
    let is_class = |label: &String| label.parse::<usize>().is_ok_and(|class| class < outputs);
    if graph.labels.is_empty() && outputs > 1 && labels.iter().all(is_class) {
        graph.labels = (0..outputs).map(|class| class.to_string()).collect();
    }
}

/// Compares networks with the model.
pub(super) struct Judge<'a> {
    rows: Vec<&'a [f64]>,
    /// What the model puts out for each.
    float: Vec<Vec<f64>>,
    /// The right class of each.
    wanted: Option<Vec<usize>>,
    classes: bool,
}

impl<'a> Judge<'a> {
    /// Looks at every `step`th row.
    pub(super) fn new(graph: &Graph, calibration: &'a Calibration, step: usize) -> Result<Self, CompileError> {
        let rows: Vec<&[f64]> = calibration.rows.iter().step_by(step).map(Vec::as_slice).collect();
        let float = rows.iter().map(|row| graph.evaluate(row)).collect();
        let classes = !graph.labels.is_empty();
        let known: Vec<String> = graph.labels.iter().map(|label| tidy(label)).collect();
        let place = |label: &String| {
            known.iter().position(|known| known == label).ok_or_else(|| CompileError::UnknownLabel {
                label: label.chars().filter(|of| !of.is_control()).take(40).collect(),
                known: known.iter().take(8).cloned().collect::<Vec<_>>().join(", "),
            })
        };
        let wanted = match &calibration.labels {
            Some(labels) if classes => Some(labels.iter().step_by(step).map(place).collect::<Result<_, _>>()?),
            _ => None,
        };
        Ok(Self { rows, float, wanted, classes })
    }

    /// How good outputs are: accuracy, or agreement with the model, or how little they deviate.
    fn score<'b>(&self, outputs: impl Iterator<Item = &'b Vec<f64>>) -> f64 {
        let outputs: Vec<&Vec<f64>> = outputs.collect();
        match (&self.wanted, self.classes) {
            (Some(wanted), _) => same(outputs.iter().map(|of| class(of)), wanted.iter().copied()),
            (None, true) => same(outputs.iter().map(|of| class(of)), self.float.iter().map(|of| class(of))),
            (None, false) => 1.0 - self.deviation(&outputs),
        }
    }

    /// The score of the model itself.
    pub(super) fn float(&self) -> f64 {
        self.score(self.float.iter())
    }

    fn computed(&self, network: &Network) -> Vec<Vec<f64>> {
        self.rows.iter().map(|row| network.compute(&network.prepare(row)).0).collect()
    }

    fn under_noise(&self, network: &Network, profile: Profile, seed: u64) -> Vec<Vec<f64>> {
        let mut simulator = Simulator::new(seed);
        self.rows.iter().map(|row| simulator.compute(network, profile, &network.prepare(row))).collect()
    }

    /// The score of a network without noise.
    pub(super) fn clear(&self, network: &Network) -> f64 {
        self.score(self.computed(network).iter())
    }

    /// The score under noise, the mean of several runs.
    pub(super) fn simulated(&self, network: &Network, profile: Profile, seed: u64) -> f64 {
        let once = |run: usize| self.score(self.under_noise(network, profile, seed ^ run as u64).iter());
        (0..REPEATS).map(once).sum::<f64>() / REPEATS as f64
    }

    /// See [`Report::deviation`].
    fn deviation(&self, outputs: &[&Vec<f64>]) -> f64 {
        let (mut changed, mut spread) = (0.0, 0.0);
        for place in 0..self.float.first().map_or(0, Vec::len) {
            let mean = self.float.iter().map(|of| of[place]).sum::<f64>() / self.float.len() as f64;
            for (float, output) in self.float.iter().zip(outputs) {
                changed += (output[place] - float[place]).powi(2);
                spread += (float[place] - mean).powi(2);
            }
        }
        if spread > 0.0 { (changed / spread).sqrt() } else { changed.sqrt() }
    }

    pub(super) fn report(
        &self,
        graph: &Graph,
        network: &Network,
        profile: Profile,
        options: &Options,
        notes: Vec<String>,
    ) -> Report {
        let clear = self.computed(network);
        let runs: Vec<_> =
            (0..REPEATS).map(|run| self.under_noise(network, profile, options.seed ^ run as u64)).collect();
        let classes = |outputs: &[Vec<f64>]| outputs.iter().map(|of| class(of)).collect::<Vec<_>>();
        let float = classes(&self.float);
        let count = self.rows.len();
        let share = |found: &[usize], wanted: &[usize]| same(found.iter().copied(), wanted.iter().copied());
        let mean = |wanted: &[usize]| {
            let each = runs.iter().map(|run| share(&classes(run), wanted));
            Share::of(each.sum::<f64>() / runs.len() as f64, count)
        };
        let deviations = runs.iter().map(|run| self.deviation(&run.iter().collect::<Vec<_>>()).powi(2));
        let bootstraps = network.bootstraps();
        let wanted = self.wanted.as_deref();
        Report {
            mode: network.mode,
            profile,
            rows: count,
            accuracy_float: wanted.map(|wanted| share(&float, wanted)),
            accuracy_quantised: wanted.map(|wanted| share(&classes(&clear), wanted)),
            accuracy_simulated: wanted.map(mean),
            agreement_quantised: self.classes.then(|| share(&classes(&clear), &float)),
            agreement_simulated: self.classes.then(|| mean(&float)),
            deviation: (deviations.sum::<f64>() / runs.len() as f64).sqrt(),
            overflow: self.overflow(network, profile),
            bootstraps,
            multiplications: network
                .layers
                .iter()
                .flat_map(|of| &of.rows)
                .map(|row| row.weights.len() as u64)
                .sum(),
            seconds: options.bootstraps_per_second.map(|rate| f64::from(bootstraps) / rate),
            layers: layers(graph, network, profile),
            notes,
        }
    }

    /// The expected share of sums that leave what a bootstrap, or the client, takes.
    fn overflow(&self, network: &Network, profile: Profile) -> f64 {
        if network.mode == Mode::Exact {
            return 0.0;
        }
        let sigmas = predicted_sigmas(network, profile);
        let (mut over, mut seen) = (0.0, 0_usize);
        for row in &self.rows {
            let (_, sums) = network.compute(&network.prepare(row));
            for (layer, (sums, sigmas)) in network.layers.iter().zip(sums.iter().zip(&sigmas)) {
                for (sum, sigma) in sums.iter().zip(&sigmas.total) {
                    over += beyond((layer.range - sum) / sigma) + beyond((layer.range + sum) / sigma);
                    seen += 1;
                }
            }
        }
        over / seen.max(1) as f64
    }
}

/// The chance that a standard normal number is over `x` (Abramowitz and Stegun, 26.2.17; to 10^-7).
fn beyond(x: f64) -> f64 {
    if x < 0.0 {
        return 1.0 - beyond(-x);
    }
    let t = 1.0 / (1.0 + 0.231_641_9 * x);
    let sum = t
        * (0.319_381_530 + t * (-0.356_563_782 + t * (1.781_477_937 + t * (-1.821_255_978 + t * 1.330_274_429))));
    (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt() * sum
}

fn same(found: impl Iterator<Item = usize>, wanted: impl Iterator<Item = usize>) -> f64 {
    let (mut right, mut all) = (0_usize, 0_usize);
    for (found, wanted) in found.zip(wanted) {
        right += usize::from(found == wanted);
        all += 1;
    }
    right as f64 / all.max(1) as f64
}

fn layers(graph: &Graph, network: &Network, profile: Profile) -> Vec<LayerReport> {
    let sigmas = predicted_sigmas(network, profile);
    let line = |(index, (layer, of)): (usize, (&crate::fhe::network::Layer, &crate::fhe::graph::GraphLayer))| {
        let weights = layer.rows.iter().flat_map(|row| &row.weights).map(|(_, weight)| weight.unsigned_abs());
        let largest = weights.max().unwrap_or(0);
        let sigma = sigmas[index].own.iter().copied().fold(0.0, f64::max);
        let whole = profile.plaintexts() as f64;
        // A bootstrap tells no more apart than it has positions.
        let position = 1.0 / (profile.positions() as f64 * layer_unit(network, index, profile));
        LayerReport {
            name: of.name.clone(),
            rows: layer.rows.len(),
            weights: layer.rows.iter().map(|row| row.weights.len()).sum(),
            weight_bits: u16::BITS - largest.leading_zeros() + 1,
            range: layer.range,
            sigma,
            levels: if network.mode == Mode::Exact {
                whole
            } else {
                2.0 * layer.range / (4.0 * sigma).max(position)
            },
        }
    };
    network.layers.iter().zip(&graph.layers).enumerate().map(line).collect()
}
