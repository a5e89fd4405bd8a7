//! NVIDIA's GPUs through NVML, which comes with their driver and is loaded at run time: where it is absent, so are they.

use super::{Sample, Shares, Source, Throttle};
use aitbc_protocol::gpu::heat::MakerLimits;
use nvml_wrapper::{
    Device, Nvml,
    bitmasks::device::ThrottleReasons,
    enum_wrappers::device::{Clock, TemperatureSensor, TemperatureThreshold},
    enums::device::UsedGpuMemory,
    error::NvmlError,
    struct_wrappers::device::ProcessInfo,
};
use std::{
    collections::HashMap,
    ffi::OsStr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// The library, loaded. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Library {
    nvml: Arc<Nvml>,
    /// The processes of this system.
    proc: PathBuf,
}

impl Library {
    /// Loads it: from `path`, or from where the driver puts it. `proc` has a directory for each process of this system.
    pub fn load(path: Option<&OsStr>, proc: &Path) -> Result<Self, NvmlError> {
        let nvml = match path {
            Some(path) => Nvml::builder().lib_path(path).init()?,
            // The name without a version comes only with the development package.
            None => Nvml::builder().lib_path(OsStr::new("libnvidia-ml.so.1")).init().or_else(|_| Nvml::init())?,
        };
        Ok(Self { nvml: Arc::new(nvml), proc: proc.to_owned() })
    }

    /// The GPU at the PCI `address`, such as `0000:01:00.0`.
    pub fn device(&self, address: &str) -> Option<NvidiaGpu> {
        self.nvml.device_by_pci_bus_id(address).ok()?;
        Some(NvidiaGpu { library: self.clone(), address: address.to_owned(), seen: 0 })
    }
}

/// Reads one GPU.
#[derive(Debug)]
pub struct NvidiaGpu {
    library: Library,
    address: String,
    /// NVML's time of the newest sample of a process that was taken, in microseconds.
    seen: u64,
}

impl NvidiaGpu {
    fn shares(&mut self, own: &[u32]) -> Shares {
        let Ok(device) = self.library.nvml.device_by_pci_bus_id(self.address.as_str()) else {
            return Shares::default();
        };
        let mut shares = Shares::default();
        let Some(held) = memory(&device) else { return shares };
        // In a container the numbers may be the host's, and whose a process is cannot be told.
        let is_known = |pid: &u32| self.library.proc.join(pid.to_string()).is_dir();
        if cfg!(target_os = "linux") && !held.keys().all(is_known) {
            return shares;
        }
        let sum = |of_own: bool| {
            let of = held.iter().filter(|(pid, _)| own.contains(pid) == of_own);
            of.fold(0_u64, |sum, (_, bytes)| sum.saturating_add(*bytes))
        };
        (shares.own_memory, shares.others_memory) = (Some(sum(true)), Some(sum(false)));
        let samples = match device.process_utilization_stats(self.seen) {
            Ok(samples) => samples,
            // Nothing has computed since then.
            Err(NvmlError::NotFound) => Vec::new(),
            Err(_) => return shares,
        };
        // The mean of each process's samples, and the sum of the processes.
        let mut processes: HashMap<u32, (u32, u32)> = HashMap::new();
        for sample in samples {
            self.seen = self.seen.max(sample.timestamp);
            let (sum, count) = processes.entry(sample.pid).or_default();
            *sum = sum.saturating_add(sample.sm_util.min(100));
            *count += 1;
        }
        let part = |of_own: bool| {
            let of = processes.iter().filter(|(pid, _)| own.contains(pid) == of_own);
            let percent: f32 = of.map(|(_, (sum, count))| *sum as f32 / *count as f32).sum();
            (percent / 100.0).min(1.0)
        };
        (shares.own_utilisation, shares.others_utilisation) = (Some(part(true)), Some(part(false)));
        shares
    }
}

/// What each process holds, as far as the driver tells.
fn memory(device: &Device<'_>) -> Option<HashMap<u32, u64>> {
    let computing: Vec<ProcessInfo> = device.running_compute_processes().ok()?;
    let drawing = device.running_graphics_processes().unwrap_or_default();
    // A process that does both is in both lists, with the same number.
    let held = computing.into_iter().chain(drawing).map(|process| match process.used_gpu_memory {
        UsedGpuMemory::Used(bytes) => (process.pid, bytes),
        UsedGpuMemory::Unavailable => (process.pid, 0),
    });
    Some(held.collect())
}

fn reasons(told: ThrottleReasons) -> Vec<Throttle> {
    let power = ThrottleReasons::SW_POWER_CAP | ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN;
    let thermal = ThrottleReasons::SW_THERMAL_SLOWDOWN | ThrottleReasons::HW_THERMAL_SLOWDOWN;
    let application = ThrottleReasons::APPLICATIONS_CLOCKS_SETTING;
    let mut reasons = Vec::new();
    for (bits, reason) in
        [(thermal, Throttle::Thermal), (power, Throttle::Power), (application, Throttle::Application)]
    {
        if told.intersects(bits) {
            reasons.push(reason);
        }
    }
    // Slowed down by its hardware, for one of the reasons above where it tells.
    if told.contains(ThrottleReasons::HW_SLOWDOWN) && !told.intersects(power | thermal) {
        reasons.push(Throttle::Other);
    }
    reasons
}

