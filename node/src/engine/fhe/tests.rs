use super::{
    fixtures::{LINEAR, MODEL, Served, linear, package},
    keys::Offered,
};
use crate::{
    clock::now_ms,
    engine::{EngineError, EngineEvent, Generation},
};
use aitbc_crypto::fhe::{ClientKey, Package, Profile};
use aitbc_protocol::{
    NodeId,
    bytes::{BoundedBytes, Digest},
    job::{Finish, Input, JobSpec},
    private,
    sealed::Sealed,
};
use std::time::Duration;

/// Longer than anything here takes, even on a busy machine.
const LONG: Duration = Duration::from_secs(60);

fn client(n: u8) -> NodeId {
    aitbc_crypto::SecretKey::from_bytes(&[n; 32]).node_id()
}

fn job(served: &Served, name: &str, package: &Package, key: &ClientKey, values: [f64; 2]) -> JobSpec {
    let interface = package.interface();
    let needs_key = interface.bootstraps() > 0;
    let sealed = Sealed {
        profile: package.profile.name().parse().unwrap(),
        evaluation_key: needs_key.then(|| Digest::of(&key.evaluation_key())),
        values: 2,
        ciphertext: BoundedBytes::new(key.encrypt(&interface, &values).unwrap()).unwrap(),
    };
    private::spec(name.parse().unwrap(), served.weights(name), sealed, interface.bootstraps())
}

fn keep(served: &Served, client: NodeId, key: &ClientKey) {
    let bytes = key.evaluation_key();
    let offered = served.engine.evaluation_keys().offer(client, Digest::of(&bytes), bytes.len() as u64, now_ms());
    let Ok(Offered::Wanted(mut upload)) = offered else { panic!("{offered:?}") };
    upload.take(&bytes).unwrap();
    upload.finish(now_ms()).unwrap();
}

async fn next(generation: &mut Generation) -> EngineEvent {
    tokio::time::timeout(LONG, generation.events.recv()).await.unwrap().expect("it goes on")
}

async fn answer(generation: &mut Generation) -> Vec<u8> {
    let EngineEvent::Sealed(answer) = next(generation).await else { panic!("an answer is next") };
    let last = next(generation).await;
    assert!(matches!(last, EngineEvent::Finished { finish: Finish::Stop, .. }), "{last:?}");
    answer.into_vec()
}

#[tokio::test]
async fn a_job_computes_what_it_is_allowed_and_only_its_client_reads_it() {
    let served = Served::start().await;
    let key = ClientKey::generate(Profile::Fast).unwrap();
    let (mine, other) = (client(1), client(2));
    keep(&served, mine, &key);
    let spec = job(&served, MODEL, &package(), &key, [1.5, -1.0]);
    assert_eq!(served.engine.count_tokens(&spec).await.unwrap(), 2);
    assert!(served.engine.holds_key(mine, &spec).await && !served.engine.holds_key(other, &spec).await);
    assert!(served.engine.compute(other, spec.clone(), 64).await.unwrap().is_none(), "another client's key");

    let mut generation = served.engine.compute(mine, spec, 1).await.unwrap().expect("its key is here");
    assert!(matches!(next(&mut generation).await, EngineEvent::Started));
    assert!(matches!(next(&mut generation).await, EngineEvent::Token { id: None, .. }));
    assert!(generation.events.try_recv().is_err(), "the second bootstrap is not paid for");
    generation.grant(63).await;
    assert!(matches!(next(&mut generation).await, EngineEvent::Token { id: None, .. }));
    let sealed = answer(&mut generation).await;
    let interface = package().interface();
    let read = key.decrypt(&interface, &sealed).unwrap().values[0];
    assert!((read - 1.5).abs() < 0.3, "{read}");
    let stranger = ClientKey::generate(Profile::Fast).unwrap();
    let wrong: Vec<f64> = (0..8).map(|_| stranger.decrypt(&interface, &sealed).unwrap().values[0]).collect();
    assert!((wrong[0] - 1.5).abs() > 1e-9, "another key opens something else");
}

