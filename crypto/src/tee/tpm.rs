//! Evidence of a TPM 2.0: in which state a machine started, signed by a chip whose vendor vouches for it.
//!
//! Three messages. The attester sends an [`Identity`]: its endorsement key, with the vendor's certificate where there is
//! one, the key that it attests with, and an opening quote by it. The verifier answers with a [`Challenge`]: a secret that
//! only a TPM with both keys gives back ([`challenge`]). The attester sends [`TpmEvidence`]: the secret, a quote over the
//! PCRs 0 to 7 and 10 that carries the binding, and the logs that explain those PCRs ([`Pending::verify`]).
//!
//! Written after the TPM 2.0 Library, revision 1.59 (Parts 1 to 3), the TCG EK Credential Profile 2.5 and the PC Client
//! Platform Firmware Profile 1.06. No library of a TPM's is needed: verifiers need not have one.

mod appraise;
mod credential;
mod endorsement;
mod event_log;
mod ima;
mod quote;
mod reader;
mod structures;

pub use endorsement::Roots;
pub use event_log::{Event, EventLog, MAX_EVENT_LOG_BYTES, Policy, SecureBoot};
pub use ima::{Covered, MAX_IMA_LOG_BYTES, covered_prefix};

use crate::tee::x509::{CertificateError, MAX_CERTIFICATE_BYTES, MAX_CHAIN};
use aitbc_protocol::{
    Digest, UnixMillis,
    attestation::{Appraisal, Measurement},
    bytes::BoundedBytes,
    text::bounded_vec,
};
use endorsement::Endorsed;
use rsa::rand_core::OsRng;
use serde::{Deserialize, Serialize};
use structures::{
    ALG_ECDSA, ALG_RSAPSS, ALG_RSASSA, ALG_SHA256, ALG_SHA384, DECRYPT, ECC_P256, ECC_P384, FIXED_PARENT,
    FIXED_TPM, Key, Public, Quote, RESTRICTED, SENSITIVE_DATA_ORIGIN, SIGN, Scheme, Signature,
};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// The PCRs that a quote covers, in its order: the firmware's, and IMA's.
pub const QUOTED_PCRS: [u32; 9] = [0, 1, 2, 3, 4, 5, 6, 7, 10];
/// The same as the bitmap of a `TPMS_PCR_SELECTION`.
pub const QUOTED_PCRS_BITMAP: [u8; 3] = [0xff, 0x04, 0x00];
/// The user data of an opening quote: SHA-256 of `aitbc/attest/1/tpm/opening`, which is nobody's binding.
pub const OPENING_DATA: [u8; 32] = [
    0x60, 0xbd, 0x29, 0x75, 0xc8, 0x5c, 0x3c, 0x64, 0x0c, 0xec, 0x69, 0x88, 0x1e, 0x96, 0x3b, 0xa0, 0x5f, 0x44,
    0x77, 0x0d, 0x98, 0x5d, 0x7b, 0x5c, 0x0b, 0xbf, 0xee, 0xb3, 0x1c, 0xe9, 0x75, 0x02,
];
/// Largest public area, quote, signature or credential in bytes; those of 2,048-bit keys have under 500.
pub const MAX_STRUCTURE_BYTES: usize = 1024;

/// Why evidence of a TPM does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TpmError {
    /// A structure that is cut short, goes on after its end, or says what no TPM says.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// More than is read.
    #[error("{0} is larger than any that is read")]
    TooLarge(&'static str),
    /// The endorsement key is not what the profile's template makes.
    #[error("unfit endorsement key: {0}")]
    EndorsementKey(&'static str),
    /// The key that signs could sign something that no TPM made, or leave its TPM.
    #[error("unfit attestation key: {0}")]
    AttestationKey(&'static str),
    /// The endorsement certificate, or its chain.
    #[error("endorsement certificate: {0}")]
    Certificate(#[from] CertificateError),
    /// A certificate for something else.
    #[error("the certificate is none for an endorsement key (TCG EK Credential Profile)")]
    NotAnEndorsementCertificate,
    /// The certificate is about another key.
    #[error("the endorsement certificate is about another key than the one shown")]
    OtherEndorsementKey,
    /// The secret was not taken out: the two keys are not in one TPM, or this is another's answer.
    #[error("the secret is wrong: the attestation key is not in the TPM of the endorsement key")]
    WrongSecret,
    /// The signature is not the attestation key's, or the quote was changed since.
    #[error("the quote is not signed by the attestation key")]
    Signature,
    /// What was signed does not begin as what TPMs make.
    #[error("what was signed was not made by a TPM")]
    NotGenerated,
    /// A TPM made it, and it is no quote.
    #[error("what was signed is no quote")]
    NotAQuote,
    /// The quote was made for another nonce, by another peer, in another network, or for other claims.
    #[error("the quote was made for another nonce, peer or network")]
    WrongBinding,
    /// The quote covers other PCRs, or another bank.
    #[error("the quote does not cover exactly the PCRs 0 to 7 and 10 of the SHA-256 bank")]
    WrongPcrs,
    /// The TPM was reset or restarted since it opened.
    #[error("the machine was restarted during the attestation: attest again")]
    Restarted,
    /// The PCR values are not those that were quoted.
    #[error("the PCR values shown are not those of the quote")]
    PcrDigest,
    /// The event log does not give a PCR's value.
    #[error("the event log does not explain PCR {pcr}")]
    EventLog {
        /// Which PCR.
        pcr: u32,
    },
    /// The log has no SHA-256 digests.
    #[error(
        "the event log is in the old format, without SHA-256: enable the SHA-256 bank in the firmware's settings"
    )]
    OldEventLog,
    /// No prefix of the IMA log gives PCR 10.
    #[error("no part of the IMA log explains PCR 10")]
    ImaLog,
    /// Firmware, its settings, or what it started are not those that were approved.
    #[error(
        "the PCRs changed: {expected} was expected and {found} found; approve the new value if the change was yours"
    )]
    PcrsChanged {
        /// What was approved, the first where there are several.
        expected: Measurement,
        /// What is there.
        found: Measurement,
    },
    /// The system gives no randomness.
    #[error("no randomness")]
    Randomness,
}

