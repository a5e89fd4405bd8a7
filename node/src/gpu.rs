//! Which processors this machine has, as the operating system tells.

use aitbc_protocol::{
    gpu::classify::{Classified, Reported, classify},
    offer::{Device, DeviceKind},
    text::Line,
};
use std::path::Path;

pub mod adapters;
pub mod child;
pub mod compute;
pub mod inventory;
mod judge;
pub mod kept;
mod pci;
pub mod power;
pub mod proving;
pub mod telemetry;
pub mod worker;

/// A graphics processor found, and whether this build of aitbc can use it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct FoundGpu {
    /// What it is.
    pub device: Device,
    /// PCI vendor and device; `None` where it is on no such bus.
    pub pci: Option<(u16, u16)>,
    /// PCI address or another stable name.
    pub address: String,
    /// Why models cannot run on it, and what to change; `None` where they can.
    pub unusable: Option<String>,
}

/// All graphics processors: on the PCI bus on Linux, the one of the chip on a Mac. Display adapters that virtual
/// machines pretend are not among them.
pub fn gpus() -> Vec<FoundGpu> {
    if cfg!(target_os = "macos") { apple_gpus() } else { gpus_of(Path::new("/")) }
}

/// The graphics processors of a tree: those on the PCI bus, or else the one of a board.
fn gpus_of(root: &Path) -> Vec<FoundGpu> {
    let found = pci::gpus(root, judge::Built::THIS);
    if found.is_empty() && telemetry::is_board(root) { vec![board(root)] } else { found }
}

/// The GPU of a small board, which is on no bus; the board's name tells what it is.
fn board(root: &Path) -> FoundGpu {
    let model = std::fs::read_to_string(root.join("proc/device-tree/model")).unwrap_or_default();
    let model = model.trim_end_matches('\0').trim();
    let built = judge::Built::THIS;
    FoundGpu {
        device: Device {
            kind: DeviceKind::Gpu,
            name: Line::lossy(if model.is_empty() { "the GPU of this board" } else { model }),
            memory_bytes: 0,
            measured: None,
        },
        pci: None,
        address: telemetry::BOARD.to_owned(),
        unusable: (!built.cuda && !built.vulkan).then(|| {
            "this aitbc was built without CUDA and Vulkan: build with --features cuda, or vulkan".to_owned()
        }),
    }
}

/// The model of the catalogue that a GPU is.
pub fn model(gpu: &FoundGpu) -> Classified {
    let memory = gpu.device.memory_bytes;
    let memory_bytes = (memory > 0 && gpu.pci.is_some()).then_some(memory);
    classify(&Reported { name: gpu.device.name.as_str(), pci: gpu.pci, memory_bytes })
}

/// The central processor, with the memory that this process may use.
pub fn cpu() -> Device {
    let system = system();
    let told = std::fs::read_to_string("/proc/cpuinfo").ok();
    let name = told.as_deref().and_then(cpu_name).or_else(|| system.cpus().first().map(sysinfo::Cpu::brand));
    let name = match name {
        None | Some("") => std::env::consts::ARCH,
        Some(name) => name,
    };
    // In a container the machine's memory is not what there is.
    let memory_bytes = system.cgroup_limits().map_or(system.total_memory(), |limits| limits.total_memory);
    Device { kind: DeviceKind::Cpu, name: Line::lossy(name.trim()), memory_bytes, measured: None }
}

/// Memory in bytes that programs could still be given.
pub fn free_memory() -> u64 {
    system().available_memory()
}

fn system() -> sysinfo::System {
    let memory = sysinfo::MemoryRefreshKind::nothing().with_ram();
    let what = sysinfo::RefreshKind::nothing().with_memory(memory).with_cpu(sysinfo::CpuRefreshKind::nothing());
    sysinfo::System::new_with_specifics(what)
}

/// The model name in the text of `/proc/cpuinfo`; ARM kernels tell none.
fn cpu_name(cpuinfo: &str) -> Option<&str> {
    let (_, name) = cpuinfo.lines().find(|line| line.starts_with("model name"))?.split_once(':')?;
    Some(name.trim()).filter(|name| !name.is_empty())
}

/// Every Mac that runs aitbc has Metal; chips by Apple share all memory with the GPU.
fn apple_gpus() -> Vec<FoundGpu> {
    let chip = cpu();
    if !chip.name.as_str().starts_with("Apple") {
        return Vec::new();
    }
    vec![FoundGpu {
        device: Device { kind: DeviceKind::Gpu, ..chip },
        pci: None,
        address: "metal:0".to_owned(),
        unusable: (!cfg!(feature = "metal"))
            .then(|| "this aitbc was built without Metal: build with --features metal".to_owned()),
    }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_has_a_name_and_memory() {
        let cpu = cpu();
        assert_eq!(cpu.kind, DeviceKind::Cpu);
        assert!(!cpu.name.as_str().is_empty());
        assert!(cpu.memory_bytes > 64 << 20, "{}", cpu.memory_bytes);
    }

    #[test]
    fn a_board_has_one_gpu_with_sensors() {
        let tree = telemetry::recorded::Tree::default();
        assert!(gpus_of(tree.root()).is_empty());
        tree.write_all("sys/class/thermal/thermal_zone1", &[("type", "gpu-thermal"), ("temp", "52500")]);
        tree.write("proc/device-tree/model", b"NVIDIA Jetson Orin Nano Developer Kit\0");
        let found = gpus_of(tree.root());
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].device.name.as_str(), "NVIDIA Jetson Orin Nano Developer Kit");
        let mut source = telemetry::source(tree.root(), None, &found[0]).expect("sensors");
        assert_eq!(source.sample(std::time::Duration::ZERO, &[]).core_celsius, Some(52.5));
    }

    #[test]
    fn cpu_names_are_read() {
        let x86 =
            "processor\t: 0\nmodel\t\t: 17\nmodel name\t: AMD EPYC 9354 32-Core Processor\n\nprocessor\t: 1\n";
        assert_eq!(cpu_name(x86), Some("AMD EPYC 9354 32-Core Processor"));
        assert_eq!(cpu_name("processor\t: 0\nBogoMIPS\t: 50.00\n"), None);
        assert_eq!(cpu_name("model name\t:\n"), None);
    }
}
