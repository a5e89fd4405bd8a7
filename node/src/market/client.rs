//! The client's side of the book: what it takes on, what it promises, which receipts it believes.

use super::{
    LedgerError,
    book::Book,
    rules::{self, Job},
};
use crate::storage::{JobRecord, Side};
use aitbc_protocol::{
    JobId, MicroCredits, NodeId, Nonce, Signed,
    checks::{Check, Seen},
    job::{JobEvent, JobState},
    quote::Quote,
    receipt::{Cheque, Receipt},
    text::Line,
};

/// Most addresses kept with a job, in number and in bytes each: what an offer can hold.
const MAX_ADDRESSES: usize = 8;
const MAX_ADDRESS_BYTES: usize = 256;

/// A receipt whose signature was verified, in both forms.
#[derive(Clone, Debug)]
pub(super) struct Verified<T> {
    pub(super) signed: Signed<T>,
    pub(super) read: T,
}

impl Book {
    pub(super) fn open_job(
        &mut self,
        provider: NodeId,
        addresses: Vec<String>,
        id: JobId,
        signed: Signed<Quote>,
    ) -> Result<(), LedgerError> {
        let quote =
            signed.read_unverified().map_err(|error| LedgerError::Signature(format!("of the quote: {error}")))?;
        if signed.signer() != provider || quote.client != self.me || quote.job != id {
            return Err(LedgerError::Signature("the quote is not this provider's for this job".to_owned()));
        }
        if self.job(Side::Client, &quote.nonce)?.is_some() {
            return Err(LedgerError::QuoteUsed);
        }
        let record = JobRecord {
            side: Side::Client,
            peer: provider,
            addresses: addresses
                .into_iter()
                .filter(|address| address.len() <= MAX_ADDRESS_BYTES)
                .take(MAX_ADDRESSES)
                .collect(),
            job: id,
            quote: signed,
            model: quote.model.clone(),
            state: JobState::Opening,
            finish: None,
            failure: None,
            tokens: 0,
            paid: MicroCredits::ZERO,
            cheque: None,
            receipt: None,
            refused: false,
            refunded: MicroCredits::ZERO,
            execution: None,
            strangers_ms: 0,
            created_ms: self.now_ms,
            updated_ms: self.now_ms,
        };
        Ok(self.put(Job { record, quote })?)
    }

    pub(super) fn accepted(&mut self, quote: Nonce) -> Result<(), LedgerError> {
        let mut job = self.known(Side::Client, &quote)?;
        if job.record.state != JobState::Running {
            job.record.state = job.record.state.on(JobEvent::Accepted)?;
            self.put_relaxed(job)?;
        }
        Ok(())
    }

    pub(super) fn refused(&mut self, quote: Nonce, why: Line<160>) -> Result<(), LedgerError> {
        let mut job = self.known(Side::Client, &quote)?;
        job.record.state = job.record.state.on(JobEvent::Refused)?;
        job.record.failure = Some(why);
        Ok(self.put(job)?)
    }

    /// Remembers that the provider broke the protocol: settling may bring its receipt, and pays nothing more.
    pub(super) fn refuse(&mut self, quote: Nonce, why: Line<160>) -> Result<JobRecord, LedgerError> {
        let mut job = self.known(Side::Client, &quote)?;
        if matches!(job.record.state, JobState::Opening | JobState::Running) {
            job.record.refused = true;
            job.record.failure.get_or_insert(why);
            self.put(job.clone())?;
        }
        Ok(job.record)
    }

    pub(super) fn pay(&mut self, quote: Nonce, tokens: u32) -> Result<Signed<Cheque>, LedgerError> {
        let mut job = self.known(Side::Client, &quote)?;
        let channel = self.channel(Side::Client, job.record.peer)?;
        if let Some((channel, cheque)) = rules::promise(&job, &channel, tokens, self.now_ms)? {
            self.give(&mut job, channel, &cheque)?;
            self.put(job.clone())?;
        }
        Ok(job.record.cheque.expect("a job that was just promised something holds the cheque"))
    }

    pub(super) fn take_receipt(
        &mut self,
        quote: Nonce,
        receipt: Verified<Receipt>,
        seen: Option<&Seen>,
    ) -> Result<Vec<Check>, LedgerError> {
        let mut job = self.known(Side::Client, &quote)?;
        signed_by(&receipt.signed, job.record.peer)?;
        let checks = receipt.read.check(&job.quote, seen);
        if let Some(held) = &job.record.receipt {
            return if job.record.refused {
                Err(LedgerError::Overcharge("an earlier receipt of the job failed its checks".to_owned()))
            } else if *held == receipt.signed {
                Ok(checks)
            } else {
                Err(LedgerError::Overcharge("the provider signed two receipts for one job".to_owned()))
            };
        }
        let state = job.record.state.on(JobEvent::Receipt(receipt.read.finish))?;
        let unseen = seen.is_none() && !rules::covered(job.record.paid, &receipt.read);
        let fault = broken(&job)
            .or_else(|| rules::fault(&checks))
            .or_else(|| unseen.then(|| format!("{} tokens billed, not all seen", receipt.read.completion_tokens)));
        if let Some(fault) = fault {
            self.dispute(job, receipt, &fault)?;
            return Err(LedgerError::Overcharge(fault));
        }
        job.record.state = state;
        self.owe(job, receipt)?;
        Ok(checks)
    }

