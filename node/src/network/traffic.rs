//! What goes over this node's connections: counted below the protocols, and how much of it in the last second.

use prometheus_client::metrics::counter::Counter;
use serde::Serialize;
use std::time::{Duration, Instant};

/// Time over which rates are taken.
const INTERVAL: Duration = Duration::from_secs(1);

/// Bytes of all streams since the start, those of relayed connections once each, without the headers of transports.
#[derive(Clone, Debug, Default)]
pub(super) struct Traffic {
    pub(super) received: Counter,
    pub(super) sent: Counter,
}

/// What went over this node's connections in the last second or so, in bytes a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TrafficRates {
    /// Towards this node.
    pub received: u64,
    /// Away from it.
    pub sent: u64,
}

/// Makes rates out of counters.
#[derive(Debug)]
pub(super) struct Sampler {
    traffic: Traffic,
    at: Instant,
    received: u64,
    sent: u64,
}

impl Sampler {
    pub(super) fn new(traffic: Traffic, now: Instant) -> Self {
        let (received, sent) = (traffic.received.get(), traffic.sent.get());
        Self { traffic, at: now, received, sent }
    }

    /// The rates since the last time that it told some; nothing before a second is over.
    pub(super) fn sample(&mut self, now: Instant) -> Option<TrafficRates> {
        let passed = now.saturating_duration_since(self.at);
        if passed < INTERVAL {
            return None;
        }
        let (received, sent) = (self.traffic.received.get(), self.traffic.sent.get());
        // Casts of floating point saturate.
        let rate = |now: u64, before: u64| (now.saturating_sub(before) as f64 / passed.as_secs_f64()) as u64;
        let rates = TrafficRates { received: rate(received, self.received), sent: rate(sent, self.sent) };
        (self.at, self.received, self.sent) = (now, received, sent);
        Some(rates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_the_time_that_passed() {
        let (traffic, start) = (Traffic::default(), Instant::now());
        let mut sampler = Sampler::new(traffic.clone(), start);
        traffic.received.inc_by(3_000);
        traffic.sent.inc_by(50);
        assert_eq!(sampler.sample(start + Duration::from_millis(999)), None);
        let told = sampler.sample(start + Duration::from_millis(1_500));
        assert_eq!(told, Some(TrafficRates { received: 2_000, sent: 33 }));
        assert_eq!(sampler.sample(start + Duration::from_millis(2_500)), Some(TrafficRates::default()));
    }
}
