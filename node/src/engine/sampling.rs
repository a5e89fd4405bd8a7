//! How a token is drawn: a pure function of logits, parameters, seed and position.
//!
//! The randomness of a position is SHA-256 of seed and position, so that a provider that continues another one's answer
//! draws what the first one would have drawn. The draw is the inverse of the cumulative distribution in order of token
//! ids: where two machines' logits differ in their last bits, the outcome differs only at the edge of a token's share.

use aitbc_protocol::job::Sampling;
use sha2::{Digest as _, Sha256};
use std::cmp::Ordering;

/// Tokens whose probability is below e^-32 of the best one's are never drawn: together they weigh less than the
/// rounding of a 32-bit float, even in a vocabulary of a million.
const NEGLIGIBLE: f32 = 32.0;
/// How many tokens the nucleus is looked for in first; four times as many after each failure.
const FIRST_NUCLEUS: usize = 64;

/// Memory that is used again from draw to draw.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    weights: Vec<(f32, u32)>,
}

/// A logit that orders totally: NaN counts as impossible.
fn sane(logit: f32) -> f32 {
    if logit.is_nan() { f32::NEG_INFINITY } else { logit }
}

/// The best token, the lowest id among equals; 0 where nothing is possible.
pub(crate) fn greedy(logits: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (id, &logit) in (0_u32..).zip(logits) {
        // False for NaN.
        if logit > best.1 {
            best = (id, logit);
        }
    }
    best.0
}

/// A number in [0, 1) that depends on seed and position only.
pub(crate) fn uniform(seed: u64, position: u32) -> f64 {
    let digest = Sha256::new()
        .chain_update(b"aitbc/draw/1")
        .chain_update(seed.to_le_bytes())
        .chain_update(position.to_le_bytes())
        .finalize();
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest[..8]);
    // 53 bits fill the mantissa exactly.
    (u64::from_le_bytes(bytes) >> 11) as f64 / (1_u64 << 53) as f64
}

/// Draws the token at `position` of the answer.
pub(crate) fn draw(logits: &[f32], sampling: &Sampling, position: u32, scratch: &mut Scratch) -> u32 {
    let best = greedy(logits);
    let max = logits.get(best as usize).copied().map_or(f32::NEG_INFINITY, sane);
    // Not positive includes NaN; an infinite logit leaves nothing to draw.
    if sampling.temperature.partial_cmp(&0.0) != Some(Ordering::Greater) || !max.is_finite() {
        return best;
    }
    let inverse_temperature = 1.0 / sampling.temperature;
    let floor = max - NEGLIGIBLE * sampling.temperature;
    let weights = &mut scratch.weights;
    weights.clear();
    let mut total = 0.0;
    for (id, &logit) in (0_u32..).zip(logits) {
        if logit >= floor {
            let weight = ((logit - max) * inverse_temperature).exp();
            total += f64::from(weight);
            weights.push((weight, id));
        }
    }
    if sampling.top_p < 1.0 {
        total = keep_nucleus(weights, f64::from(sampling.top_p) * total);
    }
    let target = uniform(sampling.seed, position) * total;
    let mut sum = 0.0;
    for &(weight, id) in &*weights {
        sum += f64::from(weight);
        if target < sum {
            return id;
        }
    }
    // Only rounding of the sum leads here.
    weights.last().map_or(best, |&(_, id)| id)
}

/// Keeps the fewest likeliest tokens that together weigh `wanted` (at least one), in order of ids; returns their weight.
fn keep_nucleus(weights: &mut Vec<(f32, u32)>, wanted: f64) -> f64 {
    let likelier = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    let mut size = FIRST_NUCLEUS;
    loop {
        let whole = size >= weights.len();
        if !whole {
            // Brings the `size` likeliest to the front without sorting the rest.
            weights.select_nth_unstable_by(size, likelier);
        }
        let front = size.min(weights.len());
        weights[..front].sort_unstable_by(likelier);
        let mut sum = 0.0;
        for (index, &(weight, _)) in weights[..front].iter().enumerate() {
            sum += f64::from(weight);
            if sum >= wanted || (whole && index + 1 == front) {
                weights.truncate(index + 1);
                weights.sort_unstable_by_key(|&(_, id)| id);
                return sum;
            }
        }
        if whole {
            return sum;
        }
        size *= 4;
    }
}

/// Natural logarithm of the sum of all probabilities before normalisation: `logit - log_sum` is a log probability.
pub(crate) fn log_sum(logits: &[f32]) -> f32 {
    let max = logits.iter().copied().map(sane).fold(f32::NEG_INFINITY, f32::max);
    if !max.is_finite() {
        return max;
    }
    let sum: f64 = logits.iter().map(|&logit| f64::from((sane(logit) - max).exp())).sum();
    max + sum.ln() as f32
}

/// The log probability of one token; never NaN.
pub(crate) fn logprob(logits: &[f32], log_sum: f32, token: u32) -> f32 {
    let logit = logits.get(token as usize).copied().map_or(f32::NEG_INFINITY, sane);
    if logit.is_finite() && log_sum.is_finite() {
        (logit - log_sum).min(0.0)
    } else if logit == f32::INFINITY {
        0.0
    } else {
        f32::MIN
    }
}

