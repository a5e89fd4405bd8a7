//! Who came to this node unasked: only the visit of a stranger shows that others can reach it.
//!
//! A NAT lets in what was spoken to, some by address and some by address and port, and remembers it for minutes. So an
//! incoming connection proves nothing if this node has spoken to its address before.

use libp2p::PeerId;
use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

/// How long an address counts as spoken to: NATs keep UDP mappings for 30 s to 5 minutes.
const MEMORY: Duration = Duration::from_secs(5 * 60);
/// How long a visit counts: a check that it belongs to is over by then.
const VISIT: Duration = Duration::from_secs(60);
/// Most addresses and most visits remembered. Where there are more, who is not remembered is not taken for a stranger.
const MAX: usize = 4096;

/// What an incoming connection shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Visit {
    /// This node had not spoken to its address.
    Stranger,
    /// It had: the connection may have been let in for that.
    Acquainted,
}

/// Owns who was spoken to and who came.
#[derive(Debug, Default)]
pub(super) struct Visits {
    spoken: HashMap<IpAddr, Instant>,
    came: HashMap<PeerId, (Visit, Instant)>,
    /// Until when the addresses spoken to are not all remembered.
    forgotten: Option<Instant>,
}

impl Visits {
    /// This node sends to `ip`, or has until now.
    pub(super) fn spoke(&mut self, ip: IpAddr, now: Instant) {
        if self.spoken.len() >= MAX && !self.spoken.contains_key(&ip) {
            self.spoken.retain(|_, at| now.saturating_duration_since(*at) < MEMORY);
            if self.spoken.len() >= MAX {
                self.forgotten = Some(now + MEMORY);
                return;
            }
        }
        self.spoken.insert(ip, now);
    }

    /// `peer` has connected from `ip`; `connected` says whether it or another peer there was connected already.
    pub(super) fn came(&mut self, peer: PeerId, ip: IpAddr, connected: bool, now: Instant) {
        let spoken = self.spoken.get(&ip).is_some_and(|at| now.saturating_duration_since(*at) < MEMORY);
        let known = connected || spoken || self.forgotten.is_some_and(|until| until > now);
        self.came.retain(|_, (_, at)| now.saturating_duration_since(*at) < VISIT);
        if self.came.len() < MAX {
            let visit = if known { Visit::Acquainted } else { Visit::Stranger };
            // A second connection of one visit is no longer that of a stranger, and takes nothing from the first.
            self.came.entry(peer).or_insert((visit, now));
        }
        self.spoke(ip, now);
    }

    /// What the latest visit of `peer` shows, if there was one just now.
    pub(super) fn by(&self, peer: &PeerId, now: Instant) -> Option<Visit> {
        let (visit, at) = self.came.get(peer)?;
        (now.saturating_duration_since(*at) < VISIT).then_some(*visit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn only_who_was_not_spoken_to_is_a_stranger() {
        let now = Instant::now();
        let mut visits = Visits::default();
        let [stranger, neighbour, later] = [(); 3].map(|()| PeerId::random());
        visits.spoke(ip("8.8.8.8"), now);
        visits.came(stranger, ip("9.9.9.9"), false, now);
        visits.came(neighbour, ip("8.8.8.8"), false, now);
        assert_eq!(visits.by(&stranger, now), Some(Visit::Stranger));
        assert_eq!(visits.by(&neighbour, now), Some(Visit::Acquainted), "another port of an address spoken to");
        visits.came(stranger, ip("9.9.9.9"), true, now);
        assert_eq!(visits.by(&stranger, now), Some(Visit::Stranger), "its second connection");
        assert_eq!(visits.by(&later, now), None, "who claims to have come did not");
        assert_eq!(visits.by(&stranger, now + VISIT), None);
        visits.came(later, ip("8.8.8.8"), false, now + MEMORY);
        assert_eq!(visits.by(&later, now + MEMORY), Some(Visit::Stranger), "the NAT has forgotten");
        let connected = PeerId::random();
        visits.came(connected, ip("7.7.7.7"), true, now + MEMORY);
        assert_eq!(visits.by(&connected, now + MEMORY), Some(Visit::Acquainted));
    }

    #[test]
    fn memory_is_bounded_and_what_was_forgotten_is_no_stranger() {
        let now = Instant::now();
        let mut visits = Visits::default();
        for n in 0..2 * MAX as u32 {
            visits.spoke(IpAddr::from(n.to_be_bytes()), now);
        }
        assert_eq!(visits.spoken.len(), MAX);
        let peer = PeerId::random();
        visits.came(peer, ip("9.9.9.9"), false, now);
        assert_eq!(visits.by(&peer, now), Some(Visit::Acquainted));
    }
}
