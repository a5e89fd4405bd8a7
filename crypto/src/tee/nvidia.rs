//! Evidence of NVIDIA's data-centre GPUs: a report of measurements that the GPU signs, its certificates, and NVIDIA's
//! signed reference files, which say what those measurements should be.
//!
//! It shows that a genuine GPU of a named chip answered this nonce, and that the firmware it booted is what NVIDIA
//! published for the driver and the VBIOS that it names. It does not show in which machine the GPU is, nor that this peer
//! alone uses it. Reference files come from the verifier's directory or with the evidence; no vendor is asked, so what
//! NVIDIA revoked since (it tells so by OCSP) is not known.

mod certificate;
mod compare;
mod reference;
mod report;

pub use reference::{MAX_REFERENCE_BYTES, ReferenceError};
pub use report::MAX_REPORT_BYTES;

use super::x509::{self, CertificateError, MAX_CERTIFICATE_BYTES, MAX_CHAIN};
use aitbc_protocol::{
    UnixMillis,
    attestation::{Appraisal, EvidenceKind, Measurement, TrustVector},
    bytes::BoundedBytes,
    text::{Line, bounded_vec},
};
use reference::Reference;
use ring::digest::{SHA384, digest};
use serde::{Deserialize, Serialize};

/// Most reference files that come with evidence.
pub const MAX_REFERENCES: usize = 2;
/// NVIDIA's root for the certificates of GPUs.
const DEVICE_ROOT: &[u8] = include_bytes!("nvidia/roots/device.pem");
/// NVIDIA's root for the certificates of reference files.
const REFERENCE_ROOT: &[u8] = include_bytes!("nvidia/roots/reference.pem");

/// What a GPU shows of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NvidiaEvidence {
    /// The request for measurements and the response, as NVML gives them.
    #[serde(rename = "r")]
    pub report: BoundedBytes<MAX_REPORT_BYTES>,
    /// The certificates (DER), leaf first; the root may be left out.
    #[serde(rename = "c", deserialize_with = "bounded_vec::<_, _, { MAX_CHAIN + 1 }>")]
    pub certificates: Vec<BoundedBytes<MAX_CERTIFICATE_BYTES>>,
    /// Reference files, for a verifier that has none.
    #[serde(rename = "f", default, deserialize_with = "bounded_vec::<_, _, MAX_REFERENCES>")]
    pub references: Vec<ReferenceFile>,
}

/// A reference file, signed by NVIDIA.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceFile {
    /// NVIDIA's name for it, such as `NV_GPU_DRIVER_GH100_550.90.07`.
    #[serde(rename = "n")]
    pub id: Line<96>,
    /// The file, in XML.
    #[serde(rename = "x")]
    pub xml: BoundedBytes<MAX_REFERENCE_BYTES>,
}

/// Whom the verifier trusts, and the reference files that it has.
#[derive(Clone, Debug)]
pub struct NvidiaTrust {
    /// Roots (DER) for the certificates of GPUs.
    pub device_roots: Vec<Vec<u8>>,
    /// Roots (DER) for the certificates of reference files.
    pub reference_roots: Vec<Vec<u8>>,
    /// Reference files, looked at before those that come with the evidence.
    pub references: Vec<ReferenceFile>,
}

impl NvidiaTrust {
    /// NVIDIA's own roots, which are built in, and the reference files given.
    pub fn new(references: Vec<ReferenceFile>) -> Self {
        let root = |pem| x509::pem_chain(pem).expect("the roots that are built in are certificates");
        Self { device_roots: root(DEVICE_ROOT), reference_roots: root(REFERENCE_ROOT), references }
    }
}

