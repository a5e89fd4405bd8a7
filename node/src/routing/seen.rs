//! What providers are like, by device and region: gathered for whoever asks, and kept nowhere.

use super::Shared;
use crate::clock::now_ms;
use aitbc_protocol::{
    gpu::seen::{Sample, Seen, sum_up},
    offer::DeviceKind,
};
use std::collections::HashMap;

/// Sums up the providers that are known now, each by the device of the first model that it runs itself.
pub(super) fn seen(shared: &Shared) -> Vec<Seen> {
    let now_ms = now_ms();
    let peers = shared.network.peers().borrow().clone();
    let round_trips: HashMap<_, _> =
        peers.iter().filter_map(|peer| Some((peer.peer, peer.round_trip_ms?))).collect();
    let snapshot = shared.book.snapshot();
    let samples = snapshot.offers.iter().filter_map(|known| {
        let own = || known.offer.models.iter().filter(|model| !model.declared);
        let model = own().next()?;
        let there = own().filter(|other| other.device.name == model.device.name);
        let answers = there.flat_map(|other| shared.experience.answers(&known.provider, other.weights, now_ms));
        let answers: Vec<_> = answers.collect();
        let speeds = answers.iter().filter_map(|answer| answer.speed);
        Some(Sample {
            device: model.device.name.as_str(),
            gpu: model.device.kind == DeviceKind::Gpu,
            cell: known.offer.cell,
            round_trip_ms: round_trips.get(&known.provider).copied(),
            first_ms: answers.iter().map(|answer| answer.first_ms).collect(),
            speeds: speeds.map(|speed| f64::from(speed) / 1000.0).collect(),
            up: known.offer.bandwidth.map(|bandwidth| bandwidth.up),
            down: known.offer.bandwidth.map(|bandwidth| bandwidth.down),
        })
    });
    sum_up(samples)
}
