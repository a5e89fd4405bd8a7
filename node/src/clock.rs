//! The wall clock, the one place that reads it.

use aitbc_protocol::UnixMillis;
use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970; 0 before that. In a simulated city its time, and not the machine's.
pub fn now_ms() -> UnixMillis {
    #[cfg(test)]
    if let Some(now_ms) = crate::city::laboratory::now_ms() {
        return now_ms;
    }
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}
