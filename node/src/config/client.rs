//! Settings of buying answers, and of the cloud behind the network.

use super::{ConfigError, Settings};
use crate::routing::CloudConfig;
use aitbc_protocol::{
    NodeId,
    routing::{fallback::Fallback, preference::Preference},
};
use serde::{Deserialize, Serialize};

/// Buying answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClientSettings {
    /// Providers asked for a quote at a time, 1 to 4: every one of them sees the prompt.
    pub quotes: u32,
    /// Nodes whose word about the memory and the hardware of providers counts, beside this node's own.
    pub verifiers: Vec<NodeId>,
    /// What decides among providers where a job does not say: `latency`, `cost`, `balanced`, `private` or `local_first`.
    pub policy: Preference,
    /// When jobs that do not say go to the cloud below: `never`, `if_no_edge`, `if_cheaper` or `if_faster`.
    pub fallback: Fallback,
    /// An OpenAI-compatible server behind the network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cloud: Option<CloudConfig>,
    /// Whether a second provider is asked beside one whose first token is late: whoever is slower is paid for what it has
    /// delivered by then, and both see the prompt.
    pub hedge: bool,
    /// Whether neighbours of a provider are told how its jobs for this node went: that there was a job, what it cost and how fast it
    /// was, and nothing of what was asked.
    pub share_observations: bool,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self {
            quotes: 1,
            verifiers: Vec::new(),
            policy: Preference::Balanced,
            fallback: Fallback::Never,
            cloud: None,
            hedge: true,
            share_observations: true,
        }
    }
}

impl Settings {
    /// A fallback needs a cloud, and a cloud a model that stands in for others.
    pub(super) fn validate_cloud(&self) -> Result<(), ConfigError> {
        let range = |setting, value: String, allowed| Err(ConfigError::Range { setting, value, allowed });
        let ClientSettings { fallback, cloud, .. } = &self.client;
        let Some(cloud) = cloud else {
            if *fallback == Fallback::Never {
                return Ok(());
            }
            let allowed = "set [client.cloud] with url, model and price, or leave fallback at never";
            return range("client.fallback", fallback.to_string(), allowed);
        };
        let names = cloud.model.iter().chain(cloud.models.values());
        if names.clone().next().is_none() {
            let allowed = "name the cloud's model that stands in for all, or those of single models in `client.cloud.models`";
            return range("client.cloud.model", "not set".to_owned(), allowed);
        }
        if names.into_iter().any(|name| name.is_empty() || name.len() > 256) {
            return range(
                "client.cloud.models",
                "a name without characters, or over 256 bytes".to_owned(),
                "1 to 256",
            );
        }
        Ok(())
    }
}
