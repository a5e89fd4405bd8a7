//! Helps others to measure their line: takes blocks and sends as many back.

use super::{PATIENCE, asking::is_idle};
use crate::network::{
    FramedStream, IncomingStream, StreamError,
    intake::{Busy, Limits},
    token_bucket::{Rate, TokenBucket},
};
use aitbc_protocol::{
    Digest,
    bandwidth::{BLOCK_BYTES, Refusal, ToAsker, ToHelper, is_allowed},
    offer::Load,
    wire::MAX_BANDWIDTH_FRAME,
};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, time::timeout};

/// A node measures once a day, and its owner now and then; two at a time would measure each other.
pub(super) const LIMITS: Limits =
    Limits { streams: 1, per_peer: 1, burst: 3, interval: Duration::from_secs(5 * 60) };
/// Time from one measurement to the next, whoever asks: with 24 MiB each way, this takes 0.4 MiB/s of the line at most.
const REST: Duration = Duration::from_secs(60);
/// How long the first message may take, and a refusal.
const FIRST: Duration = Duration::from_secs(5);
/// Four may follow each other after a quiet time.
const ALLOWANCE: Rate = Rate { burst: 4.0, per_second: 1.0 / REST.as_secs() as f64 };

/// Helps others. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Server {
    load: watch::Receiver<Load>,
    allowance: Arc<Mutex<TokenBucket>>,
}

impl Server {
    pub(super) fn new(load: watch::Receiver<Load>) -> Self {
        let allowance = TokenBucket::full(ALLOWANCE, std::time::Instant::now());
        Self { load, allowance: Arc::new(Mutex::new(allowance)) }
    }

    /// Serves one stream.
    pub(super) async fn serve(self, incoming: IncomingStream, turn: Result<(), Busy>) {
        let IncomingStream { peer, mut stream } = incoming;
        let refusal = match turn {
            // The place may be taken for as long as a measurement lasts.
            Err(Busy { retry_ms }) => Some(Refusal::Busy { retry_ms: retry_ms.max(millis(PATIENCE)) }),
            Ok(()) => self.refusal(stream.is_relayed()),
        };
        let ended = match refusal {
            // Said at once: whoever is refused holds nothing.
            Some(refusal) => timeout(FIRST, refuse(&mut stream, refusal)).await,
            None => timeout(PATIENCE, self.help(&mut stream)).await,
        };
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(peer = %peer.short(), %error, "bandwidth not measured"),
            Err(_) => tracing::debug!(peer = %peer.short(), "bandwidth not measured in time"),
        }
    }

    async fn help(&self, stream: &mut FramedStream) -> Result<(), StreamError> {
        let first = timeout(FIRST, stream.receive(MAX_BANDWIDTH_FRAME)).await;
        let first = first.map_err(|_| StreamError::Timeout(FIRST))??;
        if !self.allow() {
            return refuse(stream, Refusal::Busy { retry_ms: millis(REST) }).await;
        }
        let mut load = self.load.clone();
        tokio::select! {
            helped = help(stream, first) => helped,
            // Nothing more is said: the stream is reset, and who measures begins again some other time.
            Ok(_) = load.wait_for(|load| !is_idle(*load)) => Ok(()),
        }
    }

    /// Why a stream is not served now.
    pub(super) fn refusal(&self, relayed: bool) -> Option<Refusal> {
        if relayed {
            return Some(Refusal::Relayed);
        }
        (!is_idle(*self.load.borrow())).then_some(Refusal::Busy { retry_ms: millis(REST) })
    }

    /// Takes one out of the allowance that all share, if there is one.
    pub(super) fn allow(&self) -> bool {
        let mut allowance = self.allowance.lock().unwrap_or_else(PoisonError::into_inner);
        allowance.take(ALLOWANCE, 1.0, std::time::Instant::now())
    }
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

async fn refuse(stream: &mut FramedStream, refusal: Refusal) -> Result<(), StreamError> {
    stream.send(&ToAsker::Refused(refusal), MAX_BANDWIDTH_FRAME).await?;
    stream.close().await
}

/// Takes rounds, of which `first` begins the first, for as long as they come and are allowed.
pub(super) async fn help(stream: &mut FramedStream, first: Option<ToHelper>) -> Result<(), StreamError> {
    let (mut next, mut done) = (first, 0);
    while let Some(ToHelper::Begin { blocks }) = next {
        if !is_allowed(blocks, done) {
            return refuse(stream, Refusal::Size).await;
        }
        stream.send(&ToAsker::Go, MAX_BANDWIDTH_FRAME).await?;
        let mut last = Vec::new();
        for _ in 0..blocks {
            let Some(ToHelper::Block(block)) = stream.receive(MAX_BANDWIDTH_FRAME).await? else { return Ok(()) };
            if block.len() != BLOCK_BYTES {
                return Ok(());
            }
            last = block;
        }
        let received = ToAsker::Received { last: Digest::of(&last) };
        stream.send(&received, MAX_BANDWIDTH_FRAME).await?;
        let block = ToAsker::Block(last);
        for _ in 0..blocks {
            stream.send(&block, MAX_BANDWIDTH_FRAME).await?;
        }
        done += blocks;
        next = stream.receive(MAX_BANDWIDTH_FRAME).await?;
    }
    stream.close().await
}
