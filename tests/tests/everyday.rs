//! What people do every day, with the real binary: the demo, a miner, a client, the OpenAI client, the exit codes.

use aitbc_tests::{
    ProcessBuilder,
    process::{self, MODEL, PATIENCE},
};
use serde_json::Value;
use std::{path::Path, process::Stdio};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(bytes)))
}

/// Processes whose command line names `needle`.
fn processes_with(needle: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").expect("Linux");
    entries
        .flatten()
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " "))
        .filter(|line| line.contains(needle))
        .collect()
}

fn demo(home: &Path, temporary: &Path) -> tokio::process::Command {
    // The demo's homes are made where TMPDIR says, so its processes can be told apart.
    let mut command = process::command(home);
    let models = process::models_dir();
    std::fs::write(home.join("config.toml"), format!("models_dir = \"{}\"\n", models.display())).expect("written");
    command.env("TMPDIR", temporary).arg("--config").arg(home.join("config.toml")).arg("demo");
    command
}

#[tokio::test]
async fn the_demo_runs_and_leaves_nothing() {
    let home = tempfile::tempdir().expect("a directory");
    let temporary = tempfile::tempdir().expect("a directory");
    let output = tokio::time::timeout(
        PATIENCE,
        demo(home.path(), temporary.path()).args(["--json", "--prompt", "Name two colours."]).output(),
    )
    .await
    .expect("under a minute or so")
    .expect("starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let document = json(&output.stdout);
    assert_eq!(document["schema"], "aitbc.demo/1");
    assert!(document["answer"].as_str().is_some_and(|answer| !answer.trim().is_empty()));
    assert_eq!(document["earned"]["paris"], document["spent"], "the nearest one earned it");
    assert_eq!(document["earned"]["sydney"], 0);
    let checks = document["receipts"][0]["checks"].as_array().expect("checks");
    assert!(checks.len() >= 8 && checks.iter().all(|check| check["passed"] != false), "{checks:?}");
    assert!(processes_with(temporary.path().to_str().expect("UTF-8")).is_empty(), "nothing is left");
}

#[tokio::test]
async fn an_interrupted_demo_leaves_nothing() {
    let home = tempfile::tempdir().expect("a directory");
    let temporary = tempfile::tempdir().expect("a directory");
    let needle = temporary.path().to_str().expect("UTF-8").to_owned();
    for signal in ["INT", "KILL"] {
        let mut child = demo(home.path(), temporary.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        // Interrupted once its nodes run.
        while let Some(line) = lines.next_line().await.expect("readable") {
            if line.contains("pid") {
                break;
            }
        }
        assert!(processes_with(&needle).len() >= 4, "the nodes run");
        let pid = child.id().expect("runs").to_string();
        assert!(std::process::Command::new("kill").args(["-s", signal, &pid]).status().expect("kill").success());
        assert!(!child.wait().await.expect("ends").success());
        aitbc_tests::eventually(&format!("no process is left after SIG{signal}"), PATIENCE, || async {
            processes_with(&needle).is_empty().then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_client_asks_a_miner_with_every_tool() {
    let miner = ProcessBuilder::new("miner", "48.85,2.35").relay().provide().start().await;
    let client = ProcessBuilder::new("client", "51.5,-0.1").bootstrap(&miner).start().await;
    miner.offering().await;
    client.finds(1).await;

    let output =
        client.cli(&["run", MODEL, "Name three planets", "--temperature", "0", "--max-tokens", "40"]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).trim().len() > 10);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("can read this prompt"), "people are told");
    assert!(
        told.contains("base 0.") && told.contains("x0.8 0 % of its slots taken"),
        "and what prices follow: {told}"
    );

    let found = json(&client.cli(&["--json", "find", MODEL]).await.stdout);
    assert_eq!(found["candidates"][0]["provider"], miner.id.to_string());

    // Whoever wishes it sooner pays for it, and is told so.
    let fast = ["--json", "run", MODEL, "Hi", "--max-tokens", "8", "--latency-class", "fast"];
    let fast = client.cli(&fast).await;
    assert!(fast.status.success(), "{}", String::from_utf8_lossy(&fast.stderr));
    let updates = json(&fast.stdout)["updates"].clone();
    let quoted = updates.as_array().expect("updates").iter().find(|update| update["event"] == "quoted");
    let factor = &quoted.expect("a quote")["factors"][0];
    assert_eq!((&factor["kind"], &factor["ppm"]), (&"latency".into(), &2_000_000.into()), "{factor}");
    assert!(factor["reason"].as_str().is_some_and(|reason| reason.contains("within 500 ms")), "{factor}");

    // A receipt shown, verified, tampered with.
    let receipts = json(&client.cli(&["--json", "receipts"]).await.stdout);
    let id = receipts["receipts"][0]["id"].as_str().expect("an id");
    let shown = client.cli(&["receipts", "show", id]).await.stdout;
    let file = client.home.path().join("receipt.json");
    std::fs::write(&file, &shown).expect("written");
    let path = file.to_str().expect("UTF-8");
    let verified = client.cli(&["--json", "receipts", "verify", path]).await;
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    let mut tampered = json(&shown);
    let payload = tampered["receipt"]["payload"].as_str().expect("hexadecimal").to_owned();
    let flipped = if payload.ends_with('0') { "1" } else { "0" };
    tampered["receipt"]["payload"] = format!("{}{flipped}", &payload[..payload.len() - 1]).into();
    std::fs::write(&file, tampered.to_string()).expect("written");
    assert_eq!(client.cli(&["receipts", "verify", path]).await.status.code(), Some(6));

    // Too dear, unknown, status, peers, metrics.
    assert_eq!(client.cli(&["run", MODEL, "Hi", "--max-price", "1"]).await.status.code(), Some(7));
    let unknown = client.cli(&["run", "smolm2:135m", "Hi"]).await;
    assert_eq!(unknown.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains(MODEL), "the nearest name is told");
    let status = json(&miner.cli(&["--json", "status"]).await.stdout);
    assert!(status["totals"]["earned"].as_u64().expect("a sum") > 0);
    assert!(!json(&client.cli(&["--json", "peers"]).await.stdout)["peers"].as_array().expect("peers").is_empty());
    let metrics =
        client.http().get(client.url("metrics")).send().await.expect("answers").text().await.expect("text");
    assert!(metrics.contains("aitbc_") && metrics.ends_with("# EOF\n"), "OpenMetrics");
}

#[tokio::test]
async fn the_openai_client_works() {
    let python = std::env::var("AITBC_TEST_PYTHON").expect("AITBC_TEST_PYTHON: run the tests with make test");
    let miner = ProcessBuilder::new("miner", "48.85,2.35").relay().provide().start().await;
    let client = ProcessBuilder::new("client", "51.5,-0.1").bootstrap(&miner).start().await;
    miner.offering().await;
    client.finds(1).await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/openai_client.py");
    let output = tokio::process::Command::new(python)
        .arg(script)
        .args([client.url("v1").as_str(), MODEL])
        .env("NO_PROXY", "*")
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(3 * PATIENCE, output).await.expect("ends").expect("starts");
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test]
async fn prompts_and_answers_stay_off_the_providers_disk_and_logs() {
    let miner = ProcessBuilder::new("miner", "48.85,2.35")
        .relay()
        .provide()
        .arguments(&["--log", "trace,libp2p=info"])
        .start()
        .await;
    let mut client = ProcessBuilder::new("client", "51.5,-0.1").bootstrap(&miner).start().await;
    miner.offering().await;
    client.finds(1).await;
    let secret = "xylophonist-quarantine";
    let mut request = process::question(&format!("Repeat this exactly: {secret}"), 40);
    request["spec"]["input"]["chat"][0]["content"] = format!("Repeat this word: {secret}").into();
    let updates = process::collect(client.job(&request).await).await;
    assert!(!process::answer(&updates).is_empty());
    let mut miner = miner;
    assert_eq!(miner.stop().await, Some(0));
    assert_eq!(client.stop().await, Some(0));
    let mut files = vec![miner.home.path().to_owned()];
    let mut looked_at = 0;
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(std::fs::read_dir(&path).expect("readable").flatten().map(|entry| entry.path()));
            continue;
        }
        let bytes = std::fs::read(&path).expect("readable");
        looked_at += 1;
        let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!found, "the prompt is in {}", path.display());
    }
    assert!(looked_at >= 4, "log, key and database were looked at");
}

#[tokio::test]
async fn exit_codes_and_remedies() {
    let home = tempfile::tempdir().expect("a directory");
    let run = |arguments: &'static [&'static str]| {
        let home = home.path().to_owned();
        async move { process::run(&home, arguments).await }
    };
    let error = |output: &std::process::Output| String::from_utf8_lossy(&output.stderr).into_owned();

    let nobody = run(&["--api", "127.0.0.1:9", "status"]).await;
    assert_eq!(nobody.status.code(), Some(3));
    assert!(error(&nobody).contains("aitbc up"), "{}", error(&nobody));
    assert_eq!(run(&["frobnicate"]).await.status.code(), Some(2));

    let nowhere = run(&["up"]).await;
    assert_eq!(nowhere.status.code(), Some(2));
    assert!(error(&nowhere).contains("--location"), "{}", error(&nowhere));
    let nothing = run(&["up", "--provide", "--location", "1,2"]).await;
    assert_eq!(nothing.status.code(), Some(2));
    assert!(error(&nothing).contains("--model"), "{}", error(&nothing));

    std::fs::create_dir_all(home.path().join(".config/aitbc")).expect("made");
    std::fs::write(home.path().join(".config/aitbc/config.toml"), "lokation = \"1,2\"\n").expect("written");
    let misspelt = run(&["up"]).await;
    assert_eq!(misspelt.status.code(), Some(2));
    assert!(error(&misspelt).contains("`location`"), "{}", error(&misspelt));
    std::fs::remove_file(home.path().join(".config/aitbc/config.toml")).expect("removed");

    let first = run(&["--json", "init", "--location", "48.85,2.35"]).await;
    let again = run(&["--json", "init"]).await;
    assert_eq!(json(&first.stdout)["node"], json(&again.stdout)["node"]);
    assert_eq!(json(&again.stdout)["key_created"], false);
    assert_eq!(json(&run(&["--json", "key", "show"]).await.stdout)["node"], json(&first.stdout)["node"]);
    for shell in ["bash", "zsh", "fish"] {
        let output = process::run(home.path(), &["completions", shell]).await;
        assert!(output.status.success() && output.stdout.len() > 1000, "{shell}");
    }
    assert!(run(&["man"]).await.status.success());
    assert_eq!(json(&run(&["--json", "version"]).await.stdout)["schema"], "aitbc.version/1");
    assert_eq!(json(&run(&["--json", "models", "ls"]).await.stdout)["models"], serde_json::json!([]));
}

