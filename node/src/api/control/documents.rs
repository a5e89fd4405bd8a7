//! The JSON documents of the control API. Each names its schema; fields are only ever added to one.

use super::attestation::OwnStatus;
use crate::{
    bandwidth::Measurement,
    engine::EngineStatus,
    jobs::{JobsSnapshot, Requests},
    market::Totals,
    network::{NetworkReport, PeerInfo, Reachability, TrafficRates},
    reputation::Report,
    routing::{CloudJob, CloudStatus, Decisions, RankedCandidate},
    storage::{JobRecord, Side},
};
use aitbc_protocol::{
    Digest, JobId, MicroCredits, NetworkId, NodeId, Nonce, UnixMillis,
    competition::Comparison,
    coordinates::Coordinate,
    geo::Cell,
    gpu::seen::Seen,
    job::{Finish, JobState, ModelName},
    offer::{KnownOffer, Load, Offer},
    receipt::Receipt,
    routing::regions::Region,
    text::Line,
};
use serde::Serialize;
use std::sync::Arc;

/// `aitbc.status/1`
#[derive(Debug, Serialize)]
pub(super) struct Status {
    pub(super) schema: &'static str,
    pub(super) version: &'static str,
    pub(super) node: NodeId,
    pub(super) network: NetworkId,
    pub(super) uptime_ms: u64,
    /// Where this API is.
    pub(super) api: String,
    pub(super) listening: Vec<String>,
    /// Under which others can reach this node, best first.
    pub(super) addresses: Vec<String>,
    pub(super) reachability: Reachability,
    /// Connected peers.
    pub(super) peers: usize,
    /// Bytes a second, now.
    pub(super) traffic: TrafficRates,
    /// What was measured of this node's line; `null` where nothing was.
    pub(super) line: Option<Measurement>,
    /// Where this node is among round trips; `null` while it does not know.
    pub(super) coordinate: Option<Coordinate>,
    /// Live offers known.
    pub(super) offers: usize,
    /// What others have signed about its hardware: `none` where nobody did.
    pub(super) attestation: OwnStatus,
    /// The cloud of the settings since this node started; `null` where they name none.
    pub(super) cloud: Option<CloudStatus>,
    /// The provider side; `null` on nodes without one.
    pub(super) provider: Option<ProviderStatus>,
    pub(super) totals: Totals,
}

/// The provider side in `aitbc.status/1`.
#[derive(Debug, Serialize)]
pub(super) struct ProviderStatus {
    #[serde(flatten)]
    pub(super) jobs: Arc<JobsSnapshot>,
    pub(super) engines: Arc<Vec<EngineStatus>>,
}

/// `aitbc.peers/1`
#[derive(Debug, Serialize)]
pub(super) struct PeerList {
    pub(super) schema: &'static str,
    pub(super) peers: Arc<Vec<PeerInfo>>,
}

/// `aitbc.netcheck/1`
#[derive(Debug, Serialize)]
pub(super) struct Netcheck {
    pub(super) schema: &'static str,
    /// The verdict for people.
    pub(super) sentence: String,
    #[serde(flatten)]
    pub(super) report: NetworkReport,
}

/// `aitbc.bandwidth/1`
#[derive(Debug, Serialize)]
pub(super) struct Bandwidth {
    pub(super) schema: &'static str,
    #[serde(flatten)]
    pub(super) measured: Measurement,
}

/// `aitbc.offers/1`
#[derive(Debug, Serialize)]
pub(super) struct OfferList {
    pub(super) schema: &'static str,
    pub(super) offers: Vec<OfferSummary>,
}

/// `aitbc.seen/1`
#[derive(Debug, Serialize)]
pub(super) struct SeenList {
    pub(super) schema: &'static str,
    pub(super) seen: Vec<Seen>,
}

/// `aitbc.competition/1`: why this provider gets no more jobs.
#[derive(Debug, Serialize)]
pub(super) struct Competition {
    pub(super) schema: &'static str,
    /// The cell of its offer.
    pub(super) cell: Option<Cell>,
    /// Why there is no offer, or what keeps work away.
    pub(super) waiting_for: Option<String>,
    pub(super) load: Load,
    pub(super) requests: Requests,
    /// How its offer stands beside the others of the cell; nothing while there is none.
    pub(super) comparison: Option<Comparison>,
}

/// `aitbc.reputation/1`
#[derive(Debug, Serialize)]
pub(super) struct ReputationList {
    pub(super) schema: &'static str,
    /// The best first.
    pub(super) providers: Vec<Report>,
}

