//! Reports of SEV-SNP: a real one of a Milan chip, and what a chain of one's own signs.

use aitbc_crypto::tee::{
    sev_snp::{
        AMD_SB_3019, Floors, Product, REPORT_BYTES, Root, SnpError, SnpEvidence, SnpTrust, Versions, verify,
    },
    x509::{CertificateError, pem_chain},
};
use aitbc_protocol::{
    Digest,
    attestation::{Appraisal, Tier},
    bytes::BoundedBytes,
    wire,
};
use proptest::prelude::*;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair},
};
use std::{fs, sync::LazyLock};

/// 2025-07-01.
const NOW_MS: u64 = 1_751_328_000_000;
/// The firmware of the recorded report is of 2022.
const OLD: Versions = Versions { fmc: 0, bootloader: 3, tee: 0, snp: 8, microcode: 115 };

fn read(name: &str) -> Vec<u8> {
    fs::read(format!("{}/../tests/fixtures/attestation/sev_snp/{name}", env!("CARGO_MANIFEST_DIR")))
        .expect("a fixture")
}

static REAL: LazyLock<SnpEvidence> = LazyLock::new(|| {
    let chain = pem_chain(&read("cert_chain_milan")).expect("two certificates");
    evidence(
        &hex::decode(read("report_milan.hex").trim_ascii()).expect("digits"),
        &read("vcek_milan.der"),
        &chain[0],
        &chain[1],
    )
});

fn evidence(report: &[u8], vcek: &[u8], ask: &[u8], ark: &[u8]) -> SnpEvidence {
    SnpEvidence {
        report: BoundedBytes::new(report.to_vec()).expect("small"),
        vcek: BoundedBytes::new(vcek.to_vec()).expect("small"),
        ask: BoundedBytes::new(ask.to_vec()).expect("small"),
        ark: BoundedBytes::new(ark.to_vec()).expect("small"),
    }
}

/// A report by the forged chain: the real one's fields after `change`, signed.
fn forged(change: impl FnOnce(&mut [u8])) -> SnpEvidence {
    let mut report = REAL.report.as_slice().to_vec();
    change(&mut report);
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &read("forged/vcek.key"), &random)
        .expect("a key");
    let signature = key.sign(&random, &report[..0x2a0]).expect("a signature");
    let (r, s) = signature.as_ref().split_at(48);
    report[0x2a0..].fill(0);
    for (number, offset) in [(r, 0x2a0), (s, 0x2e8)] {
        for (index, byte) in number.iter().rev().enumerate() {
            report[offset + index] = *byte;
        }
    }
    evidence(&report, &read("forged/vcek.der"), &read("forged/ask.der"), &read("forged/ark.der"))
}

/// Trust in AMD and in the forged root, with the old firmware taken.
fn trust() -> SnpTrust {
    let mut trust = SnpTrust { floors: Floors { milan: OLD, ..AMD_SB_3019 }, ..SnpTrust::default() };
    trust.roots.push(Root { digest: Digest::of(&read("forged/ark.der")), product: Product::Milan });
    trust
}

fn user_data(evidence: &SnpEvidence) -> [u8; 64] {
    evidence.report.as_slice()[0x50..0x90].try_into().expect("64 bytes")
}

fn check(evidence: &SnpEvidence, trust: &SnpTrust) -> Result<Appraisal, SnpError> {
    verify(evidence, &user_data(&REAL), trust, NOW_MS)
}

fn changed(part: &BoundedBytes<{ 8 * 1024 }>, at: usize) -> BoundedBytes<{ 8 * 1024 }> {
    let mut bytes = part.as_slice().to_vec();
    bytes[at] ^= 1;
    BoundedBytes::new(bytes).expect("as long as before")
}

#[test]
fn a_real_report_is_taken_for_what_it_is() {
    let appraisal = check(&REAL, &trust()).expect("genuine");
    assert_eq!(appraisal.measurement.as_bytes(), &REAL.report.as_slice()[0x90..0xc0]);
    assert_eq!(appraisal.hardware, Some(Digest::of(&REAL.report.as_slice()[0x1a0..0x1e0])));
    assert_eq!(appraisal.vulnerable, Some(true));
    assert_eq!(appraisal.vector.claims(), [2, 2, 0, 0, 32, 2, 0, 0]);
    assert_eq!(appraisal.tier(), Tier::Warning);
    assert_eq!(appraisal.firmware_ms, None);
    // The VCEK ends first, on 2030-04-03 at 19:23:43.
    assert_eq!(appraisal.expires_ms, Some(1_901_474_623_000));
}

