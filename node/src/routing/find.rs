//! Ranking providers without a job: what `aitbc find` shows.

use super::{
    JobFailure, JobUpdate, RankedCandidate, Shared, Wishes,
    candidates::{self, Choice, RoundTrips},
    search::{Goal, search},
};
use aitbc_protocol::{
    NodeId,
    attestation::Tier,
    geo::Location,
    job::ModelName,
    price::LatencyClass,
    routing::{Policy, Work, query::Conditions},
};
use std::collections::HashSet;
use tokio::sync::mpsc;

/// What is ranked for where no job is at hand: a short question and an answer of usual length.
const PROMPT_TOKENS: u32 = 64;
const COMPLETION_TOKENS: u32 = 256;

/// What is looked for where a private job is at hand.
#[derive(Clone, Debug)]
pub(crate) struct PrivateGoal<'a> {
    /// The model.
    pub(crate) model: &'a ModelName,
    /// Values that go in.
    pub(crate) values: u32,
    /// What the user asks of a provider.
    pub(crate) wishes: &'a Wishes,
    /// Providers that have had their turn.
    pub(crate) tried: &'a [NodeId],
    /// Providers that are needed: the search goes on where the nearest are fewer.
    pub(crate) least: usize,
}

/// Looks for providers that compute a model on encrypted values, and ranks those that the wishes allow: at least one, or
/// the reason why there is none.
pub(super) async fn find_private(
    shared: &Shared,
    wanted: &PrivateGoal<'_>,
    updates: &mpsc::Sender<JobUpdate>,
) -> Result<Vec<RankedCandidate>, JobFailure> {
    let PrivateGoal { model, values, wishes, tried, least } = *wanted;
    let mut goal = Goal {
        model: Some(model.clone()),
        provider: wishes.provider,
        from: shared.config.location,
        budget_ms: candidates::budget_ms(wishes.latency_budget_ms),
        thorough: false,
        exclude: tried.iter().copied().collect(),
        told: HashSet::new(),
    };
    let policy = Policy {
        model: model.clone(),
        preference: wishes.policy.unwrap_or(shared.config.preference),
        weights: wishes.weights,
        work: Work::Private,
        prompt_tokens: values,
        completion_tokens: 0,
        latency_budget_ms: goal.budget_ms,
        latency: wishes.latency_class,
        ceiling: wishes.max_price,
        allow_declared: wishes.allow_declared,
        min_trust: wishes.min_trust,
        least_shown: u64::from(wishes.min_shown_mib) << 20,
        physical: !shared.config.network.is_local(),
        conditions: Conditions::default(),
        named: wishes.provider.is_some(),
        exclude: Vec::new(),
    };
    loop {
        let searched = search(shared, &goal, updates).await;
        let (round_trips, unreachable) = candidates::measure(shared, &searched.found).await;
        if wishes.min_trust.rank() > Tier::None.rank() {
            candidates::ask_for_proofs(shared, &searched.found).await;
        }
        let mut found = searched.found.clone();
        let is_left =
            |provider| !tried.contains(&provider) && unreachable.iter().all(|(lost, _)| *lost != provider);
        found.retain(|found| is_left(found.known.provider));
        let choices = candidates::choose(shared, &found, Some(model), &policy, &round_trips);
        let lines: Vec<RankedCandidate> = choices.iter().map(Choice::line).collect();
        if goal.thorough || lines.iter().filter(|line| line.excluded.is_none()).count() >= least {
            let _ = updates.send(JobUpdate::Ranked { candidates: lines.clone() }).await;
            let usable: Vec<_> = lines.into_iter().filter(|line| line.excluded.is_none()).collect();
            let lost: Vec<_> = unreachable.into_iter().map(|(who, error)| (who, error.to_string())).collect();
            return if usable.is_empty() {
                Err(candidates::nobody(model, &policy, &searched, &choices, &lost, &[]))
            } else {
                Ok(usable)
            };
        }
        goal.thorough = true;
    }
}

/// What is looked for without a job.
#[derive(Clone, Debug, Default)]
pub struct Sought {
    /// The model; any if not given.
    pub model: Option<ModelName>,
    /// Near this place; near this node if not given.
    pub location: Option<Location>,
    /// Largest round trip in milliseconds; 400 if not given.
    pub latency_budget_ms: Option<u32>,
    /// What else is asked of providers.
    pub conditions: Conditions,
}

/// Looks for providers, thoroughly, and ranks them.
pub(super) async fn find(
    shared: &Shared,
    sought: Sought,
    updates: &mpsc::Sender<JobUpdate>,
) -> Vec<RankedCandidate> {
    let Sought { model, location, latency_budget_ms, conditions } = sought;
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
        Some(_) => (RoundTrips::default(), Vec::new()),
    };
    let policy = Policy {
        model: model.clone().unwrap_or_default(),
        preference: shared.config.preference,
        weights: None,
        work: Work::Any,
        prompt_tokens: PROMPT_TOKENS,
        completion_tokens: COMPLETION_TOKENS,
        latency_budget_ms: budget_ms,
        latency: LatencyClass::default(),
        ceiling: None,
        allow_declared: true,
        min_trust: Tier::None,
        least_shown: 0,
        physical: !shared.config.network.is_local(),
        conditions,
        named: false,
        exclude: Vec::new(),
    };
    let choices = candidates::choose(shared, &searched.found, model.as_ref(), &policy, &round_trips);
    let lines: Vec<RankedCandidate> = choices.iter().map(Choice::line).collect();
    // Whoever asked reads the result as well; the update is for those who watch.
    let _ = updates.send(JobUpdate::Ranked { candidates: lines.clone() }).await;
    lines
}
