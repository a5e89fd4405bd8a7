//! Homes: a host behind its routers, and what can happen to its way to the internet.

use super::{
    Access, Conditions, Space, Unavailable, Wire,
    nat::{self, Nat},
};
use crate::{door::Inside, process::ProcessBuilder};
use std::{net::Ipv4Addr, sync::Arc};

/// Where public addresses begin: 45.80.n.2, and 45.81.n.2 after a change. Real ones, of which nothing leaves the
/// laboratory: those for documentation do not count as public to a node.
const PUBLIC: [u8; 2] = [45, 80];
/// Port that nodes listen on; every host has its own.
const PORT: u16 = aitbc_node::config::DEFAULT_PORT;

/// A machine in the laboratory.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its namespace.
    pub space: Arc<Space>,
    /// Its own address, which may be private.
    pub address: Ipv4Addr,
}

/// Over what a node listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// QUIC alone.
    Quic,
    /// TCP alone.
    Tcp,
}

impl Transport {
    /// Its name in `aitbc peers --json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Tcp => "tcp",
        }
    }
}

impl Host {
    /// A node on this machine; it listens over these transports on the port of real nodes.
    pub fn node(&self, name: &str, transports: &[Transport]) -> ProcessBuilder {
        let space = Arc::clone(&self.space);
        let inside = Inside { entry: self.space.entry(), socket: Arc::new(move || space.tcp()) };
        ProcessBuilder::inside(name, &self.listen(transports), inside)
    }

    /// Where such a node listens, with commas between.
    pub(super) fn listen(&self, transports: &[Transport]) -> String {
        let address = |transport: &Transport| match transport {
            Transport::Quic => format!("/ip4/{}/udp/{PORT}/quic-v1", self.address),
            Transport::Tcp => format!("/ip4/{}/tcp/{PORT}", self.address),
        };
        transports.iter().map(address).collect::<Vec<_>>().join(",")
    }
}

#[derive(Debug)]
struct Router {
    space: Arc<Space>,
    nat: Nat,
}

/// Owns a host, its routers and its way to the internet.
#[derive(Debug)]
pub struct Home {
    /// How it is connected.
    pub access: Access,
    /// The machine.
    pub host: Host,
    /// Outermost first.
    routers: Vec<Router>,
    core: Arc<Space>,
    wire: Option<Wire>,
    number: u8,
    changes: u8,
}

impl Home {
    pub(super) fn build(
        core: &Arc<Space>,
        number: u8,
        name: &str,
        access: Access,
        wire: Option<(Conditions, u64)>,
    ) -> Result<Self, Unavailable> {
        let routers: Vec<Router> = access
            .routers()
            .into_iter()
            .enumerate()
            .map(|(depth, nat)| Router {
                space: Arc::new(Space::beside(core, &format!("{name}'s router {depth}"))),
                nat,
            })
            .collect();
        let space = Arc::new(Space::beside(core, name));
        let mut home = Self {
            access,
            host: Host { space, address: Ipv4Addr::UNSPECIFIED },
            routers,
            core: Arc::clone(core),
            wire: None,
            number,
            changes: 0,
        };
        let (outermost, port) = (home.outermost(), home.port());
        match wire {
            None => connect((core, &port), (&outermost, "wan")),
            Some((conditions, seed)) => {
                home.wire = Some(Wire::lay((core, &port), (&outermost, "wan"), conditions, seed)?);
            }
        }
        let public = home.public_address();
        core.ip(&address(gateway(public), &port));
        outermost.ip(&format!("{}\n{}", address(public, "wan"), route(gateway(public))));
        home.host.address = public;
        for (depth, router) in home.routers.iter().enumerate() {
            let next = home.routers.get(depth + 1).map_or(&home.host.space, |router| &router.space);
            // A carrier's network, RFC 6598, or a home's.
            let inner = if depth + 1 < home.routers.len() {
                Ipv4Addr::new(100, 64, 0, 2)
            } else {
                Ipv4Addr::new(192, 168, 1, 2)
            };
            connect((&router.space, "lan"), (next, "wan"));
            router.space.ip(&address(gateway(inner), "lan"));
            next.ip(&format!("{}\n{}", address(inner, "wan"), route(gateway(inner))));
            router.space.shell("echo 1 >/proc/sys/net/ipv4/ip_forward");
            router.space.nft(&nat::rules(router.nat));
            until_up(&router.space, "lan");
            until_up(next, "wan");
            home.host.address = inner;
        }
        until_up(core, &port);
        until_up(&outermost, "wan");
        Ok(home)
    }

