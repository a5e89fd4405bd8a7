//! Settling jobs that a crash, a lost path or a failed provider left open.
//!
//! At the start, when a provider is seen again, and again and again for a day, each unsettled job is taken to its
//! provider: the newest cheque goes there, what was paid and perhaps the receipt come back. After a day the job ends
//! with its receipt missing; it is tried once more whenever its provider is seen again, or refuses work because of
//! what this node owes.

use super::{active::Active, offers::BookHandle};
use crate::{
    clock::now_ms,
    market::{Ledger, LedgerError},
    network::{FramedStream, NetworkError, NetworkHandle, Protocol, StreamError},
    reputation::Reputation,
    storage::{JobRecord, Side},
};
use aitbc_protocol::messages::{ToClient, ToProvider};
use aitbc_protocol::{
    MicroCredits, NodeId, Nonce, UnixMillis, evidence::Evidence, holdback::Held, job::JobState, text::Line, wire,
};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// How often the ledger is looked through.
const SWEEP: Duration = Duration::from_secs(5);
/// Waited after the first failure, twice as long after each further one, and never longer than `LONGEST_WAIT_MS`.
const FIRST_WAIT_MS: u64 = 5_000;
const LONGEST_WAIT_MS: u64 = 600_000;
/// After how long without the provider a job is given up, in milliseconds.
const GIVE_UP_AFTER_MS: u64 = 24 * 3_600_000;
/// Providers that refuse work at the same time and are remembered for it.
const MAX_CREDITORS: usize = 256;
/// Providers asked at the same time.
const AT_ONCE: usize = 4;
/// How often it is looked what is held and due.
const HOLDS: Duration = Duration::from_secs(60);
/// How long one settlement may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// Why a job is not settled yet.
#[derive(Debug, thiserror::Error)]
pub(super) enum SettleError {
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("no answer within {PATIENCE:?}")]
    Timeout,
    #[error("it did not answer the settlement: {0}")]
    Refused(String),
}

/// When a job is tried again.
#[derive(Clone, Copy, Debug)]
struct Retry {
    at_ms: UnixMillis,
    wait_ms: u64,
}

impl Retry {
    fn after(previous: Option<Self>, now_ms: UnixMillis) -> Self {
        let wait_ms = previous.map_or(FIRST_WAIT_MS, |retry| (retry.wait_ms * 2).min(LONGEST_WAIT_MS));
        Self { at_ms: now_ms.saturating_add(wait_ms), wait_ms }
    }
}

/// Wakes the sweep. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Wake(Arc<WakeInner>);

#[derive(Debug, Default)]
struct WakeInner {
    notify: Notify,
    creditors: Mutex<HashSet<NodeId>>,
}

impl Wake {
    /// An attempt left something open.
    pub(super) fn left_open(&self) {
        self.0.notify.notify_one();
    }

    /// A provider refuses work until it is paid.
    pub(super) fn owing(&self, provider: NodeId) {
        let mut creditors = self.creditors();
        if creditors.len() < MAX_CREDITORS {
            creditors.insert(provider);
        }
        drop(creditors);
        self.0.notify.notify_one();
    }

    pub(super) fn take_creditors(&self) -> HashSet<NodeId> {
        std::mem::take(&mut *self.creditors())
    }

    fn creditors(&self) -> MutexGuard<'_, HashSet<NodeId>> {
        self.0.creditors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a job is taken to its provider for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bringing {
    /// To be settled.
    Job,
    /// It is over: its cheque lets go of what was held.
    Release,
}

/// What settling works with.
pub(super) struct Settling {
    pub(super) ledger: Ledger,
    pub(super) network: NetworkHandle,
    pub(super) book: BookHandle,
    pub(super) active: Active,
    pub(super) wake: Wake,
    pub(super) reputation: Reputation,
}

/// Works through unsettled jobs until `stop`.
pub(super) async fn run(settling: Settling, stop: CancellationToken) {
    let mut state = State::new(settling);
    let mut sweep = interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut holds = interval(HOLDS);
    holds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut offers = state.settling.book.watch();
    let mut peers = state.settling.network.peers();
    let wake = state.settling.wake.clone();
    let (mut live, mut connected) = (HashSet::new(), HashSet::new());
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Some(done) = state.tasks.join_next(), if !state.tasks.is_empty() => {
                if let Ok((nonce, result)) = done {
                    state.handle_done(nonce, result);
                }
            }
            _ = sweep.tick() => state.sweep().await,
            _ = holds.tick() => state.let_go(now_ms()).await,
            () = wake.0.notify.notified() => {
                let creditors = wake.take_creditors();
                if !creditors.is_empty() {
                    // They refuse work until they have it.
                    state.releases.retain(|provider, _| !creditors.contains(provider));
                    state.let_go(now_ms()).await;
                }
                state.revive(creditors).await;
                state.sweep().await;
            }
            Ok(()) = offers.changed() => {
                let now = offers.borrow_and_update().offers.iter().map(|known| known.provider).collect();
                state.handle_present(&mut live, now).await;
            }
            Ok(()) = peers.changed() => {
                let now = peers.borrow_and_update().iter().map(|peer| peer.peer).collect();
                state.handle_present(&mut connected, now).await;
            }
        }
    }
}

