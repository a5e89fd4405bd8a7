//! This node's own experience with providers: which share of recent jobs failed, who rests for it, how fast the others
//! were, and how far that was from what was predicted. Kept in memory, forgotten with time.

use aitbc_protocol::{
    Digest, NodeId, UnixMillis,
    routing::{breaker::Breaker, calibration::Calibration},
};
use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Most providers remembered; whoever was dealt with longest ago is forgotten first.
const MAX_PROVIDERS: usize = 1024;
/// What happened counts half after this many milliseconds.
const HALF_LIFE_MS: f64 = 10.0 * 60_000.0;
/// Jobs that a stranger is credited with, so that one failure is not a verdict.
const CREDIT: f64 = 1.0;
/// Answers remembered of each provider.
const MAX_ANSWERS: usize = 16;
/// Answers of a model from which on they tell more than the provider's word: one may have been read slowly.
const TELLING: usize = 2;
/// Tokens of a prompt from which on the wait for the first piece tells how fast it was read: with fewer, the way there and
/// back is most of it.
const LONG_PROMPT: u32 = 256;
/// An answer that is older tells nothing of how fast the provider is, in milliseconds.
const STALE_MS: u64 = 24 * 3_600_000;

/// How fast an answer came.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Answer {
    /// From the opening of the job to the first piece, in milliseconds.
    pub(super) first_ms: f64,
    /// From the opening of the job to the last piece, in milliseconds.
    pub(super) whole_ms: f64,
    /// Tokens of the prompt.
    pub(super) prompt_tokens: u32,
    /// Tokens of the answer, or bootstraps.
    pub(super) tokens: u32,
    /// Milli-tokens a second, from the first piece to the last; `None` of an answer too short to tell.
    pub(super) speed: Option<u32>,
}

/// How fast answers came of late; bounded, the newest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Answers(VecDeque<(UnixMillis, Digest, Answer)>);

impl Answers {
    /// Takes down how fast an answer of the model `of` came.
    pub(super) fn push(&mut self, of: Digest, answer: Answer, now_ms: UnixMillis) {
        self.0.truncate(MAX_ANSWERS - 1);
        self.0.push_front((now_ms, of, answer));
    }

    /// Those of `of` that are fresh.
    fn fresh(&self, of: Digest, now_ms: UnixMillis) -> impl Iterator<Item = Answer> {
        let counts = move |(at_ms, model, _): &&(UnixMillis, Digest, Answer)| {
            *model == of && at_ms.saturating_add(STALE_MS) > now_ms
        };
        self.0.iter().filter(counts).map(|(_, _, answer)| *answer)
    }

    /// How fast `of` decodes, in milli-tokens a second: the median of late, of two the faster, for a reader that is slow
    /// slows an answer down. `None` where too few tell.
    pub(super) fn speed(&self, of: Digest, now_ms: UnixMillis) -> Option<u32> {
        let mut speeds: Vec<u32> = self.fresh(of, now_ms).filter_map(|answer| answer.speed).collect();
        speeds.sort_unstable();
        speeds.get(speeds.len() / 2).copied().filter(|_| speeds.len() >= TELLING)
    }

    /// How fast `of` reads prompts, in milli-tokens a second: the best of late, for the wait for the first piece holds the way
    /// and the queue as well. `None` where no prompt was long.
    pub(super) fn prefill(&self, of: Digest, now_ms: UnixMillis) -> Option<u32> {
        let long = self.fresh(of, now_ms).filter(|answer| answer.prompt_tokens >= LONG_PROMPT);
        // Casts of floating point saturate.
        long.map(|answer| (f64::from(answer.prompt_tokens) * 1e6 / answer.first_ms.max(1.0)) as u32).max()
    }

    /// The median wait for the first piece of `of`, in milliseconds.
    pub(super) fn first_ms(&self, of: Digest, now_ms: UnixMillis) -> Option<f64> {
        let mut waits: Vec<f64> = self.fresh(of, now_ms).map(|answer| answer.first_ms).collect();
        waits.sort_unstable_by(f64::total_cmp);
        waits.get(waits.len() / 2).copied()
    }
}

#[derive(Clone, Debug, Default)]
struct Record {
    good: f64,
    failed: f64,
    at_ms: UnixMillis,
    answers: Answers,
    breaker: Breaker,
    calibration: Calibration,
    /// The same of first pieces alone.
    first: Calibration,
}

impl Record {
    fn decay(&mut self, now_ms: UnixMillis) {
        let factor = (-(now_ms.saturating_sub(self.at_ms) as f64) / HALF_LIFE_MS).exp2();
        self.good *= factor;
        self.failed *= factor;
        self.at_ms = self.at_ms.max(now_ms);
    }
}

/// What is remembered, by provider. A lock that is held for a look-up only.
#[derive(Debug, Default)]
pub(super) struct Experience(Mutex<HashMap<NodeId, Record>>);

