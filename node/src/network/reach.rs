//! Reaching peers: dials by every address known, a DHT lookup beside them, and whoever waits for the outcome.

use super::{
    NetworkError, StreamError,
    actor::Actor,
    addresses::without_peer,
    handle::{PendingStream, Want},
    peer_id,
};
use aitbc_protocol::NodeId;
use libp2p::{
    Multiaddr, PeerId, TransportError,
    kad::QueryId,
    swarm::{
        ConnectionId, DialError,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use std::{
    collections::HashMap,
    error::Error,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// Peers that are being reached at a time.
const MAX_ATTEMPTS: usize = 256;
/// Callers that wait for one peer.
const MAX_WANTS: usize = 64;
/// Addresses tried for one peer.
const MAX_TRIED: usize = 16;
/// Reasons kept of one attempt.
const MAX_REASONS: usize = 32;
/// After how long without connection the DHT is asked as well.
const ASK_DHT_AFTER: Duration = Duration::from_millis(500);
/// When an attempt is given up.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(20);
/// When a round trip that is not measured is given up.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// How far the DHT was asked.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Lookup {
    NotYet,
    Running(QueryId),
    Done,
}

#[derive(Debug)]
struct Attempt {
    started: Instant,
    wants: Vec<Want>,
    tried: Vec<Multiaddr>,
    dials: usize,
    lookup: Lookup,
    reasons: Vec<String>,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    want: Want,
}

/// Owns the attempts to reach peers, and those who wait for a first round trip.
#[derive(Debug, Default)]
pub(super) struct Reaching {
    attempts: HashMap<PeerId, Attempt>,
    dials: HashMap<ConnectionId, PeerId>,
    lookups: HashMap<QueryId, PeerId>,
    round_trips: HashMap<PeerId, Vec<Waiting>>,
}

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
        if let Lookup::Running(query) = attempt.lookup {
            self.finish_query(&query);
            self.reaching.lookups.remove(&query);
        }
        tracing::debug!(%peer, reason, "not reached");
        let Some(node) = super::node_id(&peer) else { return };
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
    pub(super) fn peer_looked_up(&mut self, query: &QueryId, found: &[(PeerId, Vec<Multiaddr>)]) -> bool {
        let Some(peer) = self.reaching.lookups.remove(query) else { return false };
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
    pub(super) fn reached(&mut self, peer: PeerId, id: ConnectionId) {
        self.reaching.dials.remove(&id);
        let Some(attempt) = self.reaching.attempts.remove(&peer) else { return };
        if let Lookup::Running(query) = attempt.lookup {
            self.finish_query(&query);
            self.reaching.lookups.remove(&query);
        }
        for want in attempt.wants {
            self.serve(peer, want);
        }
    }

    fn serve(&mut self, peer: PeerId, want: Want) {
        let Some(best) = self.peers.get(&peer).map(super::peers::Peer::best) else { return };
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
        let Some(node) = super::node_id(peer) else { return };
        for waiting in self.reaching.round_trips.remove(peer).unwrap_or_default() {
            let reason = format!("it was connected, but before a round trip was measured {reason}");
            waiting.want.fail(NetworkError::Unreachable { peer: node, reason });
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
            let Some(node) = super::node_id(peer) else { continue };
            let late = waiting.extract_if(.., |waiting| elapsed(waiting.since) >= PING_TIMEOUT);
            for waiting in late {
                let reason = format!("connected, but no ping came back within {PING_TIMEOUT:?}");
                waiting.want.fail(NetworkError::Unreachable { peer: node, reason });
            }
        }
        self.reaching.round_trips.retain(|_, waiting| !waiting.is_empty());
    }
}

impl Attempt {
    fn note(&mut self, reason: String) {
        if self.reasons.len() < MAX_REASONS && !self.reasons.contains(&reason) {
            self.reasons.push(reason);
        }
    }

    fn note_all(&mut self, error: &DialError) {
        describe(error).into_iter().for_each(|reason| self.note(reason));
    }

    /// The addresses tried of which nothing is known yet.
    fn untold(&self) -> Vec<Multiaddr> {
        let told =
            |address: &Multiaddr| self.reasons.iter().any(|reason| reason.starts_with(&format!("{address}: ")));
        self.tried.iter().filter(|address| !told(address)).cloned().collect()
    }

    fn timeout_reason(&self) -> String {
        let mut reasons = self.reasons.clone();
        for address in self.untold() {
            reasons.push(format!("{address}: no answer within {ATTEMPT_TIMEOUT:?}"));
        }
        if reasons.is_empty() { format!("no connection within {ATTEMPT_TIMEOUT:?}") } else { reasons.join("; ") }
    }
}

/// What went wrong, one text an address.
pub(super) fn describe(error: &DialError) -> Vec<String> {
    match error {
        DialError::Transport(errors) => errors
            .iter()
            .map(|(address, error)| {
                let reason = match error {
                    TransportError::MultiaddrNotSupported(_) => "this node has no transport for it".to_owned(),
                    TransportError::Other(error) => innermost(error),
                };
                format!("{}: {reason}", without_peer(address))
            })
            .collect(),
        DialError::WrongPeerId { obtained, address } => {
            vec![format!("{}: another node answers there, {obtained}", without_peer(address))]
        }
        DialError::LocalPeerId { address } => {
            vec![format!("{}: leads to this node itself", without_peer(address))]
        }
        DialError::NoAddresses => Vec::new(),
        DialError::Denied { cause } => vec![format!("refused by this node: {}", innermost(cause))],
        DialError::Aborted => vec!["the attempt was cut off".to_owned()],
        DialError::DialPeerConditionFalse(_) => Vec::new(),
    }
}

/// The cause at the bottom, on one line: what is above only says which layer passed it on.
pub(super) fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let text = cause.to_string();
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(160).collect();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn every_address_is_named_with_its_cause() {
        let refused = io::Error::other(io::Error::new(io::ErrorKind::ConnectionRefused, "connection\nrefused"));
        let error = DialError::Transport(vec![
            ("/ip4/127.0.0.1/tcp/1".parse().unwrap(), TransportError::Other(refused)),
            (
                "/ip4/127.0.0.1/udp/2".parse().unwrap(),
                TransportError::MultiaddrNotSupported("/memory/1".parse().unwrap()),
            ),
        ]);
        assert_eq!(
            describe(&error),
            [
                "/ip4/127.0.0.1/tcp/1: connection refused",
                "/ip4/127.0.0.1/udp/2: this node has no transport for it"
            ]
        );
    }
}
