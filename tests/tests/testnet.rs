//! The Docker testnet: its routers do what their names say, a question through two NATs is answered, every break is
//! survived, and once healed all is as before.
//!
//! It runs where `testnet/up --check` finds what it needs, and says what is missing elsewhere. The testnet has a name of
//! this tree's own, so that a developer's running one is left alone.

use aitbc_protocol::Digest;
use aitbc_tests::{
    eventually,
    process::{PATIENCE, binary, models_dir},
};
use futures::future::join_all;
use serde_json::{Value, json};
use std::{
    path::Path,
    process::{Output, Stdio},
    time::{Duration, Instant},
};
use tokio::process::Command;

/// Longest run of one script: `up` may have to make the base image first.
const SCRIPT_PATIENCE: Duration = Duration::from_secs(240);
/// Containers of the homes, the NAT in front of each, and its mapping and filtering in RFC 4787's words.
const HOMES: [(&str, &str, &str, &str); 4] = [
    ("client", "port-restricted", "endpoint-independent", "address and port-dependent"),
    ("provider-1", "full-cone", "endpoint-independent", "endpoint-independent"),
    ("provider-2", "address-restricted", "endpoint-independent", "address-dependent"),
    ("provider-3", "symmetric", "address and port-dependent", "address and port-dependent"),
];
const PROVIDERS: [&str; 3] = ["provider-1", "provider-2", "provider-3"];

/// A testnet, gone with everything that belongs to it when dropped.
struct Testnet {
    name: String,
}

impl Testnet {
    /// `None` where it cannot run; the reason is printed.
    async fn prepare() -> Option<Self> {
        // One name a tree: what a killed run left is found again, and two trees do not meet.
        let name = format!("aitbc-test-{}", &Digest::of(env!("CARGO_MANIFEST_DIR").as_bytes()).to_string()[..8]);
        let check = output(script(&name, "up").arg("--check")).await;
        if !check.status.success() {
            println!("skipped: no Docker testnet here: {}", text(&check.stderr));
            return None;
        }
        let testnet = Self { name };
        testnet.must("down", &[]).await;
        Some(testnet)
    }

    /// What a script that must succeed prints.
    async fn must(&self, name: &str, arguments: &[&str]) -> String {
        let started = Instant::now();
        let output = output(script(&self.name, name).args(arguments)).await;
        assert!(output.status.success(), "{name} {arguments:?}: {}", text(&output.stderr));
        println!("testnet/{name} {}: {:.1?}", arguments.join(" "), started.elapsed());
        text(&output.stdout)
    }

    /// The nodes by name, from `testnet/status --json`.
    async fn status(&self) -> Value {
        let document: Value = serde_json::from_str(&self.must("status", &["--json"]).await).expect("JSON");
        assert_eq!(document["schema"], "aitbc.testnet/1");
        let nodes = document["nodes"].as_array().expect("nodes").iter();
        nodes.map(|node| (node["name"].as_str().expect("a name").to_owned(), node.clone())).collect()
    }

    /// Asks through the client, of one provider or of any; the one that answered.
    async fn ask(&self, provider: Option<&str>) -> String {
        let mut arguments = vec!["Name three planets", "--json", "--max-tokens", "24", "--temperature", "0"];
        if let Some(id) = provider {
            arguments.extend(["--provider", id]);
        }
        let document: Value = serde_json::from_str(&self.must("chat", &arguments).await).expect("JSON");
        assert!(document["answer"].as_str().is_some_and(|answer| answer.trim().len() > 5), "{document}");
        let updates = document["updates"].as_array().expect("updates");
        let last = |event: &str| updates.iter().rfind(|update| update["event"] == event);
        let checks = last("receipt").expect("a receipt")["checks"].as_array().expect("checks");
        assert!(checks.len() >= 8 && checks.iter().all(|check| check["passed"] != false), "{checks:?}");
        assert!(last("finished").is_some(), "{document}");
        last("started").expect("it started")["provider"].as_str().expect("a provider").to_owned()
    }

    /// Every provider answers, and is who it was: the volumes keep keys and sequence numbers over any break.
    async fn all_answer(&self, ids: &Ids) {
        assert_eq!(Ids::of(&self.status().await), *ids);
        for provider in &ids.0[..PROVIDERS.len()] {
            assert_eq!(self.ask(Some(provider)).await, *provider);
        }
    }

