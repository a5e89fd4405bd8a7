//! A provider beside those who have the work of its cell, a row a dimension.

use super::{Contender, Lack, Pair, Reach, work};
use crate::{
    attestation::{self, Tier},
    money::MicroCredits,
    offer::ModelOffer,
    price::ONE,
    qos,
};
use serde::{Deserialize, Serialize};
use std::{cmp::Ordering, fmt};

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dimension {
    /// The most that the usual job costs.
    Price,
    /// Estimated time to first token: round trips, queue, prompt.
    Latency,
    /// Estimated time from there to the end of the usual answer.
    Speed,
    /// The tier of the last day's score.
    Service,
    /// Whether it takes a relay.
    Reachability,
    /// Jobs whose models are served.
    Models,
    /// What was attested of the hardware.
    Trust,
}

impl Dimension {
    /// All, as they are listed.
    pub const ALL: [Self; 7] =
        [Self::Price, Self::Latency, Self::Speed, Self::Service, Self::Reachability, Self::Models, Self::Trust];
}

impl fmt::Display for Dimension {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Price => "price",
            Self::Latency => "latency",
            Self::Speed => "speed",
            Self::Service => "service",
            Self::Reachability => "reachability",
            Self::Models => "models",
            Self::Trust => "trust",
        })
    }
}

/// Where somebody stands in a dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// What a job costs.
    Price(MicroCredits),
    /// Estimated milliseconds.
    Milliseconds(u64),
    /// Tier of the score.
    Service(qos::Tier),
    /// Path.
    Reach(Reach),
    /// Thousandths of a job.
    Millijobs(u64),
    /// Tier of the attestation.
    Trust(attestation::Tier),
}

/// How this provider does in a dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// More of the jobs are at somebody worse than at somebody better.
    Ahead,
    /// As many.
    Even,
    /// Fewer.
    Behind,
    /// Nothing can be compared.
    Unknown,
}

/// This provider in one dimension beside those who have the jobs. Every job counts once; figures are lower medians over the jobs
/// that can be compared, so that both columns speak of the same models.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Which.
    pub dimension: Dimension,
    /// This provider.
    pub mine: Option<Figure>,
    /// Those who have the jobs.
    pub theirs: Option<Figure>,
    /// What follows.
    pub verdict: Verdict,
    /// Jobs at somebody who is better in this alone, in thousandths: not all of them would come for it.
    pub better: u64,
    /// Jobs at somebody who is worse.
    pub worse: u64,
}

/// A figure and its place in its order, the best lowest.
type Placed = (i64, Figure);

/// One job: both figures and how many thousandths it counts.
type Sample = (Placed, Placed, u64);

/// The least figure that, with all better ones, holds at least half of all jobs.
fn median(mut values: Vec<(Placed, u64)>) -> Option<Figure> {
    values.sort_by_key(|((place, _), _)| *place);
    let all: u128 = values.iter().map(|(_, each)| u128::from(*each)).sum();
    let mut so_far = 0;
    values.into_iter().find_map(|((_, figure), each)| {
        so_far += u128::from(each);
        (2 * so_far >= all).then_some(figure)
    })
}

fn row(dimension: Dimension, samples: &[Sample]) -> Row {
    let jobs = |wanted: Ordering| {
        let counted = samples.iter().filter(|((mine, _), (theirs, _), _)| theirs.cmp(mine) == wanted);
        counted.fold(0, |sum: u64, (.., each)| sum.saturating_add(*each))
    };
    let (better, worse) = (jobs(Ordering::Less), jobs(Ordering::Greater));
    let verdict = match better.cmp(&worse) {
        _ if samples.is_empty() => Verdict::Unknown,
        Ordering::Less => Verdict::Ahead,
        Ordering::Equal => Verdict::Even,
        Ordering::Greater => Verdict::Behind,
    };
    let mine = median(samples.iter().map(|(mine, _, each)| (*mine, *each)).collect());
    let theirs = median(samples.iter().map(|(_, theirs, each)| (*theirs, *each)).collect());
    Row { dimension, mine, theirs, verdict, better, worse }
}

