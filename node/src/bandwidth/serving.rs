//! Helps others to measure their line: takes blocks and sends as many back.

use super::{
    PATIENCE,
    asking::{is_idle, micros},
};
use crate::network::{
    FramedStream, IncomingStream, NetworkHandle, PathKind, StreamError,
    intake::{Busy, Limits},
    token_bucket::{Rate, TokenBucket},
};
use aitbc_protocol::{
    NodeId,
    bandwidth::{BLOCK_BYTES, Refusal, ToAsker, ToHelper, is_allowed},
    offer::Load,
    wire::MAX_BANDWIDTH_FRAME,
};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

/// A node measures once a day, and its owner now and then; two at a time would measure each other.
pub(super) const LIMITS: Limits =
    Limits { streams: 1, per_peer: 1, burst: 3, interval: Duration::from_secs(5 * 60) };
/// Time from one measurement to the next, whoever asks: with 24 MiB each way, this takes 0.4 MiB/s of the line at most.
const REST: Duration = Duration::from_secs(60);
/// Four may follow each other after a quiet time.
const ALLOWANCE: Rate = Rate { burst: 4.0, per_second: 1.0 / REST.as_secs() as f64 };

/// Helps others. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Server {
    network: NetworkHandle,
    load: watch::Receiver<Load>,
    allowance: Arc<Mutex<TokenBucket>>,
}

impl Server {
    pub(super) fn new(network: NetworkHandle, load: watch::Receiver<Load>) -> Self {
        let allowance = TokenBucket::full(ALLOWANCE, std::time::Instant::now());
        Self { network, load, allowance: Arc::new(Mutex::new(allowance)) }
    }

    /// Serves one stream.
    pub(super) async fn serve(self, incoming: IncomingStream, turn: Result<(), Busy>) {
        let IncomingStream { peer, mut stream } = incoming;
        let refusal = match turn {
            Err(Busy { retry_ms }) => Some(Refusal::Busy { retry_ms }),
            Ok(()) => self.refusal(peer),
        };
        let mut load = self.load.clone();
        let helping = async {
            tokio::select! {
                helped = help(&mut stream, refusal) => helped,
                // Nothing more is said: the stream is reset, and who measures begins again some other time.
                Ok(_) = load.wait_for(|load| !is_idle(*load)), if refusal.is_none() => Ok(()),
            }
        };
        match timeout(PATIENCE, helping).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(peer = %peer.short(), %error, "bandwidth not measured"),
            Err(_) => tracing::debug!(peer = %peer.short(), "bandwidth not measured in time"),
        }
    }

    /// Why `peer` is not helped now.
    pub(super) fn refusal(&self, peer: NodeId) -> Option<Refusal> {
        let path = self.network.peers().borrow().iter().find(|known| known.peer == peer).map(|known| known.path);
        if path == Some(PathKind::Relayed) {
            return Some(Refusal::Relayed);
        }
        let mut allowance = self.allowance.lock().unwrap_or_else(PoisonError::into_inner);
        let free = is_idle(*self.load.borrow()) && allowance.take(ALLOWANCE, 1.0, std::time::Instant::now());
        (!free).then_some(Refusal::Busy { retry_ms: u32::try_from(REST.as_millis()).unwrap_or(u32::MAX) })
    }
}

/// Takes rounds for as long as they come and are allowed; the first is refused where there is a refusal.
pub(super) async fn help(stream: &mut FramedStream, refusal: Option<Refusal>) -> Result<(), StreamError> {
    let mut done = 0;
    while let Some(ToHelper::Begin { blocks }) = stream.receive(MAX_BANDWIDTH_FRAME).await? {
        if let Some(refusal) = refusal.or((!is_allowed(blocks, done)).then_some(Refusal::Size)) {
            stream.send(&ToAsker::Refused(refusal), MAX_BANDWIDTH_FRAME).await?;
            break;
        }
        stream.send(&ToAsker::Go, MAX_BANDWIDTH_FRAME).await?;
        let (mut first, mut last) = (None, Vec::new());
        for _ in 0..blocks {
            let Some(ToHelper::Block(block)) = stream.receive(MAX_BANDWIDTH_FRAME).await? else { return Ok(()) };
            if block.len() != BLOCK_BYTES {
                return Ok(());
            }
            first.get_or_insert_with(Instant::now);
            last = block;
        }
        let took = micros(first.map_or(Duration::ZERO, |first| first.elapsed()));
        stream.send(&ToAsker::Received { micros: took }, MAX_BANDWIDTH_FRAME).await?;
        let block = ToAsker::Block(last);
        for _ in 0..blocks {
            stream.send(&block, MAX_BANDWIDTH_FRAME).await?;
        }
        done += blocks;
    }
    stream.close().await
}
