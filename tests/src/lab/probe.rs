//! Measures what routers and links of the laboratory really do, from inside and with plain sockets.

use super::{Dependence, Host, Space};
use std::{
    collections::HashSet,
    io,
    net::{SocketAddr, SocketAddrV4},
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    time::timeout,
};

/// How long a packet may take that is not held up on purpose.
const PATIENCE: Duration = Duration::from_secs(5);
/// After so long nothing more is expected: packets cross the kernel's links within the call that sends them.
const SILENCE: Duration = Duration::from_millis(700);

/// What lies between a socket and the internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behaviour {
    /// On what the external address depends.
    pub mapping: Dependence,
    /// Who gets in through it.
    pub filtering: Dependence,
    /// Whether the socket's own address was replaced.
    pub translated: bool,
}

fn mapping(first: SocketAddr, other_port: SocketAddr, other_address: SocketAddr) -> Dependence {
    if first == other_port && first == other_address {
        Dependence::EndpointIndependent
    } else if first == other_port {
        Dependence::AddressDependent
    } else {
        Dependence::AddressAndPortDependent
    }
}

fn filtering(from_other_address: bool, from_other_port: bool) -> Dependence {
    if from_other_address {
        Dependence::EndpointIndependent
    } else if from_other_port {
        Dependence::AddressDependent
    } else {
        Dependence::AddressAndPortDependent
    }
}

fn at(host: &Host, local: io::Result<SocketAddr>) -> SocketAddr {
    SocketAddrV4::new(host.address, local.expect("a bound socket").port()).into()
}

/// The behaviour towards UDP, after RFC 5780; `first` and `second` are public. `None` if no UDP gets out.
pub async fn udp(inside: &Host, first: &Host, second: &Host) -> Option<Behaviour> {
    let observers = [first.space.udp(0), first.space.udp(0), second.space.udp(0)];
    let addresses = [0, 1, 2].map(|index| at([first, first, second][index], observers[index].local_addr()));

    let socket = inside.space.udp(0);
    let mut seen = Vec::new();
    for (observer, address) in observers.iter().zip(addresses) {
        seen.push(observed(&socket, observer, address).await?);
    }

    // A new socket has no mappings yet, so that only the first observer was ever sent to.
    let socket = inside.space.udp(0);
    let external = observed(&socket, &observers[0], addresses[0]).await?;
    for observer in [&observers[2], &observers[1], &observers[0]] {
        observer.send_to(b"are you there", external).await.expect("sent");
    }
    let mut heard = HashSet::new();
    let mut buffer = [0; 64];
    while let Ok(Ok((_, from))) = timeout(SILENCE, socket.recv_from(&mut buffer)).await {
        heard.insert(from);
    }
    assert!(
        heard.contains(&addresses[0]),
        "{}: no answer came back from where it was asked for",
        inside.space.name()
    );
    Some(Behaviour {
        mapping: mapping(seen[0], seen[1], seen[2]),
        filtering: filtering(heard.contains(&addresses[2]), heard.contains(&addresses[1])),
        translated: external != at(inside, socket.local_addr()),
    })
}

/// As whom an observer sees a socket.
async fn observed(socket: &UdpSocket, observer: &UdpSocket, address: SocketAddr) -> Option<SocketAddr> {
    socket.send_to(b"who am I", address).await.expect("sent");
    let mut buffer = [0; 64];
    let (_, from) = timeout(SILENCE, observer.recv_from(&mut buffer)).await.ok()?.expect("received");
    Some(from)
}

