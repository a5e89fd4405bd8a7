use super::{
    BandwidthConfig, BandwidthParts, Meter,
    asking::{MeasureError, Measurement, measure},
    serving::{Server, help},
    start,
};
use crate::{
    network::{self, FramedStream, NetworkConfig, NetworkHandle},
    telemetry::Metrics,
};
use aitbc_crypto::SecretKey;
use aitbc_protocol::{
    NetworkId, NodeId,
    bandwidth::{BLOCK_BYTES, MOST_BLOCKS, REQUIRED, Refusal, ToAsker, ToHelper},
    offer::Load,
    wire::MAX_BANDWIDTH_FRAME,
};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const BUSY: Load = Load { running: 1, queued: 0 };

fn pair() -> (FramedStream, FramedStream) {
    FramedStream::pair(NodeId([1; 32]), NodeId([2; 32]))
}

/// What the helper answers to a first message.
async fn answered(first: ToHelper, refusal: Option<Refusal>) -> Option<ToAsker> {
    let (mut asker, mut helper) = pair();
    let helping = tokio::spawn(async move { help(&mut helper, refusal).await });
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
            let measured = measure(&mut asker).await;
            drop(asker);
            measured
        },
        help(&mut helper, None)
    );
    helped.expect("helped");
    let measured = measured.expect("measured");
    assert!(measured.up > 0 && measured.down > 0, "{measured:?}");
}

#[tokio::test]
async fn a_helper_takes_only_what_it_allows() {
    assert_eq!(answered(ToHelper::Begin { blocks: 2 }, None).await, Some(ToAsker::Go));
    for blocks in [0, 1, MOST_BLOCKS + 1, u32::MAX] {
        let answer = answered(ToHelper::Begin { blocks }, None).await;
        assert_eq!(answer, Some(ToAsker::Refused(Refusal::Size)), "{blocks}");
    }
    let refused = answered(ToHelper::Begin { blocks: 2 }, Some(Refusal::Relayed)).await;
    assert_eq!(refused, Some(ToAsker::Refused(Refusal::Relayed)));
    assert_eq!(answered(ToHelper::Block(vec![0; BLOCK_BYTES]), None).await, None, "nothing was begun");
}

#[tokio::test]
async fn nothing_comes_back_for_less_than_was_sent() {
    let (mut asker, mut helper) = pair();
    let helping = tokio::spawn(async move { help(&mut helper, None).await });
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
        ("it says how long before anything came", vec![ToAsker::Received { micros: 1 }]),
        ("its blocks are small", vec![ToAsker::Go, ToAsker::Received { micros: 1 }, small]),
    ] {
        let (mut asker, mut helper) = pair();
        let playing = tokio::spawn(async move {
            for answer in answers {
                helper.send(&answer, MAX_BANDWIDTH_FRAME).await.expect("sent");
            }
            while let Ok(Some(_)) = helper.receive::<ToHelper>(MAX_BANDWIDTH_FRAME).await {}
        });
        let told = measure(&mut asker).await;
        assert!(matches!(told, Err(MeasureError::OutOfTurn)), "{name}: {told:?}");
        drop(asker);
        playing.await.expect("no panic");
    }
}

/// A running node as far as this goes, alone.
struct Node {
    network: NetworkHandle,
    load: watch::Sender<Load>,
    line: watch::Receiver<Option<Measurement>>,
    meter: Meter,
    _stop: tokio_util::sync::DropGuard,
}

impl Node {
    async fn start() -> Self {
        let config = NetworkConfig {
            network: NetworkId::new(NetworkId::LOCAL).expect("a name"),
            listen: vec!["/ip4/127.0.0.1/udp/0/quic-v1".parse().expect("an address")],
            bootstrap: Vec::new(),
            external: Vec::new(),
            relay: false,
            relay_mbit: None,
            mdns: false,
            upnp: false,
            gossip: false,
            dht: false,
            peer_table: None,
        };
        let key = SecretKey::generate().expect("a key");
        let (network, incoming) = network::start(config, &key, &Metrics::default()).await.expect("starts");
        let (load, loads) = watch::channel(Load::default());
        let (line, seen) = watch::channel(None);
        let parts = BandwidthParts { network: network.clone(), load: loads, streams: incoming.bandwidth, line };
        let stop = CancellationToken::new();
        let config = BandwidthConfig { provides: false, required: REQUIRED };
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
    assert_eq!(*asker.line.borrow(), Some(measured), "it is kept");
    assert_eq!(asker.meter.helpers(false), [], "within the home nothing is learned of the line");
}

#[tokio::test]
async fn a_helper_helps_a_few_times_and_then_rests() {
    let node = Node::start().await;
    let server = Server::new(node.network.clone(), node.load.subscribe());
    let answers: Vec<_> = (0..6).map(|peer| server.refusal(NodeId([peer; 32]))).collect();
    assert_eq!(answers[..4], [None; 4]);
    assert!(answers[4..].iter().all(|answer| matches!(answer, Some(Refusal::Busy { .. }))), "{answers:?}");
}
