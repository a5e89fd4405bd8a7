//! One job: tokens of the engine go out, cheques come in, and the job ends with a receipt, whatever ends it.
//!
//! The job outlives its stream. Where that breaks the job is parked: the engine goes on to the end of the unpaid
//! window, what went out is kept, and the client has [`KEPT`] to come back on another stream and to say what it misses.
//! That lasts until the client says that it has the receipt. It settles where it does not come back.

use super::{
    SHORT_ANSWER,
    delivery::{Binding, Delivery},
    desk::Ticket,
    metrics::{JobMetrics, Outcome},
    resumption::Resumption,
};
use crate::{
    engine::{EngineEvent, Generation},
    market::{Ledger, LedgerError},
    network::{FramedStream, StreamError},
};
use aitbc_crypto::SecretKey;
use aitbc_protocol::messages::{ToClient, ToProvider};
use aitbc_protocol::{
    NetworkId, UnixMillis,
    evidence::Evidence,
    job::{Finish, Rejection},
    quote::Quote,
    receipt::Execution,
    resume::KEPT_MS,
    text::Line,
    wire,
};
use conclude::Concluded;
use futures::future::BoxFuture;
use link::Link;
use std::time::Duration;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

mod conclude;
mod events;
mod link;
mod paying;

/// How long a job waits for a client whose stream broke.
pub(super) const KEPT: Duration = Duration::from_millis(KEPT_MS);

/// An admitted job.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) quote: Quote,
    pub(super) execution: Execution,
    pub(super) binding: Binding,
    pub(super) ticket: Ticket,
    /// When it was admitted: for durations, and by the wall clock.
    pub(super) since: Instant,
    pub(super) since_ms: UnixMillis,
}

/// What a job needs of the node it runs on.
#[derive(Clone, Debug)]
pub(super) struct Surroundings {
    pub(super) key: SecretKey,
    pub(super) network: NetworkId,
    pub(super) ledger: Ledger,
    /// Takes what clients sign that speaks against them.
    pub(super) accuse: mpsc::Sender<Evidence>,
    pub(super) metrics: JobMetrics,
    /// Ends the job: the node stops.
    pub(super) closing: CancellationToken,
    /// How long the job waits at an unpaid window, or for a client that does not read.
    pub(super) patience: Duration,
    /// How long it waits for a client whose stream broke.
    pub(super) kept: Duration,
}

/// Why a job ended.
#[derive(Debug)]
struct End {
    finish: Finish,
    outcome: Outcome,
    failure: Option<Line<160>>,
}

impl End {
    fn failed(reason: &str) -> Self {
        Self { finish: Finish::Failed, outcome: Outcome::Failed, failure: Some(Line::lossy(reason)) }
    }

    fn cancelled() -> Self {
        Self { finish: Finish::Cancelled, outcome: Outcome::Cancelled, failure: None }
    }

    fn unpaid(reason: &str) -> Self {
        Self { finish: Finish::Cancelled, outcome: Outcome::Unpaid, failure: Some(Line::lossy(reason)) }
    }
}

/// What a job waits for.
enum Step {
    Closing,
    Halted,
    Interrupted,
    Resumed(Resumption),
    Paid(Result<u32, LedgerError>),
    Sent(Result<(), StreamError>),
    Message(Result<Option<ToProvider>, StreamError>),
    Event(Option<EngineEvent>),
    Stalled,
}

struct Run {
    job: Job,
    around: Surroundings,
    interrupted: CancellationToken,
    /// Cancelled when the device has to stop.
    halted: CancellationToken,
    delivery: Delivery,
    generation: Option<Generation>,
    link: Link,
    cheque: Option<Taking>,
    /// A cheque has been taken: the prompt and [`Delivery::paid`] tokens are paid.
    any_cheque: bool,
    /// What is on its way to the client goes out for the first time.
    fresh: bool,
    ending: Option<End>,
    concluded: Option<Concluded>,
    /// The node is stopping.
    closing: bool,
    /// Since when it is the client's turn.
    progress: Instant,
    /// When the client last took something that it had not had before, or paid more than before. A client that only
    /// comes back gains [`Surroundings::kept`] from here on, however often it does.
    earned: Instant,
    timings: Moments,
}

/// When what happened, in milliseconds since admission.
#[derive(Debug, Default)]
struct Moments {
    queued_ms: Option<u64>,
    first_token_ms: Option<u64>,
    /// For how long it was the client's turn after the first token: to pay, to come back, to read the rest.
    paused: Duration,
}

