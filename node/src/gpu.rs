//! Which processors this machine has, as the operating system tells.

use aitbc_protocol::offer::Device;

/// A graphics processor found, and whether this build of aitbc can use it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct FoundGpu {
    /// What it is.
    pub device: Device,
    /// PCI address or another stable name.
    pub address: String,
    /// Why models cannot run on it, and what to change; `None` where they can.
    pub unusable: Option<String>,
}

/// All graphics processors.
pub fn gpus() -> Vec<FoundGpu> {
    todo!()
}

/// The central processor.
pub fn cpu() -> Device {
    todo!()
}
