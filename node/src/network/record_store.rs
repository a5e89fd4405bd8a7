//! The provider records that this node keeps for the DHT: who announced itself under which cell.
//!
//! libp2p's own store keeps 20 providers a key, first come, and one peer can fill it. This one keeps
//! [`MAX_PROVIDERS`] a key and shares its room fairly between origins ([`Origin`]: a subnet, or all who come through
//! relays). A newcomer that finds no room replaces a random record of the origin that holds the most, its own if
//! that is the largest. It follows, for a key and for the whole store alike:
//!
//! > While `n` origins announce, announcements of the others never take an origin below `room / n` records
//! > (rounded down), whatever their number; and one subnet never holds more than [`MAX_SUBNET_PROVIDERS`] of a key.
//!
//! Memory: at most [`MAX_RECORDS`] records of others, each under [`MAX_RECORD_BYTES`] with its indexes, so under
//! [`MAX_BYTES`] together, whatever anybody sends.

mod addresses;
mod origin;
mod shelves;

use addresses::acceptable;
use aitbc_protocol::{NetworkId, geo::Cell};
use libp2p::{
    PeerId,
    kad::{
        ProviderRecord, Record, RecordKey,
        store::{Error, RecordStore, Result as StoreResult},
    },
};
use origin::Origin;
use rand::seq::SliceRandom;
use shelves::{Entry, Shelves};
use std::{
    borrow::Cow,
    collections::HashMap,
    iter,
    net::IpAddr,
    time::{Duration, Instant},
};

/// Providers of one key.
pub const MAX_PROVIDERS: usize = 64;
/// Of those, how many may come from one subnet (/24 of IPv4, /48 of IPv6).
pub const MAX_SUBNET_PROVIDERS: usize = 8;
/// Of those, how many may come through relays, where nothing tells one subnet from another.
pub const MAX_RELAYED_PROVIDERS: usize = MAX_PROVIDERS / 2;
/// Keys of one provider: six precisions, and two more for one that moves.
pub const MAX_KEYS: usize = 8;
/// Records of other nodes.
pub const MAX_RECORDS: usize = 4096;
/// Of those, how many may come from one subnet.
pub const MAX_SUBNET_RECORDS: usize = 256;
/// Of those, how many may come through relays.
pub const MAX_RELAYED_RECORDS: usize = MAX_RECORDS / 2;
/// Cells under which this node itself may be announced.
pub const MAX_OWN: usize = 64;
/// How long a record lives, whatever it claims.
pub const TIME_TO_LIVE: Duration = Duration::from_secs(30 * 60);
/// Addresses kept of one record.
pub const MAX_ADDRESSES: usize = 6;
/// Longest address kept, in bytes: a DNS name, two peer ids and a relay hop fit.
pub const MAX_ADDRESS_BYTES: usize = 192;
/// What one record costs at most, indexes and allocator included.
pub const MAX_RECORD_BYTES: usize = 3 * 1024;
/// What all records of others cost at most.
pub const MAX_BYTES: usize = MAX_RECORDS * MAX_RECORD_BYTES;
/// What one answer to a query for providers holds at most, in bytes; a random choice where more are known.
pub const MAX_ANSWER_BYTES: usize = 32 * 1024;
/// The packet size that Kademlia needs so that an answer and the closer peers beside it always fit.
pub const KAD_PACKET_BYTES: usize = 2 * MAX_ANSWER_BYTES;

/// Why a record is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not the key of a cell of this network.
    #[error("the key is not a cell of this network")]
    NotACell,
    /// A peer announces somebody else.
    #[error("a peer may only announce itself")]
    NotTheSource,
    /// Somebody announces this node.
    #[error("the record names this node")]
    OwnRecord,
    /// Too late.
    #[error("the record has expired")]
    Expired,
}

/// Owns the provider records of cells, those of others bounded and fairly shared, its own apart from them.
///
/// Values are never stored. Nothing expires by itself: whoever owns the store calls [`Self::expire`] by a timer.
#[derive(Debug)]
pub struct CellStore {
    local: PeerId,
    network: NetworkId,
    own: HashMap<RecordKey, ProviderRecord>,
    shelves: Shelves,
}

