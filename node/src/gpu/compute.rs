//! Work on a GPU through wgpu: any vendor's, by Vulkan, Metal, Direct3D 12 or OpenGL.

pub mod prover;
pub mod rates;

use std::{sync::mpsc, time::Duration};
use wgpu::util::DeviceExt as _;

/// Longest wait for a piece of work: drivers end what takes some seconds, and what takes much longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why a GPU does not compute.
#[derive(Debug, thiserror::Error)]
pub enum ComputeError {
    /// It cannot be opened.
    #[error("{gpu} cannot be opened: {source}")]
    Open {
        /// Its name.
        gpu: String,
        /// Why.
        source: wgpu::RequestDeviceError,
    },
    /// It does not take the work.
    #[error("{gpu} does not do it: {reason}")]
    Refused {
        /// Its name.
        gpu: String,
        /// What wgpu or its driver says.
        reason: String,
    },
    /// It does not answer.
    #[error("{gpu} did not finish within {PATIENCE:?}: {reason}")]
    Hangs {
        /// Its name.
        gpu: String,
        /// What wgpu says.
        reason: String,
    },
    /// More memory than it gives.
    #[error("{gpu} gives no {bytes} bytes: {reason}")]
    Memory {
        /// Its name.
        gpu: String,
        /// How much was asked for.
        bytes: u64,
        /// Why.
        reason: String,
    },
}

/// All adapters by every interface that this system has, real ones and software ones. The same GPU comes once by each
/// interface that reaches it.
pub fn adapters() -> Vec<wgpu::Adapter> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::all();
    let instance = wgpu::Instance::new(descriptor);
    futures::executor::block_on(instance.enumerate_adapters(wgpu::Backends::all()))
}

/// A GPU that is open.
#[derive(Debug)]
pub struct Gpu {
    info: wgpu::AdapterInfo,
    device: wgpu::Device,
    queue: wgpu::Queue,
}

/// A kernel, ready to run.
#[derive(Debug)]
pub struct Kernel(wgpu::ComputePipeline);

impl Gpu {
    /// Opens one with all the memory and the number formats that it has.
    pub fn open(adapter: &wgpu::Adapter) -> Result<Self, ComputeError> {
        let info = adapter.get_info();
        let wanted = wgpu::Features::SHADER_F16;
        let descriptor = wgpu::DeviceDescriptor {
            label: None,
            required_features: adapter.features() & wanted,
            required_limits: adapter.limits(),
            ..Default::default()
        };
        let (device, queue) = futures::executor::block_on(adapter.request_device(&descriptor))
            .map_err(|source| ComputeError::Open { gpu: info.name.clone(), source })?;
        Ok(Self { info, device, queue })
    }

    /// What its driver says of it.
    pub fn info(&self) -> &wgpu::AdapterInfo {
        &self.info
    }

    /// Whether it computes in half precision.
    pub fn has_fp16(&self) -> bool {
        self.device.features().contains(wgpu::Features::SHADER_F16)
    }

    /// What it gives at most.
    pub fn limits(&self) -> wgpu::Limits {
        self.device.limits()
    }

    /// Makes a kernel of WGSL, with the function `entry`.
    pub fn kernel(&self, source: &str, entry: &str) -> Result<Kernel, ComputeError> {
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(entry),
            source: wgpu::ShaderSource::Wgsl(source.into()),
        });
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(entry),
            layout: None,
            module: &module,
            entry_point: Some(entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                // Memory is overwritten before it is read.
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache: None,
        });
        match futures::executor::block_on(validation.pop()) {
            Some(error) => Err(self.refused(&error)),
            None => Ok(Kernel(pipeline)),
        }
    }

    /// Memory for `bytes`, all zero.
    pub fn memory(&self, bytes: u64) -> Result<wgpu::Buffer, ComputeError> {
        let (validation, memory) = (
            self.device.push_error_scope(wgpu::ErrorFilter::Validation),
            self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory),
        );
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: bytes,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        let refused = [memory.pop(), validation.pop()].map(futures::executor::block_on);
        match refused.into_iter().flatten().next() {
            Some(error) => {
                Err(ComputeError::Memory { gpu: self.info.name.clone(), bytes, reason: error.to_string() })
            }
            None => Ok(buffer),
        }
    }

    /// Memory that holds `words`.
    pub fn filled(&self, words: &[u32]) -> wgpu::Buffer {
        self.of(words, wgpu::BufferUsages::STORAGE)
    }

    /// Parameters of a kernel.
    pub fn parameters(&self, words: &[u32]) -> wgpu::Buffer {
        self.of(words, wgpu::BufferUsages::UNIFORM)
    }

    fn of(&self, words: &[u32], usage: wgpu::BufferUsages) -> wgpu::Buffer {
        // WGSL reads words as this machine writes them: wgpu runs on little-endian machines alone.
        let contents: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: None,
            contents: &contents,
            usage,
        })
    }

    /// Runs `kernel` with these bindings in `groups` workgroups and waits until it has ended.
    pub fn run(&self, kernel: &Kernel, bindings: &[&wgpu::Buffer], groups: u32) -> Result<(), ComputeError> {
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let entries: Vec<_> = (0..)
            .zip(bindings)
            .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() })
            .collect();
        let group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &kernel.0.get_bind_group_layout(0),
            entries: &entries,
        });
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            pass.set_pipeline(&kernel.0);
            pass.set_bind_group(0, &group, &[]);
            pass.dispatch_workgroups(groups, 1, 1);
        }
        self.queue.submit([encoder.finish()]);
        if let Some(error) = futures::executor::block_on(validation.pop()) {
            return Err(self.refused(&error));
        }
        self.wait()
    }

    /// The first `words` of `buffer`.
    pub fn read(&self, buffer: &wgpu::Buffer, words: u64) -> Result<Vec<u32>, ComputeError> {
        let bytes = words * 4;
        let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: bytes,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, bytes);
        self.queue.submit([encoder.finish()]);
        let (told, mapped) = mpsc::channel();
        staging.map_async(wgpu::MapMode::Read, .., move |result| {
            // Whoever asked may have given up.
            let _ = told.send(result);
        });
        self.wait()?;
        match mapped.recv() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(self.refused(&error)),
            Err(error) => return Err(self.refused(&error)),
        }
        let view = staging.get_mapped_range(..).map_err(|error| self.refused(&error))?;
        let words = view.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
        Ok(words.collect())
    }

    fn wait(&self) -> Result<(), ComputeError> {
        let poll = wgpu::PollType::Wait { submission_index: None, timeout: Some(PATIENCE) };
        self.device
            .poll(poll)
            .map(drop)
            .map_err(|error| ComputeError::Hangs { gpu: self.info.name.clone(), reason: error.to_string() })
    }

    fn refused(&self, error: &dyn std::error::Error) -> ComputeError {
        ComputeError::Refused { gpu: self.info.name.clone(), reason: error.to_string() }
    }
}
