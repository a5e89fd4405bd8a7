#![allow(clippy::unwrap_used, clippy::format_collect)]

use super::*;
use crate::{
    clock::now_ms,
    network::NetworkError,
    routing::fixtures::{Deal, key, network},
    storage::{JobRecord, Side},
    telemetry::Metrics,
};
use aitbc_crypto::{SecretKey, seal};
use aitbc_protocol::{
    Digest,
    bytes::BoundedBytes,
    job::{Input, JobState},
    qos::DELAY_MS,
    quote::Quote,
    receipt::{Cheque, OutputDigest},
};
use futures::future::BoxFuture;

mod broken_paths;
mod private_jobs;
mod receipts;
mod resuming;
mod violations;

/// The other end of a job stream: speaks the protocol, and breaks it where a test wants that.
pub(in crate::routing) struct Peer<'a> {
    deal: &'a Deal,
    stream: FramedStream,
    tokens: Vec<u32>,
    /// What it has sent of its answer.
    pub(in crate::routing) text: String,
    paid: u32,
}

fn empty_chunk(first: u32) -> Chunk {
    Chunk {
        first,
        count: 0,
        tokens: Vec::new(),
        text: String::new(),
        logprobs: Vec::new(),
        embeddings: Vec::new(),
        sealed: BoundedBytes::default(),
        sent_ms: None,
    }
}

impl<'a> Peer<'a> {
    pub(in crate::routing) fn new(deal: &'a Deal, stream: FramedStream) -> Self {
        Self { deal, stream, tokens: Vec::new(), text: String::new(), paid: 0 }
    }

    pub(in crate::routing) async fn receive(&mut self) -> Option<ToProvider> {
        self.stream.receive(wire::MAX_JOB_FRAME).await.expect("the client sends whole frames")
    }

    pub(in crate::routing) async fn send(&mut self, message: &ToClient) {
        // A client that has seen enough hangs up.
        let _ = self.stream.send(message, wire::MAX_JOB_FRAME).await;
    }

    pub(in crate::routing) async fn admit(&mut self) {
        match self.receive().await {
            Some(ToProvider::Open { quote, spec }) => {
                assert_eq!(quote, self.deal.signed_quote());
                assert_eq!(spec, self.deal.spec);
            }
            other => panic!("{other:?} instead of an opening"),
        }
        self.send(&ToClient::Accepted { queued: 0 }).await;
    }

    fn chunk(&mut self, count: u32) -> Chunk {
        let first = self.tokens.len() as u32;
        let tokens: Vec<u32> = (first..first + count).map(|n| n * 7 + 1).collect();
        let text: String = tokens.iter().map(|token| format!(" {token}")).collect();
        self.tokens.extend(&tokens);
        self.text.push_str(&text);
        let tokens = if self.deal.quote.declared { Vec::new() } else { tokens };
        Chunk { count, tokens, text, ..empty_chunk(first) }
    }

    /// Sends `count` tokens in small chunks and pauses at every unpaid window.
    pub(in crate::routing) async fn generate(&mut self, count: u32) {
        for _ in 0..count {
            while self.tokens.len() as u32 - self.paid >= self.deal.quote.window {
                self.take_ack().await;
            }
            let chunk = self.chunk(1);
            self.send(&ToClient::Chunk(chunk)).await;
        }
    }

    async fn take_ack(&mut self) -> Cheque {
        let message = self.receive().await;
        let Some(ToProvider::Ack { next, cheque }) = message else {
            panic!("{message:?} instead of an acknowledgement")
        };
        let cheque: Cheque = aitbc_crypto::open(&cheque, &network()).expect("a signed cheque");
        assert_eq!((cheque.tokens, cheque.provider), (next, self.deal.provider_id()));
        assert_eq!(Some(cheque.job_total), self.deal.quote.total(next).ok());
        assert!(next <= self.tokens.len() as u32 && next >= self.paid);
        self.paid = next;
        cheque
    }

    fn output(&self) -> OutputDigest {
        if self.deal.quote.declared {
            OutputDigest::Text(Digest::of(self.text.as_bytes()))
        } else {
            OutputDigest::Tokens(Digest::of_tokens(&self.tokens))
        }
    }

