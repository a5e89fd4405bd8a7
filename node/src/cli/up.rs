//! `aitbc up`: runs a node until it is told to stop.

use super::{Exit, Global, Outcome, models};
use crate::{
    config::{ConfigError, Directories, ProvideSettings, Settings},
    engine::{self, EngineConfig, UpstreamConfig, fhe::PrivateConfig},
    jobs::JobsConfig,
    models::{Installed, ModelStore},
    network::NetworkConfig,
    node::{Node, NodeConfig},
    routing::RoutingConfig,
};
use aitbc_crypto::SecretKey;
use aitbc_protocol::{
    MicroCredits, NetworkId,
    geo::{Cell, Location},
    job::ModelName,
};
use clap::builder::BoolishValueParser;
use libp2p::Multiaddr;
use std::{net::SocketAddr, time::Duration};

/// How long a job waits for a cheque before it is ended.
const PAYMENT_PATIENCE: Duration = Duration::from_secs(30);
/// Candidates after which a search stops.
const ENOUGH_CANDIDATES: usize = 16;

/// Arguments of `up`: each lies over the setting of the same name.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where this node is, in degrees
    #[arg(long, env = "AITBC_LOCATION", value_name = "LATITUDE,LONGITUDE", allow_hyphen_values = true)]
    location: Option<Location>,
    /// Characters of the geohash that others see, 2 to 7
    #[arg(long, env = "AITBC_PRECISION")]
    precision: Option<u8>,
    /// Sell: load models and offer them
    #[arg(long, env = "AITBC_PROVIDE", value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_parser = BoolishValueParser::new())]
    provide: Option<bool>,
    /// Model to sell; fetched if it is not here; can be repeated
    #[arg(long = "model", env = "AITBC_MODELS", value_delimiter = ',', value_name = "MODEL")]
    models: Vec<ModelName>,
    /// Jobs at a time
    #[arg(long, env = "AITBC_SLOTS")]
    slots: Option<u32>,
    /// Tokens of prompt and answer of a job
    #[arg(long, env = "AITBC_CONTEXT")]
    context: Option<u32>,
    /// CPU threads of the engine
    #[arg(long, env = "AITBC_THREADS")]
    threads: Option<u32>,
    /// Layers on the GPU; 0 for none
    #[arg(long, env = "AITBC_GPU_LAYERS")]
    gpu_layers: Option<u32>,
    /// Price of a thousand prompt tokens in micro-credits
    #[arg(long, env = "AITBC_PRICE_PROMPT", value_name = "UC")]
    price_prompt: Option<u64>,
    /// Price of a thousand tokens of the answer in micro-credits
    #[arg(long, env = "AITBC_PRICE_COMPLETION", value_name = "UC")]
    price_completion: Option<u64>,
    /// First contact, ending in /p2p/ and its id; can be repeated
    #[arg(long, env = "AITBC_BOOTSTRAP", value_delimiter = ',', value_name = "MULTIADDR")]
    bootstrap: Vec<Multiaddr>,
    /// Address to listen on; can be repeated
    #[arg(long, env = "AITBC_LISTEN", value_delimiter = ',', value_name = "MULTIADDR")]
    listen: Vec<Multiaddr>,
    /// Address that leads here from outside; can be repeated
    #[arg(long, env = "AITBC_EXTERNAL", value_delimiter = ',', value_name = "MULTIADDR")]
    external: Vec<Multiaddr>,
    /// Relay for nodes that cannot be reached directly
    #[arg(long, env = "AITBC_RELAY", value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_parser = BoolishValueParser::new())]
    relay: Option<bool>,
    /// Megabits a second that relaying may take of the uplink
    #[arg(long, env = "AITBC_RELAY_MBIT", value_name = "MBIT")]
    relay_mbit: Option<u32>,
    /// Look for peers on the local network
    #[arg(long, env = "AITBC_MDNS", value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_parser = BoolishValueParser::new())]
    mdns: Option<bool>,
    /// Ask the router for a port mapping
    #[arg(long, env = "AITBC_UPNP", value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_parser = BoolishValueParser::new())]
    upnp: Option<bool>,
    /// Network: main, or local for demos and tests
    #[arg(long, env = "AITBC_NETWORK", value_parser = NetworkId::new)]
    network: Option<NetworkId>,
    /// Where the API listens
    #[arg(long, env = "AITBC_API_LISTEN", value_name = "ADDRESS:PORT")]
    api_listen: Option<SocketAddr>,
    /// End when the process that started this one ends
    #[arg(long, hide = true)]
    end_with_parent: bool,
}

