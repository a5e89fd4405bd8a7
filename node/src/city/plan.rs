//! Who lives in a city, where, and what its hour is like. All of it follows from a seed.

use crate::network::simulated::Home;
use aitbc_crypto::SecretKey;
use aitbc_protocol::geo::Location;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use std::{net::Ipv4Addr, time::Duration};

/// Towns far enough from each other that nobody hears the heartbeats of another one.
const TOWNS: [(f64, f64); 6] =
    [(48.85, 2.35), (52.52, 13.40), (40.42, -3.70), (41.90, 12.50), (52.23, 21.01), (59.33, 18.07)];
/// How far from its town's centre somebody lives at the most, in degrees.
const OUTSKIRTS: f64 = 0.05;

/// What somebody is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    /// Buys.
    Client,
    /// Sells, and keeps its word.
    Honest,
    /// Says that it is ten times as fast as it is.
    Slow,
    /// Says that it is idle, takes more jobs than it can do, lies about when answers began, and now and then signs a
    /// price outside the rule.
    Lying,
    /// Serves badly, and has a ring that praises it for jobs that never were.
    Colluding,
    /// Loses a third of its jobs without a word.
    Failing,
}

/// How a city is set up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    /// How many of [`TOWNS`] there are.
    pub(super) towns: usize,
    /// Providers of each kind.
    pub(super) honest: usize,
    pub(super) slow: usize,
    pub(super) lying: usize,
    pub(super) colluding: usize,
    pub(super) failing: usize,
    pub(super) clients: usize,
    /// Those who praise the colluding, and never ask for work.
    pub(super) ring: usize,
    /// How long it lasts.
    pub(super) lasts: Duration,
    /// The mean pause between two jobs of the whole city in milliseconds: in its first, second and last third.
    pub(super) pauses_ms: [u64; 3],
    /// How many of a thousand providers leave within an hour; others come in their place.
    pub(super) leaving: u64,
}

/// What happens in a city.
#[derive(Clone, Copy, Debug)]
pub(super) enum Happening {
    /// A client asks for an answer of so many tokens to a prompt of so many.
    Asks { client: usize, prompt: u32, answer: u32 },
    /// Some provider leaves; which one, a number tells.
    Leaves(u64),
}

impl Plan {
    /// Two hundred nodes, of which forty collude.
    pub(super) fn two_hundred(seed: u64) -> Self {
        Self {
            seed,
            towns: TOWNS.len(),
            honest: 39,
            slow: 3,
            lying: 3,
            colluding: 12,
            failing: 3,
            clients: 112,
            ring: 28,
            lasts: Duration::from_secs(3_600),
            pauses_ms: [3_000, 800, 3_000],
            leaving: 0,
        }
    }

    /// The providers of the first hour, so that each kind lives in as many towns as it can.
    pub(super) fn providers(&self) -> Vec<Kind> {
        let kinds = [
            (Kind::Honest, self.honest),
            (Kind::Slow, self.slow),
            (Kind::Lying, self.lying),
            (Kind::Colluding, self.colluding),
            (Kind::Failing, self.failing),
        ];
        kinds.into_iter().flat_map(|(kind, count)| std::iter::repeat_n(kind, count)).collect()
    }

    /// Where the `number`th node lives.
    pub(super) fn home(&self, number: usize) -> (usize, Home) {
        let town = number % self.towns;
        let (latitude, longitude) = TOWNS[town];
        let mut random = StdRng::seed_from_u64(self.seed ^ (number as u64) << 20);
        let mut near = |centre: f64| centre + random.random_range(-OUTSKIRTS..OUTSKIRTS);
        let location = Location::new(near(latitude), near(longitude)).expect("a place on earth");
        let ip = Ipv4Addr::new(81, town as u8, (number / 250) as u8, (number % 250) as u8 + 1);
        (town, Home { location, ip, tongue: None })
    }

    /// The key of the `number`th node or member of the ring.
    pub(super) fn key(&self, number: usize) -> SecretKey {
        let mut random = StdRng::seed_from_u64(self.seed.wrapping_mul(1_000_003) + number as u64);
        SecretKey::from_bytes(&random.random::<[u8; 32]>())
    }

    /// Everything that happens, by when.
    pub(super) fn happenings(&self) -> Vec<(Duration, Happening)> {
        let mut random = StdRng::seed_from_u64(self.seed + 1);
        let lasts_ms = self.lasts.as_millis() as u64;
        let mut all = Vec::new();
        let mut at_ms = 0;
        loop {
            let third = (3 * at_ms / lasts_ms) as usize;
            at_ms += pause(&mut random, self.pauses_ms[third.min(2)]);
            if at_ms >= lasts_ms {
                break;
            }
            let client = random.random_range(0..self.clients);
            let (prompt, answer) = (random.random_range(20..400), random.random_range(20..300));
            all.push((Duration::from_millis(at_ms), Happening::Asks { client, prompt, answer }));
        }
        if self.leaving > 0 {
            let mean_ms = 3_600_000 * 1_000 / (self.providers().len() as u64 * self.leaving);
            let mut at_ms = pause(&mut random, mean_ms);
            while at_ms < lasts_ms {
                all.push((Duration::from_millis(at_ms), Happening::Leaves(random.random())));
                at_ms += pause(&mut random, mean_ms);
            }
        }
        all.sort_by_key(|(at, _)| *at);
        all
    }
}

/// Time to the next event of those that come every `mean_ms` on average and do not know of each other.
fn pause(random: &mut StdRng, mean_ms: u64) -> u64 {
    let unit: f64 = random.random();
    (-(1.0 - unit).ln() * mean_ms as f64) as u64 + 1
}
