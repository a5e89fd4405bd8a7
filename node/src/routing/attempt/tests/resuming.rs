//! How a client goes on with a job whose stream broke, with a provider that a script plays.

use super::*;

/// A network on which every stream that the client opens reaches the script.
fn network_to(deal: &Deal) -> (impl Fn() -> Opened + Send + Sync, mpsc::Receiver<FramedStream>) {
    let (client, provider) = (deal.client.node_id(), deal.provider_id());
    let (streams, opened) = mpsc::channel(64);
    let open = move || -> Opened {
        let (near, far) = FramedStream::pair(client, provider);
        let sent = streams.try_send(far);
        Box::pin(std::future::ready(sent.map(|()| near).map_err(|_| NetworkError::Stopped)))
    };
    (open, opened)
}

impl Peer<'_> {
    /// Loses the stream and waits for the client on the next one.
    async fn another_stream(&mut self, opened: &mut mpsc::Receiver<FramedStream>) {
        self.stream = FramedStream::pair(self.deal.client.node_id(), self.deal.provider_id()).1;
        self.stream = opened.recv().await.expect("the client opens another stream");
    }

    /// The same, where it goes on with its job: its attempt and the first chunk it misses.
    async fn next_stream(&mut self, opened: &mut mpsc::Receiver<FramedStream>) -> (u32, u32) {
        self.another_stream(opened).await;
        match self.receive().await {
            Some(ToProvider::Resume { job, quote, attempt, next }) => {
                assert_eq!((job, quote), (self.deal.quote.job, self.deal.quote.nonce));
                (attempt, next)
            }
            other => panic!("{other:?} instead of a resumption"),
        }
    }
}

