//! The provider's side: a network computed on values that it cannot read.
//!
//! Sums are made on ciphertexts as they are, weights being plain numbers. A function is one bootstrap: the ciphertext is
//! switched to a smaller key, cut to a position on a circle of 2 N, and turns a table of the function's values by it.

use super::{
    keys::{BootstrapKey, ServerKey},
    keyswitch::{TOGETHER, keyswitch},
    network::{Activation, Layer, Mode, Row},
    package::Package,
    profile::{Profile, unit},
    values::{expand, pack, to_torus},
};
use rayon::prelude::*;
use tfhe::core_crypto::prelude::{
    CiphertextCount, CiphertextModulus, ComputationBuffers, Fft, FourierLweBootstrapKeyOwned, GlweCiphertextList,
    GlweCiphertextOwned, LweCiphertextCount, LweCiphertextList, LweCiphertextListOwned, LweDimension,
    PlaintextList, PolynomialSize, allocate_and_trivially_encrypt_new_glwe_ciphertext,
    batch_programmable_bootstrap_lwe_ciphertext_mem_optimized,
    batch_programmable_bootstrap_lwe_ciphertext_mem_optimized_requirement,
};

/// Why nothing is computed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvaluateError {
    /// Another length than the model's inputs have.
    #[error("an input of {got} bytes, where the model's have {expected}")]
    Input {
        /// What it should have.
        expected: usize,
        /// What it has.
        got: usize,
    },
    /// There is no evaluation key, or one for another profile.
    #[error("the model needs an evaluation key of profile {0}")]
    Key(Profile),
    /// It was called off.
    #[error("the computation was cancelled")]
    Cancelled,
}

/// Computes a checked `package` on an encrypted input. Before each batch of bootstraps `allow` is told how many the layer
/// has left and says how many may run now, those of the batch before being done; it may wait, and 0 cancels. Uses the
/// rayon pool in which it is called.
pub fn evaluate(
    package: &Package,
    key: Option<&ServerKey>,
    input: &[u8],
    allow: &mut dyn FnMut(u32) -> u32,
) -> Result<Vec<u8>, EvaluateError> {
    let (network, profile) = (&package.network, package.profile);
    let expected = profile.input_bytes(network.inputs.features.len());
    if input.len() != expected {
        return Err(EvaluateError::Input { expected, got: input.len() });
    }
    let mut values = expand(profile, input);
    for (place, layer) in network.layers.iter().enumerate() {
        let last = place + 1 == network.layers.len();
        let unit_here = unit(layer.range, last, network.mode, profile);
        let sums = sum(layer, &values, unit_here, if last { 0.0 } else { 0.25 });
        values = match (&layer.activation, network.layers.get(place + 1)) {
            (Some(activation), Some(next)) => {
                let key = key.filter(|key| key.profile == profile).ok_or(EvaluateError::Key(profile))?;
                let next_last = place + 2 == network.layers.len();
                let unit_next = unit(next.range, next_last, network.mode, profile);
                let table = table(profile, network.mode, activation, unit_here, unit_next);
                bootstrap(key, &sums, &table, allow)?
            }
            _ => sums,
        };
    }
    Ok(pack(profile, &values))
}

fn empty(profile: Profile, count: usize) -> LweCiphertextListOwned<u64> {
    let size = LweDimension(profile.dimension()).to_lwe_size();
    LweCiphertextList::new(0, size, LweCiphertextCount(count), CiphertextModulus::new_native())
}

/// The sums of a layer, and `shift` of the torus in each.
pub(super) fn sum(
    layer: &Layer,
    values: &LweCiphertextListOwned<u64>,
    unit: f64,
    shift: f64,
) -> LweCiphertextListOwned<u64> {
    let size = values.lwe_size();
    let mut sums =
        LweCiphertextList::new(0, size, LweCiphertextCount(layer.rows.len()), CiphertextModulus::new_native());
    let numbers = values.as_ref();
    let one = |(sum, row): (&mut [u64], &Row)| {
        for (place, weight) in &row.weights {
            let start = *place as usize * size.0;
            let weight = i64::from(*weight).cast_unsigned();
            for (sum, number) in sum.iter_mut().zip(&numbers[start..start + size.0]) {
                *sum = sum.wrapping_add(number.wrapping_mul(weight));
            }
        }
        if let Some(body) = sum.last_mut() {
            *body = body.wrapping_add(to_torus(row.bias * unit + shift));
        }
    };
    sums.as_mut().par_chunks_exact_mut(size.0).zip(&layer.rows).for_each(one);
    sums
}

/// The table of a function: at each of N positions, in the half of the torus where sums are, what comes out.
pub(super) fn table(
    profile: Profile,
    mode: Mode,
    activation: &Activation,
    unit: f64,
    unit_next: f64,
) -> GlweCiphertextOwned<u64> {
    let of = profile.parameters();
    let positions = of.polynomial_size.0;
    let half = profile.plaintexts() as f64 / 2.0;
    let entries: Vec<u64> = (0..positions)
        .map(|position| {
            // The cut to positions is downwards: the middle of what falls on one.
            let fraction = (position as f64 + 0.5) / (2 * positions) as f64;
            let sum = (fraction - 0.25) / unit;
            let value = match mode {
                Mode::Approximate => activation.at(sum, mode),
                // The lower half of the first box lies below 0, where a table is its own negative from the end.
                Mode::Exact if sum.round() >= half => -activation.at(-half, mode),
                Mode::Exact => activation.at(sum.round(), mode),
            };
            to_torus(value * unit_next)
        })
        .collect();
    allocate_and_trivially_encrypt_new_glwe_ciphertext(
        of.glwe_dimension.to_glwe_size(),
        &PlaintextList::from_container(entries),
        CiphertextModulus::new_native(),
    )
}

