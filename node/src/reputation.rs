//! What this node knows of the last day of providers: own jobs, what others say, who was heard when.
//!
//! ```text
//!   routing: own jobs, challenges ----+
//!   gossip: observations of others ---+--> Reputation --> ranking, `aitbc reputation`
//!   gossip: heartbeats ---------------+         ^
//!   ledger: what I settled with whom -----------+   weighs what others say
//! ```
//!
//! All of it is in memory, bounded, and forgotten after a day or with the process; evidence of faults is kept in the store by
//! who verified it. The rules are those of [`aitbc_protocol::qos`] and [`aitbc_protocol::evidence`].

mod faults;
mod presence;
mod said;
#[cfg(test)]
mod tests;

use aitbc_protocol::{
    Digest, NodeId, UnixMillis,
    attestation::Tier,
    evidence::{Fault, Slashed},
    qos::{
        Heard, ONE, Observation, Quality, Rating, Served, Testimony, Through, Uptime, Voice, WINDOW_MS, rate,
        weights,
    },
};
use faults::Faults;
pub use faults::KnownFault;
use presence::Presence;
use said::{Said, Told};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Most providers of which own jobs are kept; whoever was dealt with longest ago is forgotten first.
const MAX_PROVIDERS: usize = 1024;
/// Most own jobs and verifications kept of one provider.
const MAX_JOBS: usize = 64;
const MAX_VERIFIED: usize = 16;
/// Slots after which an uptime says something: ten minutes.
const LEAST_SLOTS: u16 = 5;
/// What a job costs where this node has had none, in micro-credits.
const USUAL_JOB: u64 = 1_000;

/// A job of this node's own, as it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnJob {
    /// The job's receipt, or what else names it.
    pub job: Digest,
    /// What was paid for it, in micro-credits.
    pub total: u64,
    /// What is left of its latency, in millionths; `None` where it tells nothing.
    pub latency: Option<u32>,
    /// Whether its receipt held against its answer; `None` where that was not found out.
    pub verified: Option<bool>,
}

/// How a provider's offer compares with others, in millionths; `None` where too few tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// Tokens a joule.
    pub power: Option<u32>,
    /// Price.
    pub cost: Option<u32>,
}

/// What one author says, with what that weighs here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Witness {
    /// Who says so.
    pub author: NodeId,
    /// In thousandths of a micro-credit.
    pub weight: u64,
    /// Why so much.
    pub through: Through,
    /// What it tells.
    #[serde(flatten)]
    pub testimony: Testimony,
}

/// What is known of a provider, with the evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Who.
    pub provider: NodeId,
    /// What follows.
    #[serde(flatten)]
    pub rating: Rating,
    /// What this node saw itself; it weighs what it paid.
    pub own: Option<Testimony>,
    /// In how many slots of two minutes this node heard it.
    pub heard: Option<Uptime>,
    /// What others say, the weightiest first.
    pub witnesses: Vec<Witness>,
    /// What it signed that speaks against it, also what is over.
    pub faults: Vec<KnownFault>,
    /// What a job of this node costs, in micro-credits: all strangers together weigh as much.
    pub job: u64,
}

#[derive(Debug, Default)]
struct Own {
    jobs: VecDeque<Told>,
    verified: VecDeque<(UnixMillis, bool)>,
    touched_ms: UnixMillis,
}

#[derive(Debug, Default)]
struct State {
    own: HashMap<NodeId, Own>,
    said: Said,
    presence: Presence,
    heard: Heard,
    faults: Faults,
}

#[derive(Debug)]
struct Inner {
    me: NodeId,
    state: Mutex<State>,
}

/// What is known; cheap to clone. The lock is held for look-ups and sums over what is kept of one provider.
#[derive(Clone, Debug)]
pub struct Reputation(Arc<Inner>);

fn fresh(at_ms: UnixMillis, now_ms: UnixMillis) -> bool {
    at_ms.saturating_add(WINDOW_MS) > now_ms
}

