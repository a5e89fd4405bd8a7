//! Opens answers. Called once a job is over, with nothing in hand that leads to others.

use super::verdicts::Verdict;
use aitbc_crypto::fhe::{Answer, ClientKey, Interface, OutputError};
use aitbc_protocol::{NodeId, bytes::BoundedBytes, private::MAX_SEALED_OUTPUT};
use std::sync::Arc;

/// Difference up to which two values are the same, as a part of the larger one or of 1: noise of two keys, and more.
const TOLERANCE: f64 = 0.05;

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
    let verdict = answers.next().map(|second| Verdict {
        providers: closed.iter().map(|one| one.provider).collect(),
        // An answer that does not open is not the same as one that does.
        agree: second.is_ok_and(|second| same(&first, &second)),
    });
    Ok(Opened { answer: first, labels, verdict })
}

/// Whether two answers say the same: the same class, or the same values up to the noise.
fn same(one: &Answer, other: &Answer) -> bool {
    let close = |(a, b): (&f64, &f64)| (a - b).abs() <= TOLERANCE * a.abs().max(b.abs()).max(1.0);
    match (one.class, other.class) {
        (Some(one), Some(other)) => one == other,
        _ => one.values.len() == other.values.len() && one.values.iter().zip(&other.values).all(close),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_no_difference_and_another_class_is_one() {
        let answer = |values: &[f64], class| Answer { values: values.to_vec(), class };
        assert!(same(&answer(&[1.0, -20.0], None), &answer(&[1.04, -20.9], None)));
        assert!(!same(&answer(&[1.0, -20.0], None), &answer(&[1.2, -20.0], None)));
        assert!(!same(&answer(&[1.0], None), &answer(&[1.0, 2.0], None)));
        assert!(same(&answer(&[0.1, 0.9], Some(1)), &answer(&[0.4, 0.6], Some(1))));
        assert!(!same(&answer(&[0.51, 0.49], Some(0)), &answer(&[0.49, 0.51], Some(1))));
    }
}
