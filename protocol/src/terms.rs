//! What a quote promises of an answer's times.

use crate::{job::JobSpec, price::LatencyClass};
use serde::{Deserialize, Serialize};

/// What a quote promises. All zero, in quotes from before there were any and for private jobs, promises nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// When the first piece is to be there, in milliseconds after admission, waiting in the queue included.
    pub first_token_ms: u32,
    /// From when on lateness gives money back; 0 promises nothing.
    pub penalty_from_ms: u32,
    /// Milli-tokens a second that the answer is not to fall under; 0 promises nothing. The provider's word.
    pub speed: u32,
}

impl Terms {
    /// The terms of a job: the first piece is due within the bound of the class and what reading the prompt may take, and
    /// wished in a quarter of that; `speed` is what the provider promises. Nothing for private jobs, whose times are the
    /// model's.
    pub fn of(class: LatencyClass, spec: &JobSpec, prompt_tokens: u32, speed: u32) -> Self {
        if spec.input.sealed().is_some() {
            return Self::default();
        }
        let penalty_from_ms =
            class.bound_ms().saturating_add(prompt_tokens.saturating_mul(class.prompt_token_ms()));
        Self { first_token_ms: penalty_from_ms / 4, penalty_from_ms, speed }
    }

    /// Whether they promise as much of the first piece as the class asks for.
    pub fn keep(&self, class: LatencyClass, spec: &JobSpec, prompt_tokens: u32) -> bool {
        *self == Self::of(class, spec, prompt_tokens, self.speed)
    }

    /// How long an answer of `tokens` tokens may take after its first piece, in milliseconds; `None` where nothing is promised.
    pub fn completion_ms(&self, tokens: u32) -> Option<u64> {
        (self.speed > 0).then(|| u64::from(tokens).saturating_mul(1_000_000) / u64::from(self.speed))
    }
}

impl LatencyClass {
    /// What a token of the prompt adds to the bound of the first piece, in milliseconds.
    const fn prompt_token_ms(self) -> u32 {
        match self {
            Self::Realtime => 0,
            Self::Fast => 1,
            Self::Standard => 5,
            Self::Economy => 20,
        }
    }
}
