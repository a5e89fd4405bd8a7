//! What a GPU can be used for: how well it suits the edge, and in which quantisation a model fits.
//!
//! Both are estimates from data sheets, for choosing; what a card really does is measured.

use super::GpuProfile;
use serde::Serialize;
use std::fmt;

/// Weights of the parts of [`edge_score`].
const PER_WATT: f32 = 0.35;
const MEMORY: f32 = 0.25;
const BANDWIDTH: f32 = 0.25;
const HEADROOM: f32 = 0.15;
/// What counts as all that one could wish for at the edge: GFLOPS of fp16 a watt, bytes, and bytes a second.
const BEST_PER_WATT: f32 = 300.0;
const BEST_MEMORY: f32 = 24.0 * 1_073_741_824.0;
const BEST_BANDWIDTH: f32 = 1e12;

/// How well a GPU suits small devices at home, from 0 to 1:
///
/// `0.35 p + 0.25 m + 0.25 b + 0.15 t`, each part at most 1, where `p` is the rate of fp16 a watt over 300 GFLOPS/W, `m` the
/// memory over 24 GiB, `b` its bandwidth over 1,000 GB/s, and `t` the thermal headroom: 1 at rest, 0 at the temperature at
/// which it slows down. What is not known counts as 0; `memory_bytes` is what a GPU without memory of its own may use.
pub fn edge_score(profile: &GpuProfile, memory_bytes: u64, thermal_headroom: Option<f32>) -> f32 {
    let part = |figure: f32, best: f32| if figure.is_finite() { (figure / best).clamp(0.0, 1.0) } else { 0.0 };
    let per_watt = match (profile.fp16_gflops, profile.tdp_watts) {
        (Some(rate), Some(watts)) if watts > 0 => rate / f32::from(watts),
        _ => 0.0,
    };
    let memory = profile.memory_bytes.unwrap_or(memory_bytes) as f32;
    PER_WATT * part(per_watt, BEST_PER_WATT)
        + MEMORY * part(memory, BEST_MEMORY)
        + BANDWIDTH * part(profile.bandwidth.unwrap_or(0) as f32, BEST_BANDWIDTH)
        + HEADROOM * part(thermal_headroom.unwrap_or(0.0), 1.0)
}

/// A way to store weights.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Quantization {
    /// Its name in llama.cpp.
    pub name: &'static str,
    /// Bits that a weight takes, averaged over a model.
    pub bits: f64,
}

/// From the most exact to the smallest that is still of use. Bits a weight of Llama 3.1 8B: llama.cpp,
/// `tools/quantize/README.md`.
pub const QUANTIZATIONS: [Quantization; 9] = [
    Quantization { name: "f16", bits: 16.0005 },
    Quantization { name: "q8_0", bits: 8.5008 },
    Quantization { name: "q6_k", bits: 6.5633 },
    Quantization { name: "q5_k_m", bits: 5.7036 },
    Quantization { name: "q4_k_m", bits: 4.8944 },
    Quantization { name: "iq4_xs", bits: 4.4597 },
    Quantization { name: "q3_k_m", bits: 3.996 },
    Quantization { name: "iq3_xxs", bits: 3.2548 },
    Quantization { name: "iq2_m", bits: 2.9294 },
];

/// What of a model decides how much memory it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelShape {
    /// Weights.
    pub parameters: u64,
    /// Layers.
    pub layers: u32,
    /// Heads of keys and values in each layer.
    pub kv_heads: u32,
    /// Numbers in each of them.
    pub head_size: u32,
    /// Tokens of prompt and answer that are kept.
    pub context: u32,
}

/// Memory that the driver, the display and the engine's buffers take beside a model.
const MARGIN: u64 = 512 << 20;
/// And a part of all, for what does not fit seamlessly.
const MARGIN_PERCENT: u64 = 5;
/// How much of a data sheet's bandwidth decoding reaches.
const EFFICIENCY: f64 = 0.6;

/// Which quantisation to use, and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recommendation {
    /// The most exact that fits.
    pub quantization: Quantization,
    /// Bytes of the weights.
    pub weights_bytes: u64,
    /// Bytes of keys and values at the full context, as fp16.
    pub kv_cache_bytes: u64,
    /// Bytes that are left.
    pub free_bytes: u64,
    /// Tokens a second of one answer, as far as bandwidth decides; `None` where it is not known.
    pub tokens_per_second: Option<f64>,
}

/// Why no quantisation fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "even as {smallest} the model needs {} MiB with its context, and {} MiB may be used: take a smaller model, or a context \
     under {context} tokens", needed >> 20, usable >> 20
)]
pub struct DoesNotFit {
    /// The smallest.
    pub smallest: &'static str,
    /// What it needs.
    pub needed: u64,
    /// What there is, without the margin.
    pub usable: u64,
    /// The context asked for.
    pub context: u32,
}

impl ModelShape {
    /// Bytes of the weights as `quantization` stores them.
    pub fn weights_bytes(&self, quantization: Quantization) -> u64 {
        (self.parameters as f64 * quantization.bits / 8.0).ceil() as u64
    }

    /// Bytes of keys and values at the full context: two numbers of 16 bits for each layer, head, place and token.
    pub fn kv_cache_bytes(&self) -> u64 {
        let per_token = 2_u64
            .saturating_mul(2)
            .saturating_mul(self.layers.into())
            .saturating_mul(self.kv_heads.into())
            .saturating_mul(self.head_size.into());
        per_token.saturating_mul(self.context.into())
    }
}

