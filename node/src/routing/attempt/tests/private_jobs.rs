//! Private jobs against a scripted provider: what it is paid for, and what it can tell from how its client behaves.

use super::*;
use aitbc_protocol::{private, sealed::Sealed};

const BOOTSTRAPS: u32 = 100;

fn deal() -> Deal {
    Deal::new(|spec, quote| {
        let sealed = Sealed {
            profile: "fast".parse().unwrap(),
            evaluation_key: Some(Digest([8; 32])),
            values: quote.prompt_tokens,
            ciphertext: BoundedBytes::new(vec![1; 32]).unwrap(),
        };
        *spec = private::spec(spec.model.clone(), quote.weights, sealed, BOOTSTRAPS);
        quote.max_completion_tokens = BOOTSTRAPS;
    })
}

impl Peer<'_> {
    async fn compute(&mut self, count: u32) {
        let first = self.tokens.len() as u32;
        self.tokens.extend(vec![0; count as usize]);
        self.send(&ToClient::Chunk(Chunk { count, ..empty_chunk(first) })).await;
    }

    async fn answer(&mut self, answer: &[u8]) {
        let sealed = BoundedBytes::new(answer.to_vec()).unwrap();
        let first = self.tokens.len() as u32;
        self.send(&ToClient::Chunk(Chunk { sealed, ..empty_chunk(first) })).await;
    }

    fn private_receipt(&self, answer: &[u8], finish: Finish) -> Receipt {
        let output = OutputDigest::Sealed(Digest::of(answer));
        let sealed = self.deal.spec.input.sealed().map(Sealed::work);
        Receipt { sealed, ..self.deal.receipt(self.tokens.len() as u32, output, finish) }
    }
}

/// What a provider hears of a client: which messages in which order, and how large each is.
type Heard = Vec<(&'static str, usize)>;

fn hear(heard: &mut Heard, message: &ToProvider) {
    let kind = match message {
        ToProvider::Open { .. } => "open",
        ToProvider::Ack { .. } => "ack",
        ToProvider::Cancel => "cancel",
        ToProvider::Settle { .. } => "settle",
        ToProvider::Resume { .. } => "resume",
        ToProvider::Done => "done",
    };
    heard.push((kind, wire::encode(message, wire::MAX_JOB_FRAME).unwrap().len()));
}

/// Plays a whole job whose answer is `answer`.
async fn whole(deal: &Deal, answer: &[u8]) -> (Heard, Played) {
    let mut heard = Heard::new();
    let played = play(deal, async |peer| {
        hear(&mut heard, &peer.receive().await.expect("an opening"));
        peer.send(&ToClient::Accepted { queued: 0 }).await;
        for count in [40, 60] {
            peer.compute(count).await;
            hear(&mut heard, &peer.receive().await.expect("a cheque"));
        }
        peer.answer(answer).await;
        let receipt = peer.private_receipt(answer, Finish::Stop);
        let total = receipt.total;
        peer.finish(&deal.provider, &receipt).await;
        peer.send(&ToClient::Paid { total }).await;
        while let Some(message) = peer.receive().await {
            hear(&mut heard, &message);
        }
    })
    .await;
    (heard, played)
}

fn answers(played: &Played) -> Vec<Vec<u8>> {
    let answer = |update: &'_ JobUpdate| match update {
        JobUpdate::Sealed { answer } => Some(answer.to_vec()),
        _ => None,
    };
    played.updates.iter().filter_map(answer).collect()
}

#[tokio::test]
async fn bootstraps_are_paid_and_the_answer_comes_with_its_receipt() {
    let deal = deal();
    let (_, played) = whole(&deal, b"encrypted").await;
    assert!(matches!(played.report.ended, Ended::Whole(Finish::Stop)), "{:?}", played.report.ended);
    assert_eq!((played.report.count, played.report.settled), (BOOTSTRAPS, true));
    assert_eq!(played.record.paid, deal.quote.total(BOOTSTRAPS).unwrap());
    assert_eq!(answers(&played), [b"encrypted"]);
    let computed = played.updates.iter().filter_map(|update| match update {
        JobUpdate::Computed { done, of } => Some((*done, *of)),
        _ => None,
    });
    assert_eq!(computed.collect::<Vec<_>>(), [(40, 100), (100, 100)]);
    assert!(played.text().is_empty());
}

#[tokio::test]
async fn a_provider_hears_the_same_whatever_its_answer_says() {
    let (right, right_played) = whole(&deal(), b"an answer that is right").await;
    let (wrong, wrong_played) = whole(&deal(), b"an answer that is wrong").await;
    assert_eq!(right, wrong);
    let kinds: Vec<_> = right.iter().map(|(kind, _)| *kind).collect();
    assert_eq!((kinds[0], kinds.last()), ("open", Some(&"done")));
    let (one, other) = (right_played, wrong_played);
    assert_eq!((one.record.state, one.record.paid), (other.record.state, other.record.paid));
    assert_eq!((one.report.count, one.report.reserved), (other.report.count, other.report.reserved));
}

#[tokio::test]
async fn a_receipt_for_another_key_or_input_is_not_taken() {
    for part in 0..3 {
        let deal = deal();
        let played = play(&deal, async |peer| {
            peer.admit().await;
            peer.compute(60).await;
            peer.take_ack().await;
            peer.compute(40).await;
            peer.answer(b"encrypted").await;
            let mut receipt = peer.private_receipt(b"encrypted", Finish::Stop);
            let work = receipt.sealed.as_mut().unwrap();
            match part {
                0 => work.evaluation_key = Some(Digest([0; 32])),
                1 => work.input = Digest([0; 32]),
                _ => receipt.sealed = None,
            }
            peer.finish(&deal.provider, &receipt).await;
        })
        .await;
        assert!(matches!(&played.report.ended, Ended::BadReceipt(why) if why.contains("encrypted input")));
        assert!(answers(&played).is_empty(), "an answer without a good receipt is no answer");
    }
}

#[tokio::test]
async fn a_whole_job_without_an_answer_does_not_pass_for_one() {
    let deal = deal();
    let played = play(&deal, async |peer| {
        peer.admit().await;
        peer.compute(60).await;
        peer.take_ack().await;
        peer.compute(40).await;
        let receipt = peer.private_receipt(b"", Finish::Stop);
        peer.finish(&deal.provider, &receipt).await;
    })
    .await;
    assert!(matches!(&played.report.ended, Ended::BadReceipt(why) if why.contains("no answer came")));
}
