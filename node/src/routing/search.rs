//! Looking for providers: first in the book, then in the DHT, nearest cell first, wider rings after.
//!
//! No prompt leaves this node here: what is asked of others is which cell, and whose offer.

use super::{
    JobUpdate, Shared,
    book::{Refused, VerifiedBeat},
    fetch,
    fetch::FetchError,
};
use crate::network::{FoundProvider, NetworkError};
use aitbc_protocol::{
    NodeId,
    geo::{Cell, DEFAULT_PRECISION, Location, SearchStep, least_round_trip_ms, search_plan},
    job::ModelName,
    offer::KnownOffer,
};
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use libp2p::Multiaddr;
use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::debug;

/// Rings looked up at each precision but the coarsest.
const RINGS: u32 = 1;
/// Cells looked up at the same time.
const LOOKUPS_AT_ONCE: usize = 16;
/// Cells looked up by one search: all of the coarsest precision and the rings of the finer ones.
const MAX_LOOKUPS: u32 = 1_100;
/// How long one cell is waited for; the DHT's own end of a query takes up to 20 s where peers are dead.
const LOOKUP_PATIENCE: Duration = Duration::from_secs(3);
/// Waited before a lookup is tried again for which the network had no room.
const LOOKUP_AGAIN: Duration = Duration::from_millis(50);
/// Offers fetched at the same time.
const FETCHES_AT_ONCE: usize = 16;
/// Providers that wait for their offer to be fetched; what is named beyond that is left out.
const MAX_NAMED: usize = 256;
/// How long a search takes at most.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a search for a job goes on once it has a candidate.
const LINGER: Duration = Duration::from_millis(1_500);
/// How long a node without any peer waits for its first one.
const FIRST_PEER: Duration = Duration::from_millis(1_500);
/// For how long a search that found somebody need not be repeated while somebody is left.
const REMEMBERED: Duration = Duration::from_secs(300);
/// Models whose last search is remembered.
const MAX_REMEMBERED: usize = 256;

/// What is looked for.
#[derive(Clone, Debug)]
pub(super) struct Goal {
    /// The model, or anything.
    pub(super) model: Option<ModelName>,
    /// Only this provider.
    pub(super) provider: Option<NodeId>,
    /// Where the search starts.
    pub(super) from: Location,
    /// The largest acceptable round trip.
    pub(super) budget_ms: f64,
    /// Whether to search on for the whole time although somebody was found, and although a recent search did.
    pub(super) thorough: bool,
    /// Providers that are of no use any more.
    pub(super) exclude: HashSet<NodeId>,
    /// Providers that were reported by an earlier search of the same job.
    pub(super) told: HashSet<NodeId>,
}

/// A provider that was found.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) known: KnownOffer,
    pub(super) distance_km: f64,
}

impl Found {
    /// Where it says it can be reached; what is no multiaddress is left out.
    pub(super) fn addresses(&self) -> Vec<Multiaddr> {
        self.known.offer.addresses.iter().filter_map(|address| address.as_str().parse().ok()).collect()
    }
}

/// Why a search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SearchEnd {
    /// There are enough candidates.
    Enough,
    /// Everything that light in fibre can reach within the budget was looked at.
    Everything,
    /// Its time was up.
    Time,
    /// There is nobody to ask.
    NoPeers,
}

/// What a search brought.
#[derive(Debug)]
pub(super) struct Searched {
    /// Providers of the model, nearest first.
    pub(super) found: Vec<Found>,
    /// Models that others offer, for people who mistyped.
    pub(super) other_models: HashSet<ModelName>,
    pub(super) end: SearchEnd,
    /// Cells looked up.
    pub(super) lookups: u32,
}

/// When each model was last searched for.
#[derive(Debug, Default)]
pub(super) struct SearchMemory(Mutex<HashMap<ModelName, Instant>>);

impl SearchMemory {
    fn recent(&self, model: &ModelName) -> bool {
        let memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        memory.get(model).is_some_and(|at| at.elapsed() < REMEMBERED)
    }

    fn note(&self, model: ModelName) {
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if memory.len() >= MAX_REMEMBERED {
            memory.retain(|_, at| at.elapsed() < REMEMBERED);
        }
        if memory.len() < MAX_REMEMBERED {
            memory.insert(model, Instant::now());
        }
    }
}

enum Event {
    LookedUp,
    Fetched(NodeId, Box<Result<fetch::FetchedOffer, FetchError>>),
}

struct Search<'a> {
    shared: &'a Shared,
    goal: &'a Goal,
    updates: &'a mpsc::Sender<JobUpdate>,
    found: Vec<Found>,
    other_models: HashSet<ModelName>,
    /// Providers that were looked at, for the model or not.
    seen: HashSet<NodeId>,
    lookups: u32,
}

