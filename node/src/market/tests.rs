use super::*;
use crate::storage::Sums;
use crate::storage::tests::{
    Filler, child_directory, execution, key, network, nonce, on_a_small_disk, quote, receipt,
};
use aitbc_protocol::{
    holdback::{Audit, HOLD_MS, RELEASE_GRACE_MS},
    job::Finish,
    price::TokenPrice,
    receipt::{OutputDigest, ReceiptFile},
};
use book::{DEBT_GRACE_MS, DEBT_LIFETIME_MS};
use tempfile::TempDir;

mod accounts;
mod crashes;
mod credit;
mod holding;
mod settling;
mod simulation;

/// Credit that reaches for everything.
const FRIENDS: Strangers = Strangers { budget: MicroCredits(u64::MAX), from: None };
/// The time at which the books of these tests open.
const NOW: u64 = 10_000;

/// A node's book with its database, which a crash can take away and give back.
struct Node {
    directory: TempDir,
    key: SecretKey,
    book: Option<Book>,
}

impl Node {
    fn new(seed: u8) -> Self {
        // Memory rather than disk where there is some: a crash of the process is what is tested here.
        let memory = std::path::Path::new("/dev/shm");
        let directory = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let mut node = Self { directory: directory.expect("a temporary directory"), key: key(seed), book: None };
        node.restart();
        node
    }

    fn id(&self) -> NodeId {
        self.key.node_id()
    }

    /// Loses what was not committed.
    fn restart(&mut self) {
        self.book = None;
        let store = Store::open(self.directory.path()).expect("the database");
        self.book = Some(Book::open(store, self.key.clone(), network(), NOW).expect("a readable book"));
    }

    fn book(&mut self) -> &mut Book {
        self.book.as_mut().expect("open but for a moment")
    }

    /// One request with its commit.
    fn run<T>(&mut self, work: impl FnOnce(&mut Book) -> Result<T, LedgerError>) -> Result<T, LedgerError> {
        let book = self.book();
        book.begin(book.now_ms)?;
        let result = work(book);
        book.commit()?;
        result
    }

    fn debt(&mut self, client: &NodeId) -> MicroCredits {
        self.book().debt(client).expect("readable")
    }

    fn record(&mut self, side: Side, number: u64) -> JobRecord {
        self.run(|book| book.known(side, &nonce(number))).expect("a known job").record
    }
}

fn verified<T: Statement>(signed: Signed<T>) -> Verified<T> {
    let read = aitbc_crypto::open(&signed, &network()).expect("a good signature");
    Verified { signed, read }
}

/// A client and a provider.
struct Pair {
    client: Node,
    provider: Node,
    /// What the provider's quotes say instead of their usual price.
    price: Option<TokenPrice>,
}

impl Pair {
    fn new() -> Self {
        Self { client: Node::new(1), provider: Node::new(2), price: None }
    }

    fn quote(&self, number: u64) -> Signed<Quote> {
        let quote = quote(&self.provider.key, self.client.id(), number);
        let Some(price) = self.price else { return quote };
        let mut quote = quote.read_unverified().expect("signed here");
        quote.price = price;
        quote.adjustment.electricity = MicroCredits::ZERO;
        quote.max_total = quote.total(quote.max_completion_tokens).expect("small numbers");
        quote.audit = Audit::of(quote.max_total, quote.issued_ms);
        aitbc_crypto::seal(&self.provider.key, &network(), &quote).expect("small")
    }

    fn read_quote(&self, number: u64) -> Quote {
        self.quote(number).read_unverified().expect("signed here")
    }

    /// A job that runs on both sides.
    fn start(&mut self, number: u64) {
        let (client, provider, quote) = (self.client.id(), self.provider.id(), self.quote(number));
        let id = self.read_quote(number).job;
        self.client.run(|book| book.open_job(provider, Vec::new(), id, quote.clone())).expect("a fresh quote");
        self.provider.run(|book| book.admit(client, quote, execution(), &FRIENDS)).expect("a fresh quote");
        self.client.run(|book| book.accepted(nonce(number))).expect("it was opened");
    }

    fn pay(&mut self, number: u64, tokens: u32) -> Result<Signed<Cheque>, LedgerError> {
        self.client.run(|book| book.pay(nonce(number), tokens))
    }

    fn take(&mut self, number: u64, cheque: Signed<Cheque>, delivered: u32) -> Result<u32, LedgerError> {
        let client = self.client.id();
        self.provider.run(|book| book.take_cheque(nonce(number), client, verified(cheque), delivered))
    }

