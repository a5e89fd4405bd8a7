//! Faults that this node has verified, and for how long each costs something.

use aitbc_protocol::{
    CLOCK_TOLERANCE_MS, NodeId, UnixMillis,
    evidence::{Fault, Slashed},
};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};

/// Most nodes of which faults are known.
pub(super) const MAX_CONVICTED: usize = 4096;

/// A fault that this node has verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct KnownFault {
    /// What.
    #[serde(flatten)]
    pub slashed: Slashed,
    /// When this node learnt of it.
    pub learned_ms: UnixMillis,
    /// Whether it costs anything now.
    pub stands: bool,
}

fn until_ms(fault: Fault, learned_ms: UnixMillis) -> UnixMillis {
    learned_ms.saturating_add(fault.penalty().excluded_ms)
}

/// When this node learnt of which fault of whom.
#[derive(Debug, Default)]
pub(super) struct Faults(HashMap<NodeId, BTreeMap<Fault, UnixMillis>>);

impl Faults {
    /// Whether evidence counts now whose newest statement says to be of `signed_ms`: the first of its kind does, and once its
    /// time is over whatever was signed after it had been learnt of. The same evidence does not count twice.
    pub(super) fn counts(
        &self,
        node: &NodeId,
        fault: Fault,
        signed_ms: Option<UnixMillis>,
        now_ms: UnixMillis,
    ) -> bool {
        let Some(learned_ms) = self.0.get(node).and_then(|faults| faults.get(&fault)) else { return true };
        let over = until_ms(fault, *learned_ms) <= now_ms;
        over && signed_ms.is_some_and(|signed_ms| signed_ms > learned_ms.saturating_add(CLOCK_TOLERANCE_MS))
    }

    /// Takes a fault down; false where its evidence does not count. Where too many are known, somebody gives way with whom this
    /// node has nothing to do, as `matters` tells: whose time is over, or of whom it learnt first.
    pub(super) fn convict(
        &mut self,
        node: NodeId,
        fault: Fault,
        signed_ms: Option<UnixMillis>,
        now_ms: UnixMillis,
        matters: impl Fn(&NodeId) -> bool,
    ) -> bool {
        if !self.counts(&node, fault, signed_ms, now_ms) {
            return false;
        }
        if self.0.len() >= MAX_CONVICTED && !self.0.contains_key(&node) {
            let strangers = self.0.iter().filter(|(node, _)| !matters(node));
            let stands = |faults: &BTreeMap<Fault, UnixMillis>| {
                faults.iter().any(|(fault, learned_ms)| until_ms(*fault, *learned_ms) > now_ms)
            };
            let first = strangers
                .min_by_key(|(node, faults)| (stands(faults), faults.values().max().copied(), **node))
                .map(|(node, _)| *node);
            let Some(first) = first else { return false };
            self.0.remove(&first);
        }
        self.0.entry(node).or_default().insert(fault, now_ms);
        true
    }

    /// What is known of `node`, also what is over.
    pub(super) fn of(&self, node: &NodeId, now_ms: UnixMillis) -> Vec<KnownFault> {
        let known = self.0.get(node).into_iter().flatten().map(|(fault, learned_ms)| {
            let slashed = Slashed { fault: *fault, until_ms: until_ms(*fault, *learned_ms) };
            KnownFault { slashed, learned_ms: *learned_ms, stands: slashed.until_ms > now_ms }
        });
        known.collect()
    }

    /// What costs something now, and until when.
    pub(super) fn standing(&self, node: &NodeId, now_ms: UnixMillis) -> impl Iterator<Item = Slashed> {
        self.of(node, now_ms).into_iter().filter(|known| known.stands).map(|known| known.slashed)
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.0.keys().copied()
    }
}
