//! The command line: arguments, merged settings and commands apart; one file a command.
//!
//! stdout is data, stderr is messages and progress. Exit codes: 0 ok, 1 error, 2 usage, 3 no daemon, 4 no provider,
//! 5 timeout, 6 verification failed, 7 price not met.

mod attest;
mod bench;
mod challenge;
mod circuits;
mod client;
mod demo;
mod doctor;
mod down;
mod earnings;
mod find;
mod gpus;
mod init;
mod jobs;
mod key;
mod ledger;
mod models;
mod narrate;
mod netcheck;
mod open_files;
mod output;
mod peers;
mod ping;
mod private;
mod receipts;
mod regions;
mod reputation;
mod run;
mod since;
mod status;
mod up;

use crate::config::{Directories, Settings};
use clap::{CommandFactory, Parser, Subcommand};
use std::{path::PathBuf, process::ExitCode};

pub use output::{Exit, Outcome};

/// Rent out a GPU, or buy an AI answer from the nearest good one.
#[derive(Debug, Parser)]
#[command(name = "aitbc", version, about, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, clap::Args)]
struct Global {
    /// Settings file [default: aitbc/config.toml in the XDG configuration directory]
    #[arg(long, global = true, env = "AITBC_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of key, database and models [default: aitbc in the XDG data directory]
    #[arg(long, global = true, env = "AITBC_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Directory of the model files [default: models in the data directory]
    #[arg(long, global = true, env = "AITBC_MODELS_DIR", value_name = "DIR")]
    models_dir: Option<PathBuf>,
    /// File with the API's bearer token; needed where the API listens beyond 127.0.0.1
    #[arg(long, global = true, env = "AITBC_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Address of the running node's API [default: api.listen of the settings]
    #[arg(long, global = true, env = "AITBC_API", value_name = "HOST:PORT")]
    api: Option<String>,
    /// Print data as JSON
    #[arg(long, global = true)]
    json: bool,
    /// What to log on stderr: error, warn, info, debug, trace, or tracing directives
    #[arg(long, global = true, env = "AITBC_LOG", value_name = "FILTER")]
    log: Option<String>,
}

impl Global {
    fn directories(&self) -> Result<Directories, Exit> {
        Ok(Directories::resolve(self.config.clone(), self.data_dir.clone())?)
    }

    /// The settings of the file under the flags and variables of every command, without those of `up`.
    fn settings(&self, directories: &Directories) -> Result<Settings, Exit> {
        let mut settings = Settings::load(&directories.config, self.config.is_some())?;
        settings.models_dir = self.models_dir.clone().or(settings.models_dir);
        settings.api.token_file = self.token_file.clone().or(settings.api.token_file);
        Ok(settings)
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a key and a commented settings file
    Init(init::Args),
    /// Run a node until Ctrl-C or `aitbc down`
    Up(Box<up::Args>),
    /// Stop the running node
    Down,
    /// Show the running node: reachability, engines, offer, earnings, and what keeps work away
    Status,
    /// Look for providers of a model or by conditions, nearest first, and show their ranking
    Find(find::Args),
    /// Show what is on offer, cell by cell
    Regions(regions::Args),
    /// Ask a model; the provider of an ordinary job can read the prompt
    Run(run::Args),
    /// List jobs, as client and as provider
    Jobs(jobs::Args),
    /// List, show, export and verify receipts
    Receipts(receipts::Args),
    /// Show what stands between this node and each of its peers; export it, verify exports
    Ledger(ledger::Args),
    /// Show what was earned and spent, by day and model
    Earnings(earnings::Args),
    /// List connected peers
    Peers,
    /// Show how this node is connected, and what that means for it
    Netcheck(netcheck::Args),
    /// Check everything that keeps a node from working; fails if anything does
    Doctor(doctor::Args),
    /// Measure the round trip to a peer, and name the kind of path
    Ping(ping::Args),
    /// Have a provider show that it has the memory that it says it has
    Challenge(challenge::Args),
    /// Have a peer show what hardware and firmware it runs on; show and verify results
    Attest(attest::Args),
    /// Show what the last day of providers was like, and by whose word
    Reputation(reputation::Args),
    /// Keys and parameters for proofs in zero knowledge: set-up, ceremony
    Circuits(circuits::Args),
    /// List this machine's GPUs, search the catalogue of models, or tell what a driver's name means
    Gpus(gpus::Args),
    /// Measure how fast this machine's GPUs are
    Bench(bench::Args),
    /// Fetch, list, show and remove models
    Models(models::Args),
    /// Compile models for private jobs, and ask them: their provider cannot read input and answer
    Private(private::Args),
    /// Show or back up the node's key
    Key(key::Args),
    /// Start four nodes on this machine and run one job between them
    Demo(demo::Args),
    /// Print shell completions
    Completions {
        /// Shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
    /// Print the version
    Version,
}

/// Parses the arguments, runs the command and prints what went wrong.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.global.json;
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(run_command(cli));
    // Blocking reads of stdin must not keep the process.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => exit.report(json),
    }
}

