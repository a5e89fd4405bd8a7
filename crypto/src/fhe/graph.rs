//! A model as what private inference computes: affine maps, each followed by a function of one value.
//!
//! [`Graph::read`] takes it from ONNX. Affine maps that follow one another become one, so that a layer is what a
//! bootstrap ends.

mod advice;
mod affine;
mod answer;
mod build;
mod images;
mod join;
mod linear;
mod live;
mod shapes;

pub use affine::{Affine, Sum};

use super::{
    network::{Function, MAX_INPUTS, MAX_LAYERS, MAX_OUTPUTS, MAX_ROWS, MAX_WEIGHTS},
    onnx::{Model, OnnxError},
};

/// Why a model is not computed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// The file, or one of its tensors or attributes.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// What goes in.
    #[error("the model's input: {0}")]
    Input(String),
    /// What comes out.
    #[error("the model's output: {0}")]
    Output(String),
    /// An operator that is not computed.
    #[error("{node} is not computed under encryption: {advice}")]
    Operator {
        /// The operator and the name of its node.
        node: String,
        /// What to do instead.
        advice: String,
    },
    /// An operator that is, and not in this way.
    #[error("{node}: {problem}")]
    Node {
        /// The operator and the name of its node.
        node: String,
        /// What is wrong, and what to change.
        problem: String,
    },
    /// More than is computed.
    #[error("{node}: {count} {of}, where at most {most} are computed: make the model smaller")]
    TooLarge {
        /// Where.
        node: String,
        /// How many.
        count: usize,
        /// Of what.
        of: &'static str,
        /// The limit.
        most: usize,
    },
}

/// An affine map and the function after it.
#[derive(Clone, Debug, PartialEq)]
pub struct GraphLayer {
    /// What messages call it: the node of the function, or of the last sum.
    pub name: String,
    /// The sums.
    pub affine: Affine,
    /// What is applied to each; none in the last layer.
    pub function: Option<Function>,
}

/// A model in floating point.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    /// Its layers, in order; the last has no function.
    pub layers: Vec<GraphLayer>,
    /// What the outputs stand for, where the model is one of classes.
    pub labels: Vec<String>,
    /// What is left to the client, in sentences.
    pub notes: Vec<String>,
}

impl Graph {
    /// Reads a model in ONNX.
    pub fn read(bytes: &[u8]) -> Result<Self, GraphError> {
        let graph = build::build(Model::read(bytes)?)?;
        graph.check()?;
        Ok(graph)
    }

    /// How many values it takes.
    pub fn columns(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.affine.columns)
    }

    /// How many it gives.
    pub fn outputs(&self) -> usize {
        self.layers.last().map_or(0, |layer| layer.affine.rows.len())
    }

    /// What comes out for [`Graph::columns`] values.
    pub fn evaluate(&self, values: &[f64]) -> Vec<f64> {
        self.sums(values).pop().unwrap_or_default()
    }

    /// The sums of each layer; those of the last are what comes out.
    pub fn sums(&self, values: &[f64]) -> Vec<Vec<f64>> {
        let mut all: Vec<Vec<f64>> = Vec::with_capacity(self.layers.len());
        let mut values = values.to_vec();
        for layer in &self.layers {
            let sums = layer.affine.apply(&values);
            if let Some(function) = layer.function {
                values = sums.iter().map(|sum| function.at(*sum)).collect();
            }
            all.push(sums);
        }
        all
    }

    fn check(&self) -> Result<(), GraphError> {
        let most = |node: &str, count: usize, of: &'static str, most: usize| {
            if count > most {
                Err(GraphError::TooLarge { node: node.to_owned(), count, of, most })
            } else {
                Ok(())
            }
        };
        most("the model", self.columns(), "inputs", MAX_INPUTS)?;
        most("the model", self.outputs(), "outputs", MAX_OUTPUTS)?;
        most("the model", self.layers.len(), "layers", MAX_LAYERS)?;
        let weights = self.layers.iter().map(|layer| layer.affine.weights()).sum();
        most("the model", weights, "weights", MAX_WEIGHTS)?;
        for layer in &self.layers {
            most(&layer.name, layer.affine.rows.len(), "sums in one layer", MAX_ROWS)?;
            if !layer.affine.is_bounded() {
                let problem = "has a weight or offset of 10^12 or more: rescale the model".to_owned();
                return Err(GraphError::Node { node: layer.name.clone(), problem });
            }
        }
        if let Some(label) = self.labels.iter().find(|of| of.len() > 64 || of.chars().any(char::is_control)) {
            let label: String = label.chars().filter(|of| !of.is_control()).take(20).collect();
            let problem = format!("the label \"{label}\" has more than 64 bytes, or a line break");
            return Err(GraphError::Output(problem));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
