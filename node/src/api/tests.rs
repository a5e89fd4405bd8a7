//! The server over real sockets.

use super::*;
use crate::{
    routing::{JobUpdate, RunningRequest},
    telemetry::Metrics,
};
use aitbc_protocol::JobId;
use axum::{extract::State, response::Response, routing::post};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    task::JoinHandle,
};

/// Long enough for any machine; only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server with the guards of the real one around `routes`.
struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    serving: JoinHandle<()>,
    metrics: Metrics,
}

async fn serve(routes: Router) -> Server {
    let config = ApiConfig { listen: SocketAddr::from(([127, 0, 0, 1], 0)), token_file: None };
    let listener = TcpListener::bind(config.listen).await.unwrap();
    let (address, stop, metrics) = (listener.local_addr().unwrap(), CancellationToken::new(), Metrics::default());
    let router = guarded(routes, Gate::new(&config).unwrap(), RequestMetrics::new(&metrics));
    let serving = tokio::spawn(server::serve(listener, router, stop.clone(), Duration::from_millis(50)));
    Server { address, stop, serving, metrics }
}

impl Server {
    async fn send(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    /// Sends a request on a connection of its own and reads the answer to its end.
    async fn ask(&self, line: &str, headers: &str, body: &str) -> String {
        let length = body.len();
        let request =
            format!("{line} HTTP/1.1\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}");
        let mut stream = self.send(&request).await;
        let mut answer = String::new();
        tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        answer
    }
}

/// A route whose jobs the test plays: each request hands out the sending end of its job.
fn played() -> (Router, mpsc::Receiver<mpsc::Sender<JobUpdate>>) {
    let (jobs, taken) = mpsc::channel::<mpsc::Sender<JobUpdate>>(4);
    let follow = async |State(jobs): State<mpsc::Sender<mpsc::Sender<JobUpdate>>>| -> Response {
        let (sender, updates) = mpsc::channel(4);
        jobs.send(sender).await.unwrap();
        let running = RunningRequest { job: JobId([1; 16]), updates };
        control::follow(running, Places::new(1).take().unwrap())
    };
    // Like an answer that is not streamed: the handler itself waits for the job.
    let wait = async |State(jobs): State<mpsc::Sender<mpsc::Sender<JobUpdate>>>| -> String {
        let (sender, updates) = mpsc::channel(4);
        jobs.send(sender).await.unwrap();
        let mut running = RunningRequest { job: JobId([1; 16]), updates };
        while running.updates.recv().await.is_some() {}
        "done".to_owned()
    };
    (Router::new().route("/follow", post(follow)).route("/wait", post(wait)).with_state(jobs), taken)
}

fn delta() -> JobUpdate {
    JobUpdate::Delta { text: "x".to_owned(), tokens: vec![1], logprobs: vec![] }
}

const HOST: &str = "host: localhost\r\n";

#[tokio::test]
async fn a_client_that_leaves_a_stream_cancels_its_job() {
    let (routes, mut jobs) = played();
    let server = serve(routes).await;
    let mut client = server.send("POST /follow HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n").await;
    let job = jobs.recv().await.unwrap();
    job.send(delta()).await.unwrap();
    let mut head = [0; 64];
    assert!(client.read(&mut head).await.unwrap() > 0);
    assert!(!job.is_closed());
    drop(client);
    tokio::time::timeout(PATIENCE, job.closed()).await.expect("the job is cancelled");
}

#[tokio::test]
async fn a_client_that_leaves_before_its_answer_cancels_its_job() {
    let (routes, mut jobs) = played();
    let server = serve(routes).await;
    let client = server.send("POST /wait HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n").await;
    let job = jobs.recv().await.unwrap();
    assert!(!job.is_closed());
    drop(client);
    tokio::time::timeout(PATIENCE, job.closed()).await.expect("the job is cancelled");
}

#[tokio::test]
async fn a_stopping_server_lets_answers_end_and_cuts_the_rest() {
    let (routes, mut jobs) = played();
    let server = serve(routes).await;
    let request = "POST /wait HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n";
    let mut ending = server.send(request).await;
    let ends = jobs.recv().await.unwrap();
    let _lasting = server.send(request).await;
    let lasts = jobs.recv().await.unwrap();
    server.stop.cancel();
    drop(ends);
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, ending.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.ends_with("done"), "{answer}");
    tokio::time::timeout(PATIENCE, server.serving).await.expect("the server ends").unwrap();
    assert!(lasts.is_closed());
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn guards_stand_around_every_route_and_refuse_in_one_shape() {
    let routes = Router::new().route("/v1/models", get(async || "models")).route("/echo", post(echo));
    let server = serve(routes).await;
    let starts = |answer: &str, status: &str| {
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        let document = answer.split_once("\r\n\r\n").unwrap().1;
        if status != "200" {
            assert!(document.starts_with(r#"{"schema":"aitbc.error/1","error":{"message":""#), "{document}");
        }
    };
    starts(&server.ask("GET /healthz", HOST, "").await, "200");
    starts(&server.ask("GET /v1/models", HOST, "").await, "200");
    starts(&server.ask("GET /v1/models", "host: evil.example\r\n", "").await, "403");
    starts(&server.ask("GET /nowhere", "host: evil.example\r\n", "").await, "403");
    starts(&server.ask("POST /echo", &format!("{HOST}origin: https://evil.example\r\n"), "{}").await, "403");
    starts(&server.ask("GET /nowhere", HOST, "").await, "404");
    starts(&server.ask("DELETE /v1/models", HOST, "").await, "405");
    starts(&server.ask("POST /echo", HOST, &"x".repeat(body::MAX_BODY)).await, "200");
    starts(&server.ask("POST /echo", HOST, &"x".repeat(body::MAX_BODY + 1)).await, "413");

    let metrics = server.metrics.encode();
    assert!(metrics.contains(r#"aitbc_api_requests_total{route="/v1/models",status="403"} 1"#), "{metrics}");
    assert!(metrics.contains(r#"aitbc_api_requests_total{route="other",status="404"} 1"#), "{metrics}");
    assert!(metrics.contains(r#"aitbc_api_request_seconds_count{route="/echo"} 3"#), "{metrics}");
}

async fn echo(payload: body::Payload) -> String {
    payload.0.len().to_string()
}

#[test]
fn places_are_bounded_and_come_back() {
    let places = Places::new(1);
    let place = places.take().unwrap();
    assert_eq!(places.take().unwrap_err(), Failure::too_many(1));
    drop(place);
    assert!(places.take().is_ok());
}
