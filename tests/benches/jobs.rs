//! What the network adds to the engine: tokens a second, time to the first token, processor time a token, memory.
//!
//! The engine runs on one thread in both cases. Runs go engine, network, network, engine, so that a drift of the
//! machine's speed cancels out.

use aitbc_node::{
    engine::{self, EngineConfig, EngineEvent, EngineHandle, fhe::PrivateConfig},
    models::ModelStore,
    telemetry::Metrics,
};
use aitbc_protocol::job::JobSpec;
use aitbc_tests::{
    Process, ProcessBuilder,
    process::{self, MODEL, PATIENCE, question},
    usage::machine,
};
use serde_json::Value;
use std::time::{Duration, Instant};

/// Tokens of an answer.
const TOKENS: u32 = 128;
/// Rounds of four runs each; the median is of twice as many a side.
const ROUNDS: usize = 5;
/// Jobs for the time to the first token.
const SHORT_JOBS: usize = 60;

fn median(values: &mut [f64]) -> f64 {
    percentile(values, 0.5)
}

fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * share).round() as usize]
}

fn request(index: usize, tokens: u32) -> Value {
    question(&format!("Count from {index} upwards in words, one number a line, and never stop."), tokens)
}

fn spec(request: &Value) -> JobSpec {
    serde_json::from_value(request["spec"].clone()).expect("a request")
}

async fn start_engine() -> EngineHandle {
    let store = ModelStore::new(process::models_dir());
    let installed = store.find(&MODEL.parse().expect("a name")).expect("readable").expect("make setup fetches it");
    let config = EngineConfig {
        models: vec![installed],
        context: 2048,
        slots: 4,
        threads: Some(1),
        gpu_layers: Some(0),
        memory_limit: None,
        private: PrivateConfig::default(),
        upstreams: Vec::new(),
        worker: Some(process::binary()),
    };
    let engine = engine::start(config, &Metrics::default()).await.expect("starts");
    let mut status = engine.status();
    let ready = status.wait_for(|engines| engines.iter().any(|engine| !engine.models.is_empty()));
    tokio::time::timeout(PATIENCE, ready).await.expect("loads").expect("runs");
    engine
}

/// Tokens and the time of the first and the last.
async fn on_engine(engine: &EngineHandle, request: &Value) -> (u32, Duration, Duration) {
    let started = Instant::now();
    let mut running = engine.generate(spec(request), TOKENS).await.expect("starts");
    let (mut tokens, mut first) = (0, Duration::ZERO);
    while let Some(event) = running.events.recv().await {
        match event {
            EngineEvent::Token { .. } => {
                if tokens == 0 {
                    first = started.elapsed();
                }
                tokens += 1;
            }
            EngineEvent::Failed(error) => panic!("{error}"),
            _ => {}
        }
    }
    (tokens, first, started.elapsed())
}

async fn over_network(client: &Process, request: &Value) -> (u32, Duration, Duration) {
    let started = Instant::now();
    let mut updates = client.job(request).await;
    let (mut tokens, mut first, mut last) = (0, Duration::ZERO, Duration::ZERO);
    while let Some(update) = updates.recv().await {
        match update["event"].as_str() {
            Some("delta") => {
                if tokens == 0 {
                    first = started.elapsed();
                }
                tokens += update["tokens"].as_array().map_or(0, Vec::len) as u32;
                last = started.elapsed();
            }
            Some("failed") => panic!("{update}"),
            _ => {}
        }
    }
    (tokens, first, last)
}

/// Tokens a second of `streams` jobs together.
async fn rate<F>(streams: usize, run: impl Fn(usize) -> F) -> f64
where
    F: Future<Output = (u32, Duration, Duration)>,
{
    let started = Instant::now();
    let results = futures::future::join_all((0..streams).map(run)).await;
    let tokens: u32 = results.iter().map(|(tokens, ..)| tokens).sum();
    f64::from(tokens) / started.elapsed().as_secs_f64()
}

/// Processor time of both nodes in microseconds, their engines left out.
fn cpu_us(provider: &Process, client: &Process) -> f64 {
    (provider.cpu() + client.cpu()).as_secs_f64() * 1e6
}

async fn synced_writes(process: &Process) -> f64 {
    process.metric("aitbc_storage_commit_batch_count", &[]).await
}

async fn throughput(engine: &EngineHandle, provider: &Process, client: &Process, streams: usize) {
    let on_engine = |index| async move { on_engine(engine, &request(index, TOKENS)).await };
    let over_network = |index| async move { over_network(client, &request(index, TOKENS)).await };
    let (mut alone, mut network, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        alone.push(rate(streams, on_engine).await);
        for _ in 0..2 {
            let before = cpu_us(provider, client);
            network.push(rate(streams, over_network).await);
            let used = cpu_us(provider, client) - before;
            cpu.push(used / (f64::from(TOKENS) * streams as f64));
        }
        alone.push(rate(streams, on_engine).await);
    }
    let (alone, network, cpu) = (median(&mut alone), median(&mut network), median(&mut cpu));
    println!(
        "{streams} stream(s): engine {alone:.1} tokens/s, through two nodes {network:.1} tokens/s, ratio {:.3} (goal 0.95); {cpu:.0} us of CPU a token on both nodes (goal 200 us)",
        network / alone
    );
}

async fn first_token(engine: &EngineHandle, provider: &Process, client: &Process) {
    let (mut alone, mut network) = (Vec::new(), Vec::new());
    let before = (synced_writes(client).await, synced_writes(provider).await);
    for index in 0..SHORT_JOBS {
        let short = request(index, 2);
        alone.push(on_engine(engine, &short).await.1.as_secs_f64() * 1000.0);
        network.push(over_network(client, &short).await.1.as_secs_f64() * 1000.0);
    }
    let after = (synced_writes(client).await, synced_writes(provider).await);
    let mut added: Vec<f64> = network.iter().zip(&alone).map(|(network, alone)| network - alone).collect();
    println!(
        "first token: engine p50 {:.1} ms; added by the network p50 {:.1} ms, p99 {:.1} ms (goal p50 10 ms); synced writes a job: client {:.1}, provider {:.1}",
        median(&mut alone),
        median(&mut added),
        percentile(&mut added, 0.99),
        (after.0 - before.0) / SHORT_JOBS as f64,
        (after.1 - before.1) / SHORT_JOBS as f64,
    );
}

async fn bench() {
    let bootstrap = ProcessBuilder::new("bootstrap", "50.1,8.7").relay().start().await;
    println!("idle node without a model: {:.0} MiB resident (goal 100 MB)", {
        bootstrap.get("status").await;
        bootstrap.resident_mib()
    });
    let provider = ProcessBuilder::new("provider", "48.85,2.35")
        .provide()
        .arguments(&["--slots", "4"])
        .bootstrap(&bootstrap)
        .start()
        .await;
    let client = ProcessBuilder::new("client", "51.5,-0.1").bootstrap(&bootstrap).start().await;
    provider.offering().await;
    client.connected().await;
    let engine = start_engine().await;
    // One of each before anything counts.
    on_engine(&engine, &request(0, TOKENS)).await;
    over_network(&client, &request(0, TOKENS)).await;
    println!("client after a job: {:.0} MiB resident", client.resident_mib());
    throughput(&engine, &provider, &client, 1).await;
    throughput(&engine, &provider, &client, 4).await;
    first_token(&engine, &provider, &client).await;
    engine.shutdown(Duration::from_secs(3)).await;
}

fn main() {
    println!("machine: {}", machine());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(bench());
}
