//! What was earned and spent, by day and model.

use super::{Ledger, LedgerError};
use crate::storage::{Cursor, JobRecord, Side};
use aitbc_protocol::{
    MicroCredits, UnixMillis,
    job::{JobState, ModelName},
};
use serde::Serialize;
use std::collections::BTreeMap;

/// Jobs read at a time: a page of some megabytes.
pub(super) const PAGE: usize = 512;
/// A day, in milliseconds.
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// Jobs of one side on one day with one model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Traded {
    /// Jobs for which something was billed or paid, and those that were free.
    pub jobs: u64,
    /// Tokens of answers, as they were paid for.
    pub tokens: u64,
    /// Paid for them by cheque.
    pub paid: MicroCredits,
    /// Given back of that by receipts, for service levels that were not kept.
    pub refunded: MicroCredits,
    /// Billed and not paid.
    pub unpaid: MicroCredits,
    /// What the electricity for those tokens cost the provider, as its quotes state it; `null` where no quote does.
    pub electricity: Option<MicroCredits>,
}

/// One day and model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EarningsRow {
    /// When the day begins, in UTC.
    pub day_ms: UnixMillis,
    /// The model.
    pub model: ModelName,
    /// What this node sold of it.
    pub sold: Traded,
    /// What it bought.
    pub bought: Traded,
}

/// Every day and model, and all of them together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Earnings {
    /// By day, then by model.
    pub rows: Vec<EarningsRow>,
    /// Sold in all.
    pub sold: Traded,
    /// Bought in all.
    pub bought: Traded,
}

/// A [`Traded`] in the making: electricity in thousandths of a micro-credit, so that small jobs do not round to nothing.
#[derive(Clone, Copy, Debug, Default)]
struct Summing {
    traded: Traded,
    electricity: Option<u128>,
}

impl Summing {
    fn add(&mut self, other: &Self) {
        let (sum, more) = (&mut self.traded, &other.traded);
        sum.jobs += more.jobs;
        sum.tokens = sum.tokens.saturating_add(more.tokens);
        sum.paid = MicroCredits(sum.paid.0.saturating_add(more.paid.0));
        sum.refunded = MicroCredits(sum.refunded.0.saturating_add(more.refunded.0));
        sum.unpaid = MicroCredits(sum.unpaid.0.saturating_add(more.unpaid.0));
        if let Some(more) = other.electricity {
            self.electricity = Some(self.electricity.unwrap_or_default().saturating_add(more));
        }
    }

    fn done(self) -> Traded {
        let electricity = self.electricity.map(|sum| MicroCredits(u64::try_from(sum / 1000).unwrap_or(u64::MAX)));
        Traded { electricity, ..self.traded }
    }
}

/// What a job came to; `None` where it never delivered anything.
fn summing(record: &JobRecord) -> Option<Summing> {
    let unpaid = record.unpaid();
    let counts = record.paid > MicroCredits::ZERO || unpaid > MicroCredits::ZERO;
    if !counts && record.state != JobState::Completed {
        return None;
    }
    let per_thousand =
        record.quote.read_unverified().map(|quote| quote.adjustment.electricity).unwrap_or_default();
    let electricity = (per_thousand > MicroCredits::ZERO && record.side == Side::Provider)
        .then(|| u128::from(per_thousand.0) * u128::from(record.tokens));
    let JobRecord { paid, refunded, .. } = *record;
    let traded = Traded { jobs: 1, tokens: record.tokens.into(), paid, refunded, unpaid, electricity: None };
    Some(Summing { traded, electricity })
}

/// Sums up page after page.
#[derive(Debug, Default)]
pub(super) struct Sheet {
    rows: BTreeMap<(UnixMillis, ModelName), [Summing; 2]>,
}

impl Sheet {
    pub(super) fn add(&mut self, records: &[JobRecord]) {
        for record in records {
            let Some(summing) = summing(record) else { continue };
            let day_ms = record.created_ms - record.created_ms % DAY_MS;
            let row = self.rows.entry((day_ms, record.model.clone())).or_default();
            row[usize::from(record.side == Side::Client)].add(&summing);
        }
    }

    pub(super) fn earnings(self) -> Earnings {
        let mut all = [Summing::default(); 2];
        let mut rows = Vec::with_capacity(self.rows.len());
        for ((day_ms, model), [sold, bought]) in self.rows {
            all[0].add(&sold);
            all[1].add(&bought);
            rows.push(EarningsRow { day_ms, model, sold: sold.done(), bought: bought.done() });
        }
        let [sold, bought] = all.map(Summing::done);
        Earnings { rows, sold, bought }
    }
}

impl Ledger {
    /// What was earned and spent with jobs that began at `since_ms` or later. Reads them page by page beside the ledger's
    /// thread: its time grows with their number, its memory with days and models alone.
    pub async fn earnings(&self, since_ms: UnixMillis) -> Result<Earnings, LedgerError> {
        let mut sheet = Sheet::default();
        let mut next = Some(Cursor::since(since_ms));
        while let Some(cursor) = next {
            let (records, after) = self.read(move |store| store.page(&cursor, PAGE)).await?;
            sheet.add(&records);
            next = after;
        }
        Ok(sheet.earnings())
    }
}
