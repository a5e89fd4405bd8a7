//! Private jobs between real processes: what comes out, what goes over the network, and what a provider can find of it.

use aitbc_crypto::fhe::{
    Package, Profile,
    network::{Activation, Feature, Function, Inputs, Layer, Mode, Network, Outputs, Row},
};
use aitbc_tests::{
    Process, ProcessBuilder, eventually,
    process::{self, PATIENCE, collect, events},
};
use serde_json::{Value, json};
use std::{
    io::{BufRead, Read, Seek},
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// A directory of models, filled by the command line.
struct Models {
    directory: TempDir,
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/private").join(name)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

impl Models {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a temporary directory") }
    }

    fn store(&self) -> PathBuf {
        self.directory.path().join("models")
    }

    async fn cli(&self, arguments: &[&str]) -> Value {
        let store = self.store();
        let all = [&["--json", "--models-dir", text(&store)][..], arguments].concat();
        let output = process::run(self.directory.path(), &all).await;
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// Compiles a model of the fixtures and deploys it; the compiled file.
    async fn compile(&self, name: &str, onnx: &str, calibration: &str) -> PathBuf {
        let (out, onnx) = (self.directory.path().join(format!("{name}.fhe")), fixture(onnx));
        let calibration = fixture(calibration);
        let flags = ["--calibration", text(&calibration), "--out", text(&out)];
        let report = self.cli(&[&["private", "compile", text(&onnx)][..], &flags].concat()).await;
        assert_eq!((&report["name"], &report["schema"]), (&json!(name), &json!("aitbc.private.compile/1")));
        self.deploy(name, &out).await;
        out
    }

    async fn deploy(&self, name: &str, file: &Path) {
        let deployed = self.cli(&["models", "deploy", text(file), "--name", name]).await;
        assert_eq!((&deployed["model"], &deployed["kind"]), (&json!(name), &json!("private")));
    }

    /// Writes a package and deploys it.
    async fn write(&self, name: &str, package: &Package) {
        let file = self.directory.path().join(format!("{name}.fhe"));
        std::fs::write(&file, package.to_bytes().expect("a network that can be computed")).expect("written");
        self.deploy(name, &file).await;
    }

    fn provider(&self, name: &str, location: &str, models: &str) -> ProcessBuilder {
        let store = self.store();
        ProcessBuilder::new(name, location).arguments(&[
            "--provide",
            "--model",
            models,
            "--models-dir",
            text(&store),
            "--threads",
            "1",
        ])
    }
}

/// The rows of a CSV file with their last column.
fn rows(name: &str) -> Vec<(Vec<f64>, String)> {
    let text = std::fs::read_to_string(fixture(name)).expect("a fixture");
    let row = |line: &str| {
        let mut values: Vec<&str> = line.split(',').collect();
        let label = values.pop().expect("a label").to_owned();
        (values.iter().map(|value| value.parse().expect("a number")).collect(), label)
    };
    text.lines().skip(1).map(row).collect()
}

async fn ask(client: &Process, model: &str, input: &[f64], more: Value) -> Vec<Value> {
    let mut request = json!({"model": model, "input": input});
    for (name, value) in more.as_object().expect("an object") {
        request[name] = value.clone();
    }
    collect(client.updates("private", &request).await).await
}

fn answer(updates: &[Value]) -> &Value {
    let last = updates.last().expect("updates");
    assert_eq!(last["event"], "answer", "{last}");
    last
}

async fn knows(client: &Process, model: &str, providers: usize) {
    let what = format!("{} knows {providers} providers of {model}", client.name);
    eventually(&what, PATIENCE, || async {
        let output = client.cli(&["--json", "find", model]).await;
        let found: Value = serde_json::from_slice(&output.stdout).ok()?;
        (found["candidates"].as_array()?.len() >= providers).then_some(())
    })
    .await;
}

/// The one secret key of a client, without version and profile.
fn secret(client: &Process) -> Vec<u8> {
    let directory = data(client).join("private");
    let keys = std::fs::read_dir(directory).expect("a directory of keys").filter_map(Result::ok);
    let mut keys: Vec<PathBuf> =
        keys.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "key")).collect();
    assert_eq!(keys.len(), 1, "{keys:?}");
    let bytes = std::fs::read(keys.remove(0)).expect("a key");
    assert_eq!(bytes.len(), 34);
    bytes[2..].to_vec()
}

fn data(process: &Process) -> PathBuf {
    process.home.path().join(".local/share/aitbc")
}

