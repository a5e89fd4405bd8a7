//! The end of an attempt: the receipt and its payment, or what a provider that failed is still owed.

use super::{Attempt, Ended, Last, Report, Run, Stop, billable, broken};
use crate::{clock::now_ms, market::LedgerError, routing::JobUpdate, storage::Side};
use aitbc_protocol::messages::ToClient;
use aitbc_protocol::{
    MicroCredits, Signed,
    evidence::Evidence,
    job::Finish,
    qos::{DELAY_MS, Served},
    receipt::Receipt,
    text::Line,
    wire,
};
use std::time::Duration;
use tokio::time::timeout;
use tracing::{debug, warn};

/// How long a provider may take to store the last cheque and to say so.
const CLOSING: Duration = Duration::from_secs(2);

/// How an attempt ended for the ledger.
struct Closed {
    ended: Ended,
    /// Whether the two sides have nothing left to settle.
    settled: bool,
    /// Promised to the provider.
    paid: MicroCredits,
    /// The most that it is promised once the job is settled.
    most: MicroCredits,
}

impl Run<'_> {
    pub(super) async fn end(mut self, stop: Stop) -> Report {
        let Closed { ended, settled, paid, most } = match stop {
            Stop::Finished(last) => self.take_receipt(*last).await,
            Stop::Violation(reason) => self.refuse(broken(&reason, false)).await,
            Stop::Own(error) => self.closed(Ended::Own(error)),
            Stop::Lost(reason) => self.left(&reason, false).await,
            Stop::Broken { reason, stalled } => self.left(&reason, stalled).await,
        };
        Report {
            ended,
            count: self.received.count(),
            has_ids: self.received.has_ids(),
            delivered: self.delivered,
            paid,
            reserved: most.checked_sub(paid).unwrap_or_default(),
            tail: self.received.take_tail(),
            first_piece: self.first_piece,
            answer: self.answer(),
            settled,
            served: self.served,
            evidence: self.evidence,
            tokens: self.received.into_tokens(),
        }
    }

    /// Ends with a provider that is gone. What it delivered it shall have: the cheque is signed now, and settling hands
    /// it over.
    async fn left(&mut self, reason: &str, stalled: bool) -> Closed {
        let count = self.received.count();
        let signed = if self.received.chunks() > 0 { self.payments.sign(count).await } else { Ok(()) };
        let closed = match signed {
            Err(error) => self.closed(Ended::Own(error)),
            Ok(()) if self.cancelled => self.closed(Ended::Cancelled),
            Ok(()) => self.closed(broken(&reason, stalled)),
        };
        Closed { most: billable(self.attempt.quote, count), ..closed }
    }

    /// An end after which nothing more is promised.
    fn closed(&self, ended: Ended) -> Closed {
        let paid = self.payments.paid();
        Closed { ended, settled: false, paid, most: paid }
    }

    /// Ends with a provider that broke the protocol: it keeps what was promised, and gets nothing more.
    async fn refuse(&mut self, ended: Ended) -> Closed {
        let why = match &ended {
            Ended::Broken { reason, .. } | Ended::BadReceipt(reason) => Line::lossy(reason),
            _ => Line::lossy("the provider broke the protocol"),
        };
        match self.attempt.ledger.refuse(self.attempt.quote.nonce, why).await {
            // A cheque that was still being signed counts.
            Ok(record) => Closed { paid: record.paid, most: record.paid, ..self.closed(ended) },
            Err(error) => self.closed(Ended::Own(error)),
        }
    }

    /// Checks the receipt, pays what it asks for, and ends the job.
    async fn take_receipt(&mut self, Last { receipt: signed, failure, served }: Last) -> Closed {
        let Attempt { ledger, network, provider, quote, .. } = self.attempt;
        if signed.signer() != provider {
            return self.refuse(Ended::BadReceipt("the receipt is signed by somebody else".to_owned())).await;
        }
        let receipt: Receipt = match aitbc_crypto::open(&signed, network) {
            Ok(receipt) => receipt,
            Err(error) => return self.refuse(Ended::BadReceipt(error.to_string())).await,
        };
        if self.first_sent_ms.is_some_and(|sent_ms| receipt.timings.first_token_ms != sent_ms) {
            let reason = "the receipt says another time of the first token than the provider did when it sent it";
            return self.refuse(Ended::BadReceipt(reason.to_owned())).await;
        }
        if receipt.finish == Finish::Cancelled && self.goes_on() {
            let reason = "the receipt says that this node left the job, which it did not: a provider that stops a job gives back a part";
            return self.refuse(Ended::BadReceipt(reason.to_owned())).await;
        }
        if !self.shows(&served, &signed, &receipt) {
            let reason = "what it signed for others to see is not about this job";
            return self.refuse(Ended::BadReceipt(reason.to_owned())).await;
        }
        let took_ms = u32::try_from(self.opened.elapsed().as_millis()).unwrap_or(u32::MAX);
        self.served = Some((served, took_ms));
        let well = matches!(receipt.finish, Finish::Stop | Finish::Length);
        let missing = if well { self.received.missing() } else { None };
        let seen = self.received.seen(well);
        let taken = ledger.take_receipt(quote.nonce, signed.clone(), Some(seen.clone())).await;
        let checks = match &taken {
            Ok(checks) => checks.clone(),
            Err(_) => receipt.check(quote, Some(&seen)),
        };
        self.tell(JobUpdate::Receipt { provider, id: signed.digest(), receipt: receipt.clone(), checks }).await;
        match taken {
            Ok(_) => {}
            Err(error @ (LedgerError::Overcharge(_) | LedgerError::Signature(_))) => {
                // Another receipt of the job may have come before the path broke.
                let held = ledger.job(Side::Client, quote.nonce).await.ok().flatten();
                if let Some(held) = held.and_then(|record| record.receipt).filter(|held| *held != signed) {
                    self.evidence = Some(Evidence::Receipts(held, signed));
                }
                return self.refuse(Ended::BadReceipt(missing.unwrap_or_else(|| error.to_string()))).await;
            }
            Err(error) => return self.closed(Ended::Own(error)),
        }
        if well && !self.cancelled {
            self.deliver_end().await;
        }
        let settled = self.pay_receipt(&receipt).await;
        let ended = match receipt.finish {
            _ if self.cancelled => Ended::Cancelled,
            Finish::Stop | Finish::Length => Ended::Whole(receipt.finish),
            Finish::Cancelled | Finish::Failed => Ended::Broken {
                reason: failure.map_or_else(|| "it gave the job up".to_owned(), |failure| failure.to_string()),
                stalled: false,
                receipted: true,
            },
        };
        // The cheque for all of the receipt was signed when it was taken, whether it could be handed over or not.
        let paid = self.payments.paid().max(receipt.total);
        Closed { ended, settled, paid, most: paid }
    }

    /// Whether the provider has no reason to end the job as one that its client left: the path never broke, and no cheque is due
    /// that may not have reached it.
    fn goes_on(&self) -> bool {
        let paying = self.payments.is_busy() || self.payments.is_broken();
        !self.cancelled && !self.streams.is_resumed() && !paying
    }

    /// Whether what came with the receipt shows others that the job was: whoever withholds that would be told of by nobody
    /// whom it serves badly.
    fn shows(&self, served: &Signed<Served>, signed: &Signed<Receipt>, receipt: &Receipt) -> bool {
        let Attempt { network, provider, quote, .. } = self.attempt;
        served.signer() == provider
            && aitbc_crypto::open(served, network).is_ok_and(|served| {
                served.fits(quote.client, signed.digest(), receipt.total)
                    && served.ended_ms.abs_diff(now_ms()) <= DELAY_MS
            })
    }

    /// Hands over what waited for the receipt.
    async fn deliver_end(&mut self) {
        let tail = self.received.take_tail();
        if !tail.is_empty() {
            self.delivered = true;
            self.tell(JobUpdate::Delta { text: tail, tokens: Vec::new(), logprobs: Vec::new() }).await;
        }
        if let Some(vectors) = self.received.take_vectors() {
            self.delivered = true;
            self.tell(JobUpdate::Embeddings { vectors }).await;
        }
        // Whoever reads it does so once the job is over: nothing from here on depends on what it says.
        if let Some(answer) = self.received.take_sealed() {
            self.delivered = true;
            self.tell(JobUpdate::Sealed { answer }).await;
        }
    }

    /// Hands over the last cheque, which the ledger signed with the receipt. Returns whether both sides have ended with
    /// the job; if not, settling goes on with it.
    async fn pay_receipt(&mut self, receipt: &Receipt) -> bool {
        let provider = self.attempt.provider;
        match self.payments.finish(receipt).await {
            Ok(Some(handed)) => {
                let update = JobUpdate::Paid {
                    provider,
                    sequence: handed.sequence,
                    job_total: handed.job_total,
                    tokens: handed.tokens,
                };
                self.tell(update).await;
            }
            Ok(None) => {}
            Err(error) => {
                debug!(%error, "the last cheque was not handed over");
                return false;
            }
        }
        // Only the provider's word says that it has stored the cheque: a stream also ends where its connection breaks.
        let paid = self.payments.paid().max(receipt.total);
        let said = timeout(CLOSING, self.reader.receive::<ToClient>(wire::MAX_JOB_FRAME)).await;
        if !matches!(said, Ok(Ok(Some(ToClient::Paid { total }))) if total == paid) {
            debug!("the provider did not confirm the last cheque");
            return false;
        }
        match self.attempt.ledger.paid(self.attempt.quote.nonce).await {
            Ok(_) => true,
            Err(error) => {
                warn!(%error, "the end of a job could not be recorded");
                false
            }
        }
    }
}
