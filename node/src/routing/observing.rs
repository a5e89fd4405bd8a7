//! What this node sees of providers as a client: taken down, told to their neighbours, weighed, ranked.

use super::{
    OffersSnapshot, Shared,
    attempt::{Ended, Report},
    shown::shown_bytes,
};
use crate::{
    clock::now_ms,
    reputation::{self, Beside, OwnJob},
};
use aitbc_protocol::{
    Digest, NodeId, Nonce, UnixMillis,
    attestation::Tier,
    geo::{Cell, FINEST_TOPIC},
    gossip::Gossip,
    gpu::classify::{Classified, Reported, classify},
    job::Finish,
    offer::{DeviceKind, KnownOffer, ModelOffer},
    qos::{self, Observation, Quality, cost_efficiency, power_efficiency},
};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::time::{MissedTickBehavior, interval};

/// How often what was settled is read anew, and what is over is forgotten.
const REFRESH: Duration = Duration::from_secs(30);
/// Most offers that others are compared with: the middle of so many is as good as that of all.
const MAX_COMPARED: usize = 512;

/// How an attempt went, in the words of observations; `None` where it tells nothing of its provider.
fn finish(ended: &Ended) -> Option<Finish> {
    match ended {
        Ended::Whole(finish) => Some(*finish),
        Ended::Broken { .. } | Ended::BadReceipt(_) => Some(Finish::Failed),
        Ended::Cancelled | Ended::Refused(_) | Ended::Own(_) => None,
    }
}

/// Takes down how a job with a provider went, and tells those who hear its cell, where its provider signed that it was.
pub(super) async fn observe(shared: &Shared, provider: NodeId, cell: Cell, quote: Nonce, report: &Report) {
    let Some(finish) = finish(&report.ended) else { return };
    let now_ms = now_ms();
    // Casts of floating point saturate.
    let first_token_ms = report.answer.map(|answer| answer.first_ms.round() as u32);
    let latency = match finish {
        Finish::Failed => Some(0),
        _ => first_token_ms.map(qos::latency),
    };
    let broken = matches!(report.ended, Ended::BadReceipt(_));
    let job = OwnJob {
        job: Digest::of(quote.as_bytes()),
        total: report.paid.0,
        latency,
        verified: broken.then_some(false),
    };
    shared.reputation.job(provider, job, now_ms);
    let Some((served, total_ms)) = report.served.clone().filter(|_| shared.config.share_observations) else {
        return;
    };
    let observation = Observation {
        served,
        first_token_ms: first_token_ms.filter(|first| *first <= total_ms),
        speed: report.answer.and_then(|answer| answer.speed),
        total_ms,
        finish,
        verified: job.verified.or_else(|| shared.reputation.last_verified(&provider, now_ms)),
        uptime: shared.reputation.uptime(&provider, now_ms),
        issued_ms: now_ms,
    };
    let signed = match aitbc_crypto::seal(&shared.key, &shared.config.network, &observation) {
        Ok(signed) => signed,
        Err(error) => return tracing::warn!(%error, "an observation cannot be signed"),
    };
    let topic = cell.coarsened(cell.precision().min(FINEST_TOPIC));
    match shared.network.publish(topic, &Gossip::Observation(signed)).await {
        Ok(true) => {}
        Ok(false) => {
            tracing::debug!(%topic, "nobody who hears that cell is connected: the observation stays here");
        }
        Err(error) => tracing::debug!(%error, "an observation was not published"),
    }
}

/// Keeps what observations are weighed by current, for as long as it is polled.
pub(super) async fn refresh(shared: Arc<Shared>) {
    let mut due = interval(REFRESH);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        match shared.ledger.dealt().await {
            Ok(dealt) => shared.reputation.refresh(dealt, now_ms()),
            Err(error) => {
                tracing::warn!(%error, "cannot read what was settled: observations keep their old weights");
            }
        }
    }
}

/// One offer of a model, as others are compared with it.
#[derive(Clone, Copy, Debug)]
struct Neighbour {
    provider: NodeId,
    /// Micro-credits for a thousand tokens of the answer.
    price: u64,
    /// Micro-tokens a joule by the provider's word; `None` where it is not known.
    rate: Option<u64>,
}

