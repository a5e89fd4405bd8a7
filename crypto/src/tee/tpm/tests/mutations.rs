//! Every byte of real evidence changed, and the right refusal for each.

use super::*;
use proptest::prelude::*;

/// A copy with one bit of one byte turned.
fn flipped<const MAX: usize>(bytes: &BoundedBytes<MAX>, position: usize) -> BoundedBytes<MAX> {
    let mut bytes = bytes.to_vec();
    bytes[position] ^= 1 << (position % 8);
    bytes.try_into().unwrap()
}

fn challenged(recorded: &Recorded) -> Result<Pending, TpmError> {
    challenge(&recorded.identity, &recorded.roots, recorded.now_ms).map(|(_, pending)| pending)
}

#[test]
fn a_changed_certificate_is_none() {
    let recorded = Recorded::load("p256");
    let certificate = recorded.identity.ek_certificate.clone().unwrap();
    let mut passed = Vec::new();
    for position in 0..certificate.len() {
        let mut changed = recorded.clone();
        changed.identity.ek_certificate = Some(flipped(&certificate, position));
        match challenged(&changed) {
            Err(
                TpmError::Certificate(_) | TpmError::NotAnEndorsementCertificate | TpmError::OtherEndorsementKey,
            ) => {}
            other => passed.push((position, certificate[position], other.map(|_| ()))),
        }
    }
    assert!(passed.is_empty(), "{passed:?}");
    // Its signature's last byte.
    let mut changed = recorded.clone();
    changed.identity.ek_certificate = Some(flipped(&certificate, certificate.len() - 1));
    assert!(matches!(challenged(&changed), Err(TpmError::Certificate(CertificateError::Signature(_)))));
}

#[test]
fn a_changed_endorsement_key_is_another() {
    let recorded = Recorded::load("p256");
    let public = &recorded.identity.ek_public;
    let known = challenged(&recorded).unwrap().hardware;
    // Part 2, 12.2.4: type, name algorithm, attributes, policy of 32 bytes, AES, key bits, mode, scheme, bits, exponent.
    let policy = 8..42;
    for position in 0..public.len() {
        let mut changed = recorded.clone();
        changed.identity.ek_public = flipped(public, position);
        match challenged(&changed) {
            Err(TpmError::Malformed(_) | TpmError::EndorsementKey(_) | TpmError::OtherEndorsementKey) => {}
            // Who may use it is not what it is: the TPM would refuse the credential, or it is the same key.
            Ok(pending) => {
                assert!(policy.contains(&position) || (4..8).contains(&position), "byte {position}");
                assert_eq!(pending.hardware, known);
            }
            Err(error) => panic!("byte {position}: {error}"),
        }
    }
}

#[test]
fn a_changed_attestation_key_signed_nothing() {
    for name in RECORDED {
        let recorded = Recorded::load(name);
        let public = &recorded.identity.ak_public;
        let known = challenged(&recorded).unwrap().ak.name;
        for position in 0..public.len() {
            let mut changed = recorded.clone();
            changed.identity.ak_public = flipped(public, position);
            match challenged(&changed) {
                Err(TpmError::Malformed(_) | TpmError::AttestationKey(_) | TpmError::Signature) => {}
                // Attributes that nobody asks for, and the policy: the credential is for another name then.
                Ok(pending) => {
                    assert!((4..10).contains(&position), "{name}, byte {position}");
                    assert_ne!(pending.ak.name, known);
                }
                Err(error) => panic!("{name}, byte {position}: {error}"),
            }
        }
    }
}

#[test]
fn a_changed_statement_or_signature_is_refused() {
    for name in RECORDED {
        let recorded = Recorded::load(name);
        let pending = recorded.pending();
        let quote = &recorded.evidence.quote;
        for position in 0..quote.statement.len() {
            let mut evidence = recorded.evidence.clone();
            evidence.quote.statement = flipped(&quote.statement, position);
            assert_eq!(pending.verify(&evidence, &EXPECTED), Err(TpmError::Signature), "{name}, byte {position}");
            let mut changed = recorded.clone();
            changed.identity.opening.statement = flipped(&recorded.identity.opening.statement, position);
            assert_eq!(challenged(&changed).unwrap_err(), TpmError::Signature, "{name}, byte {position}");
        }
        for position in 0..quote.signature.len() {
            let mut evidence = recorded.evidence.clone();
            evidence.quote.signature = flipped(&quote.signature, position);
            let error = pending.verify(&evidence, &EXPECTED).unwrap_err();
            let malformed = TpmError::Malformed("TPMT_SIGNATURE");
            assert!(error == TpmError::Signature || error == malformed, "{name}, byte {position}: {error}");
        }
    }
}

#[test]
fn changed_values_are_not_the_quoted_ones() {
    for name in RECORDED {
        let recorded = Recorded::load(name);
        let pending = recorded.pending();
        for (pcr, byte) in (0..9).flat_map(|pcr| (0..32).map(move |byte| (pcr, byte))) {
            let mut evidence = recorded.evidence.clone();
            evidence.pcrs[pcr].0[byte] ^= 0x80;
            assert_eq!(pending.verify(&evidence, &EXPECTED), Err(TpmError::PcrDigest));
        }
        let mut evidence = recorded.evidence.clone();
        evidence.pcrs.swap(0, 1);
        assert_eq!(pending.verify(&evidence, &EXPECTED), Err(TpmError::PcrDigest));
    }
}

