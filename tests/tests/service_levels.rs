//! What is promised of an answer's times, and what comes back where it was not kept: seen from the client's command line and in
//! the ledgers of both.

#![cfg(unix)]

use aitbc_tests::{
    Process, ProcessBuilder,
    desktop::Desktop,
    eventually,
    openai::Server,
    process::{MODEL, PATIENCE, events, question, signal},
};
use serde_json::Value;
use std::time::Duration;

/// What the two sides say comes back, once both say the same and more than nothing.
async fn given_back(provider: &Process, client: &Process) -> u64 {
    eventually("both ledgers set the same sum off", PATIENCE, || async {
        let totals = |status: Value, key: &str| status["totals"][key].as_u64();
        let given = totals(provider.get("status").await, "given_back");
        let got = totals(client.get("status").await, "got_back");
        given.filter(|given| *given > 0 && Some(*given) == got)
    })
    .await
}

#[tokio::test]
async fn a_provider_that_is_late_gives_money_back() {
    let provider = ProcessBuilder::new("provider", "48.85,2.35").provide().relay().start().await;
    let client = ProcessBuilder::new("client", "51.5,-0.1").bootstrap(&provider).start().await;
    provider.offering().await;
    client.finds(1).await;

    // In time: nothing comes back. A class that leaves time, for a machine that runs many tests.
    let output = client.cli(&["run", MODEL, "Say yes.", "--max-tokens", "8", "--latency-class", "economy"]).await;
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.contains("service: kept"), "{told}");

    let why = provider.cli(&["--json", "doctor", "--provider"]).await;
    let why: Value = serde_json::from_slice(&why.stdout).expect("JSON");
    assert_eq!(why["schema"], "aitbc.doctor.provider/1");
    assert!(why["competition"]["requests"]["quoted"].as_u64() >= Some(1), "{why}");
    assert_eq!(why["competition"]["comparison"]["neighbours"], 0, "{why}");
    let nobody = client.cli(&["doctor", "--provider"]).await;
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("aitbc up --provide"), "a client is told what to do");

    // The prompt takes longer to read than it takes to stop the engine.
    let mut request = question(&"Count the words of this line. ".repeat(180), 24);
    request["wishes"]["latency_class"] = "fast".into();
    let mut updates = client.job(&request).await;
    let mut all = Vec::new();
    while let Ok(Some(update)) = tokio::time::timeout(PATIENCE, updates.recv()).await {
        if update["event"] == "started" {
            let engines = provider.children();
            assert!(!engines.is_empty(), "a model is loaded");
            for engine in &engines {
                signal(*engine, "STOP");
            }
            // This is the fault itself: for as long no token comes.
            tokio::time::sleep(Duration::from_secs(5)).await;
            for engine in &engines {
                signal(*engine, "CONT");
            }
        }
        all.push(update);
    }
    assert_eq!(all.last().expect("an end")["event"], "finished", "{all:?}");
    let quote = &events(&all, "quoted")[0]["quote"];
    let allowed = quote["terms"]["penalty_from_ms"].as_u64().expect("terms");
    let receipt = &events(&all, "receipt")[0];
    let (total, penalty) = (receipt["receipt"]["total"].as_u64(), receipt["receipt"]["penalty"].as_u64());
    let took = receipt["receipt"]["timings"]["first_token_ms"].as_u64().expect("a time");
    assert!(took >= 5_000 && took > allowed, "{took} ms, {allowed} allowed");
    let (total, penalty) = (total.expect("a sum"), penalty.expect("a sum"));
    assert!(penalty >= total / 2 && penalty <= total, "{penalty} of {total}");
    let checks = receipt["checks"].as_array().expect("checks");
    let service = checks.iter().find(|check| check["name"] == "service").expect("a verdict");
    assert_eq!(service["passed"], true);
    assert!(service["detail"].as_str().is_some_and(|detail| detail.contains("first token after")), "{service}");

    assert_eq!(given_back(&provider, &client).await, penalty);
    let shown = String::from_utf8(client.cli(&["status"]).await.stdout).expect("text");
    assert!(shown.contains(&format!("got back      {penalty} uc")), "{shown}");
    for (node, peer) in [(&provider, &client), (&client, &provider)] {
        exported(node, peer, penalty).await;
    }

    // The file proves it to others.
    let id = receipt["id"].as_str().expect("an id");
    let file = client.home.path().join("receipt.json");
    std::fs::write(&file, client.cli(&["receipts", "show", id]).await.stdout).expect("written");
    let verified = client.cli(&["receipts", "verify", file.to_str().expect("UTF-8")]).await;
    let text = String::from_utf8_lossy(&verified.stdout).into_owned();
    assert!(verified.status.success() && text.contains("service: first token after"), "{text}");
}

