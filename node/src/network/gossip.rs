//! Gossip by cell.
use libp2p::{PeerId, gossipsub};
use aitbc_protocol::{NetworkId, geo::Cell};
use std::time::Instant;

/// Most topics one node subscribes to.
pub const MAX_TOPICS: usize = 32;

/// Gossipsub as this network uses it.
pub type Behaviour = gossipsub::Behaviour<gossipsub::IdentityTransform, SubscriptionFilter>;
/// Lets in valid topics of this network only, and so many a peer.
pub type SubscriptionFilter = gossipsub::MaxCountSubscriptionFilter<CellTopics>;

/// Knows the topics of one network.
#[derive(Clone, Debug)]
pub struct CellTopics {
    network: NetworkId,
}

impl gossipsub::TopicSubscriptionFilter for CellTopics {
    fn can_subscribe(&mut self, topic: &gossipsub::TopicHash) -> bool {
        Cell::from_topic(&self.network, topic.as_str()).is_some()
    }
}

/// Builds the behaviour, peer scoring on.
pub fn behaviour(network: &NetworkId) -> Behaviour {
    let _ = network;
    todo!()
}

/// The topic of a cell.
pub fn topic(network: &NetworkId, cell: &Cell) -> gossipsub::IdentTopic {
    gossipsub::IdentTopic::new(cell.topic(network))
}

/// Sets the topic's score parameters, then subscribes. True if it was not subscribed before.
pub fn subscribe(
    behaviour: &mut Behaviour,
    network: &NetworkId,
    cell: &Cell,
) -> Result<bool, gossipsub::SubscriptionError> {
    let _ = (behaviour, network, cell);
    todo!()
}

/// Score parameters of a topic whose cell has `precision`.
pub fn topic_score_params(precision: u8) -> gossipsub::TopicScoreParams {
    let _ = precision;
    todo!()
}

/// Token bucket per forwarder; ask before verifying a signature. Refused messages get `Verdict::Ignore`.
#[derive(Debug, Default)]
pub struct ForwarderLimits {}

impl ForwarderLimits {
    /// Whether a message of `bytes` from `forwarder` may be looked at now.
    pub fn allow(&mut self, forwarder: PeerId, bytes: usize, now: Instant) -> bool {
        let _ = (forwarder, bytes, now);
        todo!()
    }
}
