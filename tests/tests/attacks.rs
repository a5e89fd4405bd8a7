//! Hostile peers against a real provider and a real client: quotes, cheques, frames, streams, offers.

use aitbc_crypto::{SecretKey, seal};
use aitbc_node::network::{FramedStream, Protocol};
use aitbc_protocol::messages::{QuoteReply, QuoteRequest, ToClient, ToProvider};
use aitbc_protocol::{
    Digest, JobId, MicroCredits, Signed,
    geo::{Cell, Location},
    gossip::Gossip,
    job::{Chunk, Finish, JobSpec, Rejection},
    offer::{Device, DeviceKind, Engine, ModelOffer, Offer},
    price::{LatencyClass, TokenPrice},
    quote::Quote,
    receipt::Channel,
    text::Line,
    wire,
};
use aitbc_tests::{
    Peer, Process, ProcessBuilder, eventually,
    peer::local,
    process::{MODEL, PATIENCE, answer, collect, question},
};
use futures::StreamExt;
use libp2p::Multiaddr;
use std::time::Duration;

fn now_ms() -> u64 {
    aitbc_node::clock::now_ms()
}

fn addresses(process: &Process) -> Vec<Multiaddr> {
    process.addresses.iter().map(|address| address.parse().expect("a multiaddress")).collect()
}

fn spec(max_tokens: u32) -> JobSpec {
    let request = question("Write the numbers from one to ninety in words.", max_tokens);
    serde_json::from_value(request["spec"].clone()).expect("a request")
}

async fn provider() -> Process {
    let provider = ProcessBuilder::new("provider", "48.85,2.35").relay().provide().start().await;
    provider.offering().await;
    provider
}

async fn open(peer: &Peer, provider: &Process, protocol: Protocol) -> FramedStream {
    peer.network.open(provider.id, addresses(provider), protocol).await.expect("a stream")
}

/// Asks for a quote with any key.
async fn ask(peer: &Peer, key: &SecretKey, provider: &Process, job: JobId, spec: &JobSpec) -> QuoteReply {
    let request = QuoteRequest {
        job,
        provider: provider.id,
        spec: spec.clone(),
        latency: LatencyClass::Standard,
        issued_ms: now_ms(),
    };
    let mut stream = open(peer, provider, Protocol::Quote).await;
    let signed = seal(key, &local(), &request).expect("fits");
    stream.send(&signed, wire::MAX_QUOTE_FRAME).await.expect("sent");
    stream.receive(wire::MAX_QUOTE_FRAME).await.expect("a frame").expect("an answer")
}

async fn quote(peer: &Peer, provider: &Process, job: JobId, spec: &JobSpec) -> Signed<Quote> {
    match ask(peer, &peer.key, provider, job, spec).await {
        QuoteReply::Quote(quote) => quote,
        QuoteReply::Rejected(rejection) => panic!("{rejection}"),
    }
}

async fn receive(stream: &mut FramedStream) -> Option<ToClient> {
    tokio::time::timeout(PATIENCE, stream.receive(wire::MAX_JOB_FRAME)).await.expect("in time").ok().flatten()
}

/// Opens a job; its stream, past `Accepted`.
async fn start(
    peer: &Peer,
    provider: &Process,
    quote: &Signed<Quote>,
    spec: &JobSpec,
) -> Result<FramedStream, Rejection> {
    let mut stream = open(peer, provider, Protocol::Job).await;
    let message = ToProvider::Open { quote: quote.clone(), spec: spec.clone() };
    stream.send(&message, wire::MAX_JOB_FRAME).await.expect("sent");
    match receive(&mut stream).await {
        Some(ToClient::Accepted { .. }) => Ok(stream),
        Some(ToClient::Rejected(rejection)) => Err(rejection),
        other => panic!("{other:?}"),
    }
}

/// Reads chunks until `tokens` are here.
async fn read_tokens(stream: &mut FramedStream, tokens: u32) -> u32 {
    let mut have = 0;
    while have < tokens {
        match receive(stream).await {
            Some(ToClient::Chunk(Chunk { first, count, .. })) => {
                assert_eq!(first, have, "chunks are numbered without gaps");
                have += count;
            }
            other => panic!("{other:?} after {have} tokens"),
        }
    }
    have
}

/// What comes after all chunks.
async fn read_end(stream: &mut FramedStream) -> Option<ToClient> {
    loop {
        match receive(stream).await {
            Some(ToClient::Chunk(_)) => {}
            other => return other,
        }
    }
}

