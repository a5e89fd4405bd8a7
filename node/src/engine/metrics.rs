//! What the engines count.

use crate::telemetry::Metrics;
use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};

type Labels = [(&'static str, String); 1];

/// The families, one series a model.
#[derive(Clone, Debug, Default)]
pub(super) struct EngineMetrics {
    tokens: Family<Labels, Counter>,
    crashes: Family<Labels, Counter>,
    running: Family<Labels, Gauge>,
}

/// The series of one model.
#[derive(Clone, Debug)]
pub(super) struct ModelMetrics {
    /// Tokens generated.
    pub(super) tokens: Counter,
    /// Unexpected ends of the child, failed loads included.
    pub(super) crashes: Counter,
    /// Jobs in the child, waiting ones included.
    pub(super) running: Gauge,
}

impl EngineMetrics {
    /// Registers them under `aitbc_engine_`.
    pub(super) fn register(metrics: &Metrics) -> Self {
        let own = Self::default();
        metrics.register(|registry| {
            let registry = registry.sub_registry_with_prefix("engine");
            registry.register("tokens", "Tokens generated", own.tokens.clone());
            registry.register("crashes", "Unexpected ends of an engine process", own.crashes.clone());
            registry.register("jobs", "Jobs in an engine process, waiting ones included", own.running.clone());
        });
        own
    }

    /// The series of a model.
    pub(super) fn model(&self, name: &str) -> ModelMetrics {
        let labels = [("model", name.to_owned())];
        ModelMetrics {
            tokens: self.tokens.get_or_create_owned(&labels),
            crashes: self.crashes.get_or_create_owned(&labels),
            running: self.running.get_or_create_owned(&labels),
        }
    }
}
