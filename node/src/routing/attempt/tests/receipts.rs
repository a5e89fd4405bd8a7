//! Receipts that do not hold, and what their words on times and ends are held against.

use super::*;

#[tokio::test]
async fn a_receipt_that_does_not_hold_is_not_paid() {
    type Change = fn(&mut Receipt, &Quote);
    let changes: [(&str, Change); 7] = [
        ("over-counts", |receipt, quote| {
            receipt.completion_tokens += 1;
            receipt.total = quote.total_of(receipt.prompt_tokens, receipt.completion_tokens).unwrap();
        }),
        ("other tokens", |receipt, _| receipt.output = OutputDigest::Tokens(Digest::of_tokens(&[1, 2, 3]))),
        ("text instead of tokens", |receipt, _| receipt.output = OutputDigest::Text(Digest::of(b"x"))),
        ("dearer", |receipt, _| receipt.total = MicroCredits(receipt.total.0 + 1)),
        ("other weights", |receipt, _| receipt.weights = Digest([8; 32])),
        ("other request", |receipt, _| receipt.request = Digest([8; 32])),
        ("more prompt tokens", |receipt, quote| {
            receipt.prompt_tokens += 1;
            receipt.total = quote.total_of(receipt.prompt_tokens, receipt.completion_tokens).unwrap();
        }),
    ];
    for (name, change) in changes {
        let deal = plain();
        let played = play(&deal, async |peer| {
            peer.admit().await;
            peer.generate(40).await;
            peer.take_ack().await;
            let mut receipt = deal.receipt(40, peer.output(), Finish::Stop);
            change(&mut receipt, &deal.quote);
            peer.finish(&deal.provider, &receipt).await;
        })
        .await;
        assert!(matches!(played.report.ended, Ended::BadReceipt(_)), "{name}: {:?}", played.report.ended);
        let acknowledged = deal.quote.total(32).unwrap();
        assert_eq!(played.record.paid, acknowledged, "{name}: only what was acknowledged before");
        let failed = played.updates.iter().any(|update| {
            matches!(update, JobUpdate::Receipt { checks, .. }
                if checks.iter().any(|check| check.passed == Some(false)))
        });
        assert!(failed, "{name}: the failed check is shown");
    }
}

#[tokio::test]
async fn a_receipt_of_somebody_else_is_none() {
    let deal = plain();
    let played = play(&deal, async |peer| {
        peer.admit().await;
        peer.generate(3).await;
        let receipt = deal.receipt(3, peer.output(), Finish::Stop);
        peer.finish(&key(5), &receipt).await;
    })
    .await;
    assert!(matches!(played.report.ended, Ended::BadReceipt(_)));
    assert_eq!(played.record.paid, MicroCredits::ZERO);
    assert!(played.record.receipt.is_none());
    let receipt = deal.receipt(3, OutputDigest::Tokens(Digest([5; 32])), Finish::Stop);
    assert_refused(&deal, &played, &receipt).await;
}

#[tokio::test]
async fn a_receipt_that_cannot_be_shown_to_others_is_none() {
    type Change = fn(&mut Served);
    let changes: [(&str, Change); 4] = [
        ("of another client", |served| served.client = key(7).node_id()),
        ("of another receipt", |served| served.receipt = Digest([9; 32])),
        ("of another sum", |served| served.total.0 += 1),
        ("of another day", |served| served.ended_ms -= 2 * DELAY_MS),
    ];
    for (name, change) in changes {
        let deal = plain();
        let played = play(&deal, async |peer| {
            peer.admit().await;
            peer.generate(3).await;
            let receipt = deal.receipt(3, peer.output(), Finish::Stop);
            let signed = seal(&deal.provider, &network(), &receipt).unwrap();
            let client = deal.client.node_id();
            let mut served = Served { client, receipt: signed.digest(), total: receipt.total, ended_ms: now_ms() };
            change(&mut served);
            peer.finish_showing(signed, &served).await;
        })
        .await;
        let Ended::BadReceipt(why) = &played.report.ended else { panic!("{name}: {:?}", played.report.ended) };
        assert!(why.contains("for others to see"), "{name}: {why}");
        assert_eq!(played.record.paid, MicroCredits::ZERO, "{name}");
        assert!(played.report.served.is_none(), "{name}");
    }
    let deal = plain();
    let played = play(&deal, async |peer| {
        peer.admit().await;
        peer.generate(3).await;
        peer.finish_well(Finish::Stop).await;
    })
    .await;
    let (served, _) = played.report.served.expect("an honest provider's");
    assert_eq!(served.signer(), deal.provider_id());
}

