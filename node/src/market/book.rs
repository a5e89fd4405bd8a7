//! The ledger's state: live jobs, channels and sums, written through to the store.
//!
//! Operations change the book in memory and mark what changed; [`Book::commit`] writes all of it at once. After a
//! failed write nothing in memory is believed any more: [`Book::begin`] reads it from the store again.

use super::{
    LedgerError, Totals,
    rules::{self, Job},
    strangers::Subnets,
};
use crate::storage::{Changes, JobRecord, SettlementRecord, Side, StorageError, Store, Sums};
use aitbc_crypto::SecretKey;
use aitbc_protocol::{
    MicroCredits, NetworkId, NodeId, Nonce, Signed, Statement, UnixMillis,
    credit::Allowance,
    job::{JobEvent, JobState},
    receipt::{Channel, Cheque},
    text::Line,
};
use std::collections::{HashMap, HashSet};

/// How long a client may take for the last cheque of a delivered job before it counts as debt, in milliseconds: a
/// few round trips over the worst path, and a restart of the client's node.
pub(super) const DEBT_GRACE_MS: u64 = 10_000;
/// After how long a debt is written off, in milliseconds: memory for debts is bounded by the work of this time.
pub(super) const DEBT_LIFETIME_MS: u64 = 7 * 24 * 60 * 60 * 1000;
/// How often debts are written off and expired quotes forgotten, in milliseconds.
const SWEEP_MS: u64 = 10 * 60 * 1000;
/// Channels kept in memory between commits; more are read again when they are needed.
const CACHED_CHANNELS: usize = 4096;

/// A delivered job that is not all paid.
#[derive(Clone, Copy, Debug)]
struct Debt {
    amount: MicroCredits,
    /// From when on it counts.
    due_ms: UnixMillis,
}

/// The state that the ledger thread owns.
#[derive(Debug)]
pub(super) struct Book {
    pub(super) store: Store,
    pub(super) key: SecretKey,
    pub(super) network: NetworkId,
    pub(super) me: NodeId,
    /// The time of the current batch.
    pub(super) now_ms: UnixMillis,
    /// Cheques given and taken since the start.
    pub(super) cheques: u64,
    /// Whether anybody has settled anything with this node.
    pub(super) has_settlers: bool,
    /// What subnets have taken of the strangers' allowance.
    pub(super) subnets: Subnets,
    jobs: HashMap<(Side, Nonce), Job>,
    channels: HashMap<(Side, NodeId), Channel>,
    debts: HashMap<NodeId, HashMap<Nonce, Debt>>,
    sums: Sums,
    swept_ms: UnixMillis,
    stale: bool,
    changed: Changed,
}

/// What the next commit writes.
#[derive(Debug, Default)]
struct Changed {
    jobs: HashSet<(Side, Nonce)>,
    channels: HashSet<(Side, NodeId)>,
    settlements: HashMap<(Side, NodeId), SettlementRecord>,
    used_quotes: Vec<(Nonce, UnixMillis)>,
    sums: bool,
    /// Whether anything of it must be on the disk before it is answered.
    synced: bool,
}

impl Book {
    /// Reads what is live from the store.
    pub(super) fn open(
        store: Store,
        key: SecretKey,
        network: NetworkId,
        now_ms: UnixMillis,
    ) -> Result<Self, LedgerError> {
        let mut book = Self {
            store,
            me: key.node_id(),
            key,
            network,
            now_ms,
            cheques: 0,
            subnets: Subnets::default(),
            has_settlers: false,
            jobs: HashMap::new(),
            channels: HashMap::new(),
            debts: HashMap::new(),
            sums: Sums::default(),
            swept_ms: 0,
            stale: true,
            changed: Changed::default(),
        };
        book.begin(now_ms)?;
        book.end_interrupted()?;
        book.commit()?;
        Ok(book)
    }

    /// Before a batch: reads everything again if the last write failed, and sweeps now and then.
    pub(super) fn begin(&mut self, now_ms: UnixMillis) -> Result<(), StorageError> {
        self.now_ms = now_ms;
        self.store.ready()?;
        if self.stale {
            self.reload()?;
            self.stale = false;
        }
        if now_ms.saturating_sub(self.swept_ms) >= SWEEP_MS {
            self.swept_ms = now_ms;
            // What it wrote or changed by halves is read again.
            self.sweep().inspect_err(|_| self.stale = true)?;
        }
        Ok(())
    }

