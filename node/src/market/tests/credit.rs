//! Whose credit backs a job, and what was settled of it.

use super::*;
use aitbc_protocol::credit::{ALLOWANCE_MS, Settlement, SettlementFault};
use std::net::IpAddr;

fn strangers(budget: u64) -> Strangers {
    Strangers { budget: MicroCredits(budget), from: None }
}

/// What a job of these tests may cost.
fn most() -> u64 {
    price_of(300)
}

impl Pair {
    /// A job that the provider admits, or not.
    fn try_start(&mut self, number: u64, strangers: &Strangers) -> Result<(), LedgerError> {
        let (client, provider, quote) = (self.client.id(), self.provider.id(), self.quote(number));
        let id = self.read_quote(number).job;
        self.client.run(|book| book.open_job(provider, Vec::new(), id, quote.clone())).expect("a fresh quote");
        self.provider.run(|book| book.admit(client, quote, execution(), strangers))
    }

    fn finish_and_pay(&mut self, number: u64, tokens: u32) {
        self.client.run(|book| book.accepted(nonce(number))).expect("it was opened");
        let receipt = self.finish(number, tokens, Finish::Stop);
        self.take_receipt(number, receipt, tokens).expect("honest");
        let last = self.pay(number, tokens).expect("signed with the receipt");
        self.take(number, last, tokens).expect("good");
    }

    fn settle_outside(&mut self, amount: u64) -> Result<Signed<Settlement>, LedgerError> {
        let client = self.client.id();
        self.provider.run(|book| book.receive(client, MicroCredits(amount)))
    }

    fn take_settlement(&mut self, settlement: Signed<Settlement>) -> Result<(), LedgerError> {
        let payee = self.provider.id();
        self.client.run(|book| book.take_settlement(payee, verified(settlement)))
    }

    fn exposure(&mut self) -> u64 {
        let client = self.client.id();
        self.provider.run(|book| Ok(book.exposure(client)?)).expect("readable").0
    }
}

fn refused(result: Result<(), LedgerError>) -> CreditFault {
    match result {
        Err(LedgerError::Credit(fault)) => fault,
        other => panic!("{other:?}"),
    }
}

#[test]
fn strangers_share_a_budget_that_comes_back_within_a_day() {
    let mut pair = Pair::new();
    let budget = strangers(2 * most() + most() / 2);
    pair.try_start(1, &budget).expect("within the budget");
    pair.try_start(2, &budget).expect("within the budget");
    assert_eq!(pair.exposure(), 2 * most());
    let fault = refused(pair.try_start(3, &budget));
    assert_eq!((fault.needed.0, fault.own.0), (most(), 0));
    assert!((most() / 2 - 1..=most() / 2).contains(&fault.strangers.0), "{fault}");
    // What a job did not need is there again. A restart ends the second one, which was paid nothing, and forgets nothing
    // of what the first one took.
    pair.finish_and_pay(1, 30);
    assert_eq!(pair.exposure(), most() + price_of(30));
    pair.provider.restart();
    assert_eq!(pair.exposure(), price_of(30));
    pair.try_start(4, &budget).expect("within the budget");
    pair.try_start(5, &budget).expect("within the budget");
    let left = refused(pair.try_start(6, &budget)).strangers.0;
    let expected = most() / 2 - price_of(30);
    assert!((expected - 4..=expected).contains(&left), "{left} left of {expected}");
    pair.provider.book().now_ms += ALLOWANCE_MS;
    pair.try_start(7, &budget).expect("a day later");
    assert_eq!(refused(pair.try_start(8, &strangers(0))).strangers, MicroCredits::ZERO);
}

