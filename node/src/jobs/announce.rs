//! Tells the network what this provider offers: signed offers and heartbeats by gossip, its cells in the DHT.
//!
//! An offer that changes goes out at once on the finest topic, and on the coarse ones every ten minutes at most.
//! When nothing can be offered any more (the engine is gone, the node stops), a last offer with the shortest lifetime
//! that all clocks understand is published, followed by a heartbeat that says "full": nobody asks from then on, and the
//! offer is forgotten within [`FAREWELL_MS`].

use self::{
    content::{Content, Obstacle},
    schedule::{Due, Schedule},
};
use super::JobsConfig;
use crate::{
    blocking,
    clock::now_ms,
    engine::EngineStatus,
    gpu::power::PowerState,
    network::{NetworkHandle, PeerInfo},
    storage::Store,
    trust::Vouched,
};
use aitbc_crypto::{SecretKey, signing};
use aitbc_protocol::{
    CLOCK_TOLERANCE_MS, NodeId, Signed,
    bandwidth::Bandwidth,
    coordinates::{Coordinate, Place},
    geo::{COARSEST, Cell, FINEST_TOPIC},
    gossip::Gossip,
    gpu::challenge::exchange::Shown,
    offer::{Device, Heartbeat, Load, OFFER_LIFETIME_MS, Offer, Statements},
};
use libp2p::Multiaddr;
use std::{collections::HashSet, sync::Arc};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

pub(super) mod content;
mod schedule;

/// How long a last offer stands: a clock that is behind by all that is tolerated still takes it as valid, so nobody
/// who forwards it loses score.
const FAREWELL_MS: u64 = CLOCK_TOLERANCE_MS + 5_000;

/// What stands in public, for `status`.
#[derive(Clone, Debug)]
pub(super) struct Announced {
    /// The newest offer.
    pub(super) offer: Option<Arc<Offer>>,
    /// Why there is none.
    pub(super) waiting_for: Option<String>,
}

impl Default for Announced {
    fn default() -> Self {
        Self { offer: None, waiting_for: Some("the provider side is starting".to_owned()) }
    }
}

