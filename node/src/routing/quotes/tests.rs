use super::*;
use crate::routing::fixtures::{Deal, key, model_offer, network};
use aitbc_crypto::seal;
use aitbc_protocol::{
    holdback::Audit,
    price::{Adjustment, AdjustmentFault, Inputs},
};

fn judged(deal: &Deal, signed: &Signed<Quote>, offer: &ModelOffer, now_ms: u64) -> Result<Quote, NoQuote> {
    let asked = Asked {
        client: deal.client.node_id(),
        job: deal.quote.job,
        request: deal.spec.digest().expect("a small request"),
        spec: &deal.spec,
        latency: LatencyClass::Standard,
        ceiling: Some(MicroCredits(1_250)),
    };
    judge(signed, deal.provider_id(), &network(), &asked, offer, now_ms)
}

#[test]
fn quotes_that_are_not_taken() {
    type Change = fn(&mut Quote);
    type Expect = fn(&NoQuote) -> bool;
    let deal = Deal::new(|_, _| {});
    let now_ms = deal.quote.issued_ms;
    assert_eq!(judged(&deal, &deal.signed_quote(), &model_offer(), now_ms).ok(), Some(deal.quote.clone()));
    let cases: [(&str, Change, Expect); 13] = [
        (
            "a dearer hour",
            |quote| quote.adjustment.factors[5].ppm = 1_200_000,
            |error| matches!(error, NoQuote::Fault(QuoteFault::Adjustment(AdjustmentFault::Factor { .. }))),
        ),
        (
            "no word of what sets the price",
            |quote| quote.adjustment = Adjustment::default(),
            |error| matches!(error, NoQuote::Fault(QuoteFault::Adjustment(AdjustmentFault::Inputs))),
        ),
        (
            "another context than offered",
            |quote| {
                let inputs = Inputs { context: 1_024, ..quote.adjustment.inputs.expect("honest") };
                quote.adjustment = Adjustment::of(inputs, quote.adjustment.electricity);
                quote.max_total = quote.total(quote.max_completion_tokens).expect("small");
                quote.audit = Audit::of(quote.max_total, quote.issued_ms);
            },
            |error| matches!(error, NoQuote::Fault(QuoteFault::Context { .. } | QuoteFault::TooExpensive { .. })),
        ),
        (
            "another client",
            |quote| quote.client = NodeId([4; 32]),
            |error| matches!(error, NoQuote::Fault(QuoteFault::OtherClient)),
        ),
        (
            "another request",
            |quote| quote.request = Digest([4; 32]),
            |error| matches!(error, NoQuote::Fault(QuoteFault::OtherRequest)),
        ),
        (
            "another job",
            |quote| quote.job = JobId([4; 16]),
            |error| matches!(error, NoQuote::Fault(QuoteFault::OtherRequest)),
        ),
        (
            "expired",
            |quote| (quote.issued_ms, quote.expires_ms) = (1, 2),
            |error| matches!(error, NoQuote::Fault(QuoteFault::Dates)),
        ),
        ("no window", |quote| quote.window = 0, |error| matches!(error, NoQuote::Fault(QuoteFault::Window))),
        (
            "a window too large",
            |quote| quote.window = 65,
            |error| matches!(error, NoQuote::Fault(QuoteFault::Window)),
        ),
        (
            "a wrong sum",
            |quote| quote.max_total.0 -= 1,
            |error| matches!(error, NoQuote::Fault(QuoteFault::Total)),
        ),
        (
            "more held back than is at stake",
            |quote| quote.audit.held.0 += 1,
            |error| matches!(error, NoQuote::Fault(QuoteFault::Audit)),
        ),
        ("other weights", |quote| quote.weights = Digest([4; 32]), |error| matches!(error, NoQuote::Weights)),
        ("suddenly declared", |quote| quote.declared = true, |error| matches!(error, NoQuote::Weights)),
    ];
    for (name, change, expected) in cases {
        let mut quote = deal.quote.clone();
        change(&mut quote);
        let signed = seal(&deal.provider, &network(), &quote).expect("a quote of usual size");
        let error = judged(&deal, &signed, &model_offer(), now_ms).expect_err(name);
        assert!(expected(&error), "{name}: {error:?}");
        assert!(!error.is_passing() && !error.is_lost(), "{name}");
    }
}

