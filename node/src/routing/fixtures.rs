//! What the tests of the client side share: two nodes with keys, a job between them, a real ledger.

use super::{
    RoutingConfig, Shared, active, coordinates, decisions, experience, metrics::RoutingMetrics, offers, search,
    settle,
};
use crate::{
    market::Ledger,
    network::{self, NetworkConfig},
    reputation::Reputation,
    storage::Store,
    telemetry::Metrics,
    trust::Trust,
};
use aitbc_crypto::{SecretKey, seal};
use aitbc_protocol::{
    Digest, JobId, MicroCredits, NetworkId, NodeId, Nonce, Signed,
    geo::{Cell, Location},
    holdback::Audit,
    job::{Finish, Input, JobSpec, Message, Role, Sampling},
    offer::{Device, DeviceKind, Engine, ModelOffer, OFFER_LIFETIME_MS, Offer},
    price::{Adjustment, Inputs, LatencyClass, TokenPrice, hour_of_day},
    quote::{QUOTE_LIFETIME_MS, Quote},
    receipt::{OutputDigest, Receipt, Timings},
    routing::{fallback::Fallback, preference::Preference},
    sla::verdict,
    terms::Terms,
    text::Line,
};
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(super) const PRICE: TokenPrice = TokenPrice { prompt: MicroCredits(1_000), completion: MicroCredits(4_000) };

pub(super) fn network() -> NetworkId {
    NetworkId::new(NetworkId::LOCAL).expect("a valid name")
}

pub(super) fn key(n: u8) -> SecretKey {
    SecretKey::from_bytes(&[n; 32])
}

pub(super) fn paris() -> Location {
    Location::new(48.85, 2.35).expect("in range")
}

pub(super) fn config() -> RoutingConfig {
    RoutingConfig {
        network: network(),
        location: paris(),
        quotes: 1,
        enough: 1,
        fallback: Fallback::Never,
        preference: Preference::Balanced,
        hedge: true,
        share_observations: true,
    }
}

pub(super) fn spec() -> JobSpec {
    JobSpec {
        model: Line::lossy("smollm2:135m"),
        weights: None,
        input: Input::Chat(vec![Message { role: Role::User, content: "Name three planets".to_owned() }]),
        sampling: Sampling { temperature: 0.7, top_p: 0.9, seed: 42 },
        max_tokens: 256,
        stop: Vec::new(),
        top_logprobs: None,
        prefix: Vec::new(),
    }
}

pub(super) fn device() -> Device {
    Device { kind: DeviceKind::Cpu, name: Line::lossy("a CPU"), memory_bytes: 0, measured: None }
}

pub(super) fn engine() -> Engine {
    Engine { name: Line::lossy("llama.cpp"), version: Line::lossy("1") }
}

pub(super) fn model_offer() -> ModelOffer {
    ModelOffer {
        model: spec().model,
        weights: Digest([7; 32]),
        engine: engine(),
        quantisation: Line::lossy("Q4_1"),
        device: device(),
        context: 2048,
        price: PRICE,
        speed: 100_000,
        declared: false,
        private: None,
    }
}

/// An offer of a provider in Paris, signed at `now_ms`.
pub(super) fn offer(sequence: u64, now_ms: u64) -> Offer {
    Offer {
        sequence,
        issued_ms: now_ms,
        expires_ms: now_ms + OFFER_LIFETIME_MS,
        cell: Cell::at(&paris(), 4),
        addresses: vec![Line::lossy("/ip4/127.0.0.1/tcp/4101")],
        devices: vec![device()],
        models: vec![model_offer()],
        slots: 4,
        attested: Vec::new(),
        policies: Vec::new(),
        shown: Vec::new(),
        bandwidth: None,
        coordinate: None,
        agent: Line::lossy("aitbc/0.1.0"),
    }
}

/// How a provider that is rather busy prices `quote`, at noon by its clock.
fn adjustment(spec: &JobSpec, quote: &Quote) -> Adjustment {
    let minute = (quote.issued_ms / 60_000 % (24 * 60)) as i16;
    let utc_offset_minutes = 12 * 60 - minute;
    let inputs = Inputs {
        latency: LatencyClass::Standard,
        capability: None,
        round_trip_ms: None,
        queue: 3,
        utilisation: 750_000,
        cell_utilisation: None,
        hour: hour_of_day(quote.issued_ms, utc_offset_minutes),
        utc_offset_minutes,
        context_used: spec.context_needed(quote.prompt_tokens),
        context: model_offer().context,
    };
    Adjustment::of(inputs, MicroCredits(400))
}

/// A client, a provider and a quote between them, with the client's ledger in a directory of its own.
pub(super) struct Deal {
    pub(super) client: SecretKey,
    pub(super) provider: SecretKey,
    pub(super) spec: JobSpec,
    pub(super) quote: Quote,
    pub(super) ledger: Ledger,
    directory: Arc<tempfile::TempDir>,
}

