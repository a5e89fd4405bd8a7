//! Measures the line with the help of another node.

use super::{BandwidthConfig, PATIENCE};
use crate::{
    clock::now_ms,
    network::{FramedStream, NetworkError, NetworkHandle, PeerInfo, Protocol, StreamError},
};
use aitbc_protocol::{
    Digest, NodeId,
    bandwidth::{BLOCK_BYTES, Bandwidth, FIRST_BLOCKS, Refusal, ToAsker, ToHelper, next_round, rate, way_up},
    offer::Load,
    wire::MAX_BANDWIDTH_FRAME,
};
use rand::{Rng as _, seq::IndexedRandom as _};
use serde::Serialize;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
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
    /// The stream runs through a relay.
    #[error(
        "the path to it leads through a relay, whose uplink is not there for that: `aitbc ping --until-direct` waits for another"
    )]
    Relayed,
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

/// What was measured of this node's line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Measurement {
    /// What went over it.
    #[serde(flatten)]
    pub bandwidth: Bandwidth,
    /// Who helped, the last of them.
    pub with: NodeId,
    /// What is asked of a provider, in bytes a second each way.
    pub required: u64,
    /// Whether both ways reach that.
    pub enough: bool,
    /// Whether it tells of the line: what goes within a home does not, except on networks of demos and tests.
    pub counts: bool,
}

/// Figures stand beside newer ones that are lower for as long, in milliseconds: they mean "at least".
const STANDS_MS: u64 = 24 * 3_600_000;
/// Without newer ones they are forgotten after as long.
const FORGOTTEN_MS: u64 = 2 * STANDS_MS;

/// Figures held at most.
const MAX_KEPT: usize = 16;

/// Measures, and holds what was measured last. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Meter {
    network: NetworkHandle,
    load: watch::Receiver<Load>,
    config: BandwidthConfig,
    turn: Arc<Semaphore>,
    /// What was measured of late, the newest last.
    kept: Arc<Mutex<Vec<(Bandwidth, NodeId)>>>,
    line: Arc<watch::Sender<Option<Bandwidth>>>,
}

impl Meter {
    pub(super) fn new(
        network: NetworkHandle,
        load: watch::Receiver<Load>,
        config: BandwidthConfig,
        line: watch::Sender<Option<Bandwidth>>,
    ) -> Self {
        Self {
            network,
            load,
            config,
            turn: Arc::new(Semaphore::new(1)),
            kept: Arc::default(),
            line: Arc::new(line),
        }
    }

    /// The best each way of the day before the last measurement, while that is not too old to tell anything.
    pub fn last(&self) -> Option<Measurement> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (newest, with) = *kept.last()?;
        if now_ms().saturating_sub(newest.measured_ms) > FORGOTTEN_MS {
            kept.clear();
            self.line.send_replace(None);
            return None;
        }
        Some(self.told(best(&kept), with, true))
    }

    fn told(&self, bandwidth: Bandwidth, with: NodeId, counts: bool) -> Measurement {
        let required = self.config.required;
        Measurement { bandwidth, with, required, enough: bandwidth.reaches(required), counts }
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
            let suits = |peer: &&PeerInfo| !peer.agent.is_empty() && is_elsewhere(peer) == Some(elsewhere);
            peers.iter().filter(suits).map(|peer| peer.peer).collect()
        };
        let elsewhere = helpers(true);
        if elsewhere.is_empty() && at_home { helpers(false) } else { elsewhere }
    }

    /// Measures with `peer`, or with one that is connected, and keeps the figures where they tell of the line.
    pub async fn measure(&self, peer: Option<NodeId>) -> Result<Measurement, MeasureError> {
        let peer = match peer {
            Some(peer) => peer,
            None => *self.helpers(true).choose(&mut rand::rng()).ok_or(MeasureError::NoPeer)?,
        };
        let bandwidth = self.with(peer).await?;
        Ok(self.keep(bandwidth, peer))
    }

    /// Takes down what was measured with `with`. What was better within a day stands: a slow helper says nothing against
    /// the line.
    pub(super) fn keep(&self, bandwidth: Bandwidth, with: NodeId) -> Measurement {
        let elsewhere = self.network.peers().borrow().iter().find(|peer| peer.peer == with).and_then(is_elsewhere);
        let counts = self.config.local || elsewhere == Some(true);
        if counts {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            let since = bandwidth.measured_ms.saturating_sub(STANDS_MS);
            kept.retain(|(older, _)| older.measured_ms > since);
            let spare = (kept.len() + 1).saturating_sub(MAX_KEPT);
            kept.drain(..spare);
            kept.push((bandwidth, with));
            self.line.send_replace(Some(best(&kept)));
        }
        self.told(bandwidth, with, counts)
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
            if stream.is_relayed() {
                return Err(MeasureError::Relayed);
            }
            measure(&mut stream, PATIENCE).await
        };
        tokio::select! {
            // Opening has its own patience.
            measured = timeout(PATIENCE * 2, measuring) => measured.unwrap_or(Err(MeasureError::Timeout)),
            Ok(_) = load.wait_for(|load| !is_idle(*load)) => Err(MeasureError::Working),
        }
    }
}

