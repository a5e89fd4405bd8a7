//! What was asked, what answered, what is owed; and the cheques that pay.
//!
//! Money between two nodes flows one way in one *channel*: client to provider. A cheque promises a cumulative sum
//! over the whole life of the channel and says how much of it is for which job. Cheques of concurrent jobs travel on
//! different streams and may arrive out of order: an older one is still good as an allocation, as long as the
//! allocations together stay within the newest promise.

use crate::{
    UnixMillis,
    bytes::{Digest, JobId, Nonce},
    envelope::{Signed, Statement},
    holdback::Held,
    identity::NodeId,
    job::{Finish, ModelName, Sampling},
    money::MicroCredits,
    offer::{Device, Engine},
    price::{PriceOverflow, TokenPrice},
    quote::Quote,
    sealed::SealedWork,
    text::Line,
};
use serde::{Deserialize, Serialize};

/// What the answer is bound by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputDigest {
    /// SHA-256 over the token ids of this attempt ([`Digest::of_tokens`]).
    Tokens(Digest),
    /// SHA-256 of the text of this attempt, where the engine does not tell token ids.
    Text(Digest),
    /// SHA-256 over the little-endian `f32` of all vectors in order.
    Vectors(Digest),
    /// SHA-256 of the encrypted answer of a private job.
    Sealed(Digest),
    /// Not known any more: the provider restarted in the middle of the job. Only a failed job may say so.
    Lost,
}

/// How a provider runs a job: what a receipt says of it, whatever happens meanwhile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Execution {
    /// What runs it.
    pub engine: Engine,
    /// Quantisation of the weights.
    pub quantisation: Line<24>,
    /// Where it runs.
    pub device: Device,
    /// How tokens are drawn, the seed included.
    pub sampling: Sampling,
    /// Under which key what is computed, in a private job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<SealedWork>,
}

/// How long the parts of a job took on the provider, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timings {
    /// From admission to the engine's start.
    pub queued_ms: u64,
    /// From admission to the first token handed to the stream.
    pub first_token_ms: u64,
    /// From admission to the end, pauses included.
    pub total_ms: u64,
    /// Pauses after the first token: for payment, for a client that came back on another stream, or that read slowly.
    #[serde(default)]
    pub paused_ms: u64,
}

/// What a provider signs at the end of a job, however it ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// The job.
    pub job: JobId,
    /// Who asked.
    pub client: NodeId,
    /// Nonce of the quote the job ran under.
    pub quote: Nonce,
    /// Digest of the request.
    pub request: Digest,
    /// The model.
    pub model: ModelName,
    /// SHA-256 of its weights.
    pub weights: Digest,
    /// What ran it.
    pub engine: Engine,
    /// Quantisation of the weights.
    pub quantisation: Line<24>,
    /// Where it ran.
    pub device: Device,
    /// How tokens were drawn, the seed included.
    pub sampling: Sampling,
    /// Prompt tokens billed.
    pub prompt_tokens: u32,
    /// Tokens of the answer billed: those of this attempt.
    pub completion_tokens: u32,
    /// The answer.
    pub output: OutputDigest,
    /// True where nothing proves which weights answered.
    pub declared: bool,
    /// Why it ended.
    pub finish: Finish,
    /// The base for a thousand tokens, as quoted; the quote has the factors.
    pub price: TokenPrice,
    /// What is owed.
    pub total: MicroCredits,
    /// What the provider gives back of it, for terms of the quote that were not kept ([`crate::sla::verdict`]).
    #[serde(default)]
    pub penalty: MicroCredits,
    /// When the job was admitted, by the provider's clock.
    pub admitted_ms: UnixMillis,
    /// How long it took.
    pub timings: Timings,
    /// Under which key what was computed, in a private job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<SealedWork>,
}

impl Statement for Receipt {
    const DOMAIN: &'static str = "aitbc/receipt/1";
    const MAX_BYTES: usize = 8192;
}

/// A cumulative promise from the signer to `provider`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cheque {
    /// Who is paid.
    pub provider: NodeId,
    /// Grows with every cheque of this pair.
    pub sequence: u64,
    /// Everything promised to this provider so far, over all jobs.
    pub cumulative: MicroCredits,
    /// The job that this cheque pays for.
    pub job: JobId,
    /// The quote that prices it.
    pub quote: Nonce,
    /// Everything promised for this job so far.
    pub job_total: MicroCredits,
    /// Tokens of the attempt acknowledged.
    pub tokens: u32,
    /// What of `cumulative` waits until it is due; the rest is paid without condition.
    #[serde(default)]
    pub held: MicroCredits,
}

impl Statement for Cheque {
    const DOMAIN: &'static str = "aitbc/cheque/1";
    const MAX_BYTES: usize = 512;
}

/// One direction of payment between two nodes, as either side keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Channel {
    /// Sequence of the newest cheque.
    pub sequence: u64,
    /// The newest promise.
    pub cumulative: MicroCredits,
    /// The part of it that jobs have been given.
    pub allocated: MicroCredits,
    /// What the provider gives back of it, by its receipts.
    #[serde(default)]
    pub refunded: MicroCredits,
    /// What of the promise waits, by the newest cheque.
    #[serde(default)]
    pub held: Held,
    /// What the provider has lost of it by faults of its own that were shown.
    #[serde(default)]
    pub forfeited: MicroCredits,
}

