//! Peers whose connections broke: they are sought for ten seconds, and then count as offline until they are found or
//! speak again.

use super::Actor;
use crate::network::{node_id, peers::Peer};
use aitbc_protocol::{NodeId, UnixMillis};
use libp2p::{Multiaddr, PeerId};
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// When a peer that is not found counts as offline.
const OFFLINE_AFTER: Duration = Duration::from_secs(10);
/// Pause between two dials until then, and after it.
const SEEK: Duration = Duration::from_secs(2);
const SEEK_OFFLINE: Duration = Duration::from_secs(30);
/// After how long a peer is forgotten: its offers have expired by then.
const FORGOTTEN: Duration = Duration::from_secs(60 * 60);
/// Most peers sought.
const MAX_MISSING: usize = 256;

#[derive(Debug)]
struct Missing {
    since: Instant,
    since_ms: UnixMillis,
    next: Instant,
    addresses: Vec<Multiaddr>,
}

/// Owns who is missing.
#[derive(Debug, Default)]
pub(in crate::network) struct MissingPeers(HashMap<PeerId, Missing>);

impl MissingPeers {
    /// The connection to a peer broke.
    pub(super) fn lost(&mut self, peer: PeerId, addresses: Vec<Multiaddr>, now: Instant, now_ms: UnixMillis) {
        if self.0.len() < MAX_MISSING {
            self.0.insert(peer, Missing { since: now, since_ms: now_ms, next: now, addresses });
        }
    }

    /// It is connected. True if it counted as offline.
    pub(super) fn found(&mut self, peer: &PeerId, now: Instant) -> bool {
        self.0.remove(peer).is_some_and(|missing| now.saturating_duration_since(missing.since) >= OFFLINE_AFTER)
    }

    /// Whom to dial now.
    fn due(&mut self, now: Instant) -> Vec<(PeerId, Vec<Multiaddr>)> {
        self.0.retain(|_, missing| now.saturating_duration_since(missing.since) < FORGOTTEN);
        let due = self.0.iter_mut().filter(|(_, missing)| missing.next <= now);
        due.map(|(peer, missing)| {
            let offline = now.saturating_duration_since(missing.since) >= OFFLINE_AFTER;
            missing.next = now + if offline { SEEK_OFFLINE } else { SEEK };
            (*peer, missing.addresses.clone())
        })
        .collect()
    }

    /// Who is offline, and since when.
    fn offline(&self, now: Instant) -> HashMap<NodeId, UnixMillis> {
        let offline =
            self.0.iter().filter(|(_, missing)| now.saturating_duration_since(missing.since) >= OFFLINE_AFTER);
        offline.filter_map(|(peer, missing)| Some((node_id(peer)?, missing.since_ms))).collect()
    }
}

impl Actor {
    /// The last connection to `peer` broke, and nobody closed it.
    pub(super) fn miss(&mut self, peer: PeerId, last: &Multiaddr, known: &Peer, now: Instant) {
        let addresses = [last].into_iter().chain(&known.advertised).cloned().collect();
        self.missing.lost(peer, addresses, now, crate::clock::now_ms());
    }

    /// Dials who is missing, and publishes who is offline.
    pub(super) fn seek_missing(&mut self, now: Instant) {
        for (peer, addresses) in self.missing.due(now) {
            self.dial_ahead(peer, &addresses);
        }
        let offline = self.missing.offline(now);
        self.publisher.offline.send_if_modified(|known| {
            let changed = **known != offline;
            if changed {
                *known = Arc::new(offline);
            }
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_peer_is_sought_and_offline_after_ten_seconds() {
        let now = Instant::now();
        let peer = libp2p::identity::Keypair::generate_ed25519().public().to_peer_id();
        let mut missing = MissingPeers::default();
        missing.lost(peer, vec!["/ip4/9.9.9.9/tcp/1".parse().unwrap()], now, 7);
        assert_eq!(missing.due(now).len(), 1, "at once");
        assert!(missing.due(now).is_empty());
        assert_eq!(missing.due(now + SEEK).len(), 1);
        assert!(missing.offline(now + SEEK).is_empty());
        let node = node_id(&peer).unwrap();
        assert_eq!(missing.offline(now + OFFLINE_AFTER), HashMap::from([(node, 7)]));
        assert!(missing.found(&peer, now + OFFLINE_AFTER));
        assert!(missing.offline(now + OFFLINE_AFTER).is_empty());
        missing.lost(peer, Vec::new(), now, 8);
        assert!(!missing.found(&peer, now + SEEK), "it was never offline");
        missing.lost(peer, Vec::new(), now, 9);
        assert!(missing.due(now + FORGOTTEN).is_empty());
    }
}
