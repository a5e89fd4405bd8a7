//! How fast a GPU really is: memory bandwidth and rates of arithmetic.

use super::{ComputeError, Gpu, Kernel};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

const PARAMS: &str = include_str!("rate_params.wgsl");
const RATES: &str = include_str!("rates.wgsl");
const FP16: &str = include_str!("rate_fp16.wgsl");

const GROUP: u32 = 256;
/// Bytes of an element.
const ELEMENT: u64 = 16;
/// Operations of one thread in one round, in the kernels of arithmetic.
const OPERATIONS: f64 = 32.0;
/// Rounds of the kernels at most, so that their numbers stay exact: 15 times as many are below 2^24.
const MAX_ROUNDS: u32 = 1 << 20;
/// The half-precision kernel counts in steps of so many rounds.
const STEP: u32 = 1024;
/// Bytes read to measure bandwidth: many times what caches hold.
const READ: u64 = 256 << 20;
/// Threads at a time: enough for the largest GPUs.
const THREADS: u32 = 1 << 20;
/// A measurement takes as long, so that clocks have risen; the best of [`TRIES`] counts.
const LONG_ENOUGH: Duration = Duration::from_millis(300);
const TRIES: usize = 3;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Reading memory.
    Bandwidth,
    /// 32-bit floating point.
    Fp32,
    /// 16-bit floating point.
    Fp16,
    /// 8-bit integer products.
    Int8,
}

impl What {
    const fn entry(self) -> &'static str {
        match self {
            Self::Bandwidth => "read_all",
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
            Self::Int8 => "int8",
        }
    }

    fn kernel(self, gpu: &Gpu) -> Result<Kernel, ComputeError> {
        let source = match self {
            // What a shader enables comes before everything else.
            Self::Fp16 => format!("enable f16;\n{PARAMS}{FP16}"),
            Self::Bandwidth | Self::Fp32 | Self::Int8 => format!("{PARAMS}{RATES}"),
        };
        gpu.kernel(&source, self.entry())
    }
}

/// What one GPU reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Bytes read a second.
    pub bandwidth: f64,
    /// Operations of 32-bit floating point a second, a multiply-add counting as two.
    pub fp32: f64,
    /// The same in 16 bits; `None` where the GPU has none.
    pub fp16: Option<f64>,
    /// Operations on 8-bit integers a second, a multiply-add counting as two.
    pub int8: f64,
}

/// One run of a kernel.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// Elements of the input.
    count: u32,
    rounds: u32,
    threads: u32,
}

impl Run {
    fn go(
        self,
        gpu: &Gpu,
        kernel: &Kernel,
        input: &wgpu::Buffer,
        output: &wgpu::Buffer,
    ) -> Result<Duration, ComputeError> {
        let parameters = gpu.parameters(&[self.count, self.rounds, self.threads, 1]);
        let began = Instant::now();
        gpu.run(kernel, &[&parameters, input, output], self.threads.div_ceil(GROUP))?;
        Ok(began.elapsed())
    }

    fn work(self, what: What) -> f64 {
        if what == What::Bandwidth {
            f64::from(self.count) * ELEMENT as f64 * f64::from(self.rounds)
        } else {
            f64::from(self.threads) * f64::from(self.rounds) * OPERATIONS
        }
    }
}

/// Measures everything.
pub fn measure(gpu: &Gpu) -> Result<Rates, ComputeError> {
    Ok(Rates {
        bandwidth: rate(gpu, What::Bandwidth)?,
        fp32: rate(gpu, What::Fp32)?,
        fp16: if gpu.has_fp16() { Some(rate(gpu, What::Fp16)?) } else { None },
        int8: rate(gpu, What::Int8)?,
    })
}