fn lay<T>(over: Option<T>, setting: &mut T) {
    if let Some(value) = over {
        *setting = value;
    }
}

fn lay_list<T>(over: Vec<T>, setting: &mut Vec<T>) {
    if !over.is_empty() {
        *setting = over;
    }
}

impl Args {
    /// Lays the flags and variables over the settings of the file.
    fn merge(self, settings: &mut Settings) {
        settings.location = self.location.or(settings.location);
        settings.relay_mbit = self.relay_mbit.or(settings.relay_mbit);
        settings.provide.threads = self.threads.or(settings.provide.threads);
        settings.provide.gpu_layers = self.gpu_layers.or(settings.provide.gpu_layers);
        lay(self.precision, &mut settings.precision);
        lay(self.network, &mut settings.network);
        lay(self.slots, &mut settings.provide.slots);
        lay(self.context, &mut settings.provide.context);
        lay(self.price_prompt, &mut settings.provide.price.prompt);
        lay(self.price_completion, &mut settings.provide.price.completion);
        lay(self.api_listen, &mut settings.api.listen);
        lay_list(self.models, &mut settings.provide.models);
        lay_list(self.bootstrap, &mut settings.bootstrap);
        lay_list(self.listen, &mut settings.listen);
        lay_list(self.external, &mut settings.external);
        lay(self.provide, &mut settings.provide.enabled);
        lay(self.relay, &mut settings.relay);
        lay(self.mdns, &mut settings.mdns);
        lay(self.upnp, &mut settings.upnp);
    }
}

/// Engines with these models and servers, as the settings have them run.
pub(super) fn engine_config(
    provide: &ProvideSettings,
    models: Vec<Installed>,
    private: PrivateConfig,
    upstreams: Vec<UpstreamConfig>,
) -> EngineConfig {
    EngineConfig {
        models,
        context: provide.context,
        slots: provide.slots,
        threads: provide.threads,
        gpu_layers: provide.gpu_layers,
        memory_limit: provide.memory_mib.map(|mib| mib.saturating_mul(1024 * 1024)),
        private,
        upstreams,
        worker: None,
    }
}

