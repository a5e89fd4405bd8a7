//! What verifier and attester say to each other on `/aitbc/attest/1`, and what follows from it.
//!
//! ```text
//! verifier --Begin----------------------------> attester
//!          <-Identity: a TPM's keys, if any-----
//!          --Challenge: a nonce, a credential-->          that only this TPM can open
//!          <-Evidence, claims signed------------          every quote carries the binding
//!          --Issued: result, EAR, credential; or Failed-> goes into the attester's offer
//!
//! client   --Prove: a policy, a nonce---------->          zero knowledge instead of evidence
//!          <-Proof------------------------------
//! ```

use super::{AttestedInputs, EvidenceKind, Kinds, Tier};
use crate::{
    CLOCK_TOLERANCE_MS, NodeId, UnixMillis,
    bytes::{BoundedBytes, Digest},
    envelope::{Signed, Statement},
    text::{Line, bounded_vec},
};
use serde::{Deserialize, Serialize};

/// How long a result stands, in milliseconds: a day.
pub const RESULT_LIFETIME_MS: u64 = 24 * 60 * 60 * 1000;
/// Part of its lifetime after which a result is renewed, in per cent.
const RENEW_AFTER_PERCENT: u64 = 80;
/// How long a verifier waits for evidence to its nonce, in milliseconds: TPMs are slow.
pub const EVIDENCE_PATIENCE_MS: u64 = 60_000;
/// Most pieces of evidence at once.
pub const MAX_PIECES: usize = 12;
/// Most bytes of one piece: a TPM's, with the logs of firmware and kernel.
pub const MAX_PIECE_BYTES: usize = 3 * 1024 * 1024;
/// Most bytes of what a TPM says of itself, and of a credential for it.
pub const MAX_IDENTITY_BYTES: usize = 32 * 1024;
/// Most bytes of an EAR as a JWT.
pub const MAX_EAR_BYTES: usize = 16 * 1024;
/// Most bytes of a credential for zero knowledge.
pub const MAX_CREDENTIAL_BYTES: usize = 4 * 1024;
/// Most results in an offer.
pub const MAX_ATTESTED: usize = 4;
/// Most policies in an offer.
pub const MAX_POLICIES: usize = 8;

/// The name of a policy of the network's parameters.
pub type PolicyName = Line<32>;

/// What a node says of itself. The verifier believes none of it beyond what evidence shows; it can only lower the score.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The verifier's nonce.
    pub nonce: Digest,
    /// The version of aitbc.
    pub agent: Line<48>,
    /// SHA-256 of the binary that runs, as it says.
    pub binary: Digest,
    /// Operating system and kernel.
    pub system: Line<96>,
    /// Processors of graphics, as their drivers name them, with the driver.
    #[serde(deserialize_with = "bounded_vec::<_, _, 16>")]
    pub gpus: Vec<Line<96>>,
    /// Age of the machine's firmware in days, where it says.
    pub firmware_age_days: Option<u32>,
    /// Processes that trace or inspect others.
    pub suspicious_processes: u32,
    /// Whether a debugger is attached to the node.
    pub debugged: bool,
    /// Kinds of evidence that it wanted to give and could not, each with the reason.
    #[serde(deserialize_with = "bounded_vec::<_, _, 8>")]
    pub missing: Vec<Missing>,
}

impl Statement for Claims {
    const DOMAIN: &'static str = "aitbc/attest/1/claims";
    const MAX_BYTES: usize = 8 * 1024;
}

/// Evidence that is not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Which.
    pub kind: EvidenceKind,
    /// Why, and what to change.
    pub reason: Line<160>,
}

/// One piece of evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// Which kind.
    pub kind: EvidenceKind,
    /// In the encoding of its verifier.
    pub bytes: BoundedBytes<MAX_PIECE_BYTES>,
}

/// What a client asks to be proved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProofRequest {
    /// By which policy.
    pub policy: PolicyName,
    /// The client's clock.
    pub now_ms: UnixMillis,
    /// The epoch that the client reckons with.
    pub epoch: u64,
    /// The client's own.
    pub nonce: Digest,
    /// What a verifier of the network took back about the attester last, where the client knows of it: only a credential
    /// issued later counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Signed<Revoke>>,
}

/// A proof that the attester's credential meets a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presentation {
    /// The proof.
    pub proof: BoundedBytes<1024>,
    /// One for all that a TPM shows in an epoch.
    pub nullifier: Digest,
}

/// From the verifier, or a client.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToAttester {
    /// Asks for what an attester is.
    Begin,
    /// Asks for evidence.
    Challenge {
        /// Fresh.
        nonce: Digest,
        /// For its TPM, if it has one.
        tpm: Option<BoundedBytes<MAX_IDENTITY_BYTES>>,
    },
    /// The evidence holds.
    Issued(Box<Issued>),
    /// It does not.
    Failed(Line<240>),
    /// Asks for a proof instead.
    Prove(ProofRequest),
}

