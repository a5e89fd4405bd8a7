//! Money between nodes: the ledger of jobs, cheques and receipts.
//!
//! One thread owns it. Requests that wait while a synced write is under way are written together by the next one, so
//! many concurrent jobs share one sync. What a call returned is on disk.

use crate::{
    storage::{JobRecord, Side, StorageError, Store},
    telemetry::Metrics,
};
use aitbc_crypto::SecretKey;
use aitbc_protocol::{
    MicroCredits, NetworkId, NodeId, Nonce, Signed,
    bytes::JobId,
    job::{Finish, TransitionError},
    quote::Quote,
    receipt::{Check, Cheque, ChequeFault, Receipt, Seen},
    text::Line,
};
use serde::Serialize;

/// Why the ledger refuses.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The ledger thread has ended.
    #[error("the ledger has stopped")]
    Stopped,
    /// No such job on this side.
    #[error("unknown job")]
    UnknownJob,
    /// The quote was used before.
    #[error("the quote was already used")]
    QuoteUsed,
    /// The state machine does not allow it.
    #[error(transparent)]
    Transition(#[from] TransitionError),
    /// A cheque that is not good.
    #[error(transparent)]
    Cheque(#[from] ChequeFault),
    /// A signature that is not good, or by the wrong node.
    #[error("bad signature: {0}")]
    Signature(String),
    /// The provider asks for more than it delivered.
    #[error("overcharged: {0}")]
    Overcharge(String),
    /// Disk.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Earned and spent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Promised to this node by cheques it holds.
    pub earned: MicroCredits,
    /// Promised by this node.
    pub spent: MicroCredits,
    /// Delivered by this node under a receipt and not paid.
    pub owed_to_us: MicroCredits,
    /// Jobs completed as provider.
    pub jobs_provided: u64,
    /// Jobs completed as client.
    pub jobs_bought: u64,
}

/// Calls the ledger thread. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Ledger {}

impl Ledger {
    /// Starts the thread. Provider jobs that a crash left in `Running` are ended here, settled with what was paid.
    pub fn start(
        store: Store,
        key: SecretKey,
        network: NetworkId,
        metrics: &Metrics,
    ) -> Result<Self, LedgerError> {
        let _ = (store, key, network, metrics);
        todo!()
    }

    // --- client side ---

    /// Records that a quote is about to be taken (state `Opening`). One synced write.
    pub async fn open(
        &self,
        provider: NodeId,
        addresses: Vec<String>,
        job: JobId,
        quote: Signed<Quote>,
    ) -> Result<(), LedgerError> {
        let _ = (provider, addresses, job, quote);
        todo!()
    }

    /// The provider admitted it. Not synced: a crash before the first cheque loses nothing.
    pub async fn accepted(&self, quote: Nonce) -> Result<(), LedgerError> {
        let _ = quote;
        todo!()
    }

    /// The provider refused it: `Rejected`, nothing owed.
    pub async fn refused(&self, quote: Nonce, why: Line<160>) -> Result<(), LedgerError> {
        let _ = (quote, why);
        todo!()
    }

    /// Signs the cheque that pays for the first `tokens` tokens; on disk before it is returned. Asking again for
    /// fewer or as many returns the newest cheque.
    pub async fn pay(&self, quote: Nonce, tokens: u32) -> Result<Signed<Cheque>, LedgerError> {
        let _ = (quote, tokens);
        todo!()
    }

    /// Checks a receipt against its quote and what was seen, and stores it (`Delivered`). All checks come back; a
    /// receipt that overcharges or fails a check is an error, stored as evidence, and nothing more is paid.
    pub async fn take_receipt(
        &self,
        quote: Nonce,
        receipt: Signed<Receipt>,
        seen: Option<Seen>,
    ) -> Result<Vec<Check>, LedgerError> {
        let _ = (quote, receipt, seen);
        todo!()
    }

    /// The last cheque was handed over: `Completed`, `Cancelled` or `Failed`, by the receipt.
    pub async fn paid(&self, quote: Nonce) -> Result<JobRecord, LedgerError> {
        let _ = quote;
        todo!()
    }

    /// Settled after a crash or a lost path: the provider holds `paid`, and perhaps its receipt was missing here.
    pub async fn settled(
        &self,
        quote: Nonce,
        paid: MicroCredits,
        receipt: Option<Signed<Receipt>>,
    ) -> Result<JobRecord, LedgerError> {
        let _ = (quote, paid, receipt);
        todo!()
    }

    /// The provider stays away: `ReceiptMissing`.
    pub async fn give_up(&self, quote: Nonce, why: Line<160>) -> Result<JobRecord, LedgerError> {
        let _ = (quote, why);
        todo!()
    }

    // --- provider side ---

    /// Records an admitted job (`Running`) and uses up its quote. One synced write.
    pub async fn admit(&self, client: NodeId, quote: Signed<Quote>) -> Result<(), LedgerError> {
        let _ = (client, quote);
        todo!()
    }

    /// Takes a cheque: signature, pair, job, channel rules, and that it pays for exactly the tokens it names. On
    /// disk before it returns. Returns the tokens paid for.
    pub async fn take_cheque(
        &self,
        quote: Nonce,
        client: NodeId,
        cheque: Signed<Cheque>,
    ) -> Result<u32, LedgerError> {
        let _ = (quote, client, cheque);
        todo!()
    }

    /// Signs and stores the receipt of a job that ended; on disk before it is returned.
    pub async fn finish(
        &self,
        receipt: Receipt,
        failure: Option<Line<160>>,
    ) -> Result<Signed<Receipt>, LedgerError> {
        let _ = (receipt, failure);
        todo!()
    }

    /// Answer to a client that settles: takes its newest cheque if it brings one, and returns what was paid and the
    /// receipt. `None` for a job that never started here.
    pub async fn settle(
        &self,
        quote: Nonce,
        client: NodeId,
        cheque: Option<Signed<Cheque>>,
    ) -> Result<Option<(MicroCredits, Option<Signed<Receipt>>)>, LedgerError> {
        let _ = (quote, client, cheque);
        todo!()
    }

    /// What a client owes for delivered and unpaid work: above zero it gets no new quote.
    pub async fn debt(&self, client: NodeId) -> Result<MicroCredits, LedgerError> {
        let _ = client;
        todo!()
    }

    // --- both ---

    /// One job.
    pub async fn job(&self, side: Side, quote: Nonce) -> Result<Option<JobRecord>, LedgerError> {
        let _ = (side, quote);
        todo!()
    }

    /// Newest jobs first.
    pub async fn jobs(&self, limit: usize) -> Result<Vec<JobRecord>, LedgerError> {
        let _ = limit;
        todo!()
    }

    /// Jobs of the client side that are not final: what `routing::settle` works through after a start.
    pub async fn unsettled(&self) -> Result<Vec<JobRecord>, LedgerError> {
        todo!()
    }

    /// Earned and spent.
    pub async fn totals(&self) -> Result<Totals, LedgerError> {
        todo!()
    }
}
