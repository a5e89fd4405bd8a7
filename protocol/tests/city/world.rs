//! Events in virtual time: jobs are asked for, run, end or fail; providers come and go; heartbeats tell how busy they are.

use super::{
    actors::{Job, Kind, Memory, Provider, Said, client_id, spec},
    random::Random,
};
use aitbc_protocol::{
    MicroCredits, NodeId,
    attestation::Tier,
    evidence::{Fault, Slashed, outside_the_rule},
    job::Finish,
    price::{LatencyClass, ONE, median_utilisation, share},
    qos::{self, Heard, Quality, Voice},
    quote::{Asked, Quote},
    receipt::Timings,
    routing::{Candidate, Policy, Work, preference::Preference, query::Conditions, rank},
    sla::contradiction,
    text::Line,
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
};

pub(crate) const HOUR_MS: u64 = 3_600_000;
/// Where virtual time begins: noon, so that no hour of the day changes prices on the way.
const NOON_MS: u64 = 12 * HOUR_MS;
/// As in the protocol: heartbeats, and the silence after which an offer is not counted on.
const HEARTBEAT_MS: u64 = 10_000;
const SILENT_MS: u64 = 90_000;
const ATTEMPTS: u32 = 4;
/// How long a rating is kept before it is reckoned again.
const RATED_MS: u64 = 15 * 60_000;

/// How a city is set up.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// Providers of each kind.
    pub(crate) honest: usize,
    pub(crate) slow: usize,
    pub(crate) lying: usize,
    pub(crate) colluding: usize,
    pub(crate) failing: usize,
    pub(crate) clients: usize,
    /// Clients that praise the colluding providers, and never ask for work.
    pub(crate) ring: usize,
    /// The mean pause between two jobs of the whole city, in the first and in the second half of the hour.
    pub(crate) pauses_ms: (u64, u64),
    /// How many of a thousand providers leave within an hour; others come in their place.
    pub(crate) leaving: u64,
}

enum What {
    Ask(Job),
    End(Box<Ending>),
    Arrive,
    Heartbeats,
    Leave,
}

struct Ending {
    job: Job,
    provider: usize,
    quote: Quote,
    taken_ms: u64,
    first_ms: u64,
    end_ms: u64,
    round_trip_ms: u64,
    predicted_ms: f64,
    fate: Fate,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Whole,
    /// After so many tokens.
    Stopped(u32),
    Silent(u32),
}

/// What came of an hour.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) asked: u64,
    pub(crate) finished: u64,
    pub(crate) failed: u64,
    /// Providers asked, and those of them that had left.
    pub(crate) tried: u64,
    pub(crate) stale: u64,
    /// Sums and counts of what quotes asked over their base, in millionths, in each half of the hour.
    pub(crate) factors: [(u64, u64); 2],
    /// Income, jobs and kind of every provider that stayed.
    pub(crate) providers: Vec<(Kind, u64, u32)>,
    pub(crate) slashed: BTreeSet<(NodeId, Kind)>,
    /// Jobs left because a provider lied about its times.
    pub(crate) caught: u64,
    pub(crate) given_back: u64,
}

pub(crate) struct City {
    plan: Plan,
    random: Random,
    now_ms: u64,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    waiting: BTreeMap<u64, What>,
    next: u64,
    providers: Vec<Provider>,
    memories: Vec<BTreeMap<usize, Memory>>,
    said: BTreeMap<(usize, usize), Said>,
    outcome: Outcome,
}

impl City {
    pub(crate) fn new(plan: Plan) -> Self {
        let kinds = [
            (Kind::Honest, plan.honest),
            (Kind::Slow, plan.slow),
            (Kind::Lying, plan.lying),
            (Kind::Colluding, plan.colluding),
            (Kind::Failing, plan.failing),
        ];
        let kinds = kinds.into_iter().flat_map(|(kind, count)| std::iter::repeat_n(kind, count));
        let providers = kinds.enumerate().map(|(number, kind)| Provider::new(number, kind, NOON_MS)).collect();
        let memories = (0..plan.clients).map(|_| BTreeMap::new()).collect();
        let mut city = Self {
            plan,
            random: Random::new(plan.seed),
            now_ms: NOON_MS,
            events: BinaryHeap::new(),
            waiting: BTreeMap::new(),
            next: 0,
            providers,
            memories,
            said: BTreeMap::new(),
            outcome: Outcome::default(),
        };
        city.praise();
        city.at(NOON_MS, What::Heartbeats);
        city.at(NOON_MS + 1, What::Arrive);
        if plan.leaving > 0 {
            let pause = city.leave_pause();
            city.at(NOON_MS + pause, What::Leave);
        }
        city
    }

