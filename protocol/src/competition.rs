//! Where a provider stands among those of its cell, and which one change would win it the most of the work that they have: pure.
//!
//! It ranks as clients do, for the usual job and from within the cell. What counts as work are the jobs that the others say
//! they run now, spread evenly over their models, because heartbeats do not tell models apart. Every change is tried by ranking
//! anew ([`crate::routing::rank`]): what that rule does not weigh wins nothing here.
//!
//! ```text
//! me, others --pairs: a job of theirs, both ranked for it--> lost: what it would have needed
//!                                                        --> gains: the same after a change, less what comes now
//!                                                        --> rows: both side by side, a row a dimension
//! ```

mod change;
mod pair;
mod reach;
mod row;

pub use change::Change;
pub use reach::Reach;
pub use row::{Dimension, Figure, Row, Verdict};

use crate::{
    attestation::Tier,
    identity::NodeId,
    job::ModelName,
    offer::{Load, ModelOffer},
    qos::Quality,
};
use pair::Pair;
use serde::{Deserialize, Serialize};
use std::{cmp::Reverse, collections::BTreeSet};

/// Tokens of the prompt of the job that all are compared by; its answer has [`crate::routing::USUAL_ANSWER`] tokens.
pub const USUAL_PROMPT: u32 = 256;

/// A provider as its neighbours see it. What only one client knows, such as its own failed jobs, is left out.
#[derive(Clone, Debug)]
pub struct Contender<'a> {
    /// Who.
    pub provider: NodeId,
    /// What it offers.
    pub models: &'a [ModelOffer],
    /// Jobs it runs at a time.
    pub slots: u32,
    /// How busy it says it is.
    pub load: Load,
    /// What it has shown of its hardware.
    pub tier: Tier,
    /// What its last day is worth.
    pub quality: Quality,
    /// How others come to it; `None` where its offer tells no address.
    pub reach: Option<Reach>,
    /// Round trip that a client of the cell measures, in milliseconds; through the relay where there is no other way.
    pub round_trip_ms: Option<f64>,
    /// Round trip by coordinates, in milliseconds: that of a path without a relay.
    pub estimated_ms: Option<f64>,
}

impl Contender<'_> {
    fn jobs(&self) -> u32 {
        self.load.running.saturating_add(self.load.queued)
    }
}

/// What a job at a neighbour would have needed to come here instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lack {
    /// Nothing: this provider ranks at least as well, and the next such job may come.
    Nothing,
    /// The model.
    Model,
    /// A free slot.
    Slots,
    /// A lower price.
    Price,
    /// A better score of the last day.
    Service,
    /// A path without a relay.
    Reach,
    /// A shorter round trip.
    RoundTrip,
    /// A faster answer.
    Speed,
    /// Hardware against which nothing speaks.
    Trust,
    /// No fault that stands against it.
    Fault,
}

/// Work of neighbours, in thousandths of a job, by what it would have needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// What.
    pub lack: Lack,
    /// Thousandths of a job.
    pub millijobs: u64,
}

/// A change and the work that it would win of what the neighbours have now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gain {
    /// What.
    pub change: Change,
    /// Thousandths of a job.
    pub millijobs: u64,
}

/// Where a provider stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// Other providers of the cell.
    pub neighbours: u32,
    /// Jobs that they run or have waiting.
    pub jobs: u32,
    /// This provider beside those who have them; a row for each of [`Dimension::ALL`].
    #[serde(default)]
    pub rows: Vec<Row>,
    /// Those jobs by what they would have needed to come here, most first.
    pub lost: Vec<Lost>,
    /// Changes that would win some of them, the one that wins the most first; of equals the one that costs the owner less.
    pub gains: Vec<Gain>,
    /// What a better attestation would win of the jobs of those who have it, if all their clients asked for as much. Trust
    /// rules out and does not rank, and nothing tells what clients asked for: so it is at most so many.
    #[serde(default)]
    pub gains_of_trust: Vec<Gain>,
    /// Neighbours with work whose hardware is better attested: clients who ask for trust go there.
    pub better_attested: u32,
}

