//! The documents of OpenAI's API that carry an answer: whole ones and chunks.

use super::answer::{Account, Answer, FinishReason, Usage};
use aitbc_protocol::{
    JobId,
    job::{Logprobs, ModelName, TokenLogprob},
};
use serde::{Serialize, Serializer, ser::SerializeMap};
use std::fmt::Write;

/// The least log probability told: JSON has no infinity, and OpenAI's API says -9999 for "very unlikely".
const LEAST_LOGPROB: f32 = -9999.0;

/// Which of OpenAI's two endpoints is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completion,
}

/// What all documents of one answer repeat.
#[derive(Clone, Debug)]
pub(super) struct Head {
    /// Which endpoint.
    pub(super) form: Form,
    /// The job, of which the id is made.
    pub(super) job: JobId,
    /// The model as it was asked for.
    pub(super) model: ModelName,
    /// When, in seconds since 1970.
    pub(super) created: u64,
}

#[derive(Serialize)]
struct Document<'a> {
    id: String,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<Choice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aitbc: Option<&'a Account>,
}

#[derive(Serialize)]
struct Choice {
    index: u32,
    #[serde(flatten)]
    body: Content,
    finish_reason: Option<FinishReason>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Content {
    Message { message: Message, logprobs: Option<ChatLogprobs> },
    Delta { delta: Delta, logprobs: Option<ChatLogprobs> },
    Text { text: String, logprobs: Option<TextLogprobs> },
}

#[derive(Serialize)]
struct Message {
    role: &'static str,
    content: String,
    refusal: Option<String>,
}

#[derive(Default, Serialize)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}

#[derive(Serialize)]
struct ChatLogprobs {
    content: Vec<ChatToken>,
    refusal: Option<String>,
}

#[derive(Serialize)]
struct ChatToken {
    #[serde(flatten)]
    chosen: Alternative,
    top_logprobs: Vec<Alternative>,
}

#[derive(Serialize)]
struct Alternative {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

#[derive(Serialize)]
struct TextLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<f32>,
    top_logprobs: Vec<Likeliest>,
    text_offset: Vec<usize>,
}

/// A map from token to log probability, likeliest first; tokens that read alike appear once.
struct Likeliest(Vec<(String, f32)>);

impl Serialize for Likeliest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (token, logprob) in &self.0 {
            map.serialize_entry(token, logprob)?;
        }
        map.end()
    }
}

impl From<&TokenLogprob> for Alternative {
    fn from(entry: &TokenLogprob) -> Self {
        Self { token: token_text(&entry.bytes), logprob: finite(entry.logprob), bytes: entry.bytes.clone() }
    }
}

fn finite(logprob: f32) -> f32 {
    if logprob.is_nan() { LEAST_LOGPROB } else { logprob.clamp(LEAST_LOGPROB, 0.0) }
}

/// A token as text; one that holds part of a character as `bytes:\xe2\x98`, as OpenAI's API writes it.
fn token_text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().fold("bytes:".to_owned(), |mut text, byte| {
            let _ = write!(text, "\\x{byte:02x}");
            text
        }),
    }
}

impl ChatLogprobs {
    fn of(entries: &[Logprobs]) -> Option<Self> {
        let token = |entry: &Logprobs| ChatToken {
            chosen: (&entry.chosen).into(),
            top_logprobs: entry.top.iter().map(Alternative::from).collect(),
        };
        (!entries.is_empty()).then(|| Self { content: entries.iter().map(token).collect(), refusal: None })
    }
}

impl TextLogprobs {
    /// `offset` counts the characters before, and is moved on.
    fn of(entries: &[Logprobs], offset: &mut usize) -> Option<Self> {
        if entries.is_empty() {
            return None;
        }
        let mut all = Self { tokens: vec![], token_logprobs: vec![], top_logprobs: vec![], text_offset: vec![] };
        for entry in entries {
            let token = token_text(&entry.chosen.bytes);
            let logprob = finite(entry.chosen.logprob);
            let mut likeliest: Vec<(String, f32)> = Vec::with_capacity(entry.top.len() + 1);
            for (token, logprob) in entry
                .top
                .iter()
                .map(|top| (token_text(&top.bytes), finite(top.logprob)))
                .chain([(token.clone(), logprob)])
            {
                if likeliest.iter().all(|(known, _)| *known != token) {
                    likeliest.push((token, logprob));
                }
            }
            all.tokens.push(token);
            all.token_logprobs.push(logprob);
            all.top_logprobs.push(Likeliest(likeliest));
            all.text_offset.push(*offset);
            // Characters begin at bytes that are not continuations (RFC 3629).
            *offset += entry.chosen.bytes.iter().filter(|byte| *byte & 0b1100_0000 != 0b1000_0000).count();
        }
        Some(all)
    }
}

