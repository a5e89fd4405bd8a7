//! The ledger as a file: written page by page, and verified with nothing else at hand.

use super::{Ledger, LedgerError, accounts::direction, credit::balance_of, earnings::PAGE};
use crate::{
    clock,
    storage::{Cursor, JobRecord, Side, StorageError, Store},
};
use aitbc_protocol::{
    Digest, MicroCredits, NodeId, Signed, Statement, UnixMillis,
    checks::Check,
    credit::Balance,
    ledger::{
        Direction, LEDGER_SCHEMA, LedgerAccount, LedgerExport, LedgerHeader, LedgerJob, LedgerLine, LedgerSums,
        MAX_LEDGER_LINE,
    },
    receipt::{Channel, Cheque},
};
use sha2::{Digest as _, Sha256};
use std::io::{self, BufRead, Read as _};

/// Newest jobs of a pair among which its newest cheque is looked for: more run at a time with nobody.
const CHEQUE_SEARCH: usize = 64;

/// What is written next.
#[derive(Debug)]
enum Stage {
    Header,
    Jobs(Cursor),
    Accounts(std::vec::IntoIter<(Side, NodeId, Channel)>),
    Signature,
    Done,
}

/// Writes an export, piece by piece.
#[derive(Debug)]
pub struct Exporter {
    ledger: Ledger,
    node: NodeId,
    since_ms: UnixMillis,
    stage: Stage,
    hash: Sha256,
    lines: u64,
    sums: LedgerSums,
}

impl Ledger {
    /// An export of the jobs that began at `since_ms` or later, and of all accounts of `node`, which is this one.
    pub fn export(&self, node: NodeId, since_ms: UnixMillis) -> Exporter {
        Exporter {
            ledger: self.clone(),
            node,
            since_ms,
            stage: Stage::Header,
            hash: Sha256::new(),
            lines: 0,
            sums: LedgerSums::default(),
        }
    }
}

impl Exporter {
    /// The next lines, each with its newline; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, LedgerError> {
        let mut piece = Vec::new();
        // A page of jobs can be empty.
        while piece.is_empty() {
            match std::mem::replace(&mut self.stage, Stage::Done) {
                Stage::Header => {
                    let header = LedgerHeader {
                        schema: LEDGER_SCHEMA.to_owned(),
                        network: self.ledger.network.clone(),
                        node: self.node,
                        since_ms: self.since_ms,
                    };
                    self.write(&mut piece, &LedgerLine::Ledger(header))?;
                    self.stage = Stage::Jobs(Cursor::since(self.since_ms));
                }
                Stage::Jobs(cursor) => {
                    let (records, next) = self.ledger.read(move |store| store.page(&cursor, PAGE)).await?;
                    for record in &records {
                        let job = job_line(record)?;
                        self.sums = self.sums.with(&job).ok_or(aitbc_protocol::receipt::ChequeFault::Overflow)?;
                        self.write(&mut piece, &LedgerLine::Job(Box::new(job)))?;
                    }
                    self.stage = match next {
                        Some(cursor) => Stage::Jobs(cursor),
                        None => Stage::Accounts(self.ledger.read(Store::channels).await?.into_iter()),
                    };
                }
                Stage::Accounts(mut accounts) => {
                    let some: Vec<_> = accounts.by_ref().take(PAGE).collect();
                    self.stage = if some.is_empty() { Stage::Signature } else { Stage::Accounts(accounts) };
                    let lines = self.ledger.read(move |store| {
                        some.iter()
                            .map(|(side, peer, channel)| account_line(store, *side, peer, channel))
                            .collect()
                    });
                    let lines: Vec<LedgerAccount> = lines.await?;
                    for account in lines {
                        self.write(&mut piece, &LedgerLine::Account(Box::new(account)))?;
                    }
                }
                Stage::Signature => {
                    let export = LedgerExport {
                        lines: self.lines,
                        digest: Digest(self.hash.clone().finalize().into()),
                        since_ms: self.since_ms,
                        issued_ms: clock::now_ms(),
                        sums: self.sums,
                    };
                    let statement = self.ledger.call(move |book| book.seal(&export)).await?;
                    self.write(&mut piece, &LedgerLine::Signature { statement })?;
                }
                Stage::Done => return Ok(None),
            }
        }
        Ok(Some(piece))
    }

    fn write(&mut self, piece: &mut Vec<u8>, line: &LedgerLine) -> Result<(), LedgerError> {
        let from = piece.len();
        serde_json::to_writer(&mut *piece, line)
            .map_err(|error| StorageError::Corrupt(format!("a line of the export: {error}")))?;
        piece.push(b'\n');
        self.hash.update(&piece[from..]);
        self.lines += 1;
        Ok(())
    }
}

