//! What follows from being reachable or not: the part this node takes in the DHT, and relays to be reached through.

use super::Actor;
use crate::network::addresses::is_relayed;
use libp2p::{Multiaddr, PeerId, core::transport::ListenerId, kad, multiaddr::Protocol};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Relays a private node listens through: a second one for when the first goes.
const MAX_RESERVATIONS: usize = 2;
/// How long a node that has just started waits for the verdict before it takes relays without one.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a relay is left alone that refused, for it may be full: doubled from refusal to refusal up to the last.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LAST_PAUSE: Duration = Duration::from_secs(64);
/// Most relays remembered for that.
const MAX_AVOIDED: usize = 256;

/// Owns the relays that this node listens through.
#[derive(Debug)]
pub(in crate::network) struct Reservations {
    started: Instant,
    listeners: HashMap<ListenerId, PeerId>,
    avoided: HashMap<PeerId, Avoided>,
}

/// A relay that refused.
#[derive(Clone, Copy, Debug)]
struct Avoided {
    until: Instant,
    pause: Duration,
}

impl Reservations {
    pub(in crate::network) fn new(now: Instant) -> Self {
        Self { started: now, listeners: HashMap::new(), avoided: HashMap::new() }
    }

    /// The relays in use.
    pub(in crate::network) fn relays(&self) -> impl Iterator<Item = &PeerId> {
        self.listeners.values()
    }

    /// A relay gave a reservation.
    pub(super) fn accepted(&mut self, relay: &PeerId) {
        self.avoided.remove(relay);
    }

    /// A listener closed, because the relay refused or because the connection to it ended; the relay, if it was one.
    pub(super) fn closed(&mut self, id: ListenerId, refused: bool, now: Instant) -> Option<PeerId> {
        let relay = self.listeners.remove(&id)?;
        if refused {
            let known = self.avoided.get(&relay);
            let pause = known.map_or(FIRST_PAUSE, |known| (known.pause * 2).min(LAST_PAUSE));
            if known.is_none() && self.avoided.len() >= MAX_AVOIDED {
                self.avoided.retain(|_, known| known.until > now);
            }
            if self.avoided.len() < MAX_AVOIDED {
                self.avoided.insert(relay, Avoided { until: now + pause, pause });
            }
        }
        Some(relay)
    }

    fn may_use(&self, relay: &PeerId, now: Instant) -> bool {
        !self.relays().any(|used| used == relay) && self.avoided.get(relay).is_none_or(|known| known.until <= now)
    }
}

impl Actor {
    /// Only nodes that others reach may serve the DHT; the others would be dead ends in everybody's table.
    pub(super) fn set_dht_mode(&mut self) {
        let serve = self.config.relay || self.own.is_public();
        if self.server_mode == Some(serve) {
            return;
        }
        self.server_mode = Some(serve);
        if let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() {
            kad.set_mode(Some(if serve { kad::Mode::Server } else { kad::Mode::Client }));
        }
    }

    /// A node that others do not reach, or of which nobody can tell, keeps reservations at relays among its peers.
    pub(super) fn keep_reservations(&mut self, now: Instant) {
        if self.own.is_public() {
            // They are forgotten when they have closed.
            for id in self.reservations.listeners.keys() {
                self.swarm.remove_listener(*id);
            }
            return;
        }
        if !self.own.is_private() && now.saturating_duration_since(self.reservations.started) < PATIENCE {
            return;
        }
        while self.reservations.listeners.len() < MAX_RESERVATIONS {
            let Some((relay, address)) = self.free_relay(now) else { return };
            match self.swarm.listen_on(address) {
                Ok(id) => drop(self.reservations.listeners.insert(id, relay)),
                Err(error) => {
                    tracing::debug!(%relay, %error, "cannot listen through a relay");
                    return;
                }
            }
        }
    }

    /// The nearest connected relay that is not in use and has not refused just now, and the address to listen on there:
    /// one that others can use too, so never the far end of a connection that the relay made.
    fn free_relay(&self, now: Instant) -> Option<(PeerId, Multiaddr)> {
        let free = self.peers.iter().filter(|(peer, known)| known.relay && self.reservations.may_use(peer, now));
        let mut free: Vec<_> = free.filter(|(_, known)| !known.best().is_relayed()).collect();
        free.sort_by_key(|(_, known)| known.best().round_trip.unwrap_or(Duration::MAX));
        free.into_iter().find_map(|(peer, known)| {
            let dialled = known.connections().iter().filter(|connection| connection.outbound);
            known
                .advertised
                .iter()
                .chain(dialled.map(|connection| &connection.address))
                .find(|address| !is_relayed(address) && self.policy.admits(address))
                .map(|address| {
                    let listen = address.clone().with(Protocol::P2p(*peer)).with(Protocol::P2pCircuit);
                    (*peer, listen)
                })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_that_refuses_is_left_alone_for_longer_and_longer() {
        let now = Instant::now();
        let mut reservations = Reservations::new(now);
        let relay = PeerId::random();
        let mut refuse = |at: Instant, refused| {
            assert!(reservations.may_use(&relay, at));
            let id = ListenerId::next();
            reservations.listeners.insert(id, relay);
            assert!(!reservations.may_use(&relay, at), "one reservation a relay");
            assert_eq!(reservations.closed(id, refused, at), Some(relay));
            let free = (0..200).find(|seconds| reservations.may_use(&relay, at + Duration::from_secs(*seconds)));
            at + Duration::from_secs(free.expect("it is tried again"))
        };
        let second = refuse(now, true);
        assert_eq!(second, now + FIRST_PAUSE);
        assert_eq!(refuse(second, true), second + 2 * FIRST_PAUSE);
        let late = now + Duration::from_secs(3600);
        let last = (0..10).fold(late, |at, _| refuse(at, true));
        assert_eq!(refuse(last, true), last + LAST_PAUSE);
        let lost = last + LAST_PAUSE;
        assert_eq!(refuse(lost, false), lost, "that the connection ended says nothing of the relay");
        reservations.accepted(&relay);
        assert!(reservations.avoided.is_empty());
        assert_eq!(reservations.closed(ListenerId::next(), true, now), None, "a listener of another kind");
    }
}
