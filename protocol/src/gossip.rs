//! What nodes tell all who hear a cell.

use crate::{
    attestation::exchange::Revoke,
    envelope::Signed,
    evidence::Evidence,
    offer::{Heartbeat, Offer},
    qos::Observation,
};
use serde::{Deserialize, Serialize};

/// What travels on the topics of a cell.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gossip {
    /// A new or renewed offer.
    Offer(Signed<Offer>),
    /// A sign of life, on the finest topic only.
    Heartbeat(Signed<Heartbeat>),
    /// A verifier takes back what it has said of a provider.
    Revoke(Signed<Revoke>),
    /// A client tells what it saw of a job, on the finest topic only.
    Observation(Signed<Observation>),
    /// What a node signed speaks against it.
    Evidence(Box<Evidence>),
}
