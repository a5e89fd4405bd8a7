//! Answers as server-sent events.

use super::{
    answer::{Part, Reader},
    objects::Chunks,
};
use crate::api::{
    body::{Gone, Writer, streamed},
    error::Failure,
};
use axum::{
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;

/// Answers with a stream. Waits for the first piece before the status line is written, so that a job that fails
/// before it has the status of its failure.
pub(super) async fn respond(mut reader: Reader, chunks: Chunks) -> Result<Response, Failure> {
    let first = reader.next().await?;
    let mut headers: HeaderMap = reader.account().headers();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    let span = tracing::info_span!("api_stream", job = %reader.account().job);
    let body = streamed(span, |writer| write(writer, reader, chunks, first));
    Ok((headers, body).into_response())
}

async fn write(writer: Writer, mut reader: Reader, mut chunks: Chunks, first: Part) -> Result<(), Gone> {
    if let Some(chunk) = chunks.opening() {
        writer.send(event(&chunk)).await?;
    }
    let mut next: Result<Part, Failure> = Ok(first);
    loop {
        match next {
            Ok(Part::Text { text, logprobs }) => {
                if let Some(chunk) = chunks.piece(text, &logprobs) {
                    writer.send(event(&chunk)).await?;
                }
            }
            Ok(Part::End { finish, usage }) => {
                for chunk in chunks.closing(finish, usage, reader.account()) {
                    writer.send(event(&chunk)).await?;
                }
                return writer.send(Bytes::from_static(b"data: [DONE]\n\n")).await;
            }
            Ok(Part::Vectors(_)) => {
                return writer.send(Failure::broken("vectors came where text was asked for").event()).await;
            }
            Err(failure) => return writer.send(failure.event()).await,
        }
        next = reader.next().await;
    }
}

/// JSON has no line ends of its own, so one line of data holds a chunk.
fn event(chunk: &[u8]) -> Bytes {
    [b"data: ", chunk, b"\n\n"].concat().into()
}
