//! `aitbc run`: asks a model through the running node.

use super::{
    Exit, Global, Outcome,
    client::{Client, Line},
    narrate, output,
};
use crate::routing::{JobRequest, JobUpdate, Wishes};
use aitbc_protocol::{
    MicroCredits, NodeId,
    job::{Input, JobSpec, Message, ModelName, Role, Sampling},
    price::LatencyClass,
    routing::{fallback::Fallback, preference::Preference},
};
use std::io::{IsTerminal, Read, Write};

/// Largest prompt read from stdin, in bytes.
const MAX_PROMPT: u64 = 1024 * 1024;

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Model, such as smollm2:135m
    model: ModelName,
    /// What to ask; read from stdin if not given
    prompt: Option<String>,
    /// Instructions to the model
    #[arg(long)]
    system: Option<String>,
    /// Most tokens of the answer
    #[arg(long, default_value_t = 512)]
    max_tokens: u32,
    /// Randomness, 0 to 2
    #[arg(long, default_value_t = 0.7)]
    temperature: f32,
    /// Nucleus, over 0 and at most 1
    #[arg(long, default_value_t = 0.95)]
    top_p: f32,
    /// Seed of the randomness; drawn if not given
    #[arg(long)]
    seed: Option<u64>,
    /// Text that ends the answer; up to four times
    #[arg(long)]
    stop: Vec<String>,
    /// The most to pay, in micro-credits
    #[arg(long, value_name = "UC")]
    max_price: Option<u64>,
    /// Largest round trip in milliseconds
    #[arg(long, value_name = "MS")]
    latency: Option<u32>,
    /// How soon the answer is wished, which sets the price: realtime, fast, standard or economy
    #[arg(long, value_name = "CLASS", default_value_t)]
    latency_class: LatencyClass,
    /// Only this provider
    #[arg(long, value_name = "NODE")]
    provider: Option<NodeId>,
    /// Only a provider that has shown as much GPU memory, in MiB, to this node or to one of `client.verifiers`
    #[arg(long, value_name = "MIB", default_value_t = 0)]
    min_shown: u32,
    /// Only a provider whose attestation is worth as much to this node, to one of `client.verifiers`, or by a proof
    #[arg(long, value_name = "TIER", default_value = "none", value_parser = ["none", "warning", "affirming"])]
    min_trust: String,
    /// Also take providers that only forward to another server
    #[arg(long)]
    allow_declared: bool,
    /// What decides among providers: latency, cost, balanced, private or local_first [default: as the settings say]
    #[arg(long, value_name = "POLICY")]
    policy: Option<Preference>,
    /// When to go to the cloud of the node's settings: never, if_no_edge, if_cheaper or if_faster [default: as they say]
    #[arg(long, value_name = "WHEN")]
    fallback: Option<Fallback>,
    /// Never use this node's own device
    #[arg(long)]
    remote: bool,
    /// Print nothing but the answer
    #[arg(long, short)]
    quiet: bool,
}

/// A request for a chat of one question.
pub(super) fn request(model: ModelName, system: Option<String>, prompt: String, max_tokens: u32) -> JobRequest {
    let mut messages = Vec::new();
    if let Some(content) = system {
        messages.push(Message { role: Role::System, content });
    }
    messages.push(Message { role: Role::User, content: prompt });
    JobRequest {
        spec: JobSpec {
            model,
            weights: None,
            input: Input::Chat(messages),
            sampling: Sampling { temperature: 0.0, top_p: 1.0, seed: 0 },
            max_tokens,
            stop: Vec::new(),
            top_logprobs: None,
            prefix: Vec::new(),
        },
        wishes: Wishes::default(),
    }
}

fn prompt(given: Option<String>) -> Result<String, Exit> {
    if let Some(prompt) = given {
        return Ok(prompt);
    }
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return Err(Exit::usage("no prompt: give it as an argument or on stdin"));
    }
    let mut prompt = String::new();
    stdin.lock().take(MAX_PROMPT).read_to_string(&mut prompt)?;
    Ok(prompt)
}

/// The last update of a job as an outcome.
pub(super) fn outcome(last: Option<JobUpdate>) -> Outcome {
    match last {
        Some(JobUpdate::Failed(failure)) => Err(failure.into()),
        Some(JobUpdate::Finished { .. }) => Ok(()),
        _ => Err(Exit::message("the node ended the job's stream before the job ended")),
    }
}

/// Runs the command.
pub(super) async fn run(global: &Global, args: Args) -> Outcome {
    let client = Client::new(global)?;
    let prompt = prompt(args.prompt)?;
    let mut request = request(args.model, args.system, prompt, args.max_tokens);
    request.spec.sampling = Sampling {
        temperature: args.temperature,
        top_p: args.top_p,
        seed: args.seed.map_or_else(|| getrandom::u64().map_err(Exit::message), Ok)?,
    };
    request.spec.stop = args.stop;
    request.wishes = Wishes {
        max_price: args.max_price.map(MicroCredits),
        latency_budget_ms: args.latency,
        latency_class: args.latency_class,
        provider: args.provider,
        allow_declared: args.allow_declared,
        min_shown_mib: args.min_shown,
        min_trust: args.min_trust.parse().map_err(Exit::usage)?,
        remote_only: args.remote,
        fallback: args.fallback,
        policy: args.policy,
        ..Wishes::default()
    };
    request.spec.validate().map_err(Exit::usage)?;
    let (json, quiet) = (global.json, args.quiet);
    if !json && !quiet {
        eprintln!("note: whoever answers can read this prompt");
    }
    let narrator = narrate::Narrator::default();
    let mut answer = String::new();
    let mut updates = Vec::new();
    let mut last = None;
    client
        .stream("jobs", &request, |line| {
            let Line::Update(update) = line else { return Ok(()) };
            if let JobUpdate::Delta { text, .. } = &*update {
                answer.push_str(text);
                if !json {
                    let mut stdout = std::io::stdout().lock();
                    stdout.write_all(text.as_bytes())?;
                    stdout.flush()?;
                }
                return Ok(());
            }
            if !json && !quiet {
                if matches!(
                    *update,
                    JobUpdate::Receipt { .. }
                        | JobUpdate::FailedOver { .. }
                        | JobUpdate::Outrun { .. }
                        | JobUpdate::PathLost { .. }
                        | JobUpdate::CloudBill { .. }
                        | JobUpdate::CloudFailed { .. }
                ) && !answer.is_empty()
                {
                    eprintln!();
                }
                narrator.progress(&update);
            }
            if json {
                updates.push(serde_json::to_value(&update)?);
            }
            last = Some(*update);
            Ok(())
        })
        .await?;
    let document = serde_json::json!({"schema": "aitbc.run/1", "answer": answer, "updates": updates});
    output::print(json, &document, || println!())?;
    outcome(last)
}
