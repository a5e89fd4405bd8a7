//! How often somebody may do something: a bucket that fills with time.

use aitbc_protocol::{NodeId, UnixMillis};
use std::collections::HashMap;

/// Allows `burst` things at once and then one every `every_ms`.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    burst: f64,
    every_ms: f64,
    left: f64,
    at_ms: UnixMillis,
}

impl Pace {
    pub(super) fn new(burst: f64, every_ms: f64, now_ms: UnixMillis) -> Self {
        Self { burst, every_ms, left: burst, at_ms: now_ms }
    }

    /// Takes one out, if there is one.
    pub(super) fn allow(&mut self, now_ms: UnixMillis) -> bool {
        self.fill(now_ms);
        let allowed = self.left >= 1.0;
        if allowed {
            self.left -= 1.0;
        }
        allowed
    }

    fn fill(&mut self, now_ms: UnixMillis) {
        let passed = now_ms.saturating_sub(self.at_ms) as f64;
        self.left = (self.left + passed / self.every_ms).min(self.burst);
        self.at_ms = self.at_ms.max(now_ms);
    }

    fn is_full(&mut self, now_ms: UnixMillis) -> bool {
        self.fill(now_ms);
        self.left >= self.burst
    }
}

/// A pace for each peer, for at most `MAX_PEERS` peers at a time: those beyond wait until others were quiet.
#[derive(Debug)]
pub(super) struct PeerPaces {
    burst: f64,
    every_ms: f64,
    peers: HashMap<NodeId, Pace>,
}

/// Most peers watched at a time: as many as a node has connections.
const MAX_PEERS: usize = 1024;

impl PeerPaces {
    pub(super) fn new(burst: f64, every_ms: f64) -> Self {
        Self { burst, every_ms, peers: HashMap::new() }
    }

    /// Whether `peer` may do it once more now.
    pub(super) fn allow(&mut self, peer: NodeId, now_ms: UnixMillis) -> bool {
        if self.peers.len() >= MAX_PEERS && !self.peers.contains_key(&peer) {
            self.peers.retain(|_, pace| !pace.is_full(now_ms));
            if self.peers.len() >= MAX_PEERS {
                return false;
            }
        }
        let (burst, every_ms) = (self.burst, self.every_ms);
        self.peers.entry(peer).or_insert_with(|| Pace::new(burst, every_ms, now_ms)).allow(now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_the_pace() {
        let mut pace = Pace::new(3.0, 100.0, 1_000);
        assert_eq!((0..5).filter(|_| pace.allow(1_000)).count(), 3);
        assert!(!pace.allow(1_099));
        assert!(pace.allow(1_101));
        assert!(!pace.allow(900), "a clock that goes back gives nothing");
        assert_eq!((0..9).filter(|_| pace.allow(1_000_000)).count(), 3);
    }

    #[test]
    fn peers_have_their_own_pace_and_bounded_memory() {
        let mut paces = PeerPaces::new(1.0, 1_000.0);
        let peer = |n: u32| {
            let mut id = [0; 32];
            id[..4].copy_from_slice(&n.to_le_bytes());
            NodeId(id)
        };
        for n in 0..MAX_PEERS as u32 {
            assert!(paces.allow(peer(n), 0));
        }
        assert!(!paces.allow(peer(0), 0));
        assert!(!paces.allow(peer(9_999_999), 0), "no room while all others are busy");
        assert!(paces.allow(peer(9_999_999), 5_000), "room again after they were quiet");
        assert!(paces.peers.len() <= MAX_PEERS);
    }
}
