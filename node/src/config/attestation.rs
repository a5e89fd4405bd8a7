//! Settings of attestation.

use super::{ConfigError, Settings};
use crate::attestation::AttestationConfig;
use aitbc_protocol::attestation::Measurement;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What this node shows of its hardware, and what it makes of what others show.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AttestationSettings {
    /// Where the TPM is, as tpm2-tss writes it: `device:/dev/tpmrm0` if not set, `off` to show none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tpm: Option<String>,
    /// The firmware's event log, where it is not where Linux has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_log: Option<PathBuf>,
    /// File with Intel's collateral for the quotes of this machine (SGX, TDX), as JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collateral: Option<PathBuf>,
    /// Directory of NVIDIA's reference files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nvidia_references: Option<PathBuf>,
    /// As verifier: files with certificates (PEM) of makers of TPMs that count beside those that come with aitbc.
    pub roots: Vec<PathBuf>,
    /// As verifier: files with AMD's revocation lists (DER) for SEV-SNP.
    pub amd_revocations: Vec<PathBuf>,
    /// As verifier: measurements that count; what was measured first of each peer if empty.
    pub measurements: Vec<Measurement>,
    /// Directory with the network's parameters for proofs in zero knowledge, and their keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<PathBuf>,
    /// As provider: offers name policies and no results, and evidence is shown to the network's set of verifiers alone.
    pub private: bool,
    /// As verifier of the set: file with the key that signs credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer_key: Option<PathBuf>,
    /// As verifier of the set: file with the secret that the set shares, which makes tags of hardware.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set_key: Option<PathBuf>,
}

impl Settings {
    /// What attestation starts with.
    pub fn attestation(&self) -> AttestationConfig {
        let of = self.attestation.clone();
        AttestationConfig {
            network: self.network.clone(),
            tpm: Some(of.tpm.unwrap_or_else(|| DEFAULT_TPM.to_owned())).filter(|tcti| tcti != "off"),
            event_log: of.event_log,
            collateral: of.collateral,
            nvidia_references: of.nvidia_references,
            roots: of.roots,
            amd_revocations: of.amd_revocations,
            measurements: of.measurements,
            parameters: of.parameters,
            private: of.private,
            issuer: of.issuer_key.zip(of.set_key),
        }
    }

    pub(super) fn validate_attestation(&self) -> Result<(), ConfigError> {
        let of = &self.attestation;
        let range = |setting, value: String, allowed| Err(ConfigError::Range { setting, value, allowed });
        if of.roots.len() > 64 {
            return range("attestation.roots", of.roots.len().to_string(), "allowed are 64 files at most");
        }
        if of.measurements.len() > 4096 {
            let count = of.measurements.len().to_string();
            return range("attestation.measurements", count, "allowed are 4096 at most");
        }
        if of.private && of.parameters.is_none() {
            let allowed = "set attestation.parameters too: proofs rest on the network's parameters";
            return range("attestation.private", "true".to_owned(), allowed);
        }
        if of.issuer_key.is_some() != of.set_key.is_some() {
            let allowed = "attestation.issuer_key and attestation.set_key go together: set both or none";
            return range("attestation.issuer_key", "alone".to_owned(), allowed);
        }
        if of.issuer_key.is_some() && of.parameters.is_none() {
            let allowed = "set attestation.parameters too: credentials are for its policies";
            return range("attestation.issuer_key", "set".to_owned(), allowed);
        }
        Ok(())
    }
}

/// The kernel's resource manager of the first TPM.
const DEFAULT_TPM: &str = "device:/dev/tpmrm0";

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<(), ConfigError> {
        toml::from_str::<Settings>(text).expect("well formed").validate()
    }

    #[test]
    fn settings_that_need_each_other_say_so() {
        let message = |text: &str| check(text).expect_err("refused").to_string();
        assert!(message("[attestation]\nprivate = true").contains("attestation.parameters"));
        assert!(message("[attestation]\nissuer_key = \"k\"").contains("set_key"));
        assert!(message("[attestation]\nissuer_key = \"k\"\nset_key = \"s\"").contains("attestation.parameters"));
        assert!(check("[attestation]\nprivate = true\nparameters = \"zk\"").is_ok());
    }

    #[test]
    fn the_tpm_can_be_named_and_switched_off() {
        let tpm = |text: &str| toml::from_str::<Settings>(text).expect("well formed").attestation().tpm;
        assert_eq!(tpm("").as_deref(), Some(DEFAULT_TPM));
        assert_eq!(tpm("[attestation]\ntpm = \"off\""), None);
        assert_eq!(tpm("[attestation]\ntpm = \"swtpm:port=1\"").as_deref(), Some("swtpm:port=1"));
    }
}
