//! Fetches a file over HTTP and goes on where an interrupted fetch ended (RFC 9110, section 14).

use super::{
    layout::{self, at},
    meter::Meter,
    source::{Limits, SourceError},
};
use crate::http;
use reqwest::{
    Client, Response, StatusCode,
    header::{CONTENT_RANGE, ETAG, HeaderMap, IF_RANGE, LAST_MODIFIED, RANGE},
    redirect,
};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    path::{Path, PathBuf},
};
use tokio::{io::AsyncWriteExt, time::timeout};

/// Most redirects of one request; hubs send to their storage with one or two.
const MAX_REDIRECTS: usize = 5;
/// Attempts in a row that bring nothing before a source is given up.
const ATTEMPTS: u32 = 3;
/// Bytes that make an attempt one that brought something.
const WORTHWHILE: u64 = 64 * 1024;
/// Longest validator that is kept, in bytes.
const MAX_VALIDATOR: usize = 256;

/// One file at one URL.
pub(super) struct Download<'a> {
    /// Where it is.
    pub(super) url: &'a str,
    /// Where it goes; what is there already is gone on from.
    pub(super) partial: &'a Path,
    /// Its size in bytes.
    pub(super) size: u64,
    /// How long to wait.
    pub(super) limits: &'a Limits,
}

/// What is known of the file in `partial`, kept beside it.
#[derive(Serialize, Deserialize)]
struct Origin {
    url: String,
    /// A strong entity tag or a date, for `If-Range`.
    validator: Option<String>,
}

/// The file beside `partial` that says where its bytes are from.
pub(super) fn origin_path(partial: &Path) -> PathBuf {
    partial.with_extension("origin")
}

/// A client that follows few redirects, and none from HTTPS to HTTP.
fn client() -> Result<Client, SourceError> {
    let policy = redirect::Policy::custom(|attempt| {
        let secure = attempt.previous().first().is_some_and(|url| url.scheme() == "https");
        if attempt.previous().len() > MAX_REDIRECTS {
            attempt.error("too many redirects")
        } else if secure && attempt.url().scheme() != "https" {
            attempt.error("redirected from HTTPS to HTTP")
        } else {
            attempt.follow()
        }
    });
    http::client_builder().redirect(policy).build().map_err(|error| SourceError::Connect(http::describe(error)))
}