/// What a verifier issues.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Issued {
    /// For offers.
    pub result: Signed<AttestationResult>,
    /// The same at length: an EAT attestation result (draft-ietf-rats-ear) as a JWT.
    pub ear: Line<MAX_EAR_BYTES>,
    /// For proofs in zero knowledge, where the verifier belongs to a set that issues them.
    pub credential: Option<BoundedBytes<MAX_CREDENTIAL_BYTES>>,
}

/// From the attester.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToVerifier {
    /// What it is.
    Identity {
        /// Its TPM's keys, in the encoding of the TPM's verifier.
        tpm: Option<BoundedBytes<MAX_IDENTITY_BYTES>>,
    },
    /// What it shows.
    Evidence {
        /// What it says of itself; the binding is over exactly these bytes.
        claims: Signed<Claims>,
        /// What others than itself sign.
        #[serde(deserialize_with = "bounded_vec::<_, _, MAX_PIECES>")]
        pieces: Vec<Piece>,
    },
    /// The proof asked for.
    Proof(Presentation),
    /// Why it shows nothing.
    Refused(Line<240>),
}

/// What a verifier has found about a node, for offers. It is worth what its signer is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttestationResult {
    /// Whom it is about.
    pub peer: NodeId,
    /// The tier.
    pub tier: Tier,
    /// The integrity score in thousandths.
    pub score: u16,
    /// Which inputs of the score were attested.
    pub attested: AttestedInputs,
    /// Kinds of evidence that were looked at, the node's own word among them.
    pub kinds: Kinds,
    /// SHA-256 of the EAR.
    pub ear: Digest,
    /// When it was signed.
    pub issued_ms: UnixMillis,
    /// Until when it stands.
    pub expires_ms: UnixMillis,
}

impl Statement for AttestationResult {
    const DOMAIN: &'static str = "aitbc/attest/1/result";
    const MAX_BYTES: usize = 512;
}

impl AttestationResult {
    /// Whether it stands at `now_ms`: no longer than a day, and not from the future.
    pub fn stands(&self, now_ms: UnixMillis) -> bool {
        crate::stands(self.issued_ms, self.expires_ms, RESULT_LIFETIME_MS, now_ms)
    }

    /// When it is to be renewed: after 80 % of its time.
    pub fn renew_ms(&self) -> UnixMillis {
        let lifetime = self.expires_ms.saturating_sub(self.issued_ms);
        self.issued_ms.saturating_add(lifetime / 100 * RENEW_AFTER_PERCENT)
    }
}

/// A verifier takes back what it has said of a node. By gossip on the topics where the node's offers are heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoke {
    /// Whom it is about.
    pub peer: NodeId,
    /// Results and credentials issued before do not count.
    pub issued_before_ms: UnixMillis,
    /// When it was signed.
    pub issued_ms: UnixMillis,
}

impl Statement for Revoke {
    const DOMAIN: &'static str = "aitbc/attest/1/revoke";
    const MAX_BYTES: usize = 128;
}

impl Revoke {
    /// Whether it can be of now: a day old at most, and nothing of the future.
    pub fn is_current(&self, now_ms: UnixMillis) -> bool {
        let latest = now_ms.saturating_add(CLOCK_TOLERANCE_MS);
        self.issued_ms <= latest
            && self.issued_before_ms <= latest
            && now_ms.saturating_sub(self.issued_ms) <= RESULT_LIFETIME_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(issued_ms: UnixMillis, expires_ms: UnixMillis) -> AttestationResult {
        AttestationResult {
            peer: NodeId([1; 32]),
            tier: Tier::Affirming,
            score: 1_000,
            attested: AttestedInputs::default(),
            kinds: Kinds::default(),
            ear: Digest([2; 32]),
            issued_ms,
            expires_ms,
        }
    }

    #[test]
    fn a_result_stands_for_a_day_and_no_longer() {
        let now = 1_800_000_000_000;
        assert!(result(now, now + RESULT_LIFETIME_MS).stands(now));
        assert!(!result(now, now + RESULT_LIFETIME_MS + 1).stands(now), "longer than allowed");
        assert!(!result(now - RESULT_LIFETIME_MS, now).stands(now), "over");
        assert!(result(now + CLOCK_TOLERANCE_MS, now + RESULT_LIFETIME_MS).stands(now));
        assert!(!result(now + CLOCK_TOLERANCE_MS + 1, now + RESULT_LIFETIME_MS).stands(now), "of the future");
        assert_eq!(result(now, now + 1_000).renew_ms(), now + 800);
    }

    #[test]
    fn nothing_is_taken_back_ahead_of_time() {
        let now = 1_800_000_000_000;
        let revoke = |issued_before_ms, issued_ms| Revoke { peer: NodeId([1; 32]), issued_before_ms, issued_ms };
        assert!(revoke(now, now).is_current(now));
        assert!(revoke(0, now - RESULT_LIFETIME_MS).is_current(now));
        assert!(!revoke(0, now - RESULT_LIFETIME_MS - 1).is_current(now));
        assert!(!revoke(now + CLOCK_TOLERANCE_MS + 1, now).is_current(now), "all that is to come");
        assert!(!revoke(now, now + CLOCK_TOLERANCE_MS + 1).is_current(now));
    }
}
