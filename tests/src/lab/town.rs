//! What homes need to find each other: public nodes, of which one relays.

use super::{Access, Home, Host, Lab, Transport};
use crate::{
    process::{PATIENCE, Process, ProcessBuilder},
    wait::eventually,
};
use serde_json::Value;

/// Both transports, as ordinary nodes listen.
pub const BOTH: &[Transport] = &[Transport::Quic, Transport::Tcp];

/// A home and the node in it. The node ends first.
#[derive(Debug)]
pub struct Resident {
    /// The node.
    pub node: Process,
    /// Where it lives.
    pub home: Home,
}

/// Public nodes of a laboratory.
#[derive(Debug)]
pub struct Town {
    /// They relay, serve the DHT and are everybody's first contacts.
    pub relays: Vec<Resident>,
    /// A public node of another address: whoever wants to know how it is reached needs two to ask.
    pub third: Resident,
    transports: &'static [Transport],
}

impl Town {
    /// Starts `relays` relays and the third node, all listening over `transports` alone.
    pub async fn start(lab: &Lab, relays: usize, transports: &'static [Transport]) -> Self {
        let mut running: Vec<Resident> = Vec::new();
        for number in 0..relays {
            let name = format!("relay {number}");
            let home = lab.home(&name, Access::Public);
            // Whoever runs a relay says where it is.
            let listen = home.host.listen(transports);
            let node = home.host.node(&name, transports).relay().arguments(&["--external", &listen]);
            let node = know(node, running.iter()).start().await;
            running.push(Resident { node, home });
        }
        let home = lab.home("third", Access::Public);
        let node = know(home.host.node("third", transports), running.iter()).start().await;
        Self { relays: running, third: Resident { node, home }, transports }
    }

    /// How a node on `host` is started that knows the public nodes.
    pub fn node(&self, name: &str, host: &Host) -> ProcessBuilder {
        know(host.node(name, self.transports), self.relays.iter().chain([&self.third]))
    }

    /// A node in `home` that sells the small model, once others can find it.
    pub async fn provider(&self, name: &str, home: Home) -> Resident {
        let node = self.node(name, &home.host).provide().start().await;
        node.offering().await;
        Resident { node, home }
    }

    /// A node in `home` that sells nothing.
    pub async fn client(&self, name: &str, home: Home) -> Resident {
        let node = self.node(name, &home.host).start().await;
        node.connected().await;
        Resident { node, home }
    }
}

fn know<'a>(node: ProcessBuilder, others: impl Iterator<Item = &'a Resident>) -> ProcessBuilder {
    // Every address of each, as lists of bootstrap nodes have them: by which transport one comes in first is left to it.
    others
        .flat_map(|other| &other.node.addresses)
        .fold(node, |node, address| node.arguments(&["--bootstrap", address]))
}

/// How a node reaches a peer, as `aitbc peers --json` says; `None` if they are not connected.
pub async fn path(node: &Process, peer: &Process) -> Option<(String, String)> {
    let peers = node.get("peers").await;
    let peer = peers["peers"].as_array()?.iter().find(|known| known["peer"] == peer.id.to_string())?;
    Some((peer["path"].as_str()?.to_owned(), peer["transport"].as_str()?.to_owned()))
}

/// How often a node opened a path of one of these kinds over a transport since it started: the path manager's own
/// count.
pub async fn paths_opened(node: &Process, kinds: &[&str], transport: Transport) -> u64 {
    let mut opened = 0.0;
    for kind in kinds {
        let labels = [format!("transport=\"{}\"", transport.name()), format!("path=\"{kind}\"")];
        opened += node.metric("aitbc_network_paths_opened_total", &labels.each_ref().map(String::as_str)).await;
    }
    opened as u64
}

/// Waits until a node says of itself that it is `public` or `private`, and has an address that leads to it.
pub async fn reachable(node: &Process, verdict: &str) -> Value {
    let what = format!("{}: is {verdict}, and has an address", node.name);
    eventually(&what, PATIENCE, || async {
        let status = node.get("status").await;
        let addressed = status["addresses"].as_array().is_some_and(|addresses| !addresses.is_empty());
        (status["reachability"]["verdict"] == verdict && addressed).then_some(status)
    })
    .await
}
