//! Opens answers. Called once a job is over, with nothing in hand that leads to others.

use super::verdicts::Verdict;
use aitbc_crypto::fhe::{Answer, ClientKey, Interface, OutputError};
use aitbc_protocol::{NodeId, bytes::BoundedBytes, sealed::MAX_SEALED_OUTPUT};
use std::sync::Arc;

/// Difference up to which two values are the same, in standard deviations of the noise of one. Two honest values, each
/// under noise of its own, are farther apart once in 10^9 comparisons of one value.
const DEVIATIONS: f64 = 9.0;
/// The part of a value by which floating point alone may change it.
const ROUNDING: f64 = 1e-9;

/// An answer as it came, with what opens it.
#[derive(Debug)]
pub(super) struct Closed {
    pub(super) provider: NodeId,
    pub(super) interface: Arc<Interface>,
    pub(super) key: Arc<ClientKey>,
    pub(super) sealed: BoundedBytes<MAX_SEALED_OUTPUT>,
}

/// Answers of one or two providers.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) answer: Answer,
    pub(super) labels: Vec<String>,
    /// Set where two were compared.
    pub(super) verdict: Option<Verdict>,
}

/// Opens the first answer, and compares it with the second if there is one.
pub(super) fn open(closed: &[Closed]) -> Result<Opened, OutputError> {
    let mut answers = closed.iter().map(|one| one.key.decrypt(&one.interface, &one.sealed));
    let first = answers.next().unwrap_or(Err(OutputError::Length { expected: 1, got: 0 }))?;
    let labels = closed.first().map(|one| one.interface.labels().to_vec()).unwrap_or_default();
    // Each provider has said how noisy its model is: who exaggerates hides no lie.
    let noise = closed.iter().map(|one| one.interface.noise()).fold(f64::INFINITY, f64::min);
    let verdict = answers.next().map(|second| Verdict {
        providers: closed.iter().map(|one| one.provider).collect(),
        // An answer that does not open is not the same as one that does.
        agree: second.is_ok_and(|second| same(&first, &second, noise)),
    });
    Ok(Opened { answer: first, labels, verdict })
}

/// Whether two answers say the same: the same class, or values that only `noise` tells apart.
fn same(one: &Answer, other: &Answer, noise: f64) -> bool {
    let close = |(a, b): (&f64, &f64)| (a - b).abs() <= DEVIATIONS * noise + ROUNDING * a.abs().max(b.abs());
    let values = one.values.len() == other.values.len();
    values && (one.class.is_some() && one.class == other.class || one.values.iter().zip(&other.values).all(close))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_no_difference_and_another_class_is_one() {
        let answer = |values: &[f64], class| Answer { values: values.to_vec(), class };
        assert!(same(&answer(&[1.0, -20.0], None), &answer(&[1.08, -20.08], None), 0.01));
        assert!(!same(&answer(&[1.0, -20.0], None), &answer(&[1.1, -20.0], None), 0.01));
        assert!(!same(&answer(&[1.0], None), &answer(&[1.0, 2.0], None), 0.01));
        // An exact model has no noise.
        assert!(same(&answer(&[0.1 + 0.2], None), &answer(&[0.3], None), 0.0));
        assert!(!same(&answer(&[3.0], None), &answer(&[4.0], None), 0.0));
        // One class is one answer, and so are two classes between which there is only noise.
        assert!(same(&answer(&[0.1, 0.9], Some(1)), &answer(&[0.4, 0.6], Some(1)), 0.01));
        assert!(same(&answer(&[0.51, 0.49], Some(0)), &answer(&[0.49, 0.51], Some(1)), 0.01));
        assert!(!same(&answer(&[0.8, 0.2], Some(0)), &answer(&[0.2, 0.8], Some(1)), 0.01));
    }
}