/// Whether any half of a secret is in `bytes`.
fn holds(bytes: &[u8], secret: &[u8]) -> bool {
    let (first, second) = secret.split_at(secret.len() / 2);
    [first, second].iter().any(|half| contains(bytes, half))
}

/// Whether `part` is in `bytes`. Memory is mostly zeros: what is looked for is a byte that is none.
fn contains(bytes: &[u8], part: &[u8]) -> bool {
    let place = part.iter().position(|byte| ![0, 0xff].contains(byte)).expect("not of zeros only");
    let mut rest = bytes;
    while rest.skip_until(part[place]).is_ok_and(|skipped| skipped > 0) {
        let at = bytes.len() - rest.len() - 1;
        if at.checked_sub(place).is_some_and(|start| bytes[start..].starts_with(part)) {
            return true;
        }
    }
    false
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    entries
        .flat_map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => files(&entry.path()),
            Ok(kind) if kind.is_file() => vec![entry.path()],
            _ => Vec::new(),
        })
        .collect()
}

/// Searches the memory of a process; how many bytes were looked at.
#[cfg(target_os = "linux")]
fn search_memory(process: &Process, secret: &[u8]) -> (u64, bool) {
    let pid = process.pid();
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("maps of a child");
    let mut memory = std::fs::File::open(format!("/proc/{pid}/mem")).expect("memory of a child");
    let (mut looked, mut found) = (0, false);
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (from, rest) = line.split_once('-').expect("a range");
        let to = rest.split(' ').next().expect("its end");
        let parse = |text: &str| u64::from_str_radix(text, 16).expect("hexadecimal");
        let (from, to) = (parse(from), parse(to));
        let mut bytes = Vec::new();
        if memory.seek(std::io::SeekFrom::Start(from)).is_err() {
            continue;
        }
        // Some regions are the kernel's own.
        let _ = (&mut memory).take(to - from).read_to_end(&mut bytes);
        looked += bytes.len() as u64;
        found |= holds(&bytes, secret);
    }
    (looked, found)
}

