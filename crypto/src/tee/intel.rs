//! Quotes of Intel SGX enclaves and TDX domains.
//!
//! A quote is signed by a key of the platform's quoting enclave; the platform's key (PCK), which Intel certifies, signs for
//! that enclave. What the platform's firmware is worth follows from Intel's statements ([`Collateral`]), which come from
//! a file or from the peer and stand for about a month.
//!
//! The crate `dcap-qvl` decides, by Intel's rules; its errors are words. Signatures, dates and revocations are therefore
//! checked here first, each with an error of its own, and a quote counts only if both agree.

mod collateral;
mod platform;

pub use collateral::Collateral;

use crate::tee::x509::{self, CertificateError};
use aitbc_protocol::{
    Digest, UnixMillis,
    attestation::{Appraisal, EvidenceKind, Measurement, TrustVector},
    bytes::BoundedBytes,
};
use collateral::Statements;
use dcap_qvl::{
    QuoteClaims, QuotePolicy,
    intel::PckExtension,
    quote::{AuthDataV3, Quote, Report},
    verify::QuoteVerifier,
};
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use std::fmt;
use x509_parser::certificate::X509Certificate;

/// Largest quote in bytes: those of TDX have about 5 KiB.
pub const MAX_QUOTE_BYTES: usize = 32 * 1024;

/// SHA-256 of the certificate (DER) of Intel's root, "Intel SGX Root CA", as
/// <https://certificates.trustedservices.intel.com/Intel_SGX_Provisioning_Certification_RootCA.cer> gives it.
pub const INTEL_ROOT: Digest = Digest([
    0x44, 0xa0, 0x19, 0x6b, 0x2b, 0x99, 0xf8, 0x89, 0xb8, 0xe1, 0x49, 0xe9, 0x5b, 0x80, 0x7a, 0x35, 0x0e, 0x74,
    0x24, 0x96, 0x43, 0x99, 0xe8, 0x85, 0xa7, 0xcb, 0xb8, 0xcc, 0xfa, 0xb6, 0x74, 0xd3,
]);

/// A quote, and what its maker knows of Intel's statements.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuoteEvidence {
    /// The quote as the device gives it; zeros may follow it.
    #[serde(rename = "q")]
    pub quote: BoundedBytes<MAX_QUOTE_BYTES>,
    /// Intel's statements about its platform, for verifiers that have none.
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    pub collateral: Option<Collateral>,
}

/// Whom and what a verifier trusts.
#[derive(Clone, Debug)]
pub struct IntelTrust {
    /// SHA-256 of the root's certificate (DER).
    pub root: Digest,
    /// Statements of the verifier's own: while they stand, they come before what a peer sends about the same platform.
    pub collateral: Vec<Collateral>,
    /// The least `tcbEvaluationDataNumber`: a peer may send statements that are old and still stand.
    pub least_evaluation: u32,
}

impl Default for IntelTrust {
    /// Intel's root, no statements, evaluations from 17 (March 2024) on.
    fn default() -> Self {
        Self { root: INTEL_ROOT, collateral: Vec::new(), least_evaluation: 17 }
    }
}

/// One of Intel's statements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statement {
    /// The platform's levels.
    TcbInfo,
    /// The identity of the quoting enclave.
    QeIdentity,
    /// The root's revocation list.
    RootRevocations,
    /// The revocation list of whom issued the platform's key.
    PckRevocations,
}

impl fmt::Display for Statement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::TcbInfo => "levels of platforms (TCB info)",
            Self::QeIdentity => "identity of quoting enclaves (QE identity)",
            Self::RootRevocations => "revocation list of the root",
            Self::PckRevocations => "revocation list of platforms' keys",
        })
    }
}

