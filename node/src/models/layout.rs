//! Where things lie in the directory of a [`ModelStore`], and how they get there without ever being half written.
//!
//! Names and files change only under the lock file `lock`, held for the moment of the change, so that a removal in
//! one process and an installation in another cannot lose a file that a name stands for.

use super::{Installed, Manifest, ModelError, ModelStore};
use aitbc_protocol::{bytes::Digest, job::ModelName};
use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// Largest manifest that is read, in bytes.
const MAX_MANIFEST: u64 = 64 * 1024;

/// Turns an I/O error into one that names the file.
pub(super) fn at(path: &Path) -> impl Fn(io::Error) -> ModelError + '_ {
    |source| ModelError::Io { path: path.to_owned(), source }
}

/// Refuses names that are not safe as file names everywhere, or look like something else.
pub(super) fn check_name(name: &ModelName) -> Result<(), ModelError> {
    let text = name.as_str();
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let valid = text.bytes().all(|byte| plain(byte) || b"._-:/".contains(&byte))
        && text.split(['/', ':']).all(|part| part.bytes().next().is_some_and(plain))
        && text.matches(':').count() <= 1;
    if valid { Ok(()) } else { Err(ModelError::Name { name: text.to_owned() }) }
}

/// The name with `/` and `:` escaped: one file name a model name, and back.
pub(super) fn file_name(name: &ModelName) -> String {
    name.as_str().replace('/', "%2F").replace(':', "%3A")
}

/// A lock on a file, held until dropped or until this process ends, however it ends.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    fn open(path: &Path) -> Result<File, ModelError> {
        create_parent(path)?;
        OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(at(path))
    }

    /// Waits for the lock; for locks that others hold for moments only.
    fn wait(path: &Path) -> Result<Self, ModelError> {
        let file = Self::open(path)?;
        file.lock().map_err(at(path))?;
        Ok(Self { _file: file })
    }

    /// Takes the lock if nobody holds it.
    pub(super) fn attempt(path: &Path) -> Result<Option<Self>, ModelError> {
        let file = Self::open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(at(path)(error)),
        }
    }
}

pub(super) fn create_parent(path: &Path) -> Result<(), ModelError> {
    match path.parent() {
        Some(parent) => fs::create_dir_all(parent).map_err(at(parent)),
        None => Ok(()),
    }
}

/// Makes a rename in `directory` durable, where the platform can.
fn sync_directory(directory: &Path) -> Result<(), ModelError> {
    if cfg!(unix) {
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(at(directory))?;
    }
    Ok(())
}

/// Removes a file, whether it is there or not.
pub(super) fn remove_if_there(path: &Path) -> Result<(), ModelError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(path)(error)),
        _ => Ok(()),
    }
}

