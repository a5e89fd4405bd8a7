//! Durable records in RocksDB, in three layers: raw columns, a byte format with a version, typed queries.
//!
//! The typed queries are here. Whatever a write reports as done survives a crash; what several records say about one
//! thing is written in one batch.

mod columns;
mod format;

use aitbc_protocol::{
    Digest, NodeId, Nonce, Signed, UnixMillis,
    attestation::{
        EvidenceKind, Measurement,
        exchange::{AttestationResult, Issued},
    },
    bytes::JobId,
    credit::{Allowance, Settlement},
    evidence::Evidence,
    gpu::challenge::exchange::Shown,
    job::{Finish, JobState, ModelName},
    money::MicroCredits,
    offer::{Equivocation, next_sequence},
    quote::Quote,
    receipt::{Channel, Cheque, Execution, Receipt},
    text::Line,
};
use columns::{Column, Columns, Durability, Edit, Scan, View};
use serde::{Deserialize, Serialize};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// Pieces of evidence kept, one a node and fault; those learnt of first give way. Some megabytes.
const MAX_EVIDENCE: usize = 512;
/// Length of the keys under which equivocations were kept before there was other evidence, in bytes.
const ONE_NODE: usize = 32;
/// Name of the sequence of offers.
const OFFER_SEQUENCE: &[u8] = b"offer";
/// Where the results of challenges are, among the settings of subsystems.
const SHOWN: &[u8] = b"challenge/shown";
/// Prefix of what was found about peers by attestation, among the settings of subsystems.
const ATTESTATIONS: &[u8] = b"attest/peer/";
/// Where this node keeps what verifiers have issued to it.
const ISSUED: &[u8] = b"attest/issued";
/// Most findings kept; the oldest give way.
const MAX_ATTESTATIONS: usize = 1024;
/// Where the totals are, apart from the settings of subsystems.
const TOTALS_KEY: &[u8] = b"totals";

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
    /// Whether the provider broke the protocol or its receipt did not hold: nothing more is promised (client side).
    #[serde(default)]
    pub refused: bool,
    /// What of the receipt's penalty the channel counts: all of it once the job is final.
    #[serde(default)]
    pub refunded: MicroCredits,
    /// How the job runs, for the receipt (provider side).
    #[serde(default)]
    pub execution: Option<Execution>,
    /// How many milliseconds of the strangers' allowance it took (provider side).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub strangers_ms: u64,
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

    /// What a provider has delivered under a receipt and was not paid.
    pub fn unpaid(&self) -> MicroCredits {
        let billed = self.receipt.as_ref().and_then(|receipt| receipt.read_unverified().ok());
        billed.and_then(|receipt| receipt.total.checked_sub(self.paid)).unwrap_or_default()
    }
}

/// What one job came to, as the index by peer keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobSums {
    /// Paid by cheque.
    pub paid: MicroCredits,
    /// Delivered under a receipt and not paid, while that may still change: with a job that ended without its last cheque
    /// it is lost.
    pub unpaid: MicroCredits,
}

impl JobSums {
    fn of(record: &JobRecord) -> Self {
        let unpaid = if record.state == JobState::Delivered { record.unpaid() } else { MicroCredits::ZERO };
        Self { paid: record.paid, unpaid }
    }
}

/// All jobs with one peer on one side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerSums {
    /// Attempts at jobs.
    pub jobs: u64,
    /// Those of them for which something was paid.
    pub paid_jobs: u64,
    /// Delivered and not paid yet.
    pub unpaid: MicroCredits,
}

impl PeerSums {
    fn add(&mut self, job: JobSums) {
        self.jobs += 1;
        self.paid_jobs += u64::from(job.paid > MicroCredits::ZERO);
        self.unpaid = MicroCredits(self.unpaid.0.saturating_add(job.unpaid.0));
    }
}

/// Where the next page of jobs begins.
#[derive(Clone, Debug)]
pub struct Cursor(Vec<u8>);

