//! Reaching peers: the dials, the DHT lookup beside them, and serving whoever waited.

use super::Actor;
use crate::network::{
    NetworkError, StreamError,
    addresses::without_peer,
    handle::{PendingStream, Want},
    node_id, peer_id,
    peers::Peer,
    reach::{
        ASK_DHT_AFTER, ATTEMPT_TIMEOUT, Attempt, DIAL_BESIDE, Lookup, MANY_DIALS, MAX_ATTEMPTS, MAX_BESIDE,
        MAX_TRIED, MAX_WANTS, PING_TIMEOUT, Waiting,
    },
};
use aitbc_protocol::NodeId;
use libp2p::{
    Multiaddr, PeerId,
    kad::QueryId,
    swarm::{
        ConnectionId, DialError,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use std::time::Instant;
use tokio::sync::oneshot;

impl Actor {
    /// Serves `want` on a connection to `node`, making one if there is none.
    pub(super) fn reach(&mut self, node: NodeId, addresses: &[Multiaddr], want: Want) {
        let peer = peer_id(&node);
        if peer == self.local {
            let reason = "that is this node itself".to_owned();
            return want.fail(NetworkError::Unreachable { peer: node, reason });
        }
        let now = Instant::now();
        if let Some(reason) = self.peers.banned(&peer, now) {
            let reason = format!("this node does not talk to it for a while: {reason}");
            return want.fail(NetworkError::Unreachable { peer: node, reason });
        }
        if self.peers.get(&peer).is_some() {
            return self.serve(peer, want);
        }
        if !self.attempt(peer, now) {
            return want.fail(NetworkError::TooManyDials(MAX_ATTEMPTS));
        }
        let Some(attempt) = self.reaching.attempts.get_mut(&peer) else { return };
        attempt.wants.retain(|want| !want.is_abandoned());
        if attempt.wants.len() >= MAX_WANTS {
            return want.fail(NetworkError::TooManyDials(MAX_WANTS));
        }
        attempt.wants.push(want);
        self.dial(peer, addresses);
        self.settle(peer);
    }

    /// Connects to a peer that will probably be wanted soon.
    pub(super) fn dial_ahead(&mut self, peer: PeerId, addresses: &[Multiaddr]) {
        let now = Instant::now();
        let needless =
            peer == self.local || self.peers.get(&peer).is_some() || self.peers.banned(&peer, now).is_some();
        if !needless && self.attempt(peer, now) {
            self.dial(peer, addresses);
            self.settle(peer);
        }
    }

    /// Makes sure that there is an attempt for `peer`; false if there are too many.
    fn attempt(&mut self, peer: PeerId, now: Instant) -> bool {
        let attempts = &mut self.reaching.attempts;
        if !attempts.contains_key(&peer) {
            if attempts.len() >= MAX_ATTEMPTS {
                return false;
            }
            let attempt = Attempt {
                started: now,
                wants: Vec::new(),
                tried: Vec::new(),
                dials: 0,
                dialled: now,
                beside: 0,
                lookup: Lookup::NotYet,
                reasons: Vec::new(),
            };
            attempts.insert(peer, attempt);
        }
        true
    }

    /// Dials those of `addresses` that were not tried yet, all at once, and what the DHT's table knows.
    fn dial(&mut self, peer: PeerId, addresses: &[Multiaddr]) {
        let Some(attempt) = self.reaching.attempts.get_mut(&peer) else { return };
        let mut fresh = Vec::new();
        for address in addresses.iter().map(without_peer) {
            if attempt.tried.len() >= MAX_TRIED || attempt.tried.contains(&address) {
                continue;
            }
            attempt.tried.push(address.clone());
            if self.policy.admits(&address) {
                fresh.push(address);
            } else {
                attempt.note(format!("{address}: not an address that this network uses, not tried"));
            }
        }
        if !fresh.is_empty() || attempt.dials == 0 {
            let options = DialOpts::peer_id(peer)
                // Beside a dial that another part of the node began: these addresses may be better.
                .condition(PeerCondition::Disconnected)
                .addresses(fresh)
                .extend_addresses_through_behaviour()
                .build();
            self.launch(peer, options);
        }
    }

    fn launch(&mut self, peer: PeerId, options: DialOpts) {
        let id = options.connection_id();
        let outcome = self.swarm.dial(options);
        let Some(attempt) = self.reaching.attempts.get_mut(&peer) else { return };
        attempt.dialled = Instant::now();
        match outcome {
            Ok(()) => {
                attempt.dials += 1;
                self.reaching.dials.insert(id, peer);
            }
            // Connected just now; the event is on its way.
            Err(DialError::DialPeerConditionFalse(_)) => attempt.dials += 1,
            Err(error) => attempt.note_all(&error),
        }
    }

    /// Asks the DHT or gives up where nothing else is under way.
    fn settle(&mut self, peer: PeerId) {
        let Some(attempt) = self.reaching.attempts.get_mut(&peer) else { return };
        if attempt.dials > 0 || matches!(attempt.lookup, Lookup::Running(_)) {
            return;
        }
        if attempt.lookup == Lookup::NotYet && !attempt.wants.is_empty() {
            self.ask_dht(peer);
            return;
        }
        let mut reasons = attempt.reasons.join("; ");
        if reasons.is_empty() {
            reasons.push_str("no address of it is known");
        }
        self.give_up(peer, &reasons);
    }

    fn ask_dht(&mut self, peer: PeerId) {
        let Some(attempt) = self.reaching.attempts.get_mut(&peer) else { return };
        if let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() {
            let query = kad.get_closest_peers(peer);
            attempt.lookup = Lookup::Running(query);
            self.reaching.lookups.insert(query, peer);
        } else {
            attempt.lookup = Lookup::Done;
            self.settle(peer);
        }
    }

    fn give_up(&mut self, peer: PeerId, reason: &str) {
        let Some(attempt) = self.reaching.attempts.remove(&peer) else { return };
        // Dials that still run must not count for the next attempt.
        self.reaching.dials.retain(|_, of| *of != peer);
        if let Lookup::Running(query) = attempt.lookup {
            self.finish_query(query);
            self.reaching.lookups.remove(&query);
        }
        tracing::debug!(%peer, reason, "not reached");
        let Some(node) = node_id(&peer) else { return };
        for want in attempt.wants {
            want.fail(NetworkError::Unreachable { peer: node, reason: reason.to_owned() });
        }
    }

    /// A dial ended without connection.
    pub(super) fn dial_failed(&mut self, id: ConnectionId, peer: Option<PeerId>, error: &DialError) {
        let own = self.reaching.dials.remove(&id);
        let Some(peer) = own.or(peer) else { return };
        let Some(attempt) = self.reaching.attempts.get_mut(&peer) else { return };
        attempt.note_all(error);
        if own.is_none() {
            return;
        }
        attempt.dials = attempt.dials.saturating_sub(1);
        // Another node that answers ends the whole dial, so that one stale address would hide all the good ones.
        if matches!(error, DialError::WrongPeerId { .. } | DialError::LocalPeerId { .. }) {
            let left = attempt.untold();
            if !left.is_empty() {
                let options =
                    DialOpts::peer_id(peer).condition(PeerCondition::Disconnected).addresses(left).build();
                self.launch(peer, options);
            }
        }
        self.settle(peer);
    }

    /// A lookup of a peer ended; true if it was one.
    pub(super) fn peer_looked_up(&mut self, query: QueryId, found: &[(PeerId, Vec<Multiaddr>)]) -> bool {
        let Some(peer) = self.reaching.lookups.remove(&query) else { return false };
        if let Some(attempt) = self.reaching.attempts.get_mut(&peer) {
            attempt.lookup = Lookup::Done;
            let addresses = found.iter().find(|(other, _)| *other == peer).map(|(_, addresses)| addresses.clone());
            match addresses {
                Some(addresses) => self.dial(peer, &addresses),
                None => attempt.note("the DHT does not know it".to_owned()),
            }
            self.settle(peer);
        }
        true
    }

    /// There is a connection to `peer`.
    pub(super) fn reached(&mut self, peer: PeerId) {
        self.reaching.dials.retain(|_, of| *of != peer);
        let Some(attempt) = self.reaching.attempts.remove(&peer) else { return };
        if let Lookup::Running(query) = attempt.lookup {
            self.finish_query(query);
            self.reaching.lookups.remove(&query);
        }
        for want in attempt.wants {
            self.serve(peer, want);
        }
    }

    fn serve(&mut self, peer: PeerId, want: Want) {
        let Some(best) = self.peers.get(&peer).map(Peer::to_open_on) else { return };
        match (want, best.round_trip) {
            (Want::Stream { protocol, reply }, _) => {
                let (stream, pending): (_, PendingStream) = oneshot::channel::<Result<_, StreamError>>();
                let connection = best.id;
                if reply.send(Ok(pending)).is_ok() {
                    self.swarm.behaviour_mut().streams.open(peer, protocol, Some(connection), stream);
                }
            }
            (Want::RoundTrip { reply }, Some(round_trip)) => drop(reply.send(Ok(round_trip))),
            (want, None) => {
                let waiting = self.reaching.round_trips.entry(peer).or_default();
                waiting.retain(|waiting| !waiting.want.is_abandoned());
                if waiting.len() >= MAX_WANTS {
                    want.fail(NetworkError::TooManyDials(MAX_WANTS));
                } else {
                    waiting.push(Waiting { since: Instant::now(), want });
                }
            }
        }
    }

    /// A round trip to `peer` was measured.
    pub(super) fn measured(&mut self, peer: &PeerId) {
        for waiting in self.reaching.round_trips.remove(peer).unwrap_or_default() {
            self.serve(*peer, waiting.want);
        }
    }

    /// The last connection to `peer` closed.
    pub(super) fn lost(&mut self, peer: &PeerId, reason: &str) {
        let Some(node) = node_id(peer) else { return };
        for waiting in self.reaching.round_trips.remove(peer).unwrap_or_default() {
            let reason = format!("it was connected, but before a round trip was measured {reason}");
            waiting.want.fail(NetworkError::Unreachable { peer: node, reason });
        }
    }

    /// Dials once more, where somebody still waits, beside dials that take long.
    fn dial_beside(&mut self, now: Instant) {
        let due = |attempt: &Attempt| {
            attempt.dials > 0
                && attempt.beside < MAX_BESIDE
                && now.saturating_duration_since(attempt.dialled) >= DIAL_BESIDE
                && attempt.wants.iter().any(|want| !want.is_abandoned())
        };
        let again: Vec<(PeerId, Vec<Multiaddr>)> = self
            .reaching
            .attempts
            .iter()
            .filter(|(peer, attempt)| due(attempt) && !self.swarm.is_connected(peer))
            .map(|(peer, attempt)| {
                let addresses = attempt.to_repeat();
                (*peer, addresses.into_iter().filter(|address| self.policy.admits(address)).collect())
            })
            .collect();
        for (peer, addresses) in again {
            if self.reaching.dials.len() >= MANY_DIALS {
                return;
            }
            let Some(attempt) = self.reaching.attempts.get_mut(&peer) else { continue };
            attempt.beside += 1;
            attempt.dialled = now;
            if !addresses.is_empty() {
                let options = DialOpts::peer_id(peer).condition(PeerCondition::Disconnected).addresses(addresses);
                self.launch(peer, options.build());
            }
        }
    }

    /// Asks the DHT where a dial takes long, and ends what took too long.
    pub(super) fn expire_attempts(&mut self, now: Instant) {
        let elapsed = |since: Instant| now.saturating_duration_since(since);
        let slow: Vec<PeerId> = self
            .reaching
            .attempts
            .iter()
            .filter(|(_, attempt)| attempt.lookup == Lookup::NotYet && !attempt.wants.is_empty())
            .filter(|(_, attempt)| elapsed(attempt.started) >= ASK_DHT_AFTER)
            .map(|(peer, _)| *peer)
            .collect();
        for peer in slow {
            self.ask_dht(peer);
        }
        self.dial_beside(now);
        let late: Vec<(PeerId, String)> = self
            .reaching
            .attempts
            .iter()
            .filter(|(_, attempt)| elapsed(attempt.started) >= ATTEMPT_TIMEOUT)
            .map(|(peer, attempt)| (*peer, attempt.timeout_reason()))
            .collect();
        for (peer, reason) in late {
            self.give_up(peer, &reason);
        }
        for (peer, waiting) in &mut self.reaching.round_trips {
            let Some(node) = node_id(peer) else { continue };
            let late = waiting.extract_if(.., |waiting| elapsed(waiting.since) >= PING_TIMEOUT);
            for waiting in late {
                let reason = format!("connected, but no probe came back within {PING_TIMEOUT:?}");
                waiting.want.fail(NetworkError::Unreachable { peer: node, reason });
            }
        }
        self.reaching.round_trips.retain(|_, waiting| !waiting.is_empty());
    }
}