#[tokio::test]
async fn a_digit_is_read_by_a_provider_that_cannot_see_it() {
    let models = Models::new();
    models.compile("digits", "digits-mlp.onnx", "digits-calibration.csv").await;
    models.compile("line", "digits-linear.onnx", "digits-calibration.csv").await;
    let provider = models.provider("provider", "48.85,2.35", "digits,line").relay().start().await;
    let client = ProcessBuilder::new("client", "51.5,-0.1").bootstrap(&provider).start().await;
    let both =
        |status: &Value| status["provider"]["offer"]["models"].as_array().is_some_and(|models| models.len() == 2);
    provider.until("offers both", both).await;
    knows(&client, "digits", 1).await;
    knows(&client, "line", 1).await;

    // The command line, from a file to an answer with a receipt.
    let tests = rows("digits-test.csv");
    let file = client.home.path().join("digit.json");
    std::fs::write(&file, json!(tests[0].0).to_string()).expect("written");
    let output = client.cli(&["--json", "private", "run", "digits", "--input", text(&file)]).await;
    let document: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let first = document["updates"].as_array().expect("updates").clone();
    assert_eq!(events(&first, "key_made").len(), 1);
    let sent = events(&first, "key_sent");
    assert_eq!(sent.last().map(|step| step["sent"] == step["total"]), Some(true), "{sent:?}");
    let receipt = document["answer"]["receipts"][0].as_str().expect("a receipt").to_owned();

    // It says what the model says, and the second job sends no key.
    let mut right = 0;
    for (values, label) in &tests[..4] {
        let updates = ask(&client, "digits", values, json!({})).await;
        assert!(events(&updates, "key_sent").is_empty() && events(&updates, "key_made").is_empty());
        assert_eq!(events(&updates, "key_held").len(), 1);
        let answer = answer(&updates);
        let class = answer["class"].as_u64().expect("a class") as usize;
        let named = answer["labels"][class].as_str().map_or_else(|| class.to_string(), str::to_owned);
        right += usize::from(named == *label);
        assert!(answer["paid"].as_u64().is_some_and(|paid| paid > 0), "{answer}");
    }
    assert!(right >= 3, "{right} of 4 digits were read");

    // A model without bootstraps needs no key; programs ask over HTTP.
    let url = client.url("v1/private/line");
    let response = client.http().post(&url).json(&json!({"input": tests[0].0})).send().await.expect("an answer");
    assert!(response.status().is_success());
    let document: Value = response.json().await.expect("JSON");
    assert_eq!(document["output"].as_array().map(Vec::len), Some(10), "{document}");
    let response = client.http().post(&url).json(&json!({"input": [1.0]})).send().await.expect("an answer");
    assert_eq!(response.status().as_u16(), 400);
    let refused: Value = response.json().await.expect("JSON");
    assert!(refused["error"]["message"].as_str().is_some_and(|why| why.contains("takes 64")), "{refused}");

    // Receipts verify from their files alone, and name key, input and answer.
    let file: Value = client.get(&format!("receipts/{receipt}")).await;
    let path = client.home.path().join("receipt.json");
    std::fs::write(&path, file.to_string()).expect("written");
    let output = client.cli(&["receipts", "verify", text(&path)]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    // Nothing of the client's secret is with the provider: not on its disk, not in its memory.
    let secret = secret(&client);
    let kept = files(&data(&provider).join("evaluation-keys"));
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert_eq!(kept[0].metadata().expect("a file").len() as usize, Profile::evaluation_key_bytes(profile(&first)));
    for file in files(provider.home.path()) {
        let bytes = std::fs::read(&file).unwrap_or_default();
        assert!(!holds(&bytes, &secret), "{}", file.display());
    }
    #[cfg(target_os = "linux")]
    {
        let (looked, found) = search_memory(&provider, &secret);
        assert!(looked > 10 << 20, "{looked} bytes of memory were looked at");
        assert!(!found, "the provider's memory holds the client's secret key");
        // The same search finds what is there.
        assert!(search_memory(&provider, &client.id.0).1, "the client's public key is in the provider's memory");
    }
    let log = std::fs::read_to_string(client.home.path().join("log")).expect("a log");
    assert!(!holds(log.as_bytes(), &secret));

    // What people see of it.
    let status = provider.cli(&["status"]).await;
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.contains("private, ") && status.contains("tfhe digits"), "{status}");
    let found = client.cli(&["find", "digits"]).await;
    let found = String::from_utf8_lossy(&found.stdout).into_owned();
    assert!(found.contains("computes on encrypted values"), "{found}");

    // A private model takes nothing that can be read, and another client's key is of no use.
    let question = process::question("Which digit is this?", 5);
    let mut ordinary = question.clone();
    ordinary["spec"]["model"] = json!("digits");
    let updates = collect(client.job(&ordinary).await).await;
    let last = updates.last().expect("updates");
    assert!(last.to_string().contains("encrypted values only"), "{last}");
    let thief = ProcessBuilder::new("thief", "51.5,-0.1").bootstrap(&provider).start().await;
    knows(&thief, "digits", 1).await;
    let digest = kept[0].file_name().and_then(|name| name.to_str()).expect("named by its digest");
    let described = events(&first, "described")[0];
    let input_bytes = 16 + 8 * 64;
    let stolen = json!({
        "spec": {
            "model": "digits", "weights": described["weights"], "max_tokens": described["bootstraps"],
            "input": {"sealed": {
                "profile": described["profile"], "evaluation_key": digest, "values": 64,
                "ciphertext": "00".repeat(input_bytes),
            }},
            "sampling": {"temperature": 0.0, "top_p": 1.0, "seed": 0}, "stop": [], "prefix": [],
        },
        "wishes": {"remote_only": true},
    });
    let updates = collect(thief.job(&stolen).await).await;
    let last = updates.last().expect("updates");
    assert!(last.to_string().contains("does not hold this client's evaluation key"), "{last}");
    let mut short = stolen;
    short["spec"]["input"]["sealed"]["ciphertext"] = json!("00".repeat(input_bytes - 1));
    let last = collect(client.job(&short).await).await.pop().expect("updates");
    assert!(last.to_string().contains("bytes, the model's have"), "{last}");
}

fn profile(updates: &[Value]) -> Profile {
    let name = events(updates, "described")[0]["profile"].as_str().expect("a name");
    Profile::parse(name).expect("a profile")
}

/// `count` functions of two values, then one sum of them.
fn package(name: &str, count: usize, weight: i16) -> Package {
    package_of(name, count, weight, Profile::Fast)
}

fn package_of(name: &str, count: usize, weight: i16, profile: Profile) -> Package {
    let activation = Activation { function: Function::Relu, scale: 1.0, step: 1.0 };
    let hidden = (0..count).map(|_| Row { bias: 0.0, weights: vec![(0, 1)] }).collect();
    let network = Network {
        mode: Mode::Approximate,
        inputs: Inputs { features: vec![Feature { offset: 0.0, gain: 1.0 }; 2], low: -2.0, high: 2.0 },
        layers: vec![
            Layer { rows: hidden, range: 3.0, activation: Some(activation) },
            Layer { rows: vec![Row { bias: 0.0, weights: vec![(0, weight)] }], range: 5.0, activation: None },
        ],
        outputs: Outputs { scale: 1.0, labels: Vec::new() },
    };
    Package { name: name.to_owned(), profile, network }
}