impl Head {
    fn document<'a>(
        &'a self,
        chunk: bool,
        choices: Vec<Choice>,
        usage: Option<Option<Usage>>,
        aitbc: Option<&'a Account>,
    ) -> Vec<u8> {
        let (prefix, object) = match (self.form, chunk) {
            (Form::Chat, false) => ("chatcmpl", "chat.completion"),
            (Form::Chat, true) => ("chatcmpl", "chat.completion.chunk"),
            (Form::Completion, _) => ("cmpl", "text_completion"),
        };
        let document = Document {
            id: format!("{prefix}-{}", self.job),
            object,
            created: self.created,
            model: self.model.as_str(),
            choices,
            usage,
            aitbc,
        };
        serde_json::to_vec(&document).expect("texts and finite numbers become JSON")
    }

    /// A whole answer.
    pub(super) fn whole(&self, answer: Answer) -> Vec<u8> {
        let Answer { text, logprobs, finish, usage, account, .. } = answer;
        let body = match self.form {
            Form::Chat => Content::Message {
                message: Message { role: "assistant", content: text, refusal: None },
                logprobs: ChatLogprobs::of(&logprobs),
            },
            Form::Completion => Content::Text { text, logprobs: TextLogprobs::of(&logprobs, &mut 0) },
        };
        let choice = Choice { index: 0, body, finish_reason: Some(finish) };
        self.document(false, vec![choice], Some(Some(usage)), Some(&account))
    }
}

/// Writes the chunks of one streamed answer.
#[derive(Debug)]
pub(super) struct Chunks {
    head: Head,
    include_usage: bool,
    offset: usize,
}

impl Chunks {
    /// Chunks of the answer with `head`.
    pub(super) fn new(head: Head, include_usage: bool) -> Self {
        Self { head, include_usage, offset: 0 }
    }

    fn chunk(&self, body: Content, finish_reason: Option<FinishReason>, aitbc: Option<&Account>) -> Vec<u8> {
        let choice = Choice { index: 0, body, finish_reason };
        // Where usage is asked for, all chunks but the last say `null`.
        self.head.document(true, vec![choice], self.include_usage.then_some(None), aitbc)
    }

    /// The first chunk of a chat, which says who speaks; completions have none.
    pub(super) fn opening(&self) -> Option<Vec<u8>> {
        let delta = Delta { role: Some("assistant"), content: Some(String::new()) };
        match self.head.form {
            Form::Chat => Some(self.chunk(Content::Delta { delta, logprobs: None }, None, None)),
            Form::Completion => None,
        }
    }

    /// A piece of text; none for a piece without anything in it.
    pub(super) fn piece(&mut self, text: String, logprobs: &[Logprobs]) -> Option<Vec<u8>> {
        if text.is_empty() && logprobs.is_empty() {
            return None;
        }
        let body = match self.head.form {
            Form::Chat => Content::Delta {
                delta: Delta { role: None, content: Some(text) },
                logprobs: ChatLogprobs::of(logprobs),
            },
            Form::Completion => Content::Text { text, logprobs: TextLogprobs::of(logprobs, &mut self.offset) },
        };
        Some(self.chunk(body, None, None))
    }

    /// The last chunks: the reason of the end, and the usage where it is asked for. The very last one carries the
    /// account.
    pub(super) fn closing(&self, finish: FinishReason, usage: Usage, account: &Account) -> Vec<Vec<u8>> {
        let body = match self.head.form {
            Form::Chat => Content::Delta { delta: Delta::default(), logprobs: None },
            Form::Completion => Content::Text { text: String::new(), logprobs: None },
        };
        if self.include_usage {
            vec![
                self.chunk(body, Some(finish), None),
                self.head.document(true, Vec::new(), Some(Some(usage)), Some(account)),
            ]
        } else {
            vec![self.chunk(body, Some(finish), Some(account))]
        }
    }
}
