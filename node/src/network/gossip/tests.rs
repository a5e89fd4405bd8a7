use super::*;
use crate::network::streams::tests::running::Running;
use libp2p::{
    PeerId,
    gossipsub::{AllowAllSubscriptionFilter, Event, IdentityTransform, MessageAcceptance, PublishError},
    identity::Keypair,
    swarm::SwarmEvent,
};

/// Gossipsub without our bounds, as an attacker has it.
type Foreign = gossipsub::Behaviour<IdentityTransform, AllowAllSubscriptionFilter>;

fn network() -> NetworkId {
    NetworkId::new("test").expect("a name")
}

fn cell(text: &str) -> Cell {
    text.parse().expect("a cell")
}

fn foreign(authenticity: MessageAuthenticity) -> Foreign {
    let mode = if authenticity.is_signing() { ValidationMode::Strict } else { ValidationMode::Anonymous };
    let config = ConfigBuilder::default()
        .validation_mode(mode)
        .message_id_fn(message_id)
        .max_transmit_size(10 * MAX_TRANSMIT_BYTES)
        .build()
        .expect("valid");
    Foreign::new(authenticity, config).expect("valid")
}

async fn listener(on: &Cell) -> Running<Behaviour> {
    let running = Running::start(behaviour(&network())).await;
    let on = *on;
    running.call(move |swarm| subscribe(swarm.behaviour_mut(), &network(), &on)).await.expect("subscribed");
    running
}

/// Waits until `node` knows that some peer hears the topic.
async fn heard<D, F>(node: &mut Running<gossipsub::Behaviour<D, F>>)
where
    D: gossipsub::DataTransform + Send + 'static,
    F: gossipsub::TopicSubscriptionFilter + Send + 'static,
{
    node.wait_for(|event| matches!(event, SwarmEvent::Behaviour(Event::Subscribed { .. })).then_some(())).await;
}

async fn publish<D, F>(
    node: &Running<gossipsub::Behaviour<D, F>>,
    on: &Cell,
    data: Vec<u8>,
) -> Result<MessageId, PublishError>
where
    D: gossipsub::DataTransform + Send + 'static,
    F: gossipsub::TopicSubscriptionFilter + Send + 'static,
{
    let topic = topic(&network(), on);
    node.call(move |swarm| swarm.behaviour_mut().publish(topic, data)).await
}

async fn next_message(node: &mut Running<Behaviour>) -> (PeerId, MessageId, Message) {
    node.wait_for(|event| match event {
        SwarmEvent::Behaviour(Event::Message { propagation_source, message_id, message }) => {
            Some((propagation_source, message_id, message))
        }
        _ => None,
    })
    .await
}

async fn judge(node: &Running<Behaviour>, id: MessageId, from: PeerId, verdict: MessageAcceptance) -> f64 {
    node.call(move |swarm| {
        let behaviour = swarm.behaviour_mut();
        assert!(behaviour.report_message_validation_result(&id, &from, verdict));
        behaviour.peer_score(&from).expect("scoring is on")
    })
    .await
}

/// On how many topics `node` takes `peer` for subscribed.
async fn topics_of(node: &Running<Behaviour>, peer: PeerId) -> usize {
    node.call(move |swarm| {
        let peers = swarm.behaviour().all_peers();
        peers.filter(|(id, _)| **id == peer).map(|(_, topics)| topics.len()).sum()
    })
    .await
}

#[test]
fn settings_build() {
    let config = config();
    assert!(config.validate_messages() && config.flood_publish());
    behaviour(&network());
}

#[test]
fn copies_have_one_id_and_topics_tell_messages_apart() {
    let message = |topic: &str, data: &[u8], source| Message {
        source,
        data: data.to_vec(),
        sequence_number: None,
        topic: gossipsub::TopicHash::from_raw(topic),
    };
    let id = message_id(&message("a", b"bc", None));
    assert_eq!(id, message_id(&message("a", b"bc", Some(PeerId::random()))));
    assert_ne!(id, message_id(&message("ab", b"c", None)));
    assert_eq!(id.0.len(), 32);
}

#[tokio::test]
async fn a_handful_of_invalid_messages_and_a_peer_is_not_read_any_more() {
    let cell = cell("u09t");
    let mut victim = listener(&cell).await;
    let mut attacker = Running::start(behaviour(&network())).await;
    let mut honest = Running::start(behaviour(&network())).await;
    attacker.connect(&victim).await;
    honest.connect(&victim).await;
    heard(&mut attacker).await;
    heard(&mut honest).await;

    let thresholds = peer_score_thresholds();
    let mut scores = Vec::new();
    for number in 0..5_u8 {
        publish(&attacker, &cell, vec![number]).await.expect("published");
        let (from, id, message) = next_message(&mut victim).await;
        assert_eq!((from, message.data), (attacker.peer, vec![number]));
        scores.push(judge(&victim, id, from, MessageAcceptance::Reject).await);
    }
    assert!(scores[0] > thresholds.gossip_threshold, "one is a warning: {scores:?}");
    assert!(scores.is_sorted_by(|before, after| before > after));
    assert!(scores[4] < thresholds.graylist_threshold, "{scores:?}");

    publish(&attacker, &cell, b"one more".to_vec()).await.expect("published");
    // Enough messages of the honest peer that the attacker's would have come in between.
    for number in 100..110_u8 {
        publish(&honest, &cell, vec![number]).await.expect("published");
        let (from, id, message) = next_message(&mut victim).await;
        assert_eq!((from, message.data), (honest.peer, vec![number]));
        assert!(judge(&victim, id, from, MessageAcceptance::Accept).await >= 0.0);
    }
}

