//! A server whose clock, patience, children and verifiers are the tests'.

use super::*;
use crate::gpu::proving::in_memory::{Manner, prover};
use aitbc_protocol::{NetworkId, geo::Cell, gpu::challenge::exchange::SHOWN_LIFETIME_MS, text::Line};
use tokio::{sync::mpsc, task::JoinHandle};

/// The first slot that can be booked.
const SLOT: u64 = 150_000_000;
/// For what must come to an end, and must not wait for this.
const LONG: Duration = Duration::from_secs(60);
/// For what is waited for in vain.
const SHORT: Duration = Duration::from_millis(500);
const PATIENT: Patience = Patience { message: LONG, walk: LONG, verdict: LONG };

fn network() -> NetworkId {
    NetworkId::new(NetworkId::LOCAL).expect("a name")
}

fn cell() -> Cell {
    "u09t".parse().expect("a cell")
}

fn key(of: u8) -> SecretKey {
    SecretKey::from_bytes(&[of; 32])
}

fn me() -> NodeId {
    key(1).node_id()
}

struct Bench {
    server: Arc<Server>,
    load: watch::Sender<Load>,
    engines: watch::Sender<Arc<Vec<EngineStatus>>>,
    power: watch::Sender<Arc<PowerState>>,
    shown: watch::Receiver<Vec<Signed<Shown>>>,
    process: watch::Receiver<Option<u32>>,
    store: Store,
    /// Those that were started, in turn.
    children: mpsc::Receiver<JoinHandle<()>>,
    clock: Arc<AtomicU64>,
    _directory: tempfile::TempDir,
}

impl Bench {
    fn new(manner: Manner) -> Self {
        Self::with(manner, PATIENT, false)
    }

    /// `late` has the slot as good as over once the child is there, so that nobody is waited for long until its beginning.
    fn with(manner: Manner, patience: Patience, late: bool) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store::open(directory.path()).expect("a store");
        Self::over(store, directory, manner, patience, late)
    }

    fn over(store: Store, directory: tempfile::TempDir, manner: Manner, patience: Patience, late: bool) -> Self {
        let slots = Slots::of(&network());
        let clock = Arc::new(AtomicU64::new(slots.books_ms(SLOT)));
        let (load, loads) = watch::channel(Load::default());
        let (engines, boards) = watch::channel(Arc::default());
        let (power, powers) = watch::channel(Arc::new(PowerState::unlimited(4)));
        let (shows, shown) = watch::channel(Vec::new());
        let (names, process) = watch::channel(None);
        let (started, children) = mpsc::channel(16);
        let late_clock = Arc::clone(&clock);
        let config = ChallengeConfig {
            network: network(),
            cell: cell(),
            provides: true,
            simulated_mib: Some(1),
            worker: Some("/nowhere".into()),
        };
        let parts = ServerParts {
            key: key(1),
            store: store.clone(),
            power: powers,
            load: loads,
            engines: boards,
            shown: shows,
            process: names,
            clock: Box::new({
                let clock = Arc::clone(&clock);
                move || clock.load(Ordering::Relaxed)
            }),
            start: Box::new(move |_, _| {
                if late {
                    let over = slots.starts_ms(SLOT) + CLOCK_TOLERANCE_MS;
                    late_clock.store(over - SHORT.as_millis() as u64, Ordering::Relaxed);
                }
                let (prover, child) = prover(manner);
                started.try_send(child).expect("a test starts few children, and listens");
                Ok(prover)
            }),
            patience,
        };
        let server = Server::new(config, parts);
        Self { server, load, engines, power, shown, process, store, children, clock, _directory: directory }
    }

    /// A verifier whose stream is served until the task ends.
    fn meet(&self, of: u8) -> (Verifier, JoinHandle<()>) {
        let peer = key(of).node_id();
        let (near, far) = FramedStream::pair(peer, me());
        let incoming = IncomingStream { peer, stream: far };
        (Verifier { stream: near, key: key(of) }, tokio::spawn(Arc::clone(&self.server).serve(incoming, Ok(()))))
    }

    /// What a verifier that books `slot` is told.
    async fn told(&self, slot: u64) -> ToVerifier {
        let (mut verifier, served) = self.meet(9);
        let told = verifier.book(slot).await;
        served.abort();
        told
    }

    /// By the clock `slot` can be booked from now on.
    fn opens(&self, slot: u64) {
        self.clock.store(Slots::of(&network()).books_ms(slot), Ordering::Relaxed);
    }

    /// Whether the next slot can be booked as soon as it is its time: the place is free.
    async fn is_free(&self) -> bool {
        self.opens(SLOT + 1);
        matches!(self.told(SLOT + 1).await, ToVerifier::Booked(_))
    }

    /// Waits until the child that was started first has ended.
    async fn child_ends(&mut self) {
        let child = self.children.recv().await.expect("one was started");
        ends(child).await;
    }
}

