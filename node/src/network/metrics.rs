//! What `/metrics` shows of the network, under `aitbc_network_`.

use super::{Verdict, traffic::Traffic};
use crate::telemetry::Metrics;
use libp2p::relay;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Unit,
};

/// By what a connection runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ConnectionLabels {
    pub(super) transport: &'static str,
    pub(super) path: &'static str,
}

/// Whether a peer sees this node under the port that it listens on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct PortLabels {
    pub(super) port: &'static str,
}

/// How an attempt to punch a hole ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct PunchLabels {
    pub(super) outcome: &'static str,
}

/// What a relay refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RefusedLabels {
    pub(super) what: &'static str,
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
    pub(super) paths_opened: Family<ConnectionLabels, Counter>,
    pub(super) paths_dead: Counter,
    observed: Family<PortLabels, Counter>,
    punches: Family<PunchLabels, Counter>,
    relay_reservations: Gauge,
    relay_circuits: Gauge,
    relay_refused: Family<RefusedLabels, Counter>,
    pub(super) relay_carried: Counter,
    pub(super) traffic: Traffic,
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
            paths_opened: Family::default(),
            paths_dead: Counter::default(),
            observed: Family::default(),
            punches: Family::default(),
            relay_reservations: Gauge::default(),
            relay_circuits: Gauge::default(),
            relay_refused: Family::default(),
            relay_carried: Counter::default(),
            traffic: Traffic::default(),
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
            registry.register("paths_opened", "Connections made so far", this.paths_opened.clone());
            registry.register(
                "paths_dead",
                "Connections closed because no probe came back",
                this.paths_dead.clone(),
            );
            registry.register(
                "observed",
                "What peers said they see of this node: the port that it listens on, or another one",
                this.observed.clone(),
            );
            registry.register("hole_punches", "Attempts to punch a hole by how they ended", this.punches.clone());
            registry.register(
                "relay_reservations",
                "Nodes that are reachable through this one",
                this.relay_reservations.clone(),
            );
            registry.register("relay_circuits", "Connections carried for others", this.relay_circuits.clone());
            registry.register(
                "relay_refused",
                "Reservations and circuits that were refused",
                this.relay_refused.clone(),
            );
            registry.register_with_unit(
                "relay_carried",
                "What the circuits of others took of the uplink",
                Unit::Bytes,
                this.relay_carried.clone(),
            );
            registry.register_with_unit(
                "received",
                "What the streams of all connections brought",
                Unit::Bytes,
                this.traffic.received.clone(),
            );
            registry.register_with_unit(
                "sent",
                "What went out on the streams of all connections",
                Unit::Bytes,
                this.traffic.sent.clone(),
            );
        });
        this
    }

    /// An attempt to punch a hole ended.
    pub(super) fn count_punch(&self, through: bool) {
        let outcome = if through { "through" } else { "failed" };
        self.punches.get_or_create(&PunchLabels { outcome }).inc();
    }

    /// Something happened to a reservation or a circuit here.
    pub(super) fn count_relayed(&self, event: &relay::Event) {
        let refused = |what| self.relay_refused.get_or_create(&RefusedLabels { what }).inc();
        match event {
            relay::Event::ReservationReqAccepted { renewed: false, .. } => drop(self.relay_reservations.inc()),
            relay::Event::ReservationClosed { .. } | relay::Event::ReservationTimedOut { .. } => {
                self.relay_reservations.dec();
            }
            relay::Event::ReservationReqDenied { .. } => drop(refused("reservation")),
            relay::Event::CircuitReqAccepted { .. } => drop(self.relay_circuits.inc()),
            relay::Event::CircuitClosed { .. } => drop(self.relay_circuits.dec()),
            relay::Event::CircuitReqDenied { .. } => drop(refused("circuit")),
            _ => {}
        }
    }

    /// A peer said under which port it sees this node.
    pub(super) fn count_observed(&self, listening: bool) {
        let port = if listening { "listening" } else { "other" };
        self.observed.get_or_create(&PortLabels { port }).inc();
    }
}
