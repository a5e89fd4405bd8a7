//! What a client holds a receipt against: the quote, the terms, and what it saw of the answer.

use crate::{
    job::Finish,
    money::MicroCredits,
    quote::Quote,
    receipt::{OutputDigest, Receipt},
    sealed::SealedWork,
    sla::verdict,
    text::Line,
};
use serde::{Deserialize, Serialize};

/// What a client saw of a job, to hold a receipt against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Tokens received in this attempt.
    pub tokens: u32,
    /// Digest of what was received.
    pub output: OutputDigest,
    /// What was asked to be computed under which key, in a private job.
    pub sealed: Option<SealedWork>,
}

/// One thing a client checks on a receipt, with its outcome; `None` where it could not be checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was checked, in a few words.
    pub name: Line<48>,
    /// Whether it holds.
    pub passed: Option<bool>,
    /// What was compared, for people.
    pub detail: Line<160>,
}

impl Check {
    /// A check with its outcome.
    pub fn of(name: &str, passed: Option<bool>, detail: impl AsRef<str>) -> Self {
        Self { name: Line::lossy(name), passed, detail: Line::lossy(detail.as_ref()) }
    }
}

impl Receipt {
    /// Every check that binds this receipt to its quote and to what the client saw. Signatures are checked by the
    /// caller. `seen` is `None` offline, where the answer is not at hand.
    pub fn check(&self, quote: &Quote, seen: Option<&Seen>) -> Vec<Check> {
        let total = quote.total_of(self.prompt_tokens, self.completion_tokens);
        // Whoever failed before the first token may leave the prompt unbilled; after a restart it must, because
        // nothing was paid.
        let waived =
            self.finish == Finish::Failed && self.completion_tokens == 0 && self.total == MicroCredits::ZERO;
        let mut checks = vec![
            Check::of("client", Some(self.client == quote.client), format!("made out to {}", self.client.short())),
            Check::of(
                "quote",
                Some(self.quote == quote.nonce && self.job == quote.job),
                format!("nonce {}", self.quote),
            ),
            Check::of("request", Some(self.request == quote.request), format!("digest {}", self.request)),
            Check::of(
                "model",
                Some(
                    self.model == quote.model && self.weights == quote.weights && self.declared == quote.declared,
                ),
                format!("{} with weights {}", self.model, self.weights),
            ),
            Check::of(
                "price",
                Some(
                    self.price == quote.price
                        && (total == Ok(self.total) || waived)
                        && self.total <= quote.max_total,
                ),
                format!("{} of at most {}", self.total, quote.max_total),
            ),
            Check::of(
                "prompt tokens",
                Some(self.prompt_tokens == quote.prompt_tokens),
                format!("{} billed, {} quoted", self.prompt_tokens, quote.prompt_tokens),
            ),
            Check::of(
                "completion tokens",
                if self.completion_tokens > quote.max_completion_tokens {
                    Some(false)
                } else {
                    seen.map(|seen| self.completion_tokens == seen.tokens)
                },
                seen.map_or_else(
                    || format!("{} billed", self.completion_tokens),
                    |seen| format!("{} billed, {} received", self.completion_tokens, seen.tokens),
                ),
            ),
            Check::of(
                "output",
                match self.output {
                    OutputDigest::Lost => (self.finish != Finish::Failed).then_some(false),
                    output => seen.map(|seen| output == seen.output),
                },
                match self.output {
                    OutputDigest::Lost => "not known after a restart of the provider".to_owned(),
                    OutputDigest::Tokens(digest) => format!("token ids {digest}"),
                    OutputDigest::Text(digest) => format!("text {digest}"),
                    OutputDigest::Vectors(digest) => format!("vectors {digest}"),
                    OutputDigest::Sealed(digest) => format!("encrypted answer {digest}"),
                },
            ),
        ];
        let verdict = verdict(quote, self);
        checks.push(Check::of(
            "service",
            Some(self.penalty == verdict.penalty),
            if self.penalty == verdict.penalty {
                verdict.to_string()
            } else {
                format!("{verdict}, the receipt gives {}", self.penalty)
            },
        ));
        checks.extend(self.check_sealed(seen));
        checks
    }

    /// What a private job adds: the key and the input that the answer is for. Offline the request's digest binds them.
    fn check_sealed(&self, seen: Option<&Seen>) -> Option<Check> {
        let is_private = matches!(self.output, OutputDigest::Sealed(_));
        let asked = seen.and_then(|seen| seen.sealed.as_ref());
        if !is_private && self.sealed.is_none() && asked.is_none() {
            return None;
        }
        let matches = self.sealed.is_some() && (is_private || self.output == OutputDigest::Lost);
        let passed = match (matches, seen) {
            (false, _) => Some(false),
            (true, Some(seen)) => Some(self.sealed == seen.sealed),
            (true, None) => None,
        };
        let detail = match &self.sealed {
            Some(SealedWork { profile, evaluation_key: Some(key), input }) => {
                format!("input {input} under {profile} key {}", &key.to_string()[..16])
            }
            Some(SealedWork { profile, input, .. }) => format!("input {input}, {profile}"),
            None => "the receipt names no key and no input".to_owned(),
        };
        Some(Check::of("encrypted input", passed, detail))
    }
}
