//! A desktop with an RX 6800 XT, as far as sensors go: a tree of files in the shape of its `/sys`. Its maker has the card
//! slow down at 100 degrees and switch off at 105.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

const CARD: &str = "sys/bus/pci/devices/0000:0b:00.0";

/// The tree; it is removed with this value.
#[derive(Debug)]
pub struct Desktop(tempfile::TempDir);

impl Default for Desktop {
    fn default() -> Self {
        let this = Self(tempfile::tempdir().expect("a directory"));
        for (file, content) in [
            ("vendor", "0x1002"),
            ("device", "0x73bf"),
            ("class", "0x030000"),
            ("gpu_busy_percent", "0"),
            ("mem_info_vram_total", "17163091968"),
            ("mem_info_vram_used", "400000000"),
            ("power/runtime_status", "active"),
            ("hwmon/hwmon3/temp1_label", "edge"),
            ("hwmon/hwmon3/temp1_input", "55000"),
            ("hwmon/hwmon3/temp1_crit", "100000"),
            ("hwmon/hwmon3/temp1_emergency", "105000"),
            ("hwmon/hwmon3/power1_average", "40000000"),
            ("hwmon/hwmon3/power1_cap", "255000000"),
        ] {
            this.set(file, content);
        }
        symlink("../../../../bus/pci/drivers/amdgpu", this.file("driver")).expect("a link");
        this
    }
}

impl Desktop {
    /// Where the tree is.
    pub fn root(&self) -> &Path {
        self.0.path()
    }

    /// A file of the card.
    pub fn file(&self, file: &str) -> PathBuf {
        self.root().join(CARD).join(file)
    }

    /// Writes a file of the card: whole at every moment, as those of a kernel are.
    pub fn set(&self, file: &str, content: &str) {
        let path = self.file(file);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        let new = path.with_extension("new");
        fs::write(&new, content).expect("a file");
        fs::rename(new, path).expect("renamed");
    }

    /// The core has this temperature from now on, in degrees Celsius.
    pub fn degrees(&self, degrees: u32) {
        self.set("hwmon/hwmon3/temp1_input", &format!("{degrees}000\n"));
    }
}
