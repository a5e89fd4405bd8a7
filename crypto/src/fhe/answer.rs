//! What a model answers, and whether two answers are one.

/// Difference up to which two values are the same, in standard deviations of the noise of one. Two honest values, each
/// under noise of its own, are farther apart once in 10^9 comparisons of one value.
const DEVIATIONS: f64 = 9.0;
/// The part of a value by which floating point alone may change it.
const ROUNDING: f64 = 1e-9;

/// What a model answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The values of its outputs, in the units of the model.
    pub values: Vec<f64>,
    /// Where the outputs are classes: the place of the largest.
    pub class: Option<usize>,
}

impl Answer {
    /// Whether another says the same: the same class, or values that only `noise` tells apart, the standard deviation of
    /// what encryption adds to each.
    pub fn agrees(&self, other: &Self, noise: f64) -> bool {
        let close = |(a, b): (&f64, &f64)| (a - b).abs() <= DEVIATIONS * noise + ROUNDING * a.abs().max(b.abs());
        let is_class = self.class.is_some() && self.class == other.class;
        self.values.len() == other.values.len() && (is_class || self.values.iter().zip(&other.values).all(close))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_no_difference_and_another_class_is_one() {
        let answer = |values: &[f64], class| Answer { values: values.to_vec(), class };
        assert!(answer(&[1.0, -20.0], None).agrees(&answer(&[1.08, -20.08], None), 0.01));
        assert!(!answer(&[1.0, -20.0], None).agrees(&answer(&[1.1, -20.0], None), 0.01));
        assert!(!answer(&[1.0], None).agrees(&answer(&[1.0, 2.0], None), 0.01));
        // An exact model has no noise.
        assert!(answer(&[0.1 + 0.2], None).agrees(&answer(&[0.3], None), 0.0));
        assert!(!answer(&[3.0], None).agrees(&answer(&[4.0], None), 0.0));
        // One class is one answer, and so are two classes between which there is only noise.
        assert!(answer(&[0.1, 0.9], Some(1)).agrees(&answer(&[0.4, 0.6], Some(1)), 0.01));
        assert!(answer(&[0.51, 0.49], Some(0)).agrees(&answer(&[0.49, 0.51], Some(1)), 0.01));
        assert!(!answer(&[0.8, 0.2], Some(0)).agrees(&answer(&[0.2, 0.8], Some(1)), 0.01));
    }
}
