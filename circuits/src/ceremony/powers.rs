//! Powers of tau with alpha and beta, and how they are found to belong together.

use crate::{
    ceremony::CeremonyError,
    points::write,
    setup::{Points, write_many},
};
use ark_bn254::{Bn254, Fr, G1Affine, G2Affine};
use ark_ec::{AffineRepr, CurveGroup, VariableBaseMSM, pairing::Pairing};
use ark_ff::{AdditiveGroup, Field};
use ark_std::rand::{RngCore, SeedableRng, rngs::StdRng};
use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

/// For a domain of `n`: `tau^i G1` for i below 2n - 1; `tau^i G2`, `alpha tau^i G1` and `beta tau^i G1` for i below n;
/// `beta G2`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Powers {
    pub(super) tau_g1: Vec<G1Affine>,
    pub(super) tau_g2: Vec<G2Affine>,
    pub(super) alpha_g1: Vec<G1Affine>,
    pub(super) beta_g1: Vec<G1Affine>,
    pub(super) beta_g2: G2Affine,
}

impl Powers {
    /// All secrets one, for a domain of `size`, at least two.
    pub(super) fn ones(size: usize) -> Self {
        let (g1, g2) = (G1Affine::generator(), G2Affine::generator());
        Self {
            tau_g1: vec![g1; 2 * size - 1],
            tau_g2: vec![g2; size],
            alpha_g1: vec![g1; size],
            beta_g1: vec![g1; size],
            beta_g2: g2,
        }
    }

    /// `tau G1`, `alpha G1` and `beta G1`, which stand for the secrets in the chain of contributions.
    pub(super) fn representatives(&self) -> [G1Affine; 3] {
        [self.tau_g1[1], self.alpha_g1[0], self.beta_g1[0]]
    }

    /// Multiplies secrets in.
    pub(super) fn multiply(&mut self, tau: &Fr, alpha: &Fr, beta: &Fr) {
        multiply_powers(&mut self.tau_g1, &Fr::ONE, tau);
        multiply_powers(&mut self.tau_g2, &Fr::ONE, tau);
        multiply_powers(&mut self.alpha_g1, alpha, tau);
        multiply_powers(&mut self.beta_g1, beta, tau);
        self.beta_g2 = (self.beta_g2 * beta).into_affine();
    }

    /// That the elements are powers of one tau, times alpha and beta where they should be. Each row is found to step by
    /// tau as a random linear combination.
    pub(super) fn check(&self) -> Result<(), CeremonyError> {
        let (one_g1, one_g2) = (G1Affine::generator(), G2Affine::generator());
        if self.tau_g1[0] != one_g1 || self.tau_g2[0] != one_g2 {
            return Err(CeremonyError::Structure("first powers and the generators"));
        }
        if !same_ratio(&one_g1, &self.tau_g1[1], &one_g2, &self.tau_g2[1]) {
            return Err(CeremonyError::Structure("two forms of tau"));
        }
        if !same_ratio(&one_g1, &self.beta_g1[0], &one_g2, &self.beta_g2) {
            return Err(CeremonyError::Structure("two forms of beta"));
        }
        for (name, row) in [
            ("powers of tau", &self.tau_g1),
            ("powers of tau with alpha", &self.alpha_g1),
            ("powers of tau with beta", &self.beta_g1),
        ] {
            let factors = factors(&[row], row.len() - 1);
            let (lower, upper) = (combine(row, &factors), combine(&row[1..], &factors));
            if !same_ratio(&lower, &upper, &one_g2, &self.tau_g2[1]) {
                return Err(CeremonyError::Structure(name));
            }
        }
        let factors = factors(&[&self.tau_g2], self.tau_g2.len() - 1);
        let (lower, upper) = (combine(&self.tau_g2, &factors), combine(&self.tau_g2[1..], &factors));
        if !same_ratio(&one_g1, &self.tau_g1[1], &lower, &upper) {
            return Err(CeremonyError::Structure("powers of tau in G2"));
        }
        Ok(())
    }

    /// Appends all elements.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        write_many(&self.tau_g1, out);
        write_many(&self.tau_g2, out);
        write_many(&self.alpha_g1, out);
        write_many(&self.beta_g1, out);
        write(&self.beta_g2, out);
    }

    /// Reads the elements for a domain of `size`.
    pub(super) fn read(points: &mut Points<'_>, size: usize) -> Result<Self, CeremonyError> {
        Ok(Self {
            tau_g1: points.g1_many(2 * size - 1)?,
            tau_g2: points.g2_many(size)?,
            alpha_g1: points.g1_many(size)?,
            beta_g1: points.g1_many(size)?,
            beta_g2: points.g2()?,
        })
    }
}

/// `points[i] *= factor * step^i`.
fn multiply_powers<A: AffineRepr<ScalarField = Fr>>(points: &mut [A], factor: &Fr, step: &Fr) {
    const CHUNK: usize = 512;
    let multiply = |(chunk, points): (usize, &[A])| {
        let mut power = *factor * step.pow([(chunk * CHUNK) as u64]);
        let mut products = Vec::with_capacity(points.len());
        for point in points {
            products.push(*point * power);
            power *= step;
        }
        products
    };
    let products: Vec<A::Group> = points.par_chunks(CHUNK).enumerate().flat_map_iter(multiply).collect();
    points.copy_from_slice(&A::Group::normalize_batch(&products));
}

/// Multiplies every point by `factor`.
pub(super) fn multiply_all(points: &mut [G1Affine], factor: &Fr) {
    multiply_powers(points, factor, &Fr::ONE);
}

/// True where `b` is to `a` what `d` is to `c`, and none is the identity.
pub(super) fn same_ratio(a: &G1Affine, b: &G1Affine, c: &G2Affine, d: &G2Affine) -> bool {
    !a.is_zero()
        && !b.is_zero()
        && !c.is_zero()
        && !d.is_zero()
        && Bn254::multi_pairing([*b, -*a], [*c, *d]).0 == <Bn254 as Pairing>::TargetField::ONE
}

/// Factors of 128 bits that follow from the points that they are for, so that nobody can choose points by them.
pub(super) fn factors<A: AffineRepr>(rows: &[&[A]], count: usize) -> Vec<Fr> {
    let mut bytes = Vec::new();
    for row in rows {
        write_many(row, &mut bytes);
    }
    let seed = Sha256::new_with_prefix(b"aitbc/ceremony/factors/1").chain_update(&bytes).finalize();
    let mut rng = StdRng::from_seed(seed.into());
    (0..count)
        .map(|_| {
            let mut bytes = [0; 16];
            rng.fill_bytes(&mut bytes);
            Fr::from(u128::from_le_bytes(bytes))
        })
        .collect()
}

/// The sum of as many points as there are factors.
pub(super) fn combine<A: AffineRepr<ScalarField = Fr>>(points: &[A], factors: &[Fr]) -> A
where
    A::Group: VariableBaseMSM<MulBase = A>,
{
    if factors.is_empty() {
        return A::Group::ZERO.into_affine();
    }
    A::Group::msm_unchecked(&points[..factors.len()], factors).into_affine()
}