impl Cursor {
    /// Before the first job that began at `since_ms` or later.
    pub fn since(since_ms: UnixMillis) -> Self {
        Self(format::since_key(since_ms))
    }
}

/// The newest settlement between this node and a peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SettlementRecord {
    /// What the payee signed.
    pub settlement: Signed<Settlement>,
    /// What it says, read.
    pub settled: MicroCredits,
    /// Whether the payer has taken it, as far as this node knows.
    pub delivered: bool,
}

/// Sums over all time, kept with every change so that no history is read for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sums {
    /// Promised to this node by cheques it holds.
    pub earned: MicroCredits,
    /// Promised by this node.
    pub spent: MicroCredits,
    /// Given back by this node for service that its quotes promised and it did not keep.
    #[serde(default)]
    pub given_back: MicroCredits,
    /// Given back to this node.
    #[serde(default)]
    pub got_back: MicroCredits,
    /// Jobs completed as provider.
    pub jobs_provided: u64,
    /// Jobs completed as client.
    pub jobs_bought: u64,
    /// What is left for clients that have settled nothing.
    #[serde(default, skip_serializing_if = "is_default")]
    pub strangers: Allowance,
}

// serde's `skip_serializing_if` passes a reference to the field.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_default(allowance: &Allowance) -> bool {
    *allowance == Allowance::default()
}

/// What this node found about a peer by attestation, newest only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttestationRecord {
    /// Whom it is about.
    pub peer: NodeId,
    /// When it was found.
    pub at_ms: UnixMillis,
    /// What this node signed; `None` where the evidence failed.
    pub result: Option<Signed<AttestationResult>>,
    /// The result at length, as a JWT.
    pub ear: Option<String>,
    /// Why the evidence failed, if it did.
    pub failure: Option<String>,
    /// Whether that speaks against the peer: not where only its vendor is unknown here.
    #[serde(default)]
    pub against: bool,
    /// Before when what this node had signed about the peer does not count any more, where it had signed something.
    #[serde(default)]
    pub revoked_ms: Option<UnixMillis>,
    /// What was measured when it was verified first, by kind: evidence that shows another measurement fails.
    pub measured: Vec<(EvidenceKind, Measurement)>,
}

/// Evidence that this node has verified, and when it learnt of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvidenceRecord {
    /// The accused's own words.
    pub evidence: Evidence,
    /// From when on it counts.
    pub learned_ms: UnixMillis,
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

