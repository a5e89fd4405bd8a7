//! Keys: the client's secret one, the evaluation key that lets a provider compute, and what a provider makes of that.
//!
//! A secret key is 32 random bytes. All else follows from them, the evaluation key to its last bit: an upload that broke
//! off can go on after a restart, and nothing else needs to be kept.

use super::{processor::Processor, profile::Profile, seeds::Derived};
use rayon::prelude::*;
use std::fmt;
use tfhe::core_crypto::{
    commons::math::random::{CompressionSeed, Seed},
    prelude::{
        CiphertextModulus, DefaultRandomGenerator, FourierLweBootstrapKey, FourierLweBootstrapKeyOwned,
        GlweSecretKeyOwned, LweBootstrapKeyOwned, LweKeyswitchKeyOwned, LweSecretKeyOwned, SecretRandomGenerator,
        SeededLweBootstrapKey, SeededLweKeyswitchKey, allocate_and_generate_new_binary_glwe_secret_key,
        allocate_and_generate_new_binary_lwe_secret_key, allocate_and_generate_new_seeded_lwe_keyswitch_key,
        par_allocate_and_generate_new_seeded_lwe_bootstrap_key, par_convert_standard_lwe_bootstrap_key_to_fourier,
    },
};
use zeroize::{Zeroize, Zeroizing};

/// Bytes of a secret key, as it is kept.
pub const CLIENT_KEY_BYTES: usize = 2 + SECRET;

/// Version of a secret key's bytes.
const VERSION: u8 = 1;
const SECRET: usize = 32;
const SEED: usize = 16;

/// Why bytes are no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Another length than keys of this kind have.
    #[error("a key of {got} bytes, where it has {expected}")]
    Length {
        /// What it should have.
        expected: usize,
        /// What it has.
        got: usize,
    },
    /// Written by another version, or for a profile that is not known.
    #[error("a key of an unknown version or profile: this build does not read it")]
    Unknown,
    /// It cannot be used there.
    #[error("this machine has no CUDA GPU with room for the key, or this build does not use it")]
    Processor,
}

/// The secret key of a client. Its `Debug` form shows the profile only.
pub struct ClientKey {
    profile: Profile,
    secret: Zeroizing<[u8; SECRET]>,
    /// Under which values travel and sums are made.
    glwe: GlweSecretKeyOwned<u64>,
}

impl fmt::Debug for ClientKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ClientKey({})", self.profile)
    }
}

impl Drop for ClientKey {
    fn drop(&mut self) {
        self.glwe.as_mut().zeroize();
    }
}

/// The key under which a bootstrap takes its input; wiped when dropped.
struct Small(LweSecretKeyOwned<u64>);

impl Drop for Small {
    fn drop(&mut self) {
        self.0.as_mut().zeroize();
    }
}

impl ClientKey {
    /// A new key, from the system's randomness.
    pub fn generate(profile: Profile) -> Result<Self, getrandom::Error> {
        let mut secret = Zeroizing::new([0; SECRET]);
        getrandom::fill(secret.as_mut())?;
        Ok(Self::derive(profile, secret))
    }

    fn derive(profile: Profile, secret: Zeroizing<[u8; SECRET]>) -> Self {
        let of = profile.parameters();
        let mut generator = generator(&secret, b"glwe");
        let glwe = allocate_and_generate_new_binary_glwe_secret_key(
            of.glwe_dimension,
            of.polynomial_size,
            &mut generator,
        );
        Self { profile, secret, glwe }
    }

    /// Its profile.
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// The bytes to keep, for nobody else's eyes.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(CLIENT_KEY_BYTES));
        bytes.extend([VERSION, self.profile.number()]);
        bytes.extend(self.secret.iter());
        bytes
    }

    /// A key that was kept.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        let length = KeyError::Length { expected: CLIENT_KEY_BYTES, got: bytes.len() };
        let ([version, number], secret) = bytes.split_first_chunk().ok_or_else(|| length.clone())?;
        let mut kept = Zeroizing::new([0; SECRET]);
        if secret.len() != SECRET {
            return Err(length);
        }
        kept.copy_from_slice(secret);
        let profile = Profile::numbered(*number).filter(|_| *version == VERSION).ok_or(KeyError::Unknown)?;
        Ok(Self::derive(profile, kept))
    }

    /// The key under which sums are made, as bits in whole words.
    pub(super) fn lwe(&self) -> LweSecretKeyOwned<u64> {
        self.glwe.clone().into_lwe_secret_key()
    }

    fn small(&self) -> Small {
        let dimension = self.profile.parameters().lwe_dimension;
        let key = allocate_and_generate_new_binary_lwe_secret_key(dimension, &mut generator(&self.secret, b"lwe"));
        Small(key)
    }

    /// The evaluation key as it is sent, always the same: masks by their seeds, so that it is half as large.
    /// [`Profile::evaluation_key_bytes`] long. Takes a second or two of all cores.
    pub fn evaluation_key(&self) -> Vec<u8> {
        let of = self.profile.parameters();
        let small = self.small();
        let big = Small(self.lwe());
        let modulus = CiphertextModulus::new_native();
        let bootstrap = par_allocate_and_generate_new_seeded_lwe_bootstrap_key(
            &small.0,
            &self.glwe,
            of.pbs_base_log,
            of.pbs_level,
            of.glwe_noise_distribution,
            modulus,
            &mut Derived::new(&self.secret, b"bootstrap"),
        );
        let keyswitch = allocate_and_generate_new_seeded_lwe_keyswitch_key(
            &big.0,
            &small.0,
            of.ks_base_log,
            of.ks_level,
            of.lwe_noise_distribution,
            modulus,
            &mut Derived::new(&self.secret, b"keyswitch"),
        );
        let mut bytes = Vec::with_capacity(self.profile.evaluation_key_bytes());
        let seed = bootstrap.compression_seed().seed.0;
        bytes.extend(seed.to_le_bytes());
        bytes.extend(keyswitch.compression_seed().seed.0.to_le_bytes());
        let words = bootstrap.into_container().into_iter().chain(keyswitch.into_container());
        words.for_each(|word| bytes.extend(word.to_le_bytes()));
        bytes
    }
}

