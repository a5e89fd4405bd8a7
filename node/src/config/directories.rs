//! Where a node keeps its files.

use super::{ConfigError, Settings};
use etcetera::BaseStrategy;
use std::path::PathBuf;

/// Where a node keeps things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directories {
    /// The settings file.
    pub config: PathBuf,
    /// Key, database, peer table, what was measured on the GPUs.
    pub data: PathBuf,
}

impl Directories {
    /// The given ones, and for the rest those of the XDG base directory specification.
    pub fn resolve(config: Option<PathBuf>, data: Option<PathBuf>) -> Result<Self, ConfigError> {
        if let (Some(config), Some(data)) = (&config, &data) {
            return Ok(Self { config: config.clone(), data: data.clone() });
        }
        let base = etcetera::choose_base_strategy().map_err(|_| ConfigError::NoHome)?;
        Ok(Self {
            config: config.unwrap_or_else(|| base.config_dir().join("aitbc").join("config.toml")),
            data: data.unwrap_or_else(|| base.data_dir().join("aitbc")),
        })
    }

    /// The key file.
    pub fn key(&self) -> PathBuf {
        self.data.join("key")
    }

    /// The database.
    pub fn database(&self) -> PathBuf {
        self.data.join("db")
    }

    /// The peer table.
    pub fn peer_table(&self) -> PathBuf {
        self.data.join("peers.json")
    }

    /// Evaluation keys of clients of this node.
    pub fn evaluation_keys(&self) -> PathBuf {
        self.data.join("evaluation-keys")
    }

    /// Secret keys of this node's own private jobs.
    pub fn private(&self) -> PathBuf {
        self.data.join("private")
    }

    /// What `aitbc bench gpu` measured.
    pub fn gpu_rates(&self) -> PathBuf {
        self.data.join("gpu-rates.json")
    }

    /// The model files.
    pub fn models(&self, settings: &Settings) -> PathBuf {
        settings.models_dir.clone().unwrap_or_else(|| self.data.join("models"))
    }
}
