//! What lies in the directory of evaluation keys.

use aitbc_protocol::{NodeId, UnixMillis, bytes::Digest};
use std::{
    fs::{self, Metadata},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

/// Whether a file is a whole key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Key,
    Part,
}

/// One file.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) client: NodeId,
    pub(super) digest: Digest,
    pub(super) kind: Kind,
    /// What it has, or will have.
    pub(super) bytes: u64,
    pub(super) used_ms: UnixMillis,
    path: PathBuf,
}

impl Item {
    /// Removes the file, and the client's directory once it is empty.
    pub(super) fn remove(&self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "an evaluation key cannot be removed");
        }
        if let Some(shelf) = self.path.parent() {
            // One that holds another key stays.
            let _ = fs::remove_dir(shelf);
        }
    }
}

/// All files.
pub(super) struct Shelf;

impl Shelf {
    /// What is there; files that are none of ours are left alone.
    pub(super) fn all(directory: &Path) -> Vec<Item> {
        let Ok(clients) = fs::read_dir(directory) else { return Vec::new() };
        let clients = clients.filter_map(|entry| {
            let entry = entry.ok()?;
            Some((entry.file_name().to_str()?.parse::<NodeId>().ok()?, entry.path()))
        });
        clients.flat_map(|(client, path)| of(client, &path)).collect()
    }
}

fn of(client: NodeId, shelf: &Path) -> Vec<Item> {
    let Ok(files) = fs::read_dir(shelf) else { return Vec::new() };
    let item = |entry: fs::DirEntry| {
        let metadata = entry.metadata().ok().filter(Metadata::is_file)?;
        let name = entry.file_name();
        let mut parts = name.to_str()?.split('.');
        let digest: Digest = parts.next()?.parse().ok()?;
        let (kind, bytes) = match (parts.next(), parts.next(), parts.next()) {
            (None, ..) => (Kind::Key, metadata.len()),
            (Some(bytes), Some("part"), None) => (Kind::Part, bytes.parse().ok()?),
            _ => return None,
        };
        Some(Item { client, digest, kind, bytes, used_ms: used_ms(&metadata), path: entry.path() })
    };
    files.filter_map(|entry| item(entry.ok()?)).collect()
}

/// When a file was last used, by its time of modification.
pub(super) fn used_ms(metadata: &Metadata) -> UnixMillis {
    let modified = metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    modified.and_then(|since| u64::try_from(since.as_millis()).ok()).unwrap_or_default()
}
