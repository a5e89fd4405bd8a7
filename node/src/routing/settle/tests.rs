use super::*;
use crate::{
    routing::fixtures::{Deal, Node, network},
    storage::Side,
};
use aitbc_crypto::seal;
use aitbc_protocol::{
    Digest, MicroCredits,
    evidence::Fault,
    job::{Finish, JobState},
    receipt::OutputDigest,
};

async fn settled(
    deal: &Deal,
    answer: impl AsyncFnOnce(Option<MicroCredits>) -> Option<ToClient>,
) -> Result<JobRecord, SettleError> {
    let (result, evidence) = judged(deal, answer).await;
    assert_eq!(evidence, []);
    result
}

/// The same with what speaks against the provider.
async fn judged(
    deal: &Deal,
    answer: impl AsyncFnOnce(Option<MicroCredits>) -> Option<ToClient>,
) -> (Result<JobRecord, SettleError>, Vec<Evidence>) {
    let found = std::cell::RefCell::new(Vec::new());
    let nonce = deal.quote.nonce;
    let record = deal.ledger.job(Side::Client, nonce).await.expect("the ledger works").expect("a recorded job");
    let (near, mut far) = FramedStream::pair(deal.client.node_id(), deal.provider_id());
    let provider = async {
        let message: Option<ToProvider> = far.receive(wire::MAX_JOB_FRAME).await.expect("a whole frame");
        let Some(ToProvider::Settle { job, quote, cheque }) = message else { panic!("{message:?}") };
        assert_eq!((job, quote), (deal.quote.job, nonce));
        let promised = cheque.map(|cheque| aitbc_crypto::open(&cheque, &network()).expect("signed").job_total);
        if let Some(answer) = answer(promised).await {
            far.send(&answer, wire::MAX_JOB_FRAME).await.expect("the client listens");
        }
        far.close().await.expect("the client listens");
    };
    let (result, ()) = tokio::join!(
        settle(&deal.ledger, nonce, record, near, |evidence| found.borrow_mut().push(evidence)),
        provider
    );
    (result, found.into_inner())
}

/// A job whose provider vanished after ten tokens, all of them promised.
async fn broken_off() -> Deal {
    let deal = Deal::new(|_, _| {});
    deal.open().await;
    deal.ledger.accepted(deal.quote.nonce).await.expect("open");
    deal.ledger.pay(deal.quote.nonce, 10).await.expect("running");
    deal
}

#[tokio::test]
async fn a_job_that_never_started_there_ends_with_nothing_owed() {
    let deal = Deal::new(|_, _| {});
    deal.open().await;
    let record = settled(&deal, async |promised| {
        assert_eq!(promised, None);
        Some(ToClient::Settled { paid: MicroCredits::ZERO, receipt: None })
    })
    .await
    .expect("settled");
    assert_eq!((record.state, record.paid), (JobState::Failed, MicroCredits::ZERO));
    assert!(deal.ledger.unsettled().await.expect("the ledger works").is_empty());
}

#[tokio::test]
async fn the_newest_cheque_goes_along_and_the_receipt_comes_back() {
    let deal = broken_off().await;
    let receipt = deal.receipt(10, OutputDigest::Tokens(Digest([5; 32])), Finish::Failed);
    let total = receipt.total;
    let receipt = seal(&deal.provider, &network(), &receipt).expect("a receipt of usual size");
    let record = settled(&deal, async |promised| {
        assert_eq!(promised, Some(total));
        Some(ToClient::Settled { paid: total, receipt: Some(receipt) })
    })
    .await
    .expect("settled");
    assert!(record.state.is_final(), "{:?}", record.state);
    assert_eq!(record.paid, total);
    assert!(record.receipt.is_some());
}

#[tokio::test]
async fn a_second_receipt_for_a_job_is_evidence_and_moves_no_money() {
    let deal = broken_off().await;
    let receipt = |finish| {
        let receipt = deal.receipt(10, OutputDigest::Tokens(Digest([5; 32])), finish);
        (receipt.total, seal(&deal.provider, &network(), &receipt).expect("a receipt of usual size"))
    };
    let ((total, first), (_, second)) = (receipt(Finish::Cancelled), receipt(Finish::Failed));
    deal.ledger.take_receipt(deal.quote.nonce, first, None).await.expect("it is paid for");
    let (result, evidence) =
        judged(&deal, async |_| Some(ToClient::Settled { paid: total, receipt: Some(second) })).await;
    assert_eq!(result.expect("settled by the first").paid, total);
    let [evidence] = evidence.as_slice() else { panic!("{evidence:?}") };
    assert_eq!(aitbc_crypto::evidence::verify(evidence, &network()), Ok(Fault::Receipts));
    assert_eq!(evidence.accused(), deal.provider_id());
}

#[tokio::test]
async fn answers_that_settle_nothing_leave_the_job_open() {
    let answers = [
        None,
        Some(ToClient::Accepted { queued: 0 }),
        Some(ToClient::Rejected(aitbc_protocol::job::Rejection::QuoteExpired)),
        Some(ToClient::Settled { paid: MicroCredits(1), receipt: None }),
    ];
    for answer in answers {
        let deal = broken_off().await;
        let result = settled(&deal, async |_| answer.clone()).await;
        assert!(result.is_err(), "{answer:?}");
        assert_eq!(deal.ledger.unsettled().await.expect("the ledger works").len(), 1, "{answer:?}");
    }
}

