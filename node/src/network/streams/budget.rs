//! What one peer may have open here.

use super::StreamLimits;
use crate::network::{
    Protocol,
    token_bucket::{Rate, TokenBucket},
};
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// Counts the inbound streams of one peer over all its connections, and the rate of new ones.
#[derive(Debug)]
pub(super) struct PeerBudget {
    limits: StreamLimits,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    live: [usize; Protocol::ALL.len()],
    opens: TokenBucket,
}

/// The place of one inbound stream in the budget of its peer and of its connection; dropping it frees both.
#[derive(Debug)]
pub(super) struct Slot {
    budget: Arc<PeerBudget>,
    protocol: Protocol,
    _connection: Arc<()>,
}

impl PeerBudget {
    pub(super) fn new(limits: StreamLimits, now: Instant) -> Self {
        let opens = TokenBucket::full(Self::rate(&limits), now);
        Self { limits, state: Mutex::new(State { live: [0; Protocol::ALL.len()], opens }) }
    }

    /// Admits one more stream, or says no. `connection` is cloned into every slot of the connection, so its strong
    /// count is the number of live streams there, plus one.
    pub(super) fn admit(self: &Arc<Self>, protocol: Protocol, connection: &Arc<()>, now: Instant) -> Option<Slot> {
        let limits = &self.limits;
        let mut state = self.lock();
        // The rate is charged first: streams that are opened only to be refused count as well.
        let admitted = state.opens.take(Self::rate(limits), 1.0, now)
            && Arc::strong_count(connection) <= limits.per_connection
            && state.live.iter().sum::<usize>() < limits.per_peer
            && state.live[protocol as usize] < limits.per_protocol;
        admitted.then(|| {
            state.live[protocol as usize] += 1;
            Slot { budget: Arc::clone(self), protocol, _connection: Arc::clone(connection) }
        })
    }

    /// Streams that live now.
    pub(super) fn live(&self) -> usize {
        self.lock().live.iter().sum()
    }

    /// Whether forgetting the peer would give it nothing.
    pub(super) fn is_rested(&self, now: Instant) -> bool {
        let mut state = self.lock();
        state.live.iter().all(|&live| live == 0) && state.opens.is_full(Self::rate(&self.limits), now)
    }

    fn rate(limits: &StreamLimits) -> Rate {
        Rate { burst: f64::from(limits.burst), per_second: f64::from(limits.per_second) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.budget.lock().live[self.protocol as usize] -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const LIMITS: StreamLimits = StreamLimits {
        per_connection: 3,
        per_peer: 5,
        per_protocol: 2,
        burst: 100,
        per_second: 1,
        negotiation_timeout: Duration::from_secs(1),
    };

    #[test]
    fn bounds_protocol_connection_and_peer_and_frees_on_drop() {
        let now = Instant::now();
        let budget = Arc::new(PeerBudget::new(LIMITS, now));
        let (one, two) = (Arc::new(()), Arc::new(()));
        let mut slots: Vec<Slot> = (0..9).filter_map(|_| budget.admit(Protocol::Offer, &one, now)).collect();
        assert_eq!(slots.len(), LIMITS.per_protocol);
        slots.extend((0..9).filter_map(|_| budget.admit(Protocol::Quote, &one, now)));
        assert_eq!(slots.len(), LIMITS.per_connection);
        slots.extend((0..9).filter_map(|_| budget.admit(Protocol::Quote, &two, now)));
        slots.extend((0..9).filter_map(|_| budget.admit(Protocol::Job, &two, now)));
        assert_eq!((slots.len(), budget.live()), (LIMITS.per_peer, LIMITS.per_peer));

        slots.remove(0);
        assert_eq!(budget.live(), LIMITS.per_peer - 1);
        assert!(budget.admit(Protocol::Offer, &one, now).is_some());
        slots.clear();
        assert_eq!(budget.live(), 0);
        assert_eq!((Arc::strong_count(&one), Arc::strong_count(&two)), (1, 1));
    }

    #[test]
    fn bounds_the_rate_even_of_streams_that_end_at_once() {
        let now = Instant::now();
        let budget = Arc::new(PeerBudget::new(LIMITS, now));
        let connection = Arc::new(());
        let open = |at| (0..10_000).filter(|_| budget.admit(Protocol::Job, &connection, at).is_some()).count();
        assert_eq!(open(now), 100);
        assert!(!budget.is_rested(now));
        assert_eq!(open(now + Duration::from_secs(7)), 7);
        assert!(budget.is_rested(now + Duration::from_secs(200)));
    }
}
