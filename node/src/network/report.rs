//! What the network knows of the way this node is connected.

use super::Reachability;
use aitbc_protocol::{
    NodeId,
    nat::{Filtering, Mapping},
};
use libp2p::Multiaddr;
use serde::Serialize;
use std::net::SocketAddr;

/// A snapshot of everything that decides how others are reached.
#[derive(Clone, Debug, Serialize)]
pub struct NetworkReport {
    /// The verdict and why.
    pub reachability: Reachability,
    /// Addresses listened on.
    pub listening: Vec<Multiaddr>,
    /// Addresses that others are told.
    pub announced: Vec<Multiaddr>,
    /// Connected peers.
    pub peers: usize,
    /// Whether UDP gets through; nothing where it cannot be told yet.
    pub udp: Option<bool>,
    /// What peers see of this node.
    pub observed: Vec<Observed>,
    /// What the NAT does with outgoing packets, over QUIC, or over TCP where UDP does not get through.
    pub mapping: Option<Mapping>,
    /// Whom it lets in.
    pub filtering: Option<Filtering>,
    /// What the router said to the wish for a port mapping (UPnP); nothing where it was not asked or has not answered.
    pub router: Option<String>,
    /// Relays among the peers, the nearest first.
    pub relays: Vec<RelayInfo>,
    /// Attempts of the last day to punch a hole.
    pub hole_punches: HolePunches,
}

/// What one peer sees.
#[derive(Clone, Debug, Serialize)]
pub struct Observed {
    /// `quic`, `tcp`.
    pub transport: &'static str,
    /// The address that it sees.
    pub address: SocketAddr,
    /// Whose sight it is.
    pub peer: NodeId,
}

/// A relay.
#[derive(Clone, Debug, Serialize)]
pub struct RelayInfo {
    /// Who.
    pub peer: NodeId,
    /// The least of the latest measured round trips in milliseconds.
    pub round_trip_ms: Option<f64>,
    /// Whether this node is reachable through it.
    pub reserved: bool,
}

/// How attempts to punch a hole ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HolePunches {
    /// A direct connection came of it.
    pub through: usize,
    /// None did.
    pub failed: usize,
}
