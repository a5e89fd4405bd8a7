//! What others have shown of their hardware, by whose word, and what was taken back.
//!
//! ```text
//!   attestation: own results --+
//!   offers: results of others -+-> Trust::standing -> routing: who may answer
//!   proofs: zero knowledge ----+        ^
//!   gossip: Revoke ---------------------+
//! ```
//!
//! A client believes itself, the verifiers that it names, and proofs by the network's parameters; nobody else's word moves a
//! tier. What speaks against a node outweighs what speaks for it.

pub mod proofs;
pub mod zero_knowledge;

use crate::{
    clock::now_ms,
    storage::{StorageError, Store},
};
use aitbc_protocol::{
    NodeId, Signed, UnixMillis,
    attestation::{
        Tier,
        exchange::{AttestationResult, PolicyName, RESULT_LIFETIME_MS, Revoke},
    },
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Most peers of which something is kept in memory; whoever's word ends first goes first.
const MOST: usize = 4096;

/// Where trust in a node comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Through {
    /// This node verified it.
    Own,
    /// A verifier that this node's owner named.
    Verifier,
    /// A proof in zero knowledge.
    Proof,
}

/// What a node's attestation is worth here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The tier.
    pub tier: Tier,
    /// The integrity score in thousandths; `None` where none is known.
    pub score: Option<u16>,
    /// Who says so; `None` for a proof, which does not tell.
    pub verifier: Option<NodeId>,
    /// How it is known; `None` where nothing is.
    pub through: Option<Through>,
    /// Until when it stands.
    pub expires_ms: Option<UnixMillis>,
}

/// What a provider's offers say of its attestation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vouched {
    /// What verifiers have signed, newest first.
    pub attested: Vec<Signed<AttestationResult>>,
    /// Policies that it proves on request.
    pub policies: Vec<PolicyName>,
}

/// What this node found itself about a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Own {
    tier: Tier,
    score: u16,
    issued_ms: UnixMillis,
    expires_ms: UnixMillis,
}

/// A proof that held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Proved {
    expires_ms: UnixMillis,
    /// Whether another peer has shown the same hardware in this epoch.
    shared: bool,
}

/// Who has shown a nullifier.
#[derive(Clone, Copy, Debug)]
struct Holders {
    first: NodeId,
    /// The first other one: from then on all are flagged.
    other: Option<NodeId>,
    /// When it is forgotten.
    forget_ms: UnixMillis,
}

/// What a verifier took back.
#[derive(Clone, Debug)]
struct Revoked {
    before_ms: UnixMillis,
    /// When it is forgotten: nothing issued before stands any more then.
    forget_ms: UnixMillis,
    signed: Signed<Revoke>,
}

#[derive(Debug, Default)]
struct Known {
    own: HashMap<NodeId, Own>,
    /// By peer and verifier: what was issued before does not count.
    revoked: HashMap<(NodeId, NodeId), Revoked>,
    proved: HashMap<NodeId, Proved>,
    /// Who did not prove what its offer says, and until when it is not asked again.
    unproved: HashMap<NodeId, UnixMillis>,
    /// Who has shown a nullifier, by epoch and nullifier.
    nullifiers: HashMap<(u64, [u8; 32]), Holders>,
}

#[derive(Debug)]
struct Inner {
    me: NodeId,
    verifiers: HashSet<NodeId>,
    /// Who issues credentials that proofs rest on: one revocation by any of them ends a proof.
    issuers: HashSet<NodeId>,
    known: Mutex<Known>,
}

/// What is known; cheap to clone. The lock is held for look-ups only.
#[derive(Clone, Debug)]
pub struct Trust(Arc<Inner>);

