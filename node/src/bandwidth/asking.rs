//! Measures the line with the help of another node.

use super::PATIENCE;
use crate::{
    clock::now_ms,
    network::{FramedStream, NetworkError, NetworkHandle, PeerInfo, Protocol, StreamError},
};
use aitbc_protocol::{
    NodeId,
    bandwidth::{BLOCK_BYTES, Bandwidth, FIRST_BLOCKS, Refusal, ToAsker, ToHelper, next_round, rate},
    offer::Load,
    wire::MAX_BANDWIDTH_FRAME,
};
use rand::{Rng as _, seq::IndexedRandom as _};
use serde::Serialize;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, timeout},
};

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// It measures already.
    #[error("a measurement runs already: wait for it to end")]
    Busy,
    /// Jobs would suffer, and falsify it.
    #[error("jobs run on this node: measure when it is idle")]
    Working,
    /// Nobody could help.
    #[error(
        "no peer is connected directly: nothing can be measured through a relay; `aitbc netcheck` tells how this node is \
         connected"
    )]
    NoPeer,
    /// It cannot be reached.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The stream broke.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// It refuses.
    #[error("{0} does not help: {1}")]
    Refused(String, Refusal),
    /// It said something else.
    #[error("it said something else than what was asked")]
    OutOfTurn,
    /// Too slow.
    #[error("not even half a megabyte went there and back within {PATIENCE:?}: the line or the peer is that slow")]
    Timeout,
}

/// What is known of this node's line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Measurement {
    /// What went over it.
    #[serde(flatten)]
    pub bandwidth: Bandwidth,
    /// Who helped.
    pub with: NodeId,
    /// What is asked of a provider, in bytes a second each way.
    pub required: u64,
    /// Whether both ways reach that.
    pub enough: bool,
}

/// Measures, and holds what was measured last. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Meter {
    network: NetworkHandle,
    load: watch::Receiver<Load>,
    required: u64,
    turn: Arc<Semaphore>,
    line: Arc<watch::Sender<Option<Measurement>>>,
}

impl Meter {
    pub(super) fn new(
        network: NetworkHandle,
        load: watch::Receiver<Load>,
        required: u64,
        line: watch::Sender<Option<Measurement>>,
    ) -> Self {
        Self { network, load, required, turn: Arc::new(Semaphore::new(1)), line: Arc::new(line) }
    }

    /// What was measured last.
    pub fn last(&self) -> Option<Measurement> {
        *self.line.borrow()
    }

    /// Bytes a second each way that are asked of a provider.
    pub fn required(&self) -> u64 {
        self.required
    }

    /// Waits until no job runs.
    pub(super) async fn idle(&self) {
        let mut load = self.load.clone();
        // An error says that the provider side has ended: then nothing runs.
        let _ = load.wait_for(|load| is_idle(*load)).await;
    }

    /// Directly connected peers that can help, those elsewhere on the internet before those at home.
    pub(super) fn helpers(&self, at_home: bool) -> Vec<NodeId> {
        let peers = self.network.peers().borrow().clone();
        let helpers = |elsewhere: bool| -> Vec<NodeId> {
            let suits = |peer: &&PeerInfo| {
                let place = peer.ip().map(crate::network::is_global);
                !peer.agent.is_empty() && place == Some(elsewhere)
            };
            peers.iter().filter(suits).map(|peer| peer.peer).collect()
        };
        let elsewhere = helpers(true);
        if elsewhere.is_empty() && at_home { helpers(false) } else { elsewhere }
    }

    /// Measures with `peer`, or with one that is connected, and keeps the figures.
    pub async fn measure(&self, peer: Option<NodeId>) -> Result<Measurement, MeasureError> {
        let peer = match peer {
            Some(peer) => peer,
            None => *self.helpers(true).choose(&mut rand::rng()).ok_or(MeasureError::NoPeer)?,
        };
        let bandwidth = self.with(peer).await?;
        Ok(self.keep(bandwidth, peer))
    }

    /// Takes down what was measured.
    pub(super) fn keep(&self, bandwidth: Bandwidth, with: NodeId) -> Measurement {
        let required = self.required;
        let line = Measurement { bandwidth, with, required, enough: bandwidth.reaches(required) };
        self.line.send_replace(Some(line));
        line
    }

    /// Measures with `peer`. Gives way to jobs that begin.
    pub(super) async fn with(&self, peer: NodeId) -> Result<Bandwidth, MeasureError> {
        let _turn = self.turn.try_acquire().map_err(|_| MeasureError::Busy)?;
        let mut load = self.load.clone();
        if !is_idle(*load.borrow_and_update()) {
            return Err(MeasureError::Working);
        }
        let measuring = async {
            let mut stream = self.network.open(peer, Vec::new(), Protocol::Bandwidth).await?;
            measure(&mut stream).await
        };
        tokio::select! {
            measured = timeout(PATIENCE, measuring) => measured.unwrap_or(Err(MeasureError::Timeout)),
            Ok(_) = load.wait_for(|load| !is_idle(*load)) => Err(MeasureError::Working),
        }
    }
}

pub(super) fn is_idle(load: Load) -> bool {
    load.running == 0 && load.queued == 0
}

/// Rounds on one stream, until one tells enough. The figures are those of the fastest round each way: the first ones go
/// while the transport still finds out how fast it may send.
pub(super) async fn measure(stream: &mut FramedStream) -> Result<Bandwidth, MeasureError> {
    // Content that nothing on the way can make smaller.
    let mut block = vec![0; BLOCK_BYTES];
    rand::rng().fill_bytes(&mut block);
    let block = ToHelper::Block(block);
    let mut best = Bandwidth { up: 0, down: 0, measured_ms: now_ms() };
    let (mut blocks, mut done) = (FIRST_BLOCKS, 0);
    loop {
        let (up, down) = round(stream, &block, blocks).await?;
        let now = Bandwidth { up: rate(blocks, up), down: rate(blocks, down), measured_ms: now_ms() };
        best = best.best(now);
        done += blocks;
        match next_round(blocks, up.min(down), done) {
            Some(next) => blocks = next,
            None => return Ok(best),
        }
    }
}

/// Microseconds that `blocks` took there and back.
async fn round(stream: &mut FramedStream, block: &ToHelper, blocks: u32) -> Result<(u64, u64), MeasureError> {
    stream.send(&ToHelper::Begin { blocks }, MAX_BANDWIDTH_FRAME).await?;
    match receive(stream).await? {
        ToAsker::Go => {}
        ToAsker::Refused(refusal) => return Err(MeasureError::Refused(stream.peer().short(), refusal)),
        _ => return Err(MeasureError::OutOfTurn),
    }
    for _ in 0..blocks {
        stream.send(block, MAX_BANDWIDTH_FRAME).await?;
    }
    let ToAsker::Received { micros: up } = receive(stream).await? else { return Err(MeasureError::OutOfTurn) };
    let mut first = None;
    for _ in 0..blocks {
        match receive(stream).await? {
            ToAsker::Block(block) if block.len() == BLOCK_BYTES => first.get_or_insert_with(Instant::now),
            _ => return Err(MeasureError::OutOfTurn),
        };
    }
    Ok((up, micros(first.map_or(Duration::ZERO, |first| first.elapsed()))))
}

pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

async fn receive(stream: &mut FramedStream) -> Result<ToAsker, MeasureError> {
    let closed = || StreamError::Closed("it closed the stream".to_owned());
    Ok(stream.receive(MAX_BANDWIDTH_FRAME).await?.ok_or_else(closed)?)
}
