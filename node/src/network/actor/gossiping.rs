//! Gossip between the behaviour and whoever judges it.

use super::Actor;
use crate::network::{
    GossipMessage, NetworkError, Verdict, gossip,
    metrics::{Fate, FateLabels},
    node_id,
};
use aitbc_protocol::{
    geo::Cell,
    wire::{MAX_GOSSIP_BYTES, WireError},
};
use libp2p::{
    PeerId,
    gossipsub::{Event, Message, MessageAcceptance, MessageId, PublishError},
};
use std::{collections::BTreeSet, time::Instant};

impl Actor {
    /// Replaces the set of topics heard.
    pub(super) fn subscribe(&mut self, cells: &[Cell]) {
        let wanted: BTreeSet<Cell> = cells.iter().copied().collect();
        let network = &self.config.network;
        let Some(behaviour) = self.swarm.behaviour_mut().gossip.as_mut() else { return };
        for cell in self.topics.difference(&wanted) {
            behaviour.unsubscribe(&gossip::topic(network, cell));
        }
        let mut heard = BTreeSet::new();
        for cell in wanted {
            match gossip::subscribe(behaviour, network, &cell) {
                Ok(_) => drop(heard.insert(cell)),
                Err(error) => tracing::warn!(%cell, %error, "cannot hear the topic of a cell"),
            }
        }
        self.topics = heard;
    }

    /// Publishes `bytes` on the topic of `cell`; whether anybody who hears it is connected.
    pub(super) fn publish(&mut self, cell: Cell, bytes: Vec<u8>) -> Result<bool, NetworkError> {
        let topic = gossip::topic(&self.config.network, &cell);
        let got = bytes.len();
        let Some(behaviour) = self.swarm.behaviour_mut().gossip.as_mut() else { return Ok(false) };
        match behaviour.publish(topic, bytes) {
            // What was said already need not be said again.
            Ok(_) | Err(PublishError::Duplicate) => Ok(true),
            Err(PublishError::NoPeersSubscribedToTopic) => Ok(false),
            Err(PublishError::MessageTooLarge) => {
                Err(NetworkError::Wire(WireError::TooLarge { limit: MAX_GOSSIP_BYTES, got }))
            }
            Err(error) => Err(NetworkError::Publish(error.to_string())),
        }
    }

    /// Passes a verdict on.
    pub(super) fn judge(&mut self, id: &MessageId, forwarder: &PeerId, verdict: Verdict) {
        self.decide(id, forwarder, verdict, Fate::from(verdict));
    }

    fn decide(&mut self, id: &MessageId, forwarder: &PeerId, verdict: Verdict, fate: Fate) {
        self.metrics.gossip.get_or_create(&FateLabels { verdict: fate }).inc();
        let acceptance = match verdict {
            Verdict::Accept => MessageAcceptance::Accept,
            Verdict::Ignore => MessageAcceptance::Ignore,
            Verdict::Reject => MessageAcceptance::Reject,
        };
        if let Some(behaviour) = self.swarm.behaviour_mut().gossip.as_mut() {
            behaviour.report_message_validation_result(id, forwarder, acceptance);
        }
    }

    pub(super) fn on_gossip(&mut self, event: Event) {
        match event {
            Event::Message { propagation_source, message_id, message } => {
                if let Err((verdict, fate)) = self.hand_on(propagation_source, &message_id, message) {
                    self.decide(&message_id, &propagation_source, verdict, fate);
                }
            }
            Event::SlowPeer { peer_id, .. } => tracing::debug!(peer = %peer_id, "takes gossip too slowly"),
            _ => {}
        }
    }

    /// Queues a message for judgement, or says what becomes of it at once.
    fn hand_on(&mut self, forwarder: PeerId, id: &MessageId, message: Message) -> Result<(), (Verdict, Fate)> {
        let rejected = (Verdict::Reject, Fate::Rejected);
        let cell = Cell::from_topic(&self.config.network, message.topic.as_str()).ok_or(rejected)?;
        let node = node_id(&forwarder).ok_or(rejected)?;
        if message.data.len() > MAX_GOSSIP_BYTES {
            return Err(rejected);
        }
        if !self.forwarders.allow(forwarder, message.data.len(), Instant::now()) {
            return Err((Verdict::Ignore, Fate::RateLimited));
        }
        let message = GossipMessage { id: id.clone(), forwarder: node, cell, bytes: message.data };
        self.gossip_queue.try_send(message).map_err(|_| (Verdict::Ignore, Fate::Overflow))
    }

    /// Peers whose score is below what gossip still listens to.
    pub(super) fn misbehaving(&self) -> Vec<(PeerId, f64)> {
        let Some(behaviour) = self.swarm.behaviour().gossip.as_ref() else { return Vec::new() };
        let threshold = gossip::peer_score_thresholds().graylist_threshold;
        self.peers
            .iter()
            .filter_map(|(peer, _)| Some((*peer, behaviour.peer_score(peer)?)))
            .filter(|(_, score)| *score < threshold)
            .collect()
    }
}
