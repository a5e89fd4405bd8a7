//! Ten thousand seeded days of two clients and a provider under the rules of cheques, settlements and credit alone: what is
//! decided is lost in a crash unless it was written, and the network loses, doubles and reorders. Whatever happens, no money
//! appears or disappears and nobody owes more than it may. A failure names its seed.

use aitbc_protocol::{
    Digest, JobId, MicroCredits, NodeId, Nonce,
    credit::{ALLOWANCE_MS, Allowance, Backing, Balance, Settlement, back, unused_ms},
    holdback::Audit,
    price::{Adjustment, Inputs, LatencyClass, TokenPrice, price},
    quote::Quote,
    receipt::{Channel, Cheque},
    text::Line,
};
use rand_xoshiro::{
    SplitMix64,
    rand_core::{Rng as _, SeedableRng as _},
};

const SEEDS: u64 = 10_000;
const STEPS: usize = 240;
const CLIENTS: usize = 2;
/// Jobs of each client.
const JOBS: usize = 6;
const WINDOW: u32 = 64;
const MOST_TOKENS: u32 = 128;
const PROVIDER: NodeId = NodeId([9; 32]);
/// What strangers may owe in a day: two jobs and a bit.
const BUDGET: MicroCredits = MicroCredits(550);

/// Random numbers that a seed repeats.
struct Random(SplitMix64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        (self.0.next_u64() % bound as u64) as usize
    }

    fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }
}

/// A client's disk.
#[derive(Clone, Copy, Default)]
struct Purse {
    channel: Channel,
    /// Promised for each job, for so many tokens.
    paid: [(MicroCredits, u32); JOBS],
    newest: [Option<u64>; JOBS],
    settled: MicroCredits,
}

/// A job on the provider's disk.
#[derive(Clone, Copy, Default)]
struct Work {
    admitted: bool,
    on_strangers: bool,
    took_ms: u64,
    paid: MicroCredits,
    /// What its receipt bills, once it has ended.
    billed: Option<MicroCredits>,
}

impl Work {
    /// The most that it may still come to.
    fn most(&self, max: MicroCredits) -> u64 {
        if self.admitted { self.billed.unwrap_or(max).0 } else { 0 }
    }
}

/// The provider's disk.
#[derive(Clone, Copy, Default)]
struct Till {
    channels: [Channel; CLIENTS],
    settled: [MicroCredits; CLIENTS],
    work: [[Work; JOBS]; CLIENTS],
    strangers: Allowance,
}

enum Message {
    Cheque(usize, Cheque),
    Settlement(usize, Settlement),
}

struct World {
    random: Random,
    now_ms: u64,
    quote: Quote,
    purses: [Purse; CLIENTS],
    till: Till,
    /// Tokens sent for each job; the network loses no part of them without losing the rest.
    sent: [[u32; JOBS]; CLIENTS],
    bag: Vec<Message>,
    /// Every cheque that was ever handed to the network.
    cheques: Vec<(usize, Cheque)>,
    moved: [u64; CLIENTS],
    refused: u64,
}

fn client(index: usize) -> NodeId {
    NodeId([index as u8 + 1; 32])
}

fn job(index: usize) -> JobId {
    JobId([index as u8; 16])
}

fn quote() -> Quote {
    let base = TokenPrice { prompt: MicroCredits(300), completion: MicroCredits(1700) };
    let inputs = Inputs {
        latency: LatencyClass::Standard,
        capability: None,
        round_trip_ms: None,
        queue: 0,
        utilisation: 500_000,
        cell_utilisation: None,
        hour: 12,
        utc_offset_minutes: 0,
        context_used: 138,
        context: 2_048,
    };
    let adjustment = Adjustment::of(inputs, MicroCredits(100));
    let max_total = price(&base, &adjustment, 10, MOST_TOKENS).expect("small numbers");
    Quote {
        nonce: Nonce([7; 16]),
        client: client(0),
        job: job(0),
        request: Digest([4; 32]),
        model: Line::lossy("smollm2:135m"),
        weights: Digest([5; 32]),
        prompt_tokens: 10,
        max_completion_tokens: MOST_TOKENS,
        price: base,
        terms: aitbc_protocol::terms::Terms::default(),
        audit: Audit::of(max_total, 1),
        max_total,
        adjustment,
        window: WINDOW,
        declared: false,
        issued_ms: 1,
        expires_ms: 2,
    }
}

impl World {
    fn new(seed: u64, quote: &Quote) -> Self {
        Self {
            random: Random(SplitMix64::seed_from_u64(seed)),
            now_ms: 0,
            quote: quote.clone(),
            purses: Default::default(),
            till: Till::default(),
            sent: Default::default(),
            bag: Vec::new(),
            cheques: Vec::new(),
            moved: [0; CLIENTS],
            refused: 0,
        }
    }

    fn quote_of(&self, index: usize) -> Quote {
        Quote { job: job(index), ..self.quote.clone() }
    }