/// The best each way.
fn best(kept: &[(Bandwidth, NodeId)]) -> Bandwidth {
    let all = kept.iter().map(|(bandwidth, _)| *bandwidth);
    all.reduce(Bandwidth::best).unwrap_or(Bandwidth { up: 0, down: 0, measured_ms: 0 })
}

/// Whether a direct connection to it leads out of the home; nothing where there is none.
fn is_elsewhere(peer: &PeerInfo) -> Option<bool> {
    peer.ip().map(crate::network::is_global)
}

pub(super) fn is_idle(load: Load) -> bool {
    load.running == 0 && load.queued == 0
}

/// Rounds on one stream, until one tells enough or `patience` ends. The figures are those of the fastest round each way: the
/// first ones go while the transport still finds out how fast it may send.
pub(super) async fn measure(stream: &mut FramedStream, patience: Duration) -> Result<Bandwidth, MeasureError> {
    let mut best: Option<Bandwidth> = None;
    match timeout(patience, rounds(stream, &mut best)).await {
        Ok(ended) => ended?,
        // What went over the line before the last round went over it all the same.
        Err(_) => return best.ok_or(MeasureError::Timeout),
    }
    best.ok_or(MeasureError::OutOfTurn)
}

async fn rounds(stream: &mut FramedStream, best: &mut Option<Bandwidth>) -> Result<(), MeasureError> {
    let (mut blocks, mut done) = (FIRST_BLOCKS, 0);
    loop {
        let (up, down) = round(stream, blocks).await?;
        let now = Bandwidth { up: rate(blocks, up), down: rate(blocks, down), measured_ms: now_ms() };
        *best = Some(best.map_or(now, |best| best.best(now)));
        done += blocks;
        match next_round(blocks, up, down, done) {
            Some(next) => blocks = next,
            None => return Ok(()),
        }
    }
}

/// Microseconds that `blocks` took there and back.
async fn round(stream: &mut FramedStream, blocks: u32) -> Result<(u64, u64), MeasureError> {
    // Nobody knows the last one before it is there.
    let last_block = random_block();
    let digest = Digest::of(&last_block);
    let asked = Instant::now();
    // A helper that refuses may close its end before it has read anything.
    let sent = stream.send(&ToHelper::Begin { blocks }, MAX_BANDWIDTH_FRAME).await;
    match receive(stream).await {
        Ok(ToAsker::Go) => sent?,
        Ok(ToAsker::Refused(refusal)) => return Err(MeasureError::Refused(stream.peer().short(), refusal)),
        Ok(_) => return Err(MeasureError::OutOfTurn),
        Err(error) => return Err(sent.err().map_or(error, MeasureError::from)),
    }
    let round_trip = asked.elapsed();
    let begun = Instant::now();
    let block = ToHelper::Block(random_block());
    for _ in 1..blocks {
        stream.send(&block, MAX_BANDWIDTH_FRAME).await?;
    }
    stream.send(&ToHelper::Block(last_block), MAX_BANDWIDTH_FRAME).await?;
    let ToAsker::Received { last } = receive(stream).await? else {
        return Err(MeasureError::OutOfTurn);
    };
    if last != digest {
        return Err(MeasureError::OutOfTurn);
    }
    let up = way_up(micros(begun.elapsed()), micros(round_trip));
    let mut first = None;
    for _ in 0..blocks {
        match receive(stream).await? {
            ToAsker::Block(block) if block.len() == BLOCK_BYTES => first.get_or_insert_with(Instant::now),
            _ => return Err(MeasureError::OutOfTurn),
        };
    }
    Ok((up, micros(first.map_or(Duration::ZERO, |first| first.elapsed()))))
}

/// Content that nothing on the way can make smaller.
fn random_block() -> Vec<u8> {
    let mut block = vec![0; BLOCK_BYTES];
    rand::rng().fill_bytes(&mut block);
    block
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

async fn receive(stream: &mut FramedStream) -> Result<ToAsker, MeasureError> {
    let closed = || StreamError::Closed("it closed the stream".to_owned());
    Ok(stream.receive(MAX_BANDWIDTH_FRAME).await?.ok_or_else(closed)?)
}
