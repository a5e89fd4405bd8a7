//! Where a record came from, as far as the sender cannot choose it.

use super::{MAX_RELAYED_PROVIDERS, MAX_RELAYED_RECORDS, MAX_SUBNET_PROVIDERS, MAX_SUBNET_RECORDS};
use crate::network::addresses::subnet;
use libp2p::PeerId;
use std::net::IpAddr;

/// Those who share one share of the store. Peer ids cost nothing, addresses do: so it is addresses that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Origin {
    /// A subnet.
    Subnet(IpAddr),
    /// Everybody who comes through a relay.
    Relayed,
    /// One peer by itself: on the network `local` every node has the same few addresses.
    Peer(PeerId),
}

impl Origin {
    pub(super) fn of(peer: PeerId, ip: Option<IpAddr>, local: bool) -> Self {
        let Some(ip) = ip.map(|ip| ip.to_canonical()) else {
            return Self::Relayed;
        };
        if local && !super::addresses::is_global(ip) {
            return Self::Peer(peer);
        }
        Self::Subnet(subnet(ip))
    }

    /// Providers of one key that may have this origin.
    pub(super) fn max_providers(self) -> usize {
        match self {
            Self::Subnet(_) => MAX_SUBNET_PROVIDERS,
            Self::Relayed => MAX_RELAYED_PROVIDERS,
            Self::Peer(_) => 1,
        }
    }

    /// Records that may have this origin.
    pub(super) fn max_records(self) -> usize {
        match self {
            Self::Subnet(_) => MAX_SUBNET_RECORDS,
            Self::Relayed => MAX_RELAYED_RECORDS,
            Self::Peer(_) => super::MAX_KEYS,
        }
    }
}
