//! What a provider measured on a GPU of its own, and what a card is like that the catalogue does not know.
//!
//! It is the provider's own word: nobody has verified it.

use super::{
    GpuProfile,
    catalogue::catalogue,
    classify::{Classified, Reported, classify},
    sizing::edge_score,
};
use crate::UnixMillis;
use serde::{Deserialize, Serialize};

/// What one GPU reached. Rates are rounded; a megabyte is a million bytes, a multiply-add counts as two operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// Reading memory from end to end, in megabytes a second.
    pub bandwidth_mb_s: u32,
    /// Reads of 64 bytes all over the memory, each of which tells where the next is, in megabytes a second.
    pub random_mb_s: u32,
    /// 32-bit floating point, in billions of operations a second.
    pub fp32_gflops: u32,
    /// The same in 16 bits; `None` where the GPU has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fp16_gflops: Option<u32>,
    /// Products of 8-bit integers, in billions of operations a second.
    pub int8_gops: u32,
    /// When it was measured.
    pub measured_ms: UnixMillis,
}

/// What a card that the catalogue does not know is like, as far as its measured figures tell: an estimate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The model of the catalogue that comes nearest.
    pub nearest: &'static GpuProfile,
    /// How fast the card is beside that model: 1 where it is as fast, 2 where it is twice as fast.
    pub ratio: f32,
    /// How well the card suits the edge, from 0 to 1: [`edge_score`].
    pub edge_score: f32,
}

/// Estimates what a card is like from what was measured on it; `None` where it reached nothing.
///
/// With `b` and `f` its measured bandwidth and rate of fp32, and `B` and `F` those of a profile, the nearest profile is the
/// one with the least `|ln(b / B)| + |ln(f / F)|`, of equals one for consumers, and the ratio is `sqrt(b / B * f / F)`. The
/// score is that of a card with the measured bandwidth and fp16 (fp32 where it has no fp16), `memory_bytes`, and the
/// nearest profile's power times the ratio.
///
/// Cards reach less than their data sheets say, so that an estimate is rather too low than too high.
pub fn estimate(measured: &Measured, memory_bytes: u64, thermal_headroom: Option<f32>) -> Option<Estimate> {
    let (bandwidth, fp32) = (f64::from(measured.bandwidth_mb_s) * 1e6, f64::from(measured.fp32_gflops));
    if bandwidth <= 0.0 || fp32 <= 0.0 {
        return None;
    }
    let beside = |profile: &GpuProfile| {
        Some((bandwidth / profile.bandwidth? as f64, fp32 / f64::from(profile.fp32_gflops?)))
    };
    let near = catalogue().profiles().iter().filter_map(|profile| {
        let (by_bandwidth, by_fp32) = beside(profile)?;
        let distance = by_bandwidth.ln().abs() + by_fp32.ln().abs();
        distance.is_finite().then(|| (distance, profile, (by_bandwidth * by_fp32).sqrt()))
    });
    let (_, nearest, ratio) = near.min_by(|(one, of_one, _), (other, of_other, _)| {
        one.total_cmp(other).then_with(|| of_other.is_consumer().cmp(&of_one.is_consumer()))
    })?;
    let watts = nearest.tdp_watts.map(|watts| (f64::from(watts) * ratio).round().max(1.0) as u16);
    let card = GpuProfile {
        memory_bytes: Some(memory_bytes),
        bandwidth: Some(bandwidth as u64),
        fp16_gflops: Some(measured.fp16_gflops.unwrap_or(measured.fp32_gflops) as f32),
        tdp_watts: watts,
        ..*nearest
    };
    Some(Estimate { nearest, ratio: ratio as f32, edge_score: edge_score(&card, memory_bytes, thermal_headroom) })
}

