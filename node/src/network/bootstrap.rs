//! Finding the first peer: the bootstrap list and the peers of the last run, again and again until one answers.

use super::{NetworkError, actor::Actor, addresses::peer_of, reach::describe};
use libp2p::{
    Multiaddr, PeerId,
    swarm::{
        ConnectionId, DialError,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

/// First pause between two rounds, doubled up to [`LAST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LAST_PAUSE: Duration = Duration::from_secs(60);
/// Peers of the last run that are dialled in one round.
const REMEMBERED: usize = 16;

/// Owns the search for a first peer.
#[derive(Debug)]
pub(super) struct Bootstrap {
    peers: Vec<(PeerId, Multiaddr)>,
    /// A relay waits for others; an empty list is nothing to warn of.
    may_be_alone: bool,
    dials: HashSet<ConnectionId>,
    failures: Vec<String>,
    pause: Duration,
    next: Instant,
    skip: usize,
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
        Ok(Self { peers, may_be_alone, dials, failures: Vec::new(), pause: FIRST_PAUSE, next: now, skip: 0 })
    }

    /// How long to the next round, with the pause after it; a little random, so that the nodes that one bootstrap
    /// peer lost do not all come back at the same moment.
    fn next_round(&mut self, now: Instant) {
        self.next = now + self.pause.mul_f64(rand::random_range(0.75..1.25));
        self.pause = (self.pause * 2).min(LAST_PAUSE);
    }
}

impl Actor {
    /// Dials the list and peers of the last run, if this node is alone and the pause is over.
    pub(super) fn seek_peers(&mut self, now: Instant) {
        if self.peers.len() > 0 {
            self.bootstrap.pause = FIRST_PAUSE;
            self.bootstrap.next = now;
            self.bootstrap.skip = 0;
            return;
        }
        if now < self.bootstrap.next || !self.bootstrap.dials.is_empty() {
            return;
        }
        self.bootstrap.failures.clear();
        // One dial an address: in a common one, another node that answers at one of them would end them all.
        for (peer, address) in self.bootstrap.peers.clone() {
            let options =
                DialOpts::peer_id(peer).condition(PeerCondition::Disconnected).addresses(vec![address]).build();
            let id = options.connection_id();
            match self.swarm.dial(options) {
                Ok(()) => drop(self.bootstrap.dials.insert(id)),
                Err(error) => self.bootstrap.failures.extend(describe(&error)),
            }
        }
        let remembered = self.table.newest(self.bootstrap.skip, REMEMBERED);
        self.bootstrap.skip += remembered.len();
        if self.bootstrap.skip >= self.table.len() {
            self.bootstrap.skip = 0;
        }
        for (peer, addresses) in &remembered {
            self.dial_ahead(*peer, addresses);
        }
        let alone = self.bootstrap.peers.is_empty() && remembered.is_empty();
        if alone && !self.bootstrap.may_be_alone && [FIRST_PAUSE, LAST_PAUSE].contains(&self.bootstrap.pause) {
            tracing::warn!("no peer is known: name one in the setting `bootstrap`, as /ip4/…/tcp/…/p2p/<PeerId>");
        }
        self.bootstrap.next_round(now);
        self.report_round(now);
    }

    /// A dial ended without connection; says so once the round is over.
    pub(super) fn bootstrap_dial_failed(&mut self, id: ConnectionId, error: &DialError) {
        if self.bootstrap.dials.remove(&id) {
            self.bootstrap.failures.extend(describe(error));
            self.report_round(Instant::now());
        }
    }

    pub(super) fn bootstrap_dial_ended(&mut self, id: ConnectionId) {
        self.bootstrap.dials.remove(&id);
    }

    fn report_round(&mut self, now: Instant) {
        let bootstrap = &mut self.bootstrap;
        if bootstrap.dials.is_empty() && !bootstrap.failures.is_empty() && self.peers.len() == 0 {
            let reasons = std::mem::take(&mut bootstrap.failures).join("; ");
            let again = bootstrap.next.saturating_duration_since(now);
            tracing::warn!(
                "no bootstrap peer could be reached, next try in {again:.1?}: {reasons} (setting `bootstrap`)"
            );
        }
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
