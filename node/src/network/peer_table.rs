//! Peers that were good lately, kept in a file between runs, so that a node finds back without its bootstrap list.

use crate::clock::now_ms;
use aitbc_protocol::UnixMillis;
use libp2p::{Multiaddr, PeerId};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Most peers kept.
const MAX_PEERS: usize = 200;
/// Most addresses of a peer.
const MAX_PEER_ADDRESSES: usize = 8;
/// Largest file read.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// Least time between two writes.
const WRITE_INTERVAL: Duration = Duration::from_secs(60);
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    peers: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    peer: String,
    addresses: Vec<Multiaddr>,
    seen_ms: UnixMillis,
}

#[derive(Debug, PartialEq)]
struct Known {
    addresses: Vec<Multiaddr>,
    seen_ms: UnixMillis,
}

/// Owns the table and its file. Without a path nothing is read or written.
#[derive(Debug)]
pub(super) struct PeerTable {
    path: Option<PathBuf>,
    peers: HashMap<PeerId, Known>,
    dirty: bool,
    written: Instant,
}

impl PeerTable {
    /// Reads the file. One that cannot be read or understood is reported and replaced at the next write: the table
    /// is a convenience, never a reason not to start.
    pub(super) fn load(path: Option<PathBuf>, now: Instant) -> Self {
        let peers = path.as_deref().map_or_else(HashMap::new, |path| match read(path) {
            Ok(peers) => peers,
            Err(error) if error.kind() == io::ErrorKind::NotFound => HashMap::new(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the table of known peers is unreadable, starting a new one");
                HashMap::new()
            }
        });
        Self { path, peers, dirty: false, written: now }
    }

    /// Notes that a peer was reached lately under `address`, which moves to the front.
    pub(super) fn reached(&mut self, peer: PeerId, address: &Multiaddr) {
        let known = self.entry(peer);
        known.addresses.retain(|other| other != address);
        known.addresses.insert(0, address.clone());
        known.addresses.truncate(MAX_PEER_ADDRESSES);
        self.dirty = true;
    }

    /// Notes addresses that a connected peer says it has.
    pub(super) fn told(&mut self, peer: PeerId, addresses: &[Multiaddr]) {
        if addresses.is_empty() {
            return;
        }
        let known = self.entry(peer);
        for address in addresses {
            if known.addresses.len() < MAX_PEER_ADDRESSES && !known.addresses.contains(address) {
                known.addresses.push(address.clone());
            }
        }
        self.dirty = true;
    }

    /// Forgets a peer.
    pub(super) fn forget(&mut self, peer: &PeerId) {
        self.dirty |= self.peers.remove(peer).is_some();
    }

    fn entry(&mut self, peer: PeerId) -> &mut Known {
        if self.peers.len() >= MAX_PEERS
            && !self.peers.contains_key(&peer)
            && let Some(oldest) = self.peers.iter().min_by_key(|(_, known)| known.seen_ms).map(|(peer, _)| *peer)
        {
            self.peers.remove(&oldest);
        }
        let known = self.peers.entry(peer).or_insert_with(|| Known { addresses: Vec::new(), seen_ms: 0 });
        known.seen_ms = now_ms();
        known
    }

    /// The `count` peers after the first `skip`, the one seen last first.
    pub(super) fn newest(&self, skip: usize, count: usize) -> Vec<(PeerId, Vec<Multiaddr>)> {
        let mut peers: Vec<_> = self.peers.iter().collect();
        peers.sort_unstable_by_key(|(peer, known)| (std::cmp::Reverse(known.seen_ms), **peer));
        peers.into_iter().skip(skip).take(count).map(|(peer, known)| (*peer, known.addresses.clone())).collect()
    }

    /// How many peers are known.
    pub(super) fn len(&self) -> usize {
        self.peers.len()
    }