    fn balance(&self, of: usize) -> Balance {
        Balance {
            promised: self.till.channels[of].cumulative,
            settled: self.till.settled[of],
            ..Balance::default()
        }
    }

    /// What a client owes or may come to owe.
    fn exposure(&self, of: usize) -> MicroCredits {
        let jobs = self.till.work[of].iter().map(|work| work.most(self.quote.max_total) - work.paid.0);
        MicroCredits(self.balance(of).open().0 + jobs.sum::<u64>())
    }

    fn step(&mut self) {
        let (of, index) = (self.random.below(CLIENTS), self.random.below(JOBS));
        match self.random.below(12) {
            0 | 1 => self.admit(of, index),
            2..=4 => self.send(of, index),
            5 | 6 => self.pay(of, index),
            7..=9 => self.deliver(),
            10 => self.finish(of, index),
            _ if self.random.chance(2) => self.pay_outside(of),
            _ => self.now_ms += self.random.0.next_u64() % (6 * 60 * 60 * 1000),
        }
    }

    /// True where the process ends between deciding and writing.
    fn crashes(&mut self) -> bool {
        self.random.chance(10)
    }

    fn admit(&mut self, of: usize, index: usize) {
        let mut till = self.till;
        let (settled, exposure) = (till.settled[of], self.exposure(of));
        let (work, needed) = (&mut till.work[of][index], self.quote.max_total);
        if work.admitted {
            return;
        }
        let left = till.strangers.left(BUDGET, self.now_ms);
        match back(settled, exposure, left, needed) {
            Err(fault) => {
                assert!(needed > fault.own && needed > fault.strangers);
                self.refused += 1;
                return;
            }
            Ok(Backing::Own) => {}
            Ok(Backing::Strangers) => {
                (till.strangers, work.took_ms) =
                    till.strangers.take(BUDGET, needed, self.now_ms).expect("just seen to be there");
                work.on_strangers = true;
            }
        }
        work.admitted = true;
        if !self.crashes() {
            self.till = till;
        }
    }

    fn send(&mut self, of: usize, index: usize) {
        let work = self.till.work[of][index];
        if work.admitted && work.billed.is_none() {
            let acknowledged = self.purses[of].paid[index].1;
            let more = 1 + self.random.below(WINDOW as usize) as u32;
            let sent = &mut self.sent[of][index];
            *sent = (*sent + more).min(acknowledged + WINDOW).min(MOST_TOKENS);
        }
    }

    fn pay(&mut self, of: usize, index: usize) {
        let mut purse = self.purses[of];
        let (paid, tokens) = purse.paid[index];
        let sent = self.sent[of][index];
        if sent == 0 {
            return;
        }
        // What it has got by now, or its newest cheque again.
        let next = sent.max(tokens);
        let total = self.quote.total(next).expect("small numbers");
        let promised = purse.channel.promise(PROVIDER, &self.quote_of(index), paid, total, next, self.now_ms);
        let (channel, cheque) = promised.expect("it never takes back");
        purse.channel = channel;
        purse.paid[index] = (total, next);
        purse.newest[index] = Some(cheque.sequence);
        if !self.crashes() {
            self.purses[of] = purse;
            self.cheques.push((of, cheque.clone()));
            self.bag.push(Message::Cheque(of, cheque));
        }
    }

    fn deliver(&mut self) {
        if self.bag.is_empty() {
            return;
        }
        let index = self.random.below(self.bag.len());
        let (lost, again) = (self.random.chance(6), self.random.chance(5));
        let message = self.bag.swap_remove(index);
        if !lost {
            match &message {
                Message::Cheque(of, cheque) => self.take(*of, cheque),
                Message::Settlement(of, settlement) => self.take_settlement(*of, settlement),
            }
        }
        if again {
            self.bag.push(message);
        }
    }

    fn take(&mut self, of: usize, cheque: &Cheque) {
        let index = usize::from(cheque.job.0[0]);
        let mut till = self.till;
        let work = &mut till.work[of][index];
        let quote = self.quote_of(index);
        cheque.check(&quote, self.sent[of][index]).expect("an honest cheque");
        // An older one that comes late says less than the one held.
        if cheque.job_total <= work.paid {
            return;
        }
        let taken = till.channels[of].accept(PROVIDER, &quote, work.paid, cheque).expect("an honest cheque");
        till.channels[of] = taken;
        work.paid = cheque.job_total;
        work.billed = work.billed.map(|billed| billed.max(cheque.job_total));
        if !self.crashes() {
            self.till = till;
        }
    }

    /// The provider ends a job, and bills what it has sent.
    fn finish(&mut self, of: usize, index: usize) {
        let mut till = self.till;
        let work = &mut till.work[of][index];
        if !work.admitted || work.billed.is_some() {
            return;
        }
        let billed = self.quote.total(self.sent[of][index]).expect("small numbers");
        work.billed = Some(billed);
        till.strangers = till.strangers.give_back(unused_ms(work.took_ms, self.quote.max_total, billed));
        if !self.crashes() {
            self.till = till;
        }
    }