/// Why a quote does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IntelError {
    /// Not a quote, or something after it.
    #[error("not a quote of SGX or TDX, or bytes after it")]
    Malformed,
    /// The platform's key is not in the quote.
    #[error("the quote does not carry its platform's certificates: have the quoting service put them in (type 5)")]
    NoCertificates,
    /// A certificate does not count.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The platform's certificate says nothing of the platform.
    #[error("the platform's certificate lacks Intel's extension")]
    Extension,
    /// No statements at all.
    #[error("no collateral for this platform: give a file of it, or have the peer send it")]
    NoCollateral,
    /// The statements are about another platform, or about the other technology.
    #[error("the collateral is about another platform than the quote's")]
    OtherPlatform,
    /// One of the statements is not what it should be.
    #[error("malformed collateral: {0}")]
    Collateral(&'static str),
    /// One of the statements is not Intel's.
    #[error("the {0} is not signed by whom it should be")]
    StatementSignature(Statement),
    /// Not valid yet.
    #[error("the {0} is not valid yet: is a clock wrong?")]
    NotYetValid(Statement),
    /// Not valid any more.
    #[error("the {0} has expired: fetch collateral anew")]
    Expired(Statement),
    /// Old statements.
    #[error("collateral of evaluation {got}, where {least} is the oldest that is taken: fetch it anew")]
    OldEvaluation {
        /// Its number.
        got: u32,
        /// The policy's.
        least: u32,
    },
    /// The platform's key did not sign for the quoting enclave.
    #[error("the report of the quoting enclave is not signed by the platform's key")]
    QuotingEnclaveSignature,
    /// The quoting enclave did not make the key.
    #[error("the attestation key is not the quoting enclave's")]
    AttestationKey,
    /// The key did not sign the quote.
    #[error("the quote is not signed by its attestation key, or was changed since")]
    Signature,
    /// The quote was made for something else.
    #[error("the quote carries other user data: it was made for another nonce, or by another peer")]
    UserData,
    /// Its host may read and write its memory.
    #[error("the enclave or domain is open to debugging: start it without")]
    Debug,
    /// It may be moved by another domain.
    #[error("the domain may be migrated: start it without")]
    Migratable,
    /// Its keys are given up.
    #[error(
        "Intel revoked this platform's level: its keys count no more; update its firmware and provision it anew"
    )]
    RevokedTcb,
    /// Older than anything that Intel appraises.
    #[error("the platform reaches none of Intel's levels: its firmware is older than all of them; update it")]
    BelowAllLevels,
    /// Something else that Intel's rules refuse.
    #[error("the quote does not pass Intel's rules: {0}")]
    Refused(String),
}

/// Verifies a quote that must carry `expected` as its 64 bytes of user data.
pub fn verify(
    evidence: &QuoteEvidence,
    expected: &[u8; 64],
    trust: &IntelTrust,
    now_ms: UnixMillis,
) -> Result<Appraisal, IntelError> {
    let quote = Quote::parse(&evidence.quote).map_err(|_| IntelError::Malformed)?;
    refuse_more(&quote, &evidence.quote)?;
    let pck_chain = x509::pem_chain(quote.raw_cert_chain().map_err(|_| IntelError::NoCertificates)?)?;
    let root = pck_chain.last().ok_or(CertificateError::Empty)?;
    if Digest::of(root) != trust.root {
        return Err(CertificateError::UnknownRoot(x509::subject(&x509::parse(root)?)).into());
    }
    let certificates = check_issuers(&pck_chain, root)?;
    let [pck, pck_ca, root_certificate] = certificates.as_slice() else { return Err(IntelError::Malformed) };
    let platform = dcap_qvl::intel::parse_pck_extension(pck.as_raw()).map_err(|_| IntelError::Extension)?;
    let statements = choose(evidence, trust, &quote, &platform, now_ms)?;
    statements.check_signatures(root_certificate, pck_ca)?;
    let enclave_version = check_quote(&quote, &evidence.quote, pck)?;

    for certificate in &certificates {
        x509::check_validity(certificate, now_ms)?;
    }
    statements.check_dates(now_ms)?;
    statements.check_revocations(&certificates, now_ms)?;
    check_report(&quote.report, expected)?;
    let (tcb_info, qe_identity) = (&statements.tcb_info, &statements.qe_identity);
    platform::check_levels(tcb_info, qe_identity, &platform, &quote.report, enclave_version)?;

    let now_s = now_ms / 1000;
    let claims = QuoteVerifier::new(root.clone())
        .verify_with_policy(
            &evidence.quote,
            statements.collateral.for_library()?,
            now_s,
            &QuotePolicy::claims_only(now_s),
        )
        .map_err(|error| IntelError::Refused(error.to_string()))?;
    if claims.tcb.eval_data_number < trust.least_evaluation {
        return Err(IntelError::OldEvaluation { got: claims.tcb.eval_data_number, least: trust.least_evaluation });
    }
    appraise(&claims)
}

