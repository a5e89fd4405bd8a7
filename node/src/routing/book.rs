//! The rules of the book of offers: what is taken, what is stale, what is proof of a fault.
//!
//! Pure: time comes in, verdicts come out. Memory is bounded by [`MAX_OFFERS`] entries, whatever peers send; where the
//! book is full, the farthest provider gives way to a nearer one.

mod hearing;

use super::pace::Pace;
use aitbc_crypto::SignatureError;
use aitbc_protocol::{
    CLOCK_TOLERANCE_MS, NetworkId, NodeId, Signed, UnixMillis,
    envelope::Statement,
    evidence::Fault,
    geo::{Cell, Location},
    offer::{Equivocation, GONE_AFTER_MS, Heartbeat, KnownOffer, Load, MAX_KNOWN, Offer, OfferFault, Statements},
};
use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

/// Most providers kept.
pub(super) const MAX_OFFERS: usize = 4096;
/// Most providers remembered for telling people different things.
const MAX_EQUIVOCATORS: usize = 4096;
/// Statements of one provider: this many at once, then one every `STATEMENT_EVERY_MS`.
const STATEMENT_BURST: f64 = 8.0;
const STATEMENT_EVERY_MS: f64 = 4_000.0;
/// Revocations about one provider: this many at once, then one every `REVOKE_EVERY_MS`.
const REVOKE_BURST: f64 = 8.0;
const REVOKE_EVERY_MS: f64 = 30_000.0;
/// Bytes of offers that one answer tells of: with the own offer and the frame around them it stays below
/// [`aitbc_protocol::wire::MAX_OFFER_FRAME`].
const MAX_TOLD_BYTES: usize = 32 * 1024;

/// An offer whose signature holds on this network.
#[derive(Clone, Debug)]
pub(super) struct VerifiedOffer {
    signed: Signed<Offer>,
    offer: Arc<Offer>,
}

impl VerifiedOffer {
    /// Verifies the signature and those of the results of challenges and attestation that it shows; nothing else is judged.
    pub(super) fn open(signed: Signed<Offer>, network: &NetworkId) -> Result<Self, SignatureError> {
        let offer: Arc<Offer> = Arc::new(aitbc_crypto::open(&signed, network)?);
        // What others have signed about it is about it, or the offer is not a true one.
        for shown in &offer.shown {
            if shown.signer() == signed.signer() || aitbc_crypto::open(shown, network)?.prover != signed.signer() {
                return Err(SignatureError::Invalid);
            }
        }
        for result in &offer.attested {
            if result.signer() == signed.signer() || aitbc_crypto::open(result, network)?.peer != signed.signer() {
                return Err(SignatureError::Invalid);
            }
        }
        Ok(Self { signed, offer })
    }

    pub(super) fn provider(&self) -> NodeId {
        self.signed.signer()
    }

    pub(super) fn cell(&self) -> Cell {
        self.offer.cell
    }

    /// What the offer says about a provider heard at `heard_ms`.
    pub(super) fn known(&self, load: Load, heard_ms: UnixMillis) -> KnownOffer {
        KnownOffer { provider: self.provider(), offer: self.offer.clone(), load, heard_ms }
    }
}

/// A heartbeat whose signature holds on this network.
#[derive(Clone, Debug)]
pub(super) struct VerifiedBeat {
    signed: Signed<Heartbeat>,
    beat: Heartbeat,
}

impl VerifiedBeat {
    /// Verifies the signature; nothing else is judged.
    pub(super) fn open(signed: Signed<Heartbeat>, network: &NetworkId) -> Result<Self, SignatureError> {
        let beat = aitbc_crypto::open(&signed, network)?;
        Ok(Self { signed, beat })
    }

    /// The load it tells.
    pub(super) fn load(&self) -> Load {
        Load { running: self.beat.running, queued: self.beat.queued }
    }
}

/// How an offer came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// By gossip, or from somebody who had it by gossip: whoever forwards it may have kept it for a while.
    Gossip,
    /// From the provider itself over an authenticated connection: a sign of life however old the offer is.
    Provider,
    /// The same, after a search had named the provider.
    Search,
}

