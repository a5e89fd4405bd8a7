//! What the rest of the node holds of the network: it sends commands and reads snapshots.

use super::{
    FoundProvider, FramedStream, NetworkError, NetworkReport, PeerInfo, Protocol, Reachability, StreamError,
    TrafficRates, Verdict, gossip,
};
use aitbc_protocol::{
    NodeId, UnixMillis,
    geo::Cell,
    gossip::Gossip,
    wire::{self, MAX_GOSSIP_BYTES},
};
use libp2p::{Multiaddr, gossipsub::MessageId};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::sync::{mpsc, oneshot, watch};

/// Commands that may wait for the network task.
pub(super) const COMMANDS: usize = 256;

/// What the network task does for the rest of the node. A dropped reply is no error: its caller lost interest.
#[derive(Debug)]
pub(super) enum Command {
    Announce { cells: Vec<Cell>, reply: oneshot::Sender<()> },
    Providers { cell: Cell, reply: oneshot::Sender<Result<mpsc::Receiver<FoundProvider>, NetworkError>> },
    Subscribe { cells: Vec<Cell>, reply: oneshot::Sender<Vec<Cell>> },
    Publish { cell: Cell, bytes: Vec<u8>, reply: oneshot::Sender<Result<bool, NetworkError>> },
    Judge { id: MessageId, forwarder: NodeId, verdict: Verdict },
    Reach { peer: NodeId, addresses: Vec<Multiaddr>, want: Want },
    DialBack { node: NodeId, address: Multiaddr, reply: oneshot::Sender<Result<(), NotDialled>> },
    Report { reply: oneshot::Sender<NetworkReport> },
    Checked { helper: NodeId, by: NodeId, results: Vec<(Multiaddr, Option<String>)> },
    Shutdown { reply: oneshot::Sender<()> },
}

/// Why a dial for somebody else did not get through.
#[derive(Debug, PartialEq, Eq)]
pub enum NotDialled {
    /// Nobody answered there, or somebody else did.
    Failed(String),
    /// This node could not try, which says nothing of the address.
    Untried(String),
}

/// Where the answer to a wanted stream arrives, once there is a connection to open it on.
pub(super) type PendingStream = oneshot::Receiver<Result<FramedStream, StreamError>>;

/// What a peer is wanted for.
#[derive(Debug)]
pub(super) enum Want {
    Stream { protocol: Protocol, reply: oneshot::Sender<Result<PendingStream, NetworkError>> },
    RoundTrip { reply: oneshot::Sender<Result<Duration, NetworkError>> },
}

impl Want {
    /// True if nobody waits any more.
    pub(super) fn is_abandoned(&self) -> bool {
        match self {
            Self::Stream { reply, .. } => reply.is_closed(),
            Self::RoundTrip { reply } => reply.is_closed(),
        }
    }

    /// Tells the caller that it does not work.
    pub(super) fn fail(self, error: NetworkError) {
        match self {
            Self::Stream { reply, .. } => drop(reply.send(Err(error))),
            Self::RoundTrip { reply } => drop(reply.send(Err(error))),
        }
    }
}

/// Snapshots that the network task keeps current.
#[derive(Clone, Debug)]
pub(super) struct Snapshots {
    pub(super) addresses: watch::Receiver<Arc<Vec<Multiaddr>>>,
    pub(super) listening: watch::Receiver<Arc<Vec<Multiaddr>>>,
    pub(super) peers: watch::Receiver<Arc<Vec<PeerInfo>>>,
    pub(super) reachability: watch::Receiver<Reachability>,
    pub(super) candidates: watch::Receiver<Arc<Vec<Multiaddr>>>,
    pub(super) offline: watch::Receiver<Arc<HashMap<NodeId, UnixMillis>>>,
    pub(super) traffic: watch::Receiver<TrafficRates>,
}

/// Sends commands to the network task. Cheap to clone; the task ends with [`NetworkHandle::shutdown`], or when the
/// last handle is dropped.
#[derive(Clone, Debug)]
pub struct NetworkHandle {
    pub(super) local: NodeId,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) snapshots: Snapshots,
}

impl NetworkHandle {
    /// This node.
    pub fn local_id(&self) -> NodeId {
        self.local
    }

    /// Addresses under which others can reach this node, best first, without the `/p2p` suffix: confirmed external
    /// ones, relayed ones, then (on network `local`) the ones listened on.
    pub fn addresses(&self) -> watch::Receiver<Arc<Vec<Multiaddr>>> {
        self.snapshots.addresses.clone()
    }

    /// Addresses listened on.
    pub fn listening(&self) -> watch::Receiver<Arc<Vec<Multiaddr>>> {
        self.snapshots.listening.clone()
    }

    /// Connected peers.
    pub fn peers(&self) -> watch::Receiver<Arc<Vec<PeerInfo>>> {
        self.snapshots.peers.clone()
    }

    /// How others reach this node.
    pub fn reachability(&self) -> watch::Receiver<Reachability> {
        self.snapshots.reachability.clone()
    }

    /// Peers that could not be found for ten seconds after their last connection broke, and since when.
    pub fn offline(&self) -> watch::Receiver<Arc<HashMap<NodeId, UnixMillis>>> {
        self.snapshots.offline.clone()
    }

