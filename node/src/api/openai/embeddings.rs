//! `POST /v1/embeddings`: the request and the vectors.

use super::{
    answer::{Account, Answer, Usage},
    request::{self, Fields, HARMLESS, Texts, never},
};
use crate::{api::error::Failure, routing::JobRequest};
use aitbc_protocol::job::{Input, JobSpec, MAX_EMBEDDING_INPUTS, Sampling};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A request for vectors.
pub(super) struct Embed {
    /// The job.
    pub(super) request: JobRequest,
    /// How vectors are written.
    pub(super) encoding: Encoding,
    /// Texts given: as many vectors must come back.
    pub(super) inputs: usize,
}

/// How vectors are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Encoding {
    /// A list of numbers.
    #[default]
    Float,
    /// Base64 of little-endian `f32`: what the OpenAI libraries ask for.
    Base64,
}

/// Reads a request.
pub(super) fn parse(body: &[u8]) -> Result<Embed, Failure> {
    let mut fields = Fields::parse(body)?;
    let model = request::model(&mut fields)?;
    let wishes = request::wishes(&mut fields)?;
    let texts = input(fields.require("input")?)?;
    let encoding = fields.take("encoding_format")?.unwrap_or_default();
    fields.accept(HARMLESS);
    fields.refuse(&[("dimensions", never)])?;
    fields.finish()?;
    let inputs = texts.len();
    let spec = JobSpec {
        model,
        weights: wishes.weights,
        input: Input::Embed(texts),
        // Nothing is drawn: fixed values, so that equal requests have equal digests.
        sampling: Sampling { temperature: 0.0, top_p: 1.0, seed: 0 },
        max_tokens: 1,
        stop: Vec::new(),
        top_logprobs: None,
        prefix: Vec::new(),
    };
    spec.validate().map_err(|error| Failure::spec(&error, "input", "input"))?;
    Ok(Embed { request: JobRequest { spec, wishes }, encoding, inputs })
}

fn input(value: Value) -> Result<Vec<String>, Failure> {
    if value.as_array().is_some_and(|items| items.iter().any(|item| item.is_number() || item.is_array())) {
        let message = "input is a list of token ids: send text, every provider has a tokenizer of its own";
        return Err(Failure::unsupported("input", message));
    }
    let texts = serde_json::from_value::<Texts>(value)
        .map_err(|error| Failure::invalid("input", format!("input: {error}")))?
        .into_vec();
    if texts.is_empty() || texts.len() > MAX_EMBEDDING_INPUTS {
        let message = format!("input has {} texts, allowed are 1 to {MAX_EMBEDDING_INPUTS}", texts.len());
        return Err(Failure::invalid("input", message));
    }
    if texts.iter().any(String::is_empty) {
        return Err(Failure::invalid("input", "input has an empty text"));
    }
    Ok(texts)
}

#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<Item<'a>>,
    model: &'a str,
    usage: EmbeddingUsage,
    aitbc: &'a Account,
}

#[derive(Serialize)]
struct Item<'a> {
    object: &'static str,
    index: usize,
    embedding: Vector<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Vector<'a> {
    Float(&'a [f32]),
    Base64(String),
}

#[derive(Serialize)]
struct EmbeddingUsage {
    prompt_tokens: u32,
    total_tokens: u32,
}

/// The document of an answer; an answer with another number of vectors than texts is none.
pub(super) fn document(
    answer: &Answer,
    model: &str,
    encoding: Encoding,
    inputs: usize,
) -> Result<Vec<u8>, Failure> {
    if answer.vectors.len() != inputs {
        return Err(Failure::broken(format!("{} vectors came for {inputs} texts", answer.vectors.len())));
    }
    if answer.vectors.iter().flatten().any(|number| !number.is_finite()) {
        return Err(Failure::broken("a vector holds something that is not a number"));
    }
    let vector = |vector: &'_ Vec<f32>| match encoding {
        Encoding::Float => None,
        Encoding::Base64 => {
            let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
            Some(BASE64_STANDARD.encode(bytes))
        }
    };
    let data = answer
        .vectors
        .iter()
        .enumerate()
        .map(|(index, numbers)| Item {
            object: "embedding",
            index,
            embedding: vector(numbers).map_or(Vector::Float(numbers), Vector::Base64),
        })
        .collect();
    let Usage { prompt_tokens, .. } = answer.usage;
    let usage = EmbeddingUsage { prompt_tokens, total_tokens: prompt_tokens };
    let list = List { object: "list", data, model, usage, aitbc: &answer.account };
    serde_json::to_vec(&list).map_err(|error| Failure::internal(error.to_string()))
}
