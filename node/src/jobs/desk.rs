//! Slots: which are promised to quotes, which are taken by jobs, and whose they are.
//!
//! Quote and job tasks decide here in short steps that never wait, under one private lock and not through an actor's
//! queue: a slot must be given back by a `Drop`, wherever its task ends.

use super::{
    RunningJob,
    estimate::{Demand, Usage, estimate},
    resumption::Resumption,
};
use crate::engine::EngineModel;
use aitbc_protocol::{
    JobId, NodeId, Nonce, UnixMillis,
    job::{ModelName, Rejection},
    offer::Load,
    price::share,
    quote::{OPEN_QUOTES_PER_CLIENT, QUOTE_CAPACITY_MS, Quote},
};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Used quotes remembered, so that a replay is refused before it costs anything. They are forgotten when they expire,
/// five minutes at most; beyond this number the ledger alone remembers, which is slower.
const USED_QUOTES: usize = 16_384;

/// A slot kept free for a quote.
#[derive(Debug)]
struct Promise {
    client: NodeId,
    model: ModelName,
    until_ms: UnixMillis,
}

/// A job from admission until its last acknowledgement. The task that runs it writes, everybody else reads.
#[derive(Debug)]
pub(super) struct Entry {
    job: JobId,
    quote: Nonce,
    client: NodeId,
    model: ModelName,
    started: AtomicBool,
    paused: AtomicBool,
    parked: AtomicBool,
    tokens: AtomicU32,
    /// False once the job has left the device and only its last cheque is waited for.
    holds_slot: AtomicBool,
    /// Takes the next stream of the job: its client goes on with it.
    door: mpsc::Sender<Resumption>,
    /// Ends the job: its client has come back to settle.
    interrupt: CancellationToken,
    /// Cancelled when the job is to end at once, with a receipt for what it has delivered.
    halt: CancellationToken,
    /// Cancelled once the receipt is on disk, or will not be.
    recorded: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    /// By quote. At most one a slot.
    promises: HashMap<Nonce, Promise>,
    /// By quote.
    jobs: HashMap<Nonce, Arc<Entry>>,
    /// Quotes used, with the time after which they would be refused for their age.
    used: HashMap<Nonce, UnixMillis>,
}

/// Gives slots to quotes and jobs. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Desk {
    /// Jobs that may run now: what the owner has set, or less.
    slots: Arc<AtomicU32>,
    state: Arc<Mutex<State>>,
    load: Arc<watch::Sender<Load>>,
}

