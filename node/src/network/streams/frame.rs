//! Whole frames over a byte stream.

use super::{StreamError, budget::Slot};
use aitbc_protocol::{
    NodeId,
    wire::{self, HEADER_BYTES},
};
use bytes::{Buf, BufMut, BytesMut};
use libp2p::{Stream, swarm::ConnectionId};
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt, io, sync::Arc};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::compat::FuturesAsyncReadCompatExt;

/// Bytes asked of the stream at once. A peer that announces a large frame and sends nothing costs this much.
const READ_BYTES: usize = 4 * 1024;
/// A buffer that held a frame larger than this is freed once it is empty.
const KEPT_BYTES: usize = 64 * 1024;
/// What a stream in memory holds before its writer waits.
const PAIR_BYTES: usize = 64 * 1024;

/// What a stream holds as long as it lives.
#[derive(Debug)]
pub(super) struct Place {
    /// In the budget of the peer that opened it; none in its own node's.
    pub(super) _slot: Option<Slot>,
    /// On its connection.
    pub(super) _use: Arc<()>,
}

/// The connection that a stream runs on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    pub(super) peer: NodeId,
    pub(super) connection: ConnectionId,
    pub(super) relayed: bool,
}

/// A stream that sends and receives whole frames.
///
/// Dropping it (both halves, if it was split) resets the stream and frees its place in the budget of the peer that
/// opened it.
#[derive(Debug)]
pub struct FramedStream {
    reader: FrameReader,
    writer: FrameWriter,
    path: Option<Path>,
}

impl FramedStream {
    /// Frames over any pair of byte streams with `peer` at the other end.
    pub fn from_io(peer: NodeId, io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self::build(peer, io, None, None)
    }

    /// The two ends of a stream in memory, for tests and for use within a process: `a` holds the first (whose peer
    /// is `b`), `b` the second.
    pub fn pair(a: NodeId, b: NodeId) -> (Self, Self) {
        let (near, far) = tokio::io::duplex(PAIR_BYTES);
        (Self::from_io(b, near), Self::from_io(a, far))
    }

    /// A stream that was negotiated on a connection, which is in use as long as it lives.
    pub(super) fn negotiated(path: Path, stream: Stream, place: Place) -> Self {
        Self::build(path.peer, stream.compat(), Some(path), Some(place))
    }

    fn build(
        peer: NodeId,
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        path: Option<Path>,
        place: Option<Place>,
    ) -> Self {
        let (read, write) = tokio::io::split(io);
        let place = place.map(Arc::new);
        Self {
            reader: FrameReader { peer, io: Box::new(read), buffer: BytesMut::new(), _place: place.clone() },
            writer: FrameWriter { peer, io: Box::new(write), cut: false, _place: place },
            path,
        }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> NodeId {
        self.reader.peer
    }

    /// The connection it runs on; `None` for a stream in memory.
    pub fn connection(&self) -> Option<ConnectionId> {
        self.path.map(|path| path.connection)
    }

    /// Whether it runs through a relay.
    pub fn is_relayed(&self) -> bool {
        self.path.is_some_and(|path| path.relayed)
    }

    /// Sends one frame and flushes it. `limit` is the protocol's largest frame. Not cancel-safe: a stream on which a
    /// frame was sent in part only refuses to send more.
    pub async fn send<T: Serialize + Sync>(&mut self, message: &T, limit: usize) -> Result<(), StreamError> {
        self.writer.send(message, limit).await
    }

    /// Receives one frame; `Ok(None)` where the peer closed its side between frames. Cancel-safe: what was read of a
    /// frame stays in the stream's buffer, which grows with the bytes that arrived and not with those announced.
    ///
    /// After [`aitbc_protocol::wire::WireError::TooLarge`] or `Empty` the stream has lost its place and fails again;
    /// a frame that is whole but does not decode is skipped.
    pub async fn receive<T: DeserializeOwned>(&mut self, limit: usize) -> Result<Option<T>, StreamError> {
        self.reader.receive(limit).await
    }

    /// Closes the sending side; the other side reads `None`.
    pub async fn close(&mut self) -> Result<(), StreamError> {
        self.writer.close().await
    }

    /// Two halves that can be used by two tasks. The stream lives until both are dropped.
    pub fn split(self) -> (FrameReader, FrameWriter) {
        (self.reader, self.writer)
    }
}

/// Receiving half of a [`FramedStream`].
pub struct FrameReader {
    peer: NodeId,
    io: Box<dyn AsyncRead + Send + Unpin>,
    buffer: BytesMut,
    _place: Option<Arc<Place>>,
}

impl FrameReader {
    /// Who is at the other end.
    pub fn peer(&self) -> NodeId {
        self.peer
    }

