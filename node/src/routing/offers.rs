//! The actor that owns the book of offers: it judges gossip, keeps the subscriptions, and fetches what is missing.

use super::{
    OffersSnapshot,
    book::{Book, Refused, Source},
    catch_up::CatchUp,
    fetch::{self, FetchError, FetchedOffer, Neighbourhood},
    metrics::RoutingMetrics,
    pace::PeerPaces,
    subscriptions::Subscriptions,
    witness::Witness,
};
use crate::{
    blocking,
    clock::now_ms,
    network::{GossipMessage, NetworkHandle, Verdict},
    reputation::Reputation,
    storage::{EvidenceRecord, Store},
    trust::Trust,
};
use aitbc_protocol::{
    NetworkId, NodeId, UnixMillis,
    evidence::{Evidence, Fault},
    geo::{Cell, FINEST_TOPIC, Location},
    gossip::Gossip,
    offer::Statements,
};
use libp2p::Multiaddr;
use std::{
    collections::{BTreeSet, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};
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
/// Pieces of evidence that wait to be stored; one beyond that is forgotten with this process.
const EVIDENCE: usize = 64;
/// Offers fetched at leisure at the same time, and waiting for it.
const FETCHES: usize = 4;
const WANTED: usize = 64;
/// A provider is asked for its offer at leisure once in this many milliseconds.
const ASK_EVERY_MS: f64 = 60_000.0;

enum Command {
    Learn { fetched: Box<FetchedOffer>, reply: oneshot::Sender<Result<(), Refused>> },
    Near { cells: Vec<Cell>, asker: NodeId, reply: oneshot::Sender<Vec<Statements>> },
    Silent(NodeId),
    Accuse(Box<Evidence>),
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

    /// Where a provider says that it is now, and then where it was `before`.
    pub(super) fn addresses_of(
        &self,
        provider: NodeId,
        before: impl IntoIterator<Item = Multiaddr>,
    ) -> Vec<Multiaddr> {
        let snapshot = self.snapshot();
        let known = snapshot.offers.iter().chain(&snapshot.silent).find(|known| known.provider == provider);
        let now = known.into_iter().flat_map(|known| &known.offer.addresses);
        let now = now.filter_map(|address| address.as_str().parse().ok());
        let mut seen = HashSet::new();
        now.chain(before).filter(|address| seen.insert(address.clone())).collect()
    }

    /// Wakes whoever waits for a provider to come back.
    pub(super) fn watch(&self) -> watch::Receiver<Arc<OffersSnapshot>> {
        self.snapshot.clone()
    }

    /// Teaches the book an offer that a provider handed over itself after a search had named it. Once the node stops,
    /// nothing is learnt and that is no fault of the offer.
    pub(super) async fn learn(&self, fetched: FetchedOffer) -> Result<(), Refused> {
        let (reply, taken) = oneshot::channel();
        if self.commands.send(Command::Learn { fetched: Box::new(fetched), reply }).await.is_err() {
            return Ok(());
        }
        taken.await.unwrap_or(Ok(()))
    }

    /// What is known of providers in `cells`, for `asker`; nothing from a book that is too busy or has stopped.
    pub(super) async fn near(&self, cells: Vec<Cell>, asker: NodeId) -> Vec<Statements> {
        let (reply, known) = oneshot::channel();
        if self.commands.try_send(Command::Near { cells, asker, reply }).is_err() {
            return Vec::new();
        }
        known.await.unwrap_or_default()
    }

    /// Hands over what seems to be evidence; whether it is, the actor finds out.
    pub(super) fn accuse(&self, evidence: Evidence) {
        let accused = evidence.accused();
        if self.commands.try_send(Command::Accuse(Box::new(evidence))).is_err() {
            warn!(peer = %accused.short(), "evidence is lost: too much is going on at once");
        }
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
    pub(super) trust: Trust,
    pub(super) reputation: Reputation,
    pub(super) gossip: mpsc::Receiver<GossipMessage>,
    /// What the provider side holds against its clients.
    pub(super) accusations: mpsc::Receiver<Evidence>,
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
        let known = load_evidence(parts.store.clone()).await;
        let witness = Witness::new(parts.id.clone(), parts.reputation.clone(), now_ms());
        for record in &known {
            witness.recall(record);
        }
        let caught = known.iter().filter(|record| record.evidence.fault() == Fault::Offers);
        let out_ms = Fault::Offers.penalty().excluded_ms;
        let caught: Vec<(NodeId, UnixMillis)> =
            caught.map(|record| (record.evidence.accused(), record.learned_ms.saturating_add(out_ms))).collect();
        let (evidence, proofs) = mpsc::channel(EVIDENCE);
        let keeper = tokio::spawn(keep(parts.store, parts.reputation, proofs));
        let actor = Actor {
            book: Book::new(parts.id.clone(), parts.here, caught)
                .heeding(parts.trust.heeded())
                .beginning_at(parts.network.local_id()),
            subscriptions: Subscriptions::new(&parts.here),
            subscribed: Vec::new(),
            heard: Vec::new(),
            asked: PeerPaces::new(1.0, ASK_EVERY_MS),
            wanted: VecDeque::new(),
            catch_up: CatchUp::default(),
            asking: false,
            fetches: JoinSet::new(),
            publish,
            publish_at: None,
            witness,
            home: Cell::at(&parts.here, FINEST_TOPIC),
            id: parts.id,
            network: parts.network,
            trust: parts.trust,
            evidence,
            metrics: parts.metrics,
        };
        // The sender ends with the actor, and the keeper with it.
        actor.run(inbox, parts.gossip, parts.accusations, stop).await;
        if keeper.await.is_err() {
            warn!("storing evidence failed");
        }
    };
    (BookHandle { commands, snapshot }, actor)
}

async fn load_evidence(store: Store) -> Vec<EvidenceRecord> {
    let read = blocking::run(move || store.evidence()).await;
    match read {
        Ok(Ok(known)) => known,
        Ok(Err(error)) => {
            warn!(%error, "cannot read the evidence: caught nodes may come back");
            Vec::new()
        }
        Err(_) => Vec::new(),
    }
}

/// What was asked of a peer, and its answer.
enum Fetched {
    Own(Result<FetchedOffer, FetchError>),
    Near(Result<Neighbourhood, FetchError>),
}

struct Actor {
    book: Book,
    subscriptions: Subscriptions,
    /// What the network was last told.
    subscribed: Vec<Cell>,
    /// Those of them whose topics are truly heard: none without gossip.
    heard: Vec<Cell>,
    asked: PeerPaces,
    wanted: VecDeque<NodeId>,
    catch_up: CatchUp,
    /// A peer is being asked for the neighbourhood.
    asking: bool,
    fetches: JoinSet<(NodeId, Fetched)>,
    publish: watch::Sender<Arc<OffersSnapshot>>,
    /// When the next snapshot is due; `None` while nothing changed.
    publish_at: Option<Instant>,
    id: NetworkId,
    network: NetworkHandle,
    trust: Trust,
    witness: Witness,
    /// This node's own cell.
    home: Cell,
    evidence: mpsc::Sender<EvidenceRecord>,
    metrics: RoutingMetrics,
}

impl Actor {
    async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Command>,
        mut gossip: mpsc::Receiver<GossipMessage>,
        mut accusations: mpsc::Receiver<Evidence>,
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
                Some(command) = inbox.recv() => self.handle_command(command).await,
                Some(evidence) = accusations.recv() => self.convict(evidence).await,
                _ = review.tick() => self.handle_review().await,
                Some(done) = self.fetches.join_next(), if !self.fetches.is_empty() => {
                    if let Ok((peer, fetched)) = done {
                        self.handle_fetched(peer, fetched);
                    }
                }
                Some(message) = gossip.recv() => self.handle_gossip(message).await,
            }
            self.tell_equivocations().await;
            self.fetch_wanted();
        }
    }

    async fn handle_command(&mut self, command: Command) {
        match command {
            Command::Learn { fetched, reply } => {
                let result = self.learn(*fetched, Source::Search);
                // The asker may have lost interest; the book keeps the offer all the same.
                let _ = reply.send(result);
            }
            // The asker may have gone.
            Command::Near { cells, asker, reply } => drop(reply.send(self.book.near(&cells, &asker, now_ms()))),
            Command::Silent(provider) => {
                let changed = self.book.silence(&provider);
                self.mark(changed);
            }
            Command::Accuse(evidence) => self.convict(*evidence).await,
        }
    }

    fn learn(&mut self, fetched: FetchedOffer, source: Source) -> Result<(), Refused> {
        let now_ms = now_ms();
        let changed = self.book.take(fetched.offer, source, now_ms)?;
        // A heartbeat that came along is only news of the load; an old one is no fault.
        let loaded = fetched.beat.is_some_and(|beat| self.book.beat(beat, now_ms).unwrap_or(false));
        // Whoever learnt something reads it from the snapshot next.
        if changed || loaded {
            self.publish_snapshot();
        }
        Ok(())
    }

    async fn handle_gossip(&mut self, message: GossipMessage) {
        let now_ms = now_ms();
        let GossipMessage { id, forwarder, cell, bytes } = message;
        let mut heard = self.book.hear(cell, &bytes, now_ms);
        // Of itself a node hears nothing from others; what is said of it goes on all the same.
        let (book, me, home) = (&self.book, self.network.local_id(), self.home);
        let cell_of = |node: &NodeId| book.cell_of(node).or((*node == me).then_some(home));
        if let Some(said) = heard.said.take() {
            heard.verdict = self.witness.hear(cell, &said, cell_of, now_ms);
        }
        if let Some(evidence) = heard.evidence.take() {
            heard.verdict = self.witness.hear_evidence(&evidence, |node| cell_of(node).is_some(), now_ms);
            if heard.verdict == Verdict::Accept {
                self.keep(*evidence, now_ms);
            }
        }
        if let Some(provider) = heard.beat {
            self.witness.heartbeat(provider, now_ms);
        }
        self.metrics.gossip(heard.verdict);
        self.mark(heard.changed);
        if let Some((signed, revoke)) = heard.revoked
            && let verifier = signed.signer().short()
            && self.trust.revoke(signed, &revoke)
        {
            let peer = revoke.peer.short();
            warn!(%peer, %verifier, "a verifier took back what it had said of a provider");
            self.mark(true);
        }
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
        if !self.network.peers().borrow().is_empty() {
            self.witness.listen(now_ms);
        }
        let changed = self.book.expire(now_ms);
        self.mark(changed);
        if self.book.take_moved() {
            let cells: Vec<Cell> = self.book.cells().collect();
            self.subscriptions.count(&cells);
        }
        if self.subscriptions.review(now_ms) {
            self.catch_up.restart();
        }
        let wish = self.subscriptions.cells();
        if wish != self.subscribed {
            match self.network.subscribe(wish.clone()).await {
                Ok(heard) => (self.subscribed, self.heard) = (wish, heard),
                // The next review tries again.
                Err(error) => debug!(%error, "cannot change the subscriptions"),
            }
        }
        // What is asked for is what gossip should have brought.
        if !self.asking && !self.heard.is_empty() && self.subscriptions.lacks() {
            self.ask_around(now_ms);
        }
    }

    /// Asks one connected peer what it has heard of the neighbourhood.
    fn ask_around(&mut self, now_ms: UnixMillis) {
        let connected: BTreeSet<NodeId> = self.network.peers().borrow().iter().map(|peer| peer.peer).collect();
        let Some(peer) = self.catch_up.next(&connected, now_ms) else { return };
        self.asking = true;
        let (network, id, cells) = (self.network.clone(), self.id.clone(), self.heard.clone());
        self.fetches.spawn(async move {
            let result = fetch::fetch_near(&network, &id, peer, cells).await;
            (peer, Fetched::Near(result))
        });
    }

    fn fetch_wanted(&mut self) {
        while self.fetches.len() < FETCHES
            && let Some(provider) = self.wanted.pop_front()
        {
            let (network, id) = (self.network.clone(), self.id.clone());
            self.fetches.spawn(async move {
                let result = fetch::fetch_offer(&network, &id, provider, Vec::new()).await;
                (provider, Fetched::Own(result))
            });
        }
    }

    fn handle_fetched(&mut self, peer: NodeId, fetched: Fetched) {
        let (own, known) = match fetched {
            Fetched::Own(Ok(own)) => (Some(own), Vec::new()),
            Fetched::Near(Ok(Neighbourhood { own, known, broken })) => {
                self.asking = false;
                if broken {
                    warn!(%peer, "it told of offers that do not hold: it is not asked again");
                    self.catch_up.distrust(peer);
                }
                (own, known)
            }
            Fetched::Own(Err(error)) => return debug!(%peer, %error, "offer not fetched"),
            Fetched::Near(Err(error)) => {
                self.asking = false;
                return debug!(%peer, %error, "it does not tell of its neighbourhood");
            }
        };
        let own = own.into_iter().map(|own| (own, Source::Provider));
        let me = self.network.local_id();
        let known = known.into_iter().map(|known| (known, Source::Gossip));
        for (fetched, source) in own.chain(known).filter(|(fetched, _)| fetched.offer.provider() != me) {
            if let Err(error) = self.learn(fetched, source) {
                debug!(%peer, %error, "offer not taken");
            }
        }
    }

    /// Takes up the equivocations that the book has found.
    async fn tell_equivocations(&mut self) {
        for equivocation in self.book.take_evidence() {
            self.metrics.equivocation();
            self.convict(equivocation.into()).await;
        }
    }

    /// Takes up evidence that this node found, and tells whoever hears the accused's cell.
    async fn convict(&mut self, evidence: Evidence) {
        let now_ms = now_ms();
        if !self.witness.found(&evidence, now_ms) {
            return;
        }
        self.keep(evidence.clone(), now_ms);
        let accused = evidence.accused();
        if matches!(evidence, Evidence::Walk(_)) {
            return;
        }
        let cell = self.book.cell_of(&accused).unwrap_or(self.home);
        let topic = cell.coarsened(cell.precision().min(FINEST_TOPIC));
        match self.network.publish(topic, &Gossip::Evidence(Box::new(evidence))).await {
            Ok(true) => {}
            Ok(false) => {
                debug!(peer = %accused.short(), "nobody who hears its cell is connected: the evidence stays here");
            }
            Err(error) => {
                warn!(peer = %accused.short(), %error, "evidence cannot be passed on: it counts here alone");
            }
        }
    }

    /// Hands evidence that counts to whoever stores it.
    fn keep(&mut self, evidence: Evidence, learned_ms: UnixMillis) {
        let accused = evidence.accused();
        warn!(peer = %accused, fault = %evidence.fault(), "kept as evidence");
        self.mark(true);
        if self.evidence.try_send(EvidenceRecord { evidence, learned_ms }).is_err() {
            warn!(peer = %accused, "the evidence could not be stored: too much of it at once");
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
            if line.searched {
                snapshot.searched.insert(line.known.provider);
            }
            if line.live { &mut snapshot.offers } else { &mut snapshot.silent }.push(line.known);
        }
        self.metrics.offers(snapshot.offers.len());
        self.publish.send_replace(Arc::new(snapshot));
    }
}

/// Stores proofs one after the other, off the runtime, until nobody sends any more.
async fn keep(store: Store, reputation: Reputation, mut proofs: mpsc::Receiver<EvidenceRecord>) {
    while let Some(record) = proofs.recv().await {
        let (store, reputation, accused) = (store.clone(), reputation.clone(), record.evidence.accused());
        let stored = blocking::run(move || store.put_evidence(&record, |node| reputation.deals_with(node))).await;
        let failure = match stored {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        warn!(peer = %accused, error = failure, "evidence could not be stored");
    }
}
