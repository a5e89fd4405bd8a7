use super::*;

const BYTES: u64 = 1000;
const DAY: u64 = 24 * 3_600_000;

fn client(n: u8) -> NodeId {
    aitbc_crypto::SecretKey::from_bytes(&[n; 32]).node_id()
}

fn key(n: u8) -> (Vec<u8>, Digest) {
    let bytes: Vec<u8> = (0..BYTES).map(|place| (place as u8).wrapping_mul(n)).collect();
    let digest = Digest::of(&bytes);
    (bytes, digest)
}

struct Fixture {
    store: KeyStore,
    directory: tempfile::TempDir,
    now: UnixMillis,
}

impl Fixture {
    fn new(quota: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = KeyStore::new(directory.path().join("evaluation-keys"), quota);
        Self { store, directory, now: now_ms() }
    }

    fn offer(&self, client: NodeId, digest: Digest) -> Result<Offered, KeyRefusal> {
        self.store.offer(client, digest, BYTES, self.now)
    }

    fn upload(&self, client: NodeId, digest: Digest) -> Upload {
        match self.offer(client, digest).unwrap() {
            Offered::Wanted(upload) => upload,
            Offered::Held(_) => panic!("it is held already"),
        }
    }

    fn send(&self, client: NodeId, n: u8) -> Result<UnixMillis, KeyRefusal> {
        let (bytes, digest) = key(n);
        let mut upload = self.upload(client, digest);
        upload.take(&bytes)?;
        upload.finish(self.now)
    }

    fn has(&self, client: NodeId, n: u8) -> bool {
        self.store.find(&client, key(n).1, BYTES).is_some()
    }

    fn files(&self) -> Vec<PathBuf> {
        let clients = fs::read_dir(self.directory.path().join("evaluation-keys")).into_iter().flatten();
        clients
            .flat_map(|client| fs::read_dir(client.unwrap().path()).unwrap())
            .map(|f| f.unwrap().path())
            .collect()
    }
}

#[test]
fn a_key_comes_in_parts_over_several_streams() {
    let at = Fixture::new(10 * BYTES);
    let (bytes, digest) = key(3);
    let mut upload = at.upload(client(1), digest);
    assert_eq!(upload.offset(), 0);
    upload.take(&bytes[..400]).unwrap();
    drop(upload);
    assert!(!at.has(client(1), 3), "a part is no key");
    let mut upload = at.upload(client(1), digest);
    assert_eq!(upload.offset(), 400, "what came is kept");
    upload.take(&bytes[400..900]).unwrap();
    assert!(!upload.is_whole());
    upload.take(&bytes[900..]).unwrap();
    assert!(upload.is_whole());
    upload.finish(at.now).unwrap();
    let stored = at.store.find(&client(1), digest, BYTES).unwrap();
    assert_eq!(stored.read().unwrap(), bytes);
    assert!(matches!(at.offer(client(1), digest), Ok(Offered::Held(until)) if until == at.now + KEY_LIFETIME_MS));
    assert_eq!(at.files().len(), 1, "nothing else is left");
}

#[test]
fn a_key_is_its_client_s_alone() {
    let at = Fixture::new(10 * BYTES);
    at.send(client(1), 3).unwrap();
    assert!(at.has(client(1), 3) && !at.has(client(2), 3));
    assert!(matches!(at.offer(client(2), key(3).1), Ok(Offered::Wanted(_))));
    assert!(at.store.find(&client(1), key(3).1, BYTES + 1).is_none(), "of another profile");
}

#[test]
fn wrong_bytes_leave_nothing() {
    let at = Fixture::new(10 * BYTES);
    let (bytes, _) = key(3);
    let mut upload = at.upload(client(1), key(4).1);
    upload.take(&bytes).unwrap();
    assert_eq!(upload.finish(at.now), Err(KeyRefusal::Digest));
    let mut upload = at.upload(client(1), key(3).1);
    assert_eq!(upload.offset(), 0);
    upload.take(&bytes[..999]).unwrap();
    let longer = upload.take(&[1, 2]);
    assert_eq!(longer, Err(KeyRefusal::Length { expected: BYTES, got: BYTES + 1 }), "before anything is written");
    assert_eq!(upload.take(&[]), Err(KeyRefusal::Length { expected: BYTES, got: 999 }));
    assert_eq!(upload.finish(at.now), Err(KeyRefusal::Length { expected: BYTES, got: 999 }));
    assert!(!at.has(client(1), 3) && !at.has(client(1), 4));
}

