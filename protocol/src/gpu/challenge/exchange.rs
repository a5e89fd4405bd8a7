//! What verifier and prover say to each other on `/aitbc/challenge/1`, when, and what follows from it.
//!
//! ```text
//! verifier --Book: slot, cell------------------> prover
//!          <-Booked: what it claims------------          derives its data set before the slot begins
//!          <-Ready: how fast it says it reads--
//!          --Walk: a nonce, as the slot begins->
//!          <-Root, signed----------------------          timed at arrival
//!          --Open: a fresh nonce--------------->
//!          <-Opened, signed--------------------          64 lanes, recomputed from the cache
//!          --Shown, signed; or Failed---------->          goes into the prover's offer
//! ```
//!
//! All data sets of a cell and a slot hang on one beacon, which everybody can compute before: one card cannot hold those
//! of two peers at the same moment. The nonce of the walk is the verifier's own, and nobody knows it before.

use super::{Cache, ITEM_BYTES, Key, MAX_LANES, MAX_STEPS, OPENED, Opening, Task, TaskError, WrongAnswer, verify};
use crate::{
    NodeId, UnixMillis,
    bytes::{Digest, Nonce},
    envelope::{NetworkId, Statement},
    geo::Cell,
    gpu::classify::{Classified, Reported, classify},
    text::{Line, bounded_vec},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// How long what was shown stands, in milliseconds: a day.
pub const SHOWN_LIFETIME_MS: u64 = 24 * 60 * 60 * 1000;
/// The walk takes at least as long, in milliseconds, so that no round trip hides in it.
pub const LEAST_WORK_MS: u64 = 2_000;
/// And at least so many times as long as a round trip, and as round trips differ: nothing is taken off for the path, since the
/// prover could make it seem as long as it likes, and it weighs a twentieth at most.
pub const PATHS: u64 = 20;
/// Steps of a lane where there can be as many lanes as it takes.
const STEPS: u64 = 64;
/// The longest walk that anybody can be asked for, in milliseconds at the rate that the prover tells.
pub const MOST_WORK_MS: u64 = 20_000;
/// An answer so many times slower than the prover says its memory is comes too late. Deriving one item of ten while
/// walking costs more.
pub const LATE: u64 = 3;
/// Bytes a second of random reads below which no GPU shows anything: one that keeps nothing may derive items as fast.
pub const LEAST_RATE: u64 = 10_000_000_000;
/// Nor does one that reads less than this part of what its data sheet says. Deriving an item reads 256 times as much, out of
/// caches that are some five times as fast as the memory: who keeps nothing reaches a fiftieth.
const PART_OF_SHEET: u64 = 8;
/// Length of an epoch, over which the cache stays: a week.
const EPOCH_MS: u64 = 7 * 24 * 60 * 60 * 1000;
/// Characters of the cell whose peers share a beacon, where they tell as many.
pub const CELL_PRECISION: u8 = 4;

/// When the challenges of a network are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    /// Time from one to the next, in milliseconds.
    pub every_ms: u64,
    /// How long before one begins it is booked at the latest, in milliseconds: data sets are derived in that time.
    pub lead_ms: u64,
}

impl Slots {
    /// Those of `network`: every ten minutes, and on networks of demos and tests every ten seconds.
    pub fn of(network: &NetworkId) -> Self {
        if network.is_local() {
            Self { every_ms: 10_000, lead_ms: 8_000 }
        } else {
            Self { every_ms: 600_000, lead_ms: 120_000 }
        }
    }

    /// The first slot that can still be booked.
    pub fn next(&self, now_ms: UnixMillis) -> u64 {
        now_ms.saturating_add(self.lead_ms).div_ceil(self.every_ms)
    }

    /// When a slot begins.
    pub fn starts_ms(&self, slot: u64) -> UnixMillis {
        slot.saturating_mul(self.every_ms)
    }

    /// When a slot is booked. Not before, or the prover would hold its memory for nothing.
    pub fn books_ms(&self, slot: u64) -> UnixMillis {
        self.starts_ms(slot).saturating_sub(self.lead_ms)
    }