    /// The ring tells of a thousand perfect jobs with each of its providers.
    fn praise(&mut self) {
        for provider in 0..self.providers.len() {
            if self.providers[provider].kind != Kind::Colluding {
                continue;
            }
            for member in self.plan.clients..self.plan.clients + self.plan.ring {
                let said = Said { jobs: 1_000, paid: 1_000_000_000, latencies: vec![ONE; 3], heard: (9, 9) };
                self.said.insert((member, provider), said);
            }
        }
    }

    fn at(&mut self, ms: u64, what: What) {
        self.next += 1;
        self.events.push(Reverse((ms, self.next)));
        self.waiting.insert(self.next, what);
    }

    fn leave_pause(&mut self) -> u64 {
        let mean = HOUR_MS * 1_000 / (self.providers.len() as u64 * self.plan.leaving);
        self.random.pause(mean)
    }

    /// Lets an hour pass, and what was begun in it end.
    pub(crate) fn run(mut self) -> Outcome {
        while let Some(Reverse((ms, number))) = self.events.pop() {
            self.now_ms = ms;
            let Some(what) = self.waiting.remove(&number) else { continue };
            let over = ms >= NOON_MS + HOUR_MS;
            match what {
                What::Ask(job) => self.ask(job),
                What::End(ending) => self.end(*ending),
                What::Arrive if !over => self.arrive(),
                What::Heartbeats if !over => self.heartbeats(),
                What::Leave if !over => self.leave(),
                What::Arrive | What::Heartbeats | What::Leave => {}
            }
        }
        self.outcome.providers =
            self.providers.iter().map(|provider| (provider.kind, provider.income(), provider.done)).collect();
        self.outcome.given_back = self.providers.iter().map(|provider| provider.given_back).sum();
        self.check_channels();
        self.outcome
    }

    /// Money is in two books at once, and the same in both.
    fn check_channels(&self) {
        for (client, memories) in self.memories.iter().enumerate() {
            for (provider, memory) in memories {
                let theirs = self.providers[*provider].channels.get(&client).copied().unwrap_or_default();
                assert_eq!(memory.channel.cumulative, theirs.cumulative, "client {client}, provider {provider}");
                assert!(theirs.allocated <= theirs.cumulative);
            }
        }
    }

    fn second_half(&self) -> usize {
        usize::from(self.now_ms >= NOON_MS + HOUR_MS / 2)
    }

    fn arrive(&mut self) {
        let job = Job {
            client: self.random.within(0, self.plan.clients as u64) as usize,
            number: self.outcome.asked,
            prompt: self.random.within(20, 400) as u32,
            answer: self.random.within(20, 300) as u32,
            asked_ms: self.now_ms,
            tried: Vec::new(),
            attempts: 0,
        };
        self.outcome.asked += 1;
        self.at(self.now_ms, What::Ask(job));
        let pauses = [self.plan.pauses_ms.0, self.plan.pauses_ms.1];
        let pause = self.random.pause(pauses[self.second_half()]);
        self.at(self.now_ms + pause, What::Arrive);
    }

    fn heartbeats(&mut self) {
        let now_ms = self.now_ms;
        for provider in self.providers.iter_mut().filter(|provider| provider.online) {
            provider.heard = (provider.says(now_ms), now_ms);
        }
        self.at(now_ms + HEARTBEAT_MS, What::Heartbeats);
    }

    /// One provider goes without a word, with all its jobs; another comes.
    fn leave(&mut self) {
        let online: Vec<usize> =
            (0..self.providers.len()).filter(|number| self.providers[*number].online).collect();
        if !online.is_empty() {
            let leaves = online[self.random.within(0, online.len() as u64) as usize];
            self.providers[leaves].online = false;
            let kind = self.providers[leaves].kind;
            self.providers.push(Provider::new(self.providers.len(), kind, self.now_ms));
        }
        let pause = self.leave_pause();
        self.at(self.now_ms + pause, What::Leave);
    }

