//! Which model a driver's name means.
//!
//! Drivers print the same card in many ways: `NVIDIA GeForce RTX 3060 Laptop GPU`, `NVIDIA GeForce RTX 3060/PCIe/SSE2`,
//! `AMD Radeon RX 6600 (RADV NAVI23)`, `Mesa Intel(R) UHD Graphics 620 (KBL GT2)`, `ANGLE (Apple, ANGLE Metal Renderer:
//! Apple M2 Pro, Unspecified Version)`. The name is taken apart into words; a profile fits if all its words with digits
//! are there, and the better, the fewer other words only one of the two has. What the name does not tell (which of two
//! cards with different memory), the memory or the PCI id may.

mod words;

use super::{
    Form, GpuProfile, Vendor,
    catalogue::{Catalogue, catalogue},
    pci,
};
use std::{collections::HashMap, sync::LazyLock};
use words::Words;

/// What is known of a device before it is classified.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reported<'a> {
    /// What the driver or a tool prints; empty if nothing does.
    pub name: &'a str,
    /// PCI vendor and device.
    pub pci: Option<(u16, u16)>,
    /// Its own memory in bytes.
    pub memory_bytes: Option<u64>,
}

/// A profile and how well it fits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Match {
    /// The model.
    pub profile: &'static GpuProfile,
    /// From 0 (a guess) to 1 (nothing else fits).
    pub confidence: f32,
}

/// What a device is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Classified {
    /// A model of the catalogue, and the next best, where one came close.
    Gpu {
        /// The model that fits best.
        best: Match,
        /// The model that fits next best.
        runner_up: Option<Match>,
    },
    /// A program that draws on the processor.
    Software,
    /// A GPU of this maker, as far as can be told, that no model fits.
    Unknown(Option<Vendor>),
}

/// Programs that pretend to be GPUs.
const SOFTWARE: &[&str] =
    &["llvmpipe", "lavapipe", "softpipe", "swiftshader", "swrast", "basic render", "warp", "software"];
/// What browsers print to hide the model.
const HIDDEN: &str = "or similar";

/// What counts against a profile for each word that only one of the two names has, for memory of another size, and for a
/// chip that is not the one told.
const SPARE_WORD: f32 = 0.2;
const OTHER_MEMORY: f32 = 0.3;
const OTHER_CHIP: f32 = 0.15;
/// What counts against a profile that is for laptops or cut down where nothing says so: most cards are not.
const RARER: f32 = 0.02;
/// Most confidence in one of several models that the name names.
const DOUBT: f32 = 0.5;
/// Characters of a name that are looked at.
const MAX_NAME: usize = 256;
/// Worst fit that still counts.
const LEAST: f32 = 0.45;

/// A profile with its name taken apart.
struct Entry {
    profile: &'static GpuProfile,
    words: Words,
}

/// Entries by one of their words with digits.
struct Index {
    entries: Vec<Entry>,
    by_key: HashMap<String, Vec<usize>>,
}

static INDEX: LazyLock<Index> = LazyLock::new(|| Index::of(catalogue()));

impl Index {
    fn of(catalogue: &'static Catalogue) -> Self {
        let entries: Vec<Entry> = catalogue
            .profiles()
            .iter()
            .map(|profile| Entry { profile, words: Words::of_profile(profile.name) })
            .collect();
        let mut by_key: HashMap<String, Vec<usize>> = HashMap::new();
        for (index, entry) in entries.iter().enumerate() {
            for key in entry.words.keys() {
                by_key.entry(key.to_owned()).or_default().push(index);
            }
        }
        Self { entries, by_key }
    }
}

