//! GPUs under i915 and xe: hwmon (kernel documentation, `ABI/testing/sysfs-driver-intel-i915-hwmon` and
//! `-intel-xe-hwmon`) and the files of their GTs. Integrated ones have no sensor of their own: the processor's, which sits
//! on the same chip, stands for it.

use super::{
    Sample, Source, Throttle,
    fdinfo::Clients,
    sysfs::{entries, hwmon_of, labelled, name, number, scaled, text},
};
use aitbc_protocol::gpu::heat::MakerLimits;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// Reads one GPU.
#[derive(Debug)]
pub(super) struct Intel {
    hwmon: Option<PathBuf>,
    /// Where the temperature is read, as the path before `_input`.
    sensor: Option<PathBuf>,
    /// Directory with the frequencies of the first GT, and the one with the reasons for throttling.
    gt: Option<Gt>,
    clients: Clients,
    /// Microjoules at an earlier time.
    energy: Option<(Duration, i64)>,
}

#[derive(Debug)]
struct Gt {
    frequency: PathBuf,
    /// Directory and prefix of the files that name a reason.
    throttle: (PathBuf, &'static str),
}

impl Intel {
    /// The GPU at the PCI `address` of the tree `root`.
    pub(super) fn new(root: &Path, address: &str) -> Self {
        let device = root.join("sys/bus/pci/devices").join(address);
        let hwmon = hwmon_of(&device);
        let own = hwmon.as_deref().and_then(|hwmon| {
            let sensor = labelled(hwmon, "temp", "pkg").unwrap_or(1);
            let path = hwmon.join(format!("temp{sensor}"));
            suffixed(&path, "input").exists().then_some(path)
        });
        let sensor = own.or_else(|| processor(root));
        Self { sensor, gt: gt(&device), clients: Clients::new(root, address), hwmon, energy: None }
    }

    /// Watts since the reading before.
    fn watts(&mut self, now: Duration) -> Option<f32> {
        let energy = number(&self.hwmon.as_ref()?.join("energy1_input"))?;
        let before = self.energy.replace((now, energy))?;
        let elapsed = now.checked_sub(before.0).filter(|elapsed| !elapsed.is_zero())?;
        let joules = energy.checked_sub(before.1).filter(|energy| *energy >= 0)? as f64 / 1e6;
        Some((joules / elapsed.as_secs_f64()) as f32)
    }
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut file = path.as_os_str().to_owned();
    file.push("_");
    file.push(suffix);
    file.into()
}

/// The sensor of the processor's package.
fn processor(root: &Path) -> Option<PathBuf> {
    let hwmon = entries(&root.join("sys/class/hwmon"))
        .into_iter()
        .find(|hwmon| text(&hwmon.join("name")).as_deref() == Some("coretemp"))?;
    let package = labelled(&hwmon, "temp", "Package id 0").unwrap_or(1);
    Some(hwmon.join(format!("temp{package}")))
}

/// Where the driver tells of the first GT: xe under the device, i915 under its card.
fn gt(device: &Path) -> Option<Gt> {
    let xe = device.join("tile0/gt0/freq0");
    if xe.is_dir() {
        return Some(Gt { throttle: (xe.join("throttle"), "reason_"), frequency: xe.join("act_freq") });
    }
    let card = entries(&device.join("drm")).into_iter().find(|path| name(path).starts_with("card"))?;
    let gt = card.join("gt/gt0");
    Some(Gt { frequency: gt.join("rps_act_freq_mhz"), throttle: (gt, "throttle_reason_") })
}

/// What a file that names a reason means.
fn reason(file: &str) -> Option<Throttle> {
    match file {
        // Several of them, and whether there is any.
        "status" => None,
        "pl1" | "pl2" | "pl4" | "ratl" => Some(Throttle::Power),
        "thermal" | "prochot" | "vr_thermalert" => Some(Throttle::Thermal),
        "vr_tdc" => Some(Throttle::Current),
        _ => Some(Throttle::Other),
    }
}

impl Source for Intel {
    fn sample(&mut self, now: Duration, own: &[u32]) -> Sample {
        let watts = self.watts(now);
        let hwmon = |file: &str, unit| scaled(&self.hwmon.as_ref()?.join(file), unit);
        let mut throttled = Vec::new();
        if let Some(Gt { throttle: (directory, prefix), .. }) = &self.gt {
            for file in entries(directory) {
                let told = name(&file).strip_prefix(prefix).and_then(reason);
                throttled.extend(told.filter(|_| number(&file) == Some(1)));
            }
        }
        throttled.sort_unstable();
        throttled.dedup();
        let shares = self.clients.read(now, own);
        let whole =
            shares.own_utilisation.zip(shares.others_utilisation).map(|(own, others)| (own + others).min(1.0));
        Sample {
            asleep: false,
            core_celsius: self.sensor.as_ref().and_then(|sensor| scaled(&suffixed(sensor, "input"), 1e3)),
            hot_spot_celsius: None,
            watts,
            cap_watts: hwmon("power1_max", 1e6).filter(|watts| *watts > 0.0),
            utilisation: whole,
            memory_used: shares
                .own_memory
                .zip(shares.others_memory)
                .map(|(own, others)| own.saturating_add(others)),
            shares,
            core_mhz: self
                .gt
                .as_ref()
                .and_then(|gt| number(&gt.frequency))
                .and_then(|mhz| u32::try_from(mhz).ok()),
            memory_mhz: None,
            throttled,
            fan_percent: None,
            fan_rpm: hwmon("fan1_input", 1.0).map(|rpm| rpm as u32),
        }
    }

