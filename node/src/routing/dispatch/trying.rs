//! One provider tried: the job recorded, a stream opened, the attempt, and what is taken down of it.
//!
//! A trial tells what happens over a queue of its own, so that of two trials only one is shown. Closing that queue is how
//! the other one ends: its attempt takes it for a user who left, cancels, and pays what came.

use super::longest_round_trip_ms;
use crate::routing::{
    JobUpdate, Shared,
    attempt::{Attempt, Ended, Patience, Report},
    decisions::{self, Came, Pending, Prediction},
    observing, paths,
    quotes::Offered,
};
use crate::{
    clock::now_ms,
    network::{FramedStream, NetworkError, Protocol},
};
use aitbc_protocol::{Digest, JobId, MicroCredits, NodeId, Nonce, job::JobSpec, text::Line};
use futures::future::BoxFuture;
use libp2p::Multiaddr;
use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tracing::warn;

/// How long a job stream may take to open, by one path or another, and the wait before it is tried again.
const OPENING: Duration = Duration::from_secs(15);
const REOPENING: Duration = Duration::from_millis(50);
/// Updates that wait to be passed on.
const UPDATES: usize = 16;

/// How a trial ended.
#[derive(Debug)]
pub(super) enum Tried {
    /// The attempt ran.
    Ran(Box<Report>),
    /// Nothing reached the provider: it owes and is owed nothing.
    Unopened(String),
    /// Nothing reached it, for whoever asked left before it could.
    Left,
    /// This node's own fault: the ledger cannot write.
    Unrecorded(String),
}

/// What a trial does next.
#[derive(Debug)]
pub(super) enum Step {
    Told(Box<JobUpdate>),
    Ended(Tried),
}

/// What is known of an attempt from its start on.
#[derive(Clone, Copy, Debug)]
pub(super) struct About {
    pub(super) provider: NodeId,
    pub(super) weights: Digest,
    pub(super) prompt_tokens: u32,
    /// The most it can cost.
    pub(super) most: MicroCredits,
    /// Its cost in the ranking.
    pub(super) cost: f64,
    pub(super) began: Instant,
    pub(super) expected: Prediction,
    pub(super) pending: Pending,
}

/// An attempt under way.
pub(super) struct Trial {
    pub(super) about: About,
    updates: mpsc::Receiver<JobUpdate>,
    running: BoxFuture<'static, Tried>,
    ended: Option<Tried>,
}

impl Trial {
    /// Prepares a trial; `run` does it with a queue for what it tells.
    pub(super) fn new(
        about: About,
        run: impl FnOnce(mpsc::Sender<JobUpdate>) -> BoxFuture<'static, Tried>,
    ) -> Self {
        let (sender, updates) = mpsc::channel(UPDATES);
        Self { about, updates, running: run(sender), ended: None }
    }

    /// All that it told comes before its end, and after its end nothing may be asked of it.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Step> {
        if self.ended.is_none() {
            if let Poll::Ready(Some(update)) = self.updates.poll_recv(context) {
                return Poll::Ready(Step::Told(Box::new(update)));
            }
            match self.running.as_mut().poll(context) {
                Poll::Ready(ended) => self.ended = Some(ended),
                Poll::Pending => return Poll::Pending,
            }
        }
        match self.updates.try_recv() {
            Ok(update) => Poll::Ready(Step::Told(Box::new(update))),
            Err(_) => Poll::Ready(Step::Ended(self.ended.take().expect("it ended, and was told of once"))),
        }
    }

    /// Has it end: nobody listens any more.
    pub(super) fn leave(&mut self) {
        self.updates.close();
        while self.updates.try_recv().is_ok() {}
    }

    /// Its end, whatever it tells until then.
    pub(super) async fn end(&mut self) -> Tried {
        loop {
            if let Step::Ended(tried) = poll_fn(|context| self.poll(context)).await {
                return tried;
            }
        }
    }
}

/// The next step of any of `trials`, of the first ones before the others. Cancel-safe.
pub(super) async fn next(trials: &mut [Trial]) -> (usize, Step) {
    poll_fn(|context| {
        for (place, trial) in trials.iter_mut().enumerate() {
            if let Poll::Ready(step) = trial.poll(context) {
                return Poll::Ready((place, step));
            }
        }
        Poll::Pending
    })
    .await
}