#[test]
fn a_damaged_file_is_not_used() {
    let at = Fixture::new(10 * BYTES);
    at.send(client(1), 3).unwrap();
    let stored = at.store.find(&client(1), key(3).1, BYTES).unwrap();
    fs::write(at.files().remove(0), vec![0; BYTES as usize]).unwrap();
    assert!(matches!(stored.read(), Err(KeyFault::Damaged)));
    fs::write(at.files().remove(0), b"short").unwrap();
    assert!(!at.has(client(1), 3));
}

#[test]
fn a_client_has_two_keys_and_sends_one() {
    let at = Fixture::new(10 * BYTES);
    let mut at = at;
    for n in [3, 5, 7] {
        at.send(client(1), n).unwrap();
        at.now += 1;
    }
    assert_eq!([3, 5, 7].map(|n| at.has(client(1), n)), [false, true, true], "the oldest makes way");
    let _sending = at.upload(client(1), key(9).1);
    assert!(matches!(at.offer(client(1), key(11).1), Err(KeyRefusal::Busy { .. })));
    assert!(matches!(at.offer(client(2), key(11).1), Ok(Offered::Wanted(_))), "others are not kept waiting");
}

#[test]
fn a_part_that_was_given_up_for_another_key_goes() {
    let at = Fixture::new(10 * BYTES);
    let mut upload = at.upload(client(1), key(3).1);
    upload.take(&[1; 10]).unwrap();
    drop(upload);
    assert_eq!(at.files().len(), 1);
    drop(at.upload(client(1), key(5).1));
    assert!(at.files().is_empty());
}

#[test]
fn the_quota_holds_and_what_is_in_use_stays() {
    let mut at = Fixture::new(2 * BYTES);
    at.send(client(1), 3).unwrap();
    at.send(client(2), 3).unwrap();
    assert!(matches!(at.offer(client(3), key(3).1), Err(KeyRefusal::Full)), "both were used just now");
    at.now += IN_USE_MS + 1;
    at.store.find(&client(1), key(3).1, BYTES).unwrap().touch(at.now);
    at.send(client(3), 3).unwrap();
    assert_eq!([1, 2, 3].map(|n| at.has(client(n), 3)), [true, false, true]);
    // A key that is being sent has its room before its bytes are there, and a part counts as the whole.
    let at = Fixture::new(2 * BYTES);
    let mut first = at.upload(client(1), key(3).1);
    let _second = at.upload(client(2), key(3).1);
    assert!(matches!(at.offer(client(3), key(3).1), Err(KeyRefusal::Full)));
    first.take(&[1]).unwrap();
    assert!(matches!(at.offer(client(3), key(3).1), Err(KeyRefusal::Full)));
    // Nobody sends it any more: it makes way.
    drop(first);
    assert!(matches!(at.offer(client(3), key(3).1), Ok(Offered::Wanted(_))));
    assert!(at.files().is_empty());
}

#[test]
fn keys_and_parts_expire() {
    let at = Fixture::new(10 * BYTES);
    at.send(client(1), 3).unwrap();
    let mut upload = at.upload(client(2), key(3).1);
    upload.take(&[1; 10]).unwrap();
    at.store.sweep(at.now + 2 * DAY);
    assert_eq!(at.files().len(), 2, "what is being sent stays");
    drop(upload);
    at.store.sweep(at.now + 2 * DAY);
    assert_eq!(at.files().len(), 1);
    at.store.sweep(at.now + 29 * DAY);
    assert!(at.has(client(1), 3));
    at.store.sweep(at.now + 30 * DAY + 1);
    assert!(at.files().is_empty());
    let clients = fs::read_dir(at.directory.path().join("evaluation-keys")).unwrap();
    assert_eq!(clients.count(), 0, "no trace of who was here");
}

#[cfg(unix)]
#[test]
fn files_are_their_owner_s_only() {
    use std::os::unix::fs::PermissionsExt;
    let at = Fixture::new(10 * BYTES);
    at.send(client(1), 3).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let file = at.files().remove(0);
    assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
}

#[test]
fn files_of_others_are_left_alone() {
    let at = Fixture::new(10 * BYTES);
    let shelf = at.directory.path().join("evaluation-keys");
    let other = shelf.join(client(1).to_string());
    fs::create_dir_all(&other).unwrap();
    fs::write(other.join("notes.txt"), b"mine").unwrap();
    fs::write(shelf.join("readme"), b"mine").unwrap();
    at.store.sweep(at.now + 365 * DAY);
    assert!(other.join("notes.txt").exists() && shelf.join("readme").exists());
}