    fn finish(&mut self, number: u64, tokens: u32, finish: Finish) -> Signed<Receipt> {
        let receipt = receipt(&self.read_quote(number), tokens, finish);
        self.provider.run(|book| book.finish(&receipt, None)).expect("an honest receipt")
    }

    fn take_receipt(
        &mut self,
        number: u64,
        receipt: Signed<Receipt>,
        tokens: u32,
    ) -> Result<Vec<Check>, LedgerError> {
        let seen = Seen { tokens, output: OutputDigest::Tokens(Digest([6; 32])), sealed: None };
        self.client.run(|book| book.take_receipt(nonce(number), verified(receipt), Some(&seen)))
    }

    /// Settles until the client's side is final, as the two nodes do.
    fn settle(&mut self, number: u64) -> JobRecord {
        let client = self.client.id();
        for _ in 0..3 {
            let cheque = self.client.record(Side::Client, number).cheque.map(verified);
            let reply =
                self.provider.run(|book| book.settle(nonce(number), client, cheque)).expect("an honest client");
            let (paid, receipt) = reply.unwrap_or_default();
            let receipt = receipt.map(verified);
            let record =
                self.client.run(|book| book.settled(nonce(number), paid, receipt)).expect("an honest provider");
            if record.state.is_final() {
                return record;
            }
        }
        panic!("not settled after three rounds");
    }

    fn both(&mut self, number: u64) -> [(JobState, u64); 2] {
        [self.client.record(Side::Client, number), self.provider.record(Side::Provider, number)]
            .map(|record| (record.state, record.paid.0))
    }
}

fn price_of(tokens: u32) -> u64 {
    let quote = quote(&key(2), key(1).node_id(), 0).read_unverified().expect("signed here");
    quote.total(tokens).expect("small numbers").0
}

#[test]
fn a_job_from_quote_to_the_last_cheque() {
    let mut pair = Pair::new();
    pair.start(1);
    let cheque = pair.pay(1, 64).expect("within the quote");
    assert_eq!(pair.take(1, cheque.clone(), 64).expect("good"), 64);
    assert_eq!(pair.pay(1, 30).expect("paid already"), cheque, "fewer tokens: the newest cheque");
    let receipt = pair.finish(1, 80, Finish::Stop);
    let checks = pair.take_receipt(1, receipt.clone(), 80).expect("honest");
    assert!(checks.iter().all(|check| check.passed == Some(true)));
    assert_eq!(pair.both(1), [(JobState::Delivered, price_of(80)), (JobState::Delivered, price_of(64))]);
    let last = pair.pay(1, 80).expect("signed with the receipt");
    assert_eq!(pair.take(1, last, 80).expect("good"), 80);
    pair.client.run(|book| book.paid(nonce(1))).expect("both sides have it");
    assert_eq!(pair.both(1), [(JobState::Completed, price_of(80)); 2]);
    let paid = MicroCredits(price_of(80));
    let bought = pair.client.book().totals();
    assert_eq!(bought, Totals { spent: paid, jobs_bought: 1, ..Totals::default() });
    let sold = pair.provider.book().totals();
    assert_eq!(sold, Totals { earned: paid, jobs_provided: 1, ..Totals::default() });
    pair.provider.restart();
    assert_eq!(pair.provider.book().totals(), sold, "sums survive");
    let late = pair.take_receipt(1, receipt, 80);
    assert!(late.is_ok(), "the same receipt again: {late:?}");
    assert!(matches!(pair.pay(1, 81), Err(LedgerError::Ended(JobState::Completed))));
}

#[test]
fn a_quote_is_good_for_one_job() {
    let mut pair = Pair::new();
    pair.start(1);
    let (client, provider, quote) = (pair.client.id(), pair.provider.id(), pair.quote(1));
    let replay = pair.provider.run(|book| book.admit(client, quote.clone(), execution(), &FRIENDS));
    assert!(matches!(replay, Err(LedgerError::QuoteUsed)), "{replay:?}");
    pair.provider.restart();
    let replay = pair.provider.run(|book| book.admit(client, quote.clone(), execution(), &FRIENDS));
    assert!(matches!(replay, Err(LedgerError::QuoteUsed)), "after a restart: {replay:?}");
    let again = pair.client.run(|book| book.open_job(provider, Vec::new(), JobId([7; 16]), quote.clone()));
    assert!(matches!(again, Err(LedgerError::QuoteUsed)), "{again:?}");
    let stranger = pair.provider.run(|book| book.admit(provider, quote, execution(), &FRIENDS));
    assert!(matches!(stranger, Err(LedgerError::Signature(_))), "for another client: {stranger:?}");
}