/// Why a statement was not made; the announcer tries again.
#[derive(Debug, thiserror::Error)]
enum AnnounceError {
    /// The sequence number could not be stored.
    #[error(transparent)]
    Storage(#[from] crate::storage::StorageError),
    /// The thread that stores it died.
    #[error("storing the sequence number: {0}")]
    Task(#[from] tokio::task::JoinError),
    /// More models, devices and addresses than an offer holds.
    #[error("the offer: {0}: offer fewer models")]
    Wire(#[from] aitbc_protocol::wire::WireError),
}

/// What the announcer works with.
pub(super) struct Announcer {
    pub(super) config: JobsConfig,
    pub(super) key: SecretKey,
    pub(super) network: NetworkHandle,
    pub(super) store: Store,
    pub(super) devices: Vec<Device>,
    pub(super) engines: watch::Receiver<Arc<Vec<EngineStatus>>>,
    pub(super) load: watch::Receiver<Load>,
    pub(super) power: watch::Receiver<Arc<PowerState>>,
    pub(super) shown: watch::Receiver<Vec<Signed<Shown>>>,
    pub(super) vouched: watch::Receiver<Vouched>,
    pub(super) line: watch::Receiver<Option<Bandwidth>>,
    /// Where this node is among round trips. What is no news goes out with the next offer.
    pub(super) round_trips: watch::Receiver<Place>,
    pub(super) announced: watch::Sender<Announced>,
    /// The same offer with its newest heartbeat, signed, for whoever tells others.
    pub(super) statements: watch::Sender<Option<Statements>>,
}

/// The offer that stands.
struct Standing {
    content: Content,
    offer: Arc<Offer>,
}

impl Standing {
    /// Whether it does not say what should be said now.
    fn differs(&self, content: &Content, place: &Coordinate) -> bool {
        self.content != *content || self.offer.coordinate.is_none_or(|told| place.is_news(&told))
    }
}

impl Announcer {
    /// Announces until `stop` is cancelled or network or engines are gone, then withdraws what stands.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut addresses = self.network.addresses();
        let mut peers = self.network.peers();
        let mut standing: Option<Standing> = None;
        let coarse = COARSEST..self.topic(FINEST_TOPIC).precision();
        let mut schedule = Schedule::new(self.config.slots, coarse.clone());
        let mut greeted: HashSet<NodeId> = HashSet::new();
        loop {
            let connected: HashSet<NodeId> = ids(&peers.borrow_and_update());
            let content = self.content(&addresses.borrow_and_update());
            let load = *self.load.borrow_and_update();
            let now = Instant::now();
            match content {
                Err(obstacle) => {
                    self.announced.send_modify(|announced| announced.waiting_for = Some(obstacle.to_string()));
                    schedule.rest();
                    if let Some(standing) = standing.take() {
                        tracing::warn!(%obstacle, "the offer is withdrawn");
                        self.withdraw(standing).await;
                        schedule = Schedule::new(self.config.slots, coarse.clone());
                    }
                }
                Ok(content) => {
                    let place = self.round_trips.borrow().tell();
                    let changed = standing.as_ref().is_none_or(|standing| standing.differs(&content, &place));
                    let newcomers = !connected.is_subset(&greeted);
                    let due = schedule.due(now, changed, newcomers, load);
                    if due.offer {
                        let moved = standing.as_ref().is_some_and(|standing| !standing.content.is_where(&content));
                        match self.offer(content, load).await {
                            Ok(offered) => {
                                standing = Some(offered);
                                greeted.clone_from(&connected);
                                schedule.offered(now, moved);
                            }
                            Err(error) => {
                                tracing::warn!(%error, "no offer could be made");
                                schedule.failed(now);
                            }
                        }
                    }
                    if let Some(standing) = &standing {
                        self.tell(standing, due, &mut schedule, load).await;
                    }
                }
            }
            let wake = schedule.wake(Instant::now());
            let alive = tokio::select! {
                biased;
                () = stop.cancelled() => false,
                changed = self.engines.changed() => changed.is_ok(),
                changed = addresses.changed() => changed.is_ok(),
                changed = peers.changed() => changed.is_ok(),
                changed = self.load.changed() => changed.is_ok(),
                changed = self.power.changed() => changed.is_ok(),
                // Who answers challenges may end before the last job.
                Ok(()) = self.shown.changed() => true,
                Ok(()) = self.vouched.changed() => true,
                Ok(()) = self.line.changed() => true,
                () = sleep_until(wake) => true,
            };
            if !alive {
                break;
            }
        }
        self.announced
            .send_modify(|announced| announced.waiting_for = Some("the provider side has stopped".into()));
        if let Some(standing) = standing {
            self.withdraw(standing).await;
        }
    }

    fn content(&mut self, addresses: &[Multiaddr]) -> Result<Content, Obstacle> {
        let (engines, power) = (self.engines.borrow_and_update(), self.power.borrow_and_update());
        let (shown, line) = (self.shown.borrow_and_update(), *self.line.borrow_and_update());
        let content = content::gather(&self.config, &self.devices, &engines, addresses, &power)?;
        Ok(content.with_findings(&shown, &self.vouched.borrow_and_update(), line))
    }

    /// Makes the next offer and shows it to this process and to those who ask.
    async fn offer(&self, content: Content, load: Load) -> Result<Standing, AnnounceError> {
        let offer = self.sign(content.clone(), OFFER_LIFETIME_MS, load).await?;
        tracing::info!(sequence = offer.sequence, models = offer.models.len(), cell = %offer.cell, "offered");
        Ok(Standing { content, offer })
    }

    /// Signs an offer under the next sequence number, with a heartbeat to it.
    async fn sign(&self, content: Content, lifetime_ms: u64, load: Load) -> Result<Arc<Offer>, AnnounceError> {
        let store = self.store.clone();
        let (issued_ms, coordinate) = (now_ms(), self.round_trips.borrow().tell());
        let sequence = blocking::run(move || store.next_offer_sequence(issued_ms)).await??;
        let offer = content.into_offer(&self.config, sequence, issued_ms, lifetime_ms, coordinate);
        let signed = signing::seal(&self.key, &self.config.network, &offer)?;
        let heartbeat = signing::seal(&self.key, &self.config.network, &heartbeat(&offer, load))?;
        let offer = Arc::new(offer);
        self.announced.send_replace(Announced { offer: Some(Arc::clone(&offer)), waiting_for: None });
        self.statements.send_replace(Some(Statements { offer: signed, heartbeat: Some(heartbeat) }));
        Ok(offer)
    }

    /// Says what is due about the standing offer.
    async fn tell(&self, standing: &Standing, due: Due, schedule: &mut Schedule, load: Load) {
        let now = Instant::now();
        let signed = self.statements.borrow().as_ref().map(|statements| statements.offer.clone());
        if let Some(offer) = signed.map(Gossip::Offer) {
            if due.offer {
                self.publish(self.topic(FINEST_TOPIC), &offer).await;
            }
            for precision in schedule.coarse_due(now) {
                let heard = self.publish(self.topic(precision), &offer).await;
                schedule.told_coarsely(precision, now, heard);
            }
        }
        if schedule.dht_due(now) {
            match self.network.announce(self.config.cell.ancestry()).await {
                Ok(()) => schedule.in_dht(),
                Err(error) => {
                    tracing::warn!(%error, "the cell could not be announced in the DHT");
                    schedule.failed(now);
                }
            }
        }
        if due.heartbeat {
            self.beat(&standing.offer, load).await;
            schedule.beaten(now, load);
        }
    }

    /// Publishes a heartbeat and keeps it for those who ask.
    async fn beat(&self, offer: &Offer, load: Load) {
        match signing::seal(&self.key, &self.config.network, &heartbeat(offer, load)) {
            Ok(heartbeat) => {
                self.statements.send_modify(|statements| {
                    if let Some(statements) = statements {
                        statements.heartbeat = Some(heartbeat.clone());
                    }
                });
                self.publish(self.topic(FINEST_TOPIC), &Gossip::Heartbeat(heartbeat)).await;
            }
            Err(error) => tracing::error!(%error, "a heartbeat could not be made"),
        }
    }

    /// Takes the offer back, everywhere.
    async fn withdraw(&self, standing: Standing) {
        if let Err(error) = self.network.announce(vec![]).await {
            tracing::debug!(%error, "the DHT records are left to expire");
        }
        let waiting_for = self.announced.borrow().waiting_for.clone();
        let full = Load { running: self.config.slots, queued: 0 };
        match self.sign(standing.content, FAREWELL_MS, full).await {
            Ok(offer) => {
                let signed = self.statements.borrow().as_ref().map(|statements| statements.offer.clone());
                if let Some(offer) = signed.map(Gossip::Offer) {
                    for precision in COARSEST..=self.topic(FINEST_TOPIC).precision() {
                        self.publish(self.topic(precision), &offer).await;
                    }
                }
                self.beat(&offer, full).await;
            }
            Err(error) => tracing::warn!(%error, "the offer is left to expire"),
        }
        self.statements.send_replace(None);
        self.announced.send_replace(Announced { waiting_for, ..Announced::default() });
    }

    fn topic(&self, precision: u8) -> Cell {
        self.config.cell.coarsened(precision)
    }

    /// Whether anybody heard it.
    async fn publish(&self, cell: Cell, message: &Gossip) -> bool {
        self.network.publish(cell, message).await.unwrap_or_else(|error| {
            tracing::warn!(%cell, %error, "not published");
            false
        })
    }
}

fn heartbeat(offer: &Offer, load: Load) -> Heartbeat {
    Heartbeat { offer: offer.sequence, issued_ms: now_ms(), running: load.running, queued: load.queued }
}

fn ids(peers: &[PeerInfo]) -> HashSet<NodeId> {
    peers.iter().map(|peer| peer.peer).collect()
}