/// The neighbours' work: whose, for what, in thousandths of a job.
fn work<'b, 'a>(others: &'b [Contender<'a>]) -> impl Iterator<Item = (&'b Contender<'a>, &'a ModelOffer, u64)> {
    others.iter().flat_map(|other| {
        let jobs = (u64::from(other.load.running) + u64::from(other.load.queued)) * 1_000;
        let each = jobs.checked_div(other.models.len() as u64).unwrap_or_default();
        let models = if each > 0 { other.models } else { &[] };
        models.iter().map(move |wanted| (other, wanted, each))
    })
}

/// The neighbours' work by what it would need to come to `me`.
fn lost(me: &Contender<'_>, others: &[Contender<'_>]) -> Vec<Lost> {
    let mut lost: Vec<Lost> = Vec::new();
    for (other, wanted, millijobs) in work(others) {
        let lack = Pair::of(me, other, wanted, Tier::None).map_or(Lack::Model, |pair| pair.lack());
        match lost.iter_mut().find(|lost| lost.lack == lack) {
            Some(lost) => lost.millijobs = lost.millijobs.saturating_add(millijobs),
            None => lost.push(Lost { lack, millijobs }),
        }
    }
    lost.sort_by_key(|lost| (Reverse(lost.millijobs), lost.lack));
    lost
}

/// How much of the neighbours' work for clients who ask for `least` would come to `me`, in thousandths of a job.
fn won(me: &Contender<'_>, others: &[Contender<'_>], least: Tier) -> u64 {
    let wins = |other, wanted| Pair::of(me, other, wanted, least).is_some_and(|pair| pair.is_won());
    // Who has less than they ask for does not have their jobs.
    let theirs = work(others).filter(|(other, ..)| least == Tier::None || other.tier.rank() >= least.rank());
    theirs.filter(|(other, wanted, _)| wins(other, wanted)).fold(0, |sum, (.., each)| sum.saturating_add(each))
}

/// What a change would win of the work for clients who ask for `least`; `None` where it is nothing.
fn gain(me: &Contender<'_>, others: &[Contender<'_>], change: Change, least: Tier) -> Option<Gain> {
    let (models, after) = change.applied(me, others)?;
    let after = won(&Contender { models: &models, ..after }, others, least);
    let millijobs = after.saturating_sub(won(me, others, least));
    (millijobs > 0).then_some(Gain { change, millijobs })
}

/// Where `me` stands among `others` of its cell.
pub fn compare(me: &Contender<'_>, others: &[Contender<'_>]) -> Comparison {
    let mut gains: Vec<Gain> =
        change::all(me, others).into_iter().filter_map(|change| gain(me, others, change, Tier::None)).collect();
    // Stable: of equal gains the one stays first that is tried first.
    gains.sort_by_key(|gain| Reverse(gain.millijobs));
    let attested = [Tier::Warning, Tier::Affirming].map(|tier| gain(me, others, Change::Attest { tier }, tier));
    let mut gains_of_trust: Vec<Gain> = attested.into_iter().flatten().collect();
    gains_of_trust.sort_by_key(|gain| Reverse(gain.millijobs));
    let better = others.iter().filter(|other| other.jobs() > 0 && other.tier.rank() > me.tier.rank()).count();
    Comparison {
        neighbours: u32::try_from(others.len()).unwrap_or(u32::MAX),
        jobs: others.iter().map(Contender::jobs).fold(0, u32::saturating_add),
        rows: row::rows(me, others),
        lost: lost(me, others),
        gains,
        gains_of_trust,
        better_attested: u32::try_from(better).unwrap_or(u32::MAX),
    }
}

/// The models of the others that this provider does not serve.
fn missing<'a>(me: &Contender<'_>, others: &[Contender<'a>]) -> BTreeSet<&'a ModelName> {
    let theirs = others.iter().flat_map(|other| other.models).map(|offer| &offer.model);
    theirs.filter(|model| me.models.iter().all(|offer| offer.model != **model)).collect()
}

#[cfg(test)]
mod tests;
