//! What peers may owe this node, and what they have settled of it.
//!
//! A job is admitted only on credit that reaches for the most it may cost: the client's own, which is what it has settled
//! here, or what is left of the allowance that all strangers share. The rule is in [`aitbc_protocol::credit`].

use super::{LedgerError, book::Book, client::Verified, rules::Job, strangers::Strangers};
use crate::storage::{SettlementRecord, Side, StorageError};
use aitbc_protocol::{
    MicroCredits, NodeId, Signed,
    credit::{Backing, Balance, CreditFault, Settlement, back, unused_ms},
    job::JobState,
    quote::Quote,
    receipt::Channel,
};

/// What a channel and what was settled come to.
pub(super) fn balance_of(channel: &Channel, settled: MicroCredits) -> Balance {
    let Channel { cumulative: promised, refunded, held, forfeited, .. } = *channel;
    Balance { promised, settled, refunded, held: held.amount, forfeited }
}

impl Book {
    /// What was promised and settled with a peer.
    pub(super) fn balance(&mut self, side: Side, peer: NodeId) -> Result<Balance, StorageError> {
        let channel = self.channel(side, peer)?;
        let settled = self.settlement(side, peer)?.map(|record| record.settled).unwrap_or_default();
        Ok(balance_of(&channel, settled))
    }

    /// Everything that `client` owes or may come to owe: what it promised and did not settle, what it was delivered and did
    /// not promise yet, and what its running jobs may still cost.
    pub(super) fn exposure(&mut self, client: NodeId) -> Result<MicroCredits, StorageError> {
        let open = self.balance(Side::Provider, client)?.open();
        let running = self
            .running_of(&client)
            .map(|job| MicroCredits(job.quote.max_total.0.saturating_sub(job.record.paid.0)));
        let sum = running.fold(open.0, |sum, amount| sum.saturating_add(amount.0));
        Ok(MicroCredits(sum.saturating_add(self.unpaid(&client).0)))
    }

    /// What would back a job of at most `needed` for `client` now.
    pub(super) fn backing(
        &mut self,
        client: NodeId,
        needed: MicroCredits,
        strangers: &Strangers,
    ) -> Result<Backing, LedgerError> {
        let settled = self.balance(Side::Provider, client)?.settled;
        let exposure = self.exposure(client)?;
        let now_ms = self.now_ms;
        let left = self.sums().strangers.left(strangers.budget, now_ms);
        let left = left.min(self.subnets.left(strangers, now_ms));
        Ok(back(settled, exposure, left, needed)?)
    }

    /// Takes what backs the job under `quote`, and tells how many milliseconds of the strangers' allowance that was.
    pub(super) fn charge(
        &mut self,
        client: NodeId,
        quote: &Quote,
        strangers: &Strangers,
    ) -> Result<u64, LedgerError> {
        let needed = quote.max_total;
        match self.backing(client, needed, strangers)? {
            Backing::Own => Ok(0),
            Backing::Strangers => {
                let now_ms = self.now_ms;
                let none = || CreditFault { needed, own: MicroCredits::ZERO, strangers: MicroCredits::ZERO };
                let taken = self.sums().strangers.take(strangers.budget, needed, now_ms);
                let (after, took_ms) = taken.ok_or_else(none)?;
                self.subnets.take(strangers, quote, now_ms);
                self.put_strangers(after);
                Ok(took_ms)
            }
        }
    }

    /// Gives back what a job took of the strangers' allowance beyond what it came to. `before` is its state until now.
    pub(super) fn discharge(&mut self, job: &Job, before: Option<JobState>) {
        let ended = before == Some(JobState::Running) && job.record.state != JobState::Running;
        if !ended || job.record.strangers_ms == 0 {
            return;
        }
        let came_to = MicroCredits(job.record.paid.0.saturating_add(job.record.unpaid().0));
        let unused = unused_ms(job.record.strangers_ms, job.quote.max_total, came_to);
        self.put_strangers(self.sums().strangers.give_back(unused));
        self.subnets.give_back(&job.quote, came_to);
    }

    /// Signs that `payer` has settled `amount` more, outside the network.
    pub(super) fn receive(
        &mut self,
        payer: NodeId,
        amount: MicroCredits,
    ) -> Result<Signed<Settlement>, LedgerError> {
        let balance = self.balance(Side::Provider, payer)?;
        let settlement = balance.receive(payer, amount, self.now_ms)?;
        let record = SettlementRecord {
            settlement: self.seal(&settlement)?,
            settled: settlement.cumulative,
            delivered: false,
        };
        self.put_settlement(Side::Provider, payer, record.clone(), true);
        self.has_settlers = true;
        Ok(record.settlement)
    }

    /// Takes the word of a payee that this node has settled something.
    pub(super) fn take_settlement(
        &mut self,
        payee: NodeId,
        settlement: Verified<Settlement>,
    ) -> Result<(), LedgerError> {
        let balance = self.balance(Side::Client, payee)?;
        let after = balance.accept(self.me, &settlement.read)?;
        if after != balance {
            let record =
                SettlementRecord { settlement: settlement.signed, settled: after.settled, delivered: true };
            self.put_settlement(Side::Client, payee, record, true);
        }
        Ok(())
    }

    /// The payer has taken the settlement of `settled`. A newer one that was signed meanwhile still has to be sent.
    pub(super) fn settlement_delivered(
        &mut self,
        payer: NodeId,
        settled: MicroCredits,
    ) -> Result<(), LedgerError> {
        if let Some(record) = self.settlement(Side::Provider, payer)?
            && record.settled == settled
            && !record.delivered
        {
            self.put_settlement(Side::Provider, payer, SettlementRecord { delivered: true, ..record }, false);
        }
        Ok(())
    }
}
