//! Several values of the same layer as one.

use super::{
    GraphError,
    advice::advice,
    affine::{Affine, Sum},
    build::Builder,
    live::{Live, fault},
};
use crate::fhe::{
    network::MAX_ROWS,
    onnx::{Node, Tensor},
};
use std::rc::Rc;

impl Builder {
    /// The sum or difference of two values of the same layer.
    pub(super) fn combine(&mut self, node: &Node, one: Live, other: Live) -> Result<Live, GraphError> {
        let sign = match node.operator.as_str() {
            "Add" => 1.0,
            "Sub" => -1.0,
            operator => {
                let advice = match operator {
                    "Mul" | "MatMul" | "Gemm" | "Div" => "it multiplies values of the model with each other",
                    _ => advice(operator),
                };
                return Err(GraphError::Operator { node: node.title(), advice: advice.to_owned() });
            }
        };
        if one.base != other.base || one.shape != other.shape {
            return Err(fault(
                node,
                "joins values of different layers or shapes: only sums of one layer are joined",
            ));
        }
        self.spend(node, &one)?;
        self.spend(node, &other)?;
        let columns = one.affine.columns;
        let count = one.affine.rows.len();
        let rows = one.affine.rows.into_iter().chain(other.affine.rows).collect();
        let both = Affine { columns, rows };
        let pair = |row: usize| Sum { bias: 0.0, weights: vec![(row as u32, 1.0), ((row + count) as u32, sign)] };
        let outer = Affine { columns: 2 * count, rows: (0..count).map(pair).collect() };
        let (affine, _) = outer.after(&both, self.work).ok_or_else(|| fault(node, "is too large"))?;
        Ok(Live { affine, ..one })
    }

    /// Rows of several values of the same layer beside each other.
    pub(super) fn concatenate(
        &mut self,
        node: &Node,
        lives: Vec<(usize, Live)>,
        constants: &[Option<Rc<Tensor>>],
    ) -> Result<Live, GraphError> {
        let base = lives.first().map_or(0, |(_, live)| live.base);
        let axis = node.int("axis", 1)?;
        let flat = lives.iter().all(|(_, live)| live.base == base && live.shape.len() == 1);
        if constants.iter().any(Option::is_some) || !flat || !matches!(axis, 1 | -1) {
            return Err(fault(
                node,
                "joins values of different layers, constants, or images: only rows of one layer are",
            ));
        }
        let mut rows = Vec::new();
        let mut columns = 0;
        for (_, live) in lives {
            self.spend(node, &live)?;
            columns = live.affine.columns;
            rows.extend(live.affine.rows);
            if rows.len() > MAX_ROWS {
                let (count, of) = (rows.len(), "sums in one layer");
                return Err(GraphError::TooLarge { node: node.title(), count, of, most: MAX_ROWS });
            }
        }
        Ok(Live { base, shape: vec![rows.len()], affine: Affine { columns, rows } })
    }
}
