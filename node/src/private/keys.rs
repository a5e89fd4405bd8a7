//! Secret keys of this client: one for each provider and profile, so that no two providers can tell by a key that they
//! have the same client's values, and what one learns of a key is worth nothing to another.
//!
//! `<directory>/<provider>-<profile>.key` is the key, mode 0600; `.json` beside it says how old it is and how often it
//! was used. A key whose papers are missing is not used any more.

use aitbc_crypto::fhe::{ClientKey, Profile};
use aitbc_protocol::{NodeId, UnixMillis, bytes::Digest};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    fs::{self, DirBuilder, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
};
use zeroize::Zeroizing;

/// Jobs after which a key is replaced: whoever watched that many answers is to begin again.
pub(super) const MAX_JOBS: u32 = 1_000;
/// Age after which it is, in milliseconds.
pub(super) const MAX_AGE_MS: u64 = 30 * 24 * 3_600_000;
/// Largest file that is read.
const MAX_FILE: u64 = 4096;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub(super) enum RingError {
    /// The file system said no.
    #[error("{path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Others may read the file.
    #[error("{path} can be read by others (mode {mode:o}): run chmod 600 {path}")]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The system's random number generator failed.
    #[error("the system gave no random numbers: {0}")]
    Random(#[from] getrandom::Error),
}

/// What is noted of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Papers {
    created_ms: UnixMillis,
    jobs: u32,
    /// SHA-256 of the evaluation key that goes with it.
    evaluation_key: Digest,
}

/// A key for one job.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) key: Arc<ClientKey>,
    /// SHA-256 of its evaluation key.
    pub(super) digest: Digest,
    /// Whether it was made just now.
    pub(super) is_new: bool,
}

/// One at a time makes, rotates and sends the key for a provider.
type Turn = Arc<tokio::sync::Mutex<()>>;
/// The turn of a key, for as long as somebody has it or waits for it.
type Waiting = Weak<tokio::sync::Mutex<()>>;

/// The keys. Its calls wait for the disk, and for a second or two where a key is made.
#[derive(Debug)]
pub(super) struct KeyRing {
    directory: PathBuf,
    turns: Mutex<HashMap<(NodeId, Profile), Waiting>>,
}

impl KeyRing {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory, turns: Mutex::default() }
    }

    /// What whoever works with a key of this provider and profile holds meanwhile.
    pub(super) fn turn(&self, provider: NodeId, profile: Profile) -> Turn {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(&(provider, profile)).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Turn::default();
        turns.insert((provider, profile), Arc::downgrade(&turn));
        turn
    }

    fn path(&self, provider: &NodeId, profile: Profile, extension: &str) -> PathBuf {
        self.directory.join(format!("{provider}-{profile}.{extension}"))
    }

    /// The key for one more job with `provider`, counted before anything is encrypted under it; a new one where there is
    /// none, or the old one has served its time.
    pub(super) fn take(&self, provider: &NodeId, profile: Profile, now_ms: UnixMillis) -> Result<Held, RingError> {
        self.prepare()?;
        let (key_file, papers_file) = (self.path(provider, profile, "key"), self.path(provider, profile, "json"));
        let kept = match (read_key(&key_file, profile)?, read_papers(&papers_file)) {
            (Some(key), Some(papers)) if papers.is_good(now_ms) => Some((key, papers)),
            _ => None,
        };
        let is_new = kept.is_none();
        let (key, mut papers) = if let Some(kept) = kept {
            kept
        } else {
            // Without papers the old key is not used again, whatever happens from here on.
            remove(&papers_file)?;
            let key = ClientKey::generate(profile)?;
            write(&key_file, &key.to_bytes())?;
            let evaluation_key = Digest::of(&key.evaluation_key());
            (key, Papers { created_ms: now_ms, jobs: 0, evaluation_key })
        };
        papers.jobs += 1;
        let text = serde_json::to_vec(&papers)
            .map_err(|error| RingError::Io { path: papers_file.clone(), source: error.into() })?;
        write(&papers_file, &text)?;
        Ok(Held { key: Arc::new(key), digest: papers.evaluation_key, is_new })
    }

    fn prepare(&self) -> Result<(), RingError> {
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&self.directory).map_err(at(&self.directory))
    }
}

