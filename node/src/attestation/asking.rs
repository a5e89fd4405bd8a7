//! Has others show what they are: the verifier.

use super::{
    Attestation, Shared, blocking,
    issuing::{self, SignError},
};
use crate::{
    clock::now_ms,
    network::{FramedStream, NetworkError, Protocol, StreamError},
    storage::{AttestationRecord, StorageError},
};
use aitbc_crypto::tee::{
    appraise::{self, EvidenceError, Findings, Question},
    tpm::Pending,
};
use aitbc_protocol::{
    Digest, NodeId, Signed,
    attestation::{
        IntegrityInputs, Tier,
        exchange::{
            AttestationResult, Claims, EVIDENCE_PATIENCE_MS, Piece, RESULT_LIFETIME_MS, ToAttester, ToVerifier,
        },
    },
    bytes::BoundedBytes,
    text::Line,
    wire::{MAX_ATTEST_FRAME, WireError},
};
use serde::Serialize;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

/// Verifications at a time: each may hold some megabytes of logs.
pub(super) const AT_ONCE: usize = 4;
/// How long a message that needs no work may take.
const MESSAGE: Duration = Duration::from_secs(20);
/// How long evidence may take.
const EVIDENCE: Duration = Duration::from_millis(EVIDENCE_PATIENCE_MS);
/// How long a broken path is given before it is tried once more.
const PAUSE: Duration = Duration::from_secs(1);

/// Why nothing was found out.
#[derive(Debug, thiserror::Error)]
pub enum AttestError {
    /// Too many at a time.
    #[error("{AT_ONCE} attestations run already: wait for one to end")]
    Busy,
    /// It cannot be reached.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The stream broke.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// It refuses.
    #[error("it refuses: {0}")]
    Refused(Line<240>),
    /// It said something else.
    #[error("it said something else than what was asked")]
    OutOfTurn,
    /// The result could not be signed.
    #[error("the result cannot be signed: {0}")]
    Sign(#[from] SignError),
    /// Nothing could be written.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Nothing could be kept.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl AttestError {
    /// Whether it says nothing about the peer, and another try may do.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Busy | Self::Network(_) => true,
            Self::Stream(error) => error.is_passing(),
            _ => false,
        }
    }
}

/// Where an attestation stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Progress {
    /// The peer was reached.
    Reached {
        /// Whether it says that it has a TPM.
        tpm: bool,
    },
    /// It was asked for evidence.
    Challenged,
    /// Evidence came.
    Verifying {
        /// Pieces.
        pieces: usize,
        /// Bytes of them.
        bytes: usize,
    },
}

/// One piece of evidence, as it was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Found {
    /// What was found.
    #[serde(flatten)]
    pub appraisal: aitbc_protocol::attestation::Appraisal,
    /// The tier that follows from it.
    pub tier: Tier,
    /// SHA-256 of the evidence.
    pub evidence: Digest,
}

/// What an attestation has found.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "finding", rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "there is one at a time")]
pub enum Finding {
    /// The evidence holds.
    Verified {
        /// What this node signed.
        result: AttestationResult,
        /// The same, signed, for whoever wants to show it.
        signed: Signed<AttestationResult>,
        /// The EAT attestation result, as a JWT.
        ear: String,
        /// Piece by piece.
        found: Vec<Found>,
        /// What the score follows from.
        inputs: IntegrityInputs,
        /// What the node says of itself.
        claims: Claims,
        /// Whether a credential for proofs in zero knowledge was issued.
        credential: bool,
    },
    /// It does not.
    Failed {
        /// The peer.
        peer: NodeId,
        /// Why.
        reason: String,
        /// Whether an earlier result was taken back.
        revoked: bool,
    },
}

/// What came of a peer.
pub(super) struct Shown {
    pub(super) nonce: Digest,
    pub(super) claims: Signed<Claims>,
    pub(super) pieces: Vec<Piece>,
    pub(super) tpm: Option<Pending>,
}

