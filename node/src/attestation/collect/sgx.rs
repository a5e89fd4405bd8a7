//! Quotes of this process's own SGX enclave, where a library OS offers them as files: Gramine's `/dev/attestation`
//! (gramine.readthedocs.io, "Attestation and Secret Provisioning").

use std::{fs, io, path::Path};

/// Where the library OS has them.
pub(super) const ATTESTATION: &str = "/dev/attestation";

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum SgxError {
    /// Not in an enclave.
    #[error("this node does not run in an SGX enclave (of Gramine)")]
    Absent,
    /// The enclave does not answer.
    #[error(
        "/dev/attestation: {0}: is remote attestation switched on in the manifest (sgx.remote_attestation = \"dcap\")?"
    )]
    Io(#[from] io::Error),
}

/// A quote over 64 bytes of user data. Blocks.
pub(super) fn quote(attestation: &Path, data: &[u8; 64]) -> Result<Vec<u8>, SgxError> {
    if !attestation.join("user_report_data").exists() {
        return Err(SgxError::Absent);
    }
    fs::write(attestation.join("user_report_data"), data)?;
    Ok(fs::read(attestation.join("quote"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quote_is_asked_for_with_the_data_given() {
        let root = tempfile::tempdir().expect("a temporary directory");
        assert!(matches!(quote(root.path(), &[1; 64]), Err(SgxError::Absent)));
        fs::write(root.path().join("user_report_data"), []).expect("written");
        assert!(matches!(quote(root.path(), &[1; 64]), Err(SgxError::Io(_))));
        fs::write(root.path().join("quote"), b"a quote").expect("written");
        assert_eq!(quote(root.path(), &[1; 64]).expect("there"), b"a quote");
        assert_eq!(fs::read(root.path().join("user_report_data")).expect("there"), [1; 64]);
    }
}
