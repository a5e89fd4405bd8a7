//! Settings: flag, then `AITBC_*` variable, then `config.toml`, then default.
//!
//! [`Settings`] is the file; the command line lays flags and variables over it. Every table refuses fields that it does
//! not know, and the error names the nearest one that it does.

mod attestation;
mod client;
mod directories;
mod power;
mod provide;

pub use attestation::AttestationSettings;
pub use client::ClientSettings;
pub use directories::Directories;
pub use power::PowerSettings;
pub use provide::{PriceSettings, ProvideSettings};

use crate::api::ApiConfig;
use aitbc_protocol::{
    NetworkId,
    geo::{self, Location},
    gpu::heat::{LadderError, OwnerLadder},
};
use libp2p::Multiaddr;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// Port of libp2p, TCP and UDP.
pub const DEFAULT_PORT: u16 = 4101;
/// Where the API listens.
pub const DEFAULT_API: &str = "127.0.0.1:11435";

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not valid.
    #[error("{path}: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, column, what is wrong, and the nearest known name.
        message: String,
    },
    /// No home directory.
    #[error("no home directory: set HOME, or give --config and --data-dir")]
    NoHome,
    /// No location.
    #[error(
        "no location: give --location LATITUDE,LONGITUDE (or set `location` in {0}); it decides where \
             the search for GPUs starts, and only the cell of the precision you choose is published"
    )]
    NoLocation(PathBuf),
    /// Temperatures that make no sense.
    #[error("[heat]: {0}")]
    Heat(LadderError),
    /// Out of range.
    #[error("{setting} is {value}: {allowed}")]
    Range {
        /// The setting.
        setting: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
}

fn as_text<T: std::fmt::Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

// serde's `serialize_with` passes a reference to the field.
#[allow(clippy::ref_option)]
fn optional_text<T: std::fmt::Display, S: Serializer>(
    value: &Option<T>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

fn location<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Location>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(de::Error::custom)
}

fn network_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NetworkId, D::Error> {
    NetworkId::new(&String::deserialize(deserializer)?).map_err(de::Error::custom)
}

/// The settings of a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Network: `main`, or `local` for demos and tests.
    #[serde(deserialize_with = "network_id", serialize_with = "as_text")]
    pub network: NetworkId,
    /// Latitude and longitude in degrees, such as `48.85,2.35`.
    #[serde(
        deserialize_with = "location",
        serialize_with = "optional_text",
        skip_serializing_if = "Option::is_none"
    )]
    pub location: Option<Location>,
    /// Characters of the geohash that are published, 2 (600 km) to 7 (150 m).
    pub precision: u8,
    /// Addresses to listen on.
    pub listen: Vec<Multiaddr>,
    /// First contacts, each ending in `/p2p/<PeerId>`.
    pub bootstrap: Vec<Multiaddr>,
    /// Addresses that lead here from outside, where the router forwards a port.
    pub external: Vec<Multiaddr>,
    /// Whether to relay for nodes that cannot be reached directly.
    pub relay: bool,
    /// Megabits a second that relaying may take of the uplink; no limit if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay_mbit: Option<u32>,
    /// Whether to look for peers on the local network.
    pub mdns: bool,
    /// Whether to ask the router for a port mapping.
    pub upnp: bool,
    /// Where model files are; `<data_dir>/models` if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub models_dir: Option<PathBuf>,
    /// Selling.
    pub provide: ProvideSettings,
    /// Temperatures of GPUs at which something is done.
    pub heat: OwnerLadder,
    /// What the GPUs may take, and when.
    pub power: PowerSettings,
    /// Buying.
    pub client: ClientSettings,
    /// Showing hardware, and judging what others show.
    pub attestation: AttestationSettings,
    /// The local HTTP server.
    pub api: ApiSettings,
}

impl Default for Settings {
    fn default() -> Self {
        let address = |text: String| text.parse().expect("a literal multiaddress");
        Self {
            network: NetworkId::new("main").expect("a literal network name"),
            location: None,
            precision: geo::DEFAULT_PRECISION,
            listen: vec![
                address(format!("/ip4/0.0.0.0/udp/{DEFAULT_PORT}/quic-v1")),
                address(format!("/ip4/0.0.0.0/tcp/{DEFAULT_PORT}")),
                address(format!("/ip6/::/udp/{DEFAULT_PORT}/quic-v1")),
                address(format!("/ip6/::/tcp/{DEFAULT_PORT}")),
            ],
            bootstrap: Vec::new(),
            external: Vec::new(),
            relay: false,
            relay_mbit: None,
            mdns: true,
            upnp: true,
            models_dir: None,
            provide: ProvideSettings::default(),
            heat: OwnerLadder::default(),
            power: PowerSettings::default(),
            client: ClientSettings::default(),
            attestation: AttestationSettings::default(),
            api: ApiSettings::default(),
        }
    }
}

/// The local HTTP server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApiSettings {
    /// Where it listens.
    pub listen: SocketAddr,
    /// File with the bearer token; needed where others can reach `listen`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self { listen: DEFAULT_API.parse().expect("a literal socket address"), token_file: None }
    }
}

