//! What this node and others found out: evidence of faults, shown memory, attestations.

use super::{
    AttestationRecord, EvidenceRecord, StorageError, Store,
    columns::{Column, Durability, Edit, Scan},
    format,
};
use aitbc_protocol::{
    NodeId, Signed, attestation::exchange::Issued, evidence::Fault, gpu::challenge::exchange::Shown,
    offer::Equivocation,
};

/// Pieces of evidence kept, one a node and fault; those learnt of first give way. Some megabytes.
pub(super) const MAX_EVIDENCE: usize = 512;
/// Length of the keys under which equivocations were kept before there was other evidence, in bytes.
const ONE_NODE: usize = 32;
/// Where the results of challenges are, among the settings of subsystems.
const SHOWN: &[u8] = b"challenge/shown";
/// Prefix of what was found about peers by attestation, among the settings of subsystems.
const ATTESTATIONS: &[u8] = b"attest/peer/";
/// Where this node keeps what verifiers have issued to it.
const ISSUED: &[u8] = b"attest/issued";
/// Most findings kept; the oldest give way.
pub(super) const MAX_ATTESTATIONS: usize = 1024;

/// A key of the evidence, with what it holds where that can be read.
type KeptEvidence = (Vec<u8>, Option<EvidenceRecord>);

impl Store {
    /// Keeps evidence, the newest of each node and fault. Where too much is kept, that of somebody who does not matter goes before
    /// others, and of those what was learnt of first.
    pub fn put_evidence(
        &self,
        record: &EvidenceRecord,
        matters: impl Fn(&NodeId) -> bool,
    ) -> Result<(), StorageError> {
        let accused = record.evidence.accused();
        let key = format::evidence_key(&accused, record.evidence.fault());
        let replaces = self.columns.get(Column::Evidence, &key)?.is_some();
        let mut kept = self.evidence_by_key()?;
        self.columns.ready()?;
        let mut edits = vec![Edit::Put(Column::Evidence, key, format::encode(record)?)];
        if record.evidence.fault() == Fault::Offers {
            edits.push(Edit::Delete(Column::Evidence, accused.0.to_vec()));
        }
        if kept.len() >= MAX_EVIDENCE && !replaces {
            // What cannot be read goes before all.
            kept.sort_by_key(|(_, record)| {
                record.as_ref().map(|record| (matters(&record.evidence.accused()), record.learned_ms))
            });
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
}

fn attestation_key(peer: &NodeId) -> Vec<u8> {
    [ATTESTATIONS, &peer.0].concat()
}
