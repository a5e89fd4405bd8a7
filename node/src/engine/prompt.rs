//! From requests to tokens: the model's own chat template, and a wall between what the template says and what people say.
//!
//! llama.cpp renders a template to one text, and a text is searched for the names of control tokens when it is
//! tokenized. So where a message holds such a name, template and messages are tokenized apart, and only the template's
//! parts may become control tokens. All other chats are tokenized as one text, as the model was trained to see them.

use super::{frames::JobFailure, stops::Text};
use aitbc_protocol::{
    bytes::Digest,
    job::{Input, JobSpec, Message, Role},
};
use llama_cpp_2::{
    model::{LlamaChatMessage, LlamaChatTemplate, LlamaModel},
    token::LlamaToken,
    token_type::LlamaTokenAttr,
};

/// What a job consists of, in the model's terms.
#[derive(Debug)]
pub(super) enum Prepared {
    /// Text to be continued.
    Answer {
        /// The prompt, then the prefix.
        tokens: Vec<LlamaToken>,
        /// Continues the text of the prefix.
        text: Text,
        /// Tokens of the prefix.
        prefix: u32,
        /// The prefix already ends with a stop sequence.
        stopped: bool,
    },
    /// Texts to be turned into vectors.
    Embeddings(Vec<Vec<LlamaToken>>),
}

/// Turns requests into tokens of one model.
#[derive(Debug)]
pub(super) struct Prompter {
    model: &'static LlamaModel,
    template: Option<LlamaChatTemplate>,
    /// Texts of the tokens that only a template may use.
    control: Vec<String>,
    bos: Option<String>,
    /// No token stands for more bytes.
    longest: usize,
    context: u32,
}

impl Prompter {
    /// For `model`, whose sequences hold `context` tokens.
    pub(super) fn new(model: &'static LlamaModel, context: u32) -> Self {
        let vocab = model.vocab();
        let text = |token| vocab.text(token).map(|text| text.to_string_lossy().into_owned());
        let mut control = Vec::new();
        let mut longest = 1;
        for token in vocab.tokens() {
            let Some(text) = text(token) else { continue };
            longest = longest.max(text.len());
            let attributes = vocab.attr(token);
            if (attributes.contains(LlamaTokenAttr::Control) || attributes.contains(LlamaTokenAttr::Unknown))
                && !text.is_empty()
            {
                control.push(text);
            }
        }
        let bos = (vocab.bos().0 >= 0).then(|| text(vocab.bos())).flatten().filter(|text| !text.is_empty());
        Self { model, template: model.chat_template(None).ok(), control, bos, longest, context }
    }

    /// Prompt tokens of a request, without the prefix.
    pub(super) fn count(&self, spec: &JobSpec) -> Result<u32, JobFailure> {
        let tokens = match &spec.input {
            Input::Embed(texts) => {
                self.check_size(&spec.input)?;
                texts.iter().map(|text| self.plain(text).len()).sum()
            }
            Input::Chat(_) | Input::Text(_) | Input::Sealed(_) => self.prompt(&spec.input)?.len(),
        };
        u32::try_from(tokens).map_err(|_| self.too_long(usize::MAX))
    }

    /// Everything a job needs before it gets a sequence.
    pub(super) fn prepare(&self, spec: JobSpec) -> Result<Prepared, JobFailure> {
        if let Input::Embed(texts) = &spec.input {
            self.check_size(&spec.input)?;
            return Ok(Prepared::Embeddings(texts.iter().map(|text| self.plain(text)).collect()));
        }
        let mut tokens = self.prompt(&spec.input)?;
        if tokens.is_empty() {
            return Err(JobFailure::Failed("the prompt has no tokens".to_owned()));
        }
        let vocabulary = self.model.n_vocab();
        let mut text = Text::new(spec.stop);
        let mut stopped = false;
        for &id in &spec.prefix {
            let token =
                i32::try_from(id).ok().filter(|&id| id < vocabulary).map(LlamaToken::new).ok_or_else(|| {
                    JobFailure::Failed(format!("the prefix holds token {id}, the model has {vocabulary}"))
                })?;
            tokens.push(token);
            // Its text was shown by whoever generated it.
            stopped |= text.push(&self.model.vocab().token_to_piece(token, false, None)).stopped;
        }
        // One more, or there is nothing to generate.
        if tokens.len() >= self.context as usize {
            return Err(self.too_long(tokens.len() + 1));
        }
        let prefix = u32::try_from(spec.prefix.len()).unwrap_or(u32::MAX);
        Ok(Prepared::Answer { tokens, text, prefix, stopped })
    }