impl Trust {
    /// Knows what `store` keeps of this node's own findings; believes `verifiers`, and `issuers` of credentials where they take
    /// something back.
    pub fn load(
        store: &Store,
        me: NodeId,
        verifiers: impl IntoIterator<Item = NodeId>,
        issuers: impl IntoIterator<Item = NodeId>,
    ) -> Result<Self, StorageError> {
        let trust = Self::new(me, verifiers, issuers);
        for record in store.attestations()? {
            if let Some(result) = record.result.as_ref().and_then(|signed| signed.read_unverified().ok()) {
                trust.found(&result);
            } else if record.against {
                trust.failed(record.peer, record.at_ms);
            }
        }
        Ok(trust)
    }

    fn new(
        me: NodeId,
        verifiers: impl IntoIterator<Item = NodeId>,
        issuers: impl IntoIterator<Item = NodeId>,
    ) -> Self {
        let (verifiers, issuers) = (verifiers.into_iter().collect(), issuers.into_iter().collect());
        Self(Arc::new(Inner { me, verifiers, issuers, known: Mutex::default() }))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Every change is one insertion or removal: the maps are whole after any panic.
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the word of `signer` about others counts here.
    pub fn believes(&self, signer: NodeId) -> bool {
        signer == self.0.me || self.0.verifiers.contains(&signer)
    }

    /// Whether anything would follow from a revocation by `signer`.
    pub fn heeds(&self, signer: NodeId) -> bool {
        self.believes(signer) || self.0.issuers.contains(&signer)
    }

    /// Whose revocations something follows from.
    pub fn heeded(&self) -> HashSet<NodeId> {
        self.0.verifiers.union(&self.0.issuers).copied().chain([self.0.me]).collect()
    }

    /// Takes down what this node found about a peer.
    pub fn found(&self, result: &AttestationResult) {
        let &AttestationResult { peer, tier, score, issued_ms, expires_ms, .. } = result;
        let mut known = self.known();
        make_room(&mut known.own, |own| own.expires_ms);
        known.own.insert(peer, Own { tier, score, issued_ms, expires_ms });
    }

    /// Forgets what this node found about a peer.
    pub fn forget(&self, peer: NodeId) {
        self.known().own.remove(&peer);
    }

    /// Takes down that a peer whom this node had verified showed something wrong at `at_ms`; it counts for a day.
    pub fn failed(&self, peer: NodeId, at_ms: UnixMillis) {
        let expires_ms = at_ms.saturating_add(RESULT_LIFETIME_MS);
        let mut known = self.known();
        known.proved.remove(&peer);
        make_room(&mut known.own, |own| own.expires_ms);
        let own = Own { tier: Tier::Contraindicated, score: 0, issued_ms: at_ms, expires_ms };
        known.own.insert(peer, own);
    }

    /// Takes down what the signer of `signed`, which says `revoke`, took back; false where it was known, or is of no use here.
    pub fn revoke(&self, signed: Signed<Revoke>, revoke: &Revoke) -> bool {
        let signer = signed.signer();
        if !self.heeds(signer) || !revoke.is_current(now_ms()) {
            return false;
        }
        let key = (revoke.peer, signer);
        let mut known = self.known();
        if known.revoked.get(&key).is_some_and(|known| known.before_ms >= revoke.issued_before_ms) {
            return false;
        }
        make_room(&mut known.revoked, |revoked| revoked.forget_ms);
        let forget_ms = revoke.issued_before_ms.saturating_add(RESULT_LIFETIME_MS);
        known.revoked.insert(key, Revoked { before_ms: revoke.issued_before_ms, forget_ms, signed });
        // Whoever was attested anew proves it anew: two clocks need not agree on which came first.
        if self.0.issuers.contains(&signer) {
            known.proved.remove(&revoke.peer);
        }
        true
    }

    /// Takes down a proof of `peer` that held at `at_ms`, and until when it is believed without another. Returns the other
    /// peer where one has shown the same nullifier: both are flagged then.
    pub fn proved(
        &self,
        peer: NodeId,
        nullifier: (u64, [u8; 32]),
        at_ms: UnixMillis,
        expires_ms: UnixMillis,
    ) -> Option<NodeId> {
        let mut known = self.known();
        make_room(&mut known.nullifiers, |holders| holders.forget_ms);
        make_room(&mut known.proved, |proved| proved.expires_ms);
        let forget_ms = at_ms.saturating_add(RESULT_LIFETIME_MS);
        let holders = known.nullifiers.entry(nullifier).or_insert(Holders { first: peer, other: None, forget_ms });
        let other = if holders.first == peer {
            holders.other
        } else {
            holders.other.get_or_insert(peer);
            Some(holders.first)
        };
        known.proved.insert(peer, Proved { expires_ms, shared: other.is_some() });
        if let Some(other) = other.and_then(|other| known.proved.get_mut(&other)) {
            other.shared = true;
        }
        other
    }

    /// Takes down that `peer` did not prove what its offer says: jobs do not wait for it again before `until_ms`.
    pub fn unproved(&self, peer: NodeId, until_ms: UnixMillis) {
        let mut known = self.known();
        make_room(&mut known.unproved, |until_ms| *until_ms);
        known.unproved.insert(peer, until_ms);
    }

    /// Whether `peer` may be asked for a proof at `now_ms`.
    pub fn may_prove(&self, peer: NodeId, now_ms: UnixMillis) -> bool {
        self.known().unproved.get(&peer).is_none_or(|until_ms| *until_ms <= now_ms)
    }

    /// What the attestation of `peer` is worth here at `now_ms`, of whom offers show `attested`. Their signatures were verified
    /// when the offer was taken.
    pub fn standing(&self, peer: NodeId, attested: &[Signed<AttestationResult>], now_ms: UnixMillis) -> Standing {
        let known = self.known();
        let stands = |signer: NodeId, issued_ms: UnixMillis| {
            known.revoked.get(&(peer, signer)).is_none_or(|revoked| issued_ms >= revoked.before_ms)
        };
        let own = known.own.get(&peer).filter(|own| own.expires_ms > now_ms).map(|own| Standing {
            tier: own.tier,
            score: Some(own.score),
            verifier: Some(self.0.me),
            through: Some(Through::Own),
            expires_ms: Some(own.expires_ms),
        });
        // The own eyes need no other's.
        if let Some(own) = own {
            return own;
        }
        let named =
            attested.iter().filter(|signed| self.0.verifiers.contains(&signed.signer())).filter_map(|signed| {
                let result = signed.read_unverified().ok()?;
                let counts =
                    result.peer == peer && result.stands(now_ms) && stands(signed.signer(), result.issued_ms);
                counts.then(|| Standing {
                    tier: result.tier,
                    score: Some(result.score),
                    verifier: Some(signed.signer()),
                    through: Some(Through::Verifier),
                    expires_ms: Some(result.expires_ms),
                })
            });
        let proved = known.proved.get(&peer).filter(|proved| proved.expires_ms > now_ms).map(|proved| Standing {
            // One TPM that two peers show proves less than two.
            tier: if proved.shared { Tier::Warning } else { Tier::Affirming },
            score: None,
            verifier: None,
            through: Some(Through::Proof),
            expires_ms: Some(proved.expires_ms),
        });
        let all: Vec<Standing> = named.chain(proved).collect();
        if let Some(against) = all.iter().find(|standing| standing.tier == Tier::Contraindicated) {
            return against.clone();
        }
        all.into_iter().max_by_key(|standing| (standing.tier.rank(), standing.expires_ms)).unwrap_or_default()
    }
}

/// Forgets what ends first where there is too much.
fn make_room<K: Clone + Eq + std::hash::Hash, V>(map: &mut HashMap<K, V>, ends_ms: impl Fn(&V) -> UnixMillis) {
    if map.len() < MOST {
        return;
    }
    let first = map.iter().min_by_key(|(_, value)| ends_ms(value)).map(|(key, _)| key.clone());
    if let Some(first) = first {
        map.remove(&first);
    }
}

#[cfg(test)]
mod tests;
