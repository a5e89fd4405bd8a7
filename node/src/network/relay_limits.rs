//! What a relay gives to whom.
//!
//! The limits of libp2p are made for hole punching: two minutes and 128 KiB a circuit cut an answer off. Those here are
//! made for answers, and bound what strangers cost all the same.

use super::addresses::{source_ip, subnet};
use libp2p::{Multiaddr, PeerId, relay};
use std::{
    collections::HashMap,
    net::IpAddr,
    num::NonZeroU32,
    time::{Duration, Instant},
};

/// Clients that are reachable through this relay at a time.
const MAX_CLIENTS: usize = 1024;
/// Of them, clients of one subnet (a /24 of IPv4, a /48 of IPv6).
const MAX_SUBNET_CLIENTS: usize = 64;
/// How long a reservation holds; clients renew it before.
const RESERVATION: Duration = Duration::from_secs(60 * 60);
/// Reservations of one client that are accepted at once, and then one each [`RENEWAL`]: it may come back by another
/// path or after a restart.
const RENEWALS: u32 = 8;
const RENEWAL: Duration = Duration::from_secs(60);
/// Circuits at a time.
const MAX_CIRCUITS: usize = 1024;
/// Of them, circuits that one peer begins or takes.
const MAX_PEER_CIRCUITS: usize = 32;
/// Requests for circuits that one peer, and that one IP address, may make at once, and the time after which they may make
/// one more. Those of libp2p, 30 and one every two minutes, are used up within half a minute by a client that seeks a
/// provider whose router restarts, or whose packets get lost, and then it is locked out.
const PEER_REQUESTS: (NonZeroU32, Duration) =
    (NonZeroU32::new(120).expect("120 is not zero"), Duration::from_secs(1));
const IP_REQUESTS: (NonZeroU32, Duration) =
    (NonZeroU32::new(480).expect("480 is not zero"), Duration::from_millis(250));
/// What one circuit may carry, both directions together.
const CIRCUIT_BYTES: u64 = 64 * 1024 * 1024;
/// How long one circuit may last.
const CIRCUIT_DURATION: Duration = Duration::from_secs(2 * 60 * 60);

/// The limits of a relay.
pub(super) fn config() -> relay::Config {
    let mut clients = Clients::default();
    relay::Config {
        max_reservations: MAX_CLIENTS,
        max_reservations_per_peer: 3,
        reservation_duration: RESERVATION,
        reservation_rate_limiters: vec![Box::new(move |peer: PeerId, address: &Multiaddr, now: Instant| {
            clients.admit(peer, source_ip(address), now)
        })],
        max_circuits: MAX_CIRCUITS,
        max_circuits_per_peer: MAX_PEER_CIRCUITS,
        max_circuit_duration: CIRCUIT_DURATION,
        max_circuit_bytes: CIRCUIT_BYTES,
        circuit_src_rate_limiters: Vec::new(),
    }
    .circuit_src_per_peer(PEER_REQUESTS.0, PEER_REQUESTS.1)
    .circuit_src_per_ip(IP_REQUESTS.0, IP_REQUESTS.1)
}

#[derive(Debug)]
struct Client {
    subnet: Option<IpAddr>,
    /// Until when its latest reservation holds.
    until: Instant,
    renewals: u32,
    refilled: Instant,
}

/// Who has a reservation, as far as the limits go: a client that leaves keeps its place until the reservation it had
/// would have ended, so that coming and going gains nobody anything.
#[derive(Debug, Default)]
struct Clients(HashMap<PeerId, Client>);

impl Clients {
    /// Whether a reservation is given: to present clients always, unless they ask in a loop; to newcomers while their
    /// subnet has room.
    fn admit(&mut self, peer: PeerId, ip: Option<IpAddr>, now: Instant) -> bool {
        if let Some(client) = self.0.get_mut(&peer)
            && client.until > now
        {
            let earned = now.saturating_duration_since(client.refilled).as_secs() / RENEWAL.as_secs();
            if earned > 0 {
                client.renewals = client.renewals.saturating_add(earned as u32).min(RENEWALS);
                client.refilled = now;
            }
            let Some(left) = client.renewals.checked_sub(1) else { return false };
            (client.renewals, client.until) = (left, now + RESERVATION);
            return true;
        }
        let subnet = ip.map(subnet);
        // Who arrives is rarer than who renews: here is the time to look at all of them.
        self.0.retain(|_, client| client.until > now);
        let neighbours = self.0.values().filter(|client| client.subnet == subnet).count();
        if self.0.len() >= MAX_CLIENTS || neighbours >= MAX_SUBNET_CLIENTS {
            return false;
        }
        let client = Client { subnet, until: now + RESERVATION, renewals: RENEWALS, refilled: now };
        self.0.insert(peer, client);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_flood_from_one_subnet_leaves_room_for_others() {
        let now = Instant::now();
        let mut clients = Clients::default();
        let present = PeerId::random();
        assert!(clients.admit(present, Some(ip("203.0.113.7")), now));
        let flood = (0..1000)
            .filter(|n| clients.admit(PeerId::random(), Some(ip(&format!("203.0.113.{}", n % 250))), now));
        assert_eq!(flood.count(), MAX_SUBNET_CLIENTS - 1);
        assert!(clients.admit(PeerId::random(), Some(ip("198.51.100.1")), now), "another subnet");
        assert!(clients.admit(PeerId::random(), Some(ip("2001:db8::1")), now), "IPv6");
        assert!(clients.admit(present, Some(ip("203.0.113.7")), now), "a renewal comes before newcomers");
    }

    #[test]
    fn a_place_is_free_again_when_its_reservation_has_ended() {
        let now = Instant::now();
        let mut clients = Clients::default();
        for _ in 0..MAX_SUBNET_CLIENTS {
            assert!(clients.admit(PeerId::random(), Some(ip("203.0.113.7")), now));
        }
        assert!(!clients.admit(PeerId::random(), Some(ip("203.0.113.7")), now + RESERVATION / 2));
        assert!(clients.admit(PeerId::random(), Some(ip("203.0.113.7")), now + RESERVATION));
        assert_eq!(clients.0.len(), 1);
    }

    #[test]
    fn renewals_in_a_loop_are_refused_until_a_minute_has_passed() {
        let now = Instant::now();
        let mut clients = Clients::default();
        let peer = PeerId::random();
        let accepted = (0..100).filter(|_| clients.admit(peer, Some(ip("203.0.113.7")), now)).count();
        assert_eq!(accepted, 1 + RENEWALS as usize);
        assert!(clients.admit(peer, Some(ip("203.0.113.7")), now + RENEWAL));
        assert!(!clients.admit(peer, Some(ip("203.0.113.7")), now + RENEWAL));
    }
}
