//! Quotes of SGX and TDX: real ones with Intel's statements, and those of a platform of one's own.

#[path = "intel/forged.rs"]
mod forged;
#[path = "intel/mutations.rs"]
mod mutations;

use aitbc_crypto::tee::{
    intel::{Collateral, IntelError, IntelTrust, QuoteEvidence, Statement, verify},
    x509::CertificateError,
};
use aitbc_protocol::{
    Digest,
    attestation::{Appraisal, EvidenceKind, Tier},
    bytes::BoundedBytes,
    wire,
};
use forged::Forged;
use std::{fs, sync::LazyLock};

/// 2025-07-01.
const NOW_MS: u64 = 1_751_328_000_000;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

fn read(name: &str) -> Vec<u8> {
    fs::read(format!("{}/../tests/fixtures/attestation/{name}", env!("CARGO_MANIFEST_DIR"))).expect("a fixture")
}

fn recorded(quote: &str, collateral: &str) -> QuoteEvidence {
    QuoteEvidence {
        quote: BoundedBytes::new(read(quote)).expect("small"),
        collateral: Some(Collateral::from_json(&read(collateral)).expect("collateral")),
    }
}

static SGX: LazyLock<QuoteEvidence> = LazyLock::new(|| recorded("sgx/quote.bin", "sgx/collateral.json"));
static TDX: LazyLock<QuoteEvidence> = LazyLock::new(|| recorded("tdx/quote.bin", "tdx/collateral.json"));

/// The user data of a quote: the last 64 bytes of an enclave's or a domain's report.
fn user_data(evidence: &QuoteEvidence) -> [u8; 64] {
    let end = match evidence.quote[0] {
        3 => 432,
        4 => 632,
        _ => 48 + 6 + 584,
    };
    evidence.quote[end - 64..end].try_into().expect("64 bytes")
}

fn check(evidence: &QuoteEvidence) -> Result<Appraisal, IntelError> {
    check_at(evidence, NOW_MS)
}

fn check_at(evidence: &QuoteEvidence, now_ms: u64) -> Result<Appraisal, IntelError> {
    verify(evidence, &user_data(evidence), &IntelTrust::default(), now_ms)
}

fn check_forged(forged: Forged) -> Result<Appraisal, IntelError> {
    let evidence = forged.evidence();
    verify(&evidence, &user_data(&evidence), &Forged::trust(), NOW_MS)
}

fn flipped<const MAX: usize>(blob: &BoundedBytes<MAX>, at: usize) -> BoundedBytes<MAX> {
    let mut bytes = blob.to_vec();
    bytes[at] ^= 1;
    BoundedBytes::new(bytes).expect("as long as before")
}

#[test]
fn a_real_enclave_is_taken_for_what_it_is() {
    let appraisal = check(&SGX).expect("genuine");
    assert_eq!(appraisal.kind, EvidenceKind::Sgx);
    assert_eq!(appraisal.measurement.as_bytes(), &SGX.quote[48 + 64..48 + 96]);
    assert_eq!(appraisal.vector.claims(), [2, 32, 0, 0, 2, 2, 0, 0]);
    assert_eq!(appraisal.tier(), Tier::Warning);
    assert_eq!(appraisal.vulnerable, Some(true));
    assert!(appraisal.notes.iter().any(|note| note.contains("INTEL-SA-00615")), "{:?}", appraisal.notes);
    assert!(appraisal.hardware.is_some());
    // The date of its level, 2024-03-13; the QE identity ends first, on 2025-07-19 at 10:01:18.
    assert_eq!(appraisal.firmware_ms, Some(1_710_288_000_000));
    assert_eq!(appraisal.expires_ms, Some(1_752_919_278_000));
}

#[test]
fn a_real_domain_is_taken_for_what_it_is() {
    let appraisal = check(&TDX).expect("genuine");
    assert_eq!(appraisal.kind, EvidenceKind::Tdx);
    assert_eq!(appraisal.measurement.as_bytes(), &TDX.quote[48 + 136..48 + 184]);
    assert_eq!(appraisal.vector.claims(), [2, 2, 0, 0, 2, 2, 0, 0]);
    assert_eq!(appraisal.tier(), Tier::Affirming);
    assert_eq!(appraisal.vulnerable, Some(false));
    assert_eq!(appraisal.notes.iter().filter(|note| note.starts_with("Run-time register")).count(), 4);
    assert_ne!(appraisal.hardware, check(&SGX).expect("genuine").hardware);
}

