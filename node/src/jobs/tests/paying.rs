//! What clients acknowledge and pay, and what they do not.

use super::*;

#[tokio::test]
async fn exactly_one_window_goes_out_unpaid_even_from_an_engine_that_goes_on() {
    let nodes = nodes();
    let mut scene = nodes.run().await;
    scene.engine.tokens(150).await;
    scene.read(WINDOW_TOKENS).await;
    while !nodes.desk.running()[0].paused {
        tokio::task::yield_now().await;
    }
    assert_eq!(nodes.desk.running()[0].tokens, WINDOW_TOKENS);
    let cheque = nodes.cheque(10).await;
    scene.send(ToProvider::Ack { next: 10, cheque }).await;
    scene.read(WINDOW_TOKENS + 10).await;
    assert_eq!(scene.engine.granted().await, 10);
    while !nodes.desk.running()[0].paused {
        tokio::task::yield_now().await;
    }
    scene.send(ToProvider::Cancel).await;
    let (_, receipt, _) = scene.finished().await;
    assert_eq!(receipt.completion_tokens, WINDOW_TOKENS + 10, "what was held back is not billed");
}

#[tokio::test]
async fn a_client_that_does_not_pay_gets_a_receipt_and_a_debt() {
    let nodes = nodes();
    let mut scene = nodes.start(&quote(), Binding::Tokens, Duration::from_millis(200)).await;
    scene.engine.tokens(WINDOW_TOKENS).await;
    let (signed, receipt, failure) = scene.finished().await;
    assert_eq!((receipt.completion_tokens, receipt.finish), (WINDOW_TOKENS, Finish::Cancelled));
    assert!(failure.unwrap().as_str().contains("no cheque"));
    assert!(nodes.desk.running().is_empty(), "the slot is free while the cheque is waited for");
    assert_eq!(nodes.provider_state().await, JobState::Delivered);
    assert_eq!(nodes.provider.totals().await.unwrap().owed_to_us, receipt.total);
    nodes.pay_up(&mut scene, signed).await;
    scene.joined().await;
    assert_eq!(nodes.provider_state().await, JobState::Cancelled, "a late cheque settles it");
}

#[tokio::test]
async fn a_cheque_said_again_buys_no_time() {
    let nodes = nodes();
    let mut scene = nodes.start(&quote(), Binding::Tokens, Duration::from_millis(200)).await;
    scene.engine.tokens(WINDOW_TOKENS + 10).await;
    scene.read(WINDOW_TOKENS).await;
    let cheque = nodes.cheque(10).await;
    let ack = ToProvider::Ack { next: 10, cheque };
    scene.send(ack.clone()).await;
    scene.read(WINDOW_TOKENS + 10).await;
    let repeating = async {
        loop {
            scene.client.send(&ack, MAX_JOB_FRAME).await.unwrap();
            let answer = scene.client.receive::<ToClient>(MAX_JOB_FRAME);
            if let Ok(answer) = timeout(Duration::from_millis(20), answer).await {
                return answer.unwrap();
            }
        }
    };
    let answer = timeout(LONG, repeating).await.expect("the job ends although its client talks");
    let Some(ToClient::Finished { receipt, failure, .. }) = answer else {
        panic!("expected the end, got {answer:?}")
    };
    assert_eq!(receipt.read_unverified().unwrap().finish, Finish::Cancelled);
    assert!(failure.unwrap().as_str().contains("no cheque"));
    assert!(nodes.desk.running().is_empty(), "the slot is free");
}

#[tokio::test]
async fn tokens_that_were_not_sent_cannot_be_acknowledged() {
    let nodes = nodes();
    let mut scene = nodes.run().await;
    scene.engine.tokens(5).await;
    scene.read(5).await;
    let cheque = nodes.cheque(6).await;
    scene.send(ToProvider::Ack { next: 6, cheque }).await;
    let (_, receipt, failure) = scene.finished().await;
    assert_eq!((receipt.completion_tokens, receipt.finish), (5, Finish::Cancelled));
    assert!(failure.unwrap().as_str().contains("6 tokens of 5"));
}

#[tokio::test]
async fn a_cheque_that_takes_back_what_was_promised_is_evidence() {
    let mut nodes = nodes();
    let mut scene = nodes.run().await;
    scene.engine.tokens(30).await;
    scene.read(30).await;
    let first = nodes.cheque(10).await;
    let held: Cheque = signing::open(&first, &network()).unwrap();
    scene.send(ToProvider::Ack { next: 10, cheque: first }).await;
    let job_total = quote().total(20).unwrap();
    let lower = Cheque { sequence: held.sequence + 1, cumulative: MicroCredits(0), job_total, tokens: 20, ..held };
    let cheque = signing::seal(&client_key(), &network(), &lower).unwrap();
    scene.send(ToProvider::Ack { next: 20, cheque }).await;
    let (_, receipt, failure) = scene.finished().await;
    assert_eq!(receipt.finish, Finish::Cancelled);
    assert!(failure.unwrap().as_str().contains("cheque refused"));
    let evidence = nodes.accused.try_recv().expect("told before the job ends");
    assert_eq!(aitbc_crypto::evidence::verify(&evidence, &network()), Ok(Fault::Cheques));
    assert_eq!(evidence.accused(), client_key().node_id());
}

#[tokio::test]
async fn an_acknowledgement_and_its_cheque_say_the_same() {
    let nodes = nodes();
    let mut scene = nodes.run().await;
    scene.engine.tokens(5).await;
    scene.read(5).await;
    let cheque = nodes.cheque(2).await;
    scene.send(ToProvider::Ack { next: 5, cheque }).await;
    let (_, receipt, failure) = scene.finished().await;
    assert_eq!(receipt.finish, Finish::Cancelled);
    assert!(failure.is_some());
}
