//! Where jobs went, what was expected of it, and what came: the last ones, in memory.

use super::metrics::RoutingMetrics;
use aitbc_protocol::{
    JobId, MicroCredits, NodeId, UnixMillis,
    job::ModelName,
    routing::{Reasons, calibration::Calibration, preference::Preference},
};
use serde::Serialize;
use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Decisions remembered.
const MAX_DECISIONS: usize = 512;

/// Where a job went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "place", rename_all = "snake_case")]
pub enum Chosen {
    /// To this node's own device.
    Device,
    /// To a provider.
    Provider {
        /// Which.
        provider: NodeId,
    },
    /// To the cloud of the settings.
    Cloud {
        /// Host and port.
        host: String,
    },
}

/// What was expected of an attempt at a job, from its opening on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// Milliseconds until the first piece.
    pub first_ms: f64,
    /// Milliseconds from the first piece until the answer is whole, for `tokens`.
    pub generate_ms: f64,
    /// Tokens of the answer that this is for.
    pub tokens: u32,
    /// The most it can cost.
    pub price: MicroCredits,
}

impl Prediction {
    /// What is expected of a candidate, whose time to generate is for `tokens`.
    pub(super) fn of(reasons: &Reasons, tokens: u32) -> Self {
        Self {
            // The quote has brought one of the two round trips behind it.
            first_ms: (reasons.first_token_ms() - reasons.round_trip_ms).max(0.0),
            generate_ms: reasons.generate_ms,
            tokens,
            price: reasons.price,
        }
    }

    /// Milliseconds until an answer of `tokens` is whole.
    pub(super) fn whole_ms(&self, tokens: u32) -> f64 {
        self.first_ms + self.generate_ms * f64::from(tokens) / f64::from(self.tokens.max(1))
    }
}

/// What came.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Came {
    /// Milliseconds until the first piece.
    pub first_ms: f64,
    /// Milliseconds until the last one.
    pub whole_ms: f64,
    /// What was predicted for as many tokens; nothing where nothing was.
    pub predicted_ms: Option<f64>,
    /// Tokens of the answer.
    pub tokens: u32,
    /// What was paid, or what the cloud asks.
    pub paid: MicroCredits,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "end", rename_all = "snake_case")]
pub enum End {
    /// It still runs.
    Running,
    /// With a whole answer; its times, where they can be told.
    Answered {
        /// The times.
        came: Option<Came>,
    },
    /// Whoever asked left.
    Cancelled,
    /// Another provider that was asked as well was sooner, and this one was cancelled.
    Outrun {
        /// For how many milliseconds its first piece had been waited for.
        after_ms: f64,
        /// What it was paid for what it had delivered.
        paid: MicroCredits,
    },
    /// Without one.
    Failed {
        /// Why.
        reason: String,
    },
}

/// One decision.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Decision {
    /// The job; one that failed over has several.
    pub job: JobId,
    /// When.
    pub at_ms: UnixMillis,
    /// The model.
    pub model: ModelName,
    /// What decided.
    pub policy: Preference,
    /// Where the job went.
    pub chosen: Chosen,
    /// The provider whose first token was late, where this one was asked beside it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beside: Option<NodeId>,
    /// Among how many providers that could do it.
    pub among: usize,
    /// How many were ruled out.
    pub ruled_out: usize,
    /// What was expected; nothing of the own device, which comes before all others.
    pub predicted: Option<Prediction>,
    /// What came of it.
    pub outcome: End,
}

/// What the decisions were worth.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Decisions {
    /// The typical error of predictions as a share: 0.5 says that answers took half as long again, or as much less.
    pub error: Option<f64>,
    /// Answers that were held against their prediction.
    pub answers: u64,
    /// The last decisions, newest first.
    pub decisions: Vec<Decision>,
}

/// A decision whose outcome is to come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending(u64);

#[derive(Debug, Default)]
struct State {
    /// Numbered from the newest on backwards.
    kept: VecDeque<(u64, Decision)>,
    next: u64,
    answers: u64,
    calibration: Calibration,
}

