//! Small private models, and engines that serve them, for tests.

use super::PrivateConfig;
use crate::{
    engine::{self, EngineConfig, EngineHandle, EngineState},
    models::{Installed, ModelStore},
    telemetry::Metrics,
};
use aitbc_crypto::fhe::{
    Package, Profile,
    network::{Activation, Feature, Function, Inputs, Layer, Mode, Network, Outputs, Row},
};
use aitbc_protocol::job::ModelName;
use tempfile::TempDir;

/// The model: two values in, the larger minus the smaller of what is above zero in each out; two bootstraps.
pub(crate) const MODEL: &str = "difference";
/// A model without bootstraps: the sum of two values.
pub(crate) const LINEAR: &str = "sum";

fn inputs() -> Inputs {
    Inputs { features: vec![Feature { offset: 0.0, gain: 1.0 }; 2], low: -2.0, high: 2.0 }
}

fn row(weights: &[(u32, i16)]) -> Row {
    Row { bias: 0.0, weights: weights.to_vec() }
}

fn outputs() -> Outputs {
    Outputs { scale: 1.0, labels: Vec::new() }
}

/// `relu(a) - relu(b)`.
pub(crate) fn package() -> Package {
    let activation = Activation { function: Function::Relu, scale: 1.0, step: 1.0 };
    let network = Network {
        mode: Mode::Approximate,
        inputs: inputs(),
        layers: vec![
            Layer { rows: vec![row(&[(0, 1)]), row(&[(1, 1)])], range: 3.0, activation: Some(activation) },
            Layer { rows: vec![row(&[(0, 1), (1, -1)])], range: 5.0, activation: None },
        ],
        outputs: outputs(),
    };
    Package { name: MODEL.to_owned(), profile: Profile::Fast, network }
}

/// `a + b`.
pub(crate) fn linear() -> Package {
    let layers = vec![Layer { rows: vec![row(&[(0, 1), (1, 1)])], range: 5.0, activation: None }];
    let network = Network { mode: Mode::Approximate, inputs: inputs(), layers, outputs: outputs() };
    Package { name: LINEAR.to_owned(), profile: Profile::Fast, network }
}

/// An engine with both models, and a directory for everything.
pub(crate) struct Served {
    pub(crate) engine: EngineHandle,
    _directory: TempDir,
}

fn install(store: &ModelStore, directory: &TempDir, package: &Package) -> Installed {
    let file = directory.path().join("model.fhe");
    std::fs::write(&file, package.to_bytes().unwrap()).unwrap();
    store.deploy(None, &file).unwrap()
}

impl Served {
    /// Both models, ready. Makes a key to measure with, which takes a second.
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = ModelStore::new(directory.path().join("models"));
        let models = [package(), linear()].map(|package| install(&store, &directory, &package)).to_vec();
        let config = EngineConfig {
            models,
            context: 512,
            slots: 2,
            threads: Some(1),
            gpu_layers: None,
            memory_limit: Some(1 << 30),
            private: PrivateConfig { keys: directory.path().join("evaluation-keys"), quota: 1 << 30 },
            upstreams: Vec::new(),
            worker: None,
        };
        let engine = engine::start(config, &Metrics::default()).await.unwrap();
        let mut status = engine.status();
        let settled =
            status.wait_for(|all| all.iter().all(|one| !matches!(one.state, EngineState::Loading { .. })));
        let all = settled.await.unwrap().clone();
        assert!(all.iter().all(|one| one.state == EngineState::Ready), "{all:?}");
        Self { engine, _directory: directory }
    }

    /// The weights of a model.
    pub(crate) fn weights(&self, model: &str) -> aitbc_protocol::Digest {
        let name: ModelName = model.parse().unwrap();
        self.engine.model(&name, None).unwrap().weights
    }
}
