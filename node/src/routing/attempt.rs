//! One attempt at a job with one provider: opening, receiving, paying, the receipt. Where its stream breaks, it goes on
//! over another one.
//!
//! It works on streams and a ledger and knows no network, so tests put a real peer of the protocol at the other end.

mod closing;
mod resuming;

use super::{
    JobUpdate,
    experience::Answer,
    metrics::RoutingMetrics,
    paths::{Better, Reopen},
    payments::{PaymentError, Payments},
    verification::Received,
};
use crate::{
    market::{Ledger, LedgerError},
    network::{FramedStream, StreamError, streams::FrameReader},
};
use aitbc_protocol::messages::{ToClient, ToProvider};
use aitbc_protocol::{
    MicroCredits, NetworkId, NodeId, Signed,
    evidence::Evidence,
    job::{Chunk, Finish, JobSpec, Rejection},
    qos::Served,
    quote::Quote,
    receipt::Receipt,
    sla::contradiction,
    text::Line,
    wire,
};
use resuming::Streams;
use std::time::Duration;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// How long a provider may keep a client waiting.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For admission.
    pub(super) open: Duration,
    /// For the first piece, beside what reading the prompt and waiting in the queue may take.
    pub(super) first: Duration,
    /// Between two pieces while tokens are due, and for taking what is sent to it.
    pub(super) between: Duration,
    /// For the receipt after a cancellation.
    pub(super) cancel: Duration,
    /// For a path to a provider whose stream broke in mid-answer.
    pub(super) resume: Duration,
    /// For one try of it, with the provider's answer.
    pub(super) reopen: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            open: Duration::from_secs(10),
            first: Duration::from_secs(30),
            between: Duration::from_secs(10),
            cancel: Duration::from_secs(10),
            resume: Duration::from_secs(30),
            reopen: Duration::from_secs(5),
        }
    }
}

impl Patience {
    /// With a job of `spec`: what is computed on encrypted values comes in batches, with sums in between that take their
    /// time, after a key was read.
    pub(super) fn with(spec: &JobSpec) -> Self {
        match spec.input.sealed() {
            Some(_) => {
                Self { first: Duration::from_secs(120), between: Duration::from_secs(60), ..Self::default() }
            }
            None => Self::default(),
        }
    }
}

/// Slowest reading of a prompt that is waited for.
const PROMPT_TOKEN: Duration = Duration::from_millis(20);
/// Waited for each job before this one in the provider's queue.
const QUEUED_JOB: Duration = Duration::from_secs(30);
/// Tokens after the first piece, and the time they take, from which on an answer tells how fast its provider is: what was
/// held back comes all at once.
const TELLING: u32 = 16;
const TELLING_TIME: Duration = Duration::from_millis(500);
/// The first piece is not waited for longer than this.
const LONGEST_FIRST: Duration = Duration::from_secs(600);

/// What an attempt works with.
pub(super) struct Attempt<'a> {
    pub(super) ledger: &'a Ledger,
    pub(super) network: &'a NetworkId,
    pub(super) provider: NodeId,
    pub(super) quote: &'a Quote,
    pub(super) signed: &'a Signed<Quote>,
    pub(super) spec: &'a JobSpec,
    pub(super) patience: Patience,
    pub(super) updates: &'a mpsc::Sender<JobUpdate>,
    /// When the user asked.
    pub(super) asked: Instant,
    pub(super) stop: &'a CancellationToken,
    pub(super) reopen: &'a Reopen<'a>,
    pub(super) better: &'a Better<'a>,
    /// The longest round trip to the provider of late, in milliseconds.
    pub(super) longest_round_trip_ms: u64,
    pub(super) metrics: &'a RoutingMetrics,
}

/// How an attempt ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// The answer is whole, its receipt good.
    Whole(Finish),
    /// Whoever asked left; what was delivered is paid or will be.
    Cancelled,
    /// Not admitted; nothing owed.
    Refused(Rejection),
    /// The provider failed on the way: the answer can go on elsewhere.
    Broken {
        reason: String,
        /// By not answering in time.
        stalled: bool,
        /// Whether it left a receipt.
        receipted: bool,
    },
    /// The receipt does not hold: nothing more is paid.
    BadReceipt(String),
    /// This node's own fault: the ledger cannot write.
    Own(LedgerError),
}

