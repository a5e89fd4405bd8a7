//! What the ledger counts for `/metrics`.

use super::book::Book;
use crate::telemetry::Metrics;
use prometheus_client::metrics::{
    counter::Counter,
    gauge::Gauge,
    histogram::{Histogram, exponential_buckets},
};
use std::{sync::atomic::AtomicU64, time::Duration};

/// Handles to the registered metrics.
#[derive(Debug)]
pub(super) struct Meters {
    cheques: Counter,
    earned: Gauge<u64, AtomicU64>,
    spent: Gauge<u64, AtomicU64>,
    given_back: Gauge<u64, AtomicU64>,
    got_back: Gauge<u64, AtomicU64>,
    commit_seconds: Histogram,
    commit_batch: Histogram,
}

impl Meters {
    /// Registers them.
    pub(super) fn new(metrics: &Metrics) -> Self {
        let meters = Self {
            cheques: Counter::default(),
            earned: Gauge::default(),
            spent: Gauge::default(),
            given_back: Gauge::default(),
            got_back: Gauge::default(),
            // 100 us (a fast SSD) to 3 s (a dying one).
            commit_seconds: Histogram::new(exponential_buckets(0.0001, 2.0, 16)),
            commit_batch: Histogram::new(exponential_buckets(1.0, 2.0, 9)),
        };
        metrics.register(|registry| {
            registry.register("market_cheques", "Cheques given and taken", meters.cheques.clone());
            registry.register("market_earned_microcredits", "Promised to this node", meters.earned.clone());
            registry.register("market_spent_microcredits", "Promised by this node", meters.spent.clone());
            registry.register(
                "market_given_back_microcredits",
                "Given back by this node for service levels not kept",
                meters.given_back.clone(),
            );
            registry.register(
                "market_got_back_microcredits",
                "Given back to this node for service levels not kept",
                meters.got_back.clone(),
            );
            registry.register(
                "storage_commits_seconds",
                "Duration of synced writes of the ledger",
                meters.commit_seconds.clone(),
            );
            registry.register(
                "storage_commit_batch",
                "Requests that shared a synced write",
                meters.commit_batch.clone(),
            );
        });
        meters
    }

    /// After a batch that was written.
    pub(super) fn committed(&self, book: &Book, synced: bool, took: Duration, requests: usize) {
        if synced {
            self.commit_seconds.observe(took.as_secs_f64());
            self.commit_batch.observe(requests as f64);
        }
        self.cheques.inc_by(book.cheques.saturating_sub(self.cheques.get()));
        self.sums(book);
    }

    /// Shows the sums as they are.
    pub(super) fn sums(&self, book: &Book) {
        let sums = book.sums();
        self.earned.set(sums.earned.0);
        self.spent.set(sums.spent.0);
        self.given_back.set(sums.given_back.0);
        self.got_back.set(sums.got_back.0);
    }
}