#[test]
fn by_default_its_firmware_is_out_of_date() {
    assert_eq!(check(&REAL, &SnpTrust::default()), Err(SnpError::OutOfDate { part: "snp", have: 8, needs: 0x18 }));
    let mut strict = trust();
    strict.floors.milan.microcode = 116;
    assert_eq!(check(&REAL, &strict), Err(SnpError::OutOfDate { part: "microcode", have: 115, needs: 116 }));
    // Firmware that the host may go back to, or under which the guest began, counts as well.
    for offset in [0x1e0, 0x1f0] {
        let older = forged(|report| report[offset] = 2);
        assert_eq!(check(&older, &trust()), Err(SnpError::OutOfDate { part: "boot loader", have: 2, needs: 3 }));
    }
}

#[test]
fn evidence_travels_as_it_is() {
    let encoded = wire::encode_payload(&*REAL, 16 * 1024).expect("small");
    assert_eq!(wire::decode_payload::<SnpEvidence>(&encoded, 16 * 1024).expect("the same"), *REAL);
}

#[test]
fn another_nonce_or_peer_is_told() {
    let mut other = user_data(&REAL);
    other[63] ^= 1;
    assert_eq!(verify(&REAL, &other, &trust(), NOW_MS), Err(SnpError::UserData));
}

#[test]
fn a_change_in_any_signed_field_breaks_the_signature() {
    let fields = [
        ("guest svn", 0x04),
        ("policy", 0x0a),
        ("family id", 0x10),
        ("image id", 0x20),
        ("vmpl", 0x30),
        ("current tcb", 0x38),
        ("platform info", 0x40),
        ("key info", 0x48),
        ("reserved", 0x4c),
        ("user data", 0x50),
        ("measurement", 0x90),
        ("host data", 0xc0),
        ("id key", 0xe0),
        ("author key", 0x110),
        ("report id", 0x140),
        ("migration agent", 0x160),
        ("reported tcb", 0x180),
        ("reserved", 0x188),
        ("chip", 0x1a0),
        ("committed tcb", 0x1e0),
        ("current version", 0x1e8),
        ("committed version", 0x1ec),
        ("launch tcb", 0x1f0),
        ("reserved", 0x1f8),
        ("the last", 0x29f),
        ("r", 0x2a0),
        ("r, high", 0x2d0),
        ("s", 0x2e8),
        ("s, high", 0x318),
    ];
    for (field, offset) in fields {
        let mut report = REAL.report.as_slice().to_vec();
        report[offset] ^= 1;
        let tampered = SnpEvidence { report: BoundedBytes::new(report).unwrap(), ..REAL.clone() };
        assert_eq!(check(&tampered, &trust()), Err(SnpError::Signature), "{field}");
    }
}

#[test]
fn what_says_how_to_verify_is_told_by_name() {
    let tampered = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut report = REAL.report.as_slice().to_vec();
        change(&mut report);
        check(&SnpEvidence { report: BoundedBytes::new(report).unwrap(), ..REAL.clone() }, &trust()).unwrap_err()
    };
    assert_eq!(tampered(&|report| report[0] = 6), SnpError::Version(6));
    assert_eq!(tampered(&|report| report[0x34] = 2), SnpError::Algorithm(2));
    assert_eq!(tampered(&|report| report[0x330] = 1), SnpError::Malformed);
    assert_eq!(tampered(&|report| *report.last_mut().unwrap() = 1), SnpError::Malformed);
    assert_eq!(tampered(&|report| report.truncate(REPORT_BYTES - 1)), SnpError::Malformed);
    assert_eq!(tampered(&|report| report[0x2a0..].fill(0)), SnpError::Unsigned);
}

