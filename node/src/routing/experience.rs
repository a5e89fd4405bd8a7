//! This node's own experience with providers: which share of recent jobs failed. Kept in memory, forgotten with time.

use aitbc_protocol::{NodeId, UnixMillis};
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Most providers remembered; whoever was dealt with longest ago is forgotten first.
const MAX_PROVIDERS: usize = 1024;
/// What happened counts half after this many milliseconds.
const HALF_LIFE_MS: f64 = 10.0 * 60_000.0;
/// Jobs that a stranger is credited with, so that one failure is not a verdict.
const CREDIT: f64 = 1.0;

#[derive(Clone, Copy, Debug, Default)]
struct Record {
    good: f64,
    failed: f64,
    at_ms: UnixMillis,
}

impl Record {
    fn decayed(self, now_ms: UnixMillis) -> Self {
        let factor = (-(now_ms.saturating_sub(self.at_ms) as f64) / HALF_LIFE_MS).exp2();
        Self { good: self.good * factor, failed: self.failed * factor, at_ms: self.at_ms.max(now_ms) }
    }
}

/// Shares of failed jobs by provider. A lock that is held for a look-up only.
#[derive(Debug, Default)]
pub(super) struct Experience(Mutex<HashMap<NodeId, Record>>);

impl Experience {
    fn records(&self) -> MutexGuard<'_, HashMap<NodeId, Record>> {
        // The map is whole after any panic: every change is one insertion.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Share of recent jobs with `provider` that failed, 0 to 1; 0 for a stranger.
    pub(super) fn failures(&self, provider: &NodeId, now_ms: UnixMillis) -> f64 {
        self.records().get(provider).map_or(0.0, |record| {
            let Record { good, failed, .. } = record.decayed(now_ms);
            failed / (good + failed + CREDIT)
        })
    }

    /// Takes down how a job went.
    pub(super) fn note(&self, provider: NodeId, good: bool, now_ms: UnixMillis) {
        let mut records = self.records();
        if records.len() >= MAX_PROVIDERS && !records.contains_key(&provider) {
            let oldest = records.iter().min_by_key(|(_, record)| record.at_ms).map(|(provider, _)| *provider);
            if let Some(oldest) = oldest {
                records.remove(&oldest);
            }
        }
        let record = records.entry(provider).or_default();
        *record = record.decayed(now_ms);
        if good {
            record.good += 1.0;
        } else {
            record.failed += 1.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_count_and_are_forgotten() {
        let experience = Experience::default();
        let provider = NodeId([1; 32]);
        assert!(experience.failures(&provider, 0).abs() < f64::EPSILON);
        experience.note(provider, false, 0);
        assert!((experience.failures(&provider, 0) - 0.5).abs() < 1e-9);
        experience.note(provider, true, 0);
        experience.note(provider, true, 0);
        assert!((experience.failures(&provider, 0) - 0.25).abs() < 1e-9);
        assert!(experience.failures(&provider, 24 * 3_600_000) < 0.01);
    }

    #[test]
    fn memory_is_bounded_and_forgets_the_oldest() {
        let experience = Experience::default();
        for n in 0..MAX_PROVIDERS as u64 + 10 {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&n.to_le_bytes());
            experience.note(NodeId(id), false, n);
        }
        assert_eq!(experience.records().len(), MAX_PROVIDERS);
        assert!(experience.failures(&NodeId([0; 32]), 2_000).abs() < f64::EPSILON);
    }
}
