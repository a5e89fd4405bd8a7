//! A real verifier against provers that are honest, and against every kind that is not, a hundred times each.

use super::asking::{ChallengeError, Examination, Finding};
use crate::{clock::now_ms, network::FramedStream};
use aitbc_crypto::{SecretKey, signing};
use aitbc_protocol::{
    NetworkId, NodeId, Nonce,
    geo::Cell,
    gpu::challenge::{
        Cache, Key, Task, TaskError, Tree, Words,
        exchange::{Claim, Opened, Root, ToProver, ToVerifier, beacon},
        item, opened_lanes, walk,
    },
    text::Line,
    wire::MAX_CHALLENGE_FRAME,
};
use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

const ROUNDS: u64 = 100;
const SLOT: u64 = 7;
const ITEMS: u32 = 2048;

static CACHE: LazyLock<Arc<Cache>> = LazyLock::new(|| Arc::new(Cache::new(&[1; 32], 1 << 10)));

fn network() -> NetworkId {
    NetworkId::new(NetworkId::LOCAL).expect("a name")
}

fn cell() -> Cell {
    "u09t".parse().expect("a cell")
}

fn keys() -> (SecretKey, SecretKey) {
    (SecretKey::from_bytes(&[1; 32]), SecretKey::from_bytes(&[2; 32]))
}

/// How a prover answers.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Manner {
    Honest,
    /// Every other item is derived when it is met.
    HalfTheMemory,
    /// One lane of four is made up.
    ForgedLanes,
    /// What another peer would have answered.
    AnotherPeers,
    /// The data set of the slot before.
    OldData,
    /// The walk of another nonce, signed for this one.
    OldWalk,
    /// What it signed in an earlier challenge.
    OldSignature,
    /// It says that it is a real card, and a slow one.
    Slow,
    /// Nothing is wrong but the time.
    Late(Duration),
}

struct Prover {
    key: SecretKey,
    manner: Manner,
    rate: u64,
    stop: Arc<AtomicBool>,
}

impl Prover {
    fn data_key(&self) -> Key {
        let slot = if self.manner == Manner::OldData { SLOT - 1 } else { SLOT };
        let peer = if self.manner == Manner::AnotherPeers { NodeId([9; 32]) } else { self.key.node_id() };
        Key::new(&peer, &beacon(&network(), &cell(), slot), &Nonce([0; 16]))
    }

    fn data(&self) -> Vec<Option<Words>> {
        let key = self.data_key();
        let kept = |index: u32| self.manner != Manner::HalfTheMemory || index.is_multiple_of(2);
        (0..ITEMS).map(|index| kept(index).then(|| item(&CACHE, &key, index))).collect()
    }

    /// `None` where it gives up.
    fn tree(&self, data: &[Option<Words>], nonce: &Nonce, task: &Task) -> Option<Tree> {
        let nonce = if self.manner == Manner::OldWalk { Nonce([3; 16]) } else { *nonce };
        let peer = if self.manner == Manner::AnotherPeers { NodeId([9; 32]) } else { self.key.node_id() };
        let key =
            Key { walk: Key::new(&peer, &beacon(&network(), &cell(), SLOT), &nonce).walk, ..self.data_key() };
        let states = (0..task.lanes).map(|lane| {
            if self.stop.load(Ordering::Relaxed) {
                return None;
            }
            if self.manner == Manner::ForgedLanes && lane % 4 == 0 {
                return Some([lane; 16]);
            }
            let read = |index: u32| data[index as usize].unwrap_or_else(|| item(&CACHE, &key, index));
            Some(walk(&key, task, lane, read))
        });
        states.collect::<Option<Vec<Words>>>().map(Tree::new)
    }

