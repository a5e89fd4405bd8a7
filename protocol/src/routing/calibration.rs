//! How far predictions were from what came: pure.

/// How much the newest answer counts, and each one before it by as much less.
const NEWEST: f64 = 0.2;
/// Answers as predicted that a provider is credited with, so that one late answer is no verdict.
const CREDIT: f64 = 1.0;
/// The most that one answer can be off, as a factor: a machine that slept for an hour says nothing about the next answer.
const MOST: f64 = 16.0;

/// What predictions for somebody have been worth. Errors are logarithms of `came / predicted`, so that twice as long and
/// half as long are equally wrong; older ones fade.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Calibration {
    weight: f64,
    signed: f64,
    absolute: f64,
}

impl Calibration {
    /// Takes down what was predicted and what came, both in milliseconds. What is no positive number tells nothing.
    pub fn note(&mut self, predicted_ms: f64, came_ms: f64) {
        let ratio = came_ms / predicted_ms;
        if !(ratio.is_finite() && ratio > 0.0) {
            return;
        }
        let error = ratio.clamp(1.0 / MOST, MOST).ln();
        let keep = 1.0 - NEWEST;
        self.weight = self.weight * keep + 1.0;
        self.signed = self.signed * keep + error;
        self.absolute = self.absolute * keep + error.abs();
    }

    /// By what share answers came later than predicted, 0 where they came in time or sooner; 1 is twice as late. What the
    /// estimated time of a candidate is prolonged by.
    pub fn lateness(&self) -> f64 {
        ((self.signed / (self.weight + CREDIT)).exp() - 1.0).max(0.0)
    }

    /// The typical error as a share: 0.5 says that answers take half as long again as predicted, or as much less. `None`
    /// before there is any.
    pub fn error(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| (self.absolute / self.weight).exp() - 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn after(answers: &[(f64, f64)]) -> Calibration {
        let mut calibration = Calibration::default();
        for (predicted, came) in answers {
            calibration.note(*predicted, *came);
        }
        calibration
    }

    #[test]
    fn lateness_grows_with_evidence_and_fades() {
        assert!(after(&[]).lateness().abs() < f64::EPSILON && after(&[]).error().is_none());
        let once = after(&[(100.0, 400.0)]);
        assert!((once.lateness() - 1.0).abs() < 1e-9, "half of the logarithm of four: {once:?}");
        assert!((once.error().expect("one") - 3.0).abs() < 1e-9);
        let often = after(&[(100.0, 400.0); 50]);
        assert!(often.lateness() > 2.0 && often.lateness() < 3.0, "{often:?}");
        let mended = after(&[[(100.0, 400.0); 50], [(100.0, 100.0); 50]].concat());
        assert!(mended.lateness() < 0.01, "{mended:?}");
        let early = after(&[(400.0, 100.0); 50]);
        assert!(early.lateness().abs() < f64::EPSILON && early.error().expect("some") > 2.9, "wrong, and no harm");
    }

    proptest! {
        #[test]
        fn no_numbers_do_harm(answers in proptest::collection::vec((any::<f64>(), any::<f64>()), 0..40)) {
            let calibration = after(&answers);
            prop_assert!((0.0..MOST).contains(&calibration.lateness()));
            prop_assert!(calibration.error().is_none_or(|error| (0.0..MOST).contains(&error)));
        }
    }
}
