//! Records by cell, by provider and by origin, all within their bounds.

use super::{MAX_KEYS, MAX_PROVIDERS, MAX_RECORDS, origin::Origin};
use aitbc_protocol::geo::Cell;
use libp2p::{
    Multiaddr, PeerId,
    kad::{ProviderRecord, RecordKey},
};
use rand::seq::IndexedRandom;
use std::{
    collections::{BTreeSet, HashMap},
    time::Instant,
};

/// One provider of one cell.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) cell: Cell,
    pub(super) provider: PeerId,
    pub(super) origin: Origin,
    pub(super) expires: Instant,
    pub(super) addresses: Box<[Multiaddr]>,
}

impl Entry {
    pub(super) fn record(&self, key: &RecordKey) -> ProviderRecord {
        ProviderRecord {
            key: key.clone(),
            provider: self.provider,
            expires: Some(self.expires),
            addresses: self.addresses.to_vec(),
        }
    }

    /// What the entry takes in an answer: fields, their tags and lengths.
    pub(super) fn answer_bytes(&self) -> usize {
        let addresses: usize = self.addresses.iter().map(|address| address.len() + 4).sum();
        64 + addresses
    }
}

/// Owns the records of others. Every record is in `cells`; the other maps are indexes of it.
#[derive(Debug, Default)]
pub(super) struct Shelves {
    cells: HashMap<Cell, Vec<Entry>>,
    providers: HashMap<PeerId, Vec<Cell>>,
    origins: HashMap<Origin, Vec<(Cell, PeerId)>>,
    /// Origins by number of records: the last holds the most.
    by_size: BTreeSet<(usize, Origin)>,
    len: usize,
}

impl Shelves {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The records of a cell.
    pub(super) fn of(&self, cell: &Cell) -> &[Entry] {
        self.cells.get(cell).map_or(&[], Vec::as_slice)
    }

    /// Stores a record, and makes room for it first.
    pub(super) fn put(&mut self, entry: Entry) {
        self.remove(&entry.cell, &entry.provider);
        self.make_room_for_provider(&entry.provider);
        self.make_room_in_cell(&entry.cell, entry.origin);
        self.make_room_in_store(entry.origin);
        self.insert(entry);
    }

    pub(super) fn expire(&mut self, now: Instant) -> usize {
        let expired: Vec<(Cell, PeerId)> = self
            .cells
            .values()
            .flatten()
            .filter(|entry| entry.expires <= now)
            .map(|entry| (entry.cell, entry.provider))
            .collect();
        for (cell, provider) in &expired {
            self.remove(cell, provider);
        }
        expired.len()
    }

    /// One provider, at most [`MAX_KEYS`] cells: the one it announced longest ago goes, so one that moves is served.
    fn make_room_for_provider(&mut self, provider: &PeerId) {
        let oldest = match self.providers.get(provider) {
            // `insert` appends, and announcing again removes and appends: the first is the oldest.
            Some(cells) if cells.len() >= MAX_KEYS => cells[0],
            _ => return,
        };
        self.remove(&oldest, provider);
    }

    fn make_room_in_cell(&mut self, cell: &Cell, newcomer: Origin) {
        let entries = self.of(cell);
        let mut sizes: HashMap<Origin, usize> = HashMap::from([(newcomer, 0)]);
        for entry in entries {
            *sizes.entry(entry.origin).or_default() += 1;
        }
        let own = sizes[&newcomer];
        let largest = sizes.values().copied().max().unwrap_or(0);
        let candidates: Vec<PeerId> = if own >= newcomer.max_providers() || entries.len() >= MAX_PROVIDERS {
            let leaves = |origin: Origin| {
                if own >= newcomer.max_providers() || own == largest {
                    origin == newcomer
                } else {
                    sizes[&origin] == largest
                }
            };
            entries.iter().filter(|entry| leaves(entry.origin)).map(|entry| entry.provider).collect()
        } else {
            return;
        };
        if let Some(victim) = candidates.choose(&mut rand::rng()) {
            self.remove(cell, victim);
        }
    }

    fn make_room_in_store(&mut self, newcomer: Origin) {
        let own = self.origins.get(&newcomer).map_or(0, Vec::len);
        let full = self.len >= MAX_RECORDS;
        let Some(&(largest, fullest)) = self.by_size.last() else { return };
        let leaving = if own >= newcomer.max_records() || full && own == largest {
            newcomer
        } else if full {
            fullest
        } else {
            return;
        };
        if let Some((cell, provider)) =
            self.origins.get(&leaving).and_then(|records| records.choose(&mut rand::rng())).copied()
        {
            self.remove(&cell, &provider);
        }
    }

