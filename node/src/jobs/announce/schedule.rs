//! When which statement is due.

use aitbc_protocol::offer::{HEARTBEAT_MS, Load};
use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;

/// An offer is renewed this long before a third of its lifetime is over.
const RENEW: Duration = Duration::from_secs(10 * 60);
/// Least time between offers whose contents differ: addresses come in bursts.
const BETWEEN_OFFERS: Duration = Duration::from_secs(2);
/// Least time before an offer is made again only because peers have come that may have missed it.
const FOR_NEWCOMERS: Duration = Duration::from_secs(30);
/// Least time between offers on the coarse topics.
const BETWEEN_COARSE: Duration = Duration::from_secs(10 * 60);
/// The same where the addresses are others than those told there: the old ones may lead nowhere.
const BETWEEN_MOVES: Duration = Duration::from_secs(10);
/// Time after which an offer that nobody heard on a coarse topic is published there again.
const UNHEARD: Duration = Duration::from_secs(2);
/// Time between heartbeats.
const HEARTBEAT: Duration = Duration::from_millis(HEARTBEAT_MS);
/// Least time between heartbeats, however the load changes.
const BETWEEN_HEARTBEATS: Duration = Duration::from_secs(2);
/// Time after a failure until the next attempt.
const RETRY: Duration = Duration::from_secs(5);

/// What is due now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// A new offer, on the finest topic.
    pub(super) offer: bool,
    /// A heartbeat; always with an offer.
    pub(super) heartbeat: bool,
}

/// Remembers what was said when, and how long it keeps.
#[derive(Debug)]
pub(super) struct Schedule {
    slots: u32,
    offered: Option<Instant>,
    /// The coarse topics, by precision.
    coarse: BTreeMap<u8, Coarse>,
    dht_owed: bool,
    beaten: Option<(Instant, Load)>,
    not_before: Option<Instant>,
    /// Something waits only for time to pass.
    next: Option<Instant>,
}

/// What was said on one coarse topic.
#[derive(Debug, Default)]
struct Coarse {
    /// When somebody last heard an offer there.
    told: Option<Instant>,
    /// When one was last published that nobody heard.
    unheard: Option<Instant>,
    /// The newest offer has not been heard there.
    owed: bool,
    /// It has other addresses than the last one heard there.
    moved: bool,
}

impl Schedule {
    /// Nothing said yet, of a provider with `slots` slots and coarse topics of these precisions.
    pub(super) fn new(slots: u32, coarse: impl IntoIterator<Item = u8>) -> Self {
        Self {
            slots,
            offered: None,
            coarse: coarse.into_iter().map(|precision| (precision, Coarse::default())).collect(),
            dht_owed: true,
            beaten: None,
            not_before: None,
            next: None,
        }
    }

    /// What is due, and (kept for [`Schedule::wake`]) when what is not will be.
    pub(super) fn due(&mut self, now: Instant, changed: bool, newcomers: bool, load: Load) -> Due {
        self.next = None;
        let offer_at = self.offered.map_or(now, |offered| {
            let after = match (changed, newcomers) {
                (true, _) => BETWEEN_OFFERS,
                (false, true) => FOR_NEWCOMERS,
                (false, false) => RENEW,
            };
            offered + after
        });
        let offer = self.reached(offer_at.max(self.not_before.unwrap_or(now)), now);
        let heartbeat_at = self.beaten.map_or(now, |(beaten, told)| {
            beaten + if self.differs_much(told, load) { BETWEEN_HEARTBEATS } else { HEARTBEAT }
        });
        let heartbeat = self.reached(heartbeat_at, now);
        Due { offer, heartbeat: heartbeat || offer }
    }

    fn reached(&mut self, at: Instant, now: Instant) -> bool {
        if at > now {
            self.next = Some(self.next.map_or(at, |next| next.min(at)));
        }
        at <= now
    }