    async fn finish(&mut self, signer: &SecretKey, receipt: &Receipt) {
        let total = receipt.total;
        let receipt = seal(signer, &network(), receipt).expect("a receipt of usual size");
        let client = self.deal.client.node_id();
        let served = Served { client, receipt: receipt.digest(), total, ended_ms: now_ms() };
        self.finish_showing(receipt, &served).await;
    }

    async fn finish_showing(&mut self, receipt: Signed<Receipt>, served: &Served) {
        let served = seal(&self.deal.provider, &network(), served).expect("fits");
        self.send(&ToClient::Finished { receipt, failure: None, served }).await;
    }

    /// The receipt, the last cheque, the goodbye.
    pub(in crate::routing) async fn finish_well(&mut self, finish: Finish) {
        let receipt = self.deal.receipt(self.tokens.len() as u32, self.output(), finish);
        self.finish(&self.deal.provider, &receipt).await;
        while self.paid < self.tokens.len() as u32 {
            self.take_ack().await;
        }
        self.send(&ToClient::Paid { total: receipt.total }).await;
        self.stream.close().await.expect("the client is still there");
    }
}

struct Played {
    report: Report,
    updates: Vec<JobUpdate>,
    record: JobRecord,
}

impl Played {
    fn text(&self) -> String {
        self.updates
            .iter()
            .filter_map(|update| match update {
                JobUpdate::Delta { text, .. } => Some(text.as_str()),
                _ => None,
            })
            .collect()
    }
}

const QUICK: Patience = Patience {
    open: Duration::from_secs(5),
    first: Duration::from_millis(300),
    between: Duration::from_millis(300),
    cancel: Duration::from_secs(5),
    resume: Duration::from_millis(300),
    reopen: Duration::from_millis(200),
};