/// What a provider has seen of jobs: everything that its books and its counters tell.
async fn seen(provider: &Process) -> (Vec<Value>, Vec<String>) {
    let jobs = provider.get("jobs?limit=10").await;
    let jobs = jobs["jobs"].as_array().expect("jobs").iter().map(|job| {
        let keep = ["side", "state", "finish", "failure", "tokens", "paid"];
        Value::Object(keep.iter().map(|name| ((*name).to_owned(), job[*name].clone())).collect())
    });
    let metrics = provider.http().get(provider.url("metrics")).send().await.expect("metrics");
    let metrics = metrics.text().await.expect("text");
    let counted = |line: &&str| line.starts_with("jobs_") && !line.contains("seconds") && !line.contains("bucket");
    let counts = metrics.lines().map(|line| line.trim_start_matches("aitbc_")).filter(counted);
    (jobs.collect(), counts.map(str::to_owned).collect())
}

#[tokio::test]
async fn a_provider_sees_the_same_whether_its_answer_is_right_or_wrong() {
    let mut views = Vec::new();
    // One computes the model, the other something else under the same name: the same sizes, another answer.
    for weight in [1, -1] {
        let models = Models::new();
        models.write("same", &package("same", 70, weight)).await;
        let provider = models.provider("provider", "48.85,2.35", "same").relay().start().await;
        let client = ProcessBuilder::new("client", "51.5,-0.1").bootstrap(&provider).start().await;
        provider.offering().await;
        knows(&client, "same", 1).await;
        let mut answers = Vec::new();
        for _ in 0..2 {
            let updates = ask(&client, "same", &[1.5, 0.0], json!({})).await;
            answers.push(answer(&updates)["values"][0].as_f64().expect("a number"));
        }
        let settled =
            |status: &Value| status["totals"]["jobs_provided"] == 2 && status["totals"]["owed_to_us"] == 0;
        provider.until("is paid", settled).await;
        assert!(answers.iter().all(|answer| (answer - 1.5 * f64::from(weight)).abs() < 0.4), "{answers:?}");
        let (jobs, counts) = seen(&provider).await;
        assert!(!jobs.is_empty() && !counts.is_empty());
        views.push((jobs, counts, client.get("status").await["totals"]["spent"].clone()));
    }
    assert_eq!(views[0], views[1]);
}

#[tokio::test]
async fn a_provider_that_dies_is_followed_by_another_with_a_key_of_its_own() {
    let models = Models::new();
    models.write("long", &package("long", 1_500, 1)).await;
    let bootstrap = ProcessBuilder::new("bootstrap", "50.1,8.7").relay().start().await;
    let near = models.provider("near", "48.85,2.35", "long").bootstrap(&bootstrap).start().await;
    near.offering().await;
    let far = models.provider("far", "50.85,4.35", "long").bootstrap(&bootstrap).start().await;
    far.offering().await;
    let client = ProcessBuilder::new("client", "51.5,-0.1").bootstrap(&bootstrap).start().await;
    knows(&client, "long", 2).await;
    let request = json!({"model": "long", "input": [1.5, 0.0]});
    let mut updates = client.updates("private", &request).await;
    let mut providers = vec![near, far];
    let mut all: Vec<Value> = Vec::new();
    while let Ok(Some(update)) = tokio::time::timeout(PATIENCE, updates.recv()).await {
        let computed = update["event"] == "computed";
        all.push(update);
        if computed && providers.len() == 2 {
            let started = events(&all, "started")[0]["provider"].as_str().expect("a provider").to_owned();
            let place = providers.iter().position(|one| one.id.to_string() == started).expect("one of the two");
            providers.remove(place).kill().await;
        }
    }
    assert_eq!(events(&all, "provider_failed").len(), 1, "{:?}", all.last());
    assert_eq!(events(&all, "key_made").len(), 2, "no two providers have one key");
    let answer = answer(&all);
    assert_eq!(answer["providers"], json!([providers[0].id]));
    assert!((answer["values"][0].as_f64().expect("a number") - 1.5).abs() < 0.4, "{answer}");
}

