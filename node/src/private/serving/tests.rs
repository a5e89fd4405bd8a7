use super::*;
use crate::engine::fhe::fixtures::{MODEL, Served};
use aitbc_crypto::fhe::Profile;
use aitbc_protocol::{bytes::BoundedBytes, sealed::MAX_PART};

fn node(n: u8) -> NodeId {
    aitbc_crypto::SecretKey::from_bytes(&[n; 32]).node_id()
}

/// A client's end of a stream to a provider.
struct Client {
    stream: FramedStream,
    serving: tokio::task::JoinHandle<()>,
}

impl Client {
    fn new(served: &Served, client: u8) -> Self {
        let (near, far) = FramedStream::pair(node(client), node(100));
        let incoming = IncomingStream { peer: node(client), stream: far };
        let serving = tokio::spawn(serve(served.engine.clone(), incoming, Ok(())));
        Self { stream: near, serving }
    }

    async fn say(&mut self, message: ToKeeper) {
        self.stream.send(&message, MAX_FHE_FRAME).await.unwrap();
    }

    async fn hear(&mut self) -> ToKeyOwner {
        self.stream.receive(MAX_FHE_FRAME).await.unwrap().expect("an answer")
    }

    async fn ask(&mut self, message: ToKeeper) -> ToKeyOwner {
        self.say(message).await;
        self.hear().await
    }

    async fn part(&mut self, bytes: &[u8]) {
        self.say(ToKeeper::Part(BoundedBytes::new(bytes.to_vec()).unwrap())).await;
    }

    async fn send(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(MAX_PART) {
            self.part(part).await;
        }
    }

    /// The path breaks, and the provider has noticed.
    async fn breaks(self) {
        drop(self.stream);
        self.serving.await.unwrap();
    }
}

/// Bytes of the length of a key: what they mean is nobody's concern before a job.
fn key(fill: u8) -> (Vec<u8>, Digest) {
    let bytes = vec![fill; Profile::Fast.evaluation_key_bytes()];
    let digest = Digest::of(&bytes);
    (bytes, digest)
}

fn ask(digest: Digest) -> ToKeeper {
    ToKeeper::Key { profile: "fast".parse().unwrap(), digest }
}

fn refusal(answer: ToKeyOwner) -> KeyRefusal {
    match answer {
        ToKeyOwner::Rejected(refusal) => refusal,
        answer => panic!("not refused: {answer:?}"),
    }
}

#[tokio::test]
async fn a_key_is_sent_once_over_as_many_streams_as_it_takes() {
    let served = Served::start().await;
    let (bytes, digest) = key(1);
    let mut client = Client::new(&served, 1);
    assert_eq!(client.ask(ask(digest)).await, ToKeyOwner::SendFrom { offset: 0 });
    client.send(&bytes[..2 * MAX_PART]).await;
    client.breaks().await;
    let mut client = Client::new(&served, 1);
    let ToKeyOwner::SendFrom { offset } = client.ask(ask(digest)).await else { panic!("it goes on") };
    assert_eq!(offset, 2 * MAX_PART as u64);
    client.send(&bytes[2 * MAX_PART..]).await;
    assert_eq!(client.hear().await, ToKeyOwner::Stored);
    let mut client = Client::new(&served, 1);
    assert!(matches!(client.ask(ask(digest)).await, ToKeyOwner::Held { .. }));
    let mut other = Client::new(&served, 2);
    assert_eq!(other.ask(ask(digest)).await, ToKeyOwner::SendFrom { offset: 0 }, "it is the first one's");
}

#[tokio::test]
async fn hostile_uploads_are_refused_and_leave_nothing() {
    let served = Served::start().await;
    let (bytes, digest) = key(1);
    let unknown = ToKeeper::Key { profile: "widest".parse().unwrap(), digest };
    assert_eq!(refusal(Client::new(&served, 1).ask(unknown).await), KeyRefusal::UnknownProfile);
    let part = ToKeeper::Part(BoundedBytes::new(vec![1]).unwrap());
    assert_eq!(refusal(Client::new(&served, 1).ask(part).await), KeyRefusal::OutOfTurn);

    let mut client = Client::new(&served, 1);
    client.ask(ask(key(2).1)).await;
    client.send(&bytes).await;
    assert_eq!(refusal(client.hear().await), KeyRefusal::Digest);

    let mut client = Client::new(&served, 1);
    client.ask(ask(digest)).await;
    let most = bytes.len() / MAX_PART * MAX_PART;
    client.send(&bytes[..most]).await;
    client.part(&vec![1; MAX_PART]).await;
    assert!(matches!(refusal(client.hear().await), KeyRefusal::Length { .. }));

    let mut client = Client::new(&served, 2);
    client.ask(ask(digest)).await;
    client.part(&[]).await;
    assert!(matches!(refusal(client.hear().await), KeyRefusal::Length { .. }), "parts of nothing go on for ever");
    assert!(served.engine.evaluation_keys().find(&node(1), digest, bytes.len() as u64).is_none());
}

#[tokio::test]
async fn models_are_described_to_whoever_asks() {
    let served = Served::start().await;
    let describe = |weights| ToKeeper::Describe { model: MODEL.parse().unwrap(), weights };
    let answer = Client::new(&served, 1).ask(describe(None)).await;
    assert!(matches!(answer, ToKeyOwner::Interface { weights, .. } if weights == served.weights(MODEL)));
    let answer = Client::new(&served, 1).ask(describe(Some(Digest([0; 32])))).await;
    assert_eq!(refusal(answer), KeyRefusal::UnknownModel);
    let (mut near, far) = FramedStream::pair(node(1), node(100));
    let incoming = IncomingStream { peer: node(1), stream: far };
    serve(served.engine.clone(), incoming, Err(Busy { retry_ms: 70 })).await;
    let told: Option<ToKeyOwner> = near.receive(MAX_FHE_FRAME).await.unwrap();
    assert_eq!(told, Some(ToKeyOwner::Rejected(KeyRefusal::Busy { retry_ms: 70 })));
}