    fn reload(&mut self) -> Result<(), StorageError> {
        self.jobs.clear();
        self.channels.clear();
        self.debts.clear();
        self.changed = Changed::default();
        self.sums = self.store.sums()?;
        self.has_settlers = self.store.has_settlements(Side::Provider)?;
        for record in self.store.unfinished()? {
            let job = Job::new(record)?;
            self.track_debt(&job)?;
            self.jobs.insert((job.record.side, job.quote.nonce), job);
        }
        self.evict();
        Ok(())
    }

    fn sweep(&mut self) -> Result<(), StorageError> {
        self.subnets.sweep(self.now_ms);
        self.store.prune_used_quotes(self.now_ms)?;
        let overdue = |debt: &Debt| debt.due_ms.saturating_add(DEBT_LIFETIME_MS) <= self.now_ms;
        let hopeless: Vec<Nonce> = self
            .debts
            .values()
            .flat_map(|debts| debts.iter().filter(|(_, debt)| overdue(debt)).map(|(nonce, _)| *nonce))
            .collect();
        for nonce in hopeless {
            if let Some(mut job) = self.job(Side::Provider, &nonce)?
                && let Ok(state) = job.record.state.on(JobEvent::GaveUp)
            {
                job.record.state = state;
                job.record.failure = Some(Line::lossy("the client never paid all of it"));
                self.put(job)?;
            }
        }
        Ok(())
    }

    /// A job, from memory or from the store.
    pub(super) fn job(&mut self, side: Side, quote: &Nonce) -> Result<Option<Job>, StorageError> {
        if let Some(job) = self.jobs.get(&(side, *quote)) {
            return Ok(Some(job.clone()));
        }
        let Some(record) = self.store.job(side, quote)? else { return Ok(None) };
        let job = Job::new(record)?;
        self.jobs.insert((side, *quote), job.clone());
        Ok(Some(job))
    }

    /// A job that must be there.
    pub(super) fn known(&mut self, side: Side, quote: &Nonce) -> Result<Job, LedgerError> {
        self.job(side, quote)?.ok_or(LedgerError::UnknownJob)
    }

    /// A channel, from memory or from the store.
    pub(super) fn channel(&mut self, side: Side, peer: NodeId) -> Result<Channel, StorageError> {
        if let Some(channel) = self.channels.get(&(side, peer)) {
            return Ok(*channel);
        }
        let channel = self.store.channel(side, &peer)?;
        self.channels.insert((side, peer), channel);
        Ok(channel)
    }

    /// The newest settlement with a peer, of this batch or from the store.
    pub(super) fn settlement(&self, side: Side, peer: NodeId) -> Result<Option<SettlementRecord>, StorageError> {
        match self.changed.settlements.get(&(side, peer)) {
            Some(record) => Ok(Some(record.clone())),
            None => self.store.settlement(side, &peer),
        }
    }

    /// Changes the settlement with a peer.
    pub(super) fn put_settlement(&mut self, side: Side, peer: NodeId, record: SettlementRecord, synced: bool) {
        self.changed.settlements.insert((side, peer), record);
        self.changed.synced |= synced;
    }

    /// Changes what is left for strangers.
    pub(super) fn put_strangers(&mut self, strangers: Allowance) {
        self.sums.strangers = strangers;
        self.changed.sums = true;
    }

    /// Jobs that this node runs for `client`.
    pub(super) fn running_of(&self, client: &NodeId) -> impl Iterator<Item = &Job> {
        let running = self.jobs.values().filter(|job| job.record.state == JobState::Running);
        running.filter(move |job| job.record.side == Side::Provider && job.record.peer == *client)
    }

    /// Changes a job; the batch is synced.
    pub(super) fn put(&mut self, job: Job) -> Result<(), StorageError> {
        self.changed.synced = true;
        self.put_relaxed(job)
    }

