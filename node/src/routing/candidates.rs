//! From offers to a ranking, and to the words for why nobody is left.

use super::{
    JobFailure, RankedCandidate, RoutingConfig, RuledOut, Shared, Wishes, observing,
    request::listed,
    search::{Found, SearchEnd, Searched},
    shown::{shown, shown_bytes},
};
use crate::{
    clock::now_ms,
    network::NetworkError,
    trust::{Standing, proofs::Asker},
};
use aitbc_protocol::{
    Digest, MicroCredits, NodeId,
    attestation::Tier,
    coordinates::Coordinate,
    geo::{Cell, EARTH_RADIUS_KM, least_round_trip_ms},
    job::{Input, JobSpec, ModelName},
    offer::ModelOffer,
    routing::{Candidate, Exclusion, Policy, Ranked, Work, query::Conditions, rank_best},
};
use futures::future::join_all;
use std::{collections::HashMap, time::Duration};
use tokio::time::timeout;

/// Largest round trip where the user names none, in milliseconds: light reaches every place on earth and comes back.
pub(super) const DEFAULT_BUDGET_MS: u32 = 400;
/// Candidates whose round trip is measured before they are ranked.
const MEASURED: usize = 8;
/// What the path to somebody who tells no coordinate is taken for when it is decided whom to measure: as many times as long as
/// light in fibre needs, and what two lines add. Who tells none is not to be measured before those who do.
const USUAL_DETOUR: f64 = 2.0;
const USUAL_LINES_MS: f64 = 20.0;
/// Candidates of a ranking; whoever stands behind is neither asked nor told of.
const MAX_RANKED: usize = 512;
/// A provider that did not prove what its offer says is not waited for again for as long, in milliseconds.
const ASK_AGAIN_MS: u64 = 60_000;
/// How long that may take; whoever has not answered by then ranks by the coordinates of both, or the least for its distance.
const MEASURE_PATIENCE: Duration = Duration::from_millis(800);

/// A provider with the one of its models that ranks best.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    pub(super) found: Found,
    pub(super) model: ModelOffer,
    pub(super) ranked: Ranked,
    pub(super) trust: Standing,
}

impl Choice {
    pub(super) fn provider(&self) -> NodeId {
        self.found.known.provider
    }

    fn cell(&self) -> Cell {
        self.found.known.offer.cell
    }

    pub(super) fn line(&self) -> RankedCandidate {
        RankedCandidate {
            provider: self.provider(),
            cell: self.found.known.offer.cell,
            device: self.model.device.clone(),
            weights: self.model.weights,
            private: self.model.private.clone(),
            cost: self.ranked.excluded.is_none().then_some(self.ranked.cost),
            reasons: self.ranked.reasons.clone(),
            excluded: self.ranked.excluded.clone(),
            shown: shown(&self.found.known.offer.shown),
            trust: self.trust.clone(),
        }
    }
}

/// The largest acceptable round trip.
pub(super) fn budget_ms(latency_budget_ms: Option<u32>) -> f64 {
    f64::from(latency_budget_ms.unwrap_or(DEFAULT_BUDGET_MS))
}

/// What a job and its user ask of a provider. `weights` are those that began the answer, where one was begun.
pub(super) fn policy(
    config: &RoutingConfig,
    spec: &JobSpec,
    wishes: &Wishes,
    weights: Option<Digest>,
    exclude: Vec<NodeId>,
) -> Policy {
    Policy {
        model: spec.model.clone(),
        preference: wishes.policy.unwrap_or(config.preference),
        weights: weights.or(spec.weights),
        work: if spec.input.sealed().is_some() { Work::Private } else { Work::Ordinary },
        prompt_tokens: estimated_prompt_tokens(&spec.input).saturating_add(spec.prefix_tokens()),
        completion_tokens: spec.completion_tokens(),
        latency_budget_ms: budget_ms(wishes.latency_budget_ms),
        latency: wishes.latency_class,
        ceiling: wishes.max_price,
        allow_declared: wishes.allow_declared,
        min_trust: wishes.min_trust,
        least_shown: u64::from(wishes.min_shown_mib) << 20,
        physical: !config.network.is_local(),
        conditions: Conditions::default(),
        named: wishes.provider.is_some(),
        exclude,
    }
}

