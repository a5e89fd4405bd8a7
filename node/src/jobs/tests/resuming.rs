//! Jobs whose streams break: what the provider keeps, for whom, and for how long.

use super::*;
use crate::jobs::resuming;

impl Nodes {
    /// A stream of `client` that asks to go on with the job.
    async fn resume_as(&self, key: &SecretKey, attempt: u32, next: u32) -> Result<FramedStream, Rejection> {
        let (mut client, stream) = FramedStream::pair(key.node_id(), provider_key().node_id());
        let metrics = JobMetrics::new(&Metrics::default());
        let serving = resuming::serve(&self.desk, &metrics, stream, quote().nonce, attempt, next);
        let (answer, ()) = tokio::join!(receive(&mut client), serving);
        match answer {
            Some(ToClient::Resumed) => Ok(client),
            Some(ToClient::Rejected(rejection)) => Err(rejection),
            other => panic!("expected to go on, got {other:?}"),
        }
    }

    async fn resume(&self, attempt: u32, next: u32) -> Result<FramedStream, Rejection> {
        self.resume_as(&client_key(), attempt, next).await
    }

    async fn until_running(&self, condition: impl Fn(&crate::jobs::RunningJob) -> bool) {
        let waiting = async {
            while !self.desk.running().first().is_some_and(&condition) {
                tokio::task::yield_now().await;
            }
        };
        timeout(LONG, waiting).await.expect("the job comes to that");
    }
}

impl Scene {
    /// Loses the stream.
    fn cut(&mut self) {
        self.client = FramedStream::pair(client_key().node_id(), provider_key().node_id()).0;
    }
}

fn gauge(nodes: &Nodes, line: &str) -> bool {
    nodes.metrics.encode().lines().any(|found| found == line)
}

#[tokio::test]
async fn a_job_goes_on_over_another_stream_where_the_first_broke_off() {
    let nodes = nodes();
    let mut scene = nodes.run().await;
    scene.engine.tokens(5).await;
    scene.read(5).await;
    scene.cut();
    nodes.until_running(|job| job.parked).await;
    assert!(gauge(&nodes, "aitbc_jobs_parked 1"));
    // The engine goes on meanwhile.
    scene.engine.tokens(5).await;
    scene.client = nodes.resume(1, scene.chunks).await.unwrap();
    scene.read(10).await;
    assert!(gauge(&nodes, "aitbc_jobs_parked 0") && gauge(&nodes, "aitbc_jobs_resumed_total 1"));
    scene.engine.finish(Finish::Stop).await;
    let (signed, receipt, _) = scene.finished().await;
    assert_eq!(receipt.completion_tokens, 10, "what was sent twice is billed once");
    nodes.pay_up(&mut scene, signed).await;
    scene.joined().await;
    assert_eq!(nodes.provider_state().await, JobState::Completed);
}

#[tokio::test]
async fn what_was_sent_into_a_broken_path_is_sent_again() {
    let nodes = nodes();
    let mut scene = nodes.run().await;
    scene.engine.tokens(1).await;
    scene.read(1).await;
    scene.engine.tokens(3).await;
    nodes.until_running(|job| job.tokens == 4).await;
    scene.cut();
    scene.client = nodes.resume(1, scene.chunks).await.unwrap();
    scene.read(4).await;
    assert_eq!(scene.seen, [0, 1, 2, 3]);
}

#[tokio::test]
async fn a_parked_job_goes_on_to_the_end_of_the_window_and_no_further() {
    let nodes = nodes();
    let mut scene = nodes.run().await;
    scene.cut();
    nodes.until_running(|job| job.parked).await;
    scene.engine.tokens(WINDOW_TOKENS + 10).await;
    nodes.until_running(|job| job.paused).await;
    scene.client = nodes.resume(1, 0).await.unwrap();
    scene.read(WINDOW_TOKENS).await;
    let early = timeout(Duration::from_millis(50), scene.client.receive::<ToClient>(MAX_JOB_FRAME)).await;
    assert!(early.is_err(), "nothing more before a cheque: {early:?}");
    let cheque = nodes.cheque(10).await;
    scene.send(ToProvider::Ack { next: 10, cheque }).await;
    scene.read(WINDOW_TOKENS + 10).await;
}

#[tokio::test]
async fn the_higher_attempt_cuts_the_older_stream_and_a_lower_one_is_refused() {
    let nodes = nodes();
    let mut scene = nodes.run().await;
    for count in 1..=2 {
        scene.engine.tokens(1).await;
        scene.read(count).await;
    }
    // The provider has not noticed that the first stream is lost.
    let mut newer = nodes.resume(3, 1).await.unwrap();
    assert!(receive(&mut scene.client).await.is_none(), "the older stream is cut");
    for attempt in [0, 1, 3] {
        assert_eq!(nodes.resume(attempt, 1).await.unwrap_err(), Rejection::StaleAttempt { newest: 3 });
    }
    let Some(ToClient::Chunk(chunk)) = receive(&mut newer).await else { panic!("no chunk") };
    assert_eq!((chunk.first, chunk.count), (1, 1), "those refused did no harm");
}

