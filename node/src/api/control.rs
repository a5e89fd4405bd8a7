//! The control API under `/aitbc/v1`, which the command line speaks: what the node does, jobs with everything that
//! happens to them, the end.

use super::{
    ApiState,
    body::{Gone, Payload, Writer, streamed},
    error::Failure,
};
use crate::{
    challenge::{ChallengeError, Finding},
    market,
    routing::{JobRequest, JobUpdate, RankedCandidate, RunningRequest, Sought},
};
use aitbc_protocol::{
    Digest, NodeId,
    coordinates::Coordinate,
    geo::{COARSEST, DEFAULT_PRECISION, FINEST, Location},
    job::ModelName,
    receipt::ReceiptFile,
    routing::query::Conditions,
};
use axum::{
    Json, Router,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use documents::{
    Bandwidth, Competition, DecisionList, FindingFooter, JobHeader, JobList, JobSummary, Netcheck, NothingFound,
    OfferList, OfferSummary, PeerList, ProviderStatus, RankingFooter, ReceiptList, ReceiptSummary, RegionList,
    RegionSummary, ReputationList, SeenList, Status, Stopping,
};
use serde::{Deserialize, Serialize};
use std::future::Future;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

mod attestation;
mod documents;
mod money;
#[cfg(test)]
mod tests;

/// Entries of a list where the request does not say.
const USUAL_LIMIT: usize = 20;
/// Most entries of a list.
const MAX_LIMIT: usize = 1000;
/// Updates of a search that wait for the connection.
const UPDATES: usize = 64;

/// The routes.
pub(super) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/aitbc/v1/status", get(status))
        .route("/aitbc/v1/peers", get(peers))
        .route("/aitbc/v1/netcheck", get(netcheck))
        .route("/aitbc/v1/ping", post(ping))
        .route("/aitbc/v1/bandwidth", post(bandwidth))
        .route("/aitbc/v1/offers", get(offers))
        .route("/aitbc/v1/seen", get(seen))
        .route("/aitbc/v1/competition", get(competition))
        .route("/aitbc/v1/reputation", get(reputation))
        .route("/aitbc/v1/regions", get(regions))
        .route("/aitbc/v1/jobs", get(jobs).post(submit))
        .route("/aitbc/v1/decisions", get(decisions))
        .route("/aitbc/v1/receipts", get(receipts))
        .route("/aitbc/v1/receipts/{id}", get(receipt))
        .route("/aitbc/v1/ledger", get(money::accounts))
        .route("/aitbc/v1/ledger/export", get(money::export))
        .route("/aitbc/v1/ledger/settle", post(money::settle))
        .route("/aitbc/v1/ledger/{peer}", get(money::account))
        .route("/aitbc/v1/earnings", get(money::earnings))
        .route("/aitbc/v1/find", post(find))
        .route("/aitbc/v1/challenge", post(challenge))
        .route("/aitbc/v1/attest", get(attestation::attestations).post(attestation::attest))
        .route("/aitbc/v1/shutdown", post(shutdown))
}

async fn status(State(state): State<ApiState>) -> Result<Json<Status>, Failure> {
    let parts = state.parts();
    let network = &parts.network;
    let engines = parts.engine.as_ref().map(|engine| engine.status().borrow().clone());
    let jobs = parts.jobs.as_ref().map(crate::jobs::JobsHandle::snapshot);
    let provider = (engines.is_some() || jobs.is_some())
        .then(|| ProviderStatus { jobs: jobs.unwrap_or_default(), engines: engines.unwrap_or_default() });
    let text = |addresses: &[libp2p::Multiaddr]| addresses.iter().map(ToString::to_string).collect();
    let totals = parts.ledger.totals().await?;
    Ok(Json(Status {
        schema: "aitbc.status/1",
        version: env!("CARGO_PKG_VERSION"),
        node: network.local_id(),
        network: parts.network_id.clone(),
        uptime_ms: u64::try_from(state.uptime().as_millis()).unwrap_or(u64::MAX),
        api: format!("http://{}", state.address()),
        listening: text(&network.listening().borrow()),
        addresses: text(&network.addresses().borrow()),
        reachability: network.reachability().borrow().clone(),
        peers: network.peers().borrow().len(),
        traffic: *network.traffic().borrow(),
        line: parts.meter.last(),
        coordinate: Some(parts.routing.place().borrow().tell()).filter(Coordinate::is_known),
        offers: parts.routing.offers().offers.len(),
        attestation: attestation::status(&state),
        cloud: parts.routing.cloud(),
        provider,
        totals,
    }))
}

