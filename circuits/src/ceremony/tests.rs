use super::*;
use ark_ff::AdditiveGroup;
use ark_groth16::Groth16;
use ark_r1cs_std::{alloc::AllocVar, eq::EqGadget, fields::fp::FpVar};
use ark_relations::gr1cs::{ConstraintSystemRef, SynthesisError};
use ark_std::rand::{SeedableRng, rngs::StdRng};
use proptest::{prelude::any, prop_assert, proptest, sample::Index};
use std::sync::LazyLock;

/// x^3 + x + 5 = y with y public: four variables that sums and products of the derivation meet.
fn cubic(cs: &ConstraintSystemRef<Fr>, x: Fr) -> Result<(), SynthesisError> {
    let y = FpVar::new_input(cs.clone(), || Ok(x * x * x + x + Fr::from(5)))?;
    let x = FpVar::new_witness(cs.clone(), || Ok(x))?;
    let cube = &x * &x * &x;
    (cube + x + Fr::from(5)).enforce_equal(&y)
}

static RELATION: LazyLock<Relation> = LazyLock::new(|| Relation::new(|cs| cubic(cs, Fr::ZERO)).unwrap().0);

fn rng() -> StdRng {
    StdRng::seed_from_u64(11)
}

fn name(text: &str) -> Line<64> {
    Line::new(text).unwrap()
}

/// A whole ceremony: three contributions to each phase.
static WHOLE: LazyLock<Ceremony> = LazyLock::new(|| {
    let mut rng = rng();
    let mut ceremony = Ceremony::of(&RELATION);
    for person in ["a", "b", "c"] {
        ceremony.contribute(name(person), &mut rng).unwrap();
    }
    ceremony.begin_circuit().unwrap();
    for person in ["d", "e", "f"] {
        ceremony.contribute(name(person), &mut rng).unwrap();
    }
    ceremony
});

fn circuit(ceremony: &mut Ceremony) -> &mut CircuitPart {
    ceremony.circuit.as_mut().unwrap()
}

#[test]
fn keys_of_a_ceremony_prove_and_verify() {
    let (proving, verifying, _) = WHOLE.keys().unwrap();
    assert_eq!(verifying.origin(), Origin::Ceremony);
    let x = Fr::from(3);
    let y = Fr::from(35);
    let square = x * x;
    let assignment = [Fr::from(1), y, x, square, square * x];
    assert!(RELATION.is_satisfied(&assignment));
    let mut rng = rng();
    let proof = Groth16::<Bn254>::create_proof_with_reduction_and_matrices(
        &proving.key,
        Fr::rand(&mut rng),
        Fr::rand(&mut rng),
        &RELATION.matrices,
        RELATION.instance_variables,
        RELATION.constraints,
        &assignment,
    )
    .unwrap();
    let prepared = verifying.prepare();
    assert!(Groth16::<Bn254>::verify_proof(&prepared, &proof, &[y]).unwrap());
    assert!(!Groth16::<Bn254>::verify_proof(&prepared, &proof, &[y + y]).unwrap());
}

#[test]
fn who_contributed_is_reported_in_order() {
    use Phase::{Circuit, Powers};

    let report = WHOLE.verify().unwrap();
    let names: Vec<_> = report.iter().map(|entry| (entry.name.as_str(), entry.phase)).collect();
    assert_eq!(
        names,
        [("a", Powers), ("b", Powers), ("c", Powers), ("d", Circuit), ("e", Circuit), ("f", Circuit)]
    );
    let mut digests: Vec<_> = report.iter().map(|entry| entry.digest).collect();
    digests.dedup();
    assert_eq!(digests.len(), 6);
}

#[test]
fn each_phase_waits_for_its_contributions() {
    let mut ceremony = Ceremony::of(&RELATION);
    assert_eq!(ceremony.phase(), Phase::Powers);
    assert_eq!(ceremony.keys().unwrap_err(), CeremonyError::Phase(Phase::Powers));
    let few = CeremonyError::TooFew { phase: Phase::Powers, found: 0 };
    assert_eq!(ceremony.begin_circuit(), Err(few));

    let mut ceremony = WHOLE.clone();
    assert_eq!(ceremony.begin_circuit(), Err(CeremonyError::Phase(Phase::Circuit)));
    let mut fresh = Ceremony { circuit: None, ..WHOLE.clone() };
    fresh.begin_circuit().unwrap();
    assert_eq!(fresh.keys().unwrap_err(), CeremonyError::TooFew { phase: Phase::Circuit, found: 0 });
    // Skipping the first phase is refused as well.
    circuit(&mut ceremony).contributions.clear();
    ceremony.contributions.truncate(1);
    assert!(ceremony.verify().is_err());
}

