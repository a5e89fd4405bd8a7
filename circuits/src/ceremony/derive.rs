//! The circuit's key out of the powers, with gamma and delta one: Lagrange's polynomials at tau by a Fourier transform of
//! group elements, then one sparse sum for each variable. The arrangement is arkworks' reduction (libsnark's): instance
//! variables stand in A once more, behind the constraints.

use crate::{ceremony::powers::Powers, relation::Relation};
use ark_bn254::{Bn254, Fr, G1Affine, G1Projective, G2Affine, G2Projective};
use ark_ec::{AffineRepr, CurveGroup};
use ark_ff::{AdditiveGroup, BigInteger, Field, PrimeField};
use ark_groth16::{ProvingKey, VerifyingKey};
use ark_poly::{EvaluationDomain, domain::DomainCoeff};
use rayon::prelude::*;

/// The number of roots of unity; 2 at least.
pub(super) fn domain_size(relation: &Relation) -> usize {
    relation.domain().expect("the field has far more roots of unity than constraints fit in memory").size().max(2)
}

/// For each variable its factors and the constraints that they stand in.
type Columns = Vec<Vec<(Fr, usize)>>;

fn columns(relation: &Relation, matrix: usize) -> Columns {
    let mut columns = vec![Vec::new(); relation.variables()];
    for (constraint, row) in relation.matrices[matrix].iter().enumerate() {
        for (factor, variable) in row {
            columns[*variable].push((*factor, constraint));
        }
    }
    columns
}

/// The values of Lagrange's polynomials at tau, times what `powers` are times.
fn lagrange<A: AffineRepr<ScalarField = Fr>>(powers: &[A], relation: &Relation) -> Vec<A>
where
    A::Group: DomainCoeff<Fr>,
{
    let mut values: Vec<A::Group> = powers.iter().map(|power| power.into_group()).collect();
    if let Some(domain) = relation.domain() {
        domain.ifft_in_place(&mut values);
    }
    A::Group::normalize_batch(&values)
}

/// The sum of a column over `points`, after Straus: all its points share the doublings. Columns are summed at the same
/// time, so one of them stays on one thread: work that waits for other work within it could nest without bound.
fn sum<A: AffineRepr<ScalarField = Fr>>(column: &[(Fr, usize)], points: &[A]) -> A::Group {
    let mut ones = A::Group::ZERO;
    let mut others = Vec::new();
    for (factor, index) in column {
        if *factor == Fr::ONE {
            ones += points[*index];
        } else if *factor == -Fr::ONE {
            ones -= points[*index].into_group();
        } else {
            others.push((factor.into_bigint(), points[*index]));
        }
    }
    let mut total = A::Group::ZERO;
    if !others.is_empty() {
        for bit in (0..Fr::MODULUS_BIT_SIZE as usize).rev() {
            total.double_in_place();
            for (_, point) in others.iter().filter(|(factor, _)| factor.get_bit(bit)) {
                total += *point;
            }
        }
    }
    total + ones
}

/// The key.
pub(super) fn key(powers: &Powers, relation: &Relation) -> ProvingKey<Bn254> {
    let size = domain_size(relation);
    let (mut a, b, c) = (columns(relation, 0), columns(relation, 1), columns(relation, 2));
    for (variable, column) in a.iter_mut().take(relation.instance_variables).enumerate() {
        column.push((Fr::ONE, relation.constraints + variable));
    }
    let in_g1 = lagrange(&powers.tau_g1[..size], relation);
    let in_g2: Vec<G2Affine> = lagrange(&powers.tau_g2, relation);
    let with_alpha = lagrange(&powers.alpha_g1, relation);
    let with_beta = lagrange(&powers.beta_g1, relation);

    let sums = |columns: &Columns| -> Vec<G1Affine> {
        let sums: Vec<G1Projective> = columns.par_iter().map(|column| sum(column, &in_g1)).collect();
        G1Projective::normalize_batch(&sums)
    };
    let b_g2: Vec<G2Projective> = b.par_iter().map(|column| sum(column, &in_g2)).collect();
    let mixed: Vec<G1Projective> = a
        .par_iter()
        .zip(&b)
        .zip(&c)
        .map(|((a, b), c)| sum(a, &with_beta) + sum(b, &with_alpha) + sum(c, &in_g1))
        .collect();
    let mut gamma_abc_g1 = G1Projective::normalize_batch(&mixed);
    let l_query = gamma_abc_g1.split_off(relation.instance_variables);
    let vanishing: Vec<G1Projective> =
        (0..size - 1).map(|power| powers.tau_g1[power + size] - powers.tau_g1[power].into_group()).collect();
    ProvingKey {
        vk: VerifyingKey {
            alpha_g1: powers.alpha_g1[0],
            beta_g2: powers.beta_g2,
            gamma_g2: G2Affine::generator(),
            delta_g2: G2Affine::generator(),
            gamma_abc_g1,
        },
        beta_g1: powers.beta_g1[0],
        delta_g1: G1Affine::generator(),
        a_query: sums(&a),
        b_g1_query: sums(&b),
        b_g2_query: G2Projective::normalize_batch(&b_g2),
        h_query: G1Projective::normalize_batch(&vanishing),
        l_query,
    }
}
