//! Reads a model, and measures how fast this machine computes it.

use super::{Workshop, computing};
use crate::{
    engine::{EngineError, EngineModel},
    gpu,
    models::Installed,
};
use aitbc_crypto::fhe::{
    Answer, ClientKey, EvaluateError, Interface, Package, Processor, ServerKey, evaluate, network::Mode,
};
use aitbc_protocol::{
    bytes::BoundedBytes,
    job::MAX_TOKENS,
    offer::{Device, Engine},
    private::{MAX_INTERFACE, PrivateOffer},
    sealed::{MAX_SEALED_INPUT, MAX_SEALED_OUTPUT},
    text::Line,
    wire,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// The release of the library that computes: what decides the numbers.
const TFHE_VERSION: &str = "1.5.4";
/// Bootstraps of a measurement, for each thread: enough that starting the threads does not count.
const MEASURED: u32 = 4;
/// Bootstraps of a measurement on a GPU, which does many at a time.
const ON_GPU: u32 = 512;

/// Why a model cannot be served; each says what to change.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error("{0}")]
    Read(std::io::Error),
    #[error(transparent)]
    Package(#[from] aitbc_crypto::fhe::PackageError),
    #[error("its {what} of {got} bytes do not fit a message of {most}: compile a smaller model")]
    TooLarge { what: &'static str, got: usize, most: usize },
    #[error("it takes {0} bootstraps, {MAX_TOKENS} are the most that a job is billed: compile a smaller model")]
    TooLong(u32),
    #[error("{0}; raise `provide.memory_mib`, or compile it for a smaller profile")]
    Memory(EngineError),
    #[error("its speed could not be measured: {0}")]
    Measuring(String),
}

/// A model that is loaded.
#[derive(Clone, Debug)]
pub(super) struct Loaded {
    pub(super) package: Arc<Package>,
    pub(super) described: BoundedBytes<MAX_INTERFACE>,
    pub(super) values: u32,
    pub(super) bootstraps: u32,
    /// Bootstraps of about a quarter of a second.
    pub(super) batch: u32,
    /// What they run on.
    pub(super) processor: Processor,
}

/// Where a model's bootstraps run.
struct Site {
    processor: Processor,
    device: Device,
    /// Bootstraps in a thousand seconds.
    speed: u32,
    warnings: Vec<String>,
}

/// Loads a model, and says of what to warn. Takes some seconds: a key is made to measure with, and thrown away.
pub(super) fn load(
    installed: &Installed,
    workshop: &Workshop,
    slots: u32,
) -> Result<(EngineModel, Loaded, Vec<String>), LoadError> {
    let bytes = std::fs::read(&installed.path).map_err(LoadError::Read)?;
    let package = Arc::new(Package::read(&bytes)?);
    let interface = package.interface();
    let profile = package.profile;
    let (values, bootstraps) = (interface.values(), interface.bootstraps());
    bounded("inputs", profile.input_bytes(values), MAX_SEALED_INPUT)?;
    bounded("answers", interface.output_bytes(), MAX_SEALED_OUTPUT)?;
    if bootstraps > MAX_TOKENS {
        return Err(LoadError::TooLong(bootstraps));
    }
    let described = wire::encode_payload(&interface, usize::MAX).unwrap_or_default();
    let size = described.len();
    let described = BoundedBytes::new(described).map_err(|_| LoadError::TooLarge {
        what: "description",
        got: size,
        most: MAX_INTERFACE,
    })?;
    let Site { processor, device, speed, warnings } = if bootstraps == 0 {
        Site { processor: Processor::Cpu, device: gpu::cpu(), speed: 0, warnings: Vec::new() }
    } else {
        workshop.keys.admits(profile).map_err(LoadError::Memory)?;
        choose(&package, &interface, workshop.threads)?
    };
    let values = u32::try_from(values).unwrap_or(u32::MAX);
    let model = EngineModel {
        model: installed.manifest.model.clone(),
        weights: installed.manifest.weights,
        engine: Engine { name: Line::lossy("tfhe"), version: Line::lossy(TFHE_VERSION) },
        quantisation: Line::lossy(match package.network.mode {
            Mode::Exact => "exact",
            Mode::Approximate => "approximate",
        }),
        device,
        context: values.saturating_add(bootstraps),
        speed,
        declared: false,
        slots,
        private: Some(PrivateOffer {
            profile: Line::lossy(profile.name()),
            bootstraps,
            key_bytes: if bootstraps == 0 { 0 } else { profile.evaluation_key_bytes() as u64 },
        }),
    };
    let batch = (speed / 4_000).max(u32::try_from(workshop.threads).unwrap_or(1));
    Ok((model, Loaded { package, described, values, bootstraps, batch, processor }, warnings))
}

fn bounded(what: &'static str, got: usize, most: usize) -> Result<(), LoadError> {
    if got > most { Err(LoadError::TooLarge { what, got, most }) } else { Ok(()) }
}

/// Measures this model on what there is, and takes a GPU only where it is faster and computes what the processor computes.
fn choose(package: &Package, interface: &Interface, threads: usize) -> Result<Site, LoadError> {
    let failed = |error: &dyn std::fmt::Display| LoadError::Measuring(error.to_string());
    let pool = computing::pool(threads).map_err(|error| failed(&error))?;
    pool.install(|| {
        let trial = Trial::new(package, interface).map_err(|error| failed(&error))?;
        let wanted = MEASURED.saturating_mul(u32::try_from(threads).unwrap_or(1));
        let speed = trial.speed(Processor::Cpu, wanted).map_err(|error| failed(&error))?;
        let mut site = Site { processor: Processor::Cpu, device: gpu::cpu(), speed, warnings: Vec::new() };
        if Processor::Cuda.is_there() {
            match on_gpu(&trial, gpu::gpus(), speed) {
                Ok((device, speed)) => site = Site { processor: Processor::Cuda, device, speed, ..site },
                Err(error) => site.warnings.push(format!("bootstraps run on the processor: {error}")),
            }
        }
        Ok(site)
    })
}

/// The GPU that CUDA uses and its speed, where it computes what the processor computes, faster than `least`.
fn on_gpu(trial: &Trial<'_>, found: Vec<gpu::FoundGpu>, least: u32) -> Result<(Device, u32), Fault> {
    let device = nvidia(found)?;
    trial.agrees(Processor::Cuda).map_err(|error| format!("{}: {error}", device.name))?;
    let speed = trial.speed(Processor::Cuda, ON_GPU).map_err(|error| format!("{}: {error}", device.name))?;
    if speed > least {
        Ok((device, speed))
    } else {
        Err(format!("{} does {speed} in 1,000 s, the processor {least}", device.name).into())
    }
}

/// The one NVIDIA GPU. CUDA counts in an order of its own, so that of several it is not known which is used, and an offer must
/// not name another one.
fn nvidia(found: Vec<gpu::FoundGpu>) -> Result<Device, Fault> {
    const VENDOR: u16 = 0x10de;
    let mut found: Vec<_> =
        found.into_iter().filter(|gpu| gpu.pci.is_some_and(|(vendor, _)| vendor == VENDOR)).collect();
    match (found.pop(), found.len()) {
        (Some(gpu), 0) => gpu.unusable.map_or(Ok(gpu.device), |reason| Err(reason.into())),
        (Some(_), others) => Err(format!("which of {} NVIDIA GPUs CUDA uses is not known", others + 1).into()),
        (None, _) => Err("CUDA shows a GPU that is not on the PCI bus".into()),
    }
}

/// What a trial fails with: of any kind, since it is only told.
type Fault = Box<dyn std::error::Error + Send + Sync>;

/// A key and an input to try a model with.
struct Trial<'a> {
    package: &'a Package,
    interface: &'a Interface,
    client: ClientKey,
    evaluation_key: Vec<u8>,
    input: Vec<u8>,
}

impl<'a> Trial<'a> {
    fn new(package: &'a Package, interface: &'a Interface) -> Result<Self, Fault> {
        let client = ClientKey::generate(package.profile)?;
        let evaluation_key = client.evaluation_key();
        let input = client.encrypt(interface, &vec![0.0; interface.values()])?;
        Ok(Self { package, interface, client, evaluation_key, input })
    }

    fn key(&self, processor: Processor) -> Result<ServerKey, Fault> {
        Ok(ServerKey::from_bytes(self.package.profile, &self.evaluation_key, processor)?)
    }

    /// Bootstraps that `processor` does in a thousand seconds, from the first `wanted` of them.
    fn speed(&self, processor: Processor, wanted: u32) -> Result<u32, Fault> {
        let key = self.key(processor)?;
        let (mut began, mut took, mut counted): (Option<Instant>, _, _) = (None, Duration::ZERO, 0);
        let result = evaluate(self.package, Some(&key), &self.input, &mut |left| {
            if let Some(since) = began {
                took = since.elapsed();
                return 0;
            }
            counted = left.min(wanted);
            began = Some(Instant::now());
            counted
        });
        match (result, began) {
            (Err(EvaluateError::Cancelled), _) => {}
            (Ok(_), Some(since)) => took = since.elapsed(),
            (Err(error), _) => return Err(error.into()),
            (Ok(_), None) => return Err("it has no bootstraps".into()),
        }
        // Casts of floating point saturate.
        let speed = (f64::from(counted) * 1000.0 / took.as_secs_f64().max(1e-6)) as u32;
        Ok(speed.max(1))
    }

    /// Refuses a processor on which another answer comes out than on this machine's own.
    fn agrees(&self, processor: Processor) -> Result<(), Fault> {
        let answer = |processor| -> Result<Answer, Fault> {
            let key = self.key(processor)?;
            let sealed = evaluate(self.package, Some(&key), &self.input, &mut |left| left)?;
            Ok(self.client.decrypt(self.interface, &sealed)?)
        };
        let (expected, got) = (answer(Processor::Cpu)?, answer(processor)?);
        if expected.agrees(&got, self.interface.noise()) {
            Ok(())
        } else {
            Err("it computes another answer".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aitbc_protocol::offer::DeviceKind;

    fn found(vendor: u16, name: &str, unusable: Option<&str>) -> gpu::FoundGpu {
        let device = Device { kind: DeviceKind::Gpu, name: Line::lossy(name), memory_bytes: 0, measured: None };
        gpu::FoundGpu {
            device,
            pci: Some((vendor, 1)),
            address: name.to_owned(),
            unusable: unusable.map(str::to_owned),
        }
    }

    #[test]
    fn a_gpu_is_named_only_where_it_can_be_no_other() {
        let nvidia =
            |found| nvidia(found).map(|device| device.name.to_string()).map_err(|error| error.to_string());
        let (one, two) = (found(0x10de, "one", None), found(0x10de, "two", None));
        let other = found(0x1002, "other", None);
        assert_eq!(nvidia(vec![other.clone(), one.clone()]), Ok("one".to_owned()));
        assert_eq!(nvidia(vec![one, two]), Err("which of 2 NVIDIA GPUs CUDA uses is not known".to_owned()));
        assert_eq!(nvidia(vec![found(0x10de, "one", Some("no driver"))]), Err("no driver".to_owned()));
        assert!(nvidia(vec![other]).is_err_and(|error| error.contains("not on the PCI bus")));
    }
}