struct State {
    settling: Settling,
    /// Jobs that wait after a failure, with their provider.
    retries: HashMap<Nonce, (NodeId, Retry)>,
    running: HashMap<Nonce, NodeId>,
    /// Providers to which a release was taken, and when it is taken there again: whoever stays away is in no other's way.
    releases: HashMap<NodeId, Retry>,
    /// Jobs that were given up and have one more chance.
    given_up: VecDeque<JobRecord>,
    tasks: JoinSet<(Nonce, Result<JobRecord, SettleError>)>,
}

impl State {
    fn new(settling: Settling) -> Self {
        Self {
            settling,
            retries: HashMap::new(),
            running: HashMap::new(),
            releases: HashMap::new(),
            given_up: VecDeque::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Somebody was seen: whoever has just come back is tried at once, once for each time it does.
    async fn handle_present(&mut self, present: &mut HashSet<NodeId>, now: HashSet<NodeId>) {
        let newcomers: HashSet<NodeId> = now.difference(present).copied().collect();
        *present = now;
        if self.revive(newcomers).await {
            self.sweep().await;
        }
    }

    /// Makes jobs with these providers due, those that were given up too. Returns whether there are any.
    async fn revive(&mut self, providers: HashSet<NodeId>) -> bool {
        if providers.is_empty() {
            return false;
        }
        for (_, retry) in self.retries.values_mut().filter(|(provider, _)| providers.contains(provider)) {
            retry.at_ms = 0;
        }
        let records = match self.settling.ledger.unsettled_with(providers).await {
            Ok(records) => records,
            Err(error) => {
                warn!(%error, "cannot read the jobs that were given up");
                return false;
            }
        };
        let any = !records.is_empty();
        let mut waiting: HashSet<Nonce> = self.given_up.iter().filter_map(|record| record.key().ok()).collect();
        waiting.extend(self.running.keys());
        for record in records {
            if record.state == JobState::ReceiptMissing && record.key().is_ok_and(|nonce| waiting.insert(nonce)) {
                self.given_up.push_back(record);
            }
        }
        any
    }

    async fn sweep(&mut self) {
        let open = match self.settling.ledger.unsettled().await {
            Ok(open) => open,
            Err(error) => {
                warn!(%error, "cannot read the unsettled jobs");
                return;
            }
        };
        let now_ms = now_ms();
        let mut left = HashSet::new();
        for record in open {
            let Ok(nonce) = record.key() else { continue };
            left.insert(nonce);
            let due = self.retries.get(&nonce).is_none_or(|(_, retry)| retry.at_ms <= now_ms);
            if self.tasks.len() >= AT_ONCE
                || !due
                || self.running.contains_key(&nonce)
                || self.settling.active.contains(&nonce)
            {
                continue;
            }
            self.start(nonce, record, now_ms, Bringing::Job);
        }
        self.retries.retain(|nonce, _| left.contains(nonce));
        while self.tasks.len() < AT_ONCE
            && let Some(record) = self.given_up.pop_front()
        {
            let Ok(nonce) = record.key() else { continue };
            self.start(nonce, record, now_ms, Bringing::Job);
        }
    }

    /// Lets go of what is held and due, and takes from whoever was shown to be at fault what the fault costs: from the providers
    /// of this node, and from this node where it was.
    pub(super) async fn let_go(&mut self, now_ms: UnixMillis) {
        let held = match self.settling.ledger.held().await {
            Ok(held) => held,
            Err(error) => return warn!(%error, "cannot read what is held"),
        };
        let due = |side: Side, held: &Held| side == Side::Client && held.due(now_ms) > MicroCredits::ZERO;
        let waiting: HashSet<NodeId> =
            held.iter().filter(|(side, _, held)| due(*side, held)).map(|(_, peer, _)| *peer).collect();
        self.releases.retain(|provider, _| waiting.contains(provider));
        for (side, peer, held) in held {
            let payee = if side == Side::Client { peer } else { self.settling.reputation.me() };
            if let Some(slashed) = self.settling.reputation.slashed(&payee, now_ms) {
                match self.settling.ledger.forfeit(side, peer, slashed.fault.penalty().held).await {
                    Ok(lost) => {
                        warn!(payee = %payee.short(), %lost, held = %held.amount, fault = %slashed.fault, "a held part is lost");
                    }
                    Err(error) => warn!(%error, "what a fault costs cannot be written down"),
                }
                continue;
            }
            let before = self.releases.get(&peer).copied();
            let waits = before.is_some_and(|retry| now_ms < retry.at_ms);
            if !due(side, &held) || waits || self.tasks.len() >= AT_ONCE {
                continue;
            }
            match self.settling.ledger.release(peer).await {
                Ok(Some(record)) => {
                    if let Ok(nonce) = record.key()
                        && !self.running.contains_key(&nonce)
                    {
                        self.releases.insert(peer, Retry::after(before, now_ms));
                        self.start(nonce, record, now_ms, Bringing::Release);
                    }
                }
                Ok(None) => {}
                Err(error) => warn!(peer = %peer.short(), %error, "what is held and due cannot be let go of"),
            }
        }
    }

    fn start(&mut self, nonce: Nonce, record: JobRecord, now_ms: UnixMillis, bringing: Bringing) {
        let provider = record.peer;
        self.running.insert(nonce, provider);
        let at_start = record.addresses.iter().filter_map(|address| address.parse().ok());
        let addresses = self.settling.book.addresses_of(provider, at_start);
        let (ledger, network) = (self.settling.ledger.clone(), self.settling.network.clone());
        let book = self.settling.book.clone();
        let give_up = !record.state.is_final() && now_ms.saturating_sub(record.created_ms) > GIVE_UP_AFTER_MS;
        self.tasks.spawn(async move {
            let settle = async {
                let stream = network.open(provider, addresses, Protocol::Job).await?;
                let released = record.clone();
                let settled = settle(&ledger, nonce, record, stream, |evidence| book.accuse(evidence)).await?;
                if bringing == Bringing::Release {
                    ledger.released(&released).await?;
                    info!(peer = %provider.short(), "what was held and due is let go of");
                }
                Ok(settled)
            };
            let result = match timeout(PATIENCE, settle).await.unwrap_or(Err(SettleError::Timeout)) {
                Err(error) if give_up => {
                    let why = Line::lossy(&format!("given up after a day: {error}"));
                    ledger.give_up(nonce, why).await.map_err(SettleError::from)
                }
                result => result,
            };
            (nonce, result)
        });
    }

    fn handle_done(&mut self, nonce: Nonce, result: Result<JobRecord, SettleError>) {
        let Some(provider) = self.running.remove(&nonce) else { return };
        match result {
            // A receipt came with the settlement and its cheque is still to be taken there.
            Ok(record) if !record.state.is_final() => {
                self.retries.remove(&nonce);
                self.settling.wake.left_open();
            }
            Ok(record) if record.state == JobState::ReceiptMissing => {
                info!(job = %record.job, peer = %provider, paid = %record.paid, "given up for want of its receipt");
                self.retries.remove(&nonce);
            }
            Ok(record) => {
                info!(job = %record.job, peer = %provider, state = ?record.state, paid = %record.paid, "settled");
                self.retries.remove(&nonce);
            }
            Err(error) => {
                let retry = Retry::after(self.retries.get(&nonce).map(|(_, retry)| *retry), now_ms());
                debug!(peer = %provider, %error, wait_ms = retry.wait_ms, "not settled yet");
                self.retries.insert(nonce, (provider, retry));
            }
        }
    }
}

/// Settles one job over a fresh stream to its provider.
pub(super) async fn settle(
    ledger: &Ledger,
    nonce: Nonce,
    record: JobRecord,
    mut stream: FramedStream,
    accuse: impl Fn(Evidence),
) -> Result<JobRecord, SettleError> {
    // Where the receipt came before the crash, the record's newest cheque pays for all of it.
    let message = ToProvider::Settle { job: record.job, quote: nonce, cheque: record.cheque };
    stream.send(&message, wire::MAX_JOB_FRAME).await?;
    match stream.receive::<ToClient>(wire::MAX_JOB_FRAME).await? {
        Some(ToClient::Settled { paid, receipt }) => {
            if let (Some(held), Some(told)) = (record.receipt, receipt.clone())
                && held != told
            {
                accuse(Evidence::Receipts(held, told));
            }
            Ok(ledger.settled(nonce, paid, receipt).await?)
        }
        Some(ToClient::Rejected(rejection)) => Err(SettleError::Refused(rejection.to_string())),
        Some(_) => Err(SettleError::Refused("it sent something else".to_owned())),
        None => Err(SettleError::Refused("it closed the stream".to_owned())),
    }
}

#[cfg(test)]
mod tests;
