//! `aitbc private`: compiles models that are computed on encrypted values, and asks them.

use super::{
    Exit, Global, Outcome,
    client::{Client, Line},
    narrate::Narrator,
    output,
};
use crate::{
    private::{PrivateRequest, PrivateStep, Verify},
    routing::{JobFailure, JobUpdate, Wishes},
};
use aitbc_protocol::{MicroCredits, NodeId, job::ModelName};
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    cell::RefCell,
    io::Read,
    path::{Path, PathBuf},
};

mod compile;

/// Largest input that is read, in bytes.
const MAX_INPUT: u64 = 1024 * 1024;

/// Arguments of `private`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a private model out of an ONNX file
    Compile(compile::Args),
    /// Ask a private model: its provider can read neither input nor answer
    Run(RunArgs),
}

/// Arguments of `private run`.
#[derive(Debug, clap::Args)]
pub(super) struct RunArgs {
    /// Model, such as digits
    model: ModelName,
    /// JSON file with the values, a list of numbers; - for stdin
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Only this provider
    #[arg(long, value_name = "NODE")]
    provider: Option<NodeId>,
    /// The most to pay in all, in micro-credits
    #[arg(long, value_name = "UC")]
    max_price: Option<u64>,
    /// Largest round trip in milliseconds
    #[arg(long, value_name = "MS")]
    latency: Option<u32>,
    /// Only a provider whose attestation is worth as much to this node, to one of `client.verifiers`, or by a proof
    #[arg(long, value_name = "TIER", default_value = "none", value_parser = ["none", "warning", "affirming"])]
    min_trust: String,
    /// Have two providers compute it, and compare their answers: redundancy:2
    #[arg(long, value_name = "HOW")]
    verify: Option<Verify>,
    /// Print nothing but the answer
    #[arg(long, short)]
    quiet: bool,
}

/// Runs the command.
pub(super) async fn run(global: &Global, args: Args) -> Outcome {
    match args.command {
        Command::Compile(args) => compile::run(global, args).await,
        Command::Run(args) => ask(global, args).await,
    }
}

/// The values in a file: a list, or an object with the list as `input`, as the API takes it.
fn values(path: &Path) -> Result<Vec<f64>, Exit> {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Values {
        List(Vec<f64>),
        Request { input: Vec<f64> },
    }
    let mut text = Vec::new();
    if path.as_os_str() == "-" {
        std::io::stdin().lock().take(MAX_INPUT + 1).read_to_end(&mut text)?;
    } else {
        let named = |error| Exit::usage(format_args!("{}: {error}", path.display()));
        std::fs::File::open(path).map_err(named)?.take(MAX_INPUT + 1).read_to_end(&mut text)?;
    }
    if text.len() as u64 > MAX_INPUT {
        return Err(Exit::usage(format_args!("the input is over {MAX_INPUT} bytes")));
    }
    match serde_json::from_slice(&text) {
        Ok(Values::List(values) | Values::Request { input: values }) => Ok(values),
        Err(_) => Err(Exit::usage("the input is not a JSON list of numbers")),
    }
}

async fn ask(global: &Global, args: RunArgs) -> Outcome {
    let client = Client::new(global)?;
    let request = PrivateRequest {
        input: values(&args.input)?,
        wishes: Wishes {
            max_price: args.max_price.map(MicroCredits),
            latency_budget_ms: args.latency,
            provider: args.provider,
            min_trust: args.min_trust.parse().map_err(Exit::usage)?,
            ..Wishes::default()
        },
        model: args.model,
        verify: args.verify,
    };
    request.validate().map_err(|(field, problem)| Exit::usage(format_args!("{field}: {problem}")))?;
    let narrator = Narrator { is_private: true, ..Narrator::default() };
    let told = follow(&client, &request, global.json || args.quiet, &narrator).await?;
    let document = serde_json::json!({
        "schema": "aitbc.private.run/1", "answer": told.answer, "updates": told.updates,
    });
    output::print(global.json, &document, || {
        if let Some(answer) = &told.answer {
            print(answer);
        }
    })?;
    told.outcome()
}

/// What a job told.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// The answer, if there is one.
    pub(super) answer: Option<PrivateStep>,
    failure: Option<JobFailure>,
    /// Everything that happened.
    pub(super) updates: Vec<serde_json::Value>,
}

impl Told {
    /// How the command ends.
    pub(super) fn outcome(self) -> Outcome {
        match (self.answer, self.failure) {
            (Some(PrivateStep::Answer { agree: Some(false), .. }), _) => {
                Err(Exit::verification("the two providers do not say the same"))
            }
            (Some(_), _) => Ok(()),
            (None, Some(failure)) => Err(failure.into()),
            (None, None) => Err(Exit::message("the node ended the job's stream before the job ended")),
        }
    }
}

