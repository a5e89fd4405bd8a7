//! Money between nodes: the ledger of jobs, cheques and receipts.
//!
//! One thread owns it. Requests that wait while a synced write is under way are written together by the next one, so
//! many concurrent jobs share one sync. What a call returned is on disk.
//!
//! ```text
//! Ledger ──bounded queue──> thread: Book::begin, every waiting request, Book::commit (one write), all answers
//!                                    |-- client, provider   what an operation does to a job and its channel
//!                                    `-- rules              whether it may: pure
//!                                    |-- credit             whose credit backs a job, what was settled
//!                                    |-- holding            what waits, is let go of, or lost by a fault
//! accounts, earnings, export: read the store page by page, beside the thread
//! ```
//!
//! Settling: both sides of a job end with one sum, whatever crashed. The client's newest cheque decides; it brings it
//! with every `Settle`. If the provider's receipt then bills up to one window more than was acknowledged (it was sent
//! into a path that broke), the client promises that too and settles once more. A provider that restarted bills what
//! is paid, and one that broke the protocol keeps what was acknowledged. A job whose provider stayed away is settled
//! in the same way once it is back.

mod accounts;
mod book;
mod client;
mod credit;
mod earnings;
pub mod export;
mod holding;
mod meters;
mod provider;
mod rules;
mod strangers;
pub mod verify;
mod worker;

use crate::{
    blocking, clock,
    storage::{JobRecord, Side, StorageError, Store},
    telemetry::Metrics,
};
pub use accounts::{Account, Accounts};
use aitbc_crypto::{SecretKey, SignatureError};
use aitbc_protocol::{
    Digest, MicroCredits, NetworkId, NodeId, Nonce, Signed, Statement,
    bytes::JobId,
    checks::{Check, Seen},
    credit::{Backing, CreditFault, Settlement, SettlementFault},
    job::{JobState, TransitionError},
    quote::Quote,
    receipt::{Cheque, ChequeFault, Execution, Receipt},
    text::Line,
    wire::WireError,
};
use book::Book;
use client::Verified;
pub use earnings::{Earnings, EarningsRow, Traded};
use meters::Meters;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};
pub use strangers::{Origin, Strangers};
use tokio::sync::oneshot;
pub use verify::receipt_file;
use worker::{QUEUE, Request, Worker};