/// Why evidence of a GPU does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NvidiaError {
    /// Not a report in the form of SPDM 1.1.
    #[error("this is no attestation report of a GPU: {0}")]
    Malformed(&'static str),
    /// Made for another nonce: stale, or by another peer.
    #[error("the GPU's report was made for another nonce: it is stale, or another peer's")]
    WrongNonce,
    /// Its certificates do not lead to NVIDIA's root.
    #[error("the GPU's certificates: {0}")]
    Chain(CertificateError),
    /// The certificate is not one for reports.
    #[error("the GPU's certificate is not one for reports: {0}")]
    Device(&'static str),
    /// The report is not signed by its certificate's key, or was changed.
    #[error("the GPU's report is not signed with the key of its certificate, or was changed since")]
    Signature,
    /// The certificate is for a key of other firmware than the report names.
    #[error("the GPU's certificate is for other firmware than its report names")]
    OtherFirmware,
    /// Nobody has the reference file.
    #[error("there is no reference file {0}: put {0}.xml into the directory of reference files")]
    NoReference(String),
    /// A reference file does not count.
    #[error("the reference file {id}: {reason}")]
    Reference {
        /// Its name.
        id: String,
        /// Why.
        reason: ReferenceError,
    },
    /// Both reference files say what one measurement should be.
    #[error("the reference files of driver and VBIOS both claim measurement {0}")]
    ClaimedTwice(u8),
    /// The GPU runs something else than its vendor published.
    #[error("{} of {compared} measurements differ from NVIDIA's, at the indexes {indexes:?}", indexes.len())]
    Differs {
        /// How many have a reference.
        compared: usize,
        /// Which differ, by the index of reference files.
        indexes: Vec<u8>,
    },
}

/// The names of the reference files that evidence needs, for the driver and for the VBIOS: what to look for in a
/// directory, as `NAME.xml`. Nothing is verified for it, but names hold only letters, digits, dots and underscores.
pub fn reference_names(evidence: &NvidiaEvidence) -> Result<[String; 2], NvidiaError> {
    let report = report::parse(evidence.report.as_slice())?;
    let chain: Vec<&[u8]> = evidence.certificates.iter().map(BoundedBytes::as_slice).collect();
    let chip = certificate::chip_of(&chain)?;
    Ok([report.driver_reference(&chip), report.vbios_reference()])
}

/// Verifies evidence of one GPU, made for `nonce`.
///
/// The appraisal's measurement is SHA-384 over all measurements by rising index, one after the other; its hardware is
/// SHA-256 over the public key (SubjectPublicKeyInfo, DER) of the certificate that issued the leaf.
pub fn verify(
    evidence: &NvidiaEvidence,
    nonce: &[u8; 32],
    trust: &NvidiaTrust,
    now_ms: UnixMillis,
) -> Result<Appraisal, NvidiaError> {
    let report = report::parse(evidence.report.as_slice())?;
    if report.nonce != *nonce {
        return Err(NvidiaError::WrongNonce);
    }
    let chain: Vec<&[u8]> = evidence.certificates.iter().map(BoundedBytes::as_slice).collect();
    let device = certificate::check(&chain, &trust.device_roots, &report, now_ms)?;
    let find = |id: String, version: &str| find(&id, version, &device.chip, evidence, trust, now_ms);
    let driver = find(report.driver_reference(&device.chip), &report.driver)?;
    let vbios = find(report.vbios_reference(), &report.vbios)?;
    let comparison = compare::compare(&report, &driver, &vbios)?;
    if !comparison.differing.is_empty() {
        return Err(NvidiaError::Differs { compared: comparison.compared, indexes: comparison.differing });
    }

    let mut notes = vec![
        format!("NVIDIA {} with driver {} and VBIOS {}", device.chip, report.driver, report.vbios),
        format!("{} measurements are as NVIDIA published them", comparison.compared),
        "what NVIDIA revoked or found vulnerable since is not known: no service of its was asked".to_owned(),
        "a report does not say in which machine the GPU is, nor how its memory is protected".to_owned(),
    ];
    if comparison.unknown > 0 {
        notes.push(format!("{} measurements have no reference", comparison.unknown));
    }
    if comparison.is_decoder_passed_over {
        notes.push("the video decoder is off, and its firmware's measurement does not count".to_owned());
    }
    if report.is_pcie_protected {
        notes.push("the GPU is in protected PCIe mode: links between GPUs are not encrypted".to_owned());
    }
    let measured: Vec<u8> = report.blocks.iter().flat_map(|block| block.value).copied().collect();
    Ok(Appraisal {
        kind: EvidenceKind::Nvidia,
        // Firmware is measured as it is loaded, and not what runs on the GPU later: hence 3 for executables.
        vector: TrustVector { instance_identity: 2, executables: 3, hardware: 2, ..TrustVector::default() },
        hardware: Some(device.identity),
        measurement: Measurement::new(digest(&SHA384, &measured).as_ref()).unwrap_or_default(),
        firmware_ms: None,
        vulnerable: None,
        expires_ms: Some(driver.expires_ms.min(vbios.expires_ms)),
        notes,
    })
}

/// The reference file of a name: the verifier's own, or else the evidence's, whichever counts first.
fn find(
    id: &str,
    version: &str,
    chip: &str,
    evidence: &NvidiaEvidence,
    trust: &NvidiaTrust,
    now_ms: UnixMillis,
) -> Result<Reference, NvidiaError> {
    let files = trust.references.iter().chain(&evidence.references);
    let mut first_error = None;
    for file in files.filter(|file| file.id.as_str() == id) {
        let read = reference::read(file.xml.as_slice(), &trust.reference_roots, now_ms)
            .and_then(|reference| reference.check_subject(version, chip).map(|()| reference));
        match read {
            Ok(reference) => return Ok(reference),
            Err(reason) if first_error.is_none() => first_error = Some(reason),
            Err(_) => {}
        }
    }
    Err(match first_error {
        Some(reason) => NvidiaError::Reference { id: id.to_owned(), reason },
        None => NvidiaError::NoReference(id.to_owned()),
    })
}
