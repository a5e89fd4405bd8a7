//! Evidence that a peer has the memory and the bandwidth that it claims.
//!
//! After the shape of Ethash (Ethereum's `ethash` specification): a cache that everybody derives from the epoch, a data set
//! of the claimed size of which each item costs 256 dependent reads of the cache, and lanes that walk the data set in an
//! order that only reading it tells. Who holds the data set answers at the speed of its memory; who does not derives
//! items while it walks, at 256 reads for one. 32-bit integer operations alone, so that every vendor's GPU gives the same
//! bits.
//!
//! How the two sides talk is in [`exchange`].
//!
//! What it shows and what it cannot is argued in `docs/gpu-challenge.md`.

mod cache;
pub mod exchange;
mod merkle;
mod walk;

pub use cache::Cache;
pub use merkle::{Opening, Tree};
pub use walk::{Key, item, walk};

use crate::bytes::{Digest, Nonce};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// 64 bytes: a row of the cache, an item of the data set, the state of a lane.
pub type Words = [u32; 16];

/// Bytes of an item.
pub const ITEM_BYTES: u64 = 64;
/// Cache rows read for one item.
pub const PARENTS: u32 = 256;
/// Lanes that are opened: where one of ten is forged, none is among them with 0.9^64, one time in a thousand.
pub const OPENED: usize = 64;
/// Most lanes: their states take 256 MiB.
pub const MAX_LANES: u32 = 1 << 22;
/// Most steps of a lane: what a verifier computes at most is this times [`OPENED`] items.
pub const MAX_STEPS: u32 = 16_384;
/// Rows of the cache of an epoch: 16 MiB.
pub const CACHE_ROWS: u32 = 1 << 18;
/// The FNV-1 prime, as Ethash mixes with it.
const PRIME: u32 = 0x0100_0193;

/// How much is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Items of the data set: its bytes are 64 times as many.
    pub items: u32,
    /// Lanes that walk it; a power of two.
    pub lanes: u32,
    /// Dependent reads of each lane.
    pub steps: u32,
}

/// Why a task cannot be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TaskError {
    /// No data set.
    #[error("a data set of {0} items is too small: at least 1024")]
    Items(u32),
    /// Not a power of two of lanes.
    #[error("{0} lanes: from 64 to 4194304, a power of two")]
    Lanes(u32),
    /// Too few or too many steps.
    #[error("{0} steps: from 1 to 16384")]
    Steps(u32),
    /// No walk is long enough to tell the memory from the path, or from the time that deriving takes.
    #[error(
        "it would have to last {0} ms, at most 20000: the path is too slow or too unsteady, or so much memory too slow"
    )]
    TooLong(u64),
    /// No walk is long enough for it.
    #[error("the largest walk lasts {0} ms at the speed that it tells: too fast for a challenge")]
    TooFast(u64),
}

impl Task {
    /// Whether it is within the bounds that keep both sides from endless work.
    pub fn check(&self) -> Result<(), TaskError> {
        if self.items < 1024 {
            return Err(TaskError::Items(self.items));
        }
        if !self.lanes.is_power_of_two() || !(OPENED as u32..=MAX_LANES).contains(&self.lanes) {
            return Err(TaskError::Lanes(self.lanes));
        }
        if !(1..=MAX_STEPS).contains(&self.steps) {
            return Err(TaskError::Steps(self.steps));
        }
        Ok(())
    }

    /// Bytes of the data set.
    pub fn bytes(&self) -> u64 {
        u64::from(self.items) * ITEM_BYTES
    }

    /// Bytes that the walk reads at random.
    pub fn read_bytes(&self) -> u64 {
        u64::from(self.lanes) * u64::from(self.steps) * ITEM_BYTES
    }
}