/// Waits for a task that must not wait for what it has patience for.
async fn ends(task: JoinHandle<()>) {
    timeout(LONG / 2, task).await.expect("it ends").expect("no panic");
}

struct Verifier {
    stream: FramedStream,
    key: SecretKey,
}

impl Verifier {
    async fn say(&mut self, message: &ToProver) {
        self.stream.send(message, MAX_CHALLENGE_FRAME).await.expect("it listens");
    }

    async fn hear(&mut self) -> ToVerifier {
        let heard = timeout(LONG / 2, self.stream.receive(MAX_CHALLENGE_FRAME)).await.expect("an answer");
        heard.expect("whole frames").expect("no end yet")
    }

    async fn book(&mut self, slot: u64) -> ToVerifier {
        self.say(&ToProver::Book { slot, cell: cell() }).await;
        self.hear().await
    }

    /// Books, and waits until the data set is there: what is claimed, and how fast it is said to be.
    async fn prepare(&mut self, slot: u64) -> (Claim, u64) {
        let ToVerifier::Booked(claim) = self.book(slot).await else { panic!("refused") };
        let ToVerifier::Ready { rate } = self.hear().await else { panic!("not derived") };
        (claim, rate)
    }

    /// Has a small walk done.
    async fn walk(&mut self, claim: &Claim) -> Task {
        let task = Task { items: claim.items(), lanes: 64, steps: 4 };
        self.say(&ToProver::Walk { nonce: Nonce([3; 16]), task }).await;
        let root = self.hear().await;
        assert!(matches!(root, ToVerifier::Root(_)), "{root:?}");
        task
    }

    /// Asks for lanes.
    async fn open(&mut self) -> ToVerifier {
        self.say(&ToProver::Open { nonce: Nonce([4; 16]) }).await;
        self.hear().await
    }
}

/// What a verifier says that found this at `now`.
fn found(claim: &Claim, task: &Task, rate: u64, now: UnixMillis) -> Shown {
    Shown {
        prover: me(),
        device: claim.device.clone(),
        bytes: task.bytes(),
        rate,
        simulated: claim.simulated,
        issued_ms: now,
        expires_ms: now + SHOWN_LIFETIME_MS,
    }
}

fn seal(by: u8, shown: &Shown) -> Signed<Shown> {
    signing::seal(&key(by), &network(), shown).expect("it fits")
}

fn refusal(told: &ToVerifier) -> Option<Refusal> {
    if let ToVerifier::Refused(refusal) = told { Some(*refusal) } else { None }
}

#[tokio::test]
async fn a_slot_is_one_verifiers_whatever_becomes_of_it() {
    let mut bench = Bench::new(Manner::Idle(3));
    let (mut first, served) = bench.meet(2);
    first.prepare(SLOT).await;
    assert_eq!(refusal(&bench.told(SLOT).await), Some(Refusal::Taken), "while the first has it");
    drop(first);
    ends(served).await;
    bench.child_ends().await;
    assert_eq!(refusal(&bench.told(SLOT).await), Some(Refusal::Taken), "and after the first has left");
    assert!(bench.children.try_recv().is_err(), "nobody else has had memory filled");
    bench.opens(SLOT + 1);
    assert!(matches!(bench.told(SLOT + 1).await, ToVerifier::Booked(_)), "the next is anybody's");
}

#[tokio::test]
async fn memory_that_only_pretends_is_no_use_of_a_gpu() {
    let bench = Bench::new(Manner::Idle(3));
    let (mut verifier, _served) = bench.meet(2);
    verifier.prepare(SLOT).await;
    assert_eq!(*bench.process.borrow(), None, "its draw and its heat are none of a GPU's");
}

#[tokio::test]
async fn there_is_one_data_set_at_a_time() {
    let bench = Bench::new(Manner::Idle(3));
    let (mut first, _served) = bench.meet(2);
    first.prepare(SLOT).await;
    // Whoever does not begin its walk holds the place for a while, also when the next slot can be booked.
    bench.opens(SLOT + 1);
    assert_eq!(refusal(&bench.told(SLOT + 1).await), Some(Refusal::Taken));
}

