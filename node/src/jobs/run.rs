//! One job on its stream: tokens of the engine go out, cheques come in, and the job ends with a receipt, whatever
//! ends it.

use super::{
    SHORT_ANSWER,
    delivery::{Binding, Delivery, Token},
    desk::Ticket,
    metrics::{JobMetrics, Outcome},
};
use crate::{
    engine::{EngineError, EngineEvent, Generation},
    market::{Ledger, LedgerError},
    network::{
        FramedStream, StreamError,
        streams::{FrameReader, FrameWriter},
    },
};
use aitbc_protocol::messages::{ToClient, ToProvider};
use aitbc_protocol::{
    Signed, UnixMillis,
    job::Finish,
    quote::Quote,
    receipt::{Cheque, Execution},
    text::Line,
    wire,
};
use futures::future::BoxFuture;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

mod conclude;

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
    pub(super) ledger: Ledger,
    pub(super) metrics: JobMetrics,
    /// Ends the job: the node stops.
    pub(super) closing: CancellationToken,
    /// How long the job waits at an unpaid window, or for a client that does not read.
    pub(super) patience: Duration,
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

enum Writer {
    Idle(FrameWriter),
    Sending(BoxFuture<'static, Result<FrameWriter, StreamError>>),
    Gone,
}

/// What a job waits for.
enum Step {
    Closing,
    Interrupted,
    Paid(Result<u32, LedgerError>),
    Sent(Result<FrameWriter, StreamError>),
    Message(Result<Option<ToProvider>, StreamError>),
    Event(Option<EngineEvent>),
    Stalled,
}

struct Run {
    job: Job,
    around: Surroundings,
    interrupted: CancellationToken,
    delivery: Delivery,
    generation: Option<Generation>,
    reader: Option<FrameReader>,
    writer: Writer,
    cheque: Option<Taking>,
    /// A cheque has been taken: the prompt and [`Delivery::paid`] tokens are paid.
    any_cheque: bool,
    ending: Option<End>,
    /// When the client last took something or paid more than before.
    progress: Instant,
    timings: Moments,
}

/// When what happened, in milliseconds since admission.
#[derive(Debug, Default)]
struct Moments {
    queued_ms: Option<u64>,
    first_token_ms: Option<u64>,
}

/// A cheque on its way to the disk.
type Taking = BoxFuture<'static, Result<u32, LedgerError>>;

/// Runs a job to its end: until its receipt is on disk and the last cheque has come, or will not come. `job` has been
/// recorded in the ledger and `generation` has been allowed one window.
pub(super) async fn run_job(job: Job, generation: Generation, stream: FramedStream, around: Surroundings) {
    let (reader, writer) = stream.split();
    let accepted = ToClient::Accepted { queued: job.ticket.queued };
    let mut run = Run {
        interrupted: job.ticket.interrupted(),
        delivery: Delivery::new(&job.quote, job.binding),
        job,
        around,
        generation: Some(generation),
        reader: Some(reader),
        writer: send(writer, accepted),
        cheque: None,
        any_cheque: false,
        ending: None,
        progress: Instant::now(),
        timings: Moments::default(),
    };
    let end = run.until_end().await;
    run.conclude(end).await;
}

fn send(mut writer: FrameWriter, message: ToClient) -> Writer {
    Writer::Sending(Box::pin(async move {
        writer.send(&message, wire::MAX_JOB_FRAME).await?;
        Ok(writer)
    }))
}

impl Run {
    /// One step after the other until the job has ended and all that is still to be sent is on its way.
    async fn until_end(&mut self) -> End {
        loop {
            self.send_next();
            self.job.ticket.progress(self.delivery.delivered(), self.is_paused());
            let quiet = self.delivery.is_drained() && self.cheque.is_none();
            if quiet
                && !matches!(self.writer, Writer::Sending(_))
                && let Some(end) = self.ending.take()
            {
                return end;
            }
            match self.step().await {
                Step::Closing => self.end(End::failed("the provider is stopping")),
                Step::Interrupted => self.lose("the client came back on another stream"),
                Step::Paid(paid) => self.paid(paid).await,
                Step::Sent(Ok(writer)) => {
                    self.writer = Writer::Idle(writer);
                    self.progress = Instant::now();
                }
                Step::Message(Ok(Some(message))) => self.message(message),
                Step::Message(Ok(None)) => self.lose("the client left"),
                Step::Sent(Err(error)) | Step::Message(Err(error)) => self.lose(&error.to_string()),
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
        let live = self.ending.is_none();
        let hears = self.cheque.is_none();
        let takes = live && self.delivery.has_room();
        let patience = self.patience();
        let Self { around, interrupted, cheque, writer, reader, generation, progress, .. } = self;
        tokio::select! {
            biased;
            () = around.closing.cancelled(), if live => Step::Closing,
            () = interrupted.cancelled(), if live => Step::Interrupted,
            Some(paid) = async { Some(cheque.as_mut()?.await) } => Step::Paid(paid),
            Some(sent) = async { match writer {
                Writer::Sending(sending) => Some(sending.await),
                Writer::Idle(_) | Writer::Gone => None,
            } } => Step::Sent(sent),
            // One cheque at a time: while one is being written, the next waits in the stream.
            Some(message) = async { Some(reader.as_mut()?.receive(wire::MAX_JOB_FRAME).await) }, if hears => {
                Step::Message(message)
            }
            Some(event) = async { Some(generation.as_mut()?.events.recv().await) }, if takes => Step::Event(event),
            () = sleep_until(*progress + patience) => Step::Stalled,
        }
    }

    /// How long the client may do nothing: less once only the last words are to be said.
    fn patience(&self) -> Duration {
        let patience = self.around.patience;
        if self.ending.is_some() { patience.min(SHORT_ANSWER) } else { patience }
    }

    fn is_paused(&self) -> bool {
        self.ending.is_none() && self.delivery.is_paused()
    }

    /// Sends the next chunk if the last one is out.
    fn send_next(&mut self) {
        if !matches!(self.writer, Writer::Idle(_)) {
            return;
        }
        let Some(chunk) = self.delivery.next_chunk() else { return };
        let Writer::Idle(writer) = std::mem::replace(&mut self.writer, Writer::Gone) else { return };
        if self.timings.first_token_ms.is_none() {
            let elapsed = self.job.since.elapsed();
            self.timings.first_token_ms = Some(milliseconds(elapsed));
            self.around.metrics.first_token(elapsed.as_secs_f64());
        }
        self.around.metrics.delivered(chunk.count);
        self.writer = send(writer, ToClient::Chunk(chunk));
    }

    /// Ends the job; only the first reason counts. The device stops at its next step.
    fn end(&mut self, end: End) {
        self.generation = None;
        if end.finish == Finish::Cancelled {
            self.delivery.discard();
        }
        self.ending.get_or_insert(end);
    }

    /// Ends the job without a client to talk to.
    fn lose(&mut self, why: &str) {
        tracing::debug!(why, "the stream is given up");
        self.writer = Writer::Gone;
        self.reader = None;
        self.delivery.discard();
        self.end(End::cancelled());
    }

    fn stalled(&mut self) {
        if matches!(self.writer, Writer::Sending(_)) {
            self.lose("the client does not read");
        } else if self.is_paused() {
            self.end(End::unpaid(&format!("no cheque came within {:?}", self.around.patience)));
        } else {
            // It is the engine that takes its time.
            self.progress = Instant::now();
        }
    }

    fn message(&mut self, message: ToProvider) {
        match message {
            ToProvider::Ack { next, cheque } => match self.acknowledged(next, cheque) {
                Ok(taking) => self.cheque = Some(taking),
                Err(end) => self.end(end),
            },
            ToProvider::Cancel => self.end(End::cancelled()),
            ToProvider::Open { .. } | ToProvider::Settle { .. } => {
                self.end(End::unpaid("a second job on the same stream"));
            }
        }
    }

    /// Hands a cheque to the ledger, if it is for what it acknowledges.
    fn acknowledged(&self, next: u32, cheque: Signed<Cheque>) -> Result<Taking, End> {
        if cheque.read_unverified().map(|cheque| cheque.tokens) != Ok(next) {
            return Err(End::unpaid("the cheque is not for the tokens acknowledged"));
        }
        let ledger = self.around.ledger.clone();
        let (quote, client) = (self.job.quote.nonce, self.job.quote.client);
        let delivered = self.delivery.delivered();
        Ok(Box::pin(async move { ledger.take_cheque(quote, client, cheque, delivered).await }))
    }

    async fn paid(&mut self, paid: Result<u32, LedgerError>) {
        self.cheque = None;
        match paid {
            Ok(tokens) => {
                // A cheque that says nothing new buys no time: repeated, it would hold the slot for ever.
                if !self.any_cheque || tokens > self.delivery.paid() {
                    self.progress = Instant::now();
                }
                self.any_cheque = true;
                let more = self.delivery.pay(tokens);
                if more > 0
                    && let Some(generation) = &self.generation
                {
                    generation.grant(more).await;
                }
            }
            Err(error) => self.end(refused_cheque(&error)),
        }
    }

    /// Takes what the engine has told already, so that tokens which came together go out together.
    fn take_ready(&mut self) {
        while self.delivery.has_room()
            && let Some(event) = self.generation.as_mut().and_then(|generation| generation.events.try_recv().ok())
        {
            self.event(Some(event));
        }
    }

    fn event(&mut self, event: Option<EngineEvent>) {
        match event {
            Some(EngineEvent::Started) => {
                self.job.ticket.started();
                self.timings.queued_ms.get_or_insert(milliseconds(self.job.since.elapsed()));
            }
            Some(EngineEvent::Token { id, text, logprobs }) => {
                if !self.delivery.token(Token { id, text, logprobs }) {
                    self.end(End { finish: Finish::Length, outcome: Outcome::Completed, failure: None });
                }
            }
            Some(EngineEvent::Embeddings(vectors)) => self.delivery.vectors(vectors),
            Some(EngineEvent::Finished { finish, text }) => {
                self.delivery.text(&text);
                self.end(match finish {
                    Finish::Stop | Finish::Length => End { finish, outcome: Outcome::Completed, failure: None },
                    Finish::Cancelled => End::cancelled(),
                    Finish::Failed => End::failed("the engine failed"),
                });
            }
            Some(EngineEvent::Failed(error)) => {
                tracing::warn!(%error, "the engine failed");
                self.end(End::failed(told(&error)));
            }
            None => self.end(End::failed("the engine stopped")),
        }
    }
}

/// What becomes of a job whose client pays with a cheque that the ledger does not take.
fn refused_cheque(error: &LedgerError) -> End {
    match error {
        LedgerError::Cheque(_) | LedgerError::Signature(_) | LedgerError::UnknownJob | LedgerError::Ended(_) => {
            End::unpaid(&format!("cheque refused: {error}"))
        }
        _ => {
            tracing::error!(%error, "a cheque could not be recorded");
            End::failed("the provider cannot record payments now")
        }
    }
}

/// What the client is told of an engine's failure; the rest is for the owner's log.
fn told(error: &EngineError) -> &'static str {
    match error {
        EngineError::Crashed(_) => "the engine crashed",
        EngineError::NotReady(_) => "the engine was stopped",
        EngineError::ContextTooSmall { .. } => "the request does not fit the model's context",
        EngineError::Unsupported(_) => "the engine does not support the request",
        EngineError::UnknownModel(_) | EngineError::Full | EngineError::Failed(_) => "the engine failed",
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
