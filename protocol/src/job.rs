//! What a client asks for, what comes back, and the states a job goes through.

mod rejection;
mod state;

pub use rejection::Rejection;
pub use state::{JobEvent, JobState, TransitionError};

use crate::{
    bytes::{BoundedBytes, Digest},
    sealed::{MAX_SEALED_OUTPUT, Sealed},
    text::{Line, bounded_vec},
    wire,
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The name of a model, such as `smollm2:135m`.
pub type ModelName = Line<64>;

/// Most tokens between two acknowledgements: neither side can lose more than this.
pub const WINDOW_TOKENS: u32 = 64;
/// Most messages in a chat.
pub const MAX_MESSAGES: usize = 512;
/// Most stop sequences, as OpenAI's API allows.
pub const MAX_STOPS: usize = 4;
/// Most tokens of an answer, and of a prefix that is continued.
pub const MAX_TOKENS: u32 = 32_768;
/// Most texts in one embedding request.
pub const MAX_EMBEDDING_INPUTS: usize = 64;
/// Most alternatives with log probabilities a token, as OpenAI's API allows.
pub const MAX_TOP_LOGPROBS: u8 = 20;

/// Who speaks in a chat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Instructions to the model.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

/// One message of a chat. Its `Debug` form shows its size and never its text.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

impl fmt::Debug for Message {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Message({:?}, {} bytes)", self.role, self.content.len())
    }
}

/// What a model is given. Its `Debug` form shows sizes and never texts, so that prompts cannot reach a log.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// A conversation, put into the model's own chat template by the provider.
    Chat(#[serde(deserialize_with = "bounded_vec::<_, _, MAX_MESSAGES>")] Vec<Message>),
    /// Text to be continued as it stands.
    Text(String),
    /// Texts to be turned into vectors.
    Embed(#[serde(deserialize_with = "bounded_vec::<_, _, MAX_EMBEDDING_INPUTS>")] Vec<String>),
    /// Values that the provider computes with and cannot read.
    Sealed(Sealed),
}

impl Input {
    /// The sealed input of a private job.
    pub fn sealed(&self) -> Option<&Sealed> {
        match self {
            Self::Sealed(sealed) => Some(sealed),
            Self::Chat(_) | Self::Text(_) | Self::Embed(_) => None,
        }
    }

    /// Bytes of text in it.
    pub fn text_bytes(&self) -> usize {
        match self {
            Self::Chat(messages) => messages.iter().map(|message| message.content.len()).sum(),
            Self::Text(text) => text.len(),
            Self::Embed(texts) => texts.iter().map(String::len).sum(),
            Self::Sealed(_) => 0,
        }
    }

    /// Upper bound of the prompt tokens an honest provider can count: a token is at least one byte, and a chat
    /// template adds at most 64 tokens a message and 64 around all. Of a private job these are its values.
    pub fn max_prompt_tokens(&self) -> u32 {
        let parts = match self {
            Self::Chat(messages) => messages.len(),
            Self::Text(_) => 0,
            Self::Embed(texts) => texts.len(),
            Self::Sealed(sealed) => return sealed.values,
        };
        u32::try_from(self.text_bytes().saturating_add(64 * (parts + 1))).unwrap_or(u32::MAX)
    }
}

impl fmt::Debug for Input {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Chat(_) => "Chat",
            Self::Text(_) => "Text",
            Self::Embed(_) => "Embed",
            Self::Sealed(sealed) => return write!(formatter, "Sealed({sealed:?})"),
        };
        write!(formatter, "{kind}({} bytes)", self.text_bytes())
    }
}

/// How tokens are drawn. Equal parameters, seed and position give equal draws on equal logits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// 0 is greedy; at most 2.
    pub temperature: f32,
    /// Nucleus, over 0 and at most 1.
    pub top_p: f32,
    /// Where the randomness comes from; drawn by the client where the user names none.
    pub seed: u64,
}

impl Sampling {
    /// What private jobs say, of which nothing is drawn. There is one way to say so.
    pub const NONE: Self = Self { temperature: 0.0, top_p: 1.0, seed: 0 };
}

