//! `aitbc receipts`: lists, shows, exports and verifies receipts.

use super::{Exit, Global, Outcome, client::Client, narrate, output};
use crate::market::verify::verify_receipt_file;
use aitbc_protocol::{Digest, receipt::ReceiptFile};
use std::path::PathBuf;

/// Largest receipt file read, in bytes.
const MAX_FILE: u64 = 256 * 1024;

/// Arguments of `receipts`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List receipts, newest first (the default)
    Ls {
        /// Most receipts to list
        #[arg(long, short = 'n', default_value_t = 20)]
        limit: usize,
    },
    /// Print a receipt with its quote and cheque, as a file that `verify` reads
    Show {
        /// Receipt id
        id: Digest,
    },
    /// Verify a receipt file offline: signatures, quote, price, cheque
    Verify {
        /// File written by `receipts show`
        file: PathBuf,
    },
}

/// Runs the command.
pub(super) async fn run(global: &Global, args: Args) -> Outcome {
    match args.command.unwrap_or(Command::Ls { limit: 20 }) {
        Command::Ls { limit } => list(global, limit).await,
        Command::Show { id } => {
            let file: ReceiptFile = Client::new(global)?.get(&format!("receipts/{id}")).await?;
            output::print(true, &file, || ())
        }
        Command::Verify { file } => verify(global, &file),
    }
}

async fn list(global: &Global, limit: usize) -> Outcome {
    let document: serde_json::Value = Client::new(global)?.get(&format!("receipts?limit={limit}")).await?;
    output::print(global.json, &document, || {
        let receipts = document["receipts"].as_array().map(Vec::as_slice).unwrap_or_default();
        if receipts.is_empty() {
            println!("no receipts yet");
        }
        for entry in receipts {
            let receipt = &entry["receipt"];
            println!(
                "{}  {:8} {:24} {:>6} tokens  {:>10} uc  {}",
                entry["id"].as_str().unwrap_or_default(),
                entry["side"].as_str().unwrap_or_default(),
                receipt["model"].as_str().unwrap_or_default(),
                receipt["completion_tokens"].as_u64().unwrap_or_default(),
                receipt["total"].as_u64().unwrap_or_default(),
                output::ago(receipt["admitted_ms"].as_u64().unwrap_or_default()),
            );
        }
    })
}

fn verify(global: &Global, path: &PathBuf) -> Outcome {
    let about = |reason: &dyn std::fmt::Display| Exit::verification(format_args!("{}: {reason}", path.display()));
    let metadata =
        std::fs::metadata(path).map_err(|error| Exit::message(format_args!("{}: {error}", path.display())))?;
    if metadata.len() > MAX_FILE {
        return Err(about(&"too large for a receipt file"));
    }
    let text = std::fs::read_to_string(path)?;
    let file: ReceiptFile =
        serde_json::from_str(&text).map_err(|error| about(&format_args!("not a receipt file: {error}")))?;
    let checks = verify_receipt_file(&file);
    let failed: Vec<_> =
        checks.iter().filter(|check| check.passed == Some(false)).map(|check| check.name.to_string()).collect();
    let document = serde_json::json!({
        "schema": "aitbc.receipts.verify/1",
        "valid": failed.is_empty(),
        "provider": file.receipt.signer(),
        "receipt": file.receipt.read_unverified().ok(),
        "checks": checks,
    });
    output::print(global.json, &document, || {
        println!("receipt by {}", file.receipt.signer());
        for check in &checks {
            println!("{} {}: {}", narrate::mark(check.passed), check.name, check.detail);
        }
    })?;
    if failed.is_empty() { Ok(()) } else { Err(about(&format_args!("does not hold: {}", failed.join(", ")))) }
}
