//! Refusals and failures as HTTP: OpenAI's error shape with the right status.

use crate::{market::LedgerError, routing::JobFailure};
use aitbc_protocol::job::SpecError;
use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde::Serialize;

/// A request that is not answered, with everything its error document says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    status: StatusCode,
    kind: &'static str,
    code: Option<&'static str>,
    param: Option<String>,
    message: String,
    retry: Retry,
}

/// What a client library should do by itself. The OpenAI libraries repeat 408, 409, 429 and 5xx unless they are told
/// not to, and repeating a job means paying for it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Retry {
    /// As it usually does.
    Usual,
    /// After a second.
    Soon,
    /// Not at all: this node has tried everybody already.
    Never,
}

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    error: Body<'a>,
}

#[derive(Serialize)]
struct Body<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<&'a str>,
    code: Option<&'static str>,
}

impl Failure {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, code: None, param: None, message: message.into(), retry: Retry::Usual }
    }

    fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    fn param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// A parameter with a value that is not allowed: 400.
    pub(super) fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message).param(param).code("invalid_value")
    }

    /// A parameter that must be there: 400.
    pub(super) fn missing(param: impl Into<String>) -> Self {
        let param = param.into();
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", format!("{param} is missing"))
            .param(param)
            .code("missing_required_parameter")
    }

    /// A parameter of OpenAI's that this node does not act on: 400, so that nobody believes it did.
    pub(super) fn unsupported(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
            .param(param)
            .code("unsupported_parameter")
    }

    /// A parameter that nobody knows: 400.
    pub(super) fn unknown(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message).param(param).code("unknown_parameter")
    }

    /// A body or query that does not read: 400.
    pub(super) fn malformed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message).code("malformed_request")
    }

    /// A body over the limit: 413.
    pub(super) fn too_large(limit: usize) -> Self {
        let message = format!("the request body is over {limit} bytes: shorten the messages");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", message).code("request_too_large")
    }

    /// A body that does not arrive: 408.
    pub(super) fn slow_body() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "invalid_request_error", "the request body did not arrive in time")
            .code("request_timeout")
    }

    /// No token, or another one: 401.
    pub(super) fn unauthorized() -> Self {
        let message = "this node wants its bearer token: send `Authorization: Bearer TOKEN` \
                       with what its setting api.token_file holds";
        Self::new(StatusCode::UNAUTHORIZED, "authentication_error", message).code("invalid_api_key")
    }

    /// A request that a web page of another site made: 403.
    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "permission_error", message).code("forbidden")
    }

    /// Nothing of that name: 404.
    pub(super) fn not_found(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", message).code(code)
    }

    /// A path that takes other methods: 405.
    pub(super) fn method() -> Self {
        let message = "this path does not take this method";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", message).code("method_not_allowed")
    }

    /// Too many jobs of this API at a time: 429.
    pub(super) fn too_many(limit: usize) -> Self {
        let message = format!("{limit} requests are running through this API already: wait for one to end");
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message)
            .code("too_many_requests")
            .retry(Retry::Soon)
    }

    /// A fault of this node: 500.
    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message).code("internal_error")
    }

    /// An answer that is none: 502.
    pub(super) fn broken(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "server_error", message).code("job_failed").retry(Retry::Never)
    }

    /// A peer that does not answer: 502.
    pub(super) fn unreachable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "server_error", message).code("peer_unreachable").retry(Retry::Soon)
    }

    /// A request that breaks a rule of the protocol. `input` is the parameter that holds the text, `limit` the one
    /// that holds the number of tokens.
    pub(super) fn spec(error: &SpecError, input: &'static str, limit: &'static str) -> Self {
        let param = match error {
            SpecError::EmptyInput | SpecError::Wire(_) | SpecError::Sealed { .. } => input,
            SpecError::Sampling { name, .. } => name,
            SpecError::MaxTokens(_) => limit,
            SpecError::PrefixTooLong { .. } => "prefix",
            SpecError::Stop => "stop",
            SpecError::TopLogprobs(_) => "top_logprobs",
        };
        Self::invalid(param, error.to_string())
    }

    /// The document as one server-sent event, for failures after the status line has left.
    pub(super) fn event(&self) -> Bytes {
        [b"data: ", self.document().as_slice(), b"\n\n"].concat().into()
    }

    fn document(&self) -> Vec<u8> {
        let document = Document {
            schema: "aitbc.error/1",
            error: Body { message: &self.message, kind: self.kind, param: self.param.as_deref(), code: self.code },
        };
        serde_json::to_vec(&document).expect("texts become JSON")
    }
}

