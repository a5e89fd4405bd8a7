//! What an author's word weighs here: at most what I have settled with it, and strangers together as much as one job.

use crate::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Units of weight in a micro-credit: so that a share of one job is more than nothing.
pub const UNIT: u64 = 1_000;

/// How an author's word comes to its weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Through {
    /// I have settled with it.
    Direct,
    /// Somebody with whom I have settled has.
    Over(NodeId),
    /// Neither.
    Stranger,
}

/// What one author's word weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weight {
    /// In thousandths of a micro-credit ([`UNIT`]).
    pub amount: u64,
    /// Why.
    pub through: Through,
}

/// What is known of who has dealt with whom. Sums in micro-credits.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// What I have settled with others, both ways.
    pub settled: BTreeMap<NodeId, u64>,
    /// What others have paid each other, by their observations: client, provider, sum.
    pub paid: BTreeMap<(NodeId, NodeId), u64>,
}

/// What the word of each of `authors` about `provider` weighs, who has paid it so much by their observations. `job` is what a
/// job of mine costs, in micro-credits.
///
/// An author with whom I have settled weighs what it paid the provider, but at most what I settled with it. What is left of
/// that vouches for those with whom it has dealt, to whom it is shared out by what they dealt in: so whoever I have settled
/// with, and all whom it vouches for, together never weigh more than what I settled with it, however many names it has. The
/// provider vouches for nobody about itself. All the others together weigh as one job of mine.
pub fn weights(
    heard: &Heard,
    provider: NodeId,
    authors: &BTreeMap<NodeId, u64>,
    job: u64,
) -> BTreeMap<NodeId, Weight> {
    let mut weights = BTreeMap::new();
    // What each of my partners can still vouch for.
    let mut left: BTreeMap<NodeId, u64> = heard
        .settled
        .iter()
        .filter(|(partner, sum)| **partner != provider && **sum > 0)
        .map(|(partner, sum)| (*partner, *sum))
        .collect();
    let mut others = BTreeMap::new();
    for (author, paid) in authors.iter().filter(|(author, _)| **author != provider) {
        match left.get_mut(author) {
            Some(left) => {
                let counted = (*paid).max(1).min(*left);
                *left -= counted;
                let amount = counted.saturating_mul(UNIT);
                weights.insert(*author, Weight { amount, through: Through::Direct });
            }
            None => drop(others.insert(*author, (*paid).max(1))),
        }
    }
    // What each partner is asked to vouch for, by author.
    let mut asked: BTreeMap<NodeId, BTreeMap<NodeId, u64>> = BTreeMap::new();
    for (&(client, seller), &sum) in &heard.paid {
        for (partner, author) in [(client, seller), (seller, client)] {
            if left.contains_key(&partner)
                && let Some(paid) = others.get(&author)
            {
                let entry = asked.entry(partner).or_default().entry(author).or_insert(0);
                *entry = entry.saturating_add(sum).min(*paid);
            }
        }
    }
    for (partner, wishes) in &asked {
        let all: u128 = wishes.values().map(|wish| u128::from(*wish)).sum();
        let can = u128::from(left[partner]).min(all);
        for (author, wish) in wishes {
            // At most `wish` units of a thousand, which fit.
            let amount = (u128::from(*wish) * can * u128::from(UNIT)).checked_div(all).unwrap_or(0);
            let amount = u64::try_from(amount).unwrap_or(u64::MAX);
            if amount > 0 && weights.get(author).is_none_or(|known: &Weight| known.amount < amount) {
                weights.insert(*author, Weight { amount, through: Through::Over(*partner) });
            }
        }
    }
    let strangers: BTreeSet<NodeId> =
        others.keys().filter(|author| !weights.contains_key(author)).copied().collect();
    let share = job.max(1).saturating_mul(UNIT).checked_div(strangers.len() as u64).unwrap_or(0);
    weights.extend(
        strangers.into_iter().map(|stranger| (stranger, Weight { amount: share, through: Through::Stranger })),
    );
    weights
}
