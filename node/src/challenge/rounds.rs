//! Challenges others without being asked: one provider a slot at most, and only one that has shown nothing lately. What it
//! shows goes into its offer, so that hardly anybody else asks the same day.

use super::Challenger;
use crate::{clock::now_ms, routing::Routing};
use aitbc_protocol::{
    NodeId, UnixMillis,
    geo::Cell,
    gpu::challenge::exchange::{SHOWN_LIFETIME_MS, Slots},
    offer::{DeviceKind, KnownOffer},
};
use rand::seq::IteratorRandom as _;
use std::{collections::HashMap, time::Duration};
use tokio::{sync::mpsc, time::sleep};

/// A provider that was asked is not asked again for as long, whatever came of it, in milliseconds.
const AGAIN_MS: u64 = SHOWN_LIFETIME_MS / 4;
/// What was shown is shown anew when less than this is left of its time, in milliseconds.
const RENEW_MS: u64 = SHOWN_LIFETIME_MS / 5;
/// Once in so many times the word of others counts for nothing: anybody can have a friend sign.
const DOUBTS: u32 = 8;
/// Providers remembered.
const MOST: usize = 4096;

/// Goes on for as long as it is polled.
pub(super) async fn run(challenger: Challenger, routing: Routing, slots: Slots) {
    let mut asked: HashMap<NodeId, UnixMillis> = HashMap::new();
    loop {
        // Whoever else has heard of the same offer waits for another while.
        sleep(Duration::from_millis(rand::random_range(slots.every_ms / 2..slots.every_ms * 3 / 2))).await;
        let now = now_ms();
        asked.retain(|_, at| at.saturating_add(AGAIN_MS) > now);
        let snapshot = routing.offers();
        let doubts = rand::random_range(0..DOUBTS) == 0;
        let trusted = |signer: NodeId| signer == challenger.id() || !doubts;
        let waiting = snapshot.offers.iter().filter_map(|known| due(known, now, trusted));
        let chosen = waiting.filter(|(peer, _)| !asked.contains_key(peer)).choose(&mut rand::rng());
        let Some((peer, cell)) = chosen.filter(|_| asked.len() < MOST) else { continue };
        asked.insert(peer, now);
        let (progress, _nobody) = mpsc::channel(1);
        match challenger.challenge(peer, cell, &progress).await {
            Ok(finding) => {
                tracing::info!(peer = %peer.short(), ?finding, "challenged");
                if let Some(shown) = finding.verdict() {
                    routing.found(peer, shown);
                }
                if let Some(evidence) = finding.evidence() {
                    routing.accuse(evidence);
                }
            }
            // It says nothing about the peer's memory.
            Err(error) => tracing::debug!(peer = %peer.short(), %error, "not challenged"),
        }
    }
}

/// Who should show its memory, and the cell it tells: who offers a GPU, and has nothing from anybody `trusted` that will stand
/// for long.
fn due(known: &KnownOffer, now_ms: UnixMillis, trusted: impl Fn(NodeId) -> bool) -> Option<(NodeId, Cell)> {
    let offer = &known.offer;
    let gpu = offer.models.iter().any(|model| model.device.kind == DeviceKind::Gpu && !model.declared);
    let shown = offer
        .shown
        .iter()
        .filter(|shown| trusted(shown.signer()))
        .filter_map(|shown| shown.read_unverified().ok());
    let fresh = shown.filter(|shown| shown.stands(now_ms) && !shown.simulated);
    let lasts = fresh.map(|shown| shown.expires_ms.saturating_sub(now_ms)).max().unwrap_or_default();
    let free = known.load.running == 0 && known.load.queued == 0;
    (gpu && free && lasts < RENEW_MS).then_some((known.provider, offer.cell))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aitbc_crypto::{SecretKey, seal};
    use aitbc_protocol::{
        Digest, MicroCredits, NetworkId,
        gpu::challenge::exchange::Shown,
        offer::{Device, Engine, Load, ModelOffer, Offer},
        price::TokenPrice,
        text::Line,
    };

    const NOW: UnixMillis = 1_800_000_000_000;

    fn known(kind: DeviceKind, shown: &[(u64, bool)]) -> KnownOffer {
        let (key, network) = (SecretKey::from_bytes(&[1; 32]), NetworkId::new("main").expect("a name"));
        let device = Device { kind, name: Line::lossy("a card"), memory_bytes: 8 << 30, measured: None };
        let seal = |&(left_ms, simulated): &(u64, bool)| {
            let expires_ms = NOW + left_ms;
            let issued_ms = expires_ms - SHOWN_LIFETIME_MS;
            let device = Line::lossy("a card");
            let bytes = 1;
            let shown = Shown { prover: key.node_id(), device, bytes, rate: 1, simulated, issued_ms, expires_ms };
            seal(&key, &network, &shown).expect("it fits")
        };
        let model = ModelOffer {
            model: Line::lossy("m"),
            weights: Digest([0; 32]),
            engine: Engine { name: Line::lossy("llama.cpp"), version: Line::lossy("1") },
            quantisation: Line::lossy("Q4_1"),
            device: device.clone(),
            context: 512,
            price: TokenPrice { prompt: MicroCredits(1), completion: MicroCredits(1) },
            speed: 1,
            declared: false,
            private: None,
        };
        let offer = Offer {
            sequence: 1,
            issued_ms: NOW,
            expires_ms: NOW,
            cell: "u09t".parse().expect("a cell"),
            addresses: Vec::new(),
            devices: vec![device],
            models: vec![model],
            slots: 1,
            attested: Vec::new(),
            policies: Vec::new(),
            shown: shown.iter().map(seal).collect(),
            bandwidth: None,
            coordinate: None,
            agent: Line::lossy("aitbc"),
        };
        KnownOffer { provider: key.node_id(), offer: offer.into(), load: Load::default(), heard_ms: NOW }
    }

    #[test]
    fn whoever_offers_a_gpu_and_has_shown_nothing_lately_is_due() {
        let day = SHOWN_LIFETIME_MS;
        assert!(due(&known(DeviceKind::Gpu, &[]), NOW, |_| true).is_some());
        assert!(due(&known(DeviceKind::Cpu, &[]), NOW, |_| true).is_none());
        assert!(due(&known(DeviceKind::Upstream, &[]), NOW, |_| true).is_none());
        assert!(due(&known(DeviceKind::Gpu, &[(day, false)]), NOW, |_| true).is_none());
        assert!(
            due(&known(DeviceKind::Gpu, &[(day, true)]), NOW, |_| true).is_some(),
            "what is simulated shows nothing"
        );
        assert!(due(&known(DeviceKind::Gpu, &[(RENEW_MS - 1, false)]), NOW, |_| true).is_some());
        assert!(due(&known(DeviceKind::Gpu, &[(1, false), (day / 2, false)]), NOW, |_| true).is_none());
        assert!(
            due(&known(DeviceKind::Gpu, &[(day, false)]), NOW, |_| false).is_some(),
            "whose word does not count"
        );
        let busy = KnownOffer { load: Load { running: 1, queued: 0 }, ..known(DeviceKind::Gpu, &[]) };
        assert!(due(&busy, NOW, |_| true).is_none(), "it would refuse");
    }
}
