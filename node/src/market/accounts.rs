//! What stands between this node and each of its peers, in each direction.

use super::{Ledger, LedgerError};
use crate::storage::{JobRecord, PeerSums, Side, StorageError, Store};
use aitbc_protocol::{MicroCredits, NodeId, credit::Balance, ledger::Direction};
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
    /// Promised, and neither settled nor given back.
    pub open: MicroCredits,
}

impl Account {
    fn new(side: Side, peer: NodeId, sums: PeerSums, balance: Balance) -> Self {
        Self {
            direction: direction(side),
            peer,
            jobs: sums.jobs,
            paid_jobs: sums.paid_jobs,
            promised: balance.promised,
            owed: sums.unpaid,
            settled: balance.settled,
            refunded: balance.refunded,
            open: balance.open(),
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
    /// Over all accounts: what others have promised and not settled.
    pub open_to_us: MicroCredits,
    /// Over all accounts: what this node has promised and not settled.
    pub open_to_others: MicroCredits,
}

/// The direction in which a side is paid.
pub(super) fn direction(side: Side) -> Direction {
    match side {
        Side::Client => Direction::Spent,
        Side::Provider => Direction::Earned,
    }
}

fn balance(store: &Store, side: Side, peer: &NodeId) -> Result<Balance, StorageError> {
    let channel = store.channel(side, peer)?;
    let settled = store.settlement(side, peer)?.map(|record| record.settled).unwrap_or_default();
    Ok(Balance { promised: channel.cumulative, settled, refunded: channel.refunded })
}

/// All accounts that the store knows of, at most `limit`.
pub(super) fn all(store: &Store, limit: usize) -> Result<Accounts, StorageError> {
    let mut parts: BTreeMap<(Side, NodeId), (PeerSums, Balance)> = BTreeMap::new();
    for (side, peer, sums) in store.peer_sums()? {
        parts.entry((side, peer)).or_default().0 = sums;
    }
    for (side, peer, channel) in store.channels()? {
        let balance = &mut parts.entry((side, peer)).or_default().1;
        (balance.promised, balance.refunded) = (channel.cumulative, channel.refunded);
    }
    for (side, peer, record) in store.settlements()? {
        parts.entry((side, peer)).or_default().1.settled = record.settled;
    }
    let mut accounts: Vec<Account> =
        parts.into_iter().map(|((side, peer), (sums, balance))| Account::new(side, peer, sums, balance)).collect();
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
                let (sums, balance) = (store.sums_with(side, &peer)?, balance(store, side, &peer)?);
                if sums != PeerSums::default() || balance != Balance::default() {
                    let jobs = store.jobs_with(side, &peer, limit)?;
                    found.push((Account::new(side, peer, sums, balance), jobs));
                }
            }
            Ok(found)
        })
        .await
    }
}