/// Something that somebody does to a ceremony.
type Tamper = fn(&mut Ceremony);

#[test]
fn tampering_is_refused_where_it_happens() {
    let cases: [(&str, Tamper, CeremonyError); 18] = [
        (
            "a share of tau",
            |ceremony| ceremony.contributions[1].shares[0].in_g1 = G1Affine::generator(),
            CeremonyError::Knowledge { phase: Phase::Powers, index: 1, secret: Secret::Tau },
        ),
        (
            "a share that is nothing",
            |ceremony| ceremony.contributions[0].shares[2].in_g1 = G1Affine::zero(),
            CeremonyError::Knowledge { phase: Phase::Powers, index: 0, secret: Secret::Beta },
        ),
        (
            "the other form of a share",
            |ceremony| ceremony.contributions[0].shares[1].in_g2 = G2Affine::generator(),
            CeremonyError::Knowledge { phase: Phase::Powers, index: 0, secret: Secret::Alpha },
        ),
        (
            "a response",
            |ceremony| ceremony.contributions[2].shares[1].response += Fr::from(1),
            CeremonyError::Knowledge { phase: Phase::Powers, index: 2, secret: Secret::Alpha },
        ),
        (
            "what a share made",
            |ceremony| ceremony.contributions[0].shares[0].after = G1Affine::generator(),
            CeremonyError::Knowledge { phase: Phase::Powers, index: 0, secret: Secret::Tau },
        ),
        (
            "a name",
            |ceremony| ceremony.contributions[0].name = name("z"),
            CeremonyError::Knowledge { phase: Phase::Powers, index: 0, secret: Secret::Tau },
        ),
        (
            "the order",
            |ceremony| ceremony.contributions.swap(0, 1),
            CeremonyError::Knowledge { phase: Phase::Powers, index: 0, secret: Secret::Tau },
        ),
        (
            "a contribution left out",
            |ceremony| drop(ceremony.contributions.remove(0)),
            CeremonyError::Knowledge { phase: Phase::Powers, index: 0, secret: Secret::Tau },
        ),
        (
            "the last contribution left out",
            |ceremony| drop(ceremony.contributions.pop()),
            CeremonyError::Last("powers"),
        ),
        (
            "a power of tau",
            |ceremony| ceremony.powers.tau_g1[3] = G1Affine::generator(),
            CeremonyError::Structure("powers of tau"),
        ),
        (
            "a power of tau in G2",
            |ceremony| ceremony.powers.tau_g2[3] = G2Affine::generator(),
            CeremonyError::Structure("powers of tau in G2"),
        ),
        (
            "the first power",
            |ceremony| ceremony.powers.tau_g1[0] = ceremony.powers.tau_g1[1],
            CeremonyError::Structure("first powers and the generators"),
        ),
        (
            "a power with alpha",
            |ceremony| ceremony.powers.alpha_g1[2] = G1Affine::generator(),
            CeremonyError::Structure("powers of tau with alpha"),
        ),
        (
            "a power with beta",
            |ceremony| ceremony.powers.beta_g1[2] = G1Affine::generator(),
            CeremonyError::Structure("powers of tau with beta"),
        ),
        (
            "beta in G2",
            |ceremony| ceremony.powers.beta_g2 = G2Affine::generator(),
            CeremonyError::Structure("two forms of beta"),
        ),
        (
            "delta in G2",
            |ceremony| circuit(ceremony).delta_g2 = G2Affine::generator(),
            CeremonyError::Structure("two forms of delta"),
        ),
        (
            "an h element",
            |ceremony| circuit(ceremony).h_query[1] = G1Affine::generator(),
            CeremonyError::Structure("h elements and delta"),
        ),
        (
            "an l element",
            |ceremony| circuit(ceremony).l_query[1] = G1Affine::generator(),
            CeremonyError::Structure("l elements and delta"),
        ),
    ];
    for (what, tamper, error) in cases {
        let mut ceremony = WHOLE.clone();
        tamper(&mut ceremony);
        assert_eq!(ceremony.verify().unwrap_err(), error, "{what}");
        assert!(ceremony.keys().is_err(), "{what}");
        assert!(ceremony.contribute(name("g"), &mut rng()).is_err(), "{what}");
    }
}