    /// See [`FramedStream::receive`].
    pub async fn receive<T: DeserializeOwned>(&mut self, limit: usize) -> Result<Option<T>, StreamError> {
        loop {
            let missing = match self.buffered_frame(limit)? {
                Ok(length) => return self.take(length, limit).map(Some),
                Err(missing) => missing,
            };
            // No more than what arrived already, so that the buffer at most doubles with each read.
            let room = missing.clamp(1, self.buffer.len().max(READ_BYTES)).max(READ_BYTES);
            self.buffer.reserve(room);
            let mut window = (&mut self.buffer).limit(room);
            if self.io.read_buf(&mut window).await.map_err(closed)? == 0 {
                return match self.buffer.len() {
                    0 => Ok(None),
                    got => Err(StreamError::Closed(format!("in the middle of a frame, after {got} bytes of it"))),
                };
            }
        }
    }

    /// The length of the frame at the front of the buffer once it is whole, or how many bytes are missing at least.
    fn buffered_frame(&self, limit: usize) -> Result<Result<usize, usize>, StreamError> {
        let Some(&header) = self.buffer.first_chunk::<HEADER_BYTES>() else {
            return Ok(Err(HEADER_BYTES - self.buffer.len()));
        };
        let length = wire::frame_length(header, limit)?;
        let missing = (HEADER_BYTES + length).saturating_sub(self.buffer.len());
        Ok(if missing == 0 { Ok(length) } else { Err(missing) })
    }

    fn take<T: DeserializeOwned>(&mut self, length: usize, limit: usize) -> Result<T, StreamError> {
        self.buffer.advance(HEADER_BYTES);
        let decoded = wire::decode(&self.buffer[..length], limit);
        self.buffer.advance(length);
        if self.buffer.is_empty() && length > KEPT_BYTES {
            self.buffer = BytesMut::new();
        }
        Ok(decoded?)
    }
}

/// Sending half of a [`FramedStream`].
pub struct FrameWriter {
    peer: NodeId,
    io: Box<dyn AsyncWrite + Send + Unpin>,
    /// A send did not run to its end: the peer may have half a frame.
    cut: bool,
    _place: Option<Arc<Place>>,
}

impl FrameWriter {
    /// Who is at the other end.
    pub fn peer(&self) -> NodeId {
        self.peer
    }

    /// See [`FramedStream::send`].
    pub async fn send<T: Serialize + Sync>(&mut self, message: &T, limit: usize) -> Result<(), StreamError> {
        if self.cut {
            return Err(StreamError::Closed("an earlier frame was sent in part only".into()));
        }
        let frame = wire::encode_frame(message, limit)?;
        self.cut = true;
        self.io.write_all(&frame).await.map_err(closed)?;
        self.io.flush().await.map_err(closed)?;
        self.cut = false;
        Ok(())
    }

    /// See [`FramedStream::close`].
    pub async fn close(&mut self) -> Result<(), StreamError> {
        self.io.shutdown().await.map_err(closed)
    }
}

impl fmt::Debug for FrameReader {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("FrameReader")
            .field("peer", &self.peer)
            .field("buffered", &self.buffer.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for FrameWriter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("FrameWriter")
            .field("peer", &self.peer)
            .field("cut", &self.cut)
            .finish_non_exhaustive()
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err takes")]
fn closed(error: io::Error) -> StreamError {
    StreamError::Closed(error.to_string())
}

#[cfg(test)]
mod tests;