/// Where a verifier falls silent.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Silence {
    Booking,
    Walking,
    Opening,
}

#[tokio::test]
async fn a_verifier_that_falls_silent_is_given_up() {
    let message = Patience { message: SHORT, ..PATIENT };
    for (silence, patience) in
        [(Silence::Booking, message), (Silence::Walking, PATIENT), (Silence::Opening, message)]
    {
        let mut bench = Bench::with(Manner::Idle(3), patience, silence == Silence::Walking);
        let (mut verifier, served) = bench.meet(2);
        if silence != Silence::Booking {
            let (claim, _) = verifier.prepare(SLOT).await;
            if silence == Silence::Opening {
                verifier.walk(&claim).await;
            }
        }
        ends(served).await;
        if silence != Silence::Booking {
            bench.child_ends().await;
        }
        assert!(bench.is_free().await, "{silence:?}");
        drop(verifier);
    }
}

#[tokio::test]
async fn a_verifier_that_does_not_read_is_given_up() {
    let bench = Bench::with(Manner::Idle(3), Patience { message: SHORT, ..PATIENT }, false);
    let peer = key(2).node_id();
    // Too little for what is claimed.
    let (near, far) = tokio::io::duplex(32);
    let mut verifier = FramedStream::from_io(me(), near);
    let incoming = IncomingStream { peer, stream: FramedStream::from_io(peer, far) };
    let served = tokio::spawn(Arc::clone(&bench.server).serve(incoming, Ok(())));
    verifier.send(&ToProver::Book { slot: SLOT, cell: cell() }, MAX_CHALLENGE_FRAME).await.expect("it listens");
    ends(served).await;
    assert!(bench.is_free().await);
}

#[tokio::test]
async fn a_child_that_hangs_is_given_up() {
    let patience = [PATIENT, Patience { walk: SHORT, ..PATIENT }, Patience { message: SHORT, ..PATIENT }];
    for (answers, patience) in patience.into_iter().enumerate() {
        let mut bench = Bench::with(Manner::Idle(answers), patience, answers == 0);
        let (mut verifier, served) = bench.meet(2);
        let ToVerifier::Booked(claim) = verifier.book(SLOT).await else { panic!("refused") };
        if answers > 0 {
            verifier.hear().await;
            let task = Task { items: claim.items(), lanes: 64, steps: 4 };
            verifier.say(&ToProver::Walk { nonce: Nonce([3; 16]), task }).await;
        }
        if answers > 1 {
            verifier.hear().await;
            verifier.say(&ToProver::Open { nonce: Nonce([4; 16]) }).await;
        }
        assert_eq!(refusal(&verifier.hear().await), Some(Refusal::Failed), "{answers} answers");
        ends(served).await;
        bench.child_ends().await;
        assert!(bench.is_free().await, "{answers} answers");
    }
}

fn engine(state: EngineState) -> Arc<Vec<EngineStatus>> {
    let (name, models, warnings) = ("llama.cpp".to_owned(), Vec::new(), Vec::new());
    Arc::new(vec![EngineStatus { name, state, pid: None, models, warnings }])
}

