//! A real client and a real provider with a path between them that breaks: before, in and after every frame, in both
//! directions. Whatever is lost, the answer is whole and comes once, and both sides end with one sum.

use super::*;
use crate::{
    engine::fixtures::saying,
    jobs::tests::{self as provider_side, TestProvider},
    market::Ledger,
    routing::settle::settle,
    storage::Store,
};
use aitbc_protocol::{JobId, Nonce, wire::HEADER_BYTES};
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed},
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex, split};

/// Tokens of the answer, and of a window: a few windows, so that there are cheques on the way.
const TOKENS: u32 = 20;
const WINDOW: u32 = 8;
/// What a path holds.
const BUFFER: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Towards {
    Provider,
    Client,
}

/// How much of the frame in which a path breaks arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arrives {
    Nothing,
    Half,
    All,
}

/// Who notices that a path broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Noticed {
    Both,
    /// The provider goes on on a path that leads nowhere.
    Client,
}

/// Where a path breaks.
#[derive(Clone, Copy, Debug)]
struct Cut {
    towards: Towards,
    frame: usize,
    arrives: Arrives,
    noticed: Noticed,
}

const CUTS: [Arrives; 3] = [Arrives::Nothing, Arrives::Half, Arrives::All];

/// Forwards frames until the path breaks; false where the sender closed it first.
async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    breaks: Option<(usize, Arrives)>,
    frames: &AtomicUsize,
) -> bool {
    loop {
        let mut frame = vec![0; HEADER_BYTES];
        if from.read_exact(&mut frame).await.is_err() {
            let _ = to.shutdown().await;
            return false;
        }
        let length = u32::from_be_bytes(frame[..].try_into().unwrap()) as usize;
        frame.resize(HEADER_BYTES + length, 0);
        if from.read_exact(&mut frame[HEADER_BYTES..]).await.is_err() {
            return true;
        }
        let number = frames.fetch_add(1, Relaxed);
        let arrives = breaks.filter(|(at, _)| *at == number).map(|(_, arrives)| arrives);
        let part = match arrives {
            None | Some(Arrives::All) => frame.len(),
            Some(Arrives::Half) => HEADER_BYTES + length / 2,
            Some(Arrives::Nothing) => 0,
        };
        if to.write_all(&frame[..part]).await.is_err() || arrives.is_some() {
            return true;
        }
    }
}

/// A path between the two that breaks where `cut` says.
async fn path(near: DuplexStream, far: DuplexStream, cut: Option<Cut>, counts: Arc<[AtomicUsize; 2]>) {
    let at = |towards| cut.filter(|cut| cut.towards == towards).map(|cut| (cut.frame, cut.arrives));
    let (near_read, near_write) = split(near);
    let (far_read, far_write) = split(far);
    let there = carry(near_read, far_write, at(Towards::Provider), &counts[0]);
    let back = carry(far_read, near_write, at(Towards::Client), &counts[1]);
    tokio::pin!(there, back);
    let (mut there_done, mut back_done) = (false, false);
    while !(there_done && back_done) {
        let broke = tokio::select! {
            broke = &mut there, if !there_done => { there_done = true; broke }
            broke = &mut back, if !back_done => { back_done = true; broke }
        };
        if broke {
            return;
        }
    }
}

/// A provider that says one answer to whoever asks, and a client.
struct World {
    provider: TestProvider,
    client: Ledger,
    jobs: AtomicU32,
    _directory: tempfile::TempDir,
}

/// One job with its paths.
struct Job<'a> {
    world: &'a World,
    quote: Quote,
    /// Where the next paths break; those after them hold.
    cuts: Mutex<Vec<Cut>>,
    frames: Arc<[AtomicUsize; 2]>,
    opened: AtomicUsize,
}

impl World {
    fn new() -> Self {
        let engine = saying(provider_side::engine_model(), TOKENS);
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let client = Ledger::start(store, provider_side::client_key(), network(), &Metrics::default()).unwrap();
        Self { provider: TestProvider::new(engine), client, jobs: AtomicU32::new(0), _directory: directory }
    }

