//! What comparing the answers of two providers has shown, kept on this machine.
//!
//! A verdict follows from decrypted values, so it must not show at once: what a provider sees of today's jobs is the same
//! whatever they answered. Verdicts of one day count from the next day on (UTC), all together, and then only order whom
//! this client asks. That is a bit a day at most that a provider can learn: whether it is still asked.

use super::keys;
use aitbc_protocol::{NodeId, UnixMillis};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

const DAY_MS: u64 = 24 * 3_600_000;
/// Days after which a verdict is forgotten.
const KEPT_DAYS: u64 = 30;
/// Most providers remembered.
const MAX_PROVIDERS: usize = 1_024;
/// Largest file that is read.
const MAX_FILE: u64 = 1024 * 1024;

/// How two answers to one question compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) providers: Vec<NodeId>,
    pub(super) agree: bool,
}

/// What is known of a provider: days on which it was contradicted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// Days since 1970 on which an answer of it differed from another's. Which of the two was wrong is not known.
    contradicted: Vec<u64>,
}

/// The verdicts in a file.
#[derive(Debug)]
pub(super) struct Verdicts {
    path: PathBuf,
    /// One at a time reads and writes the file.
    turn: Mutex<()>,
}

impl Verdicts {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, turn: Mutex::default() }
    }

    fn read(&self) -> BTreeMap<NodeId, Record> {
        let small = std::fs::metadata(&self.path).is_ok_and(|metadata| metadata.len() <= MAX_FILE);
        let bytes = small.then(|| std::fs::read(&self.path).ok()).flatten().unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// Takes a verdict down. Waits for the disk.
    pub(super) fn note(&self, verdict: &Verdict, now_ms: UnixMillis) {
        if verdict.agree {
            return;
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut records, today) = (self.read(), now_ms / DAY_MS);
        for record in records.values_mut() {
            record.contradicted.retain(|day| day + KEPT_DAYS > today);
        }
        records.retain(|_, record| !record.contradicted.is_empty());
        for provider in &verdict.providers {
            if records.len() < MAX_PROVIDERS || records.contains_key(provider) {
                let days = &mut records.entry(*provider).or_default().contradicted;
                if !days.contains(&today) {
                    days.push(today);
                }
            }
        }
        let written = serde_json::to_vec(&records)
            .map_err(|error| error.to_string())
            .and_then(|text| keys::write(&self.path, &text).map_err(|error| error.to_string()));
        if let Err(error) = written {
            tracing::warn!(%error, "a verdict cannot be kept");
        }
    }

    /// On how many days before today each provider was contradicted. What was found today does not count yet.
    pub(super) fn known(&self, now_ms: UnixMillis) -> BTreeMap<NodeId, usize> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let today = now_ms / DAY_MS;
        let counts = |day: &&u64| **day < today && **day + KEPT_DAYS > today;
        let known = self
            .read()
            .into_iter()
            .map(|(provider, record)| (provider, record.contradicted.iter().filter(counts).count()));
        known.filter(|(_, days)| *days > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_counts_from_the_next_day_on() {
        let directory = tempfile::tempdir().unwrap();
        let verdicts = Verdicts::new(directory.path().join("verdicts.json"));
        let (a, b, c) = (NodeId([1; 32]), NodeId([2; 32]), NodeId([3; 32]));
        let evening = 20_000 * DAY_MS - 1;
        verdicts.note(&Verdict { providers: vec![a, b], agree: false }, evening);
        verdicts.note(&Verdict { providers: vec![a, b], agree: false }, evening);
        verdicts.note(&Verdict { providers: vec![b, c], agree: true }, evening);
        assert!(verdicts.known(evening).is_empty(), "nothing shows on the day itself");
        let known = verdicts.known(evening + 1);
        assert_eq!(known, BTreeMap::from([(a, 1), (b, 1)]), "once a day, however often");
        verdicts.note(&Verdict { providers: vec![a, c], agree: false }, evening + DAY_MS);
        assert_eq!(verdicts.known(evening + DAY_MS).get(&a), Some(&1));
        assert_eq!(verdicts.known(evening + 2 * DAY_MS), BTreeMap::from([(a, 2), (b, 1), (c, 1)]));
        assert!(verdicts.known(evening + 40 * DAY_MS).is_empty(), "forgotten");
    }

    #[test]
    fn a_damaged_file_knows_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("verdicts.json");
        std::fs::write(&path, b"{").unwrap();
        let verdicts = Verdicts::new(path);
        assert!(verdicts.known(DAY_MS * 100).is_empty());
        verdicts.note(&Verdict { providers: vec![NodeId([1; 32])], agree: false }, 0);
        assert_eq!(verdicts.known(DAY_MS).len(), 1);
    }
}