    /// Changes a job in a way that a loss of power may undo.
    pub(super) fn put_relaxed(&mut self, mut job: Job) -> Result<(), StorageError> {
        job.record.updated_ms = self.now_ms;
        let key = (job.record.side, job.quote.nonce);
        self.refund(&mut job)?;
        self.track_debt(&job)?;
        let before = self.jobs.get(&key).map(|job| job.record.state);
        self.discharge(&job, before);
        if job.record.state == JobState::Completed && before != Some(JobState::Completed) {
            match job.record.side {
                Side::Client => self.sums.jobs_bought += 1,
                Side::Provider => self.sums.jobs_provided += 1,
            }
            self.changed.sums = true;
        }
        self.changed.jobs.insert(key);
        self.jobs.insert(key, job);
        Ok(())
    }

    /// Sets what the receipt of a job that is over gives back off against its channel. A receipt that is signed anew, after a
    /// restart and a cheque that came late, counts in place of the one before.
    fn refund(&mut self, job: &mut Job) -> Result<(), StorageError> {
        let JobRecord { side, peer, refunded, .. } = job.record;
        let due = rules::refund(job)?;
        if due == refunded {
            return Ok(());
        }
        let mut channel = self.channel(side, peer)?;
        let sum = self.back(side);
        // Never above what was promised, which fits: each penalty is a part of its receipt's total.
        let changed = |sum: MicroCredits| MicroCredits(sum.0.saturating_sub(refunded.0).saturating_add(due.0));
        *sum = changed(*sum);
        channel.refunded = changed(channel.refunded);
        job.record.refunded = due;
        self.changed.sums = true;
        self.changed.synced = true;
        self.changed.channels.insert((side, peer));
        self.channels.insert((side, peer), channel);
        Ok(())
    }

    /// The sum of what comes back on a side.
    fn back(&mut self, side: Side) -> &mut MicroCredits {
        match side {
            Side::Client => &mut self.sums.got_back,
            Side::Provider => &mut self.sums.given_back,
        }
    }

    /// Counts what a payee lost as given back.
    pub(super) fn count_back(&mut self, side: Side, lost: MicroCredits) {
        let sum = self.back(side);
        *sum = MicroCredits(sum.0.saturating_add(lost.0));
        self.changed.sums = true;
    }

    /// Changes a channel without a cheque; the batch is synced.
    pub(super) fn change_channel(
        &mut self,
        side: Side,
        peer: NodeId,
        change: impl FnOnce(&mut Channel),
    ) -> Result<(), StorageError> {
        let mut channel = self.channel(side, peer)?;
        change(&mut channel);
        self.changed.synced = true;
        self.changed.channels.insert((side, peer));
        self.channels.insert((side, peer), channel);
        Ok(())
    }

    /// Changes a channel with the cheque that moved it.
    pub(super) fn put_channel(&mut self, side: Side, peer: NodeId, channel: Channel) -> Result<(), LedgerError> {
        let before = self.channel(side, peer)?;
        let sum = match side {
            Side::Client => &mut self.sums.spent,
            Side::Provider => &mut self.sums.earned,
        };
        let more = channel.cumulative.checked_sub(before.cumulative).unwrap_or_default();
        // Sums over all peers are for display: they stop at the end of 64 bits, the channels do not pass it.
        *sum = sum.checked_add(more).unwrap_or(MicroCredits(u64::MAX));
        self.cheques += 1;
        self.changed.sums = true;
        self.changed.synced = true;
        self.changed.channels.insert((side, peer));
        self.channels.insert((side, peer), channel);
        Ok(())
    }

    /// Whether a quote was used, by this batch or before.
    pub(super) fn quote_used(&self, nonce: &Nonce) -> Result<bool, StorageError> {
        let pending = self.changed.used_quotes.iter().any(|(used, _)| used == nonce);
        Ok(pending || self.store.quote_used(nonce)?)
    }

    /// Uses up a quote until it expires.
    pub(super) fn use_quote(&mut self, nonce: Nonce, expires_ms: UnixMillis) {
        self.changed.used_quotes.push((nonce, expires_ms));
    }

    /// Signs a statement of this node.
    pub(super) fn seal<T: Statement>(&self, statement: &T) -> Result<Signed<T>, LedgerError> {
        Ok(aitbc_crypto::seal(&self.key, &self.network, statement)?)
    }