/// Length of a file; 0 where there is none.
pub(super) fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// Refuses what the file system under `directory` has no room for.
pub(super) fn require_space(directory: &Path, needed: u64) -> Result<(), ModelError> {
    fs::create_dir_all(directory).map_err(at(directory))?;
    let disk = rustix::fs::statvfs(directory).map_err(|error| at(directory)(error.into()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free < needed {
        return Err(ModelError::NoSpace { path: directory.to_owned(), free, needed });
    }
    Ok(())
}

impl ModelStore {
    /// The file of those weights.
    pub(super) fn blob(&self, weights: &Digest) -> PathBuf {
        self.directory.join("blobs").join(format!("sha256-{weights}"))
    }

    /// A file of something unfinished.
    pub(super) fn partial(&self, name: &str) -> PathBuf {
        self.directory.join("partial").join(name)
    }

    fn manifest_path(&self, name: &ModelName) -> PathBuf {
        self.directory.join("manifests").join(format!("{}.json", file_name(name)))
    }

    fn lock(&self) -> Result<Lock, ModelError> {
        Lock::wait(&self.directory.join("lock"))
    }

    /// The manifest on disk, if there is one.
    pub(super) fn read_manifest(&self, name: &ModelName) -> Result<Option<Manifest>, ModelError> {
        check_name(name)?;
        let path = self.manifest_path(name);
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(at(&path)(error)),
            Ok(metadata) if metadata.len() > MAX_MANIFEST => {
                return Err(at(&path)(io::Error::new(io::ErrorKind::InvalidData, "too large for a manifest")));
            }
            Ok(_) => {}
        }
        let manifest: Manifest = fs::read(&path)
            .and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::from))
            .map_err(at(&path))?;
        if manifest.model != *name {
            let error = format!("the manifest is of {}, not of {name}", manifest.model);
            return Err(at(&path)(io::Error::new(io::ErrorKind::InvalidData, error)));
        }
        Ok(Some(manifest))
    }

    /// All manifests that read back; a damaged one is a warning and hides no other.
    pub(super) fn read_manifests(&self) -> Result<Vec<Manifest>, ModelError> {
        let directory = self.directory.join("manifests");
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(at(&directory)(error)),
        };
        let mut manifests = Vec::new();
        for entry in entries {
            let file = entry.map_err(at(&directory))?.file_name();
            let Some(name) = file.to_str().and_then(|file| file.strip_suffix(".json")) else { continue };
            let Ok(name) = ModelName::new(name.replace("%2F", "/").replace("%3A", ":")) else { continue };
            match self.read_manifest(&name) {
                Ok(manifest) => manifests.extend(manifest),
                Err(error) => {
                    tracing::warn!(%error, "a manifest cannot be read: remove it or add the model again");
                }
            }
        }
        manifests.sort_by(|a, b| a.model.cmp(&b.model));
        Ok(manifests)
    }

    /// The model, if its file is here and of the right size.
    pub(super) fn installed(&self, manifest: Manifest) -> Option<Installed> {
        let path = self.blob(&manifest.weights);
        let whole =
            fs::metadata(&path).is_ok_and(|metadata| metadata.is_file() && metadata.len() == manifest.size);
        whole.then_some(Installed { manifest, path })
    }

    /// Gives a verified and synced file to a name, durably: `candidate`, or the file that is here already where
    /// there is none. `None` where there is neither.
    pub(super) fn install(
        &self,
        manifest: &Manifest,
        candidate: Option<&Path>,
    ) -> Result<Option<Installed>, ModelError> {
        let _lock = self.lock()?;
        let blob = self.blob(&manifest.weights);
        if let Some(candidate) = candidate {
            create_parent(&blob)?;
            fs::rename(candidate, &blob).map_err(at(&blob))?;
            sync_directory(blob.parent().expect("a blob lies in a directory"))?;
        }
        let Some(installed) = self.installed(manifest.clone()) else { return Ok(None) };
        let replaced = self.read_manifest(&manifest.model).ok().flatten();
        self.write_manifest(manifest)?;
        if let Some(replaced) = replaced {
            self.remove_unused(&replaced.weights)?;
        }
        Ok(Some(installed))
    }

    fn write_manifest(&self, manifest: &Manifest) -> Result<(), ModelError> {
        let path = self.manifest_path(&manifest.model);
        create_parent(&path)?;
        let temporary = path.with_extension("new");
        let json = serde_json::to_vec_pretty(manifest).map_err(|error| at(&path)(error.into()))?;
        File::create(&temporary)
            .and_then(|mut file| {
                file.write_all(&json)?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(at(&path))?;
        sync_directory(path.parent().expect("a manifest lies in a directory"))
    }

    /// Removes the name, then its file where no other name stands for it. Returns the bytes freed.
    pub(super) fn uninstall(&self, manifest: &Manifest) -> Result<u64, ModelError> {
        let _lock = self.lock()?;
        let path = self.manifest_path(&manifest.model);
        remove_if_there(&path)?;
        sync_directory(path.parent().expect("a manifest lies in a directory"))?;
        self.remove_unused(&manifest.weights)
    }

    /// Removes a file that no name stands for. Call it under the lock.
    fn remove_unused(&self, weights: &Digest) -> Result<u64, ModelError> {
        if self.read_manifests()?.iter().any(|manifest| manifest.weights == *weights) {
            return Ok(0);
        }
        let blob = self.blob(weights);
        let freed = length(&blob);
        remove_if_there(&blob)?;
        Ok(freed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_checked() {
        for good in ["smollm2:135m", "qwen3", "me/my-model:q4_k.1", "0"] {
            check_name(&ModelName::new(good).expect("line")).expect(good);
        }
        for bad in
            ["", ".", "..", "../x", "a/../b", "a//b", "/a", "a/", "a:", ":a", "a:b:c", "A", "a b", "é", "a/-b"]
        {
            assert!(check_name(&ModelName::new(bad).expect("line")).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_valid_name_is_one_plain_file_name(name in "[a-z0-9._:/-]{1,20}") {
            let name = ModelName::new(name).expect("line");
            prop_assume!(check_name(&name).is_ok());
            let file = file_name(&name);
            prop_assert_eq!(Path::new(&file).components().count(), 1);
            prop_assert!(!file.starts_with('.') && !file.contains(['/', ':']));
            prop_assert_eq!(file.replace("%2F", "/").replace("%3A", ":"), name.as_str());
        }
    }
}
