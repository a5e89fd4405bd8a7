//! `aitbc key`: shows who this node is, and backs its key up.

use super::{Global, Outcome, output};
use aitbc_crypto::SecretKey;
use std::path::PathBuf;

/// Arguments of `key`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Print the node's id (never the secret)
    Show,
    /// Copy the key to a new file that only you can read
    Backup {
        /// Where to; must not exist
        file: PathBuf,
    },
}

/// Runs the command.
pub(super) fn run(global: &Global, args: Args) -> Outcome {
    let directories = global.directories()?;
    let path = directories.key();
    let key = match SecretKey::load(&path) {
        Err(aitbc_crypto::keys::KeyError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Err(super::Exit::message(format_args!(
                "{} does not exist: make a key with `aitbc init`",
                path.display()
            )));
        }
        key => key?,
    };
    match args.command {
        Command::Show => {
            let document = serde_json::json!({"schema": "aitbc.key/1", "node": key.node_id(), "file": path});
            output::print(global.json, &document, || println!("{}  {}", key.node_id(), path.display()))
        }
        Command::Backup { file } => {
            key.save_new(&file)?;
            let document = serde_json::json!({"schema": "aitbc.key/1", "node": key.node_id(), "file": file});
            output::print(global.json, &document, || {
                println!("{} written; whoever has it can spend and earn as this node", file.display());
            })
        }
    }
}
