//! `aitbc doctor`: what keeps this node from working, and what to do about it.

use super::{Exit, Global, Outcome, client::Client, models, output};
use crate::models::{ModelError, ModelStore};
use aitbc_protocol::CLOCK_TOLERANCE_MS;
use serde::Serialize;
use serde_json::Value;
use std::path::Path;

mod provider;

/// Free space that a database, logs and small models need, in bytes.
const DISK_NEEDED: u64 = 1024 * 1024 * 1024;
/// Answers from which on the error of predictions tells something.
const TELLING_ANSWERS: u64 = 8;
/// Peers whose clocks are asked.
const CLOCKS: usize = 3;

/// Arguments of `doctor`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Repair what can be repaired: fetch broken models again, close the key file to others
    #[arg(long)]
    fix: bool,
    /// Why this node gets no more jobs: how it stands beside the others of its cell, and what one change would win the most
    #[arg(long, conflicts_with = "fix")]
    provider: bool,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    Ok,
    Failed,
    Fixed,
    /// Nothing to check, or nothing known yet.
    Skipped,
}

/// One check.
#[derive(Debug, Serialize)]
struct Check {
    id: &'static str,
    verdict: Verdict,
    actual: String,
    required: &'static str,
    /// What to do, where it failed.
    remedy: Option<String>,
}

impl Check {
    /// Failed with `remedy` unless `ok`; skipped where that is not known.
    fn new(
        id: &'static str,
        ok: Option<bool>,
        actual: impl Into<String>,
        required: &'static str,
        remedy: impl Into<String>,
    ) -> Self {
        let verdict = match ok {
            Some(true) => Verdict::Ok,
            Some(false) => Verdict::Failed,
            None => Verdict::Skipped,
        };
        let remedy = (verdict == Verdict::Failed).then(|| remedy.into());
        Self { id, verdict, actual: actual.into(), required, remedy }
    }
}

/// Runs the command.
pub(super) async fn run(global: &Global, args: &Args) -> Outcome {
    if args.provider {
        return provider::run(global).await;
    }
    let directories = global.directories()?;
    let client = Client::new(global)?;
    let mut checks = vec![key(&directories.key(), args.fix), disk(&directories.data)];
    checks.extend(model_files(&models::store(global)?, args.fix).await);
    match client.get::<Value>("status").await {
        Ok(status) => checks.extend(running(&client, &status).await),
        Err(error) => {
            checks.push(Check::new(
                "node",
                Some(false),
                error.to_string(),
                "a running node",
                "start it with `aitbc up`; the checks of network and devices need it",
            ));
        }
    }
    let failed = checks.iter().filter(|check| check.verdict == Verdict::Failed).count();
    let document = serde_json::json!({"schema": "aitbc.doctor/1", "ok": failed == 0, "checks": checks});
    output::print(global.json, &document, || people(&checks))?;
    if failed == 0 {
        Ok(())
    } else {
        Err(Exit::message(format_args!("{failed} of {} checks failed", checks.len())))
    }
}

fn people(checks: &[Check]) {
    for check in checks {
        let mark = match check.verdict {
            Verdict::Ok => "ok     ",
            Verdict::Failed => "FAILED ",
            Verdict::Fixed => "fixed  ",
            Verdict::Skipped => "-      ",
        };
        println!("{mark} {:8} {} (required: {})", check.id, check.actual, check.required);
        if let Some(remedy) = &check.remedy {
            println!("                 {remedy}");
        }
    }
}

/// Whether only its owner can read the key.
fn key(path: &Path, fix: bool) -> Check {
    let required = "a key file that only its owner can read (mode 0600)";
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Check::new(
                "key",
                Some(false),
                format!("{} does not exist", path.display()),
                required,
                "make one with `aitbc init`",
            );
        }
        Err(error) => {
            let actual = format!("{}: {error}", path.display());
            return Check::new("key", Some(false), actual, required, "run aitbc as the user who made the key");
        }
    };
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = metadata.permissions().mode() & 0o777;
        let closed = mode.trailing_zeros() >= 6;
        let actual = format!("{} has mode {mode:04o}", path.display());
        if !closed && fix && std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).is_ok() {
            return Check { verdict: Verdict::Fixed, ..Check::new("key", None, actual, required, "") };
        }
        Check::new("key", Some(closed), actual, required, format!("chmod 600 {}, or doctor --fix", path.display()))
    }
    #[cfg(not(unix))]
    {
        let _ = (metadata, fix);
        Check::new("key", None, format!("{} is there", path.display()), required, "")
    }
}

