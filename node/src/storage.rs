//! Durable records in RocksDB, in three layers: raw columns, a byte format with a version, typed queries.
//!
//! The typed queries are here. Whatever a write reports as done survives a crash; what several records say about one
//! thing is written in one batch.

mod columns;
mod findings;
mod format;
mod records;

use aitbc_protocol::{
    Digest, NodeId, Nonce, UnixMillis, bytes::JobId, job::JobState, offer::next_sequence, receipt::Channel,
};
use columns::{Column, Columns, Durability, Edit, Scan, View};
pub use records::{AttestationRecord, EvidenceRecord, JobRecord, JobSums, PeerSums, SettlementRecord, Side, Sums};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// Name of the sequence of offers.
const OFFER_SEQUENCE: &[u8] = b"offer";
/// Where the totals are, apart from the settings of subsystems.
const TOTALS_KEY: &[u8] = b"totals";

/// Where the next page of jobs begins.
#[derive(Clone, Debug)]
pub struct Cursor(Vec<u8>);

impl Cursor {
    /// Before the first job that began at `since_ms` or later.
    pub fn since(since_ms: UnixMillis) -> Self {
        Self(format::since_key(since_ms))
    }
}

/// Why a record cannot be read or written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StorageError {
    /// Another process holds the database.
    #[error("{0} is in use by another aitbc: stop it (aitbc down) or choose another `data_dir`")]
    Locked(PathBuf),
    /// No room on the disk.
    #[error("the disk with {0} is full: free some space; nothing that was recorded is lost")]
    Full(PathBuf),
    /// A database written by a newer aitbc.
    #[error("the database has format {found}, this aitbc knows up to {known}: update aitbc")]
    Format {
        /// On disk.
        found: u32,
        /// Known.
        known: u32,
    },
    /// A record that does not read back.
    #[error("corrupt record: {0}")]
    Corrupt(String),
    /// RocksDB's own word.
    #[error("database: {0}")]
    Database(String),
}

/// Changes that become durable together or not at all.
#[derive(Debug, Default)]
pub struct Changes {
    /// Jobs to write.
    pub jobs: Vec<JobRecord>,
    /// Channels to write, by side of this node and peer.
    pub channels: Vec<(Side, NodeId, Channel)>,
    /// Settlements to write, by side of this node and peer.
    pub settlements: Vec<(Side, NodeId, SettlementRecord)>,
    /// Quote nonces used up, with the time until which they must be remembered (provider side).
    pub used_quotes: Vec<(Nonce, UnixMillis)>,
    /// The sums, where they changed.
    pub sums: Option<Sums>,
}

impl Changes {
    /// True where there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
            && self.channels.is_empty()
            && self.settlements.is_empty()
            && self.used_quotes.is_empty()
            && self.sums.is_none()
    }

    fn edits(&self) -> Result<Vec<Edit>, StorageError> {
        let mut edits = Vec::with_capacity(6 * self.jobs.len() + self.channels.len() + self.used_quotes.len() + 1);
        for record in &self.jobs {
            let key = format::job_key(record.side, &record.key()?);
            edits.push(Edit::Put(Column::JobsByTime, format::time_key(record.created_ms, &key), Vec::new()));
            edits.push(Edit::Put(Column::JobsById, format::id_key(&record.job, &key), Vec::new()));
            if let Some(receipt) = &record.receipt {
                let key = format::receipt_key(&receipt.digest(), &key);
                edits.push(Edit::Put(Column::JobsByReceipt, key, Vec::new()));
            }
            // A job given up by its client can still be settled.
            let given_up = record.side == Side::Client && record.state == JobState::ReceiptMissing;
            edits.push(if record.state.is_final() && !given_up {
                Edit::Delete(Column::Unfinished, key.clone())
            } else {
                Edit::Put(Column::Unfinished, key.clone(), Vec::new())
            });
            edits.push(format::peer_edit(record, &key));
            edits.push(Edit::Put(Column::Jobs, key, format::encode(record)?));
        }
        for (side, peer, channel) in &self.channels {
            edits.push(Edit::Put(Column::Channels, format::channel_key(*side, peer), format::encode(channel)?));
        }
        for (side, peer, record) in &self.settlements {
            let key = format::channel_key(*side, peer);
            edits.push(Edit::Put(Column::Settlements, key, format::encode(record)?));
        }
        for (nonce, expires_ms) in &self.used_quotes {
            edits.push(Edit::Put(Column::UsedQuotes, nonce.0.to_vec(), expires_ms.to_be_bytes().to_vec()));
        }
        if let Some(sums) = &self.sums {
            edits.push(Edit::Put(Column::Meta, TOTALS_KEY.to_vec(), format::encode(sums)?));
        }
        Ok(edits)
    }
}