fn job_line(record: &JobRecord) -> Result<LedgerJob, StorageError> {
    Ok(LedgerJob {
        direction: direction(record.side),
        peer: record.peer,
        job: record.job,
        quote: record.key()?,
        receipt: record.receipt.as_ref().map(Signed::digest),
        model: record.model.clone(),
        state: record.state,
        finish: record.finish,
        tokens: record.tokens,
        paid: record.paid,
        refunded: record.refunded,
        unpaid: record.unpaid(),
        created_ms: record.created_ms,
        failure: record.failure.clone(),
    })
}

fn account_line(
    store: &Store,
    side: Side,
    peer: &NodeId,
    channel: &Channel,
) -> Result<LedgerAccount, StorageError> {
    let newest = store.jobs_with(side, peer, CHEQUE_SEARCH)?.into_iter().filter_map(|record| record.cheque);
    let newest = newest.filter_map(|signed| Some((signed.read_unverified().ok()?, signed)));
    let newest = newest.max_by_key(|(cheque, _)| cheque.sequence);
    // A cheque may have come since the channel was read.
    let newest = newest.filter(|(cheque, _)| cheque.cumulative >= channel.cumulative);
    // What was lost by a fault waits no more, whatever the cheque says, and what the cheque lets go of neither.
    let held = newest.as_ref().map_or(channel.held.amount, |(cheque, _)| match channel.sequence {
        older if older < cheque.sequence => cheque.held,
        _ => cheque.held.min(channel.held.amount),
    });
    let promised = newest.as_ref().map_or(channel.cumulative, |(cheque, _)| cheque.cumulative);
    let settlement = store.settlement(side, peer)?;
    let settled = settlement.as_ref().map(|record| record.settled).unwrap_or_default();
    let balance = Balance { promised, held, ..balance_of(channel, settled) };
    Ok(LedgerAccount {
        direction: direction(side),
        peer: *peer,
        promised: balance.promised,
        settled: balance.settled,
        refunded: balance.refunded,
        held: balance.held,
        forfeited: balance.forfeited,
        open: balance.open(),
        payable: balance.payable(),
        cheque: newest.map(|(_, signed)| signed),
        settlement: settlement.map(|record| record.settlement),
    })
}

/// What an export says of itself, and what was checked on it.
#[derive(Debug)]
pub struct Verified {
    /// Its first line, if that reads.
    pub header: Option<LedgerHeader>,
    /// What the node signed, if there is something.
    pub statement: Option<LedgerExport>,
    /// Accounts whose promise no cheque in the file shows.
    pub unproven: u64,
    /// Every check. The export holds if none failed.
    pub checks: Vec<Check>,
}

/// Reads an export line by line and checks all of it. Memory does not grow with its length.
pub fn verify_export(mut reader: impl BufRead) -> io::Result<Verified> {
    let mut reading = Reading::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.by_ref().take(MAX_LEDGER_LINE as u64 + 1).read_until(b'\n', &mut line)?;
        if read == 0 || !reading.line(&line) {
            break;
        }
    }
    let rest = reader.fill_buf()?.len();
    Ok(reading.verified(rest > 0))
}