    /// How far apart two are, always the same.
    fn round_trip_ms(&self, client: usize, provider: usize) -> u64 {
        Random::new(self.plan.seed ^ ((client as u64) << 32 | provider as u64)).within(4, 40)
    }

    fn is_slashed(&self, provider: usize) -> bool {
        let Provider { id, kind, .. } = &self.providers[provider];
        self.outcome.slashed.contains(&(*id, *kind))
    }

    /// What a client thinks of a provider, by its own money.
    fn quality(&mut self, client: usize, provider: usize) -> Quality {
        if self.is_slashed(provider) {
            let slashed = Slashed { fault: Fault::Quote, until_ms: u64::MAX };
            return Quality { slashed: Some(slashed), ..Quality::default() };
        }
        let known = self.memories[client].get(&provider).map(|memory| memory.rated);
        if let Some((quality, until_ms)) = known
            && until_ms > self.now_ms
        {
            return quality;
        }
        let settled: BTreeMap<NodeId, u64> = self.memories[client]
            .iter()
            .filter(|(_, memory)| memory.channel.cumulative.0 > 0)
            .map(|(partner, memory)| (self.providers[*partner].id, memory.channel.cumulative.0))
            .collect();
        let paid = self
            .said
            .iter()
            .filter(|((_, seller), _)| settled.contains_key(&self.providers[*seller].id))
            .map(|((author, seller), said)| ((client_id(*author), self.providers[*seller].id), said.paid))
            .collect();
        let about: BTreeMap<NodeId, &Said> = self
            .said
            .iter()
            .filter(|((author, of), _)| *of == provider && *author != client)
            .map(|((author, _), said)| (client_id(*author), said))
            .collect();
        let job = 1_500;
        let authors = about.iter().map(|(author, said)| (*author, said.paid)).collect();
        let weights = qos::weights(&Heard { settled, paid }, self.providers[provider].id, &authors, job);
        let voices: Vec<Voice> = weights
            .iter()
            .map(|(author, weight)| Voice { weight: weight.amount, testimony: about[author].testimony() })
            .collect();
        let own = self.said.get(&(client, provider)).map(Said::testimony);
        let rating = qos::rate(own, &voices, job, None, None);
        let quality = Quality { score: rating.score, tier: rating.tier, slashed: None };
        self.memories[client].entry(provider).or_default().rated = (quality, self.now_ms + RATED_MS);
        quality
    }

