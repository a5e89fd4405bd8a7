//! What the rules cost: ranking, signatures, codec.

use aitbc_crypto::{SecretKey, open, seal};
use aitbc_protocol::{
    Digest, MicroCredits, NetworkId, NodeId,
    attestation::Tier,
    bytes::BoundedBytes,
    geo::{Cell, Location},
    job::Chunk,
    offer::{Device, DeviceKind, Engine, Load, ModelOffer, Offer},
    price::{LatencyClass, TokenPrice},
    routing::{Candidate, Policy, Work, preference::Preference, query::Conditions, rank, rank_best},
    text::Line,
    wire,
};
use aitbc_protocol::{
    gpu::{
        catalogue::Catalogue,
        classify::{Reported, classify},
    },
    messages::ToClient,
};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use std::hint::black_box;

fn model_offer(index: u64) -> ModelOffer {
    ModelOffer {
        model: Line::lossy("smollm2:135m"),
        weights: Digest([7; 32]),
        engine: Engine { name: Line::lossy("llama.cpp"), version: Line::lossy("b6000") },
        quantisation: Line::lossy("Q4_1"),
        device: Device {
            kind: DeviceKind::Gpu,
            name: Line::lossy("NVIDIA GeForce RTX 4090"),
            memory_bytes: 24 << 30,
            measured: None,
        },
        context: 4096,
        price: TokenPrice {
            prompt: MicroCredits(100 + index % 300),
            completion: MicroCredits(500 + index % 1700),
        },
        speed: 20_000 + (index * 7919 % 200_000) as u32,
        declared: false,
        private: None,
    }
}

fn ranking(criterion: &mut Criterion) {
    let offers: Vec<ModelOffer> = (0..100_000).map(model_offer).collect();
    let candidates: Vec<Candidate<'_>> = offers
        .iter()
        .zip(0u64..)
        .map(|(offer, index)| Candidate {
            provider: NodeId(Digest::of(&index.to_le_bytes()).0),
            offer,
            slots: 4,
            load: Load { running: (index % 6) as u32, queued: (index % 3) as u32 },
            tier: Tier::None,
            distance_km: (index * 104_729 % 12_000) as f64,
            estimated_ms: index.is_multiple_of(2).then_some((index % 190) as f64),
            round_trip_ms: index.is_multiple_of(3).then_some((index % 250) as f64),
            offline_ms: None,
            failures: 0.0,
            speed_seen: None,
            prefill_seen: None,
            rests_ms: None,
            lateness: 0.0,
            shown_bytes: 0,
            quality: aitbc_protocol::qos::Quality::default(),
        })
        .collect();
    let policy = Policy {
        model: Line::lossy("smollm2:135m"),
        preference: Preference::Balanced,
        weights: None,
        work: Work::Ordinary,
        prompt_tokens: 200,
        completion_tokens: 500,
        latency_budget_ms: 150.0,
        latency: LatencyClass::Standard,
        ceiling: Some(MicroCredits(900)),
        allow_declared: false,
        min_trust: Tier::None,
        least_shown: 0,
        physical: true,
        conditions: Conditions::default(),
        named: false,
        exclude: Vec::new(),
    };
    criterion.bench_function("rank 10,000 offers (goal 5 ms)", |bencher| {
        bencher.iter(|| rank(black_box(&candidates[..10_000]), black_box(&policy)));
    });
    criterion.bench_function("decide among 100,000 offers (goal 20 ms)", |bencher| {
        bencher.iter(|| {
            let best = rank_best(black_box(&candidates), black_box(&policy), 512);
            policy.preference.pick(best.iter().map(|ranked| ranked.cost), 7)
        });
    });
}

fn offer() -> Offer {
    Offer {
        sequence: 1_700_000_000_000,
        issued_ms: 1_700_000_000_000,
        expires_ms: 1_700_001_800_000,
        cell: Cell::at(&Location { latitude: 48.85, longitude: 2.35 }, 4),
        addresses: vec![
            Line::lossy("/ip4/203.0.113.7/udp/4101/quic-v1"),
            Line::lossy("/ip4/203.0.113.7/tcp/4101"),
        ],
        devices: vec![model_offer(0).device],
        models: (0..4).map(model_offer).collect(),
        slots: 4,
        attested: Vec::new(),
        policies: Vec::new(),
        shown: Vec::new(),
        bandwidth: None,
        coordinate: None,
        agent: Line::lossy("aitbc/0.1.0"),
    }
}

fn statements(criterion: &mut Criterion) {
    let key = SecretKey::from_bytes(&[7; 32]);
    let network = NetworkId::new("main").expect("a literal name");
    let offer = offer();
    let signed = seal(&key, &network, &offer).expect("fits");
    criterion.bench_function("seal an offer of four models", |bencher| {
        bencher.iter(|| seal(&key, &network, black_box(&offer)));
    });
    criterion.bench_function("open an offer of four models", |bencher| {
        bencher.iter(|| open(black_box(&signed), &network));
    });
}

fn codec(criterion: &mut Criterion) {
    let chunk = ToClient::Chunk(Chunk {
        first: 17,
        count: 1,
        tokens: vec![30_000],
        text: " planets".to_owned(),
        logprobs: Vec::new(),
        embeddings: Vec::new(),
        sealed: BoundedBytes::default(),
        sent_ms: None,
    });
    criterion.bench_function("encode a chunk of one token", |bencher| {
        bencher.iter(|| wire::encode_frame(black_box(&chunk), wire::MAX_JOB_FRAME));
    });
    let bytes = wire::encode(&chunk, wire::MAX_JOB_FRAME).expect("fits");
    criterion.bench_function("decode a chunk of one token", |bencher| {
        bencher.iter_batched(
            || bytes.clone(),
            |bytes| wire::decode::<ToClient>(black_box(&bytes), wire::MAX_JOB_FRAME),
            BatchSize::SmallInput,
        );
    });
}

fn gpus(criterion: &mut Criterion) {
    criterion.bench_function("read the GPU catalogue (goal 20 ms)", |bencher| bencher.iter(Catalogue::read));
    let names = [
        "NVIDIA GeForce RTX 3060 Laptop GPU",
        "AMD Radeon RX 6600 (RADV NAVI23)",
        "Mesa Intel(R) UHD Graphics 620 (KBL GT2)",
        "ANGLE (NVIDIA, NVIDIA GeForce GTX 1650 (0x00001F82) Direct3D11 vs_5_0 ps_5_0, D3D11)",
    ];
    criterion.bench_function("tell what four GPU names mean", |bencher| {
        bencher.iter(|| names.map(|name| classify(black_box(&Reported { name, ..Reported::default() }))));
    });
}

criterion_group!(rules, ranking, statements, codec, gpus);
criterion_main!(rules);