/// Refuses anything but zeros after a quote: nothing signs it.
fn refuse_more(quote: &Quote, bytes: &[u8]) -> Result<(), IntelError> {
    let length_at = quote.signed_length();
    let length = bytes
        .get(length_at..length_at + 4)
        .and_then(|bytes| bytes.try_into().ok())
        .map(u32::from_le_bytes)
        .ok_or(IntelError::Malformed)?;
    let rest = usize::try_from(length)
        .ok()
        .and_then(|length| (length_at + 4).checked_add(length))
        .and_then(|end| bytes.get(end..))
        .ok_or(IntelError::Malformed)?;
    if rest.iter().all(|byte| *byte == 0) { Ok(()) } else { Err(IntelError::Malformed) }
}

/// Whether each certificate signed the one before it, and the last is `root`. Dates are not looked at.
fn check_issuers<'a>(chain: &'a [Vec<u8>], root: &[u8]) -> Result<Vec<X509Certificate<'a>>, CertificateError> {
    let certificates = chain.iter().map(|der| x509::parse(der)).collect::<Result<Vec<_>, _>>()?;
    for (below, pair) in certificates.windows(2).enumerate() {
        x509::check_issued(&pair[0], &pair[1], below)?;
    }
    match certificates.last() {
        Some(last) if last.as_raw() == root => Ok(certificates),
        Some(last) => Err(CertificateError::UnknownRoot(x509::subject(last))),
        None => Err(CertificateError::Empty),
    }
}

/// ECDSA on P-256 with SHA-256, r and s big-endian.
fn check_signature(key: &[u8], text: &[u8], signature: &[u8]) -> Result<(), ()> {
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key).verify(text, signature).map_err(|_| ())
}

/// The first statements that are about this technology and platform and stand now: the verifier's own, then the peer's. If
/// none stands, the first of them, whose dates are then the error.
fn choose<'a>(
    evidence: &'a QuoteEvidence,
    trust: &'a IntelTrust,
    quote: &Quote,
    platform: &PckExtension,
    now_ms: UnixMillis,
) -> Result<Statements<'a>, IntelError> {
    let technology = if quote.report.is_sgx() { "SGX" } else { "TDX" };
    let fmspc = hex::encode(platform.fmspc);
    let (mut other, mut outside) = (false, None);
    for collateral in trust.collateral.iter().chain(&evidence.collateral) {
        let statements = Statements::read(collateral)?;
        if statements.tcb_info.id != technology || !statements.tcb_info.fmspc.eq_ignore_ascii_case(&fmspc) {
            other = true;
        } else if statements.check_dates(now_ms).is_ok() {
            return Ok(statements);
        } else {
            outside.get_or_insert(statements);
        }
    }
    outside.ok_or(if other { IntelError::OtherPlatform } else { IntelError::NoCollateral })
}

