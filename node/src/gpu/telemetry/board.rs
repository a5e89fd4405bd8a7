//! GPUs of small boards: thermal zones (kernel documentation, `driver-api/thermal/sysfs-api`), the load of Jetson and Adreno
//! drivers, and the INA3221 that measures Jetson's rails.

use super::{
    Sample, Shares, Source,
    sysfs::{entries, name, number, scaled, text},
};
use aitbc_protocol::gpu::heat::MakerLimits;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// Where drivers tell how busy the GPU is, and in which part of the whole.
const LOADS: [(&str, f64); 5] = [
    ("sys/devices/platform/gpu.0/load", 1e3),
    ("sys/devices/gpu.0/load", 1e3),
    ("sys/devices/platform/bus@0/17000000.gpu/load", 1e3),
    ("sys/devices/platform/17000000.gpu/load", 1e3),
    ("sys/class/kgsl/kgsl-3d0/gpubusy_percentage", 1e2),
];

/// Reads the GPU of a board.
#[derive(Debug)]
pub(super) struct Board {
    zone: PathBuf,
    load: Option<(PathBuf, f64)>,
    frequency: Option<PathBuf>,
    /// Hwmon and number of the rail that feeds the GPU.
    rail: Option<(PathBuf, u32)>,
}

impl Board {
    /// The GPU of the board whose tree `root` is; `None` where no thermal zone is one's.
    pub(super) fn find(root: &Path) -> Option<Self> {
        let zone = entries(&root.join("sys/class/thermal")).into_iter().find(|zone| {
            let kind = text(&zone.join("type")).unwrap_or_default();
            name(zone).starts_with("thermal_zone") && kind.to_ascii_lowercase().contains("gpu")
        })?;
        let load = LOADS.into_iter().map(|(file, unit)| (root.join(file), unit)).find(|(file, _)| file.exists());
        let frequency = entries(&root.join("sys/class/devfreq"))
            .into_iter()
            .find(|device| ["gpu", "kgsl", "mali"].iter().any(|part| name(device).contains(part)))
            .map(|device| device.join("cur_freq"));
        Some(Self { zone, load, frequency, rail: rail(root) })
    }

    fn watts(&self) -> Option<f32> {
        let (hwmon, number) = self.rail.as_ref()?;
        let volts = scaled(&hwmon.join(format!("in{number}_input")), 1e3)?;
        let amperes = scaled(&hwmon.join(format!("curr{number}_input")), 1e3)?;
        Some(volts * amperes)
    }
}

fn rail(root: &Path) -> Option<(PathBuf, u32)> {
    let hwmons = entries(&root.join("sys/class/hwmon"));
    hwmons.into_iter().filter(|hwmon| text(&hwmon.join("name")).as_deref() == Some("ina3221")).find_map(|hwmon| {
        let number = (1..=3).find(|number| {
            text(&hwmon.join(format!("in{number}_label"))).is_some_and(|label| label.contains("GPU"))
        })?;
        Some((hwmon, number))
    })
}

impl Source for Board {
    fn sample(&mut self, _: Duration, _: &[u32]) -> Sample {
        Sample {
            core_celsius: scaled(&self.zone.join("temp"), 1e3),
            watts: self.watts(),
            utilisation: self.load.as_ref().and_then(|(file, unit)| scaled(file, *unit)),
            shares: Shares::default(),
            core_mhz: self
                .frequency
                .as_ref()
                .and_then(|file| number(file))
                .and_then(|hertz| u32::try_from(hertz / 1_000_000).ok()),
            ..Sample::default()
        }
    }

    fn limits(&self) -> MakerLimits {
        let trip = |kind: &str| {
            let files = entries(&self.zone);
            let trips = files.iter().filter_map(|file| name(file).strip_suffix("_type"));
            let of_kind = trips.filter(|trip| {
                trip.starts_with("trip_point_")
                    && text(&self.zone.join(format!("{trip}_type"))).as_deref() == Some(kind)
            });
            of_kind.filter_map(|trip| scaled(&self.zone.join(format!("{trip}_temp")), 1e3)).reduce(f32::min)
        };
        MakerLimits { slowdown: trip("passive").or_else(|| trip("hot")), shutdown: trip("critical") }
    }
}

#[cfg(test)]
mod tests {
    use super::super::recorded::Tree;
    use super::*;

    #[test]
    fn a_jetson_tells_its_figures() {
        let tree = Tree::default();
        tree.write_all("sys/class/thermal/thermal_zone0", &[("type", "cpu-thermal"), ("temp", "48000")]);
        tree.write_all(
            "sys/class/thermal/thermal_zone1",
            &[
                ("type", "gpu-thermal"),
                ("temp", "52500"),
                ("trip_point_0_type", "critical"),
                ("trip_point_0_temp", "104500"),
                ("trip_point_1_type", "passive"),
                ("trip_point_1_temp", "99000"),
            ],
        );
        tree.write_all("sys/devices/platform/bus@0/17000000.gpu", &[("load", "870")]);
        tree.write_all("sys/class/devfreq/17000000.gpu", &[("cur_freq", "918000000")]);
        tree.write_all(
            "sys/class/hwmon/hwmon1",
            &[
                ("name", "ina3221"),
                ("in1_label", "VDD_IN"),
                ("in2_label", "VDD_CPU_GPU_CV"),
                ("in2_input", "5000"),
                ("curr2_input", "2400"),
            ],
        );
        let mut board = Board::find(tree.root()).expect("a board");
        let sample = board.sample(Duration::ZERO, &[]);
        assert_eq!((sample.core_celsius, sample.watts), (Some(52.5), Some(12.0)));
        assert_eq!((sample.utilisation, sample.core_mhz), (Some(0.87), Some(918)));
        assert_eq!(board.limits(), MakerLimits { slowdown: Some(99.0), shutdown: Some(104.5) });
    }

    #[test]
    fn a_phone_chip_has_zones_and_a_load() {
        let tree = Tree::default();
        tree.write_all("sys/class/thermal/thermal_zone7", &[("type", "gpuss-0"), ("temp", "41000")]);
        tree.write_all("sys/class/kgsl/kgsl-3d0", &[("gpubusy_percentage", "12")]);
        let sample = Board::find(tree.root()).expect("a board").sample(Duration::ZERO, &[]);
        assert_eq!((sample.core_celsius, sample.utilisation), (Some(41.0), Some(0.12)));
        assert!(Board::find(Tree::default().root()).is_none());
    }
}
