//! The signature under a quote.

use super::{
    TpmError,
    structures::{
        ALG_ECDSA, ALG_RSAPSS, ALG_RSASSA, ALG_SHA256, ALG_SHA384, ECC_P256, ECC_P384, Key, Public, Signature,
    },
};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
    UnparsedPublicKey,
};
use rsa::{
    BigUint, Pss, RsaPublicKey,
    sha2::{Digest as _, Sha256},
    traits::SignatureScheme as _,
};

/// Whether `key` signed `message`, in the one scheme that its public area names.
pub(super) fn check_signature(key: &Public, message: &[u8], signature: &Signature<'_>) -> Result<(), TpmError> {
    let (Signature::Rsa { scheme, .. } | Signature::Ecdsa { scheme, .. }) = signature;
    if key.scheme != Some(*scheme) {
        return Err(TpmError::Signature);
    }
    let valid = match (&key.key, signature) {
        (Key::Rsa { modulus, exponent, .. }, Signature::Rsa { scheme, signature }) => {
            match (scheme.algorithm, scheme.hash) {
                (ALG_RSASSA, ALG_SHA256) => RsaPublicKeyComponents { n: modulus, e: &exponent_bytes(*exponent) }
                    .verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
                    .is_ok(),
                (ALG_RSAPSS, ALG_SHA256) => verify_pss(modulus, *exponent, message, signature),
                _ => false,
            }
        }
        (Key::Ecc { curve, x, y }, Signature::Ecdsa { scheme, r, s }) => {
            let (algorithm, size) = match (*curve, scheme.algorithm, scheme.hash) {
                (ECC_P256, ALG_ECDSA, ALG_SHA256) => (&ECDSA_P256_SHA256_FIXED, 32),
                (ECC_P384, ALG_ECDSA, ALG_SHA384) => (&ECDSA_P384_SHA384_FIXED, 48),
                _ => return Err(TpmError::Signature),
            };
            let point = padded(x, size).zip(padded(y, size)).map(|(x, y)| [&[4][..], &x, &y].concat());
            let pair = padded(r, size).zip(padded(s, size)).map(|(r, s)| [r, s].concat());
            point.zip(pair).is_some_and(|(point, pair)| {
                UnparsedPublicKey::new(algorithm, point).verify(message, &pair).is_ok()
            })
        }
        _ => false,
    };
    if valid { Ok(()) } else { Err(TpmError::Signature) }
}

/// RSASSA-PSS with the salts that TPMs use: as long as the digest (FIPS 186-4), or, in older firmware, as long as fits
/// (Part 1, B.7).
fn verify_pss(modulus: &[u8], exponent: u32, message: &[u8], signature: &[u8]) -> bool {
    let Ok(key) = RsaPublicKey::new(BigUint::from_bytes_be(modulus), effective_exponent(exponent).into()) else {
        return false;
    };
    let digest = Sha256::digest(message);
    let longest = modulus.len().saturating_sub(32 + 2);
    [32, longest]
        .into_iter()
        .any(|salt| Pss::new_with_salt::<Sha256>(salt).verify(&key, &digest, signature).is_ok())
}

/// 0 stands for 65,537 (Part 2, 12.2.3.5).
pub(super) fn effective_exponent(exponent: u32) -> u32 {
    if exponent == 0 { 65_537 } else { exponent }
}

/// Big-endian without leading zeros.
fn exponent_bytes(exponent: u32) -> Vec<u8> {
    effective_exponent(exponent).to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect()
}

/// A number with leading zeros, which some TPMs leave out.
fn padded(number: &[u8], size: usize) -> Option<Vec<u8>> {
    let zeros = size.checked_sub(number.len())?;
    Some([&vec![0; zeros], number].concat())
}
