//! Trees in the shape of what real machines have under `/sys` and `/proc`.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

/// A tree in a temporary directory.
#[derive(Debug)]
pub(crate) struct Tree(tempfile::TempDir);

impl Default for Tree {
    fn default() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }
}

impl Tree {
    pub(crate) fn root(&self) -> &Path {
        self.0.path()
    }

    fn path(&self, file: &str) -> PathBuf {
        let path = self.root().join(file);
        fs::create_dir_all(path.parent().expect("a file in the tree")).expect("a directory");
        path
    }

    /// Writes a file and the directories that it is in.
    pub(crate) fn write(&self, file: &str, content: &[u8]) {
        fs::write(self.path(file), content).expect("a file");
    }

    /// The same for several files in one directory.
    pub(crate) fn write_all(&self, directory: &str, files: &[(&str, &str)]) {
        for (file, content) in files {
            self.write(&format!("{directory}/{file}"), format!("{content}\n").as_bytes());
        }
    }

    pub(crate) fn remove(&self, file: &str) {
        fs::remove_file(self.path(file)).expect("a file to remove");
    }

    /// A link, as sysfs has many.
    pub(crate) fn link(&self, from: &str, to: &str) {
        symlink(to, self.path(from)).expect("a link");
    }

    /// A display controller on the PCI bus with its driver.
    pub(crate) fn pci(&self, address: &str, driver: &str, vendor: &str, device: &str) {
        let at = format!("sys/bus/pci/devices/{address}");
        let (vendor, device) = (format!("0x{vendor}"), format!("0x{device}"));
        self.write_all(&at, &[("vendor", &vendor), ("device", &device), ("class", "0x030000")]);
        self.link(&format!("{at}/driver"), &format!("../../../../bus/pci/drivers/{driver}"));
    }
}
