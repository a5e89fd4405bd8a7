//! Watches heat, watts, battery, hours and the owner's own use once a second, and says how many jobs may run.
//!
//! ```text
//! Sources --Sample--> Thermometer, OwnerWatch (one a GPU) --.
//! battery, clock, settings ---------------------------------+--> decide --PowerState--> desk, announcer, jobs, status
//! ```

use super::{
    FoundGpu,
    telemetry::{self, Sample, Source, nvml, supply},
};
use crate::telemetry::Metrics;
use aitbc_protocol::{
    MicroCredits,
    gpu::{
        heat::{Heat, Judged, Ladder, LadderError, MakerLimits, OwnerLadder, SensorFault, Thermometer},
        owner::{OwnerUse, OwnerWatch},
        power::{Allowed, Conditions, Decision, Faulty, Running, Supply, decide, electricity, pace_within},
    },
    offer::Load,
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
};
use serde::Serialize;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

/// How often the sensors are read.
const EVERY: Duration = Duration::from_secs(1);
/// Charge of a battery in percent below which nothing is taken, where the owner says nothing else.
pub const LEAST_CHARGE: u8 = 30;
/// A driver that takes longer for an answer hangs: what it said before does not count any more.
const PATIENCE: Duration = Duration::from_secs(3);

/// What is watched and what is allowed.
#[derive(Clone, Debug, PartialEq)]
pub struct PowerConfig {
    /// The owner's limits.
    pub allowed: Allowed,
    /// The owner's temperatures.
    pub heat: OwnerLadder,
    /// Where sensors are read instead of the machine's: a tree of files with its own `sys` and `proc`.
    pub simulated: Option<PathBuf>,
    /// What a kilowatt-hour costs.
    pub price: MicroCredits,
}

impl Default for PowerConfig {
    /// No limit but those of heat, of the owner's own use, and of a battery.
    fn default() -> Self {
        let allowed = Allowed { hours: Vec::new(), watts: None, on_battery: false, least_charge: LEAST_CHARGE };
        Self { allowed, heat: OwnerLadder::default(), simulated: None, price: MicroCredits::ZERO }
    }
}

/// Why the GPUs cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum PowerError {
    /// The owner's ladder does not go with a GPU.
    #[error("[heat] does not go with {gpu}: {source}")]
    Ladder {
        /// Which GPU.
        gpu: String,
        /// Why.
        source: LadderError,
    },
    /// A driver hangs.
    #[error(
        "a GPU's driver did not tell of its sensors within {FINDING:?}: restart the machine, or update the driver"
    )]
    Hangs,
}

/// One GPU as it is now.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GpuState {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub address: String,
    /// Whether models can run on it.
    pub usable: bool,
    /// Whether it has sensors that can be read. One without any limits nothing.
    pub watched: bool,
    /// What its sensors show.
    #[serde(flatten)]
    pub sample: Sample,
    /// How hot it is taken to be.
    pub heat: Heat,
    /// Its ladder.
    pub ladder: Ladder,
    /// Why its temperature is not believed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<SensorFault>,
    /// What its owner does with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<OwnerUse>,
}

/// What the limits say now.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PowerState {
    /// Whether the sensors are a tree of files and no machine's.
    pub simulated: bool,
    /// Every GPU.
    pub gpus: Vec<GpuState>,
    /// What feeds the machine.
    #[serde(flatten)]
    pub supply: Supply,
    /// What all GPUs draw, in watts, as far as that is measured.
    pub watts: Option<u32>,
    /// What the drivers let those draw on which models run, in watts, as far as they have told.
    pub caps: Option<u32>,
    /// What the owner lets them draw, in watts.
    pub budget: Option<u32>,
    /// What a kilowatt-hour costs.
    pub price: MicroCredits,
    /// What follows.
    pub decision: Decision,
    /// The limits of the decision in words.
    pub reasons: String,
}

impl PowerState {
    /// No GPU, no limit.
    #[cfg(test)]
    pub(crate) fn unlimited(slots: u32) -> Self {
        Self {
            simulated: false,
            gpus: Vec::new(),
            supply: Supply::Mains,
            watts: None,
            caps: None,
            budget: None,
            price: MicroCredits::ZERO,
            decision: Decision { slots, offered: slots, running: Running::GoOn, limits: Vec::new() },
            reasons: String::new(),
        }
    }

    /// Why no job is taken at all; `None` where some may come, at the latest when one of those that run ends.
    pub fn closed(&self) -> Option<String> {
        (self.decision.offered == 0).then(|| self.reasons.clone())
    }