impl Attestation {
    /// Has `peer` show what it is, and signs what follows. With `anew`, what was measured there before does not count.
    ///
    /// Evidence that does not hold is a [`Finding`], and whatever this node had signed about the peer is taken back; an error
    /// says that nothing was found out.
    pub async fn attest(
        &self,
        peer: NodeId,
        anew: bool,
        progress: &mpsc::Sender<Progress>,
    ) -> Result<Finding, AttestError> {
        let _place = self.0.asking.try_acquire().map_err(|_| AttestError::Busy)?;
        match self.attempt(peer, anew, progress).await {
            // A path that breaks in the middle says nothing about the peer.
            Err(error) if error.is_passing() => {
                tracing::debug!(peer = %peer.short(), %error, "attestation tried once more");
                sleep(PAUSE).await;
                self.attempt(peer, anew, progress).await
            }
            done => done,
        }
    }

    async fn attempt(
        &self,
        peer: NodeId,
        anew: bool,
        progress: &mpsc::Sender<Progress>,
    ) -> Result<Finding, AttestError> {
        let mut stream = self.0.network.open(peer, Vec::new(), Protocol::Attest).await?;
        let shown = match ask(&self.0, &mut stream, progress).await? {
            Ok(shown) => shown,
            Err(error) => return self.fail(peer, &mut stream, &error).await,
        };
        let shared = Arc::clone(&self.0);
        let appraised = blocking(move || appraise(&shared, peer, anew, shown)).await?;
        match appraised {
            Ok((nonce, findings)) => self.issue(peer, nonce, *findings, &mut stream).await,
            Err(error) => self.fail(peer, &mut stream, &error).await,
        }
    }

    /// Signs, keeps and hands over.
    async fn issue(
        &self,
        peer: NodeId,
        nonce: Digest,
        findings: Findings,
        stream: &mut FramedStream,
    ) -> Result<Finding, AttestError> {
        let issued = issuing::issue(&self.0, peer, nonce, &findings)?;
        let result = issued.result.read_unverified()?;
        let record = AttestationRecord {
            peer,
            at_ms: result.issued_ms,
            result: Some(issued.result.clone()),
            ear: Some(issued.ear.as_str().to_owned()),
            failure: None,
            against: false,
            revoked_ms: None,
            measured: findings.measured.clone(),
        };
        let store = self.0.store.clone();
        blocking(move || store.put_attestation(&record)).await?;
        self.0.trust.found(&result);
        tracing::info!(peer = %peer.short(), tier = %result.tier, score = result.score, "attested");
        let finding = Finding::Verified {
            result,
            signed: issued.result.clone(),
            ear: issued.ear.as_str().to_owned(),
            found: found(&findings),
            inputs: findings.inputs,
            claims: findings.claims,
            credential: issued.credential.is_some(),
        };
        // What was found stands, whether the peer takes it or not.
        if let Err(error) = say(stream, &ToAttester::Issued(Box::new(issued))).await {
            tracing::debug!(peer = %peer.short(), %error, "the result could not be handed over");
        }
        Ok(finding)
    }

    /// Takes down that the evidence does not hold, and takes back what was said before.
    async fn fail(
        &self,
        peer: NodeId,
        stream: &mut FramedStream,
        error: &EvidenceError,
    ) -> Result<Finding, AttestError> {
        let at_ms = now_ms();
        tracing::warn!(peer = %peer.short(), %error, "evidence does not hold");
        let store = self.0.store.clone();
        let failure = error.to_string();
        let (reason, against) = (failure.clone(), error.speaks_against());
        let record = blocking(move || {
            let before = store.attestation(&peer)?;
            // Showing nothing at all does not mend what was shown before.
            let standing =
                before.as_ref().filter(|record| at_ms.saturating_sub(record.at_ms) < RESULT_LIFETIME_MS);
            let record = AttestationRecord {
                peer,
                at_ms,
                result: None,
                ear: None,
                failure: Some(failure),
                against: against || standing.is_some_and(|record| record.against),
                revoked_ms: standing
                    .and_then(|record| record.result.as_ref().map(|_| at_ms).or(record.revoked_ms)),
                measured: before.map(|record| record.measured).unwrap_or_default(),
            };
            store.put_attestation(&record).map(|()| record)
        })
        .await?;
        if record.against {
            self.0.trust.failed(peer, at_ms);
        } else {
            self.0.trust.forget(peer);
        }
        let revoked = record.revoked_ms.is_some();
        if let Some(before_ms) = record.revoked_ms {
            self.revoke(peer, before_ms).await;
        }
        // Whoever does not read it has its answer all the same.
        let _ = say(stream, &ToAttester::Failed(Line::lossy(&reason))).await;
        Ok(Finding::Failed { peer, reason, revoked })
    }
}