/// Turns settings into what the node's subsystems need; fetches models that are not here.
async fn node_config(settings: &Settings, directories: &Directories) -> Result<NodeConfig, Exit> {
    let location = settings.location.ok_or_else(|| ConfigError::NoLocation(directories.config.clone()))?;
    let provide = &settings.provide;
    let mut installed = Vec::new();
    if provide.enabled {
        let store = ModelStore::new(directories.models(settings));
        for name in &provide.models {
            let model = models::pull(&store, name).await?;
            // What is served is what its name promises, whatever happened to the disk since it was fetched.
            store.verify(&model).await?;
            installed.push(model);
        }
    }
    let key = SecretKey::load_or_create(&directories.key())?;
    let upstreams = if provide.enabled { provide.upstream.clone() } else { Vec::new() };
    Ok(NodeConfig {
        key,
        database: directories.database(),
        network: NetworkConfig {
            network: settings.network.clone(),
            listen: settings.listen.clone(),
            bootstrap: settings.bootstrap.clone(),
            external: settings.external.clone(),
            relay: settings.relay,
            relay_mbit: settings.relay_mbit,
            mdns: settings.mdns,
            upnp: settings.upnp,
            gossip: true,
            dht: true,
            peer_table: Some(directories.peer_table()),
        },
        engine: engine_config(
            provide,
            installed,
            PrivateConfig {
                keys: directories.evaluation_keys(),
                quota: u64::from(provide.evaluation_keys_mib) << 20,
            },
            upstreams,
        ),
        jobs: JobsConfig {
            network: settings.network.clone(),
            cell: Cell::at(&location, settings.precision),
            slots: provide.slots,
            price: provide.price.into(),
            private_price: provide.private_price.into(),
            prices: provide.prices.iter().map(|(model, price)| (model.clone(), (*price).into())).collect(),
            local_hours: provide.local_hours,
            strangers: provide.strangers.map(MicroCredits),
            power: settings.power(),
            gpu_rates: directories.gpu_rates(),
            payment_patience: PAYMENT_PATIENCE,
        },
        simulated_memory_mib: provide.simulated_memory_mib,
        attestation: settings.attestation(),
        verifiers: settings.client.verifiers.clone(),
        required_bandwidth: u64::from(provide.min_bandwidth_mib) << 20,
        routing: RoutingConfig {
            network: settings.network.clone(),
            location,
            quotes: settings.client.quotes,
            enough: ENOUGH_CANDIDATES,
            fallback: settings.client.fallback,
            preference: settings.client.policy,
            hedge: settings.client.hedge,
            share_observations: settings.client.share_observations,
        },
        cloud: settings.client.cloud.clone(),
        private: directories.private(),
        api: Some((&settings.api).into()),
    })
}

/// Tells an owner of an Ollama on this machine how to offer it; nothing is offered unasked.
async fn tell_of_ollama(config: &std::path::Path) {
    let found = engine::upstream::find_ollama().await;
    if !found.is_empty() {
        let models: Vec<String> = found.iter().map(|model| format!("{model:?}")).collect();
        tracing::info!(
            "an Ollama runs here; to offer it, add to {}:\n[[provide.upstream]]\nurl = \"http://127.0.0.1:11434/v1\"\nmodels = [{}]",
            config.display(),
            models.join(", "),
        );
    }
}

/// Warns about variables that look like settings and are none.
fn warn_of_unknown_variables() {
    let known: Vec<String> = {
        use clap::CommandFactory;
        let command = super::Cli::command();
        command
            .get_arguments()
            .chain(command.get_subcommands().flat_map(clap::Command::get_arguments))
            .filter_map(|argument| argument.get_env().and_then(|name| name.to_str()).map(str::to_owned))
            .collect()
    };
    for (name, _) in std::env::vars_os() {
        let Some(name) =
            name.to_str().filter(|name| name.starts_with("AITBC_") && !name.starts_with("AITBC_TEST_"))
        else {
            continue;
        };
        if known.iter().any(|known| known == name) {
            continue;
        }
        let nearest = known.iter().min_by_key(|known| strsim::damerau_levenshtein(name, known));
        tracing::warn!("{name} is not a setting; the nearest one is {}", nearest.map_or("none", String::as_str));
    }
}

/// Runs the command.
pub(super) async fn run(global: &Global, args: Args) -> Outcome {
    if args.end_with_parent {
        end_with_parent()?;
    }
    let directories = global.directories()?;
    let mut settings = global.settings(&directories)?;
    args.merge(&mut settings);
    if settings.provide.enabled && settings.provide.upstream.is_empty() {
        tell_of_ollama(&directories.config).await;
    }
    settings.validate()?;
    warn_of_unknown_variables();
    super::open_files::raise(settings.relay);
    let mut stop = Signals::new()?;
    let config = tokio::select! {
        config = node_config(&settings, &directories) => config?,
        () = stop.received() => return Ok(()),
    };
    let node = Node::start(config).await?;
    ready(global, &node, &settings);
    let mut watcher = EngineWatcher::new(&node);
    loop {
        tokio::select! {
            () = stop.received() => break,
            () = node.stop_requested() => break,
            () = watcher.changed() => {}
        }
    }
    tracing::info!("stopping: running jobs may end, a second signal stops at once");
    tokio::select! {
        () = node.shutdown() => {}
        () = stop.received() => return Err(Exit::message("stopped at once; unfinished jobs are settled at the next start")),
    }
    Ok(())
}

