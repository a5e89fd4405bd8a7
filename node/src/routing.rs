//! Client side: who could do a job, who is asked, and what happens when one fails.
//!
//! ```text
//!   gossip -> offers (the book)         submit -> dispatch -> search -> candidates   who, nearest first, ranked
//!               ^        |                          |-------> quotes                 the prompt goes to these only
//!               |        v                          |-------> attempt + payments     one provider, one stream
//!             fetch   snapshot                      |-------> local                  the own device
//!
//!   offer_streams: what the book holds, for others       settle: what crashes and lost paths left open
//! ```
//!
//! A prompt leaves this node only towards providers that are asked for a quote, [`RoutingConfig::quotes`] at a time,
//! and towards the one that then answers; where that one is late, also towards others ([`RoutingConfig::hedge`]), one at
//! a time, until one of them quotes. Searching tells others a cell and a provider's name, nothing of the job.

mod active;
mod attempt;
mod book;
mod candidates;
mod catch_up;
mod cloud;
mod competition;
mod coordinates;
mod decisions;
mod dispatch;
mod experience;
mod fetch;
mod find;
#[cfg(test)]
mod fixtures;
mod local;
mod metrics;
mod observing;
pub(crate) mod offer_streams;
mod offers;
mod pace;
mod paths;
mod payments;
mod quotes;
mod request;
mod search;
mod seen;
mod settle;
mod shown;
mod subscriptions;
mod verification;
mod witness;

pub use cloud::{Cloud, CloudConfig, CloudEnd, CloudError, CloudJob, CloudPrice, CloudStatus};
pub use decisions::{Came, Chosen, Decision, Decisions, End as DecisionEnd, Prediction};
pub(crate) use find::PrivateGoal;
pub use find::Sought;
pub use request::{JobFailure, JobRequest, JobUpdate, RankedCandidate, RuledOut, RunningRequest, Wishes};
pub use shown::ShownBy;

use crate::{
    clock::now_ms,
    draw::draw,
    engine::EngineHandle,
    market::Ledger,
    network::{GossipMessage, IncomingStream, NetworkHandle, intake},
    reputation::{self, Reputation},
    storage::Store,
    telemetry::Metrics,
    trust::{Trust, zero_knowledge::ZeroKnowledge},
};
use aitbc_crypto::SecretKey;
use aitbc_protocol::{
    JobId, NetworkId, NodeId,
    competition::Comparison,
    coordinates::Place,
    evidence::Evidence,
    geo::{Cell, Location},
    gpu::seen::Seen,
    offer::{KnownOffer, Load, Offer, Statements},
    price::{median_utilisation, share},
    routing::{
        fallback::Fallback,
        preference::Preference,
        regions::{Region, regions},
    },
};
use futures::FutureExt as _;
use std::{collections::HashSet, sync::Arc};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

/// How the client side is started.
#[derive(Clone, Debug)]
pub struct RoutingConfig {
    /// Whose statements count.
    pub network: NetworkId,
    /// Where this node is; searches start here.
    pub location: Location,
    /// Providers asked for a quote at the same time; each of them sees the prompt.
    pub quotes: u32,
    /// Candidates after which a search stops.
    pub enough: usize,
    /// When jobs that do not say go to the cloud.
    pub fallback: Fallback,
    /// What decides among the providers of jobs that do not say.
    pub preference: Preference,
    /// Whether a second provider is asked beside one whose first token is late.
    pub hedge: bool,
    /// Whether neighbours of a provider are told how its jobs for this node went.
    pub share_observations: bool,
}

/// Providers known to this node.
#[derive(Clone, Debug, Default)]
pub struct OffersSnapshot {
    /// Live offers, in the order of their ids from this node's on: heard of within the last 90 s.
    pub offers: Vec<KnownOffer>,
    /// Offers that still stand while their provider was silent for longer: it is asked before it is counted on.
    pub silent: Vec<KnownOffer>,
    /// Providers that were not known before the DHT or a person named them; all others came by gossip.
    pub searched: HashSet<NodeId>,
}

/// Updates of one job that wait for their reader; a full queue slows the job.
const UPDATES: usize = 64;
/// DHT lookups of all searches at a time: below what the network runs, which has its own.
const MAX_LOOKUPS: usize = 48;
/// Jobs that run at a time.
const MAX_JOBS: usize = 256;