async fn peers(State(state): State<ApiState>) -> Json<PeerList> {
    let peers = state.parts().network.peers().borrow().clone();
    Json(PeerList { schema: "aitbc.peers/1", peers })
}

async fn netcheck(State(state): State<ApiState>) -> Result<Json<Netcheck>, Failure> {
    let report = state.parts().network.report().await.map_err(|error| Failure::internal(error.to_string()))?;
    Ok(Json(Netcheck { schema: "aitbc.netcheck/1", sentence: crate::netcheck::sentence(&report), report }))
}

/// The body of `POST /aitbc/v1/ping`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PingRequest {
    peer: NodeId,
}

async fn ping(State(state): State<ApiState>, body: Payload) -> Result<Json<crate::netcheck::Ping>, Failure> {
    let PingRequest { peer } = body.json()?;
    let _place = state.place()?;
    let answer = crate::netcheck::ping(&state.parts().network, peer).await;
    answer.map(Json).map_err(|error| Failure::unreachable(error.to_string()))
}

/// The body of `POST /aitbc/v1/bandwidth`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BandwidthRequest {
    peer: Option<NodeId>,
}

async fn bandwidth(State(state): State<ApiState>, body: Payload) -> Result<Json<Bandwidth>, Failure> {
    let BandwidthRequest { peer } = body.json()?;
    let _place = state.place()?;
    let measured = state.parts().meter.measure(peer).await;
    let measured = measured.map_err(|error| Failure::unreachable(error.to_string()))?;
    Ok(Json(Bandwidth { schema: "aitbc.bandwidth/1", measured }))
}

async fn offers(State(state): State<ApiState>) -> Json<OfferList> {
    let offers = state.parts().routing.offers().offers.iter().map(OfferSummary::from).collect();
    Json(OfferList { schema: "aitbc.offers/1", offers })
}

async fn seen(State(state): State<ApiState>) -> Json<SeenList> {
    Json(SeenList { schema: "aitbc.seen/1", seen: state.parts().routing.seen() })
}

async fn competition(State(state): State<ApiState>) -> Result<Json<Competition>, Failure> {
    let parts = state.parts();
    // Every node has the provider's side; without an engine it has nothing to do.
    let engines = parts.engine.as_ref().is_some_and(|engine| !engine.status().borrow().is_empty());
    let Some(jobs) = parts.jobs.as_ref().filter(|_| engines) else {
        return Err(Failure::not_found(
            "not_providing",
            "this node provides nothing: start it with `aitbc up --provide`",
        ));
    };
    let snapshot = jobs.snapshot();
    let load = *jobs.load().borrow();
    let comparison = match &snapshot.offer {
        Some(offer) => Some(parts.routing.competition(offer, load).await),
        None => None,
    };
    Ok(Json(Competition {
        schema: "aitbc.competition/1",
        cell: snapshot.offer.as_ref().map(|offer| offer.cell),
        waiting_for: snapshot.waiting_for.clone(),
        load,
        requests: jobs.requests(),
        comparison,
    }))
}

/// `?peer=`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfPeer {
    peer: Option<NodeId>,
}

async fn reputation(
    State(state): State<ApiState>,
    query: Result<Query<OfPeer>, QueryRejection>,
) -> Result<Json<ReputationList>, Failure> {
    let Query(OfPeer { peer }) = query.map_err(|rejection| Failure::malformed(rejection.body_text()))?;
    let providers = state.parts().routing.reputation(peer);
    Ok(Json(ReputationList { schema: "aitbc.reputation/1", providers }))
}

/// `?precision=`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Precision {
    precision: Option<u8>,
}

