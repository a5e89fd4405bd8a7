//! A provider dies in mid-answer: the answer goes on elsewhere without a seam, and each is paid for what it delivered.

use aitbc_tests::{
    Process, ProcessBuilder,
    openai::write_settings,
    process::{PATIENCE, answer, collect, events, question},
};

async fn provider(name: &str, location: &str, bootstrap: &Process) -> Process {
    ProcessBuilder::new(name, location).provide().bootstrap(bootstrap).start().await
}

#[tokio::test]
async fn an_answer_survives_its_provider() {
    let bootstrap = ProcessBuilder::new("bootstrap", "50.1,8.7").relay().start().await;
    let (paris, brussels) =
        tokio::join!(provider("paris", "48.85,2.35", &bootstrap), provider("brussels", "50.85,4.35", &bootstrap));
    // On a slow machine the second one would be asked at once.
    let home = write_settings(tempfile::tempdir().expect("a directory"), "[client]\nhedge = false\n");
    let client = ProcessBuilder::new("client", "51.5,-0.1").bootstrap(&bootstrap).start_in(home).await;
    tokio::join!(paris.offering(), brussels.offering());
    client.finds(2).await;

    let request = question("Write the numbers from one to fifty in words.", 150);
    let whole = answer(&collect(client.job(&request).await).await);
    assert!(whole.len() > 200, "an unbroken answer: {whole}");

    let mut updates = client.job(&request).await;
    let mut all = Vec::new();
    let mut first = None;
    let mut providers = [Some(paris), Some(brussels)];
    while let Ok(Some(update)) = tokio::time::timeout(PATIENCE, updates.recv()).await {
        let tokens: usize =
            events(&all, "delta").iter().map(|delta| delta["tokens"].as_array().map_or(0, Vec::len)).sum();
        if update["event"] == "started" && first.is_none() {
            first = update["provider"].as_str().map(str::to_owned);
        }
        all.push(update);
        if tokens >= 70
            && let Some(victim) = providers.iter_mut().find_map(|slot| {
                let named = slot.as_ref().is_some_and(|process| Some(process.id.to_string()) == first);
                if named { slot.take() } else { None }
            })
        {
            let mut victim = victim;
            victim.kill().await;
        }
    }
    let last = all.last().expect("updates");
    assert_eq!(last["event"], "finished", "{last}");
    assert_eq!(events(&all, "failed_over").len(), 1, "one failover");
    assert_eq!(last["completion_tokens"], 150, "{last}");
    // Two engines may differ in the last bits where two tokens are nearly as likely; up to the seam they are one text.
    let broken = answer(&all);
    let kept = events(&all, "failed_over")[0]["kept"].as_u64().expect("kept tokens");
    assert!(kept >= 64, "kept {kept} tokens");
    let common = whole.chars().zip(broken.chars()).take_while(|(a, b)| a == b).count();
    let before_seam =
        events(&all[..all.iter().position(|u| u["event"] == "failed_over").expect("a seam")], "delta")
            .iter()
            .map(|delta| delta["text"].as_str().map_or(0, |text| text.chars().count()))
            .sum::<usize>();
    assert!(common >= before_seam, "differs before the seam: {common} < {before_seam}\n{whole}\n---\n{broken}");

    // The dead one was paid for the windows acknowledged, and its missing receipt is recorded.
    let missing = events(&all, "receipt_missing");
    assert_eq!(missing.len(), 1);
    let paid_first = missing[0]["paid"].as_u64().expect("a sum");
    assert!(paid_first > 0, "paid for what it delivered");
    let receipts = events(&all, "receipt");
    assert_eq!(receipts.len(), 1, "the second one's receipt");
    let paid_second = receipts[0]["receipt"]["total"].as_u64().expect("a sum");
    assert_eq!(last["paid"].as_u64(), Some(paid_first + paid_second));
    let survivor = providers.iter().flatten().next().expect("one survives");
    // The first, unbroken job was paid too; only the survivor can be asked.
    let jobs = survivor.get("jobs?limit=10").await;
    let continued = jobs["jobs"]
        .as_array()
        .expect("jobs")
        .iter()
        .any(|job| job["paid"].as_u64() == Some(paid_second) && job["state"] == "completed");
    assert!(continued, "{jobs}");
}
