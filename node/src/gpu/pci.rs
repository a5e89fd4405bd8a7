//! Graphics processors on the PCI bus, out of Linux' `sysfs`, `procfs` and `/dev`.

use super::{
    FoundGpu,
    judge::{self, Built, Facts, Node, Vendor},
};
use aitbc_protocol::{
    offer::{Device, DeviceKind},
    text::Line,
};
use rustix::fs::Access;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Base class of display controllers (PCI Code and ID Assignment Specification).
const DISPLAY: u32 = 0x03;

/// All graphics processors under `root`, by PCI address.
pub(super) fn gpus(root: &Path, built: Built) -> Vec<FoundGpu> {
    let bus = root.join("sys/bus/pci/devices");
    let mut devices: Vec<PathBuf> =
        fs::read_dir(bus).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    devices.sort();
    devices.iter().filter_map(|device| gpu(root, device, built)).collect()
}

/// The device, if it is a graphics processor. Only the three makers of GPUs that run models count: other display
/// controllers are those of virtual machines and of servers' management boards.
fn gpu(root: &Path, device: &Path, built: Built) -> Option<FoundGpu> {
    if hexadecimal(device, "class")? >> 16 != DISPLAY {
        return None;
    }
    let vendor = match hexadecimal(device, "vendor")? {
        0x10de => Vendor::Nvidia,
        0x1002 => Vendor::Amd,
        0x8086 => Vendor::Intel,
        _ => return None,
    };
    let address = device.file_name()?.to_str()?.to_owned();
    let driver = fs::read_link(device.join("driver"))
        .ok()
        .and_then(|target| Some(target.file_name()?.to_str()?.to_owned()));
    let (told, memory_bytes) = match vendor {
        Vendor::Nvidia => (nvidia_model(root, &address), 0),
        Vendor::Amd => (
            line(device, "product_name"),
            line(device, "mem_info_vram_total").and_then(|bytes| bytes.parse().ok()).unwrap_or(0),
        ),
        Vendor::Intel => (None, 0),
    };
    let id = |file| hexadecimal(device, file).and_then(|id| u16::try_from(id).ok());
    let ids = id("vendor").zip(id("device"));
    let name = told.unwrap_or_else(|| {
        let maker = match vendor {
            Vendor::Nvidia => "NVIDIA",
            Vendor::Amd => "AMD",
            Vendor::Intel => "Intel",
        };
        let (vendor, device) = ids.unwrap_or_default();
        let listed = aitbc_protocol::gpu::pci::name(vendor, device);
        listed
            .map_or_else(|| format!("{maker} GPU {vendor:04x}:{device:04x}"), |listed| format!("{maker} {listed}"))
    });
    let cuda_nodes = ["nvidiactl", "nvidia-uvm"].map(|name| node(root, &format!("/dev/{name}"))).to_vec();
    let facts = Facts { vendor, driver, cuda_nodes, render_node: render_node(root, device) };
    Some(FoundGpu {
        device: Device { kind: DeviceKind::Gpu, name: Line::lossy(&name), memory_bytes, measured: None },
        pci: ids,
        address,
        unusable: judge::unusable(&facts, built),
    })
}

/// The first line of a small file of the device, if it says something.
fn line(device: &Path, file: &str) -> Option<String> {
    let text = fs::read_to_string(device.join(file)).ok()?;
    text.lines().next().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty())
}

fn hexadecimal(device: &Path, file: &str) -> Option<u32> {
    u32::from_str_radix(line(device, file)?.strip_prefix("0x")?, 16).ok()
}

/// The model as NVIDIA's driver names it.
fn nvidia_model(root: &Path, address: &str) -> Option<String> {
    let text = fs::read_to_string(root.join("proc/driver/nvidia/gpus").join(address).join("information")).ok()?;
    let model = text.lines().find_map(|line| line.strip_prefix("Model:"))?.trim();
    (!model.is_empty()).then(|| model.to_owned())
}