/// The database. Cheap to clone; calls block, so callers on the runtime use `spawn_blocking` or a thread. The last
/// clone closes it.
#[derive(Clone, Debug)]
pub struct Store {
    columns: Arc<Columns>,
    /// Held from reading a sequence number until its successor is on disk.
    sequences: Arc<Mutex<()>>,
}

impl Store {
    /// Opens or creates the database in `directory`, upgrading older formats.
    pub fn open(directory: &Path) -> Result<Self, StorageError> {
        let columns = Columns::open(directory)?;
        format::upgrade(&columns)?;
        Ok(Self { columns: Arc::new(columns), sequences: Arc::default() })
    }

    /// Makes the store writable again after a write that failed; free of cost otherwise. Whether the failed write took
    /// place is known only now: whoever computed it reads again what it was computed from.
    pub fn ready(&self) -> Result<(), StorageError> {
        self.columns.ready()
    }

    /// Writes all changes atomically, synced to disk before it returns. After an error the store takes no changes
    /// until [`Self::ready`] succeeds.
    pub fn commit(&self, changes: &Changes) -> Result<(), StorageError> {
        self.columns.write(changes.edits()?, Durability::Synced)
    }

    /// Writes all changes atomically without waiting for the disk: they survive a crash of the process, and a loss of
    /// power only once a later [`Self::commit`] is done.
    pub fn commit_relaxed(&self, changes: &Changes) -> Result<(), StorageError> {
        self.columns.write(changes.edits()?, Durability::Relaxed)
    }

    /// One job.
    pub fn job(&self, side: Side, quote: &Nonce) -> Result<Option<JobRecord>, StorageError> {
        let bytes = self.columns.get(Column::Jobs, &format::job_key(side, quote))?;
        bytes.map(|bytes| format::decode(&bytes)).transpose()
    }

    /// Newest jobs first, at most `limit`.
    pub fn jobs(&self, limit: usize) -> Result<Vec<JobRecord>, StorageError> {
        self.indexed(Column::JobsByTime, Scan::Backwards(&[]), limit, |_| true)
    }

    /// Newest jobs first, at most `limit`, of those that have a receipt.
    pub fn receipts(&self, limit: usize) -> Result<Vec<JobRecord>, StorageError> {
        self.indexed(Column::JobsByTime, Scan::Backwards(&[]), limit, |record| record.receipt.is_some())
    }

    /// Jobs oldest first from `cursor` on, at most `limit`, and where the next page begins; `None` after the last one. A
    /// page is a short read, so that a long history keeps nobody waiting.
    pub fn page(&self, cursor: &Cursor, limit: usize) -> Result<(Vec<JobRecord>, Option<Cursor>), StorageError> {
        let mut next = None;
        let mut records = Vec::new();
        self.columns.read(|view| {
            view.scan(Column::JobsByTime, Scan::From(&cursor.0), |key, _| {
                if records.len() >= limit {
                    next = Some(Cursor(key.to_vec()));
                    return Ok(false);
                }
                records.push(job_behind(view, Column::JobsByTime, key)?);
                Ok(true)
            })
        })?;
        Ok((records, next))
    }

    /// Newest jobs with `peer` on this side first, at most `limit`.
    pub fn jobs_with(&self, side: Side, peer: &NodeId, limit: usize) -> Result<Vec<JobRecord>, StorageError> {
        let prefix = format::peer_prefix(side, peer);
        self.indexed(Column::JobsByPeer, Scan::Backwards(&prefix), limit, |_| true)
    }

