//! The certificates behind a report's key, and what AMD's extensions in the last of them say (AMD 57230, "Versioned Chip
//! Endorsement Key (VCEK) Certificate and KDS Interface Specification", section 3).

use super::{
    SnpError,
    firmware::{Product, Root, Versions},
};
use crate::tee::x509::{self, CertificateError};
use aitbc_protocol::{Digest, UnixMillis};
use x509_parser::{
    certificate::X509Certificate,
    der_parser::{Oid, asn1_rs::Ia5String, oid},
    oid_registry::{OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_KEY_USAGE},
    prelude::FromDer as _,
    revocation_list::CertificateRevocationList,
};

const PRODUCT_NAME: Oid<'static> = oid!(1.3.6.1.4.1.3704.1.2);
const BOOTLOADER: Oid<'static> = oid!(1.3.6.1.4.1.3704.1.3.1);
const TEE: Oid<'static> = oid!(1.3.6.1.4.1.3704.1.3.2);
const SNP: Oid<'static> = oid!(1.3.6.1.4.1.3704.1.3.3);
const MICROCODE: Oid<'static> = oid!(1.3.6.1.4.1.3704.1.3.8);
const FMC: Oid<'static> = oid!(1.3.6.1.4.1.3704.1.3.9);
const HARDWARE_ID: Oid<'static> = oid!(1.3.6.1.4.1.3704.1.4);

/// What AMD certifies of a chip and of the firmware for which it derived a key.
pub(super) struct Endorsement {
    pub(super) product: Product,
    /// The chip's number: 64 bytes, of which Turin uses 8 and leaves the others 0.
    pub(super) chip: [u8; 64],
    pub(super) versions: Versions,
    /// The key that signs reports: a point on P-384, uncompressed.
    pub(super) key: Vec<u8>,
    /// When the first of the certificates ends.
    pub(super) expires_ms: UnixMillis,
    /// Whether a revocation list of the root was there to be looked at.
    pub(super) revocation_checked: bool,
}

/// Verifies VCEK, ASK and ARK (DER, in this order) up to one of `roots`, and reads the VCEK.
pub(super) fn verify(
    chain: [&[u8]; 3],
    roots: &[Root],
    revocations: &[Vec<u8>],
    now_ms: UnixMillis,
) -> Result<Endorsement, SnpError> {
    let [vcek_der, ask_der, ark_der] = chain;
    let (vcek, ask, ark) = (x509::parse(vcek_der)?, x509::parse(ask_der)?, x509::parse(ark_der)?);
    let digest = Digest::of(ark_der);
    let root = roots
        .iter()
        .find(|root| root.digest == digest)
        .ok_or_else(|| CertificateError::UnknownRoot(x509::subject(&ark)))?;
    x509::check_chain(&chain, &[ark_der], now_ms)?;
    for certificate in [&vcek, &ask] {
        refuse_unknown_critical(certificate)?;
    }
    let revocation_checked = check_revocation(&ask, &ark, revocations, now_ms)?;
    if common_name(&vcek) != Some("SEV-VCEK") {
        return Err(SnpError::NotVcek(x509::subject(&vcek)));
    }
    let ends = [&vcek, &ask, &ark].map(|certificate| certificate.validity().not_after.timestamp());
    let expires_s = ends.into_iter().min().unwrap_or(0);
    Ok(Endorsement {
        product: product(&vcek, root.product)?,
        chip: chip(&vcek)?,
        versions: versions(&vcek, root.product)?,
        key: vcek.public_key().subject_public_key.data.to_vec(),
        expires_ms: u64::try_from(expires_s).unwrap_or(0).saturating_mul(1000),
        revocation_checked,
    })
}

/// AMD's certificates have two critical extensions, which the check of the chain reads.
fn refuse_unknown_critical(certificate: &X509Certificate<'_>) -> Result<(), SnpError> {
    let known = [OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_KEY_USAGE];
    if certificate.extensions().iter().any(|extension| extension.critical && !known.contains(&extension.oid)) {
        return Err(SnpError::Extension("one that is critical and not known here"));
    }
    Ok(())
}

