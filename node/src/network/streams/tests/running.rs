//! A swarm over memory that runs in its own task, for tests of behaviours.

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm, Transport,
    core::{
        muxing::StreamMuxerBox,
        transport::{Boxed, MemoryTransport},
        upgrade::Version,
    },
    identity::Keypair,
    noise,
    swarm::{
        Config, ConnectionId, NetworkBehaviour, SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
    },
    yamux,
};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

type Command<B> = Box<dyn FnOnce(&mut Swarm<B>) + Send>;

/// Ends with its handle.
pub(in crate::network) struct Running<B: NetworkBehaviour> {
    pub(in crate::network) peer: PeerId,
    pub(in crate::network) address: Multiaddr,
    pub(in crate::network) events: mpsc::Receiver<SwarmEvent<B::ToSwarm>>,
    commands: mpsc::Sender<Command<B>>,
}

pub(in crate::network) fn transport(key: &Keypair) -> Boxed<(PeerId, StreamMuxerBox)> {
    MemoryTransport::default()
        .upgrade(Version::V1)
        .authenticate(noise::Config::new(key).expect("a key"))
        .multiplex(yamux::Config::default())
        .boxed()
}

impl<B: NetworkBehaviour<ToSwarm: Send> + Send> Running<B> {
    pub(in crate::network) async fn start(behaviour: B) -> Self {
        let key = Keypair::generate_ed25519();
        let peer = key.public().to_peer_id();
        let config = Config::with_tokio_executor().with_idle_connection_timeout(Duration::from_secs(60));
        let mut swarm = Swarm::new(transport(&key), behaviour, peer, config);
        swarm.listen_on("/memory/0".parse().expect("an address")).expect("memory listens");
        let address = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                break address;
            }
        };
        let (commands, mut inbox) = mpsc::channel::<Command<B>>(16);
        let (event_sender, events) = mpsc::channel(10_000);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    event = swarm.select_next_some() => { let _ = event_sender.try_send(event); }
                    command = inbox.recv() => match command {
                        Some(command) => command(&mut swarm),
                        None => break,
                    },
                }
            }
        });
        Self { peer, address, events, commands }
    }

    /// Runs `command` in the swarm's task.
    pub(in crate::network) async fn call<T: Send + 'static>(
        &self,
        command: impl FnOnce(&mut Swarm<B>) -> T + Send + 'static,
    ) -> T {
        let (reply, answer) = oneshot::channel();
        let run = move |swarm: &mut Swarm<B>| {
            let _ = reply.send(command(swarm));
        };
        assert!(self.commands.send(Box::new(run)).await.is_ok(), "the swarm runs");
        answer.await.expect("the swarm runs")
    }

    /// Makes one more connection to `other` and waits until it stands.
    pub(in crate::network) async fn connect<C: NetworkBehaviour>(&mut self, other: &Running<C>) -> ConnectionId {
        let dial = DialOpts::peer_id(other.peer)
            .condition(PeerCondition::Always)
            .addresses(vec![other.address.clone()])
            .build();
        let wanted = dial.connection_id();
        self.call(|swarm| swarm.dial(dial)).await.expect("dialling");
        self.wait_for(|event| match event {
            SwarmEvent::ConnectionEstablished { connection_id, .. } if connection_id == wanted => Some(wanted),
            _ => None,
        })
        .await
    }

    /// The first event that `wanted` picks.
    pub(in crate::network) async fn wait_for<T>(
        &mut self,
        mut wanted: impl FnMut(SwarmEvent<B::ToSwarm>) -> Option<T>,
    ) -> T {
        let search = async {
            loop {
                let event = self.events.recv().await.expect("the swarm runs");
                if let Some(found) = wanted(event) {
                    return found;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), search).await.expect("the event comes")
    }
}