    /// Bytes a second in the last second.
    pub fn traffic(&self) -> watch::Receiver<TrafficRates> {
        self.snapshots.traffic.clone()
    }

    /// Addresses that others see this node under and that are to be checked, the newest first.
    pub fn candidates(&self) -> watch::Receiver<Arc<Vec<Multiaddr>>> {
        self.snapshots.candidates.clone()
    }

    /// Dials `address` from a new port, to see whether `node` answers there. The error says what happened instead.
    pub async fn dial_back(&self, node: NodeId, address: Multiaddr) -> Result<(), NotDialled> {
        let untried = |error: NetworkError| NotDialled::Untried(error.to_string());
        let (reply, answer) = oneshot::channel();
        self.send(Command::DialBack { node, address, reply }).map_err(untried)?;
        answer.await.map_err(|_| untried(NetworkError::Stopped))?
    }

    /// What the network knows of the way it is connected.
    pub async fn report(&self) -> Result<NetworkReport, NetworkError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Report { reply })?;
        answer.await.map_err(|_| NetworkError::Stopped)
    }

    /// Reports what `by` found, as `helper` says, when it dialled addresses of this node, with an error where it did not
    /// get through.
    pub async fn checked(
        &self,
        helper: NodeId,
        by: NodeId,
        results: Vec<(Multiaddr, Option<String>)>,
    ) -> Result<(), NetworkError> {
        self.commands.send(Command::Checked { helper, by, results }).await.map_err(|_| NetworkError::Stopped)
    }

    /// Replaces the set of cells under which this node announces itself in the DHT; the network republishes them
    /// every 10 minutes and whenever its addresses change. Empty stops announcing.
    pub async fn announce(&self, cells: Vec<Cell>) -> Result<(), NetworkError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Announce { cells, reply })?;
        answer.await.map_err(|_| NetworkError::Stopped)
    }

    /// Asks the DHT who announces itself under `cell`. Providers arrive while the query runs, and the first of them
    /// are dialled meanwhile; the channel closes at its end (at most 20 s). Dropping the channel ends the query.
    pub async fn providers_of(&self, cell: Cell) -> Result<mpsc::Receiver<FoundProvider>, NetworkError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Providers { cell, reply })?;
        answer.await.map_err(|_| NetworkError::Stopped)?
    }

    /// Replaces the set of cells whose topics this node hears, at most 32; returns those that it hears now.
    pub async fn subscribe(&self, cells: Vec<Cell>) -> Result<Vec<Cell>, NetworkError> {
        if cells.len() > gossip::MAX_TOPICS {
            return Err(NetworkError::TooManyTopics(cells.len()));
        }
        let (reply, answer) = oneshot::channel();
        self.send(Command::Subscribe { cells, reply })?;
        answer.await.map_err(|_| NetworkError::Stopped)
    }

    /// Publishes on the topic of `cell`. Nobody listening is not an error, and tells false: what was published then is
    /// lost, and whoever needs it heard publishes it again.
    pub async fn publish(&self, cell: Cell, message: &Gossip) -> Result<bool, NetworkError> {
        let bytes = wire::encode(message, MAX_GOSSIP_BYTES)?;
        let (reply, answer) = oneshot::channel();
        self.send(Command::Publish { cell, bytes, reply })?;
        answer.await.map_err(|_| NetworkError::Stopped)?
    }

    /// Says what becomes of a gossip message. Every message needs one verdict. Waits where the network is busy: a
    /// verdict that got lost would keep the message from everybody behind this node.
    pub async fn judge(&self, id: MessageId, forwarder: NodeId, verdict: Verdict) {
        // A network that has stopped forwards nothing anyway.
        let _ = self.commands.send(Command::Judge { id, forwarder, verdict }).await;
    }

    /// Connects, if there is no connection yet, and returns the round trip as soon as one was measured.
    pub async fn connect(&self, peer: NodeId, addresses: Vec<Multiaddr>) -> Result<Duration, NetworkError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Reach { peer, addresses, want: Want::RoundTrip { reply } })?;
        answer.await.map_err(|_| NetworkError::Stopped)?
    }

    /// Opens a stream on the best connection to `peer`, dialling `addresses` if there is none.
    pub async fn open(
        &self,
        peer: NodeId,
        addresses: Vec<Multiaddr>,
        protocol: Protocol,
    ) -> Result<FramedStream, NetworkError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Reach { peer, addresses, want: Want::Stream { protocol, reply } })?;
        let stream = answer.await.map_err(|_| NetworkError::Stopped)??;
        Ok(stream.await.map_err(|_| NetworkError::Stopped)??)
    }

    /// Says goodbye and ends the network task; returns when it has ended.
    pub async fn shutdown(&self) {
        let (reply, done) = oneshot::channel();
        if self.commands.send(Command::Shutdown { reply }).await.is_ok() {
            // An error means that the task has ended already.
            let _ = done.await;
        }
    }

    fn send(&self, command: Command) -> Result<(), NetworkError> {
        self.commands.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => NetworkError::Busy(COMMANDS),
            mpsc::error::TrySendError::Closed(_) => NetworkError::Stopped,
        })
    }
}
