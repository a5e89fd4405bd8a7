//! Clients that come back to settle.

use super::*;

#[tokio::test]
async fn settling_ends_the_running_job_first_and_gets_its_receipt() {
    let nodes = nodes();
    let mut scene = nodes.run().await;
    scene.engine.tokens(30).await;
    scene.read(30).await;
    let cheque = nodes.cheque(20).await;
    let (mut client, stream) = FramedStream::pair(client_key().node_id(), provider_key().node_id());
    settle::serve(&nodes.provider, &nodes.desk, stream, quote().nonce, Some(cheque)).await;
    let Some(ToClient::Settled { paid, receipt }) = receive(&mut client).await else { panic!("not settled") };
    assert_eq!(paid, quote().total(20).unwrap());
    let receipt = receipt.unwrap().read_unverified().unwrap();
    assert_eq!((receipt.completion_tokens, receipt.finish), (30, Finish::Cancelled));
    assert!(matches!(receipt.output, OutputDigest::Tokens(_)), "the end was seen, nothing is lost");
    scene.engine.dropped().await;
    timeout(LONG, scene.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn nobody_settles_the_job_of_another() {
    let nodes = nodes();
    let mut scene = nodes.run().await;
    let stranger = SecretKey::from_bytes(&[9; 32]).node_id();
    let (mut other, stream) = FramedStream::pair(stranger, provider_key().node_id());
    settle::serve(&nodes.provider, &nodes.desk, stream, quote().nonce, None).await;
    assert!(matches!(receive(&mut other).await, Some(ToClient::Rejected(Rejection::Invalid(_)))));
    scene.engine.tokens(1).await;
    scene.read(1).await;
    assert_eq!(nodes.desk.running().len(), 1);
}

#[tokio::test]
async fn a_job_that_never_started_settles_to_nothing() {
    let nodes = nodes();
    let (mut client, stream) = FramedStream::pair(client_key().node_id(), provider_key().node_id());
    settle::serve(&nodes.provider, &nodes.desk, stream, quote().nonce, None).await;
    let settled = receive(&mut client).await;
    assert!(matches!(settled, Some(ToClient::Settled { paid: MicroCredits::ZERO, receipt: None })));
}