#[test]
fn newer_quotes_are_read_as_well() {
    // 2026-03-01 and 2026-10-15.
    let outdated = recorded("tdx/outdated_quote.bin", "tdx/outdated_collateral.json");
    assert_eq!(check_at(&outdated, 1_772_323_200_000), Err(IntelError::BelowAllLevels));
    let extended = recorded("tdx/td15ex_quote.bin", "tdx/td15ex_collateral.json");
    let appraisal = check_at(&extended, 1_792_022_400_000).expect("genuine");
    assert_eq!(appraisal.kind, EvidenceKind::Tdx);
}

#[test]
fn collateral_counts_within_its_dates_alone() {
    for evidence in [&*SGX, &*TDX] {
        for (now_ms, statement) in [
            (NOW_MS + 30 * DAY_MS, IntelError::Expired(Statement::TcbInfo)),
            (NOW_MS - 30 * DAY_MS, IntelError::NotYetValid(Statement::TcbInfo)),
        ] {
            assert_eq!(check_at(evidence, now_ms), Err(statement));
        }
        assert!(matches!(
            check_at(evidence, NOW_MS - 20 * 365 * DAY_MS),
            Err(IntelError::Certificate(CertificateError::NotYetValid(_)))
        ));
        assert!(matches!(
            check_at(evidence, NOW_MS + 20 * 365 * DAY_MS),
            Err(IntelError::Certificate(CertificateError::Expired(_)))
        ));
    }
    // Each statement has dates of its own.
    let mut forged = Forged::new("sgx");
    forged.qe_identity["nextUpdate"] = "2025-06-30T00:00:00Z".into();
    assert_eq!(check_forged(forged), Err(IntelError::Expired(Statement::QeIdentity)));
    let mut forged = Forged::new("sgx");
    forged.tcb_info["issueDate"] = "yesterday".into();
    assert_eq!(check_forged(forged), Err(IntelError::Collateral("tcb_info")));
}

#[test]
fn another_nonce_or_peer_is_told() {
    let mut other = user_data(&SGX);
    other[0] ^= 1;
    assert_eq!(verify(&SGX, &other, &IntelTrust::default(), NOW_MS), Err(IntelError::UserData));
}

#[test]
fn a_change_in_any_part_of_a_quote_is_told_by_name() {
    use IntelError::{AttestationKey, Malformed, NoCertificates, QuotingEnclaveSignature, Signature};
    let cases: [(&QuoteEvidence, &str, usize, IntelError); 24] = [
        (&SGX, "version", 0, Malformed),
        (&SGX, "technology", 4, Malformed),
        (&SGX, "header's versions", 8, Signature),
        (&SGX, "vendor", 12, Signature),
        (&SGX, "header's user data", 28, Signature),
        (&SGX, "processor's versions", 48, Signature),
        (&SGX, "attributes", 96, Signature),
        (&SGX, "enclave", 112, Signature),
        (&SGX, "signer", 176, Signature),
        (&SGX, "user data", 368, Signature),
        (&SGX, "signature", 436, Signature),
        (&SGX, "attestation key", 500, AttestationKey),
        (&SGX, "quoting enclave", 564, QuotingEnclaveSignature),
        (&SGX, "quoting enclave's signature", 948, QuotingEnclaveSignature),
        (&SGX, "authentication data", 1014, AttestationKey),
        (&SGX, "type of certificates", 1046, NoCertificates),
        (&TDX, "module's versions", 48, Signature),
        (&TDX, "attributes", 168, Signature),
        (&TDX, "domain", 184, Signature),
        (&TDX, "run-time register", 376, Signature),
        (&TDX, "signature", 636, Signature),
        (&TDX, "attestation key", 700, AttestationKey),
        (&TDX, "quoting enclave", 770, QuotingEnclaveSignature),
        (&TDX, "what follows", 5005, Malformed),
    ];
    for (evidence, part, at, error) in cases {
        let tampered = QuoteEvidence { quote: flipped(&evidence.quote, at), ..evidence.clone() };
        assert_eq!(verify(&tampered, &user_data(evidence), &IntelTrust::default(), NOW_MS), Err(error), "{part}");
    }
    let cut = QuoteEvidence { quote: BoundedBytes::new(SGX.quote[..4599].to_vec()).unwrap(), ..SGX.clone() };
    assert_eq!(check(&cut), Err(Malformed));
}

