//! Tracing and metrics set-up; each subsystem declares its own metrics.

use std::sync::{Arc, Mutex};

/// The registry that `/metrics` prints; subsystems register their metrics when they start, under the prefix `aitbc`.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Mutex<prometheus_client::registry::Registry>>);

impl Default for Metrics {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(prometheus_client::registry::Registry::with_prefix("aitbc"))))
    }
}

impl Metrics {
    /// Registers metrics.
    pub fn register<R>(&self, register: impl FnOnce(&mut prometheus_client::registry::Registry) -> R) -> R {
        register(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// All metrics in the OpenMetrics text format.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        let registry = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("writing to a string cannot fail");
        text
    }
}