    /// What the electricity for a thousand tokens costs at this speed (milli-tokens a second), at the draw to which the
    /// GPUs are limited: their own caps, or the owner's budget where that is less. Nothing where neither is known.
    pub fn electricity(&self, speed: u32) -> MicroCredits {
        let most = match (self.caps, self.budget) {
            (Some(caps), Some(budget)) => caps.min(budget),
            (caps, budget) => caps.or(budget).unwrap_or(0),
        };
        electricity(u64::from(most) * 1_000, self.price, 1_000, speed).unwrap_or(MicroCredits::ZERO)
    }
}

/// The sensors of one GPU with what is remembered of it.
struct Watched {
    gpu: FoundGpu,
    root: PathBuf,
    /// None where it has no sensors: nothing tells of its heat, and it is left to its driver.
    source: Option<Box<dyn Source>>,
    thermometer: Thermometer,
    owner: OwnerWatch,
}

impl Watched {
    fn read(&mut self, now: Duration, own: &[u32]) -> GpuState {
        let Some(source) = &mut self.source else { return self.state(Sample::default(), Heat::Cool, None, None) };
        if telemetry::sleeps(&self.root, &self.gpu.address) {
            // It is cool, nobody uses it, and reading its sensors would wake it.
            let sample = Sample { asleep: true, ..Sample::default() };
            return self.state(sample, Heat::Cool, None, None);
        }
        let sample = source.sample(now, own);
        let Judged { heat, fault } = self.thermometer.read(now, sample.core_celsius, sample.utilisation);
        let owner = self.owner.read(now, &sample.shares.others());
        self.state(sample, heat, fault, owner)
    }

    /// Before anything was read.
    fn unread(&self) -> GpuState {
        let fault = self.source.is_some().then_some(SensorFault::Missing);
        let heat = if fault.is_some() { Heat::Shutdown } else { Heat::Cool };
        self.state(Sample::default(), heat, fault, None)
    }

    fn state(&self, sample: Sample, heat: Heat, fault: Option<SensorFault>, owner: Option<OwnerUse>) -> GpuState {
        GpuState {
            name: self.gpu.device.name.to_string(),
            address: self.gpu.address.clone(),
            usable: self.gpu.unusable.is_none(),
            watched: self.source.is_some(),
            sample,
            heat,
            ladder: *self.thermometer.ladder(),
            fault,
            owner,
        }
    }
}

/// All sensors.
pub struct Sensors {
    watched: Vec<Watched>,
    started: Instant,
}

impl std::fmt::Debug for Sensors {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Sensors").field("gpus", &self.watched.len()).finish_non_exhaustive()
    }
}

impl Sensors {
    /// Finds the sensors of all GPUs.
    pub fn find(config: &PowerConfig) -> Result<Self, PowerError> {
        let (root, gpus, library) = match &config.simulated {
            Some(root) => (root.clone(), super::gpus_of(root), None),
            None => (PathBuf::from("/"), super::gpus(), nvml::Library::load(None, Path::new("/proc")).ok()),
        };
        let watched = gpus.into_iter().map(|gpu| {
            let source = telemetry::source(&root, library.as_ref(), &gpu);
            let maker = match &source {
                // Asking one that sleeps would wake it.
                Some(source) if !telemetry::sleeps(&root, &gpu.address) => source.limits(),
                _ => MakerLimits::default(),
            };
            let ladder = Ladder::new(&config.heat, &maker)
                .map_err(|source| PowerError::Ladder { gpu: gpu.device.name.to_string(), source })?;
            let (thermometer, owner) = (Thermometer::new(ladder), OwnerWatch::default());
            Ok(Watched { gpu, root: root.clone(), source, thermometer, owner })
        });
        Ok(Self { watched: watched.collect::<Result<_, _>>()?, started: Instant::now() })
    }

    /// The GPUs that they belong to, those without sensors too.
    pub fn gpus(&self) -> Vec<FoundGpu> {
        self.watched.iter().map(|watched| watched.gpu.clone()).collect()
    }

    /// What is known of them before anything is read: too hot, for nothing shows that they are not.
    fn unread(&self) -> Vec<GpuState> {
        self.watched.iter().map(Watched::unread).collect()
    }

