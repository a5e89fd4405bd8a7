//! Clients of a relay that do nothing but keep a reservation and their connection, so that a thousand of them fit into
//! one process.

use aitbc_node::network::probe::{self, Pace};
use aitbc_protocol::wire::IDENTIFY_PROTOCOL;
use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm, SwarmBuilder, identify,
    multiaddr::Protocol,
    noise, relay,
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use std::{net::SocketAddr, time::Duration};
use tokio::{sync::oneshot, task::JoinHandle};

/// Longer than any test: who holds a reservation does not leave.
const IDLE: Duration = Duration::from_secs(3600);

#[derive(NetworkBehaviour)]
struct Behaviour {
    identify: identify::Behaviour,
    relay: relay::client::Behaviour,
    probe: probe::Behaviour,
}

/// A client that asked for a reservation. It leaves when it is dropped.
#[derive(Debug)]
pub struct Relayed {
    task: JoinHandle<()>,
}

impl Drop for Relayed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn swarm() -> Swarm<Behaviour> {
    SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .expect("a transport")
        .with_relay_client(noise::Config::new, yamux::Config::default)
        .expect("a transport over relays")
        .with_behaviour(|key, relay| Behaviour {
            identify: identify::Behaviour::new(identify::Config::new(
                format!("{IDENTIFY_PROTOCOL}/local"),
                key.public(),
            )),
            relay,
            probe: probe::Behaviour::default(),
        })
        .expect("a behaviour")
        .with_swarm_config(|config| config.with_idle_connection_timeout(IDLE))
        .build()
}

impl Relayed {
    /// Connects to the relay at `address` and asks for a reservation; whether it was given.
    pub async fn ask(relay: PeerId, address: SocketAddr) -> (Self, bool) {
        let mut swarm = swarm();
        let way: Multiaddr = Multiaddr::from(address.ip()).with(Protocol::Tcp(address.port()));
        let way = way.with(Protocol::P2p(relay)).with(Protocol::P2pCircuit);
        let listener = swarm.listen_on(way).expect("an address of a relay");
        let (told, answer) = oneshot::channel();
        let task = tokio::spawn(async move {
            let mut told = Some(told);
            loop {
                let given = match swarm.select_next_some().await {
                    // As nodes do with a relay through which others reach them.
                    SwarmEvent::ConnectionEstablished { peer_id, connection_id, .. } => {
                        swarm.behaviour_mut().probe.pace(peer_id, connection_id, Pace::Reserved);
                        continue;
                    }
                    SwarmEvent::NewListenAddr { listener_id, .. } if listener_id == listener => true,
                    SwarmEvent::ListenerClosed { listener_id, .. } if listener_id == listener => false,
                    _ => continue,
                };
                if let Some(told) = told.take() {
                    // Whoever asked may have given up.
                    let _ = told.send(given);
                }
            }
        });
        (Self { task }, answer.await.unwrap_or(false))
    }
}
