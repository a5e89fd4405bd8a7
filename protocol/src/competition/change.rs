//! What an owner can change about a provider, and what it would be then.

use super::{Contender, Reach, missing};
use crate::{
    attestation,
    job::ModelName,
    money::MicroCredits,
    offer::ModelOffer,
    price::TokenPrice,
    qos::{self, Quality},
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Cuts of all prices that are tried, in percent, the smallest first.
const CUTS: [u64; 4] = [10, 25, 50, 75];

/// One thing that the owner can change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Be reachable without a relay.
    Reach,
    /// Take more jobs at a time.
    Slots {
        /// How many.
        slots: u32,
    },
    /// Lower all prices.
    Price {
        /// By how many percent.
        percent: u64,
    },
    /// Have the hardware attested.
    Attest {
        /// As what.
        tier: attestation::Tier,
    },
    /// Have a better score of the last day.
    Service {
        /// Its tier, whose least score is meant.
        tier: qos::Tier,
    },
    /// Answer as fast as is usual in the cell.
    Speed {
        /// With which model.
        model: ModelName,
        /// In milli-tokens a second; milli-bootstraps of models on encrypted values.
        speed: u32,
    },
    /// Serve another model.
    Serve {
        /// Which.
        model: ModelName,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reach => formatter
                .write_str("be reachable without a relay (forward the port at the router, see `aitbc netcheck`)"),
            Self::Slots { slots } => write!(formatter, "take {slots} jobs at a time (`provide.slots`)"),
            Self::Price { percent } => {
                write!(formatter, "lower your prices by {percent} % (`provide.price`, `provide.prices`)")
            }
            Self::Attest { tier } => {
                write!(
                    formatter,
                    "have your hardware found {tier} by verifiers that clients name (`aitbc attest run` tells what it can show)"
                )
            }
            Self::Service { tier } => {
                write!(
                    formatter,
                    "serve well enough to be rated {tier} (`aitbc reputation` shows the parts of a score)"
                )
            }
            Self::Speed { model, speed } => write!(
                formatter,
                "answer with {model} at {}.{} tokens a second (a faster card, or a smaller quantisation)",
                speed / 1_000,
                speed % 1_000 / 100
            ),
            Self::Serve { model } => {
                write!(formatter, "serve {model} as well (`aitbc models pull {model}`, then `provide.models`)")
            }
        }
    }
}

/// The offer of a model with the median speed.
fn usual<'a>(model: &ModelName, others: &[Contender<'a>]) -> Option<&'a ModelOffer> {
    let mut there: Vec<&ModelOffer> =
        others.iter().flat_map(|other| other.models).filter(|offer| offer.model == *model).collect();
    there.sort_by_key(|offer| offer.speed);
    there.get(there.len() / 2).copied()
}

impl Change {
    /// What `me` and its models would be after it. `None` where it changes nothing, or what it changes is not known.
    pub(super) fn applied<'a>(
        &self,
        me: &Contender<'a>,
        others: &[Contender<'_>],
    ) -> Option<(Vec<ModelOffer>, Contender<'a>)> {
        let (mut models, mut after) = (me.models.to_vec(), me.clone());
        match self {
            Self::Reach => {
                // Without the detour, what is left is the estimate of the straight way; unknown, it would seem to be none.
                after.estimated_ms.filter(|_| me.reach == Some(Reach::Relayed))?;
                (after.reach, after.round_trip_ms) = (Some(Reach::Direct), None);
            }
            Self::Slots { slots } => after.slots = Some(*slots).filter(|slots| *slots > me.slots)?,
            Self::Price { percent } => {
                let cut = |price: MicroCredits| {
                    MicroCredits(price.0 - price.0 / 100 * percent - price.0 % 100 * percent / 100)
                };
                for model in &mut models {
                    let TokenPrice { prompt, completion } = model.price;
                    model.price = TokenPrice { prompt: cut(prompt), completion: cut(completion) };
                }
            }
            Self::Attest { tier } => after.tier = Some(*tier).filter(|tier| tier.rank() > me.tier.rank())?,
            Self::Service { tier } => {
                let score = tier.least().filter(|score| me.quality.score.is_none_or(|mine| mine < *score))?;
                after.quality = Quality { score: Some(score), tier: *tier, ..me.quality };
            }
            Self::Speed { model, speed } => {
                let mine = models.iter_mut().find(|mine| mine.model == *model && mine.speed < *speed)?;
                mine.speed = *speed;
            }
            // At the speed that is usual here, for its price.
            Self::Serve { model } => models.push(usual(model, others)?.clone()),
        }
        Some((models, after))
    }
}

/// Everything that is tried for `me`, what costs its owner the least first.
pub(super) fn all(me: &Contender<'_>, others: &[Contender<'_>]) -> Vec<Change> {
    let slots = me.jobs().saturating_add(1);
    let speeds = me.models.iter().filter_map(|mine| {
        Some(Change::Speed { model: mine.model.clone(), speed: usual(&mine.model, others)?.speed })
    });
    let free = [Change::Reach, Change::Slots { slots }];
    free.into_iter()
        .chain(CUTS.map(|percent| Change::Price { percent }))
        // Clients who ask for nothing still turn away from what speaks against the hardware.
        .chain(std::iter::once(Change::Attest { tier: attestation::Tier::Warning }))
        .chain(qos::Tier::ALL.map(|tier| Change::Service { tier }))
        .chain(speeds)
        .chain(missing(me, others).into_iter().map(|model| Change::Serve { model: model.clone() }))
        .collect()
}
