//! What verifiers say of the memory of a provider.

use crate::clock::now_ms;
use aitbc_protocol::{NodeId, Signed, gpu::challenge::exchange::Shown};
use serde::{Deserialize, Serialize};

/// Memory that a provider has shown to a verifier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShownBy {
    /// Who says so. It is worth what its signer is.
    pub verifier: NodeId,
    /// What.
    #[serde(flatten)]
    pub shown: Shown,
}

/// What of it still stands. The signatures were verified when the offer was taken.
pub(super) fn shown(signed: &[Signed<Shown>]) -> Vec<ShownBy> {
    let read = |signed: &Signed<Shown>| {
        let shown = signed.read_unverified().ok().filter(|shown| shown.stands(now_ms()))?;
        Some(ShownBy { verifier: signed.signer(), shown })
    };
    signed.iter().filter_map(read).collect()
}

/// The most memory that `signed` shows by the word of somebody `trusted`; what is simulated shows nothing.
pub(super) fn shown_bytes(signed: &[Signed<Shown>], trusted: impl Fn(NodeId) -> bool) -> u64 {
    let counts = |by: &ShownBy| trusted(by.verifier) && !by.shown.simulated;
    shown(signed).iter().filter(|by| counts(by)).map(|by| by.shown.bytes).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::fixtures::{key, network};
    use aitbc_crypto::seal;
    use aitbc_protocol::text::Line;

    #[test]
    fn what_a_trusted_verifier_has_seen_counts_and_nothing_else() {
        let now = now_ms();
        let shown = |signer: u8, gib: u64, simulated: bool, issued_ms: u64, expires_ms: u64| {
            let (prover, device) = (key(2).node_id(), Line::lossy("a card"));
            let shown = Shown { prover, device, bytes: gib << 30, rate: 1, simulated, issued_ms, expires_ms };
            seal(&key(signer), &network(), &shown).expect("it fits")
        };
        let hour = 3_600_000;
        let signed = [
            shown(3, 4, false, now - hour, now + hour),
            shown(3, 8, true, now - hour, now + hour),
            shown(3, 16, false, now - 2 * hour, now - hour),
            shown(4, 32, false, now - hour, now + hour),
        ];
        let by = |trusted: &[u8]| {
            let trusted: Vec<NodeId> = trusted.iter().map(|n| key(*n).node_id()).collect();
            shown_bytes(&signed, |signer| trusted.contains(&signer)) >> 30
        };
        assert_eq!((by(&[]), by(&[3]), by(&[3, 4]), by(&[1])), (0, 4, 32, 0));
    }
}
