//! Poseidon over the scalar field of BN254 with a state of three elements, and the hash that everything here uses.
//!
//! Grassi et al., "Poseidon: A New Hash Function for Zero-Knowledge Proof Systems" (USENIX Security 2021): 8 full and
//! 57 partial rounds, S-box x^5, constants and matrix by the Grain LFSR; the instance `poseidonperm_x5_254_3` of the
//! authors' reference code.

use ark_bn254::Fr;
use ark_crypto_primitives::sponge::poseidon::find_poseidon_ark_and_mds;
use ark_ff::{AdditiveGroup, Field};
use ark_r1cs_std::fields::{FieldVar, fp::FpVar};
use ark_relations::gr1cs::SynthesisError;
use std::sync::LazyLock;

const WIDTH: usize = 3;
const FULL_ROUNDS: usize = 8;
const PARTIAL_ROUNDS: usize = 57;
const FIELD_BITS: u64 = 254;

/// Bytes that one element takes in [`hash_bytes`].
const LIMB: usize = 16;

/// What a hash is for. The tag stands in the capacity of the sponge, so that equal inputs of two purposes never give
/// one hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Domain {
    /// A node's ed25519 key as an element.
    Peer = u64::from_be_bytes(*b"peer\0\0\0\0"),
    /// A measurement as an element; at the same time its leaf in the allow-list.
    Measurement = u64::from_be_bytes(*b"measurem"),
    /// A hardware tag as an element.
    Hardware = u64::from_be_bytes(*b"hardware"),
    /// A network's name as an element.
    Network = u64::from_be_bytes(*b"network\0"),
    /// The client's nonce and the session as an element.
    Binding = u64::from_be_bytes(*b"binding\0"),
    /// The attributes of a credential: what is signed.
    Attributes = u64::from_be_bytes(*b"attribut"),
    /// The challenge of a credential's signature.
    Credential = u64::from_be_bytes(*b"credenti"),
    /// The challenge of a proof of possession.
    Possession = u64::from_be_bytes(*b"possessi"),
    /// A verifier's key as a leaf of the set.
    VerifierLeaf = u64::from_be_bytes(*b"verifier"),
    /// An inner node of a tree.
    Node = u64::from_be_bytes(*b"node\0\0\0\0"),
    /// An empty place of a tree.
    Padding = u64::from_be_bytes(*b"padding\0"),
    /// A nullifier.
    Nullifier = u64::from_be_bytes(*b"nullifie"),
}

impl Domain {
    /// The capacity that a sponge over `length` elements starts from.
    fn capacity(self, length: usize) -> Fr {
        Fr::from((u128::from(self as u64) << 64) | length as u128)
    }
}

struct Constants {
    rounds: Vec<[Fr; WIDTH]>,
    matrix: [[Fr; WIDTH]; WIDTH],
}

static CONSTANTS: LazyLock<Constants> = LazyLock::new(|| {
    let (rounds, matrix) =
        find_poseidon_ark_and_mds::<Fr>(FIELD_BITS, WIDTH - 1, FULL_ROUNDS as u64, PARTIAL_ROUNDS as u64, 0);
    let row = |row: &Vec<Fr>| [row[0], row[1], row[2]];
    Constants {
        rounds: rounds.iter().map(row).collect(),
        matrix: [row(&matrix[0]), row(&matrix[1]), row(&matrix[2])],
    }
});

fn is_full(round: usize) -> bool {
    !(FULL_ROUNDS / 2..FULL_ROUNDS / 2 + PARTIAL_ROUNDS).contains(&round)
}

/// The permutation.
pub fn permute(state: &mut [Fr; WIDTH]) {
    let constants = &*CONSTANTS;
    for (round, added) in constants.rounds.iter().enumerate() {
        for (element, constant) in state.iter_mut().zip(added) {
            *element += constant;
        }
        let boxes = if is_full(round) { WIDTH } else { 1 };
        for element in &mut state[..boxes] {
            *element *= element.square().square();
        }
        *state = constants.matrix.map(|row| row[0] * state[0] + row[1] * state[1] + row[2] * state[2]);
    }
}

/// The hash of elements. Domain and length stand in the capacity, so an input and the same input with zeros behind it
/// differ, as arkworks' own sponge would not have it.
pub fn hash(domain: Domain, input: &[Fr]) -> Fr {
    let mut state = [domain.capacity(input.len()), Fr::ZERO, Fr::ZERO];
    let mut chunks = input.chunks(WIDTH - 1);
    absorb(&mut state, chunks.next().unwrap_or_default());
    for chunk in chunks {
        absorb(&mut state, chunk);
    }
    state[1]
}

