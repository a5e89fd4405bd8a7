use super::{
    BandwidthConfig, BandwidthParts, Meter,
    asking::{MeasureError, measure},
    rounds::round,
    serving::{Server, help},
    start,
};
use crate::{
    network::{
        self, FramedStream, IncomingStream, NetworkConfig, NetworkHandle, Protocol, StreamError,
        tests::{QUIC, config},
    },
    telemetry::Metrics,
};
use aitbc_crypto::SecretKey;
use aitbc_protocol::{
    Digest, NodeId,
    bandwidth::{BLOCK_BYTES, Bandwidth, MOST_BLOCKS, REQUIRED, Refusal, ToAsker, ToHelper},
    offer::Load,
    wire::MAX_BANDWIDTH_FRAME,
};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(20);
const BUSY: Load = Load { running: 1, queued: 0 };

fn received() -> ToAsker {
    ToAsker::Received { last: Digest([0; 32]) }
}

fn pair() -> (FramedStream, FramedStream) {
    FramedStream::pair(NodeId([1; 32]), NodeId([2; 32]))
}

async fn helped(helper: &mut FramedStream) -> Result<(), StreamError> {
    let first = helper.receive(MAX_BANDWIDTH_FRAME).await?;
    help(helper, first).await
}

/// What the helper answers to a first message.
async fn answered(first: ToHelper) -> Option<ToAsker> {
    let (mut asker, mut helper) = pair();
    let helping = tokio::spawn(async move { helped(&mut helper).await });
    asker.send(&first, MAX_BANDWIDTH_FRAME).await.expect("sent");
    let answer = asker.receive(MAX_BANDWIDTH_FRAME).await.expect("an answer, or the end");
    drop(asker);
    let _ = helping.await.expect("no panic");
    answer
}

#[tokio::test]
async fn both_ways_are_measured() {
    let (mut asker, mut helper) = pair();
    let (measured, helped) = tokio::join!(
        async {
            let measured = measure(&mut asker, LIMIT).await;
            drop(asker);
            measured
        },
        helped(&mut helper)
    );
    helped.expect("helped");
    let measured = measured.expect("measured");
    assert!(measured.up > 0 && measured.down > 0, "{measured:?}");
}

#[tokio::test]
async fn a_helper_takes_only_what_it_allows() {
    assert_eq!(answered(ToHelper::Begin { blocks: 2 }).await, Some(ToAsker::Go));
    for blocks in [0, 1, MOST_BLOCKS + 1, u32::MAX] {
        let answer = answered(ToHelper::Begin { blocks }).await;
        assert_eq!(answer, Some(ToAsker::Refused(Refusal::Size)), "{blocks}");
    }
    assert_eq!(answered(ToHelper::Block(vec![0; BLOCK_BYTES])).await, None, "nothing was begun");
}

#[tokio::test]
async fn nothing_comes_back_for_less_than_was_sent() {
    let (mut asker, mut helper) = pair();
    let helping = tokio::spawn(async move { helped(&mut helper).await });
    asker.send(&ToHelper::Begin { blocks: 2 }, MAX_BANDWIDTH_FRAME).await.expect("sent");
    let go: Option<ToAsker> = asker.receive(MAX_BANDWIDTH_FRAME).await.expect("an answer");
    assert_eq!(go, Some(ToAsker::Go));
    asker.send(&ToHelper::Block(vec![0; 1]), MAX_BANDWIDTH_FRAME).await.expect("sent");
    helping.await.expect("no panic").expect("it ends");
    let more = asker.receive::<ToAsker>(MAX_BANDWIDTH_FRAME).await.expect("the end");
    assert_eq!(more, None);
}

#[tokio::test]
async fn what_no_helper_says_ends_it() {
    let small = ToAsker::Block(vec![0; BLOCK_BYTES - 1]);
    for (name, answers) in [
        ("it begins with a block", vec![ToAsker::Block(Vec::new())]),
        ("it says how long before anything came", vec![received()]),
        ("it says so before the last one came", vec![ToAsker::Go, received(), small]),
    ] {
        let (mut asker, mut helper) = pair();
        let playing = tokio::spawn(async move {
            for answer in answers {
                helper.send(&answer, MAX_BANDWIDTH_FRAME).await.expect("sent");
            }
            while let Ok(Some(_)) = helper.receive::<ToHelper>(MAX_BANDWIDTH_FRAME).await {}
        });
        let told = measure(&mut asker, LIMIT).await;
        assert!(matches!(told, Err(MeasureError::OutOfTurn)), "{name}: {told:?}");
        drop(asker);
        playing.await.expect("no panic");
    }
}

