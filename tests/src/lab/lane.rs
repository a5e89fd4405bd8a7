//! One direction of a userspace link: which packets are lost, and when the others arrive. Pure: the clock is told.

use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::time::{Duration, Instant};

/// How long a packet may wait for its turn on a link of limited bandwidth: the buffer of a home router.
const BUFFER: Duration = Duration::from_millis(250);

/// What a link does to packets, the same each way.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Conditions {
    /// Time to the other end.
    pub delay: Duration,
    /// At most so much more, drawn for each packet; the order is kept.
    pub jitter: Duration,
    /// Part of the packets that is lost, 0 to 1.
    pub loss: f64,
    /// Bits a second; no limit if not set.
    pub bandwidth: Option<u64>,
}

/// Judges the packets of one direction, in their order.
#[derive(Debug)]
pub(super) struct Lane {
    random: StdRng,
    free_at: Option<Instant>,
    last: Option<Instant>,
}

impl Lane {
    /// A lane whose draws follow from `seed`.
    pub(super) fn new(seed: u64) -> Self {
        Self { random: StdRng::seed_from_u64(seed), free_at: None, last: None }
    }

    /// When a packet that comes `now` arrives at the other end; `None` if it is lost.
    pub(super) fn arrival(&mut self, conditions: &Conditions, now: Instant, bytes: usize) -> Option<Instant> {
        // Both draws are made for every packet, so that the same ones are lost with and without jitter.
        let lost = self.random.random::<f64>() < conditions.loss;
        let late = conditions.jitter.mul_f64(self.random.random());
        if lost {
            return None;
        }
        let mut sent = now;
        if let Some(bandwidth) = conditions.bandwidth {
            let start = self.free_at.map_or(now, |free_at| free_at.max(now));
            if start.duration_since(now) > BUFFER {
                return None;
            }
            sent = start + Duration::from_secs_f64(bytes as f64 * 8.0 / bandwidth as f64);
            self.free_at = Some(sent);
        }
        let arrival = sent + conditions.delay + late;
        let arrival = self.last.map_or(arrival, |last| last.max(arrival));
        self.last = Some(arrival);
        Some(arrival)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    fn lost(seed: u64, conditions: &Conditions) -> Vec<bool> {
        let (mut lane, now) = (Lane::new(seed), Instant::now());
        (0..1000).map(|_| lane.arrival(conditions, now, 100).is_none()).collect()
    }

    #[test]
    fn a_seed_decides_which_packets_are_lost() {
        let conditions = Conditions { loss: 0.1, ..Conditions::default() };
        let jittery = Conditions { jitter: 5 * MILLISECOND, ..conditions };
        assert_eq!(lost(1, &conditions), lost(1, &jittery));
        assert_ne!(lost(1, &conditions), lost(2, &conditions));
        let count = lost(1, &conditions).into_iter().filter(|lost| *lost).count();
        assert!((70..130).contains(&count), "{count} of 1000 with a loss of 10 %");
    }

    #[test]
    fn jitter_stays_within_its_bound_and_keeps_the_order() {
        let conditions = Conditions { delay: 20 * MILLISECOND, jitter: 10 * MILLISECOND, ..Conditions::default() };
        let (mut lane, start) = (Lane::new(7), Instant::now());
        let mut last = start;
        for number in 0..1000_u32 {
            let now = start + number * MILLISECOND;
            let arrival = lane.arrival(&conditions, now, 100).expect("nothing is lost");
            assert!(arrival >= now + 20 * MILLISECOND && arrival <= now + 30 * MILLISECOND);
            assert!(arrival >= last);
            last = arrival;
        }
    }

    #[test]
    fn bandwidth_spaces_packets_and_a_full_buffer_loses_them() {
        let conditions = Conditions { bandwidth: Some(1_000_000), ..Conditions::default() };
        let (mut lane, now) = (Lane::new(7), Instant::now());
        let arrivals: Vec<_> = (0..100).map(|_| lane.arrival(&conditions, now, 1250)).collect();
        // 1,250 bytes take 10 ms; the one that would wait longer than the buffer is lost, and all after it.
        let taken = arrivals.iter().flatten().count();
        assert_eq!(taken, 26);
        for (number, arrival) in (1_u32..).zip(arrivals.iter().flatten()) {
            assert_eq!(*arrival - now, number * 10 * MILLISECOND);
        }
        let later = lane.arrival(&conditions, now + Duration::from_secs(1), 1250);
        assert_eq!(later, Some(now + Duration::from_millis(1010)));
    }
}
