//! The owner comes first: when another program uses the GPU, nothing new is taken.

use serde::Serialize;
use std::time::Duration;

/// Part of the GPU's time from which others count as using it: a desktop that draws its windows stays below.
const OTHERS_BUSY: f32 = 0.15;
/// Memory that others take beyond what they had when this node began, from which they count as using it.
const OTHERS_MEMORY: u64 = 1 << 30;
/// Memory that stays within this much for so long, while nobody else computes, is a desktop that has grown: a browser
/// that was left open, somebody who has logged in.
const STEADY_MEMORY: u64 = 256 << 20;
const STEADY_FOR: Duration = Duration::from_secs(5 * 60);
/// Readings one after the other that show it, so that one window that opens is not taken for a game.
const READINGS: u32 = 2;
/// How long the GPU must be left alone before jobs are taken again.
const LEFT_ALONE: Duration = Duration::from_secs(20);

/// What other programs do with a GPU at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Others {
    /// Part of the time that the GPU computes for them, 0 to 1, where that is told.
    pub utilisation: Option<f32>,
    /// Bytes of its memory that they hold, where that is told.
    pub memory_bytes: Option<u64>,
}

/// Why the GPU is left to its owner.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum OwnerUse {
    /// Somebody else computes.
    #[error("another program uses the GPU ({:.0} % of its time)", .0 * 100.0)]
    Computing(f32),
    /// Somebody else fills its memory.
    #[error("another program has taken {} MiB of the GPU's memory", .0 >> 20)]
    Memory(u64),
}

/// Watches what others do with one GPU. At one reading a second it tells within two seconds that somebody began.
#[derive(Clone, Debug, Default)]
pub struct OwnerWatch {
    /// What others hold while nobody uses the GPU: desktop and drivers.
    usual_memory: Option<u64>,
    /// What they have held about, and since when.
    steady: Option<(u64, Duration)>,
    in_a_row: u32,
    using: Option<OwnerUse>,
    last_used: Option<Duration>,
}

impl OwnerWatch {
    /// Takes a reading at `now`, since any fixed moment. Whether the GPU is the owner's now, and why.
    pub fn read(&mut self, now: Duration, others: &Others) -> Option<OwnerUse> {
        if let Some(seen) = self.seen(now, others) {
            self.in_a_row = self.in_a_row.saturating_add(1);
            if self.in_a_row >= READINGS || self.using.is_some() {
                self.using = Some(seen);
                self.last_used = Some(now);
            }
        } else {
            self.in_a_row = 0;
            if self.last_used.is_none_or(|last| now.saturating_sub(last) >= LEFT_ALONE) {
                self.using = None;
            }
        }
        self.using
    }

    fn seen(&mut self, now: Duration, others: &Others) -> Option<OwnerUse> {
        if let Some(part) = others.utilisation.filter(|part| *part >= OTHERS_BUSY) {
            self.steady = None;
            return Some(OwnerUse::Computing(part));
        }
        let held = others.memory_bytes?;
        let usual = self.usual_memory.get_or_insert(held);
        *usual = held.min(*usual);
        let (about, since) = *self.steady.get_or_insert((held, now));
        if held.abs_diff(about) > STEADY_MEMORY {
            self.steady = Some((held, now));
        } else if now.saturating_sub(since) >= STEADY_FOR {
            *usual = held;
        }
        let more = held - *usual;
        (more >= OTHERS_MEMORY).then_some(OwnerUse::Memory(more))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn computing(part: f32) -> Others {
        Others { utilisation: Some(part), memory_bytes: Some(300 << 20) }
    }

    #[test]
    fn a_game_pauses_within_two_readings_and_jobs_return_after_it() {
        let mut watch = OwnerWatch::default();
        assert_eq!(watch.read(SECOND, &computing(0.05)), None);
        assert_eq!(watch.read(SECOND * 2, &computing(0.9)), None, "a window that opens");
        assert_eq!(watch.read(SECOND * 3, &computing(0.8)), Some(OwnerUse::Computing(0.8)));
        // A menu between two levels gives nothing back yet.
        for second in 4..23 {
            assert!(watch.read(SECOND * second, &computing(0.0)).is_some(), "{second}");
        }
        assert_eq!(watch.read(SECOND * 23, &computing(0.0)), None);
        assert_eq!(watch.read(SECOND * 24, &computing(0.9)), None);
        assert!(watch.read(SECOND * 25, &computing(0.9)).is_some());
    }

    #[test]
    fn memory_counts_beyond_what_the_desktop_takes() {
        let mut watch = OwnerWatch::default();
        let holding = |mib: u64| Others { utilisation: None, memory_bytes: Some(mib << 20) };
        assert_eq!(watch.read(SECOND, &holding(2048)), None, "what was there before this node");
        assert_eq!(watch.read(SECOND * 2, &holding(2900)), None);
        watch.read(SECOND * 3, &holding(3072));
        let using = watch.read(SECOND * 4, &holding(3100));
        assert_eq!(using, Some(OwnerUse::Memory(1052 << 20)));
        assert!(using.expect("in use").to_string().contains("1052 MiB"));
        assert_eq!(watch.read(SECOND * 30, &holding(1024)), None, "less than ever is the new measure");
        watch.read(SECOND * 31, &holding(2048));
        assert_eq!(watch.read(SECOND * 32, &holding(2048)), Some(OwnerUse::Memory(1 << 30)));
    }

    #[test]
    fn a_desktop_that_has_grown_is_the_new_measure() {
        let mut watch = OwnerWatch::default();
        let holding = |mib: u64, part: f32| Others { utilisation: Some(part), memory_bytes: Some(mib << 20) };
        assert_eq!(watch.read(SECOND, &holding(10, 0.0)), None, "before anybody has logged in");
        watch.read(SECOND * 2, &holding(1500, 0.01));
        assert!(watch.read(SECOND * 3, &holding(1500, 0.01)).is_some());
        for second in 4..320 {
            watch.read(SECOND * second, &holding(1500 + u64::from(second % 7) * 20, 0.02));
        }
        assert_eq!(watch.read(SECOND * 340, &holding(1500, 0.02)), None);
        // A game that waits in its menu computes.
        let mut watch = OwnerWatch::default();
        watch.read(SECOND, &holding(10, 0.0));
        for second in 2..1000 {
            watch.read(SECOND * second, &holding(6000, 0.4));
        }
        assert!(watch.read(SECOND * 1000, &holding(6000, 0.0)).is_some());
    }

    #[test]
    fn what_is_not_told_is_not_held_against_anybody() {
        let mut watch = OwnerWatch::default();
        for second in 0..10 {
            assert_eq!(watch.read(SECOND * second, &Others::default()), None);
        }
    }
}
