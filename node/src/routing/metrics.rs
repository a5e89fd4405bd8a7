//! What the client side counts.

use crate::{network::Verdict, telemetry::Metrics};
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
};
use std::{sync::atomic::AtomicU64, time::Duration};

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(super) enum Outcome {
    /// Answered by another node.
    Answered,
    /// Answered by this node's own device.
    Local,
    /// Answered by the cloud of the settings.
    Cloud,
    /// Cancelled by whoever asked.
    Cancelled,
    /// Nobody could do it.
    NoProvider,
    /// Everything else that went wrong.
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOutcome {
    outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum GossipVerdict {
    Accepted,
    Ignored,
    Rejected,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByVerdict {
    verdict: GossipVerdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Resumption {
    Resumed,
    Moved,
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByResumption {
    outcome: Resumption,
}

/// What came of asking a second provider beside one that was late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(super) enum Hedge {
    /// The second one was sooner.
    Won,
    /// The first one was sooner all the same, or the second one did not start.
    Lost,
    /// Nobody could be had.
    Unquoted,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByHedge {
    outcome: Hedge,
}

/// The client side's metrics. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct RoutingMetrics {
    offers: Gauge,
    gossip: Family<ByVerdict, Counter>,
    equivocations: Counter,
    jobs: Family<ByOutcome, Counter>,
    failovers: Counter,
    hedges: Family<ByHedge, Counter>,
    resumes: Family<ByResumption, Counter>,
    resume: Histogram,
    first_token: Histogram,
    search: Histogram,
    prediction: Histogram,
    prediction_error: Gauge<f64, AtomicU64>,
}

impl RoutingMetrics {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let this = Self {
            offers: Gauge::default(),
            gossip: Family::default(),
            equivocations: Counter::default(),
            jobs: Family::default(),
            failovers: Counter::default(),
            hedges: Family::default(),
            resumes: Family::default(),
            resume: Histogram::new(exponential_buckets(0.05, 2.0, 11)),
            first_token: Histogram::new(exponential_buckets(0.005, 2.0, 14)),
            search: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            prediction: Histogram::new(exponential_buckets(0.125, std::f64::consts::SQRT_2, 13)),
            prediction_error: Gauge::default(),
        };
        metrics.register(|registry| {
            registry.register("routing_offers_known", "Live offers known", this.offers.clone());
            registry.register("routing_gossip", "Gossip messages judged", this.gossip.clone());
            registry.register("routing_equivocations", "Equivocations caught", this.equivocations.clone());
            registry.register("routing_jobs", "Jobs by how they ended", this.jobs.clone());
            registry.register("routing_failovers", "Jobs taken over by another provider", this.failovers.clone());
            registry.register(
                "routing_hedges",
                "Second providers asked beside one whose first token was late",
                this.hedges.clone(),
            );
            registry.register(
                "routing_resumes",
                "Jobs that went or should have gone on by another path",
                this.resumes.clone(),
            );
            registry.register(
                "routing_resume_seconds",
                "From the loss of a job's path until it went on by another",
                this.resume.clone(),
            );
            registry.register(
                "routing_first_token_seconds",
                "From the request to the first piece of the answer",
                this.first_token.clone(),
            );
            registry.register(
                "routing_prediction_ratio",
                "How long answers took, by how long they were expected to take",
                this.prediction.clone(),
            );
            registry.register(
                "routing_prediction_error",
                "Typical error of these predictions as a share; 0 is none",
                this.prediction_error.clone(),
            );
            registry.register("routing_search_seconds", "Searches for providers", this.search.clone());
        });
        this
    }

    pub(super) fn offers(&self, count: usize) {
        self.offers.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(super) fn gossip(&self, verdict: Verdict) {
        let verdict = match verdict {
            Verdict::Accept => GossipVerdict::Accepted,
            Verdict::Ignore => GossipVerdict::Ignored,
            Verdict::Reject => GossipVerdict::Rejected,
        };
        self.gossip.get_or_create(&ByVerdict { verdict }).inc();
    }

    pub(super) fn equivocation(&self) {
        self.equivocations.inc();
    }

    pub(super) fn job(&self, outcome: Outcome) {
        self.jobs.get_or_create(&ByOutcome { outcome }).inc();
    }

    pub(super) fn failover(&self) {
        self.failovers.inc();
    }

    /// A second provider was asked beside one that was late.
    pub(super) fn hedged(&self, outcome: Hedge) {
        self.hedges.get_or_create(&ByHedge { outcome }).inc();
    }

    /// A job went on by another path after `took`.
    pub(super) fn resumed(&self, took: Duration) {
        self.resumes.get_or_create(&ByResumption { outcome: Resumption::Resumed }).inc();
        self.resume.observe(took.as_secs_f64());
    }

    /// A job went on by a better path, without having lost the one before.
    pub(super) fn moved(&self) {
        self.resumes.get_or_create(&ByResumption { outcome: Resumption::Moved }).inc();
    }

    /// A job that lost its path did not go on with its provider.
    pub(super) fn not_resumed(&self) {
        self.resumes.get_or_create(&ByResumption { outcome: Resumption::Failed }).inc();
    }

    pub(super) fn first_token(&self, after: Duration) {
        self.first_token.observe(after.as_secs_f64());
    }

    /// An answer took `ratio` times as long as predicted, and predictions are typically off by `error`.
    pub(super) fn predicted(&self, ratio: f64, error: Option<f64>) {
        self.prediction.observe(ratio);
        if let Some(error) = error {
            self.prediction_error.set(error);
        }
    }

    pub(super) fn search(&self, took: Duration) {
        self.search.observe(took.as_secs_f64());
    }
}