/// Says on stdout that the node is up, and how others find it.
fn ready(global: &Global, node: &Node, settings: &Settings) {
    let id = node.id();
    let listening = node.network.listening().borrow().clone();
    let addresses: Vec<String> = listening.iter().map(|address| format!("{address}/p2p/{id}")).collect();
    let api = node.api.map(|address| address.to_string());
    if global.json {
        println!(
            "{}",
            serde_json::json!({"schema": "aitbc.up/1", "node": id, "listening": addresses, "api": api})
        );
        return;
    }
    println!("node {id} is up on network {}", settings.network);
    for address in &addresses {
        println!("  listening on {address}");
    }
    println!("  API at http://{}", api.as_deref().unwrap_or("-"));
    if settings.bootstrap.is_empty() && !settings.relay {
        eprintln!(
            "note: no `bootstrap` is set; only peers on the local network and peers met before will be found"
        );
    }
}

/// Logs what happens to the engines, so that a model that does not load is never silent.
struct EngineWatcher {
    status: tokio::sync::watch::Receiver<std::sync::Arc<Vec<engine::EngineStatus>>>,
    seen: Vec<String>,
}

impl EngineWatcher {
    fn new(node: &Node) -> Self {
        let mut status = node.engine.status();
        status.mark_changed();
        Self { status, seen: Vec::new() }
    }

    async fn changed(&mut self) {
        if self.status.changed().await.is_err() {
            return std::future::pending().await;
        }
        let now: Vec<String> = self.status.borrow_and_update().iter().flat_map(lines).collect();
        for line in &now {
            if !self.seen.contains(line) {
                tracing::info!("{line}");
            }
        }
        self.seen = now;
    }
}

fn lines(status: &engine::EngineStatus) -> Vec<String> {
    use engine::EngineState::{BackingOff, Loading, Ready, Unusable};
    let mut lines = match &status.state {
        // Once, not for every percent.
        Loading { .. } => vec![format!("{}: loading", status.name)],
        Ready => status
            .models
            .iter()
            .map(|model| {
                format!(
                    "{}: {} ready on {} at {:.1} {}/s",
                    status.name,
                    model.model,
                    model.device.name,
                    f64::from(model.speed) / 1000.0,
                    if model.private.is_some() { "bootstraps" } else { "tokens" }
                )
            })
            .collect(),
        BackingOff { reason, retry_ms } => {
            vec![format!("{}: {reason}; next try in {retry_ms} ms", status.name)]
        }
        Unusable { reason } => vec![format!("{}: {reason}", status.name)],
    };
    lines.extend(status.warnings.iter().map(|warning| format!("{}: warning: {warning}", status.name)));
    lines
}

/// Ctrl-C and, on Unix, SIGTERM.
struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    #[cfg(unix)]
    fn new() -> Result<Self, Exit> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    #[cfg(not(unix))]
    fn new() -> Result<Self, Exit> {
        Ok(Self {})
    }

    async fn received(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        #[cfg(not(unix))]
        let _ = tokio::signal::ctrl_c().await;
    }
}

/// Has the kernel send SIGTERM when the parent is gone, so that `aitbc demo` leaves nothing behind whatever kills it.
fn end_with_parent() -> Result<(), Exit> {
    #[cfg(target_os = "linux")]
    {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
            .map_err(std::io::Error::from)?;
    }
    Ok(())
}
