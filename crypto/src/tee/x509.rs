//! Certificates of vendors: bounded parsing, validity at a given time, issuers, revocation.
//!
//! Signatures are verified by ring, through x509-parser: RSA PKCS#1 and PSS from 2,048 bits, ECDSA on P-256 and P-384,
//! Ed25519. What vendors sign with SHA-1 is refused.

use aitbc_protocol::UnixMillis;
use x509_parser::{
    certificate::X509Certificate,
    oid_registry::{OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA},
    pem::Pem,
    prelude::FromDer as _,
    revocation_list::CertificateRevocationList,
};

/// Largest certificate in bytes: those of vendors have under 3 KiB.
pub const MAX_CERTIFICATE_BYTES: usize = 8 * 1024;
/// Most certificates of a chain, without its root.
pub const MAX_CHAIN: usize = 8;
/// Largest revocation list in bytes.
pub const MAX_CRL_BYTES: usize = 1024 * 1024;

/// Why a certificate does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Larger than any certificate, or more of them than a chain has.
    #[error("a certificate or chain larger than {MAX_CERTIFICATE_BYTES} bytes or {MAX_CHAIN} certificates")]
    TooLarge,
    /// Not a certificate, or bytes after it.
    #[error("not an X.509 certificate")]
    Malformed,
    /// The chain has none.
    #[error("no certificate where a chain should be")]
    Empty,
    /// Not valid yet.
    #[error("the certificate of {0} is not valid yet: is a clock wrong?")]
    NotYetValid(String),
    /// Not valid any more.
    #[error("the certificate of {0} has expired")]
    Expired(String),
    /// Signed by somebody else, or changed since.
    #[error("the certificate of {0} is not signed by its issuer")]
    Signature(String),
    /// The name of its issuer is another.
    #[error("the certificate of {0} names another issuer")]
    WrongIssuer(String),
    /// Its issuer may not issue.
    #[error("the certificate of {0} may not issue others")]
    NotAnIssuer(String),
    /// No root that is trusted here.
    #[error("the certificate of {0} does not lead to a root that is trusted here")]
    UnknownRoot(String),
    /// Its issuer took it back.
    #[error("the certificate of {0} was revoked")]
    Revoked(String),
    /// The revocation list is none, is not its issuer's, or is out of date.
    #[error("the revocation list is malformed, out of date, or not the issuer's")]
    Crl,
}

impl CertificateError {
    /// Whether it says something about who showed the certificate. Dates may be a wrong clock's, roots may be missing here,
    /// and the revocation list is the verifier's own.
    pub fn speaks_against(&self) -> bool {
        !matches!(self, Self::NotYetValid(_) | Self::Expired(_) | Self::UnknownRoot(_) | Self::Crl)
    }
}

/// Reads one certificate, which must be all of `der`.
pub fn parse(der: &[u8]) -> Result<X509Certificate<'_>, CertificateError> {
    if der.len() > MAX_CERTIFICATE_BYTES {
        return Err(CertificateError::TooLarge);
    }
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(CertificateError::Malformed),
    }
}

/// The certificates of a PEM text, in its order, as DER.
pub fn pem_chain(text: &[u8]) -> Result<Vec<Vec<u8>>, CertificateError> {
    if text.len() > MAX_CHAIN * MAX_CERTIFICATE_BYTES * 2 {
        return Err(CertificateError::TooLarge);
    }
    let mut chain = Vec::new();
    for pem in Pem::iter_from_buffer(text) {
        let pem = pem.map_err(|_| CertificateError::Malformed)?;
        if pem.label != "CERTIFICATE" {
            return Err(CertificateError::Malformed);
        }
        if chain.len() > MAX_CHAIN || pem.contents.len() > MAX_CERTIFICATE_BYTES {
            return Err(CertificateError::TooLarge);
        }
        chain.push(pem.contents);
    }
    if chain.is_empty() { Err(CertificateError::Empty) } else { Ok(chain) }
}

/// Whom a certificate is about, for errors.
pub fn subject(certificate: &X509Certificate<'_>) -> String {
    certificate.subject().to_string().chars().filter(|c| !c.is_control()).take(120).collect()
}

/// Whether `now_ms` lies within a certificate's dates.
pub fn check_validity(certificate: &X509Certificate<'_>, now_ms: UnixMillis) -> Result<(), CertificateError> {
    let now_s = i64::try_from(now_ms / 1000).unwrap_or(i64::MAX);
    if now_s < certificate.validity().not_before.timestamp() {
        return Err(CertificateError::NotYetValid(subject(certificate)));
    }
    if now_s > certificate.validity().not_after.timestamp() {
        return Err(CertificateError::Expired(subject(certificate)));
    }
    Ok(())
}