#[test]
fn a_change_in_the_platforms_chain_is_told() {
    let text = String::from_utf8_lossy(&SGX.quote[1052..]).into_owned();
    let places = text.match_indices("-----BEGIN CERTIFICATE-----\n").map(|(at, begin)| 1052 + at + begin.len());
    for (index, begin) in places.enumerate() {
        // Deep inside each certificate, in what its issuer signed: another digit of base64.
        let mut quote = SGX.quote.to_vec();
        let at = begin + 8 * 65 + 2;
        quote[at] = if quote[at] == b'A' { b'B' } else { b'A' };
        let tampered = QuoteEvidence { quote: BoundedBytes::new(quote).unwrap(), ..SGX.clone() };
        let error = check(&tampered).unwrap_err();
        let right = match index {
            2 => matches!(
                error,
                IntelError::Certificate(CertificateError::UnknownRoot(_) | CertificateError::Malformed)
            ),
            _ => matches!(
                error,
                IntelError::Certificate(CertificateError::Signature(_) | CertificateError::Malformed)
            ),
        };
        assert!(right, "{index}: {error:?}");
    }
}

#[test]
fn a_change_in_any_part_of_the_collateral_is_told_by_name() {
    let intel = SGX.collateral.clone().expect("there");
    let last = |blob: &[u8]| blob.len() - 1;
    let with = |collateral: Collateral| check(&QuoteEvidence { collateral: Some(collateral), ..SGX.clone() });
    let statement = |statement| Err(IntelError::StatementSignature(statement));
    // A digit of a version: still JSON.
    let digit = |text: &[u8]| text.windows(7).position(|part| part == b"svn\":2}").expect("a version") + 5;
    assert_eq!(
        with(Collateral { tcb_info: flipped(&intel.tcb_info, digit(&intel.tcb_info)), ..intel.clone() }),
        statement(Statement::TcbInfo)
    );
    assert_eq!(
        with(Collateral { tcb_info: flipped(&intel.tcb_info, 0), ..intel.clone() }),
        Err(IntelError::Collateral("tcb_info"))
    );
    assert_eq!(
        with(Collateral { tcb_info_signature: flipped(&intel.tcb_info_signature, 40), ..intel.clone() }),
        statement(Statement::TcbInfo)
    );
    let digit = intel.qe_identity.windows(8).position(|part| part == b"isvsvn\":").expect("a version") + 8;
    assert_eq!(
        with(Collateral { qe_identity: flipped(&intel.qe_identity, digit), ..intel.clone() }),
        statement(Statement::QeIdentity)
    );
    assert_eq!(
        with(Collateral { qe_identity_signature: flipped(&intel.qe_identity_signature, 0), ..intel.clone() }),
        statement(Statement::QeIdentity)
    );
    for at in [150, last(&intel.root_ca_crl)] {
        assert!(
            matches!(
                with(Collateral { root_ca_crl: flipped(&intel.root_ca_crl, at), ..intel.clone() }),
                Err(IntelError::StatementSignature(Statement::RootRevocations)
                    | IntelError::Collateral("root_ca_crl"))
            ),
            "{at}"
        );
    }
    assert_eq!(
        with(Collateral { pck_crl: flipped(&intel.pck_crl, last(&intel.pck_crl)), ..intel.clone() }),
        statement(Statement::PckRevocations)
    );
    // Base64 in the middle of the signer's certificate.
    for chain in [
        Collateral { tcb_info_issuer_chain: flipped(&intel.tcb_info_issuer_chain, 400), ..intel.clone() },
        Collateral { qe_identity_issuer_chain: flipped(&intel.qe_identity_issuer_chain, 400), ..intel.clone() },
    ] {
        assert!(matches!(with(chain), Err(IntelError::Certificate(_))));
    }
    // Lists in each other's place, and the statements of the other technology.
    assert_eq!(
        with(Collateral { root_ca_crl: intel.pck_crl.clone(), ..intel.clone() }),
        statement(Statement::RootRevocations)
    );
    assert_eq!(with(TDX.collateral.clone().expect("there")), Err(IntelError::OtherPlatform));
}

