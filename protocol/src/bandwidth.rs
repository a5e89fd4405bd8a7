//! What nodes say on `/aitbc/bandwidth/1`: how much goes over the path between two nodes, each way.
//!
//! ```text
//! asker --Begin { blocks }--> helper
//!       <-Go, or Refused-----
//!       --Block, each-------->          timed by the asker, until the answer
//!       <-Received { last }---
//!       <-Block, as many------          timed by the asker, from the first to the last
//! ```
//!
//! Rounds grow until both ways take long enough to tell ([`next_round`]). A helper sends no more than it was sent, and nobody can
//! have it send anything to somebody else. Nothing counts that it says of times: the last block is one that nobody knows before,
//! and what comes back follows on the digest of it.

use crate::{UnixMillis, bytes::Digest};
use serde::{Deserialize, Serialize};

/// Content of a block, in bytes.
pub const BLOCK_BYTES: usize = 32 * 1024;
/// Blocks of the first round.
pub const FIRST_BLOCKS: u32 = 16;
/// Most blocks of one stream each way, over all its rounds: 24 MiB.
pub const MOST_BLOCKS: u32 = 768;
/// A round that takes as long each way tells enough, in microseconds.
pub const ENOUGH_MICROS: u64 = 500_000;
/// No round is begun whose slower way would take longer, in microseconds.
const LONGEST_MICROS: u64 = 5_000_000;
/// A round is at most so many times the one before.
const MOST_GROWTH: u64 = 8;
/// Bandwidth that the network asks of a provider where its owner says nothing, in bytes a second: 10 MiB/s.
pub const REQUIRED: u64 = 10 * 1024 * 1024;

/// What goes to the helper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToHelper {
    /// A round of so many blocks each way.
    Begin {
        /// How many, two at least.
        blocks: u32,
    },
    /// One block of [`BLOCK_BYTES`].
    Block(#[serde(with = "serde_bytes")] Vec<u8>),
}

/// What comes from the helper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToAsker {
    /// The round may begin.
    Go,
    /// It does not help now.
    Refused(Refusal),
    /// All blocks of the round are there.
    Received {
        /// Digest of the last one: nobody can say so before it is there.
        last: Digest,
    },
    /// One block of [`BLOCK_BYTES`].
    Block(#[serde(with = "serde_bytes")] Vec<u8>),
}

/// Why a helper does not help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// It helps somebody else, has helped this node lately, or runs jobs.
    #[error("it is busy, ask again in {} s", .retry_ms.div_ceil(1000))]
    Busy {
        /// When to ask again, in milliseconds.
        retry_ms: u32,
    },
    /// The path leads through a relay, whose uplink is not there for that.
    #[error("the path to it leads through a relay, which is no place to measure")]
    Relayed,
    /// A round smaller than two blocks, or more blocks than a stream may have.
    #[error("it allows no such round")]
    Size,
}

/// What went over the line of a node, to and from another one: at least that much is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// Away from the node, in bytes a second.
    pub up: u64,
    /// Towards it, in bytes a second.
    pub down: u64,
    /// When it was measured.
    pub measured_ms: UnixMillis,
}

impl Bandwidth {
    /// Whether both ways reach `required` bytes a second.
    pub fn reaches(&self, required: u64) -> bool {
        self.up.min(self.down) >= required
    }

    /// The faster of both, each way: a slow helper says nothing against the line.
    #[must_use]
    pub fn best(self, other: Self) -> Self {
        Self {
            up: self.up.max(other.up),
            down: self.down.max(other.down),
            measured_ms: self.measured_ms.max(other.measured_ms),
        }
    }
}

/// What the way up took of `elapsed` microseconds from the first block sent to the answer, where agreeing on the round took
/// `round_trip`: without the way of the answer, but never less than three quarters, for a helper may have agreed slowly.
pub fn way_up(elapsed: u64, round_trip: u64) -> u64 {
    elapsed - round_trip.min(elapsed / 4)
}

