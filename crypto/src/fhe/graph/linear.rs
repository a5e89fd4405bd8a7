//! Operators that are affine maps of a row of values: dense layers, arithmetic with constants, scaling.

use super::{
    GraphError,
    affine::Sum,
    live::{Live, fault},
};
use crate::fhe::onnx::{Node, Tensor};

/// Rows of a dense layer: `weight(row, column)` is asked for every pair.
fn dense(
    rows: usize,
    columns: usize,
    weight: impl Fn(usize, usize) -> f64,
    bias: impl Fn(usize) -> f64,
) -> Vec<Sum> {
    let row = |row: usize| {
        let weights = (0..columns).map(|column| (column as u32, weight(row, column)));
        Sum { bias: bias(row), weights: weights.filter(|(_, weight)| *weight != 0.0).collect() }
    };
    (0..rows).map(row).collect()
}

/// The number of columns and rows of a matrix of weights that takes what `live` gives.
fn matrix(node: &Node, live: &Live, weights: &Tensor, transposed: bool) -> Result<(usize, usize), GraphError> {
    let [first, second] = weights.dims[..] else {
        return Err(fault(node, format!("the weights have {} dimensions, not two", weights.dims.len())));
    };
    let (columns, rows) = if transposed { (second, first) } else { (first, second) };
    if live.shape.len() != 1 {
        let problem = format!("it takes an image or table of {:?}: put a Flatten before it", live.shape);
        return Err(fault(node, problem));
    }
    if live.shape[0] != columns {
        return Err(fault(node, format!("takes {columns} values and gets {}", live.shape[0])));
    }
    Ok((columns, rows))
}

/// `MatMul` with a constant.
pub(super) fn matmul(node: &Node, live: &Live, weights: &Tensor) -> Result<Vec<Sum>, GraphError> {
    let (columns, rows) = matrix(node, live, weights, false)?;
    Ok(dense(rows, columns, |row, column| weights.values[column * rows + row], |_| 0.0))
}

/// `Gemm` with constants.
pub(super) fn gemm(
    node: &Node,
    live: &Live,
    weights: &Tensor,
    bias: Option<&Tensor>,
) -> Result<Vec<Sum>, GraphError> {
    if node.int("transA", 0)? != 0 {
        return Err(fault(node, "transA is 1: values cannot be mixed across rows"));
    }
    let transposed = node.int("transB", 0)? != 0;
    let (alpha, beta) = (node.float("alpha", 1.0)?, node.float("beta", 1.0)?);
    let (columns, rows) = matrix(node, live, weights, transposed)?;
    let bias = bias.map(|bias| spread(node, bias, &[rows])).transpose()?;
    let at = |row: usize, column: usize| {
        alpha * weights.values[if transposed { row * columns + column } else { column * rows + row }]
    };
    Ok(dense(rows, columns, at, |row| bias.as_ref().map_or(0.0, |bias| beta * bias[row])))
}

/// A constant repeated to the shape of a value, as broadcasting does.
pub(super) fn spread(node: &Node, tensor: &Tensor, shape: &[usize]) -> Result<Vec<f64>, GraphError> {
    let misfit = || fault(node, format!("a constant of shape {:?} does not fit values of {shape:?}", tensor.dims));
    if tensor.values.is_empty() {
        return Err(misfit());
    }
    // The constant's dimensions from the right; those in front of the value's, the rows' among them, have to be 1.
    let extra = tensor.dims.len().saturating_sub(shape.len());
    if tensor.dims[..extra].iter().any(|dim| *dim != 1) {
        return Err(misfit());
    }
    let mut strides = vec![0; shape.len()];
    let mut stride = 1;
    for (dim, own) in tensor.dims[extra..].iter().rev().enumerate() {
        let place = shape.len() - 1 - dim;
        match *own {
            1 => {}
            _ if *own == shape[place] => strides[place] = stride,
            _ => return Err(misfit()),
        }
        stride *= own;
    }
    let total = shape.iter().product();
    let index = |mut place: usize| {
        let mut index = 0;
        for (dim, stride) in shape.iter().zip(&strides).rev() {
            index += place % dim * stride;
            place /= dim;
        }
        index
    };
    Ok((0..total).map(|place| tensor.values[index(place)]).collect())
}

