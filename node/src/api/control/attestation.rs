//! Attestation on the control API: having peers show what they are, and what is known.

use super::{ApiState, Failure, Payload, UPDATES, ndjson, streamed, write_exchange};
use crate::storage::AttestationRecord;
use aitbc_protocol::{
    Digest, NodeId, Signed, UnixMillis,
    attestation::{EvidenceKind, Measurement, Tier, exchange::AttestationResult},
};
use axum::{Json, extract::State, response::Response};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// The body of `POST /aitbc/v1/attest`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AttestRequest {
    peer: NodeId,
    /// Whether what was measured there before does not count.
    #[serde(default)]
    anew: bool,
}

pub(super) async fn attest(State(state): State<ApiState>, body: Payload) -> Result<Response, Failure> {
    let AttestRequest { peer, anew } = body.json()?;
    let place = state.place()?;
    let attestation = state.parts().attestation.clone();
    let (sender, steps) = mpsc::channel(UPDATES);
    let exchange = async move { attestation.attest(peer, anew, &sender).await };
    Ok(ndjson(streamed(tracing::info_span!("api_attest"), move |writer| {
        write_exchange(writer, "aitbc.attest/1", exchange, steps, place)
    })))
}

/// `aitbc.attestations/1`
#[derive(Debug, Serialize)]
pub(super) struct Attestations {
    schema: &'static str,
    /// This node by the word of others.
    own: Own,
    /// Others by this node's.
    peers: Vec<Other>,
}

/// This node in `aitbc.attestations/1` and `aitbc.status/1`.
#[derive(Debug, Serialize)]
pub(super) struct Own {
    /// The best tier that somebody signed; each is worth what its signer is.
    tier: Tier,
    /// What was issued, newest first.
    results: Vec<Issued>,
    /// Policies that its offers name.
    policies: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Issued {
    verifier: NodeId,
    #[serde(flatten)]
    result: AttestationResult,
    /// The EAT attestation result, as a JWT.
    ear: String,
    /// Whether a credential for proofs came with it.
    credential: bool,
}

#[derive(Debug, Serialize)]
struct Other {
    peer: NodeId,
    at_ms: UnixMillis,
    tier: Tier,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<AttestationResult>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signed: Option<Signed<AttestationResult>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ear: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
    measured: Vec<(EvidenceKind, Measurement)>,
}

impl From<AttestationRecord> for Other {
    fn from(record: AttestationRecord) -> Self {
        let AttestationRecord { peer, at_ms, result: signed, ear, failure, against, measured, .. } = record;
        let result = signed.as_ref().and_then(|signed| signed.read_unverified().ok());
        let standing = result.as_ref().filter(|result| result.stands(crate::clock::now_ms()));
        let tier = match standing {
            _ if against => Tier::Contraindicated,
            Some(result) => result.tier,
            None => Tier::None,
        };
        Self { peer, at_ms, tier, result, signed, ear, failure, measured }
    }
}

/// This node by the word of others.
pub(super) fn own(state: &ApiState) -> Own {
    let attestation = &state.parts().attestation;
    let results: Vec<Issued> = attestation
        .issued()
        .into_iter()
        .filter_map(|issued| {
            let result = issued.result.read_unverified().ok()?;
            let ear = issued.ear.as_str().to_owned();
            Some(Issued { verifier: issued.result.signer(), result, ear, credential: issued.credential.is_some() })
        })
        .collect();
    let tier = results.iter().map(|issued| issued.result.tier).max_by_key(|tier| tier.rank()).unwrap_or_default();
    let policies = attestation.vouched().policies.iter().map(ToString::to_string).collect();
    Own { tier, results, policies }
}

pub(super) async fn attestations(State(state): State<ApiState>) -> Result<Json<Attestations>, Failure> {
    let records = state.parts().attestation.records().await;
    let records = records.map_err(|error| Failure::internal(error.to_string()))?;
    let mut peers: Vec<Other> = records.into_iter().map(Other::from).collect();
    peers.sort_by_key(|peer| std::cmp::Reverse(peer.at_ms));
    Ok(Json(Attestations { schema: "aitbc.attestations/1", own: own(&state), peers }))
}

/// What `status` tells of attestation.
#[derive(Debug, Default, Serialize)]
pub(super) struct OwnStatus {
    tier: Tier,
    /// The score of the result with that tier, in thousandths; `null` where there is none.
    score: Option<u16>,
    verifier: Option<NodeId>,
    kinds: Vec<EvidenceKind>,
    expires_ms: Option<UnixMillis>,
    policies: Vec<String>,
    /// SHA-256 of the EAR.
    ear: Option<Digest>,
}

pub(super) fn status(state: &ApiState) -> OwnStatus {
    let Own { tier, results, policies } = own(state);
    let best = results.into_iter().find(|issued| issued.result.tier == tier);
    let kinds = best.as_ref().map(|issued| issued.result.kinds).unwrap_or_default();
    OwnStatus {
        tier,
        score: best.as_ref().map(|issued| issued.result.score),
        verifier: best.as_ref().map(|issued| issued.verifier),
        kinds: kinds.known().collect(),
        expires_ms: best.as_ref().map(|issued| issued.result.expires_ms),
        policies,
        ear: best.map(|issued| issued.result.ear),
    }
}
