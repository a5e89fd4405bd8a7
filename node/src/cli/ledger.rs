//! `aitbc ledger`: accounts with peers, the ledger as a file, and its verification.

mod csv;

use super::{Exit, Global, Outcome, client::Client, narrate, output, since};
use crate::market::export::verify_export;
use aitbc_protocol::{MicroCredits, NodeId, UnixMillis, ledger::LedgerLine};
use serde_json::Value;
use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
};

/// Arguments of `ledger`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List accounts, those with the most open first (the default)
    Ls {
        /// Most accounts to list
        #[arg(long, short = 'n', default_value_t = 20)]
        limit: usize,
    },
    /// Show the accounts with a peer and its newest jobs
    Show {
        /// The peer
        peer: NodeId,
        /// Most jobs to list, in each direction
        #[arg(long, short = 'n', default_value_t = 20)]
        limit: usize,
    },
    /// Write all jobs and accounts to a file: JSON lines that this node signs, or a table
    Export {
        /// From when on: so long before now, or a day (UTC); everything if not given
        #[arg(long, value_name = "30d | 2026-11-01", value_parser = since::parse)]
        since: Option<UnixMillis>,
        /// What to write
        #[arg(long, value_enum, default_value_t = Format::Json)]
        format: Format,
        /// Where to; standard output if not given
        #[arg(long, short, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Sign that a peer has paid for its promises outside the network; it cannot be taken back
    Settle {
        /// Who has paid
        peer: NodeId,
        /// What you received now, in credits, such as 0.25
        #[arg(value_parser = credits)]
        amount: MicroCredits,
    },
    /// Verify a file that `export` wrote as JSON, offline: signatures, sums, cheques, settlements
    Verify {
        /// The file
        file: PathBuf,
    },
}

/// What an export is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// A line of JSON for each job and account, signed in the last one
    Json,
    /// A table of jobs for spreadsheets, not signed
    Csv,
}

/// Runs the command.
pub(super) async fn run(global: &Global, args: Args) -> Outcome {
    match args.command.unwrap_or(Command::Ls { limit: 20 }) {
        Command::Ls { limit } => list(global, limit).await,
        Command::Show { peer, limit } => show(global, peer, limit).await,
        Command::Export { since, format, out } => export(global, since, format, out.as_deref()).await,
        Command::Settle { peer, amount } => settle(global, peer, amount).await,
        Command::Verify { file } => verify(global, &file),
    }
}

fn amount(value: &Value) -> String {
    output::credits(value.as_u64().unwrap_or_default())
}

fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

async fn list(global: &Global, limit: usize) -> Outcome {
    let document: Value = Client::new(global)?.get(&format!("ledger?limit={limit}")).await?;
    output::print(global.json, &document, || {
        let accounts = document["accounts"].as_array().map(Vec::as_slice).unwrap_or_default();
        if accounts.is_empty() {
            println!("no accounts yet: they come with the first job");
            return;
        }
        println!(
            "{:52}  {:6} {:>7} {:>7} {:>14} {:>12} {:>14} {:>14} {:>14}",
            "peer", "", "jobs", "paid", "promised", "owed", "settled", "open", "held"
        );
        for account in accounts {
            println!(
                "{:52}  {:6} {:>7} {:>7} {:>14} {:>12} {:>14} {:>14} {:>14}",
                account["peer"].as_str().unwrap_or_default(),
                account["direction"].as_str().unwrap_or_default(),
                count(&account["jobs"]),
                count(&account["paid_jobs"]),
                amount(&account["promised"]),
                amount(&account["owed"]),
                amount(&account["settled"]),
                amount(&account["open"]),
                amount(&account["held"]),
            );
        }
        match document["left_off"].as_u64().unwrap_or_default() {
            0 => {}
            more => println!("and {more} more: --limit"),
        }
        println!(
            "open to us {}, to others {} (credits)",
            amount(&document["open_to_us"]),
            amount(&document["open_to_others"])
        );
    })
}