#[tokio::test]
async fn a_provider_stops_at_one_unpaid_window_and_remembers_the_debt() {
    let provider = provider().await;
    let thief = Peer::start(&addresses(&provider)).await;
    let spec = spec(300);
    let quote = quote(&thief, &provider, JobId([1; 16]), &spec).await;
    let mut stream = start(&thief, &provider, &quote, &spec).await.expect("admitted");
    assert_eq!(read_tokens(&mut stream, 64).await, 64);
    // Nothing more comes until the provider's patience ends, and then its receipt.
    match receive(&mut stream).await {
        Some(ToClient::Finished { receipt, failure, .. }) => {
            let receipt = aitbc_crypto::open(&receipt, &local()).expect("well signed");
            assert_eq!(receipt.completion_tokens, 64);
            assert!(failure.is_some_and(|why| why.as_str().contains("cheque")), "it says why");
        }
        other => panic!("{other:?}"),
    }
    drop(stream);
    eventually("the debt counts", PATIENCE, || async {
        match ask(&thief, &thief.key, &provider, JobId([2; 16]), &spec).await {
            QuoteReply::Rejected(Rejection::Debt(debt)) => (debt > MicroCredits::ZERO).then_some(()),
            _ => None,
        }
    })
    .await;
    // An honest client is served all the same.
    let honest = ProcessBuilder::new("client", "51.5,-0.1").bootstrap(&provider).start().await;
    honest.finds(1).await;
    let updates = collect(honest.job(&question("Say hello.", 16)).await).await;
    assert!(!answer(&updates).is_empty(), "{updates:?}");
}

#[tokio::test]
async fn quotes_are_for_one_client_one_request_and_one_use() {
    let provider = provider().await;
    let peer = Peer::start(&addresses(&provider)).await;
    let other = Peer::start(&addresses(&provider)).await;
    let spec = spec(4);
    let job = JobId([1; 16]);
    let quote = quote(&peer, &provider, job, &spec).await;

    let stolen = start(&other, &provider, &quote, &spec).await.map(drop);
    assert!(matches!(stolen, Err(Rejection::QuoteMismatch(_))), "{stolen:?}");
    let mut longer = spec.clone();
    longer.max_tokens = 5;
    let stretched = start(&peer, &provider, &quote, &longer).await.map(drop);
    assert!(matches!(stretched, Err(Rejection::QuoteMismatch(_))), "{stretched:?}");
    let mut payload = quote.payload().to_vec();
    let last = payload.len() - 1;
    payload[last] ^= 1;
    let altered = Signed::from_parts(quote.signer(), *quote.signature(), payload);
    let altered = start(&peer, &provider, &altered, &spec).await.map(drop);
    assert!(matches!(altered, Err(Rejection::QuoteMismatch(_))), "{altered:?}");
    // A quote of one's own making: cheaper, but signed by the wrong node.
    let mut cheap = quote.read_unverified().expect("reads");
    cheap.price = TokenPrice { prompt: MicroCredits(0), completion: MicroCredits(0) };
    cheap.max_total = MicroCredits(0);
    let own = start(&peer, &provider, &seal(&peer.key, &local(), &cheap).expect("fits"), &spec).await.map(drop);
    assert!(matches!(own, Err(Rejection::QuoteMismatch(_))), "{own:?}");

    let mut stream = start(&peer, &provider, &quote, &spec).await.expect("the real one");
    let read = quote.read_unverified().expect("reads");
    let end = read_end(&mut stream).await;
    let Some(ToClient::Finished { receipt, .. }) = end else { panic!("{end:?}") };
    let tokens = aitbc_crypto::open(&receipt, &local()).expect("well signed").completion_tokens;
    let total = read.total(tokens).expect("small");
    let (_, cheque) =
        Channel::default().promise(provider.id, &read, MicroCredits::ZERO, total, tokens, 0).expect("small");
    let cheque = seal(&peer.key, &local(), &cheque).expect("fits");
    stream.send(&ToProvider::Ack { next: tokens, cheque }, wire::MAX_JOB_FRAME).await.expect("sent");
    provider.until("is paid", |status| status["totals"]["earned"].as_u64() == Some(total.0)).await;
    let replayed = start(&peer, &provider, &quote, &spec).await.map(drop);
    assert!(matches!(replayed, Err(Rejection::QuoteUsed)), "{replayed:?}");
    // A request that somebody else signed, or that was made out to another provider.
    let foreign = ask(&peer, &other.key, &provider, JobId([3; 16]), &spec).await;
    assert!(matches!(foreign, QuoteReply::Rejected(Rejection::Invalid(_))), "{foreign:?}");
}

