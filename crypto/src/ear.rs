//! EAT attestation results (draft-ietf-rats-ear-04) as compact JWTs, signed with a node's key.
//!
//! The claims are the draft's in JSON (its crate `ear` reads the same, but what it depends on builds with an HTTP client over OpenSSL).
//! The signature is EdDSA over Ed25519 (RFC 7515 and RFC 8037) by the node's own key, whose PeerId is the header's `kid`. So any
//! JWT tool that has the key can verify one, and a token needs no other file.

use crate::keys::SecretKey;
use aitbc_protocol::{
    CLOCK_TOLERANCE_MS, Digest, NodeId, UnixMillis,
    attestation::{
        Appraisal, IntegrityInputs, Tier, TrustVector,
        exchange::{AttestationResult, MAX_EAR_BYTES, RESULT_LIFETIME_MS},
    },
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::{Signature, VerifyingKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// The draft's profile.
pub const PROFILE: &str = "tag:ietf.org,2026:rats/ear#04";
/// Name of the submodule that holds what the score follows from.
pub const INTEGRITY: &str = "integrity";

/// Why a text is not an attestation result that counts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EarError {
    /// Longer than any.
    #[error("an attestation result of {0} bytes where at most {MAX_EAR_BYTES} are allowed")]
    TooLarge(usize),
    /// Not a compact JWT, or not one of EdDSA with a PeerId as `kid`.
    #[error("not a JWT that a node signed (EdDSA, with its PeerId as kid)")]
    Malformed,
    /// The signature is another's.
    #[error("the signature of the attestation result is not valid")]
    Signature,
    /// The claims are no EAR.
    #[error("not an EAT attestation result: {0}")]
    Claims(String),
    /// From the future, or for longer than results stand.
    #[error("the attestation result is dated in the future, or for longer than a day")]
    Dates,
    /// Its time is over.
    #[error("the attestation result has expired")]
    Expired,
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    kid: NodeId,
    typ: String,
}

/// The claims of an attestation result (draft-ietf-rats-ear-04, section 3). Claims that are not known here are ignored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ear {
    /// [`PROFILE`].
    pub eat_profile: String,
    /// When it was issued, in seconds since 1970.
    pub iat: i64,
    /// Until when it stands, in seconds since 1970.
    pub exp: i64,
    /// What verified.
    pub ear_verifier_id: VerifierId,
    /// What was found, by kind of evidence.
    pub submods: BTreeMap<String, Submodule>,
    /// The tier of all together.
    pub ear_status: Tier,
    /// The nonce that the evidence was asked with.
    pub eat_nonce: String,
}

/// The software of a verifier, and who answers for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VerifierId {
    /// Which build.
    pub build: String,
    /// By whom.
    pub developer: String,
}

/// What was found about one part of the node (section 3.1).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Submodule {
    /// Its tier.
    pub ear_status: Tier,
    /// AR4SI claims by name, those that say something.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ear_trustworthiness_vector: BTreeMap<String, i8>,
    /// What the node says.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ear_attester_claims: BTreeMap<String, Value>,
    /// What the verifier says.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ear_verifier_claims: BTreeMap<String, Value>,
}

fn vector(of: TrustVector) -> BTreeMap<String, i8> {
    let names = [
        "instance-identity",
        "configuration",
        "executables",
        "file-system",
        "hardware",
        "runtime-opaque",
        "storage-opaque",
        "sourced-data",
    ];
    let claims = names.into_iter().zip(of.claims()).filter(|(_, claim)| *claim != 0);
    claims.map(|(name, claim)| (name.to_owned(), claim)).collect()
}

/// What goes into an EAR.
#[derive(Debug)]
pub struct Findings<'a> {
    /// Whom it is about, the tier, the score and the dates; its `ear` is not read.
    pub result: &'a AttestationResult,
    /// The nonce asked with.
    pub nonce: &'a Digest,
    /// What was found, with the SHA-256 of each piece of evidence.
    pub appraisals: &'a [(Appraisal, Digest)],
    /// What the score follows from.
    pub inputs: &'a IntegrityInputs,
    /// The verifier's version.
    pub build: &'a str,
}

