use super::*;
use crate::{SecretKey, seal};
use aitbc_protocol::text::Line;

const NOW: UnixMillis = 1_800_000_000_000;

fn key(n: u8) -> SecretKey {
    SecretKey::from_bytes(&[n; 32])
}

fn network() -> NetworkId {
    NetworkId::new("main").unwrap()
}

fn claims(nonce: u8) -> Claims {
    Claims {
        nonce: Digest([nonce; 32]),
        agent: Line::lossy("aitbc/1"),
        binary: Digest([1; 32]),
        system: Line::lossy("Linux"),
        gpus: vec![Line::lossy("a card")],
        firmware_age_days: Some(10),
        suspicious_processes: 0,
        debugged: false,
        missing: Vec::new(),
    }
}

fn judge(signer: u8, claims: &Claims, pieces: &[Piece]) -> Result<Findings, EvidenceError> {
    let signed = seal(&key(signer), &network(), claims).unwrap();
    appraise(&Question {
        network: &network(),
        peer: key(2).node_id(),
        nonce: Digest([7; 32]),
        claims: &signed,
        pieces,
        tpm: None,
        anchors: &Anchors::default(),
        measured: &[],
        allowed: &[],
        now_ms: NOW,
    })
}

#[test]
fn what_a_node_says_of_itself_earns_no_tier() {
    let findings = judge(2, &claims(7), &[]).unwrap();
    assert_eq!((findings.tier, findings.score), (Tier::None, 1_000));
    assert_eq!(findings.inputs.attested().mask(), 0);
    assert!(findings.appraisals[0].0.notes[0].contains("self-reported"));
    let watched = Claims { debugged: true, ..claims(7) };
    assert_eq!(judge(2, &watched, &[]).unwrap().score, 600);
    let old = Claims { firmware_age_days: Some(366), ..claims(7) };
    assert_eq!(judge(2, &old, &[]).unwrap().score, 800);
}

#[test]
fn replays_and_the_claims_of_others_are_told_apart() {
    assert_eq!(judge(2, &claims(8), &[]).unwrap_err(), EvidenceError::StaleNonce);
    assert_eq!(judge(3, &claims(7), &[]).unwrap_err(), EvidenceError::OtherPeer);
    let elsewhere = NetworkId::new("local").unwrap();
    let signed = seal(&key(2), &elsewhere, &claims(7)).unwrap();
    let question = Question {
        network: &network(),
        peer: key(2).node_id(),
        nonce: Digest([7; 32]),
        claims: &signed,
        pieces: &[],
        tpm: None,
        anchors: &Anchors::default(),
        measured: &[],
        allowed: &[],
        now_ms: NOW,
    };
    assert_eq!(appraise(&question).unwrap_err(), EvidenceError::Claims(SignatureError::Invalid));
}

#[test]
fn pieces_that_were_not_asked_for_or_cannot_be_read_are_refused() {
    let piece = |kind, bytes: &[u8]| Piece { kind, bytes: bytes.to_vec().try_into().unwrap() };
    for kind in EvidenceKind::ALL.into_iter().filter(|kind| *kind != EvidenceKind::Software) {
        let error = judge(2, &claims(7), &[piece(kind, b"not evidence")]).unwrap_err();
        assert_eq!(error, EvidenceError::Malformed(kind));
    }
    let software = piece(EvidenceKind::Software, b"");
    let unasked = judge(2, &claims(7), std::slice::from_ref(&software)).unwrap_err();
    assert_eq!(unasked, EvidenceError::Unasked(EvidenceKind::Software));
}

fn measuring(kind: EvidenceKind, measurement: u8) -> (Appraisal, Digest) {
    let measurement = Measurement::from([measurement; 32]);
    (Appraisal { kind, measurement, ..software(&claims(7)) }, Digest([0; 32]))
}