fn found(findings: &Findings) -> Vec<Found> {
    let piece = |(appraisal, evidence): &(aitbc_protocol::attestation::Appraisal, Digest)| Found {
        tier: appraisal.tier(),
        appraisal: appraisal.clone(),
        evidence: *evidence,
    };
    findings.appraisals.iter().map(piece).collect()
}

/// The exchange up to the evidence. The inner error is about the evidence.
async fn ask(
    shared: &Arc<Shared>,
    stream: &mut FramedStream,
    progress: &mpsc::Sender<Progress>,
) -> Result<Result<Shown, EvidenceError>, AttestError> {
    say(stream, &ToAttester::Begin).await?;
    // A TPM may take seconds to make a key.
    let tpm = match receive(stream, EVIDENCE).await? {
        ToVerifier::Identity { tpm } => tpm,
        ToVerifier::Refused(reason) => return Err(AttestError::Refused(reason)),
        _ => return Err(AttestError::OutOfTurn),
    };
    tell(progress, Progress::Reached { tpm: tpm.is_some() });
    let nonce = Digest(rand::random());
    let (challenge, pending) = match tpm {
        Some(identity) => {
            let shared = Arc::clone(shared);
            let judged =
                blocking(move || appraise::challenge_tpm(identity.as_slice(), &shared.anchors, now_ms())).await;
            match judged {
                Ok((challenge, pending)) => (Some(challenge), Some(pending)),
                Err(error) => return Ok(Err(error)),
            }
        }
        None => (None, None),
    };
    let challenge = challenge.map(BoundedBytes::new).transpose();
    let challenge = challenge.map_err(|error| WireError::Encode(error.to_string()))?;
    say(stream, &ToAttester::Challenge { nonce, tpm: challenge }).await?;
    tell(progress, Progress::Challenged);
    let (claims, pieces) = match receive(stream, EVIDENCE).await? {
        ToVerifier::Evidence { claims, pieces } => (claims, pieces),
        ToVerifier::Refused(reason) => return Err(AttestError::Refused(reason)),
        _ => return Err(AttestError::OutOfTurn),
    };
    let bytes = pieces.iter().map(|piece| piece.bytes.as_slice().len()).sum();
    tell(progress, Progress::Verifying { pieces: pieces.len(), bytes });
    Ok(Ok(Shown { nonce, claims, pieces, tpm: pending }))
}

type Appraised = Result<(Digest, Box<Findings>), EvidenceError>;

/// Judges what came. Blocks.
fn appraise(shared: &Shared, peer: NodeId, anew: bool, shown: Shown) -> Result<Appraised, StorageError> {
    let before = if anew { None } else { shared.store.attestation(&peer)? };
    let measured = before.map(|record| record.measured).unwrap_or_default();
    let Shown { nonce, claims, pieces, tpm } = shown;
    let question = Question {
        network: &shared.config.network,
        peer,
        nonce,
        claims: &claims,
        pieces: &pieces,
        tpm: tpm.as_ref(),
        anchors: &shared.anchors,
        measured: &measured,
        allowed: &shared.config.measurements,
        now_ms: now_ms(),
    };
    Ok(appraise::appraise(&question).map(|findings| (nonce, Box::new(findings))))
}

fn tell(progress: &mpsc::Sender<Progress>, step: Progress) {
    // Who watches slowly misses a step.
    let _ = progress.try_send(step);
}

async fn say(stream: &mut FramedStream, message: &ToAttester) -> Result<(), StreamError> {
    match timeout(MESSAGE, stream.send(message, MAX_ATTEST_FRAME)).await {
        Ok(sent) => sent,
        Err(_) => Err(StreamError::Timeout(MESSAGE)),
    }
}

async fn receive(stream: &mut FramedStream, patience: Duration) -> Result<ToVerifier, AttestError> {
    match timeout(patience, stream.receive(MAX_ATTEST_FRAME)).await {
        Ok(Ok(Some(message))) => Ok(message),
        Ok(Ok(None)) => Err(StreamError::Closed("the peer left".to_owned()).into()),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(StreamError::Timeout(patience).into()),
    }
}
