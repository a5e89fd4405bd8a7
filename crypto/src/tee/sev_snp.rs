//! Attestation reports of AMD SEV-SNP guests.
//!
//! A report is signed by a key that the chip derives from its secret and the versions of its firmware (VCEK). AMD
//! certifies that key: VCEK by ASK by ARK, whose digest is pinned here. The crate `sev` reads the fields; chain, signature
//! and everything that the fields must agree with are checked here.

mod endorsement;
mod firmware;
mod report;
mod table;

pub use firmware::{AMD_ROOTS, AMD_SB_3019, Floors, Product, Root, Versions};
pub use report::REPORT_BYTES;

use crate::tee::x509::{CertificateError, MAX_CERTIFICATE_BYTES};
use aitbc_protocol::{
    Digest, UnixMillis,
    attestation::{Appraisal, EvidenceKind, Measurement, TrustVector},
    bytes::BoundedBytes,
};
use endorsement::Endorsement;
use serde::{Deserialize, Serialize};
use sev::firmware::guest::AttestationReport;

/// A report and the certificates behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnpEvidence {
    /// The report as the firmware gives it, 1,184 bytes.
    #[serde(rename = "r")]
    pub report: BoundedBytes<REPORT_BYTES>,
    /// Certificate of the key that signed it (DER).
    #[serde(rename = "v")]
    pub vcek: BoundedBytes<MAX_CERTIFICATE_BYTES>,
    /// Certificate of AMD's signing key (ASK, DER).
    #[serde(rename = "s")]
    pub ask: BoundedBytes<MAX_CERTIFICATE_BYTES>,
    /// Certificate of AMD's root key (ARK, DER).
    #[serde(rename = "k")]
    pub ark: BoundedBytes<MAX_CERTIFICATE_BYTES>,
}

/// Whom and what a verifier trusts.
#[derive(Clone, Debug)]
pub struct SnpTrust {
    /// Root keys.
    pub roots: Vec<Root>,
    /// Revocation lists of the roots (DER), where there are some. One of a root in use that is out of date is an error.
    pub revocations: Vec<Vec<u8>>,
    /// Firmware that is older is refused.
    pub floors: Floors,
    /// The least privileged level (VMPL, 0 to 3) at which the asker may have run.
    pub most_vmpl: u32,
}

impl Default for SnpTrust {
    /// AMD's roots, no revocation lists, firmware from AMD-SB-3019 on, the most privileged level alone.
    fn default() -> Self {
        Self { roots: AMD_ROOTS.to_vec(), revocations: Vec::new(), floors: AMD_SB_3019, most_vmpl: 0 }
    }
}

/// Why a report does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnpError {
    /// Another length, or bytes set that must be zero.
    #[error("not a report of SEV-SNP's: {REPORT_BYTES} bytes whose reserved fields are zero")]
    Malformed,
    /// A layout that is not known here.
    #[error("a report of version {0}: versions 2 to 5 are known here")]
    Version(u32),
    /// Another algorithm.
    #[error("a report signed with algorithm {0}, where 1 is the only one")]
    Algorithm(u32),
    /// The host handed none to the guest.
    #[error("the host gave its guest no usable certificate of the {0}: have it load them (snphost import)")]
    NoCertificate(&'static str),
    /// A certificate does not count.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// An extension of AMD's is missing, there twice, or malformed.
    #[error("the certificate of the report's key lacks an extension or has a malformed one: {0}")]
    Extension(&'static str),
    /// The certificate is one of another kind of key.
    #[error("{0} is no key of a chip (VCEK): loaded keys (VLEK) name no chip; have the host use the VCEK")]
    NotVcek(String),
    /// The certificates, or report and certificate, name different products.
    #[error("certificate or report is of another product than the root key's, {0}")]
    Product(Product),
    /// The host has the firmware sign nothing.
    #[error("the report is not signed: the host masks the chip's key (MASK_CHIP_KEY)")]
    Unsigned,
    /// The key did not sign these bytes.
    #[error("the report is not signed by the key of its certificate, or was changed since")]
    Signature,
    /// The report says that another key signed it.
    #[error("the report names signing key {0}, where 0 is the chip's (VCEK)")]
    SigningKey(u32),
    /// The report was made for something else.
    #[error("the report carries other user data: it was made for another nonce, or by another peer")]
    UserData,
    /// The host hides the chip's number.
    #[error("the report names no chip: the host masks its number (MASK_CHIP_ID)")]
    MaskedChip,
    /// The certificate is of another chip.
    #[error("the certificate is of another chip than the report")]
    Chip,
    /// The certificate is of other firmware.
    #[error(
        "the certificate is for {part} {certified}, the report says {reported}: fetch the one for this firmware"
    )]
    Firmware {
        /// Which part of it.
        part: &'static str,
        /// Version in the certificate.
        certified: u8,
        /// Version in the report.
        reported: u8,
    },
    /// Older than the floor.
    #[error("firmware out of date: {part} is {have}, and {needs} is the oldest that is taken; update the host's")]
    OutOfDate {
        /// Which part of it.
        part: &'static str,
        /// Its version.
        have: u8,
        /// The oldest that is taken.
        needs: u8,
    },
    /// The host may read and write the guest's memory.
    #[error("the guest's policy allows debugging: start it without")]
    Debug,
    /// The guest may be moved by another one.
    #[error("the guest's policy allows a migration agent: start it without")]
    MigrationAgent,
    /// Asked for by something less privileged, or by the host.
    #[error("the report was asked for at privilege level {got}, where at most {most} is taken")]
    PrivilegeLevel {
        /// Its level: 0xffff_ffff where the host asked.
        got: u32,
        /// The policy's.
        most: u32,
    },
}

