//! Accounts, earnings and exports, read from what two nodes did.

use super::*;
use aitbc_protocol::{
    ledger::{Direction, LedgerExport, LedgerLine, LedgerSums},
    sla::verdict,
};
use export::{Verified as VerifiedExport, verify_export};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// A paid job, and one that was delivered and not paid.
pub(super) fn traded() -> Pair {
    let mut pair = Pair::new();
    pair.start(1);
    let cheque = pair.pay(1, 64).expect("within the quote");
    pair.take(1, cheque, 64).expect("good");
    let receipt = pair.finish(1, 80, Finish::Stop);
    pair.take_receipt(1, receipt, 80).expect("honest");
    let last = pair.pay(1, 80).expect("signed with the receipt");
    pair.take(1, last, 80).expect("good");
    pair.client.run(|book| book.paid(nonce(1))).expect("both sides have it");
    pair.start(2);
    pair.finish(2, 10, Finish::Cancelled);
    pair
}

/// A paid job whose first token came late, and what its receipt gives back for that.
fn late() -> (Pair, MicroCredits) {
    let mut pair = Pair::new();
    pair.start(1);
    let quote = pair.read_quote(1);
    let mut late = receipt(&quote, 80, Finish::Stop);
    late.timings.first_token_ms = u64::from(quote.terms.penalty_from_ms) + 90;
    late.timings.total_ms = late.timings.first_token_ms + 100;
    late.penalty = verdict(&quote, &late).penalty;
    assert!(late.penalty > MicroCredits::ZERO && late.penalty < late.total, "{late:?}");
    let signed = pair.provider.run(|book| book.finish(&late, None)).expect("an honest receipt");
    pair.take_receipt(1, signed, 80).expect("honest");
    let last = pair.pay(1, 80).expect("signed with the receipt");
    pair.take(1, last, 80).expect("good");
    pair.client.run(|book| book.paid(nonce(1))).expect("both sides have it");
    (pair, late.penalty)
}

/// The ledger of a node whose book is closed.
fn ledger(node: &mut Node) -> Ledger {
    node.book = None;
    let store = Store::open(node.directory.path()).expect("the database");
    Ledger::start(store, node.key.clone(), network(), &Metrics::default()).expect("a readable book")
}

#[tokio::test]
async fn both_sides_see_one_account() {
    let mut pair = traded();
    let (client, provider) = (pair.client.id(), pair.provider.id());
    let paid = MicroCredits(price_of(80));
    let fresh = Account {
        direction: Direction::Earned,
        peer: client,
        jobs: 2,
        paid_jobs: 1,
        promised: paid,
        owed: MicroCredits(price_of(10)),
        settled: MicroCredits::ZERO,
        refunded: MicroCredits::ZERO,
        forfeited: MicroCredits::ZERO,
        held: paid,
        held_until_ms: Some(1_000 + HOLD_MS),
        open: paid,
        payable: MicroCredits::ZERO,
    };
    let at_once = crate::market::accounts::all(&pair.provider.book().store, 10).expect("readable");
    assert_eq!(at_once.accounts, std::slice::from_ref(&fresh));
    // The clock of these tests stands long ago: what is owed was written off when the ledgers started.
    let account = Account { owed: MicroCredits::ZERO, ..fresh };
    let (spends, earns) = (ledger(&mut pair.client), ledger(&mut pair.provider));
    let earned = earns.accounts(10).await.expect("readable");
    assert_eq!(earned.accounts, std::slice::from_ref(&account));
    assert_eq!((earned.open_to_us, earned.open_to_others, earned.left_off), (paid, MicroCredits::ZERO, 0));
    assert_eq!(earns.accounts(0).await.expect("readable").left_off, 1);
    let spent = spends.accounts(10).await.expect("readable");
    let mirrored = Account { direction: Direction::Spent, peer: provider, ..account.clone() };
    assert_eq!(spent.accounts, [mirrored]);
    assert_eq!(spent.open_to_others, paid);
    let shown = earns.account(client, 1).await.expect("readable");
    assert_eq!((shown.len(), &shown[0].0, shown[0].1.len()), (1, &account, 1));
    assert_eq!(earns.account(provider, 1).await.expect("readable"), []);
}

