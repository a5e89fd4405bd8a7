//! A real report of a Hopper GPU with its reference files: whole, late, for other versions, and changed everywhere.

use aitbc_crypto::tee::{
    nvidia::{
        MAX_REFERENCE_BYTES, MAX_REPORT_BYTES, NvidiaError, NvidiaEvidence, NvidiaTrust, ReferenceError,
        ReferenceFile, reference_names, verify,
    },
    x509::{CertificateError, pem_chain},
};
use aitbc_protocol::{
    attestation::{Appraisal, EvidenceKind, Tier},
    bytes::BoundedBytes,
    text::Line,
};
use proptest::prelude::*;
use std::{path::Path, sync::LazyLock};

/// 2025-09-01, when report and reference files are in force.
const NOW_MS: u64 = 1_756_684_800_000;
/// 2024-12-01, when the reference files of the other versions are.
const THEN_MS: u64 = 1_733_011_200_000;
/// 2026-11-27, when no reference file is.
const LATE_MS: u64 = 1_795_737_600_000;

const DRIVER: &str = "NV_GPU_DRIVER_GH100_550.90.07";
const VBIOS: &str = "NV_GPU_VBIOS_1010_0200_882_96009F0001";

/// Where the response begins.
const RESPONSE: usize = 37;
/// Where the measurements begin.
const BLOCKS: usize = RESPONSE + 8;
/// Bytes of one measurement with what stands before it.
const BLOCK: usize = 55;
/// Where the response's nonce begins.
const OWN_NONCE: usize = BLOCKS + 64 * BLOCK;
/// Where the fields of opaque data begin.
const FIELDS: usize = OWN_NONCE + 32 + 2;
/// Bytes of the signature.
const SIGNATURE: usize = 96;

fn fixture(name: &str) -> Vec<u8> {
    let directory = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/attestation/nvidia"));
    std::fs::read(directory.join(name)).expect("a fixture")
}

fn file(id: &str, name: &str) -> ReferenceFile {
    ReferenceFile {
        id: Line::new(id).expect("a name"),
        xml: BoundedBytes::new(fixture(name)).expect("a file of some size"),
    }
}

/// The report's bytes.
static REPORT: LazyLock<Vec<u8>> = LazyLock::new(|| {
    hex::decode(fixture("hopperAttestationReport.txt").trim_ascii()).expect("hexadecimal digits")
});
/// The GPU's certificates.
static CHAIN: LazyLock<Vec<Vec<u8>>> =
    LazyLock::new(|| pem_chain(&fixture("hopperCertChain.txt")).expect("certificates"));
/// A verifier that has the matching reference files.
static TRUST: LazyLock<NvidiaTrust> = LazyLock::new(|| {
    NvidiaTrust::new(vec![file(DRIVER, &format!("{DRIVER}.xml")), file(VBIOS, &format!("{VBIOS}.xml"))])
});

/// What comes of the genuine evidence.
static GENUINE: LazyLock<Appraisal> = LazyLock::new(|| check(&real()).expect("genuine evidence"));

fn evidence(report: &[u8], chain: &[Vec<u8>]) -> NvidiaEvidence {
    NvidiaEvidence {
        report: BoundedBytes::new(report.to_vec()).expect("a report of some size"),
        certificates: chain.iter().map(|der| BoundedBytes::new(der.clone()).expect("a certificate")).collect(),
        references: Vec::new(),
    }
}

fn real() -> NvidiaEvidence {
    evidence(&REPORT, &CHAIN)
}

/// The nonce that was asked with.
fn nonce() -> [u8; 32] {
    REPORT[4..36].try_into().expect("32 bytes")
}

fn check(evidence: &NvidiaEvidence) -> Result<Appraisal, NvidiaError> {
    verify(evidence, &nonce(), &TRUST, NOW_MS)
}

#[test]
fn a_real_report_is_as_nvidia_published_it() {
    let appraisal = check(&real()).unwrap();
    assert_eq!((appraisal.kind, appraisal.tier()), (EvidenceKind::Nvidia, Tier::Affirming));
    let vector = appraisal.vector;
    assert_eq!((vector.instance_identity, vector.hardware, vector.executables), (2, 2, 3));
    assert_eq!((vector.configuration, vector.runtime_opaque), (0, 0), "the report does not tell");
    assert_eq!(appraisal.measurement.as_bytes().len(), 48);
    assert!(appraisal.notes[0].contains("550.90.07") && appraisal.notes[0].contains("96.00.9F.00.01"));
    assert!(appraisal.notes[1].starts_with("33 measurements"), "{:?}", appraisal.notes);
    // The VBIOS's signer has its certificate until 2026-02-22, the driver's until June.
    assert_eq!(appraisal.expires_ms, Some(1_771_802_278_000));
    assert_eq!((appraisal.firmware_ms, appraisal.vulnerable), (None, None));
    assert_eq!(reference_names(&real()).unwrap(), [DRIVER, VBIOS]);
}