/// `Add`, `Sub`, `Mul` or `Div` of a value and a constant, `first` where the value stands on the left: a factor and an
/// offset for each.
pub(super) fn arithmetic(
    node: &Node,
    live: &Live,
    constant: &Tensor,
    first: bool,
) -> Result<Vec<(f64, f64)>, GraphError> {
    let constants = spread(node, constant, &live.shape)?;
    let pair = |constant: f64| match (node.operator.as_str(), first) {
        ("Add", _) => Ok((1.0, constant)),
        ("Sub", true) => Ok((1.0, -constant)),
        ("Sub", false) => Ok((-1.0, constant)),
        ("Mul", _) => Ok((constant, 0.0)),
        ("Div", true) if constant != 0.0 => Ok((1.0 / constant, 0.0)),
        ("Div", true) => Err(fault(node, "divides by zero")),
        _ => Err(GraphError::Operator {
            node: node.title(),
            advice: "it divides by a value of the model; divide by a constant".to_owned(),
        }),
    };
    constants.into_iter().map(pair).collect()
}

/// Numbers of an attribute, one for each of `count` values: as many, or one for all.
fn each(node: &Node, attribute: &str, count: usize, default: f64) -> Result<Vec<f64>, GraphError> {
    let values = node.floats(attribute)?.unwrap_or_else(|| vec![default]);
    match values.len() {
        1 => Ok(vec![values[0]; count]),
        of if of == count => Ok(values),
        of => Err(fault(node, format!("attribute \"{attribute}\" has {of} numbers for {count} values"))),
    }
}

/// `Scaler`: a factor and an offset for each value.
pub(super) fn scaler(node: &Node, live: &Live) -> Result<Vec<(f64, f64)>, GraphError> {
    let count = live.affine.rows.len();
    let offsets = each(node, "offset", count, 0.0)?;
    let scales = each(node, "scale", count, 1.0)?;
    Ok(scales.into_iter().zip(offsets).map(|(scale, offset)| (scale, -offset * scale)).collect())
}

/// `BatchNormalization` at inference: a factor and an offset for each value of each channel.
pub(super) fn batch_normalization(
    node: &Node,
    live: &Live,
    constants: [&Tensor; 4],
) -> Result<Vec<(f64, f64)>, GraphError> {
    if node.int("training_mode", 0)? != 0 {
        return Err(fault(node, "it is in training mode: export the model for inference, after model.eval()"));
    }
    let epsilon = node.float("epsilon", 1e-5)?;
    let channels = live.shape.first().copied().unwrap_or(1);
    if constants.iter().any(|of| of.values.len() != channels) {
        return Err(fault(node, format!("does not have four constants for each of {channels} channels")));
    }
    let each = live.affine.rows.len() / channels.max(1);
    let [gain, shift, mean, variance] = constants;
    let mut pairs = Vec::with_capacity(live.affine.rows.len());
    for channel in 0..channels {
        let spread = variance.values[channel] + epsilon;
        if spread <= 0.0 {
            return Err(fault(node, "has a variance that is not positive"));
        }
        let factor = gain.values[channel] / spread.sqrt();
        let offset = shift.values[channel] - mean.values[channel] * factor;
        pairs.extend(std::iter::repeat_n((factor, offset), each));
    }
    Ok(pairs)
}

/// The sums of `LinearClassifier` and `LinearRegressor`.
pub(super) fn linear_model(node: &Node, live: &Live, rows: Option<usize>) -> Result<Vec<Sum>, GraphError> {
    let columns = live.affine.rows.len();
    let coefficients = node.floats("coefficients")?.unwrap_or_default();
    let rows = rows.unwrap_or(coefficients.len() / columns.max(1));
    if rows == 0 || coefficients.len() != rows * columns {
        let problem = format!("has {} coefficients for {columns} values and {rows} outputs", coefficients.len());
        return Err(fault(node, problem));
    }
    let intercepts = node.floats("intercepts")?.filter(|of| !of.is_empty()).unwrap_or_else(|| vec![0.0; rows]);
    if intercepts.len() != rows {
        return Err(fault(node, format!("has {} intercepts for {rows} outputs", intercepts.len())));
    }
    Ok(dense(rows, columns, |row, column| coefficients[row * columns + column], |row| intercepts[row]))
}
