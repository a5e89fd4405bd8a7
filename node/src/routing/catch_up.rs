//! Whom to ask for the offers of the neighbourhood, and when.
//!
//! Gossip brings what is said while a node listens. What was said before comes again after ten minutes on the coarse
//! topics, and what is said while subscriptions still travel is lost: so a node that knows too few offers asks its
//! peers what they have heard.

use crate::draw::draw;
use aitbc_protocol::{NodeId, UnixMillis};
use std::collections::{BTreeMap, BTreeSet};

/// Time until the next question once everybody connected was asked, in milliseconds, doubled from the first to the
/// last: in a network that is starting, who knows nothing yet knows it in a moment.
const FIRST_PAUSE_MS: u64 = 2_000;
const LAST_PAUSE_MS: u64 = 60_000;
/// Most peers remembered for answering with statements that do not hold.
const MAX_DISTRUSTED: usize = 1024;

/// Remembers who was asked when. Holds no more peers than are connected, and [`MAX_DISTRUSTED`].
#[derive(Debug)]
pub(super) struct CatchUp {
    asked: BTreeMap<NodeId, UnixMillis>,
    pause_ms: u64,
    distrusted: BTreeSet<NodeId>,
}

impl Default for CatchUp {
    fn default() -> Self {
        Self { asked: BTreeMap::new(), pause_ms: FIRST_PAUSE_MS, distrusted: BTreeSet::new() }
    }
}

impl CatchUp {
    /// The peer to ask now: one that was not asked yet, or after a pause the one that was asked longest ago.
    pub(super) fn next(&mut self, connected: &BTreeSet<NodeId>, now_ms: UnixMillis) -> Option<NodeId> {
        self.asked.retain(|peer, _| connected.contains(peer));
        let trusted = |peer: &&NodeId| !self.distrusted.contains(peer);
        let fresh = connected.iter().filter(trusted).filter(|peer| !self.asked.contains_key(peer));
        let fresh: Vec<NodeId> = fresh.copied().collect();
        let peer = if fresh.is_empty() {
            let last = self.asked.values().copied().max().unwrap_or_default();
            let oldest = *self.asked.iter().filter(|(peer, _)| trusted(peer)).min_by_key(|(_, at)| **at)?.0;
            if now_ms < last.saturating_add(self.pause_ms) {
                return None;
            }
            self.pause_ms = (2 * self.pause_ms).min(LAST_PAUSE_MS);
            oldest
        } else {
            // Any of them, so that newcomers do not all turn to the same one.
            fresh[draw::<u32>() as usize % fresh.len()]
        };
        self.asked.insert(peer, now_ms);
        Some(peer)
    }

    /// Other cells are of interest: everybody may know something new.
    pub(super) fn restart(&mut self) {
        self.asked.clear();
        self.pause_ms = FIRST_PAUSE_MS;
    }

    /// A peer answered with what does not hold: it is not asked again.
    pub(super) fn distrust(&mut self, peer: NodeId) {
        if self.distrusted.len() < MAX_DISTRUSTED {
            self.distrusted.insert(peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(numbers: &[u8]) -> BTreeSet<NodeId> {
        numbers.iter().map(|number| NodeId([*number; 32])).collect()
    }

    #[test]
    fn everybody_is_asked_once_and_then_one_after_growing_pauses() {
        let mut catch_up = CatchUp::default();
        let connected = peers(&[1, 2, 3]);
        let first: Vec<NodeId> = (0..3).filter_map(|ms| catch_up.next(&connected, ms)).collect();
        assert_eq!(first.iter().copied().collect::<BTreeSet<_>>(), connected);
        let mut asked_at = vec![2];
        for ms in (0..400_000).step_by(2) {
            if catch_up.next(&connected, ms).is_some() {
                asked_at.push(ms);
            }
        }
        let pauses: Vec<u64> = asked_at.windows(2).map(|pair| (pair[1] - pair[0]) / 1_000).collect();
        assert_eq!(pauses, [2, 4, 8, 16, 32, 60, 60, 60, 60, 60]);
        let newcomer = Some(NodeId([4; 32]));
        assert_eq!(catch_up.next(&peers(&[1, 2, 3, 4]), 400_000), newcomer, "a newcomer is asked at once");
        catch_up.restart();
        assert!(catch_up.next(&connected, 400_001).is_some());
    }

    #[test]
    fn who_was_asked_longest_ago_is_asked_next() {
        let mut catch_up = CatchUp::default();
        let connected = peers(&[1, 2]);
        let first: Vec<Option<NodeId>> = (0..2).map(|ms| catch_up.next(&connected, ms)).collect();
        let again: Vec<Option<NodeId>> = [10_000, 20_000].map(|ms| catch_up.next(&connected, ms)).into();
        assert_eq!(first, again);
    }

    #[test]
    fn who_left_is_forgotten_and_who_lied_is_not_asked() {
        let mut catch_up = CatchUp::default();
        assert_eq!(catch_up.next(&peers(&[1]), 0), Some(NodeId([1; 32])));
        assert_eq!(catch_up.next(&peers(&[]), 1_000), None);
        assert!(catch_up.asked.is_empty());
        catch_up.distrust(NodeId([1; 32]));
        assert_eq!(catch_up.next(&peers(&[1]), 2_000), None);
        assert_eq!(catch_up.next(&peers(&[1]), 200_000), None);
    }
}
