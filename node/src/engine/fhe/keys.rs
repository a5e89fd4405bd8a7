//! Evaluation keys of clients on the disk: `<directory>/<client>/<digest>`, and what has come of others as
//! `<digest>.<bytes>.part`, `<bytes>` being what the whole key has.
//!
//! An evaluation key is no secret of the client's, but it is the client's: only who sent it has it used, and the files
//! are the owner's alone to read. A file is a key once it has its name: whole, of the right digest, synced. When it was
//! last used is its time of modification.

use crate::clock::now_ms;
use aitbc_crypto::fhe::KeyError;
use aitbc_protocol::{
    NodeId, UnixMillis,
    bytes::Digest,
    private::{KEY_LIFETIME_MS, KEYS_OF_CLIENT, KeyRefusal, PART_LIFETIME_MS, fits},
};
use sha2::{Digest as _, Sha256};
use std::{
    collections::HashSet,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, UNIX_EPOCH},
};

mod shelf;

use shelf::{Kind, Shelf};

/// A key that was used within this time, in milliseconds, does not make way for another client's.
const IN_USE_MS: u64 = 3_600_000;
/// Bytes hashed at a time.
const BLOCK: usize = 1024 * 1024;

/// Why a key that was kept cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyFault {
    /// It is gone, or the disk fails.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is not what it was.
    #[error("the file is damaged")]
    Damaged,
    /// Nothing can be computed with it here.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// The keys of all clients. Cheap to clone. Its calls wait for the disk.
#[derive(Clone, Debug)]
pub(crate) struct KeyStore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    quota: u64,
    /// Keys that are being sent. Held for the moment in which files get and lose their names.
    sending: Mutex<HashSet<(NodeId, Digest)>>,
}

/// A key that is whole.
#[derive(Clone, Debug)]
pub(crate) struct StoredKey {
    path: PathBuf,
    digest: Digest,
    bytes: u64,
}

/// What becomes of a key that a client has.
#[derive(Debug)]
pub(crate) enum Offered {
    /// It is here until then, or for as long after its last use.
    Held(UnixMillis),
    /// It is taken.
    Wanted(Upload),
}

impl KeyStore {
    pub(crate) fn new(directory: PathBuf, quota: u64) -> Self {
        Self(Arc::new(Shared { directory, quota, sending: Mutex::default() }))
    }

    fn sending(&self) -> MutexGuard<'_, HashSet<(NodeId, Digest)>> {
        // Whole after any panic: each change is one insertion or removal.
        self.0.sending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The directory of a client: named by its id, which is letters and digits.
    fn shelf_of(&self, client: &NodeId) -> PathBuf {
        self.0.directory.join(client.to_string())
    }

    /// The key of that digest, if it is whole and `client` has sent it.
    pub(crate) fn find(&self, client: &NodeId, digest: Digest, bytes: u64) -> Option<StoredKey> {
        let path = self.shelf_of(client).join(digest.to_string());
        let metadata = fs::symlink_metadata(&path).ok()?;
        let fresh = shelf::used_ms(&metadata).saturating_add(KEY_LIFETIME_MS) > now_ms();
        (metadata.is_file() && metadata.len() == bytes && fresh).then_some(StoredKey { path, digest, bytes })
    }

    /// Removes what nobody has used for too long.
    pub(crate) fn sweep(&self, now_ms: UnixMillis) {
        let sending = self.sending();
        for item in Shelf::all(&self.0.directory) {
            let lifetime = if item.kind == Kind::Key { KEY_LIFETIME_MS } else { PART_LIFETIME_MS };
            if !sending.contains(&(item.client, item.digest)) && item.used_ms.saturating_add(lifetime) <= now_ms {
                item.remove();
            }
        }
    }