/// Why the ledger refuses.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The ledger thread has ended.
    #[error("the ledger has stopped")]
    Stopped,
    /// More requests wait than the disk keeps up with.
    #[error("the ledger is behind by {QUEUE} requests: is the disk with `data_dir` slow or failing?")]
    Busy,
    /// No such job on this side.
    #[error("unknown job")]
    UnknownJob,
    /// The quote was used before.
    #[error("the quote was already used")]
    QuoteUsed,
    /// The job is over: nothing more is promised or taken for it.
    #[error("the job has ended ({0:?})")]
    Ended(JobState),
    /// A job cannot be completed before its receipt came.
    #[error("the job has no receipt yet")]
    NoReceipt,
    /// The state machine does not allow it.
    #[error(transparent)]
    Transition(#[from] TransitionError),
    /// A cheque that is not good.
    #[error(transparent)]
    Cheque(#[from] ChequeFault),
    /// The client's credit does not reach.
    #[error(transparent)]
    Credit(#[from] CreditFault),
    /// A settlement that is not good.
    #[error(transparent)]
    Settlement(#[from] SettlementFault),
    /// A signature that is not good, or by the wrong node.
    #[error("bad signature: {0}")]
    Signature(String),
    /// The provider asks for more than it delivered.
    #[error("overcharged: {0}")]
    Overcharge(String),
    /// The other side holds another sum for a job than this one: it has not taken the newest cheque.
    #[error("{ours} are promised for the job, the provider holds {theirs}")]
    Unequal {
        /// Promised by this node.
        ours: MicroCredits,
        /// What the provider says.
        theirs: MicroCredits,
    },
    /// A statement too large to be signed.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Disk.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Earned and spent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Promised to this node by cheques it holds.
    pub earned: MicroCredits,
    /// Promised by this node.
    pub spent: MicroCredits,
    /// What of that this node gives back, for service that its quotes promised and it did not keep, or lost by its faults.
    pub given_back: MicroCredits,
    /// What of what this node spent is given back to it.
    pub got_back: MicroCredits,
    /// Delivered by this node under a receipt and not paid.
    pub owed_to_us: MicroCredits,
    /// Jobs completed as provider.
    pub jobs_provided: u64,
    /// Jobs completed as client.
    pub jobs_bought: u64,
}

/// What a provider holds about a job: paid so far, and its receipt.
pub type Settled = (MicroCredits, Option<Signed<Receipt>>);

/// Calls the ledger thread. Cheap to clone; the last clone waits for the thread to end, which closes its store.
#[derive(Clone, Debug)]
pub struct Ledger {
    worker: Arc<Worker>,
    store: Store,
    network: NetworkId,
}

impl Ledger {
    /// Starts the thread. Provider jobs that a crash left in `Running` are ended here, settled with what was paid.
    pub fn start(
        store: Store,
        key: SecretKey,
        network: NetworkId,
        metrics: &Metrics,
    ) -> Result<Self, LedgerError> {
        let meters = Meters::new(metrics);
        let book = Book::open(store.clone(), key, network.clone(), clock::now_ms())?;
        meters.sums(&book);
        Ok(Self { worker: Arc::new(Worker::start(book, meters)?), store, network })
    }

    // --- client side ---

    /// Records that a quote is about to be taken (state `Opening`). One synced write. The caller has judged the quote
    /// and verified its signature.
    pub async fn open(
        &self,
        provider: NodeId,
        addresses: Vec<String>,
        job: JobId,
        quote: Signed<Quote>,
    ) -> Result<(), LedgerError> {
        self.call(move |book| book.open_job(provider, addresses, job, quote)).await
    }

    /// The provider admitted it. Not synced: a crash before the first cheque loses nothing.
    pub async fn accepted(&self, quote: Nonce) -> Result<(), LedgerError> {
        self.call(move |book| book.accepted(quote)).await
    }

    /// The provider refused it: `Rejected`, nothing owed.
    pub async fn refused(&self, quote: Nonce, why: Line<160>) -> Result<(), LedgerError> {
        self.call(move |book| book.refused(quote, why)).await
    }

    /// The provider broke the protocol in the middle of the job: whatever it bills, nothing more is promised. The job
    /// waits to be settled for what was acknowledged, which the record that comes back tells. On disk before it
    /// returns.
    pub async fn refuse(&self, quote: Nonce, why: Line<160>) -> Result<JobRecord, LedgerError> {
        self.call(move |book| book.refuse(quote, why)).await
    }

    /// Signs the cheque that pays for the first `tokens` tokens; on disk before it is returned. Asking again for
    /// fewer or as many returns the newest cheque.
    pub async fn pay(&self, quote: Nonce, tokens: u32) -> Result<Signed<Cheque>, LedgerError> {
        self.call(move |book| book.pay(quote, tokens)).await
    }

    /// Checks a receipt against its quote and what was seen, and stores it (`Delivered`) together with the cheque that
    /// pays the rest of it, which [`Self::pay`] then returns. All checks come back; a receipt that overcharges or
    /// fails a check is an error, stored as evidence, and nothing more is paid: the job waits to be settled for what
    /// was acknowledged. One that the provider did not sign is an error and is not kept.
    pub async fn take_receipt(
        &self,
        quote: Nonce,
        receipt: Signed<Receipt>,
        seen: Option<Seen>,
    ) -> Result<Vec<Check>, LedgerError> {
        let receipt = self.verified(receipt)?;
        self.call(move |book| book.take_receipt(quote, receipt, seen.as_ref())).await
    }

    /// The provider has the last cheque, and this node knows it: `Completed`, `Cancelled` or `Failed`, by the receipt.
    /// A cheque that was only sent is not enough: without a word of the provider the job is settled instead.
    pub async fn paid(&self, quote: Nonce) -> Result<JobRecord, LedgerError> {
        self.call(move |book| book.paid(quote)).await
    }

    /// Settled after a crash or a lost path: the provider holds `paid`, and perhaps its receipt was missing here.
    ///
    /// The record that comes back is final, or `Delivered` with a new cheque where the receipt bills what was sent and
    /// not acknowledged (at most one window): then the caller sends `Settle` once more with `record.cheque`.
    pub async fn settled(
        &self,
        quote: Nonce,
        paid: MicroCredits,
        receipt: Option<Signed<Receipt>>,
    ) -> Result<JobRecord, LedgerError> {
        let receipt = receipt.map(|receipt| self.verified(receipt)).transpose()?;
        self.call(move |book| book.settled(quote, paid, receipt)).await
    }

    /// The provider stays away: `ReceiptMissing`. It can still be settled, should it come back.
    pub async fn give_up(&self, quote: Nonce, why: Line<160>) -> Result<JobRecord, LedgerError> {
        self.call(move |book| book.give_up(quote, why)).await
    }

    // --- provider side ---

    /// Records an admitted job (`Running`), takes the credit for the most it may cost, and uses up its quote. One synced
    /// write. `execution` is what the receipt says should a restart interrupt the job.
    pub async fn admit(
        &self,
        client: NodeId,
        quote: Signed<Quote>,
        execution: Execution,
        strangers: Strangers,
    ) -> Result<(), LedgerError> {
        self.call(move |book| book.admit(client, quote, execution, &strangers)).await
    }

    /// Whether the credit of `client` reaches for a job that may cost `needed`, whose credit it is, and whether there is
    /// anybody with credit of its own. Nothing is taken: [`Self::admit`] decides.
    pub async fn backing(
        &self,
        client: NodeId,
        needed: MicroCredits,
        strangers: Strangers,
    ) -> Result<(Backing, bool), LedgerError> {
        self.call(move |book| Ok((book.backing(client, needed, &strangers)?, book.has_settlers))).await
    }

    /// Signs that `payer` has settled `amount` more outside the network, of what its cheques promise; on disk before it
    /// returns.
    pub async fn receive(&self, payer: NodeId, amount: MicroCredits) -> Result<Signed<Settlement>, LedgerError> {
        self.call(move |book| book.receive(payer, amount)).await
    }

    /// Settlements that this node signed and that their payers have not taken yet, as far as it knows.
    pub async fn undelivered(&self) -> Result<Vec<(NodeId, Signed<Settlement>)>, LedgerError> {
        self.read(|store| {
            let all = store.settlements()?.into_iter();
            let waiting = all.filter(|(side, _, record)| *side == Side::Provider && !record.delivered);
            Ok(waiting.map(|(_, payer, record)| (payer, record.settlement)).collect())
        })
        .await
    }

    /// `payer` has taken this node's settlement of `settled`.
    pub async fn settlement_delivered(&self, payer: NodeId, settled: MicroCredits) -> Result<(), LedgerError> {
        self.call(move |book| book.settlement_delivered(payer, settled)).await
    }

    /// Takes a cheque: signature, pair, job, channel rules, that it pays for exactly the tokens it names, and for none
    /// beyond the `delivered` ones. On disk before it returns. Returns the tokens paid for. A cheque that was taken
    /// before, or that a newer one overtook, changes nothing. The caller limits how often a peer may have a signature
    /// verified.
    pub async fn take_cheque(
        &self,
        quote: Nonce,
        client: NodeId,
        cheque: Signed<Cheque>,
        delivered: u32,
    ) -> Result<u32, LedgerError> {
        let cheque = self.by_client(cheque, client)?;
        self.call(move |book| book.take_cheque(quote, client, cheque, delivered)).await
    }

    /// Signs and stores the receipt of a job that ended; on disk before it is returned. Where the job has a receipt
    /// already (its client settled meanwhile) that one comes back.
    pub async fn finish(
        &self,
        receipt: Receipt,
        failure: Option<Line<160>>,
    ) -> Result<Signed<Receipt>, LedgerError> {
        self.call(move |book| book.finish(&receipt, failure)).await
    }

    /// Answer to a client that settles: takes its newest cheque if it brings one, and returns what was paid and the
    /// receipt. `None` for a job that never started here. A job that still runs ends here with a receipt for what is
    /// paid; a caller that can stop it and [`Self::finish`] it first gets a better one.
    pub async fn settle(
        &self,
        quote: Nonce,
        client: NodeId,
        cheque: Option<Signed<Cheque>>,
    ) -> Result<Option<Settled>, LedgerError> {
        let cheque = cheque.map(|cheque| self.by_client(cheque, client)).transpose()?;
        self.call(move |book| book.settle(quote, client, cheque)).await
    }

    /// What a client owes for delivered and unpaid work and is late with, and what it holds back past its date: above zero it
    /// gets no new quote. A job counts from ten seconds after its end until it is paid, or written off after a week.
    pub async fn debt(&self, client: NodeId) -> Result<MicroCredits, LedgerError> {
        self.call(move |book| Ok(book.debt(&client)?)).await
    }

    /// Takes the word of `payee` that this node has settled something with it: signature, pair, never less than before,
    /// never more than was promised. On disk before it returns. The caller limits how often a peer may have a signature
    /// verified.
    pub async fn take_settlement(&self, payee: NodeId, settlement: Signed<Settlement>) -> Result<(), LedgerError> {
        if settlement.signer() != payee {
            return Err(LedgerError::Signature("the settlement is not signed by the payee".to_owned()));
        }
        let settlement = self.verified(settlement)?;
        self.call(move |book| book.take_settlement(payee, settlement)).await
    }

    // --- both ---

    /// One job.
    pub async fn job(&self, side: Side, quote: Nonce) -> Result<Option<JobRecord>, LedgerError> {
        self.read(move |store| store.job(side, &quote)).await
    }

    /// Newest jobs first.
    pub async fn jobs(&self, limit: usize) -> Result<Vec<JobRecord>, LedgerError> {
        self.read(move |store| store.jobs(limit)).await
    }

    /// Newest jobs first, of those that have a receipt.
    pub async fn receipts(&self, limit: usize) -> Result<Vec<JobRecord>, LedgerError> {
        self.read(move |store| store.receipts(limit)).await
    }

    /// The job whose receipt has this id: the digest of its signed payload.
    pub async fn receipt(&self, id: Digest) -> Result<Option<JobRecord>, LedgerError> {
        self.read(move |store| store.receipt(&id)).await
    }

    /// Jobs of the client side that are not final: what `routing::settle` works through after a start.
    pub async fn unsettled(&self) -> Result<Vec<JobRecord>, LedgerError> {
        self.read(|store| {
            let mut records = store.unfinished()?;
            records.retain(|record| record.side == Side::Client);
            Ok(records)
        })
        .await
    }

    /// Jobs with these providers that are not final, or were given up for want of a receipt: what is settled when one
    /// of them is back, or refuses work until it is paid.
    pub async fn unsettled_with(&self, providers: HashSet<NodeId>) -> Result<Vec<JobRecord>, LedgerError> {
        self.read(move |store| {
            let mut records = store.unfinished()?;
            records.retain(|record| record.side == Side::Client);
            records.extend(store.given_up()?);
            records.retain(|record| providers.contains(&record.peer));
            Ok(records)
        })
        .await
    }

    /// What was paid to others and earned from them, by peer, in micro-credits: the sums of the cheques of both channels.
    pub async fn dealt(&self) -> Result<BTreeMap<NodeId, u64>, LedgerError> {
        self.read(|store| {
            let mut dealt: BTreeMap<NodeId, u64> = BTreeMap::new();
            for (_, peer, channel) in store.channels()? {
                let sum = dealt.entry(peer).or_default();
                *sum = sum.saturating_add(channel.cumulative.0);
            }
            Ok(dealt)
        })
        .await
    }

    /// Earned and spent.
    pub async fn totals(&self) -> Result<Totals, LedgerError> {
        self.call(|book| Ok(book.totals())).await
    }

    /// Has the thread work on the book, and waits until what it changed is written.
    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Book) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let (reply, replied) = oneshot::channel();
        let request: Request = Box::new(move |book| {
            let result = book.map_err(LedgerError::from).and_then(work);
            Box::new(move |written| {
                let result = match written {
                    Ok(_) => result,
                    Err(error) => Err(error.clone().into()),
                };
                // Whoever asked may have gone; the work is done all the same.
                let _ = reply.send(result);
            })
        });
        self.worker.take(request)?;
        replied.await.map_err(|_| LedgerError::Stopped)?
    }

    /// Reads records past the thread: what was answered before is written.
    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Store) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let store = self.store.clone();
        let read = blocking::run(move || query(&store)).await;
        Ok(read.map_err(|_| LedgerError::Stopped)??)
    }

    /// Verifies a signature on the caller's side, so that the thread never waits for one.
    fn verified<T: Statement>(&self, signed: Signed<T>) -> Result<Verified<T>, LedgerError> {
        let read = aitbc_crypto::open(&signed, &self.network)
            .map_err(|error: SignatureError| LedgerError::Signature(error.to_string()))?;
        Ok(Verified { signed, read })
    }

    fn by_client(&self, cheque: Signed<Cheque>, client: NodeId) -> Result<Verified<Cheque>, LedgerError> {
        if cheque.signer() != client {
            return Err(LedgerError::Signature("the cheque is not signed by the job's client".to_owned()));
        }
        self.verified(cheque)
    }
}

#[cfg(test)]
mod tests;