/// A cheque on its way to the disk.
type Taking = BoxFuture<'static, Result<u32, LedgerError>>;

/// Runs a job to its end: until its receipt is on disk and the client has it with all that it misses, or will not come
/// for it. `job` has been recorded in the ledger and `generation` has been allowed one window.
pub(super) async fn run_job(job: Job, generation: Generation, stream: FramedStream, around: Surroundings) {
    let now = Instant::now();
    let accepted = ToClient::Accepted { queued: job.ticket.queued };
    let mut run = Run {
        interrupted: job.ticket.interrupted(),
        halted: job.ticket.halted(),
        delivery: Delivery::new(&job.quote, job.binding),
        job,
        around,
        generation: Some(generation),
        link: Link::open(stream, accepted),
        cheque: None,
        any_cheque: false,
        fresh: true,
        ending: None,
        concluded: None,
        closing: false,
        progress: now,
        earned: now,
        timings: Moments::default(),
    };
    run.run_to_end().await;
    run.job.ticket.door.close();
    while let Ok(late) = run.job.ticket.door.try_recv() {
        late.refuse(Rejection::UnknownJob);
    }
}

impl Run {
    /// One step after the other until the client has all of it, or will not come for it.
    async fn run_to_end(&mut self) {
        loop {
            self.send_next();
            self.job.ticket.progress(self.delivery.delivered(), self.is_paused(), self.link.is_parked());
            if self.has_ended() {
                if !self.conclude().await {
                    return;
                }
                continue;
            }
            if self.concluded.is_some() && (self.link.is_gone() || self.link.is_closed()) {
                return;
            }
            let waits = self.waits_for_client().then(Instant::now);
            let step = self.step().await;
            if let Some(since) = waits {
                self.timings.paused += since.elapsed();
            }
            match step {
                Step::Closing => self.close(),
                Step::Halted => self.end(End::failed("the provider's device had to stop all its jobs")),
                Step::Interrupted => self.abandon("the client came back on another stream", End::cancelled()),
                Step::Resumed(resumption) => self.resume(resumption),
                Step::Paid(paid) => self.paid(paid).await,
                Step::Sent(Ok(())) => self.sent(),
                Step::Message(Ok(Some(message))) => self.message(message),
                Step::Message(Ok(None)) => self.client_closed(),
                Step::Message(Err(error @ StreamError::Wire(_))) => {
                    self.abandon(&error.to_string(), End::cancelled());
                }
                Step::Sent(Err(error @ StreamError::Wire(_))) => {
                    self.abandon(&error.to_string(), End::failed("the answer does not fit a message"));
                }
                Step::Sent(Err(error)) | Step::Message(Err(error)) => self.park(&error.to_string()),
                Step::Event(event) => {
                    self.event(event);
                    self.take_ready();
                }
                Step::Stalled => self.stalled(),
            }
        }
    }

    /// What happens next. Cheques and messages come before tokens, so that a cancelled job stops at once.
    async fn step(&mut self) -> Step {
        // One cheque at a time: while one is being written, the next waits in the stream.
        let hears = self.cheque.is_none();
        let takes = self.ending.is_none() && self.delivery.has_room();
        let here = !self.link.is_gone();
        let deadline = self.deadline();
        let Self { job, around, interrupted, halted, cheque, link, generation, closing, .. } = self;
        let (reader, writer) = link.sides();
        tokio::select! {
            biased;
            () = around.closing.cancelled(), if !*closing => Step::Closing,
            () = halted.cancelled(), if generation.is_some() => Step::Halted,
            () = interrupted.cancelled(), if here => Step::Interrupted,
            Some(resumption) = job.ticket.door.recv(), if here => Step::Resumed(resumption),
            Some(paid) = async { Some(cheque.as_mut()?.await) } => Step::Paid(paid),
            Some(sent) = async { writer?.sent().await } => Step::Sent(sent),
            Some(message) = async { Some(reader?.receive(wire::MAX_JOB_FRAME).await) }, if hears => {
                Step::Message(message)
            }
            Some(event) = async { Some(generation.as_mut()?.events.recv().await) }, if takes => Step::Event(event),
            () = sleep_until(deadline), if here => Step::Stalled,
        }
    }

    /// Until when the client may do nothing: less once only the last words are to be said.
    fn deadline(&self) -> Instant {
        let patience = self.around.patience;
        match (&self.link, &self.concluded) {
            // Whoever comes back only to leave again gets no more time than for going away once.
            (Link::Parked { since, .. }, _) => (*since).min(self.earned + self.around.kept) + self.around.kept,
            (_, Some(concluded)) => self.progress + concluded.patience(self.closing),
            (_, None) if self.ending.is_some() => self.progress + patience.min(SHORT_ANSWER),
            (_, None) => self.progress + patience,
        }
    }