    /// Whether a slot can be booked now, by a clock that may differ a little.
    pub fn is_open(&self, slot: u64, now_ms: UnixMillis) -> bool {
        self.books_ms(slot).abs_diff(now_ms) <= crate::CLOCK_TOLERANCE_MS.min(self.lead_ms / 2)
    }
}

/// What the data sets of a cell hang on in one slot: the first 16 bytes of a SHA-256 over network, cell and slot.
pub fn beacon(network: &NetworkId, cell: &Cell, slot: u64) -> Nonce {
    let digest = hashed(b"aitbc/challenge/1/beacon", network, |hash| {
        hash.update([cell.precision()]);
        hash.update(cell.as_str());
        hash.update(slot.to_be_bytes());
    });
    Nonce(std::array::from_fn(|index| digest[index]))
}

/// What the cache follows from at `at_ms`: a SHA-256 over network and week.
pub fn epoch_seed(network: &NetworkId, at_ms: UnixMillis) -> [u8; 32] {
    hashed(b"aitbc/challenge/1/epoch", network, |hash| hash.update((at_ms / EPOCH_MS).to_be_bytes()))
}

fn hashed(domain: &[u8], network: &NetworkId, rest: impl FnOnce(&mut Sha256)) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(domain);
    // Names of networks are under 256 bytes.
    hash.update([u8::try_from(network.as_str().len()).unwrap_or(u8::MAX)]);
    hash.update(network.as_str());
    rest(&mut hash);
    hash.finalize().into()
}

/// What a prover says that it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The processor, as its driver names it.
    pub device: Line<96>,
    /// Bytes of its memory that are free now.
    pub bytes: u64,
    /// Whether it only pretends, out of the machine's own memory, to try challenges out.
    pub simulated: bool,
}

impl Claim {
    /// Items of a data set that fills four fifths of what is claimed; what a display or a model that grows needs is
    /// left.
    pub fn items(&self) -> u32 {
        u32::try_from(self.bytes / 5 * 4 / ITEM_BYTES).unwrap_or(u32::MAX)
    }

    /// The least rate, in bytes a second, at which a walk shows that the memory of such a device is there.
    pub fn least_rate(&self) -> u64 {
        if self.simulated {
            return 0;
        }
        let sheet = match classify(&Reported { name: self.device.as_str(), pci: None, memory_bytes: None }) {
            Classified::Gpu { best, .. } => best.profile.bandwidth.unwrap_or_default(),
            Classified::Software | Classified::Unknown(_) => 0,
        };
        LEAST_RATE.max(sheet / PART_OF_SHEET)
    }
}

impl Task {
    /// A walk over `items` for a memory of `rate` bytes a second, whose owner is `path_ms` away: the round trip or what it
    /// differs by, whichever is more. It lasts [`LEAST_WORK_MS`], [`PATHS`] times as long as the path, and as long as it takes
    /// to read as much as the data set holds, whichever is most. Many lanes come before long ones, for the verifier recomputes
    /// 64 whatever they are.
    pub fn sized(items: u32, rate: u64, path_ms: u64) -> Result<Self, TaskError> {
        let once_ms = (u128::from(items) * u128::from(ITEM_BYTES) * 1000).div_ceil(u128::from(rate.max(1)));
        let once_ms = u64::try_from(once_ms).unwrap_or(u64::MAX);
        let work_ms = LEAST_WORK_MS.max(path_ms.saturating_mul(PATHS)).max(once_ms);
        if work_ms > MOST_WORK_MS {
            return Err(TaskError::TooLong(work_ms));
        }
        let task = Self::lasting(items, rate, work_ms)?;
        let lasts_ms = task.lasts_ms(rate);
        if lasts_ms + 1 < work_ms { Err(TaskError::TooFast(lasts_ms)) } else { Ok(task) }
    }

