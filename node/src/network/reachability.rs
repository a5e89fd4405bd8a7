//! How others reach this node: the addresses that lead here, and the verdict with its reason.

use super::{
    Reachability,
    addresses::{AddressPolicy, is_loopback, is_relayed, transport, without_peer},
};
use aitbc_protocol::{NetworkId, offer::MAX_ADDRESSES};
use libp2p::Multiaddr;

/// Probes that must fail, with none that worked, before a node takes itself for private: one server may itself be
/// behind a broken network.
const FAILURES_FOR_PRIVATE: u32 = 2;
/// Most addresses kept of each kind.
const MAX_KEPT: usize = 32;

/// Owns what is known of this node's own addresses.
#[derive(Debug)]
pub(super) struct OwnAddresses {
    policy: AddressPolicy,
    local: bool,
    configured: Vec<Multiaddr>,
    confirmed: Vec<(Multiaddr, String)>,
    relayed: Vec<Multiaddr>,
    listening: Vec<Multiaddr>,
    failures: u32,
    last_failure: String,
    router: &'static str,
}

impl OwnAddresses {
    pub(super) fn new(network: &NetworkId, configured: &[Multiaddr]) -> Self {
        Self {
            policy: AddressPolicy::of(network),
            local: network.is_local(),
            configured: configured.iter().map(without_peer).collect(),
            confirmed: Vec::new(),
            relayed: Vec::new(),
            listening: Vec::new(),
            failures: 0,
            last_failure: String::new(),
            router: "",
        }
    }

    /// A listener got an address. Relayed ones count once their reservation is confirmed.
    pub(super) fn listening_on(&mut self, address: &Multiaddr) {
        if !is_relayed(address) {
            insert(&mut self.listening, without_peer(address));
        }
    }

    /// A listener lost an address.
    pub(super) fn not_listening_on(&mut self, address: &Multiaddr) {
        let address = without_peer(address);
        self.listening.retain(|known| *known != address);
        self.relayed.retain(|known| *known != address);
    }

    /// An external address was confirmed, by whom `evidence` says. False if the address means nothing to others, so
    /// that it must not be announced.
    pub(super) fn confirmed(&mut self, address: &Multiaddr, evidence: &str) -> bool {
        if !self.policy.admits(address) {
            return false;
        }
        let address = without_peer(address);
        if is_relayed(&address) {
            insert(&mut self.relayed, address);
        } else if let Some((_, known)) = self.confirmed.iter_mut().find(|(known, _)| *known == address) {
            evidence.clone_into(known);
        } else if self.confirmed.len() < MAX_KEPT {
            self.confirmed.push((address, evidence.to_owned()));
        }
        true
    }

    /// An external address holds no longer.
    pub(super) fn expired(&mut self, address: &Multiaddr) {
        let address = without_peer(address);
        self.relayed.retain(|known| *known != address);
        self.confirmed.retain(|(known, _)| *known != address);
    }

    /// A peer tried one of this node's addresses and did not get through.
    pub(super) fn probe_failed(&mut self, address: &Multiaddr, reason: &str) {
        if self.policy.admits(address) {
            self.failures = self.failures.saturating_add(1);
            self.last_failure = format!("{address} could not be reached from outside ({reason})");
        }
    }

    /// What the router answered to the wish for a port mapping.
    pub(super) fn router_refused(&mut self, why: &'static str) {
        self.router = why;
    }

    /// Addresses listened on.
    pub(super) fn listening(&self) -> &[Multiaddr] {
        &self.listening
    }

    /// On network `local`, the listen addresses that others may use: loopback ones only where there are no others.
    pub(super) fn local_externals(&self) -> Vec<Multiaddr> {
        if !self.local {
            return Vec::new();
        }
        let usable = || self.listening.iter().filter(|address| self.policy.admits(address));
        let elsewhere = usable().any(|address| !is_loopback(address));
        let mut addresses: Vec<Multiaddr> =
            usable().filter(|address| !(elsewhere && is_loopback(address))).cloned().collect();
        addresses.sort_by_key(|address| transport(address) != "quic");
        addresses
    }