#[test]
fn never_more_than_the_quote_nor_than_was_delivered() {
    let mut pair = Pair::new();
    pair.start(1);
    assert!(matches!(pair.pay(1, 301), Err(LedgerError::Overcharge(_))), "the quote bills 300 at most");
    let cheque = pair.pay(1, 64).expect("within the quote");
    let early = pair.take(1, cheque, 63);
    assert!(matches!(early, Err(LedgerError::Cheque(ChequeFault::Undelivered { .. }))), "{early:?}");
}

#[test]
fn a_provider_that_overcounts_is_refused_payment() {
    let mut pair = Pair::new();
    pair.start(1);
    let cheque = pair.pay(1, 64).expect("within the quote");
    pair.take(1, cheque, 64).expect("good");
    let receipt = pair.finish(1, 90, Finish::Stop);
    let refused = pair.take_receipt(1, receipt.clone(), 80);
    assert!(
        matches!(&refused, Err(LedgerError::Overcharge(why)) if why.contains("90 billed, 80 received")),
        "{refused:?}"
    );
    let record = pair.client.record(Side::Client, 1);
    assert_eq!(record.receipt, Some(receipt), "kept as evidence");
    assert_eq!(record.paid.0, price_of(64));
    assert!(matches!(pair.pay(1, 80), Err(LedgerError::Overcharge(_))), "nothing more is paid");
    assert!(matches!(
        pair.take_receipt(1, record.receipt.clone().expect("kept"), 90),
        Err(LedgerError::Overcharge(_))
    ));
    let record = pair.settle(1);
    assert_eq!((record.state, record.paid.0), (JobState::Failed, price_of(64)));
    assert_eq!(pair.both(1), [(JobState::Failed, price_of(64)), (JobState::Delivered, price_of(64))]);
}

#[test]
fn a_provider_that_broke_the_protocol_keeps_what_was_acknowledged_and_gets_nothing_more() {
    for (paid, billed) in [(0, 40), (64, 64), (64, 100)] {
        let mut pair = Pair::new();
        pair.start(1);
        if paid > 0 {
            let cheque = pair.pay(1, paid).expect("within the quote");
            pair.take(1, cheque, paid).expect("good");
        }
        let acknowledged = if paid > 0 { price_of(paid) } else { 0 };
        let refused = pair.client.run(|book| book.refuse(nonce(1), Line::lossy("it left a gap"))).expect("known");
        assert_eq!((refused.state, refused.paid.0), (JobState::Running, acknowledged));
        assert!(matches!(pair.pay(1, billed + 1), Err(LedgerError::Overcharge(_))), "nothing more is promised");
        let receipt = pair.finish(1, billed, Finish::Cancelled);
        pair.client.restart();
        assert!(matches!(pair.take_receipt(1, receipt.clone(), billed), Err(LedgerError::Overcharge(_))));
        let record = pair.settle(1);
        assert_eq!((record.state, record.paid.0), (JobState::Failed, acknowledged), "{paid} of {billed}");
        assert_eq!(record.failure, Some(Line::lossy("it left a gap")));
        assert_eq!(record.receipt, Some(receipt), "kept as evidence");
        assert_eq!(pair.provider.record(Side::Provider, 1).paid.0, acknowledged);
    }
}

#[test]
fn tokens_that_cost_nothing_are_acknowledged_after_the_end_too() {
    let mut pair = Pair::new();
    pair.price = Some(TokenPrice { prompt: MicroCredits::ZERO, completion: MicroCredits::ZERO });
    pair.start(1);
    // The path breaks: the client promises what it got, the provider's receipt is covered by nothing.
    pair.pay(1, 30).expect("within the quote");
    pair.finish(1, 40, Finish::Cancelled);
    assert_eq!(pair.both(1), [(JobState::Running, 0), (JobState::Cancelled, 0)]);
    assert_eq!(pair.settle(1).state, JobState::Cancelled);
    assert_eq!(pair.provider.record(Side::Provider, 1).tokens, 30);
    assert_eq!(pair.client.book().totals().jobs_bought, pair.provider.book().totals().jobs_provided);
}

