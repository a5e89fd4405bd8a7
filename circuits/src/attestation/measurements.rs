//! The measurements that a policy allows.

use crate::{
    attestation::attributes::Measurement,
    gadgets::merkle::{Path, Tree},
};
use ark_bn254::Fr;

/// Levels of the tree over an allow-list.
pub const LIST_DEPTH: usize = 12;
/// The most measurements that a list has.
pub const MAX_MEASUREMENTS: usize = 1 << LIST_DEPTH;

/// Allowed measurements as a Merkle tree.
#[derive(Debug, Clone)]
pub struct AllowList {
    measurements: Vec<Measurement>,
    tree: Tree,
}

impl AllowList {
    /// The list of these measurements, in any order, each counted once; none where there is none or more than
    /// [`MAX_MEASUREMENTS`].
    pub fn new(mut measurements: Vec<Measurement>) -> Option<Self> {
        measurements.sort_unstable();
        measurements.dedup();
        if measurements.is_empty() {
            return None;
        }
        let tree = Tree::new(measurements.iter().map(Measurement::element).collect(), LIST_DEPTH)?;
        Some(Self { measurements, tree })
    }

    /// True where `measurement` is allowed.
    pub fn contains(&self, measurement: &Measurement) -> bool {
        self.measurements.binary_search(measurement).is_ok()
    }

    /// The root, which a proof is about.
    pub fn root(&self) -> Fr {
        self.tree.root()
    }

    pub(crate) fn path(&self, measurement: &Measurement) -> Option<Path> {
        self.tree.path(self.measurements.binary_search(measurement).ok()?)
    }
}