/// Bytes or operations a second.
fn rate(gpu: &Gpu, what: What) -> Result<f64, ComputeError> {
    let kernel = what.kernel(gpu)?;
    let bytes = if what == What::Bandwidth {
        READ.min(gpu.limits().max_storage_buffer_binding_size).min(gpu.limits().max_buffer_size)
    } else {
        u64::from(GROUP) * ELEMENT
    };
    let count = u32::try_from(bytes / ELEMENT).unwrap_or(u32::MAX);
    let threads = if what == What::Bandwidth { THREADS.min(count) } else { THREADS };
    let (input, output) = (gpu.memory(bytes)?, gpu.memory(u64::from(threads) * ELEMENT)?);
    let mut run = Run { count, rounds: if what == What::Fp16 { STEP } else { 1 }, threads };
    // The first run also waits for the driver to compile.
    run.go(gpu, &kernel, &input, &output)?;
    let mut took = run.go(gpu, &kernel, &input, &output)?;
    while took < LONG_ENOUGH && run.rounds < MAX_ROUNDS {
        run.rounds *= 2;
        took = run.go(gpu, &kernel, &input, &output)?;
    }
    for _ in 1..TRIES {
        took = took.min(run.go(gpu, &kernel, &input, &output)?);
    }
    Ok(run.work(what) / took.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::compute::adapters;
    use proptest::{prelude::*, test_runner::TestRunner};

    type Element = [u32; 4];

    /// What the kernels compute, on the CPU.
    fn expected(what: What, input: &[Element], run: Run) -> Vec<Element> {
        let thread = |id: usize| -> Element {
            let start = input[id % input.len()];
            std::array::from_fn(|lane| match what {
                What::Bandwidth => {
                    let own = || input.iter().skip(id).step_by(run.threads as usize);
                    let rounds = (0..run.rounds).flat_map(|_| own());
                    rounds.fold(0, |sum: u32, element| (sum ^ element[lane]).wrapping_add(1))
                }
                What::Fp32 => {
                    let start = start[lane] & 15;
                    4 * start + 6 + 4 * start * run.rounds
                }
                // Every 1,024 rounds it is where it was.
                What::Fp16 => 4 * (start[lane] & 1) + 6,
                What::Int8 => {
                    let mut other = start[lane] ^ 1;
                    let mut sum = 0_i32;
                    for _ in 0..run.rounds {
                        for (a, b) in start[lane].to_le_bytes().into_iter().zip(other.to_le_bytes()) {
                            sum = sum.wrapping_add(i32::from(a as i8) * i32::from(b as i8));
                        }
                        other = other.wrapping_add(1);
                    }
                    sum as u32
                }
            })
        };
        (0..run.threads as usize).map(thread).collect()
    }

    fn computed(gpu: &Gpu, kernel: &Kernel, input: &[Element], run: Run) -> Vec<Element> {
        let words: Vec<u32> = input.iter().flatten().copied().collect();
        let output = gpu.memory(u64::from(run.threads) * ELEMENT).expect("memory");
        run.go(gpu, kernel, &gpu.filled(&words), &output).expect("it runs");
        gpu.read(&output, u64::from(run.threads) * 4).expect("a result").as_chunks::<4>().0.to_vec()
    }

    /// On every GPU here, and where there is none on the software one that the tests install: to the last bit, also where
    /// threads and elements do not fill their groups.
    #[test]
    fn kernels_give_what_a_cpu_gives() {
        let adapters = adapters();
        assert!(
            !adapters.is_empty(),
            "no adapter: install a Vulkan driver, such as mesa-vulkan-drivers (lavapipe)"
        );
        let mut tested = 0;
        for adapter in &adapters {
            let Ok(gpu) = Gpu::open(adapter) else { continue };
            if gpu.limits().max_compute_invocations_per_workgroup < GROUP {
                continue;
            }
            tested += 1;
            for what in [What::Bandwidth, What::Fp32, What::Int8, What::Fp16] {
                if what == What::Fp16 && !gpu.has_fp16() {
                    continue;
                }
                let kernel = what.kernel(&gpu).expect("a kernel");
                let inputs = (prop::collection::vec(any::<Element>(), 1..700), 1..600_u32, 1..5_u32);
                let config = ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() };
                TestRunner::new(config)
                    .run(&inputs, |(input, threads, rounds)| {
                        let rounds = if what == What::Fp16 { rounds * STEP } else { rounds };
                        let run = Run { count: input.len() as u32, rounds, threads };
                        let got = computed(&gpu, &kernel, &input, run);
                        prop_assert_eq!(got, expected(what, &input, run));
                        Ok(())
                    })
                    .unwrap_or_else(|error| panic!("{what:?} on {}: {error}", gpu.info().name));
            }
        }
        assert!(tested > 0, "none of {} adapters computes", adapters.len());
    }
}