#[test]
fn a_change_in_a_certificate_breaks_its_signature() {
    // Within the key, the versions, the chip's number, and the signature; nothing that changes names or lengths.
    for at in [250, 300, 556, 710, REAL.vcek.as_slice().len() - 1] {
        let tampered = SnpEvidence { vcek: changed(&REAL.vcek, at), ..REAL.clone() };
        assert!(
            matches!(
                check(&tampered, &trust()),
                Err(SnpError::Certificate(CertificateError::Signature(_) | CertificateError::Malformed))
            ),
            "{at}"
        );
    }
    let last = REAL.ask.as_slice().len() - 1;
    let tampered = SnpEvidence { ask: changed(&REAL.ask, last), ..REAL.clone() };
    assert!(matches!(check(&tampered, &trust()), Err(SnpError::Certificate(CertificateError::Signature(_)))));
    let last = REAL.ark.as_slice().len() - 1;
    let tampered = SnpEvidence { ark: changed(&REAL.ark, last), ..REAL.clone() };
    assert!(matches!(check(&tampered, &trust()), Err(SnpError::Certificate(CertificateError::UnknownRoot(_)))));
}

#[test]
fn a_complete_chain_of_ones_own_is_refused() {
    let own = forged(|_| ());
    assert!(check(&own, &trust()).is_ok(), "it is consistent in itself");
    let amd = SnpTrust { floors: trust().floors, ..SnpTrust::default() };
    assert!(matches!(
        check(&own, &amd),
        Err(SnpError::Certificate(CertificateError::UnknownRoot(subject))) if subject.contains("ARK-Milan")
    ));
    // Nor does AMD's root help a chain that it did not sign, nor a chip's certificate another key's report.
    let mixed = SnpEvidence { ark: REAL.ark.clone(), ..own.clone() };
    assert!(matches!(check(&mixed, &amd), Err(SnpError::Certificate(CertificateError::Signature(_)))));
    let mixed = SnpEvidence { report: own.report, ..REAL.clone() };
    assert_eq!(check(&mixed, &amd), Err(SnpError::Signature));
}

#[test]
fn certificates_outside_their_dates_are_told_apart() {
    // 2022-01-01 and 2031-01-01.
    let at = |now_ms| verify(&REAL, &user_data(&REAL), &trust(), now_ms);
    assert!(matches!(at(1_640_995_200_000), Err(SnpError::Certificate(CertificateError::NotYetValid(_)))));
    assert!(matches!(at(1_924_992_000_000), Err(SnpError::Certificate(CertificateError::Expired(_)))));
}

#[test]
fn a_certificate_of_other_hardware_or_firmware_is_refused() {
    assert_eq!(check(&forged(|report| report[0x1a0] ^= 1), &trust()), Err(SnpError::Chip));
    assert_eq!(check(&forged(|report| report[0x1a0..0x1e0].fill(0)), &trust()), Err(SnpError::MaskedChip));
    for (offset, part, certified) in
        [(0x180, "boot loader", 3), (0x181, "tee", 0), (0x186, "snp", 8), (0x187, "microcode", 115)]
    {
        let report = forged(|report| report[offset] += 1);
        let reported = certified + 1;
        assert_eq!(check(&report, &trust()), Err(SnpError::Firmware { part, certified, reported }));
    }
    // A version-3 report of a Turin processor under Milan's root.
    let turin = forged(|report| {
        report[0] = 3;
        report[0x188] = 0x1a;
        report[0x189] = 0x02;
    });
    assert_eq!(check(&turin, &trust()), Err(SnpError::Product(Product::Milan)));
    // A certificate that is none of a chip.
    let swapped = SnpEvidence { vcek: REAL.ask.clone(), ..REAL.clone() };
    assert!(matches!(check(&swapped, &trust()), Err(SnpError::Certificate(_))));
}

#[test]
fn a_certificate_that_says_something_else_is_refused() {
    let with = |vcek: &str| {
        let vcek = BoundedBytes::new(read(vcek)).expect("small");
        check(&SnpEvidence { vcek, ..forged(|_| ()) }, &trust()).unwrap_err()
    };
    assert!(matches!(with("forged/vcek_loaded.der"), SnpError::NotVcek(subject) if subject.contains("SEV-VLEK")));
    assert_eq!(with("forged/vcek_genoa.der"), SnpError::Product(Product::Milan));
    assert_eq!(with("forged/vcek_no_chip.der"), SnpError::Extension("the chip's number"));
    assert!(matches!(with("forged/vcek_critical.der"), SnpError::Extension(_)));
}

