//! Reading single values of a `/sys` or `/proc` tree.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

/// Longest file that is read: the largest of those that count are tables of a few KiB.
const MAX_BYTES: u64 = 16 * 1024;

/// The bytes of a file, at most 16 KiB; `None` where it cannot be read.
pub(super) fn bytes(path: &Path) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path).ok()?.take(MAX_BYTES).read_to_end(&mut content).ok()?;
    Some(content)
}

/// The text of a file without its last line break.
pub(super) fn text(path: &Path) -> Option<String> {
    Some(String::from_utf8(bytes(path)?).ok()?.trim().to_owned())
}

/// The whole number in a file.
pub(super) fn number(path: &Path) -> Option<i64> {
    text(path)?.parse().ok()
}

/// The number in a file as a part of `unit`: thousandths of a degree, millionths of a watt.
pub(super) fn scaled(path: &Path, unit: f64) -> Option<f32> {
    Some((number(path)? as f64 / unit) as f32)
}

/// What is in a directory, in order of name.
pub(super) fn entries(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(path) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// The name of a file or directory.
pub(super) fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// The number `n` for which `<kind>n_label` in `hwmon` holds `label`.
pub(super) fn labelled(hwmon: &Path, kind: &str, label: &str) -> Option<u32> {
    (1..=16).find(|n| {
        text(&hwmon.join(format!("{kind}{n}_label"))).is_some_and(|found| found.eq_ignore_ascii_case(label))
    })
}

/// The first hwmon of a device.
pub(super) fn hwmon_of(device: &Path) -> Option<PathBuf> {
    entries(&device.join("hwmon")).into_iter().find(|path| name(path).starts_with("hwmon"))
}
