//! Ranking providers without a job: what `aitbc find` shows.

use super::{
    JobUpdate, RankedCandidate, Shared,
    candidates::{self, Choice},
    search::{Goal, search},
};
use aitbc_protocol::{attestation::Tier, geo::Location, job::ModelName, routing::Policy};
use std::collections::{HashMap, HashSet};
use tokio::sync::mpsc;

/// What is ranked for where no job is at hand: a short question and an answer of usual length.
const PROMPT_TOKENS: u32 = 64;
const COMPLETION_TOKENS: u32 = 256;

/// Looks for providers, thoroughly, and ranks them.
pub(super) async fn find(
    shared: &Shared,
    model: Option<ModelName>,
    location: Option<Location>,
    latency_budget_ms: Option<u32>,
    updates: &mpsc::Sender<JobUpdate>,
) -> Vec<RankedCandidate> {
    let budget_ms = candidates::budget_ms(latency_budget_ms);
    let goal = Goal {
        model: model.clone(),
        provider: None,
        from: location.unwrap_or(shared.config.location),
        budget_ms,
        thorough: true,
        exclude: HashSet::new(),
        told: HashSet::new(),
    };
    let searched = search(shared, &goal, updates).await;
    // From elsewhere, round trips measured here say nothing.
    let (round_trips, _) = match location {
        None => candidates::measure(shared, &searched.found).await,
        Some(_) => (HashMap::new(), Vec::new()),
    };
    let policy = Policy {
        model: model.clone().unwrap_or_default(),
        weights: None,
        prompt_tokens: PROMPT_TOKENS,
        completion_tokens: COMPLETION_TOKENS,
        latency_budget_ms: budget_ms,
        ceiling: None,
        allow_declared: true,
        min_trust: Tier::None,
        least_shown: 0,
        physical: !shared.config.network.is_local(),
        exclude: Vec::new(),
    };
    let choices = candidates::choose(shared, &searched.found, model.as_ref(), &policy, &round_trips);
    let lines: Vec<RankedCandidate> = choices.iter().map(Choice::line).collect();
    // Whoever asked reads the result as well; the update is for those who watch.
    let _ = updates.send(JobUpdate::Ranked { candidates: lines.clone() }).await;
    lines
}
