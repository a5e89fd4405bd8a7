use super::*;
use crate::{
    attestation::issuer::MAX_VERIFIERS,
    encoding::Fixed,
    fixture::{FIXTURE, POLICY, file, rng},
    setup,
};
use aitbc_protocol::text::Line;

fn good() -> File {
    file(&FIXTURE.key, &FIXTURE.issuers)
}

/// The good file, changed.
fn changed(change: impl FnOnce(&mut File)) -> Result<Parameters, ParametersError> {
    let mut file = good();
    change(&mut file);
    Parameters::new(file)
}

fn field_of(change: impl FnOnce(&mut File)) -> String {
    match changed(change).unwrap_err() {
        ParametersError::Field { field, .. } => field,
        other => panic!("{other}"),
    }
}

fn contributions(powers: usize, circuit: usize) -> Vec<ContributionFile> {
    [vec![Phase::Powers; powers], vec![Phase::Circuit; circuit]]
        .concat()
        .into_iter()
        .zip(1..)
        .map(|(phase, number)| ContributionFile {
            phase,
            name: Line::new("a").unwrap(),
            digest: Digest([number; 32]),
        })
        .collect()
}

#[test]
fn a_file_goes_round_as_text() {
    let text = serde_json::to_string_pretty(&good()).unwrap();
    let parameters = Parameters::parse(text.as_bytes()).unwrap();
    assert_eq!(parameters.verifiers().root(), FIXTURE.parameters.verifiers().root());
    let policy = parameters.policy(POLICY).unwrap();
    assert_eq!(policy.measurements().root(), FIXTURE.parameters.policies()[0].measurements().root());
    assert!(policy.is_private());
    assert_eq!(parameters.keys(), FIXTURE.parameters.keys());
    assert!(parameters.policy("other").is_none());
}

#[test]
fn faults_name_their_field() {
    assert_eq!(field_of(|file| file.epoch_ms = 0), "epoch_ms");
    assert_eq!(field_of(|file| file.policies.clear()), "policies");
    assert_eq!(field_of(|file| file.policies[0].least_score = 1001), "policies[0].least_score");
    assert_eq!(field_of(|file| file.policies[0].name = Line::new("").unwrap()), "policies[0].name");
    assert_eq!(field_of(|file| file.policies[0].measurements.clear()), "policies[0].measurements");
    assert_eq!(field_of(|file| file.policies[0].measurements[3] = "zz".into()), "policies[0].measurements[3]");
    assert_eq!(field_of(|file| file.policies[0].measurements[1] = "00".repeat(49)), "policies[0].measurements[1]");
    assert_eq!(field_of(|file| file.policies.push(file.policies[0].clone())), "policies[1].name");
    assert_eq!(field_of(|file| file.policies = vec![file.policies[0].clone(); MAX_POLICIES + 1]), "policies");
    let text = serde_json::to_string(&good()).unwrap();
    let error = Parameters::parse(text.replace("least_score", "last_score").as_bytes()).unwrap_err();
    assert!(error.to_string().contains("last_score"), "{error}");
    let error = Parameters::parse(text.replace("\"epoch_ms\":86400000,", "").as_bytes()).unwrap_err();
    assert!(error.to_string().contains("epoch_ms"), "{error}");
    assert!(matches!(Parameters::parse(&vec![b' '; MAX_FILE + 1]), Err(ParametersError::Length(_))));
}

#[test]
fn privacy_needs_eight_verifiers() {
    let error = changed(|file| {
        file.verifiers.truncate(7);
        file.nodes.truncate(7);
    })
    .unwrap_err();
    assert!(matches!(error, ParametersError::Privacy { index: 0, verifiers: 7 }));
    let open = changed(|file| {
        file.verifiers.truncate(1);
        file.nodes.truncate(1);
        file.policies[0].private = false;
    });
    assert!(!open.unwrap().policies()[0].is_private());
}

#[test]
fn every_verifier_is_a_node_and_every_contribution_another() {
    assert_eq!(field_of(|file| file.nodes.truncate(3)), "nodes");
    assert_eq!(field_of(|file| file.nodes[1] = file.nodes[0]), "nodes");
    let twice = field_of(|file| {
        file.keys.contributions = contributions(3, 3);
        file.keys.contributions[4].digest = file.keys.contributions[1].digest;
    });
    assert_eq!(twice, "keys.contributions[4]");
}

#[test]
fn development_keys_are_for_the_local_network() {
    let public = NetworkId::new("main").unwrap();
    let error = changed(|file| file.network = public.clone()).unwrap_err();
    assert!(matches!(error, ParametersError::Development));
    for (powers, circuit, short) in
        [(0, 0, Some(Phase::Powers)), (2, 3, Some(Phase::Powers)), (3, 2, Some(Phase::Circuit)), (3, 3, None)]
    {
        let result = changed(|file| {
            file.network = public.clone();
            file.keys.development = false;
            file.keys.contributions = contributions(powers, circuit);
        });
        match (result, short) {
            (Err(ParametersError::Contributions { phase, .. }), Some(short)) => assert_eq!(phase, short),
            (result, short) => assert!(result.is_ok() && short.is_none(), "{powers} {circuit}"),
        }
    }
}

#[test]
fn only_the_pinned_keys_are_used() {
    let (other, other_verifying) = setup::development(&mut rng(60)).unwrap();
    let refused = |refused: Result<(), KeyRefused>| refused.unwrap_err();
    assert!(matches!(refused(FIXTURE.parameters.accept_proving_key(&other)), KeyRefused::Digest { .. }));
    assert!(matches!(
        refused(FIXTURE.parameters.accept_verifying_key(&other_verifying)),
        KeyRefused::Digest { .. }
    ));
    // A development key that is passed off as one of a ceremony.
    let parameters = changed(|file| {
        file.keys.development = false;
        file.keys.contributions = contributions(3, 3);
    });
    let refusal = refused(parameters.unwrap().accept_proving_key(&FIXTURE.key));
    assert_eq!(refusal, KeyRefused::Origin("proving"));
}

#[test]
fn verifiers_must_be_a_set() {
    let verifiers = |change: fn(&mut Vec<IssuerPublic>)| match changed(|file| change(&mut file.verifiers)) {
        Err(ParametersError::Verifiers(error)) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(verifiers(Vec::clear), SetError::Count(0));
    assert_eq!(verifiers(|set| set[5] = set[0]), SetError::Twice(5));
    assert_eq!(verifiers(|set| *set = vec![set[0]; MAX_VERIFIERS + 1]), SetError::Count(MAX_VERIFIERS + 1));
    // The key of one verifier with the proof of another.
    let stolen = |set: &mut Vec<IssuerPublic>| {
        let bytes = [&set[0].to_bytes()[..32], &set[1].to_bytes()[32..]].concat();
        set[0] = IssuerPublic::from_bytes(&bytes).unwrap();
    };
    assert_eq!(verifiers(stolen), SetError::Possession(0));
    // The order of the file does not matter, who is in it does.
    let reversed = changed(|file| file.verifiers.reverse()).unwrap();
    assert_eq!(reversed.verifiers().root(), FIXTURE.parameters.verifiers().root());
    let fewer = changed(|file| {
        file.verifiers.pop();
        file.nodes.pop();
        file.policies[0].private = false;
    });
    assert_ne!(fewer.unwrap().verifiers().root(), FIXTURE.parameters.verifiers().root());
}