    /// Ranks, asks the best of those left for a quote, and gives it the job.
    fn ask(&mut self, mut job: Job) {
        let (client, now_ms) = (job.client, self.now_ms);
        let live: Vec<usize> = (0..self.providers.len())
            .filter(|number| self.providers[*number].heard.1 + SILENT_MS > now_ms)
            .collect();
        let cell = median_utilisation(
            live.iter()
                .map(|number| share(self.providers[*number].heard.0.running, self.providers[*number].slots))
                .collect(),
        );
        let qualities: Vec<Quality> = live.iter().map(|provider| self.quality(client, *provider)).collect();
        let policy = Policy {
            model: Line::lossy("m"),
            preference: Preference::Balanced,
            weights: None,
            work: Work::Ordinary,
            prompt_tokens: job.prompt,
            completion_tokens: job.answer,
            latency_budget_ms: 400.0,
            latency: LatencyClass::Standard,
            ceiling: None,
            allow_declared: false,
            min_trust: Tier::None,
            least_shown: 0,
            physical: true,
            named: false,
            conditions: Conditions::default(),
            exclude: job.tried.clone(),
        };
        let (nothing, draw) = (Memory::default(), self.random.next());
        let candidates: Vec<Candidate<'_>> = live
            .iter()
            .zip(qualities)
            .map(|(number, quality)| {
                let provider = &self.providers[*number];
                let memory = self.memories[client].get(number).unwrap_or(&nothing);
                let mut speeds = memory.speeds.clone();
                speeds.sort_unstable();
                Candidate {
                    provider: provider.id,
                    offer: &provider.offer,
                    slots: provider.slots,
                    load: provider.heard.0,
                    tier: Tier::None,
                    distance_km: 1.0,
                    round_trip_ms: Some(self.round_trip_ms(client, *number) as f64),
                    estimated_ms: None,
                    offline_ms: None,
                    failures: f64::from(memory.failed) / f64::from(memory.good + memory.failed + 1),
                    speed_seen: speeds.get(speeds.len() / 2).copied().filter(|_| speeds.len() >= 2),
                    prefill_seen: None,
                    rests_ms: memory.breaker.rests_ms(now_ms, provider.issued_ms),
                    lateness: memory.calibration.lateness(),
                    shown_bytes: 0,
                    quality,
                }
            })
            .collect();
        let ranked = rank(&candidates, &policy);
        let place = policy.preference.pick(ranked.iter().map(|ranked| ranked.cost), draw);
        let Some(best) = ranked.get(place).filter(|best| best.excluded.is_none()) else {
            self.outcome.failed += 1;
            return;
        };
        let number = live[best.index];
        let predicted_ms = best.reasons.first_token_ms()
            + f64::from(job.answer) * 1_000_000.0 / f64::from(candidates[best.index].offer.speed.max(1));
        let round_trip_ms = self.round_trip_ms(client, number);
        self.outcome.tried += 1;
        let provider = &mut self.providers[number];
        job.tried.push(provider.id);
        if !provider.online {
            self.outcome.stale += 1;
            self.memories[client].entry(number).or_default().breaker.failed(now_ms);
            // A connection that does not come up is given up after a while.
            return self.at(now_ms + 800, What::Ask(job));
        }
        let Some(quote) = provider.quote(&job, cell, round_trip_ms as u32, now_ms) else {
            return self.at(now_ms + 2 * round_trip_ms, What::Ask(job));
        };
        let spec = spec(&job);
        let asked = Asked {
            client: client_id(client),
            job: quote.job,
            request: quote.request,
            spec: &spec,
            latency: LatencyClass::Standard,
            ceiling: None,
        };
        if quote.check(&asked, now_ms).and_then(|()| quote.check_offer(&provider.offer)).is_err() {
            if outside_the_rule(&quote).is_some() {
                self.outcome.slashed.insert((provider.id, provider.kind));
            }
            return self.at(now_ms + 2 * round_trip_ms, What::Ask(job));
        }
        let kind = provider.kind;
        let base = u128::from(quote.prompt_tokens) * 1_000 + u128::from(quote.max_completion_tokens) * 4_000;
        let factor = u128::from(quote.max_total.0) * 1_000 * u128::from(ONE) / base;
        let half = self.second_half();
        self.outcome.factors[half].0 += factor as u64;
        self.outcome.factors[half].1 += 1;
        let provider = &mut self.providers[number];
        let (_, first_ms, end_ms) = provider.take(&quote, now_ms + 2 * round_trip_ms);
        let stops = self.random.within(0, u64::from(job.answer)) as u32;
        let fate = match kind {
            Kind::Failing if self.random.chance(330) => Fate::Silent(stops),
            Kind::Colluding if self.random.chance(300) => Fate::Stopped(stops),
            _ => Fate::Whole,
        };
        let taken_ms = now_ms + 2 * round_trip_ms;
        let ending =
            Ending { job, provider: number, quote, taken_ms, first_ms, end_ms, round_trip_ms, predicted_ms, fate };
        self.at(end_ms + round_trip_ms, What::End(Box::new(ending)));
    }

    /// The client pays for the first `tokens` tokens, window by window, and both sides keep the same sums.
    fn pay(&mut self, ending: &Ending, tokens: u32) {
        let Ending { job, provider, quote, .. } = ending;
        let (mut paid, mut acknowledged) = (MicroCredits::ZERO, 0);
        while acknowledged < tokens {
            acknowledged = (acknowledged + quote.window).min(tokens);
            let total = quote.total(acknowledged).expect("small numbers");
            let (me, id) = (&mut self.memories[job.client], self.providers[*provider].id);
            let channel = &mut me.entry(*provider).or_default().channel;
            let (next, cheque) =
                channel.promise(id, quote, paid, total, acknowledged, self.now_ms).expect("an honest promise");
            *channel = next;
            cheque.check(quote, tokens).expect("it pays what was delivered");
            let theirs = self.providers[*provider].channels.entry(job.client).or_default();
            *theirs = theirs.accept(id, quote, paid, &cheque).expect("the next cheque");
            paid = total;
        }
    }