fn keep<T>(list: &mut VecDeque<T>, item: T, most: usize) {
    if list.len() >= most {
        list.pop_front();
    }
    list.push_back(item);
}

/// What an author tells, out of its jobs, what it verified beside them, and how often it heard the provider.
fn testify<'a>(
    told: impl Iterator<Item = &'a Told>,
    verified: impl Iterator<Item = bool>,
    uptime: Option<Uptime>,
    now_ms: UnixMillis,
) -> Testimony {
    let told: Vec<&Told> = told.filter(|told| fresh(told.at_ms, now_ms)).collect();
    let mut latencies: Vec<u32> = told.iter().filter_map(|told| told.latency).collect();
    latencies.sort_unstable();
    let verified: Vec<bool> = told.iter().filter_map(|told| told.verified).chain(verified).collect();
    let share = |part: usize, whole: usize| {
        // A part of a whole, in millionths, is at most a million.
        (part as u64 * u64::from(ONE)).checked_div(whole as u64).map(|share| share as u32)
    };
    let uptime = uptime.filter(|uptime| uptime.of >= LEAST_SLOTS);
    Testimony {
        jobs: u32::try_from(told.len()).unwrap_or(u32::MAX),
        paid: told.iter().fold(0, |sum, told| sum.saturating_add(told.total)),
        latency: latencies.get(latencies.len().saturating_sub(1) / 2).copied(),
        accuracy: share(verified.iter().filter(|good| **good).count(), verified.len()),
        uptime: uptime.and_then(|uptime| share(usize::from(uptime.heard.min(uptime.of)), usize::from(uptime.of))),
    }
}

fn deals(own: &HashMap<NodeId, Own>, heard: &Heard, node: &NodeId) -> bool {
    own.contains_key(node) || heard.settled.contains_key(node)
}

impl State {
    fn own(&mut self, provider: NodeId, now_ms: UnixMillis) -> &mut Own {
        if self.own.len() >= MAX_PROVIDERS && !self.own.contains_key(&provider) {
            let oldest = self.own.iter().min_by_key(|(_, own)| own.touched_ms).map(|(provider, _)| *provider);
            if let Some(oldest) = oldest {
                self.own.remove(&oldest);
            }
        }
        let own = self.own.entry(provider).or_default();
        own.touched_ms = now_ms;
        own
    }

    /// What a job of this node costs: the mean of those that are kept.
    fn job(&self) -> u64 {
        let jobs = self.own.values().flat_map(|own| &own.jobs);
        let (sum, count) = jobs.fold((0u128, 0u128), |(sum, count), job| (sum + u128::from(job.total), count + 1));
        let mean = sum.checked_div(count).map_or(USUAL_JOB, |mean| u64::try_from(mean).unwrap_or(u64::MAX));
        mean.max(1)
    }

    fn own_testimony(&self, provider: &NodeId, now_ms: UnixMillis) -> Option<Testimony> {
        let uptime = self.presence.uptime(provider, now_ms);
        let own = self.own.get(provider);
        let jobs = own.into_iter().flat_map(|own| &own.jobs);
        let verified = own.into_iter().flat_map(|own| &own.verified);
        let verified = verified.filter(|(at_ms, _)| fresh(*at_ms, now_ms)).map(|(_, good)| *good);
        let testimony = testify(jobs, verified, uptime, now_ms);
        (testimony != Testimony::default()).then_some(testimony)
    }

