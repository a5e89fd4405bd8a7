//! Attestation between running nodes: what a TPM shows, what follows for jobs, and what happens when it changes.

#![cfg(unix)]

use aitbc_crypto::{SecretKey, seal};
use aitbc_node::storage::Store;
use aitbc_protocol::NetworkId;
use aitbc_tests::process::{Process, ProcessBuilder, collect, events, question};
use serde_json::Value;
use tempfile::TempDir;

/// A home with settings.
fn home(settings: &str) -> TempDir {
    let home = tempfile::tempdir().expect("a temporary directory");
    let directory = home.path().join(".config/aitbc");
    std::fs::create_dir_all(&directory).expect("made");
    std::fs::write(directory.join("config.toml"), settings).expect("written");
    home
}

async fn attest(verifier: &Process, peer: &Process) -> (Value, Option<i32>) {
    let output = verifier.cli(&["attest", "run", &peer.id.to_string(), "--json"]).await;
    let found = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    (found, output.status.code())
}

fn trusted_question(min_trust: &str) -> Value {
    let mut request = question("Say hello.", 8);
    request["wishes"]["min_trust"] = min_trust.into();
    request["wishes"]["remote_only"] = true.into();
    request
}

#[tokio::test]
async fn a_node_without_hardware_evidence_is_none_and_says_why() {
    let provider = ProcessBuilder::new("provider", "48.85,2.35")
        .provide()
        .start_in(home("[attestation]\ntpm = \"off\"\n"))
        .await;
    provider.offering().await;
    let client = ProcessBuilder::new("client", "48.9,2.3").bootstrap(&provider).start().await;
    client.finds(1).await;
    let (found, code) = attest(&client, &provider).await;
    assert_eq!(code, Some(0), "{found}");
    assert_eq!(found["schema"], "aitbc.attest/1");
    assert_eq!((&found["finding"], &found["result"]["tier"]), (&"verified".into(), &"none".into()), "{found}");
    assert_eq!(found["result"]["score"].as_u64().map(|score| score <= 1_000), Some(true));
    let missing = found["claims"]["missing"].to_string();
    assert!(missing.contains("tpm") && missing.contains("switched off"), "{missing}");

    // Its owner sees the same, by whose word, and the result verifies offline.
    let status = provider.until("shows what was found", |status| !status["attestation"]["score"].is_null()).await;
    assert_eq!(status["attestation"]["tier"], "none");
    assert_eq!(status["attestation"]["verifier"], client.id.to_string());
    let file = client.home.path().join("result.json");
    std::fs::write(&file, found.to_string()).expect("written");
    let file = file.to_str().expect("a UTF-8 path");
    let verified = client.cli(&["attest", "verify", file, "--json"]).await;
    assert!(verified.status.success(), "{verified:?}");
    let verified: Value = serde_json::from_slice(&verified.stdout).expect("JSON");
    assert_eq!(verified["results"][0]["verifier"], client.id.to_string());
    let forged = found.to_string().replace(found["ear"].as_str().expect("a token"), "a.b.c");
    std::fs::write(client.home.path().join("forged.json"), forged).expect("written");
    let forged =
        client.cli(&["attest", "verify", client.home.path().join("forged.json").to_str().expect("UTF-8")]).await;
    assert_eq!(forged.status.code(), Some(6), "{forged:?}");

    // Whoever asks for more is told what is missing and what to do.
    let updates = collect(client.job(&trusted_question("warning")).await).await;
    let failed = events(&updates, "failed");
    let message = failed[0]["message"].as_str().expect("a reason");
    assert!(message.contains("its attestation is none") && message.contains("aitbc attest run"), "{message}");
    let updates = collect(client.job(&trusted_question("none")).await).await;
    assert_eq!(events(&updates, "finished").len(), 1, "{updates:?}");
}

#[tokio::test]
async fn a_peer_that_is_not_there_is_named() {
    let client = ProcessBuilder::new("client", "48.9,2.3").start().await;
    let nobody = "12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5";
    let output = client.cli(&["attest", "run", nobody]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("nothing was found out"), "{output:?}");
    let shown = client.cli(&["attest", "show"]).await;
    assert!(String::from_utf8_lossy(&shown.stdout).contains("this node     none"), "{shown:?}");
    let unknown = client.cli(&["attest", "show", nobody]).await;
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("attest run"), "{unknown:?}");
}

