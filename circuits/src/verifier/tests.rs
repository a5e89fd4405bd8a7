use super::*;
use crate::{
    attestation::{attributes::Attributes, credential::Credential},
    encoding::{Fixed, Malformed},
    fixture::{FIXTURE, NOW_S, attributes, credential, file, moment, peer, request, rng},
};
use ark_ff::{BigInteger, PrimeField};
use proptest::{
    prelude::{ProptestConfig, any},
    prop_assert, prop_assert_eq, proptest,
    sample::Index,
};
use std::sync::LazyLock;

static GOOD: LazyLock<Presentation> = LazyLock::new(|| {
    FIXTURE.prover.prove(&credential(&attributes()), &request(), &moment(), &mut rng(9)).unwrap()
});

/// Judges the good presentation with other bytes from `place` on.
fn with_bytes(place: usize, bytes: &[u8]) -> VerifyError {
    let mut presentation = GOOD.clone();
    presentation.proof[place..place + bytes.len()].copy_from_slice(bytes);
    FIXTURE.verifier.verify(&request(), &peer(), &presentation).unwrap_err()
}

#[test]
fn each_point_is_checked_before_the_pairing() {
    let mut off_curve = [0; 32];
    off_curve[0] = (0u8..100).find(|x| G1Affine::get_point_from_x_unchecked((*x).into(), true).is_none()).unwrap();
    for (point, place) in [('A', 0), ('C', 96)] {
        let fault = |fault| VerifyError::Point { point, fault };
        assert_eq!(with_bytes(place, &off_curve), fault(PointError::Curve));
        assert_eq!(with_bytes(place, &[0xff; 32]), fault(PointError::Canonical));
        let mut infinity = [0; 32];
        infinity[31] = 0x40;
        assert_eq!(with_bytes(place, &infinity), VerifyError::Identity(point));
    }
    let fault = |fault| VerifyError::Point { point: 'B', fault };
    assert_eq!(with_bytes(32, &[0xff; 64]), fault(PointError::Canonical));
    let outside = (1u64..1000)
        .filter_map(|x| G2Affine::get_point_from_x_unchecked(ark_bn254::Fq2::new(x.into(), 0.into()), true))
        .find(|point| !point.is_in_correct_subgroup_assuming_on_curve())
        .unwrap();
    let mut bytes = Vec::new();
    crate::points::write(&outside, &mut bytes);
    assert_eq!(with_bytes(32, &bytes), fault(PointError::Subgroup));
    // Another good point in the place of each.
    for (place, bytes) in [(0, GOOD.proof[96..].to_vec()), (96, GOOD.proof[..32].to_vec())] {
        assert_eq!(with_bytes(place, &bytes), VerifyError::Proof);
    }
}

#[test]
fn requests_beyond_the_circuits_numbers_are_refused() {
    let verify = |change: fn(&mut Request)| {
        let mut request = request();
        change(&mut request);
        FIXTURE.verifier.verify(&request, &peer(), &GOOD).unwrap_err()
    };
    assert_eq!(verify(|it| it.now_s = u64::MAX), VerifyError::Time);
    assert_eq!(verify(|it| it.now_s = TIME_END - 1), VerifyError::Time);
    assert_eq!(verify(|it| it.issued_after_s = TIME_END), VerifyError::Time);
    assert_eq!(
        verify(|it| it.policy = crate::presentation::PolicyName::lossy("x")),
        VerifyError::Policy("x".into())
    );
}

#[test]
fn a_stale_set_is_refused() {
    // The network removed a verifier; the proof is about the set of before.
    let mut file = file(&FIXTURE.key, &FIXTURE.issuers[..7]);
    file.policies[0].private = false;
    let parameters = Arc::new(Parameters::new(file).unwrap());
    let verifier = Verifier::new(parameters, &FIXTURE.key.verifying_key()).unwrap();
    assert_eq!(verifier.verify(&request(), &peer(), &GOOD), Err(VerifyError::Proof));
}

#[test]
fn nullifiers_have_one_encoding() {
    let bytes = GOOD.to_bytes();
    assert_eq!(bytes.len(), 160);
    assert_eq!(Presentation::from_bytes(&bytes), Ok(GOOD.clone()));
    let mut above = GOOD.nullifier.element().into_bigint();
    above.add_with_carry(&Fr::MODULUS);
    let bytes = [&GOOD.proof[..], &above.to_bytes_le()].concat();
    assert_eq!(Presentation::from_bytes(&bytes), Err(Malformed::Canonical("nullifier")));
}

#[test]
fn what_travels_has_a_readable_and_a_short_form() {
    let text = serde_json::to_string(&*GOOD).unwrap();
    assert_eq!(text.len(), 2 + 320);
    assert_eq!(serde_json::from_str::<Presentation>(&text).unwrap(), *GOOD);
    assert!(serde_json::from_str::<Presentation>(&text.replacen('"', "\"00", 1)).is_err());
    let asked = serde_json::to_string(&request()).unwrap();
    assert_eq!(serde_json::from_str::<Request>(&asked).unwrap(), request());
    let credential = credential(&attributes());
    let text = serde_json::to_string(&credential).unwrap();
    assert_eq!(serde_json::from_str::<Credential>(&text).unwrap(), credential);
}

#[test]
fn attributes_out_of_range_are_refused() {
    let read = |change: fn(&mut Attributes)| {
        let mut attributes = attributes();
        change(&mut attributes);
        Attributes::from_bytes(&attributes.to_bytes())
    };
    assert_eq!(read(|_| ()), Ok(attributes()));
    assert_eq!(read(|it| it.score = 1001), Err(Malformed::Attribute("score")));
    assert_eq!(read(|it| it.issued_s = TIME_END), Err(Malformed::Attribute("issued")));
    assert_eq!(read(|it| it.expires_s = TIME_END), Err(Malformed::Attribute("expires")));
    assert_eq!(read(|it| it.expires_s = NOW_S - 3600), Err(Malformed::Attribute("expires")));
    let mut bytes = attributes().to_bytes();
    bytes[2] = 0;
    assert_eq!(Attributes::from_bytes(&bytes), Err(Malformed::Canonical("measurement")));
    bytes[2] = 47;
    assert_eq!(Attributes::from_bytes(&bytes), Err(Malformed::Canonical("measurement")));
    bytes[2] = 49;
    assert_eq!(Attributes::from_bytes(&bytes), Err(Malformed::Length("measurement")));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn no_changed_byte_verifies(place in any::<Index>(), change in 1u8..) {
        let mut bytes = GOOD.to_bytes();
        let place = place.index(bytes.len());
        bytes[place] ^= change;
        if let Ok(presentation) = Presentation::from_bytes(&bytes) {
            prop_assert!(FIXTURE.verifier.verify(&request(), &peer(), &presentation).is_err());
        }
    }

    #[test]
    fn bytes_of_strangers_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Parameters::parse(&bytes);
        if let Ok(presentation) = Presentation::from_bytes(&bytes) {
            prop_assert!(FIXTURE.verifier.verify(&request(), &peer(), &presentation).is_err());
        }
    }

    #[test]
    fn credentials_have_one_encoding_and_hold_for_no_other(place in any::<Index>(), change in 1u8..) {
        let mut bytes = credential(&attributes()).to_bytes();
        let place = place.index(bytes.len());
        bytes[place] ^= change;
        if let Ok(changed) = Credential::from_bytes(&bytes) {
            prop_assert_eq!(changed.to_bytes(), bytes);
            prop_assert!(!changed.is_signed());
        }
    }
}