/// About four bytes a token, and a few tokens of template a message; the quote tells the true count.
fn estimated_prompt_tokens(input: &Input) -> u32 {
    let parts = match input {
        Input::Chat(messages) => messages.len(),
        Input::Text(_) => 0,
        Input::Embed(texts) => texts.len(),
        Input::Sealed(sealed) => return sealed.values,
    };
    u32::try_from(input.text_bytes() / 4 + 8 * parts + 1).unwrap_or(u32::MAX).min(input.max_prompt_tokens())
}

/// Round trips from here to others, in milliseconds. None at all where a search starts elsewhere.
#[derive(Debug, Default)]
pub(super) struct RoundTrips {
    measured: HashMap<NodeId, f64>,
    /// This node's own coordinate, as it was when the search ended.
    own: Option<Coordinate>,
}

impl RoundTrips {
    /// By the coordinates of both.
    fn estimated_ms(&self, found: &Found) -> Option<f64> {
        self.own?.estimate_ms(&found.known.offer.coordinate?)
    }

    /// What is to be expected of somebody that was not measured: never below what light needs, and without coordinates what
    /// usual paths need.
    fn expected_ms(&self, found: &Found) -> f64 {
        let least_ms = least_round_trip_ms(found.distance_km);
        self.estimated_ms(found).map_or(least_ms * USUAL_DETOUR + USUAL_LINES_MS, |ms| ms.max(least_ms))
    }

    /// Those whose round trip was not measured, whoever is expected to be nearest first.
    fn strangers<'a>(&self, found: &'a [Found]) -> Vec<&'a Found> {
        let strangers = found.iter().filter(|found| !self.measured.contains_key(&found.known.provider));
        let mut strangers: Vec<(f64, &Found)> = strangers.map(|found| (self.expected_ms(found), found)).collect();
        strangers.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        strangers.into_iter().map(|(_, found)| found).collect()
    }
}

/// Connects to the few that are expected to be nearest, so that the ranking goes by measured round trips. Returns what was
/// measured, and who could not be reached and why.
pub(super) async fn measure(shared: &Shared, found: &[Found]) -> (RoundTrips, Vec<(NodeId, NetworkError)>) {
    let peers = shared.network.peers().borrow().clone();
    let measured = peers.iter().filter_map(|peer| Some((peer.peer, peer.round_trip_ms?))).collect();
    let mut round_trips = RoundTrips { measured, own: Some(shared.coordinates.own()) };
    let strangers = round_trips.strangers(found);
    let known = found.len() - strangers.len();
    let connects = strangers.into_iter().take(MEASURED.saturating_sub(known)).map(|found| async {
        let provider = found.known.provider;
        (provider, timeout(MEASURE_PATIENCE, shared.network.connect(provider, found.addresses())).await)
    });
    let mut unreachable = Vec::new();
    for (provider, result) in join_all(connects).await {
        match result {
            Ok(Ok(round_trip)) => {
                round_trips.measured.insert(provider, round_trip.as_secs_f64() * 1000.0);
            }
            Ok(Err(error)) => unreachable.push((provider, error)),
            Err(_) => {}
        }
    }
    (round_trips, unreachable)
}

/// Has those prove what they are who offer to, and are worth nothing here otherwise.
pub(super) async fn ask_for_proofs(shared: &Shared, found: &[Found]) {
    let Some(zk) = &shared.zero_knowledge else { return };
    let unknown = |found: &&Found| {
        let offer = &found.known.offer;
        zk.choose(&offer.policies).is_some()
            && shared.trust.may_prove(found.known.provider, now_ms())
            && shared.trust.standing(found.known.provider, &offer.attested, now_ms()).tier == Tier::None
    };
    let asked = found.iter().filter(unknown).take(MEASURED).map(|found| {
        let asker = Asker { network: &shared.network, trust: &shared.trust, zk };
        async move {
            let provider = found.known.provider;
            if let Err(error) = asker.ask(provider, found.addresses(), &found.known.offer.policies).await {
                tracing::info!(peer = %provider.short(), %error, "it did not prove what its offer says");
                shared.trust.unproved(provider, now_ms().saturating_add(ASK_AGAIN_MS));
            }
        }
    });
    join_all(asked).await;
}