/// What was read of an export so far.
#[derive(Debug, Default)]
struct Reading {
    header: Option<LedgerHeader>,
    hash: Sha256,
    lines: u64,
    sums: LedgerSums,
    accounts: u64,
    unproven: u64,
    /// What the accounts say that the node gave back, and got back.
    refunds_given: MicroCredits,
    refunds_received: MicroCredits,
    fault: Option<String>,
    job_fault: Option<String>,
    account_fault: Option<String>,
    end: Option<Signed<LedgerExport>>,
}

impl Reading {
    /// Takes a line; false where there is nothing more to read.
    fn line(&mut self, raw: &[u8]) -> bool {
        let number = self.lines + 1;
        if raw.last() != Some(&b'\n') {
            self.fault = Some(format!("line {number} is cut off, or over {MAX_LEDGER_LINE} bytes"));
            return false;
        }
        let line = match serde_json::from_slice::<LedgerLine>(raw) {
            Ok(line) => line,
            Err(error) => {
                self.fault = Some(format!("line {number}: {error}"));
                return false;
            }
        };
        match (line, &self.header) {
            (LedgerLine::Ledger(header), None) if self.lines == 0 => self.header = Some(header),
            (LedgerLine::Job(job), Some(header)) if job.created_ms >= header.since_ms && self.accounts == 0 => {
                if let Some(fault) = job_fault(&job) {
                    self.job_fault.get_or_insert(format!("line {number}: {fault}"));
                }
                match self.sums.with(&job) {
                    Some(sums) => self.sums = sums,
                    None => self.fault = Some(format!("line {number}: the sums do not fit 64 bits")),
                }
            }
            (LedgerLine::Account(account), Some(header)) => {
                self.accounts += 1;
                self.unproven += u64::from(account.cheque.is_none() && account.promised > MicroCredits::ZERO);
                if let Some(fault) = account_fault(&account, header) {
                    self.account_fault.get_or_insert(format!("line {number}: {fault}"));
                }
                let refunds = match account.direction {
                    Direction::Earned => &mut self.refunds_given,
                    Direction::Spent => &mut self.refunds_received,
                };
                match refunds.checked_add(account.refunded) {
                    Some(sum) => *refunds = sum,
                    None => self.fault = Some(format!("line {number}: the sums do not fit 64 bits")),
                }
            }
            (LedgerLine::Signature { statement }, Some(_)) => {
                self.end = Some(statement);
                return false;
            }
            _ => self.fault = Some(format!("line {number} does not belong where it stands")),
        }
        self.hash.update(raw);
        self.lines += 1;
        self.fault.is_none()
    }

    fn verified(self, goes_on: bool) -> Verified {
        let schema = self.header.as_ref().map_or("none", |header| header.schema.as_str());
        let known = schema == LEDGER_SCHEMA;
        let told = if known { schema.to_owned() } else { format!("{schema}, where {LEDGER_SCHEMA} is read") };
        let mut checks = vec![Check::of("schema", Some(known), told)];
        let fault = self.fault.or_else(|| goes_on.then(|| "there is more after the signature".to_owned()));
        let read = fault.clone().unwrap_or_else(|| format!("{} read", self.lines));
        checks.push(Check::of("lines", Some(fault.is_none()), read));
        let jobs = self.job_fault.clone().unwrap_or_else(|| format!("{} jobs", self.sums.jobs));
        checks.push(Check::of("jobs", Some(self.job_fault.is_none()), jobs));
        let mut statement = None;
        match (&self.header, &self.end) {
            (Some(header), Some(signed)) => match opened(signed, header, header.node) {
                Ok(export) => {
                    let by = format!("by {} on network {}", header.node, header.network);
                    checks.push(Check::of("signature", Some(true), by));
                    let digest = Digest(self.hash.finalize().into());
                    let same = export.digest == digest
                        && export.lines == self.lines
                        && export.since_ms == header.since_ms;
                    checks.push(Check::of("content", Some(same), format!("digest {digest}")));
                    let LedgerSums { earned, refunds_given, spent, refunds_received, .. } = self.sums;
                    let sums = format!(
                        "{earned} earned and {refunds_given} given back, {spent} spent and {refunds_received} got back"
                    );
                    checks.push(Check::of("sums", Some(export.sums == self.sums), sums));
                    statement = Some(export);
                }
                Err(why) => checks.push(Check::of("signature", Some(false), why.to_string())),
            },
            _ => checks.push(Check::of("signature", Some(false), "there is none: the file is cut off")),
        }
        // Accounts are read after the jobs and count those from before the file as well: more than the jobs give back is
        // no fault, less is.
        let less =
            self.refunds_given < self.sums.refunds_given || self.refunds_received < self.sums.refunds_received;
        let account_fault = self
            .account_fault
            .or_else(|| less.then(|| "less is given back than the jobs of the file give back".to_owned()));
        let accounts = account_fault
            .clone()
            .unwrap_or_else(|| format!("{} accounts, {} without a cheque to show", self.accounts, self.unproven));
        checks.push(Check::of("accounts", Some(account_fault.is_none()), accounts));
        Verified { header: self.header, statement, unproven: self.unproven, checks }
    }
}

