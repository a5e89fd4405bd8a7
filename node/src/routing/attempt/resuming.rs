//! Going on with a job on another stream: its path was lost.

use super::{JobUpdate, Run, Stop};
use crate::network::{FramedStream, NetworkError, StreamError};
use aitbc_protocol::messages::{ToClient, ToProvider};
use aitbc_protocol::{job::Rejection, wire};
use futures::future::BoxFuture;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, info};

/// First pause between two tries, doubled up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// A stream that held for as long is no part of what came before it.
const HOLDS: Duration = Duration::from_secs(5);

/// Why a try to go on failed.
#[derive(Debug, thiserror::Error)]
enum TryError {
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("it closed the stream instead of answering")]
    Closed,
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// It does not go on with the job, or not now.
    #[error("{0}")]
    Refused(Rejection),
    #[error("it answered with something else")]
    OutOfTurn,
    /// The opening that seemed lost had arrived.
    #[error("it holds the job")]
    Admitted,
}

/// The streams of one attempt, one after the other.
pub(super) struct Streams {
    /// Streams after the first so far: each has a number of its own.
    tries: u32,
    /// The provider holds the job.
    pub(super) admitted: bool,
    /// Ends when there is a better path.
    pub(super) better: BoxFuture<'static, ()>,
    /// When the present one began.
    began: Instant,
    /// When one last brought something.
    brought: Instant,
    trouble: Option<Trouble>,
}

/// Streams that broke one after the other and brought nothing.
struct Trouble {
    since: Instant,
    /// Waited before the next try.
    pause: Duration,
}

impl Streams {
    pub(super) fn new(admitted: bool, better: BoxFuture<'static, ()>) -> Self {
        let now = Instant::now();
        Self { tries: 0, admitted, better, began: now, brought: now, trouble: None }
    }

    /// Whether the first one is not the present one any more.
    pub(super) fn is_resumed(&self) -> bool {
        self.tries > 0
    }

    /// The present one brought a piece of the answer.
    pub(super) fn brought(&mut self) {
        self.brought = Instant::now();
        self.trouble = None;
    }

    /// Since when it is the provider's turn after a stream was found. Streams that bring nothing gain it `resume` in
    /// all.
    pub(super) fn turn(&self, resume: Duration) -> Instant {
        self.began.min(self.brought + resume)
    }

    /// The present one broke. Since when that has been so without anything brought in between.
    fn broke(&mut self) -> Instant {
        let now = Instant::now();
        if self.began + HOLDS <= now {
            self.trouble = None;
        }
        self.trouble.get_or_insert(Trouble { since: now, pause: Duration::ZERO }).since
    }

    /// How long to wait before the next try: nothing before the first one.
    fn pause(&mut self) -> Duration {
        let Some(trouble) = &mut self.trouble else { return Duration::ZERO };
        let pause = trouble.pause;
        trouble.pause = (pause * 2).clamp(FIRST_PAUSE, LAST_PAUSE);
        pause
    }
}

impl Run<'_> {
    /// Opens stream after stream to the provider until the job goes on over one, for as long as `within`. A provider
    /// that does not hold the job any more says so, and is not asked again.
    pub(super) async fn resume(&mut self, reason: String, within: Duration) -> Result<(), Stop> {
        let lost = Instant::now();
        let provider = self.attempt.provider;
        let (updates, stop) = (self.attempt.updates, self.attempt.stop);
        debug!(peer = %provider.short(), reason, chunks = self.received.chunks(), "path lost");
        let deadline = self.streams.broke() + within;
        self.payments.cut();
        self.tell(JobUpdate::PathLost { provider, reason: reason.clone() }).await;
        let mut last = reason;
        while !self.cancelled {
            let pause = self.streams.pause();
            self.streams.tries += 1;
            let tried = tokio::select! {
                biased;
                () = updates.closed() => None,
                () = stop.cancelled() => None,
                () = sleep_until(deadline) => break,
                tried = async {
                    sleep(pause).await;
                    self.try_resume().await
                } => Some(tried),
            };
            match tried {
                // Settling tells the provider.
                None => self.cancelled = true,
                Some(Ok(stream)) => {
                    let took = lost.elapsed();
                    info!(peer = %provider.short(), ?took, tries = self.streams.tries, "resumed");
                    self.attach(stream);
                    self.attempt.metrics.resumed(took);
                    let after_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                    self.tell(JobUpdate::Resumed { provider, after_ms }).await;
                    return Ok(());
                }
                Some(Err(TryError::Admitted)) => self.streams.admitted = true,
                Some(Err(TryError::OutOfTurn | TryError::Stream(StreamError::Wire(_)))) => {
                    return Err(Stop::Violation("it answered a resumption with something else".to_owned()));
                }
                Some(Err(TryError::Refused(rejection))) if !is_passing(&rejection) => {
                    self.attempt.metrics.not_resumed();
                    let reason = format!("{last}; it did not go on with the job: {rejection}");
                    return Err(Stop::Broken { reason, stalled: false });
                }
                Some(Err(error)) => {
                    debug!(peer = %provider.short(), %error, "not resumed yet");
                    last = error.to_string();
                }
            }
        }
        if !self.cancelled {
            self.attempt.metrics.not_resumed();
        }
        Err(Stop::Broken { reason: format!("no path to it within {within:?}: {last}"), stalled: false })
    }

    fn attach(&mut self, stream: FramedStream) {
        let (reader, writer) = stream.split();
        self.reader = reader;
        self.payments.attach(writer);
        self.streams.began = Instant::now();
    }

    /// Moves the job to a better path, if it can be had; the one it is on holds.
    pub(super) async fn move_over(&mut self) {
        self.streams.better = (self.attempt.better)();
        self.streams.tries += 1;
        match self.try_resume().await {
            Ok(stream) => {
                self.attach(stream);
                self.attempt.metrics.moved();
                debug!(peer = %self.attempt.provider.short(), "moved to a better path");
            }
            // Should the provider have moved all the same, the stream here ends, and the job is resumed.
            Err(error) => debug!(peer = %self.attempt.provider.short(), %error, "not moved"),
        }
    }

    async fn try_resume(&mut self) -> Result<FramedStream, TryError> {
        let admitted = self.streams.admitted;
        let quote = self.attempt.quote;
        let first = if admitted {
            ToProvider::Resume {
                job: quote.job,
                quote: quote.nonce,
                attempt: self.streams.tries,
                next: self.received.chunks(),
            }
        } else {
            // A quote is good once: the job is not opened twice.
            self.attempt.opening()
        };
        let talk = async {
            let mut stream = (self.attempt.reopen)().await?;
            stream.send(&first, wire::MAX_JOB_FRAME).await?;
            match stream.receive::<ToClient>(wire::MAX_JOB_FRAME).await? {
                Some(ToClient::Resumed) if admitted => Ok(stream),
                Some(ToClient::Accepted { .. }) if !admitted => Ok(stream),
                Some(ToClient::Rejected(Rejection::QuoteUsed)) if !admitted => Err(TryError::Admitted),
                Some(ToClient::Rejected(rejection)) => Err(TryError::Refused(rejection)),
                Some(_) => Err(TryError::OutOfTurn),
                None => Err(TryError::Closed),
            }
        };
        let patience = self.attempt.patience.reopen;
        timeout(patience, talk).await.unwrap_or(Err(TryError::Timeout(patience)))
    }
}

/// A refusal that says nothing about the job.
fn is_passing(rejection: &Rejection) -> bool {
    matches!(rejection, Rejection::RateLimited { .. })
}
