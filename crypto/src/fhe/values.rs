//! Values on their way: encrypted by the client, and answers that only the client reads.
//!
//! What goes in is a list of LWE ciphertexts without their masks, which follow from one seed: 16 bytes, then 8 a value.
//! What comes out are ciphertexts whose numbers are cut to [`Profile::output_bits`], packed without gaps.

use super::{
    answer::Answer,
    interface::Interface,
    keys::{ClientKey, read_seed},
    profile::{MODULUS, Profile},
    seeds::Drawn,
};
use tfhe::core_crypto::prelude::{
    CiphertextModulus, LweCiphertextList, LweCiphertextListOwned, LweDimension, PlaintextList,
    SeededLweCiphertextList, Seeder, encrypt_seeded_lwe_ciphertext_list,
};
use zeroize::Zeroize;

/// Why values are not encrypted.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// Too few or too many.
    #[error("the model takes {expected} values, and {got} were given")]
    Count {
        /// What the model takes.
        expected: usize,
        /// What was given.
        got: usize,
    },
    /// One that is no number.
    #[error("value {place} is not a finite number")]
    NotFinite {
        /// Which, from 0.
        place: usize,
    },
    /// The key is for another profile.
    #[error("the model wants a key of profile {wanted}, and this one is {got}")]
    Profile {
        /// The model's.
        wanted: Profile,
        /// The key's.
        got: Profile,
    },
    /// The system gives no randomness.
    #[error("the system gives no randomness: {0}")]
    Randomness(#[from] getrandom::Error),
}

/// Why an answer cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutputError {
    /// Another length than the model's answers have.
    #[error("an answer of {got} bytes, where the model's have {expected}")]
    Length {
        /// What it should have.
        expected: usize,
        /// What it has.
        got: usize,
    },
    /// The key is for another profile.
    #[error("the model wants a key of profile {wanted}, and this one is {got}")]
    Profile {
        /// The model's.
        wanted: Profile,
        /// The key's.
        got: Profile,
    },
}

impl Profile {
    /// Bytes of `values` encrypted values.
    pub fn input_bytes(self, values: usize) -> usize {
        16 + 8 * values
    }

    /// Bytes of `outputs` outputs.
    pub fn output_bytes(self, outputs: usize) -> usize {
        (outputs * (self.dimension() + 1) * self.output_bits() as usize).div_ceil(8)
    }
}

/// The number on the torus of `fraction` of it.
pub(super) fn to_torus(fraction: f64) -> u64 {
    let whole = (fraction - fraction.floor()) * MODULUS;
    // A fraction just below 0 rounds to 1, which is 0.
    if whole >= MODULUS { 0 } else { whole as u64 }
}

impl ClientKey {
    /// Encrypts what the model is given for `values`: [`Profile::input_bytes`].
    pub fn encrypt(&self, interface: &Interface, values: &[f64]) -> Result<Vec<u8>, InputError> {
        if interface.profile != self.profile() {
            return Err(InputError::Profile { wanted: interface.profile, got: self.profile() });
        }
        if values.len() != interface.values() {
            return Err(InputError::Count { expected: interface.values(), got: values.len() });
        }
        if let Some(place) = values.iter().position(|value| !value.is_finite()) {
            return Err(InputError::NotFinite { place });
        }
        let prepared = interface.inputs.prepare(values, interface.mode);
        let mut plaintexts: Vec<u64> = prepared.iter().map(|value| to_torus(value * interface.unit)).collect();
        let mut seeder = Drawn::new()?;
        let mask = seeder.seed();
        let mut list = SeededLweCiphertextList::from_container(
            vec![0; values.len()],
            LweDimension(self.profile().dimension()).to_lwe_size(),
            mask.into(),
            CiphertextModulus::new_native(),
        );
        let noise = self.profile().parameters().glwe_noise_distribution;
        let mut key = self.lwe();
        let encoded = PlaintextList::from_container(plaintexts.as_slice());
        encrypt_seeded_lwe_ciphertext_list(&key, &mut list, &encoded, noise, &mut seeder);
        key.as_mut().zeroize();
        plaintexts.zeroize();
        let mut bytes = Vec::with_capacity(self.profile().input_bytes(values.len()));
        bytes.extend(mask.0.to_le_bytes());
        list.into_container().into_iter().for_each(|body: u64| bytes.extend(body.to_le_bytes()));
        Ok(bytes)
    }

