//! Endorsement keys and the certificates by which vendors vouch for them (TCG EK Credential Profile for TPM 2.0, 2.5).

use super::{
    TpmError,
    quote::effective_exponent,
    structures::{DECRYPT, FIXED_PARENT, FIXED_TPM, Key, Public, RESTRICTED, SENSITIVE_DATA_ORIGIN, SIGN},
};
use crate::tee::x509::{self, CertificateError, MAX_CHAIN};
use aitbc_protocol::{Digest, UnixMillis};
use std::sync::LazyLock;
use x509_parser::{
    certificate::X509Certificate, oid_registry::Oid, pem::Pem, prelude::FromDer as _, public_key::RSAPublicKey,
};

/// `tcg-kp-EKCertificate`, 2.23.133.8.1, as its DER contents.
const EK_CERTIFICATE: &[u8] = &[0x67, 0x81, 0x05, 0x08, 0x01];
/// `rsaEncryption`, 1.2.840.113549.1.1.1.
const RSA_ENCRYPTION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
/// `id-RSAES-OAEP`, 1.2.840.113549.1.1.7, which older certificates name for the same key.
const RSAES_OAEP: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x07];
/// Extensions that may be critical, 2.5.29.x: directory attributes, the subject's key, usage, names (the TPM's model),
/// constraints, policies, the issuer's key, extended usage.
const KNOWN_EXTENSIONS: [u8; 8] = [9, 14, 15, 17, 19, 32, 35, 37];

/// Roots by vendor, each with whether its TPMs are virtual.
const ROOTS: [(&[u8], bool); 8] = [
    (include_bytes!("../../../data/tpm_roots/amd.pem"), false),
    (include_bytes!("../../../data/tpm_roots/google.pem"), true),
    (include_bytes!("../../../data/tpm_roots/infineon.pem"), false),
    (include_bytes!("../../../data/tpm_roots/intel.pem"), false),
    (include_bytes!("../../../data/tpm_roots/microsoft.pem"), false),
    (include_bytes!("../../../data/tpm_roots/nsing.pem"), false),
    (include_bytes!("../../../data/tpm_roots/nuvoton.pem"), false),
    (include_bytes!("../../../data/tpm_roots/stmicro.pem"), false),
];
/// What vendors issue endorsement certificates with. They add no trust: each must lead to a root.
const INTERMEDIATES: [&[u8]; 7] = [
    include_bytes!("../../../data/tpm_intermediates/amd.pem"),
    include_bytes!("../../../data/tpm_intermediates/google.pem"),
    include_bytes!("../../../data/tpm_intermediates/infineon.pem"),
    include_bytes!("../../../data/tpm_intermediates/intel.pem"),
    include_bytes!("../../../data/tpm_intermediates/microsoft.pem"),
    include_bytes!("../../../data/tpm_intermediates/nsing.pem"),
    include_bytes!("../../../data/tpm_intermediates/stmicro.pem"),
];

/// The shipped certificates, read once.
static SHIPPED: LazyLock<Roots> = LazyLock::new(|| Roots {
    roots: ROOTS
        .iter()
        .flat_map(|(pem, is_virtual)| read_pem(pem).map(|der| Root { der, is_virtual: *is_virtual }))
        .collect(),
    intermediates: INTERMEDIATES.iter().copied().flat_map(read_pem).collect(),
});

/// The certificates of a text of ours.
fn read_pem(text: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    Pem::iter_from_buffer(text).map_while(Result::ok).map(|pem| pem.contents)
}

/// Whose endorsement of a TPM counts.
#[derive(Clone, Debug)]
pub struct Roots {
    roots: Vec<Root>,
    intermediates: Vec<Vec<u8>>,
}

#[derive(Clone, Debug)]
struct Root {
    der: Vec<u8>,
    is_virtual: bool,
}

impl Roots {
    /// The vendors' that ship with the node: AMD, Google (virtual TPMs), Infineon, Intel, Microsoft, Nsing, Nuvoton and
    /// STMicroelectronics. Those that sign on P-521 are left out: ring does not verify it.
    pub fn shipped() -> Self {
        SHIPPED.clone()
    }

