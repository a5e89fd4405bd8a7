//! A circuit breaker: a provider that fails again and again rests, and is then tried with one job at a time. Pure.
//!
//! ```text
//!           3 failures in a row             rest over, or a new offer
//!   closed --------------------> resting ------------------------------> probing
//!     ^                             ^                                        |
//!     |  the probe succeeded        |  it failed: twice the rest             |
//!     +-----------------------------+----------------------------------------+
//! ```

use crate::UnixMillis;

/// Failures in a row after which a provider rests.
pub const TRIPS_AFTER: u32 = 3;
/// The first rest in milliseconds, twice as long after every probe that fails, and never longer than the last.
pub const FIRST_REST_MS: u64 = 10_000;
/// The longest rest in milliseconds.
pub const LAST_REST_MS: u64 = 600_000;
/// After how many milliseconds a probe of which nothing was heard gives its turn to another.
pub const PROBE_MS: u64 = 60_000;

/// What one client knows of whether a provider works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breaker(State);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Resting { since_ms: UnixMillis, rest_ms: u64 },
    Probing { since_ms: UnixMillis, rest_ms: u64 },
}

impl Default for Breaker {
    fn default() -> Self {
        Self(State::Closed { failures: 0 })
    }
}

impl Breaker {
    /// For how many more milliseconds no job goes there; `None` where one may. `offered_ms` is when its newest offer was
    /// issued: one from after it began to rest says that something has changed there, and is worth a probe.
    pub fn rests_ms(&self, now_ms: UnixMillis, offered_ms: UnixMillis) -> Option<u64> {
        let left = match self.0 {
            State::Closed { .. } => return None,
            State::Resting { since_ms, .. } if offered_ms > since_ms => 0,
            State::Resting { since_ms, rest_ms } => since_ms.saturating_add(rest_ms).saturating_sub(now_ms),
            State::Probing { since_ms, .. } => since_ms.saturating_add(PROBE_MS).saturating_sub(now_ms),
        };
        (left > 0).then_some(left)
    }

    /// Takes a turn for a job; false where none may go there. After a rest, the turn is the probe.
    pub fn admit(&mut self, now_ms: UnixMillis, offered_ms: UnixMillis) -> bool {
        if self.rests_ms(now_ms, offered_ms).is_some() {
            return false;
        }
        if let State::Resting { rest_ms, .. } | State::Probing { rest_ms, .. } = self.0 {
            self.0 = State::Probing { since_ms: now_ms, rest_ms };
        }
        true
    }

    /// A probe ended before it showed anything, such as with a provider that is full: the next job is the probe.
    pub fn undecided(&mut self) {
        if let State::Probing { rest_ms, .. } = self.0 {
            self.0 = State::Resting { since_ms: 0, rest_ms: rest_ms.min(LAST_REST_MS) };
        }
    }

    /// Whether a job is showing whether the provider works again.
    pub fn is_probing(&self) -> bool {
        matches!(self.0, State::Probing { .. })
    }

    /// A job went well.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// A job failed. Failures of jobs that began before the rest do not prolong it.
    pub fn failed(&mut self, now_ms: UnixMillis) {
        self.0 = match self.0 {
            State::Closed { failures } if failures + 1 < TRIPS_AFTER => State::Closed { failures: failures + 1 },
            State::Closed { .. } => State::Resting { since_ms: now_ms, rest_ms: FIRST_REST_MS },
            State::Probing { rest_ms, .. } => {
                State::Resting { since_ms: now_ms, rest_ms: rest_ms.saturating_mul(2).min(LAST_REST_MS) }
            }
            resting @ State::Resting { .. } => resting,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tripped(at_ms: UnixMillis) -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..TRIPS_AFTER {
            assert!(breaker.admit(at_ms, 0));
            breaker.failed(at_ms);
        }
        breaker
    }

    #[test]
    fn it_rests_probes_with_one_job_and_closes() {
        let mut breaker = tripped(1_000);
        assert_eq!(breaker.rests_ms(1_000, 0), Some(FIRST_REST_MS));
        assert!(!breaker.admit(1_000 + FIRST_REST_MS - 1, 0));
        let over = 1_000 + FIRST_REST_MS;
        assert!(breaker.admit(over, 0) && !breaker.admit(over, 0), "one at a time");
        breaker.failed(over);
        assert_eq!(breaker.rests_ms(over, 0), Some(2 * FIRST_REST_MS));
        breaker.failed(over);
        assert_eq!(breaker.rests_ms(over, 0), Some(2 * FIRST_REST_MS), "that one began before");
        let over = over + 2 * FIRST_REST_MS;
        assert!(breaker.admit(over, 0));
        breaker.succeeded();
        assert_eq!(breaker, Breaker::default());
        assert!(breaker.admit(over, 0) && breaker.admit(over, 0));
    }

    #[test]
    fn one_good_job_makes_up_for_two_bad_ones() {
        let mut breaker = Breaker::default();
        for _ in 0..10 {
            breaker.failed(0);
            breaker.failed(0);
            breaker.succeeded();
        }
        assert_eq!(breaker.rests_ms(0, 0), None);
    }

    #[test]
    fn a_new_offer_is_worth_one_probe() {
        let mut breaker = tripped(1_000);
        assert!(!breaker.admit(1_001, 1_000), "it was offered before");
        assert!(breaker.admit(1_002, 1_001) && !breaker.admit(1_002, 1_001));
    }

    #[test]
    fn a_probe_that_shows_nothing_is_followed_by_another() {
        let mut breaker = tripped(0);
        let over = LAST_REST_MS;
        assert!(breaker.admit(over, 0) && breaker.is_probing());
        breaker.undecided();
        assert!(!breaker.is_probing() && breaker.admit(over, 0));
        breaker.failed(over);
        assert_eq!(breaker.rests_ms(over, 0), Some(2 * FIRST_REST_MS), "it is the same rest");
        let mut closed = Breaker::default();
        closed.undecided();
        assert_eq!(closed, Breaker::default());
    }

    #[test]
    fn a_probe_that_nobody_hears_of_gives_its_turn_away() {
        let mut breaker = tripped(0);
        assert!(breaker.admit(FIRST_REST_MS, 0));
        assert!(!breaker.admit(FIRST_REST_MS + PROBE_MS - 1, 0));
        assert!(breaker.admit(FIRST_REST_MS + PROBE_MS, 0));
    }

    proptest! {
        /// Whatever happens, and however clocks jump, a rest ends, and a provider that then works is used like any other.
        #[test]
        fn no_rest_is_for_good(steps in proptest::collection::vec((0u8..3, any::<u64>()), 0..60)) {
            let mut breaker = Breaker::default();
            for (step, now_ms) in steps {
                match step {
                    0 => drop(breaker.admit(now_ms, 0)),
                    1 => breaker.failed(now_ms),
                    _ => breaker.succeeded(),
                }
                prop_assert!(breaker.rests_ms(u64::MAX, 0).is_none());
                if let Some(left) = breaker.rests_ms(now_ms, 0) {
                    prop_assert!(breaker.rests_ms(now_ms.saturating_add(left), 0).is_none());
                }
            }
            prop_assert!(breaker.admit(u64::MAX, 0));
            breaker.succeeded();
            prop_assert_eq!(breaker, Breaker::default());
        }
    }
}
