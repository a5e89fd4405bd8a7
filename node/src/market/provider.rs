//! The provider's side of the book: what it admits, which cheques it takes, what it signs at the end.

use super::{
    LedgerError, Settled,
    book::Book,
    client::Verified,
    rules::{self, Job},
    strangers::Strangers,
};
use crate::storage::{JobRecord, Side};
use aitbc_protocol::{
    CLOCK_TOLERANCE_MS, MicroCredits, NodeId, Nonce, Signed,
    job::{JobEvent, JobState},
    quote::{QUOTE_LIFETIME_MS, Quote},
    receipt::{Cheque, Execution, OutputDigest, Receipt},
    text::Line,
};

impl Book {
    pub(super) fn admit(
        &mut self,
        client: NodeId,
        signed: Signed<Quote>,
        execution: Execution,
        strangers: &Strangers,
    ) -> Result<(), LedgerError> {
        let quote =
            signed.read_unverified().map_err(|error| LedgerError::Signature(format!("of the quote: {error}")))?;
        if signed.signer() != self.me || quote.client != client {
            return Err(LedgerError::Signature("the quote is not this node's for this client".to_owned()));
        }
        if self.quote_used(&quote.nonce)? || self.job(Side::Provider, &quote.nonce)?.is_some() {
            return Err(LedgerError::QuoteUsed);
        }
        let strangers_ms = self.charge(client, &quote, strangers)?;
        self.use_quote(quote.nonce, quote.expires_ms);
        let record = JobRecord {
            side: Side::Provider,
            peer: client,
            addresses: Vec::new(),
            job: quote.job,
            quote: signed,
            model: quote.model.clone(),
            state: JobState::Running,
            finish: None,
            failure: None,
            tokens: 0,
            paid: MicroCredits::ZERO,
            cheque: None,
            receipt: None,
            refused: false,
            refunded: MicroCredits::ZERO,
            execution: Some(execution),
            strangers_ms,
            created_ms: self.now_ms,
            updated_ms: self.now_ms,
        };
        Ok(self.put(Job { record, quote })?)
    }

    pub(super) fn take_cheque(
        &mut self,
        quote: Nonce,
        client: NodeId,
        cheque: Verified<Cheque>,
        delivered: u32,
    ) -> Result<u32, LedgerError> {
        let job = self.of_client(quote, client)?;
        let job = self.take(job, cheque, delivered)?;
        let tokens = job.record.tokens;
        self.close_if_covered(job)?;
        Ok(tokens)
    }

    pub(super) fn finish(
        &mut self,
        receipt: &Receipt,
        failure: Option<Line<160>>,
    ) -> Result<Signed<Receipt>, LedgerError> {
        let mut job = self.known(Side::Provider, &receipt.quote)?;
        if let Some(held) = job.record.receipt {
            // The client settled while the engine was still being stopped: that end stands.
            return Ok(held);
        }
        if let Some(fault) = rules::fault(&receipt.check(&job.quote, None)) {
            return Err(LedgerError::Overcharge(fault));
        }
        let signed = self.seal(receipt)?;
        job.record.state = job.record.state.on(JobEvent::Receipt(receipt.finish))?;
        job.record.finish = Some(receipt.finish);
        job.record.failure = failure;
        job.record.receipt = Some(signed.clone());
        self.put(job.clone())?;
        self.close_if_covered(job)?;
        Ok(signed)
    }

    pub(super) fn settle(
        &mut self,
        quote: Nonce,
        client: NodeId,
        cheque: Option<Verified<Cheque>>,
    ) -> Result<Option<Settled>, LedgerError> {
        if self.job(Side::Provider, &quote)?.is_none() {
            // The client ends the job on this answer: its request, should it still be on the way, must not start it.
            self.use_quote(quote, self.now_ms.saturating_add(QUOTE_LIFETIME_MS + CLOCK_TOLERANCE_MS));
            return Ok(None);
        }
        let mut job = self.of_client(quote, client)?;
        if let Some(cheque) = cheque {
            let delivered = rules::delivered(&job)?.unwrap_or(job.quote.max_completion_tokens);
            job = self.take(job, cheque, delivered)?;
        }
        if job.record.state == JobState::Running {
            job = self.end_lost(job, "the client settled while the job was running")?;
        }
        let job = self.close_if_covered(job)?;
        Ok(Some((job.record.paid, job.record.receipt)))
    }

