//! The laboratory itself: routers do what their names say, and links what they were told. Every other test in it
//! rests on this.

#![cfg(target_os = "linux")]

use aitbc_tests::lab::{
    Access, Conditions, Dependence, Home, Host, Lab,
    probe::{self, Behaviour},
    skipped,
};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UdpSocket,
};

const MILLISECOND: Duration = Duration::from_millis(1);

/// What the name of an access promises, for UDP where it lets any through, and for TCP.
fn promised(access: Access) -> Behaviour {
    use Dependence::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
    let (mapping, filtering) = match access {
        Access::Public | Access::FullCone => (EndpointIndependent, EndpointIndependent),
        Access::AddressRestricted => (EndpointIndependent, AddressDependent),
        Access::PortRestricted | Access::CarrierGrade => (EndpointIndependent, AddressAndPortDependent),
        Access::Symmetric | Access::Hotel => (AddressAndPortDependent, AddressAndPortDependent),
    };
    Behaviour { mapping, filtering, translated: access != Access::Public }
}

#[tokio::test]
async fn routers_map_and_filter_udp_as_their_names_say() {
    let Some(lab) = Lab::or_skip() else { return };
    let (first, second) = (lab.home("first", Access::Public), lab.home("second", Access::Public));
    for access in Access::ALL {
        let home = lab.home("home", access);
        let measured = probe::udp(&home.host, &first.host, &second.host).await;
        let expected = (access != Access::Hotel).then(|| promised(access));
        assert_eq!(measured, expected, "{access}");
    }
}

#[tokio::test]
async fn routers_map_and_filter_tcp_as_their_names_say() {
    let Some(lab) = Lab::or_skip() else { return };
    let (first, second) = (lab.home("first", Access::Public), lab.home("second", Access::Public));
    for access in Access::ALL {
        let home = lab.home("home", access);
        let measured = probe::tcp(&home.host, &first.host, &second.host).await;
        assert_eq!(measured, promised(access), "{access}");
    }
}

/// What DCUtR does over UDP: both sides learn the other's external address from a third one and send to it at once.
/// True if anything gets through.
async fn punches_udp(near: &Host, far: &Host, observer: &Host) -> bool {
    let observing = observer.space.udp(0);
    let port = observing.local_addr().expect("a bound socket").port();
    let sockets = [near.space.udp(0), far.space.udp(0)];
    let (mut external, mut buffer) = (Vec::new(), [0; 64]);
    for socket in &sockets {
        socket.send_to(b"who am I", (observer.address, port)).await.expect("sent");
        external.push(observing.recv_from(&mut buffer).await.expect("received").1);
    }
    // Several, since the first may come before the other side's router expects it.
    for _ in 0..3 {
        sockets[0].send_to(b"hello", external[1]).await.expect("sent");
        sockets[1].send_to(b"hello", external[0]).await.expect("sent");
    }
    // Whoever hears something answers where it came from: a symmetric router took another port for it.
    let hears = async |socket: &UdpSocket| {
        let mut buffer = [0; 64];
        let (_, from) = socket.recv_from(&mut buffer).await.expect("received");
        socket.send_to(b"hello to you", from).await.expect("sent");
    };
    let heard = async { tokio::join!(hears(&sockets[0]), hears(&sockets[1])) };
    tokio::time::timeout(Duration::from_millis(700), heard).await.is_ok()
}

