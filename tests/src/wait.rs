//! Waiting for what another process does, where no event reaches this one.

use std::{future::Future, time::Duration};

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(50);

/// Asks `condition` until it answers `Some`, for `patience` at most; panics with `what` after that.
pub async fn eventually<T, F>(what: &str, patience: Duration, mut condition: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let mut interval = tokio::time::interval(INTERVAL);
    let waited = tokio::time::timeout(patience, async {
        loop {
            interval.tick().await;
            if let Some(value) = condition().await {
                return value;
            }
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what}: not within {patience:?}"))
}
