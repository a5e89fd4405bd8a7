//! What came of an hour, in numbers that can be compared.

use super::plan::Kind;
use crate::network::simulated::Counts;
use std::{collections::BTreeMap, fmt};

/// A provider that was there all the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seller {
    pub(super) kind: Kind,
    pub(super) town: usize,
    pub(super) earned: u64,
    pub(super) given_back: u64,
    pub(super) jobs: u64,
}

/// What came of an hour.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) asked: u64,
    pub(super) finished: u64,
    /// Why the others were not.
    pub(super) failures: Vec<String>,
    /// Providers that left.
    pub(super) left: u64,
    /// Sums and counts of what quotes asked over their base, in millionths, by third of the hour.
    pub(super) factors: [(u64, u64); 3],
    pub(super) sellers: Vec<Seller>,
    /// What clients promised.
    pub(super) spent: u64,
    /// How many nodes hold which fault against which kind.
    pub(super) faults: BTreeMap<(Option<Kind>, String), u64>,
    /// Gossip that was rejected, by who sent it; nobody: the ring.
    pub(super) rejected: BTreeMap<Option<Kind>, u64>,
    /// By how many thousandths round trips from clients to providers were off, at the median: those by coordinates, and those by
    /// distance alone.
    pub(super) estimates_off: [u64; 2],
    pub(super) counts: Counts,
    /// One number for all that went over the network.
    pub(super) trace: u64,
}

impl Outcome {
    pub(super) fn of(&self, kind: Kind) -> impl Iterator<Item = &Seller> {
        self.sellers.iter().filter(move |seller| seller.kind == kind)
    }

    /// What one of a kind kept on average.
    pub(super) fn mean_income(&self, kind: Kind) -> u64 {
        let (sum, count) = self.of(kind).fold((0, 0), |(sum, count), seller| {
            (sum + seller.earned.saturating_sub(seller.given_back), count + 1)
        });
        sum / count.max(1)
    }

    /// The mean of what quotes asked over their base, in millionths, by third of the hour.
    pub(super) fn mean_factors(&self) -> [u64; 3] {
        self.factors.map(|(sum, count)| sum / count.max(1))
    }

    /// Jobs of the honest in each town: the most that one had, what is fair, and how many share it.
    pub(super) fn shares(&self) -> Vec<(u64, u64, u64)> {
        let mut towns: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
        for seller in self.of(Kind::Honest) {
            towns.entry(seller.town).or_default().push(seller.jobs);
        }
        let share = |jobs: &Vec<u64>| {
            let count = jobs.len() as u64;
            (jobs.iter().max().copied().unwrap_or(0), jobs.iter().sum::<u64>() / count, count)
        };
        towns.values().map(share).collect()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked, finished, counts, .. } = self;
        writeln!(formatter, "{finished} of {asked} jobs finished, {} providers left", self.left)?;
        for kind in [Kind::Honest, Kind::Slow, Kind::Lying, Kind::Colluding, Kind::Failing] {
            let jobs: Vec<u64> = self.of(kind).map(|seller| seller.jobs).collect();
            writeln!(formatter, "{kind:?} earns {} with {jobs:?}", self.mean_income(kind))?;
        }
        writeln!(formatter, "quotes over base: {:?}; spent {}", self.mean_factors(), self.spent)?;
        writeln!(formatter, "the most, fair, of how many: {:?}", self.shares())?;
        writeln!(
            formatter,
            "asked in vain {} of {}, dialled in vain {} of {}, {} messages heard",
            counts.asked_in_vain, counts.asked, counts.dialled_in_vain, counts.dialled, counts.heard
        )?;
        let [by_coordinates, by_distance] = self.estimates_off;
        writeln!(formatter, "round trips are off by {by_coordinates} of 1000, by distance by {by_distance}")?;
        writeln!(formatter, "faults {:?}, rejected {:?}", self.faults, self.rejected)?;
        for failure in self.failures.iter().take(10) {
            writeln!(formatter, "failed: {failure}")?;
        }
        write!(formatter, "trace {:016x}", self.trace)
    }
}
