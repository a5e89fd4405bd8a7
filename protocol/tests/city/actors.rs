//! Who lives in the city: providers that keep their word and others, and what their clients remember of them.

use aitbc_protocol::{
    Digest, JobId, MicroCredits, NodeId, Nonce,
    holdback::Audit,
    job::{Finish, JobSpec, Sampling, WINDOW_TOKENS},
    offer::{Device, DeviceKind, Engine, Load, ModelOffer},
    price::{Adjustment, Inputs, LatencyClass, TokenPrice, hour_of_day, share},
    qos,
    quote::{QUOTE_LIFETIME_MS, Quote},
    receipt::{Channel, OutputDigest, Receipt, Timings},
    routing::{breaker::Breaker, calibration::Calibration},
    sla::{PROMISED_PART, verdict},
    terms::Terms,
    text::Line,
};
use std::collections::BTreeMap;

/// How fast all read prompts, in milli-tokens a second.
const PREFILL: u32 = 400_000;

/// What a provider is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Keeps its word.
    Honest,
    /// Says that it is ten times as fast as it is.
    Slow,
    /// Says that it is idle, takes more jobs than it has slots, lies about when answers began, and now and then signs a
    /// price outside the rule.
    Lying,
    /// Serves badly, and has a ring of clients that praise it for jobs that never were.
    Colluding,
    /// Loses a third of its jobs without a word.
    Failing,
}

/// A provider.
pub(crate) struct Provider {
    pub(crate) id: NodeId,
    pub(crate) kind: Kind,
    pub(crate) offer: ModelOffer,
    pub(crate) slots: u32,
    /// What it really decodes, in milli-tokens a second.
    pub(crate) speed: u32,
    pub(crate) issued_ms: u64,
    pub(crate) online: bool,
    /// Start and end of what it has taken on.
    pub(crate) jobs: Vec<(u64, u64)>,
    /// What its last heartbeat said, and when.
    pub(crate) heard: (Load, u64),
    pub(crate) channels: BTreeMap<usize, Channel>,
    pub(crate) done: u32,
    pub(crate) given_back: u64,
    pub(crate) quotes: u64,
}

/// What one client knows of one provider.
#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) good: u32,
    pub(crate) failed: u32,
    pub(crate) speeds: Vec<u32>,
    pub(crate) breaker: Breaker,
    pub(crate) calibration: Calibration,
    pub(crate) channel: Channel,
    /// The rating, and until when it is not reckoned again.
    pub(crate) rated: (qos::Quality, u64),
}

/// What clients of the ring or others sign about a provider: as testimony, with what they paid.
#[derive(Clone, Default)]
pub(crate) struct Said {
    pub(crate) jobs: u32,
    pub(crate) paid: u64,
    pub(crate) latencies: Vec<u32>,
    pub(crate) heard: (u32, u32),
}

impl Said {
    pub(crate) fn testimony(&self) -> qos::Testimony {
        let mut latencies = self.latencies.clone();
        latencies.sort_unstable();
        qos::Testimony {
            jobs: self.jobs,
            paid: self.paid,
            latency: latencies.get(latencies.len() / 2).copied(),
            accuracy: None,
            uptime: Some(share(self.heard.0, self.heard.1.max(1))),
        }
    }
}

/// A job on its way from provider to provider.
#[derive(Clone)]
pub(crate) struct Job {
    pub(crate) client: usize,
    pub(crate) number: u64,
    pub(crate) prompt: u32,
    pub(crate) answer: u32,
    pub(crate) asked_ms: u64,
    pub(crate) tried: Vec<NodeId>,
    pub(crate) attempts: u32,
}

pub(crate) fn spec(job: &Job) -> JobSpec {
    JobSpec {
        model: Line::lossy("m"),
        weights: None,
        input: aitbc_protocol::job::Input::Text("x".repeat(job.prompt as usize * 4)),
        sampling: Sampling { temperature: 0.0, top_p: 1.0, seed: 1 },
        max_tokens: job.answer,
        stop: vec![],
        top_logprobs: None,
        prefix: vec![],
    }
}

fn id(kind: u8, number: usize) -> NodeId {
    let mut bytes = [kind; 32];
    bytes[..8].copy_from_slice(&(number as u64).to_le_bytes());
    NodeId(bytes)
}

pub(crate) fn client_id(number: usize) -> NodeId {
    id(2, number)
}

impl Provider {
    pub(crate) fn new(number: usize, kind: Kind, now_ms: u64) -> Self {
        let speed = 8_000;
        let (speed, said) = match kind {
            Kind::Honest | Kind::Lying | Kind::Failing => (speed, speed),
            Kind::Slow => (speed / 10, speed),
            Kind::Colluding => (speed / 2, speed),
        };
        let offer = ModelOffer {
            model: Line::lossy("m"),
            weights: Digest([7; 32]),
            engine: Engine { name: Line::lossy("llama.cpp"), version: Line::lossy("1") },
            quantisation: Line::lossy("Q4_1"),
            device: Device { kind: DeviceKind::Gpu, name: Line::lossy("gpu"), memory_bytes: 1, measured: None },
            context: 4_096,
            price: TokenPrice { prompt: MicroCredits(1_000), completion: MicroCredits(4_000) },
            speed: said,
            declared: false,
            private: None,
        };
        Self {
            id: id(1, number),
            kind,
            offer,
            slots: 1,
            speed,
            issued_ms: now_ms,
            online: true,
            jobs: Vec::new(),
            heard: (Load::default(), now_ms),
            channels: BTreeMap::new(),
            done: 0,
            given_back: 0,
            quotes: 0,
        }
    }