fn absorb(state: &mut [Fr; WIDTH], chunk: &[Fr]) {
    for (element, absorbed) in state[1..].iter_mut().zip(chunk) {
        *element += absorbed;
    }
    permute(state);
}

/// The hash of bytes: their number, then 128-bit limbs, little-endian.
pub fn hash_bytes(domain: Domain, bytes: &[u8]) -> Fr {
    let mut elements = vec![Fr::from(bytes.len() as u64)];
    elements.extend(bytes.chunks(LIMB).map(|chunk| {
        let mut limb = [0; LIMB];
        limb[..chunk.len()].copy_from_slice(chunk);
        Fr::from(u128::from_le_bytes(limb))
    }));
    hash(domain, &elements)
}

/// [`hash`] in a circuit: 240 constraints for the first two elements, whose capacity is a constant, and 243 for any two
/// more.
pub fn hash_in_circuit(domain: Domain, input: &[FpVar<Fr>]) -> Result<FpVar<Fr>, SynthesisError> {
    let mut state = [FpVar::constant(domain.capacity(input.len())), FpVar::zero(), FpVar::zero()];
    let mut chunks = input.chunks(WIDTH - 1);
    absorb_in_circuit(&mut state, chunks.next().unwrap_or_default())?;
    for chunk in chunks {
        absorb_in_circuit(&mut state, chunk)?;
    }
    let [_, digest, _] = state;
    Ok(digest)
}

fn absorb_in_circuit(state: &mut [FpVar<Fr>; WIDTH], chunk: &[FpVar<Fr>]) -> Result<(), SynthesisError> {
    for (element, absorbed) in state[1..].iter_mut().zip(chunk) {
        *element += absorbed;
    }
    let constants = &*CONSTANTS;
    for (round, added) in constants.rounds.iter().enumerate() {
        for (element, constant) in state.iter_mut().zip(added) {
            *element += *constant;
        }
        let boxes = if is_full(round) { WIDTH } else { 1 };
        for element in &mut state[..boxes] {
            let fourth = element.square()?.square()?;
            // The long linear combination stands in A and the short one in B, whose part of the key is in G2.
            *element = &*element * fourth;
        }
        *state = constants.matrix.map(|row| &state[0] * row[0] + &state[1] * row[1] + &state[2] * row[2]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ark_ff::MontFp;
    use ark_r1cs_std::{GR1CSVar, alloc::AllocVar};
    use ark_relations::gr1cs::ConstraintSystem;
    use proptest::prelude::*;

    #[test]
    fn the_permutation_gives_the_published_vector() {
        // test_vectors.txt of the authors' reference code, poseidonperm_x5_254_3; the first element is circomlib's
        // poseidon([1, 2]).
        let mut state = [Fr::from(0), Fr::from(1), Fr::from(2)];
        permute(&mut state);
        assert_eq!(
            state,
            [
                MontFp!("7853200120776062878684798364095072458815029376092732009249414926327459813530"),
                MontFp!("7142104613055408817911962100316808866448378443474503659992478482890339429929"),
                MontFp!("6549537674122432311777789598043107870002137484850126429160507761192163713804"),
            ]
        );
    }

    #[test]
    fn domain_length_and_zeros_matter() {
        let one = Fr::from(1);
        let all = [
            hash(Domain::Node, &[]),
            hash(Domain::Node, &[one]),
            hash(Domain::Node, &[one, Fr::ZERO]),
            hash(Domain::Node, &[one, Fr::ZERO, Fr::ZERO]),
            hash(Domain::Padding, &[one]),
            hash_bytes(Domain::Node, &[1]),
            hash_bytes(Domain::Node, &[1, 0]),
        ];
        for (index, left) in all.iter().enumerate() {
            assert!(!all[index + 1..].contains(left), "{index}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn the_circuit_computes_the_same_hash(words in proptest::collection::vec(any::<u64>(), 0..6)) {
            let cs = ConstraintSystem::new_ref();
            let input: Vec<Fr> = words.iter().map(|word| Fr::from(*word).square()).collect();
            let variables: Vec<_> =
                input.iter().map(|element| FpVar::new_witness(cs.clone(), || Ok(*element)).unwrap()).collect();
            let digest = hash_in_circuit(Domain::Attributes, &variables).unwrap();
            prop_assert_eq!(digest.value().unwrap(), hash(Domain::Attributes, &input));
            prop_assert!(cs.is_satisfied().unwrap());
        }
    }
}