/// The most exact quantisation of a model that fits a GPU with `memory_bytes` to use: weights, keys and values, and a
/// margin of 512 MiB and 5 %.
///
/// Each token of an answer reads all weights, and on average half of the keys and values: the rate is 60 % of the
/// bandwidth over their bytes.
pub fn recommend_quantization(
    gpu: &GpuProfile,
    memory_bytes: u64,
    model: &ModelShape,
) -> Result<Recommendation, DoesNotFit> {
    let usable = memory_bytes.saturating_sub(MARGIN).saturating_sub(memory_bytes / 100 * MARGIN_PERCENT);
    let kv_cache_bytes = model.kv_cache_bytes();
    let needed = |quantization| model.weights_bytes(quantization).saturating_add(kv_cache_bytes);
    let Some(quantization) = QUANTIZATIONS.into_iter().find(|quantization| needed(*quantization) <= usable) else {
        let [.., smallest] = QUANTIZATIONS;
        let context = model.context;
        return Err(DoesNotFit { smallest: smallest.name, needed: needed(smallest), usable, context });
    };
    let weights_bytes = model.weights_bytes(quantization);
    let read = weights_bytes as f64 + kv_cache_bytes as f64 / 2.0;
    let tokens_per_second =
        gpu.bandwidth.filter(|_| read > 0.0).map(|bandwidth| bandwidth as f64 * EFFICIENCY / read);
    let free_bytes = usable - needed(quantization);
    Ok(Recommendation { quantization, weights_bytes, kv_cache_bytes, free_bytes, tokens_per_second })
}

impl fmt::Display for Recommendation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes >> 20;
        write!(
            formatter,
            "{}: {} MiB of weights and {} MiB for the context leave {} MiB free",
            self.quantization.name,
            mib(self.weights_bytes),
            mib(self.kv_cache_bytes),
            mib(self.free_bytes)
        )?;
        match self.tokens_per_second {
            Some(rate) => write!(formatter, "; about {rate:.0} tokens/s by its bandwidth"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::catalogue::catalogue;
    use proptest::prelude::*;

    fn named(name: &str) -> &'static GpuProfile {
        catalogue().named(name).expect(name)
    }

    /// Llama 3.1 8B.
    const EIGHT: ModelShape =
        ModelShape { parameters: 8_030_000_000, layers: 32, kv_heads: 8, head_size: 128, context: 8192 };

    #[test]
    fn the_most_exact_that_fits_is_recommended() {
        let recommended =
            |name, gib: u64| recommend_quantization(named(name), gib << 30, &EIGHT).map(|it| it.quantization.name);
        assert_eq!(EIGHT.kv_cache_bytes(), 1 << 30);
        assert_eq!(recommended("GeForce RTX 4090", 24), Ok("f16"));
        assert_eq!(recommended("GeForce RTX 3060 12 GB", 12), Ok("q8_0"));
        assert_eq!(recommended("GeForce RTX 3060 Ti", 8), Ok("q5_k_m"));
        assert_eq!(recommended("GeForce GTX 1060 6 GB", 6), Ok("iq4_xs"));
        let error = recommended("GeForce GTX 1050 Ti", 4).unwrap_err();
        assert!(error.to_string().contains("a smaller model"), "{error}");
        let rate = recommend_quantization(named("GeForce RTX 4090"), 24 << 30, &EIGHT).unwrap();
        assert!(rate.tokens_per_second.is_some_and(|rate| (30.0..45.0).contains(&rate)), "{rate}");
    }

    #[test]
    fn efficient_cards_score_higher() {
        let score = |name: &str| edge_score(named(name), 8 << 30, Some(1.0));
        assert!(score("GeForce RTX 4060 Ti 16 GB") > score("GeForce GTX 1070"));
        assert!(score("M2 Pro (19-core GPU)") > score("GeForce GT 1030"));
        let cool = edge_score(named("GeForce RTX 4090"), 0, Some(1.0));
        assert!(cool > edge_score(named("GeForce RTX 4090"), 0, Some(0.0)));
    }

    proptest! {
        #[test]
        fn scores_lie_between_none_and_one(index in 0..1400_usize, memory in any::<u64>(), headroom in any::<f32>()) {
            let profile = catalogue().profiles().get(index).unwrap();
            let score = edge_score(profile, memory, Some(headroom));
            prop_assert!((0.0..=1.0).contains(&score), "{score}");
        }

        #[test]
        fn what_is_recommended_fits(
            memory in any::<u64>(),
            parameters in any::<u64>(),
            (layers, kv_heads, head_size, context) in any::<(u32, u32, u32, u32)>(),
        ) {
            let model = ModelShape { parameters, layers, kv_heads, head_size, context };
            match recommend_quantization(named("GeForce RTX 4090"), memory, &model) {
                Ok(told) => {
                    let sum = told.weights_bytes.checked_add(told.kv_cache_bytes).and_then(|sum| sum.checked_add(told.free_bytes));
                    prop_assert!(sum.is_some_and(|sum| sum <= memory));
                }
                Err(told) => prop_assert!(told.needed > told.usable),
            }
        }
    }
}