/// Whether there is room for what the node writes.
fn disk(data: &Path) -> Check {
    let required = "1 GiB free";
    // The directory itself may not be there yet.
    let Some(existing) = data.ancestors().find(|path| path.exists()) else {
        return Check::new("disk", None, format!("{} does not exist", data.display()), required, "");
    };
    match free_bytes(existing) {
        Some(free) => Check::new(
            "disk",
            Some(free >= DISK_NEEDED),
            format!("{} free at {}", output::bytes(free), existing.display()),
            required,
            "make room, or move the data with --data-dir",
        ),
        None => {
            Check::new("disk", None, format!("the space at {} cannot be told", existing.display()), required, "")
        }
    }
}

#[cfg(unix)]
fn free_bytes(path: &Path) -> Option<u64> {
    let info = rustix::fs::statvfs(path).ok()?;
    Some(info.f_bavail.saturating_mul(info.f_frsize))
}

#[cfg(not(unix))]
fn free_bytes(_: &Path) -> Option<u64> {
    None
}

/// Whether each installed model is what its name stands for.
async fn model_files(store: &ModelStore, fix: bool) -> Vec<Check> {
    let required = "the SHA-256 that the manifest names";
    let installed = match store.list() {
        Ok(installed) => installed,
        Err(error) => {
            return vec![Check::new(
                "models",
                Some(false),
                error.to_string(),
                "a readable model directory",
                "name another with --models-dir, or give this one to the user who runs aitbc",
            )];
        }
    };
    let mut checks = Vec::new();
    for model in installed {
        let name = &model.manifest.model;
        let Err(error) = store.verify(&model).await else {
            checks.push(Check::new("models", Some(true), format!("{name} is whole"), required, ""));
            continue;
        };
        let actual = format!("{name}: {error}");
        if fix && again(store, name).await.is_ok() {
            checks.push(Check { verdict: Verdict::Fixed, ..Check::new("models", None, actual, required, "") });
            continue;
        }
        let remedy = format!("aitbc models rm {name} && aitbc models pull {name}, or doctor --fix");
        checks.push(Check::new("models", Some(false), actual, required, remedy));
    }
    if checks.is_empty() {
        checks.push(Check::new("models", None, "none is installed", required, ""));
    }
    checks
}

async fn again(store: &ModelStore, name: &aitbc_protocol::job::ModelName) -> Result<(), ModelError> {
    store.remove(name)?;
    models::pull(store, name).await.map(drop)
}

/// What only a running node knows.
async fn running(client: &Client, status: &Value) -> Vec<Check> {
    let netcheck = client.get::<Value>("netcheck").await.unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or("not known yet").to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let listening: Vec<String> = list(&status["listening"]).iter().map(text).collect();
    let peers = status["peers"].as_u64().unwrap_or_default();
    let verdict = netcheck["reachability"]["verdict"].as_str();
    let reserved = list(&netcheck["relays"]).iter().filter(|relay| relay["reserved"] == true).count();
    let public = verdict == Some("public");
    let forward = "forward the port at the router, turn UPnP on there, or use another network";
    let mut checks = vec![
        Check::new(
            "port",
            Some(!listening.is_empty()),
            if listening.is_empty() { "not listening".to_owned() } else { listening.join(", ") },
            "an address listened on",
            "set `listen` to a free port",
        ),
        Check::new(
            "peers",
            Some(peers > 0),
            format!("{peers} connected"),
            "at least one",
            "set `bootstrap` to the address of a node that is up, and check this machine's network",
        ),
        clock(client).await,
        Check::new(
            "udp",
            netcheck["udp"].as_bool(),
            match netcheck["udp"].as_bool() {
                Some(true) => "gets through",
                Some(false) => "blocked",
                None => "not known yet",
            },
            "UDP to other nodes, for QUIC and hole punching",
            "let UDP out in the firewall; without it the node works over TCP, more slowly",
        ),
        Check::new(
            "nat",
            match verdict {
                Some("public") => Some(true),
                Some("private") => Some(reserved > 0),
                _ => None,
            },
            text(&netcheck["sentence"]),
            "reachable directly or through a relay",
            forward,
        ),
        Check::new(
            "relay",
            if public || verdict == Some("unknown") { None } else { Some(reserved > 0) },
            format!("{reserved} reserved"),
            "a reservation, for a node that others do not reach",
            "connect to a node that relays: set `bootstrap`, or run one with `aitbc up --relay`",
        ),
    ];
    checks.extend(devices(status));
    checks.push(predictions(&client.get::<Value>("decisions?limit=1").await.unwrap_or_default()));
    checks
}

