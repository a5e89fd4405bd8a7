//! Real `aitbc` processes with homes of their own.

use crate::{
    door::{Door, Inside},
    wait::eventually,
};
use aitbc_protocol::NodeId;
use futures::StreamExt;
use serde_json::Value;
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::mpsc,
};

/// The model of the tests.
pub const MODEL: &str = "smollm2:135m";
/// Lines of a log that a failing test shows.
const LOG_LINES: usize = 60;
/// How long a process may take for anything that loads a model on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// The binary under test, built beside the tests.
pub fn binary() -> PathBuf {
    beside("aitbc")
}

/// A program that was built beside the tests.
pub(crate) fn beside(name: &str) -> PathBuf {
    let mut directory = std::env::current_exe().expect("a test has a path");
    directory.pop();
    if directory.ends_with("deps") {
        directory.pop();
    }
    let binary = directory.join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    assert!(binary.exists(), "{} is not there: run cargo build --workspace first", binary.display());
    binary
}

/// The small model's file.
pub fn model_file() -> PathBuf {
    let path = std::env::var_os("AITBC_TEST_MODEL")
        .map(PathBuf::from)
        .expect("AITBC_TEST_MODEL names the small model's file: run the tests with make test");
    assert!(path.exists(), "AITBC_TEST_MODEL: {} is not there, run make setup", path.display());
    path
}

/// The model directory that holds the small model.
pub fn models_dir() -> PathBuf {
    model_file().ancestors().nth(2).expect("blobs/ lies in a model directory").to_owned()
}

/// A command of the binary under test without the settings of whoever runs the tests.
pub fn command(home: &Path) -> Command {
    command_through(&[], home)
}

/// The same behind words of another program that ends by becoming it.
fn command_through(entry: &[String], home: &Path) -> Command {
    let mut command = match entry {
        [] => Command::new(binary()),
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments).arg(binary());
            command
        }
    };
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("AITBC_") {
            command.env_remove(name);
        }
    }
    command.env("HOME", home).env_remove("XDG_CONFIG_HOME").env_remove("XDG_DATA_HOME").kill_on_drop(true);
    command
}

/// Runs a command to its end.
pub async fn run(home: &Path, arguments: &[&str]) -> Output {
    tokio::time::timeout(PATIENCE, command(home).args(arguments).stdin(Stdio::null()).output())
        .await
        .expect("the command ends")
        .expect("the command starts")
}

/// Sends a signal by name to any process.
pub fn signal(process: u32, name: &str) {
    let status = std::process::Command::new("kill").args(["-s", name, &process.to_string()]).status();
    assert!(status.is_ok_and(|status| status.success()), "kill -s {name} works");
}

/// A running node.
#[derive(Debug)]
pub struct Process {
    /// Its name in messages.
    pub name: String,
    /// Its home; kept over restarts.
    pub home: TempDir,
    /// Who it is.
    pub id: NodeId,
    /// Its addresses with `/p2p/`, as it prints them.
    pub addresses: Vec<String>,
    /// Host and port of its API.
    pub api: String,
    child: Child,
    arguments: Vec<String>,
    inside: Option<Inside>,
    door: Option<Door>,
    http: reqwest::Client,
}

/// How a node is started.
#[derive(Clone, Debug)]
pub struct ProcessBuilder {
    name: String,
    arguments: Vec<String>,
    inside: Option<Inside>,
}

impl ProcessBuilder {
    /// A node on network `local`, on loopback, with ports that the system chooses.
    pub fn new(name: &str, location: &str) -> Self {
        Self::on(name, "local", location, "/ip4/127.0.0.1/udp/0/quic-v1,/ip4/127.0.0.1/tcp/0")
    }

    /// A node in another network namespace, on a network where private addresses mean nothing.
    pub fn inside(name: &str, listen: &str, inside: Inside) -> Self {
        Self { inside: Some(inside), ..Self::on(name, "laboratory", "50.1,8.7", listen) }
    }

    fn on(name: &str, network: &str, location: &str, listen: &str) -> Self {
        let fixed = "up --json --end-with-parent --mdns=false --upnp=false --api-listen 127.0.0.1:0";
        let mut arguments: Vec<String> = fixed.split(' ').map(str::to_owned).collect();
        if let Ok(directives) = std::env::var("AITBC_TEST_LOG") {
            arguments.extend(["--log".to_owned(), directives]);
        }
        Self { name: name.to_owned(), arguments, inside: None }.arguments(&[
            "--network",
            network,
            "--location",
            location,
            "--listen",
            listen,
        ])
    }

