//! One job on an upstream server: reads its stream as far as the client's allowance goes.

use super::{
    EngineError, EngineEvent,
    connection::{Connection, SILENCE},
    events::{Event, Events, Usage},
    request::Request,
    speed::Sample,
};
use aitbc_protocol::job::Finish;
use std::{pin::pin, time::Instant};
use tokio::{sync::mpsc, time::timeout};

/// Most text of one token in bytes; longer pieces count as several tokens, so that a window of them fits a frame.
const MAX_TOKEN_TEXT: usize = 1024;
/// Most bytes of a response: this, and as much for each token as its JSON takes at most.
const RESPONSE_BASE: u64 = 1024 * 1024;
const RESPONSE_PER_TOKEN: u64 = 4096;

/// A running job.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) events: mpsc::Sender<EngineEvent>,
    pub(super) grants: mpsc::Receiver<u32>,
    /// Tokens that may still be told.
    pub(super) credit: u32,
    pub(super) max_tokens: u32,
    /// Tokens told.
    pub(super) tokens: u32,
    /// Bytes of text told.
    pub(super) text_bytes: u64,
    /// Whether it ever waited for an allowance or a reader: then its duration says nothing of the server.
    pub(super) paused: bool,
}

/// What the stream said of its end.
#[derive(Default)]
struct End {
    reason: Option<String>,
    done: bool,
    usage: Option<Usage>,
    full: bool,
}

/// What a job that ran to its end brought besides its answer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ran {
    /// How fast the server was, where that can be told.
    pub(super) sample: Option<Sample>,
    /// What the server says that it took.
    pub(super) usage: Usage,
}

impl Job {
    /// Runs to the end and tells everything but a failure.
    pub(super) async fn run(mut self, connection: &Connection, request: &Request) -> Result<Ran, EngineError> {
        let mut response = connection.post(request).await?;
        self.tell(EngineEvent::Started).await?;
        let broken = |reason: String| EngineError::Failed(format!("{}: {reason}", connection.url()));
        let mut budget = RESPONSE_BASE + u64::from(self.max_tokens) * RESPONSE_PER_TOKEN;
        let (mut events, mut end) = (Events::default(), End::default());
        let (mut first, mut last) = (None, Instant::now());
        'stream: while !end.done && !end.full {
            let chunk = {
                let mut chunk = pin!(timeout(SILENCE, response.chunk()));
                loop {
                    tokio::select! {
                        chunk = &mut chunk => break chunk,
                        Some(tokens) = self.grants.recv() => self.credit = self.credit.saturating_add(tokens),
                    }
                }
            };
            let chunk = match chunk {
                Err(_) => return Err(connection.silent()),
                Ok(Err(error)) => return Err(broken(crate::http::describe(error))),
                Ok(Ok(None)) => break 'stream,
                Ok(Ok(Some(chunk))) => chunk,
            };
            budget = budget
                .checked_sub(chunk.len() as u64)
                .ok_or_else(|| broken("the response is larger than its tokens can be".to_owned()))?;
            events.push(&chunk);
            while let Some(event) = events.next().map_err(|error| broken(error.to_string()))? {
                let Event::Piece(piece) = event else {
                    end.done = true;
                    break;
                };
                end.usage = piece.usage.or(end.usage);
                end.reason = piece.finish_reason.or(end.reason);
                if !piece.text.is_empty() {
                    last = Instant::now();
                    first.get_or_insert((last, self.tokens + 1));
                    end.full = !self.piece(&piece.text).await?;
                }
            }
        }
        let finish = finish(&end).map_err(|error| broken(error.to_string()))?;
        let streamed = self.tokens;
        let usage = end.usage.unwrap_or_default();
        self.settle_count(usage.completion_tokens).await?;
        self.tell(EngineEvent::Finished { finish, text: String::new() }).await?;
        let sample = first.filter(|_| !self.paused).map(|(first, before)| Sample {
            tokens: streamed.saturating_sub(before),
            elapsed: last.duration_since(first),
        });
        Ok(Ran { sample, usage })
    }

    /// Tells a piece of text. False once the answer has as many tokens as were asked for and more came.
    async fn piece(&mut self, mut text: &str) -> Result<bool, EngineError> {
        while !text.is_empty() {
            if self.tokens == self.max_tokens {
                return Ok(false);
            }
            let mut end = text.len().min(MAX_TOKEN_TEXT);
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            let (token, rest) = text.split_at(end);
            self.token(token).await?;
            text = rest;
        }
        Ok(true)
    }

    /// Follows the server's own count where it is higher and believable.
    async fn settle_count(&mut self, usage: Option<u32>) -> Result<(), EngineError> {
        let believable = u64::from(self.tokens).max(self.text_bytes);
        let counted = usage.unwrap_or(0).min(self.max_tokens);
        let counted = u64::from(counted).min(believable);
        while u64::from(self.tokens) < counted {
            self.token("").await?;
        }
        Ok(())
    }

    /// Tells one token once there is an allowance for it.
    async fn token(&mut self, text: &str) -> Result<(), EngineError> {
        while let Ok(tokens) = self.grants.try_recv() {
            self.credit = self.credit.saturating_add(tokens);
        }
        while self.credit == 0 {
            self.paused = true;
            let tokens = self.grants.recv().await.ok_or_else(cancelled)?;
            self.credit = self.credit.saturating_add(tokens);
        }
        self.credit -= 1;
        self.tokens += 1;
        self.text_bytes += text.len() as u64;
        self.tell(EngineEvent::Token { id: None, text: text.to_owned(), logprobs: None }).await
    }

    /// Sends an event, and takes allowances while the reader is slow, so that neither waits for the other.
    async fn tell(&mut self, event: EngineEvent) -> Result<(), EngineError> {
        self.paused |= self.events.capacity() == 0;
        loop {
            tokio::select! {
                biased;
                permit = self.events.reserve() => {
                    permit.map_err(|_| cancelled())?.send(event);
                    return Ok(());
                }
                Some(tokens) = self.grants.recv() => self.credit = self.credit.saturating_add(tokens),
            }
        }
    }
}

/// Nobody hears this: the reader is gone.
fn cancelled() -> EngineError {
    EngineError::Failed("the job was cancelled".to_owned())
}

/// Why what came is no whole answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Unfinished {
    #[error("the connection ended in the middle of the answer")]
    CutOff,
    #[error("the server's content filter ended the answer")]
    Filtered,
    #[error("the answer ended for a reason that is not known here")]
    Unknown,
}

fn finish(end: &End) -> Result<Finish, Unfinished> {
    match end.reason.as_deref() {
        _ if end.full => Ok(Finish::Length),
        Some("length") => Ok(Finish::Length),
        Some("stop") => Ok(Finish::Stop),
        // Some servers only say that they are done.
        None if end.done => Ok(Finish::Stop),
        None => Err(Unfinished::CutOff),
        Some("content_filter") => Err(Unfinished::Filtered),
        Some(_) => Err(Unfinished::Unknown),
    }
}
