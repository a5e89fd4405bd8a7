//! What is kept of jobs, peers and evidence.

use super::StorageError;
use aitbc_protocol::{
    NodeId, Nonce, Signed, UnixMillis,
    attestation::{EvidenceKind, Measurement, exchange::AttestationResult},
    bytes::JobId,
    credit::{Allowance, Settlement},
    evidence::Evidence,
    job::{Finish, JobState, ModelName},
    money::MicroCredits,
    quote::Quote,
    receipt::{Cheque, Execution, Receipt},
    text::Line,
};
use serde::{Deserialize, Serialize};

/// Which side of a job this node was on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// It asked and pays.
    Client,
    /// It answered and earns.
    Provider,
}

/// One attempt at a job with one peer: its own quote, its own receipt, its own sum. Keyed by side and quote nonce.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    /// This node's side.
    pub side: Side,
    /// The other node.
    pub peer: NodeId,
    /// Addresses of the other node when the job started, for settling after a restart.
    pub addresses: Vec<String>,
    /// The job; the same over all attempts.
    pub job: JobId,
    /// The quote it runs under.
    pub quote: Signed<Quote>,
    /// Model, for listings.
    pub model: ModelName,
    /// Where it stands.
    pub state: JobState,
    /// Why it ended, once it has.
    pub finish: Option<Finish>,
    /// What went wrong, if something did.
    pub failure: Option<Line<160>>,
    /// Tokens acknowledged and paid.
    pub tokens: u32,
    /// Paid for this job so far.
    pub paid: MicroCredits,
    /// Newest cheque for this job.
    pub cheque: Option<Signed<Cheque>>,
    /// The provider's receipt.
    pub receipt: Option<Signed<Receipt>>,
    /// Whether the provider broke the protocol or its receipt did not hold: nothing more is promised (client side).
    #[serde(default)]
    pub refused: bool,
    /// What of the receipt's penalty the channel counts: all of it once the job is final.
    #[serde(default)]
    pub refunded: MicroCredits,
    /// How the job runs, for the receipt (provider side).
    #[serde(default)]
    pub execution: Option<Execution>,
    /// How many milliseconds of the strangers' allowance it took (provider side).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub strangers_ms: u64,
    /// When it started.
    pub created_ms: UnixMillis,
    /// When it last changed.
    pub updated_ms: UnixMillis,
}

impl JobRecord {
    /// The record's key: the nonce of its quote.
    pub fn key(&self) -> Result<Nonce, StorageError> {
        Ok(self.quote.read_unverified().map_err(|error| StorageError::Corrupt(error.to_string()))?.nonce)
    }

    /// What a provider has delivered under a receipt and was not paid.
    pub fn unpaid(&self) -> MicroCredits {
        let billed = self.receipt.as_ref().and_then(|receipt| receipt.read_unverified().ok());
        billed.and_then(|receipt| receipt.total.checked_sub(self.paid)).unwrap_or_default()
    }
}

/// What one job came to, as the index by peer keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobSums {
    /// Paid by cheque.
    pub paid: MicroCredits,
    /// Delivered under a receipt and not paid, while that may still change: with a job that ended without its last cheque
    /// it is lost.
    pub unpaid: MicroCredits,
}

impl JobSums {
    pub(super) fn of(record: &JobRecord) -> Self {
        let unpaid = if record.state == JobState::Delivered { record.unpaid() } else { MicroCredits::ZERO };
        Self { paid: record.paid, unpaid }
    }
}

/// All jobs with one peer on one side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerSums {
    /// Attempts at jobs.
    pub jobs: u64,
    /// Those of them for which something was paid.
    pub paid_jobs: u64,
    /// Delivered and not paid yet.
    pub unpaid: MicroCredits,
}

impl PeerSums {
    pub(super) fn add(&mut self, job: JobSums) {
        self.jobs += 1;
        self.paid_jobs += u64::from(job.paid > MicroCredits::ZERO);
        self.unpaid = MicroCredits(self.unpaid.0.saturating_add(job.unpaid.0));
    }
}

/// The newest settlement between this node and a peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SettlementRecord {
    /// What the payee signed.
    pub settlement: Signed<Settlement>,
    /// What it says, read.
    pub settled: MicroCredits,
    /// Whether the payer has taken it, as far as this node knows.
    pub delivered: bool,
}

/// Sums over all time, kept with every change so that no history is read for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sums {
    /// Promised to this node by cheques it holds.
    pub earned: MicroCredits,
    /// Promised by this node.
    pub spent: MicroCredits,
    /// Given back by this node for service that its quotes promised and it did not keep.
    #[serde(default)]
    pub given_back: MicroCredits,
    /// Given back to this node.
    #[serde(default)]
    pub got_back: MicroCredits,
    /// Jobs completed as provider.
    pub jobs_provided: u64,
    /// Jobs completed as client.
    pub jobs_bought: u64,
    /// What is left for clients that have settled nothing.
    #[serde(default, skip_serializing_if = "is_default")]
    pub strangers: Allowance,
}

// serde's `skip_serializing_if` passes a reference to the field.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_default(allowance: &Allowance) -> bool {
    *allowance == Allowance::default()
}

/// What this node found about a peer by attestation, newest only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttestationRecord {
    /// Whom it is about.
    pub peer: NodeId,
    /// When it was found.
    pub at_ms: UnixMillis,
    /// What this node signed; `None` where the evidence failed.
    pub result: Option<Signed<AttestationResult>>,
    /// The result at length, as a JWT.
    pub ear: Option<String>,
    /// Why the evidence failed, if it did.
    pub failure: Option<String>,
    /// Whether that speaks against the peer: not where only its vendor is unknown here.
    #[serde(default)]
    pub against: bool,
    /// Before when what this node had signed about the peer does not count any more, where it had signed something.
    #[serde(default)]
    pub revoked_ms: Option<UnixMillis>,
    /// What was measured when it was verified first, by kind: evidence that shows another measurement fails.
    pub measured: Vec<(EvidenceKind, Measurement)>,
}

/// Evidence that this node has verified, and when it learnt of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvidenceRecord {
    /// The accused's own words.
    pub evidence: Evidence,
    /// From when on it counts.
    pub learned_ms: UnixMillis,
}