#[test]
fn a_verifiers_own_statements_come_first() {
    let bare = QuoteEvidence { collateral: None, ..SGX.clone() };
    assert_eq!(check(&bare), Err(IntelError::NoCollateral));
    let own = SGX.collateral.clone().expect("there");
    let trust =
        IntelTrust { collateral: vec![TDX.collateral.clone().expect("there"), own], ..IntelTrust::default() };
    assert!(verify(&bare, &user_data(&SGX), &trust, NOW_MS).is_ok());
    // Out of date they step back behind the peer's.
    let mut old = Forged::new("sgx");
    old.tcb_info["nextUpdate"] = "2025-06-30T00:00:00Z".into();
    let old = vec![old.evidence().collateral.expect("there")];
    let evidence = Forged::new("sgx").evidence();
    let trust = IntelTrust { collateral: old, ..Forged::trust() };
    assert!(verify(&evidence, &user_data(&evidence), &trust, NOW_MS).is_ok());
    let bare = QuoteEvidence { collateral: None, ..evidence };
    assert_eq!(verify(&bare, &user_data(&bare), &trust, NOW_MS), Err(IntelError::Expired(Statement::TcbInfo)));
    let strict = IntelTrust { least_evaluation: 18, ..IntelTrust::default() };
    assert_eq!(
        verify(&SGX, &user_data(&SGX), &strict, NOW_MS),
        Err(IntelError::OldEvaluation { got: 17, least: 18 })
    );
}

#[test]
fn a_complete_platform_of_ones_own_is_refused() {
    for kind in ["sgx", "tdx"] {
        let evidence = Forged::new(kind).evidence();
        assert!(
            verify(&evidence, &user_data(&evidence), &Forged::trust(), NOW_MS).is_ok(),
            "consistent in itself"
        );
        assert!(matches!(
            check(&evidence),
            Err(IntelError::Certificate(CertificateError::UnknownRoot(subject))) if subject.contains("Intel SGX Root CA")
        ));
        // Statements in Intel's name do not pass beside a genuine quote.
        let real = if kind == "sgx" { SGX.clone() } else { TDX.clone() };
        let mixed = QuoteEvidence { collateral: evidence.collateral, ..real };
        assert!(matches!(check(&mixed), Err(IntelError::Certificate(CertificateError::UnknownRoot(_)))));
    }
}

#[test]
fn what_intel_says_of_a_level_is_told_apart() {
    for kind in ["sgx", "tdx"] {
        let claims = |status: &str| {
            let mut forged = Forged::new(kind);
            for level in forged.tcb_info["tcbLevels"].as_array_mut().expect("levels") {
                level["tcbStatus"] = status.into();
                level["advisoryIDs"] = serde_json::json!([]);
            }
            check_forged(forged)
                .map(|appraisal| (appraisal.vector.hardware, appraisal.vector.configuration, appraisal.vulnerable))
        };
        assert_eq!(claims("UpToDate"), Ok((2, 2, Some(false))));
        assert_eq!(claims("SWHardeningNeeded"), Ok((2, 32, Some(false))));
        assert_eq!(claims("ConfigurationNeeded"), Ok((2, 32, Some(false))));
        assert_eq!(claims("ConfigurationAndSWHardeningNeeded"), Ok((2, 32, Some(false))));
        assert_eq!(claims("OutOfDate"), Ok((32, 2, Some(true))));
        assert_eq!(claims("OutOfDateConfigurationNeeded"), Ok((32, 32, Some(true))));
        assert_eq!(claims("Revoked"), Err(IntelError::RevokedTcb));
        assert_eq!(claims("Splendid"), Err(IntelError::Collateral("tcb_info")));
    }
    // Only the level that the platform reaches counts.
    let mut forged = Forged::new("sgx");
    forged.tcb_info["tcbLevels"].as_array_mut().expect("levels").last_mut().expect("one")["tcbStatus"] =
        "Revoked".into();
    assert!(check_forged(forged).is_ok());
    // The quoting enclave's and the module's levels count too.
    let mut forged = Forged::new("sgx");
    forged.qe_identity["tcbLevels"] = serde_json::json!([]);
    assert_eq!(check_forged(forged), Err(IntelError::BelowAllLevels));
    let mut forged = Forged::new("sgx");
    forged.qe_identity["tcbLevels"][0]["tcbStatus"] = "Revoked".into();
    assert_eq!(check_forged(forged), Err(IntelError::RevokedTcb));
    let mut forged = Forged::new("tdx");
    forged.signed[49] = 1;
    forged.signed[48] = 4;
    forged.tcb_info["tdxModuleIdentities"][1]["tcbLevels"][0]["tcbStatus"] = "Revoked".into();
    assert_eq!(check_forged(forged), Err(IntelError::RevokedTcb));
}