/// A signed statement of a TPM's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attested {
    /// `TPMS_ATTEST`, as the TPM returned it.
    pub statement: BoundedBytes<MAX_STRUCTURE_BYTES>,
    /// `TPMT_SIGNATURE` over it.
    pub signature: BoundedBytes<MAX_STRUCTURE_BYTES>,
}

/// The attester's first message: which TPM it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The vendor's certificate of the endorsement key (DER), where the TPM has one.
    pub ek_certificate: Option<BoundedBytes<MAX_CERTIFICATE_BYTES>>,
    /// Certificates between it and the vendor's root (DER), in any order, where the TPM has them.
    #[serde(deserialize_with = "bounded_vec::<_, _, MAX_CHAIN>")]
    pub intermediates: Vec<BoundedBytes<MAX_CERTIFICATE_BYTES>>,
    /// `TPMT_PUBLIC` of the endorsement key: RSA, 2,048 bits.
    pub ek_public: BoundedBytes<MAX_STRUCTURE_BYTES>,
    /// `TPMT_PUBLIC` of the key that attests.
    pub ak_public: BoundedBytes<MAX_STRUCTURE_BYTES>,
    /// A quote with [`OPENING_DATA`]: it holds the counts of resets and restarts that the evidence must still have.
    pub opening: Attested,
}

/// The verifier's message: a secret that is to be taken out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// `TPMS_ID_OBJECT`: what `TPM2_ActivateCredential` takes as its blob.
    pub id_object: BoundedBytes<MAX_STRUCTURE_BYTES>,
    /// The encrypted seed: what it takes as its secret.
    pub encrypted_seed: BoundedBytes<MAX_STRUCTURE_BYTES>,
}

/// The attester's second message.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TpmEvidence {
    /// The secret that the TPM took out of the credential.
    pub secret: Digest,
    /// A quote over [`QUOTED_PCRS`] in the SHA-256 bank, with the binding as its user data.
    pub quote: Attested,
    /// The values of [`QUOTED_PCRS`], in that order.
    pub pcrs: [Digest; 9],
    /// The firmware's event log, where the system shows it.
    pub event_log: Option<BoundedBytes<MAX_EVENT_LOG_BYTES>>,
    /// The kernel's IMA log, where there is one.
    pub ima_log: Option<BoundedBytes<MAX_IMA_LOG_BYTES>>,
}

impl std::fmt::Debug for TpmEvidence {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("TpmEvidence").field("quote", &self.quote).finish_non_exhaustive()
    }
}

/// What evidence must show.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The user data of the quote: [`aitbc_protocol::attestation::binding`].
    pub binding: [u8; 32],
    /// The measurements that are approved: what was measured first of this node, or the verifier's list; all if empty.
    pub approved: &'a [Measurement],
}

/// The verifier's half of an attestation that waits for its answer. It owns the secret, which is wiped with it.
pub struct Pending {
    secret: Zeroizing<[u8; 32]>,
    hardware: Option<Digest>,
    endorsed: Option<Endorsed>,
    ak: Public,
    opening: Counts,
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Pending").field("endorsed", &self.endorsed).finish_non_exhaustive()
    }
}

/// What a TPM counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counts {
    clock_ms: u64,
    resets: u32,
    restarts: u32,
}

impl From<&Quote<'_>> for Counts {
    fn from(quote: &Quote<'_>) -> Self {
        Self { clock_ms: quote.clock_ms, resets: quote.reset_count, restarts: quote.restart_count }
    }
}