/// Tells what a device is. Costs some microseconds.
pub fn classify(reported: &Reported<'_>) -> Classified {
    let name: String = reported.name.chars().take(MAX_NAME).collect();
    let lower = name.to_lowercase();
    if SOFTWARE.iter().any(|program| lower.contains(program)) {
        return Classified::Software;
    }
    let listed = reported.pci.and_then(|(vendor, device)| pci::name(vendor, device));
    let told = if lower.contains(HIDDEN) { Words::default() } else { Words::of_driver(&name) };
    let by_pci = listed.map(Words::of_driver);
    // A name is what the driver knows best; only where it names no model does the list of PCI ids.
    let mut named = match &by_pci {
        Some(listed) if told.key().is_none() && !listed.is_empty() => listed.clone(),
        _ => told.clone(),
    };
    if by_pci.as_ref().is_some_and(|listed| listed.has("mobile")) {
        named.mobile();
    }
    let named = &named;
    let vendor = reported.pci.and_then(|(vendor, _)| pci::vendor(vendor)).or(told.vendor);
    let memory_gib = reported
        .memory_bytes
        .map(|bytes| bytes as f64 / 1_073_741_824.0)
        .or(named.memory_gib)
        .or_else(|| by_pci.as_ref()?.memory_gib);
    let chip = by_pci.as_ref().and_then(|words| words.chip.as_deref()).or(told.chip.as_deref());
    let laptop = named.has("mobile") || named.has("maxq");
    let mut fits: Vec<Match> = Vec::new();
    for entry in named.candidates(&INDEX) {
        if vendor.is_some_and(|vendor| vendor != entry.profile.vendor) {
            continue;
        }
        if let Some(mut fit) = fit(entry, named, memory_gib, chip, laptop) {
            if let Some(listed) = &by_pci {
                fit += RARER / 4.0 * listed.adds(&entry.words, named) as f32;
            }
            fits.push(Match { profile: entry.profile, confidence: fit });
        }
    }
    // Of equals the one with more memory: it is the one that is sold more.
    let memory = |fit: &Match| fit.profile.memory_bytes.unwrap_or(0);
    fits.sort_by(|one, other| {
        other.confidence.total_cmp(&one.confidence).then_with(|| memory(other).cmp(&memory(one)))
    });
    let Some(mut best) = fits.first().copied() else { return Classified::Unknown(vendor) };
    let runner_up = fits.get(1).copied();
    // What fits about as well leaves a doubt that grows to a half.
    if let Some(next) = runner_up {
        best.confidence *= 0.5 + 0.5 * ((best.confidence - next.confidence) / 0.2).min(1.0);
    }
    if named.several {
        best.confidence = best.confidence.min(DOUBT);
    }
    Classified::Gpu { best, runner_up }
}

/// How well an entry fits, if at all.
fn fit(entry: &Entry, told: &Words, memory_gib: Option<f64>, chip: Option<&str>, laptop: bool) -> Option<f32> {
    let mut fit = 1.0 - SPARE_WORD * told.spare(&entry.words, entry.profile.form)?;
    match (memory_gib, entry.words.memory_gib.or_else(|| gib(entry.profile))) {
        // A driver keeps some for itself, and 4 % more is in the units.
        (Some(told), Some(listed)) if (told / listed - 1.0).abs() > 0.12 => fit -= OTHER_MEMORY,
        _ => {}
    }
    if let Some(chip) = chip {
        let listed = words::compact(entry.profile.chip);
        if !listed.is_empty() && !listed.starts_with(chip) && !chip.starts_with(&listed) {
            fit -= OTHER_CHIP;
        }
    }
    let for_laptops = entry.profile.form == Form::Laptop || entry.words.has("mobile");
    if laptop != for_laptops && entry.profile.form != Form::System {
        fit -= if laptop && entry.profile.form == Form::Card { SPARE_WORD } else { RARER };
    }
    if entry.words.has("mac") != told.has("mac") {
        fit -= if told.has("mac") { RARER } else { 1.0 };
    }
    // A variant that the name would tell if it were that one.
    if entry.words.chip.is_some() || (memory_gib.is_none() && entry.words.memory_gib.is_some()) {
        fit -= RARER / 2.0;
    }
    if let (Some(told), Some(listed)) = (told.cores, entry.words.cores)
        && told != listed
    {
        fit -= OTHER_MEMORY;
    }
    if entry.words.is_family_but_for_units(told) {
        fit = fit.min(DOUBT);
    }
    (fit >= LEAST).then_some(fit)
}

fn gib(profile: &GpuProfile) -> Option<f64> {
    profile.memory_bytes.map(|bytes| bytes as f64 / 1_073_741_824.0)
}

impl Words {
    /// Entries that share a word with digits.
    fn candidates<'a>(&'a self, index: &'a Index) -> impl Iterator<Item = &'a Entry> {
        // An entry is listed under each of its keys: the first that both share stands for it.
        let listed = self.keys().filter_map(|key| Some((key, index.by_key.get(key)?)));
        listed.flat_map(move |(key, positions)| {
            let entries = positions.iter().filter_map(|position| index.entries.get(*position));
            entries.filter(move |entry| entry.words.keys().find(|word| self.has(word)) == Some(key))
        })
    }
}

#[cfg(test)]
mod tests;