pub(super) fn bootstrap(
    key: &ServerKey,
    sums: &LweCiphertextListOwned<u64>,
    table: &GlweCiphertextOwned<u64>,
    allow: &mut dyn FnMut(u32) -> u32,
) -> Result<LweCiphertextListOwned<u64>, EvaluateError> {
    let fft = Fft::new(key.profile.parameters().polynomial_size);
    let count = sums.lwe_ciphertext_count().0;
    let mut results = empty(key.profile, count);
    let mut done = 0;
    while done < count {
        let allowed = (allow((count - done) as u32) as usize).min(count - done);
        if allowed == 0 {
            return Err(EvaluateError::Cancelled);
        }
        let size = sums.lwe_size().0;
        let batch = done * size..(done + allowed) * size;
        let (sums, results) = (&sums.as_ref()[batch.clone()], &mut results.as_mut()[batch]);
        match &key.bootstrap {
            BootstrapKey::Cpu(bootstrap) => on_cpu(key, bootstrap, &fft, sums, results, table),
            #[cfg(feature = "cuda")]
            BootstrapKey::Cuda(bootstrap) => on_gpu(key, bootstrap, sums, results, table),
        }
        done += allowed;
    }
    Ok(results)
}

/// `sums` under the small key, ready to be cut to positions. Both are ciphertexts one after the other.
fn switch(key: &ServerKey, sums: &[u64]) -> Vec<u64> {
    let of = key.profile.parameters();
    let mut switched = keyswitch(&key.keyswitch, sums);
    let small = of.lwe_dimension.to_lwe_size().0;
    switched.chunks_exact_mut(small).for_each(|switched| center(switched, of.polynomial_size));
    switched
}

fn on_cpu(
    key: &ServerKey,
    bootstrap: &FourierLweBootstrapKeyOwned,
    fft: &Fft,
    sums: &[u64],
    results: &mut [u64],
    table: &GlweCiphertextOwned<u64>,
) {
    let (of, modulus) = (key.profile.parameters(), CiphertextModulus::new_native());
    let (small, glwe) = (of.lwe_dimension.to_lwe_size(), of.glwe_dimension.to_glwe_size());
    let size = LweDimension(key.profile.dimension()).to_lwe_size();
    // As many to each thread, and no more than are switched together.
    let count = sums.len() / size.0;
    let together = count.div_ceil(rayon::current_num_threads()).min(TOGETHER) * size.0;
    let results = results.par_chunks_mut(together);
    results.zip(sums.par_chunks(together)).for_each_init(ComputationBuffers::new, |buffers, (results, sums)| {
        let switched = switch(key, sums);
        let together = switched.len() / small.0;
        let switched = LweCiphertextList::from_container(switched, small, modulus);
        let tables = table.as_ref().repeat(together);
        let tables = GlweCiphertextList::from_container(tables, glwe, of.polynomial_size, modulus);
        let mut results = LweCiphertextList::from_container(results, size, modulus);
        let need = batch_programmable_bootstrap_lwe_ciphertext_mem_optimized_requirement::<u64>(
            glwe,
            of.polynomial_size,
            CiphertextCount(together),
            fft.as_view(),
        );
        buffers.resize(need.unaligned_bytes_required());
        // The key is read once for all of them.
        batch_programmable_bootstrap_lwe_ciphertext_mem_optimized(
            &switched,
            &mut results,
            &tables,
            bootstrap,
            fft.as_view(),
            buffers.stack(),
        );
    });
}

#[cfg(feature = "cuda")]
fn on_gpu(
    key: &ServerKey,
    bootstrap: &super::cuda::Key,
    sums: &[u64],
    results: &mut [u64],
    table: &GlweCiphertextOwned<u64>,
) {
    let (profile, modulus) = (key.profile, CiphertextModulus::new_native());
    let dimension = LweDimension(profile.dimension());
    let switched = sums.par_chunks(TOGETHER * dimension.to_lwe_size().0).map(|sums| switch(key, sums));
    let switched = switched.collect::<Vec<_>>().concat();
    let small = profile.parameters().lwe_dimension.to_lwe_size();
    let switched = LweCiphertextList::from_container(switched, small, modulus);
    results.copy_from_slice(bootstrap.bootstrap(&switched, table, dimension).as_ref());
}

/// Takes what the coming cut to positions is expected to change, keys being bits, out of the body beforehand, and half a
/// position, so that the cut is downwards. That halves the variance of the cut: what the library calls a centered binary
/// modulus switch, here for lists, for which it has none.
fn center(ciphertext: &mut [u64], polynomial: PolynomialSize) {
    let shift = 64 - polynomial.to_blind_rotation_input_modulus_log().0;
    let Some((body, mask)) = ciphertext.split_last_mut() else { return };
    let half = 1_u64 << (shift - 1);
    let cut = |number: u64| ((number.wrapping_add(half) >> shift) << shift).wrapping_sub(number).cast_signed();
    let expected = mask.iter().fold(0_i64, |sum, number| sum.wrapping_add(cut(*number) / 2));
    *body = body.wrapping_add_signed(expected).wrapping_sub(half);
}
