//! Which topics and messages come in at all.

use aitbc_protocol::{NetworkId, geo::Cell, wire::MAX_GOSSIP_BYTES};
use libp2p::gossipsub::{
    DataTransform, MaxCountSubscriptionFilter, Message, RawMessage, TopicHash, TopicSubscriptionFilter,
};
use std::io;

/// Most topics that one node subscribes to.
pub const MAX_TOPICS: usize = 32;
/// Most topics that a peer may be subscribed to: [`MAX_TOPICS`], and as many again by half for one that moves and
/// subscribes before it unsubscribes. A peer that asks for more is ignored with the whole request.
pub const MAX_PEER_TOPICS: usize = MAX_TOPICS + MAX_TOPICS / 2;

/// Lets in valid topics of this network only, and at most [`MAX_PEER_TOPICS`] a peer.
pub type SubscriptionFilter = MaxCountSubscriptionFilter<CellTopics>;

pub(super) fn filter(network: &NetworkId) -> SubscriptionFilter {
    SubscriptionFilter {
        filter: CellTopics { network: network.clone() },
        max_subscribed_topics: MAX_PEER_TOPICS,
        max_subscriptions_per_request: 2 * MAX_PEER_TOPICS,
    }
}

/// Knows the topics of one network by their syntax: those of cells of precision 2 to 4.
#[derive(Clone, Debug)]
pub struct CellTopics {
    network: NetworkId,
}

impl TopicSubscriptionFilter for CellTopics {
    fn can_subscribe(&mut self, topic: &TopicHash) -> bool {
        Cell::from_topic(&self.network, topic.as_str()).is_some()
    }
}

/// Refuses messages on topics that are none, or larger than [`MAX_GOSSIP_BYTES`], before gossipsub remembers
/// anything of them; changes nothing in the others.
#[derive(Clone, Debug)]
pub struct CellMessages {
    network: NetworkId,
}

impl CellMessages {
    pub(super) fn new(network: &NetworkId) -> Self {
        Self { network: network.clone() }
    }

    fn check(&self, topic: &TopicHash, bytes: usize) -> io::Result<()> {
        if Cell::from_topic(&self.network, topic.as_str()).is_none() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the topic of a cell of this network"));
        }
        if bytes > MAX_GOSSIP_BYTES {
            let text = format!("message of {bytes} bytes where at most {MAX_GOSSIP_BYTES} are allowed");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(())
    }
}

impl DataTransform for CellMessages {
    fn inbound_transform(&self, raw: RawMessage) -> io::Result<Message> {
        self.check(&raw.topic, raw.data.len())?;
        Ok(Message { source: raw.source, data: raw.data, sequence_number: raw.sequence_number, topic: raw.topic })
    }

    fn outbound_transform(&self, topic: &TopicHash, data: Vec<u8>) -> io::Result<Vec<u8>> {
        self.check(topic, data.len())?;
        Ok(data)
    }
}
