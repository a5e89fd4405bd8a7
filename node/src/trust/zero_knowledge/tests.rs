use super::*;
use aitbc_circuits::{
    Attributes, IssuerKey, Measurement,
    parameters::{File, Keys, PolicyFile},
    setup,
};
use aitbc_crypto::{SecretKey, seal};
use aitbc_protocol::{
    attestation::{AttestedInputs, Kinds, Tier, exchange::AttestationResult},
    text::Line,
};
use std::sync::LazyLock;

const NOW: UnixMillis = 1_800_000_000_000;
const HOUR: u64 = 3_600_000;

fn node(n: u8) -> SecretKey {
    SecretKey::from_bytes(&[n; 32])
}

fn local() -> NetworkId {
    NetworkId::new(NetworkId::LOCAL).expect("a valid name")
}

/// A network of one verifier, node 3.
struct Network {
    directory: tempfile::TempDir,
    issuer: IssuerKey,
}

static NETWORK: LazyLock<Network> = LazyLock::new(|| {
    let issuer = IssuerKey::generate(&mut OsRng);
    let (proving, verifying) = setup::development(&mut OsRng).expect("keys");
    let policy = |name: &str, least_score| PolicyFile {
        name: Line::lossy(name),
        private: false,
        required_kinds: 1,
        least_score,
        measurements: vec!["07".repeat(32)],
    };
    let file = File {
        network: local(),
        epoch_ms: 24 * HOUR,
        keys: Keys {
            proving: proving.digest(),
            verifying: verifying.digest(),
            development: true,
            contributions: Vec::new(),
        },
        verifiers: vec![issuer.public(&mut OsRng)],
        nodes: vec![node(3).node_id()],
        policies: vec![policy("strict", 1_000), policy("lax", 500)],
    };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let write = |name: &str, bytes: &[u8]| std::fs::write(directory.path().join(name), bytes).expect("written");
    write(PARAMETERS, &serde_json::to_vec(&file).expect("JSON"));
    write(PROVING_KEY, &proving.to_bytes());
    write(VERIFYING_KEY, &verifying.to_bytes());
    Network { directory, issuer }
});

fn load(proves: bool) -> ZeroKnowledge {
    ZeroKnowledge::load(NETWORK.directory.path(), &local(), proves).expect("a network's files")
}

static PROVIDER: LazyLock<ZeroKnowledge> = LazyLock::new(|| load(true));
static CLIENT: LazyLock<ZeroKnowledge> = LazyLock::new(|| load(false));

/// What node 3 issued to node 2 an hour ago.
fn issued(score: u16) -> Vec<Issued> {
    let peer = node(2).node_id();
    let attributes = Attributes {
        kinds: 1,
        measurement: Measurement::new(&[7; 32]).expect("a measurement"),
        score,
        attested_inputs: 0,
        firmware_age_days: 0,
        gpu_class: 0,
        hw_tag: [9; 32],
        holder: peer,
        issued_s: (NOW - HOUR) / 1000,
        expires_s: (NOW + HOUR) / 1000,
    };
    let credential = NETWORK.issuer.issue(&attributes, &mut OsRng).expect("attributes in order");
    let result = AttestationResult {
        peer,
        tier: Tier::Affirming,
        score,
        attested: AttestedInputs::default(),
        kinds: Kinds::default(),
        ear: Digest([0; 32]),
        issued_ms: NOW - HOUR,
        expires_ms: NOW + HOUR,
    };
    let result = seal(&node(3), &local(), &result).expect("it fits");
    let credential = Some(BoundedBytes::new(credential.to_bytes()).expect("it fits"));
    vec![Issued { result, ear: Line::lossy(""), credential }]
}

fn prove(client: NodeId, asked: &ProofRequest, score: u16) -> Result<Presentation, ProvingError> {
    PROVIDER.prove(&issued(score), node(2).node_id(), client, asked, NOW)
}

fn ask(policy: &str, revoked: Option<Signed<Revoke>>) -> ProofRequest {
    CLIENT.ask(Line::lossy(policy), revoked, NOW)
}

