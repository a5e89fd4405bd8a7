//! What others say of providers: their observations of the last day, bounded.

use aitbc_protocol::{
    Digest, NodeId, UnixMillis,
    qos::{Observation, Served, WINDOW_MS},
};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

/// Most observations kept; those of strangers give way first, the oldest of them before all.
const MAX_KEPT: usize = 8192;
/// Most of one author about one provider; the oldest gives way.
const MAX_OF_PAIR: usize = 16;
/// Most authors about one provider.
const MAX_AUTHORS: usize = 64;

/// One observation, as far as it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) at_ms: UnixMillis,
    pub(super) receipt: Digest,
    pub(super) total: u64,
    pub(super) latency: Option<u32>,
    pub(super) verified: Option<bool>,
    /// Slots heard, and slots of the author's window.
    pub(super) uptime: Option<(u16, u16)>,
}

impl Told {
    pub(super) fn of(said: &Observation, served: &Served) -> Self {
        Self {
            at_ms: said.issued_ms,
            receipt: served.receipt,
            total: served.total.0,
            latency: said.latency(),
            verified: said.verified,
            uptime: said.uptime.map(|uptime| (uptime.heard, uptime.of)),
        }
    }
}

/// Observations by provider and author.
#[derive(Debug, Default)]
pub(super) struct Said {
    providers: HashMap<NodeId, BTreeMap<NodeId, VecDeque<Told>>>,
    receipts: HashSet<Digest>,
}

impl Said {
    /// Whether there is an observation of this job already.
    pub(super) fn knows(&self, receipt: &Digest) -> bool {
        self.receipts.contains(receipt)
    }

    /// Keeps an observation of a job that is not known yet; `known` tells whose word counts for more than a stranger's. False
    /// where there is no room.
    pub(super) fn take(
        &mut self,
        provider: NodeId,
        author: NodeId,
        told: Told,
        known: impl Fn(&NodeId) -> bool,
    ) -> bool {
        let authors = self.providers.get(&provider);
        let crowded =
            authors.is_some_and(|authors| !authors.contains_key(&author) && authors.len() >= MAX_AUTHORS);
        let full = self.receipts.len() >= MAX_KEPT;
        if (crowded && !self.make_room(Some(&provider), &author, &known))
            || (full && !self.make_room(None, &author, &known))
        {
            return false;
        }
        let told_before = self.providers.entry(provider).or_default().entry(author).or_default();
        if told_before.len() >= MAX_OF_PAIR
            && let Some(oldest) = told_before.pop_front()
        {
            self.receipts.remove(&oldest.receipt);
        }
        told_before.push_back(told);
        self.receipts.insert(told.receipt);
        true
    }

    /// Drops all that the stranger said about one provider (`about`, or any) whose last word there is the oldest; false where
    /// all others are known.
    fn make_room(&mut self, about: Option<&NodeId>, newcomer: &NodeId, known: impl Fn(&NodeId) -> bool) -> bool {
        let pairs = self.providers.iter().filter(|(provider, _)| about.is_none_or(|about| about == *provider));
        let pairs = pairs.flat_map(|(provider, authors)| {
            authors
                .iter()
                .map(move |(author, told)| (*provider, *author, told.back().map_or(0, |told| told.at_ms)))
        });
        let oldest = pairs.filter(|(_, author, _)| author != newcomer && !known(author)).min_by_key(|pair| pair.2);
        let Some((provider, author, _)) = oldest else { return false };
        let dropped = self.providers.get_mut(&provider).and_then(|authors| authors.remove(&author));
        for told in dropped.into_iter().flatten() {
            self.receipts.remove(&told.receipt);
        }
        true
    }

    /// Forgets what is older than a day.
    pub(super) fn expire(&mut self, now_ms: UnixMillis) {
        let receipts = &mut self.receipts;
        self.providers.retain(|_, authors| {
            authors.retain(|_, told| {
                told.retain(|told| {
                    let fresh = told.at_ms.saturating_add(WINDOW_MS) > now_ms;
                    if !fresh {
                        receipts.remove(&told.receipt);
                    }
                    fresh
                });
                !told.is_empty()
            });
            !authors.is_empty()
        });
    }

    /// What is said about a provider, by author.
    pub(super) fn about(&self, provider: &NodeId) -> Option<&BTreeMap<NodeId, VecDeque<Told>>> {
        self.providers.get(provider)
    }

    /// Everybody of whom something is said.
    pub(super) fn providers(&self) -> impl Iterator<Item = NodeId> {
        self.providers.keys().copied()
    }

    /// What authors have paid providers, by their own word and the providers'.
    pub(super) fn paid(&self) -> BTreeMap<(NodeId, NodeId), u64> {
        let mut paid = BTreeMap::new();
        for (provider, authors) in &self.providers {
            for (author, told) in authors {
                let sum = told.iter().fold(0u64, |sum, told| sum.saturating_add(told.total));
                paid.insert((*author, *provider), sum);
            }
        }
        paid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    fn node(n: u64) -> NodeId {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&n.to_le_bytes());
        NodeId(id)
    }

    fn told(n: u64, at_ms: u64) -> Told {
        let mut receipt = [0; 32];
        receipt[..8].copy_from_slice(&n.to_le_bytes());
        Told { at_ms, receipt: Digest(receipt), total: 10, latency: Some(1), verified: None, uptime: None }
    }

    #[test]
    fn an_author_keeps_its_newest_and_all_is_forgotten_after_a_day() {
        let mut said = Said::default();
        for n in 0..40 {
            assert!(said.take(node(1), node(2), told(n, NOW + n), |_| false));
        }
        let kept = &said.about(&node(1)).unwrap()[&node(2)];
        assert_eq!((kept.len(), kept[0].at_ms), (MAX_OF_PAIR, NOW + 24));
        assert!(said.knows(&told(39, 0).receipt) && !said.knows(&told(0, 0).receipt));
        assert_eq!(said.paid(), BTreeMap::from([((node(2), node(1)), 160)]));
        said.expire(NOW + WINDOW_MS + 39);
        assert!(said.about(&node(1)).is_none() && said.receipts.is_empty());
    }

    #[test]
    fn strangers_give_way_and_those_i_have_dealt_with_do_not() {
        let mut said = Said::default();
        let known = |author: &NodeId| *author == node(7);
        assert!(said.take(node(1), node(7), told(0, NOW), known));
        for n in 0..200 {
            assert!(said.take(node(1), node(100 + n), told(1 + n, NOW + n), known));
        }
        let authors = said.about(&node(1)).unwrap();
        assert_eq!(authors.len(), MAX_AUTHORS);
        assert!(authors.contains_key(&node(7)) && authors.contains_key(&node(299)));
        assert_eq!(said.receipts.len(), MAX_AUTHORS);
        let mut crowd = Said::default();
        for n in 0..MAX_AUTHORS as u64 {
            assert!(crowd.take(node(1), node(n + 2), told(n, NOW), |_| true));
        }
        assert!(!crowd.take(node(1), node(999), told(999, NOW), |_| true), "no room among those who are known");
    }

    #[test]
    fn memory_is_bounded_over_all_providers() {
        let mut said = Said::default();
        for n in 0..MAX_KEPT as u64 + 50 {
            said.take(node(n / 32), node(100_000 + n), told(n, NOW), |_| false);
        }
        assert_eq!(said.receipts.len(), MAX_KEPT);
        let kept: usize = said.providers.values().flat_map(BTreeMap::values).map(VecDeque::len).sum();
        assert_eq!(kept, MAX_KEPT);
    }
}