#[tokio::test]
async fn earnings_are_summed_by_day_and_model() {
    let mut pair = traded();
    let record = pair.provider.record(Side::Provider, 1);
    let later = JobRecord { quote: pair.quote(3), created_ms: NOW + DAY_MS, ..record };
    let changes = crate::storage::Changes { jobs: vec![later], ..Default::default() };
    pair.provider.book().store.commit(&changes).expect("room");
    let earns = ledger(&mut pair.provider);
    // The quotes state 400 uc of electricity for a thousand tokens.
    let (paid, electricity) = (MicroCredits(price_of(80)), Some(MicroCredits(400 * 80 / 1000)));
    let one = Traded { jobs: 1, tokens: 80, paid, electricity, ..Traded::default() };
    let first = Traded { jobs: 2, unpaid: MicroCredits(price_of(10)), ..one };
    let earnings = earns.earnings(0).await.expect("readable");
    let row =
        |day_ms, sold| EarningsRow { day_ms, model: Line::lossy("smollm2:135m"), sold, bought: Traded::default() };
    assert_eq!(earnings.rows, [row(0, first), row(DAY_MS, one)]);
    let all = Traded {
        jobs: 3,
        tokens: 160,
        paid: MicroCredits(2 * price_of(80)),
        refunded: MicroCredits::ZERO,
        unpaid: first.unpaid,
        electricity: Some(MicroCredits(400 * 160 / 1000)),
    };
    assert_eq!((earnings.sold, earnings.bought), (all, Traded::default()));
    assert_eq!(earns.earnings(NOW + 1).await.expect("readable").rows, [row(DAY_MS, one)]);
    let spends = ledger(&mut pair.client);
    let bought = spends.earnings(0).await.expect("readable").bought;
    assert_eq!((bought.jobs, bought.paid, bought.electricity), (1, paid, None));
}

async fn exported(ledger: &Ledger, node: NodeId, since_ms: u64) -> Vec<u8> {
    let mut exporter = ledger.export(node, since_ms);
    let mut file = Vec::new();
    while let Some(piece) = exporter.next().await.expect("readable") {
        file.extend(piece);
    }
    file
}

fn failed(file: &[u8]) -> Vec<String> {
    let VerifiedExport { checks, .. } = verify_export(file).expect("memory");
    checks.iter().filter(|check| check.passed == Some(false)).map(|check| check.name.to_string()).collect()
}

#[tokio::test]
async fn an_export_proves_itself_and_nothing_in_it_can_be_changed() {
    let mut pair = traded();
    for side in [Side::Client, Side::Provider] {
        let node = if side == Side::Client { &mut pair.client } else { &mut pair.provider };
        let (id, ledger) = (node.id(), ledger(node));
        let file = exported(&ledger, id, 0).await;
        let verified = verify_export(file.as_slice()).expect("memory");
        assert!(verified.checks.iter().all(|check| check.passed == Some(true)), "{:?}", verified.checks);
        assert_eq!(verified.unproven, 0, "the newest cheque shows what is promised");
        assert_eq!(verified.header.expect("a first line").node, id);
        let sums = verified.statement.expect("signed").sums;
        let paid = MicroCredits(price_of(80));
        assert_eq!(sums.jobs, 2);
        assert_eq!(if side == Side::Client { sums.spent } else { sums.earned }, paid);
        // Any digit, and any line that is left out, doubled or added.
        for index in 0..file.len() {
            if file[index].is_ascii_digit() {
                let mut changed = file.clone();
                changed[index] = if changed[index] == b'1' { b'2' } else { b'1' };
                assert_ne!(failed(&changed), [""; 0], "byte {index} of {}", String::from_utf8_lossy(&file));
            }
        }
        let lines: Vec<&[u8]> = file.split_inclusive(|byte| *byte == b'\n').collect();
        for left_out in 0..lines.len() {
            let without: Vec<&[u8]> =
                lines.iter().enumerate().filter(|(index, _)| *index != left_out).map(|(_, line)| *line).collect();
            assert_ne!(failed(&without.concat()), [""; 0], "without line {left_out}");
            let mut twice = lines.clone();
            twice.insert(left_out, lines[left_out]);
            assert_ne!(failed(&twice.concat()), [""; 0], "line {left_out} twice");
        }
        for cut in 0..file.len() {
            assert_ne!(failed(&file[..cut]), [""; 0], "cut off at {cut}");
        }
        let later = exported(&ledger, id, NOW + 1).await;
        assert_eq!(failed(&later), [""; 0]);
        let sums = verify_export(later.as_slice()).expect("memory").statement.expect("signed").sums;
        assert_eq!(sums, LedgerSums::default(), "no job is so young");
    }
    assert_ne!(failed(&vec![b'x'; 100_000]), [""; 0], "no line is longer than allowed");
}

