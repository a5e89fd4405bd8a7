//! Key files: private, whole or absent, never overwritten.

use aitbc_crypto::{SecretKey, keys::KeyError};
use std::{fs, os::unix::fs::PermissionsExt, sync::Arc};

#[test]
fn a_key_file_reads_back_and_is_private() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("deep").join("key");
    let key = SecretKey::load_or_create(&path).expect("made");
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    assert_eq!(SecretKey::load_or_create(&path).expect("read").node_id(), key.node_id());
    let files = fs::read_dir(path.parent().expect("a parent")).expect("readable").count();
    assert_eq!(files, 1, "no temporary file is left");
}

#[test]
fn a_key_is_never_overwritten() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("key");
    fs::write(&path, "something of somebody's").expect("written");
    let key = SecretKey::generate().expect("random numbers");
    assert!(matches!(key.save_new(&path), Err(KeyError::Exists(_))));
    assert_eq!(fs::read_to_string(&path).expect("read"), "something of somebody's");
}

#[test]
fn many_starters_agree_on_one_key() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = Arc::new(directory.path().join("key"));
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let path = Arc::clone(&path);
            std::thread::spawn(move || SecretKey::load_or_create(&path).expect("a key").node_id())
        })
        .collect();
    let ids: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("no panic")).collect();
    assert!(ids.iter().all(|id| *id == ids[0]));
}

#[test]
fn files_that_others_read_or_that_are_no_keys_are_refused() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("key");
    SecretKey::generate().expect("random numbers").save_new(&path).expect("saved");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("changed");
    assert!(matches!(SecretKey::load(&path), Err(KeyError::Permissions { mode: 0o644, .. })));
    for text in ["", "aitbc ed25519 secret key v1\n", "aitbc ed25519 secret key v1\nzz\n", "\0\0\0"] {
        let path = directory.path().join("other");
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("changed");
        assert!(matches!(SecretKey::load(&path), Err(KeyError::Format(_))), "{text:?}");
        fs::remove_file(&path).expect("removed");
    }
}

#[test]
fn the_secret_shows_in_no_debug_text() {
    let key = SecretKey::from_bytes(&[0xab; 32]);
    let text = format!("{key:?}");
    assert!(!text.to_lowercase().contains("abab") && text.contains("12D3KooW"), "{text}");
}