#[test]
fn waits_grow_and_have_an_end() {
    let mut retry = Retry::after(None, 0);
    assert_eq!((retry.at_ms, retry.wait_ms), (FIRST_WAIT_MS, FIRST_WAIT_MS));
    for _ in 0..20 {
        retry = Retry::after(Some(retry), retry.at_ms);
    }
    assert_eq!(retry.wait_ms, LONGEST_WAIT_MS);
}

fn state(node: &Node) -> State {
    State::new(Settling {
        ledger: node.shared.ledger.clone(),
        network: node.shared.network.clone(),
        book: node.shared.book.clone(),
        active: node.shared.active.clone(),
        wake: node.shared.settle.clone(),
        reputation: node.shared.reputation.clone(),
    })
}

/// A job of `node` of which ten tokens were promised and which is over. What is held of it is due at once: its quote is old.
async fn held(node: &Node) -> Deal {
    let deal = Deal::new(|_, quote| (quote.issued_ms, quote.expires_ms) = (1, 2));
    let ledger = &node.shared.ledger;
    ledger.open(deal.provider_id(), Vec::new(), deal.quote.job, deal.signed_quote()).await.expect("a new job");
    ledger.accepted(deal.quote.nonce).await.expect("open");
    ledger.pay(deal.quote.nonce, 10).await.expect("running");
    ledger.give_up(deal.quote.nonce, Line::lossy("gone")).await.expect("it was running");
    deal
}

#[tokio::test]
async fn what_is_held_and_due_is_taken_to_its_provider_ever_less_often_while_that_is_away() {
    let node = Node::start().await;
    let deal = held(&node).await;
    let mut state = state(&node);
    let mut now = now_ms();
    for wait_ms in [FIRST_WAIT_MS, 2 * FIRST_WAIT_MS] {
        state.let_go(now).await;
        assert!(state.running.contains_key(&deal.quote.nonce));
        let (tried, result) = state.tasks.join_next().await.expect("one is running").expect("no panic");
        assert!(matches!(&result, Err(SettleError::Network(_))), "it is away: {result:?}");
        state.handle_done(tried, result);
        state.let_go(now + wait_ms - 1).await;
        assert!(state.running.is_empty(), "not before {wait_ms} ms have passed");
        now += wait_ms;
    }
    let record = node.shared.ledger.job(Side::Client, deal.quote.nonce).await.expect("readable").expect("a job");
    let cheque = record.cheque.expect("signed").read_unverified().expect("its own");
    assert_eq!((cheque.held, cheque.sequence), (MicroCredits::ZERO, 2), "one release, signed once");
    assert_eq!(
        node.shared.ledger.held().await.expect("readable").len(),
        1,
        "it is held until the provider has that"
    );
}

#[tokio::test]
async fn a_fault_that_was_shown_takes_what_is_held() {
    let node = Node::start().await;
    let deal = held(&node).await;
    let (ledger, provider, now) = (&node.shared.ledger, deal.provider_id(), now_ms());
    let (_, _, held) = ledger.held().await.expect("readable")[0];
    assert!(node.shared.reputation.convict(provider, Fault::Quote, None, now));
    let mut state = state(&node);
    state.let_go(now).await;
    assert!(state.running.is_empty() && ledger.held().await.expect("readable").is_empty());
    let account = ledger.account(provider, 0).await.expect("readable").remove(0).0;
    assert_eq!(account.forfeited, held.forfeit(Fault::Quote.penalty().held));
    assert!(account.forfeited > MicroCredits::ZERO && account.forfeited < held.amount, "half of it");
}

#[tokio::test]
async fn what_was_given_up_has_one_more_chance_when_its_provider_is_back() {
    let node = Node::start().await;
    let deal = Deal::new(|_, _| {});
    let (ledger, provider, nonce) = (&node.shared.ledger, deal.provider_id(), deal.quote.nonce);
    ledger.open(provider, Vec::new(), deal.quote.job, deal.signed_quote()).await.expect("a new job");
    ledger.give_up(nonce, Line::lossy("gone")).await.expect("it was open");
    let mut state = state(&node);
    assert!(!state.revive(HashSet::from([NodeId([9; 32])])).await, "nothing is owed to a stranger");
    assert!(state.revive(HashSet::from([provider])).await);
    assert!(state.revive(HashSet::from([provider])).await);
    assert_eq!(state.given_up.len(), 1, "once");
    state.sweep().await;
    assert!(state.given_up.is_empty() && state.running.contains_key(&nonce));
    let (tried, result) = state.tasks.join_next().await.expect("one is running").expect("no panic");
    assert!(matches!(&result, Err(SettleError::Network(_))), "it is still away: {result:?}");
    state.handle_done(tried, result);
    state.sweep().await;
    assert!(state.running.is_empty() && state.retries.is_empty(), "until it is seen again");
}