async fn regions(
    State(state): State<ApiState>,
    query: Result<Query<Precision>, QueryRejection>,
) -> Result<Json<RegionList>, Failure> {
    let Query(Precision { precision }) = query.map_err(|rejection| Failure::malformed(rejection.body_text()))?;
    let precision = precision.unwrap_or(DEFAULT_PRECISION);
    if !(COARSEST..=FINEST).contains(&precision) {
        let message = format!("precision is {precision}, allowed is {COARSEST} to {FINEST}");
        return Err(Failure::invalid("precision", message));
    }
    let regions = state.parts().routing.regions(precision).into_iter();
    let regions = regions.map(|(region, distance_km)| RegionSummary { region, distance_km }).collect();
    Ok(Json(RegionList { schema: "aitbc.regions/1", precision, regions }))
}

/// `?limit=`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Limit {
    limit: Option<usize>,
}

fn limit(query: Result<Query<Limit>, QueryRejection>) -> Result<usize, Failure> {
    let Query(Limit { limit }) = query.map_err(|rejection| Failure::malformed(rejection.body_text()))?;
    match limit.unwrap_or(USUAL_LIMIT) {
        limit if (1..=MAX_LIMIT).contains(&limit) => Ok(limit),
        limit => Err(Failure::invalid("limit", format!("limit is {limit}, allowed is 1 to {MAX_LIMIT}"))),
    }
}

async fn jobs(
    State(state): State<ApiState>,
    query: Result<Query<Limit>, QueryRejection>,
) -> Result<Json<JobList>, Failure> {
    let limit = limit(query)?;
    let records = state.parts().ledger.jobs(limit).await?;
    Ok(Json(JobList {
        schema: "aitbc.jobs/1",
        jobs: records.iter().map(JobSummary::from).collect(),
        cloud: state.parts().routing.cloud_jobs(limit),
    }))
}

async fn decisions(
    State(state): State<ApiState>,
    query: Result<Query<Limit>, QueryRejection>,
) -> Result<Json<DecisionList>, Failure> {
    let decisions = state.parts().routing.decisions(limit(query)?);
    Ok(Json(DecisionList { schema: "aitbc.decisions/1", decisions }))
}

async fn receipts(
    State(state): State<ApiState>,
    query: Result<Query<Limit>, QueryRejection>,
) -> Result<Json<ReceiptList>, Failure> {
    let records = state.parts().ledger.receipts(limit(query)?).await?;
    let receipts = records.iter().filter_map(ReceiptSummary::of).collect();
    Ok(Json(ReceiptList { schema: "aitbc.receipts/1", receipts }))
}

async fn receipt(State(state): State<ApiState>, Path(id): Path<String>) -> Result<Json<ReceiptFile>, Failure> {
    let id: Digest = id.parse().map_err(|error| Failure::invalid("id", format!("id of a receipt: {error}")))?;
    let parts = state.parts();
    let record = parts.ledger.receipt(id).await?;
    record
        .and_then(|record| market::receipt_file(&record, &parts.network_id))
        .map(Json)
        .ok_or_else(|| Failure::not_found("receipt_not_found", format!("this node holds no receipt {id}")))
}

/// The body of `POST /aitbc/v1/find`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FindRequest {
    model: Option<ModelName>,
    location: Option<Location>,
    latency_budget_ms: Option<u32>,
    /// Conditions, such as `vram>=16 price<0.4`.
    query: Option<String>,
}

async fn find(State(state): State<ApiState>, body: Payload) -> Result<Response, Failure> {
    let FindRequest { model, location, latency_budget_ms, query } = body.json()?;
    let conditions = query.unwrap_or_default().parse::<Conditions>();
    let conditions = conditions.map_err(|error| Failure::invalid("query", error.to_string()))?;
    let location = location
        .map(|place| Location::new(place.latitude, place.longitude))
        .transpose()
        .map_err(|error| Failure::invalid("location", error.to_string()))?;
    let place = state.place()?;
    let routing = state.parts().routing.clone();
    let (sender, updates) = mpsc::channel(UPDATES);
    let sought = Sought { model, location, latency_budget_ms, conditions };
    let search = async move { routing.find(sought, sender).await };
    Ok(ndjson(streamed(tracing::info_span!("api_find"), |writer| write_search(writer, search, updates, place))))
}

