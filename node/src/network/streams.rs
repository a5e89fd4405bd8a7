//! Streams between nodes: a behaviour of our own that bounds what peers open, and frames over them.

use aitbc_protocol::{NodeId, wire::WireError};
use serde::{Serialize, de::DeserializeOwned};

/// Why a stream failed.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The peer does not speak the protocol, or not this version of it.
    #[error("{peer} does not speak {protocol}: one of the two nodes is older")]
    Unsupported {
        /// Who.
        peer: NodeId,
        /// The protocol's name.
        protocol: &'static str,
    },
    /// The peer closed the stream, or the connection broke.
    #[error("the stream ended: {0}")]
    Closed(String),
    /// Nothing came for as long as the caller waited.
    #[error("no answer within {0:?}")]
    Timeout(std::time::Duration),
    /// A frame of the wrong size or shape.
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// A stream that sends and receives whole frames. Dropping it resets the stream.
#[derive(Debug)]
pub struct FramedStream {}

impl FramedStream {
    /// Who is at the other end.
    pub fn peer(&self) -> NodeId {
        todo!()
    }

    /// Sends one frame and flushes it. `limit` is the protocol's largest frame. Not cancel-safe.
    pub async fn send<T: Serialize + Sync>(&mut self, message: &T, limit: usize) -> Result<(), StreamError> {
        let _ = (message, limit);
        todo!()
    }

    /// Receives one frame; `Ok(None)` where the peer closed its side between frames. Cancel-safe: what was read of a
    /// frame stays in the stream's buffer.
    pub async fn receive<T: DeserializeOwned>(&mut self, limit: usize) -> Result<Option<T>, StreamError> {
        let _ = limit;
        todo!()
    }

    /// Closes the sending side; the other side reads `None`.
    pub async fn close(&mut self) -> Result<(), StreamError> {
        todo!()
    }

    /// Two halves that can be used by two tasks.
    pub fn split(self) -> (FrameReader, FrameWriter) {
        todo!()
    }
}

/// Receiving half of a [`FramedStream`].
#[derive(Debug)]
pub struct FrameReader {}

impl FrameReader {
    /// See [`FramedStream::receive`].
    pub async fn receive<T: DeserializeOwned>(&mut self, limit: usize) -> Result<Option<T>, StreamError> {
        let _ = limit;
        todo!()
    }
}

/// Sending half of a [`FramedStream`].
#[derive(Debug)]
pub struct FrameWriter {}

impl FrameWriter {
    /// See [`FramedStream::send`].
    pub async fn send<T: Serialize + Sync>(&mut self, message: &T, limit: usize) -> Result<(), StreamError> {
        let _ = (message, limit);
        todo!()
    }

    /// See [`FramedStream::close`].
    pub async fn close(&mut self) -> Result<(), StreamError> {
        todo!()
    }
}

/// A stream that a peer opened.
#[derive(Debug)]
pub struct IncomingStream {
    /// Who opened it.
    pub peer: NodeId,
    /// The stream.
    pub stream: FramedStream,
}