/// What comes before a challenge, and how it begins.
type Cause = (&'static str, fn(&Bench));

fn causes() -> [Cause; 6] {
    [
        ("a job runs", |bench| {
            bench.load.send_replace(Load { running: 1, queued: 0 });
        }),
        ("a job waits", |bench| {
            bench.load.send_replace(Load { running: 0, queued: 1 });
        }),
        ("a model is loading", |bench| {
            bench.engines.send_replace(engine(EngineState::Loading { percent: 50 }));
        }),
        ("a model is about to load again", |bench| {
            bench.engines.send_replace(engine(EngineState::BackingOff { reason: "it fell".into(), retry_ms: 1 }));
        }),
        ("the owner's limits allow nothing", |bench| {
            bench.power.send_replace(Arc::new(PowerState::unlimited(0)));
        }),
        ("what runs is slowed down", |bench| {
            let mut state = PowerState::unlimited(4);
            state.decision.running = Running::Slow(50);
            bench.power.send_replace(Arc::new(state));
        }),
    ]
}

fn calm(bench: &Bench) {
    bench.load.send_replace(Load::default());
    bench.engines.send_replace(engine(EngineState::Ready));
    bench.power.send_replace(Arc::new(PowerState::unlimited(4)));
}

#[tokio::test]
async fn jobs_models_and_limits_come_first() {
    let bench = Bench::new(Manner::Idle(3));
    for (what, begin) in causes() {
        begin(&bench);
        assert_eq!(refusal(&bench.told(SLOT).await), Some(Refusal::Busy), "{what}");
        calm(&bench);
    }
    assert!(matches!(bench.told(SLOT).await, ToVerifier::Booked(_)), "a refusal uses no slot up");
}

#[tokio::test]
async fn what_comes_in_the_middle_of_a_challenge_ends_it_at_once() {
    for (what, begin) in causes() {
        // It hangs in its walk, so that only what comes can end it so soon.
        let mut bench = Bench::new(Manner::Idle(1));
        let (mut verifier, served) = bench.meet(2);
        let (claim, _) = verifier.prepare(SLOT).await;
        let task = Task { items: claim.items(), lanes: 64, steps: 4 };
        verifier.say(&ToProver::Walk { nonce: Nonce([3; 16]), task }).await;
        begin(&bench);
        assert_eq!(refusal(&verifier.hear().await), Some(Refusal::Busy), "{what}");
        ends(served).await;
        bench.child_ends().await;
        calm(&bench);
        assert!(bench.is_free().await, "{what}");
    }
}

#[tokio::test]
async fn what_cannot_be_answered_is_refused_with_its_reason() {
    let bench = Bench::new(Manner::Idle(3));
    let (mut verifier, served) = bench.meet(2);
    verifier.say(&ToProver::Book { slot: SLOT, cell: "u09".parse().expect("a cell") }).await;
    assert_eq!(refusal(&verifier.hear().await), Some(Refusal::Cell));
    ends(served).await;
    for slot in [SLOT - 1, SLOT + 1, 0, u64::MAX] {
        assert_eq!(refusal(&bench.told(slot).await), Some(Refusal::Slot), "{slot}");
    }
    let (mut verifier, served) = bench.meet(2);
    let (claim, _) = verifier.prepare(SLOT).await;
    let task = Task { items: claim.items() - 1, lanes: 64, steps: 4 };
    verifier.say(&ToProver::Walk { nonce: Nonce([3; 16]), task }).await;
    assert_eq!(refusal(&verifier.hear().await), Some(Refusal::Task));
    ends(served).await;

    let (near, far) = FramedStream::pair(key(2).node_id(), me());
    let incoming = IncomingStream { peer: key(2).node_id(), stream: far };
    Arc::clone(&bench.server).serve(incoming, Err(Busy { retry_ms: 1 })).await;
    assert_eq!(refusal(&Verifier { stream: near, key: key(2) }.hear().await), Some(Refusal::TooOften));
}

#[tokio::test]
async fn what_the_child_computed_wrongly_is_not_signed() {
    let mut bench = Bench::new(Manner::Miscounting);
    let (mut verifier, served) = bench.meet(2);
    let (claim, _) = verifier.prepare(SLOT).await;
    verifier.walk(&claim).await;
    let told = verifier.open().await;
    assert_eq!(refusal(&told), Some(Refusal::Failed), "{told:?}");
    let after = verifier.stream.receive::<ToVerifier>(MAX_CHALLENGE_FRAME).await.expect("whole frames");
    assert!(after.is_none(), "{after:?}");
    ends(served).await;
    bench.child_ends().await;
}

#[tokio::test]
async fn what_was_shown_is_offered_and_outlives_a_restart() {
    let mut bench = Bench::new(Manner::Honest);
    let (mut verifier, served) = bench.meet(2);
    let (claim, rate) = verifier.prepare(SLOT).await;
    let task = verifier.walk(&claim).await;
    let opened = verifier.open().await;
    assert!(matches!(opened, ToVerifier::Opened(_)), "{opened:?}");
    // Memory is free again while the verifier recomputes.
    bench.child_ends().await;
    let shown = found(&claim, &task, rate, bench.server.now_ms());
    let signed = signing::seal(&verifier.key, &network(), &shown).expect("it fits");
    verifier.say(&ToProver::Shown(signed.clone())).await;
    ends(served).await;
    assert_eq!(*bench.shown.borrow(), std::slice::from_ref(&signed));

    let Bench { store, _directory: directory, .. } = bench;
    let after_restart = Bench::over(store, directory, Manner::Honest, PATIENT, false);
    after_restart.server.recall().await;
    assert_eq!(*after_restart.shown.borrow(), [signed]);
    after_restart.clock.fetch_add(SHOWN_LIFETIME_MS, Ordering::Relaxed);
    after_restart.server.recall().await;
    assert_eq!(*after_restart.shown.borrow(), [], "it stood for a day");
}

#[tokio::test]
async fn a_verifier_that_says_nothing_of_what_it_found_keeps_no_place() {
    let bench = Bench::with(Manner::Honest, Patience { verdict: SHORT, ..PATIENT }, false);
    let (mut verifier, served) = bench.meet(2);
    let (claim, _) = verifier.prepare(SLOT).await;
    verifier.walk(&claim).await;
    verifier.open().await;
    assert!(bench.is_free().await, "while the verifier recomputes");
    ends(served).await;
    assert_eq!(*bench.shown.borrow(), []);
}

/// A verifier, what was claimed and what was walked.
fn measured() -> (Claim, Proved) {
    let claim = Claim { device: Line::lossy("a card"), bytes: 1 << 20, simulated: false };
    let task = Task { items: claim.items(), lanes: 64, steps: 4 };
    (claim, Proved { task, told: 9_000 })
}

#[tokio::test]
async fn a_verifiers_word_is_kept_only_if_it_is_of_this_challenge() {
    let bench = Bench::new(Manner::Idle(3));
    let (claim, proved) = measured();
    let (peer, now) = (key(2).node_id(), bench.server.now_ms());
    let right = found(&claim, &proved.task, proved.told, now);
    let later = now + CLOCK_TOLERANCE_MS + 1;
    let wrong: [(&str, Shown); 12] = [
        ("more memory", Shown { bytes: right.bytes + 1, ..right.clone() }),
        ("less memory", Shown { bytes: right.bytes - 1, ..right.clone() }),
        ("faster than it told", Shown { rate: proved.told + 1, ..right.clone() }),
        ("so slow that it was late", Shown { rate: proved.told / LATE - 1, ..right.clone() }),
        ("another prover", Shown { prover: peer, ..right.clone() }),
        ("another device", Shown { device: Line::lossy("another card"), ..right.clone() }),
        ("it pretends", Shown { simulated: true, ..right.clone() }),
        ("of tomorrow", Shown { issued_ms: later, ..right.clone() }),
        ("over", Shown { expires_ms: now, ..right.clone() }),
        ("for too long", Shown { expires_ms: right.expires_ms + 1, ..right.clone() }),
        ("for ever", Shown { expires_ms: u64::MAX, ..right.clone() }),
        ("of yesterday", Shown { issued_ms: now - SHOWN_LIFETIME_MS, expires_ms: now, ..right.clone() }),
    ];
    for (what, shown) in wrong {
        let kept = bench.server.keep(peer, &claim, &proved, seal(2, &shown)).await;
        assert!(matches!(kept, Err(ServeError::OutOfTurn)), "{what}: {kept:?}");
    }
    let elsewhere = NetworkId::new("elsewhere").expect("a name");
    let elsewhere = signing::seal(&key(2), &elsewhere, &right).expect("it fits");
    for (what, signed) in [("signed by another", seal(3, &right)), ("of another network", elsewhere)] {
        let kept = bench.server.keep(peer, &claim, &proved, signed).await;
        assert!(matches!(kept, Err(ServeError::OutOfTurn)), "{what}: {kept:?}");
    }
    assert_eq!((bench.shown.borrow().len(), bench.store.shown().expect("it reads").len()), (0, 0));

    let slowest = Shown { rate: proved.told / LATE, ..right.clone() };
    for shown in [right, slowest] {
        let signed = seal(2, &shown);
        bench.server.keep(peer, &claim, &proved, signed.clone()).await.expect("it is what was measured");
        assert_eq!(*bench.shown.borrow(), std::slice::from_ref(&signed));
        assert_eq!(bench.store.shown().expect("it reads"), [signed]);
    }
}

#[tokio::test]
async fn the_newest_word_of_each_verifier_is_kept_the_newest_of_all_first() {
    let bench = Bench::new(Manner::Idle(3));
    let (claim, proved) = measured();
    let verifiers = || 2..4 + u8::try_from(MAX_SHOWN).expect("a few");
    for of in verifiers().chain([5]) {
        bench.clock.fetch_add(1_000, Ordering::Relaxed);
        let shown = found(&claim, &proved.task, proved.told, bench.server.now_ms());
        bench.server.keep(key(of).node_id(), &claim, &proved, seal(of, &shown)).await.expect("kept");
    }
    let kept: Vec<NodeId> = bench.shown.borrow().iter().map(Signed::signer).collect();
    let others = verifiers().rev().filter(|of| *of != 5);
    let newest: Vec<NodeId> = [5].into_iter().chain(others).take(MAX_SHOWN).map(|of| key(of).node_id()).collect();
    assert_eq!(kept, newest);
}
