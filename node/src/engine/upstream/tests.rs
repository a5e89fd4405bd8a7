//! Jobs against a small server that speaks the API, with faults on request.

use super::*;
use aitbc_protocol::job::{Finish, Message, Role, Sampling};
use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use std::{io, net::SocketAddr};

/// How a server answers jobs.
#[derive(Clone)]
enum Script {
    /// These events, then the end.
    Events(Vec<String>),
    /// The same, a millisecond apart.
    Slow(Vec<String>),
    /// Pieces without end, as fast as they are read.
    Endless,
    /// These events, then nothing and no end.
    Silence(Vec<String>),
    /// These events, then the connection breaks.
    Break(Vec<String>),
    Status(u16),
}

#[derive(Clone)]
struct Model {
    script: Script,
    seen: Arc<Mutex<Option<Seen>>>,
    /// Pieces handed to the network.
    written: watch::Sender<u64>,
    /// Responses that were dropped, finished or not.
    dropped: watch::Sender<u32>,
}

/// The last request: path, authorization, body.
type Seen = (String, Option<String>, Value);

struct CountDrop(watch::Sender<u32>);

impl Drop for CountDrop {
    fn drop(&mut self) {
        self.0.send_modify(|dropped| *dropped += 1);
    }
}

struct Server {
    address: SocketAddr,
    model: Model,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start(script: Script) -> Self {
        let model =
            Model { script, seen: Arc::default(), written: watch::Sender::new(0), dropped: watch::Sender::new(0) };
        let list =
            json!({"object": "list", "data": [{"id": "tiny"}, {"id": "big:latest", "max_model_len": 32768}]});
        let router = Router::new()
            .route("/v1/models", get(move || async move { Json(list) }))
            .route("/v1/chat/completions", post(complete))
            .route("/v1/completions", post(complete))
            .with_state(model.clone());
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("bind");
        let address = listener.local_addr().expect("address");
        let task = tokio::spawn(async move { axum::serve(listener, router).await.expect("serve") });
        Self { address, model, task }
    }

    fn config(&self) -> UpstreamConfig {
        UpstreamConfig {
            url: format!("http://{}/v1", self.address),
            models: vec!["tiny".to_owned(), "big".to_owned()],
            slots: 2,
            token_file: None,
        }
    }

    async fn ready(&self) -> Upstream {
        let upstream = Upstream::start(self.config()).await;
        until(&upstream, |status| status.state == EngineState::Ready).await;
        upstream
    }

    fn seen(&self) -> Seen {
        self.model.seen.lock().expect("no panic").clone().expect("a request")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn complete(State(model): State<Model>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let header = request.headers().get("authorization");
    let authorization = header.and_then(|value| value.to_str().ok()).map(str::to_owned);
    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.expect("a body");
    let body = serde_json::from_slice(&body).expect("JSON");
    *model.seen.lock().expect("no panic") = Some((path, authorization, body));
    let (events, rest) = match model.script {
        Script::Status(status) => {
            // What a server says of a failure may quote the prompt.
            let body = Json(json!({"error": {"message": "cannot answer: my secret prompt"}}));
            return (StatusCode::from_u16(status).expect("a status"), body).into_response();
        }
        Script::Events(events) => (events, stream::empty().boxed()),
        Script::Break(events) => (events, stream::once(break_after_flush()).boxed()),
        Script::Slow(events) => {
            let slow = stream::iter(events).then(async |event| {
                tokio::time::sleep(Duration::from_millis(1)).await;
                Ok(Bytes::from(event))
            });
            (Vec::new(), slow.boxed())
        }
        Script::Silence(events) => (events, stream::pending().boxed()),
        Script::Endless => (Vec::new(), stream::repeat_with(|| Ok(Bytes::from(piece(&"x".repeat(500))))).boxed()),
    };
    let events = stream::iter(events.into_iter().map(|event| Ok(Bytes::from(event))));
    let (guard, written) = (CountDrop(model.dropped), model.written);
    let body = events.chain(rest).inspect(move |_| {
        let _ = &guard;
        written.send_modify(|written| *written += 1);
    });
    Response::new(Body::from_stream(body))
}

/// Breaks the connection once the server had the time to send what it has.
async fn break_after_flush() -> io::Result<Bytes> {
    tokio::task::yield_now().await;
    Err(io::Error::other("broken on request"))
}

fn event(value: &Value) -> String {
    format!("data: {value}\n\n")
}

fn piece(text: &str) -> String {
    event(&json!({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}]}))
}

