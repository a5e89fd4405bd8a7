//! Evidence of this machine's TPM 2.0, through tss-esapi.
//!
//! Two steps, as the protocol has two messages of the attester's: [`identity`] and [`answer`]. Each opens the TPM, makes
//! both keys anew and closes it, so that nothing of ours stays in a chip with room for three objects, and no peer that is
//! slow to answer holds it. The keys are primary keys of the endorsement hierarchy: the same template gives the same key
//! as long as nobody clears the TPM.
//!
//! Everything here blocks: a chip takes up to some ten seconds for an RSA key.

mod logs;

pub use logs::{LogProblem, LogReason};

use aitbc_crypto::tee::tpm::{Attested, Challenge, Identity, OPENING_DATA, TpmEvidence};
use aitbc_crypto::tee::x509::{MAX_CERTIFICATE_BYTES, MAX_CHAIN};
use aitbc_protocol::{Digest, bytes::BoundedBytes};
use std::{path::PathBuf, str::FromStr as _};
use tss_esapi::{
    Context, Error as TssError, TctiNameConf,
    abstraction::{AsymmetricAlgorithmSelection, ek, nv},
    attributes::{ObjectAttributesBuilder, SessionAttributesBuilder},
    constants::{CapabilityType, SessionType, response_code::Tss2ResponseCodeKind},
    handles::{AuthHandle, KeyHandle, NvIndexTpmHandle, SessionHandle, TpmHandle},
    interface_types::{
        algorithm::{HashingAlgorithm, PublicAlgorithm, RsaSchemeAlgorithm},
        ecc::EccCurve,
        key_bits::RsaKeyBits,
        resource_handles::{Hierarchy, NvAuth},
        session_handles::{AuthSession, PolicySession},
    },
    structures::{
        CapabilityData, Data, EccPoint, EccScheme, EncryptedSecret, HashScheme, IdObject, PcrSelectionList,
        PcrSlot, Public, PublicBuilder, PublicEccParametersBuilder, PublicKeyRsa, PublicRsaParametersBuilder,
        RsaExponent, RsaScheme, SignatureScheme, SymmetricDefinition,
    },
    traits::Marshall as _,
};

/// NV index of the certificate of the RSA endorsement key with 2,048 bits (TCG EK Credential Profile 2.5, 2.2.1.4).
const EK_CERTIFICATE_INDEX: u32 = 0x01c0_0002;
/// NV indexes of certificates between it and the vendor's root (2.2.1.5.2).
const CHAIN_INDEXES: std::ops::RangeInclusive<u32> = 0x01c0_0100..=0x01c0_01ff;
/// How often a quote is taken again because a PCR changed meanwhile.
const QUOTE_ATTEMPTS: u32 = 8;

/// Which key attests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttestationKey {
    /// ECDSA on P-256 with SHA-256: what every PC's TPM has.
    #[default]
    P256,
    /// ECDSA on P-384 with SHA-384.
    P384,
    /// RSA of 2,048 bits, PKCS#1 v1.5 with SHA-256.
    RsaSsa,
    /// RSA of 2,048 bits, PSS with SHA-256.
    RsaPss,
}

/// Where the TPM is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How to reach it, as libtss2 writes it: `device:/dev/tpmrm0`, `swtpm:host=127.0.0.1,port=2321`.
    pub tcti: String,
    /// Which key attests.
    pub key: AttestationKey,
    /// The firmware's event log.
    pub event_log: PathBuf,
    /// The kernel's IMA log.
    pub ima_log: PathBuf,
}

impl Default for Settings {
    /// The TPM of this machine, by the kernel's resource manager.
    fn default() -> Self {
        Self {
            tcti: "device:/dev/tpmrm0".into(),
            key: AttestationKey::default(),
            event_log: "/sys/kernel/security/tpm0/binary_bios_measurements".into(),
            ima_log: "/sys/kernel/security/ima/binary_runtime_measurements".into(),
        }
    }
}

