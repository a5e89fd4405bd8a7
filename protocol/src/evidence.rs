//! Evidence: what anyone can check without trusting who shows it.
//!
//! Either two statements that the accused signed and that cannot both be honest, or one that a pure function refutes. All
//! else (lateness, a verifier's word, a client's complaint) is no evidence: it moves only the view of whoever saw it, and
//! scores by [`crate::qos`].
//!
//! Signatures are verified by `aitbc_crypto::evidence`, which then asks [`Evidence::judge`]. What a fault costs is one rule for
//! all ([`Fault::penalty`]), and every node that has verified it applies it by itself.

use crate::{
    UnixMillis,
    attestation::Tier,
    envelope::Signed,
    gpu::challenge::exchange::Opened,
    identity::NodeId,
    offer::{Equivocation, Offer},
    price::{AdjustmentFault, hour_of_day},
    qos::ONE,
    quote::{Quote, QuoteFault},
    receipt::{Cheque, OutputDigest, Receipt},
    wire::WireError,
};
use serde::{Deserialize, Serialize};
use std::fmt;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// Signed words of the accused that speak for themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// Two different offers with one sequence number.
    Offers(Signed<Offer>, Signed<Offer>),
    /// Two different receipts for one quote, neither of them by a provider that had restarted in the middle of the job.
    Receipts(Signed<Receipt>, Signed<Receipt>),
    /// Two different cheques to one provider with one sequence number, or a newer one that promises less.
    Cheques(Signed<Cheque>, Signed<Cheque>),
    /// A quote whose price does not follow from what it states.
    Quote(Signed<Quote>),
    /// A wrong answer to a challenge. Recomputing it takes a cache of 16 MiB, and it is larger than gossip carries: it counts at
    /// the node that asked, and is not passed on.
    Walk(Signed<Opened>),
}

/// What the accused did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// It told people different things about what it offers.
    Offers,
    /// It signed two receipts for one quote.
    Receipts,
    /// It took back what it had promised to pay.
    Cheques,
    /// It asked for a price outside the network's rule.
    Quote,
    /// It answered a challenge wrongly.
    Walk,
}

/// What a fault costs at a node that has verified it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Penalty {
    /// For how long it gets no jobs, in milliseconds from when the node learnt of it.
    pub excluded_ms: u64,
    /// What is left of its score meanwhile, in millionths.
    pub score: u32,
    /// The most that its attestation is worth meanwhile.
    pub tier: Tier,
    /// What it loses of money that is held back from it, in millionths.
    pub held: u32,
}

/// Why something is no evidence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotEvidence {
    /// Statements of two.
    #[error("the two statements are signed by two")]
    TwoSigners,
    /// The same statement twice, or two that go together.
    #[error("the statements do not contradict each other")]
    NoContradiction,
    /// A quote that keeps to the rule.
    #[error("the quote keeps to the rule")]
    NoFault,
    /// Only who asked recomputes it.
    #[error("an answer to a challenge counts at the node that asked")]
    NotForOthers,
    /// It cannot be read.
    #[error(transparent)]
    Wire(#[from] WireError),
}

impl Fault {
    /// What it costs: the one rule. Whoever contradicts itself cannot have done so by mistake: its statements are stored before
    /// they are sent. A price outside the rule can be the mistake of a program, and costs a day.
    pub const fn penalty(self) -> Penalty {
        match self {
            Self::Offers | Self::Receipts | Self::Cheques => {
                Penalty { excluded_ms: 30 * DAY_MS, score: 0, tier: Tier::Contraindicated, held: ONE }
            }
            Self::Walk => Penalty { excluded_ms: 7 * DAY_MS, score: 0, tier: Tier::Contraindicated, held: ONE },
            Self::Quote => Penalty { excluded_ms: DAY_MS, score: ONE / 2, tier: Tier::Warning, held: ONE / 2 },
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Offers => "it signed two different offers with one sequence number",
            Self::Receipts => "it signed two different receipts for one quote",
            Self::Cheques => "it took back what a cheque had promised",
            Self::Quote => "it signed a quote whose price does not follow from what it states",
            Self::Walk => "it answered a challenge of its memory wrongly",
        })
    }
}

impl From<Equivocation> for Evidence {
    fn from(Equivocation { first, second }: Equivocation) -> Self {
        Self::Offers(first, second)
    }
}