impl Source for NvidiaGpu {
    fn sample(&mut self, _: Duration, own: &[u32]) -> Sample {
        let shares = self.shares(own);
        let Ok(device) = self.library.nvml.device_by_pci_bus_id(self.address.as_str()) else {
            return Sample::default();
        };
        let watts = |milliwatts: Result<u32, _>| milliwatts.ok().map(|milliwatts: u32| milliwatts as f32 / 1e3);
        let memory_used = device.memory_info().ok().map(|memory| memory.used);
        let utilisation = device.utilization_rates().ok().map(|rates| rates.gpu.min(100) as f32 / 100.0);
        Sample {
            asleep: false,
            core_celsius: device.temperature(TemperatureSensor::Gpu).ok().map(|degrees| degrees as f32),
            hot_spot_celsius: None,
            watts: watts(device.power_usage()),
            cap_watts: watts(device.enforced_power_limit()),
            utilisation,
            memory_used,
            shares,
            core_mhz: device.clock_info(Clock::SM).ok(),
            memory_mhz: device.clock_info(Clock::Memory).ok(),
            throttled: device.current_throttle_reasons().map(reasons).unwrap_or_default(),
            fan_percent: device.fan_speed(0).ok().and_then(|percent| u8::try_from(percent).ok()),
            fan_rpm: None,
        }
    }

    fn limits(&self) -> MakerLimits {
        let Ok(device) = self.library.nvml.device_by_pci_bus_id(self.address.as_str()) else {
            return MakerLimits::default();
        };
        let threshold = |which| device.temperature_threshold(which).ok().map(|degrees| degrees as f32);
        MakerLimits {
            slowdown: threshold(TemperatureThreshold::Slowdown),
            shutdown: threshold(TemperatureThreshold::Shutdown),
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::{path::PathBuf, process::Command};

    /// Builds a library with NVML's functions that answers what `fake.c` says.
    fn fake(directory: &std::path::Path, defines: &[&str]) -> PathBuf {
        let library = directory.join("libnvidia-ml.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/gpu/telemetry/nvml/fake.c");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-Wall", "-Werror", "-o"])
            .arg(&library)
            .args(defines)
            .arg(source)
            .status()
            .expect("a C compiler, which building this needs too");
        assert!(built.success(), "fake.c does not compile");
        library
    }

    #[test]
    fn a_card_tells_everything() {
        let directory = tempfile::tempdir().expect("a directory");
        for pid in ["4242", "1000"] {
            std::fs::create_dir(directory.path().join(pid)).expect("a directory");
        }
        let library = fake(directory.path(), &[]);
        let library = Library::load(Some(library.as_os_str()), directory.path()).expect("the fake library");
        assert!(library.device("0000:99:00.0").is_none(), "no such card");
        let mut card = library.device("0000:01:00.0").expect("a card");
        let sample = card.sample(Duration::ZERO, &[4242]);
        assert_eq!((sample.core_celsius, sample.fan_percent), (Some(67.0), Some(54)));
        assert_eq!((sample.watts, sample.cap_watts), (Some(312.5), Some(450.0)));
        assert_eq!((sample.utilisation, sample.memory_used), (Some(0.98), Some(20 << 30)));
        assert_eq!((sample.core_mhz, sample.memory_mhz), (Some(2520), Some(10501)));
        assert_eq!(sample.throttled, [Throttle::Power]);
        // Two samples of this node's process (90, 80), one of a game's (13).
        let shares = sample.shares;
        assert_eq!((shares.own_utilisation, shares.others_utilisation), (Some(0.85), Some(0.13)));
        assert_eq!((shares.own_memory, shares.others_memory), (Some(18 << 30), Some(1 << 30)));
        let again = card.sample(Duration::from_secs(1), &[4242]).shares;
        assert_eq!(again.own_utilisation, Some(0.0), "samples count once");
        assert_eq!(card.limits(), MakerLimits { slowdown: Some(92.0), shutdown: Some(97.0) });
    }

    #[test]
    fn a_driver_that_fails_or_knows_little_gives_no_values() {
        let directory = tempfile::tempdir().expect("a directory");
        let library = fake(directory.path(), &["-DLOST"]);
        let library = Library::load(Some(library.as_os_str()), directory.path()).expect("the fake library");
        let mut card = library.device("0000:01:00.0").expect("a card");
        let sample = card.sample(Duration::ZERO, &[4242]);
        assert_eq!(sample, Sample::default());
        assert_eq!(card.limits(), MakerLimits::default());
    }

    #[test]
    fn without_the_library_there_is_an_error() {
        assert!(Library::load(Some(OsStr::new("/nowhere/libnvidia-ml.so")), Path::new("/proc")).is_err());
    }

    #[test]
    fn processes_of_another_system_are_nobodys() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(directory.path().join("4242")).expect("a directory");
        let library = fake(directory.path(), &[]);
        let library = Library::load(Some(library.as_os_str()), directory.path()).expect("the fake library");
        let sample = library.device("0000:01:00.0").expect("a card").sample(Duration::ZERO, &[4242]);
        assert_eq!((sample.shares, sample.utilisation), (Shares::default(), Some(0.98)));
    }
}