/// The [`edge_score`] of the GPU that a driver calls `name`, at rest, in millionths and whole percent: as the catalogue knows
/// it, or else as it was measured. `None` where neither tells.
pub fn score_at_rest(name: &str, memory_bytes: u64, measured: Option<&Measured>) -> Option<u32> {
    let known = (memory_bytes > 0).then_some(memory_bytes);
    let score = match classify(&Reported { name, pci: None, memory_bytes: known }) {
        Classified::Gpu { best, .. } => edge_score(best.profile, memory_bytes, Some(1.0)),
        Classified::Software => return None,
        Classified::Unknown(_) => estimate(measured?, memory_bytes, Some(1.0))?.edge_score,
    };
    Some((score.clamp(0.0, 1.0) * 100.0).round() as u32 * 10_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn measured(bandwidth_mb_s: u32, fp32_gflops: u32) -> Measured {
        let fp16_gflops = Some(fp32_gflops);
        Measured { bandwidth_mb_s, random_mb_s: 1, fp32_gflops, fp16_gflops, int8_gops: 1, measured_ms: 1 }
    }

    /// A card that reaches this part of what the catalogue says of a model.
    fn reaching(part: f64, name: &str) -> Measured {
        let profile = catalogue().named(name).expect(name);
        let (bandwidth, fp32) =
            (profile.bandwidth.expect(name) as f64, f64::from(profile.fp32_gflops.expect(name)));
        measured((bandwidth * part / 1e6) as u32, (fp32 * part) as u32)
    }

    #[test]
    fn a_card_is_told_by_what_it_reaches() {
        for name in ["Radeon RX 6600", "GeForce RTX 4090", "GeForce GTX 1650", "Arc A750"] {
            let told = estimate(&reaching(1.0, name), 8 << 30, None).expect(name);
            let (nearest, meant) = (told.nearest, catalogue().named(name).expect(name));
            assert_eq!((nearest.bandwidth, nearest.fp32_gflops), (meant.bandwidth, meant.fp32_gflops), "{name}");
            assert!((told.ratio - 1.0).abs() < 0.01, "{name}: {}", told.ratio);
            assert!(nearest.is_consumer(), "{name}: {}", nearest.name);
        }
    }

    #[test]
    fn a_card_beyond_all_others_is_so_many_times_the_fastest() {
        let fastest = estimate(&measured(100_000_000, 2_000_000), 192 << 30, Some(1.0)).expect("nearest");
        assert!(fastest.ratio > 4.0, "{} times {}", fastest.ratio, fastest.nearest.name);
    }

    #[test]
    fn more_power_for_as_much_work_is_not_assumed() {
        let (one, twice) = (reaching(1.0, "GeForce RTX 4090"), reaching(2.0, "GeForce RTX 4090"));
        let score = |measured| estimate(measured, 24 << 30, None).expect("nearest").edge_score;
        assert!(score(&twice) >= score(&one) - 0.1, "{} {}", score(&twice), score(&one));
    }

    #[test]
    fn a_score_is_of_the_catalogue_or_of_what_was_measured() {
        let profile = catalogue().named("GeForce RTX 4090").expect("known");
        let score = (edge_score(profile, 0, Some(1.0)) * 100.0).round() as u32 * 10_000;
        assert_eq!(score_at_rest("NVIDIA GeForce RTX 4090", 24 << 30, None), Some(score));
        assert!(score > 800_000, "{score}");
        let unknown = score_at_rest("Frobnicator", 24 << 30, Some(&reaching(1.0, "GeForce RTX 4090")));
        assert!(unknown.is_some_and(|unknown| unknown > 700_000), "{unknown:?}");
        assert_eq!(score_at_rest("Frobnicator", 24 << 30, None), None);
        assert_eq!(score_at_rest("llvmpipe (LLVM 15.0.6, 256 bits)", 0, None), None, "a program is no GPU");
    }

    #[test]
    fn nothing_reached_tells_nothing() {
        assert_eq!(estimate(&measured(0, 5), 0, None), None);
        assert_eq!(estimate(&measured(5, 0), 0, None), None);
    }

    proptest! {
        #[test]
        fn no_model_is_nearer_than_the_nearest(bandwidth in 1..=u32::MAX, fp32 in 1..=u32::MAX, index in any::<prop::sample::Index>()) {
            let told = estimate(&measured(bandwidth, fp32), 0, None).expect("nearest");
            let distance = |profile: &GpuProfile| {
                let bandwidth = f64::from(bandwidth) * 1e6 / profile.bandwidth? as f64;
                Some(bandwidth.ln().abs() + (f64::from(fp32) / f64::from(profile.fp32_gflops?)).ln().abs())
            };
            let other = distance(index.get(catalogue().profiles()));
            prop_assert!(other.is_none_or(|other| distance(told.nearest).is_some_and(|least| least <= other)));
            prop_assert!(told.ratio.is_finite() && told.ratio > 0.0);
        }

        #[test]
        fn estimated_scores_lie_between_none_and_one(
            bandwidth: u32, fp32: u32, fp16: Option<u32>, memory: u64, headroom: Option<f32>,
        ) {
            let measured = Measured { fp16_gflops: fp16, ..measured(bandwidth, fp32) };
            if let Some(told) = estimate(&measured, memory, headroom) {
                prop_assert!((0.0..=1.0).contains(&told.edge_score), "{}", told.edge_score);
            }
        }
    }
}