#[derive(Debug)]
struct Entry {
    signed: Signed<Offer>,
    known: KnownOffer,
    distance_km: f64,
    /// When this node first had the offer.
    since_ms: UnixMillis,
    beat: Option<VerifiedBeat>,
    searched: bool,
    pace: Pace,
    revocations: Pace,
}

impl Entry {
    fn gone_at_ms(&self) -> UnixMillis {
        self.known.heard_ms.saturating_add(GONE_AFTER_MS)
    }

    /// When it is gone or forgotten, unless more is heard of it.
    fn due_ms(&self) -> UnixMillis {
        self.gone_at_ms().min(self.known.offer.expires_ms)
    }
}

/// All providers known to this node.
#[derive(Debug)]
pub(super) struct Book {
    network: NetworkId,
    here: Location,
    /// In the order of their ids, so that whoever looks through them twice finds the same.
    entries: BTreeMap<NodeId, Entry>,
    /// Where looking through them begins: elsewhere at each node, or all would turn to the same few first.
    first: NodeId,
    /// Who told people different things, and until when nothing of it is taken.
    equivocators: BTreeMap<NodeId, UnixMillis>,
    /// Verifiers that this node counts on.
    heeded: HashSet<NodeId>,
    evidence: Vec<Equivocation>,
    /// When `expire` last looked: what went silent since then is news.
    checked_ms: UnixMillis,
    /// Nobody goes silent or expires before.
    due_ms: UnixMillis,
    /// Whether somebody came, went or moved since [`Self::take_moved`].
    moved: bool,
}

/// One provider as the book shows it.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) known: KnownOffer,
    pub(super) live: bool,
    /// It was not known before a search named it.
    pub(super) searched: bool,
}

impl Book {
    /// An empty book of a node at `here`; `equivocators` were caught before, and stay out until then.
    pub(super) fn new(
        network: NetworkId,
        here: Location,
        equivocators: impl IntoIterator<Item = (NodeId, UnixMillis)>,
    ) -> Self {
        Self {
            network,
            here,
            entries: BTreeMap::new(),
            first: NodeId([0; 32]),
            equivocators: equivocators.into_iter().take(MAX_EQUIVOCATORS).collect(),
            heeded: HashSet::new(),
            evidence: Vec::new(),
            checked_ms: 0,
            due_ms: UnixMillis::MAX,
            moved: true,
        }
    }

    /// Begins with the providers whose ids follow that of `me`.
    pub(super) fn beginning_at(self, me: NodeId) -> Self {
        Self { first: me, ..self }
    }

    /// Lets these verifiers take back what they said whether or not offers show it.
    pub(super) fn heeding(self, verifiers: HashSet<NodeId>) -> Self {
        Self { heeded: verifiers, ..self }
    }

    /// Whether it told people different things, and the time for that is not over.
    fn is_out(&self, provider: &NodeId, now_ms: UnixMillis) -> bool {
        self.equivocators.get(provider).is_some_and(|until_ms| *until_ms > now_ms)
    }

