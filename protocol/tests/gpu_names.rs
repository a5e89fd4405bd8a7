//! What drivers really print, and the model that it means: `fixtures/gpu_names.tsv`, a line a device with the name, the PCI
//! id, the memory in GiB where they are known, and the model; `cpu` for programs, `unknown` where no model is meant or
//! none of the catalogue.

use aitbc_protocol::gpu::classify::{Classified, Reported, classify};

const TABLE: &str = include_str!("fixtures/gpu_names.tsv");

struct Row {
    name: &'static str,
    pci: Option<(u16, u16)>,
    memory_bytes: Option<u64>,
    model: &'static str,
}

fn rows() -> Vec<Row> {
    let row = |line: &'static str| {
        let fields: Vec<&str> = line.split('\t').collect();
        let [name, pci, memory, model] = fields[..] else { panic!("{line}") };
        let pci = pci.split_once(':').map(|(vendor, device)| {
            let id = |text| u16::from_str_radix(text, 16).expect(line);
            (id(vendor), id(device))
        });
        let memory_bytes = memory.parse().ok().map(|gib: f64| (gib * 1_073_741_824.0) as u64);
        Row { name, pci, memory_bytes, model }
    };
    TABLE.lines().map(row).collect()
}

/// The model of a profile as drivers tell it: Apple's with the maker, without what tells variants apart that no driver
/// names.
fn told(classified: &Classified, model: &str) -> String {
    match classified {
        Classified::Software => "cpu".to_owned(),
        Classified::Unknown(_) => "unknown".to_owned(),
        // Of several models none is meant.
        Classified::Gpu { best, .. } if best.confidence <= 0.5 && model == "unknown" => "unknown".to_owned(),
        Classified::Gpu { best, .. } => best.profile.name.to_owned(),
    }
}

fn means(told: &str, model: &str) -> bool {
    let variant = told.split(" (").next().unwrap_or(told);
    let cores = variant.split(" MP").next().unwrap_or(variant);
    [told, variant, cores].contains(&model) || model.strip_prefix("Apple ") == Some(variant)
}

#[test]
fn drivers_names_mean_one_model() {
    let rows = rows();
    assert!(rows.len() >= 200, "{}", rows.len());
    let mut missed = Vec::new();
    for row in &rows {
        let reported = Reported { name: row.name, pci: row.pci, memory_bytes: row.memory_bytes };
        let told = told(&classify(&reported), row.model);
        if !means(&told, row.model) {
            missed
                .push(format!("{} {:04x?} {:?}: {told}, not {}", row.name, row.pci, row.memory_bytes, row.model));
        }
    }
    assert!(missed.is_empty(), "{} of {}:\n{}", missed.len(), rows.len(), missed.join("\n"));
}
