//! A client and a provider against a model of the world between them: cheques of three concurrent jobs get lost,
//! doubled and overtaken, paths break, either node crashes at any moment, also between deciding and writing. When all
//! is settled both hold the same sums.

use super::*;
use proptest::prelude::*;

const JOBS: usize = 3;
const WINDOW: u32 = 64;

/// What happens next, to which job.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The client takes its quote and asks.
    Open,
    /// The request arrives.
    Admit,
    /// The provider sends so many tokens, as far as the window allows.
    Send(u32),
    /// The client pays for what it received.
    Acknowledge,
    /// One of the cheques on the way arrives, perhaps not for the last time.
    Deliver { which: u8, again: bool },
    /// One of them does not.
    Lose(u8),
    /// The provider ends the job.
    Finish(Finish),
    /// The receipt arrives, and the last cheque leaves.
    Receive,
    /// The provider's word that it has the last cheque arrives.
    Confirm,
    /// The stream breaks.
    Break,
    /// The client waits no longer for the provider.
    GiveUp,
    /// The two settle, while or after anything else.
    Settle,
    /// The client's process ends, with a payment decided and not written.
    CrashClient,
    /// The provider's process ends, with a cheque taken and not written.
    CrashProvider,
}

/// One job in the world: what is in memory on both sides and on the way between them.
#[derive(Default)]
struct Path {
    opened: bool,
    asked: bool,
    client_on: bool,
    provider_on: bool,
    sent: u32,
    received: u32,
    /// Most tokens that were ever sent.
    delivered: u32,
    cheques: Vec<Signed<Cheque>>,
    receipt: Option<Signed<Receipt>>,
}

impl Path {
    fn cut(&mut self) {
        self.asked = false;
        self.client_on = false;
        self.provider_on = false;
        self.cheques.clear();
        self.receipt = None;
    }
}

struct World {
    pair: Pair,
    paths: [Path; JOBS],
}

