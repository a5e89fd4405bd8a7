//! Finding the network: the bootstrap list and the peers of the last run, again and again until one answers.
//!
//! Having a peer is not enough. Two nodes that find each other on the local network while the internet is down would
//! stay an island when it is back, so the list is dialled until one of it was reached.

use super::{NetworkError, addresses::peer_of};
use libp2p::{Multiaddr, PeerId, swarm::ConnectionId};
use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

/// First pause between two rounds, doubled up to [`LAST_PAUSE`].
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(500);
pub(super) const LAST_PAUSE: Duration = Duration::from_secs(60);

/// Owns the search for the network.
#[derive(Debug)]
pub(super) struct Bootstrap {
    pub(super) peers: Vec<(PeerId, Multiaddr)>,
    /// One of the list was connected in this run.
    pub(super) met: bool,
    /// There are peers, and none of them is known to lead to the rest of the network.
    pub(super) island: bool,
    /// A relay waits for others; an empty list is nothing to warn of.
    pub(super) may_be_alone: bool,
    pub(super) dials: HashSet<ConnectionId>,
    pub(super) failures: Vec<String>,
    pub(super) pause: Duration,
    pub(super) next: Instant,
    pub(super) skip: usize,
}

impl Bootstrap {
    /// Takes the bootstrap list, whose addresses must name their peers.
    pub(super) fn new(
        addresses: &[Multiaddr],
        local: PeerId,
        may_be_alone: bool,
        now: Instant,
    ) -> Result<Self, NetworkError> {
        let mut peers = Vec::new();
        for address in addresses {
            let peer = peer_of(address).ok_or_else(|| {
                NetworkError::Start(format!(
                    "{address} does not say who is there: end it in /p2p/<PeerId> (setting `bootstrap`)"
                ))
            })?;
            if peer != local {
                peers.push((peer, address.clone()));
            }
        }
        let dials = HashSet::new();
        Ok(Self {
            peers,
            met: false,
            island: false,
            may_be_alone,
            dials,
            failures: Vec::new(),
            pause: FIRST_PAUSE,
            next: now,
            skip: 0,
        })
    }

    /// A peer is connected.
    pub(super) fn met(&mut self, peer: &PeerId) {
        self.met = self.met || self.peers.iter().any(|(listed, _)| listed == peer);
    }

    /// Whether a round is due at `now`, of a node that has a peer or none.
    pub(super) fn is_due(&mut self, has_peers: bool, now: Instant) -> bool {
        self.island = if !has_peers {
            // Of an island that broke up nothing is left to wait for.
            if self.island {
                self.rest(now);
            }
            false
        } else if self.met || self.peers.is_empty() {
            self.rest(now);
            return false;
        } else {
            self.pause = LAST_PAUSE;
            true
        };
        now >= self.next && self.dials.is_empty()
    }

    /// The next search starts at once and from the front.
    fn rest(&mut self, now: Instant) {
        self.pause = FIRST_PAUSE;
        self.next = now;
        self.skip = 0;
    }

    /// How long to the next round, with the pause after it; a little random, so that the nodes that one bootstrap
    /// peer lost do not all come back at the same moment.
    pub(super) fn next_round(&mut self, now: Instant) {
        self.next = now + self.pause.mul_f64(rand::random_range(0.75..1.25));
        self.pause = (self.pause * 2).min(LAST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_must_name_their_peer() {
        let now = Instant::now();
        let (local, peer) = (PeerId::random(), PeerId::random());
        let nameless: Multiaddr = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
        let error = Bootstrap::new(std::slice::from_ref(&nameless), local, false, now).unwrap_err();
        assert!(error.to_string().contains("`bootstrap`"), "{error}");
        let named = |peer| nameless.clone().with_p2p(peer).unwrap();
        let other = "/ip4/127.0.0.1/udp/1/quic-v1".parse::<Multiaddr>().unwrap().with_p2p(peer).unwrap();
        let bootstrap = Bootstrap::new(&[named(peer), named(local), other.clone()], local, false, now).unwrap();
        assert_eq!(bootstrap.peers, [(peer, named(peer)), (peer, other)]);
    }

    #[test]
    fn an_island_looks_for_the_network_until_one_of_the_list_is_met() {
        let now = Instant::now();
        let listed = PeerId::random();
        let address = "/ip4/127.0.0.1/tcp/1".parse::<Multiaddr>().unwrap().with_p2p(listed).unwrap();
        let mut bootstrap = Bootstrap::new(&[address], PeerId::random(), false, now).unwrap();
        bootstrap.met(&PeerId::random());
        assert!(bootstrap.is_due(true, now), "a neighbour is not the network");
        bootstrap.next_round(now);
        assert!(!bootstrap.is_due(true, now + LAST_PAUSE.mul_f64(0.7)), "there is no hurry");
        assert!(bootstrap.is_due(true, now + LAST_PAUSE.mul_f64(1.3)));
        assert!(bootstrap.is_due(false, now), "who has lost its neighbours too is in a hurry");
        assert_eq!(bootstrap.pause, FIRST_PAUSE);
        bootstrap.met(&listed);
        assert!(!bootstrap.is_due(true, now + LAST_PAUSE * 2));
        assert!(bootstrap.is_due(false, now + LAST_PAUSE * 2), "alone again");

        let mut without_list = Bootstrap::new(&[], PeerId::random(), false, now).unwrap();
        assert!(!without_list.is_due(true, now));
    }

    #[test]
    fn pauses_grow_to_a_minute() {
        let now = Instant::now();
        let mut bootstrap = Bootstrap::new(&[], PeerId::random(), false, now).unwrap();
        let mut last = Duration::ZERO;
        for _ in 0..12 {
            bootstrap.next_round(now);
            last = bootstrap.next - now;
        }
        assert!((LAST_PAUSE.mul_f64(0.75)..=LAST_PAUSE.mul_f64(1.25)).contains(&last), "{last:?}");
    }
}
