//! Tests over evidence recorded from a software TPM, and over statements that a key of ours signs.

mod logs;
mod mutations;
mod statements;

use super::*;
use aitbc_protocol::attestation::{EvidenceKind, Tier};
use rsa::rand_core::{CryptoRng, RngCore};
use serde_json::Value;

pub(in crate::tee::tpm) const FIXTURES: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/attestation/tpm");
/// The binding of the recorded quotes.
pub(in crate::tee::tpm) const BINDING: [u8; 32] = [7; 32];
pub(in crate::tee::tpm) const EXPECTED: Expected<'static> = Expected { binding: BINDING, approved: &[] };
pub(in crate::tee::tpm) const RECORDED: [&str; 4] = ["p256", "p384", "rsassa", "rsapss"];

pub(in crate::tee::tpm) fn read(name: &str) -> Vec<u8> {
    std::fs::read(format!("{FIXTURES}/{name}")).unwrap()
}

fn json(name: &str) -> Value {
    serde_json::from_slice(&read(&format!("{name}.json"))).unwrap()
}

/// What a software TPM and its verifier said to each other, and the verifier's configuration.
#[derive(Clone)]
pub(in crate::tee::tpm) struct Recorded {
    pub(in crate::tee::tpm) identity: Identity,
    pub(in crate::tee::tpm) evidence: TpmEvidence,
    pub(in crate::tee::tpm) roots: Roots,
    pub(in crate::tee::tpm) now_ms: u64,
}

impl Recorded {
    pub(in crate::tee::tpm) fn load(name: &str) -> Self {
        let mut value = json(name);
        let mut take = |field: &str| value[field].take();
        let root: BoundedBytes<MAX_CERTIFICATE_BYTES> = serde_json::from_value(take("root")).unwrap();
        let mut evidence: TpmEvidence = serde_json::from_value(take("evidence")).unwrap();
        evidence.event_log = Some(read("event_logs/rhel8-uefi.bin").try_into().unwrap());
        evidence.ima_log = Some(read("ima-ng.bin").try_into().unwrap());
        Self {
            identity: serde_json::from_value(take("identity")).unwrap(),
            evidence,
            roots: Roots::none().with(root.to_vec()).unwrap(),
            now_ms: take("now_ms").as_u64().unwrap(),
        }
    }

    /// The verifier between the messages, with the secret that it sent then.
    pub(in crate::tee::tpm) fn pending(&self) -> Pending {
        let (_, mut pending) = challenge(&self.identity, &self.roots, self.now_ms).unwrap();
        pending.secret = Zeroizing::new(self.evidence.secret.0);
        pending
    }
}

#[test]
fn what_real_tpms_say_is_verified_for_every_kind_of_key() {
    let mut hardware = Vec::new();
    for name in RECORDED {
        let recorded = Recorded::load(name);
        let appraisal = recorded.pending().verify(&recorded.evidence, &EXPECTED).unwrap();
        assert_eq!((appraisal.kind, appraisal.tier()), (EvidenceKind::Tpm, Tier::Affirming), "{name}");
        assert!(appraisal.notes.iter().any(|note| note == "Secure Boot was on."), "{:?}", appraisal.notes);
        let explained = "The IMA log explains PCR 10 with 250 entries; 50 came after the quote.";
        assert!(appraisal.notes.iter().any(|note| note == explained), "{:?}", appraisal.notes);
        hardware.push(appraisal.hardware);
    }
    hardware.dedup();
    assert_eq!(hardware.len(), 1, "one endorsement key is one device, whichever key attests");
}

#[test]
fn a_measurement_is_the_digest_of_the_first_eight_pcrs() {
    let recorded = Recorded::load("p256");
    let values: Vec<u8> = recorded.evidence.pcrs[..8].iter().flat_map(|value| value.0).collect();
    let measurement = Measurement::from(Digest::of(&values).0);
    let approved = Expected { approved: &[measurement], ..EXPECTED };
    let appraisal = recorded.pending().verify(&recorded.evidence, &approved).unwrap();
    assert_eq!((appraisal.measurement, appraisal.vector.executables), (measurement, 3));
    let other = Measurement::from([1; 32]);
    let expected = Expected { approved: &[other], ..EXPECTED };
    assert_eq!(
        recorded.pending().verify(&recorded.evidence, &expected),
        Err(TpmError::PcrsChanged { expected: other, found: measurement })
    );
}