impl From<JobFailure> for Failure {
    fn from(failure: JobFailure) -> Self {
        let message = failure.to_string();
        let (status, kind, code, param) = match failure {
            JobFailure::Invalid { .. } => {
                (StatusCode::BAD_REQUEST, "invalid_request_error", "invalid_request", None)
            }
            JobFailure::NoProvider { .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, "server_error", "no_provider", Some("model"))
            }
            JobFailure::TooExpensive { .. } => {
                (StatusCode::PAYMENT_REQUIRED, "invalid_request_error", "too_expensive", Some("aitbc.max_price"))
            }
            JobFailure::Timeout { .. } => (StatusCode::GATEWAY_TIMEOUT, "server_error", "timeout", None),
            JobFailure::Verification { .. } => {
                (StatusCode::BAD_GATEWAY, "server_error", "verification_failed", None)
            }
            JobFailure::Failed { .. } => (StatusCode::BAD_GATEWAY, "server_error", "job_failed", None),
        };
        let failure = Self::new(status, kind, message).code(code).retry(Retry::Never);
        match param {
            Some(param) => failure.param(param),
            None => failure,
        }
    }
}

impl From<LedgerError> for Failure {
    fn from(error: LedgerError) -> Self {
        Self::internal(error.to_string())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response =
            (self.status, [(header::CONTENT_TYPE, "application/json")], self.document()).into_response();
        let headers = response.headers_mut();
        match self.retry {
            Retry::Usual => {}
            Retry::Soon => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            Retry::Never => {
                headers.insert("x-should-retry", HeaderValue::from_static("false"));
            }
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aitbc_protocol::job::ModelName;

    #[test]
    fn failures_of_jobs_have_their_status_and_are_not_repeated() {
        let message = || "why".to_owned();
        let model = ModelName::new("m").unwrap();
        for (failure, status, code) in [
            (JobFailure::Invalid { message: message() }, 400, "invalid_request"),
            (JobFailure::NoProvider { model, message: message(), ruled_out: Vec::new() }, 503, "no_provider"),
            (JobFailure::TooExpensive { message: message(), ruled_out: Vec::new() }, 402, "too_expensive"),
            (JobFailure::Timeout { message: message() }, 504, "timeout"),
            (JobFailure::Verification { message: message() }, 502, "verification_failed"),
            (JobFailure::Failed { message: message() }, 502, "job_failed"),
        ] {
            let failure = Failure::from(failure);
            assert_eq!(failure.code, Some(code));
            let response = failure.into_response();
            assert_eq!(response.status(), status);
            assert_eq!(response.headers()["x-should-retry"], "false");
        }
    }

    #[test]
    fn the_document_has_openais_shape() {
        let failure = Failure::unsupported("n", "n is 2: this node gives one answer");
        insta::assert_snapshot!(
            String::from_utf8(failure.document()).unwrap(),
            @r#"{"schema":"aitbc.error/1","error":{"message":"n is 2: this node gives one answer","type":"invalid_request_error","param":"n","code":"unsupported_parameter"}}"#
        );
    }

    #[test]
    fn one_that_may_be_repeated_says_when() {
        assert_eq!(Failure::too_many(4).into_response().headers()["retry-after"], "1");
        assert_eq!(Failure::unauthorized().into_response().headers()["www-authenticate"], "Bearer");
    }
}
