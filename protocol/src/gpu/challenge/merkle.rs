//! One root for all lanes, and the path from a lane to it (after RFC 9162: leaves and nodes hashed apart).

use super::{MAX_LANES, Words};
use crate::{bytes::Digest, text::bounded_vec};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Steps from a leaf to the root at most.
const MAX_HEIGHT: usize = MAX_LANES.ilog2() as usize;

fn leaf(lane: u32, state: &Words) -> Digest {
    let mut hash = Sha256::new();
    hash.update([0]);
    hash.update(lane.to_be_bytes());
    for word in state {
        hash.update(word.to_le_bytes());
    }
    Digest(hash.finalize().into())
}

fn node(left: &Digest, right: &Digest) -> Digest {
    let mut hash = Sha256::new();
    hash.update([1]);
    hash.update(left.as_bytes());
    hash.update(right.as_bytes());
    Digest(hash.finalize().into())
}

/// The last states of all lanes with the hashes over them.
#[derive(Clone, Debug)]
pub struct Tree {
    states: Vec<Words>,
    /// From the leaves up; the last holds the root alone.
    levels: Vec<Vec<Digest>>,
}

impl Tree {
    /// Over the last states of all lanes, in order: a power of two.
    pub fn new(states: Vec<Words>) -> Self {
        let mut level: Vec<Digest> = (0..).zip(&states).map(|(lane, state)| leaf(lane, state)).collect();
        let mut levels = Vec::new();
        while level.len() > 1 {
            let above = level.chunks(2).map(|pair| node(&pair[0], &pair[pair.len() - 1])).collect();
            levels.push(std::mem::replace(&mut level, above));
        }
        levels.push(level);
        Self { states, levels }
    }

    /// What the prover tells first.
    pub fn root(&self) -> Digest {
        self.levels.last().and_then(|level| level.first()).copied().unwrap_or(Digest([0; 32]))
    }

    /// A lane with its path; `None` if there is no such lane.
    pub fn open(&self, lane: u32) -> Option<Opening> {
        let state = *self.states.get(lane as usize)?;
        let below = &self.levels[..self.levels.len() - 1];
        let path = below.iter().enumerate().map(|(height, level)| level[(lane as usize >> height) ^ 1]).collect();
        Some(Opening { lane, state, path })
    }
}

/// A lane that is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// Which.
    pub lane: u32,
    /// Its last state.
    pub state: Words,
    /// The hashes beside the way up, from the leaf on.
    #[serde(deserialize_with = "bounded_vec::<_, _, MAX_HEIGHT>")]
    pub path: Vec<Digest>,
}

impl Opening {
    /// Whether it is under this root of so many lanes.
    pub fn is_under(&self, root: &Digest, lanes: u32) -> bool {
        let height = lanes.ilog2() as usize;
        let climb = |(at, hash): (u32, Digest), beside: &Digest| {
            let above = if at & 1 == 0 { node(&hash, beside) } else { node(beside, &hash) };
            (at >> 1, above)
        };
        self.lane < lanes
            && self.path.len() == height
            && self.path.iter().fold((self.lane, leaf(self.lane, &self.state)), climb).1 == *root
    }
}