/// Has the node do a private job, and shows how it goes.
pub(super) async fn follow(
    client: &Client,
    request: &PrivateRequest,
    silent: bool,
    narrator: &Narrator,
) -> Result<Told, Exit> {
    let bars = Bars::default();
    let mut told = Told::default();
    client
        .stream("private", request, |line| {
            match line {
                Line::Update(update) => {
                    if !silent {
                        bars.job(narrator, &update);
                    }
                    told.updates.push(serde_json::to_value(&update)?);
                }
                Line::Other(value) => {
                    let step: PrivateStep = serde_json::from_value(value.clone())?;
                    if !silent {
                        bars.step(narrator, &step);
                    }
                    // The answer stands by itself.
                    match step {
                        PrivateStep::Answer { .. } => told.answer = Some(step),
                        PrivateStep::PrivateFailed(failure) => told.failure = Some(failure),
                        _ => told.updates.push(value),
                    }
                }
            }
            Ok(())
        })
        .await?;
    bars.clear();
    Ok(told)
}

/// The answer on stdout: the class, or the values with their names.
pub(super) fn print(answer: &PrivateStep) {
    let PrivateStep::Answer { values, labels, class, agree, .. } = answer else { return };
    match class {
        Some(place) => println!("{}", labels.get(*place).map_or_else(|| place.to_string(), Clone::clone)),
        None => {
            for (place, value) in values.iter().enumerate() {
                match labels.get(place) {
                    Some(label) => println!("{label}  {value}"),
                    None => println!("{value}"),
                }
            }
        }
    }
    match agree {
        Some(true) => eprintln!("verified  two providers say the same"),
        Some(false) => eprintln!("verified  NOT: the two providers do not say the same"),
        None => {}
    }
}

/// The bars of what takes its time: a key on its way, bootstraps.
#[derive(Default)]
struct Bars {
    bar: RefCell<Option<(&'static str, ProgressBar)>>,
}

impl Bars {
    /// Shows `done` of `of`, in bytes or in pieces.
    fn show(&self, what: &'static str, template: &str, done: u64, of: u64) {
        let mut bar = self.bar.borrow_mut();
        if bar.as_ref().is_none_or(|(shown, _)| *shown != what) {
            let style = ProgressStyle::with_template(template).expect("a literal template").progress_chars("=> ");
            *bar = Some((what, ProgressBar::new(of).with_style(style).with_prefix(what)));
        }
        if let Some((_, bar)) = &*bar {
            bar.set_position(done);
        }
        if done >= of
            && let Some((_, bar)) = bar.take()
        {
            bar.finish_and_clear();
        }
    }

    fn clear(&self) {
        if let Some((_, bar)) = self.bar.borrow_mut().take() {
            bar.finish_and_clear();
        }
    }

    fn job(&self, narrator: &Narrator, update: &JobUpdate) {
        match update {
            JobUpdate::Computed { done, of } => {
                let template = "{prefix} [{bar:30}] {pos}/{len} bootstraps {per_sec}";
                self.show("computing", template, u64::from(*done), u64::from(*of));
            }
            // One a window, while the bar shows how far it is.
            JobUpdate::Paid { .. } if self.bar.borrow().is_some() => {}
            update => {
                self.clear();
                narrator.progress(update);
            }
        }
    }

    fn step(&self, narrator: &Narrator, step: &PrivateStep) {
        if let PrivateStep::KeySent { sent, total, .. } = step {
            let template = "{prefix} [{bar:30}] {bytes}/{total_bytes} {binary_bytes_per_sec}";
            return self.show("sending the evaluation key", template, *sent, *total);
        }
        self.clear();
        match step {
            PrivateStep::Described { provider, profile, values, bootstraps, .. } => eprintln!(
                "model     {values} values in, {bootstraps} bootstraps, profile {profile}, by {}",
                narrator.name(provider)
            ),
            PrivateStep::KeyMade { provider } => {
                eprintln!("key       made for {}; it stays on this machine", narrator.name(provider));
            }
            PrivateStep::KeyHeld { provider } => {
                eprintln!("key       {} has the evaluation key already", narrator.name(provider));
            }
            PrivateStep::Encrypted { provider, bytes } => {
                eprintln!("input     encrypted for {}, {}", narrator.name(provider), output::bytes(*bytes as u64));
            }
            PrivateStep::ProviderFailed { provider, reason } => {
                eprintln!("failed    {}: {reason}", narrator.name(provider));
            }
            PrivateStep::Answer { paid, receipts, .. } => {
                eprintln!("decrypted on this machine; paid {paid}, {} receipts", receipts.len());
            }
            PrivateStep::KeySent { .. } | PrivateStep::PrivateFailed(_) => {}
        }
    }
}