    /// Reads them all; `own` are this node's processes. Takes as long as the drivers do.
    pub fn read(&mut self, own: &[u32]) -> Vec<GpuState> {
        let now = self.started.elapsed();
        self.watched.iter_mut().map(|watched| watched.read(now, own)).collect()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GpuLabel {
    gpu: String,
}

/// What operators see of it.
#[derive(Clone, Debug, Default)]
struct PowerMetrics {
    celsius: Family<GpuLabel, Gauge<f64, AtomicU64>>,
    watts: Family<GpuLabel, Gauge<f64, AtomicU64>>,
    utilisation: Family<GpuLabel, Gauge<f64, AtomicU64>>,
    slots: Gauge,
}

impl PowerMetrics {
    fn new(metrics: &Metrics) -> Self {
        let this = Self::default();
        metrics.register(|registry| {
            let registry = registry.sub_registry_with_prefix("gpu");
            registry.register("celsius", "Temperature of the core", this.celsius.clone());
            registry.register("watts", "Draw", this.watts.clone());
            registry.register("utilisation", "Part of the time that it computes", this.utilisation.clone());
            registry.register("slots", "Jobs that heat, power and the owner allow", this.slots.clone());
        });
        this
    }

    fn note(&self, state: &PowerState) {
        self.slots.set(i64::from(state.decision.slots));
        for GpuState { address, sample, .. } in &state.gpus {
            let label = GpuLabel { gpu: address.clone() };
            for (family, value) in [
                (&self.celsius, sample.core_celsius),
                (&self.watts, sample.watts),
                (&self.utilisation, sample.utilisation),
            ] {
                if let Some(value) = value {
                    family.get_or_create(&label).set(f64::from(value));
                }
            }
        }
    }
}

/// What of this node uses GPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uses {
    /// Its processes beside this one.
    pub processes: Vec<u32>,
    /// Whether a model runs on a GPU.
    pub on_gpu: bool,
}

/// What the watch goes by.
pub struct PowerParts {
    /// What runs now.
    pub uses: Box<dyn Fn() -> Uses + Send>,
    /// How many jobs run.
    pub load: watch::Receiver<Load>,
    /// Jobs at a time that the owner has set.
    pub slots: u32,
}

impl std::fmt::Debug for PowerParts {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("PowerParts").field("slots", &self.slots).finish_non_exhaustive()
    }
}

/// How long finding the sensors may take.
const FINDING: Duration = Duration::from_secs(10);

/// Watches until `stop` is cancelled. The first state is there when this returns.
pub async fn start(
    config: PowerConfig,
    parts: PowerParts,
    metrics: &Metrics,
    stop: CancellationToken,
) -> Result<(watch::Receiver<Arc<PowerState>>, JoinHandle<()>), PowerError> {
    let of_config = config.clone();
    let finding = tokio::task::spawn_blocking(move || Sensors::find(&of_config));
    let found = timeout(FINDING, finding).await.map_err(|_| PowerError::Hangs)?;
    let sensors = found.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
    let mut watch = Watch {
        config,
        parts,
        metrics: PowerMetrics::new(metrics),
        last: sensors.unread(),
        sensors: Some(sensors),
        reading: None,
        caps: HashMap::new(),
        pace: 100,
        told_no_watts: false,
    };
    watch.read().await;
    let first = watch.state();
    report(&first);
    let (states, reader) = watch::channel(Arc::new(first));
    Ok((reader, tokio::spawn(watch.run(states, stop))))
}

struct Watch {
    config: PowerConfig,
    parts: PowerParts,
    metrics: PowerMetrics,
    /// Those that nobody reads now.
    sensors: Option<Sensors>,
    /// A reading that goes on.
    reading: Option<JoinHandle<(Sensors, Vec<GpuState>)>>,
    last: Vec<GpuState>,
    /// The most that each driver ever let its GPU draw: one that sleeps tells nothing.
    caps: HashMap<String, f32>,
    /// Speed in percent that keeps the draw within the budget.
    pace: u8,
    told_no_watts: bool,
}