/// The `count` likeliest tokens, best first, the lower id first among equals.
pub(crate) fn top(logits: &[f32], count: usize, scratch: &mut Scratch) -> Vec<u32> {
    let better = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    let found = &mut scratch.weights;
    found.clear();
    if count == 0 {
        return Vec::new();
    }
    for (id, &logit) in (0_u32..).zip(logits) {
        let entry = (sane(logit), id);
        if found.len() == count && better(&entry, &found[count - 1]) != Ordering::Less {
            continue;
        }
        let place = found.partition_point(|other| better(other, &entry) == Ordering::Less);
        found.insert(place, entry);
        found.truncate(count);
    }
    found.iter().map(|&(_, id)| id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sampling(temperature: f32, top_p: f32, seed: u64) -> Sampling {
        Sampling { temperature, top_p, seed }
    }

    fn logit() -> impl Strategy<Value = f32> {
        prop_oneof![
            20 => -30.0_f32..30.0,
            1 => Just(f32::NAN),
            1 => Just(f32::INFINITY),
            1 => Just(f32::NEG_INFINITY),
            1 => any::<f32>(),
        ]
    }

    #[test]
    fn greedy_takes_the_lowest_id_among_equals() {
        assert_eq!(greedy(&[1.0, 3.0, f32::NAN, 3.0]), 1);
        assert_eq!(greedy(&[f32::NAN, f32::NAN]), 0);
        assert_eq!(greedy(&[]), 0);
        assert_eq!(greedy(&[0.0, f32::INFINITY, f32::INFINITY]), 1);
    }

    #[test]
    fn draws_follow_the_distribution() {
        // Probabilities 0.5, 0.3, 0.2.
        let logits = [0.5_f32.ln(), 0.3_f32.ln(), 0.2_f32.ln()];
        let mut counts = [0_u32; 3];
        let mut scratch = Scratch::default();
        for position in 0..20_000 {
            counts[draw(&logits, &sampling(1.0, 1.0, 7), position, &mut scratch) as usize] += 1;
        }
        for (count, expected) in counts.into_iter().zip([10_000.0, 6_000.0, 4_000.0]) {
            // Five standard deviations.
            assert!((f64::from(count) - expected).abs() < 5.0 * 71.0, "{counts:?}");
        }
    }

    #[test]
    fn the_nucleus_is_the_smallest_that_suffices() {
        let logits = [0.2_f32.ln(), 0.5_f32.ln(), 0.3_f32.ln()];
        let mut scratch = Scratch::default();
        let drawn: std::collections::BTreeSet<_> =
            (0..500).map(|position| draw(&logits, &sampling(1.0, 0.79, 3), position, &mut scratch)).collect();
        assert_eq!(drawn, [1, 2].into());
        let drawn: std::collections::BTreeSet<_> =
            (0..500).map(|position| draw(&logits, &sampling(1.0, 1e-9, 3), position, &mut scratch)).collect();
        assert_eq!(drawn, [1].into());
    }

    #[test]
    fn the_draw_of_a_position_is_pinned() {
        // Other implementations of the network must draw alike.
        assert!((uniform(0, 0) - 0.694_835_298_844_419_9).abs() < 1e-15);
        assert!((uniform(u64::MAX, 12) - 0.878_046_160_974_101_4).abs() < 1e-15);
    }

    proptest! {
        #[test]
        fn never_panics_and_repeats(
            logits in prop::collection::vec(logit(), 0..600),
            temperature in 0.0_f32..=2.0,
            top_p in 0.001_f32..=1.0,
            seed: u64,
            position: u32,
        ) {
            let parameters = sampling(temperature, top_p, seed);
            let first = draw(&logits, &parameters, position, &mut Scratch::default());
            let mut used = Scratch { weights: vec![(1.0, 9); 17] };
            prop_assert_eq!(first, draw(&logits, &parameters, position, &mut used));
            prop_assert!((first as usize) < logits.len().max(1));
            let total = log_sum(&logits);
            prop_assert!(!logprob(&logits, total, first).is_nan());
            prop_assert!(top(&logits, 20, &mut used).len() == logits.len().min(20));
        }

        #[test]
        fn zero_temperature_is_greedy(logits in prop::collection::vec(logit(), 1..300), seed: u64, position: u32) {
            let drawn = draw(&logits, &sampling(0.0, 1.0, seed), position, &mut Scratch::default());
            prop_assert_eq!(drawn, greedy(&logits));
            prop_assert_eq!(top(&logits, 1, &mut Scratch::default())[0], drawn);
        }

        #[test]
        fn probabilities_sum_to_one(logits in prop::collection::vec(-30.0_f32..30.0, 1..500)) {
            let total = log_sum(&logits);
            let ids = 0..u32::try_from(logits.len()).unwrap();
            let sum: f64 = ids.map(|id| f64::from(logprob(&logits, total, id)).exp()).sum();
            prop_assert!((sum - 1.0).abs() < 1e-3, "{}", sum);
        }

        #[test]
        fn the_nucleus_is_respected(
            logits in prop::collection::vec(-8.0_f32..8.0, 1..400),
            top_p in 0.01_f32..0.999,
            seed: u64,
            position: u32,
        ) {
            let drawn = draw(&logits, &sampling(1.0, top_p, seed), position, &mut Scratch::default());
            let total = log_sum(&logits);
            let drawn_logprob = logprob(&logits, total, drawn);
            // What is strictly likelier than the drawn token does not fill the nucleus alone.
            let likelier: f64 = (0..u32::try_from(logits.len()).unwrap())
                .map(|id| logprob(&logits, total, id))
                .filter(|&other| other > drawn_logprob)
                .map(|other| f64::from(other).exp())
                .sum();
            prop_assert!(likelier < f64::from(top_p) + 1e-3);
        }

        #[test]
        fn the_best_are_found_in_order(logits in prop::collection::vec(logit(), 0..200), count in 0_usize..=20) {
            let mut all: Vec<(f32, u32)> = logits.iter().copied().map(sane).zip(0..).collect();
            all.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            let expected: Vec<u32> = all.into_iter().take(count).map(|(_, id)| id).collect();
            prop_assert_eq!(top(&logits, count, &mut Scratch::default()), expected);
        }
    }
}
