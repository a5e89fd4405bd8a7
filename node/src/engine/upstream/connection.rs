//! The HTTP side of an upstream server: its URL, its token, its list of models, its errors.

use super::{EngineError, UpstreamConfig, request::Request};
use crate::http;
use reqwest::{
    Client, Response, StatusCode, Url,
    header::{AUTHORIZATION, HeaderValue},
    redirect,
};
use serde::Deserialize;
use std::{io::Read, path::Path, path::PathBuf, time::Duration};
use tokio::time::timeout;

/// Where an Ollama listens unless it is told otherwise.
const OLLAMA_URL: &str = "http://127.0.0.1:11434/v1";
/// Longest wait for an Ollama that may be there.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);
/// Longest wait for the list of models.
const LIST_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest silence before and within an answer: servers load models and read prompts in silence.
pub(super) const SILENCE: Duration = Duration::from_secs(300);
/// Largest list of models that is read, in bytes.
const MAX_LIST: usize = 1024 * 1024;
/// Largest token file, in bytes.
const MAX_TOKEN: u64 = 4096;

/// Settings that cannot work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingError {
    #[error("{setting} {url}: {reason}: write it like http://127.0.0.1:11434/v1")]
    Url { setting: &'static str, url: String, reason: String },
    #[error("{setting} {}: {reason}", path.display())]
    Token { setting: &'static str, path: PathBuf, reason: String },
    #[error("TLS for {url}: {reason}")]
    Tls { url: String, reason: String },
    #[error("upstream {url}: its list `models` is empty: name the models to offer")]
    NoModels { url: String },
}

/// Why a server does not say what it has.
#[derive(Debug, thiserror::Error)]
pub(super) enum CheckError {
    #[error("{url} cannot be reached: {reason}")]
    Unreachable { url: String, reason: String },
    #[error("{url} does not answer within {} s", LIST_TIMEOUT.as_secs())]
    Silent { url: String },
    #[error("{url} answers {status}{}", if refused(*.status) { ": check its token_file" } else { "" })]
    Status { url: String, status: StatusCode },
    #[error("{url} is no OpenAI-compatible list of models: {reason}")]
    Malformed { url: String, reason: &'static str },
}

fn refused(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

/// A model that a server lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) id: String,
    /// Context tokens, where the server tells (vLLM and SGLang, llama-server).
    pub(super) context: Option<u32>,
}

/// What the settings of a server are called, for errors that name them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names {
    pub(super) url: &'static str,
    pub(super) token: &'static str,
}

/// Those of a server that the owner offers.
const UPSTREAM: Names = Names { url: "upstream url", token: "upstream token_file" };

/// A server and how to speak with it.
#[derive(Debug)]
pub(super) struct Connection {
    client: Client,
    url: String,
    /// Marked as sensitive, so that no `Debug` form shows it.
    authorization: Option<HeaderValue>,
}

impl Connection {
    /// Checks the settings and reads the token. Nothing is sent.
    pub(super) fn new(config: &UpstreamConfig) -> Result<Self, SettingError> {
        if config.models.is_empty() {
            return Err(SettingError::NoModels { url: shown(&config.url) });
        }
        Self::open(&UPSTREAM, &config.url, config.token_file.as_deref())
    }

    /// The same by URL and token file alone.
    pub(super) fn open(names: &Names, url: &str, token_file: Option<&Path>) -> Result<Self, SettingError> {
        let authorization = token_file.map(|path| read_token(names.token, path)).transpose()?;
        let fail =
            |reason: &str| SettingError::Url { setting: names.url, url: shown(url), reason: reason.to_owned() };
        let parsed = Url::parse(url).map_err(|error| fail(&error.to_string()))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(fail("only http and https are spoken"));
        }
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(fail(&format!("it holds a user or a password; put a token into {}", names.token)));
        }
        if parsed.query().is_some() || parsed.fragment().is_some() {
            return Err(fail("it has a query or a fragment"));
        }
        let mut builder = http::client_builder().redirect(redirect::Policy::none());
        if parsed.scheme() == "http" {
            // Prompts go to the owner's server and through nobody's proxy; no certificates are needed for that.
            builder = builder.no_proxy().tls_certs_only([]);
        }
        let client = builder
            .build()
            .map_err(|error| SettingError::Tls { url: shown(url), reason: http::describe(error) })?;
        Ok(Self { client, url: url.trim_end_matches('/').to_owned(), authorization })
    }

    /// Whether the server would be sent a token over a connection that others can read: without TLS and not on this
    /// machine.
    pub(super) fn tells_its_token(&self) -> bool {
        let Ok(url) = Url::parse(&self.url) else { return false };
        let here = match url.host_str() {
            Some("localhost") => true,
            Some(host) => {
                host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
            }
            None => false,
        };
        self.authorization.is_some() && url.scheme() == "http" && !here
    }

    /// Host and port, as people know the server.
    pub(super) fn host(&self) -> String {
        let Ok(url) = Url::parse(&self.url) else { return self.url.clone() };
        let host = url.host_str().unwrap_or_default();
        url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    /// The server's URL, which holds no secret.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    fn authorized(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match &self.authorization {
            Some(value) => request.header(AUTHORIZATION, value.clone()),
            None => request,
        }
    }

    /// What the server has now.
    pub(super) async fn models(&self) -> Result<Vec<Listed>, CheckError> {
        let url = format!("{}/models", self.url);
        match timeout(LIST_TIMEOUT, self.list(&url)).await {
            Ok(result) => result,
            Err(_) => Err(CheckError::Silent { url }),
        }
    }

    async fn list(&self, url: &str) -> Result<Vec<Listed>, CheckError> {
        let unreachable = |error| CheckError::Unreachable { url: url.to_owned(), reason: http::describe(error) };
        let malformed = |reason| CheckError::Malformed { url: url.to_owned(), reason };
        let mut response = self.authorized(self.client.get(url)).send().await.map_err(unreachable)?;
        if response.status() != StatusCode::OK {
            return Err(CheckError::Status { url: url.to_owned(), status: response.status() });
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            if body.len() + chunk.len() > MAX_LIST {
                return Err(malformed("it is larger than 1 MiB"));
            }
            body.extend_from_slice(&chunk);
        }
        read_list(&body).ok_or_else(|| malformed("it has another shape"))
    }

    /// Sends a job. Errors name the server and the status and nothing of the body, which may quote the prompt.
    pub(super) async fn post(&self, request: &Request) -> Result<Response, EngineError> {
        let url = format!("{}/{}", self.url, request.path);
        let sent = self.authorized(self.client.post(&url).json(request)).send();
        let response = match timeout(SILENCE, sent).await {
            Err(_) => return Err(self.silent()),
            Ok(Err(error)) if error.is_connect() => {
                return Err(EngineError::NotReady(format!("{url} cannot be reached: {}", http::describe(error))));
            }
            Ok(Err(error)) => return Err(EngineError::Failed(format!("{url}: {}", http::describe(error)))),
            Ok(Ok(response)) => response,
        };
        match response.status() {
            StatusCode::OK => Ok(response),
            StatusCode::TOO_MANY_REQUESTS => Err(EngineError::Full),
            StatusCode::SERVICE_UNAVAILABLE => Err(EngineError::NotReady(format!("{url} answers 503"))),
            status if refused(status) => {
                Err(EngineError::Failed(format!("{url} answers {status}: it refuses the key")))
            }
            status @ StatusCode::NOT_FOUND => {
                Err(EngineError::Failed(format!("{url} answers {status}: it has no such path, or no such model")))
            }
            status => Err(EngineError::Failed(format!("{url} answers {status}"))),
        }
    }

    /// The error for a server that says nothing any more.
    pub(super) fn silent(&self) -> EngineError {
        EngineError::Failed(format!("nothing came from {} for {} s", self.url, SILENCE.as_secs()))
    }
}

