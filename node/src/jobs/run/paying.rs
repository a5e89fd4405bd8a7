//! What the client of a job says: acknowledgements with their cheques, and that it leaves.

use super::{End, Run, Taking};
use crate::{
    market::{Ledger, LedgerError},
    storage::Side,
};
use aitbc_protocol::messages::ToProvider;
use aitbc_protocol::{Nonce, Signed, evidence::Evidence, receipt::Cheque};
use tokio::sync::mpsc;

impl Run {
    pub(super) fn message(&mut self, message: ToProvider) {
        match message {
            ToProvider::Ack { next, cheque } => match self.acknowledged(next, cheque) {
                Ok(taking) => self.cheque = Some(taking),
                Err(end) => self.leave(end),
            },
            ToProvider::Cancel => self.end(End::cancelled()),
            ToProvider::Done => match &mut self.concluded {
                Some(concluded) => concluded.confirmed = true,
                None => self.end(End::unpaid("it took its leave in mid-answer")),
            },
            ToProvider::Open { .. } | ToProvider::Settle { .. } | ToProvider::Resume { .. } => {
                self.leave(End::unpaid("a second job on the same stream"));
            }
        }
    }

    /// Ends the job for a fault of its client; one that has ended waits for it no longer.
    fn leave(&mut self, end: End) {
        if self.concluded.is_some() {
            tracing::info!(failure = ?end.failure, "the client broke the protocol after the end of its job");
            self.abandon("it broke the protocol", end);
        } else {
            self.end(end);
        }
    }

    /// Hands a cheque to the ledger, if it is for what it acknowledges.
    fn acknowledged(&self, next: u32, cheque: Signed<Cheque>) -> Result<Taking, End> {
        if cheque.read_unverified().map(|cheque| cheque.tokens) != Ok(next) {
            return Err(End::unpaid("the cheque is not for the tokens acknowledged"));
        }
        let ledger = self.around.ledger.clone();
        let (quote, client) = (self.job.quote.nonce, self.job.quote.client);
        let delivered = self.delivery.delivered();
        let accuse = self.around.accuse.clone();
        Ok(Box::pin(async move {
            let taken = ledger.take_cheque(quote, client, cheque.clone(), delivered).await;
            if matches!(taken, Err(LedgerError::Cheque(_))) {
                accuse_of(&ledger, quote, cheque, &accuse).await;
            }
            taken
        }))
    }

    pub(super) async fn paid(&mut self, paid: Result<u32, LedgerError>) {
        self.cheque = None;
        match paid {
            Ok(tokens) => {
                // A cheque that says nothing new buys no time: repeated, it would hold the slot for ever. Nor does one
                // after the end: the last cheque pays for all.
                if self.concluded.is_none() && (!self.any_cheque || tokens > self.delivery.paid()) {
                    self.earn();
                }
                self.any_cheque = true;
                let more = self.delivery.pay(tokens);
                if more > 0
                    && let Some(generation) = &self.generation
                {
                    generation.grant(more).await;
                }
            }
            Err(error) => self.leave(refused_cheque(&error)),
        }
    }
}

/// Tells of a client that takes back what it promised, where the cheque held and this one, which it signed as well, show it.
async fn accuse_of(ledger: &Ledger, quote: Nonce, cheque: Signed<Cheque>, accuse: &mpsc::Sender<Evidence>) {
    let held = ledger.job(Side::Provider, quote).await.ok().flatten().and_then(|record| record.cheque);
    let evidence = held.map(|held| Evidence::Cheques(held, cheque)).filter(|evidence| evidence.judge().is_ok());
    if let Some(evidence) = evidence
        && accuse.try_send(evidence).is_err()
    {
        tracing::warn!("evidence against a client is lost: too much is going on at once");
    }
}

/// What becomes of a job whose client pays with a cheque that the ledger does not take.
fn refused_cheque(error: &LedgerError) -> End {
    match error {
        LedgerError::Cheque(_) | LedgerError::Signature(_) | LedgerError::UnknownJob | LedgerError::Ended(_) => {
            End::unpaid(&format!("cheque refused: {error}"))
        }
        _ => {
            tracing::error!(%error, "a cheque could not be recorded");
            End::failed("the provider cannot record payments now")
        }
    }
}