    fn witnesses(&self, me: NodeId, provider: &NodeId, job: u64, now_ms: UnixMillis) -> Vec<Witness> {
        let Some(authors) = self.said.about(provider) else { return Vec::new() };
        let told: BTreeMap<NodeId, Testimony> = authors
            .iter()
            .filter(|(author, _)| **author != me && self.faults.standing(author, now_ms).next().is_none())
            .map(|(author, told)| {
                let newest = told.back().and_then(|told| told.uptime);
                let uptime = newest.map(|(heard, of)| Uptime { heard, of });
                (*author, testify(told.iter(), std::iter::empty(), uptime, now_ms))
            })
            .filter(|(_, testimony)| testimony.jobs > 0)
            .collect();
        let paid = told.iter().map(|(author, testimony)| (*author, testimony.paid)).collect();
        let weights = weights(&self.heard, *provider, &paid, job);
        let mut witnesses: Vec<Witness> = told
            .into_iter()
            .filter_map(|(author, testimony)| {
                let weight = weights.get(&author)?;
                Some(Witness { author, weight: weight.amount, through: weight.through, testimony })
            })
            .collect();
        witnesses.sort_by_key(|witness| (std::cmp::Reverse(witness.weight), witness.author));
        witnesses
    }

    fn report(&self, me: NodeId, provider: NodeId, beside: Beside, now_ms: UnixMillis) -> Report {
        let job = self.job();
        let own = self.own_testimony(&provider, now_ms);
        let witnesses = self.witnesses(me, &provider, job, now_ms);
        let voices: Vec<Voice> = witnesses
            .iter()
            .map(|witness| Voice { weight: witness.weight, testimony: witness.testimony })
            .collect();
        let mut rating = rate(own, &voices, job, beside.power, beside.cost);
        if let Some(left) =
            self.faults.standing(&provider, now_ms).map(|slashed| slashed.fault.penalty().score).min()
        {
            rating = rating.reduced(left);
        }
        let heard = self.presence.uptime(&provider, now_ms);
        Report { provider, rating, own, heard, witnesses, faults: self.faults.of(&provider, now_ms), job }
    }
}

