//! How others reach this node: the addresses that lead here, what shows that they do, and the verdict with its reason.
//!
//! Only a stranger that got through proves an address ([`super::visits`]). AutoNAT and the router are hints: the first
//! takes a NAT that lets in whoever was spoken to for none, the second may itself be behind another NAT.

use super::{
    Reachability,
    addresses::{AddressPolicy, is_loopback, is_relayed, socket_address, source_ip, transport, without_peer},
};
use aitbc_protocol::{NetworkId, NodeId, offer::MAX_ADDRESSES};
use libp2p::{Multiaddr, PeerId};
use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

/// Checks of an address that must fail, with none that worked, before it counts as closed: who dialled may itself be
/// behind a broken network.
const FAILURES: u32 = 2;
/// How long a proof holds: checks run every 15 minutes, so that two of them may be lost.
const PROOF: Duration = Duration::from_secs(40 * 60);
/// Peers that must see this node under another IP address before the one it had counts no longer: one may lie.
const WITNESSES: usize = 2;
/// The hint of an address that the router forwards.
pub(super) const FORWARDED: &str = "the router forwards it (UPnP)";
/// Most addresses kept of each kind.
const MAX_KEPT: usize = 16;

/// An address that others see this node under, and what is known of it.
#[derive(Debug)]
struct Candidate {
    address: Multiaddr,
    /// A stranger got through, when and who.
    proof: Option<(Instant, String)>,
    /// AutoNAT or the router says that it leads here.
    hint: Option<String>,
    /// Checks that failed since the last one that did not, and one who says so.
    failures: u32,
    failed_by: Option<NodeId>,
    reason: String,
}

impl Candidate {
    fn new(address: Multiaddr) -> Self {
        Self { address, proof: None, hint: None, failures: 0, failed_by: None, reason: String::new() }
    }

    fn is_proven(&self) -> bool {
        self.proof.is_some()
    }

    fn is_closed(&self) -> bool {
        self.proof.is_none() && self.failures >= FAILURES
    }
}

/// Owns what is known of this node's own addresses.
#[derive(Debug)]
pub(super) struct OwnAddresses {
    policy: AddressPolicy,
    local: bool,
    configured: Vec<Multiaddr>,
    /// The newest last.
    candidates: Vec<Candidate>,
    relayed: Vec<Multiaddr>,
    listening: Vec<Multiaddr>,
    router: &'static str,
    /// The IP addresses, of both kinds, that this node is seen under.
    ips: Vec<IpAddr>,
    /// Who sees it under others.
    witnesses: HashMap<PeerId, IpAddr>,
}

impl OwnAddresses {
    pub(super) fn new(network: &NetworkId, configured: &[Multiaddr]) -> Self {
        Self {
            policy: AddressPolicy::of(network),
            local: network.is_local(),
            configured: configured.iter().map(without_peer).collect(),
            candidates: Vec::new(),
            relayed: Vec::new(),
            listening: Vec::new(),
            router: "",
            ips: Vec::new(),
            witnesses: HashMap::new(),
        }
    }

    /// A listener got an address. Relayed ones count once their reservation is confirmed.
    pub(super) fn listening_on(&mut self, address: &Multiaddr) {
        let address = without_peer(address);
        if !is_relayed(&address) && self.listening.len() < MAX_KEPT && !self.listening.contains(&address) {
            self.listening.push(address);
        }
    }

    /// A listener lost an address.
    pub(super) fn not_listening_on(&mut self, address: &Multiaddr) {
        let address = without_peer(address);
        self.listening.retain(|known| *known != address);
        self.relayed.retain(|known| *known != address);
    }

    /// The candidate for `address`, made if there is none; the oldest that nothing speaks for makes room.
    fn candidate(&mut self, address: &Multiaddr) -> Option<&mut Candidate> {
        if !self.policy.admits(address) || is_relayed(address) {
            return None;
        }
        let address = without_peer(address);
        if let Some(position) = self.candidates.iter().position(|known| known.address == address) {
            return self.candidates.get_mut(position);
        }
        if self.candidates.len() >= MAX_KEPT {
            let idle = |known: &Candidate| !known.is_proven() && known.hint.is_none();
            let odd = self.candidates.iter().position(|known| idle(known) && !self.is_seen(&known.address));
            let idle = odd.or_else(|| self.candidates.iter().position(idle))?;
            self.candidates.remove(idle);
        }
        self.candidates.push(Candidate::new(address));
        self.candidates.last_mut()
    }