#[test]
fn a_proof_is_for_one_client_one_provider_and_one_nonce() {
    let (client, provider) = (node(1).node_id(), node(2).node_id());
    let asked = ask("strict", None);
    let shown = prove(client, &asked, 1_000).expect("it meets the policy");
    let nullifier = CLIENT.verify(&asked, client, provider, &shown).expect("it holds");
    assert!(CLIENT.verify(&asked, node(4).node_id(), provider, &shown).is_err(), "passed on to another client");
    assert!(CLIENT.verify(&asked, client, node(4).node_id(), &shown).is_err(), "shown by another provider");
    let again = ask("strict", None);
    assert!(CLIENT.verify(&again, client, provider, &shown).is_err(), "shown again");
    assert!(
        CLIENT.verify(&ProofRequest { nonce: asked.nonce, ..ask("lax", None) }, client, provider, &shown).is_err()
    );
    let other = prove(client, &again, 1_000).expect("it meets the policy");
    assert_eq!(
        CLIENT.verify(&again, client, provider, &other).expect("it holds"),
        nullifier,
        "one TPM, one nullifier"
    );
    let cut = Presentation { proof: BoundedBytes::new(vec![0; 3]).expect("few"), nullifier: shown.nullifier };
    assert!(matches!(CLIENT.verify(&asked, client, provider, &cut), Err(ProofError::Malformed(_))));
}

#[test]
fn only_a_word_of_the_networks_verifiers_is_taken_back() {
    let (client, provider) = (node(1).node_id(), node(2).node_id());
    let revoke = |signer: u8, peer: u8, before_ms: u64, issued_ms: u64| {
        let revoke = Revoke { peer: node(peer).node_id(), issued_before_ms: before_ms, issued_ms };
        Some(seal(&node(signer), &local(), &revoke).expect("it fits"))
    };
    let attempt = |revoked| {
        let asked = ask("strict", revoked);
        let shown = prove(client, &asked, 1_000)?;
        CLIENT.verify(&asked, client, provider, &shown).expect("what is proved holds");
        Ok::<_, ProvingError>(())
    };
    assert!(attempt(revoke(3, 2, NOW - 2 * HOUR, NOW)).is_ok(), "it was attested anew since");
    let late = attempt(revoke(3, 2, NOW, NOW)).unwrap_err();
    assert!(matches!(late, ProvingError::Prove(ProveError::Shortfall(_))), "{late}");
    for (what, revoked) in [
        ("by a stranger", revoke(4, 2, NOW - 2 * HOUR, NOW)),
        ("about another", revoke(3, 4, NOW - 2 * HOUR, NOW)),
        ("more than a day old", revoke(3, 2, NOW - 30 * HOUR, NOW - 25 * HOUR)),
    ] {
        assert!(matches!(attempt(revoked), Err(ProvingError::Revocation)), "{what}");
    }
}

#[test]
fn what_can_be_proved_is_named_and_the_strictest_is_asked_for() {
    let names = |policies: Vec<PolicyName>| policies.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names(PROVIDER.provable(&issued(1_000))), ["strict", "lax"]);
    assert_eq!(names(PROVIDER.provable(&issued(700))), ["lax"]);
    assert!(CLIENT.provable(&issued(1_000)).is_empty(), "without a proving key");
    let lax_first = [Line::lossy("lax"), Line::lossy("strict"), Line::lossy("unknown")];
    assert_eq!(CLIENT.choose(&lax_first), Some(Line::lossy("strict")), "the file's order counts");
    assert_eq!(CLIENT.choose(&[Line::lossy("unknown")]), None);
    assert!(prove(node(1).node_id(), &ask("strict", None), 700).is_err());
    let nothing = CLIENT.prove(&issued(1_000), node(2).node_id(), node(1).node_id(), &ask("lax", None), NOW);
    assert!(matches!(nothing, Err(ProvingError::NoKey)));
    let none = PROVIDER.prove(&[], node(2).node_id(), node(1).node_id(), &ask("lax", None), NOW);
    assert!(matches!(none, Err(ProvingError::NoCredential)));
}

#[test]
fn files_of_another_network_or_other_keys_are_refused() {
    let other = NetworkId::new("main").expect("a name");
    let refused = ZeroKnowledge::load(NETWORK.directory.path(), &other, false).unwrap_err();
    assert!(matches!(refused, SetupError::Network { .. }), "{refused}");
    let copy = tempfile::tempdir().expect("a temporary directory");
    for name in [PARAMETERS, PROVING_KEY, VERIFYING_KEY] {
        std::fs::copy(NETWORK.directory.path().join(name), copy.path().join(name)).expect("copied");
    }
    let verifying = copy.path().join(VERIFYING_KEY);
    let mut bytes = std::fs::read(&verifying).expect("a key");
    *bytes.last_mut().expect("not empty") ^= 1;
    std::fs::write(&verifying, bytes).expect("written");
    let refused = ZeroKnowledge::load(copy.path(), &local(), false).unwrap_err();
    assert!(matches!(refused, SetupError::Key { .. } | SetupError::Refused(_)), "{refused}");
    std::fs::remove_file(&verifying).expect("removed");
    let refused = ZeroKnowledge::load(copy.path(), &local(), false).unwrap_err();
    assert!(refused.to_string().contains("verifying.key"), "{refused}");
}