impl From<&ApiSettings> for ApiConfig {
    fn from(settings: &ApiSettings) -> Self {
        Self { listen: settings.listen, token_file: settings.token_file.clone() }
    }
}

impl Settings {
    /// Reads a settings file. A file that is not there stands for the defaults, unless `required`.
    pub fn load(path: &Path, required: bool) -> Result<Self, ConfigError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(path, &text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => Ok(Self::default()),
            Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
        }
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| text[..span.start].matches('\n').count() + 1);
            let mut message = line.map_or_else(String::new, |line| format!("line {line}: "));
            message.push_str(error.message());
            if let Some(hint) = nearest_field(error.message()) {
                message = format!("{message}; did you mean `{hint}`?");
            }
            ConfigError::Parse { path: path.to_owned(), message }
        })
    }

    /// Refuses values out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let range = |setting, value: String, allowed| Err(ConfigError::Range { setting, value, allowed });
        if !(geo::COARSEST..=geo::FINEST).contains(&self.precision) {
            return range("precision", self.precision.to_string(), "allowed is 2 to 7");
        }
        if !(1..=4).contains(&self.client.quotes) {
            return range("client.quotes", self.client.quotes.to_string(), "allowed is 1 to 4");
        }
        if self.client.verifiers.len() > 1024 {
            return range("client.verifiers", self.client.verifiers.len().to_string(), "allowed are 1024 at most");
        }
        self.validate_cloud()?;
        if let Some(mbit) = self.relay_mbit.filter(|mbit| !(1..=100_000).contains(mbit)) {
            return range("relay_mbit", mbit.to_string(), "allowed is 1 to 100000");
        }
        self.validate_provide()?;
        self.validate_power()?;
        self.validate_attestation()?;
        for address in &self.bootstrap {
            if !matches!(address.iter().last(), Some(libp2p::multiaddr::Protocol::P2p(_))) {
                return range(
                    "bootstrap",
                    address.to_string(),
                    "each address must end in /p2p/ and the node's PeerId (see `aitbc status` there)",
                );
            }
        }
        Ok(())
    }
}

/// The known field nearest to the unknown one of a serde error message.
fn nearest_field(message: &str) -> Option<String> {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = message.starts_with("unknown field").then(|| quoted.next()).flatten()?;
    quoted
        .map(|known| (strsim::damerau_levenshtein(unknown, known), known))
        .filter(|(distance, known)| *distance <= known.len().max(3) / 2)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, ConfigError> {
        Settings::parse(Path::new("config.toml"), text)
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!(parse("").expect("empty is valid"), Settings::default());
    }

    #[test]
    fn what_is_written_reads_back() {
        let settings = Settings { location: "48.85,2.35".parse().ok(), ..Settings::default() };
        let text = toml::to_string(&settings).expect("settings are TOML");
        assert_eq!(parse(&text).expect("own output"), settings);
    }

    #[test]
    fn an_unknown_setting_names_its_line_and_the_nearest_known_one() {
        let message = parse("precision = 4\nlokation = \"1,2\"").expect_err("unknown field").to_string();
        assert!(message.contains("line 2") && message.contains("did you mean `location`?"), "{message}");
        let message = parse("[provide]\nmodel = []").expect_err("unknown field").to_string();
        assert!(message.contains("did you mean `models`?"), "{message}");
    }

    #[test]
    fn values_out_of_range_name_the_setting() {
        let check =
            |text: &str| parse(text).expect("well formed").validate().expect_err("out of range").to_string();
        assert!(check("precision = 9").contains("precision is 9"));
        assert!(check("relay_mbit = 0").contains("relay_mbit is 0"));
        assert!(check("[provide]\nmin_bandwidth_mib = 100001").contains("provide.min_bandwidth_mib is 100001"));
        let simulated = "[provide]\nsimulated_memory_mib";
        assert!(check(&format!("{simulated} = 4")).contains("earns no trust"));
        assert!(check(&format!("network = \"local\"\n{simulated} = 0")).contains("1 to 4096"));
        assert!(check("[provide]\nevaluation_keys_mib = 1").contains("provide.evaluation_keys_mib is 1"));
        assert!(check("[client]\nquotes = 0").contains("client.quotes"));
        assert!(check("[client]\nfallback = \"if_no_edge\"").contains("[client.cloud]"));
        let cloud = "[client.cloud]\nurl = \"https://cloud.example/v1\"\nprice = { prompt = 1, completion = 2 }\n";
        assert!(check(cloud).contains("client.cloud.model is not set"));
        assert!(check(&format!("{cloud}model = \"\"")).contains("client.cloud.models"));
        assert!(check("[provide]\nenabled = true").contains("--model"));
        assert!(check("bootstrap = [\"/ip4/1.2.3.4/tcp/4101\"]").contains("/p2p/"));
    }

    #[test]
    fn a_bad_location_says_how_to_write_one() {
        let message = parse("location = \"Paris\"").expect_err("not degrees").to_string();
        assert!(message.contains("latitude,longitude"), "{message}");
    }
}
