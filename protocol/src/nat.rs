//! What a node can tell of the NAT it is behind, in the words of RFC 4787.

use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// Which outside address a NAT gives to one inside (RFC 4787, 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mapping {
    /// None: the node is seen under an address that it listens on.
    None,
    /// The same towards everybody, so that holes can be punched.
    EndpointIndependent,
    /// Another one for other destinations: a hole leads to its peer alone, and nobody knows the port before.
    EndpointDependent,
}

/// Whom a NAT or a firewall lets in (RFC 4787, 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filtering {
    /// Everybody.
    EndpointIndependent,
    /// Addresses that were spoken to, from any port.
    AddressDependent,
    /// Addresses and ports that were spoken to.
    AddressAndPortDependent,
}

/// The mapping, from what peers of different addresses see; nothing where too few of them were asked.
///
/// `seen` holds pairs of the peer's address and the one it sees this node under, all over one transport; `listening`
/// the addresses that this node has itself.
pub fn mapping(seen: &[(SocketAddr, SocketAddr)], listening: &[SocketAddr]) -> Option<Mapping> {
    let (_, first) = seen.first()?;
    if seen.iter().all(|(_, outside)| listening.contains(outside)) {
        return Some(Mapping::None);
    }
    if seen.iter().any(|(_, outside)| outside != first) {
        return Some(Mapping::EndpointDependent);
    }
    let elsewhere = seen.iter().any(|(peer, _)| peer.ip() != seen[0].0.ip());
    elsewhere.then_some(Mapping::EndpointIndependent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(pairs: &[(&str, &str)]) -> Vec<(SocketAddr, SocketAddr)> {
        pairs.iter().map(|(peer, outside)| (peer.parse().unwrap(), outside.parse().unwrap())).collect()
    }

    #[test]
    fn mappings_are_told_apart_by_what_peers_see() {
        let home: SocketAddr = "9.9.9.9:4101".parse().unwrap();
        for (pairs, listening, expected) in [
            (&[][..], &[][..], None),
            (&[("1.1.1.1:1", "9.9.9.9:4101")], &[home], Some(Mapping::None)),
            (&[("1.1.1.1:1", "9.9.9.9:4101")], &[], None),
            (&[("1.1.1.1:1", "9.9.9.9:4101"), ("1.1.1.1:2", "9.9.9.9:4101")], &[], None),
            (
                &[("1.1.1.1:1", "9.9.9.9:4101"), ("2.2.2.2:1", "9.9.9.9:4101")],
                &[],
                Some(Mapping::EndpointIndependent),
            ),
            (
                &[("1.1.1.1:1", "9.9.9.9:4101"), ("2.2.2.2:1", "9.9.9.9:5000")],
                &[home],
                Some(Mapping::EndpointDependent),
            ),
            (
                &[("1.1.1.1:1", "9.9.9.9:4101"), ("1.1.1.1:2", "9.9.9.9:5000")],
                &[],
                Some(Mapping::EndpointDependent),
            ),
        ] {
            assert_eq!(mapping(&seen(pairs), listening), expected, "{pairs:?}");
        }
    }
}