/// A result is renewed by whoever signed it; here one is made old while its verifier sleeps.
#[tokio::test]
async fn a_result_is_renewed_before_its_time_is_over() {
    const HOUR_MS: u64 = 3_600_000;
    let quiet = || home("[attestation]\ntpm = \"off\"\n");
    let provider = ProcessBuilder::new("provider", "48.85,2.35").start_in(quiet()).await;
    let mut verifier = ProcessBuilder::new("verifier", "48.9,2.3").bootstrap(&provider).start_in(quiet()).await;
    verifier.connected().await;
    let (found, _) = attest(&verifier, &provider).await;
    let first = found["result"]["issued_ms"].as_u64().expect("a time");
    verifier.stop().await;
    let data = verifier.home.path().join(".local/share/aitbc");
    {
        let store = Store::open(&data.join("db")).expect("the verifier's database");
        let key = SecretKey::load(&data.join("key")).expect("its key");
        let mut record = store.attestation(&provider.id).expect("reads").expect("it was kept");
        let mut result = record.result.expect("signed").read_unverified().expect("its own");
        (result.issued_ms, result.expires_ms) = (first - 20 * HOUR_MS, first + 4 * HOUR_MS);
        let network = NetworkId::new(NetworkId::LOCAL).expect("a name");
        record.result = Some(seal(&key, &network, &result).expect("it fits"));
        store.put_attestation(&record).expect("written");
    }
    verifier.restart().await;
    let newer = |status: &Value| status["attestation"]["expires_ms"].as_u64() > Some(first + 24 * HOUR_MS);
    provider.until("was attested again, unasked", newer).await;
}

#[cfg(feature = "tpm")]
#[expect(clippy::unnecessary_debug_formatting, reason = "paths in TOML are quoted and escaped")]
mod with_a_tpm {
    use super::*;
    use aitbc_crypto::tee::tpm::EventLog;
    use aitbc_tests::swtpm::Swtpm;
    use aitbc_tests::wait::eventually;
    use std::{path::Path, time::Duration};

    const MINUTE: Duration = Duration::from_secs(60);

    /// A machine whose firmware started with Secure Boot on, as it was recorded.
    fn machine() -> (Swtpm, std::path::PathBuf) {
        let log = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/attestation/tpm/event_logs/rhel8-uefi.bin");
        let mut tpm = Swtpm::start().expect("a software TPM");
        let bytes = std::fs::read(&log).expect("a recorded log");
        let events = EventLog::parse(&bytes).expect("a log");
        tpm.restart(events.startup_locality).expect("started");
        tpm.replay(&events).expect("extended");
        (tpm, log)
    }

    fn shows(tpm: &Swtpm, log: &Path) -> TempDir {
        home(&format!("[attestation]\ntpm = {:?}\nevent_log = {log:?}\n", tpm.tcti()))
    }

    fn trusts(tpm: &Swtpm, more: &str) -> TempDir {
        let home = home("");
        let roots = home.path().join("roots.pem");
        std::fs::write(&roots, tpm.issuer_pem().expect("a certificate")).expect("written");
        let settings = format!("[attestation]\nroots = [{roots:?}]\n{more}");
        std::fs::write(home.path().join(".config/aitbc/config.toml"), settings).expect("written");
        home
    }