    /// Whether others should know of a change of load at once: between free and full, or by half of all slots.
    fn differs_much(&self, told: Load, load: Load) -> bool {
        let busy = |load: Load| load.running.saturating_add(load.queued);
        let full = |load: Load| busy(load) >= self.slots;
        full(told) != full(load) || busy(told).abs_diff(busy(load)).saturating_mul(2) > self.slots
    }

    /// An offer was made, with other addresses than the one before where it has `moved`.
    pub(super) fn offered(&mut self, now: Instant, moved: bool) {
        self.offered = Some(now);
        for coarse in self.coarse.values_mut() {
            coarse.owed = true;
            coarse.moved |= moved;
        }
        self.not_before = None;
    }

    /// Something failed.
    pub(super) fn failed(&mut self, now: Instant) {
        let again = now + RETRY;
        self.not_before = Some(again);
        self.next = Some(self.next.map_or(again, |next| next.min(again)));
    }

    /// There is nothing to say until something changes: no time is waited for.
    pub(super) fn rest(&mut self) {
        self.next = None;
    }

    /// The precisions of the coarse topics to which the newest offer goes now.
    pub(super) fn coarse_due(&mut self, now: Instant) -> Vec<u8> {
        let owed = self.coarse.iter().filter(|(_, coarse)| coarse.owed);
        let dates: Vec<(u8, Instant)> = owed
            .map(|(precision, coarse)| {
                let pause = if coarse.moved { BETWEEN_MOVES } else { BETWEEN_COARSE };
                let after_told = coarse.told.map(|told| told + pause);
                let after_unheard = coarse.unheard.map(|unheard| unheard + UNHEARD);
                (*precision, after_told.max(after_unheard).unwrap_or(now))
            })
            .collect();
        dates.into_iter().filter(|(_, at)| self.reached(*at, now)).map(|(precision, _)| precision).collect()
    }

    /// It went to the topic of this precision. Where nobody heard it, it goes there again until somebody does.
    pub(super) fn told_coarsely(&mut self, precision: u8, now: Instant, heard: bool) {
        if let Some(coarse) = self.coarse.get_mut(&precision) {
            if heard {
                *coarse = Coarse { told: Some(now), ..Coarse::default() };
            } else {
                coarse.unheard = Some(now);
            }
        }
    }

    /// Whether the cells are to be announced in the DHT.
    pub(super) fn dht_due(&mut self, now: Instant) -> bool {
        let at = self.not_before.unwrap_or(now);
        self.dht_owed && self.reached(at, now)
    }

    /// The network announces the cells from now on.
    pub(super) fn in_dht(&mut self) {
        self.dht_owed = false;
    }

    /// A heartbeat told `load`.
    pub(super) fn beaten(&mut self, now: Instant, load: Load) {
        self.beaten = Some((now, load));
    }

