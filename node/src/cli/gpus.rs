//! `aitbc gpus`: this machine's GPUs, the catalogue of models, and what a driver's name means, all
//! without a running node; and with one, what others' GPUs are like.

mod list;
mod seen;

use super::{Exit, Global, Outcome, output};
use aitbc_protocol::gpu::{
    Api, GpuProfile,
    catalogue::catalogue,
    classify::{Classified, Match, Reported, classify},
    query::{FIELDS, Query},
    sizing::{ModelShape, edge_score, recommend_quantization},
};
use serde_json::{Value, json};
use std::io::Write as _;

/// Arguments of `gpus`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Search the catalogue of models
    #[command(after_help = format!("Fields: {FIELDS}\nA word alone must be part of the name."))]
    Profiles {
        /// Conditions that must all hold, such as 'vendor=amd vram>=16'; all models without any
        query: Vec<String>,
    },
    /// Tell which model a driver's name means
    Classify {
        /// The name as a driver or a tool prints it
        name: String,
        /// PCI vendor and device, such as 10de:2684
        #[arg(long, value_parser = pci_id)]
        pci: Option<(u16, u16)>,
        /// Its memory in GiB
        #[arg(long, value_name = "GIB", value_parser = clap::value_parser!(u64).range(1..=4096))]
        memory: Option<u64>,
    },
    /// Tell what the GPUs of providers are like in each region, as the running node has measured them
    Seen,
    /// Tell in which quantisation a model fits a GPU, and about how fast it would answer
    Fit(Fit),
}

/// Arguments of `gpus fit`; the shape is that of Llama 3.1 8B where it is not given.
#[derive(Debug, clap::Args)]
struct Fit {
    /// The GPU's name, as a driver prints it or as in the catalogue
    name: String,
    /// Billions of weights
    #[arg(long, value_name = "BILLIONS", value_parser = billions)]
    parameters: f64,
    /// Its memory in GiB [default: the catalogue's]
    #[arg(long, value_name = "GIB", value_parser = clap::value_parser!(u64).range(1..=4096))]
    memory: Option<u64>,
    /// Layers
    #[arg(long, default_value_t = 32)]
    layers: u32,
    /// Heads of keys and values in each layer
    #[arg(long, default_value_t = 8)]
    kv_heads: u32,
    /// Numbers in each head
    #[arg(long, default_value_t = 128)]
    head_size: u32,
    /// Tokens of prompt and answer
    #[arg(long, default_value_t = 4096)]
    context: u32,
}

fn billions(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| (0.001..=10_000.0).contains(number));
    number.ok_or_else(|| "give billions of weights from 0.001 to 10000, such as 8 or 0.135".to_owned())
}

fn pci_id(text: &str) -> Result<(u16, u16), String> {
    let ids = text.split_once(':').and_then(|(vendor, device)| {
        let id = |text| u16::from_str_radix(text, 16).ok();
        Some((id(vendor)?, id(device)?))
    });
    ids.ok_or_else(|| "give vendor and device as `lspci -nn` prints them, such as 10de:2684".to_owned())
}

/// Runs the command.
pub(super) async fn run(global: &Global, args: &Args) -> Outcome {
    match &args.command {
        None => list::run(global).await,
        Some(Command::Profiles { query }) => profiles(global, &query.join(" ")),
        Some(Command::Classify { name, pci, memory }) => {
            let memory_bytes = memory.map(|gib| gib << 30);
            classified(global, &classify(&Reported { name, pci: *pci, memory_bytes }))
        }
        Some(Command::Seen) => seen::run(global).await,
        Some(Command::Fit(fit)) => fits(global, fit),
    }
}

fn fits(global: &Global, fit: &Fit) -> Outcome {
    let Fit { name, parameters, memory, layers, kv_heads, head_size, context } = fit;
    let memory_bytes = memory.map(|gib| gib << 30);
    let Classified::Gpu { best, .. } = classify(&Reported { name, pci: None, memory_bytes }) else {
        return Err(Exit::usage(format!("{name:?} names no GPU that is known: see `aitbc gpus profiles`")));
    };
    let Some(memory_bytes) = memory_bytes.or(best.profile.memory_bytes) else {
        let shares =
            format!("{} shares the machine's memory: say with --memory how much it may use", best.profile.name);
        return Err(Exit::usage(shares));
    };
    let model = ModelShape {
        parameters: (parameters * 1e9) as u64,
        layers: *layers,
        kv_heads: *kv_heads,
        head_size: *head_size,
        context: *context,
    };
    let told = recommend_quantization(best.profile, memory_bytes, &model).map_err(Exit::message)?;
    let document = json!({ "schema": "aitbc.gpus.fit/1", "profile": of(best.profile), "recommended": told });
    output::print(global.json, &document, || println!("{} {}: {told}", best.profile.vendor, best.profile.name))
}

