//! Server keys in memory: as many as the owner allows, the least recently used given up first.

use super::keys::{KeyFault, StoredKey};
use crate::engine::EngineError;
use aitbc_crypto::fhe::{Processor, Profile, ServerKey};
use aitbc_protocol::bytes::Digest;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Holds keys by the digest of what clients sent. A client can have a key used only by naming it in a job of its own,
/// which is checked on the disk; what a key is here follows from its digest alone.
#[derive(Debug)]
pub(super) struct ServerKeys {
    budget: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The least recently used first.
    held: Vec<Held>,
    /// Bytes of keys that are being read.
    reserved: u64,
}

#[derive(Debug)]
struct Held {
    digest: Digest,
    bytes: u64,
    key: Arc<ServerKey>,
}

/// A key for one job: at hand, or with room kept for it.
#[derive(Debug)]
pub(super) enum Place {
    /// At hand.
    Held(Arc<ServerKey>),
    /// To be read.
    Reserved(Reservation),
}

/// Room for a key; dropping it gives the room back.
#[derive(Debug)]
pub(super) struct Reservation {
    keys: Arc<ServerKeys>,
    stored: StoredKey,
    profile: Profile,
    processor: Processor,
    bytes: u64,
}

impl ServerKeys {
    pub(super) fn new(budget: u64) -> Self {
        Self { budget, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whole after any panic: each change is one insertion or removal.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a key of `profile` fits at all.
    pub(super) fn admits(&self, profile: Profile) -> Result<(), EngineError> {
        let needed = needed(profile);
        if needed > self.budget { Err(EngineError::Memory { needed, free: self.budget }) } else { Ok(()) }
    }

    /// The key, or room for it on `processor`: keys that no job uses make way.
    pub(super) fn place(
        self: &Arc<Self>,
        stored: StoredKey,
        profile: Profile,
        processor: Processor,
    ) -> Result<Place, EngineError> {
        let digest = stored.digest();
        let bytes = needed(profile);
        Ok(match self.reserve(digest, bytes)? {
            Some(key) => Place::Held(key),
            None => Place::Reserved(Reservation { keys: Arc::clone(self), stored, profile, processor, bytes }),
        })
    }

    fn reserve(&self, digest: Digest, bytes: u64) -> Result<Option<Arc<ServerKey>>, EngineError> {
        let mut state = self.state();
        if let Some(index) = state.held.iter().position(|held| held.digest == digest) {
            let held = state.held.remove(index);
            let key = Arc::clone(&held.key);
            state.held.push(held);
            return Ok(Some(key));
        }
        while state.used().saturating_add(bytes) > self.budget {
            let Some(idle) = state.held.iter().position(|held| Arc::strong_count(&held.key) == 1) else {
                return Err(EngineError::Memory { needed: bytes, free: self.budget.saturating_sub(state.used()) });
            };
            state.held.remove(idle);
        }
        state.reserved += bytes;
        Ok(None)
    }
}

impl State {
    fn used(&self) -> u64 {
        self.held.iter().map(|held| held.bytes).sum::<u64>().saturating_add(self.reserved)
    }
}

/// A key, and what reading it takes beside.
fn needed(profile: Profile) -> u64 {
    profile.server_key_memory().saturating_add(profile.evaluation_key_bytes() as u64)
}

impl Place {
    /// The key, read and unfolded where it is not at hand. Takes a second.
    pub(super) fn key(self) -> Result<Arc<ServerKey>, KeyFault> {
        match self {
            Self::Held(key) => Ok(key),
            Self::Reserved(reservation) => reservation.read(),
        }
    }
}

impl Reservation {
    fn read(self) -> Result<Arc<ServerKey>, KeyFault> {
        let bytes = self.stored.read()?;
        let key = ServerKey::from_bytes(self.profile, &bytes, self.processor)?;
        drop(bytes);
        let key = Arc::new(key);
        let (digest, bytes) = (self.stored.digest(), self.profile.server_key_memory());
        // Another job may have read it meanwhile: one is enough.
        let mut state = self.keys.state();
        if let Some(held) = state.held.iter().find(|held| held.digest == digest) {
            return Ok(Arc::clone(&held.key));
        }
        state.held.push(Held { digest, bytes, key: Arc::clone(&key) });
        Ok(key)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut state = self.keys.state();
        state.reserved = state.reserved.saturating_sub(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_before_it_is_read() {
        let keys = ServerKeys::new(100);
        assert!(matches!(keys.reserve(Digest([1; 32]), 60), Ok(None)));
        let refused = keys.reserve(Digest([2; 32]), 60);
        assert!(matches!(refused, Err(EngineError::Memory { needed: 60, free: 40 })), "{refused:?}");
        assert!(ServerKeys::new(0).admits(Profile::Fast).is_err());
    }

    #[test]
    fn room_that_is_given_back_can_be_had_again() {
        let keys = Arc::new(ServerKeys::new(needed(Profile::Fast)));
        let stored = |n| StoredKey::missing(Digest([n; 32]));
        let place = keys.place(stored(1), Profile::Fast, Processor::Cpu).expect("room");
        assert!(keys.place(stored(2), Profile::Fast, Processor::Cpu).is_err());
        assert!(place.key().is_err(), "there is no such file");
        assert!(keys.place(stored(2), Profile::Fast, Processor::Cpu).is_ok());
    }
}
