//! A small HTTP server that speaks OpenAI's protocol: a cloud, or the server behind a provider.

use crate::process::MODEL;
use axum::{
    Json, Router,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use std::{
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};
use tempfile::TempDir;

/// The key that settings made here name.
pub const KEY: &str = "sk-hunter2-of-the-test";
/// Tokens that the server says every prompt has.
pub const PROMPT_TOKENS: u64 = 40;
/// Tokens that it says every answer has.
pub const ANSWER_TOKENS: u64 = 3;

/// Such a server, with one model.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Authorization and body of each request.
    seen: Vec<(Option<String>, Value)>,
    /// What it answers in place of an answer.
    refuses: Option<u16>,
}

impl Server {
    /// One that answers.
    pub async fn start() -> Self {
        let shared = Arc::<Mutex<Shared>>::default();
        let list = json!({"object": "list", "data": [{"id": MODEL, "max_model_len": 4096}]});
        let router = Router::new()
            .route("/v1/models", get(move || async move { Json(list) }))
            .route("/v1/chat/completions", post(complete))
            .with_state(shared.clone());
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let task = tokio::spawn(async move { axum::serve(listener, router).await.expect("it serves") });
        Self { address, shared, task }
    }

    /// From now on it answers requests with this status; with an answer if there is none.
    pub fn refuse(&self, status: Option<u16>) {
        lock(&self.shared).refuses = status;
    }

    /// Authorization and body of all requests so far.
    pub fn seen(&self) -> Vec<(Option<String>, Value)> {
        lock(&self.shared).seen.clone()
    }

    /// A home whose settings name this server as the cloud, at `price` for a thousand tokens of prompt and answer.
    pub fn as_cloud(&self, fallback: &str, price: u64) -> TempDir {
        let home = tempfile::tempdir().expect("a directory");
        let key = home.path().join("cloud-key");
        write_private(&key, KEY, 0o600);
        let key = key.to_str().expect("a UTF-8 path").to_owned();
        let settings = format!(
            "[client]\nfallback = \"{fallback}\"\nhedge = false\n[client.cloud]\nurl = \"http://{}/v1\"\nkey_file = {key:?}\n\
             model = \"cloud-small\"\nprice = {{ prompt = {price}, completion = {price} }}\n",
            self.address
        );
        write_settings(home, &settings)
    }

    /// A home whose settings sell what this server answers, at `price` for a thousand tokens of prompt and answer.
    pub fn as_provider(&self, price: u64) -> TempDir {
        let settings = format!(
            "[provide]\nenabled = true\nprice = {{ prompt = {price}, completion = {price} }}\n\
             [[provide.upstream]]\nurl = \"http://{}/v1\"\nmodels = [{MODEL:?}]\nslots = 4\n",
            self.address
        );
        write_settings(tempfile::tempdir().expect("a directory"), &settings)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(shared: &Mutex<Shared>) -> std::sync::MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The home, with settings in its file.
pub fn write_settings(home: TempDir, settings: &str) -> TempDir {
    let directory = home.path().join(".config/aitbc");
    std::fs::create_dir_all(&directory).expect("a directory");
    std::fs::write(directory.join("config.toml"), settings).expect("written");
    home
}

/// Writes a file with a mode.
pub fn write_private(path: &Path, text: &str, mode: u32) {
    std::fs::write(path, text).expect("written");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("a mode");
}

async fn complete(State(shared): State<Arc<Mutex<Shared>>>, request: Request) -> Response {
    let header = request.headers().get("authorization");
    let authorization = header.and_then(|value| value.to_str().ok()).map(str::to_owned);
    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.expect("a body");
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    let refuses = {
        let mut shared = lock(&shared);
        shared.seen.push((authorization, body));
        shared.refuses
    };
    if let Some(status) = refuses {
        let status = StatusCode::from_u16(status).expect("a status");
        return (status, Json(json!({"error": {"message": "no"}}))).into_response();
    }
    let piece = |text: &str| json!({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}]});
    let end = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
    let usage = json!({"prompt_tokens": PROMPT_TOKENS, "completion_tokens": ANSWER_TOKENS});
    let events = [piece("from"), piece(" the"), piece(" server"), end, json!({"choices": [], "usage": usage})];
    let text = events.iter().fold(String::new(), |text, event| text + "data: " + &event.to_string() + "\n\n");
    (StatusCode::OK, text + "data: [DONE]\n\n").into_response()
}