#[test]
fn guests_that_their_host_can_look_into_are_refused() {
    assert_eq!(check(&forged(|report| report[0x0a] |= 1 << 3), &trust()), Err(SnpError::Debug));
    assert_eq!(check(&forged(|report| report[0x0a] |= 1 << 2), &trust()), Err(SnpError::MigrationAgent));
    assert_eq!(
        check(&forged(|report| report[0x30] = 1), &trust()),
        Err(SnpError::PrivilegeLevel { got: 1, most: 0 })
    );
    assert!(check(&forged(|report| report[0x30] = 1), &SnpTrust { most_vmpl: 1, ..trust() }).is_ok());
    assert_eq!(
        check(&forged(|report| report[0x30..0x34].fill(0xff)), &SnpTrust { most_vmpl: 3, ..trust() }),
        Err(SnpError::PrivilegeLevel { got: u32::MAX, most: 3 })
    );
    assert_eq!(check(&forged(|report| report[0x48] |= 1 << 1), &trust()), Err(SnpError::Unsigned));
    for key in [1, 7] {
        assert_eq!(
            check(&forged(|report| report[0x48] |= key << 2), &trust()),
            Err(SnpError::SigningKey(key.into()))
        );
    }
}

#[test]
fn aliased_memory_lowers_the_tier_where_the_firmware_can_tell() {
    let milan_v3 = |alias_checked: bool| {
        forged(|report| {
            report[0] = 3;
            report[0x188] = 0x19;
            report[0x189] = 0x01;
            report[0x40] = u8::from(alias_checked) << 5;
        })
    };
    assert_eq!(check(&milan_v3(false), &trust()).unwrap().vector.configuration, 32);
    assert_eq!(check(&milan_v3(true), &trust()).unwrap().vector.configuration, 2);
}

#[test]
fn revocation_counts_where_a_list_is_given() {
    let own = forged(|_| ());
    let with = |list: &str| SnpTrust { revocations: vec![read(list)], ..trust() };
    let unlisted = check(&own, &trust()).unwrap().notes;
    let listed = check(&own, &with("forged/none_revoked.crl")).unwrap().notes;
    assert_eq!(unlisted.len(), listed.len() + 1);
    assert!(matches!(
        check(&own, &with("forged/ask_revoked.crl")),
        Err(SnpError::Certificate(CertificateError::Revoked(subject))) if subject.contains("SEV-Milan")
    ));
    // A list that another key signed in the name of the root says nothing, and does not pass for one that does.
    assert_eq!(check(&REAL, &with("forged/none_revoked.crl")), Err(SnpError::Certificate(CertificateError::Crl)));
    let late = verify(&own, &user_data(&REAL), &with("forged/none_revoked.crl"), 2_400_000_000_000);
    assert!(matches!(late, Err(SnpError::Certificate(_))));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn no_change_of_bytes_passes_or_panics(
        part in 0_usize..4,
        places in proptest::collection::vec((any::<proptest::sample::Index>(), 1_u8..), 1..4),
    ) {
        let mut evidence = REAL.clone();
        let change = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            for (place, mask) in &places {
                let at = place.index(bytes.len());
                bytes[at] ^= mask;
            }
            bytes
        };
        match part {
            0 => evidence.report = BoundedBytes::new(change(REAL.report.as_slice())).unwrap(),
            1 => evidence.vcek = BoundedBytes::new(change(REAL.vcek.as_slice())).unwrap(),
            2 => evidence.ask = BoundedBytes::new(change(REAL.ask.as_slice())).unwrap(),
            _ => evidence.ark = BoundedBytes::new(change(REAL.ark.as_slice())).unwrap(),
        }
        // Two changes at one place may undo each other.
        prop_assert!(evidence == *REAL || check(&evidence, &trust()).is_err());
    }

    #[test]
    fn no_signed_report_makes_it_panic(
        places in proptest::collection::vec((0_usize..0x2a0, any::<u8>()), 1..6),
    ) {
        // Signed by the trusted forged key, so that everything behind the signature runs.
        let evidence = forged(|report| places.iter().for_each(|(at, value)| report[*at] = *value));
        let _ = check(&evidence, &trust());
    }
}
