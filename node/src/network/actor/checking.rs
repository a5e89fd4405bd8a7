//! Whether others reach this node: what peers see of it, what strangers find when they dial, and dials for others that
//! ask the same.

use super::Actor;
use crate::network::{
    HolePunches, NetworkError, NetworkReport, NotDialled, Observed, RelayInfo,
    addresses::{is_relayed, socket_address, source_ip, transport, without_peer},
    peer_id,
    peers::Sight,
    reach::{describe, was_tried},
    reachability,
    visits::Visit,
};
use aitbc_protocol::{
    NodeId,
    nat::{self, Filtering},
    reach::DIAL_MS,
};
use libp2p::{
    Multiaddr, PeerId,
    core::ConnectedPoint,
    identify,
    swarm::{
        ConnectionId, DialError,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// Dials for others at a time.
const MAX_DIALS: usize = 32;
/// How long attempts to punch a hole are remembered, and how many.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const MAX_PUNCHES: usize = 4096;
/// Dials over QUIC that must fail before UDP counts as blocked: one peer may not listen on it.
const QUIC_FAILURES: u32 = 2;

/// A dial that somebody asked for.
#[derive(Debug)]
struct DialBack {
    address: Multiaddr,
    since: Instant,
    connected: bool,
    /// `None` once it came too late.
    reply: Option<oneshot::Sender<Result<(), NotDialled>>>,
}

/// Owns the dials that this node makes for others, and what its own ways out have shown.
#[derive(Debug, Default)]
pub(in crate::network) struct Checks {
    dials: HashMap<ConnectionId, DialBack>,
    punches: VecDeque<(Instant, bool)>,
    /// A QUIC connection was made.
    quic: bool,
    /// Peers that were not reached over QUIC.
    quic_failures: u32,
}

impl Checks {
    /// An attempt to punch a hole ended.
    pub(super) fn punched(&mut self, through: bool, now: Instant) {
        self.punches.retain(|(at, _)| now.saturating_duration_since(*at) < DAY);
        if self.punches.len() >= MAX_PUNCHES {
            self.punches.pop_front();
        }
        self.punches.push_back((now, through));
    }

    /// A connection was made.
    pub(super) fn connected(&mut self, address: &Multiaddr) {
        self.quic |= !is_relayed(address) && transport(address) == "quic";
    }

    fn hole_punches(&self, now: Instant) -> HolePunches {
        let recent = self.punches.iter().filter(|(at, _)| now.saturating_duration_since(*at) < DAY);
        recent.fold(HolePunches::default(), |sum, (_, through)| HolePunches {
            through: sum.through + usize::from(*through),
            failed: sum.failed + usize::from(!*through),
        })
    }

    /// Whether UDP gets through: not, if dials over QUIC fail while there are peers all the same.
    fn udp(&self, connected: bool) -> Option<bool> {
        match (self.quic, connected && self.quic_failures >= QUIC_FAILURES) {
            (true, _) => Some(true),
            (false, true) => Some(false),
            (false, false) => None,
        }
    }
}

impl Actor {
    /// Dials `address` from a new port, to see whether `node` answers there.
    pub(super) fn dial_back(
        &mut self,
        node: NodeId,
        address: Multiaddr,
        reply: oneshot::Sender<Result<(), NotDialled>>,
    ) {
        if self.checks.dials.len() >= MAX_DIALS {
            let _ = reply.send(Err(NotDialled::Untried(NetworkError::TooManyDials(MAX_DIALS).to_string())));
            return;
        }
        if !self.policy.admits(&address) || source_ip(&address).is_none() {
            let reason = "it is not an address that this network uses".to_owned();
            let _ = reply.send(Err(NotDialled::Untried(reason)));
            return;
        }
        let options = DialOpts::peer_id(peer_id(&node))
            .condition(PeerCondition::Always)
            .addresses(vec![address.clone()])
            .allocate_new_port()
            .build();
        let id = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => {
                let dial = DialBack { address, since: Instant::now(), connected: false, reply: Some(reply) };
                self.checks.dials.insert(id, dial);
            }
            Err(error) => drop(reply.send(Err(NotDialled::Untried(describe(&error).join("; "))))),
        }
    }

    /// A dial for somebody else made a connection; true if it was one. The far end may not have heard of it yet, for of a
    /// handshake the dialler says the last word: what it says of itself shows that it has.
    pub(super) fn dialled_back(&mut self, id: ConnectionId) -> bool {
        let Some(dial) = self.checks.dials.get_mut(&id) else { return false };
        dial.connected = true;
        if dial.reply.is_none() {
            self.end_dial_back(id);
        }
        true
    }

    /// Somebody whom this node dialled for somebody else says who it is; true if so. The connection has served its purpose.
    pub(super) fn answered_back(&mut self, id: ConnectionId) -> bool {
        let Some(reply) = self.checks.dials.get_mut(&id).map(|dial| dial.reply.take()) else { return false };
        if let Some(reply) = reply {
            let _ = reply.send(Ok(()));
        }
        self.end_dial_back(id);
        true
    }

    /// The connection of a dial for somebody else closed, by the far end.
    pub(super) fn hung_up_on(&mut self, id: ConnectionId) {
        if let Some(reply) = self.checks.dials.remove(&id).and_then(|dial| dial.reply) {
            let _ = reply.send(Err(NotDialled::Failed("it closed the connection at once".to_owned())));
        }
    }

    fn end_dial_back(&mut self, id: ConnectionId) {
        self.checks.dials.remove(&id);
        self.swarm.close_connection(id);
    }

    /// A dial ended without connection; true if it was for somebody else.
    pub(super) fn dial_back_failed(&mut self, id: ConnectionId, error: &DialError) -> bool {
        let Some(dial) = self.checks.dials.remove(&id) else { return false };
        let reasons = describe(error).join("; ");
        let reason = reasons.strip_prefix(&format!("{}: ", dial.address)).unwrap_or(&reasons).to_owned();
        if let Some(reply) = dial.reply {
            let tried = was_tried(error);
            let _ = reply.send(Err(if tried { NotDialled::Failed(reason) } else { NotDialled::Untried(reason) }));
        }
        true
    }

    /// Ends what took too long, and forgets proofs that are too old.
    pub(super) fn expire_checks(&mut self, now: Instant) {
        let patience = Duration::from_millis(DIAL_MS);
        // They stay until they have ended: a connection that comes late is closed like any other of these.
        let late =
            self.checks.dials.values_mut().filter(|dial| now.saturating_duration_since(dial.since) >= patience);
        for reply in late.filter_map(|dial| dial.reply.take()) {
            let _ = reply.send(Err(NotDialled::Failed(format!("no answer within {patience:?}"))));
        }
        let silent = self.checks.dials.iter().filter(|(_, dial)| dial.connected && dial.reply.is_none());
        for id in silent.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.end_dial_back(id);
        }
        if self.own.expire(now) {
            self.addresses_changed();
        }
    }

    /// Notes who came and who was spoken to. To be called before the connection is one of the peer's.
    pub(super) fn note_visit(&mut self, peer: PeerId, endpoint: &ConnectedPoint, now: Instant) {
        let Some(ip) = source_ip(endpoint.get_remote_address()).filter(|_| !endpoint.is_relayed()) else { return };
        if endpoint.is_dialer() {
            self.visits.spoke(ip, now);
        } else {
            let connected = self.peers.get(&peer).is_some() || self.peers.is_connected_from(ip);
            self.visits.came(peer, ip, connected, now);
        }
    }

    /// Notes addresses that this node has sent to, whether anybody answered or not.
    pub(super) fn note_dialled(&mut self, error: &DialError, now: Instant) {
        if let DialError::Transport(errors) = error {
            let quic = |address: &Multiaddr| !is_relayed(address) && transport(address) == "quic";
            if errors.iter().any(|(address, _)| quic(address)) {
                self.checks.quic_failures = self.checks.quic_failures.saturating_add(1);
            }
            for ip in errors.iter().filter_map(|(address, _)| source_ip(address)) {
                self.visits.spoke(ip, now);
            }
        }
    }

    /// A check ended: `by` dialled these addresses, says `helper`, with an error where it did not get through.
    pub(super) fn checked(
        &mut self,
        helper: NodeId,
        by: NodeId,
        results: Vec<(Multiaddr, Option<String>)>,
        now: Instant,
    ) {
        let visit = self.visits.by(&peer_id(&by), now);
        for (address, error) in results {
            match (error, visit) {
                (Some(error), _) => {
                    self.own.failed(&address, helper, &format!("{} dialled: {error}", by.short()));
                }
                (None, Some(Visit::Stranger)) => {
                    let by = format!("{}, to whom this node had not spoken before", by.short());
                    self.own.proven(&address, &by, now);
                }
                // Where there is no NAT, who comes from another port is let in for no other reason than a stranger is.
                (None, Some(Visit::Acquainted)) if self.own.listening().contains(&address) => {
                    self.own.proven(&address, &format!("{}; it is this machine's own", by.short()), now);
                }
                // It got through, as anybody might whom this node has spoken to.
                (None, Some(Visit::Acquainted)) => tracing::debug!(%address, "reached by an acquaintance"),
                (None, None) => {
                    tracing::debug!(%address, by = %by.short(), "said to be reached, but nobody came");
                }
            }
        }
        self.addresses_changed();
    }

    /// A peer told under which address it sees this node.
    pub(super) fn note_observed(&mut self, peer: PeerId, info: &identify::Info) {
        let observed = without_peer(&info.observed_addr);
        let Some(me) = socket_address(&observed).filter(|_| self.policy.admits(&observed)) else { return };
        let quic = transport(&observed) == "quic";
        let Some(known) = self.peers.get_mut(&peer) else { return };
        // Which of its connections the peer speaks of it does not say; one of the same transport will do.
        let direct = known.connections().iter().filter(|it| !it.is_relayed());
        let mut at = direct.filter(|it| (transport(&it.address) == "quic") == quic);
        let Some(sight) = at.find_map(|it| Some(Sight { quic, peer: socket_address(&it.address)?, me })) else {
            return;
        };
        known.sees.retain(|other| other.quic != quic);
        known.sees.push(sight);
        self.metrics.count_observed(self.own.listens_on_port_of(&observed));
        if self.own.seen(peer, me.ip()) {
            tracing::debug!(ip = %me.ip(), "seen under a new address");
            self.addresses_changed();
            self.open_relayed_again(true, Instant::now());
        }
        self.publish_candidates();
    }

    /// What is known of the way this node is connected.
    pub(super) fn report(&self, now: Instant) -> NetworkReport {
        let udp = self.checks.udp(self.peers.len() > 0);
        let quic = udp != Some(false);
        let mut observed = Vec::new();
        let mut seen = Vec::new();
        let mut relays = Vec::new();
        let reserved: Vec<&PeerId> = self.reservations.relays().collect();
        for (id, known) in self.peers.iter() {
            for sight in &known.sees {
                let transport = if sight.quic { "quic" } else { "tcp" };
                observed.push(Observed { transport, address: sight.me, peer: known.node() });
                // Of two kinds of IP one decides, the one that all hosts have.
                if sight.quic == quic && sight.me.is_ipv4() {
                    seen.push((sight.peer, sight.me));
                }
            }
            if known.relay {
                let round_trip_ms = known.best().round_trip.map(|time| time.as_secs_f64() * 1000.0);
                relays.push(RelayInfo { peer: known.node(), round_trip_ms, reserved: reserved.contains(&id) });
            }
        }
        observed.sort_unstable_by_key(|one| (one.address, one.peer));
        relays.sort_by(|one, other| {
            let time = |relay: &RelayInfo| relay.round_trip_ms.unwrap_or(f64::INFINITY);
            time(one).total_cmp(&time(other))
        });
        let listening = self.own.listening();
        let filtering = if self.own.is_proven() {
            Some(Filtering::EndpointIndependent)
        } else if self.own.is_private() {
            // AutoNAT's servers dial from an address that was spoken to, and from another port.
            let by_address = self.own.is_hinted() && !self.own.is_forwarded();
            Some(if by_address { Filtering::AddressDependent } else { Filtering::AddressAndPortDependent })
        } else {
            None
        };
        let router = if self.own.is_forwarded() { reachability::FORWARDED } else { self.own.router() };
        let own: Vec<SocketAddr> = listening.iter().filter_map(socket_address).collect();
        NetworkReport {
            reachability: self.own.verdict(),
            listening: listening.to_vec(),
            announced: self.own.external(),
            peers: self.peers.len(),
            udp,
            mapping: nat::mapping(&seen, &own),
            observed,
            filtering,
            router: (!router.is_empty()).then(|| router.to_owned()),
            relays,
            hole_punches: self.checks.hole_punches(now),
        }
    }

    /// Publishes what is to be checked.
    pub(super) fn publish_candidates(&self) {
        let candidates = self.own.candidates();
        self.publisher.candidates.send_if_modified(|known| {
            let changed = **known != candidates;
            if changed {
                *known = Arc::new(candidates);
            }
            changed
        });
    }
}
