//! Record store of the DHT.
use aitbc_protocol::NetworkId;
use libp2p::{
    PeerId,
    kad::{self, ProviderRecord, Record, RecordKey},
};
use std::{borrow::Cow, net::IpAddr, time::Instant};

/// What kad's `set_max_packet_size` must be, so that answers always fit.
pub const KAD_PACKET_BYTES: usize = 64 * 1024;

/// Provider records of cells, bounded.
#[derive(Debug)]
pub struct CellStore {
    own: Vec<ProviderRecord>,
}

/// Why a record is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The key.
    #[error("the key is not a cell of this network")]
    NotACell,
    /// The provider.
    #[error("a peer may only announce itself")]
    NotTheSource,
    /// This node.
    #[error("the record names this node")]
    OwnRecord,
    /// Too old.
    #[error("the record has expired")]
    Expired,
}

impl CellStore {
    /// An empty store of `local`, for cells of `network`.
    pub fn new(local: PeerId, network: NetworkId) -> Self {
        let _ = (local, network);
        todo!()
    }

    /// Stores a record that `source` sent. `source_ip` is the address of its direct connection, `None` if relayed.
    pub fn add_from(
        &mut self,
        record: ProviderRecord,
        source: PeerId,
        source_ip: Option<IpAddr>,
        now: Instant,
    ) -> Result<(), Refusal> {
        let _ = (record, source, source_ip, now);
        todo!()
    }

    /// Forgets what has expired, and says how many records that were. To be called every minute or so.
    pub fn expire(&mut self, now: Instant) -> usize {
        let _ = now;
        todo!()
    }

    /// Records of other nodes held.
    pub fn len(&self) -> usize {
        todo!()
    }

    /// True if no record of another node is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl kad::store::RecordStore for CellStore {
    type RecordsIter<'a> = std::iter::Empty<Cow<'a, Record>>;
    type ProvidedIter<'a>
        = std::iter::Map<std::slice::Iter<'a, ProviderRecord>, fn(&'a ProviderRecord) -> Cow<'a, ProviderRecord>>
    where
        Self: 'a;

    fn get(&self, _: &RecordKey) -> Option<Cow<'_, Record>> {
        None
    }
    fn put(&mut self, _: Record) -> kad::store::Result<()> {
        Err(kad::store::Error::MaxRecords)
    }
    fn remove(&mut self, _: &RecordKey) {}
    fn records(&self) -> Self::RecordsIter<'_> {
        std::iter::empty()
    }
    fn add_provider(&mut self, _: ProviderRecord) -> kad::store::Result<()> {
        todo!()
    }
    fn providers(&self, _: &RecordKey) -> Vec<ProviderRecord> {
        todo!()
    }
    fn provided(&self) -> Self::ProvidedIter<'_> {
        self.own.iter().map(Cow::Borrowed)
    }
    fn remove_provider(&mut self, _: &RecordKey, _: &PeerId) {
        todo!()
    }
}