/// Why a TPM gives no evidence.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// There is no TPM.
    #[error("there is no TPM at {0}: enable it in the firmware's settings (fTPM, PTT, security device)")]
    NoDevice(PathBuf),
    /// The user may not use it.
    #[error(
        "no permission for {0}: add the user to the group tss (usermod --append --groups tss USER) and log in again"
    )]
    NoPermission(PathBuf),
    /// Another program holds it.
    #[error("{0} is held by another program: use /dev/tpmrm0, which shares it")]
    Busy(PathBuf),
    /// The setting is none that libtss2 knows.
    #[error("{0:?} names no TPM: use device:/dev/tpmrm0, or swtpm:host=…,port=…")]
    Setting(String),
    /// The TPM does not answer.
    #[error("the TPM at {tcti} does not answer: {source}")]
    Unreachable {
        /// How it was to be reached.
        tcti: String,
        /// What libtss2 says.
        source: TssError,
    },
    /// Too many wrong passwords were tried.
    #[error(
        "the TPM is locked after wrong passwords: wait, or reset it with tpm2_dictionarylockout --clear-lockout"
    )]
    LockedOut,
    /// The endorsement hierarchy has a password.
    #[error("the TPM's endorsement hierarchy has a password: remove it with tpm2_changeauth -c endorsement")]
    Password,
    /// The TPM refused a command.
    #[error("{step}: {source}")]
    Refused {
        /// What was being done.
        step: &'static str,
        /// What the TPM says.
        source: TssError,
    },
    /// The TPM returns something that does not fit the protocol.
    #[error("the TPM returned {0} that does not fit")]
    Unfit(&'static str),
    /// The PCRs change all the time.
    #[error("the PCRs changed during each of {QUOTE_ATTEMPTS} quotes: attest again when less is being started")]
    Unsteady,
}

/// What the TPM and the system gave.
#[derive(Debug)]
pub struct Collected {
    /// The second message.
    pub evidence: TpmEvidence,
    /// Which logs are missing in it, and why.
    pub missing: Vec<LogProblem>,
}

/// The first message: both keys, the vendor's certificates, and an opening quote.
pub fn identity(settings: &Settings) -> Result<Identity, CollectError> {
    let mut context = open(settings)?;
    let ek_certificate = endorsement_certificate(&mut context)?;
    let intermediates = intermediate_certificates(&mut context)?;
    let ek = endorsement_key(&mut context)?;
    let ek_public = public_area(&mut context, ek)?;
    flush(&mut context, ek)?;
    let ak = attestation_key(&mut context, settings.key)?;
    let ak_public = public_area(&mut context, ak)?;
    let opening = quote(&mut context, ak, &OPENING_DATA)?;
    flush(&mut context, ak)?;
    Ok(Identity { ek_certificate, intermediates, ek_public, ak_public, opening })
}

/// The second message: the secret taken out of the credential, a quote that carries `binding`, and the logs.
pub fn answer(settings: &Settings, challenge: &Challenge, binding: &[u8; 32]) -> Result<Collected, CollectError> {
    let mut context = open(settings)?;
    let ek = endorsement_key(&mut context)?;
    let ak = attestation_key(&mut context, settings.key)?;
    let secret = activate(&mut context, ek, ak, challenge)?;
    flush(&mut context, ek)?;
    let (quote, pcrs) = steady_quote(&mut context, ak, binding)?;
    flush(&mut context, ak)?;
    drop(context);
    let mut missing = Vec::new();
    let event_log = logs::read(&settings.event_log).map_err(|problem| missing.push(problem)).ok();
    let ima_log = logs::read(&settings.ima_log).map_err(|problem| missing.push(problem)).ok();
    Ok(Collected { evidence: TpmEvidence { secret, quote, pcrs, event_log, ima_log }, missing })
}

/// Names the step that failed, and tells the reasons that the owner can do something about.
fn refused(step: &'static str) -> impl Fn(TssError) -> CollectError {
    move |source| {
        let TssError::Tss2Error(code) = source else { return CollectError::Refused { step, source } };
        match code.kind() {
            Some(Tss2ResponseCodeKind::Lockout) => CollectError::LockedOut,
            Some(Tss2ResponseCodeKind::AuthFail | Tss2ResponseCodeKind::BadAuth) => CollectError::Password,
            _ => CollectError::Refused { step, source },
        }
    }
}

/// Opens the TPM. What is still in it when the context is dropped is flushed by the context.
fn open(settings: &Settings) -> Result<Context, CollectError> {
    if let Some(device) = settings.tcti.strip_prefix("device:") {
        let path = PathBuf::from(device);
        if let Err(error) = std::fs::File::options().read(true).write(true).open(&path) {
            return Err(match error.kind() {
                std::io::ErrorKind::PermissionDenied => CollectError::NoPermission(path),
                std::io::ErrorKind::ResourceBusy => CollectError::Busy(path),
                _ => CollectError::NoDevice(path),
            });
        }
    }
    let tcti = TctiNameConf::from_str(&settings.tcti).map_err(|_| CollectError::Setting(settings.tcti.clone()))?;
    Context::new(tcti).map_err(|source| CollectError::Unreachable { tcti: settings.tcti.clone(), source })
}

