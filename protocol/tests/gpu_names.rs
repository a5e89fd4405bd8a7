//! Names of GPUs in the forms that drivers and tools print, and the model that each means: `fixtures/gpu_names.tsv`, a line a
//! device with the name, the PCI id, the memory in GiB where they are known, and the model; several with `|` between them
//! where the name does not decide, `cpu` for programs, `unknown` where no model is meant or none of the catalogue.
//!
//! The classifier was made with this table at hand: what it does with other names the table does not tell.

use aitbc_protocol::gpu::classify::{Classified, Reported, classify};

const TABLE: &str = include_str!("fixtures/gpu_names.tsv");

/// Names that are told wrong, with their PCI id: whoever mends one takes it out.
const MISSED: &[(&str, Option<(u16, u16)>)] = &[
    // The list of PCI ids does not tell its memory from the larger card's.
    ("NVIDIA GeForce RTX 4060 Ti", Some((0x10de, 0x2803))),
    // A later chip of the same name and memory.
    ("NVIDIA GeForce RTX 3050 4GB Laptop GPU", Some((0x10de, 0x25ab))),
    // The list calls the id a laptop's.
    ("NVIDIA T1000", Some((0x10de, 0x1fb0))),
    // No number: macOS means one of two, Mesa a chip.
    ("Intel Iris Pro OpenGL Engine", None),
    ("Mesa DRI Intel(R) Bay Trail", None),
];

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
    let one =
        |model: &str| [told, variant, cores].contains(&model) || model.strip_prefix("Apple ") == Some(variant);
    model.split('|').any(one)
}

#[test]
fn drivers_names_mean_one_model() {
    let rows = rows();
    assert!(rows.len() >= 200, "{}", rows.len());
    let mut missed = Vec::new();
    for row in &rows {
        let reported = Reported { name: row.name, pci: row.pci, memory_bytes: row.memory_bytes };
        let told = told(&classify(&reported), row.model);
        let known = MISSED.contains(&(row.name, row.pci)) && row.memory_bytes.is_none();
        if means(&told, row.model) == known {
            missed
                .push(format!("{} {:04x?} {:?}: {told}, not {}", row.name, row.pci, row.memory_bytes, row.model));
        }
    }
    assert!(missed.is_empty(), "{} of {} are not as expected:\n{}", missed.len(), rows.len(), missed.join("\n"));
}
