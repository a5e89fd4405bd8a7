//! Statements by a key of ours: what only the signer can change.

use super::*;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};

/// An attester whose key is no TPM's, beside a real endorsement key.
struct Attester {
    key: EcdsaKeyPair,
    ek_public: BoundedBytes<MAX_STRUCTURE_BYTES>,
    attributes: u32,
}

/// The fields of a quote.
#[derive(Clone)]
struct Statement {
    magic: u32,
    kind: u16,
    data: Vec<u8>,
    clock_ms: u64,
    resets: u32,
    restarts: u32,
    /// `TPML_PCR_SELECTION`.
    selection: Vec<u8>,
    pcrs: [Digest; 9],
}

const SELECTION: &[u8] = &[0, 0, 0, 1, 0, 0x0b, 3, 0xff, 0x04, 0];

impl Statement {
    fn good(data: [u8; 32]) -> Self {
        Self {
            magic: 0xff54_4347,
            kind: 0x8018,
            data: data.to_vec(),
            clock_ms: 1_000,
            resets: 5,
            restarts: 6,
            selection: SELECTION.to_vec(),
            pcrs: [Digest([1; 32]); 9],
        }
    }

    fn marshal(&self) -> Vec<u8> {
        let mut bytes = self.magic.to_be_bytes().to_vec();
        bytes.extend(self.kind.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend((self.data.len() as u16).to_be_bytes());
        bytes.extend(&self.data);
        bytes.extend(self.clock_ms.to_be_bytes());
        bytes.extend(self.resets.to_be_bytes());
        bytes.extend(self.restarts.to_be_bytes());
        bytes.extend([1; 9]);
        bytes.extend(&self.selection);
        let values: Vec<u8> = self.pcrs.iter().flat_map(|value| value.0).collect();
        bytes.extend([0, 32]);
        bytes.extend(Digest::of(&values).0);
        bytes
    }
}

impl Attester {
    fn new() -> Self {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        Self {
            key: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap(),
            ek_public: Recorded::load("p256").identity.ek_public,
            attributes: RESTRICTED | SIGN | FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN,
        }
    }

    /// `TPMT_PUBLIC` of an ECDSA key.
    fn public(&self, name_algorithm: u16, scheme: &[u8], curve: u16) -> Vec<u8> {
        let point = &self.key.public_key().as_ref()[1..];
        let mut bytes =
            [&ALG_ECC_BYTES[..], &name_algorithm.to_be_bytes(), &self.attributes.to_be_bytes()].concat();
        bytes.extend([0, 0, 0, 0x10]);
        bytes.extend(scheme);
        bytes.extend(curve.to_be_bytes());
        bytes.extend([0, 0x10, 0, 32]);
        bytes.extend(&point[..32]);
        bytes.extend([0, 32]);
        bytes.extend(&point[32..]);
        bytes
    }

    fn sign(&self, statement: &[u8]) -> Attested {
        let signature = self.key.sign(&SystemRandom::new(), statement).unwrap();
        let (r, s) = signature.as_ref().split_at(32);
        Attested {
            statement: statement.to_vec().try_into().unwrap(),
            signature: [&[0, 0x18, 0, 0x0b, 0, 32][..], r, &[0, 32], s].concat().try_into().unwrap(),
        }
    }

    fn identity(&self, opening: &[u8]) -> Identity {
        Identity {
            ek_certificate: None,
            intermediates: Vec::new(),
            ek_public: self.ek_public.clone(),
            ak_public: self.public(ALG_SHA256, &ECDSA_SHA256, ECC_P256).try_into().unwrap(),
            opening: self.sign(opening),
        }
    }

    fn open(&self, opening: &[u8]) -> Result<Pending, TpmError> {
        challenge(&self.identity(opening), &Roots::shipped(), 0).map(|(_, pending)| pending)
    }

    fn answer(&self, pending: &Pending, statement: &Statement) -> Result<Appraisal, TpmError> {
        self.answer_bytes(pending, &statement.marshal(), &statement.pcrs)
    }

