//! A running job, what it tells, and why one is not done.

use aitbc_protocol::{
    bytes::BoundedBytes,
    job::{Finish, Logprobs, ModelName},
    sealed::MAX_SEALED_OUTPUT,
};
use tokio::sync::mpsc;

/// Why an engine does not do a job.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EngineError {
    /// No engine serves the model.
    #[error("no engine here serves {0}")]
    UnknownModel(ModelName),
    /// Loading, crashed and waiting, or stopped.
    #[error("the engine is not ready: {0}")]
    NotReady(String),
    /// The process died under the job.
    #[error("the engine crashed: {0}")]
    Crashed(String),
    /// The request does not fit the model.
    #[error("{needed} tokens do not fit the context of {context}")]
    ContextTooSmall {
        /// Prompt and answer.
        needed: u32,
        /// What there is.
        context: u32,
    },
    /// A feature that this engine has not.
    #[error("not supported by this engine: {0}")]
    Unsupported(String),
    /// All sequences and the queue are taken.
    #[error("the engine is full")]
    Full,
    /// The request breaks a rule of this model.
    #[error("{0}")]
    Request(String),
    /// There is no memory for another client's key.
    #[error("an evaluation key takes {needed} bytes of memory, {free} are free")]
    Memory {
        /// What it takes.
        needed: u64,
        /// What there is.
        free: u64,
    },
    /// Anything else that ends this job only.
    #[error("{0}")]
    Failed(String),
}

/// What a running job tells.
#[derive(Clone, Debug)]
pub enum EngineEvent {
    /// The prompt is being read.
    Started,
    /// One token of the answer, or one bootstrap of a private job.
    Token {
        /// Its id; `None` from upstream servers.
        id: Option<u32>,
        /// Text that became certain with it: complete UTF-8, nothing that a stop sequence may still take back.
        text: String,
        /// If asked for.
        logprobs: Option<Logprobs>,
    },
    /// Vectors, for embedding jobs.
    Embeddings(Vec<Vec<f32>>),
    /// The encrypted answer of a private job.
    Sealed(BoundedBytes<MAX_SEALED_OUTPUT>),
    /// The end; the last event. `text` was held back for a stop sequence that did not come.
    Finished {
        /// Why.
        finish: Finish,
        /// Text held back.
        text: String,
    },
    /// The job failed; the last event.
    Failed(EngineError),
}

/// A running job. Dropping it cancels it on the device at the next decode step.
#[derive(Debug)]
pub struct Generation {
    /// What it tells, in order; bounded.
    pub events: mpsc::Receiver<EngineEvent>,
    grants: mpsc::Sender<u32>,
}

impl Generation {
    /// A job that reports on `events` and reads allowances from `grants`; the job is cancelled when its ends of the
    /// channels are found closed.
    pub(crate) fn new(events: mpsc::Receiver<EngineEvent>, grants: mpsc::Sender<u32>) -> Self {
        Self { events, grants }
    }

    /// Allows `tokens` more tokens. Without allowance the job pauses on the device and the others go on.
    pub async fn grant(&self, tokens: u32) {
        // A job that has ended reads no allowances any more, and needs none.
        let _ = self.grants.send(tokens).await;
    }
}
