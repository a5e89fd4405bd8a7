//! The streams of one connection.

use super::{
    FramedStream, IncomingQueues, IncomingStream, StreamError, StreamLimits,
    budget::{PeerBudget, Slot},
    frame::{Path, Place},
    upgrade::{Accept, Ask},
};
use crate::network::Protocol;
use libp2p::{
    Stream,
    swarm::{
        ConnectionHandler, ConnectionHandlerEvent, StreamUpgradeError, SubstreamProtocol,
        handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound},
    },
};
use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};
use tokio::sync::oneshot;

/// Streams that may wait to be opened on one connection.
pub(super) const MAX_OPENING: usize = 64;

/// What the handlers of all connections share with the behaviour.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) limits: StreamLimits,
    pub(super) incoming: IncomingQueues,
    pub(super) refused: AtomicU64,
}

/// A stream to open, and who waits for it.
#[derive(Debug)]
pub struct OpenStream {
    pub(super) protocol: Protocol,
    pub(super) reply: Reply,
    /// Shows that the connection is used, while the stream is being opened.
    pub(super) _used: Option<Arc<()>>,
}

/// Answers exactly once: with the stream, with why there is none, or, where it is dropped on the way because the
/// connection went away, with that.
#[derive(Debug)]
pub(super) struct Reply(Option<oneshot::Sender<Result<FramedStream, StreamError>>>);

impl Reply {
    pub(super) fn new(sender: oneshot::Sender<Result<FramedStream, StreamError>>) -> Self {
        Self(Some(sender))
    }

    pub(super) fn send(mut self, result: Result<FramedStream, StreamError>) {
        self.answer(result);
    }

    fn answer(&mut self, result: Result<FramedStream, StreamError>) {
        if let Some(sender) = self.0.take() {
            // Who asked may have stopped waiting; the stream is then dropped, which resets it.
            let _ = sender.send(result);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.answer(Err(StreamError::Closed("the connection closed before the stream was open".into())));
    }
}

/// Opens the streams that this node asks for on one connection, and admits those that the peer opens.
#[derive(Debug)]
pub struct Handler {
    path: Path,
    shared: Arc<Shared>,
    budget: Arc<PeerBudget>,
    /// Cloned into the slot of every live inbound stream of this connection.
    live: Arc<()>,
    /// Cloned into every live stream of this connection, whoever opened it.
    used: Arc<()>,
    requested: VecDeque<OpenStream>,
    /// Streams that were requested or are in negotiation.
    opening: usize,
}

impl Handler {
    pub(super) fn new(path: Path, shared: Arc<Shared>, budget: Arc<PeerBudget>, used: Arc<()>) -> Self {
        let live = Arc::new(());
        Self { path, shared, budget, live, used, requested: VecDeque::new(), opening: 0 }
    }

    fn place(&self, slot: Option<Slot>) -> Place {
        Place { _slot: slot, _use: Arc::clone(&self.used) }
    }

    fn on_inbound(&self, stream: Stream, protocol: Protocol) {
        let refuse = |reason| {
            self.shared.refused.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(peer = %self.path.peer, protocol = protocol.name(), reason, "stream refused");
        };
        let Some(slot) = self.budget.admit(protocol, &self.live, Instant::now()) else {
            return refuse("the peer is over its limits");
        };
        let stream = FramedStream::negotiated(self.path, stream, self.place(Some(slot)));
        let queue = self.shared.incoming.of(protocol);
        if queue.try_send(IncomingStream { peer: self.path.peer, stream }).is_err() {
            refuse("the queue of incoming streams is full or gone");
        }
    }

    fn on_outbound(&mut self, stream: Stream, open: OpenStream) {
        self.opening -= 1;
        let place = self.place(None);
        open.reply.send(Ok(FramedStream::negotiated(self.path, stream, place)));
    }

    fn on_outbound_error(&mut self, open: OpenStream, error: StreamUpgradeError<Infallible>) {
        self.opening -= 1;
        open.reply.send(Err(match error {
            StreamUpgradeError::Timeout => StreamError::Timeout(self.shared.limits.negotiation_timeout),
            StreamUpgradeError::NegotiationFailed => {
                StreamError::Unsupported { peer: self.path.peer, protocol: open.protocol.name() }
            }
            StreamUpgradeError::Io(error) => StreamError::Closed(error.to_string()),
            StreamUpgradeError::Apply(never) => match never {},
        }));
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = OpenStream;
    type ToBehaviour = Infallible;
    type InboundProtocol = Accept;
    type OutboundProtocol = Ask;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = OpenStream;

    fn listen_protocol(&self) -> SubstreamProtocol<Accept> {
        SubstreamProtocol::new(Accept, ()).with_timeout(self.shared.limits.negotiation_timeout)
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Ask, OpenStream, Infallible>> {
        // No waker is kept: the swarm polls the handler after every event it delivers.
        match self.requested.pop_front() {
            Some(open) => Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: SubstreamProtocol::new(Ask(open.protocol), open)
                    .with_timeout(self.shared.limits.negotiation_timeout),
            }),
            None => Poll::Pending,
        }
    }

    fn on_behaviour_event(&mut self, open: OpenStream) {
        if self.opening >= MAX_OPENING {
            return open.reply.send(Err(StreamError::Busy(self.opening)));
        }
        self.opening += 1;
        self.requested.push_back(open);
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<Accept, Ask, (), OpenStream>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, protocol),
                ..
            }) => self.on_inbound(stream, protocol),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: stream, info }) => {
                self.on_outbound(stream, info);
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                self.on_outbound_error(info, error);
            }
            _ => {}
        }
    }
}
