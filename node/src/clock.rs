//! The wall clock, the one place that reads it.

use aitbc_protocol::UnixMillis;
use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970; 0 before that.
pub fn now_ms() -> UnixMillis {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}