impl Papers {
    fn is_good(&self, now_ms: UnixMillis) -> bool {
        // A clock that was set back makes no key older than it is, and none that is from the future.
        let age = now_ms.checked_sub(self.created_ms);
        self.jobs < MAX_JOBS && age.is_some_and(|age| age < MAX_AGE_MS)
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> RingError + '_ {
    |source| RingError::Io { path: path.to_owned(), source }
}

/// The key in a file that only its owner may read; `None` where there is none for this profile.
fn read_key(path: &Path, profile: Profile) -> Result<Option<ClientKey>, RingError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at(path)(error)),
    };
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = file.metadata().map_err(at(path))?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(RingError::Permissions { path: path.to_owned(), mode });
        }
    }
    // Room for all of it at once: a buffer that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_FILE as usize));
    file.take(MAX_FILE).read_to_end(&mut bytes).map_err(at(path))?;
    Ok(ClientKey::from_bytes(&bytes).ok().filter(|key| key.profile() == profile))
}

fn read_papers(path: &Path) -> Option<Papers> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_FILE).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn remove(path: &Path) -> Result<(), RingError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(path)(error)),
        _ => Ok(()),
    }
}

/// Writes a file whole or not at all, mode 0600.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), RingError> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(directory).map_err(at(path))?;
    file.write_all(bytes).map_err(at(path))?;
    file.as_file().sync_all().map_err(at(path))?;
    file.persist(path).map_err(|error| at(path)(error.error))?;
    #[cfg(unix)]
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(at(path))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = 1_700_000_000_000;

    fn provider(n: u8) -> NodeId {
        aitbc_crypto::SecretKey::from_bytes(&[n; 32]).node_id()
    }

    fn ring() -> (KeyRing, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        (KeyRing::new(directory.path().join("private")), directory)
    }

    fn bytes(held: &Held) -> Vec<u8> {
        held.key.to_bytes().to_vec()
    }

    #[test]
    fn a_key_is_kept_and_no_two_providers_have_the_same() {
        let (ring, _directory) = ring();
        let first = ring.take(&provider(1), Profile::Fast, NOW).unwrap();
        assert!(first.is_new);
        assert_eq!(first.digest, Digest::of(&first.key.evaluation_key()));
        let again = ring.take(&provider(1), Profile::Fast, NOW + 1).unwrap();
        assert!(!again.is_new && bytes(&again) == bytes(&first) && again.digest == first.digest);
        let other = ring.take(&provider(2), Profile::Fast, NOW).unwrap();
        assert!(bytes(&other) != bytes(&first) && other.digest != first.digest);
    }

    #[test]
    fn a_key_is_replaced_after_its_jobs_or_its_time() {
        let (ring, _directory) = ring();
        let first = ring.take(&provider(1), Profile::Fast, NOW).unwrap();
        let papers_file = ring.path(&provider(1), Profile::Fast, "json");
        let papers = read_papers(&papers_file).unwrap();
        assert_eq!(papers.jobs, 1);
        let at_last = Papers { jobs: MAX_JOBS - 1, ..papers };
        write(&papers_file, &serde_json::to_vec(&at_last).unwrap()).unwrap();
        assert!(!ring.take(&provider(1), Profile::Fast, NOW).unwrap().is_new, "the thousandth");
        let second = ring.take(&provider(1), Profile::Fast, NOW).unwrap();
        assert!(second.is_new && bytes(&second) != bytes(&first));
        assert!(!ring.take(&provider(1), Profile::Fast, NOW + MAX_AGE_MS - 1).unwrap().is_new);
        let third = ring.take(&provider(1), Profile::Fast, NOW + MAX_AGE_MS).unwrap();
        assert!(third.is_new && third.digest != second.digest);
        assert!(!Papers { created_ms: NOW + 1, ..papers }.is_good(NOW), "from the future");
    }

    #[test]
    fn a_key_without_papers_is_not_used_again() {
        let (ring, _directory) = ring();
        let first = ring.take(&provider(1), Profile::Fast, NOW).unwrap();
        fs::remove_file(ring.path(&provider(1), Profile::Fast, "json")).unwrap();
        let second = ring.take(&provider(1), Profile::Fast, NOW).unwrap();
        assert!(second.is_new && bytes(&second) != bytes(&first));
    }

    #[cfg(unix)]
    #[test]
    fn nobody_else_may_read_a_key() {
        use std::os::unix::fs::PermissionsExt;
        let (ring, _directory) = ring();
        ring.take(&provider(1), Profile::Fast, NOW).unwrap();
        let path = ring.path(&provider(1), Profile::Fast, "key");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&ring.directory)), (0o600, 0o700));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let refused = ring.take(&provider(1), Profile::Fast, NOW);
        assert!(matches!(refused, Err(RingError::Permissions { .. })), "{refused:?}");
    }

    #[test]
    fn nothing_of_a_key_shows() {
        let (ring, _directory) = ring();
        let held = ring.take(&provider(1), Profile::Fast, NOW).unwrap();
        let shown = format!("{held:?}");
        let secret = bytes(&held);
        assert!(!shown.contains(&hex::encode(&secret[2..10])) && !shown.contains(&format!("{:?}", &secret[2..6])));
    }
}