/// The ledger as a file tells of what came back, and asks for as much as `ledger show` and `earnings` do.
async fn exported(node: &Process, peer: &Process, penalty: u64) {
    let peer = peer.id.to_string();
    let file = String::from_utf8(node.cli(&["ledger", "export"]).await.stdout).expect("text");
    let lines: Vec<Value> = file.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let of_kind = |kind: &str| lines.iter().filter(|line| line["line"] == kind).cloned().collect::<Vec<Value>>();
    let refunded: u64 = of_kind("job").iter().filter_map(|job| job["refunded"].as_u64()).sum();
    let accounts = of_kind("account");
    let account = accounts.iter().find(|account| account["peer"] == peer.as_str()).expect("an account");
    assert_eq!((refunded, account["refunded"].as_u64()), (penalty, Some(penalty)), "{file}");
    let shown = node.cli(&["--json", "ledger", "show", &peer]).await;
    let shown: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    for name in ["promised", "settled", "refunded", "held", "forfeited", "open", "payable"] {
        assert_eq!(account[name], shown["accounts"][0][name], "{name}: {account}");
    }
    let earnings = node.cli(&["--json", "earnings"]).await;
    let earnings: Value = serde_json::from_slice(&earnings.stdout).expect("JSON");
    let side = if account["direction"] == "earned" { "sold" } else { "bought" };
    assert_eq!(earnings[side]["refunded"], penalty, "{earnings}");
}

/// The file of the client's receipt that gives `penalty` back, verified offline, in words.
async fn verified(client: &Process, penalty: u64) -> String {
    let receipts = client.get("receipts").await;
    let mut receipts = receipts["receipts"].as_array().expect("receipts").iter();
    let held = receipts.find(|held| held["receipt"]["penalty"].as_u64() == Some(penalty)).expect("its receipt");
    let file = client.home.path().join("receipt.json");
    let id = held["id"].as_str().expect("an id");
    std::fs::write(&file, client.cli(&["receipts", "show", id]).await.stdout).expect("written");
    let verified = client.cli(&["receipts", "verify", file.to_str().expect("UTF-8")]).await;
    let text = String::from_utf8_lossy(&verified.stdout).into_owned();
    assert!(verified.status.success(), "{text}");
    text
}

#[tokio::test]
async fn a_provider_that_gets_too_hot_is_made_up_for_and_gives_money_back() {
    let cloud = Server::start().await;
    let door = ProcessBuilder::new("door", "50.1,8.7").relay().start().await;
    let desktops = [Desktop::default(), Desktop::default()];
    let settings = |desktop: &Desktop| {
        let config = desktop.root().join("config.toml");
        let tree = desktop.root().display();
        std::fs::write(&config, format!("[power]\nsimulated_sensors = \"{tree}\"\n")).expect("settings");
        config.display().to_string()
    };
    let provide = |name, place, desktop| {
        let settings = settings(desktop);
        let node = ProcessBuilder::new(name, place).provide().bootstrap(&door);
        async move { node.arguments(&["--config", &settings]).start().await }
    };
    let (paris, brussels) = tokio::join!(
        provide("paris", "48.85,2.35", &desktops[0]),
        provide("brussels", "50.85,4.35", &desktops[1])
    );
    let client = ProcessBuilder::new("client", "51.5,-0.1").bootstrap(&door);
    let client = client.start_in(cloud.as_cloud("if_no_edge", 2_000)).await;
    tokio::join!(paris.offering(), brussels.offering());
    client.finds(2).await;

    let works = |status: &Value| status["provider"]["running"][0]["tokens"].as_u64() > Some(5);
    let heat = async {
        let hot = tokio::select! {
            _ = paris.until("is at work", works) => 0,
            _ = brussels.until("is at work", works) => 1,
        };
        desktops[hot].degrees(106);
        hot
    };
    let question = "Write the numbers from one to fifty in words.";
    // A class that leaves time, so that lateness is not what the verdict names.
    let question =
        ["run", MODEL, question, "--max-tokens", "400", "--temperature", "0", "--latency-class", "economy"];
    let (hot, output) = tokio::join!(heat, client.cli(&question));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && told.contains("going on elsewhere after"), "{told}");
    assert!(told.contains("the provider stopped the job"), "{told}");
    let hot_one = if hot == 0 { &paris } else { &brussels };
    let back = given_back(hot_one, &client).await;
    let text = verified(&client, back).await;
    assert!(text.contains("service: the provider stopped the job"), "{text}");

    // With the other one hot as well, the cloud answers.
    desktops[1 - hot].degrees(106);
    let other = if hot == 0 { &brussels } else { &paris };
    other.until("offers nothing", |status| status["provider"]["offer"].is_null()).await;
    let output = client.cli(&["run", MODEL, "Where are you?", "--max-tokens", "20"]).await;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && told.contains("no provider is left"), "{told}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "from the server\n");
}