    /// Sums over all jobs with `peer` on this side, from the index alone.
    pub fn sums_with(&self, side: Side, peer: &NodeId) -> Result<PeerSums, StorageError> {
        let mut sums = PeerSums::default();
        let prefix = format::peer_prefix(side, peer);
        self.columns.scan(Column::JobsByPeer, Scan::Prefix(&prefix), |_, value| {
            sums.add(format::sums_of(value)?);
            Ok(true)
        })?;
        Ok(sums)
    }

    /// The same for every side and peer, in the order of their keys.
    pub fn peer_sums(&self) -> Result<Vec<(Side, NodeId, PeerSums)>, StorageError> {
        let mut all: Vec<(Side, NodeId, PeerSums)> = Vec::new();
        self.columns.scan(Column::JobsByPeer, Scan::Prefix(&[]), |key, value| {
            let (side, peer) = format::peer_of(key)?;
            if all.last().is_none_or(|last| (last.0, last.1) != (side, peer)) {
                all.push((side, peer, PeerSums::default()));
            }
            if let Some((_, _, sums)) = all.last_mut() {
                sums.add(format::sums_of(value)?);
            }
            Ok(true)
        })?;
        Ok(all)
    }

    /// The job with this receipt (the digest of the signed payload); where this node was both sides of it, the
    /// client's.
    pub fn receipt(&self, id: &Digest) -> Result<Option<JobRecord>, StorageError> {
        let held = |record: &JobRecord| record.receipt.as_ref().is_some_and(|receipt| receipt.digest() == *id);
        Ok(self.indexed(Column::JobsByReceipt, Scan::Prefix(id.as_bytes()), 1, held)?.pop())
    }

    /// Jobs that are not in a final state (from an index: cost does not grow with history).
    pub fn unfinished(&self) -> Result<Vec<JobRecord>, StorageError> {
        self.indexed(Column::Unfinished, Scan::Prefix(&[]), usize::MAX, |record| !record.state.is_final())
    }

    /// Jobs of the client side that were given up for want of their receipt, whoever their provider is (from the same
    /// index).
    pub fn given_up(&self) -> Result<Vec<JobRecord>, StorageError> {
        self.indexed(Column::Unfinished, Scan::Prefix(&[]), usize::MAX, |record| {
            record.state == JobState::ReceiptMissing
        })
    }

    /// All attempts at one job.
    pub fn attempts(&self, job: &JobId) -> Result<Vec<JobRecord>, StorageError> {
        let mut records = self.indexed(Column::JobsById, Scan::Prefix(job.as_bytes()), usize::MAX, |_| true)?;
        records.sort_by_key(|record| record.created_ms);
        Ok(records)
    }

    /// A channel.
    pub fn channel(&self, side: Side, peer: &NodeId) -> Result<Channel, StorageError> {
        let bytes = self.columns.get(Column::Channels, &format::channel_key(side, peer))?;
        bytes.map_or(Ok(Channel::default()), |bytes| format::decode(&bytes))
    }

    /// All channels.
    pub fn channels(&self) -> Result<Vec<(Side, NodeId, Channel)>, StorageError> {
        let mut channels = Vec::new();
        self.columns.scan(Column::Channels, Scan::Prefix(&[]), |key, value| {
            let (side, peer) = format::channel_of(key)?;
            channels.push((side, peer, format::decode(value)?));
            Ok(true)
        })?;
        Ok(channels)
    }

    /// The newest settlement with a peer: on the provider's side what this node signed, on the client's what it holds.
    pub fn settlement(&self, side: Side, peer: &NodeId) -> Result<Option<SettlementRecord>, StorageError> {
        let bytes = self.columns.get(Column::Settlements, &format::channel_key(side, peer))?;
        bytes.map(|bytes| format::decode(&bytes)).transpose()
    }

    /// Whether there is any settlement on this side.
    pub fn has_settlements(&self, side: Side) -> Result<bool, StorageError> {
        let mut any = false;
        self.columns.scan(Column::Settlements, Scan::Prefix(&format::side_prefix(side)), |_, _| {
            any = true;
            Ok(false)
        })?;
        Ok(any)
    }

