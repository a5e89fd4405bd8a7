//! How fast a GPU really is: memory bandwidth, reads at random, and rates of arithmetic.

use super::{ComputeError, Gpu, Kernel};
use std::time::{Duration, Instant};

const PARAMS: &str = include_str!("rate_params.wgsl");
const RATES: &str = include_str!("rates.wgsl");
const FP16: &str = include_str!("rate_fp16.wgsl");

const GROUP: u32 = 256;
/// Bytes of an element.
const ELEMENT: u64 = 16;
/// Bytes of one read at random: four elements.
const ROW: u64 = 64;
/// Operations of one thread in one round, in the kernels of arithmetic.
const OPERATIONS: f64 = 32.0;
/// Rounds of the kernels at most, so that their numbers stay exact: 15 times as many are below 2^24.
const MAX_ROUNDS: u32 = 1 << 20;
/// The half-precision kernel counts in steps of so many rounds.
const STEP: u32 = 1024;
/// Bytes read to measure bandwidth: many times what caches hold.
const READ: u64 = 256 << 20;
/// Bytes among which is read at random: so many that caches hold next to nothing of them.
const SCATTERED: u64 = 1 << 30;
/// Threads at a time: enough for the largest GPUs.
const THREADS: u32 = 1 << 20;
/// A measurement takes as long, so that clocks have risen; the best of [`TRIES`] counts.
const LONG_ENOUGH: Duration = Duration::from_millis(300);
const TRIES: usize = 3;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Reading memory from end to end, in bytes a second.
    Bandwidth,
    /// Reads of 64 bytes all over the memory, each of which tells where the next is, in bytes a second.
    RandomReads,
    /// 32-bit floating point, in operations a second, a multiply-add counting as two.
    Fp32,
    /// The same in 16 bits.
    Fp16,
    /// Products of 8-bit integers, in the same unit.
    Int8,
}

impl What {
    /// Everything.
    pub const ALL: [Self; 5] = [Self::Bandwidth, Self::RandomReads, Self::Fp32, Self::Fp16, Self::Int8];

    /// Its name in JSON and between processes.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Bandwidth => "bandwidth",
            Self::RandomReads => "random_reads",
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
            Self::Int8 => "int8",
        }
    }

    const fn entry(self) -> &'static str {
        match self {
            Self::Bandwidth => "read_all",
            Self::RandomReads => "read_random",
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
            Self::Int8 => "int8",
        }
    }

    fn kernel(self, gpu: &Gpu) -> Result<Kernel, ComputeError> {
        let source = match self {
            // What a shader enables comes before everything else.
            Self::Fp16 => format!("enable f16;\n{PARAMS}{FP16}"),
            Self::Bandwidth | Self::RandomReads | Self::Fp32 | Self::Int8 => format!("{PARAMS}{RATES}"),
        };
        gpu.kernel(&source, self.entry())
    }

    /// Bytes of the input.
    const fn input(self) -> u64 {
        match self {
            Self::Bandwidth => READ,
            Self::RandomReads => SCATTERED,
            Self::Fp32 | Self::Fp16 | Self::Int8 => GROUP as u64 * ELEMENT,
        }
    }
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
        let rounds = f64::from(self.rounds);
        match what {
            What::Bandwidth => f64::from(self.count) * ELEMENT as f64 * rounds,
            What::RandomReads => f64::from(self.threads) * ROW as f64 * rounds,
            What::Fp32 | What::Fp16 | What::Int8 => f64::from(self.threads) * OPERATIONS * rounds,
        }
    }
}

/// Bytes or operations a second; `None` where the GPU has no such numbers.
pub fn rate(gpu: &Gpu, what: What) -> Result<Option<f64>, ComputeError> {
    if what == What::Fp16 && !gpu.has_fp16() {
        return Ok(None);
    }
    let kernel = what.kernel(gpu)?;
    let (input, bytes) = input(gpu, what)?;
    let count = u32::try_from(bytes / ELEMENT).unwrap_or(u32::MAX);
    let threads = if what == What::Bandwidth { THREADS.min(count) } else { THREADS };
    let output = gpu.memory(u64::from(threads) * ELEMENT)?;
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
    Ok(Some(run.work(what) / took.as_secs_f64()))
}

/// Memory for the input and its bytes: as much as one binding takes, and less where others have the rest.
fn input(gpu: &Gpu, what: What) -> Result<(wgpu::Buffer, u64), ComputeError> {
    let limits = gpu.limits();
    let most = what.input().min(limits.max_storage_buffer_binding_size).min(limits.max_buffer_size);
    let mut bytes = most / ROW * ROW;
    loop {
        match gpu.memory(bytes) {
            Err(ComputeError::Memory { .. }) if bytes > READ => bytes = bytes / 2 / ROW * ROW,
            memory => return Ok((memory?, bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::compute::adapters;
    use proptest::{prelude::*, test_runner::TestRunner};

    type Element = [u32; 4];

    /// Where one thread ends that reads at random.
    fn walked(input: &[Element], id: usize, rounds: u32) -> Element {
        let rows = input.as_chunks::<4>().0;
        let mut sum = [(id as u32).wrapping_mul(0x9e37_79b1); 4];
        for _ in 0..rounds {
            let at = (sum[0] ^ (sum[0] >> 15)) as usize % rows.len();
            for element in &rows[at] {
                sum = std::array::from_fn(|lane| {
                    (sum[lane] ^ element[lane]).wrapping_add(1).wrapping_mul(0x0100_0193)
                });
            }
        }
        sum
    }

    /// What the kernels compute, on the CPU.
    fn expected(what: What, input: &[Element], run: Run) -> Vec<Element> {
        let thread = |id: usize| -> Element {
            let start = input[id % input.len()];
            std::array::from_fn(|lane| match what {
                What::RandomReads => walked(input, id, run.rounds)[lane],
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
            for what in What::ALL {
                if what == What::Fp16 && !gpu.has_fp16() {
                    continue;
                }
                let kernel = what.kernel(&gpu).expect("a kernel");
                let least = if what == What::RandomReads { 4 } else { 1 };
                let inputs = (prop::collection::vec(any::<Element>(), least..700), 1..600_u32, 1..5_u32);
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

    #[test]
    fn reads_at_random_are_measured_among_more_than_caches_hold() {
        let adapters = adapters();
        let open = adapters.iter().filter_map(|adapter| Gpu::open(adapter).ok());
        let gpu = open.max_by_key(|gpu| gpu.limits().max_storage_buffer_binding_size).expect("an adapter");
        let limits = gpu.limits();
        let (memory, bytes) = input(&gpu, What::RandomReads).expect("memory");
        assert_eq!((memory.size(), bytes % ROW), (bytes, 0));
        let most = SCATTERED.min(limits.max_storage_buffer_binding_size).min(limits.max_buffer_size);
        assert!((READ.min(most) / 2..=most).contains(&bytes), "{bytes} of {most}");
        let rate = rate(&gpu, What::RandomReads).expect("a rate").expect("every GPU reads");
        assert!(rate > 1e6, "{rate} bytes a second");
    }
}
