//! The OpenAI-compatible API under `/v1`: chats, completions, embeddings, models.

use super::{ApiState, body::Payload, error::Failure};
use crate::{
    clock,
    routing::{JobRequest, RunningRequest},
};
use answer::Reader;
use axum::{
    Router,
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use objects::{Chunks, Form, Head};
use request::Streaming;
use tokio::sync::OwnedSemaphorePermit;

mod answer;
mod chat;
mod completions;
mod embeddings;
mod models;
mod objects;
mod request;
mod stream;

pub(super) use request::Fields;

#[cfg(test)]
mod tests;

/// A request for text, read and checked.
#[derive(Debug)]
struct Ask {
    /// The job.
    request: JobRequest,
    /// Which documents answer.
    form: Form,
    /// How, if streamed.
    streaming: Option<Streaming>,
}

/// The routes.
pub(super) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/v1/chat/completions", post(chat_completions))
        .route("/v1/completions", post(text_completions))
        .route("/v1/embeddings", post(embed))
        .route("/v1/models", get(models::list))
        // Names of models may hold slashes.
        .route("/v1/models/{*id}", get(models::one))
}

async fn chat_completions(State(state): State<ApiState>, body: Payload) -> Result<Response, Failure> {
    text(&state, chat::parse(&body.0)?).await
}

async fn text_completions(State(state): State<ApiState>, body: Payload) -> Result<Response, Failure> {
    text(&state, completions::parse(&body.0)?).await
}

async fn text(state: &ApiState, ask: Ask) -> Result<Response, Failure> {
    let place = state.place()?;
    let model = ask.request.spec.model.clone();
    let running = state.parts().routing.submit(ask.request);
    let head = Head { form: ask.form, job: running.job, model, created: clock::now_ms() / 1000 };
    respond(running, place, head, ask.streaming).await
}

async fn embed(State(state): State<ApiState>, body: Payload) -> Result<Response, Failure> {
    let embeddings::Embed { request, encoding, inputs } = embeddings::parse(&body.0)?;
    let place = state.place()?;
    let model = request.spec.model.clone();
    let answer = Reader::new(state.parts().routing.submit(request), place).whole().await?;
    let document = embeddings::document(&answer, model.as_str(), encoding, inputs)?;
    Ok(json(answer.account.headers(), document))
}

/// Answers with text. The response, or before it this future, owns the job: the connection drops them when the client
/// leaves, and that cancels the job.
async fn respond(
    running: RunningRequest,
    place: OwnedSemaphorePermit,
    head: Head,
    streaming: Option<Streaming>,
) -> Result<Response, Failure> {
    let reader = Reader::new(running, place);
    if let Some(Streaming { include_usage }) = streaming {
        return stream::respond(reader, Chunks::new(head, include_usage)).await;
    }
    let answer = reader.whole().await?;
    let headers = answer.account.headers();
    Ok(json(headers, head.whole(answer)))
}

fn json(mut headers: axum::http::HeaderMap, document: Vec<u8>) -> Response {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    (headers, document).into_response()
}
