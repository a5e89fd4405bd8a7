//! `aitbc attest`: has a peer show what hardware and firmware it runs on, and shows and verifies results.

use super::{Exit, Global, Outcome, client::Client, output};
use aitbc_crypto::ear;
use aitbc_protocol::NodeId;
use serde_json::Value;
use std::path::PathBuf;

/// Largest file that is read, in bytes.
const MAX_FILE: u64 = 256 * 1024;

/// Arguments of `attest`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Have a peer show evidence, verify it, and sign what follows; without a peer, see what this machine can show
    Run {
        /// Provider, as `aitbc find` names it; this machine if not given
        peer: Option<NodeId>,
        /// Take what is measured now for what it should be, as after an update of the peer's firmware
        #[arg(long, requires = "peer")]
        anew: bool,
    },
    /// Show what others have signed about this node, and what this node has found about others
    Show {
        /// Only about this peer
        peer: Option<NodeId>,
    },
    /// Verify an attestation result offline: signature, form, time
    Verify {
        /// File with a JWT, or the JSON that `attest run --json` or `attest show --json` printed
        file: PathBuf,
    },
}

/// Runs the command.
pub(super) async fn run(global: &Global, args: &Args) -> Outcome {
    match &args.command {
        Command::Run { peer: Some(peer), anew } => attest(global, *peer, *anew).await,
        Command::Run { peer: None, .. } => own(global).await,
        Command::Show { peer } => show(global, *peer).await,
        Command::Verify { file } => verify(global, file),
    }
}

async fn attest(global: &Global, peer: NodeId, anew: bool) -> Outcome {
    let json = global.json;
    let told = |step: &Value| {
        if !json {
            progress(step);
        }
    };
    let body = serde_json::json!({"peer": peer, "anew": anew});
    let found = Client::new(global)?.finding("attest", &peer, &body, told).await?;
    output::print(json, &found, || finding(&found))?;
    match found["finding"].as_str() {
        Some("verified") if found["result"]["tier"] == "contraindicated" => {
            Err(Exit::verification("what it shows speaks against it"))
        }
        Some("verified") => Ok(()),
        _ => Err(Exit::verification(format_args!(
            "its evidence does not hold: {}",
            found["reason"].as_str().unwrap_or("?")
        ))),
    }
}