    /// More arguments.
    #[must_use]
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// Sells the small model, one engine thread, so that several fit a small machine.
    #[must_use]
    pub fn provide(self) -> Self {
        let models = models_dir();
        self.arguments(&["--provide", "--model", MODEL, "--context", "2048", "--threads", "1"])
            .arguments(&["--models-dir", models.to_str().expect("a UTF-8 path")])
    }

    /// Knows another node from the start.
    #[must_use]
    pub fn bootstrap(self, other: &Process) -> Self {
        self.arguments(&["--bootstrap", &other.addresses[0]])
    }

    /// Relays, and is a server of the DHT from the start.
    #[must_use]
    pub fn relay(self) -> Self {
        self.arguments(&["--relay"])
    }

    /// Starts the node in a new home.
    pub async fn start(self) -> Process {
        let home = tempfile::tempdir().expect("a temporary directory");
        self.start_in(home).await
    }

    /// Starts the node in a home that may hold an earlier life.
    pub async fn start_in(self, home: TempDir) -> Process {
        let (child, ready) = launch(&self.name, home.path(), &self.arguments, self.inside.as_ref()).await;
        let http = aitbc_node::http::client_builder().no_proxy().build().expect("a client");
        let mut process = Process {
            name: self.name,
            home,
            id: ready["node"].as_str().and_then(|id| id.parse().ok()).expect("a node id"),
            addresses: Vec::new(),
            api: String::new(),
            child,
            arguments: self.arguments,
            inside: self.inside,
            door: None,
            http,
        };
        process.take(&ready).await;
        process
    }
}

async fn launch(name: &str, home: &Path, arguments: &[String], inside: Option<&Inside>) -> (Child, Value) {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(home.join("log")).expect("a log file");
    let entry = inside.map(|inside| inside.entry.as_slice()).unwrap_or_default();
    let mut child = command_through(entry, home)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .expect("the node starts");
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    let read = tokio::time::timeout(PATIENCE, stdout.read_line(&mut line)).await;
    let ready = read.ok().and_then(Result::ok).and_then(|_| serde_json::from_str(&line).ok());
    let ready = ready.unwrap_or_else(|| {
        let log = std::fs::read_to_string(home.join("log")).unwrap_or_default();
        panic!("{name} did not come up: {line}\n{log}")
    });
    (child, ready)
}

/// The last of its log, where a test fails: what the test saw seldom tells why.
impl Drop for Process {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let log = std::fs::read_to_string(self.home.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
        eprintln!("--- the log of {} ({} lines) ends so:\n{}", self.name, lines.len(), last.join("\n"));
    }
}

impl Process {
    async fn take(&mut self, ready: &Value) {
        let addresses = ready["listening"].as_array().map(Vec::as_slice).unwrap_or_default();
        self.addresses = addresses.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        ready["api"].as_str().expect("an API address").clone_into(&mut self.api);
        if let Some(inside) = &self.inside {
            let api = self.api.parse().expect("an address and a port");
            let door = Door::open(inside.clone(), api).await;
            self.api = door.address.to_string();
            self.door = Some(door);
        }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("the process runs")
    }