/// What all parts of the client side share.
#[derive(Debug)]
struct Shared {
    config: RoutingConfig,
    key: SecretKey,
    network: NetworkHandle,
    engine: Option<EngineHandle>,
    ledger: Ledger,
    book: offers::BookHandle,
    trust: Trust,
    zero_knowledge: Option<Arc<ZeroKnowledge>>,
    cloud: Option<Cloud>,
    experience: experience::Experience,
    reputation: Reputation,
    searches: search::SearchMemory,
    decisions: decisions::DecisionLog,
    active: active::Active,
    coordinates: coordinates::Coordinates,
    settle: settle::Wake,
    metrics: metrics::RoutingMetrics,
    jobs: Arc<Semaphore>,
    /// Bounds the DHT lookups of all searches together.
    lookups: Semaphore,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// The client side. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Routing(Arc<Shared>);

impl Routing {
    /// Starts a job. Returns at once; everything else comes as updates. Must be called within a tokio runtime.
    pub fn submit(&self, request: JobRequest) -> RunningRequest {
        let job = JobId(draw());
        let (updates, receiver) = mpsc::channel(UPDATES);
        let shared = self.0.clone();
        if let Ok(permit) = shared.jobs.clone().try_acquire_owned() {
            let span = tracing::info_span!("job", %job);
            let run = async move {
                dispatch::run(&shared, job, request, updates).await;
                drop(permit);
            };
            self.0.tasks.spawn(run.instrument(span));
        } else {
            let message = format!("{MAX_JOBS} jobs run already: wait for one to end");
            let failure = JobUpdate::Failed(JobFailure::Failed { message });
            updates.try_send(failure).expect("a new queue has room for one update");
        }
        RunningRequest { job, updates: receiver }
    }

    /// Looks for providers, and ranks them.
    pub async fn find(&self, sought: Sought, updates: mpsc::Sender<JobUpdate>) -> Vec<RankedCandidate> {
        find::find(&self.0, sought, &updates).await
    }

    /// What is on offer by cells of `precision`, as far as this node has heard, and how far each is from this node in km.
    pub fn regions(&self, precision: u8) -> Vec<(Region, f64)> {
        let snapshot = self.0.book.snapshot();
        let here = self.0.config.location;
        let distant = |region: Region| {
            let km = region.cell.distance_km(&here);
            (region, km)
        };
        regions(&snapshot.offers, precision).into_iter().map(distant).collect()
    }

    /// Looks for providers of a private job, and ranks those that its wishes allow: at least one, best first, or why there
    /// is none.
    pub(crate) async fn find_private(
        &self,
        wanted: &PrivateGoal<'_>,
        updates: &mpsc::Sender<JobUpdate>,
    ) -> Result<Vec<RankedCandidate>, JobFailure> {
        find::find_private(&self.0, wanted, updates).await
    }

    /// Takes down what a challenge of `provider` has found: a late or wrong answer weighs as a failed job.
    pub fn found(&self, provider: NodeId, shown: bool) {
        self.0.experience.note(provider, shown, now_ms());
        self.0.reputation.verified(provider, shown, now_ms());
    }

    /// Hands over what seems to be evidence against a node. A wrong answer to a challenge must have been recomputed.
    pub fn accuse(&self, evidence: Evidence) {
        self.0.book.accuse(evidence);
    }

    /// What is known of the last day of a provider, or of everybody of whom something is known.
    pub fn reputation(&self, provider: Option<NodeId>) -> Vec<reputation::Report> {
        observing::reports(&self.0, provider)
    }

    /// What providers are like by device and region, as this node measured it or was told.
    pub fn seen(&self) -> Vec<Seen> {
        seen::seen(&self.0)
    }

    /// How `offer`, this node's own, stands beside those of the others in its cell, with so much to do.
    pub async fn competition(&self, offer: &Offer, load: Load) -> Comparison {
        competition::competition(&self.0, offer, load).await
    }

    /// The median of what other providers in `cell` use of their slots, in millionths; `None` where too few are heard.
    pub fn cell_utilisation(&self, cell: &Cell) -> Option<u32> {
        let (snapshot, me) = (self.0.book.snapshot(), self.0.key.node_id());
        let others = snapshot.offers.iter().filter(|known| known.provider != me && known.offer.cell == *cell);
        let taken = |known: &KnownOffer| known.load.running.saturating_add(known.load.queued);
        median_utilisation(others.map(|known| share(taken(known), known.offer.slots)).collect())
    }

    /// Where this node is among round trips, as it learns it.
    pub fn place(&self) -> watch::Receiver<Place> {
        self.0.coordinates.place()
    }

    /// Where the last jobs went, what was expected of it and what came: newest first, `limit` at most.
    pub fn decisions(&self, limit: usize) -> Decisions {
        self.0.decisions.last(limit)
    }

    /// How the cloud of the settings has done, where there is one.
    pub fn cloud(&self) -> Option<CloudStatus> {
        self.0.cloud.as_ref().map(Cloud::status)
    }