    /// What to write and where, if there is anything new and the last write is a minute ago (or `at_once`). The
    /// caller writes it, off the network task.
    pub(super) fn take_write(&mut self, now: Instant, at_once: bool) -> Option<(PathBuf, Vec<u8>)> {
        let due = at_once || now.saturating_duration_since(self.written) >= WRITE_INTERVAL;
        if !(self.dirty && due) {
            return None;
        }
        let path = self.path.clone()?;
        self.dirty = false;
        self.written = now;
        let peers = self
            .newest(0, MAX_PEERS)
            .into_iter()
            .map(|(peer, addresses)| Entry {
                seen_ms: self.peers.get(&peer).map_or(0, |known| known.seen_ms),
                peer: peer.to_string(),
                addresses,
            })
            .collect();
        let bytes = serde_json::to_vec_pretty(&File { version: VERSION, peers })
            .expect("strings and numbers have a JSON form");
        Some((path, bytes))
    }
}

fn read(path: &Path) -> io::Result<HashMap<PeerId, Known>> {
    let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(invalid(format!("larger than {MAX_FILE_BYTES} bytes")));
    }
    let file: File = serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
    if file.version != VERSION {
        return Err(invalid(format!("version {} where {VERSION} is known", file.version)));
    }
    let mut peers = HashMap::new();
    for mut entry in file.peers.into_iter().take(MAX_PEERS) {
        let peer = entry.peer.parse().map_err(|_| invalid(format!("{:?} is no peer", entry.peer)))?;
        entry.addresses.truncate(MAX_PEER_ADDRESSES);
        peers.insert(peer, Known { addresses: entry.addresses, seen_ms: entry.seen_ms });
    }
    Ok(peers)
}

/// Writes the table whole or not at all.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> Multiaddr {
        format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap()
    }

    #[test]
    fn survives_a_restart_newest_first() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state/peers.json");
        let now = Instant::now();
        let mut table = PeerTable::load(Some(path.clone()), now);
        let (first, second) = (PeerId::random(), PeerId::random());
        table.reached(first, &address(1));
        table.told(first, &[address(2), address(1)]);
        table.reached(second, &address(3));
        table.peers.get_mut(&first).unwrap().seen_ms = 1;
        assert_eq!(table.take_write(now, false), None, "not more than once a minute");
        let (to, bytes) = table.take_write(now + WRITE_INTERVAL, false).unwrap();
        write(&to, &bytes).unwrap();
        assert_eq!(table.take_write(now + WRITE_INTERVAL * 3, false), None, "nothing new");
        let again = PeerTable::load(Some(path), now);
        assert_eq!(again.newest(0, 9), [(second, vec![address(3)]), (first, vec![address(1), address(2)])]);
        assert_eq!(again.newest(1, 9).len(), 1);
    }

    #[test]
    fn a_corrupt_file_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("peers.json");
        for garbage in [&b"{"[..], b"[]", b"{\"version\":9,\"peers\":[]}", &[0xff; 64]] {
            fs::write(&path, garbage).unwrap();
            assert_eq!(PeerTable::load(Some(path.clone()), Instant::now()).len(), 0);
        }
        let mut table = PeerTable::load(Some(path.clone()), Instant::now());
        table.reached(PeerId::random(), &address(1));
        let (to, bytes) = table.take_write(Instant::now(), true).unwrap();
        write(&to, &bytes).unwrap();
        assert_eq!(PeerTable::load(Some(path), Instant::now()).len(), 1);
    }

    #[test]
    fn is_bounded_and_forgets_the_oldest() {
        let mut table = PeerTable::load(None, Instant::now());
        let oldest = PeerId::random();
        table.reached(oldest, &address(1));
        table.peers.get_mut(&oldest).unwrap().seen_ms = 1;
        for _ in 0..MAX_PEERS {
            table.reached(PeerId::random(), &address(1));
        }
        assert_eq!(table.len(), MAX_PEERS);
        assert!(!table.peers.contains_key(&oldest));
        let peer = PeerId::random();
        for port in 0..50 {
            table.reached(peer, &address(port));
        }
        assert_eq!(table.peers[&peer].addresses.len(), MAX_PEER_ADDRESSES);
        assert_eq!(table.peers[&peer].addresses[0], address(49));
        assert_eq!(table.take_write(Instant::now(), true), None, "no path, no file");
    }
}