/// A complete request: everything that decides the answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    /// The model by name.
    pub model: ModelName,
    /// The weights, where the client insists on some: SHA-256 of the file.
    pub weights: Option<Digest>,
    /// What the model is given.
    pub input: Input,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Most tokens of the answer, the prefix included; the bootstraps of a private job.
    pub max_tokens: u32,
    /// Texts that end the answer and are not part of it.
    #[serde(default, deserialize_with = "bounded_vec::<_, _, MAX_STOPS>")]
    pub stop: Vec<String>,
    /// Alternatives with log probabilities for each token; `None` for no log probabilities at all.
    #[serde(default)]
    pub top_logprobs: Option<u8>,
    /// Tokens of the answer that another provider delivered before it failed: the answer goes on after them.
    #[serde(default, deserialize_with = "bounded_vec::<_, _, { MAX_TOKENS as usize }>")]
    pub prefix: Vec<u32>,
}

/// Why a [`JobSpec`] is refused before anything is computed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SpecError {
    /// No text at all.
    #[error("the input is empty")]
    EmptyInput,
    /// A sampling parameter out of range.
    #[error("{name} is {value}, allowed is {range}")]
    Sampling {
        /// The parameter.
        name: &'static str,
        /// Its value.
        value: f32,
        /// What is allowed.
        range: &'static str,
    },
    /// Too many or no tokens asked for.
    #[error("max_tokens is {0}, allowed is 1 to {MAX_TOKENS}")]
    MaxTokens(u32),
    /// The prefix leaves nothing to generate.
    #[error("the prefix has {prefix} tokens, max_tokens is {max_tokens}")]
    PrefixTooLong {
        /// Tokens in the prefix.
        prefix: usize,
        /// Tokens asked for.
        max_tokens: u32,
    },
    /// A stop sequence that is empty or longer than 256 bytes.
    #[error("stop sequences have 1 to 256 bytes")]
    Stop,
    /// More alternatives than allowed.
    #[error("top_logprobs is {0}, allowed is 0 to {MAX_TOP_LOGPROBS}")]
    TopLogprobs(u8),
    /// A private job that says what only others can say.
    #[error("{field} of a private job {problem}")]
    Sealed {
        /// What.
        field: &'static str,
        /// The rule.
        problem: &'static str,
    },
    /// Larger than a quote frame holds.
    #[error("{0}")]
    Wire(#[from] wire::WireError),
}

impl JobSpec {
    /// Refuses what no provider may be asked to do.
    pub fn validate(&self) -> Result<(), SpecError> {
        if let Input::Sealed(sealed) = &self.input {
            return self.validate_sealed(sealed);
        }
        let Sampling { temperature, top_p, .. } = self.sampling;
        if self.input.text_bytes() == 0 {
            return Err(SpecError::EmptyInput);
        }
        if !(0.0..=2.0).contains(&temperature) {
            return Err(SpecError::Sampling { name: "temperature", value: temperature, range: "0 to 2" });
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(SpecError::Sampling { name: "top_p", value: top_p, range: "over 0, at most 1" });
        }
        if self.max_tokens == 0 || self.max_tokens > MAX_TOKENS {
            return Err(SpecError::MaxTokens(self.max_tokens));
        }
        if self.prefix.len() >= self.max_tokens as usize {
            return Err(SpecError::PrefixTooLong { prefix: self.prefix.len(), max_tokens: self.max_tokens });
        }
        if self.stop.iter().any(|stop| stop.is_empty() || stop.len() > 256) {
            return Err(SpecError::Stop);
        }
        match self.top_logprobs {
            Some(count) if count > MAX_TOP_LOGPROBS => Err(SpecError::TopLogprobs(count)),
            _ => Ok(()),
        }
    }

    /// Refuses a private job that is none, or that says what only others can say.
    fn validate_sealed(&self, sealed: &Sealed) -> Result<(), SpecError> {
        let refuse = |field, problem| Err(SpecError::Sealed { field, problem });
        if sealed.values == 0 || sealed.ciphertext.is_empty() {
            return Err(SpecError::EmptyInput);
        }
        if self.max_tokens > MAX_TOKENS {
            return Err(SpecError::MaxTokens(self.max_tokens));
        }
        if sealed.evaluation_key.is_some() != (self.max_tokens > 0) {
            return refuse("evaluation_key", "is named where there are bootstraps, and only there");
        }
        if self.sampling != Sampling::NONE {
            return refuse("sampling", "is fixed: temperature 0, top_p 1, seed 0");
        }
        if !self.prefix.is_empty() {
            return refuse("prefix", "cannot be continued");
        }
        if !self.stop.is_empty() {
            return refuse("stop", "has no place where there is no text");
        }
        if self.top_logprobs.is_some() {
            return refuse("top_logprobs", "has no place where nothing is drawn");
        }
        Ok(())
    }

