//! GPUs under amdgpu: hwmon and the files beside it (kernel documentation, `gpu/amdgpu/thermal`).

use super::{
    Sample, Source, Throttle,
    fdinfo::Clients,
    sysfs::{bytes, hwmon_of, labelled, number, scaled},
};
use aitbc_protocol::gpu::heat::MakerLimits;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// Reads one GPU.
#[derive(Debug)]
pub(super) struct Amdgpu {
    device: PathBuf,
    hwmon: Option<PathBuf>,
    /// Numbers of the sensors and clocks in hwmon.
    edge: Option<u32>,
    junction: Option<u32>,
    core_clock: Option<u32>,
    memory_clock: Option<u32>,
    clients: Clients,
}

impl Amdgpu {
    /// The GPU at the PCI `address` of the tree `root`.
    pub(super) fn new(root: &Path, address: &str) -> Self {
        let device = root.join("sys/bus/pci/devices").join(address);
        let hwmon = hwmon_of(&device);
        let find = |kind, label| labelled(hwmon.as_deref()?, kind, label);
        Self {
            edge: find("temp", "edge"),
            junction: find("temp", "junction"),
            core_clock: find("freq", "sclk"),
            memory_clock: find("freq", "mclk"),
            clients: Clients::new(root, address),
            device,
            hwmon,
        }
    }

    fn hwmon(&self, file: &str, unit: f64) -> Option<f32> {
        scaled(&self.hwmon.as_ref()?.join(file), unit)
    }

    fn celsius(&self, sensor: Option<u32>, what: &str) -> Option<f32> {
        self.hwmon(&format!("temp{}_{what}", sensor?), 1e3)
    }

    fn mhz(&self, clock: Option<u32>) -> Option<u32> {
        self.hwmon(&format!("freq{}_input", clock?), 1e6).map(|mhz| mhz.round() as u32)
    }
}

impl Source for Amdgpu {
    fn sample(&mut self, now: Duration, own: &[u32]) -> Sample {
        let pwm = self.hwmon("pwm1", 1.0).zip(self.hwmon("pwm1_max", 1.0)).filter(|(_, most)| *most > 0.0);
        let mut sample = Sample {
            asleep: false,
            core_celsius: self.celsius(self.edge, "input"),
            hot_spot_celsius: self.celsius(self.junction, "input"),
            watts: self.hwmon("power1_average", 1e6).or_else(|| self.hwmon("power1_input", 1e6)),
            cap_watts: self.hwmon("power1_cap", 1e6),
            utilisation: scaled(&self.device.join("gpu_busy_percent"), 100.0),
            memory_used: number(&self.device.join("mem_info_vram_used"))
                .and_then(|bytes| u64::try_from(bytes).ok()),
            shares: self.clients.read(now, own),
            core_mhz: self.mhz(self.core_clock),
            memory_mhz: self.mhz(self.memory_clock),
            throttled: bytes(&self.device.join("gpu_metrics")).map_or_else(Vec::new, |table| throttled(&table)),
            fan_percent: pwm.map(|(now, most)| (now / most * 100.0).clamp(0.0, 100.0) as u8),
            fan_rpm: self.hwmon("fan1_input", 1.0).map(|rpm| rpm as u32),
        };
        sample.shares.complete(sample.utilisation, sample.memory_used);
        sample
    }

    fn limits(&self) -> MakerLimits {
        MakerLimits { slowdown: self.celsius(self.edge, "crit"), shutdown: self.celsius(self.edge, "emergency") }
    }
}