fn price(price: MicroCredits) -> Placed {
    (i64::try_from(price.0).unwrap_or(i64::MAX), Figure::Price(price))
}

fn time(ms: f64) -> Placed {
    // Casts of floating point saturate.
    let ms = ms.round() as u64;
    (i64::try_from(ms).unwrap_or(i64::MAX), Figure::Milliseconds(ms))
}

fn service(of: &Contender<'_>) -> Placed {
    // As the ranking takes them: who is unrated counts as one with half of the score.
    let score = of.quality.score.unwrap_or(ONE / 2);
    (-i64::from(score), Figure::Service(of.quality.tier))
}

fn reach(of: &Contender<'_>) -> Option<Placed> {
    of.reach.map(|reach| (i64::from(reach == Reach::Relayed), Figure::Reach(reach)))
}

fn trust(of: &Contender<'_>) -> Placed {
    (-i64::from(of.tier.rank()), Figure::Trust(of.tier))
}

/// A job for a model that both serve, where both can be asked for it.
fn pair<'a>(me: &Contender<'a>, other: &Contender<'_>, wanted: &'a ModelOffer) -> Option<Pair<'a>> {
    Pair::of(me, other, wanted, Tier::None).filter(|pair| pair.lack() != Lack::Model)
}

/// Jobs whose models are served, of all of them.
fn models(served: u64, all: u64) -> Row {
    let verdict = match served.cmp(&all) {
        _ if all == 0 => Verdict::Unknown,
        Ordering::Less => Verdict::Behind,
        _ => Verdict::Even,
    };
    let figure = |millijobs| (all > 0).then_some(Figure::Millijobs(millijobs));
    let (mine, theirs, better) = (figure(served), figure(all), all.saturating_sub(served));
    Row { dimension: Dimension::Models, mine, theirs, verdict, better, worse: 0 }
}

/// `me` beside those of `others` who have jobs.
pub(super) fn rows(me: &Contender<'_>, others: &[Contender<'_>]) -> Vec<Row> {
    let jobs: Vec<_> = work(others).map(|(other, wanted, each)| (other, pair(me, other, wanted), each)).collect();
    let of_pairs = |place: &dyn Fn(&Pair<'_>) -> (Placed, Placed)| -> Vec<Sample> {
        let both = |(_, pair, each): &(_, Option<Pair<'_>>, u64)| {
            let (mine, theirs) = place(pair.as_ref()?);
            Some((mine, theirs, *each))
        };
        jobs.iter().filter_map(both).collect()
    };
    let of_providers = |place: &dyn Fn(&Contender<'_>) -> Option<Placed>| -> Vec<Sample> {
        jobs.iter().filter_map(|(other, _, each)| Some((place(me)?, place(other)?, *each))).collect()
    };
    let sum = |sum: u64, each: &u64| sum.saturating_add(*each);
    let all = jobs.iter().map(|(.., each)| each).fold(0, sum);
    let served = jobs.iter().filter(|(_, pair, _)| pair.is_some()).map(|(.., each)| each).fold(0, sum);
    let of = |dimension| match dimension {
        Dimension::Price => {
            row(dimension, &of_pairs(&|pair| (price(pair.here.reasons.price), price(pair.there.reasons.price))))
        }
        Dimension::Latency => row(
            dimension,
            &of_pairs(&|pair| {
                (time(pair.here.reasons.first_token_ms()), time(pair.there.reasons.first_token_ms()))
            }),
        ),
        Dimension::Speed => row(
            dimension,
            &of_pairs(&|pair| (time(pair.here.reasons.generate_ms), time(pair.there.reasons.generate_ms))),
        ),
        Dimension::Service => row(dimension, &of_providers(&|of| Some(service(of)))),
        Dimension::Reachability => row(dimension, &of_providers(&reach)),
        Dimension::Models => models(served, all),
        Dimension::Trust => row(dimension, &of_providers(&|of| Some(trust(of)))),
    };
    Dimension::ALL.map(of).into()
}