/// The same over TCP, from a port that also listens: an opening from both sides at once, or from the one that is let
/// in.
async fn punches_tcp(near: &Host, far: &Host, observer: &Host) -> bool {
    let observing = observer.space.tcp_on(0).listen(8).expect("listens");
    let port = observing.local_addr().expect("a bound listener").port();
    let (mut kept, mut sides) = (Vec::new(), Vec::new());
    for host in [near, far] {
        let own = host.space.tcp_on(0).local_addr().expect("a bound socket").port();
        let listener = host.space.tcp_on(own).listen(8).expect("listens");
        let dial = host.space.tcp_on(own).connect((observer.address, port).into());
        let (dialled, seen) = tokio::join!(dial, observing.accept());
        let (accepted, external) = seen.expect("accepted");
        kept.push((dialled.expect("connected"), accepted));
        sides.push((host, own, listener, external));
    }
    let (near, far) = (&sides[0], &sides[1]);
    let dials = async {
        loop {
            let dial = |from: &(&Host, u16, _, _), to| from.0.space.tcp_on(from.1).connect(to);
            tokio::select! {
                Ok(_) = dial(near, far.3) => return,
                Ok(_) = dial(far, near.3) => return,
                Ok(_) = near.2.accept() => return,
                Ok(_) = far.2.accept() => return,
                else => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_millis(2500), dials).await.is_ok()
}

/// The pairs that can be joined, whatever a node does: 13 of 16 over UDP, and over TCP as many as two sockets can.
#[tokio::test]
async fn holes_can_be_punched_where_they_should_be() {
    let Some(lab) = Lab::or_skip() else { return };
    let observer = lab.home("observer", Access::Public);
    let kinds = [Access::Public, Access::FullCone, Access::PortRestricted, Access::Symmetric];
    let homes = |side: &str| kinds.map(|access| lab.home(&format!("{side}, {access}"), access));
    let (near, far) = (homes("near"), homes("far"));
    let possible = |a: &Home, b: &Home| {
        let strict = |home: &Home| home.access == Access::Symmetric;
        let open = |home: &Home| matches!(home.access, Access::Public | Access::FullCone);
        open(a) || open(b) || !(strict(a) || strict(b))
    };
    for (a, b) in near.iter().flat_map(|a| far.iter().map(move |b| (a, b))) {
        let udp = punches_udp(&a.host, &b.host, &observer.host).await;
        assert_eq!(udp, possible(a, b), "UDP between {} and {}", a.access, b.access);
        let tcp = punches_tcp(&a.host, &b.host, &observer.host).await;
        assert_eq!(tcp, possible(a, b), "TCP between {} and {}", a.access, b.access);
    }
}

#[tokio::test]
async fn private_addresses_lead_nowhere_from_outside() {
    let Some(lab) = Lab::or_skip() else { return };
    let (home, stranger) = (lab.home("home", Access::FullCone), lab.home("stranger", Access::Public));
    let listener = home.host.space.tcp_on(0).listen(8).expect("listens");
    let port = listener.local_addr().expect("a bound listener").port();
    // Nobody has sent anything from this port, so that not even a full cone has a mapping for it.
    for address in [home.host.address, home.public_address()] {
        let dial = stranger.host.space.tcp().connect((address, port).into());
        let outcome = tokio::time::timeout(500 * MILLISECOND, dial).await;
        assert!(!matches!(outcome, Ok(Ok(_))), "{address} leads into a home");
    }
}

#[tokio::test]
async fn a_change_of_address_shows_and_ends_the_old_mapping() {
    let Some(lab) = Lab::or_skip() else { return };
    let mut home = lab.home("home", Access::PortRestricted);
    let observer = lab.home("observer", Access::Public);
    let (inside, outside) = (home.host.space.udp(0), observer.host.space.udp(0));
    let target = (observer.host.address, outside.local_addr().expect("a bound socket").port());
    let mut buffer = [0; 64];
    let mut seen = Vec::new();
    for _ in 0..2 {
        inside.send_to(b"who am I", target).await.expect("sent");
        seen.push(outside.recv_from(&mut buffer).await.expect("received").1);
        assert_eq!(seen.last().map(std::net::SocketAddr::ip), Some(home.public_address().into()));
        home.renumber();
    }
    assert_ne!(seen[0], seen[1]);
    outside.send_to(b"to the old address", seen[0]).await.expect("sent");
    let late = tokio::time::timeout(300 * MILLISECOND, inside.recv_from(&mut buffer)).await;
    assert!(late.is_err(), "the old address still leads here");
}

#[tokio::test]
async fn a_router_that_restarts_has_forgotten_its_mappings() {
    let Some(lab) = Lab::or_skip() else { return };
    for access in [Access::FullCone, Access::CarrierGrade] {
        let (home, observer) = (lab.home("home", access), lab.home("observer", Access::Public));
        let (inside, outside) = (home.host.space.udp(0), observer.host.space.udp(0));
        let target = (observer.host.address, outside.local_addr().expect("a bound socket").port());
        let mut buffer = [0; 64];
        inside.send_to(b"who am I", target).await.expect("sent");
        let (_, external) = outside.recv_from(&mut buffer).await.expect("received");
        home.power_off();
        home.power_on();
        outside.send_to(b"still there?", external).await.expect("sent");
        let late = tokio::time::timeout(300 * MILLISECOND, inside.recv_from(&mut buffer)).await;
        assert!(late.is_err(), "{access}: the mapping outlived the router");
        inside.send_to(b"back", target).await.expect("sent");
        outside.recv_from(&mut buffer).await.expect("received");
        outside.send_to(b"welcome", external).await.expect("sent");
        inside.recv_from(&mut buffer).await.expect("the mapping is back");
    }
}

#[tokio::test]
async fn a_way_that_was_cut_carries_nothing_until_it_is_mended() {
    let Some(lab) = Lab::or_skip() else { return };
    let (home, observer) = (lab.home("home", Access::PortRestricted), lab.home("observer", Access::Public));
    assert_eq!(probe::echoes(&home.host, &observer.host, 10).await.returned, 10);
    home.cut();
    assert_eq!(probe::echoes(&home.host, &observer.host, 10).await.arrived, 0);
    home.mend();
    assert_eq!(probe::echoes(&home.host, &observer.host, 10).await.returned, 10);
}

/// A port-restricted home over a wire, and a public host.
fn over(lab: &Lab, conditions: Conditions, seed: u64) -> Option<(Home, Home)> {
    let home = lab.home_over("home", Access::PortRestricted, conditions, seed);
    let home = home.map_err(|error| skipped(&error)).ok()?;
    Some((home, lab.home("observer", Access::Public)))
}

#[tokio::test]
async fn a_wire_delays_and_its_conditions_can_change() {
    let Some(lab) = Lab::or_skip() else { return };
    let slow = Conditions { delay: 150 * MILLISECOND, jitter: 20 * MILLISECOND, ..Conditions::default() };
    let Some((home, observer)) = over(&lab, slow, 1) else { return };
    let measured = probe::echoes(&home.host, &observer.host, 50).await;
    assert_eq!(measured.returned, 50, "{measured:?}");
    assert!(measured.fastest >= 300 * MILLISECOND, "{measured:?}");
    assert!(measured.fastest < 340 * MILLISECOND, "{measured:?}");
    assert!(measured.slowest > measured.fastest + 5 * MILLISECOND, "there is jitter: {measured:?}");
    home.wire().expect("it has one").set(Conditions::default());
    let measured = probe::echoes(&home.host, &observer.host, 50).await;
    assert!(measured.fastest < 50 * MILLISECOND, "{measured:?}");
}

#[tokio::test]
async fn a_wire_loses_what_its_seed_says() {
    let Some(lab) = Lab::or_skip() else { return };
    let lossy = Conditions { loss: 0.1, ..Conditions::default() };
    let mut all = Vec::new();
    for seed in [1, 1, 2] {
        let Some((home, observer)) = over(&lab, lossy, seed) else { return };
        let measured = probe::echoes(&home.host, &observer.host, 1000).await;
        assert!((0.05..0.15).contains(&measured.lost_there()), "{measured:?}");
        assert!((0.05..0.15).contains(&measured.lost_back()), "{measured:?}");
        let carried = home.wire().expect("it has one").carried();
        assert_eq!(carried.arrived, u64::from(measured.arrived + measured.returned), "{carried:?} {measured:?}");
        assert_eq!(carried.lost, u64::from(1000 - measured.returned), "{carried:?} {measured:?}");
        all.push(carried);
    }
    assert_eq!(all[0], all[1], "one seed, one outcome");
    assert_ne!(all[0], all[2], "another seed, another outcome");
}

#[tokio::test]
async fn a_wire_carries_no_more_than_its_bandwidth() {
    const BYTES: usize = 1_000_000;
    let Some(lab) = Lab::or_skip() else { return };
    let narrow = Conditions { bandwidth: Some(8_000_000), ..Conditions::default() };
    let Some((home, observer)) = over(&lab, narrow, 1) else { return };
    let listener = observer.host.space.tcp_on(0).listen(8).expect("listens");
    let port = listener.local_addr().expect("a bound listener").port();
    let start = std::time::Instant::now();
    let send = async {
        let dial = home.host.space.tcp().connect((observer.host.address, port).into());
        let mut stream = dial.await.expect("connected");
        stream.write_all(&vec![7; BYTES]).await.expect("sent");
    };
    let receive = async {
        let (mut stream, _) = listener.accept().await.expect("accepted");
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await.expect("received");
        received.len()
    };
    let ((), received) = tokio::join!(send, receive);
    let taken = start.elapsed();
    assert_eq!(received, BYTES);
    assert!(taken > 990 * MILLISECOND, "a megabyte at 8 Mbit/s takes a second and not {taken:?}");
    assert!(taken < Duration::from_secs(4), "the link is used: {taken:?}");
}
