//! The node's secret key and its file.

use aitbc_protocol::NodeId;
use ed25519_dalek::{Signer, SigningKey};
use std::{
    fmt, fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// First line of a key file; the second is the 32-byte secret in hexadecimal.
const HEADER: &str = "aitbc ed25519 secret key v1";

/// A node's ed25519 secret: its libp2p identity and what it signs with. Wiped from memory when dropped; never shown.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

/// Why a key cannot be read, made or kept.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// There is a file already; keys are never overwritten.
    #[error("{0} exists: a key is never overwritten; move it away first if you mean to make a new one")]
    Exists(PathBuf),
    /// Others may read the file.
    #[error("{path} can be read by others (mode {mode:o}): run chmod 600 {path}")]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not a key file.
    #[error("{0} is not an aitbc key file")]
    Format(PathBuf),
    /// The system's random number generator failed.
    #[error("the system gave no random numbers: {0}")]
    Random(getrandom::Error),
    /// The file system said no.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

impl SecretKey {
    /// A new key from the system's random numbers.
    pub fn generate() -> Result<Self, KeyError> {
        let mut secret = Zeroizing::new([0; 32]);
        getrandom::fill(secret.as_mut()).map_err(KeyError::Random)?;
        Ok(Self(SigningKey::from_bytes(&secret)))
    }

    /// The key of a 32-byte secret.
    pub fn from_bytes(secret: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(secret))
    }

    /// The secret, for the one other holder of it in this process: the libp2p identity.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// Who this key is.
    pub fn node_id(&self) -> NodeId {
        NodeId(self.0.verifying_key().to_bytes())
    }

    /// Signs bytes as they are: callers go through [`crate::seal`], which separates domains.
    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }

    /// Reads a key file; refuses one that others may read.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let io_error = |source| KeyError::Io { path: path.to_owned(), source };
        let file = fs::File::open(path).map_err(io_error)?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = file.metadata().map_err(io_error)?.permissions().mode() & 0o777;
            if mode & 0o077 != 0 {
                return Err(KeyError::Permissions { path: path.to_owned(), mode });
            }
        }
        let mut text = Zeroizing::new(String::with_capacity(256));
        file.take(256).read_to_string(&mut text).map_err(io_error)?;
        let mut lines = text.lines();
        let (Some(HEADER), Some(secret), None) = (lines.next(), lines.next(), lines.next()) else {
            return Err(KeyError::Format(path.to_owned()));
        };
        let mut bytes = Zeroizing::new([0u8; 32]);
        decode_hex(secret, &mut bytes).ok_or_else(|| KeyError::Format(path.to_owned()))?;
        Ok(Self::from_bytes(&bytes))
    }

    /// Writes the key to a new file, mode 0600, whole or not at all: a temporary file beside it, synced, then linked
    /// under its name, which fails where the name is taken.
    pub fn save_new(&self, path: &Path) -> Result<(), KeyError> {
        let io_error = |source| KeyError::Io { path: path.to_owned(), source };
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(directory).map_err(io_error)?;
        let mut text = Zeroizing::new(String::with_capacity(256));
        text.push_str(HEADER);
        text.push('\n');
        for byte in self.to_bytes().iter() {
            text.push(char::from_digit(u32::from(byte >> 4), 16).expect("a nibble is a digit"));
            text.push(char::from_digit(u32::from(byte & 15), 16).expect("a nibble is a digit"));
        }
        text.push('\n');
        let mut file = tempfile::Builder::new().prefix(".key-").tempfile_in(directory).map_err(io_error)?;
        file.write_all(text.as_bytes()).map_err(io_error)?;
        file.as_file().sync_all().map_err(io_error)?;
        match file.persist_noclobber(path) {
            Ok(_) => {}
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(KeyError::Exists(path.to_owned()));
            }
            Err(error) => return Err(io_error(error.error)),
        }
        #[cfg(unix)]
        fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(io_error)?;
        Ok(())
    }

    /// The key in `path`, made there if there is none.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        match Self::load(path) {
            Err(KeyError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let key = Self::generate()?;
                match key.save_new(path) {
                    Ok(()) => Ok(key),
                    // Another process was faster: its key is the node's.
                    Err(KeyError::Exists(_)) => Self::load(path),
                    Err(error) => Err(error),
                }
            }
            result => result,
        }
    }
}

fn decode_hex(text: &str, into: &mut [u8; 32]) -> Option<()> {
    if text.len() != 64 {
        return None;
    }
    for (byte, pair) in into.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |c: u8| char::from(c).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok()?;
    }
    Some(())
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SecretKey({})", self.node_id())
    }
}
