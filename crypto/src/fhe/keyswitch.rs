//! Key switches of several ciphertexts at a time.
//!
//! A key switch reads a key of some 70 MB once, and waits for memory. Several at a time read it once together; and digits
//! being small, the few multiples of each of its rows are made once, and only added then.

use tfhe::core_crypto::prelude::{
    CiphertextModulus, ContiguousEntityContainer, LweCiphertext, LweKeyswitchKeyOwned, SignedDecomposer,
    keyswitch_lwe_ciphertext,
    slice_algorithms::{slice_wrapping_add_assign, slice_wrapping_sub_assign},
};

/// Ciphertexts that are switched together: what comes out of them stays in a core's own cache.
pub(super) const TOGETHER: usize = 16;
/// Fewer than these are switched one by one: making the multiples takes as long as some switches.
const FEW: usize = 6;

/// Switches `ciphertexts` of the large key, one after the other in one slice, to the small one. Gives the same numbers as
/// `keyswitch_lwe_ciphertext` for each.
pub(super) fn keyswitch(key: &LweKeyswitchKeyOwned<u64>, ciphertexts: &[u64]) -> Vec<u64> {
    let size = key.input_key_lwe_dimension().to_lwe_size().0;
    let small = key.output_lwe_size().0;
    let count = ciphertexts.len() / size;
    if count < FEW {
        return one_by_one(key, ciphertexts);
    }
    let decomposer = SignedDecomposer::new(key.decomposition_base_log(), key.decomposition_level_count());
    let largest = 1 << (key.decomposition_base_log().0 - 1);
    let levels = key.decomposition_level_count().0;
    let mut switched = vec![0_u64; count * small];
    for (out, ciphertext) in switched.chunks_exact_mut(small).zip(ciphertexts.chunks_exact(size)) {
        out[small - 1] = ciphertext[size - 1];
    }
    // A row and its multiples: row i has i + 1 times the row.
    let mut multiples = vec![0_u64; largest * small];
    let mut digits = vec![0_i64; count * levels];
    for (place, block) in key.iter().enumerate() {
        for (number, ciphertext) in ciphertexts.chunks_exact(size).enumerate() {
            for (level, term) in decomposer.decompose(ciphertext[place]).enumerate() {
                digits[level * count + number] = term.value().cast_signed();
            }
        }
        for (row, digits) in block.iter().zip(digits.chunks_exact(count)) {
            multiples[..small].copy_from_slice(row.as_ref());
            for factor in 1..largest {
                let (before, rest) = multiples.split_at_mut(factor * small);
                rest[..small].copy_from_slice(&before[(factor - 1) * small..]);
                slice_wrapping_add_assign(&mut rest[..small], row.as_ref());
            }
            for (digit, out) in digits.iter().zip(switched.chunks_exact_mut(small)) {
                let times = digit.unsigned_abs() as usize;
                if times == 0 {
                    continue;
                }
                let multiple = &multiples[(times - 1) * small..times * small];
                if *digit > 0 {
                    slice_wrapping_sub_assign(out, multiple);
                } else {
                    slice_wrapping_add_assign(out, multiple);
                }
            }
        }
    }
    switched
}

fn one_by_one(key: &LweKeyswitchKeyOwned<u64>, ciphertexts: &[u64]) -> Vec<u64> {
    let modulus = CiphertextModulus::new_native();
    let mut switched = Vec::new();
    for ciphertext in ciphertexts.chunks_exact(key.input_key_lwe_dimension().to_lwe_size().0) {
        let mut small = LweCiphertext::new(0, key.output_lwe_size(), modulus);
        keyswitch_lwe_ciphertext(key, &LweCiphertext::from_container(ciphertext, modulus), &mut small);
        switched.extend(small.into_container());
    }
    switched
}
