//! The quote that binds the price of a job.

use crate::{
    UnixMillis,
    bytes::{Digest, JobId, Nonce},
    envelope::Statement,
    holdback::Audit,
    identity::NodeId,
    job::ModelName,
    money::MicroCredits,
    offer::ModelOffer,
    price::{Adjustment, AdjustmentFault, LatencyClass, PriceOverflow, TokenPrice, hour_of_day, price},
    terms::Terms,
};
use serde::{Deserialize, Serialize};

/// How long a quote binds its price, in milliseconds.
pub const QUOTE_LIFETIME_MS: u64 = 5 * 60 * 1000;
/// How long a quote keeps capacity free, in milliseconds.
pub const QUOTE_CAPACITY_MS: u64 = 10_000;
/// Open quotes a client may hold with one provider.
pub const OPEN_QUOTES_PER_CLIENT: u32 = 2;

/// A binding price, signed by the provider, for one client, one request and one use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quote {
    /// Makes the quote good for one use.
    pub nonce: Nonce,
    /// Who may use it.
    pub client: NodeId,
    /// The client's name for the job.
    pub job: JobId,
    /// Digest of the request.
    pub request: Digest,
    /// The model that answers.
    pub model: ModelName,
    /// Its weights.
    pub weights: Digest,
    /// Prompt tokens as the model's own tokenizer counts them, a continued prefix included.
    pub prompt_tokens: u32,
    /// Most tokens of the answer that can be billed.
    pub max_completion_tokens: u32,
    /// The provider's base for a thousand tokens, as it offers it.
    pub price: TokenPrice,
    /// What the place, the hour and the request put on it. It binds as the base does, whatever happens to demand.
    #[serde(default)]
    pub adjustment: Adjustment,
    /// What is promised of the answer's times.
    #[serde(default)]
    pub terms: Terms,
    /// What of its price may wait, and for how long.
    #[serde(default)]
    pub audit: Audit,
    /// The most that the job can cost.
    pub max_total: MicroCredits,
    /// Tokens the provider sends ahead of payment, at most [`crate::job::WINDOW_TOKENS`].
    pub window: u32,
    /// True where the answer comes from a server the provider only forwards to.
    pub declared: bool,
    /// When it was signed.
    pub issued_ms: UnixMillis,
    /// Until when the price binds.
    pub expires_ms: UnixMillis,
}

impl Statement for Quote {
    const DOMAIN: &'static str = "aitbc/quote/1";
    const MAX_BYTES: usize = 4096;
}

/// Why a quote is not one that this client asked for, or not one to accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuoteFault {
    /// Made out to another client.
    #[error("the quote is for another client")]
    OtherClient,
    /// For another job or request.
    #[error("the quote is for another request")]
    OtherRequest,
    /// Expired, dated in the future, or binding for longer than five minutes.
    #[error("the quote has expired or its dates are wrong")]
    Dates,
    /// `max_total` is not what the formula gives.
    #[error("the quoted total does not follow from its parts")]
    Total,
    /// More tokens than asked for or than the prompt can have.
    #[error("the quote counts more tokens than the request can have")]
    Overcount,
    /// A held part or a date that the rule does not make.
    #[error("the quote does not say of the held part what follows from its total and its date")]
    Audit,
    /// A window over the limit, or none.
    #[error("the quoted window is not 1 to 64 tokens")]
    Window,
    /// Above the client's ceiling.
    #[error("the quote asks up to {total}, the ceiling is {ceiling}")]
    TooExpensive {
        /// What it asks at most.
        total: MicroCredits,
        /// What the user pays at most.
        ceiling: MicroCredits,
    },
    /// Factors or a floor that the rule does not make.
    #[error(transparent)]
    Adjustment(#[from] AdjustmentFault),
    /// Priced for another latency class than asked for.
    #[error("the quote is priced for {quoted} where {asked} was asked for")]
    Latency {
        /// What the client asked for.
        asked: LatencyClass,
        /// What the quote says.
        quoted: LatencyClass,
    },
    /// An hour of the day at which it was not signed.
    #[error("the quote is priced for {stated} h and was signed at {signed} h by the same clock")]
    Hour {
        /// What it says.
        stated: u8,
        /// What follows from its date.
        signed: u8,
    },
    /// Terms that promise less than the latency class asks for.
    #[error(
        "the quote promises a first token {quoted_ms} ms after admission at the latest, which is not what the class {asked} means"
    )]
    Terms {
        /// What the client asked for.
        asked: LatencyClass,
        /// What the quote says.
        quoted_ms: u32,
    },
    /// More or less of the context than the request needs.
    #[error("the quote is priced for {stated} tokens of context where the request needs {needed}")]
    ContextUsed {
        /// What it says.
        stated: u32,
        /// What the request needs.
        needed: u32,
    },
    /// A base above the provider's own offer.
    #[error("the quote's base price is above the provider's own offer")]
    AboveOffer,
    /// Another context than the provider's own offer says.
    #[error("the quote is priced for a context of {stated} tokens, the provider's own offer says {offered}")]
    Context {
        /// What it says.
        stated: u32,
        /// What the offer says.
        offered: u32,
    },
}