#[tokio::test]
async fn ignoring_costs_the_forwarder_nothing_and_unjudged_messages_go_nowhere() {
    let cell = cell("u09");
    let mut relay = listener(&cell).await;
    let mut end = listener(&cell).await;
    let mut source = Running::start(behaviour(&network())).await;
    source.connect(&relay).await;
    end.connect(&relay).await;
    heard(&mut source).await;
    heard(&mut end).await;

    publish(&source, &cell, b"ignored".to_vec()).await.expect("published");
    let (from, id, _) = next_message(&mut relay).await;
    assert!(judge(&relay, id, from, MessageAcceptance::Ignore).await >= 0.0);
    // Forwarding goes along the mesh: wait until the end is in it.
    let topic = topic(&network(), &cell).hash();
    while !relay
        .call({
            let topic = topic.clone();
            move |swarm| swarm.behaviour().mesh_peers(&topic).next().is_some()
        })
        .await
    {
        tokio::task::yield_now().await;
    }
    publish(&source, &cell, b"accepted".to_vec()).await.expect("published");
    let (from, id, _) = next_message(&mut relay).await;
    judge(&relay, id, from, MessageAcceptance::Accept).await;
    let (from, _, message) = next_message(&mut end).await;
    assert_eq!((from, message.data), (relay.peer, b"accepted".to_vec()), "and not the ignored one before it");
}

#[tokio::test]
async fn oversize_signed_and_foreign_messages_are_refused() {
    let cell = cell("u09t");
    let mut victim = listener(&cell).await;
    let mut large = Running::start(foreign(MessageAuthenticity::Anonymous)).await;
    let mut signed = Running::start(foreign(MessageAuthenticity::Signed(Keypair::generate_ed25519()))).await;
    let mut honest = Running::start(behaviour(&network())).await;
    large.connect(&victim).await;
    signed.connect(&victim).await;
    honest.connect(&victim).await;
    heard(&mut large).await;
    heard(&mut signed).await;
    heard(&mut honest).await;

    assert!(publish(&honest, &cell, vec![0; MAX_GOSSIP_BYTES + 1]).await.is_err());
    publish(&large, &cell, vec![1; MAX_GOSSIP_BYTES + 1]).await.expect("published");
    publish(&signed, &cell, b"signed".to_vec()).await.expect("published");
    for culprit in [large.peer, signed.peer] {
        // Each is fined as soon as its message is there; nothing else tells.
        while victim.call(move |swarm| swarm.behaviour().peer_score(&culprit)).await.expect("scoring") >= 0.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    publish(&honest, &cell, vec![2; MAX_GOSSIP_BYTES]).await.expect("published");
    let (from, _, message) = next_message(&mut victim).await;
    assert_eq!((from, message.data.len()), (honest.peer, MAX_GOSSIP_BYTES), "the first to come through");
}

#[tokio::test]
async fn peers_subscribe_to_a_bounded_number_of_cells_of_this_network_only() {
    let cell = cell("u09t");
    let mut node = listener(&cell).await;
    let other = NetworkId::new("other").expect("a name");
    let fine: Cell = "u09tv".parse().expect("a cell");
    let mut stranger = Running::start(foreign(MessageAuthenticity::Anonymous)).await;
    let mut greedy = Running::start(foreign(MessageAuthenticity::Anonymous)).await;
    let wrong = ["x".to_owned(), cell.topic(&other), fine.topic(&network()), cell.topic(&network())];
    let too_many: Vec<String> = cell.ring(4).iter().map(|cell| cell.topic(&network())).collect();
    let too_many = [
        too_many,
        "u0".parse::<Cell>().expect("a cell").ring(3).iter().map(|cell| cell.topic(&network())).collect(),
    ]
    .concat();
    assert!(too_many.len() > MAX_PEER_TOPICS);
    for (peer, wanted) in [(&stranger, wrong.to_vec()), (&greedy, too_many)] {
        peer.call(move |swarm| {
            for topic in wanted {
                swarm.behaviour_mut().subscribe(&IdentTopic::new(topic)).expect("it filters nothing");
            }
        })
        .await;
    }
    stranger.connect(&node).await;
    greedy.connect(&node).await;
    heard(&mut stranger).await;
    heard(&mut greedy).await;
    // A message comes after the subscriptions of its sender.
    for (number, peer) in [(1, &stranger), (2, &greedy)] {
        publish(peer, &cell, vec![number]).await.expect("published");
        next_message(&mut node).await;
    }
    assert_eq!(topics_of(&node, stranger.peer).await, 1);
    assert!(topics_of(&node, greedy.peer).await <= MAX_PEER_TOPICS);
    let refused = node.call(move |swarm| subscribe(swarm.behaviour_mut(), &network(), &fine)).await;
    assert!(matches!(refused, Err(SubscriptionError::NotAllowed)));
    assert!(node.call(move |swarm| unsubscribe(swarm.behaviour_mut(), &network(), &cell)).await);
}