/// Writes what a search tells, then its ranking. Dropping it ends the search.
async fn write_search(
    writer: Writer,
    search: impl Future<Output = Vec<RankedCandidate>>,
    mut updates: mpsc::Receiver<JobUpdate>,
    _place: OwnedSemaphorePermit,
) -> Result<(), Gone> {
    let forward = async {
        while let Some(update) = updates.recv().await {
            writer.line(&update).await?;
        }
        Ok(())
    };
    let (candidates, ()) = tokio::try_join!(async { Ok(search.await) }, forward)?;
    writer.line(&RankingFooter { event: "ranking", schema: "aitbc.ranking/1", candidates }).await
}

/// The body of `POST /aitbc/v1/challenge`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChallengeRequest {
    peer: NodeId,
}

async fn challenge(State(state): State<ApiState>, body: Payload) -> Result<Response, Failure> {
    let ChallengeRequest { peer } = body.json()?;
    let place = state.place()?;
    let parts = state.parts();
    let known = parts.routing.offers().offers.iter().find(|known| known.provider == peer).cloned();
    let known =
        known.ok_or_else(|| Failure::unreachable(ChallengeError::NoOffer(peer.to_string()).to_string()))?;
    let (challenger, routing) = (parts.challenger.clone(), parts.routing.clone());
    let (sender, steps) = mpsc::channel(UPDATES);
    let exchange = async move {
        let found = challenger.challenge(peer, known.offer.cell, &sender).await;
        if let Some(shown) = found.as_ref().ok().and_then(Finding::verdict) {
            routing.found(peer, shown);
        }
        if let Some(evidence) = found.as_ref().ok().and_then(Finding::evidence) {
            routing.accuse(evidence);
        }
        found
    };
    Ok(ndjson(streamed(tracing::info_span!("api_challenge"), |writer| {
        write_exchange(writer, "aitbc.challenge/1", exchange, steps, place)
    })))
}

/// Writes where an exchange with a peer stands, then what it found, under `schema`. Dropping it ends the exchange.
async fn write_exchange<F: Serialize, E: std::fmt::Display>(
    writer: Writer,
    schema: &'static str,
    exchange: impl Future<Output = Result<F, E>>,
    mut steps: mpsc::Receiver<impl Serialize>,
    _place: OwnedSemaphorePermit,
) -> Result<(), Gone> {
    let forward = async {
        while let Some(step) = steps.recv().await {
            writer.line(&step).await?;
        }
        Ok(())
    };
    let (found, ()) = tokio::try_join!(async { Ok(exchange.await) }, forward)?;
    match found {
        Ok(finding) => writer.line(&FindingFooter { event: "finding", schema, finding }).await,
        Err(error) => writer.line(&NothingFound { event: "failed", message: error.to_string() }).await,
    }
}

async fn submit(State(state): State<ApiState>, body: Payload) -> Result<Response, Failure> {
    let request: JobRequest = body.json()?;
    request.spec.validate().map_err(|error| Failure::spec(&error, "spec.input", "spec.max_tokens"))?;
    let place = state.place()?;
    Ok(follow(state.parts().routing.submit(request), place))
}

/// Answers with all updates of a job, one a line. The body owns the job: a connection that closes cancels it.
pub(super) fn follow(running: RunningRequest, place: OwnedSemaphorePermit) -> Response {
    let span = tracing::info_span!("api_job", job = %running.job);
    ndjson(streamed(span, |writer| write_job(writer, running, place)))
}

async fn write_job(writer: Writer, mut running: RunningRequest, _place: OwnedSemaphorePermit) -> Result<(), Gone> {
    writer.line(&JobHeader { event: "job", schema: "aitbc.job/1", job: running.job }).await?;
    while let Some(update) = running.updates.recv().await {
        writer.line(&update).await?;
        if matches!(update, JobUpdate::Finished { .. } | JobUpdate::Failed(_)) {
            break;
        }
    }
    Ok(())
}

pub(super) fn ndjson(body: axum::body::Body) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"))], body).into_response()
}

async fn shutdown(State(state): State<ApiState>) -> impl IntoResponse {
    tracing::info!("asked to stop through the API");
    state.parts().stop.cancel();
    (StatusCode::ACCEPTED, Json(Stopping { schema: "aitbc.shutdown/1", stopping: true }))
}
