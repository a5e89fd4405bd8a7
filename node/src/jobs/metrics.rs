//! What the provider side counts.

use crate::telemetry::Metrics;
use aitbc_protocol::job::Rejection;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};

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

    /// A quote or a job was refused.
    pub(super) fn rejected(&self, rejection: &Rejection) {
        let reason = match rejection {
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
        };
        self.rejected.get_or_create(&ReasonLabel { reason }).inc();
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
