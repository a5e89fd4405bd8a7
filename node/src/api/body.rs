//! Bodies: requests read whole within bounds, responses written piece by piece by a task that ends with its reader.

use super::error::Failure;
use axum::{
    body::Body,
    extract::{FromRequest, Request, rejection::BytesRejection},
    http::StatusCode,
};
use bytes::Bytes;
use futures::StreamExt;
use serde::{Serialize, de::DeserializeOwned};
use std::{convert::Infallible, future::Future, time::Duration};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tracing::Instrument;

/// Largest request body in bytes: what a quote frame holds.
pub(super) const MAX_BODY: usize = 1024 * 1024;
/// How long a request body may take to arrive.
const BODY_PATIENCE: Duration = Duration::from_secs(30);
/// How long a client may leave its answer unread before the job is cancelled.
const READER_PATIENCE: Duration = Duration::from_secs(60);
/// Pieces of an answer that wait for the connection.
const PIECES: usize = 16;

/// A request body, read whole: at most [`MAX_BODY`] bytes, within [`BODY_PATIENCE`]. Its content type is not looked
/// at: `curl -d` names a form, and what a web page could send without asking is refused by its origin.
pub(super) struct Payload(pub(super) Bytes);

impl<S: Send + Sync> FromRequest<S> for Payload {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        match tokio::time::timeout(BODY_PATIENCE, Bytes::from_request(request, state)).await {
            Ok(Ok(bytes)) => Ok(Self(bytes)),
            Ok(Err(rejection)) => Err(refused(&rejection)),
            Err(_) => Err(Failure::slow_body()),
        }
    }
}

fn refused(rejection: &BytesRejection) -> Failure {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        Failure::too_large(MAX_BODY)
    } else {
        Failure::malformed(rejection.body_text())
    }
}

impl Payload {
    /// The body as JSON; an empty one as an empty object.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        let bytes: &[u8] = if self.0.is_empty() { b"{}" } else { &self.0 };
        serde_json::from_slice(bytes).map_err(|error| Failure::malformed(format!("the request body: {error}")))
    }
}

/// The reader of a streamed response is gone, or reads nothing any more.
#[derive(Debug)]
pub(super) struct Gone;

/// The writing end of a streamed response.
#[derive(Debug)]
pub(super) struct Writer {
    pieces: mpsc::Sender<Bytes>,
    patience: Duration,
}

impl Writer {
    /// Hands a piece to the connection, waiting no longer than the reader's patience.
    pub(super) async fn send(&self, bytes: Bytes) -> Result<(), Gone> {
        self.pieces.send_timeout(bytes, self.patience).await.map_err(|_| Gone)
    }

    /// Hands over one line of NDJSON.
    pub(super) async fn line<T: Serialize>(&self, value: &T) -> Result<(), Gone> {
        let mut line = serde_json::to_vec(value).map_err(|error| {
            tracing::error!(%error, "a line of the control API cannot be written");
            Gone
        })?;
        line.push(b'\n');
        self.send(line.into()).await
    }
}

/// A response body that `write` fills. When the connection drops the body, or reads nothing of it for
/// [`READER_PATIENCE`], `write` is dropped at whatever it awaits, and with it everything it owns.
pub(super) fn streamed<F>(span: tracing::Span, write: impl FnOnce(Writer) -> F) -> Body
where
    F: Future<Output = Result<(), Gone>> + Send + 'static,
{
    streamed_within(READER_PATIENCE, span, write)
}

fn streamed_within<F>(patience: Duration, span: tracing::Span, write: impl FnOnce(Writer) -> F) -> Body
where
    F: Future<Output = Result<(), Gone>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(PIECES);
    let writing = write(Writer { pieces: sender.clone(), patience });
    let task = async move {
        tokio::select! {
            biased;
            () = sender.closed() => tracing::debug!("the client left"),
            written = writing => if written.is_err() {
                tracing::debug!("the client left, or stopped reading");
            }
        }
    };
    tokio::spawn(task.instrument(span));
    Body::from_stream(ReceiverStream::new(receiver).map(Ok::<_, Infallible>))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reader_that_stops_reading_ends_the_writer() {
        let (ended, on_end) = tokio::sync::oneshot::channel::<()>();
        let body = streamed_within(Duration::from_millis(10), tracing::Span::none(), |writer| async move {
            let _ended = ended;
            loop {
                writer.send(Bytes::from_static(b"more")).await?;
            }
        });
        // Never read, never dropped: only the clock can end it.
        assert!(on_end.await.is_err());
        drop(body);
    }

    #[tokio::test]
    async fn dropping_the_body_drops_the_writer_where_it_waits() {
        let (ended, on_end) = tokio::sync::oneshot::channel::<()>();
        let body = streamed(tracing::Span::none(), |writer| async move {
            let _owned = (ended, writer);
            std::future::pending().await
        });
        drop(body);
        assert!(on_end.await.is_err());
    }
}