/// One round of a helper that agrees late, reads slowly and sends blocks of `size`.
async fn play(helper: &mut FramedStream, size: usize) {
    let Ok(Some(ToHelper::Begin { blocks })) = helper.receive(MAX_BANDWIDTH_FRAME).await else { return };
    tokio::time::sleep(Duration::from_millis(300)).await;
    helper.send(&ToAsker::Go, MAX_BANDWIDTH_FRAME).await.expect("sent");
    let mut last = Digest([0; 32]);
    for _ in 0..blocks {
        let Ok(Some(ToHelper::Block(block))) = helper.receive(MAX_BANDWIDTH_FRAME).await else { return };
        last = Digest::of(&block);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    helper.send(&ToAsker::Received { last }, MAX_BANDWIDTH_FRAME).await.expect("sent");
    for _ in 0..blocks {
        let _ = helper.send(&ToAsker::Block(vec![0; size]), MAX_BANDWIDTH_FRAME).await;
    }
}

#[tokio::test]
async fn a_helper_makes_no_line_look_faster_than_it_is_and_no_round_in_vain() {
    // What it delays before the round gains it little, and after the round it says nothing more.
    let (mut asker, mut helper) = pair();
    let playing = tokio::spawn(async move {
        play(&mut helper, BLOCK_BYTES).await;
        helper
    });
    let told = measure(&mut asker, Duration::from_secs(1)).await.expect("the first round counts");
    let most = aitbc_protocol::bandwidth::rate(16, 100_000);
    assert!(told.up > 0 && told.up < most, "{told:?}");
    drop(playing.await.expect("no panic"));

    let (mut asker, mut helper) = pair();
    let playing = tokio::spawn(async move { play(&mut helper, BLOCK_BYTES - 1).await });
    let told = measure(&mut asker, LIMIT).await;
    assert!(matches!(told, Err(MeasureError::OutOfTurn)), "its blocks are small: {told:?}");
    drop(asker);
    playing.await.expect("no panic");
}

/// A running node as far as this goes, alone.
struct Node {
    network: NetworkHandle,
    load: watch::Sender<Load>,
    line: watch::Receiver<Option<Bandwidth>>,
    meter: Meter,
    _stop: tokio_util::sync::DropGuard,
}

/// A node that takes streams and says nothing.
struct Silent {
    network: NetworkHandle,
    streams: tokio::sync::mpsc::Receiver<IncomingStream>,
}

impl Silent {
    async fn start() -> Self {
        let (network, incoming) = running().await;
        Self { network, streams: incoming.bandwidth }
    }
}

async fn running() -> (NetworkHandle, network::Incoming) {
    let config = NetworkConfig { relay: false, gossip: false, dht: false, ..config(&[QUIC], &[]) };
    let key = SecretKey::generate().expect("a key");
    network::start(config, &key, &Metrics::default()).await.expect("starts")
}

impl Node {
    async fn start() -> Self {
        let (network, incoming) = running().await;
        let (load, loads) = watch::channel(Load::default());
        let (line, seen) = watch::channel(None);
        let parts = BandwidthParts { network: network.clone(), load: loads, streams: incoming.bandwidth, line };
        let stop = CancellationToken::new();
        let config = BandwidthConfig { provides: false, required: REQUIRED, local: true };
        let (meter, _task) = start(config, parts, stop.clone());
        Self { network, load, line: seen, meter, _stop: stop.drop_guard() }
    }

    fn id(&self) -> NodeId {
        self.network.local_id()
    }

    /// Connects, and waits until the other says what it runs.
    async fn connect(&self, other: &Self) {
        let addresses = other.network.listening().borrow().to_vec();
        self.network.connect(other.id(), addresses).await.expect("connects");
        let mut peers = self.network.peers();
        let known = peers.wait_for(|peers| peers.iter().any(|peer| !peer.agent.is_empty()));
        tokio::time::timeout(Duration::from_secs(20), known).await.expect("in time").expect("it runs");
    }
}

#[tokio::test]
async fn jobs_come_first_on_both_sides() {
    let (asker, helper) = (Node::start().await, Node::start().await);
    assert!(matches!(asker.meter.measure(None).await, Err(MeasureError::NoPeer)));
    asker.connect(&helper).await;

    helper.load.send_replace(BUSY);
    let told = asker.meter.measure(Some(helper.id())).await;
    assert!(matches!(told, Err(MeasureError::Refused(_, Refusal::Busy { .. }))), "{told:?}");
    assert_eq!(*asker.line.borrow(), None);
    helper.load.send_replace(Load::default());

    asker.load.send_replace(BUSY);
    let told = asker.meter.measure(Some(helper.id())).await;
    assert!(matches!(told, Err(MeasureError::Working)), "{told:?}");
    asker.load.send_replace(Load::default());

    let measured = asker.meter.measure(None).await.expect("measured with the only peer");
    assert_eq!((measured.with, measured.required), (helper.id(), REQUIRED));
    assert_eq!(measured.enough, measured.bandwidth.up.min(measured.bandwidth.down) >= REQUIRED);
    assert_eq!(*asker.line.borrow(), Some(measured.bandwidth), "it is kept");
    assert_eq!(asker.meter.last(), Some(measured));
    let slow = Bandwidth { up: 1, down: 1, measured_ms: measured.bandwidth.measured_ms };
    assert!(!asker.meter.keep(slow, helper.id()).enough);
    assert_eq!(*asker.line.borrow(), Some(measured.bandwidth), "a slow helper says nothing against the line");
    let next_day = Bandwidth { measured_ms: slow.measured_ms + 24 * 3_600_000, ..slow };
    asker.meter.keep(next_day, helper.id());
    assert_eq!(
        *asker.line.borrow(),
        Some(next_day),
        "yesterday's says nothing of today, however often it was asked"
    );
    assert_eq!(asker.meter.helpers(false), [], "within the home nothing is learned of the line");
}

#[tokio::test]
async fn a_line_is_measured_by_itself_with_those_elsewhere_alone() {
    let (asker, helper) = (Node::start().await, Node::start().await);
    asker.connect(&helper).await;
    assert!(!round(&asker.meter, false).await, "nobody is elsewhere");
    assert_eq!(*asker.line.borrow(), None);
    assert!(round(&asker.meter, true).await);
    assert_eq!(*asker.line.borrow(), asker.meter.last().map(|line| line.bandwidth));
    asker.load.send_replace(BUSY);
    assert!(!round(&asker.meter, true).await, "jobs come first");
}

#[tokio::test]
async fn a_job_that_begins_ends_a_measurement_on_both_sides() {
    let (asker, helper) = (Node::start().await, Node::start().await);
    asker.connect(&helper).await;
    let mut stream = asker.network.open(helper.id(), Vec::new(), Protocol::Bandwidth).await.expect("opens");
    stream.send(&ToHelper::Begin { blocks: 2 }, MAX_BANDWIDTH_FRAME).await.expect("sent");
    let go: Option<ToAsker> = stream.receive(MAX_BANDWIDTH_FRAME).await.expect("an answer");
    assert_eq!(go, Some(ToAsker::Go));
    helper.load.send_replace(BUSY);
    let ended = tokio::time::timeout(LIMIT, stream.receive::<ToAsker>(MAX_BANDWIDTH_FRAME)).await;
    assert!(matches!(ended, Ok(Ok(None) | Err(_))), "{ended:?}");
    helper.load.send_replace(Load::default());

    let meter = asker.meter.clone();
    let silent = Silent::start().await;
    let addresses = silent.network.listening().borrow().to_vec();
    asker.network.connect(silent.network.local_id(), addresses).await.expect("connects");
    let to = silent.network.local_id();
    let measuring = tokio::spawn(async move { meter.measure(Some(to)).await });
    let mut streams = silent.streams;
    let _stream = streams.recv().await.expect("it asks");
    asker.load.send_replace(BUSY);
    let told = tokio::time::timeout(LIMIT, measuring).await.expect("in time").expect("no panic");
    assert!(matches!(told, Err(MeasureError::Working)), "{told:?}");
}

#[tokio::test]
async fn a_helper_helps_a_few_times_and_then_rests() {
    let (load, loads) = watch::channel(Load::default());
    let server = Server::new(loads);
    assert_eq!((0..6).map(|_| server.allow()).collect::<Vec<_>>(), [true, true, true, true, false, false]);
    assert_eq!(server.refusal(false), None);
    assert_eq!(server.refusal(true), Some(Refusal::Relayed));
    load.send_replace(BUSY);
    assert!(matches!(server.refusal(false), Some(Refusal::Busy { .. })));
}

#[tokio::test]
async fn whoever_is_refused_is_told_at_once() {
    let (_load, loads) = watch::channel(Load::default());
    let (mut asker, helper) = pair();
    let turn = Err(network::intake::Busy { retry_ms: 1 });
    let serving = Server::new(loads).serve(IncomingStream { peer: NodeId([1; 32]), stream: helper }, turn);
    let (told, ()) = tokio::join!(measure(&mut asker, LIMIT), serving);
    let Err(MeasureError::Refused(_, Refusal::Busy { retry_ms })) = told else { panic!("{told:?}") };
    assert!(retry_ms >= 30_000, "the place may be taken for as long");
}