async fn run_command(cli: Cli) -> Outcome {
    let Cli { global, command } = cli;
    let default_log = if matches!(command, Command::Up(_)) { "info,libp2p=error,netlink=error" } else { "error" };
    output::start_logging(global.log.as_deref().unwrap_or(default_log))?;
    match command {
        Command::Init(args) => init::run(&global, &args),
        Command::Up(args) => Box::pin(up::run(&global, *args)).await,
        Command::Down => down::run(&global).await,
        Command::Status => status::run(&global).await,
        Command::Find(args) => find::run(&global, args).await,
        Command::Regions(args) => regions::run(&global, args).await,
        Command::Run(args) => run::run(&global, args).await,
        Command::Jobs(args) => jobs::run(&global, args).await,
        Command::Receipts(args) => receipts::run(&global, args).await,
        Command::Ledger(args) => ledger::run(&global, args).await,
        Command::Earnings(args) => earnings::run(&global, &args).await,
        Command::Peers => peers::run(&global).await,
        Command::Netcheck(args) => netcheck::run(&global, &args).await,
        Command::Doctor(args) => doctor::run(&global, &args).await,
        Command::Ping(args) => ping::run(&global, args).await,
        Command::Challenge(args) => challenge::run(&global, &args).await,
        Command::Attest(args) => attest::run(&global, &args).await,
        Command::Reputation(args) => reputation::run(&global, &args).await,
        Command::Circuits(args) => circuits::run(&global, args).await,
        Command::Gpus(args) => gpus::run(&global, &args).await,
        Command::Bench(args) => bench::run(&global, &args).await,
        Command::Models(args) => models::run(&global, args).await,
        Command::Private(args) => private::run(&global, args).await,
        Command::Key(args) => key::run(&global, args),
        Command::Demo(args) => demo::run(&global, args).await,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "aitbc", &mut std::io::stdout());
            Ok(())
        }
        Command::Man => Ok(clap_mangen::Man::new(Cli::command()).render(&mut std::io::stdout())?),
        Command::Version => {
            let document = serde_json::json!({
                "schema": "aitbc.version/1",
                "version": env!("CARGO_PKG_VERSION"),
                "wire": aitbc_protocol::wire::VERSION,
                "features": features(),
            });
            output::print(global.json, &document, || {
                println!("aitbc {} (engine: llama.cpp on {})", env!("CARGO_PKG_VERSION"), features().join(", "));
            })
        }
    }
}

/// What the engine of this build can run on.
fn features() -> Vec<&'static str> {
    let mut features = vec!["cpu"];
    if cfg!(feature = "cuda") {
        features.push("cuda");
    }
    if cfg!(feature = "vulkan") {
        features.push("vulkan");
    }
    if cfg!(feature = "metal") {
        features.push("metal");
    }
    features
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }
}