#[test]
fn the_root_may_be_left_out_and_the_hardware_is_the_same() {
    let whole = check(&real()).unwrap();
    let short = check(&evidence(&REPORT, &CHAIN[..CHAIN.len() - 1])).unwrap();
    assert_eq!(whole, short);
}

#[test]
fn the_nonce_is_that_of_the_request() {
    let asked = |nonce| verify(&real(), nonce, &TRUST, NOW_MS);
    let own: [u8; 32] = REPORT[OWN_NONCE..OWN_NONCE + 32].try_into().unwrap();
    assert_eq!(asked(&own), Err(NvidiaError::WrongNonce));
    assert_eq!(asked(&[0; 32]), Err(NvidiaError::WrongNonce));
    let mut other = nonce();
    other[31] ^= 1;
    assert_eq!(asked(&other), Err(NvidiaError::WrongNonce));
}

#[test]
fn reference_files_expire() {
    let late = verify(&real(), &nonce(), &TRUST, LATE_MS).unwrap_err();
    let NvidiaError::Reference { id, reason: ReferenceError::Chain(CertificateError::Expired(_)) } = late else {
        panic!("{late}");
    };
    assert_eq!(id, DRIVER);
}

#[test]
fn reference_files_of_other_versions_do_not_count() {
    let other_driver = file(DRIVER, "Driver_RIM_test_no_gpu.swidtag");
    let other_vbios = file(VBIOS, "1010_0200_882_96005E0001_test_no_gpu.swidtag");
    let with = |references| verify(&real(), &nonce(), &NvidiaTrust::new(references), THEN_MS).unwrap_err();
    let mismatch = |id: &str, expected: &str, found: &str| NvidiaError::Reference {
        id: id.to_owned(),
        reason: ReferenceError::VersionMismatch { expected: expected.to_owned(), found: found.to_owned() },
    };
    let error = with(vec![other_driver, other_vbios.clone()]);
    assert_eq!(error, mismatch(DRIVER, "550.90.07", "545.00"));
    let error = with(vec![TRUST.references[0].clone(), other_vbios]);
    assert_eq!(error, mismatch(VBIOS, "96.00.9F.00.01", "96.00.5E.00.01"));
    // A genuine file for the VBIOS is none for the driver.
    let swapped = ReferenceFile { id: Line::new(DRIVER).unwrap(), xml: TRUST.references[1].xml.clone() };
    assert_eq!(with(vec![swapped]), mismatch(DRIVER, "550.90.07", "96.00.9F.00.01"));
}

#[test]
fn reference_files_come_from_the_verifier_or_with_the_evidence() {
    let mut carried = real();
    let without = NvidiaTrust::new(Vec::new());
    let bare = |evidence: &NvidiaEvidence, trust: &NvidiaTrust| verify(evidence, &nonce(), trust, NOW_MS);
    assert_eq!(bare(&carried, &without), Err(NvidiaError::NoReference(DRIVER.to_owned())));
    carried.references = TRUST.references.clone();
    assert_eq!(bare(&carried, &without), check(&real()));
    carried.references.remove(1);
    assert_eq!(bare(&carried, &without), Err(NvidiaError::NoReference(VBIOS.to_owned())));
    // A verifier's own file that is broken does not stand in the way of a good one.
    let mut broken = TRUST.clone();
    broken.references[0].xml = BoundedBytes::new(b"<a/>".to_vec()).unwrap();
    assert_eq!(bare(&carried, &broken), check(&real()));
    assert!(matches!(bare(&real(), &broken), Err(NvidiaError::Reference { .. })));
}

/// The report with one byte changed.
fn flipped(offset: usize, bits: u8) -> NvidiaEvidence {
    let mut report = REPORT.clone();
    report[offset] ^= bits;
    evidence(&report, &CHAIN)
}

fn is_malformed(error: &NvidiaError) -> bool {
    matches!(error, NvidiaError::Malformed(_))
}

#[track_caller]
fn expect(offset: usize, bits: u8, is_expected: impl Fn(&NvidiaError) -> bool, what: &str) {
    let error = check(&flipped(offset, bits)).expect_err("a changed report");
    assert!(is_expected(&error), "{what}, byte {offset} with {bits:#x}: {error:?}");
}