/// An export of `lines` that the provider signs, whatever they say.
fn sealed(lines: &[&str], sums: LedgerSums) -> Vec<u8> {
    let body = lines.join("\n") + "\n";
    let export = LedgerExport {
        lines: lines.len() as u64,
        digest: Digest::of(body.as_bytes()),
        since_ms: 0,
        issued_ms: NOW,
        sums,
    };
    let statement = aitbc_crypto::seal(&key(2), &network(), &export).expect("small");
    let last = serde_json::to_string(&LedgerLine::Signature { statement }).expect("a line");
    format!("{body}{last}\n").into_bytes()
}

#[tokio::test]
async fn what_is_given_back_and_lost_is_in_the_file_and_no_part_of_the_debt() {
    let (mut pair, back) = late();
    let (client, provider) = (pair.client.id(), pair.provider.id());
    // The rest of what is held is let go of with it, so that all that is open is to be settled now.
    let lost = pair.client.run(|book| book.forfeit(Side::Client, provider, 250_000)).expect("written");
    pair.provider.run(|book| book.forfeit(Side::Provider, client, 250_000)).expect("written");
    let paid = MicroCredits(price_of(80));
    let rest = MicroCredits(paid.0 - back.0 - lost.0);
    for side in [Side::Client, Side::Provider] {
        let (node, peer) = match side {
            Side::Client => (&mut pair.client, provider),
            Side::Provider => (&mut pair.provider, client),
        };
        let (id, ledger) = (node.id(), ledger(node));
        let file = String::from_utf8(exported(&ledger, id, 0).await).expect("text");
        assert_eq!(failed(file.as_bytes()), [""; 0], "{file}");
        let lines: Vec<LedgerLine> =
            file.lines().map(|line| serde_json::from_str(line).expect("a line")).collect();
        let [_, LedgerLine::Job(job), LedgerLine::Account(account), _] = lines.as_slice() else {
            panic!("{file}")
        };
        assert_eq!((job.paid, job.refunded), (paid, back));
        assert_eq!((account.refunded, account.forfeited), (back, lost));
        assert_eq!((account.open, account.payable), (rest, rest));
        let shown = ledger.account(peer, 1).await.expect("readable");
        assert_eq!((account.open, account.payable), (shown[0].0.open, shown[0].0.payable));
        let sums = verify_export(file.as_bytes()).expect("memory").statement.expect("signed").sums;
        let earnings = ledger.earnings(0).await.expect("readable");
        let (given, received, traded) = match side {
            Side::Client => (MicroCredits::ZERO, back, earnings.bought),
            Side::Provider => (back, MicroCredits::ZERO, earnings.sold),
        };
        assert_eq!((sums.refunds_given, sums.refunds_received), (given, received));
        assert_eq!((traded.paid, traded.refunded), (paid, back));
    }
}

