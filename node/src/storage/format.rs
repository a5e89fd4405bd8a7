//! The byte format: keys, records with a version byte, and the format number of the whole database.
//!
//! Numbers in keys are big-endian, so that keys sort as numbers do. A record is one version byte, then CBOR, to which
//! fields can be added without a new version; a change that old records cannot be read under is a new [`FORMAT`] with
//! an entry in [`UPGRADES`].

use super::{
    JobRecord, JobSums, Side, StorageError,
    columns::{Column, Columns, Durability, Edit, Scan},
};
use aitbc_protocol::{Digest, JobId, MicroCredits, NodeId, Nonce, UnixMillis, evidence::Fault, wire};
use serde::{Serialize, de::DeserializeOwned};

/// The format this aitbc writes.
pub(super) const FORMAT: u32 = 2;
/// First byte of every record.
const RECORD_VERSION: u8 = 1;
/// Largest record in bytes: twice the two offers of an equivocation.
const MAX_RECORD_BYTES: usize = 128 * 1024;
/// Where the format number is.
const FORMAT_KEY: &[u8] = b"format";

/// One step from a format to the next.
type Upgrade = fn(&Columns) -> Result<(), StorageError>;

/// What brings a database of format `n + 1` to format `n + 2`, for `n` from 0.
const UPGRADES: [Upgrade; FORMAT as usize - 1] = [index_jobs_by_peer];

/// Marks a new database, upgrades an older one, refuses a newer one.
pub(super) fn upgrade(columns: &Columns) -> Result<(), StorageError> {
    let mark = |format: u32| {
        let edit = Edit::Put(Column::Meta, FORMAT_KEY.to_vec(), format.to_be_bytes().to_vec());
        columns.write(vec![edit], Durability::Synced)
    };
    let Some(found) = columns.get(Column::Meta, FORMAT_KEY)? else {
        return mark(FORMAT);
    };
    let found = u32::from_be_bytes(exact(&found)?);
    if found > FORMAT {
        return Err(StorageError::Format { found, known: FORMAT });
    }
    for (format, upgrade) in (2..).zip(UPGRADES).skip(found.saturating_sub(1) as usize) {
        upgrade(columns)?;
        mark(format)?;
        tracing::info!(format, "database upgraded");
    }
    Ok(())
}

/// Jobs indexed by one write of an upgrade.
const UPGRADE_PAGE: usize = 256;

/// Format 2 has an index of jobs by peer. An upgrade that was interrupted begins anew and writes the same again.
fn index_jobs_by_peer(columns: &Columns) -> Result<(), StorageError> {
    let mut next = Vec::new();
    loop {
        let (mut edits, from) = (Vec::new(), std::mem::take(&mut next));
        columns.scan(Column::Jobs, Scan::From(&from), |key, value| {
            if edits.len() == UPGRADE_PAGE {
                next = key.to_vec();
                return Ok(false);
            }
            edits.push(peer_edit(&decode(value)?, key));
            Ok(true)
        })?;
        if !edits.is_empty() {
            columns.write(edits, Durability::Synced)?;
        }
        if next.is_empty() {
            return Ok(());
        }
    }
}

/// A record's bytes.
pub(super) fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>, StorageError> {
    let payload = wire::encode_payload(record, MAX_RECORD_BYTES)
        .map_err(|error| StorageError::Corrupt(format!("a record cannot be written: {error}")))?;
    let mut bytes = Vec::with_capacity(1 + payload.len());
    bytes.push(RECORD_VERSION);
    bytes.extend_from_slice(&payload);
    Ok(bytes)
}

/// Reads what [`encode`] wrote.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StorageError> {
    match bytes {
        [RECORD_VERSION, payload @ ..] => wire::decode_payload(payload, MAX_RECORD_BYTES)
            .map_err(|error| StorageError::Corrupt(format!("a record cannot be read: {error}"))),
        [version, ..] => Err(StorageError::Corrupt(format!("a record of version {version}"))),
        [] => Err(StorageError::Corrupt("an empty record".to_owned())),
    }
}

fn side_byte(side: Side) -> u8 {
    match side {
        Side::Client => b'c',
        Side::Provider => b'p',
    }
}

