//! The side of the swarm: which connections there are, and which of them a stream is opened on.

use super::{
    FramedStream, IncomingQueues, StreamError, StreamLimits,
    budget::PeerBudget,
    frame::Path,
    handler::{Handler, OpenStream, Reply, Shared},
};
use crate::network::{Protocol, addresses::is_relayed};
use aitbc_protocol::NodeId;
use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionClosed, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler,
        THandlerInEvent, THandlerOutEvent, ToSwarm, behaviour::ConnectionEstablished,
    },
};
use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};
use tokio::sync::oneshot;

/// Requests that may wait for the swarm to pass them on.
const MAX_QUEUED: usize = 1024;

/// Refuses connections of peers whose identity is not an ed25519 key: they cannot be nodes of this network.
#[derive(Debug, thiserror::Error)]
#[error("{0} is not the identity of an ed25519 key")]
struct NotANode(PeerId);

/// Owns the budgets of the peers and knows their connections; hands streams that peers open to [`IncomingQueues`].
///
/// It never emits an event.
#[derive(Debug)]
pub struct Behaviour {
    shared: Arc<Shared>,
    peers: HashMap<PeerId, Peer>,
    /// What the streams of each connection hold.
    uses: HashMap<ConnectionId, Weak<()>>,
    queued: VecDeque<(PeerId, ConnectionId, OpenStream)>,
}

#[derive(Debug)]
struct Peer {
    budget: Arc<PeerBudget>,
    /// In the order in which they were established.
    connections: Vec<Connection>,
}

#[derive(Clone, Copy, Debug)]
struct Connection {
    id: ConnectionId,
    relayed: bool,
}

impl Behaviour {
    /// A behaviour that admits streams within `limits` to `incoming`.
    pub fn new(limits: StreamLimits, incoming: IncomingQueues) -> Self {
        let shared = Shared { limits, incoming, refused: AtomicU64::new(0) };
        Self { shared: Arc::new(shared), peers: HashMap::new(), uses: HashMap::new(), queued: VecDeque::new() }
    }

    /// Opens a stream on `connection`, or on [`Self::best_connection`]. `reply` always gets an answer; it fails at
    /// once where there is no such connection, so connect first.
    pub fn open(
        &mut self,
        peer: PeerId,
        protocol: Protocol,
        connection: Option<ConnectionId>,
        reply: oneshot::Sender<Result<FramedStream, StreamError>>,
    ) {
        let reply = Reply::new(reply);
        let wanted = match connection {
            Some(id) => self.connections(&peer).iter().find(|known| known.id == id).map(|known| known.id),
            None => self.best_connection(&peer),
        };
        match wanted {
            _ if self.queued.len() >= MAX_QUEUED => reply.send(Err(StreamError::Busy(self.queued.len()))),
            None => reply.send(Err(StreamError::Closed(format!("there is no connection to {peer}")))),
            Some(id) => {
                let used = self.uses.get(&id).and_then(Weak::upgrade);
                self.queued.push_back((peer, id, OpenStream { protocol, reply, _used: used }));
            }
        }
    }

    /// The connection that [`Self::open`] takes if none is named: direct before relayed, then the newest, since an
    /// older one may be dead and not know it yet.
    pub fn best_connection(&self, peer: &PeerId) -> Option<ConnectionId> {
        let connections = self.connections(peer);
        let newest = |relayed| connections.iter().rev().find(|connection| connection.relayed == relayed);
        newest(false).or_else(|| newest(true)).map(|connection| connection.id)
    }

    /// Whether a stream lives on `connection`, or is being opened there.
    pub fn is_used(&self, connection: ConnectionId) -> bool {
        // One is held by the connection's handler.
        self.uses.get(&connection).is_some_and(|uses| uses.strong_count() > 1)
    }

    /// Streams refused so far: over a limit, or with nobody to take them.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// Streams that `peer` opened and that live now.
    pub fn live(&self, peer: &PeerId) -> usize {
        self.peers.get(peer).map_or(0, |peer| peer.budget.live())
    }

    fn connections(&self, peer: &PeerId) -> &[Connection] {
        self.peers.get(peer).map_or(&[], |peer| &peer.connections)
    }

    fn handler(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        relayed: bool,
    ) -> Result<Handler, ConnectionDenied> {
        let node =
            NodeId::from_peer_id_bytes(&peer.to_bytes()).ok_or_else(|| ConnectionDenied::new(NotANode(peer)))?;
        let now = Instant::now();
        // A peer that left is forgotten once its streams are gone and its bucket is full, or reconnecting would
        // fill it.
        self.peers.retain(|_, peer| {
            !peer.connections.is_empty() || Arc::strong_count(&peer.budget) > 1 || !peer.budget.is_rested(now)
        });
        let limits = self.shared.limits;
        let entry = self
            .peers
            .entry(peer)
            .or_insert_with(|| Peer { budget: Arc::new(PeerBudget::new(limits, now)), connections: Vec::new() });
        self.uses.retain(|_, uses| uses.strong_count() > 0);
        let used = Arc::new(());
        self.uses.insert(connection, Arc::downgrade(&used));
        let path = Path { peer: node, connection, relayed };
        Ok(Handler::new(path, Arc::clone(&self.shared), Arc::clone(&entry.budget), used))
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        // Of a relayed connection only the local side tells that it is one.
        self.handler(connection, peer, is_relayed(local))
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        self.handler(connection, peer, is_relayed(address))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished {
                peer_id, connection_id, endpoint, ..
            }) => {
                if let Some(peer) = self.peers.get_mut(&peer_id) {
                    peer.connections.push(Connection { id: connection_id, relayed: endpoint.is_relayed() });
                }
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, connection_id, .. }) => {
                if let Some(peer) = self.peers.get_mut(&peer_id) {
                    peer.connections.retain(|connection| connection.id != connection_id);
                }
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        // No waker is kept: whoever calls `open` owns the swarm and polls it next.
        match self.queued.pop_front() {
            Some((peer_id, connection, event)) => {
                Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::One(connection), event })
            }
            None => Poll::Pending,
        }
    }
}
