//! The two logs of a measured boot: no bytes make a replay panic. A first corpus:
//! `tests/fixtures/attestation/tpm/event_logs` and `ima-ng.bin` beside it.

#![no_main]

use aitbc_crypto::tee::tpm::{EventLog, covered_prefix};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(log) = EventLog::parse(bytes) {
        let _ = log.policy();
        for pcr in 0..8 {
            let _ = log.replay(pcr);
        }
    }
    let _ = covered_prefix(bytes, &[1; 32]);
});