    /// Addresses under which others can reach this node, best first.
    pub(super) fn external(&self) -> Vec<Multiaddr> {
        let mut addresses = Vec::new();
        let confirmed = self.confirmed.iter().map(|(address, _)| address);
        for address in
            self.configured.iter().chain(confirmed).chain(&self.relayed).chain(&self.local_externals()).cloned()
        {
            if addresses.len() < MAX_ADDRESSES && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }

    /// True if others reach this node without a relay, as far as anybody could tell.
    pub(super) fn is_public(&self) -> bool {
        self.local || !self.configured.is_empty() || !self.confirmed.is_empty()
    }

    /// True if enough peers tried and failed.
    pub(super) fn is_private(&self) -> bool {
        !self.is_public() && self.failures >= FAILURES_FOR_PRIVATE
    }

    /// The verdict and why.
    pub(super) fn verdict(&self) -> Reachability {
        let (verdict, reason) = if let Some(address) = self.configured.first() {
            ("public", format!("the setting `external` names {address}"))
        } else if let Some((address, evidence)) = self.confirmed.first() {
            ("public", format!("{address}: {evidence}"))
        } else if self.local {
            ("public", "on network `local` every address listened on counts as reachable".to_owned())
        } else if self.is_private() {
            let way = if self.relayed.is_empty() { "no relay was found yet" } else { "a relay leads here" };
            let router = if self.router.is_empty() { "" } else { ", and " };
            ("private", format!("{}{router}{}; {way}", self.last_failure, self.router))
        } else {
            ("unknown", "no peer has tried to reach this node from outside yet".to_owned())
        };
        Reachability { verdict: verdict.to_owned(), reason }
    }
}

fn insert(list: &mut Vec<Multiaddr>, address: Multiaddr) {
    if list.len() < MAX_KEPT && !list.contains(&address) {
        list.push(address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    fn public() -> OwnAddresses {
        OwnAddresses::new(&NetworkId::new("main").unwrap(), &[])
    }

    #[test]
    fn a_public_network_announces_only_what_was_confirmed() {
        let mut own = public();
        own.listening_on(&address("/ip4/192.168.1.2/tcp/4101"));
        own.listening_on(&address("/ip4/8.8.8.8/tcp/4101"));
        assert!(own.external().is_empty());
        assert_eq!(own.verdict().verdict, "unknown");
        assert!(!own.confirmed(&address("/ip4/192.168.1.2/tcp/4101"), "a neighbour reached it"));
        assert!(own.confirmed(&address("/ip4/8.8.8.8/tcp/4101"), "a peer reached it"));
        assert_eq!(own.external(), [address("/ip4/8.8.8.8/tcp/4101")]);
        assert_eq!(own.verdict().verdict, "public");
        own.expired(&address("/ip4/8.8.8.8/tcp/4101"));
        assert!(own.external().is_empty());
    }

    #[test]
    fn private_needs_two_failures_and_says_why() {
        let mut own = public();
        own.probe_failed(&address("/ip4/8.8.8.8/tcp/4101"), "timed out");
        assert!(!own.is_private());
        own.probe_failed(&address("/ip4/10.0.0.1/tcp/4101"), "not an address others could reach");
        assert!(!own.is_private());
        own.probe_failed(&address("/ip4/8.8.8.8/udp/4101/quic-v1"), "timed out");
        assert!(own.is_private());
        own.router_refused("the router maps no ports (UPnP)");
        let verdict = own.verdict();
        assert_eq!(verdict.verdict, "private");
        assert!(verdict.reason.contains("timed out") && verdict.reason.contains("UPnP"), "{}", verdict.reason);
        own.confirmed(&address("/ip4/8.8.8.8/udp/4101/quic-v1"), "a peer reached it");
        assert!(!own.is_private());
    }

    #[test]
    fn relayed_addresses_come_after_direct_ones() {
        let relay = "/ip4/9.9.9.9/tcp/1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN/p2p-circuit";
        let mut own = public();
        own.confirmed(&address(relay), "relay");
        assert!(!own.is_public());
        own.confirmed(&address("/ip4/8.8.8.8/tcp/4101"), "a peer reached it");
        assert_eq!(own.external(), [address("/ip4/8.8.8.8/tcp/4101"), address(relay)]);
    }

    #[test]
    fn the_local_network_announces_loopback_only_where_there_is_nothing_else() {
        let mut own = OwnAddresses::new(&NetworkId::new("local").unwrap(), &[]);
        own.listening_on(&address("/ip4/127.0.0.1/tcp/1"));
        own.listening_on(&address("/ip4/127.0.0.1/udp/1/quic-v1"));
        assert_eq!(own.external(), [address("/ip4/127.0.0.1/udp/1/quic-v1"), address("/ip4/127.0.0.1/tcp/1")]);
        own.listening_on(&address("/ip4/10.0.0.7/tcp/1"));
        assert_eq!(own.external(), [address("/ip4/10.0.0.7/tcp/1")]);
        own.not_listening_on(&address("/ip4/10.0.0.7/tcp/1"));
        assert_eq!(own.external().len(), 2);
    }
}