/// Ranks everybody found; one line a provider, by the model of its offer that ranks best. Without a model in mind, the
/// first of each offer stands for it.
pub(super) fn choose(
    shared: &Shared,
    found: &[Found],
    model: Option<&ModelName>,
    policy: &Policy,
    round_trips: &RoundTrips,
) -> Vec<Choice> {
    let now_ms = now_ms();
    let offline = shared.network.offline().borrow().clone();
    let models = |found: &'_ Found| -> Vec<usize> {
        let models = found.known.offer.models.iter().enumerate();
        match model {
            Some(model) => models.filter(|(_, offer)| offer.model == *model).map(|(index, _)| index).collect(),
            // Where something is asked, any of its models may be the one that meets it.
            None if !policy.conditions.is_empty() => models.map(|(index, _)| index).collect(),
            None => models.take(1).map(|(index, _)| index).collect(),
        }
    };
    let lines: Vec<(&Found, usize)> =
        found.iter().flat_map(|found| models(found).into_iter().map(move |index| (found, index))).collect();
    let standing = |found: &Found| {
        let provider = found.known.provider;
        let mut standing = shared.trust.standing(provider, &found.known.offer.attested, now_ms);
        if let Some(most) = shared.reputation.most_trust(&provider, now_ms)
            && most.rank() < standing.tier.rank()
        {
            standing.tier = most;
        }
        (provider, standing)
    };
    let standings: HashMap<NodeId, Standing> = found.iter().map(standing).collect();
    let neighbours = observing::Neighbours::new(&shared.book.snapshot());
    let candidates: Vec<Candidate<'_>> = lines
        .iter()
        .map(|(found, index)| Candidate {
            provider: found.known.provider,
            offer: &found.known.offer.models[*index],
            slots: found.known.offer.slots,
            load: found.known.load,
            tier: standings[&found.known.provider].tier,
            distance_km: found.distance_km,
            round_trip_ms: round_trips.measured.get(&found.known.provider).copied(),
            estimated_ms: round_trips.estimated_ms(found),
            offline_ms: offline.get(&found.known.provider).and_then(|since_ms| {
                // What it has offered since, it has said after its connection broke.
                let silent = found.known.offer.issued_ms <= *since_ms;
                silent.then(|| now_ms.saturating_sub(*since_ms))
            }),
            failures: shared.experience.failures(&found.known.provider, now_ms),
            speed_seen: shared.experience.speed(
                &found.known.provider,
                found.known.offer.models[*index].weights,
                now_ms,
            ),
            prefill_seen: shared.experience.prefill(
                &found.known.provider,
                found.known.offer.models[*index].weights,
                now_ms,
            ),
            rests_ms: shared.experience.rests_ms(&found.known.provider, found.known.offer.issued_ms, now_ms),
            lateness: shared.experience.lateness(&found.known.provider),
            shown_bytes: shown_bytes(&found.known.offer.shown, |signer| shared.trust.believes(signer)),
            quality: observing::quality(shared, &neighbours, &found.known, now_ms),
        })
        .collect();
    let mut named = std::collections::HashSet::new();
    rank_best(&candidates, policy, MAX_RANKED)
        .into_iter()
        .filter(|ranked| named.insert(candidates[ranked.index].provider))
        .map(|ranked| {
            let (found, index) = lines[ranked.index];
            let model = found.known.offer.models[index].clone();
            Choice { found: found.clone(), model, ranked, trust: standings[&found.known.provider].clone() }
        })
        .collect()
}

