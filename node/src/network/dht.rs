//! Kademlia, whose answers do not choose what this node dials.
//!
//! A query dials the peers that it is told of, and whoever answers names their addresses: as many as fit into an
//! answer, private ones too. This behaviour passes on those alone that the network's policy admits, and few of them.

use super::{addresses::AddressPolicy, record_store::CellStore};
use aitbc_protocol::offer::MAX_ADDRESSES;
use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    kad,
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
        ToSwarm,
    },
};
use std::{
    ops::{Deref, DerefMut},
    task::{Context, Poll},
};

type Kademlia = kad::Behaviour<CellStore>;

/// Kademlia as it is, but for the addresses that it adds to a dial: at most [`MAX_ADDRESSES`], all admitted.
pub(super) struct Dht {
    kademlia: Kademlia,
    policy: AddressPolicy,
}

impl Dht {
    /// Bounds what `kademlia` has dialled by `policy`.
    pub(super) fn new(kademlia: Kademlia, policy: AddressPolicy) -> Self {
        Self { kademlia, policy }
    }
}

impl Deref for Dht {
    type Target = Kademlia;

    fn deref(&self) -> &Kademlia {
        &self.kademlia
    }
}

impl DerefMut for Dht {
    fn deref_mut(&mut self) -> &mut Kademlia {
        &mut self.kademlia
    }
}

impl NetworkBehaviour for Dht {
    type ConnectionHandler = <Kademlia as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = kad::Event;

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let mut known = self.kademlia.handle_pending_outbound_connection(connection, peer, addresses, role)?;
        known.retain(|address| self.policy.admits(address));
        // Those of the table come first: the peer itself told them.
        known.truncate(MAX_ADDRESSES);
        Ok(known)
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.kademlia.handle_established_inbound_connection(connection, peer, local, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.kademlia.handle_established_outbound_connection(connection, peer, address, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.kademlia.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.kademlia.on_connection_handler_event(peer, connection, event);
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<ToSwarm<kad::Event, THandlerInEvent<Self>>> {
        self.kademlia.poll(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aitbc_protocol::NetworkId;

    #[test]
    fn few_addresses_are_dialled_and_none_at_home() {
        let network = NetworkId::new("main").unwrap();
        let local = PeerId::random();
        let kademlia = Kademlia::new(local, CellStore::new(local, network.clone()));
        let mut dht = Dht::new(kademlia, AddressPolicy::of(&network));
        let peer = PeerId::random();
        for port in 1..=2 * MAX_ADDRESSES {
            dht.add_address(&peer, format!("/ip4/192.168.0.1/tcp/{port}").parse().unwrap());
            dht.add_address(&peer, format!("/ip4/8.8.8.8/tcp/{port}").parse().unwrap());
        }
        let id = ConnectionId::new_unchecked(1);
        let dialled = dht.handle_pending_outbound_connection(id, Some(peer), &[], Endpoint::Dialer).unwrap();
        assert_eq!(dialled.len(), MAX_ADDRESSES);
        assert!(dialled.iter().all(|address| address.to_string().starts_with("/ip4/8.8.8.8/")), "{dialled:?}");
    }
}
