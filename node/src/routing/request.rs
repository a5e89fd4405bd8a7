//! What a user asks of the client side, and what it tells as it happens.

use super::shown::ShownBy;
use crate::trust::Standing;
use aitbc_protocol::{
    JobId, MicroCredits, NodeId,
    attestation::Tier,
    bytes::BoundedBytes,
    checks::Check,
    geo::Cell,
    job::{Finish, JobSpec, Logprobs, ModelName},
    offer::Device,
    price::{Explained, LatencyClass},
    private::PrivateOffer,
    quote::Quote,
    receipt::Receipt,
    routing::{
        Exclusion, Reasons,
        fallback::{CloudReason, Fallback},
        preference::Preference,
    },
    sealed::MAX_SEALED_OUTPUT,
};
use serde::{Deserialize, Serialize};
use std::fmt;
use tokio::sync::mpsc;

/// What a user wishes beyond the request itself: the `aitbc` object of the API, the flags of `aitbc run`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wishes {
    /// The most to pay for the job, in micro-credits.
    pub max_price: Option<MicroCredits>,
    /// Largest round trip in milliseconds; 400 if none is given.
    pub latency_budget_ms: Option<u32>,
    /// How soon the answer is wished: it sets the price.
    pub latency_class: LatencyClass,
    /// Only these weights (SHA-256).
    pub weights: Option<aitbc_protocol::Digest>,
    /// Whether a provider that only forwards to another server will do.
    pub allow_declared: bool,
    /// The least that the provider must have shown of its hardware to this node, to a verifier that it counts on, or in a proof.
    pub min_trust: Tier,
    /// GPU memory in MiB that the provider must have shown to this node, or to a verifier that it counts on.
    pub min_shown_mib: u32,
    /// Only this provider.
    pub provider: Option<NodeId>,
    /// Never on this node's own device.
    pub remote_only: bool,
    /// When the job may go to the cloud of the settings; as `client.fallback` says if not given.
    pub fallback: Option<Fallback>,
    /// What decides among those that can do the job; as `client.policy` says if not given.
    pub policy: Option<Preference>,
}

/// A job as the client side takes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobRequest {
    /// The request.
    pub spec: JobSpec,
    /// The wishes.
    #[serde(default)]
    pub wishes: Wishes,
}

/// One line of a ranking.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RankedCandidate {
    /// Who.
    pub provider: NodeId,
    /// The cell it announces.
    pub cell: Cell,
    /// Where the model runs there, by its word.
    pub device: Device,
    /// SHA-256 of the weights there.
    pub weights: aitbc_protocol::Digest,
    /// Set where it computes on encrypted values, and on nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private: Option<PrivateOffer>,
    /// Cost in milliseconds-equivalents; `None` where it is out.
    pub cost: Option<f64>,
    /// The parts.
    pub reasons: Reasons,
    /// Why it is out, if it is.
    pub excluded: Option<Exclusion>,
    /// What verifiers have signed about the memory of its GPUs, and still stands.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shown: Vec<ShownBy>,
    /// What its attestation is worth here.
    #[serde(default)]
    pub trust: Standing,
}

/// Why a job ended without an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum JobFailure {
    /// The request breaks a rule.
    #[error("{message}")]
    Invalid {
        /// Which.
        message: String,
    },
    /// Nobody serves the model, as far as this node can see.
    #[error("no provider for {model}: {message}")]
    NoProvider {
        /// The model.
        model: ModelName,
        /// How far the search went and what ruled everyone out, with what to change.
        message: String,
        /// What ruled everyone out, one by one.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        ruled_out: Vec<RuledOut>,
    },
    /// All candidates are above the ceiling.
    #[error("{message}")]
    TooExpensive {
        /// The cheapest one, the ceiling, and what each asks.
        message: String,
        /// What each asks, one by one.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        ruled_out: Vec<RuledOut>,
    },
    /// It took too long.
    #[error("{message}")]
    Timeout {
        /// What did.
        message: String,
    },
    /// An answer or its receipt did not hold.
    #[error("verification failed: {message}")]
    Verification {
        /// Which check.
        message: String,
    },
    /// All candidates failed on the way.
    #[error("{message}")]
    Failed {
        /// Each attempt with its reason.
        message: String,
    },
}

