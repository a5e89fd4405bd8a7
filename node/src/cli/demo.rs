//! `aitbc demo`: four nodes of this same binary on loopback, and one job between them.

mod private;

use super::{
    Exit, Global, Outcome,
    client::{Client, Line},
    models, narrate, output, run,
};
use crate::{market::verify::verify_receipt_file, routing::JobUpdate};
use aitbc_protocol::{NodeId, job::ModelName, receipt::ReceiptFile};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    io::Write,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

/// How long a node may take to come up, its model loaded.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How long a node may take to leave before it is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(15);
/// What the job allows: light alone needs 170 ms to Sydney and back, so the answer comes from Paris however the speeds
/// are measured on a busy machine.
const LATENCY_BUDGET_MS: u32 = 150;
/// The model the demo runs.
const MODEL: &str = "smollm2:135m";

/// Arguments of `demo`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What to ask
    #[arg(long, default_value = "Name three planets and say one thing about each.")]
    prompt: String,
    /// Most tokens of the answer
    #[arg(long, default_value_t = 160)]
    max_tokens: u32,
    /// Two nodes and a private job: a digit that its provider cannot see
    #[arg(long, conflicts_with_all = ["prompt", "max_tokens"])]
    private: bool,
}

/// A node of the demo, killed when dropped.
struct Member {
    name: &'static str,
    id: NodeId,
    address: String,
    client: Client,
    child: Child,
}

/// What a node of the demo is.
struct Role {
    name: &'static str,
    location: &'static str,
    flags: &'static [&'static str],
}

const BOOTSTRAP: Role = Role { name: "bootstrap", location: "50.11,8.68", flags: &["--relay"] };
// One thread each: engines that wait for each other's cores would measure a speed that is not theirs.
const PROVIDER_FLAGS: &[&str] =
    &["--provide", "--model", MODEL, "--slots", "2", "--context", "2048", "--threads", "1"];
const OTHERS: [Role; 3] = [
    Role { name: "paris", location: "48.85,2.35", flags: PROVIDER_FLAGS },
    Role { name: "sydney", location: "-33.87,151.21", flags: PROVIDER_FLAGS },
    Role { name: "london", location: "51.5,-0.12", flags: &[] },
];

impl Role {
    async fn start(&self, home: &Path, models: &Path, bootstrap: Option<&str>) -> Result<Member, Exit> {
        let data = home.join(self.name);
        std::fs::create_dir_all(&data)?;
        let log = std::fs::File::create(data.join("log"))?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["up", "--json", "--network", "local", "--end-with-parent", "--mdns=false", "--upnp=false"])
            .args(["--listen", "/ip4/127.0.0.1/udp/0/quic-v1,/ip4/127.0.0.1/tcp/0"])
            .args(["--api-listen", "127.0.0.1:0", "--location", self.location])
            .args(self.flags)
            .arg("--data-dir")
            .arg(&data)
            .arg("--config")
            .arg(data.join("config.toml"))
            .arg("--models-dir")
            .arg(models);
        // Settings of the person who runs the demo are not the demo's.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("AITBC_") {
                command.env_remove(name);
            }
        }
        std::fs::write(data.join("config.toml"), "")?;
        if let Some(bootstrap) = bootstrap {
            command.args(["--bootstrap", bootstrap]);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| Exit::message(format_args!("cannot start {}: {error}", self.name)))?;
        let stdout = child.stdout.take().expect("stdout is piped");
        let mut line = String::new();
        let read = tokio::time::timeout(START_PATIENCE, BufReader::new(stdout).read_line(&mut line)).await;
        let ready: Value = match read {
            Ok(Ok(_)) => serde_json::from_str(&line).map_err(|_| self.failed(&data, "it ended at start"))?,
            Ok(Err(error)) => return Err(self.failed(&data, &error.to_string())),
            Err(_) => return Err(self.failed(&data, "it did not start in time")),
        };
        let missing = || self.failed(&data, "it said nothing of itself");
        let text = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(missing);
        Ok(Member {
            name: self.name,
            id: text(&ready["node"])?.parse().map_err(|_| missing())?,
            address: text(&ready["listening"][0])?,
            client: Client::at(text(&ready["api"])?, None)?,
            child,
        })
    }

    fn failed(&self, data: &Path, why: &str) -> Exit {
        let log = std::fs::read_to_string(data.join("log")).unwrap_or_default();
        let mut tail: Vec<&str> = log.lines().rev().take(8).collect();
        tail.reverse();
        Exit::message(format_args!("the node {} of the demo: {why}\n{}", self.name, tail.join("\n")))
    }
}