#[test]
fn the_second_phase_hangs_on_the_first() {
    // Another first phase under the same contributions to the second.
    let mut rng = StdRng::seed_from_u64(12);
    let mut other = Ceremony::of(&RELATION);
    for person in ["a", "b", "c"] {
        other.contribute(name(person), &mut rng).unwrap();
    }
    other.circuit.clone_from(&WHOLE.circuit);
    let error = CeremonyError::Knowledge { phase: Phase::Circuit, index: 0, secret: Secret::Delta };
    assert_eq!(other.verify().unwrap_err(), error);
}

#[test]
fn a_share_that_does_not_continue_is_refused() {
    // Knows its secret and proves so, but applied another one.
    let mut rng = rng();
    let mut ceremony = Ceremony::of(&RELATION);
    let mut transcript = Transcript::new(&RELATION);
    transcript.begin(&name("a"));
    let elsewhere: G1Affine = (G1Affine::generator() * Fr::from(9)).into();
    let shares = (0..3).map(|_| Share::new(&Fr::from(2), &elsewhere, &mut transcript, &mut rng)).collect();
    ceremony.contributions.push(Contribution { name: name("a"), shares });
    let error = CeremonyError::Ratio { phase: Phase::Powers, index: 0, secret: Secret::Tau };
    assert_eq!(ceremony.verify().unwrap_err(), error);
}

#[test]
fn the_file_goes_round_and_bounds_hold() {
    for ceremony in [&*WHOLE, &Ceremony::of(&RELATION)] {
        let bytes = ceremony.to_bytes();
        let again = Ceremony::read(&bytes, &RELATION).unwrap();
        assert_eq!(again.to_bytes(), bytes);
        assert_eq!(again.verify().unwrap(), ceremony.verify().unwrap());
        for cut in [0, 14, 15, 16, 17, 100, bytes.len() - 1] {
            assert!(Ceremony::read(&bytes[..cut], &RELATION).is_err(), "{cut}");
        }
        assert_eq!(Ceremony::read(&[&bytes[..], &[0]].concat(), &RELATION).unwrap_err(), CeremonyError::Length);
    }
    assert_eq!(Ceremony::read(b"something else", &RELATION).unwrap_err(), CeremonyError::Header);
    assert_eq!(
        Ceremony::read(&vec![0; encoding::MAX_CEREMONY + 1], &RELATION).unwrap_err(),
        CeremonyError::Length
    );
}

#[test]
#[ignore = "a ceremony of the whole circuit takes minutes of two cores"]
fn the_whole_circuit_goes_through_a_ceremony() {
    let mut rng = rng();
    let start = std::time::Instant::now();
    let mut ceremony = Ceremony::begin();
    for person in ["a", "b", "c"] {
        ceremony.contribute(name(person), &mut rng).unwrap();
    }
    println!("three contributions to the powers: {:?}", start.elapsed());
    ceremony.begin_circuit().unwrap();
    println!("with the circuit's key: {:?}", start.elapsed());
    // Each contribution derives the key anew to compare; one is enough to see that it takes part.
    ceremony.contribute(name("d"), &mut rng).unwrap();
    println!("with a contribution to it: {:?}", start.elapsed());
    let bytes = ceremony.to_bytes();
    println!("{} bytes", bytes.len());
    let ceremony = Ceremony::from_bytes(&bytes).unwrap();
    println!("read: {:?}", start.elapsed());
    let part = ceremony.circuit.as_ref().unwrap();
    let mut key = derive::key(&ceremony.powers, ceremony.relation);
    check_circuit(part, &key).unwrap();
    key.delta_g1 = part.delta_g1;
    key.vk.delta_g2 = part.delta_g2;
    key.h_query.clone_from(&part.h_query);
    key.l_query.clone_from(&part.l_query);
    let key = ProvingKey { key, origin: Origin::Ceremony };
    assert_eq!(ProvingKey::from_bytes(&key.to_bytes()).unwrap(), key);
    crate::fixture::assert_proves(&key);
    println!("proved with: {:?}", start.elapsed());
}

proptest! {
    #[test]
    fn no_changed_byte_passes(place in any::<Index>(), change in 1u8..) {
        let mut bytes = WHOLE.to_bytes();
        let place = place.index(bytes.len());
        bytes[place] ^= change;
        let verified = Ceremony::read(&bytes, &RELATION).and_then(|ceremony| ceremony.verify());
        prop_assert!(verified.is_err());
    }
}