fn progress(step: &Value) {
    match step["event"].as_str() {
        Some("reached") if step["tpm"] == true => eprintln!("reached    it has a TPM; asking for evidence"),
        Some("reached") => eprintln!("reached    it shows no TPM; asking for evidence"),
        Some("challenged") => eprintln!("challenged waiting for quotes over a fresh nonce"),
        Some("verifying") => eprintln!("verifying  {} pieces, {} bytes", step["pieces"], step["bytes"]),
        _ => {}
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

fn score(value: &Value) -> String {
    value.as_f64().map_or_else(|| "?".to_owned(), |score| format!("{:.2}", score / 1000.0))
}

fn finding(found: &Value) {
    if found["finding"] != "verified" {
        println!("failed        {}", text(&found["reason"]));
        if found["revoked"] == true {
            println!("taken back    what this node had signed about it before");
        }
        return;
    }
    let result = &found["result"];
    println!("tier          {}", text(&result["tier"]));
    println!("score         {}{}", score(&result["score"]), said(&found["inputs"]));
    for piece in found["found"].as_array().into_iter().flatten() {
        println!("{:<13} {}", text(&piece["kind"]), text(&piece["tier"]));
        for note in piece["notes"].as_array().into_iter().flatten() {
            println!("              {}", text(note));
        }
    }
    for missing in found["claims"]["missing"].as_array().into_iter().flatten() {
        println!("{:<13} not shown: {}", text(&missing["kind"]), text(&missing["reason"]));
    }
    if found["credential"] == true {
        println!("credential    issued, for proofs in zero knowledge");
    }
    println!("until         {}", output::utc(result["expires_ms"].as_u64().unwrap_or_default()));
}

/// Which inputs of the score only the node itself vouches for.
fn said(inputs: &Value) -> String {
    let only_said = |name: &&str| inputs[*name]["attested"].is_null();
    let names = ["vulnerable", "firmware_age_days", "suspicious_processes"];
    let said: Vec<String> = names.into_iter().filter(only_said).map(|name| name.replace('_', " ")).collect();
    if said.is_empty() { String::new() } else { format!("  (nobody attested: {})", said.join(", ")) }
}

async fn own(global: &Global) -> Outcome {
    let directories = global.directories()?;
    let settings = global.settings(&directories)?;
    let config = settings.attestation();
    if !global.json {
        eprintln!(
            "looking at what this machine can show; others verify it with `aitbc attest run` and this node's PeerId"
        );
    }
    let seen = tokio::task::spawn_blocking(move || crate::attestation::collect::look(&config))
        .await
        .map_err(Exit::error)?;
    let document = serde_json::json!({"schema": "aitbc.attest.own/1", "evidence": seen});
    output::print(global.json, &document, || {
        for piece in &seen {
            println!("{:<13} {}", piece.kind.as_str(), piece.state);
        }
    })
}

async fn show(global: &Global, peer: Option<NodeId>) -> Outcome {
    let mut document: Value = Client::new(global)?.get("attest").await?;
    if let Some(peer) = peer {
        let wanted = peer.to_string();
        let peers = document["peers"].as_array_mut();
        if let Some(peers) = peers {
            peers.retain(|known| known["peer"] == wanted.as_str());
            if peers.is_empty() {
                return Err(Exit::message(format_args!(
                    "this node has found nothing about {peer}: `aitbc attest run {peer}` has it show evidence"
                )));
            }
        }
    }
    output::print(global.json, &document, || {
        if peer.is_none() {
            let own = &document["own"];
            println!("this node     {}", text(&own["tier"]));
            for result in own["results"].as_array().into_iter().flatten() {
                println!(
                    "  by {}  {}, score {}, until {}",
                    text(&result["verifier"]),
                    text(&result["tier"]),
                    score(&result["score"]),
                    output::utc(result["expires_ms"].as_u64().unwrap_or_default())
                );
            }
            for policy in own["policies"].as_array().into_iter().flatten() {
                println!("  proves policy {}", text(policy));
            }
        }
        for known in document["peers"].as_array().into_iter().flatten() {
            println!("{}  {}", text(&known["peer"]), text(&known["tier"]));
            if let Some(failure) = known["failure"].as_str() {
                println!("  failed {}: {failure}", output::ago(known["at_ms"].as_u64().unwrap_or_default()));
            } else {
                println!(
                    "  score {}, found {}, until {}",
                    score(&known["result"]["score"]),
                    output::ago(known["at_ms"].as_u64().unwrap_or_default()),
                    output::utc(known["result"]["expires_ms"].as_u64().unwrap_or_default())
                );
            }
        }
    })
}

/// The JWTs in a text: the text itself, or every `ear` of a JSON document.
fn tokens(content: &str) -> Vec<String> {
    fn gather(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => fields.iter().for_each(|(name, value)| match value {
                Value::String(token) if name == "ear" && token.contains('.') => found.push(token.clone()),
                value => gather(value, found),
            }),
            Value::Array(items) => items.iter().for_each(|item| gather(item, found)),
            _ => {}
        }
    }
    let Ok(document) = serde_json::from_str::<Value>(content) else { return vec![content.trim().to_owned()] };
    let mut found = Vec::new();
    gather(&document, &mut found);
    found
}

fn verify(global: &Global, path: &PathBuf) -> Outcome {
    let about = |reason: &dyn std::fmt::Display| Exit::verification(format_args!("{}: {reason}", path.display()));
    let metadata =
        std::fs::metadata(path).map_err(|error| Exit::message(format_args!("{}: {error}", path.display())))?;
    if metadata.len() > MAX_FILE {
        return Err(about(&"too large for an attestation result"));
    }
    let tokens = tokens(&std::fs::read_to_string(path)?);
    if tokens.is_empty() {
        return Err(about(&"no attestation result in it"));
    }
    let mut results = Vec::new();
    for token in &tokens {
        let (verifier, ear) = ear::open(token, crate::clock::now_ms()).map_err(|error| about(&error))?;
        results.push(serde_json::json!({"verifier": verifier, "claims": ear}));
    }
    let document = serde_json::json!({"schema": "aitbc.attest.verify/1", "valid": true, "results": results});
    output::print(global.json, &document, || {
        for result in &results {
            println!("signed by     {}", text(&result["verifier"]));
            println!(
                "about         {}",
                text(&result["claims"]["submods"][ear::INTEGRITY]["ear_verifier_claims"]["peer"])
            );
            println!("tier          {}", text(&result["claims"]["ear_status"]));
            println!("its word is worth what you think of its signer");
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_in_what_the_commands_print() {
        assert_eq!(tokens(" a.b.c \n"), ["a.b.c"]);
        let document =
            r#"{"own": {"results": [{"ear": "a.b.c"}]}, "peers": [{"ear": "d.e.f", "result": {"ear": "00ff"}}]}"#;
        assert_eq!(tokens(document), ["a.b.c", "d.e.f"]);
        assert!(tokens("{}").is_empty());
    }
}
