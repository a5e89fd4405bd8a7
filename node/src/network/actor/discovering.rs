//! The DHT at work: announcing, looking up, keeping what others announce.

use super::Actor;
use crate::network::{
    FoundProvider, NetworkError,
    addresses::without_peer,
    behaviour::LOOKUP_TIMEOUT,
    discovery::{CellLookup, EXPIRE_INTERVAL, REPEATS},
    metrics::{Outcome, OutcomeLabels},
    node_id,
};
use aitbc_protocol::{geo::Cell, offer::MAX_ADDRESSES};
use libp2p::{
    Multiaddr, PeerId,
    core::Endpoint,
    kad::{
        self, GetClosestPeersError, GetProvidersOk, InboundRequest, QueryId, QueryResult, RecordKey,
        store::RecordStore,
    },
    swarm::{ConnectionId, NetworkBehaviour},
};
use std::{
    collections::{BTreeSet, HashSet},
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot};

/// Lookups of cells at a time.
const MAX_LOOKUPS: usize = 64;
/// Providers one lookup tells of; more than a search wants, and what one hostile answer can add ends here.
const MAX_FOUND: usize = 256;
/// Providers of one lookup that are dialled before anybody asks for them: as many as a search is content with.
const DIAL_AHEAD: usize = 16;
/// Peers in the table below which a new one changes who is closest to a key.
const SMALL_TABLE: usize = 20;
/// How long announcements gather after the table has changed.
const ANNOUNCE_DELAY: Duration = Duration::from_secs(2);
/// How long the lookups of a node that has just started wait for the first peer of the DHT: with an empty table they
/// would end at once and find nobody.
const FIRST_PEER_PATIENCE: Duration = Duration::from_secs(5);

impl Actor {
    fn cell_key(&self, cell: Cell) -> RecordKey {
        RecordKey::from(cell.dht_key(&self.config.network))
    }

    /// Replaces the cells under which this node announces itself.
    pub(super) fn announce(&mut self, cells: Vec<Cell>) {
        let cells: BTreeSet<Cell> = cells.into_iter().collect();
        let dropped: Vec<RecordKey> =
            self.discovery.cells.difference(&cells).map(|cell| self.cell_key(*cell)).collect();
        if let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() {
            for key in &dropped {
                kad.stop_providing(key);
            }
        }
        self.discovery.cells = cells;
        let now = Instant::now();
        self.discovery.announce_at = None;
        self.discovery.repeated = 0;
        self.discovery.announce_by(now);
        self.announce_if_due(now);
    }

    /// Announces, once there are addresses to announce and peers to tell.
    pub(super) fn announce_if_due(&mut self, now: Instant) {
        if self.discovery.announce_at.is_none_or(|due| due > now) || self.own.external().is_empty() {
            return;
        }
        let keys: Vec<RecordKey> = self.discovery.cells.iter().map(|cell| self.cell_key(*cell)).collect();
        let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() else { return };
        if kad.kbuckets().next().is_none() {
            return;
        }
        self.discovery.announce_at = None;
        if let Some(pause) = REPEATS.get(self.discovery.repeated) {
            self.discovery.repeated += 1;
            self.discovery.announce_by(now + *pause);
        }
        tracing::debug!(cells = keys.len(), "announcing this node in the DHT");
        for key in keys {
            if let Err(error) = kad.start_providing(key) {
                tracing::warn!(%error, "cannot announce a cell in the DHT");
            }
        }
    }

    /// Withdraws this node's own records; those others hold expire.
    pub(super) fn stop_announcing(&mut self) {
        self.announce(Vec::new());
    }

