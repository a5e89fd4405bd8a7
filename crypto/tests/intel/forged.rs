//! A platform of one's own: its chain, keys, and statements in Intel's name, which only the root tells from real ones.

use super::read;
use aitbc_crypto::tee::intel::{Collateral, IntelTrust, QuoteEvidence};
use aitbc_protocol::{Digest, bytes::BoundedBytes};
use base64::Engine as _;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use serde_json::Value;

fn key(pkcs8: &[u8]) -> EcdsaKeyPair {
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &SystemRandom::new()).expect("a key")
}

fn sign(key: &EcdsaKeyPair, text: &[u8]) -> Vec<u8> {
    key.sign(&SystemRandom::new(), text).expect("a signature").as_ref().to_vec()
}

fn pem(names: &[&str]) -> Vec<u8> {
    let block = |name: &&str| {
        let body = base64::engine::general_purpose::STANDARD.encode(read(&format!("intel_forged/{name}")));
        ["-----BEGIN CERTIFICATE-----\n", &body, "\n-----END CERTIFICATE-----\n"].concat()
    };
    names.iter().map(block).collect::<String>().into_bytes()
}

/// The parts of forged evidence, to be changed before they are signed.
pub(crate) struct Forged {
    pub(crate) kind: &'static str,
    /// Header and report: what the attestation key signs.
    pub(crate) signed: Vec<u8>,
    /// Report of the quoting enclave: what the platform's key signs.
    pub(crate) quoting_enclave: Vec<u8>,
    pub(crate) tcb_info: Value,
    pub(crate) qe_identity: Value,
    pub(crate) root_crl: &'static str,
    pub(crate) pck_crl: &'static str,
}

impl Forged {
    /// Everything as in the recorded quote of this kind.
    pub(crate) fn new(kind: &'static str) -> Self {
        let quote = read(&format!("{kind}/quote.bin"));
        let (signed, enclave) = if kind == "sgx" { (432, 432 + 4 + 128) } else { (632, 632 + 4 + 128 + 6) };
        let collateral: Value = serde_json::from_slice(&read(&format!("{kind}/collateral.json"))).expect("JSON");
        let part = |name: &str| serde_json::from_str(collateral[name].as_str().expect("text")).expect("JSON");
        Self {
            kind,
            signed: quote[..signed].to_vec(),
            quoting_enclave: quote[enclave..enclave + 384].to_vec(),
            tcb_info: part("tcb_info"),
            qe_identity: part("qe_identity"),
            root_crl: "root.crl",
            pck_crl: "ca.crl",
        }
    }

    /// Trust in the forged root.
    pub(crate) fn trust() -> IntelTrust {
        IntelTrust { root: Digest::of(&read("intel_forged/root.der")), ..IntelTrust::default() }
    }

    /// Signs everything.
    pub(crate) fn evidence(mut self) -> QuoteEvidence {
        let attestation = key(&read("intel_forged/signer.key"));
        let public = &attestation.public_key().as_ref()[1..];
        let mut made = public.to_vec();
        made.extend_from_slice(&[7; 32]);
        self.quoting_enclave[320..352].copy_from_slice(Digest::of(&made).as_bytes());

        let mut inner = self.quoting_enclave.clone();
        inner.extend(sign(&key(&read("intel_forged/pck.key")), &self.quoting_enclave));
        inner.extend(32_u16.to_le_bytes());
        inner.extend([7; 32]);
        let chain = pem(&[&format!("pck_{}.der", self.kind), "ca.der", "root.der"]);
        inner.extend(5_u16.to_le_bytes());
        inner.extend((chain.len() as u32).to_le_bytes());
        inner.extend(chain);
        let mut authentication = sign(&attestation, &self.signed);
        authentication.extend_from_slice(public);
        if self.kind == "tdx" {
            authentication.extend(6_u16.to_le_bytes());
            authentication.extend((inner.len() as u32).to_le_bytes());
        }
        authentication.extend(inner);
        let mut quote = self.signed.clone();
        quote.extend((authentication.len() as u32).to_le_bytes());
        quote.extend(authentication);
        QuoteEvidence { quote: BoundedBytes::new(quote).expect("small"), collateral: Some(self.collateral()) }
    }

    fn collateral(&self) -> Collateral {
        let signer = key(&read("intel_forged/signer.key"));
        let issuers = pem(&["signer.der", "root.der"]);
        let (tcb_info, qe_identity) = (self.tcb_info.to_string(), self.qe_identity.to_string());
        Collateral {
            root_ca_crl: BoundedBytes::new(read(&format!("intel_forged/{}", self.root_crl))).expect("small"),
            pck_crl: BoundedBytes::new(read(&format!("intel_forged/{}", self.pck_crl))).expect("small"),
            tcb_info_issuer_chain: BoundedBytes::new(issuers.clone()).expect("small"),
            tcb_info_signature: BoundedBytes::new(sign(&signer, tcb_info.as_bytes())).expect("small"),
            tcb_info: BoundedBytes::new(tcb_info.into_bytes()).expect("small"),
            qe_identity_issuer_chain: BoundedBytes::new(issuers).expect("small"),
            qe_identity_signature: BoundedBytes::new(sign(&signer, qe_identity.as_bytes())).expect("small"),
            qe_identity: BoundedBytes::new(qe_identity.into_bytes()).expect("small"),
        }
    }
}