    fn answer_bytes(
        &self,
        pending: &Pending,
        statement: &[u8],
        pcrs: &[Digest; 9],
    ) -> Result<Appraisal, TpmError> {
        let evidence = TpmEvidence {
            secret: Digest(*pending.secret),
            quote: self.sign(statement),
            pcrs: *pcrs,
            event_log: None,
            ima_log: None,
        };
        pending.verify(&evidence, &EXPECTED)
    }
}

const ALG_ECC_BYTES: [u8; 2] = [0, 0x23];
const ECDSA_SHA256: [u8; 4] = [0, 0x18, 0, 0x0b];

#[test]
fn each_field_of_a_signed_quote_has_its_refusal() {
    let attester = Attester::new();
    let pending = attester.open(&Statement::good(OPENING_DATA).marshal()).unwrap();
    let good = Statement::good(BINDING);
    assert_eq!(attester.answer(&pending, &good).unwrap().tier(), Tier::Warning);

    let cases: [(Statement, TpmError); 16] = [
        (Statement { magic: 0xff54_4346, ..good.clone() }, TpmError::NotGenerated),
        // TPM_ST_ATTEST_CERTIFY.
        (Statement { kind: 0x8017, ..good.clone() }, TpmError::NotAQuote),
        (Statement { data: vec![8; 32], ..good.clone() }, TpmError::WrongBinding),
        (Statement { data: OPENING_DATA.to_vec(), ..good.clone() }, TpmError::WrongBinding),
        (Statement { data: BINDING[..31].to_vec(), ..good.clone() }, TpmError::WrongBinding),
        (Statement { data: [&BINDING[..], &[0]].concat(), ..good.clone() }, TpmError::WrongBinding),
        (Statement { resets: 6, ..good.clone() }, TpmError::Restarted),
        (Statement { restarts: 7, ..good.clone() }, TpmError::Restarted),
        (Statement { clock_ms: 999, ..good.clone() }, TpmError::Restarted),
        // SHA-1, SHA-384, fewer PCRs, more PCRs, none, two banks, a longer bitmap.
        (Statement { selection: vec![0, 0, 0, 1, 0, 0x04, 3, 0xff, 4, 0], ..good.clone() }, TpmError::WrongPcrs),
        (Statement { selection: vec![0, 0, 0, 1, 0, 0x0c, 3, 0xff, 4, 0], ..good.clone() }, TpmError::WrongPcrs),
        (Statement { selection: vec![0, 0, 0, 1, 0, 0x0b, 3, 0xff, 0, 0], ..good.clone() }, TpmError::WrongPcrs),
        (Statement { selection: vec![0, 0, 0, 1, 0, 0x0b, 3, 0xff, 4, 1], ..good.clone() }, TpmError::WrongPcrs),
        (Statement { selection: vec![0, 0, 0, 0], ..good.clone() }, TpmError::WrongPcrs),
        (
            Statement {
                selection: [&[0, 0, 0, 2][..], &SELECTION[4..], &SELECTION[4..]].concat(),
                ..good.clone()
            },
            TpmError::WrongPcrs,
        ),
        (
            Statement { selection: vec![0, 0, 0, 1, 0, 0x0b, 4, 0xff, 4, 0, 0], ..good.clone() },
            TpmError::WrongPcrs,
        ),
    ];
    for (statement, error) in cases {
        assert_eq!(attester.answer(&pending, &statement), Err(error));
    }
    let malformed = Err(TpmError::Malformed("TPMS_ATTEST"));
    let long = [good.marshal(), vec![0]].concat();
    assert_eq!(attester.answer_bytes(&pending, &long, &good.pcrs), malformed);
    for length in 0..good.marshal().len() {
        assert_eq!(attester.answer_bytes(&pending, &good.marshal()[..length], &good.pcrs), malformed);
    }
    // A statement with a list that would take gigabytes.
    let crowded = Statement { selection: vec![0xff; 4], ..good.clone() };
    assert_eq!(attester.answer(&pending, &crowded), malformed);
}

#[test]
fn a_later_clock_is_no_restart() {
    let attester = Attester::new();
    let pending = attester.open(&Statement::good(OPENING_DATA).marshal()).unwrap();
    assert!(attester.answer(&pending, &Statement { clock_ms: 1_001, ..Statement::good(BINDING) }).is_ok());
}

#[test]
fn an_opening_is_a_quote_too() {
    let attester = Attester::new();
    let good = Statement::good(OPENING_DATA);
    for (opening, error) in [
        (Statement { magic: 0, ..good.clone() }, TpmError::NotGenerated),
        (Statement { kind: 0x8019, ..good.clone() }, TpmError::NotAQuote),
        (Statement { data: BINDING.to_vec(), ..good.clone() }, TpmError::WrongBinding),
        (Statement { selection: vec![0, 0, 0, 0], ..good.clone() }, TpmError::WrongPcrs),
    ] {
        assert_eq!(attester.open(&opening.marshal()).unwrap_err(), error);
    }
    let other = Attester::new();
    let mut identity = attester.identity(&good.marshal());
    identity.opening = other.sign(&good.marshal());
    assert_eq!(challenge(&identity, &Roots::shipped(), 0).unwrap_err(), TpmError::Signature);
}

#[test]
fn a_key_that_signs_foreign_bytes_or_leaves_its_tpm_is_unfit() {
    let good = Statement::good(OPENING_DATA).marshal();
    let mut attester = Attester::new();
    let fit = attester.attributes;
    for missing in [RESTRICTED, SIGN, FIXED_TPM, FIXED_PARENT, SENSITIVE_DATA_ORIGIN] {
        attester.attributes = fit & !missing;
        assert!(matches!(attester.open(&good), Err(TpmError::AttestationKey(_))), "{missing:#x}");
    }
    // Decryption, and duplication.
    for excess in [DECRYPT, 1 << 11] {
        attester.attributes = fit | excess;
        assert!(matches!(attester.open(&good), Err(TpmError::AttestationKey(_))), "{excess:#x}");
    }
    attester.attributes = fit;
    for (name_algorithm, scheme, curve, error) in [
        // SHA-1 as the digest of the name, then of the scheme; no scheme; another curve; P-384 with SHA-256.
        (0x0004, &ECDSA_SHA256[..], ECC_P256, TpmError::Malformed("public area of the attestation key")),
        (ALG_SHA256, &[0, 0x18, 0, 0x04], ECC_P256, TpmError::AttestationKey("")),
        (ALG_SHA256, &[0, 0x10], ECC_P256, TpmError::AttestationKey("")),
        (ALG_SHA256, &ECDSA_SHA256, 0x0010, TpmError::AttestationKey("")),
        (ALG_SHA256, &ECDSA_SHA256, ECC_P384, TpmError::AttestationKey("")),
    ] {
        let mut identity = attester.identity(&good);
        identity.ak_public = attester.public(name_algorithm, scheme, curve).try_into().unwrap();
        let found = challenge(&identity, &Roots::shipped(), 0).unwrap_err();
        assert_eq!(std::mem::discriminant(&found), std::mem::discriminant(&error), "{found}");
    }
}

#[test]
fn an_endorsement_key_that_is_no_storage_key_is_unfit() {
    let attester = Attester::new();
    let good = Statement::good(OPENING_DATA).marshal();
    let identity = attester.identity(&good);
    let change = |at: usize, bytes: &[u8]| {
        let mut public = identity.ek_public.to_vec();
        public[at..at + bytes.len()].copy_from_slice(bytes);
        let changed = Identity { ek_public: public.try_into().unwrap(), ..identity.clone() };
        challenge(&changed, &Roots::shipped(), 0).unwrap_err()
    };
    let attributes = u32::from_be_bytes(identity.ek_public[4..8].try_into().unwrap());
    for missing in [FIXED_TPM, FIXED_PARENT, SENSITIVE_DATA_ORIGIN, RESTRICTED, DECRYPT] {
        let error = change(4, &(attributes & !missing).to_be_bytes());
        assert!(matches!(error, TpmError::EndorsementKey(_)), "{missing:#x}: {error}");
    }
    for excess in [SIGN, 1 << 11] {
        assert!(matches!(change(4, &(attributes | excess).to_be_bytes()), TpmError::EndorsementKey(_)));
    }
    // After the policy: AES, its bits, its mode, no scheme, the bits and the exponent of the key.
    assert!(matches!(change(44, &192_u16.to_be_bytes()), TpmError::EndorsementKey(_)));
    assert!(matches!(change(46, &[0, 0x42]), TpmError::Malformed(_)), "another mode than CFB");
    assert!(matches!(change(50, &1024_u16.to_be_bytes()), TpmError::EndorsementKey(_)));
    assert!(matches!(change(52, &3_u32.to_be_bytes()), TpmError::EndorsementKey(_)));
    assert!(matches!(change(58, &[0]), TpmError::EndorsementKey(_)), "a modulus that is too small");
    // A signing key.
    let changed = Identity { ek_public: identity.ak_public.clone(), ..identity.clone() };
    let error = challenge(&changed, &Roots::shipped(), 0).unwrap_err();
    assert!(matches!(error, TpmError::EndorsementKey(_)), "{error}");
}