impl Experience {
    fn records(&self) -> MutexGuard<'_, HashMap<NodeId, Record>> {
        // The map is whole after any panic: every change is one insertion.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Share of recent jobs with `provider` that failed, 0 to 1; 0 for a stranger.
    pub(super) fn failures(&self, provider: &NodeId, now_ms: UnixMillis) -> f64 {
        self.records().get(provider).map_or(0.0, |record| {
            let mut record = record.clone();
            record.decay(now_ms);
            record.failed / (record.good + record.failed + CREDIT)
        })
    }

    /// How fast `weights` decode there: [`Answers::speed`].
    pub(super) fn speed(&self, provider: &NodeId, weights: Digest, now_ms: UnixMillis) -> Option<u32> {
        self.records().get(provider)?.answers.speed(weights, now_ms)
    }

    /// How fast `weights` read prompts there: [`Answers::prefill`].
    pub(super) fn prefill(&self, provider: &NodeId, weights: Digest, now_ms: UnixMillis) -> Option<u32> {
        self.records().get(provider)?.answers.prefill(weights, now_ms)
    }

    /// How fast answers of `weights` came of late.
    pub(super) fn answers(&self, provider: &NodeId, weights: Digest, now_ms: UnixMillis) -> Vec<Answer> {
        self.records()
            .get(provider)
            .map(|record| record.answers.fresh(weights, now_ms).collect())
            .unwrap_or_default()
    }

    /// Takes down how fast an answer came.
    pub(super) fn answered(&self, provider: NodeId, weights: Digest, answer: Answer, now_ms: UnixMillis) {
        self.change(provider, |record| record.answers.push(weights, answer, now_ms));
    }

    /// Takes down how a job went.
    pub(super) fn note(&self, provider: NodeId, good: bool, now_ms: UnixMillis) {
        self.change(provider, |record| {
            record.decay(now_ms);
            if good {
                record.good += 1.0;
                record.breaker.succeeded();
            } else {
                record.failed += 1.0;
                record.breaker.failed(now_ms);
            }
        });
    }

    /// For how many more milliseconds `provider` rests, whose newest offer is from `offered_ms`: [`Breaker::rests_ms`].
    pub(super) fn rests_ms(&self, provider: &NodeId, offered_ms: UnixMillis, now_ms: UnixMillis) -> Option<u64> {
        self.records().get(provider)?.breaker.rests_ms(now_ms, offered_ms)
    }

    /// Takes a turn for a job with `provider`; false where it rests, or another job probes it.
    pub(super) fn admit(&self, provider: &NodeId, offered_ms: UnixMillis, now_ms: UnixMillis) -> bool {
        self.records().get_mut(provider).is_none_or(|record| record.breaker.admit(now_ms, offered_ms))
    }

    /// A job that probed `provider`, if one did, ended before it was one: because the provider failed, or for another reason.
    pub(super) fn probe_ended(&self, provider: &NodeId, failed: bool, now_ms: UnixMillis) {
        if let Some(record) = self.records().get_mut(provider).filter(|record| record.breaker.is_probing()) {
            if failed {
                record.breaker.failed(now_ms);
            } else {
                record.breaker.undecided();
            }
        }
    }

    /// Takes down how long an answer was expected to take, and how long it took.
    pub(super) fn predicted(&self, provider: NodeId, predicted_ms: f64, came_ms: f64) {
        self.change(provider, |record| record.calibration.note(predicted_ms, came_ms));
    }

    /// Takes down how long the first piece was expected to take, and how long it took.
    pub(super) fn began(&self, provider: NodeId, predicted_ms: f64, came_ms: f64) {
        self.change(provider, |record| record.first.note(predicted_ms, came_ms));
    }

    /// How far predictions of first pieces were off, as a share: [`Calibration::error`].
    pub(super) fn first_error(&self, provider: &NodeId) -> Option<f64> {
        self.records().get(provider)?.first.error()
    }

    /// By what share answers came later than predicted: [`Calibration::lateness`].
    pub(super) fn lateness(&self, provider: &NodeId) -> f64 {
        self.records().get(provider).map_or(0.0, |record| record.calibration.lateness())
    }