    /// Waits until the client's best path to a provider is of one of the kinds.
    async fn path(&self, provider: &str, kinds: &[&str]) {
        let what = format!("the path from the client to {provider} is {}", kinds.join(" or "));
        eventually(&what, PATIENCE, || async {
            let status = self.status().await;
            let id = &status[provider]["status"]["node"];
            let peers = status["client"]["peers"]["peers"].as_array().expect("peers");
            let path = peers.iter().find(|peer| peer["peer"] == *id)?["path"].as_str()?.to_owned();
            kinds.contains(&path.as_str()).then_some(())
        })
        .await;
    }
}

impl Drop for Testnet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What the test saw seldom tells why.
            for node in PROVIDERS.into_iter().chain(["relay", "client"]) {
                let container = format!("{}-{node}", self.name);
                let logs =
                    std::process::Command::new("docker").args(["logs", "--tail", "40", &container]).output();
                let logs = logs.map(|logs| text(&logs.stderr)).unwrap_or_default();
                eprintln!("--- the log of {node} ends so:\n{logs}");
            }
        }
        let _ = script(&self.name, "down").arg("--images").as_std_mut().status();
    }
}

/// Who the nodes are: the providers in order, then the relay and the client.
#[derive(Debug, PartialEq)]
struct Ids(Vec<String>);

impl Ids {
    fn of(status: &Value) -> Self {
        let names = PROVIDERS.into_iter().chain(["relay", "client"]);
        Self(names.map(|name| status[name]["status"]["node"].as_str().expect(name).to_owned()).collect())
    }
}

/// A script of `testnet/` for the testnet of that name, without the settings of whoever runs the tests.
fn script(testnet: &str, name: &str) -> Command {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tree");
    let mut command = Command::new(tree.join("testnet").join(name));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("AITBC_") {
            command.env_remove(name);
        }
    }
    command
        .env("AITBC_TESTNET", testnet)
        .env("AITBC", binary())
        .env("AITBC_TESTNET_MODELS", models_dir())
        .stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

async fn output(command: &mut Command) -> Output {
    let line = format!("{command:?}");
    let ended = tokio::time::timeout(SCRIPT_PATIENCE, command.kill_on_drop(true).output()).await;
    ended.unwrap_or_else(|_| panic!("{line} hangs")).unwrap_or_else(|error| panic!("{line}: {error}"))
}

