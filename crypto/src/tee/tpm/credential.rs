//! MakeCredential (TPM 2.0 Part 1, 24): a secret that only the TPM which holds both keys gives back.

use super::{
    TpmError,
    quote::effective_exponent,
    structures::{ALG_SHA256, Key, Public, hash},
};
use aes::{Aes128, Aes256};
use cfb_mode::{
    Encryptor,
    cipher::{AsyncStreamCipher as _, KeyIvInit as _},
};
use ring::hmac;
use rsa::{
    BigUint, Oaep, RsaPublicKey,
    rand_core::CryptoRngCore,
    sha2::{Sha256, Sha384},
};
use zeroize::Zeroizing;

/// OAEP's label for credentials, with the zero that ends it (Part 1, B.10.4 and 24).
const LABEL: &str = "IDENTITY\0";

/// What `TPM2_ActivateCredential` takes.
pub(super) struct Credential {
    /// `TPMS_ID_OBJECT`: the HMAC as a TPM2B, then the encrypted secret.
    pub(super) id_object: Vec<u8>,
    /// The seed of both keys, encrypted for the endorsement key.
    pub(super) encrypted_seed: Vec<u8>,
}

/// Wraps `secret` for the object called `name` in the TPM of `endorsement`, an RSA storage key. `seed` has as many bytes
/// as the digest of the endorsement key's name.
pub(super) fn make(
    endorsement: &Public,
    name: &[u8],
    secret: &[u8; 32],
    seed: &[u8],
    random: &mut impl CryptoRngCore,
) -> Result<Credential, TpmError> {
    let unfit = || TpmError::EndorsementKey("it cannot protect a secret");
    let Key::Rsa { exponent, modulus, .. } = &endorsement.key else { return Err(unfit()) };
    let key = RsaPublicKey::new(BigUint::from_bytes_be(modulus), effective_exponent(*exponent).into())
        .map_err(|_| unfit())?;
    let padding = if endorsement.name_algorithm == ALG_SHA256 {
        Oaep::new_with_label::<Sha256, _>(LABEL)
    } else {
        Oaep::new_with_label::<Sha384, _>(LABEL)
    };
    let encrypted_seed = key.encrypt(random, padding, seed).map_err(|_| unfit())?;

    let digest = hash(endorsement.name_algorithm).ok_or_else(unfit)?;
    let aes_bits = endorsement.aes_bits.ok_or_else(unfit)?;
    let algorithm = if endorsement.name_algorithm == ALG_SHA256 { hmac::HMAC_SHA256 } else { hmac::HMAC_SHA384 };
    let storage = kdfa(algorithm, seed, b"STORAGE", name, aes_bits);
    let mut encrypted = [&32_u16.to_be_bytes()[..], secret].concat();
    let iv = [0; 16];
    match aes_bits {
        128 => Encryptor::<Aes128>::new_from_slices(&storage, &iv).map_err(|_| unfit())?.encrypt(&mut encrypted),
        256 => Encryptor::<Aes256>::new_from_slices(&storage, &iv).map_err(|_| unfit())?.encrypt(&mut encrypted),
        _ => return Err(unfit()),
    }

    let integrity = kdfa(algorithm, seed, b"INTEGRITY", &[], (digest.output_len() * 8) as u16);
    let mut outer = hmac::Context::with_key(&hmac::Key::new(algorithm, &integrity));
    outer.update(&encrypted);
    outer.update(name);
    let tag = outer.sign();
    let id_object = [&(tag.as_ref().len() as u16).to_be_bytes()[..], tag.as_ref(), &encrypted].concat();
    Ok(Credential { id_object, encrypted_seed })
}

/// KDFa (Part 1, 11.4.10.2): SP 800-108 in counter mode with HMAC. `context` is the first party's; the second has none.
/// At most one digest's worth of bits is ever asked for.
fn kdfa(algorithm: hmac::Algorithm, key: &[u8], label: &[u8], context: &[u8], bits: u16) -> Zeroizing<Vec<u8>> {
    let mut block = hmac::Context::with_key(&hmac::Key::new(algorithm, key));
    block.update(&1_u32.to_be_bytes());
    block.update(label);
    block.update(&[0]);
    block.update(context);
    block.update(&u32::from(bits).to_be_bytes());
    let mut derived = Zeroizing::new(block.sign().as_ref().to_vec());
    derived.truncate(usize::from(bits) / 8);
    derived
}
