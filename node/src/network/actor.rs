//! The one task that owns the swarm.
//!
//! It takes commands, turns swarm events into what the parts of [`super`] know, and keeps the snapshots current. It
//! never waits for anybody: whatever it hands on goes through a bounded queue or a one-shot, and a full queue is
//! answered at once.

use super::{
    GossipMessage, NetworkConfig, PathKind, PeerInfo, Reachability, TrafficRates,
    addresses::{AddressPolicy, without_peer},
    behaviour::{Behaviour, BehaviourEvent, protocol_version},
    bootstrap::Bootstrap,
    discovery::Discovery,
    gossip::ForwarderLimits,
    handle::Command,
    metrics::NetworkMetrics,
    peer_table::{self, PeerTable},
    peers::{Connection, Peers},
    reach::Reaching,
    reachability::{self, OwnAddresses},
    traffic::Sampler,
    visits::Visits,
};
use aitbc_protocol::{NodeId, UnixMillis, geo::Cell, wire::KAD_PROTOCOL};
use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm, autonat, core::transport::ListenerId, dcutr, identify, mdns, relay,
    swarm::SwarmEvent, upnp,
};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval, timeout},
};

mod bootstrapping;
pub(super) mod checking;
mod connecting;
mod discovering;
mod gossiping;
pub(super) mod missing;
mod reaching;
pub(super) mod relaying;
mod sparing;
mod upgrading;

/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(250);
/// How often scores are looked at and published.
const SCORE_INTERVAL: Duration = Duration::from_secs(5);
/// How long closing connections may take at the end.
const GOODBYE: Duration = Duration::from_secs(1);
/// How long a peer of another network, or one that misbehaved, is left alone.
const BAN: Duration = Duration::from_secs(10 * 60);
/// Addresses that one peer may tell of itself.
const MAX_ADVERTISED: usize = 16;
/// Characters shown of what a peer says it runs.
const MAX_AGENT: usize = 64;
/// Peers of the local network dialled at one announcement.
const MAX_MDNS: usize = 32;

/// Where the snapshots are published.
#[derive(Debug)]
pub(super) struct Publisher {
    pub(super) addresses: watch::Sender<Arc<Vec<Multiaddr>>>,
    pub(super) listening: watch::Sender<Arc<Vec<Multiaddr>>>,
    pub(super) peers: watch::Sender<Arc<Vec<PeerInfo>>>,
    pub(super) reachability: watch::Sender<Reachability>,
    pub(super) candidates: watch::Sender<Arc<Vec<Multiaddr>>>,
    pub(super) offline: watch::Sender<Arc<HashMap<NodeId, UnixMillis>>>,
    pub(super) traffic: watch::Sender<TrafficRates>,
}

/// Owns the swarm and all that is known of the network.
pub(super) struct Actor {
    pub(super) config: NetworkConfig,
    pub(super) local: PeerId,
    pub(super) policy: AddressPolicy,
    pub(super) swarm: Swarm<Behaviour>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) gossip_queue: mpsc::Sender<GossipMessage>,
    pub(super) publisher: Publisher,
    pub(super) metrics: NetworkMetrics,
    pub(super) sampler: Sampler,
    pub(super) peers: Peers,
    pub(super) reaching: Reaching,
    pub(super) own: OwnAddresses,
    pub(super) visits: Visits,
    pub(super) checks: checking::Checks,
    pub(super) discovery: Discovery,
    pub(super) bootstrap: Bootstrap,
    pub(super) table: PeerTable,
    pub(super) topics: BTreeSet<Cell>,
    pub(super) forwarders: ForwarderLimits,
    pub(super) reservations: relaying::Reservations,
    pub(super) missing: missing::MissingPeers,
    /// Something that this node depends on did not answer a short while ago.
    pub(super) doubted_until: Option<Instant>,
    pub(super) server_mode: Option<bool>,
    pub(super) scores_at: Instant,
    pub(super) peers_changed: bool,
}

