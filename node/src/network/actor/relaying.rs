//! What follows from being reachable or not: the part this node takes in the DHT, and relays to be reached through.

use super::Actor;
use crate::network::addresses::is_relayed;
use libp2p::{Multiaddr, PeerId, core::transport::ListenerId, kad, multiaddr::Protocol};

/// Relays a private node listens through: a second one for when the first goes.
const MAX_RESERVATIONS: usize = 2;

impl Actor {
    /// Only nodes that others reach may serve the DHT; the others would be dead ends in everybody's table.
    pub(super) fn set_dht_mode(&mut self) {
        let serve = self.config.relay || self.own.is_public();
        if self.server_mode == Some(serve) {
            return;
        }
        self.server_mode = Some(serve);
        if let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() {
            kad.set_mode(Some(if serve { kad::Mode::Server } else { kad::Mode::Client }));
        }
    }

    /// A private node keeps reservations at relays among its peers; any other needs none.
    pub(super) fn keep_reservations(&mut self) {
        if !self.own.is_private() {
            for id in std::mem::take(&mut self.reservations).into_keys() {
                self.swarm.remove_listener(id);
            }
            return;
        }
        while self.reservations.len() < MAX_RESERVATIONS {
            let Some((relay, address)) = self.free_relay() else { return };
            match self.swarm.listen_on(address) {
                Ok(id) => drop::<Option<PeerId>>(self.reservations.insert(id, relay)),
                Err(error) => {
                    tracing::debug!(%relay, %error, "cannot listen through a relay");
                    return;
                }
            }
        }
    }

    /// A connected relay that is not in use, and the address to listen on there: one that others can use too, so
    /// never the far end of a connection that the relay made.
    fn free_relay(&self) -> Option<(PeerId, Multiaddr)> {
        let used: Vec<&PeerId> = self.reservations.values().collect();
        self.peers.iter().filter(|(peer, known)| known.relay && !used.contains(peer)).find_map(|(peer, known)| {
            let dialled = known.connections().iter().filter(|connection| connection.outbound);
            known
                .advertised
                .iter()
                .chain(dialled.map(|connection| &connection.address))
                .find(|address| !is_relayed(address) && self.policy.admits(address))
                .map(|address| {
                    let listen = address.clone().with(Protocol::P2p(*peer)).with(Protocol::P2pCircuit);
                    (*peer, listen)
                })
        })
    }

    /// A listener closed; the relay, if it was one.
    pub(super) fn reservation_closed(&mut self, id: ListenerId) -> Option<PeerId> {
        self.reservations.remove(&id)
    }
}
