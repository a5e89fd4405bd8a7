//! A challenge answered on a GPU: the data set in its memory, the lanes walked there.

use super::{ComputeError, Gpu, Kernel};
use aitbc_protocol::gpu::challenge::{Cache, ITEM_BYTES, Key, Task, Words};
use std::fmt::Write as _;

const MIX: &str = include_str!("mix.wgsl");
const ITEMS: &str = include_str!("items.wgsl");
const WALK: &str = include_str!("walk.wgsl");

/// Items derived, and lanes walked, by one dispatch: short enough that no driver takes it for a hang.
const AT_ONCE: u32 = 1 << 16;
const GROUP: u32 = 64;
/// Bindings of the walk beside the data set.
const OTHER_BINDINGS: u32 = 1;

/// A data set in the memory of a GPU.
#[derive(Debug)]
pub struct DataSet<'a> {
    gpu: &'a Gpu,
    buffers: Vec<wgpu::Buffer>,
    per_buffer: u32,
}

/// Items that one buffer holds, and how many buffers a walk can read.
fn layout(gpu: &Gpu) -> (u32, u32) {
    let limits = gpu.limits();
    let largest = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
    let items = u32::try_from(largest / ITEM_BYTES).unwrap_or(u32::MAX);
    (items, limits.max_storage_buffers_per_shader_stage.saturating_sub(OTHER_BINDINGS).min(16))
}

/// Most items that fit into bindings of `gpu`, whatever memory it has.
pub fn most_items(gpu: &Gpu) -> u32 {
    let (items, buffers) = layout(gpu);
    items.saturating_mul(buffers)
}

impl<'a> DataSet<'a> {
    /// Derives a data set of `items` in the memory of `gpu`.
    pub fn derive(gpu: &'a Gpu, cache: &Cache, key: &Key, items: u32) -> Result<Self, ComputeError> {
        Self::derive_into(gpu, cache, key, items, layout(gpu))
    }

    fn derive_into(
        gpu: &'a Gpu,
        cache: &Cache,
        key: &Key,
        items: u32,
        (per_buffer, most): (u32, u32),
    ) -> Result<Self, ComputeError> {
        let kernel = gpu.kernel(&format!("{MIX}{ITEMS}"), "items")?;
        let rows: Vec<u32> = cache.rows().iter().flatten().copied().collect();
        let mask = u32::try_from(cache.rows().len()).unwrap_or(u32::MAX) - 1;
        let rows = gpu.filled(&rows);
        if items.div_ceil(per_buffer.max(1)) > most {
            let reason = format!("a walk reads at most {most} buffers of {per_buffer} items");
            return Err(ComputeError::Memory {
                gpu: gpu.info().name.clone(),
                bytes: u64::from(items) * ITEM_BYTES,
                reason,
            });
        }
        let mut buffers = Vec::new();
        let mut first = 0;
        while first < items {
            let count = per_buffer.min(items - first);
            let buffer = gpu.memory(u64::from(count) * ITEM_BYTES)?;
            for offset in (0..count).step_by(AT_ONCE as usize) {
                let now = AT_ONCE.min(count - offset);
                let mut parameters = key.data.to_vec();
                parameters.extend([first + offset, now, offset, mask]);
                let parameters = gpu.parameters(&parameters);
                gpu.run(&kernel, &[&parameters, &rows, &buffer], now.div_ceil(GROUP))?;
            }
            buffers.push(buffer);
            first += count;
        }
        Ok(Self { gpu, buffers, per_buffer })
    }

    /// The kernel that walks it; made before the time counts.
    pub fn walker(&self) -> Result<Kernel, ComputeError> {
        let mut source = MIX.to_owned();
        for (number, _) in self.buffers.iter().enumerate() {
            let binding = number + 2;
            let _ =
                writeln!(source, "@group(0) @binding({binding}) var<storage, read> data_{number}: array<Mix>;");
        }
        source.push_str("fn fetch(index: u32) -> Mix {\n    let at = index % params.per_buffer;\n");
        source.push_str("    switch index / params.per_buffer {\n");
        for number in 1..self.buffers.len() {
            let _ = writeln!(source, "        case {number}u: {{ return data_{number}[at]; }}");
        }
        source.push_str("        default: { return data_0[at]; }\n    }\n}\n");
        source.push_str(WALK);
        self.gpu.kernel(&source, "lanes")
    }

    /// The last states of all lanes of `task`, whose items must be those of this data set.
    pub fn walk(
        &self,
        kernel: &Kernel,
        key: &Key,
        &Task { items, lanes, steps }: &Task,
    ) -> Result<Vec<Words>, ComputeError> {
        let states = self.gpu.memory(u64::from(lanes.min(AT_ONCE)) * ITEM_BYTES)?;
        let mut walked = Vec::with_capacity(lanes as usize);
        for first in (0..lanes).step_by(AT_ONCE as usize) {
            let count = AT_ONCE.min(lanes - first);
            let mut parameters = key.walk.to_vec();
            parameters.extend([first, count, items, self.per_buffer, steps, 0, 0, 0]);
            let parameters = self.gpu.parameters(&parameters);
            let bindings: Vec<&wgpu::Buffer> = [&parameters, &states].into_iter().chain(&self.buffers).collect();
            self.gpu.run(kernel, &bindings, count.div_ceil(GROUP))?;
            let words = self.gpu.read(&states, u64::from(count) * 16)?;
            walked.extend_from_slice(words.as_chunks::<16>().0);
        }
        Ok(walked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::compute::adapters;
    use aitbc_protocol::{
        NodeId, Nonce,
        gpu::challenge::{self, Tree, opened_lanes, verify},
    };

    #[test]
    fn a_gpu_answers_as_a_cpu_does() {
        let cache = Cache::new(&[3; 32], 1 << 10);
        let nonce = |value| Nonce([value; Nonce::SIZE]);
        let key = Key::new(&NodeId([1; 32]), &nonce(1), &nonce(2));
        // Neither items nor buffers fill their groups.
        let task = Task { items: 3001, lanes: 256, steps: 9 };
        let expected: Vec<Words> = (0..task.lanes)
            .map(|lane| challenge::walk(&key, &task, lane, |index| challenge::item(&cache, &key, index)))
            .collect();
        let mut tested = 0;
        for adapter in adapters() {
            let Ok(gpu) = Gpu::open(&adapter) else { continue };
            let (_, most) = layout(&gpu);
            if gpu.limits().max_compute_invocations_per_workgroup < GROUP || most < 4 {
                continue;
            }
            tested += 1;
            for layout in [(1 << 20, 1), (1000, 4)] {
                let data = DataSet::derive_into(&gpu, &cache, &key, task.items, layout).expect("a data set");
                let states = data.walk(&data.walker().expect("a kernel"), &key, &task).expect("an answer");
                assert!(states == expected, "{} over buffers of {}", gpu.info().name, layout.0);
                let tree = Tree::new(states);
                let root = tree.root();
                let lanes = opened_lanes(&nonce(3), &root, task.lanes);
                let openings: Vec<_> = lanes.into_iter().map(|lane| tree.open(lane).expect("a lane")).collect();
                assert_eq!(verify(&cache, &key, &task, &root, &nonce(3), &openings), Ok(()));
            }
            let refused = DataSet::derive_into(&gpu, &cache, &key, task.items, (1000, 3)).expect_err("too large");
            assert!(refused.to_string().contains("at most 3 buffers"), "{refused}");
        }
        assert!(tested > 0, "no adapter computes");
    }
}
