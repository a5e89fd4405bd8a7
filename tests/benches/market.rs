//! What the market's rules and its ledger cost.

use aitbc_crypto::{SecretKey, seal};
use aitbc_node::{market::Ledger, storage::Store, telemetry::Metrics};
use aitbc_protocol::{
    Digest, JobId, MicroCredits, NetworkId, NodeId, Nonce,
    holdback::Audit,
    job::{Finish, Sampling},
    offer::{Device, DeviceKind, Engine},
    price::{Adjustment, Inputs, LatencyClass, TokenPrice, price},
    qos::{Testimony, Voice, rate},
    quote::{QUOTE_LIFETIME_MS, Quote},
    receipt::{OutputDigest, Receipt, Timings},
    sla::verdict,
    terms::Terms,
    text::Line,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures::future::join_all;
use std::{hint::black_box, time::Instant};

const PRICE: TokenPrice = TokenPrice { prompt: MicroCredits(300), completion: MicroCredits(1_700) };
const MOST: u32 = u32::MAX / 2;

fn inputs() -> Inputs {
    Inputs {
        latency: LatencyClass::Fast,
        capability: Some(620_000),
        round_trip_ms: None,
        queue: 3,
        utilisation: 750_000,
        cell_utilisation: Some(600_000),
        hour: 19,
        utc_offset_minutes: 0,
        context_used: 310,
        context: 2_048,
    }
}

fn quote(number: u64, client: NodeId) -> Quote {
    let adjustment = Adjustment::of(inputs(), MicroCredits(400));
    let max_total = price(&PRICE, &adjustment, 10, MOST).expect("it fits");
    let mut nonce = [0; 16];
    nonce[..8].copy_from_slice(&number.to_le_bytes());
    Quote {
        nonce: Nonce(nonce),
        client,
        job: JobId(nonce),
        request: Digest([4; 32]),
        model: Line::lossy("smollm2:135m"),
        weights: Digest([5; 32]),
        prompt_tokens: 10,
        max_completion_tokens: MOST,
        price: PRICE,
        adjustment,
        terms: Terms { first_token_ms: 127, penalty_from_ms: 510, speed: 5_000 },
        audit: Audit::of(max_total, 0),
        max_total,
        window: 64,
        declared: false,
        issued_ms: 0,
        expires_ms: QUOTE_LIFETIME_MS,
    }
}

fn rules(criterion: &mut Criterion) {
    criterion.bench_function("price a job: all factors and the total", |bencher| {
        bencher.iter(|| {
            let adjustment = Adjustment::of(black_box(inputs()), MicroCredits(400));
            price(&PRICE, &adjustment, 10, 300)
        });
    });
    let quote = quote(1, NodeId([1; 32]));
    criterion.bench_function("check a price", |bencher| {
        bencher.iter(|| black_box(&quote).adjustment.check(&PRICE).map(|_| quote.total(300)));
    });
    let receipt = Receipt {
        job: quote.job,
        client: quote.client,
        quote: quote.nonce,
        request: quote.request,
        model: quote.model.clone(),
        weights: quote.weights,
        engine: Engine { name: Line::lossy("llama.cpp"), version: Line::lossy("b6000") },
        quantisation: Line::lossy("Q4_1"),
        device: Device { kind: DeviceKind::Cpu, name: Line::lossy("cpu"), memory_bytes: 0, measured: None },
        sampling: Sampling { temperature: 0.0, top_p: 1.0, seed: 1 },
        prompt_tokens: 10,
        completion_tokens: 300,
        output: OutputDigest::Tokens(Digest([6; 32])),
        declared: false,
        finish: Finish::Stop,
        price: PRICE,
        total: quote.total(300).expect("it fits"),
        penalty: MicroCredits::ZERO,
        admitted_ms: 1,
        timings: Timings { queued_ms: 3, first_token_ms: 900, total_ms: 70_000, paused_ms: 0 },
        sealed: None,
    };
    assert!(
        verdict(&quote, &receipt).penalty > MicroCredits::ZERO,
        "a late job, all of whose times are looked at"
    );
    criterion.bench_function("verdict on a receipt", |bencher| {
        bencher.iter(|| verdict(black_box(&quote), black_box(&receipt)));
    });
    let voices: Vec<Voice> = (0..256u32)
        .map(|index| Voice {
            testimony: Testimony {
                latency: Some(index * 3_900 % 1_000_000),
                accuracy: Some(900_000 + index),
                uptime: Some(990_000),
                jobs: 4,
                paid: 1_000,
            },
            weight: 1 + u64::from(index) * 7_919 % 100_000,
        })
        .collect();
    criterion.bench_function("score by 256 voices", |bencher| {
        bencher.iter(|| rate(None, black_box(&voices), 1_000, Some(500_000), Some(500_000)));
    });
}

/// Cheques of jobs that run side by side, each on the disk before its call returns.
fn ledger(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    // Beside the build, so on a disk: a directory in memory would sync nothing.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let (client, provider) = (SecretKey::from_bytes(&[1; 32]), SecretKey::from_bytes(&[2; 32]));
    let network = NetworkId::new("bench").expect("a name");
    let store = Store::open(directory.path()).expect("a new database");
    let ledger = Ledger::start(store, client.clone(), network.clone(), &Metrics::default()).expect("a new ledger");
    let mut number = 0;
    for jobs in [1usize, 64] {
        let mut group = criterion.benchmark_group("cheques, each synced");
        group.throughput(Throughput::Elements(jobs as u64)).sample_size(20);
        let mut nonces = Vec::new();
        for _ in 0..jobs {
            number += 1;
            let quote = quote(number, client.node_id());
            let (id, nonce) = (quote.job, quote.nonce);
            let signed = seal(&provider, &network, &quote).expect("it fits");
            runtime.block_on(ledger.open(provider.node_id(), Vec::new(), id, signed)).expect("opened");
            runtime.block_on(ledger.accepted(nonce)).expect("accepted");
            nonces.push(nonce);
        }
        let mut tokens = 0;
        group.bench_function(format!("{jobs} at once"), |bencher| {
            bencher.iter_custom(|rounds| {
                let started = Instant::now();
                for _ in 0..rounds {
                    tokens += 1;
                    let cheques = nonces.iter().map(|nonce| ledger.pay(*nonce, tokens));
                    for cheque in runtime.block_on(join_all(cheques)) {
                        cheque.expect("signed and on the disk");
                    }
                }
                started.elapsed()
            });
        });
        group.finish();
    }
}

criterion_group!(market, rules, ledger);
criterion_main!(market);
