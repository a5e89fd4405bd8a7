//! What Intel says of its platforms and quoting enclaves, signed and dated (Intel's Provisioning Certification Service API,
//! version 4: `tcb`, `qe/identity`, `pckcrl`, `rootcacrl`).

use super::{IntelError, Statement};
use crate::tee::x509;
use aitbc_protocol::{UnixMillis, bytes::BoundedBytes};
use dcap_qvl::{QeIdentity, QuoteCollateralV3, TcbInfo};
use serde::{Deserialize, Serialize};
use x509_parser::{
    certificate::X509Certificate, prelude::FromDer as _, revocation_list::CertificateRevocationList,
};

/// Largest statement, chain or revocation list in bytes: those of Intel's have under 8 KiB.
const MAX_PART: usize = 128 * 1024;
/// Largest file of collateral in bytes.
const MAX_FILE: usize = 2 * 1024 * 1024;

/// Intel's statements about one kind of platform: who may say what about it, for about a month.
///
/// The chain of whom signed the PCKs' revocation list is left out: it is the PCK's own, which the quote carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collateral {
    /// Revocation list of the root (DER).
    #[serde(rename = "r")]
    pub root_ca_crl: BoundedBytes<MAX_PART>,
    /// Revocation list of whom issued the platform's key (DER).
    #[serde(rename = "p")]
    pub pck_crl: BoundedBytes<MAX_PART>,
    /// Certificates of whom signed the levels (PEM), with the root.
    #[serde(rename = "tc")]
    pub tcb_info_issuer_chain: BoundedBytes<MAX_PART>,
    /// The platform's levels (JSON, exactly as signed).
    #[serde(rename = "t")]
    pub tcb_info: BoundedBytes<MAX_PART>,
    /// Its signature: r and s.
    #[serde(rename = "ts")]
    pub tcb_info_signature: BoundedBytes<64>,
    /// Certificates of whom signed the quoting enclave's identity (PEM), with the root.
    #[serde(rename = "qc")]
    pub qe_identity_issuer_chain: BoundedBytes<MAX_PART>,
    /// The quoting enclave's identity (JSON, exactly as signed).
    #[serde(rename = "q")]
    pub qe_identity: BoundedBytes<MAX_PART>,
    /// Its signature: r and s.
    #[serde(rename = "qs")]
    pub qe_identity_signature: BoundedBytes<64>,
}

impl Collateral {
    /// Reads a file of collateral: a JSON object with byte strings in hexadecimal, as `dcap-qvl` and others write it.
    pub fn from_json(text: &[u8]) -> Result<Self, IntelError> {
        if text.len() > MAX_FILE {
            return Err(IntelError::Collateral("the file"));
        }
        let file: QuoteCollateralV3 =
            serde_json::from_slice(text).map_err(|_| IntelError::Collateral("the file"))?;
        let part = |bytes: Vec<u8>, name| BoundedBytes::new(bytes).map_err(|_| IntelError::Collateral(name));
        let signature = |bytes: Vec<u8>, name| BoundedBytes::new(bytes).map_err(|_| IntelError::Collateral(name));
        Ok(Self {
            root_ca_crl: part(file.root_ca_crl, "root_ca_crl")?,
            pck_crl: part(file.pck_crl, "pck_crl")?,
            tcb_info_issuer_chain: part(file.tcb_info_issuer_chain.into_bytes(), "tcb_info_issuer_chain")?,
            tcb_info: part(file.tcb_info.into_bytes(), "tcb_info")?,
            tcb_info_signature: signature(file.tcb_info_signature, "tcb_info_signature")?,
            qe_identity_issuer_chain: part(
                file.qe_identity_issuer_chain.into_bytes(),
                "qe_identity_issuer_chain",
            )?,
            qe_identity: part(file.qe_identity.into_bytes(), "qe_identity")?,
            qe_identity_signature: signature(file.qe_identity_signature, "qe_identity_signature")?,
        })
    }

    /// The same for `dcap-qvl`.
    pub(super) fn for_library(&self) -> Result<QuoteCollateralV3, IntelError> {
        let text =
            |bytes: &[u8], name| String::from_utf8(bytes.to_vec()).map_err(|_| IntelError::Collateral(name));
        Ok(QuoteCollateralV3 {
            pck_crl_issuer_chain: String::new(),
            root_ca_crl: self.root_ca_crl.to_vec(),
            pck_crl: self.pck_crl.to_vec(),
            tcb_info_issuer_chain: text(&self.tcb_info_issuer_chain, "tcb_info_issuer_chain")?,
            tcb_info: text(&self.tcb_info, "tcb_info")?,
            tcb_info_signature: self.tcb_info_signature.to_vec(),
            qe_identity_issuer_chain: text(&self.qe_identity_issuer_chain, "qe_identity_issuer_chain")?,
            qe_identity: text(&self.qe_identity, "qe_identity")?,
            qe_identity_signature: self.qe_identity_signature.to_vec(),
            pck_certificate_chain: None,
        })
    }
}

/// Collateral whose parts were read, and nothing more.
pub(super) struct Statements<'a> {
    pub(super) collateral: &'a Collateral,
    pub(super) tcb_info: TcbInfo,
    pub(super) qe_identity: QeIdentity,
    tcb_chain: Vec<Vec<u8>>,
    qe_chain: Vec<Vec<u8>>,
    root_crl: CertificateRevocationList<'a>,
    pck_crl: CertificateRevocationList<'a>,
}