    /// Whether the provider can do nothing more for now: the answer's time does not go on.
    fn waits_for_client(&self) -> bool {
        let begun = self.timings.first_token_ms.is_some() && self.concluded.is_none();
        begun && (self.is_paused() || self.link.is_parked() || self.ending.is_some())
    }

    fn is_paused(&self) -> bool {
        self.ending.is_none() && self.delivery.is_paused()
    }

    /// True once nothing more of the answer comes and all of it has gone out, or will not: the receipt is due.
    fn has_ended(&self) -> bool {
        let quiet = self.cheque.is_none() && !self.link.is_sending();
        self.concluded.is_none() && self.ending.is_some() && quiet && self.delivery.is_delivered()
    }

    /// Sends what is next if the last message is out.
    fn send_next(&mut self) {
        if !self.link.is_idle() {
            return;
        }
        let Some((mut chunk, fresh)) = self.delivery.next_chunk() else { return self.send_last() };
        self.fresh = fresh;
        if fresh {
            let elapsed = self.job.since.elapsed();
            // As the receipt says it of the first one.
            chunk.sent_ms = Some(milliseconds(elapsed));
            if self.timings.first_token_ms.is_none() {
                self.timings.first_token_ms = Some(milliseconds(elapsed));
                self.around.metrics.first_token(elapsed.as_secs_f64());
            }
            self.around.metrics.delivered(chunk.count);
        }
        self.link.send(ToClient::Chunk(chunk));
    }

    /// A message is out.
    fn sent(&mut self) {
        if self.fresh { self.earn() } else { self.touch() }
    }

    /// The client has come a step further.
    fn earn(&mut self) {
        self.earned = Instant::now();
        self.progress = self.earned;
    }

    /// It is the client's turn again, without having come further.
    fn touch(&mut self) {
        self.progress = Instant::now().min(self.earned + self.around.kept);
    }

    /// Ends the job. The device stops at its next step. Only the first reason counts, unless an answer that was whole
    /// breaks off before all of it has gone out.
    fn end(&mut self, end: End) {
        self.generation = None;
        self.job.ticket.left_device();
        let leaves = end.finish == Finish::Cancelled || self.link.is_gone();
        let cut = leaves && self.delivery.discard();
        match &self.ending {
            Some(first) if !cut || first.outcome != Outcome::Completed => {}
            _ => self.ending = Some(end),
        }
    }

    /// The node stops.
    fn close(&mut self) {
        self.closing = true;
        self.end(End::failed("the provider is stopping"));
        if self.link.is_parked() {
            self.abandon("the provider is stopping", End::cancelled());
        }
        if self.concluded.is_some() {
            self.progress = Instant::now();
        }
    }

    /// Waits for the client to come back: its stream broke.
    fn park(&mut self, why: &str) {
        let over = self.concluded.as_ref().is_some_and(|concluded| concluded.confirmed);
        if over || self.closing {
            return self.abandon(why, End::cancelled());
        }
        tracing::debug!(why, "parked");
        self.link = Link::Parked { since: Instant::now(), _counted: self.around.metrics.park() };
    }

    /// Goes on without a client to talk to, to a receipt that it can settle for.
    fn abandon(&mut self, why: &str, end: End) {
        tracing::debug!(why, "the client is given up");
        self.link = Link::Gone;
        self.end(end);
    }

    /// The client is back on another stream, if it is its newest one.
    fn resume(&mut self, resumption: Resumption) {
        let Resumption { attempt, next, .. } = resumption;
        if let Err(fault) = self.delivery.resume(attempt, next) {
            return resumption.refuse(fault.into());
        }
        tracing::debug!(attempt, next, "resumed");
        self.around.metrics.resumed();
        self.fresh = false;
        self.link = Link::open(resumption.accept(), ToClient::Resumed);
        if let Some(concluded) = &mut self.concluded {
            concluded.again();
        }
        self.touch();
    }

    fn stalled(&mut self) {
        if self.link.is_parked() {
            self.abandon("the client did not come back", End::cancelled());
        } else if self.link.is_sending() {
            self.park("the client does not read");
        } else if self.concluded.is_some() {
            self.says_nothing();
        } else if self.is_paused() {
            self.end(End::unpaid(&format!("no cheque came within {:?}", self.around.patience)));
        } else {
            // It is the engine that takes its time.
            self.earn();
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
