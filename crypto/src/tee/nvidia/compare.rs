//! What a GPU measured against what its reference files allow.

use super::{NvidiaError, reference::Reference, report::Report};
use std::collections::BTreeMap;

/// The index, as reference files count, of the video decoder's firmware: NVIDIA's own verifier passes over it where the
/// report says that the decoder is off.
const DECODER_INDEX: u8 = 35;

/// What came of a comparison. Indexes are those of reference files, one less than SPDM's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Comparison {
    /// How many indexes have a reference.
    pub compared: usize,
    /// Those whose measurement is none that is allowed, or is missing.
    pub differing: Vec<u8>,
    /// Whether the decoder's differs while the decoder is off, which does not count.
    pub is_decoder_passed_over: bool,
    /// How many measurements other than zero have no reference.
    pub unknown: usize,
}

/// Compares, where an index is claimed by one of the two files alone.
pub(super) fn compare(
    report: &Report<'_>,
    driver: &Reference,
    vbios: &Reference,
) -> Result<Comparison, NvidiaError> {
    let mut allowed: BTreeMap<u8, &[Vec<u8>]> = BTreeMap::new();
    for (index, values) in driver.active.iter().chain(&vbios.active) {
        if allowed.insert(*index, values).is_some() {
            return Err(NvidiaError::ClaimedTwice(*index));
        }
    }
    let mut comparison = Comparison { compared: allowed.len(), ..Comparison::default() };
    for (index, values) in &allowed {
        let measured = report.blocks.iter().find(|block| block.index.checked_sub(1) == Some(*index));
        let is_allowed = measured.is_some_and(|block| values.iter().any(|value| value == block.value));
        if is_allowed {
            continue;
        }
        if *index == DECODER_INDEX && report.is_decoder_off {
            comparison.is_decoder_passed_over = true;
        } else {
            comparison.differing.push(*index);
        }
    }
    let has_no_reference = |index: u8| index.checked_sub(1).is_none_or(|index| !allowed.contains_key(&index));
    let unknown = report.blocks.iter().filter(|block| has_no_reference(block.index));
    comparison.unknown = unknown.filter(|block| block.value.iter().any(|byte| *byte != 0)).count();
    Ok(comparison)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{reference, report, report::Block},
        *,
    };
    use crate::tee::x509;

    const REPORT: &str = include_str!("../../../../tests/fixtures/attestation/nvidia/hopperAttestationReport.txt");
    const OTHER_DRIVER: &[u8] =
        include_bytes!("../../../../tests/fixtures/attestation/nvidia/Driver_RIM_test_no_gpu.swidtag");
    const OTHER_VBIOS: &[u8] = include_bytes!(
        "../../../../tests/fixtures/attestation/nvidia/1010_0200_882_96005E0001_test_no_gpu.swidtag"
    );
    const ROOT: &[u8] = include_bytes!("roots/reference.pem");
    /// 2024-12-01, when those two were in force.
    const THEN_MS: u64 = 1_733_011_200_000;

    fn read(xml: &[u8]) -> Reference {
        reference::read(xml, &x509::pem_chain(ROOT).unwrap(), THEN_MS).unwrap()
    }

    #[test]
    fn measurements_of_another_version_differ_at_twenty_indexes() {
        let bytes = hex::decode(REPORT.trim()).unwrap();
        let report = report::parse(&bytes).unwrap();
        let comparison = compare(&report, &read(OTHER_DRIVER), &read(OTHER_VBIOS)).unwrap();
        let differing = [1, 2, 3, 7, 9, 11, 21, 22, 25, 26, 27, 29, 30, 31, 32, 34, 36, 37, 39, 40];
        assert_eq!((comparison.compared, comparison.unknown), (33, 0));
        assert_eq!(comparison.differing, differing);
        assert!(!comparison.is_decoder_passed_over);
    }

    #[test]
    fn an_index_is_claimed_by_one_file_alone() {
        let bytes = hex::decode(REPORT.trim()).unwrap();
        let report = report::parse(&bytes).unwrap();
        let driver = read(OTHER_DRIVER);
        assert_eq!(compare(&report, &driver, &driver), Err(NvidiaError::ClaimedTwice(7)));
    }

    #[test]
    fn alternatives_absence_and_the_decoder() {
        let bytes = hex::decode(REPORT.trim()).unwrap();
        let mut report = report::parse(&bytes).unwrap();
        let file = |active: &[(u8, &[u8])]| Reference {
            version: String::new(),
            chip: String::new(),
            expires_ms: 0,
            active: active.iter().map(|(index, value)| (*index, vec![vec![0; 48], value.to_vec()])).collect(),
        };
        let none = file(&[]);
        let (second, other) = ([2; 48], [9; 48]);
        report.blocks = vec![Block { index: 6, value: &second }, Block { index: 36, value: &other }];
        let driver = file(&[(5, &second), (35, &second)]);
        report.is_decoder_off = false;
        assert_eq!(compare(&report, &driver, &none).unwrap().differing, [35]);
        report.is_decoder_off = true;
        let passed = compare(&report, &driver, &none).unwrap();
        assert!(passed.differing.is_empty() && passed.is_decoder_passed_over);
        // An index that the GPU does not report is not allowed, and one without a reference is counted.
        let missing = compare(&report, &none, &file(&[(7, &second)])).unwrap();
        assert_eq!((missing.differing, missing.unknown), (vec![7], 2));
    }
}