/// Why nobody does the job: how far the search went, what ruled everyone out, and what to change. `dear` are those of
/// `declined` who asked too much.
pub(super) fn nobody(
    model: &ModelName,
    policy: &Policy,
    searched: &Searched,
    choices: &[Choice],
    declined: &[(NodeId, String)],
    dear: &[(NodeId, MicroCredits)],
) -> JobFailure {
    let asked = |provider| dear.iter().find(|(who, _)| *who == provider).map(|(_, price)| *price);
    let of_choices = choices.iter().map(|choice| match choice.ranked.excluded {
        Some(Exclusion::TooExpensive { price, .. }) => Some(price),
        Some(_) => None,
        None => asked(choice.provider()),
    });
    let too_expensive: Option<Vec<MicroCredits>> =
        of_choices.chain(declined.iter().map(|(provider, _)| asked(*provider))).collect();
    let ruled_out = ruled_out(choices, declined, dear);
    if let (Some(prices), Some(ceiling)) = (too_expensive, policy.ceiling)
        && let Some(cheapest) = prices.into_iter().min()
    {
        let message = format!(
            "the cheapest provider of {model} asks up to {cheapest}, the ceiling is {ceiling}: raise max_price or lower max_tokens{}",
            listed(&ruled_out)
        );
        return JobFailure::TooExpensive { message, ruled_out };
    }
    let mut parts = vec![reach(searched, policy.latency_budget_ms)];
    if choices.is_empty() && declined.is_empty() && searched.end != SearchEnd::NoPeers {
        parts.push(suggestion(model, searched));
    }
    let message = parts.join("; ") + &listed(&ruled_out);
    JobFailure::NoProvider { model: model.clone(), message, ruled_out }
}

/// Who was ruled out by what.
fn ruled_out(choices: &[Choice], declined: &[(NodeId, String)], dear: &[(NodeId, MicroCredits)]) -> Vec<RuledOut> {
    let cell = |who: NodeId| choices.iter().find(|choice| choice.provider() == who).map(Choice::cell);
    let of_choices = choices.iter().filter_map(|choice| {
        let exclusion = choice.ranked.excluded.as_ref()?;
        let (by, reason) = (exclusion.what().to_owned(), exclusion.to_string());
        Some(RuledOut { provider: Some(choice.provider()), cell: Some(choice.cell()), by, reason })
    });
    let excluded =
        |who: NodeId| choices.iter().any(|choice| choice.provider() == who && choice.ranked.excluded.is_some());
    let of_declined = declined.iter().filter(|(provider, _)| !excluded(*provider)).map(|(provider, reason)| {
        let by = if dear.iter().any(|(who, _)| who == provider) { "price" } else { "declined" };
        let (by, reason) = (by.to_owned(), reason.clone());
        RuledOut { provider: Some(*provider), cell: cell(*provider), by, reason }
    });
    of_choices.chain(of_declined).collect()
}

fn reach(searched: &Searched, budget_ms: f64) -> String {
    let km = (budget_ms / least_round_trip_ms(1.0)).min(std::f64::consts::PI * EARTH_RADIUS_KM);
    match searched.end {
        SearchEnd::NoPeers => {
            "this node is connected to nobody: set `bootstrap` to the address of a node that is up, or check the network"
                .to_owned()
        }
        SearchEnd::Everything => format!(
            "searched everything within {km:.0} km in {} cells, farther away light in fibre cannot meet the latency budget of {budget_ms:.0} ms",
            searched.lookups
        ),
        SearchEnd::Time => format!("the search ended by time after {} cells", searched.lookups),
        SearchEnd::Enough if searched.lookups == 0 => "asked the providers known already".to_owned(),
        SearchEnd::Enough => format!("searched {} cells", searched.lookups),
    }
}

/// Names of models that are offered, the most alike first.
fn suggestion(model: &ModelName, searched: &Searched) -> String {
    let mut names: Vec<(f64, &ModelName)> = searched
        .other_models
        .iter()
        .map(|other| (strsim::jaro_winkler(model.as_str(), other.as_str()), other))
        .collect();
    if names.is_empty() {
        return "nobody in reach offers any model: wait for providers, or provide one (aitbc up --provide)"
            .to_owned();
    }
    names.sort_by(|(a, left), (b, right)| b.total_cmp(a).then_with(|| left.cmp(right)));
    let names: Vec<&str> = names.iter().take(5).map(|(_, name)| name.as_str()).collect();
    format!("nobody in reach serves it; others are offered: {}", names.join(", "))
}

#[cfg(test)]
mod tests;
