//! How many streams peers may open, and how fast: the check before anything of a peer is read.

use aitbc_protocol::NodeId;
use std::{collections::HashMap, time::Duration};
use tokio::time::Instant;

/// Peers remembered before those that lost nothing by it are forgotten.
const PRUNE_ABOVE: usize = 1024;
/// Peers remembered at most; a stranger beyond them waits. Connection limits keep real numbers far below.
const MOST_PEERS: usize = 8192;

/// What one protocol allows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Streams at a time, over all peers.
    pub(crate) streams: usize,
    /// Streams at a time of one peer.
    pub(crate) per_peer: usize,
    /// Streams that one peer may open at once after a rest.
    pub(crate) burst: u32,
    /// Time that each stream uses up: the inverse of the lasting rate.
    pub(crate) interval: Duration,
}

/// Why a stream is not served now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Busy {
    /// When to try again.
    pub(crate) retry_ms: u32,
}

#[derive(Debug)]
struct Peer {
    streams: usize,
    /// When the peer's allowance is whole again (the generic cell rate algorithm of ITU-T I.371).
    whole_at: Instant,
}

/// Counts the streams of each peer. Memory is bounded whatever peers do.
#[derive(Debug)]
pub(super) struct Gate {
    limits: Limits,
    peers: HashMap<NodeId, Peer>,
    streams: usize,
}

impl Gate {
    /// An empty gate.
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, peers: HashMap::new(), streams: 0 }
    }

    /// Lets a stream of `peer` in; [`Gate::leave`] must follow when it ends.
    pub(super) fn enter(&mut self, peer: NodeId, now: Instant) -> Result<(), Busy> {
        /// What a peer is told where the end of the wait depends on others.
        const LATER: Busy = Busy { retry_ms: 1000 };
        if self.peers.len() > PRUNE_ABOVE {
            self.peers.retain(|_, peer| peer.streams > 0 || peer.whole_at > now);
        }
        if self.peers.len() >= MOST_PEERS && !self.peers.contains_key(&peer) {
            return Err(LATER);
        }
        let Limits { streams, per_peer, burst, interval } = self.limits;
        let entry = self.peers.entry(peer).or_insert(Peer { streams: 0, whole_at: now });
        let whole_at = entry.whole_at.max(now) + interval;
        let wait = whole_at.saturating_duration_since(now).saturating_sub(interval * burst);
        if !wait.is_zero() {
            return Err(Busy { retry_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).max(1) });
        }
        // A stream refused for want of room costs the peer its allowance too, or it could ask without end.
        entry.whole_at = whole_at;
        if self.streams >= streams || entry.streams >= per_peer {
            return Err(LATER);
        }
        entry.streams += 1;
        self.streams += 1;
        Ok(())
    }

    /// A stream that was let in has ended.
    pub(super) fn leave(&mut self, peer: &NodeId) {
        if let Some(entry) = self.peers.get_mut(peer) {
            entry.streams = entry.streams.saturating_sub(1);
            self.streams = self.streams.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { streams: 3, per_peer: 2, burst: 4, interval: Duration::from_millis(100) };

    fn peer(number: u8) -> NodeId {
        NodeId([number; 32])
    }

    #[test]
    fn a_burst_is_allowed_and_then_the_lasting_rate() {
        let mut gate = Gate::new(LIMITS);
        let start = Instant::now();
        for _ in 0..4 {
            assert_eq!(gate.enter(peer(1), start), Ok(()));
            gate.leave(&peer(1));
        }
        assert_eq!(gate.enter(peer(1), start), Err(Busy { retry_ms: 100 }));
        assert_eq!(gate.enter(peer(2), start), Ok(()), "others do not pay for it");
        assert_eq!(gate.enter(peer(1), start + Duration::from_millis(100)), Ok(()));
    }

    #[test]
    fn streams_at_a_time_are_bounded_for_each_peer_and_for_all() {
        let mut gate = Gate::new(LIMITS);
        let now = Instant::now();
        assert_eq!(gate.enter(peer(1), now), Ok(()));
        assert_eq!(gate.enter(peer(1), now), Ok(()));
        assert!(gate.enter(peer(1), now).is_err());
        assert_eq!(gate.enter(peer(2), now), Ok(()));
        assert!(gate.enter(peer(3), now).is_err());
        gate.leave(&peer(1));
        assert_eq!(gate.enter(peer(3), now), Ok(()));
    }

    #[test]
    fn ten_thousand_strangers_do_not_fill_the_memory() {
        let mut gate = Gate::new(Limits { streams: usize::MAX, ..LIMITS });
        let now = Instant::now();
        for number in 0..10_000_u32 {
            let mut id = [0; 32];
            id[..4].copy_from_slice(&number.to_le_bytes());
            let _ = gate.enter(NodeId(id), now);
        }
        assert_eq!(gate.peers.len(), MOST_PEERS);
        for number in 0..10_000_u32 {
            let mut id = [0; 32];
            id[..4].copy_from_slice(&number.to_le_bytes());
            gate.leave(&NodeId(id));
        }
        assert_eq!(gate.enter(peer(9), now + Duration::from_secs(1)), Ok(()));
        assert_eq!(gate.peers.len(), 1, "peers that have rested are forgotten");
    }
}