#[derive(Deserialize)]
struct List {
    data: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    id: String,
    /// vLLM, SGLang.
    max_model_len: Option<u32>,
    meta: Option<Meta>,
}

/// llama-server.
#[derive(Deserialize)]
struct Meta {
    n_ctx: Option<u32>,
    n_ctx_train: Option<u32>,
}

fn read_list(body: &[u8]) -> Option<Vec<Listed>> {
    let list: List = serde_json::from_slice(body).ok()?;
    let listed = |entry: Entry| Listed {
        context: entry
            .max_model_len
            .or_else(|| entry.meta.and_then(|meta| meta.n_ctx.or(meta.n_ctx_train)))
            .filter(|context| *context > 0),
        id: entry.id.chars().filter(|character| !character.is_control()).take(128).collect(),
    };
    Some(list.data.into_iter().map(listed).collect())
}

/// The URL as it may be shown: without user and password.
pub(super) fn shown(url: &str) -> String {
    let Ok(mut parsed) = Url::parse(url) else { return "(not a URL)".to_owned() };
    if parsed.set_username("").is_err() || parsed.set_password(None).is_err() {
        return "(not a URL)".to_owned();
    }
    parsed.to_string()
}

/// The header for the token in a file that only its owner can read.
fn read_token(setting: &'static str, path: &Path) -> Result<HeaderValue, SettingError> {
    let fail = |reason: String| SettingError::Token { setting, path: path.to_owned(), reason };
    let file = std::fs::File::open(path).map_err(|error| fail(error.to_string()))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = file.metadata().map_err(|error| fail(error.to_string()))?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(fail("others can read it: chmod 600".to_owned()));
        }
    }
    let mut token = String::new();
    file.take(MAX_TOKEN).read_to_string(&mut token).map_err(|error| fail(error.to_string()))?;
    let token = token.trim();
    if token.is_empty() {
        return Err(fail("it is empty".to_owned()));
    }
    let mut value = HeaderValue::try_from(format!("Bearer {token}"))
        .map_err(|_| fail("it holds more than one line, or characters that no token has".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// The models of an Ollama on this machine; none where there is none. Only asks: offering them is the owner's word.
pub(crate) async fn find_ollama() -> Vec<String> {
    probe(OLLAMA_URL).await.unwrap_or_default()
}

async fn probe(url: &str) -> Option<Vec<String>> {
    let connection = Connection::open(&UPSTREAM, url, None).ok()?;
    let listed = timeout(PROBE_TIMEOUT, connection.models()).await.ok()?.ok()?;
    Some(listed.into_iter().map(|listed| listed.id).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> UpstreamConfig {
        UpstreamConfig { url: url.to_owned(), models: vec!["m".to_owned()], slots: 1, token_file: None }
    }

    #[test]
    fn urls_are_checked_and_secrets_in_them_not_shown() {
        assert!(Connection::new(&config("http://127.0.0.1:11434/v1/")).is_ok());
        for bad in ["ftp://host/v1", "127.0.0.1:11434", "http://me:hunter2@host/v1", "http://host/v1?key=hunter2"]
        {
            let error = Connection::new(&config(bad)).expect_err(bad).to_string();
            assert!(error.contains("http://127.0.0.1:11434/v1"), "{error}");
            assert!(!error.contains("me:hunter2"), "{error}");
        }
        let none = UpstreamConfig { models: Vec::new(), ..config("http://host/v1") };
        assert!(Connection::new(&none).expect_err("no models").to_string().contains("models"));
    }

    #[cfg(unix)]
    #[test]
    fn tokens_are_read_from_private_files_and_not_shown() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("token");
        let config = UpstreamConfig { token_file: Some(path.clone()), ..config("http://127.0.0.1:1/v1") };
        let refuse = |expected: &str| {
            let error = Connection::new(&config).expect_err(expected).to_string();
            assert!(error.contains(expected) && error.contains("token_file"), "{error}");
        };
        refuse("No such file");
        std::fs::write(&path, "hunter2\n").expect("write");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("mode");
        refuse("chmod 600");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("mode");
        let connection = Connection::new(&config).expect("private");
        assert_eq!(connection.authorization.as_ref().expect("a token"), "Bearer hunter2");
        assert!(!format!("{connection:?}").contains("hunter2"));
        std::fs::write(&path, "two\nlines").expect("write");
        refuse("more than one line");
        std::fs::write(&path, " \n").expect("write");
        refuse("empty");
    }

    #[test]
    fn lists_of_different_servers_are_read() {
        let ollama = br#"{"object":"list","data":[{"id":"llama3:latest","object":"model","owned_by":"library"}]}"#;
        assert_eq!(read_list(ollama), Some(vec![Listed { id: "llama3:latest".to_owned(), context: None }]));
        let vllm = br#"{"data":[{"id":"a","max_model_len":8192},{"id":"b","meta":{"n_ctx_train":131072}}]}"#;
        let contexts: Vec<_> = read_list(vllm).expect("valid").iter().map(|listed| listed.context).collect();
        assert_eq!(contexts, [Some(8192), Some(131_072)]);
        assert_eq!(read_list(b"<html>"), None);
    }

    #[tokio::test]
    async fn no_ollama_is_no_error() {
        assert_eq!(probe("http://127.0.0.1:1/v1").await, None);
    }
}
