//! Paying while receiving: one cheque at a time on its way, each synced before it is sent.

use crate::{
    market::{Ledger, LedgerError},
    network::{StreamError, streams::FrameWriter},
};
use aitbc_protocol::{
    MicroCredits, Nonce,
    messages::ToProvider,
    receipt::{Cheque, Receipt},
    wire,
};
use futures::future::BoxFuture;
use std::time::Duration;
use tokio::time::timeout;

/// Why a payment did not go out.
#[derive(Debug, thiserror::Error)]
pub(super) enum PaymentError {
    /// Nothing was signed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The cheque is signed and on disk, and settling will hand it over.
    #[error(transparent)]
    Stream(#[from] StreamError),
}

/// A cheque that was handed over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handed {
    pub(super) sequence: u64,
    pub(super) job_total: MicroCredits,
    pub(super) tokens: u32,
}

type Step = (FrameWriter, Result<Option<Handed>, PaymentError>);

enum Writer {
    Idle(FrameWriter),
    Busy(BoxFuture<'static, Step>),
    /// The stream's sending side is broken.
    Gone,
}

/// Owns the sending side of a job's streams, one after the other. Tokens keep coming in while a cheque is signed, synced
/// and sent: the caller polls [`Payments::next`] beside the stream.
pub(super) struct Payments {
    ledger: Ledger,
    quote: Nonce,
    patience: Duration,
    writer: Writer,
    /// Tokens for which a cheque is signed or being signed.
    acknowledged: u32,
    /// Tokens to acknowledge next.
    wanted: u32,
    cancel: bool,
    /// The newest promise for this job.
    paid: MicroCredits,
    /// The newest cheque may have been lost with its stream, and goes out again.
    again: bool,
    /// Sequence of the newest cheque that was handed over.
    handed: u64,
}

impl Payments {
    pub(super) fn new(ledger: Ledger, quote: Nonce, writer: FrameWriter, patience: Duration) -> Self {
        Self {
            ledger,
            quote,
            patience,
            writer: Writer::Idle(writer),
            acknowledged: 0,
            wanted: 0,
            cancel: false,
            paid: MicroCredits::ZERO,
            again: false,
            handed: 0,
        }
    }

    /// The stream broke. A cheque that is being signed stays signed.
    pub(super) fn cut(&mut self) {
        self.writer = Writer::Gone;
    }

    /// Goes on over another stream: first with the newest cheque, for nobody knows whether it arrived.
    pub(super) fn attach(&mut self, writer: FrameWriter) {
        self.writer = Writer::Idle(writer);
        self.again = self.acknowledged > 0;
        self.start();
    }

    /// Whether nothing more can be handed over on this stream.
    pub(super) fn is_broken(&self) -> bool {
        matches!(self.writer, Writer::Gone)
    }

    /// Tokens that were paid or are being paid: what lies beyond may be one window at most.
    pub(super) fn acknowledged(&self) -> u32 {
        self.acknowledged
    }

    /// Promised for this job so far.
    pub(super) fn paid(&self) -> MicroCredits {
        self.paid
    }

    /// Whether something is on its way out.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self.writer, Writer::Busy(_))
    }

    /// Acknowledges the first `tokens` tokens as soon as the cheque before is out.
    pub(super) fn acknowledge(&mut self, tokens: u32) {
        self.wanted = self.wanted.max(tokens);
        self.start();
    }

    /// Tells the provider to stop, as soon as the cheque before is out.
    pub(super) fn cancel(&mut self) {
        self.cancel = true;
        // What was delivered is paid by the receipt.
        self.wanted = self.acknowledged;
        self.start();
    }

