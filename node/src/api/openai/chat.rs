//! `POST /v1/chat/completions`: reading the request.

use super::{
    Ask, Form,
    request::{self, Fields, empty, never, no},
};
use crate::{api::error::Failure, routing::JobRequest};
use aitbc_protocol::job::{Input, MAX_MESSAGES, Message, Role};
use serde_json::Value;

/// Reads a request.
pub(super) fn parse(body: &[u8]) -> Result<Ask, Failure> {
    let mut fields = Fields::parse(body)?;
    let generation = request::generation(&mut fields)?;
    let messages = messages(fields.require("messages")?)?;
    let max_tokens = request::max_tokens(&mut fields, Some("max_completion_tokens"))?;
    let logprobs = fields.take("logprobs")?.unwrap_or(false);
    let top_logprobs: Option<u8> = fields.take("top_logprobs")?;
    if top_logprobs.is_some() && !logprobs {
        return Err(Failure::invalid("top_logprobs", "top_logprobs is allowed with logprobs: true only"));
    }
    // Says how tools may be called, and there are none.
    fields.accept(&["parallel_tool_calls"]);
    fields.refuse(&[
        ("tools", empty),
        ("tool_choice", |value| matches!(value.as_str(), Some("none" | "auto"))),
        ("functions", empty),
        ("function_call", |value| matches!(value.as_str(), Some("none" | "auto"))),
        ("response_format", |value| value.get("type").and_then(Value::as_str) == Some("text")),
        ("modalities", |value| value.as_array().is_some_and(|all| all.iter().all(|one| one == "text"))),
        ("store", no),
        ("audio", never),
        ("prediction", never),
        ("reasoning_effort", never),
        ("verbosity", never),
        ("web_search_options", never),
    ])?;
    fields.finish()?;
    let top_logprobs = logprobs.then_some(top_logprobs.unwrap_or(0));
    let spec = request::spec(&generation, Input::Chat(messages), "messages", max_tokens, top_logprobs)?;
    let request = JobRequest { spec, wishes: generation.wishes };
    Ok(Ask { request, form: Form::Chat, streaming: generation.streaming })
}

fn messages(values: Vec<Value>) -> Result<Vec<Message>, Failure> {
    if values.is_empty() || values.len() > MAX_MESSAGES {
        let message = format!("messages has {} entries, allowed are 1 to {MAX_MESSAGES}", values.len());
        return Err(Failure::invalid("messages", message));
    }
    values.into_iter().enumerate().map(|(index, value)| message(value, &format!("messages[{index}]"))).collect()
}

fn message(value: Value, path: &str) -> Result<Message, Failure> {
    let mut fields = Fields::of(value, path.to_owned())?;
    let role: String = fields.require("role")?;
    let role = match role.as_str() {
        "system" | "developer" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "tool" | "function" => {
            let message = format!("{path}: tools are not supported, so a message cannot have the role {role}");
            return Err(Failure::unsupported(fields.name("role"), message));
        }
        _ => {
            let message = format!("{path}.role is none of system, developer, user, assistant");
            return Err(Failure::invalid(fields.name("role"), message));
        }
    };
    let content = content(fields.require("content")?, &fields.name("content"))?;
    // What a client finds in an answer and sends back as it came.
    fields.refuse(&[
        ("name", never),
        ("refusal", empty),
        ("annotations", empty),
        ("tool_calls", empty),
        ("tool_call_id", never),
        ("function_call", never),
        ("audio", never),
    ])?;
    fields.finish()?;
    Ok(Message { role, content })
}

/// A text, or parts that are all texts, joined by line ends.
fn content(value: Value, path: &str) -> Result<String, Failure> {
    let parts = match value {
        Value::String(text) => return Ok(text),
        Value::Array(parts) if !parts.is_empty() => parts,
        _ => return Err(Failure::invalid(path, format!("{path} is neither a string nor a list of text parts"))),
    };
    let part = |(index, part): (usize, Value)| {
        let mut fields = Fields::of(part, format!("{path}[{index}]"))?;
        let kind: String = fields.require("type")?;
        if kind != "text" {
            let message = format!("{path}[{index}]: only parts of type text are supported");
            return Err(Failure::unsupported(fields.name("type"), message));
        }
        let text: String = fields.require("text")?;
        fields.finish()?;
        Ok(text)
    };
    let texts: Vec<String> = parts.into_iter().enumerate().map(part).collect::<Result<_, _>>()?;
    Ok(texts.join("\n"))
}