/// The end of a stream is not the provider's word: a connection that breaks ends it in the same way.
#[tokio::test]
async fn only_the_providers_word_settles_the_last_cheque() {
    for said in [None, Some(MicroCredits::ZERO)] {
        let deal = plain();
        let played = play(&deal, async |peer| {
            peer.admit().await;
            peer.generate(5).await;
            let receipt = deal.receipt(5, peer.output(), Finish::Stop);
            peer.finish(&deal.provider, &receipt).await;
            peer.take_ack().await;
            if let Some(total) = said {
                peer.send(&ToClient::Paid { total }).await;
            }
            peer.stream.close().await.unwrap();
        })
        .await;
        assert!(matches!(played.report.ended, Ended::Whole(Finish::Stop)), "{:?}", played.report.ended);
        assert_eq!((played.report.settled, played.record.state), (false, JobState::Delivered), "{said:?}");
    }
}

#[tokio::test]
async fn a_provider_that_stops_cannot_say_that_its_client_left() {
    let deal = plain();
    let played = play(&deal, async |peer| {
        peer.admit().await;
        peer.generate(8).await;
        let receipt = deal.receipt(8, peer.output(), Finish::Cancelled);
        peer.finish(&deal.provider, &receipt).await;
    })
    .await;
    assert!(
        matches!(&played.report.ended, Ended::BadReceipt(reason) if reason.contains("this node left")),
        "{:?}",
        played.report.ended
    );
    assert_eq!(played.record.paid, MicroCredits::ZERO);
}

/// Waits for the receipt of a provider whose first piece left at `sent_ms` by its word, after `late`.
async fn told(deal: &Deal, late: Duration, sent_ms: u64, first_token_ms: u64) -> Report {
    let played = play(deal, async |peer| {
        // This is the fault itself: for so long nothing comes.
        tokio::time::sleep(late).await;
        peer.admit().await;
        let chunk = Chunk { sent_ms: Some(sent_ms), ..peer.chunk(1) };
        peer.send(&ToClient::Chunk(chunk)).await;
        let mut receipt = deal.receipt(1, peer.output(), Finish::Stop);
        receipt.timings.first_token_ms = first_token_ms;
        receipt.penalty = receipt_penalty(deal, &receipt);
        peer.finish(&deal.provider, &receipt).await;
        let _ = peer.stream.receive::<ToProvider>(wire::MAX_JOB_FRAME).await;
    })
    .await;
    played.report
}

fn receipt_penalty(deal: &Deal, receipt: &Receipt) -> MicroCredits {
    aitbc_protocol::sla::verdict(&deal.quote, receipt).penalty
}

#[tokio::test]
async fn a_provider_that_lies_about_its_times_is_paid_nothing_more() {
    let mut deal = plain();
    deal.quote.terms = aitbc_protocol::terms::Terms { first_token_ms: 25, penalty_from_ms: 100, speed: 0 };
    let lied = told(&deal, Duration::from_millis(1_300), 5, 5).await;
    assert!(
        matches!(&lied.ended, Ended::Broken { reason, .. } if reason.contains("left after 5 ms")),
        "{:?}",
        lied.ended
    );
    assert_eq!(lied.paid, MicroCredits::ZERO);

    let deal = plain();
    let changed = told(&deal, Duration::ZERO, 40, 5).await;
    assert!(
        matches!(&changed.ended, Ended::BadReceipt(reason) if reason.contains("another time")),
        "{:?}",
        changed.ended
    );
    assert_eq!(changed.paid, MicroCredits::ZERO);

    let deal = plain();
    let honest = told(&deal, Duration::ZERO, 5, 5).await;
    assert!(matches!(honest.ended, Ended::Whole(_)), "{:?}", honest.ended);
}