/// Whether `issuer` signed `certificate`, is named by it, and may issue (RFC 5280, sections 4.2.1.3 and 4.2.1.9).
/// `below` is how many certificates of the chain stand between the issuer and the leaf.
pub fn check_issued(
    certificate: &X509Certificate<'_>,
    issuer: &X509Certificate<'_>,
    below: usize,
) -> Result<(), CertificateError> {
    if certificate.issuer().as_raw() != issuer.subject().as_raw() {
        return Err(CertificateError::WrongIssuer(subject(certificate)));
    }
    let not_an_issuer = || CertificateError::NotAnIssuer(subject(issuer));
    let constraints = issuer.basic_constraints().map_err(|_| not_an_issuer())?.ok_or_else(not_an_issuer)?;
    let too_deep = constraints.value.path_len_constraint.is_some_and(|most| below > most as usize);
    if !constraints.value.ca || too_deep {
        return Err(not_an_issuer());
    }
    let usage = issuer.key_usage().map_err(|_| not_an_issuer())?;
    if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err(not_an_issuer());
    }
    check_signature(certificate, issuer)
}

/// Whether the key of `issuer` signed `certificate`; nothing else of the two is compared.
pub fn check_signature(
    certificate: &X509Certificate<'_>,
    issuer: &X509Certificate<'_>,
) -> Result<(), CertificateError> {
    let algorithm = &certificate.signature_algorithm.algorithm;
    let whole = certificate.signature_value.unused_bits == 0;
    if !tells_algorithm_twice(certificate)
        || !whole
        || *algorithm == OID_PKCS1_SHA1WITHRSA
        || *algorithm == OID_SHA1_WITH_RSA
    {
        return Err(CertificateError::Signature(subject(certificate)));
    }
    certificate
        .verify_signature(Some(issuer.public_key()))
        .map_err(|_| CertificateError::Signature(subject(certificate)))
}

/// Whether the algorithm outside of what is signed is, byte by byte, the one inside (RFC 5280, section 4.1.1.2).
fn tells_algorithm_twice(certificate: &X509Certificate<'_>) -> bool {
    let signed: &[u8] = certificate.tbs_certificate.as_ref();
    // A header of two bytes, and the bytes of a length of 128 and more.
    let outside = |raw: &'_ [u8]| {
        let header = match *raw.get(1)? {
            length if length < 0x80 => 2,
            length => 2 + usize::from(length & 0x7f),
        };
        let behind = raw.get(header.checked_add(signed.len())?..)?;
        let algorithm = behind.get(..2 + usize::from(*behind.get(1)?))?;
        Some(signed.windows(algorithm.len()).any(|inside| inside == algorithm))
    };
    certificate.signature_algorithm == certificate.tbs_certificate.signature
        && outside(certificate.as_raw()) == Some(true)
}

/// Verifies a chain, leaf first, up to one of `roots` (DER): dates, names, signatures, and that issuers may issue. The
/// chain may end with the root itself or with what a root issued.
///
/// Extensions that are critical and unknown are left to the caller, who knows its vendor's.
pub fn check_chain(chain: &[&[u8]], roots: &[&[u8]], now_ms: UnixMillis) -> Result<(), CertificateError> {
    if chain.len() > MAX_CHAIN + 1 {
        return Err(CertificateError::TooLarge);
    }
    let certificates = chain.iter().map(|der| parse(der)).collect::<Result<Vec<_>, _>>()?;
    let last = certificates.last().ok_or(CertificateError::Empty)?;
    for certificate in &certificates {
        check_validity(certificate, now_ms)?;
    }
    for (below, pair) in certificates.windows(2).enumerate() {
        check_issued(&pair[0], &pair[1], below)?;
    }
    if roots.iter().any(|root| *root == last.as_raw()) {
        return Ok(());
    }
    let unknown = || CertificateError::UnknownRoot(subject(last));
    for root in roots {
        let root = parse(root)?;
        if root.subject().as_raw() == last.issuer().as_raw()
            && check_issued(last, &root, certificates.len() - 1).is_ok()
        {
            return check_validity(&root, now_ms);
        }
    }
    Err(unknown())
}

