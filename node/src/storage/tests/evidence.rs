//! Evidence of faults: one a node and fault, and an end to all of it.

use super::*;

fn offer(sequence: u64) -> Offer {
    Offer {
        sequence,
        issued_ms: 1,
        expires_ms: 2,
        cell: "u09t".parse::<Cell>().expect("a valid cell"),
        addresses: Vec::new(),
        devices: Vec::new(),
        models: Vec::new(),
        slots: 1,
        attested: Vec::new(),
        policies: Vec::new(),
        shown: Vec::new(),
        bandwidth: None,
        coordinate: None,
        agent: Line::lossy("aitbc"),
    }
}

fn contradiction(of: u16, sequence: u64) -> (Signed<Offer>, Signed<Offer>) {
    let mut seed = [0; 32];
    seed[..2].copy_from_slice(&of.to_le_bytes());
    let signed = |agent: &str| {
        let offer = Offer { agent: Line::lossy(agent), ..offer(sequence) };
        seal(&SecretKey::from_bytes(&seed), &network(), &offer).expect("a small offer")
    };
    (signed("one"), signed("other"))
}

fn offers(of: u16, sequence: u64, learned_ms: u64) -> EvidenceRecord {
    let (first, second) = contradiction(of, sequence);
    EvidenceRecord { evidence: Evidence::Offers(first, second), learned_ms }
}

#[test]
fn one_proof_a_node_and_fault_is_kept_and_the_newest() {
    let (_directory, store) = open();
    let second = offers(2, 2, 20);
    store.put_evidence(&offers(2, 1, 10), |_| false).expect("room");
    store.put_evidence(&second, |_| false).expect("room");
    assert_eq!(store.evidence().expect("readable"), [second]);
}

#[test]
fn evidence_has_an_end_and_what_was_learnt_first_goes() {
    let (_directory, store) = open();
    let broken = Edit::Put(Column::Evidence, vec![0; 33], vec![9]);
    store.columns.write(vec![broken], Durability::Relaxed).expect("room");
    for n in 0..MAX_EVIDENCE as u16 + 3 {
        store.put_evidence(&offers(n, 1, u64::from(n)), |_| false).expect("room");
    }
    let kept = store.evidence().expect("readable");
    assert_eq!(kept.len(), MAX_EVIDENCE);
    assert!(kept.iter().all(|record| record.learned_ms >= 3));
    // Of whom this node deals with it stays, however many others accuse themselves.
    let partner = kept.iter().min_by_key(|record| record.learned_ms).expect("there is some").evidence.accused();
    for n in 1_000..1_010 {
        store.put_evidence(&offers(n, 1, u64::from(n)), |node| *node == partner).expect("room");
    }
    let kept = store.evidence().expect("readable");
    assert!(kept.len() == MAX_EVIDENCE && kept.iter().any(|record| record.evidence.accused() == partner));
}

#[test]
fn equivocations_of_older_nodes_are_evidence() {
    let (_directory, store) = open();
    let (first, second) = contradiction(7, 1);
    let older = Equivocation { first, second };
    let bytes = format::encode(&older).expect("fits");
    let edit = Edit::Put(Column::Evidence, older.first.signer().0.to_vec(), bytes);
    store.columns.write(vec![edit], Durability::Synced).expect("room");
    let read = store.evidence().expect("readable");
    assert_eq!(read, [EvidenceRecord { evidence: older.into(), learned_ms: 1 }]);
    let newer = offers(7, 2, 50);
    store.put_evidence(&newer, |_| false).expect("room");
    assert_eq!(store.evidence().expect("readable"), [newer], "in place of the older one");
}
