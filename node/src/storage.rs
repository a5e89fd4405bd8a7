//! Durable records in RocksDB, in three layers: raw columns, a byte format with a version, typed queries.

use aitbc_protocol::{
    NodeId, Nonce, Signed, UnixMillis,
    bytes::JobId,
    job::{Finish, JobState, ModelName},
    money::MicroCredits,
    offer::Equivocation,
    quote::Quote,
    receipt::{Channel, Cheque, Receipt},
    text::Line,
};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Which side of a job this node was on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// It asked and pays.
    Client,
    /// It answered and earns.
    Provider,
}

/// One attempt at a job with one peer: its own quote, its own receipt, its own sum. Keyed by side and quote nonce.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    /// This node's side.
    pub side: Side,
    /// The other node.
    pub peer: NodeId,
    /// Addresses of the other node when the job started, for settling after a restart.
    pub addresses: Vec<String>,
    /// The job; the same over all attempts.
    pub job: JobId,
    /// The quote it runs under.
    pub quote: Signed<Quote>,
    /// Model, for listings.
    pub model: ModelName,
    /// Where it stands.
    pub state: JobState,
    /// Why it ended, once it has.
    pub finish: Option<Finish>,
    /// What went wrong, if something did.
    pub failure: Option<Line<160>>,
    /// Tokens acknowledged and paid.
    pub tokens: u32,
    /// Paid for this job so far.
    pub paid: MicroCredits,
    /// Newest cheque for this job.
    pub cheque: Option<Signed<Cheque>>,
    /// The provider's receipt.
    pub receipt: Option<Signed<Receipt>>,
    /// When it started.
    pub created_ms: UnixMillis,
    /// When it last changed.
    pub updated_ms: UnixMillis,
}

impl JobRecord {
    /// The record's key: the nonce of its quote.
    pub fn key(&self) -> Result<Nonce, StorageError> {
        Ok(self.quote.read_unverified().map_err(|error| StorageError::Corrupt(error.to_string()))?.nonce)
    }
}

/// Why a record cannot be read or written.
#[derive(Debug, thiserror::Error)]
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
    /// Quote nonces used up, with the time until which they must be remembered (provider side).
    pub used_quotes: Vec<(Nonce, UnixMillis)>,
}

/// The database. Cheap to clone; calls block, so callers on the runtime use `spawn_blocking` or a thread.
#[derive(Clone, Debug)]
pub struct Store {}

impl Store {
    /// Opens or creates the database in `directory`, upgrading older formats.
    pub fn open(directory: &Path) -> Result<Self, StorageError> {
        let _ = directory;
        todo!()
    }

    /// Writes all changes atomically, synced to disk before it returns.
    pub fn commit(&self, changes: &Changes) -> Result<(), StorageError> {
        let _ = changes;
        todo!()
    }

    /// One job.
    pub fn job(&self, side: Side, quote: &Nonce) -> Result<Option<JobRecord>, StorageError> {
        let _ = (side, quote);
        todo!()
    }

    /// Newest jobs first, at most `limit`.
    pub fn jobs(&self, limit: usize) -> Result<Vec<JobRecord>, StorageError> {
        let _ = limit;
        todo!()
    }

    /// Jobs that are not in a final state (from an index: cost does not grow with history).
    pub fn unfinished(&self) -> Result<Vec<JobRecord>, StorageError> {
        todo!()
    }

    /// All attempts at one job.
    pub fn attempts(&self, job: &JobId) -> Result<Vec<JobRecord>, StorageError> {
        let _ = job;
        todo!()
    }

    /// A channel.
    pub fn channel(&self, side: Side, peer: &NodeId) -> Result<Channel, StorageError> {
        let _ = (side, peer);
        todo!()
    }

    /// All channels.
    pub fn channels(&self) -> Result<Vec<(Side, NodeId, Channel)>, StorageError> {
        todo!()
    }

    /// Whether a quote was used, over restarts too.
    pub fn quote_used(&self, nonce: &Nonce) -> Result<bool, StorageError> {
        let _ = nonce;
        todo!()
    }

    /// Forgets used quotes that have expired.
    pub fn prune_used_quotes(&self, now_ms: UnixMillis) -> Result<(), StorageError> {
        let _ = now_ms;
        todo!()
    }

    /// The next sequence number of this node's offers, stored and synced before it is returned.
    pub fn next_offer_sequence(&self, now_ms: UnixMillis) -> Result<u64, StorageError> {
        let _ = now_ms;
        todo!()
    }

    /// Keeps proof of an equivocation, at most one a provider.
    pub fn put_equivocation(&self, evidence: &Equivocation) -> Result<(), StorageError> {
        let _ = evidence;
        todo!()
    }

    /// All proofs of equivocation.
    pub fn equivocations(&self) -> Result<Vec<Equivocation>, StorageError> {
        todo!()
    }

    /// A small value of a subsystem, by name.
    pub fn setting(&self, name: &str) -> Result<Option<Vec<u8>>, StorageError> {
        let _ = name;
        todo!()
    }

    /// Keeps a small value.
    pub fn put_setting(&self, name: &str, value: &[u8]) -> Result<(), StorageError> {
        let _ = (name, value);
        todo!()
    }
}
