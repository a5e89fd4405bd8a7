//! What stands between this node and each of its peers, in each direction.

use super::{Ledger, LedgerError, credit::balance_of};
use crate::storage::{JobRecord, PeerSums, Side, StorageError, Store};
use aitbc_protocol::{MicroCredits, NodeId, UnixMillis, ledger::Direction, receipt::Channel};
use serde::Serialize;
use std::collections::BTreeMap;

/// One peer in one direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Account {
    /// Who pays whom.
    pub direction: Direction,
    /// The other node.
    pub peer: NodeId,
    /// Attempts at jobs.
    pub jobs: u64,
    /// Those of them for which something was paid.
    pub paid_jobs: u64,
    /// Promised by cheques.
    pub promised: MicroCredits,
    /// Delivered under receipts and not promised yet.
    pub owed: MicroCredits,
    /// Settled of what was promised.
    pub settled: MicroCredits,
    /// Given back of it, for service levels that were not kept.
    pub refunded: MicroCredits,
    /// Lost of it by faults of the payee that were shown.
    pub forfeited: MicroCredits,
    /// What of it waits until it is due.
    pub held: MicroCredits,
    /// Until when, where something does.
    pub held_until_ms: Option<UnixMillis>,
    /// Promised, and neither settled, given back nor lost.
    pub open: MicroCredits,
    /// What of that is to be settled now.
    pub payable: MicroCredits,
}

impl Account {
    fn new(side: Side, peer: NodeId, sums: PeerSums, channel: &Channel, settled: MicroCredits) -> Self {
        let balance = balance_of(channel, settled);
        Self {
            direction: direction(side),
            peer,
            jobs: sums.jobs,
            paid_jobs: sums.paid_jobs,
            promised: balance.promised,
            owed: sums.unpaid,
            settled: balance.settled,
            refunded: balance.refunded,
            forfeited: balance.forfeited,
            held: balance.held,
            held_until_ms: (balance.held > MicroCredits::ZERO).then_some(channel.held.due_ms),
            open: balance.open(),
            payable: balance.payable(),
        }
    }
}

/// All accounts, those with the most open first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    /// As many as were asked for.
    pub accounts: Vec<Account>,
    /// Accounts beyond them.
    pub left_off: usize,
    /// Over all accounts: what is open to this node.
    pub open_to_us: MicroCredits,
    /// Over all accounts: what is open to others.
    pub open_to_others: MicroCredits,
}

/// The direction in which a side is paid.
pub(super) fn direction(side: Side) -> Direction {
    match side {
        Side::Client => Direction::Spent,
        Side::Provider => Direction::Earned,
    }
}

/// All accounts that the store knows of, at most `limit`.
pub(super) fn all(store: &Store, limit: usize) -> Result<Accounts, StorageError> {
    let mut parts: BTreeMap<(Side, NodeId), (PeerSums, Channel, MicroCredits)> = BTreeMap::new();
    for (side, peer, sums) in store.peer_sums()? {
        parts.entry((side, peer)).or_default().0 = sums;
    }
    for (side, peer, channel) in store.channels()? {
        parts.entry((side, peer)).or_default().1 = channel;
    }
    for (side, peer, record) in store.settlements()? {
        parts.entry((side, peer)).or_default().2 = record.settled;
    }
    let mut accounts: Vec<Account> = parts
        .into_iter()
        .map(|((side, peer), (sums, channel, settled))| Account::new(side, peer, sums, &channel, settled))
        .collect();
    let open = |direction| {
        let of = accounts.iter().filter(|account| account.direction == direction);
        MicroCredits(of.fold(0, |sum, account| sum.saturating_add(account.open.0)))
    };
    let (open_to_us, open_to_others) = (open(Direction::Earned), open(Direction::Spent));
    accounts.sort_by_key(|account| std::cmp::Reverse((account.open, account.owed, account.promised)));
    let left_off = accounts.len().saturating_sub(limit);
    accounts.truncate(limit);
    Ok(Accounts { accounts, left_off, open_to_us, open_to_others })
}

impl Ledger {
    /// One account a peer and direction, at most `limit`. Reads the index of jobs and no job.
    pub async fn accounts(&self, limit: usize) -> Result<Accounts, LedgerError> {
        self.read(move |store| all(store, limit)).await
    }

    /// What stands between this node and `peer`, earned and spent, with at most `limit` of the newest jobs of each
    /// direction.
    pub async fn account(
        &self,
        peer: NodeId,
        limit: usize,
    ) -> Result<Vec<(Account, Vec<JobRecord>)>, LedgerError> {
        self.read(move |store| {
            let mut found = Vec::new();
            for side in [Side::Provider, Side::Client] {
                let (sums, channel) = (store.sums_with(side, &peer)?, store.channel(side, &peer)?);
                let settled = store.settlement(side, &peer)?.map(|record| record.settled);
                if sums != PeerSums::default() || channel != Channel::default() || settled.is_some() {
                    let jobs = store.jobs_with(side, &peer, limit)?;
                    let account = Account::new(side, peer, sums, &channel, settled.unwrap_or_default());
                    found.push((account, jobs));
                }
            }
            Ok(found)
        })
        .await
    }
}