/// Whether the platform's key signed for the quoting enclave, that one made the key, and the key signed the quote; gives the
/// enclave's version (ISVSVN). Offsets are those of Intel's SDM, volume 3D, table "Layout of REPORT".
fn check_quote(quote: &Quote, bytes: &[u8], pck: &X509Certificate<'_>) -> Result<u16, IntelError> {
    let auth: AuthDataV3 = quote.auth_data.clone().into_v3();
    let pck_key = &pck.public_key().subject_public_key.data;
    check_signature(pck_key, &auth.qe_report, &auth.qe_report_signature)
        .map_err(|()| IntelError::QuotingEnclaveSignature)?;
    let mut made = auth.ecdsa_attestation_key.to_vec();
    made.extend_from_slice(&auth.qe_auth_data.data);
    if auth.qe_report.get(320..352) != Some(Digest::of(&made).as_bytes().as_slice()) {
        return Err(IntelError::AttestationKey);
    }
    let signed = bytes.get(..quote.signed_length()).ok_or(IntelError::Malformed)?;
    let mut key = vec![4];
    key.extend_from_slice(&auth.ecdsa_attestation_key);
    check_signature(&key, signed, &auth.ecdsa_signature).map_err(|()| IntelError::Signature)?;
    Ok(u16::from_le_bytes([auth.qe_report[258], auth.qe_report[259]]))
}

fn check_report(report: &Report, expected: &[u8; 64]) -> Result<(), IntelError> {
    let (user_data, debug, migratable) = match (report.as_sgx(), report.as_td10()) {
        // DEBUG is bit 1 of an enclave's attributes, and every bit of a domain's first byte leaves it open; MIGRATABLE is
        // bit 29 (Intel's SDM, volume 3D, section 34.7.1; TDX module ABI, table TD_ATTRIBUTES).
        (Some(enclave), _) => (&enclave.report_data, enclave.attributes[0] & 2 != 0, false),
        (_, Some(domain)) => {
            (&domain.report_data, domain.td_attributes[0] != 0, domain.td_attributes[3] & (1 << 5) != 0)
        }
        (None, None) => return Err(IntelError::Malformed),
    };
    if user_data != expected {
        return Err(IntelError::UserData);
    }
    if debug {
        return Err(IntelError::Debug);
    }
    if migratable {
        return Err(IntelError::Migratable);
    }
    Ok(())
}

fn appraise(claims: &QuoteClaims) -> Result<Appraisal, IntelError> {
    let worth = platform::worth(claims.tcb.status).ok_or(IntelError::RevokedTcb)?;
    let mut notes = vec![worth.sentence.to_owned()];
    if !claims.tcb.advisory_ids.is_empty() {
        notes.push(format!("Intel names advisories: {}.", claims.tcb.advisory_ids.join(", ")));
    }
    let (kind, measurement) = match (claims.report.as_sgx(), claims.report.as_td10()) {
        (Some(enclave), _) => {
            notes.push(format!("The enclave's signer is {}.", hex::encode(enclave.mr_signer)));
            (EvidenceKind::Sgx, Measurement::from(enclave.mr_enclave))
        }
        (_, Some(domain)) => {
            let registers = [domain.rt_mr0, domain.rt_mr1, domain.rt_mr2, domain.rt_mr3];
            for (index, register) in registers.iter().enumerate() {
                notes.push(format!("Run-time register {index} is {}.", hex::encode(register)));
            }
            (EvidenceKind::Tdx, Measurement::from(domain.mr_td))
        }
        (None, None) => return Err(IntelError::Malformed),
    };
    notes.push("What was started is measured, and compared with nothing here.".to_owned());
    let ppid = &claims.platform.pck.ppid;
    Ok(Appraisal {
        kind,
        vector: TrustVector {
            instance_identity: 2,
            configuration: worth.configuration,
            hardware: worth.hardware,
            runtime_opaque: 2,
            ..TrustVector::default()
        },
        // The platform's provisioning id stays when its firmware, and with it the platform's key, changes.
        hardware: ppid.iter().any(|byte| *byte != 0).then(|| Digest::of(ppid)),
        measurement,
        // tcbDate: the day by which all that Intel had fixed is in this level. Newer firmware may reach the same one.
        firmware_ms: Some(claims.platform.tcb_date_tag.saturating_mul(1000)),
        vulnerable: Some(!claims.tcb.advisory_ids.is_empty() || platform::lacks_fixes(claims.tcb.status)),
        expires_ms: Some(claims.earliest_expiration_date.saturating_mul(1000)),
        notes,
    })
}
