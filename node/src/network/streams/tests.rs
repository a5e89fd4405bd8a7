use super::*;
use libp2p::{
    Multiaddr, PeerId, Transport,
    core::{
        ConnectedPoint, Endpoint,
        transport::{DialOpts, PortUse},
    },
    identity::Keypair,
    swarm::{ConnectionId, FromSwarm, NetworkBehaviour, SwarmEvent, behaviour::ConnectionEstablished, dummy},
};
use tokio::sync::oneshot;

pub(in crate::network) mod running;
use running::Running;

const LIMIT: usize = 1024;

struct Receivers {
    offer: mpsc::Receiver<IncomingStream>,
    quote: mpsc::Receiver<IncomingStream>,
    job: mpsc::Receiver<IncomingStream>,
    reach: mpsc::Receiver<IncomingStream>,
    challenge: mpsc::Receiver<IncomingStream>,
    attest: mpsc::Receiver<IncomingStream>,
    bandwidth: mpsc::Receiver<IncomingStream>,
    fhe: mpsc::Receiver<IncomingStream>,
    settlement: mpsc::Receiver<IncomingStream>,
}

fn behaviour(limits: StreamLimits, capacity: usize) -> (Behaviour, Receivers) {
    let (offer, offers) = mpsc::channel(capacity);
    let (quote, quotes) = mpsc::channel(capacity);
    let (job, jobs) = mpsc::channel(capacity);
    let (reach, reaches) = mpsc::channel(capacity);
    let (challenge, challenges) = mpsc::channel(capacity);
    let (attest, attests) = mpsc::channel(capacity);
    let (bandwidth, bandwidths) = mpsc::channel(capacity);
    let (fhe, fhes) = mpsc::channel(capacity);
    let (settlement, settlements) = mpsc::channel(capacity);
    let receivers = Receivers {
        offer: offers,
        quote: quotes,
        job: jobs,
        reach: reaches,
        challenge: challenges,
        attest: attests,
        bandwidth: bandwidths,
        fhe: fhes,
        settlement: settlements,
    };
    let queues = IncomingQueues { offer, quote, job, reach, challenge, attest, bandwidth, fhe, settlement };
    (Behaviour::new(limits, queues), receivers)
}

async fn node(limits: StreamLimits) -> (Running<Behaviour>, Receivers) {
    let (behaviour, receivers) = behaviour(limits, 256);
    (Running::start(behaviour).await, receivers)
}

impl Running<Behaviour> {
    async fn ask(
        &self,
        peer: PeerId,
        protocol: Protocol,
        connection: Option<ConnectionId>,
    ) -> oneshot::Receiver<Result<FramedStream, StreamError>> {
        let (reply, answer) = oneshot::channel();
        self.call(move |swarm| swarm.behaviour_mut().open(peer, protocol, connection, reply)).await;
        answer
    }

    async fn open(
        &self,
        peer: PeerId,
        protocol: Protocol,
        connection: Option<ConnectionId>,
    ) -> Result<FramedStream, StreamError> {
        self.ask(peer, protocol, connection).await.await.expect("there is always an answer")
    }
}

#[tokio::test]
async fn each_protocol_has_its_queue_and_both_ends_are_named() {
    let (mut client, _own) = node(StreamLimits::default()).await;
    let (server, mut incoming) = node(StreamLimits::default()).await;
    client.connect(&server).await;
    for protocol in Protocol::ALL {
        let mut stream = client.open(server.peer, protocol, None).await.expect("open");
        stream.send(&protocol.name(), LIMIT).await.expect("sent");
        let queue = match protocol {
            Protocol::Offer => &mut incoming.offer,
            Protocol::Quote => &mut incoming.quote,
            Protocol::Job => &mut incoming.job,
            Protocol::Reach => &mut incoming.reach,
            Protocol::Challenge => &mut incoming.challenge,
            Protocol::Attest => &mut incoming.attest,
            Protocol::Bandwidth => &mut incoming.bandwidth,
            Protocol::Fhe => &mut incoming.fhe,
            Protocol::Settlement => &mut incoming.settlement,
        };
        let mut accepted = queue.recv().await.expect("a stream");
        assert_eq!(accepted.peer.to_peer_id_bytes(), client.peer.to_bytes());
        assert_eq!(stream.peer().to_peer_id_bytes(), server.peer.to_bytes());
        let text: Option<String> = accepted.stream.receive(LIMIT).await.expect("received");
        assert_eq!(text.as_deref(), Some(protocol.name()));
        accepted.stream.send(&"hello", LIMIT).await.expect("sent");
        accepted.stream.close().await.expect("closed");
        assert_eq!(stream.receive::<String>(LIMIT).await.expect("received").as_deref(), Some("hello"));
        assert!(stream.receive::<String>(LIMIT).await.expect("the end").is_none());
    }
}