    /// How busy it is.
    pub(crate) fn load(&mut self, now_ms: u64) -> Load {
        self.jobs.retain(|(_, end)| *end > now_ms);
        let running = self.jobs.iter().filter(|(start, _)| *start <= now_ms).count() as u32;
        Load { running, queued: self.jobs.len() as u32 - running }
    }

    /// What it says about that.
    pub(crate) fn says(&mut self, now_ms: u64) -> Load {
        let load = self.load(now_ms);
        if self.kind == Kind::Lying { Load::default() } else { load }
    }

    /// A quote; nothing where it is full.
    pub(crate) fn quote(
        &mut self,
        job: &Job,
        cell: Option<u32>,
        round_trip_ms: u32,
        now_ms: u64,
    ) -> Option<Quote> {
        let load = self.load(now_ms);
        let room = if self.kind == Kind::Lying { 3 * self.slots } else { self.slots };
        if load.running + load.queued >= room {
            return None;
        }
        self.quotes += 1;
        let spec = spec(job);
        let prompt_tokens = job.prompt;
        let inputs = Inputs {
            latency: LatencyClass::Standard,
            capability: None,
            round_trip_ms: Some(round_trip_ms),
            queue: load.queued,
            utilisation: share(load.running, self.slots),
            cell_utilisation: cell,
            hour: hour_of_day(now_ms, 0),
            utc_offset_minutes: 0,
            context_used: spec.context_needed(prompt_tokens),
            context: self.offer.context,
        };
        let mut adjustment = Adjustment::of(inputs, MicroCredits::ZERO);
        if self.kind == Kind::Lying && self.quotes.is_multiple_of(40) {
            adjustment.factors[0].ppm *= 2;
        }
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&job.number.to_le_bytes());
        nonce[8..12].copy_from_slice(&job.attempts.to_le_bytes());
        let mut quote = Quote {
            nonce: Nonce(nonce),
            client: client_id(job.client),
            job: JobId(nonce),
            request: spec.digest().expect("a small request"),
            model: spec.model.clone(),
            weights: self.offer.weights,
            prompt_tokens,
            max_completion_tokens: spec.completion_tokens(),
            price: self.offer.price,
            terms: Terms::of(inputs.latency, &spec, prompt_tokens, self.offer.speed / PROMISED_PART),
            adjustment,
            audit: Audit::default(),
            max_total: MicroCredits::ZERO,
            window: WINDOW_TOKENS,
            declared: false,
            issued_ms: now_ms,
            expires_ms: now_ms + QUOTE_LIFETIME_MS,
        };
        quote.max_total = quote.total(quote.max_completion_tokens).expect("small numbers");
        quote.audit = Audit::of(quote.max_total, now_ms);
        Some(quote)
    }

    /// Takes a job on: when it begins, when its first token leaves, when it ends.
    pub(crate) fn take(&mut self, quote: &Quote, now_ms: u64) -> (u64, u64, u64) {
        self.jobs.retain(|(_, end)| *end > now_ms);
        let mut ends: Vec<u64> = self.jobs.iter().map(|(_, end)| *end).collect();
        ends.sort_unstable();
        let begin = match ends.len().checked_sub(self.slots as usize) {
            Some(after) => ends[after].max(now_ms),
            None => now_ms,
        };
        let each = |tokens: u32, speed: u32| u64::from(tokens) * 1_000_000 / u64::from(speed);
        let first = begin + each(quote.prompt_tokens, PREFILL) + each(1, self.speed);
        let end = first + each(quote.max_completion_tokens, self.speed);
        self.jobs.push((begin, end));
        (begin, first, end)
    }

    /// What it signs in the end.
    pub(crate) fn receipt(&self, quote: &Quote, tokens: u32, finish: Finish, timings: Timings) -> Receipt {
        let mut receipt = Receipt {
            job: quote.job,
            client: quote.client,
            quote: quote.nonce,
            request: quote.request,
            model: quote.model.clone(),
            weights: quote.weights,
            engine: self.offer.engine.clone(),
            quantisation: self.offer.quantisation.clone(),
            device: self.offer.device.clone(),
            sampling: Sampling::NONE,
            prompt_tokens: quote.prompt_tokens,
            completion_tokens: tokens,
            output: OutputDigest::Tokens(Digest([1; 32])),
            declared: false,
            finish,
            price: quote.price,
            total: quote.total(tokens).expect("small numbers"),
            penalty: MicroCredits::ZERO,
            admitted_ms: quote.issued_ms,
            timings,
            sealed: None,
        };
        receipt.penalty = verdict(quote, &receipt).penalty;
        receipt
    }

    /// What clients have promised it, less what it gives back.
    pub(crate) fn income(&self) -> u64 {
        let promised: u64 = self.channels.values().map(|channel| channel.cumulative.0).sum();
        promised - self.given_back
    }
}