impl CellStore {
    /// The empty store of the node `local`, for cells of `network`.
    pub fn new(local: PeerId, network: NetworkId) -> Self {
        Self { local, network, own: HashMap::new(), shelves: Shelves::default() }
    }

    /// Stores a record that `source` sent, replacing others where there is no room.
    ///
    /// `source_ip` is the remote address of its connection, and `None` where the connection is relayed: what a peer
    /// claims of its own addresses says nothing. Unacceptable addresses are left out, not the record.
    pub fn add_from(
        &mut self,
        record: ProviderRecord,
        source: PeerId,
        source_ip: Option<IpAddr>,
        now: Instant,
    ) -> Result<(), Refusal> {
        if record.provider == self.local {
            return Err(Refusal::OwnRecord);
        }
        if record.provider != source {
            return Err(Refusal::NotTheSource);
        }
        if record.is_expired(now) {
            return Err(Refusal::Expired);
        }
        let cell = Cell::from_dht_key(&self.network, record.key.as_ref()).ok_or(Refusal::NotACell)?;
        let longest = now + TIME_TO_LIVE;
        self.shelves.put(Entry {
            cell,
            provider: source,
            origin: Origin::of(source, source_ip, self.network.is_local()),
            expires: record.expires.map_or(longest, |expires| expires.min(longest)),
            addresses: acceptable(&record.addresses, &source, self.network.is_local()),
        });
        Ok(())
    }

    /// Forgets records that have expired and returns how many. To be called every minute.
    pub fn expire(&mut self, now: Instant) -> usize {
        self.shelves.expire(now)
    }

    /// Records of other nodes that are held.
    pub fn len(&self) -> usize {
        self.shelves.len()
    }

    /// True if no record of another node is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl RecordStore for CellStore {
    type RecordsIter<'a> = iter::Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = iter::Map<
        std::collections::hash_map::Values<'a, RecordKey, ProviderRecord>,
        fn(&'a ProviderRecord) -> Cow<'a, ProviderRecord>,
    >;

    fn get(&self, _: &RecordKey) -> Option<Cow<'_, Record>> {
        None
    }

    /// Always fails: this network has no value records.
    fn put(&mut self, _: Record) -> StoreResult<()> {
        Err(Error::MaxRecords)
    }

    fn remove(&mut self, _: &RecordKey) {}

    fn records(&self) -> Self::RecordsIter<'_> {
        iter::empty()
    }

    /// Takes this node's own records only. Those of others come in through [`CellStore::add_from`], which knows
    /// where they came from; Kademlia must run with `StoreInserts::FilterBoth`.
    fn add_provider(&mut self, record: ProviderRecord) -> StoreResult<()> {
        let acceptable = record.provider == self.local
            && Cell::from_dht_key(&self.network, record.key.as_ref()).is_some()
            && (self.own.len() < MAX_OWN || self.own.contains_key(&record.key));
        if !acceptable {
            return Err(Error::MaxProvidedKeys);
        }
        self.own.insert(record.key.clone(), record);
        Ok(())
    }

    /// The providers of `key` in random order, this node first if it is one; at most [`MAX_ANSWER_BYTES`].
    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        let mut providers: Vec<ProviderRecord> = self.own.get(key).cloned().into_iter().collect();
        let Some(cell) = Cell::from_dht_key(&self.network, key.as_ref()) else {
            return providers;
        };
        let mut entries: Vec<&Entry> = self.shelves.of(&cell).iter().collect();
        entries.shuffle(&mut rand::rng());
        let mut bytes = 0;
        providers.extend(
            entries
                .into_iter()
                .take_while(|entry| {
                    bytes += entry.answer_bytes();
                    bytes <= MAX_ANSWER_BYTES
                })
                .map(|entry| entry.record(key)),
        );
        providers
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        self.own.values().map(Cow::Borrowed)
    }

    fn remove_provider(&mut self, key: &RecordKey, provider: &PeerId) {
        if *provider == self.local {
            self.own.remove(key);
        } else if let Some(cell) = Cell::from_dht_key(&self.network, key.as_ref()) {
            self.shelves.remove(&cell, provider);
        }
    }
}

#[cfg(test)]
mod tests;