/// The last decisions. A lock that is held for a look-up only.
#[derive(Debug)]
pub(super) struct DecisionLog {
    state: Mutex<State>,
    metrics: RoutingMetrics,
}

impl DecisionLog {
    pub(super) fn new(metrics: RoutingMetrics) -> Self {
        Self { state: Mutex::default(), metrics }
    }

    /// Keeps a decision.
    pub(super) fn made(&self, decision: Decision) -> Pending {
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        state.kept.truncate(MAX_DECISIONS - 1);
        state.kept.push_front((number, decision));
        Pending(number)
    }

    /// Keeps what came of it. One that is forgotten already counts for the calibration all the same.
    pub(super) fn ended(&self, pending: Pending, outcome: End) {
        let mut state = self.state();
        if let End::Answered { came: Some(Came { whole_ms, predicted_ms: Some(predicted_ms), .. }) } = &outcome {
            state.calibration.note(*predicted_ms, *whole_ms);
            state.answers = state.answers.saturating_add(1);
            self.metrics.predicted(whole_ms / predicted_ms, state.calibration.error());
        }
        if let Some((_, decision)) = state.kept.iter_mut().find(|(number, _)| *number == pending.0) {
            decision.outcome = outcome;
        }
    }

    /// The last ones, `limit` at most, and what all were worth.
    pub(super) fn last(&self, limit: usize) -> Decisions {
        let state = self.state();
        Decisions {
            error: state.calibration.error(),
            answers: state.answers,
            decisions: state.kept.iter().take(limit).map(|(_, decision)| decision.clone()).collect(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whole after any panic: every change is one insertion or one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;
    use aitbc_protocol::text::Line;

    fn log() -> DecisionLog {
        DecisionLog::new(RoutingMetrics::new(&Metrics::default()))
    }

    fn decision(n: u64) -> Decision {
        Decision {
            job: JobId([1; 16]),
            at_ms: n,
            model: Line::lossy("m"),
            policy: Preference::Balanced,
            chosen: Chosen::Device,
            beside: None,
            among: 1,
            ruled_out: 0,
            predicted: None,
            outcome: End::Running,
        }
    }

    fn came(predicted_ms: f64, whole_ms: f64) -> End {
        let predicted_ms = Some(predicted_ms);
        End::Answered {
            came: Some(Came { first_ms: 1.0, whole_ms, predicted_ms, tokens: 1, paid: MicroCredits::ZERO }),
        }
    }

    #[test]
    fn memory_is_bounded_and_what_is_forgotten_still_counts() {
        let log = log();
        let first = log.made(decision(0));
        for n in 1..=MAX_DECISIONS as u64 {
            log.made(decision(n));
        }
        log.ended(first, came(100.0, 200.0));
        let last = log.last(usize::MAX);
        assert_eq!((last.decisions.len(), last.answers), (MAX_DECISIONS, 1));
        assert_eq!(last.decisions[0].at_ms, MAX_DECISIONS as u64, "newest first");
        assert!((last.error.expect("one answer") - 1.0).abs() < 1e-9);
        assert!(last.decisions.iter().all(|decision| decision.outcome == End::Running));
    }

    #[test]
    fn an_outcome_finds_its_decision() {
        let log = log();
        let (one, _two) = (log.made(decision(1)), log.made(decision(2)));
        log.ended(one, End::Failed { reason: "it left".to_owned() });
        let last = log.last(1_000);
        assert_eq!(last.decisions[1].outcome, End::Failed { reason: "it left".to_owned() });
        assert_eq!((last.error, last.answers, log.last(1).decisions.len()), (None, 0, 1));
    }

    #[test]
    fn a_prediction_is_for_as_many_tokens_as_came() {
        let prediction =
            Prediction { first_ms: 100.0, generate_ms: 1_000.0, tokens: 100, price: MicroCredits::ZERO };
        assert!((prediction.whole_ms(100) - 1_100.0).abs() < 1e-9);
        assert!((prediction.whole_ms(50) - 600.0).abs() < 1e-9);
        let vectors = Prediction { tokens: 0, ..prediction };
        assert!(vectors.whole_ms(0).is_finite());
    }
}