    /// Signs a cheque and records it with its job and channel.
    pub(super) fn give(&mut self, job: &mut Job, channel: Channel, cheque: &Cheque) -> Result<(), LedgerError> {
        job.record.cheque = Some(self.seal(cheque)?);
        job.record.paid = cheque.job_total;
        job.record.tokens = cheque.tokens;
        self.put_channel(Side::Client, job.record.peer, channel)
    }

    /// Writes what changed, in one batch; true if it was synced. After an error the book is read again before the
    /// next batch.
    pub(super) fn commit(&mut self) -> Result<bool, StorageError> {
        let changed = std::mem::take(&mut self.changed);
        let changes = Changes {
            jobs: changed.jobs.iter().filter_map(|key| self.jobs.get(key)).map(|job| job.record.clone()).collect(),
            channels: changed
                .channels
                .iter()
                .filter_map(|key| self.channels.get(key).map(|channel| (key.0, key.1, *channel)))
                .collect(),
            settlements: changed
                .settlements
                .into_iter()
                .map(|((side, peer), record)| (side, peer, record))
                .collect(),
            used_quotes: changed.used_quotes,
            sums: changed.sums.then_some(self.sums),
        };
        let written = match (changes.is_empty(), changed.synced) {
            (true, _) => Ok(false),
            (false, true) => self.store.commit(&changes).map(|()| true),
            (false, false) => self.store.commit_relaxed(&changes).map(|()| false),
        };
        if written.is_err() {
            self.stale = true;
        }
        self.evict();
        written
    }

    /// Keeps in memory what is live. Delivered jobs of a provider are as many as there are clients that do not pay:
    /// their debts stay, their records do not.
    fn evict(&mut self) {
        self.jobs.retain(|(side, _), job| {
            let owed = *side == Side::Provider && job.record.state == JobState::Delivered;
            !owed && !job.record.state.is_final()
        });
        if self.channels.len() > CACHED_CHANNELS {
            self.channels.clear();
        }
    }

    fn track_debt(&mut self, job: &Job) -> Result<(), StorageError> {
        if job.record.side != Side::Provider {
            return Ok(());
        }
        let client = job.record.peer;
        let amount =
            if job.record.state == JobState::Delivered { job.record.unpaid() } else { MicroCredits::ZERO };
        if amount > MicroCredits::ZERO {
            let ended_ms = job.receipt()?.map_or(job.record.updated_ms, |receipt| {
                receipt.admitted_ms.saturating_add(receipt.timings.total_ms)
            });
            let debt = Debt { amount, due_ms: ended_ms.saturating_add(DEBT_GRACE_MS) };
            self.debts.entry(client).or_default().insert(job.quote.nonce, debt);
        } else if let Some(debts) = self.debts.get_mut(&client) {
            debts.remove(&job.quote.nonce);
            if debts.is_empty() {
                self.debts.remove(&client);
            }
        }
        Ok(())
    }

    /// What a client owes and is late with, and what it holds back too long.
    pub(super) fn debt(&mut self, client: &NodeId) -> Result<MicroCredits, StorageError> {
        let overdue = self.overdue(*client)?;
        let late = self.debts.get(client).into_iter().flat_map(HashMap::values);
        let late = late.filter(|debt| debt.due_ms <= self.now_ms).map(|debt| debt.amount);
        Ok(sum(late.chain([overdue])))
    }

    /// What a client was delivered and has not paid, late or not.
    pub(super) fn unpaid(&self, client: &NodeId) -> MicroCredits {
        sum(self.debts.get(client).into_iter().flat_map(HashMap::values).map(|debt| debt.amount))
    }

    /// The sums over all time.
    pub(super) fn sums(&self) -> &Sums {
        &self.sums
    }

    /// Earned, spent, and what is owed: as much work as there are debts.
    pub(super) fn totals(&self) -> Totals {
        Totals {
            earned: self.sums.earned,
            spent: self.sums.spent,
            given_back: self.sums.given_back,
            got_back: self.sums.got_back,
            owed_to_us: sum(self.debts.values().flat_map(HashMap::values).map(|debt| debt.amount)),
            jobs_provided: self.sums.jobs_provided,
            jobs_bought: self.sums.jobs_bought,
        }
    }
}

fn sum(amounts: impl Iterator<Item = MicroCredits>) -> MicroCredits {
    MicroCredits(amounts.fold(0, |sum, amount| sum.saturating_add(amount.0)))
}
