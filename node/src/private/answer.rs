//! Opens answers. Called once a job is over, with nothing in hand that leads to others.

use super::verdicts::Verdict;
use aitbc_crypto::fhe::{Answer, ClientKey, Interface, OutputError};
use aitbc_protocol::{NodeId, bytes::BoundedBytes, sealed::MAX_SEALED_OUTPUT};
use std::sync::Arc;

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
        agree: second.is_ok_and(|second| first.agrees(&second, noise)),
    });
    Ok(Opened { answer: first, labels, verdict })
}
