//! The part of a promise that waits: what a client may hold back of its last jobs, until evidence of a fault would have come.
//!
//! A client that checks one job in `n` finds a provider that cheats with each after `n` of them, in the mean. So whoever cheats has
//! to have the price of `n` jobs at stake, or cheating pays: the held part reaches for `price / p` at the audit rate `p = 1 / n`
//! (Becker, Crime and Punishment: An Economic Approach, 1968). Evidence that anyone can verify takes it, in the part that the
//! fault costs ([`crate::evidence::Penalty`]). Nothing else does: without evidence it is due at the date of the quote, and a
//! client that does not let go of it then gets no more work.

use crate::{UnixMillis, money::MicroCredits, price::ONE};
use serde::{Deserialize, Serialize};

/// The part of its jobs that a client is taken to check, in millionths: one in twenty.
pub const AUDIT_RATE: u32 = 50_000;
/// After how long what is held of a job is due, in milliseconds from the quote.
pub const HOLD_MS: u64 = 24 * 60 * 60 * 1000;
/// How much longer a provider waits for a client that was not there, in milliseconds.
pub const RELEASE_GRACE_MS: u64 = 60 * 60 * 1000;

/// What a quote says of money that waits. All zero, in quotes from before there was any, lets nothing be held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// The part of jobs that is checked, in millionths.
    pub rate: u32,
    /// The most that the client may hold back of everything promised to this provider, once it pays for this job.
    pub held: MicroCredits,
    /// When that is due.
    pub due_ms: UnixMillis,
}

impl Audit {
    /// What the quote of a job of at most `max_total` says, signed at `issued_ms`: the price of so many jobs as one is checked of.
    /// A sum that does not fit 64 bits stops at their end.
    pub fn of(max_total: MicroCredits, issued_ms: UnixMillis) -> Self {
        let held = (u128::from(max_total.0) * u128::from(ONE)).div_ceil(u128::from(AUDIT_RATE));
        let held = MicroCredits(u64::try_from(held).unwrap_or(u64::MAX));
        Self { rate: AUDIT_RATE, held, due_ms: issued_ms.saturating_add(HOLD_MS) }
    }
}

/// What is held of a channel's promise, and until when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// How much.
    pub amount: MicroCredits,
    /// When it is due.
    pub due_ms: UnixMillis,
}

impl Held {
    /// The most that is held after `more` was promised under `audit`: what was held and the new part, and no more than the quote
    /// lets be held.
    pub fn most(self, more: MicroCredits, audit: &Audit) -> MicroCredits {
        MicroCredits(self.amount.0.saturating_add(more.0).min(audit.held.0))
    }

    /// What the client holds after it has promised `more` under `audit`. What was due is let go of.
    #[must_use]
    pub fn after(self, more: MicroCredits, audit: &Audit, now_ms: UnixMillis) -> Self {
        let kept = if self.due_ms <= now_ms { Self::default() } else { self };
        kept.taken(kept.most(more, audit), audit)
    }

    /// What the provider takes down where a cheque says that `amount` is held.
    #[must_use]
    pub fn taken(self, amount: MicroCredits, audit: &Audit) -> Self {
        if amount == MicroCredits::ZERO {
            return Self::default();
        }
        Self { amount, due_ms: self.due_ms.max(audit.due_ms) }
    }

    /// What a client has to let go of at `now_ms`.
    pub fn due(self, now_ms: UnixMillis) -> MicroCredits {
        if self.due_ms <= now_ms { self.amount } else { MicroCredits::ZERO }
    }

    /// What a client should have let go of long ago: while there is any, its provider does nothing for it.
    pub fn overdue(self, now_ms: UnixMillis) -> MicroCredits {
        Self { due_ms: self.due_ms.saturating_add(RELEASE_GRACE_MS), ..self }.due(now_ms)
    }

    /// What a fault takes of it, that costs `share` millionths. Rounded down.
    pub fn forfeit(self, share: u32) -> MicroCredits {
        let part = u128::from(self.amount.0) * u128::from(share.min(ONE)) / u128::from(ONE);
        // Not above the amount, which fits.
        MicroCredits(part as u64)
    }
}