    /// Whether a prover takes it for `items` at the rate that it has told: as long as anybody may ask for, and in the shape
    /// that [`Task::lasting`] makes, whose single steps no driver takes for a hang.
    pub fn is_bearable(&self, items: u32, rate: u64) -> bool {
        self.check().is_ok()
            && self.items == items
            && (self.lanes == MAX_LANES || u64::from(self.steps) <= STEPS)
            && self.lasts_ms(rate) <= MOST_WORK_MS + MOST_WORK_MS / 10
    }

    /// A walk that takes a memory of `rate` bytes a second `work_ms`.
    pub fn lasting(items: u32, rate: u64, work_ms: u64) -> Result<Self, TaskError> {
        let reads = u128::from(rate) * u128::from(work_ms) / 1000 / u128::from(ITEM_BYTES);
        let reads = u64::try_from(reads).unwrap_or(u64::MAX);
        let least = OPENED as u64 * 4;
        let lanes = (reads / STEPS).clamp(least, u64::from(MAX_LANES)).next_power_of_two();
        let steps = reads.div_ceil(lanes).clamp(1, u64::from(MAX_STEPS));
        let number = |number| u32::try_from(number).expect("it is bounded above");
        let task = Self { items, lanes: number(lanes), steps: number(steps) };
        task.check().map(|()| task)
    }

    /// How long a memory of `rate` bytes a second takes for it, in milliseconds.
    pub fn lasts_ms(&self, rate: u64) -> u64 {
        let ms = u128::from(self.read_bytes()) * 1000 / u128::from(rate.max(1));
        u64::try_from(ms).unwrap_or(u64::MAX)
    }
}

/// What a verifier sends.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToProver {
    /// Asks for a challenge.
    Book {
        /// In which slot.
        slot: u64,
        /// The cell whose beacon counts: of the prover, at [`CELL_PRECISION`] or as coarse as it tells.
        cell: Cell,
    },
    /// Begins the walk, when the slot does.
    Walk {
        /// The verifier's own.
        nonce: Nonce,
        /// What is to be walked.
        task: Task,
    },
    /// Asks for lanes.
    Open {
        /// Fresh: which lanes it names follows from it and the root.
        nonce: Nonce,
    },
    /// The prover has shown what it said.
    Shown(crate::Signed<Shown>),
    /// It has not.
    Failed(Line<160>),
}

/// What a prover sends.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToVerifier {
    /// The slot is the verifier's.
    Booked(Claim),
    /// No challenge.
    Refused(Refusal),
    /// The data set is there.
    Ready {
        /// How many bytes a second its owner measured in a short walk over it.
        rate: u64,
    },
    /// The walk has ended.
    Root(crate::Signed<Root>),
    /// The lanes asked for.
    Opened(crate::Signed<Opened>),
}

/// Why there is no challenge now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// It has no memory to show.
    #[error("it has no GPU whose memory it can show")]
    NoMemory,
    /// Jobs run, or its owner's limits allow nothing now.
    #[error("it is busy with jobs, or its owner's limits allow no work now")]
    Busy,
    /// Somebody else has the slot.
    #[error("another verifier has that slot")]
    Taken,
    /// Asked too often.
    #[error("it was asked too often")]
    TooOften,
    /// Not the slot that comes.
    #[error("by its clock that slot is not to be booked now: one of the two clocks is wrong")]
    Slot,
    /// Not its cell.
    #[error("it announces another cell by now")]
    Cell,
    /// More work than anybody may ask for.
    #[error("the walk asked for is not the one that follows from its claim")]
    Task,
    /// The GPU did not do it.
    #[error("its GPU did not do the work")]
    Failed,
}

/// The prover's word for its walk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Who asked.
    pub verifier: NodeId,
    /// Whose beacon counts.
    pub cell: Cell,
    /// Which slot.
    pub slot: u64,
    /// The nonce of the walk.
    pub nonce: Nonce,
    /// What was walked.
    pub task: Task,
    /// The Merkle root over the lanes.
    pub root: Digest,
}

impl Statement for Root {
    const DOMAIN: &'static str = "aitbc/challenge-root/1";
    const MAX_BYTES: usize = 512;
}

