//! `aitbc init`: a key and a commented settings file.

use super::{Exit, Global, Outcome, output};
use crate::config::Settings;
use aitbc_crypto::SecretKey;
use aitbc_protocol::geo::Location;
use std::io::Write;

/// Arguments of `init`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where this node is, in degrees
    #[arg(long, value_name = "LATITUDE,LONGITUDE", allow_hyphen_values = true)]
    location: Option<Location>,
}

/// What a new settings file says.
fn template(location: Option<Location>) -> String {
    let location = location.map_or_else(
        || "# location = \"48.85,2.35\"   # latitude,longitude in degrees; needed".to_owned(),
        |location| format!("location = \"{location}\""),
    );
    format!(
        r#"# Settings of an aitbc node. Flags and AITBC_* variables win over this file.

{location}
# precision = 4                  # characters of the geohash that others see: 2 (600 km) to 7 (150 m)
# bootstrap = ["/ip4/203.0.113.7/tcp/4101/p2p/12D3KooW..."]   # first contacts
# relay = false                  # relay for nodes that cannot be reached directly
# relay_mbit = 20                # megabits a second that relaying may take of the uplink

# [provide]                      # selling
# enabled = true
# models = ["smollm2:135m"]
# slots = 4                      # jobs at a time
# context = 4096                 # tokens of prompt and answer
# price = {{ prompt = 200, completion = 1000 }}   # micro-credits for a thousand tokens
# local_hours = false            # evening and night prices by this machine's clock, not by UTC
# strangers = 1000000            # micro-credits that clients who settled nothing may owe in a day, all together
# private_price = {{ prompt = 200, completion = 20000 }}   # for a thousand values and bootstraps of private models
# evaluation_keys_mib = 2048     # disk for evaluation keys of clients

# [[provide.upstream]]           # offer another OpenAI-compatible server of yours
# url = "http://127.0.0.1:11434/v1"
# models = ["llama3.2"]
# slots = 1

# [client]                       # buying
# policy = "balanced"            # latency, cost, balanced, private (attested or encrypted only), local_first
# hedge = true                   # ask a second provider beside one whose first token is late
# fallback = "if_no_edge"        # when jobs go to the cloud below: never, if_no_edge, if_cheaper, if_faster

# [client.cloud]                 # any OpenAI-compatible server; it reads the prompts that go there
# url = "https://api.example.com/v1"
# key_file = "/path/to/key"      # mode 0600
# model = "small-model"          # what stands in for every model, but for those of [client.cloud.models]
# price = {{ prompt = 150000, completion = 600000 }}   # micro-credits for a thousand tokens

# [power]                        # what the GPUs may take, and when
# watts = 300                    # all GPUs together
# hours = ["22:00-06:30"]        # local time
# price_per_kwh = 300000         # micro-credits: no answer is sold below its electricity
# on_battery = false             # take jobs while running from the battery
# least_charge = 30              # percent of the battery's charge

# [heat]                         # degrees Celsius of a GPU's core; from its maker where not set
# warning = 75                   # fewer jobs
# critical = 85                  # none, and those that run slowed down
# shutdown = 95                  # everything stops

# [api]
# listen = "127.0.0.1:11435"
# token_file = "/path/to/token"  # needed beyond 127.0.0.1
"#
    )
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &Args) -> Outcome {
    let directories = global.directories()?;
    let existed = directories.key().exists();
    let key = SecretKey::load_or_create(&directories.key())?;
    if let Some(parent) = directories.config.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let created = match std::fs::OpenOptions::new().write(true).create_new(true).open(&directories.config) {
        Ok(mut file) => {
            file.write_all(template(args.location).as_bytes())?;
            true
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(Exit::message(format_args!("{}: {error}", directories.config.display()))),
    };
    let document = serde_json::json!({
        "schema": "aitbc.init/1",
        "node": key.node_id(),
        "config": directories.config,
        "config_created": created,
        "key": directories.key(),
        "key_created": !existed,
    });
    output::print(global.json, &document, || {
        let word = |new| if new { "made" } else { "kept" };
        println!("node      {}", key.node_id());
        println!("key       {} ({})", directories.key().display(), word(!existed));
        println!("settings  {} ({})", directories.config.display(), word(created));
        if !existed {
            println!("Back the key up: it is who this node is and what it is paid to (aitbc key backup FILE).");
        }
    })?;
    if !created && args.location.is_some() {
        let settings = Settings::load(&directories.config, true)?;
        if settings.location != args.location {
            eprintln!(
                "note: {} was there and was not changed; edit `location` in it",
                directories.config.display()
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_valid_with_and_without_its_comments() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("config.toml");
        let commented = template("48.85,2.35".parse().ok());
        let plain = commented.replace("\n# ", "\n").replace("token_file", "# token_file");
        let plain = plain.replacen("Settings of", "# Settings of", 1);
        for text in [&commented, &plain] {
            std::fs::write(&path, text.replace("/p2p/12D3KooW...", "")).expect("written");
            Settings::load(&path, true).unwrap_or_else(|error| panic!("{error}\n{text}"));
        }
    }
}