    #[tokio::test]
    async fn a_tpm_is_affirmed_serves_jobs_and_is_refused_once_its_pcrs_change() {
        let (tpm, log) = machine();
        let provider = ProcessBuilder::new("provider", "48.85,2.35").provide().start_in(shows(&tpm, &log)).await;
        provider.offering().await;
        let client =
            ProcessBuilder::new("client", "48.9,2.3").bootstrap(&provider).start_in(trusts(&tpm, "")).await;
        client.finds(1).await;
        // A second client believes the first, and never verifies anything itself.
        let believer = home(&format!("[client]\nverifiers = [\"{}\"]\n", client.id));
        let believer = ProcessBuilder::new("believer", "48.8,2.4").bootstrap(&provider).start_in(believer).await;
        believer.finds(1).await;
        // A third believes nobody.
        let stranger = ProcessBuilder::new("stranger", "48.7,2.5").bootstrap(&provider).start().await;
        stranger.finds(1).await;
        let (found, code) = attest(&stranger, &provider).await;
        assert_eq!((&found["finding"], code), (&"failed".into(), Some(6)), "its CA is nobody's: {found}");
        assert!(found["reason"].as_str().is_some_and(|why| why.contains("root")), "{found}");

        let (found, code) = attest(&client, &provider).await;
        assert_eq!(code, Some(0), "{found}");
        assert_eq!(
            (&found["finding"], &found["result"]["tier"]),
            (&"verified".into(), &"affirming".into()),
            "{found}"
        );
        let updates = collect(client.job(&trusted_question("affirming")).await).await;
        assert_eq!(events(&updates, "finished").len(), 1, "{updates:?}");
        // The offer carries the result to those who believe its signer.
        let affirmed = |offers: &Value| offers.to_string().contains("attested");
        hears(&believer, affirmed).await;
        let updates = collect(believer.job(&trusted_question("affirming")).await).await;
        assert_eq!(events(&updates, "finished").len(), 1, "{updates:?}");
        let updates = collect(stranger.job(&trusted_question("affirming")).await).await;
        assert!(
            events(&updates, "failed")[0]["message"].to_string().contains("affirming is asked for"),
            "{updates:?}"
        );

        // The machine starts something that its log does not tell of.
        tpm.extend(4, &[1; 32]).expect("extended");
        let (found, code) = attest(&client, &provider).await;
        assert_eq!((&found["finding"], code), (&"failed".into(), Some(6)), "{found}");
        assert_eq!(found["revoked"], true);
        assert!(found["reason"].as_str().is_some_and(|why| why.contains("PCR 4")), "{found}");
        let updates = collect(client.job(&trusted_question("none")).await).await;
        let failed = events(&updates, "failed");
        assert!(failed[0]["message"].to_string().contains("not what it should be"), "{updates:?}");
        // And whoever believed it hears so, by gossip: the provider's offer might still show the result.
        is_refused_to(&believer).await;
        let log = believer.home.path().join("log");
        eventually("a word that was taken back is heard", MINUTE, || async {
            std::fs::read_to_string(&log).is_ok_and(|log| log.contains("took back what it had said")).then_some(())
        })
        .await;
        let status = provider.until("is none again", |status| status["attestation"]["score"].is_null()).await;
        assert_eq!(status["attestation"]["tier"], "none");
    }

    /// Waits until a node hears of offers that meet `condition`.
    async fn hears(node: &Process, condition: impl Fn(&Value) -> bool) {
        let what = format!("{}: hears of the new offer", node.name);
        eventually(&what, MINUTE, || async { condition(&node.get("offers").await).then_some(()) }).await;
    }

    /// Waits until nobody is affirmed to a node: a minute at most, wherever it heard of the provider.
    async fn is_refused_to(node: &Process) {
        let what = format!("{}: nobody is affirmed any more", node.name);
        eventually(&what, MINUTE, || async {
            let updates = collect(node.job(&trusted_question("affirming")).await).await;
            (!events(&updates, "failed").is_empty()).then_some(())
        })
        .await;
    }