    /// Whether this node is seen under the IP that `address` names, by more than one peer perhaps.
    fn is_seen(&self, address: &Multiaddr) -> bool {
        source_ip(address).is_some_and(|ip| self.ips.contains(&ip))
    }

    /// A peer sees this node under `address`.
    pub(super) fn observed(&mut self, address: &Multiaddr) {
        self.candidate(address);
    }

    /// `peer` sees this node under `ip`. True if that is a new one: what was known of the old one counts no longer.
    pub(super) fn seen(&mut self, peer: PeerId, ip: IpAddr) -> bool {
        let Some(known) = self.ips.iter_mut().find(|known| known.is_ipv4() == ip.is_ipv4()) else {
            self.ips.push(ip);
            return true;
        };
        if *known == ip {
            self.witnesses.remove(&peer);
            return false;
        }
        if self.witnesses.len() >= MAX_KEPT {
            self.witnesses.clear();
        }
        self.witnesses.insert(peer, ip);
        if self.witnesses.values().filter(|seen| **seen == ip).count() < WITNESSES {
            return false;
        }
        *known = ip;
        self.witnesses.clear();
        let is_old = |address: &Multiaddr| {
            source_ip(address).is_some_and(|other| other.is_ipv4() == ip.is_ipv4() && other != ip)
        };
        self.candidates.retain(|candidate| !is_old(&candidate.address));
        true
    }

    /// AutoNAT or the router says that `address` leads here, or a reservation at a relay does. False if the address
    /// means nothing to others, so that it must not be announced.
    pub(super) fn hinted(&mut self, address: &Multiaddr, by: &str) -> bool {
        if is_relayed(address) {
            let address = without_peer(address);
            let admitted = self.policy.admits(&address);
            if admitted && self.relayed.len() < MAX_KEPT && !self.relayed.contains(&address) {
                self.relayed.push(address);
            }
            return admitted;
        }
        let Some(candidate) = self.candidate(address) else { return false };
        // The mapping is confirmed by the swarm too, which says less.
        if candidate.hint.is_none() || by == FORWARDED {
            candidate.hint = Some(by.to_owned());
        }
        true
    }

    /// Somebody dialled `address` and got through whom no NAT lets in for what was spoken before; `by` says who and why.
    pub(super) fn proven(&mut self, address: &Multiaddr, by: &str, now: Instant) {
        if let Some(candidate) = self.candidate(address) {
            candidate.proof = Some((now, by.to_owned()));
            candidate.failures = 0;
            candidate.failed_by = None;
        }
    }

    /// Somebody dialled `address` and did not get through, says `helper`. A proof counts until two say so.
    pub(super) fn failed(&mut self, address: &Multiaddr, helper: NodeId, reason: &str) {
        if let Some(candidate) = self.candidate(address) {
            candidate.failures = candidate.failures.saturating_add(1);
            reason.clone_into(&mut candidate.reason);
            if *candidate.failed_by.get_or_insert(helper) != helper {
                candidate.proof = None;
            }
        }
    }

    /// An address holds no longer.
    pub(super) fn expired(&mut self, address: &Multiaddr) {
        let address = without_peer(address);
        self.relayed.retain(|known| *known != address);
        self.candidates.retain(|known| known.address != address);
    }