/// The prover's word for the lanes that it opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// Of which walk.
    pub root: Root,
    /// The nonce that names the lanes.
    pub nonce: Nonce,
    /// The lanes.
    #[serde(deserialize_with = "bounded_vec::<_, _, OPENED>")]
    pub openings: Vec<Opening>,
}

impl Statement for Opened {
    const DOMAIN: &'static str = "aitbc/challenge-opened/1";
    const MAX_BYTES: usize = 96 * 1024;
}

impl Opened {
    /// Whether these are the lanes that `prover` had to open, rightly walked, by the cache of the slot's epoch. Anybody
    /// can tell: what is wrong and signed is evidence.
    pub fn check(&self, cache: &Cache, network: &NetworkId, prover: &NodeId) -> Result<(), WrongAnswer> {
        let Root { cell, slot, nonce, task, root, .. } = &self.root;
        // A task that nobody may set is no fault of who walked it, but nothing can be recomputed for it either.
        task.check().map_err(|_| WrongAnswer::OtherLanes)?;
        let key = Key::new(prover, &beacon(network, cell, *slot), nonce);
        verify(cache, &key, task, root, &self.nonce, &self.openings)
    }
}

/// A verifier's word that a peer has shown memory: so much, so fast.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// Who has it.
    pub prover: NodeId,
    /// What the prover calls it; nobody has seen it.
    pub device: Line<96>,
    /// Bytes of the data set.
    pub bytes: u64,
    /// Bytes a second of random reads, the path included.
    pub rate: u64,
    /// Whether the prover said itself that it only pretends.
    pub simulated: bool,
    /// When.
    pub issued_ms: UnixMillis,
    /// Until when it stands.
    pub expires_ms: UnixMillis,
}

impl Statement for Shown {
    const DOMAIN: &'static str = "aitbc/challenge-shown/1";
    const MAX_BYTES: usize = 512;
}

impl Shown {
    /// Whether it stands, dated as it may be.
    pub fn stands(&self, now_ms: UnixMillis) -> bool {
        crate::stands(self.issued_ms, self.expires_ms, SHOWN_LIFETIME_MS, now_ms)
    }
}

/// An answer came too late for the memory that the prover says it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it reads {shown} bytes a second at random where it says {told}: part of the memory is not there, or busy"
)]
pub struct Late {
    /// What it showed, in bytes a second.
    pub shown: u64,
    /// What it told.
    pub told: u64,
}