/// Whether answers come when they are expected: jobs go by what is expected.
fn predictions(decisions: &Value) -> Check {
    let required = "answers within half to twice the time expected of them";
    let answers = decisions["answers"].as_u64().unwrap_or_default();
    let known = decisions["error"].as_f64().filter(|_| answers >= TELLING_ANSWERS);
    let actual = match known {
        Some(error) => format!("typically {:.0} % off, over {answers} answers", error * 100.0),
        None => format!("{answers} answers so far, too few to tell"),
    };
    let remedy = "see `aitbc jobs --decisions`: providers that are late lose rank by themselves; where all are, this machine or \
                  its line is busy";
    Check::new("predict", known.map(|error| error <= 1.0), actual, required, remedy)
}

/// How far this node's clock is off, by what peers say.
async fn clock(client: &Client) -> Check {
    let required = "within 30 s of the peers' clocks";
    let peers = client.get::<Value>("peers").await.unwrap_or_default();
    let mut ahead = Vec::new();
    for peer in peers["peers"].as_array().into_iter().flatten().take(CLOCKS) {
        let answer = client.ask::<Value>("ping", &serde_json::json!({"peer": peer["peer"]})).await;
        ahead.extend(answer.ok().and_then(|answer| answer["clock_ahead_ms"].as_i64()));
    }
    ahead.sort_unstable();
    match ahead.get(ahead.len() / 2) {
        None => Check::new("clock", None, "no peer told its time", required, ""),
        Some(median) => Check::new(
            "clock",
            Some(median.unsigned_abs() <= CLOCK_TOLERANCE_MS),
            format!("{} ms {} the peers", median.unsigned_abs(), if *median > 0 { "behind" } else { "ahead of" }),
            required,
            "turn on time synchronisation (timedatectl set-ntp true): offers and quotes with a wrong time are refused",
        ),
    }
}

/// Whether a GPU that is there is used.
fn devices(status: &Value) -> Vec<Check> {
    let required = "each GPU that is there does the work";
    let engines = status["provider"]["engines"].as_array().cloned().unwrap_or_default();
    let warnings: Vec<String> = engines
        .iter()
        .flat_map(|engine| engine["warnings"].as_array().cloned().unwrap_or_default())
        .filter_map(|warning| warning.as_str().map(str::to_owned))
        .collect();
    let models = engines.iter().flat_map(|engine| engine["models"].as_array().cloned().unwrap_or_default());
    let devices: Vec<String> = models
        .map(|model| {
            let device = &model["device"];
            format!("{} on {}", model["model"].as_str().unwrap_or("-"), device["name"].as_str().unwrap_or("-"))
        })
        .collect();
    if warnings.is_empty() {
        let known = !devices.is_empty();
        let actual = if known { devices.join(", ") } else { "this node serves no model".to_owned() };
        return vec![Check::new("gpu", known.then_some(true), actual, required, "")];
    }
    let remedy = "see the warning: a build with the feature cuda, vulkan or metal, and the driver it names";
    warnings.into_iter().map(|warning| Check::new("gpu", Some(false), warning, required, remedy)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn an_open_key_fails_and_is_closed_on_request() {
        use std::os::unix::fs::PermissionsExt as _;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
        let check = key(file.path(), false);
        assert_eq!(check.verdict, Verdict::Failed);
        assert!(check.remedy.unwrap().contains("chmod 600"));
        assert_eq!(key(file.path(), true).verdict, Verdict::Fixed);
        assert_eq!(key(file.path(), false).verdict, Verdict::Ok);
        let missing = key(&file.path().with_extension("gone"), false);
        assert!(missing.remedy.unwrap().contains("aitbc init"));
    }

    #[test]
    fn a_gpu_that_is_not_used_fails() {
        let engine = |warnings: &[&str]| {
            serde_json::json!({"provider": {"engines": [{
                "warnings": warnings, "models": [{"model": "m", "device": {"name": "CPU"}}],
            }]}})
        };
        assert_eq!(devices(&engine(&[]))[0].verdict, Verdict::Ok);
        let checks = devices(&engine(&["a GPU is there and unused"]));
        assert_eq!((checks.len(), checks[0].verdict), (1, Verdict::Failed));
        assert_eq!(devices(&serde_json::json!({}))[0].verdict, Verdict::Skipped);
    }

    #[test]
    fn predictions_that_are_far_off_fail() {
        let check = |error: f64, answers: u64| {
            predictions(&serde_json::json!({"error": error, "answers": answers})).verdict
        };
        assert_eq!(check(0.3, 8), Verdict::Ok);
        assert_eq!(check(1.5, 8), Verdict::Failed);
        assert_eq!(check(1.5, 7), Verdict::Skipped);
        assert_eq!(predictions(&Value::Null).verdict, Verdict::Skipped);
    }

    #[tokio::test]
    async fn a_damaged_model_is_named_with_the_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let store = ModelStore::new(directory.path());
        assert_eq!(model_files(&store, false).await[0].verdict, Verdict::Skipped);
        assert!(disk(directory.path()).actual.contains("free"));
    }
}