/// The claims: a submodule a piece of evidence, named by its kind, and one for the score.
pub fn claims(findings: &Findings<'_>) -> Ear {
    let Findings { result, nonce, appraisals, inputs, build } = findings;
    let mut submods = BTreeMap::new();
    for (index, (appraisal, evidence)) in appraisals.iter().enumerate() {
        let mut said = BTreeMap::from([("evidence_sha256".to_owned(), evidence.to_string().into())]);
        if !appraisal.measurement.as_bytes().is_empty() {
            said.insert("measurement".to_owned(), appraisal.measurement.to_string().into());
        }
        if !appraisal.notes.is_empty() {
            said.insert("notes".to_owned(), appraisal.notes.clone().into());
        }
        let of = Submodule {
            ear_status: appraisal.tier(),
            ear_trustworthiness_vector: vector(appraisal.vector),
            ear_attester_claims: BTreeMap::new(),
            ear_verifier_claims: said,
        };
        let name = appraisal.kind.as_str();
        let taken = submods.contains_key(name);
        submods.insert(if taken { format!("{name}-{index}") } else { name.to_owned() }, of);
    }
    let mut integrity = Submodule::default();
    let said = &mut integrity.ear_verifier_claims;
    said.insert("peer".to_owned(), result.peer.to_string().into());
    said.insert("score".to_owned(), result.score.into());
    said.insert("attested_inputs".to_owned(), result.attested.mask().into());
    let mut record = |name: &str, attested: Option<Value>, reported: Option<Value>| {
        integrity.ear_verifier_claims.extend(attested.map(|value| (name.to_owned(), value)));
        integrity.ear_attester_claims.extend(reported.map(|value| (name.to_owned(), value)));
    };
    let IntegrityInputs { vulnerable, firmware_age_days: age, suspicious_processes: processes } = inputs;
    record("vulnerable", vulnerable.attested.map(Value::from), vulnerable.reported.map(Value::from));
    record("firmware_age_days", age.attested.map(Value::from), age.reported.map(Value::from));
    record("suspicious_processes", processes.attested.map(Value::from), processes.reported.map(Value::from));
    submods.insert(INTEGRITY.to_owned(), integrity);
    Ear {
        eat_profile: PROFILE.to_owned(),
        iat: seconds(result.issued_ms),
        exp: seconds(result.expires_ms),
        ear_verifier_id: VerifierId { build: (*build).to_owned(), developer: "aitbc".to_owned() },
        submods,
        ear_status: result.tier,
        eat_nonce: nonce.to_string(),
    }
}

fn seconds(at_ms: UnixMillis) -> i64 {
    i64::try_from(at_ms / 1000).unwrap_or(i64::MAX)
}

/// Signs claims as a compact JWT.
pub fn sign(key: &SecretKey, ear: &Ear) -> Result<String, EarError> {
    let header = Header { alg: "EdDSA".to_owned(), kid: key.node_id(), typ: "eat+jwt".to_owned() };
    let explain = |error: serde_json::Error| EarError::Claims(error.to_string());
    let header = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&header).map_err(explain)?);
    let claims = URL_SAFE_NO_PAD.encode(serde_json::to_vec(ear).map_err(explain)?);
    let mut token = format!("{header}.{claims}");
    let signature = key.sign(token.as_bytes());
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut token);
    if token.len() > MAX_EAR_BYTES { Err(EarError::TooLarge(token.len())) } else { Ok(token) }
}

