//! What a multiaddress says: whether others can use it, what it travels over, and whose it is.

use aitbc_protocol::NetworkId;
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest address taken from others, in bytes: what an offer can hold.
const MAX_ADDRESS_BYTES: usize = 256;

/// Which addresses mean anything to other nodes of the network.
#[derive(Clone, Copy, Debug)]
pub(super) struct AddressPolicy {
    private: bool,
}

impl AddressPolicy {
    /// On network `local` private addresses count; elsewhere a node that believed them would dial strangers in its
    /// own home for whoever names them.
    pub(super) fn of(network: &NetworkId) -> Self {
        Self { private: network.is_local() }
    }

    /// True if the address is worth announcing, storing and dialling.
    pub(super) fn admits(self, address: &Multiaddr) -> bool {
        if address.len() > MAX_ADDRESS_BYTES {
            return false;
        }
        match address.iter().next() {
            Some(Protocol::Ip4(ip)) => admits_ip(ip.into(), self.private),
            Some(Protocol::Ip6(ip)) => admits_ip(ip.into(), self.private),
            Some(Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name) | Protocol::Dnsaddr(name)) => {
                self.private || !(name == "localhost" || name.ends_with(".local") || name.ends_with(".localhost"))
            }
            _ => false,
        }
    }
}

fn admits_ip(ip: IpAddr, private: bool) -> bool {
    if private { !ip.is_unspecified() && !ip.is_multicast() } else { is_global(ip) }
}

/// Globally reachable unicast, after the IANA special-purpose address registries (RFC 6890 and updates).
pub(crate) fn is_global(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_global_v4(ip),
        IpAddr::V6(ip) => is_global_v6(ip),
    }
}

fn is_global_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let special = a == 0
        || ip.is_private()
        || (a == 100 && (64..128).contains(&b))
        || ip.is_loopback()
        || ip.is_link_local()
        || (a == 192 && b == 0 && c == 0)
        || ip.is_documentation()
        || (a == 198 && (18..20).contains(&b))
        || ip.is_multicast()
        || a >= 240;
    !special
}

fn is_global_v6(ip: Ipv6Addr) -> bool {
    if let Some(v4) = ip.to_ipv4_mapped() {
        return is_global_v4(v4);
    }
    let [a, b, ..] = ip.segments();
    // 2000::/3 is all there is of global unicast, less documentation and the protocol assignments.
    (a & 0xe000) == 0x2000 && !(a == 0x2001 && (b < 0x0200 || b == 0x0db8)) && a != 0x3fff
}

/// True if the address leads through a relay.
pub(super) fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

/// The relay that the address leads through.
pub(super) fn relay_of(address: &Multiaddr) -> Option<PeerId> {
    let parts: Vec<Protocol<'_>> = address.iter().collect();
    let circuit = parts.iter().position(|part| *part == Protocol::P2pCircuit)?;
    match parts.get(circuit.checked_sub(1)?)? {
        Protocol::P2p(relay) => Some(*relay),
        _ => None,
    }
}

/// True if the address leads back to the same machine.
pub(super) fn is_loopback(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_loopback(),
        Some(Protocol::Ip6(ip)) => ip.is_loopback(),
        _ => false,
    }
}

/// `quic` or `tcp`; of the way to the relay where the address is relayed.
pub(super) fn transport(address: &Multiaddr) -> &'static str {
    if address.iter().any(|part| matches!(part, Protocol::QuicV1 | Protocol::Quic)) { "quic" } else { "tcp" }
}

/// Where a direct connection comes from; `None` behind a relay, whose address says nothing about the peer.
pub(super) fn source_ip(address: &Multiaddr) -> Option<IpAddr> {
    if is_relayed(address) {
        return None;
    }
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

/// IP and port of a direct address.
pub(super) fn socket_address(address: &Multiaddr) -> Option<SocketAddr> {
    let ip = source_ip(address)?;
    let port = address.iter().find_map(|part| match part {
        Protocol::Udp(port) | Protocol::Tcp(port) => Some(port),
        _ => None,
    })?;
    Some(SocketAddr::new(ip, port))
}

/// The network that an address belongs to: a /24 of IPv4, or a /48 of IPv6, what one site gets (RFC 6177).
pub(crate) fn subnet(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            IpAddr::from([a, b, c, 0])
        }
        IpAddr::V6(ip) => {
            let [a, b, c, ..] = ip.segments();
            IpAddr::from([a, b, c, 0, 0, 0, 0, 0])
        }
    }
}

/// The address without a last `/p2p/<peer>`.
pub(super) fn without_peer(address: &Multiaddr) -> Multiaddr {
    let mut address = address.clone();
    if matches!(address.iter().last(), Some(Protocol::P2p(_))) {
        address.pop();
    }
    address
}

/// The peer that the last `/p2p/<peer>` names.
pub(super) fn peer_of(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last()? {
        Protocol::P2p(peer) => Some(peer),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(network: &str) -> AddressPolicy {
        AddressPolicy::of(&NetworkId::new(network).unwrap())
    }

    #[test]
    fn a_public_network_takes_no_private_addresses() {
        for text in [
            "/ip4/127.0.0.1/tcp/1",
            "/ip4/10.1.2.3/tcp/1",
            "/ip4/192.168.0.1/udp/1/quic-v1",
            "/ip4/100.64.0.1/tcp/1",
            "/ip4/169.254.1.1/tcp/1",
            "/ip4/0.0.0.0/tcp/1",
            "/ip4/224.0.0.1/tcp/1",
            "/ip6/::1/tcp/1",
            "/ip6/fe80::1/tcp/1",
            "/ip6/fd00::1/tcp/1",
            "/ip6/::ffff:10.0.0.1/tcp/1",
            "/ip6/2001:db8::1/tcp/1",
            "/dns/localhost/tcp/1",
            "/dns4/printer.local/tcp/1",
            "/memory/1",
        ] {
            assert!(!policy("main").admits(&text.parse().unwrap()), "{text}");
        }
        for text in ["/ip4/8.8.8.8/tcp/1", "/ip6/2606:4700::1/udp/1/quic-v1", "/dns/relay.example.org/tcp/4101"] {
            assert!(policy("main").admits(&text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn the_local_network_takes_loopback_but_nothing_that_cannot_be_dialled() {
        assert!(policy("local").admits(&"/ip4/127.0.0.1/tcp/1".parse().unwrap()));
        assert!(!policy("local").admits(&"/ip4/0.0.0.0/tcp/1".parse().unwrap()));
        assert!(!policy("local").admits(&"/memory/1".parse().unwrap()));
        let long = format!("/dns/{}/tcp/1", "a".repeat(MAX_ADDRESS_BYTES));
        assert!(!policy("local").admits(&long.parse().unwrap()));
    }

    #[test]
    fn a_relayed_address_tells_no_source() {
        let peer = PeerId::random();
        let address: Multiaddr = format!("/ip4/8.8.8.8/tcp/1/p2p/{peer}/p2p-circuit/p2p/{peer}").parse().unwrap();
        assert!(is_relayed(&address));
        assert_eq!(source_ip(&address), None);
        assert_eq!((peer_of(&address), relay_of(&address)), (Some(peer), Some(peer)));
        assert_eq!(relay_of(&"/ip4/8.8.8.8/tcp/1".parse().unwrap()), None);
        assert_eq!(peer_of(&without_peer(&address)), None);
    }
}