    fn end(&mut self, ending: Ending) {
        let (client, number) = (ending.job.client, ending.provider);
        let gone = !self.providers[number].online;
        let kind = self.providers[number].kind;
        let (quote, now_ms) = (&ending.quote, self.now_ms);
        let sent_ms = ending.first_ms - ending.taken_ms;
        // By its word, which is worth what the client can hold against it.
        let told_ms = if kind == Kind::Lying { sent_ms.min(100) } else { sent_ms };
        let came_ms = sent_ms + ending.round_trip_ms;
        if contradiction(quote, told_ms, came_ms, ending.round_trip_ms).is_some() {
            self.outcome.caught += 1;
            return self.broken(ending, 0);
        }
        let whole = quote.max_completion_tokens;
        match ending.fate {
            _ if gone => self.broken(ending, whole / 2),
            Fate::Silent(tokens) => self.broken(ending, tokens),
            Fate::Stopped(tokens) => {
                self.pay(&ending, tokens);
                let timings = Timings { first_token_ms: told_ms, total_ms: told_ms, ..Timings::default() };
                let receipt = self.providers[number].receipt(quote, tokens, Finish::Failed, timings);
                self.give_back(number, receipt.penalty);
                self.broken(ending, 0);
            }
            Fate::Whole => {
                self.pay(&ending, whole);
                let total_ms = ending.end_ms - ending.taken_ms;
                let timings = Timings { first_token_ms: told_ms, total_ms, ..Timings::default() };
                let receipt = self.providers[number].receipt(quote, whole, Finish::Length, timings);
                assert!(receipt.check(quote, None).iter().all(|check| check.passed != Some(false)));
                self.give_back(number, receipt.penalty);
                self.providers[number].done += 1;
                self.outcome.finished += 1;
                let memory = self.memories[client].entry(number).or_default();
                memory.good += 1;
                memory.breaker.succeeded();
                memory.calibration.note(ending.predicted_ms, (now_ms - ending.job.asked_ms) as f64);
                let generated_ms = (ending.end_ms - ending.first_ms).max(1);
                memory.speeds.push((u64::from(whole) * 1_000_000 / generated_ms) as u32);
                self.say(client, number, receipt.total.0, Some(came_ms as u32));
            }
        }
    }

    fn give_back(&mut self, provider: usize, penalty: MicroCredits) {
        self.providers[provider].given_back += penalty.0;
    }

    /// The provider failed after so many tokens that were paid: the job goes on elsewhere.
    fn broken(&mut self, ending: Ending, tokens: u32) {
        let (client, number) = (ending.job.client, ending.provider);
        // What was within the last window was not acknowledged.
        let paid = tokens / WINDOW * WINDOW;
        self.pay(&ending, paid);
        let memory = self.memories[client].entry(number).or_default();
        memory.failed += 1;
        memory.breaker.failed(self.now_ms);
        self.say(client, number, ending.quote.total(paid).map_or(0, |total| total.0), None);
        let mut job = ending.job;
        job.attempts += 1;
        if job.attempts >= ATTEMPTS {
            self.outcome.failed += 1;
        } else {
            self.at(self.now_ms + 200, What::Ask(job));
        }
    }

    /// The client tells the neighbourhood how a job went.
    fn say(&mut self, client: usize, provider: usize, paid: u64, first_ms: Option<u32>) {
        let said = self.said.entry((client, provider)).or_default();
        said.jobs += 1;
        said.paid += paid;
        said.latencies.push(first_ms.map_or(0, qos::latency));
        said.heard.0 += u32::from(first_ms.is_some());
        said.heard.1 += 1;
    }
}

const WINDOW: u32 = aitbc_protocol::job::WINDOW_TOKENS;
