//! Baby Jubjub, the curve over BN254's scalar field, in the form x^2 + y^2 = 1 + d x^2 y^2.
//!
//! `a = 1` is a square and `d` is not, so the addition law is complete (Bernstein and Lange, 2007): no denominator is
//! zero for points on the curve, and no exception needs a constraint.

use ark_bn254::Fr;
use ark_ec::{AffineRepr, CurveGroup, twisted_edwards::TECurveConfig};
use ark_ed_on_bn254::{EdwardsAffine, EdwardsConfig, EdwardsProjective};
use ark_ff::{AdditiveGroup, Field};
use ark_r1cs_std::{
    GR1CSVar,
    alloc::AllocVar,
    boolean::Boolean,
    eq::EqGadget,
    fields::{FieldVar, fp::FpVar},
};
use ark_relations::gr1cs::{ConstraintSystemRef, SynthesisError};
use std::sync::LazyLock;

/// Bits of a window over the generator.
const WINDOW: usize = 3;
/// Windows that cover a scalar: its 251 bits, and one.
const WINDOWS: usize = 84;

/// Bits of a scalar as [`PointVar::times_generator`] takes them.
pub const SCALAR_BITS: usize = WINDOW * WINDOWS;

/// A point in a circuit. Nothing constrains it to lie on the curve: the caller knows that it does.
#[derive(Debug, Clone)]
pub struct PointVar {
    /// The first coordinate.
    pub x: FpVar<Fr>,
    /// The second coordinate.
    pub y: FpVar<Fr>,
}

/// Coefficients of one coordinate of a window as a polynomial in its three bits: 1, b0, b1, b0 b1, b2, b0 b2, b1 b2,
/// b0 b1 b2.
type Coefficients = [Fr; 1 << WINDOW];

/// For each window the coefficients of both coordinates.
static GENERATOR_WINDOWS: LazyLock<Vec<(Coefficients, Coefficients)>> = LazyLock::new(|| {
    let mut base = EdwardsAffine::generator().into_group();
    (0..WINDOWS)
        .map(|_| {
            let multiples: Vec<EdwardsProjective> = (0..1u64 << WINDOW)
                .scan(EdwardsProjective::ZERO, |sum, _| {
                    let now = *sum;
                    *sum += base;
                    Some(now)
                })
                .collect();
            base = multiples[(1 << WINDOW) - 1] + base;
            let affine = EdwardsProjective::normalize_batch(&multiples);
            let coordinates = |of: fn(&EdwardsAffine) -> Fr| {
                let mut values = [Fr::ZERO; 1 << WINDOW];
                for (value, point) in values.iter_mut().zip(&affine) {
                    *value = of(point);
                }
                interpolate(values)
            };
            (coordinates(|point| point.x), coordinates(|point| point.y))
        })
        .collect()
});

/// The multilinear polynomial through `values`, by the Moebius transform.
fn interpolate(mut values: Coefficients) -> Coefficients {
    for bit in 0..WINDOW {
        for index in 0..values.len() {
            if index & (1 << bit) != 0 {
                values[index] -= values[index ^ (1 << bit)];
            }
        }
    }
    values
}

impl PointVar {
    /// A private point.
    pub fn witness(cs: &ConstraintSystemRef<Fr>, point: &EdwardsAffine) -> Result<Self, SynthesisError> {
        Ok(Self {
            x: FpVar::new_witness(cs.clone(), || Ok(point.x))?,
            y: FpVar::new_witness(cs.clone(), || Ok(point.y))?,
        })
    }

    /// The sum; 6 constraints.
    pub fn add(&self, other: &Self) -> Result<Self, SynthesisError> {
        let straight = &self.x * &other.y;
        let crossed = &self.y * &other.x;
        let product = &straight * &crossed * EdwardsConfig::COEFF_D;
        let mixed = (&self.y - &self.x) * (&other.y + &other.x);
        let one = FpVar::one();
        Ok(Self {
            x: quotient(&(&straight + &crossed), &(&one + &product))?,
            y: quotient(&(mixed + straight - crossed), &(one - product))?,
        })
    }

    /// Twice the point; 5 constraints.
    pub fn double(&self) -> Result<Self, SynthesisError> {
        let product = &self.x * &self.y;
        let twice = product.double()?;
        let squares = (&self.x + &self.y).square()? - &twice;
        let difference = (&self.y - &self.x) * (&self.y + &self.x);
        let two = FpVar::constant(Fr::ONE.double());
        Ok(Self { x: quotient(&twice, &squares)?, y: quotient(&difference, &(two - squares))? })
    }

    /// The opposite point; no constraint.
    pub fn negate(&self) -> Result<Self, SynthesisError> {
        Ok(Self { x: self.x.negate()?, y: self.y.clone() })
    }

    /// That both are the same point; 2 constraints.
    pub fn enforce_equal(&self, other: &Self) -> Result<(), SynthesisError> {
        self.x.enforce_equal(&other.x)?;
        self.y.enforce_equal(&other.y)
    }

