//! `aitbc models`: fetches, deploys, lists, shows and removes models. Works without a running node.

use super::{Exit, Global, Outcome, output};
use crate::models::{Installed, ModelError, ModelStore, Progress};
use aitbc_protocol::job::ModelName;
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;

/// Arguments of `models`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Fetch a model by name, or install a local GGUF file under a name
    Pull {
        /// Name, such as smollm2:135m
        name: ModelName,
        /// A GGUF file on this machine
        #[arg(long)]
        file: Option<PathBuf>,
    },
    /// Install a model that `aitbc private compile` made
    Deploy {
        /// The compiled model
        file: PathBuf,
        /// Name; the one it was compiled with if not given
        #[arg(long)]
        name: Option<ModelName>,
    },
    /// List installed models
    Ls,
    /// Show what a name stands for
    Show {
        /// Name
        name: ModelName,
    },
    /// Remove a model
    Rm {
        /// Name
        name: ModelName,
    },
}

/// The model store of these settings.
pub(super) fn store(global: &Global) -> Result<ModelStore, Exit> {
    let directories = global.directories()?;
    let settings = global.settings(&directories)?;
    Ok(ModelStore::new(directories.models(&settings)))
}

/// Fetches a model with a progress bar on stderr.
pub(super) async fn pull(store: &ModelStore, name: &ModelName) -> Result<Installed, ModelError> {
    if let Some(installed) = store.find(name)? {
        return Ok(installed);
    }
    let bar = bar(name);
    let installed = store.pull(name, |progress| show(&bar, &progress)).await;
    bar.finish_and_clear();
    installed
}

fn bar(name: &ModelName) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{prefix} [{bar:30}] {bytes}/{total_bytes} {binary_bytes_per_sec} {msg}")
            .expect("a literal template")
            .progress_chars("=> ");
    let bar = ProgressBar::new(0).with_style(style).with_prefix(name.to_string());
    bar.enable_steady_tick(std::time::Duration::from_millis(200));
    bar
}

fn show(bar: &ProgressBar, progress: &Progress) {
    if progress.total > 0 {
        bar.set_length(progress.total);
    }
    bar.set_position(progress.done);
    if bar.message() != progress.stage {
        bar.set_message(progress.stage.clone());
        if bar.is_hidden() {
            // Not a terminal: one line a stage instead of a bar.
            eprintln!("{}: {}", bar.prefix(), progress.stage);
        }
    }
}

fn describe(schema: &str, installed: &Installed) -> serde_json::Value {
    serde_json::json!({
        "schema": schema,
        "model": installed.manifest.model,
        "weights": installed.manifest.weights,
        "bytes": installed.manifest.size,
        "kind": installed.manifest.kind,
        "quantisation": installed.manifest.quantisation,
        "licence": installed.manifest.licence,
        "path": installed.path,
    })
}

/// Runs the command.
pub(super) async fn run(global: &Global, args: Args) -> Outcome {
    let store = store(global)?;
    match args.command {
        Command::Pull { name, file } => {
            let installed = match file {
                Some(file) => {
                    let bar = bar(&name);
                    let installed = store.add(&name, &file, |progress| show(&bar, &progress)).await;
                    bar.finish_and_clear();
                    installed?
                }
                None => pull(&store, &name).await?,
            };
            output::print(global.json, &describe("aitbc.models.pull/1", &installed), || {
                println!(
                    "{}  {}  {}",
                    installed.manifest.model,
                    output::bytes(installed.manifest.size),
                    installed.path.display()
                );
            })
        }
        Command::Deploy { file, name } => {
            let installed = tokio::task::spawn_blocking(move || store.deploy(name.as_ref(), &file)).await;
            let installed = installed.map_err(Exit::message)??;
            output::print(global.json, &describe("aitbc.models.deploy/1", &installed), || {
                let Installed { manifest, path } = &installed;
                println!("{}  {}  {}", manifest.model, output::bytes(manifest.size), path.display());
                println!("serve it with: aitbc up --provide --model {}", manifest.model);
            })
        }
        Command::Ls => {
            let installed = store.list()?;
            let models: Vec<_> = installed.iter().map(|model| describe("aitbc.model/1", model)).collect();
            let document = serde_json::json!({"schema": "aitbc.models.ls/1", "models": models});
            output::print(global.json, &document, || {
                if installed.is_empty() {
                    println!(
                        "no models in {}: fetch one with `aitbc models pull smollm2:135m`",
                        store.directory().display()
                    );
                }
                for Installed { manifest, .. } in &installed {
                    println!(
                        "{:24} {:>10}  {:8} {}  sha256:{}",
                        manifest.model,
                        output::bytes(manifest.size),
                        manifest.quantisation,
                        manifest.licence,
                        manifest.weights
                    );
                }
            })
        }
        Command::Show { name } => {
            let manifest = store.manifest(&name)?;
            let installed = store.find(&name)?;
            let document = serde_json::json!({
                "schema": "aitbc.models.show/1",
                "manifest": manifest,
                "installed": installed.as_ref().map(|installed| &installed.path),
            });
            output::print(global.json, &document, || {
                println!("model         {}", manifest.model);
                println!("weights       sha256:{}", manifest.weights);
                println!("size          {}", output::bytes(manifest.size));
                println!("quantisation  {}", manifest.quantisation);
                println!("licence       {}", manifest.licence);
                match &installed {
                    Some(installed) => println!("file          {}", installed.path.display()),
                    None => println!("file          not here: aitbc models pull {name}"),
                }
            })
        }
        Command::Rm { name } => {
            let freed = store.remove(&name)?;
            let document = serde_json::json!({"schema": "aitbc.models.rm/1", "model": name, "freed_bytes": freed});
            output::print(global.json, &document, || println!("{name} removed, {} freed", output::bytes(freed)))
        }
    }
}