#[tokio::test]
async fn only_its_client_goes_on_with_a_job() {
    let nodes = nodes();
    let mut scene = nodes.run().await;
    let stranger = SecretKey::from_bytes(&[9; 32]);
    assert_eq!(nodes.resume_as(&stranger, 1, 0).await.unwrap_err(), Rejection::UnknownJob);
    scene.engine.tokens(1).await;
    scene.read(1).await;
}

#[tokio::test]
async fn nobody_goes_on_where_nothing_is_kept() {
    let nodes = nodes();
    let mut scene = nodes.run().await;
    scene.engine.tokens(3).await;
    scene.read(3).await;
    let unsent = nodes.resume(1, 100).await.unwrap_err();
    assert!(matches!(&unsent, Rejection::Invalid(why) if why.as_str().contains("chunks were sent")), "{unsent:?}");
    let cheque = nodes.cheque(3).await;
    scene.send(ToProvider::Ack { next: 3, cheque }).await;
    assert_eq!(scene.engine.granted().await, 3);
    let gone = nodes.resume(1, 0).await.unwrap_err();
    assert!(matches!(&gone, Rejection::Invalid(why) if why.as_str().contains("acknowledged")), "{gone:?}");
    scene.engine.tokens(1).await;
    scene.read(4).await;
}

#[tokio::test]
async fn a_client_that_does_not_come_back_ends_the_job() {
    let mut nodes = nodes();
    nodes.kept = Duration::from_millis(150);
    let mut scene = nodes.run().await;
    scene.engine.tokens(7).await;
    scene.read(7).await;
    let Scene { engine, client, task, .. } = scene;
    drop(client);
    engine.dropped().await;
    timeout(LONG, task).await.unwrap().unwrap();
    let record = nodes.provider.job(Side::Provider, quote().nonce).await.unwrap().unwrap();
    assert_eq!((record.state, record.finish), (JobState::Delivered, Some(Finish::Cancelled)));
    let receipt = record.receipt.unwrap().read_unverified().unwrap();
    assert_eq!(receipt.completion_tokens, 7);
    assert!(nodes.desk.running().is_empty());
    assert_eq!(nodes.resume(1, 1).await.unwrap_err(), Rejection::UnknownJob);
}

#[tokio::test]
async fn an_answer_that_nobody_comes_for_bills_what_went_out() {
    let mut nodes = nodes();
    nodes.kept = Duration::from_millis(150);
    let mut scene = nodes.run().await;
    scene.engine.tokens(4).await;
    scene.read(4).await;
    scene.cut();
    nodes.until_running(|job| job.parked).await;
    scene.engine.tokens(3).await;
    scene.engine.finish(Finish::Stop).await;
    scene.joined().await;
    let record = nodes.provider.job(Side::Provider, quote().nonce).await.unwrap().unwrap();
    let receipt = record.receipt.unwrap().read_unverified().unwrap();
    assert_eq!((receipt.completion_tokens, receipt.finish), (4, Finish::Cancelled), "the answer is not whole");
}

#[tokio::test]
async fn a_client_that_missed_the_end_gets_the_rest_and_the_receipt() {
    let nodes = nodes();
    let mut scene = nodes.run().await;
    scene.engine.tokens(2).await;
    scene.read(2).await;
    scene.engine.tokens(2).await;
    nodes.until_running(|job| job.tokens == 4).await;
    scene.engine.finish(Finish::Stop).await;
    scene.cut();
    while nodes.provider_state().await == JobState::Running {
        tokio::task::yield_now().await;
    }
    assert!(nodes.desk.running().is_empty(), "the slot is free");
    let mut lost = nodes.resume(1, scene.chunks).await.unwrap();
    assert!(matches!(receive(&mut lost).await, Some(ToClient::Chunk(_))));
    drop(lost);
    // Again, for the receipt was lost too.
    scene.client = nodes.resume(2, scene.chunks).await.unwrap();
    let (signed, receipt, _) = scene.finished().await;
    assert_eq!((receipt.completion_tokens, scene.seen.as_slice()), (4, [0, 1, 2, 3].as_slice()));
    nodes.pay_up(&mut scene, signed).await;
    scene.joined().await;
    assert_eq!(nodes.provider_state().await, JobState::Completed);
}