fn profiles(global: &Global, query: &str) -> Outcome {
    let query: Query = query.parse().map_err(Exit::usage)?;
    let found: Vec<&GpuProfile> = catalogue().profiles().iter().filter(|profile| query.admits(profile)).collect();
    let document = json!({
        "schema": "aitbc.gpus.profiles/1",
        "profiles": found.iter().map(|profile| of(profile)).collect::<Vec<_>>(),
    });
    output::print(global.json, &document, || {
        let mut out = std::io::stdout().lock();
        // A list as long as this is read with `head`, which leaves when it has enough.
        let _ = found.iter().try_for_each(|profile| writeln!(out, "{}", line(profile)));
        eprintln!("{} of {} models", found.len(), catalogue().profiles().len());
    })
}

fn classified(global: &Global, model: &Classified) -> Outcome {
    let mut document = describe(model);
    document["schema"] = "aitbc.gpus.classified/1".into();
    output::print(global.json, &document, || {
        println!("{}", sentence(model));
        if let Classified::Gpu { best, runner_up } = model {
            println!("{}", line(best.profile));
            if let Some(next) = runner_up {
                println!("or, less likely, {} {}", next.profile.vendor, next.profile.name);
            }
        }
    })
}

fn of(profile: &GpuProfile) -> Value {
    let mut document = json!(profile);
    document["checked"] = profile.is_checked().into();
    document["edge_score"] = edge_score(profile, 0, None).into();
    document["mobile"] = profile.is_mobile().into();
    document["edge_optimised"] = profile.is_edge_optimised().into();
    document["edge_inference"] = profile.supports_edge_inference().into();
    document["quantised_models"] = profile.supports_quantised_models().into();
    document["mobile_deployment"] = profile.supports_mobile_deployment().into();
    document["apis"] = json!(profile.apis());
    document
}

fn describe(model: &Classified) -> Value {
    let matched = |it: &Match| json!({ "profile": of(it.profile), "confidence": it.confidence });
    match model {
        Classified::Gpu { best, runner_up } => {
            json!({ "kind": "gpu", "best": matched(best), "runner_up": runner_up.as_ref().map(matched) })
        }
        Classified::Software => json!({ "kind": "software" }),
        Classified::Unknown(vendor) => json!({ "kind": "unknown", "vendor": vendor }),
    }
}

fn sentence(model: &Classified) -> String {
    match model {
        Classified::Gpu { best, .. } => {
            let doubt = if best.confidence < 0.7 { ", perhaps" } else { "" };
            format!(
                "{} {}{doubt} ({:.0} % sure)",
                best.profile.vendor,
                best.profile.name,
                f64::from(best.confidence) * 100.0
            )
        }
        Classified::Software => "no GPU: a program that draws on the CPU".to_owned(),
        Classified::Unknown(Some(vendor)) => format!("a GPU by {vendor} of which no model is named that is known"),
        Classified::Unknown(None) => "no model that is known".to_owned(),
    }
}

/// One model on one line; figures that are not known are a dash.
fn line(profile: &GpuProfile) -> String {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let memory = profile.memory_bytes.map(|bytes| format!("{:.0} GiB", bytes as f64 / 1_073_741_824.0));
    let apis: Vec<&str> = profile.apis().into_iter().map(Api::word).collect();
    format!(
        "{:<44} {:>8} {:<7} {:>9} {:>6} {:>10}  {}{}",
        format!("{} {}", profile.vendor, profile.name),
        memory.unwrap_or_else(|| "shared".to_owned()),
        profile.memory_kind,
        or_dash(profile.bandwidth.map(|rate| format!("{:.0} GB/s", rate as f64 / 1e9))),
        or_dash(profile.tdp_watts.map(|watts| format!("{watts} W"))),
        or_dash(profile.fp32_gflops.map(|rate| format!("{:.1} TFLOPS", f64::from(rate) / 1000.0))),
        apis.join(" "),
        if profile.is_checked() { "" } else { "  (figures not checked)" },
    )
}