/// Why a cheque is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChequeFault {
    /// Made out to another provider.
    #[error("the cheque is made out to another provider")]
    OtherProvider,
    /// For a job or quote other than the stream's.
    #[error("the cheque is for another job")]
    OtherJob,
    /// A newer cheque with a lower promise.
    #[error("the cheque promises {got} after {had}")]
    Lower {
        /// The newest promise held.
        had: MicroCredits,
        /// What this one says.
        got: MicroCredits,
    },
    /// Less for this job than promised before.
    #[error("the cheque takes back what was promised for the job")]
    JobLower,
    /// The jobs' parts exceed the promise.
    #[error("the cheque's parts exceed its sum")]
    Overallocated,
    /// A sum that does not follow from the tokens it acknowledges.
    #[error("the cheque says {got} where the quote asks for {expected}")]
    Amount {
        /// What the quote's price gives for the tokens.
        expected: MicroCredits,
        /// What the cheque says.
        got: MicroCredits,
    },
    /// Tokens that were never delivered.
    #[error("the cheque acknowledges {got} tokens of {delivered} delivered")]
    Undelivered {
        /// Tokens sent so far.
        delivered: u32,
        /// Tokens acknowledged.
        got: u32,
    },
    /// More held back than the quote allows.
    #[error("the cheque holds {got} back where the quote lets {most} be held")]
    Held {
        /// The most.
        most: MicroCredits,
        /// What it says.
        got: MicroCredits,
    },
    /// A sum that does not fit.
    #[error("the sum does not fit 64 bits")]
    Overflow,
}

impl Cheque {
    /// Judges a cheque against the quote it pays: the right job, no token that was not delivered or cannot be billed,
    /// and exactly the price of the tokens it acknowledges.
    pub fn check(&self, quote: &Quote, delivered: u32) -> Result<(), ChequeFault> {
        if self.job != quote.job || self.quote != quote.nonce {
            return Err(ChequeFault::OtherJob);
        }
        let delivered = delivered.min(quote.max_completion_tokens);
        if self.tokens > delivered {
            return Err(ChequeFault::Undelivered { delivered, got: self.tokens });
        }
        let expected = quote.total(self.tokens).map_err(|PriceOverflow| ChequeFault::Overflow)?;
        if self.job_total != expected || expected > quote.max_total {
            return Err(ChequeFault::Amount { expected: expected.min(quote.max_total), got: self.job_total });
        }
        Ok(())
    }
}

impl Channel {
    /// The next cheque on the client's side, for a job under `quote`: raises the job's total from `paid` to `job_total`, and
    /// holds as much as the quote allows.
    pub fn promise(
        &self,
        provider: NodeId,
        quote: &Quote,
        paid: MicroCredits,
        job_total: MicroCredits,
        tokens: u32,
        now_ms: UnixMillis,
    ) -> Result<(Self, Cheque), ChequeFault> {
        let more = job_total.checked_sub(paid).ok_or(ChequeFault::JobLower)?;
        let cumulative = self.cumulative.checked_add(more).ok_or(ChequeFault::Overflow)?;
        let sequence = self.sequence.checked_add(1).ok_or(ChequeFault::Overflow)?;
        let held = self.held.after(more, &quote.audit, now_ms);
        let channel = Self { sequence, cumulative, allocated: cumulative, held, ..*self };
        let (job, quote, held) = (quote.job, quote.nonce, held.amount);
        Ok((channel, Cheque { provider, sequence, cumulative, job, quote, job_total, tokens, held }))
    }

    /// Takes a cheque on the provider's side, for a job under `quote`. `paid` is what this job was given before. The same
    /// cheque twice changes nothing. Whether the signer is the job's client is judged elsewhere.
    ///
    /// A provider that missed cheques in between knows of more that was held and less that was let go of, so it never
    /// refuses an honest one.
    pub fn accept(
        &self,
        me: NodeId,
        quote: &Quote,
        paid: MicroCredits,
        cheque: &Cheque,
    ) -> Result<Self, ChequeFault> {
        if cheque.provider != me {
            return Err(ChequeFault::OtherProvider);
        }
        let more = cheque.job_total.checked_sub(paid).ok_or(ChequeFault::JobLower)?;
        let newer = cheque.sequence > self.sequence;
        if newer && cheque.cumulative < self.cumulative || !newer && cheque.cumulative > self.cumulative {
            return Err(ChequeFault::Lower { had: self.cumulative, got: cheque.cumulative });
        }
        let cumulative = self.cumulative.max(cheque.cumulative);
        let allocated = self.allocated.checked_add(more).ok_or(ChequeFault::Overflow)?;
        if allocated > cumulative {
            return Err(ChequeFault::Overallocated);
        }
        let mut held = self.held;
        if newer {
            let raised = cumulative.checked_sub(self.cumulative).unwrap_or_default();
            let most = held.most(raised, &quote.audit);
            if cheque.held > most {
                return Err(ChequeFault::Held { most, got: cheque.held });
            }
            held = held.taken(cheque.held, &quote.audit);
        } else {
            // It came late, and its part is in what is held already.
            held = held.taken(held.amount, &quote.audit);
        }
        Ok(Self { sequence: self.sequence.max(cheque.sequence), cumulative, allocated, held, ..*self })
    }
}

/// A receipt with what is needed to check it offline: what `aitbc receipts verify FILE` reads.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReceiptFile {
    /// Always `aitbc.receipt/1`.
    pub schema: String,
    /// The network whose statements these are.
    pub network: crate::NetworkId,
    /// The quote.
    pub quote: Signed<Quote>,
    /// The receipt.
    pub receipt: Signed<Receipt>,
    /// The newest cheque for the job, if any was signed.
    pub cheque: Option<Signed<Cheque>>,
}
