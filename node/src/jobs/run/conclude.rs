//! The last words of a job: its receipt, and the wait for the cheque that pays the rest.

use super::{End, Job, Run, Surroundings, Writer, milliseconds, send};
use crate::{jobs::SHORT_ANSWER, market::LedgerError};
use aitbc_protocol::messages::{ToClient, ToProvider};
use aitbc_protocol::{
    MicroCredits, Signed,
    job::Finish,
    quote::price,
    receipt::{Receipt, Timings, owed},
    text::Line,
    wire,
};
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};

/// First pause before a receipt that could not be stored is tried again, doubled up to [`LAST_RETRY`].
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// How long the last cheque may take after the receipt was sent. What is late is a debt.
const LAST_CHEQUE: Duration = Duration::from_secs(10);
/// The same once the node is stopping.
const LAST_CHEQUE_WHEN_CLOSING: Duration = Duration::from_secs(2);

impl Run {
    /// Signs the receipt, hands it over and waits for the last cheque.
    pub(super) async fn conclude(mut self, end: End) {
        self.job.ticket.left_device();
        self.around.metrics.ended(end.outcome);
        let receipt = self.receipt(&end);
        let (tokens, total) = (receipt.completion_tokens, receipt.total);
        tracing::info!(finish = ?end.finish, tokens, %total, "job ended");
        // Without a receipt the client settles later; what it has paid is on disk.
        let Some(signed) = recorded(&self.around, receipt, end.failure.as_ref()).await else { return };
        self.job.ticket.receipt_recorded();
        let Writer::Idle(writer) = std::mem::replace(&mut self.writer, Writer::Gone) else { return };
        let Writer::Sending(sending) = send(writer, ToClient::Finished { receipt: signed, failure: end.failure })
        else {
            return;
        };
        match timeout(SHORT_ANSWER, sending).await {
            Ok(Ok(mut writer)) => {
                self.last_cheque(total).await;
                let paid = self.paid_sum();
                let last_words = async {
                    if paid >= total {
                        writer.send(&ToClient::Paid { total: paid }, wire::MAX_JOB_FRAME).await?;
                    }
                    writer.close().await
                };
                if timeout(SHORT_ANSWER, last_words).await.is_ok_and(|said| said.is_ok()) {
                    self.goodbye().await;
                }
            }
            Ok(Err(error)) => tracing::debug!(%error, "receipt not delivered: the client will settle"),
            Err(_) => tracing::debug!("receipt not read in time: the client will settle"),
        }
    }

    fn receipt(&self, end: &End) -> Receipt {
        let Job { quote, execution, since, since_ms, .. } = &self.job;
        let tokens = self.delivery.delivered();
        let nothing = tokens == 0 && self.timings.first_token_ms.is_none();
        let total = if end.finish == Finish::Failed && nothing && !self.any_cheque {
            // Whoever fails before the first token has sold nothing.
            MicroCredits::ZERO
        } else {
            price(&quote.price, quote.prompt_tokens, tokens).unwrap_or(quote.max_total)
        };
        Receipt {
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
            admitted_ms: *since_ms,
            timings: Timings {
                queued_ms: self.timings.queued_ms.unwrap_or_default(),
                first_token_ms: self.timings.first_token_ms.unwrap_or_default(),
                total_ms: milliseconds(since.elapsed()),
            },
        }
    }

    /// What cheques have paid.
    fn paid_sum(&self) -> MicroCredits {
        if self.any_cheque {
            owed(&self.job.quote, self.delivery.paid()).unwrap_or_default()
        } else {
            MicroCredits::ZERO
        }
    }

    /// Takes cheques until `total` is paid, for as long as the last one may take.
    async fn last_cheque(&mut self, total: MicroCredits) {
        let mut deadline = Instant::now() + LAST_CHEQUE;
        let mut closing = false;
        while self.paid_sum() < total {
            let Some(reader) = &mut self.reader else { return };
            let message = tokio::select! {
                biased;
                () = self.interrupted.cancelled() => return,
                () = self.around.closing.cancelled(), if !closing => {
                    closing = true;
                    deadline = deadline.min(Instant::now() + LAST_CHEQUE_WHEN_CLOSING);
                    continue;
                }
                message = reader.receive(wire::MAX_JOB_FRAME) => message,
                () = sleep_until(deadline) => {
                    tracing::info!("the last cheque is late: the client owes");
                    return;
                }
            };
            let Ok(Some(ToProvider::Ack { next, cheque })) = message else {
                self.reader = None;
                return;
            };
            let taken = match self.acknowledged(next, cheque) {
                Ok(taking) => taking.await,
                Err(end) => return tracing::info!(failure = ?end.failure, "cheque refused"),
            };
            match taken {
                Ok(tokens) => {
                    self.any_cheque = true;
                    self.delivery.pay(tokens);
                }
                Err(error) => return tracing::info!(%error, "cheque refused"),
            }
        }
    }

    /// Waits until the client has read everything and closes its side: a stream that is dropped earlier is reset.
    async fn goodbye(&mut self) {
        let Some(reader) = &mut self.reader else { return };
        let read_out =
            async { while let Ok(Some(_)) = reader.receive::<ToProvider>(wire::MAX_JOB_FRAME).await {} };
        tokio::select! {
            () = self.interrupted.cancelled() => {}
            _ = timeout(SHORT_ANSWER, read_out) => {}
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
