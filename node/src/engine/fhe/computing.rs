//! One job on a thread of its own, as many bootstraps at a time as are paid for.

use super::{Workshop, memory::Place};
use crate::engine::{EngineError, EngineEvent};
use aitbc_crypto::fhe::{EvaluateError, Package, evaluate};
use aitbc_protocol::{bytes::BoundedBytes, job::Finish, sealed::Sealed};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// A job before its thread starts.
pub(super) struct Computation {
    pub(super) package: Arc<Package>,
    pub(super) sealed: Sealed,
    pub(super) key: Option<Place>,
    pub(super) turn: Turn,
    pub(super) threads: usize,
}

impl Computation {
    /// Runs it to its end, and says what came of it.
    pub(super) fn run(self) {
        let Self { package, sealed, key, mut turn, threads } = self;
        let events = turn.events.clone();
        if events.blocking_send(EngineEvent::Started).is_err() {
            return;
        }
        // A pool of its own: a job that waits for its cheque waits on one of its threads.
        let work = || {
            let pool = pool(threads)?;
            pool.install(|| {
                let key = key.map(Place::key).transpose().map_err(|error| {
                    tracing::warn!(%error, "an evaluation key cannot be read");
                    EngineError::Failed("the evaluation key cannot be read any more".to_owned())
                })?;
                let result = evaluate(&package, key.as_deref(), &sealed.ciphertext, &mut |left| turn.allow(left));
                turn.report();
                result.map_err(|error| match error {
                    EvaluateError::Cancelled => EngineError::NotReady("the job was ended".to_owned()),
                    error => EngineError::Request(error.to_string()),
                })
            })
        };
        // What a hostile input could break is its own job; nothing of it outlives the call.
        let last = match catch_unwind(AssertUnwindSafe(work)) {
            Ok(Ok(answer)) => match BoundedBytes::new(answer) {
                Ok(answer) => {
                    let _ = events.blocking_send(EngineEvent::Sealed(answer));
                    EngineEvent::Finished { finish: Finish::Stop, text: String::new() }
                }
                Err(error) => EngineEvent::Failed(EngineError::Failed(error.to_string())),
            },
            Ok(Err(error)) => EngineEvent::Failed(error),
            Err(_) => EngineEvent::Failed(EngineError::Crashed("the computation panicked".to_owned())),
        };
        // Whoever asked may have left.
        let _ = events.blocking_send(last);
    }
}

/// Threads for one computation.
pub(super) fn pool(threads: usize) -> Result<rayon::ThreadPool, EngineError> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|number| format!("fhe-{number}"))
        .build()
        .map_err(|error| EngineError::Failed(format!("no threads for the job: {error}")))
}

/// How far a job may go: it asks before each batch, and tells of the one before.
pub(super) struct Turn {
    events: mpsc::Sender<EngineEvent>,
    grants: mpsc::Receiver<u32>,
    /// Bootstraps that may run.
    credit: u32,
    /// Most bootstraps between two questions: about a quarter of a second, so that a job ends soon that nobody wants.
    batch: u32,
    /// Bootstraps of the batch that runs.
    running: u32,
    began: Instant,
    pace: watch::Receiver<u8>,
    cancel: CancellationToken,
}

impl Turn {
    pub(super) fn new(
        events: mpsc::Sender<EngineEvent>,
        grants: mpsc::Receiver<u32>,
        credit: u32,
        batch: u32,
        workshop: &Workshop,
    ) -> Self {
        let (pace, cancel) = (workshop.pace.clone(), workshop.cancel.clone());
        Self { events, grants, credit, batch: batch.max(1), running: 0, began: Instant::now(), pace, cancel }
    }

    /// How many of the `left` bootstraps of a layer may run now; 0 ends the job. Waits where nothing is paid for.
    fn allow(&mut self, left: u32) -> u32 {
        if !self.report() {
            return 0;
        }
        self.rest();
        while self.credit == 0 {
            match self.grants.blocking_recv() {
                Some(more) => self.credit = self.credit.saturating_add(more),
                None => return 0,
            }
        }
        while let Ok(more) = self.grants.try_recv() {
            self.credit = self.credit.saturating_add(more);
        }
        if self.is_over() {
            return 0;
        }
        self.running = left.min(self.credit).min(self.batch);
        self.credit -= self.running;
        self.began = Instant::now();
        self.running
    }

    fn is_over(&self) -> bool {
        self.events.is_closed() || self.cancel.is_cancelled()
    }

    /// Tells of the bootstraps that are done. False where nobody listens any more.
    fn report(&mut self) -> bool {
        for _ in 0..std::mem::take(&mut self.running) {
            let token = EngineEvent::Token { id: None, text: String::new(), logprobs: None };
            if self.events.blocking_send(token).is_err() {
                return false;
            }
        }
        !self.is_over()
    }

    /// Leaves the processor alone for as long as the owner's limits of heat ask for.
    fn rest(&self) {
        let percent = u32::from((*self.pace.borrow()).clamp(1, 100));
        let worked = self.began.elapsed().min(Duration::from_secs(1));
        std::thread::sleep(worked * (100 - percent) / percent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::fhe::memory::ServerKeys;

    fn turn(credit: u32, batch: u32) -> (Turn, mpsc::Receiver<EngineEvent>, mpsc::Sender<u32>) {
        let (events, told) = mpsc::channel(64);
        let (granter, grants) = mpsc::channel(8);
        let workshop = Workshop {
            keys: Arc::new(ServerKeys::new(0)),
            threads: 1,
            slots: 1,
            pace: watch::Sender::new(100).subscribe(),
            cancel: CancellationToken::new(),
        };
        (Turn::new(events, grants, credit, batch, &workshop), told, granter)
    }

    #[test]
    fn no_bootstrap_runs_that_is_not_allowed() {
        let (mut turn, mut told, granter) = turn(5, 4);
        assert_eq!(turn.allow(100), 4, "no more than a batch");
        assert!(told.try_recv().is_err(), "they are not done yet");
        assert_eq!(turn.allow(96), 1, "no more than is paid for");
        assert_eq!(std::iter::from_fn(|| told.try_recv().ok()).count(), 4);
        let waiting = std::thread::spawn(move || (turn.allow(95), turn.allow(2), turn));
        granter.blocking_send(3).expect("it waits");
        drop(granter);
        let (first, second, _turn) = waiting.join().expect("no panic");
        assert_eq!((first, second), (3, 0), "and none once nobody pays any more");
    }

    #[test]
    fn a_job_that_nobody_wants_ends_at_its_next_batch() {
        let (mut turn, told, _granter) = turn(100, 4);
        assert_eq!(turn.allow(50), 4);
        drop(told);
        assert_eq!(turn.allow(46), 0);
    }
}
