//! A network for tests: eight verifiers, one policy, development keys.

use crate::{
    attestation::{
        attributes::{Attributes, Measurement, hw_tag},
        credential::Credential,
        issuer::IssuerKey,
    },
    contribution::{ContributionFile, Phase},
    parameters::{File, Keys, Parameters, PolicyFile},
    presentation::Request,
    prover::{Moment, Prover},
    setup::{self, ProvingKey},
    verifier::Verifier,
};
use aitbc_protocol::{Digest, NetworkId, NodeId, text::Line};
use ark_std::rand::{SeedableRng, rngs::StdRng};
use std::sync::{Arc, LazyLock};

/// The time of every test, in seconds since 1970.
pub(crate) const NOW_S: u64 = 1_800_000_000;
/// The policy of every test.
pub(crate) const POLICY: &str = "standard";
/// Two kinds of evidence of those that a credential has.
pub(crate) const REQUIRED: u16 = 0b101;

/// What tests share: keys take a second to make.
pub(crate) struct Fixture {
    pub(crate) key: ProvingKey,
    pub(crate) issuers: Vec<IssuerKey>,
    pub(crate) parameters: Arc<Parameters>,
    pub(crate) prover: Prover,
    pub(crate) verifier: Verifier,
}

pub(crate) static FIXTURE: LazyLock<Fixture> = LazyLock::new(|| {
    let mut rng = rng(1);
    let (key, verifying) = setup::development(&mut rng).unwrap();
    let issuers: Vec<_> = (0..8).map(|_| IssuerKey::generate(&mut rng)).collect();
    let file = file(&key, &issuers);
    let parameters = Arc::new(Parameters::new(file).unwrap());
    let prover = Prover::new(parameters.clone(), key.clone()).unwrap();
    let verifier = Verifier::new(parameters.clone(), &verifying).unwrap();
    Fixture { key, issuers, parameters, prover, verifier }
});

pub(crate) fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

/// The parameters of the test network.
pub(crate) fn file(key: &ProvingKey, issuers: &[IssuerKey]) -> File {
    let mut rng = rng(2);
    File {
        network: NetworkId::new(NetworkId::LOCAL).unwrap(),
        epoch_ms: 86_400_000,
        keys: Keys {
            proving: key.digest(),
            verifying: key.verifying_key().digest(),
            development: true,
            contributions: Vec::new(),
        },
        verifiers: issuers.iter().map(|issuer| issuer.public(&mut rng)).collect(),
        nodes: (0..issuers.len()).map(|index| NodeId([index as u8 + 1; 32])).collect(),
        policies: vec![PolicyFile {
            name: Line::new(POLICY).unwrap(),
            private: true,
            required_kinds: REQUIRED,
            least_score: 700,
            measurements: (0..5).map(|index| hex::encode([index; 48])).collect(),
        }],
    }
}

/// A peer that is the holder in most tests.
pub(crate) fn peer() -> NodeId {
    NodeId([7; 32])
}

/// Attributes that fulfil the policy.
pub(crate) fn attributes() -> Attributes {
    Attributes {
        kinds: 0b1101,
        measurement: Measurement::new(&[3; 48]).unwrap(),
        score: 850,
        attested_inputs: 0b11,
        firmware_age_days: 120,
        gpu_class: 9,
        hw_tag: hw_tag(&[1; 32], &[2; 32]),
        holder: peer(),
        issued_s: NOW_S - 3600,
        expires_s: NOW_S + 3600,
    }
}

/// A credential of the third verifier.
pub(crate) fn credential(attributes: &Attributes) -> Credential {
    FIXTURE.issuers[2].issue(attributes, &mut rng(3)).unwrap()
}

/// What a client asks in most tests.
pub(crate) fn request() -> Request {
    Request {
        policy: Line::new(POLICY).unwrap(),
        now_s: NOW_S,
        epoch: FIXTURE.parameters.epoch_at(NOW_S),
        issued_after_s: 0,
        nonce: [4; 32],
        session: [5; 32],
    }
}

/// A moment in which the request is answered.
pub(crate) fn moment() -> Moment {
    Moment { now_s: NOW_S + 1, revoked_before_s: None }
}

/// That a network with these keys can prove and verify.
pub(crate) fn assert_proves(key: &ProvingKey) {
    let mut file = file(key, &FIXTURE.issuers);
    file.keys.development = key.origin() == setup::Origin::Development;
    if !file.keys.development {
        let phases = [Phase::Powers, Phase::Circuit].into_iter().flat_map(|phase| [phase; 3]);
        let contributions = phases.zip(1..).map(|(phase, number)| ContributionFile {
            phase,
            name: Line::lossy("a"),
            digest: Digest([number; 32]),
        });
        file.keys.contributions = contributions.collect();
    }
    let parameters = Arc::new(Parameters::new(file).unwrap());
    let prover = Prover::new(parameters.clone(), key.clone()).unwrap();
    let shown = prover.prove(&credential(&attributes()), &request(), &moment(), &mut rng(9)).unwrap();
    let verifier = Verifier::new(parameters, &key.verifying_key()).unwrap();
    assert!(verifier.verify(&request(), &peer(), &shown).is_ok());
}
