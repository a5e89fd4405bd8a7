//! What happens when: everything on its way through the simulated network, in order of its time and then of its posting.

use std::{cmp::Reverse, collections::BinaryHeap};
use tokio::time::Instant;

struct Posted<T> {
    at: Instant,
    number: u64,
    what: T,
}

impl<T> PartialEq for Posted<T> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl<T> Eq for Posted<T> {}

impl<T> PartialOrd for Posted<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Posted<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// Everything on its way.
pub(super) struct Post<T> {
    waiting: BinaryHeap<Reverse<Posted<T>>>,
    posted: u64,
}

impl<T> Default for Post<T> {
    fn default() -> Self {
        Self { waiting: BinaryHeap::new(), posted: 0 }
    }
}

impl<T> Post<T> {
    /// Has `what` happen at `at`.
    pub(super) fn post(&mut self, at: Instant, what: T) {
        self.posted += 1;
        self.waiting.push(Reverse(Posted { at, number: self.posted, what }));
    }

    /// When something happens next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.waiting.peek().map(|Reverse(posted)| posted.at)
    }

    /// What is due.
    pub(super) fn due(&mut self, now: Instant) -> Option<T> {
        if self.next().is_none_or(|next| next > now) {
            return None;
        }
        self.waiting.pop().map(|Reverse(posted)| posted.what)
    }
}