#[test]
fn what_changed_since_the_first_time_is_refused() {
    let signed = seal(&key(2), &network(), &claims(7)).unwrap();
    let tpm = |n: u8| (EvidenceKind::Tpm, Measurement::from([n; 32]));
    let check = |measured: &[_], allowed: &[_], appraisals: &[(Appraisal, Digest)]| {
        let (network, peer, nonce, pieces) = (&network(), key(2).node_id(), Digest([7; 32]), &[][..]);
        let (claims, anchors, tpm) = (&signed, &Anchors::default(), None);
        let now_ms = NOW;
        let question = Question { network, peer, nonce, claims, pieces, tpm, anchors, measured, allowed, now_ms };
        remembered(&question, appraisals)
    };
    let first = [measuring(EvidenceKind::Tpm, 1)];
    assert_eq!(check(&[], &[], &first).unwrap(), [tpm(1)]);
    assert_eq!(check(&[tpm(1)], &[], &first).unwrap(), [tpm(1)]);
    assert!(matches!(check(&[tpm(2)], &[], &first), Err(EvidenceError::Changed { .. })));
    assert_eq!(check(&[tpm(2)], &[], &[]).unwrap_err(), EvidenceError::Withheld(EvidenceKind::Tpm));
    let gpu = |n: u8| (EvidenceKind::Nvidia, Measurement::from([n; 32]));
    let shown = [measuring(EvidenceKind::Nvidia, 1), measuring(EvidenceKind::Nvidia, 2)];
    assert_eq!(check(&[gpu(1), gpu(2)], &[], &shown[..1]).unwrap(), [gpu(1), gpu(2)], "one is away for a while");
    assert_eq!(check(&[gpu(1), gpu(2)], &[], &shown).unwrap(), [gpu(1), gpu(2)]);
    assert_eq!(
        check(&[tpm(2)], &[tpm(1).1], &first).unwrap(),
        [tpm(1), tpm(2)],
        "a list outweighs the first time"
    );
    assert!(matches!(check(&[], &[tpm(2).1], &first), Err(EvidenceError::NotAllowed { .. })));
}

#[test]
fn what_evidence_says_of_firmware_enters_as_attested() {
    let mut of = measuring(EvidenceKind::Tdx, 1);
    of.0.vulnerable = Some(true);
    of.0.firmware_ms = Some(NOW - 400 * 86_400_000);
    let inputs = inputs(&claims(7), &[of, measuring(EvidenceKind::Tpm, 1)], NOW);
    assert_eq!(inputs.vulnerable.attested, Some(true));
    assert_eq!(inputs.firmware_age_days.attested, Some(400));
    assert_eq!(inputs.attested().mask(), 0b011);
    assert_eq!(integrity_score(&inputs), 500);
}

#[test]
fn what_the_verifier_lacks_does_not_speak_against_a_node() {
    use crate::tee::x509::CertificateError;
    let who = || "somebody".to_owned();
    for (error, against) in [
        (EvidenceError::StaleNonce, true),
        (EvidenceError::OtherPeer, true),
        (EvidenceError::Withheld(EvidenceKind::Tpm), false),
        (TpmError::Signature.into(), true),
        (TpmError::WrongSecret.into(), true),
        (TpmError::Randomness.into(), false),
        (TpmError::Restarted.into(), false),
        (TpmError::Certificate(CertificateError::UnknownRoot(who())).into(), false),
        (TpmError::Certificate(CertificateError::Expired(who())).into(), false),
        (TpmError::Certificate(CertificateError::Signature(who())).into(), true),
        (SnpError::Certificate(CertificateError::Crl).into(), false),
        (SnpError::Certificate(CertificateError::Revoked(who())).into(), true),
        (SnpError::Debug.into(), true),
        (IntelError::OtherPlatform.into(), false),
        (IntelError::NoCollateral.into(), false),
        (IntelError::Collateral("tcb_info").into(), false),
        (IntelError::RevokedTcb.into(), true),
        (IntelError::Signature.into(), true),
        (NvidiaError::NoReference(who()).into(), false),
        (NvidiaError::Signature.into(), true),
    ] {
        assert_eq!(error.speaks_against(), against, "{error}");
    }
}