    /// Most tokens of the answer that one attempt can bill: what is asked for without the prefix; none for vectors.
    pub fn completion_tokens(&self) -> u32 {
        match self.input {
            Input::Embed(_) => 0,
            Input::Chat(_) | Input::Text(_) | Input::Sealed(_) => {
                self.max_tokens.saturating_sub(self.prefix_tokens())
            }
        }
    }

    /// Tokens of context that one attempt needs, `prompt_tokens` including the prefix. Embedding inputs each have the
    /// context for themselves, and only the engine knows where one is too long; private jobs have none.
    pub fn context_needed(&self, prompt_tokens: u32) -> u32 {
        match self.input {
            Input::Embed(_) | Input::Sealed(_) => 0,
            Input::Chat(_) | Input::Text(_) => prompt_tokens.saturating_add(self.completion_tokens()),
        }
    }

    /// Tokens of the answer that came from elsewhere.
    pub fn prefix_tokens(&self) -> u32 {
        u32::try_from(self.prefix.len()).unwrap_or(u32::MAX)
    }

    /// The digest that quotes and receipts bind: SHA-256 of the canonical encoding, the prefix included.
    pub fn digest(&self) -> Result<Digest, SpecError> {
        Ok(Digest::of(&wire::encode_payload(self, wire::MAX_QUOTE_FRAME)?))
    }
}

/// A token with the natural logarithm of its probability.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// Token id; 0 where an upstream engine tells only text.
    pub token: u32,
    /// The token's own bytes.
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
    /// Natural logarithm of the probability before temperature and nucleus.
    pub logprob: f32,
}

/// What one generated token carries when log probabilities were asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Logprobs {
    /// The drawn token.
    pub chosen: TokenLogprob,
    /// The likeliest ones, best first.
    #[serde(default, deserialize_with = "bounded_vec::<_, _, { MAX_TOP_LOGPROBS as usize }>")]
    pub top: Vec<TokenLogprob>,
}

/// Consecutive pieces of an answer. Its `Debug` form shows sizes only.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Chunk {
    /// Tokens of this attempt that come before this chunk.
    pub first: u32,
    /// Billed tokens in this chunk.
    pub count: u32,
    /// Their ids; empty where the engine is an upstream server that does not tell them.
    #[serde(default, deserialize_with = "bounded_vec::<_, _, { WINDOW_TOKENS as usize }>")]
    pub tokens: Vec<u32>,
    /// Text that became certain with these tokens (complete UTF-8, nothing a stop sequence may still take back).
    pub text: String,
    /// One entry a token, if asked for.
    #[serde(default, deserialize_with = "bounded_vec::<_, _, { WINDOW_TOKENS as usize }>")]
    pub logprobs: Vec<Logprobs>,
    /// Vectors, for embedding jobs.
    #[serde(default, deserialize_with = "bounded_vec::<_, _, MAX_EMBEDDING_INPUTS>")]
    pub embeddings: Vec<Vec<f32>>,
    /// The encrypted answer of a private job, in its last chunk.
    #[serde(default, skip_serializing_if = "BoundedBytes::is_empty")]
    pub sealed: BoundedBytes<MAX_SEALED_OUTPUT>,
    /// When it first left, in milliseconds since admission; not said of what leaves again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_ms: Option<u64>,
}

impl fmt::Debug for Chunk {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Chunk({}+{}, {} bytes)", self.first, self.count, self.text.len() + self.sealed.len())
    }
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model ended it, or a stop sequence did.
    Stop,
    /// `max_tokens` or the model's context was reached.
    Length,
    /// The client cancelled or left.
    Cancelled,
    /// The provider failed: the engine, the owner's own use, a restart.
    Failed,
}
