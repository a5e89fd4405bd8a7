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
        // What a challenge draws ends with it, and says nothing of how fast models may run.
        if let (Some(budget), Some(drawn)) =
            (self.config.allowed.watts, drawn.filter(|_| !(self.parts.uses)().proving))
        {
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
            running: load.running.saturating_add(load.queued).saturating_add((self.parts.uses)().proving.into()),
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
mod tests {
    use super::{super::sensors::tests::sensors, *};
    use crate::gpu::telemetry::{Shares, Source};
    use aitbc_protocol::gpu::heat::MakerLimits;
    use std::sync::mpsc;

    /// Shows what it is told, and waits for it.
    struct Told(mpsc::Receiver<Sample>);

    impl Source for Told {
        fn sample(&mut self, _: Duration, _: &[u32]) -> Sample {
            self.0.recv().unwrap_or_default()
        }

        fn limits(&self) -> MakerLimits {
            MakerLimits::default()
        }
    }

    fn watch(cards: Vec<(&str, Option<Box<dyn Source>>)>, on_gpu: bool) -> Watch {
        let (_, load) = watch::channel(Load::default());
        let uses = Box::new(move || Uses { on_gpu, ..Uses::default() });
        let parts = PowerParts { uses, load, slots: 4 };
        Watch::new(PowerConfig::default(), parts, &Metrics::default(), sensors(cards))
    }

    fn at(degrees: f32) -> Sample {
        Sample { core_celsius: Some(degrees), ..Sample::default() }
    }

    #[tokio::test]
    async fn a_driver_that_hangs_stops_jobs_until_it_answers() {
        let (tell, told) = mpsc::channel();
        let mut watch = watch(vec![("a", Some(Box::new(Told(told))))], true);
        assert_eq!(watch.state().decision.running, Running::Stop, "before anything was read");
        tell.send(at(50.0)).expect("it listens");
        watch.read().await;
        assert_eq!(watch.state().decision.slots, 4);
        // Nothing is told: it hangs.
        watch.read().await;
        let state = watch.state();
        assert_eq!((state.decision.slots, state.decision.running), (0, Running::Stop));
        assert!(state.reasons.contains("a card (a): the temperature cannot be read"), "{}", state.reasons);
        tell.send(at(51.0)).expect("it listens");
        watch.read().await;
        assert_eq!(watch.state().decision.slots, 4, "and goes on where it answers again");
    }

    #[tokio::test]
    async fn only_gpus_on_which_models_run_limit() {
        let card = |degrees, own_memory| -> Option<Box<dyn Source>> {
            let (tell, told) = mpsc::channel();
            let shares = Shares { own_memory, ..Shares::default() };
            tell.send(Sample { shares, ..at(degrees) }).expect("it listens");
            Some(Box::new(Told(told)))
        };
        let decide = async |cards, on_gpu| {
            let mut watch = watch(cards, on_gpu);
            watch.read().await;
            watch.state().decision.slots
        };
        assert_eq!(decide(vec![("hot", card(90.0, Some(0)))], false).await, 4, "models run on the processor");
        let both = vec![("hot", card(90.0, Some(0))), ("cool", card(40.0, Some(1 << 30)))];
        assert_eq!(decide(both, true).await, 4, "the hot one is the owner's");
        let both = vec![("hot", card(90.0, Some(1))), ("cool", card(40.0, Some(0)))];
        assert_eq!(decide(both, true).await, 0);
        let unknown = vec![("hot", card(90.0, None)), ("none", None)];
        assert_eq!(decide(unknown, true).await, 0, "where it is not told, each may be the one");
        assert_eq!(decide(vec![("none", None)], true).await, 4, "nothing tells of its heat");
    }

    #[tokio::test]
    async fn electricity_goes_by_the_caps_seen() {
        let (tell, told) = mpsc::channel();
        let mut watch = watch(vec![("a", Some(Box::new(Told(told))))], true);
        watch.config.price = MicroCredits(300_000);
        tell.send(Sample { cap_watts: Some(250.0), ..at(40.0) }).expect("it listens");
        watch.read().await;
        assert_eq!(watch.state().electricity(50_000), MicroCredits(417), "as the guide reckons");
        tell.send(Sample { asleep: true, ..Sample::default() }).expect("it listens");
        watch.read().await;
        assert_eq!(watch.state().electricity(50_000), MicroCredits(417), "also while it sleeps");
        watch.config.allowed.watts = Some(125);
        assert_eq!(watch.state().electricity(50_000), MicroCredits(209));
        assert_eq!(watch.state().electricity(0), MicroCredits::ZERO);
    }
}