/// Somebody who could not do a job, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuledOut {
    /// Who; nothing stands for the cloud of the settings.
    pub provider: Option<NodeId>,
    /// The cell it announces, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cell: Option<Cell>,
    /// What ruled it out, in one word.
    pub by: String,
    /// The same in a sentence.
    pub reason: String,
}

impl fmt::Display for RuledOut {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.provider {
            Some(provider) => write!(formatter, "{}: {}", provider.short(), self.reason),
            None => write!(formatter, "the cloud: {}", self.reason),
        }
    }
}

/// All of them, as the end of a message.
pub(super) fn listed(ruled_out: &[RuledOut]) -> String {
    ruled_out.iter().fold(String::new(), |text, row| text + "; " + &row.to_string())
}

impl JobFailure {
    /// The same with one more who could not do it.
    #[must_use]
    pub(super) fn with(mut self, row: RuledOut) -> Self {
        let (Self::NoProvider { message, .. }
        | Self::TooExpensive { message, .. }
        | Self::Invalid { message }
        | Self::Timeout { message }
        | Self::Verification { message }
        | Self::Failed { message }) = &mut self;
        message.push_str(&listed(std::slice::from_ref(&row)));
        if let Self::NoProvider { ruled_out, .. } | Self::TooExpensive { ruled_out, .. } = &mut self {
            ruled_out.push(row);
        }
        self
    }

    /// Takes out of it, and of its message, who was ruled out by what, for a table of its own.
    pub(crate) fn take_ruled_out(&mut self) -> Vec<RuledOut> {
        let (Self::NoProvider { message, ruled_out, .. } | Self::TooExpensive { message, ruled_out }) = self
        else {
            return Vec::new();
        };
        let rows = std::mem::take(ruled_out);
        if let Some(head) = message.strip_suffix(&listed(&rows)) {
            *message = head.to_owned();
        }
        rows
    }
}