impl Deal {
    pub(super) fn new(change: impl FnOnce(&mut JobSpec, &mut Quote)) -> Self {
        let (client, provider) = (key(1), key(2));
        let mut spec = spec();
        let now_ms = crate::clock::now_ms();
        let mut quote = Quote {
            nonce: Nonce([9; 16]),
            client: client.node_id(),
            job: JobId([3; 16]),
            request: Digest([0; 32]),
            model: spec.model.clone(),
            weights: Digest([7; 32]),
            prompt_tokens: 20,
            max_completion_tokens: 256,
            price: PRICE,
            adjustment: Adjustment::default(),
            terms: Terms::default(),
            audit: Audit::default(),
            max_total: MicroCredits::ZERO,
            window: 64,
            declared: false,
            issued_ms: now_ms,
            expires_ms: now_ms + QUOTE_LIFETIME_MS,
        };
        change(&mut spec, &mut quote);
        quote.adjustment = adjustment(&spec, &quote);
        quote.terms = Terms::of(LatencyClass::Standard, &spec, quote.prompt_tokens, 0);
        quote.request = spec.digest().expect("a small request");
        quote.max_total = quote.total(quote.max_completion_tokens).expect("a small price");
        quote.audit = Audit::of(quote.max_total, quote.issued_ms);
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(directory.path()).expect("a new database");
        let ledger = Ledger::start(store, client.clone(), network(), &Metrics::default())
            .expect("a ledger in a new database");
        Self { client, provider, spec, quote, ledger, directory: Arc::new(directory) }
    }

    /// The same job with another provider, on the same ledger.
    pub(super) fn rival(&self) -> Self {
        let quote = Quote { nonce: Nonce([8; 16]), ..self.quote.clone() };
        let (client, ledger) = (self.client.clone(), self.ledger.clone());
        let directory = self.directory.clone();
        Self { client, provider: key(5), spec: self.spec.clone(), quote, ledger, directory }
    }

    pub(super) fn provider_id(&self) -> NodeId {
        self.provider.node_id()
    }

    pub(super) fn signed_quote(&self) -> Signed<Quote> {
        seal(&self.provider, &network(), &self.quote).expect("a quote of usual size")
    }

    /// Records the job as it is before anything is sent.
    pub(super) async fn open(&self) {
        self.ledger
            .open(self.provider_id(), Vec::new(), self.quote.job, self.signed_quote())
            .await
            .expect("a new job");
    }

    /// The receipt of an honest provider for `tokens` tokens.
    pub(super) fn receipt(&self, tokens: u32, output: OutputDigest, finish: Finish) -> Receipt {
        let mut receipt = Receipt {
            job: self.quote.job,
            client: self.quote.client,
            quote: self.quote.nonce,
            request: self.quote.request,
            model: self.quote.model.clone(),
            weights: self.quote.weights,
            engine: engine(),
            quantisation: Line::lossy("Q4_1"),
            device: device(),
            sampling: self.spec.sampling.clone(),
            prompt_tokens: self.quote.prompt_tokens,
            completion_tokens: tokens,
            output,
            declared: self.quote.declared,
            finish,
            price: self.quote.price,
            total: self.quote.total(tokens).expect("a small price"),
            penalty: MicroCredits::ZERO,
            admitted_ms: self.quote.issued_ms,
            timings: Timings::default(),
            sealed: None,
        };
        receipt.penalty = verdict(&self.quote, &receipt).penalty;
        receipt
    }
}

/// The client side of a node that knows nobody, none of its tasks running but the network's and the book's.
pub(super) struct Node {
    pub(super) shared: Arc<Shared>,
    _directory: tempfile::TempDir,
}

impl Node {
    pub(super) async fn start() -> Self {
        let (key, metrics) = (key(1), Metrics::default());
        let alone = NetworkConfig { relay: false, ..network::tests::config(&[], &[]) };
        let (handle, incoming) = network::start(alone, &key, &metrics).await.expect("a network of one");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(directory.path()).expect("a new database");
        let ledger =
            Ledger::start(store.clone(), key.clone(), network(), &metrics).expect("a ledger in a new database");
        let trust = Trust::load(&store, key.node_id(), [], []).expect("nothing is kept yet");
        let reputation = Reputation::new(key.node_id());
        let (metrics, stop) = (RoutingMetrics::new(&metrics), CancellationToken::new());
        let parts = offers::BookParts {
            id: network(),
            here: paris(),
            network: handle.clone(),
            trust: trust.clone(),
            reputation: reputation.clone(),
            store,
            gossip: incoming.gossip,
            accusations: tokio::sync::mpsc::channel(1).1,
            metrics: metrics.clone(),
        };
        let (book, actor) = offers::start(parts, stop.clone());
        tokio::spawn(actor);
        let shared = Shared {
            config: config(),
            key,
            network: handle,
            engine: None,
            ledger,
            book,
            trust,
            zero_knowledge: None,
            cloud: None,
            experience: experience::Experience::default(),
            reputation,
            searches: search::SearchMemory::default(),
            decisions: decisions::DecisionLog::new(metrics.clone()),
            coordinates: coordinates::Coordinates::default(),
            active: active::Active::default(),
            settle: settle::Wake::default(),
            metrics,
            jobs: Arc::new(Semaphore::new(1)),
            lookups: Semaphore::new(1),
            tasks: TaskTracker::new(),
            stop,
        };
        Self { shared: Arc::new(shared), _directory: directory }
    }
}
