//! Peers whose connections broke: they are sought for ten seconds, and then count as offline until they are found or
//! speak again.

use super::Actor;
use crate::network::{
    addresses::{is_relayed, source_ip},
    node_id,
    peers::Peer,
};
use aitbc_protocol::{NodeId, UnixMillis};
use libp2p::{Multiaddr, PeerId};
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// When a peer that is not found counts as offline.
const OFFLINE_AFTER: Duration = Duration::from_secs(10);
/// Pause between two dials until then, and the first one after it, doubled from dial to dial.
const SEEK: Duration = Duration::from_secs(2);
const SEEK_OFFLINE: Duration = Duration::from_secs(30);
/// A connection to a peer that was missing must have lasted longer than idle ones do before its end starts all over.
pub(super) const SETTLED: Duration = Duration::from_secs(10 * 60);
/// Who came for less is not missed.
pub(super) const VISIT: Duration = Duration::from_secs(5);
/// Addresses over relays that are dialled of those that the peer told: nothing shows that they are its own.
const MAX_RELAYED: usize = 4;
/// After how long a peer is forgotten: its offers have expired by then.
const FORGOTTEN: Duration = Duration::from_secs(60 * 60);
/// Most peers sought.
const MAX_MISSING: usize = 256;

#[derive(Debug)]
struct Missing {
    since: Instant,
    since_ms: UnixMillis,
    next: Instant,
    pause: Duration,
    addresses: Vec<Multiaddr>,
}

/// Owns who is missing.
#[derive(Debug, Default)]
pub(in crate::network) struct MissingPeers(HashMap<PeerId, Missing>);

impl MissingPeers {
    /// The connection to a peer broke.
    pub(super) fn lost(&mut self, peer: PeerId, addresses: Vec<Multiaddr>, now: Instant, now_ms: UnixMillis) {
        if self.0.len() < MAX_MISSING {
            let missing = Missing { since: now, since_ms: now_ms, next: now, pause: SEEK_OFFLINE, addresses };
            self.0.insert(peer, missing);
        }
    }

    /// It is connected. True if it was missing.
    pub(super) fn found(&mut self, peer: &PeerId) -> bool {
        self.0.remove(peer).is_some()
    }

    /// Whom to dial now.
    fn due(&mut self, now: Instant) -> Vec<(PeerId, Vec<Multiaddr>)> {
        self.0.retain(|_, missing| now.saturating_duration_since(missing.since) < FORGOTTEN);
        let due = self.0.iter_mut().filter(|(_, missing)| missing.next <= now);
        due.map(|(peer, missing)| {
            let offline = now.saturating_duration_since(missing.since) >= OFFLINE_AFTER;
            missing.next = now + if offline { missing.pause } else { SEEK };
            if offline {
                missing.pause *= 2;
            }
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
        self.missing.lost(peer, sought_at(last, &known.advertised), now, crate::clock::now_ms());
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

/// Where to seek a peer: at its last address and at those that it told of the same host. Whatever else it told may be
/// somebody else's, who is not to be dialled for it again and again.
pub(super) fn sought_at(last: &Multiaddr, told: &[Multiaddr]) -> Vec<Multiaddr> {
    let host = source_ip(last);
    let same = told.iter().filter(|address| host.is_some() && source_ip(address) == host);
    let relayed = told.iter().filter(|address| is_relayed(address)).take(MAX_RELAYED);
    [last].into_iter().chain(same).chain(relayed).cloned().collect()
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
        assert_eq!(missing.due(now + OFFLINE_AFTER).len(), 1);
        assert!(missing.due(now + OFFLINE_AFTER + SEEK).is_empty(), "not as often any more");
        assert!(missing.found(&peer));
        assert!(missing.offline(now + OFFLINE_AFTER).is_empty());
        missing.lost(peer, Vec::new(), now, 8);
        assert!(missing.due(now + FORGOTTEN).is_empty());
        assert!(!missing.found(&peer), "it is forgotten");
    }

    #[test]
    fn a_peer_is_not_sought_at_other_hosts_that_it_names() {
        let [last, same, other, relayed] = [
            "/ip4/9.9.9.9/tcp/40000",
            "/ip4/9.9.9.9/udp/4101/quic-v1",
            "/ip4/8.8.8.8/tcp/53",
            "/ip4/7.7.7.7/tcp/4101/p2p-circuit",
        ]
        .map(|text| text.parse::<Multiaddr>().unwrap());
        let told = [same.clone(), other, relayed.clone()];
        assert_eq!(sought_at(&last, &told), [last, same, relayed.clone()]);
        assert_eq!(sought_at(&relayed, &told[1..2]), [relayed], "a relay's host is not the peer's");
    }
}
