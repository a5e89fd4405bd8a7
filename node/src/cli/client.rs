//! Calls of the running node's control API.

use super::{Exit, Global};
use crate::routing::JobUpdate;
use aitbc_protocol::NodeId;
use futures::StreamExt;
use serde::{Serialize, de::DeserializeOwned};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt};
use tokio_util::io::StreamReader;

/// Longest line of an update, in bytes.
const MAX_LINE: usize = 8 * 1024 * 1024;

/// Talks to one node.
#[derive(Clone, Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    address: String,
    token: Option<String>,
}

/// A line of a stream of updates.
#[derive(Debug, serde::Deserialize)]
#[serde(untagged)]
pub(super) enum Line {
    /// Something that happened to a job.
    Update(Box<JobUpdate>),
    /// Anything else.
    Other(serde_json::Value),
}

impl Client {
    /// A client of the node that the flags and settings name.
    pub(super) fn new(global: &Global) -> Result<Self, Exit> {
        let directories = global.directories()?;
        let settings = global.settings(&directories)?;
        let token = match &settings.api.token_file {
            Some(path) => Some(
                std::fs::read_to_string(path)
                    .map_err(|error| Exit::message(format_args!("api.token_file {}: {error}", path.display())))?
                    .trim()
                    .to_owned(),
            ),
            None => None,
        };
        let address = global.api.clone().unwrap_or_else(|| {
            let mut listen = settings.api.listen;
            if listen.ip().is_unspecified() {
                listen.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
            }
            listen.to_string()
        });
        Self::at(address, token)
    }

    /// A client of the node at `address`.
    pub(super) fn at(address: String, token: Option<String>) -> Result<Self, Exit> {
        let http = crate::http::client_builder()
            .no_proxy()
            .tls_certs_only([])
            .connect_timeout(Duration::from_secs(5))
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Self { http, address, token })
    }

    /// Where the node is.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("http://{}/aitbc/v1/{path}", self.address));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, Exit> {
        let response = request.send().await.map_err(|error| {
            if error.is_connect() {
                Exit::no_daemon(&self.address, "connection refused")
            } else {
                Exit::no_daemon(&self.address, error)
            }
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = response.text().await.unwrap_or_default();
        let message = serde_json::from_str::<serde_json::Value>(&text)
            .ok()
            .and_then(|body| body["error"]["message"].as_str().map(str::to_owned))
            .unwrap_or(text);
        Err(Exit::message(format_args!("the node answered {status}: {message}")))
    }

    /// Reads a document.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Exit> {
        let request = self.request(reqwest::Method::GET, path).timeout(Duration::from_secs(30));
        Ok(self.send(request).await?.json().await?)
    }

    /// Asks for something and reads the answer.
    pub(super) async fn ask<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Exit> {
        let request = self.request(reqwest::Method::POST, path).json(body).timeout(Duration::from_secs(60));
        Ok(self.send(request).await?.json().await?)
    }

    /// Asks for something that has no answer.
    pub(super) async fn post(&self, path: &str) -> Result<(), Exit> {
        let request = self
            .request(reqwest::Method::POST, path)
            .json(&serde_json::json!({}))
            .timeout(Duration::from_secs(30));
        self.send(request).await.map(drop)
    }

    /// Posts `body`, hands every step to `progress`, and returns what was found about `peer`.
    pub(super) async fn finding(
        &self,
        path: &str,
        peer: &NodeId,
        body: &impl Serialize,
        progress: impl Fn(&serde_json::Value),
    ) -> Result<serde_json::Value, Exit> {
        let mut last = None;
        self.stream(path, body, |line| {
            if let Line::Other(value) = line {
                match value["event"].as_str() {
                    Some("finding" | "failed") => last = Some(value),
                    _ => progress(&value),
                }
            }
            Ok(())
        })
        .await?;
        let found = last.ok_or_else(|| Exit::message("the node ended the exchange without a finding"))?;
        if found["event"] == "failed" {
            let why = found["message"].as_str().unwrap_or("the node did not say why");
            return Err(Exit::message(format_args!("nothing was found out about {}: {why}", peer.short())));
        }
        Ok(found)
    }

    /// Posts `body` and hands every line of the answer to `each`, until the node ends the stream.
    pub(super) async fn stream(
        &self,
        path: &str,
        body: &impl Serialize,
        mut each: impl FnMut(Line) -> Result<(), Exit>,
    ) -> Result<(), Exit> {
        let response = self.send(self.request(reqwest::Method::POST, path).json(body)).await?;
        read_lines(response, |line| each(serde_json::from_slice(line)?)).await
    }

    /// Reads a document line by line: hands each to `each` as it came, with its newline.
    pub(super) async fn lines(&self, path: &str, each: impl FnMut(&[u8]) -> Result<(), Exit>) -> Result<(), Exit> {
        read_lines(self.send(self.request(reqwest::Method::GET, path)).await?, each).await
    }
}

async fn read_lines(
    response: reqwest::Response,
    mut each: impl FnMut(&[u8]) -> Result<(), Exit>,
) -> Result<(), Exit> {
    let stream = response.bytes_stream().map(|part| part.map_err(std::io::Error::other));
    let mut reader = tokio::io::BufReader::new(StreamReader::new(stream));
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut reader).take(MAX_LINE as u64).read_until(b'\n', &mut line).await?;
        if read == 0 {
            return Ok(());
        }
        if line.last() != Some(&b'\n') && read >= MAX_LINE {
            return Err(Exit::message("the node sent a line that is too long"));
        }
        each(&line)?;
    }
}