    /// Starts a lookup of `cell`.
    pub(super) fn find_providers(
        &mut self,
        cell: Cell,
        reply: oneshot::Sender<Result<mpsc::Receiver<FoundProvider>, NetworkError>>,
    ) {
        if self.discovery.lookups.len() >= MAX_LOOKUPS {
            self.drop_abandoned_lookups();
        }
        let now = Instant::now();
        let (sender, receiver) = mpsc::channel(MAX_FOUND);
        let busy = self.discovery.lookups.len() + self.discovery.waiting.len() >= MAX_LOOKUPS;
        let answer = match self.swarm.behaviour_mut().kad.as_mut() {
            // Without a DHT the channel closes at once.
            None => Ok(receiver),
            Some(_) if busy => Err(NetworkError::TooManyLookups(MAX_LOOKUPS)),
            Some(kad) => {
                let has_peers = kad.kbuckets().next().is_some();
                let wait_until = *self.discovery.wait_until.get_or_insert(now + FIRST_PEER_PATIENCE);
                if has_peers || now >= wait_until {
                    self.look_up(cell, sender);
                } else {
                    self.discovery.waiting.push((cell, sender));
                }
                Ok(receiver)
            }
        };
        // A caller that has gone is noticed by its closed channel.
        let _ = reply.send(answer);
    }

    fn look_up(&mut self, cell: Cell, found: mpsc::Sender<FoundProvider>) {
        let key = self.cell_key(cell);
        if let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() {
            let query = kad.get_providers(key);
            self.discovery
                .lookups
                .insert(query, CellLookup { started: Instant::now(), found, seen: HashSet::new() });
        }
    }

    /// Starts the lookups that waited for the first peer of the DHT.
    fn start_waiting_lookups(&mut self) {
        for (cell, found) in std::mem::take(&mut self.discovery.waiting) {
            if !found.is_closed() {
                self.look_up(cell, found);
            }
        }
    }

    /// Ends lookups that nobody reads any more.
    fn drop_abandoned_lookups(&mut self) {
        let abandoned: Vec<QueryId> = self
            .discovery
            .lookups
            .iter()
            .filter(|(_, lookup)| lookup.found.is_closed())
            .map(|(id, _)| *id)
            .collect();
        for query in abandoned {
            self.discovery.lookups.remove(&query);
            self.finish_query(query);
        }
    }

    pub(super) fn finish_query(&mut self, query: QueryId) {
        if let Some(mut query) = self.swarm.behaviour_mut().kad.as_mut().and_then(|kad| kad.query_mut(&query)) {
            query.finish();
        }
    }

    /// What the DHT does by the clock.
    pub(super) fn tend_dht(&mut self, now: Instant) {
        self.drop_abandoned_lookups();
        if self.discovery.wait_until.is_some_and(|until| now >= until) {
            self.start_waiting_lookups();
        }
        self.announce_if_due(now);
        if now >= self.discovery.expire_at {
            self.discovery.expire_at = now + EXPIRE_INTERVAL;
            if let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() {
                let store = kad.store_mut();
                let expired = store.expire(now);
                self.metrics.records.set(store.len() as i64);
                tracing::trace!(expired, "provider records");
            }
        }
    }

    pub(super) fn on_kad(&mut self, event: kad::Event) {
        match event {
            kad::Event::InboundRequest { request: InboundRequest::AddProvider { record: Some(record) } } => {
                self.keep_record(record);
            }
            kad::Event::OutboundQueryProgressed { id, result, step, .. } => self.on_query(id, result, step.last),
            kad::Event::RoutingUpdated { peer, is_new_peer: true, .. } => self.on_table_grown(peer),
            kad::Event::ModeChanged { new_mode } => tracing::info!(%new_mode, "DHT"),
            _ => {}
        }
    }

    fn on_table_grown(&mut self, peer: PeerId) {
        let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() else { return };
        let known: usize = kad.kbuckets().map(|bucket| bucket.num_entries()).sum();
        tracing::debug!(%peer, known, "new in the DHT's table");
        let now = Instant::now();
        if known == 1 {
            // Kademlia would wait half a second for more peers: the first one may be all there is.
            let _ = kad.bootstrap();
        }
        if known < SMALL_TABLE {
            self.discovery.announce_by(now + ANNOUNCE_DELAY);
        }
        self.announce_if_due(now);
        self.start_waiting_lookups();
    }