#[test]
fn evidence_survives_the_wire_and_hides_its_secret() {
    let recorded = Recorded::load("rsassa");
    let cbor = cbor4ii::serde::to_vec(Vec::new(), &recorded.evidence).unwrap();
    assert_eq!(cbor4ii::serde::from_slice::<TpmEvidence>(&cbor).unwrap(), recorded.evidence);
    let cbor = cbor4ii::serde::to_vec(Vec::new(), &recorded.identity).unwrap();
    assert_eq!(cbor4ii::serde::from_slice::<Identity>(&cbor).unwrap(), recorded.identity);
    let mut crowded = recorded.identity.clone();
    crowded.intermediates = vec![crowded.intermediates[0].clone(); MAX_CHAIN + 1];
    let cbor = cbor4ii::serde::to_vec(Vec::new(), &crowded).unwrap();
    assert!(cbor4ii::serde::from_slice::<Identity>(&cbor).is_err());

    let secret = recorded.evidence.secret.to_string();
    assert!(!format!("{:?}", recorded.evidence).contains(&secret));
    assert!(!format!("{:?}", recorded.pending()).contains(&secret));
}

#[test]
fn without_certificate_secure_boot_or_log_it_is_a_warning() {
    let recorded = Recorded::load("p256");
    let mut anonymous = recorded.clone();
    anonymous.identity.ek_certificate = None;
    let appraisal = anonymous.pending().verify(&recorded.evidence, &EXPECTED).unwrap();
    assert_eq!((appraisal.tier(), appraisal.vector.instance_identity), (Tier::Warning, 33));
    assert_eq!(appraisal.vector.hardware, 0, "nothing says that it is hardware");

    let mut silent = recorded.clone();
    silent.evidence.event_log = None;
    let appraisal = silent.pending().verify(&silent.evidence, &EXPECTED).unwrap();
    assert_eq!((appraisal.tier(), appraisal.vector.configuration), (Tier::Warning, 32));

    let mut unexplained = recorded.clone();
    unexplained.evidence.ima_log = None;
    let appraisal = unexplained.pending().verify(&unexplained.evidence, &EXPECTED).unwrap();
    assert!(appraisal.notes.iter().any(|note| note.starts_with("There is no IMA log")));
}

#[test]
fn a_secret_is_compared_whole() {
    let recorded = Recorded::load("p256");
    for position in 0..32 {
        let mut evidence = recorded.evidence.clone();
        evidence.secret.0[position] ^= 1;
        assert_eq!(recorded.pending().verify(&evidence, &EXPECTED), Err(TpmError::WrongSecret));
    }
    // Two challenges have two secrets.
    let (first, _) = challenge(&recorded.identity, &recorded.roots, recorded.now_ms).unwrap();
    let (second, pending) = challenge(&recorded.identity, &recorded.roots, recorded.now_ms).unwrap();
    assert_ne!(first, second);
    assert_eq!(pending.verify(&recorded.evidence, &EXPECTED), Err(TpmError::WrongSecret));
}

/// Gives zeros, as the generator of the published example does.
struct Zeros;

impl RngCore for Zeros {
    fn next_u32(&mut self) -> u32 {
        0
    }

    fn next_u64(&mut self) -> u64 {
        0
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        bytes.fill(0);
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), rsa::rand_core::Error> {
        bytes.fill(0);
        Ok(())
    }
}

impl CryptoRng for Zeros {}

#[test]
fn a_credential_is_what_another_implementation_makes() {
    let example = json("credential");
    let field = |name: &str| hex::decode(example[name].as_str().unwrap()).unwrap();
    let endorsement = Public {
        name_algorithm: ALG_SHA256,
        attributes: 0,
        aes_bits: Some(128),
        scheme: None,
        key: Key::Rsa { bits: 2048, exponent: 0, modulus: field("modulus") },
        name: Vec::new(),
    };
    let secret = field("secret").try_into().unwrap();
    let made = credential::make(&endorsement, &field("name"), &secret, &[0; 16], &mut Zeros).unwrap();
    assert_eq!(made.id_object, field("id_object"));
    assert_eq!(made.encrypted_seed, field("encrypted_seed"));
    // OpenSSL's digest of the same key as it publishes it.
    assert_eq!(endorsement::identity(&endorsement).unwrap().0.to_vec(), field("spki_sha256"));
}
