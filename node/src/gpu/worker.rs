//! Graphics drivers crash now and then, and some take the process with them: whatever goes through one runs in a child of
//! this same binary, and its end is a reason and not the end of the node.

use super::{
    compute::{
        self, Gpu,
        rates::{self, What},
    },
    inventory::Adapter,
    proving,
};
use aitbc_protocol::gpu::Api;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    io::{self, Write as _},
    path::Path,
    process::{ExitCode, Stdio},
    time::Duration,
};
use tokio::{io::AsyncReadExt as _, process::Command, time::timeout};

/// The hidden command that makes this binary the child.
pub const WORKER_COMMAND: &str = "gpu-worker";

/// How long asking all drivers may take: the first start of one compiles its own shaders.
const LIST_PATIENCE: Duration = Duration::from_secs(30);
/// How long measuring one rate of a GPU may take, however slow it is.
const MEASURE_PATIENCE: Duration = Duration::from_secs(300);
/// Longest answer of the child.
const MAX_ANSWER: u64 = 1 << 20;

/// Why the child brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// It did not start.
    #[error("the process that asks the graphics drivers cannot be started: {0}")]
    Start(#[from] io::Error),
    /// A driver hangs.
    #[error("a graphics driver did not answer within {0:?}: update it, or restart the machine")]
    Hangs(Duration),
    /// A driver crashed.
    #[error("a graphics driver crashed ({0}): update or reinstall it")]
    Crashed(String),
    /// The GPU does not do what was asked.
    #[error("{0}")]
    Failed(String),
}

/// What the child says on its output, as its only line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer<T> {
    Ok(T),
    Failed(String),
}

/// What every graphics interface tells.
pub async fn adapters(binary: &Path) -> Result<Vec<Adapter>, WorkerError> {
    ask(binary, &["adapters"], LIST_PATIENCE).await
}

/// Measures one rate of the adapter of this place in the list of [`adapters`], as [`rates::rate`] does: each in a child of
/// its own, so that a driver that fails at one hides no other.
pub async fn rate(binary: &Path, index: usize, what: What) -> Result<Option<f64>, WorkerError> {
    ask(binary, &["rate", &index.to_string(), what.word()], MEASURE_PATIENCE).await
}

async fn ask<T: DeserializeOwned>(
    binary: &Path,
    arguments: &[&str],
    patience: Duration,
) -> Result<T, WorkerError> {
    let mut child = Command::new(binary)
        .arg(WORKER_COMMAND)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // Drivers print what they like.
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let stdout = child.stdout.take().expect("stdout is piped");
    let talk = async {
        let mut answer = Vec::new();
        stdout.take(MAX_ANSWER).read_to_end(&mut answer).await?;
        Ok::<_, io::Error>((answer, child.wait().await?))
    };
    let (answer, status) = timeout(patience, talk).await.map_err(|_| WorkerError::Hangs(patience))??;
    match serde_json::from_slice(&answer) {
        Ok(Answer::Ok(answer)) => Ok(answer),
        Ok(Answer::Failed(reason)) => Err(WorkerError::Failed(reason)),
        Err(_) => Err(WorkerError::Crashed(status.to_string())),
    }
}

/// The child's main function.
pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(2).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let told = match arguments.as_slice() {
        ["adapters"] => tell(&Answer::Ok(list())),
        ["rate", index, what] => tell(&measured(index, what)),
        [proving::PROVE, place] => proving::main(place),
        _ => return ExitCode::from(2),
    };
    if told.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn tell<T: Serialize>(answer: &Answer<T>) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    serde_json::to_writer(&mut stdout, answer)?;
    stdout.flush()
}

/// All adapters, in an order that is the same in every child: OpenGL, which tells least of them, comes last.
fn known() -> Vec<(wgpu::Adapter, Adapter)> {
    let adapters = compute::adapters().into_iter();
    let mut known: Vec<_> = adapters.filter_map(|wgpu| Some((described(&wgpu.get_info())?, wgpu))).collect();
    known.sort_by_key(|(adapter, _)| adapter.api == Api::Gl);
    known.into_iter().map(|(adapter, wgpu)| (wgpu, adapter)).collect()
}

fn list() -> Vec<Adapter> {
    known().into_iter().map(|(_, adapter)| adapter).collect()
}

/// The adapter of this place in the list.
pub(super) fn adapter(index: &str) -> Result<(wgpu::Adapter, Adapter), String> {
    let wanted: usize = index.parse().unwrap_or(usize::MAX);
    known().into_iter().nth(wanted).ok_or_else(|| format!("there is no adapter {index} any more"))
}

fn measured(index: &str, what: &str) -> Answer<Option<f64>> {
    let (wgpu, _) = match adapter(index) {
        Ok(found) => found,
        Err(reason) => return Answer::Failed(reason),
    };
    let Some(what) = What::ALL.into_iter().find(|known| known.word() == what) else {
        return Answer::Failed(format!("{what} is no rate"));
    };
    match Gpu::open(&wgpu).and_then(|gpu| rates::rate(&gpu, what)) {
        Ok(rate) => Answer::Ok(rate),
        Err(error) => Answer::Failed(error.to_string()),
    }
}

fn described(info: &wgpu::AdapterInfo) -> Option<Adapter> {
    let api = match info.backend {
        wgpu::Backend::Vulkan => Api::Vulkan,
        wgpu::Backend::Metal => Api::Metal,
        wgpu::Backend::Dx12 => Api::Dx12,
        wgpu::Backend::Gl => Api::Gl,
        wgpu::Backend::BrowserWebGpu => Api::WebGpu,
        wgpu::Backend::Noop => return None,
    };
    let driver = [info.driver.as_str(), info.driver_info.as_str()];
    let driver: Vec<&str> = driver.into_iter().filter(|part| !part.is_empty()).collect();
    Some(Adapter {
        api,
        name: info.name.clone(),
        vendor: info.vendor,
        device: info.device,
        address: info.device_pci_bus_id.clone(),
        driver: driver.join(" "),
        software: info.device_type == wgpu::DeviceType::Cpu,
    })
}
