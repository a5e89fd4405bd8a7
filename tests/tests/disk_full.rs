//! A full disk under the store: a typed refusal that names the disk, nothing lost, and work again once there is room.

use aitbc_crypto::SecretKey;
use aitbc_node::storage::{StorageError, Store};
use std::{path::Path, process::Command};

/// A small file system of our own, unmounted when dropped.
struct SmallDisk {
    directory: tempfile::TempDir,
}

impl SmallDisk {
    /// `None` where mounting is not allowed; the reason is printed.
    fn mount(mib: u32) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a directory");
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"])
            .arg(directory.path())
            .output();
        match output {
            Ok(output) if output.status.success() => Some(Self { directory }),
            Ok(output) => {
                println!("skipped: no small disk here: {}", String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(error) => {
                println!("skipped: no small disk here: {error}");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.directory.path()).status();
    }
}

#[test]
fn a_full_disk_loses_nothing_and_is_named() {
    let Some(disk) = SmallDisk::mount(64) else { return };
    let database = disk.path().join("db");
    let store = Store::open(&database).expect("opens");
    let key = SecretKey::generate().expect("random numbers");
    store.put_setting("kept", key.node_id().0.as_slice()).expect("room");
    let mut last = store.next_offer_sequence(1_000).expect("room");

    // Everything that is left is taken by somebody else.
    let filler = disk.path().join("filler");
    let mut taken = std::fs::File::create(&filler).expect("created");
    let zeros = vec![0; 65_536];
    while std::io::Write::write_all(&mut taken, &zeros).is_ok() {}
    let failure = (0..10_000).find_map(|round| store.put_setting("large", &vec![round as u8; 16_384]).err());
    assert!(matches!(failure, Some(StorageError::Full(_))), "{failure:?}");
    assert!(failure.expect("an error").to_string().contains("full"));
    assert_eq!(store.setting("kept").expect("reads go on").as_deref(), Some(&key.node_id().0[..]));

    // Room again: the same store goes on, counting upwards.
    drop(taken);
    std::fs::remove_file(&filler).expect("removed");
    let next = store.next_offer_sequence(1_000).expect("works again");
    assert!(next > last);
    last = next;
    drop(store);
    let store = Store::open(&database).expect("opens again");
    assert_eq!(store.setting("kept").expect("reads").as_deref(), Some(&key.node_id().0[..]));
    assert!(store.next_offer_sequence(1_000).expect("works") > last);
}
