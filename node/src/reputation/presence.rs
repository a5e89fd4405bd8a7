//! In which parts of the last day which provider was heard.

use aitbc_protocol::{
    NodeId, UnixMillis,
    qos::{MAX_SLOTS, SLOT_MS, Uptime},
};
use std::collections::HashMap;

/// Most providers watched; those beyond are told nothing of.
const MAX_PROVIDERS: usize = 4096;
/// Words of a ring of slots: room for a window and what is left of a word.
const WORDS: usize = (MAX_SLOTS as usize).div_ceil(64) + 1;
const RING: u64 = WORDS as u64 * 64;

/// Slots of the last day, each with one bit.
#[derive(Clone, Debug, Default)]
struct Slots {
    newest: u64,
    bits: [u64; WORDS],
}

impl Slots {
    fn place(slot: u64) -> (usize, u64) {
        let place = slot % RING;
        ((place / 64) as usize, 1 << (place % 64))
    }

    fn mark(&mut self, slot: u64) {
        if slot.saturating_add(RING) <= self.newest {
            return;
        }
        if slot > self.newest {
            // What is overwritten is of a round before.
            for passed in (self.newest + 1..=slot).take(RING as usize) {
                let (word, bit) = Self::place(passed);
                self.bits[word] &= !bit;
            }
            if slot - self.newest > RING {
                self.bits = [0; WORDS];
            }
            self.newest = slot;
        }
        let (word, bit) = Self::place(slot);
        self.bits[word] |= bit;
    }

    fn has(&self, slot: u64) -> bool {
        let (word, bit) = Self::place(slot);
        slot <= self.newest && slot.saturating_add(RING) > self.newest && self.bits[word] & bit != 0
    }
}

#[derive(Clone, Debug)]
struct Track {
    first: u64,
    heard: Slots,
}

/// Who was heard when. Two megabytes at most.
#[derive(Debug, Default)]
pub(super) struct Presence {
    /// Slots in which this node was connected to anybody: in the others it can tell nothing.
    listened: Slots,
    tracks: HashMap<NodeId, Track>,
}

fn slot_of(now_ms: UnixMillis) -> u64 {
    now_ms / SLOT_MS
}

impl Presence {
    /// This node is connected to somebody.
    pub(super) fn listen(&mut self, now_ms: UnixMillis) {
        self.listened.mark(slot_of(now_ms));
    }

    /// A heartbeat came.
    pub(super) fn heard(&mut self, provider: NodeId, now_ms: UnixMillis) {
        let slot = slot_of(now_ms);
        if self.tracks.len() >= MAX_PROVIDERS && !self.tracks.contains_key(&provider) {
            self.forget(now_ms);
            if self.tracks.len() >= MAX_PROVIDERS {
                return;
            }
        }
        let track = self.tracks.entry(provider).or_insert_with(|| Track { first: slot, heard: Slots::default() });
        track.heard.mark(slot);
    }

    /// Forgets who was silent for a day.
    pub(super) fn forget(&mut self, now_ms: UnixMillis) {
        let begins = slot_of(now_ms).saturating_sub(u64::from(MAX_SLOTS));
        self.tracks.retain(|_, track| track.heard.newest >= begins);
    }

    /// In how many of the slots that are over, since it was first heard, `provider` was heard; `None` while there are none.
    pub(super) fn uptime(&self, provider: &NodeId, now_ms: UnixMillis) -> Option<Uptime> {
        let track = self.tracks.get(provider)?;
        let now = slot_of(now_ms);
        let first = track.first.max(now.saturating_sub(u64::from(MAX_SLOTS)));
        let (mut heard, mut of) = (0, 0);
        for slot in (first..now).filter(|slot| self.listened.has(*slot) || track.heard.has(*slot)) {
            of += 1;
            heard += u16::from(track.heard.has(slot));
        }
        (of > 0).then_some(Uptime { heard, of })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 1_800_000_000_000 / SLOT_MS * SLOT_MS;

    fn node(n: u32) -> NodeId {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&n.to_le_bytes());
        NodeId(id)
    }

    #[test]
    fn silence_counts_where_somebody_listened_and_only_there() {
        let mut presence = Presence::default();
        let (steady, gone) = (node(1), node(2));
        for slot in 0..20 {
            let now = NOW + slot * SLOT_MS;
            if !(10..15).contains(&slot) {
                presence.listen(now);
                presence.heard(steady, now);
            }
            if slot < 5 {
                presence.heard(gone, now);
            }
        }
        let now = NOW + 20 * SLOT_MS;
        assert_eq!(presence.uptime(&steady, now), Some(Uptime { heard: 15, of: 15 }));
        assert_eq!(presence.uptime(&gone, now), Some(Uptime { heard: 5, of: 15 }));
        assert_eq!(presence.uptime(&node(3), now), None);
    }

    #[test]
    fn a_day_later_nothing_is_left_of_it() {
        let mut presence = Presence::default();
        let provider = node(1);
        presence.heard(provider, NOW);
        presence.listen(NOW);
        assert_eq!(presence.uptime(&provider, NOW), None, "the slot is not over");
        let window = u64::from(MAX_SLOTS) * SLOT_MS;
        for slot in 1..=u64::from(MAX_SLOTS) {
            presence.listen(NOW + slot * SLOT_MS);
        }
        let all = Uptime { heard: 1, of: MAX_SLOTS };
        assert_eq!(presence.uptime(&provider, NOW + window), Some(all));
        let none = Uptime { heard: 0, of: MAX_SLOTS };
        assert_eq!(presence.uptime(&provider, NOW + window + SLOT_MS), Some(none));
        presence.forget(NOW + window + SLOT_MS);
        assert_eq!(presence.uptime(&provider, NOW + window + SLOT_MS), None);
        presence.heard(provider, NOW + 10 * window);
        let later = presence.uptime(&provider, NOW + 10 * window + SLOT_MS);
        assert_eq!(later, Some(Uptime { heard: 1, of: 1 }), "it begins anew");
    }

    #[test]
    fn memory_is_bounded() {
        let mut presence = Presence::default();
        for n in 0..MAX_PROVIDERS as u32 + 5 {
            presence.heard(node(n), NOW);
        }
        assert_eq!(presence.tracks.len(), MAX_PROVIDERS);
        presence.heard(node(u32::MAX), NOW + 2 * u64::from(MAX_SLOTS) * SLOT_MS);
        assert_eq!(presence.tracks.len(), 1, "those that were silent for a day give way");
    }

    proptest! {
        #[test]
        fn slots_keep_what_was_marked_and_nothing_else(marks in proptest::collection::vec(0..3_000u64, 1..60)) {
            let mut slots = Slots::default();
            let mut known = std::collections::BTreeSet::new();
            let mut newest = 0;
            for mark in marks {
                newest = newest.max(mark);
                slots.mark(mark);
                known.insert(mark);
                known.retain(|slot| slot + RING > newest);
            }
            for slot in newest.saturating_sub(RING - 1)..=newest {
                prop_assert_eq!(slots.has(slot), known.contains(&slot), "{}", slot);
            }
        }
    }
}