/// Looks for providers and reports on the way. Known live offers come first; where they are not enough, silent ones
/// are asked whether they are still there, and then the DHT is.
pub(super) async fn search(shared: &Shared, goal: &Goal, updates: &mpsc::Sender<JobUpdate>) -> Searched {
    let started = Instant::now();
    let mut search = Search {
        shared,
        goal,
        updates,
        found: Vec::new(),
        other_models: HashSet::new(),
        seen: HashSet::from([shared.network.local_id()]),
        lookups: 0,
    };
    let end = search.run(started).await;
    shared.metrics.search(started.elapsed());
    if let (Some(model), false) = (&goal.model, search.found.is_empty()) {
        shared.searches.note(model.clone());
    }
    let Search { mut found, other_models, lookups, .. } = search;
    found.sort_by(|a, b| a.distance_km.total_cmp(&b.distance_km));
    Searched { found, other_models, end, lookups }
}

impl Search<'_> {
    async fn run(&mut self, started: Instant) -> SearchEnd {
        let snapshot = self.shared.book.snapshot();
        let mut live: Vec<&KnownOffer> = snapshot.offers.iter().collect();
        live.sort_by_cached_key(|known| known.offer.cell.distance_km(&self.goal.from) as u64);
        for known in live {
            let through = if snapshot.searched.contains(&known.provider) { "dht" } else { "gossip" };
            self.add(known.clone(), through).await;
        }
        let recent = self.goal.model.as_ref().is_some_and(|model| self.shared.searches.recent(model));
        if self.is_enough() || self.usable() > 0 && recent && !self.goal.thorough {
            return SearchEnd::Enough;
        }
        let mut named: VecDeque<FoundProvider> = VecDeque::new();
        if let Some(provider) = self.goal.provider
            && self.seen.insert(provider)
        {
            named.push_back(FoundProvider { node: provider, addresses: Vec::new() });
        }
        for known in &snapshot.silent {
            if named.len() < MAX_NAMED && self.wants(known) && self.seen.insert(known.provider) {
                let addresses =
                    known.offer.addresses.iter().filter_map(|line| line.as_str().parse().ok()).collect();
                named.push_back(FoundProvider { node: known.provider, addresses });
            }
        }
        if !self.has_peers().await && named.is_empty() {
            return SearchEnd::NoPeers;
        }
        self.walk(named, started).await
    }

    /// Walks the plan: a few cells at a time in order, the offers of whoever is named while the lookups run.
    async fn walk(&mut self, mut named: VecDeque<FoundProvider>, started: Instant) -> SearchEnd {
        let (name, mut names) = mpsc::channel::<FoundProvider>(64);
        let mut plan =
            search_plan(self.goal.from, DEFAULT_PRECISION, RINGS, self.goal.budget_ms).flat_map(step_cells);
        let mut next = plan.next();
        let mut lookups = 0;
        let mut fetches = 0;
        let mut events: FuturesUnordered<BoxFuture<'_, Event>> = FuturesUnordered::new();
        let mut deadline = started + PATIENCE;
        loop {
            if self.is_enough() {
                return SearchEnd::Enough;
            }
            if self.usable() > 0 && !self.goal.thorough {
                deadline = deadline.min(Instant::now() + LINGER);
            }
            while fetches < FETCHES_AT_ONCE
                && let Some(provider) = named.pop_front()
            {
                events.push(Box::pin(fetch_one(self.shared, provider)));
                fetches += 1;
            }
            while lookups < LOOKUPS_AT_ONCE
                && self.lookups < MAX_LOOKUPS
                && let Some((first, precision, ring, cell)) = next.take()
            {
                next = plan.next();
                if first {
                    self.tell(JobUpdate::Searching { precision, ring, found: self.found.len() }).await;
                }
                events.push(Box::pin(look_up(self.shared, cell, name.clone())));
                lookups += 1;
                self.lookups += 1;
            }
            if events.is_empty() {
                // Names may wait in the channel after the lookup that brought them ended.
                match names.try_recv() {
                    Ok(provider) => self.take_name(provider, &mut named),
                    Err(_) if named.is_empty() => return SearchEnd::Everything,
                    Err(_) => {}
                }
                continue;
            }
            tokio::select! {
                biased;
                () = sleep_until(deadline) => return SearchEnd::Time,
                Some(provider) = names.recv() => self.take_name(provider, &mut named),
                Some(event) = events.next() => match event {
                    Event::LookedUp => lookups -= 1,
                    Event::Fetched(provider, result) => {
                        fetches -= 1;
                        self.take_offer(provider, *result).await;
                    }
                },
            }
        }
    }

    fn take_name(&mut self, provider: FoundProvider, named: &mut VecDeque<FoundProvider>) {
        if named.len() < MAX_NAMED && self.seen.insert(provider.node) {
            named.push_back(provider);
        }
    }

    async fn take_offer(&mut self, provider: NodeId, result: Result<fetch::FetchedOffer, FetchError>) {
        let fetched = match result {
            Ok(fetched) => fetched,
            Err(error) => {
                debug!(peer = %provider, %error, "no offer");
                self.shared.book.silent(provider).await;
                return;
            }
        };
        let load = fetched.beat.as_ref().map(VerifiedBeat::load).unwrap_or_default();
        let known = fetched.offer.known(load, crate::clock::now_ms());
        match self.shared.book.learn(fetched).await {
            Ok(()) => self.add(known, "dht").await,
            // An older offer than the one known: the provider is known already, by gossip.
            Err(Refused::Fault(fault)) => debug!(peer = %provider, %fault, "offer not taken"),
            Err(Refused::TooMany) => {}
        }
    }

    fn wants(&self, known: &KnownOffer) -> bool {
        self.goal.model.as_ref().is_none_or(|model| known.offer.models.iter().any(|offer| offer.model == *model))
            && self.goal.provider.is_none_or(|provider| provider == known.provider)
    }

    async fn add(&mut self, known: KnownOffer, through: &str) {
        self.other_models.extend(known.offer.models.iter().map(|offer| offer.model.clone()));
        if !self.wants(&known) {
            return;
        }
        self.seen.insert(known.provider);
        let distance_km = known.offer.cell.distance_km(&self.goal.from);
        if !self.goal.told.contains(&known.provider) {
            self.tell(JobUpdate::Found {
                provider: known.provider,
                cell: known.offer.cell,
                distance_km,
                through: through.to_owned(),
            })
            .await;
        }
        self.found.push(Found { known, distance_km });
    }

    /// Candidates near enough that were not used up by this job.
    fn usable(&self) -> usize {
        self.found
            .iter()
            .filter(|found| {
                least_round_trip_ms(found.distance_km) <= self.goal.budget_ms
                    && !self.goal.exclude.contains(&found.known.provider)
            })
            .count()
    }

    fn is_enough(&self) -> bool {
        let enough = if self.goal.provider.is_some() { 1 } else { self.shared.config.enough };
        self.usable() >= enough
    }

    /// Waits a little for the first peer of a node that has just started.
    async fn has_peers(&self) -> bool {
        let mut peers = self.shared.network.peers();
        timeout(FIRST_PEER, peers.wait_for(|peers| !peers.is_empty())).await.is_ok_and(|peers| peers.is_ok())
    }

    async fn tell(&self, update: JobUpdate) {
        // Whoever starts a search ends it when nobody listens any more.
        let _ = self.updates.send(update).await;
    }
}