/// Whether the ARK took the ASK back. All VCEKs have the serial number 0 and no list of their issuer's, so that a single
/// one is never taken back by name: AMD raises the versions of the firmware instead.
fn check_revocation(
    ask: &X509Certificate<'_>,
    ark: &X509Certificate<'_>,
    revocations: &[Vec<u8>],
    now_ms: UnixMillis,
) -> Result<bool, CertificateError> {
    let mut checked = false;
    for crl in revocations {
        if crl.len() > x509::MAX_CRL_BYTES {
            return Err(CertificateError::TooLarge);
        }
        let (_, list) = CertificateRevocationList::from_der(crl).map_err(|_| CertificateError::Crl)?;
        // Lists of other products' roots may lie beside this one's.
        if list.issuer().as_raw() == ark.subject().as_raw() {
            x509::check_not_revoked(ask, crl, ark, now_ms)?;
            checked = true;
        }
    }
    Ok(checked)
}

fn common_name<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a str> {
    certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok())
}

fn extension<'a>(
    vcek: &'a X509Certificate<'_>,
    oid: &Oid<'static>,
    name: &'static str,
) -> Result<&'a [u8], SnpError> {
    match vcek.get_extension_unique(oid) {
        Ok(Some(extension)) => Ok(extension.value),
        _ => Err(SnpError::Extension(name)),
    }
}

fn product(vcek: &X509Certificate<'_>, root: Product) -> Result<Product, SnpError> {
    let value = extension(vcek, &PRODUCT_NAME, "the product's name")?;
    let Ok(([], name)) = Ia5String::from_der(value) else {
        return Err(SnpError::Extension("the product's name"));
    };
    // "Milan-B0": the stepping may follow.
    match name.string().strip_prefix(root.as_str()) {
        Some("") => Ok(root),
        Some(rest) if rest.starts_with('-') => Ok(root),
        _ => Err(SnpError::Product(root)),
    }
}

fn chip(vcek: &X509Certificate<'_>) -> Result<[u8; 64], SnpError> {
    let value = extension(vcek, &HARDWARE_ID, "the chip's number")?;
    // The extension's value is the number itself, in no DER of its own.
    if value.len() != 64 && value.len() != 8 {
        return Err(SnpError::Extension("the chip's number"));
    }
    let mut chip = [0; 64];
    chip[..value.len()].copy_from_slice(value);
    Ok(chip)
}

fn versions(vcek: &X509Certificate<'_>, product: Product) -> Result<Versions, SnpError> {
    let version = |oid: &Oid<'static>, name| {
        let value = extension(vcek, oid, name)?;
        match u8::from_der(value) {
            Ok(([], version)) => Ok(version),
            _ => Err(SnpError::Extension(name)),
        }
    };
    Ok(Versions {
        fmc: if product == Product::Turin { version(&FMC, "the version of fmc")? } else { 0 },
        bootloader: version(&BOOTLOADER, "the version of the boot loader")?,
        tee: version(&TEE, "the version of tee")?,
        snp: version(&SNP, "the version of snp")?,
        microcode: version(&MICROCODE, "the version of microcode")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tee::sev_snp::AMD_ROOTS;

    /// 2026-01-01.
    const NOW_MS: u64 = 1_767_225_600_000;

    #[test]
    fn turin_has_a_short_number_and_one_version_more() {
        let vcek = include_bytes!("../../../../tests/fixtures/attestation/sev_snp/vcek_turin.der");
        let chain =
            x509::pem_chain(include_bytes!("../../../../tests/fixtures/attestation/sev_snp/cert_chain_turin"))
                .unwrap();
        let endorsement = verify([vcek, &chain[0], &chain[1]], &AMD_ROOTS, &[], NOW_MS).unwrap();
        assert_eq!(endorsement.product, Product::Turin);
        assert_eq!(endorsement.chip[..8], [0x1e, 0x55, 0x0a, 0x8e, 0xe5, 0xcf, 0x9f, 0x4d]);
        assert_eq!(endorsement.chip[8..], [0; 56]);
        assert_eq!(endorsement.versions.microcode, 9);
        // Another product's root, even if it is AMD's, is not this one's.
        let milan = &AMD_ROOTS[..1];
        assert!(matches!(
            verify([vcek, &chain[0], &chain[1]], milan, &[], NOW_MS),
            Err(SnpError::Certificate(CertificateError::UnknownRoot(_)))
        ));
    }
}