async fn play_paths(
    deal: &Deal,
    script: impl AsyncFnOnce(&mut Peer<'_>, &mut mpsc::Receiver<FramedStream>),
) -> Played {
    let (open, mut opened) = network_to(deal);
    let (updates, mut listener) = mpsc::channel(1024);
    let report = play_over(deal, &updates, &open, &stays, async |peer| script(peer, &mut opened).await).await;
    drop(updates);
    let mut seen = Vec::new();
    while let Some(update) = listener.recv().await {
        seen.push(update);
    }
    Played { report, updates: seen, record: record(deal).await }
}

fn resumptions(played: &Played) -> usize {
    played.updates.iter().filter(|update| matches!(update, JobUpdate::Resumed { .. })).count()
}

#[tokio::test]
async fn a_cheque_that_was_on_its_way_goes_out_again() {
    let deal = plain();
    let played = play_paths(&deal, async |peer, opened| {
        peer.admit().await;
        peer.generate(32).await;
        let first = peer.take_ack().await;
        let chunks = peer.tokens.len() as u32;
        assert_eq!(peer.next_stream(opened).await, (1, chunks));
        peer.send(&ToClient::Resumed).await;
        let again = peer.take_ack().await;
        assert_eq!(again, first, "the same cheque, not another one");
        peer.generate(8).await;
        peer.finish_well(Finish::Stop).await;
    })
    .await;
    assert!(matches!(played.report.ended, Ended::Whole(Finish::Stop)), "{:?}", played.report.ended);
    let owed = deal.quote.total(40).unwrap();
    assert_eq!((played.record.paid, played.report.paid), (owed, owed));
    assert_eq!(resumptions(&played), 1);
    let told: Vec<u64> = played
        .updates
        .iter()
        .filter_map(|update| match update {
            JobUpdate::Paid { sequence, .. } => Some(*sequence),
            _ => None,
        })
        .collect();
    assert!(told.is_sorted_by(|one, next| one < next), "no cheque is told twice: {told:?}");
}

#[tokio::test]
async fn a_provider_that_does_not_hold_the_job_is_asked_once() {
    let refusals = [
        Rejection::UnknownJob,
        Rejection::StaleAttempt { newest: 9 },
        Rejection::Invalid(Line::lossy("chunks before 7 were acknowledged")),
    ];
    for refusal in refusals {
        let deal = plain();
        let played = play_paths(&deal, async |peer, opened| {
            peer.admit().await;
            peer.generate(10).await;
            assert_eq!(peer.next_stream(opened).await, (1, 10));
            peer.send(&ToClient::Rejected(refusal.clone())).await;
            assert!(peer.receive().await.is_none());
            assert!(opened.try_recv().is_err(), "once");
        })
        .await;
        assert!(
            matches!(&played.report.ended, Ended::Broken { reason, stalled: false, .. }
                if reason.contains(&refusal.to_string())),
            "{:?}",
            played.report.ended
        );
        assert_eq!(played.report.tokens.len(), 10, "the answer goes on elsewhere after these");
    }
}

#[tokio::test]
async fn a_provider_that_is_busy_is_asked_again_with_a_higher_attempt() {
    let deal = plain();
    let played = play_paths(&deal, async |peer, opened| {
        peer.admit().await;
        peer.generate(3).await;
        assert_eq!(peer.next_stream(opened).await, (1, 3));
        peer.send(&ToClient::Rejected(Rejection::RateLimited { retry_ms: 1 })).await;
        // One that closes without an answer is a path that broke again.
        assert_eq!(peer.next_stream(opened).await, (2, 3));
        assert_eq!(peer.next_stream(opened).await, (3, 3));
        peer.send(&ToClient::Resumed).await;
        peer.generate(3).await;
        peer.finish_well(Finish::Length).await;
    })
    .await;
    assert!(matches!(played.report.ended, Ended::Whole(Finish::Length)), "{:?}", played.report.ended);
    assert_eq!((played.report.count, resumptions(&played)), (6, 1));
}

#[tokio::test]
async fn a_path_that_stays_away_is_given_up() {
    let deal = plain();
    let played = play(&deal, async |peer| {
        peer.admit().await;
        peer.generate(5).await;
        peer.stream.close().await.unwrap();
    })
    .await;
    let Ended::Broken { reason, stalled: false, receipted: false } = &played.report.ended else {
        panic!("{:?}", played.report.ended)
    };
    assert!(reason.contains("no path to it within 300ms"), "{reason}");
    assert!(played.updates.iter().any(|update| matches!(update, JobUpdate::PathLost { .. })));
    assert_eq!(resumptions(&played), 0);
}

#[tokio::test]
async fn leaving_while_the_path_is_lost_ends_at_once() {
    let deal = plain();
    let (updates, listener) = mpsc::channel(1024);
    let mut listener = Some(listener);
    let (tried, mut tries) = mpsc::channel(1);
    let nowhere = || -> Opened {
        let tried = tried.clone();
        Box::pin(async move {
            tried.send(()).await.unwrap();
            std::future::pending().await
        })
    };
    let report = play_over(&deal, &updates, &nowhere, &stays, async |peer| {
        peer.admit().await;
        peer.generate(5).await;
        peer.stream.close().await.unwrap();
        tries.recv().await.unwrap();
        drop(listener.take());
    })
    .await;
    assert!(matches!(report.ended, Ended::Cancelled), "{:?}", report.ended);
    let owed = deal.quote.total(5).unwrap();
    assert_eq!(report.paid, owed, "settling hands it over and ends the job there");
    assert!(!report.settled);
}

#[tokio::test]
async fn what_comes_twice_after_a_resumption_is_a_fault() {
    let deal = plain();
    let played = play_paths(&deal, async |peer, opened| {
        peer.admit().await;
        peer.generate(5).await;
        assert_eq!(peer.next_stream(opened).await, (1, 5));
        peer.send(&ToClient::Resumed).await;
        let chunk = peer.chunk(1);
        peer.send(&ToClient::Chunk(Chunk { first: 4, ..chunk })).await;
    })
    .await;
    assert!(matches!(played.report.ended, Ended::Broken { .. }), "{:?}", played.report.ended);
    assert_eq!(played.report.count, 5);
    assert!(played.record.refused);
}

#[tokio::test]
async fn a_resumption_answered_with_something_else_is_a_fault() {
    let deal = plain();
    let played = play_paths(&deal, async |peer, opened| {
        peer.admit().await;
        peer.generate(5).await;
        peer.next_stream(opened).await;
        peer.send(&ToClient::Accepted { queued: 0 }).await;
    })
    .await;
    assert!(matches!(played.report.ended, Ended::Broken { .. }), "{:?}", played.report.ended);
    assert!(played.record.refused);
}

#[tokio::test]
async fn a_job_whose_admission_was_lost_on_the_way_goes_on() {
    let deal = plain();
    let played = play_paths(&deal, async |peer, opened| {
        assert!(matches!(peer.receive().await, Some(ToProvider::Open { .. })));
        // Nobody knows whether it arrived: the client opens once more, and its quote says.
        peer.another_stream(opened).await;
        assert!(matches!(peer.receive().await, Some(ToProvider::Open { .. })));
        peer.send(&ToClient::Rejected(Rejection::QuoteUsed)).await;
        assert_eq!(peer.next_stream(opened).await, (2, 0));
        peer.send(&ToClient::Resumed).await;
        peer.generate(4).await;
        peer.finish_well(Finish::Stop).await;
    })
    .await;
    assert!(matches!(played.report.ended, Ended::Whole(Finish::Stop)), "{:?}", played.report.ended);
    assert!(played.report.settled);
}

#[tokio::test]
async fn a_job_moves_to_a_better_path_unseen() {
    let deal = plain();
    let (open, mut opened) = network_to(&deal);
    let (updates, mut listener) = mpsc::channel(1024);
    let (found, waiting) = tokio::sync::watch::channel(0);
    // The first time it waits for the first path that seems better, and so on, whichever of the two comes first.
    let asked = std::sync::atomic::AtomicU32::new(0);
    let better = || -> BoxFuture<'static, ()> {
        let mut waiting = waiting.clone();
        let number = asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        Box::pin(async move {
            let _ = waiting.wait_for(|found| *found >= number).await;
        })
    };
    let report = play_over(&deal, &updates, &open, &better, async |peer| {
        peer.admit().await;
        peer.generate(10).await;
        // The first path that seems better cannot be had: the job goes on where it is.
        found.send_replace(1);
        let mut refused = opened.recv().await.unwrap();
        assert!(matches!(refused.receive(wire::MAX_JOB_FRAME).await, Ok(Some(ToProvider::Resume { .. }))));
        refused
            .send(&ToClient::Rejected(Rejection::RateLimited { retry_ms: 1 }), wire::MAX_JOB_FRAME)
            .await
            .unwrap();
        peer.generate(10).await;
        found.send_replace(2);
        let mut moved = opened.recv().await.unwrap();
        let Ok(Some(ToProvider::Resume { attempt: 2, next, .. })) = moved.receive(wire::MAX_JOB_FRAME).await
        else {
            panic!("no second attempt")
        };
        // What it had not read yet comes again.
        moved.send(&ToClient::Resumed, wire::MAX_JOB_FRAME).await.unwrap();
        peer.stream = moved;
        for first in next..20 {
            let token = first * 7 + 1;
            let text = format!(" {token}");
            let none = (Vec::new(), Vec::new());
            let chunk = Chunk {
                first,
                count: 1,
                tokens: vec![token],
                text,
                logprobs: none.0,
                embeddings: none.1,
                sealed: aitbc_protocol::bytes::BoundedBytes::default(),
                sent_ms: None,
            };
            peer.send(&ToClient::Chunk(chunk)).await;
        }
        peer.finish_well(Finish::Stop).await;
    })
    .await;
    assert!(matches!(report.ended, Ended::Whole(Finish::Stop)), "{:?}", report.ended);
    assert_eq!(report.count, 20);
    drop(updates);
    while let Some(update) = listener.recv().await {
        assert!(!matches!(update, JobUpdate::PathLost { .. } | JobUpdate::Resumed { .. }), "{update:?}");
    }
}

#[tokio::test]
async fn a_provider_that_goes_on_and_breaks_off_again_and_again_is_left() {
    let deal = plain();
    let played = play_paths(&deal, async |peer, opened| {
        peer.admit().await;
        peer.generate(5).await;
        let mut streams = 0;
        peer.stream = FramedStream::pair(deal.client.node_id(), deal.provider_id()).1;
        // After the last one the client is quiet.
        while let Ok(Some(mut stream)) = timeout(Duration::from_secs(2), opened.recv()).await {
            let resume = stream.receive::<ToProvider>(wire::MAX_JOB_FRAME).await;
            assert!(matches!(resume, Ok(Some(ToProvider::Resume { next: 5, .. }))), "{resume:?}");
            stream.send(&ToClient::Resumed, wire::MAX_JOB_FRAME).await.unwrap();
            streams += 1;
            assert!(streams < 20, "the client comes back without end");
        }
    })
    .await;
    assert!(matches!(played.report.ended, Ended::Broken { .. }), "{:?}", played.report.ended);
    assert_eq!(played.report.count, 5);
}
