//! `aitbc gpus`: every GPU of this machine once, with what reaches it, what its sensors show, and why it is not used where
//! it is not.

use super::{describe, sentence};
use crate::{
    cli::{Exit, Global, Outcome, output},
    gpu::{
        self, FoundGpu,
        inventory::{self, Inventory, ListedGpu},
        power::{GpuState, Sensors},
        worker,
    },
};
use aitbc_protocol::gpu::{classify::Classified, sizing::edge_score};
use serde_json::{Value, json};

/// One line of the list.
struct Row {
    listed: ListedGpu,
    model: Classified,
    sensors: Option<GpuState>,
}

pub(super) async fn run(global: &Global) -> Outcome {
    let settings = global.settings(&global.directories()?)?;
    let power = settings.power();
    let simulated = power.simulated.is_some();
    let sensors = tokio::task::spawn_blocking(move || {
        let mut sensors = Sensors::find(&power)?;
        let gpus = sensors.gpus();
        Ok::<_, gpu::power::PowerError>((gpus, sensors.read(&[])))
    });
    let (found, states) = sensors.await.map_err(Exit::error)?.map_err(Exit::error)?;
    let binary = std::env::current_exe()?;
    // What the drivers say of this machine says nothing of one that is made up.
    let asked = if simulated { Ok(Vec::new()) } else { worker::adapters(&binary).await };
    let (adapters, trouble) = match asked {
        Ok(adapters) => (adapters, None),
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    let Inventory { gpus, software } = inventory::merge(found, adapters);
    let rows: Vec<Row> = gpus
        .into_iter()
        .map(|listed| {
            let model = gpu::model(&listed.gpu);
            let sensors = states.iter().find(|state| state.address == listed.gpu.address).cloned();
            Row { listed, model, sensors }
        })
        .collect();
    let documents: Vec<Value> = rows.iter().map(document).collect();
    let document = json!({
        "schema": "aitbc.gpus/1",
        "simulated": simulated,
        "gpus": documents,
        "software": software,
        "trouble": trouble,
    });
    output::print(global.json, &document, || {
        if simulated {
            println!("SIMULATED: these are the files of `simulated_sensors` under [power], not this machine");
        }
        if rows.is_empty() {
            println!("no GPU was found on this machine: models run on the CPU");
        }
        let asked = !simulated && trouble.is_none();
        for row in &rows {
            people(row, asked);
        }
        for name in &software {
            println!("{name}: a program that draws on the CPU, not used");
        }
        if let Some(trouble) = &trouble {
            eprintln!("warning: {trouble}");
        }
    })
}

fn document(row: &Row) -> Value {
    let mut document = json!(row.listed);
    document["model"] = describe(&row.model);
    document["sensors"] = json!(row.sensors);
    document
}

fn people(row: &Row, asked: bool) {
    let FoundGpu { device, address, unusable, .. } = &row.listed.gpu;
    println!("{address}  {}", device.name);
    println!("    {}", sentence(&row.model));
    if let Classified::Gpu { best, .. } = &row.model {
        let headroom = row.sensors.as_ref().and_then(headroom);
        let without = if headroom.is_none() { ", without its thermal headroom" } else { "" };
        let score = edge_score(best.profile, device.memory_bytes, headroom);
        println!("    {score:.2} of 1 for use at the edge{without}");
    }
    if let Some(sensors) = &row.sensors {
        println!("    {}", readings(sensors));
    }
    for reach in &row.listed.apis {
        println!("    reached by {} ({})", reach.api.word(), reach.driver);
    }
    if asked && row.listed.apis.is_empty() {
        println!("    reached by no interface: install the driver's Vulkan part");
    }
    match unusable {
        None => println!("    models can run on it"),
        Some(why) => println!("    not usable: {why}"),
    }
}

/// How far it is from slowing down, 1 at 25 degrees and 0 at the critical temperature.
fn headroom(state: &GpuState) -> Option<f32> {
    const AT_REST: f32 = 25.0;
    let degrees = state.sample.core_celsius.filter(|_| state.fault.is_none())?;
    Some(((state.ladder.critical - degrees) / (state.ladder.critical - AT_REST)).clamp(0.0, 1.0))
}

fn readings(state: &GpuState) -> String {
    let sample = &state.sample;
    if !state.watched {
        return "it has no sensors that can be read: its heat is left to its driver".to_owned();
    }
    if sample.asleep {
        return "it sleeps".to_owned();
    }
    let mut parts = Vec::new();
    match (&state.fault, sample.core_celsius) {
        (Some(fault), _) => parts.push(fault.to_string()),
        (None, Some(degrees)) => parts.push(format!("{degrees:.0} °C (warning from {:.0})", state.ladder.warning)),
        (None, None) => {}
    }
    match (sample.watts, sample.cap_watts) {
        (Some(watts), Some(cap)) => parts.push(format!("{watts:.0} of {cap:.0} W")),
        (Some(watts), None) => parts.push(format!("{watts:.0} W")),
        _ => {}
    }
    if let Some(part) = sample.utilisation {
        parts.push(format!("{:.0} % busy", part * 100.0));
    }
    if let Some(bytes) = sample.memory_used {
        parts.push(format!("{:.1} GiB in use", bytes as f64 / 1_073_741_824.0));
    }
    if !sample.throttled.is_empty() {
        let reasons: Vec<String> =
            sample.throttled.iter().map(|reason| format!("{reason:?}").to_lowercase()).collect();
        parts.push(format!("throttled ({})", reasons.join(", ")));
    }
    if parts.is_empty() { "its sensors tell nothing".to_owned() } else { parts.join(", ") }
}
