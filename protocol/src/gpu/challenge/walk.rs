//! Items of the data set, and the lanes that walk it.

use super::{Cache, PARENTS, PRIME, Task, Words, absorb, permute};
use crate::{
    NodeId,
    bytes::{Digest, Nonce},
};
use sha2::{Digest as _, Sha256};

/// What makes a data set and a walk those of one peer and one challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Of the data set.
    pub data: [u32; 8],
    /// Of the walk.
    pub walk: [u32; 8],
}

impl Key {
    /// The key of `prover`'s data set for the challenge `prepare` and of the walk `walk`.
    pub fn new(prover: &NodeId, prepare: &Nonce, walk: &Nonce) -> Self {
        let derive = |domain: &[u8], nonce: &Nonce| -> [u32; 8] {
            let mut hash = Sha256::new();
            hash.update(domain);
            hash.update(prover.0);
            hash.update(nonce.as_bytes());
            words(&Digest(hash.finalize().into()))
        };
        Self { data: derive(b"aitbc/challenge/1/data", prepare), walk: derive(b"aitbc/challenge/1/walk", walk) }
    }
}

fn words(digest: &Digest) -> [u32; 8] {
    let mut words = [0; 8];
    for (word, bytes) in words.iter_mut().zip(digest.as_bytes().chunks_exact(4)) {
        *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    words
}

/// One item of the data set: 256 reads of the cache, each at a place that the ones before tell.
pub fn item(cache: &Cache, key: &Key, index: u32) -> Words {
    let mut mix = *cache.row(index);
    mix[0] ^= index;
    for (word, of_key) in mix[8..].iter_mut().zip(key.data) {
        *word ^= of_key;
    }
    permute(&mut mix, 4);
    for parent in 0..PARENTS {
        let number = (mix[parent as usize & 15] ^ index ^ parent).wrapping_mul(PRIME);
        absorb(&mut mix, cache.row(number));
    }
    permute(&mut mix, 4);
    mix
}

/// The last state of one lane, whose items `read` tells.
pub fn walk(key: &Key, task: &Task, lane: u32, mut read: impl FnMut(u32) -> Words) -> Words {
    let mut state: Words = [0; 16];
    state[0] = lane;
    state[8..].copy_from_slice(&key.walk);
    permute(&mut state, 4);
    for _ in 0..task.steps {
        let item = read(state[0] % task.items);
        absorb(&mut state, &item);
        permute(&mut state, 1);
    }
    state
}