/// Whether `issuer` took `certificate` back, by its revocation list (DER), which must be in force at `now_ms`.
pub fn check_not_revoked(
    certificate: &X509Certificate<'_>,
    crl: &[u8],
    issuer: &X509Certificate<'_>,
    now_ms: UnixMillis,
) -> Result<(), CertificateError> {
    if crl.len() > MAX_CRL_BYTES {
        return Err(CertificateError::TooLarge);
    }
    let Ok(([], list)) = CertificateRevocationList::from_der(crl) else { return Err(CertificateError::Crl) };
    let now_s = i64::try_from(now_ms / 1000).unwrap_or(i64::MAX);
    let in_force =
        list.last_update().timestamp() <= now_s && list.next_update().is_none_or(|next| now_s <= next.timestamp());
    if !in_force
        || list.signature_algorithm != list.tbs_cert_list.signature
        || list.issuer().as_raw() != issuer.subject().as_raw()
        || list.verify_signature(issuer.public_key()).is_err()
    {
        return Err(CertificateError::Crl);
    }
    if list.iter_revoked_certificates().any(|revoked| revoked.raw_serial() == certificate.raw_serial()) {
        return Err(CertificateError::Revoked(subject(certificate)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAIN: &[u8] = include_bytes!("../../../tests/fixtures/attestation/nvidia/hopperCertChain.txt");
    const ROOT: &[u8] = include_bytes!("../../../tests/fixtures/attestation/nvidia/verifier_device_root.pem");
    const OTHER_ROOT: &[u8] = include_bytes!("../../../tests/fixtures/attestation/nvidia/verifier_RIM_root.pem");
    /// 2025-09-01.
    const NOW_MS: u64 = 1_756_684_800_000;

    fn check(chain: &[Vec<u8>], roots: &[u8], now_ms: u64) -> Result<(), CertificateError> {
        let roots = pem_chain(roots).unwrap();
        let chain: Vec<&[u8]> = chain.iter().map(Vec::as_slice).collect();
        check_chain(&chain, &roots.iter().map(Vec::as_slice).collect::<Vec<_>>(), now_ms)
    }

    #[test]
    fn a_real_chain_leads_to_its_root_and_to_no_other() {
        let chain = pem_chain(CHAIN).unwrap();
        assert_eq!(check(&chain, ROOT, NOW_MS), Ok(()));
        // Without the root in it, too.
        assert_eq!(check(&chain[..chain.len() - 1], ROOT, NOW_MS), Ok(()));
        assert!(matches!(check(&chain, OTHER_ROOT, NOW_MS), Err(CertificateError::UnknownRoot(_))));
        assert!(matches!(check(&chain[..2], ROOT, NOW_MS), Err(CertificateError::UnknownRoot(_))));
        assert_eq!(check(&[], ROOT, NOW_MS), Err(CertificateError::Empty));
    }

    #[test]
    fn dates_order_and_signatures_count() {
        let chain = pem_chain(CHAIN).unwrap();
        assert!(matches!(check(&chain, ROOT, 0), Err(CertificateError::NotYetValid(_))));
        let mut swapped = chain.clone();
        swapped.swap(0, 1);
        assert!(matches!(check(&swapped, ROOT, NOW_MS), Err(CertificateError::WrongIssuer(_))));
        let mut changed = chain.clone();
        *changed[0].last_mut().unwrap() ^= 1;
        assert!(matches!(check(&changed, ROOT, NOW_MS), Err(CertificateError::Signature(_))));
        assert_eq!(check(&vec![chain[0].clone(); MAX_CHAIN + 2], ROOT, NOW_MS), Err(CertificateError::TooLarge));
    }

    #[test]
    fn the_algorithm_outside_of_what_is_signed_counts() {
        let mut der = include_bytes!("../../../tests/fixtures/attestation/sev_snp/vcek_milan.der").to_vec();
        let ask =
            pem_chain(include_bytes!("../../../tests/fixtures/attestation/sev_snp/cert_chain_milan")).unwrap();
        let ask = parse(&ask[0]).unwrap();
        assert_eq!(check_issued(&parse(&der).unwrap(), &ask, 0), Ok(()));
        // The length of the salt, which stands both in what is signed and after it.
        let salt = der.windows(3).rposition(|bytes| bytes == [2, 1, 48]).unwrap();
        der[salt + 2] = 49;
        assert!(matches!(check_issued(&parse(&der).unwrap(), &ask, 0), Err(CertificateError::Signature(_))));
    }

    #[test]
    fn only_who_may_issue_does() {
        macro_rules! der {
            ($($name:literal),*) => {
                [$(include_bytes!(concat!("../../../tests/fixtures/attestation/x509/", $name, ".der")).to_vec()),*]
            };
        }
        let [root] = der!["root"];
        // 2027-01-15.
        let check = |chain: &[Vec<u8>]| {
            let chain: Vec<&[u8]> = chain.iter().map(Vec::as_slice).collect();
            check_chain(&chain, &[&root], 1_800_000_000_000)
        };
        assert_eq!(check(&der!["leaf_of_issuer", "issuer"]), Ok(()));
        for chain in [
            &der!["leaf_of_not_ca", "not_ca"][..],
            &der!["leaf_of_no_constraints", "no_constraints"],
            &der!["leaf_of_no_usage", "no_usage"],
            &der!["leaf_of_below_shallow", "below_shallow", "shallow"],
        ] {
            assert!(matches!(check(chain), Err(CertificateError::NotAnIssuer(_))), "{:?}", check(chain));
        }
        assert_eq!(check(&der!["below_shallow", "shallow"]), Ok(()), "as deep as it may");
    }

    #[test]
    fn bytes_after_a_certificate_are_refused() {
        let mut der = pem_chain(CHAIN).unwrap().swap_remove(0);
        assert!(parse(&der).is_ok());
        der.push(0);
        assert_eq!(parse(&der).unwrap_err(), CertificateError::Malformed);
        assert_eq!(parse(&vec![0; MAX_CERTIFICATE_BYTES + 1]).unwrap_err(), CertificateError::TooLarge);
    }
}