/// What happens to a job, as it happens: one line of NDJSON on the control API each. Deltas of a job that failed over
/// continue without a seam.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "a queue holds few updates, and receipts are one in hundreds")]
pub enum JobUpdate {
    /// Looking for providers.
    Searching {
        /// Precision of the cells looked up.
        precision: u8,
        /// Steps from the own cell.
        ring: u32,
        /// Candidates so far.
        found: usize,
    },
    /// A provider of the model was found.
    Found {
        /// Who.
        provider: NodeId,
        /// Its cell.
        cell: Cell,
        /// Least distance to the cell in km.
        distance_km: f64,
        /// `gossip` or `dht`.
        through: String,
    },
    /// The ranking, best first.
    Ranked {
        /// All candidates.
        candidates: Vec<RankedCandidate>,
    },
    /// A provider did not quote or did not start.
    Declined {
        /// Who.
        provider: NodeId,
        /// Why.
        reason: String,
    },
    /// No quote came of a provider for a reason that may pass, such as a lost path, and nobody else is left: it is asked
    /// again.
    Retrying {
        /// Who.
        provider: NodeId,
        /// Why none came.
        reason: String,
    },
    /// A binding quote was taken.
    Quoted {
        /// Who.
        provider: NodeId,
        /// The quote.
        quote: Quote,
        /// What changes its price from the base, and why.
        factors: Vec<Explained>,
    },
    /// The job runs; `provider` is this node itself where its own device answers, without quote and cheque.
    Started {
        /// Who.
        provider: NodeId,
        /// Milliseconds from the request until now.
        after_ms: u64,
    },
    /// The job goes to the cloud of the settings, whose operator reads the prompt. Nothing is paid by this node.
    Cloud {
        /// Host and port.
        host: String,
        /// What the cloud calls the model that stands in.
        model: String,
        /// The most the job can cost there, by the price that the settings name.
        most: MicroCredits,
        /// Why it goes there.
        reason: CloudReason,
    },
    /// The cloud has answered.
    CloudBill {
        /// Host and port.
        host: String,
        /// What the cloud calls the model that answered.
        model: String,
        /// Tokens of the prompt.
        prompt_tokens: u32,
        /// Tokens of the answer.
        completion_tokens: u32,
        /// Whether the cloud told both counts, or this node made them.
        counted: bool,
        /// What that costs, by the price that the settings name.
        cost: MicroCredits,
    },
    /// The cloud did not answer.
    CloudFailed {
        /// Host and port.
        host: String,
        /// Why.
        reason: String,
    },
    /// A piece of the answer.
    Delta {
        /// Text.
        text: String,
        /// Token ids, where told.
        tokens: Vec<u32>,
        /// If asked for.
        logprobs: Vec<Logprobs>,
    },
    /// Bootstraps of a private job are done.
    Computed {
        /// So far.
        done: u32,
        /// In all.
        of: u32,
    },
    /// The encrypted answer of a private job; its receipt is good and paid for.
    Sealed {
        /// For whoever has the key.
        answer: BoundedBytes<MAX_SEALED_OUTPUT>,
    },
    /// Vectors.
    Embeddings {
        /// One for each input.
        vectors: Vec<Vec<f32>>,
    },
    /// A cheque was handed over.
    Paid {
        /// To whom.
        provider: NodeId,
        /// Sequence of the cheque.
        sequence: u64,
        /// For this job so far, with this provider.
        job_total: MicroCredits,
        /// Tokens it pays for.
        tokens: u32,
    },
    /// The path to a provider was lost; the job waits there while this node looks for another path.
    PathLost {
        /// To whom.
        provider: NodeId,
        /// How.
        reason: String,
    },
    /// The job goes on with the same provider by another path. Nothing is missing, and nothing comes twice.
    Resumed {
        /// Who.
        provider: NodeId,
        /// Milliseconds since the path was lost.
        after_ms: u64,
    },
    /// A provider failed; the job goes on elsewhere after the tokens at hand.
    FailedOver {
        /// Who failed.
        from: NodeId,
        /// How.
        reason: String,
        /// Tokens kept.
        kept: u32,
    },
    /// The first token of a provider is late, and another one is asked as well: whoever's first token comes first answers.
    Hedged {
        /// Who is late.
        late: NodeId,
        /// For how many milliseconds it has been waited for.
        after_ms: u64,
        /// How many were expected.
        expected_ms: u64,
        /// Who is asked as well.
        beside: NodeId,
    },
    /// Of two providers that were asked, this one was slower, and was cancelled. Nothing of its answer was shown.
    Outrun {
        /// Who.
        provider: NodeId,
        /// Who was sooner.
        by: NodeId,
        /// What it was paid for what it had delivered by then, the prompt included.
        paid: MicroCredits,
        /// What settling may still bring it beyond that.
        reserved: MicroCredits,
    },
    /// A receipt came and was checked.
    Receipt {
        /// From whom.
        provider: NodeId,
        /// Digest of the signed payload: its id.
        id: aitbc_protocol::Digest,
        /// The receipt.
        receipt: Receipt,
        /// What was checked.
        checks: Vec<Check>,
    },
    /// A provider that delivered something left without a receipt.
    ReceiptMissing {
        /// Who.
        provider: NodeId,
        /// What it was paid.
        paid: MicroCredits,
        /// Why.
        reason: String,
    },
    /// The end of a job that was answered. Last update.
    Finished {
        /// Why the answer ended.
        finish: Finish,
        /// Prompt tokens.
        prompt_tokens: u32,
        /// Tokens of the answer, over all providers.
        completion_tokens: u32,
        /// Paid in all.
        paid: MicroCredits,
    },
    /// The end of a job that was not. Last update.
    Failed(JobFailure),
}

/// A job on its way. Dropping it cancels the job, on the provider too.
#[derive(Debug)]
pub struct RunningRequest {
    /// Its id.
    pub job: JobId,
    /// What happens to it; bounded, so that a slow reader slows the job.
    pub updates: mpsc::Receiver<JobUpdate>,
}
