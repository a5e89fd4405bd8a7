//! Values of a model on their way through its nodes.

use super::{GraphError, affine::Affine};
use crate::fhe::onnx::{Node, Tensor};
use std::rc::Rc;

/// A value of the model, for one row.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Live {
    /// How many functions came before.
    pub(super) base: usize,
    /// It, as a map of what the last function gave.
    pub(super) affine: Affine,
    /// Its dimensions but that of rows.
    pub(super) shape: Vec<usize>,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Constant(Rc<Tensor>),
    Live(Live),
    /// Made of the answer, which is kept beside: probabilities, labels.
    Answer,
}

/// What is wrong with a node.
pub(super) fn fault(node: &Node, problem: impl Into<String>) -> GraphError {
    GraphError::Node { node: node.title(), problem: problem.into() }
}
