//! What the threads of an engine's child tell each other, and the frames that wait for stdout.

use super::{
    frames::{self, FromWorker, JobFailure},
    prompt::Prepared,
};
use aitbc_protocol::job::JobSpec;
use std::{
    io::{self, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// What the batcher is told.
pub(super) enum Command {
    Count {
        id: u64,
        spec: JobSpec,
    },
    Generate {
        id: u64,
        spec: JobSpec,
        credit: u32,
    },
    Prepared {
        id: u64,
        outcome: Result<Prepared, JobFailure>,
    },
    Grant {
        id: u64,
        tokens: u32,
    },
    Cancel {
        id: u64,
    },
    Pace {
        percent: u8,
    },
    /// Stdin has closed.
    End,
}

/// What the tokenizer is asked.
pub(super) enum Question {
    Count { id: u64, spec: JobSpec },
    Prepare { id: u64, spec: JobSpec },
}

/// How long a token may wait for the next ones: shorter than a reader notices, and on its way to the client a frame of
/// several tokens costs no more than one of one.
const LINGER: Duration = Duration::from_millis(50);

/// Frames on their way to stdout; those of one step, and of steps that follow each other fast, go out in one write.
#[derive(Clone)]
pub(super) struct Output(Arc<Mutex<Waiting>>);

struct Waiting {
    frames: Vec<u8>,
    /// Something waits that the node must know now.
    urgent: bool,
    flushed: Instant,
}

impl Output {
    pub(super) fn new() -> Self {
        let frames = Vec::with_capacity(4096);
        Self(Arc::new(Mutex::new(Waiting { frames, urgent: false, flushed: Instant::now() })))
    }

    /// Adds a frame to those that wait; they go out after the step.
    pub(super) fn queue(&self, message: &FromWorker) {
        self.add(message, true);
    }

    /// Adds a frame that may wait for those of the next steps.
    pub(super) fn queue_patient(&self, message: &FromWorker) {
        self.add(message, false);
    }

    fn add(&self, message: &FromWorker, urgent: bool) {
        match frames::from_worker(message) {
            Ok(frame) => {
                let mut waiting = self.lock();
                waiting.frames.extend_from_slice(&frame);
                waiting.urgent |= urgent;
            }
            // Only vectors are that large, and the job ends with the frame that follows.
            Err(error) => tracing::error!(%error, "a frame to the node was not sent"),
        }
    }

    /// Writes what waits if it is urgent or has waited long enough.
    pub(super) fn flush_due(&self) {
        let waiting = self.lock();
        if waiting.urgent || waiting.flushed.elapsed() >= LINGER {
            write(waiting);
        }
    }

    /// Writes what waits.
    pub(super) fn flush(&self) {
        write(self.lock());
    }

    pub(super) fn send(&self, message: &FromWorker) {
        self.queue(message);
        self.flush();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes what waits. A node that is gone ends the process.
fn write(mut waiting: MutexGuard<'_, Waiting>) {
    if waiting.frames.is_empty() {
        return;
    }
    let mut stdout = io::stdout().lock();
    if stdout.write_all(&waiting.frames).and_then(|()| stdout.flush()).is_err() {
        std::process::abort();
    }
    waiting.frames.clear();
    waiting.urgent = false;
    waiting.flushed = Instant::now();
}