impl Actor {
    /// Runs until the last handle is dropped or one asks for the end.
    pub(super) async fn run(mut self) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut goodbye = None;
        self.addresses_changed();
        loop {
            // Fair on purpose: neither a flood of commands nor one of events may starve the other.
            tokio::select! {
                command = self.commands.recv() => match command {
                    None => break,
                    Some(Command::Shutdown { reply }) => {
                        goodbye = Some(reply);
                        break;
                    }
                    Some(command) => self.on_command(command),
                },
                event = self.swarm.select_next_some() => self.on_swarm_event(event),
                _ = tick.tick() => self.on_tick(Instant::now()),
            }
            if std::mem::take(&mut self.peers_changed) {
                self.publish_peers();
            }
        }
        self.close().await;
        // The swarm goes first: whoever waits may want to listen on the same port.
        drop(self);
        if let Some(reply) = goodbye {
            let _ = reply.send(());
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Announce { cells, reply } => {
                self.announce(cells);
                let _ = reply.send(());
            }
            Command::Providers { cell, reply } => self.find_providers(cell, reply),
            Command::Subscribe { cells, reply } => {
                self.subscribe(&cells);
                let _ = reply.send(self.topics.iter().copied().collect());
            }
            Command::Publish { cell, bytes, reply } => {
                let _ = reply.send(self.publish(cell, bytes));
            }
            Command::Judge { id, forwarder, verdict } => self.judge(&id, &super::peer_id(&forwarder), verdict),
            Command::Reach { peer, addresses, want } => self.reach(peer, &addresses, want),
            Command::DialBack { node, address, reply } => self.dial_back(node, address, reply),
            Command::Report { reply } => drop(reply.send(self.report(Instant::now()))),
            Command::Checked { helper, by, results } => self.checked(helper, by, results, Instant::now()),
            Command::Shutdown { .. } => {} // ends the loop in `run`
        }
    }

    fn on_tick(&mut self, now: Instant) {
        self.seek_peers(now);
        self.expire_attempts(now);
        self.expire_checks(now);
        self.set_paces(now);
        self.seek_missing(now);
        self.keep_reservations(now);
        self.tend_dht(now);
        if let Some(rates) = self.sampler.sample(now) {
            self.publisher.traffic.send_replace(rates);
        }
        if let Some((path, bytes)) = self.table.take_write(now, false) {
            tokio::task::spawn_blocking(move || write_table(&path, &bytes));
        }
        if now >= self.scores_at {
            self.scores_at = now + SCORE_INTERVAL;
            self.peers.expire_bans(now);
            self.part_with_misbehaving(now);
            for peer in self.peers.unidentified(now) {
                tracing::debug!(%peer, "disconnecting: it does not say who it is");
                // An error says that it has gone already.
                let _ = self.swarm.disconnect_peer_id(peer);
            }
            self.open_relayed_again(false, now);
            let refused = self.swarm.behaviour().streams.refused();
            let counted = self.metrics.streams_refused.get();
            self.metrics.streams_refused.inc_by(refused.saturating_sub(counted));
            self.peers_changed = true;
        }
    }

    fn on_swarm_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour_event(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_connected(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, cause, .. } => {
                self.on_closed(peer_id, connection_id, cause.as_ref());
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error } => {
                self.metrics.dials_failed.inc();
                tracing::debug!(?peer_id, %error, "dial failed");
                self.note_dialled(&error, Instant::now());
                if !self.dial_back_failed(connection_id, &error) {
                    self.bootstrap_dial_failed(connection_id, &error);
                    self.dial_failed(connection_id, peer_id, &error);
                }
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                tracing::info!(%address, "listening");
                self.own.listening_on(&address);
                self.addresses_changed();
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.own.not_listening_on(&address);
                self.addresses_changed();
            }
            SwarmEvent::ListenerClosed { listener_id, addresses, reason } => {
                self.on_listener_closed(listener_id, &addresses, reason);
            }
            SwarmEvent::ListenerError { error, .. } => tracing::debug!(%error, "listener"),
            SwarmEvent::ExternalAddrConfirmed { address } => {
                if self.own.hinted(&address, "it was reached from outside") {
                    self.addresses_changed();
                } else {
                    self.swarm.remove_external_address(&address);
                }
            }
            SwarmEvent::ExternalAddrExpired { address } => {
                self.own.expired(&address);
                self.addresses_changed();
            }
            SwarmEvent::NewExternalAddrCandidate { address } => {
                self.own.observed(&address);
                self.publish_candidates();
            }
            _ => {}
        }
    }

    fn on_behaviour_event(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, connection_id }) => {
                if self.answered_back(connection_id) {
                    return;
                }
                self.on_identified(peer_id, &info);
            }
            BehaviourEvent::Probe(event) => self.on_probe(&event),
            BehaviourEvent::Kad(event) => self.on_kad(event),
            BehaviourEvent::Gossip(event) => self.on_gossip(event),
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => self.on_neighbours(found),
            BehaviourEvent::AutonatClient(event) => self.on_probed(event),
            BehaviourEvent::Upnp(event) => self.on_router(event),
            BehaviourEvent::RelayClient(relay::client::Event::ReservationReqAccepted {
                relay_peer_id,
                renewal: false,
                ..
            }) => {
                self.reservations.accepted(&relay_peer_id);
                tracing::info!(relay = %relay_peer_id, "reachable through a relay");
            }
            BehaviourEvent::Dcutr(event) => self.on_punched(&event),
            BehaviourEvent::RelayServer(event) => self.metrics.count_relayed(&event),
            _ => {}
        }
    }

    /// A hole was punched, or not.
    fn on_punched(&mut self, event: &dcutr::Event) {
        let peer = event.remote_peer_id;
        self.checks.punched(event.result.is_ok(), Instant::now());
        self.metrics.count_punch(event.result.is_ok());
        match &event.result {
            Ok(id) => {
                let known = self.peers.connection(&peer, *id).map(|known| (known.transport, known.path));
                if let Some((transport, before)) = known {
                    self.count_connection(transport, before, -1);
                    self.peers.punched(&peer, *id);
                    self.count_connection(transport, PathKind::HolePunched, 1);
                }
                tracing::debug!(%peer, "a direct connection replaces the relayed one");
                self.peers_changed = true;
            }
            Err(error) => tracing::debug!(%peer, %error, "no direct connection"),
        }
    }

    /// A peer said who it is: either it belongs to another network, or its addresses are worth knowing.
    fn on_identified(&mut self, peer: PeerId, info: &identify::Info) {
        let expected = protocol_version(&self.config);
        if info.protocol_version != expected {
            let theirs: String =
                info.protocol_version.chars().filter(|c| !c.is_control()).take(MAX_AGENT).collect();
            let reason = format!("it belongs to another network ({theirs:?}, this one is {expected:?})");
            tracing::info!(%peer, reason, "disconnecting");
            self.part_with(peer, reason, Instant::now());
            return;
        }
        self.note_observed(peer, info);
        let policy = self.policy;
        let mut advertised: Vec<Multiaddr> = Vec::new();
        for address in info.listen_addrs.iter().map(without_peer).filter(|address| policy.admits(address)) {
            if advertised.len() < MAX_ADVERTISED && !advertised.contains(&address) {
                advertised.push(address);
            }
        }
        let Some(known) = self.peers.get_mut(&peer) else { return };
        let proven = known.connections().iter().find(|connection| {
            connection.outbound && !connection.is_relayed() && policy.admits(&connection.address)
        });
        if let Some(Connection { address, .. }) = proven {
            self.table.reached(peer, address);
            // The first node of a network may not know its own address yet; who dialled it does.
            if !advertised.contains(address) {
                advertised.push(address.clone());
            }
        }
        known.identified = true;
        known.agent = info.agent_version.chars().filter(|c| !c.is_control()).take(MAX_AGENT).collect();
        known.relay = info.protocols.contains(&relay::HOP_PROTOCOL_NAME);
        let before = std::mem::replace(&mut known.advertised, advertised.clone());
        self.table.told(peer, &advertised);
        self.peers_changed = true;
        self.reverse(peer, Instant::now());
        let serves_dht = info.protocols.iter().any(|protocol| protocol.as_ref() == KAD_PROTOCOL);
        let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() else { return };
        // What it no longer claims goes, so that no peer fills memory by claiming ever new addresses.
        for gone in before.iter().filter(|address| !serves_dht || !advertised.contains(address)) {
            kad.remove_address(&peer, gone);
        }
        if serves_dht {
            for address in advertised {
                kad.add_address(&peer, address);
            }
        }
    }

    /// Disconnects a peer and leaves it alone for a while.
    fn part_with(&mut self, peer: PeerId, reason: String, now: Instant) {
        self.peers.ban(peer, now + BAN, reason);
        self.table.forget(&peer);
        if let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() {
            kad.remove_peer(&peer);
        }
        // An error says that it has gone already.
        let _ = self.swarm.disconnect_peer_id(peer);
    }

    fn part_with_misbehaving(&mut self, now: Instant) {
        for (peer, score) in self.misbehaving() {
            tracing::info!(%peer, score, "disconnecting: its gossip score is too low");
            self.part_with(peer, format!("its gossip score fell to {score:.0}"), now);
        }
    }

    fn on_neighbours(&mut self, found: Vec<(PeerId, Multiaddr)>) {
        let mut seen = HashSet::new();
        for (peer, address) in found {
            if seen.len() < MAX_MDNS && seen.insert(peer) {
                // mDNS itself names the addresses when the peer is dialled, private ones too.
                tracing::debug!(%peer, %address, "found on the local network");
                self.dial_ahead(peer, &[]);
            }
        }
    }

    fn on_probed(&mut self, event: autonat::v2::client::Event) {
        match event.result {
            Ok(()) => {
                self.own.hinted(&event.tested_addr, &format!("{} reached it (AutoNAT)", event.server));
            }
            // A hint is not withdrawn for it: the server may have failed for reasons of its own.
            Err(error) => tracing::debug!(address = %event.tested_addr, %error, "not reached (AutoNAT)"),
        }
        self.addresses_changed();
    }

    fn on_router(&mut self, event: upnp::Event) {
        match event {
            upnp::Event::NewExternalAddr { external_addr, .. } => {
                self.own.hinted(&external_addr, reachability::FORWARDED);
            }
            upnp::Event::ExpiredExternalAddr { external_addr, .. } => self.own.expired(&external_addr),
            upnp::Event::GatewayNotFound => self.own.router_refused("no router offers a port mapping (UPnP)"),
            upnp::Event::NonRoutableGateway => {
                self.own.router_refused("the router is itself behind another one (UPnP)");
            }
        }
        self.addresses_changed();
    }

    fn on_listener_closed(&mut self, id: ListenerId, addresses: &[Multiaddr], reason: Result<(), std::io::Error>) {
        for address in addresses {
            self.own.not_listening_on(address);
        }
        let refused = reason.is_err();
        let because = reason.err().map_or_else(|| "closed".to_owned(), |error| error.to_string());
        if let Some(relay) = self.reservations.closed(id, refused, Instant::now()) {
            tracing::debug!(%relay, because, "no longer reachable through the relay");
        } else {
            tracing::error!(?addresses, because, "no longer listening (setting `listen`)");
        }
        self.addresses_changed();
    }

    /// Brings everything that depends on this node's own addresses up to date.
    pub(super) fn addresses_changed(&mut self) {
        self.publish_candidates();
        let listening = self.own.listening();
        if self.publisher.listening.borrow().as_slice() != listening {
            self.publisher.listening.send_replace(Arc::new(listening.to_vec()));
        }
        let verdict = self.own.verdict();
        self.publisher.reachability.send_if_modified(|known| {
            let changed = *known != verdict;
            if changed {
                tracing::info!(verdict = verdict.verdict, reason = verdict.reason, "reachability");
                *known = verdict;
            }
            changed
        });
        self.set_dht_mode();
        let external = self.own.external();
        if *self.publisher.addresses.borrow().as_ref() == external {
            return;
        }
        // Kademlia and identify announce what the swarm calls external: on network `local`, the listen addresses.
        let announced: Vec<Multiaddr> = self.swarm.external_addresses().map(without_peer).collect();
        for address in announced.iter().filter(|address| !external.contains(address)) {
            self.swarm.remove_external_address(address);
        }
        for address in external.iter().filter(|address| !announced.contains(address)) {
            self.swarm.add_external_address(address.clone());
        }
        self.publisher.addresses.send_replace(Arc::new(external));
        let peers: Vec<PeerId> = self.peers.iter().map(|(peer, _)| *peer).collect();
        self.swarm.behaviour_mut().identify.push(peers);
        let now = Instant::now();
        self.discovery.announce_by(now);
        self.announce_if_due(now);
    }

    fn publish_peers(&mut self) {
        let gossip = self.swarm.behaviour().gossip.as_ref();
        let score = |peer: &PeerId| gossip.and_then(|gossip| gossip.peer_score(peer)).unwrap_or_default();
        self.publisher.peers.send_replace(Arc::new(self.peers.snapshot(score)));
    }

    /// Withdraws what is announced, closes all connections, and keeps the table of peers.
    async fn close(&mut self) {
        self.commands.close();
        self.stop_announcing();
        self.subscribe(&[]);
        if let Some((path, bytes)) = self.table.take_write(Instant::now(), true) {
            let written = tokio::task::spawn_blocking(move || write_table(&path, &bytes)).await;
            if let Err(error) = written {
                tracing::warn!(%error, "the table of known peers was not written");
            }
        }
        let peers: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let closed = timeout(GOODBYE, async {
            while self.swarm.connected_peers().next().is_some() {
                self.swarm.select_next_some().await;
            }
        });
        if closed.await.is_err() {
            tracing::debug!("some connections did not close in time");
        }
    }
}

fn write_table(path: &Path, bytes: &[u8]) {
    if let Err(error) = peer_table::write(path, bytes) {
        tracing::warn!(path = %path.display(), %error, "the table of known peers cannot be written");
    }
}