#[test]
fn every_byte_of_the_request_and_of_the_headers_counts() {
    let is_signature = |error: &NvidiaError| *error == NvidiaError::Signature;
    for (offset, what) in [(0, "version"), (1, "code"), (3, "operation")] {
        expect(offset, 4, is_malformed, what);
    }
    expect(2, 1, is_malformed, "without a signature");
    expect(2, 2, is_signature, "attributes");
    for offset in 4..36 {
        expect(offset, 0x80, |error| *error == NvidiaError::WrongNonce, "nonce");
    }
    expect(36, 1, is_signature, "slot");
    for (offset, what) in [(0, "version"), (1, "code"), (4, "count"), (5, "length"), (6, "length"), (7, "length")]
    {
        expect(RESPONSE + offset, 1, is_malformed, what);
    }
    for offset in [2, 3] {
        expect(RESPONSE + offset, 1, is_signature, "parameters");
    }
}

#[test]
fn every_part_of_every_measurement_counts() {
    let is_signature = |error: &NvidiaError| *error == NvidiaError::Signature;
    for number in 0..64 {
        let start = BLOCKS + number * BLOCK;
        if number == 63 {
            expect(start, 1, is_signature, "the last index rises further");
        } else {
            expect(start, 1, is_malformed, "index");
        }
        for (offset, what) in [(1, "form"), (2, "size"), (3, "size"), (5, "digest's size"), (6, "digest's size")] {
            expect(start + offset, 1, is_malformed, what);
        }
        expect(start + 4, 1, is_signature, "what was measured");
        for offset in [7, 30, 54] {
            expect(start + offset, 1, is_signature, "digest");
        }
    }
}

#[test]
fn every_field_of_opaque_data_counts() {
    let is_signature = |error: &NvidiaError| *error == NvidiaError::Signature;
    for offset in [0, 15, 31] {
        expect(OWN_NONCE + offset, 1, is_signature, "the GPU's own nonce");
    }
    expect(FIELDS - 2, 1, is_malformed, "length");
    expect(FIELDS - 1, 1, is_malformed, "length");
    let (mut offset, end) = (FIELDS, REPORT.len() - SIGNATURE);
    let mut seen = 0;
    while offset < end {
        let kind = REPORT[offset];
        let length = usize::from(REPORT[offset + 2]) | usize::from(REPORT[offset + 3]) << 8;
        if [3, 6, 15, 17, 18, 20].contains(&kind) {
            expect(offset, 0x40, is_malformed, "the type of a field that is needed");
        } else {
            expect(offset, 0x40, is_signature, "the type of another field");
        }
        expect(offset + 3, 0x10, is_malformed, "size of a field");
        expect(offset + 4, 1, is_signature, "value of a field");
        seen += 1;
        offset += 4 + length;
    }
    assert_eq!(seen, 14);
}

#[test]
fn every_byte_of_the_signature_counts() {
    for offset in REPORT.len() - SIGNATURE..REPORT.len() {
        expect(offset, 1, |error| *error == NvidiaError::Signature, "signature");
    }
    // s and its negative both solve ECDSA's equation, but bytes swapped between r and s do not.
    let mut report = REPORT.clone();
    report[REPORT.len() - SIGNATURE..].rotate_left(48);
    assert_eq!(check(&evidence(&report, &CHAIN)), Err(NvidiaError::Signature));
}

#[test]
fn a_report_that_is_cut_or_longer_is_none() {
    for length in (0..REPORT.len()).step_by(7).chain([REPORT.len() - 1]) {
        let error = check(&evidence(&REPORT[..length], &CHAIN)).unwrap_err();
        // A cut moves the signature's place: what stands before is then too short, or not what its lengths say.
        assert!(is_malformed(&error), "{length}: {error:?}");
    }
    let longer = [&REPORT[..], &[0]].concat();
    assert!(is_malformed(&check(&evidence(&longer, &CHAIN)).unwrap_err()));
}

#[test]
fn every_certificate_of_the_chain_counts() {
    for number in 0..CHAIN.len() {
        let length = CHAIN[number].len();
        for offset in [0, 4, 15, length / 3, length / 2, length - 40, length - 1] {
            let mut chain = CHAIN.clone();
            chain[number][offset] ^= 1;
            let error = check(&evidence(&REPORT, &chain)).unwrap_err();
            assert!(matches!(error, NvidiaError::Chain(_)), "{number}, byte {offset}: {error:?}");
        }
    }
    let refused = |chain: &[Vec<u8>]| check(&evidence(&REPORT, chain)).unwrap_err();
    assert_eq!(refused(&[]), NvidiaError::Chain(CertificateError::Empty));
    assert!(matches!(refused(&CHAIN[..1]), NvidiaError::Chain(CertificateError::UnknownRoot(_))));
    // The boot ROM's certificate is genuine, and its key did not sign the report.
    assert_eq!(refused(&CHAIN[1..]), NvidiaError::Signature);
    let signers = pem_chain(&fixture("verifier_RIM_root.pem")).unwrap();
    assert!(matches!(refused(&signers), NvidiaError::Chain(CertificateError::UnknownRoot(_))));
    // Even a trusted root is none that signs reports.
    assert_eq!(refused(&CHAIN[4..]), NvidiaError::Device("it has no issuer with it"));
    let early = verify(&real(), &nonce(), &TRUST, 0).unwrap_err();
    assert!(matches!(early, NvidiaError::Chain(CertificateError::NotYetValid(_))));
    // Only roots for GPUs lead to GPUs.
    let mut mixed = TRUST.clone();
    mixed.device_roots = mixed.reference_roots.clone();
    let error = verify(&real(), &nonce(), &mixed, NOW_MS).unwrap_err();
    assert!(matches!(error, NvidiaError::Chain(CertificateError::UnknownRoot(_))));
}