    /// Nobody's yet: only those that are added.
    pub fn none() -> Self {
        Self { roots: Vec::new(), intermediates: Vec::new() }
    }

    /// With one root more (DER), by the owner's choice.
    pub fn with(mut self, root: Vec<u8>) -> Result<Self, CertificateError> {
        x509::parse(&root)?;
        self.roots.push(Root { der: root, is_virtual: false });
        Ok(self)
    }

    /// Verifies an endorsement certificate for `key`, with what the attester sent of its chain.
    pub(super) fn check(
        &self,
        certificate: &[u8],
        presented: &[&[u8]],
        key: &Public,
        now_ms: UnixMillis,
    ) -> Result<Endorsed, TpmError> {
        let leaf = x509::parse(certificate)?;
        check_profile(&leaf)?;
        if !is_key_of(&leaf, key) {
            return Err(TpmError::OtherEndorsementKey);
        }
        let root = self.lead(certificate, presented, now_ms)?;
        Ok(Endorsed { root: x509::subject(&x509::parse(&root.der)?), is_virtual: root.is_virtual })
    }

    /// The root that a certificate leads to by a chain that is valid at `now_ms`.
    fn lead(&self, certificate: &[u8], presented: &[&[u8]], now_ms: UnixMillis) -> Result<&Root, TpmError> {
        let mut chain = vec![certificate];
        let root = loop {
            let last = x509::parse(chain.last().copied().unwrap_or_default())?;
            check_critical(&last)?;
            if let Some(root) = self.root_of(&last) {
                break root;
            }
            if chain.len() > MAX_CHAIN {
                return Err(CertificateError::TooLarge.into());
            }
            chain.push(self.issuer_of(&last, presented)?);
        };
        x509::check_chain(&chain, &[&root.der], now_ms)?;
        Ok(root)
    }

    /// The root that signed `certificate`, or is it.
    fn root_of(&self, certificate: &X509Certificate<'_>) -> Option<&Root> {
        self.roots.iter().find(|root| {
            root.der == certificate.as_raw() || x509::parse(&root.der).is_ok_and(|root| issued(certificate, &root))
        })
    }

    /// Who signed `certificate`, among those known and presented.
    fn issuer_of<'a>(
        &'a self,
        certificate: &X509Certificate<'_>,
        presented: &[&'a [u8]],
    ) -> Result<&'a [u8], CertificateError> {
        let mut named = false;
        let candidates = self.intermediates.iter().map(Vec::as_slice).chain(presented.iter().copied());
        for der in candidates {
            let issuer = x509::parse(der)?;
            if issuer.subject().as_raw() == certificate.issuer().as_raw() && der != certificate.as_raw() {
                named = true;
                if x509::check_signature(certificate, &issuer).is_ok() {
                    return Ok(der);
                }
            }
        }
        let named = named
            || self.roots.iter().any(|root| {
                x509::parse(&root.der).is_ok_and(|root| root.subject().as_raw() == certificate.issuer().as_raw())
            });
        let subject = x509::subject(certificate);
        Err(if named { CertificateError::Signature(subject) } else { CertificateError::UnknownRoot(subject) })
    }
}

/// A TPM for which a vendor vouches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endorsed {
    /// Whose root it is.
    pub(super) root: String,
    /// It is software of a cloud provider's.
    pub(super) is_virtual: bool,
}