#[tokio::test]
async fn a_receipt_is_kept_until_its_client_has_it_though_all_was_paid_before() {
    let nodes = nodes();
    let mut scene = nodes.run().await;
    scene.engine.tokens(5).await;
    scene.read(5).await;
    let cheque = nodes.cheque(5).await;
    scene.send(ToProvider::Ack { next: 5, cheque }).await;
    assert_eq!(scene.engine.granted().await, 5);
    scene.engine.say(EngineEvent::Finished { finish: Finish::Stop, text: " held back".to_owned() }).await;
    while nodes.provider_state().await == JobState::Running {
        tokio::task::yield_now().await;
    }
    scene.cut();
    scene.client = nodes.resume(1, scene.chunks).await.unwrap();
    let Some(ToClient::Chunk(tail)) = receive(&mut scene.client).await else { panic!("no tail") };
    assert_eq!((tail.count, tail.text.as_str()), (0, " held back"));
    assert_eq!(scene.finished().await.1.completion_tokens, 5);
    scene.send(ToProvider::Done).await;
    let said = receive(&mut scene.client).await;
    assert!(matches!(said, Some(ToClient::Paid { total }) if total == quote().total(5).unwrap()), "{said:?}");
    scene.joined().await;
    assert_eq!(nodes.resume(2, 2).await.unwrap_err(), Rejection::UnknownJob, "nothing is kept for who has it all");
}

#[tokio::test]
async fn whoever_comes_back_again_and_again_and_does_not_pay_loses_the_slot() {
    let mut nodes = nodes();
    nodes.kept = Duration::from_millis(200);
    let mut scene = nodes.start(&quote(), Binding::Tokens, Duration::from_millis(200)).await;
    scene.engine.tokens(WINDOW_TOKENS).await;
    scene.read(WINDOW_TOKENS).await;
    let mut attempt = 0;
    let returning = async {
        loop {
            attempt += 1;
            match nodes.resume(attempt, 0).await {
                Ok(stream) => scene.client = stream,
                Err(Rejection::UnknownJob) => return,
                Err(other) => panic!("{other}"),
            }
            if nodes.desk.running().is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LONG, returning).await.expect("the job ends although its client comes back");
    assert!(nodes.desk.running().is_empty(), "the slot is free");
    assert!(attempt > 3, "it did come back");
}

#[tokio::test]
async fn whoever_comes_back_only_to_leave_again_loses_the_slot() {
    let mut nodes = nodes();
    nodes.kept = Duration::from_millis(200);
    let mut scene = nodes.start(&quote(), Binding::Tokens, LONG).await;
    scene.engine.tokens(WINDOW_TOKENS).await;
    scene.read(WINDOW_TOKENS).await;
    scene.cut();
    let mut attempt = 0;
    let returning = async {
        while !nodes.desk.running().is_empty() {
            tokio::time::sleep(nodes.kept / 2).await;
            attempt += 1;
            match nodes.resume(attempt, 0).await {
                Ok(stream) => drop(stream),
                Err(Rejection::UnknownJob) => return,
                Err(other) => panic!("{other}"),
            }
        }
    };
    timeout(LONG, returning).await.expect("the job ends although its client comes back");
    assert!(attempt > 1, "it did come back");
}

#[tokio::test]
async fn a_stopping_node_does_not_wait_for_who_is_away() {
    let nodes = nodes();
    let mut scene = nodes.run().await;
    scene.engine.tokens(3).await;
    scene.read(3).await;
    scene.cut();
    nodes.until_running(|job| job.parked).await;
    nodes.closing.cancel();
    scene.joined().await;
    let record = nodes.provider.job(Side::Provider, quote().nonce).await.unwrap().unwrap();
    assert_eq!((record.state, record.finish), (JobState::Delivered, Some(Finish::Failed)));
}

#[tokio::test]
async fn settling_ends_a_parked_job() {
    let nodes = nodes();
    let mut scene = nodes.run().await;
    scene.engine.tokens(30).await;
    scene.read(30).await;
    scene.cut();
    nodes.until_running(|job| job.parked).await;
    let cheque = nodes.cheque(30).await;
    let (mut client, stream) = FramedStream::pair(client_key().node_id(), provider_key().node_id());
    settle::serve(&nodes.provider, &nodes.desk, stream, quote().nonce, Some(cheque)).await;
    let Some(ToClient::Settled { receipt, .. }) = receive(&mut client).await else { panic!("not settled") };
    assert_eq!(receipt.unwrap().read_unverified().unwrap().completion_tokens, 30);
    scene.joined().await;
    assert_eq!(nodes.provider_state().await, JobState::Cancelled);
    assert_eq!(nodes.resume(1, 1).await.unwrap_err(), Rejection::UnknownJob);
}
