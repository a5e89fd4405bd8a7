//! Affine maps with few weights a row.

use crate::fhe::network::{MAX_ROWS, MAX_WEIGHTS};

/// Most products that are computed to merge the maps of one model.
pub(super) const MAX_WORK: usize = 1 << 29;

/// `bias + sum(weight * value)`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sum {
    /// Added to the products.
    pub bias: f64,
    /// Which value, and its weight; none twice, in order.
    pub weights: Vec<(u32, f64)>,
}

/// Sums of the same values.
#[derive(Clone, Debug, PartialEq)]
pub struct Affine {
    /// How many values come in.
    pub columns: usize,
    /// The sums.
    pub rows: Vec<Sum>,
}

impl Sum {
    /// One value, times a number, and a number added.
    pub fn scaled(place: usize, weight: f64, bias: f64) -> Self {
        Self { bias, weights: vec![(place as u32, weight)] }
    }

    /// Its value for what comes in.
    pub fn at(&self, values: &[f64]) -> f64 {
        self.bias + self.weights.iter().map(|(place, weight)| weight * values[*place as usize]).sum::<f64>()
    }
}

impl Affine {
    /// The map that changes nothing.
    pub fn identity(columns: usize) -> Self {
        Self { columns, rows: (0..columns).map(|place| Sum::scaled(place, 1.0, 0.0)).collect() }
    }

    /// True for the map that changes nothing.
    pub fn is_identity(&self) -> bool {
        self.rows.len() == self.columns
            && self.rows.iter().enumerate().all(|(place, row)| *row == Sum::scaled(place, 1.0, 0.0))
    }

    /// Its sums.
    pub fn apply(&self, values: &[f64]) -> Vec<f64> {
        self.rows.iter().map(|row| row.at(values)).collect()
    }

    /// How many weights it has.
    pub fn weights(&self) -> usize {
        self.rows.iter().map(|row| row.weights.len()).sum()
    }

    /// True if every number in it can be computed with.
    pub(super) fn is_bounded(&self) -> bool {
        let bounded = |number: f64| number.is_finite() && number.abs() < 1e12;
        self.rows.iter().all(|row| bounded(row.bias) && row.weights.iter().all(|(_, weight)| bounded(*weight)))
    }

    /// This map of what `inner` gives, as one map, and the products that it took; none where it takes more than `work`
    /// products or would have more than [`MAX_WEIGHTS`] weights or [`MAX_ROWS`] rows.
    pub(super) fn after(self, inner: &Self, work: usize) -> Option<(Self, usize)> {
        if self.rows.len() > MAX_ROWS || self.weights() > MAX_WEIGHTS {
            return None;
        }
        if inner.is_identity() {
            return Some((self, 0));
        }
        let mut sums = vec![0.0; inner.columns];
        let mut seen = vec![false; inner.columns];
        let (mut products, mut weights) = (0_usize, 0_usize);
        let mut rows = Vec::with_capacity(self.rows.len());
        for row in self.rows {
            let mut touched = Vec::new();
            let mut bias = row.bias;
            for (place, outer) in row.weights {
                let from = &inner.rows[place as usize];
                bias += outer * from.bias;
                products += from.weights.len();
                for (column, weight) in &from.weights {
                    let column = *column as usize;
                    if !seen[column] {
                        seen[column] = true;
                        touched.push(column as u32);
                    }
                    sums[column] += outer * weight;
                }
            }
            touched.sort_unstable();
            weights += touched.len();
            if products > work || weights > MAX_WEIGHTS {
                return None;
            }
            let merged = touched.into_iter().map(|column| {
                seen[column as usize] = false;
                (column, std::mem::take(&mut sums[column as usize]))
            });
            // What cancels out would cost a product under encryption for nothing.
            rows.push(Sum { bias, weights: merged.filter(|(_, weight)| *weight != 0.0).collect() });
        }
        Some((Self { columns: inner.columns, rows }, products))
    }
}