    /// Takes a verified offer; true where the live offers changed.
    pub(super) fn take(
        &mut self,
        verified: VerifiedOffer,
        source: Source,
        now_ms: UnixMillis,
    ) -> Result<bool, Refused> {
        let VerifiedOffer { signed, offer } = verified;
        let provider = signed.signer();
        if self.is_out(&provider, now_ms) {
            return Err(OfferFault::Equivocation.into());
        }
        offer.check(now_ms)?;
        // What others forward proves life at the time it was signed, and no later.
        let heard_ms = match source {
            Source::Gossip => offer.issued_ms.min(now_ms),
            Source::Provider | Source::Search => now_ms,
        };
        let Some(entry) = self.entries.get_mut(&provider) else {
            let distance_km = offer.cell.distance_km(&self.here);
            if !self.make_room(distance_km) {
                return Ok(false);
            }
            let known = KnownOffer { provider, offer, load: Load::default(), heard_ms };
            let mut pace = Pace::new(STATEMENT_BURST, STATEMENT_EVERY_MS, now_ms);
            pace.allow(now_ms);
            let searched = source == Source::Search;
            let revocations = Pace::new(REVOKE_BURST, REVOKE_EVERY_MS, now_ms);
            let entry =
                Entry { signed, known, distance_km, since_ms: now_ms, beat: None, searched, pace, revocations };
            self.due_ms = self.due_ms.min(entry.due_ms());
            self.entries.insert(provider, entry);
            self.moved = true;
            return Ok(true);
        };
        match offer.sequence.cmp(&entry.known.offer.sequence) {
            std::cmp::Ordering::Less => Err(OfferFault::Stale.into()),
            std::cmp::Ordering::Equal if signed.payload() == entry.signed.payload() => {
                let was_live = entry.gone_at_ms() > now_ms;
                entry.known.heard_ms = entry.known.heard_ms.max(heard_ms);
                self.due_ms = self.due_ms.min(entry.due_ms());
                Ok(!was_live && entry.gone_at_ms() > now_ms)
            }
            std::cmp::Ordering::Equal => {
                let entry = self.entries.remove(&provider).expect("the entry was found above");
                self.moved = true;
                self.evidence.push(Equivocation { first: entry.signed, second: signed });
                if self.equivocators.len() >= MAX_EQUIVOCATORS {
                    self.equivocators.retain(|_, until_ms| *until_ms > now_ms);
                }
                if self.equivocators.len() < MAX_EQUIVOCATORS {
                    let until_ms = now_ms.saturating_add(Fault::Offers.penalty().excluded_ms);
                    self.equivocators.insert(provider, until_ms);
                }
                Err(OfferFault::Equivocation.into())
            }
            std::cmp::Ordering::Greater => {
                if source == Source::Gossip && !entry.pace.allow(now_ms) {
                    return Err(Refused::TooMany);
                }
                self.moved |= entry.known.offer.cell != offer.cell;
                entry.distance_km = offer.cell.distance_km(&self.here);
                entry.known.heard_ms = entry.known.heard_ms.max(heard_ms);
                entry.known.offer = offer;
                entry.signed = signed;
                entry.since_ms = now_ms;
                self.due_ms = self.due_ms.min(entry.due_ms());
                Ok(true)
            }
        }
    }

    /// Takes a verified heartbeat; true where the live offers changed.
    pub(super) fn beat(&mut self, verified: VerifiedBeat, now_ms: UnixMillis) -> Result<bool, Refused> {
        let (beat, provider) = (&verified.beat, verified.signed.signer());
        if beat.issued_ms > now_ms.saturating_add(CLOCK_TOLERANCE_MS) {
            return Err(OfferFault::Future.into());
        }
        if beat.issued_ms.saturating_add(GONE_AFTER_MS + CLOCK_TOLERANCE_MS) < now_ms {
            return Err(OfferFault::Expired.into());
        }
        let entry = self.entries.get_mut(&provider).ok_or(OfferFault::UnknownOffer)?;
        match beat.offer.cmp(&entry.known.offer.sequence) {
            std::cmp::Ordering::Greater => return Err(OfferFault::UnknownOffer.into()),
            std::cmp::Ordering::Less => return Err(OfferFault::Stale.into()),
            std::cmp::Ordering::Equal => {}
        }
        if entry.beat.as_ref().is_some_and(|newest| beat.issued_ms <= newest.beat.issued_ms) {
            return Err(OfferFault::Stale.into());
        }
        if !entry.pace.allow(now_ms) {
            return Err(Refused::TooMany);
        }
        let was_live = entry.gone_at_ms() > now_ms;
        entry.known.heard_ms = entry.known.heard_ms.max(beat.issued_ms.min(now_ms));
        let load = verified.load();
        let changed = load != entry.known.load || was_live != (entry.gone_at_ms() > now_ms);
        entry.known.load = load;
        entry.beat = Some(verified);
        self.due_ms = self.due_ms.min(entry.due_ms());
        Ok(changed)
    }

    /// Makes room for a provider at `distance_km`; false where everybody known is nearer.
    fn make_room(&mut self, distance_km: f64) -> bool {
        if self.entries.len() < MAX_OFFERS {
            return true;
        }
        let farthest = self.entries.iter().max_by(|(_, a), (_, b)| a.distance_km.total_cmp(&b.distance_km));
        match farthest.map(|(provider, entry)| (*provider, entry.distance_km)) {
            Some((provider, farthest_km)) if farthest_km > distance_km => {
                self.entries.remove(&provider);
                self.moved = true;
                true
            }
            _ => false,
        }
    }

