//! The price of a job and the quote that binds it.

use crate::{
    UnixMillis,
    bytes::{Digest, JobId, Nonce},
    envelope::Statement,
    identity::NodeId,
    job::ModelName,
    money::MicroCredits,
};
use serde::{Deserialize, Serialize};

/// How long a quote binds its price, in milliseconds.
pub const QUOTE_LIFETIME_MS: u64 = 5 * 60 * 1000;
/// How long a quote keeps capacity free, in milliseconds.
pub const QUOTE_CAPACITY_MS: u64 = 10_000;
/// Open quotes a client may hold with one provider.
pub const OPEN_QUOTES_PER_CLIENT: u32 = 2;

/// A provider's base price.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenPrice {
    /// For a thousand prompt tokens, or values of a private job.
    pub prompt: MicroCredits,
    /// For a thousand tokens of the answer, or bootstraps.
    pub completion: MicroCredits,
}

/// A price that does not fit 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the price does not fit 64 bits")]
pub struct PriceOverflow;

/// Price of a job in micro-credits:
/// `ceil((prompt_tokens * price.prompt + completion_tokens * price.completion) / 1000)`, rounded up once.
pub fn price(
    base: &TokenPrice,
    prompt_tokens: u32,
    completion_tokens: u32,
) -> Result<MicroCredits, PriceOverflow> {
    let part = |tokens: u32, price: MicroCredits| u128::from(tokens) * u128::from(price.0);
    let thousandths = part(prompt_tokens, base.prompt) + part(completion_tokens, base.completion);
    u64::try_from(thousandths.div_ceil(1000)).map(MicroCredits).map_err(|_| PriceOverflow)
}

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
    /// Prices a thousand tokens.
    pub price: TokenPrice,
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
    /// A window over the limit, or none.
    #[error("the quoted window is not 1 to 64 tokens")]
    Window,
    /// Above the client's ceiling.
    #[error("the quote is above the price ceiling")]
    TooExpensive,
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
        if price(&self.price, self.prompt_tokens, self.max_completion_tokens) != Ok(self.max_total) {
            return Err(QuoteFault::Total);
        }
        if self.window == 0 || self.window > crate::job::WINDOW_TOKENS {
            return Err(QuoteFault::Window);
        }
        match asked.ceiling {
            Some(ceiling) if self.max_total > ceiling => Err(QuoteFault::TooExpensive),
            _ => Ok(()),
        }
    }
}