    fn start(&mut self) {
        let cancel = std::mem::take(&mut self.cancel);
        let pay = self.again || self.wanted > self.acknowledged;
        if !(cancel || pay) {
            return;
        }
        match std::mem::replace(&mut self.writer, Writer::Gone) {
            Writer::Idle(writer) if cancel => {
                let patience = self.patience;
                self.writer = Writer::Busy(Box::pin(async move {
                    let mut writer = writer;
                    let result = send(&mut writer, &ToProvider::Cancel, patience).await;
                    (writer, result.map(|()| None))
                }));
            }
            Writer::Idle(writer) => {
                self.again = false;
                self.acknowledged = self.wanted;
                self.writer = Writer::Busy(Box::pin(pay_and_send(
                    self.ledger.clone(),
                    self.quote,
                    self.wanted,
                    writer,
                    self.patience,
                )));
            }
            other => {
                self.cancel = cancel;
                self.writer = other;
            }
        }
    }

    /// Waits for what is on its way. Pending while nothing is. Cancel-safe: the work goes on with the next call.
    pub(super) async fn next(&mut self) -> Result<Option<Handed>, PaymentError> {
        let Writer::Busy(step) = &mut self.writer else { return std::future::pending().await };
        let (writer, result) = step.await;
        self.writer = if result.is_ok() { Writer::Idle(writer) } else { Writer::Gone };
        if let Ok(Some(handed)) = &result {
            self.paid = handed.job_total;
        }
        self.start();
        result.map(|handed| handed.filter(|handed| self.is_news(handed)))
    }

    /// False for a cheque that was handed over before.
    fn is_news(&mut self, handed: &Handed) -> bool {
        let news = handed.sequence > self.handed;
        self.handed = self.handed.max(handed.sequence);
        news
    }

    /// The last cheque: pays what the receipt asks for, unless that is paid already, and closes the sending side.
    pub(super) async fn finish(&mut self, receipt: &Receipt) -> Result<Option<Handed>, PaymentError> {
        let mut earlier = None;
        while self.is_busy() {
            // An earlier cheque that did not get out is contained in the last one.
            if let Ok(Some(handed)) = self.next().await {
                earlier = Some(handed);
            }
        }
        let covered = self.paid >= receipt.total;
        let writer = match std::mem::replace(&mut self.writer, Writer::Gone) {
            Writer::Idle(writer) => writer,
            Writer::Busy(_) | Writer::Gone => {
                if !covered {
                    self.sign(receipt.completion_tokens).await?;
                }
                return Err(StreamError::Closed("the provider does not listen any more".to_owned()).into());
            }
        };
        let (mut writer, result) = if covered {
            (writer, Ok(earlier))
        } else {
            let ledger = self.ledger.clone();
            pay_and_send(ledger, self.quote, receipt.completion_tokens, writer, self.patience).await
        };
        let handed = result?.filter(|handed| covered || self.is_news(handed));
        if let Some(handed) = &handed {
            self.paid = handed.job_total;
        }
        // The provider has the cheque: a leave that it does not hear takes nothing back.
        if send(&mut writer, &ToProvider::Done, self.patience).await.is_ok() {
            let _ = timeout(self.patience, writer.close()).await;
        }
        Ok(handed)
    }

    /// Signs the cheque for `tokens` tokens without a stream to send it on: settling hands it over.
    pub(super) async fn sign(&mut self, tokens: u32) -> Result<(), LedgerError> {
        let cheque = self.ledger.pay(self.quote, tokens).await?;
        if let Ok(cheque) = cheque.read_unverified() {
            self.paid = cheque.job_total;
        }
        Ok(())
    }
}

async fn send(writer: &mut FrameWriter, message: &ToProvider, patience: Duration) -> Result<(), PaymentError> {
    match timeout(patience, writer.send(message, wire::MAX_JOB_FRAME)).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(StreamError::Timeout(patience).into()),
    }
}

async fn pay_and_send(
    ledger: Ledger,
    quote: Nonce,
    tokens: u32,
    mut writer: FrameWriter,
    patience: Duration,
) -> Step {
    let result = async {
        let cheque = ledger.pay(quote, tokens).await?;
        let fields = cheque.read_unverified().map_err(StreamError::from)?;
        let Cheque { sequence, job_total, tokens, .. } = fields;
        send(&mut writer, &ToProvider::Ack { next: tokens, cheque }, patience).await?;
        Ok(Some(Handed { sequence, job_total, tokens }))
    }
    .await;
    (writer, result)
}