/// What a docker command that must succeed prints.
async fn docker(arguments: &[&str]) -> String {
    let output = output(Command::new("docker").args(arguments)).await;
    assert!(output.status.success(), "docker {arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Measures every router from both of its sides. A stranger with two addresses stands on the public network, so that no
/// node is disturbed.
async fn routers_do_what_their_names_say(testnet: &Testnet) {
    let name = &testnet.name;
    let [network, stranger, image] =
        [format!("{name}_internet"), format!("{name}-stranger"), format!("{name}-router")];
    let subnet = docker(&["network", "inspect", &network, "--format", "{{(index .IPAM.Config 0).Subnet}}"]).await;
    let prefix = subnet.strip_suffix(".0/24").expect("a /24");
    let addresses = [98, 99].map(|host| format!("{prefix}.{host}"));
    let label = format!("com.docker.compose.project={name}");
    let run = ["run", "--detach", "--init", "--name", &stranger, "--label", &label, "--cap-add", "NET_ADMIN"];
    let place = ["--network", &network, "--ip", &addresses[0], "--entrypoint", "sleep", &image, "infinity"];
    docker(&[&run[..], &place].concat()).await;
    let second = format!("{}/24", addresses[1]);
    docker(&["exec", &stranger, "ip", "address", "add", &second, "dev", "eth0"]).await;
    let pid = |container: String| async move {
        docker(&["container", "inspect", "--format", "{{.State.Pid}}", &container]).await
    };

    let outside = pid(stranger.clone()).await;
    let entered = Command::new("nsenter").args([&format!("--net=/proc/{outside}/ns/net"), "true"]).output().await;
    if entered.is_ok_and(|entered| entered.status.success()) {
        let python = std::env::var("AITBC_TEST_PYTHON").expect("AITBC_TEST_PYTHON: run the tests with make test");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/nat_probe.py");
        join_all(HOMES.map(async |(home, kind, mapping, filtering)| {
            let inside = pid(format!("{name}-{home}")).await;
            let mut probe = Command::new(&python);
            let probed = output(probe.arg(&script).args([&inside, &outside]).args(&addresses)).await;
            assert!(probed.status.success(), "{kind}: {}", text(&probed.stderr));
            let measured: Value = serde_json::from_slice(&probed.stdout).expect("JSON");
            let expected = json!({"mapping": mapping, "filtering": filtering, "unsolicited": false});
            assert_eq!(measured, json!({"udp": expected, "tcp": expected}), "{kind}");
        }))
        .await;
    } else {
        println!("not measured: the routers, for this process may not enter the containers' networks");
    }
    docker(&["container", "rm", "--force", &stranger]).await;
}

/// The metrics of every node are there for this machine, and for nobody without the token.
async fn metrics_answer(testnet: &Testnet) {
    let http = aitbc_node::http::client_builder().no_proxy().build().expect("a client");
    let configuration = testnet.must("status", &["--prometheus"]).await;
    let quoted = |start: &str| -> Vec<String> {
        let after = configuration.split(start).skip(1);
        after.filter_map(|rest| rest.split('"').next()).map(str::to_owned).collect()
    };
    let (tokens, targets) = (quoted("{credentials: \""), quoted("[{targets: [\""));
    assert_eq!((tokens.len(), targets.len()), (5, 5), "{configuration}");
    for (token, target) in tokens.iter().zip(&targets) {
        let request = http.get(format!("http://{target}/metrics"));
        let refused = request.try_clone().expect("no body").send().await.expect("an answer");
        assert_eq!(refused.status(), 401);
        let page = request.bearer_auth(token).send().await.expect("an answer").text().await.expect("text");
        assert!(page.contains("aitbc_network_connections") && page.ends_with("# EOF\n"), "{page}");
    }
}

#[tokio::test]
async fn a_question_through_two_nats_survives_every_break() {
    let Some(testnet) = Testnet::prepare().await else { return };
    testnet.must("up", &["--no-wait"]).await;
    routers_do_what_their_names_say(&testnet).await;
    testnet.must("heal", &[]).await;

    let status = testnet.status().await;
    let ids = Ids::of(&status);
    for (home, kind, _, _) in HOMES {
        assert_eq!((&status[home]["nat"], &status[home]["router"]), (&json!(kind), &json!("running")));
    }
    assert_eq!(status["relay"]["status"]["reachability"]["verdict"], "public");
    metrics_answer(&testnet).await;
    testnet.all_answer(&ids).await;

    // Nobody reaches these from outside, and they know it. The full cone lets everybody in once it has sent anything.
    for home in ["client", "provider-2", "provider-3"] {
        eventually(&format!("{home} knows that it is private"), PATIENCE, || async {
            let reachability = testnet.status().await[home]["status"]["reachability"].clone();
            (reachability["verdict"] == "private").then_some(())
        })
        .await;
    }
    // Between an endpoint-dependent mapping and a filter by port no hole can be punched; between the others it can.
    testnet.path("provider-1", &["direct", "hole-punched"]).await;
    testnet.path("provider-2", &["direct", "hole-punched"]).await;
    testnet.path("provider-3", &["relayed"]).await;

    // The relay dies: what is direct stays.
    testnet.must("break", &["relay"]).await;
    testnet.ask(None).await;
    testnet.must("heal", &[]).await;
    testnet.all_answer(&ids).await;

    // A provider dies, or the router before it: another one answers.
    for (what, lost) in [("provider", 0), ("nat", 1)] {
        testnet.must("break", &[what, &(lost + 1).to_string()]).await;
        assert_ne!(testnet.ask(None).await, ids.0[lost], "{what} {} is broken", lost + 1);
        testnet.must("heal", &[]).await;
        testnet.all_answer(&ids).await;
    }

    // Two nodes that cannot reach each other any more go on through the relay.
    testnet.must("break", &["split", "client", "2"]).await;
    assert_eq!(testnet.ask(Some(&ids.0[1])).await, ids.0[1]);
    testnet.path("provider-2", &["relayed"]).await;
    testnet.must("heal", &[]).await;
    testnet.all_answer(&ids).await;

    testnet.must("down", &["--images"]).await;
    let filter = format!("label=com.docker.compose.project={}", testnet.name);
    for list in [["container", "ls", "--all"].as_slice(), &["network", "ls"], &["volume", "ls"]] {
        assert_eq!(docker(&[list, &["--quiet", "--filter", &filter]].concat()).await, "", "{list:?}");
    }
}
