//! Jobs that ended without their last words, settled later.

use super::*;

#[test]
fn a_request_that_arrives_after_its_settlement_does_not_start() {
    let mut pair = Pair::new();
    let (client, provider, quote) = (pair.client.id(), pair.provider.id(), pair.quote(1));
    let id = pair.read_quote(1).job;
    pair.client.run(|book| book.open_job(provider, Vec::new(), id, quote.clone())).expect("a fresh quote");
    let record = pair.settle(1);
    assert_eq!((record.state, record.paid), (JobState::Failed, MicroCredits::ZERO));
    pair.provider.restart();
    let late = pair.provider.run(|book| book.admit(client, quote, execution(), &FRIENDS));
    assert!(matches!(late, Err(LedgerError::QuoteUsed)), "{late:?}");
}

#[test]
fn a_settlement_and_its_late_request_in_one_batch() {
    let mut pair = Pair::new();
    let (client, quote) = (pair.client.id(), pair.quote(1));
    let book = pair.provider.book();
    book.begin(NOW).expect("readable");
    assert!(book.settle(nonce(1), client, None).expect("an honest client").is_none());
    let late = book.admit(client, quote, execution(), &FRIENDS);
    assert!(matches!(late, Err(LedgerError::QuoteUsed)), "{late:?}");
}

#[test]
fn a_receipt_that_first_comes_with_the_settlement_is_refused_as_well() {
    let mut pair = Pair::new();
    pair.start(1);
    pair.client.run(|book| book.refuse(nonce(1), Line::lossy("it left a gap"))).expect("known");
    pair.finish(1, 40, Finish::Cancelled);
    let record = pair.settle(1);
    assert_eq!((record.state, record.paid.0, record.cheque), (JobState::Failed, 0, None));
    assert!(record.receipt.is_some(), "kept as evidence");
}

#[test]
fn a_job_that_was_given_up_is_paid_when_its_provider_is_back() {
    for (acknowledged, receipted) in [(64, false), (0, false), (64, true)] {
        let mut pair = Pair::new();
        pair.start(1);
        if acknowledged > 0 {
            pair.pay(1, acknowledged).expect("within the quote");
        }
        let receipt = pair.finish(1, 64, Finish::Stop);
        if receipted {
            pair.take_receipt(1, receipt, 64).expect("honest");
        }
        let given_up = pair.client.run(|book| book.give_up(nonce(1), Line::lossy("gone"))).expect("it was open");
        assert_eq!(given_up.state, JobState::ReceiptMissing);
        pair.client.restart();
        let store = &pair.client.book().store;
        assert_eq!(store.unfinished().expect("readable"), []);
        assert_eq!(store.given_up().expect("readable").len(), 1);
        let client = pair.client.id();
        pair.provider.book().now_ms += DEBT_GRACE_MS;
        assert!(pair.provider.debt(&client) > MicroCredits::ZERO);
        // One round tells what is owed, the next one pays it.
        if acknowledged == 0 {
            let reply = pair.provider.run(|book| book.settle(nonce(1), client, None)).expect("an honest client");
            let (paid, receipt) = reply.expect("it ran");
            let record = pair.client.run(|book| book.settled(nonce(1), paid, receipt.map(verified)));
            let record = record.expect("an honest provider");
            assert_eq!((record.state, record.paid.0), (JobState::Delivered, price_of(64)));
        }
        let record = pair.settle(1);
        assert_eq!((record.state, record.failure), (JobState::Completed, None));
        assert_eq!(pair.both(1), [(JobState::Completed, price_of(64)); 2]);
        assert_eq!(pair.provider.debt(&client), MicroCredits::ZERO);
        assert_eq!(pair.client.book().store.given_up().expect("readable"), []);
    }
}

#[test]
fn a_restarted_provider_bills_what_is_paid() {
    let mut pair = Pair::new();
    pair.start(1);
    pair.start(2);
    let cheque = pair.pay(1, 64).expect("within the quote");
    pair.take(1, cheque, 64).expect("good");
    // Acknowledged by the client, never arrived: the settlement brings it.
    pair.pay(1, 100).expect("within the quote");
    pair.provider.restart();
    let record = pair.provider.record(Side::Provider, 1);
    assert_eq!((record.state, record.finish), (JobState::Failed, Some(Finish::Failed)));
    assert_eq!(record.failure, Some(Line::lossy("the provider restarted")));
    for (number, paid) in [(1, price_of(100)), (2, 0)] {
        let settled = pair.settle(number);
        assert_eq!(pair.both(number), [(JobState::Failed, paid); 2]);
        let receipt = settled.receipt.expect("signed after the restart").read_unverified().expect("ours");
        assert_eq!((receipt.total.0, receipt.output), (paid, OutputDigest::Lost));
    }
    assert_eq!(pair.provider.book().totals().owed_to_us, MicroCredits::ZERO);
}

#[test]
fn what_was_sent_into_a_broken_path_is_paid_up_to_one_window() {
    for (delivered, state) in [(128, JobState::Cancelled), (129, JobState::Failed)] {
        let mut pair = Pair::new();
        pair.start(1);
        let cheque = pair.pay(1, 64).expect("within the quote");
        pair.take(1, cheque, 64).expect("good");
        pair.finish(1, delivered, Finish::Cancelled);
        pair.client.restart();
        let record = pair.settle(1);
        assert_eq!(record.state, state);
        assert_eq!(record.paid.0, if state == JobState::Failed { price_of(64) } else { price_of(128) });
    }
}

#[test]
fn a_provider_that_claims_another_sum_settles_nothing() {
    let mut pair = Pair::new();
    pair.start(1);
    pair.pay(1, 64).expect("within the quote");
    for claim in [0, price_of(64) + 1] {
        let settled = pair.client.run(|book| book.settled(nonce(1), MicroCredits(claim), None));
        assert!(matches!(settled, Err(LedgerError::Unequal { .. })), "{settled:?}");
    }
    assert_eq!(pair.client.record(Side::Client, 1).state, JobState::Running);
    let record = pair.client.run(|book| book.give_up(nonce(1), Line::lossy("gone"))).expect("it was open");
    assert_eq!((record.state, record.paid.0), (JobState::ReceiptMissing, price_of(64)));
    assert_eq!(pair.settle(1).state, JobState::Failed, "a late settlement still counts");
    assert_eq!(pair.both(1), [(JobState::Failed, price_of(64)); 2]);
}

#[test]
fn another_client_cannot_settle_a_job() {
    let mut pair = Pair::new();
    pair.start(1);
    let settled = pair.provider.run(|book| book.settle(nonce(1), key(9).node_id(), None));
    assert!(matches!(settled, Err(LedgerError::UnknownJob)), "{settled:?}");
    assert_eq!(pair.provider.record(Side::Provider, 1).state, JobState::Running);
}