/// How many bytes a second a walk has shown that took `elapsed_ms` from the nonce's way to the root's arrival, the path
/// included and never more than was told; or that it is too late for a memory of `told` bytes a second.
pub fn shown_rate(task: &Task, elapsed_ms: f64, told: u64) -> Result<u64, Late> {
    let shown = (task.read_bytes() as f64 * 1000.0 / elapsed_ms.max(1.0)) as u64;
    if shown.saturating_mul(LATE) < told { Err(Late { shown, told }) } else { Ok(shown.min(told)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn network(name: &str) -> NetworkId {
        NetworkId::new(name).expect("a name")
    }

    fn cell(text: &str) -> Cell {
        text.parse().expect("a cell")
    }

    #[test]
    fn beacons_and_epochs_differ_by_all_that_they_hang_on() {
        let (main, paris) = (network("main"), cell("u09t"));
        let first = beacon(&main, &paris, 7);
        assert_eq!(first, beacon(&main, &paris, 7));
        for other in [
            beacon(&network("other"), &paris, 7),
            beacon(&main, &cell("u09w"), 7),
            beacon(&main, &cell("u09"), 7),
            beacon(&main, &paris, 8),
        ] {
            assert_ne!(first, other);
        }
        assert_eq!(epoch_seed(&main, 5), epoch_seed(&main, EPOCH_MS - 1));
        assert_ne!(epoch_seed(&main, 5), epoch_seed(&main, EPOCH_MS));
        assert_ne!(epoch_seed(&main, 5), epoch_seed(&network("other"), 5));
    }

    #[test]
    fn only_the_slot_that_comes_can_be_booked() {
        for slots in [Slots::of(&network("main")), Slots::of(&network("local"))] {
            let now = 1_800_000_123_456;
            let slot = slots.next(now);
            let books = slots.books_ms(slot);
            assert!((now..now + slots.every_ms).contains(&books));
            assert!(
                slots.is_open(slot, books)
                    && slots.is_open(slot, books + 1_000)
                    && slots.is_open(slot, books - 1_000)
            );
            assert!(!slots.is_open(slot, books - slots.lead_ms), "its memory would be held for nothing");
            assert!(!slots.is_open(slot, slots.starts_ms(slot)), "the data set would not be there");
            assert!(!slots.is_open(u64::MAX, now));
        }
    }

    #[test]
    fn four_fifths_of_the_claim_are_filled() {
        let claim = |bytes| Claim { device: Line::lossy("card"), bytes, simulated: false }.items();
        assert_eq!(u64::from(claim(10 << 30)) * 64, (10 << 30) / 5 * 4 / 64 * 64);
        assert_eq!(claim(u64::MAX), u32::MAX, "256 GiB are as much as is walked");
        assert_eq!(claim(0), 0);
    }

    #[test]
    fn a_card_that_says_it_is_slow_shows_nothing() {
        let least = |name: &str, simulated| Claim { device: Line::lossy(name), bytes: 1, simulated }.least_rate();
        assert_eq!(least("a card of a name that nobody knows", false), LEAST_RATE);
        assert_eq!(least("NVIDIA GeForce RTX 4090", false) / 1_000_000_000, 126, "an eighth of 1,008 GB/s");
        assert_eq!(least("NVIDIA GeForce RTX 4090", true), 0);
    }

    #[test]
    fn late_is_less_than_a_third_of_what_was_told() {
        let task = Task { items: 1 << 20, lanes: 1 << 20, steps: 64 };
        let told = task.read_bytes() / 2;
        assert_eq!(shown_rate(&task, 2_000.0, told), Ok(told));
        assert_eq!(shown_rate(&task, 4_000.0, told), Ok(told / 2));
        assert!(shown_rate(&task, 5_900.0, told).is_ok());
        assert!(shown_rate(&task, 6_100.0, told).is_err());
        assert_eq!(shown_rate(&task, 1.0, told), Ok(told), "nobody shows more than it tells");
        assert!(shown_rate(&task, f64::MAX, told).is_err());
    }

    proptest! {
        #[test]
        fn walks_last_as_long_as_they_should(
            items in 1024..1_u32 << 29,
            rate in 1_000_000..10_000_000_000_000_u64,
            path_ms in 0..2_000_u64,
        ) {
            let bytes = u64::from(items) * ITEM_BYTES;
            match Task::sized(items, rate, path_ms) {
                Ok(task) => {
                    let lasts = task.lasts_ms(rate);
                    prop_assert!(lasts + 1 >= LEAST_WORK_MS.max(path_ms * PATHS), "{lasts}");
                    prop_assert!(lasts <= MOST_WORK_MS + MOST_WORK_MS / 10, "{lasts}");
                    prop_assert!(task.read_bytes() >= bytes / 100 * 99, "every item may be met");
                    prop_assert!(task.is_bearable(items, rate));
                    prop_assert!(!task.is_bearable(items + 1, rate) && !task.is_bearable(items, rate / 20));
                }
                Err(TaskError::TooLong(ms)) => prop_assert!(ms > MOST_WORK_MS),
                Err(TaskError::TooFast(ms)) => prop_assert!(ms < MOST_WORK_MS && rate > 1_000_000_000_000 / 8, "{ms}"),
                Err(error) => prop_assert!(false, "{error}"),
            }
        }

        #[test]
        fn any_rate_makes_a_task_or_an_error(items: u32, rate: u64, path_ms: u64) {
            if let Ok(task) = Task::sized(items, rate, path_ms) {
                prop_assert!(task.check().is_ok() && items >= 1024);
            }
        }
    }
}
