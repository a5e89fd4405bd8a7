//! What is known of GPU models: the makers' figures, and which model a driver's name means.
//!
//! The figures are peak rates of data sheets; what a card really does, its provider measures: [`measured`].

pub mod architecture;
pub mod catalogue;
pub mod challenge;
pub mod classify;
pub mod heat;
pub mod measured;
pub mod owner;
pub mod pci;
pub mod power;
pub mod query;
pub mod schedule;
pub mod seen;
pub mod sizing;

use serde::{Deserialize, Serialize};
use std::fmt;

/// Who makes a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Vendor {
    /// Advanced Micro Devices.
    Amd,
    /// Apple.
    Apple,
    /// Arm: Mali and Immortalis.
    Arm,
    /// Broadcom: `VideoCore`.
    Broadcom,
    /// `HiSilicon`: Maleoon.
    HiSilicon,
    /// Imagination Technologies: `PowerVR`.
    Imagination,
    /// Intel.
    Intel,
    /// NVIDIA.
    Nvidia,
    /// Qualcomm: Adreno.
    Qualcomm,
    /// Samsung: Xclipse.
    Samsung,
}

/// For whom a GPU is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// Anybody.
    Consumer,
    /// Professionals at their desks.
    Workstation,
    /// Servers.
    Server,
    /// Miners of currencies: no display, often cut down.
    Mining,
    /// Devices that it is built into.
    Embedded,
}

/// What a GPU sits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// A card or module with a cooler of its own.
    Card,
    /// A laptop, beside the processor.
    Laptop,
    /// The processor of a desktop or laptop, whose memory it shares.
    Integrated,
    /// The chip of a phone, a tablet or a small board, whose memory it shares.
    System,
}

/// Programming interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Api {
    /// NVIDIA CUDA.
    Cuda,
    /// Vulkan.
    Vulkan,
    /// Apple Metal.
    Metal,
    /// Direct3D 12.
    Dx12,
    /// OpenGL 4 or OpenGL ES 3.
    Gl,
    /// WebGPU, over one of the others.
    WebGpu,
}

/// One model of GPU. Peak rates are in billions of operations a second, a multiply-add counting as two.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct GpuProfile {
    /// The name that its maker sells it under, without the maker's.
    pub name: &'static str,
    /// Who makes it.
    pub vendor: Vendor,
    /// The chip; empty where it has no name of its own.
    pub chip: &'static str,
    /// The architecture, as [`architecture`] names it.
    pub architecture: &'static str,
    /// For whom.
    pub grade: Grade,
    /// In what.
    pub form: Form,
    /// The year it came out.
    pub released: Option<u16>,
    /// Its own memory in bytes; `None` where it shares the machine's.
    pub memory_bytes: Option<u64>,
    /// Kind of memory, such as `GDDR6`; `shared` where it uses whatever the machine has.
    pub memory_kind: &'static str,
    /// Bandwidth of its memory in bytes a second.
    pub bandwidth: Option<u64>,
    /// Power that it is built to take, in watts; of integrated ones that of the whole chip.
    pub tdp_watts: Option<u16>,
    /// Rate of 32-bit floating point in GFLOPS.
    pub fp32_gflops: Option<f32>,
    /// Rate of 16-bit floating point in GFLOPS, without matrix units except where only those are published.
    pub fp16_gflops: Option<f32>,
    /// Rate of 8-bit integer products in GOPS, by the factor of its architecture.
    pub int8_gops: Option<f32>,
    /// CUDA compute capability, major and minor.
    pub cuda: Option<(u8, u8)>,
    /// Highest version of Vulkan that its maker's driver speaks, major and minor.
    pub vulkan: Option<(u8, u8)>,
    /// Where the figures are from.
    pub source: &'static str,
}

/// Least memory, rate and bandwidth with which a small language model answers as fast as a person reads: weights of
/// 1 GB read five times a second, and room for them.
const EDGE_BANDWIDTH: u64 = 5_000_000_000;
const EDGE_FP32_GFLOPS: f32 = 200.0;
const EDGE_MEMORY: u64 = 2_000_000_000;
/// Most power of what is meant to run where there is no socket, or none to spare.
const EDGE_WATTS: u16 = 75;

