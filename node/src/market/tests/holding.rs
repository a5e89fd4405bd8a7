//! What waits of a promise, on both sides.

use super::{accounts::traded, *};

const DAY_OVER: u64 = 1_000 + HOLD_MS;

impl Pair {
    fn held(&mut self) -> (u64, u64) {
        let (client, provider) = (self.client.id(), self.provider.id());
        let spent = self.client.run(|book| Ok(book.channel(Side::Client, provider)?)).expect("readable");
        let earned = self.provider.run(|book| Ok(book.channel(Side::Provider, client)?)).expect("readable");
        (spent.held.amount.0, earned.held.amount.0)
    }

    fn at(&mut self, now_ms: u64) {
        self.client.book().now_ms = now_ms;
        self.provider.book().now_ms = now_ms;
    }

    /// Brings what [`Book::release`] signed.
    fn bring(&mut self, record: &JobRecord) {
        let (client, provider) = (self.client.id(), self.provider.id());
        let cheque = record.cheque.clone().expect("signed");
        let sequence = cheque.read_unverified().expect("its own").sequence;
        let nonce = record.key().expect("its quote");
        let settled = self.provider.run(|book| book.settle(nonce, client, Some(verified(cheque))));
        settled.expect("an honest cheque").expect("a known job");
        self.client.run(|book| book.released(provider, sequence)).expect("written");
    }

    fn whole(&mut self, number: u64, tokens: u32) {
        self.start(number);
        let receipt = self.finish(number, tokens, Finish::Stop);
        self.take_receipt(number, receipt, tokens).expect("honest");
        let last = self.pay(number, tokens).expect("signed with the receipt");
        self.take(number, last, tokens).expect("good");
        self.client.run(|book| book.paid(nonce(number))).expect("both sides have it");
    }
}

#[test]
fn all_of_the_last_jobs_waits_until_the_date_of_the_quote() {
    let mut pair = traded();
    let paid = price_of(80);
    assert_eq!(pair.held(), (paid, paid));
    let provider = pair.provider.id();
    pair.at(DAY_OVER - 1);
    assert!(pair.client.run(|book| book.release(provider)).expect("readable").is_none(), "it is not due");
    pair.at(DAY_OVER);
    let record = pair.client.run(|book| book.release(provider)).expect("readable").expect("it is due");
    // It did not arrive: the same cheque is brought again, after a restart as well.
    pair.client.restart();
    pair.at(DAY_OVER + 1);
    assert_eq!(pair.held(), (paid, paid));
    let again = pair.client.run(|book| book.release(provider)).expect("readable").expect("it is due");
    assert_eq!(again.cheque, record.cheque);
    pair.bring(&again);
    assert_eq!(pair.held(), (0, 0));
    assert!(pair.client.run(|book| book.release(provider)).expect("readable").is_none(), "nothing waits any more");
    let client = pair.client.id();
    let balance = pair.provider.run(|book| Ok(book.balance(Side::Provider, client)?)).expect("readable");
    assert_eq!(
        (balance.promised.0, balance.payable().0),
        (paid, paid),
        "the promise stands, all of it is payable"
    );
}

#[test]
fn who_does_not_let_go_gets_no_more_work() {
    let mut pair = traded();
    let (client, provider) = (pair.client.id(), pair.provider.id());
    let debt = |pair: &mut Pair| pair.provider.debt(&client).0;
    pair.at(DAY_OVER + RELEASE_GRACE_MS - 1);
    let owed = debt(&mut pair);
    pair.at(DAY_OVER + RELEASE_GRACE_MS);
    assert_eq!(debt(&mut pair), owed + price_of(80));
    let record = pair.client.run(|book| book.release(provider)).expect("readable").expect("it is due");
    pair.bring(&record);
    assert_eq!(debt(&mut pair), owed, "the account is open again");
}

#[test]
fn a_fault_takes_its_part_on_both_sides() {
    let mut pair = traded();
    let (client, provider) = (pair.client.id(), pair.provider.id());
    let paid = price_of(80);
    let lost = pair.client.run(|book| book.forfeit(Side::Client, provider, 500_000)).expect("written");
    assert_eq!(lost.0, paid / 2);
    assert_eq!(pair.provider.run(|book| book.forfeit(Side::Provider, client, 500_000)).expect("written"), lost);
    assert_eq!(pair.held(), (0, 0));
    pair.client.restart();
    pair.provider.restart();
    let spent = pair.client.run(|book| Ok(book.balance(Side::Client, provider)?)).expect("readable");
    let earned = pair.provider.run(|book| Ok(book.balance(Side::Provider, client)?)).expect("readable");
    assert_eq!(spent, earned);
    assert_eq!((spent.forfeited, spent.open().0), (lost, paid - paid / 2));
    let totals = pair.client.book().totals();
    assert_eq!(totals.got_back, lost);
    assert_eq!(
        pair.client.run(|book| book.forfeit(Side::Client, provider, 500_000)).expect("written").0,
        0,
        "once"
    );
}

#[test]
fn what_is_held_never_passes_what_the_quotes_allow() {
    let mut pair = Pair::new();
    let most = pair.read_quote(1).audit.held.0;
    let each = price_of(300);
    let jobs = most / each + 5;
    for number in 1..=jobs {
        pair.whole(number, 300);
    }
    assert_eq!(pair.held(), (most, most), "the price of as many jobs as one is checked of, and no more");
}