/// A key of the evidence, with what it holds where that can be read.
type KeptEvidence = (Vec<u8>, Option<EvidenceRecord>);

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

    /// Keeps evidence: the first of each node and fault. Where too much is kept, what was learnt of first goes.
    pub fn put_evidence(&self, record: &EvidenceRecord) -> Result<(), StorageError> {
        let key = format::evidence_key(&record.evidence.accused(), record.evidence.fault());
        if self.columns.get(Column::Evidence, &key)?.is_some() {
            return Ok(());
        }
        let mut kept = self.evidence_by_key()?;
        self.columns.ready()?;
        let mut edits = vec![Edit::Put(Column::Evidence, key, format::encode(record)?)];
        if kept.len() >= MAX_EVIDENCE {
            // What cannot be read goes before all.
            kept.sort_by_key(|(_, record)| record.as_ref().map(|record| record.learned_ms));
            edits.extend(kept.into_iter().take(1).map(|(key, _)| Edit::Delete(Column::Evidence, key)));
        }
        self.columns.write(edits, Durability::Synced)
    }

    /// All evidence, that of equivocations from before there was any other included.
    pub fn evidence(&self) -> Result<Vec<EvidenceRecord>, StorageError> {
        Ok(self.evidence_by_key()?.into_iter().filter_map(|(_, record)| record).collect())
    }

    /// What is kept, `None` for what cannot be read: one broken piece is in no other's way.
    fn evidence_by_key(&self) -> Result<Vec<KeptEvidence>, StorageError> {
        let read = |key: &[u8], value: &[u8]| {
            if key.len() != ONE_NODE {
                return format::decode(value);
            }
            let equivocation: Equivocation = format::decode(value)?;
            let issued = equivocation.second.read_unverified();
            let learned_ms = issued.map(|offer| offer.issued_ms).unwrap_or_default();
            Ok(EvidenceRecord { evidence: equivocation.into(), learned_ms })
        };
        let mut all = Vec::new();
        self.columns.scan(Column::Evidence, Scan::Prefix(&[]), |key, value| {
            let record = read(key, value).inspect_err(|error| tracing::warn!(%error, "evidence cannot be read"));
            all.push((key.to_vec(), record.ok()));
            Ok(true)
        })?;
        Ok(all)
    }

    /// What verifiers have signed about this node's memory, as it was put last.
    pub fn shown(&self) -> Result<Vec<Signed<Shown>>, StorageError> {
        let kept = self.columns.get(Column::Settings, SHOWN)?;
        kept.map_or_else(|| Ok(Vec::new()), |bytes| format::decode(&bytes))
    }

    /// Keeps what verifiers have signed about this node's memory, in place of what was kept.
    pub fn put_shown(&self, shown: &Vec<Signed<Shown>>) -> Result<(), StorageError> {
        self.columns.ready()?;
        let edit = Edit::Put(Column::Settings, SHOWN.to_vec(), format::encode(shown)?);
        self.columns.write(vec![edit], Durability::Synced)
    }

    /// What this node found about peers by attestation.
    pub fn attestations(&self) -> Result<Vec<AttestationRecord>, StorageError> {
        let mut all = Vec::new();
        self.columns.scan(Column::Settings, Scan::Prefix(ATTESTATIONS), |_, value| {
            all.push(format::decode(value)?);
            Ok(true)
        })?;
        Ok(all)
    }

    /// What this node found about `peer` by attestation, newest only.
    pub fn attestation(&self, peer: &NodeId) -> Result<Option<AttestationRecord>, StorageError> {
        let kept = self.columns.get(Column::Settings, &attestation_key(peer))?;
        kept.map(|bytes| format::decode(&bytes)).transpose()
    }

    /// Keeps what was found about a peer, in place of what was found before. Where too much is kept, the oldest finding
    /// goes.
    pub fn put_attestation(&self, record: &AttestationRecord) -> Result<(), StorageError> {
        let kept = self.attestations()?;
        self.columns.ready()?;
        let mut edits = vec![Edit::Put(Column::Settings, attestation_key(&record.peer), format::encode(record)?)];
        let others = kept.iter().filter(|other| other.peer != record.peer);
        if others.clone().count() >= MAX_ATTESTATIONS
            && let Some(oldest) = others.min_by_key(|other| other.at_ms)
        {
            edits.push(Edit::Delete(Column::Settings, attestation_key(&oldest.peer)));
        }
        self.columns.write(edits, Durability::Synced)
    }

    /// What verifiers have issued to this node, newest first.
    pub fn issued(&self) -> Result<Vec<Issued>, StorageError> {
        let kept = self.columns.get(Column::Settings, ISSUED)?;
        kept.map_or_else(|| Ok(Vec::new()), |bytes| format::decode(&bytes))
    }

    /// Keeps what verifiers have issued to this node, in place of what was kept.
    pub fn put_issued(&self, issued: &Vec<Issued>) -> Result<(), StorageError> {
        self.columns.ready()?;
        let edit = Edit::Put(Column::Settings, ISSUED.to_vec(), format::encode(issued)?);
        self.columns.write(vec![edit], Durability::Synced)
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

fn attestation_key(peer: &NodeId) -> Vec<u8> {
    [ATTESTATIONS, &peer.0].concat()
}

#[cfg(test)]
pub(crate) mod tests;