fn generator(secret: &[u8; SECRET], purpose: &[u8]) -> SecretRandomGenerator<DefaultRandomGenerator> {
    SecretRandomGenerator::new(Derived::new(secret, purpose).next())
}

impl Profile {
    fn bootstrap_words(self) -> usize {
        let of = self.parameters();
        of.lwe_dimension.0 * of.pbs_level.0 * (of.glwe_dimension.0 + 1) * of.polynomial_size.0
    }

    fn keyswitch_words(self) -> usize {
        self.dimension() * self.parameters().ks_level.0
    }

    /// Bytes of an evaluation key as it is sent.
    pub fn evaluation_key_bytes(self) -> usize {
        2 * SEED + 8 * (self.bootstrap_words() + self.keyswitch_words())
    }

    /// Bytes of memory that a key takes with a provider that computes with it, and as many for a moment while it is read.
    pub fn server_key_memory(self) -> u64 {
        let of = self.parameters();
        // Half as many complex numbers as words, with all masks.
        let bootstrap = 8 * self.bootstrap_words() * (of.glwe_dimension.0 + 1);
        let keyswitch = 8 * self.keyswitch_words() * (of.lwe_dimension.0 + 1);
        (bootstrap + keyswitch) as u64
    }
}

/// A bootstrapping key where it is used.
pub(super) enum BootstrapKey {
    Cpu(FourierLweBootstrapKeyOwned),
    #[cfg(feature = "cuda")]
    Cuda(super::cuda::Key),
}

impl BootstrapKey {
    fn new(key: &LweBootstrapKeyOwned<u64>, processor: Processor) -> Result<Self, KeyError> {
        match processor {
            Processor::Cpu => {
                let mut fourier = FourierLweBootstrapKey::new(
                    key.input_lwe_dimension(),
                    key.glwe_size(),
                    key.polynomial_size(),
                    key.decomposition_base_log(),
                    key.decomposition_level_count(),
                );
                par_convert_standard_lwe_bootstrap_key_to_fourier(key, &mut fourier);
                Ok(Self::Cpu(fourier))
            }
            #[cfg(feature = "cuda")]
            Processor::Cuda if processor.is_there() => {
                super::cuda::Key::new(key).map(Self::Cuda).ok_or(KeyError::Processor)
            }
            Processor::Cuda => Err(KeyError::Processor),
        }
    }
}

/// What a provider computes with.
pub struct ServerKey {
    pub(super) profile: Profile,
    pub(super) bootstrap: BootstrapKey,
    pub(super) keyswitch: LweKeyswitchKeyOwned<u64>,
}

impl fmt::Debug for ServerKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ServerKey({})", self.profile)
    }
}

impl ServerKey {
    /// The key behind an evaluation key, for use on `processor`. Any bytes of the right length are one: of a hostile one
    /// nothing follows but wrong answers to whoever sent it. Takes some tenths of a second.
    pub fn from_bytes(profile: Profile, bytes: &[u8], processor: Processor) -> Result<Self, KeyError> {
        let expected = profile.evaluation_key_bytes();
        if bytes.len() != expected {
            return Err(KeyError::Length { expected, got: bytes.len() });
        }
        let of = profile.parameters();
        let (seeds, words) = bytes.split_at(2 * SEED);
        let (bootstrap_seed, keyswitch_seed) = seeds.split_at(SEED);
        let (bootstrap, keyswitch) = words.split_at(8 * profile.bootstrap_words());
        let modulus = CiphertextModulus::new_native();
        // What is unfolded is as large as what is made of it, and goes before the other half is.
        let bootstrap = {
            let standard = SeededLweBootstrapKey::from_container(
                read_words(bootstrap),
                of.glwe_dimension.to_glwe_size(),
                of.polynomial_size,
                of.pbs_base_log,
                of.pbs_level,
                read_seed(bootstrap_seed),
                modulus,
            )
            .par_decompress_into_lwe_bootstrap_key();
            BootstrapKey::new(&standard, processor)?
        };
        let keyswitch = SeededLweKeyswitchKey::from_container(
            read_words(keyswitch),
            of.ks_base_log,
            of.ks_level,
            of.lwe_dimension.to_lwe_size(),
            read_seed(keyswitch_seed),
            modulus,
        )
        .par_decompress_into_lwe_keyswitch_key();
        Ok(Self { profile, bootstrap, keyswitch })
    }

    /// Its profile.
    pub fn profile(&self) -> Profile {
        self.profile
    }
}

fn read_words(bytes: &[u8]) -> Vec<u64> {
    let (words, _) = bytes.as_chunks::<8>();
    words.par_iter().map(|word| u64::from_le_bytes(*word)).collect()
}

/// The seed in the first 16 bytes.
pub(super) fn read_seed(bytes: &[u8]) -> CompressionSeed {
    let mut seed = [0; SEED];
    seed.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    Seed(u128::from_le_bytes(seed)).into()
}
