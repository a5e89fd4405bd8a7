//! The cache of an epoch.

use super::{Words, absorb, permute};
use sha2::{Digest as _, Sha256};

/// Passes that tie every row to others, as Ethash makes them (three rounds of RandMemoHash).
const PASSES: u32 = 3;

/// Rows that everybody derives from the epoch. A row cannot be derived alone: each depends on rows all over the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    rows: Vec<Words>,
}

impl Cache {
    /// The cache of `rows` rows (rounded up to a power of two) of the epoch with this seed.
    pub fn new(seed: &[u8; 32], rows: u32) -> Self {
        let count = rows.max(2).next_power_of_two() as usize;
        let mut hash = Sha256::new();
        hash.update(b"aitbc/challenge/1/cache");
        hash.update(seed);
        let first: [u8; 32] = hash.finalize().into();
        let mut state: Words = [0; 16];
        for (word, bytes) in state.iter_mut().zip(first.chunks_exact(4)) {
            *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        let mut rows: Vec<Words> = Vec::with_capacity(count);
        for _ in 0..count {
            state = block(&state);
            rows.push(state);
        }
        for _ in 0..PASSES {
            for index in 0..count {
                let mut row = rows[(index + count - 1) & (count - 1)];
                let other = rows[index][0] as usize & (count - 1);
                absorb(&mut row, &rows[other]);
                rows[index] = block(&row);
            }
        }
        Self { rows }
    }

    /// Rows: a power of two.
    pub fn rows(&self) -> &[Words] {
        &self.rows
    }

    /// The row that `number` names, whatever it is.
    pub(super) fn row(&self, number: u32) -> &Words {
        &self.rows[number as usize & (self.rows.len() - 1)]
    }
}

/// One way: the permutation of the state added to the state, as a block of ChaCha8.
fn block(state: &Words) -> Words {
    let mut mixed = *state;
    permute(&mut mixed, 4);
    for (word, before) in mixed.iter_mut().zip(state) {
        *word = word.wrapping_add(*before);
    }
    // The state may be all zero; its blocks must not be.
    mixed[12] = mixed[12].wrapping_add(1);
    mixed
}