async fn show(global: &Global, peer: NodeId, limit: usize) -> Outcome {
    let document: Value = Client::new(global)?.get(&format!("ledger/{peer}?limit={limit}")).await?;
    output::print(global.json, &document, || {
        for account in document["accounts"].as_array().into_iter().flatten() {
            let earned = account["direction"] == "earned";
            println!("{} {peer}", if earned { "earned from" } else { "spent at" });
            println!("jobs      {}, {} of them paid", account["jobs"], account["paid_jobs"]);
            println!("promised  {} credits by cheque", amount(&account["promised"]));
            println!("owed      {} credits delivered and not promised", amount(&account["owed"]));
            println!("settled   {} credits outside the network", amount(&account["settled"]));
            println!("back      {} credits given back for service levels not kept", amount(&account["refunded"]));
            if count(&account["forfeited"]) > 0 {
                println!(
                    "lost      {} credits lost by a fault of the payee that was shown",
                    amount(&account["forfeited"])
                );
            }
            println!(
                "open      {} credits promised, and neither settled, given back nor lost",
                amount(&account["open"])
            );
            match account["held_until_ms"].as_u64() {
                Some(until) => println!(
                    "to settle {} credits now; {} are held until {}, unless a fault is shown",
                    amount(&account["payable"]),
                    amount(&account["held"]),
                    output::utc(until),
                ),
                None => println!("to settle {} credits now", amount(&account["payable"])),
            }
            for job in account["newest_jobs"].as_array().into_iter().flatten() {
                println!(
                    "  {}  {:16} {:24} {:>6} tokens  {:>12}  {}",
                    job["job"].as_str().unwrap_or_default(),
                    job["state"].as_str().unwrap_or_default(),
                    job["model"].as_str().unwrap_or_default(),
                    count(&job["tokens"]),
                    amount(&job["paid"]),
                    output::ago(job["created_ms"].as_u64().unwrap_or_default()),
                );
            }
        }
    })
}

/// Reads credits with up to six decimal places, exactly.
fn credits(text: &str) -> Result<MicroCredits, String> {
    let wrong = || "expected credits with up to six decimal places, such as 0.25".to_owned();
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > 6 {
        return Err(wrong());
    }
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    let part: u64 = format!("{part:0<6}").parse().map_err(|_| wrong())?;
    let sum = whole.checked_mul(1_000_000).and_then(|whole| whole.checked_add(part));
    sum.map(MicroCredits).ok_or_else(|| "that does not fit 64 bits of micro-credits".to_owned())
}

async fn settle(global: &Global, peer: NodeId, amount: MicroCredits) -> Outcome {
    let body = serde_json::json!({"peer": peer, "amount": amount});
    let document: Value = Client::new(global)?.ask("ledger/settle", &body).await?;
    output::print(global.json, &document, || {
        println!("signed    {amount} received from {peer}, {} in all", self::amount(&document["settled"]));
        match document["undelivered"].as_str() {
            None => println!("delivered it is in the peer's ledger too"),
            Some(why) => println!("waiting   it is brought when the peer is connected ({why})"),
        }
    })
}

