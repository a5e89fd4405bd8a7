//! Signed statements: bound to signer, kind, network and every byte.

use aitbc_crypto::{SecretKey, SignatureError, open, seal};
use aitbc_protocol::{
    MicroCredits, NetworkId, NodeId, Signed,
    bytes::{JobId, Nonce},
    offer::Heartbeat,
    receipt::Cheque,
    wire,
};
use proptest::prelude::*;

fn network(name: &str) -> NetworkId {
    NetworkId::new(name).expect("a valid name")
}

fn heartbeat() -> Heartbeat {
    Heartbeat { offer: 1_700_000_000_000, issued_ms: 1_700_000_000_001, running: 1, queued: 2 }
}

#[test]
fn what_is_sealed_opens() {
    let key = SecretKey::from_bytes(&[7; 32]);
    let signed = seal(&key, &network("main"), &heartbeat()).expect("small");
    assert_eq!(signed.signer(), key.node_id());
    assert_eq!(open(&signed, &network("main")), Ok(heartbeat()));
}

#[test]
fn another_network_and_another_kind_do_not_open_it() {
    let key = SecretKey::from_bytes(&[7; 32]);
    let signed = seal(&key, &network("main"), &heartbeat()).expect("small");
    assert_eq!(open(&signed, &network("local")), Err(SignatureError::Invalid));
    let as_cheque = Signed::<Cheque>::from_parts(signed.signer(), *signed.signature(), signed.payload().to_vec());
    assert_eq!(open(&as_cheque, &network("main")).map(|_| ()), Err(SignatureError::Invalid));
}

#[test]
fn a_signature_under_a_weak_key_is_refused() {
    // The neutral element as public key: a signature (R, s) = (neutral, 0) fits any message unless verified strictly.
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let mut signature = [0; 64];
    signature[0] = 1;
    let payload = wire::encode_payload(&heartbeat(), 128).expect("small");
    let forged = Signed::<Heartbeat>::from_parts(NodeId(neutral), signature, payload);
    assert_eq!(open(&forged, &network("main")), Err(SignatureError::Invalid));
}

#[test]
fn every_bit_of_a_signed_message_matters() {
    let key = SecretKey::from_bytes(&[7; 32]);
    let cheque = Cheque {
        provider: NodeId([9; 32]),
        sequence: 3,
        cumulative: MicroCredits(1000),
        job: JobId([1; 16]),
        quote: Nonce([2; 16]),
        job_total: MicroCredits(500),
        tokens: 64,
        held: MicroCredits(0),
    };
    let signed = seal(&key, &network("main"), &cheque).expect("small");
    let bytes = wire::encode(&signed, 4096).expect("encodes");
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let opened = wire::decode::<Signed<Cheque>>(&flipped, 4096).map(|signed| open(&signed, &network("main")));
        assert!(!matches!(opened, Ok(Ok(_))), "bit {bit} does not matter");
    }
    for end in 0..bytes.len() {
        let cut =
            wire::decode::<Signed<Cheque>>(&bytes[..end], 4096).map(|signed| open(&signed, &network("main")));
        assert!(!matches!(cut, Ok(Ok(_))), "cut at {end}");
    }
}

proptest! {
    #[test]
    fn the_readable_form_keeps_every_byte(secret: [u8; 32], running: u32) {
        let key = SecretKey::from_bytes(&secret);
        let signed = seal(&key, &network("main"), &Heartbeat { running, ..heartbeat() }).expect("small");
        let text = serde_json::to_string(&signed).expect("JSON");
        let back: Signed<Heartbeat> = serde_json::from_str(&text).expect("own output");
        prop_assert_eq!(&back, &signed);
        prop_assert_eq!(open(&back, &network("main")).map(|heartbeat| heartbeat.running), Ok(running));
    }

    #[test]
    fn node_ids_read_back(bytes: [u8; 32]) {
        let id = NodeId(bytes);
        prop_assert_eq!(id.to_string().parse::<NodeId>(), Ok(id));
        prop_assert!(id.to_string().starts_with("12D3KooW"));
    }
}
