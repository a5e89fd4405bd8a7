//! Nodes of the city: the subsystems of a real one, wired as `node` wires them, with a simulated network and engine.

use super::{
    liars,
    plan::{Kind, Plan},
};
use crate::{
    engine::{
        EngineModel,
        simulated::{self, Flaw, Machine},
    },
    jobs::{self, CellLoad, JobsConfig, JobsHandle, JobsParts},
    market::{Ledger, Totals},
    network::simulated::World,
    routing::{self, Routing, RoutingConfig, RoutingParts},
    settlement,
    storage::Store,
    telemetry::Metrics,
    trust::{Trust, Vouched},
};
use aitbc_protocol::{
    Digest, MicroCredits, NetworkId, NodeId,
    geo::{Cell, DEFAULT_PRECISION},
    offer::{Device, DeviceKind, Engine},
    price::TokenPrice,
    routing::{fallback::Fallback, preference::Preference},
    text::Line,
};
use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// The one model of the city, and what all ask for it.
pub(super) const MODEL: &str = "m";
pub(super) const PRICE: TokenPrice = TokenPrice { prompt: MicroCredits(1_000), completion: MicroCredits(4_000) };
/// What most decode, in milli-tokens a second and stream.
const SPEED: u64 = 8_000;
/// Jobs at a time of a provider, and what one that lies says.
const SLOTS: u32 = 2;
const SLOTS_OF_LIARS: u32 = 6;
/// What strangers may owe a provider: more than an hour of all of them.
const FOR_STRANGERS: MicroCredits = MicroCredits(1_000_000_000_000);
const PAYMENT_PATIENCE: Duration = Duration::from_secs(30);
/// As the command line sets them.
const ENOUGH_CANDIDATES: usize = 16;
const ACCUSATIONS: usize = 16;

/// The network's name: a public one, where distances must be possible.
pub(super) fn network() -> NetworkId {
    NetworkId::new("city").expect("a valid name")
}

/// A running node of the city.
#[derive(Debug)]
pub(super) struct Citizen {
    pub(super) id: NodeId,
    pub(super) kind: Kind,
    pub(super) town: usize,
    pub(super) routing: Routing,
    /// Whether it was there from the beginning, and is still.
    pub(super) native: bool,
    pub(super) here: bool,
    ledger: Ledger,
    _jobs: JobsHandle,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Citizen {
    /// Starts the `number`th node of the plan, with its database under `directory`.
    pub(super) fn start(plan: &Plan, number: usize, kind: Kind, world: &World, directory: &Path) -> Self {
        let key = plan.key(number);
        let (town, mut home) = plan.home(number);
        if kind == Kind::Lying {
            home.tongue = Some(Arc::new(liars::tongue(key.clone(), network())));
        }
        let (id, location) = (key.node_id(), home.location);
        let cell = Cell::at(&location, DEFAULT_PRECISION);
        let (metrics, stop) = (Metrics::default(), CancellationToken::new());
        let store = Store::open(&directory.join(number.to_string())).expect("a new database");
        let ledger = Ledger::start(store.clone(), key.clone(), network(), &metrics).expect("a new ledger");
        let trust = Trust::load(&store, id, [], []).expect("nothing is kept yet");
        let (network_handle, incoming) = world.join(id, home);
        let slots = if kind == Kind::Lying { SLOTS_OF_LIARS } else { SLOTS };
        let engine = simulated::start(machine(kind, slots, plan.seed ^ (number as u64) << 32));
        let (own_offer, own_statements) = watch::channel(None);
        let (accuse, accusations) = mpsc::channel(ACCUSATIONS);
        let parts = RoutingParts {
            key: key.clone(),
            network: network_handle.clone(),
            engine: Some(engine.clone()),
            ledger: ledger.clone(),
            store: store.clone(),
            trust,
            zero_knowledge: None,
            cloud: None,
            gossip: incoming.gossip,
            accusations,
            offer_streams: incoming.offer,
            own_offer: own_statements,
        };
        let config = RoutingConfig {
            network: network(),
            location,
            quotes: 1,
            hedge: true,
            enough: ENOUGH_CANDIDATES,
            fallback: Fallback::Never,
            preference: Preference::Balanced,
            share_observations: true,
        };
        let (routing, routing_task) = routing::start(config, parts, &metrics, stop.clone());
        let others = routing.clone();
        let parts = JobsParts {
            key,
            network: network_handle.clone(),
            engine,
            ledger: ledger.clone(),
            accuse,
            store,
            own_offer,
            shown: watch::channel(Vec::new()).1,
            vouched: watch::channel(Vouched::default()).1,
            line: watch::channel(None).1,
            round_trips: routing.place(),
            cell_load: CellLoad::new(move || others.cell_utilisation(&cell)),
            proving: watch::channel(None).1,
            quote_streams: incoming.quote,
            job_streams: incoming.job,
        };
        let (jobs, jobs_task) =
            jobs::start_unlimited(jobs_config(cell, slots), parts, vec![device()], &metrics, stop.clone());
        let (_, settlement_task) =
            settlement::start(network_handle, ledger.clone(), incoming.settlement, stop.clone());
        let tasks = vec![jobs_task, routing_task, settlement_task];
        Self { id, kind, town, routing, native: true, here: true, ledger, _jobs: jobs, stop, tasks }
    }

    /// Sums of what it earned and spent.
    pub(super) async fn totals(&self) -> Totals {
        self.ledger.totals().await.expect("the ledger answers")
    }

    /// Ends its tasks; whoever it talks to learns nothing of that where its line is dead.
    pub(super) fn stop(&mut self) {
        self.here = false;
        self.stop.cancel();
    }

    /// Ends its tasks and waits for them.
    pub(super) async fn shutdown(&mut self) {
        self.stop();
        for task in self.tasks.drain(..) {
            task.await.expect("no task of a node panics");
        }
    }
}

fn jobs_config(cell: Cell, slots: u32) -> JobsConfig {
    JobsConfig {
        network: network(),
        cell,
        slots,
        price: PRICE,
        private_price: PRICE,
        prices: BTreeMap::new(),
        local_hours: false,
        strangers: Some(FOR_STRANGERS),
        power: crate::gpu::power::PowerConfig::default(),
        gpu_rates: std::path::PathBuf::new(),
        payment_patience: PAYMENT_PATIENCE,
    }
}

fn device() -> Device {
    Device { kind: DeviceKind::Gpu, name: Line::lossy("a card"), memory_bytes: 8 << 30, measured: None }
}

/// What runs the model at somebody of this kind; nothing at clients.
fn machine(kind: Kind, slots: u32, seed: u64) -> Option<Machine> {
    let (speed, flaw) = match kind {
        Kind::Client => return None,
        Kind::Honest | Kind::Lying => (SPEED, Flaw::None),
        Kind::Slow => (SPEED / 10, Flaw::None),
        Kind::Colluding => (SPEED / 2, Flaw::Stops(300)),
        Kind::Failing => (SPEED, Flaw::Silent(330)),
    };
    let model = EngineModel {
        model: Line::lossy(MODEL),
        weights: Digest([7; 32]),
        engine: Engine { name: Line::lossy("simulated"), version: Line::lossy("1") },
        quantisation: Line::lossy("Q4_1"),
        device: device(),
        context: 4_096,
        speed: SPEED as u32,
        declared: false,
        slots,
        private: None,
    };
    Some(Machine { model, speed, streams: SLOTS as usize, flaw, seed })
}