impl Download<'_> {
    /// Fetches what is missing. Returns whether some of it was there before: then a wrong digest may be that part's.
    pub(super) async fn run(&self, meter: &mut Meter<'_>) -> Result<bool, SourceError> {
        let client = client()?;
        let resumed = layout::length(self.partial) > 0;
        let mut fruitless = 0;
        let mut reached = false;
        loop {
            let before = layout::length(self.partial);
            if before == self.size {
                return Ok(resumed);
            }
            let error = match self.attempt(&client, before, meter).await {
                Ok(()) => continue,
                Err(error) => error,
            };
            let transient = match &error {
                // A server that was there a moment ago is waited for; one that never was is not.
                SourceError::Connect(_) => reached,
                SourceError::Status(status) => {
                    status.is_server_error()
                        || matches!(
                            *status,
                            StatusCode::REQUEST_TIMEOUT
                                | StatusCode::TOO_MANY_REQUESTS
                                | StatusCode::RANGE_NOT_SATISFIABLE
                        )
                }
                SourceError::Broken { .. } | SourceError::Stalled(_) | SourceError::Range => true,
                _ => false,
            };
            reached |= !matches!(error, SourceError::Connect(_));
            let gained = layout::length(self.partial).saturating_sub(before);
            fruitless = if gained >= WORTHWHILE { 0 } else { fruitless + 1 };
            if !transient || fruitless >= ATTEMPTS {
                return Err(error);
            }
            tracing::debug!(%error, gained, "the download broke off and is gone on with");
            tokio::time::sleep(self.limits.pause * (1 << fruitless)).await;
        }
    }

    async fn attempt(&self, client: &Client, before: u64, meter: &mut Meter<'_>) -> Result<(), SourceError> {
        // More than the whole cannot be a beginning of it.
        let before = if before > self.size { 0 } else { before };
        let mut request = client.get(self.url);
        if before > 0 {
            request = request.header(RANGE, format!("bytes={before}-"));
            if let Some(validator) = self.validator() {
                request = request.header(IF_RANGE, validator);
            }
        }
        let response = timeout(self.limits.stall, request.send())
            .await
            .map_err(|_| SourceError::Stalled(self.limits.stall))?
            .map_err(|error| match error {
                error if error.is_builder() || error.is_redirect() => SourceError::Url(http::describe(error)),
                error if error.is_connect() => SourceError::Connect(http::describe(error)),
                error => SourceError::Broken { got: before, reason: http::describe(error) },
            })?;
        let start = match response.status() {
            StatusCode::OK => {
                self.check_size(response.content_length())?;
                self.remember(response.headers())?;
                0
            }
            StatusCode::PARTIAL_CONTENT => {
                let (start, total) = content_range(response.headers()).ok_or(SourceError::Range)?;
                self.check_size(total)?;
                if start != before {
                    self.forget()?;
                    return Err(SourceError::Range);
                }
                start
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                self.forget()?;
                return Err(SourceError::Status(StatusCode::RANGE_NOT_SATISFIABLE));
            }
            status => return Err(SourceError::Status(status)),
        };
        meter.reach(start);
        self.receive(response, start, meter).await
    }

    fn check_size(&self, told: Option<u64>) -> Result<(), SourceError> {
        match told {
            Some(got) if got != self.size => Err(SourceError::Size { expected: self.size, got }),
            _ => Ok(()),
        }
    }

    /// Appends the body after the first `start` bytes; what arrived stays whatever happens.
    async fn receive(&self, mut response: Response, start: u64, meter: &mut Meter<'_>) -> Result<(), SourceError> {
        let disk = at(self.partial);
        let mut file =
            tokio::fs::OpenOptions::new().create(true).append(true).open(self.partial).await.map_err(&disk)?;
        file.set_len(start).await.map_err(&disk)?;
        let mut done = start;
        let result = loop {
            let chunk = match timeout(self.limits.stall, response.chunk()).await {
                Err(_) => break Err(SourceError::Stalled(self.limits.stall)),
                Ok(Err(error)) => {
                    break Err(SourceError::Broken { got: done, reason: http::describe(error) });
                }
                Ok(Ok(None)) if done < self.size => {
                    break Err(SourceError::Broken { got: done, reason: "the connection ended".to_owned() });
                }
                Ok(Ok(None)) => break Ok(()),
                Ok(Ok(Some(chunk))) => chunk,
            };
            done += chunk.len() as u64;
            if done > self.size {
                file.set_len(0).await.map_err(&disk)?;
                break Err(SourceError::Size { expected: self.size, got: done });
            }
            file.write_all(&chunk).await.map_err(&disk)?;
            meter.reach(done);
        };
        file.flush().await.map_err(&disk)?;
        result
    }

    /// What `If-Range` may name: only a validator that this same URL gave.
    fn validator(&self) -> Option<String> {
        let origin: Origin = serde_json::from_slice(&fs::read(origin_path(self.partial)).ok()?).ok()?;
        origin.validator.filter(|_| origin.url == self.url)
    }

    fn remember(&self, headers: &HeaderMap) -> Result<(), SourceError> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let validator = text(ETAG)
            .filter(|tag| tag.starts_with('"'))
            .or_else(|| text(LAST_MODIFIED))
            .filter(|validator| validator.len() <= MAX_VALIDATOR)
            .map(str::to_owned);
        let path = origin_path(self.partial);
        let origin = Origin { url: self.url.to_owned(), validator };
        let json = serde_json::to_vec(&origin).map_err(|error| at(&path)(error.into()))?;
        Ok(fs::write(&path, json).map_err(at(&path))?)
    }

    fn forget(&self) -> Result<(), SourceError> {
        layout::remove_if_there(self.partial)?;
        Ok(layout::remove_if_there(&origin_path(self.partial))?)
    }
}

/// Start and total of `Content-Range: bytes START-END/TOTAL`; the total may be `*`.
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?;
    let (range, total) = text.split_once('/')?;
    let start = range.split_once('-')?.0.parse().ok()?;
    match total {
        "*" => Some((start, None)),
        total => Some((start, Some(total.parse().ok()?))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read() {
        let read = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_RANGE, reqwest::header::HeaderValue::from_static(value));
            content_range(&headers)
        };
        assert_eq!(read("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(read("bytes 5-9/*"), Some((5, None)));
        for bad in ["", "bytes */10", "lines 5-9/10", "bytes 5-9", "bytes 5-9/x", "bytes -5-9/10"] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }
}
