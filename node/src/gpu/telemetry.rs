//! What the sensors of GPUs show, read once a second.
//!
//! ```text
//! sysfs: amdgpu, i915, xe, boards --.
//! NVML, loaded at run time ---------+--> Source --Sample--> gpu::power
//! /proc: who uses the GPU ----------'
//! ```

mod amdgpu;
mod board;
mod fdinfo;
mod intel;
pub(crate) mod nvml;
#[cfg(test)]
pub(crate) mod recorded;
pub(crate) mod supply;
mod sysfs;

use super::FoundGpu;
use aitbc_protocol::gpu::{heat::MakerLimits, owner::Others};
use serde::Serialize;
use std::{path::Path, time::Duration};

/// Where the GPU of a board is said to be.
pub(super) const BOARD: &str = "board:0";

/// Why a GPU runs slower than it could.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Throttle {
    /// It is too hot.
    Thermal,
    /// It has reached its limit of power.
    Power,
    /// It has reached a limit of current or voltage.
    Current,
    /// Somebody has set its clocks lower.
    Application,
    /// Its driver tells that it is throttled, and not why.
    Other,
}

/// What one GPU's sensors show at one moment. What no sensor tells is `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Sample {
    /// It sleeps, and nothing is read so as not to wake it.
    pub asleep: bool,
    /// Temperature of the core (AMD: the edge), in degrees Celsius.
    pub core_celsius: Option<f32>,
    /// Temperature of the hottest spot, in degrees Celsius.
    pub hot_spot_celsius: Option<f32>,
    /// Draw in watts.
    pub watts: Option<f32>,
    /// Limit of the draw that the driver keeps, in watts.
    pub cap_watts: Option<f32>,
    /// Part of the time that it computes, 0 to 1.
    pub utilisation: Option<f32>,
    /// Bytes of its memory in use.
    pub memory_used: Option<u64>,
    /// Which part this node uses, and which part others.
    pub shares: Shares,
    /// Clock of the core in MHz.
    pub core_mhz: Option<u32>,
    /// Clock of the memory in MHz.
    pub memory_mhz: Option<u32>,
    /// Why it is slower than it could be.
    pub throttled: Vec<Throttle>,
    /// Speed of the fan in percent of its highest.
    pub fan_percent: Option<u8>,
    /// Speed of the fan in turns a minute.
    pub fan_rpm: Option<u32>,
}

/// Who uses a GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Shares {
    /// Part of the time that it computes for this node, 0 to 1.
    pub own_utilisation: Option<f32>,
    /// Part of the time that it computes for others, 0 to 1.
    pub others_utilisation: Option<f32>,
    /// Bytes of its memory that this node holds.
    pub own_memory: Option<u64>,
    /// Bytes of its memory that others hold.
    pub others_memory: Option<u64>,
}

impl Shares {
    /// What the owner does with it.
    pub fn others(&self) -> Others {
        Others { utilisation: self.others_utilisation, memory_bytes: self.others_memory }
    }

    /// Gives what is not this node's to others, where the whole is known better than the shares: processes of other users
    /// cannot be seen. Of the time only while this node rests: the whole is of the moment and the shares are of a second,
    /// and what is left of their difference is nobody's.
    fn complete(&mut self, utilisation: Option<f32>, memory_used: Option<u64>) {
        const RESTS: f32 = 0.05;
        if let (Some(whole), Some(own)) = (utilisation, self.own_utilisation.filter(|own| *own < RESTS)) {
            let rest = (whole - own).max(0.0);
            self.others_utilisation = Some(self.others_utilisation.map_or(rest, |seen| seen.max(rest)));
        }
        if let (Some(whole), Some(own)) = (memory_used, self.own_memory) {
            let rest = whole.saturating_sub(own);
            self.others_memory = Some(self.others_memory.map_or(rest, |seen| seen.max(rest)));
        }
    }
}

/// The sensors of one GPU.
pub trait Source: Send {
    /// Reads them at `now`, since any fixed moment; `own` are this node's processes.
    fn sample(&mut self, now: Duration, own: &[u32]) -> Sample;

    /// Temperatures at which the maker has it slow down and switch off.
    fn limits(&self) -> MakerLimits;
}

/// The sensors of `gpu` in the tree `root`; `None` where nothing of it can be read.
pub fn source(root: &Path, nvml: Option<&nvml::Library>, gpu: &FoundGpu) -> Option<Box<dyn Source>> {
    if gpu.address == BOARD {
        return Some(Box::new(board::Board::find(root)?));
    }
    match driver(root, &gpu.address)?.as_str() {
        "amdgpu" => Some(Box::new(amdgpu::Amdgpu::new(root, &gpu.address))),
        "i915" | "xe" => Some(Box::new(intel::Intel::new(root, &gpu.address))),
        "nvidia" => Some(Box::new(nvml?.device(&gpu.address)?)),
        _ => None,
    }
}

/// Whether a board's GPU is on no bus, but has sensors.
pub(super) fn is_board(root: &Path) -> bool {
    board::Board::find(root).is_some()
}

/// Whether the PCI device at `address` is switched off while nobody uses it. Reading its sensors would wake it.
pub(super) fn sleeps(root: &Path, address: &str) -> bool {
    let status = root.join("sys/bus/pci/devices").join(address).join("power/runtime_status");
    sysfs::text(&status).is_some_and(|status| status == "suspended")
}

/// The kernel driver of the PCI device at `address`.
fn driver(root: &Path, address: &str) -> Option<String> {
    let link = root.join("sys/bus/pci/devices").join(address).join("driver");
    Some(sysfs::name(&std::fs::read_link(link).ok()?).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_belongs_to_others() {
        let mut shares = Shares {
            own_utilisation: Some(0.0),
            others_utilisation: Some(0.0),
            own_memory: Some(100),
            others_memory: Some(50),
        };
        shares.complete(Some(0.75), Some(400));
        assert_eq!((shares.others_utilisation, shares.others_memory), (Some(0.75), Some(300)));
        shares.complete(Some(0.25), Some(100));
        assert_eq!((shares.others_utilisation, shares.others_memory), (Some(0.75), Some(300)), "and not less");
        let mut busy = Shares { own_utilisation: Some(0.4), others_utilisation: Some(0.0), ..Shares::default() };
        busy.complete(Some(0.97), None);
        assert_eq!(busy.others_utilisation, Some(0.0), "a moment in a step of this node's own");
        let mut unknown = Shares::default();
        unknown.complete(Some(0.75), Some(400));
        assert_eq!(unknown, Shares::default(), "it may be this node's own");
    }
}
