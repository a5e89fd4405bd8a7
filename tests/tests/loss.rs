//! Jobs over ways that lose packets and take long. Each test measures first that they do.

#![cfg(target_os = "linux")]

use aitbc_tests::{
    lab::{
        Access, Conditions, Lab, probe, skipped,
        town::{BOTH, Resident, Town, reachable},
    },
    process::{collect, question},
};
use futures::{StreamExt, stream};
use std::time::Duration;

/// Jobs at a time: as many quotes as one client may have open.
const AT_A_TIME: usize = 2;
/// How long each may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks `jobs` times over a way with a round trip of 300 ms that loses this part each way: at least so many are answered.
async fn answered(loss: f64, jobs: usize, least: usize) {
    let Some(lab) = Lab::or_skip() else { return };
    let town = Town::start(&lab, 1, BOTH).await;
    let provider = town.provider("provider", lab.home("provider", Access::PortRestricted)).await;
    let conditions = Conditions { delay: Duration::from_millis(150), loss, ..Conditions::default() };
    let home = lab.home_over("client", Access::PortRestricted, conditions, 3);
    let home = match home {
        Ok(home) => home,
        Err(error) => return skipped(&error),
    };

    let measured = probe::echoes(&home.host, &town.third.home.host, 1000).await;
    println!("{measured:?}");
    assert!(measured.fastest >= Duration::from_millis(300), "{measured:?}");
    for lost in [measured.lost_there(), measured.lost_back()] {
        assert!((loss - 0.05..loss + 0.05).contains(&lost), "{lost} is not {loss}: {measured:?}");
    }

    let client = town.client("client", home).await;
    reachable(&provider.node, "private").await;
    client.node.finds(1).await;
    let answers = stream::iter(0..jobs).map(|number| answer(&client, &provider, number));
    let answers: Vec<bool> = answers.buffer_unordered(AT_A_TIME).collect().await;
    let carried = client.home.wire().expect("a way of its own").carried();
    assert!(carried.lost as f64 > 0.5 * loss * carried.arrived as f64, "the losses lasted: {carried:?}");
    let answered = answers.into_iter().filter(|answered| *answered).count();
    assert!(answered >= least, "{answered} of {jobs}");
}

async fn answer(client: &Resident, provider: &Resident, number: usize) -> bool {
    let mut request = question(&format!("Write the number {number} in words."), 24);
    request["wishes"]["provider"] = provider.node.id.to_string().into();
    request["wishes"]["latency_budget_ms"] = 10_000.into();
    let start = std::time::Instant::now();
    let ended = tokio::time::timeout(PATIENCE, async { collect(client.node.job(&request).await).await }).await;
    let last = ended.ok().and_then(|updates| updates.last().cloned()).unwrap_or_default();
    println!("job {number}: {} after {:?}: {last}", last["event"], start.elapsed());
    last["event"] == "finished"
}

#[tokio::test]
async fn every_job_is_answered_where_one_of_ten_packets_is_lost() {
    answered(0.1, 50, 50).await;
}

#[tokio::test]
async fn most_jobs_are_answered_where_three_of_ten_packets_are_lost() {
    answered(0.3, 10, 8).await;
}