#[test]
fn a_changed_event_log_explains_nothing_or_proves_less() {
    let recorded = Recorded::load("p256");
    let (pending, log) = (recorded.pending(), recorded.evidence.event_log.clone().unwrap());
    let honest = pending.verify(&recorded.evidence, &EXPECTED).unwrap();
    // The beginning, where PCR 7 is told of, and every seventh byte of the rest.
    for position in (0..6_000).chain((6_000..log.len()).step_by(7)) {
        let mut evidence = recorded.evidence.clone();
        evidence.event_log = Some(flipped(&log, position));
        match pending.verify(&evidence, &EXPECTED) {
            Err(TpmError::Malformed(_) | TpmError::EventLog { .. } | TpmError::OldEventLog) => {}
            // Data, digests of other banks, and other PCRs: what was proved stays, or is proved no more.
            Ok(appraisal) => {
                assert_eq!(appraisal.measurement, honest.measurement);
                assert!(appraisal.vector.configuration >= honest.vector.configuration, "byte {position}");
            }
            Err(error) => panic!("byte {position}: {error}"),
        }
    }
    // A digest that went into a quoted PCR cannot be another.
    let events = EventLog::parse(&log).unwrap().events;
    let measured = events.iter().filter(|event| event.pcr < 8);
    let digests: Vec<[u8; 32]> = measured.map(|event| event.digest).collect();
    assert!(digests.len() > 20);
    for digest in digests {
        let position = log.windows(32).position(|window| window == digest).unwrap();
        for byte in [0, 31] {
            let mut evidence = recorded.evidence.clone();
            evidence.event_log = Some(flipped(&log, position + byte));
            let refused = pending.verify(&evidence, &EXPECTED).unwrap_err();
            assert!(matches!(refused, TpmError::EventLog { pcr } if pcr < 8), "{refused}");
        }
    }
}

#[test]
fn a_changed_ima_log_explains_nothing() {
    let recorded = Recorded::load("p256");
    let (pending, log) = (recorded.pending(), recorded.evidence.ima_log.clone().unwrap());
    let mut refused = 0;
    // The first entries, and every thirteenth byte of the rest.
    for position in (0..600).chain((600..log.len()).step_by(13)) {
        let mut evidence = recorded.evidence.clone();
        evidence.ima_log = Some(flipped(&log, position));
        match pending.verify(&evidence, &EXPECTED) {
            Err(TpmError::Malformed(_) | TpmError::ImaLog) => refused += 1,
            // SHA-1 digests, which are in no bank that was quoted, and entries after the quote.
            Ok(appraisal) => assert_eq!(appraisal.tier(), Tier::Affirming),
            Err(error) => panic!("byte {position}: {error}"),
        }
    }
    assert!(refused > 1_000, "{refused}");
    let mut evidence = recorded.evidence.clone();
    evidence.ima_log = Some(log[..log.len() - 1].to_vec().try_into().unwrap());
    assert_eq!(pending.verify(&evidence, &EXPECTED), Err(TpmError::Malformed("IMA log")));
}

/// Replaces `length` bytes at `at` (in parts of the whole) by `with`.
fn spliced(bytes: &[u8], at: usize, length: usize, with: &[u8]) -> Vec<u8> {
    let start = at % (bytes.len() + 1);
    let end = (start + length).min(bytes.len());
    [&bytes[..start], with, &bytes[end..]].concat()
}

fn splice() -> impl Strategy<Value = (usize, usize, Vec<u8>)> {
    (any::<usize>(), 0_usize..40, proptest::collection::vec(any::<u8>(), 0..40))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn structures_that_were_cut_and_stuffed_never_panic((at, length, with) in splice(), which in 0_usize..4) {
        let recorded = Recorded::load(RECORDED[which]);
        let Attested { statement, signature } = &recorded.evidence.quote;
        let changed = spliced(&recorded.identity.ek_public, at, length, &with);
        let _ = Public::parse(&changed).map(|key| endorsement::check_key(&key));
        let changed = spliced(&recorded.identity.ak_public, at, length, &with);
        let _ = Public::parse(&changed).map(|key| check_attestation_key(&key));
        let _ = Quote::parse(&spliced(statement, at, length, &with));
        let _ = Signature::parse(&spliced(signature, at, length, &with));
    }

    #[test]
    fn signed_bytes_that_were_changed_never_pass((at, length, with) in splice(), which in 0_usize..4) {
        let recorded = Recorded::load(RECORDED[which]);
        let mut evidence = recorded.evidence.clone();
        let changed = spliced(&evidence.quote.statement, at, length, &with);
        prop_assume!(changed != evidence.quote.statement.to_vec() && changed.len() <= MAX_STRUCTURE_BYTES);
        evidence.quote.statement = changed.try_into().unwrap();
        prop_assert_eq!(recorded.pending().verify(&evidence, &EXPECTED), Err(TpmError::Signature));
    }

    #[test]
    fn logs_that_were_cut_and_stuffed_never_panic((at, length, with) in splice()) {
        let recorded = Recorded::load("p256");
        let log = recorded.evidence.event_log.unwrap();
        if let Ok(log) = EventLog::parse(&spliced(&log, at, length, &with)) {
            let _ = (log.replay(0), log.policy());
        }
        let log = recorded.evidence.ima_log.unwrap();
        let _ = covered_prefix(&spliced(&log, at, length, &with), &[1; 32]);
    }

    #[test]
    fn anything_is_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Public::parse(&bytes);
        let _ = Quote::parse(&bytes);
        let _ = Signature::parse(&bytes);
        let _ = EventLog::parse(&bytes);
        let _ = covered_prefix(&bytes, &[0; 32]);
    }
}
