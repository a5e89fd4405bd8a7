//! A network as it is computed under encryption: small integer weights, and functions that a bootstrap applies.

use serde::{Deserialize, Serialize};

/// Most values that a network takes.
pub const MAX_INPUTS: usize = 4096;
/// Most values that a network gives.
pub const MAX_OUTPUTS: usize = 1000;
/// Most layers.
pub const MAX_LAYERS: usize = 16;
/// Most rows in one layer: each is a bootstrap, but in the last.
pub const MAX_ROWS: usize = 8192;
/// Most weights in all layers.
pub const MAX_WEIGHTS: usize = 1 << 22;
/// Largest magnitude of a weight.
pub const MAX_WEIGHT: i16 = 1024;

/// What is done with a value that the client gives: `(value - offset) * gain`, then held within the bounds of
/// [`Inputs`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Feature {
    /// What is subtracted.
    pub offset: f64,
    /// What is multiplied after.
    pub gain: f64,
}

/// What goes in. In the exact mode values are rounded to whole numbers, in the approximate one they are not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Inputs {
    /// One a value.
    pub features: Vec<Feature>,
    /// The smallest value that the network is given.
    pub low: f64,
    /// The largest.
    pub high: f64,
}

/// A function of one value, in the units of the model.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Function {
    /// `max(x, 0)`.
    Relu,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// The hyperbolic tangent.
    Tanh,
    /// Held within bounds.
    Clip {
        /// The lower one.
        low: f64,
        /// The upper one.
        high: f64,
    },
}

impl Function {
    /// Its value at `x`.
    pub fn at(self, x: f64) -> f64 {
        match self {
            Self::Relu => x.max(0.0),
            Self::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Self::Tanh => x.tanh(),
            Self::Clip { low, high } => x.clamp(low, high),
        }
    }

    /// Its largest slope.
    pub fn steepest(self) -> f64 {
        match self {
            Self::Relu | Self::Tanh | Self::Clip { .. } => 1.0,
            Self::Sigmoid => 0.25,
        }
    }
}

/// What a bootstrap does: takes a sum to the units of the model, applies a function, and rescales.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Activation {
    /// The function.
    pub function: Function,
    /// The value of a unit of the sum, in the units of the model.
    pub scale: f64,
    /// The value of a unit of what comes out, in the units of the model.
    pub step: f64,
}

impl Activation {
    /// What comes out for a sum, in units of `step`; a whole number in the exact mode.
    pub fn at(&self, sum: f64, mode: Mode) -> f64 {
        let value = self.function.at(sum * self.scale) / self.step;
        match mode {
            Mode::Exact => value.round(),
            Mode::Approximate => value,
        }
    }
}

/// One sum: `bias + sum(weight * value)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Added to the products; a whole number in the exact mode.
    pub bias: f64,
    /// Which value, by its place in what comes in, and its weight; none twice, in order.
    pub weights: Vec<(u32, i16)>,
}

/// Sums of all values that come in, each followed by a function but in the last layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    /// The sums.
    pub rows: Vec<Row>,
    /// The largest magnitude that a sum is expected to have, margin included. Larger ones come out wrong: in the exact
    /// mode there are none.
    pub range: f64,
    /// What a bootstrap does with each; none in the last layer.
    pub activation: Option<Activation>,
}

/// What comes out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outputs {
    /// The value of a unit of the last layer's sums, in the units of the model.
    pub scale: f64,
    /// What each value stands for; empty where the model says nothing. With labels the largest value is the answer.
    pub labels: Vec<String>,
}

/// How sums become the input of a bootstrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Sums are whole numbers that fit the plaintext space, and nothing is lost but with a chance of 2^-128.
    Exact,
    /// A bootstrap sees the leading bits of a sum, with noise.
    Approximate,
}

/// A network. [`Network::check`] says whether it is one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// How it is computed.
    pub mode: Mode,
    /// What goes in.
    pub inputs: Inputs,
    /// What is done with it, in order.
    pub layers: Vec<Layer>,
    /// What comes out.
    pub outputs: Outputs,
}

/// Why a network is none, by the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct NetworkFault {
    /// Where in the network.
    pub field: String,
    /// What is wrong.
    pub problem: String,
}

impl NetworkFault {
    pub(super) fn at(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}

/// True for a number that something can be divided by.
fn is_positive(number: f64) -> bool {
    number.is_finite() && number > 1e-12 && number < 1e12
}

impl Network {
    /// Refuses what cannot be computed: sizes over the limits, places that are not there, numbers that are none.
    pub fn check(&self) -> Result<(), NetworkFault> {
        self.inputs.check()?;
        let count = |what: &str, count: usize, most: usize| match count {
            0 => Err(NetworkFault::at(what, "is empty")),
            _ if count > most => {
                Err(NetworkFault::at(what, format!("{count}, where at most {most} are computed")))
            }
            _ => Ok(()),
        };
        count("layers", self.layers.len(), MAX_LAYERS)?;
        let weights = self.layers.iter().flat_map(|layer| &layer.rows).map(|row| row.weights.len()).sum();
        count("weights", weights, MAX_WEIGHTS)?;
        let mut columns = self.inputs.features.len();
        for (index, layer) in self.layers.iter().enumerate() {
            let name = format!("layers[{index}]");
            count(&format!("{name}.rows"), layer.rows.len(), MAX_ROWS)?;
            let last = index + 1 == self.layers.len();
            layer.check(&name, columns, last, self.mode)?;
            columns = layer.rows.len();
        }
        self.outputs.check(columns)?;
        Ok(())
    }