    /// Bytes a second of the slowest of three walks with their roots, as real provers measure it.
    fn measured(data: &[Option<Words>]) -> u64 {
        let honest = Self { key: keys().1, manner: Manner::Honest, rate: 0, stop: Arc::default() };
        let task = Task { items: ITEMS, lanes: 8192, steps: 64 };
        let walk = |_| {
            let began = Instant::now();
            honest.tree(data, &Nonce([4; 16]), &task).expect("nothing stops it");
            began.elapsed()
        };
        let slowest = (0..3).map(walk).max().expect("three walks");
        (task.read_bytes() as f64 / slowest.as_secs_f64()) as u64
    }

    /// Answers one challenge, over a data set that it has before.
    async fn answer(self, data: Vec<Option<Words>>, mut stream: FramedStream) {
        let next =
            async |stream: &mut FramedStream| stream.receive::<ToProver>(MAX_CHALLENGE_FRAME).await.ok().flatten();
        let Some(ToProver::Book { slot, cell }) = next(&mut stream).await else { panic!("a booking comes first") };
        let bytes = u64::from(ITEMS) * 64 * 5 / 4;
        let claim = Claim { device: Line::lossy("a card"), bytes, simulated: self.manner != Manner::Slow };
        assert_eq!(claim.items(), ITEMS);
        stream.send(&ToVerifier::Booked(claim), MAX_CHALLENGE_FRAME).await.expect("sent");
        stream.send(&ToVerifier::Ready { rate: self.rate }, MAX_CHALLENGE_FRAME).await.expect("sent");
        let (nonce, task) = match next(&mut stream).await {
            Some(ToProver::Walk { nonce, task }) => (nonce, task),
            Some(ToProver::Failed(_)) if self.manner == Manner::Slow => return,
            other => panic!("then a walk, and not {other:?}"),
        };
        let verifier = stream.peer();
        if let Manner::Late(by) = self.manner {
            tokio::time::sleep(by).await;
        }
        let (prover, tree) = tokio::task::spawn_blocking(move || {
            let tree = self.tree(&data, &nonce, &task);
            (self, tree)
        })
        .await
        .expect("it walks");
        let Some(tree) = tree else { return };
        let signed_nonce = if prover.manner == Manner::OldSignature { Nonce([5; 16]) } else { nonce };
        let root = Root { verifier, cell, slot, nonce: signed_nonce, task, root: tree.root() };
        let signed = signing::seal(&prover.key, &network(), &root).expect("it fits");
        // From here on the verifier may have left.
        if stream.send(&ToVerifier::Root(signed), MAX_CHALLENGE_FRAME).await.is_err() {
            return;
        }
        let Some(ToProver::Open { nonce }) = next(&mut stream).await else { return };
        let lanes = opened_lanes(&nonce, &root.root, task.lanes);
        let openings = lanes.into_iter().filter_map(|lane| tree.open(lane)).collect();
        let opened = Opened { root, nonce, openings };
        let signed = signing::seal(&prover.key, &network(), &opened).expect("it fits");
        let _ = stream.send(&ToVerifier::Opened(signed), MAX_CHALLENGE_FRAME).await;
        let _ = next(&mut stream).await;
    }
}

/// One challenge of a prover of this manner that tells `rate`, or what it measures.
async fn challenge(
    manner: Manner,
    rate: Option<u64>,
    task: fn(u32, u64, u64) -> Result<Task, TaskError>,
) -> Result<Finding, ChallengeError> {
    let (verifier, key) = keys();
    let (peer, stop) = (key.node_id(), Arc::new(AtomicBool::new(false)));
    let (mut near, far) = FramedStream::pair(verifier.node_id(), peer);
    let mut prover = Prover { key, manner, rate: 0, stop: Arc::clone(&stop) };
    let (prover, data) = tokio::task::spawn_blocking(move || {
        let data = prover.data();
        prover.rate = rate.unwrap_or_else(|| match manner {
            // It says that it has everything, and knows how fast that would be.
            Manner::HalfTheMemory => Prover::measured(
                &Prover { manner: Manner::Honest, stop: Arc::default(), key: keys().1, rate: 0 }.data(),
            ),
            _ => Prover::measured(&data),
        });
        (prover, data)
    })
    .await
    .expect("a data set");
    let answering = tokio::spawn(prover.answer(data, far));
    let (progress, _steps) = mpsc::channel(8);
    let examination = Examination {
        key: &verifier,
        network: &network(),
        peer,
        cell: cell(),
        slot: SLOT,
        starts_ms: now_ms() + 20,
        path_ms: 0,
        cache: Arc::clone(&CACHE),
        task,
    };
    let finding = examination.run(&mut near, &progress).await;
    stop.store(true, Ordering::Relaxed);
    drop(near);
    answering.await.expect("the prover ends");
    finding
}

