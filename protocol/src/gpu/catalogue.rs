//! Every GPU model that is known by its figures, out of one table in the binary (`data/gpus.csv`).
//!
//! The table is read once, at first use. `NOTICE` names where it comes from.

use super::{Form, GpuProfile, Grade, Vendor, architecture};
use std::sync::LazyLock;

/// How the source of figures begins that were not checked against it.
pub const UNCHECKED: &str = "unchecked: ";

const TABLE: &str = include_str!("../../data/gpus.csv");
const COLUMNS: usize = 16;

static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(Catalogue::read);

/// All profiles, by maker and name.
#[derive(Debug)]
pub struct Catalogue {
    profiles: Vec<GpuProfile>,
}

/// The catalogue in this binary.
pub fn catalogue() -> &'static Catalogue {
    &CATALOGUE
}

impl Catalogue {
    /// Reads the table: names and texts without commas, quotes or line ends. A row that cannot be read is left out; a test
    /// sees to it that there is none. [`catalogue`] has read it once for all.
    pub fn read() -> Self {
        Self { profiles: TABLE.lines().skip(1).filter_map(profile).collect() }
    }

    /// All profiles.
    pub fn profiles(&self) -> &[GpuProfile] {
        &self.profiles
    }

    /// The profile of exactly this name, without the maker's.
    pub fn named(&self, name: &str) -> Option<&GpuProfile> {
        self.profiles.iter().find(|profile| profile.name == name)
    }
}

fn profile(row: &'static str) -> Option<GpuProfile> {
    let mut fields = [""; COLUMNS];
    let mut rest = row.splitn(COLUMNS, ',');
    for field in &mut fields {
        *field = rest.next()?;
    }
    let [
        vendor,
        name,
        chip,
        architecture,
        generation,
        released,
        memory_gb,
        memory_kind,
        bandwidth_gb_s,
        tdp_w,
        tensor_cores,
        fp16,
        fp32,
        cuda,
        vulkan,
        source,
    ] = fields;
    let vendor = Vendor::ALL.into_iter().find(|known| known.name() == vendor)?;
    let known = architecture::find(architecture)?;
    let fp32_gflops: Option<f32> = fp32.parse().ok();
    let fp16_gflops = fp16.parse().ok().or_else(|| Some(fp32_gflops? * known.fp16));
    // Whether there are matrix units is only asked of chips that some of their architecture have without.
    let int8 = known.int8_of(chip, !tensor_cores.is_empty());
    let shared = memory_kind == "shared" || memory_gb.is_empty();
    Some(GpuProfile {
        name,
        vendor,
        chip,
        architecture,
        grade: grade(vendor, name, generation),
        form: form(vendor, name, generation, shared),
        released: released.parse().ok(),
        memory_bytes: memory_gb.parse().ok().map(|gigabytes: f64| (gigabytes * GIB) as u64),
        memory_kind,
        bandwidth: bandwidth_gb_s.parse().ok().map(|gigabytes: f64| (gigabytes * 1e9).round() as u64),
        tdp_watts: tdp_w.parse().ok(),
        fp32_gflops,
        fp16_gflops,
        int8_gops: fp32_gflops.map(|rate| rate * int8),
        cuda: version(cuda),
        vulkan: version(vulkan),
        source,
    })
}

/// Makers count memory in units of 2^30 bytes.
const GIB: f64 = 1_073_741_824.0;

/// `8.9` as 8 and 9.
fn version(text: &str) -> Option<(u8, u8)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn grade(vendor: Vendor, name: &str, generation: &str) -> Grade {
    let is = |parts: &[&str]| parts.iter().any(|part| name.contains(part) || generation.contains(part));
    if is(&["Mining", "CMP "]) {
        Grade::Mining
    } else if is(&["Jetson", "Tegra", "Embedded", "Thor"]) || matches!(vendor, Vendor::Broadcom) {
        Grade::Embedded
    } else if is(&["Tesla", "GRID", "Instinct", "Server", "FirePro S", "FirePro Server", "Data Center", "Sky "]) {
        Grade::Server
    } else if is(&[
        "Quadro",
        "RTX A",
        "Radeon Pro",
        "Radeon PRO",
        "FirePro",
        "Ampere-MW",
        "Ada-MW",
        "Workstation",
        "PRO W",
        "Pro Series",
    ]) || (vendor == Vendor::Nvidia && name.starts_with("RTX "))
        || (vendor == Vendor::Nvidia
            && name.starts_with('T')
            && !name.starts_with("Titan")
            && !name.starts_with("TITAN"))
    {
        Grade::Workstation
    } else {
        Grade::Consumer
    }
}

fn form(vendor: Vendor, name: &str, generation: &str, shared: bool) -> Form {
    let phone = matches!(
        vendor,
        Vendor::Arm
            | Vendor::Broadcom
            | Vendor::HiSilicon
            | Vendor::Imagination
            | Vendor::Qualcomm
            | Vendor::Samsung
    );
    let board = ["Jetson", "Tegra"].iter().any(|part| name.contains(part) || generation.contains(part));
    if phone || board || (vendor == Vendor::Apple && name.starts_with('A')) {
        Form::System
    } else if shared || generation.contains("IGP") {
        Form::Integrated
    } else if name.contains("Mobile") || name.contains("Max-Q") || is_for_laptops(name, generation) {
        Form::Laptop
    } else {
        Form::Card
    }
}

/// Whether a name such as `Radeon RX 6600M` or a family such as `GeForce 900M` says so.
fn is_for_laptops(name: &str, generation: &str) -> bool {
    let number_m = |word: &str| {
        let number = word.strip_suffix('M').or_else(|| word.strip_suffix("MX")).or_else(|| word.strip_suffix('S'));
        number.is_some_and(|number| number.len() >= 3 && number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    name.split(' ').any(number_m) || ["Mobile", "-M(", "GeForce MX"].iter().any(|part| generation.contains(part))
}

#[cfg(test)]
mod tests;