impl<'a> Statements<'a> {
    pub(super) fn read(collateral: &'a Collateral) -> Result<Self, IntelError> {
        let crl = |bytes: &'a [u8], name| match CertificateRevocationList::from_der(bytes) {
            Ok(([], list)) => Ok(list),
            _ => Err(IntelError::Collateral(name)),
        };
        Ok(Self {
            collateral,
            tcb_info: serde_json::from_slice(&collateral.tcb_info)
                .map_err(|_| IntelError::Collateral("tcb_info"))?,
            qe_identity: serde_json::from_slice(&collateral.qe_identity)
                .map_err(|_| IntelError::Collateral("qe_identity"))?,
            tcb_chain: x509::pem_chain(&collateral.tcb_info_issuer_chain)?,
            qe_chain: x509::pem_chain(&collateral.qe_identity_issuer_chain)?,
            root_crl: crl(&collateral.root_ca_crl, "root_ca_crl")?,
            pck_crl: crl(&collateral.pck_crl, "pck_crl")?,
        })
    }

    /// Whether the root, and the PCK's issuer, signed everything. Dates are not looked at.
    pub(super) fn check_signatures(
        &self,
        root: &X509Certificate<'_>,
        pck_ca: &X509Certificate<'_>,
    ) -> Result<(), IntelError> {
        let signed = [
            (
                Statement::TcbInfo,
                &self.tcb_chain,
                self.collateral.tcb_info.as_slice(),
                self.collateral.tcb_info_signature.as_slice(),
            ),
            (
                Statement::QeIdentity,
                &self.qe_chain,
                self.collateral.qe_identity.as_slice(),
                self.collateral.qe_identity_signature.as_slice(),
            ),
        ];
        for (statement, chain, text, signature) in signed {
            let certificates = super::check_issuers(chain, root.as_raw())?;
            // The root signs this signer and no other below it: a platform's own certificate leads to the same root.
            let [signer, _] = &certificates[..] else { return Err(IntelError::StatementSignature(statement)) };
            super::check_signature(&signer.public_key().subject_public_key.data, text, signature)
                .map_err(|()| IntelError::StatementSignature(statement))?;
        }
        for (statement, list, issuer) in [
            (Statement::RootRevocations, &self.root_crl, root),
            (Statement::PckRevocations, &self.pck_crl, pck_ca),
        ] {
            if list.issuer().as_raw() != issuer.subject().as_raw()
                || list.signature_algorithm != list.tbs_cert_list.signature
                || list.verify_signature(issuer.public_key()).is_err()
            {
                return Err(IntelError::StatementSignature(statement));
            }
        }
        Ok(())
    }

    /// Whether all of it stands at `now_ms`.
    pub(super) fn check_dates(&self, now_ms: UnixMillis) -> Result<(), IntelError> {
        let written = |text: &str, name| {
            text.parse::<jiff::Timestamp>()
                .map(jiff::Timestamp::as_second)
                .map_err(|_| IntelError::Collateral(name))
        };
        let listed = |list: &CertificateRevocationList<'_>, name| {
            // A list without an end would stand for ever.
            let end = list.next_update().ok_or(IntelError::Collateral(name))?;
            Ok::<_, IntelError>((list.last_update().timestamp(), end.timestamp()))
        };
        let (tcb_info, qe_identity) = (&self.tcb_info, &self.qe_identity);
        let windows = [
            (
                Statement::TcbInfo,
                (written(&tcb_info.issue_date, "tcb_info")?, written(&tcb_info.next_update, "tcb_info")?),
            ),
            (
                Statement::QeIdentity,
                (
                    written(&qe_identity.issue_date, "qe_identity")?,
                    written(&qe_identity.next_update, "qe_identity")?,
                ),
            ),
            (Statement::RootRevocations, listed(&self.root_crl, "root_ca_crl")?),
            (Statement::PckRevocations, listed(&self.pck_crl, "pck_crl")?),
        ];
        let now_s = i64::try_from(now_ms / 1000).unwrap_or(i64::MAX);
        for (statement, (begin, end)) in windows {
            if now_s < begin {
                return Err(IntelError::NotYetValid(statement));
            }
            if now_s > end {
                return Err(IntelError::Expired(statement));
            }
        }
        for der in self.tcb_chain.iter().chain(&self.qe_chain) {
            x509::check_validity(&x509::parse(der)?, now_ms)?;
        }
        Ok(())
    }

    /// Whether root and PCK's issuer took none of the certificates back.
    pub(super) fn check_revocations(
        &self,
        pck_chain: &[X509Certificate<'_>],
        now_ms: UnixMillis,
    ) -> Result<(), IntelError> {
        let [pck, pck_ca, root] = pck_chain else { return Err(IntelError::Malformed) };
        x509::check_not_revoked(pck, &self.collateral.pck_crl, pck_ca, now_ms)?;
        x509::check_not_revoked(pck_ca, &self.collateral.root_ca_crl, root, now_ms)?;
        for signer in [self.tcb_chain.first(), self.qe_chain.first()].into_iter().flatten() {
            x509::check_not_revoked(&x509::parse(signer)?, &self.collateral.root_ca_crl, root, now_ms)?;
        }
        Ok(())
    }
}