fn issued(certificate: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> bool {
    issuer.subject().as_raw() == certificate.issuer().as_raw()
        && x509::check_signature(certificate, issuer).is_ok()
}

/// Whether a certificate is for an endorsement key and nothing else (EK Credential Profile, section 3).
fn check_profile(certificate: &X509Certificate<'_>) -> Result<(), TpmError> {
    let unfit = |_| TpmError::NotAnEndorsementCertificate;
    let usage = certificate.extended_key_usage().map_err(unfit)?;
    let for_endorsement =
        usage.is_some_and(|usage| usage.value.other.iter().any(|oid| oid.as_bytes() == EK_CERTIFICATE));
    let is_issuer =
        certificate.basic_constraints().map_err(unfit)?.is_some_and(|constraints| constraints.value.ca);
    let encrypts = certificate.key_usage().map_err(unfit)?.is_none_or(|usage| usage.value.key_encipherment());
    if for_endorsement && !is_issuer && encrypts { Ok(()) } else { Err(TpmError::NotAnEndorsementCertificate) }
}

/// Whether all that is critical is known (RFC 5280, section 4.2).
fn check_critical(certificate: &X509Certificate<'_>) -> Result<(), TpmError> {
    let known = |oid: &Oid<'_>| matches!(oid.as_bytes(), [0x55, 0x1d, last] if KNOWN_EXTENSIONS.contains(last));
    if certificate.extensions().iter().any(|extension| extension.critical && !known(&extension.oid)) {
        return Err(TpmError::NotAnEndorsementCertificate);
    }
    Ok(())
}

/// Whether the certificate is about this key.
fn is_key_of(certificate: &X509Certificate<'_>, public: &Public) -> bool {
    let Key::Rsa { exponent, modulus, .. } = &public.key else { return false };
    let info = certificate.public_key();
    let algorithm = info.algorithm.algorithm.as_bytes();
    if algorithm != RSA_ENCRYPTION && algorithm != RSAES_OAEP {
        return false;
    }
    let Ok(([], certified)) = RSAPublicKey::from_der(&info.subject_public_key.data) else { return false };
    let certified_modulus = certified.modulus.strip_prefix(&[0]).unwrap_or(certified.modulus);
    certified_modulus == modulus && certified.try_exponent() == Ok(u64::from(effective_exponent(*exponent)))
}

/// Whether a key is as the profile's RSA templates make it (section 5.3): a storage key of 2,048 bits that the TPM made
/// and keeps, with AES-CFB and no scheme.
pub(super) fn check_key(key: &Public) -> Result<(), TpmError> {
    let Key::Rsa { bits: 2048, exponent: 0 | 65_537, modulus } = &key.key else {
        return Err(TpmError::EndorsementKey("it is no RSA key of 2,048 bits"));
    };
    if modulus.len() != 256 || modulus[0] < 0x80 || modulus[255] % 2 == 0 {
        return Err(TpmError::EndorsementKey("its modulus has not 2,048 bits"));
    }
    let needed = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | RESTRICTED | DECRYPT;
    if !key.has(needed) || key.attributes & SIGN != 0 {
        return Err(TpmError::EndorsementKey("it is no restricted decryption key that stays in its TPM"));
    }
    if !matches!(key.aes_bits, Some(128 | 256)) || key.scheme.is_some() {
        return Err(TpmError::EndorsementKey("it does not protect what it is the parent of with AES-CFB"));
    }
    Ok(())
}

/// What lasts of a TPM: SHA-256 of its endorsement key as a `SubjectPublicKeyInfo` with `rsaEncryption` (RFC 3279,
/// section 2.3.1), whatever a certificate calls it and whatever else its public area says.
pub(super) fn identity(key: &Public) -> Option<Digest> {
    let Key::Rsa { exponent, modulus, .. } = &key.key else { return None };
    let number = |bytes: &[u8]| {
        let mut digits: Vec<u8> = bytes.iter().copied().skip_while(|byte| *byte == 0).collect();
        if digits.first().is_none_or(|first| *first >= 0x80) {
            digits.insert(0, 0);
        }
        der(0x02, &digits)
    };
    let exponent = effective_exponent(*exponent).to_be_bytes();
    let pair = der(0x30, &[number(modulus), number(&exponent)].concat());
    let algorithm = der(0x30, &[der(0x06, RSA_ENCRYPTION), der(0x05, &[])].concat());
    let info = der(0x30, &[algorithm, der(0x03, &[&[0][..], &pair].concat())].concat());
    Some(Digest::of(&info))
}

/// One DER element of under 64 KiB.
fn der(tag: u8, contents: &[u8]) -> Vec<u8> {
    let length = contents.len();
    let mut element = vec![tag];
    match length {
        0..0x80 => element.push(length as u8),
        0x80..0x100 => element.extend([0x81, length as u8]),
        _ => element.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    element.extend_from_slice(contents);
    element
}

#[cfg(test)]
mod tests;