#[tokio::test]
async fn an_account_gives_back_what_the_receipts_of_its_jobs_do() {
    let (mut pair, back) = late();
    let (id, ledger) = (pair.provider.id(), ledger(&mut pair.provider));
    let file = String::from_utf8(exported(&ledger, id, 0).await).expect("text");
    let sums = verify_export(file.as_bytes()).expect("memory").statement.expect("signed").sums;
    let lines: Vec<&str> = file.lines().collect();
    let &[header, job, account, _] = lines.as_slice() else { panic!("{file}") };
    let changed = |line: &str, name: &str, from: u64, to: u64| {
        let after = line.replace(&format!("\"{name}\":{from},"), &format!("\"{name}\":{to},"));
        assert_ne!(after, line, "{name}");
        after
    };
    let (paid, back) = (price_of(80), back.0);
    assert_eq!(failed(&sealed(&[header, job, account], sums)), [""; 0]);
    let kept = changed(account, "refunded", back, 0);
    assert_eq!(failed(&sealed(&[header, job, &kept], sums)), ["accounts"], "less is open than it says");
    let kept = changed(&kept, "open", paid - back, paid);
    assert_eq!(failed(&sealed(&[header, job, &kept], sums)), ["accounts"], "the job gives more back");
    let payable = changed(account, "payable", 0, 1);
    assert_eq!(failed(&sealed(&[header, job, &payable], sums)), ["accounts"], "the rest waits");
    let hidden = changed(job, "refunded", back, 0);
    assert_eq!(failed(&sealed(&[header, &hidden, account], sums)), ["sums"]);
    let generous = changed(job, "refunded", back, paid + 1);
    let more = LedgerSums { refunds_given: MicroCredits(paid + 1), ..sums };
    assert_eq!(failed(&sealed(&[header, &generous, account], more)), ["jobs", "accounts"]);
    let older = header.replace("aitbc.ledger/2", "aitbc.ledger/1");
    assert_eq!(failed(&sealed(&[&older, job, account], sums)), ["schema"]);
}

#[tokio::test]
async fn an_account_is_believed_for_its_cheque_alone() {
    let mut pair = traded();
    let (id, ledger) = (pair.provider.id(), ledger(&mut pair.provider));
    let file = String::from_utf8(exported(&ledger, id, 0).await).expect("text");
    let (header, account) = (file.lines().next().expect("first"), file.lines().rev().nth(1).expect("an account"));
    // A node that signs whatever it likes still cannot sign for its client.
    let sealed = |account: &str| sealed(&[header, account], LedgerSums::default());
    assert_eq!(failed(&sealed(account)), [""; 0]);
    let paid = price_of(80);
    let more = account.replace(&format!("\"promised\":{paid}"), &format!("\"promised\":{}", paid + 1));
    let more = more.replace(&format!("\"open\":{paid}"), &format!("\"open\":{}", paid + 1));
    assert_ne!(more, account);
    assert_eq!(failed(&sealed(&more)), ["accounts"]);
    let settled = account.replace("\"settled\":0", "\"settled\":1");
    let settled = settled.replace(&format!("\"open\":{paid}"), &format!("\"open\":{}", paid - 1));
    assert_eq!(failed(&sealed(&settled)), ["accounts"], "nobody has signed that");
    let held = account.replace(&format!("\"held\":{paid}"), &format!("\"held\":{}", paid + 1));
    assert_ne!(held, account);
    assert_eq!(failed(&sealed(&held)), ["accounts"], "the client holds no more than its cheque says");
    let less = account.replace(&format!("\"held\":{paid}"), "\"held\":0");
    let less = less.replace("\"payable\":0", &format!("\"payable\":{paid}"));
    assert_eq!(failed(&sealed(&less)), [""; 0], "what was lost by a fault waits no more");
}