    /// Keeps a record that a peer sent of itself, with the addresses that mean anything.
    fn keep_record(&mut self, mut record: kad::ProviderRecord) {
        let source = record.provider;
        let source_ip = self.peers.source_ip(&source);
        record.addresses.retain(|address| self.policy.admits(address));
        record.addresses.truncate(MAX_ADDRESSES);
        let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() else { return };
        let store = kad.store_mut();
        if let Err(refusal) = store.add_from(record, source, source_ip, Instant::now()) {
            self.metrics.records_refused.inc();
            tracing::debug!(peer = %source, %refusal, "provider record not kept");
        }
        self.metrics.records.set(store.len() as i64);
    }

    fn on_query(&mut self, id: QueryId, result: QueryResult, last: bool) {
        let mut timed_out = false;
        match result {
            QueryResult::GetProviders(Ok(GetProvidersOk::FoundProviders { key, providers })) => {
                self.on_found(id, &key, providers);
            }
            QueryResult::GetProviders(Err(_)) => timed_out = true,
            QueryResult::GetClosestPeers(closest) => {
                let peers = match closest {
                    Ok(closest) => closest.peers,
                    Err(GetClosestPeersError::Timeout { peers, .. }) => peers,
                };
                let found: Vec<_> = peers.into_iter().map(|info| (info.peer_id, info.addrs)).collect();
                self.peer_looked_up(id, &found);
                return;
            }
            QueryResult::StartProviding(Err(error)) | QueryResult::RepublishProvider(Err(error)) => {
                tracing::warn!(%error, "announcing this node in the DHT took longer than {LOOKUP_TIMEOUT:?}");
                return;
            }
            _ => {}
        }
        if last && let Some(lookup) = self.discovery.lookups.remove(&id) {
            let outcome = match (timed_out, lookup.seen.is_empty()) {
                (true, _) => Outcome::Timeout,
                (false, true) => Outcome::Nothing,
                (false, false) => Outcome::Found,
            };
            self.metrics.lookups.get_or_create(&OutcomeLabels { outcome }).inc();
            self.metrics.lookup_seconds.observe(lookup.started.elapsed().as_secs_f64());
        }
    }

    fn on_found(&mut self, id: QueryId, key: &RecordKey, providers: HashSet<PeerId>) {
        for peer in providers {
            let Some(lookup) = self.discovery.lookups.get_mut(&id) else { return };
            let Some(node) = node_id(&peer) else { continue };
            if peer == self.local || lookup.seen.len() >= MAX_FOUND || !lookup.seen.insert(peer) {
                continue;
            }
            let ahead = lookup.seen.len() <= DIAL_AHEAD;
            let addresses = self.known_addresses(peer, key);
            let Some(lookup) = self.discovery.lookups.get(&id) else { return };
            if lookup.found.try_send(FoundProvider { node, addresses: addresses.clone() }).is_err() {
                // Its reader has gone: the channel holds as many as are ever sent.
                self.discovery.lookups.remove(&id);
                self.finish_query(id);
                return;
            }
            if ahead {
                self.dial_ahead(peer, &addresses);
            }
        }
    }

    /// Addresses of a provider: from this node's own record of it, from the table, and from the answers of the
    /// queries that run. Kademlia tells the latter only to whoever is about to dial, so it is asked as if.
    fn known_addresses(&mut self, peer: PeerId, key: &RecordKey) -> Vec<Multiaddr> {
        let policy = self.policy;
        let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() else { return Vec::new() };
        let stored = kad.store_mut().providers(key).into_iter().filter(|record| record.provider == peer);
        let mut candidates: Vec<Multiaddr> = stored.flat_map(|record| record.addresses).collect();
        let nothing_dialled = ConnectionId::new_unchecked(0);
        candidates.extend(
            kad.handle_pending_outbound_connection(nothing_dialled, Some(peer), &[], Endpoint::Dialer)
                .unwrap_or_default(),
        );
        let mut addresses = Vec::new();
        for address in candidates.iter().map(without_peer).filter(|address| policy.admits(address)) {
            if addresses.len() < MAX_ADDRESSES && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }
}
