//! Challenges of memory between running nodes. The memory is the machine's own, and everything says that it is simulated.

#![cfg(unix)]

use aitbc_node::gpu::{
    proving::{Memory, Prover, ProvingError},
    worker,
};
use aitbc_protocol::gpu::challenge::Task;
use aitbc_tests::process::{Process, ProcessBuilder, collect, question};
use serde_json::Value;
use std::fs;
use tempfile::TempDir;

/// A provider with 4 MiB to show.
async fn provider(settings: &TempDir) -> Process {
    let config = settings.path().join("config.toml");
    fs::write(&config, "network = \"local\"\n[provide]\nsimulated_memory_mib = 4\n").expect("settings");
    let config = config.display().to_string();
    let node = ProcessBuilder::new("provider", "50.1,8.7").provide().arguments(&["--config", &config]);
    let node = node.start().await;
    node.offering().await;
    node
}

async fn client(of: &Process) -> Process {
    let client = ProcessBuilder::new("client", "50.1,8.7").bootstrap(of).start().await;
    client.finds(1).await;
    client
}

#[tokio::test]
async fn what_a_provider_shows_is_in_its_offer_and_says_that_it_is_simulated() {
    let settings = tempfile::tempdir().expect("a directory");
    let mut provider = provider(&settings).await;
    let client = client(&provider).await;
    let told = client.cli(&["challenge", &provider.id.to_string()]).await;
    let (out, narrated) = (String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
    assert!(told.status.success(), "{out}\n{narrated}");
    assert!(out.contains("SIMULATED by its own word"), "{out}");
    assert!(narrated.contains("booked") && narrated.contains("checking"), "{narrated}");

    let shows = |status: &Value| status["provider"]["offer"]["shown"].as_array().is_some_and(|all| all.len() == 1);
    provider.until("offers what it showed", shows).await;
    let status = provider.cli(&["status"]).await;
    assert!(String::from_utf8_lossy(&status.stdout).contains("the offer carries 1 results"), "{status:?}");
    // Another node that has never spoken with the verifier about it reads it out of the offer.
    let third = ProcessBuilder::new("third", "50.1,8.7").bootstrap(&provider).start().await;
    third.finds(1).await;
    let found = third.cli(&["find", "--json"]).await;
    let found: Value = serde_json::from_slice(&found.stdout).expect("JSON");
    let shown = &found["candidates"][0]["shown"][0];
    assert_eq!(
        (&shown["verifier"], &shown["simulated"]),
        (&client.id.to_string().into(), &true.into()),
        "{found}"
    );
    assert_eq!(shown["bytes"], (4 << 20) / 5 * 4 / 64 * 64, "four fifths of what it claims");
    let people = third.cli(&["find"]).await;
    assert!(String::from_utf8_lossy(&people.stdout).contains("SIMULATED"));

    provider.kill().await;
    provider.restart().await;
    provider.until("offers it after a restart", shows).await;
}

#[tokio::test]
async fn jobs_come_before_challenges_and_whoever_has_nothing_says_so() {
    let settings = tempfile::tempdir().expect("a directory");
    let provider = provider(&settings).await;
    let client = client(&provider).await;
    let unknown = client.cli(&["challenge", &client.id.to_string()]).await;
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("offers nothing that is known here"));

    let mut request = question("Write the numbers from one to one hundred in words.", 200);
    request["wishes"]["provider"] = provider.id.to_string().into();
    let jobs = async {
        loop {
            assert_eq!(collect(client.job(&request).await).await.last().expect("an end")["event"], "finished");
        }
    };
    let id = provider.id.to_string();
    let arguments = ["challenge", id.as_str()];
    let busy = tokio::select! {
        () = jobs => unreachable!("it goes on"),
        told = client.cli(&arguments) => told,
    };
    assert!(!busy.status.success());
    let why = String::from_utf8_lossy(&busy.stderr).into_owned();
    assert!(why.contains("busy with jobs"), "{why}");
}

/// Every graphics adapter here, and where there is none the software one that the tests install.
#[tokio::test]
async fn the_child_proves_on_every_adapter_what_it_proves_in_the_machines_memory() {
    let binary = aitbc_tests::process::binary();
    let adapters = worker::adapters(&binary).await.expect("adapters");
    assert!(!adapters.is_empty(), "no adapter: install a Vulkan driver, such as mesa-vulkan-drivers (lavapipe)");
    let task = Task { items: 5000, lanes: 1 << 17, steps: 3 };
    let memories = std::iter::once(Memory::Machine).chain((0..adapters.len()).map(Memory::Gpu));
    let mut roots = Vec::new();
    for memory in memories {
        let mut prover = Prover::start(&binary, memory).expect("a child");
        let rate = match prover.derive([3; 32], [5; 8], task.items).await {
            Ok(rate) => rate,
            // OpenGL's limits may be below what the kernels need.
            Err(ProvingError::Failed(why)) if memory != Memory::Machine => {
                println!("{memory:?}: {why}");
                continue;
            }
            Err(error) => panic!("{memory:?}: {error}"),
        };
        assert!(rate > 1_000_000, "{memory:?}: {rate} bytes a second");
        roots.push(prover.walk([7; 8], task).await.expect("a root"));
        let opened = prover.open(vec![0, 77, (1 << 17) - 1]).await.expect("openings");
        let root = roots.last().expect("pushed");
        assert!(opened.len() == 3 && opened.iter().all(|opening| opening.is_under(root, task.lanes)));
        let other = prover.walk([7; 8], Task { items: 5001, ..task }).await;
        assert!(matches!(other, Err(ProvingError::Failed(_))), "another data set");
    }
    assert!(roots.len() > 1, "no adapter computes");
    assert!(roots.iter().all(|root| *root == roots[0]), "{roots:?}");
}

#[tokio::test]
async fn memory_is_simulated_on_networks_of_tests_alone() {
    let settings = tempfile::tempdir().expect("a directory");
    let config = settings.path().join("config.toml");
    fs::write(&config, "location = \"1,1\"\n[provide]\nsimulated_memory_mib = 4\n").expect("settings");
    let up = ["up", "--config", &config.display().to_string()];
    let told = aitbc_tests::process::run(settings.path(), &up).await;
    assert!(String::from_utf8_lossy(&told.stderr).contains("earns no trust"), "{told:?}");
}
