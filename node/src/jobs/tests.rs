//! Whole jobs over a stream in memory, with real ledgers on both sides; only the engine is a script.

use super::{
    CellLoad, JobsConfig, Provider, QUOTE_LIMITS,
    admission::{self, record},
    delivery::Binding,
    desk::{Desk, Ticket},
    job_limits,
    limits::uses,
    metrics::JobMetrics,
    place::Place,
    provider::LEAST_FOR_STRANGERS,
    run::{Job, Surroundings, run_job},
    settle,
};
use crate::{
    clock::now_ms,
    engine::{EngineError, EngineEvent, EngineHandle, EngineModel, EngineState, EngineStatus, Generation},
    gpu::power::{PowerState, Uses},
    market::{Ledger, Strangers},
    network::{FramedStream, IncomingStream, streams::StreamLimits},
    routing::offer_streams::OFFER_LIMITS,
    storage::{Side, Store},
    telemetry::Metrics,
};
use aitbc_crypto::{SecretKey, signing};
use aitbc_protocol::messages::{ToClient, ToProvider};
use aitbc_protocol::{
    Digest, JobId, MicroCredits, NetworkId, NodeId, Nonce, Signed,
    checks::Seen,
    evidence::{Evidence, Fault},
    geo::Cell,
    holdback::Audit,
    job::{Finish, Input, JobSpec, JobState, Message, Rejection, Role, Sampling, WINDOW_TOKENS},
    offer::{Device, DeviceKind, Engine},
    price::{Adjustment, Inputs, LatencyClass, TokenPrice, price},
    quote::Quote,
    receipt::{Cheque, Execution, OutputDigest, Receipt},
    terms::Terms,
    text::Line,
    wire::MAX_JOB_FRAME,
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

mod paying;
mod private_jobs;
mod resuming;
mod settling;

/// Longer than anything here takes, even on a busy machine.
const LONG: Duration = Duration::from_secs(30);

pub(crate) fn network() -> NetworkId {
    NetworkId::new(NetworkId::LOCAL).unwrap()
}

pub(crate) fn provider_key() -> SecretKey {
    SecretKey::from_bytes(&[1; 32])
}

pub(crate) fn client_key() -> SecretKey {
    SecretKey::from_bytes(&[2; 32])
}

pub(crate) fn spec() -> JobSpec {
    JobSpec {
        model: "smollm2:135m".parse().unwrap(),
        weights: None,
        input: Input::Chat(vec![Message { role: Role::User, content: "Name three planets".to_owned() }]),
        sampling: Sampling { temperature: 0.0, top_p: 1.0, seed: 1 },
        max_tokens: 200,
        stop: vec![],
        top_logprobs: None,
        prefix: vec![],
    }
}

pub(crate) fn engine_model() -> EngineModel {
    EngineModel {
        model: spec().model,
        weights: Digest([3; 32]),
        engine: Engine { name: "llama.cpp".parse().unwrap(), version: "test".parse().unwrap() },
        quantisation: "Q4_1".parse().unwrap(),
        device: Device { kind: DeviceKind::Cpu, name: "test".parse().unwrap(), memory_bytes: 0, measured: None },
        context: 2048,
        speed: 0,
        declared: false,
        slots: 8,
        private: None,
    }
}

fn execution() -> Execution {
    let EngineModel { engine, quantisation, device, .. } = engine_model();
    Execution { engine, quantisation, device, sampling: spec().sampling, sealed: None }
}

pub(crate) fn config() -> JobsConfig {
    JobsConfig {
        network: network(),
        cell: "u09t".parse::<Cell>().unwrap(),
        slots: 4,
        price: quote().price,
        private_price: quote().price,
        prices: BTreeMap::new(),
        local_hours: false,
        strangers: None,
        power: crate::gpu::power::PowerConfig::default(),
        gpu_rates: std::path::PathBuf::new(),
        payment_patience: LONG,
    }
}

pub(crate) fn quote() -> Quote {
    let token_price = TokenPrice { prompt: MicroCredits(1_000), completion: MicroCredits(3_000) };
    let issued_ms = now_ms();
    let inputs = Inputs {
        latency: LatencyClass::Fast,
        capability: Some(620_000),
        round_trip_ms: None,
        queue: 3,
        utilisation: 750_000,
        cell_utilisation: None,
        hour: 19,
        utc_offset_minutes: 0,
        context_used: 210,
        context: 2048,
    };
    let adjustment = Adjustment::of(inputs, MicroCredits(400));
    let max_total = price(&token_price, &adjustment, 10, 200).unwrap();
    Quote {
        nonce: Nonce([4; 16]),
        client: client_key().node_id(),
        job: JobId([5; 16]),
        request: spec().digest().unwrap(),
        model: spec().model,
        weights: engine_model().weights,
        prompt_tokens: 10,
        max_completion_tokens: 200,
        price: token_price,
        audit: Audit::of(max_total, issued_ms),
        max_total,
        adjustment,
        terms: Terms::of(LatencyClass::Fast, &spec(), 10, 0),
        window: WINDOW_TOKENS,
        declared: false,
        issued_ms,
        expires_ms: issued_ms + 300_000,
    }
}

#[test]
fn a_peer_over_the_limits_hears_so_before_the_network_cuts_it_off() {
    /// The most that the setting `provide.slots` takes.
    const SLOTS: u32 = 64;
    let network = StreamLimits::default();
    let all = [OFFER_LIMITS, QUOTE_LIMITS, job_limits(SLOTS)];
    let refusing = 1;
    assert!(all.iter().all(|limits| limits.per_peer + refusing <= network.per_protocol));
    assert!(all.iter().map(|limits| limits.per_peer + refusing).sum::<usize>() <= network.per_connection);
    assert!(network.per_connection <= network.per_peer);
    assert!(all.iter().map(|limits| limits.burst).sum::<u32>() < network.burst);
    let per_second: f64 = all.iter().map(|limits| limits.interval.as_secs_f64().recip()).sum();
    assert!(per_second < f64::from(network.per_second));
}

/// The engine's end of a job.
struct Script {
    events: mpsc::Sender<EngineEvent>,
    grants: mpsc::Receiver<u32>,
    next: u32,
}

impl Script {
    async fn say(&self, event: EngineEvent) {
        timeout(LONG, self.events.send(event)).await.unwrap().expect("the job still listens");
    }

    async fn tokens(&mut self, count: u32) {
        for id in self.next..self.next + count {
            self.say(EngineEvent::Token { id: Some(id), text: format!("<{id}>"), logprobs: None }).await;
        }
        self.next += count;
    }

    async fn finish(&self, finish: Finish) {
        self.say(EngineEvent::Finished { finish, text: String::new() }).await;
    }

    async fn granted(&mut self) -> u32 {
        timeout(LONG, self.grants.recv()).await.unwrap().expect("the job still runs")
    }

    /// The job has let go of the device.
    async fn dropped(self) {
        timeout(LONG, self.events.closed()).await.unwrap();
    }
}

/// Two nodes: their ledgers and the provider's desk.
struct Nodes {
    provider: Ledger,
    client: Ledger,
    desk: Desk,
    metrics: Metrics,
    closing: CancellationToken,
    /// How long a job waits for a client whose stream broke.
    kept: Duration,
    accuse: mpsc::Sender<Evidence>,
    accused: mpsc::Receiver<Evidence>,
    _directories: [tempfile::TempDir; 2],
}

/// A running job seen from outside.
struct Scene {
    engine: Script,
    client: FramedStream,
    task: JoinHandle<()>,
    seen: Vec<u32>,
    chunks: u32,
}

fn ledger(key: SecretKey, metrics: &Metrics) -> (Ledger, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    (Ledger::start(store, key, network(), metrics).unwrap(), directory)
}

/// Limits that allow everything.
pub(super) fn unlimited() -> watch::Receiver<Arc<PowerState>> {
    watch::channel(Arc::new(PowerState::unlimited(config().slots))).1
}

/// The provider side on `engine`, without a network.
/// A place where nothing is measured.
pub(super) fn nowhere() -> Place {
    let peers = watch::channel(Arc::default()).1;
    Place { devices: vec![], peers, cell: CellLoad::new(|| None), local_hours: false }
}

pub(super) fn provider(engine: EngineHandle) -> (Provider, tempfile::TempDir) {
    let metrics = Metrics::default();
    let (ledger, directory) = ledger(provider_key(), &metrics);
    let provider = Provider {
        config: config(),
        key: provider_key(),
        accuse: mpsc::channel(1).0,
        me: provider_key().node_id(),
        engine,
        ledger,
        desk: Desk::new(config().slots),
        metrics: JobMetrics::new(&metrics),
        counting: Semaphore::new(1),
        power: unlimited(),
        place: nowhere(),
        stop: CancellationToken::new(),
        closing: CancellationToken::new(),
    };
    (provider, directory)
}

/// A provider that serves the streams it is handed as if its network had brought them.
pub(crate) struct TestProvider {
    provider: Mutex<Arc<Provider>>,
    tasks: Mutex<JoinSet<()>>,
    served: AtomicUsize,
    restart_before: AtomicUsize,
    _directory: tempfile::TempDir,
}

impl TestProvider {
    pub(crate) fn new(engine: EngineHandle) -> Self {
        let (provider, directory) = provider(engine);
        Self {
            provider: Mutex::new(Arc::new(provider)),
            tasks: Mutex::default(),
            served: AtomicUsize::new(0),
            restart_before: AtomicUsize::new(0),
            _directory: directory,
        }
    }

    /// Forgets its jobs before it serves the stream with this number; streams count from one.
    pub(crate) fn restart_before_stream(&self, number: usize) {
        self.restart_before.store(number, Relaxed);
    }

    pub(crate) fn serve(&self, stream: FramedStream) {
        if self.served.fetch_add(1, Relaxed) + 1 == self.restart_before.load(Relaxed) {
            self.tasks.lock().unwrap().abort_all();
            let mut provider = self.provider.lock().unwrap();
            *provider = Arc::new(provider.restarted());
        }
        let incoming = IncomingStream { peer: stream.peer(), stream };
        let serving = admission::serve(Arc::clone(&self.provider.lock().unwrap()), incoming, Ok(()));
        self.keep(serving);
    }

    /// Runs a task for as long as the provider lives.
    pub(crate) fn keep(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().unwrap().spawn(task);
    }

    pub(crate) fn ledger(&self) -> Ledger {
        self.provider.lock().unwrap().ledger.clone()
    }
}

impl Provider {
    /// The same node with nothing in its memory.
    fn restarted(&self) -> Self {
        Self {
            config: self.config.clone(),
            key: self.key.clone(),
            accuse: self.accuse.clone(),
            me: self.me,
            engine: self.engine.clone(),
            ledger: self.ledger.clone(),
            desk: Desk::new(self.config.slots),
            metrics: self.metrics.clone(),
            counting: Semaphore::new(1),
            power: unlimited(),
            place: nowhere(),
            stop: CancellationToken::new(),
            closing: CancellationToken::new(),
        }
    }
}

fn nodes() -> Nodes {
    let metrics = Metrics::default();
    let (provider, first) = ledger(provider_key(), &metrics);
    let (client, second) = ledger(client_key(), &Metrics::default());
    let closing = CancellationToken::new();
    let (accuse, accused) = mpsc::channel(4);
    let desk = Desk::new(4);
    Nodes { provider, client, desk, metrics, closing, kept: LONG, accuse, accused, _directories: [first, second] }
}

impl Nodes {
    async fn admit(&self, quote: &Quote) -> Result<Ticket, Rejection> {
        let signed = signing::seal(&provider_key(), &network(), quote).unwrap();
        let ticket = self.desk.admit(quote, &engine_model(), now_ms())?;
        let strangers = Strangers { budget: LEAST_FOR_STRANGERS, from: None };
        record(&self.provider, quote.client, signed, execution(), &ticket, strangers).await?;
        Ok(ticket)
    }

    /// Both sides have recorded the job, it runs, and the client has read that it was accepted.
    async fn start(&self, quote: &Quote, binding: Binding, patience: Duration) -> Scene {
        let signed = signing::seal(&provider_key(), &network(), quote).unwrap();
        self.client.open(provider_key().node_id(), vec![], quote.job, signed).await.unwrap();
        let ticket = self.admit(quote).await.unwrap();
        self.client.accepted(quote.nonce).await.unwrap();
        let (mut client, stream) = FramedStream::pair(client_key().node_id(), provider_key().node_id());
        let (events, receiver) = mpsc::channel(256);
        let (granter, grants) = mpsc::channel(8);
        let job = Job {
            quote: quote.clone(),
            execution: execution(),
            binding,
            ticket,
            since: tokio::time::Instant::now(),
            since_ms: now_ms(),
        };
        let around = Surroundings {
            key: provider_key(),
            network: network(),
            ledger: self.provider.clone(),
            accuse: self.accuse.clone(),
            metrics: JobMetrics::new(&self.metrics),
            closing: self.closing.clone(),
            patience,
            kept: self.kept,
        };
        let task = tokio::spawn(run_job(job, Generation::new(receiver, granter), stream, around));
        assert!(matches!(receive(&mut client).await, Some(ToClient::Accepted { .. })));
        let engine = Script { events, grants, next: 0 };
        engine.say(EngineEvent::Started).await;
        Scene { engine, client, task, seen: vec![], chunks: 0 }
    }

    async fn run(&self) -> Scene {
        self.start(&quote(), Binding::Tokens, LONG).await
    }

    async fn cheque(&self, tokens: u32) -> Signed<Cheque> {
        self.client.pay(quote().nonce, tokens).await.unwrap()
    }

    async fn provider_state(&self) -> JobState {
        self.provider.job(Side::Provider, quote().nonce).await.unwrap().unwrap().state
    }

    /// Takes the receipt, pays all of it and sees the provider close the stream.
    async fn pay_up(&self, scene: &mut Scene, receipt: Signed<Receipt>) {
        let tokens = scene.seen.len() as u32;
        let seen = Seen { tokens, output: OutputDigest::Tokens(Digest::of_tokens(&scene.seen)), sealed: None };
        self.client.take_receipt(quote().nonce, receipt, Some(seen)).await.expect("an honest receipt");
        let cheque = self.cheque(tokens).await;
        scene.send(ToProvider::Ack { next: tokens, cheque }).await;
        let total = quote().total(tokens).unwrap();
        let said = receive(&mut scene.client).await;
        assert!(matches!(said, Some(ToClient::Paid { total: paid }) if paid == total), "{said:?}");
        assert!(receive(&mut scene.client).await.is_none(), "the stream is closed once the last cheque is taken");
        scene.send(ToProvider::Done).await;
    }
}

async fn receive(stream: &mut FramedStream) -> Option<ToClient> {
    timeout(LONG, stream.receive(MAX_JOB_FRAME)).await.expect("an answer").unwrap()
}

impl Scene {
    async fn send(&mut self, message: ToProvider) {
        timeout(LONG, self.client.send(&message, MAX_JOB_FRAME)).await.unwrap().unwrap();
    }

    /// Reads until `count` tokens have come in all.
    async fn read(&mut self, count: u32) {
        while self.seen.len() < count as usize {
            match receive(&mut self.client).await {
                Some(ToClient::Chunk(chunk)) => {
                    assert_eq!(chunk.first as usize, self.seen.len(), "chunks are numbered without a gap");
                    self.seen.extend(chunk.tokens);
                    self.chunks += 1;
                }
                other => panic!("expected tokens, got {other:?}"),
            }
        }
        assert_eq!(self.seen.len(), count as usize, "no token comes before it is paid for");
    }

    /// Reads the end, with the chunks before it.
    async fn finished(&mut self) -> (Signed<Receipt>, Receipt, Option<Line<160>>) {
        loop {
            match receive(&mut self.client).await {
                Some(ToClient::Chunk(chunk)) => {
                    self.seen.extend(chunk.tokens);
                    self.chunks += 1;
                }
                Some(ToClient::Finished { receipt, failure, served }) => {
                    let read = signing::open(&receipt, &network()).expect("a valid signature");
                    let shown = signing::open(&served, &network()).expect("a valid signature");
                    assert!(shown.fits(client_key().node_id(), receipt.digest(), read.total), "{shown:?}");
                    assert_eq!(served.signer(), provider_key().node_id());
                    return (receipt, read, failure);
                }
                other => panic!("expected the end, got {other:?}"),
            }
        }
    }

    async fn joined(self) {
        drop(self.client);
        timeout(LONG, self.task).await.expect("the job's task ends").unwrap();
    }
}

#[tokio::test]
async fn a_job_is_delivered_paid_and_completed_on_both_sides() {
    let nodes = nodes();
    let mut scene = nodes.run().await;
    scene.engine.tokens(100).await;
    scene.read(WINDOW_TOKENS).await;
    let cheque = nodes.cheque(WINDOW_TOKENS).await;
    scene.send(ToProvider::Ack { next: WINDOW_TOKENS, cheque }).await;
    assert_eq!(scene.engine.granted().await, WINDOW_TOKENS);
    scene.engine.finish(Finish::Stop).await;
    let (signed, receipt, failure) = scene.finished().await;
    assert_eq!((receipt.completion_tokens, receipt.finish, failure), (100, Finish::Stop, None));
    assert_eq!(receipt.total, quote().total(100).unwrap());
    nodes.pay_up(&mut scene, signed).await;
    scene.joined().await;
    assert_eq!(nodes.client.paid(quote().nonce).await.unwrap().state, JobState::Completed);
    assert_eq!(nodes.provider_state().await, JobState::Completed);
    let text = nodes.metrics.encode();
    assert!(text.contains("aitbc_jobs_total{outcome=\"completed\"} 1"), "{text}");
    assert!(text.contains("aitbc_jobs_tokens_total 100"), "{text}");
}

#[tokio::test]
async fn a_slow_engine_is_no_reason_to_end_a_job() {
    let nodes = nodes();
    let patience = Duration::from_millis(50);
    let mut scene = nodes.start(&quote(), Binding::Tokens, patience).await;
    tokio::time::sleep(patience * 4).await;
    scene.engine.tokens(1).await;
    scene.read(1).await;
    scene.engine.finish(Finish::Length).await;
    let (_, receipt, _) = scene.finished().await;
    assert_eq!(receipt.finish, Finish::Length);
}

#[tokio::test]
async fn a_cancelled_job_leaves_the_device_at_once_and_bills_what_was_sent() {
    let nodes = nodes();
    let mut scene = nodes.run().await;
    scene.engine.tokens(20).await;
    scene.read(20).await;
    scene.send(ToProvider::Cancel).await;
    let (signed, receipt, failure) = scene.finished().await;
    assert_eq!((receipt.completion_tokens, receipt.finish, failure), (20, Finish::Cancelled, None));
    nodes.pay_up(&mut scene, signed).await;
    let Scene { engine, task, .. } = scene;
    engine.dropped().await;
    timeout(LONG, task).await.unwrap().unwrap();
    assert_eq!(nodes.provider_state().await, JobState::Cancelled);
}

#[tokio::test]
async fn a_crash_of_the_engine_is_a_typed_end_that_bills_what_came_before() {
    let nodes = nodes();
    let mut scene = nodes.run().await;
    scene.engine.tokens(9).await;
    scene.engine.say(EngineEvent::Failed(EngineError::Crashed("/home/owner/model: signal 11".to_owned()))).await;
    let (signed, receipt, failure) = scene.finished().await;
    assert_eq!((receipt.completion_tokens, receipt.finish), (9, Finish::Failed));
    assert_eq!(scene.seen.len(), 9, "what was generated is delivered: the next provider goes on after it");
    assert_eq!(failure.unwrap().as_str(), "the engine crashed", "the owner's paths stay here");
    nodes.pay_up(&mut scene, signed).await;
    scene.joined().await;
    assert_eq!(nodes.provider_state().await, JobState::Failed);
}

#[tokio::test]
async fn an_engine_that_fails_before_the_first_token_has_sold_nothing() {
    let nodes = nodes();
    let mut scene = nodes.run().await;
    let Script { events, .. } = std::mem::replace(
        &mut scene.engine,
        Script { events: mpsc::channel(1).0, grants: mpsc::channel(1).1, next: 0 },
    );
    drop(events);
    let (_, receipt, failure) = scene.finished().await;
    assert_eq!((receipt.total, receipt.finish), (MicroCredits::ZERO, Finish::Failed));
    assert_eq!(failure.unwrap().as_str(), "the engine stopped");
    let said = receive(&mut scene.client).await;
    let nothing = matches!(said, Some(ToClient::Paid { total: MicroCredits::ZERO }));
    assert!(nothing, "nothing is owed, nothing is waited for: {said:?}");
    scene.send(ToProvider::Done).await;
    scene.joined().await;
    assert_eq!(nodes.provider_state().await, JobState::Failed);
}

#[tokio::test]
async fn a_quote_is_good_once_over_restarts_of_the_desk_too() {
    let nodes = nodes();
    let ticket = nodes.admit(&quote()).await.unwrap();
    drop(ticket);
    assert_eq!(nodes.admit(&quote()).await.unwrap_err(), Rejection::QuoteUsed);
    let restarted = Nodes { desk: Desk::new(4), ..nodes };
    assert_eq!(restarted.admit(&quote()).await.unwrap_err(), Rejection::QuoteUsed);
    assert!(restarted.desk.running().is_empty(), "a refused job holds no slot");
}

#[tokio::test]
async fn a_stopping_node_fails_what_runs_with_receipts() {
    let nodes = nodes();
    let mut scene = nodes.run().await;
    scene.engine.tokens(3).await;
    scene.read(3).await;
    nodes.closing.cancel();
    let (signed, receipt, failure) = scene.finished().await;
    assert_eq!((receipt.completion_tokens, receipt.finish), (3, Finish::Failed));
    assert_eq!(failure.unwrap().as_str(), "the provider is stopping");
    nodes.pay_up(&mut scene, signed).await;
    scene.joined().await;
    assert_eq!(nodes.provider_state().await, JobState::Failed);
}

#[tokio::test]
async fn vectors_are_paid_by_the_prompt() {
    let nodes = nodes();
    let base = quote();
    let quote = Quote { max_completion_tokens: 0, max_total: base.total(0).unwrap(), ..base };
    let mut scene = nodes.start(&quote, Binding::Vectors, LONG).await;
    scene.engine.say(EngineEvent::Embeddings(vec![vec![0.5; 4], vec![1.0; 4]])).await;
    scene.engine.finish(Finish::Stop).await;
    let Some(ToClient::Chunk(chunk)) = receive(&mut scene.client).await else { panic!("no vectors") };
    assert_eq!(chunk.embeddings.len(), 2);
    let (signed, receipt, _) = scene.finished().await;
    assert_eq!((receipt.completion_tokens, receipt.total), (0, quote.max_total));
    let seen = Seen { tokens: 0, output: receipt.output, sealed: None };
    nodes.client.take_receipt(quote.nonce, signed, Some(seen)).await.unwrap();
    let cheque = nodes.cheque(0).await;
    scene.send(ToProvider::Ack { next: 0, cheque }).await;
    let said = receive(&mut scene.client).await;
    assert!(matches!(said, Some(ToClient::Paid { total }) if total == quote.max_total), "{said:?}");
    scene.send(ToProvider::Done).await;
    scene.joined().await;
    assert_eq!(nodes.provider_state().await, JobState::Completed);
}

#[test]
fn what_proves_is_a_process_of_the_node_and_a_server_elsewhere_is_not() {
    let engine = |declared, pid| {
        let device = Device { kind: DeviceKind::Gpu, ..engine_model().device };
        let models = vec![EngineModel { device, declared, ..engine_model() }];
        EngineStatus { name: String::new(), state: EngineState::Ready, pid, models, warnings: Vec::new() }
    };
    let elsewhere = [engine(true, None)];
    assert_eq!(uses(&elsewhere, None), Uses::default());
    assert_eq!(uses(&elsewhere, Some(12)), Uses { processes: vec![12], on_gpu: false, proving: true });
    let own = [engine(false, Some(11)), engine(true, None)];
    assert_eq!(uses(&own, Some(12)), Uses { processes: vec![11, 12], on_gpu: true, proving: true });
    assert_eq!(uses(&own, None), Uses { processes: vec![11], on_gpu: true, proving: false });
}