#[test]
fn certificates_that_were_taken_back_are_told() {
    for (root_crl, pck_crl, subject) in [
        ("root_revokes_ca.crl", "ca.crl", "PCK Platform CA"),
        ("root_revokes_signer.crl", "ca.crl", "TCB Signing"),
        ("root.crl", "ca_revokes_pck.crl", "PCK Certificate"),
    ] {
        let error = check_forged(Forged { root_crl, pck_crl, ..Forged::new("sgx") }).unwrap_err();
        assert!(
            matches!(&error, IntelError::Certificate(CertificateError::Revoked(name)) if name.contains(subject)),
            "{error:?}"
        );
    }
    let swapped = Forged { root_crl: "ca.crl", pck_crl: "ca.crl", ..Forged::new("sgx") };
    assert_eq!(check_forged(swapped), Err(IntelError::StatementSignature(Statement::RootRevocations)));
}

#[test]
fn what_a_host_can_look_into_or_move_is_refused() {
    let changed = |kind, at: usize, bit: u8| {
        let mut forged = Forged::new(kind);
        forged.signed[at] |= bit;
        check_forged(forged)
    };
    assert_eq!(changed("sgx", 96, 2), Err(IntelError::Debug));
    assert_eq!(changed("tdx", 48 + 120, 1), Err(IntelError::Debug));
    assert_eq!(changed("tdx", 48 + 120, 0x10), Err(IntelError::Debug));
    assert_eq!(changed("tdx", 48 + 123, 1 << 5), Err(IntelError::Migratable));
    // A reserved bit, and another module's signer: Intel's rules, in dcap-qvl's words.
    assert!(matches!(changed("tdx", 48 + 121, 1), Err(IntelError::Refused(_))));
    assert!(matches!(changed("tdx", 48 + 64, 1), Err(IntelError::Refused(_))));
    let mut forged = Forged::new("sgx");
    forged.quoting_enclave[128] ^= 1;
    assert!(matches!(check_forged(forged), Err(IntelError::Refused(_))));
    let mut forged = Forged::new("sgx");
    forged.tcb_info["fmspc"] = "00606A000000".into();
    assert_eq!(check_forged(forged), Err(IntelError::OtherPlatform));
}

#[test]
fn the_hardware_is_the_same_under_other_firmware() {
    let (real, forged) = (check(&SGX).unwrap(), check_forged(Forged::new("sgx")).unwrap());
    // The same provisioning id in another certificate, of another key.
    assert_eq!(real.hardware, forged.hardware);
    assert_ne!(real.hardware, Some(Digest::of(&[0; 16])));
}

#[test]
fn evidence_travels_as_it_is() {
    for evidence in [&*SGX, &*TDX, &QuoteEvidence { collateral: None, ..SGX.clone() }] {
        let encoded = wire::encode_payload(evidence, 64 * 1024).expect("small");
        assert_eq!(&wire::decode_payload::<QuoteEvidence>(&encoded, 64 * 1024).expect("the same"), evidence);
    }
}
