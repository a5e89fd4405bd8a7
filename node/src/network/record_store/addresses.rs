//! Which addresses of a record are passed on.

use super::{MAX_ADDRESS_BYTES, MAX_ADDRESSES};
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The first [`MAX_ADDRESSES`] addresses that are short enough, that do not end at somebody else, and, but on the
/// network `local`, that lead through the internet: a record must not make its readers dial into their own home.
pub(super) fn acceptable(addresses: &[Multiaddr], provider: &PeerId, local: bool) -> Box<[Multiaddr]> {
    addresses
        .iter()
        .filter(|address| address.len() <= MAX_ADDRESS_BYTES)
        .filter(|address| match address.iter().last() {
            Some(Protocol::P2p(peer)) => peer == *provider,
            last => last.is_some(),
        })
        .filter(|address| local || leads_through_the_internet(address))
        .take(MAX_ADDRESSES)
        // Copied, so that no record keeps the larger buffer alive that it was read from.
        .filter_map(|address| Multiaddr::try_from(address.to_vec()).ok())
        .collect()
}

fn leads_through_the_internet(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => is_global(ip.into()),
        Some(Protocol::Ip6(ip)) => is_global(IpAddr::from(ip).to_canonical()),
        Some(Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_) | Protocol::Dnsaddr(_)) => true,
        _ => false,
    }
}

/// Whether an address belongs to the internet at large (IANA special-purpose address registries; the standard
/// library's `is_global` is not stable).
pub(super) fn is_global(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_global_v4(ip),
        IpAddr::V6(ip) => is_global_v6(ip),
    }
}

fn is_global_v4(ip: Ipv4Addr) -> bool {
    let [a, b, ..] = ip.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let benchmark = a == 198 && (18..20).contains(&b);
    !(a == 0
        || a >= 240
        || shared
        || benchmark
        || ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_multicast()
        || ip.is_documentation())
}

fn is_global_v6(ip: Ipv6Addr) -> bool {
    let documentation = ip.segments()[..2] == [0x2001, 0xdb8];
    // Global unicast is 2000::/3 (RFC 4291, section 2.4); all else is local, multicast or translated.
    ip.segments()[0] >> 13 == 1 && !documentation
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Multiaddr {
        text.parse().expect("an address")
    }

    #[test]
    fn keeps_public_addresses_of_the_provider_only() {
        let (provider, other) = (PeerId::random(), PeerId::random());
        let relay = format!("/ip4/198.51.101.9/udp/4101/quic-v1/p2p/{other}/p2p-circuit");
        let good = [
            parse("/ip4/8.8.4.4/tcp/4101"),
            parse("/ip6/2a00:1450::1/udp/4101/quic-v1"),
            parse("/dns4/miner.example.com/tcp/4101"),
            parse(&relay),
            parse(&format!("{relay}/p2p/{provider}")),
        ];
        assert_eq!(*acceptable(&good, &provider, false), good);

        let long = format!("/dns4/{}/tcp/1", "a".repeat(MAX_ADDRESS_BYTES));
        let bad = [
            parse("/ip4/127.0.0.1/tcp/1"),
            parse("/ip4/192.168.1.1/tcp/80"),
            parse("/ip4/100.64.0.1/tcp/80"),
            parse("/ip4/224.0.0.1/udp/1/quic-v1"),
            parse("/ip6/::1/tcp/1"),
            parse("/ip6/fe80::1/tcp/1"),
            parse("/ip6/fd00::1/tcp/1"),
            parse("/ip6/::ffff:127.0.0.1/tcp/1"),
            parse("/memory/7"),
            parse(&long),
            parse(&format!("/ip4/8.8.8.8/tcp/1/p2p/{other}")),
            Multiaddr::empty(),
        ];
        assert_eq!(*acceptable(&bad, &provider, false), []);
        assert_eq!(acceptable(&bad[..9], &provider, true).len(), MAX_ADDRESSES, "all but the number, on `local`");
        assert_eq!(*acceptable(&bad[9..], &provider, true), []);
    }
}
