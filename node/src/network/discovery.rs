//! The DHT as this node uses it: announcing itself by cell, finding who announces, keeping others' records.

use super::FoundProvider;
use aitbc_protocol::geo::Cell;
use libp2p::{PeerId, kad::QueryId};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// When newly announced cells are announced again: a record that was lost while the first connections were made would
/// otherwise be missing for the ten minutes until Kademlia republishes it.
pub(super) const REPEATS: [Duration; 3] =
    [Duration::from_secs(5), Duration::from_secs(20), Duration::from_secs(60)];
/// How often expired records are dropped.
pub(super) const EXPIRE_INTERVAL: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct CellLookup {
    pub(super) started: Instant,
    pub(super) found: mpsc::Sender<FoundProvider>,
    pub(super) seen: HashSet<PeerId>,
}

/// Owns what is announced and what is being looked up.
#[derive(Debug)]
pub(super) struct Discovery {
    pub(super) cells: BTreeSet<Cell>,
    pub(super) announce_at: Option<Instant>,
    /// How many of [`REPEATS`] are behind.
    pub(super) repeated: usize,
    pub(super) lookups: HashMap<QueryId, CellLookup>,
    /// Lookups that wait for the first peer of the DHT, at most as many as can run.
    pub(super) waiting: Vec<(Cell, mpsc::Sender<FoundProvider>)>,
    /// Until when they wait; set by the first of them, once in a node's life.
    pub(super) wait_until: Option<Instant>,
    pub(super) expire_at: Instant,
}

impl Discovery {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            cells: BTreeSet::new(),
            announce_at: None,
            repeated: REPEATS.len(),
            lookups: HashMap::new(),
            waiting: Vec::new(),
            wait_until: None,
            expire_at: now + EXPIRE_INTERVAL,
        }
    }

    /// Announces again, soon.
    pub(super) fn announce_by(&mut self, at: Instant) {
        if !self.cells.is_empty() {
            self.announce_at = Some(self.announce_at.map_or(at, |due| due.min(at)));
        }
    }
}