#[tokio::test]
async fn a_stream_stays_on_the_connection_it_is_pinned_to() {
    let (mut client, _own) = node(StreamLimits::default()).await;
    let (server, mut incoming) = node(StreamLimits::default()).await;
    let first = client.connect(&server).await;
    let second = client.connect(&server).await;
    let peer = server.peer;
    let best = client.call(move |swarm| swarm.behaviour().best_connection(&peer)).await;
    assert_eq!(best, Some(second), "the newest");

    let mut ends = Vec::new();
    for wanted in [first, second, first] {
        let stream = client.open(server.peer, Protocol::Job, Some(wanted)).await.expect("open");
        assert_eq!(stream.connection(), Some(wanted));
        ends.push((stream, incoming.job.recv().await.expect("a stream").stream));
    }
    assert_eq!(ends[0].1.connection(), ends[2].1.connection());
    assert_ne!(ends[0].1.connection(), ends[1].1.connection());

    // With its connection a stream ends, and only that one.
    client.call(move |swarm| swarm.close_connection(first)).await;
    client
        .wait_for(|event| match event {
            SwarmEvent::ConnectionClosed { connection_id, .. } if connection_id == first => Some(()),
            _ => None,
        })
        .await;
    let (mut lost, _) = ends.swap_remove(0);
    assert!(!matches!(lost.receive::<String>(LIMIT).await, Ok(Some(_))));
    assert!(matches!(client.open(server.peer, Protocol::Job, Some(first)).await, Err(StreamError::Closed(_))));
    let (near, far) = ends.iter_mut().find(|(near, _)| near.connection() == Some(second)).expect("kept");
    near.send(&"still here", LIMIT).await.expect("sent");
    assert_eq!(far.receive::<String>(LIMIT).await.expect("received").as_deref(), Some("still here"));
    assert_eq!(client.open(server.peer, Protocol::Job, None).await.expect("open").connection(), Some(second));
}

#[test]
fn direct_connections_come_before_relayed_ones() {
    let (mut behaviour, _receivers) = behaviour(StreamLimits::default(), 1);
    let peer = Keypair::generate_ed25519().public().to_peer_id();
    let direct: Multiaddr = "/ip4/8.8.8.8/tcp/1".parse().expect("an address");
    let relayed: Multiaddr =
        format!("/ip4/9.9.9.9/tcp/1/p2p/{}/p2p-circuit", PeerId::random()).parse().expect("ok");
    let mut best = |id, address: &Multiaddr| {
        let connection_id = ConnectionId::new_unchecked(id);
        behaviour
            .handle_established_outbound_connection(connection_id, peer, address, Endpoint::Dialer, PortUse::Reuse)
            .expect("a node");
        behaviour.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
            peer_id: peer,
            connection_id,
            endpoint: &ConnectedPoint::Dialer {
                address: address.clone(),
                role_override: Endpoint::Dialer,
                port_use: PortUse::Reuse,
            },
            failed_addresses: &[],
            other_established: id,
        }));
        behaviour.best_connection(&peer)
    };
    assert_eq!(best(1, &relayed), Some(ConnectionId::new_unchecked(1)));
    assert_eq!(best(2, &direct), Some(ConnectionId::new_unchecked(2)));
    assert_eq!(best(3, &relayed), Some(ConnectionId::new_unchecked(2)));
    assert_eq!(best(4, &direct), Some(ConnectionId::new_unchecked(4)));
}

#[test]
fn only_ed25519_identities_get_a_connection() {
    let (mut behaviour, _receivers) = behaviour(StreamLimits::default(), 1);
    let address = Multiaddr::empty();
    let mut connect = |peer| {
        behaviour
            .handle_established_inbound_connection(ConnectionId::new_unchecked(1), peer, &address, &address)
            .is_ok()
    };
    assert!(connect(Keypair::generate_ed25519().public().to_peer_id()));
    assert!(!connect(PeerId::random()), "a hash of some other kind of key");
}

#[tokio::test]
async fn every_request_gets_an_answer() {
    let (mut client, _own) = node(StreamLimits::default()).await;
    let stranger = PeerId::random();
    assert!(matches!(client.open(stranger, Protocol::Offer, None).await, Err(StreamError::Closed(_))));

    // A peer that speaks something else.
    let mute = Running::start(dummy::Behaviour).await;
    client.connect(&mute).await;
    assert!(matches!(
        client.open(mute.peer, Protocol::Quote, None).await,
        Err(StreamError::Unsupported { protocol: "/aitbc/quote/1", .. })
    ));

    // More at once than may wait.
    let (server, _incoming) = node(StreamLimits::default()).await;
    client.connect(&server).await;
    let peer = server.peer;
    let answers = client
        .call(move |swarm| {
            (0..3 * handler::MAX_OPENING)
                .map(|_| {
                    let (reply, answer) = oneshot::channel();
                    swarm.behaviour_mut().open(peer, Protocol::Offer, None, reply);
                    answer
                })
                .collect::<Vec<_>>()
        })
        .await;
    let mut busy = 0;
    for answer in answers {
        match answer.await.expect("there is always an answer") {
            Err(StreamError::Busy(_)) => busy += 1,
            other => assert!(other.is_ok(), "{other:?}"),
        }
    }
    assert!(busy > 0);

    // A connection that goes away in the meantime.
    let answer = client.ask(server.peer, Protocol::Job, None).await;
    drop(client);
    let _ = answer.await.expect("there is always an answer");
}

