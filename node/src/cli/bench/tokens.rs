//! How fast the engine answers with a model of this machine, and on what it truly runs.

use super::super::up::engine_config;
use crate::{
    config::{Directories, Settings},
    engine::{self, EngineError, EngineModel, EngineState, EngineStatus, fhe::PrivateConfig},
    models::{Installed, Kind, ModelError, ModelStore},
    telemetry::Metrics,
};
use aitbc_protocol::job::ModelName;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

#[cfg(test)]
mod tests;

/// How long a model may take to load: large ones come from slow disks.
const LOAD_PATIENCE: Duration = Duration::from_secs(600);
/// How long the engine's child may take to leave.
const STOP_PATIENCE: Duration = Duration::from_secs(3);

/// What the engine reached.
#[derive(Clone, Debug)]
pub(super) struct Tokens {
    /// The model as it would be offered, with its device and its speed.
    pub(super) model: EngineModel,
    /// What the owner should know, such as why a GPU is not used.
    pub(super) warnings: Vec<String>,
}

/// Why no engine was measured.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokensError {
    /// There is nothing to measure with.
    #[error("no model is in {0}: fetch one with `aitbc models pull smollm2:135m`")]
    NoModel(PathBuf),
    /// The one asked for is not here.
    #[error("{0} is not here: fetch it with `aitbc models pull {0}`")]
    NotHere(ModelName),
    /// The store.
    #[error(transparent)]
    Store(#[from] ModelError),
    /// No engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// It does not run.
    #[error("{model} does not run: {reason}")]
    Fails {
        /// The model.
        model: ModelName,
        /// What the engine says.
        reason: String,
    },
    /// It takes too long.
    #[error("{0} was not loaded within {LOAD_PATIENCE:?}")]
    Slow(ModelName),
}

impl Tokens {
    /// Tokens a second of one answer.
    pub(super) fn rate(&self) -> f64 {
        f64::from(self.model.speed) / 1000.0
    }

    /// As JSON.
    pub(super) fn document(&self) -> Value {
        json!({
            "model": self.model.model,
            "quantisation": self.model.quantisation,
            "engine": self.model.engine,
            "device": self.model.device,
            "context": self.model.context,
            "tokens_per_second": self.rate(),
            "warnings": self.warnings,
        })
    }

    /// For people.
    pub(super) fn people(&self) {
        println!("{}", self.lines().join("\n    "));
    }

    fn lines(&self) -> Vec<String> {
        let EngineModel { model, quantisation, engine, device, .. } = &self.model;
        let mut lines = vec![
            format!("{model} ({quantisation}) by {} on {}", engine.name, device.name),
            format!("tokens     {:>9.1} a second", self.rate()),
        ];
        lines.extend_from_slice(&self.warnings);
        lines
    }
}

/// Loads a model as `aitbc up` would, reads its speed, and ends the engine. Without a name it is the first of the store.
pub(super) async fn measure(
    settings: &Settings,
    directories: &Directories,
    wanted: Option<&ModelName>,
) -> Result<Tokens, TokensError> {
    let installed = chosen(&ModelStore::new(directories.models(settings)), wanted)?;
    let name = installed.manifest.model.clone();
    let config = engine_config(&settings.provide, vec![installed], PrivateConfig::default(), Vec::new());
    let engine = engine::start(config, &Metrics::default()).await?;
    let bar = ProgressBar::new_spinner().with_message(format!("loading {name}"));
    bar.enable_steady_tick(Duration::from_millis(100));
    let told = ready(engine.status(), &name, &bar, Instant::now() + LOAD_PATIENCE).await;
    bar.finish_and_clear();
    engine.shutdown(STOP_PATIENCE).await;
    told
}

/// The model asked for; without a name the first of the store.
fn chosen(store: &ModelStore, wanted: Option<&ModelName>) -> Result<Installed, TokensError> {
    if let Some(name) = wanted {
        return store.find(name)?.ok_or_else(|| TokensError::NotHere(name.clone()));
    }
    let first = store.list()?.into_iter().find(|installed| installed.manifest.kind == Kind::Gguf);
    first.ok_or_else(|| TokensError::NoModel(store.directory().to_owned()))
}

/// Waits for the only engine on the board.
async fn ready(
    mut board: watch::Receiver<Arc<Vec<EngineStatus>>>,
    name: &ModelName,
    bar: &ProgressBar,
    deadline: Instant,
) -> Result<Tokens, TokensError> {
    loop {
        let status = board.borrow_and_update().first().cloned();
        let fails = |reason: String| TokensError::Fails { model: name.clone(), reason };
        let Some(status) = status else { return Err(fails("no engine was started".to_owned())) };
        match status.state {
            EngineState::Loading { percent } => bar.set_message(format!("loading {name}: {percent} %")),
            EngineState::Ready => {
                let model = status.models.into_iter().next();
                let model = model.ok_or_else(|| fails("the engine has no model".to_owned()))?;
                return Ok(Tokens { model, warnings: status.warnings });
            }
            EngineState::BackingOff { reason, .. } | EngineState::Unusable { reason } => {
                return Err(fails(reason));
            }
        }
        match timeout_at(deadline, board.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(fails("the engine ended".to_owned())),
            Err(_) => return Err(TokensError::Slow(name.clone())),
        }
    }
}
