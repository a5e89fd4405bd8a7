//! What the network shows of GPUs in use: typical latencies, speeds and lines, by model of GPU and region, as one node
//! measured them or was told.

use super::classify::{Classified, Reported, classify};
use crate::geo::Cell;
use serde::Serialize;
use std::collections::BTreeMap;

/// Precision of the cells that are regions: about 1,250 by 625 km.
pub const REGION_PRECISION: u8 = 2;

/// What is known of one provider.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample<'a> {
    /// What it calls the device that its models run on.
    pub device: &'a str,
    /// Whether that is a GPU.
    pub gpu: bool,
    /// Where it is.
    pub cell: Cell,
    /// Measured round trip to it, in milliseconds.
    pub round_trip_ms: Option<f64>,
    /// Time from taking its quote to the first piece of an answer, in milliseconds, of each job of this node's with it.
    pub first_ms: Vec<f64>,
    /// Tokens a second once they came, of each of those jobs.
    pub speeds: Vec<f64>,
    /// What it says went up its line, in bytes a second.
    pub up: Option<u64>,
    /// What it says came down.
    pub down: Option<u64>,
}

/// What one kind of device is like in one region: medians, each `None` where nothing is known.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Seen {
    /// The GPU as the catalogue names it, or what the provider calls a device that the catalogue does not know.
    pub device: String,
    /// The region, a cell of [`REGION_PRECISION`].
    pub region: Cell,
    /// Providers.
    pub providers: usize,
    /// Jobs of this node's with them that are remembered: the latest of a day.
    pub jobs: usize,
    /// Round trip in milliseconds.
    pub round_trip_ms: Option<f64>,
    /// First piece of an answer, in milliseconds.
    pub first_ms: Option<f64>,
    /// Tokens a second.
    pub tokens_per_second: Option<f64>,
    /// Up the line, in bytes a second, by the providers' word.
    pub up: Option<u64>,
    /// Down the line, likewise.
    pub down: Option<u64>,
}

/// Sums up providers by device and region, in the order of their names.
pub fn sum_up<'a>(samples: impl IntoIterator<Item = Sample<'a>>) -> Vec<Seen> {
    let mut groups: BTreeMap<(String, String), (Cell, Vec<Sample<'a>>)> = BTreeMap::new();
    for sample in samples {
        let region = sample.cell.coarsened(sample.cell.precision().min(REGION_PRECISION));
        let key = (name(sample.device, sample.gpu), region.to_string());
        let group = groups.entry(key).or_insert_with(|| (region, Vec::new()));
        group.1.push(sample);
    }
    groups.into_iter().map(|((device, _), (region, samples))| seen(device, region, &samples)).collect()
}

/// What the catalogue calls it. Layers that stay on the processor are told in brackets, and make no other device.
fn name(device: &str, gpu: bool) -> String {
    let bare = device.split(" (").next().unwrap_or(device);
    match classify(&Reported { name: device, pci: None, memory_bytes: None }) {
        Classified::Gpu { best, .. } if gpu => format!("{} {}", best.profile.vendor, best.profile.name),
        _ => bare.to_owned(),
    }
}

fn seen(device: String, region: Cell, samples: &[Sample<'_>]) -> Seen {
    let all = |of: fn(&Sample<'_>) -> Vec<f64>| median(samples.iter().flat_map(of).collect());
    let rate = |of: fn(&Sample<'_>) -> Option<u64>| {
        // Casts of floating point saturate.
        median(samples.iter().filter_map(of).map(|rate| rate as f64).collect()).map(|rate| rate as u64)
    };
    Seen {
        device,
        region,
        providers: samples.len(),
        jobs: samples.iter().map(|sample| sample.first_ms.len()).sum(),
        round_trip_ms: median(samples.iter().filter_map(|sample| sample.round_trip_ms).collect()),
        first_ms: all(|sample| sample.first_ms.clone()),
        tokens_per_second: all(|sample| sample.speeds.clone()),
        up: rate(|sample| sample.up),
        down: rate(|sample| sample.down),
    }
}

/// The middle one, or the lower of the two in the middle; what is no number counts for nothing.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.retain(|value| value.is_finite());
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len().checked_sub(1)? / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample<'a>(
        device: &'a str,
        place: &str,
        round_trip_ms: f64,
        first_ms: &[f64],
        up: Option<u64>,
    ) -> Sample<'a> {
        Sample {
            device,
            gpu: true,
            cell: place.parse().expect("a cell"),
            round_trip_ms: Some(round_trip_ms),
            first_ms: first_ms.to_vec(),
            speeds: first_ms.iter().map(|ms| ms / 10.0).collect(),
            up,
            down: None,
        }
    }

    #[test]
    fn providers_of_one_device_and_region_are_summed_up() {
        let card = "NVIDIA GeForce RTX 4090";
        let seen = sum_up([
            sample(card, "u09t", 30.0, &[200.0], Some(9)),
            sample("NVIDIA GeForce RTX 4090 (5 of 31 layers)", "u0", 10.0, &[100.0, 900.0], Some(7)),
            sample(card, "u09u", f64::NAN, &[], None),
            sample(card, "gcpv", f64::NAN, &[], None),
            Sample { gpu: false, ..sample("GeForce of a processor (8 threads)", "u09t", 1.0, &[], None) },
        ]);
        let places: Vec<_> = seen.iter().map(|one| (one.device.as_str(), one.region.to_string())).collect();
        assert_eq!(places, [("GeForce of a processor", "u0".into()), (card, "gc".into()), (card, "u0".into())]);
        let paris = &seen[2];
        assert_eq!((paris.providers, paris.jobs, paris.round_trip_ms), (3, 3, Some(10.0)));
        assert_eq!((paris.first_ms, paris.tokens_per_second), (Some(200.0), Some(20.0)));
        assert_eq!((paris.up, paris.down), (Some(7), None));
        assert_eq!((seen[1].round_trip_ms, seen[1].jobs), (None, 0));
    }
}