impl Watch {
    async fn run(mut self, states: watch::Sender<Arc<PowerState>>, stop: CancellationToken) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            self.read().await;
            let state = self.state();
            self.metrics.note(&state);
            states.send_if_modified(|known| {
                // Not at each figure within them.
                let kinds = |state: &PowerState| -> Vec<_> {
                    state.decision.limits.iter().map(std::mem::discriminant).collect()
                };
                if kinds(known) != kinds(&state) {
                    report(&state);
                }
                let changed = **known != state;
                *known = Arc::new(state);
                changed
            });
        }
    }

    /// Reads the sensors. Where a driver hangs, or a reading failed, they are not believed.
    async fn read(&mut self) {
        let reading = match (self.reading.take(), self.sensors.take()) {
            (Some(reading), _) => Some(reading),
            (None, Some(sensors)) => Some(self.begin(sensors)),
            (None, None) => None,
        };
        let Some(mut reading) = reading else { return self.distrust() };
        match timeout(PATIENCE, &mut reading).await {
            Ok(Ok((sensors, last))) => (self.sensors, self.last) = (Some(sensors), last),
            Ok(Err(error)) => {
                tracing::error!(%error, "reading the sensors failed: they count as broken from now on");
                self.distrust();
            }
            Err(_) => {
                self.distrust();
                self.reading = Some(reading);
            }
        }
    }

    fn distrust(&mut self) {
        for gpu in self.last.iter_mut().filter(|gpu| gpu.watched) {
            gpu.sample = Sample::default();
            (gpu.heat, gpu.fault) = (Heat::Shutdown, Some(SensorFault::Missing));
        }
    }

    fn begin(&self, mut sensors: Sensors) -> JoinHandle<(Sensors, Vec<GpuState>)> {
        let mut own = vec![std::process::id()];
        own.extend((self.parts.uses)().processes);
        tokio::task::spawn_blocking(move || {
            let gpus = sensors.read(&own);
            (sensors, gpus)
        })
    }

    fn state(&mut self) -> PowerState {
        let root = self.config.simulated.clone().unwrap_or_else(|| PathBuf::from("/"));
        let supply = supply::supply(&root);
        let used = self.used();
        let sum = |watts: &[f32]| (!watts.is_empty()).then(|| watts.iter().sum::<f32>().ceil() as u32);
        let drawn = sum(&used.iter().filter_map(|gpu| gpu.sample.watts).collect::<Vec<_>>());
        for GpuState { address, sample, .. } in &used {
            if let Some(cap) = sample.cap_watts {
                let most = self.caps.entry(address.clone()).or_default();
                *most = most.max(cap);
            }
        }
        let caps: Vec<f32> = used.iter().filter_map(|gpu| self.caps.get(&gpu.address)).copied().collect();
        self.warn_of_unknown(!used.is_empty(), drawn, sum(&caps));
        let conditions = self.conditions(&used, supply, drawn);
        if let (Some(budget), Some(drawn)) = (self.config.allowed.watts, drawn) {
            self.pace = pace_within(budget, drawn, self.pace);
        }
        let decision = decide(&self.config.allowed, &conditions, self.parts.slots);
        let reasons: Vec<String> = decision.limits.iter().map(ToString::to_string).collect();
        PowerState {
            simulated: self.config.simulated.is_some(),
            gpus: self.last.clone(),
            supply,
            watts: drawn,
            caps: sum(&caps),
            budget: self.config.allowed.watts,
            price: self.config.price,
            decision,
            reasons: reasons.join("; "),
        }
    }

    /// The GPUs on which models of this node run, as far as that can be told: others limit nothing, whatever they do.
    fn used(&self) -> Vec<GpuState> {
        let simulated = self.config.simulated.is_some();
        if !simulated && !(self.parts.uses)().on_gpu {
            return Vec::new();
        }
        let able = self.last.iter().filter(|gpu| gpu.watched && (gpu.usable || simulated));
        let holds = |gpu: &GpuState| gpu.sample.shares.own_memory.is_some_and(|bytes| bytes > 0);
        let told = able.clone().any(holds);
        able.filter(|gpu| !told || holds(gpu) || gpu.sample.shares.own_memory.is_none()).cloned().collect()
    }

    /// Settings that have no effect because nothing tells of watts.
    fn warn_of_unknown(&mut self, used: bool, drawn: Option<u32>, caps: Option<u32>) {
        if !used || std::mem::replace(&mut self.told_no_watts, true) {
            return;
        }
        if self.config.allowed.watts.is_some() && drawn.is_none() {
            tracing::warn!("no GPU tells what it draws: `watts` under [power] has no effect");
        }
        if self.config.price != MicroCredits::ZERO && caps.is_none() && self.config.allowed.watts.is_none() {
            tracing::warn!(
                "no GPU tells what it may draw: set `watts` under [power], or `price_per_kwh` has no effect"
            );
        }
    }

    fn conditions(&self, used: &[GpuState], supply: Supply, drawn: Option<u32>) -> Conditions {
        let load = *self.parts.load.borrow();
        let believed = used.iter().filter(|gpu| gpu.fault.is_none());
        let faulty = |gpu: &GpuState| {
            Some(Faulty { gpu: format!("{} ({})", gpu.name, gpu.address), fault: gpu.fault?, heat: gpu.heat })
        };
        Conditions {
            minute: minute_of_day(),
            supply,
            heat: believed.map(|gpu| gpu.heat).max().unwrap_or_default(),
            faults: used.iter().filter_map(faulty).collect(),
            owner: used.iter().find_map(|gpu| gpu.owner),
            drawn,
            pace: self.pace,
            running: load.running.saturating_add(load.queued),
        }
    }
}

fn minute_of_day() -> u16 {
    let time = jiff::Zoned::now().time();
    u16::from(time.hour().unsigned_abs()) * 60 + u16::from(time.minute().unsigned_abs())
}

/// Says in the log what has begun or ended to limit.
fn report(state: &PowerState) {
    let Decision { slots, running, .. } = state.decision;
    let reasons = &state.reasons;
    match running {
        Running::Stop => tracing::error!(reasons, "all jobs are stopped"),
        _ if reasons.is_empty() => tracing::info!(slots, "heat, power and owner limit nothing"),
        Running::GoOn | Running::Slow(_) => tracing::warn!(slots, reasons, "jobs are limited"),
    }
}