/// What a client asked for, to judge quotes by.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// Who asks.
    pub client: NodeId,
    /// The job.
    pub job: JobId,
    /// Digest of the request.
    pub request: Digest,
    /// The request.
    pub spec: &'a crate::job::JobSpec,
    /// How soon the answer is wished.
    pub latency: LatencyClass,
    /// The most the user pays.
    pub ceiling: Option<MicroCredits>,
}

impl Quote {
    /// Judges a quote from the client's side. Signature and weights are judged elsewhere.
    pub fn check(&self, asked: &Asked<'_>, now_ms: UnixMillis) -> Result<(), QuoteFault> {
        if self.client != asked.client {
            return Err(QuoteFault::OtherClient);
        }
        if self.job != asked.job || self.request != asked.request || self.model != asked.spec.model {
            return Err(QuoteFault::OtherRequest);
        }
        let lifetime = self.expires_ms.checked_sub(self.issued_ms).ok_or(QuoteFault::Dates)?;
        if lifetime > QUOTE_LIFETIME_MS
            || self.expires_ms <= now_ms
            || self.issued_ms > now_ms.saturating_add(crate::CLOCK_TOLERANCE_MS)
        {
            return Err(QuoteFault::Dates);
        }
        let spec = asked.spec;
        if self.prompt_tokens > spec.input.max_prompt_tokens().saturating_add(spec.prefix_tokens())
            || self.max_completion_tokens > spec.completion_tokens()
        {
            return Err(QuoteFault::Overcount);
        }
        self.check_adjustment(asked)?;
        if self.total(self.max_completion_tokens) != Ok(self.max_total) {
            return Err(QuoteFault::Total);
        }
        if self.audit != Audit::of(self.max_total, self.issued_ms) {
            return Err(QuoteFault::Audit);
        }
        if self.window == 0 || self.window > crate::job::WINDOW_TOKENS {
            return Err(QuoteFault::Window);
        }
        match asked.ceiling {
            Some(ceiling) if self.max_total > ceiling => {
                Err(QuoteFault::TooExpensive { total: self.max_total, ceiling })
            }
            _ => Ok(()),
        }
    }

    /// Judges what of the price follows from the request, the date and the rule.
    fn check_adjustment(&self, asked: &Asked<'_>) -> Result<(), QuoteFault> {
        let inputs = self.adjustment.check(&self.price)?;
        if inputs.latency != asked.latency {
            return Err(QuoteFault::Latency { asked: asked.latency, quoted: inputs.latency });
        }
        if !self.terms.keep(asked.latency, asked.spec, self.prompt_tokens) {
            return Err(QuoteFault::Terms { asked: asked.latency, quoted_ms: self.terms.penalty_from_ms });
        }
        let signed = hour_of_day(self.issued_ms, inputs.utc_offset_minutes);
        if inputs.hour != signed {
            return Err(QuoteFault::Hour { stated: inputs.hour, signed });
        }
        let needed = asked.spec.context_needed(self.prompt_tokens);
        if inputs.context_used != needed {
            return Err(QuoteFault::ContextUsed { stated: inputs.context_used, needed });
        }
        Ok(())
    }

    /// Judges whether it keeps the word of the signed offer that it was chosen by. Weights are judged elsewhere.
    pub fn check_offer(&self, offer: &ModelOffer) -> Result<(), QuoteFault> {
        if self.price.prompt > offer.price.prompt || self.price.completion > offer.price.completion {
            return Err(QuoteFault::AboveOffer);
        }
        match &self.adjustment.inputs {
            Some(inputs) if inputs.context != offer.context => {
                Err(QuoteFault::Context { stated: inputs.context, offered: offer.context })
            }
            _ => Ok(()),
        }
    }

    /// What is owed once so many tokens of the answer are delivered.
    pub fn total(&self, completion_tokens: u32) -> Result<MicroCredits, PriceOverflow> {
        self.total_of(self.prompt_tokens, completion_tokens)
    }

    /// The same for a prompt of so many tokens, by the quote's own prices.
    pub fn total_of(&self, prompt_tokens: u32, completion_tokens: u32) -> Result<MicroCredits, PriceOverflow> {
        price(&self.price, &self.adjustment, prompt_tokens, completion_tokens)
    }
}
