//! Money that waits: letting go of it when it is due, losing it by faults, and what is overdue. The rule is in
//! [`aitbc_protocol::holdback`].

use super::{
    Ledger, LedgerError,
    book::Book,
    rules::{self, Job},
};
use crate::storage::{JobRecord, Side, StorageError};
use aitbc_protocol::{MicroCredits, NodeId, holdback::Held};

/// Newest jobs among which one with a cheque is looked for: those that were refused have none.
const CHEQUE_SEARCH: usize = 64;

impl Book {
    /// What a client holds back past its date and past all patience.
    pub(super) fn overdue(&mut self, client: NodeId) -> Result<MicroCredits, StorageError> {
        Ok(self.channel(Side::Provider, client)?.held.overdue(self.now_ms))
    }

    /// Signs that what is due to `provider` is let go of. The job that comes back carries that cheque to the provider; there is
    /// none where nothing is due, or where only running jobs could carry it, whose own next cheque will. The channel holds the
    /// part until [`Self::released`].
    pub(super) fn release(&mut self, provider: NodeId) -> Result<Option<JobRecord>, LedgerError> {
        let channel = self.channel(Side::Client, provider)?;
        if channel.held.due(self.now_ms) == MicroCredits::ZERO {
            return Ok(None);
        }
        let newest = self.store.jobs_with(Side::Client, &provider, CHEQUE_SEARCH)?;
        let newest = newest.into_iter().find(|record| record.cheque.is_some() && record.state.is_final());
        let Some(record) = newest else { return Ok(None) };
        let mut job = Job::new(record)?;
        let signed_before = job
            .cheque()?
            .is_some_and(|cheque| cheque.sequence == channel.sequence && cheque.held == MicroCredits::ZERO);
        if !signed_before {
            let (next, cheque) = rules::release(&job, &channel, self.now_ms)?;
            let held = channel.held;
            self.give(&mut job, aitbc_protocol::receipt::Channel { held, ..next }, &cheque)?;
            self.put(job.clone())?;
        }
        Ok(Some(job.record))
    }

    /// `provider` has the cheque `sequence`, which holds nothing.
    pub(super) fn released(&mut self, provider: NodeId, sequence: u64) -> Result<(), LedgerError> {
        let channel = self.channel(Side::Client, provider)?;
        if channel.sequence == sequence {
            self.change_channel(Side::Client, provider, |channel| channel.held = Held::default())?;
        }
        Ok(())
    }

    /// The payee of a channel was shown to be at fault: it loses `share` millionths of what is held, the rest is let go of.
    /// Returns what it loses.
    pub(super) fn forfeit(&mut self, side: Side, peer: NodeId, share: u32) -> Result<MicroCredits, LedgerError> {
        let lost = self.channel(side, peer)?.held.forfeit(share);
        self.change_channel(side, peer, |channel| {
            // Each held part is a part of the promise, which fits.
            channel.forfeited = MicroCredits(channel.forfeited.0.saturating_add(lost.0));
            channel.held = Held::default();
        })?;
        self.count_back(side, lost);
        Ok(lost)
    }
}

impl Ledger {
    /// What is held of the promises of this node, and of those made to it.
    pub async fn held(&self) -> Result<Vec<(Side, NodeId, Held)>, LedgerError> {
        self.read(|store| {
            let held = store.channels()?.into_iter().map(|(side, peer, channel)| (side, peer, channel.held));
            Ok(held.filter(|(_, _, held)| held.amount > MicroCredits::ZERO).collect())
        })
        .await
    }

    /// Signs that what is due to `provider` is let go of, and returns the job whose record carries that cheque there: bring it
    /// as one settles a job, then call [`Self::released`]. Asking again returns the same cheque.
    pub async fn release(&self, provider: NodeId) -> Result<Option<JobRecord>, LedgerError> {
        self.call(move |book| book.release(provider)).await
    }

    /// The provider of a job that [`Self::release`] returned has its cheque.
    pub async fn released(&self, job: &JobRecord) -> Result<(), LedgerError> {
        let cheque = job.cheque.as_ref().and_then(|cheque| cheque.read_unverified().ok());
        let Some(cheque) = cheque else { return Ok(()) };
        let provider = job.peer;
        self.call(move |book| book.released(provider, cheque.sequence)).await
    }

    /// Takes `share` millionths of what is held from the payee, of whom evidence was verified here: with [`Side::Client`] from
    /// `peer`, with [`Side::Provider`] from this node. Returns how much that is.
    pub async fn forfeit(&self, side: Side, peer: NodeId, share: u32) -> Result<MicroCredits, LedgerError> {
        self.call(move |book| book.forfeit(side, peer, share)).await
    }
}
