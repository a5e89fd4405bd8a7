//! What nodes say on `/aitbc/reach/1`: whether a node can be reached from outside, tried by one that it has not spoken
//! to.
//!
//! A node that was spoken to is no witness: many NATs let in whoever was sent something. So the node asks a peer, the
//! peer asks a third node of another IP address, and that one dials.
//!
//! ```text
//! node --Check--> peer --Dial--> third node --dials from a new port--> node
//!      <-Dialled-      <-Dialled-
//! ```

use crate::{
    NodeId,
    text::{Line, bounded_vec},
};
use serde::{Deserialize, Serialize};

/// Most addresses tried at one request.
pub const MAX_CHECKED: usize = 8;
/// How long one dial may take, in milliseconds: TCP sends its first packet three times in that time.
pub const DIAL_MS: u64 = 4_000;

/// First message of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReachRequest {
    /// To measure a round trip.
    Ping,
    /// Asks to have the sender dialled by a third node.
    Check {
        /// Multiaddresses of the sender. Their IP must be the one that the connection comes from, so that nobody can
        /// point others at a third party.
        #[serde(deserialize_with = "bounded_vec::<_, _, MAX_CHECKED>")]
        addresses: Vec<Line<256>>,
    },
    /// Asks to dial somebody else.
    Dial {
        /// Who must answer there.
        node: NodeId,
        /// Its multiaddresses.
        #[serde(deserialize_with = "bounded_vec::<_, _, MAX_CHECKED>")]
        addresses: Vec<Line<256>>,
        /// Even if who dials is connected to the node. That it fails shows as much; that it succeeds shows less, for a
        /// NAT lets in whom the node has spoken to.
        acquainted: bool,
    },
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReachReply {
    /// To a ping.
    Pong {
        /// The clock of who answers, in milliseconds since the epoch.
        now_ms: crate::UnixMillis,
    },
    /// Each address was dialled.
    Dialled {
        /// By whom. The peer that passed the request on vouches for it.
        by: NodeId,
        /// In the order of the request.
        #[serde(deserialize_with = "bounded_vec::<_, _, MAX_CHECKED>")]
        results: Vec<Dialled>,
    },
    /// Nothing was dialled.
    Refused(Refusal),
}

/// What came of one address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dialled {
    /// The address.
    pub address: Line<256>,
    /// Why it was not reached; nothing where it was.
    pub error: Option<Line<160>>,
}

/// Why nothing was dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// There is no third node of another IP address.
    #[error("it knows no third node of another IP address that could dial")]
    Nobody,
    /// Who was to dial is connected to the node already.
    #[error("it is connected to the node already")]
    Acquainted,
    /// No address is one that may be dialled for the sender.
    #[error("none of the addresses is one that the connection comes from")]
    Addresses,
    /// Too many requests.
    #[error("it was asked too often")]
    Busy,
    /// Who was to dial cannot: it has no way to such an address, or makes too many dials already.
    #[error("it cannot dial any of the addresses now")]
    Unable,
}