/// Runs a trial to its end.
pub(super) async fn run(
    shared: Arc<Shared>,
    job: JobId,
    spec: JobSpec,
    offered: Offered,
    asked: Instant,
    updates: mpsc::Sender<JobUpdate>,
) -> Tried {
    let Offered { choice, signed, quote } = offered;
    let (provider, cell, nonce) = (choice.provider(), choice.found.known.offer.cell, quote.nonce);
    let active = shared.active.enter(nonce);
    let addresses = choice.found.addresses();
    let texts = addresses.iter().map(ToString::to_string).collect();
    let recording = shared.ledger.open(provider, texts, job, signed.clone());
    let opening = async {
        tokio::select! {
            biased;
            opened = timeout(OPENING, open(&shared, provider, &addresses)) => Some(opened),
            () = updates.closed() => None,
        }
    };
    let (recorded, opened) = tokio::join!(recording, opening);
    if let Err(error) = recorded {
        return Tried::Unrecorded(error.to_string());
    }
    let stream = match opened {
        Some(Ok(Ok(stream))) => stream,
        None => {
            unopened(&shared, nonce, "whoever asked left before a stream was open").await;
            return Tried::Left;
        }
        failed => {
            let reason = match failed {
                Some(Ok(Err(error))) => error.to_string(),
                _ => format!("no stream within {OPENING:?}"),
            };
            unopened(&shared, nonce, &reason).await;
            return Tried::Unopened(reason);
        }
    };
    let reopen = || paths::open(&shared, provider, &addresses);
    let peers = shared.network.peers();
    let better = || -> BoxFuture<'static, ()> { Box::pin(paths::becomes_direct(peers.clone(), provider)) };
    let longest_round_trip_ms = longest_round_trip_ms(&peers.borrow(), &provider);
    let attempt = Attempt {
        ledger: &shared.ledger,
        network: &shared.config.network,
        provider,
        quote: &quote,
        signed: &signed,
        spec: &spec,
        patience: Patience::with(&spec),
        updates: &updates,
        asked,
        stop: &shared.stop,
        reopen: &reopen,
        better: &better,
        longest_round_trip_ms,
        metrics: &shared.metrics,
    };
    let report = attempt.run(stream).await;
    drop(active);
    if !report.settled {
        shared.settle.left_open();
    }
    if let Some(evidence) = report.evidence.clone() {
        shared.book.accuse(evidence);
    }
    if spec.input.sealed().is_none() {
        observing::observe(&shared, provider, cell, nonce, &report).await;
    }
    Tried::Ran(Box::new(report))
}

async fn open(shared: &Shared, provider: NodeId, addresses: &[Multiaddr]) -> Result<FramedStream, NetworkError> {
    loop {
        match shared.network.open(provider, addresses.to_vec(), Protocol::Job).await {
            // The path broke: nothing reached the provider, and there may be another.
            Err(NetworkError::Stream(error)) if error.is_passing() => sleep(REOPENING).await,
            opened => return opened,
        }
    }
}

async fn unopened(shared: &Shared, nonce: Nonce, reason: &str) {
    if let Err(error) = shared.ledger.refused(nonce, Line::lossy(reason)).await {
        warn!(%error, "a job that did not open could not be recorded");
    }
}

/// Takes down what came of a trial that nothing cut short.
pub(super) fn conclude(shared: &Shared, about: &About, tried: &Tried) {
    let failed = |reason: &str| decisions::End::Failed { reason: reason.to_owned() };
    let end = match tried {
        Tried::Unopened(reason) | Tried::Unrecorded(reason) => failed(reason),
        Tried::Left => decisions::End::Cancelled,
        Tried::Ran(report) => match &report.ended {
            Ended::Whole(_) => decisions::End::Answered {
                came: report.answer.map(|answer| Came {
                    first_ms: answer.first_ms,
                    whole_ms: answer.whole_ms,
                    predicted_ms: Some(about.expected.whole_ms(answer.tokens)),
                    tokens: answer.tokens,
                    paid: report.paid,
                }),
            },
            Ended::Cancelled => decisions::End::Cancelled,
            Ended::Refused(rejection) => failed(&rejection.to_string()),
            Ended::Own(error) => failed(&error.to_string()),
            Ended::BadReceipt(reason) | Ended::Broken { reason, .. } => failed(reason),
        },
    };
    shared.decisions.ended(about.pending, end);
    if let Tried::Ran(report) = tried
        && let (Ended::Whole(_), Some(answer)) = (&report.ended, &report.answer)
    {
        let expected_ms = about.expected.whole_ms(answer.tokens);
        shared.experience.predicted(about.provider, expected_ms, answer.whole_ms);
        shared.experience.began(about.provider, about.expected.first_ms, answer.first_ms);
    }
}

/// What a trial cost that another one outran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cost {
    pub(super) paid: MicroCredits,
    /// What settling may still promise beyond that.
    pub(super) reserved: MicroCredits,
}

/// Takes down what came of a trial that another one outran after `waited`: later than expected counts as late, by as much
/// as it had been waited for. Whoever is late beyond `patience` and does not answer a cancellation either has failed.
pub(super) fn outrun(
    shared: &Shared,
    about: &About,
    tried: &Tried,
    waited: Duration,
    patience: Option<Duration>,
) -> Cost {
    let (provider, expected) = (about.provider, &about.expected);
    let waited_ms = waited.as_secs_f64() * 1_000.0;
    if waited_ms > expected.first_ms {
        let whole_ms = expected.whole_ms(expected.tokens);
        shared.experience.began(provider, expected.first_ms, waited_ms);
        shared.experience.predicted(provider, whole_ms, waited_ms + expected.generate_ms);
    }
    let late = patience.is_some_and(|patience| waited > patience);
    let (cost, failed) = match tried {
        Tried::Unopened(_) => (Cost::default(), true),
        Tried::Left | Tried::Unrecorded(_) => (Cost::default(), late),
        Tried::Ran(report) => {
            let failed = match &report.ended {
                Ended::Broken { .. } | Ended::BadReceipt(_) => true,
                Ended::Cancelled => late && report.served.is_none(),
                Ended::Whole(_) | Ended::Refused(_) | Ended::Own(_) => false,
            };
            (Cost { paid: report.paid, reserved: report.reserved }, failed)
        }
    };
    if failed {
        shared.experience.note(provider, false, now_ms());
    } else {
        // Being late does not show that it works again.
        shared.experience.probe_ended(&provider, late, now_ms());
    }
    shared.decisions.ended(about.pending, decisions::End::Outrun { after_ms: waited_ms, paid: cost.paid });
    cost
}
