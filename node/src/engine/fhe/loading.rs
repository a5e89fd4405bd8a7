//! Reads a model, and measures how fast this machine computes it.

use super::{Workshop, computing};
use crate::{
    engine::{EngineError, EngineModel},
    gpu,
    models::Installed,
};
use aitbc_crypto::fhe::{ClientKey, EvaluateError, Interface, Package, ServerKey, evaluate, network::Mode};
use aitbc_protocol::{
    bytes::BoundedBytes,
    job::MAX_TOKENS,
    offer::Engine,
    private::{MAX_INTERFACE, PrivateOffer},
    sealed::{MAX_SEALED_INPUT, MAX_SEALED_OUTPUT},
    text::Line,
    wire,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// The release of the library that computes: what decides the numbers.
const TFHE_VERSION: &str = "1.5.4";
/// Bootstraps of a measurement, for each thread: enough that starting the threads does not count.
const MEASURED: u32 = 4;

/// Why a model cannot be served; each says what to change.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error("{0}")]
    Read(std::io::Error),
    #[error(transparent)]
    Package(#[from] aitbc_crypto::fhe::PackageError),
    #[error("its {what} of {got} bytes do not fit a message of {most}: compile a smaller model")]
    TooLarge { what: &'static str, got: usize, most: usize },
    #[error("it takes {0} bootstraps, {MAX_TOKENS} are the most that a job is billed: compile a smaller model")]
    TooLong(u32),
    #[error("{0}; raise `provide.memory_mib`, or compile it for a smaller profile")]
    Memory(EngineError),
    #[error("its speed could not be measured: {0}")]
    Measuring(String),
}

/// A model that is loaded.
#[derive(Clone, Debug)]
pub(super) struct Loaded {
    pub(super) package: Arc<Package>,
    pub(super) described: BoundedBytes<MAX_INTERFACE>,
    pub(super) values: u32,
    pub(super) bootstraps: u32,
    /// Bootstraps of about a quarter of a second.
    pub(super) batch: u32,
}

/// Loads a model. Takes some seconds: a key is made to measure with, and thrown away.
pub(super) fn load(
    installed: &Installed,
    workshop: &Workshop,
    slots: u32,
) -> Result<(EngineModel, Loaded), LoadError> {
    let bytes = std::fs::read(&installed.path).map_err(LoadError::Read)?;
    let package = Arc::new(Package::read(&bytes)?);
    let interface = package.interface();
    let profile = package.profile;
    let (values, bootstraps) = (interface.values(), interface.bootstraps());
    bounded("inputs", profile.input_bytes(values), MAX_SEALED_INPUT)?;
    bounded("answers", interface.output_bytes(), MAX_SEALED_OUTPUT)?;
    if bootstraps > MAX_TOKENS {
        return Err(LoadError::TooLong(bootstraps));
    }
    let described = wire::encode_payload(&interface, usize::MAX).unwrap_or_default();
    let size = described.len();
    let described = BoundedBytes::new(described).map_err(|_| LoadError::TooLarge {
        what: "description",
        got: size,
        most: MAX_INTERFACE,
    })?;
    let speed = if bootstraps == 0 {
        0
    } else {
        workshop.keys.admits(profile).map_err(LoadError::Memory)?;
        measure(&package, &interface, workshop.threads)?
    };
    let values = u32::try_from(values).unwrap_or(u32::MAX);
    let model = EngineModel {
        model: installed.manifest.model.clone(),
        weights: installed.manifest.weights,
        engine: Engine { name: Line::lossy("tfhe"), version: Line::lossy(TFHE_VERSION) },
        quantisation: Line::lossy(match package.network.mode {
            Mode::Exact => "exact",
            Mode::Approximate => "approximate",
        }),
        device: gpu::cpu(),
        context: values.saturating_add(bootstraps),
        speed,
        declared: false,
        slots,
        private: Some(PrivateOffer {
            profile: Line::lossy(profile.name()),
            bootstraps,
            key_bytes: if bootstraps == 0 { 0 } else { profile.evaluation_key_bytes() as u64 },
        }),
    };
    let batch = (speed / 4_000).max(u32::try_from(workshop.threads).unwrap_or(1));
    Ok((model, Loaded { package, described, values, bootstraps, batch }))
}

fn bounded(what: &'static str, got: usize, most: usize) -> Result<(), LoadError> {
    if got > most { Err(LoadError::TooLarge { what, got, most }) } else { Ok(()) }
}

/// Bootstraps of this model that all threads together do in a thousand seconds.
fn measure(package: &Package, interface: &Interface, threads: usize) -> Result<u32, LoadError> {
    let failed = |error: &dyn std::fmt::Display| LoadError::Measuring(error.to_string());
    let pool = computing::pool(threads).map_err(|error| failed(&error))?;
    pool.install(|| {
        let client = ClientKey::generate(package.profile).map_err(|error| failed(&error))?;
        let key =
            ServerKey::from_bytes(package.profile, &client.evaluation_key()).map_err(|error| failed(&error))?;
        let input = client.encrypt(interface, &vec![0.0; interface.values()]).map_err(|error| failed(&error))?;
        let wanted = MEASURED.saturating_mul(u32::try_from(threads).unwrap_or(1));
        let (mut began, mut took, mut counted): (Option<Instant>, _, _) = (None, Duration::ZERO, 0);
        let result = evaluate(package, Some(&key), &input, &mut |left| {
            if let Some(since) = began {
                took = since.elapsed();
                return 0;
            }
            counted = left.min(wanted);
            began = Some(Instant::now());
            counted
        });
        match (result, began) {
            (Err(EvaluateError::Cancelled), _) => {}
            (Ok(_), Some(since)) => took = since.elapsed(),
            (Err(error), _) => return Err(failed(&error)),
            (Ok(_), None) => return Err(failed(&"it has no bootstraps")),
        }
        // Casts of floating point saturate.
        let speed = (f64::from(counted) * 1000.0 / took.as_secs_f64().max(1e-6)) as u32;
        Ok(speed.max(1))
    })
}