    /// Reads an answer. Nothing that others could see may depend on what it says: TFHE's ciphertexts can be changed on
    /// the way, and whoever sees what becomes of a changed one learns of the key.
    pub fn decrypt(&self, interface: &Interface, sealed: &[u8]) -> Result<Answer, OutputError> {
        if interface.profile != self.profile() {
            return Err(OutputError::Profile { wanted: interface.profile, got: self.profile() });
        }
        let expected = interface.output_bytes();
        if sealed.len() != expected {
            return Err(OutputError::Length { expected, got: sealed.len() });
        }
        let bits = self.profile().output_bits();
        let numbers = unpack(sealed, bits);
        let mut key = self.lwe();
        let size = self.profile().dimension() + 1;
        let sums = numbers.chunks_exact(size).take(interface.outputs()).map(|numbers| {
            let (mask, body) = numbers.split_at(size - 1);
            let product = mask.iter().zip(key.as_ref()).fold(0_u64, |sum, (a, s)| sum.wrapping_add(a * s));
            // To the left, so that the sign is where it should be.
            let signed = (body[0].wrapping_sub(product) << (64 - bits)).cast_signed();
            signed as f64 / MODULUS / interface.output_unit
        });
        let values: Vec<f64> = sums.map(|sum| interface.read(sum)).collect();
        key.as_mut().zeroize();
        let class = (!interface.labels().is_empty()).then(|| largest(&values));
        Ok(Answer { values, class })
    }
}

/// The place of the largest value, the first of equals.
pub fn largest(values: &[f64]) -> usize {
    let mut best = 0;
    for (place, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = place;
        }
    }
    best
}

/// The ciphertexts behind a client's input of the right length.
pub(super) fn expand(profile: Profile, input: &[u8]) -> LweCiphertextListOwned<u64> {
    let (seed, bodies) = input.split_at(16.min(input.len()));
    let (bodies, _) = bodies.as_chunks::<8>();
    let list: SeededLweCiphertextList<Vec<u64>> = SeededLweCiphertextList::from_container(
        bodies.iter().map(|body| u64::from_le_bytes(*body)).collect(),
        LweDimension(profile.dimension()).to_lwe_size(),
        read_seed(seed),
        CiphertextModulus::new_native(),
    );
    list.par_decompress_into_lwe_ciphertext_list()
}

/// Cuts the numbers of ciphertexts to as many bits as an answer has, and packs them. Half of what is cut off is expected
/// to count, keys being bits: that much is taken into the body, which halves the variance of the rest.
pub(super) fn pack(profile: Profile, outputs: &LweCiphertextList<Vec<u64>>) -> Vec<u8> {
    let bits = profile.output_bits();
    let shift = 64 - bits;
    let round = |number: u64| number.wrapping_add(1 << (shift - 1)) >> shift;
    let mut packer = Packer::new(bits, profile.output_bytes(outputs.as_ref().len() / (profile.dimension() + 1)));
    for numbers in outputs.as_ref().chunks_exact(profile.dimension() + 1) {
        let (mask, body) = numbers.split_at(numbers.len() - 1);
        let mut cut = 0_i64;
        for number in mask {
            let rounded = round(*number);
            cut = cut.wrapping_add((rounded << shift).wrapping_sub(*number).cast_signed() >> 1);
            packer.push(rounded);
        }
        packer.push(round(body[0].wrapping_add_signed(cut)));
    }
    packer.finish()
}

/// The numbers that were packed.
pub(super) fn unpack(bytes: &[u8], bits: u32) -> Vec<u64> {
    let mut numbers = Vec::with_capacity(bytes.len() * 8 / bits as usize);
    let (mut rest, mut held) = (0_u64, 0);
    for byte in bytes {
        rest |= u64::from(*byte) << held;
        held += 8;
        if held >= bits {
            numbers.push(rest & ((1 << bits) - 1));
            rest >>= bits;
            held -= bits;
        }
    }
    numbers
}

/// Puts numbers of a few bits behind each other, low bits first.
struct Packer {
    bits: u32,
    bytes: Vec<u8>,
    /// Bits that are no whole byte yet, and how many.
    rest: u64,
    held: u32,
}

impl Packer {
    fn new(bits: u32, capacity: usize) -> Self {
        Self { bits, bytes: Vec::with_capacity(capacity), rest: 0, held: 0 }
    }

    fn push(&mut self, number: u64) {
        self.rest |= (number & ((1 << self.bits) - 1)) << self.held;
        self.held += self.bits;
        while self.held >= 8 {
            self.bytes.push(self.rest as u8);
            self.rest >>= 8;
            self.held -= 8;
        }
    }

    fn finish(mut self) -> Vec<u8> {
        if self.held > 0 {
            self.bytes.push(self.rest as u8);
        }
        self.bytes
    }
}