    fn insert(&mut self, entry: Entry) {
        self.len += 1;
        self.providers.entry(entry.provider).or_default().push(entry.cell);
        self.resize_origin(entry.origin, |records| records.push((entry.cell, entry.provider)));
        self.cells.entry(entry.cell).or_default().push(entry);
    }

    pub(super) fn remove(&mut self, cell: &Cell, provider: &PeerId) {
        let Some(entries) = self.cells.get_mut(cell) else { return };
        let Some(index) = entries.iter().position(|entry| entry.provider == *provider) else { return };
        let entry = entries.swap_remove(index);
        if entries.is_empty() {
            self.cells.remove(cell);
        }
        self.len -= 1;
        if let Some(cells) = self.providers.get_mut(provider) {
            cells.retain(|other| other != cell);
            if cells.is_empty() {
                self.providers.remove(provider);
            }
        }
        self.resize_origin(entry.origin, |records| {
            if let Some(index) = records.iter().position(|record| record == &(*cell, *provider)) {
                records.swap_remove(index);
            }
        });
    }

    /// Changes the records of an origin and keeps `by_size` in step.
    fn resize_origin(&mut self, origin: Origin, change: impl FnOnce(&mut Vec<(Cell, PeerId)>)) {
        let records = self.origins.entry(origin).or_default();
        self.by_size.remove(&(records.len(), origin));
        change(records);
        let len = records.len();
        if len == 0 {
            self.origins.remove(&origin);
        } else {
            self.by_size.insert((len, origin));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::{size_of, size_of_val};

    impl Shelves {
        /// Panics unless the indexes agree with the records and every bound holds.
        pub(in super::super) fn check(&self) {
            let entries: Vec<&Entry> = self.cells.values().flatten().collect();
            assert_eq!(entries.len(), self.len);
            assert!(self.len <= MAX_RECORDS);
            assert!(self.cells.values().all(|entries| (1..=MAX_PROVIDERS).contains(&entries.len())));
            assert!(self.providers.values().all(|cells| (1..=MAX_KEYS).contains(&cells.len())));
            assert_eq!(self.providers.values().map(Vec::len).sum::<usize>(), self.len);
            assert_eq!(self.origins.values().map(Vec::len).sum::<usize>(), self.len);
            let sizes: BTreeSet<(usize, Origin)> =
                self.origins.iter().map(|(origin, records)| (records.len(), *origin)).collect();
            assert_eq!(sizes, self.by_size);
            for (&origin, records) in &self.origins {
                assert!((1..=origin.max_records()).contains(&records.len()));
            }
            for (cell, entries) in &self.cells {
                let mut sizes: HashMap<Origin, usize> = HashMap::new();
                for entry in entries {
                    assert_eq!(entry.cell, *cell);
                    assert!(self.providers[&entry.provider].contains(cell));
                    assert!(self.origins[&entry.origin].contains(&(*cell, entry.provider)));
                    *sizes.entry(entry.origin).or_default() += 1;
                }
                assert!(sizes.iter().all(|(origin, &size)| size <= origin.max_providers()));
            }
        }

        /// What the heap holds: elements at the capacity of what holds them, hash and tree nodes at twice theirs.
        pub(in super::super) fn heap_bytes(&self) -> usize {
            let entries: usize = self.cells.values().map(|entries| entries.capacity() * size_of::<Entry>()).sum();
            let addresses: usize = self
                .cells
                .values()
                .flatten()
                .map(|entry| {
                    size_of_val(&*entry.addresses)
                        + entry.addresses.iter().map(|address| address.len() + 64).sum::<usize>()
                })
                .sum();
            let cells: usize = self.providers.values().map(|cells| cells.capacity() * size_of::<Cell>()).sum();
            let origins: usize =
                self.origins.values().map(|records| records.capacity() * size_of::<(Cell, PeerId)>()).sum();
            let nodes = self.cells.capacity() * size_of::<(Cell, Vec<Entry>)>()
                + self.providers.capacity() * size_of::<(PeerId, Vec<Cell>)>()
                + self.origins.capacity() * size_of::<(Origin, Vec<(Cell, PeerId)>)>()
                + self.by_size.len() * size_of::<(usize, Origin)>();
            entries + addresses + cells + origins + 2 * nodes
        }
    }
}
