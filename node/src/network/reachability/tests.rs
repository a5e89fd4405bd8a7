use super::*;

fn address(text: &str) -> Multiaddr {
    text.parse().unwrap()
}

fn helper() -> NodeId {
    let key = libp2p::identity::Keypair::generate_ed25519();
    crate::network::node_id(&key.public().to_peer_id()).unwrap()
}

fn public() -> OwnAddresses {
    OwnAddresses::new(&NetworkId::new("main").unwrap(), &[])
}

#[test]
fn a_public_network_announces_only_what_others_reached() {
    let now = Instant::now();
    let mut own = public();
    own.listening_on(&address("/ip4/192.168.1.2/tcp/4101"));
    own.listening_on(&address("/ip4/8.8.8.8/tcp/4101"));
    own.observed(&address("/ip4/8.8.8.8/tcp/4101"));
    assert!(own.external().is_empty());
    assert_eq!(own.verdict().verdict, "unknown");
    assert!(!own.hinted(&address("/ip4/192.168.1.2/tcp/4101"), "a neighbour reached it"));
    own.proven(&address("/ip4/8.8.8.8/tcp/4101"), "a peer", now);
    assert_eq!(own.external(), [address("/ip4/8.8.8.8/tcp/4101")]);
    assert_eq!(own.verdict().verdict, "public");
    assert!(!own.expire(now + PROOF / 2));
    assert!(own.expire(now + PROOF), "a proof ages");
    assert_eq!(own.verdict().verdict, "unknown");
    own.expired(&address("/ip4/8.8.8.8/tcp/4101"));
    assert!(own.external().is_empty());
}

#[test]
fn on_a_local_network_a_nat_between_ends_the_presumption() {
    let mut own = OwnAddresses::new(&NetworkId::new(NetworkId::LOCAL).unwrap(), &[]);
    own.listening_on(&address("/ip4/10.172.0.2/tcp/4101"));
    own.observed(&address("/ip4/10.172.0.2/tcp/4101"));
    assert!(own.is_public());
    assert_eq!(own.verdict().verdict, "public");
    own.observed(&address("/ip4/198.18.0.12/tcp/4101"));
    assert!(!own.is_public() && !own.is_private());
    assert_eq!(own.verdict().verdict, "unknown");
    assert!(!own.external().is_empty(), "neighbours behind the same NAT reach it all the same");
    own.proven(&address("/ip4/198.18.0.12/tcp/4101"), "a peer", Instant::now());
    assert!(own.is_public());
}

#[test]
fn a_hint_is_announced_and_is_no_verdict() {
    let mut own = public();
    let one = helper();
    let mapped = address("/ip4/8.8.8.8/udp/4101/quic-v1");
    assert!(own.hinted(&mapped, "AutoNAT"));
    assert_eq!(own.external(), std::slice::from_ref(&mapped));
    assert!(!own.is_public() && !own.is_private());
    assert_eq!(own.verdict().verdict, "unknown");
    own.failed(&mapped, one, "timed out");
    own.failed(&mapped, one, "timed out");
    assert!(own.is_private(), "checks weigh more than hints");
    assert!(own.external().is_empty());
}

#[test]
fn private_needs_two_failures_of_one_address_and_says_why() {
    let now = Instant::now();
    let mut own = public();
    let [one, other] = [helper(), helper()];
    own.failed(&address("/ip4/8.8.8.8/tcp/4101"), one, "timed out");
    assert!(!own.is_private());
    own.failed(&address("/ip4/10.0.0.1/tcp/4101"), one, "not an address others could reach");
    own.failed(&address("/ip4/8.8.8.8/udp/4101/quic-v1"), one, "timed out");
    assert!(!own.is_private());
    own.failed(&address("/ip4/8.8.8.8/udp/4101/quic-v1"), one, "timed out");
    assert!(own.is_private());
    own.router_refused("the router maps no ports (UPnP)");
    let verdict = own.verdict();
    assert_eq!(verdict.verdict, "private");
    assert!(verdict.reason.contains("timed out") && verdict.reason.contains("UPnP"), "{}", verdict.reason);
    own.proven(&address("/ip4/8.8.8.8/tcp/4101"), "a peer", now);
    assert!(!own.is_private());
    for _ in 0..5 {
        own.failed(&address("/ip4/8.8.8.8/tcp/4101"), one, "timed out");
        assert!(own.is_public(), "one that says so does not outweigh a proof");
    }
    own.failed(&address("/ip4/8.8.8.8/tcp/4101"), other, "timed out");
    assert!(own.is_private());
}

#[test]
fn relayed_addresses_come_after_direct_ones() {
    let relay = "/ip4/9.9.9.9/tcp/1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN/p2p-circuit";
    let mut own = public();
    own.hinted(&address(relay), "relay");
    assert!(!own.is_public());
    own.proven(&address("/ip4/8.8.8.8/tcp/4101"), "a peer", Instant::now());
    assert_eq!(own.external(), [address("/ip4/8.8.8.8/tcp/4101"), address(relay)]);
}

#[test]
fn a_new_address_counts_once_two_peers_see_it() {
    let now = Instant::now();
    let mut own = public();
    let [one, other] = [(); 2].map(|()| PeerId::random());
    let (old, new): (IpAddr, IpAddr) = ("8.8.8.8".parse().unwrap(), "9.9.9.9".parse().unwrap());
    assert!(own.seen(one, old));
    own.proven(&address("/ip4/8.8.8.8/tcp/4101"), "a peer", now);
    own.proven(&address("/ip6/2606:4700::1/tcp/4101"), "a peer", now);
    assert!(!own.seen(one, new) && !own.seen(one, new), "one peer is one witness");
    assert_eq!(own.external().len(), 2);
    assert!(!own.seen(one, old), "it was wrong");
    assert!(!own.seen(other, new));
    assert!(own.seen(one, new));
    assert_eq!(own.external(), [address("/ip6/2606:4700::1/tcp/4101")], "only IPv4 has changed");
}

#[test]
fn the_newest_candidates_are_kept() {
    let mut own = public();
    own.hinted(&address("/ip4/8.8.8.8/tcp/1"), "the router");
    for port in 2..100 {
        own.observed(&address(&format!("/ip4/8.8.8.8/tcp/{port}")));
    }
    let candidates = own.candidates();
    assert_eq!((candidates.len(), &candidates[1]), (MAX_KEPT, &address("/ip4/8.8.8.8/tcp/99")));
    assert_eq!(candidates.first(), Some(&address("/ip4/8.8.8.8/tcp/1")), "something speaks for it");
}

#[test]
fn made_up_addresses_do_not_keep_the_real_ones_from_being_checked() {
    let mut own = public();
    let [proven, seen] = ["/ip4/8.8.8.8/tcp/4101", "/ip4/8.8.8.8/udp/4101/quic-v1"].map(address);
    own.seen(PeerId::random(), "8.8.8.8".parse().unwrap());
    own.observed(&seen);
    own.proven(&proven, "a peer", Instant::now());
    for last in 1..100 {
        own.observed(&address(&format!("/ip4/9.9.9.{last}/tcp/4101")));
    }
    assert_eq!(own.candidates()[..2], [proven, seen]);
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
    let one = helper();
    for _ in 0..FAILURES {
        own.failed(&address("/ip4/10.9.0.7/tcp/1"), one, "timed out");
    }
    assert_eq!(own.verdict().verdict, "private", "a router is in between");
    assert!(own.external().is_empty());
}