/// A quarter of a second, so that a scheduler's whims do not count.
fn long(items: u32, rate: u64, _: u64) -> Result<Task, TaskError> {
    Task::lasting(items, rate, 250)
}

fn short(items: u32, rate: u64, _: u64) -> Result<Task, TaskError> {
    Task::lasting(items, rate, 20)
}

/// What the content alone gives away needs no time: the smallest walk there is.
const SLOW: Option<u64> = Some(1_000_000);

/// Keeps processors and a path busy until it is dropped.
struct Load(Arc<AtomicBool>);

impl Load {
    fn new() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        for _ in 0..std::thread::available_parallelism().map_or(1, std::num::NonZero::get) {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let mut sum = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    sum = std::hint::black_box(sum.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
                }
            });
        }
        let idle = Arc::clone(&stop);
        tokio::spawn(async move {
            let (mut near, mut far) = FramedStream::pair(NodeId([1; 32]), NodeId([2; 32]));
            let block = ToProver::Failed(Line::lossy(&"x".repeat(150)));
            while !idle.load(Ordering::Relaxed) {
                near.send(&block, MAX_CHALLENGE_FRAME).await.expect("sent");
                far.receive::<ToProver>(MAX_CHALLENGE_FRAME).await.expect("received");
                tokio::task::yield_now().await;
            }
        });
        Self(stop)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_honest_prover_passes_while_processors_and_network_are_loaded() {
    let _load = Load::new();
    for round in 0..ROUNDS {
        let finding = challenge(Manner::Honest, None, long).await.expect("a finding");
        let Finding::Shown { shown, .. } = finding else { panic!("round {round}: {finding:?}") };
        assert_eq!((shown.prover, shown.bytes), (keys().1.node_id(), u64::from(ITEMS) * 64));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_of_the_memory_is_too_late() {
    for round in 0..ROUNDS {
        let finding = challenge(Manner::HalfTheMemory, None, short).await.expect("a finding");
        assert!(matches!(finding, Finding::Late { .. }), "round {round}: {finding:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_answers_are_evidence_that_anybody_can_check() {
    for round in 0..ROUNDS {
        for manner in [Manner::ForgedLanes, Manner::AnotherPeers, Manner::OldData, Manner::OldWalk] {
            let finding = challenge(manner, SLOW, short).await.expect("a finding");
            let Finding::Wrong { evidence, .. } = finding else {
                panic!("round {round}: {manner:?}: {finding:?}")
            };
            let opened = signing::open(&evidence, &network()).expect("signed");
            let accused = evidence.signer();
            assert_eq!(accused, keys().1.node_id());
            assert!(opened.check(&CACHE, &network(), &accused).is_err(), "{manner:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_signed_for_another_challenge_is_no_answer() {
    for _ in 0..ROUNDS {
        let refused = challenge(Manner::OldSignature, SLOW, short).await.expect_err("refused");
        assert!(matches!(refused, ChallengeError::OutOfTurn), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_says_that_it_is_slow_shows_nothing() {
    let refused = challenge(Manner::Slow, SLOW, short).await.expect_err("nothing to show");
    assert!(matches!(refused, ChallengeError::TooSlow { told: 1_000_000, .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_answer_is_late_however_right_it_is() {
    for round in 0..ROUNDS {
        let finding = challenge(Manner::Late(Duration::from_millis(150)), SLOW, short).await.expect("a finding");
        assert!(matches!(finding, Finding::Late { shown, told } if shown < told), "round {round}: {finding:?}");
    }
}
