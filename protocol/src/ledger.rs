//! The export of a ledger: lines of JSON that anybody can read, closed by a statement of the node that wrote them.
//!
//! The first line says whose ledger it is, the last one holds the signed [`LedgerExport`] with the SHA-256 of all lines
//! before it, each with the newline that ends it. Every account carries the newest cheque and settlement, which its other
//! side has signed: what they say does not rest on the word of the node alone. What a job gives back follows from its
//! receipt, which the payee has signed and the payer holds.

use crate::{
    UnixMillis,
    bytes::{Digest, JobId, Nonce},
    credit::{Balance, Settlement},
    envelope::{NetworkId, Signed, Statement},
    identity::NodeId,
    job::{Finish, JobState, ModelName},
    money::MicroCredits,
    receipt::Cheque,
    text::Line,
};
use serde::{Deserialize, Serialize};

/// The schema of an export. Version 1 left refunds out, so that it overstated what is open; it is not read any more.
pub const LEDGER_SCHEMA: &str = "aitbc.ledger/2";
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
    /// Given back of what was paid, by its receipt, for service levels that were not kept; zero until the job is over.
    pub refunded: MicroCredits,
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
    /// Given back of the promise by receipts, for service levels that were not kept, over all time.
    pub refunded: MicroCredits,
    /// What of the promise waits until it is due.
    pub held: MicroCredits,
    /// What of it the payee has lost by faults that were shown.
    pub forfeited: MicroCredits,
    /// Promised, and neither settled, given back nor lost: [`Balance::open`].
    pub open: MicroCredits,
    /// What of that is to be settled now: [`Balance::payable`].
    pub payable: MicroCredits,
    /// The newest cheque, which promises that; absent where it is not among the newest jobs of the pair.
    pub cheque: Option<Signed<Cheque>>,
    /// The newest settlement, which says that.
    pub settlement: Option<Signed<Settlement>>,
}

impl LedgerAccount {
    /// What `open` and `payable` must follow from.
    pub fn balance(&self) -> Balance {
        let Self { promised, settled, refunded, held, forfeited, .. } = *self;
        Balance { promised, settled, refunded, held, forfeited }
    }
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
    /// Given back by the node of what it earned, by its receipts.
    pub refunds_given: MicroCredits,
    /// Paid by the node.
    pub spent: MicroCredits,
    /// Given back to the node of what it spent, by the receipts of others.
    pub refunds_received: MicroCredits,
    /// Billed by the node and not paid.
    pub unpaid: MicroCredits,
}

impl LedgerSums {
    /// The sums with one job more; `None` where they do not fit.
    #[must_use]
    pub fn with(self, job: &LedgerJob) -> Option<Self> {
        let jobs = self.jobs.checked_add(1)?;
        Some(match job.direction {
            Direction::Spent => Self {
                jobs,
                spent: self.spent.checked_add(job.paid)?,
                refunds_received: self.refunds_received.checked_add(job.refunded)?,
                ..self
            },
            Direction::Earned => Self {
                jobs,
                earned: self.earned.checked_add(job.paid)?,
                refunds_given: self.refunds_given.checked_add(job.refunded)?,
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
    const DOMAIN: &'static str = "aitbc/ledger-export/2";
    const MAX_BYTES: usize = 512;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(direction: Direction, paid: u64, refunded: u64) -> LedgerJob {
        LedgerJob {
            direction,
            peer: NodeId([1; 32]),
            job: JobId([2; 16]),
            quote: Nonce([3; 16]),
            receipt: Some(Digest([4; 32])),
            model: Line::lossy("smollm2:135m"),
            state: JobState::Completed,
            finish: Some(Finish::Stop),
            tokens: 7,
            paid: MicroCredits(paid),
            refunded: MicroCredits(refunded),
            unpaid: MicroCredits::ZERO,
            created_ms: 1_000,
            failure: None,
        }
    }

    #[test]
    fn refunds_are_summed_by_who_gives_them() {
        let jobs = [job(Direction::Earned, 100, 60), job(Direction::Spent, 30, 5), job(Direction::Earned, 50, 0)];
        let sums = jobs.iter().try_fold(LedgerSums::default(), LedgerSums::with).expect("small numbers");
        assert_eq!((sums.jobs, sums.earned.0, sums.refunds_given.0), (3, 150, 60));
        assert_eq!((sums.spent.0, sums.refunds_received.0), (30, 5));
        for direction in [Direction::Earned, Direction::Spent] {
            let full = LedgerSums::default().with(&job(direction, 0, u64::MAX)).expect("it fits by itself");
            assert_eq!(full.with(&job(direction, 0, 1)), None, "sums do not wrap");
        }
    }

    #[test]
    fn the_balance_of_an_account_counts_all_that_is_no_debt() {
        let mut account = LedgerAccount {
            direction: Direction::Earned,
            peer: NodeId([1; 32]),
            promised: MicroCredits(100),
            settled: MicroCredits(10),
            refunded: MicroCredits(20),
            held: MicroCredits(30),
            forfeited: MicroCredits(5),
            open: MicroCredits::ZERO,
            payable: MicroCredits::ZERO,
            cheque: None,
            settlement: None,
        };
        assert_eq!((account.balance().open().0, account.balance().payable().0), (65, 55));
        account.refunded = MicroCredits(40);
        assert_eq!((account.balance().open().0, account.balance().payable().0), (45, 45));
    }
}