impl GpuProfile {
    /// Whether its figures were checked against their source when they were written down.
    pub fn is_checked(&self) -> bool {
        !self.source.starts_with(catalogue::UNCHECKED)
    }

    /// Whether it is sold to anybody.
    pub fn is_consumer(&self) -> bool {
        self.grade == Grade::Consumer
    }

    /// Whether it is made for what runs on a battery.
    pub fn is_mobile(&self) -> bool {
        matches!(self.form, Form::Laptop | Form::System) || self.name.contains("Mobile")
    }

    /// Whether it is made to do much with little power: built into a chip, or a card that the slot alone feeds.
    pub fn is_edge_optimised(&self) -> bool {
        self.form == Form::System
            || self.grade == Grade::Embedded
            || self.tdp_watts.is_some_and(|watts| watts <= EDGE_WATTS)
    }

    /// Whether a small language model is of use on it; false also where too little is known.
    pub fn supports_edge_inference(&self) -> bool {
        self.memory_bytes.is_none_or(|bytes| bytes >= EDGE_MEMORY)
            && self.bandwidth.is_none_or(|bandwidth| bandwidth >= EDGE_BANDWIDTH)
            && self.fp32_gflops.is_some_and(|rate| rate >= EDGE_FP32_GFLOPS)
            && self.supports(Api::WebGpu)
    }

    /// Whether its architecture multiplies 8-bit integers faster than 32-bit floating point.
    pub fn supports_quantised_models(&self) -> bool {
        matches!((self.int8_gops, self.fp32_gflops), (Some(int8), Some(fp32)) if int8 > fp32)
    }

    /// Whether a model can be put onto a device that is carried around with it.
    pub fn supports_mobile_deployment(&self) -> bool {
        self.is_mobile() && self.supports_edge_inference()
    }

    /// Whether its maker's drivers offer `api`.
    pub fn supports(&self, api: Api) -> bool {
        let modern_vulkan = self.vulkan.is_some_and(|version| version >= (1, 1));
        match api {
            Api::Cuda => self.cuda.is_some(),
            Api::Vulkan => self.vulkan.is_some(),
            Api::Metal => self.vendor == Vendor::Apple,
            Api::Dx12 => {
                let on_windows = matches!(self.vendor, Vendor::Amd | Vendor::Intel | Vendor::Nvidia);
                on_windows && self.form != Form::System && self.vulkan.is_some()
            }
            Api::Gl => self.vulkan.is_some() || self.vendor == Vendor::Apple,
            Api::WebGpu => modern_vulkan || self.vendor == Vendor::Apple,
        }
    }

    /// All that it offers.
    pub fn apis(&self) -> Vec<Api> {
        Api::ALL.into_iter().filter(|api| self.supports(*api)).collect()
    }
}

impl Api {
    /// Every interface.
    pub const ALL: [Self; 6] = [Self::Cuda, Self::Vulkan, Self::Metal, Self::Dx12, Self::Gl, Self::WebGpu];

    /// Its name in queries and in JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Cuda => "cuda",
            Self::Vulkan => "vulkan",
            Self::Metal => "metal",
            Self::Dx12 => "dx12",
            Self::Gl => "gl",
            Self::WebGpu => "web_gpu",
        }
    }
}

impl Vendor {
    /// Every maker.
    pub const ALL: [Self; 10] = [
        Self::Amd,
        Self::Apple,
        Self::Arm,
        Self::Broadcom,
        Self::HiSilicon,
        Self::Imagination,
        Self::Intel,
        Self::Nvidia,
        Self::Qualcomm,
        Self::Samsung,
    ];

    /// The maker's name as it writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Amd => "AMD",
            Self::Apple => "Apple",
            Self::Arm => "ARM",
            Self::Broadcom => "Broadcom",
            Self::HiSilicon => "HiSilicon",
            Self::Imagination => "Imagination",
            Self::Intel => "Intel",
            Self::Nvidia => "NVIDIA",
            Self::Qualcomm => "Qualcomm",
            Self::Samsung => "Samsung",
        }
    }
}

impl fmt::Display for Vendor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