    /// When to look again if nothing changes.
    pub(super) fn wake(&self, now: Instant) -> Instant {
        self.next.unwrap_or(now + HEARTBEAT).min(now + HEARTBEAT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Load = Load { running: 0, queued: 0 };

    fn started(slots: u32, now: Instant) -> Schedule {
        let mut schedule = Schedule::new(slots, [2, 3]);
        assert_eq!(schedule.due(now, true, false, IDLE), Due { offer: true, heartbeat: true });
        schedule.offered(now, false);
        assert_eq!(schedule.coarse_due(now), [2, 3]);
        assert!(schedule.dht_due(now));
        schedule.told_coarsely(2, now, true);
        schedule.told_coarsely(3, now, true);
        schedule.in_dht();
        schedule.beaten(now, IDLE);
        schedule
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_change_goes_out_on_the_finest_topic_soon_and_on_the_coarse_ones_later() {
        let start = Instant::now();
        let mut schedule = started(4, start);
        assert!(!schedule.due(start + seconds(1), true, false, IDLE).offer);
        assert_eq!(schedule.wake(start + seconds(1)), start + seconds(2));
        assert!(schedule.due(start + seconds(2), true, false, IDLE).offer);
        schedule.offered(start + seconds(2), false);
        assert!(schedule.coarse_due(start + seconds(2)).is_empty());
        assert_eq!(schedule.coarse_due(start + seconds(600)), [2, 3]);
    }

    #[test]
    fn an_offer_is_renewed_and_repeated_for_newcomers() {
        let start = Instant::now();
        let mut schedule = started(4, start);
        assert!(!schedule.due(start + seconds(599), false, false, IDLE).offer);
        assert!(schedule.due(start + seconds(600), false, false, IDLE).offer);
        assert!(!schedule.due(start + seconds(29), false, true, IDLE).offer);
        assert!(schedule.due(start + seconds(30), false, true, IDLE).offer);
    }

    #[test]
    fn an_offer_that_nobody_heard_is_said_again_where_nobody_did() {
        let start = Instant::now();
        let mut schedule = Schedule::new(4, [2, 3]);
        assert!(schedule.due(start, true, false, IDLE).offer);
        schedule.offered(start, false);
        assert_eq!(schedule.coarse_due(start), [2, 3]);
        schedule.told_coarsely(2, start, true);
        schedule.told_coarsely(3, start, false);
        schedule.beaten(start, IDLE);
        schedule.due(start + seconds(1), false, false, IDLE);
        assert!(schedule.coarse_due(start + seconds(1)).is_empty());
        assert_eq!(schedule.wake(start + seconds(1)), start + seconds(2));
        assert_eq!(schedule.coarse_due(start + seconds(2)), [3]);
        schedule.told_coarsely(3, start + seconds(2), true);
        assert!(schedule.coarse_due(start + seconds(4)).is_empty());
    }

    #[test]
    fn heartbeats_come_every_half_minute_and_sooner_when_the_load_changes_much() {
        let start = Instant::now();
        let mut schedule = started(4, start);
        let busy = |running| Load { running, queued: 0 };
        assert!(!schedule.due(start + seconds(29), false, false, busy(1)).heartbeat);
        assert!(schedule.due(start + seconds(30), false, false, busy(1)).heartbeat);
        assert!(!schedule.due(start + seconds(1), false, false, busy(4)).heartbeat, "never within two seconds");
        assert_eq!(schedule.wake(start + seconds(1)), start + seconds(2));
        assert!(schedule.due(start + seconds(2), false, false, busy(4)).heartbeat);
    }

    #[test]
    fn who_has_nothing_to_say_does_not_wake_for_what_is_past() {
        let start = Instant::now();
        let mut schedule = Schedule::new(1, []);
        schedule.failed(start);
        schedule.rest();
        let later = start + seconds(60);
        assert!(schedule.wake(later) > later);
    }

    #[test]
    fn a_failure_is_tried_again_after_a_while() {
        let start = Instant::now();
        let mut schedule = Schedule::new(1, []);
        assert!(schedule.due(start, true, false, IDLE).offer);
        schedule.failed(start);
        assert_eq!(schedule.wake(start), start + seconds(5), "also before anything else is asked");
        assert!(!schedule.due(start + seconds(4), true, false, IDLE).offer);
        assert_eq!(schedule.wake(start + seconds(4)), start + seconds(5));
        assert!(schedule.due(start + seconds(5), true, false, IDLE).offer);
    }

    #[test]
    fn whoever_hears_coarsely_learns_soon_of_other_addresses() {
        let now = Instant::now();
        let mut schedule = started(4, now);
        schedule.offered(now + BETWEEN_OFFERS, false);
        assert!(schedule.coarse_due(now + BETWEEN_MOVES).is_empty(), "another load can wait");
        schedule.offered(now + 2 * BETWEEN_OFFERS, true);
        assert!(schedule.coarse_due(now + BETWEEN_MOVES - Duration::from_millis(1)).is_empty());
        assert_eq!(schedule.coarse_due(now + BETWEEN_MOVES), [2, 3]);
        schedule.told_coarsely(2, now + BETWEEN_MOVES, true);
        schedule.offered(now + BETWEEN_MOVES, false);
        assert_eq!(schedule.coarse_due(now + 2 * BETWEEN_MOVES), [3], "it is told of them once");
    }
}
