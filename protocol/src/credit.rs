//! What one node lets another owe it: settlements outside the network, and the credit that grows by them alone.
//!
//! Cheques are promises. They become worth something when their payer gives the payee what the two have agreed on, outside
//! the network, and the payee signs that it has it: a [`Settlement`]. What a payer may owe follows from what it settled
//! with this payee; nothing that others say counts, so new names bring nobody new credit. Whoever has settled nothing is a
//! stranger, and all strangers together share one small [`Allowance`].

use crate::{UnixMillis, envelope::Statement, identity::NodeId, money::MicroCredits, text::Line};
use serde::{Deserialize, Serialize};

/// The time in which a used allowance is whole again, in milliseconds.
pub const ALLOWANCE_MS: u64 = 24 * 60 * 60 * 1000;
/// The part of an allowance that one subnet may take: a quarter.
pub const SUBNET_SHARE: u64 = 4;
/// The part of what a provider can earn in a day that strangers may owe it: one in a hundred.
pub const CAPACITY_SHARE: u64 = 100;

/// "I have received so much outside the network for what this payer has promised me": cumulative over the life of the
/// pair, signed by the payee.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settlement {
    /// Who has paid.
    pub payer: NodeId,
    /// Everything received from it so far.
    pub cumulative: MicroCredits,
    /// When the payee signed it, by its own clock.
    pub issued_ms: UnixMillis,
}

impl Statement for Settlement {
    const DOMAIN: &'static str = "aitbc/settlement/1";
    const MAX_BYTES: usize = 128;
}

/// What a payer answers to a [`Settlement`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SettlementReply {
    /// It is on the payer's disk.
    Taken,
    /// It does not hold there, or not now.
    Refused(Line<160>),
}

/// Why a settlement is not made or not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettlementFault {
    /// For another payer.
    #[error("the settlement names another payer")]
    OtherPayer,
    /// Of nothing.
    #[error("a settlement of nothing: name an amount above 0")]
    Nothing,
    /// Less than was settled before.
    #[error("the settlement says {got} after {had}")]
    Lower {
        /// Settled before.
        had: MicroCredits,
        /// What this one says.
        got: MicroCredits,
    },
    /// More than the cheques promise.
    #[error("{got} would be settled in all where cheques promise {promised}")]
    AbovePromised {
        /// Promised by cheques.
        promised: MicroCredits,
        /// Settled with this one.
        got: MicroCredits,
    },
}

/// What was promised and settled in one direction between two nodes, as either side keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balance {
    /// The newest promise by cheque.
    pub promised: MicroCredits,
    /// Settled of it.
    pub settled: MicroCredits,
    /// Given back of it by receipts, for service levels that were not kept.
    #[serde(default)]
    pub refunded: MicroCredits,
    /// What of it waits until it is due.
    #[serde(default)]
    pub held: MicroCredits,
    /// Lost of it by faults of the payee that were shown.
    #[serde(default)]
    pub forfeited: MicroCredits,
}

impl Balance {
    /// Promised, and neither settled, given back nor lost.
    pub fn open(&self) -> MicroCredits {
        self.rest(self.refunded)
    }

    /// What of that is to be settled now: penalties are set off against what is held first, so they cost it only what goes
    /// beyond.
    pub fn payable(&self) -> MicroCredits {
        self.rest(self.refunded.max(self.held))
    }

    fn rest(&self, less: MicroCredits) -> MicroCredits {
        let gone = [less, self.forfeited, self.settled];
        gone.iter().fold(self.promised, |rest, gone| rest.checked_sub(*gone).unwrap_or_default())
    }

    /// The statement of a payee that has received `amount` more; never more in all than it was promised.
    pub fn receive(
        &self,
        payer: NodeId,
        amount: MicroCredits,
        now_ms: UnixMillis,
    ) -> Result<Settlement, SettlementFault> {
        if amount == MicroCredits::ZERO {
            return Err(SettlementFault::Nothing);
        }
        // A sum that does not fit is above every promise.
        let cumulative = self.settled.checked_add(amount).unwrap_or(MicroCredits(u64::MAX));
        let settlement = Settlement { payer, cumulative, issued_ms: now_ms };
        self.accept(payer, &settlement)?;
        Ok(settlement)
    }

    /// Takes a settlement for what `payer` has promised, on either side. The same one twice changes nothing. Whether the
    /// payee has signed it is judged elsewhere.
    pub fn accept(&self, payer: NodeId, settlement: &Settlement) -> Result<Self, SettlementFault> {
        let got = settlement.cumulative;
        if settlement.payer != payer {
            return Err(SettlementFault::OtherPayer);
        }
        if got < self.settled {
            return Err(SettlementFault::Lower { had: self.settled, got });
        }
        if got > self.promised {
            return Err(SettlementFault::AbovePromised { promised: self.promised, got });
        }
        Ok(Self { settled: got, ..*self })
    }
}