impl Reputation {
    /// Knows nothing of anybody yet.
    pub fn new(me: NodeId) -> Self {
        Self(Arc::new(Inner { me, state: Mutex::default() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while it was held would lose a count at most: what is kept is whole after each change.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes down that this node was connected to somebody.
    pub fn listen(&self, now_ms: UnixMillis) {
        self.state().presence.listen(now_ms);
    }

    /// Takes down a heartbeat.
    pub fn heartbeat(&self, provider: NodeId, now_ms: UnixMillis) {
        self.state().presence.heard(provider, now_ms);
    }

    /// Takes down a job of this node's own.
    pub fn job(&self, provider: NodeId, job: OwnJob, now_ms: UnixMillis) {
        let OwnJob { job, total, latency, verified } = job;
        let told = Told { at_ms: now_ms, receipt: job, total, latency, verified, uptime: None };
        keep(&mut self.state().own(provider, now_ms).jobs, told, MAX_JOBS);
    }

    /// Takes down whether what a provider claims held when this node verified it.
    pub fn verified(&self, provider: NodeId, good: bool, now_ms: UnixMillis) {
        keep(&mut self.state().own(provider, now_ms).verified, (now_ms, good), MAX_VERIFIED);
    }

    /// Whether what the provider claims held when this node verified it last, within a day.
    pub fn last_verified(&self, provider: &NodeId, now_ms: UnixMillis) -> Option<bool> {
        let state = self.state();
        let (at_ms, good) = *state.own.get(provider)?.verified.back()?;
        fresh(at_ms, now_ms).then_some(good)
    }

    /// In how many slots this node heard a provider.
    pub fn uptime(&self, provider: &NodeId, now_ms: UnixMillis) -> Option<Uptime> {
        self.state().presence.uptime(provider, now_ms)
    }

    /// Whether there is an observation of this job already.
    pub fn knows(&self, receipt: &Digest) -> bool {
        self.state().said.knows(receipt)
    }

    /// Whether this node has settled anything with `author`.
    pub fn has_settled_with(&self, author: &NodeId) -> bool {
        self.state().heard.settled.get(author).is_some_and(|sum| *sum > 0)
    }

    /// Keeps what `author` says of a job with `provider`: both signatures hold and [`Observation::check`] has passed. False
    /// where it is known, or there is no room for a stranger's word.
    pub fn take(&self, provider: NodeId, author: NodeId, said: &Observation, served: &Served) -> bool {
        let mut state = self.state();
        let State { said: kept, heard, .. } = &mut *state;
        let known = |author: &NodeId| heard.settled.get(author).is_some_and(|sum| *sum > 0);
        !kept.knows(&served.receipt) && kept.take(provider, author, Told::of(said, served), known)
    }

    /// Takes what was settled with whom, in micro-credits, and forgets what is over.
    pub fn refresh(&self, settled: BTreeMap<NodeId, u64>, now_ms: UnixMillis) {
        let mut state = self.state();
        state.said.expire(now_ms);
        state.presence.forget(now_ms);
        state.own.retain(|_, own| {
            own.jobs.retain(|job| fresh(job.at_ms, now_ms));
            own.verified.retain(|(at_ms, _)| fresh(*at_ms, now_ms));
            !own.jobs.is_empty() || !own.verified.is_empty()
        });
        state.heard = Heard { settled, paid: state.said.paid() };
    }

    /// This node.
    pub fn me(&self) -> NodeId {
        self.0.me
    }

    /// Providers of whose jobs something is known.
    pub fn providers(&self) -> BTreeSet<NodeId> {
        let state = self.state();
        let known = state.own.keys().copied().chain(state.said.providers());
        known.chain(state.faults.nodes()).collect()
    }

    /// What is known of a provider, whose offer compares so with others.
    pub fn report(&self, provider: NodeId, beside: Beside, now_ms: UnixMillis) -> Report {
        self.state().report(self.0.me, provider, beside, now_ms)
    }

    /// What a ranking is told. `beside` is asked only where that can lead to a score.
    pub fn quality(&self, provider: NodeId, beside: impl FnOnce() -> Beside, now_ms: UnixMillis) -> Quality {
        let slashed = self.slashed(&provider, now_ms);
        let state = self.state();
        if !state.own.contains_key(&provider) && state.said.about(&provider).is_none() {
            return Quality { slashed, ..Quality::default() };
        }
        let rating = state.report(self.0.me, provider, beside(), now_ms).rating;
        Quality { score: rating.score, tier: rating.tier, slashed }
    }

    /// The fault that keeps `node` out the longest, as long as it stands.
    pub fn slashed(&self, node: &NodeId, now_ms: UnixMillis) -> Option<Slashed> {
        let state = self.state();
        state.faults.standing(node, now_ms).max_by_key(|slashed| slashed.until_ms)
    }

    /// Whether evidence counts that such a node did this and signed it then; see [`Reputation::convict`].
    pub fn would_convict(
        &self,
        node: &NodeId,
        fault: Fault,
        signed_ms: Option<UnixMillis>,
        now_ms: UnixMillis,
    ) -> bool {
        self.state().faults.counts(node, fault, signed_ms, now_ms)
    }

    /// Takes down a fault that this node has verified, whose newest statement says to be of `signed_ms`. False where it is known
    /// and stands, or is no other than the one that was known, or where there is no room for one more.
    pub fn convict(
        &self,
        node: NodeId,
        fault: Fault,
        signed_ms: Option<UnixMillis>,
        learned_ms: UnixMillis,
    ) -> bool {
        let mut state = self.state();
        let State { faults, own, heard, .. } = &mut *state;
        faults.convict(node, fault, signed_ms, learned_ms, |node| deals(own, heard, node))
    }

    /// Whether this node had a job with `node` in the last day, or has ever settled with it.
    pub fn deals_with(&self, node: &NodeId) -> bool {
        let state = self.state();
        deals(&state.own, &state.heard, node)
    }

    /// The most that the attestation of `node` is worth for what it did; `None` where it did nothing.
    pub fn most_trust(&self, node: &NodeId, now_ms: UnixMillis) -> Option<Tier> {
        let state = self.state();
        let tiers = state.faults.standing(node, now_ms).map(|slashed| slashed.fault.penalty().tier);
        tiers.min_by_key(|tier| tier.rank())
    }
}
