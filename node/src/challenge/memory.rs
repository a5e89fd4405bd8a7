//! Which memory this node can show, and how much of it is free.

use super::ChallengeConfig;
use crate::gpu::{
    power::{GpuState, PowerState},
    proving::Memory,
    worker,
};
use aitbc_protocol::{gpu::challenge::exchange::Claim, text::Line};
use std::path::Path;

/// Left free of a GPU's memory beside the fifth that no challenge fills: drivers and displays take some without telling.
const MARGIN: u64 = 256 << 20;
/// Less is not worth a challenge: it would lie in caches.
const LEAST: u64 = 512 << 20;

/// Why no memory can be shown.
#[derive(Debug, thiserror::Error)]
pub enum NoMemory {
    /// None that models can run on.
    #[error("no GPU that can be used")]
    NoGpu,
    /// Nothing tells how much there is.
    #[error("the driver of {0} does not tell how much of its memory is free")]
    Unknown(String),
    /// Models and others hold it.
    #[error("only {free} MiB of {gpu} are free: at least {least} are needed", least = LEAST >> 20)]
    TooLittle {
        /// Which.
        gpu: String,
        /// What is left, in MiB.
        free: u64,
    },
    /// No graphics interface reaches it.
    #[error("no Vulkan driver reaches {0}: `aitbc gpus` tells more")]
    NoInterface(String),
    /// Drivers do not answer.
    #[error(transparent)]
    Drivers(#[from] worker::WorkerError),
}

/// What can be claimed in `slot`, and where it lies. Several GPUs take turns.
pub(super) async fn claim(
    config: &ChallengeConfig,
    binary: &Path,
    power: &PowerState,
    slot: u64,
) -> Result<(Claim, Memory), NoMemory> {
    if let Some(mib) = config.simulated_mib {
        let device = Line::lossy("simulated: the machine's own memory");
        return Ok((Claim { device, bytes: u64::from(mib) << 20, simulated: true }, Memory::Machine));
    }
    let usable: Vec<&GpuState> = power.gpus.iter().filter(|gpu| gpu.usable).collect();
    let turn = usize::try_from(slot % usable.len().max(1) as u64).unwrap_or_default();
    let gpu = *usable.get(turn).ok_or(NoMemory::NoGpu)?;
    let bytes = free(gpu)?;
    let adapters = worker::adapters(binary).await?;
    let real = || adapters.iter().enumerate().filter(|(_, adapter)| !adapter.software);
    let index = real()
        .find(|(_, adapter)| adapter.address.eq_ignore_ascii_case(&gpu.address))
        .or_else(|| real().find(|(_, adapter)| usable.len() == 1 && gpu.name.contains(&adapter.name)))
        .map(|(index, _)| index)
        .ok_or_else(|| NoMemory::NoInterface(gpu.name.clone()))?;
    Ok((Claim { device: Line::lossy(&gpu.name), bytes, simulated: false }, Memory::Gpu(index)))
}

/// Bytes that are free now.
fn free(gpu: &GpuState) -> Result<u64, NoMemory> {
    let used = gpu.sample.memory_used.filter(|_| gpu.memory_bytes > 0);
    let used = used.ok_or_else(|| NoMemory::Unknown(gpu.name.clone()))?;
    let free = gpu.memory_bytes.saturating_sub(used).saturating_sub(MARGIN);
    if free < LEAST { Err(NoMemory::TooLittle { gpu: gpu.name.clone(), free: free >> 20 }) } else { Ok(free) }
}
