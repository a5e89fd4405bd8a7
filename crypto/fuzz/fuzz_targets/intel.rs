//! Evidence of SGX and TDX as it comes over the wire: no bytes make the verifier panic.

#![no_main]

use aitbc_crypto::tee::intel::{IntelTrust, QuoteEvidence, verify};
use aitbc_protocol::wire;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(evidence) = wire::decode_payload::<QuoteEvidence>(bytes, 1024 * 1024) {
        // 2025-07-01.
        let _ = verify(&evidence, &[0; 64], &IntelTrust::default(), 1_751_328_000_000);
    }
});