#[test]
fn evidence_is_bounded_while_it_is_read() {
    let mut whole = real();
    whole.references = TRUST.references.clone();
    let coded = cbor4ii::serde::to_vec(Vec::new(), &whole).unwrap();
    assert_eq!(cbor4ii::serde::from_slice::<NvidiaEvidence>(&coded).unwrap(), whole);
    assert!(coded.len() < 60_000, "{} bytes: byte strings, not lists of numbers", coded.len());
    let json = serde_json::to_string(&whole).unwrap();
    assert_eq!(serde_json::from_str::<NvidiaEvidence>(&json).unwrap(), whole);

    let read = |evidence: &NvidiaEvidence| {
        cbor4ii::serde::from_slice::<NvidiaEvidence>(&cbor4ii::serde::to_vec(Vec::new(), evidence).unwrap())
    };
    let mut many = real();
    many.certificates = vec![many.certificates[0].clone(); 10];
    assert!(read(&many).is_err());
    let mut many = real();
    many.references = vec![TRUST.references[0].clone(); 3];
    assert!(read(&many).is_err());
    assert!(BoundedBytes::<MAX_REPORT_BYTES>::new(vec![0; MAX_REPORT_BYTES + 1]).is_err());
    assert!(BoundedBytes::<MAX_REFERENCE_BYTES>::new(vec![0; MAX_REFERENCE_BYTES + 1]).is_err());
}

/// What one reference file with one byte changed leads to.
fn with_changed_reference(number: usize, offset: usize, bits: u8) -> Result<Appraisal, NvidiaError> {
    let mut trust = TRUST.clone();
    let mut xml = trust.references[number].xml.as_slice().to_vec();
    let offset = offset % xml.len();
    xml[offset] ^= bits;
    trust.references[number].xml = BoundedBytes::new(xml).expect("a file of some size");
    verify(&real(), &nonce(), &trust, NOW_MS)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn no_changed_report_is_accepted(offset in 0..4117_usize, bits in 1..=255_u8) {
        prop_assert!(check(&flipped(offset, bits)).is_err());
    }

    #[test]
    fn no_changed_certificate_is_accepted(number in 0..5_usize, offset: prop::sample::Index, bits in 1..=255_u8) {
        let mut chain = CHAIN.clone();
        let offset = offset.index(chain[number].len());
        chain[number][offset] ^= bits;
        prop_assert!(matches!(check(&evidence(&REPORT, &chain)), Err(NvidiaError::Chain(_))));
    }

    /// White space between certificates is not signed: where a change is accepted, nothing else comes of it.
    #[test]
    fn a_changed_reference_changes_nothing(number in 0..2_usize, offset: usize, bits in 1..=255_u8) {
        if let Ok(appraisal) = with_changed_reference(number, offset, bits) {
            prop_assert_eq!(&appraisal, &*GENUINE);
        }
    }

    #[test]
    fn pieces_of_reports_never_panic(
        cut in 0..4117_usize, at in 0..4117_usize, inserted in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut report = REPORT[..cut.max(at)].to_vec();
        report.splice(cut.min(at)..cut.min(at), inserted);
        prop_assert!(check(&evidence(&report, &CHAIN)).is_err());
    }

    #[test]
    fn any_bytes_are_refused(report: Vec<u8>, certificate: Vec<u8>, xml: Vec<u8>) {
        prop_assert!(check(&evidence(&report, &CHAIN)).is_err());
        prop_assert!(check(&evidence(&REPORT, &[certificate])).is_err());
        let mut trust = NvidiaTrust::new(vec![TRUST.references[0].clone()]);
        trust.references[0].xml = BoundedBytes::new(xml).unwrap();
        prop_assert!(verify(&real(), &nonce(), &trust, NOW_MS).is_err());
    }
}
