//! A token bucket: so much at once, so much a second in the long run.

use std::time::Instant;

/// What a bucket holds and how fast it fills again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rate {
    /// Tokens in a full bucket.
    pub(crate) burst: f64,
    /// Tokens that come back a second.
    pub(crate) per_second: f64,
}

/// The tokens one peer has left. Starts full.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenBucket {
    tokens: f64,
    updated: Instant,
}

impl TokenBucket {
    /// A full bucket.
    pub(crate) fn full(rate: Rate, now: Instant) -> Self {
        Self { tokens: rate.burst, updated: now }
    }

    /// Takes `cost` tokens, or none where there are fewer.
    pub(crate) fn take(&mut self, rate: Rate, cost: f64, now: Instant) -> bool {
        self.refill(rate, now);
        let enough = self.tokens >= cost;
        if enough {
            self.tokens -= cost;
        }
        enough
    }

    /// Whether the bucket is full again, so that forgetting it gives nothing away.
    pub(crate) fn is_full(&mut self, rate: Rate, now: Instant) -> bool {
        self.refill(rate, now);
        self.tokens >= rate.burst
    }

    fn refill(&mut self, rate: Rate, now: Instant) {
        let elapsed = now.saturating_duration_since(self.updated).as_secs_f64();
        self.tokens = (self.tokens + elapsed * rate.per_second).min(rate.burst);
        self.updated = self.updated.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const RATE: Rate = Rate { burst: 3.0, per_second: 2.0 };

    #[test]
    fn lets_a_burst_through_then_the_rate() {
        let start = Instant::now();
        let mut bucket = TokenBucket::full(RATE, start);
        assert!((0..3).all(|_| bucket.take(RATE, 1.0, start)));
        assert!(!bucket.take(RATE, 1.0, start));
        let second = start + Duration::from_secs(1);
        assert!((0..2).all(|_| bucket.take(RATE, 1.0, second)));
        assert!(!bucket.take(RATE, 1.0, second));
        assert!(!bucket.is_full(RATE, second));
        assert!(bucket.is_full(RATE, second + Duration::from_secs(2)));
    }

    #[test]
    fn a_clock_that_steps_back_gives_no_tokens() {
        let start = Instant::now() + Duration::from_secs(10);
        let mut bucket = TokenBucket::full(RATE, start);
        assert!(bucket.take(RATE, 3.0, start));
        assert!(!bucket.take(RATE, 1.0, start.checked_sub(Duration::from_secs(5)).expect("uptime")));
        assert!(!bucket.take(RATE, 1.0, start));
    }
}