fn ended(reason: &str, usage: u32) -> Vec<String> {
    vec![
        event(&json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})),
        event(&json!({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": usage}})),
        "data: [DONE]\n\n".to_owned(),
    ]
}

fn answer(texts: &[&str], reason: &str, usage: u32) -> Vec<String> {
    let role = event(&json!({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}));
    std::iter::once(role).chain(texts.iter().map(|text| piece(text))).chain(ended(reason, usage)).collect()
}

fn spec() -> JobSpec {
    JobSpec {
        model: Line::lossy("tiny"),
        weights: None,
        input: Input::Chat(vec![Message { role: Role::User, content: "my secret prompt".to_owned() }]),
        sampling: Sampling { temperature: 0.5, top_p: 0.9, seed: u64::MAX },
        max_tokens: 100,
        stop: vec!["END".to_owned()],
        top_logprobs: None,
        prefix: Vec::new(),
    }
}

async fn until(upstream: &Upstream, condition: impl FnMut(&EngineStatus) -> bool) -> EngineStatus {
    let mut status = upstream.status();
    let wait = status.wait_for(condition);
    tokio::time::timeout(Duration::from_secs(30), wait).await.expect("in time").expect("alive").clone()
}

/// The texts of all tokens and the last event.
async fn read(generation: &mut Generation) -> (Vec<String>, EngineEvent) {
    let mut texts = Vec::new();
    loop {
        match generation.events.recv().await.expect("a last event") {
            EngineEvent::Started => assert!(texts.is_empty()),
            EngineEvent::Token { id: None, text, logprobs: None } => texts.push(text),
            last => return (texts, last),
        }
    }
}

async fn run(script: Script) -> (Vec<String>, EngineEvent) {
    let server = Server::start(script).await;
    read(&mut server.ready().await.generate(&spec(), 1000).expect("started")).await
}

fn finished(event: &EngineEvent) -> Option<Finish> {
    match event {
        EngineEvent::Finished { finish, text } if text.is_empty() => Some(*finish),
        _ => None,
    }
}

#[tokio::test]
async fn a_chat_is_streamed() {
    let server = Server::start(Script::Events(answer(&["One", ", ", "two"], "stop", 3))).await;
    let upstream = server.ready().await;
    let (texts, last) = read(&mut upstream.generate(&spec(), 1000).expect("started")).await;
    assert_eq!(texts, ["One", ", ", "two"]);
    assert_eq!(finished(&last), Some(Finish::Stop));
    let (path, authorization, body) = server.seen();
    assert_eq!((path.as_str(), authorization), ("/v1/chat/completions", None));
    assert_eq!(
        body,
        json!({
            "model": "tiny", "messages": [{"role": "user", "content": "my secret prompt"}], "max_tokens": 100,
            "temperature": 0.5, "top_p": body["top_p"], "seed": 0x7fff_ffff, "stop": ["END"], "stream": true,
            "stream_options": {"include_usage": true},
        })
    );
}

#[tokio::test]
async fn text_goes_to_completions_and_the_token_with_it() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("token");
    std::fs::write(&path, "hunter2").expect("write");
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("mode");
    let text = event(&json!({"choices": [{"index": 0, "text": "done", "finish_reason": "length"}]}));
    let server = Server::start(Script::Events(vec![text, "data: [DONE]\n\n".to_owned()])).await;
    let upstream = Upstream::start(UpstreamConfig { token_file: Some(path), ..server.config() }).await;
    until(&upstream, |status| status.state == EngineState::Ready).await;
    let spec = JobSpec { input: Input::Text("go on".to_owned()), ..spec() };
    let (texts, last) = read(&mut upstream.generate(&spec, 1000).expect("started")).await;
    assert_eq!(texts, ["done"]);
    assert_eq!(finished(&last), Some(Finish::Length));
    let (path, authorization, body) = server.seen();
    assert_eq!((path.as_str(), authorization.as_deref()), ("/v1/completions", Some("Bearer hunter2")));
    assert_eq!(body["prompt"], "go on");
}