async fn export(global: &Global, since: Option<UnixMillis>, format: Format, out: Option<&Path>) -> Outcome {
    let client = Client::new(global)?;
    let path = since.map_or_else(|| "ledger/export".to_owned(), |since| format!("ledger/export?since_ms={since}"));
    let Some(file) = out else {
        return match copy(&client, &path, format, io::stdout().lock()).await {
            // A reader that left (`aitbc … | head`) is no error.
            Err(Ended::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Err(Ended::Write(error)) => Err(error.into()),
            Err(Ended::Exit(exit)) => Err(exit),
            Ok(_) => Ok(()),
        };
    };
    // Whole or absent: a file that was cut off would be taken for the ledger.
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let about = |error: io::Error| Exit::message(format_args!("{}: {error}", file.display()));
    let mut partial = tempfile::NamedTempFile::new_in(directory).map_err(about)?;
    let lines = copy(&client, &path, format, BufWriter::new(&mut partial)).await.map_err(|ended| match ended {
        Ended::Write(error) => about(error),
        Ended::Exit(exit) => exit,
    })?;
    partial.as_file().sync_all().map_err(about)?;
    partial.persist(file).map_err(|error| about(error.error))?;
    eprintln!("{lines} lines written to {}", file.display());
    Ok(())
}

/// Why an export did not reach its end.
enum Ended {
    Write(io::Error),
    Exit(Exit),
}

/// Where an export goes.
enum Sink<W: Write> {
    Lines(W),
    Table(Box<csv::Table<W>>),
}

impl<W: Write> Sink<W> {
    /// Writes a line as it came, or its row; true where it is in the file.
    fn write(&mut self, raw: &[u8], line: &LedgerLine) -> io::Result<bool> {
        match (self, line) {
            (Self::Lines(to), _) => to.write_all(raw).map(|()| true),
            (Self::Table(table), LedgerLine::Job(job)) => table.job(job).map(|()| true),
            (Self::Table(_), _) => Ok(false),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Lines(to) => to.flush(),
            Self::Table(table) => table.flush(),
        }
    }
}

/// Copies an export to `to`, and tells how many lines of it are there.
async fn copy(client: &Client, path: &str, format: Format, to: impl Write) -> Result<u64, Ended> {
    let mut sink = match format {
        Format::Json => Sink::Lines(to),
        Format::Csv => Sink::Table(Box::new(csv::Table::new(to).map_err(Ended::Write)?)),
    };
    let (mut lines, mut signed, mut unwritten) = (0, false, None);
    let copied = client
        .lines(path, |raw| {
            let line: LedgerLine = serde_json::from_slice(raw).map_err(|error| {
                let told = serde_json::from_slice::<Value>(raw).ok();
                let told = told.and_then(|value| value["message"].as_str().map(str::to_owned));
                let why = told.unwrap_or_else(|| error.to_string());
                Exit::message(format_args!("the export was cut off: {why}"))
            })?;
            signed |= matches!(line, LedgerLine::Signature { .. });
            match sink.write(raw, &line) {
                Ok(written) => lines += u64::from(written),
                Err(error) => {
                    let exit = Exit::message(&error);
                    unwritten = Some(error);
                    return Err(exit);
                }
            }
            Ok(())
        })
        .await;
    match (copied, unwritten) {
        (_, Some(error)) => Err(Ended::Write(error)),
        (Err(exit), None) => Err(Ended::Exit(exit)),
        (Ok(()), None) if !signed => Err(Ended::Exit(Exit::message("the export was cut off: the node has gone"))),
        (Ok(()), None) => sink.flush().map(|()| lines).map_err(Ended::Write),
    }
}

fn verify(global: &Global, path: &Path) -> Outcome {
    let file = File::open(path).map_err(|error| Exit::message(format_args!("{}: {error}", path.display())))?;
    let verified = verify_export(BufReader::new(file))?;
    let failed: Vec<_> = verified.checks.iter().filter(|check| check.passed == Some(false)).collect();
    let failed: Vec<_> = failed.iter().map(|check| check.name.to_string()).collect();
    let document = serde_json::json!({
        "schema": "aitbc.ledger.verify/1",
        "valid": failed.is_empty(),
        "ledger": verified.header,
        "export": verified.statement,
        "unproven": verified.unproven,
        "checks": verified.checks,
    });
    output::print(global.json, &document, || {
        if let (Some(header), Some(export)) = (&verified.header, &verified.statement) {
            println!("ledger of {}, written {}", header.node, output::utc(export.issued_ms));
        }
        for check in &verified.checks {
            println!("{} {}: {}", narrate::mark(check.passed), check.name, check.detail);
        }
    })?;
    if failed.is_empty() {
        return Ok(());
    }
    Err(Exit::verification(format_args!("{}: does not hold: {}", path.display(), failed.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credits_are_read_exactly() {
        for (text, expected) in [
            ("1", 1_000_000),
            ("0.25", 250_000),
            ("0.000001", 1),
            ("12.500000", 12_500_000),
            ("18446744073709.551615", u64::MAX),
        ] {
            assert_eq!(credits(text), Ok(MicroCredits(expected)), "{text}");
            assert_eq!(credits(&output::credits(expected)), Ok(MicroCredits(expected)), "{text}");
        }
        for wrong in ["", ".", "1.", ".5", "-1", "+1", "1e3", "0.0000001", "1,5", "18446744073709.551616", "1 "] {
            assert!(credits(wrong).is_err(), "{wrong}");
        }
    }
}
