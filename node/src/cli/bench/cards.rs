//! What the GPUs reach, rate by rate, beside what their data sheets say.

use crate::gpu::{
    adapters::Adapter,
    compute::rates::What,
    worker::{self, WorkerError},
};
use aitbc_protocol::gpu::{
    Api, GpuProfile,
    classify::{Classified, Reported, classify},
};
use indicatif::ProgressBar;
use serde_json::{Map, Value, json};
use std::{path::Path, time::Duration};

/// Why no GPU was measured.
#[derive(Debug, thiserror::Error)]
pub(super) enum CardsError {
    /// The drivers could not be asked.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// There is none.
    #[error(
        "no graphics interface reaches a GPU here{}: install its Vulkan driver; `aitbc gpus` says what is found",
        if *.others { " (--software measures the programs that pretend to be one)" } else { "" }
    )]
    None {
        /// Whether other adapters are there.
        others: bool,
    },
}

/// One adapter with what it reached.
#[derive(Debug)]
pub(super) struct Card {
    /// The adapter.
    pub(super) adapter: Adapter,
    rates: Vec<(What, Result<Option<f64>, WorkerError>)>,
}

/// Measures all rates of all GPUs, or of all programs that pretend to be one.
pub(super) async fn measure(binary: &Path, software: bool) -> Result<Vec<Card>, CardsError> {
    let adapters = worker::adapters(binary).await?;
    let mut cards = Vec::new();
    for (index, adapter) in adapters.iter().enumerate() {
        if !wanted(&adapters[..index], adapter, software) {
            continue;
        }
        let bar = ProgressBar::new_spinner();
        bar.enable_steady_tick(Duration::from_millis(100));
        let mut rates = Vec::new();
        for what in What::ALL {
            bar.set_message(format!("measuring {}: {}", adapter.name, what.word()));
            rates.push((what, worker::rate(binary, index, what).await));
        }
        bar.finish_and_clear();
        cards.push(Card { adapter: adapter.clone(), rates });
    }
    if cards.is_empty() { Err(CardsError::None { others: !adapters.is_empty() }) } else { Ok(cards) }
}

/// One interface a GPU is enough: the first that the list has, and OpenGL only where nothing else reaches any card of the
/// vendor, for it tells neither address nor name as others do.
fn wanted(before: &[Adapter], adapter: &Adapter, software: bool) -> bool {
    let same = |other: &Adapter| match adapter.api {
        Api::Gl => other.vendor == adapter.vendor || other.name == adapter.name,
        _ if adapter.address.is_empty() => other.api != adapter.api && other.name == adapter.name,
        _ => other.address == adapter.address,
    };
    adapter.software == software && !before.iter().any(same)
}

impl Card {
    /// One rate, in bytes or operations a second.
    pub(super) fn rate(&self, what: What) -> Option<f64> {
        let found = self.rates.iter().find(|(known, _)| *known == what);
        found.and_then(|(_, rate)| rate.as_ref().ok().copied().flatten())
    }

    /// Whether nothing could be measured.
    pub(super) fn failed(&self) -> bool {
        self.rates.iter().all(|(_, rate)| rate.is_err())
    }

    fn failures(&self) -> impl Iterator<Item = (What, &WorkerError)> {
        self.rates.iter().filter_map(|(what, rate)| Some((*what, rate.as_ref().err()?)))
    }

    fn profile(&self) -> Option<&'static GpuProfile> {
        let Adapter { name, vendor, device, .. } = &self.adapter;
        let pci = u16::try_from(*vendor).ok().zip(u16::try_from(*device).ok());
        match classify(&Reported { name, pci, memory_bytes: None }) {
            Classified::Gpu { best, .. } => Some(best.profile),
            Classified::Software | Classified::Unknown(_) => None,
        }
    }

    /// As JSON.
    pub(super) fn document(&self) -> Value {
        let profile = self.profile();
        let by_name = |of: &dyn Fn(What) -> Option<f64>| -> Map<String, Value> {
            What::ALL.into_iter().map(|what| (what.word().to_owned(), json!(of(what)))).collect()
        };
        let failed: Map<String, Value> =
            self.failures().map(|(what, error)| (what.word().to_owned(), error.to_string().into())).collect();
        let mut document = json!({
            "adapter": self.adapter,
            "rates": by_name(&|what| self.rate(what)),
            "of_data_sheet": by_name(&|what| Some(self.rate(what)? / sheet(what, profile?)?)),
            "profile": profile.map(|profile| profile.name),
            "failed": failed,
        });
        if let Some((_, error)) = self.failures().next().filter(|_| self.failed()) {
            document["error"] = error.to_string().into();
        }
        document
    }

    /// For people.
    pub(super) fn people(&self) {
        let Adapter { name, api, driver, software, .. } = &self.adapter;
        println!("{name} by {} ({driver})", api.word());
        if *software {
            println!("    a program that runs on the CPU: these are the CPU's figures");
        }
        let profile = self.profile();
        for (what, rate) in &self.rates {
            let (label, unit) = label(*what);
            match rate {
                Ok(Some(rate)) => {
                    let part = profile.and_then(|profile| sheet(*what, profile)).map(|sheet| rate / sheet * 100.0);
                    let beside =
                        part.map_or_else(String::new, |part| format!("  {part:.0} % of the data sheet's"));
                    println!("    {label:<10} {:>9.1} {unit}{beside}", rate / 1e9);
                }
                Ok(None) => println!("    {label:<10} it has none"),
                Err(error) => println!("    {label:<10} not measured: {error}"),
            }
        }
    }
}

/// What people read, and the unit of a billion.
fn label(what: What) -> (&'static str, &'static str) {
    match what {
        What::Bandwidth => ("bandwidth", "GB/s"),
        What::RandomReads => ("at random", "GB/s"),
        What::Fp32 => ("fp32", "GFLOPS"),
        What::Fp16 => ("fp16", "GFLOPS"),
        What::Int8 => ("int8", "GOPS"),
    }
}

/// The data sheet's figure; none tells of reads at random.
fn sheet(what: What, profile: &GpuProfile) -> Option<f64> {
    let giga = |rate: f32| f64::from(rate) * 1e9;
    match what {
        What::Bandwidth => profile.bandwidth.map(|rate| rate as f64),
        What::RandomReads => None,
        What::Fp32 => profile.fp32_gflops.map(giga),
        What::Fp16 => profile.fp16_gflops.map(giga),
        What::Int8 => profile.int8_gops.map(giga),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::kept::{measured, tests::adapter};

    #[test]
    fn what_fails_hides_nothing_else() {
        let crash = || Err(WorkerError::Crashed("signal: 11".to_owned()));
        let rates = What::ALL.map(|what| (what, if what == What::Fp16 { crash() } else { Ok(Some(5e11)) }));
        let card = Card { adapter: adapter(), rates: rates.into() };
        let document = card.document();
        assert_eq!(document["rates"]["random_reads"], 5e11);
        assert!(document["rates"]["fp16"].is_null() && document["error"].is_null(), "{document}");
        assert!(document["failed"]["fp16"].as_str().is_some_and(|why| why.contains("crashed")), "{document}");
        assert!(document["of_data_sheet"]["bandwidth"].as_f64().is_some_and(|part| (0.4..0.6).contains(&part)));
        assert!(!card.failed() && measured(|what| card.rate(what), 1).is_ok());
        let rates = What::ALL.map(|what| (what, crash()));
        let broken = Card { adapter: adapter(), rates: rates.into() };
        assert!(broken.failed() && broken.document()["error"].is_string());
        assert_eq!(measured(|what| broken.rate(what), 1), Err(What::Bandwidth));
    }
}