fn side(byte: u8) -> Result<Side, StorageError> {
    match byte {
        b'c' => Ok(Side::Client),
        b'p' => Ok(Side::Provider),
        other => Err(StorageError::Corrupt(format!("side {other} in a key"))),
    }
}

/// Key of a job: side, nonce.
pub(super) fn job_key(side: Side, quote: &Nonce) -> Vec<u8> {
    [&[side_byte(side)][..], quote.as_bytes()].concat()
}

/// Key in the index by time: milliseconds, then the key of the job.
pub(super) fn time_key(created_ms: UnixMillis, job: &[u8]) -> Vec<u8> {
    [&created_ms.to_be_bytes()[..], job].concat()
}

/// Key in the index by job id: id, then the key of the job.
pub(super) fn id_key(id: &JobId, job: &[u8]) -> Vec<u8> {
    [&id.as_bytes()[..], job].concat()
}

/// Key in the index by receipt: digest of the receipt, then the key of the job, because both sides of a job can be
/// one node.
pub(super) fn receipt_key(receipt: &Digest, job: &[u8]) -> Vec<u8> {
    [&receipt.as_bytes()[..], job].concat()
}

/// Prefix of what is kept by side, then peer.
pub(super) fn side_prefix(side: Side) -> [u8; 1] {
    [side_byte(side)]
}

/// Prefix of the jobs with a peer: side, peer.
pub(super) fn peer_prefix(side: Side, peer: &NodeId) -> Vec<u8> {
    channel_key(side, peer)
}

/// The entry of a job in the index by peer: side, peer, milliseconds, the key of the job; and its sums.
pub(super) fn peer_edit(record: &JobRecord, job: &[u8]) -> Edit {
    let key = [&peer_prefix(record.side, &record.peer)[..], &record.created_ms.to_be_bytes(), job].concat();
    let sums = JobSums::of(record);
    let value = [sums.paid.0.to_be_bytes(), sums.unpaid.0.to_be_bytes()].concat();
    Edit::Put(Column::JobsByPeer, key, value)
}

/// Side and peer of an entry in the index by peer.
pub(super) fn peer_of(index_key: &[u8]) -> Result<(Side, NodeId), StorageError> {
    channel_of(&index_key[..index_key.len().min(1 + 32)])
}

/// The sums of an entry in the index by peer.
pub(super) fn sums_of(value: &[u8]) -> Result<JobSums, StorageError> {
    let bytes: [u8; 16] = exact(value)?;
    let (paid, unpaid) = bytes.split_at(8);
    Ok(JobSums { paid: MicroCredits(number(paid)?), unpaid: MicroCredits(number(unpaid)?) })
}

/// The key of the job at the end of an index key.
pub(super) fn job_of(index_key: &[u8]) -> &[u8] {
    &index_key[index_key.len().saturating_sub(1 + Nonce::SIZE)..]
}

/// Key of a channel: side, peer.
pub(super) fn channel_key(side: Side, peer: &NodeId) -> Vec<u8> {
    [&[side_byte(side)][..], &peer.0].concat()
}

/// The first key of the index by time that is not before `since_ms`.
pub(super) fn since_key(since_ms: UnixMillis) -> Vec<u8> {
    since_ms.to_be_bytes().to_vec()
}

/// Side and peer of a channel.
pub(super) fn channel_of(key: &[u8]) -> Result<(Side, NodeId), StorageError> {
    let (&byte, peer) = key.split_first().ok_or_else(|| StorageError::Corrupt("an empty key".to_owned()))?;
    Ok((side(byte)?, NodeId(exact(peer)?)))
}

/// Key of evidence: the accused, what it did.
pub(super) fn evidence_key(accused: &NodeId, fault: Fault) -> Vec<u8> {
    let fault = match fault {
        Fault::Offers => b'o',
        Fault::Receipts => b'r',
        Fault::Cheques => b'c',
        Fault::Quote => b'q',
        Fault::Walk => b'w',
    };
    [&accused.0[..], &[fault]].concat()
}

/// A number's bytes.
pub(super) fn number(bytes: &[u8]) -> Result<u64, StorageError> {
    exact(bytes).map(u64::from_be_bytes)
}

fn exact<const N: usize>(bytes: &[u8]) -> Result<[u8; N], StorageError> {
    bytes.try_into().map_err(|_| StorageError::Corrupt(format!("{} bytes where {N} belong", bytes.len())))
}
