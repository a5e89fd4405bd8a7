//! Merkle trees of fixed depth: leaves, inner nodes and empty places have domains of their own.

use crate::gadgets::{
    curve::choice,
    poseidon::{Domain, hash, hash_in_circuit},
};
use ark_bn254::Fr;
use ark_r1cs_std::{alloc::AllocVar, boolean::Boolean, fields::fp::FpVar};
use ark_relations::gr1cs::{ConstraintSystemRef, SynthesisError};

/// A tree over up to `2^depth` leaves, which are hashes already. Empty places hold a hash of the padding domain, which
/// nobody can show a preimage of in the leaf's domain.
#[derive(Debug, Clone)]
pub struct Tree {
    /// From the leaves up, without what is empty.
    layers: Vec<Vec<Fr>>,
    /// What an empty place of each layer holds.
    empty: Vec<Fr>,
}

/// The way from a leaf to the root.
#[derive(Debug, Clone)]
pub struct Path {
    /// The leaf's place.
    pub index: usize,
    /// The neighbour at each level, from the leaf's up.
    pub siblings: Vec<Fr>,
}

impl Tree {
    /// The tree of `leaves`; none where there are more than fit.
    pub fn new(leaves: Vec<Fr>, depth: usize) -> Option<Self> {
        if leaves.len() > 1 << depth {
            return None;
        }
        let mut empty = vec![hash(Domain::Padding, &[])];
        let mut layers = vec![leaves];
        for level in 0..depth {
            let nothing = empty[level];
            empty.push(hash(Domain::Node, &[nothing, nothing]));
            let above = layers[level]
                .chunks(2)
                .map(|pair| hash(Domain::Node, &[pair[0], pair.get(1).copied().unwrap_or(nothing)]))
                .collect();
            layers.push(above);
        }
        Some(Self { layers, empty })
    }

    /// The root.
    pub fn root(&self) -> Fr {
        let depth = self.empty.len() - 1;
        self.layers[depth].first().copied().unwrap_or(self.empty[depth])
    }

    /// The path of the leaf at `index`; none where nothing is.
    pub fn path(&self, index: usize) -> Option<Path> {
        self.layers[0].get(index)?;
        let depth = self.empty.len() - 1;
        let sibling =
            |level: usize| self.layers[level].get((index >> level) ^ 1).copied().unwrap_or(self.empty[level]);
        Some(Path { index, siblings: (0..depth).map(sibling).collect() })
    }

    /// Where `leaf` stands.
    pub fn position(&self, leaf: &Fr) -> Option<usize> {
        self.layers[0].iter().position(|other| other == leaf)
    }
}

/// The root above `leaf`, its place and neighbours private; 242 constraints a level.
pub fn root_in_circuit(
    cs: &ConstraintSystemRef<Fr>,
    leaf: FpVar<Fr>,
    path: &Path,
) -> Result<FpVar<Fr>, SynthesisError> {
    let mut node = leaf;
    for (level, sibling) in path.siblings.iter().enumerate() {
        let right = Boolean::new_witness(cs.clone(), || Ok((path.index >> level) & 1 == 1))?;
        let sibling = FpVar::new_witness(cs.clone(), || Ok(*sibling))?;
        let left = choice(&FpVar::from(right), &sibling, &node);
        let other = &node + &sibling - &left;
        node = hash_in_circuit(Domain::Node, &[left, other])?;
    }
    Ok(node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ark_r1cs_std::GR1CSVar;
    use ark_relations::gr1cs::ConstraintSystem;

    fn leaves(count: u64) -> Vec<Fr> {
        (0..count).map(|leaf| hash(Domain::Measurement, &[Fr::from(leaf)])).collect()
    }

    #[test]
    fn every_leaf_leads_to_the_root() {
        for count in [1, 2, 5, 8] {
            let leaves = leaves(count);
            let tree = Tree::new(leaves.clone(), 3).unwrap();
            for (index, leaf) in leaves.iter().enumerate() {
                let cs = ConstraintSystem::new_ref();
                let variable = FpVar::new_witness(cs.clone(), || Ok(*leaf)).unwrap();
                let root = root_in_circuit(&cs, variable, &tree.path(index).unwrap()).unwrap();
                assert_eq!(root.value().unwrap(), tree.root());
                assert!(cs.is_satisfied().unwrap());
            }
            assert!(tree.path(leaves.len()).is_none());
        }
    }

    #[test]
    fn a_tree_has_room_for_so_many() {
        assert!(Tree::new(leaves(9), 3).is_none());
        let empty = Tree::new(Vec::new(), 3).unwrap();
        assert_ne!(empty.root(), Tree::new(leaves(1), 3).unwrap().root());
    }

    #[test]
    fn order_counts_and_padding_is_no_leaf() {
        let mut swapped = leaves(2);
        swapped.reverse();
        assert_ne!(Tree::new(swapped, 3).unwrap().root(), Tree::new(leaves(2), 3).unwrap().root());
        let padding = Tree::new(vec![hash(Domain::Measurement, &[])], 3).unwrap();
        assert_ne!(padding.root(), Tree::new(Vec::new(), 3).unwrap().root());
    }
}