fn flush(context: &mut Context, key: KeyHandle) -> Result<(), CollectError> {
    context.flush_context(key.into()).map_err(refused("could not flush a key"))
}

/// The RSA endorsement key of 2,048 bits, by the profile's template L-1.
fn endorsement_key(context: &mut Context) -> Result<KeyHandle, CollectError> {
    ek::create_ek_object_2(context, AsymmetricAlgorithmSelection::Rsa(RsaKeyBits::Rsa2048), None)
        .map_err(refused("could not make the endorsement key"))
}

/// The key that attests: restricted to sign what the TPM made.
fn attestation_key(context: &mut Context, key: AttestationKey) -> Result<KeyHandle, CollectError> {
    let step = "could not make the attestation key";
    let template = attestation_template(key).map_err(refused(step))?;
    let created = context
        .execute_with_nullauth_session(|context| {
            context.create_primary(Hierarchy::Endorsement, template, None, None, None, None)
        })
        .map_err(refused(step))?;
    Ok(created.key_handle)
}

fn attestation_template(key: AttestationKey) -> Result<Public, TssError> {
    let attributes = ObjectAttributesBuilder::new()
        .with_restricted(true)
        .with_sign_encrypt(true)
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .build()?;
    let sha256 = HashScheme::new(HashingAlgorithm::Sha256);
    let template = PublicBuilder::new()
        .with_object_attributes(attributes)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256);
    let elliptic = |curve, hash| {
        PublicEccParametersBuilder::new_unrestricted_signing_key(EccScheme::EcDsa(hash), curve)
            .with_restricted(true)
            .build()
    };
    let rsa = |scheme| {
        let exponent = RsaExponent::default();
        PublicRsaParametersBuilder::new_unrestricted_signing_key(scheme, RsaKeyBits::Rsa2048, exponent)
            .with_restricted(true)
            .build()
    };
    let rsa_scheme = |algorithm| RsaScheme::create(algorithm, Some(HashingAlgorithm::Sha256));
    let template = match key {
        AttestationKey::P256 => template
            .with_public_algorithm(PublicAlgorithm::Ecc)
            .with_ecc_parameters(elliptic(EccCurve::NistP256, sha256)?)
            .with_ecc_unique_identifier(EccPoint::default()),
        AttestationKey::P384 => template
            .with_public_algorithm(PublicAlgorithm::Ecc)
            .with_ecc_parameters(elliptic(EccCurve::NistP384, HashScheme::new(HashingAlgorithm::Sha384))?)
            .with_ecc_unique_identifier(EccPoint::default()),
        AttestationKey::RsaSsa => template
            .with_public_algorithm(PublicAlgorithm::Rsa)
            .with_rsa_parameters(rsa(rsa_scheme(RsaSchemeAlgorithm::RsaSsa)?)?)
            .with_rsa_unique_identifier(PublicKeyRsa::default()),
        AttestationKey::RsaPss => template
            .with_public_algorithm(PublicAlgorithm::Rsa)
            .with_rsa_parameters(rsa(rsa_scheme(RsaSchemeAlgorithm::RsaPss)?)?)
            .with_rsa_unique_identifier(PublicKeyRsa::default()),
    };
    template.build()
}

/// `TPMT_PUBLIC` of a key.
fn public_area<const MAX: usize>(
    context: &mut Context,
    key: KeyHandle,
) -> Result<BoundedBytes<MAX>, CollectError> {
    let step = "could not read a public area";
    let (public, _, _) =
        context.execute_without_session(|context| context.read_public(key)).map_err(refused(step))?;
    BoundedBytes::new(public.marshall().map_err(refused(step))?).map_err(|_| CollectError::Unfit("a public area"))
}