    /// Says whether a key of `bytes` bytes is here, and takes it if not, as far as there is room. A client sends one key
    /// at a time.
    pub(crate) fn offer(
        &self,
        client: NodeId,
        digest: Digest,
        bytes: u64,
        now_ms: UnixMillis,
    ) -> Result<Offered, KeyRefusal> {
        self.sweep(now_ms);
        let mut sending = self.sending();
        if let Some(stored) = self.find(&client, digest, bytes) {
            stored.touch(now_ms);
            return Ok(Offered::Held(now_ms.saturating_add(KEY_LIFETIME_MS)));
        }
        if sending.iter().any(|(other, _)| *other == client) {
            return Err(KeyRefusal::Busy { retry_ms: 1_000 });
        }
        let mut kept = Shelf::all(&self.0.directory);
        // A client has one key on its way: what it began before, it has given up.
        kept.retain(|item| {
            let given_up = item.client == client && item.kind != Kind::Key && item.digest != digest;
            given_up.then(|| item.remove()).is_none()
        });
        kept.retain(|item| (item.client, item.digest) != (client, digest));
        make_room(&mut kept, &sending, self.0.quota, bytes, now_ms)?;
        sending.insert((client, digest));
        drop(sending);
        // From here on the place in `sending` is the upload's, to give back when it is dropped.
        let mut upload = Upload {
            store: self.clone(),
            client,
            digest,
            bytes,
            path: self.shelf_of(&client).join(format!("{digest}.{bytes}.part")),
            file: None,
            got: 0,
        };
        upload.look().map_err(|error| failed(&error))?;
        Ok(Offered::Wanted(upload))
    }

    /// Gives keys up that a client has beyond its share, the least recently used first, but never `newest`.
    fn trim(&self, client: &NodeId, newest: Digest) {
        let mut own: Vec<_> = Shelf::all(&self.0.directory)
            .into_iter()
            .filter(|item| item.client == *client && item.kind == Kind::Key && item.digest != newest)
            .collect();
        own.sort_by_key(|item| item.used_ms);
        let over = (own.len() + 1).saturating_sub(KEYS_OF_CLIENT);
        own.iter().take(over).for_each(shelf::Item::remove);
    }
}

/// Makes keys go that are not in use until `bytes` more fit, the least recently used first, parts before all.
fn make_room(
    kept: &mut Vec<shelf::Item>,
    sending: &HashSet<(NodeId, Digest)>,
    quota: u64,
    bytes: u64,
    now_ms: UnixMillis,
) -> Result<(), KeyRefusal> {
    let is_idle = |item: &shelf::Item| {
        let used = item.kind == Kind::Key && item.used_ms.saturating_add(IN_USE_MS) > now_ms;
        !used && !sending.contains(&(item.client, item.digest))
    };
    kept.sort_by_key(|item| (item.kind == Kind::Key, item.used_ms));
    loop {
        let taken: u64 = kept.iter().map(|item| item.bytes).sum();
        // What is being sent has its room from the beginning, before there is a file.
        let unseen =
            sending.iter().filter(|of| !kept.iter().any(|item| (item.client, item.digest) == **of)).count();
        let taken = taken.saturating_add((unseen as u64).saturating_mul(bytes));
        if taken.saturating_add(bytes) <= quota {
            return Ok(());
        }
        let Some(place) = kept.iter().position(is_idle) else { return Err(KeyRefusal::Full) };
        kept.remove(place).remove();
    }
}

fn failed(error: &io::Error) -> KeyRefusal {
    tracing::error!(%error, "an evaluation key cannot be kept");
    KeyRefusal::Failed
}

impl StoredKey {
    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    /// Notes that it is used now.
    pub(crate) fn touch(&self, now_ms: UnixMillis) {
        let touched = File::options()
            .append(true)
            .open(&self.path)
            .and_then(|file| file.set_modified(UNIX_EPOCH + Duration::from_millis(now_ms)));
        if let Err(error) = touched {
            tracing::warn!(%error, "the use of an evaluation key cannot be noted");
        }
    }