    /// Forgets expired offers; true where somebody expired or went silent since the last call.
    pub(super) fn expire(&mut self, now_ms: UnixMillis) -> bool {
        // A clock that was set back knows nothing of what is due.
        if self.checked_ms <= now_ms && now_ms < self.due_ms {
            return false;
        }
        let since_ms = std::mem::replace(&mut self.checked_ms, now_ms);
        let (mut changed, mut due_ms) = (false, UnixMillis::MAX);
        self.entries.retain(|_, entry| {
            let (gone_at_ms, expires_ms) = (entry.gone_at_ms(), entry.known.offer.expires_ms);
            // Who could not be reached was told of when that was found.
            changed |= entry.known.heard_ms > 0 && (since_ms + 1..=now_ms).contains(&gone_at_ms);
            if expires_ms <= now_ms {
                (changed, self.moved) = (true, true);
                return false;
            }
            // Who is gone already is due when it expires, and before that once it is heard again.
            due_ms = due_ms.min(if gone_at_ms > now_ms { entry.due_ms() } else { expires_ms });
            true
        });
        self.due_ms = due_ms;
        changed
    }

    /// Whether somebody came, went or moved since the last call.
    pub(super) fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// A provider that could not be reached is silent until it speaks again.
    pub(super) fn silence(&mut self, provider: &NodeId) -> bool {
        self.entries.get_mut(provider).is_some_and(|entry| std::mem::take(&mut entry.known.heard_ms) > 0)
    }

    /// What is known of providers in `cells`, to tell somebody else: those of the first cells first, among them those
    /// that were heard last; at most [`MAX_KNOWN`] and 32 KiB.
    pub(super) fn near(&self, cells: &[Cell], asker: &NodeId, now_ms: UnixMillis) -> Vec<Statements> {
        let mut matches: Vec<(usize, &Entry)> = self
            .entries
            .values()
            .filter(|entry| entry.known.provider != *asker && entry.known.offer.expires_ms > now_ms)
            .filter_map(|entry| {
                let first = cells.iter().position(|cell| cell.contains(&entry.known.offer.cell))?;
                Some((first, entry))
            })
            .collect();
        matches.sort_by_key(|(first, entry)| (*first, std::cmp::Reverse(entry.known.heard_ms)));
        let mut bytes = 0;
        matches
            .into_iter()
            .take(MAX_KNOWN)
            .take_while(|(_, entry)| {
                bytes += entry.signed.payload().len() + 2 * Heartbeat::MAX_BYTES;
                bytes <= MAX_TOLD_BYTES
            })
            .map(|(_, entry)| Statements {
                offer: entry.signed.clone(),
                heartbeat: entry.beat.as_ref().map(|beat| beat.signed.clone()),
            })
            .collect()
    }

    /// Everybody known, in the order of their ids, from this node's on.
    pub(super) fn lines(&self, now_ms: UnixMillis) -> impl Iterator<Item = Line> {
        let (after, before) = (self.entries.range(self.first..), self.entries.range(..self.first));
        after.chain(before).map(move |(_, entry)| Line {
            known: entry.known.clone(),
            live: entry.gone_at_ms() > now_ms,
            searched: entry.searched,
        })
    }

    /// The cell of a provider that is known.
    pub(super) fn cell_of(&self, provider: &NodeId) -> Option<Cell> {
        self.entries.get(provider).map(|entry| entry.known.offer.cell)
    }

    /// Cells of everybody known.
    pub(super) fn cells(&self) -> impl Iterator<Item = Cell> {
        self.entries.values().map(|entry| entry.known.offer.cell)
    }

    /// Proof found since the last call, at most one a provider.
    pub(super) fn take_evidence(&mut self) -> Vec<Equivocation> {
        std::mem::take(&mut self.evidence)
    }
}

/// Why a statement is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// It breaks a rule.
    #[error(transparent)]
    Fault(#[from] OfferFault),
    /// The provider says too much at once; what is lost comes with a later heartbeat.
    #[error("too many statements of this provider at once")]
    TooMany,
}

#[cfg(test)]
mod tests;