/// Bytes a second of a round: what came after the first block, by the time from the first to the last.
pub fn rate(blocks: u32, micros: u64) -> u64 {
    let bytes = u128::from(blocks.saturating_sub(1)) * BLOCK_BYTES as u128;
    u64::try_from(bytes * 1_000_000 / u128::from(micros.max(1))).unwrap_or(u64::MAX)
}

/// Blocks of the round that follows one of `blocks`, which took `up` and `down` microseconds, where `done` blocks went each
/// way so far; nothing where both ways told enough, where the slower one would take too long, or where the stream may carry
/// no larger round.
pub fn next_round(blocks: u32, up: u64, down: u64, done: u32) -> Option<u32> {
    let (fast, slow) = (up.min(down), up.max(down));
    if fast >= ENOUGH_MICROS {
        return None;
    }
    let growth = (ENOUGH_MICROS / fast.max(1)).clamp(2, MOST_GROWTH).min(LONGEST_MICROS / slow.max(1));
    let wanted = u64::from(blocks).saturating_mul(growth);
    let left = MOST_BLOCKS.saturating_sub(done);
    let next = u32::try_from(wanted).unwrap_or(u32::MAX).min(left);
    (next > blocks).then_some(next)
}

/// Whether a helper takes a round of `blocks` after `done` of them.
pub const fn is_allowed(blocks: u32, done: u32) -> bool {
    blocks >= 2 && blocks <= MOST_BLOCKS.saturating_sub(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_rate_is_what_followed_the_first_block() {
        assert_eq!(rate(33, 1_000_000), 32 * BLOCK_BYTES as u64);
        assert_eq!(rate(1, 1), 0);
        assert_eq!(rate(u32::MAX, 0), u64::MAX);
        let line = Bandwidth { up: REQUIRED, down: REQUIRED, measured_ms: 1 };
        assert!(line.reaches(REQUIRED));
        let slow = Bandwidth { up: REQUIRED - 1, measured_ms: 2, ..line };
        assert!(!slow.reaches(REQUIRED) && slow.best(line).reaches(REQUIRED));
    }

    #[test]
    fn a_helper_that_agrees_slowly_gains_a_third_at_most() {
        assert_eq!(way_up(1_000_000, 100_000), 900_000);
        assert_eq!(way_up(1_000_000, 9_000_000), 750_000);
        assert_eq!((way_up(0, 5), way_up(u64::MAX, 0)), (0, u64::MAX));
    }

    #[test]
    fn a_fast_line_is_measured_with_more() {
        assert_eq!(next_round(FIRST_BLOCKS, 50_000, 60_000, 16), Some(128));
        assert_eq!(next_round(FIRST_BLOCKS, ENOUGH_MICROS, ENOUGH_MICROS, 16), None);
        assert_eq!(next_round(128, 400_000, 500_000, 144), Some(256));
        assert_eq!(next_round(624, 1, 1, MOST_BLOCKS), None, "nothing is left");
        // A line of 500 Mbit/s down and 5 up: the first round takes 0.8 s, and the next must end.
        assert_eq!(next_round(FIRST_BLOCKS, 800_000, 8_000, 16), Some(96));
        assert_eq!(next_round(96, 4_900_000, 50_000, 112), None);
    }

    proptest! {
        #[test]
        fn whatever_is_measured_the_rounds_end_and_are_allowed(times in prop::collection::vec(any::<(u64, u64)>(), 32)) {
            let (mut blocks, mut done) = (FIRST_BLOCKS, 0);
            let mut rounds = 0;
            for (up, down) in times {
                prop_assert!(is_allowed(blocks, done));
                done += blocks;
                rounds += 1;
                match next_round(blocks, up % (2 * ENOUGH_MICROS), down % (2 * ENOUGH_MICROS), done) {
                    Some(next) => blocks = next,
                    None => break,
                }
            }
            prop_assert!(rounds <= 6 && done <= MOST_BLOCKS);
        }
    }
}
