//! How much work a forwarder may make.

use crate::network::token_bucket::{Rate, TokenBucket};
use libp2p::PeerId;
use std::{collections::HashMap, time::Instant};

/// 200 messages at once and 50 a second in the long run: a neighbourhood of 1,500 providers, all of whose heartbeats
/// come by one peer.
const RATE: Rate = Rate { burst: 200.0, per_second: 50.0 };
/// Every so many bytes of a message count as one message more.
const BYTES_PER_TOKEN: usize = 4096;
/// Forwarders remembered: more than a node has connections.
const MAX_FORWARDERS: usize = 1024;

/// Owns one token bucket a forwarder, to be asked before a signature is verified; at most 256 KiB.
///
/// A message that it refuses is to be ignored, not rejected: the forwarder did not write it.
#[derive(Debug, Default)]
pub struct ForwarderLimits {
    buckets: HashMap<PeerId, TokenBucket>,
}

impl ForwarderLimits {
    /// Whether a message of `bytes` that came from `forwarder` may be looked at.
    pub fn allow(&mut self, forwarder: PeerId, bytes: usize, now: Instant) -> bool {
        if self.buckets.len() >= MAX_FORWARDERS && !self.buckets.contains_key(&forwarder) {
            self.buckets.retain(|_, bucket| !bucket.is_full(RATE, now));
            if self.buckets.len() >= MAX_FORWARDERS {
                return false;
            }
        }
        let cost = 1.0 + (bytes / BYTES_PER_TOKEN) as f64;
        self.buckets.entry(forwarder).or_insert_with(|| TokenBucket::full(RATE, now)).take(RATE, cost, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn one_forwarder_is_slowed_down_and_others_are_not() {
        let (mut limits, now) = (ForwarderLimits::default(), Instant::now());
        let (noisy, quiet) = (PeerId::random(), PeerId::random());
        assert_eq!((0..10_000).filter(|_| limits.allow(noisy, 120, now)).count(), 200);
        assert!(limits.allow(quiet, 120, now));
        assert!(limits.allow(noisy, 120, now + Duration::from_secs(1)));
        let (large, later) = (PeerId::random(), now + Duration::from_secs(60));
        assert_eq!((0..10_000).filter(|_| limits.allow(large, 32 * 1024, later)).count(), 200 / 9);
    }

    #[test]
    fn memory_is_bounded_and_room_comes_back() {
        let (mut limits, now) = (ForwarderLimits::default(), Instant::now());
        let allowed = (0..5 * MAX_FORWARDERS).filter(|_| limits.allow(PeerId::random(), 1, now)).count();
        assert_eq!((allowed, limits.buckets.len()), (MAX_FORWARDERS, MAX_FORWARDERS));
        assert!(limits.allow(PeerId::random(), 1, now + Duration::from_secs(10)));
        assert!(limits.buckets.len() < MAX_FORWARDERS);
    }
}
