//! Quotes of confidential machines through configfs-tsm (Linux 6.7 and later): Intel TDX by `tdx_guest`, AMD SEV-SNP by
//! `sev_guest`. The kernel's description is `Documentation/ABI/testing/configfs-tsm`.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

/// Where the kernel takes requests for reports.
pub(super) const REPORTS: &str = "/sys/kernel/config/tsm/report";

/// What a request brought.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Report {
    /// The kernel's name of who made it: `tdx_guest` or `sev_guest`.
    pub(super) provider: String,
    /// The quote or report.
    pub(super) quote: Vec<u8>,
    /// Certificates that the host handed along; empty where it did not.
    pub(super) certificates: Vec<u8>,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum TsmError {
    /// No such machine, or no such kernel.
    #[error("this is no confidential machine with configfs-tsm (Linux 6.7 and later, configfs mounted)")]
    Absent,
    /// The system refuses.
    #[error("{path}: {source}: run the node as root, or give its user access to configfs")]
    Io {
        /// What was tried.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else used the same request.
    #[error("the request was changed by somebody else: try again")]
    Raced,
}

/// Removes a request when it is done.
struct Request(PathBuf);

impl Drop for Request {
    fn drop(&mut self) {
        // What cannot be removed now goes with the next boot.
        let _ = fs::remove_dir(&self.0);
    }
}

/// Asks for a report over 64 bytes of user data. Blocks.
pub(super) fn report(reports: &Path, data: &[u8; 64]) -> Result<Report, TsmError> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    if !reports.is_dir() {
        return Err(TsmError::Absent);
    }
    let name = format!("aitbc-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let request = Request(reports.join(name));
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| TsmError::Io { path, source }
    };
    fs::create_dir(&request.0).map_err(at(&request.0))?;
    let read = |name: &str| {
        let path = request.0.join(name);
        fs::read(&path).map_err(at(&path))
    };
    let inblob = request.0.join("inblob");
    fs::write(&inblob, data).map_err(at(&inblob))?;
    // The generation counts what was written: one means that the report is over these bytes and nobody else's.
    let generation = || Ok::<_, TsmError>(String::from_utf8_lossy(&read("generation")?).trim().to_owned());
    let before = generation()?;
    let quote = read("outblob")?;
    let certificates = read("auxblob").unwrap_or_default();
    let provider = String::from_utf8_lossy(&read("provider")?).trim().to_owned();
    if generation()? != before {
        return Err(TsmError::Raced);
    }
    Ok(Report { provider, quote, certificates })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_machine_has_none() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let missing = root.path().join("tsm");
        assert!(matches!(report(&missing, &[0; 64]), Err(TsmError::Absent)));
        // A directory that is not the kernel's has no answer, and keeps nothing of the request.
        let error = report(root.path(), &[0; 64]).expect_err("no kernel behind it");
        assert!(matches!(&error, TsmError::Io { path, .. } if path.ends_with("generation")), "{error}");
    }
}
