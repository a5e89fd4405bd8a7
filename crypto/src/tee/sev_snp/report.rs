//! The report's bytes: what is signed, by what, and how it is laid out (AMD 56860, "SEV Secure Nested Paging Firmware ABI
//! Specification", table "ATTESTATION_REPORT structure").

use super::SnpError;
use ring::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use sev::{firmware::guest::AttestationReport, parser::ByteParser as _};

/// Length of a report in bytes.
pub const REPORT_BYTES: usize = 0x4a0;
/// How many of them are signed.
const SIGNED_BYTES: usize = 0x2a0;
/// Length of one of the two numbers of a signature, little-endian: P-384 fills 48 of them.
const NUMBER_BYTES: usize = 72;
const P384_BYTES: usize = 48;
/// ECDSA on P-384 with SHA-384, the only algorithm there is.
const ALGORITHM: u32 = 1;
/// Versions whose layout is known.
const VERSIONS: std::ops::RangeInclusive<u32> = 2..=5;

fn word(report: &[u8; REPORT_BYTES], offset: usize) -> u32 {
    report.get(offset..offset + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// Verifies the signature over the raw bytes, as they came, before any field is read.
pub(super) fn verify_signature(report: &[u8; REPORT_BYTES], key: &[u8]) -> Result<(), SnpError> {
    let version = word(report, 0);
    if !VERSIONS.contains(&version) {
        return Err(SnpError::Version(version));
    }
    let algorithm = word(report, 0x34);
    if algorithm != ALGORITHM {
        return Err(SnpError::Algorithm(algorithm));
    }
    let (signed, signature) = report.split_at(SIGNED_BYTES);
    // Nothing signs what follows the signature: it has one form only.
    let (numbers, reserved) = signature.split_at(2 * NUMBER_BYTES);
    if reserved.iter().any(|byte| *byte != 0) {
        return Err(SnpError::Malformed);
    }
    if numbers.iter().all(|byte| *byte == 0) {
        return Err(SnpError::Unsigned);
    }
    let mut fixed = [0; 2 * P384_BYTES];
    for (number, place) in numbers.chunks_exact(NUMBER_BYTES).zip(fixed.chunks_exact_mut(P384_BYTES)) {
        let (low, high) = number.split_at(P384_BYTES);
        if high.iter().any(|byte| *byte != 0) {
            return Err(SnpError::Signature);
        }
        for (to, from) in place.iter_mut().zip(low.iter().rev()) {
            *to = *from;
        }
    }
    UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, key).verify(signed, &fixed).map_err(|_| SnpError::Signature)
}

/// Reads the fields of a report whose signature was verified.
pub(super) fn parse(report: &[u8; REPORT_BYTES]) -> Result<AttestationReport, SnpError> {
    let chip = report.get(0x1a0..0x1e0).ok_or(SnpError::Malformed)?;
    if chip.iter().all(|byte| *byte == 0) {
        return Err(SnpError::MaskedChip);
    }
    AttestationReport::from_bytes(report).map_err(|_| SnpError::Malformed)
}