    /// A new job whose paths break one after the other.
    fn job(&self, cuts: &[Cut]) -> Job<'_> {
        let number = self.jobs.fetch_add(1, Relaxed);
        let mut id = [0; 16];
        id[..4].copy_from_slice(&number.to_be_bytes());
        let quote = provider_side::quote();
        let max_total = quote.total(TOKENS).unwrap();
        let quote = Quote {
            nonce: Nonce(id),
            job: JobId(id),
            window: WINDOW,
            max_completion_tokens: TOKENS,
            max_total,
            ..quote
        };
        let mut cuts = cuts.to_vec();
        cuts.reverse();
        Job { world: self, quote, cuts: Mutex::new(cuts), frames: Arc::default(), opened: AtomicUsize::new(0) }
    }
}

impl Job<'_> {
    /// A stream to the provider over a new path.
    fn open(&self) -> FramedStream {
        let (client, provider) = (provider_side::client_key().node_id(), provider_side::provider_key().node_id());
        let cut = self.cuts.lock().unwrap().pop();
        self.opened.fetch_add(1, Relaxed);
        let (near, near_far) = duplex(BUFFER);
        let (far_near, far) = duplex(BUFFER);
        self.world.provider.serve(FramedStream::from_io(client, far));
        let counts = if cut.is_some() { Arc::default() } else { self.frames.clone() };
        if cut.is_some_and(|cut| cut.noticed == Noticed::Client) {
            self.world.provider.keep(blind(near_far, far_near, cut, counts));
        } else {
            self.world.provider.keep(path(near_far, far_near, cut, counts));
        }
        FramedStream::from_io(provider, near)
    }

    async fn run(&self) -> (Report, Vec<JobUpdate>) {
        let Self { world, quote, .. } = self;
        let signed = seal(&provider_side::provider_key(), &network(), quote).unwrap();
        let provider = provider_side::provider_key().node_id();
        world.client.open(provider, Vec::new(), quote.job, signed.clone()).await.unwrap();
        let (updates, mut listener) = mpsc::channel(1024);
        let reopen = || -> Opened { Box::pin(std::future::ready(Ok(self.open()))) };
        let patience = Patience::default();
        let (id, spec) = (network(), provider_side::spec());
        let (stop, metrics) = (CancellationToken::new(), RoutingMetrics::new(&Metrics::default()));
        let attempt = Attempt {
            ledger: &world.client,
            network: &id,
            provider,
            quote,
            signed: &signed,
            spec: &spec,
            patience,
            updates: &updates,
            asked: Instant::now(),
            stop: &stop,
            reopen: &reopen,
            better: &stays,
            longest_round_trip_ms: 0,
            metrics: &metrics,
        };
        let stream = self.open();
        let report = attempt.run(stream).await;
        drop(updates);
        let mut seen = Vec::new();
        while let Some(update) = listener.recv().await {
            seen.push(update);
        }
        (report, seen)
    }

    /// Runs the job and checks that nothing is missing and nothing came twice, on either side's books.
    async fn survives(&self, what: &str) {
        let (report, updates) = self.run().await;
        assert!(matches!(report.ended, Ended::Whole(Finish::Stop)), "{what}: {:?}", report.ended);
        let mut text = String::new();
        let mut tokens: Vec<u32> = Vec::new();
        for update in &updates {
            if let JobUpdate::Delta { text: piece, tokens: ids, .. } = update {
                text.push_str(piece);
                tokens.extend(ids);
            }
        }
        let expected: String = (0..TOKENS).map(|id| format!(" {id}")).collect();
        assert_eq!(text, expected + " end", "{what}");
        assert_eq!(tokens, (0..TOKENS).collect::<Vec<_>>(), "{what}");
        let lost = updates.iter().filter(|update| matches!(update, JobUpdate::PathLost { .. })).count();
        let resumed = updates.iter().filter(|update| matches!(update, JobUpdate::Resumed { .. })).count();
        assert_eq!(lost, resumed, "{what}");
        self.settled(&report, what).await;
    }

    /// Both sides end with one sum, if need be by settling, as the node would at once.
    async fn settled(&self, report: &Report, what: &str) {
        let world = self.world;
        let nonce = self.quote.nonce;
        let job = async |ledger: &Ledger, side| ledger.job(side, nonce).await.unwrap().unwrap();
        if !report.settled {
            self.cuts.lock().unwrap().clear();
            let record = job(&world.client, Side::Client).await;
            settle(&world.client, nonce, record, self.open(), |evidence| panic!("{evidence:?}")).await.unwrap();
        }
        let (ours, theirs) =
            (job(&world.client, Side::Client).await, job(&world.provider.ledger(), Side::Provider).await);
        assert_eq!((ours.state, theirs.state), (JobState::Completed, JobState::Completed), "{what}");
        assert_eq!((ours.paid, theirs.paid), (self.quote.max_total, self.quote.max_total), "{what}");
    }
}

