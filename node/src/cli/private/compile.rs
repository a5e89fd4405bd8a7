//! `aitbc private compile`: from an ONNX file to a model that is computed on encrypted values. Needs no running node.

use super::super::{Exit, Global, Outcome, output};
use aitbc_crypto::fhe::{
    Calibration, Package, Profile,
    compile::{MAX_CALIBRATION_BYTES, Options, Report, Share, compile},
    network::Mode,
};
use aitbc_protocol::{bytes::Digest, job::ModelName};
use std::{
    io::Read,
    path::{Path, PathBuf},
};

/// Largest ONNX file that is read, in bytes.
const MAX_ONNX: usize = 256 * 1024 * 1024;

/// Arguments of `private compile`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The model
    file: PathBuf,
    /// CSV file with rows as the model is given them: what it has to be good at
    #[arg(long, value_name = "CSV")]
    calibration: PathBuf,
    /// Where the compiled model goes
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Name under which it is deployed [default: that of the output file]
    #[arg(long)]
    name: Option<ModelName>,
    /// exact: nothing is lost but by rounding weights; approximate: larger models, with noise
    #[arg(long, default_value = "approximate", value_parser = ["exact", "approximate"])]
    mode: String,
    /// Parameters: fast, high, wide or widest [default: the cheapest that keeps the accuracy]
    #[arg(long, value_parser = profile)]
    profile: Option<Profile>,
    /// Column of the right answers in the calibration [default: the last, if it looks like one]
    #[arg(long)]
    label: Option<String>,
}

fn profile(name: &str) -> Result<Profile, String> {
    let known = || Profile::ALL.map(Profile::name).join(", ");
    Profile::parse(name).ok_or_else(|| format!("profiles are {}", known()))
}

fn read(path: &Path, most: usize) -> Result<Vec<u8>, Exit> {
    let named = |error: std::io::Error| Exit::usage(format_args!("{}: {error}", path.display()));
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(named)?;
    file.take(most as u64 + 1).read_to_end(&mut bytes).map_err(named)?;
    if bytes.len() > most {
        return Err(Exit::usage(format_args!("{} is over {} bytes", path.display(), most)));
    }
    Ok(bytes)
}

/// Runs the command.
pub(super) async fn run(global: &Global, args: Args) -> Outcome {
    let json = global.json;
    let done = tokio::task::spawn_blocking(move || make(&args)).await;
    let (path, bytes, name, report) = done.map_err(Exit::message)??;
    let document = serde_json::json!({
        "schema": "aitbc.private.compile/1", "name": name, "file": path, "bytes": bytes.len(),
        "weights": Digest::of(&bytes), "report": report,
    });
    output::print(json, &document, || {
        people(&report);
        println!("{}  {}  {}", name, output::bytes(bytes.len() as u64), path.display());
        println!("install it with: aitbc models deploy {}", path.display());
    })
}

fn make(args: &Args) -> Result<(PathBuf, Vec<u8>, ModelName, Report), Exit> {
    let stem = args.out.file_stem().and_then(|stem| stem.to_str()).unwrap_or("model");
    let name = match &args.name {
        Some(name) => name.clone(),
        None => ModelName::new(stem.to_ascii_lowercase()).map_err(Exit::usage)?,
    };
    let onnx = read(&args.file, MAX_ONNX)?;
    let rows = read(&args.calibration, MAX_CALIBRATION_BYTES)?;
    let calibration = Calibration::from_csv(&rows, args.label.as_deref())
        .map_err(|error| Exit::usage(format_args!("{}: {error}", args.calibration.display())))?;
    let mode = if args.mode == "exact" { Mode::Exact } else { Mode::Approximate };
    let options = Options { mode, profile: args.profile, ..Options::default() };
    let compiled = compile(&onnx, &calibration, &options)
        .map_err(|error| Exit::message(format_args!("{}: {error}", args.file.display())))?;
    let package = Package { name: name.to_string(), profile: compiled.profile, network: compiled.network };
    let bytes = package.to_bytes().map_err(Exit::error)?;
    std::fs::write(&args.out, &bytes)
        .map_err(|error| Exit::message(format_args!("{}: {error}", args.out.display())))?;
    Ok((args.out.clone(), bytes, name, compiled.report))
}

fn percent(part: f64) -> String {
    format!("{:.2} %", part * 100.0)
}

fn share(of: &Share) -> String {
    format!("{:.2} % ({:.2} to {:.2} with 95 % confidence)", of.share * 100.0, of.low * 100.0, of.high * 100.0)
}

fn people(report: &Report) {
    let mode = match report.mode {
        Mode::Exact => "exact",
        Mode::Approximate => "approximate",
    };
    println!("mode          {mode}, profile {}", report.profile);
    println!("looked at     {} rows", report.rows);
    if let Some(float) = report.accuracy_float {
        println!("accuracy      {} as it was", percent(float));
    }
    if let Some(quantised) = report.accuracy_quantised {
        println!("              {} with whole weights", percent(quantised));
    }
    if let Some(simulated) = &report.accuracy_simulated {
        println!("              {} under noise", share(simulated));
    }
    if let Some(agreement) = &report.agreement_simulated {
        println!("agreement     {} with the model as it was", share(agreement));
    }
    println!("deviation     {:.4} of the outputs' own", report.deviation);
    println!("bootstraps    {} a job, {} products", report.bootstraps, report.multiplications);
    for layer in &report.layers {
        println!("layer         {}: {} sums of {} weights", layer.name, layer.rows, layer.weights);
    }
    for note in &report.notes {
        println!("note          {note}");
    }
}