/// `aitbc.regions/1`
#[derive(Debug, Serialize)]
pub(super) struct RegionList {
    pub(super) schema: &'static str,
    /// Of the cells; offers of coarser ones stand in their own.
    pub(super) precision: u8,
    /// Those with the most free slots first.
    pub(super) regions: Vec<RegionSummary>,
}

/// What is on offer in one cell.
#[derive(Debug, Serialize)]
pub(super) struct RegionSummary {
    #[serde(flatten)]
    pub(super) region: Region,
    /// Least distance from this node.
    pub(super) distance_km: f64,
}

/// One live offer.
#[derive(Debug, Serialize)]
pub(super) struct OfferSummary {
    provider: NodeId,
    load: Load,
    heard_ms: UnixMillis,
    offer: Arc<Offer>,
}

impl From<&KnownOffer> for OfferSummary {
    fn from(known: &KnownOffer) -> Self {
        let KnownOffer { provider, offer, load, heard_ms } = known.clone();
        Self { provider, load, heard_ms, offer }
    }
}

/// `aitbc.jobs/1`
#[derive(Debug, Serialize)]
pub(super) struct JobList {
    pub(super) schema: &'static str,
    pub(super) jobs: Vec<JobSummary>,
    /// Those that went to the cloud of the settings since this node started.
    pub(super) cloud: Vec<CloudJob>,
}

/// One attempt at a job with one peer.
#[derive(Debug, Serialize)]
pub(super) struct JobSummary {
    side: Side,
    peer: NodeId,
    job: JobId,
    /// Nonce of the quote; `null` where the record cannot be read.
    quote: Option<Nonce>,
    model: ModelName,
    state: JobState,
    finish: Option<Finish>,
    failure: Option<Line<160>>,
    tokens: u32,
    paid: MicroCredits,
    /// Id of the receipt, once there is one.
    receipt: Option<Digest>,
    created_ms: UnixMillis,
    updated_ms: UnixMillis,
}

impl From<&JobRecord> for JobSummary {
    fn from(record: &JobRecord) -> Self {
        Self {
            side: record.side,
            peer: record.peer,
            job: record.job,
            quote: record.key().ok(),
            model: record.model.clone(),
            state: record.state,
            finish: record.finish,
            failure: record.failure.clone(),
            tokens: record.tokens,
            paid: record.paid,
            receipt: record.receipt.as_ref().map(aitbc_protocol::Signed::digest),
            created_ms: record.created_ms,
            updated_ms: record.updated_ms,
        }
    }
}

/// `aitbc.decisions/1`
#[derive(Debug, Serialize)]
pub(super) struct DecisionList {
    pub(super) schema: &'static str,
    #[serde(flatten)]
    pub(super) decisions: Decisions,
}

/// `aitbc.receipts/1`
#[derive(Debug, Serialize)]
pub(super) struct ReceiptList {
    pub(super) schema: &'static str,
    pub(super) receipts: Vec<ReceiptSummary>,
}

/// One receipt, read.
#[derive(Debug, Serialize)]
pub(super) struct ReceiptSummary {
    id: Digest,
    side: Side,
    peer: NodeId,
    state: JobState,
    paid: MicroCredits,
    receipt: Receipt,
}

impl ReceiptSummary {
    /// The receipt of a record, if it has one that reads.
    pub(super) fn of(record: &JobRecord) -> Option<Self> {
        let signed = record.receipt.as_ref()?;
        Some(Self {
            id: signed.digest(),
            side: record.side,
            peer: record.peer,
            state: record.state,
            paid: record.paid,
            // It was verified before it was stored.
            receipt: signed.read_unverified().ok()?,
        })
    }
}

/// First line of a job's updates.
#[derive(Debug, Serialize)]
pub(super) struct JobHeader {
    pub(super) event: &'static str,
    pub(super) schema: &'static str,
    pub(super) job: JobId,
}

/// Last line of a search.
#[derive(Debug, Serialize)]
pub(super) struct RankingFooter {
    pub(super) event: &'static str,
    pub(super) schema: &'static str,
    pub(super) candidates: Vec<RankedCandidate>,
}

/// Last line of a challenge or an attestation.
#[derive(Debug, Serialize)]
pub(super) struct FindingFooter<F> {
    pub(super) event: &'static str,
    pub(super) schema: &'static str,
    #[serde(flatten)]
    pub(super) finding: F,
}

/// The same where nothing was found out.
#[derive(Debug, Serialize)]
pub(super) struct NothingFound {
    pub(super) event: &'static str,
    pub(super) message: String,
}

/// `aitbc.shutdown/1`
#[derive(Debug, Serialize)]
pub(super) struct Stopping {
    pub(super) schema: &'static str,
    pub(super) stopping: bool,
}