#[tokio::test]
async fn a_provider_that_is_slow_to_begin_gets_company() {
    let door = ProcessBuilder::new("door", "50.1,8.7").relay().start().await;
    let provide = |name, place| ProcessBuilder::new(name, place).provide().bootstrap(&door).start();
    let (paris, brussels) = tokio::join!(provide("paris", "48.85,2.35"), provide("brussels", "50.85,4.35"));
    let client = ProcessBuilder::new("client", "51.5,-0.1").bootstrap(&door).start().await;
    tokio::join!(paris.offering(), brussels.offering());
    client.finds(2).await;

    let mut updates = client.job(&question(&"Count the words of this line. ".repeat(100), 24)).await;
    let (mut all, mut stopped) = (Vec::new(), Vec::new());
    while let Ok(Some(update)) = tokio::time::timeout(PATIENCE, updates.recv()).await {
        if update["event"] == "started" && stopped.is_empty() {
            let slow = if update["provider"] == paris.id.to_string() { &paris } else { &brussels };
            stopped = slow.children();
            for engine in &stopped {
                signal(*engine, "STOP");
            }
        }
        if update["event"] == "delta" {
            for engine in &stopped {
                signal(*engine, "CONT");
            }
        }
        all.push(update);
    }
    assert_eq!(all.last().expect("an end")["event"], "finished", "{all:?}");
    let (hedged, outrun) = (events(&all, "hedged"), events(&all, "outrun"));
    assert_eq!((hedged.len(), outrun.len()), (1, 1), "{all:?}");
    assert_eq!(hedged[0]["late"], events(&all, "started")[0]["provider"]);
    assert_eq!((&outrun[0]["provider"], &outrun[0]["by"]), (&hedged[0]["late"], &hedged[0]["beside"]));
    eventually("what the client spent is what both have earned", PATIENCE, || async {
        let sum = |status: Value, key: &str| status["totals"][key].as_u64().expect("a sum");
        let spent = sum(client.get("status").await, "spent");
        let earned = sum(paris.get("status").await, "earned") + sum(brussels.get("status").await, "earned");
        (spent > 0 && spent == earned).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_provider_that_is_cut_off_is_made_up_for_and_gives_money_back_once_it_returns() {
    let cloud = Server::start().await;
    let door = ProcessBuilder::new("door", "50.1,8.7").relay().start().await;
    let provide = |name, place| ProcessBuilder::new(name, place).provide().bootstrap(&door).start();
    let (paris, brussels) = tokio::join!(provide("paris", "48.85,2.35"), provide("brussels", "50.85,4.35"));
    let client = ProcessBuilder::new("client", "51.5,-0.1").bootstrap(&door);
    let client = client.start_in(cloud.as_cloud("if_no_edge", 2_000)).await;
    tokio::join!(paris.offering(), brussels.offering());
    client.finds(2).await;

    let mut updates = client.job(&question("Write the numbers from one to fifty in words.", 150)).await;
    let mut providers = [paris, brussels];
    let (mut all, mut cut_off) = (Vec::new(), None);
    while let Ok(Some(update)) = tokio::time::timeout(PATIENCE, updates.recv()).await {
        all.push(update);
        let deltas = events(&all, "delta");
        let tokens: usize = deltas.iter().map(|delta| delta["tokens"].as_array().map_or(0, Vec::len)).sum();
        // The first window is paid for.
        if tokens >= 70 && cut_off.is_none() {
            let working = events(&all, "started")[0]["provider"].clone();
            let working = providers.iter().position(|provider| working == provider.id.to_string());
            let working = working.expect("one of the two");
            providers[working].kill().await;
            cut_off = Some(working);
        }
    }
    let cut_off = cut_off.expect("a window of the answer");
    assert_eq!(all.last().expect("an end")["event"], "finished", "{all:?}");
    assert_eq!(events(&all, "failed_over").len(), 1, "{all:?}");
    let missing = events(&all, "receipt_missing")[0]["paid"].as_u64().expect("a sum");

    // It lost the job without a word: half of what it was paid comes back.
    providers[cut_off].restart().await;
    let back = given_back(&providers[cut_off], &client).await;
    assert!(back >= missing / 2 && back <= missing, "{back} of {missing}");
    let text = verified(&client, back).await;
    assert!(text.contains("service: the provider lost the job without a word"), "{text}");
    let account = client.cli(&["ledger", "show", &providers[cut_off].id.to_string()]).await;
    let account = String::from_utf8_lossy(&account.stdout).into_owned();
    assert!(
        account.contains(&format!("0.{back:06} credits given back")) && account.contains("are held until"),
        "{account}"
    );

    // With both away the cloud answers, and says so.
    for provider in &mut providers {
        provider.kill().await;
    }
    let output = client.cli(&["run", MODEL, "Where are you?", "--max-tokens", "20"]).await;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && told.contains("no provider is left"), "{told}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "from the server\n");
}
