//! What the provider side counts.

use crate::telemetry::Metrics;
use aitbc_protocol::job::Rejection;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};
use serde::Serialize;
use std::collections::BTreeMap;

/// How a job ended, as the metric names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Answered.
    Completed,
    /// The client cancelled or left.
    Cancelled,
    /// The client did not pay, or broke the protocol.
    Unpaid,
    /// The engine or this node failed.
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// The metrics of the provider side.
#[derive(Clone, Debug)]
pub(super) struct JobMetrics {
    running: Gauge,
    ended: Family<OutcomeLabel, Counter>,
    tokens: Counter,
    quoted: Counter,
    rejected: Family<ReasonLabel, Counter>,
    parked: Gauge,
    resumed: Counter,
    resumes_refused: Counter,
    first_token: Histogram,
}

impl JobMetrics {
    /// Registers them.
    pub(super) fn new(metrics: &Metrics) -> Self {
        // From a warm GPU's 10 ms to a long prompt on a CPU.
        let buckets = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
        let this = Self {
            running: Gauge::default(),
            ended: Family::default(),
            tokens: Counter::default(),
            quoted: Counter::default(),
            rejected: Family::default(),
            parked: Gauge::default(),
            resumed: Counter::default(),
            resumes_refused: Counter::default(),
            first_token: Histogram::new(buckets),
        };
        metrics.register(|registry| {
            registry.register("jobs_running", "Jobs running for others", this.running.clone());
            registry.register("jobs", "Jobs run for others, by outcome", this.ended.clone());
            registry.register("jobs_tokens", "Tokens delivered to others", this.tokens.clone());
            registry.register("jobs_quoted", "Quotes given", this.quoted.clone());
            registry.register("jobs_rejected", "Requests refused, by reason", this.rejected.clone());
            registry.register("jobs_parked", "Jobs waiting for a client whose path was lost", this.parked.clone());
            registry.register(
                "jobs_resumed",
                "Streams on which a client went on with its job",
                this.resumed.clone(),
            );
            registry.register(
                "jobs_resumes_refused",
                "Streams on which a client could not go on",
                this.resumes_refused.clone(),
            );
            registry.register(
                "jobs_first_token_seconds",
                "Time from admission to the first token sent",
                this.first_token.clone(),
            );
        });
        this
    }

    /// A job holds a slot until the result is dropped.
    pub(super) fn start(&self) -> Counted {
        Counted::in_gauge(&self.running)
    }

    /// A job waits for its client until the result is dropped.
    pub(super) fn park(&self) -> Counted {
        Counted::in_gauge(&self.parked)
    }

    /// A client went on with its job on another stream.
    pub(super) fn resumed(&self) {
        self.resumed.inc();
    }

    /// A client could not.
    pub(super) fn resume_refused(&self) {
        self.resumes_refused.inc();
    }

    /// A job ended.
    pub(super) fn ended(&self, outcome: Outcome) {
        let outcome = match outcome {
            Outcome::Completed => "completed",
            Outcome::Cancelled => "cancelled",
            Outcome::Unpaid => "unpaid",
            Outcome::Failed => "failed",
        };
        self.ended.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Tokens were handed to a stream.
    pub(super) fn delivered(&self, tokens: u32) {
        self.tokens.inc_by(tokens.into());
    }

    /// The first token of a job was handed to its stream.
    pub(super) fn first_token(&self, seconds: f64) {
        self.first_token.observe(seconds);
    }

    /// A quote was given.
    pub(super) fn quoted(&self) {
        self.quoted.inc();
    }

    /// What came of the requests since the start.
    pub(super) fn requests(&self) -> Requests {
        let refused = |reason: &'static str| {
            let count = self.rejected.get(&ReasonLabel { reason })?.get();
            (count > 0).then_some((reason, count))
        };
        let outcomes = ["completed", "cancelled", "unpaid", "failed"];
        let ended = |outcome| self.ended.get(&OutcomeLabel { outcome }).map_or(0, |count| count.get());
        Requests {
            quoted: self.quoted.get(),
            ended: outcomes.map(ended).into_iter().sum(),
            refused: REASONS.into_iter().filter_map(refused).collect(),
        }
    }

    /// A quote or a job was refused.
    pub(super) fn rejected(&self, rejection: &Rejection) {
        let reason = reason(rejection);
        self.rejected.get_or_create(&ReasonLabel { reason }).inc();
    }
}

/// What came of the requests of others since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Requests {
    /// Quotes given.
    pub quoted: u64,
    /// Jobs that ran and ended, well or not.
    pub ended: u64,
    /// Quotes and jobs refused, by reason.
    pub refused: BTreeMap<&'static str, u64>,
}

/// Why a request is refused, as metrics name it.
const REASONS: [&str; 16] = [
    "unknown_model",
    "full",
    "too_many_quotes",
    "context_too_small",
    "debt",
    "credit",
    "quote_mismatch",
    "quote_used",
    "quote_expired",
    "unknown_job",
    "stale_attempt",
    "invalid",
    "unsupported",
    "engine_unavailable",
    "unknown_evaluation_key",
    "rate_limited",
];

const fn reason(rejection: &Rejection) -> &'static str {
    match rejection {
        Rejection::UnknownModel => "unknown_model",
        Rejection::Full { .. } => "full",
        Rejection::TooManyQuotes(_) => "too_many_quotes",
        Rejection::ContextTooSmall { .. } => "context_too_small",
        Rejection::Debt(_) => "debt",
        Rejection::Credit { .. } => "credit",
        Rejection::QuoteMismatch(_) => "quote_mismatch",
        Rejection::QuoteUsed => "quote_used",
        Rejection::QuoteExpired => "quote_expired",
        Rejection::UnknownJob => "unknown_job",
        Rejection::StaleAttempt { .. } => "stale_attempt",
        Rejection::Invalid(_) => "invalid",
        Rejection::Unsupported(_) => "unsupported",
        Rejection::EngineUnavailable(_) => "engine_unavailable",
        Rejection::UnknownEvaluationKey => "unknown_evaluation_key",
        Rejection::RateLimited { .. } => "rate_limited",
    }
}

/// Counts one job in a gauge for as long as it lives.
#[derive(Debug)]
pub(super) struct Counted(Gauge);

impl Counted {
    fn in_gauge(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