/// What a payer may owe: as much as it has settled with this payee. So whoever leaves without paying has paid for at
/// least half of what it got, and a payee loses nothing to a peer that it has not had from it before.
pub fn limit(settled: MicroCredits) -> MicroCredits {
    settled
}

/// What strangers may owe by default: a hundredth of what a provider earns in a day when it answers without a pause, at
/// `speed` thousandths of a token a second and `price` for a thousand tokens.
pub fn share_of_capacity(speed: u64, price: MicroCredits) -> MicroCredits {
    let a_day =
        (u128::from(speed) * u128::from(price.0)).saturating_mul(u128::from(ALLOWANCE_MS / 1000)) / 1_000_000;
    MicroCredits(u64::try_from(a_day / u128::from(CAPACITY_SHARE)).unwrap_or(u64::MAX))
}

/// What backs a job until it is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backing {
    /// The client's own credit.
    Own,
    /// The allowance that all strangers share.
    Strangers,
}

/// Credit that does not reach for a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the job may cost {needed} where {own} of the client's own credit and {strangers} for strangers are left")]
pub struct CreditFault {
    /// The most that the job may cost.
    pub needed: MicroCredits,
    /// Left of the client's own credit.
    pub own: MicroCredits,
    /// Left for clients that have settled nothing.
    pub strangers: MicroCredits,
}

/// What backs a job of at most `needed` for a client that owes `exposure` in all and has settled `settled`: its own
/// credit first, else what is left for strangers. So settling never leaves anybody worse off.
pub fn back(
    settled: MicroCredits,
    exposure: MicroCredits,
    strangers: MicroCredits,
    needed: MicroCredits,
) -> Result<Backing, CreditFault> {
    let own = limit(settled).checked_sub(exposure).unwrap_or_default();
    if needed <= own {
        Ok(Backing::Own)
    } else if needed <= strangers {
        Ok(Backing::Strangers)
    } else {
        Err(CreditFault { needed, own, strangers })
    }
}

/// An amount that is used up and comes back evenly over [`ALLOWANCE_MS`]: a leaky bucket, kept as the time at which it is
/// whole again (the generic cell rate algorithm, ITU-T I.371). In any time `t` no more than `budget * (1 + t / day)` is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Allowance {
    whole_ms: UnixMillis,
}

impl Allowance {
    /// How long it takes from `now_ms` until all is there again. A clock that was set back does not make that longer
    /// than it can be.
    fn missing_ms(self, now_ms: UnixMillis) -> u64 {
        self.whole_ms.saturating_sub(now_ms).min(ALLOWANCE_MS)
    }

    /// What is left of `budget`.
    pub fn left(self, budget: MicroCredits, now_ms: UnixMillis) -> MicroCredits {
        let left = u128::from(budget.0) * u128::from(ALLOWANCE_MS - self.missing_ms(now_ms));
        MicroCredits((left / u128::from(ALLOWANCE_MS)) as u64)
    }

    /// Takes `amount` of what is left of `budget`, and tells how many milliseconds of it that was; `None` where less is
    /// left.
    #[must_use]
    pub fn take(self, budget: MicroCredits, amount: MicroCredits, now_ms: UnixMillis) -> Option<(Self, u64)> {
        if amount > self.left(budget, now_ms) {
            return None;
        }
        let took_ms = time(budget, amount);
        let from_ms = now_ms.saturating_add(self.missing_ms(now_ms));
        Some((Self { whole_ms: from_ms.saturating_add(took_ms) }, took_ms))
    }

    /// Gives back so many of the milliseconds that were taken.
    #[must_use]
    pub fn give_back(self, unused_ms: u64) -> Self {
        Self { whole_ms: self.whole_ms.saturating_sub(unused_ms) }
    }

    /// True once nothing is missing.
    pub fn is_whole(self, now_ms: UnixMillis) -> bool {
        self.whole_ms <= now_ms
    }
}

/// How many of the `took_ms` that were taken for `needed` are given back where only `used` was needed. Never more than
/// belongs to the difference, whatever was rounded up when they were taken.
pub fn unused_ms(took_ms: u64, needed: MicroCredits, used: MicroCredits) -> u64 {
    let unused = needed.checked_sub(used).unwrap_or_default();
    let part = (u128::from(took_ms) * u128::from(unused.0)).checked_div(u128::from(needed.0)).unwrap_or_default();
    // Not above `took_ms`, which fits.
    (part as u64).saturating_sub(1)
}

/// How long `amount` of `budget` takes to come back, in milliseconds, rounded up.
fn time(budget: MicroCredits, amount: MicroCredits) -> u64 {
    let time = (u128::from(amount.0) * u128::from(ALLOWANCE_MS)).checked_div(u128::from(budget.0));
    match time {
        None => 0,
        Some(time) => {
            let exact = time * u128::from(budget.0) == u128::from(amount.0) * u128::from(ALLOWANCE_MS);
            u64::try_from(time + u128::from(!exact)).unwrap_or(u64::MAX)
        }
    }
}