    fn change(&self, provider: NodeId, change: impl FnOnce(&mut Record)) {
        let mut records = self.records();
        if records.len() >= MAX_PROVIDERS && !records.contains_key(&provider) {
            let oldest = records.iter().min_by_key(|(_, record)| record.at_ms).map(|(provider, _)| *provider);
            if let Some(oldest) = oldest {
                records.remove(&oldest);
            }
        }
        change(records.entry(provider).or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_count_and_are_forgotten() {
        let experience = Experience::default();
        let provider = NodeId([1; 32]);
        assert!(experience.failures(&provider, 0).abs() < f64::EPSILON);
        experience.note(provider, false, 0);
        assert!((experience.failures(&provider, 0) - 0.5).abs() < 1e-9);
        experience.note(provider, true, 0);
        experience.note(provider, true, 0);
        assert!((experience.failures(&provider, 0) - 0.25).abs() < 1e-9);
        assert!(experience.failures(&provider, 24 * 3_600_000) < 0.01);
    }

    #[test]
    fn the_median_of_a_model_s_answers_of_the_day_counts() {
        let (experience, provider) = (Experience::default(), NodeId([1; 32]));
        let (small, large) = (Digest([1; 32]), Digest([2; 32]));
        let answer = |speed| Answer { first_ms: 100.0, whole_ms: 200.0, prompt_tokens: 20, tokens: 9, speed };
        assert_eq!(experience.speed(&provider, small, 0), None);
        experience.answered(provider, small, answer(Some(50_000)), 0);
        assert_eq!(experience.speed(&provider, small, 0), None, "one may have been read slowly");
        for (at_ms, speed) in [(1_000, Some(20_000)), (2_000, None)] {
            experience.answered(provider, small, answer(speed), at_ms);
        }
        assert_eq!(experience.speed(&provider, small, 2_000), Some(50_000), "of two the faster");
        assert_eq!(experience.speed(&provider, large, 2_000), None, "another model");
        experience.answered(provider, small, answer(Some(40_000)), 3_000);
        assert_eq!(experience.speed(&provider, small, 3_000), Some(40_000));
        assert_eq!(experience.answers(&provider, small, 3_000).len(), 4);
        assert_eq!(experience.speed(&provider, small, STALE_MS + 3_000), None, "of yesterday");
        for at_ms in 0..100 {
            experience.answered(provider, large, answer(Some(1_000)), at_ms);
        }
        assert_eq!(experience.answers(&provider, large, 0).len(), MAX_ANSWERS);
        assert!(experience.failures(&provider, 0).abs() < f64::EPSILON, "it says nothing of failures");
    }

    #[test]
    fn whoever_fails_thrice_rests_and_is_probed() {
        let (experience, provider) = (Experience::default(), NodeId([1; 32]));
        assert!(experience.admit(&provider, 0, 0), "a stranger");
        (0..3).for_each(|_| experience.note(provider, false, 1_000));
        assert!(experience.rests_ms(&provider, 0, 1_000).is_some() && !experience.admit(&provider, 0, 1_000));
        assert!(experience.admit(&provider, 0, 60_000) && !experience.admit(&provider, 0, 60_000));
        experience.probe_ended(&provider, false, 60_000);
        assert!(experience.admit(&provider, 0, 60_000), "it was full");
        experience.probe_ended(&provider, true, 60_000);
        assert!(!experience.admit(&provider, 0, 60_000) && experience.admit(&provider, 0, 120_000));
        experience.note(provider, true, 60_000);
        assert!(experience.rests_ms(&provider, 0, 60_000).is_none());
    }

    #[test]
    fn whoever_is_late_is_expected_to_be_late() {
        let (experience, provider) = (Experience::default(), NodeId([1; 32]));
        assert!(experience.lateness(&provider).abs() < f64::EPSILON);
        experience.predicted(provider, 100.0, 400.0);
        assert!((experience.lateness(&provider) - 1.0).abs() < 1e-9);
        assert!(experience.failures(&provider, 0).abs() < f64::EPSILON, "late is not failed");
        assert!(experience.first_error(&provider).is_none(), "the first piece is another matter");
        experience.began(provider, 100.0, 150.0);
        assert!(experience.first_error(&provider).is_some_and(|error| (error - 0.5).abs() < 1e-9));
    }

    #[test]
    fn long_prompts_tell_how_fast_they_are_read() {
        let (experience, provider) = (Experience::default(), NodeId([1; 32]));
        let weights = Digest([1; 32]);
        let took = |prompt_tokens, first_ms| {
            let answer = Answer { first_ms, whole_ms: first_ms, prompt_tokens, tokens: 1, speed: None };
            experience.answered(provider, weights, answer, 0);
            experience.prefill(&provider, weights, 0)
        };
        assert_eq!(took(LONG_PROMPT - 1, 10.0), None, "mostly the way");
        assert_eq!(took(1_000, 500.0), Some(2_000_000));
        assert_eq!(took(1_000, 4_000.0), Some(2_000_000), "that one waited for others");
        assert_eq!(experience.prefill(&provider, weights, STALE_MS + 1), None);
    }

    #[test]
    fn memory_is_bounded_and_forgets_the_oldest() {
        let experience = Experience::default();
        for n in 0..MAX_PROVIDERS as u64 + 10 {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&n.to_le_bytes());
            experience.note(NodeId(id), false, n);
        }
        assert_eq!(experience.records().len(), MAX_PROVIDERS);
        assert!(experience.failures(&NodeId([0; 32]), 2_000).abs() < f64::EPSILON);
    }
}