/// Takes the secret out of a credential: the attestation key by its empty password, the endorsement key by its policy,
/// which is the hierarchy's password (PolicyA of the profile).
fn activate(
    context: &mut Context,
    ek: KeyHandle,
    ak: KeyHandle,
    challenge: &Challenge,
) -> Result<Digest, CollectError> {
    let step = "could not activate the credential";
    let blob = IdObject::try_from(challenge.id_object.to_vec()).map_err(refused(step))?;
    let seed = EncryptedSecret::try_from(challenge.encrypted_seed.to_vec()).map_err(refused(step))?;
    let session = context
        .execute_without_session(|context| {
            context.start_auth_session(
                None,
                None,
                None,
                SessionType::Policy,
                SymmetricDefinition::AES_128_CFB,
                HashingAlgorithm::Sha256,
            )
        })
        .map_err(refused(step))?
        .ok_or(CollectError::Unfit("a session"))?;
    let activated = activate_in(context, ek, ak, session, blob, seed);
    // An activation ends the session unless it failed; then the context may not know it any more.
    let _ = context.execute_without_session(|context| context.flush_context(SessionHandle::from(session).into()));
    let secret = activated.map_err(refused(step))?;
    Ok(Digest(secret.value().try_into().map_err(|_| CollectError::Unfit("a secret"))?))
}

fn activate_in(
    context: &mut Context,
    ek: KeyHandle,
    ak: KeyHandle,
    session: AuthSession,
    blob: IdObject,
    seed: EncryptedSecret,
) -> Result<tss_esapi::structures::Digest, TssError> {
    let (attributes, mask) = SessionAttributesBuilder::new().with_continue_session(true).build();
    context.tr_sess_set_attributes(session, attributes, mask)?;
    let policy = PolicySession::try_from(session)?;
    context.execute_with_nullauth_session(|context| {
        context.policy_secret(
            policy,
            AuthHandle::Endorsement,
            tss_esapi::structures::Nonce::default(),
            tss_esapi::structures::Digest::default(),
            tss_esapi::structures::Nonce::default(),
            None,
        )
    })?;
    let sessions = (Some(AuthSession::Password), Some(session), None);
    context.execute_with_sessions(sessions, |context| context.activate_credential(ak, ek, blob, seed))
}

/// Which PCRs, in the SHA-256 bank.
fn selection(slots: &[PcrSlot]) -> Result<PcrSelectionList, CollectError> {
    PcrSelectionList::builder()
        .with_selection(HashingAlgorithm::Sha256, slots)
        .build()
        .map_err(refused("could not name PCRs"))
}

/// The firmware's PCRs. One reading returns eight values.
const FIRMWARE: [PcrSlot; 8] = [
    PcrSlot::Slot0,
    PcrSlot::Slot1,
    PcrSlot::Slot2,
    PcrSlot::Slot3,
    PcrSlot::Slot4,
    PcrSlot::Slot5,
    PcrSlot::Slot6,
    PcrSlot::Slot7,
];
/// IMA's PCR.
const IMA: [PcrSlot; 1] = [PcrSlot::Slot10];

fn quote(context: &mut Context, ak: KeyHandle, data: &[u8; 32]) -> Result<Attested, CollectError> {
    let step = "could not quote";
    let slots = selection(&[&FIRMWARE[..], &IMA].concat())?;
    let data = Data::try_from(data.to_vec()).map_err(refused(step))?;
    let (statement, signature) = context
        .execute_with_nullauth_session(|context| context.quote(ak, data, SignatureScheme::Null, slots))
        .map_err(refused(step))?;
    let unfit = |_| CollectError::Unfit("a quote");
    Ok(Attested {
        statement: BoundedBytes::new(statement.marshall().map_err(refused(step))?).map_err(unfit)?,
        signature: BoundedBytes::new(signature.marshall().map_err(refused(step))?).map_err(unfit)?,
    })
}

/// A quote with the values that it covers: PCR 10 can grow between two commands.
fn steady_quote(
    context: &mut Context,
    ak: KeyHandle,
    binding: &[u8; 32],
) -> Result<(Attested, [Digest; 9]), CollectError> {
    for _ in 0..QUOTE_ATTEMPTS {
        let (before, firmware) = read_pcrs(context, &FIRMWARE)?;
        let (_, ima) = read_pcrs(context, &IMA)?;
        let quote = quote(context, ak, binding)?;
        let (after, _) = read_pcrs(context, &IMA)?;
        if before == after {
            let values = [firmware, ima].concat().try_into().map_err(|_| CollectError::Unfit("PCR values"))?;
            return Ok((quote, values));
        }
    }
    Err(CollectError::Unsteady)
}

