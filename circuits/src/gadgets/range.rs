//! Numbers of few bits.

use ark_bn254::Fr;
use ark_r1cs_std::{boolean::Boolean, fields::fp::FpVar};
use ark_relations::gr1cs::SynthesisError;

/// Bits of a time in seconds since 1970: until the year 36,812.
pub const TIME_BITS: usize = 40;
/// Bits of a score in thousandths.
pub const SCORE_BITS: usize = 16;
/// Bits of a mask of evidence kinds.
pub const KINDS_BITS: usize = 16;

/// The bits of `value`, which has no more than `bits` of them; `bits + 1` constraints.
pub fn decompose(value: &FpVar<Fr>, bits: usize) -> Result<Vec<Boolean<Fr>>, SynthesisError> {
    Ok(value.to_bits_le_with_top_bits_zero(bits)?.0)
}

/// `left >= right`, where both are known to have no more than `bits` bits; `bits + 1` constraints. Sound because a
/// negative difference is a number close to the field's modulus.
pub fn enforce_at_least(left: &FpVar<Fr>, right: &FpVar<Fr>, bits: usize) -> Result<(), SynthesisError> {
    decompose(&(left - right), bits)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ark_r1cs_std::alloc::AllocVar;
    use ark_relations::gr1cs::ConstraintSystem;

    fn holds(left: Fr, right: Fr, bits: usize) -> bool {
        let cs = ConstraintSystem::new_ref();
        let variable = |value| FpVar::new_witness(cs.clone(), || Ok(value)).unwrap();
        enforce_at_least(&variable(left), &variable(right), bits).unwrap();
        cs.is_satisfied().unwrap()
    }

    #[test]
    fn comparisons_hold_at_their_edges_only() {
        assert!(holds(Fr::from(7), Fr::from(7), 16));
        assert!(holds(Fr::from(65_535), Fr::from(0), 16));
        assert!(!holds(Fr::from(6), Fr::from(7), 16));
        assert!(!holds(Fr::from(65_536), Fr::from(0), 16));
        assert!(!holds(Fr::from(0), Fr::from(1), 40));
    }
}