/// The cells of a step, each with its precision, its ring, and whether it is the step's first.
fn step_cells(step: SearchStep) -> impl Iterator<Item = (bool, u8, u32, Cell)> + Send {
    let SearchStep { precision, ring, cells } = step;
    cells.into_iter().enumerate().map(move |(index, cell)| (index == 0, precision, ring, cell))
}

async fn fetch_one(shared: &Shared, provider: FoundProvider) -> Event {
    let FoundProvider { node, addresses } = provider;
    let result = fetch::fetch_offer(&shared.network, &shared.config.network, node, addresses).await;
    Event::Fetched(node, Box::new(result))
}

async fn look_up(shared: &Shared, cell: Cell, names: mpsc::Sender<FoundProvider>) -> Event {
    // Waiting for a turn does not count: it passes as others end.
    let _turn = shared.lookups.acquire().await.expect("the semaphore is never closed");
    let lookup = async {
        let mut providers = match once_there_is_room(|| shared.network.providers_of(cell)).await {
            Ok(providers) => providers,
            Err(error) => return debug!(%cell, %error, "lookup failed"),
        };
        while let Some(provider) = providers.recv().await {
            if names.send(provider).await.is_err() {
                return;
            }
        }
    };
    // What came until then counts; the rest of the query is not worth more time.
    let _ = timeout(LOOKUP_PATIENCE, lookup).await;
    Event::LookedUp
}

/// Tries again until the network has room for a lookup: its own upkeep and other searches need some too.
async fn once_there_is_room<T, F>(mut lookup: impl FnMut() -> F) -> Result<T, NetworkError>
where
    F: Future<Output = Result<T, NetworkError>>,
{
    loop {
        match lookup().await {
            Err(NetworkError::TooManyLookups(_) | NetworkError::Busy(_)) => sleep(LOOKUP_AGAIN).await,
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lookup_without_room_is_tried_again() {
        let mut answers = VecDeque::from([
            Err(NetworkError::TooManyLookups(64)),
            Err(NetworkError::Busy(256)),
            Ok("somebody"),
            Err(NetworkError::Stopped),
        ]);
        let mut next = || std::future::ready(answers.pop_front().expect("asked once too often"));
        assert_eq!(once_there_is_room(&mut next).await.expect("there was room in the end"), "somebody");
        assert!(matches!(once_there_is_room(&mut next).await, Err(NetworkError::Stopped)), "no use in waiting");
    }
}