/// Offers by the weights they serve.
#[derive(Debug, Default)]
pub(super) struct Neighbours(HashMap<Digest, Vec<Neighbour>>);

impl Neighbours {
    /// Sums up what is offered now.
    pub(super) fn new(snapshot: &OffersSnapshot) -> Self {
        let mut all: HashMap<Digest, Vec<Neighbour>> = HashMap::new();
        for known in snapshot.offers.iter().take(MAX_COMPARED) {
            for model in known.offer.models.iter().filter(|model| !model.declared) {
                let (price, rate) = (model.price.completion.0, tokens_a_joule(model));
                all.entry(model.weights).or_default().push(Neighbour { provider: known.provider, price, rate });
            }
        }
        Self(all)
    }

    /// How a provider's first model compares with what others ask and reach for the same weights.
    fn beside(&self, known: &KnownOffer, verified: bool) -> Beside {
        let Some(model) = known.offer.models.iter().find(|model| !model.declared) else {
            return Beside::default();
        };
        let others = self.0.get(&model.weights).map(Vec::as_slice).unwrap_or_default();
        let others = || others.iter().filter(|other| other.provider != known.provider);
        let prices: Vec<u64> = others().map(|other| other.price).collect();
        let rates: Vec<u64> = others().filter_map(|other| other.rate).collect();
        Beside {
            power: tokens_a_joule(model).and_then(|own| power_efficiency(own, &rates, verified)),
            cost: cost_efficiency(model.price.completion.0, &prices),
        }
    }
}

/// Micro-tokens a joule: the speed that the provider tells, over the watts that the GPU that it names is built to take.
fn tokens_a_joule(model: &ModelOffer) -> Option<u64> {
    if model.device.kind != DeviceKind::Gpu || model.speed == 0 {
        return None;
    }
    let memory_bytes = (model.device.memory_bytes > 0).then_some(model.device.memory_bytes);
    let reported = Reported { name: model.device.name.as_str(), pci: None, memory_bytes };
    let Classified::Gpu { best, .. } = classify(&reported) else { return None };
    let watts = best.profile.tdp_watts.filter(|watts| *watts > 0)?;
    Some(u64::from(model.speed) * 1_000 / u64::from(watts))
}

/// Whether somebody whose word counts here has verified the hardware that a provider names.
fn is_verified(shared: &Shared, known: &KnownOffer, now_ms: UnixMillis) -> bool {
    let standing = shared.trust.standing(known.provider, &known.offer.attested, now_ms);
    standing.tier == Tier::Affirming || shown_bytes(&known.offer.shown, |signer| shared.trust.believes(signer)) > 0
}

/// What a provider's last day says to a ranking.
pub(super) fn quality(
    shared: &Shared,
    neighbours: &Neighbours,
    known: &KnownOffer,
    now_ms: UnixMillis,
) -> Quality {
    let beside = || neighbours.beside(known, is_verified(shared, known, now_ms));
    shared.reputation.quality(known.provider, beside, now_ms)
}

/// What is known of a provider, or of everybody who offers something or of whom something is known, the best first.
pub(super) fn reports(shared: &Shared, provider: Option<NodeId>) -> Vec<reputation::Report> {
    let now_ms = now_ms();
    let snapshot = shared.book.snapshot();
    let neighbours = Neighbours::new(&snapshot);
    let offers: HashMap<NodeId, &KnownOffer> =
        snapshot.offers.iter().chain(&snapshot.silent).map(|known| (known.provider, known)).collect();
    let report = |provider: NodeId| {
        let known = offers.get(&provider);
        let beside = known.map(|known| neighbours.beside(known, is_verified(shared, known, now_ms)));
        shared.reputation.report(provider, beside.unwrap_or_default(), now_ms)
    };
    if let Some(provider) = provider {
        return vec![report(provider)];
    }
    let mut providers = shared.reputation.providers();
    providers.extend(offers.keys().copied());
    providers.remove(&shared.key.node_id());
    let mut all: Vec<reputation::Report> = providers.into_iter().map(report).collect();
    all.sort_by_key(|report| (std::cmp::Reverse(report.rating.score), report.provider));
    all
}
