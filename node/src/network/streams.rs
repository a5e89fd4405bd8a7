//! Streams between nodes: a behaviour of our own that bounds what peers open, and frames over them.

use crate::network::Protocol;
use aitbc_protocol::{NodeId, wire::WireError};
use libp2p::{PeerId, swarm::ConnectionId};
use serde::{Serialize, de::DeserializeOwned};
use std::time::Duration;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{mpsc, oneshot},
};

/// How many streams peers may open here.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StreamLimits {
    /// Streams that live at once on one connection.
    pub per_connection: usize,
    /// Streams of one peer that live at once, over all its connections.
    pub per_peer: usize,
    /// Of those, streams of one protocol.
    pub per_protocol: usize,
    /// New streams of one peer at once.
    pub burst: u32,
    /// New streams of one peer a second in the long run.
    pub per_second: u32,
    /// How long agreeing on the protocol may take.
    pub negotiation_timeout: Duration,
}

/// Where streams that peers open go: one bounded queue a protocol. A stream that finds its queue full is refused.
#[derive(Clone, Debug)]
pub struct IncomingQueues {
    /// `/aitbc/offer/1`
    pub offer: mpsc::Sender<IncomingStream>,
    /// `/aitbc/quote/1`
    pub quote: mpsc::Sender<IncomingStream>,
    /// `/aitbc/job/1`
    pub job: mpsc::Sender<IncomingStream>,
}

/// The network behaviour. `ToSwarm` is `std::convert::Infallible`.
#[derive(Debug)]
pub struct Behaviour {}

impl Behaviour {
    /// A behaviour.
    pub fn new(limits: StreamLimits, incoming: IncomingQueues) -> Self {
        let _ = (limits, incoming);
        todo!()
    }

    /// Opens a stream on `connection`, or on the best one to `peer`. `reply` always gets an answer.
    pub fn open(
        &mut self,
        peer: PeerId,
        protocol: Protocol,
        connection: Option<ConnectionId>,
        reply: oneshot::Sender<Result<FramedStream, StreamError>>,
    ) {
        let _ = (peer, protocol, connection, reply);
        todo!()
    }

    /// The connection that [`Self::open`] takes if none is given: direct before relayed, the newest first.
    pub fn best_connection(&self, peer: &PeerId) -> Option<ConnectionId> {
        let _ = peer;
        todo!()
    }

    /// Streams refused so far: over a limit, or with nobody taking them.
    pub fn refused(&self) -> u64 {
        todo!()
    }
}

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
    /// Too many streams to that peer wait to be opened.
    #[error("{0} streams to this peer wait to be opened already: try another provider, or later")]
    Busy(usize),
    /// A frame of the wrong size or shape.
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// A stream that sends and receives whole frames. Dropping it resets the stream.
#[derive(Debug)]
pub struct FramedStream {}

impl FramedStream {
    /// Frames over any pair of byte streams.
    pub fn from_io(peer: NodeId, io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let _ = (peer, io);
        todo!()
    }

    /// The two ends of a stream in memory, for tests and use within a process: the first is held by `a` (its peer is
    /// `b`), the second by `b`.
    pub fn pair(a: NodeId, b: NodeId) -> (Self, Self) {
        let _ = (a, b);
        todo!()
    }

    /// The connection it runs on, `None` in memory.
    pub fn connection(&self) -> Option<ConnectionId> {
        todo!()
    }

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