#[tokio::test]
async fn two_providers_are_compared_and_a_lie_is_kept_at_home() {
    let (honest, liar) = (Models::new(), Models::new());
    for (models, weight) in [(&honest, 1), (&liar, -1)] {
        models.write("same", &package("same", 4, 1)).await;
        models.write("other", &package("other", 4, weight)).await;
    }
    let bootstrap = ProcessBuilder::new("bootstrap", "50.1,8.7").relay().start().await;
    let first = honest.provider("first", "48.85,2.35", "same,other").bootstrap(&bootstrap).start().await;
    let both =
        |status: &Value| status["provider"]["offer"]["models"].as_array().is_some_and(|models| models.len() == 2);
    first.until("offers both", both).await;
    let client = ProcessBuilder::new("client", "51.5,-0.1").bootstrap(&bootstrap).start().await;
    knows(&client, "same", 1).await;
    let alone = ask(&client, "same", &[1.5, 0.0], json!({"verify": "redundancy:2"})).await;
    let last = alone.last().expect("updates");
    assert_eq!((&last["event"], &last["kind"]), (&json!("private_failed"), &json!("no_provider")), "{last}");
    assert!(events(&alone, "started").is_empty(), "nobody is paid for half of it");

    let second = liar.provider("second", "50.85,4.35", "same,other").bootstrap(&bootstrap).start().await;
    second.until("offers both", both).await;
    for (model, agree) in [("same", true), ("other", false)] {
        knows(&client, model, 2).await;
        let updates = ask(&client, model, &[1.5, 0.0], json!({"verify": "redundancy:2"})).await;
        let compared = answer(&updates);
        let receipts = compared["receipts"].as_array().map(Vec::len);
        assert_eq!((&compared["agree"], receipts), (&json!(agree), Some(2)), "{compared}");
        let verdicts = std::fs::read_to_string(data(&client).join("private/verdicts.json"));
        let kept = verdicts.is_ok_and(|verdicts| verdicts.contains(&second.id.to_string()));
        assert_eq!(kept, !agree, "a contradiction is kept, and nothing else");
    }
}

#[tokio::test]
async fn a_key_goes_on_where_its_upload_broke_off() {
    let models = Models::new();
    models.write("large", &package_of("large", 2, 1, Profile::High)).await;
    let bootstrap = ProcessBuilder::new("bootstrap", "50.1,8.7").relay().start().await;
    let mut provider = models.provider("provider", "48.85,2.35", "large").bootstrap(&bootstrap).start().await;
    provider.offering().await;
    let client = ProcessBuilder::new("client", "51.5,-0.1").bootstrap(&bootstrap).start().await;
    knows(&client, "large", 1).await;

    let request = json!({"model": "large", "input": [1.5, 0.0]});
    let updates = client.updates("private", &request).await;
    let total = Profile::High.evaluation_key_bytes() as u64;
    // As soon as something of it lies on the provider's disk: the rest follows within a tenth of a second.
    let shelf = data(&provider).join("evaluation-keys");
    let size = |path: &PathBuf| path.metadata().map_or(0, |metadata| metadata.len());
    let began = tokio::time::Instant::now();
    while !files(&shelf).iter().any(|path| size(path) > 0) {
        assert!(began.elapsed() < PATIENCE, "no part of a key arrives");
        tokio::task::yield_now().await;
    }
    provider.kill().await;
    provider.restart().await;
    // The first job goes on by itself, or gives up and says so.
    let mut told = collect(updates).await;
    if told.last().is_some_and(|last| last["event"] != "answer") {
        let again = eventually("an answer", PATIENCE, || async {
            let updates = ask(&client, "large", &[1.5, 0.0], json!({})).await;
            (updates.last()?["event"] == "answer").then_some(updates)
        });
        told.extend(again.await);
    }
    assert!((answer(&told)["values"][0].as_f64().expect("a number") - 1.5).abs() < 0.4, "{told:?}");
    let sent = events(&told, "key_sent").into_iter().filter_map(|step| step["sent"].as_u64());
    let sent: Vec<u64> = sent.collect();
    // Each stream begins with where it goes on.
    let begins: Vec<u64> = sent.windows(2).filter(|pair| pair[1] <= pair[0]).map(|pair| pair[1]).collect();
    assert_eq!(sent.first(), Some(&0));
    assert!(begins.iter().any(|at| *at > 0 && *at < total), "it goes on: {sent:?} of {total}");
    assert!(begins.iter().all(|at| *at > 0), "nothing that came is sent again: {sent:?}");
}
