//! When a second provider is asked beside one whose first token is late, and whom: pure.
//!
//! After Dean and Barroso, "The Tail at Scale", CACM 56(2), 2013: a second request that is only sent once the first has
//! taken longer than usual costs little and cuts the longest waits.

use super::preference::Preference;
use crate::{
    job::{Input, JobSpec},
    money::MicroCredits,
    price::LatencyClass,
};

/// How many times as long as predicted a first token may take before it is late, beside what predictions are wrong by.
pub const PATIENCE: f64 = 2.0;
/// The typical error assumed of predictions for a provider of which no first token came yet: twice as long.
pub const DOUBT: f64 = 1.0;
/// How many times the cost of the one that is late another may have, and how much more in milliseconds-equivalents, to be
/// worth asking.
pub const NEAR: f64 = 2.0;
/// See [`NEAR`].
pub const NEAR_MS: f64 = 1_000.0;

/// Whether a job may be asked of two providers: its answer comes token by token, none of it has come yet, and the user does
/// not want the cheapest above all. An encrypted input is for one provider only.
pub fn suits(spec: &JobSpec, preference: Preference) -> bool {
    matches!(spec.input, Input::Chat(_) | Input::Text(_))
        && spec.prefix.is_empty()
        && preference != Preference::Cost
}

/// After how many milliseconds the first token of an attempt is late: `first_ms` were predicted, first tokens of this provider
/// are typically off by the share `error`, and the user wishes the answer to begin within the bound of `class`. An answer that
/// begins within that bound is never late. `None` where the prediction says nothing.
pub fn late_after_ms(first_ms: f64, error: Option<f64>, class: LatencyClass) -> Option<u64> {
    let error = error.unwrap_or(DOUBT);
    let late_ms = first_ms * PATIENCE * (1.0 + error) + f64::from(class.bound_ms());
    // A cast of floating point saturates.
    (late_ms.is_finite() && first_ms >= 0.0 && error >= 0.0).then(|| late_ms.ceil() as u64)
}

/// Whether another provider ranks near enough to the one that is late, both by their cost.
pub fn is_near(late: f64, other: f64) -> bool {
    other <= late * NEAR + NEAR_MS && other.is_finite()
}

/// The ceiling of a second attempt beside one that can cost `most`: together they stay below the user's.
pub fn ceiling_beside(ceiling: Option<MicroCredits>, most: MicroCredits) -> Option<MicroCredits> {
    ceiling.map(|ceiling| ceiling.checked_sub(most).unwrap_or(MicroCredits::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bytes::BoundedBytes,
        job::{Message, Role, Sampling},
        sealed::Sealed,
        text::Line,
    };
    use proptest::prelude::*;

    fn spec(input: Input) -> JobSpec {
        JobSpec {
            model: Line::lossy("m"),
            weights: None,
            input,
            sampling: Sampling { temperature: 0.7, top_p: 0.9, seed: 1 },
            max_tokens: 16,
            stop: Vec::new(),
            top_logprobs: None,
            prefix: Vec::new(),
        }
    }

    #[test]
    fn only_answers_that_have_not_begun_are_asked_for_twice() {
        let chat = spec(Input::Chat(vec![Message { role: Role::User, content: "Hi".to_owned() }]));
        for preference in Preference::ALL {
            assert_eq!(suits(&chat, preference), preference != Preference::Cost, "{preference}");
        }
        let begun = JobSpec { prefix: vec![1], ..chat };
        let vectors = spec(Input::Embed(vec!["Hi".to_owned()]));
        let sealed = spec(Input::Sealed(Sealed {
            profile: Line::lossy("p"),
            evaluation_key: None,
            values: 1,
            ciphertext: BoundedBytes::default(),
        }));
        for spec in [begun, vectors, sealed] {
            assert!(!suits(&spec, Preference::Balanced), "{spec:?}");
        }
        assert!(suits(&spec(Input::Text("Hi".to_owned())), Preference::Latency));
    }

    #[test]
    fn whoever_is_often_wrong_is_waited_for_longer() {
        let class = LatencyClass::Standard;
        assert_eq!(late_after_ms(500.0, Some(0.0), class), Some(3_000));
        assert_eq!(late_after_ms(500.0, Some(0.5), class), Some(3_500));
        assert_eq!(late_after_ms(500.0, None, class), Some(4_000), "a stranger");
        assert_eq!(late_after_ms(0.0, None, LatencyClass::Realtime), Some(100));
        assert_eq!(late_after_ms(0.0, None, LatencyClass::Economy), Some(10_000));
        for nothing in [f64::NAN, f64::INFINITY, -1.0] {
            assert_eq!(late_after_ms(nothing, None, class), None);
            assert_eq!(late_after_ms(1.0, Some(nothing), class), None);
        }
    }

    #[test]
    fn only_a_near_one_is_worth_asking() {
        assert!(is_near(1_000.0, 3_000.0) && !is_near(1_000.0, 3_001.0));
        assert!(is_near(0.0, 1_000.0) && is_near(5_000.0, 10.0), "a better one that was not drawn");
        assert!(!is_near(1_000.0, f64::INFINITY) && !is_near(1_000.0, f64::NAN));
        assert!(!is_near(f64::INFINITY, f64::INFINITY) && !is_near(f64::NAN, 1.0));
    }

    proptest! {
        #[test]
        fn an_answer_is_never_late_within_the_bound_or_the_prediction(
            first_ms in 0.0..1e9_f64, error in proptest::option::of(0.0..15.0_f64),
        ) {
            for class in [LatencyClass::Realtime, LatencyClass::Fast, LatencyClass::Standard, LatencyClass::Economy] {
                let late_ms = late_after_ms(first_ms, error, class).expect("finite numbers");
                prop_assert!(late_ms >= u64::from(class.bound_ms()) && late_ms as f64 >= 2.0 * first_ms);
            }
        }

        #[test]
        fn two_attempts_never_cost_more_than_allowed(ceiling: u64, most: u64, second: u64) {
            let left = ceiling_beside(Some(MicroCredits(ceiling)), MicroCredits(most)).expect("a ceiling");
            if most <= ceiling && second <= left.0 {
                prop_assert!(u128::from(most) + u128::from(second) <= u128::from(ceiling));
            }
            prop_assert_eq!(ceiling_beside(None, MicroCredits(most)), None);
        }
    }
}
