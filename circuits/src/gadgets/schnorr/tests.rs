use super::*;
use ark_ff::Field;
use ark_r1cs_std::GR1CSVar;
use ark_relations::gr1cs::ConstraintSystem;
use ark_std::rand::{SeedableRng, rngs::StdRng};
use proptest::{prelude::any, prop_assert_eq, proptest};

fn rng() -> StdRng {
    StdRng::seed_from_u64(7)
}

#[test]
fn a_signature_holds_for_its_key_domain_and_message_alone() {
    let mut rng = rng();
    let key = SecretKey::generate(&mut rng);
    let other = SecretKey::generate(&mut rng);
    let message = Fr::from(5);
    let signature = key.sign(Domain::Credential, &message, &mut rng);
    assert!(key.public().verifies(Domain::Credential, &message, &signature));
    assert!(!key.public().verifies(Domain::Possession, &message, &signature));
    assert!(!key.public().verifies(Domain::Credential, &Fr::from(6), &signature));
    assert!(!other.public().verifies(Domain::Credential, &message, &signature));
    let again = key.sign(Domain::Credential, &message, &mut rng);
    assert_ne!(signature.commitment(), again.commitment(), "fresh randomness is part of the nonce");
}

/// A generator that always gives the same.
struct Stuck;

impl RngCore for Stuck {
    fn next_u32(&mut self) -> u32 {
        0
    }
    fn next_u64(&mut self) -> u64 {
        0
    }
    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        bytes.fill(0);
    }
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), ark_std::rand::Error> {
        bytes.fill(0);
        Ok(())
    }
}

impl CryptoRng for Stuck {}

#[test]
fn a_stuck_generator_gives_no_nonce_twice() {
    let key = SecretKey::generate(&mut rng());
    let other = SecretKey::generate(&mut StdRng::seed_from_u64(8));
    let first = key.sign(Domain::Credential, &Fr::from(1), &mut Stuck);
    let second = key.sign(Domain::Credential, &Fr::from(2), &mut Stuck);
    assert_ne!(first.commitment(), second.commitment());
    assert_ne!(first.commitment(), key.sign(Domain::Possession, &Fr::from(1), &mut Stuck).commitment());
    assert_ne!(first.commitment(), other.sign(Domain::Credential, &Fr::from(1), &mut Stuck).commitment());
}

#[test]
fn the_circuit_accepts_what_verifies() {
    let mut rng = rng();
    let key = SecretKey::generate(&mut rng);
    let message = Fr::from(5);
    let signature = key.sign(Domain::Credential, &message, &mut rng);
    let mut wrong = signature;
    wrong.response += Scalar::from(1u64);
    let other = *SecretKey::generate(&mut rng).public();
    for (public, message, signature, holds) in [
        (*key.public(), message, signature, true),
        (*key.public(), message + Fr::ONE, signature, false),
        (*key.public(), message, wrong, false),
        (other, message, signature, false),
    ] {
        let cs = ConstraintSystem::new_ref();
        let point = PointVar::witness(&cs, public.point()).unwrap();
        let message = FpVar::new_witness(cs.clone(), || Ok(message)).unwrap();
        let variable = SignatureVar::witness(&cs, &signature).unwrap();
        let digest = variable.challenge_hash(Domain::Credential, &point, &message).unwrap();
        let bits = SignatureVar::challenge_bits(&digest).unwrap();
        assert_eq!(bits.value().unwrap().len(), CHALLENGE_BITS);
        variable.enforce(&variable.response_point().unwrap(), &point.times(&bits).unwrap()).unwrap();
        assert_eq!(cs.is_satisfied().unwrap(), holds);
    }
}

#[test]
fn keys_outside_of_the_subgroup_and_the_identity_are_refused() {
    let encoded = |point: &EdwardsAffine| {
        let mut bytes = [0; 32];
        write(point, &mut bytes);
        bytes
    };
    let key = *SecretKey::generate(&mut rng()).public();
    assert_eq!(PublicKey::from_bytes(&key.to_bytes()), Ok(key));
    assert_eq!(PublicKey::from_bytes(&encoded(&EdwardsAffine::zero())), Err(Malformed::Identity("public key")));
    // (0, -1) has order two; a good key plus it is on the curve and outside of the subgroup.
    let order_two = EdwardsAffine::new_unchecked(Fr::zero(), -Fr::ONE);
    for outside in [order_two, (key.0 + order_two).into_affine()] {
        assert_eq!(PublicKey::from_bytes(&encoded(&outside)), Err(Malformed::Subgroup("public key")));
    }
    let mut high = [0xff; 32];
    high[31] = 0x7f;
    assert_eq!(PublicKey::from_bytes(&high), Err(Malformed::Point("public key")));
    // The identity with the sign of its x set: a second name of one point.
    let mut signed = encoded(&EdwardsAffine::zero());
    signed[31] |= 0x80;
    assert_eq!(PublicKey::from_bytes(&signed), Err(Malformed::Canonical("public key")));
    assert_eq!(PublicKey::from_bytes(&[0; 31]), Err(Malformed::Length("encoding")));
}

#[test]
fn secrets_go_round_and_stay_unseen() {
    let key = SecretKey::generate(&mut rng());
    let again = SecretKey::from_bytes(&key.to_bytes()).unwrap();
    assert_eq!(again.public(), key.public());
    assert!(SecretKey::from_bytes(&[0; 32]).is_err());
    assert!(SecretKey::from_bytes(&[0xff; 32]).is_err());
    let secret = key.secret.to_string();
    assert!(!format!("{key:?}").contains(&secret));
}

#[test]
fn a_response_beyond_the_order_is_refused() {
    let signature = SecretKey::generate(&mut rng()).sign(Domain::Credential, &Fr::from(1), &mut rng());
    let mut bytes = signature.to_bytes();
    let mut above = signature.response.into_bigint();
    above.add_with_carry(&Scalar::MODULUS);
    bytes[32..].copy_from_slice(&above.to_bytes_le());
    assert_eq!(Signature::from_bytes(&bytes), Err(Malformed::Number("signature")));
}

proptest! {
    #[test]
    fn bytes_of_strangers_never_panic_and_have_one_form(bytes in proptest::collection::vec(any::<u8>(), 64)) {
        if let Ok(signature) = Signature::from_bytes(&bytes) {
            prop_assert_eq!(signature.to_bytes(), bytes.clone());
        }
        if let Ok(key) = PublicKey::from_bytes(&bytes[..32]) {
            prop_assert_eq!(key.to_bytes(), bytes[..32].to_vec());
        }
    }
}
