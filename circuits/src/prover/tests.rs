use super::*;
use crate::{
    attestation::{
        attributes::{Attributes, Measurement},
        issuer::IssuerKey,
        statement::{binding_element, network_element},
    },
    fixture::{FIXTURE, NOW_S, REQUIRED, attributes, credential, moment, peer, request, rng},
    gadgets::merkle::Tree,
    verifier::{Claim, VerifyError},
};
use aitbc_protocol::{NetworkId, NodeId, text::Line};
use ark_bn254::{G1Affine, G2Affine};
use ark_ff::Field;
use ark_groth16::Proof;
use ark_serialize::CanonicalDeserialize;

/// Something that is changed alone, and how.
type Change<T> = (&'static str, fn(&mut T));

fn prove(attributes: &Attributes, request: &Request) -> Result<Presentation, ProveError> {
    FIXTURE.prover.prove(&credential(attributes), request, &moment(), &mut rng(9))
}

fn good() -> Presentation {
    static GOOD: std::sync::LazyLock<Presentation> =
        std::sync::LazyLock::new(|| prove(&attributes(), &request()).unwrap());
    GOOD.clone()
}

#[test]
fn a_credential_that_fulfils_the_policy_is_shown() {
    let presentation = good();
    assert_eq!(FIXTURE.verifier.verify(&request(), &peer(), &presentation), Ok(presentation.nullifier));
}

#[test]
fn the_prover_answers_only_what_may_be_asked() {
    let ask = |change: fn(&mut Request)| {
        let mut request = request();
        change(&mut request);
        prove(&attributes(), &request).unwrap_err()
    };
    let current = FIXTURE.parameters.epoch_at(NOW_S);
    assert_eq!(
        ask(|request| request.policy = Line::new("other").unwrap()),
        ProveError::Policy("other".to_owned())
    );
    assert_eq!(ask(|request| request.now_s = NOW_S + 122), ProveError::Clock { off_s: 121 });
    assert_eq!(ask(|request| request.now_s = NOW_S - 120), ProveError::Clock { off_s: 121 });
    assert_eq!(ask(|request| request.epoch += 1), ProveError::Epoch { asked: current + 1, current });
    assert_eq!(ask(|request| request.epoch -= 1), ProveError::Epoch { asked: current - 1, current });
    assert_eq!(ask(|request| request.issued_after_s = NOW_S - 4000), ProveError::Revocation(NOW_S - 4000));
}

#[test]
fn a_revocation_that_the_prover_knows_is_answered() {
    let credential = credential(&attributes());
    let issued_s = attributes().issued_s;
    let mut request = request();
    request.issued_after_s = issued_s;
    let moment = Moment { revoked_before_s: Some(issued_s), ..moment() };
    let presentation = FIXTURE.prover.prove(&credential, &request, &moment, &mut rng(9)).unwrap();
    assert!(FIXTURE.verifier.verify(&request, &peer(), &presentation).is_ok());

    request.issued_after_s = issued_s + 1;
    let moment = Moment { revoked_before_s: Some(issued_s + 1), ..moment };
    let error = FIXTURE.prover.prove(&credential, &request, &moment, &mut rng(9)).unwrap_err();
    let revoked = Shortfall::Revoked { issued_s, revoked_s: issued_s + 1 };
    assert_eq!(error, ProveError::Shortfall(revoked));
    // The proof of before does not pass for a client that knows of the revocation.
    assert_eq!(FIXTURE.verifier.verify(&request, &peer(), &presentation), Err(VerifyError::Proof));
}

#[test]
fn what_a_credential_falls_short_of_is_named() {
    let short = |change: fn(&mut Attributes)| {
        let mut attributes = attributes();
        change(&mut attributes);
        match prove(&attributes, &request()).unwrap_err() {
            ProveError::Shortfall(shortfall) => shortfall,
            other => panic!("{other}"),
        }
    };
    assert_eq!(short(|it| it.score = 699), Shortfall::Score { score: 699, least: 700 });
    assert_eq!(short(|it| it.kinds = 0b1100), Shortfall::Kinds { missing: 0b0001 });
    assert_eq!(short(|it| it.expires_s = NOW_S), Shortfall::Expired { expires_s: NOW_S });
    assert_eq!(short(|it| it.measurement = Measurement::new(&[9; 48]).unwrap()), Shortfall::Measurement);
    assert_eq!(short(|it| it.measurement = Measurement::new(&[3; 47]).unwrap()), Shortfall::Measurement);
}

#[test]
fn a_credential_that_the_prover_signed_itself_is_refused() {
    let own = IssuerKey::generate(&mut rng(20)).issue(&attributes(), &mut rng(21)).unwrap();
    let error = FIXTURE.prover.prove(&own, &request(), &moment(), &mut rng(9)).unwrap_err();
    assert_eq!(error, ProveError::Shortfall(Shortfall::Issuer));

    let mut renamed = own.clone();
    renamed.issuer = *credential(&attributes()).issuer();
    let error = FIXTURE.prover.prove(&renamed, &request(), &moment(), &mut rng(9)).unwrap_err();
    assert_eq!(error, ProveError::Shortfall(Shortfall::Signature));

    // A prover that does not ask itself: its own set, its own path, or another's place in the true set.
    let (statement, witness) = honest();
    let tree = Tree::new(vec![own.issuer().leaf()], witness.verifier_path.siblings.len()).unwrap();
    let signed = Witness { issuer: own.issuer, signature: own.signature, ..witness.clone() };
    let elsewhere = Witness { verifier_path: tree.path(0).unwrap(), ..signed.clone() };
    for forged in [signed, elsewhere] {
        assert_forged_proof_fails(&statement, &forged, "own signature");
    }
}

#[test]
fn a_changed_credential_is_refused() {
    let mut changed = credential(&attributes());
    changed.attributes.score = 1000;
    let error = FIXTURE.prover.prove(&changed, &request(), &moment(), &mut rng(9)).unwrap_err();
    assert_eq!(error, ProveError::Shortfall(Shortfall::Signature));
}

#[test]
fn one_tpm_shows_one_nullifier_an_epoch() {
    let mut second = attributes();
    second.holder = NodeId([8; 32]);
    let other_peer = prove(&second, &request()).unwrap();
    assert_eq!(other_peer.nullifier, good().nullifier);
    assert!(FIXTURE.verifier.verify(&request(), &second.holder, &other_peer).is_ok());

    let mut tomorrow = request();
    tomorrow.epoch += 1;
    let late = (FIXTURE.parameters.epoch_at(NOW_S) + 1) * 86_400;
    tomorrow.now_s = late;
    let mut attributes = attributes();
    attributes.expires_s = late + 10;
    let moment = Moment { now_s: late, revoked_before_s: None };
    let next = FIXTURE.prover.prove(&credential(&attributes), &tomorrow, &moment, &mut rng(9)).unwrap();
    assert!(FIXTURE.verifier.verify(&tomorrow, &peer(), &next).is_ok());
    assert_ne!(next.nullifier, good().nullifier);

    let other = NetworkId::new("other").unwrap();
    let hardware = attributes.hardware();
    assert_ne!(Nullifier::of(hardware, network_element(&other), request().epoch), good().nullifier);
}

#[test]
fn a_presentation_holds_for_its_peer_request_and_nullifier_alone() {
    let presentation = good();
    let verify = |request: &Request, peer: &NodeId, presentation: &Presentation| {
        FIXTURE.verifier.verify(request, peer, presentation).unwrap_err()
    };
    assert_eq!(verify(&request(), &NodeId([8; 32]), &presentation), VerifyError::Proof);
    let changes: [fn(&mut Request); 4] = [
        |request| request.nonce[31] ^= 1,
        |request| request.session[0] ^= 1,
        |request| request.now_s += 1,
        |request| request.issued_after_s = 1,
    ];
    for change in changes {
        let mut request = request();
        change(&mut request);
        assert_eq!(verify(&request, &peer(), &presentation), VerifyError::Proof);
    }
    let mut other = presentation.clone();
    other.nullifier = Nullifier::of(Fr::ONE, Fr::ONE, 1);
    assert_eq!(verify(&request(), &peer(), &other), VerifyError::Proof);
    let mut epoch = request();
    epoch.epoch += 1;
    let expected = request().epoch;
    assert_eq!(verify(&epoch, &peer(), &presentation), VerifyError::Epoch { asked: expected + 1, expected });
}

/// The statement and the witness of an honest prover.
fn honest() -> (Statement, Witness) {
    let request = request();
    let policy = FIXTURE.parameters.policy(request.policy.as_str()).unwrap();
    FIXTURE.prover.statement(policy, &credential(&attributes()), &request).unwrap()
}

/// Makes a proof of a witness that does not fulfil the statement and sees it fail.
fn assert_forged_proof_fails(statement: &Statement, witness: &Witness, what: &str) {
    let assignment = assign(&statement.inputs(), witness).unwrap();
    assert!(!Relation::attestation().is_satisfied(&assignment), "{what}");
    let proof = FIXTURE.prover.prove_assignment(&assignment, &mut rng(9)).unwrap();
    let presentation = Presentation { proof, nullifier: statement.nullifier };
    assert_eq!(FIXTURE.verifier.verify(&request(), &peer(), &presentation), Err(VerifyError::Proof), "{what}");
}

#[test]
fn each_private_attribute_changed_alone_fails() {
    let (statement, witness) = honest();
    assert!(Relation::attestation().is_satisfied(&assign(&statement.inputs(), &witness).unwrap()));
    let changes: [Change<Witness>; 18] = [
        ("kinds", |it| it.kinds += Fr::from(2)),
        ("score", |it| it.score += Fr::ONE),
        ("issued", |it| it.issued += Fr::ONE),
        ("expires", |it| it.expires += Fr::ONE),
        ("attested inputs", |it| it.others += Fr::from(1)),
        ("firmware age", |it| it.others += Fr::from(1u64 << 8)),
        ("GPU class", |it| it.others += Fr::from(1u64 << 40)),
        ("measurement", |it| it.measurement = Measurement::new(&[4; 48]).unwrap().element()),
        ("hardware tag", |it| it.hardware += Fr::ONE),
        ("kinds beyond their bits", |it| it.kinds += Fr::from(1u64 << 16)),
        ("score and issued exchanged within the packing", |it| {
            it.score += Fr::from(1u64 << 16);
            it.issued -= Fr::ONE;
        }),
        ("expires and issued exchanged within the packing", |it| {
            it.issued += Fr::from(1u64 << 40);
            it.expires -= Fr::ONE;
        }),
        ("a negative score made up for by the time", |it| {
            it.score -= Fr::from(1u64 << 16);
            it.issued += Fr::ONE;
        }),
        ("verifier", |it| it.issuer = *FIXTURE.issuers[0].public(&mut rng(5)).key()),
        ("place of the verifier", |it| it.verifier_path.index ^= 1),
        ("neighbour of the verifier", |it| it.verifier_path.siblings[7] += Fr::ONE),
        ("place of the measurement", |it| it.measurement_path.index ^= 1),
        ("neighbour of the measurement", |it| it.measurement_path.siblings[11] += Fr::ONE),
    ];
    for (what, change) in changes {
        let mut changed = witness.clone();
        change(&mut changed);
        assert_forged_proof_fails(&statement, &changed, what);
    }
    let other = credential(&Attributes { score: 851, ..attributes() });
    assert_forged_proof_fails(&statement, &Witness { signature: other.signature, ..witness }, "signature");
}

#[test]
fn each_public_input_changed_alone_fails() {
    let (statement, _) = honest();
    let proof = good().proof;
    let check = |statement: &Statement| FIXTURE.verifier.check(statement, &proof);
    assert_eq!(check(&statement), Ok(()));
    let changes: [Change<Statement>; 13] = [
        ("set of verifiers", |it| it.verifiers += Fr::ONE),
        ("allow-list", |it| it.measurements += Fr::ONE),
        ("more kinds required", |it| it.required_kinds = REQUIRED | 0b10),
        ("fewer kinds required", |it| it.required_kinds = 0),
        ("higher score", |it| it.least_score += 1),
        ("lower score", |it| it.least_score = 0),
        ("now", |it| it.now_s += 1),
        ("issued after", |it| it.issued_after_s = 1),
        ("peer", |it| it.peer = Statement::peer_of(&NodeId([8; 32]))),
        ("nullifier", |it| it.nullifier = Nullifier::of(Fr::ONE, it.network, it.epoch)),
        ("network", |it| it.network = network_element(&NetworkId::new("other").unwrap())),
        ("epoch", |it| it.epoch += 1),
        ("nonce and session", |it| it.binding = binding_element(&[0; 32], &[5; 32])),
    ];
    for (what, change) in changes {
        let mut changed = statement.clone();
        change(&mut changed);
        assert_eq!(check(&changed), Err(VerifyError::Proof), "{what}");
    }
}

#[test]
fn each_public_input_changed_alone_cannot_be_proved() {
    let (statement, witness) = honest();
    for place in 0..PUBLIC_INPUTS {
        let mut inputs = statement.inputs();
        inputs[place] += Fr::ONE;
        // A higher time or threshold is within what the credential fulfils; nonce and session are free.
        let free = [3, 4, 5, 10].contains(&place);
        let satisfied = Relation::attestation().is_satisfied(&assign(&inputs, &witness).unwrap());
        assert_eq!(satisfied, free, "input {place}");
    }
}

#[test]
fn conditions_hold_at_their_edges_only() {
    let (statement, witness) = honest();
    let satisfied = |change: fn(&mut Statement)| {
        let mut statement = statement.clone();
        change(&mut statement);
        Relation::attestation().is_satisfied(&assign(&statement.inputs(), &witness).unwrap())
    };
    assert!(satisfied(|it| it.least_score = 850));
    assert!(!satisfied(|it| it.least_score = 851));
    assert!(satisfied(|it| it.now_s = NOW_S + 3599));
    assert!(!satisfied(|it| it.now_s = NOW_S + 3600));
    assert!(satisfied(|it| it.issued_after_s = NOW_S - 3600));
    assert!(!satisfied(|it| it.issued_after_s = NOW_S - 3599));
    assert!(satisfied(|it| it.required_kinds = 0b1101));
    assert!(!satisfied(|it| it.required_kinds = 0b1111));
}

#[test]
fn a_proof_can_be_made_into_another_so_bytes_are_no_nonce() {
    let presentation = good();
    let proof = Proof::<Bn254> {
        a: G1Affine::deserialize_compressed(&presentation.proof[..32]).unwrap(),
        b: G2Affine::deserialize_compressed(&presentation.proof[32..96]).unwrap(),
        c: G1Affine::deserialize_compressed(&presentation.proof[96..]).unwrap(),
    };
    let other = Groth16::<Bn254>::rerandomize_proof(&FIXTURE.key.key.vk, &proof, &mut rng(30));
    let mut bytes = Vec::new();
    write(&other.a, &mut bytes);
    write(&other.b, &mut bytes);
    write(&other.c, &mut bytes);
    let other = Presentation { proof: bytes.try_into().unwrap(), nullifier: presentation.nullifier };
    assert_ne!(other.proof, presentation.proof);
    assert!(FIXTURE.verifier.verify(&request(), &peer(), &other).is_ok());
    let mut again = request();
    again.nonce = [6; 32];
    assert_eq!(FIXTURE.verifier.verify(&again, &peer(), &other), Err(VerifyError::Proof));
}

#[test]
fn a_batch_falls_with_any_one_of_it() {
    let mut second = attributes();
    second.holder = NodeId([8; 32]);
    let claims = [
        Claim { request: request(), peer: peer(), presentation: good() },
        Claim { request: request(), peer: second.holder, presentation: prove(&second, &request()).unwrap() },
    ];
    let claims: Vec<Claim> = claims.iter().cycle().take(7).cloned().collect();
    let nullifiers = FIXTURE.verifier.verify_batch(&claims, &mut rng(40)).unwrap();
    assert_eq!(nullifiers, vec![good().nullifier; 7]);
    assert_eq!(FIXTURE.verifier.verify_batch(&[], &mut rng(40)), Ok(Vec::new()));
    for index in 0..claims.len() {
        let mut wrong = claims.clone();
        wrong[index].request.nonce[0] ^= 1;
        let error = FIXTURE.verifier.verify_batch(&wrong, &mut rng(41)).unwrap_err();
        assert_eq!((error.index, error.error), (index, VerifyError::Proof));
        let mut malformed = claims.clone();
        malformed[index].presentation.proof[..32].fill(0xff);
        let error = FIXTURE.verifier.verify_batch(&malformed, &mut rng(41)).unwrap_err();
        assert_eq!(error.index, index);
        assert!(matches!(error.error, VerifyError::Point { point: 'A', .. }));
    }
}

#[test]
fn two_wrong_proofs_do_not_make_up_for_each_other() {
    // C moved by the same amount in opposite directions: the plain sum of both equations would hold.
    let move_c = |by: Fr| {
        let mut presentation = good();
        let c = G1Affine::deserialize_compressed(&presentation.proof[96..]).unwrap();
        let mut bytes = Vec::new();
        write(&G1Affine::from(c + FIXTURE.key.key.delta_g1 * by), &mut bytes);
        presentation.proof[96..].copy_from_slice(&bytes);
        Claim { request: request(), peer: peer(), presentation }
    };
    let claims = [move_c(Fr::ONE), move_c(-Fr::ONE)];
    let error = FIXTURE.verifier.verify_batch(&claims, &mut rng(42)).unwrap_err();
    assert_eq!((error.index, error.error), (0, VerifyError::Proof));
}