impl World {
    fn step(&mut self, job: usize, step: Step) {
        let number = job as u64 + 1;
        let (client, provider, quote) = (self.pair.client.id(), self.pair.provider.id(), self.pair.quote(number));
        let path = &mut self.paths[job];
        match step {
            Step::Open if !path.opened => {
                let id = JobId([7; 16]);
                self.pair
                    .client
                    .run(|book| book.open_job(provider, Vec::new(), id, quote))
                    .expect("a fresh quote");
                (path.opened, path.asked, path.client_on) = (true, true, true);
            }
            Step::Admit if path.asked => {
                path.asked = false;
                match self.pair.provider.run(|book| book.admit(client, quote, execution(), &FRIENDS)) {
                    Ok(()) => path.provider_on = true,
                    Err(LedgerError::QuoteUsed) => {}
                    Err(error) => panic!("{error}"),
                }
                if path.provider_on && path.client_on {
                    match self.pair.client.run(|book| book.accepted(nonce(number))) {
                        // Settled meanwhile.
                        Ok(()) | Err(LedgerError::Transition(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
            Step::Send(tokens) if path.provider_on && path.receipt.is_none() => {
                let paid = self.pair.provider.record(Side::Provider, number).tokens;
                path.sent = (path.sent + tokens).min(paid + WINDOW).min(300);
                path.delivered = path.delivered.max(path.sent);
                if path.client_on {
                    path.received = path.sent;
                }
            }
            Step::Acknowledge if path.client_on && path.received > 0 => {
                match self.pair.client.run(|book| book.pay(nonce(number), path.received)) {
                    Ok(cheque) => path.cheques.push(cheque),
                    Err(LedgerError::Ended(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            Step::Deliver { which, again } if !path.cheques.is_empty() => {
                let index = usize::from(which) % path.cheques.len();
                let cheque = if again { path.cheques[index].clone() } else { path.cheques.remove(index) };
                if path.provider_on {
                    let sent = path.sent;
                    match self.pair.take(number, cheque, sent) {
                        Ok(tokens) => assert!(tokens <= sent),
                        // Settled meanwhile.
                        Err(LedgerError::Ended(_)) => {}
                        Err(error) => panic!("an honest cheque is refused: {error}"),
                    }
                }
            }
            Step::Lose(which) if !path.cheques.is_empty() => {
                path.cheques.remove(usize::from(which) % path.cheques.len());
            }
            Step::Finish(finish) if path.provider_on && path.receipt.is_none() => {
                let sent = path.sent;
                let receipt = self.pair.finish(number, sent, finish);
                self.paths[job].receipt = Some(receipt);
            }
            Step::Receive if path.client_on => {
                if let Some(receipt) = path.receipt.clone() {
                    let received = path.received;
                    match self.pair.take_receipt(number, receipt, received) {
                        Ok(_) => {
                            // Where the receipt asked for more, the cheque for it was signed with it.
                            let record = self.pair.client.record(Side::Client, number);
                            self.paths[job].cheques.extend(record.cheque);
                        }
                        // Settled meanwhile.
                        Err(LedgerError::Transition(_) | LedgerError::Overcharge(_)) => {
                            let record = self.pair.client.record(Side::Client, number);
                            assert!(record.state.is_final(), "an honest receipt is refused");
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            }
            Step::Confirm if path.client_on => {
                let here = self.pair.client.record(Side::Client, number);
                if here.state == JobState::Delivered
                    && self.pair.provider.record(Side::Provider, number).cheque == here.cheque
                {
                    self.pair.client.run(|book| book.paid(nonce(number))).expect("delivered and paid");
                }
            }
            Step::Break => {
                if path.provider_on && path.receipt.is_none() {
                    // The provider notices that the client is gone.
                    let sent = path.sent;
                    self.pair.finish(number, sent, Finish::Cancelled);
                }
                self.paths[job].cut();
            }
            Step::GiveUp if path.opened => {
                path.client_on = false;
                self.pair.client.run(|book| book.give_up(nonce(number), Line::lossy("gone"))).expect("known");
            }
            Step::Settle if path.opened => {
                self.settle(job);
            }
            Step::CrashClient => {
                let payment = self.pair.client.book().pay(nonce(number), path.received);
                assert!(payment.is_ok() || !path.client_on || !matches!(payment, Err(LedgerError::Cheque(_))));
                drop(payment);
                self.pair.client.restart();
                for path in &mut self.paths {
                    path.client_on = false;
                    path.received = 0;
                }
            }
            Step::CrashProvider => {
                if let Some(cheque) = path.cheques.pop() {
                    let sent = path.sent;
                    // Decided in memory and lost: whatever it says.
                    let _ = self.pair.provider.book().take_cheque(nonce(number), client, verified(cheque), sent);
                }
                self.pair.provider.restart();
                for path in &mut self.paths {
                    path.cut();
                }
            }
            _ => {}
        }
    }

    fn settle(&mut self, job: usize) {
        let number = job as u64 + 1;
        let record = self.pair.client.record(Side::Client, number);
        if !record.state.is_final() || record.state == JobState::ReceiptMissing {
            self.pair.settle(number);
        }
        // The client has left the stream, the provider may not know yet.
        self.paths[job].client_on = false;
    }

    /// What must hold at any time.
    fn check(&mut self) {
        for (number, path) in (1..).zip(&self.paths) {
            if !path.opened {
                continue;
            }
            let client = self.pair.client.record(Side::Client, number);
            assert!(client.tokens <= path.delivered, "paid for {} of {}", client.tokens, path.delivered);
            let max = self.pair.read_quote(number).max_total;
            assert!(client.paid <= max);
            let provider = self.pair.provider.run(|book| Ok(book.job(Side::Provider, &nonce(number))?));
            if let Some(provider) = provider.expect("readable") {
                assert!(provider.record.paid <= client.paid, "more taken than promised");
                assert!(path.sent <= provider.record.tokens + WINDOW, "more than one window unpaid");
            }
        }
        let (here, there) = (self.pair.client.id(), self.pair.provider.id());
        let given = self.pair.client.run(|book| Ok(book.channel(Side::Client, there)?)).expect("readable");
        let taken = self.pair.provider.run(|book| Ok(book.channel(Side::Provider, here)?)).expect("readable");
        assert!(taken.allocated <= taken.cumulative && taken.cumulative <= given.cumulative);
    }

    fn check_settled(&mut self) {
        let mut sum = 0;
        for job in 0..JOBS {
            if !self.paths[job].opened {
                continue;
            }
            self.settle(job);
            let number = job as u64 + 1;
            let client = self.pair.client.record(Side::Client, number);
            assert!(client.state.is_final(), "{:?}", client.state);
            sum += client.paid.0;
            let delivered = self.paths[job].delivered;
            assert!(delivered <= client.tokens + WINDOW, "{delivered} sent, {} paid", client.tokens);
            let provider = self.pair.provider.run(|book| Ok(book.job(Side::Provider, &nonce(number))?));
            match provider.expect("readable") {
                Some(provider) => {
                    assert_eq!(provider.record.paid, client.paid);
                    assert_eq!(provider.record.tokens, client.tokens);
                    assert_eq!(provider.record.state, client.state);
                    assert!(provider.record.unpaid() == MicroCredits::ZERO);
                }
                None => assert_eq!((client.paid.0, delivered), (0, 0)),
            }
        }
        self.check();
        let (spent, earned) = (self.pair.client.book().totals(), self.pair.provider.book().totals());
        assert_eq!((spent.spent.0, earned.earned.0, earned.owed_to_us.0), (sum, sum, 0));
        assert_eq!(spent.jobs_bought, earned.jobs_provided);
        let (here, there) = (self.pair.client.id(), self.pair.provider.id());
        let given = self.pair.client.run(|book| Ok(book.channel(Side::Client, there)?)).expect("readable");
        let taken = self.pair.provider.run(|book| Ok(book.channel(Side::Provider, here)?)).expect("readable");
        assert_eq!(given, taken, "one channel, seen from both ends");
    }
}

fn step() -> impl Strategy<Value = Step> {
    let finish =
        prop_oneof![Just(Finish::Stop), Just(Finish::Length), Just(Finish::Cancelled), Just(Finish::Failed)];
    prop_oneof![
        2 => Just(Step::Open),
        3 => Just(Step::Admit),
        8 => (1..=WINDOW).prop_map(Step::Send),
        8 => Just(Step::Acknowledge),
        8 => (any::<u8>(), prop::bool::weighted(0.2)).prop_map(|(which, again)| Step::Deliver { which, again }),
        1 => any::<u8>().prop_map(Step::Lose),
        2 => finish.prop_map(Step::Finish),
        3 => Just(Step::Receive),
        2 => Just(Step::Confirm),
        1 => Just(Step::Break),
        1 => Just(Step::GiveUp),
        1 => Just(Step::Settle),
        1 => Just(Step::CrashClient),
        1 => Just(Step::CrashProvider),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_crashes_both_sides_settle_on_one_sum(
        steps in prop::collection::vec((0..JOBS, step()), 10..120),
        price in prop_oneof![3 => Just(None), 1 => (0..3u64).prop_map(Some)],
    ) {
        // Where a thousand tokens cost almost nothing, many of them add nothing to the price.
        let price = price.map(|price| TokenPrice { prompt: MicroCredits::ZERO, completion: MicroCredits(price) });
        let mut world = World { pair: Pair { price, ..Pair::new() }, paths: Default::default() };
        // Most of what can go wrong needs jobs that run.
        for job in 0..JOBS {
            world.step(job, Step::Open);
            if job > 0 {
                world.step(job, Step::Admit);
            }
        }
        for (job, step) in steps {
            world.step(job, step);
            world.check();
        }
        world.check_settled();
    }
}
