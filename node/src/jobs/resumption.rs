//! A stream on which a client goes on with its job, on its way to the task that runs the job.

use crate::network::FramedStream;
use aitbc_protocol::job::Rejection;
use tokio::sync::oneshot;

/// A stream on which a client goes on with its job. The task that runs the job judges it.
#[derive(Debug)]
pub(super) struct Resumption {
    /// Grows with every stream of the job.
    pub(super) attempt: u32,
    /// The first chunk that the client misses.
    pub(super) next: u32,
    stream: FramedStream,
    refused: oneshot::Sender<Refusal>,
}

/// A stream that is not taken, and why.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) stream: FramedStream,
    pub(super) rejection: Rejection,
}

impl Resumption {
    /// A stream to be judged, and where it comes back if it is refused: nothing does if it is taken.
    pub(super) fn new(stream: FramedStream, attempt: u32, next: u32) -> (Self, oneshot::Receiver<Refusal>) {
        let (refused, refusal) = oneshot::channel();
        (Self { attempt, next, stream, refused }, refusal)
    }

    /// Takes the stream.
    pub(super) fn accept(self) -> FramedStream {
        self.stream
    }

    /// Gives the stream back to whoever serves it, which says why.
    pub(super) fn refuse(self, rejection: Rejection) {
        // Nobody waits any more where the node stops.
        let _ = self.refused.send(Refusal { stream: self.stream, rejection });
    }
}