    fn outermost(&self) -> Arc<Space> {
        Arc::clone(self.routers.first().map_or(&self.host.space, |router| &router.space))
    }

    /// The interface of the core that leads here.
    fn port(&self) -> String {
        format!("home{}", self.number)
    }

    /// The address that others see.
    pub fn public_address(&self) -> Ipv4Addr {
        let [a, b] = PUBLIC;
        Ipv4Addr::new(a, b + self.changes, self.number, 2)
    }

    /// Its way to the internet, if that is a wire.
    pub fn wire(&self) -> Option<&Wire> {
        self.wire.as_ref()
    }

    /// Cuts the way to the internet on the provider's side.
    pub fn cut(&self) {
        self.core.ip(&format!("link set {} down", self.port()));
    }

    /// Ends [`Home::cut`].
    pub fn mend(&self) {
        self.core.ip(&format!("link set {} up", self.port()));
        until_up(&self.core, &self.port());
        until_up(&self.outermost(), "wan");
    }

    /// Gives the home another public address, as providers do at night; routers forget the connections of the old one.
    pub fn renumber(&mut self) -> Ipv4Addr {
        let (old, port, outermost) = (self.public_address(), self.port(), self.outermost());
        self.changes += 1;
        let new = self.public_address();
        outermost.ip(&format!(
            "address delete {old}/24 dev wan\n{}\n{}",
            address(new, "wan"),
            route(gateway(new))
        ));
        self.core.ip(&format!("address delete {}/24 dev {port}\n{}", gateway(old), address(gateway(new), &port)));
        match self.routers.first() {
            Some(router) => router.space.forget_connections(),
            None => self.host.address = new,
        }
        new
    }

    /// Turns the home's own router off: no link, and all connections and mappings forgotten.
    pub fn power_off(&self) {
        let router = &self.routers.last().expect("a public host has no router").space;
        router.ip("link set wan down\nlink set lan down");
        router.nft("flush ruleset");
        router.forget_connections();
    }

    /// Turns the home's own router on again.
    pub fn power_on(&self) {
        let router = self.routers.last().expect("a public host has no router");
        let wan = if self.routers.len() > 1 { Ipv4Addr::new(100, 64, 0, 2) } else { self.public_address() };
        router.space.nft(&nat::rules(router.nat));
        router.space.ip(&format!("link set lan up\nlink set wan up\n{}", route(gateway(wan))));
        until_up(&router.space, "lan");
        until_up(&router.space, "wan");
    }
}

/// The other end of a line: `.1` of the same /24.
fn gateway(address: Ipv4Addr) -> Ipv4Addr {
    let [a, b, c, _] = address.octets();
    Ipv4Addr::new(a, b, c, 1)
}

fn address(address: Ipv4Addr, interface: &str) -> String {
    format!("address add {address}/24 dev {interface}\nlink set {interface} up")
}

fn route(gateway: Ipv4Addr) -> String {
    format!("route replace default via {gateway} dev wan")
}

/// Joins two namespaces by a pair of the kernel's interfaces.
fn connect(near: (&Space, &str), far: (&Space, &str)) {
    near.0.ip(&format!("link add {} type veth peer name {} netns {}", near.1, far.1, far.0.id()));
}

/// Waits until an interface carries packets: the kernel starts it only some time after `ip` has returned, and drops
/// what is sent before. One of a wire has no state to tell.
fn until_up(space: &Space, interface: &str) {
    space.shell(&format!(
        "for attempt in $(seq 500); do \
             ip link show dev {interface} | grep -Eq 'state (UP|UNKNOWN)' && exit 0; sleep 0.01; \
         done; echo {interface} does not come up >&2; exit 1"
    ));
}
