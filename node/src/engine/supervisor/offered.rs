//! What a model is offered as, and what its owner should know: before it is loaded and after.

use super::{Hardware, Settings};
use crate::{
    engine::{EngineModel, frames::Loaded},
    gpu::FoundGpu,
};
use aitbc_protocol::{
    job::ModelName,
    offer::{Device, DeviceKind, Engine},
    text::Line,
};

/// The release of the bindings, which carry llama.cpp's source: what decides the numbers.
const LLAMA_VERSION: &str = "llama-cpp-sys-2 0.1.161";

/// The model as it is offered, and what its owner should know.
pub(super) fn describe(settings: &Settings, loaded: &Loaded) -> (EngineModel, Vec<String>) {
    let mut warnings = loaded.warnings.clone();
    let device = match &loaded.gpu {
        Some(gpu) if loaded.gpu_layers >= loaded.layers => gpu_device(&gpu.name, gpu.memory_bytes),
        Some(gpu) => {
            let share = format!("{} ({} of {} layers)", gpu.name, loaded.gpu_layers, loaded.layers);
            gpu_device(&share, gpu.memory_bytes)
        }
        None => {
            warnings.extend(settings.hardware.gpus.iter().map(|gpu| unused(gpu, settings)));
            settings.hardware.cpu.clone()
        }
    };
    if loaded.context < settings.load.context {
        warnings.push(format!(
            "{} was trained for a context of {} tokens: {} are not to be had",
            settings.model.model, loaded.context, settings.load.context
        ));
    }
    let model = EngineModel {
        quantisation: loaded
            .quantisation
            .as_deref()
            .map_or_else(|| settings.model.quantisation.clone(), Line::lossy),
        device,
        context: loaded.context,
        speed: loaded.speed,
        slots: loaded.slots,
        ..settings.model.clone()
    };
    (model, warnings)
}

fn gpu_device(name: &str, memory_bytes: u64) -> Device {
    Device { kind: DeviceKind::Gpu, name: Line::lossy(name), memory_bytes, measured: None }
}

/// Why a GPU that is there does not run the model.
fn unused(gpu: &FoundGpu, settings: &Settings) -> String {
    let reason = match (&gpu.unusable, settings.load.gpu_layers) {
        (_, Some(0)) => "the setting for GPU layers is 0",
        (Some(reason), _) => reason,
        (None, _) => "llama.cpp found no driver for it; see whether the driver's own tools do",
    };
    format!("{} runs on the CPU, {} ({}) is unused: {reason}", settings.model.model, gpu.device.name, gpu.address)
}

/// What runs models here.
fn engine() -> Engine {
    Engine { name: Line::lossy("llama.cpp"), version: Line::lossy(LLAMA_VERSION) }
}

/// A model before it is loaded.
pub(in crate::engine) fn unloaded(installed: &crate::models::Installed, hardware: &Hardware) -> EngineModel {
    let name: ModelName = installed.manifest.model.clone();
    EngineModel {
        model: name,
        weights: installed.manifest.weights,
        engine: engine(),
        quantisation: installed.manifest.quantisation.clone(),
        device: hardware.cpu.clone(),
        context: 0,
        speed: 0,
        declared: false,
        private: None,
        slots: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::frames::{Gpu, Load};
    use std::sync::Arc;

    #[test]
    fn the_version_is_the_one_that_is_built() {
        let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock")).unwrap();
        let (name, version) = LLAMA_VERSION.split_once(' ').unwrap();
        assert!(
            lock.contains(&format!("name = \"{name}\"\nversion = \"{version}\"")),
            "set LLAMA_VERSION to the release of {name} in Cargo.lock"
        );
    }

    fn settings(gpus: Vec<FoundGpu>, gpu_layers: Option<u32>) -> Settings {
        let cpu = Device { kind: DeviceKind::Cpu, name: Line::lossy("a CPU"), memory_bytes: 8, measured: None };
        let hardware = Arc::new(Hardware { cpu, gpus });
        let manifest = crate::models::Manifest {
            model: Line::lossy("m"),
            weights: aitbc_protocol::bytes::Digest([0; 32]),
            size: 1,
            quantisation: Line::lossy("unknown"),
            licence: Line::lossy("MIT"),
            sources: Vec::new(),
            kind: crate::models::Kind::Gguf,
        };
        let installed = crate::models::Installed { manifest, path: "m.gguf".into() };
        let load =
            Load { path: "m.gguf".into(), context: 64, slots: 1, threads: 1, gpu_layers, memory_limit: None };
        Settings { model: unloaded(&installed, &hardware), load, worker: "aitbc".into(), hardware }
    }

    fn loaded(gpu_layers: u32) -> Loaded {
        Loaded {
            gpu: (gpu_layers > 0).then(|| Gpu { name: "RTX".to_owned(), memory_bytes: 5 }),
            gpu_layers,
            layers: 31,
            context: 64,
            slots: 1,
            vocabulary: 9,
            speed: 1,
            architecture: "llama".to_owned(),
            quantisation: Some("Q4_1".to_owned()),
            warnings: Vec::new(),
        }
    }

    #[test]
    fn a_gpu_that_is_unused_is_told_with_the_reason() {
        let gpu = FoundGpu {
            device: gpu_device("RTX", 5),
            pci: None,
            address: "0000:01:00.0".to_owned(),
            unusable: Some("this build has no CUDA".to_owned()),
        };
        let (model, warnings) = describe(&settings(vec![gpu.clone()], None), &loaded(0));
        assert_eq!(model.device.kind, DeviceKind::Cpu);
        assert!(matches!(&warnings[..], [warning] if warning.contains("RTX") && warning.contains("no CUDA")));
        let (_, warnings) = describe(&settings(vec![gpu.clone()], Some(0)), &loaded(0));
        assert!(warnings[0].contains("GPU layers is 0"));
        let (model, warnings) = describe(&settings(vec![gpu.clone()], None), &loaded(31));
        assert_eq!((model.device.name.as_str(), warnings.len()), ("RTX", 0));
        let (model, _) = describe(&settings(vec![gpu], Some(5)), &loaded(5));
        assert_eq!(model.device.name.as_str(), "RTX (5 of 31 layers)");
    }
}
