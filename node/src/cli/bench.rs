//! `aitbc bench`: what this machine's GPUs reach and how fast the engine answers, and what goes over the line.

mod cards;
mod line;
mod tokens;

pub(super) use line::{mib, verdict};

use self::{
    cards::Card,
    tokens::{Tokens, TokensError},
};
use super::{Exit, Global, Outcome, output};
use crate::{
    clock::now_ms,
    gpu::kept::{self, Kept},
};
use aitbc_protocol::{NodeId, job::ModelName};
use serde_json::{Value, json};
use std::path::Path;

/// Arguments of `bench`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Measure memory bandwidth, reads at random and rates of arithmetic of every GPU, and how fast a model answers
    Gpu {
        /// Measure programs that pretend to be GPUs instead; they run on the CPU
        #[arg(long)]
        software: bool,
        /// Model to answer with [default: the first that is installed]
        #[arg(long)]
        model: Option<ModelName>,
    },
    /// Measure how much the running node sends and receives a second, with another node: 24 MiB each way at most
    Network {
        /// Node to measure with, as `aitbc peers` names it [default: one that is connected directly]
        peer: Option<NodeId>,
    },
}

/// Runs the command.
pub(super) async fn run(global: &Global, args: &Args) -> Outcome {
    match &args.command {
        Command::Gpu { software, model } => gpus(global, *software, model.as_ref()).await,
        Command::Network { peer } => line::run(global, *peer).await,
    }
}

/// What fails hides nothing of the rest.
async fn gpus(global: &Global, software: bool, model: Option<&ModelName>) -> Outcome {
    let directories = global.directories()?;
    let settings = global.settings(&directories)?;
    let measured = cards::measure(&std::env::current_exe()?, software).await;
    let path = directories.gpu_rates();
    let (kept, warnings) = keep(&path, measured.as_deref().unwrap_or_default());
    let answered = tokens::measure(&settings, &directories, model).await;
    let engine = match &answered {
        Ok(tokens) => tokens.document(),
        Err(error) => json!({ "error": error.to_string() }),
    };
    let cards: Vec<Value> = measured.iter().flatten().map(Card::document).collect();
    let document = json!({
        "schema": "aitbc.bench.gpu/1",
        "gpus": cards,
        "error": measured.as_ref().err().map(ToString::to_string),
        "engine": engine,
        "kept": kept.then_some(&path),
        "warnings": warnings,
    });
    output::print(global.json, &document, || {
        measured.iter().flatten().for_each(Card::people);
        if kept {
            println!("    kept in {}", path.display());
        }
        people(&answered);
        for warning in &warnings {
            eprintln!("warning: {warning}");
        }
    })?;
    let cards = measured.map_err(Exit::error)?;
    if cards.iter().all(Card::failed) {
        return Err(Exit::message("no GPU could be measured"));
    }
    match answered {
        Ok(_) | Err(TokensError::NoModel(_)) => Ok(()),
        Err(error) => Err(Exit::error(error)),
    }
}

fn people(answered: &Result<Tokens, TokensError>) {
    match answered {
        Ok(tokens) => tokens.people(),
        Err(error) => println!("no model was measured: {error}"),
    }
}

/// Keeps what was measured on real GPUs; tells whether anything was, and what the owner should know.
fn keep(path: &Path, cards: &[Card]) -> (bool, Vec<String>) {
    let mut warnings = Vec::new();
    let mut kept = Kept::load(path).unwrap_or_else(|error| {
        warnings.push(error.to_string());
        Kept::default()
    });
    let mut new = false;
    for card in cards.iter().filter(|card| !card.adapter.software) {
        match kept::measured(|what| card.rate(what), now_ms()) {
            Ok(measured) => new |= kept.put(&card.adapter, measured),
            Err(missing) => {
                warnings.push(format!("{}: not kept, for {} is missing", card.adapter.name, missing.word()));
            }
        }
    }
    if new && let Err(error) = kept.save(path) {
        warnings.push(error.to_string());
        new = false;
    }
    (new, warnings)
}
