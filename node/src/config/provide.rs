//! Settings of selling.

use super::{ConfigError, Settings};
use crate::engine::UpstreamConfig;
use aitbc_protocol::{MicroCredits, bandwidth::REQUIRED, job::ModelName, price::TokenPrice};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Selling GPU time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProvideSettings {
    /// Whether this node sells.
    pub enabled: bool,
    /// Models to load and offer.
    pub models: Vec<ModelName>,
    /// Jobs at a time.
    pub slots: u32,
    /// Context tokens of a job, prompt and answer.
    pub context: u32,
    /// CPU threads; all physical cores if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<u32>,
    /// Layers on the GPU; all that fit if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_layers: Option<u32>,
    /// Most memory of the engine in MiB; no limit if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u64>,
    /// MiB of this machine's own memory that answer challenges in place of a GPU's, to try them out on the network
    /// `local`. What they show is marked as simulated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub simulated_memory_mib: Option<u32>,
    /// MiB a second, each way, below which the owner is told that the line is slow.
    pub min_bandwidth_mib: u32,
    /// MiB on the disk for evaluation keys of clients.
    pub evaluation_keys_mib: u32,
    /// Whether the hours that prices go by are those of this machine's own clock; those of UTC if not.
    pub local_hours: bool,
    /// Micro-credits that clients who have settled nothing may owe in a day, all together; a hundredth of what this node
    /// can earn in a day, and a credit at least, if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strangers: Option<u64>,
    /// Price of models that have none of their own.
    pub price: PriceSettings,
    /// Price of private models that have none of their own: for a thousand values, and a thousand bootstraps.
    pub private_price: PriceSettings,
    /// Prices of single models.
    pub prices: BTreeMap<ModelName, PriceSettings>,
    /// Other OpenAI-compatible servers of the owner's to offer, such as an Ollama.
    pub upstream: Vec<UpstreamConfig>,
}

impl Default for ProvideSettings {
    fn default() -> Self {
        Self {
            enabled: false,
            models: Vec::new(),
            slots: 4,
            context: 4096,
            threads: None,
            gpu_layers: None,
            memory_mib: None,
            simulated_memory_mib: None,
            min_bandwidth_mib: (REQUIRED >> 20) as u32,
            evaluation_keys_mib: 2048,
            local_hours: false,
            strangers: None,
            price: PriceSettings::default(),
            private_price: PriceSettings::private(),
            prices: BTreeMap::new(),
            upstream: Vec::new(),
        }
    }
}

/// A price in micro-credits (1 credit = 1,000,000).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PriceSettings {
    /// For a thousand prompt tokens.
    pub prompt: u64,
    /// For a thousand tokens of the answer.
    pub completion: u64,
}

impl Default for PriceSettings {
    fn default() -> Self {
        Self { prompt: 200, completion: 1000 }
    }
}

impl PriceSettings {
    /// A bootstrap takes a processor about as long as twenty tokens of a small model.
    fn private() -> Self {
        Self { prompt: 200, completion: 20_000 }
    }
}

impl From<PriceSettings> for TokenPrice {
    fn from(price: PriceSettings) -> Self {
        Self { prompt: MicroCredits(price.prompt), completion: MicroCredits(price.completion) }
    }
}

impl Settings {
    /// Refuses values out of range, and selling where there is nothing to sell.
    pub(super) fn validate_provide(&self) -> Result<(), ConfigError> {
        let range = |setting, value: String, allowed| Err(ConfigError::Range { setting, value, allowed });
        if !(1..=64).contains(&self.provide.slots) {
            return range("provide.slots", self.provide.slots.to_string(), "allowed is 1 to 64");
        }
        if !(256..=1_048_576).contains(&self.provide.context) {
            return range("provide.context", self.provide.context.to_string(), "allowed is 256 to 1048576");
        }
        if self.provide.enabled && self.provide.models.is_empty() && self.provide.upstream.is_empty() {
            return range(
                "provide.models",
                "empty".to_owned(),
                "name a model to sell, such as --model smollm2:135m, or a [[provide.upstream]]",
            );
        }
        if let Some(mib) = self.provide.simulated_memory_mib {
            if !self.network.is_local() {
                let allowed = "allowed only with `network = \"local\"`: memory that is simulated earns no trust";
                return range("provide.simulated_memory_mib", mib.to_string(), allowed);
            }
            if !(1..=4096).contains(&mib) {
                return range("provide.simulated_memory_mib", mib.to_string(), "allowed is 1 to 4096");
            }
        }
        let mib = self.provide.evaluation_keys_mib;
        if !(64..=1_048_576).contains(&mib) {
            return range("provide.evaluation_keys_mib", mib.to_string(), "allowed is 64 to 1048576");
        }
        let mib = self.provide.min_bandwidth_mib;
        if mib > 100_000 {
            return range("provide.min_bandwidth_mib", mib.to_string(), "allowed is 0 to 100000");
        }
        Ok(())
    }
}