#[test]
fn a_quote_binds_its_signer_and_every_byte() {
    let deal = Deal::new(|_, _| {});
    let now_ms = deal.quote.issued_ms;
    let foreign = seal(&key(5), &network(), &deal.quote).expect("a quote of usual size");
    assert!(matches!(judged(&deal, &foreign, &model_offer(), now_ms), Err(NoQuote::Signer)));
    let good = deal.signed_quote();
    for bit in [0, 77, good.payload().len() * 8 - 1] {
        let mut payload = good.payload().to_vec();
        payload[bit / 8] ^= 1 << (bit % 8);
        let altered = Signed::from_parts(good.signer(), *good.signature(), payload);
        assert!(matches!(judged(&deal, &altered, &model_offer(), now_ms), Err(NoQuote::Signature(_))));
    }
}

#[test]
fn a_quote_above_the_offer_it_was_chosen_by() {
    let deal = Deal::new(|_, _| {});
    let mut cheaper = model_offer();
    cheaper.price.completion = MicroCredits(3_000);
    let error = judged(&deal, &deal.signed_quote(), &cheaper, deal.quote.issued_ms).expect_err("too much");
    assert!(matches!(error, NoQuote::Fault(QuoteFault::AboveOffer)) && error.is_failure());
}

#[test]
fn a_quote_above_the_ceiling_is_nobodys_failure() {
    let deal = Deal::new(|_, quote| quote.prompt_tokens = 140);
    let error = judged(&deal, &deal.signed_quote(), &model_offer(), deal.quote.issued_ms).expect_err("too much");
    assert!(matches!(error, NoQuote::Fault(QuoteFault::TooExpensive { .. })), "{error:?}");
    assert!(!error.is_failure());
}

#[tokio::test]
async fn every_answer_to_a_request() {
    let deal = Deal::new(|_, _| {});
    let request = QuoteRequest {
        job: deal.quote.job,
        provider: deal.provider_id(),
        spec: deal.spec.clone(),
        latency: LatencyClass::Standard,
        issued_ms: deal.quote.issued_ms,
    };
    let request = seal(&deal.client, &network(), &request).expect("a small request");
    let full = Rejection::Full { running: 1, promised: 0, slots: 1 };
    let replies = [Some(QuoteReply::Quote(deal.signed_quote())), Some(QuoteReply::Rejected(full)), None];
    for (index, reply) in replies.into_iter().enumerate() {
        let (near, mut far) = FramedStream::pair(deal.client.node_id(), deal.provider_id());
        let answer = async {
            let asked: Option<Signed<QuoteRequest>> = far.receive(wire::MAX_QUOTE_FRAME).await.expect("a request");
            assert_eq!(asked.as_ref(), Some(&request));
            if let Some(reply) = reply {
                far.send(&reply, wire::MAX_QUOTE_FRAME).await.expect("the client listens");
            } else {
                far.close().await.expect("the client listens");
            }
        };
        let (result, ()) = tokio::join!(converse(near, &request), answer);
        match (index, result) {
            (0, Ok(quote)) => assert_eq!(quote, deal.signed_quote()),
            (1, Err(error)) => assert!(error.is_passing() && !error.is_failure()),
            (2, Err(error)) => assert!(matches!(error, NoQuote::Silent) && error.is_failure()),
            (index, other) => panic!("{index}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn nobody_is_waited_for_long_once_there_is_a_quote() {
    let silent = || Box::pin(std::future::pending()) as futures::future::BoxFuture<'_, (u8, Result<(), ()>)>;
    let answer =
        |who: u8, result| Box::pin(std::future::ready((who, result))) as futures::future::BoxFuture<'_, _>;
    let soon = async {
        tokio::time::sleep(OTHERS / 4).await;
        (4u8, Ok(()))
    };
    let asked = vec![silent(), answer(2, Err(())), answer(3, Ok(())), Box::pin(soon)];
    let answers = timeout(PATIENCE, first_and_soon_after(asked.into_iter(), Result::is_ok)).await;
    let mut answers = answers.expect("not as long as a silent one may take");
    answers.sort_unstable();
    assert_eq!(answers, [(2, Err(())), (3, Ok(())), (4, Ok(()))]);
    let refused = vec![answer(1, Err(())), answer(2, Err(()))];
    let answers = first_and_soon_after(refused.into_iter(), Result::is_ok).await;
    assert_eq!(answers.len(), 2, "all are waited for where nobody quotes");
}
