//! Attempts to reach peers: what was tried, what came of it, and who waits.

use super::{
    addresses::{is_relayed, without_peer},
    handle::Want,
};
use libp2p::{
    Multiaddr, PeerId, TransportError,
    kad::QueryId,
    swarm::{ConnectionId, DialError},
};
use std::{
    collections::HashMap,
    error::Error,
    io,
    time::{Duration, Instant},
};

/// Peers that are being reached at a time.
pub(super) const MAX_ATTEMPTS: usize = 256;
/// Callers that wait for one peer.
pub(super) const MAX_WANTS: usize = 64;
/// Addresses tried for one peer.
pub(super) const MAX_TRIED: usize = 16;
/// Reasons kept of one attempt.
const MAX_REASONS: usize = 32;
/// After how long without connection the DHT is asked as well.
pub(super) const ASK_DHT_AFTER: Duration = Duration::from_millis(500);
/// After how long without connection all addresses are dialled once more beside the dials that run: where packets get
/// lost, each repetition within one dial waits twice as long as the one before.
pub(super) const DIAL_BESIDE: Duration = Duration::from_secs(2);
/// How often that is done in one attempt.
pub(super) const MAX_BESIDE: u32 = 3;
/// Dials of all attempts from which on none is repeated: what the swarm has pending is bounded.
pub(super) const MANY_DIALS: usize = 48;
/// When an attempt is given up.
pub(super) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(20);
/// When a round trip that is not measured is given up.
pub(super) const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Reasons after which an address is not dialled again.
const ANOTHER_NODE: &str = "another node answers there";
const THIS_NODE: &str = "leads to this node itself";

/// How far the DHT was asked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Lookup {
    NotYet,
    Running(QueryId),
    Done,
}

#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) started: Instant,
    pub(super) wants: Vec<Want>,
    pub(super) tried: Vec<Multiaddr>,
    pub(super) dials: usize,
    /// When the last dial began, and how many began beside others.
    pub(super) dialled: Instant,
    pub(super) beside: u32,
    pub(super) lookup: Lookup,
    pub(super) reasons: Vec<String>,
}

#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) since: Instant,
    pub(super) want: Want,
}

/// Owns the attempts to reach peers, and those who wait for a first round trip.
#[derive(Debug, Default)]
pub(super) struct Reaching {
    pub(super) attempts: HashMap<PeerId, Attempt>,
    pub(super) dials: HashMap<ConnectionId, PeerId>,
    pub(super) lookups: HashMap<QueryId, PeerId>,
    pub(super) round_trips: HashMap<PeerId, Vec<Waiting>>,
}

impl Attempt {
    pub(super) fn note(&mut self, reason: String) {
        if self.reasons.len() < MAX_REASONS && !self.reasons.contains(&reason) {
            self.reasons.push(reason);
        }
    }

    pub(super) fn note_all(&mut self, error: &DialError) {
        for reason in describe(error) {
            self.note(reason);
        }
    }

    /// What went wrong at `address`.
    fn told(&self, address: &Multiaddr) -> Option<&str> {
        self.reasons.iter().find_map(|reason| reason.strip_prefix(&format!("{address}: ")))
    }

    /// The addresses tried of which nothing is known yet.
    pub(super) fn untold(&self) -> Vec<Multiaddr> {
        self.tried.iter().filter(|address| self.told(address).is_none()).cloned().collect()
    }

    /// The addresses to dial beside the dials that run. A circuit that failed may be had now, and one that is still being
    /// asked for after the second wait is asked for again: its relay may have asked a connection that is dead. Where
    /// somebody else answers nobody is dialled again.
    pub(super) fn to_repeat(&self) -> Vec<Multiaddr> {
        let repeat = |address: &&Multiaddr| match self.told(address) {
            Some(told) => !told.starts_with(ANOTHER_NODE) && !told.starts_with(THIS_NODE),
            None => self.beside > 0 || !is_relayed(address),
        };
        self.tried.iter().filter(repeat).cloned().collect()
    }

    pub(super) fn timeout_reason(&self) -> String {
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
            vec![format!("{}: {ANOTHER_NODE}, {obtained}", without_peer(address))]
        }
        DialError::LocalPeerId { address } => {
            vec![format!("{}: {THIS_NODE}", without_peer(address))]
        }
        DialError::Denied { cause } => vec![format!("refused by this node: {}", innermost(cause))],
        DialError::Aborted => vec!["the attempt was cut off".to_owned()],
        DialError::NoAddresses | DialError::DialPeerConditionFalse(_) => Vec::new(),
    }
}

/// Whether a dial that failed reached out at all: where this node refused it, or has no way to such an address, it says
/// nothing of who is dialled.
pub(super) fn was_tried(error: &DialError) -> bool {
    match error {
        DialError::Transport(errors) => errors.iter().any(|(_, error)| match error {
            TransportError::MultiaddrNotSupported(_) => false,
            TransportError::Other(error) => !has_no_way(error),
        }),
        DialError::WrongPeerId { .. } => true,
        DialError::LocalPeerId { .. }
        | DialError::Denied { .. }
        | DialError::Aborted
        | DialError::NoAddresses
        | DialError::DialPeerConditionFalse(_) => false,
    }
}

fn has_no_way(mut error: &(dyn Error + 'static)) -> bool {
    loop {
        let io = error.downcast_ref::<io::Error>();
        if io.is_some_and(|io| {
            matches!(io.kind(), io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable)
        }) {
            return true;
        }
        // What `io::Error::other` wraps is not its source but itself.
        let inner = io.and_then(io::Error::get_ref).map(|inner| inner as &(dyn Error + 'static));
        match inner.or_else(|| error.source()) {
            Some(next) => error = next,
            None => return false,
        }
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

    #[test]
    fn where_a_node_has_no_way_it_has_not_tried() {
        let failed = |kind: io::ErrorKind| {
            let error = TransportError::Other(io::Error::other(io::Error::new(kind, "no")));
            DialError::Transport(vec![("/ip6/::1/tcp/1".parse().unwrap(), error)])
        };
        assert!(was_tried(&failed(io::ErrorKind::ConnectionRefused)));
        assert!(was_tried(&failed(io::ErrorKind::TimedOut)));
        assert!(!was_tried(&failed(io::ErrorKind::NetworkUnreachable)));
        assert!(!was_tried(&DialError::Aborted));
    }

    #[test]
    fn what_is_under_way_at_a_relay_or_somebody_elses_is_not_repeated() {
        let [direct, failed, other, pending, refused] = [
            "/ip4/9.9.9.9/tcp/1",
            "/ip4/9.9.9.9/tcp/2",
            "/ip4/9.9.9.9/tcp/3",
            "/ip4/7.7.7.7/tcp/4/p2p-circuit",
            "/ip4/7.7.7.7/tcp/5/p2p-circuit",
        ]
        .map(|text| text.parse::<Multiaddr>().unwrap());
        let mut attempt = Attempt {
            started: Instant::now(),
            wants: Vec::new(),
            tried: vec![direct.clone(), failed.clone(), other.clone(), pending.clone(), refused.clone()],
            dials: 1,
            dialled: Instant::now(),
            beside: 0,
            lookup: Lookup::NotYet,
            reasons: vec![
                format!("{failed}: connection refused"),
                format!("{other}: {ANOTHER_NODE}, somebody"),
                format!("{refused}: no reservation"),
            ],
        };
        assert_eq!(attempt.to_repeat(), [direct.clone(), failed.clone(), refused.clone()]);
        attempt.beside = 1;
        assert_eq!(attempt.to_repeat(), [direct, failed, pending, refused], "its relay may wait for the dead");
    }

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
