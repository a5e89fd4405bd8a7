//! Reading requests so that nothing in them is ignored: every field is taken, known to be harmless, or refused by
//! name.

use crate::{api::error::Failure, routing::Wishes};
use aitbc_protocol::{
    job::{Input, JobSpec, MAX_STOPS, MAX_TOKENS, ModelName, Sampling},
    text::Line,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

/// Most tokens of an answer where the request does not say.
pub(super) const DEFAULT_MAX_TOKENS: u32 = 512;

/// The fields of a JSON object that have not been looked at yet.
pub(in crate::api) struct Fields {
    left: Map<String, Value>,
    known: Vec<&'static str>,
    path: String,
}

/// A parameter of OpenAI's that this node does not act on, and the value with which it asks for nothing.
pub(super) type Refused = (&'static str, fn(&Value) -> bool);

impl Fields {
    /// The request itself.
    pub(in crate::api) fn parse(body: &[u8]) -> Result<Self, Failure> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(left)) => Ok(Self { left, known: Vec::new(), path: String::new() }),
            Ok(_) => Err(Failure::malformed("the request body is not a JSON object")),
            Err(error) => Err(Failure::malformed(format!("the request body is not JSON: {error}"))),
        }
    }

    /// An object inside the request.
    pub(super) fn of(value: Value, path: String) -> Result<Self, Failure> {
        match value {
            Value::Object(left) => Ok(Self { left, known: Vec::new(), path: path + "." }),
            _ => Err(Failure::invalid(path, "an object is expected here")),
        }
    }

    /// The full name of a field, as error documents tell it.
    pub(super) fn name(&self, field: &str) -> String {
        format!("{}{field}", self.path)
    }

    /// The field, if it is there; `null` counts as absent, as in OpenAI's API.
    pub(in crate::api) fn take<T: DeserializeOwned>(&mut self, field: &'static str) -> Result<Option<T>, Failure> {
        self.known.push(field);
        match self.left.remove(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value).map(Some).map_err(|error| {
                let name = self.name(field);
                let message = format!("{name}: {error}");
                Failure::invalid(name, message)
            }),
        }
    }

    /// The field, which must be there.
    pub(in crate::api) fn require<T: DeserializeOwned>(&mut self, field: &'static str) -> Result<T, Failure> {
        self.take(field)?.ok_or_else(|| Failure::missing(self.name(field)))
    }

    /// Passes over fields that change nothing about an answer.
    pub(super) fn accept(&mut self, fields: &[&'static str]) {
        for field in fields {
            self.known.push(field);
            self.left.remove(*field);
        }
    }

    /// Refuses fields with any value that asks for something.
    pub(super) fn refuse(&mut self, refused: &[Refused]) -> Result<(), Failure> {
        for (field, harmless) in refused {
            self.known.push(field);
            if self.left.remove(*field).is_some_and(|value| !value.is_null() && !harmless(&value)) {
                let name = self.name(field);
                let message = format!("{name} is not supported with this value: leave it out");
                return Err(Failure::unsupported(name, message));
            }
        }
        Ok(())
    }

    /// Refuses what is left, naming the nearest field that is known.
    pub(in crate::api) fn finish(self) -> Result<(), Failure> {
        let Some(field) = self.left.keys().next() else { return Ok(()) };
        // Long names are cut: they come from outside and end up in a header's worth of text.
        let field = Line::<64>::lossy(field);
        let nearest = self
            .known
            .iter()
            .map(|known| (strsim::jaro_winkler(known, field.as_str()), known))
            .filter(|(similarity, _)| *similarity > 0.8)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let name = self.name(field.as_str());
        let message = match nearest {
            Some((_, nearest)) => format!("{name} is not known: do you mean {}?", self.name(nearest)),
            None => format!("{name} is not known"),
        };
        Err(Failure::unknown(name, message))
    }
}

/// Asks for nothing at no value.
pub(super) fn never(_: &Value) -> bool {
    false
}

/// Asks for nothing where empty.
pub(super) fn empty(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

/// Asks for nothing at 0.
pub(super) fn zero(value: &Value) -> bool {
    value.as_f64() == Some(0.0)
}

/// Asks for nothing at 1.
pub(super) fn one(value: &Value) -> bool {
    value.as_u64() == Some(1)
}

/// Asks for nothing at `false`.
pub(super) fn no(value: &Value) -> bool {
    value == &Value::Bool(false)
}

/// Asks for nothing at `auto` and `default`.
pub(super) fn usual(value: &Value) -> bool {
    matches!(value.as_str(), Some("auto" | "default"))
}

/// Fields of OpenAI's that tell about the caller and change nothing about an answer.
pub(super) const HARMLESS: &[&str] =
    &["user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"];

/// How an answer is to be streamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Streaming {
    /// Whether a last chunk tells the usage.
    pub(super) include_usage: bool,
}

