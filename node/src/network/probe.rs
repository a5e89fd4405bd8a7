//! Probes of every connection: its round trip, its late answers, and when it is dead.
//!
//! libp2p's ping has one interval for all connections, and above TCP and QUIC loss shows only as delay. A connection in
//! use is probed every second here, so that a path that broke is noticed within seconds and its jobs move to another.
//!
//! ```text
//! Behaviour --pace--> Handler: prober (our stream: number out, echo back) --Report--> Behaviour --Event--> actor
//!                              echo (the peer's stream: bytes in, same bytes out)
//! ```

mod handler;
mod prober;

use handler::Handler;
use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        CloseConnection, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler,
        THandlerInEvent, THandlerOutEvent, ToSwarm,
    },
};
use std::{
    collections::VecDeque,
    task::{Context, Poll},
    time::Duration,
};

/// How often a connection is probed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// Nothing depends on it now.
    #[default]
    Idle,
    /// Others reach this node through it.
    Reserved,
    /// Another connection to the same peer came or broke: this one may lead to where the peer was.
    Doubted,
    /// A job runs over it, or others reach this node through it and something else did not answer.
    InUse,
}

impl Pace {
    const fn interval(self) -> Duration {
        match self {
            Self::Idle => Duration::from_secs(15),
            Self::Reserved => Duration::from_secs(5),
            Self::Doubted | Self::InUse => Duration::from_secs(1),
        }
    }
}

/// What a probe showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// The answer came.
    RoundTrip(Duration),
    /// The answer takes much longer than the ones before.
    Late,
    /// No answer came for so long: the connection is being closed.
    Dead(Duration),
}

/// What a probe of one connection showed.
#[derive(Debug)]
pub struct Event {
    /// Of whom.
    pub peer: PeerId,
    /// Which connection.
    pub connection: ConnectionId,
    /// What it showed.
    pub report: Report,
}

/// Probes all connections and closes the dead ones.
#[derive(Debug, Default)]
pub struct Behaviour {
    actions: VecDeque<ToSwarm<Event, Pace>>,
}

impl Behaviour {
    /// Says how often `connection` is probed from now on.
    pub fn pace(&mut self, peer: PeerId, connection: ConnectionId, pace: Pace) {
        // One for each change of a connection's use: as bounded as the connections are.
        self.actions.push_back(ToSwarm::NotifyHandler {
            peer_id: peer,
            handler: NotifyHandler::One(connection),
            event: pace,
        });
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(Handler::new())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(Handler::new())
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        report: THandlerOutEvent<Self>,
    ) {
        self.actions.push_back(ToSwarm::GenerateEvent(Event { peer, connection, report }));
        if matches!(report, Report::Dead(_)) {
            let connection = CloseConnection::One(connection);
            self.actions.push_back(ToSwarm::CloseConnection { peer_id: peer, connection });
        }
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Event, THandlerInEvent<Self>>> {
        // No waker is kept: events of handlers are followed by a poll, and so is whatever the swarm's owner calls.
        self.actions.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}
