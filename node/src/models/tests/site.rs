//! An HTTP server with one file and faults on request.

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::{StreamExt, stream};
use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

/// The entity tag of every file.
pub(super) const TAG: &str = "\"v1\"";
const PIECE: usize = 10_000;

/// How a request is answered.
#[derive(Clone, Copy, Debug)]
pub(super) enum Answer {
    /// As HTTP says, ranges too.
    Whole,
    /// All of it, whatever is asked for.
    NoRanges,
    /// The connection ends after that many bytes.
    BreakAfter(usize),
    /// Nothing comes after that many bytes.
    StallAfter(usize),
    /// No file.
    Status(u16),
}

/// One request.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) range: Option<String>,
    pub(super) if_range: Option<String>,
    pub(super) sent: u64,
}

impl Seen {
    pub(super) fn start(&self) -> Option<u64> {
        self.range.as_deref()?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

#[derive(Clone)]
struct Files {
    content: Arc<Vec<u8>>,
    /// One a request; the last one answers all further requests.
    answers: Arc<Vec<Answer>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

pub(super) struct Site {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    server: tokio::task::JoinHandle<()>,
}

impl Site {
    pub(super) async fn start(content: Vec<u8>, answers: Vec<Answer>) -> Self {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("bind");
        let address = listener.local_addr().expect("address");
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let files = Files { content: Arc::new(content), answers: Arc::new(answers), seen: Arc::clone(&seen) };
        let router = Router::new().fallback(answer).with_state(files);
        let server = tokio::spawn(async move { axum::serve(listener, router).await.expect("serve") });
        Self { address, seen, server }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/model.gguf", self.address)
    }

    pub(super) fn requests(&self) -> Vec<Seen> {
        self.seen.lock().expect("no panic").clone()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(State(files): State<Files>, headers: HeaderMap) -> Response {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let mut seen = Seen { range: text(header::RANGE), if_range: text(header::IF_RANGE), sent: 0 };
    let answer = {
        let index = files.seen.lock().expect("no panic").len();
        files.answers[index.min(files.answers.len() - 1)]
    };
    let fresh = seen.if_range.as_deref().is_none_or(|tag| tag == TAG);
    let start = match answer {
        Answer::NoRanges => 0,
        _ if fresh => seen.start().unwrap_or(0) as usize,
        _ => 0,
    };
    let whole = files.content.len();
    let response = if let Answer::Status(status) = answer {
        StatusCode::from_u16(status).expect("a status").into_response()
    } else if start >= whole {
        StatusCode::RANGE_NOT_SATISFIABLE.into_response()
    } else {
        let end = match answer {
            Answer::BreakAfter(bytes) | Answer::StallAfter(bytes) => (start + bytes).min(whole),
            _ => whole,
        };
        seen.sent = (end - start) as u64;
        let pieces: Vec<_> =
            files.content[start..end].chunks(PIECE).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        let pieces = stream::iter(pieces);
        let body = match answer {
            Answer::BreakAfter(_) => {
                Body::from_stream(pieces.chain(stream::once(async {
                    // The server needs a moment to send what it has.
                    tokio::task::yield_now().await;
                    Err(io::Error::other("broken on request"))
                })))
            }
            Answer::StallAfter(_) => Body::from_stream(pieces.chain(stream::pending())),
            _ => Body::from_stream(pieces),
        };
        let mut response = Response::new(body);
        let set = |response: &mut Response, name, value: String| {
            response.headers_mut().insert(name, value.parse().expect("a header"));
        };
        set(&mut response, header::ETAG, TAG.to_owned());
        set(&mut response, header::CONTENT_LENGTH, (whole - start).to_string());
        if start > 0 {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            set(&mut response, header::CONTENT_RANGE, format!("bytes {start}-{}/{whole}", whole - 1));
        }
        response
    };
    files.seen.lock().expect("no panic").push(seen);
    response
}