/// Plays one attempt against a scripted provider with the client listening to the end.
async fn play(deal: &Deal, script: impl AsyncFnOnce(&mut Peer<'_>)) -> Played {
    let (updates, mut listener) = mpsc::channel(1024);
    let report = play_with(deal, &updates, script).await;
    drop(updates);
    let mut seen = Vec::new();
    while let Some(update) = listener.recv().await {
        seen.push(update);
    }
    Played { report, updates: seen, record: record(deal).await }
}

async fn record(deal: &Deal) -> JobRecord {
    deal.ledger.job(Side::Client, deal.quote.nonce).await.expect("the ledger works").expect("a recorded job")
}

async fn play_with(
    deal: &Deal,
    updates: &mpsc::Sender<JobUpdate>,
    script: impl AsyncFnOnce(&mut Peer<'_>),
) -> Report {
    let gone = || -> Opened { Box::pin(std::future::ready(Err(NetworkError::Stopped))) };
    play_over(deal, updates, &gone, &stays, script).await
}

/// Another stream to the provider, or none.
type Opened = BoxFuture<'static, Result<FramedStream, NetworkError>>;

/// No path becomes better.
pub(in crate::routing) fn stays() -> BoxFuture<'static, ()> {
    Box::pin(std::future::pending())
}

/// The same with a network that opens further streams.
async fn play_over(
    deal: &Deal,
    updates: &mpsc::Sender<JobUpdate>,
    reopen: &Reopen<'_>,
    better: &Better<'_>,
    script: impl AsyncFnOnce(&mut Peer<'_>),
) -> Report {
    deal.open().await;
    let (near, far) = FramedStream::pair(deal.client.node_id(), deal.provider_id());
    let signed = deal.signed_quote();
    let network = network();
    let stop = CancellationToken::new();
    let metrics = RoutingMetrics::new(&Metrics::default());
    let attempt = Attempt {
        ledger: &deal.ledger,
        network: &network,
        provider: deal.provider_id(),
        quote: &deal.quote,
        signed: &signed,
        spec: &deal.spec,
        patience: QUICK,
        updates,
        asked: Instant::now(),
        stop: &stop,
        reopen,
        better,
        longest_round_trip_ms: 0,
        metrics: &metrics,
    };
    let mut peer = Peer::new(deal, far);
    let (report, _peer) = tokio::join!(attempt.run(near), async {
        script(&mut peer).await;
        peer
    });
    report
}

fn plain() -> Deal {
    Deal::new(|_, _| {})
}

/// What an honest provider would be paid when it settles is not paid any more.
async fn assert_refused(deal: &Deal, played: &Played, receipt: &Receipt) {
    assert!(played.record.refused && played.report.reserved == MicroCredits::ZERO, "{:?}", played.record.failure);
    let receipt = seal(&deal.provider, &network(), receipt).expect("a receipt of usual size");
    let paid = played.record.paid;
    let settled = deal.ledger.settled(deal.quote.nonce, paid, Some(receipt)).await.expect("equal sums");
    assert_eq!((settled.state, settled.paid), (JobState::Failed, paid), "{:?}", settled.failure);
}

#[tokio::test]
async fn an_honest_answer_is_paid_to_the_token() {
    for (window, tokens) in [(64, 150), (64, 64), (1, 5), (7, 50), (64, 1)] {
        let deal = Deal::new(|_, quote| quote.window = window);
        let played = play(&deal, async |peer| {
            peer.admit().await;
            peer.generate(tokens).await;
            peer.finish_well(Finish::Stop).await;
        })
        .await;
        assert!(matches!(played.report.ended, Ended::Whole(Finish::Stop)), "{:?}", played.report.ended);
        assert_eq!(played.report.count, tokens);
        assert!(played.report.settled);
        assert_eq!(played.record.state, JobState::Completed);
        let owed = deal.quote.total(tokens).unwrap();
        assert_eq!((played.record.paid, played.report.paid), (owed, owed));
        let expected: String = (0..tokens).map(|n| format!(" {}", n * 7 + 1)).collect();
        assert_eq!(played.text(), expected);
        assert!(matches!(played.updates.first(), Some(JobUpdate::Started { .. })));
        let mut paid = played.updates.iter().filter_map(|update| match update {
            JobUpdate::Paid { tokens, .. } => Some(*tokens),
            _ => None,
        });
        assert_eq!(paid.next_back(), Some(tokens), "window {window}");
        let checks = played.updates.iter().find_map(|update| match update {
            JobUpdate::Receipt { checks, .. } => Some(checks),
            _ => None,
        });
        assert!(checks.unwrap().iter().all(|check| check.passed == Some(true)));
    }
}

#[tokio::test]
async fn nothing_is_paid_before_the_first_piece_nor_within_half_a_window() {
    let deal = plain();
    let played = play(&deal, async |peer| {
        peer.admit().await;
        peer.generate(31).await;
        let early = tokio::time::timeout(Duration::from_millis(50), peer.receive()).await;
        assert!(early.is_err(), "{early:?}");
        peer.generate(1).await;
        peer.take_ack().await;
        peer.finish_well(Finish::Length).await;
    })
    .await;
    assert!(matches!(played.report.ended, Ended::Whole(Finish::Length)));
}

#[tokio::test]
async fn a_window_is_reserved_for_a_provider_that_never_answered() {
    let deal = plain();
    let played = play(&deal, async |peer| {
        peer.receive().await;
        peer.stream.close().await.unwrap();
    })
    .await;
    let most = deal.quote.total(64).unwrap();
    assert_eq!((played.report.paid, played.report.reserved), (MicroCredits::ZERO, most));
}

#[tokio::test]
async fn text_held_back_outlives_its_provider() {
    let deal = plain();
    let played = play(&deal, async |peer| {
        peer.admit().await;
        peer.generate(2).await;
        let text = " end".to_owned();
        let chunk = Chunk { text, ..empty_chunk(2) };
        peer.send(&ToClient::Chunk(chunk)).await;
        peer.stream.close().await.unwrap();
    })
    .await;
    assert!(matches!(played.report.ended, Ended::Broken { .. }), "{:?}", played.report.ended);
    assert_eq!((played.text().as_str(), played.report.tail.as_str()), (" 1 8", " end"));
}

#[tokio::test]
async fn vectors_have_no_empty_chunks() {
    let deal = Deal::new(|spec, quote| {
        spec.input = Input::Embed(vec!["a".to_owned()]);
        quote.max_completion_tokens = 0;
    });
    let played = play(&deal, async |peer| {
        peer.admit().await;
        let empty = peer.chunk(0);
        peer.send(&ToClient::Chunk(empty)).await;
        assert!(peer.receive().await.is_none(), "the client hangs up");
    })
    .await;
    assert!(matches!(played.report.ended, Ended::Broken { stalled: false, .. }), "{:?}", played.report.ended);
    assert_eq!(played.record.paid, MicroCredits::ZERO);
}

#[tokio::test]
async fn text_held_back_comes_with_the_receipt() {
    let deal = plain();
    let played = play(&deal, async |peer| {
        peer.admit().await;
        peer.generate(2).await;
        let text = " end".to_owned();
        let chunk = Chunk { text, ..empty_chunk(2) };
        peer.send(&ToClient::Chunk(chunk)).await;
        peer.finish_well(Finish::Stop).await;
    })
    .await;
    assert!(matches!(played.report.ended, Ended::Whole(Finish::Stop)));
    assert_eq!(played.text(), " 1 8 end");
}

#[tokio::test]
async fn a_provider_that_leaves_is_promised_what_it_delivered() {
    let deal = plain();
    let played = play(&deal, async |peer| {
        peer.admit().await;
        peer.generate(10).await;
        peer.stream.close().await.unwrap();
    })
    .await;
    assert!(matches!(played.report.ended, Ended::Broken { stalled: false, receipted: false, .. }));
    let owed = deal.quote.total(10).unwrap();
    assert_eq!((played.record.paid, played.report.paid), (owed, owed));
    let most = deal.quote.total(10 + 64).unwrap();
    assert_eq!(played.report.reserved, most.checked_sub(owed).unwrap(), "a window may have been on its way");
    assert_eq!(played.record.state, JobState::Running, "left to be settled");
    assert_eq!(played.report.tokens, (0..10).map(|n| n * 7 + 1).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_provider_that_stalls_is_left() {
    for tokens in [0, 5] {
        let deal = Deal::new(|_, quote| quote.prompt_tokens = 1);
        let played = play(&deal, async |peer| {
            peer.admit().await;
            peer.generate(tokens).await;
            // The client hangs up; until then nothing is sent.
            let _ = peer.stream.receive::<ToProvider>(wire::MAX_JOB_FRAME).await;
        })
        .await;
        assert!(matches!(played.report.ended, Ended::Broken { stalled: true, .. }), "{:?}", played.report.ended);
        let owed = if tokens == 0 { MicroCredits::ZERO } else { deal.quote.total(tokens).unwrap() };
        assert_eq!(played.record.paid, owed);
    }
}

#[tokio::test]
async fn a_refusal_owes_nothing() {
    let deal = plain();
    let played = play(&deal, async |peer| {
        assert!(matches!(peer.receive().await, Some(ToProvider::Open { .. })));
        peer.send(&ToClient::Rejected(Rejection::QuoteExpired)).await;
    })
    .await;
    assert!(matches!(played.report.ended, Ended::Refused(Rejection::QuoteExpired)));
    assert_eq!((played.record.state, played.record.paid), (JobState::Rejected, MicroCredits::ZERO));
    assert!(played.report.settled);
}

#[tokio::test]
async fn an_engine_that_fails_before_the_first_token_costs_nothing() {
    let deal = plain();
    let played = play(&deal, async |peer| {
        peer.admit().await;
        let receipt = Receipt {
            total: MicroCredits::ZERO,
            penalty: MicroCredits::ZERO,
            ..deal.receipt(0, OutputDigest::Tokens(Digest::of_tokens(&[])), Finish::Failed)
        };
        peer.finish(&deal.provider, &receipt).await;
        peer.send(&ToClient::Paid { total: MicroCredits::ZERO }).await;
        peer.stream.close().await.unwrap();
        assert!(matches!(peer.receive().await, Some(ToProvider::Done)), "no cheque");
    })
    .await;
    assert!(matches!(played.report.ended, Ended::Broken { receipted: true, .. }), "{:?}", played.report.ended);
    assert_eq!((played.record.state, played.record.paid), (JobState::Failed, MicroCredits::ZERO));
    assert!(played.report.settled);
}

#[tokio::test]
async fn leaving_cancels_and_pays_what_came() {
    let deal = plain();
    let (updates, listener) = mpsc::channel(1024);
    let mut listener = Some(listener);
    let report = play_with(&deal, &updates, async |peer| {
        peer.admit().await;
        peer.generate(5).await;
        drop(listener.take());
        assert!(matches!(peer.receive().await, Some(ToProvider::Cancel)));
        // Two tokens were on their way already.
        peer.generate(2).await;
        peer.finish_well(Finish::Cancelled).await;
    })
    .await;
    assert!(matches!(report.ended, Ended::Cancelled), "{:?}", report.ended);
    let record = record(&deal).await;
    assert_eq!(record.state, JobState::Cancelled);
    assert_eq!(record.paid, deal.quote.total(7).unwrap());
}

#[tokio::test]
async fn a_slow_reader_slows_the_job_and_loses_nothing() {
    let deal = plain();
    let (updates, mut listener) = mpsc::channel(1);
    let read = async {
        let mut tokens = 0;
        while let Some(update) = listener.recv().await {
            match update {
                JobUpdate::Delta { tokens: some, .. } => tokens += some.len(),
                JobUpdate::Receipt { .. } => break,
                _ => {}
            }
            tokio::task::yield_now().await;
        }
        // Read to the end, so that nobody takes this for leaving.
        while let Ok(Some(_)) = timeout(Duration::from_millis(200), listener.recv()).await {}
        tokens
    };
    let play = play_with(&deal, &updates, async |peer| {
        peer.admit().await;
        peer.generate(200).await;
        peer.finish_well(Finish::Stop).await;
    });
    let (report, tokens) = tokio::join!(play, read);
    assert!(matches!(report.ended, Ended::Whole(_)), "{:?}", report.ended);
    assert_eq!(tokens, 200);
}

#[tokio::test]
async fn a_declared_answer_is_bound_by_its_text_and_has_no_ids() {
    let deal = Deal::new(|_, quote| quote.declared = true);
    let played = play(&deal, async |peer| {
        peer.admit().await;
        peer.generate(40).await;
        peer.finish_well(Finish::Stop).await;
    })
    .await;
    assert!(matches!(played.report.ended, Ended::Whole(_)), "{:?}", played.report.ended);
    assert!(!played.report.has_ids && played.report.tokens.is_empty());
}

#[tokio::test]
async fn vectors_come_whole_or_not_at_all() {
    for whole in [true, false] {
        let deal = Deal::new(|spec, quote| {
            spec.input = Input::Embed(vec!["a".to_owned(), "b".to_owned()]);
            quote.max_completion_tokens = 0;
        });
        let played = play(&deal, async |peer| {
            peer.admit().await;
            let vectors: Vec<Vec<f32>> =
                if whole { vec![vec![1.0, 2.0], vec![3.0, 4.0]] } else { vec![vec![1.0]] };
            let bytes: Vec<u8> = vectors.iter().flatten().flat_map(|number| number.to_le_bytes()).collect();
            for vector in vectors {
                let mut chunk = peer.chunk(0);
                chunk.embeddings.push(vector);
                peer.send(&ToClient::Chunk(chunk)).await;
            }
            let output = OutputDigest::Vectors(Digest::of(&bytes));
            let receipt = deal.receipt(0, output, Finish::Stop);
            peer.finish(&deal.provider, &receipt).await;
            if whole {
                peer.take_ack().await;
                peer.send(&ToClient::Paid { total: receipt.total }).await;
                peer.stream.close().await.unwrap();
            }
        })
        .await;
        assert_eq!(played.record.paid > MicroCredits::ZERO, whole, "paid when whole");
        assert_eq!(played.record.refused, !whole);
        let shown = played.updates.iter().any(|update| matches!(update, JobUpdate::Embeddings { .. }));
        assert_eq!(shown, whole);
        assert_eq!(matches!(played.report.ended, Ended::Whole(_)), whole, "{:?}", played.report.ended);
    }
}