#[tokio::test]
async fn a_model_without_bootstraps_needs_no_key() {
    let served = Served::start().await;
    let key = ClientKey::generate(Profile::Fast).unwrap();
    let spec = job(&served, LINEAR, &linear(), &key, [1.25, -0.5]);
    let mut generation = served.engine.compute(client(1), spec, 64).await.unwrap().expect("no key is asked for");
    assert!(matches!(next(&mut generation).await, EngineEvent::Started));
    let sealed = answer(&mut generation).await;
    let read = key.decrypt(&linear().interface(), &sealed).unwrap().values[0];
    assert!((read - 0.75).abs() < 0.1, "{read}");
}

#[tokio::test]
async fn what_does_not_fit_the_model_is_refused_before_anything_is_read() {
    let served = Served::start().await;
    let key = ClientKey::generate(Profile::Fast).unwrap();
    keep(&served, client(1), &key);
    let good = job(&served, MODEL, &package(), &key, [1.0, 1.0]);
    let sealed = good.input.sealed().unwrap().clone();
    let with = |sealed: Sealed| JobSpec { input: Input::Sealed(sealed), ..good.clone() };
    let cut = BoundedBytes::new(sealed.ciphertext[1..].to_vec()).unwrap();
    let cases = [
        ("bytes", with(Sealed { ciphertext: cut, ..sealed.clone() })),
        ("values", with(Sealed { values: 3, ..sealed.clone() })),
        ("profile", with(Sealed { profile: "high".parse().unwrap(), ..sealed.clone() })),
        ("bootstraps", JobSpec { max_tokens: 3, ..good.clone() }),
    ];
    for (what, spec) in cases {
        let counted = served.engine.count_tokens(&spec).await;
        assert!(matches!(&counted, Err(EngineError::Request(why)) if why.contains(what)), "{what}: {counted:?}");
        let refused = served.engine.compute(client(1), spec, 64).await;
        assert!(matches!(refused, Err(EngineError::Request(_))), "{what}: {refused:?}");
    }
    let readable = JobSpec { input: Input::Text("hello".to_owned()), ..good.clone() };
    assert!(matches!(served.engine.count_tokens(&readable).await, Err(EngineError::Unsupported(_))));
    assert!(matches!(served.engine.generate(good, 64).await, Err(EngineError::Unsupported(_))));
}

#[tokio::test]
async fn a_job_that_nobody_reads_gives_its_place_back() {
    let served = Served::start().await;
    let key = ClientKey::generate(Profile::Fast).unwrap();
    keep(&served, client(1), &key);
    for _ in 0..4 {
        // Two places: the third and fourth can only start once those before have gone.
        let spec = job(&served, MODEL, &package(), &key, [1.0, 1.0]);
        let started = tokio::time::timeout(LONG, async {
            loop {
                match served.engine.compute(client(1), spec.clone(), 1).await {
                    Err(EngineError::Full) => tokio::task::yield_now().await,
                    started => return started,
                }
            }
        });
        drop(started.await.expect("a place comes back").unwrap());
    }
}

#[tokio::test]
async fn what_clients_are_told_reads_back() {
    let served = Served::start().await;
    let name = MODEL.parse().unwrap();
    let described = served.engine.describe(&name, None).unwrap();
    assert_eq!(described.weights, served.weights(MODEL));
    let read: aitbc_crypto::fhe::Interface =
        aitbc_protocol::wire::decode_payload(&described.interface, private::MAX_INTERFACE).unwrap();
    assert_eq!(read, package().interface());
    assert!(served.engine.describe(&name, Some(&Digest([9; 32]))).is_none());
    let model = served.engine.model(&name, None).unwrap();
    let offer = model.private.unwrap();
    assert_eq!((offer.profile.as_str(), offer.bootstraps), ("fast", 2));
    assert_eq!(offer.key_bytes, Profile::Fast.evaluation_key_bytes() as u64);
    assert!(model.speed > 0 && model.context == 4);
    assert!(served.engine.status().has_changed().is_ok(), "whoever watches the engines goes on watching");
    assert_eq!(served.engine.model(&LINEAR.parse().unwrap(), None).unwrap().private.unwrap().key_bytes, 0);
}
