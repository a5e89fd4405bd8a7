//! From a model in ONNX and rows to calibrate it with to a network, the profile that it needs, and what is left of its
//! accuracy.

mod calibration;
mod report;

pub use calibration::{Calibration, CalibrationError, MAX_CALIBRATION_BYTES, MAX_CALIBRATION_ROWS};
pub use report::{LayerReport, Report, Share};

use super::{
    graph::{Graph, GraphError},
    network::{Mode, Network},
    profile::Profile,
    quantise::{self, QuantiseError},
};
use report::Judge;

/// Products that are computed in the clear to judge one network: fewer rows are looked at where a model is large.
const MAX_JUDGED: usize = 50_000_000;
/// Products that are computed to find the ranges of sums, which should be over many rows.
const MAX_CALIBRATED: usize = 1_000_000_000;
/// Fewer rows of calibration than this show too little of what comes.
const FEW_ROWS: usize = 100;
/// Fewest rows that are looked at all the same.
const FEWEST_JUDGED: usize = 50;

/// How a model is compiled.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// How sums become the input of a bootstrap.
    pub mode: Mode,
    /// The set of parameters; without one the cheapest that keeps the accuracy.
    pub profile: Option<Profile>,
    /// Bits of weights in the approximate mode, 2 to 11; without, those that suit each layer.
    pub weight_bits: Option<u32>,
    /// How much further than the largest sum that was seen the approximate mode reaches, as a part of it.
    pub margin: f64,
    /// How much accuracy, or agreement with the model where rows have no labels, may be lost, as a part of 1. Without a
    /// profile that loses no more the approximate mode takes the best, and says so; the exact one fails.
    pub tolerance: f64,
    /// Bootstraps a second of the machine that will compute it, for the time in the report.
    pub bootstraps_per_second: Option<f64>,
    /// Where the simulated noise starts.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mode: Mode::Approximate,
            profile: None,
            weight_bits: None,
            margin: 0.25,
            tolerance: 0.005,
            bootstraps_per_second: None,
            seed: 0,
        }
    }
}

/// What a model became.
#[derive(Clone, Debug, PartialEq)]
pub struct Compiled {
    /// The network.
    pub network: Network,
    /// The set of parameters that it is for.
    pub profile: Profile,
    /// What it costs and how good it is.
    pub report: Report,
}

/// Why a model was not compiled.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CompileError {
    /// The model.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The rows.
    #[error(transparent)]
    Calibration(#[from] CalibrationError),
    /// The model does not become a network.
    #[error(transparent)]
    Quantise(#[from] QuantiseError),
    /// Rows for another model.
    #[error(
        "the calibration has {found} values a row, where the model takes {expected}{}",
        label_hint(*found, *expected)
    )]
    Columns {
        /// What a row has.
        found: usize,
        /// What the model takes.
        expected: usize,
    },
    /// Labels that the model does not know.
    #[error("the calibration's label \"{label}\" is none of the model's: {known}")]
    UnknownLabel {
        /// The label.
        label: String,
        /// The model's, the first of them.
        known: String,
    },
    /// An option out of its bounds.
    #[error("{option} is {value}: choose {bounds}")]
    Option {
        /// Which.
        option: &'static str,
        /// What it is.
        value: String,
        /// What it could be.
        bounds: &'static str,
    },
}

fn label_hint(found: usize, expected: usize) -> &'static str {
    if found == expected + 1 { ": name the column of labels" } else { "" }
}

impl Options {
    fn check(&self) -> Result<(), CompileError> {
        let within = |option, value: f64, low: f64, high: f64, bounds| {
            if (low..=high).contains(&value) {
                Ok(())
            } else {
                Err(CompileError::Option { option, value: value.to_string(), bounds })
            }
        };
        within("margin", self.margin, 0.0, 10.0, "0 to 10")?;
        within("tolerance", self.tolerance, 0.0, 1.0, "0 to 1")?;
        let rate = self.bootstraps_per_second.unwrap_or(1.0);
        within("bootstraps_per_second", rate, 1e-6, 1e12, "a positive number")
    }
}

