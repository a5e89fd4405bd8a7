//! `aitbc bench gpu`: what this machine's GPUs reach, beside what their data sheets say.

use super::{Exit, Global, Outcome, output};
use crate::gpu::{
    inventory::Adapter,
    worker::{self, Measured},
};
use aitbc_protocol::gpu::{
    Api, GpuProfile,
    classify::{Classified, Reported, classify},
};
use indicatif::ProgressBar;
use serde_json::{Value, json};
use std::time::Duration;

/// Arguments of `bench`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Measure memory bandwidth and rates of arithmetic of every GPU
    Gpu {
        /// Measure programs that pretend to be GPUs as well; they run on the CPU
        #[arg(long)]
        software: bool,
    },
}

/// One figure beside the data sheet's.
struct Figure {
    name: &'static str,
    unit: &'static str,
    measured: f64,
    sheet: Option<f64>,
}

/// Runs the command.
pub(super) async fn run(global: &Global, args: &Args) -> Outcome {
    let Command::Gpu { software } = args.command;
    let binary = std::env::current_exe()?;
    let adapters = worker::adapters(&binary).await.map_err(Exit::error)?;
    let chosen: Vec<(usize, &Adapter)> =
        adapters.iter().enumerate().filter(|(index, it)| wanted(&adapters[..*index], it, software)).collect();
    if chosen.is_empty() {
        let there =
            if adapters.is_empty() { "" } else { " (--software measures the programs that pretend to be one)" };
        return Err(Exit::message(format_args!(
            "no graphics interface reaches a GPU here{there}: install its Vulkan driver; `aitbc gpus` says what is found"
        )));
    }
    let mut measured = Vec::new();
    for (index, adapter) in chosen {
        let bar = ProgressBar::new_spinner().with_message(format!("measuring {}", adapter.name));
        bar.enable_steady_tick(Duration::from_millis(100));
        let result = worker::measure(&binary, index).await;
        bar.finish_and_clear();
        measured.push((adapter.clone(), result));
    }
    let documents: Vec<Value> = measured
        .iter()
        .map(|(adapter, result)| match result {
            Ok(Measured { rates, .. }) => {
                let profile = profile(adapter);
                let figures = figures(result.as_ref().expect("it is Ok"), profile);
                let ratios: Value =
                    figures.iter().map(|figure| (figure.name.to_owned(), json!(ratio(figure)))).collect();
                json!({
                    "adapter": adapter, "rates": rates, "of_data_sheet": ratios,
                    "profile": profile.map(|profile| profile.name),
                })
            }
            Err(error) => json!({ "adapter": adapter, "error": error.to_string() }),
        })
        .collect();
    let failed = measured.iter().all(|(_, result)| result.is_err());
    output::print(global.json, &json!({ "schema": "aitbc.bench.gpu/1", "gpus": documents }), || {
        for (adapter, result) in &measured {
            people(adapter, result);
        }
    })?;
    if failed { Err(Exit::message("no GPU could be measured")) } else { Ok(()) }
}

/// One interface a GPU is enough: the first that the list has, and OpenGL only where nothing else reaches any card of the
/// vendor, for it tells neither address nor name as others do.
fn wanted(before: &[Adapter], adapter: &Adapter, software: bool) -> bool {
    let same = |other: &Adapter| match adapter.api {
        Api::Gl => other.vendor == adapter.vendor || other.name == adapter.name,
        _ if adapter.address.is_empty() => other.api != adapter.api && other.name == adapter.name,
        _ => other.address == adapter.address,
    };
    adapter.software == software && !before.iter().any(same)
}

fn profile(adapter: &Adapter) -> Option<&'static GpuProfile> {
    let pci = u16::try_from(adapter.vendor).ok().zip(u16::try_from(adapter.device).ok());
    match classify(&Reported { name: &adapter.name, pci, memory_bytes: None }) {
        Classified::Gpu { best, .. } => Some(best.profile),
        Classified::Software | Classified::Unknown(_) => None,
    }
}

fn figures(measured: &Measured, profile: Option<&GpuProfile>) -> Vec<Figure> {
    let rates = &measured.rates;
    let giga = |figure: fn(&GpuProfile) -> Option<f32>| profile.and_then(figure).map(|rate| f64::from(rate) * 1e9);
    let figure = |name, unit, measured, sheet| Figure { name, unit, measured, sheet };
    let bandwidth = profile.and_then(|profile| profile.bandwidth).map(|rate| rate as f64);
    let mut figures = vec![
        figure("bandwidth", "GB/s", rates.bandwidth, bandwidth),
        figure("fp32", "GFLOPS", rates.fp32, giga(|profile| profile.fp32_gflops)),
    ];
    figures.extend(rates.fp16.map(|rate| figure("fp16", "GFLOPS", rate, giga(|profile| profile.fp16_gflops))));
    figures.push(figure("int8", "GOPS", rates.int8, giga(|profile| profile.int8_gops)));
    figures
}

fn ratio(figure: &Figure) -> Option<f64> {
    figure.sheet.map(|sheet| figure.measured / sheet)
}

fn people(adapter: &Adapter, result: &Result<Measured, worker::WorkerError>) {
    println!("{} by {} ({})", adapter.name, adapter.api.word(), adapter.driver);
    if adapter.software {
        println!("    a program that runs on the CPU: these are the CPU's figures");
    }
    match result {
        Ok(measured) => {
            for figure in figures(measured, profile(adapter)) {
                let Figure { name, unit, measured, .. } = figure;
                let beside = ratio(&figure)
                    .map_or_else(String::new, |ratio| format!("  {:.0} % of the data sheet's", ratio * 100.0));
                println!("    {name:<10} {:>9.1} {unit}{beside}", measured / 1e9);
            }
        }
        Err(error) => println!("    not measured: {error}"),
    }
}
