//! Providers that break the protocol, and get nothing more.

use super::*;

/// One way to break the protocol in the middle of an answer, after eight good tokens.
type Break = fn(&mut Peer<'_>) -> ToClient;

#[tokio::test]
async fn a_provider_that_breaks_the_protocol_gets_nothing_more() {
    let breaks: [(&str, Break); 9] = [
        ("counts more than it sends", |peer| {
            let chunk = peer.chunk(1);
            ToClient::Chunk(Chunk { count: 2, ..chunk })
        }),
        ("leaves a gap", |peer| {
            let chunk = peer.chunk(1);
            ToClient::Chunk(Chunk { first: chunk.first + 1, ..chunk })
        }),
        ("sends a chunk twice", |peer| {
            let chunk = peer.chunk(1);
            ToClient::Chunk(Chunk { first: chunk.first - 1, ..chunk })
        }),
        ("overruns the window", |peer| ToClient::Chunk(peer.chunk(60))),
        ("overruns the quote", |peer| {
            let chunk = peer.chunk(1);
            ToClient::Chunk(Chunk { count: u32::MAX, ..chunk })
        }),
        ("sends vectors", |peer| {
            let chunk = peer.chunk(1);
            ToClient::Chunk(Chunk { embeddings: vec![vec![0.0]], ..chunk })
        }),
        ("sends log probabilities nobody asked for", |peer| {
            let chosen = aitbc_protocol::job::TokenLogprob { token: 1, bytes: vec![b'a'], logprob: -0.1 };
            let chunk = peer.chunk(1);
            ToClient::Chunk(Chunk {
                logprobs: vec![aitbc_protocol::job::Logprobs { chosen, top: Vec::new() }],
                ..chunk
            })
        }),
        ("accepts again", |_| ToClient::Accepted { queued: 0 }),
        ("settles", |_| ToClient::Settled { paid: MicroCredits(1), receipt: None }),
    ];
    for (name, make) in breaks {
        let deal = plain();
        let played = play(&deal, async |peer| {
            peer.admit().await;
            peer.generate(8).await;
            let bad = make(peer);
            peer.send(&bad).await;
        })
        .await;
        assert!(
            matches!(played.report.ended, Ended::Broken { receipted: false, .. }),
            "{name}: {:?}",
            played.report.ended
        );
        assert_eq!(played.report.count, 8, "{name}");
        assert_eq!(played.report.tokens.len(), 8, "{name}");
        assert_eq!(played.record.paid, MicroCredits::ZERO, "{name}");
        assert!(!played.report.settled, "{name}");
        let receipt = deal.receipt(8, OutputDigest::Tokens(Digest([5; 32])), Finish::Cancelled);
        assert_refused(&deal, &played, &receipt).await;
    }
}

#[tokio::test]
async fn an_opening_answered_with_something_else_is_never_paid() {
    let deal = plain();
    let played = play(&deal, async |peer| {
        peer.receive().await;
        let chunk = peer.chunk(1);
        peer.send(&ToClient::Chunk(chunk)).await;
    })
    .await;
    assert!(matches!(played.report.ended, Ended::Broken { .. }), "{:?}", played.report.ended);
    let receipt = deal.receipt(1, OutputDigest::Tokens(Digest([5; 32])), Finish::Cancelled);
    assert_refused(&deal, &played, &receipt).await;
}

#[tokio::test]
async fn garbage_in_place_of_a_frame() {
    let deal = plain();
    let played = play(&deal, async |peer| {
        peer.admit().await;
        peer.generate(1).await;
        peer.stream.send(&"what is this", wire::MAX_JOB_FRAME).await.unwrap();
    })
    .await;
    assert!(matches!(played.report.ended, Ended::Broken { .. }));
    assert_eq!(played.record.paid, MicroCredits::ZERO);
}

#[tokio::test]
async fn text_after_the_end_of_the_answer_is_refused() {
    let deal = plain();
    let end = |first| Chunk { text: "end".to_owned(), ..empty_chunk(first) };
    let played = play(&deal, async |peer| {
        peer.admit().await;
        peer.generate(2).await;
        peer.send(&ToClient::Chunk(end(2))).await;
        peer.send(&ToClient::Chunk(end(2))).await;
    })
    .await;
    assert!(matches!(played.report.ended, Ended::Broken { .. }));
    assert_eq!(played.text(), " 1 8", "what was held back is not shown: the next provider says it again");
}