/// Verifies a report that must carry `expected` as its 64 bytes of user data.
pub fn verify(
    evidence: &SnpEvidence,
    expected: &[u8; 64],
    trust: &SnpTrust,
    now_ms: UnixMillis,
) -> Result<Appraisal, SnpError> {
    let bytes: &[u8; REPORT_BYTES] = evidence.report.as_slice().try_into().map_err(|_| SnpError::Malformed)?;
    let chain = [evidence.vcek.as_slice(), evidence.ask.as_slice(), evidence.ark.as_slice()];
    let endorsement = endorsement::verify(chain, &trust.roots, &trust.revocations, now_ms)?;
    report::verify_signature(bytes, &endorsement.key)?;
    let report = report::parse(bytes)?;
    check_identity(&report, &endorsement)?;
    if report.report_data != *expected {
        return Err(SnpError::UserData);
    }
    check_guest(&report, trust)?;
    check_floor(&report, &endorsement, trust)?;
    Ok(appraise(&report, &endorsement))
}

/// Whether key, chip and firmware of the report are those of the certificate.
fn check_identity(report: &AttestationReport, endorsement: &Endorsement) -> Result<(), SnpError> {
    if report.key_info.mask_chip_key() {
        return Err(SnpError::Unsigned);
    }
    let signing_key = report.key_info.signing_key();
    if signing_key != 0 {
        return Err(SnpError::SigningKey(signing_key));
    }
    if report.chip_id != endorsement.chip {
        return Err(SnpError::Chip);
    }
    // The layout of versions follows the product; `sev` guesses that from the processor's model or the chip's number.
    if report.reported_tcb.fmc.is_some() != (endorsement.product == Product::Turin) {
        return Err(SnpError::Product(endorsement.product));
    }
    let reported = Versions::from(report.reported_tcb).parts();
    for ((part, reported), (_, certified)) in reported.into_iter().zip(endorsement.versions.parts()) {
        if reported != certified {
            return Err(SnpError::Firmware { part, certified, reported });
        }
    }
    Ok(())
}

/// Whether the guest is one that its host cannot look into.
fn check_guest(report: &AttestationReport, trust: &SnpTrust) -> Result<(), SnpError> {
    if report.policy.debug_allowed() {
        return Err(SnpError::Debug);
    }
    if report.policy.migrate_ma_allowed() {
        return Err(SnpError::MigrationAgent);
    }
    if report.vmpl > trust.most_vmpl {
        return Err(SnpError::PrivilegeLevel { got: report.vmpl, most: trust.most_vmpl });
    }
    Ok(())
}

/// Whether the firmware is new enough: what signed, what it can be taken back to, and what started the guest.
fn check_floor(report: &AttestationReport, endorsement: &Endorsement, trust: &SnpTrust) -> Result<(), SnpError> {
    let floor = trust.floors.of(endorsement.product);
    for tcb in [report.reported_tcb, report.committed_tcb, report.launch_tcb] {
        if let Some((part, have, needs)) = Versions::from(tcb).shortfall(floor) {
            return Err(SnpError::OutOfDate { part, have, needs });
        }
    }
    Ok(())
}

fn appraise(report: &AttestationReport, endorsement: &Endorsement) -> Appraisal {
    let versions = endorsement.versions;
    let mut notes = vec![format!(
        "A guest on an AMD {} chip: boot loader {}, tee {}, snp {}, microcode {}.",
        endorsement.product, versions.bootloader, versions.tee, versions.snp, versions.microcode
    )];
    let mut vector = TrustVector { instance_identity: 2, hardware: 2, configuration: 2, ..TrustVector::default() };
    vector.runtime_opaque = 2;
    let vulnerable = versions.shortfall(AMD_SB_3019.of(endorsement.product)).map(|_| true);
    if vulnerable.is_some() {
        vector.hardware = 32;
        notes.push("Its firmware lets forged microcode in (AMD-SB-3019).".to_owned());
    }
    if report.policy.smt_allowed() && report.plat_info.smt_enabled() {
        notes.push("Its cores may be shared with others' threads (SMT).".to_owned());
    }
    // From version 3 on the firmware says whether it looked for memory that answers at two addresses.
    if report.version >= 3 && !report.plat_info.alias_check_complete() {
        vector.configuration = 32;
        notes.push("The firmware did not finish looking for aliased memory (AMD-SB-3015).".to_owned());
    }
    if Versions::from(report.committed_tcb) != Versions::from(report.current_tcb) {
        notes.push("The host can take its firmware back to an older one.".to_owned());
    }
    if !endorsement.revocation_checked {
        notes.push("No revocation list of AMD's was at hand.".to_owned());
    }
    notes.push("What was started is measured, and compared with nothing here.".to_owned());
    Appraisal {
        kind: EvidenceKind::SevSnp,
        vector,
        hardware: Some(Digest::of(&report.chip_id)),
        measurement: Measurement::from(report.measurement),
        firmware_ms: None,
        vulnerable,
        expires_ms: Some(endorsement.expires_ms),
        notes,
    }
}