    /// Bootstraps that computing it once takes.
    pub fn bootstraps(&self) -> u32 {
        let rows = self.layers.iter().filter(|layer| layer.activation.is_some()).map(|layer| layer.rows.len());
        u32::try_from(rows.sum::<usize>()).unwrap_or(u32::MAX)
    }

    /// What the network is given for the values of a client, in their order.
    pub fn prepare(&self, values: &[f64]) -> Vec<f64> {
        self.inputs.prepare(values, self.mode)
    }

    /// Computed in the clear without noise: the values of the last layer in the units of the model, and the sums of
    /// each layer.
    pub fn compute(&self, prepared: &[f64]) -> (Vec<f64>, Vec<Vec<f64>>) {
        let mut values = prepared.to_vec();
        let mut all = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let sums: Vec<f64> = layer.rows.iter().map(|row| row.sum(&values)).collect();
            values = match &layer.activation {
                Some(activation) => sums.iter().map(|sum| activation.at(*sum, self.mode)).collect(),
                None => sums.iter().map(|sum| sum * self.outputs.scale).collect(),
            };
            all.push(sums);
        }
        (values, all)
    }
}

impl Outputs {
    pub(super) fn check(&self, count: usize) -> Result<(), NetworkFault> {
        if count == 0 || count > MAX_OUTPUTS {
            let problem = format!("{count} values, where 1 to {MAX_OUTPUTS} are given");
            return Err(NetworkFault::at("outputs", problem));
        }
        let labels = self.labels.len();
        if labels != 0 && labels != count {
            return Err(NetworkFault::at("outputs.labels", format!("{labels} for {count} values")));
        }
        if self.labels.iter().any(|label| label.len() > 64 || label.chars().any(char::is_control)) {
            return Err(NetworkFault::at("outputs.labels", "a label has at most 64 bytes, none of control"));
        }
        if !is_positive(self.scale) {
            return Err(NetworkFault::at("outputs.scale", "is not a positive number"));
        }
        Ok(())
    }
}

impl Inputs {
    pub(super) fn check(&self) -> Result<(), NetworkFault> {
        let features = self.features.len();
        if features == 0 || features > MAX_INPUTS {
            return Err(NetworkFault::at(
                "inputs",
                format!("{features} values, where 1 to {MAX_INPUTS} are taken"),
            ));
        }
        let bounded = |number: f64| number.is_finite() && number.abs() < 1e12;
        if !self.features.iter().all(|feature| bounded(feature.offset) && bounded(feature.gain)) {
            return Err(NetworkFault::at("inputs.features", "offset or gain is not a number below 10^12"));
        }
        if !(bounded(self.low) && bounded(self.high) && self.low < self.high) {
            return Err(NetworkFault::at("inputs", "low and high are not the bounds of an interval"));
        }
        Ok(())
    }

    /// See [`Network::prepare`].
    pub fn prepare(&self, values: &[f64], mode: Mode) -> Vec<f64> {
        let prepare = |(value, feature): (&f64, &Feature)| {
            let value = ((value - feature.offset) * feature.gain).clamp(self.low, self.high);
            match mode {
                Mode::Exact => value.round(),
                Mode::Approximate => value,
            }
        };
        values.iter().zip(&self.features).map(prepare).collect()
    }
}

impl Row {
    /// The sum for what comes in.
    pub fn sum(&self, values: &[f64]) -> f64 {
        let products = self.weights.iter().map(|(place, weight)| f64::from(*weight) * values[*place as usize]);
        self.bias + products.sum::<f64>()
    }

    /// The sum of the squares of its weights: by what the variance of equal, independent noise grows.
    pub fn squares(&self) -> f64 {
        self.weights.iter().map(|(_, weight)| f64::from(*weight).powi(2)).sum()
    }
}

impl Layer {
    fn check(&self, name: &str, columns: usize, last: bool, mode: Mode) -> Result<(), NetworkFault> {
        let fault = |field: &str, problem: &str| Err(NetworkFault::at(format!("{name}.{field}"), problem));
        for row in &self.rows {
            if !row.weights.is_sorted_by(|one, next| one.0 < next.0) {
                return fault("weights", "are not in order");
            }
            if row.weights.iter().any(|(place, weight)| {
                *place as usize >= columns || *weight == 0 || weight.unsigned_abs() > MAX_WEIGHT.unsigned_abs()
            }) {
                return fault("weights", "one is zero, too large, or for a value that does not come in");
            }
            if row.bias.is_nan() || row.bias.abs() >= 1e12 || mode == Mode::Exact && row.bias.fract() != 0.0 {
                return fault("bias", "is not a number, or not a whole one in the exact mode");
            }
        }
        if !is_positive(self.range) {
            return fault("range", "is not a positive number");
        }
        match &self.activation {
            None if last => Ok(()),
            None => fault("activation", "is missing: layers without one are one layer"),
            Some(_) if last => fault("activation", "the last layer has none: the client applies it"),
            Some(of) if !(is_positive(of.scale) && is_positive(of.step)) => {
                fault("activation", "scale or step is not a positive number")
            }
            Some(Activation { function: Function::Clip { low, high }, .. })
                if !(low.is_finite() && high.is_finite() && low <= high) =>
            {
                fault("activation", "low and high are not the bounds of an interval")
            }
            Some(_) => Ok(()),
        }
    }
}
