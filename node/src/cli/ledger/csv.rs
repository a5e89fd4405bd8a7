//! The ledger as a table for spreadsheets (RFC 4180).

use super::super::output;
use aitbc_protocol::{
    UnixMillis,
    ledger::{Direction, LedgerJob},
};
use std::io;

/// The first row.
const HEADER: [&str; 18] = [
    "began_utc",
    "direction",
    "peer",
    "job",
    "quote",
    "receipt",
    "model",
    "state",
    "finish",
    "tokens",
    "paid_microcredits",
    "paid_credits",
    "refunded_microcredits",
    "refunded_credits",
    "unpaid_microcredits",
    "unpaid_credits",
    "began_ms",
    "failure",
];

/// A table, its header written.
#[derive(Debug)]
pub(super) struct Table<W: io::Write>(csv::Writer<W>);

impl<W: io::Write> Table<W> {
    pub(super) fn new(to: W) -> io::Result<Self> {
        let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(to);
        writer.write_record(HEADER)?;
        Ok(Self(writer))
    }

    /// Writes the row of a job.
    pub(super) fn job(&mut self, job: &LedgerJob) -> io::Result<()> {
        let direction = match job.direction {
            Direction::Spent => "spent",
            Direction::Earned => "earned",
        };
        self.0.write_record([
            time(job.created_ms),
            direction.to_owned(),
            job.peer.to_string(),
            job.job.to_string(),
            job.quote.to_string(),
            job.receipt.map(|receipt| receipt.to_string()).unwrap_or_default(),
            harmless(job.model.as_str()),
            name(&job.state),
            name(&job.finish),
            job.tokens.to_string(),
            job.paid.0.to_string(),
            output::credits(job.paid.0),
            job.refunded.0.to_string(),
            output::credits(job.refunded.0),
            job.unpaid.0.to_string(),
            output::credits(job.unpaid.0),
            job.created_ms.to_string(),
            harmless(job.failure.as_ref().map_or("", |failure| failure.as_str())),
        ])?;
        Ok(())
    }

    /// Writes what is still held back.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// A moment in UTC as spreadsheets read it, to the second.
fn time(at_ms: UnixMillis) -> String {
    let at = i64::try_from(at_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    at.map_or_else(String::new, |at| at.strftime("%Y-%m-%d %H:%M:%S").to_string())
}

/// The name that a state or an end has in JSON; nothing for none.
fn name(value: &impl serde::Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().map(str::to_owned).unwrap_or_default()
}

/// A text of others that a spreadsheet would take for a formula, with an apostrophe before it (OWASP, CSV injection).
fn harmless(text: &str) -> String {
    let formula =
        text.trim_start().starts_with(['=', '+', '-', '@', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}']);
    if formula { format!("'{text}") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aitbc_protocol::{
        JobId, MicroCredits, NodeId, Nonce,
        job::{Finish, JobState},
        text::Line,
    };

    fn job(model: &str, failure: Option<&str>) -> LedgerJob {
        LedgerJob {
            direction: Direction::Earned,
            peer: NodeId([1; 32]),
            job: JobId([2; 16]),
            quote: Nonce([3; 16]),
            receipt: None,
            model: Line::lossy(model),
            state: JobState::Failed,
            finish: Some(Finish::Cancelled),
            tokens: 7,
            paid: MicroCredits(1_234_567),
            refunded: MicroCredits(617_283),
            unpaid: MicroCredits(5),
            created_ms: 1_793_491_200_000,
            failure: failure.map(Line::lossy),
        }
    }

    #[test]
    fn rows_are_quoted_and_nothing_in_them_is_a_formula() {
        let mut bytes = Vec::new();
        let mut table = Table::new(&mut bytes).expect("memory");
        table.job(&job("=cmd|' /C calc'!A0", Some("a \"quoted\", long\tstory"))).expect("memory");
        table.job(&job("smollm2:135m", Some(" @SUM(1)"))).expect("memory");
        table.flush().expect("memory");
        drop(table);
        let text = String::from_utf8(bytes.clone()).expect("text");
        assert!(text.contains("\"a \"\"quoted\"\", long story\""), "{text}");
        let mut reader = csv::Reader::from_reader(bytes.as_slice());
        assert_eq!(reader.headers().expect("a header").iter().collect::<Vec<_>>(), HEADER);
        let rows: Vec<csv::StringRecord> = reader.records().map(|row| row.expect("a whole row")).collect();
        assert_eq!(&rows[0][6], "'=cmd|' /C calc'!A0");
        assert_eq!(&rows[1][17], "' @SUM(1)");
        assert_eq!((&rows[1][0], &rows[1][7], &rows[1][8]), ("2026-11-01 00:00:00", "failed", "cancelled"));
        assert_eq!((&rows[1][10], &rows[1][11], &rows[1][15]), ("1234567", "1.234567", "0.000005"));
        assert_eq!((&rows[1][12], &rows[1][13]), ("617283", "0.617283"));
        for field in rows.iter().flat_map(csv::StringRecord::iter) {
            assert!(!field.trim_start().starts_with(['=', '+', '-', '@']), "{field}");
        }
    }
}