fn two<T>(first: &Signed<T>, second: &Signed<T>) -> Result<(), NotEvidence> {
    if first.signer() != second.signer() {
        return Err(NotEvidence::TwoSigners);
    }
    if first.payload() == second.payload() { Err(NotEvidence::NoContradiction) } else { Ok(()) }
}

fn unless(contradicts: bool) -> Result<(), NotEvidence> {
    if contradicts { Ok(()) } else { Err(NotEvidence::NoContradiction) }
}

/// What of the network's price rule a quote breaks, as far as that shows without its request: factors, hour, total. Nothing where it
/// keeps to it. One that states no inputs has none to be held against: clients refuse it, and it proves nothing.
pub fn outside_the_rule(quote: &Quote) -> Option<QuoteFault> {
    match quote.adjustment.check(&quote.price) {
        Err(AdjustmentFault::Inputs) if quote.adjustment.inputs.is_none() => return None,
        Err(fault) => return Some(fault.into()),
        Ok(inputs) => {
            let signed = hour_of_day(quote.issued_ms, inputs.utc_offset_minutes);
            if inputs.hour != signed {
                return Some(QuoteFault::Hour { stated: inputs.hour, signed });
            }
        }
    }
    (quote.total(quote.max_completion_tokens) != Ok(quote.max_total)).then_some(QuoteFault::Total)
}

impl Evidence {
    /// Whom it is about.
    pub fn accused(&self) -> NodeId {
        match self {
            Self::Offers(first, _) => first.signer(),
            Self::Receipts(first, _) => first.signer(),
            Self::Cheques(first, _) => first.signer(),
            Self::Quote(quote) => quote.signer(),
            Self::Walk(opened) => opened.signer(),
        }
    }

    /// What it would show.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Offers(..) => Fault::Offers,
            Self::Receipts(..) => Fault::Receipts,
            Self::Cheques(..) => Fault::Cheques,
            Self::Quote(_) => Fault::Quote,
            Self::Walk(_) => Fault::Walk,
        }
    }

    /// When the accused signed the newest of the statements, by its own word; `None` where none of them tells, as cheques do not
    /// and answers to challenges do only by their slot.
    pub fn signed_ms(&self) -> Result<Option<UnixMillis>, WireError> {
        let signed_ms = match self {
            Self::Offers(first, second) => {
                first.read_unverified()?.issued_ms.max(second.read_unverified()?.issued_ms)
            }
            Self::Receipts(first, second) => {
                first.read_unverified()?.admitted_ms.max(second.read_unverified()?.admitted_ms)
            }
            Self::Quote(quote) => quote.read_unverified()?.issued_ms,
            Self::Cheques(..) | Self::Walk(_) => return Ok(None),
        };
        Ok(Some(signed_ms))
    }

    /// Whether the statements show a fault; that their signatures hold is shown elsewhere.
    pub fn judge(&self) -> Result<Fault, NotEvidence> {
        match self {
            Self::Offers(first, second) => {
                two(first, second)?;
                unless(first.read_unverified()?.sequence == second.read_unverified()?.sequence)?;
            }
            Self::Receipts(first, second) => {
                two(first, second)?;
                let (first, second) = (first.read_unverified()?, second.read_unverified()?);
                // After a restart an honest provider does not know how far it was, and signs anew when a cheque shows it.
                let known = |receipt: &Receipt| receipt.output != OutputDigest::Lost;
                unless(first.quote == second.quote && known(&first) && known(&second))?;
            }
            Self::Cheques(first, second) => {
                two(first, second)?;
                let (first, second) = (first.read_unverified()?, second.read_unverified()?);
                let (older, newer) =
                    if first.sequence <= second.sequence { (first, second) } else { (second, first) };
                let goes_back = newer.sequence == older.sequence || newer.cumulative < older.cumulative;
                unless(older.provider == newer.provider && goes_back)?;
            }
            Self::Quote(quote) => {
                outside_the_rule(&quote.read_unverified()?).ok_or(NotEvidence::NoFault)?;
            }
            Self::Walk(_) => return Err(NotEvidence::NotForOthers),
        }
        Ok(self.fault())
    }
}

/// That a node keeps no business with a provider for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slashed {
    /// What it did.
    pub fault: Fault,
    /// Until when.
    pub until_ms: UnixMillis,
}

#[cfg(test)]
mod tests;
