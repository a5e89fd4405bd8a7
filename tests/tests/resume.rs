//! A path dies in mid-answer: the answer goes on by another one from the same provider, and is the same.

use aitbc_tests::{
    Process, ProcessBuilder, Proxy, eventually,
    process::{PATIENCE, answer, collect, events, question},
};
use std::net::SocketAddr;

/// Where a node listens on TCP.
fn tcp(process: &Process) -> SocketAddr {
    let address = process.addresses.iter().find_map(|address| {
        let port = address.strip_prefix("/ip4/127.0.0.1/tcp/")?.split('/').next()?;
        format!("127.0.0.1:{port}").parse().ok()
    });
    address.expect("it listens on TCP")
}

#[tokio::test]
async fn an_answer_survives_its_path() {
    let provider = ProcessBuilder::new("provider", "48.85,2.35").relay().provide().start().await;
    provider.offering().await;
    let proxy = Proxy::start(tcp(&provider)).await;
    let port = proxy.address.port();
    let by_proxy = format!("/ip4/127.0.0.1/tcp/{port}/p2p/{}", provider.id);
    let client = ProcessBuilder::new("client", "51.5,-0.1").arguments(&["--bootstrap", &by_proxy]).start().await;
    client.finds(1).await;

    let request = question("Write the numbers from one to fifty in words.", 150);
    let whole = answer(&collect(client.job(&request).await).await);
    assert!(whole.len() > 200, "an unbroken answer: {whole}");
    let peers = client.get("peers").await;
    let through = peers["peers"][0]["address"].as_str().expect("a connected provider").to_owned();
    assert!(through.contains(&format!("/tcp/{port}")), "the path leads through the proxy: {through}");

    let mut updates = client.job(&request).await;
    let mut all = Vec::new();
    let mut proxy = Some(proxy);
    while let Ok(Some(update)) = tokio::time::timeout(PATIENCE, updates.recv()).await {
        all.push(update);
        let tokens: usize =
            events(&all, "delta").iter().map(|delta| delta["tokens"].as_array().map_or(0, Vec::len)).sum();
        if tokens >= 40
            && let Some(proxy) = proxy.take()
        {
            proxy.cut().await;
        }
    }
    let last = all.last().expect("updates");
    assert_eq!(last["event"], "finished", "{last}");
    assert_eq!(events(&all, "path_lost").len(), 1, "the path was lost");
    let resumed = events(&all, "resumed");
    assert_eq!(resumed.len(), 1, "and another one found");
    eprintln!("resumed after {} ms", resumed[0]["after_ms"]);
    assert!(events(&all, "failed_over").is_empty(), "by the same provider");
    assert_eq!(last["completion_tokens"], 150, "{last}");
    assert_eq!(answer(&all), whole, "the same answer, nothing missing and nothing twice");

    // Billed once, paid, and over on both sides.
    let receipts = events(&all, "receipt");
    assert_eq!(receipts.len(), 1);
    let total = receipts[0]["receipt"]["total"].as_u64().expect("a sum");
    assert_eq!(last["paid"].as_u64(), Some(total));
    eventually("both sides hold one sum", PATIENCE, || async {
        let (ours, theirs) = (client.get("status").await, provider.get("status").await);
        let completed = ours["totals"]["jobs_bought"] == 2 && theirs["totals"]["jobs_provided"] == 2;
        let settled = completed && theirs["totals"]["owed_to_us"] == 0;
        (settled && ours["totals"]["spent"] == theirs["totals"]["earned"]).then_some(())
    })
    .await;
    assert_eq!(provider.get("status").await["provider"]["running"].as_array().map(Vec::len), Some(0));
}

#[tokio::test]
async fn whoever_leaves_leaves_nothing_behind() {
    let provider = ProcessBuilder::new("provider", "48.85,2.35").relay().provide().start().await;
    provider.offering().await;
    let client = ProcessBuilder::new("client", "51.5,-0.1").bootstrap(&provider).start().await;
    client.finds(1).await;
    let mut updates = client.job(&question("Write a long story about a lighthouse.", 400)).await;
    while let Ok(Some(update)) = tokio::time::timeout(PATIENCE, updates.recv()).await {
        if update["event"] == "delta" {
            break;
        }
    }
    drop(updates);
    // Far below the minute for which a lost client is waited for.
    eventually("the slot is free", std::time::Duration::from_secs(20), || async {
        let status = provider.get("status").await;
        status["provider"]["running"].as_array()?.is_empty().then_some(())
    })
    .await;
}