    /// Ends what a crash left running. Nothing tells any more how far those jobs were, so they bill what is paid.
    pub(super) fn end_interrupted(&mut self) -> Result<(), LedgerError> {
        for record in self.store.unfinished()? {
            if record.side == Side::Provider && record.state == JobState::Running {
                tracing::info!(job = %record.job, peer = %record.peer, "ended a job that a restart interrupted");
                self.end_lost(Job::new(record)?, "the provider restarted")?;
            }
        }
        Ok(())
    }

    /// Applies a cheque to a job, if it says anything new.
    fn take(&mut self, mut job: Job, cheque: Verified<Cheque>, delivered: u32) -> Result<Job, LedgerError> {
        let channel = self.channel(Side::Provider, job.record.peer)?;
        let Some(channel) = rules::accept(&job, &channel, self.me, &cheque.read, delivered)? else {
            return Ok(job);
        };
        let receipt = job.receipt()?;
        let lost = receipt.is_some_and(|receipt| receipt.output == OutputDigest::Lost);
        let open = matches!(job.record.state, JobState::Running | JobState::Delivered | JobState::ReceiptMissing);
        // A job ends as soon as its receipt is covered. Tokens that add nothing to its price may be acknowledged later.
        let free = cheque.read.job_total == job.record.paid;
        if !open && !lost && !free {
            return Err(LedgerError::Ended(job.record.state));
        }
        job.record.cheque = Some(cheque.signed);
        job.record.paid = cheque.read.job_total;
        job.record.tokens = cheque.read.tokens;
        if lost {
            job.record.receipt = Some(self.seal(&rules::lost_receipt(&job, self.now_ms)?)?);
        }
        // Until all of it is paid more can come: a client that comes back late may bring it in several cheques.
        if job.record.state == JobState::ReceiptMissing
            && job.receipt()?.is_none_or(|receipt| rules::covered(job.record.paid, &receipt))
        {
            job.record.state = job.record.state.on(JobEvent::Settled)?;
        }
        self.put_channel(Side::Provider, job.record.peer, channel)?;
        self.put(job.clone())?;
        Ok(job)
    }

    /// Ends a job with a receipt for what is paid.
    fn end_lost(&mut self, mut job: Job, failure: &str) -> Result<Job, LedgerError> {
        let receipt = rules::lost_receipt(&job, self.now_ms)?;
        job.record.receipt = Some(self.seal(&receipt)?);
        job.record.finish = Some(receipt.finish);
        job.record.failure = Some(Line::lossy(failure));
        job.record.state = job.record.state.on(JobEvent::Receipt(receipt.finish))?;
        self.put(job.clone())?;
        self.close_if_covered(job)
    }

    /// A delivered job is over once all of its receipt is paid.
    fn close_if_covered(&mut self, mut job: Job) -> Result<Job, LedgerError> {
        if job.record.state != JobState::Delivered {
            return Ok(job);
        }
        if let Some(receipt) = job.receipt()?
            && rules::covered(job.record.paid, &receipt)
        {
            job.record.state = job.record.state.on(JobEvent::Paid(receipt.finish))?;
            self.put(job.clone())?;
        }
        Ok(job)
    }

    fn of_client(&mut self, quote: Nonce, client: NodeId) -> Result<Job, LedgerError> {
        let job = self.known(Side::Provider, &quote)?;
        if job.record.peer == client { Ok(job) } else { Err(LedgerError::UnknownJob) }
    }
}