/// Compiles a model.
pub fn compile(onnx: &[u8], calibration: &Calibration, options: &Options) -> Result<Compiled, CompileError> {
    compile_graph(Graph::read(onnx)?, calibration, options)
}

/// Compiles a model that was read, or made: every place in it has to be there.
pub fn compile_graph(
    mut graph: Graph,
    calibration: &Calibration,
    options: &Options,
) -> Result<Compiled, CompileError> {
    options.check()?;
    let (found, expected) = (calibration.columns(), graph.columns());
    if found != expected {
        return Err(CompileError::Columns { found, expected });
    }
    report::name_classes(&mut graph, calibration);
    let judge = Judge::new(&graph, calibration, step(&graph, calibration, MAX_JUDGED))?;
    let mut notes = std::mem::take(&mut graph.notes);
    let every =
        |most| calibration.rows.iter().step_by(step(&graph, calibration, most)).map(Vec::as_slice).collect();
    let wanted = (judge.float() - options.tolerance).max(0.0);
    let (network, profile) = match options.mode {
        Mode::Exact => {
            let profiles = options.profile.map_or_else(|| Profile::ALL.to_vec(), |profile| vec![profile]);
            let rows: Vec<&[f64]> = every(MAX_JUDGED);
            let found = quantise::exact(&graph, &rows, &profiles, wanted, |network| judge.clear(network))?;
            if found.shifted {
                notes.push(
                    "all outputs are moved by one number so that they fit, which changes no class".to_owned(),
                );
            }
            (found.network, found.profile)
        }
        Mode::Approximate => {
            let rows: Vec<&[f64]> = every(MAX_CALIBRATED);
            let attempt = |profile: Profile| -> Result<(f64, Network, Profile), QuantiseError> {
                let network = quantise::approximate(&graph, &rows, profile, options.weight_bits, options.margin)?;
                Ok((judge.simulated(&network, profile, options.seed), network, profile))
            };
            let [cheapest, dearer @ ..] = Profile::ALL;
            let mut best = attempt(options.profile.unwrap_or(cheapest))?;
            for profile in dearer.into_iter().filter(|_| options.profile.is_none()) {
                if best.0 >= wanted {
                    break;
                }
                let next = attempt(profile)?;
                if next.0 > best.0 {
                    best = next;
                }
            }
            let (kept, network, profile) = best;
            if kept < wanted {
                notes.push(format!(
                    "under noise it keeps {:.2} % where {:.2} % were asked: use a wider profile, fewer layers or fewer \
                     weights to each sum",
                    100.0 * kept,
                    100.0 * wanted
                ));
            }
            (network, profile)
        }
    };
    if options.mode == Mode::Approximate && calibration.rows.len() < FEW_ROWS {
        notes.push(format!(
            "calibrated with {} rows only: sums of other rows may leave the range, give some hundreds",
            calibration.rows.len()
        ));
    }
    if calibration.labels.is_some() && graph.labels.is_empty() {
        notes.push("the labels are not used, since the model is not one of classes".to_owned());
    }
    let report = judge.report(&graph, &network, profile, options, notes);
    Ok(Compiled { network, profile, report })
}

/// Measures a network against its model on other rows than those it was calibrated with.
pub fn measure(
    graph: &Graph,
    network: &Network,
    profile: Profile,
    rows: &Calibration,
    options: &Options,
) -> Result<Report, CompileError> {
    let mut graph = graph.clone();
    let (found, expected) = (rows.columns(), graph.columns());
    if found != expected || network.inputs.features.len() != expected {
        return Err(CompileError::Columns { found, expected });
    }
    graph.labels.clone_from(&network.outputs.labels);
    let step = step(&graph, rows, MAX_JUDGED);
    Ok(Judge::new(&graph, rows, step)?.report(&graph, network, profile, options, Vec::new()))
}

/// Every how many rows one is looked at: evenly from all, since files are often sorted by class.
fn step(graph: &Graph, rows: &Calibration, products: usize) -> usize {
    let weights: usize = graph.layers.iter().map(|layer| layer.affine.weights()).sum();
    let most = (products / weights.max(1)).max(FEWEST_JUDGED);
    rows.rows.len().div_ceil(most).max(1)
}

#[cfg(test)]
mod tests;