#[tokio::test]
async fn a_model_file_with_a_wrong_digest_is_not_loaded() {
    let home = tempfile::tempdir().expect("a directory");
    let models = tempfile::tempdir().expect("a directory");
    let copy = |from: &Path, to: &Path| {
        for entry in std::fs::read_dir(from).expect("readable").flatten() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
        }
    };
    let source = process::models_dir();
    for folder in ["blobs", "manifests"] {
        std::fs::create_dir_all(models.path().join(folder)).expect("made");
        copy(&source.join(folder), &models.path().join(folder));
    }
    let blob = models.path().join("blobs").join(process::model_file().file_name().expect("a name"));
    let mut bytes = std::fs::read(&blob).expect("readable");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::remove_file(&blob).expect("removed");
    std::fs::write(&blob, bytes).expect("written");
    let mut child = process::command(home.path())
        .args([
            "up",
            "--network",
            "local",
            "--location",
            "1,2",
            "--provide",
            "--model",
            MODEL,
            "--mdns=false",
            "--upnp=false",
        ])
        .args(["--listen", "/ip4/127.0.0.1/tcp/0", "--api-listen", "127.0.0.1:0"])
        .arg("--models-dir")
        .arg(models.path())
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("starts");
    let mut text = String::new();
    let mut stderr = child.stderr.take().expect("piped");
    tokio::time::timeout(PATIENCE, stderr.read_to_string(&mut text)).await.expect("it ends").expect("text");
    assert!(!child.wait().await.expect("ends").success());
    assert!(text.contains("SHA-256"), "{text}");
}

