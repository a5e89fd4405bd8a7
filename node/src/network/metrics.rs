//! What `/metrics` shows of the network, under `aitbc_network_`.

use super::Verdict;
use crate::telemetry::Metrics;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
};

/// By what a connection runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ConnectionLabels {
    pub(super) transport: &'static str,
    pub(super) path: &'static str,
}

/// What became of a gossip message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(super) enum Fate {
    Accepted,
    Ignored,
    Rejected,
    /// The queue of unjudged messages was full.
    Overflow,
    /// The forwarder sends more than its share.
    RateLimited,
}

impl From<Verdict> for Fate {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Accept => Self::Accepted,
            Verdict::Ignore => Self::Ignored,
            Verdict::Reject => Self::Rejected,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct FateLabels {
    pub(super) verdict: Fate,
}

/// How a DHT lookup ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(super) enum Outcome {
    Found,
    Nothing,
    Timeout,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OutcomeLabels {
    pub(super) outcome: Outcome,
}

/// The network's metrics.
#[derive(Clone, Debug)]
pub(super) struct NetworkMetrics {
    pub(super) connections: Family<ConnectionLabels, Gauge>,
    pub(super) gossip: Family<FateLabels, Counter>,
    pub(super) lookups: Family<OutcomeLabels, Counter>,
    pub(super) lookup_seconds: Histogram,
    pub(super) records_refused: Counter,
    pub(super) records: Gauge,
    pub(super) streams_refused: Counter,
    pub(super) dials_failed: Counter,
}

impl NetworkMetrics {
    pub(super) fn register(metrics: &Metrics) -> Self {
        let this = Self {
            connections: Family::default(),
            gossip: Family::default(),
            lookups: Family::default(),
            // 1 ms on loopback to 16 s, just under the limit of a lookup.
            lookup_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            records_refused: Counter::default(),
            records: Gauge::default(),
            streams_refused: Counter::default(),
            dials_failed: Counter::default(),
        };
        metrics.register(|registry| {
            let registry = registry.sub_registry_with_prefix("network");
            registry.register("connections", "Open connections", this.connections.clone());
            registry.register("gossip_messages", "Gossip messages by what became of them", this.gossip.clone());
            registry.register("dht_lookups", "Finished lookups of a cell", this.lookups.clone());
            registry.register("dht_lookup_seconds", "Time of a lookup of a cell", this.lookup_seconds.clone());
            registry.register(
                "dht_records_refused",
                "Provider records that the store did not take",
                this.records_refused.clone(),
            );
            registry.register("dht_records", "Provider records held for others", this.records.clone());
            registry.register(
                "streams_refused",
                "Streams of peers refused for a limit or a full queue",
                this.streams_refused.clone(),
            );
            registry.register("dials_failed", "Connection attempts that failed", this.dials_failed.clone());
        });
        this
    }
}