/// Verifies a token and reads its claims; returns who signed it.
pub fn open(token: &str, now_ms: UnixMillis) -> Result<(NodeId, Ear), EarError> {
    if token.len() > MAX_EAR_BYTES {
        return Err(EarError::TooLarge(token.len()));
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(EarError::Malformed)?;
    let (header, claims) = signed.split_once('.').ok_or(EarError::Malformed)?;
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| EarError::Malformed);
    let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| EarError::Malformed)?;
    if header.alg != "EdDSA" {
        return Err(EarError::Malformed);
    }
    let key = VerifyingKey::from_bytes(&header.kid.0).map_err(|_| EarError::Signature)?;
    let signature = Signature::from_slice(&decode(signature)?).map_err(|_| EarError::Malformed)?;
    key.verify_strict(signed.as_bytes(), &signature).map_err(|_| EarError::Signature)?;
    let ear: Ear = serde_json::from_slice(&decode(claims)?)
        .map_err(|error| EarError::Claims(error.to_string().chars().take(160).collect()))?;
    if ear.eat_profile != PROFILE || ear.submods.is_empty() {
        return Err(EarError::Claims("another profile, or no submodule".to_owned()));
    }
    if ear.exp <= seconds(now_ms) {
        return Err(EarError::Expired);
    }
    let tolerated = seconds(now_ms.saturating_add(CLOCK_TOLERANCE_MS));
    if ear.iat > tolerated || ear.exp.saturating_sub(ear.iat) > seconds(RESULT_LIFETIME_MS) {
        return Err(EarError::Dates);
    }
    Ok((header.kid, ear))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aitbc_protocol::attestation::{AttestedInputs, EvidenceKind, Input, Kinds, Measurement};
    use proptest::prelude::*;

    const NOW: UnixMillis = 1_800_000_000_000;

    fn token(key: &SecretKey) -> String {
        let result = AttestationResult {
            peer: NodeId([3; 32]),
            tier: Tier::Warning,
            score: 700,
            attested: AttestedInputs::default(),
            kinds: Kinds::default().with(EvidenceKind::Tpm),
            ear: Digest([0; 32]),
            issued_ms: NOW,
            expires_ms: NOW + 1_000,
        };
        let appraisal = Appraisal {
            kind: EvidenceKind::Tpm,
            vector: TrustVector { hardware: 2, configuration: 32, ..TrustVector::default() },
            hardware: None,
            measurement: Measurement::from([5; 32]),
            firmware_ms: None,
            vulnerable: None,
            expires_ms: None,
            notes: vec!["Secure Boot is off".to_owned()],
        };
        let inputs = IntegrityInputs {
            vulnerable: Input { attested: None, reported: Some(true) },
            ..IntegrityInputs::default()
        };
        let findings = Findings {
            result: &result,
            nonce: &Digest([9; 32]),
            appraisals: &[(appraisal, Digest([8; 32]))],
            inputs: &inputs,
            build: "aitbc/test",
        };
        sign(key, &claims(&findings)).unwrap()
    }

    #[test]
    fn what_was_signed_reads_back_with_its_signer() {
        let key = SecretKey::from_bytes(&[1; 32]);
        let (signer, ear) = open(&token(&key), NOW).unwrap();
        assert_eq!(signer, key.node_id());
        let measured = Measurement::from([5; 32]).to_string();
        let expected = serde_json::json!({
            "eat_profile": "tag:ietf.org,2026:rats/ear#04",
            "iat": NOW / 1000,
            "exp": NOW / 1000 + 1,
            "ear_verifier_id": {"build": "aitbc/test", "developer": "aitbc"},
            "submods": {
                "tpm": {
                    "ear_status": "warning",
                    "ear_trustworthiness_vector": {"configuration": 32, "hardware": 2},
                    "ear_verifier_claims": {
                        "evidence_sha256": Digest([8; 32]), "measurement": measured, "notes": ["Secure Boot is off"],
                    },
                },
                "integrity": {
                    "ear_status": "none",
                    "ear_attester_claims": {"vulnerable": true},
                    "ear_verifier_claims": {"attested_inputs": 0, "peer": NodeId([3; 32]), "score": 700},
                },
            },
            "ear_status": "warning",
            "eat_nonce": Digest([9; 32]),
        });
        assert_eq!(serde_json::to_value(&ear).unwrap(), expected, "as the crate ear reads it");
    }

    #[test]
    fn time_algorithm_and_signer_count() {
        let key = SecretKey::from_bytes(&[1; 32]);
        let good = token(&key);
        assert_eq!(open(&good, NOW + 1_000).unwrap_err(), EarError::Expired);
        assert_eq!(open(&good, NOW - CLOCK_TOLERANCE_MS - 1_000).unwrap_err(), EarError::Dates);
        let (_, mut long) = open(&good, NOW).unwrap();
        long.exp = long.iat + 86_401;
        assert_eq!(open(&sign(&key, &long).unwrap(), NOW).unwrap_err(), EarError::Dates);
        let mut parts: Vec<&str> = good.split('.').collect();
        let none = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"none","kid":"{}","typ":"JWT"}}"#, key.node_id()));
        parts[0] = &none;
        assert_eq!(open(&parts.join("."), NOW).unwrap_err(), EarError::Malformed);
        let other = SecretKey::from_bytes(&[2; 32]).node_id();
        let stolen = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"EdDSA","kid":"{other}","typ":"eat+jwt"}}"#));
        parts[0] = &stolen;
        assert_eq!(open(&parts.join("."), NOW).unwrap_err(), EarError::Signature);
        assert_eq!(open(&"a".repeat(MAX_EAR_BYTES + 1), NOW).unwrap_err(), EarError::TooLarge(MAX_EAR_BYTES + 1));
    }

    proptest! {
        #[test]
        fn no_changed_character_passes(at in 0_usize..2_000, to in proptest::char::range('-', 'z')) {
            let good = token(&SecretKey::from_bytes(&[1; 32]));
            let at = at % good.len();
            let mut changed = good.clone();
            changed.replace_range(at..=at, &to.to_string());
            prop_assume!(changed != good);
            prop_assert!(open(&changed, NOW).is_err());
        }
    }
}