    /// The multiple of the generator by [`SCALAR_BITS`] bits, least first: windows of three bits over constants, 4
    /// constraints for a window's products and 6 for adding it.
    pub fn times_generator(bits: &[Boolean<Fr>]) -> Result<Self, SynthesisError> {
        let mut sum: Option<Self> = None;
        for (window, (x, y)) in bits.chunks(WINDOW).zip(GENERATOR_WINDOWS.iter()) {
            let [b0, b1, b2] = window else { return Err(SynthesisError::Unsatisfiable) };
            let [b0, b1, b2] = [b0, b1, b2].map(|bit| FpVar::from(bit.clone()));
            let (b01, b02, b12) = (&b0 * &b1, &b0 * &b2, &b1 * &b2);
            let b012 = &b01 * &b2;
            let monomials = [FpVar::one(), b0, b1, b01, b2, b02, b12, b012];
            let coordinate = |coefficients: &Coefficients| {
                monomials.iter().zip(coefficients).fold(FpVar::zero(), |sum, (bits, factor)| sum + bits * *factor)
            };
            let term = Self { x: coordinate(x), y: coordinate(y) };
            sum = Some(match sum {
                None => term,
                Some(sum) => sum.add(&term)?,
            });
        }
        sum.ok_or(SynthesisError::Unsatisfiable)
    }

    /// The multiple by an even number of bits, least first: windows of two bits, each two doublings, a choice among
    /// four points and an addition, 22 constraints.
    pub fn times(&self, bits: &[Boolean<Fr>]) -> Result<Self, SynthesisError> {
        let double = self.double()?;
        let triple = double.add(self)?;
        let identity = Self { x: FpVar::zero(), y: FpVar::one() };
        let mut sum: Option<Self> = None;
        for window in bits.chunks(2).rev() {
            let [low, high] = window else { return Err(SynthesisError::Unsatisfiable) };
            let [low, high] = [low, high].map(|bit| FpVar::from(bit.clone()));
            let choose = |of: fn(&Self) -> &FpVar<Fr>| {
                let lower = choice(&low, of(self), of(&identity));
                let upper = choice(&low, of(&triple), of(&double));
                choice(&high, &upper, &lower)
            };
            let term = Self { x: choose(|point| &point.x), y: choose(|point| &point.y) };
            sum = Some(match sum {
                None => term,
                Some(sum) => sum.double()?.double()?.add(&term)?,
            });
        }
        sum.ok_or(SynthesisError::Unsatisfiable)
    }
}

/// `yes` where `bit` is one, `no` where it is zero; 1 constraint.
pub fn choice(bit: &FpVar<Fr>, yes: &FpVar<Fr>, no: &FpVar<Fr>) -> FpVar<Fr> {
    bit * (yes - no) + no
}

/// `numerator / denominator`; 1 constraint, which determines it where the denominator is not zero.
fn quotient(numerator: &FpVar<Fr>, denominator: &FpVar<Fr>) -> Result<FpVar<Fr>, SynthesisError> {
    let cs = numerator.cs().or(denominator.cs());
    let result = FpVar::new_witness(cs, || {
        let inverse = denominator.value()?.inverse().ok_or(SynthesisError::Unsatisfiable)?;
        Ok(numerator.value()? * inverse)
    })?;
    result.mul_equals(denominator, numerator)?;
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ark_ed_on_bn254::Fr as Scalar;
    use ark_ff::{BigInteger, PrimeField};
    use ark_relations::gr1cs::ConstraintSystem;
    use ark_std::{UniformRand, rand::SeedableRng, rand::rngs::StdRng};

    fn bits(cs: &ConstraintSystemRef<Fr>, scalar: Scalar, count: usize) -> Vec<Boolean<Fr>> {
        let bigint = scalar.into_bigint();
        (0..count).map(|bit| Boolean::new_witness(cs.clone(), || Ok(bigint.get_bit(bit))).unwrap()).collect()
    }

    fn assert_is(point: &PointVar, expected: EdwardsProjective) {
        let expected = expected.into_affine();
        assert_eq!((point.x.value().unwrap(), point.y.value().unwrap()), (expected.x, expected.y));
    }

    #[test]
    fn arithmetic_agrees_with_the_curve() {
        let mut rng = StdRng::seed_from_u64(1);
        let identity = EdwardsAffine::zero();
        for (left, right) in [
            (EdwardsAffine::rand(&mut rng), EdwardsAffine::rand(&mut rng)),
            (EdwardsAffine::generator(), EdwardsAffine::generator()),
            (identity, EdwardsAffine::rand(&mut rng)),
            (identity, identity),
            (EdwardsAffine::generator(), -EdwardsAffine::generator()),
        ] {
            let cs = ConstraintSystem::new_ref();
            let a = PointVar::witness(&cs, &left).unwrap();
            let b = PointVar::witness(&cs, &right).unwrap();
            assert_is(&a.add(&b).unwrap(), left + right);
            assert_is(&a.double().unwrap(), left + left);
            assert_is(&a.negate().unwrap(), -left.into_group());
            assert!(cs.is_satisfied().unwrap());
        }
    }

    #[test]
    fn multiples_agree_with_the_curve() {
        let mut rng = StdRng::seed_from_u64(2);
        for scalar in [Scalar::from(0u64), Scalar::from(1u64), -Scalar::from(1u64), Scalar::rand(&mut rng)] {
            let cs = ConstraintSystem::new_ref();
            let product = PointVar::times_generator(&bits(&cs, scalar, SCALAR_BITS)).unwrap();
            assert_is(&product, EdwardsAffine::generator() * scalar);
            let point = EdwardsAffine::rand(&mut rng);
            let variable = PointVar::witness(&cs, &point).unwrap();
            assert_is(&variable.times(&bits(&cs, scalar, SCALAR_BITS)).unwrap(), point * scalar);
            assert!(cs.is_satisfied().unwrap());
        }
    }
}
