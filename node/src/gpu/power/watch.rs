//! The task that reads the sensors and decides.

use super::{FINDING, GpuState, PowerConfig, PowerError, PowerState, Sensors, metrics::PowerMetrics};
use crate::{
    gpu::telemetry::{Sample, supply},
    telemetry::Metrics,
};
use aitbc_protocol::{
    MicroCredits,
    gpu::{
        heat::{Heat, SensorFault},
        power::{Conditions, Decision, Faulty, Running, Supply, decide, pace_within},
    },
    offer::Load,
};
use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

/// How often the sensors are read.
const EVERY: Duration = Duration::from_secs(1);
/// A driver that takes longer for an answer hangs: what it said before does not count any more.
const PATIENCE: Duration = Duration::from_secs(3);

/// What of this node uses GPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uses {
    /// Its processes beside this one.
    pub processes: Vec<u32>,
    /// Whether a model runs on a GPU.
    pub on_gpu: bool,
    /// Whether a challenge is answered on one.
    pub proving: bool,
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
    let mut watch = Watch::new(config, parts, metrics, sensors);
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
    fn new(config: PowerConfig, parts: PowerParts, metrics: &Metrics, sensors: Sensors) -> Self {
        Self {
            config,
            parts,
            metrics: PowerMetrics::new(metrics),
            last: sensors.unread(),
            sensors: Some(sensors),
            reading: None,
            caps: HashMap::new(),
            pace: 100,
            told_no_watts: false,
        }
    }

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
        let Uses { on_gpu, proving, .. } = (self.parts.uses)();
        let used = self.used(on_gpu, proving);
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
        let conditions = self.conditions(&used, supply, drawn, proving);
        // What a challenge draws ends with it, and says nothing of how fast models may run.
        if let (Some(budget), Some(drawn)) = (self.config.allowed.watts, drawn.filter(|_| !proving)) {
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

    /// The GPUs on which models of this node run or a challenge is answered, as far as that can be told: others limit nothing,
    /// whatever they do.
    fn used(&self, on_gpu: bool, proving: bool) -> Vec<GpuState> {
        let simulated = self.config.simulated.is_some();
        let on_gpu = simulated || on_gpu;
        if !on_gpu && !proving {
            return Vec::new();
        }
        let able = self.last.iter().filter(|gpu| gpu.watched && (gpu.usable || simulated));
        let holds = |gpu: &GpuState| gpu.sample.shares.own_memory.is_some_and(|bytes| bytes > 0);
        let told = able.clone().any(holds);
        // What proves holds nothing at first, and another card than the one it begins on may be its owner's.
        let any = on_gpu && !told;
        able.filter(|gpu| any || holds(gpu) || gpu.sample.shares.own_memory.is_none()).cloned().collect()
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

    fn conditions(&self, used: &[GpuState], supply: Supply, drawn: Option<u32>, proving: bool) -> Conditions {
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
            running: load.running.saturating_add(load.queued).saturating_add(proving.into()),
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

#[cfg(test)]
mod tests;
