//! What the server counts about itself, and the page that prints what everybody counts.

use super::ApiState;
use crate::telemetry::Metrics;
use axum::{
    extract::{MatchedPath, Request, State},
    http::header,
    middleware::Next,
    response::{IntoResponse, Response},
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
};
use std::time::Instant;

/// Route and outcome. Routes are the server's own patterns, so strangers cannot make new series.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    route: String,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Route {
    route: String,
}

/// Requests by route.
#[derive(Clone, Debug)]
pub(super) struct RequestMetrics {
    requests: Family<Outcome, Counter>,
    seconds: Family<Route, Histogram, fn() -> Histogram>,
}

impl RequestMetrics {
    /// Registers them.
    pub(super) fn new(metrics: &Metrics) -> Self {
        let requests = Family::<Outcome, Counter>::default();
        // 1 ms to about 4 minutes: from a status page to an answer that is not streamed.
        let buckets: fn() -> Histogram = || Histogram::new(exponential_buckets(0.001, 4.0, 10));
        let seconds = Family::<Route, Histogram, fn() -> Histogram>::new_with_constructor(buckets);
        metrics.register(|registry| {
            registry.register("api_requests", "HTTP requests by route and status", requests.clone());
            registry.register(
                "api_request_seconds",
                "Time to the status line; for streams that is the time to the first token",
                seconds.clone(),
            );
        });
        Self { requests, seconds }
    }
}

/// Counts and times every request.
pub(super) async fn count(State(metrics): State<RequestMetrics>, request: Request, next: Next) -> Response {
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "other".to_owned(), |matched| matched.as_str().to_owned());
    let started = Instant::now();
    let response = next.run(request).await;
    let status = response.status().as_u16();
    metrics.seconds.get_or_create(&Route { route: route.clone() }).observe(started.elapsed().as_secs_f64());
    tracing::debug!(route, status, elapsed_ms = started.elapsed().as_millis() as u64, "request");
    metrics.requests.get_or_create(&Outcome { route, status }).inc();
    response
}

/// `GET /metrics`.
pub(super) async fn page(State(state): State<ApiState>) -> impl IntoResponse {
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], state.parts().metrics.encode())
}
