//! What the threads of an engine's child tell each other, and the frames that wait for stdout.

use super::{
    frames::{self, FromWorker, JobFailure},
    prompt::Prepared,
};
use aitbc_protocol::job::JobSpec;
use std::{
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
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
    /// Stdin has closed.
    End,
}

/// What the tokenizer is asked.
pub(super) enum Question {
    Count { id: u64, spec: JobSpec },
    Prepare { id: u64, spec: JobSpec },
}

/// Frames on their way to stdout; those of one step go out in one write.
#[derive(Clone)]
pub(super) struct Output(Arc<Mutex<Vec<u8>>>);

impl Output {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Vec::with_capacity(4096))))
    }

    /// Adds a frame to those that wait.
    pub(super) fn queue(&self, message: &FromWorker) {
        match frames::from_worker(message) {
            Ok(frame) => self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&frame),
            // Only vectors are that large, and the job ends with the frame that follows.
            Err(error) => tracing::error!(%error, "a frame to the node was not sent"),
        }
    }

    /// Writes what waits. A node that is gone ends the process.
    pub(super) fn flush(&self) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.is_empty() {
            return;
        }
        let mut stdout = io::stdout().lock();
        if stdout.write_all(&waiting).and_then(|()| stdout.flush()).is_err() {
            std::process::abort();
        }
        waiting.clear();
    }

    pub(super) fn send(&self, message: &FromWorker) {
        self.queue(message);
        self.flush();
    }
}
