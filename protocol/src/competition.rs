//! Where a provider stands among those of its cell, and which one change would win it the most of the work that they have: pure.
//!
//! It ranks as clients do, for the usual job and from within the cell. What counts as work are the jobs that the others say
//! they run now, spread evenly over their models, because heartbeats do not tell models apart.

use crate::{
    attestation::Tier,
    identity::NodeId,
    job::ModelName,
    money::MicroCredits,
    offer::{Load, ModelOffer},
    price::{LatencyClass, TokenPrice},
    routing::{Candidate, Policy, USUAL_ANSWER, Work, preference::Preference, query::Conditions, rank},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt};

/// Tokens of the prompt of the job that all are compared by; its answer has [`USUAL_ANSWER`] tokens.
pub const USUAL_PROMPT: u32 = 256;
/// Cuts of all prices that are tried, in percent, the smallest first.
const CUTS: [u64; 4] = [10, 25, 50, 75];

/// A provider as its neighbours see it.
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
    /// A faster answer.
    Speed,
}

/// Work of neighbours, in thousandths of a job, by what it would have needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// What.
    pub lack: Lack,
    /// Thousandths of a job.
    pub millijobs: u64,
}

/// One thing that the owner can change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Lower all prices.
    Price {
        /// By how many percent.
        percent: u64,
    },
    /// Serve another model.
    Serve {
        /// Which.
        model: ModelName,
    },
    /// Take more jobs at a time.
    Slots {
        /// How many.
        slots: u32,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Price { percent } => {
                write!(formatter, "lower your prices by {percent} % (`provide.price`, `provide.prices`)")
            }
            Self::Serve { model } => {
                write!(formatter, "serve {model} as well (`aitbc models pull {model}`, then `provide.models`)")
            }
            Self::Slots { slots } => write!(formatter, "take {slots} jobs at a time (`provide.slots`)"),
        }
    }
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
    /// Those jobs by what they would have needed to come here, most first.
    pub lost: Vec<Lost>,
    /// Changes that would win some of them, the one that wins the most first, the smaller one of equals.
    pub gains: Vec<Gain>,
    /// Neighbours with work whose hardware is better attested: clients who ask for trust go there.
    pub better_attested: u32,
}

/// What this provider would be after a change. `None` where the change changes nothing.
fn changed(me: &Contender<'_>, change: &Change, others: &[Contender<'_>]) -> Option<(Vec<ModelOffer>, u32)> {
    let mut models = me.models.to_vec();
    match change {
        Change::Price { percent } => {
            let cut = |price: MicroCredits| {
                MicroCredits(price.0 - price.0 / 100 * percent - price.0 % 100 * percent / 100)
            };
            for model in &mut models {
                let TokenPrice { prompt, completion } = model.price;
                model.price = TokenPrice { prompt: cut(prompt), completion: cut(completion) };
            }
            Some((models, me.slots))
        }
        Change::Serve { model } => {
            // At the speed that is usual here, for its price: that of the other with the median speed.
            let mut there: Vec<&ModelOffer> =
                others.iter().flat_map(|other| other.models).filter(|offer| offer.model == *model).collect();
            there.sort_by_key(|offer| offer.speed);
            let usual = *there.get(there.len() / 2)?;
            models.push(usual.clone());
            Some((models, me.slots))
        }
        Change::Slots { slots } => (*slots > me.slots).then_some((models, *slots)),
    }
}

fn policy(model: &ModelName, of: &ModelOffer) -> Policy {
    Policy {
        model: model.clone(),
        preference: Preference::Balanced,
        weights: None,
        work: if of.private.is_some() { Work::Private } else { Work::Ordinary },
        prompt_tokens: USUAL_PROMPT,
        completion_tokens: USUAL_ANSWER,
        latency_budget_ms: f64::INFINITY,
        latency: LatencyClass::Standard,
        ceiling: None,
        allow_declared: true,
        min_trust: Tier::Contraindicated,
        least_shown: 0,
        physical: false,
        exclude: Vec::new(),
        named: false,
        conditions: Conditions::default(),
    }
}

fn candidate<'a>(of: &Contender<'_>, offer: &'a ModelOffer, slots: u32, load: Load) -> Candidate<'a> {
    Candidate {
        provider: of.provider,
        offer,
        slots,
        load,
        tier: of.tier,
        distance_km: 0.0,
        round_trip_ms: None,
        estimated_ms: None,
        offline_ms: None,
        failures: 0.0,
        speed_seen: None,
        prefill_seen: None,
        lateness: 0.0,
        quality: crate::qos::Quality::default(),
        rests_ms: None,
        shown_bytes: 0,
    }
}