/// Why the firmware throttles, from the table `gpu_metrics` (Linux, `kgd_pp_interface.h`): versions 1.3 and 2.2 and later
/// minor ones of both have a status that means the same for all chips, earlier ones only whether there is any.
fn throttled(table: &[u8]) -> Vec<Throttle> {
    let number = |at: usize, size: usize| -> Option<u64> {
        let mut bytes = [0; 8];
        bytes[..size].copy_from_slice(table.get(at..at + size)?);
        Some(u64::from_le_bytes(bytes))
    };
    let (Some(format), Some(content)) = (table.get(2), table.get(3)) else { return Vec::new() };
    let (whole, any) = match (format, content) {
        (1, 3) => (number(112, 8), None),
        (2, 2..=4) => (number(120, 8), None),
        (1, 1 | 2) => (None, number(68, 4)),
        (2, 1) => (None, number(108, 4)),
        _ => (None, None),
    };
    // A table in which nothing is known is all ones.
    if let Some(status) = whole.filter(|status| *status != u64::MAX) {
        // Bits 0-15: power; 16-31: current; 32-47: temperature; above: others.
        let ranges = [
            (0xffff_u64, Throttle::Power),
            (0xffff << 16, Throttle::Current),
            (0xffff << 32, Throttle::Thermal),
            (0xffff << 48, Throttle::Other),
        ];
        let mut reasons: Vec<Throttle> =
            ranges.into_iter().filter(|(bits, _)| status & bits != 0).map(|(_, reason)| reason).collect();
        reasons.sort_unstable();
        return reasons;
    }
    match any {
        Some(status) if status != 0 && status != u64::from(u32::MAX) => vec![Throttle::Other],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::recorded::Tree;
    use super::*;

    /// The shape of a desktop's RX 6800 XT under Linux 6.8.
    fn rx_6800_xt() -> Tree {
        let mut metrics = vec![0; 120];
        metrics[..4].copy_from_slice(&[120, 0, 1, 3]);
        metrics[112..120].copy_from_slice(&((1_u64 << 36) | 1).to_le_bytes());
        let tree = Tree::default();
        tree.pci("0000:0b:00.0", "amdgpu", "1002", "73bf");
        let device = "sys/bus/pci/devices/0000:0b:00.0";
        for (file, content) in [
            ("power/runtime_status", "active"),
            ("gpu_busy_percent", "97"),
            ("mem_info_vram_total", "17163091968"),
            ("mem_info_vram_used", "9663676416"),
            ("hwmon/hwmon3/name", "amdgpu"),
            ("hwmon/hwmon3/temp1_input", "61000"),
            ("hwmon/hwmon3/temp1_label", "edge"),
            ("hwmon/hwmon3/temp1_crit", "100000"),
            ("hwmon/hwmon3/temp1_emergency", "105000"),
            ("hwmon/hwmon3/temp2_input", "78000"),
            ("hwmon/hwmon3/temp2_label", "junction"),
            ("hwmon/hwmon3/temp3_input", "70000"),
            ("hwmon/hwmon3/temp3_label", "mem"),
            ("hwmon/hwmon3/power1_average", "214000000"),
            ("hwmon/hwmon3/power1_cap", "255000000"),
            ("hwmon/hwmon3/fan1_input", "1420"),
            ("hwmon/hwmon3/pwm1", "102"),
            ("hwmon/hwmon3/pwm1_max", "255"),
            ("hwmon/hwmon3/freq1_input", "2350000000"),
            ("hwmon/hwmon3/freq1_label", "sclk"),
            ("hwmon/hwmon3/freq2_input", "1000000000"),
            ("hwmon/hwmon3/freq2_label", "mclk"),
        ] {
            tree.write(&format!("{device}/{file}"), content.as_bytes());
        }
        tree.write(&format!("{device}/gpu_metrics"), &metrics);
        tree
    }

    #[test]
    fn a_desktop_card_tells_everything() {
        let tree = rx_6800_xt();
        let mut source = Amdgpu::new(tree.root(), "0000:0b:00.0");
        let sample = source.sample(Duration::from_secs(1), &[]);
        assert_eq!((sample.core_celsius, sample.hot_spot_celsius), (Some(61.0), Some(78.0)));
        assert_eq!((sample.watts, sample.cap_watts), (Some(214.0), Some(255.0)));
        assert_eq!((sample.utilisation, sample.memory_used), (Some(0.97), Some(9 << 30)));
        assert_eq!((sample.core_mhz, sample.memory_mhz), (Some(2350), Some(1000)));
        assert_eq!((sample.fan_percent, sample.fan_rpm), (Some(40), Some(1420)));
        assert_eq!(sample.throttled, [Throttle::Thermal, Throttle::Power]);
        assert_eq!(sample.shares.others_memory, Some(9 << 30), "nobody of this node uses it");
        let limits = source.limits();
        assert_eq!((limits.slowdown, limits.shutdown), (Some(100.0), Some(105.0)));
    }

    #[test]
    fn files_that_are_missing_or_hold_something_else_are_not_values() {
        let tree = rx_6800_xt();
        tree.write("sys/bus/pci/devices/0000:0b:00.0/hwmon/hwmon3/temp1_input", b"N/A");
        tree.write("sys/bus/pci/devices/0000:0b:00.0/gpu_metrics", &[4, 0, 1, 3]);
        tree.remove("sys/bus/pci/devices/0000:0b:00.0/gpu_busy_percent");
        let sample = Amdgpu::new(tree.root(), "0000:0b:00.0").sample(Duration::ZERO, &[]);
        assert_eq!((sample.core_celsius, sample.utilisation), (None, None));
        assert!(sample.throttled.is_empty());
    }

    #[test]
    fn older_tables_tell_only_that_it_is_throttled() {
        let mut table = vec![0; 96];
        table[2..4].copy_from_slice(&[1, 1]);
        assert!(throttled(&table).is_empty());
        table[68] = 8;
        assert_eq!(throttled(&table), [Throttle::Other]);
        table[68..72].fill(0xff);
        assert!(throttled(&table).is_empty(), "not known");
        assert!(throttled(&[]).is_empty());
    }
}