    /// Proofs that are too old count no longer. True if there were any.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let mut any = false;
        for candidate in &mut self.candidates {
            any |= candidate.proof.take_if(|(at, _)| now.saturating_duration_since(*at) >= PROOF).is_some();
        }
        any
    }

    /// What the router answered to the wish for a port mapping.
    pub(super) fn router_refused(&mut self, why: &'static str) {
        self.router = why;
    }

    /// Addresses listened on.
    pub(super) fn listening(&self) -> &[Multiaddr] {
        &self.listening
    }

    /// Whether this node listens on the port that `address` names. A dial that comes from another one leaves a mapping
    /// at the router that nobody can use.
    pub(super) fn listens_on_port_of(&self, address: &Multiaddr) -> bool {
        let port = |address: &Multiaddr| Some((socket_address(address)?.port(), transport(address)));
        self.listening.iter().any(|known| port(known) == port(address))
    }

    /// Addresses to have checked: those first for which something speaks, so that whoever claims to see this node under
    /// ever new ones keeps none of the good ones from being checked, and then the newest.
    pub(super) fn candidates(&self) -> Vec<Multiaddr> {
        let mut candidates: Vec<&Candidate> = self.candidates.iter().rev().collect();
        candidates.sort_by_key(|known| {
            std::cmp::Reverse((known.is_proven(), known.hint.is_some(), self.is_seen(&known.address)))
        });
        candidates.into_iter().map(|known| known.address.clone()).collect()
    }

    /// On network `local`, the listen addresses that others may use: loopback ones only where there are no others.
    pub(super) fn local_externals(&self) -> Vec<Multiaddr> {
        if !self.local || self.is_private() {
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
        let proven = self.candidates.iter().filter(|known| known.is_proven());
        let hinted = self
            .candidates
            .iter()
            .filter(|known| !known.is_proven() && known.hint.is_some() && !known.is_closed());
        let direct = proven.chain(hinted).map(|known| &known.address);
        let mut addresses = Vec::new();
        for address in
            self.configured.iter().chain(direct).chain(&self.relayed).chain(&self.local_externals()).cloned()
        {
            if addresses.len() < MAX_ADDRESSES && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }

    /// True if others reach this node without a relay, as far as anybody could tell.
    pub(super) fn is_public(&self) -> bool {
        !self.configured.is_empty()
            || self.is_proven()
            || (self.local && !self.is_private() && !self.is_translated())
    }

    /// Whether somebody sees this node under an IP address that it does not listen on: there is a NAT between.
    fn is_translated(&self) -> bool {
        let own: Vec<IpAddr> = self.listening.iter().filter_map(source_ip).collect();
        let foreign = |known: &Candidate| source_ip(&known.address).is_some_and(|ip| !own.contains(&ip));
        !own.is_empty() && self.candidates.iter().any(foreign)
    }

    /// True if it is the router that lets others in: nothing else says that they can.
    pub(super) fn is_forwarded(&self) -> bool {
        let mut hints = self.candidates.iter().filter_map(|known| known.hint.as_deref());
        self.configured.is_empty() && hints.any(|hint| hint == FORWARDED)
    }

    /// Whether AutoNAT or the router says that some address leads here.
    pub(super) fn is_hinted(&self) -> bool {
        self.candidates.iter().any(|known| known.hint.is_some())
    }

    /// Whether a stranger got through.
    pub(super) fn is_proven(&self) -> bool {
        self.candidates.iter().any(Candidate::is_proven)
    }

    /// What the router answered; empty where it was not asked or maps ports.
    pub(super) fn router(&self) -> &'static str {
        self.router
    }

    /// True if strangers tried often enough and none got through.
    pub(super) fn is_private(&self) -> bool {
        self.configured.is_empty() && !self.is_proven() && self.candidates.iter().any(Candidate::is_closed)
    }

    /// The verdict and why.
    pub(super) fn verdict(&self) -> Reachability {
        let proven =
            self.candidates.iter().find_map(|known| known.proof.as_ref().map(|(_, by)| (&known.address, by)));
        let hinted = self.candidates.iter().find_map(|known| known.hint.as_ref().map(|by| (&known.address, by)));
        let (verdict, reason) = if let Some(address) = self.configured.first() {
            ("public", format!("the setting `external` names {address}"))
        } else if let Some((address, by)) = proven {
            ("public", format!("{address} was reached by {by}"))
        } else if self.is_private() {
            let closed = self.candidates.iter().find(|known| known.is_closed());
            let failure = closed.map_or_else(String::new, |known| {
                format!("{} could not be reached from outside ({})", known.address, known.reason)
            });
            let way = if self.relayed.is_empty() { "no relay was found yet" } else { "a relay leads here" };
            let router = if self.router.is_empty() { "" } else { ", and " };
            ("private", format!("{failure}{router}{}; {way}", self.router))
        } else if self.local && !self.is_translated() {
            (
                "public",
                "on network `local` every address listened on counts as reachable until a check fails".to_owned(),
            )
        } else if let Some((address, by)) = hinted {
            ("unknown", format!("{address}: {by}; no node that this one has not spoken to has tried it yet"))
        } else {
            ("unknown", "no peer has tried to reach this node from outside yet".to_owned())
        };
        Reachability { verdict: verdict.to_owned(), reason }
    }
}

#[cfg(test)]
mod tests;
