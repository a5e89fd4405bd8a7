//! Renews what this node has signed about others, and takes back what does not hold any more.

use super::{Attestation, Finding};
use crate::{clock::now_ms, storage::AttestationRecord};
use aitbc_crypto::signing;
use aitbc_protocol::{
    NodeId, UnixMillis,
    attestation::exchange::{RESULT_LIFETIME_MS, Revoke},
    geo::{COARSEST, Cell, FINEST_TOPIC},
    gossip::Gossip,
    wire::WireError,
};
use std::{collections::HashMap, time::Duration};
use tokio::{sync::mpsc, time::sleep};

/// How often it is looked what is due.
const REVIEW: Duration = Duration::from_secs(30);
/// What was taken back is said again after as long, in milliseconds.
const TELL_AGAIN_MS: u64 = 60_000;
/// A peer that could not be reached is tried again at the next review, then after twice as long each time, and never later than
/// this, in milliseconds. There is a fifth of a day for it.
const LONGEST_WAIT_MS: u64 = 30 * 60_000;

/// When a peer was last asked, and how long it is left alone for.
#[derive(Clone, Copy, Debug)]
struct Tried {
    at_ms: UnixMillis,
    wait_ms: u64,
}

impl Tried {
    fn after(before: Option<Self>, now_ms: UnixMillis) -> Self {
        let wait_ms = before.map_or(0, |tried| (2 * tried.wait_ms).clamp(60_000, LONGEST_WAIT_MS));
        Self { at_ms: now_ms, wait_ms }
    }

    fn again_ms(self) -> UnixMillis {
        self.at_ms.saturating_add(self.wait_ms)
    }
}

/// Goes on for as long as it is polled.
pub(super) async fn run(attestation: Attestation) {
    let mut tried: HashMap<NodeId, Tried> = HashMap::new();
    let mut told: HashMap<NodeId, UnixMillis> = HashMap::new();
    loop {
        sleep(REVIEW).await;
        let now = now_ms();
        // Longer than it waits: whoever comes up again after that begins anew.
        tried.retain(|_, tried| tried.at_ms.saturating_add(2 * LONGEST_WAIT_MS) > now);
        told.retain(|_, at| at.saturating_add(TELL_AGAIN_MS) > now);
        let records = match attestation.records().await {
            Ok(records) => records,
            Err(error) => {
                tracing::warn!(%error, "what this node has attested cannot be read");
                continue;
            }
        };
        for record in records {
            // Whoever comes to the neighbourhood later hears of it too.
            if let Some(before_ms) = record.revoked_ms.filter(|before_ms| counts(*before_ms, now))
                && !told.contains_key(&record.peer)
            {
                told.insert(record.peer, now);
                attestation.revoke(record.peer, before_ms).await;
            }
            let before = tried.get(&record.peer).copied();
            if !is_due(&record, now) || before.is_some_and(|tried| now < tried.again_ms()) {
                continue;
            }
            tried.insert(record.peer, Tried::after(before, now));
            let (progress, _nobody) = mpsc::channel(1);
            match attestation.attest(record.peer, false, &progress).await {
                Ok(Finding::Verified { result, .. }) => {
                    tracing::info!(peer = %record.peer.short(), tier = %result.tier, "attestation renewed");
                }
                // It was told of already.
                Ok(Finding::Failed { .. }) => {}
                Err(error) => tracing::info!(peer = %record.peer.short(), %error, "attestation not renewed yet"),
            }
        }
    }
}

/// Whether something that was signed before `before_ms` could still stand.
fn counts(before_ms: UnixMillis, now_ms: UnixMillis) -> bool {
    now_ms < before_ms.saturating_add(RESULT_LIFETIME_MS)
}

/// Whether what was found is to be found anew: after 80 % of its time, and as long as it stands.
fn is_due(record: &AttestationRecord, now_ms: UnixMillis) -> bool {
    let result = record.result.as_ref().and_then(|signed| signed.read_unverified().ok());
    result.is_some_and(|result| result.renew_ms() <= now_ms && result.stands(now_ms))
}

impl Attestation {
    /// Tells everybody who hears of `peer`'s offers that what this node signed about it before `before_ms` does not count.
    pub(super) async fn revoke(&self, peer: NodeId, before_ms: UnixMillis) {
        let offers = self.0.routing.offers();
        let known = offers.offers.iter().chain(&offers.silent).find(|known| known.provider == peer);
        let Some(cell) = known.map(|known| known.offer.cell) else {
            tracing::debug!(peer = %peer.short(), "it offers nothing: nobody needs to hear of it");
            return;
        };
        if let Err(error) = self.tell(peer, before_ms, cell).await {
            tracing::warn!(peer = %peer.short(), %error, "others could not be told that a result does not count any more");
        }
    }

    async fn tell(&self, peer: NodeId, issued_before_ms: UnixMillis, cell: Cell) -> Result<(), RevokeError> {
        let revoke = Revoke { peer, issued_before_ms, issued_ms: now_ms() };
        let signed = signing::seal(&self.0.key, &self.0.config.network, &revoke)?;
        let message = Gossip::Revoke(signed);
        let mut heard = false;
        for precision in COARSEST..=cell.precision().min(FINEST_TOPIC) {
            heard |= self.0.network.publish(cell.coarsened(precision), &message).await?;
        }
        if heard { Ok(()) } else { Err(RevokeError::Nobody) }
    }
}

/// Why nobody heard of it.
#[derive(Debug, thiserror::Error)]
enum RevokeError {
    #[error("nobody who hears of its offers is connected")]
    Nobody,
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Network(#[from] crate::network::NetworkError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use aitbc_crypto::{SecretKey, seal};
    use aitbc_protocol::{
        Digest, NetworkId,
        attestation::{AttestedInputs, Kinds, Tier, exchange::AttestationResult},
    };

    #[test]
    fn who_is_not_there_is_tried_again_soon_and_then_ever_less_often() {
        let (mut tried, mut waits) = (None, Vec::new());
        for now in 0..8 {
            let next = Tried::after(tried, now);
            waits.push((next.again_ms() - now) / 60_000);
            tried = Some(next);
        }
        assert_eq!(waits, [0, 1, 2, 4, 8, 16, 30, 30]);
    }

    #[test]
    fn what_stands_is_due_after_four_fifths_of_its_time() {
        let (key, network) = (SecretKey::from_bytes(&[1; 32]), NetworkId::new("main").expect("a name"));
        let issued_ms = 1_800_000_000_000;
        let result = AttestationResult {
            peer: NodeId([2; 32]),
            tier: Tier::Affirming,
            score: 1_000,
            attested: AttestedInputs::default(),
            kinds: Kinds::default(),
            ear: Digest([0; 32]),
            issued_ms,
            expires_ms: issued_ms + RESULT_LIFETIME_MS,
        };
        let record = AttestationRecord {
            peer: result.peer,
            at_ms: issued_ms,
            result: Some(seal(&key, &network, &result).expect("it fits")),
            ear: None,
            failure: None,
            against: false,
            revoked_ms: None,
            measured: Vec::new(),
        };
        let due = |after_ms: u64| is_due(&record, issued_ms + after_ms);
        let renewed = RESULT_LIFETIME_MS / 100 * 80;
        assert!(!due(0) && !due(renewed - 1));
        assert!(due(renewed) && due(RESULT_LIFETIME_MS - 1));
        assert!(!due(RESULT_LIFETIME_MS), "what is over is nobody's to renew");
        assert!(!is_due(&AttestationRecord { result: None, ..record }, issued_ms + renewed), "what failed is not");
    }
}
