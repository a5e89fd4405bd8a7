//! Sealing and opening signed statements.

use crate::keys::SecretKey;
use aitbc_protocol::{NetworkId, Signed, Statement, wire, wire::WireError};
use ed25519_dalek::{Signature, VerifyingKey};

/// Why a signed statement is not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The signature does not belong to these bytes, this signer, this kind of statement and this network.
    #[error("the signature is not valid")]
    Invalid,
    /// Well signed, but not a statement of the expected shape.
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// Encodes and signs a statement.
///
/// # Errors
/// When the statement is larger than its kind allows.
pub fn seal<T: Statement>(key: &SecretKey, network: &NetworkId, statement: &T) -> Result<Signed<T>, WireError> {
    let payload = wire::encode_payload(statement, T::MAX_BYTES)?;
    let signature = key.sign(&Signed::<T>::message(network, &payload));
    Ok(Signed::from_parts(key.node_id(), signature, payload))
}

/// Verifies a signed statement and reads it.
///
/// Verification is strict (ed25519-dalek's `verify_strict`: no small-order keys, no malleable signatures), so one
/// statement has one signature that all nodes accept.
pub fn open<T: Statement>(signed: &Signed<T>, network: &NetworkId) -> Result<T, SignatureError> {
    if signed.payload().len() > T::MAX_BYTES {
        return Err(WireError::TooLarge { limit: T::MAX_BYTES, got: signed.payload().len() }.into());
    }
    let key = VerifyingKey::from_bytes(&signed.signer().0).map_err(|_| SignatureError::Invalid)?;
    let signature = Signature::from_bytes(signed.signature());
    key.verify_strict(&Signed::<T>::message(network, signed.payload()), &signature)
        .map_err(|_| SignatureError::Invalid)?;
    Ok(signed.read_unverified()?)
}
