//! What a provider keeps of an answer, so that a client that lost its path can come back by another one.
//!
//! Chunks are numbered from zero in the order in which they first go out. From then on a chunk never changes and is
//! kept until the client has acknowledged its tokens; a chunk without tokens (held-back text, vectors) is kept to the
//! end of the job, for nothing acknowledges it before. A client that comes back names the first chunk that it misses.

use crate::{
    bytes::BoundedBytes,
    job::{Chunk, Logprobs, MAX_EMBEDDING_INPUTS, Rejection, WINDOW_TOKENS},
    sealed::MAX_SEALED_OUTPUT,
    text::Line,
};
use std::collections::VecDeque;

/// Most bytes of chunks kept of one job; a generation that would exceed it waits for an acknowledgement. Vectors come
/// all at once and are kept whole: what bounds them is the engine.
pub const MAX_KEPT_BYTES: usize = 1024 * 1024;
/// How long a provider waits for a client whose stream broke, in milliseconds.
pub const KEPT_MS: u64 = 60_000;

/// Text after which a chunk takes no more: pieces of an upstream server can be long, and a frame has its limit.
const CHUNK_TEXT_BYTES: usize = 64 * 1024;
/// Numbers after which a chunk takes no more vectors: half a frame, at five bytes a number.
const CHUNK_NUMBERS: usize = 100_000;
/// What a chunk costs beside what is in it.
const CHUNK_BYTES: usize = size_of::<Chunk>();

/// One generated token.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// Its id; `None` where an upstream engine tells only text.
    pub id: Option<u32>,
    /// Text that became certain with it.
    pub text: String,
    /// If asked for.
    pub logprobs: Option<Logprobs>,
}

impl Token {
    /// Bytes of memory it takes in a chunk.
    fn bytes(&self) -> usize {
        let logprobs = self.logprobs.iter().flat_map(|all| all.top.iter().chain([&all.chosen]));
        let logprobs = logprobs.map(|one| size_of_val(one) + one.bytes.len()).sum::<usize>();
        size_of::<u32>() + self.text.len() + logprobs
    }
}

/// Why a client cannot go on where it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResumeFault {
    /// Another attempt with this number or a higher one came before.
    #[error("attempt {newest} came before")]
    Stale {
        /// The newest attempt.
        newest: u32,
    },
    /// The chunk was acknowledged and is not kept any more.
    #[error("chunks before {first} were acknowledged")]
    Acknowledged {
        /// The first chunk kept.
        first: u32,
    },
    /// The chunk has not gone out yet.
    #[error("only {sent} chunks were sent")]
    Unsent {
        /// Chunks that have gone out.
        sent: u32,
    },
}

impl From<ResumeFault> for Rejection {
    fn from(fault: ResumeFault) -> Self {
        match fault {
            ResumeFault::Stale { newest } => Self::StaleAttempt { newest },
            ResumeFault::Acknowledged { .. } | ResumeFault::Unsent { .. } => {
                Self::Invalid(Line::lossy(&fault.to_string()))
            }
        }
    }
}

/// The chunks of one answer from the engine to the client's acknowledgement, over as many streams as it takes.
#[derive(Debug, Default)]
pub struct Kept {
    /// With the bytes each of them takes.
    chunks: VecDeque<(Chunk, usize)>,
    /// Number of the oldest chunk kept.
    first: u32,
    /// Number of the chunk that goes out next on the present stream.
    next: u32,
    /// Chunks that have gone out on some stream.
    sent: u32,
    /// Tokens in all chunks so far.
    tokens: u32,
    /// Tokens in those that have gone out.
    delivered: u32,
    bytes: usize,
    /// The newest attempt to resume; the stream that opened the job is attempt 0.
    attempt: u32,
}

impl Kept {
    /// Tokens taken so far.
    pub fn tokens(&self) -> u32 {
        self.tokens
    }

    /// Tokens that have gone out, each counted once.
    pub fn delivered(&self) -> u32 {
        self.delivered
    }

    /// Bytes kept.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The newest attempt.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// True once everything taken has gone out on some stream.
    pub fn is_delivered(&self) -> bool {
        self.sent == self.end()
    }

    /// The number that the next chunk will have.
    fn end(&self) -> u32 {
        self.first + self.chunks.len() as u32
    }

    /// Whether a token can be kept now. One that is larger than all that may be kept goes alone.
    pub fn has_room_for(&self, token: &Token) -> bool {
        self.chunks.is_empty() || self.bytes + CHUNK_BYTES + token.bytes() <= MAX_KEPT_BYTES
    }

