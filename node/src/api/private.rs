//! Private jobs over HTTP: `POST /v1/private/{model}` for programs, `POST /aitbc/v1/private` for the command line.

use super::{
    ApiState,
    body::{Gone, Payload, Writer, streamed},
    control::ndjson,
    error::Failure,
    openai::Fields,
};
use crate::private::{PrivateRequest, PrivateStep, PrivateUpdate, RunningPrivate};
use aitbc_protocol::{Digest, MicroCredits, NodeId, job::ModelName};
use axum::{
    Json, Router,
    extract::{Path, State},
    response::Response,
    routing::post,
};
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;

/// The routes.
pub(super) fn routes() -> Router<ApiState> {
    // Names of models may hold slashes.
    Router::new().route("/v1/private/{*model}", post(whole)).route("/aitbc/v1/private", post(follow))
}

/// The answer of `POST /v1/private/{model}`.
#[derive(Debug, Serialize)]
struct Document {
    schema: &'static str,
    model: ModelName,
    /// Values of the outputs, in the units of the model.
    output: Vec<f64>,
    /// Names of the outputs, where the model has some.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    labels: Vec<String>,
    /// The name of the largest output, or its place where outputs have no names; for models of classes.
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<String>,
    aitbc: Account,
}

/// Who answered, and for how much.
#[derive(Debug, Serialize)]
struct Account {
    providers: Vec<NodeId>,
    receipts: Vec<Digest>,
    paid_micro_credits: MicroCredits,
    /// Whether two providers say the same, where two were asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    agree: Option<bool>,
}

/// Reads a request: every field is taken, or refused by name.
fn parse(model: &str, body: &[u8]) -> Result<PrivateRequest, Failure> {
    let model = ModelName::new(model).map_err(|error| Failure::invalid("model", format!("model: {error}")))?;
    let mut fields = Fields::parse(body)?;
    let request = PrivateRequest {
        model,
        input: fields.require("input")?,
        wishes: fields.take("aitbc")?.unwrap_or_default(),
        verify: fields.take("verify")?,
    };
    fields.finish()?;
    check(request)
}

fn check(request: PrivateRequest) -> Result<PrivateRequest, Failure> {
    match request.validate() {
        Ok(()) => Ok(request),
        Err((field, problem)) => Err(Failure::invalid(field, format!("{field}: {problem}"))),
    }
}

async fn whole(
    State(state): State<ApiState>,
    Path(model): Path<String>,
    body: Payload,
) -> Result<Json<Document>, Failure> {
    let request = parse(&model, &body.0)?;
    let _place = state.place()?;
    let model = request.model.clone();
    let mut running = state.parts().private.submit(request);
    while let Some(update) = running.updates.recv().await {
        match update {
            PrivateUpdate::Step(PrivateStep::Answer {
                values,
                labels,
                class,
                agree,
                providers,
                receipts,
                paid,
            }) => {
                let label = class.map(|place| labels.get(place).cloned().unwrap_or_else(|| place.to_string()));
                let aitbc = Account { providers, receipts, paid_micro_credits: paid, agree };
                return Ok(Json(Document {
                    schema: "aitbc.private/1",
                    model,
                    output: values,
                    labels,
                    label,
                    aitbc,
                }));
            }
            PrivateUpdate::Step(PrivateStep::PrivateFailed(failure)) => return Err(failure.into()),
            PrivateUpdate::Step(_) | PrivateUpdate::Job(_) => {}
        }
    }
    Err(Failure::broken("the job ended without an answer"))
}

async fn follow(State(state): State<ApiState>, body: Payload) -> Result<Response, Failure> {
    let request = check(body.json()?)?;
    let place = state.place()?;
    let running = state.parts().private.submit(request);
    Ok(ndjson(streamed(tracing::info_span!("api_private"), |writer| write(writer, running, place))))
}

/// Writes what happens to a job, one line each. Dropping it ends the job.
async fn write(writer: Writer, mut running: RunningPrivate, _place: OwnedSemaphorePermit) -> Result<(), Gone> {
    while let Some(update) = running.updates.recv().await {
        writer.line(&update).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::private::Verify;
    use axum::response::IntoResponse;

    fn refused(body: &str) -> String {
        let failure = parse("digits", body.as_bytes()).expect_err(body);
        format!("{failure:?}")
    }

    #[test]
    fn every_field_is_taken_or_refused_by_name() {
        let request =
            parse("me/digits:1", br#"{"input": [1, 2.5], "verify": "redundancy:2", "aitbc": {"max_price": 9}}"#)
                .expect("a request");
        assert_eq!((request.model.as_str(), &request.input[..]), ("me/digits:1", &[1.0, 2.5][..]));
        assert_eq!((request.verify, request.wishes.max_price), (Some(Verify::Redundancy), Some(MicroCredits(9))));
        for (body, field) in [
            (r"{}", "input is missing"),
            (r#"{"input": "1"}"#, "input:"),
            (r#"{"input": []}"#, "input: 0 values"),
            (r#"{"input": [1], "verify": "twice"}"#, "verify:"),
            (r#"{"input": [1], "inputs": 1}"#, "do you mean input?"),
            (r#"{"input": [1], "aitbc": {"max_prise": 1}}"#, "aitbc:"),
        ] {
            let told = refused(body);
            assert!(told.contains(field), "{body}: {told}");
        }
        let status = parse("digits", b"[]").expect_err("no object").into_response().status();
        assert_eq!(status, 400);
    }
}