    fn limits(&self) -> MakerLimits {
        let limit = |what: &str| scaled(&suffixed(self.sensor.as_ref()?, what), 1e3);
        MakerLimits { slowdown: limit("crit").or_else(|| limit("max")), shutdown: limit("emergency") }
    }
}

#[cfg(test)]
mod tests {
    use super::super::recorded::Tree;
    use super::*;

    const AT: &str = "0000:03:00.0";
    const DEVICE: &str = "sys/bus/pci/devices/0000:03:00.0";

    #[test]
    fn a_battlemage_card_under_xe_tells_its_figures() {
        let tree = Tree::default();
        tree.pci(AT, "xe", "8086", "e20b");
        tree.write_all(
            &format!("{DEVICE}/hwmon/hwmon4"),
            &[
                ("name", "xe"),
                ("temp2_label", "pkg"),
                ("temp2_input", "58000"),
                ("temp2_crit", "100000"),
                ("temp2_emergency", "110000"),
                ("temp3_label", "vram"),
                ("temp3_input", "64000"),
                ("energy1_input", "1000000000"),
                ("power1_max", "190000000"),
                ("fan1_input", "1180"),
            ],
        );
        tree.write_all(
            &format!("{DEVICE}/tile0/gt0/freq0"),
            &[
                ("act_freq", "2850"),
                ("throttle/status", "1"),
                ("throttle/reason_pl1", "1"),
                ("throttle/reason_thermal", "0"),
            ],
        );
        let mut source = Intel::new(tree.root(), AT);
        let sample = source.sample(Duration::from_secs(1), &[]);
        assert_eq!((sample.core_celsius, sample.watts), (Some(58.0), None));
        assert_eq!((sample.cap_watts, sample.fan_rpm, sample.core_mhz), (Some(190.0), Some(1180), Some(2850)));
        assert_eq!(sample.throttled, [Throttle::Power]);
        tree.write(&format!("{DEVICE}/hwmon/hwmon4/energy1_input"), b"1360000000");
        assert_eq!(source.sample(Duration::from_secs(3), &[]).watts, Some(180.0));
        assert_eq!(source.limits(), MakerLimits { slowdown: Some(100.0), shutdown: Some(110.0) });
    }

    #[test]
    fn an_integrated_gpu_is_as_hot_as_its_processor() {
        let tree = Tree::default();
        tree.pci("0000:00:02.0", "i915", "8086", "5917");
        tree.write_all("sys/class/hwmon/hwmon0", &[("name", "acpitz"), ("temp1_input", "27800")]);
        tree.write_all(
            "sys/class/hwmon/hwmon5",
            &[
                ("name", "coretemp"),
                ("temp1_label", "Package id 0"),
                ("temp1_input", "71000"),
                ("temp1_max", "100000"),
                ("temp1_crit", "100000"),
            ],
        );
        tree.write_all(
            "sys/bus/pci/devices/0000:00:02.0/drm/card1/gt/gt0",
            &[("rps_act_freq_mhz", "1150"), ("throttle_reason_status", "1"), ("throttle_reason_prochot", "1")],
        );
        let mut source = Intel::new(tree.root(), "0000:00:02.0");
        let sample = source.sample(Duration::from_secs(1), &[]);
        assert_eq!((sample.core_celsius, sample.core_mhz), (Some(71.0), Some(1150)));
        assert_eq!((sample.watts, sample.cap_watts), (None, None));
        assert_eq!(sample.throttled, [Throttle::Thermal]);
        assert_eq!(source.limits().slowdown, Some(100.0));
    }
}