#[tokio::test]
async fn what_is_owed_to_a_provider_is_found_by_its_name() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(directory.path()).expect("a new database");
    let ledger = Ledger::start(store, key(1), network(), &Metrics::default()).expect("a new ledger");
    for (number, provider) in [(1, 2), (2, 2), (3, 3)] {
        let quote = quote(&key(provider), key(1).node_id(), number);
        ledger.open(key(provider).node_id(), Vec::new(), JobId([7; 16]), quote).await.expect("a fresh quote");
    }
    ledger.give_up(nonce(1), Line::lossy("gone")).await.expect("it was open");
    ledger.give_up(nonce(3), Line::lossy("gone")).await.expect("it was open");
    assert_eq!(ledger.unsettled().await.expect("readable").len(), 1, "given up");
    let with = async |providers: &[u8]| {
        let providers = providers.iter().map(|seed| key(*seed).node_id()).collect();
        let records = ledger.unsettled_with(providers).await.expect("readable");
        records.iter().map(|record| record.key().expect("ours")).collect::<HashSet<_>>()
    };
    assert_eq!(with(&[2]).await, HashSet::from([nonce(1), nonce(2)]));
    assert_eq!(with(&[3, 9]).await, HashSet::from([nonce(3)]));
    assert_eq!(with(&[9]).await, HashSet::new());
}

#[test]
fn a_receipt_by_another_node_is_not_kept() {
    let mut pair = Pair::new();
    pair.start(1);
    let forged = receipt(&pair.read_quote(1), 10, Finish::Stop);
    let forged = aitbc_crypto::seal(&key(9), &network(), &forged).expect("small");
    assert!(matches!(pair.take_receipt(1, forged, 10), Err(LedgerError::Signature(_))));
    assert_eq!(pair.client.record(Side::Client, 1).receipt, None);
}

#[test]
fn cheques_lower_for_another_pair_or_job_are_refused() {
    let mut pair = Pair::new();
    pair.start(1);
    pair.start(2);
    let good = pair.pay(1, 64).expect("within the quote");
    pair.take(1, good.clone(), 64).expect("good");
    let base = good.read_unverified().expect("signed here");
    let total = |tokens| MicroCredits(price_of(tokens));
    let cases = [
        ("another provider", Cheque { provider: key(9).node_id(), ..base.clone() }, ChequeFault::OtherProvider),
        ("another quote", Cheque { quote: nonce(2), ..base.clone() }, ChequeFault::OtherJob),
        ("another job", Cheque { job: JobId([1; 16]), ..base.clone() }, ChequeFault::OtherJob),
        (
            "a lower sum under a newer number",
            Cheque {
                sequence: 2,
                cumulative: MicroCredits(1),
                job_total: total(100),
                tokens: 100,
                ..base.clone()
            },
            ChequeFault::Lower { had: total(64), got: MicroCredits(1) },
        ),
        (
            "fewer tokens under a newer number",
            Cheque { sequence: 2, job_total: total(10), tokens: 10, ..base.clone() },
            ChequeFault::JobLower,
        ),
        (
            "more for the job than is promised in all",
            Cheque { sequence: 2, job_total: total(100), tokens: 100, ..base.clone() },
            ChequeFault::Overallocated,
        ),
        (
            "tokens for less than their price",
            Cheque { sequence: 2, cumulative: total(100), tokens: 100, ..base.clone() },
            ChequeFault::Amount { expected: total(100), got: total(64) },
        ),
    ];
    for (what, cheque, fault) in cases {
        let cheque = aitbc_crypto::seal(&key(1), &network(), &cheque).expect("small");
        match pair.take(1, cheque, 300) {
            Err(LedgerError::Cheque(found)) => assert_eq!(found, fault, "{what}"),
            other => panic!("{what}: {other:?}"),
        }
    }
    assert_eq!(pair.take(1, good, 64).expect("twice changes nothing"), 64);
    let record = pair.provider.record(Side::Provider, 1);
    assert_eq!((record.paid, record.tokens), (total(64), 64), "no refused cheque left a trace");
    let provider =
        pair.provider.run(|book| Ok(book.channel(Side::Provider, key(1).node_id())?)).expect("readable");
    assert_eq!((provider.sequence, provider.cumulative, provider.allocated), (1, total(64), total(64)));
}

