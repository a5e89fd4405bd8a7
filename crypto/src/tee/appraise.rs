//! All evidence of a node together: from what came over the wire to what a verifier signs. Pure.

use super::{
    intel::{self, IntelError, IntelTrust, QuoteEvidence},
    nvidia::{self, NvidiaError, NvidiaEvidence, NvidiaTrust},
    sev_snp::{self, SnpError, SnpEvidence, SnpTrust},
    tpm::{self, Expected, Identity, TpmError, TpmEvidence},
};
use crate::signing::{self, SignatureError};
use aitbc_protocol::{
    Digest, NetworkId, NodeId, Signed, UnixMillis,
    attestation::{
        Appraisal, EvidenceKind, IntegrityInputs, Measurement, Tier, TrustVector, binding,
        exchange::{Claims, MAX_IDENTITY_BYTES, MAX_PIECE_BYTES, Piece, RESULT_LIFETIME_MS},
        integrity_score,
    },
    wire,
};
use serde::de::DeserializeOwned;

/// Why evidence does not count. What a verifier has said of the node before is taken back then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    /// The claims are signed by another node, or not rightly.
    #[error("the claims are not signed by the node that sent them")]
    OtherPeer,
    /// The claims' signature does not hold.
    #[error("the claims: {0}")]
    Claims(#[from] SignatureError),
    /// Made for another nonce: a replay, or too old.
    #[error("the evidence was made for another nonce: it is a replay, or stale")]
    StaleNonce,
    /// Not in the encoding of its kind.
    #[error("the {0} evidence cannot be read")]
    Malformed(EvidenceKind),
    /// More than one piece of a kind of which a machine has one.
    #[error("more than one piece of {0} evidence")]
    Twice(EvidenceKind),
    /// A piece that nobody but the node itself could have made, or a TPM's that did not say before which it is.
    #[error("a piece of {0} evidence that was not asked for")]
    Unasked(EvidenceKind),
    /// The TPM's does not hold.
    #[error("tpm: {0}")]
    Tpm(#[from] TpmError),
    /// SGX' or TDX' does not hold.
    #[error("Intel quote: {0}")]
    Intel(#[from] IntelError),
    /// SEV-SNP's does not hold.
    #[error("sev_snp: {0}")]
    Snp(#[from] SnpError),
    /// A GPU's does not hold.
    #[error("nvidia: {0}")]
    Nvidia(#[from] NvidiaError),
    /// What is measured differs from what was measured first.
    #[error(
        "what the {kind} measures has changed, from {before} to {now}: verify it anew if it was updated on purpose"
    )]
    Changed {
        /// Which kind.
        kind: EvidenceKind,
        /// What was measured when the node was verified first.
        before: Measurement,
        /// What is measured now.
        now: Measurement,
    },
    /// A kind that was shown when the node was verified first is not shown any more.
    #[error("{0} evidence was shown before and is not now: verify it anew if it is gone for good")]
    Withheld(EvidenceKind),
    /// What is measured is not on the verifier's list.
    #[error("what the {kind} measures, {now}, is not on the list of measurements that count here")]
    NotAllowed {
        /// Which kind.
        kind: EvidenceKind,
        /// What is measured.
        now: Measurement,
    },
}

impl EvidenceError {
    /// Whether the node showed something wrong. Where its vendor is unknown here, or a file of the vendor's is missing or out
    /// of date, nothing was found out, for or against it.
    pub fn speaks_against(&self) -> bool {
        match self {
            Self::Tpm(TpmError::Certificate(error)) | Self::Snp(SnpError::Certificate(error)) => error.speaks_against(),
            Self::Intel(IntelError::Certificate(error)) | Self::Nvidia(NvidiaError::Chain(error)) => {
                error.speaks_against()
            }
            // The verifier's randomness, a restart in between, an old log: another try, or another setting, may do.
            Self::Tpm(TpmError::Randomness | TpmError::Restarted | TpmError::OldEventLog)
            // Collateral and reference files may be the verifier's own.
            | Self::Intel(
                IntelError::NoCollateral
                | IntelError::OtherPlatform
                | IntelError::Collateral(_)
                | IntelError::StatementSignature(_)
                | IntelError::NotYetValid(_)
                | IntelError::Expired(_)
                | IntelError::OldEvaluation { .. },
            )
            | Self::Nvidia(NvidiaError::NoReference(_) | NvidiaError::Reference { .. })
            // Nobody has to show anything: what was said before is taken back, and no more.
            | Self::Withheld(_) => false,
            _ => true,
        }
    }
}

/// Whom a verifier trusts, kind by kind.
#[derive(Clone, Debug)]
pub struct Anchors {
    /// Makers of TPMs.
    pub tpm: tpm::Roots,
    /// Intel, and its statements.
    pub intel: IntelTrust,
    /// AMD, and the oldest firmware that counts.
    pub snp: SnpTrust,
    /// NVIDIA, and its reference files.
    pub nvidia: NvidiaTrust,
}

impl Default for Anchors {
    /// What comes with the node, without collateral and reference files.
    fn default() -> Self {
        Self {
            tpm: tpm::Roots::shipped(),
            intel: IntelTrust::default(),
            snp: SnpTrust::default(),
            nvidia: NvidiaTrust::new(Vec::new()),
        }
    }
}

/// Judges which TPM a node says that it has, and makes a secret that only that one gives back. The bytes are for the node.
pub fn challenge_tpm(
    identity: &[u8],
    anchors: &Anchors,
    now_ms: UnixMillis,
) -> Result<(Vec<u8>, tpm::Pending), EvidenceError> {
    let malformed = |_| EvidenceError::Malformed(EvidenceKind::Tpm);
    let identity: Identity = wire::decode_payload(identity, MAX_IDENTITY_BYTES).map_err(malformed)?;
    let (challenge, pending) = tpm::challenge(&identity, &anchors.tpm, now_ms)?;
    Ok((wire::encode_payload(&challenge, MAX_IDENTITY_BYTES).map_err(malformed)?, pending))
}

/// What a verifier asks, and what came.
#[derive(Debug)]
pub struct Question<'a> {
    /// Whose statements count.
    pub network: &'a NetworkId,
    /// Who is at the other end of the connection.
    pub peer: NodeId,
    /// The nonce that was sent.
    pub nonce: Digest,
    /// What the node says of itself.
    pub claims: &'a Signed<Claims>,
    /// What others than itself sign.
    pub pieces: &'a [Piece],
    /// The secret that its TPM was sent, where it has one.
    pub tpm: Option<&'a tpm::Pending>,
    /// Whom the verifier trusts.
    pub anchors: &'a Anchors,
    /// What was measured when the node was verified first, by kind.
    pub measured: &'a [(EvidenceKind, Measurement)],
    /// Measurements that count; all if empty.
    pub allowed: &'a [Measurement],
    /// The verifier's clock.
    pub now_ms: UnixMillis,
}

/// What follows from all evidence.
#[derive(Debug)]
pub struct Findings {
    /// What the node says of itself.
    pub claims: Claims,
    /// Piece by piece, with the SHA-256 of each.
    pub appraisals: Vec<(Appraisal, Digest)>,
    /// What the score follows from.
    pub inputs: IntegrityInputs,
    /// The score in thousandths.
    pub score: u16,
    /// The worst tier of all pieces that say something.
    pub tier: Tier,
    /// What was measured, by kind, for the next time.
    pub measured: Vec<(EvidenceKind, Measurement)>,
    /// Until when all of it stands at most.
    pub expires_ms: UnixMillis,
}

/// Judges all evidence of a node. One piece that does not hold makes all of it fail: whoever shows something forged is not
/// believed the rest.
pub fn appraise(question: &Question<'_>) -> Result<Findings, EvidenceError> {
    if question.claims.signer() != question.peer {
        return Err(EvidenceError::OtherPeer);
    }
    let claims = signing::open(question.claims, question.network)?;
    if claims.nonce != question.nonce {
        return Err(EvidenceError::StaleNonce);
    }
    let bound = binding(question.network, &question.nonce.0, question.peer, question.claims.payload());
    let mut appraisals = vec![(software(&claims), Digest::of(question.claims.payload()))];
    for (index, piece) in question.pieces.iter().enumerate() {
        // A machine may have several GPUs, and one of everything else.
        let again = question.pieces[..index].iter().any(|other| other.kind == piece.kind);
        if again && piece.kind != EvidenceKind::Nvidia {
            return Err(EvidenceError::Twice(piece.kind));
        }
        let appraisal = verify(piece, &bound, question)?;
        // One GPU that is shown twice is one.
        let shown = |(other, _): &(Appraisal, Digest)| {
            other.kind == appraisal.kind && other.hardware == appraisal.hardware
        };
        if appraisals.iter().any(shown) {
            return Err(EvidenceError::Twice(piece.kind));
        }
        appraisals.push((appraisal, Digest::of(piece.bytes.as_slice())));
    }
    let measured = remembered(question, &appraisals)?;
    let inputs = inputs(&claims, &appraisals, question.now_ms);
    let vectors = appraisals.iter().map(|(appraisal, _)| appraisal.tier());
    let tier = vectors.fold(Tier::None, Tier::worse);
    let lifetime = question.now_ms.saturating_add(RESULT_LIFETIME_MS);
    let ends = appraisals.iter().filter_map(|(appraisal, _)| appraisal.expires_ms);
    let expires_ms = ends.fold(lifetime, UnixMillis::min);
    let score = integrity_score(&inputs);
    Ok(Findings { claims, appraisals, inputs, score, tier, measured, expires_ms })
}

fn verify(piece: &Piece, bound: &[u8; 32], question: &Question<'_>) -> Result<Appraisal, EvidenceError> {
    let (kind, anchors, now_ms) = (piece.kind, question.anchors, question.now_ms);
    // The rest of the 64 bytes that a confidential machine's quote carries is zero.
    let wide: [u8; 64] = std::array::from_fn(|index| bound.get(index).copied().unwrap_or_default());
    let appraisal = match kind {
        EvidenceKind::Tpm => {
            let evidence: TpmEvidence = read(piece)?;
            let pending = question.tpm.ok_or(EvidenceError::Unasked(kind))?;
            let first = question.measured.iter().find(|(known, _)| *known == kind).map(|(_, measured)| measured);
            let approved =
                if question.allowed.is_empty() { first.map(std::slice::from_ref) } else { Some(question.allowed) };
            pending.verify(&evidence, &Expected { binding: *bound, approved: approved.unwrap_or_default() })?
        }
        EvidenceKind::Sgx | EvidenceKind::Tdx => {
            let evidence: QuoteEvidence = read(piece)?;
            intel::verify(&evidence, &wide, &anchors.intel, now_ms)?
        }
        EvidenceKind::SevSnp => {
            let evidence: SnpEvidence = read(piece)?;
            sev_snp::verify(&evidence, &wide, &anchors.snp, now_ms)?
        }
        EvidenceKind::Nvidia => {
            let evidence: NvidiaEvidence = read(piece)?;
            nvidia::verify(&evidence, bound, &anchors.nvidia, now_ms)?
        }
        EvidenceKind::Software => return Err(EvidenceError::Unasked(kind)),
    };
    // A quote of one technology that is called another's.
    if appraisal.kind == kind { Ok(appraisal) } else { Err(EvidenceError::Malformed(kind)) }
}

fn read<T: DeserializeOwned>(piece: &Piece) -> Result<T, EvidenceError> {
    wire::decode_payload(piece.bytes.as_slice(), MAX_PIECE_BYTES).map_err(|_| EvidenceError::Malformed(piece.kind))
}

/// What the node says of itself is a tier of none, with a note, whatever it says.
fn software(claims: &Claims) -> Appraisal {
    let mut notes = vec![
        "self-reported: it proves nothing, and can only lower the score".to_owned(),
        format!("{} on {}, binary {}", claims.agent, claims.system, claims.binary),
    ];
    if claims.debugged {
        notes.push("a debugger is attached to the node".to_owned());
    }
    notes.extend(claims.gpus.iter().map(|gpu| format!("says that it has {gpu}")));
    notes.extend(claims.missing.iter().map(|missing| format!("shows no {}: {}", missing.kind, missing.reason)));
    Appraisal {
        kind: EvidenceKind::Software,
        vector: TrustVector::default(),
        hardware: None,
        measurement: Measurement::default(),
        firmware_ms: None,
        vulnerable: None,
        expires_ms: None,
        notes,
    }
}

/// Compares what is measured with what was measured first, and with the list of what counts.
fn remembered(
    question: &Question<'_>,
    appraisals: &[(Appraisal, Digest)],
) -> Result<Vec<(EvidenceKind, Measurement)>, EvidenceError> {
    let mut measured = Vec::new();
    for (appraisal, _) in appraisals {
        let (kind, now) = (appraisal.kind, appraisal.measurement);
        // The same GPU model runs the same firmware on every card.
        if now.as_bytes().is_empty() || measured.contains(&(kind, now)) {
            continue;
        }
        let before = question.measured.iter().filter(|(known, _)| *known == kind).map(|(_, measured)| *measured);
        if question.allowed.is_empty() {
            // Of several GPUs each must be one that was there.
            if let Some(first) = before.clone().next()
                && !before.clone().any(|before| before == now)
            {
                return Err(EvidenceError::Changed { kind, before: first, now });
            }
        } else if !question.allowed.contains(&now) {
            return Err(EvidenceError::NotAllowed { kind, now });
        }
        measured.push((kind, now));
    }
    // Of a kind that is not shown any more nothing is known, and it was a reason to believe.
    if let Some((kind, _)) =
        question.measured.iter().find(|(kind, _)| !measured.iter().any(|(seen, _)| seen == kind))
    {
        return Err(EvidenceError::Withheld(*kind));
    }
    // A second GPU may be away this time.
    let unseen: Vec<_> = question.measured.iter().filter(|before| !measured.contains(before)).copied().collect();
    measured.extend(unseen);
    Ok(measured)
}

fn inputs(claims: &Claims, appraisals: &[(Appraisal, Digest)], now_ms: UnixMillis) -> IntegrityInputs {
    let mut inputs = IntegrityInputs::default();
    inputs.firmware_age_days.reported = claims.firmware_age_days;
    inputs.suspicious_processes.reported =
        Some(claims.suspicious_processes.saturating_add(u32::from(claims.debugged)));
    for (appraisal, _) in appraisals {
        if let Some(vulnerable) = appraisal.vulnerable {
            let known = &mut inputs.vulnerable.attested;
            *known = Some(known.unwrap_or_default() || vulnerable);
        }
        if let Some(made_ms) = appraisal.firmware_ms {
            let age = u32::try_from(now_ms.saturating_sub(made_ms) / 86_400_000).unwrap_or(u32::MAX);
            let known = &mut inputs.firmware_age_days.attested;
            *known = Some(known.unwrap_or_default().max(age));
        }
    }
    inputs
}

#[cfg(test)]
mod tests;