impl Desk {
    /// A desk with `slots` free slots.
    pub(super) fn new(slots: u32) -> Self {
        Self {
            slots: Arc::new(AtomicU32::new(slots)),
            state: Arc::default(),
            load: Arc::new(watch::Sender::default()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slots(&self) -> u32 {
        self.slots.load(Relaxed)
    }

    /// Has no more than `slots` jobs run from now on; those that run are not ended by it.
    pub(super) fn limit(&self, slots: u32) {
        self.slots.store(slots, Relaxed);
    }

    /// Ends all jobs at once, with receipts for what they delivered.
    pub(super) fn halt(&self) {
        for entry in self.state().jobs.values() {
            entry.halt.cancel();
        }
    }

    /// How busy the node is; changes when a job comes, starts or goes.
    pub(super) fn load(&self) -> watch::Receiver<Load> {
        self.load.subscribe()
    }

    fn publish_load(&self, state: &State) {
        let load = state.load();
        self.load.send_if_modified(|published| std::mem::replace(published, load) != load);
    }

    /// Keeps a slot for a quote for [`QUOTE_CAPACITY_MS`], while the prompt is counted and the client makes up its
    /// mind. A quote counts as open for as long: after that it costs the provider nothing.
    pub(super) fn promise(
        &self,
        quote: Nonce,
        client: NodeId,
        model: &EngineModel,
        tokens: u32,
        now_ms: UnixMillis,
    ) -> Result<(), Rejection> {
        let mut state = self.state();
        state.forget(now_ms);
        let open = state.promises.values().filter(|promise| promise.client == client).count() as u32;
        if open >= OPEN_QUOTES_PER_CLIENT {
            return Err(Rejection::TooManyQuotes(open));
        }
        state.estimate(self.slots(), model, tokens)?;
        let until_ms = now_ms.saturating_add(QUOTE_CAPACITY_MS);
        state.promises.insert(quote, Promise { client, model: model.model.clone(), until_ms });
        Ok(())
    }

    /// Gives the slot of a quote back that was not given out after all.
    pub(super) fn withdraw(&self, quote: &Nonce) {
        self.state().promises.remove(quote);
    }

    /// Takes a slot for a job: the one its quote kept, or any that is free now.
    pub(super) fn admit(
        &self,
        quote: &Quote,
        model: &EngineModel,
        now_ms: UnixMillis,
    ) -> Result<Ticket, Rejection> {
        let mut state = self.state();
        state.forget(now_ms);
        if state.used.contains_key(&quote.nonce) || state.jobs.contains_key(&quote.nonce) {
            return Err(Rejection::QuoteUsed);
        }
        // Its own promise does not stand in the way of the job; whatever comes now, the promise has been called in.
        state.promises.remove(&quote.nonce);
        let tokens = quote.prompt_tokens.saturating_add(quote.max_completion_tokens);
        state.estimate(self.slots(), model, if quote.max_completion_tokens == 0 { 0 } else { tokens })?;
        let (door, streams) = mpsc::channel(1);
        let entry = Arc::new(Entry {
            job: quote.job,
            quote: quote.nonce,
            client: quote.client,
            model: quote.model.clone(),
            started: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            parked: AtomicBool::new(false),
            tokens: AtomicU32::new(0),
            holds_slot: AtomicBool::new(true),
            door,
            interrupt: CancellationToken::new(),
            halt: CancellationToken::new(),
            recorded: CancellationToken::new(),
        });
        let queued = state.load().queued;
        state.jobs.insert(quote.nonce, Arc::clone(&entry));
        self.publish_load(&state);
        Ok(Ticket { desk: self.clone(), entry, queued, door: streams, expires_ms: quote.expires_ms })
    }

    /// Ends the job that runs under `quote`, if `client` is its client. The result is cancelled once its receipt is on
    /// disk.
    pub(super) fn interrupt(&self, quote: &Nonce, client: &NodeId) -> Option<CancellationToken> {
        let state = self.state();
        let entry = state.jobs.get(quote).filter(|entry| entry.client == *client)?;
        entry.interrupt.cancel();
        Some(entry.recorded.clone())
    }

    /// Where the job that runs under `quote` takes its next stream, if `client` is its client.
    pub(super) fn door(&self, quote: &Nonce, client: &NodeId) -> Option<mpsc::Sender<Resumption>> {
        let state = self.state();
        state.jobs.get(quote).filter(|entry| entry.client == *client).map(|entry| entry.door.clone())
    }

    /// Jobs on the device, for people, in a fixed order.
    pub(super) fn running(&self) -> Vec<RunningJob> {
        let state = self.state();
        let mut running: Vec<_> = state
            .jobs
            .values()
            .filter(|entry| entry.holds_slot.load(Relaxed))
            .map(|entry| RunningJob {
                job: entry.job,
                client: entry.client,
                model: entry.model.clone(),
                tokens: entry.tokens.load(Relaxed),
                paused: entry.paused.load(Relaxed),
                parked: entry.parked.load(Relaxed),
            })
            .collect();
        running.sort_by_key(|running| running.job);
        running
    }

    /// Jobs that wait, and the share of the slots that jobs have taken, in millionths. Promised slots do not count: asking
    /// for prices makes none dearer.
    pub(super) fn demand(&self) -> (u32, u32) {
        let Load { running, queued } = self.state().load();
        (queued, share(running.saturating_add(queued), self.slots()))
    }

    /// Refuses a job for which a slot is kept where no other one is free beside it, unless there is only one.
    pub(super) fn check_spare(&self) -> Result<(), Rejection> {
        let Usage { running, promised, slots } = self.state().usage(self.slots(), |_| true);
        if slots > 1 && running.saturating_add(promised) >= slots {
            return Err(Rejection::Full { running, promised, slots });
        }
        Ok(())
    }

    /// The numbers behind "the provider is full".
    pub(super) fn full(&self) -> Rejection {
        let state = self.state();
        let usage = state.usage(self.slots(), |_| true);
        Rejection::Full { running: usage.running, promised: usage.promised, slots: usage.slots }
    }
}

impl State {
    fn forget(&mut self, now_ms: UnixMillis) {
        self.promises.retain(|_, promise| promise.until_ms > now_ms);
        self.used.retain(|_, expires_ms| *expires_ms > now_ms);
    }

    fn load(&self) -> Load {
        let on_device = self.jobs.values().filter(|entry| entry.holds_slot.load(Relaxed));
        on_device.fold(Load::default(), |load, entry| {
            if entry.started.load(Relaxed) {
                Load { running: load.running + 1, ..load }
            } else {
                Load { queued: load.queued + 1, ..load }
            }
        })
    }

    fn usage(&self, slots: u32, of: impl Fn(&ModelName) -> bool) -> Usage {
        let running = self.jobs.values().filter(|entry| entry.holds_slot.load(Relaxed) && of(&entry.model));
        let promised = self.promises.values().filter(|promise| of(&promise.model));
        Usage { running: running.count() as u32, promised: promised.count() as u32, slots }
    }

    fn estimate(&self, slots: u32, model: &EngineModel, tokens: u32) -> Result<(), Rejection> {
        let node = self.usage(slots, |_| true);
        let own = self.usage(model.slots, |name| *name == model.model);
        estimate(node, own, Demand { tokens, context: model.context })
    }
}

/// A job's place at the desk. Dropping it gives everything back.
#[derive(Debug)]
pub(super) struct Ticket {
    desk: Desk,
    entry: Arc<Entry>,
    /// Jobs that waited in the engine when this one came.
    pub(super) queued: u32,
    /// Streams on which the client comes back; one at a time waits.
    pub(super) door: mpsc::Receiver<Resumption>,
    expires_ms: UnixMillis,
}

impl Ticket {
    /// Cancelled when the client comes back to settle.
    pub(super) fn interrupted(&self) -> CancellationToken {
        self.entry.interrupt.clone()
    }

    /// Cancelled when the job is to end at once.
    pub(super) fn halted(&self) -> CancellationToken {
        self.entry.halt.clone()
    }

    /// The ledger has recorded the job: its quote is used up.
    pub(super) fn recorded_as_used(&self) {
        let mut state = self.desk.state();
        if state.used.len() < USED_QUOTES {
            state.used.insert(self.entry.quote, self.expires_ms);
        }
    }

    /// The engine reads the prompt.
    pub(super) fn started(&self) {
        let state = self.desk.state();
        self.entry.started.store(true, Relaxed);
        self.desk.publish_load(&state);
    }

    /// How far the job is.
    pub(super) fn progress(&self, tokens: u32, paused: bool, parked: bool) {
        self.entry.tokens.store(tokens, Relaxed);
        self.entry.paused.store(paused, Relaxed);
        self.entry.parked.store(parked, Relaxed);
    }

    /// The job has left the device: its slot is free.
    pub(super) fn left_device(&self) {
        let state = self.desk.state();
        self.entry.holds_slot.store(false, Relaxed);
        self.desk.publish_load(&state);
    }

    /// The receipt is on disk, or will never be.
    pub(super) fn receipt_recorded(&self) {
        self.entry.recorded.cancel();
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.desk.state();
        state.jobs.remove(&self.entry.quote);
        self.desk.publish_load(&state);
        drop(state);
        self.entry.recorded.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::tests::{engine_model, quote};

    const CLIENT: NodeId = NodeId([1; 32]);
    const OTHER: NodeId = NodeId([2; 32]);

    fn nonce(number: u8) -> Nonce {
        Nonce([number; 16])
    }

    fn quoted(number: u8) -> Quote {
        Quote { nonce: nonce(number), ..quote() }
    }

    #[test]
    fn a_promise_keeps_a_slot_for_ten_seconds_and_no_longer() {
        let desk = Desk::new(1);
        let model = engine_model();
        desk.promise(nonce(1), CLIENT, &model, 1, 0).unwrap();
        let full = Rejection::Full { running: 0, promised: 1, slots: 1 };
        assert_eq!(desk.promise(nonce(2), OTHER, &model, 1, QUOTE_CAPACITY_MS - 1), Err(full));
        assert_eq!(desk.promise(nonce(2), OTHER, &model, 1, QUOTE_CAPACITY_MS), Ok(()));
        assert!(
            matches!(desk.admit(&quoted(1), &model, QUOTE_CAPACITY_MS), Err(Rejection::Full { .. })),
            "a quote whose promise has lapsed is checked anew"
        );
        assert!(desk.admit(&quoted(2), &model, QUOTE_CAPACITY_MS).is_ok(), "its own promise is no obstacle");
    }

    #[test]
    fn a_client_holds_two_open_quotes_and_a_used_one_is_not_open() {
        let desk = Desk::new(8);
        let model = engine_model();
        desk.promise(nonce(1), CLIENT, &model, 1, 0).unwrap();
        desk.promise(nonce(2), CLIENT, &model, 1, 0).unwrap();
        assert_eq!(desk.promise(nonce(3), CLIENT, &model, 1, 0), Err(Rejection::TooManyQuotes(2)));
        assert_eq!(desk.promise(nonce(3), OTHER, &model, 1, 0), Ok(()));
        let _running = desk.admit(&quoted(1), &model, 0).unwrap();
        assert_eq!(desk.promise(nonce(4), CLIENT, &model, 1, 0), Ok(()));
    }

    #[test]
    fn a_quote_is_used_once_while_it_runs_and_after() {
        let desk = Desk::new(8);
        let model = engine_model();
        let ticket = desk.admit(&quoted(1), &model, 0).unwrap();
        assert_eq!(desk.admit(&quoted(1), &model, 0).unwrap_err(), Rejection::QuoteUsed);
        ticket.recorded_as_used();
        drop(ticket);
        assert_eq!(desk.admit(&quoted(1), &model, 0).unwrap_err(), Rejection::QuoteUsed);
        let refused = desk.admit(&quoted(2), &model, 0).unwrap();
        drop(refused);
        assert!(desk.admit(&quoted(2), &model, 0).is_ok(), "a job that the ledger never saw may be tried again");
    }

    #[test]
    fn a_slot_is_free_when_the_job_leaves_the_device_and_the_load_says_so() {
        let desk = Desk::new(1);
        let model = engine_model();
        let load = desk.load();
        let ticket = desk.admit(&quoted(1), &model, 0).unwrap();
        assert_eq!(*load.borrow(), Load { running: 0, queued: 1 });
        ticket.started();
        assert_eq!(*load.borrow(), Load { running: 1, queued: 0 });
        assert!(matches!(desk.admit(&quoted(2), &model, 0), Err(Rejection::Full { running: 1, .. })));
        ticket.left_device();
        assert_eq!(*load.borrow(), Load::default());
        assert!(desk.admit(&quoted(2), &model, 0).is_ok());
        assert!(desk.running().is_empty());
    }

    #[test]
    fn fewer_slots_end_no_job_and_halting_ends_all() {
        let desk = Desk::new(2);
        let model = engine_model();
        let first = desk.admit(&quoted(1), &model, 0).unwrap();
        desk.limit(1);
        assert!(matches!(desk.admit(&quoted(2), &model, 0), Err(Rejection::Full { slots: 1, .. })));
        assert!(!first.halted().is_cancelled());
        desk.limit(2);
        let second = desk.admit(&quoted(2), &model, 0).unwrap();
        desk.halt();
        assert!(first.halted().is_cancelled() && second.halted().is_cancelled());
        drop((first, second));
        let third = desk.admit(&quoted(3), &model, 0).unwrap();
        assert!(!third.halted().is_cancelled(), "it has cooled down");
    }

    #[test]
    fn only_its_client_interrupts_a_job() {
        let desk = Desk::new(1);
        let ticket = desk.admit(&quoted(1), &engine_model(), 0).unwrap();
        assert!(desk.interrupt(&nonce(1), &NodeId([9; 32])).is_none());
        assert!(!ticket.interrupted().is_cancelled());
        let recorded = desk.interrupt(&nonce(1), &quoted(1).client).unwrap();
        assert!(ticket.interrupted().is_cancelled());
        assert!(!recorded.is_cancelled());
        drop(ticket);
        assert!(recorded.is_cancelled(), "nobody waits for a job that is gone");
    }
}
