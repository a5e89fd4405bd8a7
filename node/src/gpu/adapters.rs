//! Graphics adapters, as the drivers in this process tell of them. Only a child process asks.

use super::compute;
use aitbc_protocol::gpu::Api;
use serde::{Deserialize, Serialize};

/// What one graphics interface tells of one adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adapter {
    /// The interface.
    pub api: Api,
    /// Its name there.
    pub name: String,
    /// PCI vendor, or what stands for it; 0 where it is not told.
    pub vendor: u32,
    /// PCI device; 0 where it is not told.
    pub device: u32,
    /// PCI address; empty where it is not told.
    pub address: String,
    /// Name and version of the driver.
    pub driver: String,
    /// Whether it is a program that pretends to be a GPU.
    pub software: bool,
}

/// The list is shorter than it was.
#[derive(Debug, thiserror::Error)]
#[error("there is no adapter {0} any more")]
pub(super) struct NoAdapter(String);

/// All adapters, in an order that is the same in every child: OpenGL, which tells least of them, comes last.
pub(super) fn known() -> Vec<(wgpu::Adapter, Adapter)> {
    let adapters = compute::adapters().into_iter();
    let mut known: Vec<_> = adapters.filter_map(|wgpu| Some((described(&wgpu.get_info())?, wgpu))).collect();
    known.sort_by_key(|(adapter, _)| adapter.api == Api::Gl);
    known.into_iter().map(|(adapter, wgpu)| (wgpu, adapter)).collect()
}

/// The adapter of this place in the list.
pub(super) fn adapter(index: &str) -> Result<(wgpu::Adapter, Adapter), NoAdapter> {
    let wanted: usize = index.parse().unwrap_or(usize::MAX);
    known().into_iter().nth(wanted).ok_or_else(|| NoAdapter(index.to_owned()))
}

fn described(info: &wgpu::AdapterInfo) -> Option<Adapter> {
    let api = match info.backend {
        wgpu::Backend::Vulkan => Api::Vulkan,
        wgpu::Backend::Metal => Api::Metal,
        wgpu::Backend::Dx12 => Api::Dx12,
        wgpu::Backend::Gl => Api::Gl,
        wgpu::Backend::BrowserWebGpu => Api::WebGpu,
        wgpu::Backend::Noop => return None,
    };
    let driver = [info.driver.as_str(), info.driver_info.as_str()];
    let driver: Vec<&str> = driver.into_iter().filter(|part| !part.is_empty()).collect();
    Some(Adapter {
        api,
        name: info.name.clone(),
        vendor: info.vendor,
        device: info.device,
        address: info.device_pci_bus_id.clone(),
        driver: driver.join(" "),
        software: info.device_type == wgpu::DeviceType::Cpu,
    })
}
