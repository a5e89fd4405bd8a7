//! Judges what is said of others by gossip, before the reputation takes it: observations of jobs, and evidence of faults.

use super::pace::{Pace, PeerPaces};
use crate::{network::Verdict, reputation::Reputation, storage::EvidenceRecord};
use aitbc_crypto::{evidence::verify, open};
use aitbc_protocol::{
    CLOCK_TOLERANCE_MS, NetworkId, NodeId, Signed, UnixMillis,
    evidence::{Evidence, Fault},
    geo::{Cell, FINEST_TOPIC},
    qos::{Observation, ObservationFault, WINDOW_MS},
};

/// Observations of all strangers together whose signatures are verified: this many at once, then one every so many milliseconds.
const STRANGERS_BURST: f64 = 32.0;
const STRANGERS_EVERY_MS: f64 = 500.0;
/// Those of one author with whom this node has settled, apart from the others.
const PARTNER_BURST: f64 = 8.0;
const PARTNER_EVERY_MS: f64 = 5_000.0;

/// Evidence whose signatures are verified: so much at once, then some every so many milliseconds.
const EVIDENCE_BURST: f64 = 8.0;
const EVIDENCE_EVERY_MS: f64 = 2_000.0;

/// Judges, and keeps what holds.
#[derive(Debug)]
pub(super) struct Witness {
    network: NetworkId,
    reputation: Reputation,
    strangers: Pace,
    partners: PeerPaces,
    evidence: Pace,
}

impl Witness {
    pub(super) fn new(network: NetworkId, reputation: Reputation, now_ms: UnixMillis) -> Self {
        Self {
            network,
            reputation,
            strangers: Pace::new(STRANGERS_BURST, STRANGERS_EVERY_MS, now_ms),
            partners: PeerPaces::new(PARTNER_BURST, PARTNER_EVERY_MS),
            evidence: Pace::new(EVIDENCE_BURST, EVIDENCE_EVERY_MS, now_ms),
        }
    }

    pub(super) fn listen(&self, now_ms: UnixMillis) {
        self.reputation.listen(now_ms);
    }

    pub(super) fn heartbeat(&self, provider: NodeId, now_ms: UnixMillis) {
        self.reputation.heartbeat(provider, now_ms);
    }

    /// Takes down what this node knows from before.
    pub(super) fn recall(&self, record: &EvidenceRecord) {
        // It counted when this node learnt of it.
        self.reputation.convict(record.evidence.accused(), record.evidence.fault(), None, record.learned_ms);
    }

    /// Judges evidence that somebody passed on. Nothing about who is not known here is looked at: `known` tells who is. Evidence
    /// that shows nothing, or is not all signed by the accused, costs whoever brought it.
    pub(super) fn hear_evidence(
        &mut self,
        evidence: &Evidence,
        known: impl Fn(&NodeId) -> bool,
        now_ms: UnixMillis,
    ) -> Verdict {
        let accused = evidence.accused();
        // What speaks against this node itself costs it what its clients hold.
        let mine = accused == self.reputation.me();
        if !mine && !known(&accused) && !self.reputation.has_settled_with(&accused) {
            return Verdict::Ignore;
        }
        // What can be told without a signature costs nothing to look at.
        let (Ok(fault), Ok(signed_ms)) = (evidence.judge(), evidence.signed_ms()) else { return Verdict::Reject };
        let counts = self.reputation.would_convict(&accused, fault, signed_ms, now_ms);
        if !counts || !self.evidence.allow(now_ms) {
            return Verdict::Ignore;
        }
        match verify(evidence, &self.network) {
            Ok(fault) if self.reputation.convict(accused, fault, signed_ms, now_ms) => Verdict::Accept,
            Ok(_) => Verdict::Ignore,
            Err(_) => Verdict::Reject,
        }
    }

    /// Takes evidence that this node found itself; true where it holds and is new. An answer to a challenge was recomputed by
    /// who asked for it.
    pub(super) fn found(&self, evidence: &Evidence, now_ms: UnixMillis) -> bool {
        let (fault, signed_ms) = match evidence {
            // It was asked for just now.
            Evidence::Walk(_) => (Fault::Walk, Some(now_ms)),
            others => match verify(others, &self.network) {
                Ok(fault) => (fault, others.signed_ms().ok().flatten()),
                Err(error) => {
                    tracing::debug!(peer = %evidence.accused().short(), %error, "what seemed to be evidence is none");
                    return false;
                }
            },
        };
        self.reputation.convict(evidence.accused(), fault, signed_ms, now_ms)
    }

