//! The export of a ledger: lines of JSON that anybody can read, closed by a statement of the node that wrote them.
//!
//! The first line says whose ledger it is, the last one holds the signed [`LedgerExport`] with the SHA-256 of all lines
//! before it, each with the newline that ends it. Every account carries the newest cheque and settlement, which its other
//! side has signed: what they say does not rest on the word of the node alone.

use crate::{
    UnixMillis,
    bytes::{Digest, JobId, Nonce},
    credit::Settlement,
    envelope::{NetworkId, Signed, Statement},
    identity::NodeId,
    job::{Finish, JobState, ModelName},
    money::MicroCredits,
    receipt::Cheque,
    text::Line,
};
use serde::{Deserialize, Serialize};

/// The schema of an export.
pub const LEDGER_SCHEMA: &str = "aitbc.ledger/1";
/// Longest line of an export, in bytes.
pub const MAX_LEDGER_LINE: usize = 16 * 1024;

/// Which way money flows, as the node whose ledger it is sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// The node asked, and pays.
    Spent,
    /// The node answered, and earns.
    Earned,
}

/// What an export covers: its first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerHeader {
    /// [`LEDGER_SCHEMA`].
    pub schema: String,
    /// The network whose money it is.
    pub network: NetworkId,
    /// Whose ledger.
    pub node: NodeId,
    /// From when on jobs are in it.
    pub since_ms: UnixMillis,
}

/// One attempt at a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerJob {
    /// Who pays whom.
    pub direction: Direction,
    /// The other node.
    pub peer: NodeId,
    /// The job.
    pub job: JobId,
    /// Nonce of its quote.
    pub quote: Nonce,
    /// Id of its receipt, if there is one.
    pub receipt: Option<Digest>,
    /// The model.
    pub model: ModelName,
    /// Where it stands.
    pub state: JobState,
    /// Why it ended.
    pub finish: Option<Finish>,
    /// Tokens of the answer that are paid.
    pub tokens: u32,
    /// Paid for it by cheque.
    pub paid: MicroCredits,
    /// Billed by its receipt and not paid.
    pub unpaid: MicroCredits,
    /// When it began.
    pub created_ms: UnixMillis,
    /// What went wrong, if something did.
    pub failure: Option<Line<160>>,
}

/// What stands between the node and one other, in one direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerAccount {
    /// Who pays whom.
    pub direction: Direction,
    /// The other node.
    pub peer: NodeId,
    /// Promised by cheques, over all time.
    pub promised: MicroCredits,
    /// Settled of it, over all time.
    pub settled: MicroCredits,
    /// What of the promise waits until it is due.
    #[serde(default)]
    pub held: MicroCredits,
    /// What of it the payee has lost by faults that were shown.
    #[serde(default)]
    pub forfeited: MicroCredits,
    /// The newest cheque, which promises that; absent where it is not among the newest jobs of the pair.
    pub cheque: Option<Signed<Cheque>>,
    /// The newest settlement, which says that.
    pub settlement: Option<Signed<Settlement>>,
}

/// One line of an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case")]
pub enum LedgerLine {
    /// The first line.
    Ledger(LedgerHeader),
    /// A job, oldest first.
    Job(Box<LedgerJob>),
    /// An account, after all jobs.
    Account(Box<LedgerAccount>),
    /// The last line.
    Signature {
        /// The node's word for all lines before.
        statement: Signed<LedgerExport>,
    },
}

/// Sums over the jobs of an export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerSums {
    /// Jobs sold and bought.
    pub jobs: u64,
    /// Paid to the node by cheque.
    pub earned: MicroCredits,
    /// Paid by the node.
    pub spent: MicroCredits,
    /// Billed by the node and not paid.
    pub unpaid: MicroCredits,
}

impl LedgerSums {
    /// The sums with one job more; `None` where they do not fit.
    #[must_use]
    pub fn with(self, job: &LedgerJob) -> Option<Self> {
        let jobs = self.jobs.checked_add(1)?;
        Some(match job.direction {
            Direction::Spent => Self { jobs, spent: self.spent.checked_add(job.paid)?, ..self },
            Direction::Earned => Self {
                jobs,
                earned: self.earned.checked_add(job.paid)?,
                unpaid: self.unpaid.checked_add(job.unpaid)?,
                ..self
            },
        })
    }
}

/// What a node signs under an export of its ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerExport {
    /// Lines before the last.
    pub lines: u64,
    /// SHA-256 of those lines, newlines included.
    pub digest: Digest,
    /// From when on jobs are in it.
    pub since_ms: UnixMillis,
    /// When it was written.
    pub issued_ms: UnixMillis,
    /// Sums over its jobs.
    pub sums: LedgerSums,
}

impl Statement for LedgerExport {
    const DOMAIN: &'static str = "aitbc/ledger-export/1";
    const MAX_BYTES: usize = 512;
}