/// The behaviour towards TCP, in the same words (RFC 5382).
pub async fn tcp(inside: &Host, first: &Host, second: &Host) -> Behaviour {
    let listen = |host: &Host| host.space.tcp_on(0).listen(8).expect("listens");
    let observers = [listen(first), listen(first), listen(second)];
    let addresses = [0, 1, 2].map(|index| at([first, first, second][index], observers[index].local_addr()));

    let port = free_port(inside);
    let mut seen = Vec::new();
    let mut open = Vec::new();
    for (observer, address) in observers.iter().zip(addresses) {
        let (near, from) = connected(&inside.space, port, observer, address).await;
        open.push(near);
        seen.push(from);
    }

    let port = free_port(inside);
    let listener = inside.space.tcp_on(port).listen(8).expect("listens");
    let (_near, external) = connected(&inside.space, port, &observers[0], addresses[0]).await;
    let mut let_in = [false; 2];
    for (host, let_in) in [second, first].into_iter().zip(&mut let_in) {
        let dial = timeout(SILENCE, host.space.tcp().connect(external)).await;
        *let_in = matches!(dial, Ok(Ok(_)));
    }
    Behaviour {
        mapping: mapping(seen[0], seen[1], seen[2]),
        filtering: filtering(let_in[0], let_in[1]),
        translated: external != at(inside, listener.local_addr()),
    }
}

fn free_port(host: &Host) -> u16 {
    host.space.tcp_on(0).local_addr().expect("a bound socket").port()
}

/// A connection from a port, and as whom the observer sees it.
async fn connected(
    inside: &Space,
    port: u16,
    observer: &TcpListener,
    address: SocketAddr,
) -> (TcpStream, SocketAddr) {
    let dial = timeout(PATIENCE, inside.tcp_on(port).connect(address));
    let (near, far) = tokio::join!(dial, timeout(PATIENCE, observer.accept()));
    let near = near.expect("an answer").unwrap_or_else(|error| panic!("{}: {error}", inside.name()));
    let (_, from) = far.expect("a connection").expect("a connection");
    (near, from)
}

/// What became of datagrams that were sent and echoed.
#[derive(Clone, Copy, Debug)]
pub struct Echoes {
    /// Sent.
    pub sent: u32,
    /// Arrived at the other end.
    pub arrived: u32,
    /// Came back.
    pub returned: u32,
    /// The shortest round trip of one that came back.
    pub fastest: Duration,
    /// The longest.
    pub slowest: Duration,
}

impl Echoes {
    /// Part that was lost on the way there.
    pub fn lost_there(&self) -> f64 {
        1.0 - f64::from(self.arrived) / f64::from(self.sent)
    }

    /// Part of the echoes that was lost on the way back.
    pub fn lost_back(&self) -> f64 {
        1.0 - f64::from(self.returned) / f64::from(self.arrived.max(1))
    }
}

/// Sends `count` datagrams, one every other millisecond, to a public host that echoes them.
pub async fn echoes(from: &Host, to: &Host, count: u32) -> Echoes {
    let (socket, echo) = (from.space.udp(0), to.space.udp(0));
    let address = at(to, echo.local_addr());
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(async move {
        let (mut arrived, mut buffer) = (0, [0; 64]);
        loop {
            tokio::select! {
                _ = &mut stopped => return arrived,
                Ok((length, from)) = echo.recv_from(&mut buffer) => {
                    arrived += 1;
                    echo.send_to(&buffer[..length], from).await.expect("sent");
                }
            }
        }
    });
    let start = Instant::now();
    let send = async {
        let mut pace = tokio::time::interval(Duration::from_millis(2));
        let mut sent = Vec::new();
        for number in 0..count {
            pace.tick().await;
            sent.push(start.elapsed());
            socket.send_to(&number.to_be_bytes(), address).await.expect("sent");
        }
        sent
    };
    let receive = async {
        let (mut returned, mut buffer) = (Vec::new(), [0; 64]);
        // The last ones may be lost: then silence tells that no more come.
        while returned.len() < count as usize
            && let Ok(Ok(_)) = timeout(2 * SILENCE, socket.recv_from(&mut buffer)).await
        {
            let number = u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
            returned.push((number, start.elapsed()));
        }
        returned
    };
    let (sent, returned) = tokio::join!(send, receive);
    let _ = stop.send(());
    let arrived = server.await.expect("the echo server ends");
    let trips = || returned.iter().map(|(number, at)| at.saturating_sub(sent[*number as usize]));
    Echoes {
        sent: count,
        arrived,
        returned: returned.len() as u32,
        fastest: trips().min().unwrap_or_default(),
        slowest: trips().max().unwrap_or_default(),
    }
}