/// The values of PCRs, and how often PCRs were changed.
fn read_pcrs(context: &mut Context, slots: &[PcrSlot]) -> Result<(u32, Vec<Digest>), CollectError> {
    let asked = selection(slots)?;
    let (changes, _, values) = context
        .execute_without_session(|context| context.pcr_read(asked))
        .map_err(refused("could not read the PCRs"))?;
    let values = values.value().iter().map(|value| value.value().try_into().map(Digest)).collect::<Result<_, _>>();
    Ok((changes, values.map_err(|_| CollectError::Unfit("PCR values: is the SHA-256 bank enabled?"))?))
}

/// The vendor's certificate of the endorsement key.
fn endorsement_certificate(
    context: &mut Context,
) -> Result<Option<BoundedBytes<MAX_CERTIFICATE_BYTES>>, CollectError> {
    if !nv_indexes(context, EK_CERTIFICATE_INDEX)?.contains(&EK_CERTIFICATE_INDEX) {
        return Ok(None);
    }
    let stored = read_nv(context, EK_CERTIFICATE_INDEX)?;
    Ok(ders(&stored).next().and_then(|certificate| BoundedBytes::new(certificate.to_vec()).ok()))
}

/// The certificates between it and the root, where the vendor put them into the TPM: one after the other, over as many
/// indexes as they need.
fn intermediate_certificates(
    context: &mut Context,
) -> Result<Vec<BoundedBytes<MAX_CERTIFICATE_BYTES>>, CollectError> {
    let mut stored = Vec::new();
    for index in nv_indexes(context, *CHAIN_INDEXES.start())? {
        if CHAIN_INDEXES.contains(&index) && stored.len() < MAX_CHAIN * MAX_CERTIFICATE_BYTES {
            stored.extend(read_nv(context, index)?);
        }
    }
    Ok(ders(&stored)
        .take(MAX_CHAIN)
        .filter_map(|certificate| BoundedBytes::new(certificate.to_vec()).ok())
        .collect())
}

/// The NV indexes that are defined from `first` on.
fn nv_indexes(context: &mut Context, first: u32) -> Result<Vec<u32>, CollectError> {
    let (data, _) = context
        .execute_without_session(|context| context.get_capability(CapabilityType::Handles, first, 254))
        .map_err(refused("could not list the NV indexes"))?;
    let CapabilityData::Handles(handles) = data else { return Err(CollectError::Unfit("a list of handles")) };
    Ok(handles.into_inner().into_iter().map(u32::from).collect())
}

fn read_nv(context: &mut Context, index: u32) -> Result<Vec<u8>, CollectError> {
    let step = "could not read a certificate from NV memory";
    let index = NvIndexTpmHandle::new(index).map_err(refused(step))?;
    // By the index's own password, which is empty: the owner's may not be.
    let handle = context
        .execute_without_session(|context| context.tr_from_tpm_public(TpmHandle::NvIndex(index)))
        .map_err(refused(step))?;
    context
        .execute_with_nullauth_session(|context| nv::read_full(context, NvAuth::NvIndex(handle.into()), index))
        .map_err(refused(step))
}

/// The DER elements that lie one after the other; an index may be larger than what is in it.
fn ders(mut stored: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        // Certificates have 256 bytes to 64 KiB: a sequence with two bytes of length.
        let [0x30, 0x82, high, low, ..] = *stored else { return None };
        let (element, rest) = stored.split_at_checked(4 + usize::from(u16::from_be_bytes([high, low])))?;
        stored = rest;
        Some(element)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_behind_a_certificate_is_left_out() {
        let certificate = [&[0x30, 0x82, 0x01, 0x00][..], &[7; 256]].concat();
        let stored = [&certificate[..], &certificate, &[0xff; 40]].concat();
        assert_eq!(ders(&stored).collect::<Vec<_>>(), [&certificate[..], &certificate]);
        assert_eq!(ders(&certificate[..100]).count(), 0);
        assert_eq!(ders(&[]).count(), 0);
    }

    #[test]
    fn a_missing_tpm_is_named_with_what_to_do() {
        let settings = Settings { tcti: "device:/nonexistent/tpm".into(), ..Settings::default() };
        let error = identity(&settings).unwrap_err();
        assert!(matches!(&error, CollectError::NoDevice(path) if path == &PathBuf::from("/nonexistent/tpm")));
        assert!(error.to_string().contains("firmware's settings"));
        let settings = Settings { tcti: "telepathy".into(), ..Settings::default() };
        assert!(matches!(identity(&settings), Err(CollectError::Setting(_))));
    }
}