/// `stream` and `stream_options`.
pub(super) fn streaming(fields: &mut Fields) -> Result<Option<Streaming>, Failure> {
    let stream = fields.take("stream")?.unwrap_or(false);
    let options: Option<Value> = fields.take("stream_options")?;
    let mut include_usage = false;
    if let Some(options) = options {
        if !stream {
            return Err(Failure::invalid("stream_options", "stream_options is allowed with stream: true only"));
        }
        let mut options = Fields::of(options, "stream_options".to_owned())?;
        include_usage = options.take("include_usage")?.unwrap_or(false);
        // Padding against observers of packet sizes, who on loopback are none.
        options.accept(&["include_obfuscation"]);
        options.finish()?;
    }
    Ok(stream.then_some(Streaming { include_usage }))
}

/// A text or a list of texts.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a string or a list of strings is expected")]
pub(super) enum Texts {
    /// One.
    One(String),
    /// Some.
    Many(Vec<String>),
}

impl Texts {
    /// As a list.
    pub(super) fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }
}

/// The parameters that chats and completions share, but for the input.
pub(super) struct Generation {
    /// The model.
    pub(super) model: ModelName,
    /// How tokens are drawn.
    pub(super) sampling: Sampling,
    /// Texts that end the answer.
    pub(super) stop: Vec<String>,
    /// How it is to be streamed, if it is.
    pub(super) streaming: Option<Streaming>,
    /// The `aitbc` object.
    pub(super) wishes: Wishes,
}

/// Reads the shared parameters.
pub(super) fn generation(fields: &mut Fields) -> Result<Generation, Failure> {
    let sampling = Sampling {
        // OpenAI's defaults.
        temperature: fields.take("temperature")?.unwrap_or(1.0),
        top_p: fields.take("top_p")?.unwrap_or(1.0),
        seed: seed(fields)?,
    };
    let stop = fields.take::<Texts>("stop")?.map(Texts::into_vec).unwrap_or_default();
    if stop.len() > MAX_STOPS {
        let message = format!("stop has {} sequences, allowed are {MAX_STOPS}", stop.len());
        return Err(Failure::invalid("stop", message));
    }
    fields.accept(HARMLESS);
    fields.refuse(&[
        ("n", one),
        ("presence_penalty", zero),
        ("frequency_penalty", zero),
        ("logit_bias", empty),
        ("service_tier", usual),
    ])?;
    Ok(Generation {
        model: model(fields)?,
        sampling,
        stop,
        streaming: streaming(fields)?,
        wishes: wishes(fields)?,
    })
}

/// `model`.
pub(super) fn model(fields: &mut Fields) -> Result<ModelName, Failure> {
    let model: ModelName = fields.require("model")?;
    if model.as_str().is_empty() {
        return Err(Failure::invalid("model", "model is empty: GET /v1/models lists what is offered"));
    }
    Ok(model)
}

/// `aitbc`.
pub(super) fn wishes(fields: &mut Fields) -> Result<Wishes, Failure> {
    Ok(fields.take("aitbc")?.unwrap_or_default())
}

/// `seed`: OpenAI's is a signed integer; the receipt shows the same 64 bits unsigned.
fn seed(fields: &mut Fields) -> Result<u64, Failure> {
    match fields.take::<Value>("seed")? {
        // 32 random bits, so that every JSON reader can repeat the seed that a receipt shows.
        None => Ok(u64::from(rand::random::<u32>())),
        Some(value) => value
            .as_u64()
            .or_else(|| value.as_i64().map(i64::cast_unsigned))
            .ok_or_else(|| Failure::invalid("seed", "seed is not an integer of 64 bits")),
    }
}

/// `max_tokens` and, in chats, its newer name.
pub(super) fn max_tokens(fields: &mut Fields, newer: Option<&'static str>) -> Result<u32, Failure> {
    let limit = |fields: &mut Fields, name| -> Result<Option<u32>, Failure> {
        match fields.take::<u64>(name)? {
            Some(count) if (1..=u64::from(MAX_TOKENS)).contains(&count) => Ok(Some(count as u32)),
            Some(count) => Err(Failure::invalid(name, format!("{name} is {count}, allowed is 1 to {MAX_TOKENS}"))),
            None => Ok(None),
        }
    };
    let older = limit(fields, "max_tokens")?;
    let newer_value = match newer {
        Some(newer) => limit(fields, newer)?,
        None => None,
    };
    match (older, newer_value, newer) {
        (Some(older), Some(newer), Some(name)) if older != newer => {
            Err(Failure::invalid(name, format!("max_tokens is {older} and {name} is {newer}: send one of them")))
        }
        (older, newer, _) => Ok(newer.or(older).unwrap_or(DEFAULT_MAX_TOKENS)),
    }
}

/// Puts a request together and refuses what breaks a rule. `input_name` is the parameter that holds the text.
pub(super) fn spec(
    generation: &Generation,
    input: Input,
    input_name: &'static str,
    max_tokens: u32,
    top_logprobs: Option<u8>,
) -> Result<JobSpec, Failure> {
    let spec = JobSpec {
        model: generation.model.clone(),
        weights: generation.wishes.weights,
        input,
        sampling: generation.sampling.clone(),
        max_tokens,
        stop: generation.stop.clone(),
        top_logprobs,
        prefix: Vec::new(),
    };
    spec.validate().map_err(|error| Failure::spec(&error, input_name, "max_tokens"))?;
    Ok(spec)
}
