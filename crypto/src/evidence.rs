//! Evidence with its signatures: what [`aitbc_protocol::evidence`] judges, shown to be the accused's own words.

use crate::signing::{SignatureError, open};
use aitbc_protocol::{
    NetworkId, Signed, Statement,
    evidence::{Evidence, Fault, NotEvidence},
};

/// Why evidence does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    /// Not the accused's words.
    #[error("a statement is not the accused's: {0}")]
    Signature(#[from] SignatureError),
    /// They show nothing.
    #[error(transparent)]
    Nothing(#[from] NotEvidence),
}

/// Verifies all signatures, and then whether the statements show a fault. Two signatures at most.
///
/// # Errors
/// Where a signature does not hold on `network`, or the statements show nothing.
pub fn verify(evidence: &Evidence, network: &NetworkId) -> Result<Fault, EvidenceError> {
    // What shows nothing costs no signature.
    let fault = evidence.judge()?;
    match evidence {
        Evidence::Offers(first, second) => both(first, second, network)?,
        Evidence::Receipts(first, second) => both(first, second, network)?,
        Evidence::Cheques(first, second) => both(first, second, network)?,
        Evidence::Quote(quote) => drop(open(quote, network)?),
        Evidence::Walk(_) => return Err(NotEvidence::NotForOthers.into()),
    }
    Ok(fault)
}

fn both<T: Statement>(first: &Signed<T>, second: &Signed<T>, network: &NetworkId) -> Result<(), SignatureError> {
    open(first, network)?;
    open(second, network)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SecretKey, seal};
    use aitbc_protocol::{JobId, MicroCredits, NodeId, Nonce, receipt::Cheque};

    fn cheque(cumulative: u64) -> Cheque {
        Cheque {
            provider: NodeId([2; 32]),
            sequence: 5,
            cumulative: MicroCredits(cumulative),
            job: JobId([3; 16]),
            quote: Nonce([1; 16]),
            job_total: MicroCredits(cumulative),
            tokens: 1,
            held: MicroCredits(0),
        }
    }

    #[test]
    fn only_the_accused_own_words_on_this_network_count() {
        let (key, other) = (SecretKey::from_bytes(&[1; 32]), SecretKey::from_bytes(&[2; 32]));
        let (local, main) = (NetworkId::new("local").unwrap(), NetworkId::new("main").unwrap());
        let first = seal(&key, &local, &cheque(7)).unwrap();
        let second = seal(&key, &local, &cheque(8)).unwrap();
        let evidence = Evidence::Cheques(first.clone(), second.clone());
        assert_eq!(verify(&evidence, &local), Ok(Fault::Cheques));
        assert_eq!(evidence.accused(), key.node_id());
        assert!(matches!(verify(&evidence, &main), Err(EvidenceError::Signature(_))));
        // Forged: somebody else's signature under the name of the accused.
        let forged = seal(&other, &local, &cheque(8)).unwrap();
        let forged = Signed::from_parts(key.node_id(), *forged.signature(), forged.payload().to_vec());
        let framed = Evidence::Cheques(first.clone(), forged);
        assert!(matches!(verify(&framed, &local), Err(EvidenceError::Signature(_))));
        let twice = Evidence::Cheques(first.clone(), first);
        assert_eq!(verify(&twice, &local), Err(NotEvidence::NoContradiction.into()));
    }
}
