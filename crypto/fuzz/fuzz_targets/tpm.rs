//! What a TPM's attester sends: no identity and no evidence makes the verifier panic.
//!
//! The evidence is judged by a verifier that waits for a recorded TPM. A first corpus: the CBOR of what lies in
//! `tests/fixtures/attestation/tpm`.

#![no_main]

use aitbc_crypto::tee::tpm::{Expected, Identity, Pending, Roots, TpmEvidence, challenge};
use aitbc_protocol::wire;
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

/// 2026-12-01, after the fixtures were recorded.
const NOW_MS: u64 = 1_796_083_200_000;

static ROOTS: LazyLock<Roots> = LazyLock::new(Roots::shipped);
static PENDING: LazyLock<Pending> = LazyLock::new(|| {
    let recorded = include_str!("../../../tests/fixtures/attestation/tpm/p256.json");
    let recorded: serde_json::Value = serde_json::from_str(recorded).expect("a fixture is JSON");
    let mut identity: Identity =
        serde_json::from_value(recorded["identity"].clone()).expect("an identity is in it");
    identity.ek_certificate = None;
    challenge(&identity, &ROOTS, NOW_MS).expect("the fixture is genuine").1
});

fuzz_target!(|bytes: &[u8]| {
    if let Ok(identity) = wire::decode_payload::<Identity>(bytes, 64 * 1024) {
        let _ = challenge(&identity, &ROOTS, NOW_MS);
    }
    if let Ok(evidence) = wire::decode_payload::<TpmEvidence>(bytes, 3 * 1024 * 1024) {
        let expected = Expected { binding: [7; 32], approved: &[] };
        let _ = PENDING.verify(&evidence, &expected);
    }
});
