//! The decoding speed of a server's model, as real jobs show it.

use std::time::Duration;

/// Fewest tokens of a job that says something about speed.
const FEWEST: u32 = 16;
/// Shortest time that says something: what comes in one burst was buffered on the way.
const SHORTEST: Duration = Duration::from_millis(5);
/// Weight of the newest job, in percent.
const NEWEST: u64 = 25;
/// A change in percent below which a new value is not worth an offer.
const NOTABLE: u64 = 10;

/// One finished job that was never paused.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// Tokens after the first.
    pub(super) tokens: u32,
    /// Time from the first token to the last.
    pub(super) elapsed: Duration,
}

/// A moving average in milli-tokens a second; 0 while unknown.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Speed {
    average: u32,
    told: u32,
}

impl Speed {
    /// Takes a job's speed. True where the average has moved so far that others should hear of it.
    pub(super) fn learn(&mut self, sample: Sample) -> bool {
        if sample.tokens < FEWEST || sample.elapsed < SHORTEST {
            return false;
        }
        let micros = sample.elapsed.as_micros().max(1);
        let now = u64::try_from(u128::from(sample.tokens) * 1_000_000_000 / micros).unwrap_or(u64::MAX);
        let now = now.min(u64::from(u32::MAX));
        let average = match self.average {
            0 => now,
            average => (u64::from(average) * (100 - NEWEST) + now * NEWEST) / 100,
        };
        self.average = average as u32;
        let notable = u64::from(self.average.abs_diff(self.told)) * 100 > u64::from(self.told) * NOTABLE;
        if notable {
            self.told = self.average;
        }
        notable
    }

    /// What others were told last.
    pub(super) fn milli_tokens(self) -> u32 {
        self.told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_follows_jobs_and_ignores_short_ones() {
        let mut speed = Speed::default();
        let sample = |tokens, ms| Sample { tokens, elapsed: Duration::from_millis(ms) };
        assert!(!speed.learn(sample(3, 1000)));
        assert!(!speed.learn(sample(1000, 1)));
        assert_eq!(speed.milli_tokens(), 0);
        assert!(speed.learn(sample(100, 1000)));
        assert_eq!(speed.milli_tokens(), 100_000);
        // A little faster is not worth an offer, much slower is.
        assert!(!speed.learn(sample(110, 1000)));
        assert!(speed.learn(sample(20, 1000)));
        assert!(speed.milli_tokens() < 90_000);
    }
}
