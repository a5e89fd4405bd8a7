//! What becomes of gossip: whether it is passed on, and what of it the book takes.

use super::{Book, Refused, Source, VerifiedBeat, VerifiedOffer};
use crate::network::Verdict;
use aitbc_protocol::{
    CLOCK_TOLERANCE_MS, NodeId, Signed, UnixMillis,
    attestation::exchange::Revoke,
    evidence::Evidence,
    geo::{Cell, FINEST_TOPIC},
    gossip::Gossip,
    offer::{Heartbeat, OFFER_LIFETIME_MS, Offer, OfferFault},
    qos::Observation,
    wire,
};

/// How long after a newer offer an older one may still be on its way through honest nodes, in milliseconds.
pub(super) const RACE_MS: u64 = 60_000;

/// What becomes of a gossip message, and what else follows from it.
#[derive(Debug)]
pub(in crate::routing) struct Heard {
    pub(in crate::routing) verdict: Verdict,
    /// The live offers are not the same any more.
    pub(in crate::routing) changed: bool,
    /// A provider whose newest offer is missing here.
    pub(in crate::routing) wanted: Option<NodeId>,
    /// What somebody took back.
    pub(in crate::routing) revoked: Option<(Signed<Revoke>, Revoke)>,
    /// Whose heartbeat it was, where it was taken.
    pub(in crate::routing) beat: Option<NodeId>,
    /// What the book cannot judge.
    pub(in crate::routing) said: Option<Signed<Observation>>,
    /// The same of evidence.
    pub(in crate::routing) evidence: Option<Box<Evidence>>,
}

impl Heard {
    fn nothing(verdict: Verdict) -> Self {
        Self { verdict, changed: false, wanted: None, revoked: None, beat: None, said: None, evidence: None }
    }
}

impl Book {
    /// Judges one gossip message that came on the topic of `topic`.
    pub(in crate::routing) fn hear(&mut self, topic: Cell, bytes: &[u8], now_ms: UnixMillis) -> Heard {
        match wire::decode::<Gossip>(bytes, wire::MAX_GOSSIP_BYTES) {
            Ok(Gossip::Offer(signed)) => self.hear_offer(topic, signed, now_ms),
            Ok(Gossip::Heartbeat(signed)) => self.hear_beat(topic, signed, now_ms),
            Ok(Gossip::Revoke(signed)) => self.hear_revoke(topic, &signed, now_ms),
            Ok(Gossip::Observation(signed)) => Heard { said: Some(signed), ..Heard::nothing(Verdict::Ignore) },
            Ok(Gossip::Evidence(evidence)) => {
                Heard { evidence: Some(evidence), ..Heard::nothing(Verdict::Ignore) }
            }
            Err(_) => Heard::nothing(Verdict::Reject),
        }
    }

    /// Judges what a verifier takes back: it goes on only where the offer it is about is known here, and shows a result by the
    /// same verifier, or is one whose verifiers are not told, or is about to change for the same reason; who never said
    /// anything can take nothing back.
    fn hear_revoke(&mut self, topic: Cell, signed: &Signed<Revoke>, now_ms: UnixMillis) -> Heard {
        let Ok(claimed) = signed.read_unverified() else { return Heard::nothing(Verdict::Reject) };
        let Some(entry) = self.entries.get_mut(&claimed.peer) else { return Heard::nothing(Verdict::Ignore) };
        let offer = &entry.known.offer;
        let heeded = self.heeded.contains(&signed.signer());
        let concerns = heeded
            || !offer.policies.is_empty()
            || offer.attested.iter().any(|result| result.signer() == signed.signer());
        if !topic.contains(&offer.cell) || !concerns {
            return Heard::nothing(Verdict::Ignore);
        }
        // A verifier's word is rare. Strangers share one pace, and cannot use up that of those who are counted on here: what
        // a forwarder may make this node verify is bounded before.
        if !heeded && !entry.revocations.allow(now_ms) {
            return Heard::nothing(Verdict::Ignore);
        }
        match aitbc_crypto::open(signed, &self.network) {
            Ok(revoke) if revoke.is_current(now_ms) => {
                Heard { revoked: Some((signed.clone(), revoke)), ..Heard::nothing(Verdict::Accept) }
            }
            Ok(_) => Heard::nothing(Verdict::Ignore),
            Err(_) => Heard::nothing(Verdict::Reject),
        }
    }

    fn hear_offer(&mut self, topic: Cell, signed: Signed<Offer>, now_ms: UnixMillis) -> Heard {
        let provider = signed.signer();
        // An exact repeat was verified before.
        if self.entries.get(&provider).is_some_and(|entry| entry.signed == signed)
            || self.is_out(&provider, now_ms)
        {
            return Heard::nothing(Verdict::Ignore);
        }
        let Ok(offer) = VerifiedOffer::open(signed, &self.network) else {
            return Heard::nothing(Verdict::Reject);
        };
        if !topic.contains(&offer.offer.cell) {
            return Heard::nothing(Verdict::Reject);
        }
        let (issued_ms, expires_ms) = (offer.offer.issued_ms, offer.offer.expires_ms);
        let since_ms = self.entries.get(&provider).map(|entry| entry.since_ms);
        match self.take(offer, Source::Gossip, now_ms) {
            Ok(changed) => Heard { changed, ..Heard::nothing(Verdict::Accept) },
            Err(Refused::TooMany) => Heard::nothing(Verdict::Ignore),
            Err(Refused::Fault(fault)) => {
                let excusable = match fault {
                    // It may have expired on its way, or by a clock that differs as much as it may.
                    OfferFault::Expired => {
                        expires_ms.saturating_sub(issued_ms) <= OFFER_LIFETIME_MS
                            && expires_ms.saturating_add(CLOCK_TOLERANCE_MS) > now_ms
                    }
                    // It may have been overtaken by the newer one.
                    OfferFault::Stale => {
                        since_ms.is_some_and(|since_ms| since_ms.saturating_add(RACE_MS) > now_ms)
                    }
                    // The provider's fault, not the forwarder's.
                    OfferFault::Equivocation => true,
                    _ => false,
                };
                let verdict = if excusable { Verdict::Ignore } else { Verdict::Reject };
                Heard { changed: fault == OfferFault::Equivocation, ..Heard::nothing(verdict) }
            }
        }
    }

    fn hear_beat(&mut self, topic: Cell, signed: Signed<Heartbeat>, now_ms: UnixMillis) -> Heard {
        let provider = signed.signer();
        if self.is_out(&provider, now_ms) {
            return Heard::nothing(Verdict::Ignore);
        }
        let Ok(beat) = VerifiedBeat::open(signed, &self.network) else {
            return Heard::nothing(Verdict::Reject);
        };
        let at_home = self
            .entries
            .get(&provider)
            .is_none_or(|entry| entry.known.offer.cell.coarsened(FINEST_TOPIC) == topic);
        if !at_home {
            return Heard::nothing(Verdict::Reject);
        }
        match self.beat(beat, now_ms) {
            Ok(changed) => Heard { changed, beat: Some(provider), ..Heard::nothing(Verdict::Accept) },
            Err(Refused::Fault(OfferFault::UnknownOffer)) => {
                Heard { wanted: Some(provider), ..Heard::nothing(Verdict::Ignore) }
            }
            Err(Refused::Fault(OfferFault::Future | OfferFault::Expired)) => Heard::nothing(Verdict::Reject),
            Err(_) => Heard::nothing(Verdict::Ignore),
        }
    }
}
