//! What was found about peers by attestation.

use super::*;
use crate::storage::{AttestationRecord, findings::MAX_ATTESTATIONS};

fn record(number: u64, at_ms: UnixMillis) -> AttestationRecord {
    let mut peer = [0; 32];
    peer[..8].copy_from_slice(&number.to_be_bytes());
    AttestationRecord {
        peer: NodeId(peer),
        at_ms,
        result: None,
        ear: None,
        failure: Some("forged".to_owned()),
        against: true,
        revoked_ms: None,
        measured: Vec::new(),
    }
}

#[test]
fn the_newest_finding_about_a_peer_is_kept_over_restarts() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(directory.path()).expect("a new database");
    store.put_attestation(&record(1, 10)).expect("written");
    store.put_attestation(&record(1, 20)).expect("written");
    store.put_attestation(&record(2, 15)).expect("written");
    drop(store);
    let store = Store::open(directory.path()).expect("the same database");
    assert_eq!(store.attestations().expect("reads"), [record(1, 20), record(2, 15)]);
    assert_eq!(store.attestation(&record(3, 0).peer).expect("reads"), None);
}

#[test]
fn the_oldest_finding_gives_way() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(directory.path()).expect("a new database");
    for number in 0..=MAX_ATTESTATIONS as u64 {
        store.put_attestation(&record(number, 1_000 - number.min(1))).expect("written");
    }
    assert_eq!(store.attestations().expect("reads").len(), MAX_ATTESTATIONS);
    assert_eq!(store.attestation(&record(1, 0).peer).expect("reads"), None, "the oldest of the others");
    assert!(store.attestation(&record(0, 0).peer).expect("reads").is_some());
    store.put_attestation(&record(5, 2_000)).expect("written");
    assert_eq!(store.attestations().expect("reads").len(), MAX_ATTESTATIONS, "a newer one takes no other's place");
}