/// A path of which the provider does not notice that it broke.
async fn blind(near: DuplexStream, far: DuplexStream, cut: Option<Cut>, counts: Arc<[AtomicUsize; 2]>) {
    // What the provider holds is kept open by a second path that leads nowhere.
    let (into, held) = duplex(BUFFER);
    let (mut far_read, mut far_write) = split(far);
    let (mut held_read, mut held_write) = split(held);
    let bridge = async {
        tokio::join!(
            async {
                let _ = tokio::io::copy(&mut far_read, &mut held_write).await;
            },
            async {
                let _ = tokio::io::copy(&mut held_read, &mut far_write).await;
                std::future::pending::<()>().await;
            }
        );
    };
    tokio::join!(path(near, into, cut, counts), bridge);
}

/// Frames of a job whose path holds: towards the provider, and towards the client.
async fn frames(world: &World) -> [usize; 2] {
    let job = world.job(&[]);
    job.survives("an unbroken path").await;
    [job.frames[0].load(Relaxed), job.frames[1].load(Relaxed)]
}

fn both(towards: Towards, frame: usize, arrives: Arrives) -> Cut {
    Cut { towards, frame, arrives, noticed: Noticed::Both }
}

#[tokio::test]
async fn an_answer_survives_a_path_that_breaks_anywhere() {
    let world = World::new();
    let [there, back] = frames(&world).await;
    assert!(there >= 5 && back >= 4, "opening, cheques and leave; admission, chunks and receipt: {there}, {back}");
    for arrives in CUTS {
        for (towards, frames) in [(Towards::Provider, there), (Towards::Client, back)] {
            for frame in 0..=frames {
                let cut = both(towards, frame, arrives);
                world.job(&[cut]).survives(&format!("{cut:?}")).await;
            }
        }
    }
}

#[tokio::test]
async fn an_answer_survives_paths_that_break_one_after_the_other() {
    let world = World::new();
    let [there, back] = frames(&world).await;
    for first in [both(Towards::Client, 2, Arrives::Half), both(Towards::Provider, 1, Arrives::Nothing)] {
        for arrives in CUTS {
            for frame in 0..there {
                let cuts = [first, both(Towards::Provider, frame, arrives)];
                world.job(&cuts).survives(&format!("{cuts:?}")).await;
            }
            for frame in 0..back {
                let cuts = [first, both(Towards::Client, frame, arrives)];
                world.job(&cuts).survives(&format!("{cuts:?}")).await;
            }
        }
    }
    let often: Vec<Cut> = (0..12).map(|_| both(Towards::Client, 2, Arrives::Nothing)).collect();
    let job = world.job(&often);
    job.survives("a path that breaks again and again").await;
    assert!(job.opened.load(Relaxed) > 3);
}

#[tokio::test]
async fn a_path_that_the_provider_believes_in_is_overtaken() {
    let world = World::new();
    let [there, back] = frames(&world).await;
    for arrives in CUTS {
        for (towards, frames) in [(Towards::Provider, there), (Towards::Client, back)] {
            for frame in 0..frames {
                let cut = Cut { towards, frame, arrives, noticed: Noticed::Client };
                world.job(&[cut]).survives(&format!("{cut:?}")).await;
            }
        }
    }
}

#[tokio::test]
async fn a_provider_that_restarted_does_not_know_the_job() {
    let world = World::new();
    let job = world.job(&[both(Towards::Client, 3, Arrives::Nothing)]);
    world.provider.restart_before_stream(2);
    let (report, updates) = job.run().await;
    let Ended::Broken { reason, stalled: false, .. } = &report.ended else { panic!("{:?}", report.ended) };
    assert!(reason.contains("the provider restarted"), "{reason}");
    assert_eq!(job.opened.load(Relaxed), 2, "it is asked once");
    assert!(!updates.iter().any(|update| matches!(update, JobUpdate::Resumed { .. })));
}