/// What an attempt brought.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) ended: Ended,
    /// Tokens received.
    pub(super) count: u32,
    /// Their ids, where told.
    pub(super) tokens: Vec<u32>,
    /// Whether the ids are enough to go on elsewhere.
    pub(super) has_ids: bool,
    /// Whether text or tokens reached whoever asked.
    pub(super) delivered: bool,
    /// Promised to the provider.
    pub(super) paid: MicroCredits,
    /// What settling may still promise it beyond that.
    pub(super) reserved: MicroCredits,
    /// Text at the end of what was received that was not shown: it belongs to the answer if that ends here, and the
    /// next provider says it again if not.
    pub(super) tail: String,
    /// When the first piece came.
    pub(super) first_piece: Option<Instant>,
    /// How fast the answer came; nothing where its path broke on the way, or nothing came.
    pub(super) answer: Option<Answer>,
    /// Whether the two sides have nothing left to settle.
    pub(super) settled: bool,
    /// What shows others that the job was, and after how many milliseconds it came.
    pub(super) served: Option<(Signed<Served>, u32)>,
    /// What the provider signed that speaks against it.
    pub(super) evidence: Option<Evidence>,
}

/// What a provider says in the end.
struct Last {
    receipt: Signed<Receipt>,
    failure: Option<Line<160>>,
    served: Signed<Served>,
}

/// What stops the receiving loop.
enum Stop {
    Finished(Box<Last>),
    /// The stream broke; the job may go on over another one.
    Lost(String),
    Broken {
        reason: String,
        stalled: bool,
    },
    /// The provider broke the rules: it gets nothing more.
    Violation(String),
    Own(LedgerError),
}

struct Run<'a> {
    attempt: Attempt<'a>,
    reader: FrameReader,
    payments: Payments,
    received: Received,
    streams: Streams,
    cancelled: bool,
    delivered: bool,
    /// When the job was opened.
    opened: Instant,
    first_piece: Option<Instant>,
    /// When the first piece left, by the provider's word; nothing where it came after a break, or from an older provider.
    first_sent_ms: Option<u64>,
    /// The newest piece with tokens, and how many the first one brought.
    last_piece: Option<Instant>,
    first_count: u32,
    served: Option<(Signed<Served>, u32)>,
    evidence: Option<Evidence>,
}

impl Attempt<'_> {
    /// Runs the attempt to its end. The job must be recorded in the ledger (`Ledger::open`) before.
    pub(super) async fn run(self, stream: FramedStream) -> Report {
        let (mut reader, mut writer) = stream.split();
        let opened = Instant::now();
        let open = self.opening();
        let admission = async {
            writer.send(&open, wire::MAX_JOB_FRAME).await?;
            reader.receive::<ToClient>(wire::MAX_JOB_FRAME).await
        };
        let answer = timeout(self.patience.open, admission).await;
        let nonce = self.quote.nonce;
        let (queued, lost) = match answer {
            Ok(Ok(Some(ToClient::Accepted { queued }))) => (queued, None),
            Ok(Ok(Some(ToClient::Rejected(rejection)))) => {
                if let Err(error) = self.ledger.refused(nonce, Line::lossy(&rejection.to_string())).await {
                    warn!(%error, "a refusal could not be recorded");
                }
                return Report { settled: true, ..nothing(Ended::Refused(rejection)) };
            }
            Ok(Ok(Some(_))) => {
                let reason = "it answered an opening with something else";
                return match self.ledger.refuse(nonce, Line::lossy(reason)).await {
                    Ok(_) => nothing(broken(&reason, false)),
                    Err(error) => nothing(Ended::Own(error)),
                };
            }
            // It may have admitted the job all the same.
            Ok(Ok(None)) => (0, Some("it closed the stream instead of answering".to_owned())),
            Ok(Err(StreamError::Closed(reason))) => (0, Some(reason)),
            Ok(Err(error)) => return self.unanswered(broken(&error, false)),
            Err(_) => {
                return self.unanswered(broken(&format!("no answer within {:?}", self.patience.open), true));
            }
        };
        let mut run = Run {
            reader,
            payments: Payments::new(self.ledger.clone(), nonce, writer, self.patience.between),
            received: Received::new(self.quote, self.spec),
            streams: Streams::new(lost.is_none(), (self.better)()),
            attempt: self,
            cancelled: false,
            delivered: false,
            opened,
            first_piece: None,
            first_sent_ms: None,
            last_piece: None,
            first_count: 0,
            served: None,
            evidence: None,
        };
        let patience = run.attempt.patience;
        let within = patience.open.min(patience.resume);
        if let Some(reason) = lost
            && let Err(stop) = run.resume(reason, within).await
        {
            return run.end(stop).await;
        }
        run.streams.admitted = true;
        if let Err(error) = run.attempt.ledger.accepted(nonce).await {
            return nothing(Ended::Own(error));
        }
        let after_ms = u64::try_from(run.attempt.asked.elapsed().as_millis()).unwrap_or(u64::MAX);
        run.tell(JobUpdate::Started { provider: run.attempt.provider, after_ms }).await;
        let stop = run.receive(queued).await;
        run.end(stop).await
    }

    fn opening(&self) -> ToProvider {
        ToProvider::Open { quote: self.signed.clone(), spec: self.spec.clone() }
    }

    /// The provider may have started all the same, and sent a window into a path that was broken.
    fn unanswered(&self, ended: Ended) -> Report {
        Report { reserved: billable(self.quote, 0), ..nothing(ended) }
    }
}