    /// Kills it as a power cut would, and waits until it is gone.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("the process can be killed");
    }

    /// Starts it again in its home, listening where it listened before, as a node with a fixed port does.
    pub async fn restart(&mut self) {
        let listen: Vec<&str> =
            self.addresses.iter().filter_map(|address| address.split("/p2p/").next()).collect();
        let flag = self.arguments.iter().position(|argument| argument == "--listen").expect("set at start");
        self.arguments[flag + 1] = listen.join(",");
        let (child, ready) = launch(&self.name, self.home.path(), &self.arguments, self.inside.as_ref()).await;
        self.child = child;
        self.take(&ready).await;
    }

    /// Kills it and starts it again at once.
    pub async fn kill_and_restart(&mut self) {
        self.kill().await;
        self.restart().await;
    }

    /// Stops it where it is, as a machine that hangs; [`Process::thaw`] lets it go on.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// Lets a frozen process go on.
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// The processes that it started: its engines.
    pub fn children(&self) -> Vec<u32> {
        let entries = std::fs::read_dir("/proc").expect("Linux");
        let ids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        // The parent is the second word after the name, which stands in brackets.
        let parent = |id: &u32| -> Option<u32> {
            let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
            stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
        };
        ids.filter(|id| parent(id) == Some(self.pid())).collect()
    }

    /// Asks it to leave; its exit code.
    pub async fn stop(&mut self) -> Option<i32> {
        let response = self.http.post(self.url("aitbc/v1/shutdown")).json(&serde_json::json!({})).send().await;
        assert!(response.is_ok_and(|response| response.status().is_success()), "{}: no shutdown", self.name);
        tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("it leaves").expect("a status").code()
    }

    /// A URL of its API.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.api)
    }

    /// The client for its API.
    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// Where it listens over TCP, on loopback.
    pub fn tcp(&self) -> SocketAddr {
        let address =
            self.addresses.iter().find(|address| address.contains("/tcp/")).expect("it listens over TCP");
        let port = address.split('/').nth(4).and_then(|port| port.parse().ok()).expect("a port");
        (Ipv4Addr::LOCALHOST, port).into()
    }

    /// A document of its control API.
    pub async fn get(&self, path: &str) -> Value {
        let response = self.http.get(self.url(&format!("aitbc/v1/{path}"))).send().await.expect("an answer");
        response.json().await.expect("JSON")
    }

    /// Runs a command of the CLI against it.
    pub async fn cli(&self, arguments: &[&str]) -> Output {
        run(self.home.path(), &[&["--api", &self.api][..], arguments].concat()).await
    }

    /// Waits until its status meets `condition`; what it says last otherwise.
    pub async fn until(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let what = format!("{}: {what}", self.name);
        eventually(&what, PATIENCE, || async {
            let status = self.get("status").await;
            condition(&status).then_some(status)
        })
        .await
    }

    /// Waits until it has peers.
    pub async fn connected(&self) {
        self.until("has peers", |status| status["peers"].as_u64().unwrap_or_default() > 0).await;
    }

    /// Waits until it offers something.
    pub async fn offering(&self) {
        self.until("offers", |status| !status["provider"]["offer"].is_null()).await;
    }

    /// Searches until it finds `count` providers of the model.
    pub async fn finds(&self, count: usize) {
        self.finds_of(MODEL, count).await;
    }

    /// The same of another model.
    pub async fn finds_of(&self, model: &str, count: usize) {
        let what = format!("{}: finds {count} providers of {model}", self.name);
        eventually(&what, PATIENCE, || async {
            let output = self.cli(&["--json", "find", model]).await;
            let found: Value = serde_json::from_slice(&output.stdout).ok()?;
            (found["candidates"].as_array()?.len() >= count).then_some(())
        })
        .await;
    }

    /// Starts a job over the control API; its updates as they come. Dropping the receiver cancels the job.
    pub async fn job(&self, request: &Value) -> mpsc::Receiver<Value> {
        self.updates("jobs", request).await
    }

    /// The same on any path that answers line by line.
    pub async fn updates(&self, path: &str, request: &Value) -> mpsc::Receiver<Value> {
        let url = self.url(&format!("aitbc/v1/{path}"));
        let response = self.http.post(url).json(request).send().await.expect("an answer");
        assert!(
            response.status().is_success(),
            "{}: {}",
            response.status(),
            response.text().await.unwrap_or_default()
        );
        let (sender, receiver) = mpsc::channel(64);
        tokio::spawn(async move {
            let mut stream = response.bytes_stream();
            let mut buffer = Vec::new();
            loop {
                let part = tokio::select! {
                    () = sender.closed() => return,
                    part = stream.next() => part,
                };
                let Some(Ok(part)) = part else { return };
                buffer.extend_from_slice(&part);
                while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = buffer.drain(..=end).collect();
                    let update = serde_json::from_slice(&line).expect("a JSON line");
                    if sender.send(update).await.is_err() {
                        return;
                    }
                }
            }
        });
        receiver
    }
}

/// A request of one question, greedy, never on the node's own device.
pub fn question(prompt: &str, max_tokens: u32) -> Value {
    serde_json::json!({
        "spec": {
            "model": MODEL, "weights": null, "input": {"chat": [{"role": "user", "content": prompt}]},
            "sampling": {"temperature": 0.0, "top_p": 1.0, "seed": 7}, "max_tokens": max_tokens,
            "stop": [], "top_logprobs": null, "prefix": [],
        },
        "wishes": {"remote_only": true},
    })
}

/// All updates of a job until its end.
pub async fn collect(mut updates: mpsc::Receiver<Value>) -> Vec<Value> {
    let mut all = Vec::new();
    while let Ok(Some(update)) = tokio::time::timeout(PATIENCE, updates.recv()).await {
        all.push(update);
    }
    all
}

/// The text of an answer.
pub fn answer(updates: &[Value]) -> String {
    updates
        .iter()
        .filter(|update| update["event"] == "delta")
        .filter_map(|update| update["text"].as_str())
        .collect()
}

/// The updates of one kind.
pub fn events<'a>(updates: &'a [Value], kind: &str) -> Vec<&'a Value> {
    updates.iter().filter(|update| update["event"] == kind).collect()
}
