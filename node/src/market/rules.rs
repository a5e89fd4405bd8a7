//! What may be promised, taken and billed: pure functions on one job and its channel.

use super::LedgerError;
use crate::storage::{JobRecord, StorageError};
use aitbc_protocol::{
    MicroCredits, NodeId, UnixMillis,
    checks::Check,
    job::Finish,
    quote::Quote,
    receipt::{Channel, Cheque, ChequeFault, OutputDigest, Receipt, Timings},
    sla::verdict,
    text::Line,
};

/// A job with its quote at hand.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) record: JobRecord,
    pub(super) quote: Quote,
}

impl Job {
    /// Reads the quote that the record holds as it was signed.
    pub(super) fn new(record: JobRecord) -> Result<Self, StorageError> {
        let quote = record
            .quote
            .read_unverified()
            .map_err(|error| StorageError::Corrupt(format!("the quote of a job: {error}")))?;
        Ok(Self { record, quote })
    }

    /// The receipt it holds.
    pub(super) fn receipt(&self) -> Result<Option<Receipt>, StorageError> {
        let receipt = self.record.receipt.as_ref().map(aitbc_protocol::Signed::read_unverified);
        receipt.transpose().map_err(|error| StorageError::Corrupt(format!("the receipt of a job: {error}")))
    }

    /// The newest cheque it holds.
    pub(super) fn cheque(&self) -> Result<Option<Cheque>, StorageError> {
        let cheque = self.record.cheque.as_ref().map(aitbc_protocol::Signed::read_unverified);
        cheque.transpose().map_err(|error| StorageError::Corrupt(format!("the cheque of a job: {error}")))
    }
}

/// The client's next cheque for `tokens` tokens, with the channel it leaves; `None` where the newest one already
/// covers them.
pub(super) fn promise(
    job: &Job,
    channel: &Channel,
    tokens: u32,
    now_ms: UnixMillis,
) -> Result<Option<(Channel, Cheque)>, LedgerError> {
    let Job { record, quote } = job;
    if record.cheque.is_some() && tokens <= record.tokens {
        return Ok(None);
    }
    if record.state.is_final() {
        return Err(LedgerError::Ended(record.state));
    }
    if record.refused {
        let why = record.failure.as_ref().map_or("the provider broke the protocol", Line::as_str);
        return Err(LedgerError::Overcharge(format!("nothing more is paid: {why}")));
    }
    let billable = job.receipt()?.map_or(quote.max_completion_tokens, |receipt| receipt.completion_tokens);
    if tokens > billable {
        return Err(LedgerError::Overcharge(format!("{tokens} tokens where at most {billable} can be billed")));
    }
    let total = quote.total(tokens).map_err(|_| ChequeFault::Overflow)?;
    if total > quote.max_total {
        return Err(LedgerError::Overcharge(format!("{total} where the quote says at most {}", quote.max_total)));
    }
    let provider = record.peer;
    Ok(Some(channel.promise(provider, quote, record.paid, total, tokens, now_ms)?))
}

/// The cheque that lets go of what is held and due, on the newest job of its channel: it promises nothing more.
pub(super) fn release(job: &Job, channel: &Channel, now_ms: UnixMillis) -> Result<(Channel, Cheque), LedgerError> {
    let Job { record, quote } = job;
    Ok(channel.promise(record.peer, quote, record.paid, record.paid, record.tokens, now_ms)?)
}

/// What the provider's side makes of a cheque: the channel it leaves, or `None` where it says nothing new.
pub(super) fn accept(
    job: &Job,
    channel: &Channel,
    me: NodeId,
    cheque: &Cheque,
    delivered: u32,
) -> Result<Option<Channel>, LedgerError> {
    let Job { record, quote } = job;
    if cheque.provider != me {
        return Err(ChequeFault::OtherProvider.into());
    }
    cheque.check(quote, delivered)?;
    if let Some(held) = job.cheque()? {
        if *cheque == held {
            return Ok(None);
        }
        // An older cheque of this job that comes late says less than the one held.
        if cheque.sequence < held.sequence && cheque.tokens <= record.tokens {
            return Ok(None);
        }
        if cheque.tokens < record.tokens {
            return Err(ChequeFault::JobLower.into());
        }
    }
    Ok(Some(channel.accept(me, quote, record.paid, cheque)?))
}

/// The most tokens a cheque may acknowledge on a job that is not running: those of its receipt, or any the quote
/// allows where a restart made the provider forget what it sent. `None` while there is no receipt.
pub(super) fn delivered(job: &Job) -> Result<Option<u32>, StorageError> {
    Ok(job.receipt()?.map(|receipt| match receipt.output {
        OutputDigest::Lost => job.quote.max_completion_tokens,
        _ => receipt.completion_tokens,
    }))
}

/// The first check that did not hold.
pub(super) fn fault(checks: &[Check]) -> Option<String> {
    let failed = checks.iter().find(|check| check.passed == Some(false))?;
    Some(format!("{}: {}", failed.name, failed.detail))
}

/// The receipt of a job whose end this provider did not see: it bills what is paid.
pub(super) fn lost_receipt(job: &Job, now_ms: UnixMillis) -> Result<Receipt, StorageError> {
    let Job { record, quote } = job;
    let execution = record
        .execution
        .clone()
        .ok_or_else(|| StorageError::Corrupt(format!("job {} does not say how it ran", record.job)))?;
    let mut receipt = Receipt {
        job: record.job,
        client: record.peer,
        quote: quote.nonce,
        request: quote.request,
        model: quote.model.clone(),
        weights: quote.weights,
        engine: execution.engine,
        quantisation: execution.quantisation,
        device: execution.device,
        sampling: execution.sampling,
        prompt_tokens: quote.prompt_tokens,
        completion_tokens: record.tokens,
        output: OutputDigest::Lost,
        declared: quote.declared,
        finish: Finish::Failed,
        price: quote.price,
        total: record.paid,
        penalty: MicroCredits::ZERO,
        admitted_ms: record.created_ms,
        timings: Timings { total_ms: now_ms.saturating_sub(record.created_ms), ..Timings::default() },
        sealed: execution.sealed,
    };
    receipt.penalty = verdict(quote, &receipt).penalty;
    Ok(receipt)
}

/// Whether a receipt that bills more than was acknowledged can be what an honest provider sent into a path that
/// broke: at most one window beyond.
pub(super) fn within_window(job: &Job, receipt: &Receipt) -> bool {
    receipt.completion_tokens <= job.record.tokens.saturating_add(job.quote.window)
        && job.quote.total(receipt.completion_tokens) == Ok(receipt.total)
}

/// What of a job is given back: what its receipt says, once the job is over and unless this node refused the receipt.
pub(super) fn refund(job: &Job) -> Result<MicroCredits, StorageError> {
    if !job.record.state.is_final() || job.record.refused {
        return Ok(MicroCredits::ZERO);
    }
    Ok(job.receipt()?.map_or(MicroCredits::ZERO, |receipt| receipt.penalty.min(job.record.paid)))
}

/// True once everything that a receipt asks for is paid.
pub(super) fn covered(paid: MicroCredits, receipt: &Receipt) -> bool {
    paid >= receipt.total
}