/// Judges a TPM's identity and makes a secret for it.
///
/// Both keys, the vendor's certificate where there is one, and the opening quote are verified before anything is made.
pub fn challenge(
    identity: &Identity,
    roots: &Roots,
    now_ms: UnixMillis,
) -> Result<(Challenge, Pending), TpmError> {
    let ek =
        Public::parse(&identity.ek_public).ok_or(TpmError::Malformed("public area of the endorsement key"))?;
    endorsement::check_key(&ek)?;
    let ak =
        Public::parse(&identity.ak_public).ok_or(TpmError::Malformed("public area of the attestation key"))?;
    check_attestation_key(&ak)?;
    let intermediates: Vec<&[u8]> = identity.intermediates.iter().map(BoundedBytes::as_slice).collect();
    let endorsed = identity
        .ek_certificate
        .as_ref()
        .map(|certificate| roots.check(certificate, &intermediates, &ek, now_ms))
        .transpose()?;
    let opening = check_quote(&identity.opening, &ak, &OPENING_DATA)?;

    let random = || Ok::<_, TpmError>(Zeroizing::new(random_bytes()?));
    let secret = random()?;
    // 32 bytes for SHA-256; SHA-384 takes 48.
    let seed = Zeroizing::new([*random()?, *random()?].concat());
    let seed = &seed[..if ek.name_algorithm == ALG_SHA384 { 48 } else { 32 }];
    let credential = credential::make(&ek, &ak.name, &secret, seed, &mut OsRng)?;
    let too_large = |_| TpmError::TooLarge("credential");
    let challenge = Challenge {
        id_object: BoundedBytes::new(credential.id_object).map_err(too_large)?,
        encrypted_seed: BoundedBytes::new(credential.encrypted_seed).map_err(too_large)?,
    };
    let opening = Counts::from(&opening);
    Ok((challenge, Pending { secret, hardware: endorsement::identity(&ek), endorsed, ak, opening }))
}

impl Pending {
    /// Judges the answer.
    pub fn verify(&self, evidence: &TpmEvidence, expected: &Expected<'_>) -> Result<Appraisal, TpmError> {
        if !bool::from(self.secret.ct_eq(&evidence.secret.0)) {
            return Err(TpmError::WrongSecret);
        }
        let quote = check_quote(&evidence.quote, &self.ak, &expected.binding)?;
        let counts = Counts::from(&quote);
        let same_run = (counts.resets, counts.restarts) == (self.opening.resets, self.opening.restarts);
        if !same_run || counts.clock_ms < self.opening.clock_ms {
            return Err(TpmError::Restarted);
        }
        let all: Vec<u8> = evidence.pcrs.iter().flat_map(|value| value.0).collect();
        // A quote hashes with its key's digest (Part 3, 18.4).
        let algorithm =
            self.ak.scheme.and_then(|scheme| structures::hash(scheme.hash)).ok_or(TpmError::Signature)?;
        if ring::digest::digest(algorithm, &all).as_ref() != quote.pcr_digest {
            return Err(TpmError::PcrDigest);
        }
        appraise::appraise(self, evidence, expected.approved)
    }
}

/// The checks that both quotes share.
fn check_quote<'a>(attested: &'a Attested, ak: &Public, data: &[u8; 32]) -> Result<Quote<'a>, TpmError> {
    let signature = Signature::parse(&attested.signature).ok_or(TpmError::Malformed("TPMT_SIGNATURE"))?;
    quote::check_signature(ak, &attested.statement, &signature)?;
    let quote = Quote::parse(&attested.statement)?;
    if quote.extra_data != data {
        return Err(TpmError::WrongBinding);
    }
    if quote.selection != [(ALG_SHA256, &QUOTED_PCRS_BITMAP[..])] {
        return Err(TpmError::WrongPcrs);
    }
    Ok(quote)
}

/// Whether a key signs only what its TPM made, and stays there.
fn check_attestation_key(key: &Public) -> Result<(), TpmError> {
    for (attribute, missing) in [
        (RESTRICTED, "it is not restricted, so that it signs foreign bytes too"),
        (SIGN, "it is no signing key"),
        (FIXED_TPM, "it is not fixed to its TPM"),
        (FIXED_PARENT, "it is not fixed to its parent"),
        (SENSITIVE_DATA_ORIGIN, "its secret was not made by the TPM"),
    ] {
        if !key.has(attribute) {
            return Err(TpmError::AttestationKey(missing));
        }
    }
    if key.attributes & DECRYPT != 0 {
        return Err(TpmError::AttestationKey("it decrypts too"));
    }
    let scheme = key.scheme.map(|Scheme { algorithm, hash }| (algorithm, hash));
    let fits = match &key.key {
        Key::Rsa { bits, exponent, modulus } => {
            matches!(bits, 2048 | 3072 | 4096)
                && modulus.len() == usize::from(*bits) / 8
                && matches!(exponent, 0 | 65_537)
                && matches!(scheme, Some((ALG_RSASSA | ALG_RSAPSS, ALG_SHA256)))
        }
        Key::Ecc { curve, .. } => {
            matches!(
                (*curve, scheme),
                (ECC_P256, Some((ALG_ECDSA, ALG_SHA256))) | (ECC_P384, Some((ALG_ECDSA, ALG_SHA384)))
            )
        }
    };
    if fits {
        Ok(())
    } else {
        Err(TpmError::AttestationKey(
            "use RSASSA or RSAPSS with SHA-256, or ECDSA on P-256 with SHA-256 or P-384 with SHA-384",
        ))
    }
}

fn random_bytes() -> Result<[u8; 32], TpmError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|_| TpmError::Randomness)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