    /// The last jobs that went to the cloud, newest first, `limit` at most.
    pub fn cloud_jobs(&self, limit: usize) -> Vec<CloudJob> {
        self.0.cloud.as_ref().map(|cloud| cloud.jobs(limit)).unwrap_or_default()
    }

    /// Live offers.
    pub fn offers(&self) -> Arc<OffersSnapshot> {
        self.0.book.snapshot()
    }
}

/// What the client side works with.
#[derive(Debug)]
pub struct RoutingParts {
    /// The node's key.
    pub key: SecretKey,
    /// The network.
    pub network: NetworkHandle,
    /// This node's own engines, for jobs that need no network.
    pub engine: Option<EngineHandle>,
    /// Keeps money.
    pub ledger: Ledger,
    /// Keeps evidence.
    pub store: Store,
    /// What others have shown of their hardware.
    pub trust: Trust,
    /// The network's parameters for proofs, where there are some.
    pub zero_knowledge: Option<Arc<ZeroKnowledge>>,
    /// The cloud of the settings, where they name one.
    pub cloud: Option<Cloud>,
    /// Gossip that waits for a verdict.
    pub gossip: mpsc::Receiver<GossipMessage>,
    /// What the provider side holds against its clients.
    pub accusations: mpsc::Receiver<Evidence>,
    /// `/aitbc/offer/1`.
    pub offer_streams: mpsc::Receiver<IncomingStream>,
    /// This node's own newest offer, as the provider side keeps it.
    pub own_offer: watch::Receiver<Option<Statements>>,
}

/// Starts the client side: the book of offers, and the settling of jobs that a crash or a lost path left open (at
/// start, when their provider is seen again, and again and again for a day).
///
/// After `stop`, running jobs are cancelled with their providers and paid; the returned task ends when all of that is
/// done.
pub fn start(
    config: RoutingConfig,
    parts: RoutingParts,
    metrics: &Metrics,
    stop: CancellationToken,
) -> (Routing, tokio::task::JoinHandle<()>) {
    let RoutingParts {
        key,
        network,
        engine,
        ledger,
        store,
        trust,
        zero_knowledge,
        cloud,
        gossip,
        accusations,
        offer_streams,
        own_offer,
    } = parts;
    let metrics = metrics::RoutingMetrics::new(metrics);
    let reputation = Reputation::new(key.node_id());
    let book_parts = offers::BookParts {
        id: config.network.clone(),
        here: config.location,
        network: network.clone(),
        store,
        trust: trust.clone(),
        reputation: reputation.clone(),
        gossip,
        accusations,
        metrics: metrics.clone(),
    };
    let (book, book_actor) = offers::start(book_parts, stop.clone());
    let shared = Arc::new(Shared {
        config,
        key,
        network,
        engine,
        ledger,
        book,
        trust,
        zero_knowledge,
        cloud,
        experience: experience::Experience::default(),
        reputation: reputation.clone(),
        searches: search::SearchMemory::default(),
        decisions: decisions::DecisionLog::new(metrics.clone()),
        active: active::Active::default(),
        coordinates: coordinates::Coordinates::default(),
        settle: settle::Wake::default(),
        metrics,
        jobs: Arc::new(Semaphore::new(MAX_JOBS)),
        lookups: Semaphore::new(MAX_LOOKUPS),
        tasks: TaskTracker::new(),
        stop: stop.clone(),
    });
    let settling = settle::Settling {
        ledger: shared.ledger.clone(),
        network: shared.network.clone(),
        book: shared.book.clone(),
        active: shared.active.clone(),
        wake: shared.settle.clone(),
        reputation: shared.reputation.clone(),
    };
    let tasks = shared.tasks.clone();
    tasks.spawn(book_actor.instrument(tracing::info_span!("offers")));
    let book = shared.book.clone();
    let serving =
        intake::serve(offer_streams, offer_streams::OFFER_LIMITS, stop.clone(), move |incoming, turn| {
            offer_streams::serve(own_offer.clone(), book.clone(), incoming, turn)
        });
    tasks.spawn(serving.instrument(tracing::info_span!("offer-streams")));
    tasks.spawn(stop.clone().run_until_cancelled_owned(coordinates::learn(shared.clone())).map(drop));
    let refreshing = observing::refresh(shared.clone());
    tasks.spawn(stop.clone().run_until_cancelled_owned(refreshing).map(drop));
    tasks.spawn(settle::run(settling, stop.clone()).instrument(tracing::info_span!("settle")));
    let ended = tokio::spawn(async move {
        stop.cancelled().await;
        tasks.close();
        tasks.wait().await;
    });
    (Routing(shared), ended)
}
