//! `aitbc gpus`: every GPU of this machine once, with what reaches it, what its sensors show, and why it is not used where
//! it is not.

use super::{describe, sentence};
use crate::{
    cli::{Exit, Global, Outcome, output},
    gpu::{
        self, FoundGpu,
        inventory::{self, Inventory, ListedGpu},
        kept::Kept,
        power::{GpuState, Sensors},
        worker,
    },
};
use aitbc_protocol::gpu::{
    classify::Classified,
    measured::{Estimate, Measured, estimate},
    sizing::edge_score,
};
use serde_json::{Value, json};

/// One line of the list.
struct Row {
    listed: ListedGpu,
    model: Classified,
    sensors: Option<GpuState>,
}

impl Row {
    /// What a card that the catalogue does not know is like, where it was measured.
    fn estimate(&self) -> Option<Estimate> {
        let device = &self.listed.gpu.device;
        let measured = device.measured.filter(|_| matches!(self.model, Classified::Unknown(_)))?;
        estimate(&measured, device.memory_bytes, self.sensors.as_ref().and_then(headroom))
    }
}

pub(super) async fn run(global: &Global) -> Outcome {
    let directories = global.directories()?;
    let settings = global.settings(&directories)?;
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
    let (kept, damaged) = match Kept::load(&directories.gpu_rates()) {
        Ok(kept) => (kept, None),
        Err(error) => (Kept::default(), Some(error.to_string())),
    };
    let Inventory { gpus, software } = inventory::merge(found, adapters, &kept);
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
        "warning": damaged,
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
        for trouble in [&trouble, &damaged].into_iter().flatten() {
            eprintln!("warning: {trouble}");
        }
    })
}

fn document(row: &Row) -> Value {
    let mut document = json!(row.listed);
    document["model"] = describe(&row.model);
    document["sensors"] = json!(row.sensors);
    document["estimate"] = json!(row.estimate());
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
    if let Classified::Unknown(_) = row.model {
        println!("    not in the catalogue{}", guess(row.estimate().as_ref()));
    }
    if let Some(measured) = &device.measured {
        println!("    {}", figures(measured));
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

/// What is said of a card that the catalogue does not know.
fn guess(estimate: Option<&Estimate>) -> String {
    let Some(Estimate { nearest, ratio, edge_score }) = estimate else {
        return ": measure it with `aitbc bench gpu`".to_owned();
    };
    let like = match ratio {
        0.9..=1.1 => "about like".to_owned(),
        _ => format!("about {ratio:.1} times"),
    };
    format!(
        "; estimated from its measured figures: {like} {} {}, {edge_score:.2} of 1 for use at the edge",
        nearest.vendor, nearest.name
    )
}

fn figures(measured: &Measured) -> String {
    let giga = |megabytes: u32| f64::from(megabytes) / 1e3;
    let fp16 = measured.fp16_gflops.map_or_else(String::new, |rate| format!(", fp16 {rate} GFLOPS"));
    format!(
        "measured {}: {:.1} GB/s, at random {:.1} GB/s, fp32 {} GFLOPS{fp16}, int8 {} GOPS",
        output::ago(measured.measured_ms),
        giga(measured.bandwidth_mb_s),
        giga(measured.random_mb_s),
        measured.fp32_gflops,
        measured.int8_gops,
    )
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

#[cfg(test)]
mod tests {
    use super::*;
    use aitbc_protocol::{
        gpu::{Vendor, catalogue::catalogue},
        offer::{Device, DeviceKind},
        text::Line,
    };

    fn row(model: Classified, measured: Option<Measured>) -> Row {
        let (kind, name) = (DeviceKind::Gpu, Line::lossy("a card of tomorrow"));
        let device = Device { kind, name, memory_bytes: 8 << 30, measured };
        let gpu = FoundGpu { device, pci: None, address: "0000:01:00.0".to_owned(), unusable: None };
        Row { listed: ListedGpu { gpu, apis: Vec::new() }, model, sensors: None }
    }

    /// Nine tenths of the bandwidth of a Radeon RX 6600, and of its rate.
    const SMALL: Measured = Measured {
        bandwidth_mb_s: 201_600,
        random_mb_s: 60_000,
        fp32_gflops: 8_035,
        fp16_gflops: Some(15_000),
        int8_gops: 30_000,
        measured_ms: 1,
    };

    #[test]
    fn an_unknown_card_is_told_by_its_figures_or_sent_to_be_measured() {
        let unknown = Classified::Unknown(Some(Vendor::Amd));
        assert_eq!(guess(row(unknown, None).estimate().as_ref()), ": measure it with `aitbc bench gpu`");
        let told = guess(row(unknown, Some(SMALL)).estimate().as_ref());
        assert!(told.starts_with("; estimated from its measured figures: about "), "{told}");
        assert!(document(&row(unknown, Some(SMALL)))["estimate"]["ratio"].is_f64());
    }

    #[test]
    fn a_known_card_is_not_estimated() {
        let profile = catalogue().named("Radeon RX 6600").expect("in the catalogue");
        let best = aitbc_protocol::gpu::classify::Match { profile, confidence: 1.0 };
        let known = row(Classified::Gpu { best, runner_up: None }, Some(SMALL));
        assert_eq!(known.estimate(), None);
        assert!(figures(&SMALL).contains("201.6 GB/s, at random 60.0 GB/s"), "{}", figures(&SMALL));
    }
}