    /// Judges an observation that came on the topic of `topic`. Nothing of a provider that is not known here is kept or passed on,
    /// and no signature is verified for what is known already, or comes too often.
    pub(super) fn hear(
        &mut self,
        topic: Cell,
        signed: &Signed<Observation>,
        cell_of: impl Fn(&NodeId) -> Option<Cell>,
        now_ms: UnixMillis,
    ) -> Verdict {
        let author = signed.signer();
        let Ok(claimed) = signed.read_unverified() else { return Verdict::Reject };
        let Ok(job) = claimed.served.read_unverified() else { return Verdict::Reject };
        let provider = claimed.served.signer();
        // It may have moved since.
        if cell_of(&provider).is_none_or(|cell| cell.coarsened(FINEST_TOPIC.min(cell.precision())) != topic) {
            return Verdict::Ignore;
        }
        match claimed.check(author, provider, &job, now_ms) {
            Ok(()) => {}
            // It may have expired on its way, or by a clock that differs as much as it may.
            Err(ObservationFault::Expired)
                if now_ms.saturating_sub(claimed.issued_ms) <= WINDOW_MS + 2 * CLOCK_TOLERANCE_MS =>
            {
                return Verdict::Ignore;
            }
            Err(_) => return Verdict::Reject,
        }
        if self.reputation.knows(&job.receipt) {
            return Verdict::Ignore;
        }
        let allowed = if self.reputation.has_settled_with(&author) {
            self.partners.allow(author, now_ms)
        } else {
            self.strangers.allow(now_ms)
        };
        if !allowed {
            return Verdict::Ignore;
        }
        if open(signed, &self.network).is_err() || open(&claimed.served, &self.network).is_err() {
            return Verdict::Reject;
        }
        if self.reputation.take(provider, author, &claimed, &job) { Verdict::Accept } else { Verdict::Ignore }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        reputation::Beside,
        routing::fixtures::{key, network, paris},
    };
    use aitbc_crypto::seal;
    use aitbc_protocol::{Digest, MicroCredits, job::Finish, qos::Served, receipt::Cheque};

    const NOW: u64 = 1_800_000_000_000;

    fn home() -> Cell {
        Cell::at(&paris(), 4)
    }

    fn cell_of(provider: &NodeId) -> Option<Cell> {
        (*provider == key(2).node_id()).then(home)
    }

    fn said(author: u8, provider: u8, n: u8, issued_ms: u64) -> Observation {
        let (client, receipt) = (key(author).node_id(), Digest([n; 32]));
        let served = Served { client, receipt, total: MicroCredits(10), ended_ms: issued_ms };
        Observation {
            served: seal(&key(provider), &network(), &served).unwrap(),
            first_token_ms: Some(100),
            speed: None,
            total_ms: 500,
            finish: Finish::Stop,
            verified: None,
            uptime: None,
            issued_ms,
        }
    }

    fn witness() -> (Witness, Reputation) {
        let reputation = Reputation::new(key(9).node_id());
        (Witness::new(network(), reputation.clone(), NOW), reputation)
    }

    #[test]
    fn what_is_accepted_ignored_and_rejected() {
        let (mut witness, reputation) = witness();
        let sealed = |author: u8, said: &Observation| seal(&key(author), &network(), said).unwrap();
        let good = sealed(1, &said(1, 2, 1, NOW));
        let london = Cell::at(&aitbc_protocol::geo::Location::new(51.5, -0.1).unwrap(), 4);
        let forged = Signed::from_parts(key(3).node_id(), *good.signature(), good.payload().to_vec());
        let mut stolen = said(1, 2, 1, NOW);
        stolen.served = said(3, 2, 1, NOW).served;
        let mut unsigned = said(1, 2, 5, NOW);
        unsigned.served = Signed::from_parts(key(2).node_id(), [7; 64], unsigned.served.payload().to_vec());
        let other_network = aitbc_protocol::NetworkId::new("other").unwrap();
        let cases = [
            ("on another topic", london, good.clone(), Verdict::Ignore),
            ("about somebody unknown", home(), sealed(1, &said(1, 7, 1, NOW)), Verdict::Ignore),
            ("good", home(), good.clone(), Verdict::Accept),
            ("again", home(), good.clone(), Verdict::Ignore),
            (
                "another word about the same job",
                home(),
                sealed(1, &Observation { total_ms: 900, ..said(1, 2, 1, NOW) }),
                Verdict::Ignore,
            ),
            ("signed by somebody else", home(), forged, Verdict::Reject),
            ("about the job of somebody else", home(), sealed(1, &stolen), Verdict::Reject),
            ("about a job that the provider did not sign", home(), sealed(1, &unsigned), Verdict::Reject),
            ("about itself", home(), sealed(2, &said(2, 2, 6, NOW)), Verdict::Reject),
            ("of yesterday", home(), sealed(1, &said(1, 2, 7, NOW - WINDOW_MS - 1)), Verdict::Ignore),
            ("of long ago", home(), sealed(1, &said(1, 2, 8, NOW - 2 * WINDOW_MS)), Verdict::Reject),
            ("of the future", home(), sealed(1, &said(1, 2, 9, NOW + 31_000)), Verdict::Reject),
            (
                "of another network",
                home(),
                seal(&key(1), &other_network, &said(1, 2, 10, NOW)).unwrap(),
                Verdict::Reject,
            ),
        ];
        for (name, topic, signed, verdict) in cases {
            assert_eq!(witness.hear(topic, &signed, cell_of, NOW), verdict, "{name}");
        }
        let report = reputation.report(key(2).node_id(), Beside::default(), NOW);
        assert_eq!(report.witnesses.len(), 1, "{report:?}");
        assert_eq!(report.witnesses[0].author, key(1).node_id());
    }

