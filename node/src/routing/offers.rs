//! The actor that owns the book of offers: it judges gossip, keeps the subscriptions, and fetches what is missing.

use super::{
    OffersSnapshot,
    book::{Book, Refused, VerifiedOffer},
    fetch,
    metrics::RoutingMetrics,
    pace::PeerPaces,
    subscriptions::Subscriptions,
};
use crate::{
    clock::now_ms,
    network::{GossipMessage, NetworkHandle},
    storage::Store,
};
use aitbc_protocol::{
    NetworkId, NodeId,
    geo::{Cell, Location},
    offer::{Equivocation, Heartbeat},
};
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// Commands that may wait.
const COMMANDS: usize = 256;
/// How often expiry, silence and subscriptions are looked at.
const REVIEW: Duration = Duration::from_secs(1);
/// Least time between two snapshots: many heartbeats make one.
const BETWEEN_SNAPSHOTS: Duration = Duration::from_millis(50);
/// Proofs of equivocation that wait to be stored; one beyond that is lost, and its provider is out all the same.
const EVIDENCE: usize = 64;
/// Offers fetched at leisure at the same time, and waiting for it.
const FETCHES: usize = 4;
const WANTED: usize = 64;
/// A provider is asked for its offer at leisure once in this many milliseconds.
const ASK_EVERY_MS: f64 = 60_000.0;

enum Command {
    Learn { offer: VerifiedOffer, beat: Option<Heartbeat>, reply: oneshot::Sender<Result<(), Refused>> },
    Silent(NodeId),
}

/// Reads the book and teaches it. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct BookHandle {
    commands: mpsc::Sender<Command>,
    snapshot: watch::Receiver<Arc<OffersSnapshot>>,
}

impl BookHandle {
    /// What is known now.
    pub(super) fn snapshot(&self) -> Arc<OffersSnapshot> {
        self.snapshot.borrow().clone()
    }

    /// Wakes whoever waits for a provider to come back.
    pub(super) fn watch(&self) -> watch::Receiver<Arc<OffersSnapshot>> {
        self.snapshot.clone()
    }

    /// Teaches the book an offer that its provider handed over itself. Once the node stops, nothing is learnt and that
    /// is no fault of the offer.
    pub(super) async fn learn(&self, offer: VerifiedOffer, beat: Option<Heartbeat>) -> Result<(), Refused> {
        let (reply, taken) = oneshot::channel();
        if self.commands.send(Command::Learn { offer, beat, reply }).await.is_err() {
            return Ok(());
        }
        taken.await.unwrap_or(Ok(()))
    }

    /// Tells that a provider could not be reached.
    pub(super) async fn silent(&self, provider: NodeId) {
        // A book that has stopped needs no news.
        let _ = self.commands.send(Command::Silent(provider)).await;
    }
}

/// What the actor works with.
pub(super) struct BookParts {
    pub(super) id: NetworkId,
    pub(super) here: Location,
    pub(super) network: NetworkHandle,
    pub(super) store: Store,
    pub(super) gossip: mpsc::Receiver<GossipMessage>,
    pub(super) metrics: RoutingMetrics,
}

/// Starts the actor; it ends with `stop`.
pub(super) fn start(
    parts: BookParts,
    stop: CancellationToken,
) -> (BookHandle, impl Future<Output = ()> + Send + 'static) {
    let (commands, inbox) = mpsc::channel(COMMANDS);
    let (publish, snapshot) = watch::channel(Arc::default());
    let actor = async move {
        let caught = load_equivocators(parts.store.clone()).await;
        let (evidence, proofs) = mpsc::channel(EVIDENCE);
        let keeper = tokio::task::spawn_blocking(move || keep(&parts.store, proofs));
        let actor = Actor {
            book: Book::new(parts.id.clone(), parts.here, caught),
            subscriptions: Subscriptions::new(&parts.here),
            subscribed: Vec::new(),
            asked: PeerPaces::new(1.0, ASK_EVERY_MS),
            wanted: VecDeque::new(),
            fetches: JoinSet::new(),
            publish,
            publish_at: None,
            id: parts.id,
            network: parts.network,
            evidence,
            metrics: parts.metrics,
        };
        // The sender ends with the actor, and the keeper with it.
        actor.run(inbox, parts.gossip, stop).await;
        if keeper.await.is_err() {
            warn!("storing evidence failed");
        }
    };
    (BookHandle { commands, snapshot }, actor)
}

async fn load_equivocators(store: Store) -> Vec<NodeId> {
    let read = tokio::task::spawn_blocking(move || store.equivocations()).await;
    match read {
        Ok(Ok(caught)) => caught.into_iter().map(|evidence| evidence.first.signer()).collect(),
        Ok(Err(error)) => {
            warn!(%error, "cannot read the evidence of equivocations: caught providers may come back");
            Vec::new()
        }
        Err(_) => Vec::new(),
    }
}

type Fetched = (NodeId, Result<fetch::FetchedOffer, fetch::FetchError>);

struct Actor {
    book: Book,
    subscriptions: Subscriptions,
    /// What the network was last told.
    subscribed: Vec<Cell>,
    asked: PeerPaces,
    wanted: VecDeque<NodeId>,
    fetches: JoinSet<Fetched>,
    publish: watch::Sender<Arc<OffersSnapshot>>,
    /// When the next snapshot is due; `None` while nothing changed.
    publish_at: Option<Instant>,
    id: NetworkId,
    network: NetworkHandle,
    evidence: mpsc::Sender<Equivocation>,
    metrics: RoutingMetrics,
}