    /// All settlements.
    pub fn settlements(&self) -> Result<Vec<(Side, NodeId, SettlementRecord)>, StorageError> {
        let mut settlements = Vec::new();
        self.columns.scan(Column::Settlements, Scan::Prefix(&[]), |key, value| {
            let (side, peer) = format::channel_of(key)?;
            settlements.push((side, peer, format::decode(value)?));
            Ok(true)
        })?;
        Ok(settlements)
    }

    /// The sums over all time.
    pub fn sums(&self) -> Result<Sums, StorageError> {
        let bytes = self.columns.get(Column::Meta, TOTALS_KEY)?;
        bytes.map_or(Ok(Sums::default()), |bytes| format::decode(&bytes))
    }

    /// Whether a quote was used, over restarts too.
    pub fn quote_used(&self, nonce: &Nonce) -> Result<bool, StorageError> {
        Ok(self.columns.get(Column::UsedQuotes, nonce.as_bytes())?.is_some())
    }

    /// Forgets used quotes that have expired.
    pub fn prune_used_quotes(&self, now_ms: UnixMillis) -> Result<(), StorageError> {
        let mut edits = Vec::new();
        self.columns.scan(Column::UsedQuotes, Scan::Prefix(&[]), |nonce, expires_ms| {
            if format::number(expires_ms)? <= now_ms {
                edits.push(Edit::Delete(Column::UsedQuotes, nonce.to_vec()));
            }
            Ok(true)
        })?;
        if edits.is_empty() {
            return Ok(());
        }
        self.columns.ready()?;
        self.columns.write(edits, Durability::Relaxed)
    }

    /// The next sequence number of this node's offers, stored and synced before it is returned.
    pub fn next_offer_sequence(&self, now_ms: UnixMillis) -> Result<u64, StorageError> {
        let _held = self.sequences.lock().unwrap_or_else(PoisonError::into_inner);
        self.columns.ready()?;
        let stored = self.columns.get(Column::Sequences, OFFER_SEQUENCE)?;
        let stored = stored.map(|bytes| format::number(&bytes)).transpose()?;
        let next = next_sequence(stored, now_ms);
        let edit = Edit::Put(Column::Sequences, OFFER_SEQUENCE.to_vec(), next.to_be_bytes().to_vec());
        self.columns.write(vec![edit], Durability::Synced)?;
        Ok(next)
    }

    /// A small value of a subsystem, by name.
    pub fn setting(&self, name: &str) -> Result<Option<Vec<u8>>, StorageError> {
        self.columns.get(Column::Settings, name.as_bytes())
    }

    /// Keeps a small value, synced.
    pub fn put_setting(&self, name: &str, value: &[u8]) -> Result<(), StorageError> {
        self.columns.ready()?;
        let edit = Edit::Put(Column::Settings, name.as_bytes().to_vec(), value.to_vec());
        self.columns.write(vec![edit], Durability::Synced)
    }

    /// The jobs behind the entries of an index, at most `limit` of those that are `wanted`.
    fn indexed(
        &self,
        index: Column,
        scan: Scan<'_>,
        limit: usize,
        wanted: impl Fn(&JobRecord) -> bool,
    ) -> Result<Vec<JobRecord>, StorageError> {
        let mut records = Vec::new();
        self.columns.read(|view| {
            view.scan(index, scan, |key, _| {
                if records.len() >= limit {
                    return Ok(false);
                }
                let record = job_behind(view, index, key)?;
                if wanted(&record) {
                    records.push(record);
                }
                Ok(true)
            })
        })?;
        Ok(records)
    }
}

/// The job that an entry of an index names.
fn job_behind(view: &View<'_>, index: Column, key: &[u8]) -> Result<JobRecord, StorageError> {
    let bytes = view.get(Column::Jobs, format::job_of(key))?;
    let missing = || StorageError::Corrupt(format!("{index:?} names a job that is not there"));
    format::decode(&bytes.ok_or_else(missing)?)
}

#[cfg(test)]
pub(crate) mod tests;