/// The node under `/dev/dri` that the device's driver made for computing.
fn render_node(root: &Path, device: &Path) -> Node {
    let name = fs::read_dir(device.join("drm"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .find(|name| name.starts_with("renderD"));
    match name {
        Some(name) => node(root, &format!("/dev/dri/{name}")),
        None => Node::Missing(String::new()),
    }
}

fn node(root: &Path, path: &str) -> Node {
    let file = root.join(path.trim_start_matches('/'));
    match rustix::fs::access(&file, Access::READ_OK | Access::WRITE_OK) {
        Ok(()) => Node::Usable,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Node::Missing(path.to_owned()),
        Err(_) => Node::Denied(path.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Built = Built { cuda: true, vulkan: true };

    /// A tree as Linux shows it, as far as it is read.
    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new() -> Self {
            let machine = Self(tempfile::tempdir().expect("temporary directory"));
            // Every machine has bridges; they are no GPUs.
            machine.device("0000:00:00.0", "0x060000", "0x8086", "0x1237", None);
            machine
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().expect("parent")).expect("create");
            fs::write(path, text).expect("write");
        }

        fn device(&self, address: &str, class: &str, vendor: &str, device: &str, driver: Option<&str>) {
            for (file, text) in [("class", class), ("vendor", vendor), ("device", device)] {
                self.write(&format!("sys/bus/pci/devices/{address}/{file}"), &format!("{text}\n"));
            }
            if let Some(driver) = driver {
                let target = format!("../../../../bus/pci/drivers/{driver}");
                let link = self.0.path().join(format!("sys/bus/pci/devices/{address}/driver"));
                std::os::unix::fs::symlink(target, link).expect("link");
            }
        }

        fn gpus(&self, built: Built) -> Vec<FoundGpu> {
            gpus(self.0.path(), built)
        }
    }

    #[test]
    fn nvidia() {
        let machine = Machine::new();
        machine.device("0000:01:00.0", "0x030000", "0x10de", "0x2204", Some("nvidia"));
        machine.device("0000:01:00.1", "0x040300", "0x10de", "0x1aef", Some("snd_hda_intel"));
        machine.write(
            "proc/driver/nvidia/gpus/0000:01:00.0/information",
            "Model: \t\t NVIDIA GeForce RTX 3090\nIRQ:   \t\t 151\nGPU UUID: \t GPU-00000000\n",
        );
        for node in ["nvidiactl", "nvidia-uvm"] {
            machine.write(&format!("dev/{node}"), "");
        }
        let expected = FoundGpu {
            device: Device {
                kind: DeviceKind::Gpu,
                name: Line::lossy("NVIDIA GeForce RTX 3090"),
                memory_bytes: 0,
                measured: None,
            },
            pci: Some((0x10de, 0x2204)),
            address: "0000:01:00.0".to_owned(),
            unusable: None,
        };
        assert_eq!(machine.gpus(FULL), [expected]);
        let plain = machine.gpus(Built { cuda: false, vulkan: false });
        assert!(plain[0].unusable.as_deref().expect("unusable").contains("--features cuda"));

        fs::remove_file(machine.0.path().join("dev/nvidia-uvm")).expect("remove");
        let verdict = machine.gpus(FULL)[0].unusable.clone().expect("unusable");
        assert!(verdict.starts_with("/dev/nvidia-uvm is missing"), "{verdict}");
    }

    #[test]
    fn amd_and_intel() {
        let machine = Machine::new();
        machine.device("0000:03:00.0", "0x030000", "0x1002", "0x73bf", Some("amdgpu"));
        machine.write("sys/bus/pci/devices/0000:03:00.0/mem_info_vram_total", "17163091968\n");
        machine.write("sys/bus/pci/devices/0000:03:00.0/product_name", "AMD Radeon RX 6900 XT\n");
        machine.write("sys/bus/pci/devices/0000:03:00.0/drm/card1/dev", "226:1\n");
        machine.write("sys/bus/pci/devices/0000:03:00.0/drm/renderD128/dev", "226:128\n");
        machine.write("dev/dri/renderD128", "");
        machine.device("0000:00:02.0", "0x038000", "0x8086", "0x56a0", Some("xe"));
        let found = machine.gpus(FULL);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].device.name.as_str(), "Intel DG2 [Arc A770]");
        assert!(found[0].unusable.as_deref().expect("no render node").contains("/dev/dri"));
        assert_eq!(found[1].device.name.as_str(), "AMD Radeon RX 6900 XT");
        assert_eq!(found[1].device.memory_bytes, 17_163_091_968);
        assert_eq!(found[1].unusable, None);
    }

    #[test]
    fn adapters_of_virtual_machines_are_not_gpus() {
        let machine = Machine::new();
        let adapters = [
            ("0x1b36", "0x0100"), // qxl
            ("0x1af4", "0x1050"), // virtio-gpu
            ("0x1234", "0x1111"), // bochs
            ("0x15ad", "0x0405"), // vmware
            ("0x1013", "0x00b8"), // cirrus
            ("0x1a03", "0x2000"), // a management board
        ];
        for (index, (vendor, device)) in adapters.into_iter().enumerate() {
            machine.device(&format!("0000:00:{index:02x}.1"), "0x030000", vendor, device, None);
        }
        assert_eq!(machine.gpus(FULL), []);
    }

    #[test]
    fn no_bus_and_damaged_entries_are_no_gpus() {
        assert_eq!(gpus(Path::new("/nonexistent"), FULL), []);
        let machine = Machine::new();
        machine.write("sys/bus/pci/devices/0000:01:00.0/class", "display\n");
        machine.write("sys/bus/pci/devices/0000:02:00.0/class", "0x030000\n");
        assert_eq!(machine.gpus(FULL), []);
    }
}
