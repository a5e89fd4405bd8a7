//! What came of an answer, checked piece by piece, and what a receipt is held against.

use aitbc_protocol::{
    Digest,
    bytes::BoundedBytes,
    checks::Seen,
    job::{Chunk, Input, JobSpec},
    quote::Quote,
    receipt::OutputDigest,
    sealed::{MAX_SEALED_OUTPUT, Sealed, SealedWork},
};
use sha2::{Digest as _, Sha256};

/// A chunk that breaks the protocol: the provider gets no more money for this job.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ChunkFault {
    #[error("it numbered a chunk {got} where {expected} was next")]
    Numbering { expected: u32, got: u32 },
    #[error("it counted {count} tokens and sent {ids}")]
    Count { count: u32, ids: usize },
    #[error("it sent more than the {0} tokens quoted")]
    Overcount(u32),
    #[error("it sent more than {0} tokens without a cheque")]
    Window(u32),
    #[error("it sent what was not asked for: {0}")]
    Unasked(&'static str),
    #[error("it sent more after the end of the answer")]
    AfterEnd,
    #[error("it sent a chunk with nothing in it")]
    Empty,
    #[error("it sent an answer after {got} of {expected} bootstraps")]
    Early { expected: u32, got: u32 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tokens,
    /// The engine tells no token ids.
    Text,
    Vectors {
        inputs: usize,
    },
    /// The encrypted answer of a private job, after its bootstraps.
    Sealed,
}

/// What was received in one attempt. Memory: the token ids, at most as many as quoted, and the vectors of an
/// embedding job; text is only hashed. An encrypted answer is kept as it came, and means nothing here.
#[derive(Debug)]
pub(super) struct Received {
    kind: Kind,
    logprobs: bool,
    most: u32,
    window: u32,
    count: u32,
    /// Chunks taken.
    chunks: u32,
    tokens: Vec<u32>,
    vectors: Vec<Vec<f32>>,
    sealed: Option<BoundedBytes<MAX_SEALED_OUTPUT>>,
    /// What a private job asks for.
    work: Option<SealedWork>,
    hasher: Sha256,
    /// Text of a chunk without tokens: what was held back for a stop sequence that did not come. It is the end of the
    /// answer, and no part of it before a receipt says so: the next provider would say it again.
    tail: String,
    ended: bool,
}

impl Received {
    pub(super) fn new(quote: &Quote, spec: &JobSpec) -> Self {
        let kind = match &spec.input {
            Input::Embed(texts) => Kind::Vectors { inputs: texts.len() },
            Input::Sealed(_) => Kind::Sealed,
            _ if quote.declared => Kind::Text,
            _ => Kind::Tokens,
        };
        Self {
            kind,
            logprobs: spec.top_logprobs.is_some(),
            most: quote.max_completion_tokens,
            window: quote.window,
            count: 0,
            chunks: 0,
            tokens: Vec::new(),
            vectors: Vec::new(),
            sealed: None,
            work: spec.input.sealed().map(Sealed::work),
            hasher: Sha256::new(),
            tail: String::new(),
            ended: false,
        }
    }

    /// Takes one chunk. `acknowledged` tokens were paid or are being paid. What is refused leaves no trace.
    pub(super) fn take(&mut self, chunk: &Chunk, acknowledged: u32) -> Result<(), ChunkFault> {
        if self.ended {
            return Err(ChunkFault::AfterEnd);
        }
        if chunk.first != self.count {
            return Err(ChunkFault::Numbering { expected: self.count, got: chunk.first });
        }
        let ids = chunk.tokens.len();
        let counted = match self.kind {
            Kind::Tokens => ids == chunk.count as usize,
            Kind::Text | Kind::Sealed => ids == 0,
            Kind::Vectors { .. } => ids == 0 && chunk.count == 0,
        };
        if !counted {
            return Err(ChunkFault::Count { count: chunk.count, ids });
        }
        let count = self.count.checked_add(chunk.count).filter(|count| *count <= self.most);
        let count = count.ok_or(ChunkFault::Overcount(self.most))?;
        if count.saturating_sub(acknowledged) > self.window {
            return Err(ChunkFault::Window(self.window));
        }
        if !chunk.sealed.is_empty() && self.kind != Kind::Sealed {
            return Err(ChunkFault::Unasked("an encrypted answer"));
        }
        match self.kind {
            Kind::Sealed => {
                if !(chunk.text.is_empty() && chunk.logprobs.is_empty() && chunk.embeddings.is_empty()) {
                    return Err(ChunkFault::Unasked("what can be read"));
                }
                if chunk.count == 0 && chunk.sealed.is_empty() {
                    return Err(ChunkFault::Empty);
                }
                if !chunk.sealed.is_empty() && count != self.most {
                    return Err(ChunkFault::Early { expected: self.most, got: count });
                }
            }
            Kind::Vectors { inputs } => {
                if !chunk.text.is_empty() || !chunk.logprobs.is_empty() {
                    return Err(ChunkFault::Unasked("text beside vectors"));
                }
                if chunk.embeddings.is_empty() {
                    return Err(ChunkFault::Empty);
                }
                if self.vectors.len() + chunk.embeddings.len() > inputs {
                    return Err(ChunkFault::Unasked("more vectors than inputs"));
                }
            }
            Kind::Tokens | Kind::Text => {
                if !chunk.embeddings.is_empty() {
                    return Err(ChunkFault::Unasked("vectors"));
                }
                let most = if self.logprobs { chunk.count as usize } else { 0 };
                if chunk.logprobs.len() > most {
                    return Err(ChunkFault::Unasked("log probabilities"));
                }
            }
        }
        self.record(chunk, count);
        Ok(())
    }

    fn record(&mut self, chunk: &Chunk, count: u32) {
        self.chunks += 1;
        self.count = count;
        match self.kind {
            Kind::Tokens => {
                chunk.tokens.iter().for_each(|token| self.hasher.update(token.to_le_bytes()));
                self.tokens.extend(&chunk.tokens);
            }
            Kind::Text => self.hasher.update(&chunk.text),
            Kind::Sealed if chunk.sealed.is_empty() => {}
            Kind::Sealed => {
                self.hasher.update(chunk.sealed.as_slice());
                self.sealed = Some(chunk.sealed.clone());
                self.ended = true;
            }
            Kind::Vectors { .. } => {
                chunk.embeddings.iter().flatten().for_each(|number| self.hasher.update(number.to_le_bytes()));
                self.vectors.extend(chunk.embeddings.iter().cloned());
            }
        }
        if chunk.count == 0 && matches!(self.kind, Kind::Tokens | Kind::Text) {
            self.tail.push_str(&chunk.text);
            self.ended = true;
        }
    }

    /// Tokens received.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Chunks received: the number of the first one that is missing.
    pub(super) fn chunks(&self) -> u32 {
        self.chunks
    }

    /// Whether the answer can go on elsewhere: every token is known by its id.
    pub(super) fn has_ids(&self) -> bool {
        !matches!(self.kind, Kind::Text | Kind::Sealed)
    }

    /// What the receipt must bind, where it says that the answer ended `well` or not.
    pub(super) fn seen(&self, well: bool) -> Seen {
        let digest = Digest(self.hasher.clone().finalize().into());
        let output = match self.kind {
            Kind::Tokens => OutputDigest::Tokens(digest),
            Kind::Text => OutputDigest::Text(digest),
            // An answer that is not whole must not pass for one: no receipt of it has this digest.
            Kind::Vectors { .. } | Kind::Sealed if well && self.missing().is_some() => OutputDigest::Lost,
            Kind::Vectors { .. } => OutputDigest::Vectors(digest),
            Kind::Sealed => OutputDigest::Sealed(digest),
        };
        Seen { tokens: self.count, output, sealed: self.work.clone() }
    }

    /// Text that belongs to the answer once it ended well.
    pub(super) fn take_tail(&mut self) -> String {
        std::mem::take(&mut self.tail)
    }

    /// What a whole answer would have and this one has not: a vector for each input.
    pub(super) fn missing(&self) -> Option<String> {
        match self.kind {
            Kind::Vectors { inputs } if self.vectors.len() != inputs => {
                Some(format!("{} vectors came for {inputs} inputs", self.vectors.len()))
            }
            Kind::Sealed if self.sealed.is_none() => Some("no answer came".to_owned()),
            _ => None,
        }
    }

    /// The encrypted answer; `None` where this is no private job.
    pub(super) fn take_sealed(&mut self) -> Option<BoundedBytes<MAX_SEALED_OUTPUT>> {
        self.sealed.take()
    }

    /// The vectors; `None` where this is no embedding job.
    pub(super) fn take_vectors(&mut self) -> Option<Vec<Vec<f32>>> {
        matches!(self.kind, Kind::Vectors { .. }).then(|| std::mem::take(&mut self.vectors))
    }

    /// The token ids.
    pub(super) fn into_tokens(self) -> Vec<u32> {
        self.tokens
    }
}

#[cfg(test)]
mod tests;