#[tokio::test]
async fn offers_only_what_is_configured_and_there() {
    let server = Server::start(Script::Status(500)).await;
    let config = UpstreamConfig { models: vec!["big".to_owned(), "absent".to_owned()], ..server.config() };
    let upstream = Upstream::start(config).await;
    let status = until(&upstream, |status| status.state == EngineState::Ready).await;
    assert_eq!(status.models.len(), 1);
    let big = &status.models[0];
    assert_eq!((big.model.as_str(), big.context, big.slots, big.declared), ("big", 32768, 2, true));
    assert_eq!(big.weights, Digest::of(b"big"));
    assert_eq!((big.device.kind, big.quantisation.as_str()), (DeviceKind::Upstream, "unknown"));
    assert_eq!(status.warnings.len(), 1);
    assert!(status.warnings[0].contains("absent") && status.warnings[0].contains("tiny"), "{:?}", status.warnings);
    assert!(matches!(upstream.generate(&spec(), 1), Err(EngineError::UnknownModel(_))));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_backed_off_from() {
    let config = UpstreamConfig {
        url: "http://127.0.0.1:1/v1".to_owned(),
        models: vec!["tiny".to_owned()],
        slots: 1,
        token_file: None,
    };
    let upstream = Upstream::start(config.clone()).await;
    let status = until(&upstream, |status| matches!(status.state, EngineState::BackingOff { .. })).await;
    let EngineState::BackingOff { reason, retry_ms } = status.state else { panic!("it is {status:?}") };
    assert!(reason.contains("http://127.0.0.1:1/v1/models"), "{reason}");
    assert_eq!(retry_ms, 1000);
    assert!(matches!(upstream.generate(&spec(), 1), Err(EngineError::NotReady(_))));

    let upstream = Upstream::start(UpstreamConfig { models: Vec::new(), ..config }).await;
    let EngineState::Unusable { reason } = upstream.status().borrow().state.clone() else { panic!("usable") };
    assert!(reason.contains("models"), "{reason}");
    assert!(matches!(upstream.generate(&spec(), 1), Err(EngineError::NotReady(_))));
}

#[tokio::test]
async fn what_cannot_be_relied_on_is_refused() {
    let server = Server::start(Script::Status(500)).await;
    let upstream = server.ready().await;
    let refused = |spec: JobSpec| match upstream.generate(&spec, 1) {
        Err(EngineError::Unsupported(reason)) => reason,
        other => panic!("{other:?}"),
    };
    assert!(refused(JobSpec { prefix: vec![1], ..spec() }).contains("continue"));
    assert!(refused(JobSpec { top_logprobs: Some(0), ..spec() }).contains("log probabilities"));
    assert!(refused(JobSpec { input: Input::Embed(vec!["x".to_owned()]), ..spec() }).contains("embeddings"));
    assert!(refused(JobSpec { weights: Some(Digest::of(b"other")), ..spec() }).contains("weights"));
    let long = JobSpec { max_tokens: 5000, ..spec() };
    assert!(matches!(upstream.generate(&long, 1), Err(EngineError::ContextTooSmall { context: 4096, .. })));
    assert_eq!(*server.model.seen.lock().expect("no panic"), None);
}

#[tokio::test]
async fn failures_are_typed_and_quote_nothing() {
    let texts = ["One", ", "];
    let cases = [
        (Script::Status(500), "500", 0),
        (Script::Status(302), "302", 0),
        (Script::Break(answer(&texts, "stop", 2)[..3].to_vec()), "http://127.0.0.1", 2),
        (Script::Events(answer(&texts, "stop", 2)[..3].to_vec()), "in the middle", 2),
        (Script::Events(answer(&texts, "content_filter", 2)), "content filter", 2),
        (Script::Events(vec![piece("One"), "data: <my secret prompt>\n\n".to_owned()]), "not a chunk", 1),
        (Script::Events(vec![event(&json!({"error": {"message": "my secret prompt"}}))]), "reported an error", 0),
        (Script::Events(vec![format!("data: {}", "x".repeat(300_000))]), "more than", 0),
    ];
    for (script, expected, count) in cases {
        let (texts, last) = run(script).await;
        let EngineEvent::Failed(EngineError::Failed(reason)) = last else { panic!("{expected}: {last:?}") };
        assert!(reason.contains(expected), "{reason}");
        assert!(!reason.contains("secret"), "{reason}");
        assert_eq!(texts.len(), count, "{expected}");
    }
    assert!(matches!(run(Script::Status(429)).await.1, EngineEvent::Failed(EngineError::Full)));
    assert!(matches!(run(Script::Status(503)).await.1, EngineEvent::Failed(EngineError::NotReady(_))));
}

#[tokio::test]
async fn the_servers_count_is_followed_as_far_as_it_can_be_true() {
    // Two pieces of 9 bytes that the server counts as 4 tokens: 4. As 1: 2, for they were told. As 1,000: 9.
    for (usage, expected) in [(4, 4), (1, 2), (1000, 9)] {
        let (texts, last) = run(Script::Events(answer(&["One, ", "two."], "stop", usage))).await;
        assert_eq!((texts.len(), texts.concat().as_str()), (expected, "One, two."), "{usage}");
        assert_eq!(finished(&last), Some(Finish::Stop));
    }
}

#[tokio::test]
async fn more_than_was_asked_for_is_cut_and_long_pieces_are_several_tokens() {
    let (texts, last) = run(Script::Endless).await;
    assert_eq!((texts.len(), finished(&last)), (100, Some(Finish::Length)));
    let (texts, _) = run(Script::Events(answer(&["\u{e9}".repeat(1500).as_str()], "stop", 1))).await;
    assert_eq!(texts.iter().map(String::len).collect::<Vec<_>>(), [1024, 1024, 952]);
}

#[tokio::test]
async fn without_allowance_the_server_is_not_read_and_a_grant_goes_on() {
    let server = Server::start(Script::Endless).await;
    let upstream = server.ready().await;
    let spec = JobSpec { max_tokens: 4000, ..spec() };
    let mut generation = upstream.generate(&spec, 2).expect("started");
    let mut texts = 0;
    while texts < 2 {
        if let EngineEvent::Token { .. } = generation.events.recv().await.expect("an event") {
            texts += 1;
        }
    }
    // The buffers between fill up and the server stops; without back-pressure this never ends.
    let mut written = server.model.written.subscribe();
    while tokio::time::timeout(Duration::from_millis(500), written.changed()).await.is_ok() {}
    assert!(generation.events.try_recv().is_err());
    generation.grant(3).await;
    for _ in 0..3 {
        let event = generation.events.recv().await.expect("an event");
        assert!(matches!(event, EngineEvent::Token { .. }), "{event:?}");
    }
}

#[tokio::test]
async fn dropping_a_job_cancels_it_at_the_server_and_frees_its_slot() {
    let server = Server::start(Script::Silence(answer(&["One"], "stop", 1)[..2].to_vec())).await;
    let upstream = server.ready().await;
    let mut dropped = server.model.dropped.subscribe();
    let mut first = upstream.generate(&spec(), 10).expect("started");
    let second = upstream.generate(&spec(), 10).expect("started");
    assert!(matches!(upstream.generate(&spec(), 10), Err(EngineError::Full)));
    while !matches!(first.events.recv().await, Some(EngineEvent::Token { .. })) {}
    drop(first);
    tokio::time::timeout(Duration::from_secs(30), dropped.wait_for(|dropped| *dropped == 1))
        .await
        .expect("the server sees it")
        .expect("alive");
    let third = upstream.generate(&spec(), 10).expect("a free slot");
    drop((second, third));
}

#[tokio::test]
async fn dropping_the_engine_fails_its_jobs() {
    let server = Server::start(Script::Silence(Vec::new())).await;
    let upstream = server.ready().await;
    let mut generation = upstream.generate(&spec(), 10).expect("started");
    drop(upstream);
    let (_, last) = read(&mut generation).await;
    assert!(matches!(last, EngineEvent::Failed(EngineError::NotReady(_))), "{last:?}");
}

#[tokio::test]
async fn speed_is_learnt_from_jobs() {
    let texts: Vec<String> = (0..40).map(|index| format!("{index} ")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let server = Server::start(Script::Slow(answer(&texts, "stop", 40))).await;
    let upstream = server.ready().await;
    assert_eq!(upstream.status().borrow().models[0].speed, 0);
    let (told, _) = read(&mut upstream.generate(&spec(), 1000).expect("started")).await;
    assert_eq!(told.concat(), texts.concat());
    let status = until(&upstream, |status| status.models[0].speed > 0).await;
    // A token a millisecond at most.
    assert!(status.models[0].speed < 1_100_000, "{}", status.models[0].speed);
}

#[tokio::test]
async fn prompts_are_counted_by_the_rule() {
    let server = Server::start(Script::Status(500)).await;
    let upstream = Upstream::start(server.config()).await;
    // 16 bytes are 6 tokens, and 8 for the message.
    assert_eq!(upstream.count_tokens(&spec()), 14);
    let text = JobSpec { input: Input::Text(String::new()), ..spec() };
    assert_eq!(upstream.count_tokens(&text), 8);
    let most = spec();
    assert!(upstream.count_tokens(&most) <= most.input.max_prompt_tokens());
}