    /// Takes a token; tokens that wait together go out together, at most 64 of them.
    pub fn token(&mut self, token: Token) {
        let bytes = token.bytes();
        let joins =
            |chunk: &Chunk| chunk.count > 0 && chunk.count < WINDOW_TOKENS && chunk.text.len() < CHUNK_TEXT_BYTES;
        if self.is_delivered() || !self.chunks.back().is_some_and(|(chunk, _)| joins(chunk)) {
            self.push(empty_chunk(self.tokens), 0);
        }
        let (chunk, size) = self.chunks.back_mut().expect("a chunk was pushed if there was none");
        chunk.count += 1;
        chunk.tokens.extend(token.id);
        chunk.text.push_str(&token.text);
        chunk.logprobs.extend(token.logprobs);
        *size += bytes;
        self.bytes += bytes;
        self.tokens += 1;
    }

    /// Takes text that belongs to no token of its own: what was held back for a stop sequence that did not come. It
    /// goes out by itself: a client that has to continue elsewhere keeps the text of chunks with tokens only, for the
    /// next engine says this part again.
    pub fn text(&mut self, text: &str) {
        if !text.is_empty() {
            self.push(Chunk { text: text.to_owned(), ..empty_chunk(self.tokens) }, text.len());
        }
    }

    /// Takes the vectors of an embedding job.
    pub fn vectors(&mut self, vectors: Vec<Vec<f32>>) {
        let mut numbers = CHUNK_NUMBERS;
        for vector in vectors.into_iter().take(MAX_EMBEDDING_INPUTS) {
            if numbers.saturating_add(vector.len()) > CHUNK_NUMBERS || self.is_delivered() {
                numbers = 0;
                self.push(empty_chunk(self.tokens), 0);
            }
            numbers += vector.len();
            if let Some((chunk, size)) = self.chunks.back_mut() {
                let bytes = size_of_val(vector.as_slice());
                chunk.embeddings.push(vector);
                *size += bytes;
                self.bytes += bytes;
            }
        }
    }

    /// Takes the encrypted answer of a private job: its last chunk.
    pub fn sealed(&mut self, sealed: BoundedBytes<MAX_SEALED_OUTPUT>) {
        let bytes = sealed.len();
        self.push(Chunk { sealed, ..empty_chunk(self.tokens) }, bytes);
    }

    fn push(&mut self, chunk: Chunk, bytes: usize) {
        let bytes = CHUNK_BYTES + bytes;
        self.bytes += bytes;
        self.chunks.push_back((chunk, bytes));
    }

    /// The chunk that goes out next on the present stream, if there is one, and whether it never went out before.
    pub fn next_chunk(&mut self) -> Option<(&Chunk, bool)> {
        let (chunk, _) = self.chunks.get((self.next - self.first) as usize)?;
        let fresh = self.next == self.sent;
        self.next += 1;
        if fresh {
            self.sent = self.next;
            self.delivered += chunk.count;
        }
        Some((chunk, fresh))
    }

    /// The client's application has the first `tokens` tokens: chunks of no others are forgotten.
    pub fn acknowledge(&mut self, tokens: u32) {
        while self.first < self.sent
            && let Some((chunk, bytes)) = self.chunks.front()
            && chunk.count > 0
            && chunk.first + chunk.count <= tokens
        {
            self.bytes -= bytes;
            self.chunks.pop_front();
            self.first += 1;
        }
        self.next = self.next.max(self.first);
    }

    /// The client goes on over a new stream, where chunk `next` is the first. The higher attempt wins.
    pub fn resume(&mut self, attempt: u32, next: u32) -> Result<(), ResumeFault> {
        if attempt <= self.attempt {
            return Err(ResumeFault::Stale { newest: self.attempt });
        }
        if next < self.first {
            return Err(ResumeFault::Acknowledged { first: self.first });
        }
        if next > self.sent {
            return Err(ResumeFault::Unsent { sent: self.sent });
        }
        self.attempt = attempt;
        self.next = next;
        Ok(())
    }

    /// Drops what never went out: the answer ends before it. Returns whether there was anything.
    pub fn discard(&mut self) -> bool {
        let any = !self.is_delivered();
        while !self.is_delivered()
            && let Some((_, bytes)) = self.chunks.pop_back()
        {
            self.bytes -= bytes;
        }
        self.tokens = self.delivered;
        any
    }
}

fn empty_chunk(first: u32) -> Chunk {
    Chunk {
        first,
        count: 0,
        tokens: vec![],
        text: String::new(),
        logprobs: vec![],
        embeddings: vec![],
        sealed: BoundedBytes::default(),
        sent_ms: None,
    }
}
