//! The last words of a job: its receipt, and the wait for the cheque that pays the rest.

use super::{End, Job, Run, Surroundings, milliseconds};
use crate::{clock::now_ms, jobs::SHORT_ANSWER, market::LedgerError};
use aitbc_protocol::messages::ToClient;
use aitbc_protocol::{
    MicroCredits, Signed,
    job::Finish,
    qos::Served,
    receipt::{Receipt, Timings},
    sla::verdict,
    text::Line,
};
use std::time::Duration;
use tokio::time::timeout;

/// First pause before a receipt that could not be stored is tried again, doubled up to [`LAST_RETRY`].
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// How long the last cheque may take after the receipt was sent, and the leave after the cheque. A cheque that is late
/// is a debt.
const LAST_CHEQUE: Duration = Duration::from_secs(10);
/// The same once the node is stopping.
const LAST_CHEQUE_WHEN_CLOSING: Duration = Duration::from_secs(2);

/// A job whose receipt is on disk.
pub(super) struct Concluded {
    /// The receipt, as often as a stream breaks before the client has it.
    last: ToClient,
    /// What the receipt asks for.
    total: MicroCredits,
    /// The receipt was handed to some stream.
    told: bool,
    /// It was handed to the present one.
    told_here: bool,
    /// The present one was told that it is paid.
    paid_here: bool,
    /// The client says that it has it.
    pub(super) confirmed: bool,
}

impl Concluded {
    /// The client is on a new stream.
    pub(super) fn again(&mut self) {
        (self.told_here, self.paid_here) = (false, false);
    }

    /// How long it may be the client's turn.
    pub(super) fn patience(&self, closing: bool) -> Duration {
        match (self.told_here && !self.confirmed, closing) {
            (false, _) => SHORT_ANSWER,
            (true, false) => LAST_CHEQUE,
            (true, true) => LAST_CHEQUE_WHEN_CLOSING,
        }
    }
}

impl Run {
    /// Signs the receipt and keeps it for the client. False where none could be recorded: the client settles later,
    /// and what it has paid is on disk.
    pub(super) async fn conclude(&mut self) -> bool {
        let Some(end) = &self.ending else { return false };
        self.around.metrics.ended(end.outcome);
        let receipt = self.receipt(end);
        let (tokens, total) = (receipt.completion_tokens, receipt.total);
        tracing::info!(finish = ?end.finish, tokens, %total, "job ended");
        let Some(receipt) = recorded(&self.around, receipt, end.failure.as_ref()).await else { return false };
        self.job.ticket.receipt_recorded();
        let served =
            Served { client: self.job.quote.client, receipt: receipt.digest(), total, ended_ms: now_ms() };
        let served = match aitbc_crypto::seal(&self.around.key, &self.around.network, &served) {
            Ok(served) => served,
            Err(error) => {
                tracing::error!(%error, "what goes with a receipt could not be signed");
                return false;
            }
        };
        let last = ToClient::Finished { receipt, failure: end.failure.clone(), served };
        self.concluded =
            Some(Concluded { last, total, told: false, told_here: false, paid_here: false, confirmed: false });
        self.earn();
        true
    }

    /// Sends the receipt, and once it is paid says so and closes.
    pub(super) fn send_last(&mut self) {
        let paid = self.paid_sum();
        let Some(concluded) = &mut self.concluded else { return };
        if !std::mem::replace(&mut concluded.told_here, true) {
            self.fresh = !std::mem::replace(&mut concluded.told, true);
            self.link.send(concluded.last.clone());
        } else if paid >= concluded.total {
            self.fresh = false;
            if std::mem::replace(&mut concluded.paid_here, true) {
                self.link.close();
            } else {
                self.link.send(ToClient::Paid { total: paid });
            }
        }
    }

    /// The client has closed its side. One that has the receipt has nothing to come back for.
    pub(super) fn client_closed(&mut self) {
        let paid = self.paid_sum();
        match &self.concluded {
            Some(concluded) if concluded.confirmed && paid >= concluded.total => self.link.client_closed(),
            _ => self.park("the client closed the stream"),
        }
    }

    /// The client neither pays nor takes its leave.
    pub(super) fn says_nothing(&mut self) {
        if self.concluded.as_ref().is_some_and(|concluded| self.paid_sum() < concluded.total) {
            tracing::info!("the last cheque is late: the client owes");
        }
        self.abandon("the client says nothing more", End::cancelled());
    }

    fn receipt(&self, end: &End) -> Receipt {
        let Job { quote, execution, since, since_ms, .. } = &self.job;
        let tokens = self.delivery.delivered();
        let nothing = tokens == 0 && self.timings.first_token_ms.is_none();
        let total = if end.finish == Finish::Failed && nothing && !self.any_cheque {
            // Whoever fails before the first token has sold nothing.
            MicroCredits::ZERO
        } else {
            quote.total(tokens).unwrap_or(quote.max_total)
        };
        let mut receipt = Receipt {
            job: quote.job,
            client: quote.client,
            quote: quote.nonce,
            request: quote.request,
            model: quote.model.clone(),
            weights: quote.weights,
            engine: execution.engine.clone(),
            quantisation: execution.quantisation.clone(),
            device: execution.device.clone(),
            sampling: execution.sampling.clone(),
            prompt_tokens: quote.prompt_tokens,
            completion_tokens: tokens,
            output: self.delivery.output(),
            declared: quote.declared,
            finish: end.finish,
            price: quote.price,
            total,
            penalty: MicroCredits::ZERO,
            admitted_ms: *since_ms,
            timings: Timings {
                queued_ms: self.timings.queued_ms.unwrap_or_default(),
                first_token_ms: self.timings.first_token_ms.unwrap_or_default(),
                total_ms: milliseconds(since.elapsed()),
                paused_ms: milliseconds(self.timings.paused),
            },
            sealed: execution.sealed.clone(),
        };
        receipt.penalty = verdict(quote, &receipt).penalty;
        receipt
    }

    /// What cheques have paid.
    fn paid_sum(&self) -> MicroCredits {
        if self.any_cheque {
            self.job.quote.total(self.delivery.paid()).unwrap_or_default()
        } else {
            MicroCredits::ZERO
        }
    }
}

/// Has the ledger sign and store the receipt; where it cannot now, again and again until the node stops. A job
/// that stayed `Running` would only end at the next start, and then without what was delivered unpaid.
async fn recorded(
    around: &Surroundings,
    receipt: Receipt,
    failure: Option<&Line<160>>,
) -> Option<Signed<Receipt>> {
    let mut pause = FIRST_RETRY;
    loop {
        let stopping = around.closing.is_cancelled();
        let error = match around.ledger.finish(receipt.clone(), failure.cloned()).await {
            Ok(signed) => return Some(signed),
            Err(error) => error,
        };
        let passes = matches!(error, LedgerError::Busy | LedgerError::Storage(_));
        if stopping || !passes {
            tracing::error!(%error, "no receipt could be recorded");
            return None;
        }
        tracing::warn!(%error, "no receipt could be recorded yet, next try in {pause:?}");
        // The node's end cuts the pause short: one last try.
        let _ = timeout(pause, around.closing.cancelled()).await;
        pause = (pause * 2).min(LAST_RETRY);
    }
}