    #[test]
    fn a_flood_is_bounded_before_it_is_verified_and_leaves_room_for_partners() {
        let (mut witness, reputation) = witness();
        reputation.refresh([(key(1).node_id(), 5_000)].into(), NOW);
        let strange = said(3, 2, 1, NOW);
        let mut looked_at = 0;
        for n in 0..200u8 {
            let served = Served {
                client: key(3).node_id(),
                receipt: Digest([n; 32]),
                total: MicroCredits(1),
                ended_ms: NOW,
            };
            let payload = aitbc_protocol::wire::encode_payload(&served, 1024).unwrap();
            let unsigned =
                Observation { served: Signed::from_parts(key(2).node_id(), [0; 64], payload), ..strange.clone() };
            let signed = seal(&key(3), &network(), &unsigned).unwrap();
            looked_at += usize::from(witness.hear(home(), &signed, cell_of, NOW) == Verdict::Reject);
        }
        assert_eq!(looked_at, STRANGERS_BURST as usize);
        let partner = seal(&key(1), &network(), &said(1, 2, 201, NOW)).unwrap();
        assert_eq!(witness.hear(home(), &partner, cell_of, NOW), Verdict::Accept);
    }

    fn cheque(signer: u8, cumulative: u64) -> Signed<Cheque> {
        let cheque = Cheque {
            provider: NodeId([2; 32]),
            sequence: 5,
            cumulative: MicroCredits(cumulative),
            job: aitbc_protocol::JobId([3; 16]),
            quote: aitbc_protocol::Nonce([1; 16]),
            job_total: MicroCredits(cumulative),
            tokens: 1,
            held: MicroCredits(0),
        };
        seal(&key(signer), &network(), &cheque).unwrap()
    }

    #[test]
    fn evidence_counts_by_itself_and_a_false_accusation_costs_who_brings_it() {
        let (mut witness, reputation) = witness();
        let accused = key(2).node_id();
        let known = |node: &NodeId| *node == accused;
        let forged = cheque(3, 8);
        let forged = Signed::from_parts(accused, *forged.signature(), forged.payload().to_vec());
        let cases = [
            ("of somebody unknown", Evidence::Cheques(cheque(4, 7), cheque(4, 8)), Verdict::Ignore),
            ("one cheque twice", Evidence::Cheques(cheque(2, 7), cheque(2, 7)), Verdict::Reject),
            ("of two", Evidence::Cheques(cheque(2, 7), cheque(3, 8)), Verdict::Reject),
            ("forged", Evidence::Cheques(cheque(2, 7), forged), Verdict::Reject),
        ];
        for (name, evidence, verdict) in cases {
            assert_eq!(witness.hear_evidence(&evidence, known, NOW), verdict, "{name}");
            assert_eq!(reputation.slashed(&accused, NOW), None, "{name}");
        }
        let good = Evidence::Cheques(cheque(2, 7), cheque(2, 8));
        assert_eq!(witness.hear_evidence(&good, known, NOW), Verdict::Accept);
        assert_eq!(witness.hear_evidence(&good, known, NOW), Verdict::Ignore, "again");
        assert_eq!(reputation.slashed(&accused, NOW).map(|slashed| slashed.fault), Some(Fault::Cheques));
        assert!(!witness.found(&good, NOW) && witness.found(&Evidence::Cheques(cheque(4, 7), cheque(4, 8)), NOW));
        let walk = Evidence::Walk(Signed::from_parts(accused, [0; 64], Vec::new()));
        assert_eq!(witness.hear_evidence(&walk, known, NOW), Verdict::Reject, "that is for who asked");
        assert!(witness.found(&walk, NOW));
    }

    #[test]
    fn a_flood_of_evidence_is_bounded_before_it_is_verified() {
        let (mut witness, _) = witness();
        let looked_at = (0..100u64).filter(|n| {
            let forged = cheque(3, 100 + n);
            let forged = Signed::from_parts(key(2).node_id(), *forged.signature(), forged.payload().to_vec());
            witness.hear_evidence(&Evidence::Cheques(cheque(2, 7), forged), |_| true, NOW) == Verdict::Reject
        });
        assert_eq!(looked_at.count(), EVIDENCE_BURST as usize);
    }
}
