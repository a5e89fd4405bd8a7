//! A job as the body of a request to an OpenAI-compatible server.

use super::EngineError;
use aitbc_protocol::job::{Input, JobSpec, Message};
use serde::Serialize;

/// A streaming request. Holds the prompt, so it has no `Debug` form.
#[derive(Serialize)]
pub(super) struct Request {
    #[serde(skip)]
    pub(super) path: &'static str,
    model: String,
    #[serde(flatten)]
    prompt: Prompt,
    max_tokens: u32,
    temperature: f32,
    top_p: f32,
    seed: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stop: Vec<String>,
    stream: bool,
    stream_options: StreamOptions,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Prompt {
    Messages(Vec<Message>),
    Prompt(String),
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

impl Request {
    /// Refuses what such a server cannot be relied on for: another engine's tokens, log probabilities (many servers
    /// ignore the wish), vectors.
    pub(super) fn new(spec: &JobSpec) -> Result<Self, EngineError> {
        let unsupported = |what: &str| Err(EngineError::Unsupported(what.to_owned()));
        if !spec.prefix.is_empty() {
            return unsupported("an upstream server cannot continue the answer of another engine");
        }
        if spec.top_logprobs.is_some() {
            return unsupported("log probabilities from an upstream server");
        }
        if spec.weights.is_some_and(|weights| weights != super::Digest::of(spec.model.as_str().as_bytes())) {
            return unsupported("an upstream server does not tell its weights");
        }
        Self::of(spec, spec.model.to_string())
    }

    /// The same for a server that calls the model `model`.
    pub(super) fn of(spec: &JobSpec, model: String) -> Result<Self, EngineError> {
        let unsupported = |what: &str| Err(EngineError::Unsupported(what.to_owned()));
        let (path, prompt) = match &spec.input {
            Input::Chat(messages) => ("chat/completions", Prompt::Messages(messages.clone())),
            Input::Text(text) => ("completions", Prompt::Prompt(text.clone())),
            Input::Embed(_) => return unsupported("embeddings from an upstream server"),
            Input::Sealed(_) => return unsupported("private jobs on an upstream server"),
        };
        Ok(Self {
            path,
            model,
            prompt,
            max_tokens: spec.max_tokens,
            temperature: spec.sampling.temperature,
            top_p: spec.sampling.top_p,
            // Servers read a signed number, and some of 32 bits.
            seed: spec.sampling.seed & u64::from(u32::MAX >> 1),
            stop: spec.stop.clone(),
            stream: true,
            stream_options: StreamOptions { include_usage: true },
        })
    }
}