#[test]
fn a_late_client_is_refused_work_until_it_pays() {
    let mut pair = Pair::new();
    pair.start(1);
    let receipt = pair.finish(1, 64, Finish::Stop);
    let client = pair.client.id();
    let owed = MicroCredits(price_of(64));
    assert_eq!(pair.provider.debt(&client), MicroCredits::ZERO, "it has a moment");
    assert_eq!(pair.provider.book().totals().owed_to_us, owed);
    pair.provider.book().now_ms += DEBT_GRACE_MS;
    assert_eq!(pair.provider.debt(&client), owed);
    assert_eq!(pair.provider.debt(&key(9).node_id()), MicroCredits::ZERO);
    pair.provider.restart();
    pair.provider.book().now_ms += DEBT_GRACE_MS;
    assert_eq!(pair.provider.debt(&client), owed, "debts survive");
    pair.take_receipt(1, receipt, 64).expect("honest");
    assert_eq!(pair.settle(1).state, JobState::Completed);
    assert_eq!(pair.provider.debt(&client), MicroCredits::ZERO);
    assert_eq!(pair.both(1), [(JobState::Completed, owed.0); 2]);
}

#[test]
fn a_debt_is_written_off_in_the_end() {
    let mut pair = Pair::new();
    pair.start(1);
    pair.finish(1, 64, Finish::Cancelled);
    let later = NOW + DEBT_GRACE_MS + DEBT_LIFETIME_MS;
    pair.provider.book().begin(later).expect("readable");
    pair.provider.book().commit().expect("room");
    assert_eq!(pair.provider.record(Side::Provider, 1).state, JobState::ReceiptMissing);
    assert_eq!(pair.provider.debt(&key(1).node_id()), MicroCredits::ZERO);
    let cheque = pair.pay(1, 64).expect("within the quote");
    assert_eq!(pair.take(1, cheque, 64).expect("late money is money"), 64);
    assert_eq!(pair.provider.record(Side::Provider, 1).state, JobState::Failed);
}

#[test]
fn a_refused_job_owes_nothing() {
    let mut pair = Pair::new();
    let (provider, quote) = (pair.provider.id(), pair.quote(1));
    let id = pair.read_quote(1).job;
    pair.client.run(|book| book.open_job(provider, Vec::new(), id, quote)).expect("a fresh quote");
    pair.client.run(|book| book.refused(nonce(1), Line::lossy("full"))).expect("it was open");
    let record = pair.client.record(Side::Client, 1);
    assert_eq!((record.state, record.paid), (JobState::Rejected, MicroCredits::ZERO));
    assert!(matches!(pair.pay(1, 1), Err(LedgerError::Ended(JobState::Rejected))));
    assert!(matches!(pair.client.run(|book| book.accepted(nonce(1))), Err(LedgerError::Transition(_))));
}

#[test]
fn a_full_disk_signs_nothing_and_the_ledger_goes_on_afterwards() {
    on_a_small_disk("market::tests::full_disk_child", 24);
}

#[test]
#[ignore = "run by another test in a process of its own"]
fn full_disk_child() {
    let Some(directory) = child_directory() else { return };
    let store = Store::open(&directory.join("db")).expect("a new database");
    let mut book = Book::open(store, key(1), network(), NOW).expect("a new book");
    let quote = quote(&key(2), key(1).node_id(), 1);
    let id = quote.read_unverified().expect("signed here").job;
    book.open_job(key(2).node_id(), Vec::new(), id, quote).expect("a fresh quote");
    book.commit().expect("room");
    let filler = Filler::fill(&directory);
    let mut tokens = 0;
    let error = loop {
        book.begin(NOW).expect("no write failed so far");
        // Once all tokens are paid for, notes fill what is left.
        tokens = (tokens + 1).min(200);
        book.pay(nonce(1), tokens).expect("within the quote");
        match book.commit() {
            Ok(true) => {}
            Ok(false) => {
                if let Err(error) = book.store.put_setting("note", &[7; 4096]) {
                    break error;
                }
            }
            Err(error) => {
                tokens -= 1;
                break error;
            }
        }
    };
    assert!(matches!(error, StorageError::Full(_)), "{error:?}");
    book.pay(nonce(1), tokens + 1).expect("promised in memory");
    assert!(matches!(book.commit(), Err(StorageError::Full(_))), "and not on disk");
    assert!(matches!(book.begin(NOW), Err(StorageError::Full(_))));
    filler.free();
    book.begin(NOW).expect("there is room again");
    let record = book.known(Side::Client, &nonce(1)).expect("it was opened").record;
    assert!(
        record.tokens == tokens || record.tokens == tokens + 1,
        "the failed cheque is there whole or not at all"
    );
    let cheque = book.pay(nonce(1), 250).expect("within the quote").read_unverified().expect("ours");
    book.commit().expect("room");
    assert_eq!((cheque.cumulative.0, cheque.job_total.0), (price_of(250), price_of(250)));
    assert_eq!(book.totals().spent.0, price_of(250));
}

