use super::*;
use crate::{
    engine::{EngineState, EngineStatus},
    jobs::JobsSnapshot,
    market::Totals,
    network::{Reachability, TrafficRates},
    storage::{JobRecord, Side},
};
use aitbc_crypto::{SecretKey, seal};
use aitbc_protocol::{
    JobId, MicroCredits, NetworkId, Nonce,
    coordinates::Coordinate,
    holdback::Audit,
    job::{Finish, JobState},
    price::{Adjustment, TokenPrice},
    quote::Quote,
    terms::Terms,
};
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::Semaphore;

fn place() -> OwnedSemaphorePermit {
    Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap()
}

fn delta(text: &str) -> JobUpdate {
    JobUpdate::Delta { text: text.to_owned(), tokens: vec![1], logprobs: vec![] }
}

fn finished() -> JobUpdate {
    JobUpdate::Finished { finish: Finish::Stop, prompt_tokens: 1, completion_tokens: 1, paid: MicroCredits(2) }
}

async fn lines(response: Response) -> String {
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Snapshots of documents whose fields stand in no order of meaning.
fn sorted() -> insta::internals::SettingsBindDropGuard {
    let mut settings = insta::Settings::clone_current();
    settings.set_sort_maps(true);
    settings.bind_to_scope()
}

#[tokio::test]
async fn a_job_is_told_line_by_line() {
    let (sender, updates) = mpsc::channel(4);
    for update in [delta("a\nb"), finished(), delta("after the end")] {
        sender.send(update).await.unwrap();
    }
    let text = lines(follow(RunningRequest { job: JobId([1; 16]), updates }, place())).await;
    insta::assert_snapshot!(text, @r#"
    {"event":"job","schema":"aitbc.job/1","job":"01010101010101010101010101010101"}
    {"event":"delta","text":"a\nb","tokens":[1],"logprobs":[]}
    {"event":"finished","finish":"stop","prompt_tokens":1,"completion_tokens":1,"paid":2}
    "#);
}

#[tokio::test]
async fn a_failure_is_a_line_with_its_kind() {
    let (sender, updates) = mpsc::channel(4);
    let failure = crate::routing::JobFailure::Timeout { message: "no token for 30 s".to_owned() };
    sender.send(JobUpdate::Failed(failure.clone())).await.unwrap();
    let text = lines(follow(RunningRequest { job: JobId([1; 16]), updates }, place())).await;
    let last = text.lines().last().unwrap();
    insta::assert_snapshot!(last, @r#"{"event":"failed","kind":"timeout","message":"no token for 30 s"}"#);
    let read: JobUpdate = serde_json::from_str(last).unwrap();
    assert!(matches!(read, JobUpdate::Failed(read) if read == failure));
}

#[tokio::test]
async fn a_search_ends_with_its_ranking() {
    let (sender, updates) = mpsc::channel(1);
    let search = async move {
        for ring in 0..3 {
            sender.send(JobUpdate::Searching { precision: 4, ring, found: 0 }).await.unwrap();
        }
        drop(sender);
        Vec::new()
    };
    let body = streamed(tracing::Span::none(), |writer| write_search(writer, search, updates, place()));
    insta::assert_snapshot!(lines(ndjson(body)).await, @r#"
    {"event":"searching","precision":4,"ring":0,"found":0}
    {"event":"searching","precision":4,"ring":1,"found":0}
    {"event":"searching","precision":4,"ring":2,"found":0}
    {"event":"ranking","schema":"aitbc.ranking/1","candidates":[]}
    "#);
}

#[test]
fn limits_are_refused_by_name() {
    let ask = |limit_asked| limit(Ok(Query(Limit { limit: limit_asked })));
    assert_eq!(ask(None), Ok(20));
    assert_eq!(ask(Some(1000)), Ok(1000));
    assert!(ask(Some(0)).is_err());
    assert!(ask(Some(1001)).is_err());
}

#[test]
fn the_status_document() {
    let engine = EngineStatus {
        name: "llama.cpp".to_owned(),
        state: EngineState::BackingOff { reason: "it crashed".to_owned(), retry_ms: 1000 },
        pid: None,
        models: vec![],
        warnings: vec!["a GPU is present and unused".to_owned()],
    };
    let jobs = JobsSnapshot { waiting_for: Some("an engine".to_owned()), ..JobsSnapshot::default() };
    let status = Status {
        schema: "aitbc.status/1",
        version: "0.1.0",
        node: SecretKey::from_bytes(&[1; 32]).node_id(),
        network: NetworkId::new("local").unwrap(),
        uptime_ms: 5,
        api: "http://127.0.0.1:11435".to_owned(),
        listening: vec!["/ip4/127.0.0.1/tcp/4101".to_owned()],
        addresses: vec![],
        reachability: Reachability { verdict: "unknown".to_owned(), reason: "nobody asked".to_owned() },
        peers: 2,
        traffic: TrafficRates { received: 3, sent: 4 },
        line: None,
        coordinate: Coordinate::new((30_000, -4_500), 1_200, 150).ok(),
        offers: 1,
        attestation: super::attestation::OwnStatus::default(),
        cloud: None,
        provider: Some(ProviderStatus { jobs: Arc::new(jobs), engines: Arc::new(vec![engine]) }),
        totals: Totals::default(),
    };
    insta::assert_json_snapshot!(status, @r#"
    {
      "schema": "aitbc.status/1",
      "version": "0.1.0",
      "node": "12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5",
      "network": "local",
      "uptime_ms": 5,
      "api": "http://127.0.0.1:11435",
      "listening": [
        "/ip4/127.0.0.1/tcp/4101"
      ],
      "addresses": [],
      "reachability": {
        "verdict": "unknown",
        "reason": "nobody asked"
      },
      "peers": 2,
      "traffic": {
        "received": 3,
        "sent": 4
      },
      "line": null,
      "coordinate": {
        "x": 30000,
        "y": -4500,
        "height": 1200,
        "error": 150
      },
      "offers": 1,
      "attestation": {
        "tier": "none",
        "score": null,
        "verifier": null,
        "kinds": [],
        "expires_ms": null,
        "policies": [],
        "ear": null
      },
      "cloud": null,
      "provider": {
        "running": [],
        "queued": 0,
        "offer": null,
        "waiting_for": "an engine",
        "engines": [
          {
            "name": "llama.cpp",
            "state": "backing_off",
            "reason": "it crashed",
            "retry_ms": 1000,
            "models": [],
            "warnings": [
              "a GPU is present and unused"
            ]
          }
        ]
      },
      "totals": {
        "earned": 0,
        "spent": 0,
        "given_back": 0,
        "got_back": 0,
        "owed_to_us": 0,
        "jobs_provided": 0,
        "jobs_bought": 0
      }
    }
    "#);
}

#[test]
fn a_job_is_listed_without_its_signed_bytes() {
    let (client, provider) = (SecretKey::from_bytes(&[1; 32]), SecretKey::from_bytes(&[2; 32]));
    let quote = Quote {
        nonce: Nonce([3; 16]),
        client: client.node_id(),
        job: JobId([4; 16]),
        request: Digest([5; 32]),
        model: ModelName::new("m").unwrap(),
        weights: Digest([6; 32]),
        prompt_tokens: 1,
        max_completion_tokens: 2,
        price: TokenPrice { prompt: MicroCredits(1), completion: MicroCredits(1) },
        adjustment: Adjustment::default(),
        terms: Terms::default(),
        audit: Audit::default(),
        max_total: MicroCredits(1),
        window: 64,
        declared: false,
        issued_ms: 0,
        expires_ms: 1,
    };
    let record = JobRecord {
        side: Side::Client,
        peer: provider.node_id(),
        addresses: vec![],
        job: quote.job,
        quote: seal(&provider, &NetworkId::new("local").unwrap(), &quote).unwrap(),
        execution: None,
        model: quote.model.clone(),
        state: JobState::Opening,
        finish: None,
        failure: None,
        tokens: 0,
        paid: MicroCredits::ZERO,
        cheque: None,
        receipt: None,
        refused: false,
        refunded: MicroCredits::ZERO,
        strangers_ms: 0,
        created_ms: 10,
        updated_ms: 20,
    };
    let summary: Value = serde_json::to_value(JobSummary::from(&record)).unwrap();
    let _sorted = sorted();
    insta::assert_json_snapshot!(summary, @r#"
    {
      "created_ms": 10,
      "failure": null,
      "finish": null,
      "job": "04040404040404040404040404040404",
      "model": "m",
      "paid": 0,
      "peer": "12D3KooWJWoaqZhDaoEFshF7Rh1bpY9ohihFhzcW6d69Lr2NASuq",
      "quote": "03030303030303030303030303030303",
      "receipt": null,
      "side": "client",
      "state": "opening",
      "tokens": 0,
      "updated_ms": 20
    }
    "#);
    assert!(ReceiptSummary::of(&record).is_none());
}
