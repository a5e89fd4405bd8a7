//! Gossip by cell: gossipsub as this network uses it.
//!
//! Messages carry no source, sequence number or signature of gossipsub's own (`Anonymous`, and validation refuses
//! those that have one). What counts is the signature inside the payload, which binds offer, network and sequence
//! number; a second one by the publisher would double the size of a heartbeat, be verified before any rate limit of
//! ours, and tell everybody who forwarded first. Scoring needs none of it: it weighs the peer that forwarded.
//!
//! An application that reads [`Behaviour`]'s messages asks [`ForwarderLimits`] first, then verifies, then reports
//! the verdict; nothing is forwarded without one.

mod forwarders;
mod scoring;
mod topics;

pub use forwarders::ForwarderLimits;
pub use scoring::{peer_score_params, peer_score_thresholds, topic_score_params};
pub use topics::{CellMessages, CellTopics, MAX_PEER_TOPICS, MAX_TOPICS, SubscriptionFilter};

use aitbc_protocol::{NetworkId, geo::Cell, wire::MAX_GOSSIP_BYTES};
use libp2p::gossipsub::{
    self, Config, ConfigBuilder, IdentTopic, Message, MessageAuthenticity, MessageId, SubscriptionError,
    ValidationMode,
};
use sha2::{Digest, Sha256};
use std::time::Duration;

/// Gossipsub over the topics of cells.
pub type Behaviour = gossipsub::Behaviour<CellMessages, SubscriptionFilter>;

/// Largest RPC in bytes: a message of [`MAX_GOSSIP_BYTES`], its envelope, and the 8 KiB that the codec may have read
/// of the next RPC, which it counts in.
const MAX_TRANSMIT_BYTES: usize = MAX_GOSSIP_BYTES + 16 * 1024;
/// How long a message is known as seen. Longer than an offer without heartbeat lives, shorter than the ten minutes
/// after which an unchanged offer is published again.
const SEEN_FOR: Duration = Duration::from_secs(120);

/// Builds the behaviour for `network`, peer scoring on, subscribed to nothing.
pub fn behaviour(network: &NetworkId) -> Behaviour {
    let mut behaviour = Behaviour::new_with_subscription_filter_and_transform(
        MessageAuthenticity::Anonymous,
        config(),
        topics::filter(network),
        CellMessages::new(network),
    )
    .expect("anonymous publishing goes with anonymous validation");
    behaviour
        .with_peer_score(peer_score_params(), peer_score_thresholds())
        .expect("the parameters are constants that a test validates");
    behaviour
}

/// The topic of a cell.
pub fn topic(network: &NetworkId, cell: &Cell) -> IdentTopic {
    IdentTopic::new(cell.topic(network))
}

/// Sets the score parameters of a cell's topic, without which an invalid message would cost nothing, and subscribes
/// to it. True if it was not subscribed before; an error for a cell too fine to have a topic.
///
/// Callers subscribe to at most [`MAX_TOPICS`]: peers ignore the subscriptions of a node with more than
/// [`MAX_PEER_TOPICS`].
pub fn subscribe(behaviour: &mut Behaviour, network: &NetworkId, cell: &Cell) -> Result<bool, SubscriptionError> {
    let topic = topic(network, cell);
    behaviour
        .set_topic_params(topic.clone(), topic_score_params(cell.precision()))
        .expect("`behaviour` switched scoring on");
    behaviour.subscribe(&topic)
}

/// Leaves the topic of a cell. True if it was subscribed.
pub fn unsubscribe(behaviour: &mut Behaviour, network: &NetworkId, cell: &Cell) -> bool {
    behaviour.unsubscribe(&topic(network, cell))
}

fn config() -> Config {
    ConfigBuilder::default()
        .validate_messages()
        .validation_mode(ValidationMode::Anonymous)
        .message_id_fn(message_id)
        .max_transmit_size(MAX_TRANSMIT_BYTES)
        .duplicate_cache_time(SEEN_FOR)
        // The mesh of the specification (6, 4 to 12, 2 of them dialled by us). A neighbourhood with fewer nodes is
        // one full mesh; publishing to every subscriber we are connected to covers the seconds before there is one.
        .mesh_n(6)
        .mesh_n_low(4)
        .mesh_n_high(12)
        .mesh_outbound_min(2)
        .flood_publish(true)
        .heartbeat_initial_delay(Duration::from_millis(500))
        .heartbeat_interval(Duration::from_secs(1))
        // One message every 30 s a provider: what a peer may make us hold or do in one go can be small. A full
        // queue to a peer holds 128 messages, 4 MiB at the very most.
        .connection_handler_queue_len(128)
        .max_publish_messages(64)
        .max_control_messages_sent(256)
        .max_ihave_messages_heartbeat(10)
        .build()
        .expect("the settings are constants that a test builds")
}

/// SHA-256 of topic and content: a copy is a copy, whoever sends it.
fn message_id(message: &Message) -> MessageId {
    let topic = message.topic.as_str();
    let mut hash = Sha256::new();
    hash.update((topic.len() as u64).to_be_bytes());
    hash.update(topic);
    hash.update(&message.data);
    MessageId::new(&hash.finalize())
}

#[cfg(test)]
mod tests;
