//! Streams between nodes: a behaviour of our own that pins a stream to a connection and bounds what peers open, and
//! frames over them.
//!
//! ```text
//! Behaviour --OpenStream--> Handler (one a connection) --negotiated--> reply: FramedStream
//!     |                        |
//!     | PeerBudget, one a peer | inbound: budget admits --> queue of the protocol: IncomingStream
//! ```
//!
//! libp2p admits at most 128 inbound streams of a connection to negotiation at once (the swarm's
//! `max_negotiating_inbound_streams`); each has [`StreamLimits::negotiation_timeout`] for it. A stream that is agreed
//! on is admitted by the budget of its peer, which all connections of the peer share, or dropped at once, which
//! resets it, and counted. So a peer costs at most 128 half-open streams a connection and
//! [`StreamLimits::per_peer`] open ones, whatever it sends, and takes nothing from the budget of others.

mod behaviour;
mod budget;
mod frame;
mod handler;
mod upgrade;

pub use behaviour::Behaviour;
pub use frame::{FrameReader, FrameWriter, FramedStream};

use crate::network::Protocol;
use aitbc_protocol::{
    NodeId,
    wire::{self, WireError},
};
use std::time::Duration;
use tokio::sync::mpsc;

/// How many streams peers may open here.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StreamLimits {
    /// Streams that live at once on one connection.
    pub per_connection: usize,
    /// Streams of one peer that live at once, over all its connections.
    pub per_peer: usize,
    /// Of those, streams of one protocol, so that one protocol cannot starve the others.
    pub per_protocol: usize,
    /// New streams of one peer at once.
    pub burst: u32,
    /// New streams of one peer a second in the long run.
    pub per_second: u32,
    /// How long agreeing on the protocol may take, inbound and outbound.
    pub negotiation_timeout: Duration,
}

impl Default for StreamLimits {
    /// More than the provider side's own limits add up to, over its three protocols and with all the slots that a node
    /// may have: those answer a peer that is over them with when to come back, these can only reset its stream.
    fn default() -> Self {
        Self {
            per_connection: 128,
            per_peer: 160,
            per_protocol: 96,
            burst: 128,
            per_second: 64,
            negotiation_timeout: Duration::from_secs(10),
        }
    }
}

/// Where streams that peers open go: one bounded queue a protocol. A stream that finds its queue full, or gone, is
/// refused, so a queue should hold several times [`StreamLimits::per_protocol`].
#[derive(Clone, Debug)]
pub struct IncomingQueues {
    /// `/aitbc/offer/1`
    pub offer: mpsc::Sender<IncomingStream>,
    /// `/aitbc/quote/1`
    pub quote: mpsc::Sender<IncomingStream>,
    /// `/aitbc/job/1`
    pub job: mpsc::Sender<IncomingStream>,
    /// `/aitbc/reach/1`
    pub reach: mpsc::Sender<IncomingStream>,
    /// `/aitbc/challenge/1`
    pub challenge: mpsc::Sender<IncomingStream>,
    /// `/aitbc/attest/1`
    pub attest: mpsc::Sender<IncomingStream>,
    /// `/aitbc/bandwidth/1`
    pub bandwidth: mpsc::Sender<IncomingStream>,
    /// `/aitbc/fhe/1`
    pub fhe: mpsc::Sender<IncomingStream>,
    /// `/aitbc/settlement/1`
    pub settlement: mpsc::Sender<IncomingStream>,
}

impl IncomingQueues {
    pub(super) fn of(&self, protocol: Protocol) -> &mpsc::Sender<IncomingStream> {
        match protocol {
            Protocol::Offer => &self.offer,
            Protocol::Quote => &self.quote,
            Protocol::Job => &self.job,
            Protocol::Reach => &self.reach,
            Protocol::Challenge => &self.challenge,
            Protocol::Attest => &self.attest,
            Protocol::Bandwidth => &self.bandwidth,
            Protocol::Fhe => &self.fhe,
            Protocol::Settlement => &self.settlement,
        }
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
    Timeout(Duration),
    /// Too many streams to one peer wait to be opened.
    #[error("{0} streams to this peer wait to be opened already: try another peer, or later")]
    Busy(usize),
    /// A frame of the wrong size or shape.
    #[error(transparent)]
    Wire(#[from] WireError),
}

impl StreamError {
    /// Whether another stream, perhaps by another path, may do what this one did not.
    pub(crate) const fn is_passing(&self) -> bool {
        matches!(self, Self::Closed(_) | Self::Timeout(_) | Self::Busy(_))
    }
}

impl Protocol {
    /// Every protocol that runs over streams.
    pub const ALL: [Self; 9] = [
        Self::Offer,
        Self::Quote,
        Self::Job,
        Self::Reach,
        Self::Challenge,
        Self::Attest,
        Self::Bandwidth,
        Self::Fhe,
        Self::Settlement,
    ];

    /// The name that is negotiated.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Offer => wire::OFFER_PROTOCOL,
            Self::Quote => wire::QUOTE_PROTOCOL,
            Self::Job => wire::JOB_PROTOCOL,
            Self::Reach => wire::REACH_PROTOCOL,
            Self::Challenge => wire::CHALLENGE_PROTOCOL,
            Self::Attest => wire::ATTEST_PROTOCOL,
            Self::Bandwidth => wire::BANDWIDTH_PROTOCOL,
            Self::Fhe => wire::FHE_PROTOCOL,
            Self::Settlement => wire::SETTLEMENT_PROTOCOL,
        }
    }
}

impl AsRef<str> for Protocol {
    fn as_ref(&self) -> &str {
        self.name()
    }
}

#[cfg(test)]
pub(in crate::network) mod tests;