    fn pay_outside(&mut self, of: usize) {
        let open = self.balance(of).open().0;
        if open == 0 {
            return;
        }
        let amount = if self.random.chance(2) { open } else { 1 + self.random.0.next_u64() % open };
        let settlement = self.balance(of).receive(client(of), MicroCredits(amount), self.now_ms);
        let settlement = settlement.expect("not above what is promised");
        if !self.crashes() {
            self.moved[of] += amount;
            self.till.settled[of] = settlement.cumulative;
            self.bag.push(Message::Settlement(of, settlement));
        }
    }

    fn take_settlement(&mut self, of: usize, settlement: &Settlement) {
        let purse = &mut self.purses[of];
        let balance = Balance { promised: purse.channel.cumulative, settled: purse.settled, ..Balance::default() };
        // An older one may come after a newer one, and says less.
        match balance.accept(client(of), settlement) {
            Ok(after) => purse.settled = after.settled,
            Err(error) => assert!(settlement.cumulative < balance.settled, "{error}"),
        }
    }

    fn check(&self) {
        let mut on_strangers = 0;
        for of in 0..CLIENTS {
            let (purse, channel) = (&self.purses[of], &self.till.channels[of]);
            let promised: u64 = purse.paid.iter().map(|(paid, _)| paid.0).sum();
            assert_eq!(purse.channel.cumulative.0, promised, "the promise is the sum of its jobs");
            let held: u64 = self.till.work[of].iter().map(|work| work.paid.0).sum();
            assert_eq!(channel.allocated.0, held, "nothing is counted twice");
            assert!(channel.allocated <= channel.cumulative && channel.cumulative <= purse.channel.cumulative);
            for (work, (paid, _)) in self.till.work[of].iter().zip(&purse.paid) {
                assert!(work.paid <= *paid && *paid <= self.quote.max_total, "more taken than promised");
            }
            let balance = self.balance(of);
            assert!(purse.settled <= balance.settled && balance.settled <= balance.promised);
            assert_eq!(balance.settled.0, self.moved[of], "what moved outside");
            let max = self.quote.max_total;
            let works = self.till.work[of].iter().filter(|work| work.on_strangers);
            let backed: u64 = works.map(|work| work.most(max)).sum();
            on_strangers += backed;
            // What is promised for a job whose own cheque was lost stands in the promise and in what the job owes.
            let twice = channel.cumulative.0 - channel.allocated.0;
            let exposure = self.exposure(of).0;
            assert!(
                exposure <= balance.settled.0 + backed + twice,
                "{exposure} owed: {balance:?}, {backed}, {twice}"
            );
        }
        let day = u128::from(ALLOWANCE_MS);
        let most = u128::from(BUDGET.0) * (day + u128::from(self.now_ms)) / day;
        assert!(u128::from(on_strangers) <= most, "{on_strangers} on strangers' credit of {most}");
    }

    /// Every client brings its newest cheque of each job, as settling does, and nothing is lost on the way any more.
    fn end(&mut self) {
        for (of, cheque) in std::mem::take(&mut self.cheques) {
            let index = usize::from(cheque.job.0[0]);
            while self.purses[of].newest[index] == Some(cheque.sequence)
                && self.till.work[of][index].paid < cheque.job_total
            {
                self.take(of, &cheque);
            }
        }
        self.check();
        for of in 0..CLIENTS {
            let (ours, theirs) = (self.purses[of].channel, self.till.channels[of]);
            assert_eq!(ours.cumulative, theirs.allocated, "no cheque is lost");
            assert_eq!((ours.cumulative, ours.allocated), (theirs.cumulative, theirs.allocated), "one channel");
            // A cheque that promised nothing more and let go of something may not have come.
            let (mine, its) = (ours.held.amount, theirs.held.amount);
            assert!(its >= mine && (ours.sequence > theirs.sequence || its == mine), "{mine} held, {its} known");
        }
    }
}

/// Says which seed failed, while its panic goes on.
struct Naming(u64);

impl Drop for Naming {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the simulation of seed {} failed", self.0);
        }
    }
}

#[test]
fn ten_thousand_days_keep_every_sum() {
    let quote = quote();
    let (mut paid, mut moved, mut refused, mut own) = (0, 0, 0, 0);
    for seed in 0..SEEDS {
        let _naming = Naming(seed);
        let mut world = World::new(seed, &quote);
        for _ in 0..STEPS {
            world.step();
            world.check();
        }
        world.end();
        paid += world.purses.iter().map(|purse| purse.channel.cumulative.0).sum::<u64>();
        moved += world.moved.iter().sum::<u64>();
        refused += world.refused;
        own += world.till.work.iter().flatten().filter(|work| work.admitted && !work.on_strangers).count();
    }
    // A simulation in which nothing happens proves nothing.
    assert!(
        paid > SEEDS * 100 && moved > SEEDS * 10 && refused > SEEDS && own > 100,
        "{paid} {moved} {refused} {own}"
    );
}