impl Actor {
    async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Command>,
        mut gossip: mpsc::Receiver<GossipMessage>,
        stop: CancellationToken,
    ) {
        let mut review = interval(REVIEW);
        review.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = self.publish_at;
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.publish_snapshot(),
                Some(command) = inbox.recv() => self.handle_command(command),
                _ = review.tick() => self.handle_review().await,
                Some(done) = self.fetches.join_next(), if !self.fetches.is_empty() => {
                    if let Ok((provider, result)) = done {
                        self.handle_fetched(provider, result);
                    }
                }
                Some(message) = gossip.recv() => self.handle_gossip(message).await,
            }
            self.keep_evidence();
            self.fetch_wanted();
        }
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::Learn { offer, beat, reply } => {
                let result = self.learn(offer, beat.as_ref());
                // The asker may have lost interest; the book keeps the offer all the same.
                let _ = reply.send(result);
            }
            Command::Silent(provider) => {
                let changed = self.book.silence(&provider);
                self.mark(changed);
            }
        }
    }

    fn learn(&mut self, offer: VerifiedOffer, beat: Option<&Heartbeat>) -> Result<(), Refused> {
        let now_ms = now_ms();
        let provider = offer.provider();
        let changed = self.book.take(offer, super::book::Source::Provider, now_ms)?;
        // A heartbeat that came along is only news of the load; an old one is no fault.
        let loaded = beat.is_some_and(|beat| self.book.beat(provider, beat, now_ms).unwrap_or(false));
        // Whoever learnt something reads it from the snapshot next.
        if changed || loaded {
            self.publish_snapshot();
        }
        Ok(())
    }

    async fn handle_gossip(&mut self, message: GossipMessage) {
        let now_ms = now_ms();
        let GossipMessage { id, forwarder, cell, bytes } = message;
        let heard = self.book.hear(cell, &bytes, now_ms);
        self.metrics.gossip(heard.verdict);
        self.mark(heard.changed);
        if let Some(provider) = heard.wanted
            && self.wanted.len() < WANTED
            && !self.wanted.contains(&provider)
            && self.asked.allow(provider, now_ms)
        {
            self.wanted.push_back(provider);
        }
        self.network.judge(id, forwarder, heard.verdict).await;
    }

    async fn handle_review(&mut self) {
        let now_ms = now_ms();
        let changed = self.book.expire(now_ms);
        self.mark(changed);
        let cells: Vec<Cell> = self.book.cells().collect();
        self.subscriptions.review(&cells, now_ms);
        let wish = self.subscriptions.cells();
        if wish != self.subscribed {
            match self.network.subscribe(wish.clone()).await {
                Ok(()) => self.subscribed = wish,
                // The next review tries again.
                Err(error) => debug!(%error, "cannot change the subscriptions"),
            }
        }
    }

    fn fetch_wanted(&mut self) {
        while self.fetches.len() < FETCHES
            && let Some(provider) = self.wanted.pop_front()
        {
            let (network, id) = (self.network.clone(), self.id.clone());
            self.fetches.spawn(async move {
                let result = fetch::fetch_offer(&network, &id, provider, Vec::new()).await;
                (provider, result)
            });
        }
    }

    fn handle_fetched(&mut self, provider: NodeId, result: Result<fetch::FetchedOffer, fetch::FetchError>) {
        match result {
            Ok(fetched) => {
                if let Err(error) = self.learn(fetched.offer, fetched.beat.as_ref()) {
                    debug!(peer = %provider, %error, "offer not taken");
                }
            }
            Err(error) => debug!(peer = %provider, %error, "offer not fetched"),
        }
    }

    /// Hands proof of equivocation to whoever stores it.
    fn keep_evidence(&mut self) {
        for evidence in self.book.take_evidence() {
            let provider = evidence.first.signer();
            warn!(peer = %provider, "two different offers with one sequence number: kept as evidence");
            self.metrics.equivocation();
            if self.evidence.try_send(evidence).is_err() {
                warn!(peer = %provider, "the evidence could not be stored: too much of it at once");
            }
        }
    }

    fn mark(&mut self, changed: bool) {
        if changed && self.publish_at.is_none() {
            self.publish_at = Some(Instant::now() + BETWEEN_SNAPSHOTS);
        }
    }

    fn publish_snapshot(&mut self) {
        self.publish_at = None;
        let mut snapshot = OffersSnapshot::default();
        for line in self.book.lines(now_ms()) {
            if line.fetched {
                snapshot.fetched.insert(line.known.provider);
            }
            if line.live { &mut snapshot.offers } else { &mut snapshot.silent }.push(line.known);
        }
        self.metrics.offers(snapshot.offers.len());
        self.publish.send_replace(Arc::new(snapshot));
    }
}

/// Stores proofs one after the other, off the runtime, until nobody sends any more.
fn keep(store: &Store, mut proofs: mpsc::Receiver<Equivocation>) {
    while let Some(evidence) = proofs.blocking_recv() {
        if let Err(error) = store.put_equivocation(&evidence) {
            warn!(peer = %evidence.first.signer(), %error, "evidence of an equivocation could not be stored");
        }
    }
}