    /// Stores a receipt that holds, together with the cheque that pays the rest of it: one write, and no state
    /// between the two.
    fn owe(&mut self, mut job: Job, receipt: Verified<Receipt>) -> Result<Job, LedgerError> {
        if !rules::covered(job.record.paid, &receipt.read) {
            let channel = self.channel(Side::Client, job.record.peer)?;
            let tokens = receipt.read.completion_tokens;
            if let Some((channel, cheque)) = rules::promise(&job, &channel, tokens, self.now_ms)? {
                self.give(&mut job, channel, &cheque)?;
            }
        }
        job.record.finish = Some(receipt.read.finish);
        job.record.receipt = Some(receipt.signed);
        self.put(job.clone())?;
        Ok(job)
    }

    /// Keeps a receipt that does not hold as evidence. The job stays unfinished until it is settled for what was
    /// acknowledged.
    fn dispute(&mut self, mut job: Job, receipt: Verified<Receipt>, fault: &str) -> Result<Job, LedgerError> {
        job.record.receipt = Some(receipt.signed);
        job.record.finish = Some(receipt.read.finish);
        if !std::mem::replace(&mut job.record.refused, true) {
            job.record.failure = Some(Line::lossy(&format!("receipt refused: {fault}")));
        }
        self.put(job.clone())?;
        Ok(job)
    }

    pub(super) fn paid(&mut self, quote: Nonce) -> Result<JobRecord, LedgerError> {
        let mut job = self.known(Side::Client, &quote)?;
        if !job.record.state.is_final() {
            let finish = job.record.finish.ok_or(LedgerError::NoReceipt)?;
            job.record.state = job.record.state.on(JobEvent::Paid(finish))?;
            self.put(job.clone())?;
        }
        Ok(job.record)
    }

    pub(super) fn settled(
        &mut self,
        quote: Nonce,
        paid: MicroCredits,
        receipt: Option<Verified<Receipt>>,
    ) -> Result<JobRecord, LedgerError> {
        let mut job = self.known(Side::Client, &quote)?;
        if job.record.state.is_final() && job.record.state != JobState::ReceiptMissing {
            return Ok(job.record);
        }
        if paid != job.record.paid {
            return Err(LedgerError::Unequal { ours: job.record.paid, theirs: paid });
        }
        if let Some(receipt) = &receipt {
            signed_by(&receipt.signed, job.record.peer)?;
        }
        if let (Some(finish), Some(_), false) = (job.record.finish, &job.record.receipt, job.record.refused) {
            // Its receipt was checked and the cheque for all of it signed when it came: now both sides have it.
            if job.record.state == JobState::ReceiptMissing {
                job.record.state = job.record.state.on(JobEvent::Receipt(finish))?;
                job.record.failure = None;
            }
            return self.paid_as(job, finish);
        }
        match receipt.filter(|_| job.record.receipt.is_none()) {
            None if job.record.failure.is_none() => {
                job.record.failure = Some(Line::lossy("the provider has no receipt: the job did not run there"));
            }
            None => {}
            Some(receipt) => {
                let short = !rules::covered(job.record.paid, &receipt.read);
                let fault = broken(&job).or_else(|| rules::fault(&receipt.read.check(&job.quote, None)));
                let fault = fault.or_else(|| {
                    (short && !rules::within_window(&job, &receipt.read)).then(|| {
                        let billed = receipt.read.completion_tokens;
                        format!("{billed} tokens billed, {} acknowledged", job.record.tokens)
                    })
                });
                if let Some(fault) = fault {
                    job = self.dispute(job, receipt, &fault)?;
                } else {
                    let finish = receipt.read.finish;
                    if job.record.state == JobState::ReceiptMissing {
                        job.record.failure = None;
                    }
                    job.record.state = job.record.state.on(JobEvent::Receipt(finish))?;
                    job = self.owe(job, receipt)?;
                    // What was sent and not acknowledged is paid too, but not settled before the provider has it.
                    return if short { Ok(job.record) } else { self.paid_as(job, finish) };
                }
            }
        }
        job.record.state = job.record.state.on(JobEvent::Settled)?;
        self.put(job.clone())?;
        Ok(job.record)
    }

    fn paid_as(&mut self, mut job: Job, finish: aitbc_protocol::job::Finish) -> Result<JobRecord, LedgerError> {
        job.record.state = job.record.state.on(JobEvent::Paid(finish))?;
        self.put(job.clone())?;
        Ok(job.record)
    }

    pub(super) fn give_up(&mut self, quote: Nonce, why: Line<160>) -> Result<JobRecord, LedgerError> {
        let mut job = self.known(Side::Client, &quote)?;
        if !job.record.state.is_final() {
            job.record.state = job.record.state.on(JobEvent::GaveUp)?;
            job.record.failure.get_or_insert(why);
            self.put(job.clone())?;
        }
        Ok(job.record)
    }
}

/// Why a receipt of a provider that broke the protocol does not count.
fn broken(job: &Job) -> Option<String> {
    job.record.refused.then(|| "the provider broke the protocol of the job".to_owned())
}

fn signed_by<T>(signed: &Signed<T>, peer: NodeId) -> Result<(), LedgerError> {
    if signed.signer() == peer {
        Ok(())
    } else {
        Err(LedgerError::Signature(format!("by {} where {} belongs", signed.signer().short(), peer.short())))
    }
}