/// Which lanes are opened, in order: they follow from a nonce that the prover learns only after it has told its root.
pub fn opened_lanes(nonce: &Nonce, root: &Digest, lanes: u32) -> Vec<u32> {
    let mut chosen = std::collections::BTreeSet::new();
    let mut counter = 0_u32;
    // As many as there are to be, or all lanes: both come, for each draw is as good as random.
    while chosen.len() < OPENED.min(lanes as usize) {
        let mut hash = Sha256::new();
        hash.update(b"aitbc/challenge/1/open");
        hash.update(nonce.as_bytes());
        hash.update(root.as_bytes());
        hash.update(counter.to_be_bytes());
        let drawn: [u8; 32] = hash.finalize().into();
        for word in drawn.chunks_exact(4) {
            let word = u32::from_be_bytes([word[0], word[1], word[2], word[3]]);
            if chosen.len() < OPENED {
                chosen.insert(word % lanes);
            }
        }
        counter = counter.wrapping_add(1);
    }
    chosen.into_iter().collect()
}

/// Why an answer is wrong: evidence against the prover, who signed the root.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongAnswer {
    /// Not the lanes that were asked for.
    #[error("it opened other lanes than those asked for")]
    OtherLanes,
    /// A lane is not under the root.
    #[error("lane {0} is not under the root that it told before")]
    NotUnderRoot(u32),
    /// A lane is not what walking gives.
    #[error("lane {0} was not walked as it should be")]
    WrongLane(u32),
}

/// Recomputes the opened lanes from the cache alone. The work is [`OPENED`] lanes of the task's steps, whatever the
/// answer is: a prover cannot make it more.
pub fn verify(
    cache: &Cache,
    key: &Key,
    task: &Task,
    root: &Digest,
    nonce: &Nonce,
    openings: &[Opening],
) -> Result<(), WrongAnswer> {
    let asked = opened_lanes(nonce, root, task.lanes);
    if openings.len() != asked.len() || openings.iter().zip(&asked).any(|(opening, lane)| opening.lane != *lane) {
        return Err(WrongAnswer::OtherLanes);
    }
    if let Some(loose) = openings.iter().find(|opening| !opening.is_under(root, task.lanes)) {
        return Err(WrongAnswer::NotUnderRoot(loose.lane));
    }
    for opening in openings {
        let walked = walk(key, task, opening.lane, |index| item(cache, key, index));
        if walked != opening.state {
            return Err(WrongAnswer::WrongLane(opening.lane));
        }
    }
    Ok(())
}

/// `double_rounds` double rounds of ChaCha (RFC 8439, without the final addition): a permutation that mixes all words.
fn permute(state: &mut Words, double_rounds: u32) {
    const fn quarter(state: &mut Words, a: usize, b: usize, c: usize, d: usize) {
        state[a] = state[a].wrapping_add(state[b]);
        state[d] = (state[d] ^ state[a]).rotate_left(16);
        state[c] = state[c].wrapping_add(state[d]);
        state[b] = (state[b] ^ state[c]).rotate_left(12);
        state[a] = state[a].wrapping_add(state[b]);
        state[d] = (state[d] ^ state[a]).rotate_left(8);
        state[c] = state[c].wrapping_add(state[d]);
        state[b] = (state[b] ^ state[c]).rotate_left(7);
    }
    for _ in 0..double_rounds {
        quarter(state, 0, 4, 8, 12);
        quarter(state, 1, 5, 9, 13);
        quarter(state, 2, 6, 10, 14);
        quarter(state, 3, 7, 11, 15);
        quarter(state, 0, 5, 10, 15);
        quarter(state, 1, 6, 11, 12);
        quarter(state, 2, 7, 8, 13);
        quarter(state, 3, 4, 9, 14);
    }
}

/// Takes another row into a state, as FNV-1 takes in a word.
fn absorb(state: &mut Words, row: &Words) {
    for (word, other) in state.iter_mut().zip(row) {
        *word = word.wrapping_mul(PRIME) ^ other;
    }
}

#[cfg(test)]
mod tests;