    /// Its bytes, whose length and digest are checked.
    pub(crate) fn read(&self) -> Result<Vec<u8>, KeyFault> {
        let file = File::open(&self.path)?;
        if file.metadata()?.len() != self.bytes {
            return Err(KeyFault::Damaged);
        }
        let mut bytes = Vec::with_capacity(usize::try_from(self.bytes).unwrap_or_default());
        file.take(self.bytes).read_to_end(&mut bytes)?;
        if Digest::of(&bytes) != self.digest {
            return Err(KeyFault::Damaged);
        }
        Ok(bytes)
    }

    /// One whose file is not there.
    #[cfg(test)]
    pub(crate) fn missing(digest: Digest) -> Self {
        Self { path: PathBuf::from("/nonexistent/key"), digest, bytes: 1 }
    }
}

/// A key on its way. Dropping it keeps what came for later.
#[derive(Debug)]
pub(crate) struct Upload {
    store: KeyStore,
    client: NodeId,
    digest: Digest,
    bytes: u64,
    path: PathBuf,
    /// Opened with the first bytes: whoever sends none leaves nothing.
    file: Option<File>,
    got: u64,
}

impl Upload {
    /// Finds what came before.
    fn look(&mut self) -> io::Result<()> {
        self.got = match fs::symlink_metadata(&self.path) {
            Ok(metadata) if metadata.is_file() && metadata.len() <= self.bytes => metadata.len(),
            Ok(_) => {
                fs::remove_file(&self.path)?;
                0
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        Ok(())
    }

    /// Bytes that are here.
    pub(crate) fn offset(&self) -> u64 {
        self.got
    }

    /// True once all of it is here.
    pub(crate) fn is_whole(&self) -> bool {
        self.got == self.bytes
    }

    /// Takes the next bytes.
    pub(crate) fn take(&mut self, part: &[u8]) -> Result<(), KeyRefusal> {
        let got = fits(self.got, part.len(), self.bytes)?;
        let file = match &mut self.file {
            Some(file) => file,
            empty => empty.insert(open(&self.path, self.got).map_err(|error| failed(&error))?),
        };
        file.write_all(part).map_err(|error| failed(&error))?;
        self.got = got;
        Ok(())
    }

    /// Gives the whole key its name, if its bytes are those of its digest; else nothing of it is kept.
    pub(crate) fn finish(mut self, now_ms: UnixMillis) -> Result<UnixMillis, KeyRefusal> {
        let Self { bytes: expected, got, .. } = self;
        if got != expected {
            return Err(KeyRefusal::Length { expected, got });
        }
        let same = hash(&self.path).map_err(|error| failed(&error))? == self.digest;
        if !same {
            self.file = None;
            fs::remove_file(&self.path).map_err(|error| failed(&error))?;
            return Err(KeyRefusal::Digest);
        }
        self.name(now_ms).map_err(|error| failed(&error))?;
        self.store.trim(&self.client, self.digest);
        Ok(now_ms.saturating_add(KEY_LIFETIME_MS))
    }

    fn name(&self, now_ms: UnixMillis) -> io::Result<()> {
        let shelf = self.store.shelf_of(&self.client);
        let file = File::options().append(true).open(&self.path)?;
        file.set_modified(UNIX_EPOCH + Duration::from_millis(now_ms))?;
        file.sync_all()?;
        fs::rename(&self.path, shelf.join(self.digest.to_string()))?;
        sync(&shelf)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.store.sending().remove(&(self.client, self.digest));
    }
}

/// The file for the rest of a key of which `got` bytes came, readable by its owner only.
fn open(path: &Path, got: u64) -> io::Result<File> {
    if let Some(shelf) = path.parent() {
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(shelf)?;
    }
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.seek(io::SeekFrom::Start(got))?;
    Ok(file)
}

fn hash(path: &Path) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let (mut hasher, mut block) = (Sha256::new(), vec![0; BLOCK]);
    loop {
        match file.read(&mut block)? {
            0 => return Ok(Digest(hasher.finalize().into())),
            read => hasher.update(&block[..read]),
        }
    }
}

/// Makes a rename durable, where the platform can.
fn sync(directory: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(directory)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests;
