//! Jobs that an attempt works on right now: settling leaves them alone.

use aitbc_protocol::Nonce;
use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

/// The set of running attempts, by the nonce of their quote. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Active(Arc<Mutex<HashSet<Nonce>>>);

/// Keeps an attempt in the set until it is dropped.
#[derive(Debug)]
pub(super) struct ActiveGuard {
    active: Active,
    quote: Nonce,
}

impl Active {
    /// Enters an attempt, before the ledger records it.
    pub(super) fn enter(&self, quote: Nonce) -> ActiveGuard {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(quote);
        ActiveGuard { active: self.clone(), quote }
    }

    /// Whether an attempt works on it.
    pub(super) fn contains(&self, quote: &Nonce) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(quote)
    }
}

impl Drop for ActiveGuard {
    fn drop(&mut self) {
        self.active.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.quote);
    }
}