    /// Everything that a client keeps.
    fn kept(process: &Process) -> Vec<u8> {
        fn gather(directory: &Path, found: &mut Vec<u8>) {
            for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    gather(&path, found);
                } else {
                    found.extend(std::fs::read(&path).unwrap_or_default());
                }
            }
        }
        let mut found = Vec::new();
        gather(process.home.path(), &mut found);
        found
    }

    fn contains(kept: &[u8], needle: &[u8]) -> bool {
        kept.windows(needle.len()).any(|window| window == needle)
    }

    /// Keys of a verifier of the set, made as an operator does.
    async fn issuer(home: &Path) -> String {
        let (key, set) = (home.join("issuer.key"), home.join("set.key"));
        let path = |path: &Path| path.to_str().expect("a UTF-8 path").to_owned();
        let made =
            aitbc_tests::process::run(home, &["circuits", "keys", &path(&key), &path(&set), "--json"]).await;
        assert!(made.status.success(), "{made:?}");
        let made: Value = serde_json::from_slice(&made.stdout).expect("JSON");
        made["public"].as_str().expect("a public key").to_owned()
    }

    #[tokio::test]
    async fn a_change_on_purpose_is_accepted_when_asked_for() {
        let (tpm, log) = machine();
        // Nobody shows a log: the PCRs themselves are compared.
        let provider = home(&format!(
            "[attestation]\ntpm = {:?}\nevent_log = {:?}\n",
            tpm.tcti(),
            log.with_extension("absent")
        ));
        let provider = ProcessBuilder::new("provider", "48.85,2.35").start_in(provider).await;
        let client =
            ProcessBuilder::new("client", "48.9,2.3").bootstrap(&provider).start_in(trusts(&tpm, "")).await;
        client.connected().await;
        let (found, _) = attest(&client, &provider).await;
        assert_eq!(found["result"]["tier"], "warning", "Secure Boot is unknown: {found}");
        tpm.extend(4, &[1; 32]).expect("extended");
        let (found, code) = attest(&client, &provider).await;
        assert_eq!((&found["finding"], code), (&"failed".into(), Some(6)), "{found}");
        assert!(found["reason"].as_str().is_some_and(|why| why.contains("the PCRs changed")), "{found}");
        let shown = client.cli(&["attest", "show", &provider.id.to_string()]).await;
        assert!(String::from_utf8_lossy(&shown.stdout).contains("contraindicated"), "{shown:?}");
        // Showing nothing does not mend it.
        let mut provider = provider;
        let path = provider.home.path().join(".config/aitbc/config.toml");
        let settings = std::fs::read_to_string(&path).expect("its settings");
        std::fs::write(&path, "[attestation]\ntpm = \"off\"\n").expect("written");
        provider.stop().await;
        provider.restart().await;
        let (found, _) = attest(&client, &provider).await;
        assert!(
            found["reason"].as_str().is_some_and(|why| why.contains("tpm evidence was shown before")),
            "{found}"
        );
        let shown = client.cli(&["attest", "show", &provider.id.to_string()]).await;
        assert!(String::from_utf8_lossy(&shown.stdout).contains("contraindicated"), "{shown:?}");
        std::fs::write(&path, settings).expect("written");
        provider.stop().await;
        provider.restart().await;
        let output = client.cli(&["attest", "run", &provider.id.to_string(), "--anew", "--json"]).await;
        assert!(output.status.success(), "{output:?}");
        let (found, code) = attest(&client, &provider).await;
        assert_eq!(
            (&found["result"]["tier"], code),
            (&"warning".into(), Some(0)),
            "it is the first of its kind: {found}"
        );
    }

    #[tokio::test]
    async fn a_client_is_shown_a_proof_and_learns_no_hardware() {
        let (tpm, log) = machine();
        let verifier_home = trusts(&tpm, "");
        let public = issuer(verifier_home.path()).await;
        // What the machine measures is known from a first look, as an operator who writes a policy has it.
        let scout = ProcessBuilder::new("scout", "48.9,2.3").start_in(trusts(&tpm, "")).await;
        let first = ProcessBuilder::new("first", "48.85,2.35").bootstrap(&scout).start_in(shows(&tpm, &log)).await;
        first.connected().await;
        let (found, _) = attest(&scout, &first).await;
        assert_eq!(found["result"]["tier"], "affirming", "{found}");
        let tpm_found =
            found["found"].as_array().into_iter().flatten().find(|piece| piece["kind"] == "tpm").cloned();
        let tpm_found = tpm_found.expect("a TPM's evidence");
        let measurement = tpm_found["measurement"].as_str().expect("a measurement").to_owned();
        let hardware = tpm_found["hardware"].as_str().expect("an identity").to_owned();
        drop((first, scout));

        // The verifier's PeerId is that of its key, which its first start makes.
        let verifier = ProcessBuilder::new("verifier", "48.9,2.3").start_in(verifier_home).await;
        let id = verifier.id.to_string();
        let directory = verifier.home.path().join("zk");
        let arguments = ["circuits", "setup", directory.to_str().expect("UTF-8"), "--issuer", &public];
        let more = ["--node", &id, "--measurement", &measurement, "--policy", "affirmed"];
        let made = aitbc_tests::process::run(verifier.home.path(), &[&arguments[..], &more[..]].concat()).await;
        assert!(made.status.success(), "{made:?}");
        let home_path = verifier.home.path().to_owned();
        let settings = format!(
            "[attestation]\nroots = [{:?}]\nparameters = {directory:?}\nissuer_key = {:?}\nset_key = {:?}\n",
            home_path.join("roots.pem"),
            home_path.join("issuer.key"),
            home_path.join("set.key"),
        );
        std::fs::write(home_path.join(".config/aitbc/config.toml"), settings).expect("written");
        let mut verifier = verifier;
        verifier.stop().await;
        verifier.restart().await;
        assert_eq!(verifier.id.to_string(), id);

        let settings = format!(
            "[attestation]\ntpm = {:?}\nevent_log = {log:?}\nparameters = {directory:?}\nprivate = true\n",
            tpm.tcti()
        );
        let provider = ProcessBuilder::new("provider", "48.85,2.35")
            .provide()
            .bootstrap(&verifier)
            .start_in(home(&settings))
            .await;
        provider.offering().await;
        let client = home(&format!("[attestation]\nparameters = {directory:?}\n"));
        let client = ProcessBuilder::new("client", "48.8,2.4").bootstrap(&verifier).start_in(client).await;
        client.finds(1).await;
        // Nothing was proved yet, and nobody but the set's verifiers is shown evidence.
        let updates = collect(client.job(&trusted_question("affirming")).await).await;
        assert_eq!(events(&updates, "failed").len(), 1, "{updates:?}");
        let refused = client.cli(&["attest", "run", &provider.id.to_string()]).await;
        assert!(
            String::from_utf8_lossy(&refused.stderr).contains("verifiers of the network's set"),
            "{refused:?}"
        );

        verifier.finds(1).await;
        let (found, code) = attest(&verifier, &provider).await;
        assert_eq!((&found["finding"], code), (&"verified".into(), Some(0)), "{found}");
        assert_eq!(found["credential"], true, "{found}");
        let status =
            provider.until("names its policy", |status| status["attestation"]["policies"][0] == "affirmed").await;
        assert_eq!(status["provider"]["offer"]["attested"], Value::Null, "{status}");
        let named = |offers: &Value| offers.to_string().contains("\"affirmed\"");
        hears(&client, named).await;
        let updates = collect(client.job(&trusted_question("affirming")).await).await;
        assert_eq!(events(&updates, "finished").len(), 1, "{updates:?}");
        let ranked = events(&updates, "ranked")[0].to_string();
        assert!(ranked.contains("\"proof\""), "{ranked}");

        // What the client keeps tells nothing of the hardware; the verifier's does.
        let secrets: Vec<Vec<u8>> =
            [&hardware, &measurement].iter().flat_map(|text| [hex(text), text.as_bytes().to_vec()]).collect();
        let kept_by_client = kept(&client);
        for secret in &secrets {
            assert!(!contains(&kept_by_client, secret), "the client keeps an identifier of the hardware");
        }
        let kept_by_verifier = kept(&verifier);
        assert!(contains(&kept_by_verifier, measurement.as_bytes()), "the search finds what is there");

        // The machine changes: the verifier takes its word back, and no proof counts any more.
        tpm.extend(4, &[1; 32]).expect("extended");
        let (found, _) = attest(&verifier, &provider).await;
        assert_eq!((&found["finding"], &found["revoked"]), (&"failed".into(), &true.into()), "{found}");
        is_refused_to(&client).await;
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits = text.as_bytes().chunks(2);
        digits.filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
    }
}
