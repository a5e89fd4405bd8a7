//! The logs that explain PCRs, as the kernel shows them.

use aitbc_protocol::bytes::BoundedBytes;
use std::{
    fmt,
    io::Read as _,
    path::{Path, PathBuf},
};

/// Why a log is not in the evidence.
#[derive(Debug)]
pub struct LogProblem {
    /// Which log.
    pub path: PathBuf,
    /// Why.
    pub reason: LogReason,
}

/// Why a log is not read.
#[derive(Debug)]
pub enum LogReason {
    /// The system shows none.
    Absent,
    /// The user may not read it.
    NoPermission,
    /// It has more bytes than verifiers read.
    TooLarge {
        /// How many they read.
        most: usize,
    },
    /// It could not be read.
    Unreadable(std::io::Error),
}

impl fmt::Display for LogProblem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.reason {
            LogReason::Absent => write!(formatter, "{path} is not there: the PCRs stay unexplained"),
            LogReason::NoPermission => write!(
                formatter,
                "no permission to read {path}: copy it for the node at boot, as root, and name the copy in the settings"
            ),
            LogReason::TooLarge { most } => {
                write!(formatter, "{path} has more than {most} bytes, which is more than verifiers read")
            }
            LogReason::Unreadable(error) => write!(formatter, "{path} could not be read: {error}"),
        }
    }
}

/// Reads a log whole, or not at all. Files of securityfs say that they are empty, so that their size tells nothing.
pub(super) fn read<const MAX: usize>(path: &Path) -> Result<BoundedBytes<MAX>, LogProblem> {
    let problem = |reason| LogProblem { path: path.to_owned(), reason };
    let failed = |error: std::io::Error| {
        problem(match error.kind() {
            std::io::ErrorKind::NotFound => LogReason::Absent,
            std::io::ErrorKind::PermissionDenied => LogReason::NoPermission,
            _ => LogReason::Unreadable(error),
        })
    };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(MAX as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    BoundedBytes::new(bytes).map_err(|_| problem(LogReason::TooLarge { most: MAX }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read_whole_or_its_absence_is_explained() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        assert!(matches!(read::<4>(&path), Err(LogProblem { reason: LogReason::Absent, .. })));
        std::fs::write(&path, [1, 2, 3, 4]).unwrap();
        assert_eq!(read::<4>(&path).unwrap().as_slice(), [1, 2, 3, 4]);
        std::fs::write(&path, [1, 2, 3, 4, 5]).unwrap();
        let problem = read::<4>(&path).unwrap_err();
        assert!(matches!(problem.reason, LogReason::TooLarge { most: 4 }));
        assert!(problem.to_string().contains("more than 4 bytes"));
    }
}
