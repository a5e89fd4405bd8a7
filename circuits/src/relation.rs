//! A circuit as matrices, made once and kept: proving then computes the assignment alone.

use crate::attestation::{
    circuit::{self, Part, Witness},
    statement::PUBLIC_INPUTS,
};
use ark_bn254::Fr;
use ark_ff::{AdditiveGroup, Field};
use ark_poly::{EvaluationDomain, Radix2EvaluationDomain};
use ark_relations::{
    gr1cs::{
        ConstraintSystem, ConstraintSystemRef, OptimizationGoal, R1CS_PREDICATE_LABEL, SynthesisError,
        SynthesisMode,
    },
    utils::matrix::Matrix,
};
use std::sync::LazyLock;

static ATTESTATION: LazyLock<(Relation, Vec<Part>)> = LazyLock::new(|| {
    let (inputs, witness) = circuit::blank();
    Relation::new(|cs| circuit::synthesize(cs, &inputs, &witness))
        .expect("the circuit needs no values to be laid down")
});

/// Keeps arkworks' spans from whoever listens: at their level of information they write out the whole circuit, with every
/// secret of the witness, at every gate.
fn unheard<T>(work: impl FnOnce() -> T) -> T {
    tracing::subscriber::with_default(tracing::subscriber::NoSubscriber::new(), work)
}

/// The rank-1 constraints `A z * B z = C z` of a circuit over `z = (1, inputs, witness)`.
#[derive(Debug, Clone)]
pub struct Relation {
    pub(crate) matrices: [Matrix<Fr>; 3],
    pub(crate) instance_variables: usize,
    pub(crate) witness_variables: usize,
    pub(crate) constraints: usize,
}

impl Relation {
    /// The relation that `synthesize` lays down, and what that returns.
    pub(crate) fn new<T>(
        synthesize: impl FnOnce(&ConstraintSystemRef<Fr>) -> Result<T, SynthesisError>,
    ) -> Result<(Self, T), SynthesisError> {
        unheard(|| Self::lay_down(synthesize))
    }

    fn lay_down<T>(
        synthesize: impl FnOnce(&ConstraintSystemRef<Fr>) -> Result<T, SynthesisError>,
    ) -> Result<(Self, T), SynthesisError> {
        let cs = ConstraintSystem::new_ref();
        cs.set_optimization_goal(OptimizationGoal::Constraints);
        cs.set_mode(SynthesisMode::Setup);
        let result = synthesize(&cs)?;
        cs.finalize();
        let mut matrices =
            cs.to_matrices()?.remove(R1CS_PREDICATE_LABEL).ok_or(SynthesisError::PredicateNotFound)?.into_iter();
        let mut next = || matrices.next().ok_or(SynthesisError::PredicateNotFound);
        let relation = Self {
            matrices: [next()?, next()?, next()?],
            instance_variables: cs.num_instance_variables(),
            witness_variables: cs.num_witness_variables(),
            constraints: cs.num_constraints(),
        };
        Ok((relation, result))
    }

    /// The statement about attested hardware.
    pub fn attestation() -> &'static Self {
        &ATTESTATION.0
    }

    /// What each part of the statement takes, in order.
    pub fn attestation_parts() -> &'static [Part] {
        &ATTESTATION.1
    }

    /// The number of constraints.
    pub fn constraints(&self) -> usize {
        self.constraints
    }

    /// All variables: one, the inputs and the witness.
    pub(crate) fn variables(&self) -> usize {
        self.instance_variables + self.witness_variables
    }

    /// The roots of unity over which the constraints are interpolated, with one more for each instance variable.
    pub(crate) fn domain(&self) -> Option<Radix2EvaluationDomain<Fr>> {
        Radix2EvaluationDomain::new(self.constraints + self.instance_variables)
    }

    /// True where an assignment fulfils every constraint.
    pub(crate) fn is_satisfied(&self, assignment: &[Fr]) -> bool {
        let row = |row: &Vec<(Fr, usize)>| {
            row.iter()
                .try_fold(Fr::ZERO, |sum, (factor, variable)| Some(sum + *factor * assignment.get(*variable)?))
        };
        let [a, b, c] = &self.matrices;
        assignment.len() == self.variables()
            && assignment.first() == Some(&Fr::ONE)
            && a.iter().zip(b).zip(c).all(|((a, b), c)| match (row(a), row(b), row(c)) {
                (Some(a), Some(b), Some(c)) => a * b == c,
                _ => false,
            })
    }
}

/// The values of all variables of the statement about attested hardware.
pub(crate) fn assign(inputs: &[Fr; PUBLIC_INPUTS], witness: &Witness) -> Result<Vec<Fr>, SynthesisError> {
    unheard(|| {
        let cs = ConstraintSystem::new_ref();
        cs.set_mode(SynthesisMode::Prove { construct_matrices: false, generate_lc_assignments: false });
        circuit::synthesize(&cs, inputs, witness)?;
        let mut assignment = cs.instance_assignment()?;
        assignment.extend(cs.witness_assignment()?);
        Ok(assignment)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };
    use tracing::{Event, Metadata, Subscriber, span};

    /// Counts spans and takes all of them.
    struct Counter(Arc<AtomicUsize>);

    impl Subscriber for Counter {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            self.0.fetch_add(1, Ordering::Relaxed);
            span::Id::from_u64(1)
        }
        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
        fn event(&self, _: &Event<'_>) {}
        fn enter(&self, _: &span::Id) {}
        fn exit(&self, _: &span::Id) {}
    }

    #[test]
    fn no_listener_hears_of_the_witness() {
        let heard = Arc::new(AtomicUsize::new(0));
        tracing::subscriber::with_default(Counter(Arc::clone(&heard)), || {
            let (inputs, witness) = circuit::blank();
            Relation::new(|cs| circuit::synthesize(cs, &inputs, &witness)).map(|_| ()).unwrap();
            // Blank inputs fulfil nothing, and are assigned all the same.
            drop(assign(&inputs, &witness));
        });
        assert_eq!(heard.load(Ordering::Relaxed), 0);
    }
}