#[tokio::test]
async fn gpu_models_are_searched_and_told_apart() {
    let home = tempfile::tempdir().expect("a directory");
    let run = |arguments: &'static [&'static str]| process::run(home.path(), arguments);
    let found = run(&["--json", "gpus", "profiles", "vendor=nvidia vram>=24", "form=card", "rtx"]).await;
    let found = json(&found.stdout);
    let profiles = found["profiles"].as_array().expect("a list");
    assert!(profiles.iter().any(|profile| profile["name"] == "GeForce RTX 4090"), "{found}");
    assert!(profiles.iter().all(|profile| profile["vendor"] == "nvidia"));

    let told = run(&["--json", "gpus", "classify", "NVIDIA GeForce GTX 1650", "--pci", "10de:1f99"]).await;
    assert_eq!(json(&told.stdout)["best"]["profile"]["name"], "GeForce GTX 1650 Mobile");
    let software = run(&["--json", "gpus", "classify", "llvmpipe (LLVM 15.0.6, 256 bits)"]).await;
    assert_eq!(json(&software.stdout)["kind"], "software");
    assert!(json(&run(&["--json", "gpus"]).await.stdout)["gpus"].is_array());

    let fits =
        run(&["--json", "gpus", "fit", "NVIDIA GeForce RTX 3060", "--parameters", "8.03", "--context", "8192"])
            .await;
    assert_eq!(json(&fits.stdout)["recommended"]["quantization"]["name"], "q8_0");
    let large = run(&["gpus", "fit", "GeForce RTX 3060", "--parameters", "70"]).await;
    assert_eq!(large.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&large.stderr).contains("smaller model"), "what to change");

    let misspelt = run(&["gpus", "profiles", "vrem>=16"]).await;
    assert_eq!(misspelt.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&misspelt.stderr).contains("vram"), "the fields are named");
    assert_eq!(run(&["gpus", "classify", "x", "--pci", "10de"]).await.status.code(), Some(2));
}
