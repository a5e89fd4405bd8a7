//! `POST /v1/completions`: reading the request.

use super::{
    Ask, Form,
    request::{self, Fields, Texts, empty, no, one},
};
use crate::{api::error::Failure, routing::JobRequest};
use aitbc_protocol::job::Input;
use serde_json::Value;

/// Reads a request.
pub(super) fn parse(body: &[u8]) -> Result<Ask, Failure> {
    let mut fields = Fields::parse(body)?;
    let generation = request::generation(&mut fields)?;
    let prompt = prompt(fields.require("prompt")?)?;
    let max_tokens = request::max_tokens(&mut fields, None)?;
    let logprobs: Option<u8> = fields.take("logprobs")?;
    fields.refuse(&[("best_of", one), ("echo", no), ("suffix", empty)])?;
    fields.finish()?;
    let spec = request::spec(&generation, Input::Text(prompt), "prompt", max_tokens, logprobs)?;
    let request = JobRequest { spec, wishes: generation.wishes };
    Ok(Ask { request, form: Form::Completion, streaming: generation.streaming })
}

fn prompt(value: Value) -> Result<String, Failure> {
    let refused = |message: &str| Failure::unsupported("prompt", message);
    if value.as_array().is_some_and(|items| items.iter().any(|item| item.is_number() || item.is_array())) {
        return Err(refused(
            "prompt is a list of token ids: send text, every provider has a tokenizer of its own",
        ));
    }
    let texts = serde_json::from_value::<Texts>(value)
        .map_err(|error| Failure::invalid("prompt", format!("prompt: {error}")))?;
    match <[String; 1]>::try_from(texts.into_vec()) {
        Ok([text]) => Ok(text),
        Err(texts) => Err(refused(&format!("prompt has {} texts: send one a request", texts.len()))),
    }
}
