//! Why a provider turns something down.

use crate::{money::MicroCredits, text::Line};
use serde::{Deserialize, Serialize};

/// Why a provider does not quote, does not start or does not go on. Each names what would have to change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Rejection {
    /// The provider does not serve this model, or other weights of it.
    #[error("the provider does not serve this model")]
    UnknownModel,
    /// All slots are taken or promised.
    #[error("the provider is full: {running} jobs running, {promised} promised, {slots} slots")]
    Full {
        /// Jobs that run.
        running: u32,
        /// Quotes accepted or open.
        promised: u32,
        /// Jobs that can run at a time.
        slots: u32,
    },
    /// The client holds as many open quotes as it may.
    #[error("the client already holds {0} open quotes here")]
    TooManyQuotes(u32),
    /// Prompt and answer do not fit the model's context.
    #[error("{needed} tokens do not fit the context of {context}")]
    ContextTooSmall {
        /// Prompt and answer together.
        needed: u32,
        /// What the model has.
        context: u32,
    },
    /// The client owes for earlier work, or holds back past its date what its cheques promised.
    #[error("the client owes {0} for earlier work: its node must settle first")]
    Debt(MicroCredits),
    /// The client may owe no more: its own credit and what is left for clients that have settled nothing do not reach.
    #[error(
        "the client's credit does not reach: the job may cost {needed}, {left} are left; ask for fewer tokens, take \
         another provider, or settle with this one what it holds of yours (`aitbc ledger ls`)"
    )]
    Credit {
        /// The most that the job may cost.
        needed: MicroCredits,
        /// The most that a job may cost now.
        left: MicroCredits,
    },
    /// The quote is not one this provider gave, or not for this client and request.
    #[error("the quote does not belong to this request: {0}")]
    QuoteMismatch(Line<64>),
    /// The quote was used before.
    #[error("the quote was already used")]
    QuoteUsed,
    /// The quote is older than it may be.
    #[error("the quote has expired")]
    QuoteExpired,
    /// The provider does not hold the job that is to be resumed, or not for this client.
    #[error("the provider does not hold this job: it has ended there, or the provider restarted")]
    UnknownJob,
    /// The job has been resumed by this attempt or a later one.
    #[error("attempt {newest} to resume the job came before this one")]
    StaleAttempt {
        /// The newest attempt.
        newest: u32,
    },
    /// The request breaks a rule.
    #[error("invalid request: {0}")]
    Invalid(Line<160>),
    /// The model, or a feature of it, is not available on this engine.
    #[error("not supported by the provider's engine: {0}")]
    Unsupported(Line<160>),
    /// The engine is loading, has crashed and waits, or is paused by the owner.
    #[error("the provider's engine is not ready: {0}")]
    EngineUnavailable(Line<160>),
    /// The provider does not hold the evaluation key of a private job, or not from this client: it must be sent before.
    #[error("the provider does not hold this client's evaluation key")]
    UnknownEvaluationKey,
    /// The client sends faster than the provider reads requests of one peer.
    #[error("too many requests: wait {retry_ms} ms")]
    RateLimited {
        /// When to try again.
        retry_ms: u32,
    },
}