#[tokio::test]
async fn bad_cheques_end_the_job_and_pay_nothing() {
    let provider = provider().await;
    let spec = spec(200);
    // Each is wrong in one way; `None` is the good one, to show that the rest fails for its reason alone.
    for fault in ["none", "another key", "another pair", "another job", "lower", "undelivered", "held"] {
        let peer = Peer::start(&addresses(&provider)).await;
        let other = SecretKey::generate().expect("random numbers");
        let job = JobId(Digest::of(fault.as_bytes()).0[..16].try_into().expect("16 bytes"));
        let quote = quote(&peer, &provider, job, &spec).await;
        let read = quote.read_unverified().expect("reads");
        let mut stream = start(&peer, &provider, &quote, &spec).await.expect("admitted");
        read_tokens(&mut stream, 64).await;
        let total = read.total(64).expect("small");
        let (channel, mut cheque) =
            Channel::default().promise(provider.id, &read, MicroCredits::ZERO, total, 64, 0).expect("small");
        let mut key = &peer.key;
        match fault {
            "another key" => key = &other,
            "another pair" => cheque.provider = other.node_id(),
            "another job" => cheque.job = JobId([9; 16]),
            "held" => cheque.held = MicroCredits(cheque.cumulative.0 + 1),
            "lower" => {
                let good = seal(&peer.key, &local(), &cheque).expect("fits");
                stream.send(&ToProvider::Ack { next: 64, cheque: good }, wire::MAX_JOB_FRAME).await.expect("sent");
                let more = read.total(65).expect("small");
                cheque = channel.promise(provider.id, &read, total, more, 65, 0).expect("small").1;
                cheque.cumulative = MicroCredits(1);
            }
            "undelivered" => {
                let most = read.total(200).expect("small");
                cheque = Channel::default()
                    .promise(provider.id, &read, MicroCredits::ZERO, most, 200, 0)
                    .expect("small")
                    .1;
            }
            _ => {}
        }
        let next = cheque.tokens;
        let cheque = seal(key, &local(), &cheque).expect("fits");
        stream.send(&ToProvider::Ack { next, cheque }, wire::MAX_JOB_FRAME).await.expect("sent");
        if fault == "none" {
            let after = receive(&mut stream).await;
            assert!(matches!(after, Some(ToClient::Chunk(_))), "a good cheque lets the job go on: {after:?}");
            continue;
        }
        match read_end(&mut stream).await {
            Some(ToClient::Finished { receipt, .. }) => {
                let receipt = aitbc_crypto::open(&receipt, &local()).expect("well signed");
                assert_ne!(receipt.finish, Finish::Length, "{fault}: the job did not go on");
            }
            None => {}
            other => panic!("{fault}: {other:?}"),
        }
        let jobs = provider.get("jobs?limit=1").await;
        let expected = if fault == "lower" { total.0 } else { 0 };
        assert_eq!(jobs["jobs"][0]["paid"].as_u64(), Some(expected), "{fault}: {jobs}");
    }
}

#[tokio::test]
async fn frames_of_wrong_shapes_and_ten_thousand_streams_starve_nobody() {
    let provider = provider().await;
    let client = ProcessBuilder::new("client", "51.5,-0.1").bootstrap(&provider).start().await;
    client.finds(1).await;
    let attacker = Peer::start(&addresses(&provider)).await;
    let garbage: [serde_json::Value; 6] = [
        serde_json::json!(null),
        serde_json::json!([1, 2, 3]),
        serde_json::json!({"open": {}}),
        serde_json::json!({"ack": {"next": 1}}),
        serde_json::json!("cancel"),
        serde_json::json!({"settle": {"job": "x", "quote": "y", "cheque": null}}),
    ];
    for protocol in [Protocol::Job, Protocol::Quote, Protocol::Offer] {
        for message in &garbage {
            if let Ok(mut stream) = attacker.network.open(provider.id, addresses(&provider), protocol).await {
                let _ = stream.send(message, usize::MAX).await;
                let _ =
                    tokio::time::timeout(Duration::from_secs(5), stream.receive::<serde_json::Value>(1024)).await;
            }
        }
        // Larger than any limit.
        if let Ok(mut stream) = attacker.network.open(provider.id, addresses(&provider), protocol).await {
            let _ = stream.send(&"x".repeat(3 * 1024 * 1024), usize::MAX).await;
        }
    }
    let memory = |process: &Process| {
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).expect("Linux");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a size").to_owned();
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("KiB")
    };
    let before = memory(&provider);
    // A stream that is refused is reset or never answered; two seconds tell.
    let flood = futures::stream::iter(0..10_000)
        .map(|_| async {
            let opened = attacker.network.open(provider.id, addresses(&provider), Protocol::Job);
            tokio::time::timeout(Duration::from_secs(2), opened).await
        })
        .buffer_unordered(1000)
        .filter_map(|opened| async { opened.ok()?.ok() })
        .collect::<Vec<_>>();
    let honest = async {
        let updates = collect(client.job(&question("Say hello.", 24)).await).await;
        assert!(!answer(&updates).is_empty(), "{updates:?}");
    };
    let (held, ()) = tokio::join!(flood, honest);
    // Still so while the streams are held.
    let updates = collect(client.job(&question("Say hello again.", 24)).await).await;
    assert!(!answer(&updates).is_empty(), "{updates:?}");
    let grown = memory(&provider).saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} KiB more for {} streams", held.len());
}

