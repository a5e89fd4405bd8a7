//! Operators that leave values as they are, and change their shape. Shapes here have no dimension of rows: what the
//! operator says of the first dimension is only checked.

use super::{GraphError, live::Live, live::fault};
use crate::fhe::onnx::{Node, Tensor};

/// The shape after `Flatten`, `Reshape`, `Squeeze` or `Unsqueeze`.
pub(super) fn reshape(node: &Node, live: &Live, argument: Option<&Tensor>) -> Result<Vec<usize>, GraphError> {
    let argument = match argument {
        Some(tensor) => Some(tensor.integers().ok_or_else(|| fault(node, "its shape is not of whole numbers"))?),
        None => None,
    };
    let rank = live.shape.len() as i64 + 1;
    match node.operator.as_str() {
        "Flatten" => match node.int("axis", 1)? {
            1 => Ok(vec![live.affine.rows.len()]),
            axis if axis == 1 - rank => Ok(vec![live.affine.rows.len()]),
            axis => {
                Err(fault(node, format!("axis is {axis}: flatten from the first dimension, torch.flatten(x, 1)")))
            }
        },
        "Reshape" => {
            let wanted = argument.map_or_else(|| node.ints("shape"), |of| Ok(Some(of)))?;
            to_shape(node, live, &wanted.unwrap_or_default())
        }
        "Squeeze" => {
            let axes = argument.map_or_else(|| node.ints("axes"), |of| Ok(Some(of)))?;
            let axes =
                axes.map(|axes| axes.iter().map(|axis| if *axis < 0 { axis + rank } else { *axis }).collect());
            squeeze(node, live, axes)
        }
        _ => {
            let axes = argument.map_or_else(|| node.ints("axes"), |of| Ok(Some(of)))?.unwrap_or_default();
            let rank = rank + axes.len() as i64;
            let mut axes: Vec<i64> = axes.iter().map(|axis| if *axis < 0 { axis + rank } else { *axis }).collect();
            axes.sort_unstable();
            let mut shape = live.shape.clone();
            for axis in axes {
                let place =
                    usize::try_from(axis - 1).ok().filter(|place| *place <= shape.len() && shape.len() < 8);
                shape.insert(place.ok_or_else(|| fault(node, "adds a dimension before the rows"))?, 1);
            }
            Ok(shape)
        }
    }
}

fn squeeze(node: &Node, live: &Live, axes: Option<Vec<i64>>) -> Result<Vec<usize>, GraphError> {
    let Some(axes) = axes else {
        return Ok(live.shape.iter().copied().filter(|dim| *dim != 1).collect());
    };
    let gone = |place: usize| axes.contains(&(place as i64 + 1));
    let ones = live.shape.iter().enumerate().filter(|(place, dim)| gone(*place) && **dim == 1).count();
    if ones != axes.len() {
        return Err(fault(node, format!("axes {axes:?} are not dimensions of 1 of {:?}", live.shape)));
    }
    Ok(live.shape.iter().enumerate().filter(|(place, _)| !gone(*place)).map(|(_, dim)| *dim).collect())
}

/// The shape that `Reshape` asks for, the first dimension being that of rows.
fn to_shape(node: &Node, live: &Live, wanted: &[i64]) -> Result<Vec<usize>, GraphError> {
    let size = live.affine.rows.len();
    let misfit = || {
        let problem =
            format!("to {wanted:?} is not a shape for each row of {size} values: keep the first dimension");
        fault(node, problem)
    };
    let (rows, rest) = wanted.split_first().ok_or_else(misfit)?;
    if *rows < -1 || rest.len() > 7 {
        return Err(misfit());
    }
    let mut shape = Vec::with_capacity(rest.len());
    let mut open = None;
    for (place, dim) in rest.iter().enumerate() {
        shape.push(match dim {
            0 => *live.shape.get(place).ok_or_else(misfit)?,
            -1 if open.is_none() && *rows != -1 => {
                open = Some(place);
                1
            }
            _ => usize::try_from(*dim).map_err(|_| misfit())?,
        });
    }
    let product = shape.iter().try_fold(1_usize, |product, dim| product.checked_mul(*dim)).ok_or_else(misfit)?;
    if let Some(place) = open {
        if product == 0 || !size.is_multiple_of(product) {
            return Err(misfit());
        }
        shape[place] = size / product;
        return Ok(shape);
    }
    if product == size { Ok(shape) } else { Err(misfit()) }
}