/// The most that settling pays where `count` tokens came: those of one more window may have been on their way.
fn billable(quote: &Quote, count: u32) -> MicroCredits {
    let tokens = count.saturating_add(quote.window).min(quote.max_completion_tokens);
    quote.total(tokens).unwrap_or(quote.max_total)
}

fn broken(reason: &dyn std::fmt::Display, stalled: bool) -> Ended {
    Ended::Broken { reason: reason.to_string(), stalled, receipted: false }
}

fn nothing(ended: Ended) -> Report {
    Report {
        ended,
        count: 0,
        tokens: Vec::new(),
        has_ids: true,
        delivered: false,
        paid: MicroCredits::ZERO,
        reserved: MicroCredits::ZERO,
        tail: String::new(),
        first_piece: None,
        answer: None,
        settled: false,
        served: None,
        evidence: None,
    }
}

impl Run<'_> {
    fn cancel(&mut self) {
        self.cancelled = true;
        self.payments.cancel();
    }

    /// Receives and pays until the provider ends, is gone for good or breaks the rules.
    async fn receive(&mut self, queued: u32) -> Stop {
        let patience = self.attempt.patience;
        let first = patience.first
            + PROMPT_TOKEN.saturating_mul(self.attempt.quote.prompt_tokens)
            + QUEUED_JOB.saturating_mul(queued);
        let mut deadline =
            Instant::now() + if self.cancelled { patience.cancel } else { first.min(LONGEST_FIRST) };
        loop {
            match self.receive_here(&mut deadline).await {
                Stop::Lost(reason) if !self.cancelled => {
                    if let Err(stop) = self.resume(reason, patience.resume).await {
                        return stop;
                    }
                    deadline = deadline.max(self.streams.turn(patience.resume) + patience.between);
                }
                stop => return stop,
            }
        }
    }

    /// The same over one stream.
    async fn receive_here(&mut self, deadline: &mut Instant) -> Stop {
        let patience = self.attempt.patience;
        loop {
            // While a cheque is on its way the provider may be waiting for it: nothing is due.
            let due = self.cancelled || !self.payments.is_busy();
            tokio::select! {
                biased;
                () = self.attempt.updates.closed(), if !self.cancelled => {
                    self.cancel();
                    *deadline = Instant::now() + patience.cancel;
                }
                () = self.attempt.stop.cancelled(), if !self.cancelled => {
                    self.cancel();
                    *deadline = Instant::now() + patience.cancel;
                }
                paid = self.payments.next(), if self.payments.is_busy() => {
                    match paid {
                        Ok(Some(handed)) => {
                            self.tell(JobUpdate::Paid {
                                provider: self.attempt.provider,
                                sequence: handed.sequence,
                                job_total: handed.job_total,
                                tokens: handed.tokens,
                            }).await;
                        }
                        Ok(None) => {}
                        Err(PaymentError::Ledger(error)) => return Stop::Own(error),
                        // The reading side says why, or the time runs out.
                        Err(PaymentError::Stream(error)) => debug!(%error, "a cheque was not handed over"),
                    }
                    if !self.cancelled {
                        *deadline = (*deadline).max(Instant::now() + patience.between);
                    }
                }
                () = &mut self.streams.better, if !self.cancelled => self.move_over().await,
                frame = self.reader.receive::<ToClient>(wire::MAX_JOB_FRAME) => {
                    match self.handle_frame(frame).await {
                        Some(stop) => return stop,
                        None if self.cancelled => {}
                        None => *deadline = Instant::now() + patience.between,
                    }
                }
                () = sleep_until(*deadline), if due && self.payments.is_broken() => {
                    return Stop::Lost("it takes nothing more".to_owned());
                }
                () = sleep_until(*deadline), if due => {
                    return Stop::Broken { reason: "it sent nothing for too long".to_owned(), stalled: true };
                }
            }
        }
    }

    async fn handle_frame(&mut self, frame: Result<Option<ToClient>, StreamError>) -> Option<Stop> {
        match frame {
            Ok(Some(ToClient::Chunk(chunk))) => self.handle_chunk(chunk).await,
            Ok(Some(ToClient::Finished { receipt, failure, served })) => {
                Some(Stop::Finished(Box::new(Last { receipt, failure, served })))
            }
            Ok(Some(_)) => {
                Some(Stop::Violation("it sent a message that has no place in a running job".to_owned()))
            }
            Ok(None) => Some(Stop::Lost("it closed the stream without a receipt".to_owned())),
            Err(StreamError::Wire(error)) => Some(Stop::Violation(error.to_string())),
            Err(error) => Some(Stop::Lost(error.to_string())),
        }
    }

    async fn handle_chunk(&mut self, chunk: Chunk) -> Option<Stop> {
        if let Err(fault) = self.received.take(&chunk, self.payments.acknowledged()) {
            return Some(Stop::Violation(fault.to_string()));
        }
        self.streams.brought();
        if chunk.count > 0 {
            self.last_piece = Some(Instant::now());
        }
        if self.first_piece.is_none() {
            self.first_piece = Some(Instant::now());
            self.first_count = chunk.count;
            if let Some(stop) = self.check_first(chunk.sent_ms) {
                return Some(stop);
            }
        }
        if !self.cancelled {
            // A chunk without tokens is the end of the answer: it waits for the receipt.
            if chunk.count > 0 && self.attempt.spec.input.sealed().is_some() {
                let (done, of) = (self.received.count(), self.attempt.quote.max_completion_tokens);
                self.tell(JobUpdate::Computed { done, of }).await;
            } else if chunk.count > 0 {
                self.delivered = true;
                let Chunk { text, tokens, logprobs, .. } = chunk;
                let tokens = if self.received.has_ids() { tokens } else { Vec::new() };
                self.tell(JobUpdate::Delta { text, tokens, logprobs }).await;
            }
            // Half a window ahead of the provider's pause, so that tokens flow while a cheque is under way.
            let unpaid = self.received.count() - self.payments.acknowledged();
            if !self.cancelled && unpaid >= (self.attempt.quote.window / 2).max(1) {
                self.payments.acknowledge(self.received.count());
            }
        }
        None
    }

    /// Holds the provider's word on when the first piece left against when it came. Whoever lies about it is left before more
    /// than one window is paid.
    fn check_first(&mut self, sent_ms: Option<u64>) -> Option<Stop> {
        let sent_ms = sent_ms.filter(|_| !self.streams.is_resumed())?;
        self.first_sent_ms = Some(sent_ms);
        let came_ms = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        let told = contradiction(self.attempt.quote, sent_ms, came_ms, self.attempt.longest_round_trip_ms)?;
        Some(Stop::Violation(told.to_string()))
    }

    /// How fast the answer came.
    fn answer(&self) -> Option<Answer> {
        let first = self.first_piece.filter(|_| !self.streams.is_resumed())?;
        let last = self.last_piece?;
        let took = last.saturating_duration_since(first);
        let tokens = self.received.count().saturating_sub(self.first_count);
        // Casts of floating point saturate.
        let speed = (f64::from(tokens) * 1000.0 / took.as_secs_f64()) as u32;
        Some(Answer {
            first_ms: first.saturating_duration_since(self.opened).as_secs_f64() * 1000.0,
            whole_ms: last.saturating_duration_since(self.opened).as_secs_f64() * 1000.0,
            prompt_tokens: self.attempt.quote.prompt_tokens,
            tokens: self.received.count(),
            speed: (tokens >= TELLING && took >= TELLING_TIME).then_some(speed),
        })
    }

    /// Tells whoever asked; where nobody listens any more, the job is cancelled.
    async fn tell(&mut self, update: JobUpdate) {
        if self.attempt.updates.send(update).await.is_err() && !self.cancelled {
            self.cancel();
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
