//! What operators see of heat and power.

use super::{GpuState, PowerState};
use crate::telemetry::Metrics;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
};
use std::sync::atomic::AtomicU64;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GpuLabel {
    gpu: String,
}

/// What operators see of it.
#[derive(Clone, Debug, Default)]
pub(super) struct PowerMetrics {
    celsius: Family<GpuLabel, Gauge<f64, AtomicU64>>,
    watts: Family<GpuLabel, Gauge<f64, AtomicU64>>,
    utilisation: Family<GpuLabel, Gauge<f64, AtomicU64>>,
    slots: Gauge,
}

impl PowerMetrics {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let this = Self::default();
        metrics.register(|registry| {
            let registry = registry.sub_registry_with_prefix("gpu");
            registry.register("celsius", "Temperature of the core", this.celsius.clone());
            registry.register("watts", "Draw", this.watts.clone());
            registry.register("utilisation", "Part of the time that it computes", this.utilisation.clone());
            registry.register("slots", "Jobs that heat, power and the owner allow", this.slots.clone());
        });
        this
    }

    pub(super) fn note(&self, state: &PowerState) {
        self.slots.set(i64::from(state.decision.slots));
        for GpuState { address, sample, .. } in &state.gpus {
            let label = GpuLabel { gpu: address.clone() };
            for (family, value) in [
                (&self.celsius, sample.core_celsius),
                (&self.watts, sample.watts),
                (&self.utilisation, sample.utilisation),
            ] {
                if let Some(value) = value {
                    family.get_or_create(&label).set(f64::from(value));
                }
            }
        }
    }
}