    fn prompt(&self, input: &Input) -> Result<Vec<LlamaToken>, JobFailure> {
        self.check_size(input)?;
        match input {
            Input::Text(text) => Ok(self.plain(text)),
            Input::Chat(messages) => self.chat(messages),
            Input::Embed(_) | Input::Sealed(_) => {
                Err(JobFailure::Failed("texts to embed and encrypted values are no prompt".to_owned()))
            }
        }
    }

    /// Tokens of a text from outside: never control tokens.
    fn plain(&self, text: &str) -> Vec<LlamaToken> {
        self.model.vocab().tokenize(text.as_bytes(), true, false)
    }

    fn chat(&self, messages: &[Message]) -> Result<Vec<LlamaToken>, JobFailure> {
        if !messages.iter().any(|message| self.names_control(&message.content)) {
            let text = self.render(messages.iter().map(|message| (message.role, message.content.clone())))?;
            return Ok(self.template_tokens(&text, true));
        }
        // The digest of all messages cannot occur in any of them.
        let mark =
            Digest::of(messages.iter().map(|m| m.content.as_str()).collect::<String>().as_bytes()).to_string();
        let text = self.render(messages.iter().map(|message| (message.role, mark.clone())))?;
        let mut parts = text.split(mark.as_str());
        let mut tokens = self.template_tokens(parts.next().unwrap_or_default(), true);
        let mut filled = 0;
        for (part, message) in parts.by_ref().zip(messages) {
            self.model.vocab().tokenize_into(message.content.as_bytes(), &mut tokens, false, false);
            tokens.extend(self.template_tokens(part, false));
            filled += 1;
        }
        if filled != messages.len() || parts.next().is_some() {
            return Err(JobFailure::Unsupported(
                "a message that names control tokens, in a chat template that does not show each message once"
                    .into(),
            ));
        }
        Ok(tokens)
    }

    fn names_control(&self, text: &str) -> bool {
        self.control.iter().any(|control| text.contains(control.as_str()))
    }

    fn template_tokens(&self, text: &str, first: bool) -> Vec<LlamaToken> {
        // Some templates spell out the token that begins a text, which the tokenizer would add once more.
        let add = first && !self.bos.as_ref().is_some_and(|bos| text.starts_with(bos.as_str()));
        self.model.vocab().tokenize(text.as_bytes(), add, true)
    }

    fn render(&self, messages: impl Iterator<Item = (Role, String)>) -> Result<String, JobFailure> {
        let role = |role| match role {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        };
        let messages = messages
            .map(|(speaker, content)| LlamaChatMessage::new(role(speaker).to_owned(), content))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| JobFailure::Unsupported("messages with NUL characters".to_owned()))?;
        if let Some(template) = &self.template
            && let Ok(text) = self.model.apply_chat_template(template, &messages, true)
        {
            return Ok(text);
        }
        // No template, or one that llama.cpp does not know: what most chat models understand.
        LlamaChatTemplate::new("chatml")
            .ok()
            .and_then(|template| self.model.apply_chat_template(&template, &messages, true).ok())
            .ok_or_else(|| JobFailure::Failed("the chat template could not be applied".to_owned()))
    }

    /// Refuses texts that cannot fit before they are tokenized.
    fn check_size(&self, input: &Input) -> Result<(), JobFailure> {
        let (bytes, sequences) = match input {
            Input::Embed(texts) => (input.text_bytes(), texts.len().max(1)),
            Input::Chat(_) | Input::Text(_) | Input::Sealed(_) => (input.text_bytes(), 1),
        };
        let least = bytes / self.longest;
        if least > (self.context as usize).saturating_mul(sequences) { Err(self.too_long(least)) } else { Ok(()) }
    }

    fn too_long(&self, needed: usize) -> JobFailure {
        JobFailure::ContextTooSmall { needed: u32::try_from(needed).unwrap_or(u32::MAX), context: self.context }
    }
}
