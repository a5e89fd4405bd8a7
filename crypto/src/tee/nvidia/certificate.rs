//! The certificates of a GPU: which chip it is, which key is its own, and which firmware holds the key that signs.

use super::{NvidiaError, report::Report};
use crate::tee::x509::{self, CertificateError};
use aitbc_protocol::{Digest, UnixMillis};
use ring::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use x509_parser::{
    certificate::X509Certificate,
    der_parser::{
        asn1_rs::{Any, FromDer as _, Tag},
        oid::Oid,
    },
};

/// DICE's TcbInfo (TCG DICE Attestation Architecture 1.1, section 6.1.1).
const TCB_INFO: &[u64] = &[2, 23, 133, 5, 4, 1];
/// SHA-384 (NIST CSOR).
const SHA_384: &[u64] = &[2, 16, 840, 1, 101, 3, 4, 2, 2];
/// Most levels of a TcbInfo that are looked at.
const MAX_DEPTH: u8 = 6;

/// What the certificates say of a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device {
    /// The chip, such as `GH100`: the first word of the leaf's common name.
    pub chip: String,
    /// A digest of the key that certified the leaf, which is fused into the chip: the leaf's own changes with firmware.
    pub identity: Digest,
}

/// Verifies that a chain (DER, leaf first) leads to one of `roots`, that its leaf's key signed the report, and that this
/// leaf is for the firmware that the report names.
pub(super) fn check(
    chain: &[&[u8]],
    roots: &[Vec<u8>],
    report: &Report<'_>,
    now_ms: UnixMillis,
) -> Result<Device, NvidiaError> {
    let roots: Vec<&[u8]> = roots.iter().map(Vec::as_slice).collect();
    x509::check_chain(chain, &roots, now_ms).map_err(NvidiaError::Chain)?;
    let [leaf, issuer, ..] = *chain else { return Err(NvidiaError::Device("it has no issuer with it")) };
    let leaf = x509::parse(leaf).map_err(NvidiaError::Chain)?;
    let issuer = x509::parse(issuer).map_err(NvidiaError::Chain)?;
    let key = UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, &leaf.public_key().subject_public_key.data);
    key.verify(report.signed, report.signature).map_err(|_| NvidiaError::Signature)?;
    if fwid(&leaf)? != report.fwid {
        return Err(NvidiaError::OtherFirmware);
    }
    Ok(Device { chip: chip(&leaf)?, identity: Digest::of(issuer.public_key().raw) })
}

/// The chip that the leaf of a chain is for. It is not believed before the chain is verified.
pub(super) fn chip_of(chain: &[&[u8]]) -> Result<String, NvidiaError> {
    let leaf = chain.first().ok_or(NvidiaError::Chain(CertificateError::Empty))?;
    chip(&x509::parse(leaf).map_err(NvidiaError::Chain)?)
}

/// The chip that a leaf is for.
fn chip(leaf: &X509Certificate<'_>) -> Result<String, NvidiaError> {
    let name = leaf.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    let chip = name.and_then(|name| name.split(' ').next()).unwrap_or_default();
    let is_chip = (3..=8).contains(&chip.len()) && chip.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if is_chip { Ok(chip.to_owned()) } else { Err(NvidiaError::Device("it names no chip")) }
}

/// The firmware's digest in a leaf's TcbInfo, which must hold exactly one by SHA-384.
///
/// Hopper writes there what came before DICE's own form, a version and a key before the digest; both forms write the
/// digest as the pair of an algorithm and an octet string, which is what is looked for.
fn fwid<'a>(leaf: &'a X509Certificate<'_>) -> Result<&'a [u8], NvidiaError> {
    let missing = NvidiaError::Device("it does not say for which firmware it is");
    let oid = Oid::from(TCB_INFO).map_err(|_| missing.clone())?;
    let extension = leaf.get_extension_unique(&oid).map_err(|_| missing.clone())?.ok_or(missing.clone())?;
    let mut found = Vec::new();
    collect_fwids(extension.value, 0, &mut found);
    match found[..] {
        [fwid] => Ok(fwid),
        _ => Err(missing),
    }
}

/// Adds the digests of all pairs of SHA-384 and an octet string of 48 bytes in `der`.
fn collect_fwids<'a>(der: &'a [u8], depth: u8, found: &mut Vec<&'a [u8]>) {
    let mut rest = der;
    let mut is_sha_384 = false;
    while let Ok((after, value)) = Any::from_der(rest) {
        rest = after;
        if is_sha_384 && value.tag() == Tag::OctetString && value.data.len() == 48 {
            found.push(value.data);
        }
        is_sha_384 =
            value.tag() == Tag::Oid && Oid::from(SHA_384).is_ok_and(|sha_384| sha_384.as_bytes() == value.data);
        if value.header.is_constructed() && depth < MAX_DEPTH {
            collect_fwids(value.data, depth + 1, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::report, *};

    const REPORT: &str = include_str!("../../../../tests/fixtures/attestation/nvidia/hopperAttestationReport.txt");
    const CHAIN: &[u8] = include_bytes!("../../../../tests/fixtures/attestation/nvidia/hopperCertChain.txt");
    const ROOT: &[u8] = include_bytes!("roots/device.pem");
    /// 2025-09-01.
    const NOW_MS: u64 = 1_756_684_800_000;

    #[test]
    fn a_leaf_is_for_one_chip_and_one_firmware() {
        let bytes = hex::decode(REPORT.trim()).unwrap();
        let report = report::parse(&bytes).unwrap();
        let chain = x509::pem_chain(CHAIN).unwrap();
        let leaf = x509::parse(&chain[0]).unwrap();
        assert_eq!(fwid(&leaf).unwrap(), report.fwid);
        assert_eq!(chip(&leaf).unwrap(), "GH100");
        // The boot ROM's certificate is for all firmware.
        assert!(matches!(fwid(&x509::parse(&chain[1]).unwrap()), Err(NvidiaError::Device(_))));
    }

    #[test]
    fn a_report_of_other_firmware_is_refused_although_it_is_signed() {
        let bytes = hex::decode(REPORT.trim()).unwrap();
        let mut report = report::parse(&bytes).unwrap();
        let chain = x509::pem_chain(CHAIN).unwrap();
        let chain: Vec<&[u8]> = chain.iter().map(Vec::as_slice).collect();
        let roots = x509::pem_chain(ROOT).unwrap();
        assert!(check(&chain, &roots, &report, NOW_MS).is_ok());
        report.fwid = &[7; 48];
        assert_eq!(check(&chain, &roots, &report, NOW_MS), Err(NvidiaError::OtherFirmware));
    }

    #[test]
    fn only_a_pair_with_sha_384_is_a_digest_of_firmware() {
        let sha_256 =
            [&[0x30, 0x3d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 3, 4, 2, 1, 0x04, 0x30][..], &[5; 48]];
        let mut found = Vec::new();
        let der = sha_256.concat();
        collect_fwids(&der, 0, &mut found);
        assert!(found.is_empty());
        let sha_384 =
            [&[0x30, 0x3d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 3, 4, 2, 2, 0x04, 0x30][..], &[5; 48]];
        let der = sha_384.concat();
        collect_fwids(&der, 0, &mut found);
        assert_eq!(found, [[5; 48]]);
    }
}