/// Why a statement in an export is not whose it should be.
#[derive(Debug, thiserror::Error)]
enum Unsigned {
    #[error("signed by {0} where {1} belongs")]
    Other(NodeId, NodeId),
    #[error(transparent)]
    Signature(#[from] aitbc_crypto::SignatureError),
}

fn opened<T: Statement>(signed: &Signed<T>, header: &LedgerHeader, signer: NodeId) -> Result<T, Unsigned> {
    if signed.signer() != signer {
        return Err(Unsigned::Other(signed.signer(), signer));
    }
    Ok(aitbc_crypto::open(signed, &header.network)?)
}

/// What does not hold of a job: no more is given back than was paid, and nothing without the receipt that says so.
fn job_fault(job: &LedgerJob) -> Option<&'static str> {
    if job.refunded > job.paid {
        return Some("more is given back than was paid");
    }
    (job.refunded > MicroCredits::ZERO && job.receipt.is_none()).then_some("no receipt gives anything back")
}

/// What does not hold of an account: its cheque is the payer's, made out to the payee, its settlement the other way round,
/// and both say the sums of the account. What is open follows from these.
fn account_fault(account: &LedgerAccount, header: &LedgerHeader) -> Option<String> {
    let (payer, payee) = match account.direction {
        Direction::Earned => (account.peer, header.node),
        Direction::Spent => (header.node, account.peer),
    };
    if account.settled > account.promised {
        return Some("more is settled than promised".to_owned());
    }
    if account.refunded.max(account.forfeited) > account.promised {
        return Some("more is given back or lost than promised".to_owned());
    }
    let balance = account.balance();
    if (account.open, account.payable) != (balance.open(), balance.payable()) {
        return Some("what is open does not follow from the sums".to_owned());
    }
    if let Some(signed) = &account.cheque {
        match opened(signed, header, payer) {
            Err(why) => return Some(format!("cheque: {why}")),
            Ok(Cheque { provider, cumulative, .. }) if (provider, cumulative) != (payee, account.promised) => {
                return Some("the cheque promises another sum, or to another node".to_owned());
            }
            Ok(Cheque { held, .. }) if held < account.held => {
                return Some("more waits than the cheque says".to_owned());
            }
            Ok(_) => {}
        }
    }
    match &account.settlement {
        None if account.settled > MicroCredits::ZERO => Some("no settlement shows what is settled".to_owned()),
        None => None,
        Some(signed) => match opened(signed, header, payee) {
            Err(why) => Some(format!("settlement: {why}")),
            Ok(said) if (said.payer, said.cumulative) != (payer, account.settled) => {
                Some("the settlement is of another sum, or of another node".to_owned())
            }
            Ok(_) => None,
        },
    }
}