fn offer(sequence: u64, speed: u32) -> Offer {
    let now = now_ms();
    Offer {
        sequence,
        issued_ms: now,
        expires_ms: now + 600_000,
        cell: Cell::at(&Location { latitude: 51.5, longitude: -0.1 }, 4),
        addresses: vec![Line::lossy("/ip4/127.0.0.1/tcp/9")],
        devices: Vec::new(),
        models: vec![ModelOffer {
            model: Line::lossy(MODEL),
            weights: Digest([7; 32]),
            engine: Engine { name: Line::lossy("llama.cpp"), version: Line::lossy("1") },
            quantisation: Line::lossy("Q4_1"),
            device: Device {
                kind: DeviceKind::Gpu,
                name: Line::lossy("a lie"),
                memory_bytes: 1 << 40,
                measured: None,
            },
            context: 4096,
            price: TokenPrice { prompt: MicroCredits(1), completion: MicroCredits(1) },
            speed,
            declared: false,
            private: None,
        }],
        slots: 1,
        attested: Vec::new(),
        policies: Vec::new(),
        shown: Vec::new(),
        bandwidth: None,
        coordinate: None,
        agent: Line::lossy("test"),
    }
}

async fn known(client: &Process, peer: &Peer) -> Option<u64> {
    let offers = client.get("offers").await;
    let id = peer.id().to_string();
    offers["offers"]
        .as_array()
        .expect("offers")
        .iter()
        .find(|offer| offer["provider"] == id)
        .and_then(|offer| offer["offer"]["sequence"].as_u64())
}

#[tokio::test]
async fn offers_replayed_altered_or_contradictory_are_not_believed() {
    let client = ProcessBuilder::new("client", "51.5,-0.1").relay().start().await;
    let liar = Peer::start(&addresses(&client)).await;
    client.connected().await;
    let cell = offer(1, 1).cell;
    let publish = |signed: Signed<Offer>| {
        let network = liar.network.clone();
        async move { network.publish(cell, &Gossip::Offer(signed)).await.expect("published") }
    };
    let sealed = |offer: &Offer| seal(&liar.key, &local(), offer).expect("fits");
    let base = now_ms();
    // A good one arrives; repeated until the mesh of the topic has formed.
    let first = offer(base, 1000);
    let mut sequence = base;
    eventually("a good offer is known", PATIENCE, || {
        sequence += 1;
        let again = sealed(&Offer { sequence, ..first.clone() });
        let (publish, client, liar) = (&publish, &client, &liar);
        async move {
            publish(again).await;
            known(client, liar).await
        }
    })
    .await;
    let newest = known(&client, &liar).await.expect("known");
    // An older one changes nothing.
    publish(sealed(&offer(base - 5, 9999))).await;
    // A newer one is taken: what came before it was judged by then.
    let newer = newest + 1000;
    let believed = offer(newer, 2000);
    publish(sealed(&believed)).await;
    eventually("the newer offer is known", PATIENCE, || async {
        (known(&client, &liar).await == Some(newer)).then_some(())
    })
    .await;
    // The same number with other words: the liar is dropped, and the proof is kept.
    publish(sealed(&Offer { slots: 64, ..believed })).await;
    eventually("the liar is dropped", PATIENCE, || async { known(&client, &liar).await.is_none().then_some(()) })
        .await;
    let updates = collect(client.job(&question("Hello", 4)).await).await;
    assert_eq!(updates.last().expect("an end")["event"], "failed", "nobody trusts it with a job");
}