impl Member {
    /// Waits until the node has peers and, where it sells, an offer.
    async fn ready(&self, sells: bool) -> Result<(), Exit> {
        let started = Instant::now();
        loop {
            let status: Value = self.client.get("status").await?;
            let connected = status["peers"].as_u64().unwrap_or_default() > 0;
            if connected && (!sells || !status["provider"]["offer"].is_null()) {
                return Ok(());
            }
            if started.elapsed() > START_PATIENCE {
                let waiting = status["provider"]["waiting_for"].as_str().unwrap_or("it has no peers");
                return Err(Exit::message(format_args!("{} is not ready: {waiting}", self.name)));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Asks the node to leave, and kills it if it does not.
    async fn stop(mut self) {
        let asked = self.client.post("shutdown").await.is_ok();
        let left = asked && tokio::time::timeout(STOP_PATIENCE, self.child.wait()).await.is_ok();
        if !left {
            let _ = self.child.kill().await;
        }
    }
}

/// Runs the command.
pub(super) async fn run(global: &Global, args: Args) -> Outcome {
    let outcome = tokio::select! {
        outcome = demo(global, args) => outcome,
        _ = tokio::signal::ctrl_c() => Err(Exit::message("interrupted")),
    };
    // Members that were not stopped in order die with their handles, which the lost future has dropped by now.
    outcome
}

async fn demo(global: &Global, args: Args) -> Outcome {
    if args.private {
        return private::demo(global).await;
    }
    let started = Instant::now();
    let json = global.json;
    let say = |text: String| {
        if !json {
            println!("{text}");
        }
    };
    let store = models::store(global)?;
    let model: ModelName = MODEL.parse().expect("a literal name");
    say(format!("The model {MODEL} in {}", store.directory().display()));
    models::pull(&store, &model).await?;
    let home = tempfile::Builder::new().prefix("aitbc-demo-").tempdir()?;

    say("Four nodes of this binary on loopback, on the network \"local\" (places are pretended, the rest is real):".to_owned());
    let bootstrap = BOOTSTRAP.start(home.path(), store.directory(), None).await?;
    let mut members: BTreeMap<&str, Member> = BTreeMap::new();
    let [paris, sydney, london] =
        OTHERS.each_ref().map(|role| role.start(home.path(), store.directory(), Some(&bootstrap.address)));
    // One after the other: each measures its speed, and on one machine they would slow each other down.
    let paris = paris.await?;
    paris.ready(true).await?;
    let sydney = sydney.await?;
    sydney.ready(true).await?;
    let london = london.await?;
    london.ready(false).await?;
    for member in [bootstrap, paris, sydney, london] {
        say(format!("  {:10} {}  pid {}", member.name, member.id, member.child.id().unwrap_or_default()));
        members.insert(member.name, member);
    }
    let names = members.values().map(|member| (member.id, member.name.to_owned())).collect();
    let narrator = narrate::Narrator { names, is_private: false };

    say("\nlondon looks around:".to_owned());
    let london = &members["london"].client;
    let anywhere = json!({"model": model, "location": null, "latency_budget_ms": null});
    london
        .stream("find", &anywhere, |line| {
            if let (Line::Update(update), false) = (line, json) {
                narrator.progress(&update);
            }
            Ok(())
        })
        .await?;

    say(format!("\nlondon asks, with round trips of {LATENCY_BUDGET_MS} ms at the most: {}", args.prompt));
    let mut request = run::request(model, None, args.prompt, args.max_tokens);
    request.wishes.remote_only = true;
    request.wishes.latency_budget_ms = Some(LATENCY_BUDGET_MS);
    let mut job = Job::default();
    members["london"].client.stream("jobs", &request, |line| job.take(line, json, &narrator)).await?;
    run::outcome(job.last.clone())?;

    // The receipt, checked once more from its file alone, as anybody could.
    let london = &members["london"];
    let mut verified = Vec::new();
    for id in &job.receipts {
        let file: ReceiptFile = london.client.get(&format!("receipts/{id}")).await?;
        let checks = verify_receipt_file(&file);
        say(format!("\nreceipt {id} verified offline, from its file alone:"));
        for check in &checks {
            say(format!("  {} {}: {}", narrate::mark(check.passed), check.name, check.detail));
        }
        if checks.iter().any(|check| check.passed == Some(false)) {
            return Err(Exit::verification(format_args!("the receipt {id} does not hold")));
        }
        verified.push(json!({"id": id, "checks": checks, "file": file}));
    }
    say(String::new());
    let mut earned = BTreeMap::new();
    for name in ["paris", "sydney"] {
        let status: Value = members[name].client.get("status").await?;
        let uc = status["totals"]["earned"].as_u64().unwrap_or_default();
        say(format!("{name:8} earned {uc} micro-credits"));
        earned.insert(name, uc);
    }
    let status: Value = london.client.get("status").await?;
    let spent = status["totals"]["spent"].as_u64().unwrap_or_default();
    say(format!("london   spent  {spent} micro-credits"));
    let total_earned: u64 = earned.values().sum();
    let nodes: BTreeMap<_, _> = members.values().map(|member| (member.name, member.id)).collect();
    futures::future::join_all(members.into_values().map(Member::stop)).await;
    let seconds = started.elapsed().as_secs_f64();
    if total_earned != spent || spent == 0 {
        return Err(Exit::verification(format_args!("earned {total_earned} and spent {spent} do not agree")));
    }
    say(format!("\nDone in {seconds:.1} s; all four nodes have stopped."));
    let document = json!({
        "schema": "aitbc.demo/1", "nodes": nodes, "answer": job.answer, "updates": job.updates,
        "receipts": verified, "earned": earned, "spent": spent, "seconds": seconds,
    });
    output::print(json, &document, || ())
}

/// What the demo's job told so far.
#[derive(Default)]
struct Job {
    answer: String,
    updates: Vec<Value>,
    receipts: Vec<aitbc_protocol::Digest>,
    last: Option<JobUpdate>,
}

impl Job {
    fn take(&mut self, line: Line, json: bool, narrator: &narrate::Narrator) -> Result<(), Exit> {
        let Line::Update(update) = line else { return Ok(()) };
        if let JobUpdate::Delta { text, .. } = &*update {
            self.answer.push_str(text);
            if !json {
                let mut stdout = std::io::stdout().lock();
                stdout.write_all(text.as_bytes())?;
                stdout.flush()?;
            }
            return Ok(());
        }
        if let JobUpdate::Receipt { id, .. } = &*update {
            self.receipts.push(*id);
        }
        if json {
            self.updates.push(serde_json::to_value(&update)?);
        } else {
            if let JobUpdate::Ranked { candidates } = &*update
                && let Some(best) = candidates.first()
            {
                eprintln!(
                    "chosen    {}: the lowest cost of time and price, for the reasons below",
                    narrator.name(&best.provider)
                );
            }
            narrator.progress(&update);
        }
        self.last = Some(*update);
        Ok(())
    }
}
