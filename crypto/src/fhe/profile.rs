//! Sets of parameters. All are tfhe's own, at 128 bits of security and more, and a chance below 2^-128 that a bootstrap
//! fails on a message of the bits that the set is for.

use super::network::Mode;
use serde::{Deserialize, Serialize};
use std::fmt;
use tfhe::{
    core_crypto::commons::noise_formulas::{
        centered_mean_shifted_modulus_switch::centered_binary_shifted_modulus_switch_additive_variance,
        lwe_keyswitch::keyswitch_additive_variance_132_bits_security_gaussian,
        lwe_programmable_bootstrap::pbs_variance_132_bits_security_gaussian_fft_mul,
        secure_noise::minimal_glwe_variance_for_132_bits_security_gaussian,
    },
    core_crypto::prelude::LweDimension,
    shortint::ClassicPBSParameters,
    shortint::parameters::v1_5::{
        V1_5_PARAM_MESSAGE_1_CARRY_1_KS_PBS_GAUSSIAN_2M128, V1_5_PARAM_MESSAGE_2_CARRY_2_KS_PBS_GAUSSIAN_2M128,
        V1_5_PARAM_MESSAGE_3_CARRY_2_KS_PBS_GAUSSIAN_2M128, V1_5_PARAM_MESSAGE_3_CARRY_3_KS_PBS_GAUSSIAN_2M128,
    },
};

/// Numbers on the torus: 2^64.
pub(super) const MODULUS: f64 = 18_446_744_073_709_551_616.0;

/// A set of parameters, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// Small keys and the fastest bootstraps, and the most noise: tfhe's 1_1.
    Fast,
    /// tfhe's 2_2: sixteen values exactly.
    High,
    /// tfhe's 3_2: 32 values exactly.
    Wide,
    /// tfhe's 3_3: 64 values exactly.
    Widest,
}

/// Variances of noise, as parts of the torus squared. Formulas are tfhe's, valid for its own sets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Noise {
    /// Of a value that was just encrypted.
    pub fresh: f64,
    /// Of what a bootstrap puts out, whatever came in.
    pub bootstrapped: f64,
    /// Added to a sum on its way into a bootstrap.
    pub entering: f64,
    /// Added to an output where it is cut to [`Profile::output_bits`].
    pub leaving: f64,
}

impl Profile {
    /// All, the cheapest first.
    pub const ALL: [Self; 4] = [Self::Fast, Self::High, Self::Wide, Self::Widest];

    /// tfhe's parameters.
    pub fn parameters(self) -> ClassicPBSParameters {
        match self {
            Self::Fast => V1_5_PARAM_MESSAGE_1_CARRY_1_KS_PBS_GAUSSIAN_2M128,
            Self::High => V1_5_PARAM_MESSAGE_2_CARRY_2_KS_PBS_GAUSSIAN_2M128,
            Self::Wide => V1_5_PARAM_MESSAGE_3_CARRY_2_KS_PBS_GAUSSIAN_2M128,
            Self::Widest => V1_5_PARAM_MESSAGE_3_CARRY_3_KS_PBS_GAUSSIAN_2M128,
        }
    }

    /// Its name, as in files and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::High => "high",
            Self::Wide => "wide",
            Self::Widest => "widest",
        }
    }

    /// The profile of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.name() == name)
    }

    /// Its number in files.
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Fast => 1,
            Self::High => 2,
            Self::Wide => 3,
            Self::Widest => 4,
        }
    }

    pub(super) fn numbered(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.number() == number)
    }

    /// How many values a bootstrap tells apart exactly.
    pub fn plaintexts(self) -> u64 {
        let of = self.parameters();
        of.message_modulus.0 * of.carry_modulus.0
    }

    /// The largest sum of squares of the weights of a row before an exact bootstrap, where what comes in was
    /// bootstrapped.
    pub fn exact_squares(self) -> f64 {
        let level = self.parameters().max_noise_level.get();
        (level * level) as f64
    }

    /// The dimension of the keys under which values travel and sums are made.
    pub fn dimension(self) -> usize {
        let of = self.parameters();
        of.glwe_dimension.0 * of.polynomial_size.0
    }

    /// Positions on the torus that a bootstrap tells apart: 2 N.
    pub fn positions(self) -> usize {
        2 * self.parameters().polynomial_size.0
    }

    /// Bits that each number of an output keeps on its way to the client: as few as leave exact answers exact.
    pub fn output_bits(self) -> u32 {
        match self {
            Self::Fast | Self::High => 14,
            Self::Wide => 16,
            Self::Widest => 18,
        }
    }

    /// Predicted noise.
    pub fn noise(self) -> Noise {
        let of = self.parameters();
        let big = LweDimension(self.dimension());
        let entering = keyswitch_additive_variance_132_bits_security_gaussian(
            big,
            of.lwe_dimension,
            of.ks_base_log,
            of.ks_level,
            MODULUS,
            MODULUS,
        )
        .0 + centered_binary_shifted_modulus_switch_additive_variance(
            of.lwe_dimension,
            MODULUS,
            self.positions() as f64,
        )
        .0;
        Noise {
            fresh: minimal_glwe_variance_for_132_bits_security_gaussian(
                of.glwe_dimension,
                of.polynomial_size,
                MODULUS,
            )
            .0,
            bootstrapped: pbs_variance_132_bits_security_gaussian_fft_mul(
                of.lwe_dimension,
                of.glwe_dimension,
                of.polynomial_size,
                of.pbs_base_log,
                of.pbs_level,
                MODULUS,
            )
            .0,
            entering,
            leaving: centered_binary_shifted_modulus_switch_additive_variance(
                big,
                MODULUS,
                (1_u64 << self.output_bits()) as f64,
            )
            .0,
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// What part of the torus a unit of a layer's sums takes, where sums reach up to `range`. Before a bootstrap sums have
/// half of the torus, a table being its own negative in the other half; the last layer has all of it.
pub fn unit(range: f64, last: bool, mode: Mode, profile: Profile) -> f64 {
    match (last, mode) {
        // One box of the plaintext space, so that the noise is what the set was made for.
        (_, Mode::Exact) => 0.5 / profile.plaintexts() as f64,
        (false, Mode::Approximate) => 0.25 / range,
        (true, Mode::Approximate) => 0.5 / range,
    }
}