#[tokio::test]
async fn a_peer_that_never_agrees_on_a_protocol_is_given_up() {
    let limits = StreamLimits { negotiation_timeout: Duration::from_millis(100), ..StreamLimits::default() };
    let (mut server, _incoming) = node(limits).await;
    // A connection whose other end accepts no stream.
    let mut transport = running::transport(&Keypair::generate_ed25519());
    let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::Reuse };
    let silent = transport.dial(server.address.clone(), options).expect("an address").await.expect("connected");
    let peer = server
        .wait_for(|event| match event {
            SwarmEvent::ConnectionEstablished { peer_id, .. } => Some(peer_id),
            _ => None,
        })
        .await;
    let error = server.open(peer, Protocol::Offer, None).await.expect_err("nobody answers");
    assert!(matches!(error, StreamError::Timeout(after) if after == limits.negotiation_timeout), "{error}");
    drop(silent);
}

#[tokio::test]
async fn a_stream_that_nobody_takes_is_refused_and_frees_its_place() {
    let (behaviour, mut incoming) = behaviour(StreamLimits::default(), 1);
    let server = Running::start(behaviour).await;
    let (mut client, _own) = node(StreamLimits::default()).await;
    client.connect(&server).await;
    let kept = client.open(server.peer, Protocol::Offer, None).await.expect("open");
    let mut refused = client.open(server.peer, Protocol::Offer, None).await.expect("negotiated, then reset");
    assert!(!matches!(refused.receive::<String>(LIMIT).await, Ok(Some(_))));
    let peer = client.peer;
    let counts = |swarm: &mut libp2p::Swarm<Behaviour>| swarm.behaviour().refused();
    assert_eq!(server.call(counts).await, 1);
    assert_eq!(server.call(move |swarm| swarm.behaviour().live(&peer)).await, 1);
    drop(incoming.offer.recv().await.expect("the first"));
    assert_eq!(server.call(move |swarm| swarm.behaviour().live(&peer)).await, 0);
    drop(kept);
}

#[tokio::test]
async fn ten_thousand_streams_of_one_peer_stay_within_its_limits_and_harm_nobody_else() {
    const STREAMS: usize = 10_000;
    let limits = StreamLimits::default();
    let (server, mut incoming) = node(limits).await;
    let (mut attacker, _) = node(limits).await;
    let (mut honest, _own) = node(limits).await;
    attacker.connect(&server).await;
    honest.connect(&server).await;

    let attacking = attacker.peer;
    let serving = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Some(mut accepted) = incoming.job.recv().await {
            if accepted.peer.to_peer_id_bytes() == attacking.to_bytes() {
                held.push(accepted);
            } else {
                accepted.stream.send(&held.len(), LIMIT).await.expect("sent");
            }
        }
    });

    // The attacker's own end holds no more than its multiplexer allows: the first, which are the ones admitted.
    let (mut kept, mut opened, mut asked, mut most) = (Vec::new(), 0, 0, 0);
    let mut halfway = false;
    while asked < STREAMS {
        let peer = server.peer;
        let wave = handler::MAX_OPENING.min(STREAMS - asked);
        asked += wave;
        let answers = attacker
            .call(move |swarm| {
                (0..wave)
                    .map(|_| {
                        let (reply, answer) = oneshot::channel();
                        swarm.behaviour_mut().open(peer, Protocol::Job, None, reply);
                        answer
                    })
                    .collect::<Vec<_>>()
            })
            .await;
        for answer in answers {
            if let Ok(stream) = answer.await.expect("there is always an answer") {
                opened += 1;
                if kept.len() < 2 * handler::MAX_OPENING {
                    kept.push(stream);
                }
            }
        }
        most = most.max(server.call(move |swarm| swarm.behaviour().live(&attacking)).await);
        if !halfway && asked >= STREAMS / 2 {
            halfway = true;
            let mut stream = honest.open(server.peer, Protocol::Job, None).await.expect("open");
            let held: usize = stream.receive(LIMIT).await.expect("received").expect("an answer");
            assert!(held > 0, "in the middle of the flood");
        }
    }
    let mut stream = honest.open(server.peer, Protocol::Job, None).await.expect("open");
    let held: usize = stream.receive(LIMIT).await.expect("received").expect("an answer");
    assert!(held <= limits.per_protocol && most <= limits.per_protocol, "{held} held, {most} at most");
    let refused = server.call(|swarm| swarm.behaviour().refused()).await;
    assert_eq!(opened, STREAMS, "the multiplexer carries them all");
    assert_eq!(refused as usize + held, opened);
    serving.abort();
}