fn file(pair: &mut Pair) -> ReceiptFile {
    pair.start(1);
    let receipt = pair.finish(1, 80, Finish::Stop);
    pair.take_receipt(1, receipt, 80).expect("honest");
    receipt_file(&pair.client.record(Side::Client, 1), &network()).expect("it has a receipt")
}

#[test]
fn a_receipt_file_proves_itself() {
    let good = file(&mut Pair::new());
    let failed = |file: &ReceiptFile| -> Vec<String> {
        let checks = verify::verify_receipt_file(file);
        checks.iter().filter(|check| check.passed == Some(false)).map(|check| check.name.to_string()).collect()
    };
    assert_eq!(failed(&good), [""; 0]);
    let text = serde_json::to_string(&good).expect("it has a text form");
    assert_eq!(failed(&serde_json::from_str(&text).expect("its own text")), [""; 0]);
    let elsewhere = ReceiptFile { network: NetworkId::new("main").expect("a valid name"), ..good.clone() };
    assert_eq!(failed(&elsewhere), ["quote signature", "receipt signature"]);
    let other = receipt(&good.quote.read_unverified().expect("signed here"), 80, Finish::Stop);
    let forged = aitbc_crypto::seal(&key(9), &network(), &other).expect("small");
    assert_eq!(failed(&ReceiptFile { receipt: forged, ..good.clone() }), ["receipt signature"]);
    assert_eq!(failed(&ReceiptFile { cheque: None, ..good.clone() }), ["cheque"]);
    let mut cheque = good.cheque.as_ref().expect("paid").read_unverified().expect("ours");
    let sealed = |by: u8, cheque: &Cheque| Some(aitbc_crypto::seal(&key(by), &network(), cheque).expect("small"));
    assert_eq!(failed(&ReceiptFile { cheque: sealed(9, &cheque), ..good.clone() }), ["cheque signature"]);
    cheque.tokens = 79;
    cheque.job_total = MicroCredits(price_of(79));
    assert_eq!(failed(&ReceiptFile { cheque: sealed(1, &cheque), ..good.clone() }), ["cheque"]);
    let schema = "aitbc.receipt/2".to_owned();
    assert_eq!(failed(&ReceiptFile { schema, ..good }), ["schema"]);
}

#[tokio::test]
async fn the_thread_answers_many_callers_and_gives_the_database_back() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let metrics = Metrics::default();
    let store = Store::open(directory.path()).expect("a new database");
    let ledger = Ledger::start(store, key(1), network(), &metrics).expect("a new ledger");
    let provider = key(2).node_id();
    let jobs = (1..=16).map(|number| {
        let ledger = ledger.clone();
        async move {
            let quote = quote(&key(2), key(1).node_id(), number);
            ledger.open(provider, Vec::new(), JobId([7; 16]), quote).await?;
            ledger.pay(nonce(number), 64).await
        }
    });
    let cheques = futures::future::try_join_all(jobs).await.expect("all are good");
    let mut sequences: Vec<u64> =
        cheques.iter().map(|cheque| cheque.read_unverified().expect("ours").sequence).collect();
    sequences.sort_unstable();
    assert_eq!(sequences, (1..=16).collect::<Vec<_>>());
    assert_eq!(ledger.totals().await.expect("it runs").spent.0, 16 * price_of(64));
    assert_eq!(ledger.unsettled().await.expect("readable").len(), 16);
    let text = metrics.encode();
    assert!(text.contains("aitbc_market_cheques_total 16"), "{text}");
    assert!(text.contains(&format!("aitbc_market_spent_microcredits {}", 16 * price_of(64))), "{text}");
    assert!(text.contains("aitbc_storage_commits_seconds_count"), "{text}");
    let mut forged = cheques[0].read_unverified().expect("ours");
    forged.provider = key(1).node_id();
    let forged = aitbc_crypto::seal(&key(9), &network(), &forged).expect("small");
    let refused = ledger.take_cheque(nonce(1), provider, forged, 64).await;
    assert!(matches!(refused, Err(LedgerError::Signature(_))), "from another key: {refused:?}");
    drop(ledger);
    Store::open(directory.path()).expect("the thread has ended and closed it");
}
