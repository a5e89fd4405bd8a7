//! The sensors of all GPUs, each with what is remembered of it.

use super::{GpuState, PowerConfig, PowerError};
use crate::gpu::{
    FoundGpu, gpus, gpus_of,
    telemetry::{self, Sample, Source, nvml},
};
use aitbc_protocol::gpu::{
    heat::{Heat, Judged, Ladder, MakerLimits, SensorFault, Thermometer},
    owner::{OwnerUse, OwnerWatch},
};
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// The sensors of one GPU with what is remembered of it.
struct Watched {
    gpu: FoundGpu,
    root: PathBuf,
    /// None where it has no sensors: nothing tells of its heat, and it is left to its driver.
    source: Option<Box<dyn Source>>,
    thermometer: Thermometer,
    owner: OwnerWatch,
}

impl Watched {
    fn read(&mut self, now: Duration, own: &[u32]) -> GpuState {
        let Some(source) = &mut self.source else { return self.state(Sample::default(), Heat::Cool, None, None) };
        if telemetry::sleeps(&self.root, &self.gpu.address) {
            // It is cool, nobody uses it, and reading its sensors would wake it.
            let sample = Sample { asleep: true, ..Sample::default() };
            return self.state(sample, Heat::Cool, None, None);
        }
        let sample = source.sample(now, own);
        let Judged { heat, fault } = self.thermometer.read(now, sample.core_celsius, sample.utilisation);
        let owner = self.owner.read(now, &sample.shares.others());
        self.state(sample, heat, fault, owner)
    }

    /// Before anything was read.
    fn unread(&self) -> GpuState {
        let fault = self.source.is_some().then_some(SensorFault::Missing);
        let heat = if fault.is_some() { Heat::Shutdown } else { Heat::Cool };
        self.state(Sample::default(), heat, fault, None)
    }

    fn state(&self, sample: Sample, heat: Heat, fault: Option<SensorFault>, owner: Option<OwnerUse>) -> GpuState {
        GpuState {
            name: self.gpu.device.name.to_string(),
            address: self.gpu.address.clone(),
            memory_bytes: self.gpu.device.memory_bytes,
            usable: self.gpu.unusable.is_none(),
            watched: self.source.is_some(),
            sample,
            heat,
            ladder: *self.thermometer.ladder(),
            fault,
            owner,
        }
    }
}

/// All sensors.
pub struct Sensors {
    watched: Vec<Watched>,
    started: Instant,
}

impl std::fmt::Debug for Sensors {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Sensors").field("gpus", &self.watched.len()).finish_non_exhaustive()
    }
}

impl Sensors {
    /// Finds the sensors of all GPUs.
    pub fn find(config: &PowerConfig) -> Result<Self, PowerError> {
        let (root, gpus, library) = match &config.simulated {
            Some(root) => (root.clone(), gpus_of(root), None),
            None => (PathBuf::from("/"), gpus(), nvml::Library::load(None, Path::new("/proc")).ok()),
        };
        let watched = gpus.into_iter().map(|gpu| {
            let source = telemetry::source(&root, library.as_ref(), &gpu);
            let maker = match &source {
                // Asking one that sleeps would wake it.
                Some(source) if !telemetry::sleeps(&root, &gpu.address) => source.limits(),
                _ => MakerLimits::default(),
            };
            let ladder = Ladder::new(&config.heat, &maker)
                .map_err(|source| PowerError::Ladder { gpu: gpu.device.name.to_string(), source })?;
            let (thermometer, owner) = (Thermometer::new(ladder), OwnerWatch::default());
            Ok(Watched { gpu, root: root.clone(), source, thermometer, owner })
        });
        Ok(Self { watched: watched.collect::<Result<_, _>>()?, started: Instant::now() })
    }

    /// The GPUs that they belong to, those without sensors too.
    pub fn gpus(&self) -> Vec<FoundGpu> {
        self.watched.iter().map(|watched| watched.gpu.clone()).collect()
    }

    /// What is known of them before anything is read: too hot, for nothing shows that they are not.
    pub(super) fn unread(&self) -> Vec<GpuState> {
        self.watched.iter().map(Watched::unread).collect()
    }

    /// Reads them all; `own` are this node's processes. Takes as long as the drivers do.
    pub fn read(&mut self, own: &[u32]) -> Vec<GpuState> {
        let now = self.started.elapsed();
        self.watched.iter_mut().map(|watched| watched.read(now, own)).collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use aitbc_protocol::offer::{Device, DeviceKind};

    fn gpu(address: &str) -> FoundGpu {
        let name = aitbc_protocol::text::Line::lossy("a card");
        FoundGpu {
            device: Device { kind: DeviceKind::Gpu, name, memory_bytes: 1 << 30, measured: None },
            pci: None,
            address: address.to_owned(),
            unusable: None,
        }
    }

    /// Sensors of cards at these addresses, read through these sources.
    pub(in crate::gpu::power) fn sensors(cards: Vec<(&str, Option<Box<dyn Source>>)>) -> Sensors {
        let watched = cards.into_iter().map(|(address, source)| Watched {
            gpu: gpu(address),
            root: PathBuf::from("/nowhere"),
            source,
            thermometer: Thermometer::new(Ladder::NETWORK),
            owner: OwnerWatch::default(),
        });
        Sensors { watched: watched.collect(), started: Instant::now() }
    }

    #[test]
    fn a_card_without_sensors_is_neither_hot_nor_broken() {
        let states = sensors(vec![("a", None)]).read(&[]);
        assert_eq!((states[0].heat, states[0].fault, states[0].watched), (Heat::Cool, None, false));
        assert_eq!(sensors(vec![("a", None)]).unread()[0].heat, Heat::Cool);
    }

    #[test]
    fn a_card_that_sleeps_is_not_woken() {
        struct Alarm;
        impl Source for Alarm {
            fn sample(&mut self, _: Duration, _: &[u32]) -> Sample {
                panic!("it was woken")
            }

            fn limits(&self) -> MakerLimits {
                panic!("it was woken")
            }
        }
        let tree = telemetry::recorded::Tree::default();
        tree.write("sys/bus/pci/devices/0000:0b:00.0/power/runtime_status", b"suspended\n");
        let mut sensors = sensors(vec![("0000:0b:00.0", Some(Box::new(Alarm)))]);
        sensors.watched[0].root = tree.root().to_owned();
        let states = sensors.read(&[]);
        assert!(states[0].sample.asleep && states[0].heat == Heat::Cool);
    }
}