/// What keeps a job for `wanted` at `other` from coming to `me` with these models and slots.
fn lack(
    me: &Contender<'_>,
    models: &[ModelOffer],
    slots: u32,
    other: &Contender<'_>,
    wanted: &ModelOffer,
) -> Lack {
    let Some(mine) = models.iter().find(|offer| offer.model == wanted.model) else { return Lack::Model };
    // The job asked about is one of those that the other has.
    let load = Load { running: other.load.running.saturating_sub(1), ..other.load };
    let here = candidate(me, mine, slots, me.load);
    let there = candidate(other, wanted, other.slots, load);
    let ranked = rank(&[here, there], &policy(&wanted.model, wanted));
    let of = |index| ranked.iter().find(|ranked| ranked.index == index);
    let (Some(here), Some(there)) = (of(0), of(1)) else { return Lack::Speed };
    if here.cost <= there.cost {
        Lack::Nothing
    } else if here.excluded.is_some() {
        Lack::Model
    } else if here.reasons.queue_ms > there.reasons.queue_ms && here.reasons.queue_ms >= here.cost - there.cost {
        Lack::Slots
    } else if here.reasons.price > there.reasons.price {
        Lack::Price
    } else {
        Lack::Speed
    }
}

/// The neighbours' work by what it would need to come to `me` with these models and slots.
fn lost(me: &Contender<'_>, models: &[ModelOffer], slots: u32, others: &[Contender<'_>]) -> Vec<Lost> {
    let mut lost: Vec<Lost> = Vec::new();
    for other in others {
        let jobs = u64::from(other.load.running) + u64::from(other.load.queued);
        let Some(each) = (jobs * 1_000).checked_div(other.models.len() as u64).filter(|each| *each > 0) else {
            continue;
        };
        for wanted in other.models {
            let lack = lack(me, models, slots, other, wanted);
            match lost.iter_mut().find(|lost| lost.lack == lack) {
                Some(lost) => lost.millijobs = lost.millijobs.saturating_add(each),
                None => lost.push(Lost { lack, millijobs: each }),
            }
        }
    }
    lost.sort_by_key(|lost| (std::cmp::Reverse(lost.millijobs), lost.lack));
    lost
}

/// Where `me` stands among `others` of its cell.
pub fn compare(me: &Contender<'_>, others: &[Contender<'_>]) -> Comparison {
    let won = |models: &[ModelOffer], slots| {
        let lost = lost(me, models, slots, others);
        lost.iter().filter(|lost| lost.lack == Lack::Nothing).map(|lost| lost.millijobs).sum::<u64>()
    };
    let now = won(me.models, me.slots);
    let mine: BTreeSet<&ModelName> = me.models.iter().map(|offer| &offer.model).collect();
    let theirs: BTreeSet<&ModelName> =
        others.iter().flat_map(|other| other.models).map(|offer| &offer.model).collect();
    let busy = me.load.running.saturating_add(me.load.queued);
    let changes = CUTS
        .map(|percent| Change::Price { percent })
        .into_iter()
        .chain(std::iter::once(Change::Slots { slots: busy.saturating_add(1) }))
        .chain(theirs.difference(&mine).map(|model| Change::Serve { model: (*model).clone() }));
    let mut gains: Vec<Gain> = changes
        .filter_map(|change| {
            let (models, slots) = changed(me, &change, others)?;
            let millijobs = won(&models, slots).saturating_sub(now);
            (millijobs > 0).then_some(Gain { change, millijobs })
        })
        .collect();
    // Stable: of equal gains the smaller cut stays first.
    gains.sort_by_key(|gain| std::cmp::Reverse(gain.millijobs));
    let jobs = |other: &Contender<'_>| other.load.running.saturating_add(other.load.queued);
    let better = others.iter().filter(|other| jobs(other) > 0 && other.tier.rank() > me.tier.rank()).count();
    Comparison {
        neighbours: u32::try_from(others.len()).unwrap_or(u32::MAX),
        jobs: others.iter().map(jobs).fold(0, u32::saturating_add),
        lost: lost(me, me.models, me.slots, others),
        gains,
        better_attested: u32::try_from(better).unwrap_or(u32::MAX),
    }
}