#[test]
fn credit_grows_by_what_was_settled_and_by_nothing_else() {
    let mut pair = Pair::new();
    pair.try_start(1, &FRIENDS).expect("within the budget");
    pair.finish_and_pay(1, 300);
    let owed = most();
    assert_eq!(pair.exposure(), owed);
    refused(pair.try_start(2, &strangers(0)));
    assert!(matches!(
        pair.settle_outside(owed + 1),
        Err(LedgerError::Settlement(SettlementFault::AbovePromised { .. }))
    ));
    let part = pair.settle_outside(owed - 1).expect("of what was promised");
    assert_eq!(pair.exposure(), 1);
    let fault = refused(pair.try_start(3, &strangers(0)));
    assert_eq!((fault.needed.0, fault.own.0), (owed, owed - 2), "one is still open");
    let rest = pair.settle_outside(1).expect("the rest");
    pair.provider.restart();
    pair.try_start(4, &strangers(0)).expect("its own credit reaches");
    assert_eq!(pair.exposure(), owed);
    refused(pair.try_start(5, &strangers(0)));
    // The payer takes it, in any order and more than once, and nothing that is not the payee's word.
    assert!(matches!(pair.settle_outside(1), Err(LedgerError::Settlement(_))), "nothing is open");
    pair.take_settlement(rest.clone()).expect("the payee's word");
    pair.take_settlement(rest.clone()).expect("twice changes nothing");
    assert!(matches!(pair.take_settlement(part), Err(LedgerError::Settlement(SettlementFault::Lower { .. }))));
    pair.client.restart();
    let payee = pair.provider.id();
    let balance = pair.client.run(|book| Ok(book.balance(Side::Client, payee)?)).expect("readable");
    assert_eq!((balance.promised.0, balance.settled.0), (owed, owed));
    let mut more = rest.read_unverified().expect("signed here");
    more.cumulative = MicroCredits(owed + 1);
    let more = aitbc_crypto::seal(&pair.provider.key, &network(), &more).expect("small");
    let above = pair.take_settlement(more);
    assert!(matches!(above, Err(LedgerError::Settlement(SettlementFault::AbovePromised { .. }))), "{above:?}");
}

#[test]
fn a_settlement_waits_until_its_payer_has_taken_the_newest() {
    let mut pair = Pair::new();
    pair.try_start(1, &FRIENDS).expect("within the budget");
    pair.finish_and_pay(1, 300);
    let payer = pair.client.id();
    pair.settle_outside(10).expect("of what was promised");
    pair.settle_outside(5).expect("of what was promised");
    let waiting = |pair: &mut Pair| {
        let record = pair.provider.run(|book| Ok(book.settlement(Side::Provider, payer)?)).expect("readable");
        let record = record.expect("there is one");
        (record.settled.0, record.delivered)
    };
    pair.provider.run(|book| book.settlement_delivered(payer, MicroCredits(10))).expect("known");
    assert_eq!(waiting(&mut pair), (15, false), "the older one arrived");
    pair.provider.run(|book| book.settlement_delivered(payer, MicroCredits(15))).expect("known");
    assert_eq!(waiting(&mut pair), (15, true));
    pair.provider.restart();
    assert_eq!(waiting(&mut pair), (15, true));
}

#[test]
fn a_subnet_takes_its_share_and_leaves_the_rest_to_others() {
    let mut pair = Pair::new();
    let from = |ip: Option<&str>| Strangers {
        // What is rounded up when it is taken must not keep the fourth out.
        budget: MicroCredits(4 * most() + 8),
        from: Some(Origin::of(ip.map(|ip| ip.parse::<IpAddr>().expect("an address")))),
    };
    pair.try_start(1, &from(Some("203.0.113.7"))).expect("its subnet's share");
    let fault = refused(pair.try_start(2, &from(Some("203.0.113.99"))));
    assert!(fault.strangers.0 <= 2, "the same subnet: {fault}");
    pair.try_start(3, &from(Some("198.51.100.1"))).expect("another subnet");
    pair.try_start(4, &from(None)).expect("through a relay");
    refused(pair.try_start(5, &from(None)));
    pair.try_start(6, &from(Some("2001:db8::1"))).expect("the last quarter");
    refused(pair.try_start(7, &from(Some("2001:db9::1"))));
}

#[test]
fn a_subnet_gets_back_what_a_job_did_not_need() {
    let mut pair = Pair::new();
    let ip = "203.0.113.7".parse::<IpAddr>().expect("an address");
    let home = Strangers { budget: MicroCredits(4 * most() + 8), from: Some(Origin::of(Some(ip))) };
    pair.try_start(1, &home).expect("its subnet's share");
    let running = refused(pair.try_start(2, &home)).strangers;
    pair.finish_and_pay(1, 1);
    let after = refused(pair.try_start(3, &home)).strangers;
    assert!(after.0 + price_of(1) + 4 >= most() && after > running, "all but what it came to: {after}");
}

#[test]
fn jobs_from_before_there_was_credit_keep_nobody_out() {
    let mut pair = Pair::new();
    pair.try_start(1, &FRIENDS).expect("within the budget");
    pair.finish_and_pay(1, 300);
    // As an older aitbc left it: a promise, and nothing that was taken for it.
    let sums = Sums { strangers: aitbc_protocol::credit::Allowance::default(), ..*pair.provider.book().sums() };
    let changes = crate::storage::Changes { sums: Some(sums), ..Default::default() };
    pair.provider.book().store.commit(&changes).expect("room");
    pair.provider.restart();
    pair.try_start(2, &strangers(most())).expect("a stranger like any other");
}
